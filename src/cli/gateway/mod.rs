//! The gateway as a process: run it, find it, start and stop it in the background, and look at it.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::{codex::Codex, config::Home};

pub(in crate::cli) mod instance;
pub(in crate::cli) mod local;
pub(in crate::cli) mod logs;
pub(in crate::cli) mod restart;
pub(in crate::cli) mod serve;
pub(in crate::cli) mod start;
pub(in crate::cli) mod status;
pub(in crate::cli) mod stop;

use instance::Instance;

/// How long a listener may take to answer a knock.
const KNOCK: Duration = Duration::from_millis(300);

/// Whether anybody listens at an address.
fn is_taken(address: &SocketAddr) -> bool {
    TcpStream::connect_timeout(address, KNOCK).is_ok()
}

fn stopping(one: &Instance) -> String {
    let (base, pid) = (one.base(), one.pid);
    format!("the gateway at {base} (process {pid}) is stopping: start again when it has ended")
}

/// Whether Codex asks this gateway.
fn leads_codex(one: &Instance, home: &Home) -> bool {
    let status = Codex::find(home.path()).status().ok().filter(|status| status.installed);
    status.and_then(|status| status.base_url).is_some_and(|url| one.is_at(&url))
}

/// Why there is no gateway on a port, or none at all.
fn none_on(port: Option<u16>, running: &[Instance]) -> String {
    let ports: Vec<_> = running.iter().map(|one| one.port().to_string()).collect();
    match port {
        Some(port) if !ports.is_empty() => {
            format!("none of this home runs on port {port}, but on {}", ports.join(", "))
        }
        _ => "no gateway of this home runs; `ocx start` starts one".to_owned(),
    }
}
