//! The whole gateway in this process, over real sockets, against scripted upstreams.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod app;
mod bad_input;
mod failures;
mod forward;
mod process;
mod reload;
mod supervision;
mod transport;
