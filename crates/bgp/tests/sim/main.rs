//! Several engines on a virtual network with a virtual clock.
//!
//! `net` is the network, `world` builds speakers and asks them what they know; the rest are tests:
//! of sessions (`sessions`), of what they are sent (`bad_input`), of what a person and a configuration
//! do to them (`operation`), of how much they may send (`limits`), of routes (`routes`, `convergence`,
//! `reflection`), and of what outlives a session (`graceful`).

// The whole of it is tests, and its clock has to begin somewhere.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod bad_input;
mod convergence;
mod graceful;
mod limits;
mod long_lived;
mod net;
mod operation;
mod reflection;
mod routes;
mod sessions;
mod world;
