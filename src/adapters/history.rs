//! What every translated protocol wants of a history: system text apart, each batch of calls beside
//! its results, every id unique, nothing unpaired.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet, VecDeque},
};

use super::identity::neutral;
use crate::model::{AssistantPart, Image, Message, Part, Prompt, ToolCall, ToolResult};

/// A step of the conversation.
#[derive(Debug)]
pub(super) enum Turn<'a> {
    /// The person, or the program around the model, said something.
    Said { developer: bool, parts: &'a [Part] },
    /// The model answered.
    Answered { parts: &'a [AssistantPart], calls: Vec<PairedCall<'a>> },
    /// A result whose call is not in the history.
    Orphan { id: Cow<'a, str>, result: &'a ToolResult },
}

/// A call and what came of it.
#[derive(Debug)]
pub(super) struct PairedCall<'a> {
    pub call: &'a ToolCall,
    /// Unique in the conversation, and never blank.
    pub id: Cow<'a, str>,
    pub result: Option<&'a ToolResult>,
}

/// What a call without a recorded result is answered with.
pub(super) const NO_RESULT: &str = "No result was recorded for this call.";

/// The system text, which developer messages at the start are part of: Codex puts its base
/// instructions there. Also how many messages that used up.
pub(super) fn system_text(prompt: &Prompt, model: &str) -> (String, usize) {
    let mut texts: Vec<Cow<'_, str>> = prompt.system.iter().map(Into::into).collect();
    let mut leading = 0;
    while let Some(Message::Developer(parts)) = prompt.messages.get(leading)
        && images(parts).next().is_none()
    {
        texts.push(text_of(parts));
        leading += 1;
    }
    (joined(texts, model), leading)
}

/// System texts as one, without the claim to be another vendor's model.
pub(super) fn joined(mut texts: Vec<Cow<'_, str>>, model: &str) -> String {
    texts.retain(|text| !text.is_empty());
    neutral(&texts.join("\n\n"), model).into_owned()
}

/// The conversation from the message at `first` on.
pub(super) fn turns(messages: &[Message], first: usize) -> Vec<Turn<'_>> {
    let mut pairing = Pairing::new(messages);
    let mut turns = Vec::with_capacity(messages.len());
    for (position, message) in messages.iter().enumerate().skip(first) {
        match message {
            Message::User(parts) => turns.push(Turn::Said { developer: false, parts }),
            Message::Developer(parts) => turns.push(Turn::Said { developer: true, parts }),
            Message::Assistant(parts) => {
                let calls = parts
                    .iter()
                    .filter_map(|part| match part {
                        AssistantPart::Call(call) => Some(pairing.pair(position, call)),
                        _ => None,
                    })
                    .collect();
                turns.push(Turn::Answered { parts, calls });
            }
            Message::ToolResult(result) => {
                if !pairing.taken.contains(&position) {
                    turns.push(Turn::Orphan { id: pairing.id(&result.call_id), result });
                }
            }
        }
    }
    turns
}

/// Results by call id, so that each call finds its own, wherever it stands.
struct Pairing<'a> {
    waiting: HashMap<&'a str, VecDeque<(usize, &'a ToolResult)>>,
    taken: HashSet<usize>,
    /// How often each id was given out.
    given: HashMap<&'a str, u32>,
}

impl<'a> Pairing<'a> {
    fn new(messages: &'a [Message]) -> Self {
        let mut waiting: HashMap<&str, VecDeque<_>> = HashMap::new();
        for (position, message) in messages.iter().enumerate() {
            if let Message::ToolResult(result) = message {
                waiting.entry(&result.call_id).or_default().push_back((position, result));
            }
        }
        Self { waiting, taken: HashSet::new(), given: HashMap::new() }
    }

    /// Pairs a call with the first result of its id that comes after it and answers no other call.
    fn pair(&mut self, position: usize, call: &'a ToolCall) -> PairedCall<'a> {
        let id = self.id(&call.call_id);
        let mut result = None;
        if let Some(queue) = self.waiting.get_mut(call.call_id.as_str()) {
            while let Some((at, candidate)) = queue.pop_front() {
                if at > position {
                    self.taken.insert(at);
                    result = Some(candidate);
                    break;
                }
            }
        }
        PairedCall { call, id, result }
    }

    fn id(&mut self, call_id: &'a str) -> Cow<'a, str> {
        let call_id = call_id.trim();
        let given = self.given.entry(call_id).or_default();
        *given += 1;
        match (call_id.is_empty(), *given) {
            (true, n) => format!("call_ocx_{n}").into(),
            (false, 1) => call_id.into(),
            (false, n) => format!("{call_id}_{n}").into(),
        }
    }
}

pub(super) fn images(parts: &[Part]) -> impl Iterator<Item = &Image> {
    parts.iter().filter_map(|part| match part {
        Part::Image(image) => Some(image),
        Part::Text(_) => None,
    })
}

/// The texts of the parts as one.
pub(super) fn text_of(parts: &[Part]) -> Cow<'_, str> {
    let mut texts = parts.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        Part::Image(_) => None,
    });
    match (texts.next(), texts.next()) {
        (None, _) => "".into(),
        (Some(only), None) => only.into(),
        (Some(first), Some(second)) => {
            let mut joined = format!("{first}\n{second}");
            for text in texts {
                joined.push('\n');
                joined.push_str(text);
            }
            joined.into()
        }
    }
}

/// The parts of a `data:` URL that holds base64: media type and data.
pub(super) fn data_url(url: &str) -> Option<(&str, &str)> {
    let (kind, data) = url.strip_prefix("data:")?.split_once(";base64,")?;
    // Parameters may follow the media type.
    let kind = kind.split(';').next().unwrap_or_default();
    (!kind.is_empty()).then_some((kind, data))
}

/// Stands for a picture that the model cannot see.
pub(super) const BLIND: &str = "[an image was attached, which this model cannot see]";
