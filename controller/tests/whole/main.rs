//! The real `routeshare-controller`, with speakers and operators that are made up here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod behaviour;
mod bench;
mod crash;
mod identity;
mod tunnel;
