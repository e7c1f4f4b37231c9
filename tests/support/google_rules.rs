//! What Google publishes about the body of `:generateContent`, as a check that a scripted upstream
//! makes of every request. Source: ai.google.dev/api/generate-content, 2026-11.

use serde_json::Value;

const FIELDS: [&str; 5] =
    ["contents", "systemInstruction", "tools", "toolConfig", "generationConfig"];
/// Of JSON Schema, what ai.google.dev lists for `parametersJsonSchema`.
const SCHEMA: [&str; 16] = [
    "$defs",
    "$ref",
    "type",
    "format",
    "title",
    "description",
    "enum",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "minimum",
    "maximum",
    "anyOf",
    "properties",
    "required",
];

/// Everything that is wrong with a body.
pub fn violations(body: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let Some(object) = body.as_object() else {
        return vec!["the body is no object".to_owned()];
    };
    for (name, value) in object {
        if !FIELDS.contains(&name.as_str()) {
            found.push(format!("unknown field {name}"));
        }
        if value.is_null() || value.as_array().is_some_and(Vec::is_empty) {
            found.push(format!("{name} is empty"));
        }
    }
    for tool in body["tools"].as_array().into_iter().flatten() {
        for function in tool["functionDeclarations"].as_array().into_iter().flatten() {
            if let Some(parameters) = function.get("parametersJsonSchema") {
                check_schema(parameters, &mut found);
                if parameters["type"] != "object" {
                    found.push(format!("{} takes no object", function["name"]));
                }
            }
        }
    }
    check_contents(body, &mut found);
    found
}

fn check_schema(schema: &Value, found: &mut Vec<String>) {
    for (key, value) in schema.as_object().into_iter().flatten() {
        if !SCHEMA.contains(&key.as_str()) && key != "additionalProperties" {
            found.push(format!("the keyword {key}"));
        }
        match key.as_str() {
            "$ref" if schema.as_object().is_some_and(|schema| schema.len() > 2) => {
                found.push("something beside $ref".to_owned());
            }
            "properties" | "$defs" => {
                for inner in value.as_object().into_iter().flat_map(serde_json::Map::values) {
                    check_schema(inner, found);
                }
            }
            "items" => check_schema(value, found),
            "anyOf" => {
                for inner in value.as_array().into_iter().flatten() {
                    check_schema(inner, found);
                }
            }
            "enum"
                if value
                    .as_array()
                    .is_none_or(|v| v.iter().any(|v| !v.is_string() && !v.is_number())) =>
            {
                found.push("an enum of something else than texts and numbers".to_owned());
            }
            _ => {}
        }
    }
}

fn check_contents(body: &Value, found: &mut Vec<String>) {
    let contents = body["contents"].as_array().cloned().unwrap_or_default();
    let parts = |content: &Value| content["parts"].as_array().cloned().unwrap_or_default();
    if contents.first().is_none_or(|content| content["role"] != "user") {
        found.push("the first content is not the user's".to_owned());
    }
    for pair in contents.windows(2) {
        if pair[0]["role"] == pair[1]["role"] {
            found.push("two contents of one role in a row".to_owned());
        }
    }
    for (n, content) in contents.iter().enumerate() {
        let own = parts(content);
        if own.is_empty() {
            found.push("a content without parts".to_owned());
        }
        let names = |parts: &[Value], kind: &str| -> Vec<Value> {
            parts.iter().filter_map(|part| Some(part.get(kind)?["name"].clone())).collect()
        };
        let called = names(&own, "functionCall");
        let next = contents.get(n + 1).map(parts).unwrap_or_default();
        let answered = names(&next, "functionResponse");
        if content["role"] == "model" && called != answered {
            found.push(format!("calls {called:?} are answered by {answered:?}"));
        }
        // Gemini 3 refuses the calls of a step whose first one is not signed.
        let first = own.iter().find(|part| part.get("functionCall").is_some());
        if let Some(first) = first
            && content["role"] == "model"
        {
            let signature = first["thoughtSignature"].as_str().unwrap_or_default();
            let genuine = signature.starts_with("gsig-");
            if !genuine && signature != "skip_thought_signature_validator" {
                found.push(format!("a call without its signature: {first}"));
            }
        }
    }
}
