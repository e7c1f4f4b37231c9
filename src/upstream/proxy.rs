//! Proxies: which one leads to a host, and the handshake with it.
//! Sources: RFC 9110 section 9.3.6 (CONNECT), RFC 1928 (SOCKS5).

use std::io;

use actix_rt::net::TcpStream;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_socks::tcp::Socks5Stream;

use crate::config::{ProxyChoice, is_loopback};

/// The longest answer to CONNECT, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// Decides for each host.
pub(super) struct Proxies {
    matcher: Option<Matcher>,
    /// The config names the proxy, so it is meant for whatever host.
    named: bool,
    /// Variables that mean to name a proxy, for `http` and for `https`, and cannot be understood.
    unusable: [Option<&'static str>; 2],
}

/// The variables that name the proxy of plain and of TLS connections, the first that is set.
const VARIABLES: [[&str; 4]; 2] = [
    ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
];

/// The variables of a proxy that is meant and cannot be understood. The matcher takes them for unset.
fn unusable(variable: impl Fn(&str) -> Option<String>) -> [Option<&'static str>; 2] {
    let understood = |value: &str| {
        let value = value.trim();
        let address =
            if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
        let uri = address.parse::<http::Uri>().ok();
        uri.is_some_and(|uri| {
            let known = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];
            uri.scheme_str().is_some_and(|scheme| known.contains(&scheme)) && uri.host().is_some()
        })
    };
    VARIABLES.map(|names| {
        names.into_iter().find(|name| {
            variable(name).is_some_and(|value| !value.trim().is_empty() && !understood(&value))
        })
    })
}

impl Proxies {
    pub fn new(choice: &ProxyChoice) -> Self {
        let (matcher, named) = match choice {
            ProxyChoice::Direct => (None, false),
            ProxyChoice::FromEnvironment => (Some(Matcher::from_env()), false),
            ProxyChoice::Through(address) => {
                (Some(Matcher::builder().all(address.clone()).build()), true)
            }
        };
        let unusable = match choice {
            ProxyChoice::FromEnvironment => unusable(|name| std::env::var(name).ok()),
            ProxyChoice::Direct | ProxyChoice::Through(_) => [None; 2],
        };
        Self { matcher, named, unusable }
    }

    /// The proxy for a host; none for this machine, whatever the environment says.
    ///
    /// # Errors
    ///
    /// When there is one and it is of a kind that we do not speak. It is never gone around.
    pub fn to(&self, https: bool, host: &str, port: u16) -> io::Result<Option<Proxy>> {
        let applies = |_: &&Matcher| self.named || !is_loopback(host);
        let Some(matcher) = self.matcher.as_ref().filter(applies) else {
            return Ok(None);
        };
        let scheme = if https { "https" } else { "http" };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let target = http::Uri::builder()
            .scheme(scheme)
            .authority(format!("{host}:{port}"))
            .path_and_query("/")
            .build();
        let target = target.map_err(io::Error::other)?;
        let Some(proxy) = matcher.intercept(&target).map(Proxy) else {
            let none = || io::Error::other("the `proxy` of this provider cannot be used");
            if let Some(name) = self.unusable[usize::from(https)] {
                let reason = format!("the proxy that {name} names cannot be used");
                return Err(io::Error::other(reason));
            }
            return if self.named { Err(none()) } else { Ok(None) };
        };
        match proxy.0.uri().scheme_str() {
            Some("http" | "socks5" | "socks5h") => Ok(Some(proxy)),
            other => {
                let kind = other.unwrap_or("nameless");
                Err(io::Error::other(format!(
                    "a {kind} proxy is not supported; use http://, socks5:// or socks5h://"
                )))
            }
        }
    }
}

/// A proxy, with what it wants to know who we are.
pub(super) struct Proxy(Intercept);

/// A proxy that does not lead on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proxy {proxy} does not lead on: {reason}")]
pub(super) struct ProxyError {
    /// Its host and port, no more.
    pub proxy: String,
    reason: String,
}

impl Proxy {
    /// Its host and port.
    pub fn address(&self) -> (String, u16) {
        let uri = self.0.uri();
        let default = if self.is_socks() { 1080 } else { 80 };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        (host, uri.port_u16().unwrap_or(default))
    }

