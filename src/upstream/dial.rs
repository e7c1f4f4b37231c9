//! The TCP side of awc, which lacks a setting for `TCP_NODELAY`: without it, small requests wait
//! for the other side's delayed acknowledgement, some 40 ms.

use std::{future::Future, pin::Pin};

use actix_rt::net::TcpStream;
use actix_service::Service;
use actix_tls::connect::{
    ConnectError, ConnectInfo, Connection, Connector, ConnectorService, Resolver,
};
use awc::http::Uri;

/// Connects, and turns Nagle's algorithm off.
#[derive(Clone)]
pub(super) struct Dial {
    tcp: ConnectorService,
}

impl Default for Dial {
    fn default() -> Self {
        Self { tcp: Connector::new(Resolver::default()).service() }
    }
}

impl Service<ConnectInfo<Uri>> for Dial {
    type Response = Connection<Uri, TcpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    actix_service::always_ready!();

    fn call(&self, to: ConnectInfo<Uri>) -> Self::Future {
        let tcp = self.tcp.clone();
        Box::pin(async move {
            let connection = tcp.call(to).await?;
            connection.io_ref().set_nodelay(true).map_err(ConnectError::Io)?;
            Ok(connection)
        })
    }
}
