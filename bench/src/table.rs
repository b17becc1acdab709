//! A routing table of realistic shape, ready to send.
//!
//! Prefix lengths are distributed as in the public IPv4 (IPv6) table, about six prefixes share a set
//! of path attributes, paths have 2 to 8 AS numbers, most sets carry communities. The same seed
//! gives the same table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A small generator of pseudo-random numbers (SplitMix64): repeatable, and no quality is needed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// One set of path attributes and the prefixes that have it.
pub(crate) struct Group {
    path: Vec<u32>,
    communities: Vec<u32>,
    med: Option<u32>,
    /// Network and length; 16 octets for IPv6, 4 for IPv4, in network order.
    prefixes: Vec<(u128, u8)>,
}

/// Which family a table is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

/// A whole table.
pub(crate) struct Table {
    pub(crate) family: Family,
    groups: Vec<Group>,
    /// How many prefixes there are.
    pub(crate) len: usize,
}

/// Share of each length among 1,000 prefixes of the public tables.
const LENGTHS4: [(u8, u64); 11] = [
    (24, 600),
    (23, 105),
    (22, 115),
    (21, 50),
    (20, 45),
    (19, 26),
    (18, 14),
    (17, 8),
    (16, 14),
    (15, 12),
    (14, 11),
];
const LENGTHS6: [(u8, u64); 7] = [
    (48, 470),
    (32, 130),
    (44, 120),
    (40, 110),
    (36, 70),
    (46, 60),
    (29, 40),
];

impl Table {
    /// A table of `len` prefixes (at most 5,000,000), no two of which begin at the same address.
    pub(crate) fn new(family: Family, len: usize, seed: u64) -> Table {
        let mut random = Random::new(seed);
        let mut taken = vec![0_u64; 1 << 18];
        let mut prefixes = Vec::with_capacity(len);
        while prefixes.len() < len {
            let (prefix, slot) = match family {
                Family::Ipv4 => prefix4(&mut random),
                Family::Ipv6 => prefix6(&mut random),
            };
            let (word, bit) = ((slot >> 6) as usize, 1 << (slot & 63));
            let Some(prefix) = prefix else { continue };
            if taken[word] & bit == 0 {
                taken[word] |= bit;
                prefixes.push(prefix);
            }
        }
        let mut groups = Vec::new();
        let mut rest = prefixes.as_slice();
        while !rest.is_empty() {
            // One to eleven, six on average.
            let size = (1 + random.below(11) as usize).min(rest.len());
            let (mine, others) = rest.split_at(size);
            rest = others;
            groups.push(Group {
                path: (0..1 + random.below(7))
                    .map(|_| 1000 + random.below(60_000) as u32)
                    .collect(),
                communities: (0..random.below(7))
                    .map(|_| (1000 + random.below(60_000) as u32) << 16 | random.below(5000) as u32)
                    .collect(),
                med: (random.below(4) == 0).then(|| random.below(200) as u32),
                prefixes: mine.to_vec(),
            });
        }
        Table {
            family,
            groups,
            len,
        }
    }

