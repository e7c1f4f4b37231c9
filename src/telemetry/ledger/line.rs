//! What the ledger holds: JSON lines, two for a turn.

use serde::{Deserialize, Serialize};

use crate::model::Usage;

/// Longest model name that is kept, in characters; callers may send any.
const MAX_MODEL: usize = 256;

/// Tells turns of all processes apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TurnId {
    /// The process: 16 hexadecimal digits, anew at every start.
    pub run: String,
    /// Counted from 1 in it.
    pub turn: u64,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    /// A turn goes to an upstream, which may bill it from now on.
    Began(Began),
    /// It is over. A turn without this line was cut off with its process.
    Ended(Ended),
}

/// A turn that goes to an upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Began {
    /// Which turn.
    #[serde(flatten)]
    pub id: TurnId,
    /// Seconds since 1970.
    pub at: f64,
    /// Its provider, at first.
    pub provider: String,
    /// Its model, at first.
    pub model: String,
}

/// A turn that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// Which turn.
    #[serde(flatten)]
    pub id: TurnId,
    /// Seconds since 1970.
    pub at: f64,
    /// The protocol of the caller.
    pub protocol: String,
    /// Who answered, or was asked last.
    pub provider: String,
    /// The model, as the provider names it.
    pub model: String,
    /// The label of `ocx_requests_total`.
    pub outcome: String,
    /// Whether an upstream may have used tokens that it never told of.
    pub missing: bool,
    /// Whether the answer was a stream.
    pub stream: bool,
    /// Requests that were made.
    pub attempts: u32,
    /// From the call to the end of its answer.
    pub duration_ms: u64,
    /// Tokens as the upstream counted them, also of an answer that was given up; nothing if it never
    /// told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Tokens>,
    /// What they cost, where the config has a price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
}

/// Token counts. `input` includes cached tokens, `output` includes reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tokens {
    /// Of the prompt.
    pub input: u64,
    /// Part of `input` that came from the upstream's cache.
    pub cached_input: u64,
    /// Part of `input` that was written to the upstream's cache.
    pub cache_write: u64,
    /// Of the answer.
    pub output: u64,
    /// Part of `output` that was reasoning.
    pub reasoning: u64,
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Self {
        Self {
            input: usage.input,
            cached_input: usage.cached,
            cache_write: usage.cache_write,
            output: usage.output,
            reasoning: usage.reasoning,
        }
    }
}

impl Tokens {
    /// Adds what another turn used.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.input, other.input),
            (&mut self.cached_input, other.cached_input),
            (&mut self.cache_write, other.cache_write),
            (&mut self.output, other.output),
            (&mut self.reasoning, other.reasoning),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// A model's name, cut where it is absurdly long.
pub fn model_name(model: &str) -> String {
    match model.char_indices().nth(MAX_MODEL) {
        Some((end, _)) => format!("{}…", &model[..end]),
        None => model.to_owned(),
    }
}
