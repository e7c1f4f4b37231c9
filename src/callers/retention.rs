//! The bound on what one answer makes us hold.

use super::Failure;
use crate::model::Event;

/// What an item costs beside its texts: its own record, ids that we mint, list slots.
const PER_ITEM: usize = 256;

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
            Event::State(state) => {
                let opaque = [&state.signature, &state.redacted].into_iter().flatten();
                self.add(PER_ITEM + state.text.len() + opaque.map(String::len).sum::<usize>())
            }
            Event::CallStarted { call_id, name, .. } => {
                self.add(PER_ITEM + call_id.len() + name.len())
            }
            Event::StopSequence(text) => self.add(text.len()),
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
