//! Our own addresses on a connection, for NEXT_HOP: the one TCP uses, and the other family's on the
//! same interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bgp::engine::LocalAddresses;
use nix::ifaddrs::getifaddrs;

/// An address and the interface that has it.
type Assigned = (String, IpAddr);

/// Adds the other family's address to the one of the connection.
pub(super) fn complete(address: IpAddr) -> LocalAddresses {
    Host::now().complete(address)
}

/// All addresses of this host.
pub(super) struct Host(Vec<Assigned>);

impl Host {
    /// As they are now.
    pub(super) fn now() -> Host {
        Host(assigned())
    }

    /// Adds the other family's address.
    pub(super) fn complete(&self, address: IpAddr) -> LocalAddresses {
        LocalAddresses {
            address,
            other_family: other_family(address, &self.0),
        }
    }
}

fn assigned() -> Vec<Assigned> {
    // Without the list only the session's own family can be advertised, and `explain` says so.
    getifaddrs().map_or_else(
        |error| {
            tracing::warn!(%error, "cannot list the addresses of this host");
            Vec::new()
        },
        |list| {
            list.filter_map(|entry| Some((entry.interface_name, ip(entry.address?)?)))
                .collect()
        },
    )
}

fn ip(address: nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// The first usable address of the other family on the interface that has `address`; the loopback
/// interface counts last, for hosts that are known by a loopback address.
fn other_family(address: IpAddr, all: &[Assigned]) -> Option<IpAddr> {
    let here = all
        .iter()
        .find(|(_, assigned)| *assigned == address)
        .map(|(name, _)| name);
    let on_same = all.iter().filter(|(name, _)| Some(name) == here);
    let on_loopback = all.iter().filter(|(name, _)| name == "lo");
    let mut candidates = on_same.chain(on_loopback).map(|(_, assigned)| *assigned);
    candidates.find(|other| match other {
        IpAddr::V4(other) => address.is_ipv6() && usable4(*other),
        IpAddr::V6(other) => address.is_ipv4() && usable6(*other),
    })
}

fn usable4(address: Ipv4Addr) -> bool {
    !address.is_loopback() && !address.is_link_local() && !address.is_unspecified()
}

fn usable6(address: Ipv6Addr) -> bool {
    !address.is_loopback() && !address.is_unicast_link_local() && !address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Vec<Assigned> {
        [
            ("lo", "127.0.0.1"),
            ("lo", "::1"),
            ("lo", "2001:db8::1"),
            ("eth0", "192.0.2.1"),
            ("eth0", "fe80::1"),
            ("eth0", "2001:db8:1::1"),
            ("eth1", "198.51.100.1"),
            ("eth1", "fe80::2"),
        ]
        .map(|(name, address)| (name.to_owned(), address.parse().unwrap()))
        .to_vec()
    }

    fn chosen(address: &str) -> Option<String> {
        other_family(address.parse().unwrap(), &host()).map(|other| other.to_string())
    }

    #[test]
    fn the_other_familys_address_is_the_global_one_on_the_same_interface() {
        assert_eq!(chosen("192.0.2.1").unwrap(), "2001:db8:1::1");
        assert_eq!(chosen("2001:db8:1::1").unwrap(), "192.0.2.1");
        assert_eq!(chosen("fe80::2").unwrap(), "198.51.100.1");
    }

    #[test]
    fn an_interface_without_one_falls_back_to_the_loopback_interfaces_global_address() {
        assert_eq!(chosen("198.51.100.1").unwrap(), "2001:db8::1");
        assert_eq!(chosen("203.0.113.1").unwrap(), "2001:db8::1");
    }

    #[test]
    fn addresses_that_mean_this_host_only_are_never_next_hops() {
        assert_eq!(chosen("2001:db8::1"), None);
    }
}
