//! Conversation → messages that keep Anthropic's rules: user and assistant take turns, user first
//! and last; thinking, text, then calls; every call answered in the very next message; nothing empty.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    super::{
        Target,
        history::{BLIND, NO_RESULT, PairedCall, Turn, data_url, images, turns},
    },
    ids::IdMap,
    images::admitted,
};
use crate::{
    model::{AssistantPart, Image, LossKind, Losses, Message, Part, ToolResult},
    wire::json::raw_object,
};

#[derive(Debug, Serialize)]
pub(super) struct WireMessage<'a> {
    pub role: Role,
    pub content: Vec<Block<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    User,
    Assistant,
}

/// A content block. Where a marker may stand, it stands last: what comes before it is what caches
/// compare.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Block<'a> {
    Text {
        text: Cow<'a, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    Image {
        source: Source<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    Thinking {
        thinking: String,
        signature: String,
    },
    RedactedThinking {
        data: String,
    },
    ToolUse {
        id: String,
        name: String,
        input: &'a RawValue,
    },
    ToolResult {
        tool_use_id: String,
        content: Vec<Block<'a>>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Source<'a> {
    Base64 { media_type: &'a str, data: &'a str },
    Url { url: &'a str },
}

/// Asks for a cache entry of everything up to here.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum CacheControl {
    Ephemeral,
}

impl<'a> Block<'a> {
    pub fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Text { text: text.into(), cache_control: None }
    }

    /// Puts a marker here, if this kind of block may have one.
    pub fn mark(&mut self) -> bool {
        match self {
            Self::Text { cache_control, .. }
            | Self::Image { cache_control, .. }
            | Self::ToolResult { cache_control, .. } => {
                *cache_control = Some(CacheControl::Ephemeral);
                true
            }
            _ => false,
        }
    }
}

/// Formats that Claude reads.
const FORMATS: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];
/// Said where the protocol demands words and there are none.
const EMPTY: &str = "(empty)";
const EMPTY_OUTPUT: &str = "(empty tool output)";
const GO_ON: &str = "Continue.";

/// Builds the messages of a conversation, from the message at `first` on. `escape` goes before tool
/// names.
pub(super) fn messages<'a>(
    conversation: &'a [Message],
    first: usize,
    target: &Target<'a>,
    escape: &'a str,
    losses: &mut Losses,
) -> Vec<WireMessage<'a>> {
    let turns = turns(conversation, first);
    let urls: Vec<&str> = turns.iter().flat_map(image_urls).collect();
    let admitted = if target.quirks.sees_images(target.model) {
        admitted(&urls)
    } else {
        vec![false; urls.len()]
    };
    let mut builder = Builder {
        target: *target,
        escape,
        ids: IdMap::default(),
        admitted: admitted.into_iter(),
        losses,
        out: Vec::with_capacity(turns.len() + 1),
    };
    for turn in &turns {
        builder.turn(turn);
    }
    if builder.out.first().is_none_or(|message| message.role == Role::Assistant) {
        let opening = WireMessage { role: Role::User, content: vec![Block::text(EMPTY)] };
        builder.out.insert(0, opening);
    }
    // Newer models refuse to go on from the middle of their own message.
    if builder.out.last().is_some_and(|message| message.role == Role::Assistant) {
        builder.push(Role::User, vec![Block::text(GO_ON)]);
    }
    builder.out
}

/// Whether the answer in progress, if any, lacks the thoughts that a model with a thinking budget
/// demands before its calls: another provider gave it.
pub(super) fn lacks_thoughts(messages: &[WireMessage<'_>]) -> bool {
    let calls = |message: &WireMessage<'_>| {
        message.content.iter().any(|block| matches!(block, Block::ToolUse { .. }))
    };
    let results = messages.last().is_some_and(|last| {
        last.content.iter().any(|block| matches!(block, Block::ToolResult { .. }))
    });
    results
        && messages.iter().rev().find(|message| message.role == Role::Assistant).is_some_and(
            |message| {
                calls(message)
                    && !matches!(
                        message.content.first(),
                        Some(Block::Thinking { .. } | Block::RedactedThinking { .. })
                    )
            },
        )
}

/// The images of a turn, in the order in which they are sent.
fn image_urls<'a>(turn: &Turn<'a>) -> Vec<&'a str> {
    let urls = |parts: &'a [Part]| images(parts).map(|image| image.url.as_str());
    match turn {
        Turn::Said { parts, .. } => urls(parts).collect(),
        Turn::Answered { calls, .. } => {
            calls.iter().filter_map(|call| call.result).flat_map(|r| urls(&r.content)).collect()
        }
        Turn::Orphan { result, .. } => urls(&result.content).collect(),
    }
}

