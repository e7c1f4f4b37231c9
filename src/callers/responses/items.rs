//! Input items → messages. An item that we do not know costs a count, never the turn: clients
//! replay their whole history with every call.

use serde_json::value::RawValue;

use super::{
    super::{
        conversation::Conversation,
        parts::{parts, texts},
    },
    request::Item,
};
use crate::{
    model::{LossKind, Part, ToolKind, ToolName},
    wire::{
        compaction,
        json::{Edit, edit_object},
    },
};

impl Conversation {
    /// Takes the next item.
    pub(super) fn item(&mut self, item: &Item<'_>) {
        match item.kind.get() {
            None if item.role.get().is_some() => self.message(item),
            Some("message") => self.message(item),
            Some("reasoning") => self.reasoning_item(item),
            Some("function_call") => self.function_call(item),
            Some("custom_tool_call") => self.custom_call(item),
            Some("tool_search_call") => self.search_call(item),
            Some("local_shell_call") => self.shell_call(item),
            Some(
                "function_call_output" | "custom_tool_call_output" | "local_shell_call_output",
            ) => {
                let content = parts(&item.output, &mut self.losses);
                self.result(answered(item), content, false);
            }
            Some("tool_search_output") => self.search_result(item),
            Some("additional_tools") => {
                let tools = item.tools.list();
                self.tools.add_all(tools, &mut self.losses);
            }
            Some("agent_message") => {
                let content = parts(&item.content, &mut self.losses);
                self.user(content);
            }
            Some("compaction" | "compaction_summary" | "context_compaction") => {
                self.compaction(item);
            }
            Some("compaction_trigger") => self.compaction = true,
            Some("web_search_call" | "image_generation_call") => {
                self.losses.add(LossKind::HostedItem);
            }
            _ => self.unknown_item(),
        }
    }

    fn message(&mut self, item: &Item<'_>) {
        let role = item.role.or_empty();
        if !matches!(role, "system" | "developer" | "user" | "assistant") {
            return self.unknown_item();
        }
        let content = parts(&item.content, &mut self.losses);
        match role {
            "system" => self.system(&content),
            "developer" => self.developer(content),
            "user" => self.user(content),
            _ => self.assistant_said(&content),
        }
    }

    fn reasoning_item(&mut self, item: &Item<'_>) {
        let summary = texts(&parts(&item.summary, &mut self.losses));
        let text = if summary.is_empty() {
            texts(&parts(&item.content, &mut self.losses))
        } else {
            summary
        };
        self.reasoning(text, item.encrypted_content.non_empty().map(str::to_owned));
    }

    fn function_call(&mut self, item: &Item<'_>) {
        let name = ToolName {
            namespace: item
                .namespace
                .non_empty()
                .filter(|name| *name != "functions")
                .map(str::to_owned),
            name: item.name.or_empty().to_owned(),
        };
        let text = item.arguments.map(json_string_or_text).unwrap_or_default();
        let arguments = self.object_text(text);
        self.call(item.call_id.or_empty(), name, ToolKind::Function, arguments);
    }

    fn custom_call(&mut self, item: &Item<'_>) {
        let name = ToolName::bare(item.name.or_empty());
        let arguments = serde_json::json!({ "input": item.input.or_empty() }).to_string();
        self.call(item.call_id.or_empty(), name, ToolKind::Freeform, arguments);
    }

    fn search_call(&mut self, item: &Item<'_>) {
        let text = item.arguments.map(|raw| raw.get().to_owned()).unwrap_or_default();
        let arguments = self.object_text(text);
        self.call(answered(item), ToolName::bare("tool_search"), ToolKind::Search, arguments);
    }

    fn shell_call(&mut self, item: &Item<'_>) {
        let action = item.action.map(RawValue::get).unwrap_or("{}");
        let arguments = edit_object(action.as_bytes(), &[("type", Edit::Remove)])
            .ok()
            .and_then(|json| String::from_utf8(json).ok())
            .unwrap_or_else(|| {
                self.losses.add(LossKind::ToolArguments);
                "{}".to_owned()
            });
        self.call(answered(item), ToolName::bare("shell"), ToolKind::LocalShell, arguments);
    }

    fn search_result(&mut self, item: &Item<'_>) {
        let tools = item.tools.list();
        let names = self.tools.add_all(tools, &mut self.losses);
        let text = if names.is_empty() {
            "No tools matched.".to_owned()
        } else {
            // The exact names, else models search again and again.
            format!("These tools can be called now, by exactly these names: {}", names.join(", "))
        };
        self.result(answered(item), vec![Part::Text(text)], false);
    }

    fn compaction(&mut self, item: &Item<'_>) {
        let own = item.encrypted_content.get().and_then(compaction::open);
        let text = own.unwrap_or_else(|| {
            self.losses.add(LossKind::Reasoning);
            "[Earlier conversation was compacted into a form that only its own provider can read.]"
                .to_owned()
        });
        self.user(vec![Part::Text(text)]);
    }
}

/// The id that pairs a call with its result; older clients put it into `id`.
fn answered<'i>(item: &'i Item<'_>) -> &'i str {
    item.call_id.non_empty().or(item.id.get()).unwrap_or_default()
}

