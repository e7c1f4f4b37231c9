//! `GET /v1/models`: OpenAI's list, or Codex's catalogue for those who send `client_version`.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{Data, Query},
};
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    failure::{HttpFailure, plain},
    gateway::Gateway,
};
use crate::{
    actors::Snapshot,
    adapters::{DecodeError, ModelInfo, WireRequest, adapter},
    codex::catalog::{self, RoutedModel},
    error::GatewayError,
    exchange::{self, Quota},
    registry::AuthMode,
    turn::Turn,
};

/// How long ChatGPT's own catalogue may take, and how large it may be in bytes.
const NATIVE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_NATIVE: usize = 8 << 20;

#[derive(Deserialize)]
pub struct Asked {
    client_version: Option<String>,
}

/// Lists the models of all providers.
///
/// # Errors
///
/// When Codex asks with a ChatGPT login and ChatGPT's own catalogue cannot be had: without its
/// entries Codex would lose what it knows of its native models, with an error it keeps that.
pub async fn list(
    request: HttpRequest,
    asked: Query<Asked>,
    gateway: Data<Gateway>,
) -> Result<HttpResponse, HttpFailure> {
    let turn = gateway.turn(gateway.caller(&request), None);
    let models = offered(&turn.snapshot).await;
    match &asked.client_version {
        None => Ok(HttpResponse::Ok().json(openai_list(&models))),
        Some(version) => {
            let native = native(&turn, version).await?;
            let models: Vec<Offered> = models.into_iter().flat_map(Offered::with_alias).collect();
            let routed: Vec<RoutedModel<'_>> =
                models.iter().filter_map(|model| model.routed(&turn.snapshot)).collect();
            if native.is_empty() && routed.is_empty() {
                return Ok(nothing_yet());
            }
            let document =
                catalog::document(&native, &routed, &turn.snapshot.config.subagent_models)
                    .map_err(|_| GatewayError::Internal)?;
            Ok(HttpResponse::Ok().content_type("application/json").body(document))
        }
    }
}

/// A model as callers name it.
#[derive(Clone)]
struct Offered {
    slug: String,
    provider: String,
    info: ModelInfo,
    native: bool,
}

impl Offered {
    /// The model, and the shorter name that Ollama knows it by: `qwen3` for `qwen3:latest`.
    fn with_alias(self) -> Vec<Self> {
        match self.slug.strip_suffix(":latest") {
            Some(short) => {
                let alias = Self { slug: short.to_owned(), ..self.clone() };
                vec![alias, self]
            }
            None => vec![self],
        }
    }

    fn routed<'a>(&'a self, snapshot: &'a Snapshot) -> Option<RoutedModel<'a>> {
        if self.native {
            return None;
        }
        let provider = snapshot.providers.get(self.provider.as_str())?;
        Some(RoutedModel {
            slug: &self.slug,
            provider: &self.provider,
            info: &self.info,
            quirks: &provider.spec().quirks,
        })
    }
}

/// Codex refuses a catalogue without models, so none is better than an empty one.
fn nothing_yet() -> HttpResponse {
    let message = "no model is known yet: no provider but the native one is configured, or none of \
                   them answers";
    plain(StatusCode::SERVICE_UNAVAILABLE, "no_models", message)
}

/// The models of every provider in service, native ones by their bare name.
async fn offered(snapshot: &Arc<Snapshot>) -> Vec<Offered> {
    let lists =
        snapshot.config.providers.values().filter(|spec| !spec.disabled).map(|spec| async {
            let models = match snapshot.provider(&spec.id) {
                Some(provider) => provider.models().await,
                None => Arc::from([]),
            };
            let native = spec.auth == AuthMode::Forward;
            let offered = models.iter().map(|info| Offered {
                slug: if native { info.id.clone() } else { format!("{}/{}", spec.id, info.id) },
                provider: spec.id.to_string(),
                info: info.clone(),
                native,
            });
            offered.collect::<Vec<_>>()
        });
    let mut models: Vec<Offered> = join_all(lists).await.into_iter().flatten().collect();
    models.extend(combos(snapshot, &models));
    models.retain(|model| !snapshot.config.disabled_models.contains(&model.slug));
    models
}

/// Virtual models; what is known of one is what is known of its first target.
fn combos(snapshot: &Snapshot, models: &[Offered]) -> Vec<Offered> {
    let offered = snapshot.config.combos.iter().filter_map(|(name, combo)| {
        let first = combo.targets.first()?;
        let known = models.iter().find(|model| {
            model.provider == first.provider.as_str() && model.info.id == first.model.as_str()
        });
        let unknown = || ModelInfo { id: first.model.as_str().to_owned(), ..ModelInfo::default() };
        let info = known.map_or_else(unknown, |known| known.info.clone());
        let info = ModelInfo { owned_by: Some("ocx".to_owned()), ..info };
        let (slug, provider) = (name.clone(), first.provider.to_string());
        Some(Offered { slug, provider, info, native: false })
    });
    offered.collect()
}

fn openai_list(models: &[Offered]) -> serde_json::Value {
    let row = |model: &Offered| {
        let owner = match &model.info.owned_by {
            Some(owner) => owner.as_str(),
            None if model.native => "openai",
            None => &model.provider,
        };
        json!({"id": model.slug, "object": "model", "created": 0, "owned_by": owner})
    };
    json!({"object": "list", "data": models.iter().map(row).collect::<Vec<_>>()})
}

/// ChatGPT's own catalogue, with the caller's own login.
async fn native(turn: &Turn, version: &str) -> Result<Vec<Box<RawValue>>, GatewayError> {
    #[derive(Deserialize)]
    struct Catalogue {
        models: Vec<Box<RawValue>>,
    }
    let forward = turn
        .snapshot
        .config
        .providers
        .values()
        .find(|spec| spec.auth == AuthMode::Forward && !spec.disabled);
    let Some(provider) = forward.and_then(|spec| turn.snapshot.provider(&spec.id)) else {
        return Ok(Vec::new());
    };
    if !turn.caller.is_authorized() {
        return Ok(Vec::new());
    }
    let lease = provider.dispatch(turn.caller.clone(), false).await?;
    let digits = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let version: String = version.chars().filter(digits).take(32).collect();
    let url = format!("{}/models?client_version={version}", lease.spec.base_url);
    let mut request = WireRequest::get(url);
    request.set_static(&lease.spec.headers);
    request.set_bearer(&lease.credential);
    let adapter = adapter(lease.spec.adapter);
    let body = exchange::fetch(
        &turn.upstream,
        &lease,
        adapter,
        request,
        Quota::Own,
        NATIVE_TIMEOUT,
        MAX_NATIVE,
    )
    .await?;
    let catalogue: Catalogue = serde_json::from_slice(&body).map_err(|_| {
        exchange::broken(&lease, DecodeError::Malformed("no catalogue of models".to_owned()))
    })?;
    Ok(catalogue.models)
}
