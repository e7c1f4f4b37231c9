//! Who may come in. Everything here is decided on raw headers, before a body is read.
//!
//! A web page can reach a loopback port: by DNS rebinding (then `Host` is not ours), by a cross-site
//! request (then `Origin` or `Sec-Fetch-Site` says so, or the content type is one that forms can
//! send). Nothing derived from `Forwarded` or `X-Forwarded-*` counts: such a page may set those.

use std::net::IpAddr;

use crate::config::{Access, DataKey};

/// What a route demands of those who call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthClass {
    /// Anybody who can reach us: it tells nothing.
    Public,
    /// Callers of models. Beyond loopback, a data key.
    Data,
    /// Those who watch. Beyond loopback, a data key or the admin token.
    Observe,
    /// The operator: always the admin token.
    Admin,
}

/// The rules that hold now.
#[derive(Debug)]
pub struct Policy<'p> {
    /// Keys, hosts and origins.
    pub access: &'p Access,
    /// The token of the management API.
    pub admin: &'p DataKey,
    /// Where we listen.
    pub host: IpAddr,
    /// The port we listen on.
    pub port: u16,
}

/// What a request says about where it comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'r> {
    /// Whether it may change something.
    pub unsafe_method: bool,
    /// A CORS preflight.
    pub preflight: bool,
    /// The `Host` headers, first and second.
    pub hosts: [Option<&'r str>; 2],
    /// The authority in the request target, if it has one.
    pub authority: Option<&'r str>,
    /// `Origin`.
    pub origin: Option<&'r str>,
    /// `Sec-Fetch-Site`.
    pub fetch_site: Option<&'r str>,
    /// `Content-Type`.
    pub content_type: Option<&'r str>,
    /// The query.
    pub query: &'r str,
    /// `x-opencodex-api-key`, else the bearer token.
    pub key: Option<&'r str>,
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It is addressed to somebody else.
    #[error("this host name is not ours; add it to `allowedHosts` if it should be")]
    Host,
    /// It comes from a web page that may not call us.
    #[error("requests from this web origin are not allowed")]
    Origin,
    /// Its body is not declared to be JSON.
    #[error("the content-type must be application/json")]
    ContentType,
    /// It carries a key where logs would see it.
    #[error("keys do not belong into the URL; send a header")]
    KeyInUrl,
    /// It carries no key, or a wrong one.
    #[error("a valid key is required, in x-opencodex-api-key, in x-api-key or as a bearer token")]
    Key,
}

impl Rejection {
    /// HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::Host => 421,
            Self::Origin => 403,
            Self::ContentType => 415,
            Self::KeyInUrl => 400,
            Self::Key => 401,
        }
    }

    /// Label of `ocx_rejected_total`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Host => "bad_host",
            Self::Origin => "bad_origin",
            Self::ContentType => "content_type",
            Self::KeyInUrl => "key_in_url",
            Self::Key => "unauthorized",
        }
    }
}

