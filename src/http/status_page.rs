//! The page at `/`: what runs, for a person with a browser. No script, no secrets, no state.

use std::fmt::Write as _;

use actix_web::{HttpResponse, web::Data};
use futures_util::future::join_all;

use super::gateway::Gateway;
use crate::actors::{ProviderHandle, Snapshot};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:3rem auto;max-width:60rem;padding:0 1rem}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.4rem .8rem;border-bottom:1px solid #ccc}\
code{background:#f3f3f3;padding:.1rem .3rem}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}\
code{background:#222}}";

/// Shows the providers and the config that runs.
pub async fn show(gateway: Data<Gateway>) -> HttpResponse {
    let snapshot = gateway.shared.cell.load_full();
    let rows = rows(&snapshot).await;
    let uptime = gateway.shared.started.elapsed().as_secs();
    let differs = if gateway.shared.telemetry.metrics.diverged.get() == 1 {
        "<p><strong>The config file differs from what runs: it was refused. <code>ocx reload</code> \
         says why.</strong></p>"
    } else {
        ""
    };
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>ocx</title><style>{STYLE}</style>\
         <h1>ocx {}</h1><p>Up for {uptime} s, config generation {}. \
         <a href=/metrics>Metrics</a>, <a href=/v1/models>models</a>.</p>{differs}\
         <table><tr><th>Provider<th>Protocol<th>Address<th>State</tr>{rows}</table></html>",
        env!("CARGO_PKG_VERSION"),
        snapshot.generation,
    );
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ))
        .insert_header(("x-content-type-options", "nosniff"))
        .insert_header(("referrer-policy", "no-referrer"))
        .insert_header(("cache-control", "no-store"))
        .body(page)
}

/// Every provider with its state, in words.
pub(super) async fn states(snapshot: &Snapshot) -> Vec<(&ProviderHandle, String)> {
    let handles = snapshot.config.providers.keys().filter_map(|id| snapshot.provider(id));
    join_all(handles.map(|handle| async move { (handle, state(handle).await) })).await
}

async fn rows(snapshot: &Snapshot) -> String {
    states(snapshot).await.iter().fold(String::new(), |mut html, (handle, state)| {
        let spec = handle.spec();
        // Writing into a string cannot fail.
        let _ = write!(
            html,
            "<tr><td>{}<td>{}<td><code>{}</code><td>{}</tr>",
            escape(spec.id.as_str()),
            spec.adapter.name(),
            escape(&spec.base_url),
            escape(state),
        );
        html
    })
}

async fn state(handle: &ProviderHandle) -> String {
    match handle.describe().await {
        Err(_) => "failed".to_owned(),
        Ok(status) => match (status.cooling_for, status.lacks) {
            (Some(left), _) => format!("pausing for {} s", left.as_secs() + 1),
            (None, Some(lacks)) if status.forwards => format!("ready; takes {lacks}"),
            (None, Some(lacks)) => format!("needs: {lacks}"),
            (None, None) => "ready".to_owned(),
        },
    }
}

pub(super) fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut html, c| {
        match c {
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '&' => html.push_str("&amp;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
        html
    })
}
