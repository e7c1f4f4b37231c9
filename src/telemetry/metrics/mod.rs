//! Every metric, declared once: name, help, labels and buckets. Labels come from closed sets: provider
//! ids of the config, the closed enums beside it, and the bounded [`ModelLabels`].

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus::{
    CounterVec, Encoder as _, Gauge, GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, Registry,
    TextEncoder,
};
pub use prometheus::{Histogram, IntCounter, IntGauge};

use super::logging;
use crate::model::LossKind;

mod declare;
mod labels;
mod otel;

use declare::{declare, forget, register};
pub use labels::{CallOutcome, Held, MAX_MODELS, MAX_MODELS_OF_PROVIDER, ModelLabels, NO_MODEL};
pub use otel::OtelNames;

/// States of a provider, one of which is 1.
pub const PROVIDER_STATES: [&str; 6] =
    ["ready", "cooling", "half_open", "needs_login", "disabled", "failed"];

/// Why requests are refused before anything is done for them.
pub const REJECTED: [&str; 7] = [
    "bad_host",
    "bad_origin",
    "content_type",
    "key_in_url",
    "unauthorized",
    "over_limit",
    "too_large",
];
/// How refreshes of tokens end.
pub const REFRESH_RESULTS: [&str; 5] = ["ok", "adopted", "transient", "ambiguous", "needs_login"];
/// How reloads end.
pub const RELOAD_RESULTS: [&str; 6] =
    ["applied", "unchanged", "parse_error", "invalid", "prepare_failed", "restart_required"];

const DURATIONS: [f64; 15] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0];
const FIRST_TOKEN: [f64; 12] = [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0];
const PER_TOKEN: [f64; 10] = [0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0];
const OVERHEAD: [f64; 13] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25,
];
const MESSAGES: [f64; 11] =
    [0.000_01, 0.000_025, 0.000_1, 0.000_25, 0.001, 0.002_5, 0.01, 0.025, 0.1, 0.25, 1.0];
const LAGS: [f64; 9] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];
const RELOADS: [f64; 8] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
const REFRESHES: [f64; 8] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

