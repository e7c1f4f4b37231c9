//! What tokens cost, where somebody said so.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Usage;

/// The price of a model, in US dollars per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Price {
    /// Of the prompt.
    pub input: f64,
    /// Of the part that came from the upstream's cache. Default: as `input`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<f64>,
    /// Of the part that was written to the upstream's cache. Default: as `input`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<f64>,
    /// Of the answer, its reasoning included.
    pub output: f64,
}

impl Price {
    /// Whether these are amounts of money.
    pub fn is_sound(&self) -> bool {
        let parts = [Some(self.input), self.cached_input, self.cache_write, Some(self.output)];
        parts.into_iter().flatten().all(|part| part.is_finite() && part >= 0.0)
    }

    /// What so many tokens cost, in US dollars.
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 tokens")]
    pub fn of(&self, usage: &Usage) -> f64 {
        let plain = usage.input.saturating_sub(usage.cached).saturating_sub(usage.cache_write);
        let dollars = [
            (plain, self.input),
            (usage.cached, self.cached_input.unwrap_or(self.input)),
            (usage.cache_write, self.cache_write.unwrap_or(self.input)),
            (usage.output, self.output),
        ];
        dollars.into_iter().map(|(tokens, price)| tokens as f64 * price).sum::<f64>() / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_paid_once_and_at_its_own_price() {
        let usage = Usage { input: 1000, cached: 600, cache_write: 100, output: 50, reasoning: 20 };
        let price = Price { input: 3.0, cached_input: Some(0.3), cache_write: None, output: 15.0 };
        let expected = (300.0 * 3.0 + 600.0 * 0.3 + 100.0 * 3.0 + 50.0 * 15.0) / 1e6;
        assert!((price.of(&usage) - expected).abs() < 1e-12);
        assert!(price.is_sound());
        assert!(!Price { output: -1.0, ..price }.is_sound());
        assert!(!Price { cached_input: Some(f64::NAN), ..price }.is_sound());
    }
}
