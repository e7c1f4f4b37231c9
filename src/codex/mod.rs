//! Codex on this machine: the models it is told of, and its set-up, which can always be undone.

pub mod catalog;
pub mod setup;
mod undo;
mod wiring;

pub use setup::{Codex, Gateway, SetupError, Status};
