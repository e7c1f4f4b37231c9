//! How hard a Claude should think, in the form that its generation takes.
//! Source: docs.anthropic.com/en/docs/build-with-claude/{extended,adaptive}-thinking, 2026-11.

use serde::Serialize;

use crate::{
    model::{Effort, Reasoning, ThinkingWish},
    registry::Quirks,
};

/// The fields of a body that depend on each other.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub thinking: Option<Thinking>,
    /// `output_config.effort`.
    pub effort: Option<String>,
    pub max_tokens: u64,
    /// Whether the model thinks, which rules out sampling parameters and forced tool choices.
    pub thinks: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Thinking {
    Enabled {
        budget_tokens: u64,
    },
    Adaptive {
        #[serde(skip_serializing_if = "Option::is_none")]
        display: Option<&'static str>,
    },
    Disabled,
    /// As little as Sonnet 5.5 can.
    BetweenTools,
}

impl Plan {
    /// Whether the model was told to think.
    pub fn asks_for_thoughts(&self) -> bool {
        matches!(self.thinking, Some(Thinking::Enabled { .. } | Thinking::Adaptive { .. }))
    }

    /// Whether the model was told not to think.
    pub fn forbids_thoughts(&self) -> bool {
        matches!(self.thinking, Some(Thinking::Disabled | Thinking::BetweenTools))
    }

    /// Whether every answer that calls tools must begin with its thinking.
    pub fn demands_thoughts(&self) -> bool {
        matches!(self.thinking, Some(Thinking::Enabled { .. }))
    }
}

/// Sent when the caller states no limit: the protocol demands one.
const DEFAULT_MAX_TOKENS: u64 = 8_192;
/// What the answer itself gets beside the thinking.
const ANSWER: u64 = 8_192;
const MIN_BUDGET: u64 = 1_024;
/// What older models may write in all.
const MAX_WITH_BUDGET: u64 = 32_000;
const MAX_ADAPTIVE: u64 = 40_192;

/// Decides all of it together: `max_tokens` must exceed the budget.
pub(super) fn plan(
    reasoning: &Reasoning,
    limit: Option<u64>,
    quirks: &Quirks,
    model: &str,
) -> Plan {
    let limit = limit.or_else(|| quirks.max_output_tokens(model));
    let family = Family::of(model);
    let by_default = family.is_some_and(Family::thinks_by_default);
    let plain = |thinking: Option<Thinking>, effort| {
        let max_tokens = limit.unwrap_or(DEFAULT_MAX_TOKENS);
        let thinks = match &thinking {
            None => by_default,
            Some(thinking) => *thinking != Thinking::Disabled,
        };
        Plan { thinking, effort, max_tokens, thinks }
    };
    let newer = family.is_some_and(Family::is_adaptive_only);
    let word = |effort: Effort| label(effort, quirks, model, newer);
    let takes_effort = family.is_some_and(Family::takes_effort);
    let stated = reasoning.effort.filter(|effort| *effort != Effort::None && takes_effort);
    if quirks.efforts(model).is_some_and(<[String]>::is_empty) {
        return plain(None, None);
    }
    match reasoning.wanted() {
        None => plain(None, None),
        Some(Effort::None) => {
            let (thinking, lowest) = family.map_or((None, None), |f| f.switched_off(stated));
            plain(thinking, stated.or(lowest).map(word))
        }
        Some(_) if reasoning.thinking == ThinkingWish::Unstated => plain(None, stated.map(word)),
        // A caller that counts tokens itself knows what its model may write.
        Some(_) if reasoning.budget_tokens.is_some() && !newer => {
            let budget_tokens = reasoning.budget_tokens.unwrap_or(MIN_BUDGET).max(MIN_BUDGET);
            let least = budget_tokens.saturating_add(1);
            let max_tokens = limit.unwrap_or(budget_tokens.saturating_add(ANSWER)).max(least);
            let thinking = Some(Thinking::Enabled { budget_tokens });
            Plan { max_tokens, ..plain(thinking, stated.map(word)) }
        }
        Some(effort) if family.is_some_and(Family::adapts) => {
            let wanted = budget(effort) + ANSWER;
            let max_tokens = limit.unwrap_or(wanted.clamp(DEFAULT_MAX_TOKENS, MAX_ADAPTIVE));
            // The newer ones leave their thinking out unless they are asked.
            let display = (reasoning.show && newer).then_some("summarized");
            let thinking = Some(Thinking::Adaptive { display });
            Plan { max_tokens, ..plain(thinking, Some(word(effort))) }
        }
        Some(effort) => {
            let wanted = budget(effort);
            // A limit of the caller is what the answer may cost, thoughts included.
            let max_tokens = limit.unwrap_or((wanted + ANSWER).min(MAX_WITH_BUDGET));
            let room = max_tokens.saturating_sub(ANSWER / 2).max(max_tokens / 2);
            let budget_tokens = wanted.min(room);
            if budget_tokens < MIN_BUDGET {
                return plain(None, None);
            }
            Plan { max_tokens, ..plain(Some(Thinking::Enabled { budget_tokens }), None) }
        }
    }
}

