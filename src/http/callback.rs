//! The end of a login by browser: a page on loopback that the authorisation server sends it back to.
//! Source: RFC 8252, section 7.3.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    http::StatusCode,
    web::{self, Data},
};
use tokio::sync::mpsc;
use url::{Host, Url};

use super::status_page::escape;
use crate::oauth::{Authorization, Code, Refusal};

/// A bound address that a browser can come back to.
pub struct Callback {
    /// The address, with the port that was picked.
    pub redirect: Url,
    listeners: Vec<TcpListener>,
}

struct Waiting {
    login: Arc<Authorization>,
    answers: mpsc::Sender<Result<Code, Refusal>>,
}

/// Binds what a redirect address names, on loopback only. Browsers may take `localhost` for `::1`, so it
/// is bound too if it can be.
///
/// # Errors
///
/// When the port is taken, and no other may be picked.
pub fn bind(redirect: &Url, any_port: bool) -> io::Result<Callback> {
    let wanted = redirect.port_or_known_default().unwrap_or(0);
    let main = match redirect.host() {
        Some(Host::Ipv6(_)) => SocketAddr::from((Ipv6Addr::LOCALHOST, wanted)),
        _ => SocketAddr::from((Ipv4Addr::LOCALHOST, wanted)),
    };
    let first = match TcpListener::bind(main) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && any_port => {
            TcpListener::bind((main.ip(), 0))
        }
        bound => bound,
    }?;
    let port = first.local_addr()?.port();
    let mut listeners = vec![first];
    if redirect.host_str() == Some("localhost") {
        listeners.extend(TcpListener::bind((Ipv6Addr::LOCALHOST, port)));
    }
    let mut redirect = redirect.clone();
    // A http address has a port.
    let _ = redirect.set_port(Some(port));
    Ok(Callback { redirect, listeners })
}

impl Callback {
    /// Waits until the browser comes back with the answer to this login. Whatever else comes is told so,
    /// and changes nothing.
    ///
    /// # Errors
    ///
    /// When the login was refused, or nothing can be listened to.
    pub async fn answer(self, login: Arc<Authorization>) -> Result<Code, Refusal> {
        let (answers, mut answered) = mpsc::channel(1);
        let waiting = Data::new(Waiting { login, answers });
        let path = self.redirect.path().to_owned();
        let mut server = HttpServer::new(move || {
            App::new()
                .app_data(waiting.clone())
                .route(&path, web::get().to(comes_back))
                .default_service(web::to(elsewhere))
        })
        .workers(1)
        .disable_signals()
        .shutdown_timeout(1);
        for listener in self.listeners {
            server = server
                .listen(listener)
                .map_err(|error| Refusal::Denied(format!("the callback cannot listen: {error}")))?;
        }
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        let answer = answered.recv().await.unwrap_or(Err(Refusal::NoCode));
        // Gracefully: the page that thanks is still being sent.
        handle.stop(true).await;
        answer
    }
}

async fn comes_back(request: HttpRequest, waiting: Data<Waiting>) -> HttpResponse {
    let (status, text, answer) = match waiting.login.answer(request.query_string()) {
        Ok(code) => {
            (StatusCode::OK, "You are logged in. This page can be closed.".to_owned(), Ok(code))
        }
        Err(refusal @ Refusal::Denied(_)) => (StatusCode::OK, refusal.to_string(), Err(refusal)),
        Err(refusal) => return page(StatusCode::BAD_REQUEST, &refusal.to_string()),
    };
    // A second answer finds nobody who waits, which is fine.
    let _ = waiting.answers.try_send(answer);
    page(status, &text)
}

async fn elsewhere() -> HttpResponse {
    page(StatusCode::NOT_FOUND, "There is nothing here.")
}

fn page(status: StatusCode, text: &str) -> HttpResponse {
    let text = escape(text);
    HttpResponse::build(status)
        .content_type("text/html; charset=utf-8")
        .insert_header(("content-security-policy", "default-src 'none'; frame-ancestors 'none'"))
        .insert_header(("referrer-policy", "no-referrer"))
        .insert_header(("cache-control", "no-store"))
        .body(format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>ocx</title><p>{text}</html>"
        ))
}
