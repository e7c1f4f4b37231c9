//! A model that answers from a script in whichever protocol it is asked, and holds every request to
//! the rules that the protocol's vendor publishes. So one scenario runs over every adapter.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{
    chat, chat_rules, google_rules, messages_rules,
    upstream::{Asked, Reply, Upstream},
};

/// An upstream protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Chat,
    Anthropic,
    Google,
    Responses,
}

impl Wire {
    pub const TRANSLATED: [Self; 3] = [Self::Chat, Self::Anthropic, Self::Google];
    pub const ALL: [Self; 4] = [Self::Chat, Self::Anthropic, Self::Google, Self::Responses];

    pub fn adapter(self) -> &'static str {
        match self {
            Self::Chat => "openai-chat",
            Self::Anthropic => "anthropic",
            Self::Google => "google",
            Self::Responses => "openai-responses",
        }
    }

    /// A model whose thinking must come back as it was.
    pub fn thinking_model(self) -> &'static str {
        match self {
            Self::Chat => "thinker",
            Self::Anthropic => "claude-sonnet-4-5",
            Self::Google => "gemini-3-pro",
            Self::Responses => "gpt-5.5",
        }
    }

    /// The config of a provider that speaks it.
    pub fn provider(self, upstream: &Upstream) -> Value {
        json!({"adapter": self.adapter(), "baseUrl": upstream.base_url(), "authMode": "local",
            "liveModels": false, "models": [self.thinking_model(), "m"],
            "preserveReasoningContentModels": ["thinker"]})
    }

    fn of(line: &str) -> Option<Self> {
        let path = line.split(' ').nth(1)?;
        if path.ends_with("/chat/completions") {
            Some(Self::Chat)
        } else if path.ends_with("/messages") {
            Some(Self::Anthropic)
        } else if path.contains("enerateContent") {
            Some(Self::Google)
        } else {
            path.ends_with("/responses").then_some(Self::Responses)
        }
    }
}

/// What the model is to say.
#[derive(Clone, Debug)]
pub enum Say {
    Think(String),
    Text(String),
    Call(String, Value),
    /// The token limit.
    Limit,
}

pub fn text(text: &str) -> Say {
    Say::Text(text.to_owned())
}

pub fn think(text: &str) -> Say {
    Say::Think(text.to_owned())
}

pub fn call(name: &str, arguments: Value) -> Say {
    Say::Call(name.to_owned(), arguments)
}

/// A request, whatever its protocol.
#[derive(Clone, Debug)]
pub struct Question {
    pub wire: Wire,
    pub stream: bool,
    pub body: Value,
    pub system: String,
    /// Results of tools so far, as text.
    pub results: Vec<String>,
    pub tools: Vec<String>,
    pub images: usize,
    /// All that a user said, one message after the other.
    pub said: Vec<String>,
}

/// A model behind a server.
#[derive(Clone)]
pub struct Scripted {
    pub upstream: Upstream,
    pub violations: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    /// Answers with what `script` says.
    pub fn start(script: impl Fn(&Question) -> Vec<Say> + Send + Sync + 'static) -> Self {
        Self::with(move |question, _| render(question, &script(question)))
    }

