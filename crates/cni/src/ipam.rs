//! Where a network's addresses come from: the field `ipam` of its configuration, checked.
//!
//! Everything is checked before anything is done: a configuration that cannot be changes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::leases::{Exclusion, Range, RangeError};
use crate::node::{NodeFile, PODS, State};
use crate::spec::config::{Ipam, IpamRoute, IpamSubnet};

/// What a link of this mode has to do with gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateways {
    /// Each subnet has one, its first address unless another one is said.
    Always,
    /// Only where one is said.
    AsSaid,
    /// None: each address stands alone, and everything is on the link. One that is said is an error.
    Never,
}

/// `ipam`, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addressing {
    /// In the order in which they are used, per family.
    pub ranges: Vec<Range>,
    /// Gateway of each of `ranges`, in their order.
    pub gateways: Vec<Option<IpAddr>>,
    /// Destination and next hop; without one, by the gateway of the container's subnet. `None`: a default
    /// route by the gateway, where there is one.
    pub routes: Option<Vec<(IpNetwork, Option<IpAddr>)>>,
    /// Default routes are out of the link, without a next hop.
    pub all_on_link: bool,
}

/// Why there can be no such network. The texts begin with the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// Bits behind the prefix.
    #[error("{field} is {found}: it has bits behind its prefix; is {meant} meant?")]
    HostBits {
        /// Which.
        field: String,
        /// Instead.
        found: IpNetwork,
        /// The same without these bits.
        meant: IpNetwork,
    },
    /// Two subnets have addresses in common.
    #[error("{field} is {subnet}, which overlaps {other}; an address would be in both")]
    Overlap {
        /// Which.
        field: String,
        /// The later one.
        subnet: IpNetwork,
        /// The earlier one.
        other: IpNetwork,
    },
    /// A range that cannot be.
    #[error("{field}: {source}")]
    Range {
        /// Which.
        field: String,
        /// Why.
        source: RangeError,
    },
    /// A gateway where it cannot be.
    #[error("{field} is {gateway}, which is {why}")]
    Gateway {
        /// Which.
        field: String,
        /// What was said.
        gateway: IpAddr,
        /// What is wrong.
        why: String,
    },
    /// A reserved range of another subnet.
    #[error("{field} is {reserved}, which is not in the subnet {subnet}")]
    Reserved {
        /// Which.
        field: String,
        /// What was said.
        reserved: IpNetwork,
        /// Of which subnet.
        subnet: IpNetwork,
    },
    /// No address is left.
    #[error("{field}: no address of {range} is left for containers")]
    Empty {
        /// Which.
        field: String,
        /// After what is reserved.
        range: String,
    },
    /// A route whose next hop is of the other family.
    #[error("{field}.gw is {gateway}, which is not of the family of {destination}")]
    RouteFamily {
        /// Which.
        field: String,
        /// What was said.
        gateway: IpAddr,
        /// To where.
        destination: IpNetwork,
    },
}

impl Addressing {
    /// What `ipam` says by itself; without it, or without subnets, nothing: see
    /// [`Addressing::add_node_subnets`].
    ///
    /// # Errors
    ///
    /// [`IpamError`]: the first thing that cannot be.
    pub fn check(ipam: Option<&Ipam>, gateways: Gateways) -> Result<Addressing, IpamError> {
        let mut addressing = Addressing {
            all_on_link: gateways == Gateways::Never,
            ..Addressing::default()
        };
        let Some(ipam) = ipam else {
            return Ok(addressing);
        };
        for (place, subnet) in ipam.subnets.iter().enumerate() {
            let field = format!("ipam.subnets[{place}]");
            let (range, gateway) = check_subnet(subnet, &field, gateways)?;
            let overlaps = |other: &&Range| overlap(other.subnet(), range.subnet());
            if let Some(other) = addressing.ranges.iter().find(overlaps) {
                return Err(IpamError::Overlap {
                    field: format!("{field}.subnet"),
                    subnet: range.subnet(),
                    other: other.subnet(),
                });
            }
            addressing.ranges.push(range);
            addressing.gateways.push(gateway);
        }
        for (place, IpamRoute { dst, gw }) in ipam.routes.iter().flatten().enumerate() {
            let field = format!("ipam.routes[{place}]");
            no_host_bits(&format!("{field}.dst"), *dst)?;
            if let Some(gateway) = gw.filter(|gateway| gateway.is_ipv4() != dst.is_ipv4()) {
                return Err(IpamError::RouteFamily {
                    field,
                    gateway,
                    destination: *dst,
                });
            }
        }
        let routes = ipam.routes.as_ref();
        addressing.routes = routes.map(|all| all.iter().map(|it| (it.dst, it.gw)).collect());
        Ok(addressing)
    }

