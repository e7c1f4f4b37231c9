//! Model lists, in the shapes that servers give them.
//! Source: OpenAI `{data: […]}`, Together a bare list, Ollama and others `{models: […]}`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DecodeError, EncodeError, endpoint};
use crate::registry::{ModelDiscovery, RowRule};

/// One model of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The upstream's name of it.
    pub id: String,
    /// Who owns it, if told.
    pub owned_by: Option<String>,
    /// Tokens it takes, if told.
    pub context_window: Option<u64>,
    /// Whether it takes images, if told.
    pub sees_images: Option<bool>,
    /// Efforts it takes, if told; empty means none.
    pub efforts: Option<Vec<String>>,
}

/// The address of a list: `usual` after the base, unless the provider has one of its own.
pub(super) fn url(
    base: &str,
    pasted: &[&str],
    usual: &str,
    discovery: Option<&ModelDiscovery>,
) -> Result<String, EncodeError> {
    let Some(discovery) = discovery else {
        return endpoint(base, pasted, usual);
    };
    let Some(path) = &discovery.path else {
        return Ok(with_query(endpoint(base, pasted, usual)?, discovery));
    };
    let base = endpoint(base, pasted, "/")?;
    // An absolute address, which would take the key elsewhere, is refused by the config.
    let joined = url::Url::parse(&base).and_then(|base| base.join(path));
    let joined = joined.map_err(|error| EncodeError::Body(error.to_string()))?;
    Ok(with_query(joined.into(), discovery))
}

fn with_query(url: String, discovery: &ModelDiscovery) -> String {
    if discovery.query.is_empty() {
        return url;
    }
    let query: String = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(&discovery.query)
        .finish();
    let mark = if url.contains('?') { '&' } else { '?' };
    format!("{url}{mark}{query}")
}

/// Families that make pictures, video or sound, not text.
const MEDIA: [&str; 13] = [
    "dall-e",
    "dalle",
    "imagen",
    "sora",
    "veo",
    "flux",
    "kling",
    "seedance",
    "hailuo",
    "stable-diffusion",
    "sdxl",
    "midjourney",
    "whisper",
];

/// Reads a list.
pub(super) fn parse(
    body: &[u8],
    discovery: Option<&ModelDiscovery>,
) -> Result<Vec<ModelInfo>, DecodeError> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| DecodeError::Malformed(format!("no JSON: {error}")))?;
    let rows = value
        .get("data")
        .or_else(|| value.get("models"))
        .unwrap_or(&value)
        .as_array()
        .ok_or_else(|| DecodeError::Malformed("no list of models".to_owned()))?;
    let rules = discovery.map_or(&[][..], |discovery| &discovery.rows);
    let prefix = discovery.and_then(|discovery| discovery.strip_id_prefix.as_deref());
    let listed = rows.iter().filter(|value| rules.iter().all(|rule| holds(rule, value)));
    Ok(listed.filter_map(|value| row(value, prefix.unwrap_or_default())).collect())
}

fn holds(rule: &RowRule, row: &Value) -> bool {
    let Some(field) = row.pointer(&rule.path) else { return false };
    let equals = rule.equals.is_empty() || rule.equals.contains(field);
    let contains = rule.contains.is_empty()
        || rule.contains.iter().any(|wanted| match field {
            Value::Array(list) => list.iter().any(|element| element == wanted.as_str()),
            Value::String(text) => text.contains(wanted.as_str()),
            _ => false,
        });
    equals && contains
}

fn row(row: &Value, prefix: &str) -> Option<ModelInfo> {
    let id = row.get("id").and_then(Value::as_str)?;
    let id = id.strip_prefix(prefix).unwrap_or(id);
    if id.is_empty() || makes_media(id) {
        return None;
    }
    let capability = |name: &str| {
        let at = |place: &str| row.pointer(&format!("{place}/capabilities/{name}"));
        at("/metadata").or_else(|| at("")).and_then(Value::as_bool)
    };
    // OpenRouter's rows, and those of gateways that copy them.
    let modalities = row.pointer("/architecture/input_modalities").and_then(Value::as_array);
    let efforts = capability("reasoning_effort").map(|takes| {
        let all = ["low", "medium", "high"].map(str::to_owned);
        if takes { all.to_vec() } else { Vec::new() }
    });
    let window = ["max_model_len", "context_length", "context_window", "max_context_length"]
        .iter()
        .find_map(|name| row.get(*name).and_then(Value::as_u64));
    Some(ModelInfo {
        id: id.to_owned(),
        owned_by: row.get("owned_by").and_then(Value::as_str).map(str::to_owned),
        context_window: row
            .pointer("/metadata/limits/max_context_length")
            .and_then(Value::as_u64)
            .or(window),
        sees_images: modalities
            .map(|list| list.iter().any(|modality| modality == "image"))
            .or_else(|| capability("vision")),
        efforts,
    })
}

