//! Bytes ⇄ messages. The only place that knows `rustbgpd-wire`.
//!
//! In reading order: [`next_message`] cuts the stream into messages; [`Update::decode`] finds the
//! parts of an UPDATE without looking at its path attributes; [`decode_attributes`] does that, for
//! attributes not seen before; [`encode_block`] and [`UpdateBuilder`] make UPDATEs.
//!
//! What a malformed message costs is in the types (RFC 7606 §2): a [`WireError`] resets the session
//! and holds the NOTIFICATION to send, an `Err` of [`decode_attributes`] treats the routes as
//! withdrawn, and [`Decoded::discarded`] lists attributes that were dropped alone.
//!
//! Prefixes are packed and unpacked here and not by the library: without an allocation a prefix,
//! straight from and to the connection's buffers.

mod attributes;
mod block;
mod build;
mod framing;
mod nlri;
mod open;
mod update;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::message::Notification;
use crate::types::Family;

pub use attributes::{Decoded, MOST_FAULTS, decode_attributes};
pub(crate) use block::{as_path_of_block, decode_next_hop, encode_next_hop};
pub use block::{decode_block, encode_block};
pub use build::{EncodeError, UpdateBuilder, encode_end_of_rib};
pub use framing::{encode_keepalive, encode_notification, encode_route_refresh, next_message};
pub use nlri::{Nlri, Prefixes4, Prefixes6};
pub use open::encode_open;
pub use update::{Announced, Update};

/// The longest message, in octets, header included. RFC 4271 §4.1.
pub const STANDARD_MESSAGE: u16 = 4096;

/// The longest message when both sides can do extended messages. RFC 8654 §4.
pub const EXTENDED_MESSAGE: u16 = 65535;

/// Marker, length and type. RFC 4271 §4.1.
const HEADER: usize = 19;

/// Types of messages. RFC 4271 §4.1, RFC 2918 §3.
mod kind {
    pub(super) const OPEN: u8 = 1;
    pub(super) const UPDATE: u8 = 2;
    pub(super) const NOTIFICATION: u8 = 3;
    pub(super) const KEEPALIVE: u8 = 4;
    pub(super) const ROUTE_REFRESH: u8 = 5;
}

/// Types of path attributes.
mod attribute {
    pub(super) const ORIGIN: u8 = 1;
    pub(super) const AS_PATH: u8 = 2;
    pub(super) const NEXT_HOP: u8 = 3;
    pub(super) const MED: u8 = 4;
    pub(super) const LOCAL_PREF: u8 = 5;
    pub(super) const ATOMIC_AGGREGATE: u8 = 6;
    pub(super) const AGGREGATOR: u8 = 7;
    pub(super) const COMMUNITIES: u8 = 8;
    pub(super) const ORIGINATOR_ID: u8 = 9;
    pub(super) const CLUSTER_LIST: u8 = 10;
    pub(super) const MP_REACH: u8 = 14;
    pub(super) const MP_UNREACH: u8 = 15;
    pub(super) const EXTENDED_COMMUNITIES: u8 = 16;
    pub(super) const AS4_PATH: u8 = 17;
    pub(super) const AS4_AGGREGATOR: u8 = 18;
    pub(super) const LARGE_COMMUNITIES: u8 = 32;
    pub(super) const ONLY_TO_CUSTOMER: u8 = 35;
}

/// Attribute flags. RFC 4271 §4.3.
mod flags {
    pub(super) const OPTIONAL: u8 = 0x80;
    pub(super) const TRANSITIVE: u8 = 0x40;
    pub(super) const PARTIAL: u8 = 0x20;
    pub(super) const EXTENDED: u8 = 0x10;
}

/// Subcodes of an UPDATE Message Error. RFC 4271 §6.3.
mod subcode {
    pub(super) const MALFORMED_ATTRIBUTE_LIST: u8 = 1;
    pub(super) const UNRECOGNIZED_WELL_KNOWN: u8 = 2;
    pub(super) const ATTRIBUTE_FLAGS: u8 = 4;
    pub(super) const ATTRIBUTE_LENGTH: u8 = 5;
    pub(super) const INVALID_NEXT_HOP: u8 = 8;
    pub(super) const OPTIONAL_ATTRIBUTE: u8 = 9;
    pub(super) const INVALID_NETWORK_FIELD: u8 = 10;
}

