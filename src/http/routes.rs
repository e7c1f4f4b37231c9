//! The one table of routes. A route cannot be registered without an auth class, and the guard that
//! enforces it decides on the matched route, not on a path that it reads for itself.

use std::{collections::HashSet, panic::AssertUnwindSafe};

use actix_web::{
    Error, HttpResponse, Route,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{Method, StatusCode, header},
    middleware::{Next, from_fn},
    web::{self, Data, ServiceConfig},
};
use futures_util::FutureExt as _;

use super::{
    access::{AuthClass, Rejection},
    calls, compact, count_tokens,
    failure::{HttpFailure, plain},
    gateway::{Gateway, facts},
    health, manage, models, status_page, websocket,
};
use crate::error::GatewayError;

/// A path, who may call it, and how.
#[derive(Clone, Copy, Debug)]
pub struct RouteRule {
    /// The path, literally.
    pub path: &'static str,
    /// Its one method.
    pub method: &'static str,
    /// What it demands.
    pub class: AuthClass,
    endpoint: Endpoint,
}

#[derive(Clone, Copy, Debug)]
enum Endpoint {
    Responses,
    ChatCompletions,
    Messages,
    Compact,
    CountTokens,
    ResponsesSocket,
    ListModels,
    Health,
    Ready,
    Metrics,
    Reload,
    Status,
    Decisions,
    StatusPage,
}

const fn rule(
    method: &'static str,
    path: &'static str,
    class: AuthClass,
    endpoint: Endpoint,
) -> RouteRule {
    RouteRule { path, method, class, endpoint }
}

/// Every route there is.
pub const ROUTES: [RouteRule; 14] = [
    rule("POST", "/v1/responses", AuthClass::Data, Endpoint::Responses),
    rule("GET", "/v1/responses", AuthClass::Data, Endpoint::ResponsesSocket),
    rule("POST", "/v1/chat/completions", AuthClass::Data, Endpoint::ChatCompletions),
    rule("POST", "/v1/messages", AuthClass::Data, Endpoint::Messages),
    rule("POST", "/v1/responses/compact", AuthClass::Data, Endpoint::Compact),
    rule("POST", "/v1/messages/count_tokens", AuthClass::Data, Endpoint::CountTokens),
    rule("GET", "/v1/models", AuthClass::Data, Endpoint::ListModels),
    rule("GET", "/healthz", AuthClass::Public, Endpoint::Health),
    rule("GET", "/readyz", AuthClass::Public, Endpoint::Ready),
    rule("GET", "/metrics", AuthClass::Observe, Endpoint::Metrics),
    rule("POST", "/api/config/reload", AuthClass::Admin, Endpoint::Reload),
    rule("GET", "/api/status", AuthClass::Observe, Endpoint::Status),
    rule("GET", "/api/decisions", AuthClass::Admin, Endpoint::Decisions),
    rule("GET", "/", AuthClass::Observe, Endpoint::StatusPage),
];

/// Registers the table, and a guarded answer for everything else.
pub(super) fn configure(app: &mut ServiceConfig) {
    let mut registered = HashSet::new();
    for rule in ROUTES {
        // A path is one resource, whatever its methods.
        if registered.insert(rule.path) {
            app.service(guarded(rule));
        }
    }
    let nowhere = web::resource("/{path:.*}").to(unknown);
    app.service(nowhere.wrap(from_fn(|request, next| guard(AuthClass::Public, request, next))));
}

fn guarded(rule: RouteRule) -> impl actix_web::dev::HttpServiceFactory + 'static {
    let of_path = ROUTES.into_iter().filter(|other| other.path == rule.path);
    let resource =
        of_path.fold(web::resource(rule.path), |resource, rule| resource.route(route(rule)));
    let class = rule.class;
    resource
        .default_service(web::to(wrong_method))
        .wrap(from_fn(move |request, next| guard(class, request, next)))
}

