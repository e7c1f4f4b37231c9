//! Content parts, as OpenAI's protocols write them.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    model::{Image, LossKind, Losses, Part},
    wire::json::{Obj, Str, TextOrList},
};

/// A content part of any type.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ContentPart<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Str<'a>,
    #[serde(borrow)]
    pub text: Str<'a>,
    #[serde(borrow)]
    pub refusal: Str<'a>,
    /// A string, or `{"url": …}` as Chat Completions writes it.
    #[serde(borrow)]
    pub image_url: Option<&'a RawValue>,
    #[serde(borrow)]
    pub detail: Str<'a>,
    #[serde(borrow)]
    pub file_id: Str<'a>,
    #[serde(borrow)]
    pub filename: Str<'a>,
    #[serde(borrow)]
    pub encrypted_content: Str<'a>,
}

/// The texts of the parts, concatenated.
pub(super) fn texts(parts: &[Part]) -> String {
    parts
        .iter()
        .filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Image(_) => None,
        })
        .collect()
}

pub(super) fn parts(
    content: &TextOrList<'_, Obj<ContentPart<'_>>>,
    losses: &mut Losses,
) -> Vec<Part> {
    match content {
        TextOrList::Nothing => Vec::new(),
        TextOrList::Text(text) => vec![Part::Text(text.clone().into_owned())],
        TextOrList::List(list) => list.iter().filter_map(|item| part(item, losses)).collect(),
    }
}

fn part(item: &Obj<ContentPart<'_>>, losses: &mut Losses) -> Option<Part> {
    let unknown = |losses: &mut Losses| {
        losses.add(LossKind::UnknownPart);
        None
    };
    let Some(part) = &item.0 else {
        return unknown(losses);
    };
    match part.kind.or_empty() {
        "input_text" | "text" | "output_text" | "summary_text" | "reasoning_text" => {
            part.text.get().map(|text| Part::Text(text.to_owned()))
        }
        "refusal" => Some(Part::Text(format!("[refusal: {}]", part.refusal.or_empty()))),
        // What one agent wrote to another; models other than OpenAI's write it in the clear.
        "encrypted_content" => Some(Part::Text(part.encrypted_content.or_empty().to_owned())),
        "input_image" | "image_url" => Some(image(part, losses)),
        "input_file" | "file" => Some(file(part, losses)),
        _ => unknown(losses),
    }
}

fn image(part: &ContentPart<'_>, losses: &mut Losses) -> Part {
    #[derive(serde::Deserialize)]
    struct Nested<'a> {
        #[serde(borrow, default)]
        url: Str<'a>,
        #[serde(borrow, default)]
        detail: Str<'a>,
    }
    let mut inner = Nested { url: Str(None), detail: Str(None) };
    let url = part.image_url.and_then(|raw| {
        serde_json::from_str::<String>(raw.get()).ok().or_else(|| {
            inner = serde_json::from_str(raw.get()).ok()?;
            inner.url.get().map(str::to_owned)
        })
    });
    match url {
        Some(url) => {
            let detail = part.detail.get().or(inner.detail.get()).map(|detail| match detail {
                // Only OpenAI knows this one.
                "original" => "high".to_owned(),
                other => other.to_owned(),
            });
            Part::Image(Image { url, detail })
        }
        None => {
            losses.add(LossKind::Image);
            Part::Text(format!("[image: {}]", part.file_id.non_empty().unwrap_or("?")))
        }
    }
}

fn file(part: &ContentPart<'_>, losses: &mut Losses) -> Part {
    losses.add(LossKind::File);
    let name = part.filename.non_empty().or(part.file_id.non_empty()).unwrap_or("?");
    Part::Text(format!("[file: {name}]"))
}
