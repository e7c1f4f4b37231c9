//! The gateway of this home, as other commands reach it.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::instance::{self, Instance};
use crate::{
    adapters::{HeaderText, Method, WireRequest},
    cli::args::Which,
    config::{
        self, ConfigFile, DEFAULT_PORT, DataKey, Home, KeySource, ProxyChoice, Reach, process_env,
    },
    http::{CHALLENGE, proof},
    upstream::{Network, Upstream, UpstreamResponse},
};

const TIMEOUT: Duration = Duration::from_secs(15);
const MAX_ANSWER: usize = 16 << 20;

/// A gateway that has proved to be ours.
pub(in crate::cli) struct Local {
    client: Upstream,
    /// Its address, without a path.
    pub base: String,
    /// The config as it is written, where it can be read.
    pub file: Option<ConfigFile>,
    token: SecretString,
}

impl Local {
    /// Finds it, by what running gateways of this home say or else by the config, and lets it prove that
    /// it knows the token before it is sent: the port may be somebody else's.
    ///
    /// # Errors
    ///
    /// When it does not run, in words.
    pub async fn find(which: &Which, home: &Home) -> Result<Self, String> {
        Self::at(Place::of(which, home), home).await
    }

    /// The one at a place, which proves who it is.
    ///
    /// # Errors
    ///
    /// When it does not run, in words.
    pub async fn at(place: Place, home: &Home) -> Result<Self, String> {
        let Place { address, file, instance, .. } = place;
        let token = token(file.as_ref(), home)?;
        let client = Upstream::new(&Network::new(TIMEOUT)).via(&local());
        let local = Self { client, base: format!("http://{address}"), file, token };
        local.verify(address.port()).await.map_err(|message| match instance {
            Some(one) => format!(
                "{message}, though process {} runs; `ocx logs` says what it does, `ocx restart --now` may help",
                one.pid
            ),
            None => format!("{message}; `ocx start` starts the gateway"),
        })?;
        Ok(local)
    }

    async fn verify(&self, port: u16) -> Result<(), String> {
        let random: [u8; 16] = rand::random();
        let nonce = hex::encode(random);
        let mut request = WireRequest::get(format!("{}/healthz", self.base));
        request.set(CHALLENGE, HeaderText::Plain(nonce.clone().into()));
        let health: Value = serde_json::from_slice(&self.ask(request).await?).unwrap_or_default();
        let expected = proof(&DataKey::new(self.token.expose_secret()), &nonce, port);
        if health["proof"].as_str() == Some(expected.as_str()) {
            return Ok(());
        }
        let base = &self.base;
        Err(format!(
            "what listens on {base} is not the ocx of this home, or has another admin token"
        ))
    }

    /// Sends a management call; its answer as JSON.
    ///
    /// # Errors
    ///
    /// When there is none, in words.
    pub async fn manage(&self, path: &str) -> Result<Value, String> {
        let mut request = WireRequest::post(format!("{}{path}", self.base), Vec::new());
        self.authorize(&mut request);
        let body = self.ask(request).await?;
        serde_json::from_slice(&body).map_err(|_| "the answer is no JSON".to_owned())
    }

    /// Asks as a client does, with a key of the config if it has one.
    ///
    /// # Errors
    ///
    /// When there is no good answer, in words.
    pub async fn get(&self, path: &str) -> Result<Value, String> {
        let mut request = WireRequest::get(format!("{}{path}", self.base));
        if let Some(key) = self.data_key() {
            request.set("x-opencodex-api-key", HeaderText::Secret(key));
        }
        let body = self.ask(request).await?;
        serde_json::from_slice(&body).map_err(|_| "the answer is no JSON".to_owned())
    }

    fn data_key(&self) -> Option<SecretString> {
        let keys = self.file.as_ref().and_then(|file| file.api_keys.as_ref());
        let mut written = keys.into_iter().flatten();
        written
            .find_map(|key| key.source().resolve(&process_env))
            .or_else(|| KeySource::Env(KEY_VARIABLE.to_owned()).resolve(&process_env))
    }

    /// Asks the management API; its answer as JSON.
    ///
    /// # Errors
    ///
    /// When there is no good answer, in words.
    pub async fn look(&self, path: &str) -> Result<Value, String> {
        let mut request = WireRequest::get(format!("{}{path}", self.base));
        self.authorize(&mut request);
        let body = self.ask(request).await?;
        serde_json::from_slice(&body).map_err(|_| "the answer is no JSON".to_owned())
    }

    /// Sends a call as a client does; its answer once its head has come.
    ///
    /// # Errors
    ///
    /// When there is none, in words.
    pub async fn post(
        &self,
        path: &str,
        body: &Value,
        timeout: Duration,
    ) -> Result<UpstreamResponse, String> {
        let mut request =
            WireRequest::post(format!("{}{path}", self.base), body.to_string().into_bytes());
        if let Some(key) = self.data_key() {
            request.set("x-opencodex-api-key", HeaderText::Secret(key));
        }
        self.client.open(request, timeout).await.map_err(|error| error.to_string())
    }

