use std::sync::Arc;

use bgp::engine::{FibChange, NextHopSet};
use kernel::{Event, Monitor};

use super::lab::*;

/// More neighbours, on the links of [`A`] and [`B`].
const A2: &str = "192.0.2.3";
const B2: &str = "198.51.100.3";

/// What was heard of routes of ours (the kernel makes others for itself) and of nexthop objects.
fn heard(witness: &mut Monitor) -> (usize, usize) {
    let (mut routes, mut objects) = (0, 0);
    let mut any = true;
    while any {
        any = witness
            .read(1000, |event| match event {
                Event::Route { route, .. } | Event::RouteGone { route, .. } => {
                    routes += usize::from(route.owner.protocol == CONFIG.protocol);
                }
                Event::NextHop(_) => objects += 1,
                Event::Link(_) | Event::LinkGone(_) => {}
                Event::Addresses | Event::Neighbour(_) => {}
            })
            .expect("no overrun");
    }
    (routes, objects)
}

/// A set told anew, with the number that the engine would give it.
fn set(id: u32, hops: &[&str]) -> Arc<NextHopSet> {
    with_backup(id, hops, &[])
}

fn with_backup(id: u32, hops: &[&str], backups: &[&str]) -> Arc<NextHopSet> {
    let sorted = |hops: &[&str]| {
        let mut hops: Vec<_> = hops.iter().map(|hop| address(hop)).collect();
        hops.sort_unstable();
        hops
    };
    Arc::new(NextHopSet {
        id,
        hops: sorted(hops),
        backups: sorted(backups),
    })
}

fn change(to: &str, set: &Arc<NextHopSet>) -> FibChange {
    FibChange {
        prefix: prefix(to),
        next_hops: Some(set.clone()),
    }
}

#[test]
fn what_a_next_hop_that_goes_down_costs_does_not_depend_on_the_number_of_routes() {
    let mut costs = Vec::new();
    for count in [10, 20_000] {
        let (sender, cost) = std::sync::mpsc::channel();
        in_namespace(move |lab| {
            let many = lab.many(count, &[A, B]);
            lab.apply_all(many);
            lab.apply(&[
                ("10.1.0.0/16", &[A, B2]),
                ("10.2.0.0/16", &[A, A2, B]),
                ("10.3.0.0/16", &[A]),
                ("10.4.0.0/16", &[B, B2]),
            ]);
            lab.wait_for_installed(u64::from(count) + 4);
            let mut witness = lab.witness();
            lab.fib().hops_down(vec![address(A)], 10);
            lab.wait_for("it leaves its groups", |lab| {
                lab.gateways("10.2.0.0/16") == [A2, B]
            });
            assert_eq!(lab.gateways("11.0.0.0/24"), [B]);
            assert_eq!(lab.gateways("10.1.0.0/16"), [B2]);
            assert_eq!(lab.gateways("10.3.0.0/16"), [A], "it has no other");
            assert_eq!(lab.gateways("10.4.0.0/16"), [B, B2]);
            sender.send(heard(&mut witness)).expect("somebody listens");
        });
        costs.push(cost.recv().expect("the test ends"));
    }
    let (routes, objects) = costs[0];
    assert_eq!(costs, [(0, objects); 2]);
    // One of the way out; the kernel tells which groups it changed by that.
    assert!((1..=4).contains(&objects), "{objects}");
    assert_eq!(routes, 0);
}

