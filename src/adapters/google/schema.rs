//! JSON Schema → the subset that Gemini's function declarations take.
//! Source: ai.google.dev/api/caching#Schema, 2026-11.

use serde_json::{Map, Value, value::RawValue};

/// How deep `$ref`s are followed.
const MAX_DEPTH: usize = 24;
/// Told to the model where a value of any type is wanted.
const AS_TEXT: &str = "(any JSON value, written as JSON text)";
/// How many schemas one tool may have after its `$ref`s are replaced.
const MAX_NODES: usize = 1024;

/// The schema of a tool's parameters; nothing for a tool without any. `lost` tells that keywords
/// which restrict values had to be left out.
pub(super) struct Subset {
    pub parameters: Option<Value>,
    pub lost: bool,
}

/// Reduces a schema.
pub(super) fn reduce(schema: &RawValue) -> Subset {
    let root: Value = serde_json::from_str(schema.get()).unwrap_or_default();
    let mut reducer = Reducer { root: &root, nodes: 0, lost: false };
    let reduced = reducer.schema(&root, 0, Place::Root);
    let has_properties =
        reduced["properties"].as_object().is_some_and(|properties| !properties.is_empty());
    Subset { parameters: has_properties.then_some(reduced), lost: reducer.lost }
}

/// What a schema stands for, which decides what becomes of one that says nothing.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// All arguments of a tool; it may have none.
    Root,
    /// A value, which must be described.
    Value,
    /// More about a value that others describe too.
    Part,
}

struct Reducer<'a> {
    root: &'a Value,
    nodes: usize,
    lost: bool,
}

