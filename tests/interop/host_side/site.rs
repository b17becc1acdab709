//! The machines of these tests, and who asks whom.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use lab::cni::{CniNode, Container};
use lab::speaker::Speaker;
use lab::{Lab, Namespace, wait_for};
use serde_json::Value;

use super::SOON;

pub(super) const OUTSIDE: &str = "203.0.113.9";
pub(super) const OUTSIDE6: &str = "2001:db8:f::9";
pub(super) const FABRIC: &str = "";
/// Pods that believe the path is wider than it is.
pub(super) const CLAMPED: &str = ", pods: {mtu: 1500}";
/// `hostPort`.
pub(super) const PORTMAP: &str = ", pods: {chained: [portmap]}";
pub(super) const MASQUERADE: &str = "masquerade: {exempt: [172.16.0.0/12, \"2001:db8:e::/48\"]}";

/// Everybody else, on one machine.
const OTHERS: &[&str] = &[
    "203.0.113.9/32",
    "172.16.0.9/32",
    "10.64.2.9/32",
    "10.0.9.12/32",
    "2001:db8:f::9/128",
    "2001:db8:e::9/128",
    "fd00:64:0:2::9/128",
    "fd00:9::12/128",
];
/// Where who is asked says who asks, and where it gives back what it is sent.
pub(super) const WHO: u16 = 7001;
const ECHO: u16 = 7002;
/// More than any socket's buffers hold.
const BYTES: usize = 8 << 20;

/// The machines, with cables and routes between them, before anything runs.
pub(super) struct Machines {
    node: Namespace,
    tor: Namespace,
    others: Namespace,
    lab: Lab,
}

/// A pod on the node, and speakers on node and ToR.
pub(super) struct Site<'a> {
    container: Container,
    neighbour: Container,
    pub(super) speaker: Speaker<'a>,
    pub(super) cni: CniNode<'a>,
    _tor_speaker: Speaker<'a>,
    machines: &'a Machines,
}

fn resources(fabric: &str, masquerade: &str) -> String {
    format!(
        "apiVersion: routeshare.io/v1alpha1\nkind: Fabric\nmetadata: {{name: fabric}}\n\
         spec: {{asn: {{value: 65001}}, nodeSubnets: Adopt{fabric}}}\n---\n\
         apiVersion: routeshare.io/v1alpha1\nkind: Pool\nmetadata: {{name: pods}}\n\
         spec: {{prefixes: [10.64.0.0/16, \"fd00:64::/48\"], {masquerade}}}\n---\n\
         apiVersion: routeshare.io/v1alpha1\nkind: Node\nmetadata: {{name: n1}}\n\
         spec: {{addresses: [10.0.1.11, \"fd00:1::11\"], subnets: [10.64.1.0/24, \"fd00:64:0:1::/64\"]}}\n---\n\
         apiVersion: routeshare.io/v1alpha1\nkind: Node\nmetadata: {{name: n2}}\n\
         spec: {{addresses: [10.0.9.12, \"fd00:9::12\"], subnets: [10.64.2.0/24, \"fd00:64:0:2::/64\"]}}\n---\n\
         {}",
        speaking(&[("tor", "10.0.1.1"), ("tor6", "fd00:1::1")], 65000)
    )
}

fn tor_resources() -> String {
    format!(
        "apiVersion: routeshare.io/v1alpha1\nkind: Fabric\nmetadata: {{name: fabric}}\n\
         spec: {{asn: {{value: 65000}}}}\n---\n\
         apiVersion: routeshare.io/v1alpha1\nkind: Node\nmetadata: {{name: tor}}\n\
         spec: {{addresses: [10.0.1.1, \"fd00:1::1\"]}}\n---\n\
         {}",
        speaking(&[("n1", "10.0.1.11"), ("n1-6", "fd00:1::11")], 65001)
    )
}

fn speaking(peers: &[(&str, &str)], asn: u32) -> String {
    let peers = peers.iter().map(|(name, address)| {
        let family = if address.contains(':') { "IPv6" } else { "IPv4" };
        format!(
            "apiVersion: routeshare.io/v1alpha1\nkind: Peer\nmetadata: {{name: {name}}}\n\
             spec: {{address: \"{address}\", remoteAsn: {asn}, families: [{family}], import: [all], export: [all]}}\n---\n"
        )
    });
    let peers: String = peers.collect();
    format!(
        "{peers}apiVersion: routeshare.io/v1alpha1\nkind: RoutePolicy\nmetadata: {{name: all}}\n\
         spec: {{rules: [{{action: Accept}}]}}\n---\n\
         apiVersion: routeshare.io/v1alpha1\nkind: Advertisement\nmetadata: {{name: subnets}}\n\
         spec: {{nodeSubnets: {{}}}}\n"
    )
}

