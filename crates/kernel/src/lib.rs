//! What we ask of Linux and hear from it: links, routes, nexthop objects.
//!
//! In reading order:
//!
//! - [`message`]: requests packed one behind the other, and answers taken apart;
//! - [`socket`]: a netlink socket; sends many requests at once and says which of them failed;
//! - [`link`], [`route`], [`nexthop`]: the three kinds of object, how each is written and read;
//! - [`veth`], [`virtual_link`], [`address`], [`neighbour`], [`rule`]: what attaches a container;
//! - [`lookup`]: which route the kernel would take to an address;
//! - [`list`]: everything there is of a kind, in bounded pieces;
//! - [`monitor`]: changes made by others; [`link_end`]: one of them;
//! - [`nft`]: a table of nftables, written in one transaction and listed back.
//!
//! Nothing here decides anything: what is ours, what is wanted and what follows from a change is
//! the caller's (`speaker/src/fib`). All calls block for as long as the kernel works and no longer;
//! none waits for an event but [`socket::wait`].

pub mod address;
pub mod link;
pub mod link_end;
pub mod list;
pub mod lookup;
pub mod message;
pub mod monitor;
pub mod neighbour;
pub mod netconf;
pub mod nexthop;
pub mod nft;
pub mod route;
pub mod rule;
pub mod socket;
pub mod veth;
pub mod virtual_link;

pub use address::Address;
pub use link::{Link, LinkChange, LinkDetails, Links, LinksError, Mac};
pub use message::Requests;
pub use monitor::{Event, Monitor};
pub use neighbour::Neighbour;
pub use netconf::NetconfMonitor;
pub use nexthop::{Group, NextHop, NextHopKind};
pub use nft::{Nft, NftError, NftMonitor};
pub use route::{Destination, Path, Route, RouteKind, Target};
pub use rule::SourceRule;
pub use socket::{Failure, Netlink, NetlinkError};
pub use virtual_link::{BridgePort, IpvlanMode, MacvlanMode, VirtualKind, VirtualLink};
