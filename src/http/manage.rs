//! The management API.

use actix_web::{
    HttpResponse,
    http::StatusCode,
    web::{Data, Query},
};
use serde::Deserialize;
use serde_json::json;

use super::{failure::plain, gateway::Gateway, status_page};
use crate::actors::{Reload, ReloadOutcome, Trigger};

/// `POST /api/config/reload`: reads the config now and answers when the outcome is known: 200, 409
/// if a restart is needed, 422 with the places if it does not check.
pub async fn reload(gateway: Data<Gateway>) -> HttpResponse {
    let shared = &gateway.shared;
    let Some(watcher) = &shared.watcher else {
        return plain(StatusCode::CONFLICT, "no_config", "no config file is watched");
    };
    let generation = || shared.cell.load().generation;
    match watcher.send(Reload(Trigger::Api)).await {
        Ok(ReloadOutcome::Applied(applied)) => {
            HttpResponse::Ok().json(json!({"result": "applied", "generation": applied.generation}))
        }
        Ok(ReloadOutcome::Unchanged) => {
            HttpResponse::Ok().json(json!({"result": "unchanged", "generation": generation()}))
        }
        Ok(ReloadOutcome::RestartRequired(fields)) => HttpResponse::Conflict().json(json!({
            "result": "restart_required", "restart_required": fields, "generation": generation(),
        })),
        Ok(ReloadOutcome::Refused(refused)) => HttpResponse::UnprocessableEntity().json(json!({
            "result": "refused", "problems": refused.problems, "generation": generation(),
        })),
        Ok(ReloadOutcome::Missing) => HttpResponse::UnprocessableEntity().json(json!({
            "result": "missing", "generation": generation(),
            "problems": [{"pointer": "", "message": "the config file is gone"}],
        })),
        Ok(ReloadOutcome::PrepareFailed(reason)) => HttpResponse::InternalServerError().json(
            json!({"result": "prepare_failed", "reason": reason, "generation": generation()}),
        ),
        Err(_) => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "watcher_restarts",
            "the config watcher restarts; try again",
        ),
    }
}

/// `GET /api/status`: version, uptime in seconds, the config that runs, and how each provider is.
pub async fn status(gateway: Data<Gateway>) -> HttpResponse {
    let shared = &gateway.shared;
    let snapshot = shared.cell.load_full();
    let states = status_page::states(&snapshot).await;
    let providers = states.iter().map(|(handle, state)| {
        let spec = handle.spec();
        json!({"id": spec.id.as_str(), "adapter": spec.adapter.name(), "baseUrl": spec.base_url,
            "state": state})
    });
    HttpResponse::Ok().json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime": shared.started.elapsed().as_secs(),
        "generation": snapshot.generation,
        "diverged": shared.telemetry.metrics.diverged.get() == 1,
        "draining": shared.lifecycle.is_draining(),
        "providers": providers.collect::<Vec<_>>(),
    }))
}

/// Which decisions are asked for.
#[derive(Debug, Deserialize)]
pub struct Asked {
    /// Those of one call.
    id: Option<String>,
}

/// Calls that are listed.
const LISTED: usize = 50;

/// `GET /api/decisions?id=ID`: what became of a call and why, 404 if it is not among those remembered;
/// without an id, the last calls, the newest first.
pub async fn decisions(asked: Query<Asked>, gateway: Data<Gateway>) -> HttpResponse {
    let known = &gateway.shared.telemetry.decisions;
    let Some(id) = &asked.id else {
        return HttpResponse::Ok().json(known.last(LISTED));
    };
    match known.find(id) {
        Some(decision) => HttpResponse::Ok().json(decision),
        None => plain(
            StatusCode::NOT_FOUND,
            "not_found",
            "no call of this id is among the last that this gateway remembers",
        ),
    }
}
