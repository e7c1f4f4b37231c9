//! The whole gateway in this process, over real sockets, against scripted upstreams.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod app;
mod bad_input;
mod combos;
mod compaction;
mod failures;
mod forward;
mod front_doors;
mod keys;
mod metamorphic;
mod metrics;
mod model_lists;
mod process;
mod proxies;
mod relay;
mod reload;
mod restarts;
mod supervision;
mod tls;
mod transport;
mod websocket;
