//! The body of `POST /v1/messages` → a [`Call`].
//! Source: docs.anthropic.com/en/api/messages; what Claude Code 2.1.330 sends.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Number, value::RawValue};

use super::super::{
    Call, ParseError,
    conversation::Conversation,
    read_body, required_model,
    schema::{empty_schema, object_schema},
};
use crate::{
    model::{
        Effort, Image, JsonSchemaFormat, LossKind, Losses, OutputFormat, Part, Prompt, Reasoning,
        Sampling, ThinkingWish, Tool, ToolChoice, ToolKind, ToolName,
    },
    wire::json::{Count, Obj, Str, TextOrList},
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body<'a> {
    #[serde(borrow)]
    model: Str<'a>,
    #[serde(borrow)]
    messages: Option<Vec<Obj<WireMessage<'a>>>>,
    #[serde(borrow)]
    system: TextOrList<'a, Obj<Block<'a>>>,
    #[serde(borrow)]
    tools: TextOrList<'a, Obj<WireTool<'a>>>,
    #[serde(borrow)]
    tool_choice: Obj<Choice<'a>>,
    #[serde(borrow)]
    thinking: Obj<Thinking<'a>>,
    #[serde(borrow)]
    output_config: Obj<OutputConfig<'a>>,
    /// Where the format stood before `output_config`.
    #[serde(borrow)]
    output_format: Obj<Format<'a>>,
    max_tokens: Option<u64>,
    temperature: Option<Number>,
    top_p: Option<Number>,
    #[serde(borrow)]
    stop_sequences: TextOrList<'a, Str<'a>>,
    stream: Option<bool>,
    // What no translation carries; each that is there counts as lost.
    top_k: Option<IgnoredAny>,
    service_tier: Option<IgnoredAny>,
    context_management: Option<IgnoredAny>,
    container: Option<IgnoredAny>,
    mcp_servers: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireMessage<'a> {
    #[serde(borrow)]
    role: Str<'a>,
    #[serde(borrow)]
    content: TextOrList<'a, Obj<Block<'a>>>,
}

/// A content block of any type.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Str<'a>,
    #[serde(borrow)]
    text: Str<'a>,
    #[serde(borrow)]
    source: Obj<Source<'a>>,
    #[serde(borrow)]
    id: Str<'a>,
    #[serde(borrow)]
    name: Str<'a>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_use_id: Str<'a>,
    #[serde(borrow)]
    content: TextOrList<'a, Obj<Block<'a>>>,
    is_error: Option<bool>,
    #[serde(borrow)]
    thinking: Str<'a>,
    #[serde(borrow)]
    signature: Str<'a>,
    #[serde(borrow)]
    data: Str<'a>,
    #[serde(borrow)]
    title: Str<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Source<'a> {
    #[serde(borrow)]
    media_type: Str<'a>,
    #[serde(borrow)]
    data: Str<'a>,
    #[serde(borrow)]
    url: Str<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireTool<'a> {
    #[serde(borrow, rename = "type")]
    kind: Str<'a>,
    #[serde(borrow)]
    name: Str<'a>,
    #[serde(borrow)]
    description: Str<'a>,
    #[serde(borrow)]
    input_schema: Option<&'a RawValue>,
    strict: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice<'a> {
    #[serde(borrow, rename = "type")]
    kind: Str<'a>,
    #[serde(borrow)]
    name: Str<'a>,
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Thinking<'a> {
    #[serde(borrow, rename = "type")]
    kind: Str<'a>,
    budget_tokens: Count,
    #[serde(borrow)]
    display: Str<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OutputConfig<'a> {
    #[serde(borrow)]
    effort: Str<'a>,
    #[serde(borrow)]
    format: Obj<Format<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Format<'a> {
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
}