    /// The UPDATEs that announce the table, for a peer with 4-octet AS numbers.
    ///
    /// `asn` and `next_hop` are the sender's; every path begins with `asn`, and with `extra` more
    /// copies of it in every second set.
    pub(crate) fn announcements(&self, asn: u32, next_hop: NextHop, extra: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len * 24);
        for (index, group) in self.groups.iter().enumerate() {
            let prepend = if index % 2 == 0 { 1 } else { 1 + extra };
            group.announce(self.family, asn, prepend, next_hop, &mut out);
        }
        out
    }

    /// The UPDATEs that withdraw the table, 200 prefixes to each.
    pub(crate) fn withdrawals(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len * 6);
        let prefixes: Vec<(u128, u8)> = self.prefixes().collect();
        for some in prefixes.chunks(200) {
            withdraw(self.family, some, &mut out);
        }
        out
    }

    /// How many sets of attributes there are.
    pub(crate) fn sets(&self) -> usize {
        self.groups.len()
    }

    /// Appends the UPDATE that announces set `index` with `prepend` times `asn` in front.
    pub(crate) fn announce_set(
        &self,
        index: usize,
        asn: u32,
        prepend: usize,
        next_hop: NextHop,
        out: &mut Vec<u8>,
    ) {
        self.groups[index].announce(self.family, asn, prepend, next_hop, out);
    }

    /// Appends the UPDATE that withdraws set `index`.
    pub(crate) fn withdraw_set(&self, index: usize, out: &mut Vec<u8>) {
        withdraw(self.family, &self.groups[index].prefixes, out);
    }

    /// The table in `parts` of (nearly) equal numbers of prefixes, in order.
    pub(crate) fn split(self, parts: usize) -> Vec<Table> {
        let per_part = self.len.div_ceil(parts.max(1)).max(1);
        let mut out = Vec::with_capacity(parts);
        let mut groups = Vec::new();
        let mut len = 0;
        for mut group in self.groups {
            while len + group.prefixes.len() >= per_part {
                let rest = group.prefixes.split_off(per_part - len);
                let part = Group {
                    path: group.path.clone(),
                    communities: group.communities.clone(),
                    med: group.med,
                    prefixes: std::mem::replace(&mut group.prefixes, rest),
                };
                groups.push(part);
                out.push(Table {
                    family: self.family,
                    groups: std::mem::take(&mut groups),
                    len: per_part,
                });
                len = 0;
            }
            len += group.prefixes.len();
            if !group.prefixes.is_empty() {
                groups.push(group);
            }
        }
        if len > 0 {
            out.push(Table {
                family: self.family,
                groups,
                len,
            });
        }
        out
    }

    /// The slot of every prefix, in order.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u64> + '_ {
        self.prefixes().map(|(network, _)| match self.family {
            Family::Ipv4 => slot4(network as u32),
            Family::Ipv6 => slot6(network),
        })
    }

    /// Up to `count` addresses, evenly spread over the table in the order of sending, each of which
    /// is in one prefix of the table and no other: reachable when and only when that one is there.
    pub(crate) fn samples(&self, count: usize) -> Vec<IpAddr> {
        let bits = match self.family {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        };
        let mut sorted: Vec<(u128, u8, usize)> = self
            .prefixes()
            .enumerate()
            .map(|(at, (network, length))| (network, length, at))
            .collect();
        sorted.sort_unstable();
        let mut covered_until = 0;
        let mut alone: Vec<(usize, u128)> = Vec::new();
        for (network, length, at) in sorted {
            if network >= covered_until {
                covered_until = network + (1 << (bits - u32::from(length)));
                alone.push((at, network));
            }
        }
        alone.sort_unstable();
        let step = (alone.len() / count.max(1)).max(1);
        // From the end, so that the last prefix that can be asked for is among them.
        let chosen = alone.iter().rev().step_by(step).take(count);
        let address = |network: u128| match self.family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::from(network as u32 + 1)),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::from(network + 1)),
        };
        chosen.map(|(_, network)| address(*network)).collect()
    }

    /// Every prefix: network (an IPv4 one in the lower 32 bits) and length.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = (u128, u8)> + '_ {
        self.groups
            .iter()
            .flat_map(|group| group.prefixes.iter().copied())
    }
}