    /// Answers with what `script` makes of a request.
    pub fn with(script: impl Fn(&Question, &Asked) -> Reply + Send + Sync + 'static) -> Self {
        let violations: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&violations);
        let upstream = Upstream::start(move |asked| {
            if asked.line.contains("/messages/count_tokens ") {
                return Reply::json(200, &json!({"input_tokens": 12}));
            }
            let Some(question) = read(asked) else {
                return Reply::json(404, &json!({"error": {"message": "no such path"}}));
            };
            let wrong = match question.wire {
                Wire::Chat => chat_rules::violations(&question.body),
                Wire::Anthropic => messages_rules::violations(&question.body),
                Wire::Google => google_rules::violations(&question.body),
                Wire::Responses => Vec::new(),
            };
            if wrong.is_empty() {
                return script(&question, asked);
            }
            noted.lock().unwrap().extend(wrong.clone());
            Reply::json(
                400,
                &json!({"error": {"message": wrong.join("; "), "type": "invalid_request_error"}}),
            )
        });
        Self { upstream, violations }
    }

    pub fn questions(&self) -> Vec<Question> {
        self.upstream.asked().iter().filter_map(read).collect()
    }

    /// The bodies as they came, byte for byte.
    pub fn bodies(&self) -> Vec<String> {
        let asked = self.upstream.asked();
        let calls = asked.iter().filter(|asked| Wire::of(&asked.line).is_some());
        calls.map(|asked| String::from_utf8(asked.body.clone()).unwrap()).collect()
    }

    pub fn assert_rules_kept(&self) {
        assert_eq!(*self.violations.lock().unwrap(), Vec::<String>::new());
    }
}

/// The texts of a message, which may be one or a list of parts.
fn texts(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .map(|part| part["text"].as_str().unwrap_or(""))
            .collect::<Vec<_>>()
            .join("\n"),
        _ => String::new(),
    }
}

fn read(asked: &Asked) -> Option<Question> {
    let wire = Wire::of(&asked.line)?;
    let body = asked.json();
    let raw = body.to_string();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let strings = |values: Vec<Value>, pointer: &str| -> Vec<String> {
        values.iter().filter_map(|v| v.pointer(pointer)?.as_str().map(str::to_owned)).collect()
    };
    let mut question = Question {
        wire,
        stream: body["stream"] == true,
        system: String::new(),
        results: Vec::new(),
        tools: Vec::new(),
        images: 0,
        said: Vec::new(),
        body,
    };
    let body = &question.body;
    match wire {
        Wire::Chat => {
            let messages = list(&body["messages"]);
            let of = |role: &str| -> Vec<String> {
                let messages = messages.iter().filter(|message| message["role"] == role);
                messages.map(|message| texts(&message["content"])).collect()
            };
            (question.system, question.results, question.said) =
                (of("system").join("\n"), of("tool"), of("user"));
            question.tools = strings(list(&body["tools"]), "/function/name");
            question.images = raw.matches("\"type\":\"image_url\"").count();
        }
        Wire::Anthropic => {
            question.system = texts(&body["system"]);
            question.tools = strings(list(&body["tools"]), "/name");
            question.images = raw.matches("\"type\":\"image\"").count();
            for message in list(&body["messages"]) {
                for block in list(&message["content"]) {
                    match block["type"].as_str() {
                        Some("tool_result") => question.results.push(texts(&block["content"])),
                        Some("text") if message["role"] == "user" => {
                            question.said.push(block["text"].as_str().unwrap().to_owned());
                        }
                        _ => {}
                    }
                }
            }
        }
        Wire::Google => {
            question.stream = asked.line.contains(":stream");
            question.system = texts(&body["systemInstruction"]["parts"]);
            question.tools = strings(list(&body["tools"][0]["functionDeclarations"]), "/name");
            question.images = raw.matches("\"inlineData\"").count();
            for content in list(&body["contents"]) {
                for part in list(&content["parts"]) {
                    if let Some(response) = part.get("functionResponse") {
                        let outcome = response["response"].as_object().unwrap().values().next();
                        question.results.push(outcome.unwrap().as_str().unwrap().to_owned());
                    } else if let (Some(text), "user") =
                        (part["text"].as_str(), content["role"].as_str().unwrap())
                    {
                        question.said.push(text.to_owned());
                    }
                }
            }
        }
        Wire::Responses => {
            question.system = body["instructions"].as_str().unwrap_or_default().to_owned();
            question.tools = strings(list(&body["tools"]), "/name");
            question.images = raw.matches("\"type\":\"input_image\"").count();
            for item in list(&body["input"]) {
                match item["type"].as_str().unwrap_or("message") {
                    "function_call_output" | "custom_tool_call_output" => {
                        question.results.push(texts(&item["output"]));
                    }
                    "message" if item["role"] == "user" => {
                        question.said.push(texts(&item["content"]));
                    }
                    "message" if item["role"] == "developer" => {
                        question.system.push_str(&texts(&item["content"]));
                    }
                    _ => {}
                }
            }
        }
    }
    Some(question)
}

