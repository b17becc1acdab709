//! What the demo is made of: names, numbers and addresses, and the machines with their cables.
//!
//! The numbers are those of `examples/two-racks` and `examples/tor`, which the demo runs.

use std::net::{Ipv4Addr, Ipv6Addr};

use lab::Namespace;

use super::site::Site;

/// The controller's address on the management network.
pub(crate) const CONTROLLER: &str = "172.30.0.1";
/// AS number of the spine.
pub(crate) const SPINE_ASN: u32 = 65000;

/// A rack: a ToR router and its nodes on one network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rack {
    /// One letter.
    pub(crate) name: &'static str,
    /// Stands in the addresses.
    number: u8,
    /// AS number of the ToR.
    pub(crate) tor_asn: u32,
    /// AS number of the nodes.
    pub(crate) node_asn: u32,
}

/// Both.
pub(crate) const RACKS: [Rack; 2] = [
    Rack {
        name: "a",
        number: 1,
        tor_asn: 65101,
        node_asn: 65201,
    },
    Rack {
        name: "b",
        number: 2,
        tor_asn: 65102,
        node_asn: 65202,
    },
];

impl Rack {
    /// `tor-a`.
    pub(crate) fn tor(self) -> String {
        format!("tor-{}", self.name)
    }

    /// The ToR towards its nodes.
    pub(crate) fn gateway(self) -> (Ipv4Addr, Ipv6Addr) {
        let number = u16::from(self.number);
        (
            Ipv4Addr::new(10, self.number, 0, 1),
            Ipv6Addr::new(0xfd00, number, 0, 0, 0, 0, 0, 1),
        )
    }

    /// The link to the spine: our end, its end.
    pub(crate) fn uplink(self) -> ((Ipv4Addr, Ipv6Addr), (Ipv4Addr, Ipv6Addr)) {
        let number = u16::from(self.number);
        let v6 = |last| Ipv6Addr::new(0xfd00, 0, number, 0, 0, 0, 0, last);
        (
            (Ipv4Addr::new(10, 0, self.number, 1), v6(1)),
            (Ipv4Addr::new(10, 0, self.number, 0), v6(2)),
        )
    }
}

/// A machine that runs pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Rack and number: `a1`.
    pub(crate) name: &'static str,
    /// Of its rack.
    pub(crate) rack: usize,
    /// Stands in the addresses.
    number: u8,
}

/// Those that are there from the beginning.
pub(crate) const NODES: [Node; 4] = [
    node("a1", 0, 1),
    node("a2", 0, 2),
    node("b1", 1, 1),
    node("b2", 1, 2),
];
/// The one that is added while everything runs.
pub(crate) const NEWCOMER: Node = node("b3", 1, 3);

const fn node(name: &'static str, rack: usize, number: u8) -> Node {
    Node { name, rack, number }
}

impl Node {
    /// Where it is.
    pub(crate) fn rack(self) -> Rack {
        RACKS[self.rack]
    }

    /// Towards the ToR.
    pub(crate) fn addresses(self) -> (Ipv4Addr, Ipv6Addr) {
        let rack = self.rack().number;
        // Written alike in both families: .11 and ::11.
        let last = 0x10 + u16::from(self.number);
        (
            Ipv4Addr::new(10, rack, 0, 10 + self.number),
            Ipv6Addr::new(0xfd00, rack.into(), 0, 0, 0, 0, 0, last),
        )
    }

    /// On the management network.
    fn management(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, 10 * self.rack().number + self.number)
    }

    /// Its resource, as it stands in nodes.yaml.
    pub(crate) fn resource(self) -> String {
        let (v4, v6) = self.addresses();
        format!(
            "---\napiVersion: routeshare.io/v1alpha1\nkind: Node\nmetadata: {{name: {}, labels: {{rack: \
             {}}}}}\nspec: {{addresses: [{v4}, \"{v6}\"]}}\n",
            self.name,
            self.rack().name
        )
    }
}