impl Reducer<'_> {
    fn schema(&mut self, schema: &Value, depth: usize, place: Place) -> Value {
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            // A schema that contains itself.
            return self.unsayable(None);
        }
        let Value::Object(schema) = schema else {
            return self.unsayable(None);
        };
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let found = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            return match found {
                Some(found) => self.schema(&found.clone(), depth + 1, place),
                None => self.unsayable(schema.get("description")),
            };
        }
        self.object(schema, depth, place)
    }

    /// What may be anything, or an object of whatever properties, cannot be said here; objects without
    /// properties are refused. Any of it can be written as text.
    fn unsayable(&mut self, description: Option<&Value>) -> Value {
        self.lost = true;
        let description = description.and_then(Value::as_str).unwrap_or_default();
        let blank = if description.is_empty() { "" } else { " " };
        serde_json::json!({"type": "string", "description": format!("{description}{blank}{AS_TEXT}")})
    }

    fn object(&mut self, schema: &Map<String, Value>, depth: usize, place: Place) -> Value {
        let mut out = Map::new();
        let (kind, mut nullable) = kind(schema);
        let kinds = schema.get("type").and_then(Value::as_array);
        self.lost |= kinds.is_some_and(|kinds| kinds.iter().filter(|k| *k != "null").count() > 1);
        if let Some(kind) = kind {
            out.insert("type".into(), kind.into());
        }
        for (key, value) in schema {
            match key.as_str() {
                "description" if value.is_string() => {
                    out.insert(key.clone(), value.clone());
                }
                "format" if is_known_format(value) => {
                    out.insert(key.clone(), value.clone());
                }
                "nullable" => nullable |= value == &Value::Bool(true),
                "required" if value.is_array() => {
                    out.insert("required".into(), value.clone());
                }
                "properties" => {
                    let properties = value.as_object().into_iter().flatten();
                    let reduced: Map<String, Value> = properties
                        .map(|(name, inner)| {
                            (name.clone(), self.schema(inner, depth + 1, Place::Value))
                        })
                        .collect();
                    out.insert("properties".into(), reduced.into());
                }
                "items" => {
                    let items = self.schema(value, depth + 1, Place::Value);
                    out.insert("items".into(), items);
                }
                "enum" => {
                    let values = value.as_array();
                    nullable |= values.is_some_and(|values| values.contains(&Value::Null));
                    self.enumeration(values, &mut out);
                }
                "const" => self.enumeration(Some(&vec![value.clone()]), &mut out),
                "anyOf" | "oneOf" => nullable |= self.union(value, depth, &mut out),
                "allOf" => self.intersection(value, depth, &mut out),
                "pattern" | "minLength" | "maxLength" | "minimum" | "maximum" | "minItems"
                | "maxItems" | "uniqueItems" | "multipleOf" | "exclusiveMinimum"
                | "exclusiveMaximum" | "patternProperties" | "not" | "if" | "prefixItems"
                | "minProperties" | "maxProperties" | "contains" | "propertyNames" => {
                    self.lost = true;
                }
                "additionalProperties" if value.is_object() => self.lost = true,
                // Notes, and `additionalProperties`, which Gemini takes as given.
                _ => {}
            }
        }
        if out.get("type").is_some_and(|kind| kind == "array") && !out.contains_key("items") {
            let items = self.unsayable(None);
            out.insert("items".into(), items);
        }
        if let (Some(Value::Array(required)), Some(Value::Object(properties))) =
            (out.get("required").cloned(), out.get("properties"))
        {
            // A required property that is not there is refused.
            let known = required
                .into_iter()
                .filter(|name| name.as_str().is_some_and(|name| properties.contains_key(name)));
            let known: Vec<Value> = known.collect();
            out.insert("required".into(), known.into());
        } else {
            out.remove("required");
        }
        let has_properties = out
            .get("properties")
            .and_then(Value::as_object)
            .is_some_and(|properties| !properties.is_empty());
        if has_properties {
            out.entry("type").or_insert_with(|| "object".into());
        }
        let is_open = out.get("type").is_some_and(|kind| kind == "object") && !has_properties;
        let says_nothing = !out.contains_key("type") && !out.contains_key("anyOf");
        if place == Place::Value && (is_open || says_nothing) {
            let text = self.unsayable(out.get("description"));
            out = text.as_object().cloned().unwrap_or_default();
        }
        if nullable {
            out.insert("nullable".into(), true.into());
        }
        out.into()
    }

    /// Whether a branch describes a value, rather than only what must be there.
    fn says_something(&mut self, branch: &Value) -> bool {
        const SAYING: [&str; 9] =
            ["type", "properties", "items", "enum", "const", "$ref", "anyOf", "oneOf", "allOf"];
        let says = SAYING.iter().any(|key| branch.get(*key).is_some());
        self.lost |= !says;
        says
    }

    /// Only strings may be enumerated.
    fn enumeration(&mut self, values: Option<&Vec<Value>>, out: &mut Map<String, Value>) {
        let values = values.into_iter().flatten();
        // An empty one is refused; `null` is said otherwise.
        let (texts, others): (Vec<Value>, Vec<Value>) = values
            .filter(|value| !value.is_null())
            .cloned()
            .partition(|value| value.as_str().is_some_and(|text| !text.is_empty()));
        self.lost |= !others.is_empty();
        let is_text = out.get("type").is_none_or(|kind| kind == "string");
        if texts.is_empty() || !is_text {
            self.lost = true;
            let kind = match others.first() {
                Some(Value::Number(_)) => "number",
                Some(Value::Bool(_)) => "boolean",
                _ => return,
            };
            out.entry("type").or_insert_with(|| kind.into());
            return;
        }
        out.insert("type".into(), "string".into());
        out.insert("enum".into(), texts.into());
    }

    /// A union with `null` is nullable; one of a single other branch is that branch.
    fn union(&mut self, branches: &Value, depth: usize, out: &mut Map<String, Value>) -> bool {
        let branches = branches.as_array().cloned().unwrap_or_default();
        let is_null = |branch: &Value| branch["type"] == "null";
        let nullable = branches.iter().any(is_null);
        let mut others: Vec<&Value> = branches.iter().filter(|branch| !is_null(branch)).collect();
        others.retain(|branch| self.says_something(branch));
        if let [only] = others[..] {
            if let Value::Object(only) = self.schema(only, depth + 1, Place::Part) {
                for (key, value) in only {
                    out.entry(key).or_insert(value);
                }
            }
        } else if !others.is_empty() {
            let any: Vec<Value> =
                others.iter().map(|one| self.schema(one, depth + 1, Place::Value)).collect();
            out.insert("anyOf".into(), any.into());
        }
        nullable
    }

    /// All of several schemas: their properties together.
    fn intersection(&mut self, branches: &Value, depth: usize, out: &mut Map<String, Value>) {
        for branch in branches.as_array().into_iter().flatten() {
            if !self.says_something(branch) {
                continue;
            }
            let Value::Object(branch) = self.schema(branch, depth + 1, Place::Part) else {
                continue;
            };
            for (key, value) in branch {
                match (out.get_mut(&key), value) {
                    (Some(Value::Object(mine)), Value::Object(theirs)) => mine.extend(theirs),
                    (Some(Value::Array(mine)), Value::Array(theirs)) => mine.extend(theirs),
                    (Some(_), _) => {}
                    (None, value) => {
                        out.insert(key, value);
                    }
                }
            }
        }
    }
}

