//! The lab: machines made of network namespaces, cables between them, and real programs on them.
//!
//! Used by the tests under `tests/`, by `cargo xtask demo` and by the benchmarks. It needs root and
//! says so. Everything a lab makes is gone when it is dropped, also by a panic; what a killed run
//! left behind is removed by the next one.
//!
//! - [`Lab`] and [`Namespace`]: machines and cables;
//! - [`Daemon`]: a program that runs until it is dropped, with its log;
//! - [`wait_for`]: a condition with a deadline, which tells what was seen instead;
//! - [`speaker`]: our own speaker, [`controller`]: our own controller; [`bird`], [`frr`], [`gobgp`]: the others;
//! - [`cluster`]: a real Kubernetes API server, and ours with it;
//! - [`raw`]: a peer that says exactly the bytes it is told to; [`flood`]: one that never ends what it begins;
//! - [`FalseClock`]: a wall clock that is set while a program runs;
//! - [`cni`]: a machine with CNI plugins, and containers on it; [`containerd`]: a runtime that calls them;
//! - [`second_kernel`]: one with drivers that this machine's lacks;
//! - [`packages`]: the Debian packages that have to be there; [`modules`]: what is built from Go modules.

pub mod bird;
mod clock;
pub mod cluster;
pub mod cni;
pub mod containerd;
pub mod controller;
pub mod flood;
pub mod frr;
pub mod gobgp;
pub mod memory;
pub mod modules;
mod namespace;
pub mod packages;
mod ping;
mod process;
pub mod raw;
mod router;
pub mod second_kernel;
pub mod speaker;
mod wait;

pub use clock::FalseClock;
pub use namespace::{Entrance, Lab, Namespace, require_root};
pub use ping::Pinging;
pub use process::{Daemon, output, program};
pub use router::advertise;
pub use wait::{TimedOut, try_wait_for, wait_for};
