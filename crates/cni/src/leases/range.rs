//! Where addresses come from: ranges of subnets, less what nobody may have.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::node::{NodeFile, PODS, State};

/// Addresses of one subnet that may be given to containers. Of several ranges of a family the first
/// that has a free address gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    subnet: IpNetwork,
    first: u128,
    last: u128,
    /// First and last address of each, and why.
    excluded: Vec<(u128, u128, Exclusion)>,
    draining: bool,
    of_node: bool,
}

/// Why an address of a subnet is given to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// The network's own address (RFC 1122 §3.2.1.3).
    Network,
    /// The broadcast address (RFC 1122 §3.2.1.3).
    Broadcast,
    /// The Subnet-Router anycast address (RFC 4291 §2.6.1).
    SubnetRouter,
    /// The gateway of the subnet.
    Gateway,
    /// Within a reserved range.
    Reserved(IpNetwork),
}

/// A range that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// It begins or ends elsewhere.
    #[error("{address} is not in the subnet {subnet}; a range must begin and end in its subnet")]
    Outside {
        /// Where it would begin or end.
        address: IpAddr,
        /// Of which subnet.
        subnet: IpNetwork,
    },
    /// It ends before it begins.
    #[error("the range {first} to {last} of {subnet} ends before it begins")]
    Reversed {
        /// Where it would begin.
        first: IpAddr,
        /// Where it would end.
        last: IpAddr,
        /// Of which subnet.
        subnet: IpNetwork,
    },
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exclusion::Network => f.write_str("the network's own address"),
            Exclusion::Broadcast => f.write_str("the broadcast address"),
            Exclusion::SubnetRouter => f.write_str("the Subnet-Router anycast address"),
            Exclusion::Gateway => f.write_str("the gateway's address"),
            Exclusion::Reserved(prefix) => write!(f, "in the reserved range {prefix}"),
        }
    }
}

impl Range {
    /// A subnet whose addresses are each routed on their own (/32, /128): no link has the subnet, so
    /// it has no network or broadcast address, and of a small one every IPv4 address is of use. What
    /// others may take for such addresses is left out all the same: a first one that ends in 0, a last
    /// one that ends in 255 (there are firewalls that drop these), the first of IPv6.
    #[must_use]
    pub fn routed(subnet: IpNetwork) -> Range {
        let mut range = Range::whole(subnet);
        let (first, last) = (range.first, range.last);
        if subnet.is_ipv6() && subnet.prefix() < 127 {
            range.exclude(first, first, Exclusion::SubnetRouter);
        }
        if subnet.is_ipv4() && subnet.prefix() < 31 {
            if first & 0xff == 0 {
                range.exclude(first, first, Exclusion::Network);
            }
            if last & 0xff == 0xff {
                range.exclude(last, last, Exclusion::Broadcast);
            }
        }
        range
    }

    /// A subnet that a link has: without its network, broadcast or Subnet-Router anycast address and
    /// without the gateway. Subnets of one or two addresses have only hosts (RFC 3021, RFC 6164).
    #[must_use]
    pub fn on_link(subnet: IpNetwork, gateway: Option<IpAddr>) -> Range {
        let mut range = Range::routed(subnet);
        if subnet.is_ipv4() && subnet.prefix() < 31 {
            range.exclude(range.first, range.first, Exclusion::Network);
            range.exclude(range.last, range.last, Exclusion::Broadcast);
        }
        if let Some(gateway) = gateway.filter(|gateway| subnet.contains(*gateway)) {
            let gateway = number(gateway);
            range.exclude(gateway, gateway, Exclusion::Gateway);
        }
        range
    }

    fn whole(subnet: IpNetwork) -> Range {
        Range {
            subnet: IpNetwork::new(subnet.network(), subnet.prefix()).unwrap_or(subnet),
            first: number(subnet.network()),
            last: number(subnet.broadcast()),
            excluded: Vec::new(),
            draining: false,
            of_node: false,
        }
    }

    /// Only from `first` to `last`, both included; absent: from the subnet's first, to its last.
    ///
    /// # Errors
    ///
    /// [`RangeError`] when one of them is not in the subnet, or they are in the wrong order.
    pub fn within(
        mut self,
        first: Option<IpAddr>,
        last: Option<IpAddr>,
    ) -> Result<Range, RangeError> {
        let subnet = self.subnet;
        let inside = |address: IpAddr| match subnet.contains(address) {
            true => Ok(number(address)),
            false => Err(RangeError::Outside { address, subnet }),
        };
        self.first = first.map_or(Ok(self.first), inside)?;
        self.last = last.map_or(Ok(self.last), inside)?;
        if self.first > self.last {
            return Err(RangeError::Reversed {
                first: self.address(self.first),
                last: self.address(self.last),
                subnet,
            });
        }
        Ok(self)
    }

