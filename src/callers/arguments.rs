//! A call's arguments, from what the model wrote to what the tool's kind of item holds.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::Failure;
use crate::{
    model::{Tool, ToolKind},
    wire::json::{Edit, edit_object, to_raw},
};

/// The arguments of a call, in the form its tool wants them.
pub(super) enum Arguments {
    Json(String),
    Input(String),
}

impl Arguments {
    pub fn empty() -> Self {
        Self::Json(String::new())
    }

    /// Checks what the model wrote for a tool.
    pub fn of_call(tool: &Tool, text: &str) -> Result<Self, Failure> {
        Self::complete(tool.kind, text).map_err(|reason| {
            let message = format!("the arguments of `{}` are no JSON: {reason}", tool.wire_name);
            Failure::answer("malformed_tool_arguments", message)
        })
    }

    /// Checks what the model wrote. No arguments at all are `{}`, never `""`: clients replay them.
    fn complete(kind: ToolKind, text: &str) -> Result<Self, serde_json::Error> {
        if kind == ToolKind::Freeform {
            #[derive(Deserialize)]
            struct Wrapped {
                input: String,
            }
            let input = serde_json::from_str(text).map(|Wrapped { input }| input);
            return Ok(Self::Input(input.unwrap_or_else(|_| text.to_owned())));
        }
        if text.trim().is_empty() {
            return Ok(Self::Json("{}".to_owned()));
        }
        match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Ok(Self::Json(text.to_owned())),
            // A search for nothing in particular is still a search.
            Err(_) if kind == ToolKind::Search => Ok(Self::Json("{}".to_owned())),
            Err(error) => Err(error),
        }
    }

    pub fn into_text(self) -> String {
        match self {
            Self::Json(text) | Self::Input(text) => text,
        }
    }

    pub fn into_object(self) -> Box<RawValue> {
        let text = self.into_text();
        let is_object = text.trim_start().starts_with('{');
        RawValue::from_string(text)
            .ok()
            .filter(|_| is_object)
            .unwrap_or_else(|| to_raw(&serde_json::json!({})))
    }
}

/// `{"type": "exec", …}` around what the model filled in.
pub(super) fn shell_action(arguments: Box<RawValue>) -> Box<RawValue> {
    edit_object(arguments.get().as_bytes(), &[("type", Edit::Set("\"exec\"".into()))])
        .ok()
        .and_then(|json| String::from_utf8(json).ok())
        .and_then(|json| RawValue::from_string(json).ok())
        .unwrap_or(arguments)
}