    fn is_socks(&self) -> bool {
        self.0.uri().scheme_str().is_some_and(|scheme| scheme.starts_with("socks"))
    }

    /// Has the proxy, at the other end of `stream`, connect us to a host.
    pub async fn lead(&self, stream: TcpStream, host: &str, port: u16) -> io::Result<TcpStream> {
        let led = if self.is_socks() {
            self.socks(stream, host, port).await
        } else {
            self.connect(stream, host, port).await
        };
        led.map_err(|reason| {
            let (name, port) = self.address();
            io::Error::other(ProxyError { proxy: format!("{name}:{port}"), reason })
        })
    }

    async fn socks(&self, stream: TcpStream, host: &str, port: u16) -> Result<TcpStream, String> {
        let target = (host, port);
        let led = match self.0.raw_auth() {
            Some((user, password)) => {
                Socks5Stream::connect_with_password_and_socket(stream, target, user, password).await
            }
            None => Socks5Stream::connect_with_socket(stream, target).await,
        };
        led.map(Socks5Stream::into_inner).map_err(|error| error.to_string())
    }

    async fn connect(
        &self,
        mut stream: TcpStream,
        host: &str,
        port: u16,
    ) -> Result<TcpStream, String> {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\n");
        if let Some(auth) = self.0.basic_auth().and_then(|auth| auth.to_str().ok()) {
            request.push_str(&format!("proxy-authorization: {auth}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut head = Vec::new();
        loop {
            // Byte by byte: what comes after the head is not ours to read.
            let byte = stream.read_u8().await.map_err(|error| error.to_string())?;
            head.push(byte);
            if head.ends_with(b"\r\n\r\n") {
                break;
            }
            if head.len() > MAX_HEAD {
                return Err("its answer is too long".to_owned());
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        response.parse(&head).map_err(|error| format!("its answer is no HTTP: {error}"))?;
        match response.code {
            Some(200..=299) => Ok(stream),
            Some(status) => Err(format!("it answers {status}")),
            None => Err("its answer has no status".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(choice: &ProxyChoice, host: &str) -> io::Result<Option<(String, u16)>> {
        let proxy = Proxies::new(choice).to(true, host, 443)?;
        Ok(proxy.map(|proxy| proxy.address()))
    }

    #[test]
    fn a_named_proxy_is_used_for_every_host_and_never_gone_around() {
        let named = ProxyChoice::Through("http://u:p%40w@proxy.example:3128".into());
        for host in ["api.example.com", "localhost", "::1"] {
            assert_eq!(to(&named, host).unwrap(), Some(("proxy.example".into(), 3128)), "{host}");
        }
        assert_eq!(to(&ProxyChoice::Direct, "api.example.com").unwrap(), None);
        for odd in ["https://proxy", "socks4://proxy", "no address"] {
            let odd = ProxyChoice::Through(odd.into());
            assert!(to(&odd, "api.example.com").is_err(), "{odd:?}");
        }
    }

    #[test]
    fn a_proxy_of_the_environment_that_is_not_understood_is_no_reason_to_go_around_it() {
        let told = |set: &[(&str, &str)]| {
            let set: Vec<_> = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            unusable(|name| set.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
        };
        let good = [("HTTPS_PROXY", "proxy:3128"), ("http_proxy", "socks5h://u:p@proxy")];
        assert_eq!(told(&good), [None, None]);
        assert_eq!(told(&[("HTTPS_PROXY", "")]), [None, None]);
        let odd = [("HTTPS_PROXY", "http://u:p|w@proxy:3128"), ("http_proxy", "ftp://proxy")];
        assert_eq!(told(&odd), [Some("http_proxy"), Some("HTTPS_PROXY")]);
        let all = [("all_proxy", "ftp://proxy")];
        assert_eq!(told(&all), [Some("all_proxy"); 2]);
        let proxies = Proxies {
            matcher: Some(Matcher::builder().build()),
            named: false,
            unusable: told(&odd[..1]),
        };
        assert!(proxies.to(true, "api.example.com", 443).is_err());
        assert!(proxies.to(false, "api.example.com", 80).unwrap().is_none());
    }
}