/// Reads a body.
///
/// # Errors
///
/// When the body is not a JSON object, a documented field has the wrong type, `model` or `messages`
/// is missing, or `tool_choice` names no tool.
pub fn parse(raw: &[u8]) -> Result<Call, ParseError> {
    let body: Body<'_> = read_body(raw)?;
    let model = required_model(body.model.non_empty())?;
    let messages = body
        .messages
        .as_ref()
        .ok_or_else(|| ParseError::invalid("/messages", "a list of messages is required"))?;
    let mut conversation = Conversation::default();
    let system = parts(&body.system, &mut conversation.losses);
    for part in &system {
        // Its blocks are paragraphs.
        conversation.system(std::slice::from_ref(part));
    }
    for message in messages {
        match &message.0 {
            Some(message) => conversation.wire_message(message),
            None => conversation.unknown_item(),
        }
    }
    conversation.finish();
    let Conversation { system, messages, mut losses, .. } = conversation;
    for field in [
        &body.top_k,
        &body.service_tier,
        &body.context_management,
        &body.container,
        &body.mcp_servers,
    ] {
        if field.is_some() {
            losses.add(LossKind::Field);
        }
    }
    let tools = tools(&body, &mut losses);
    let reasoning = reasoning(&body, &mut losses);
    let choice = body.tool_choice.0.as_ref();
    let prompt = Prompt {
        tool_choice: tool_choice(choice, &tools)?,
        parallel_tool_calls: choice
            .and_then(|choice| choice.disable_parallel_tool_use)
            .map(|disabled| !disabled),
        system,
        messages,
        tools,
        reasoning,
        output: output_format(&body),
        stream: body.stream.unwrap_or(false),
        previous_response_id: None,
        prompt_cache_key: None,
        service_tier: None,
        sampling: Sampling {
            max_output_tokens: body.max_tokens,
            stop: super::super::stop_list(&body.stop_sequences),
            temperature: body.temperature,
            top_p: body.top_p,
            ..Sampling::default()
        },
        compaction: false,
        losses,
        raw: None,
    };
    Ok(Call { model, prompt, include_usage: false })
}

impl Conversation {
    fn wire_message(&mut self, message: &WireMessage<'_>) {
        match message.role.or_empty() {
            "user" => self.user_blocks(&message.content),
            "assistant" => self.assistant_blocks(&message.content),
            // Claude Code puts reminders between the turns like this; they keep their place.
            "system" => {
                let content = parts(&message.content, &mut self.losses);
                self.developer(content);
            }
            _ => self.unknown_item(),
        }
    }

    /// Results and what the person says besides share one message here, and none in ours.
    fn user_blocks(&mut self, content: &TextOrList<'_, Obj<Block<'_>>>) {
        let TextOrList::List(blocks) = content else {
            let said = parts(content, &mut self.losses);
            return self.user(said);
        };
        let mut said = Vec::new();
        for block in blocks {
            match &block.0 {
                Some(block) if block.kind.get() == Some("tool_result") => {
                    if !said.is_empty() {
                        self.user(std::mem::take(&mut said));
                    }
                    let content = parts(&block.content, &mut self.losses);
                    let failed = block.is_error == Some(true);
                    self.result(block.tool_use_id.or_empty(), content, failed);
                }
                _ => said.extend(part(block, &mut self.losses)),
            }
        }
        if !said.is_empty() {
            self.user(said);
        }
    }

    fn assistant_blocks(&mut self, content: &TextOrList<'_, Obj<Block<'_>>>) {
        let TextOrList::List(blocks) = content else {
            let said = parts(content, &mut self.losses);
            return self.assistant_said(&said);
        };
        for block in blocks {
            let Obj(Some(wire)) = block else {
                self.losses.add(LossKind::UnknownPart);
                continue;
            };
            match wire.kind.or_empty() {
                "thinking" => {
                    let sealed = wire.signature.non_empty().map(str::to_owned);
                    self.reasoning(wire.thinking.or_empty().to_owned(), sealed);
                }
                "redacted_thinking" => {
                    self.reasoning(String::new(), wire.data.non_empty().map(str::to_owned));
                }
                "tool_use" => {
                    let input = wire.input.map_or("{}", RawValue::get).to_owned();
                    let arguments = self.object_text(input);
                    let name = ToolName::bare(wire.name.or_empty());
                    self.call(wire.id.or_empty(), name, ToolKind::Function, arguments);
                }
                _ => {
                    let said = part(block, &mut self.losses);
                    self.assistant_said(said.as_slice());
                }
            }
        }
    }
}

