//! Tools as the model may call them, and the one flat name each has on an upstream's wire.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// A tool's name, with the namespace (an MCP server, say) that Codex groups it under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ToolName {
    /// The group, `mcp__files` for instance.
    pub namespace: Option<String>,
    /// The name inside the group.
    pub name: String,
}

impl ToolName {
    /// A tool outside any namespace.
    pub fn bare(name: impl Into<String>) -> Self {
        Self { namespace: None, name: name.into() }
    }

    /// The flat name an upstream sees: `namespace__name`, made of `[A-Za-z0-9_-]`, at most 64 long.
    pub fn wire(&self) -> String {
        match &self.namespace {
            Some(namespace) => {
                sanitize_wire_name(&format!("{namespace}__{}", self.name)).into_owned()
            }
            None => sanitize_wire_name(&self.name).into_owned(),
        }
    }
}

/// The longest function name that upstreams accept (OpenAI, Anthropic and Gemini alike).
const MAX_WIRE_NAME: usize = 64;

/// Stands for a name that is empty, which upstreams refuse.
const UNNAMED: &str = "unnamed_tool";

/// Makes a name legal: other characters become `_`; a long name keeps its start and gets a digest,
/// so that two long names stay apart.
pub fn sanitize_wire_name(name: &str) -> Cow<'_, str> {
    if name.is_empty() {
        return UNNAMED.into();
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let clean: Cow<'_, str> = if name.chars().all(legal) {
        name.into()
    } else {
        name.chars().map(|c| if legal(c) { c } else { '_' }).collect::<String>().into()
    };
    if clean.len() <= MAX_WIRE_NAME {
        return clean;
    }
    format!("{}_{:08x}", &clean[..MAX_WIRE_NAME - 9], fnv1a(name)).into()
}

/// FNV-1a, 32 bits: short, and stable across builds.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// How a call of the tool must look when it goes back to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolKind {
    /// JSON arguments: a `function_call` item.
    Function,
    /// Raw text (`apply_patch`): a `custom_tool_call` item. Upstream it is a function with one
    /// string property `input`.
    Freeform,
    /// Codex's search over deferred tools: a `tool_search_call` item.
    Search,
    /// The shell tool of older clients: a `local_shell_call` item.
    LocalShell,
}

/// A tool offered to the model.
#[derive(Clone, Debug)]
pub struct Tool {
    /// The name as the caller knows it.
    pub name: ToolName,
    /// The name upstream, unique within the prompt.
    pub wire_name: String,
    /// What a call of it looks like to the caller.
    pub kind: ToolKind,
    /// Told to the model.
    pub description: String,
    /// JSON Schema of the arguments; its root is an object.
    pub parameters: Box<RawValue>,
    /// Whether the upstream should hold the model to the schema.
    pub strict: Option<bool>,
}

/// Whether and what the model must call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// Not stated by the caller.
    #[default]
    Unstated,
    /// The model decides.
    Auto,
    /// No call.
    None,
    /// Some call.
    Required,
    /// A call of the tool with this wire name.
    Named(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_names_are_legal_and_stay_apart() {
        let name =
            |ns: &str, name: &str| ToolName { namespace: Some(ns.into()), name: name.into() };
        assert_eq!(name("mcp__srv", "echo").wire(), "mcp__srv__echo");
        assert_eq!(name("mcp.srv", "a b").wire(), "mcp_srv__a_b");
        assert_eq!(ToolName::bare("").wire(), UNNAMED);
        let (a, b) = (name("ns", &"x".repeat(90)).wire(), name("ns", &"x".repeat(91)).wire());
        assert_eq!((a.len(), b.len()), (64, 64));
        assert_ne!(a, b);
    }
}
