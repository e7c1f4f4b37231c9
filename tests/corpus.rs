//! What Codex really sends, item by item: whatever goes in is carried or counted, by every adapter.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/mod.rs"]
mod support;

use std::{fs, path::PathBuf};

use ocx::{
    adapters::{Target, adapter},
    callers::Protocol,
    credentials::{CapsuleKey, Credential},
    model::{LossKind, Losses},
    registry::{AdapterKind, Quirks},
};
use serde_json::Value;
use support::{chat_rules, google_rules, messages_rules};

const BASE_URL: &str = "https://up.example";

fn bodies() -> Vec<(String, Value)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/codex");
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut bodies: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
        })
        .collect();
    bodies.sort_by(|(a, _): &(String, Value), (b, _)| a.cmp(b));
    assert!(bodies.len() >= 30, "{} bodies", bodies.len());
    bodies
}

/// A body as it goes upstream, and what was counted as lost on the way.
fn encode(kind: AdapterKind, body: &Value) -> (String, Losses) {
    let prompt = Protocol::Responses.parse(body.to_string().into()).unwrap().prompt;
    let sealer = CapsuleKey::new([1; 32]).sealer(kind.name(), BASE_URL);
    let quirks = Quirks::default();
    let target = Target {
        model: if kind == AdapterKind::Google { "gemini-3-pro" } else { "claude-sonnet-4-5" },
        base_url: BASE_URL,
        quirks: &quirks,
        headers: &[],
        credential: &Credential::None,
        sealer: Some(&sealer),
    };
    let encoded = adapter(kind).encode(&prompt, &target).unwrap();
    let mut losses = encoded.losses;
    if !adapter(kind).relays() {
        losses.merge(&prompt.losses);
    }
    (String::from_utf8(encoded.request.body).unwrap(), losses)
}

fn count(losses: &Losses, kinds: &[LossKind]) -> usize {
    losses.iter().filter(|(kind, _)| kinds.contains(kind)).map(|(_, n)| n as usize).sum()
}

/// Every marker, image and opaque blob below a value, each a unit that must arrive or be counted.
fn units(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.contains("marker-") => {
            // Inside JSON text, the marker alone.
            let start = text.find("marker-").unwrap();
            let end = text[start..].find('.').map_or(text.len(), |at| start + at);
            found.push(text[start..end].to_owned());
        }
        Value::String(text) if text.starts_with("data:image") => {
            found.push(text.split_once(',').unwrap().1.to_owned());
        }
        Value::Array(list) => list.iter().for_each(|inner| units(inner, found)),
        Value::Object(object) => object.values().for_each(|inner| units(inner, found)),
        _ => {}
    }
}

/// Names of tools as upstreams see them, and how many of the declarations only OpenAI runs.
fn tools(declared: &Value, namespace: &str, names: &mut Vec<String>) -> usize {
    let mut hosted = 0;
    for tool in declared.as_array().into_iter().flatten() {
        match tool["type"].as_str().unwrap_or("function") {
            "namespace" => {
                let name = tool["name"].as_str().filter(|name| *name != "functions");
                hosted += tools(&tool["tools"], name.unwrap_or_default(), names);
            }
            "web_search" | "image_generation" => hosted += 1,
            "tool_search" => names.push("tool_search".to_owned()),
            _ => {
                let name = tool["name"].as_str().unwrap();
                let prefix = if namespace.is_empty() { "" } else { "__" };
                names.push(format!("{namespace}{prefix}{name}"));
            }
        }
    }
    hosted
}

#[test]
fn items_in_are_items_carried_and_losses_counted() {
    for (name, body) in bodies() {
        let items = body["input"].as_array().unwrap();
        for kind in AdapterKind::ALL {
            let (sent, losses) = encode(kind, &body);
            let (mut lost, mut expected) = (Vec::new(), 0);
            for item in items {
                let mut of_item = Vec::new();
                units(item, &mut of_item);
                if item["type"] == "reasoning" {
                    // One unit: what is thought, and the form that only its vendor reads.
                    let carried = !of_item.is_empty()
                        && of_item.iter().all(|unit| sent.contains(unit.as_str()));
                    of_item = if carried { Vec::new() } else { vec!["lost reasoning".to_owned()] };
                }
                if item["type"] == "additional_tools" || item["type"] == "compaction_trigger" {
                    continue;
                }
                expected += 1;
                lost.extend(of_item.into_iter().filter(|unit| !sent.contains(unit.as_str())));
            }
            let counted = count(
                &losses,
                &[
                    LossKind::Image,
                    LossKind::File,
                    LossKind::UnknownItem,
                    LossKind::UnknownPart,
                    LossKind::HostedItem,
                    LossKind::ToolArguments,
                    LossKind::Reasoning,
                ],
            );
            assert!(expected > 0);
            assert_eq!(lost.len(), counted, "{name} over {}: {lost:?}, {losses}", kind.name());
        }
    }
}

