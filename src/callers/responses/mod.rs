//! OpenAI Responses, which Codex speaks.
//!
//! [`parse`] turns a body into a [`Call`](super::Call); [`Emitter`] turns the events of an answer into a stream
//! or a document.

mod emit;
mod frames;
mod items;
mod parse;
mod request;

pub use emit::Emitter;
pub use parse::parse;
