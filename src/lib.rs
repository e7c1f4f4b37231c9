//! ocx
pub mod adapters;
pub mod config;
pub mod credentials;
pub mod model;
pub mod registry;
pub mod responses;
pub mod wire;