/// What the meaning of an UPDATE's bytes depends on: the outcome of the two OPENs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// The peer is in another AS.
    pub ebgp: bool,
    /// AS numbers have four octets. RFC 6793.
    pub four_octet_as: bool,
    /// Families that both sides speak; routes of others are ignored.
    pub families: FamilySet,
    /// Families whose routes may have an IPv6 next hop although they are not IPv6. RFC 8950.
    pub extended_next_hop: FamilySet,
    /// The longest message, in octets: [`STANDARD_MESSAGE`] or [`EXTENDED_MESSAGE`].
    pub max_message: u16,
}

/// A set of families.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FamilySet(u8);

impl FamilySet {
    /// Whether `family` is in it.
    pub fn contains(self, family: Family) -> bool {
        self.0 & FamilySet::bit(family) != 0
    }

    /// Those in it, in the order of [`Family::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Family> {
        let mut families = Family::ALL.into_iter();
        std::iter::from_fn(move || families.find(|family| self.contains(*family)))
    }

    fn bit(family: Family) -> u8 {
        match family {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        }
    }
}

impl FromIterator<Family> for FamilySet {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> FamilySet {
        FamilySet(
            families
                .into_iter()
                .map(FamilySet::bit)
                .fold(0, |a, b| a | b),
        )
    }
}

impl fmt::Debug for FamilySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A message that ends the session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{notification}: {reason}")]
pub struct WireError {
    /// What to tell the peer.
    pub notification: Notification,
    /// What was wrong, in words.
    pub reason: String,
}

impl WireError {
    fn new(notification: Notification, reason: impl Into<String>) -> WireError {
        WireError {
            notification,
            reason: reason.into(),
        }
    }
}

/// A part of an UPDATE that was malformed or not ours to read, and did not end the session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}: {reason}", attribute_name(*attribute))]
pub struct Fault {
    /// Type of the path attribute; 0 when there is none to name.
    pub attribute: u8,
    /// What was wrong with it, in words.
    pub reason: String,
}

impl Fault {
    fn new(attribute: u8, reason: impl Into<String>) -> Fault {
        Fault {
            attribute,
            reason: reason.into(),
        }
    }
}

/// A path attribute's name in the RFCs.
fn attribute_name(kind: u8) -> std::borrow::Cow<'static, str> {
    let name = match kind {
        0 => "UPDATE",
        attribute::ORIGIN => "ORIGIN",
        attribute::AS_PATH => "AS_PATH",
        attribute::NEXT_HOP => "NEXT_HOP",
        attribute::MED => "MULTI_EXIT_DISC",
        attribute::LOCAL_PREF => "LOCAL_PREF",
        attribute::ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
        attribute::AGGREGATOR => "AGGREGATOR",
        attribute::COMMUNITIES => "COMMUNITIES",
        attribute::ORIGINATOR_ID => "ORIGINATOR_ID",
        attribute::CLUSTER_LIST => "CLUSTER_LIST",
        attribute::MP_REACH => "MP_REACH_NLRI",
        attribute::MP_UNREACH => "MP_UNREACH_NLRI",
        attribute::EXTENDED_COMMUNITIES => "EXTENDED COMMUNITIES",
        attribute::AS4_PATH => "AS4_PATH",
        attribute::AS4_AGGREGATOR => "AS4_AGGREGATOR",
        attribute::LARGE_COMMUNITIES => "LARGE_COMMUNITY",
        attribute::ONLY_TO_CUSTOMER => "ONLY_TO_CUSTOMER",
        _ => return format!("attribute {kind}").into(),
    };
    name.into()
}

/// AFI and SAFI of a family. RFC 4760.
fn afi_safi(family: Family) -> (u16, u8) {
    match family {
        Family::Ipv4 => (1, 1),
        Family::Ipv6 => (2, 1),
    }
}

/// The family of an AFI and a SAFI, if it is one of ours.
fn family(afi: u16, safi: u8) -> Option<Family> {
    Family::ALL
        .into_iter()
        .find(|family| afi_safi(*family) == (afi, safi))
}
