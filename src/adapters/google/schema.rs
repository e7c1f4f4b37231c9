//! JSON Schema → the part of it that Gemini takes as `parametersJsonSchema`.
//! Source: ai.google.dev/api/caching#FunctionDeclaration, and the list of keywords at
//! ai.google.dev/api/generate-content#GenerationConfig (`responseJsonSchema`), 2026-11.

use serde_json::{Map, Value, value::RawValue};

/// How deep a schema may nest; deeper parts may be anything.
const MAX_DEPTH: usize = 32;
/// How many schemas one tool may have; further ones may be anything.
const MAX_NODES: usize = 2048;

/// The schema of a tool's parameters; nothing for a tool without any. `lost` tells that keywords
/// which restrict values had to be left out.
pub(super) struct Subset {
    pub parameters: Option<Value>,
    pub lost: bool,
}

/// Reduces a schema, whose root is an object.
pub(super) fn reduce(schema: &RawValue) -> Subset {
    let root: Value = serde_json::from_str(schema.get()).unwrap_or_default();
    let mut reducer = Reducer { root: &root, nodes: 0, lost: false };
    let reduced = reducer.schema(&root, 0);
    let takes_any = |field: &str| match &reduced[field] {
        Value::Object(inner) => !inner.is_empty(),
        other => *other == Value::Bool(true),
    };
    let parameters = takes_any("properties") || takes_any("additionalProperties");
    Subset { parameters: parameters.then_some(reduced), lost: reducer.lost }
}

struct Reducer<'a> {
    root: &'a Value,
    nodes: usize,
    lost: bool,
}

impl Reducer<'_> {
    fn schema(&mut self, schema: &Value, depth: usize) -> Value {
        self.nodes += 1;
        let Value::Object(schema) = schema else {
            // `true` allows anything, and so does no restriction; `false` cannot be said.
            self.lost |= schema != &Value::Bool(true);
            return Map::new().into();
        };
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            self.lost = true;
            return Map::new().into();
        }
        if let Some(target) = schema.get("$ref") {
            return self.reference(target, schema, depth);
        }
        let mut out = Map::new();
        for (keyword, value) in schema {
            self.keyword(keyword, value, depth, &mut out);
        }
        close(&mut out);
        out.into()
    }

    /// Beside a reference nothing else may stand.
    fn reference(&mut self, target: &Value, schema: &Map<String, Value>, depth: usize) -> Value {
        self.lost |= schema.keys().any(|keyword| !is_note(keyword) && !keyword.starts_with('$'));
        let pointer = target.as_str().unwrap_or_default();
        if let Some(name) = definition(pointer)
            && self.root.pointer(&pointer[1..]).is_some()
        {
            let mut out = Map::from_iter([("$ref".to_owned(), format!("#/$defs/{name}").into())]);
            // At the root the definitions themselves go along.
            for keyword in ["$defs", "definitions"] {
                if let Some(value) = schema.get(keyword) {
                    self.keyword(keyword, value, depth, &mut out);
                }
            }
            return out.into();
        }
        self.lost = true;
        Map::new().into()
    }

    fn keyword(
        &mut self,
        keyword: &str,
        value: &Value,
        depth: usize,
        out: &mut Map<String, Value>,
    ) {
        let mut keep = |value: Value| {
            out.insert(keyword.to_owned(), value);
        };
        match keyword {
            "title" | "description" | "format" if value.is_string() => keep(value.clone()),
            "type" if is_type(value) => keep(value.clone()),
            "minItems" | "maxItems" | "minimum" | "maximum" if value.is_number() => {
                keep(value.clone());
            }
            "required" if value.is_array() => keep(value.clone()),
            "items" if value.is_object() => keep(self.schema(value, depth + 1)),
            "additionalProperties" if value.is_boolean() => keep(value.clone()),
            "additionalProperties" if value.is_object() => keep(self.schema(value, depth + 1)),
            "properties" => keep(self.named(value, depth).into()),
            // One place for both, since references are written to it.
            "$defs" | "definitions" => {
                let named = self.named(value, depth);
                match out.get_mut("$defs") {
                    Some(Value::Object(known)) => known.extend(named),
                    _ => {
                        out.insert("$defs".to_owned(), named.into());
                    }
                }
            }
            "prefixItems" if value.is_array() => keep(self.listed(value, depth).into()),
            "anyOf" | "oneOf" if value.is_array() => {
                // The same to Gemini; of two unions the second one is lost.
                self.lost |= keyword == "oneOf" || out.contains_key("anyOf");
                let union = self.listed(value, depth);
                out.entry("anyOf").or_insert_with(|| union.into());
            }
            "enum" => self.enumeration(value.as_array().map_or(&[], Vec::as_slice), out),
            "const" => self.enumeration(std::slice::from_ref(value), out),
            "allOf" => self.intersection(value, depth, out),
            _ if is_note(keyword) => {}
            _ => self.lost = true,
        }
    }

    fn named(&mut self, value: &Value, depth: usize) -> Map<String, Value> {
        let named = value.as_object().into_iter().flatten();
        named.map(|(name, inner)| (name.clone(), self.schema(inner, depth + 1))).collect()
    }

    fn listed(&mut self, value: &Value, depth: usize) -> Vec<Value> {
        let list = value.as_array().into_iter().flatten();
        list.map(|inner| self.schema(inner, depth + 1)).collect()
    }

    /// Texts and numbers may be enumerated; `null` is a type.
    fn enumeration(&mut self, values: &[Value], out: &mut Map<String, Value>) {
        let sayable = |value: &&Value| value.is_string() || value.is_number();
        let kept: Vec<Value> = values.iter().filter(sayable).cloned().collect();
        if kept.len() < values.len() || kept.is_empty() {
            // A list that is not whole would forbid what the tool allows.
            self.lost = true;
        } else {
            out.insert("enum".into(), kept.into());
        }
    }

    /// All of several schemas at once: what they say side by side is taken together.
    fn intersection(&mut self, branches: &Value, depth: usize, out: &mut Map<String, Value>) {
        for branch in branches.as_array().into_iter().flatten() {
            let branch = match branch.get("$ref").and_then(Value::as_str) {
                Some(pointer) => self.root.pointer(pointer.get(1..).unwrap_or("?")),
                None => Some(branch),
            };
            let Some(Value::Object(branch)) = branch.map(|branch| self.schema(branch, depth + 1))
            else {
                self.lost = true;
                continue;
            };
            for (keyword, value) in branch {
                match (out.get_mut(&keyword), value) {
                    (None, value) => {
                        out.insert(keyword, value);
                    }
                    (Some(Value::Object(mine)), Value::Object(theirs))
                        if keyword == "properties" =>
                    {
                        for (name, inner) in theirs {
                            self.lost |= mine.get(&name).is_some_and(|known| *known != inner);
                            mine.entry(name).or_insert(inner);
                        }
                    }
                    (Some(Value::Array(mine)), Value::Array(theirs)) if keyword == "required" => {
                        mine.extend(theirs);
                    }
                    (Some(mine), theirs) => self.lost |= *mine != theirs && !is_note(&keyword),
                }
            }
        }
    }
}

