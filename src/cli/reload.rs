//! `ocx reload`: asks a running gateway to read its config now.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize as _;
use serde_json::Value;

use super::{ReloadArgs, say};
use crate::{
    adapters::{HeaderText, Method, WireRequest},
    config::{
        self, ConfigProblem, DEFAULT_PORT, DataKey, Home, KeySource, ProxyChoice, Reach,
        process_env,
    },
    http::{CHALLENGE, proof},
    upstream::{Network, Upstream},
};

const TIMEOUT: Duration = Duration::from_secs(15);
const MAX_ANSWER: usize = 1 << 20;

pub(super) fn run(args: &ReloadArgs, home: &Home) -> ExitCode {
    let path = args.config.clone().unwrap_or_else(|| home.config());
    let result = actix_web::rt::System::new().block_on(reload(args, &path, home));
    match result {
        Ok(answer) => report(&answer),
        Err(message) => {
            eprintln!("ocx reload: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn reload(args: &ReloadArgs, path: &Path, home: &Home) -> Result<Value, String> {
    // A file that does not check still tells its port, mostly; the gateway says what is wrong.
    let file = std::fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<config::ConfigFile>(&bytes).ok());
    let port = args.port.or(file.as_ref().and_then(|file| file.port)).unwrap_or(DEFAULT_PORT);
    let token = token(file.as_ref(), home)?;
    let base = format!("http://{}", SocketAddr::new(host(file.as_ref()), port));
    let client = Upstream::new(&Network::new(TIMEOUT)).via(&local());
    verify(&client, &base, port, &token).await?;

    let mut request = WireRequest::post(format!("{base}/api/config/reload"), Vec::new());
    let bearer = format!("Bearer {}", token.expose_secret());
    request.set("authorization", HeaderText::Secret(bearer.into()));
    let body = ask(&client, request).await?;
    serde_json::from_slice(&body).map_err(|_| "the answer is no JSON".to_owned())
}

/// A gateway of this machine, or of its network.
fn local() -> Reach {
    Reach { proxy: ProxyChoice::Direct, private: true }
}

/// Where a gateway with this config can be reached from here.
fn host(file: Option<&config::ConfigFile>) -> IpAddr {
    let written = file.and_then(|file| file.hostname.as_deref());
    let address = written.and_then(config::parse_host).unwrap_or(config::Listen::default().host);
    config::reachable(address)
}

fn token(file: Option<&config::ConfigFile>, home: &Home) -> Result<SecretString, String> {
    let configured = file
        .and_then(|file| file.admin_token.as_ref())
        .and_then(|token| token.source().resolve(&process_env))
        .or_else(|| KeySource::Env("OPENCODEX_ADMIN_AUTH_TOKEN".to_owned()).resolve(&process_env));
    if let Some(token) = configured {
        return Ok(token);
    }
    let path = home.admin_token();
    std::fs::read_to_string(&path)
        .map(|text| text.trim().into())
        .map_err(|error| format!("{}: {error}; is ocx running?", path.display()))
}

/// Lets the other side prove that it knows the token before it is sent: the port may be somebody
/// else's.
async fn verify(
    client: &Upstream,
    base: &str,
    port: u16,
    token: &SecretString,
) -> Result<(), String> {
    let random: [u8; 16] = rand::random();
    let nonce = hex::encode(random);
    let mut request = WireRequest::get(format!("{base}/healthz"));
    request.set(CHALLENGE, HeaderText::Plain(nonce.clone().into()));
    let health: Value = serde_json::from_slice(&ask(client, request).await?).unwrap_or_default();
    let expected = proof(&DataKey::new(token.expose_secret()), &nonce, port);
    if health["proof"].as_str() == Some(expected.as_str()) {
        return Ok(());
    }
    Err(format!("what listens on {base} is not the ocx of this home, or has another admin token"))
}

async fn ask(client: &Upstream, request: WireRequest) -> Result<Vec<u8>, String> {
    let posts = request.method == Method::Post;
    let url = request.url.clone();
    let mut response = client.open(request, TIMEOUT).await.map_err(|_| {
        format!("nothing answers at {url}; is ocx running, and on this port? (`--port N`)")
    })?;
    let body = response.body.read_all(MAX_ANSWER).await.map_err(|error| error.to_string())?;
    let status = response.head.status;
    if posts && !matches!(status, 200 | 409 | 422 | 500) {
        return Err(format!("status {status}"));
    }
    Ok(body)
}

fn report(answer: &Value) -> ExitCode {
    let result = answer["result"].as_str().unwrap_or("unknown");
    say(format_args!("{result}: generation {} runs", answer["generation"]));
    for problem in answer["problems"].as_array().into_iter().flatten() {
        match ConfigProblem::deserialize(problem) {
            Ok(problem) => eprintln!("{problem}"),
            Err(_) => eprintln!("{problem}"),
        }
    }
    for field in answer["restart_required"].as_array().into_iter().flatten() {
        eprintln!("{} takes effect at the next start only", field.as_str().unwrap_or_default());
    }
    if let Some(reason) = answer["reason"].as_str() {
        eprintln!("{reason}");
    }
    if matches!(result, "applied" | "unchanged") { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
