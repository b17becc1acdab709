//! The words of the engine: AS numbers, identifiers, families, prefixes, communities.
//!
//! Everything here is plain data; it is used by every other file of this crate and by its callers.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

/// An AS number of four octets, in network-independent form. RFC 6793.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Asn(pub u32);

impl Asn {
    /// Stands in a 2-octet field for an AS number that does not fit. RFC 6793 §9.
    pub const TRANS: Asn = Asn(23456);
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The BGP Identifier of a speaker: any nonzero 32-bit number, written as an IPv4 address. RFC 6286.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RouterId(pub Ipv4Addr);

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A configured peer, for as long as it is configured. Never used again for another within the
/// life of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// One TCP connection, for as long as the engine knows of it. Numbers below 2⁶³ are the engine's
/// (it asked for the connection), those above are the transport's (it accepted one).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// AFI and SAFI together. RFC 4760.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4 unicast (1, 1).
    #[serde(rename = "IPv4")]
    Ipv4,
    /// IPv6 unicast (2, 1).
    #[serde(rename = "IPv6")]
    Ipv6,
}

impl Family {
    /// Every family, in a fixed order.
    pub const ALL: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::Ipv4,
            IpAddr::V6(_) => Family::Ipv6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        })
    }
}

/// An IPv4 destination, host bits zero; eight bytes, ordered by address, then by length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix4(u64);

impl Prefix4 {
    /// `0.0.0.0/0`.
    pub const ALL: Prefix4 = Prefix4(0);

    /// The prefix of `length` bits (at most 32; more counts as 32) that holds `address`.
    pub fn new(address: Ipv4Addr, length: u8) -> Prefix4 {
        let length = length.min(32);
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        Prefix4(u64::from(u32::from(address) & mask) << 8 | u64::from(length))
    }

    /// The network address.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::from((self.0 >> 8) as u32)
    }

    /// Bits of the mask, 0 to 32.
    pub fn length(self) -> u8 {
        self.0 as u8
    }

    /// Whether `other` is this prefix or inside it.
    pub fn contains(self, other: Prefix4) -> bool {
        other.length() >= self.length() && Prefix4::new(other.address(), self.length()) == self
    }
}

impl fmt::Display for Prefix4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length())
    }
}

impl fmt::Debug for Prefix4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IPv6 destination, host bits zero; seventeen bytes, ordered by address, then by length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix6([u8; 17]);

impl Prefix6 {
    /// `::/0`.
    pub const ALL: Prefix6 = Prefix6([0; 17]);

    /// The prefix of `length` bits (at most 128; more counts as 128) that holds `address`.
    pub fn new(address: Ipv6Addr, length: u8) -> Prefix6 {
        let length = length.min(128);
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        let mut bytes = [0; 17];
        bytes[..16].copy_from_slice(&(u128::from(address) & mask).to_be_bytes());
        bytes[16] = length;
        Prefix6(bytes)
    }

    /// The network address.
    pub fn address(self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.0[..16]);
        Ipv6Addr::from(octets)
    }

    /// Bits of the mask, 0 to 128.
    pub fn length(self) -> u8 {
        self.0[16]
    }

    /// Whether `other` is this prefix or inside it.
    pub fn contains(self, other: Prefix6) -> bool {
        other.length() >= self.length() && Prefix6::new(other.address(), self.length()) == self
    }
}

impl fmt::Display for Prefix6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length())
    }
}

impl fmt::Debug for Prefix6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A destination of either family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prefix {
    /// IPv4.
    V4(Prefix4),
    /// IPv6.
    V6(Prefix6),
}

impl Prefix {
    /// The prefix of `length` bits that holds `address`; a length beyond the family's counts as the
    /// family's longest.
    pub fn new(address: IpAddr, length: u8) -> Prefix {
        match address {
            IpAddr::V4(a) => Prefix::V4(Prefix4::new(a, length)),
            IpAddr::V6(a) => Prefix::V6(Prefix6::new(a, length)),
        }
    }

