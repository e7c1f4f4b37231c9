//! Models in the shape of Codex's catalogue.
//! Source: `GET /models?client_version=` as Codex 0.169.0 reads it, section 9 of our notes. One bad
//! entry makes Codex reject the whole document, so every required field is written.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Value, value::RawValue};

use crate::{adapters::ModelInfo, model::Effort, registry::Quirks, wire::json::to_raw};

/// Told to Codex when neither the upstream nor the config knows better.
const DEFAULT_WINDOW: u64 = 128_000;
/// Efforts offered when nothing is known.
const DEFAULT_EFFORTS: [&str; 3] = ["low", "medium", "high"];
/// Tokens of tool output that Codex keeps.
const TRUNCATION_LIMIT: u32 = 10_000;
/// Behind the native models, which rank from 1.
const PRIORITY: i32 = 100;

/// The priority of a model that sub-agents are offered: before all others, in its order. Codex sorts by
/// priority, offers `spawn_agent` the first five, and people the first of all.
/// Source: `codex debug models` and the tools of Codex CLI 0.169.0.
pub fn featured(slug: &str, models: &[String]) -> Option<i32> {
    let rank = models.iter().position(|model| model == slug)?;
    // Codex's own rank from 1 and may stay as they are.
    Some(i32::try_from(rank).ok()? - i32::try_from(models.len()).ok()?)
}

/// Base instructions for models that have none of their own.
const INSTRUCTIONS: &str = "\
You are a coding agent that works in the user's terminal, together with the user, in the current \
workspace.\n\
\n\
- Read before you write: look at the files that matter, and keep to the style you find.\n\
- Make the smallest change that solves the whole problem. Do not touch what was not asked for.\n\
- Use the tools you are offered. Edit files with `apply_patch` where it is offered, and run \
commands with the shell tool.\n\
- Run the tests or the program when there is a way to, and say plainly what you could not check.\n\
- Never undo the user's own changes. Ask before anything that cannot be undone.\n\
- Answer briefly. Name files by path and line.\n";

/// One model of a provider.
#[derive(Clone, Copy, Debug)]
pub struct RoutedModel<'a> {
    /// `provider/model`.
    pub slug: &'a str,
    /// The provider's name.
    pub provider: &'a str,
    /// What its list says of it.
    pub info: &'a ModelInfo,
    /// What is known of its provider.
    pub quirks: &'a Quirks,
}

/// `{"models": […]}`: native entries as they came, then the routed ones.
///
/// # Errors
///
/// Never in practice: all of it serialises.
pub fn document(
    native: &[Box<RawValue>],
    routed: &[RoutedModel<'_>],
    subagent_models: &[String],
) -> Result<Vec<u8>, serde_json::Error> {
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Row<'a> {
        Native(Cow<'a, RawValue>),
        Routed(Box<Entry<'a>>),
    }
    #[derive(Serialize)]
    struct Document<'a> {
        models: Vec<Row<'a>>,
    }
    let native = native.iter().map(|row| Row::Native(ranked(row, subagent_models)));
    let routed = routed.iter().map(|model| {
        let mut entry = entry(model);
        entry.priority = featured(model.slug, subagent_models).unwrap_or(PRIORITY);
        Row::Routed(Box::new(entry))
    });
    serde_json::to_vec(&Document { models: native.chain(routed).collect() })
}

/// A row of Codex's own, as it is but for its priority, if it is featured.
fn ranked<'a>(row: &'a RawValue, subagent_models: &[String]) -> Cow<'a, RawValue> {
    if subagent_models.is_empty() {
        return Cow::Borrowed(row);
    }
    let mut changed: Value = serde_json::from_str(row.get()).unwrap_or_default();
    match featured(changed["slug"].as_str().unwrap_or_default(), subagent_models) {
        Some(priority) => {
            changed["priority"] = priority.into();
            Cow::Owned(to_raw(&changed))
        }
        None => Cow::Borrowed(row),
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    slug: &'a str,
    display_name: &'a str,
    description: String,
    base_instructions: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_reasoning_level: Option<&'a str>,
    supported_reasoning_levels: Vec<Level<'a>>,
    shell_type: &'static str,
    visibility: &'static str,
    supported_in_api: bool,
    priority: i32,
    support_verbosity: bool,
    apply_patch_tool_type: &'static str,
    truncation_policy: Truncation,
    experimental_supported_tools: [(); 0],
    input_modalities: &'static [&'static str],
    context_window: u64,
    max_context_window: u64,
    auto_compact_token_limit: u64,
    effective_context_window_percent: u32,
}

#[derive(Serialize)]
struct Level<'a> {
    effort: &'a str,
    description: &'static str,
}

#[derive(Serialize)]
struct Truncation {
    mode: &'static str,
    limit: u32,
}

