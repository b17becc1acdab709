//! Machines on the cluster's LAN.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Cluster;
use crate::namespace::Namespace;

/// The bridge of the LAN on the control plane's machine.
const LAN: &str = "lan";

pub(super) fn raise(control: &Namespace) -> anyhow::Result<()> {
    let mut addresses = vec!["10.99.0.1/16".to_owned(), "fd99::1/64".to_owned()];
    // One for each replica of the controller.
    addresses.extend((1..=3).map(|number| format!("10.99.0.1{number}/16")));
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    control.bridge(LAN, &[], &addresses)
}

/// A machine with its interface `lan` on the cluster's LAN; gone when dropped.
#[derive(Debug)]
pub struct ClusterNode {
    /// As Kubernetes calls it.
    pub name: String,
    /// Where its programs run.
    pub machine: Namespace,
    /// Its address on the LAN.
    pub v4: Ipv4Addr,
    /// Its IPv6 address on the LAN.
    pub v6: Ipv6Addr,
}

impl Cluster {
    /// A machine on the LAN: number `n` has the addresses 10.99.1.n and fd99::1:n. Kubernetes does not
    /// know of it until [`create_node`](Cluster::create_node).
    ///
    /// # Errors
    ///
    /// When the kernel refuses, as it does a number that is taken.
    pub fn machine(&self, name: &str, number: u8) -> anyhow::Result<ClusterNode> {
        let machine = self.lab().machine(name)?;
        let v4 = Ipv4Addr::new(10, 99, 1, number);
        let v6 = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 1, number.into());
        let port = format!("port{number}");
        let addresses = [format!("{v4}/16"), format!("{v6}/64")];
        let addresses = addresses.each_ref().map(String::as_str);
        self.control()
            .cable(&port, &[], &machine, LAN, &addresses)?;
        let line = format!("link set {port} master {LAN}");
        self.control().ip([line.as_str()])?;
        Ok(ClusterNode {
            name: name.to_owned(),
            machine,
            v4,
            v6,
        })
    }

    /// A [machine](Cluster::machine) that is a Node of the cluster too, with both its addresses and
    /// these labels.
    ///
    /// # Errors
    ///
    /// When the kernel or the API server refuses.
    pub fn node(
        &self,
        name: &str,
        number: u8,
        labels: &[(&str, &str)],
    ) -> anyhow::Result<ClusterNode> {
        let node = self.machine(name, number)?;
        let addresses = [node.v4.to_string(), node.v6.to_string()];
        let addresses = addresses.each_ref().map(String::as_str);
        self.create_node(name, &addresses, labels)?;
        Ok(node)
    }
}
