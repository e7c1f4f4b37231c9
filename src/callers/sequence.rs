//! Events that may interleave → pieces of one item at a time.
//!
//! A Responses stream has one item open at once, and a client may run a tool as soon as the call's
//! item is done. So the first call streams, and whatever comes for others waits until it has ended.

use std::collections::VecDeque;

use super::arguments::may_be_none;
use crate::model::{CallKey, Event, ReasoningState};

/// A piece of the item that is open, or the begin or end of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Reasoning(String),
    State(ReasoningState),
    CallStart { call_id: String, name: String },
    CallDelta(String),
    CallEnd,
}

/// Puts pieces into order.
#[derive(Debug, Default)]
pub(super) struct Sequencer {
    open: Option<CallKey>,
    /// The beginning of the open call's arguments, as long as it may be all of `null`: no arguments,
    /// which callers are not told as such.
    held: String,
    /// Some of its arguments are out.
    streams: bool,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
enum Waiting {
    Text(String),
    Reasoning(String),
    State(ReasoningState),
    Call { call: CallKey, call_id: String, name: String, arguments: String, ended: bool },
}

impl Sequencer {
    /// Takes an event that is a piece of an item; any other says nothing here.
    pub fn take(&mut self, event: Event, out: &mut Vec<Piece>) {
        match event {
            Event::TextDelta(delta) => self.text(delta, out),
            Event::ReasoningDelta(delta) => self.reasoning(delta, out),
            Event::State(state) => self.state(state, out),
            Event::CallStarted { call, call_id, name } => {
                self.call_started(call, call_id, name, out);
            }
            Event::CallDelta { call, arguments } => self.call_delta(call, arguments, out),
            Event::CallEnded { call } => self.call_ended(call, out),
            Event::Usage(_)
            | Event::StopSequence(_)
            | Event::Verbatim(_)
            | Event::Document(_)
            | Event::Finished(_) => {}
        }
    }

    fn text(&mut self, delta: String, out: &mut Vec<Piece>) {
        if self.open.is_none() {
            return out.push(Piece::Text(delta));
        }
        match self.waiting.back_mut() {
            Some(Waiting::Text(text)) => text.push_str(&delta),
            _ => self.waiting.push_back(Waiting::Text(delta)),
        }
    }

    fn reasoning(&mut self, delta: String, out: &mut Vec<Piece>) {
        if self.open.is_none() {
            return out.push(Piece::Reasoning(delta));
        }
        match self.waiting.back_mut() {
            Some(Waiting::Reasoning(text)) => text.push_str(&delta),
            _ => self.waiting.push_back(Waiting::Reasoning(delta)),
        }
    }

    fn state(&mut self, state: ReasoningState, out: &mut Vec<Piece>) {
        if self.open.is_none() {
            return out.push(Piece::State(state));
        }
        self.waiting.push_back(Waiting::State(state));
    }

    fn call_started(&mut self, call: CallKey, call_id: String, name: String, out: &mut Vec<Piece>) {
        if self.open.is_none() {
            self.open = Some(call);
            return out.push(Piece::CallStart { call_id, name });
        }
        let arguments = String::new();
        self.waiting.push_back(Waiting::Call { call, call_id, name, arguments, ended: false });
    }

    fn call_delta(&mut self, call: CallKey, delta: String, out: &mut Vec<Piece>) {
        if self.open == Some(call) {
            return self.open_delta(delta, out);
        }
        if let Some((arguments, _)) = self.waiting_call(call) {
            arguments.push_str(&delta);
        }
    }

    fn open_delta(&mut self, delta: String, out: &mut Vec<Piece>) {
        let delta =
            if self.held.is_empty() { delta } else { std::mem::take(&mut self.held) + &delta };
        if !self.streams && may_be_none(&delta) {
            self.held = delta;
        } else {
            self.streams = true;
            out.push(Piece::CallDelta(delta));
        }
    }

