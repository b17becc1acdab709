//! Key material of peers: where it lies in memory, and how it travels.
//!
//! - [`Locked`]: a page of memory that is in no core dump and is wiped before it is given back;
//! - [`Receiver`], [`seal`]: for one receiver's eyes only, so that no buffer on the way (TLS, HTTP/2, gRPC)
//!   ever holds a key.

mod locked;
mod sealed;

pub use locked::Locked;
pub use sealed::{Opener, Receiver, SealError, Sealer, seal};

/// The most octets a key of a peer has.
pub const MOST: usize = 80;
/// How much longer a sealed key is.
pub const OVERHEAD: usize = 16;