fn budget(effort: Effort) -> u64 {
    match effort {
        Effort::None => 0,
        Effort::Minimal => 1_024,
        Effort::Low => 4_096,
        Effort::Medium => 8_192,
        Effort::High => 16_384,
        Effort::XHigh => 24_576,
        Effort::Max => 32_000,
    }
}

/// The wire's word for an effort; `xhigh` came with the models that only adapt.
fn label(effort: Effort, quirks: &Quirks, model: &str, newer: bool) -> String {
    let configured = quirks.efforts(model).is_some();
    let own = match effort {
        Effort::Minimal => Effort::Low,
        Effort::XHigh if !newer => Effort::High,
        other => other,
    };
    let known = configured.then(|| quirks.wire_effort(model, effort)).flatten();
    known.unwrap_or_else(|| own.label().to_owned())
}

/// Whether the model takes a temperature or nucleus at all; those that only adapt refuse both.
pub(super) fn takes_sampling(model: &str) -> bool {
    !Family::of(model).is_some_and(Family::is_adaptive_only)
}

/// Whether the model takes a forced tool choice at all; since 5.5, and Fable and Mythos 5.1, none does.
pub(super) fn takes_forced_choice(model: &str) -> bool {
    !Family::of(model).is_some_and(|family| family.version() >= (5, 5) || family.always_thinks())
}

/// `claude-<name>-<major>[-<minor>]`, wherever in the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Family<'m> {
    name: &'m str,
    major: u32,
    minor: u32,
}

impl<'m> Family<'m> {
    fn of(model: &'m str) -> Option<Self> {
        let segment = model.split(['/', '.', ':', '@', '[']).find(|s| s.starts_with("claude-"))?;
        let mut words = segment.split('-').skip(1);
        let name = words.next().filter(|name| name.bytes().all(|b| b.is_ascii_alphabetic()))?;
        // One or two digits; a date is no version.
        let number = |word: Option<&str>| {
            word.filter(|word| word.len() <= 2).and_then(|word| word.parse::<u32>().ok())
        };
        let major = number(words.next())?;
        Some(Self { name, major, minor: number(words.next()).unwrap_or(0) })
    }

    fn version(self) -> (u32, u32) {
        (self.major, self.minor)
    }

    /// Takes the adaptive form.
    fn adapts(self) -> bool {
        self.is_adaptive_only()
            || (matches!(self.name, "opus" | "sonnet") && self.version() >= (4, 6))
    }

    /// Knows `output_config.effort`, also beside a budget or without thinking.
    fn takes_effort(self) -> bool {
        self.adapts() || (self.name == "opus" && self.version() >= (4, 5))
    }

