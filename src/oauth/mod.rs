//! Logging in to accounts, and renewing what a login brought: the `oauth2` crate over our own HTTP
//! client.
//!
//! [`Server`] is one authorisation server; [`Authorization`] a login by browser in progress;
//! [`refresh()`] the protocol that renews a token once, however many want it, and loses as little as
//! can be when something dies in between.
//! Sources: RFC 6749, 7636 (PKCE), 8252 (loopback), 8628 (device); our notes on each vendor.

mod authorization;
mod grant;
mod http;
mod refresh;
mod server;

pub use authorization::{Authorization, Code, Refusal};
pub use grant::{Grant, Identity};
pub use refresh::{RefreshError, Renewed, Why, refresh};
pub use server::{DeviceLogin, LoginError, Server, login_reach};
