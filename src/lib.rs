//! ocx: a gateway between coding agents and any LLM provider. Codex's Responses API comes first;
//! Chat Completions and Anthropic's Messages are served alike.
//!
//! Modules, in the order in which a call meets them:
//!
//! * [`cli`] starts everything.
//! * [`http`] takes a call in, checks who calls, and streams the answer out.
//! * [`callers`] reads the caller's protocol and writes it again.
//! * [`turn`] runs the call: [`routing`] finds the provider, whose actor ([`actors`]) lends a
//!   credential and a slot; an adapter ([`adapters`]) encodes; [`exchange`] sends it through
//!   [`upstream`] and decodes what comes back.
//! * [`model`] is the vocabulary they share, [`wire`] the framing, [`error`] the one table of errors.
//! * [`config`], [`registry`], [`credentials`], [`codex`] and [`telemetry`] are what their names say.
//!
//! # Rules that hold everywhere
//!
//! * Modules depend downwards only; `tests/house.rs` has the order and checks it.
//! * [`adapters`] and [`callers`] never see a socket, a clock, an actor or a config.
//! * Only [`upstream`] names awc, only [`http`] and [`cli`] name actix-web, only [`actors`] and
//!   [`cli`] name actix.
//! * Nothing outside an adapter's folder knows its wire types.
//! * Every stream ends with exactly one terminal event, and nothing is tried again after the caller
//!   has been given anything.

pub mod actors;
pub mod adapters;
pub mod callers;
pub mod cli;
pub mod codex;
pub mod config;
pub mod credentials;
pub mod error;
pub mod exchange;
pub mod http;
pub mod model;
pub mod oauth;
pub mod registry;
pub mod routing;
pub mod telemetry;
pub mod turn;
pub mod upstream;
pub mod wire;
