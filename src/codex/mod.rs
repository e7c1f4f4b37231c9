//! What the Codex CLI itself reads and writes.

pub mod catalog;