struct Builder<'a, 'l> {
    target: Target<'a>,
    escape: &'a str,
    ids: IdMap,
    /// For each image, in order, whether it may be sent.
    admitted: std::vec::IntoIter<bool>,
    losses: &'l mut Losses,
    out: Vec<WireMessage<'a>>,
}

impl<'a> Builder<'a, '_> {
    fn turn(&mut self, turn: &Turn<'a>) {
        match turn {
            Turn::Said { parts, .. } => {
                let content = self.content(parts);
                self.push(Role::User, content);
            }
            Turn::Answered { parts, calls } => {
                let content = self.answer(parts, calls);
                self.push(Role::Assistant, content);
                let results = calls.iter().map(|call| self.result(call)).collect();
                self.push(Role::User, results);
            }
            Turn::Orphan { result, .. } => {
                let name = result.name.as_ref().map_or_else(|| "a tool".into(), |n| n.wire());
                let mut content = vec![Block::text(format!("Earlier result of {name}:"))];
                content.extend(self.content(&result.content));
                self.push(Role::User, content);
            }
        }
    }

    fn push(&mut self, role: Role, mut content: Vec<Block<'a>>) {
        if content.is_empty() {
            return;
        }
        match self.out.last_mut() {
            Some(last) if last.role == role => last.content.append(&mut content),
            _ => self.out.push(WireMessage { role, content }),
        }
    }

    fn answer(&mut self, parts: &'a [AssistantPart], calls: &[PairedCall<'a>]) -> Vec<Block<'a>> {
        let mut blocks = Vec::new();
        for part in parts {
            match part {
                AssistantPart::Text(text) if text.trim().is_empty() => {}
                AssistantPart::Text(text) => blocks.push(Block::text(text)),
                AssistantPart::Reasoning { encrypted, .. } => {
                    match self.thought(encrypted.as_deref()) {
                        Some(block) => blocks.push(block),
                        None => self.losses.add(LossKind::Reasoning),
                    }
                }
                AssistantPart::Call(_) => {}
            }
        }
        if calls.is_empty() {
            // An answer may not end in thoughts.
            while let Some(Block::Thinking { .. } | Block::RedactedThinking { .. }) = blocks.last()
            {
                blocks.pop();
                self.losses.add(LossKind::Reasoning);
            }
        }
        for PairedCall { call, id, .. } in calls {
            blocks.push(Block::ToolUse {
                id: self.ids.get(id),
                name: format!("{}{}", self.escape, call.name.wire()),
                input: raw_object(&call.arguments),
            });
        }
        blocks
    }

    /// A thinking block, if this upstream signed it.
    fn thought(&self, encrypted: Option<&str>) -> Option<Block<'a>> {
        let state = self.target.open(encrypted)?;
        if let Some(data) = state.redacted {
            return Some(Block::RedactedThinking { data });
        }
        Some(Block::Thinking { thinking: state.text, signature: state.signature? })
    }

    fn result(&mut self, paired: &PairedCall<'a>) -> Block<'a> {
        let tool_use_id = self.ids.get(&paired.id);
        let (content, is_error) = match paired.result {
            Some(ToolResult { content, failed, .. }) => (self.content(content), *failed),
            None => (vec![Block::text(NO_RESULT)], true),
        };
        let content = if content.is_empty() { vec![Block::text(EMPTY_OUTPUT)] } else { content };
        Block::ToolResult { tool_use_id, content, is_error, cache_control: None }
    }

    fn content(&mut self, parts: &'a [Part]) -> Vec<Block<'a>> {
        let mut blocks = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Part::Text(text) if text.trim().is_empty() => {}
                Part::Text(text) => blocks.push(Block::text(text)),
                Part::Image(image) => blocks.push(self.image(image)),
            }
        }
        blocks
    }

    fn image(&mut self, image: &'a Image) -> Block<'a> {
        let may_go = self.admitted.next() == Some(true);
        let source = match data_url(&image.url) {
            Some(("image/jpg", data)) => Some(Source::Base64 { media_type: "image/jpeg", data }),
            Some((media_type, data)) if FORMATS.contains(&media_type) => {
                Some(Source::Base64 { media_type, data })
            }
            None if image.url.starts_with("https://") => Some(Source::Url { url: &image.url }),
            _ => None,
        };
        match source.filter(|_| may_go) {
            Some(source) => Block::Image { source, cache_control: None },
            None => {
                self.losses.add(LossKind::Image);
                Block::text(BLIND)
            }
        }
    }
}