    /// The network address.
    pub fn address(self) -> IpAddr {
        match self {
            Prefix::V4(p) => p.address().into(),
            Prefix::V6(p) => p.address().into(),
        }
    }

    /// Bits of the mask.
    pub fn length(self) -> u8 {
        match self {
            Prefix::V4(p) => p.length(),
            Prefix::V6(p) => p.length(),
        }
    }

    /// Its family.
    pub fn family(self) -> Family {
        match self {
            Prefix::V4(_) => Family::Ipv4,
            Prefix::V6(_) => Family::Ipv6,
        }
    }

    /// Whether `other` is this prefix or inside it; never across families.
    pub fn contains(self, other: Prefix) -> bool {
        match (self, other) {
            (Prefix::V4(a), Prefix::V4(b)) => a.contains(b),
            (Prefix::V6(a), Prefix::V6(b)) => a.contains(b),
            _ => false,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Prefix::V4(p) => p.fmt(f),
            Prefix::V6(p) => p.fmt(f),
        }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Prefix4> for Prefix {
    fn from(prefix: Prefix4) -> Prefix {
        Prefix::V4(prefix)
    }
}

impl From<Prefix6> for Prefix {
    fn from(prefix: Prefix6) -> Prefix {
        Prefix::V6(prefix)
    }
}

impl From<IpNetwork> for Prefix {
    fn from(network: IpNetwork) -> Prefix {
        Prefix::new(network.ip(), network.prefix())
    }
}

impl From<Prefix> for IpNetwork {
    fn from(prefix: Prefix) -> IpNetwork {
        match prefix {
            Prefix::V4(p) => Ipv4Network::new_checked(p.address(), p.length())
                .expect("a Prefix4 has a length of at most 32")
                .into(),
            Prefix::V6(p) => Ipv6Network::new_checked(p.address(), p.length())
                .expect("a Prefix6 has a length of at most 128")
                .into(),
        }
    }
}

/// A text that is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a prefix: {reason}")]
pub struct ParsePrefixError {
    text: String,
    reason: &'static str,
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    /// Reads `192.0.2.0/24` or `2001:db8::/32`. Host bits must be zero and the length must be there.
    fn from_str(text: &str) -> Result<Prefix, ParsePrefixError> {
        let wrong = |reason| ParsePrefixError {
            text: text.to_owned(),
            reason,
        };
        let (address, length) = text.split_once('/').ok_or_else(|| wrong("no `/length`"))?;
        let address: IpAddr = address
            .parse()
            .map_err(|_| wrong("no IP address before the `/`"))?;
        let length: u8 = length
            .parse()
            .map_err(|_| wrong("no number after the `/`"))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if length > longest {
            return Err(wrong("the length is more than the address has bits"));
        }
        let prefix = Prefix::new(address, length);
        if prefix.address() != address {
            return Err(wrong("the address has bits set behind the length"));
        }
        Ok(prefix)
    }
}

impl Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Prefix, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A standard community, written `65000:1` or by its well-known name. RFC 1997.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// Not to any other AS. RFC 1997.
    pub const NO_EXPORT: Community = Community(0xFFFF_FF01);
    /// To no peer at all. RFC 1997.
    pub const NO_ADVERTISE: Community = Community(0xFFFF_FF02);
    /// Not outside the confederation member AS. RFC 1997.
    pub const NO_EXPORT_SUBCONFED: Community = Community(0xFFFF_FF03);
    /// The sender is about to go. RFC 8326.
    pub const GRACEFUL_SHUTDOWN: Community = Community(0xFFFF_0000);
    /// Discard what is sent here. RFC 7999.
    pub const BLACKHOLE: Community = Community(0xFFFF_029A);
    /// Kept for long after its session was lost: the last choice. RFC 9494.
    pub const LLGR_STALE: Community = Community(0xFFFF_0006);
    /// Not to be kept for long after its session is lost. RFC 9494.
    pub const NO_LLGR: Community = Community(0xFFFF_0007);

    const NAMES: [(Community, &'static str); 7] = [
        (Community::NO_EXPORT, "no-export"),
        (Community::NO_ADVERTISE, "no-advertise"),
        (Community::NO_EXPORT_SUBCONFED, "no-export-subconfed"),
        (Community::GRACEFUL_SHUTDOWN, "graceful-shutdown"),
        (Community::BLACKHOLE, "blackhole"),
        (Community::LLGR_STALE, "llgr-stale"),
        (Community::NO_LLGR, "no-llgr"),
    ];
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Community::NAMES
            .iter()
            .find(|(community, _)| community == self)
        {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xFFFF),
        }
    }
}

