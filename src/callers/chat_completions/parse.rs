//! The body of `POST /v1/chat/completions` → a [`Call`].
//! Source: platform.openai.com/docs/api-reference/chat/create; `reasoning_content` as DeepSeek's
//! clients send it back.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Number, value::RawValue};

use super::super::{
    Call, ParseError,
    conversation::Conversation,
    parts::{ContentPart, parts},
    read_body, required_model,
    tools::{ToolDeclaration, tool_choice},
};
use crate::{
    model::{
        Effort, JsonSchemaFormat, LossKind, OutputFormat, Part, Prompt, Reasoning, Sampling,
        ToolKind, ToolName,
    },
    wire::json::{Obj, Str, TextOrList},
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body<'a> {
    #[serde(borrow)]
    model: Str<'a>,
    #[serde(borrow)]
    messages: Option<Vec<Obj<ChatMessage<'a>>>>,
    #[serde(borrow)]
    tools: TextOrList<'a, Obj<ToolDeclaration<'a>>>,
    #[serde(borrow)]
    tool_choice: Option<&'a RawValue>,
    parallel_tool_calls: Option<bool>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    temperature: Option<Number>,
    top_p: Option<Number>,
    presence_penalty: Option<Number>,
    frequency_penalty: Option<Number>,
    #[serde(borrow)]
    stop: TextOrList<'a, Str<'a>>,
    stream: Option<bool>,
    stream_options: Obj<StreamOptions>,
    #[serde(borrow)]
    reasoning_effort: Str<'a>,
    #[serde(borrow)]
    response_format: Obj<ResponseFormat<'a>>,
    #[serde(borrow)]
    prompt_cache_key: Str<'a>,
    #[serde(borrow)]
    service_tier: Str<'a>,
    n: Option<u64>,
    // What no translation carries; each that is there counts as lost.
    seed: Option<IgnoredAny>,
    logit_bias: Option<IgnoredAny>,
    logprobs: Option<IgnoredAny>,
    top_logprobs: Option<IgnoredAny>,
    audio: Option<IgnoredAny>,
    prediction: Option<IgnoredAny>,
    web_search_options: Option<IgnoredAny>,
    verbosity: Option<IgnoredAny>,
    modalities: Option<IgnoredAny>,
    functions: Option<IgnoredAny>,
    function_call: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ResponseFormat<'a> {
    #[serde(borrow, rename = "type")]
    kind: Str<'a>,
    #[serde(borrow)]
    json_schema: Obj<SchemaFormat<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SchemaFormat<'a> {
    #[serde(borrow)]
    name: Str<'a>,
    #[serde(borrow)]
    description: Str<'a>,
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
    strict: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChatMessage<'a> {
    #[serde(borrow)]
    role: Str<'a>,
    #[serde(borrow)]
    content: TextOrList<'a, Obj<ContentPart<'a>>>,
    #[serde(borrow)]
    refusal: Str<'a>,
    #[serde(borrow)]
    reasoning_content: Str<'a>,
    #[serde(borrow)]
    reasoning: Str<'a>,
    #[serde(borrow)]
    tool_calls: TextOrList<'a, Obj<ToolCall<'a>>>,
    #[serde(borrow)]
    tool_call_id: Str<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToolCall<'a> {
    #[serde(borrow)]
    id: Str<'a>,
    #[serde(borrow)]
    function: Obj<CalledFunction<'a>>,
    #[serde(borrow)]
    custom: Obj<CalledCustom<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CalledFunction<'a> {
    #[serde(borrow)]
    name: Str<'a>,
    #[serde(borrow)]
    arguments: Str<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CalledCustom<'a> {
    #[serde(borrow)]
    name: Str<'a>,
    #[serde(borrow)]
    input: Str<'a>,
}

/// Reads a body.
///
/// # Errors
///
/// When the body is not a JSON object, a documented field has the wrong type, `model` or `messages`
/// is missing, `n` is not 1, or `tool_choice` names no tool.
pub fn parse(raw: &[u8]) -> Result<Call, ParseError> {
    let body: Body<'_> = read_body(raw)?;
    let model = required_model(body.model.non_empty())?;
    let messages = body
        .messages
        .as_ref()
        .ok_or_else(|| ParseError::invalid("/messages", "a list of messages is required"))?;
    if body.n.is_some_and(|n| n != 1) {
        return Err(ParseError::invalid("/n", "one answer per call is given; send `1` or nothing"));
    }
    let mut conversation = Conversation::default();
    conversation.tools.add_all(body.tools.list(), &mut conversation.losses);
    for message in messages {
        match &message.0 {
            Some(message) => conversation.chat_message(message),
            None => conversation.unknown_item(),
        }
    }
    conversation.finish();
    let Conversation { system, messages, tools, mut losses, .. } = conversation;
    for _ in 0..uncarried(&body) {
        losses.add(LossKind::Field);
    }
    let mut tools = tools.into_tools();
    let tool_choice = tool_choice(body.tool_choice, &mut tools)?;
    let prompt = Prompt {
        system,
        messages,
        tools,
        tool_choice,
        parallel_tool_calls: body.parallel_tool_calls,
        reasoning: Reasoning {
            effort: body.reasoning_effort.get().and_then(Effort::parse),
            // There is no way to ask; clients that cannot show it ignore the field.
            show: true,
            ..Reasoning::default()
        },
        output: output_format(&body),
        stream: body.stream.unwrap_or(false),
        previous_response_id: None,
        prompt_cache_key: body.prompt_cache_key.non_empty().map(str::to_owned),
        service_tier: body.service_tier.non_empty().map(str::to_owned),
        sampling: Sampling {
            max_output_tokens: body.max_completion_tokens.or(body.max_tokens),
            stop: super::super::stop_list(&body.stop),
            temperature: body.temperature,
            top_p: body.top_p,
            presence_penalty: body.presence_penalty,
            frequency_penalty: body.frequency_penalty,
        },
        compaction: false,
        losses,
        raw: None,
    };
    let include_usage =
        body.stream_options.0.and_then(|options| options.include_usage).unwrap_or(false);
    Ok(Call { model, prompt, include_usage })
}