/// A required property that is not described is refused.
fn close(out: &mut Map<String, Value>) {
    let Some(Value::Array(required)) = out.remove("required") else { return };
    let properties = out.get("properties").and_then(Value::as_object);
    let mut known: Vec<Value> = Vec::new();
    for name in required {
        let is_there = name
            .as_str()
            .is_some_and(|name| properties.is_some_and(|properties| properties.contains_key(name)));
        if is_there && !known.contains(&name) {
            known.push(name);
        }
    }
    if !known.is_empty() {
        out.insert("required".into(), known.into());
    }
}

/// The name in `#/$defs/<name>`, or where definitions were before.
fn definition(pointer: &str) -> Option<&str> {
    let name = pointer.strip_prefix("#/$defs/").or(pointer.strip_prefix("#/definitions/"))?;
    (!name.contains('/')).then_some(name)
}

fn is_type(value: &Value) -> bool {
    let known = |kind: &Value| {
        let kinds = ["string", "number", "integer", "boolean", "array", "object", "null"];
        kind.as_str().is_some_and(|kind| kinds.contains(&kind))
    };
    known(value)
        || value.as_array().is_some_and(|kinds| !kinds.is_empty() && kinds.iter().all(known))
}

/// Keywords that restrict nothing.
fn is_note(keyword: &str) -> bool {
    matches!(
        keyword,
        "title"
            | "description"
            | "default"
            | "examples"
            | "example"
            | "deprecated"
            | "readOnly"
            | "writeOnly"
            | "$schema"
            | "$id"
            | "$comment"
            | "$anchor"
            | "nullable"
            | "strict"
            | "additionalItems"
    ) || keyword.starts_with("x-")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn reduced(schema: Value) -> (Value, bool) {
        let raw = crate::wire::json::to_raw(&schema);
        let Subset { parameters, lost } = reduce(&raw);
        (parameters.unwrap_or_default(), lost)
    }

    fn property(schema: Value) -> (Value, bool) {
        let (reduced, lost) = reduced(json!({"type": "object", "properties": {"p": schema}}));
        (reduced["properties"]["p"].clone(), lost)
    }

    #[test]
    fn what_gemini_knows_stays_as_it_is() {
        for schema in [
            json!({"type": "string", "description": "d", "format": "uri"}),
            json!({"type": ["string", "null"]}),
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"], "additionalProperties": false}),
            json!({"type": "array", "items": {"type": "number"}, "minItems": 1}),
            json!({"anyOf": [{"type": "object", "properties": {"b": {}}, "required": ["b"]}, {"type": "null"}], "description": "x"}),
            json!({"enum": ["a", 1]}),
            json!({}),
        ] {
            assert_eq!(property(schema.clone()), (schema, false));
        }
        assert_eq!(reduced(json!({"type": "object", "properties": {}})).0, Value::Null);
        let open = json!({"type": "object", "additionalProperties": true});
        assert_eq!(reduced(open.clone()).0, open);
    }

    #[test]
    fn the_rest_is_said_otherwise_or_counted() {
        for (schema, expected, lost) in [
            (
                json!({"type": "string", "default": "x", "$comment": "c"}),
                json!({"type": "string"}),
                false,
            ),
            (json!({"const": "x"}), json!({"enum": ["x"]}), false),
            (json!({"const": true}), json!({}), true),
            (json!({"enum": ["a", null]}), json!({}), true),
            (json!({"type": "string", "pattern": "^a"}), json!({"type": "string"}), true),
            (json!({"oneOf": [{"type": "string"}]}), json!({"anyOf": [{"type": "string"}]}), true),
            (json!({"required": ["ghost"], "type": "object"}), json!({"type": "object"}), false),
            (
                json!({"allOf": [{"properties": {"a": {}}, "required": ["a"]}, {"properties": {"b": {}}}]}),
                json!({"properties": {"a": {}, "b": {}}, "required": ["a"]}),
                false,
            ),
            (
                json!({"allOf": [{"type": "string"}, {"type": "integer"}]}),
                json!({"type": "string"}),
                true,
            ),
            (json!({"$ref": "#/nowhere"}), json!({}), true),
            (json!({"type": 7, "items": [1]}), json!({}), true),
            (json!(true), json!({}), false),
            (json!(false), json!({}), true),
        ] {
            assert_eq!(property(schema.clone()), (expected, lost), "{schema}");
        }
    }

    #[test]
    fn references_stay_and_find_their_definitions() {
        let (out, lost) = reduced(json!({"type": "object", "definitions": {
            "node": {"type": "object", "properties": {"next": {"$ref": "#/definitions/node", "description": "d"}}}},
            "properties": {"p": {"$ref": "#/definitions/node"}}}));
        assert!(!lost);
        let node = json!({"$ref": "#/$defs/node"});
        assert_eq!(out["properties"]["p"], node);
        assert_eq!(out["$defs"]["node"]["properties"]["next"], node);
        let (out, lost) =
            reduced(json!({"type": "object", "properties": {"child": {"$ref": "#"}}}));
        assert!(lost && out["properties"]["child"] == json!({}));
    }

    proptest! {
        #[test]
        fn only_known_keywords_come_out(schema in arbitrary_schema()) {
            let (out, _) = reduced(json!({"type": "object", "properties": {"p": schema}}));
            check(&out)?;
        }
    }

    fn check(schema: &Value) -> Result<(), TestCaseError> {
        for (key, value) in schema.as_object().into_iter().flatten() {
            match key.as_str() {
                "properties" | "$defs" => {
                    for inner in value.as_object().into_iter().flat_map(Map::values) {
                        check(inner)?;
                    }
                }
                "items" => check(value)?,
                "anyOf" | "prefixItems" => {
                    for inner in value.as_array().into_iter().flatten() {
                        check(inner)?;
                    }
                }
                "type" => prop_assert!(is_type(value)),
                "$ref" => prop_assert_eq!(schema.as_object().map(Map::len), Some(1)),
                "required" | "format" | "description" | "enum" | "title" => {}
                other => prop_assert!(false, "{}", other),
            }
        }
        Ok(())
    }

    fn arbitrary_schema() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(true)),
            Just(json!({})),
            Just(json!({"type": ["null", "integer"]})),
            Just(json!({"type": 7, "enum": "x", "required": {}})),
            Just(json!({"$ref": "#"})),
            Just(json!({"const": null, "pattern": 1})),
        ];
        leaf.prop_recursive(4, 24, 3, |inner| {
            let key = prop::sample::select(vec![
                "anyOf",
                "oneOf",
                "allOf",
                "items",
                "properties",
                "prefixItems",
                "not",
            ]);
            (key, proptest::collection::vec(inner, 0..3)).prop_map(|(key, inner)| match key {
                "items" | "not" => json!({key: inner.first()}),
                "properties" => json!({key: {"a": inner.first(), "b": inner.last()}}),
                _ => json!({key: inner, "required": ["a"]}),
            })
        })
    }
}