fn parts(content: &TextOrList<'_, Obj<Block<'_>>>, losses: &mut Losses) -> Vec<Part> {
    match content {
        TextOrList::Nothing => Vec::new(),
        TextOrList::Text(text) => vec![Part::Text(text.clone().into_owned())],
        TextOrList::List(blocks) => blocks.iter().filter_map(|block| part(block, losses)).collect(),
    }
}

fn part(block: &Obj<Block<'_>>, losses: &mut Losses) -> Option<Part> {
    let Obj(Some(block)) = block else {
        losses.add(LossKind::UnknownPart);
        return None;
    };
    let lost = |losses: &mut Losses, kind| {
        losses.add(kind);
        None
    };
    match block.kind.or_empty() {
        "text" => block.text.get().map(|text| Part::Text(text.to_owned())),
        "image" => {
            let source = block.source.0.as_ref();
            let url = source.and_then(image_url);
            match url {
                Some(url) => Some(Part::Image(Image { url, detail: None })),
                None => lost(losses, LossKind::Image),
            }
        }
        "document" => {
            losses.add(LossKind::File);
            Some(Part::Text(format!("[file: {}]", block.title.non_empty().unwrap_or("?"))))
        }
        "server_tool_use" | "web_search_tool_result" | "web_fetch_tool_result" => {
            lost(losses, LossKind::HostedItem)
        }
        _ => lost(losses, LossKind::UnknownPart),
    }
}

fn image_url(source: &Source<'_>) -> Option<String> {
    if let Some(url) = source.url.non_empty() {
        return Some(url.to_owned());
    }
    let (media_type, data) = (source.media_type.non_empty()?, source.data.non_empty()?);
    Some(format!("data:{media_type};base64,{data}"))
}

fn tools(body: &Body<'_>, losses: &mut Losses) -> Vec<Tool> {
    let mut tools: Vec<Tool> = Vec::new();
    for declared in body.tools.list() {
        let Obj(Some(declared)) = declared else {
            losses.add(LossKind::HostedTool);
            continue;
        };
        let ours = matches!(declared.kind.get(), None | Some("custom"));
        let Some(name) = declared.name.non_empty().filter(|_| ours) else {
            losses.add(LossKind::HostedTool);
            continue;
        };
        let name = ToolName::bare(name);
        let wire_name = name.wire();
        if tools.iter().any(|known| known.wire_name == wire_name) {
            losses.add(LossKind::ToolName);
            continue;
        }
        tools.push(Tool {
            name,
            wire_name,
            kind: ToolKind::Function,
            description: declared.description.or_empty().to_owned(),
            parameters: declared
                .input_schema
                .map_or_else(empty_schema, |schema| object_schema(schema, losses)),
            strict: declared.strict,
        });
    }
    tools
}

fn tool_choice(choice: Option<&Choice<'_>>, tools: &[Tool]) -> Result<ToolChoice, ParseError> {
    let Some(choice) = choice else {
        return Ok(ToolChoice::Unstated);
    };
    Ok(match choice.kind.or_empty() {
        "none" => ToolChoice::None,
        "any" => ToolChoice::Required,
        "tool" => {
            let name = choice.name.or_empty();
            let tool = tools.iter().find(|tool| tool.name.name == name).ok_or_else(|| {
                ParseError::invalid("/tool_choice", format!("no tool is called `{name}`"))
            })?;
            ToolChoice::Named(tool.wire_name.clone())
        }
        _ => ToolChoice::Auto,
    })
}

/// A budget is an effort to every other protocol, and to Claudes that only adapt; those that take a
/// budget get it back.
fn reasoning(body: &Body<'_>, losses: &mut Losses) -> Reasoning {
    let stated = body.output_config.0.as_ref().and_then(|config| config.effort.get());
    let stated = stated.and_then(Effort::parse);
    let Some(thinking) = &body.thinking.0 else {
        let thinking = ThinkingWish::Unstated;
        return Reasoning { effort: stated, thinking, ..Reasoning::default() };
    };
    let show = thinking.display.get() != Some("omitted");
    let wanted = Reasoning { effort: stated, show, ..Reasoning::default() };
    match thinking.kind.or_empty() {
        "enabled" => match thinking.budget_tokens.0 {
            None => Reasoning { effort: stated.or(Some(Effort::Medium)), ..wanted },
            budget_tokens => Reasoning { budget_tokens, ..wanted },
        },
        // What Anthropic does when no effort is stated.
        "adaptive" => Reasoning { effort: stated.or(Some(Effort::High)), ..wanted },
        "disabled" | "between_tools" => {
            Reasoning { effort: stated, thinking: ThinkingWish::Off, ..Reasoning::default() }
        }
        _ => {
            losses.add(LossKind::Field);
            Reasoning { thinking: ThinkingWish::Unstated, ..wanted }
        }
    }
}

