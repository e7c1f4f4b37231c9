//! What a turn has cost so far, kept outside of its future: a caller that leaves drops that at any
//! moment, and what was sent by then was sent.

use std::{
    cell::{Cell, OnceCell},
    sync::Arc,
};

use super::{Telemetry, decisions::Notes, ledger::TurnId};
use crate::model::{Event, Usage};

/// The requests of a turn, and what they used.
pub struct Tally {
    telemetry: Arc<Telemetry>,
    requests: Cell<u32>,
    /// Requests that may have used tokens.
    open: Cell<u32>,
    usage: Cell<Option<Usage>>,
    /// What the ledger calls the turn, once something was sent.
    turn: OnceCell<TurnId>,
    /// What was tried, and why.
    pub notes: Notes,
}

impl Tally {
    /// Of a turn that begins.
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        Self {
            telemetry,
            requests: Cell::new(0),
            open: Cell::new(0),
            usage: Cell::new(None),
            turn: OnceCell::new(),
            notes: Notes::default(),
        }
    }

    /// A request goes out, which may be billed from now on.
    pub fn sent(&self, provider: &str, model: &str) {
        self.requests.set(self.requests.get() + 1);
        self.open.set(self.open.get() + 1);
        self.turn.get_or_init(|| self.telemetry.ledger.begin(provider, model));
    }

    /// The last request was refused, or did not arrive: it used nothing.
    pub fn used_nothing(&self) {
        self.open.set(self.open.get().saturating_sub(1));
    }

    /// Takes from events what they tell of usage.
    pub fn told(&self, events: &[Event]) {
        for event in events {
            if let Event::Usage(usage) = event {
                self.usage.set(Some(*usage));
            }
        }
    }

    /// Requests that were made.
    pub fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// Whether any of them may have used tokens.
    pub fn is_open(&self) -> bool {
        self.open.get() > 0
    }

    /// What was told.
    pub fn usage(&self) -> Option<Usage> {
        self.usage.get()
    }

    /// What the ledger calls the turn, if something was sent.
    pub fn turn(&self) -> Option<&TurnId> {
        self.turn.get()
    }
}