/// A large community, written `65000:1:2`. RFC 8092.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}

/// An extended community as its eight octets, written `rt:65000:1`, `so:65000:1` (route target and
/// origin) or as `0x` and sixteen hexadecimal digits. RFC 4360, RFC 5668.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCommunity(pub [u8; 8]);

impl fmt::Display for ExtendedCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let octets = self.0;
        let name = match octets[1] {
            2 => "rt",
            3 => "so",
            _ => "",
        };
        let asn4 = u32::from_be_bytes([octets[2], octets[3], octets[4], octets[5]]);
        let number2 = u16::from_be_bytes([octets[6], octets[7]]);
        match (octets[0], name) {
            (0, "rt" | "so") => {
                let asn2 = u16::from_be_bytes([octets[2], octets[3]]);
                let number4 = u32::from_be_bytes([octets[4], octets[5], octets[6], octets[7]]);
                write!(f, "{name}:{asn2}:{number4}")
            }
            (1, "rt" | "so") => write!(f, "{name}:{}:{number2}", Ipv4Addr::from(asn4)),
            // The `L` keeps a small 4-octet AS number apart from a 2-octet one.
            (2, "rt" | "so") => write!(f, "{name}:{asn4}L:{number2}"),
            _ => write!(f, "0x{:016x}", u64::from_be_bytes(octets)),
        }
    }
}

/// A text that is no community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {kind}; it is written {form}")]
pub struct ParseCommunityError {
    text: String,
    kind: &'static str,
    form: &'static str,
}

impl FromStr for Community {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Community, ParseCommunityError> {
        if let Some((community, _)) = Community::NAMES.iter().find(|(_, name)| *name == text) {
            return Ok(*community);
        }
        text.split_once(':')
            .and_then(|(high, low)| Some((high.parse::<u16>().ok()?, low.parse::<u16>().ok()?)))
            .map(|(high, low)| Community(u32::from(high) << 16 | u32::from(low)))
            .ok_or_else(|| ParseCommunityError {
                text: text.to_owned(),
                kind: "a community",
                form: "`65000:1` (two numbers below 65536) or as a name such as `no-export`",
            })
    }
}

impl FromStr for LargeCommunity {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<LargeCommunity, ParseCommunityError> {
        let numbers: Option<Vec<u32>> = text.split(':').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[a, b, c]) => Ok(LargeCommunity(a, b, c)),
            _ => Err(ParseCommunityError {
                text: text.to_owned(),
                kind: "a large community",
                form: "`65000:1:2` (three numbers below 4294967296)",
            }),
        }
    }
}

impl FromStr for ExtendedCommunity {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<ExtendedCommunity, ParseCommunityError> {
        parse_extended_community(text).ok_or_else(|| ParseCommunityError {
            text: text.to_owned(),
            kind: "an extended community",
            form: "`rt:65000:1`, `so:65000:1`, `rt:192.0.2.1:1` or `0x` and 16 hexadecimal digits",
        })
    }
}

