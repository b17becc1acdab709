use bgp::engine::NextHopState;

use super::lab::*;

fn state(metric: u32, via: Option<&str>, interface: &str) -> Option<NextHopState> {
    Some(NextHopState {
        metric,
        via: via.map(address),
        interface: interface.to_owned(),
    })
}

fn becomes(lab: &mut Lab, hop: &str, state: Option<NextHopState>) {
    lab.wait_for(&format!("{hop} is {state:?}"), |lab| {
        lab.hops.get(&address(hop)) == Some(&state)
    });
}

#[test]
fn a_route_of_ours_in_a_table_before_main_does_not_hide_the_way_to_its_own_next_hop() {
    in_namespace(|lab| {
        ip("rule add lookup 100 priority 100");
        let config = ::plan::KernelConfig {
            table: 100,
            ..CONFIG
        };
        lab.fib().configure(config, Vec::new());
        lab.fib().track(address(A));
        lab.apply(&[("192.0.0.0/8", &[A]), ("0.0.0.0/0", &[A])]);
        lab.wait_for_installed(2);
        ip("route add 203.0.113.0/24 via 198.51.100.9"); // looks it up again
        ip("address add 192.0.2.9/24 dev a0");
        lab.wait_for("it was looked up again", |lab| lab.readdressed > 0);
        assert!(lab.hops[&address(A)].is_some());
        assert_eq!(lab.summary().installed, 2);
        ip("link set a0 down");
        lab.wait_for("it is gone", |lab| lab.hops[&address(A)].is_none());
    });
}

#[test]
fn the_daemon_is_told_when_addresses_of_this_host_come_and_go() {
    in_namespace(|lab| {
        lab.summary();
        ip("address add 2001:db8:9::1/64 dev a0 nodad");
        lab.wait_for("it is told of the new one", |lab| lab.readdressed > 0);
        let before = lab.readdressed;
        ip("address del 2001:db8:9::1/64 dev a0");
        lab.wait_for("it is told that it went", |lab| lab.readdressed > before);
    });
}

#[test]
fn a_next_hop_is_told_at_once_and_followed_through_every_change() {
    in_namespace(|lab| {
        let far = "203.0.113.1";
        for hop in [A, A6, "192.0.2.1", far] {
            lab.fib().track(address(hop));
        }
        becomes(lab, A, state(0, None, "a0"));
        becomes(lab, A6, state(256, None, "a0"));
        becomes(lab, "192.0.2.1", None); // our own address
        becomes(lab, far, None);
        ip("route add 203.0.113.0/24 via 198.51.100.7 metric 20");
        becomes(lab, far, state(20, Some("198.51.100.7"), "a1"));
        ip("route add 203.0.113.0/25 via 192.0.2.7 metric 30");
        becomes(lab, far, state(30, Some("192.0.2.7"), "a0"));
        ip("link set a0 down");
        becomes(lab, A, None);
        becomes(lab, A6, None);
        becomes(lab, far, state(20, Some("198.51.100.7"), "a1"));
        ip("link set a0 up");
        becomes(lab, A, state(0, None, "a0"));
        ip("address del 192.0.2.1/24 dev a0");
        becomes(lab, A, None);
        lab.fib().untrack(address(far));
        lab.hops.remove(&address(far));
        ip("route del 203.0.113.0/24");
        ip("address add 192.0.2.1/24 dev a0");
        becomes(lab, A, state(0, None, "a0"));
        assert!(!lab.hops.contains_key(&address(far)), "not told any more");
    });
}

#[test]
fn a_link_without_a_carrier_carries_nothing() {
    in_namespace(|lab| {
        lab.fib().track(address(B));
        becomes(lab, B, state(0, None, "a1"));
        ip("link set b1 down");
        becomes(lab, B, None);
        ip("link set b1 up");
        becomes(lab, B, state(0, None, "a1"));
    });
}

#[test]
fn a_route_of_ours_does_not_say_how_its_own_next_hop_is_reached() {
    in_namespace(|lab| {
        let hop = "203.0.113.1";
        ip("route add 203.0.113.0/24 via 198.51.100.7 metric 20");
        lab.fib().track(address(hop));
        // Learned: a longer match for its own next hop, and a default route.
        lab.apply(&[("203.0.113.0/28", &[hop]), ("0.0.0.0/0", &[A])]);
        lab.wait_for_installed(2);
        becomes(lab, hop, state(20, Some("198.51.100.7"), "a1"));
        assert_eq!(lab.gateways("203.0.113.0/28"), ["198.51.100.7"]);
        ip("route change 203.0.113.0/24 via 192.0.2.7 metric 20");
        becomes(lab, hop, state(20, Some("192.0.2.7"), "a0"));
        lab.wait_for("the route follows", |lab| {
            lab.gateways("203.0.113.0/28") == ["192.0.2.7"]
        });
        ip("route del 203.0.113.0/24");
        becomes(lab, hop, None);
    });
}

#[test]
fn a_next_hop_behind_several_routers_uses_all_of_them() {
    in_namespace(|lab| {
        let hop = "203.0.113.1";
        ip("route add 203.0.113.0/24 nexthop via 192.0.2.7 nexthop via 198.51.100.7");
        lab.apply(&[("10.1.0.0/16", &[hop]), ("10.2.0.0/16", &[hop, A])]);
        lab.wait_for_installed(2);
        assert_eq!(lab.gateways("10.1.0.0/16"), ["192.0.2.7", "198.51.100.7"]);
        assert_eq!(
            lab.gateways("10.2.0.0/16"),
            [A, "192.0.2.7", "198.51.100.7"]
        );
        let before = lab.ours();
        ip("route replace 203.0.113.0/24 via 198.51.100.7");
        lab.wait_for("the groups follow", |lab| {
            lab.gateways("10.1.0.0/16") == ["198.51.100.7"]
                && lab.gateways("10.2.0.0/16") == [A, "198.51.100.7"]
        });
        let id = |route: &kernel::Route| route.next_hop;
        let after = lab.ours();
        assert!(
            before.values().map(id).eq(after.values().map(id)),
            "no route was written"
        );
    });
}

#[test]
fn a_route_whose_next_hop_cannot_be_reached_waits_for_it() {
    in_namespace(|lab| {
        lab.apply(&[("10.1.0.0/16", &["203.0.113.1"])]);
        lab.wait_for("it waits", |lab| lab.summary().pending == 1);
        ip("route add 203.0.113.0/24 via 198.51.100.7");
        lab.wait_for_installed(1);
        assert_eq!(lab.gateways("10.1.0.0/16"), ["198.51.100.7"]);
    });
}

#[test]
fn the_mtu_of_the_path_is_that_of_links_towards_peers_and_next_hops() {
    in_namespace(|lab| {
        let told = |lab: &mut Lab, mtu| {
            lab.wait_for("the MTU", |lab| lab.path_mtu == mtu);
        };
        lab.fib().follow_peers([address("192.0.2.7")].into());
        told(lab, Some(1500));
        ip("link set b0 mtu 9000");
        ip("link set a0 mtu 9000");
        told(lab, Some(9000));
        lab.apply(&[("203.0.113.0/24", &["198.51.100.7"])]);
        told(lab, Some(1500));
        ip("link set a1 mtu 1400");
        told(lab, Some(1400));
        ip("link set a1 down");
        told(lab, Some(9000));
        lab.fib().follow_peers([address("198.51.100.9")].into());
        told(lab, None);
    });
}
