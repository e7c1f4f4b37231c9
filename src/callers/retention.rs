//! The bound on the text and arguments that one answer makes us hold. Signatures, redacted blocks and
//! ids are not counted yet.

use super::Failure;
use crate::model::Event;

/// Counts the bytes held for an answer.
#[derive(Debug)]
pub(super) struct Retention {
    held: usize,
    limit: usize,
}

impl Retention {
    pub fn new(limit: usize) -> Self {
        Self { held: 0, limit }
    }

    /// Takes what an event brings into account.
    pub fn hold(&mut self, event: &Event) -> Result<(), Failure> {
        match event {
            Event::TextDelta(text) | Event::ReasoningDelta(text) => self.add(text.len()),
            Event::CallDelta { arguments, .. } => self.add(arguments.len()),
            Event::State(state) => self.add(state.text.len()),
            _ => Ok(()),
        }
    }

    /// Takes `bytes` more into account.
    pub fn add(&mut self, bytes: usize) -> Result<(), Failure> {
        self.held += bytes;
        if self.held > self.limit {
            let message = format!("the answer is longer than {} bytes", self.limit);
            return Err(Failure::answer("answer_too_long", message));
        }
        Ok(())
    }
}
