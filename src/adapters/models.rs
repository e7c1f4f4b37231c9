//! Model lists, in the shapes that servers give them.
//! Source: OpenAI `{data: […]}`, Together a bare list, Ollama and others `{models: […]}`.

use serde_json::Value;

use super::DecodeError;

/// One model of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The upstream's name of it.
    pub id: String,
    /// Who owns it, if told.
    pub owned_by: Option<String>,
    /// Tokens it takes, if told.
    pub context_window: Option<u64>,
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
pub(super) fn parse(body: &[u8]) -> Result<Vec<ModelInfo>, DecodeError> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| DecodeError::Malformed(format!("no JSON: {error}")))?;
    let rows = value
        .get("data")
        .or_else(|| value.get("models"))
        .unwrap_or(&value)
        .as_array()
        .ok_or_else(|| DecodeError::Malformed("no list of models".to_owned()))?;
    Ok(rows.iter().filter_map(row).collect())
}

fn row(row: &Value) -> Option<ModelInfo> {
    let id = row.get("id").and_then(Value::as_str).filter(|id| !id.is_empty())?;
    if makes_media(id) {
        return None;
    }
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
            let models = parse(body.as_bytes()).unwrap();
            assert_eq!(
                models,
                [ModelInfo {
                    id: "a".into(),
                    owned_by: Some("x".into()),
                    context_window: Some(8192)
                }],
                "{body}"
            );
        }
        assert!(parse(b"{\"ok\":true}").is_err());
        assert!(parse(b"<html>").is_err());
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
