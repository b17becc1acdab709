//! The BGP engine of one speaker, without I/O.

pub mod attributes;
pub mod config;
pub mod message;
pub mod types;
