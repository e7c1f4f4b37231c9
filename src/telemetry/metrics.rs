//! Every metric, declared once with its unit, labels and bound. Labels come from closed sets:
//! provider ids of the config and the enums below.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

/// How a call ended, as operators count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// Answered.
    Ok,
    /// Answered up to a limit.
    Incomplete,
    /// The caller left.
    ClientCancelled,
    /// The caller's mistake.
    ClientError,
    /// Too many requests.
    RateLimited,
    /// The account is used up.
    Quota,
    /// The credential was refused or is missing.
    Auth,
    /// The prompt is too long.
    ContextLength,
    /// The upstream failed.
    UpstreamError,
    /// The upstream was too slow.
    UpstreamTimeout,
    /// The upstream fell silent.
    Stalled,
    /// Our fault.
    Internal,
}

impl CallOutcome {
    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Incomplete => "incomplete",
            Self::ClientCancelled => "client_cancelled",
            Self::ClientError => "client_error",
            Self::RateLimited => "rate_limited",
            Self::Quota => "quota",
            Self::Auth => "auth",
            Self::ContextLength => "context_length",
            Self::UpstreamError => "upstream_error",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Stalled => "stalled",
            Self::Internal => "internal",
        }
    }
}

/// States of a provider, one of which is 1.
pub const PROVIDER_STATES: [&str; 5] = ["ready", "cooling", "needs_login", "disabled", "failed"];

/// The metrics of the process.
pub struct Metrics {
    registry: Registry,
    /// Calls by protocol, provider and outcome.
    pub requests: IntCounterVec,
    /// Seconds from the call to the end of its answer.
    pub request_duration: HistogramVec,
    /// Seconds from the call to the first text, reasoning or tool call.
    pub time_to_first_token: HistogramVec,
    /// Seconds from the exchange to the head of its answer.
    pub time_to_headers: HistogramVec,
    /// Calls in progress.
    pub inflight: IntGaugeVec,
    /// Streams in progress.
    pub open_streams: IntGaugeVec,
    /// Answers that ended well but told no token counts.
    pub usage_missing: IntCounterVec,
    /// Requests sent to upstreams, by result.
    pub attempts: IntCounterVec,
    /// Exchanges that were tried again, by cause.
    pub retries: IntCounterVec,
    /// How streams ended.
    pub terminations: IntCounterVec,
    /// Signs of life sent to callers.
    pub keepalives: IntCounterVec,
    /// What translations could not carry.
    pub translation_drops: IntCounterVec,
    /// Requests refused before they were read.
    pub rejected: IntCounterVec,
    /// 1 if a provider takes calls.
    pub provider_up: IntGaugeVec,
    /// One-hot state of a provider.
    pub provider_state: IntGaugeVec,
    /// 1 if an actor runs.
    pub actor_up: IntGaugeVec,
    /// Restarts of actors, by cause.
    pub actor_restarts: IntCounterVec,
    /// Fetches of model lists, by result.
    pub model_fetches: IntCounterVec,
    /// Renewals of account tokens, by result.
    pub credential_refreshes: IntCounterVec,
    /// 1 if the last reload was taken.
    pub reload_successful: IntGauge,
    /// When the last reload was taken, seconds since 1970.
    pub reload_success_time: Gauge,
    /// Reloads by trigger and result.
    pub reloads: IntCounterVec,
    /// Seconds that reloads took.
    pub reload_duration: Histogram,
    /// Number of the config that runs.
    pub generation: IntGauge,
    /// 1 if the file differs from what runs.
    pub diverged: IntGauge,
    /// Former configs that still serve streams.
    pub draining: IntGauge,
    /// 1 if the file is watched, 0 if it is only polled.
    pub watch_healthy: IntGauge,
}

