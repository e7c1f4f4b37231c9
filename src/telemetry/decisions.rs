//! What became of the last calls, and why: in memory, of bounded number and size, for `ocx explain`.
//! No secret is in it, and nothing of a prompt but what an upstream quotes in an error.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    num::NonZero,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use serde::{Serialize, Serializer};

use super::{
    ledger::{Tokens, model_name},
    millis,
};
use crate::model::{ModelId, ProviderId};

/// Calls that each worker remembers.
const MAX_CALLS: usize = 1_000;
/// Steps of one call that are.
const MAX_STEPS: usize = 16;
/// Longest text in a step, in characters: upstreams' words are among them.
const MAX_TEXT: usize = 300;
/// Names of a response: ours, and the upstream's of it and of its request.
const MAX_NAMES: usize = 3;
/// Longest of them, in bytes.
const MAX_NAME: usize = 200;

/// What a call may be asked for by. Written as a list of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallIds {
    request: u128,
    response: [Option<Box<str>>; MAX_NAMES],
}

impl CallIds {
    /// Of a new call.
    pub fn new(request: u128) -> Self {
        Self { request, response: Default::default() }
    }

    /// That of the call itself, `req_` and 32 hexadecimal digits: known before there is a response.
    pub fn request(&self) -> String {
        format!("req_{:032x}", self.request)
    }

    /// Its response has this id, too.
    pub fn add(&mut self, response: &str) {
        if let Some(free) = self.response.iter_mut().find(|name| name.is_none())
            && response.len() <= MAX_NAME
        {
            *free = Some(response.into());
        }
    }

    fn are(&self, id: &str) -> bool {
        self.response.iter().flatten().any(|known| **known == *id) || self.request() == id
    }
}

impl Serialize for CallIds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let request = self.request();
        let response = self.response.iter().flatten().map(|name| &**name);
        serializer.collect_seq([&*request].into_iter().chain(response))
    }
}

/// What a provider was asked with, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum With {
    /// Nothing: it wants no key, or none is set.
    Nothing,
    /// Its key: which one, from 1, and of how many.
    Key(usize, usize),
    /// The caller's own login.
    Caller,
    /// An account that is logged in.
    Account(Arc<str>),
}

impl fmt::Display for With {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("no key"),
            Self::Key(_, 1) => f.write_str("its key"),
            Self::Key(which, of) => write!(f, "key {which} of {of}"),
            Self::Caller => f.write_str("the caller's own login"),
            Self::Account(name) => write!(f, "the account {name}"),
        }
    }
}

impl Serialize for With {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One call, from its route to its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// What its caller may know it by.
    pub ids: CallIds,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The provider.
    pub provider: ProviderId,
    /// The model, as it names it.
    pub model: ModelId,
    /// What it was asked with; absent if it lent nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<With>,
    /// When it began, from the beginning of the call.
    pub after_ms: u64,
    /// How long it took till it failed, or till its answer began.
    pub took_ms: u64,
    /// What came of it; empty while it is waited for.
    pub result: Cow<'static, str>,
    /// What was done next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub then: Option<Cow<'static, str>>,
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
    pub fn tries(&self, provider: &ProviderId, model: &ModelId) {
        let mut steps = self.steps.borrow_mut();
        if steps.len() >= MAX_STEPS {
            self.left_out.set(self.left_out.get() + 1);
            return;
        }
        // Most calls have one. What is kept of many is to be small.
        steps.reserve_exact(1);
        // Callers may name any; what is kept is short, and mostly shared.
        let short = model.as_str().len() <= MAX_NAME;
        steps.push(Step {
            provider: provider.clone(),
            model: if short { model.clone() } else { model_name(model.as_str()).into() },
            credential: None,
            after_ms: millis(self.began.elapsed()),
            took_ms: 0,
            result: Cow::Borrowed(""),
            then: None,
        });
    }

    /// With what.
    pub fn with(&self, credential: With) {
        self.last(|step| step.credential = Some(credential));
    }

    /// What came of it.
    pub fn came(&self, result: impl Into<Cow<'static, str>>) {
        let (now, result) = (millis(self.began.elapsed()), result.into());
        self.last(|step| {
            step.took_ms = now.saturating_sub(step.after_ms);
            step.result = match result.char_indices().nth(MAX_TEXT) {
                Some((end, _)) => result[..end].to_owned().into(),
                None => result,
            };
        });
    }

    /// What is done next.
    pub fn then(&self, next: impl Into<Cow<'static, str>>) {
        self.last(|step| step.then = Some(next.into()));
    }

    fn last(&self, change: impl FnOnce(&mut Step)) {
        // What is said of a try that is left out is said of no other.
        if self.left_out.get() == 0
            && let Some(step) = self.steps.borrow_mut().last_mut()
        {
            change(step);
        }
    }

