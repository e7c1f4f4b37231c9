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
    /// What the last piece of text was, if it was one: another kind begins another item.
    last: Option<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Reasoning,
}

impl Retention {
    pub fn new(limit: usize) -> Self {
        Self { held: 0, limit, last: None }
    }

    /// Takes what an event brings into account.
    pub fn hold(&mut self, event: &Event) -> Result<(), Failure> {
        let kind = match event {
            Event::TextDelta(_) => Some(Kind::Text),
            Event::ReasoningDelta(_) => Some(Kind::Reasoning),
            _ => None,
        };
        if kind != self.last && kind.is_some() {
            self.add(PER_ITEM)?;
        }
        self.last = kind;
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
