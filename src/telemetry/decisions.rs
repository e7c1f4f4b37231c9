//! What became of the last calls, and why: in memory, of bounded number and size, for `ocx explain`.
//! No secret is in it, and nothing of a prompt but what an upstream quotes in an error.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::ledger::Tokens;

/// Calls that are remembered.
const MAX_CALLS: usize = 2_000;
/// Steps of one call that are.
const MAX_STEPS: usize = 16;
/// Longest text in a step, in characters: upstreams' words are among them.
const MAX_TEXT: usize = 300;

/// One call, from its route to its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// The ids that its caller may know it by: that of the request, ours and the upstream's of the response.
    pub ids: Vec<String>,
    /// When it was over, in seconds since 1970.
    pub at: f64,
    /// The protocol of the caller.
    pub protocol: &'static str,
    /// The model, as the caller named it.
    pub asked: String,
    /// Which rule of routing led to its provider.
    pub rule: &'static str,
    /// Who answered, or was asked last; `none` if no rule fits.
    pub provider: String,
    /// The model, as the provider names it.
    pub model: String,
    /// The generation of the config that it ran on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What was tried, in order.
    pub steps: Vec<Step>,
    /// Tries beyond those, of which nothing is remembered.
    pub left_out: usize,
    /// What the translation could not carry, by kind.
    pub losses: Vec<(&'static str, u32)>,
    /// The label of `ocx_requests_total`.
    pub outcome: &'static str,
    /// How a stream ended: the reason of `ocx_stream_terminations_total`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination: Option<&'static str>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether the answer was to be a stream.
    pub stream: bool,
    /// From the call to when its body was read.
    pub body_ms: u64,
    /// From the call to the first piece of its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<u64>,
    /// From the call to the end of its answer.
    pub duration_ms: u64,
    /// What it used, if the upstream told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Tokens>,
}

/// One try at one provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The provider.
    pub provider: String,
    /// The model, as it names it.
    pub model: String,
    /// What it was asked with; nothing if it lent nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// When it began, from the beginning of the call.
    pub after_ms: u64,
    /// How long it took till it failed, or till its answer began.
    pub took_ms: u64,
    /// What came of it; empty while it is waited for.
    pub result: String,
    /// What was done next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub then: Option<String>,
}

/// What a call tells of itself while it runs, outside of its future, which may be dropped at any moment.
#[derive(Debug)]
pub struct Notes {
    began: Instant,
    rule: Cell<&'static str>,
    asked: RefCell<String>,
    steps: RefCell<Vec<Step>>,
    left_out: Cell<usize>,
}

/// All of it, at the end.
#[derive(Debug, Default)]
pub struct Noted {
    /// The model, as the caller named it.
    pub asked: String,
    /// Which rule of routing led to the first provider, or why none did.
    pub rule: &'static str,
    /// What was tried.
    pub steps: Vec<Step>,
    /// How many tries are not among them.
    pub left_out: usize,
}

impl Default for Notes {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            rule: Cell::new(""),
            asked: RefCell::default(),
            steps: RefCell::default(),
            left_out: Cell::new(0),
        }
    }
}

impl Notes {
    /// The model as the caller named it, and the rule that found its provider, or why there is none.
    pub fn routed(&self, asked: String, rule: &'static str) {
        self.asked.replace(asked);
        self.rule.set(rule);
    }

    /// A provider is tried.
    pub fn tries(&self, provider: &str, model: &str) {
        let mut steps = self.steps.borrow_mut();
        if steps.len() < MAX_STEPS {
            let (provider, model) = (provider.to_owned(), super::ledger::model_name(model));
            let after_ms = millis(self.began.elapsed());
            steps.push(Step { provider, model, after_ms, ..Step::default() });
        } else {
            self.left_out.set(self.left_out.get() + 1);
        }
    }

    /// With what.
    pub fn with(&self, credential: String) {
        self.last(|step| step.credential = Some(credential));
    }

    /// What came of it.
    pub fn came(&self, result: &str) {
        let now = millis(self.began.elapsed());
        self.last(|step| {
            step.took_ms = now.saturating_sub(step.after_ms);
            step.result = result.chars().take(MAX_TEXT).collect();
        });
    }

    /// What is done next.
    pub fn then(&self, next: String) {
        self.last(|step| step.then = Some(next));
    }

    fn last(&self, change: impl FnOnce(&mut Step)) {
        // What is said of a try that is left out is said of no other.
        if self.left_out.get() == 0
            && let Some(step) = self.steps.borrow_mut().last_mut()
        {
            change(step);
        }
    }

    /// Takes all of it.
    pub fn taken(&self) -> Noted {
        Noted {
            asked: self.asked.take(),
            rule: self.rule.take(),
            steps: self.steps.take(),
            left_out: self.left_out.take(),
        }
    }
}

/// The last calls.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<VecDeque<Arc<Decision>>>);

impl Decisions {
    /// Remembers a call.
    pub fn keep(&self, decision: Decision) {
        let decision = Arc::new(decision);
        let oldest = {
            let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = if calls.len() >= MAX_CALLS { calls.pop_front() } else { None };
            calls.push_back(decision);
            oldest
        };
        // Freed when nobody waits.
        drop(oldest);
    }

    /// The call of an id.
    pub fn find(&self, id: &str) -> Option<Arc<Decision>> {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().rev().find(|call| call.ids.iter().any(|known| known == id)).cloned()
    }

    /// So many of the last calls, the newest first.
    pub fn last(&self, count: usize) -> Vec<Arc<Decision>> {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().rev().take(count).cloned().collect()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(id: &str) -> Decision {
        let notes = Notes::default();
        notes.routed("best".into(), "a rule");
        notes.tries("p", "m");
        notes.with("key 1 of 2".into());
        notes.came(&"x".repeat(2 * MAX_TEXT));
        notes.then("the next key".into());
        (0..2 * MAX_STEPS).for_each(|_| notes.tries("q", "m"));
        notes.came("answered");
        let Noted { asked, rule, steps, left_out } = notes.taken();
        Decision {
            ids: vec![id.to_owned()],
            at: 0.0,
            protocol: "responses",
            asked,
            rule,
            provider: "p".into(),
            model: "m".into(),
            generation: Some(1),
            steps,
            left_out,
            losses: Vec::new(),
            outcome: "ok",
            termination: None,
            error: None,
            stream: false,
            body_ms: 0,
            first_token_ms: None,
            duration_ms: 0,
            usage: None,
        }
    }

    #[test]
    fn the_last_calls_are_known_by_their_ids_and_all_of_it_is_bounded() {
        let decisions = Decisions::default();
        (0..=MAX_CALLS).for_each(|n| decisions.keep(decision(&n.to_string())));
        assert!(decisions.find("0").is_none() && decisions.find("1").is_some());
        let last = decisions.last(2);
        let newest = [MAX_CALLS.to_string(), (MAX_CALLS - 1).to_string()];
        assert_eq!([&last[0].ids[0], &last[1].ids[0]], [&newest[0], &newest[1]]);
        let steps = &last[0].steps;
        assert_eq!((steps.len(), last[0].left_out), (MAX_STEPS, MAX_STEPS + 1));
        assert_eq!(steps[MAX_STEPS - 1].result, "", "what comes later is said of no other try");
        assert_eq!(steps[0].result.len(), MAX_TEXT);
        assert_eq!((last[0].asked.as_str(), last[0].rule), ("best", "a rule"));
    }
}
