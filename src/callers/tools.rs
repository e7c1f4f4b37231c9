//! Tool declarations of every type → [`Tool`]s with unique wire names, and the tool choice.
//! Source: Codex CLI 0.169.0 on the wire, section 4 of our protocol notes.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    ParseError,
    schema::{empty_schema, freeform_schema, object_schema, search_schema, shell_schema},
};
use crate::{
    model::{LossKind, Losses, Tool, ToolChoice, ToolKind, ToolName},
    wire::json::{Obj, Str, TextOrList},
};

/// A tool of any type; a namespace holds further ones.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ToolDeclaration<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Str<'a>,
    #[serde(borrow)]
    pub name: Str<'a>,
    #[serde(borrow)]
    pub description: Str<'a>,
    #[serde(borrow)]
    pub parameters: Option<&'a RawValue>,
    #[serde(borrow)]
    pub strict: Option<&'a RawValue>,
    #[serde(borrow)]
    pub format: Option<&'a RawValue>,
    #[serde(borrow)]
    pub tools: TextOrList<'a, Obj<ToolDeclaration<'a>>>,
    /// The chat-nested form `{type, function: {…}}`.
    #[serde(borrow)]
    pub function: Obj<NestedFunction<'a>>,
    /// The same of a freeform tool.
    #[serde(borrow)]
    pub custom: Obj<NestedFunction<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NestedFunction<'a> {
    #[serde(borrow)]
    pub name: Str<'a>,
    #[serde(borrow)]
    pub description: Str<'a>,
    #[serde(borrow)]
    pub parameters: Option<&'a RawValue>,
    #[serde(borrow)]
    pub strict: Option<&'a RawValue>,
    #[serde(borrow)]
    pub format: Option<&'a RawValue>,
}

/// Collects tools from the request and from its input items; the first of a name wins.
#[derive(Debug, Default)]
pub(super) struct ToolList {
    tools: Vec<Tool>,
}

/// Tools in this reserved namespace belong to no group.
const FLAT_NAMESPACE: &str = "functions";

impl ToolList {
    /// Adds declarations and returns the wire names that they declare.
    pub fn add_all(
        &mut self,
        declarations: &[Obj<ToolDeclaration<'_>>],
        losses: &mut Losses,
    ) -> Vec<String> {
        let mut names = Vec::new();
        for declaration in declarations.iter().filter_map(|declaration| declaration.0.as_ref()) {
            self.add(declaration, None, losses, &mut names);
        }
        names
    }

    /// The tools, in the order in which they were declared.
    pub fn into_tools(self) -> Vec<Tool> {
        self.tools
    }

    fn add(
        &mut self,
        declaration: &ToolDeclaration<'_>,
        namespace: Option<&str>,
        losses: &mut Losses,
        names: &mut Vec<String>,
    ) {
        let kind = declaration.kind.get().unwrap_or("function");
        if kind == "namespace" {
            let inner = declaration.name.non_empty().filter(|name| *name != FLAT_NAMESPACE);
            for tool in declaration.tools.list().iter().filter_map(|tool| tool.0.as_ref()) {
                self.add(tool, inner.or(namespace), losses, names);
            }
            return;
        }
        match build(kind, declaration, namespace, losses) {
            Some(tool) => {
                names.push(tool.wire_name.clone());
                match self.tools.iter().find(|known| known.wire_name == tool.wire_name) {
                    None => self.tools.push(tool),
                    Some(known) if known.name != tool.name => losses.add(LossKind::ToolName),
                    // Declared twice, which replayed searches do.
                    Some(_) => {}
                }
            }
            None => losses.add(LossKind::HostedTool),
        }
    }
}

fn build(
    kind: &str,
    declaration: &ToolDeclaration<'_>,
    namespace: Option<&str>,
    losses: &mut Losses,
) -> Option<Tool> {
    let nested = NestedFunction::default();
    let nested =
        declaration.function.0.as_ref().or(declaration.custom.0.as_ref()).unwrap_or(&nested);
    let name = declaration.name.non_empty().or(nested.name.non_empty());
    let description =
        declaration.description.get().or(nested.description.get()).unwrap_or_default();
    let parameters = declaration.parameters.or(nested.parameters);
    let tool = |name: &str, kind, description: Cow<'_, str>, parameters| {
        let name = ToolName { namespace: namespace.map(str::to_owned), name: name.to_owned() };
        Tool {
            wire_name: name.wire(),
            name,
            kind,
            description: description.into_owned(),
            parameters,
            strict: match declaration.strict.or(nested.strict).map(RawValue::get) {
                Some("true") => Some(true),
                Some("false") => Some(false),
                _ => None,
            },
        }
    };
    Some(match kind {
        "custom" => {
            if declaration.format.or(nested.format).is_some_and(is_grammar) {
                losses.add(LossKind::ToolGrammar);
            }
            tool(name?, ToolKind::Freeform, freeform_description(description), freeform_schema())
        }
        "tool_search" => {
            let schema =
                parameters.map_or_else(search_schema, |schema| object_schema(schema, losses));
            tool("tool_search", ToolKind::Search, description.into(), schema)
        }
        "local_shell" => tool(
            "shell",
            ToolKind::LocalShell,
            "Runs a command and returns its output.".into(),
            shell_schema(),
        ),
        "web_search" | "web_search_preview" | "image_generation" => return None,
        // An unknown type with a name is most likely a function with a new label.
        _ => tool(
            name?,
            ToolKind::Function,
            description.into(),
            parameters.map_or_else(empty_schema, |schema| object_schema(schema, losses)),
        ),
    })
}

