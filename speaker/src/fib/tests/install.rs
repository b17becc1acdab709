use super::lab::*;
use ::plan::KernelConfig;
use kernel::{Event, NextHopKind, RouteKind};

use super::super::RouteState;

#[test]
fn routes_of_both_families_are_installed_changed_and_removed() {
    in_namespace(|lab| {
        lab.apply(&[
            ("10.1.0.0/16", &[A]),
            ("10.2.0.0/16", &[A, B]),
            ("2001:db8:100::/48", &[A6]),
            ("2001:db8:200::/48", &[A6, B6]),
        ]);
        lab.wait_for_installed(4);
        assert_eq!(lab.gateways("10.1.0.0/16"), [A]);
        assert_eq!(lab.gateways("10.2.0.0/16"), [A, B]);
        assert_eq!(lab.gateways("2001:db8:100::/48"), [A6]);
        assert_eq!(lab.gateways("2001:db8:200::/48"), [A6, B6]);
        let route = &lab.ours()[&prefix("10.1.0.0/16")];
        assert_eq!((route.owner.metric, route.owner.table), (512, 254));
        let state = lab.state("10.2.0.0/16");
        assert_eq!(state.state, RouteState::Installed);
        assert_eq!(
            state.next_hops,
            [format!("via {A} dev a0"), format!("via {B} dev a1")]
        );

        lab.apply(&[
            ("10.1.0.0/16", &[B]),
            ("10.2.0.0/16", &[]),
            ("2001:db8:100::/48", &[B6]),
            ("2001:db8:200::/48", &[A6]),
        ]);
        lab.wait_for_installed(3);
        assert_eq!(lab.gateways("10.1.0.0/16"), [B]);
        assert_eq!(lab.gateways("2001:db8:100::/48"), [B6]);
        assert_eq!(lab.gateways("2001:db8:200::/48"), [A6]);
        assert_eq!(lab.state("10.2.0.0/16").state, RouteState::NotInstalled);

        lab.apply(&[
            ("10.1.0.0/16", &[]),
            ("2001:db8:100::/48", &[]),
            ("2001:db8:200::/48", &[]),
        ]);
        lab.wait_for("nothing of ours is left", |lab| {
            lab.ours().is_empty() && lab.objects().is_empty()
        });
        assert_eq!(lab.summary().repaired, 0);
    });
}

#[test]
fn an_ipv4_route_may_have_an_ipv6_next_hop() {
    in_namespace(|lab| {
        lab.apply(&[("10.1.0.0/16", &[A6]), ("10.2.0.0/16", &[A, B6])]);
        lab.wait_for_installed(2);
        assert_eq!(lab.gateways("10.1.0.0/16"), [A6]);
        assert_eq!(lab.gateways("10.2.0.0/16"), [A, B6]);
    });
}

#[test]
fn a_route_that_the_kernel_refuses_is_reported_and_the_others_of_its_batch_are_not() {
    in_namespace(|lab| {
        lab.apply(&[
            ("10.1.0.0/16", &[A]),
            ("2001:db8:100::/48", &[A]), // IPv6 by an IPv4 next hop
            ("10.2.0.0/16", &[A]),
        ]);
        lab.wait_for("two installed, one refused", |lab| {
            let summary = lab.summary();
            (summary.installed, summary.refused) == (2, 1)
        });
        let state = lab.state("2001:db8:100::/48");
        assert_eq!(state.state, RouteState::Refused);
        assert!(!state.text.is_empty());
        lab.wait_for("the problem is told", |lab| {
            let refused = |p: &&super::super::FibProblem| p.reason == "KernelRefused";
            let problem = lab.problems.iter().find(refused);
            problem.is_some_and(|problem| problem.prefix == Some(prefix("2001:db8:100::/48")))
        });
    });
}

#[test]
fn what_is_there_after_a_restart_is_adopted_without_a_write() {
    in_namespace(|lab| {
        let routes: &[(&str, &[&str])] = &[
            ("10.1.0.0/16", &[A]),
            ("10.2.0.0/16", &[A, B]),
            ("2001:db8:100::/48", &[B6]),
        ];
        lab.apply(routes);
        lab.fib().configure(CONFIG, vec![prefix("10.64.1.0/24")]);
        lab.wait_for_installed(3);
        lab.wait_for("the subnet's route", |lab| lab.ours().len() == 4);
        let before = (lab.ours(), lab.objects());
        lab.stop();
        assert_eq!((lab.ours(), lab.objects()), before, "all stays behind");

        let mut witness = lab.witness();
        lab.restart();
        assert_eq!(lab.summary().stale, 3);
        lab.fib().configure(CONFIG, vec![prefix("10.64.1.0/24")]);
        lab.apply(routes);
        lab.wait_for_installed(3);
        lab.fib().sweep();
        lab.wait_for("nothing is stale", |lab| lab.summary().stale == 0);
        lab.stop();
        let mut events = Vec::new();
        witness
            .read(1000, |event| events.push(event))
            .expect("no overrun");
        // Interfaces and addresses settle by themselves.
        events.retain(|event| {
            !matches!(
                event,
                Event::Link(_) | Event::Addresses | Event::Neighbour(_)
            )
        });
        assert_eq!(events, []);
        assert_eq!((lab.ours(), lab.objects()), before);
    });
}

