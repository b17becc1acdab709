//! The BGP engine of one speaker, without I/O.

// Tests have to begin their clocks somewhere.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

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
