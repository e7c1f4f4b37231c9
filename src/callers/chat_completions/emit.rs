//! Events of an answer → a Chat Completions stream or document.
//! Source: platform.openai.com/docs/api-reference/chat-streaming; `reasoning_content` as DeepSeek
//! and OpenRouter send it.

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use super::super::{
    Delivery, Emit, EmitterSettings, Failure, KeepaliveStyle, Terminal,
    arguments::{Arguments, may_be_none},
    called,
    retention::Retention,
};
use crate::{
    model::{CallKey, Event, FinishReason, Ids, LossKind, Losses, ToolKind, Usage},
    wire::sse::write_frame,
};

/// Writes one answer.
#[derive(Debug)]
pub struct Emitter {
    settings: EmitterSettings,
    id: String,
    started: bool,
    retention: Retention,
    /// Kept for a document only.
    text: String,
    reasoning: String,
    calls: Vec<OpenCall>,
    usage: Option<Usage>,
    finish: Option<&'static str>,
    losses: Losses,
    terminal: Option<Terminal>,
    ids: Ids,
}

/// A call; its place in the list is its `index` on the wire.
#[derive(Debug)]
struct OpenCall {
    key: CallKey,
    call_id: String,
    /// Index into the settings' tools.
    tool: usize,
    arguments: String,
    /// What the caller is given, once it is complete.
    complete: Option<String>,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageField>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Message<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
}

#[derive(Serialize)]
struct Call<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "type")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<Function<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom: Option<Custom<'a>>,
}

#[derive(Serialize)]
struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

#[derive(Serialize)]
struct Custom<'a> {
    name: &'a str,
    input: &'a str,
}

#[derive(Serialize)]
struct UsageField {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: u64,
}

#[derive(Serialize)]
struct CompletionDetails {
    reasoning_tokens: u64,
}

impl From<Usage> for UsageField {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.input,
            completion_tokens: usage.output,
            total_tokens: usage.input.saturating_add(usage.output),
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached },
            completion_tokens_details: CompletionDetails { reasoning_tokens: usage.reasoning },
        }
    }
}

const DONE: &[u8] = b"data: [DONE]\n\n";

impl Emitter {
    /// Starts an answer; `ids` names it.
    pub fn new(settings: EmitterSettings, mut ids: Ids) -> Self {
        Self {
            id: ids.mint("chatcmpl"),
            retention: Retention::new(settings.max_retained),
            settings,
            started: false,
            text: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            usage: None,
            finish: None,
            losses: Losses::default(),
            terminal: None,
            ids,
        }
    }

    fn streams(&self) -> bool {
        self.settings.delivery == Delivery::Stream
    }

    fn text(&mut self, delta: &str, out: &mut BytesMut) -> Result<(), Failure> {
        if !self.streams() {
            self.retention.add(delta.len())?;
            self.text.push_str(delta);
        }
        self.delta(Message { content: Some(Some(delta)), ..Message::default() }, out);
        Ok(())
    }

    fn reasoning(&mut self, delta: &str, out: &mut BytesMut) -> Result<(), Failure> {
        if !self.streams() {
            self.retention.add(delta.len())?;
            self.reasoning.push_str(delta);
        }
        self.delta(Message { reasoning_content: Some(delta), ..Message::default() }, out);
        Ok(())
    }

    fn call_started(
        &mut self,
        key: CallKey,
        call_id: String,
        name: &str,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        let (tool, found) = called(&self.settings.tools, name)?;
        let is_function = found.kind != ToolKind::Freeform;
        let call_id = if call_id.is_empty() { self.ids.mint("call") } else { call_id };
        let call = OpenCall { key, call_id, tool, arguments: String::new(), complete: None };
        self.calls.push(call);
        // The input of a freeform call is known when its JSON is complete.
        if is_function {
            self.call_chunk(self.calls.len() - 1, true, "", out);
        }
        Ok(())
    }

