//! One provider-neutral step of an answer.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Tells the calls of one answer apart; adapters number them as they come.
pub type CallKey = u32;

/// What a decoder found in the upstream's bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Visible text.
    TextDelta(String),
    /// Reasoning that may be shown to a person.
    ReasoningDelta(String),
    /// The reasoning before this is complete, and its provider wants this back on the next turn.
    State(ReasoningState),
    /// A tool call begins.
    CallStarted {
        /// Names the call in the events that follow.
        call: CallKey,
        /// The upstream's id of the call; empty if it gave none.
        call_id: String,
        /// The wire name of the tool.
        name: String,
    },
    /// More of a call's JSON arguments.
    CallDelta {
        /// The call.
        call: CallKey,
        /// A piece of JSON text.
        arguments: String,
    },
    /// A call's arguments are complete.
    CallEnded {
        /// The call.
        call: CallKey,
    },
    /// Token counts so far; the last one counts.
    Usage(Usage),
    /// A frame of a Responses stream, to be passed on as it is.
    Verbatim(Frame),
    /// A whole Responses document (not a stream), to be passed on as it is.
    Document(Bytes),
    /// The text of the caller's that ended the answer, where the upstream tells. Comes before the end.
    StopSequence(String),
    /// The upstream ended the answer. Comes once, and last.
    Finished(FinishReason),
}

/// What a provider wants back beside the conversation, in its own form. One of these belongs to one
/// block of reasoning, or, with a signature alone, to what follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReasoningState {
    /// The reasoning, exactly as it came: signatures cover it.
    #[serde(rename = "t", skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Anthropic's `signature` or Gemini's `thoughtSignature`.
    #[serde(rename = "s", skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Anthropic's `redacted_thinking` data.
    #[serde(rename = "r", skip_serializing_if = "Option::is_none")]
    pub redacted: Option<String>,
}

/// A frame that is relayed without being translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The event's `type`, such as `response.output_text.delta`.
    pub kind: String,
    /// Its JSON.
    pub data: Bytes,
    /// Its `sequence_number`, if it has one.
    pub sequence: Option<u64>,
}

/// How the upstream ended an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// Naturally, or because tools are to be called.
    Stop,
    /// The token limit was reached.
    Length,
    /// A content filter stepped in.
    Filtered,
}

/// Token counts in OpenAI's sense: `input` includes cached tokens, `output` includes reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub input: u64,
    /// Part of `input` that came from the upstream's cache.
    pub cached: u64,
    /// Part of `input` that was written to the upstream's cache.
    pub cache_write: u64,
    /// Tokens of the answer.
    pub output: u64,
    /// Part of `output` that was reasoning.
    pub reasoning: u64,
}

/// The upstream's own "no", inside or instead of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamFailure {
    /// HTTP status, given or implied.
    pub status: Option<u16>,
    /// The upstream's `type`, if any.
    pub kind: Option<String>,
    /// The upstream's `code`, if any.
    pub code: Option<String>,
    /// What it said.
    pub message: String,
}