fn route(rule: RouteRule) -> Route {
    let method = Method::from_bytes(rule.method.as_bytes()).unwrap_or(Method::GET);
    let route = web::route().method(method);
    match rule.endpoint {
        Endpoint::Responses => route.to(calls::responses),
        Endpoint::ChatCompletions => route.to(calls::chat_completions),
        Endpoint::Messages => route.to(calls::messages),
        Endpoint::Compact => route.to(compact::compact),
        Endpoint::CountTokens => route.to(count_tokens::count_tokens),
        Endpoint::ResponsesSocket => route.to(websocket::open),
        Endpoint::ListModels => route.to(models::list),
        Endpoint::Health => route.to(health::healthz),
        Endpoint::Ready => route.to(health::readyz),
        Endpoint::Metrics => route.to(health::metrics),
        Endpoint::Reload => route.to(manage::reload),
        Endpoint::Status => route.to(manage::status),
        Endpoint::Decisions => route.to(manage::decisions),
        Endpoint::StatusPage => route.to(status_page::show),
    }
}

/// Lets a request in or turns it away, and answers for a handler that panics.
async fn guard(
    class: AuthClass,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let verdict = admit(class, &request);
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = match verdict {
        Err(rejection) => request.into_response(turned_away(rejection)),
        Ok(()) if request.method() == Method::OPTIONS => request.into_response(preflight()),
        Ok(()) => {
            // The request must not be cloned here: actix panics on that while it routes.
            catch_panic(async move { next.call(request).await }).await??
        }
    };
    // Only an origin that was let in is named; there is no `*`, and no credentials.
    if let (Ok(()), Some(origin)) = (verdict, origin) {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.headers_mut().insert(header::VARY, header::HeaderValue::from_static("origin"));
    }
    Ok(response)
}

/// Without this, a handler that panics closes the connection without an answer.
async fn catch_panic<F: Future>(call: F) -> Result<F::Output, Error> {
    AssertUnwindSafe(call)
        .catch_unwind()
        .await
        .map_err(|_| HttpFailure::from(GatewayError::Internal).into())
}

fn admit(class: AuthClass, request: &ServiceRequest) -> Result<(), Rejection> {
    let Some(gateway) = request.app_data::<Data<Gateway>>() else {
        return Err(Rejection::Key);
    };
    let shared = &gateway.shared;
    let snapshot = shared.cell.load();
    let verdict = shared.policy(&snapshot).admit(&facts(request.request()), class);
    if let Err(rejection) = &verdict {
        shared.telemetry.metrics.rejected.with_label_values(&[rejection.label()]).inc();
    }
    verdict
}

fn turned_away(rejection: Rejection) -> HttpResponse {
    let status = StatusCode::from_u16(rejection.status()).unwrap_or(StatusCode::FORBIDDEN);
    plain(status, rejection.label(), &rejection.to_string())
}

fn preflight() -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"))
        .insert_header((
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "content-type, authorization, x-opencodex-api-key",
        ))
        .finish()
}

/// Unknown paths are JSON, never a page: Codex would parse it.
async fn unknown(request: actix_web::HttpRequest) -> HttpResponse {
    let message = format!("unknown endpoint: {} {}", request.method(), request.path());
    plain(StatusCode::NOT_FOUND, "not_found", &message)
}

pub(super) async fn wrong_method(request: actix_web::HttpRequest) -> HttpResponse {
    let message = format!("{} is not allowed on {}", request.method(), request.path());
    plain(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_methods_of_a_path_demand_the_same() {
        for rule in ROUTES {
            let alike = ROUTES.iter().filter(|other| other.path == rule.path);
            assert!(alike.clone().all(|other| other.class == rule.class), "{}", rule.path);
            assert_eq!(alike.filter(|other| other.method == rule.method).count(), 1);
        }
    }

    #[actix::test]
    async fn x09_a_handler_that_panics_answers_500_in_json() {
        let caught = catch_panic(async { panic!("a defect") }).await;
        let answer = caught.map(|never: ()| never).expect_err("a panic").error_response();
        assert_eq!(answer.status(), 500);
        let body = actix_web::body::to_bytes(answer.into_body()).await.expect("in memory");
        assert!(body.starts_with(b"{\"error\":{\"message\":\"an internal error"), "{body:?}");
    }
}
