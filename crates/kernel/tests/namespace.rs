//! What we rely on, asked of the real kernel: each test in a network namespace of its own. They need
//! root.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::net::IpAddr;
use std::process::Command;
use std::thread;

use kernel::list::{self, Progress, RouteList};
use kernel::lookup::lookup;
use kernel::route::Owner;
use kernel::{
    Destination, Event, Failure, Links, Monitor, Netlink, NextHopKind, Path, Requests, Route,
    RouteKind, Target,
};
use nix::sched::{CloneFlags, unshare};

const OWNER: Owner = Owner {
    table: 254,
    protocol: 149,
    metric: 512,
};
const GATEWAYS: [(u32, &str, &str); 4] = [
    (1, "a0", "192.0.2.2"),
    (2, "a1", "198.51.100.2"),
    (3, "a0", "2001:db8:1::2"),
    (4, "a1", "2001:db8:2::2"),
];

struct Lab {
    netlink: Netlink,
    requests: Requests,
}

fn in_namespace(test: impl FnOnce(&mut Lab) + Send + 'static) {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("this test makes a network namespace and therefore needs root");
        for line in [
            "link set lo up",
            "link add a0 type veth peer name b0",
            "link add a1 type veth peer name b1",
            "link set a0 up",
            "link set b0 up",
            "link set a1 up",
            "link set b1 up",
            "address add 192.0.2.1/24 dev a0",
            "address add 198.51.100.1/24 dev a1",
            "address add 2001:db8:1::1/64 dev a0 nodad",
            "address add 2001:db8:2::1/64 dev a1 nodad",
        ] {
            ip(line);
        }
        let mut lab = Lab {
            netlink: Netlink::open(8 << 20).unwrap(),
            requests: Requests::new(),
        };
        for (id, link, gateway) in GATEWAYS {
            let path = lab.path(link, gateway);
            let gateway = path.gateway.unwrap();
            lab.requests.add_path(OWNER.protocol, id, gateway, &path);
        }
        assert_eq!(lab.carry_out(), []);
        test(&mut lab);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split_whitespace()).output();
    let output = output.expect("`ip` of the package iproute2 runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {line}: {error}");
}

fn to(text: &str) -> Destination {
    let (address, length) = text.split_once('/').unwrap();
    Destination {
        address: address.parse().unwrap(),
        length: length.parse().unwrap(),
    }
}

impl Lab {
    fn path(&mut self, link: &str, gateway: &str) -> Path {
        let links = Links::open().unwrap().list().unwrap();
        Path {
            gateway: Some(gateway.parse().unwrap()),
            interface: links.iter().find(|other| other.name == link).unwrap().index,
            on_link: false,
        }
    }

    fn carry_out(&mut self) -> Vec<Failure> {
        let mut failures = Vec::new();
        let outcome = self.netlink.carry_out(&mut self.requests, &mut failures);
        outcome.unwrap();
        failures
    }

    fn routes(&mut self, destination: Destination) -> Vec<Route> {
        let mut netlink = Netlink::open(1 << 20).unwrap();
        let mut list = RouteList::start(&mut netlink, 254).unwrap();
        let mut routes = Vec::new();
        while list.step(&mut netlink, |route| routes.push(route)).unwrap() == Progress::More {}
        routes.retain(|route| route.destination == destination);
        routes
    }
}

#[test]
fn failures_in_a_batch_are_named_by_their_place_and_the_rest_is_done() {
    in_namespace(|lab| {
        for (text, id) in [
            ("10.1.0.0/16", 1),
            ("10.2.0.0/16", 77), // no such object
            ("10.3.0.0/16", 2),
            ("10.1.0.0/16", 2), // there already
            ("10.4.0.0/16", 1),
        ] {
            lab.requests
                .add_route(&OWNER, to(text), Target::NextHop(id));
        }
        let failures = lab.carry_out();
        let seen: Vec<_> = failures.iter().map(|f| (f.request, f.errno)).collect();
        assert_eq!(seen, [(1, libc::EINVAL), (3, libc::EEXIST)]);
        assert!(
            failures[0].reason().contains("does not exist"),
            "{}",
            failures[0].reason()
        );
        for text in ["10.1.0.0/16", "10.3.0.0/16", "10.4.0.0/16"] {
            assert_eq!(lab.routes(to(text)).len(), 1);
        }
        // The last one failing is no different.
        lab.requests.remove_route(&OWNER, to("10.1.0.0/16"), None);
        lab.requests.remove_route(&OWNER, to("10.9.0.0/16"), None);
        let failures = lab.carry_out();
        assert_eq!((failures[0].request, failures[0].errno), (1, libc::ESRCH));
        assert_eq!(failures.len(), 1);
    });
}

