//! What is told of turns, beyond metrics and logs: the usage ledger and traces.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::{Env, SecretText, build::Findings, secret::PARTLY_A_REFERENCE};
use crate::{telemetry::traces::Collector, wire::pointer::escape};

/// Where collectors listen on this machine. Source: opentelemetry.io/docs/specs/otel/protocol/exporter.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:4318";
/// The variable that names another one, by the same source.
const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Where they take traces.
const PATH: &str = "/v1/traces";
const DEFAULT_LEDGER_BYTES: u64 = 256 << 20;
const MIN_LEDGER_BYTES: u64 = 1 << 20;

/// Telemetry as `config.json` writes it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TelemetryFile {
    /// The usage ledger, which `ocx usage` reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerFile>,
    /// Traces, sent to an OpenTelemetry collector. `{}` is enough for one on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<OtlpFile>,
    /// Expose metrics under OpenTelemetry's names too (`gen_ai_client_token_usage` and others), for
    /// dashboards that expect them. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otel_names: Option<bool>,
}

/// The ledger as `config.json` writes it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LedgerFile {
    /// Whether one is kept. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// About how large it grows, in bytes, before the oldest turns are dropped. Default 268435456,
    /// some 600000 turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

/// Traces as `config.json` writes them.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OtlpFile {
    /// The collector's address for OTLP over HTTP, without `/v1/traces`. Default:
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, else `http://127.0.0.1:4318`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Headers for the collector; values may be `${VAR}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<IndexMap<String, SecretText>>,
    /// The share of turns that are traced, 0 to 1, where the caller has not decided. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_ratio: Option<f64>,
    /// Put what was asked and answered into traces too, 32 KiB of each at most. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture_content: Option<bool>,
}

/// What is told of turns. Cannot change while we run.
#[derive(Clone, Debug)]
pub struct TelemetrySpec {
    /// About how large the ledger grows, in bytes; nothing if none is kept.
    pub ledger_bytes: Option<u64>,
    /// Where traces go, if anywhere.
    pub otlp: Option<Collector>,
    /// Whether OpenTelemetry's names are exposed too.
    pub otel_names: bool,
    /// Digest of how all of it was written.
    pub fingerprint: [u8; 32],
}

pub(super) fn build(
    file: Option<&TelemetryFile>,
    env: &Env<'_>,
    findings: &mut Findings,
) -> TelemetrySpec {
    let written = serde_json::to_vec(&file).unwrap_or_default();
    let default = TelemetryFile::default();
    let file = file.unwrap_or(&default);
    TelemetrySpec {
        ledger_bytes: ledger_bytes(file.ledger.as_ref(), findings),
        otlp: file.otlp.as_ref().and_then(|otlp| self::otlp(otlp, env, findings)),
        otel_names: file.otel_names.unwrap_or(false),
        fingerprint: Sha256::digest(written).into(),
    }
}

fn ledger_bytes(file: Option<&LedgerFile>, findings: &mut Findings) -> Option<u64> {
    let bytes = file.and_then(|ledger| ledger.max_bytes).unwrap_or(DEFAULT_LEDGER_BYTES);
    if bytes < MIN_LEDGER_BYTES {
        findings.problem("/telemetry/ledger/maxBytes", format!("is at least {MIN_LEDGER_BYTES}"));
    }
    let enabled = file.and_then(|ledger| ledger.enabled).unwrap_or(true);
    enabled.then_some(bytes)
}

fn otlp(file: &OtlpFile, env: &Env<'_>, findings: &mut Findings) -> Option<Collector> {
    let at = "/telemetry/otlp";
    let named = file.endpoint.clone().or_else(|| env(ENDPOINT_VARIABLE));
    let named = named.filter(|named| !named.trim().is_empty());
    let endpoint = named.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
    // Some write all of it.
    let base = endpoint.trim().trim_end_matches('/').trim_end_matches(PATH);
    let traces = match Url::parse(&format!("{base}{PATH}")) {
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none() =>
        {
            Some(url)
        }
        _ => {
            let message = "is no `http://` or `https://` address without a user and a query; \
                           keys go into `headers`";
            findings.problem(format!("{at}/endpoint"), message);
            None
        }
    };
    let sample_ratio = file.sample_ratio.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&sample_ratio) {
        findings.problem(format!("{at}/sampleRatio"), "is between 0 and 1");
    }
    let mut headers = Vec::new();
    for (name, value) in file.headers.iter().flatten() {
        let at = format!("{at}/headers/{}", escape(name));
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            findings.problem(at, "is no legal header name");
            continue;
        }
        if value.holds_a_reference() {
            findings.problem(at, PARTLY_A_REFERENCE);
            continue;
        }
        let source = value.source();
        match (source.resolve(env), source.unset(env)) {
            (Some(value), _) => headers.push((name.to_ascii_lowercase(), value)),
            (None, Some(variable)) => {
                findings.problem(at, format!("the variable {variable} is not set"));
            }
            (None, None) => {}
        }
    }
    let capture_content = file.capture_content.unwrap_or(false);
    Some(Collector { traces: traces?, headers, sample_ratio, capture_content })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;
    use serde_json::{Value, json};

    use super::*;

    fn built(file: Value) -> (TelemetrySpec, Vec<String>) {
        let file: TelemetryFile = serde_json::from_value(file).unwrap();
        let env = |name: &str| (name == "TOKEN").then(|| "secret".to_owned());
        let mut findings = Findings::default();
        let spec = build(Some(&file), &env, &mut findings);
        (spec, findings.problems.into_iter().map(|(pointer, _)| pointer).collect())
    }

    #[test]
    fn defaults_suit_a_collector_on_this_machine() {
        let (spec, problems) = built(json!({"otlp": {"headers": {"X-Key": "${TOKEN}"}}}));
        assert!(problems.is_empty());
        assert_eq!(spec.ledger_bytes, Some(DEFAULT_LEDGER_BYTES));
        let otlp = spec.otlp.unwrap();
        assert_eq!(otlp.traces.as_str(), "http://127.0.0.1:4318/v1/traces");
        assert!(!otlp.capture_content && otlp.sample_ratio >= 1.0);
        let (name, value) = &otlp.headers[0];
        assert_eq!((name.as_str(), value.expose_secret()), ("x-key", "secret"));
        assert!(!format!("{otlp:?}").contains("secret"));
        let off = built(json!({"ledger": {"enabled": false}})).0;
        assert!(off.ledger_bytes.is_none() && off.otlp.is_none());
    }

    #[test]
    fn what_cannot_be_is_named_by_its_place() {
        let (_, problems) = built(json!({
            "ledger": {"maxBytes": 1},
            "otlp": {
                "endpoint": "http://user:pw@collector",
                "sampleRatio": 2,
                "headers": {"a b": "x", "k": "${UNSET}"}
            }
        }));
        assert_eq!(
            problems,
            [
                "/telemetry/ledger/maxBytes",
                "/telemetry/otlp/endpoint",
                "/telemetry/otlp/sampleRatio",
                "/telemetry/otlp/headers/a b",
                "/telemetry/otlp/headers/k"
            ]
        );
    }
}