    /// Adds the node's subnets for pods, those of one Pool if it is named.
    pub fn add_node_subnets(&mut self, node: &NodeFile, pool: Option<&str>, gateways: Gateways) {
        let of_pool = |name: &str| pool.is_none_or(|pool| pool == name);
        let subnets = node.subnets.iter();
        for subnet in subnets.filter(|it| it.purpose == PODS && of_pool(&it.pool)) {
            let gateway = gateways.unless_said(subnet.prefix);
            let range = gateways.range(subnet.prefix, gateway).of_node();
            let range = subnet.reserved.iter().copied().fold(range, Range::reserve);
            self.ranges.push(match subnet.state {
                State::Active => range,
                State::Draining => range.draining(),
            });
            self.gateways.push(gateway);
        }
    }

    /// The gateway of the subnet that an address is of.
    #[must_use]
    pub fn gateway_of(&self, address: IpAddr) -> Option<IpAddr> {
        let mut both = self.ranges.iter().zip(&self.gateways);
        let (_, gateway) = both.find(|(range, _)| range.subnet().contains(address))?;
        *gateway
    }

    /// The routes of a container with these addresses: destination and next hop. Those of a family that it
    /// has no address of are left out.
    #[must_use]
    pub fn routes_of(&self, addresses: &[IpAddr]) -> Vec<(IpNetwork, Option<IpAddr>)> {
        let of_family = |v4: bool| addresses.iter().find(|address| address.is_ipv4() == v4);
        let gateway = |v4: bool| self.gateway_of(*of_family(v4)?);
        let Some(routes) = &self.routes else {
            let defaults = [true, false].map(|v4| {
                of_family(v4)?;
                let by = gateway(v4);
                (by.is_some() || self.all_on_link).then_some((default(v4), by))
            });
            return defaults.into_iter().flatten().collect();
        };
        let routes = routes.iter().filter_map(|(destination, said)| {
            let v4 = destination.is_ipv4();
            of_family(v4)?;
            Some((*destination, said.or_else(|| gateway(v4))))
        });
        routes.collect()
    }
}