/// The type, and whether `null` is one of several.
fn kind(schema: &Map<String, Value>) -> (Option<String>, bool) {
    match schema.get("type") {
        Some(Value::String(kind)) if kind != "null" => (Some(kind.clone()), false),
        Some(Value::Array(kinds)) => {
            let mut others = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null");
            let nullable = kinds.iter().any(|kind| kind == "null");
            (others.next().map(str::to_owned), nullable)
        }
        _ => (None, false),
    }
}

fn is_known_format(format: &Value) -> bool {
    matches!(format.as_str(), Some("enum" | "date-time" | "float" | "double" | "int32" | "int64"))
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
    fn what_gemini_knows_stays_and_the_rest_goes() {
        let (out, lost) =
            reduced(json!({"$schema": "x", "type": "object", "additionalProperties": false,
            "title": "T", "required": ["a", "ghost"], "properties": {
                "a": {"type": "string", "description": "d", "format": "uri", "default": "x"},
                "b": {"type": "array", "items": {"type": "integer"}}}}));
        assert!(!lost);
        assert_eq!(
            out,
            json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": "string", "description": "d"},
            "b": {"type": "array", "items": {"type": "integer"}}}})
        );
        assert_eq!(reduced(json!({"type": "object", "properties": {}})).0, Value::Null);
    }

    #[test]
    fn nullable_constants_unions_and_references() {
        let text = |description: &str| json!({"type": "string", "description": description});
        for (schema, expected, lost) in [
            (
                json!({"type": ["string", "null"]}),
                json!({"type": "string", "nullable": true}),
                false,
            ),
            (json!({"const": "x"}), json!({"type": "string", "enum": ["x"]}), false),
            (json!({"enum": ["a", "", 1]}), json!({"type": "string", "enum": ["a"]}), true),
            (
                json!({"enum": ["a", null]}),
                json!({"type": "string", "enum": ["a"], "nullable": true}),
                false,
            ),
            (json!({"type": ["string", "integer"]}), json!({"type": "string"}), true),
            (
                json!({"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}]}),
                json!({"type": "object", "properties": {"a": {"type": "string"}}}),
                true,
            ),
            (json!({"enum": [1, 2]}), json!({"type": "number"}), true),
            (
                json!({"anyOf": [{"type": "null"}, {"type": "integer"}]}),
                json!({"type": "integer", "nullable": true}),
                false,
            ),
            (
                json!({"oneOf": [{"type": "string"}, {"type": "integer"}]}),
                json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
                false,
            ),
            (json!({"type": "string", "pattern": "^a"}), json!({"type": "string"}), true),
            (json!(true), text(AS_TEXT), true),
            (json!({}), text(AS_TEXT), true),
            (json!({"description": "d"}), text(&format!("d {AS_TEXT}")), true),
            (json!({"type": "array"}), json!({"type": "array", "items": text(AS_TEXT)}), true),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                text(AS_TEXT),
                true,
            ),
            (json!({"$ref": "#/nowhere"}), text(AS_TEXT), true),
        ] {
            assert_eq!(property(schema.clone()), (expected, lost), "{schema}");
        }
        let (out, _) = reduced(json!({"type": "object", "$defs": {"n": {"type": "integer"}},
            "properties": {"p": {"$ref": "#/$defs/n"}}}));
        assert_eq!(out["properties"]["p"], json!({"type": "integer"}));
        let (out, _) = reduced(json!({"type": "object", "allOf": [
            {"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"properties": {"b": {"type": "string"}}}]}));
        assert_eq!(out["properties"].as_object().map(Map::len), Some(2));
    }

    #[test]
    fn a_schema_that_contains_itself_ends() {
        let (out, lost) = reduced(json!({"type": "object", "properties": {
            "child": {"$ref": "#"}, "twin": {"$ref": "#"}}}));
        assert!(lost && out["properties"]["child"].is_object());
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
                "properties" => {
                    for inner in value.as_object().into_iter().flat_map(Map::values) {
                        check(inner)?;
                    }
                }
                "items" => check(value)?,
                "anyOf" => {
                    for inner in value.as_array().into_iter().flatten() {
                        check(inner)?;
                    }
                }
                "type" => prop_assert!(value.is_string()),
                "nullable" | "required" | "format" | "description" | "enum" => {}
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
                "not",
                "x",
                "additionalProperties",
            ]);
            (key, proptest::collection::vec(inner, 0..3)).prop_map(|(key, inner)| match key {
                "anyOf" | "oneOf" | "allOf" => json!({ key: inner }),
                "properties" => json!({ key: {"a": inner.first(), "b": inner.last()} }),
                _ => json!({ key: inner.first() }),
            })
        })
    }
}