#[test]
fn routes_that_come_to_want_what_their_group_has_become_are_not_written() {
    in_namespace(|lab| {
        lab.apply(&[("10.1.0.0/16", &[A, B]), ("10.2.0.0/16", &[B])]);
        let many = lab.many(1000, &[A, B]);
        lab.apply_all(many);
        lab.wait_for_installed(1002);
        lab.fib().hops_down(vec![address(A)], 10);
        lab.fib().handed_over(10);
        let mut witness = lab.witness();
        let follow = lab.many(1000, &[B]);
        lab.apply_all(follow);
        lab.apply(&[("10.1.0.0/16", &[B])]);
        lab.wait_for_installed(1002);
        assert_eq!(lab.gateways("11.0.3.0/24"), [B]);
        assert_eq!(heard(&mut witness).0, 0, "no route changed");
        // A later look at everything finds nothing to be put right.
        lab.fib().sweep();
        lab.wait_for("everything is listed", |lab| lab.summary().stale == 0);
        lab.wait_for_installed(1002);
        assert_eq!(heard(&mut witness).0, 0, "no route changed");
        assert_eq!(lab.summary().repaired, 0);
        // The way out that nobody wants any more is gone.
        let objects = lab.objects();
        assert!(
            objects.len() <= 4,
            "two groups, and B by itself or shared: {objects:?}"
        );
        let none = lab.many(1000, &[]);
        lab.apply_all(none);
        lab.apply(&[("10.1.0.0/16", &[]), ("10.2.0.0/16", &[])]);
        lab.wait_for("nothing is left", |lab| lab.objects().is_empty());
    });
}

#[test]
fn a_set_that_is_still_on_its_way_does_not_bring_a_next_hop_back() {
    in_namespace(|lab| {
        lab.apply(&[("10.1.0.0/16", &[A, B])]);
        lab.wait_for_installed(1);
        lab.fib().hops_down(vec![address(A)], 5);
        lab.apply_all(vec![
            change("10.2.0.0/16", &set(0, &[A, B])),
            change("10.3.0.0/16", &set(4, &[A, B2])),
            change("10.4.0.0/16", &set(5, &[A])),
        ]);
        lab.fib().handed_over(5);
        lab.wait_for_installed(4);
        assert_eq!(lab.gateways("10.2.0.0/16"), [B]);
        assert_eq!(lab.gateways("10.3.0.0/16"), [B2]);
        assert_eq!(lab.gateways("10.4.0.0/16"), [A], "it has no other");
    });
}

#[test]
fn a_next_hop_that_is_back_gets_the_routes_that_want_it_and_no_others() {
    in_namespace(|lab| {
        lab.apply(&[("10.1.0.0/16", &[A, B]), ("10.2.0.0/16", &[A, B])]);
        lab.apply(&[("2001:db8:77::/48", &[A6, B6])]);
        lab.wait_for_installed(3);
        lab.fib().hops_down(vec![address(A), address(A6)], 5);
        let again = set(6, &[A, B]);
        lab.apply_all(vec![change("10.1.0.0/16", &again)]);
        lab.fib().handed_over(5);
        lab.wait_for("the first has it again", |lab| {
            lab.gateways("10.1.0.0/16") == [A, B]
        });
        assert_eq!(lab.gateways("10.2.0.0/16"), [B]);
        assert_eq!(lab.gateways("2001:db8:77::/48"), [B6]);
        // Nor does it come back when next hops are looked up again.
        ip("route add 203.0.113.0/24 via 198.51.100.9");
        ip("address add 192.0.2.9/24 dev a0");
        lab.wait_for("it was looked up again", |lab| lab.readdressed > 0);
        assert_eq!(lab.gateways("10.2.0.0/16"), [B]);
        lab.apply_all(vec![
            change("10.2.0.0/16", &again),
            change("2001:db8:77::/48", &set(7, &[A6, B6])),
        ]);
        lab.wait_for("the others have it again", |lab| {
            lab.gateways("10.2.0.0/16") == [A, B] && lab.gateways("2001:db8:77::/48") == [A6, B6]
        });
        lab.wait_for("the old groups are gone", |lab| lab.summary().groups == 2);
    });
}

