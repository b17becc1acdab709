//! Our speaker against real BIRD 2, FRR and GoBGP, and against bytes no speaker would send.
//!
//! Needs root and the Debian packages bird2, frr and gobgpd; `cargo xtask test --only lab` installs
//! them, builds our programs and runs this.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]
mod bad_input;
mod between_two;
mod bfd;
mod capabilities;
mod cni;
mod deploy;
mod drivers;
mod each_daemon;
mod failover;
mod further_subnets;
mod graceful;
mod host;
mod host_side;
mod hostile;
mod kernel;
mod keys;
mod kills;
mod limits;
mod long_lived;
mod reflectors;
mod the_lab_itself;
mod tor;
mod ttl;
