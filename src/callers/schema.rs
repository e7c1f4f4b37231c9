//! JSON Schemas of tool arguments: every root an object, nothing that only OpenAI knows.

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    model::{LossKind, Losses},
    wire::json::{Str, to_raw},
};

fn raw(json: &'static str) -> Box<RawValue> {
    // A literal of ours; a test parses each of them.
    RawValue::from_string(json.to_owned()).expect("a literal schema is valid JSON")
}

pub(super) fn empty_schema() -> Box<RawValue> {
    raw(r#"{"type":"object","properties":{}}"#)
}

pub(super) fn freeform_schema() -> Box<RawValue> {
    raw(r#"{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}"#)
}

pub(super) fn search_schema() -> Box<RawValue> {
    raw(
        r#"{"type":"object","properties":{"query":{"type":"string"},"limit":{"type":"number"}},"required":["query"]}"#,
    )
}

pub(super) fn shell_schema() -> Box<RawValue> {
    raw(
        r#"{"type":"object","properties":{"command":{"type":"array","items":{"type":"string"}},"working_directory":{"type":"string"},"timeout_ms":{"type":"number"}},"required":["command"]}"#,
    )
}

/// A schema whose root is an object. One that is already passes byte for byte; a union of several
/// loses what sets them apart, which counts.
pub(super) fn object_schema(schema: &RawValue, losses: &mut Losses) -> Box<RawValue> {
    #[derive(Deserialize)]
    struct Root<'a> {
        #[serde(borrow, default, rename = "type")]
        kind: Str<'a>,
        #[serde(borrow, default, rename = "anyOf")]
        any_of: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "oneOf")]
        one_of: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "allOf")]
        all_of: Option<&'a RawValue>,
    }
    let text = schema.get();
    let plain = serde_json::from_str::<Root<'_>>(text).is_ok_and(|root| {
        root.kind.get() == Some("object")
            && root.any_of.is_none()
            && root.one_of.is_none()
            && root.all_of.is_none()
    });
    if plain && !text.contains("\"encrypted\"") {
        return schema.to_owned();
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(mut root)) => {
            let whole = Value::Object(root.clone());
            let other = root.get("type").is_some_and(|kind| !names_object(kind));
            let mut room = MAX_BRANCHES;
            if flatten(&mut root, &whole, 0, &mut room) || other {
                losses.add(LossKind::ToolSchema);
            }
            let mut root = Value::Object(root);
            strip_encrypted(&mut root, Position::Schema);
            to_raw(&root)
        }
        Ok(Value::Null) => empty_schema(),
        _ => {
            losses.add(LossKind::ToolSchema);
            empty_schema()
        }
    }
}

/// How deep unions within unions are looked into, and how many branches in all; a schema may refer to
/// itself.
const MAX_DEPTH: usize = 8;
const MAX_BRANCHES: usize = 256;

fn names_object(kind: &Value) -> bool {
    kind == "object" || kind.as_array().is_some_and(|kinds| kinds.iter().any(|k| k == "object"))
}

/// Whether a branch says nothing but which properties there are.
fn is_plain(branch: &Map<String, Value>) -> bool {
    branch.keys().all(|keyword| {
        matches!(
            keyword.as_str(),
            "type"
                | "properties"
                | "required"
                | "title"
                | "description"
                | "$schema"
                | "$defs"
                | "definitions"
        )
    })
}

/// Makes a schema a plain object: unions of objects become one object with all their properties. Tells
/// whether that allows more than before.
fn flatten(schema: &mut Map<String, Value>, whole: &Value, depth: usize, room: &mut usize) -> bool {
    let mut widened = false;
    for (union, requires_all) in [("allOf", true), ("anyOf", false), ("oneOf", false)] {
        let Some(Value::Array(branches)) = schema.remove(union) else { continue };
        widened |= !requires_all && branches.len() > 1;
        if depth == MAX_DEPTH || branches.len() > *room {
            widened = true;
            continue;
        }
        *room -= branches.len();
        let mut plain = Vec::with_capacity(branches.len());
        for branch in &branches {
            let mut branch = resolved(branch, whole).clone();
            match &mut branch {
                Value::Object(branch) => {
                    widened |= flatten(branch, whole, depth + 1, room) || !is_plain(branch);
                }
                _ => widened = true,
            }
            plain.push(branch);
        }
        merge_branches(schema, &plain, requires_all);
    }
    schema.insert("type".into(), "object".into());
    schema.entry("properties").or_insert_with(|| Map::new().into());
    widened
}

