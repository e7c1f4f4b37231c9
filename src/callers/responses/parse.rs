//! A request body → a [`Call`].

use bytes::Bytes;

use super::{
    super::{
        Call, ParseError, conversation::Conversation, read_body, required_model, stop_list,
        tools::tool_choice,
    },
    request::{Body, Format},
};
use crate::{
    model::{
        Effort, JsonSchemaFormat, LossKind, Message, OutputFormat, Part, Prompt, Reasoning,
        Sampling,
    },
    wire::json::TextOrList,
};

/// Reads a `POST /v1/responses` body.
///
/// # Errors
///
/// When the body is not a JSON object, a documented field has the wrong type, `model` is missing,
/// or `tool_choice` names no tool. Unknown fields, items, parts and tools are never an error.
pub fn parse(raw: Bytes) -> Result<Call, ParseError> {
    let body: Body<'_> = read_body(&raw)?;
    let model = required_model(body.model.non_empty())?;

    let mut conversation = Conversation::default();
    conversation.system.extend(body.instructions.non_empty().map(str::to_owned));
    conversation.tools.add_all(body.tools.list(), &mut conversation.losses);
    match &body.input {
        TextOrList::Nothing => {}
        TextOrList::Text(text) => {
            conversation.messages.push(Message::User(vec![Part::Text(text.clone().into_owned())]));
        }
        TextOrList::List(items) => {
            for item in items {
                match &item.0 {
                    Some(item) => conversation.item(item),
                    None => conversation.unknown_item(),
                }
            }
        }
    }
    conversation.finish();
    let Conversation { system, messages, tools, mut losses, compaction, .. } = conversation;
    for _ in 0..body.uncarried() {
        losses.add(LossKind::Field);
    }
    let mut tools = tools.into_tools();
    let tool_choice = tool_choice(body.tool_choice, &mut tools)?;
    let reasoning = reasoning(&body);
    let output = output_format(&body);
    let stop = stop_list(&body.stop);
    let prompt = Prompt {
        system,
        messages,
        tools,
        tool_choice,
        parallel_tool_calls: body.parallel_tool_calls,
        reasoning,
        output,
        stream: body.stream.unwrap_or(false),
        previous_response_id: body.previous_response_id.non_empty().map(str::to_owned),
        prompt_cache_key: body.prompt_cache_key.non_empty().map(str::to_owned),
        service_tier: body.service_tier.non_empty().map(str::to_owned),
        sampling: Sampling {
            max_output_tokens: body.max_output_tokens,
            temperature: body.temperature,
            top_p: body.top_p,
            presence_penalty: body.presence_penalty,
            frequency_penalty: body.frequency_penalty,
            stop,
        },
        compaction,
        losses,
        raw: Some(raw.clone()),
    };
    Ok(Call { model, prompt, include_usage: false })
}

fn reasoning(body: &Body<'_>) -> Reasoning {
    let Some(field) = &body.reasoning.0 else {
        return Reasoning::default();
    };
    Reasoning {
        effort: field.effort.get().and_then(Effort::parse),
        show: field.summary.non_empty().is_some_and(|summary| summary != "none"),
        ..Reasoning::default()
    }
}

