//! `ocx explain`: what became of a call, and why.

use std::{borrow::Cow, process::ExitCode};

use serde_json::Value;
use url::form_urlencoded::byte_serialize;

use super::{args::ExplainArgs, finish, gateway::local::Local, say, style::plain};
use crate::config::Home;

/// Runs the command.
pub(super) fn explain(args: &ExplainArgs, home: &Home) -> ExitCode {
    let path = match &args.id {
        Some(id) => {
            let id: String = byte_serialize(id.as_bytes()).collect();
            format!("/api/decisions?id={id}")
        }
        None => "/api/decisions".to_owned(),
    };
    let asked = async { Local::find(&args.which, home).await?.look(&path).await };
    finish(actix_web::rt::System::new().block_on(asked).map(|answer| {
        match (args.json, answer.as_array()) {
            (true, _) => say(serde_json::to_string_pretty(&answer).unwrap_or_default()),
            (false, Some(calls)) => list(calls),
            (false, None) => say(account(&answer).join("\n")),
        }
    }))
}

fn list(calls: &[Value]) {
    if calls.is_empty() {
        return say("No call has ended since the gateway started.");
    }
    for call in calls {
        say(format_args!(
            "{}  {:<40} {:>8} ms  {:<16} {}",
            time(call),
            target(call),
            call["durationMs"],
            text(&call["outcome"]),
            // The last one is what its caller saw.
            call["ids"].as_array().and_then(|ids| ids.last()).map(text).unwrap_or_default(),
        ));
    }
    say("`ocx explain ID` tells all of one.");
}

/// A line for each thing that a person would ask.
fn account(call: &Value) -> Vec<String> {
    let stream = if call["stream"] == true { ", as a stream" } else { "" };
    let ids: Vec<_> = call["ids"].as_array().into_iter().flatten().map(text).collect();
    let mut lines = vec![
        format!("{}, over at {}", ids.join(", "), time(call)),
        format!("  asked     {} ({}{stream})", text(&call["asked"]), text(&call["protocol"])),
    ];
    let steps = call["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (went, rule) = (target(call), text(&call["rule"]));
    match steps.first().map(target) {
        Some(first) if first != went => {
            lines.push(format!("  first     {first}: {rule}"));
            lines.push(format!("  went to   {went}"));
        }
        _ => lines.push(format!("  went to   {went}: {rule}")),
    }
    if let Some(generation) = call["generation"].as_u64() {
        lines.push(format!("  config    generation {generation}"));
    }
    for (n, step) in (1..).zip(steps) {
        let with = step["credential"].as_str().map(|name| format!(" with {name}"));
        let (result, outcome) = (text(&step["result"]), text(&call["outcome"]));
        let result = match (&*result, &*outcome) {
            ("", "client_cancelled") => "left by the caller",
            ("", _) => "no result",
            (result, _) => result,
        };
        lines.push(format!(
            "  try {n:<5} {}{}, {} ms after the call: {result}, {} ms",
            target(step),
            with.unwrap_or_default(),
            step["afterMs"],
            step["tookMs"],
        ));
        if let Some(next) = step["then"].as_str() {
            lines.push(format!("            then: {next}"));
        }
    }
    if let Some(more @ 1..) = call["leftOut"].as_u64() {
        lines.push(format!("  tries     {more} more, of which nothing is remembered"));
    }
    for loss in call["losses"].as_array().into_iter().flatten() {
        lines.push(format!("  lost      {} × {}", loss[1], text(&loss[0])));
    }
    let first = call["firstTokenMs"].as_u64().map(|first| format!(", first piece {first} ms"));
    lines.push(format!(
        "  time      body read {} ms{}, whole {} ms",
        call["bodyMs"],
        first.unwrap_or_default(),
        call["durationMs"]
    ));
    if let Some(usage) = call["usage"].as_object() {
        let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or_default();
        lines.push(format!(
            "  tokens    {} in ({} of them cached), {} out ({} of them reasoning)",
            count("input"),
            count("cachedInput"),
            count("output"),
            count("reasoning")
        ));
    }
    let how = call["termination"].as_str().map(|how| format!(" ({how})")).unwrap_or_default();
    let error =
        call["error"].as_str().map(|error| format!(": {}", plain(error))).unwrap_or_default();
    lines.push(format!("  outcome   {}{how}{error}", text(&call["outcome"])));
    lines
}

/// Callers name models as they like, and upstreams say what they like.
fn text(value: &Value) -> Cow<'_, str> {
    plain(value.as_str().unwrap_or_default())
}

/// `provider/model` of a call or a step.
fn target(of: &Value) -> String {
    let (provider, model) = (text(&of["provider"]), text(&of["model"]));
    if model.is_empty() { provider.into_owned() } else { format!("{provider}/{model}") }
}

fn time(call: &Value) -> String {
    let at = call["at"].as_f64().unwrap_or_default();
    #[expect(clippy::cast_possible_truncation, reason = "seconds of our time")]
    let at = jiff::Timestamp::from_second(at as i64).unwrap_or_default();
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%F %T").to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_account_tells_what_was_tried_and_what_was_lost() {
        let call = json!({"ids": ["req_1", "resp_2"], "at": 0.0, "protocol": "responses", "asked": "best",
            "rule": "the name is a combo's", "provider": "b", "model": "m", "generation": 3,
            "steps": [{"provider": "a", "model": "n", "credential": "key 1 of 2", "afterMs": 1,
                "tookMs": 5, "result": "rate_limited: slow down", "then": "failed over to `b`"},
                {"provider": "b", "model": "m", "afterMs": 7, "tookMs": 0, "result": ""}],
            "losses": [["tool_schema", 2]], "outcome": "client_cancelled", "stream": true,
            "termination": "client_gone", "bodyMs": 1, "durationMs": 20,
            "usage": {"input": 5, "cachedInput": 4, "cacheWrite": 0, "output": 3, "reasoning": 2}});
        let lines = account(&call).join("\n");
        for words in [
            "req_1, resp_2",
            "asked     best (responses, as a stream)",
            "first     a/n: the name is a combo's",
            "went to   b/m",
            "generation 3",
            "try 1     a/n with key 1 of 2, 1 ms after the call: rate_limited: slow down, 5 ms",
            "then: failed over to `b`",
            "try 2     b/m, 7 ms after the call: left by the caller",
            "lost      2 × tool_schema",
            "5 in (4 of them cached), 3 out (2 of them reasoning)",
            "client_cancelled (client_gone)",
        ] {
            assert!(lines.contains(words), "{words} in\n{lines}");
        }
    }
}