/// An answer in the protocol of the question.
pub fn render(question: &Question, says: &[Say]) -> Reply {
    // Ids and signatures tell the turns apart.
    let turn = question.results.len();
    match (question.wire, question.stream) {
        (Wire::Chat, true) => Reply::chat(&chat_frames(says, turn)),
        (Wire::Chat, false) => Reply::json(200, &chat_document(says, turn)),
        (Wire::Anthropic, true) => Reply::chat(&anthropic_frames(says, turn)),
        (Wire::Anthropic, false) => Reply::json(200, &anthropic_document(says, turn)),
        (Wire::Google, true) => Reply::chat(&google_chunks(says, turn)),
        (Wire::Google, false) => {
            let parts: Vec<Value> = google_parts(says, turn);
            Reply::json(200, &google_chunk(&parts, Some(google_reason(says))))
        }
        (Wire::Responses, true) => Reply::chat(&responses_frames(says, turn)),
        (Wire::Responses, false) => {
            Reply::json(200, &responses_document(&responses_items(says, turn), says))
        }
    }
}

fn limited(says: &[Say]) -> bool {
    says.iter().any(|say| matches!(say, Say::Limit))
}

fn calls(says: &[Say]) -> bool {
    says.iter().any(|say| matches!(say, Say::Call(..)))
}

fn chat_frames(says: &[Say], turn: usize) -> Vec<Value> {
    let mut frames = vec![chat::delta(json!({"role": "assistant", "content": ""}))];
    let mut index = 0;
    for say in says {
        match say {
            Say::Think(text) => frames.push(chat::delta(json!({"reasoning_content": text}))),
            Say::Text(text) => frames.extend(text.split_inclusive(' ').map(chat::text)),
            Say::Call(name, arguments) => {
                let id = format!("call_{turn}_{index}");
                frames.push(chat::delta(json!({"tool_calls": [{"index": index, "id": id,
                    "type": "function", "function": {"name": name, "arguments": ""}}]})));
                let text = arguments.to_string();
                let half =
                    (0..=text.len() / 2).rev().find(|at| text.is_char_boundary(*at)).unwrap();
                frames.extend([chat::more(index, &text[..half]), chat::more(index, &text[half..])]);
                index += 1;
            }
            Say::Limit => {}
        }
    }
    let reason = match (limited(says), calls(says)) {
        (true, _) => "length",
        (_, true) => "tool_calls",
        _ => "stop",
    };
    frames.extend(chat::end(reason));
    frames
}

fn chat_document(says: &[Say], turn: usize) -> Value {
    let mut message = json!({"role": "assistant", "content": ""});
    let mut tool_calls = Vec::new();
    for say in says {
        match say {
            Say::Think(text) => message["reasoning_content"] = text.as_str().into(),
            Say::Text(text) => message["content"] = text.as_str().into(),
            Say::Call(name, arguments) => tool_calls.push(json!({
                "id": format!("call_{turn}_{}", tool_calls.len()), "type": "function",
                "function": {"name": name, "arguments": arguments.to_string()}})),
            Say::Limit => {}
        }
    }
    if !tool_calls.is_empty() {
        message["tool_calls"] = tool_calls.into();
    }
    let reason = if limited(says) { "length" } else { "stop" };
    json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}})
}

fn anthropic_blocks(says: &[Say], turn: usize) -> Vec<Value> {
    let mut blocks = Vec::new();
    for say in says {
        let n = blocks.len();
        blocks.push(match say {
            Say::Think(text) => {
                json!({"type": "thinking", "thinking": text, "signature": format!("sig-{turn}-{n}")})
            }
            Say::Text(text) => json!({"type": "text", "text": text}),
            Say::Call(name, input) => {
                json!({"type": "tool_use", "id": format!("toolu_{turn}_{n}"), "name": name, "input": input})
            }
            Say::Limit => continue,
        });
    }
    blocks
}

