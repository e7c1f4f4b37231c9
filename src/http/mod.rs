//! The HTTP face: routes, access, bodies in and streams out.

mod access;
mod body;
mod callback;
mod calls;
mod compact;
mod count_tokens;
mod failure;
mod gateway;
mod health;
mod manage;
mod models;
mod overhead;
mod record;
mod routes;
mod server;
mod status_page;
mod stream;
mod websocket;

pub use access::{AuthClass, Policy};
pub use body::decompress;
pub use callback::{Callback, bind as bind_callback};
pub use gateway::{Lifecycle, Shared};
pub use health::{CHALLENGE, proof};
pub use routes::{ROUTES, RouteRule};
pub use server::{Listening, serve};
