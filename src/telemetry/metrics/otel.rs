//! The same under OpenTelemetry's names, for dashboards that expect them.
//! Source: opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics.

use std::time::Duration;

use prometheus::{HistogramVec, Registry};

use super::declare::{forget, register};
use crate::model::Usage;

const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
const DURATIONS: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const FIRST_TOKEN: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

const PROVIDER: &str = "gen_ai_provider_name";
const MODEL: &str = "gen_ai_request_model";
const OPERATION: &str = "gen_ai_operation_name";
const CHAT: &str = "chat";

/// Those metrics.
pub struct OtelNames {
    token_usage: HistogramVec,
    operation_duration: HistogramVec,
    time_to_first_token: HistogramVec,
}

impl OtelNames {
    /// Declares them.
    pub(super) fn declare(registry: &Registry) -> Self {
        let histogram = |name, help, more: &[&str], buckets: &[f64]| {
            let labels = [&[OPERATION, PROVIDER, MODEL][..], more].concat();
            register(registry, name, help, &labels, buckets)
        };
        Self {
            token_usage: histogram(
                "gen_ai_client_token_usage",
                "Tokens of a turn.",
                &["gen_ai_token_type"],
                &TOKENS,
            ),
            operation_duration: histogram(
                "gen_ai_client_operation_duration_seconds",
                "Seconds that turns took.",
                &["error_type"],
                &DURATIONS,
            ),
            time_to_first_token: histogram(
                "gen_ai_server_time_to_first_token_seconds",
                "Seconds to the first token.",
                &[],
                &FIRST_TOKEN,
            ),
        }
    }

    /// A turn is over; `error` is the outcome, unless it is a good one.
    pub fn turn(
        &self,
        [provider, model]: [&str; 2],
        error: &str,
        took: Duration,
        first_token: Option<Duration>,
        usage: Option<Usage>,
    ) {
        let labels = [CHAT, provider, model];
        let duration = self.operation_duration.with_label_values(&[CHAT, provider, model, error]);
        duration.observe(took.as_secs_f64());
        if let Some(first) = first_token {
            self.time_to_first_token.with_label_values(&labels).observe(first.as_secs_f64());
        }
        for (kind, count) in
            usage.iter().flat_map(|usage| [("input", usage.input), ("output", usage.output)])
        {
            #[expect(clippy::cast_precision_loss, reason = "a count of tokens")]
            let count = count as f64;
            self.token_usage.with_label_values(&[CHAT, provider, model, kind]).observe(count);
        }
    }

    /// The provider is gone.
    pub(super) fn forget(&self, provider: &str) {
        for metric in [&self.token_usage, &self.operation_duration, &self.time_to_first_token] {
            forget(metric, PROVIDER, provider);
        }
    }
}
