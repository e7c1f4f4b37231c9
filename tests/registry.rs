//! Every provider of the catalogue on its way from one line of config to the bytes that would be sent.
//! The snapshots hold the address, the headers that authenticate, and what the quirks make of a call
//! that wants a bit of everything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::Path;

use ocx::{
    adapters::{HeaderText, Target, WireRequest, adapter},
    callers::Protocol,
    config::{self, ProviderSpec},
    credentials::{CallerAuth, Credential, TokenId},
    registry::{self, AuthMode, ProviderEntry},
    routing,
};
use serde_json::{Value, json};

const KEY: &str = "sk-registry-canary";

/// What a user writes: nothing, a key, or what only the user can know.
fn line(entry: &ProviderEntry) -> Value {
    let mut line = json!({});
    if entry.auth == AuthMode::Key {
        line["apiKey"] = "${OCX_REGISTRY_KEY}".into();
    }
    if entry.base_url.contains('{') {
        let filled = entry.base_url.replace(['{', '}'], "");
        line["baseUrl"] = filled.into();
    }
    line
}

fn spec(id: &str, entry: &ProviderEntry) -> std::sync::Arc<ProviderSpec> {
    let text = json!({ "providers": { id: line(entry) } }).to_string();
    let env = |name: &str| (name == "OCX_REGISTRY_KEY").then(|| KEY.to_owned());
    let loaded = config::check(text.as_bytes(), Path::new("c"), &env)
        .unwrap_or_else(|problems| panic!("{id}: {problems}"));
    let model = entry.default_model.clone().or(entry.models.first().cloned());
    let name = format!("{id}/{}", model.as_deref().unwrap_or("some-model"));
    let route = routing::route(&name, &loaded.config).unwrap_or_else(|e| panic!("{id}: {e}"));
    assert_eq!(route.provider.as_str(), id);
    let spec = loaded.config.providers[id].clone();
    if entry.auth != AuthMode::Forward {
        assert_eq!(spec.lacks(&env), None, "{id}");
    }
    spec
}

fn credential(spec: &ProviderSpec) -> Credential {
    let header = |name: &str| (name == "authorization").then_some("Bearer sk-registry-canary");
    match spec.auth {
        AuthMode::Key => Credential::Key(KEY.into()),
        AuthMode::Local => Credential::None,
        AuthMode::Forward => Credential::Forwarded(CallerAuth::pick(header, |_| false)),
        AuthMode::OAuth => {
            let access = KEY.into();
            Credential::Account { id: TokenId::of(&access), access, name: "a".into() }
        }
    }
}

fn shown(request: &WireRequest) -> String {
    let mut lines = vec![format!("{:?} {}", request.method, request.url)];
    for (name, value) in &request.headers {
        let text = match value {
            HeaderText::Plain(text) => text.to_string(),
            HeaderText::Secret(_) => value.expose().replace(KEY, "<key>"),
        };
        lines.push(format!("{name}: {text}"));
    }
    assert!(!request.url.contains(KEY) && !format!("{request:?}").contains(KEY));
    lines.join("\n")
}

/// A call that touches every quirk: effort, sampling, a forced tool, an image, a limit.
fn call() -> Value {
    json!({"model": "m", "stream": true, "max_output_tokens": 20_000, "temperature": 0.5, "top_p": 0.9,
        "reasoning": {"effort": "medium", "summary": "auto"}, "parallel_tool_calls": true,
        "prompt_cache_key": "k", "service_tier": "priority", "tool_choice": "required",
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}],
        "instructions": "be good",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"},
                {"type": "input_image", "image_url": "data:image/png;base64,eA=="}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "done"}]})
}

#[test]
fn every_provider_goes_from_one_line_of_config_to_a_request() {
    let mut seen = 0;
    for (id, entry) in registry::entries() {
        let spec = spec(id, entry);
        let credential = credential(&spec);
        let model = entry.default_model.as_deref().or(entry.models.first().map(String::as_str));
        let model = model.unwrap_or("some-model");
        let target = Target {
            model,
            base_url: &spec.base_url,
            quirks: &spec.quirks,
            headers: &spec.headers,
            credential: &credential,
            sealer: None,
        };
        let adapter = adapter(spec.adapter_for(model));
        let prompt = Protocol::Responses.parse(call().to_string().into()).unwrap().prompt;
        let encoded = adapter.encode(&prompt, &target).unwrap_or_else(|e| panic!("{id}: {e}"));
        let body: Value = serde_json::from_slice(&encoded.request.body).unwrap();
        let list = adapter.list_models(&target).filter(|_| spec.live_models);
        let list = list.map_or("no list of models".to_owned(), |request| shown(&request));
        let text = format!(
            "{}\nlosses: {}\n\n{body:#}\n\n{list}\n",
            shown(&encoded.request),
            encoded.losses
        );
        insta::with_settings!({
            snapshot_path => "registry",
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!(id, text) });
        seen += 1;
    }
    assert!(seen >= 78, "{seen}");
}

#[test]
fn ollamas_tags_are_covered_by_the_family() {
    for (id, entry) in registry::entries() {
        for model in entry.quirks.no_vision_models.iter().flatten() {
            let tagged = format!("{}:120b", model.split(':').next().unwrap());
            let covered = entry.quirks.known_sight(model) == Some(false);
            assert!(covered, "{id}: {model}");
            if !model.contains(':') && entry.quirks.model_input_modalities.is_none() {
                assert_eq!(entry.quirks.known_sight(&tagged), Some(false), "{id}: {tagged}");
            }
        }
    }
}
