//! Bridges, their ports and macvlan, asked of the real kernel. Needs root.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::thread;

use kernel::link::{self, By};
use kernel::link_end::LinkEnd;
use kernel::{
    BridgePort, LinkChange, Mac, MacvlanMode, Netlink, Requests, VirtualKind, VirtualLink,
};
use nix::sched::{CloneFlags, setns, unshare};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

/// A namespace that lives as long as its file is open, and a socket in it.
fn namespace() -> (File, Netlink) {
    unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
    let file = File::open("/proc/thread-self/ns/net").unwrap();
    (file, Netlink::open(1 << 20).unwrap())
}

fn bridge(name: &str) -> VirtualLink<'_> {
    VirtualLink {
        name,
        kind: VirtualKind::Bridge,
        parent: None,
        namespace: None,
        mtu: Some(1400),
        mac: Some(MAC),
        group: 150,
        up: true,
    }
}

/// What could not be carried out, as error numbers.
fn carry_out(netlink: &mut Netlink, requests: &mut Requests) -> Vec<i32> {
    let mut failures = Vec::new();
    netlink.carry_out(requests, &mut failures).unwrap();
    failures.into_iter().map(|failure| failure.errno).collect()
}

#[test]
fn a_bridge_has_its_own_mac_address_and_ports_with_flags() {
    thread::spawn(|| {
        let (_host, mut netlink) = namespace();
        let mut requests = Requests::new();
        requests.add_virtual_link(&bridge("br0"));
        requests.add_virtual_link(&bridge("br1"));
        requests.add_virtual_link(&bridge("br0"));
        assert_eq!(carry_out(&mut netlink, &mut requests), [libc::EEXIST]);
        let found = link::find(&mut netlink, By::Name("br0")).unwrap().unwrap();
        assert_eq!((found.mtu, found.mac, found.up), (1400, Some(MAC), true));
        assert_eq!(found.group, 150);
        assert_eq!(found.virtual_kind, Some(VirtualKind::Bridge));
        assert_eq!(found.port, None);

        let arguments = "link add port type veth peer name other".split(' ');
        let made = Command::new("ip").args(arguments).status();
        assert!(made.expect("`ip` of the package iproute2 runs").success());
        let master = LinkChange {
            master: link::find(&mut netlink, By::Name("br1"))
                .unwrap()
                .map(|it| it.index),
            ..LinkChange::default()
        };
        requests.set_link(By::Name("port"), &master);
        let flags = BridgePort {
            hairpin: true,
            isolated: true,
        };
        requests.set_bridge_port(By::Name("port"), flags);
        assert_eq!(carry_out(&mut netlink, &mut requests), []);
        let found = link::find(&mut netlink, By::Name("port")).unwrap().unwrap();
        assert_eq!((found.master, found.port), (master.master, Some(flags)));
        requests.set_bridge_port(By::Name("port"), BridgePort::default());
        assert_eq!(carry_out(&mut netlink, &mut requests), []);
        let found = link::find(&mut netlink, By::Name("port")).unwrap().unwrap();
        assert_eq!(found.port, Some(BridgePort::default()));
    })
    .join()
    .unwrap();
}

#[test]
fn a_macvlan_link_is_made_in_another_namespace_with_the_mtu_of_its_parent() {
    thread::spawn(|| {
        let (host, mut here) = namespace();
        let (container, mut there) = namespace();
        setns(&host, CloneFlags::CLONE_NEWNET).unwrap();
        let mut requests = Requests::new();
        requests.add_virtual_link(&bridge("parent"));
        assert_eq!(carry_out(&mut here, &mut requests), []);
        let parent = link::find(&mut here, By::Name("parent")).unwrap().unwrap();
        for mode in [
            MacvlanMode::Private,
            MacvlanMode::Vepa,
            MacvlanMode::Bridge,
            MacvlanMode::Passthru,
        ] {
            requests.add_virtual_link(&VirtualLink {
                name: "eth0",
                kind: VirtualKind::Macvlan(mode),
                parent: Some(parent.index),
                namespace: Some(container.as_fd()),
                mtu: None,
                mac: None,
                group: 0,
                up: false,
            });
            assert_eq!(carry_out(&mut here, &mut requests), [], "{mode:?}");
            let found = link::find(&mut there, By::Name("eth0")).unwrap().unwrap();
            assert_eq!(found.virtual_kind, Some(VirtualKind::Macvlan(mode)));
            assert_eq!((found.parent, found.mtu), (Some(parent.index), 1400));
            requests.remove_link(By::Name("eth0"));
            assert_eq!(carry_out(&mut there, &mut requests), []);
        }
    })
    .join()
    .unwrap();
}

#[test]
fn the_end_of_a_link_is_heard_of_and_nothing_else() {
    thread::spawn(|| {
        let (_host, mut netlink) = namespace();
        let arguments = "link add port type veth peer name other".split(' ');
        let made = Command::new("ip").args(arguments).status();
        assert!(made.expect("`ip` of the package iproute2 runs").success());
        let mut requests = Requests::new();
        requests.add_virtual_link(&bridge("br0"));
        assert_eq!(carry_out(&mut netlink, &mut requests), []);
        let mut number = |name| {
            let found = link::find(&mut netlink, By::Name(name)).unwrap();
            found.unwrap().index
        };
        let (port, bridge) = (number("port"), number("br0"));

        let mut end = LinkEnd::watch(port).unwrap();
        for master in [bridge, 0] {
            let change = LinkChange {
                master: Some(master),
                ..LinkChange::default()
            };
            requests.set_link(By::Index(port), &change);
        }
        requests.remove_link(By::Index(bridge));
        assert_eq!(carry_out(&mut netlink, &mut requests), []);
        assert!(!end.is_gone().unwrap(), "it has left a bridge that is gone");

        requests.remove_link(By::Name("other"));
        assert_eq!(carry_out(&mut netlink, &mut requests), []);
        assert!(end.is_gone().unwrap(), "it has gone with its other end");
        assert!(end.is_gone().unwrap(), "and is gone");
    })
    .join()
    .unwrap();
}