    /// Gives nothing of `prefix` to anybody.
    #[must_use]
    pub fn reserve(mut self, prefix: IpNetwork) -> Range {
        if prefix.is_ipv4() == self.subnet.is_ipv4() {
            let (first, last) = (number(prefix.network()), number(prefix.broadcast()));
            self.exclude(first, last, Exclusion::Reserved(prefix));
        }
        self
    }

    /// Gives no new address; what is leased stays so.
    #[must_use]
    pub fn draining(mut self) -> Range {
        self.draining = true;
        self
    }

    /// The subnet is one of the node's, which all its networks have in common: no two containers get
    /// the same address of it, whatever their networks. Of other subnets each network has its own: the
    /// same ones may be used by networks that do not reach each other.
    #[must_use]
    pub fn of_node(mut self) -> Range {
        self.of_node = true;
        self
    }

    /// The node's subnets for pods; of one Pool, or of all. `range` is what a subnet comes to where it
    /// is used: [`Range::routed`], or [`Range::on_link`] with a gateway.
    #[must_use]
    pub fn of_node_file(
        node: &NodeFile,
        pool: Option<&str>,
        range: impl Fn(IpNetwork) -> Range,
    ) -> Vec<Range> {
        let pods = node.subnets.iter().filter(|subnet| subnet.purpose == PODS);
        let pods = pods.filter(|subnet| pool.is_none_or(|pool| subnet.pool == pool));
        let ranges = pods.map(|subnet| {
            let reserved = subnet.reserved.iter().copied();
            let range = reserved.fold(range(subnet.prefix).of_node(), Range::reserve);
            match subnet.state {
                State::Active => range,
                State::Draining => range.draining(),
            }
        });
        ranges.collect()
    }

    /// The subnet it is a part of.
    #[must_use]
    pub fn subnet(&self) -> IpNetwork {
        self.subnet
    }

    /// Why nobody may have this address of the subnet.
    #[must_use]
    pub fn exclusion(&self, address: IpAddr) -> Option<Exclusion> {
        let number = number(address);
        let of = |(first, last, _): &&(u128, u128, Exclusion)| *first <= number && number <= *last;
        let found = self.excluded.iter().find(of);
        found.map(|(_, _, why)| *why)
    }

    /// Whether it is of this range, excluded or not.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.subnet.is_ipv4()
            && (self.first..=self.last).contains(&number(address))
    }

    /// How many addresses of the range can be given to containers, were they all free.
    #[must_use]
    pub fn usable(&self) -> u128 {
        let mut excluded: Vec<(u128, u128)> = Vec::new();
        for (first, last, _) in &self.excluded {
            let (first, last) = (*first.max(&self.first), *last.min(&self.last));
            if first <= last {
                excluded.push((first, last));
            }
        }
        excluded.sort_unstable();
        let (mut usable, mut from) = (0, Some(self.first));
        for (first, last) in excluded {
            let Some(begin) = from else { break };
            usable += first.saturating_sub(begin);
            from = last.checked_add(1).map(|next| next.max(begin));
        }
        let rest = from.filter(|from| *from <= self.last);
        usable + rest.map_or(0, |from| (self.last - from).saturating_add(1))
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    pub(super) fn is_of_node(&self) -> bool {
        self.of_node
    }

    pub(super) fn is_ipv4(&self) -> bool {
        self.subnet.is_ipv4()
    }

    /// The first address behind `after`, and from the beginning after the last, that is not excluded
    /// and of which `taken` is not true.
    pub(super) fn next(
        &self,
        after: Option<IpAddr>,
        taken: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let start = match after.map(number) {
            Some(after) if (self.first..self.last).contains(&after) => after + 1,
            _ => self.first,
        };
        let behind = self.search(start, self.last, &taken);
        behind.or_else(|| self.search(self.first, start.checked_sub(1)?, &taken))
    }

    /// Looks at each address that is taken and each excluded range, never at all addresses.
    fn search(&self, first: u128, last: u128, taken: &impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let mut candidate = first;
        while candidate <= last {
            let of =
                |(first, last, _): &&(u128, u128, Exclusion)| (*first..=*last).contains(&candidate);
            if let Some((_, end, _)) = self.excluded.iter().find(of) {
                candidate = end.checked_add(1)?;
                continue;
            }
            let address = self.address(candidate);
            if !taken(address) {
                return Some(address);
            }
            candidate = candidate.checked_add(1)?;
        }
        None
    }

    fn exclude(&mut self, first: u128, last: u128, why: Exclusion) {
        self.excluded.push((first, last, why));
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.is_ipv4() {
            // What is in an IPv4 subnet is below 2³².
            #[expect(clippy::cast_possible_truncation)]
            true => Ipv4Addr::from_bits(number as u32).into(),
            false => Ipv6Addr::from_bits(number).into(),
        }
    }
}