#[test]
fn a_link_that_goes_down_and_is_told_to_be_down_leaves_nothing_to_be_written() {
    in_namespace(|lab| {
        lab.apply(&[("10.1.0.0/16", &[A, B]), ("10.2.0.0/16", &[A, B])]);
        lab.wait_for_installed(2);
        lab.fib().track(address(A));
        ip("link set b0 down");
        lab.wait_for("the link is down", |lab| {
            lab.hops.get(&address(A)) == Some(&None)
        });
        lab.fib().hops_down(vec![address(A)], 5);
        let mut witness = lab.witness();
        lab.apply_all(vec![change("10.1.0.0/16", &set(6, &[B]))]);
        ip("link set b0 up");
        lab.wait_for("the link is up", |lab| {
            lab.hops.get(&address(A)).is_some_and(Option::is_some)
        });
        assert_eq!(lab.gateways("10.1.0.0/16"), [B]);
        assert_eq!(lab.gateways("10.2.0.0/16"), [B]);
        assert_eq!(heard(&mut witness).0, 0, "no route changed");
    });
}

/// The interfaces that packets to many destinations would take.
fn taken(net: &str) -> std::collections::BTreeSet<String> {
    let ways = (1..40).map(|host| {
        let output = std::process::Command::new("ip")
            .args(["route", "get", &format!("{net}{host}")])
            .output();
        let text = String::from_utf8(output.expect("`ip` runs").stdout).expect("text");
        let mut words = text.split_whitespace().skip_while(|word| *word != "dev");
        words.nth(1).unwrap_or("nowhere").to_owned()
    });
    ways.collect()
}

fn only(interface: &str) -> std::collections::BTreeSet<String> {
    [interface.to_owned()].into()
}

/// Two routes by A that have B as a backup.
fn backed_up(lab: &mut Lab) {
    lab.apply_all(vec![
        change("10.1.0.0/16", &with_backup(1, &[A], &[B])),
        change("2001:db8:77::/48", &with_backup(2, &[A6], &[B6])),
        change("10.2.0.0/16", &with_backup(3, &[B], &[A])),
        change("10.3.0.0/16", &set(4, &[A, B])),
    ]);
    lab.wait_for_installed(4);
}

#[test]
fn a_backup_takes_no_packet_before_it_has_to_and_then_all_of_them() {
    in_namespace(|lab| {
        backed_up(lab);
        assert_eq!(taken("10.1.0."), only("a0"));
        assert_eq!(taken("2001:db8:77::"), only("a0"));
        assert_eq!(taken("10.2.0."), only("a1"));
        let shown = lab.state("10.1.0.0/16").next_hops;
        let backup = format!("via {B} dev a1 (backup)");
        assert_eq!(shown, [format!("via {A} dev a0"), backup]);
        let mut witness = lab.witness();
        lab.fib().hops_down(vec![address(A), address(A6)], 10);
        lab.wait_for("the backup is used", |_| taken("10.1.0.") == only("a1"));
        assert_eq!(taken("2001:db8:77::"), only("a1"));
        assert_eq!(taken("10.2.0."), only("a1"));
        assert_eq!(taken("10.3.0."), only("a1"));
        // What they come to want then is what they have.
        lab.apply_all(vec![
            change("10.1.0.0/16", &set(11, &[B])),
            change("10.2.0.0/16", &set(11, &[B])),
            change("10.3.0.0/16", &set(11, &[B])),
            change("2001:db8:77::/48", &set(12, &[B6])),
        ]);
        lab.wait_for_installed(4);
        assert_eq!(heard(&mut witness).0, 0, "no route changed");
        lab.apply_all(vec![change("10.1.0.0/16", &with_backup(13, &[A], &[B]))]);
        lab.wait_for("it is back", |_| taken("10.1.0.") == only("a0"));
        assert_eq!(taken("10.3.0."), only("a1"));
    });
}