/// `0.0.0.0/0` or `::/0`.
#[must_use]
pub fn default(v4: bool) -> IpNetwork {
    let all: IpAddr = match v4 {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNetwork::new(all, 0).unwrap_or(all.into())
}

/// The first address of a subnet that a host may have: behind the network's own or the Subnet-Router anycast
/// address.
fn first_host(subnet: IpNetwork) -> Option<IpAddr> {
    let first = subnet.network();
    let excluded = Range::on_link(subnet, None).exclusion(first).is_some();
    match (first, excluded) {
        (first, false) => Some(first),
        (IpAddr::V4(first), true) => Some(Ipv4Addr::from_bits(first.to_bits() + 1).into()),
        (IpAddr::V6(first), true) => Some(Ipv6Addr::from_bits(first.to_bits() + 1).into()),
    }
}

fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

fn no_host_bits(field: &str, found: IpNetwork) -> Result<IpNetwork, IpamError> {
    match IpNetwork::new(found.network(), found.prefix()) {
        Ok(meant) if meant != found => Err(IpamError::HostBits {
            field: field.to_owned(),
            found,
            meant,
        }),
        _ => Ok(found),
    }
}

fn check_subnet(
    said: &IpamSubnet,
    field: &str,
    gateways: Gateways,
) -> Result<(Range, Option<IpAddr>), IpamError> {
    let subnet = no_host_bits(&format!("{field}.subnet"), said.subnet)?;
    if let Some(gateway) = said.gateway {
        let wrong = match subnet.contains(gateway) {
            _ if gateways == Gateways::Never => {
                Some("of no use: this mode has no gateways".to_owned())
            }
            false => Some(format!("not in the subnet {subnet}")),
            true => Range::on_link(subnet, None)
                .exclusion(gateway)
                .filter(|why| *why != Exclusion::SubnetRouter)
                .map(|why| format!("{why} of {subnet}")),
        };
        if let Some(why) = wrong {
            return Err(IpamError::Gateway {
                field: format!("{field}.gateway"),
                gateway,
                why,
            });
        }
    }
    let gateway = said.gateway.or_else(|| gateways.unless_said(subnet));
    let mut range = gateways.range(subnet, gateway);
    for (name, first, last) in [
        ("rangeStart", said.range_start, None),
        ("rangeEnd", None, said.range_end),
    ] {
        let within = range.within(first, last);
        range = within.map_err(|source| IpamError::Range {
            field: format!("{field}.{name}"),
            source,
        })?;
    }
    for (place, reserved) in said.reserved.iter().enumerate() {
        let field = format!("{field}.reserved[{place}]");
        let reserved = no_host_bits(&field, *reserved)?;
        if !overlap(reserved, subnet) {
            return Err(IpamError::Reserved {
                field,
                reserved,
                subnet,
            });
        }
        range = range.reserve(reserved);
    }
    if range.usable() == 0 {
        return Err(IpamError::Empty {
            field: field.to_owned(),
            range: range.to_string(),
        });
    }
    Ok((range, gateway))
}

impl Gateways {
    fn range(self, subnet: IpNetwork, gateway: Option<IpAddr>) -> Range {
        match self {
            Gateways::Always | Gateways::AsSaid => Range::on_link(subnet, gateway),
            Gateways::Never => Range::routed(subnet),
        }
    }

    fn unless_said(self, subnet: IpNetwork) -> Option<IpAddr> {
        match self {
            Gateways::Always => first_host(subnet),
            Gateways::AsSaid | Gateways::Never => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, gateways: Gateways) -> Result<Addressing, IpamError> {
        let ipam: Ipam = serde_json::from_str(json).unwrap();
        Addressing::check(Some(&ipam), gateways)
    }

    fn refused(json: &str) -> String {
        check(json, Gateways::Always).unwrap_err().to_string()
    }

    const TWO: &str = r#"{"subnets": [
        {"subnet": "10.90.0.0/24", "rangeStart": "10.90.0.10", "rangeEnd": "10.90.0.19", "reserved": ["10.90.0.12", "10.90.0.16/30"]},
        {"subnet": "fd90::/64", "gateway": "fd90::99"}]}"#;

    #[test]
    fn a_bridge_has_a_gateway_in_each_subnet_and_routes_through_them() {
        let checked = check(TWO, Gateways::Always).unwrap();
        let gateways: Vec<_> = checked
            .gateways
            .iter()
            .flatten()
            .map(ToString::to_string)
            .collect();
        assert_eq!(gateways, ["10.90.0.1", "fd90::99"]);
        assert_eq!(checked.ranges[0].usable(), 5);
        let of = |addresses: &[&str]| {
            let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            let routes = checked.routes_of(&addresses).into_iter();
            let texts = routes.map(|(to, by)| format!("{to} {}", by.unwrap()));
            texts.collect::<Vec<_>>()
        };
        assert_eq!(
            of(&["10.90.0.10", "fd90::1"]),
            ["0.0.0.0/0 10.90.0.1", "::/0 fd90::99"]
        );
        assert_eq!(of(&["fd90::1"]), ["::/0 fd90::99"]);
    }

    #[test]
    fn without_a_gateway_there_is_no_default_route() {
        let checked = check(TWO, Gateways::AsSaid).unwrap();
        let addresses = ["10.90.0.10".parse().unwrap(), "fd90::1".parse().unwrap()];
        let routes = checked.routes_of(&addresses);
        assert_eq!(routes.len(), 1);
        assert_eq!(routes[0].0, default(false));
    }

    #[test]
    fn addresses_that_stand_alone_have_everything_on_the_link() {
        let text = r#"{"subnets": [{"subnet": "10.90.0.0/24"}]}"#;
        let checked = check(text, Gateways::Never).unwrap();
        assert_eq!(
            checked.ranges[0],
            Range::routed("10.90.0.0/24".parse().unwrap())
        );
        let routes = checked.routes_of(&["10.90.0.1".parse().unwrap()]);
        assert_eq!(routes, [(default(true), None)]);
        let text = r#"{"subnets": [{"subnet": "10.90.0.0/24", "gateway": "10.90.0.1"}]}"#;
        let refused = check(text, Gateways::Never).unwrap_err().to_string();
        assert!(
            refused.ends_with("of no use: this mode has no gateways"),
            "{refused}"
        );
    }

    #[test]
    fn routes_that_are_said_replace_the_default_route() {
        let text = r#"{"subnets": [{"subnet": "10.90.0.0/24"}], "routes": [{"dst": "192.0.2.0/24"}, {"dst": "198.51.100.0/24", "gw": "10.90.0.7"}, {"dst": "2001:db8::/32"}]}"#;
        let checked = check(text, Gateways::Always).unwrap();
        let routes = checked.routes_of(&["10.90.0.9".parse().unwrap()]);
        let texts: Vec<_> = routes
            .iter()
            .map(|(to, by)| format!("{to} {}", by.unwrap()))
            .collect();
        assert_eq!(
            texts,
            ["192.0.2.0/24 10.90.0.1", "198.51.100.0/24 10.90.0.7"]
        );
        let none = r#"{"subnets": [{"subnet": "10.90.0.0/24"}], "routes": []}"#;
        let checked = check(none, Gateways::Always).unwrap();
        assert_eq!(checked.routes_of(&["10.90.0.9".parse().unwrap()]), []);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_field_and_the_reason() {
        let subnet =
            |fields: &str| format!(r#"{{"subnets": [{{"subnet": "10.90.0.0/24"{fields}}}]}}"#);
        let cases = [
            (
                r#"{"subnets": [{"subnet": "10.90.0.7/24"}]}"#.to_owned(),
                "ipam.subnets[0].subnet is 10.90.0.7/24: it has bits behind its prefix; is 10.90.0.0/24 meant?",
            ),
            (
                r#"{"subnets": [{"subnet": "10.0.0.0/8"}, {"subnet": "10.1.0.0/16"}]}"#.to_owned(),
                "ipam.subnets[1].subnet is 10.1.0.0/16, which overlaps 10.0.0.0/8; an address would be in both",
            ),
            (
                subnet(r#", "rangeStart": "10.91.0.1""#),
                "ipam.subnets[0].rangeStart: 10.91.0.1 is not in the subnet 10.90.0.0/24; a range must begin and end in its subnet",
            ),
            (
                subnet(r#", "rangeEnd": "fd00::1""#),
                "ipam.subnets[0].rangeEnd: fd00::1 is not in the subnet 10.90.0.0/24; a range must begin and end in its subnet",
            ),
            (
                subnet(r#", "rangeStart": "10.90.0.9", "rangeEnd": "10.90.0.8""#),
                "ipam.subnets[0].rangeEnd: the range 10.90.0.9 to 10.90.0.8 of 10.90.0.0/24 ends before it begins",
            ),
            (
                subnet(r#", "gateway": "10.90.1.1""#),
                "ipam.subnets[0].gateway is 10.90.1.1, which is not in the subnet 10.90.0.0/24",
            ),
            (
                subnet(r#", "gateway": "10.90.0.255""#),
                "ipam.subnets[0].gateway is 10.90.0.255, which is the broadcast address of 10.90.0.0/24",
            ),
            (
                subnet(r#", "reserved": ["10.91.0.0/24"]"#),
                "ipam.subnets[0].reserved[0] is 10.91.0.0/24, which is not in the subnet 10.90.0.0/24",
            ),
            (
                subnet(r#", "rangeStart": "10.90.0.1", "rangeEnd": "10.90.0.1""#),
                "ipam.subnets[0]: no address of 10.90.0.1-10.90.0.1 of 10.90.0.0/24 is left for containers",
            ),
            (
                r#"{"routes": [{"dst": "0.0.0.0/0", "gw": "fd00::1"}]}"#.to_owned(),
                "ipam.routes[0].gw is fd00::1, which is not of the family of 0.0.0.0/0",
            ),
        ];
        for (text, told) in cases {
            assert_eq!(refused(&text), told, "{text}");
        }
    }

    #[test]
    fn the_first_host_of_a_subnet_is_its_gateway_unless_another_is_said() {
        let first = |text: &str| first_host(text.parse().unwrap()).unwrap().to_string();
        assert_eq!(first("10.0.0.0/24"), "10.0.0.1");
        assert_eq!(first("10.0.0.0/31"), "10.0.0.0");
        assert_eq!(first("fd00::/64"), "fd00::1");
        assert_eq!(first("fd00::/127"), "fd00::");
    }
}