impl Machines {
    pub(super) fn new() -> anyhow::Result<Machines> {
        let lab = Lab::new()?;
        let [node, tor, others] = [
            lab.machine("n1")?,
            lab.machine("tor")?,
            lab.machine("others")?,
        ];
        node.cable(
            "eth0",
            &["10.0.1.11/24", "fd00:1::11/64"],
            &tor,
            "eth0",
            &["10.0.1.1/24", "fd00:1::1/64"],
        )?;
        tor.cable(
            "eth1",
            &["10.0.2.1/24", "fd00:2::1/64"],
            &others,
            "eth0",
            &["10.0.2.2/24", "fd00:2::2/64"],
        )?;
        others.raise("lo", OTHERS)?;
        let ways = OTHERS.iter().map(|prefix| {
            let via = if prefix.contains(':') {
                "fd00:2::2"
            } else {
                "10.0.2.2"
            };
            format!("route add {prefix} via {via}")
        });
        let ways: Vec<String> = ways.collect();
        tor.ip(ways.iter().map(String::as_str))?;
        others.ip([
            "route add default via 10.0.2.1",
            "route add default via fd00:2::1",
        ])?;
        node.ip([
            "route add default via 10.0.1.1",
            "route add default via fd00:1::1",
        ])?;
        // As a host is before it is a node.
        node.set(&[
            ("net/ipv4/ip_forward", "0"),
            ("net/ipv6/conf/all/forwarding", "0"),
        ])?;
        for machine in [&tor, &others] {
            serve(machine)?;
        }
        Ok(Machines {
            node,
            tor,
            others,
            lab,
        })
    }
}

impl Machines {
    pub(super) fn directory(&self) -> &std::path::Path {
        self.lab.directory()
    }
}

impl<'a> Site<'a> {
    /// Starts all of it and a pod, and waits until the pod reaches the peer.
    pub(super) fn start(
        machines: &'a Machines,
        fabric: &str,
        masquerade: &str,
    ) -> anyhow::Result<Site<'a>> {
        let Machines { node, tor, lab, .. } = machines;
        let cni = CniNode::new(lab, node, "n1")?;
        let tor_speaker = Speaker::start(tor, lab.directory(), "tor", &tor_resources())?;
        let files = lab.directory().join("n1/resources");
        std::fs::create_dir_all(&files)?;
        std::fs::write(files.join("resources.yaml"), resources(fabric, masquerade))?;
        let told = [
            "--standalone".to_owned(),
            format!("--resources={}", files.display()),
            format!("--cni-conf-dir={}", cni.conf_dir().display()),
            format!("--cni-data-dir={}", cni.data_dir().display()),
        ];
        let speaker = Speaker::start_with(node, lab.directory(), "n1", told.into())?;
        let container = lab.container("pod")?;
        wait_for("the network configuration", SOON, || {
            let found = cni.conf_dir().join("10-routeshare.conflist").exists();
            ensure!(found, "{}", speaker.bgpctl("show status")?);
            Ok(())
        });
        cni.add("routeshare", &container)?;
        let neighbour = lab.container("neighbour")?;
        cni.add("routeshare", &neighbour)?;
        serve(neighbour.namespace())?;
        let site = Site {
            container,
            neighbour,
            speaker,
            cni,
            _tor_speaker: tor_speaker,
            machines,
        };
        wait_for("answers to the pod", SOON, || {
            site.seen_by("10.0.1.1")?;
            site.seen_by("fd00:1::1")?;
            Ok(())
        });
        site.wait_for_host_side();
        Ok(site)
    }

    /// The node as the plugin's tests know it.
    pub(super) fn cni(&self) -> anyhow::Result<CniNode<'a>> {
        CniNode::new(&self.machines.lab, &self.machines.node, "n1")
    }

    /// A further container, attached to nothing.
    pub(super) fn container(&self, name: &str) -> anyhow::Result<Container> {
        self.machines.lab.container(name)
    }

    pub(super) fn pod(&self) -> &Namespace {
        self.container.namespace()
    }

    pub(super) fn node(&self) -> &Namespace {
        &self.machines.node
    }

    pub(super) fn others(&self) -> &Namespace {
        &self.machines.others
    }

    /// Waits until our table is there and nothing is wrong with the host.
    pub(super) fn wait_for_host_side(&self) {
        wait_for("the host's side", SOON, || {
            let table = self.table()?;
            ensure!(table.contains("chain forward"), "{table}");
            let status = self.speaker.json("show status")?;
            let problems = status["problems"].as_array().cloned().unwrap_or_default();
            let ours = ["Nftables", "Forwarding", "ReversePathFilter"];
            let is_ours = |problem: &Value| ours.iter().any(|reason| problem["reason"] == *reason);
            ensure!(!problems.iter().any(is_ours), "{problems:?}");
            Ok(())
        });
    }

    pub(super) fn edit(&self, fabric: &str, masquerade: &str) -> anyhow::Result<()> {
        self.speaker.edit(&resources(fabric, masquerade))
    }

    pub(super) fn node_run(&self, line: &str) -> anyhow::Result<String> {
        self.machines.node.run(line)
    }

    /// Another container, of a network of the test's own.
    pub(super) fn attached(&self, network: &str, name: &str) -> anyhow::Result<Container> {
        let container = self.machines.lab.container(name)?;
        self.cni.add(network, &container)?;
        Ok(container)
    }

    /// Our table as `nft` prints it, without counters.
    pub(super) fn table(&self) -> anyhow::Result<String> {
        self.machines
            .node
            .run("nft --stateless list table inet routeshare")
    }

    /// The pod's addresses.
    pub(super) fn pod_addresses(&self) -> (String, String) {
        addresses(&self.container)
    }

    /// Those of another pod on the node, which says who asks, too.
    pub(super) fn neighbour_addresses(&self) -> (String, String) {
        addresses(&self.neighbour)
    }

    /// Whom somebody at this address takes for the one who asks, when the pod does.
    pub(super) fn seen_by(&self, to: &str) -> anyhow::Result<String> {
        ask(self.container.namespace(), to, None)
    }

    /// The same of any container.
    pub(super) fn seen_of(&self, container: &Container, to: &str) -> anyhow::Result<String> {
        ask(container.namespace(), to, None)
    }

    /// Who the pod is asked by when a machine of an exempt network does so.
    pub(super) fn pod_is_asked_by_others(&self) -> anyhow::Result<String> {
        serve(self.container.namespace())?;
        let (pod, _) = self.pod_addresses();
        ask(&self.machines.others, &pod, Some("172.16.0.9"))
    }

    /// A connection of the pod to somebody who gives back what it is sent.
    pub(super) fn connect(&self, to: &str) -> anyhow::Result<TcpStream> {
        connect(self.container.namespace(), to, ECHO)
    }

    /// The path between node and ToR becomes narrow, and neither the pod nor the others hear of packets that
    /// do not fit.
    pub(super) fn narrow(&self, mtu: u32) -> anyhow::Result<()> {
        let line = format!("link set eth0 mtu {mtu}");
        self.machines.node.ip([line.as_str()])?;
        self.machines.tor.ip([line.as_str()])?;
        for machine in [self.container.namespace(), &self.machines.others] {
            for line in [
                "nft add table inet deaf",
                "nft add chain inet deaf input { type filter hook input priority 0 ; }",
                "nft add rule inet deaf input icmp type destination-unreachable drop",
                "nft add rule inet deaf input icmpv6 type packet-too-big drop",
            ] {
                machine.run(line)?;
            }
        }
        Ok(())
    }

    /// Sends a lot from the pod, and gets all of it back.
    pub(super) fn transfers(&self, to: &str, deadline: Duration) -> anyhow::Result<()> {
        let mut stream = self.connect(to)?;
        stream.set_read_timeout(Some(deadline))?;
        stream.set_write_timeout(Some(deadline))?;
        let mut sending = stream.try_clone()?;
        let sender = thread::spawn(move || sending.write_all(&vec![7; BYTES]));
        let mut bytes = vec![0; BYTES];
        let received = stream.read_exact(&mut bytes);
        let shut = stream.shutdown(std::net::Shutdown::Both);
        let Ok(sent) = sender.join() else {
            bail!("the sender panicked");
        };
        sent.context("cannot send it all")?;
        received.context("not all comes back")?;
        shut?;
        Ok(())
    }
}