fn is_grammar(format: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Format<'a> {
        #[serde(borrow, default, rename = "type")]
        kind: Str<'a>,
    }
    serde_json::from_str::<Format<'_>>(format.get())
        .is_ok_and(|format| format.kind.get() == Some("grammar"))
}

fn freeform_description(description: &str) -> Cow<'_, str> {
    format!("{description}\n\nPut the raw text of the call, unquoted and complete, into `input`.")
        .into()
}

/// Reads `tool_choice`; an allow-list of tools also shortens the list.
pub(super) fn tool_choice(
    raw: Option<&RawValue>,
    tools: &mut Vec<Tool>,
) -> Result<ToolChoice, ParseError> {
    let Some(raw) = raw else {
        return Ok(ToolChoice::Unstated);
    };
    let choice: Value = serde_json::from_str(raw.get()).unwrap_or_default();
    match &choice {
        Value::String(word) => Ok(match word.as_str() {
            "none" => ToolChoice::None,
            "required" => ToolChoice::Required,
            _ => ToolChoice::Auto,
        }),
        Value::Object(object) => match object.get("type").and_then(Value::as_str) {
            Some("function" | "custom") => named(&choice, tools).map(ToolChoice::Named),
            Some("allowed_tools") => allowed(&choice, tools),
            // A hosted tool cannot be forced where nobody hosts it.
            _ => Ok(ToolChoice::Auto),
        },
        _ => Ok(ToolChoice::Unstated),
    }
}

fn named(choice: &Value, tools: &[Tool]) -> Result<String, ParseError> {
    let nested = choice["function"]["name"].as_str().or(choice["custom"]["name"].as_str());
    let name = choice["name"].as_str().or(nested).unwrap_or_default();
    let namespace = choice["namespace"].as_str();
    tools
        .iter()
        .find(|tool| {
            (tool.name.name == name && tool.name.namespace.as_deref() == namespace)
                || tool.wire_name == name
        })
        .map(|tool| tool.wire_name.clone())
        .ok_or_else(|| ParseError::invalid("/tool_choice", format!("no tool is called `{name}`")))
}

