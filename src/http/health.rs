//! `/healthz`, `/readyz` and `/metrics`.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;

use super::gateway::Gateway;
use crate::config::DataKey;

/// A nonce; the `proof` in the answer shows that we know the admin token, before anybody sends it
/// to us.
pub const CHALLENGE: &str = "x-ocx-challenge";

/// Says that the process lives.
pub async fn healthz(request: HttpRequest, gateway: Data<Gateway>) -> HttpResponse {
    let shared = &gateway.shared;
    let challenge = request.headers().get(CHALLENGE).and_then(|value| value.to_str().ok());
    let proof = challenge.filter(|challenge| challenge.len() <= 128).map(|challenge| {
        let snapshot = shared.cell.load();
        proof(shared.policy(&snapshot).admin, challenge, shared.address.port())
    });
    let mut health = json!({
        "status": "ok",
        "service": "ocx",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime": shared.started.elapsed().as_secs(),
    });
    if let Some(proof) = proof {
        health["proof"] = proof.into();
    }
    HttpResponse::Ok().json(health)
}

/// What proves knowledge of the token behind `key`: HMAC-SHA256 of the challenge and the port, in
/// hexadecimal. With the port in it, whoever took the port cannot let us prove it for them.
pub fn proof(key: &DataKey, challenge: &str, port: u16) -> String {
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key.digest()).expect("any length is a key");
    mac.update(format!("{challenge} {port}").as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// Says whether we take calls.
pub async fn readyz(gateway: Data<Gateway>) -> HttpResponse {
    let shared = &gateway.shared;
    let generation = shared.cell.load().generation;
    if shared.lifecycle.is_draining() {
        return HttpResponse::ServiceUnavailable()
            .json(json!({"status": "draining", "generation": generation}));
    }
    HttpResponse::Ok().json(json!({"status": "ready", "generation": generation}))
}

/// Everything that Prometheus scrapes.
pub async fn metrics(gateway: Data<Gateway>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(gateway.shared.telemetry.metrics.render())
}
