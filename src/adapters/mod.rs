//! The upstream protocols, one folder each, without I/O: a [`Prompt`] becomes a [`WireRequest`],
//! the bytes of the answer become [`Event`]s.
//!
//! # Laws
//!
//! `tests/laws.rs` holds every adapter to these, on every recorded transcript:
//!
//! 1. *Split.* Any partition of the bytes gives the same events.
//! 2. *Cut.* A body that stops before its protocol says that it is over never ends in
//!    [`Event::Finished`]. That the connection closed proves nothing: awc reports a cut body as a
//!    clean end.
//! 3. *Terminal.* On success `Finished` comes exactly once, and last.
//! 4. *Brackets.* Every `CallDelta` and `CallEnded` names a call that has begun and not ended.
//! 5. *Total.* Arbitrary bytes never panic and never hold more than the frame limit.
//! 6. *Deterministic.* The same prompt gives the same bytes: prompt caches depend on it.
//!
//! # Adding an adapter
//!
//! One folder with `request.rs` (prompt → JSON) and `stream.rs` (a [`FrameDecoder`]), a variant of
//! [`AdapterKind`] (the compiler names the places), and transcripts below `tests/wire/<name>/`.

use crate::{
    credentials::{Credential, Sealer},
    model::{Event, Losses, Prompt, ReasoningState, UpstreamFailure},
    registry::{AdapterKind, Quirks},
    wire::sse::FrameTooLong,
};

mod anthropic;
mod azure_openai;
mod frames;
mod google;
mod history;
mod identity;
mod models;
mod openai_chat;
mod openai_responses;
mod refusal;
mod wire_request;

pub use frames::{FrameDecoder, JsonDecoder, SseDecoder};
pub use models::ModelInfo;
pub use openai_responses::document_usage as responses_usage;
pub use wire_request::{HeaderText, Method, ResponseHead, WireRequest};

/// Longest event of a stream, and longest document, in bytes.
pub const MAX_FRAME: usize = 16 << 20;

/// How much of an error answer is read, in bytes.
pub const MAX_ERROR_BODY: usize = 64 << 10;

/// All that an adapter may know of a provider.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The model, as the upstream names it.
    pub model: &'a str,
    /// Address without a trailing slash.
    pub base_url: &'a str,
    /// Known deviations.
    pub quirks: &'a Quirks,
    /// Headers that the config adds.
    pub headers: &'a [(String, String)],
    /// What the lease lent.
    pub credential: &'a Credential,
    /// Opens the capsules that this upstream's answers were given; not there when no prompt is
    /// encoded.
    pub sealer: Option<&'a Sealer>,
}

impl Target<'_> {
    /// What this upstream wants back, out of a capsule of ours. Anything else is nothing.
    pub(crate) fn open(&self, encrypted: Option<&str>) -> Option<ReasoningState> {
        self.sealer?.open(encrypted?)
    }
}

/// An encoded prompt.
#[derive(Debug)]
pub struct Encoded {
    /// What to send.
    pub request: WireRequest,
    /// What could not be carried, beyond what parsing counted.
    pub losses: Losses,
}

/// What a decoder is told about the answer to come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expect {
    /// The caller wants a stream.
    pub stream: bool,
    /// Frames of the caller's own protocol are passed on rather than translated.
    pub relay: bool,
    /// [`Quirks::openai_chat_eof_tolerance`].
    pub eof_tolerant: bool,
    /// [`Quirks::keeps_reasoning`].
    pub keeps_reasoning: bool,
    /// [`Quirks::escape_builtin_tool_names`].
    pub escapes_tool_names: bool,
}