    fn end_open(&mut self, out: &mut Vec<Piece>) {
        let held = std::mem::take(&mut self.held);
        if !matches!(held.trim(), "" | "null") {
            out.push(Piece::CallDelta(held));
        }
        self.streams = false;
        out.push(Piece::CallEnd);
    }

    fn call_ended(&mut self, call: CallKey, out: &mut Vec<Piece>) {
        if self.open != Some(call) {
            if let Some((_, ended)) = self.waiting_call(call) {
                *ended = true;
            }
            return;
        }
        self.open = None;
        self.end_open(out);
        self.release(out);
    }

    /// Whether a call has begun and not ended.
    pub fn has_open_call(&self) -> bool {
        self.open.is_some()
    }

    fn waiting_call(&mut self, wanted: CallKey) -> Option<(&mut String, &mut bool)> {
        self.waiting.iter_mut().find_map(|waiting| match waiting {
            Waiting::Call { call, arguments, ended, .. } if *call == wanted => {
                Some((arguments, ended))
            }
            _ => None,
        })
    }

    fn release(&mut self, out: &mut Vec<Piece>) {
        while self.open.is_none()
            && let Some(next) = self.waiting.pop_front()
        {
            match next {
                Waiting::Text(text) => out.push(Piece::Text(text)),
                Waiting::Reasoning(text) => out.push(Piece::Reasoning(text)),
                Waiting::State(state) => out.push(Piece::State(state)),
                Waiting::Call { call, call_id, name, arguments, ended } => {
                    out.push(Piece::CallStart { call_id, name });
                    self.open_delta(arguments, out);
                    if ended {
                        self.end_open(out);
                    } else {
                        self.open = Some(call);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_calls_come_out_one_after_the_other() {
        let (mut sequencer, mut out) = (Sequencer::default(), Vec::new());
        sequencer.text("a".into(), &mut out);
        sequencer.call_started(0, "c0".into(), "f".into(), &mut out);
        sequencer.call_started(1, "c1".into(), "g".into(), &mut out);
        sequencer.call_delta(1, "{\"g\":".into(), &mut out);
        sequencer.call_delta(0, "{}".into(), &mut out);
        sequencer.text("b".into(), &mut out);
        sequencer.call_delta(1, "1}".into(), &mut out);
        sequencer.call_ended(1, &mut out);
        sequencer.call_ended(0, &mut out);
        sequencer.call_delta(7, "for a call that never was".into(), &mut out);
        let start =
            |id: &str, name: &str| Piece::CallStart { call_id: id.into(), name: name.into() };
        assert_eq!(
            out,
            [
                Piece::Text("a".into()),
                start("c0", "f"),
                Piece::CallDelta("{}".into()),
                Piece::CallEnd,
                start("c1", "g"),
                Piece::CallDelta("{\"g\":1}".into()),
                Piece::CallEnd,
                Piece::Text("b".into()),
            ]
        );
        assert!(!sequencer.has_open_call());
    }

    #[test]
    fn arguments_that_are_null_are_none() {
        let run = |deltas: &[&str]| {
            let (mut sequencer, mut out) = (Sequencer::default(), Vec::new());
            sequencer.call_started(0, "c".into(), "f".into(), &mut out);
            for delta in deltas {
                sequencer.call_delta(0, (*delta).into(), &mut out);
            }
            sequencer.call_ended(0, &mut out);
            out.into_iter()
                .filter_map(|piece| match piece {
                    Piece::CallDelta(delta) => Some(delta),
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
        assert!(run(&["nu", "ll"]).is_empty() && run(&[" "]).is_empty());
        assert_eq!(run(&["n", "o"]), ["no"]);
        assert_eq!(run(&[" ", "{", "null", "}"]), [" {", "null", "}"]);
        assert_eq!(run(&["nul"]), ["nul"], "what is cut is told, and is malformed then");
    }
}
