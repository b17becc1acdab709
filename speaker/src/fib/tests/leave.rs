use super::lab::*;
use kernel::Event;

/// How many routes of ours a witness saw go one by one.
fn gone(witness: &mut kernel::Monitor) -> usize {
    let mut count = 0;
    let mut each = |event| {
        if let Event::RouteGone { route, .. } = event {
            count += usize::from(route.owner.protocol == CONFIG.protocol);
        }
    };
    while witness.read(1024, &mut each).expect("nothing is lost") {}
    count
}

#[test]
fn a_group_of_which_nothing_stays_goes_at_once_with_all_of_its_routes() {
    in_namespace(|lab| {
        lab.apply(&[("10.1.0.0/16", &[B]), ("2001:db8:100::/48", &[A6])]);
        let changes = lab.many(60_000, &[A]);
        lab.apply_all(changes);
        lab.wait_for_installed(60_002);
        let mut witness = lab.witness();
        let changes = lab.many(60_000, &[]);
        lab.apply_all(changes);
        lab.wait_for_installed(2);
        assert_eq!(lab.ours().len(), 2);
        let one_by_one = gone(&mut witness);
        assert!(one_by_one < 40_000, "{one_by_one} went one by one");

        // The next hop can be used again at once, by as many routes.
        let changes = lab.many(10_000, &[A]);
        lab.apply_all(changes);
        lab.wait_for_installed(10_002);
        assert_eq!(lab.ours().len(), 10_002);
        assert_eq!(lab.gateways("11.0.7.0/24"), [A]);
        assert_eq!(lab.summary().repaired, 0);
    });
}

#[test]
fn what_is_wanted_again_while_it_leaves_stays() {
    in_namespace(|lab| {
        let changes = lab.many(20_000, &[A]);
        lab.apply_all(changes);
        lab.wait_for_installed(20_000);
        for _ in 0..5 {
            let mut changes = lab.many(20_000, &[]);
            changes.extend(lab.many(20_000, &[A]));
            lab.apply_all(changes);
        }
        // And of these some take another way, and some do not come back.
        let mut changes = lab.many(20_000, &[]);
        changes.extend(lab.many(15_000, &[A]));
        changes.extend(lab.many(5_000, &[B]));
        lab.apply_all(changes);
        lab.wait_for_installed(15_000);
        assert_eq!(lab.ours().len(), 15_000);
        assert_eq!(lab.gateways("11.0.7.0/24"), [B]);
        assert_eq!(lab.gateways("11.39.7.0/24"), [A]);
        assert_eq!(lab.gateways("11.60.7.0/24"), [""; 0]);
        assert_eq!(lab.summary().repaired, 0);
    });
}

#[test]
fn a_group_that_a_foreign_route_points_at_stays_until_that_is_gone() {
    in_namespace(|lab| {
        let changes = lab.many(20_000, &[A]);
        lab.apply_all(changes);
        lab.wait_for_installed(20_000);
        let route = &lab.ours()[&prefix("11.0.7.0/24")];
        let group = route.next_hop.expect("all of ours point at a group");
        ip(&format!(
            "route add 198.51.100.0/24 nhid {group} proto static table 77"
        ));
        let changes = lab.many(20_000, &[]);
        lab.apply_all(changes);
        lab.wait_for_installed(0);
        assert_eq!(lab.ours().len(), 0);
        let theirs = lab.all_routes(77);
        assert_eq!(theirs.len(), 1, "what is not ours is never touched");
        assert_eq!(theirs[0].next_hop, Some(group));

        ip("route del 198.51.100.0/24 table 77");
        lab.fib().sweep(); // lists everything
        lab.wait_for("no object is left", |lab| lab.objects().is_empty());
    });
}

#[test]
fn a_foreign_route_that_was_there_before_us_keeps_its_group_too() {
    in_namespace(|lab| {
        let changes = lab.many(20_000, &[A]);
        lab.apply_all(changes);
        lab.wait_for_installed(20_000);
        let route = &lab.ours()[&prefix("11.0.7.0/24")];
        let group = route.next_hop.expect("all of ours point at a group");
        lab.stop();
        ip(&format!(
            "route add 198.51.100.0/24 nhid {group} proto static table 77"
        ));
        lab.restart();
        let changes = lab.many(20_000, &[A]);
        lab.apply_all(changes);
        lab.wait_for_installed(20_000);
        lab.fib().sweep();
        let changes = lab.many(20_000, &[]);
        lab.apply_all(changes);
        lab.wait_for_installed(0);
        assert_eq!(lab.ours().len(), 0);
        assert_eq!(lab.all_routes(77).len(), 1);
    });
}