impl Policy<'_> {
    /// Lets a request in, or says why not.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub fn admit(&self, facts: &Facts<'_>, class: AuthClass) -> Result<(), Rejection> {
        self.host(facts)?;
        self.origin(facts, class)?;
        if facts.preflight {
            return Ok(());
        }
        if facts.unsafe_method && !is_json(facts.content_type) {
            return Err(Rejection::ContentType);
        }
        let named = |pair: &str, name: &str| pair.split('=').next() == Some(name);
        let secret = |pair: &str| ["key", "token", "api_key"].iter().any(|name| named(pair, name));
        if facts.query.split('&').any(secret) {
            return Err(Rejection::KeyInUrl);
        }
        self.key(facts, class)
    }

    /// Whether a value is one of our own keys, which must never be sent on.
    pub fn is_ours(&self, value: &str) -> bool {
        self.admin.matches(value) | self.is_data_key(value)
    }

    fn host(&self, facts: &Facts<'_>) -> Result<(), Rejection> {
        let [Some(host), None] = facts.hosts else {
            return Err(Rejection::Host);
        };
        let name = host_name(host).ok_or(Rejection::Host)?;
        if facts.authority.is_some_and(|authority| host_name(authority) != Some(name.clone())) {
            return Err(Rejection::Host);
        }
        // A page cannot be served from the address that we listen on.
        let ours = name.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip == self.host);
        let known = ours || is_loopback_name(&name) || self.access.allowed_hosts.contains(&name);
        // Beyond loopback every route that tells anything takes a key, which a page does not have.
        if known || !self.host.is_loopback() { Ok(()) } else { Err(Rejection::Host) }
    }

    fn origin(&self, facts: &Facts<'_>, class: AuthClass) -> Result<(), Rejection> {
        match facts.origin {
            Some(origin) if self.allows_origin(origin, class) => Ok(()),
            Some(_) => Err(Rejection::Origin),
            None if facts.fetch_site == Some("cross-site") => Err(Rejection::Origin),
            None => Ok(()),
        }
    }

    /// Whether a page of this origin may call us: our own pages everything, those that the config
    /// names the models only.
    fn allows_origin(&self, origin: &str, class: AuthClass) -> bool {
        let origin = origin.to_ascii_lowercase();
        let own = origin
            .strip_prefix("http://")
            .and_then(|rest| rest.rsplit_once(':'))
            .is_some_and(|(host, port)| {
                port == self.port.to_string()
                    && host_name(host).is_some_and(|h| is_loopback_name(&h))
            });
        own || (class == AuthClass::Data && self.access.allowed_origins.contains(&origin))
    }

    fn key(&self, facts: &Facts<'_>, class: AuthClass) -> Result<(), Rejection> {
        let presented = facts.key.unwrap_or_default();
        let open = self.host.is_loopback() && !self.access.require_key_on_loopback;
        let admitted = match class {
            AuthClass::Public => true,
            AuthClass::Data => open || self.is_data_key(presented),
            AuthClass::Observe => {
                open || self.is_data_key(presented) | self.admin.matches(presented)
            }
            AuthClass::Admin => self.admin.matches(presented),
        };
        if admitted { Ok(()) } else { Err(Rejection::Key) }
    }

    fn is_data_key(&self, presented: &str) -> bool {
        // No early exit: how long it takes tells nothing.
        self.access.data_keys.iter().fold(false, |found, key| found | key.matches(presented))
    }
}

fn is_json(content_type: Option<&str>) -> bool {
    content_type
        .and_then(|value| value.split(';').next())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("application/json"))
}

