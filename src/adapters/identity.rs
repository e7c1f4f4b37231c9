//! Codex tells every model that it is GPT-5. Other models repeat that to users, so the one sentence
//! is replaced; the rest of the prompt stays byte for byte, for the sake of prompt caches.

use std::borrow::Cow;

const OPENING: &str = "You are Codex, ";
const ROLES: [&str; 2] = ["a coding agent", "an agent"];
const CLAIM: &str = " based on GPT-5";

/// Replaces the sentence that names the wrong model.
pub(super) fn neutral<'t>(text: &'t str, model: &str) -> Cow<'t, str> {
    let Some((start, end)) = claim(text) else {
        return text.into();
    };
    format!(
        "{}You are a coding agent running on the model {model}. Do not claim to be GPT-5 or to \
         come from OpenAI.{}",
        &text[..start],
        &text[end..]
    )
    .into()
}

/// Where the sentence is: `You are Codex, a coding agent based on GPT-5.`, with or without a minor
/// version.
fn claim(text: &str) -> Option<(usize, usize)> {
    let start = text.find(OPENING)?;
    let rest = &text[start + OPENING.len()..];
    let rest = ROLES.iter().find_map(|role| rest.strip_prefix(role))?;
    let rest = rest.strip_prefix(CLAIM)?;
    let minor = rest
        .strip_prefix('.')
        .map(|minor| minor.trim_start_matches(|c: char| c.is_ascii_digit()))
        .filter(|after| after.starts_with('.'));
    let rest = minor.unwrap_or(rest).strip_prefix('.')?;
    Some((start, text.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_claim_is_replaced() {
        for claim in [
            "You are Codex, a coding agent based on GPT-5.",
            "You are Codex, an agent based on GPT-5.",
            "You are Codex, an agent based on GPT-5.1.",
        ] {
            let text = neutral(&format!("Intro. {claim} You and the user…"), "m-1").into_owned();
            assert!(text.starts_with("Intro. You are a coding agent running on the model m-1."));
            assert!(text.ends_with("OpenAI. You and the user…"), "{text}");
        }
        for other in
            ["You are Codex, a friend.", "You are Codex, an agent based on GPT-4.", "", "GPT-5."]
        {
            assert!(matches!(neutral(other, "m"), Cow::Borrowed(_)), "{other}");
        }
    }
}