/// The sender's address in NEXT_HOP or MP_REACH_NLRI.
#[derive(Clone, Copy)]
pub(crate) enum NextHop {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl Group {
    fn announce(
        &self,
        family: Family,
        asn: u32,
        prepend: usize,
        next_hop: NextHop,
        out: &mut Vec<u8>,
    ) {
        let mut attributes = attribute(0x40, 1, &[0]);
        let mut path = vec![2, (prepend + self.path.len()) as u8];
        for asn in std::iter::repeat_n(asn, prepend).chain(self.path.iter().copied()) {
            path.extend(asn.to_be_bytes());
        }
        attributes.extend(attribute(0x40, 2, &path));
        if let NextHop::V4(address) = next_hop {
            attributes.extend(attribute(0x40, 3, &address.octets()));
        }
        if let Some(med) = self.med {
            attributes.extend(attribute(0x80, 4, &med.to_be_bytes()));
        }
        if !self.communities.is_empty() {
            let value: Vec<u8> = self
                .communities
                .iter()
                .flat_map(|c| c.to_be_bytes())
                .collect();
            attributes.extend(attribute(0xC0, 8, &value));
        }
        let nlri = pack(family, &self.prefixes);
        if let NextHop::V6(address) = next_hop {
            let mut value = vec![0, 2, 1, 16];
            value.extend(address.octets());
            value.push(0);
            value.extend(nlri);
            attributes.extend(attribute(0x90, 14, &value));
            update(&[], &attributes, &[], out);
        } else {
            update(&[], &attributes, &nlri, out);
        }
    }
}

/// A random IPv4 prefix and the slot of its first address (its upper 24 bits), or `None` outside
/// of public space.
fn prefix4(random: &mut Random) -> (Option<(u128, u8)>, u64) {
    let length = pick(&LENGTHS4, random);
    let address = (random.next() as u32) & (u32::MAX << (32 - length));
    let first = address >> 24;
    let private = (0xAC10_0000..0xAC20_0000).contains(&address)
        || (0xC0A8_0000..0xC0A9_0000).contains(&address)
        || (0xA9FE_0000..0xA9FF_0000).contains(&address);
    let public = (1..224).contains(&first) && first != 10 && first != 127 && !private;
    (
        public.then_some((u128::from(address), length)),
        slot4(address),
    )
}

/// A random IPv6 prefix in 2000::/8; its slot is the 24 bits behind the first eight.
fn prefix6(random: &mut Random) -> (Option<(u128, u8)>, u64) {
    let length = pick(&LENGTHS6, random);
    let network = 0x20 << 120 | u128::from(random.next() & 0xFF_FFFF) << 96;
    let network = network & (u128::MAX << (128 - length));
    (Some((network, length)), slot6(network))
}

/// The number by which a receiver counts an IPv4 destination.
pub(crate) fn slot4(address: u32) -> u64 {
    u64::from(address >> 8)
}

/// The number by which a receiver counts an IPv6 destination.
pub(crate) fn slot6(network: u128) -> u64 {
    (network >> 96) as u64 & 0xFF_FFFF
}

fn pick<const N: usize>(lengths: &[(u8, u64); N], random: &mut Random) -> u8 {
    let total: u64 = lengths.iter().map(|(_, share)| share).sum();
    let mut at = random.below(total);
    for (length, share) in lengths {
        if at < *share {
            return *length;
        }
        at -= share;
    }
    lengths[0].0
}

fn pack(family: Family, prefixes: &[(u128, u8)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(prefixes.len() * 6);
    for (network, length) in prefixes {
        out.push(*length);
        let octets = usize::from(length.div_ceil(8));
        match family {
            Family::Ipv4 => out.extend(&(*network as u32).to_be_bytes()[..octets]),
            Family::Ipv6 => out.extend(&network.to_be_bytes()[..octets]),
        }
    }
    out
}

fn attribute(flags: u8, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![flags, kind];
    if flags & 0x10 != 0 {
        out.extend((value.len() as u16).to_be_bytes());
    } else {
        out.push(value.len() as u8);
    }
    out.extend(value);
    out
}

/// One UPDATE that withdraws `prefixes`, which fit into it.
fn withdraw(family: Family, prefixes: &[(u128, u8)], out: &mut Vec<u8>) {
    let nlri = pack(family, prefixes);
    match family {
        Family::Ipv4 => update(&nlri, &[], &[], out),
        Family::Ipv6 => {
            let mut value = vec![0, 2, 1];
            value.extend(nlri);
            update(&[], &attribute(0x90, 15, &value), &[], out);
        }
    }
}

/// Appends the UPDATE that announces (or withdraws, without a next hop) the /24 of `address` alone:
/// a prefix that is in no table.
pub(crate) fn beacon(address: Ipv4Addr, asn: u32, next_hop: Option<Ipv4Addr>, out: &mut Vec<u8>) {
    let prefixes = vec![(u128::from(address.to_bits() & 0xFFFF_FF00), 24)];
    match next_hop {
        None => withdraw(Family::Ipv4, &prefixes, out),
        Some(next_hop) => Group {
            path: vec![64999],
            communities: Vec::new(),
            med: None,
            prefixes,
        }
        .announce(Family::Ipv4, asn, 1, NextHop::V4(next_hop), out),
    }
}

fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8], out: &mut Vec<u8>) {
    let length = 23 + withdrawn.len() + attributes.len() + nlri.len();
    out.extend([0xFF; 16]);
    out.extend((length as u16).to_be_bytes());
    out.push(2);
    out.extend((withdrawn.len() as u16).to_be_bytes());
    out.extend(withdrawn);
    out.extend((attributes.len() as u16).to_be_bytes());
    out.extend(attributes);
    out.extend(nlri);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_as_many_prefixes_as_asked_for_and_about_six_to_a_set() {
        let table = Table::new(Family::Ipv4, 60_000, 1);
        let count: usize = table.groups.iter().map(|group| group.prefixes.len()).sum();
        assert_eq!(count, 60_000);
        let average = count as f64 / table.groups.len() as f64;
        assert!((5.5..6.5).contains(&average), "{average} prefixes to a set");
    }

    #[test]
    fn the_parts_of_a_table_are_the_table() {
        let whole: Vec<_> = Table::new(Family::Ipv4, 10_000, 3).prefixes().collect();
        let parts = Table::new(Family::Ipv4, 10_000, 3).split(10);
        assert!(parts.iter().all(|part| part.len == 1000));
        assert!(parts.iter().all(|part| part.prefixes().count() == 1000));
        let together: Vec<_> = parts.iter().flat_map(Table::prefixes).collect();
        assert_eq!(together, whole);
    }

    #[test]
    fn a_sample_is_in_one_prefix_only() {
        let table = Table::new(Family::Ipv4, 200_000, 4);
        let samples = table.samples(500);
        assert_eq!(samples.len(), 500);
        for sample in samples {
            let IpAddr::V4(address) = sample else {
                panic!("{sample} is not of the table's family")
            };
            let around = table.prefixes().filter(|(network, length)| {
                (address.to_bits() ^ *network as u32).leading_zeros() >= u32::from(*length)
            });
            assert_eq!(around.count(), 1, "{address}");
        }
    }

    #[test]
    fn no_two_prefixes_of_a_table_share_a_slot() {
        for family in [Family::Ipv4, Family::Ipv6] {
            let table = Table::new(family, 50_000, 2);
            let mut seen = std::collections::HashSet::new();
            for (network, _) in table.groups.iter().flat_map(|group| &group.prefixes) {
                let slot = match family {
                    Family::Ipv4 => slot4(*network as u32),
                    Family::Ipv6 => slot6(*network),
                };
                assert!(seen.insert(slot), "slot {slot} twice");
            }
        }
    }
}
