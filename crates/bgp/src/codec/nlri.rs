//! Prefixes in their wire form: a length in bits, and as many octets as that takes.
//! RFC 4271 §4.3, RFC 4760 §5.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};

use crate::types::{Family, Prefix, Prefix4, Prefix6};

/// Prefixes of one family as they stand in a message; known to be well-formed. Costs nothing to
/// clone and go through again.
#[derive(Clone, Debug)]
pub enum Nlri<'a> {
    /// IPv4.
    V4(Prefixes4<'a>),
    /// IPv6.
    V6(Prefixes6<'a>),
}

impl<'a> Nlri<'a> {
    /// Takes `bytes` as prefixes of `family`.
    ///
    /// # Errors
    ///
    /// In words, when a length is too great or the bytes end within a prefix.
    pub fn new(family: Family, bytes: &'a [u8]) -> Result<Nlri<'a>, String> {
        check(bytes, longest(family))?;
        Ok(match family {
            Family::Ipv4 => Nlri::V4(Prefixes4(bytes)),
            Family::Ipv6 => Nlri::V6(Prefixes6(bytes)),
        })
    }

    /// Their family.
    pub fn family(&self) -> Family {
        match self {
            Nlri::V4(_) => Family::Ipv4,
            Nlri::V6(_) => Family::Ipv6,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        match self {
            Nlri::V4(prefixes) => prefixes.0.is_empty(),
            Nlri::V6(prefixes) => prefixes.0.is_empty(),
        }
    }

    /// All of them, in the order of the message.
    pub fn iter(&self) -> impl Iterator<Item = Prefix> + use<'a> {
        let (v4, v6) = match self.clone() {
            Nlri::V4(prefixes) => (prefixes, Prefixes6(&[])),
            Nlri::V6(prefixes) => (Prefixes4(&[]), prefixes),
        };
        v4.map(Prefix::V4).chain(v6.map(Prefix::V6))
    }
}

/// IPv4 prefixes of a message, in its order.
#[derive(Clone, Debug)]
pub struct Prefixes4<'a>(&'a [u8]);

impl Iterator for Prefixes4<'_> {
    type Item = Prefix4;

    #[inline]
    fn next(&mut self) -> Option<Prefix4> {
        let (&length, rest) = self.0.split_first()?;
        let octets = usize::from(length.div_ceil(8));
        // Reading four octets at once and masking is much faster than copying one to four.
        let address = match rest.first_chunk::<4>() {
            Some(chunk) => *chunk,
            None => padded(rest.get(..octets)?)?,
        };
        self.0 = rest.get(octets..)?;
        Some(Prefix4::new(Ipv4Addr::from(address), length))
    }
}

/// IPv6 prefixes of a message, in its order.
#[derive(Clone, Debug)]
pub struct Prefixes6<'a>(&'a [u8]);

impl Iterator for Prefixes6<'_> {
    type Item = Prefix6;

    #[inline]
    fn next(&mut self) -> Option<Prefix6> {
        let (&length, rest) = self.0.split_first()?;
        let octets = usize::from(length.div_ceil(8));
        let address = match rest.first_chunk::<16>() {
            Some(chunk) => *chunk,
            None => padded(rest.get(..octets)?)?,
        };
        self.0 = rest.get(octets..)?;
        Some(Prefix6::new(Ipv6Addr::from(address), length))
    }
}

/// `octets` with zeros behind them; none when there are more than fit.
fn padded<const N: usize>(octets: &[u8]) -> Option<[u8; N]> {
    let mut address = [0; N];
    address.get_mut(..octets.len())?.copy_from_slice(octets);
    Some(address)
}

/// RFC 7606 §5.3.
fn check(mut bytes: &[u8], longest: u8) -> Result<(), String> {
    while let Some((&length, rest)) = bytes.split_first() {
        if length > longest {
            return Err(format!(
                "a prefix of {length} bits; allowed: 0 to {longest}"
            ));
        }
        bytes = rest
            .get(usize::from(length.div_ceil(8))..)
            .ok_or_else(|| format!("the bytes end within a prefix of {length} bits"))?;
    }
    Ok(())
}

/// The length of a host's prefix, in bits.
pub(super) fn longest(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 32,
        Family::Ipv6 => 128,
    }
}

/// How many octets `prefix` takes in a message.
pub(super) fn wire_size(prefix: Prefix) -> usize {
    1 + usize::from(prefix.length().div_ceil(8))
}

/// Appends `prefix`.
#[inline]
pub(super) fn put_prefix(prefix: Prefix, out: &mut BytesMut) {
    let octets = usize::from(prefix.length().div_ceil(8));
    out.put_u8(prefix.length());
    match prefix {
        Prefix::V4(prefix) => out.put_slice(&prefix.address().octets()[..octets]),
        Prefix::V6(prefix) => out.put_slice(&prefix.address().octets()[..octets]),
    }
}
