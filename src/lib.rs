//! ocx
pub mod actors;
pub mod adapters;
pub mod config;
pub mod credentials;
pub mod model;
pub mod registry;
pub mod responses;
pub mod routing;
pub mod telemetry;
pub mod upstream;
pub mod wire;
