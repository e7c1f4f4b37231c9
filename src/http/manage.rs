//! The management API.

use actix_web::{HttpResponse, http::StatusCode, web::Data};
use serde_json::json;

use super::{failure::plain, gateway::Gateway};
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
