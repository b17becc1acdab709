//! Networks with subnets of their own, and a world that does not know the way back to them.
//!
//! ```text
//!  container ── br-web (ipMasq) ─┐
//!  container ── br-plain ────────┼── host ── eth0 ═══ outside, with no route to any of them
//!  pod (routed) ─────────────────┘
//! ```

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use lab::cni::{CniNode, Container};
use lab::{Lab, Namespace};
use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};
use serde_json::{Value, json};

use super::traffic::{addresses, does_not_reach, reaches};

const OUTSIDE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const HOST: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const PORT: u16 = 7003;

struct Site {
    lab: Lab,
    host: Namespace,
    outside: Namespace,
}

impl Site {
    fn new() -> Site {
        let lab = Lab::new().unwrap();
        let [host, outside] = ["host", "outside"].map(|name| lab.machine(name).unwrap());
        let of = |addresses: [&str; 2], lengths: [&str; 2]| {
            [0, 1].map(|it| format!("{}/{}", addresses[it], lengths[it]))
        };
        let lengths = ["30", "64"];
        let (here, there) = (of(HOST, lengths), of(OUTSIDE, lengths));
        host.cable(
            "eth0",
            &[&here[0], &here[1]],
            &outside,
            "eth0",
            &[&there[0], &there[1]],
        )
        .unwrap();
        let defaults = OUTSIDE.map(|address| format!("route add default via {address}"));
        host.ip(defaults.iter().map(String::as_str)).unwrap();
        Site { lab, host, outside }
    }

    fn node(&self) -> CniNode<'_> {
        CniNode::new(&self.lab, &self.host, "host").unwrap()
    }

    fn attach(&self, node: &CniNode<'_>, network: &str, name: &str) -> (Container, [String; 2]) {
        let container = self.lab.container(name).unwrap();
        let addresses = addresses(&node.add(network, &container).unwrap());
        (container, addresses)
    }
}

/// The network number `n`, which nobody but the host knows.
fn network(node: &CniNode<'_>, name: &str, n: u8, more: Value) {
    let subnets = [format!("10.91.{n}.0/24"), format!("fd91:0:0:{n}::/64")];
    let subnets = subnets.map(|subnet| json!({"subnet": subnet}));
    let mut plugin = json!({"mode": "bridge", "ipam": {"subnets": subnets}});
    let fields = plugin.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    node.network(name, &[node.plugin(plugin)]).unwrap();
}

/// Who asks, and the largest TCP segments, as both sides see it.
struct Seen {
    source: String,
    segments: [u32; 2],
}

/// A connection from a container to a machine.
fn ask(from: &Namespace, to: &Namespace, address: &str) -> anyhow::Result<Seen> {
    let address: IpAddr = address.parse()?;
    let any = match address {
        IpAddr::V4(_) => "0.0.0.0",
        IpAddr::V6(_) => "::",
    };
    let listener = to.within(|| TcpListener::bind((any, PORT)))??;
    let server = thread::spawn(move || -> anyhow::Result<(SocketAddr, u32)> {
        let (stream, source) = listener.accept()?;
        Ok((source, getsockopt(&stream, TcpMaxSeg)?))
    });
    let to = SocketAddr::from((address, PORT));
    let stream = from.within(|| TcpStream::connect_timeout(&to, Duration::from_secs(20)))?;
    let stream = stream.with_context(|| format!("cannot connect to {to}"))?;
    let ours = getsockopt(&stream, TcpMaxSeg)?;
    let (source, theirs) = server.join().expect("it does not panic")?;
    Ok(Seen {
        source: source.ip().to_string(),
        segments: [ours, theirs],
    })
}

#[test]
fn containers_reach_who_does_not_know_them_under_their_host_s_address() {
    let site = Site::new();
    let node = site.node();
    network(&node, "plain", 1, json!({}));
    network(
        &node,
        "web",
        2,
        json!({"ipMasq": true, "connected": ["br-db"]}),
    );
    network(&node, "db", 3, json!({"connected": ["br-web"]}));
    let (plain, _) = site.attach(&node, "plain", "plain");
    does_not_reach(&plain, &OUTSIDE);
    let table = || site.host.run("nft list table inet routeshare-bridges");
    assert!(
        !table().unwrap().contains("postrouting"),
        "nothing is tracked"
    );

    let (web, own) = site.attach(&node, "web", "web");
    let (db, db_addresses) = site.attach(&node, "db", "db");
    let (beside, beside_addresses) = site.attach(&node, "web", "beside");
    node.write_node_file(&["10.64.0.0/24", "fd64::/64"], json!({}))
        .unwrap();
    node.network("pods", &[node.plugin(json!({"mode": "routed"}))])
        .unwrap();
    let (pod, pod_addresses) = site.attach(&node, "pods", "pod");
    for family in [0, 1] {
        let source = |to: &Namespace, address: &str| {
            let seen = ask(web.namespace(), to, address);
            seen.unwrap_or_else(|error| panic!("{address}: {error:#}"))
                .source
        };
        assert_eq!(source(&site.outside, OUTSIDE[family]), HOST[family]);
        // Who is on the same host, and may be reached, knows the way back.
        for (to, address) in [
            (&beside, &beside_addresses),
            (&db, &db_addresses),
            (&pod, &pod_addresses),
        ] {
            assert_eq!(source(to.namespace(), &address[family]), own[family]);
        }
        assert_eq!(source(&site.host, HOST[family]), own[family]);
    }
    // The other one is as it was.
    does_not_reach(&plain, &OUTSIDE);
    node.check("web", &web).unwrap();

    // What the configuration says no more is gone with the next container.
    network(&node, "web", 2, json!({}));
    site.attach(&node, "web", "later");
    does_not_reach(&web, &OUTSIDE);
    assert!(!table().unwrap().contains("postrouting"));
    network(&node, "web", 2, json!({"ipMasq": true}));
    let error = format!("{:#}", node.check("web", &web).unwrap_err());
    assert!(error.contains("br-web"), "{error}");
    site.attach(&node, "web", "last");
    reaches(&web, &OUTSIDE);

    // Somebody empties nftables: the next container of any network brings all of it back.
    site.host.run("nft flush ruleset").unwrap();
    site.attach(&node, "plain", "after");
    reaches(&web, &OUTSIDE);
    does_not_reach(&plain, &OUTSIDE);
}

#[test]
fn segments_of_bridged_containers_fit_a_narrow_way_out() {
    let site = Site::new();
    site.host.ip(["link set eth0 mtu 1400"]).unwrap();
    let node = site.node();
    network(&node, "web", 2, json!({"ipMasq": true, "mtu": 1500}));
    let (web, _) = site.attach(&node, "web", "web");
    for (address, header) in OUTSIDE.iter().zip([40, 60]) {
        let seen = ask(web.namespace(), &site.outside, address).unwrap();
        let fits = seen
            .segments
            .iter()
            .all(|segment| *segment <= 1400 - header);
        assert!(fits, "{address}: {:?}", seen.segments);
    }
}
