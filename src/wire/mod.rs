//! Bytes ↔ frames, for every protocol we speak.

pub mod compaction;
pub mod json;
pub mod pointer;
pub mod sse;