fn parse_extended_community(text: &str) -> Option<ExtendedCommunity> {
    if let Some(digits) = text.strip_prefix("0x") {
        if digits.len() != 16 {
            return None;
        }
        return u64::from_str_radix(digits, 16)
            .ok()
            .map(|n| ExtendedCommunity(n.to_be_bytes()));
    }
    let mut parts = text.split(':');
    let subtype = match parts.next()? {
        "rt" => 2,
        "so" => 3,
        _ => return None,
    };
    let (administrator, number) = (parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let mut octets = [0, subtype, 0, 0, 0, 0, 0, 0];
    let four_octet = |octets: &mut [u8; 8], kind: u8, administrator: [u8; 4]| -> Option<()> {
        octets[0] = kind;
        octets[2..6].copy_from_slice(&administrator);
        octets[6..].copy_from_slice(&number.parse::<u16>().ok()?.to_be_bytes());
        Some(())
    };
    if let Ok(address) = administrator.parse::<Ipv4Addr>() {
        four_octet(&mut octets, 1, address.octets())?;
    } else if let Some(asn) = administrator.strip_suffix('L') {
        four_octet(&mut octets, 2, asn.parse::<u32>().ok()?.to_be_bytes())?;
    } else if let Ok(asn) = administrator.parse::<u16>() {
        octets[2..4].copy_from_slice(&asn.to_be_bytes());
        octets[4..].copy_from_slice(&number.parse::<u32>().ok()?.to_be_bytes());
    } else {
        four_octet(
            &mut octets,
            2,
            administrator.parse::<u32>().ok()?.to_be_bytes(),
        )?;
    }
    Some(ExtendedCommunity(octets))
}

/// Serialises as the text that `Display` writes and `FromStr` reads.
macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(Community, LargeCommunity, ExtendedCommunity);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_drop_host_bits_and_order_by_address_then_length() {
        let a = Prefix4::new(Ipv4Addr::new(10, 0, 0, 77), 24);
        assert_eq!(a.to_string(), "10.0.0.0/24");
        assert!(Prefix4::new(Ipv4Addr::new(10, 0, 0, 0), 16) < a);
        assert!(a < Prefix4::new(Ipv4Addr::new(10, 0, 1, 0), 24));
        assert_eq!(
            Prefix4::new(Ipv4Addr::new(1, 2, 3, 4), 0).to_string(),
            "0.0.0.0/0"
        );
        assert_eq!(
            Prefix6::new("2001:db8::1".parse().unwrap(), 0).to_string(),
            "::/0"
        );
    }

    #[test]
    fn prefix_texts_with_mistakes_are_refused_with_the_reason() {
        for (text, reason) in [
            ("10.0.0.0", "no `/length`"),
            ("10.0.0.1/24", "bits set behind the length"),
            ("10.0.0.0/33", "more than the address has bits"),
            ("x/24", "no IP address"),
            ("10.0.0.0/x", "no number"),
        ] {
            let error = text.parse::<Prefix>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn containment_holds_within_a_family_only() {
        let p = |text: &str| text.parse::<Prefix>().unwrap();
        assert!(p("10.0.0.0/8").contains(p("10.1.0.0/16")));
        assert!(p("10.0.0.0/8").contains(p("10.0.0.0/8")));
        assert!(!p("10.1.0.0/16").contains(p("10.0.0.0/8")));
        assert!(!p("0.0.0.0/0").contains(p("::/0")));
    }

    #[test]
    fn communities_are_read_as_they_are_written() {
        for text in [
            "65000:1",
            "no-export",
            "graceful-shutdown",
            "blackhole",
            "llgr-stale",
            "no-llgr",
        ] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
        for text in [
            "rt:65000:1",
            "so:192.0.2.1:7",
            "rt:4200000000L:3",
            "0x4300000000000001",
        ] {
            assert_eq!(text.parse::<ExtendedCommunity>().unwrap().to_string(), text);
        }
        assert_eq!(
            "1:2:3".parse::<LargeCommunity>().unwrap().to_string(),
            "1:2:3"
        );
        assert!("65536:1".parse::<Community>().is_err());
        assert!("1:2".parse::<LargeCommunity>().is_err());
        assert!("rt:1:2:3".parse::<ExtendedCommunity>().is_err());
    }
}