fn output_format(body: &Body<'_>) -> OutputFormat {
    let format = body.text.0.as_ref().and_then(|text| text.format.0.as_ref());
    match format {
        Some(Format { kind, .. }) if kind.get() == Some("json_object") => OutputFormat::JsonObject,
        Some(Format { kind, name, description, schema: Some(schema), strict })
            if kind.get() == Some("json_schema") =>
        {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::ToolChoice;

    fn ok(json: &str) -> Call {
        parse(Bytes::copy_from_slice(json.as_bytes())).unwrap_or_else(|e| panic!("{json}: {e}"))
    }

    fn refused(json: &str) -> String {
        parse(Bytes::copy_from_slice(json.as_bytes())).expect_err(json).to_string()
    }

    #[test]
    fn the_smallest_body_is_enough() {
        let call = ok(r#"{"model":"m","input":"hi","reasoning":null,"tools":null,"stop":null}"#);
        assert_eq!((call.model.as_str(), call.prompt.stream), ("m", false));
        assert_eq!(call.prompt.messages, [Message::User(vec![Part::Text("hi".into())])]);
        assert_eq!(call.prompt.tool_choice, ToolChoice::Unstated);
        assert!(ok(r#"{"model":"m"}"#).prompt.messages.is_empty());
    }

    #[test]
    fn options_are_read() {
        let call = ok(
            r#"{"model":"m","stream":true,"instructions":"sys","temperature":0.70,"stop":"X",
            "reasoning":{"effort":"ultra","summary":"auto"},"max_output_tokens":5,
            "text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"},"strict":true}}}"#,
        );
        let prompt = call.prompt;
        assert_eq!(prompt.system, ["sys"]);
        assert_eq!(
            prompt.reasoning,
            Reasoning { effort: Some(Effort::Max), show: true, ..Reasoning::default() }
        );
        assert_eq!(prompt.sampling.stop, ["X"]);
        assert!(
            matches!(prompt.output, OutputFormat::JsonSchema(format) if format.strict == Some(true))
        );
        for quiet in [r#"{"summary":"none"}"#, r#"{"effort":"low"}"#, "7"] {
            assert!(!ok(&format!(r#"{{"model":"m","reasoning":{quiet}}}"#)).prompt.reasoning.show);
        }
    }

    #[test]
    fn fields_that_no_translation_carries_are_counted() {
        let call = ok(
            r#"{"model":"m","max_tool_calls":3,"top_logprobs":null,"text":{"verbosity":"low"},"background":true,"truncation":"disabled",
            "metadata":{},"store":false,"include":[]}"#,
        );
        assert_eq!(call.prompt.losses.to_string(), "field=3");
    }

    #[test]
    fn a_refusal_names_the_place() {
        assert!(refused("{").starts_with("invalid JSON body"));
        assert!(refused("").starts_with("invalid JSON body"));
        assert_eq!(refused("{}"), "invalid request at /model: a model name is required");
        assert!(refused("[]").contains("invalid request at /:"), "{}", refused("[]"));
        let text = refused(r#"{"model":"m","temperature":"hot"}"#);
        assert!(text.contains("/temperature") && text.contains("number"), "{text}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(Bytes::from(bytes));
        }

        #[test]
        fn arbitrary_items_never_fail(items in proptest::collection::vec(item(), 0..8)) {
            let body = serde_json::json!({"model": "m", "input": items, "tools": items});
            prop_assert!(parse(Bytes::from(body.to_string())).is_ok());
        }
    }

    /// Items with known keys and values of any type.
    fn item() -> impl Strategy<Value = serde_json::Value> {
        let value = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i32>().prop_map(Into::into),
            "[a-z_]{0,12}".prop_map(Into::into),
            Just(serde_json::json!([{"type": "input_text", "text": 3}, 4, null])),
            Just(serde_json::json!({"type": "object", "url": []})),
        ];
        let keys = prop::sample::select(vec![
            "type",
            "role",
            "content",
            "summary",
            "output",
            "call_id",
            "name",
            "namespace",
            "input",
            "action",
            "id",
            "tools",
            "strict",
            "format",
            "function",
            "encrypted_content",
            "image_url",
            "arguments",
            "description",
            "parameters",
        ]);
        let kinds = prop::sample::select(vec![
            "message",
            "reasoning",
            "function_call",
            "function_call_output",
            "custom_tool_call",
            "tool_search_call",
            "tool_search_output",
            "local_shell_call",
            "compaction",
            "agent_message",
            "custom",
            "namespace",
            "function",
            "x",
        ]);
        (proptest::collection::btree_map(keys, value, 0..8), kinds).prop_map(|(mut map, kind)| {
            map.insert("type", kind.into());
            serde_json::to_value(map).expect("a map")
        })
    }
}
