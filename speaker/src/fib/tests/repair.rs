use std::time::Duration;

use kernel::{NextHopKind, Route};

use super::super::driver::Tuning;
use super::super::{RouteState, destination_of};
use super::lab::*;

#[test]
fn a_route_that_somebody_removes_or_changes_is_put_right() {
    in_namespace(|lab| {
        lab.apply(&[("10.1.0.0/16", &[A]), ("2001:db8:100::/48", &[A6])]);
        lab.wait_for_installed(2);
        ip("route del 10.1.0.0/16");
        lab.wait_for("the IPv4 route is back", |lab| {
            lab.gateways("10.1.0.0/16") == [A]
        });
        ip("-6 route del 2001:db8:100::/48");
        lab.wait_for("the IPv6 route is back", |lab| {
            lab.gateways("2001:db8:100::/48") == [A6]
        });
        assert_eq!(lab.summary().repaired, 2);
        ip("route change 10.1.0.0/16 via 198.51.100.9 proto 149 metric 512");
        lab.wait_for("the IPv4 route is right again", |lab| {
            let route = lab.ours().remove(&prefix("10.1.0.0/16"));
            route.is_some_and(|route| route.next_hop.is_some())
        });
        assert_eq!(lab.gateways("10.1.0.0/16"), [A]);
        assert_eq!(lab.summary().repaired, 3);
    });
}

#[test]
fn nexthop_objects_that_somebody_removes_come_back_with_their_routes() {
    in_namespace(|lab| {
        lab.apply(&[
            ("10.1.0.0/16", &[A]),
            ("10.2.0.0/16", &[A, B]),
            ("10.3.0.0/16", &[A, B]),
        ]);
        lab.wait_for_installed(3);
        ip("nexthop flush proto 149");
        lab.wait_for("all routes are back", |lab| {
            lab.gateways("10.1.0.0/16") == [A]
                && lab.gateways("10.2.0.0/16") == [A, B]
                && lab.gateways("10.3.0.0/16") == [A, B]
        });
        lab.wait_for_installed(3);
    });
}

#[test]
fn a_foreign_route_in_the_way_is_reported_and_never_touched() {
    in_namespace(|lab| {
        // The same metric: ours has no place. A lower one: both stand, theirs is used.
        ip("route add 10.1.0.0/16 via 198.51.100.9 proto static metric 512");
        ip("-6 route add 2001:db8:100::/48 via 2001:db8:2::9 proto static metric 512");
        ip("route add 10.2.0.0/16 via 198.51.100.9 proto static metric 5");
        ip("route add 10.3.0.0/16 via 198.51.100.9 proto static metric 900");
        let foreign = |lab: &mut Lab| -> Vec<Route> {
            let mut routes = lab.all_routes(254);
            routes.retain(|route| route.owner.protocol == 4);
            routes
        };
        let before = foreign(lab);
        lab.apply(&[
            ("10.1.0.0/16", &[A]),
            ("10.2.0.0/16", &[A]),
            ("10.3.0.0/16", &[A]),
            ("2001:db8:100::/48", &[A6]),
        ]);
        lab.wait_for("three foreign routes are reported", |lab| {
            let problems = lab.problems.iter().filter(|p| p.reason == "ForeignRoute");
            let prefixes: Vec<_> = problems.filter_map(|p| p.prefix).collect();
            let expected = ["10.1.0.0/16", "10.2.0.0/16", "2001:db8:100::/48"];
            prefixes == expected.map(prefix)
        });
        let summary = lab.summary();
        assert_eq!((summary.installed, summary.refused), (2, 2));
        assert_eq!(lab.state("10.1.0.0/16").state, RouteState::Foreign);
        assert_eq!(foreign(lab), before);

        // Neither a change, nor a removal, nor a list touches them.
        lab.apply(&[
            ("10.1.0.0/16", &[B]),
            ("10.2.0.0/16", &[B]),
            ("2001:db8:100::/48", &[B6]),
        ]);
        lab.fib().sweep();
        lab.wait_for("ours beside theirs has changed", |lab| {
            lab.gateways("10.2.0.0/16") == [B]
        });
        lab.apply(&[("10.2.0.0/16", &[])]);
        lab.wait_for_installed(1);
        assert_eq!(foreign(lab), before);

        ip("route del 10.1.0.0/16 proto static");
        ip("-6 route del 2001:db8:100::/48 proto static");
        ip("route del 10.2.0.0/16 proto static");
        lab.wait_for_installed(3);
        assert_eq!(lab.gateways("10.1.0.0/16"), [B]);
        assert_eq!(lab.gateways("2001:db8:100::/48"), [B6]);
        lab.wait_for("no problem is left", |lab| lab.problems.is_empty());
    });
}