#[test]
fn a_batch_of_which_everything_fails_is_answered_in_full() {
    in_namespace(|lab| {
        for number in 0..512u32 {
            let destination = Destination {
                address: IpAddr::from(number.to_be_bytes().map(|octet| octet | 16)),
                length: 32,
            };
            lab.requests
                .add_route(&OWNER, destination, Target::NextHop(77));
        }
        assert_eq!(lab.carry_out().len(), 512);
    });
}

#[test]
fn a_foreign_route_is_neither_replaced_nor_removed() {
    in_namespace(|lab| {
        for (family, text, via, ours) in [
            ("", "10.1.0.0/16", "192.0.2.9", 2),
            ("-6 ", "2001:db8:100::/48", "2001:db8:1::9", 4),
        ] {
            ip(&format!(
                "{family}route add {text} via {via} metric 512 proto static"
            ));
            let before = lab.routes(to(text));
            lab.requests
                .add_route(&OWNER, to(text), Target::NextHop(ours));
            lab.requests.remove_route(&OWNER, to(text), None);
            lab.requests
                .remove_route(&OWNER, to(text), Some(Target::NextHop(ours)));
            let errors: Vec<i32> = lab.carry_out().iter().map(|f| f.errno).collect();
            assert_eq!(errors, [libc::EEXIST, libc::ESRCH, libc::ESRCH]);
            lab.requests
                .append_route(&OWNER, to(text), Target::NextHop(ours));
            assert_eq!(lab.carry_out(), []);
            assert_eq!(lab.routes(to(text))[0], before[0], "theirs stays in front");
            lab.requests.remove_route(&OWNER, to(text), None);
            assert_eq!(lab.carry_out(), []);
            assert_eq!(lab.routes(to(text)), before);
        }
    });
}

#[test]
fn a_route_moves_by_appending_the_new_one_and_removing_the_old_one() {
    in_namespace(|lab| {
        for (text, old, new) in [("10.1.0.0/16", 1, 2), ("2001:db8:100::/48", 3, 4)] {
            lab.requests
                .add_route(&OWNER, to(text), Target::NextHop(old));
            lab.requests
                .append_route(&OWNER, to(text), Target::NextHop(new));
            assert_eq!(lab.carry_out(), []);
            let ids: Vec<_> = lab.routes(to(text)).iter().map(|r| r.next_hop).collect();
            assert_eq!(
                ids,
                [Some(old), Some(new)],
                "the old one is in use until it goes"
            );
            lab.requests
                .append_route(&OWNER, to(text), Target::NextHop(new));
            assert_eq!(lab.carry_out()[0].errno, libc::EEXIST);
            lab.requests
                .remove_route(&OWNER, to(text), Some(Target::NextHop(old)));
            assert_eq!(lab.carry_out(), []);
            let ids: Vec<_> = lab.routes(to(text)).iter().map(|r| r.next_hop).collect();
            assert_eq!(ids, [Some(new)]);
        }
    });
}

#[test]
fn a_member_that_is_removed_leaves_its_groups_and_an_empty_group_takes_its_routes_along() {
    in_namespace(|lab| {
        lab.requests
            .add_group(OWNER.protocol, 11, &[1, 2].into_iter().collect());
        lab.requests
            .add_group(OWNER.protocol, 12, &[2].into_iter().collect());
        lab.requests
            .add_route(&OWNER, to("10.1.0.0/16"), Target::NextHop(11));
        lab.requests
            .add_route(&OWNER, to("10.2.0.0/16"), Target::NextHop(12));
        assert_eq!(lab.carry_out(), []);
        assert_eq!(lab.routes(to("10.1.0.0/16"))[0].paths.len(), 2);
        lab.requests.remove_next_hop(2);
        assert_eq!(lab.carry_out(), []);
        assert_eq!(lab.routes(to("10.1.0.0/16"))[0].paths.len(), 1);
        assert_eq!(lab.routes(to("10.2.0.0/16")), []);
        let objects = list::next_hops(&mut lab.netlink).unwrap();
        let groups = objects.iter().filter_map(|object| match &object.kind {
            NextHopKind::Group(group) => Some((object.id, group.members.as_slice())),
            _ => None,
        });
        assert_eq!(groups.collect::<Vec<_>>(), [(11, &[1][..])]);
    });
}