const DURATIONS: [f64; 15] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0];
const FIRST_TOKEN: [f64; 12] = [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0];
const RELOADS: [f64; 8] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Declares all of them.
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            // Names and labels are literals of ours; a test builds them all.
            let metric = IntCounterVec::new(Opts::new(name, help), labels).expect("a sound name");
            register(&registry, metric)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels).expect("a sound name");
            register(&registry, metric)
        };
        let gauge = |name: &str, help: &str| {
            register(&registry, IntGauge::new(name, help).expect("a sound name"))
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            register(&registry, HistogramVec::new(opts, labels).expect("a sound name"))
        };
        let metrics = Self {
            requests: counter(
                "ocx_requests_total",
                "Calls by protocol, provider and outcome.",
                &["protocol", "provider", "outcome"],
            ),
            request_duration: histogram(
                "ocx_request_duration_seconds",
                "From the call to the end of its answer.",
                &["provider", "stream"],
                &DURATIONS,
            ),
            time_to_first_token: histogram(
                "ocx_time_to_first_token_seconds",
                "From the call to the first text, reasoning or tool call.",
                &["provider"],
                &FIRST_TOKEN,
            ),
            time_to_headers: histogram(
                "ocx_time_to_upstream_headers_seconds",
                "From the exchange to the head of its answer.",
                &["provider"],
                &FIRST_TOKEN,
            ),
            inflight: gauges("ocx_inflight_requests", "Calls in progress.", &["provider"]),
            open_streams: gauges("ocx_open_streams", "Streams in progress.", &["protocol"]),
            usage_missing: counter(
                "ocx_usage_missing_total",
                "Answers that ended well but told no token counts.",
                &["provider"],
            ),
            attempts: counter(
                "ocx_upstream_attempts_total",
                "Requests sent to upstreams, by result.",
                &["provider", "result"],
            ),
            retries: counter(
                "ocx_retries_total",
                "Exchanges that were tried again, by cause.",
                &["provider", "cause"],
            ),
            terminations: counter(
                "ocx_stream_terminations_total",
                "How streams ended.",
                &["protocol", "reason"],
            ),
            keepalives: counter(
                "ocx_keepalives_total",
                "Signs of life sent to callers.",
                &["style"],
            ),
            translation_drops: counter(
                "ocx_translation_drops_total",
                "What translations could not carry.",
                &["provider", "kind"],
            ),
            rejected: counter(
                "ocx_rejected_total",
                "Requests refused before they were read.",
                &["reason"],
            ),
            provider_up: gauges("ocx_provider_up", "1 if a provider takes calls.", &["provider"]),
            provider_state: gauges(
                "ocx_provider_state",
                "One-hot state of a provider.",
                &["provider", "state"],
            ),
            actor_up: gauges("ocx_actor_up", "1 if an actor runs.", &["actor"]),
            actor_restarts: counter(
                "ocx_actor_restarts_total",
                "Restarts of actors, by cause.",
                &["actor", "cause"],
            ),
            credential_refreshes: counter(
                "ocx_oauth_refresh_total",
                "Renewals of account tokens, by result.",
                &["provider", "result"],
            ),
            model_fetches: counter(
                "ocx_model_fetch_total",
                "Fetches of model lists, by result.",
                &["provider", "result"],
            ),
            reload_successful: gauge(
                "ocx_config_last_reload_successful",
                "1 if the last reload of the config was taken.",
            ),
            reload_success_time: register(
                &registry,
                Gauge::new(
                    "ocx_config_last_reload_success_timestamp_seconds",
                    "When the last reload was taken, in seconds since 1970.",
                )
                .expect("a sound name"),
            ),
            reloads: counter(
                "ocx_config_reloads_total",
                "Reloads by trigger and result.",
                &["trigger", "result"],
            ),
            reload_duration: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new("ocx_config_reload_duration_seconds", "Time of a reload.")
                        .buckets(RELOADS.to_vec()),
                )
                .expect("a sound name"),
            ),
            generation: gauge("ocx_config_generation", "Number of the config that runs."),
            diverged: gauge("ocx_config_diverged", "1 if the file differs from what runs."),
            draining: gauge(
                "ocx_config_draining_generations",
                "Former configs that still serve streams.",
            ),
            watch_healthy: gauge(
                "ocx_config_watch_healthy",
                "1 if the file is watched, 0 if it is only polled.",
            ),
            registry,
        };
        metrics.register_process();
        metrics
    }

    fn register_process(&self) {
        let info = IntGaugeVec::new(Opts::new("ocx_build_info", "Version of ocx."), &["version"])
            .expect("a sound name");
        register(&self.registry, info).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let process = prometheus::process_collector::ProcessCollector::for_self();
        // Without /proc there are no process metrics, and nothing else is missing.
        let _ = self.registry.register(Box::new(process));
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 << 10);
        // Writing into memory cannot fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }

    /// Sets the one-hot state of a provider.
    pub fn set_provider_state(&self, provider: &str, state: &str) {
        for known in PROVIDER_STATES {
            self.provider_state
                .with_label_values(&[provider, known])
                .set(i64::from(known == state));
        }
        let up = matches!(state, "ready" | "cooling");
        self.provider_up.with_label_values(&[provider]).set(i64::from(up));
    }

    /// Notes that a config has been taken.
    pub fn reload_taken(&self, generation: u64) {
        self.generation.set(generation.try_into().unwrap_or(i64::MAX));
        self.reload_successful.set(1);
        self.diverged.set(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.reload_success_time.set(now.as_secs_f64());
    }

    /// Drops the series of a provider that is gone.
    pub fn forget_provider(&self, provider: &str) {
        for metric in [
            &self.requests,
            &self.usage_missing,
            &self.attempts,
            &self.retries,
            &self.translation_drops,
            &self.model_fetches,
            &self.credential_refreshes,
        ] {
            forget(metric, "provider", provider, |labels| metric.remove(labels).is_ok());
        }
        for metric in [&self.request_duration, &self.time_to_first_token, &self.time_to_headers] {
            forget(metric, "provider", provider, |labels| metric.remove(labels).is_ok());
        }
        for metric in [&self.inflight, &self.provider_up, &self.provider_state] {
            forget(metric, "provider", provider, |labels| metric.remove(labels).is_ok());
        }
        forget(&self.actor_up, "actor", provider, |labels| self.actor_up.remove(labels).is_ok());
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> C {
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
}

/// Removes the series of `metric` in which `label` is `value`.
fn forget<C: Collector>(
    metric: &C,
    label: &str,
    value: &str,
    remove: impl Fn(&std::collections::HashMap<&str, &str>) -> bool,
) {
    for family in metric.collect() {
        for series in family.get_metric() {
            let labels: std::collections::HashMap<&str, &str> =
                series.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
            if labels.get(label) == Some(&value) {
                remove(&labels);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_providers_series_go_with_it() {
        let metrics = Metrics::new();
        for provider in ["a", "b"] {
            metrics.requests.with_label_values(&["responses", provider, "ok"]).inc();
            metrics.request_duration.with_label_values(&[provider, "true"]).observe(1.0);
            metrics.set_provider_state(provider, "ready");
        }
        metrics.forget_provider("a");
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(!text.contains("provider=\"a\""), "{text}");
        assert!(text.contains(
            "ocx_requests_total{outcome=\"ok\",protocol=\"responses\",provider=\"b\"} 1"
        ));
        assert!(text.contains("ocx_build_info"));
    }
}