fn is_loopback_name(name: &str) -> bool {
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// The host of `host[:port]`, lower case, without a trailing dot; nothing if it is not plainly that.
fn host_name(text: &str) -> Option<String> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inside, after) = rest.split_once(']')?;
            let legal = inside.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
            let port = if after.is_empty() { None } else { Some(after.strip_prefix(':')?) };
            (legal.then(|| format!("[{inside}]"))?, port)
        }
        None => {
            let (name, port) = match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            };
            let legal =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            (name.bytes().all(legal).then(|| name.to_owned())?, port)
        }
    };
    let sound_port = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let name = name.strip_suffix('.').unwrap_or(&name).to_ascii_lowercase();
    (sound_port && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access {
            data_keys: vec![DataKey::new("data-1"), DataKey::new("data-2")],
            allowed_hosts: vec!["box.lan".into()],
            allowed_origins: vec!["https://tools.example".into()],
            ..Access::default()
        }
    }

    fn admit(host: &str, facts: Facts<'_>, class: AuthClass) -> Result<(), Rejection> {
        let (access, admin) = (access(), DataKey::new("admin"));
        let policy =
            Policy { access: &access, admin: &admin, host: host.parse().unwrap(), port: 10100 };
        policy.admit(&facts, class)
    }

    fn to(host: &str) -> Facts<'_> {
        Facts { hosts: [Some(host), None], ..Facts::default() }
    }

    const LOOPBACK: &str = "127.0.0.1";

    #[test]
    fn t01_dns_rebinding_is_turned_away() {
        for good in
            ["localhost", "LOCALHOST:1", "127.0.0.1:10100", "[::1]:7", "localhost.", "box.lan"]
        {
            assert_eq!(admit(LOOPBACK, to(good), AuthClass::Data), Ok(()), "{good}");
        }
        for evil in [
            "evil.com",
            "localhost.evil.com",
            "127.0.0.1.nip.io",
            "localhost@evil",
            "evil#localhost",
            "[::ffff:7f00:1]",
            "0",
            "0.0.0.0",
            "",
            "localhost:99999",
            "localhost:",
            "local host",
            "[::1",
            "127.0.0.1/x",
            "localhost,evil",
        ] {
            assert_eq!(
                admit(LOOPBACK, to(evil), AuthClass::Public),
                Err(Rejection::Host),
                "{evil}"
            );
        }
        // The address that it listens on, and no other of this machine.
        assert_eq!(admit("127.0.0.2", to("127.0.0.2:10100"), AuthClass::Data), Ok(()));
        assert_eq!(admit(LOOPBACK, to("127.0.0.2"), AuthClass::Data), Err(Rejection::Host));
        let two = Facts { hosts: [Some("localhost"), Some("localhost")], ..Facts::default() };
        assert_eq!(admit(LOOPBACK, two, AuthClass::Public), Err(Rejection::Host));
        assert_eq!(admit(LOOPBACK, Facts::default(), AuthClass::Public), Err(Rejection::Host));
        let target = Facts { authority: Some("evil.com"), ..to("localhost") };
        assert_eq!(admit(LOOPBACK, target, AuthClass::Public), Err(Rejection::Host));
    }

    #[test]
    fn t02_t03_pages_of_other_origins_are_turned_away() {
        let json = Some("application/json; charset=utf-8");
        let post = Facts { unsafe_method: true, content_type: json, ..to("localhost") };
        assert_eq!(admit(LOOPBACK, post, AuthClass::Data), Ok(()));
        for origin in ["http://localhost:10100", "http://127.0.0.1:10100", "https://tools.example"]
        {
            let facts = Facts { origin: Some(origin), fetch_site: Some("cross-site"), ..post };
            assert_eq!(admit(LOOPBACK, facts, AuthClass::Data), Ok(()), "{origin}");
        }
        let tools = Facts { origin: Some("https://tools.example"), ..post };
        for class in [AuthClass::Public, AuthClass::Observe, AuthClass::Admin] {
            assert_eq!(admit(LOOPBACK, tools, class), Err(Rejection::Origin), "{class:?}");
        }
        for origin in [
            "https://evil",
            "null",
            "http://localhost:3000",
            "http://localhost.evil:10100",
            "chrome-extension://x",
            "https://localhost:10100",
            "http://localhost",
        ] {
            let facts = Facts { origin: Some(origin), ..post };
            assert_eq!(admit(LOOPBACK, facts, AuthClass::Data), Err(Rejection::Origin), "{origin}");
        }
        let hidden = Facts { fetch_site: Some("cross-site"), ..to("localhost") };
        assert_eq!(admit(LOOPBACK, hidden, AuthClass::Public), Err(Rejection::Origin));
        for simple in [Some("text/plain"), None, Some("multipart/form-data")] {
            let facts = Facts { content_type: simple, ..post };
            assert_eq!(admit(LOOPBACK, facts, AuthClass::Data), Err(Rejection::ContentType));
        }
    }

    #[test]
    fn t11_each_class_takes_its_own_keys() {
        let with = |key| Facts { key: Some(key), ..to("localhost") };
        let beyond = "0.0.0.0";
        for (class, admitted) in [
            (AuthClass::Public, vec!["", "x", "data-1", "data-2", "admin"]),
            (AuthClass::Data, vec!["data-1", "data-2"]),
            (AuthClass::Observe, vec!["data-1", "data-2", "admin"]),
            (AuthClass::Admin, vec!["admin"]),
        ] {
            for key in ["", "x", "data-1", "data-2", "admin"] {
                let expected = if admitted.contains(&key) { Ok(()) } else { Err(Rejection::Key) };
                assert_eq!(admit(beyond, with(key), class), expected, "{class:?} {key}");
            }
        }
        assert_eq!(admit(LOOPBACK, to("localhost"), AuthClass::Data), Ok(()));
        assert_eq!(admit(LOOPBACK, to("localhost"), AuthClass::Admin), Err(Rejection::Key));
    }

    #[test]
    fn t61_a_key_in_the_url_is_refused() {
        for query in ["key=1", "a=b&token=x", "api_key"] {
            let facts = Facts { query, ..to("localhost") };
            assert_eq!(
                admit(LOOPBACK, facts, AuthClass::Data),
                Err(Rejection::KeyInUrl),
                "{query}"
            );
        }
        let facts = Facts { query: "client_version=0.169.0&keyboard=1", ..to("localhost") };
        assert_eq!(admit(LOOPBACK, facts, AuthClass::Data), Ok(()));
    }
}