#[test]
fn a_lookup_tells_the_route_its_metric_and_all_its_ways() {
    in_namespace(|lab| {
        ip("route add 203.0.113.0/24 metric 20 nexthop via 192.0.2.7 nexthop via 198.51.100.7");
        ip("route add unreachable 10.0.0.0/8");
        // Somebody's nexthop object, and a kernel that tells nothing but its id.
        ip("route add 10.5.0.0/16 nhid 2");
        let far: IpAddr = "203.0.113.9".parse().unwrap();
        let questions = [
            "192.0.2.1",
            "192.0.2.50",
            "10.1.1.1",
            "8.8.8.8",
            "2001:db8:1::50",
        ];
        let mut questions: Vec<IpAddr> = questions.iter().map(|q| q.parse().unwrap()).collect();
        questions.push(far);
        let found = lookup(&mut lab.netlink, &questions).unwrap();
        assert_eq!(found[0].as_ref().unwrap().kind, RouteKind::Local);
        let connected = found[1].as_ref().unwrap();
        assert_eq!(
            (connected.kind, connected.owner.metric),
            (RouteKind::Unicast, 0)
        );
        assert_eq!(connected.paths[0].gateway, None);
        assert_eq!((&found[2], &found[3]), (&None, &None));
        assert_eq!(found[4].as_ref().unwrap().owner.metric, 256);
        let route = found[5].as_ref().unwrap();
        assert_eq!((route.owner.metric, route.paths.len()), (20, 2));

        // The setting of the namespace that the thread is in.
        std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "0").unwrap();
        let by_object = lookup(&mut lab.netlink, &["10.5.1.1".parse().unwrap()]).unwrap();
        let route = by_object[0].as_ref().unwrap();
        assert_eq!(route.next_hop, Some(2));
        assert_eq!(
            route.paths[0].gateway,
            Some("198.51.100.2".parse().unwrap())
        );
    });
}

#[test]
fn the_monitor_hears_what_others_do_and_nothing_of_what_we_do() {
    in_namespace(|lab| {
        let mut monitor = Monitor::open(&lab.netlink, 1 << 20).unwrap();
        lab.requests
            .add_route(&OWNER, to("10.1.0.0/16"), Target::NextHop(1));
        lab.requests
            .add_route(&OWNER, to("2001:db8:100::/48"), Target::NextHop(3));
        lab.requests
            .add_group(OWNER.protocol, 11, &[1].into_iter().collect());
        assert_eq!(lab.carry_out(), []);
        let mut events = Vec::new();
        assert!(
            !monitor.read(100, |event| events.push(event)).unwrap(),
            "{events:?}"
        );

        ip("route del 10.1.0.0/16");
        ip("route add 10.2.0.0/16 via 192.0.2.9");
        ip("route replace 10.2.0.0/16 via 192.0.2.10");
        ip("nexthop del id 11");
        ip("address add 192.0.2.77/24 dev a0");
        ip("link set a1 down");
        assert!(monitor.read(1000, |event| events.push(event)).unwrap());
        let heard = |wanted: &dyn Fn(&Event) -> bool| {
            assert!(events.iter().any(wanted), "{events:#?}");
        };
        heard(&|event| match event {
            Event::RouteGone { route, by_kernel } => {
                route.owner == OWNER && route.next_hop == Some(1) && !by_kernel
            }
            _ => false,
        });
        heard(&|event| {
            matches!(
                event,
                Event::Route {
                    replaced: false,
                    ..
                }
            )
        });
        heard(&|event| matches!(event, Event::Route { replaced: true, .. }));
        heard(&|event| matches!(event, Event::NextHop(object) if object.id == 11));
        heard(&|event| matches!(event, Event::Addresses));
        heard(&|event| matches!(event, Event::Link(link) if link.name == "a1" && !link.up));
        // The IPv6 connected route went with its link: no socket asked for that.
        heard(&|event| {
            matches!(
                event,
                Event::RouteGone {
                    by_kernel: true,
                    ..
                }
            )
        });
    });
}

#[test]
fn changes_that_are_lost_are_told() {
    in_namespace(|lab| {
        let mut monitor = Monitor::open(&lab.netlink, 4096).unwrap();
        let mut other = Netlink::open(1 << 20).unwrap();
        for number in 0..200u32 {
            let destination = to(&format!("10.{number}.0.0/16"));
            lab.requests
                .add_route(&OWNER, destination, Target::NextHop(1));
        }
        let mut failures = Vec::new();
        other.carry_out(&mut lab.requests, &mut failures).unwrap();
        let outcome = monitor.read(1000, |_| ());
        assert!(
            matches!(outcome, Err(kernel::NetlinkError::Overrun)),
            "{outcome:?}"
        );
        assert!(
            !monitor.read(1000, |_| ()).unwrap(),
            "and then all is well again"
        );
    });
}

#[test]
fn an_unknown_table_is_an_empty_one() {
    in_namespace(|lab| {
        let mut list = RouteList::start(&mut lab.netlink, 4711).unwrap();
        let mut routes = Vec::new();
        let mut step = || {
            list.step(&mut lab.netlink, |route| routes.push(route))
                .unwrap()
        };
        while step() == Progress::More {}
        assert_eq!(routes, []);
        let owner = Owner {
            table: 4711,
            ..OWNER
        };
        lab.requests
            .add_route(&owner, to("10.1.0.0/16"), Target::NextHop(1));
        assert_eq!(lab.carry_out(), []);
        let mut list = RouteList::start(&mut lab.netlink, 4711).unwrap();
        let mut routes = Vec::new();
        let mut step = || {
            list.step(&mut lab.netlink, |route| routes.push(route))
                .unwrap()
        };
        while step() == Progress::More {}
        assert_eq!(routes[0].owner, owner);
    });
}