/// The name of a node's machine.
pub(crate) fn machine(node: Node) -> String {
    format!("node-{}", node.name)
}

/// The name of a pod's machine.
pub(crate) fn pod(node: &str, number: usize) -> String {
    format!("pod-{node}-{number}")
}

/// Every machine there can be, for tearing down.
pub(crate) fn all_machines() -> Vec<String> {
    let mut machines = vec!["controller".to_owned(), "spine".to_owned()];
    machines.extend(RACKS.map(Rack::tor));
    for node in NODES.into_iter().chain([NEWCOMER]) {
        machines.extend((1..=super::PODS).map(|number| pod(node.name, number)));
        machines.push(machine(node));
    }
    machines
}

/// All machines but the pods, with their cables.
pub(crate) struct Machines {
    pub(crate) controller: Namespace,
    pub(crate) spine: Namespace,
    pub(crate) tors: Vec<Namespace>,
    /// Of [`NODES`], then of [`NEWCOMER`].
    pub(crate) nodes: Vec<Namespace>,
}

impl Machines {
    /// Makes them and lays the cables, telling `now` which.
    pub(crate) fn build(site: &Site, now: impl Fn(&str)) -> anyhow::Result<Machines> {
        let controller = site.create("controller")?;
        controller.bridge("mgmt", &[], &[&format!("{CONTROLLER}/24")])?;
        let spine = site.create("spine")?;
        let mut tors = Vec::new();
        for rack in RACKS {
            now(&rack.tor());
            let tor = site.create(&rack.tor())?;
            let ((tor4, tor6), (spine4, spine6)) = rack.uplink();
            tor.cable(
                "spine",
                &[&format!("{tor4}/31"), &format!("{tor6}/64")],
                &spine,
                &rack.tor(),
                &[&format!("{spine4}/31"), &format!("{spine6}/64")],
            )?;
            let (gateway4, gateway6) = rack.gateway();
            let addresses = [format!("{gateway4}/24"), format!("{gateway6}/64")];
            tor.bridge("rack", &[], &[&addresses[0], &addresses[1]])?;
            tors.push(tor);
        }
        let mut nodes = Vec::new();
        for node in NODES.into_iter().chain([NEWCOMER]) {
            now(node.name);
            let machine = site.create(&machine(node))?;
            let (v4, v6) = node.addresses();
            let addresses = [format!("{v4}/24"), format!("{v6}/64")];
            let tor = &tors[node.rack];
            machine.cable("eth0", &[&addresses[0], &addresses[1]], tor, node.name, &[])?;
            tor.ip([format!("link set {} master rack", node.name).as_str()])?;
            let management = format!("{}/24", node.management());
            machine.cable("mgmt", &[&management], &controller, node.name, &[])?;
            controller.ip([format!("link set {} master mgmt", node.name).as_str()])?;
            nodes.push(machine);
        }
        Ok(Machines {
            controller,
            spine,
            tors,
            nodes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_examples() {
        let (v4, v6) = NODES[3].addresses();
        assert_eq!(
            (v4.to_string(), v6.to_string()),
            ("10.2.0.12".into(), "fd00:2::12".into())
        );
        let example = include_str!("../../../examples/two-racks/nodes.yaml");
        for node in NODES {
            assert!(
                example.contains(node.resource().trim_start_matches("---\n")),
                "{node:?}"
            );
        }
        let tor = include_str!("../../../examples/tor/tor-b/tor.yaml");
        let ((up4, up6), (down4, _)) = RACKS[1].uplink();
        assert!(tor.contains(&format!("{up4}, \"{up6}\"")));
        assert!(tor.contains(&format!("address: {down4},")));
    }

    #[test]
    fn names_fit_into_an_interface() {
        for machine in all_machines() {
            assert!(Site::to_stay().namespace(&machine).len() < 16, "{machine}");
        }
    }
}
