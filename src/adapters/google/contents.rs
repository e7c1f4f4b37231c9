//! Conversation → contents: user and model in turns, every batch of calls followed by its results in
//! their order, signatures on the parts that they came with.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::super::{
    Target,
    history::{BLIND, NO_RESULT, PairedCall, Turn, data_url, text_of, turns},
};
use crate::{
    model::{AssistantPart, Image, LossKind, Losses, Message, Part, ToolResult},
    wire::json::raw_object,
};

#[derive(Debug, Serialize)]
pub(super) struct Content<'a> {
    role: &'static str,
    parts: Vec<WirePart<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WirePart<'a> {
    #[serde(flatten)]
    kind: Kind<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thought_signature: Option<Cow<'a, str>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum Kind<'a> {
    Text(Cow<'a, str>),
    #[serde(rename_all = "camelCase")]
    InlineData {
        mime_type: &'a str,
        data: &'a str,
    },
    FunctionCall {
        id: Cow<'a, str>,
        name: String,
        args: &'a RawValue,
    },
    FunctionResponse {
        id: Cow<'a, str>,
        name: String,
        response: Outcome<'a>,
    },
}

/// What a function returned.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome<'a> {
    Result(Cow<'a, str>),
    Error(Cow<'a, str>),
}

impl<'a> WirePart<'a> {
    fn new(kind: Kind<'a>) -> Self {
        Self { kind, thought_signature: None }
    }

    /// A text part.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::new(Kind::Text(text.into()))
    }
}

/// Google's own stand-in for the signature of a call that another model made. Gemini 3 refuses the
/// calls of a turn without one.
/// Source: ai.google.dev/gemini-api/docs/thought-signatures, 2026-11.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";
const EMPTY: &str = "(empty)";
/// Formats that Gemini reads.
/// Source: ai.google.dev/gemini-api/docs/image-understanding, 2026-11.
const FORMATS: [&str; 5] = ["image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"];

/// Builds the contents of a conversation, from the message at `first` on.
pub(super) fn contents<'a>(
    conversation: &'a [Message],
    first: usize,
    target: &Target<'a>,
    losses: &mut Losses,
) -> Vec<Content<'a>> {
    let mut builder = Builder {
        target: *target,
        sees_images: target.quirks.sees_images(target.model),
        demands_signatures: demands_signatures(target.model),
        losses,
        out: Vec::new(),
    };
    for turn in turns(conversation, first) {
        builder.turn(&turn);
    }
    if builder.out.first().is_none_or(|content| content.role == "model") {
        let opening = Content { role: "user", parts: vec![WirePart::text(EMPTY)] };
        builder.out.insert(0, opening);
    }
    builder.out
}

/// Gemini 3 and later.
fn demands_signatures(model: &str) -> bool {
    generation(model).is_some_and(|generation| generation >= 3)
}

/// The major version in `gemini-<major>…`.
pub(super) fn generation(model: &str) -> Option<u32> {
    let name = model.rsplit('/').next()?.strip_prefix("gemini-")?;
    name.split(['.', '-']).next()?.parse().ok()
}

struct Builder<'a, 'l> {
    target: Target<'a>,
    sees_images: bool,
    demands_signatures: bool,
    losses: &'l mut Losses,
    out: Vec<Content<'a>>,
}