/// Whether an id names a generator of media: a segment `image` or `video`, or a known family.
/// Models that *see* images stay.
fn makes_media(id: &str) -> bool {
    let id = id.to_ascii_lowercase();
    let segment = |c: char| matches!(c, '/' | '_' | '-');
    if id.split(segment).any(|part| part == "image" || part == "video") {
        return true;
    }
    MEDIA.iter().any(|family| {
        id.match_indices(family).any(|(at, _)| {
            let before = id[..at].chars().next_back().is_none_or(segment);
            let after = id[at + family.len()..]
                .chars()
                .next()
                .is_none_or(|c| segment(c) || c.is_ascii_digit());
            before && after
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_shapes_are_read_and_others_refused() {
        for body in [
            r#"{"data":[{"id":"a","owned_by":"x","max_model_len":8192},{"no":"id"},{"id":"sora-2"}]}"#,
            r#"[{"id":"a","owned_by":"x","context_length":8192},{"id":"gpt-image-1"}]"#,
            r#"{"models":[{"id":"a","owned_by":"x","metadata":{"limits":{"max_context_length":8192}}}]}"#,
        ] {
            let models = parse(body.as_bytes(), None).unwrap();
            assert_eq!(
                models,
                [ModelInfo {
                    id: "a".into(),
                    owned_by: Some("x".into()),
                    context_window: Some(8192),
                    ..ModelInfo::default()
                }],
                "{body}"
            );
        }
        assert!(parse(b"{\"ok\":true}", None).is_err());
        assert!(parse(b"<html>", None).is_err());
    }

    #[test]
    fn what_a_row_tells_of_its_model_is_read() {
        let body = br#"{"data":[
            {"id":"a","metadata":{"capabilities":{"vision":false,"reasoning_effort":true}}},
            {"id":"b","capabilities":{"reasoning_effort":false},"architecture":{"input_modalities":["text","image"]}}]}"#;
        let models = parse(body, None).unwrap();
        let told: Vec<_> =
            models.iter().map(|m| (m.sees_images, m.efforts.as_ref().map(Vec::len))).collect();
        assert_eq!(told, [(Some(false), Some(3)), (Some(true), Some(0))]);
    }

    #[test]
    fn a_provider_may_have_a_list_of_its_own() {
        let rule = |path: &str, equals: &[Value], contains: &[&str]| RowRule {
            path: path.into(),
            equals: equals.to_vec(),
            contains: contains.iter().map(|text| (*text).to_owned()).collect(),
        };
        let discovery = ModelDiscovery {
            path: Some("../models/search".into()),
            query: [("a".to_owned(), "b c".to_owned())].into(),
            strip_id_prefix: Some("w/".into()),
            rows: vec![rule("/kind", &["chat".into()], &[]), rule("/tags", &[], &["tools"])],
        };
        let address = url("https://h/ai/v1", &[], "/models", Some(&discovery));
        assert_eq!(address.unwrap(), "https://h/ai/models/search?a=b+c");
        let usual = ModelDiscovery { query: discovery.query.clone(), ..ModelDiscovery::default() };
        let address = url("https://h/v1", &[], "/models", Some(&usual));
        assert_eq!(address.unwrap(), "https://h/v1/models?a=b+c");
        let body =
            br#"[{"id":"w/a","kind":"chat","tags":["tools"]},{"id":"w/b","kind":"chat","tags":[]},
            {"id":"w/c","kind":"tts","tags":["tools"]},{"id":"w/d","tags":"tools"}]"#;
        let ids: Vec<_> =
            parse(body, Some(&discovery)).unwrap().into_iter().map(|model| model.id).collect();
        assert_eq!(ids, ["a"]);
    }

    #[test]
    fn models_that_see_are_not_models_that_paint() {
        for (id, media) in [
            ("black-forest/flux-1", true),
            ("veo3", true),
            ("qwen-image", true),
            ("llama-vision", false),
            ("influx", false),
            ("gpt-5.5", false),
            ("imagination-7b", false),
        ] {
            assert_eq!(makes_media(id), media, "{id}");
        }
    }
}