fn uncarried(body: &Body<'_>) -> usize {
    [
        &body.seed,
        &body.logit_bias,
        &body.logprobs,
        &body.top_logprobs,
        &body.audio,
        &body.prediction,
        &body.web_search_options,
        &body.verbosity,
        &body.modalities,
        &body.functions,
        &body.function_call,
    ]
    .into_iter()
    .filter(|field| field.is_some())
    .count()
}

fn output_format(body: &Body<'_>) -> OutputFormat {
    let Some(format) = &body.response_format.0 else {
        return OutputFormat::Text;
    };
    match (format.kind.or_empty(), &format.json_schema.0) {
        ("json_object", _) => OutputFormat::JsonObject,
        ("json_schema", Some(SchemaFormat { name, description, schema: Some(schema), strict })) => {
            OutputFormat::JsonSchema(JsonSchemaFormat {
                name: name.non_empty().unwrap_or("response").to_owned(),
                description: description.non_empty().map(str::to_owned),
                schema: (*schema).to_owned(),
                strict: *strict,
            })
        }
        _ => OutputFormat::Text,
    }
}

impl Conversation {
    fn chat_message(&mut self, message: &ChatMessage<'_>) {
        let role = message.role.or_empty();
        if !matches!(role, "system" | "developer" | "user" | "assistant" | "tool") {
            return self.unknown_item();
        }
        let content = parts(&message.content, &mut self.losses);
        match role {
            "system" => self.system(&content),
            "developer" => self.developer(content),
            "user" => self.user(content),
            "tool" => self.result(message.tool_call_id.or_empty(), content, false),
            _ => self.chat_answer(message, &content),
        }
    }

    fn chat_answer(&mut self, message: &ChatMessage<'_>, said: &[Part]) {
        let reasoning = message.reasoning_content.non_empty().or(message.reasoning.non_empty());
        if let Some(reasoning) = reasoning {
            self.reasoning(reasoning.to_owned(), None);
        }
        self.assistant_said(said);
        self.assistant_text(message.refusal.or_empty().to_owned());
        for call in message.tool_calls.list() {
            let Obj(Some(call)) = call else {
                self.unknown_item();
                continue;
            };
            if let Some(custom) = &call.custom.0 {
                let arguments = serde_json::json!({"input": custom.input.or_empty()}).to_string();
                let name = ToolName::bare(custom.name.or_empty());
                self.call(call.id.or_empty(), name, ToolKind::Freeform, arguments);
            } else if let Some(function) = &call.function.0 {
                let arguments = self.object_text(function.arguments.or_empty().to_owned());
                let name = ToolName::bare(function.name.or_empty());
                self.call(call.id.or_empty(), name, ToolKind::Function, arguments);
            } else {
                self.unknown_item();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{AssistantPart, Message, ToolChoice};

    fn ok(body: Value) -> Call {
        parse(body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_conversation_with_tools_is_read() {
        let call = ok(
            json!({"model": "m", "stream": true, "stream_options": {"include_usage": true},
            "max_completion_tokens": 9, "reasoning_effort": "high", "stop": ["X"],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "messages": [
                {"role": "system", "content": "sys"},
                {"role": "user", "content": [{"type": "text", "text": "see"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA==", "detail": "low"}}]},
                {"role": "assistant", "content": null, "reasoning_content": "hm",
                    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
                {"role": "tool", "tool_call_id": "c1", "content": "one"},
            ]}),
        );
        let prompt = call.prompt;
        assert!(call.include_usage && prompt.stream && prompt.raw.is_none());
        assert_eq!(prompt.system, ["sys"]);
        assert_eq!(prompt.sampling.max_output_tokens, Some(9));
        assert_eq!(prompt.tool_choice, ToolChoice::Named("f".into()));
        let Message::User(parts) = &prompt.messages[0] else { panic!() };
        assert!(matches!(&parts[1], Part::Image(image) if image.detail.as_deref() == Some("low")));
        let Message::Assistant(parts) = &prompt.messages[1] else { panic!() };
        assert!(matches!(&parts[0], AssistantPart::Reasoning { text, .. } if text == "hm"));
        assert!(matches!(&parts[1], AssistantPart::Call(call) if call.arguments == "{\"a\":1}"));
        assert!(
            matches!(&prompt.messages[2], Message::ToolResult(result) if result.call_id == "c1")
        );
    }

    #[test]
    fn what_cannot_be_given_is_refused_or_counted() {
        let refused = |body: Value| parse(body.to_string().as_bytes()).unwrap_err().to_string();
        assert!(refused(json!({"messages": []})).contains("/model"));
        assert!(refused(json!({"model": "m"})).contains("/messages"));
        assert!(refused(json!({"model": "m", "messages": [], "n": 2})).contains("/n"));
        let call = ok(json!({"model": "m", "seed": 1, "logprobs": null, "logit_bias": {},
            "messages": [{"role": "critic", "content": "x"}, 7]}));
        assert_eq!(call.prompt.losses.to_string(), "unknown_item=2,field=2");
    }
}