#[test]
fn what_nobody_asks_for_stays_until_the_sweep() {
    in_namespace(|lab| {
        lab.apply(&[
            ("10.1.0.0/16", &[A]),
            ("10.2.0.0/16", &[B]),
            ("2001:db8::/48", &[A6]),
        ]);
        lab.wait_for_installed(3);
        lab.restart();
        lab.apply(&[("10.1.0.0/16", &[A])]);
        lab.wait_for_installed(1);
        assert_eq!(lab.ours().len(), 3);
        assert_eq!(lab.summary().stale, 2);
        lab.fib().sweep();
        lab.wait_for("the others go, with their objects", |lab| {
            lab.ours().len() == 1 && lab.objects().len() == 2
        });
        assert_eq!(lab.summary().installed, 1);
    });
}

#[test]
fn a_removal_that_a_crash_prevented_is_made_up_for() {
    in_namespace(|lab| {
        lab.apply(&[("10.1.0.0/16", &[A]), ("10.2.0.0/16", &[B])]);
        lab.wait_for_installed(2);
        let other = lab.ours()[&prefix("10.2.0.0/16")]
            .next_hop
            .expect("a group");
        lab.stop();
        // What is left when the thread dies between the new route and the removal of the old one.
        ip(&format!(
            "route append 10.1.0.0/16 nhid {other} proto 149 metric 512"
        ));
        lab.restart();
        lab.apply(&[("10.1.0.0/16", &[B]), ("10.2.0.0/16", &[B])]);
        lab.fib().sweep();
        lab.wait_for("one route for each prefix", |lab| {
            let ours = |routes: &Vec<kernel::Route>| {
                routes.iter().filter(|r| r.owner.protocol == 149).count()
            };
            ours(&lab.all_routes(254)) == 2
        });
        assert_eq!(lab.gateways("10.1.0.0/16"), [B]);
    });
}

#[test]
fn a_hundred_thousand_routes_go_in_and_out_in_batches() {
    in_namespace(|lab| {
        let changes = lab.many(100_000, &[A, B]);
        lab.apply_all(changes);
        lab.wait_for_installed(100_000);
        assert_eq!(lab.ours().len(), 100_000);
        assert_eq!(lab.summary().groups, 1);
        let changes = lab.many(100_000, &[B]);
        lab.apply_all(changes);
        lab.wait_for_installed(100_000);
        assert_eq!(lab.ours().len(), 100_000);
        assert_eq!(lab.gateways("11.0.7.0/24"), [B]);
        let changes = lab.many(100_000, &[]);
        lab.apply_all(changes);
        lab.wait_for_installed(0);
        assert_eq!(lab.ours().len(), 0);
    });
}

#[test]
fn a_batch_is_given_back_while_enough_wait_and_room_is_told() {
    in_namespace(|lab| {
        let changes = lab.many(100_000, &[A]);
        let mut refused = false;
        for batch in changes.chunks(10_000) {
            refused |= lab.fib().try_apply(batch.to_vec()).is_err();
        }
        assert!(refused, "100,000 changes are more than may wait");
        lab.wait_for("room is told", |lab| lab.rooms == 1);
    });
}

#[test]
fn the_unused_part_of_an_own_subnet_is_unreachable_and_pods_are_not() {
    in_namespace(|lab| {
        ip("route add default via 192.0.2.254");
        ip("-6 route add default via 2001:db8:1::fe");
        let subnets = vec![prefix("10.64.1.0/24"), prefix("fd00:64:1::/64")];
        lab.fib().configure(CONFIG, subnets);
        lab.wait_for("both subnets have a route", |lab| lab.ours().len() == 2);
        for route in lab.ours().values() {
            assert_eq!(route.kind, RouteKind::Unreachable);
        }
        ip("route add 10.64.1.9/32 dev a1");
        let addresses = ["10.64.1.8", "10.64.1.9", "fd00:64:1::8"].map(address);
        let found = kernel::lookup::lookup(&mut lab.netlink, &addresses).expect("answers");
        let unicast = |route: &Option<kernel::Route>| {
            route.as_ref().is_some_and(|r| r.kind == RouteKind::Unicast)
        };
        assert!(!unicast(&found[0]) && unicast(&found[1]) && !unicast(&found[2]));

        ip("route del unreachable 10.64.1.0/24 proto 149");
        lab.wait_for("it is put back", |lab| lab.ours().len() == 2);
        lab.fib().configure(CONFIG, vec![prefix("10.64.1.0/24")]);
        lab.wait_for("one subnet is given back", |lab| lab.ours().len() == 1);
    });
}