    /// Takes all of it. A try without a result took till now.
    pub fn taken(&self) -> Noted {
        let now = millis(self.began.elapsed());
        self.last(|step| {
            if step.result.is_empty() {
                step.took_ms = now.saturating_sub(step.after_ms);
            }
        });
        Noted {
            asked: self.asked.take(),
            rule: self.rule.take(),
            steps: self.steps.take(),
            left_out: self.left_out.take(),
        }
    }
}

/// The last calls of each worker. They have a place of their own each, so that none waits for another,
/// and what is forgotten is freed where it was made.
#[derive(Debug)]
pub struct Decisions(Vec<Mutex<VecDeque<Decision>>>);

impl Default for Decisions {
    fn default() -> Self {
        Self::of(thread::available_parallelism().map_or(1, NonZero::get))
    }
}

impl Decisions {
    /// Of so many workers.
    pub fn of(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Mutex::default()).collect())
    }

    /// Remembers a call, on the thread that answered it.
    pub fn keep(&self, decision: Decision) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static OWN: usize = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        let Some(place) = self.0.get(OWN.with(|own| *own) % self.0.len()) else { return };
        let mut calls = locked(place);
        if calls.len() >= MAX_CALLS {
            calls.pop_front();
        }
        calls.push_back(decision);
    }

    /// The call of an id; the last one, if an upstream gave it twice.
    pub fn find(&self, id: &str) -> Option<Decision> {
        let newest = |place| locked(place).iter().rev().find(|call| call.ids.are(id)).cloned();
        let found = self.0.iter().filter_map(newest);
        found.max_by(|one, other| one.at.total_cmp(&other.at))
    }

    /// So many of the last calls, the newest first.
    pub fn last(&self, count: usize) -> Vec<Decision> {
        let newest = |place| locked(place).iter().rev().take(count).cloned().collect::<Vec<_>>();
        let mut calls: Vec<Decision> = self.0.iter().flat_map(newest).collect();
        calls.sort_by(|one, other| other.at.total_cmp(&one.at));
        calls.truncate(count);
        calls
    }
}

fn locked(place: &Mutex<VecDeque<Decision>>) -> MutexGuard<'_, VecDeque<Decision>> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(n: u32) -> Decision {
        let notes = Notes::default();
        notes.routed("best".into(), "a rule");
        notes.tries(&"p".into(), &"m".into());
        notes.with(With::Key(1, 2));
        notes.came("ü".repeat(2 * MAX_TEXT));
        notes.then("the next key");
        (0..2 * MAX_STEPS)
            .for_each(|_| notes.tries(&"q".into(), &"m".repeat(1000).as_str().into()));
        notes.came("answered");
        let Noted { asked, rule, steps, left_out } = notes.taken();
        let mut ids = CallIds::new(n.into());
        ids.add(&format!("resp_{n}"));
        ids.add(&"long".repeat(MAX_NAME));
        Decision {
            ids,
            at: n.into(),
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
        let most = u32::try_from(MAX_CALLS).unwrap();
        (0..=most).for_each(|n| decisions.keep(decision(n)));
        assert!(decisions.find("resp_0").is_none() && decisions.find("resp_1").is_some());
        let last = decisions.last(2);
        let requests = [last[0].ids.request(), last[1].ids.request()];
        assert_eq!(requests, [format!("req_{most:032x}"), format!("req_{:032x}", most - 1)]);
        assert!(requests.iter().all(|id| decisions.find(id).is_some()));
        let written = serde_json::to_value(&last[0]).unwrap();
        assert_eq!(written["ids"], serde_json::json!([requests[0], format!("resp_{most}")]));
        assert_eq!(written["steps"][0]["credential"], "key 1 of 2");
        let steps = &last[0].steps;
        assert_eq!((steps.len(), last[0].left_out), (MAX_STEPS, MAX_STEPS + 1));
        assert_eq!(steps[MAX_STEPS - 1].result, "", "what comes later is said of no other try");
        assert_eq!(steps[0].result.chars().count(), MAX_TEXT);
        assert!(steps[1].model.as_str().len() < 300);
        assert_eq!((last[0].asked.as_str(), last[0].rule), ("best", "a rule"));
    }

    #[test]
    fn a_try_that_was_left_took_till_then() {
        let notes = Notes::default();
        notes.tries(&"p".into(), &"m".into());
        thread::sleep(std::time::Duration::from_millis(20));
        let step = &notes.taken().steps[0];
        assert!(step.took_ms >= 20 && step.result.is_empty(), "{step:?}");
    }

    #[test]
    fn each_thread_remembers_its_own_and_all_are_found() {
        let decisions = Decisions::default();
        std::thread::scope(|scope| {
            for n in 0..4 {
                let decisions = &decisions;
                scope.spawn(move || decisions.keep(decision(n)));
            }
        });
        assert!((0..4).all(|n| decisions.find(&format!("resp_{n}")).is_some()));
        let newest: Vec<f64> = decisions.last(9).iter().map(|call| call.at).collect();
        assert_eq!(newest, [3.0, 2.0, 1.0, 0.0]);
    }
}