    fn call_delta(&mut self, key: CallKey, delta: &str, out: &mut BytesMut) -> Result<(), Failure> {
        self.retention.add(delta.len())?;
        let Some(at) = self.calls.iter().position(|call| call.key == key) else {
            return Ok(());
        };
        let call = &mut self.calls[at];
        let held = may_be_none(&call.arguments);
        call.arguments.push_str(delta);
        let is_function = self.settings.tools[call.tool].kind != ToolKind::Freeform;
        if is_function && !may_be_none(&call.arguments) {
            let whole = held.then(|| call.arguments.clone());
            self.call_chunk(at, false, whole.as_deref().unwrap_or(delta), out);
        }
        Ok(())
    }

    fn call_ended(&mut self, key: CallKey, out: &mut BytesMut) -> Result<(), Failure> {
        let Some(at) = self.calls.iter().position(|call| call.key == key) else {
            return Ok(());
        };
        let call = &self.calls[at];
        let tool = &self.settings.tools[call.tool];
        let is_function = tool.kind != ToolKind::Freeform;
        let unsaid = may_be_none(&call.arguments);
        let complete = Arguments::of_call(tool, &call.arguments)?.into_text();
        if !is_function {
            self.call_chunk(at, true, &complete, out);
        } else if unsaid {
            self.call_chunk(at, false, &complete, out);
        }
        self.calls[at].complete = Some(complete);
        Ok(())
    }

    fn call_chunk(&mut self, at: usize, begins: bool, text: &str, out: &mut BytesMut) {
        if !self.streams() {
            return;
        }
        self.start(out);
        let call = self.wire_call(at, begins, text, true);
        self.write(Message { tool_calls: vec![call], ..Message::default() }, None, out);
    }

    fn wire_call<'a>(&'a self, at: usize, begins: bool, text: &'a str, indexed: bool) -> Call<'a> {
        let call = &self.calls[at];
        let tool = &self.settings.tools[call.tool];
        let name = tool.name.name.as_str();
        let custom = tool.kind == ToolKind::Freeform;
        Call {
            index: indexed.then_some(at),
            id: begins.then_some(&call.call_id),
            kind: begins.then_some(if custom { "custom" } else { "function" }),
            function: (!custom)
                .then_some(Function { name: begins.then_some(name), arguments: text }),
            custom: custom.then_some(Custom { name, input: text }),
        }
    }

    fn delta(&mut self, delta: Message<'_>, out: &mut BytesMut) {
        if self.streams() {
            self.start(out);
            self.write(delta, None, out);
        }
    }

    fn start(&mut self, out: &mut BytesMut) {
        if !self.streams() || std::mem::replace(&mut self.started, true) {
            return;
        }
        let (role, content) = (Some("assistant"), Some(Some("")));
        self.write(Message { role, content, ..Message::default() }, None, out);
    }

    fn write(&self, delta: Message<'_>, finish_reason: Option<&'static str>, out: &mut BytesMut) {
        let choice =
            Choice { index: 0, delta: Some(delta), message: None, logprobs: None, finish_reason };
        write_frame(out, "", &self.chunk("chat.completion.chunk", vec![choice], None));
    }

    fn chunk<'a>(
        &'a self,
        object: &'static str,
        choices: Vec<Choice<'a>>,
        usage: Option<UsageField>,
    ) -> Chunk<'a> {
        let EmitterSettings { created_at, model, .. } = &self.settings;
        Chunk { id: &self.id, object, created: *created_at, model, choices, usage }
    }

    fn finish(&mut self, reason: FinishReason, out: &mut BytesMut) -> Result<(), Failure> {
        let cut = self.calls.iter().any(|call| call.complete.is_none());
        if cut && reason != FinishReason::Length {
            return Err(Failure::answer("tool_call_cut", "the answer ended inside a tool call"));
        }
        let finish = match reason {
            FinishReason::Length => "length",
            FinishReason::Filtered => "content_filter",
            FinishReason::Stop if self.calls.is_empty() => "stop",
            FinishReason::Stop => "tool_calls",
        };
        self.finish = Some(finish);
        self.terminal = Some(match reason {
            FinishReason::Stop => Terminal::Completed,
            FinishReason::Length | FinishReason::Filtered => Terminal::Incomplete,
        });
        if self.streams() {
            self.start(out);
            self.write(Message::default(), Some(finish), out);
            if self.settings.include_usage {
                let usage = Some(self.usage.unwrap_or_default().into());
                write_frame(out, "", &self.chunk("chat.completion.chunk", Vec::new(), usage));
            }
            out.extend_from_slice(DONE);
        }
        Ok(())
    }
}

