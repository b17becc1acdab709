//! UPDATEs packed full of prefixes that have their path attributes in common.

use std::net::IpAddr;

use bytes::{BufMut, BytesMut};

use super::framing::put_header;
use super::nlri::{longest, put_prefix, wire_size};
use super::update::split_attribute;
use super::{HEADER, afi_safi, attribute, flags, kind};
use crate::attributes::NextHop;
use crate::types::{Family, Prefix};

/// Why an UPDATE cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Not even one prefix fits into a message with these attributes. RFC 4271 §9.2.
    #[error("an UPDATE with these path attributes takes {size} octets; the peer accepts {max}")]
    TooLong {
        /// Octets of a message with one prefix.
        size: usize,
        /// Octets that are allowed.
        max: u16,
    },
    /// IPv6 routes cannot have an IPv4 next hop.
    #[error("IPv6 routes cannot be sent with the IPv4 next hop {next_hop}")]
    NextHop {
        /// The next hop.
        next_hop: IpAddr,
    },
}

/// Appends UPDATEs to a buffer, each as full as it gets.
///
/// Messages are whole once the builder is finished or dropped; the buffer must not be sent before.
/// Without a prefix nothing is written, so a withdrawal of nothing never becomes an End-of-RIB.
#[derive(Debug)]
pub struct UpdateBuilder<'a> {
    out: &'a mut BytesMut,
    /// What comes before the prefixes, from the length of the withdrawn routes on.
    before: Vec<u8>,
    /// Where lengths go that are known at the end only: as offsets into `before`, of a 2-octet
    /// field that counts everything from its own end to the end of the prefixes, or with `after`.
    lengths: [Option<Length>; 2],
    /// What comes behind the prefixes.
    after: &'a [u8],
    family: Family,
    max_message: u16,
    /// Where in `out` the unfinished message begins.
    start: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Length {
    at: usize,
    with_after: bool,
}

