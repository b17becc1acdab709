//! Bidirectional Forwarding Detection, without I/O: tells within milliseconds that the path to
//! another system no longer carries packets.
//!
//! The caller (`routeshare-bfd`) passes in the time and what arrived, and carries out what comes
//! back; see [`Engine`]. In reading order:
//!
//! - [`engine`]: all sessions of one system: which one a packet belongs to, what differs from the
//!   sessions wanted, whose timer is due;
//! - `session`: one session's states, timers and negotiation;
//! - [`packet`]: the Control packet's wire form;
//! - [`auth`]: keyed SHA-1;
//! - [`memory`]: what the next process needs to go on with a session;
//! - [`echo`]: the Echo function;
//! - `due`: deadlines, ordered without allocation.
//!
//! | RFC | what of it |
//! |---|---|
//! | 5880 §4, §6.3 | Control packets, demultiplexing by discriminator |
//! | 5880 §6.1, §6.2, §6.8.6 | all states; packets are judged in the order of §6.8.6 |
//! | 5880 §6.5, §6.8.2 to §6.8.4, §6.8.7 | Poll Sequences, intervals negotiated and jittered, 1 s while not Up |
//! | 5880 §6.6 | Demand mode of the other side is obeyed; we never ask for it |
//! | 5880 §6.7 | no authentication, Keyed SHA1, Meticulous Keyed SHA1 (MD5 and passwords are not offered) |
//! | 5880 §6.8.16 | a session that is taken away says so (AdminDown) for a while |
//! | 5881 | single hop: received TTL must be 255 |
//! | 5883 | multihop: told apart from single hop by its port |
//! | 5880 §6.4, §6.8.5, §6.8.8, §6.8.9 | the Echo function, relied on only once packets have come back; Control packets go on at their pace beside it (§6.8.3 would have them slowed down) |
//!
//! Once a session is configured, neither its packets nor its timers allocate memory.

// Tests have to begin their clocks somewhere.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod auth;
mod due;
pub mod echo;
pub mod engine;
pub mod memory;
pub mod packet;
mod session;

pub use auth::{AuthKind, Key};
pub use echo::{EchoStatus, EchoWire};
pub use engine::{
    Change, Datagram, Discard, Engine, Hops, Output, SessionConfig, SessionId, SessionKey, Status,
};
pub use memory::Memory;
pub use packet::{Diagnostic, Packet, State, Wire};
pub use session::Counts;
