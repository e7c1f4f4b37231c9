//! The way to an upstream: through which proxy, and to which kind of address.

use std::{fmt, net::IpAddr};

use url::{Host, Url};

/// How the hosts of a provider are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reach {
    /// Through what.
    pub proxy: ProxyChoice,
    /// Whether they may be in a private network, or this machine.
    pub private: bool,
}

/// A proxy for a provider's connections.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub enum ProxyChoice {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    #[default]
    FromEnvironment,
    /// None.
    Direct,
    /// This one: `http://`, `socks5://` or `socks5h://`, with a user and password perhaps.
    Through(String),
}

impl fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromEnvironment => f.write_str("FromEnvironment"),
            Self::Direct => f.write_str("Direct"),
            // It may hold a password.
            Self::Through(_) => f.write_str("Through"),
        }
    }
}

const AMBIGUOUS: &str =
    "is ambiguous: percent-encode what is special in the user and password, and the host's name";

impl ProxyChoice {
    /// Reads what a config says: an address, or `direct`.
    ///
    /// # Errors
    ///
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "direct" {
            return Ok(Self::Direct);
        }
        let url = Url::parse(text).ok().filter(Url::has_host).ok_or("is no address")?;
        if !matches!(url.scheme(), "http" | "socks5" | "socks5h") {
            return Err("must begin with http://, socks5:// or socks5h://, or be `direct`");
        }
        // What is dialled is read by another parser: both must see the same.
        let uri: http::Uri = text.parse().map_err(|_| AMBIGUOUS)?;
        let port =
            |port: Option<u16>| port.unwrap_or(if url.scheme() == "http" { 80 } else { 1080 });
        if uri.host() != url.host_str() || port(uri.port_u16()) != port(url.port()) {
            return Err(AMBIGUOUS);
        }
        Ok(Self::Through(text.to_owned()))
    }
}

impl Reach {
    /// The same way, for an address that the config names itself: one that is plainly private may be.
    pub fn to(&self, address: &str) -> Self {
        let named = Url::parse(address).is_ok_and(|url| is_local(&url));
        Self { private: self.private || named, ..self.clone() }
    }
}

/// Loopback, private and link-local addresses, and names that only a local resolver knows.
pub(super) fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Some(Host::Ipv6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
        Some(Host::Domain(name)) => {
            !name.contains('.')
                || [".local", ".lan", ".internal", ".localhost", ".home.arpa"]
                    .iter()
                    .any(|suffix| name.ends_with(suffix))
        }
        None => false,
    }
}

/// Whether a host, as an address writes it, is this machine.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_matches(['[', ']']);
    bare == "localhost"
        || bare.ends_with(".localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_and_never_printed() {
        assert_eq!(ProxyChoice::parse("direct"), Ok(ProxyChoice::Direct));
        for good in ["http://proxy:3128", "socks5://u:p@127.0.0.1:1080", "socks5h://p"] {
            assert!(matches!(ProxyChoice::parse(good), Ok(ProxyChoice::Through(_))), "{good}");
        }
        for bad in [
            "https://proxy",
            "ftp://proxy",
            "proxy:3128",
            "",
            "http://u:p|w@proxy:1",
            "http://pröxy:1",
            "http:proxy:80",
        ] {
            assert!(ProxyChoice::parse(bad).is_err(), "{bad}");
        }
        let proxy = ProxyChoice::parse("http://user:secret@proxy:3128").unwrap();
        assert!(!format!("{proxy:?}").contains("secret"));
    }

    #[test]
    fn an_address_that_is_plainly_private_may_be() {
        let reach = Reach::default();
        for (address, private) in [
            ("http://192.168.1.20:8000/v1", true),
            ("http://localhost:11434/v1", true),
            ("http://ollama:11434", true),
            ("https://[fd00::1]/v1", true),
            ("https://api.example.com/v1", false),
        ] {
            assert_eq!(reach.to(address).private, private, "{address}");
        }
    }
}
