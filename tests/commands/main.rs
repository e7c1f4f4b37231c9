//! The command line as a person uses it: `ocx` as a process, beside scripted upstreams.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "../support/mod.rs"]
mod support;

mod doctor;
mod explain;
mod lifecycle;
mod providers;
mod verify;

use std::{
    process::Output,
    sync::atomic::{AtomicU16, Ordering::SeqCst},
};

/// A port that nobody has, and that the system gives to nobody who does not ask for it: ports of its own
/// choice, which other tests' connections have, are higher.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, SeqCst)) % 10_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// All that a command said.
fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}