#[test]
fn a_foreign_route_that_takes_the_place_of_ours_is_left_there() {
    in_namespace(|lab| {
        lab.apply(&[("10.1.0.0/16", &[A])]);
        lab.wait_for_installed(1);
        ip("route replace 10.1.0.0/16 via 198.51.100.9 proto static metric 512");
        lab.wait_for("it is reported", |lab| {
            lab.state("10.1.0.0/16").state == RouteState::Foreign
        });
        lab.fib().sweep();
        // A change finds the place taken, without harm.
        lab.apply(&[("10.1.0.0/16", &[B]), ("10.2.0.0/16", &[B])]);
        lab.wait_for("the list is through", |lab| {
            lab.gateways("10.2.0.0/16") == [B]
        });
        let routes = lab.all_routes(254);
        let there = routes
            .iter()
            .filter(|r| r.destination.address == address("10.1.0.0"));
        let protocols: Vec<u8> = there.map(|route| route.owner.protocol).collect();
        assert_eq!(protocols, [4]);
        ip("route del 10.1.0.0/16 proto static");
        lab.wait_for("ours comes back", |lab| lab.gateways("10.1.0.0/16") == [B]);
    });
}

#[test]
fn what_was_lost_in_an_overrun_is_found_by_a_list() {
    let heard = Tuning {
        heard: 4096,
        ..tuning()
    };
    in_namespace_with(heard, |lab| {
        let mut changes = lab.many(20_000, &[A]);
        let later = changes.split_off(2_000);
        lab.apply_all(changes.clone());
        lab.wait_for_installed(2_000);
        // In one go, while the thread has something else to do: faster than they can be heard.
        lab.fib().try_apply(later).expect("there is room");
        let owner = kernel::route::Owner {
            table: 254,
            protocol: 149,
            metric: 512,
        };
        let mut requests = kernel::Requests::new();
        for change in &changes {
            requests.remove_route(&owner, destination_of(change.prefix), None);
        }
        let mut failures = Vec::new();
        let outcome = lab.netlink.carry_out(&mut requests, &mut failures);
        outcome.expect("all are removed");
        assert_eq!(failures, []);
        lab.wait_for("all are back, after an overrun", |lab| {
            let summary = lab.summary();
            summary.overruns > 0 && summary.installed == 20_000 && lab.ours().len() == 20_000
        });
    });
}

#[test]
fn a_list_now_and_then_finds_what_was_not_heard() {
    let often = Tuning {
        relist: Duration::from_millis(50),
        ..tuning()
    };
    in_namespace_with(often, |lab| {
        lab.apply(&[("10.1.0.0/16", &[A])]);
        lab.wait_for_installed(1);
        lab.fib().sweep();
        // Not ours by its metric, ours by its protocol number: nothing is done when it is heard.
        ip("route add 10.9.0.0/16 via 192.0.2.9 proto 149 metric 700");
        lab.wait_for("the stray is gone", |lab| lab.ours().len() == 1);
        assert_eq!(lab.gateways("10.1.0.0/16"), [A]);
    });
}

