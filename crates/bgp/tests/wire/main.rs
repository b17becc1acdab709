//! Hostile and damaged bytes against a whole engine: they may cost the session that they came on,
//! and nothing else.
//!
//! `rig` is an engine with two sessions, driven by hand; the rest are tests.

// The whole of it is tests, and its clock has to begin somewhere.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod hostile;
mod rig;
mod slow;
mod truthful;
