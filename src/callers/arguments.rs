//! A call's arguments, from what the model wrote to what the tool's kind of item holds.

use serde::{
    Deserialize,
    de::{Error as _, IgnoredAny},
};
use serde_json::value::RawValue;

use super::Failure;
use crate::{
    model::{Tool, ToolKind},
    wire::json::{Edit, edit_object, to_raw},
};

/// Whether arguments that begin like this may turn out to be none at all: `null`, or nothing but blanks.
pub(super) fn may_be_none(begun: &str) -> bool {
    "null".starts_with(begun.trim())
}

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
            let message =
                format!("the arguments of `{}` are no JSON object: {reason}", tool.wire_name);
            Failure::answer("malformed_tool_arguments", message)
        })
    }

    /// Checks what the model wrote. No arguments at all are `{}`, never `""` or `null`: clients replay
    /// them.
    fn complete(kind: ToolKind, text: &str) -> Result<Self, serde_json::Error> {
        if kind == ToolKind::Freeform {
            #[derive(Deserialize)]
            struct Wrapped {
                input: String,
            }
            let input = serde_json::from_str(text).map(|Wrapped { input }| input);
            return Ok(Self::Input(input.unwrap_or_else(|_| text.to_owned())));
        }
        if matches!(text.trim(), "" | "null") {
            return Ok(Self::Json("{}".to_owned()));
        }
        match object(text) {
            Ok(()) => Ok(Self::Json(text.to_owned())),
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
        // What is not complete, of a call that only begins, is no JSON yet.
        RawValue::from_string(self.into_text()).unwrap_or_else(|_| to_raw(&serde_json::json!({})))
    }
}

fn object(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<IgnoredAny>(text)?;
    let is_object = text.trim_start().starts_with('{');
    is_object.then_some(()).ok_or_else(|| serde_json::Error::custom("it is of another type"))
}

/// `{"type": "exec", …}` around what the model filled in.
pub(super) fn shell_action(arguments: Box<RawValue>) -> Box<RawValue> {
    edit_object(arguments.get().as_bytes(), &[("type", Edit::Set("\"exec\"".into()))])
        .ok()
        .and_then(|json| String::from_utf8(json).ok())
        .and_then(|json| RawValue::from_string(json).ok())
        .unwrap_or(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_an_object_or_an_error() {
        let complete = |kind, text| Arguments::complete(kind, text).map(Arguments::into_text);
        for (text, expected) in [
            ("", Some("{}")),
            (" null ", Some("{}")),
            (" {\"a\": [1]}", Some(" {\"a\": [1]}")),
            ("[1]", None),
            ("\"{}\"", None),
            ("{} {}", None),
            ("{\"a\"", None),
        ] {
            for kind in [ToolKind::Function, ToolKind::LocalShell] {
                assert_eq!(complete(kind, text).ok().as_deref(), expected, "{text}");
            }
            let search = complete(ToolKind::Search, text).expect("always a search");
            assert_eq!(search, expected.unwrap_or("{}"), "{text}");
        }
    }
}
