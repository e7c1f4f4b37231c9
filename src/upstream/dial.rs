//! The TCP side of awc: where a connection goes, through what, and whether it may.
//!
//! Names are resolved here, so that the address that is checked is the one that is dialled. awc also
//! lacks a setting for `TCP_NODELAY`: without it, small requests wait for the other side's delayed
//! acknowledgement, some 40 ms.

use std::{
    cell::Cell,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    time::{Duration, SystemTime},
};

use actix_rt::net::TcpStream;
use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use awc::http::Uri;

use super::{
    policy::{self, Denied},
    proxy::Proxies,
};
use crate::config::Reach;

/// How long one of several addresses may take.
const PER_ADDRESS: Duration = Duration::from_secs(3);

tokio::task_local! {
    /// When a connection was dialled for the call that runs, from and to.
    static DIALLED: Cell<Option<Dialled>>;
}

/// From when to when a connection was dialled.
pub type Dialled = (SystemTime, SystemTime);

/// Runs a call; beside what it gives, when a connection was dialled for it, if it was.
pub async fn watched<F: Future>(call: F) -> (F::Output, Option<Dialled>) {
    let call = async {
        let output = call.await;
        (output, DIALLED.with(Cell::take))
    };
    DIALLED.scope(Cell::new(None), call).await
}

/// Connects, and turns Nagle's algorithm off.
#[derive(Clone)]
pub(super) struct Dial {
    way: Rc<Way>,
}

struct Way {
    proxies: Proxies,
    private: bool,
}

impl Dial {
    pub fn new(reach: &Reach) -> Self {
        let way = Way { proxies: Proxies::new(&reach.proxy), private: reach.private };
        Self { way: Rc::new(way) }
    }
}

impl Way {
    async fn connect(&self, https: bool, host: &str, port: u16) -> io::Result<TcpStream> {
        let Some(proxy) = self.proxies.to(https, host, port)? else {
            return reach(host, port, self.private).await;
        };
        // A proxy is where the one says who runs us; what it leads to, it resolves itself.
        if let Ok(ip) = host.parse() {
            policy::check(ip, self.private).map_err(io::Error::other)?;
        }
        let (name, at) = proxy.address();
        let stream = reach(&name, at, true).await.map_err(|error| match error.get_ref() {
            // One that may not be dialled says so.
            Some(_) => error,
            // Or a person would look for the fault at the provider.
            None => {
                let message = format!("the proxy {name}:{at} is not reached: {error}");
                io::Error::new(error.kind(), message)
            }
        })?;
        proxy.lead(stream, host, port).await
    }
}

/// Resolves a name and connects to the first of its addresses that may be dialled and answers.
async fn reach(host: &str, port: u16, private: bool) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let last = addresses.len();
    for (n, address) in (1..).zip(addresses) {
        if let Err(denied) = policy::check(address.ip(), private) {
            failed = denied_error(denied, failed);
            continue;
        }
        // The whole is bounded elsewhere; one address that swallows packets must not use it up.
        let patience = if n < last { PER_ADDRESS } else { Duration::MAX };
        match actix_rt::time::timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failed)
}

/// That nobody answered says more than that another address was not asked.
fn denied_error(denied: Denied, failed: io::Error) -> io::Error {
    if failed.kind() == io::ErrorKind::NotFound { io::Error::other(denied) } else { failed }
}

impl Service<ConnectInfo<Uri>> for Dial {
    type Response = Connection<Uri, TcpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    actix_service::always_ready!();

    fn call(&self, to: ConnectInfo<Uri>) -> Self::Future {
        let way = Rc::clone(&self.way);
        Box::pin(async move {
            let uri = to.request().clone();
            let https = uri.scheme_str() != Some("http");
            let host = to.hostname().trim_matches(['[', ']']);
            let from = SystemTime::now();
            let connected = way.connect(https, host, to.port()).await;
            // Who does not watch does not want to know.
            let _ = DIALLED.try_with(|dialled| dialled.set(Some((from, SystemTime::now()))));
            let stream = connected.map_err(ConnectError::Io)?;
            stream.set_nodelay(true).map_err(ConnectError::Io)?;
            Ok(Connection::new(uri, stream))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn t21_the_address_that_a_name_resolves_to_is_what_counts() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let refused = reach("localhost", port, false).await.unwrap_err();
        let denied = refused.get_ref().and_then(|error| error.downcast_ref::<Denied>());
        assert!(matches!(denied, Some(Denied::Private(_))), "{refused}");
        assert!(reach("localhost", port, true).await.is_ok());
        let (_, caller) = listener.accept().await.unwrap();
        assert!(caller.ip().is_loopback(), "only the one that may");
        for disguised in ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "::ffff:127.0.0.1"] {
            assert!(reach(disguised, port, false).await.is_err(), "{disguised}");
        }
        let metadata = reach("169.254.169.254", 80, true).await.unwrap_err();
        assert!(metadata.to_string().contains("no provider may have"), "{metadata}");
    }
}