/// One upstream protocol, translated both ways without I/O.
///
/// Implementations are unit structs: the state of a response lives in the [`Decoder`].
pub trait Adapter: Send + Sync + 'static {
    /// Builds the upstream request for `prompt`. Same inputs, same bytes.
    ///
    /// # Errors
    ///
    /// When the prompt cannot be said in this protocol at all.
    fn encode(&self, prompt: &Prompt, target: &Target<'_>) -> Result<Encoded, EncodeError>;

    /// Starts reading a 2xx answer; `head` picks the framing.
    fn decoder(&self, head: &ResponseHead, expect: Expect) -> Box<dyn Decoder>;

    /// Whether answers are passed on to callers of the same protocol.
    fn relays(&self) -> bool;

    /// Builds the request that lists models, if the protocol has one.
    fn list_models(&self, target: &Target<'_>) -> Option<WireRequest>;

    /// Reads the answer to it.
    ///
    /// # Errors
    ///
    /// When the body is in none of the known shapes.
    fn parse_models(&self, body: &[u8], quirks: &Quirks) -> Result<Vec<ModelInfo>, DecodeError> {
        models::parse(body, quirks.model_discovery.as_ref())
    }

    /// Builds the request that has a conversation compacted, if the protocol has one.
    fn compact(&self, _: &Prompt, _: &Target<'_>) -> Option<Result<WireRequest, EncodeError>> {
        None
    }

    /// Builds the request that counts a prompt's tokens, if the protocol has one.
    fn count_tokens(&self, _: &Prompt, _: &Target<'_>) -> Option<Result<WireRequest, EncodeError>> {
        None
    }

    /// Reads the answer to it.
    ///
    /// # Errors
    ///
    /// When it holds no count.
    fn parse_count(&self, _: &[u8]) -> Result<u64, DecodeError> {
        Err(DecodeError::Malformed("this protocol counts no tokens".to_owned()))
    }

    /// Explains an answer that is not 2xx. `body` is at most [`MAX_ERROR_BODY`] bytes.
    fn refusal(&self, head: &ResponseHead, body: &[u8]) -> UpstreamFailure {
        refusal::explain(head, body)
    }
}

/// Reads one answer: bytes in, events out. Owns no socket, clock or channel.
pub trait Decoder: Send {
    /// Takes the next bytes, split anywhere, and appends what they complete.
    ///
    /// # Errors
    ///
    /// When the answer is broken, too long, or the upstream says "no" inside it.
    fn push(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<Step, DecodeError>;

    /// Tells that the upstream closed.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] if the answer was not over.
    fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), DecodeError>;
}

/// Whether a decoder wants more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Keep reading.
    More,
    /// [`Event::Finished`] has been emitted; stop reading.
    Done,
}

/// Why a prompt was not encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The caller's JSON could not be rewritten.
    #[error("the request cannot be rewritten for the upstream: {0}")]
    Body(String),
    /// The model's name cannot be part of an address.
    #[error("`{0}` is no model name of this provider")]
    Model(String),
    /// The address still has a placeholder.
    #[error("the base URL still holds a placeholder: {0}")]
    Placeholder(String),
}

/// Why an answer was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It stopped before its end.
    #[error("the upstream's answer was cut short")]
    Truncated,
    /// It had no body at all.
    #[error(
        "the upstream answered with an empty body; a server that ends its body by closing an \
         HTTP/1.1 connection, without content-length or chunks, looks like this"
    )]
    Empty,
    /// An event or document is over the limit.
    #[error(transparent)]
    TooLong(#[from] FrameTooLong),
    /// It is not what the protocol says.
    #[error("the upstream's answer is malformed: {0}")]
    Malformed(String),
    /// The upstream said "no" in its answer.
    #[error("{}", .0.message)]
    Upstream(UpstreamFailure),
}

/// The adapter of a kind: the one `match`.
pub fn adapter(kind: AdapterKind) -> &'static dyn Adapter {
    match kind {
        AdapterKind::OpenAiChat => &openai_chat::OpenAiChat,
        AdapterKind::OpenAiResponses => &openai_responses::OpenAiResponses,
        AdapterKind::Anthropic => &anthropic::Anthropic,
        AdapterKind::Google => &google::Google,
        AdapterKind::AzureOpenAi => &azure_openai::AzureOpenAi,
    }
}

/// Joins a base address and a path; the base may be the pasted address of an endpoint.
pub(crate) fn endpoint(base: &str, pasted: &[&str], path: &str) -> Result<String, EncodeError> {
    let mut base = base.trim_end_matches('/');
    for suffix in pasted {
        base = base.strip_suffix(suffix).unwrap_or(base);
    }
    if base.contains(['{', '}']) {
        return Err(EncodeError::Placeholder(base.to_owned()));
    }
    Ok(format!("{base}{path}"))
}