fn addresses(container: &Container) -> (String, String) {
    let shown = container.ip_json("address show eth0").unwrap();
    let addresses = shown[0]["addr_info"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let of = |family: &str| -> String {
        let of_family = |it: &&Value| it["family"] == family && it["scope"] == "global";
        let found = addresses.iter().find(of_family).expect("an address");
        found["local"].as_str().expect("a text").to_owned()
    };
    (of("inet"), of("inet6"))
}

/// Says on a machine who asks, and gives back what is sent, for as long as the test's process lives.
pub(super) fn serve(machine: &Namespace) -> anyhow::Result<()> {
    let bind = |port| machine.within(move || TcpListener::bind(("::", port)));
    let (who, echo) = (bind(WHO)??, bind(ECHO)??);
    thread::spawn(move || {
        for stream in who.incoming().flatten() {
            let Ok(peer) = stream.peer_addr() else {
                continue;
            };
            let peer = peer.ip().to_canonical();
            let _ = writeln!(&stream, "{peer}"); // the asker may be gone
        }
    });
    thread::spawn(move || {
        for stream in echo.incoming().flatten() {
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    Ok(())
}

fn connect(from: &Namespace, to: &str, port: u16) -> anyhow::Result<TcpStream> {
    let to = SocketAddr::new(to.parse::<IpAddr>()?, port);
    let stream = from.within(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))?;
    let stream = stream.with_context(|| format!("cannot connect to {to}"))?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

/// Asks who asks; from an address of the machine where it is said.
fn ask(from: &Namespace, to: &str, source: Option<&str>) -> anyhow::Result<String> {
    ask_at(from, to, WHO, source)
}

/// The same at another port.
pub(super) fn ask_at(
    from: &Namespace,
    to: &str,
    port: u16,
    source: Option<&str>,
) -> anyhow::Result<String> {
    if let Some(source) = source {
        let (length, via) = match source.contains(':') {
            true => (128, "fd00:2::1"),
            false => (32, "10.0.2.1"),
        };
        from.ip([format!("route replace {to}/{length} via {via} src {source}").as_str()])?;
    }
    let stream = connect(from, to, port)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}