declare! {
    /// Calls by protocol, provider and outcome.
    requests: IntCounterVec = "ocx_requests_total" ["protocol", "provider", "outcome"];
    /// Calls by provider, model and who had to do with how they ended.
    model_requests: IntCounterVec = "ocx_model_requests_total" ["provider", "model", "class"];
    /// Seconds from the call to the end of its answer.
    request_duration: HistogramVec = "ocx_request_duration_seconds" ["provider", "stream"] DURATIONS;
    /// Seconds from the call to the first text, reasoning or tool call.
    time_to_first_token: HistogramVec =
        "ocx_time_to_first_token_seconds" ["provider", "model"] FIRST_TOKEN;
    /// Seconds from the exchange to the head of its answer.
    time_to_headers: HistogramVec =
        "ocx_time_to_upstream_headers_seconds" ["provider"] FIRST_TOKEN;
    /// Seconds per token of a stream after its first one.
    time_per_output_token: HistogramVec =
        "ocx_time_per_output_token_seconds" ["provider", "model"] PER_TOKEN;
    /// Seconds of our own: from a read body to the first request, and per piece of an answer.
    overhead: HistogramVec = "ocx_overhead_seconds" ["phase"] OVERHEAD;
    /// Calls in progress.
    inflight: IntGaugeVec = "ocx_inflight_requests" ["provider"];
    /// Streams in progress.
    open_streams: IntGaugeVec = "ocx_open_streams" ["protocol"];
    /// Tokens as upstreams count them. `input` includes what was cached, `output` what was reasoning.
    tokens: IntCounterVec = "ocx_tokens_total" ["provider", "model", "type"];
    /// US dollars, of models that the config has a price of.
    cost: CounterVec = "ocx_cost_usd_total" ["provider", "model"];
    /// Answers that never told token counts: they were completed, or cut.
    usage_missing: IntCounterVec = "ocx_usage_missing_total" ["provider", "end"];
    /// Requests sent to upstreams, by result.
    attempts: IntCounterVec = "ocx_upstream_attempts_total" ["provider", "result"];
    /// Exchanges that were tried again at the same provider, by cause.
    retries: IntCounterVec = "ocx_retries_total" ["provider", "cause"];
    /// Calls of a combo that went on to its next target.
    failovers: IntCounterVec = "ocx_failovers_total" ["from_provider", "to_provider"];
    /// Retries that the provider's budget did not allow.
    retry_budget_exhausted: IntCounterVec = "ocx_retry_budget_exhausted_total" ["provider"];
    /// How streams ended.
    terminations: IntCounterVec = "ocx_stream_terminations_total" ["protocol", "reason"];
    /// Signs of life sent to callers.
    keepalives: IntCounterVec = "ocx_keepalives_total" ["style"];
    /// What translations could not carry.
    translation_drops: IntCounterVec = "ocx_translation_drops_total" ["provider", "kind"];
    /// Turns that began as an earlier turn of their conversation did: a prompt cache should know them.
    cache_expected: IntCounterVec = "ocx_prompt_cache_expected_total" ["provider"];
    /// Of them, those of which the upstream said that its cache knew them.
    cache_hit: IntCounterVec = "ocx_prompt_cache_hit_total" ["provider"];
    /// Requests refused before anything was done for them.
    rejected: IntCounterVec = "ocx_rejected_total" ["reason"];

    /// 1 if a provider takes calls.
    provider_up: IntGaugeVec = "ocx_provider_up" ["provider"];
    /// One-hot state of a provider.
    provider_state: IntGaugeVec = "ocx_provider_state" ["provider", "state"];
    /// When a provider that is left alone is asked again, seconds since 1970; 0 if it is not left alone.
    cooldown_until: GaugeVec = "ocx_provider_cooldown_until_timestamp_seconds" ["provider"];
    /// What is left of an upstream's limit, as it last said: 1 all of it, 0 nothing.
    rate_limit_remaining: GaugeVec = "ocx_rate_limit_remaining_ratio" ["provider", "window"];
    /// When the access token in use ends, seconds since 1970.
    token_expiry: GaugeVec = "ocx_oauth_token_expiry_timestamp_seconds" ["provider"];
    /// Renewals of account tokens, by result.
    credential_refreshes: IntCounterVec = "ocx_oauth_refresh_total" ["provider", "result"];
    /// Seconds that renewals of account tokens took.
    refresh_duration: HistogramVec =
        "ocx_oauth_refresh_duration_seconds" ["provider"] REFRESHES;
    /// When account tokens were last renewed, seconds since 1970.
    refresh_success_time: GaugeVec =
        "ocx_oauth_last_refresh_success_timestamp_seconds" ["provider"];
    /// Calls that waited for an account token: it was being renewed, or read.
    refresh_waiters: IntCounterVec = "ocx_oauth_refresh_waiters_total" ["provider"];
    /// Stored accounts, by state.
    accounts: IntGaugeVec = "ocx_accounts" ["provider", "state"];
    /// Seconds since the model list was fetched.
    model_list_age: GaugeVec = "ocx_model_cache_age_seconds" ["provider"];
    /// Models that a provider is known to have.
    model_list_length: IntGaugeVec = "ocx_model_cache_models" ["provider"];
    /// Fetches of model lists, by result.
    model_fetches: IntCounterVec = "ocx_model_fetch_total" ["provider", "result"];

    /// 1 if an actor runs.
    actor_up: IntGaugeVec = "ocx_actor_up" ["actor"];
    /// Restarts of actors, by cause.
    actor_restarts: IntCounterVec = "ocx_actor_restarts_total" ["actor", "cause"];
    /// Messages that wait for an actor.
    mailbox_depth: IntGaugeVec = "ocx_actor_mailbox_depth" ["actor"];
    /// Messages that may wait for it.
    mailbox_capacity: IntGaugeVec = "ocx_actor_mailbox_capacity" ["actor"];
    /// Calls that were refused because more waited already.
    mailbox_rejected: IntCounterVec = "ocx_actor_mailbox_rejected_total" ["actor"];
    /// Seconds from sending a message until it was handled.
    message_time: HistogramVec = "ocx_actor_message_seconds" ["actor_kind"] MESSAGES;
    /// Seconds that a worker thread was late for a timer.
    loop_lag: HistogramVec = "ocx_event_loop_lag_seconds" ["worker"] LAGS;
    /// Log lines that were dropped because too many waited to be written.
    log_dropped: IntCounter = "ocx_log_dropped_total" [];
    /// Lines of the usage ledger that could not be written.
    ledger_errors: IntCounter = "ocx_ledger_write_errors_total" [];

    /// Batches of traces that a collector did not take.
    trace_errors: IntCounter = "ocx_trace_export_errors_total" [];

    /// 1 if the last reload of the config was taken.
    reload_successful: IntGauge = "ocx_config_last_reload_successful" [];
    /// When the last reload was taken, seconds since 1970.
    reload_success_time: Gauge = "ocx_config_last_reload_success_timestamp_seconds" [];
    /// Reloads by trigger and result.
    reloads: IntCounterVec = "ocx_config_reloads_total" ["trigger", "result"];
    /// Seconds that reloads took.
    reload_duration: Histogram = "ocx_config_reload_duration_seconds" [] RELOADS;
    /// Number of the config that runs.
    generation: IntGauge = "ocx_config_generation" [];
    /// 1 if the file differs from what runs.
    diverged: IntGauge = "ocx_config_diverged" [];
    /// Former configs that still serve streams.
    draining: IntGauge = "ocx_config_draining_generations" [];
    /// 1 if the file is watched, 0 if it is only polled.
    watch_healthy: IntGauge = "ocx_config_watch_healthy" [];
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Declares all of them.
    pub fn new() -> Self {
        let metrics = Self::declared();
        metrics.register_process();
        for reason in REJECTED {
            metrics.rejected.with_label_values(&[reason]);
        }
        for style in ["typed", "comment"] {
            metrics.keepalives.with_label_values(&[style]);
        }
        for actor in ["config_watcher", "provider_supervisor"] {
            metrics.actor_restarts.with_label_values(&[actor, "panic"]);
        }
        for result in RELOAD_RESULTS {
            metrics.reloads.with_label_values(&["watch", result]);
        }
        metrics
    }

    /// The same, and some of them under OpenTelemetry's names too.
    #[must_use]
    pub fn with_otel_names(mut self) -> Self {
        self.otel = Some(OtelNames::declare(&self.registry));
        self
    }

    /// A provider is there. What counts its mishaps begins at 0: Prometheus cannot see the step of a
    /// counter that begins at 1.
    pub fn greet_provider(&self, provider: &str, has_accounts: bool) {
        for kind in LossKind::ALL {
            self.translation_drops.with_label_values(&[provider, kind.label()]);
        }
        for end in ["completed", "cut"] {
            self.usage_missing.with_label_values(&[provider, end]);
        }
        for counter in [&self.cache_expected, &self.cache_hit, &self.retry_budget_exhausted] {
            counter.with_label_values(&[provider]);
        }
        self.actor_restarts.with_label_values(&[provider, "panic"]);
        for result in ["ok", "error"] {
            self.model_fetches.with_label_values(&[provider, result]);
        }
        if has_accounts {
            for result in REFRESH_RESULTS {
                self.credential_refreshes.with_label_values(&[provider, result]);
            }
            self.refresh_waiters.with_label_values(&[provider]);
        }
        self.models.offer(provider, std::iter::empty());
    }

    fn register_process(&self) {
        let (name, help) = ("ocx_build_info", "Version of ocx.");
        let info: IntGaugeVec = register(&self.registry, name, help, &["version"], &[]);
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let process = prometheus::process_collector::ProcessCollector::for_self();
        // Without /proc there are no process metrics, and nothing else is missing.
        let _ = self.registry.register(Box::new(process));
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> Vec<u8> {
        // One scrape at a time: two would count the same lines twice.
        let lists = self.lists();
        for (provider, fetched) in &*lists {
            let age = fetched.elapsed().unwrap_or(Duration::ZERO);
            self.model_list_age.with_label_values(&[provider]).set(age.as_secs_f64());
        }
        let dropped = logging::dropped_lines().saturating_sub(self.log_dropped.get());
        self.log_dropped.inc_by(dropped);
        drop(lists);
        let mut text = Vec::with_capacity(16 << 10);
        // Writing into memory cannot fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }

    /// Notes that a provider's model list is of this time.
    pub fn model_list_fetched(&self, provider: &str, at: SystemTime) {
        self.lists().insert(provider.to_owned(), at);
    }

    fn lists(&self) -> std::sync::MutexGuard<'_, HashMap<String, SystemTime>> {
        self.lists_fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the one-hot state of a provider.
    pub fn set_provider_state(&self, provider: &str, state: &str) {
        for known in PROVIDER_STATES {
            self.provider_state
                .with_label_values(&[provider, known])
                .set(i64::from(known == state));
        }
        let up = matches!(state, "ready" | "cooling" | "half_open");
        self.provider_up.with_label_values(&[provider]).set(i64::from(up));
    }

    /// Notes that a config has been taken.
    pub fn reload_taken(&self, generation: u64) {
        self.generation.set(generation.try_into().unwrap_or(i64::MAX));
        self.reload_successful.set(1);
        self.diverged.set(0);
        self.reload_success_time.set(timestamp(SystemTime::now()));
    }

    /// Drops the series of a provider that is gone.
    pub fn forget_provider(&self, provider: &str) {
        for label in ["provider", "from_provider", "to_provider", "actor"] {
            self.forget(label, provider);
        }
        if let Some(otel) = &self.otel {
            otel.forget(provider);
        }
        self.models.forget(provider);
        self.lists().remove(provider);
    }
}

/// Seconds since 1970.
pub fn timestamp(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
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