/// What a branch refers to, if it refers to a part of the same schema.
fn resolved<'v>(branch: &'v Value, root: &'v Value) -> &'v Value {
    let pointer = branch["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
    pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(branch)
}

fn merge_branches(root: &mut Map<String, Value>, branches: &[Value], requires_all: bool) {
    let names = |branch: &Value| -> Vec<Value> {
        branch["required"].as_array().cloned().unwrap_or_default()
    };
    let mut required: Option<Vec<Value>> = None;
    for branch in branches.iter().filter(|branch| branch.is_object()) {
        if let Some(properties) = branch["properties"].as_object() {
            let into = root.entry("properties").or_insert_with(|| Map::new().into());
            for (name, schema) in properties {
                if let Some(into) = into.as_object_mut() {
                    into.entry(name).or_insert_with(|| schema.clone());
                }
            }
        }
        let own = names(branch);
        required = Some(match required.take() {
            None => own,
            Some(mut all) if requires_all => {
                all.extend(own);
                all
            }
            Some(mut common) => {
                common.retain(|name| own.contains(name));
                common
            }
        });
    }
    let mut all = names(&Value::Object(root.clone()));
    all.extend(required.unwrap_or_default());
    let mut seen = std::collections::HashSet::new();
    all.retain(|name| seen.insert(name.to_string()));
    if all.is_empty() {
        root.remove("required");
    } else {
        root.insert("required".into(), all.into());
    }
}

/// What the keys of an object in a schema are.
#[derive(Clone, Copy, PartialEq)]
enum Position {
    /// Keywords.
    Schema,
    /// Names that the schema's author chose.
    Names,
}

/// Removes the annotation `encrypted: true`, which only OpenAI knows, but no property of that name.
fn strip_encrypted(value: &mut Value, position: Position) {
    match value {
        Value::Object(object) => {
            if position == Position::Schema && object.get("encrypted") == Some(&Value::Bool(true)) {
                object.shift_remove("encrypted");
            }
            for (key, inner) in object.iter_mut() {
                match (position, key.as_str()) {
                    (Position::Schema, "const" | "enum" | "default" | "examples") => {}
                    (
                        Position::Schema,
                        "properties" | "$defs" | "definitions" | "patternProperties",
                    ) => {
                        strip_encrypted(inner, Position::Names);
                    }
                    _ => strip_encrypted(inner, Position::Schema),
                }
            }
        }
        Value::Array(list) => {
            for inner in list {
                strip_encrypted(inner, Position::Schema);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reduced(parameters: Value) -> (Value, bool) {
        let mut losses = Losses::default();
        let schema = object_schema(&to_raw(&parameters), &mut losses);
        (serde_json::from_str(schema.get()).unwrap(), losses != Losses::default())
    }

    fn schema_of(parameters: Value) -> Value {
        reduced(parameters).0
    }

    #[test]
    fn what_a_union_told_apart_counts_as_lost() {
        let object = |name: &str| json!({"type": "object", "properties": {name: {}}});
        let both = json!([object("a"), object("b")]);
        for (schema, lost, properties) in [
            (json!({"allOf": both}), false, 2),
            (json!({"anyOf": [object("a")]}), false, 1),
            (json!({"anyOf": both}), true, 2),
            (json!({"oneOf": both}), true, 2),
            (json!({"allOf": [object("c"), {"anyOf": both}]}), true, 3),
            (json!({"allOf": [{"$ref": "#"}, object("a")]}), true, 1),
            (json!({"allOf": vec![json!({"$ref": "#"}); 20]}), true, 0),
            (json!({"allOf": [object("a"), {"not": {}}]}), true, 1),
            (json!({"type": "string"}), true, 0),
            (json!({"type": ["object", "null"], "properties": {"a": {}}}), false, 1),
            (json!(null), false, 0),
            (json!(true), true, 0),
        ] {
            let (reduced, widened) = reduced(schema.clone());
            let found = reduced["properties"].as_object().map(Map::len);
            assert_eq!((widened, found), (lost, Some(properties)), "{schema}");
        }
    }

    #[test]
    fn roots_that_are_no_objects_become_objects() {
        assert_eq!(schema_of(json!({"properties": {"a": {}}}))["type"], "object");
        assert_eq!(schema_of(json!({"type": ["object", "null"]}))["type"], "object");
        assert_eq!(schema_of(json!(null)), json!({"type": "object", "properties": {}}));
        let a = json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a", "k"]});
        let b = json!({"type": "object", "properties": {"b": {}}, "required": ["k"]});
        let any = schema_of(json!({"anyOf": [a, b]}));
        assert_eq!(any["properties"].as_object().unwrap().len(), 2);
        assert_eq!(any["required"], json!(["k"]));
        let all = schema_of(json!({"allOf": [a, b]}));
        assert_eq!(all["required"], json!(["a", "k"]));
        assert!(all.get("allOf").is_none());
        let referred = json!({"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {"a": a, "b": b}});
        assert_eq!(schema_of(referred)["properties"].as_object().unwrap().len(), 2);
    }

    #[test]
    fn the_annotation_encrypted_goes_the_property_encrypted_stays() {
        let schema = schema_of(json!({"type": "object", "properties": {
            "message": {"type": "string", "encrypted": true},
            "encrypted": {"type": "boolean", "default": {"encrypted": true}},
        }}));
        assert!(schema["properties"]["message"].get("encrypted").is_none());
        assert_eq!(schema["properties"]["encrypted"]["default"]["encrypted"], true);
    }

    #[test]
    fn literal_schemas_are_valid() {
        for schema in [empty_schema(), freeform_schema(), search_schema(), shell_schema()] {
            assert_eq!(serde_json::from_str::<Value>(schema.get()).unwrap()["type"], "object");
        }
    }
}
