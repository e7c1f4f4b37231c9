//! What several test programs share: scripted upstreams over real sockets, and the rules that a
//! chat request must keep.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

pub mod certificates;
pub mod chat_rules;
pub mod google_rules;
pub mod messages_rules;
pub mod ocx;
pub mod oracles;
pub mod scripted;
pub mod transcripts;
pub mod upstream;

use std::path::PathBuf;

/// A fresh directory below `target`, so that nothing is left elsewhere and Codex accepts it as its
/// home (it refuses the system's own directory for temporary files).
pub fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// What OpenAI's chat streams look like, chunk by chunk.
pub mod chat {
    use serde_json::{Value, json};

    /// A chunk with one delta.
    pub fn delta(delta: Value) -> Value {
        json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]})
    }

    /// Text.
    pub fn text(text: &str) -> Value {
        delta(json!({"content": text}))
    }

    /// A whole tool call in one chunk.
    pub fn call(index: u32, id: &str, name: &str, arguments: &Value) -> Value {
        delta(json!({"tool_calls": [{"index": index, "id": id, "type": "function",
            "function": {"name": name, "arguments": arguments.to_string()}}]}))
    }

    /// A piece of a call's arguments.
    pub fn more(index: u32, arguments: &str) -> Value {
        delta(json!({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}))
    }

    /// The end, with usage.
    pub fn end(reason: &str) -> Vec<Value> {
        vec![
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18,
                "prompt_tokens_details": {"cached_tokens": 5}}}),
            json!("[DONE]"),
        ]
    }
}
