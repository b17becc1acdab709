//! A container's interface, asked of the real kernel: pair, addresses, neighbours, routes. Needs root.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::thread;

use kernel::link::{self, By};
use kernel::route::Owner;
use kernel::veth::{self, Veth, VethEnd};
use kernel::{Destination, LinkChange, Mac, Netlink, Path, Requests, list};
use nix::sched::{CloneFlags, setns, unshare};

const HERE: Mac = Mac([2, 0, 0, 0, 0, 1]);
const THERE: Mac = Mac([2, 0, 0, 0, 0, 2]);
const OWNER: Owner = Owner {
    table: 254,
    protocol: 150,
    metric: 0,
};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A namespace that lives as long as its file is open, and a socket in it.
fn namespace() -> (File, Netlink) {
    unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
    let file = File::open("/proc/thread-self/ns/net").unwrap();
    (file, Netlink::open(1 << 20).unwrap())
}

fn carry_out(netlink: &mut Netlink, requests: &mut Requests) {
    let mut failures = Vec::new();
    netlink.carry_out(requests, &mut failures).unwrap();
    assert_eq!(failures, []);
}

#[test]
fn a_pair_is_made_at_once_with_its_other_end_in_another_namespace_and_goes_with_all_it_has() {
    thread::spawn(|| {
        let (host, mut here) = namespace();
        let (container, mut there) = namespace();
        setns(&host, CloneFlags::CLONE_NEWNET).unwrap();
        let pair = Veth {
            here: VethEnd {
                name: "rs0",
                mac: HERE,
            },
            there: VethEnd {
                name: "eth0",
                mac: THERE,
            },
            namespace: container.as_fd(),
            mtu: 1400,
            alias: "a note",
            group: 150,
        };
        let made = veth::create(&mut here, &pair).unwrap().unwrap();

        let found = link::find(&mut here, By::Name("rs0")).unwrap().unwrap();
        assert_eq!((found.index, found.parent), (made.here, Some(made.there)));
        assert_eq!((found.mtu, found.mac, found.up), (1400, Some(HERE), true));
        assert_eq!(found.group, 150);
        assert_eq!(
            (found.kind.as_deref(), found.alias.as_str()),
            (Some("veth"), "a note")
        );
        let other = link::find(&mut there, By::Index(made.there))
            .unwrap()
            .unwrap();
        assert_eq!(
            (other.name.as_str(), other.mac, other.mtu),
            ("eth0", Some(THERE), 1400)
        );
        assert!(!other.up);

        // The other end's half.
        let mut requests = Requests::new();
        let change = LinkChange {
            up: Some(true),
            alias: Some("inside"),
            own_link_local: Some(false),
            ..LinkChange::default()
        };
        requests.set_link(By::Index(made.there), &change);
        requests.add_address(made.there, address("10.0.0.5"), 32);
        requests.add_address(made.there, address("fd00::5"), 128);
        requests.add_address(made.there, address("fe80::5"), 64);
        for (to, gateway) in [("0.0.0.0", "169.254.1.1"), ("::", "fe80::1")] {
            requests.add_permanent_neighbour(address(gateway), made.there, HERE);
            let to = Destination {
                address: address(to),
                length: 0,
            };
            let path = Path {
                gateway: Some(address(gateway)),
                interface: made.there,
                on_link: true,
            };
            requests.add_path_route(&OWNER, to, &path);
        }
        carry_out(&mut there, &mut requests);
        let addresses = list::addresses(&mut there, made.there).unwrap();
        let mut texts: Vec<_> = addresses
            .iter()
            .map(|a| format!("{}/{}", a.address, a.length))
            .collect();
        texts.sort();
        assert_eq!(texts, ["10.0.0.5/32", "fd00::5/128", "fe80::5/64"]);
        assert!(
            addresses.iter().all(|address| !address.unusable),
            "{addresses:?}"
        );
        let neighbours = list::neighbours(&mut there, made.there).unwrap();
        let permanent = neighbours
            .iter()
            .filter(|n| n.permanent && n.mac == Some(HERE));
        assert_eq!(permanent.count(), 2, "{neighbours:?}");
        let ours = |route: &kernel::Route| route.owner.protocol == 150;
        assert_eq!(list::routes(&mut there, 254, ours).unwrap().len(), 2);

        // This end's half.
        for to in ["10.0.0.5", "fd00::5"] {
            let to = address(to);
            let length = if to.is_ipv4() { 32 } else { 128 };
            let path = Path {
                gateway: None,
                interface: made.here,
                on_link: false,
            };
            requests.add_path_route(
                &OWNER,
                Destination {
                    address: to,
                    length,
                },
                &path,
            );
        }
        carry_out(&mut here, &mut requests);
        assert_eq!(list::addresses(&mut here, made.here).unwrap(), []);
        assert_eq!(list::routes(&mut here, 254, ours).unwrap().len(), 2);

        // A second one of the same name is refused, and the first is as it was.
        let refused = veth::create(&mut here, &pair).unwrap().unwrap_err();
        assert_eq!(refused.errno, 17, "{refused:?}");
        let mut still = link::find(&mut here, By::Name("rs0")).unwrap().unwrap();
        // The kernel notices the carrier in its own time, before or after the first look.
        still.operational = found.operational;
        assert_eq!(still, found);

        requests.remove_link(By::Name("rs0"));
        carry_out(&mut here, &mut requests);
        assert_eq!(list::routes(&mut here, 254, ours).unwrap(), []);
        let left = list::links(&mut there).unwrap();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(link::find(&mut here, By::Name("rs0")).unwrap(), None);
    })
    .join()
    .unwrap();
}
