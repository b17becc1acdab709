//! The BGP engine of one speaker, without I/O.

pub mod config;
pub mod types;
