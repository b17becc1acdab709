//! What the CNI plugin and the speaker share: files, and no I/O but these.
//!
//! - [`bridges`]: the rules of nftables that the host's bridges have in common, as data;
//! - [`ipam`]: where a network's addresses come from, checked;
//! - [`leases`]: which container holds which address;
//! - [`names`]: where containers ask for names;
//! - [`node`]: the node file, by which the plugin knows the node's subnets without asking anybody.
//! - [`spec`]: how a runtime talks to the plugin: configuration, environment, results, errors.

pub mod bridges;
pub mod ipam;
pub mod leases;
pub mod names;
pub mod node;
pub mod spec;

/// Where the plugin and the speaker keep what they share, unless told otherwise.
pub const DATA_DIR: &str = "/var/lib/routeshare/cni";
/// What the plugin's binary and `type` in a network configuration are called.
pub const PLUGIN: &str = "routeshare-cni";
/// The number that routes to pods carry (`proto` in `ip route`), by which DEL, GC and CHECK know them.
pub const ROUTE_PROTOCOL: u8 = 150;
/// The number that interfaces to pods, and bridges of them, have in common on the host (`group` in `ip link`), by
/// which the speaker's rules know them.
pub const INTERFACE_GROUP: u32 = 150;
