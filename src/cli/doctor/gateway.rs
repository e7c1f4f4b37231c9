//! The gateway that runs, or why none could.

use std::{io::ErrorKind, net::TcpListener};

use serde_json::Value;

use super::Finding;
use crate::{
    cli::gateway::local::{Local, Place},
    config::Home,
};

const AREA: &str = "gateway";

/// Looks at it. If it runs, also what it says of itself.
pub(super) fn examine(place: &Place, home: &Home) -> (Vec<Finding>, Option<Value>) {
    let find = async { Local::at(place.clone(), home).await?.look("/api/status").await };
    match actix_web::rt::System::new().block_on(find) {
        Ok(status) => (running(&status, place), Some(status)),
        Err(message) => (silent(place, &message), None),
    }
}

/// Why nobody answers.
fn silent(place: &Place, message: &str) -> Vec<Finding> {
    let address = place.address;
    match &place.instance {
        Some(one) if one.stopping => {
            let what = "it is stopping, and lets its streams end";
            vec![Finding::doubt(AREA, what, "`ocx start` when it has ended")]
        }
        Some(_) => {
            vec![Finding::bad(AREA, message, "look into its log, and start it anew")]
        }
        None => match TcpListener::bind(address) {
            Ok(_) => vec![Finding::doubt(AREA, "none of this home runs", "`ocx start` starts one")],
            Err(error) if error.kind() == ErrorKind::AddrInUse => vec![Finding::bad(
                AREA,
                format_args!("another program has {address}: {message}"),
                format!(
                    "end it, or set another `port` ({} is taken) and run `ocx start`",
                    address.port()
                ),
            )],
            Err(error) => vec![Finding::bad(
                AREA,
                format_args!("a gateway cannot listen on {address}: {error}"),
                "set another `port` or `hostname`",
            )],
        },
    }
}

fn running(status: &Value, place: &Place) -> Vec<Finding> {
    let version = status["version"].as_str().unwrap_or("?");
    let what = format!("ocx {version} answers at http://{}", place.address);
    let mut findings = vec![Finding::good(AREA, what)];
    let own = env!("CARGO_PKG_VERSION");
    if version != own {
        let what = format!("it is version {version}, and this program is {own}");
        findings.push(Finding::doubt(AREA, what, "`ocx restart`"));
    }
    if status["diverged"] == true {
        findings.push(Finding::bad(
            AREA,
            "the config file was changed, and what it says now does not run",
            "`ocx reload` says why",
        ));
    }
    let providers = status["providers"].as_array().into_iter().flatten();
    findings.extend(providers.filter_map(|provider| {
        let (id, state) = (provider["id"].as_str()?, provider["state"].as_str()?);
        let lacks =
            state.strip_prefix("needs: ").filter(|lacks| lacks.starts_with("the variable "))?;
        Some(Finding::bad(
            id,
            format_args!("for the gateway that runs, {lacks}"),
            "set it where the gateway is started, and restart it",
        ))
    }));
    findings
}