#[test]
fn routes_of_a_next_hop_whose_link_goes_down_and_up_come_back() {
    in_namespace(|lab| {
        let changes = lab.many(2_000, &[B]);
        lab.apply_all(changes);
        lab.apply(&[("2001:db8:100::/48", &[B6])]);
        lab.wait_for_installed(2_001);
        ip("link set a1 down");
        lab.wait_for("they wait", |lab| lab.summary().pending == 2_001);
        assert_eq!(lab.ours().len(), 0, "the kernel has thrown them away");
        assert_eq!(lab.state("11.0.0.0/24").state, RouteState::Pending);
        ip("link set a1 up");
        ip("address add 2001:db8:2::1/64 dev a1 nodad"); // lost with the link
        lab.wait_for_installed(2_001);
        assert_eq!(lab.ours().len(), 2_001);
        assert_eq!(lab.summary().repaired, 0, "nobody took anything away");
    });
}

/// The routes of both groups are repaired by one message, however many they are.
fn fail_over(count: u32) -> Duration {
    let (sender, receiver) = std::sync::mpsc::channel();
    in_namespace(move |lab| {
        // B2 is behind a router on a1, so that it can vanish without its link.
        ip("route add 203.0.113.0/24 via 198.51.100.7");
        let changes = lab.many(count, &[A, "203.0.113.1"]);
        lab.apply_all(changes);
        lab.apply(&[("10.1.0.0/16", &[A, B, "203.0.113.1"])]);
        lab.wait_for_installed(u64::from(count) + 1);
        let mut witness = lab.witness();
        let start = std::time::Instant::now();
        ip("route del 203.0.113.0/24");
        lab.wait_for("the way out is in no group", |lab| {
            let gone = address("198.51.100.7");
            let via = |kind: &NextHopKind| {
                matches!(kind, NextHopKind::Path(path) if path.gateway == Some(gone))
            };
            !lab.objects().iter().any(|object| via(&object.kind))
        });
        let took = start.elapsed();
        assert_eq!(lab.summary().installed, u64::from(count) + 1);
        assert_eq!(lab.gateways("10.1.0.0/16"), [A, B]);
        assert_eq!(lab.gateways("11.0.0.0/24"), [A]);
        let (mut removed, mut routes) = (0, 0);
        let heard = witness.read(1_000_000, |event| match event {
            kernel::Event::NextHop(object) => {
                removed += u32::from(matches!(object.kind, NextHopKind::Path(_)));
            }
            kernel::Event::Route { route, .. } | kernel::Event::RouteGone { route, .. } => {
                routes += u32::from(route.owner.protocol == 149);
            }
            _ => {}
        });
        heard.expect("no overrun");
        assert_eq!((removed, routes), (1, 0), "one object, no route");
        sender.send(took).expect("the test waits");
    });
    receiver.recv().expect("it came to its end")
}

#[test]
fn a_dead_next_hop_leaves_its_groups_in_one_message_whatever_the_number_of_routes() {
    let few = fail_over(100);
    let many = fail_over(100_000);
    // A replaced group makes the kernel announce its routes: 100,000 of them take 60 ms and more.
    assert!(
        many < few + Duration::from_millis(50),
        "{few:?} and {many:?}"
    );
}

#[test]
fn a_dead_link_of_two_leaves_every_route_with_the_other() {
    in_namespace(|lab| {
        let changes = lab.many(20_000, &[A, B]);
        lab.apply_all(changes);
        lab.wait_for_installed(20_000);
        let mut witness = lab.witness();
        ip("link set a1 down");
        lab.fib().track(address(B));
        lab.wait_for("B cannot be reached", |lab| {
            lab.hops.get(&address(B)) == Some(&None)
        });
        assert_eq!(lab.summary().installed, 20_000);
        assert_eq!(lab.gateways("11.0.0.0/24"), [A]);
        let mut routes = 0;
        let heard = witness.read(1_000_000, |event| {
            if let kernel::Event::Route { route, .. } | kernel::Event::RouteGone { route, .. } =
                event
            {
                routes += u32::from(route.owner.protocol == 149);
            }
        });
        heard.expect("no overrun");
        assert_eq!(routes, 0, "no route was written");
        ip("link set a1 up");
        lab.wait_for("both are used again", |lab| {
            lab.gateways("11.0.0.0/24") == [A, B]
        });
        assert_eq!(lab.summary().installed, 20_000);
    });
}