fn allowed(choice: &Value, tools: &mut Vec<Tool>) -> Result<ToolChoice, ParseError> {
    // Chat Completions nests what Responses writes flat.
    let choice = choice.get("allowed_tools").unwrap_or(choice);
    let mut names = Vec::new();
    for tool in choice["tools"].as_array().into_iter().flatten() {
        // A hosted tool in the list restricts nothing that we offer.
        if matches!(tool["type"].as_str(), Some("function" | "custom")) {
            names.push(named(tool, tools)?);
        }
    }
    tools.retain(|tool| names.contains(&tool.wire_name));
    Ok(if choice["mode"] == "required" { ToolChoice::Required } else { ToolChoice::Auto })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::json::to_raw;

    fn list(tools: &Value) -> (Vec<Tool>, Losses) {
        let text = tools.to_string();
        let declarations: Vec<Obj<ToolDeclaration<'_>>> = serde_json::from_str(&text).unwrap();
        let (mut list, mut losses) = (ToolList::default(), Losses::default());
        list.add_all(&declarations, &mut losses);
        (list.into_tools(), losses)
    }

    #[test]
    fn every_kind_of_tool_gets_its_name_and_kind() {
        let (tools, losses) = list(&json!([
            {"type": "function", "name": "f", "parameters": {"type": "object"}},
            {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
            {"type": "namespace", "name": "mcp__srv", "tools": [{"type": "function", "name": "echo"}]},
            {"type": "namespace", "name": "functions", "tools": [{"type": "function", "name": "exec"}]},
            {"type": "tool_search", "execution": "client"},
            {"type": "local_shell"},
            {"type": "function", "function": {"name": "nested"}},
            {"type": "brand_new", "name": "novel"},
            {"type": "web_search"}, {"type": "file_search"}, 7,
            {"type": "function", "name": "f", "description": "again"},
        ]));
        let seen: Vec<_> = tools.iter().map(|t| (t.wire_name.as_str(), t.kind)).collect();
        assert_eq!(
            seen,
            [
                ("f", ToolKind::Function),
                ("apply_patch", ToolKind::Freeform),
                ("mcp__srv__echo", ToolKind::Function),
                ("exec", ToolKind::Function),
                ("tool_search", ToolKind::Search),
                ("shell", ToolKind::LocalShell),
                ("nested", ToolKind::Function),
                ("novel", ToolKind::Function),
            ]
        );
        assert_eq!(losses.to_string(), "hosted_tool=2,tool_grammar=1");
        assert!(tools.iter().all(|tool| tool.parameters.get().starts_with("{\"type\":\"object\"")));
    }

    #[test]
    fn an_object_schema_passes_byte_for_byte() {
        let text =
            r#"[{"name":"f","parameters":{"type": "object", "properties":{"z":{},"a" :{}}}}]"#;
        let declarations: Vec<Obj<ToolDeclaration<'_>>> = serde_json::from_str(text).unwrap();
        let mut list = ToolList::default();
        list.add_all(&declarations, &mut Losses::default());
        assert_eq!(
            list.into_tools()[0].parameters.get(),
            r#"{"type": "object", "properties":{"z":{},"a" :{}}}"#
        );
    }

    #[test]
    fn tool_choice_is_translated_or_refused() {
        let (tools, _) = list(&json!([
            {"type": "namespace", "name": "ns", "tools": [{"name": "a"}]}, {"name": "b"},
        ]));
        let choose = |choice: Value| {
            let raw = to_raw(&choice);
            let mut tools = tools.clone();
            tool_choice(Some(&raw), &mut tools).map(|choice| (choice, tools.len()))
        };
        assert_eq!(choose(json!("required")).unwrap(), (ToolChoice::Required, 2));
        assert_eq!(choose(json!(null)).unwrap(), (ToolChoice::Unstated, 2));
        assert_eq!(choose(json!({"type": "web_search"})).unwrap(), (ToolChoice::Auto, 2));
        let forced = json!({"type": "function", "namespace": "ns", "name": "a"});
        assert_eq!(choose(forced.clone()).unwrap(), (ToolChoice::Named("ns__a".into()), 2));
        let some = json!({"type": "allowed_tools", "mode": "required", "tools": [forced]});
        assert_eq!(choose(some).unwrap(), (ToolChoice::Required, 1));
        let nested = json!({"type": "allowed_tools", "allowed_tools": {"mode": "required",
            "tools": [{"type": "function", "function": {"name": "b"}}]}});
        assert_eq!(choose(nested).unwrap(), (ToolChoice::Required, 1));
        let custom = json!({"type": "custom", "custom": {"name": "b"}});
        assert_eq!(choose(custom).unwrap(), (ToolChoice::Named("b".into()), 2));
        let error = choose(json!({"type": "function", "name": "zzz"})).unwrap_err();
        assert!(error.to_string().contains("/tool_choice"), "{error}");
    }
}
