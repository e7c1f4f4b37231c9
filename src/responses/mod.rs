//! The caller's protocol: OpenAI Responses in, Responses out.
//!
//! [`parse`] turns a body into a [`Call`]; [`Emitter`] turns the events of an answer into a stream
//! or a document.

mod arguments;
mod emit;
mod failure;
mod frames;
mod items;
mod parse;
mod request;
mod sequence;
mod tools;

pub use emit::{Delivery, Emitter, EmitterSettings, KeepaliveStyle, Terminal};
pub use failure::Failure;
pub use parse::{Call, ParseError, parse};
