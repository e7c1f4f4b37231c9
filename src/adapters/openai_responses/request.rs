//! The caller's body with the model replaced and what the upstream refuses taken out. Everything
//! else stays byte for byte.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::super::{EncodeError, Target};
use crate::{
    credentials::CAPSULE_PREFIX,
    model::{LossKind, Losses, Prompt},
    wire::{
        compaction,
        json::{Edit, Obj, RawObject, Str, TextOrList, edit_object},
    },
};

/// Fields that the ChatGPT backend answers with 400.
const REFUSED_BY_CHATGPT: [&str; 3] = ["max_output_tokens", "metadata", "previous_response_id"];

/// An item's id must begin with the prefix of its type.
const ID_PREFIXES: [(&str, &str); 7] = [
    ("message", "msg_"),
    ("agent_message", "amsg_"),
    ("reasoning", "rs_"),
    ("function_call", "fc_"),
    ("custom_tool_call", "ctc_"),
    ("tool_search_call", "tsc_"),
    ("web_search_call", "ws_"),
];

/// Rewrites the body; `forwards` for the ChatGPT backend.
pub(crate) fn encode(
    prompt: &Prompt,
    target: &Target<'_>,
    forwards: bool,
) -> Result<(Vec<u8>, Losses), EncodeError> {
    let body = |error: serde_json::Error| EncodeError::Body(error.to_string());
    let mut losses = Losses::default();
    let raw = match &prompt.raw {
        Some(raw) => raw.clone(),
        None => {
            let (composed, lost) = super::compose::compose(prompt, target);
            losses = lost;
            composed.into()
        }
    };
    let object: RawObject<'_> = serde_json::from_slice(&raw).map_err(body)?;
    let model = serde_json::to_string(target.quirks.wire_model(target.model)).map_err(body)?;
    let mut edits = vec![("model", Edit::Set(model))];
    let store = object.get("store").map(RawValue::get).filter(|value| *value != "null");
    let stored = store.map_or(!forwards, |value| value == "true");
    if forwards {
        for field in REFUSED_BY_CHATGPT {
            if object.get(field).is_some() {
                losses.add(LossKind::Field);
                edits.push((field, Edit::Remove));
            }
        }
        // That backend only streams; a caller that wants a document gets the end of the stream.
        edits.push(("stream", Edit::Set("true".into())));
        if store.is_none() {
            edits.push(("store", Edit::Set("false".into())));
        }
    }
    if let Some(input) = object.get("input") {
        let rules = Rules { strip_ids: !stored, strip_passthrough: !forwards };
        edits.push(("input", Edit::Set(rules.input(input))));
    }
    let body = edit_object(&raw, &edits).map_err(body)?;
    Ok((body, losses))
}

/// What to change in the items.
struct Rules {
    /// Nothing is stored, so ids refer to nothing and are refused.
    strip_ids: bool,
    /// Codex's note to OpenAI alone.
    strip_passthrough: bool,
}

const PASSTHROUGH: &str = "internal_chat_message_metadata_passthrough";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Item<'a> {
    #[serde(borrow, rename = "type")]
    kind: Str<'a>,
    #[serde(borrow)]
    id: Str<'a>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    encrypted_content: Str<'a>,
    #[serde(borrow)]
    action: Option<&'a RawValue>,
    #[serde(borrow, rename = "internal_chat_message_metadata_passthrough")]
    passthrough: Option<&'a RawValue>,
}

impl Rules {
    fn input(&self, input: &RawValue) -> String {
        let Ok(TextOrList::List(items)) =
            serde_json::from_str::<TextOrList<'_, &RawValue>>(input.get())
        else {
            return input.get().to_owned();
        };
        let mut out = String::with_capacity(input.get().len());
        for (n, raw) in items.iter().enumerate() {
            out.push(if n == 0 { '[' } else { ',' });
            match self.item(raw) {
                Some(changed) => out.push_str(&changed),
                None => out.push_str(raw.get()),
            }
        }
        out.push_str(if items.is_empty() { "[]" } else { "]" });
        out
    }

    /// The changed item, or nothing if it may stay as it is.
    fn item(&self, raw: &RawValue) -> Option<String> {
        let Ok(Obj(Some(item))) = serde_json::from_str::<Obj<Item<'_>>>(raw.get()) else {
            return None;
        };
        let kind = item.kind.get().unwrap_or("message");
        if let ("compaction", Some(summary)) =
            (kind, item.encrypted_content.get().and_then(compaction::open))
        {
            let part = serde_json::json!({"type": "input_text", "text": summary});
            return Some(
                serde_json::json!({"type": "message", "role": "user", "content": [part]})
                    .to_string(),
            );
        }
        let edits = self.edits(kind, &item);
        if edits.is_empty() {
            return None;
        }
        let changed = edit_object(raw.get().as_bytes(), &edits).ok()?;
        String::from_utf8(changed).ok()
    }

    fn edits(&self, kind: &str, item: &Item<'_>) -> Vec<(&'static str, Edit)> {
        let mut edits = Vec::new();
        let expected = ID_PREFIXES.iter().find(|(name, _)| *name == kind).map(|(_, id)| id);
        let wrong_id =
            item.id.get().is_some_and(|id| expected.is_some_and(|prefix| !id.starts_with(prefix)));
        if (self.strip_ids && item.id.get().is_some()) || wrong_id {
            edits.push(("id", Edit::Remove));
        }
        if kind == "reasoning" {
            // Native backends refuse raw reasoning text.
            let has_text =
                item.content.is_some_and(|content| !matches!(content.get(), "[]" | "null"));
            if has_text {
                edits.push(("content", Edit::Set("[]".into())));
            }
            if item.encrypted_content.or_empty().starts_with(CAPSULE_PREFIX) {
                edits.push(("encrypted_content", Edit::Remove));
            }
        }
        if self.strip_passthrough && item.passthrough.is_some() {
            edits.push((PASSTHROUGH, Edit::Remove));
        }
        if kind == "web_search_call"
            && let Some(action) = item.action.and_then(complete_search)
        {
            edits.push(("action", Edit::Set(action)));
        }
        edits
    }
}

