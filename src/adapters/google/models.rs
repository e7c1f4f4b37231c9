//! Gemini's model list.
//! Source: ai.google.dev/api/models.

use serde::Deserialize;

use super::super::{DecodeError, ModelInfo, frames::json_error};

#[derive(Deserialize)]
struct List {
    models: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    #[serde(default)]
    input_token_limit: Option<u64>,
    #[serde(default)]
    supported_generation_methods: Vec<String>,
}

/// Reads a list; models that generate no content (embeddings, say) are left out.
pub(super) fn parse(body: &[u8]) -> Result<Vec<ModelInfo>, DecodeError> {
    let list: List = serde_json::from_slice(body).map_err(json_error)?;
    let generates = |row: &Row| {
        row.supported_generation_methods.iter().any(|method| method == "generateContent")
    };
    Ok(list
        .models
        .iter()
        .filter(|row| generates(row))
        .map(|row| ModelInfo {
            id: row.name.strip_prefix("models/").unwrap_or(&row.name).to_owned(),
            owned_by: Some("google".to_owned()),
            context_window: row.input_token_limit,
            ..ModelInfo::default()
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_that_generate_are_listed_by_their_bare_name() {
        let body = br#"{"models":[
            {"name":"models/gemini-3-pro","inputTokenLimit":1048576,"supportedGenerationMethods":["generateContent","countTokens"]},
            {"name":"models/embedding-001","supportedGenerationMethods":["embedContent"]}]}"#;
        let models = parse(body).expect("a list");
        assert_eq!(models.len(), 1);
        assert_eq!(
            (models[0].id.as_str(), models[0].context_window),
            ("gemini-3-pro", Some(1_048_576))
        );
        assert!(parse(b"{}").is_err());
    }
}
