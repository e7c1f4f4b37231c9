//! What Anthropic publishes about the body of `POST /v1/messages`, as a check that a scripted
//! upstream makes of every request. Source: docs.anthropic.com/en/api/messages, 2026-11.

use std::collections::HashSet;

use serde_json::Value;

const FIELDS: [&str; 12] = [
    "model",
    "max_tokens",
    "messages",
    "stream",
    "system",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "temperature",
    "top_p",
    "stop_sequences",
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
    let limit = body["max_tokens"].as_u64().unwrap_or(0);
    if limit == 0 {
        found.push("no max_tokens".to_owned());
    }
    check_thinking(body, limit, &mut found);
    check_tools(body, &mut found);
    check_messages(body, &mut found);
    if body.to_string().matches("\"cache_control\"").count() > 4 {
        found.push("more than four cache markers".to_owned());
    }
    found
}

fn check_thinking(body: &Value, limit: u64, found: &mut Vec<String>) {
    let thinks = matches!(body["thinking"]["type"].as_str(), Some("enabled" | "adaptive"));
    if body["thinking"]["type"] == "enabled" {
        let budget = body["thinking"]["budget_tokens"].as_u64().unwrap_or(0);
        if budget < 1024 || budget >= limit {
            found.push(format!("a budget of {budget} for {limit} tokens"));
        }
    }
    if thinks && (body.get("temperature").is_some() || body.get("top_p").is_some()) {
        found.push("sampling parameters beside thinking".to_owned());
    }
    if thinks && matches!(body["tool_choice"]["type"].as_str(), Some("any" | "tool")) {
        found.push("a forced tool beside thinking".to_owned());
    }
}

fn check_tools(body: &Value, found: &mut Vec<String>) {
    let tools = body["tools"].as_array().cloned().unwrap_or_default();
    if body.get("tools").is_some() && tools.is_empty() {
        found.push("an empty list of tools".to_owned());
    }
    if body.get("tool_choice").is_some() && tools.is_empty() {
        found.push("tool_choice without tools".to_owned());
    }
    if body["messages"].to_string().contains("\"tool_use\"") && tools.is_empty() {
        found.push("calls in the history, and no tools".to_owned());
    }
    let mut names = HashSet::new();
    for tool in &tools {
        let name = tool["name"].as_str().unwrap_or_default();
        if !legal(name, 128) || !names.insert(name) {
            found.push(format!("the tool name {name:?}"));
        }
        if tool["input_schema"]["type"] != "object" {
            found.push(format!("the schema of {name}"));
        }
    }
}

fn legal(text: &str, longest: usize) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !text.is_empty() && text.len() <= longest && text.chars().all(legal)
}

fn check_messages(body: &Value, found: &mut Vec<String>) {
    let messages = body["messages"].as_array().cloned().unwrap_or_default();
    let role = |message: &Value| message["role"].as_str().unwrap_or_default().to_owned();
    if messages.first().map(role).as_deref() != Some("user") {
        found.push("the first message is not the user's".to_owned());
    }
    if messages.last().map(role).as_deref() != Some("user") {
        found.push("the last message is not the user's".to_owned());
    }
    let mut ids = HashSet::new();
    for pair in messages.windows(2) {
        if role(&pair[0]) == role(&pair[1]) {
            found.push("two messages of one role in a row".to_owned());
        }
    }
    let blocks = |message: &Value| message["content"].as_array().cloned().unwrap_or_default();
    for (n, message) in messages.iter().enumerate() {
        let own = blocks(message);
        if own.is_empty() {
            found.push("a message without content".to_owned());
        }
        check_blocks(&role(message), &own, found);
        let called: Vec<_> = own
            .iter()
            .filter(|block| block["type"] == "tool_use")
            .map(|b| b["id"].clone())
            .collect();
        for id in &called {
            if !legal(id.as_str().unwrap_or_default(), 64) || !ids.insert(id.clone()) {
                found.push(format!("the id {id}"));
            }
        }
        let answered: Vec<_> = messages
            .get(n + 1)
            .map(blocks)
            .unwrap_or_default()
            .iter()
            .take_while(|block| block["type"] == "tool_result")
            .map(|block| block["tool_use_id"].clone())
            .collect();
        if called != answered {
            found.push(format!("calls {called:?} are answered by {answered:?}"));
        }
    }
    check_thoughts(body, &messages, found);
}

fn check_blocks(role: &str, blocks: &[Value], found: &mut Vec<String>) {
    let mut called = false;
    for block in blocks {
        match block["type"].as_str().unwrap_or_default() {
            "text" => {
                if block["text"].as_str().unwrap_or_default().trim().is_empty() {
                    found.push("an empty text block".to_owned());
                }
                if called {
                    found.push("text behind a call".to_owned());
                }
            }
            "tool_use" => called = true,
            "tool_result" | "image" if role == "user" => {}
            "thinking" => {
                if !block["signature"].as_str().unwrap_or_default().starts_with("sig-") {
                    found.push(format!("a signature of somebody else: {block}"));
                }
            }
            "redacted_thinking" if role == "assistant" => {}
            other => found.push(format!("a {other} block of the {role}")),
        }
    }
}

/// With a budget, the answer in progress must begin with its thoughts.
fn check_thoughts(body: &Value, messages: &[Value], found: &mut Vec<String>) {
    if body["thinking"]["type"] != "enabled" {
        return;
    }
    let Some([answer, results]) = messages.last_chunk::<2>() else { return };
    let in_progress = results["content"][0]["type"] == "tool_result";
    let first = answer["content"][0]["type"].as_str().unwrap_or_default();
    if in_progress && !matches!(first, "thinking" | "redacted_thinking") {
        found.push(format!("the answer in progress begins with {first}, not with thinking"));
    }
}