    /// Thinks whatever it is told.
    fn always_thinks(self) -> bool {
        match self.name {
            "fable" | "mythos" => true,
            "opus" => self.version() >= (5, 5),
            _ => false,
        }
    }

    /// Thinks unless it is told not to.
    fn thinks_by_default(self) -> bool {
        self.major >= 5 || self.always_thinks()
    }

    /// How it is told to think as little as it can, and the effort that goes with that.
    fn switched_off(self, stated: Option<Effort>) -> (Option<Thinking>, Option<Effort>) {
        // Beside these an effort above `high` is refused.
        let modest = stated.is_none_or(|effort| effort <= Effort::High);
        if self.always_thinks() || (self.major >= 5 && !modest) {
            return (None, Some(Effort::Low));
        }
        let thinking = match self.version() {
            (5.., 5..) | (6.., _) => Some(Thinking::BetweenTools),
            (5.., _) => Some(Thinking::Disabled),
            _ => None,
        };
        (thinking, None)
    }

    /// Refuses the form with a budget.
    fn is_adaptive_only(self) -> bool {
        match self.name {
            "fable" | "mythos" => true,
            "opus" => self.version() >= (4, 7),
            _ => self.major >= 5,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(effort: Option<Effort>) -> Reasoning {
        Reasoning { effort, show: true, ..Reasoning::default() }
    }

    fn planned(model: &str, effort: Effort, limit: Option<u64>) -> Plan {
        plan(&asked(Some(effort)), limit, &Quirks::default(), model)
    }

    #[test]
    fn a_date_is_no_version() {
        let version = |model| Family::of(model).map(|f| (f.name, f.major, f.minor));
        assert_eq!(version("claude-opus-4-20250514"), Some(("opus", 4, 0)));
        assert_eq!(version("claude-opus-4-6"), Some(("opus", 4, 6)));
        assert_eq!(version("claude-opus-4-6-20260101"), Some(("opus", 4, 6)));
        assert_eq!(version("anthropic/claude-sonnet-5[1m]"), Some(("sonnet", 5, 0)));
        assert_eq!(version("us.anthropic.claude-haiku-4-5-20251001-v1:0"), Some(("haiku", 4, 5)));
        assert_eq!(version("claude-3-7-sonnet-20250219"), None);
        assert_eq!(version("mimo-v2.5-pro"), None);
    }

    #[test]
    fn each_generation_gets_its_form() {
        let enabled = |budget_tokens| Some(Thinking::Enabled { budget_tokens });
        assert_eq!(planned("claude-sonnet-4-5", Effort::High, None).thinking, enabled(16_384));
        assert_eq!(planned("mimo-v2.5-pro", Effort::Low, None).max_tokens, 12_288);
        assert_eq!(planned("claude-haiku-4-5", Effort::Max, None).thinking, enabled(27_904));
        let old = planned("claude-opus-4-6", Effort::XHigh, None);
        assert_eq!(old.thinking, Some(Thinking::Adaptive { display: None }));
        assert_eq!(old.effort.as_deref(), Some("high"));
        let newest = planned("claude-opus-4-7", Effort::XHigh, None);
        assert_eq!(newest.effort.as_deref(), Some("xhigh"));
        let new = planned("claude-sonnet-5", Effort::Minimal, Some(500));
        assert_eq!(new.thinking, Some(Thinking::Adaptive { display: Some("summarized") }));
        assert_eq!((new.effort.as_deref(), new.max_tokens), (Some("low"), 500));
        assert_eq!(
            planned("claude-sonnet-5", Effort::None, None).thinking,
            Some(Thinking::Disabled)
        );
        assert_eq!(planned("claude-fable-5", Effort::None, None).thinking, None);
        assert_eq!(planned("claude-sonnet-4-6", Effort::None, None).thinking, None);
        assert_eq!(plan(&asked(None), None, &Quirks::default(), "claude-sonnet-5").thinking, None);
        let dull = Quirks { no_reasoning_models: Some(vec!["m".into()]), ..Quirks::default() };
        assert_eq!(plan(&asked(Some(Effort::High)), None, &dull, "m").thinking, None);
    }

    #[test]
    fn a_callers_own_budget_is_kept() {
        for (model, effort, sent) in [
            ("claude-sonnet-4-5", None, None),
            ("claude-sonnet-4-5", Some(Effort::Low), None),
            ("claude-opus-4-5", Some(Effort::Low), Some("low")),
            ("claude-opus-4-6", Some(Effort::Low), Some("low")),
            ("claude-opus-4-6", None, None),
        ] {
            let asked = Reasoning { budget_tokens: Some(2_000), ..asked(effort) };
            let plan = plan(&asked, Some(10_000), &Quirks::default(), model);
            let thinking = Some(Thinking::Enabled { budget_tokens: 2_000 });
            let effort = sent.map(str::to_owned);
            let expected = Plan { thinking, effort, max_tokens: 10_000, thinks: true };
            assert_eq!(plan, expected, "{model}");
        }
        let asked = Reasoning { budget_tokens: Some(2_000), ..asked(None) };
        let newest = plan(&asked, None, &Quirks::default(), "claude-opus-4-7");
        assert_eq!(newest.effort.as_deref(), Some("low"), "it refuses budgets");
    }

    #[test]
    fn an_effort_without_thinking_turns_none_on() {
        let thinking = ThinkingWish::Unstated;
        let asked = Reasoning { thinking, ..asked(Some(Effort::Low)) };
        for (model, effort) in [("claude-opus-4-6", Some("low")), ("claude-sonnet-4-5", None)] {
            let plan = plan(&asked, None, &Quirks::default(), model);
            assert_eq!((plan.thinking, plan.effort.as_deref()), (None, effort), "{model}");
        }
    }

    #[test]
    fn each_generation_is_told_to_think_as_little_as_it_can() {
        let off = |model, effort| {
            let asked = Reasoning { effort, thinking: ThinkingWish::Off, ..Reasoning::default() };
            let plan = plan(&asked, None, &Quirks::default(), model);
            (plan.thinking, plan.effort, plan.thinks)
        };
        let low = || Some("low".to_owned());
        assert_eq!(off("claude-opus-4-6", Some(Effort::Low)), (None, low(), false));
        assert_eq!(
            off("claude-sonnet-5", Some(Effort::Low)),
            (Some(Thinking::Disabled), low(), false)
        );
        assert_eq!(off("claude-sonnet-5-5", None), (Some(Thinking::BetweenTools), None, true));
        let max = Some("max".to_owned());
        assert_eq!(off("claude-sonnet-5-5", Some(Effort::Max)), (None, max, true));
        for model in ["claude-opus-5-5", "claude-fable-5", "claude-mythos-5"] {
            assert_eq!(off(model, None), (None, low(), true), "{model}");
        }
    }

    proptest! {
        #[test]
        fn the_limit_always_exceeds_the_budget(
            limit in proptest::option::of(any::<u32>()),
            own in proptest::option::of(any::<u32>()),
            effort in prop::sample::select(vec![Effort::Minimal, Effort::Low, Effort::High, Effort::Max]),
        ) {
            let asked =
                Reasoning { budget_tokens: own.map(u64::from), ..asked(Some(effort)) };
            let plan = plan(&asked, limit.map(u64::from), &Quirks::default(), "claude-sonnet-4-5");
            if let Some(Thinking::Enabled { budget_tokens }) = plan.thinking {
                prop_assert!(plan.max_tokens > budget_tokens && budget_tokens >= MIN_BUDGET);
            }
            if let (Some(limit), None) = (limit, own) {
                prop_assert_eq!(plan.max_tokens, u64::from(limit), "a limit is a limit");
            }
        }
    }
}