    fn authorize(&self, request: &mut WireRequest) {
        let bearer = format!("Bearer {}", self.token.expose_secret());
        request.set("authorization", HeaderText::Secret(bearer.into()));
    }

    async fn ask(&self, request: WireRequest) -> Result<Vec<u8>, String> {
        let (posts, url) = (request.method == Method::Post, request.url.clone());
        let mut response = self
            .client
            .open(request, TIMEOUT)
            .await
            .map_err(|_| format!("nothing answers at {url}"))?;
        let body = response.body.read_all(MAX_ANSWER).await.map_err(|error| error.to_string())?;
        let status = response.head.status;
        let expected = if posts { matches!(status, 200 | 409 | 422 | 500) } else { status == 200 };
        if expected {
            return Ok(body);
        }
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        match said["error"]["message"].as_str() {
            Some(message) => Err(format!("status {status}: {message}")),
            None => Err(format!("status {status}")),
        }
    }
}

/// Where a gateway is, or should be.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Place {
    /// For a client on this machine.
    pub address: SocketAddr,
    /// Its config as it is written, where it can be read. One that does not check still tells its port,
    /// mostly; the gateway says what is wrong.
    pub file: Option<ConfigFile>,
    /// Where that is.
    pub config: PathBuf,
    /// What it says of itself, if it runs.
    pub instance: Option<Instance>,
}

fn read(config: &Path) -> Option<ConfigFile> {
    serde_json::from_str(&config::current(config).ok()?).ok()
}

fn port(file: Option<&ConfigFile>) -> u16 {
    file.and_then(|file| file.port).unwrap_or(DEFAULT_PORT)
}

/// The port that a config names.
pub(in crate::cli) fn written_port(config: &Path) -> u16 {
    port(read(config).as_ref())
}

impl Place {
    /// Of the gateway that a command means.
    pub fn of(which: &Which, home: &Home) -> Self {
        let config = which.config.clone().unwrap_or_else(|| home.config());
        let file = read(&config);
        let written = port(file.as_ref());
        let running = instance::running(home);
        let on = |port: u16| running.iter().find(|one| one.port() == port);
        let instance = match (which.port, &which.config) {
            (Some(port), _) => on(port),
            (None, Some(_)) => {
                let whole = std::path::absolute(&config).unwrap_or_else(|_| config.clone());
                // Of several with this config, the one that it means.
                let of = |one: &&Instance| one.config == whole;
                on(written).filter(of).or_else(|| running.iter().find(of))
            }
            (None, None) => match running.as_slice() {
                // Where several run, the one that the config means.
                [one] => Some(one),
                _ => on(written),
            },
        };
        let Some(instance) = instance.cloned() else {
            let port = which.port.unwrap_or(written);
            return Self {
                address: SocketAddr::new(host(file.as_ref()), port),
                file,
                config,
                instance: None,
            };
        };
        let theirs = which.config.is_none() && instance.config != config;
        let config = if theirs { instance.config.clone() } else { config };
        Self {
            address: SocketAddr::new(config::reachable(instance.address.ip()), instance.port()),
            file: if theirs { read(&config) } else { file },
            config,
            instance: Some(instance),
        }
    }
}

/// The variable that holds a key of callers.
pub(in crate::cli) const KEY_VARIABLE: &str = "OPENCODEX_API_AUTH_TOKEN";

/// A gateway of this machine, or of its network.
fn local() -> Reach {
    Reach { proxy: ProxyChoice::Direct, private: true }
}

/// Where a gateway with this config can be reached from here.
fn host(file: Option<&ConfigFile>) -> IpAddr {
    let written = file.and_then(|file| file.hostname.as_deref());
    let address = written.and_then(config::parse_host).unwrap_or(config::Listen::default().host);
    config::reachable(address)
}

fn token(file: Option<&ConfigFile>, home: &Home) -> Result<SecretString, String> {
    let configured = file
        .and_then(|file| file.admin_token.as_ref())
        .and_then(|token| token.source().resolve(&process_env))
        .or_else(|| KeySource::Env("OPENCODEX_ADMIN_AUTH_TOKEN".to_owned()).resolve(&process_env));
    if let Some(token) = configured {
        return Ok(token);
    }
    let path = home.admin_token();
    std::fs::read_to_string(&path).map(|text| text.trim().into()).map_err(|error| {
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                format!(
                    "ocx was never started in this home (there is no {}); `ocx start` does that",
                    path.display()
                )
            }
            _ => format!("{}: {error}", path.display()),
        }
    })
}