fn output_format(body: &Body<'_>) -> OutputFormat {
    let format = body.output_config.0.as_ref().and_then(|config| config.format.0.as_ref());
    match format.or(body.output_format.0.as_ref()).and_then(|format| format.schema) {
        Some(schema) => OutputFormat::JsonSchema(JsonSchemaFormat {
            name: "response".to_owned(),
            description: None,
            schema: schema.to_owned(),
            strict: Some(true),
        }),
        None => OutputFormat::Text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{AssistantPart, Message};

    fn ok(body: Value) -> Call {
        parse(body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn claude_codes_history_is_read_in_order() {
        let prompt = ok(json!({"model": "m", "max_tokens": 100, "stream": true,
            "system": [{"type": "text", "text": "be"}, {"type": "text", "text": "good", "cache_control": {}}],
            "thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "max"},
            "tools": [{"name": "Read", "input_schema": {"type": "object"}, "defer_loading": true},
                {"type": "web_search_20250305", "name": "web_search"}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": true},
            "context_management": {"edits": []}, "metadata": {"user_id": "u"},
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "system", "content": "a reminder"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "ocxr1:x"},
                    {"type": "redacted_thinking", "data": "ocxr1:y"},
                    {"type": "text", "text": "doing"},
                    {"type": "tool_use", "id": "t1", "name": "Read", "input": {"a": 1}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "is_error": true, "content": [
                        {"type": "text", "text": "no"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}}]},
                    {"type": "text", "text": "go on"}]},
            ]})).prompt;
        assert_eq!(prompt.system, ["be", "good"]);
        assert_eq!(prompt.losses.to_string(), "hosted_tool=1,field=1");
        assert_eq!(prompt.parallel_tool_calls, Some(false));
        let reasoning = Reasoning { effort: Some(Effort::Max), ..Reasoning::default() };
        assert_eq!(prompt.reasoning, reasoning);
        assert!(matches!(&prompt.messages[1], Message::Developer(_)));
        let Message::Assistant(said) = &prompt.messages[2] else { panic!() };
        assert_eq!(said.len(), 4);
        let thought =
            AssistantPart::Reasoning { text: "hm".into(), encrypted: Some("ocxr1:x".into()) };
        assert_eq!(said[0], thought);
        let Message::ToolResult(result) = &prompt.messages[3] else { panic!() };
        assert!(result.failed && result.name.is_some());
        assert!(
            matches!(&result.content[1], Part::Image(image) if image.url == "data:image/png;base64,eA==")
        );
        assert_eq!(prompt.messages[4], Message::User(vec![Part::Text("go on".into())]));
    }

    #[test]
    fn thinking_is_an_effort_and_keeps_its_budget() {
        let reasoning = |thinking: Value| {
            ok(json!({"model": "m", "messages": [], "thinking": thinking})).prompt.reasoning
        };
        let enabled = reasoning(json!({"type": "enabled", "budget_tokens": 16384}));
        assert_eq!((enabled.wanted(), enabled.budget_tokens), (Some(Effort::High), Some(16384)));
        assert!(enabled.show);
        assert_eq!(reasoning(json!({"type": "adaptive"})).effort, Some(Effort::High));
        assert_eq!(reasoning(json!({"type": "disabled"})).wanted(), Some(Effort::None));
        assert_eq!(reasoning(json!(null)).effort, None);
    }

    #[test]
    fn a_refusal_names_the_place() {
        let refused = |body: Value| parse(body.to_string().as_bytes()).unwrap_err().to_string();
        assert!(refused(json!({"messages": []})).contains("/model"));
        assert!(refused(json!({"model": "m", "messages": 3})).contains("/messages"));
        let named =
            json!({"model": "m", "messages": [], "tool_choice": {"type": "tool", "name": "x"}});
        assert!(refused(named).contains("/tool_choice"));
    }
}
