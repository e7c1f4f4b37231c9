//! What OpenAI publishes about the body of `POST /v1/chat/completions`, as a check that a scripted
//! upstream makes of every request. Source: platform.openai.com/docs/api-reference/chat/create.

use serde_json::Value;

const FIELDS: [&str; 19] = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "stop",
    "reasoning_effort",
    "response_format",
    "service_tier",
    "prompt_cache_key",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "n",
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
        if value.is_null() {
            found.push(format!("{name} is null"));
        }
    }
    if !body["model"].is_string() {
        found.push("no model".to_owned());
    }
    if body.get("stream_options").is_some() && body["stream"] != true {
        found.push("stream_options without stream".to_owned());
    }
    check_tools(body, &mut found);
    check_messages(body, &mut found);
    found
}

fn check_tools(body: &Value, found: &mut Vec<String>) {
    let tools = body["tools"].as_array().cloned().unwrap_or_default();
    if body.get("tools").is_some() && tools.is_empty() {
        found.push("an empty list of tools".to_owned());
    }
    for field in ["tool_choice", "parallel_tool_calls"] {
        if body.get(field).is_some() && tools.is_empty() {
            found.push(format!("{field} without tools"));
        }
    }
    let mut names = Vec::new();
    for tool in &tools {
        let function = &tool["function"];
        let name = function["name"].as_str().unwrap_or_default();
        if tool["type"] != "function" || !is_name(name) {
            found.push(format!("a tool that is no function: {name:?}"));
        }
        if function["parameters"]["type"] != "object" {
            found.push(format!("the parameters of {name} are no object"));
        }
        if names.contains(&name) {
            found.push(format!("two tools are called {name}"));
        }
        names.push(name);
    }
}

fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=64).contains(&name.len()) && name.chars().all(legal)
}

fn check_messages(body: &Value, found: &mut Vec<String>) {
    let messages = body["messages"].as_array().cloned().unwrap_or_default();
    if messages.is_empty() {
        found.push("no messages".to_owned());
    }
    let mut open: Vec<String> = Vec::new();
    for (n, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        if role != "tool" && !open.is_empty() {
            found.push(format!("message {n}: calls {open:?} have no result"));
            open.clear();
        }
        match role {
            "system" if n > 0 => {
                found.push(format!("message {n}: a system message that is not first"))
            }
            "system" | "user" | "developer" => check_content(n, &message["content"], found),
            "assistant" => {
                let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
                if message.get("tool_calls").is_some() && calls.is_empty() {
                    found.push(format!("message {n}: an empty list of calls"));
                }
                if calls.is_empty() && message["content"].as_str().is_none_or(str::is_empty) {
                    found.push(format!("message {n}: an assistant that says nothing"));
                }
                for call in calls {
                    let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
                    if serde_json::from_str::<Value>(arguments).is_err() {
                        found.push(format!("message {n}: arguments that are no JSON"));
                    }
                    if !is_name(call["function"]["name"].as_str().unwrap_or_default()) {
                        found.push(format!("message {n}: a call without a legal name"));
                    }
                    open.push(call["id"].as_str().unwrap_or_default().to_owned());
                }
            }
            "tool" => {
                let id = message["tool_call_id"].as_str().unwrap_or_default();
                match open.iter().position(|call| call == id) {
                    Some(at) => drop(open.remove(at)),
                    None => found.push(format!("message {n}: a result of no call: {id:?}")),
                }
                if !message["content"].is_string() {
                    found.push(format!("message {n}: a result that is no text"));
                }
            }
            other => found.push(format!("message {n}: the role {other:?}")),
        }
    }
    if !open.is_empty() {
        found.push(format!("calls {open:?} have no result"));
    }
}

fn check_content(n: usize, content: &Value, found: &mut Vec<String>) {
    match content {
        Value::String(_) => {}
        Value::Array(parts) if !parts.is_empty() => {
            for part in parts {
                let sound = match part["type"].as_str() {
                    Some("text") => part["text"].is_string(),
                    Some("image_url") => part["image_url"]["url"].is_string(),
                    _ => false,
                };
                if !sound {
                    found.push(format!("message {n}: a bad part {part}"));
                }
            }
        }
        other => found.push(format!("message {n}: bad content {other}")),
    }
}
