//! The machines of a measurement: the daemon's, and one where all its peers live.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use lab::{Lab, Namespace};

use crate::daemons::{DAEMON_ASN, Peer};
use crate::table::{Family, NextHop};

/// How many peers fit on one network.
pub(crate) const MOST_PEERS: usize = 200;

/// Our end of cable `network` is host 1, its peer's host 2.
pub(crate) fn v4(network: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, network, host)
}

/// As [`v4`], for IPv6.
pub(crate) fn v6(network: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd99, network.into(), 0, 0, 0, 0, 0, host.into())
}

/// The addresses of a cable's end, as `ip address add` takes them.
pub(crate) fn end(network: u8, host: u8) -> [String; 2] {
    [
        format!("{}/24", v4(network, host)),
        format!("{}/64", v6(network, host)),
    ]
}

/// Somebody who talks with the daemon.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) asn: u32,
    pub(crate) address: Ipv4Addr,
    /// The daemon's address there.
    pub(crate) daemon: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Place {
    /// At the end of cable `network`.
    pub(crate) fn on_cable(network: u8) -> Place {
        Place {
            asn: DAEMON_ASN + u32::from(network),
            address: v4(network, 2),
            daemon: v4(network, 1),
            v6: v6(network, 2),
        }
    }

    /// Number `index` of many on cable 1.
    pub(crate) fn among_many(index: usize) -> Place {
        let host = 2 + (index % MOST_PEERS) as u8;
        Place {
            asn: DAEMON_ASN + 1 + index as u32,
            address: v4(1, host),
            daemon: v4(1, 1),
            v6: v6(1, host),
        }
    }

    /// As the daemon's configuration names it.
    pub(crate) fn peer(self) -> Peer {
        Peer {
            asn: self.asn,
            address: self.address,
        }
    }

    /// The next hop it announces.
    pub(crate) fn next_hop(self, family: Family) -> NextHop {
        match family {
            Family::Ipv4 => NextHop::V4(self.address),
            Family::Ipv6 => NextHop::V6(self.v6),
        }
    }
}

/// The daemon's machine and the peers' machine.
pub(crate) struct Network {
    pub(crate) dut: Namespace,
    pub(crate) peers: Namespace,
    pub(crate) lab: Lab,
}

impl Network {
    /// With `cables` cables, each with one peer at its end; the first has [`MOST_PEERS`] if `many`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn new(cables: u8, many: bool) -> Result<Network> {
        let lab = Lab::new()?;
        let (dut, peers) = (lab.machine("dut")?, lab.machine("peers")?);
        // A full IPv6 table is more than the kernel allows by itself.
        dut.set(&[("net/ipv6/route/max_size", "4194304")])?;
        for network in 1..=cables {
            let (ours, mut theirs) = (end(network, 1).to_vec(), end(network, 2).to_vec());
            if many && network == 1 {
                theirs.extend((3..2 + MOST_PEERS as u8).flat_map(|host| end(1, host)));
            }
            let name = format!("link{network}");
            dut.cable(&name, &strs(&ours), &peers, &name, &strs(&theirs))?;
        }
        Ok(Network { dut, peers, lab })
    }

    /// Where routes of `family` lead in the floor's measurement, and over which interface.
    ///
    /// # Errors
    ///
    /// When the interface is gone.
    pub(crate) fn gateway(&self, family: Family) -> Result<(IpAddr, u32)> {
        let gateway = match family {
            Family::Ipv4 => v4(1, 2).into(),
            Family::Ipv6 => v6(1, 2).into(),
        };
        let index = self
            .dut
            .within(|| nix::net::if_::if_nametoindex("link1"))??;
        Ok((gateway, index))
    }
}

/// As `cable` of the lab takes addresses.
pub(crate) fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}
