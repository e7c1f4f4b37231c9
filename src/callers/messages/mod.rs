//! Anthropic Messages, which Claude Code and Anthropic's SDKs speak.

mod emit;
mod parse;

pub use emit::{Emitter, error_document};
pub use parse::parse;