#[test]
fn routes_follow_the_configuration_to_another_table_protocol_or_metric() {
    in_namespace(|lab| {
        lab.apply(&[("10.1.0.0/16", &[A]), ("10.2.0.0/16", &[A, B])]);
        lab.fib().configure(CONFIG, vec![prefix("10.64.1.0/24")]);
        lab.wait_for_installed(2);
        lab.fib().sweep();
        for config in [
            KernelConfig {
                metric: 700,
                ..CONFIG
            },
            KernelConfig {
                table: 1000,
                ..CONFIG
            },
            KernelConfig {
                protocol: 150,
                ..CONFIG
            },
            CONFIG,
        ] {
            lab.fib().configure(config, vec![prefix("10.64.1.0/24")]);
            lab.wait_for("three routes there and none elsewhere", |lab| {
                let mut here = lab.all_routes(config.table);
                here.retain(|route| [149, 150].contains(&route.owner.protocol));
                let right = |route: &kernel::Route| {
                    route.owner.protocol == config.protocol
                        && (route.owner.metric == config.metric
                            || route.kind == RouteKind::Unreachable)
                };
                let other = if config.table == 254 { 1000 } else { 254 };
                let mut elsewhere = lab.all_routes(other);
                elsewhere.retain(|route| [149, 150].contains(&route.owner.protocol));
                here.len() == 3 && here.iter().all(right) && elsewhere.is_empty()
            });
        }
        let off = KernelConfig {
            install: false,
            ..CONFIG
        };
        lab.fib().configure(off, vec![prefix("10.64.1.0/24")]);
        lab.wait_for("nothing is left", |lab| {
            lab.ours().is_empty() && lab.objects().is_empty()
        });
        assert_eq!(lab.state("10.1.0.0/16").state, RouteState::NotInstalled);
        lab.fib().configure(CONFIG, Vec::new());
        lab.wait_for_installed(2);
        let objects = lab.objects();
        let groups = objects
            .iter()
            .filter(|o| matches!(o.kind, NextHopKind::Group(_)));
        assert_eq!(groups.count(), 2);
    });
}

#[test]
fn the_addresses_of_pods_are_counted_as_the_use_of_their_subnet() {
    in_namespace(|lab| {
        let subnets = ["10.64.1.0/24", "2001:db8:64:1::/64"].map(prefix);
        lab.fib().configure(CONFIG, subnets.to_vec());
        lab.wait_for("nothing is used", |lab| {
            lab.used == subnets.map(|subnet| (subnet, 0))
        });
        ip("route add 10.64.1.2/32 dev a0");
        ip("route add 10.64.1.255/32 dev a1");
        ip("route add 2001:db8:64:1::2/128 dev a0");
        // Neither a pod's address nor within the subnet.
        ip("route add 10.64.1.64/26 dev a0");
        ip("route add 10.64.2.2/32 dev a0");
        lab.wait_for("three pods are counted", |lab| {
            lab.used == [(subnets[0], 2), (subnets[1], 1)]
        });
        // Of these two containers one has a route as well; another one's is of no subnet of ours.
        let leased = ["10.64.1.2/32", "10.64.1.3/32", "10.64.2.4/32"].map(prefix);
        lab.fib().leased(leased.into());
        lab.wait_for("another one is counted", |lab| {
            lab.used == [(subnets[0], 3), (subnets[1], 1)]
        });
        ip("route del 10.64.1.255/32 dev a1");
        ip("route del 10.64.1.2/32 dev a0");
        lab.wait_for("the one without a lease is gone", |lab| {
            lab.used == [(subnets[0], 2), (subnets[1], 1)]
        });
        lab.fib().leased([leased[1]].into());
        lab.wait_for("one container is gone", |lab| {
            lab.used == [(subnets[0], 1), (subnets[1], 1)]
        });
        // The kernel says nothing of an IPv4 route that goes with its link.
        ip("link add pod0 type veth peer name pod1");
        ip("link set pod0 up");
        ip("route add 10.64.1.7/32 dev pod0");
        ip("route add 2001:db8:64:1::7/128 dev pod0");
        lab.wait_for("a pod is there", |lab| {
            lab.used == [(subnets[0], 2), (subnets[1], 2)]
        });
        ip("link del pod0");
        lab.wait_for("it is gone with its interface", |lab| {
            lab.used == [(subnets[0], 1), (subnets[1], 1)]
        });
    });
}