/// What the config and the registry say goes before what the upstream's list says.
fn entry<'a>(routed: &RoutedModel<'a>) -> Entry<'a> {
    let RoutedModel { info, quirks, .. } = *routed;
    let efforts = quirks.efforts(&info.id).or(info.efforts.as_deref());
    let levels: Vec<Level<'a>> = match efforts {
        Some(efforts) => efforts.iter().filter_map(|effort| level(effort)).collect(),
        None => DEFAULT_EFFORTS.into_iter().filter_map(level).collect(),
    };
    let default = quirks
        .default_effort(&info.id)
        .into_iter()
        .chain(["medium", "high"])
        .find(|wanted| levels.iter().any(|level| level.effort == *wanted))
        .or_else(|| levels.first().map(|level| level.effort));
    let window = info.context_window.unwrap_or(DEFAULT_WINDOW);
    let sees = quirks.known_sight(&info.id).or(info.sees_images).unwrap_or(true);
    let modalities: &[&str] = if sees { &["text", "image"] } else { &["text"] };
    Entry {
        slug: routed.slug,
        display_name: routed.slug,
        description: format!("{} through the provider `{}` of ocx", info.id, routed.provider),
        base_instructions: INSTRUCTIONS,
        default_reasoning_level: default,
        supported_reasoning_levels: levels,
        shell_type: "shell_command",
        visibility: "list",
        supported_in_api: true,
        priority: PRIORITY,
        support_verbosity: false,
        apply_patch_tool_type: "freeform",
        truncation_policy: Truncation { mode: "tokens", limit: TRUNCATION_LIMIT },
        experimental_supported_tools: [],
        input_modalities: modalities,
        context_window: window,
        max_context_window: window,
        auto_compact_token_limit: window * 9 / 10,
        effective_context_window_percent: 95,
    }
}

fn level(effort: &str) -> Option<Level<'_>> {
    let description = match Effort::parse(effort)? {
        Effort::None => "No reasoning",
        Effort::Minimal => "Hardly any reasoning",
        Effort::Low => "Quick answers, little reasoning",
        Effort::Medium => "A balance of speed and depth",
        Effort::High => "Deep reasoning for hard problems",
        Effort::XHigh => "Very deep reasoning",
        Effort::Max => "As much reasoning as the model can",
    };
    Some(Level { effort, description })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_every_required_field() {
        let quirks = Quirks { no_reasoning_models: Some(vec!["dull".into()]), ..Quirks::default() };
        let info = |id: &str, context_window| ModelInfo {
            id: id.to_owned(),
            context_window,
            sees_images: Some(false),
            ..ModelInfo::default()
        };
        let (a, dull) = (info("a", Some(1000)), info("dull", None));
        let model = |slug, info| RoutedModel { slug, provider: "p", info, quirks: &quirks };
        let native = to_raw(&serde_json::json!({"slug": "gpt"}));
        let models = [model("p/a", &a), model("p/dull", &dull)];
        let document: Value =
            serde_json::from_slice(&document(&[native], &models, &[]).unwrap()).unwrap();
        assert_eq!(document["models"][0]["slug"], "gpt");
        let entry = &document["models"][1];
        for required in [
            "slug",
            "display_name",
            "supported_reasoning_levels",
            "shell_type",
            "visibility",
            "supported_in_api",
            "support_verbosity",
            "priority",
            "truncation_policy",
            "experimental_supported_tools",
            "base_instructions",
        ] {
            assert!(entry.get(required).is_some_and(|value| !value.is_null()), "{required}");
        }
        assert_eq!(
            (&entry["context_window"], &entry["auto_compact_token_limit"]),
            (&1000.into(), &900.into())
        );
        assert_eq!(entry["default_reasoning_level"], "medium");
        assert_eq!(entry["input_modalities"], serde_json::json!(["text"]));
        let dull = &document["models"][2];
        assert_eq!(dull["supported_reasoning_levels"], serde_json::json!([]));
        assert_eq!(dull["context_window"], 128_000);
    }

    #[test]
    fn featured_models_rank_before_all_others_in_their_order() {
        let (quirks, info) =
            (Quirks::default(), ModelInfo { id: "a".into(), ..ModelInfo::default() });
        let model = |slug| RoutedModel { slug, provider: "p", info: &info, quirks: &quirks };
        let native = ["gpt-1", "gpt-2"]
            .map(|slug| to_raw(&serde_json::json!({"slug": slug, "priority": 1})));
        let featured = ["p/b".to_owned(), "gpt-2".to_owned()];
        let document = document(&native, &[model("p/a"), model("p/b")], &featured).unwrap();
        let document: Value = serde_json::from_slice(&document).unwrap();
        let rows = document["models"].as_array().unwrap();
        let row =
            |row: &Value| (row["slug"].as_str().unwrap().to_owned(), row["priority"].as_i64());
        let mut ranked: Vec<_> = rows.iter().map(row).collect();
        ranked.sort_by_key(|(_, priority)| *priority);
        let names: Vec<_> = ranked.iter().map(|(slug, _)| slug.as_str()).collect();
        assert_eq!(names, ["p/b", "gpt-2", "gpt-1", "p/a"]);
    }
}
