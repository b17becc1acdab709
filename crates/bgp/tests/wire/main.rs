//! Hostile and damaged bytes against a whole engine: they may cost the session that they came on,
//! and nothing else.
//!
//! `rig` is an engine with two sessions, driven by hand; the rest are tests.

#![allow(clippy::unwrap_used)] // the whole file is tests

mod hostile;
mod rig;
mod truthful;
