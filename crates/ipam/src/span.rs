//! Address ranges as numbers: what [`crate::pool`] counts and compares with.

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::pool::Family;

/// A range of addresses of one family, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) family: Family,
    pub(crate) first: u128,
    pub(crate) last: u128,
}

impl Span {
    pub(crate) fn of(network: IpNetwork) -> Span {
        match network {
            IpNetwork::V4(n) => Span {
                family: Family::Ipv4,
                first: u32::from(n.network()).into(),
                last: u32::from(n.broadcast()).into(),
            },
            IpNetwork::V6(n) => Span {
                family: Family::Ipv6,
                first: n.network().into(),
                last: n.broadcast().into(),
            },
        }
    }

    pub(crate) fn overlaps(self, other: Span) -> bool {
        self.family == other.family && self.first <= other.last && other.first <= self.last
    }

    pub(crate) fn contains(self, other: Span) -> bool {
        self.family == other.family && self.first <= other.first && other.last <= self.last
    }

    /// The network of `length` bits at the start of the range.
    pub(crate) fn network(self, length: u8) -> IpNetwork {
        Span::at(self.family, self.first, length)
    }

    /// The greatest network, in map order, that begins inside the range.
    pub(crate) fn last_network(self) -> IpNetwork {
        let bits = if self.family == Family::Ipv4 { 32 } else { 128 };
        Span::at(self.family, self.last, bits)
    }

    fn at(family: Family, first: u128, length: u8) -> IpNetwork {
        match family {
            Family::Ipv4 => {
                let address = u32::try_from(first).expect("an IPv4 range ends within 32 bits");
                Ipv4Network::new_checked(address.into(), length)
                    .expect("IPv4 subnet lengths are at most 32")
                    .into()
            }
            Family::Ipv6 => Ipv6Network::new_checked(first.into(), length)
                .expect("IPv6 subnet lengths are at most 128")
                .into(),
        }
    }
}

/// Bits behind the mask of a subnet of `length` bits, in the prefix's family.
pub(crate) fn host_bits(prefix: IpNetwork, length: u8) -> u32 {
    let all: u32 = if prefix.is_ipv4() { 32 } else { 128 };
    all.saturating_sub(length.into())
}

/// The last address of a block of so many host bits, counted from its first.
pub(crate) fn last_offset(host_bits: u32) -> u128 {
    u128::MAX.checked_shr(128 - host_bits).unwrap_or(0)
}

/// Which block of so many host bits an offset lies in.
pub(crate) fn block(offset: u128, host_bits: u32) -> u128 {
    offset.checked_shr(host_bits).unwrap_or(0)
}

/// How many blocks of so many host bits in `whole` any of the ranges touches.
pub(crate) fn blocks(whole: Span, host_bits: u32, ranges: impl Iterator<Item = Span>) -> u64 {
    let mut touched: Vec<(u128, u128)> = ranges
        .filter(|range| range.overlaps(whole))
        .map(|range| {
            let first = range.first.max(whole.first) - whole.first;
            let last = range.last.min(whole.last) - whole.first;
            (block(first, host_bits), block(last, host_bits))
        })
        .collect();
    touched.sort_unstable();
    let mut count = 0_u64;
    let mut next = 0; // the first block not counted yet
    for (first, last) in touched {
        let first = first.max(next);
        if first <= last {
            count = count.saturating_add(saturate(last - first).saturating_add(1));
            next = last + 1;
        }
    }
    count
}

pub(crate) fn saturate(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
