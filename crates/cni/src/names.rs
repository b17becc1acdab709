//! Where containers ask for names, on plain hosts: the two addresses that the speaker has on `lo`.
//!
//! They are the same on every node, and no packet from or to them leaves one: a container whose way out
//! leads through its host reaches the host's.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The resolver's IPv4 address, out of the link-local ones (RFC 3927), which no router forwards.
pub const ADDRESS4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The resolver's IPv6 address, out of the unique local ones (RFC 4193): a link-local one would need an
/// interface with it.
pub const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd72, 0x6f75, 0x7465, 0, 0, 0, 0, 0x53);