fn anthropic_reason(says: &[Say]) -> &'static str {
    match (limited(says), calls(says)) {
        (true, _) => "max_tokens",
        (_, true) => "tool_use",
        _ => "end_turn",
    }
}

fn anthropic_frames(says: &[Say], turn: usize) -> Vec<Value> {
    let usage = json!({"input_tokens": 6, "cache_read_input_tokens": 5, "output_tokens": 1});
    let mut frames =
        vec![json!({"type": "message_start", "message": {"id": "msg", "type": "message",
        "role": "assistant", "content": [], "usage": usage}})];
    for (index, block) in anthropic_blocks(says, turn).into_iter().enumerate() {
        let mut started = block.clone();
        let mut deltas = Vec::new();
        match block["type"].as_str().unwrap() {
            "text" => {
                started["text"] = "".into();
                let text = block["text"].as_str().unwrap();
                deltas.extend(
                    text.split_inclusive(' ').map(|t| json!({"type": "text_delta", "text": t})),
                );
            }
            "thinking" => {
                (started["thinking"], started["signature"]) = ("".into(), "".into());
                deltas.push(json!({"type": "thinking_delta", "thinking": block["thinking"]}));
                deltas.push(json!({"type": "signature_delta", "signature": block["signature"]}));
            }
            _ => {
                started["input"] = json!({});
                let text = block["input"].to_string();
                let half =
                    (0..=text.len() / 2).rev().find(|at| text.is_char_boundary(*at)).unwrap();
                for piece in [&text[..half], &text[half..]] {
                    deltas.push(json!({"type": "input_json_delta", "partial_json": piece}));
                }
            }
        }
        frames
            .push(json!({"type": "content_block_start", "index": index, "content_block": started}));
        frames.extend(
            deltas
                .iter()
                .map(|d| json!({"type": "content_block_delta", "index": index, "delta": d})),
        );
        frames.push(json!({"type": "content_block_stop", "index": index}));
    }
    frames.push(json!({"type": "message_delta", "delta": {"stop_reason": anthropic_reason(says)},
        "usage": {"output_tokens": 7}}));
    frames.push(json!({"type": "message_stop"}));
    frames
}

fn anthropic_document(says: &[Say], turn: usize) -> Value {
    json!({"id": "msg", "type": "message", "role": "assistant", "model": "m",
        "content": anthropic_blocks(says, turn), "stop_reason": anthropic_reason(says),
        "usage": {"input_tokens": 6, "cache_read_input_tokens": 5, "output_tokens": 7}})
}

fn google_parts(says: &[Say], turn: usize) -> Vec<Value> {
    let mut signed = false;
    let parts = says.iter().filter_map(|say| {
        Some(match say {
            Say::Think(text) => json!({"text": text, "thought": true}),
            Say::Text(text) => json!({"text": text}),
            Say::Call(name, args) => {
                let mut part = json!({"functionCall": {"name": name, "args": args}});
                // Only the first of a batch is signed.
                if !std::mem::replace(&mut signed, true) {
                    part["thoughtSignature"] = format!("gsig-{turn}").into();
                }
                part
            }
            Say::Limit => return None,
        })
    });
    parts.collect()
}

fn google_reason(says: &[Say]) -> &'static str {
    if limited(says) { "MAX_TOKENS" } else { "STOP" }
}

fn google_chunk(parts: &[Value], reason: Option<&str>) -> Value {
    let mut candidate = json!({"index": 0, "content": {"role": "model", "parts": parts}});
    if let Some(reason) = reason {
        candidate["finishReason"] = reason.into();
    }
    json!({"candidates": [candidate], "usageMetadata": {"promptTokenCount": 11,
        "candidatesTokenCount": 5, "thoughtsTokenCount": 2, "cachedContentTokenCount": 5}})
}

