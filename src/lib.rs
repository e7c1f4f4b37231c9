//! ocx
pub mod adapters;
pub mod credentials;
pub mod model;
pub mod registry;
pub mod responses;
pub mod wire;