#[test]
fn a_backup_takes_over_when_the_link_goes_down_without_a_route_being_written() {
    in_namespace(|lab| {
        backed_up(lab);
        let many: Vec<_> = lab.many(20_000, &[A]);
        let backed = with_backup(1, &[A], &[B]);
        let many = many.into_iter().map(|it| FibChange {
            next_hops: Some(backed.clone()),
            ..it
        });
        lab.apply_all(many.collect());
        lab.wait_for_installed(20_004);
        let mut witness = lab.witness();
        ip("link set b0 down");
        lab.wait_for("the backup is used", |_| taken("10.1.0.") == only("a1"));
        assert_eq!(taken("2001:db8:77::"), only("a1"));
        assert_eq!(taken("11.0.7."), only("a1"));
        lab.fib().track(address(A));
        lab.wait_for("it is seen", |lab| lab.hops.get(&address(A)) == Some(&None));
        lab.wait_for_installed(20_004);
        assert_eq!(heard(&mut witness).0, 0, "no route changed");
        // Nothing was said of the routes: they have what they want again.
        ip("link set b0 up");
        lab.wait_for("it is back", |_| {
            taken("10.1.0.") == only("a0") && taken("2001:db8:77::") == only("a0")
        });
        assert_eq!(lab.summary().repaired, 0);
    });
}

#[test]
fn routes_with_backups_are_adopted_as_they_are() {
    in_namespace(|lab| {
        backed_up(lab);
        lab.stop();
        let before = (lab.ours(), lab.objects());
        lab.restart();
        backed_up(lab);
        lab.fib().sweep();
        lab.wait_for("everything is listed", |lab| lab.summary().stale == 0);
        assert_eq!((lab.ours(), lab.objects()), before);
        assert_eq!(taken("10.1.0."), only("a0"));
        lab.apply(&[("10.2.0.0/16", &[]), ("10.3.0.0/16", &[])]);
        lab.apply(&[("10.1.0.0/16", &[]), ("2001:db8:77::/48", &[])]);
        lab.wait_for("nothing is left", |lab| lab.objects().is_empty());
    });
}

#[test]
fn a_member_whose_neighbour_does_not_answer_is_passed_over_by_the_kernel() {
    in_namespace(|lab| {
        lab.apply(&[("10.1.0.0/16", &[A, B])]);
        lab.apply(&[("2001:db8:77::/48", &[A6, B6])]);
        lab.wait_for_installed(2);
        let lladdr = "lladdr 02:00:00:00:00:09 nud permanent";
        for (hop, link) in [(A, "a0"), (B, "a1"), (A6, "a0"), (B6, "a1")] {
            ip(&format!("neigh replace {hop} dev {link} {lladdr}"));
        }
        assert_eq!(taken("10.1.0.").len(), 2);
        assert_eq!(taken("2001:db8:77::").len(), 2);
        for hop in [A, A6] {
            ip(&format!("neigh replace {hop} dev a0 nud failed"));
        }
        assert_eq!(taken("10.1.0."), only("a1"));
        assert_eq!(taken("2001:db8:77::"), only("a1"));
    });
}

#[test]
fn a_backup_takes_over_from_a_gateway_that_does_not_answer_until_it_does() {
    in_namespace(|lab| {
        backed_up(lab);
        for (hop, net) in [(A, "10.1.0."), (A6, "2001:db8:77::")] {
            let known = "lladdr 02:00:00:00:00:09 nud reachable";
            ip(&format!("neigh replace {hop} dev a0 {known}"));
            assert_eq!(taken(net), only("a0"));
            ip(&format!("neigh replace {hop} dev a0 nud failed"));
            lab.wait_for("the backup is used", |_| taken(net) == only("a1"));
            assert_eq!(
                taken("10.2.0."),
                only("a1"),
                "no backup that does not answer"
            );
            lab.wait_for("it is asked again", |_| {
                let output = std::process::Command::new("ip")
                    .args(["neigh", "show", hop, "dev", "a0"])
                    .output();
                let text = String::from_utf8(output.expect("`ip` runs").stdout).expect("text");
                text.contains("INCOMPLETE")
            });
            ip(&format!("neigh replace {hop} dev a0 {known}"));
            lab.wait_for("it is back", |_| taken(net) == only("a0"));
        }
        assert_eq!(lab.summary().repaired, 0);
        assert_eq!(lab.summary().installed, 4);
    });
}