/// A search names its query twice, as `query` and in `queries`; the backend wants both.
fn complete_search(action: &RawValue) -> Option<String> {
    let mut action: Value = serde_json::from_str(action.get()).ok()?;
    if action["type"] != "search" {
        return None;
    }
    let object = action.as_object_mut()?;
    match (object.get("query").cloned(), object.get("queries").cloned()) {
        (Some(query), None) => object.insert("queries".into(), Value::Array(vec![query])),
        (None, Some(Value::Array(queries))) => {
            object.insert("query".into(), queries.first().cloned().unwrap_or_default())
        }
        _ => return None,
    };
    Some(action.to_string())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use secrecy::SecretString;
    use serde_json::json;

    use super::super::super::{Encoded, adapter};
    use crate::{
        credentials::{CallerAuth, Credential},
        registry::{AdapterKind, Quirks},
        wire::compaction,
    };

    use super::*;

    fn encode_raw(base_url: &str, quirks: &Quirks, credential: &Credential, body: &str) -> Encoded {
        let prompt = crate::callers::responses::parse(Bytes::copy_from_slice(body.as_bytes()))
            .unwrap()
            .prompt;
        let target =
            Target { model: "up", base_url, quirks, headers: &[], credential, sealer: None };
        adapter(AdapterKind::OpenAiResponses).encode(&prompt, &target).unwrap()
    }

    fn key() -> Credential {
        Credential::Key(SecretString::from("sk-1"))
    }

    fn forwarded() -> Credential {
        let header = |name: &str| match name {
            "authorization" => Some("Bearer chatgpt"),
            "thread-id" => Some("t"),
            _ => None,
        };
        Credential::Forwarded(CallerAuth::pick(header, |_| false))
    }

    fn body_of(credential: &Credential, body: &Value) -> Value {
        let encoded =
            encode_raw("https://x.example", &Quirks::default(), credential, &body.to_string());
        serde_json::from_slice(&encoded.request.body).unwrap()
    }

    #[test]
    fn everything_but_the_model_stays_byte_for_byte() {
        let body = r#"{"model":"p/up", "input": "a  b" ,"x":{"z":1,"a":1.50}}"#;
        let encoded = encode_raw("https://x.example", &Quirks::default(), &key(), body);
        assert_eq!(
            String::from_utf8(encoded.request.body).unwrap(),
            r#"{"model":"up","input":"a  b","x":{"z":1,"a":1.50}}"#
        );
    }

    #[test]
    fn addresses_are_joined_without_doubling() {
        let url = |base: &str, quirks: &Quirks, credential: &Credential| {
            encode_raw(base, quirks, credential, r#"{"model":"m"}"#).request.url
        };
        let plain = Quirks::default();
        for base in ["https://h", "https://h/", "https://h/v1", "https://h/v1/responses"] {
            assert_eq!(url(base, &plain, &key()), "https://h/v1/responses");
        }
        let path = Quirks { responses_path: Some("/responses".into()), ..Quirks::default() };
        assert_eq!(url("https://h/api", &path, &key()), "https://h/api/responses");
        assert_eq!(url("https://h/codex", &plain, &forwarded()), "https://h/codex/responses");
    }

    #[test]
    fn forward_sends_the_caller_and_what_chatgpt_accepts() {
        let body = json!({"model": "m", "max_output_tokens": 5, "metadata": {}, "input": []});
        let encoded = encode_raw("https://h", &Quirks::default(), &forwarded(), &body.to_string());
        assert_eq!(encoded.losses.to_string(), "field=2");
        let sent: Value = serde_json::from_slice(&encoded.request.body).unwrap();
        assert_eq!(sent, json!({"model": "up", "input": [], "stream": true, "store": false}));
        let names: Vec<_> = encoded.request.headers.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["content-type", "accept", "authorization", "thread-id"]);
        assert!(!format!("{:?}", encoded.request).contains("chatgpt"));
    }

    #[test]
    fn items_lose_what_the_backend_refuses() {
        let items = json!([
            {"type": "message", "id": "msg_1", "role": "user", "content": "q", PASSTHROUGH: {"a": 1}},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}], "encrypted_content": "ocxr1:xx"},
            {"type": "function_call", "id": "call_9", "name": "f", "arguments": "{}", "call_id": "c"},
            {"type": "compaction", "encrypted_content": compaction::seal("sum")},
            {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "q"}},
            7,
        ]);
        let stored = body_of(&key(), &json!({"model": "m", "store": true, "input": items}));
        assert_eq!(
            stored["input"],
            json!([
                {"type": "message", "id": "msg_1", "role": "user", "content": "q"},
                {"type": "reasoning", "id": "rs_1", "summary": [], "content": []},
                {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "sum"}]},
                {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "q", "queries": ["q"]}},
                7,
            ])
        );
        let unstored = body_of(&key(), &json!({"model": "m", "store": false, "input": items}));
        assert!(unstored["input"].as_array().unwrap().iter().all(|item| item.get("id").is_none()));
        let forwarded = body_of(&forwarded(), &json!({"model": "m", "input": items}));
        assert!(forwarded["input"][0].get(PASSTHROUGH).is_some());
        assert!(forwarded["input"][0].get("id").is_none());
    }
}
