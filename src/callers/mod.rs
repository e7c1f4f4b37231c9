//! The protocols that callers speak, one folder each: a body becomes a [`Call`], the events of an
//! answer become a stream or a document ([`Emit`]). No folder knows a provider, so every caller can
//! use every one.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use crate::{
    credentials::Sealer,
    model::{Event, Ids, Losses, Prompt, Tool, Usage},
    wire::json::{Str, TextOrList},
};

mod arguments;
pub mod chat_completions;
mod conversation;
mod failure;
pub mod messages;
mod parts;
pub mod responses;
mod retention;
mod schema;
mod sequence;
mod tools;

pub use failure::Failure;

/// A protocol of callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OpenAI Responses.
    Responses,
    /// OpenAI Chat Completions.
    ChatCompletions,
    /// Anthropic Messages.
    Messages,
}

impl Protocol {
    /// Every protocol there is.
    pub const ALL: [Self; 3] = [Self::Responses, Self::ChatCompletions, Self::Messages];

    /// The label of metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Responses => "responses",
            Self::ChatCompletions => "chat_completions",
            Self::Messages => "messages",
        }
    }

    /// Reads a body.
    ///
    /// # Errors
    ///
    /// When it is not what the protocol documents.
    pub fn parse(self, body: Bytes) -> Result<Call, ParseError> {
        match self {
            Self::Responses => responses::parse(body),
            Self::ChatCompletions => chat_completions::parse(&body),
            Self::Messages => messages::parse(&body),
        }
    }

    /// The writer of one answer.
    pub fn emitter(self, settings: EmitterSettings, ids: Ids) -> Box<dyn Emit> {
        match self {
            Self::Responses => Box::new(responses::Emitter::new(settings, ids)),
            Self::ChatCompletions => Box::new(chat_completions::Emitter::new(settings, ids)),
            Self::Messages => Box::new(messages::Emitter::new(settings, ids)),
        }
    }

    /// The body of an answer that failed before it began.
    pub fn error_document(self, failure: &Failure, status: u16) -> Vec<u8> {
        match self {
            Self::Responses | Self::ChatCompletions => failure.document(),
            Self::Messages => messages::error_document(failure, status),
        }
    }
}

/// What a body asks.
#[derive(Debug)]
pub struct Call {
    /// The model as the caller names it.
    pub model: String,
    /// The question.
    pub prompt: Prompt,
    /// Chat Completions only: the stream ends with a chunk of token counts.
    pub include_usage: bool,
}

/// Why a body was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not JSON at all.
    #[error("invalid JSON body: {0}")]
    NotJson(String),
    /// JSON, but not what is documented.
    #[error("invalid request at {pointer}: {reason}")]
    Invalid {
        /// JSON pointer of the field; `/` for the body itself.
        pointer: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl ParseError {
    fn invalid(pointer: &str, reason: impl Into<String>) -> Self {
        Self::Invalid { pointer: pointer.to_owned(), reason: reason.into() }
    }
}

/// Reads a body into a protocol's own type. Only a failing body is read a second time, to name the
/// place.
fn read_body<'b, T: serde::Deserialize<'b>>(raw: &'b [u8]) -> Result<T, ParseError> {
    if raw.trim_ascii_start().first().is_some_and(|first| *first == b'[') {
        // serde would read a list as the fields in order.
        return Err(ParseError::invalid("/", "the body must be a JSON object"));
    }
    serde_json::from_slice(raw).map_err(|error| {
        if !error.is_data() {
            return ParseError::NotJson(error.to_string());
        }
        let mut reader = serde_json::Deserializer::from_slice(raw);
        match serde_path_to_error::deserialize::<_, T>(&mut reader) {
            Err(error) => {
                let pointer = crate::wire::pointer::of_path(error.path());
                let pointer = if pointer.is_empty() { "/" } else { &pointer };
                ParseError::invalid(pointer, error.inner().to_string())
            }
            Ok(_) => ParseError::NotJson(error.to_string()),
        }
    })
}

/// The model that a body names.
fn required_model(model: Option<&str>) -> Result<String, ParseError> {
    model
        .map(str::to_owned)
        .ok_or_else(|| ParseError::invalid("/model", "a model name is required"))
}

/// Texts that end an answer: one, or a list.
fn stop_list(stop: &TextOrList<'_, Str<'_>>) -> Vec<String> {
    match stop {
        TextOrList::Nothing => Vec::new(),
        TextOrList::Text(text) => vec![text.clone().into_owned()],
        TextOrList::List(list) => {
            list.iter().filter_map(|text| text.get().map(str::to_owned)).collect()
        }
    }
}

/// How the caller wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Server-sent events.
    Stream,
    /// One JSON document.
    Whole,
}

/// What an emitter must know beforehand.
#[derive(Debug)]
pub struct EmitterSettings {
    /// Stream or document.
    pub delivery: Delivery,
    /// The model to name in the answer.
    pub model: String,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Whether the caller wants to see reasoning.
    pub show_reasoning: bool,
    /// The upstream speaks Responses itself: frames pass through.
    pub relay: bool,
    /// The tools the model may call.
    pub tools: Vec<Tool>,
    /// Most bytes of text and arguments held for one answer.
    pub max_retained: usize,
    /// Packs what the upstream wants back.
    pub sealer: Sealer,
    /// [`Call::include_usage`].
    pub include_usage: bool,
    /// The answer is a summary, and the caller gets it as one sealed `compaction` item.
    pub compaction: bool,
}

/// How an answer ended, as the caller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// It is complete.
    Completed,
    /// The token limit or a filter ended it.
    Incomplete,
    /// It failed.
    Failed,
}

/// What a sign of life looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepaliveStyle {
    /// An event.
    Typed,
    /// A comment, which resets fewer clocks.
    Comment,
}

/// Writes one answer in a caller's protocol. After its end everything is ignored: there is exactly
/// one.
pub trait Emit {
    /// The answer's id.
    fn id(&self) -> &str;

    /// How the answer ended, once it has.
    fn terminal(&self) -> Option<Terminal>;

    /// The last token counts.
    fn usage(&self) -> Option<Usage>;

    /// Takes the next event and writes what follows from it.
    ///
    /// # Errors
    ///
    /// When the answer cannot be given to the caller: a call of a tool that was never offered,
    /// arguments that are no JSON, or too much of it. The caller of this then [fails](Self::fail).
    fn push(&mut self, event: Event, out: &mut BytesMut) -> Result<(), Failure>;

    /// Writes a sign of life, of the kind that every known client accepts.
    fn keepalive(&mut self, out: &mut BytesMut) -> Option<KeepaliveStyle>;

    /// Ends the answer as failed.
    fn fail(&mut self, failure: &Failure, out: &mut BytesMut);

    /// What this protocol has no place for.
    fn losses(&self) -> Losses {
        Losses::default()
    }

    /// The document of an answer that did not fail.
    fn into_document(self: Box<Self>) -> Bytes;
}

/// The tool that a model called, by its wire name.
fn called<'t>(tools: &'t [Tool], wire_name: &str) -> Result<(usize, &'t Tool), Failure> {
    tools.iter().enumerate().find(|(_, tool)| tool.wire_name == wire_name).ok_or_else(|| {
        let name: Cow<'_, str> = crate::model::sanitize_wire_name(wire_name);
        let message = format!("the model called `{name}`, which is no tool of this turn");
        Failure::answer("undeclared_tool", message)
    })
}