impl<'a> UpdateBuilder<'a> {
    /// Announces prefixes of `family` with the attributes of `block`, which [`encode_block`] made,
    /// and `next_hop`. Messages have at most `max_message` octets.
    ///
    /// IPv4 prefixes go into the body, or into MP_REACH_NLRI when the next hop is IPv6, which the
    /// peer must have agreed to (RFC 8950); IPv6 prefixes go into MP_REACH_NLRI, the first of the
    /// attributes (RFC 7606 §5.1).
    ///
    /// # Errors
    ///
    /// When no message can say it; nothing is written then.
    ///
    /// [`encode_block`]: super::encode_block
    pub fn announce(
        block: &'a [u8],
        next_hop: NextHop,
        family: Family,
        max_message: u16,
        out: &'a mut BytesMut,
    ) -> Result<UpdateBuilder<'a>, EncodeError> {
        let mut before = Vec::with_capacity(64 + block.len());
        before.extend_from_slice(&[0, 0]); // no withdrawn routes
        let builder = match (family, next_hop.address) {
            (Family::Ipv4, IpAddr::V4(address)) => {
                let split = behind_as_path(block);
                let length = u16::try_from(block.len() + 7).unwrap_or(u16::MAX);
                before.extend_from_slice(&length.to_be_bytes());
                before.extend_from_slice(&block[..split]);
                before.extend_from_slice(&[flags::TRANSITIVE, attribute::NEXT_HOP, 4]);
                before.extend_from_slice(&address.octets());
                before.extend_from_slice(&block[split..]);
                UpdateBuilder::new(before, [None, None], &[], family, max_message, out)
            }
            (_, IpAddr::V6(address)) => {
                before.extend_from_slice(&[0, 0]);
                put_mp(attribute::MP_REACH, family, &mut before);
                match next_hop.link_local {
                    Some(link_local) => {
                        before.push(32);
                        before.extend_from_slice(&address.octets());
                        before.extend_from_slice(&link_local.octets());
                    }
                    None => {
                        before.push(16);
                        before.extend_from_slice(&address.octets());
                    }
                }
                before.push(0); // reserved
                UpdateBuilder::new(before, MP_LENGTHS, block, family, max_message, out)
            }
            (Family::Ipv6, next_hop @ IpAddr::V4(_)) => {
                return Err(EncodeError::NextHop { next_hop });
            }
        };
        let one = 1 + usize::from(longest(family)) / 8;
        let size = HEADER + builder.before.len() + one + builder.after.len();
        if size > usize::from(max_message) {
            return Err(EncodeError::TooLong {
                size,
                max: max_message,
            });
        }
        Ok(builder)
    }

    /// Withdraws prefixes of `family`: IPv4 ones in the body, IPv6 ones in MP_UNREACH_NLRI.
    pub fn withdraw(family: Family, max_message: u16, out: &'a mut BytesMut) -> UpdateBuilder<'a> {
        match family {
            Family::Ipv4 => {
                let length = Length {
                    at: 0,
                    with_after: false,
                };
                let no_attributes = &[0, 0];
                let lengths = [Some(length), None];
                UpdateBuilder::new(vec![0, 0], lengths, no_attributes, family, max_message, out)
            }
            Family::Ipv6 => {
                let mut before = vec![0, 0, 0, 0];
                put_mp(attribute::MP_UNREACH, family, &mut before);
                UpdateBuilder::new(before, MP_LENGTHS, &[], family, max_message, out)
            }
        }
    }

    fn new(
        before: Vec<u8>,
        lengths: [Option<Length>; 2],
        after: &'a [u8],
        family: Family,
        max_message: u16,
        out: &'a mut BytesMut,
    ) -> UpdateBuilder<'a> {
        UpdateBuilder {
            out,
            before,
            lengths,
            after,
            family,
            max_message,
            start: None,
        }
    }

    /// Adds a prefix, which must be of the builder's family.
    #[inline]
    pub fn push(&mut self, prefix: impl Into<Prefix>) {
        let prefix = prefix.into();
        debug_assert_eq!(prefix.family(), self.family);
        let full =
            usize::from(self.max_message).saturating_sub(self.after.len() + wire_size(prefix));
        if self
            .start
            .is_some_and(|start| self.out.len() - start > full)
        {
            self.close();
        }
        if self.start.is_none() {
            self.start = Some(self.out.len());
            put_header(kind::UPDATE, 0, self.out);
            self.out.put_slice(&self.before);
        }
        put_prefix(prefix, self.out);
    }

    /// Completes the last message, as dropping the builder does.
    pub fn finish(self) {}

    fn close(&mut self) {
        let Some(start) = self.start.take() else {
            return;
        };
        let prefixes_end = self.out.len();
        self.out.put_slice(self.after);
        let end = self.out.len();
        let mut set = |at: usize, length: usize| {
            // No message is longer than `max_message`, which has 16 bits.
            self.out[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
        };
        set(start + 16, end - start);
        for length in self.lengths.iter().flatten() {
            let at = start + HEADER + length.at;
            let to = if length.with_after { end } else { prefixes_end };
            set(at, to - at - 2);
        }
    }
}

impl Drop for UpdateBuilder<'_> {
    fn drop(&mut self) {
        self.close();
    }
}

/// Total Path Attribute Length, and the length of the multiprotocol attribute, which is the first.
const MP_LENGTHS: [Option<Length>; 2] = [
    Some(Length {
        at: 2,
        with_after: true,
    }),
    Some(Length {
        at: 6,
        with_after: false,
    }),
];

/// The beginning of MP_REACH_NLRI or MP_UNREACH_NLRI, its length left open.
fn put_mp(kind: u8, family: Family, before: &mut Vec<u8>) {
    let (afi, safi) = afi_safi(family);
    before.extend_from_slice(&[flags::OPTIONAL | flags::EXTENDED, kind, 0, 0]);
    before.extend_from_slice(&afi.to_be_bytes());
    before.push(safi);
}

/// Where NEXT_HOP belongs in a block, for the ascending order of RFC 4271 §5.
fn behind_as_path(block: &[u8]) -> usize {
    let mut rest = block;
    while let Some((raw, behind)) = split_attribute(rest)
        && raw.kind <= attribute::AS_PATH
    {
        rest = behind;
    }
    block.len() - rest.len()
}

/// Appends an End-of-RIB. RFC 4724 §2.
pub fn encode_end_of_rib(family: Family, out: &mut BytesMut) {
    let (afi, safi) = afi_safi(family);
    match family {
        Family::Ipv4 => {
            put_header(kind::UPDATE, HEADER as u16 + 4, out);
            out.put_slice(&[0, 0, 0, 0]);
        }
        Family::Ipv6 => {
            put_header(kind::UPDATE, HEADER as u16 + 10, out);
            out.put_slice(&[0, 0, 0, 6, flags::OPTIONAL, attribute::MP_UNREACH, 3]);
            out.put_u16(afi);
            out.put_u8(safi);
        }
    }
}