impl<'a> Builder<'a, '_> {
    fn turn(&mut self, turn: &Turn<'a>) {
        match turn {
            Turn::Said { parts, .. } => {
                let parts = self.said(parts);
                self.push("user", parts);
            }
            Turn::Answered { parts, calls } => {
                let answer = self.answer(parts, calls);
                self.push("model", answer);
                let results = calls.iter().flat_map(|call| self.result(call)).collect();
                self.push("user", results);
            }
            Turn::Orphan { result, .. } => {
                let name = result.name.as_ref().map_or_else(|| "a tool".into(), |n| n.wire());
                let mut parts = vec![WirePart::text(format!("Earlier result of {name}:"))];
                parts.extend(self.said(&result.content));
                self.push("user", parts);
            }
        }
    }

    fn push(&mut self, role: &'static str, mut parts: Vec<WirePart<'a>>) {
        if parts.is_empty() {
            return;
        }
        match self.out.last_mut() {
            Some(last) if last.role == role => last.parts.append(&mut parts),
            _ => self.out.push(Content { role, parts }),
        }
    }

    /// A signature belongs to the part that follows it; one that nothing follows belongs to the
    /// part before.
    fn answer(
        &mut self,
        parts: &'a [AssistantPart],
        calls: &[PairedCall<'a>],
    ) -> Vec<WirePart<'a>> {
        let mut out: Vec<WirePart<'a>> = Vec::new();
        let mut signature = None;
        let mut calls = calls.iter();
        let mut first_call = true;
        for part in parts {
            match part {
                AssistantPart::Reasoning { encrypted, .. } => {
                    match self.target.open(encrypted.as_deref()).and_then(|state| state.signature) {
                        Some(found) => signature = Some(Cow::Owned(found)),
                        None => self.losses.add(LossKind::Reasoning),
                    }
                }
                AssistantPart::Text(text) if text.is_empty() => {}
                AssistantPart::Text(text) => {
                    let mut part = WirePart::text(text);
                    part.thought_signature = signature.take();
                    out.push(part);
                }
                AssistantPart::Call(_) => {
                    let Some(PairedCall { call, id, .. }) = calls.next() else { continue };
                    let mut part = WirePart::new(Kind::FunctionCall {
                        id: id.clone(),
                        name: call.name.wire(),
                        args: raw_object(&call.arguments),
                    });
                    // Only the first of a batch is signed.
                    let stand_in =
                        (first_call && self.demands_signatures).then_some(NO_SIGNATURE.into());
                    part.thought_signature = signature.take().or(stand_in);
                    first_call = false;
                    out.push(part);
                }
            }
        }
        if let (Some(signature), Some(last)) = (signature, out.last_mut()) {
            last.thought_signature.get_or_insert(signature);
        }
        out
    }

    fn result(&mut self, paired: &PairedCall<'a>) -> Vec<WirePart<'a>> {
        let (response, pictures) = match paired.result {
            Some(ToolResult { content, failed, .. }) => {
                let text = text_of(content);
                let outcome = if *failed { Outcome::Error(text) } else { Outcome::Result(text) };
                (outcome, content.as_slice())
            }
            None => (Outcome::Error(NO_RESULT.into()), [].as_slice()),
        };
        let (id, name) = (paired.id.clone(), paired.call.name.wire());
        let mut parts = vec![WirePart::new(Kind::FunctionResponse { id, name, response })];
        for picture in pictures {
            if let Part::Image(image) = picture {
                parts.push(self.image(image));
            }
        }
        parts
    }

    fn said(&mut self, parts: &'a [Part]) -> Vec<WirePart<'a>> {
        let mut out = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Part::Text(text) if text.is_empty() => {}
                Part::Text(text) => out.push(WirePart::text(text)),
                Part::Image(image) => out.push(self.image(image)),
            }
        }
        out
    }

    /// An image that comes with the request. Gemini does not fetch addresses.
    fn image(&mut self, image: &'a Image) -> WirePart<'a> {
        let picture = data_url(&image.url).filter(|_| self.sees_images);
        let known = picture.and_then(|(kind, data)| {
            // A common misspelling.
            let kind = if kind == "image/jpg" { "image/jpeg" } else { kind };
            FORMATS.contains(&kind).then_some((kind, data))
        });
        match known {
            Some((mime_type, data)) => WirePart::new(Kind::InlineData { mime_type, data }),
            None => {
                self.losses.add(LossKind::Image);
                WirePart::text(BLIND)
            }
        }
    }
}