#[test]
fn every_tool_is_offered_or_counted() {
    for (name, body) in bodies() {
        let mut names = Vec::new();
        let mut hosted = tools(&body["tools"], "", &mut names);
        for item in body["input"].as_array().unwrap() {
            hosted += tools(&item["tools"], "", &mut names);
        }
        names.sort();
        names.dedup();
        for kind in [AdapterKind::OpenAiChat, AdapterKind::Anthropic, AdapterKind::Google] {
            let (sent, losses) = encode(kind, &body);
            let sent: Value = serde_json::from_str(&sent).unwrap();
            let offered = match kind {
                AdapterKind::Google => sent["tools"][0]["functionDeclarations"].clone(),
                _ => sent["tools"].clone(),
            };
            // A history with calls makes Anthropic's declare them although none is on offer.
            let on_offer = sent["tool_choice"]["type"] != "none";
            let mut offered: Vec<String> = offered
                .as_array()
                .into_iter()
                .flatten()
                .filter(|_| on_offer)
                .map(|tool| {
                    tool.get("function").unwrap_or(tool)["name"].as_str().unwrap().to_owned()
                })
                .collect();
            offered.sort();
            assert_eq!(offered, names, "{name} over {}", kind.name());
            assert_eq!(count(&losses, &[LossKind::HostedTool]), hosted, "{name}");
            assert_eq!(count(&losses, &[LossKind::ToolName]), 0, "{name}");
        }
    }
}

#[test]
fn p13_what_is_sent_keeps_the_vendors_rules_and_goes_where_the_config_says() {
    for (name, body) in bodies() {
        for kind in AdapterKind::ALL {
            let (sent, _) = encode(kind, &body);
            let sent: Value = serde_json::from_str(&sent).unwrap();
            let wrong = match kind {
                AdapterKind::OpenAiChat => chat_rules::violations(&sent),
                AdapterKind::Anthropic => messages_rules::violations(&sent),
                AdapterKind::Google => google_rules::violations(&sent),
                _ => Vec::new(),
            };
            assert_eq!(wrong, Vec::<String>::new(), "{name} over {}", kind.name());
        }
    }
}

/// Names by which callers have steered other gateways.
const STEERING: [&str; 24] = [
    "base_url",
    "baseUrl",
    "api_base",
    "apiBase",
    "api_key",
    "apiKey",
    "key",
    "token",
    "authorization",
    "headers",
    "extra_headers",
    "host",
    "custom_host",
    "url",
    "endpoint",
    "provider",
    "adapter",
    "proxy",
    "organization",
    "project",
    "credentials",
    "auth",
    "x-api-key",
    "litellm_params",
];

#[test]
fn p13_no_field_of_a_body_selects_an_address_or_a_credential() {
    const EVIL: &str = "http://evil.example/v1";
    let (_, body) = bodies().swap_remove(0);
    for name in STEERING {
        for depth in 0..4 {
            let inner = (0..depth).fold(
                serde_json::json!(EVIL),
                |inner, _| serde_json::json!({ name: inner, "list": [{ name: inner }] }),
            );
            let mut body = body.clone();
            body[name] = inner.clone();
            body["metadata"] = serde_json::json!({ name: inner });
            body["input"][0][name] = inner;
            let prompt = Protocol::Responses.parse(body.to_string().into()).unwrap().prompt;
            for kind in AdapterKind::ALL {
                let quirks = Quirks::default();
                let target = Target {
                    model: "gemini-3-pro",
                    base_url: BASE_URL,
                    quirks: &quirks,
                    headers: &[],
                    credential: &Credential::Key("sk-own".into()),
                    sealer: None,
                };
                let request = adapter(kind).encode(&prompt, &target).unwrap().request;
                assert!(request.url.starts_with("https://up.example/"), "{name}: {}", request.url);
                for (header, value) in &request.headers {
                    assert!(!value.expose().contains("evil"), "{name} reaches {header}");
                }
                // A relay passes its caller's fields to the one upstream; a translation drops them.
                let sent = String::from_utf8(request.body).unwrap();
                assert!(adapter(kind).relays() || !sent.contains("evil"), "{name}: {sent}");
            }
        }
    }
}