fn google_chunks(says: &[Say], turn: usize) -> Vec<Value> {
    let parts = google_parts(says, turn);
    let mut chunks: Vec<Value> =
        parts.iter().map(|part| google_chunk(std::slice::from_ref(part), None)).collect();
    chunks.push(google_chunk(&[], Some(google_reason(says))));
    chunks
}

fn responses_items(says: &[Say], turn: usize) -> Vec<Value> {
    let mut items = Vec::new();
    for say in says {
        let n = items.len();
        items.push(match say {
            Say::Think(text) => json!({"type": "reasoning", "id": format!("rs_{turn}_{n}"),
                "summary": [{"type": "summary_text", "text": text}], "encrypted_content": format!("enc-{turn}-{n}")}),
            Say::Text(text) => json!({"type": "message", "id": format!("msg_{turn}_{n}"), "role": "assistant",
                "status": "completed", "content": [{"type": "output_text", "text": text, "annotations": []}]}),
            Say::Call(name, arguments) => json!({"type": "function_call", "id": format!("fc_{turn}_{n}"),
                "call_id": format!("call_{turn}_{n}"), "name": name, "arguments": arguments.to_string(), "status": "completed"}),
            Say::Limit => continue,
        });
    }
    items
}

fn responses_document(items: &[Value], says: &[Say]) -> Value {
    let mut response = json!({"id": "resp_up", "object": "response", "created_at": 1, "model": "m",
        "status": if limited(says) { "incomplete" } else { "completed" }, "output": items,
        "usage": {"input_tokens": 11, "input_tokens_details": {"cached_tokens": 5},
            "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 18}});
    if limited(says) {
        response["incomplete_details"] = json!({"reason": "max_output_tokens"});
    }
    response
}

fn responses_frames(says: &[Say], turn: usize) -> Vec<Value> {
    let items = responses_items(says, turn);
    let mut frames = vec![json!({"type": "response.created",
        "response": {"id": "resp_up", "object": "response", "created_at": 1, "model": "m",
            "status": "in_progress", "output": []}})];
    for (n, item) in items.iter().enumerate() {
        let mut event = |kind: &str, fields: Value| {
            let mut event = json!({"type": format!("response.{kind}"), "output_index": n, "item_id": item["id"]});
            event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            frames.push(event);
        };
        let mut added = item.clone();
        added["status"] = "in_progress".into();
        match item["type"].as_str().unwrap() {
            "message" => {
                added["content"] = json!([]);
                event("output_item.added", json!({"item": added}));
                let part = &item["content"][0];
                let empty = json!({"type": "output_text", "text": "", "annotations": []});
                event("content_part.added", json!({"content_index": 0, "part": empty}));
                event("output_text.delta", json!({"content_index": 0, "delta": part["text"]}));
                event("output_text.done", json!({"content_index": 0, "text": part["text"]}));
                event("content_part.done", json!({"content_index": 0, "part": part}));
            }
            "reasoning" => {
                added["summary"] = json!([]);
                event("output_item.added", json!({"item": added}));
                let part = &item["summary"][0];
                event("reasoning_summary_part.added", json!({"summary_index": 0, "part": part}));
                event(
                    "reasoning_summary_text.delta",
                    json!({"summary_index": 0, "delta": part["text"]}),
                );
            }
            _ => {
                added["arguments"] = "".into();
                event("output_item.added", json!({"item": added}));
                event("function_call_arguments.delta", json!({"delta": item["arguments"]}));
                event("function_call_arguments.done", json!({"arguments": item["arguments"]}));
            }
        }
        event("output_item.done", json!({"item": item}));
    }
    let terminal = if limited(says) { "response.incomplete" } else { "response.completed" };
    frames.push(json!({"type": terminal, "response": responses_document(&items, says)}));
    for (n, frame) in frames.iter_mut().enumerate() {
        frame["sequence_number"] = n.into();
    }
    frames
}
