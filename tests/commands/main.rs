//! The command line as a person uses it: `ocx` as a process, beside scripted upstreams.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "../support/mod.rs"]
mod support;

mod doctor;
mod explain;
mod lifecycle;
mod providers;
mod verify;

use std::process::Output;

/// A port that nobody has right now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// All that a command said.
fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}