/// The text of a JSON string, or the JSON text of anything else.
fn json_string_or_text(raw: &RawValue) -> String {
    serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        model::{AssistantPart, Image, Losses, Message},
        wire::json::Obj,
    };

    fn conversation(items: Value) -> Conversation {
        let text = items.to_string();
        let items: Vec<Obj<Item<'_>>> = serde_json::from_str(&text).unwrap();
        let mut conversation = Conversation::default();
        for item in &items {
            match &item.0 {
                Some(item) => conversation.item(item),
                None => conversation.unknown_item(),
            }
        }
        conversation
    }

    fn text(text: &str) -> Part {
        Part::Text(text.into())
    }

    #[test]
    fn codex_history_becomes_one_assistant_message_between_results() {
        let built = conversation(json!([
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "be good"}]},
            {"type": "message", "role": "user", "content": "hi"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "content": null, "encrypted_content": "blob"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "doing"}]},
            {"type": "function_call", "namespace": "mcp__s", "name": "a", "arguments": "{\"x\":1}", "call_id": "c1"},
            {"type": "custom_tool_call", "name": "apply_patch", "input": "*** \"p\"", "call_id": "c2"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "one"}, {"type": "input_image", "image_url": "data:image/png;base64,xx", "detail": "original"}]},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "two"},
        ]));
        assert_eq!(built.messages.len(), 5);
        let Message::Assistant(parts) = &built.messages[2] else { panic!("{:?}", built.messages) };
        assert_eq!(parts.len(), 4);
        assert_eq!(
            parts[0],
            AssistantPart::Reasoning { text: "hm".into(), encrypted: Some("blob".into()) }
        );
        let AssistantPart::Call(patch) = &parts[3] else { panic!() };
        assert_eq!(patch.arguments, r#"{"input":"*** \"p\""}"#);
        let Message::ToolResult(first) = &built.messages[3] else { panic!() };
        assert_eq!(first.name.as_ref().unwrap().wire(), "mcp__s__a");
        assert_eq!(
            first.content[1],
            Part::Image(Image {
                url: "data:image/png;base64,xx".into(),
                detail: Some("high".into())
            })
        );
        assert_eq!(built.losses, Losses::default());
    }

    #[test]
    fn nothing_unknown_fails_and_every_loss_is_counted() {
        let built = conversation(json!([
            7, null, "x", {"type": "from_the_future"}, {"role": "critic", "content": "?"},
            {"type": "web_search_call"},
            {"type": "function_call", "name": "f", "call_id": "1", "arguments": "not json"},
            {"type": "function_call", "name": "f", "call_id": "2", "arguments": ""},
            {"type": "function_call", "name": "f", "call_id": "3", "arguments": {"already": "an object"}},
            {"role": "user", "content": [{"type": "hologram"}, {"type": "input_file", "filename": "a.pdf"}, {"type": "input_image", "file_id": "f1"}, 3]},
            {"type": "item_reference", "id": "x"},
        ]));
        assert_eq!(
            built.losses.to_string(),
            "image=1,file=1,unknown_item=6,unknown_part=2,hosted_item=1,tool_arguments=1"
        );
        let Message::Assistant(calls) = &built.messages[0] else { panic!() };
        let arguments: Vec<_> = calls
            .iter()
            .map(|part| match part {
                AssistantPart::Call(call) => call.arguments.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(arguments, ["{}", "{}", r#"{"already":"an object"}"#]);
        assert_eq!(
            built.messages[1],
            Message::User(vec![text("[file: a.pdf]"), text("[image: f1]")])
        );
    }

    #[test]
    fn tools_found_by_search_can_be_called() {
        let built = conversation(json!([
            {"type": "tool_search_call", "call_id": "s1", "arguments": {"query": "echo"}},
            {"type": "tool_search_output", "call_id": "s1", "tools": [
                {"type": "namespace", "name": "mcp__srv", "tools": [{"type": "function", "name": "echo"}]}]},
        ]));
        let Message::ToolResult(result) = &built.messages[1] else { panic!() };
        assert!(
            matches!(&result.content[0], Part::Text(text) if text.ends_with(": mcp__srv__echo"))
        );
        assert_eq!(built.tools.into_tools()[0].wire_name, "mcp__srv__echo");
    }

    #[test]
    fn our_own_compaction_is_read_back_and_a_foreign_one_is_noted() {
        let own = compaction::seal("we did X");
        let built = conversation(json!([
            {"type": "compaction", "encrypted_content": own},
            {"type": "compaction", "encrypted_content": "gAAAA"},
        ]));
        assert_eq!(built.messages[0], Message::User(vec![text("we did X")]));
        assert_eq!(built.losses.to_string(), "reasoning=1");
    }

    #[test]
    fn reasoning_that_led_nowhere_is_dropped_at_the_next_question() {
        let built = conversation(json!([
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "lost"}]},
            {"role": "user", "content": "next"},
            {"role": "assistant", "content": "answer"},
        ]));
        assert_eq!(
            built.messages[1],
            Message::Assistant(vec![AssistantPart::Text("answer".into())])
        );
    }
}
