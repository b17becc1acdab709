//! The BGP engine of one speaker, without I/O.

pub mod attributes;
pub mod codec;
pub mod config;
pub mod engine;
pub mod message;
mod policy;
pub mod query;
mod rib;
pub mod session;
pub mod types;