impl fmt::Display for Range {
    /// The subnet, or the part of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = Range::whole(self.subnet);
        if (whole.first, whole.last) == (self.first, self.last) {
            return write!(f, "{}", self.subnet);
        }
        let (first, last) = (self.address(self.first), self.address(self.last));
        write!(f, "{first}-{last} of {}", self.subnet)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(range: &Range) -> Vec<String> {
        let mut taken: Vec<IpAddr> = Vec::new();
        while let Some(address) = range.next(taken.last().copied(), |it| taken.contains(&it)) {
            taken.push(address);
        }
        let taken = taken.iter().map(ToString::to_string);
        taken.collect()
    }

    fn subnet(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn a_routed_subnet_gives_what_nobody_takes_for_a_network_or_broadcast_address() {
        let range = Range::routed(subnet("10.0.0.4/30"));
        assert_eq!(
            given(&range),
            ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"]
        );
        assert_eq!(range.usable(), 4);
        let of = |text: &str| given(&Range::routed(subnet(text)));
        assert_eq!(of("10.0.0.0/30"), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(
            of("10.0.0.252/30"),
            ["10.0.0.252", "10.0.0.253", "10.0.0.254"]
        );
        assert_eq!(of("10.0.0.0/31"), ["10.0.0.0", "10.0.0.1"]);
        assert_eq!(Range::routed(subnet("10.0.0.0/23")).usable(), 510);
    }

    #[test]
    fn a_link_has_its_network_broadcast_and_gateway_addresses_for_itself() {
        let range = Range::on_link(subnet("10.0.0.0/29"), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(
            given(&range),
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        assert_eq!(range.usable(), 5);
        let range = Range::on_link(subnet("10.0.0.0/31"), None);
        assert_eq!(given(&range), ["10.0.0.0", "10.0.0.1"]);
        let range = Range::on_link(subnet("fd00::/126"), None);
        assert_eq!(given(&range), ["fd00::1", "fd00::2", "fd00::3"]);
    }

    #[test]
    fn a_part_of_a_subnet_keeps_to_it_and_to_what_is_reserved() {
        let range = Range::on_link(subnet("10.0.0.0/24"), None)
            .within(Some("10.0.0.250".parse().unwrap()), None)
            .unwrap()
            .reserve(subnet("10.0.0.252/31"))
            .reserve(subnet("10.0.0.252/32"))
            .reserve(subnet("fd00::/8"));
        assert_eq!(given(&range), ["10.0.0.250", "10.0.0.251", "10.0.0.254"]);
        assert_eq!(range.usable(), 3);
        assert_eq!(range.to_string(), "10.0.0.250-10.0.0.255 of 10.0.0.0/24");
    }

    #[test]
    fn a_large_reserved_part_is_stepped_over_at_once() {
        let range = Range::routed(subnet("fd00::/64")).reserve(subnet("fd00::/65"));
        let first = range.next(None, |_| false);
        assert_eq!(first, Some("fd00::8000:0:0:0".parse().unwrap()));
        assert_eq!(range.usable(), 1 << 63);
        let all = Range::routed(subnet("::/0")).reserve(subnet("::/0"));
        assert_eq!((all.next(None, |_| false), all.usable()), (None, 0));
    }

    #[test]
    fn a_range_that_is_not_in_its_subnet_is_refused() {
        let range = Range::routed(subnet("10.0.0.0/24"));
        let outside = range
            .clone()
            .within(Some("10.0.1.0".parse().unwrap()), None);
        assert_eq!(
            outside.unwrap_err().to_string(),
            "10.0.1.0 is not in the subnet 10.0.0.0/24; a range must begin and end in its subnet"
        );
        let (first, last) = ("10.0.0.9".parse().unwrap(), "10.0.0.8".parse().unwrap());
        assert!(range.within(Some(first), Some(last)).is_err());
    }
}
