//! OpenAI Chat Completions, which most SDKs and agents speak.

mod emit;
mod parse;

pub use emit::Emitter;
pub use parse::parse;