impl Emit for Emitter {
    fn id(&self) -> &str {
        &self.id
    }

    fn terminal(&self) -> Option<Terminal> {
        self.terminal
    }

    fn usage(&self) -> Option<Usage> {
        self.usage
    }

    fn push(&mut self, event: Event, out: &mut BytesMut) -> Result<(), Failure> {
        if self.terminal.is_some() {
            return Ok(());
        }
        match event {
            Event::TextDelta(delta) => self.text(&delta, out),
            Event::ReasoningDelta(_) if !self.settings.show_reasoning => Ok(()),
            Event::ReasoningDelta(delta) => self.reasoning(&delta, out),
            Event::State(state) => {
                // `reasoning_content` brings the text back; no field would bring back the rest.
                if state.signature.is_some() || state.redacted.is_some() {
                    self.losses.add(LossKind::Reasoning);
                }
                Ok(())
            }
            Event::CallStarted { call, call_id, name } => {
                self.call_started(call, call_id, &name, out)
            }
            Event::CallDelta { call, arguments } => self.call_delta(call, &arguments, out),
            Event::CallEnded { call } => self.call_ended(call, out),
            Event::Usage(usage) => {
                self.usage = Some(usage);
                Ok(())
            }
            // There is no field for it.
            Event::StopSequence(_) => Ok(()),
            Event::Verbatim(_) | Event::Document(_) => Err(Failure::unrelayable()),
            Event::Finished(reason) => self.finish(reason, out),
        }
    }

    fn keepalive(&mut self, out: &mut BytesMut) -> Option<KeepaliveStyle> {
        if self.terminal.is_some() {
            return None;
        }
        out.extend_from_slice(b": keepalive\n\n");
        Some(KeepaliveStyle::Comment)
    }

    fn fail(&mut self, failure: &Failure, out: &mut BytesMut) {
        if self.terminal.is_some() {
            return;
        }
        self.terminal = Some(Terminal::Failed);
        // SDKs raise this as an error; `[DONE]` after it would look like a good end to others.
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&failure.document());
        out.extend_from_slice(b"\n\n");
    }

    fn losses(&self) -> Losses {
        self.losses
    }

    fn into_document(self: Box<Self>) -> Bytes {
        let tool_calls = (0..self.calls.len())
            .filter_map(|at| {
                let text = self.calls[at].complete.as_deref()?;
                Some(self.wire_call(at, true, text, false))
            })
            .collect::<Vec<_>>();
        let content = Some(self.text.as_str()).filter(|text| {
            // A message without calls has a text, if an empty one.
            !text.is_empty() || tool_calls.is_empty()
        });
        let message = Message {
            role: Some("assistant"),
            content: Some(content),
            refusal: None,
            reasoning_content: Some(self.reasoning.as_str()).filter(|text| !text.is_empty()),
            tool_calls,
        };
        let choice = Choice {
            index: 0,
            delta: None,
            message: Some(message),
            logprobs: None,
            finish_reason: self.finish,
        };
        let usage = self.usage.unwrap_or_default().into();
        let document = self.chunk("chat.completion", vec![choice], Some(usage));
        // Our own types serialise.
        serde_json::to_vec(&document).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests;
