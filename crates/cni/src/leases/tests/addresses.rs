//! Who gets which address, and who does not.

use super::*;

fn text(error: &AllocateError) -> String {
    error.to_string()
}

#[test]
fn an_address_of_each_family_is_given_and_the_same_again_to_the_same() {
    let machine = Machine::new();
    let request = routed(&["10.64.0.0/24", "fd00:64::/64"]);
    let first = machine.add("a", &request).unwrap();
    assert_eq!(first, ["10.64.0.1/24", "fd00:64::1/64"]);
    assert_eq!(
        machine.add("b", &request).unwrap(),
        ["10.64.0.2/24", "fd00:64::2/64"]
    );
    assert_eq!(machine.add("a", &request).unwrap(), first);
    assert_eq!(machine.snapshot().leases.len(), 2);
}

#[test]
fn both_families_are_given_or_none() {
    let machine = Machine::new();
    let request = routed(&["10.64.0.0/24", "fd00:64::/128"]);
    machine.add("a", &request).unwrap();
    let error = machine.add("b", &request).unwrap_err();
    assert_eq!(
        text(&error),
        "no IPv6 address is free in fd00:64::/128: containers have 1"
    );
    assert!(!error.is_temporary());
    let next = machine.add("c", &routed(&["10.64.0.0/24"])).unwrap();
    assert_eq!(next, ["10.64.0.2/24"]);
}

#[test]
fn an_address_cools_down_before_anybody_else_gets_it() {
    let mut machine = Machine::new();
    let request = routed(&["10.64.0.0/31"]);
    machine.add("a", &request).unwrap();
    machine.add("b", &request).unwrap();
    machine.del("a").unwrap();
    machine.pass(Duration::from_millis(30_000));
    machine.del("b").unwrap();
    machine.pass(Duration::from_millis(30_000));
    let error = machine.add("c", &request).unwrap_err();
    assert_eq!(
        text(&error),
        "no IPv4 address is free in 10.64.0.0/31: containers have 0, 2 were freed a short time ago \
         and are cooling down, the first until 2026-11-21T14:45:01Z (in 1 s)"
    );
    assert!(error.is_temporary());
    machine.pass(Duration::from_millis(10));
    assert_eq!(machine.add("c", &request).unwrap(), ["10.64.0.0/31"]);
    machine.add("d", &request).unwrap_err();
}

#[test]
fn clocks_that_are_set_change_no_cool_down() {
    let mut machine = Machine::new();
    let request = routed(&["10.64.0.0/32"]);
    machine.add("a", &request).unwrap();
    machine.del("a").unwrap();
    machine.now.wall += Duration::from_secs(1_000_000);
    machine.add("b", &request).unwrap_err();
    machine.now.wall -= Duration::from_secs(9_000_000);
    machine.now.uptime += COOLDOWN + Duration::from_millis(10);
    machine.add("b", &request).unwrap();
}

#[test]
fn a_clock_that_begins_anew_makes_a_cool_down_no_longer_than_it_is() {
    let mut machine = Machine::new();
    let request = routed(&["10.64.0.0/32"]);
    machine.add("a", &request).unwrap();
    machine.del("a").unwrap();
    // As /proc/uptime of a container does when that is started again.
    machine.now.uptime = COOLDOWN;
    machine.add("b", &request).unwrap_err();
    machine.pass(Duration::from_millis(10));
    machine.add("b", &request).unwrap();
}

#[test]
fn after_a_boot_what_was_leased_and_what_was_freed_cools_down_from_its_beginning() {
    let mut machine = Machine::new();
    let request = routed(&["10.64.0.0/31"]);
    machine.add("a", &request).unwrap();
    machine.add("b", &request).unwrap();
    machine.del("b").unwrap();
    machine.now = at("boot-2", COOLDOWN.as_millis() as u64);
    assert!(machine.snapshot().leases[0].earlier_boot);
    assert!(machine.add("c", &request).unwrap_err().is_temporary());
    // The same container, started again by its runtime, has its address back.
    assert_eq!(machine.add("a", &request).unwrap(), ["10.64.0.0/31"]);
    assert!(!machine.snapshot().leases[0].earlier_boot);
    machine.pass(Duration::from_millis(10));
    assert_eq!(machine.add("c", &request).unwrap(), ["10.64.0.1/31"]);
}

#[test]
fn a_lease_of_an_earlier_boot_gives_way_when_nothing_else_is_free() {
    let mut machine = Machine::new();
    let request = routed(&["10.64.0.0/31", "fd00::/64"]);
    machine.add("a", &request).unwrap();
    machine.now = at("boot-2", 1_000_000);
    assert_eq!(machine.add("b", &request).unwrap()[0], "10.64.0.1/31");
    assert_eq!(machine.snapshot().leases.len(), 2);
    assert_eq!(machine.add("c", &request).unwrap()[0], "10.64.0.0/31");
    let leases = machine.snapshot().leases;
    let containers: Vec<_> = leases.iter().map(|it| &*it.owner.container).collect();
    assert_eq!(containers, ["b", "c"]);
    assert_eq!(machine.del("a"), None);
    machine.add("d", &request).unwrap_err();
}

#[test]
fn the_next_subnet_is_used_when_one_is_full_and_none_that_is_being_taken_away() {
    let machine = Machine::new();
    let mut request = routed(&["10.64.0.0/31", "10.64.1.0/31", "10.64.2.0/31"]);
    request.ranges[1] = request.ranges[1].clone().draining();
    let mut given = Vec::new();
    for container in ["a", "b", "c", "d"] {
        given.extend(machine.add(container, &request).unwrap());
    }
    assert_eq!(
        given,
        [
            "10.64.0.0/31",
            "10.64.0.1/31",
            "10.64.2.0/31",
            "10.64.2.1/31"
        ]
    );
    let error = machine.add("e", &request).unwrap_err();
    assert_eq!(
        text(&error),
        "no IPv4 address is free in 10.64.0.0/31, 10.64.1.0/31, 10.64.2.0/31: 1 of them being taken \
         away from this node, containers have 4"
    );
    let mut request = routed(&["10.64.1.0/31"]);
    request.ranges[0] = request.ranges[0].clone().draining();
    let error = machine.add("e", &request).unwrap_err();
    assert!(text(&error).contains("being taken away from this node, and it has no other subnet"));
}

#[test]
fn networks_share_the_subnets_of_the_node_and_nothing_else() {
    let machine = Machine::new();
    let add = |network: &str, container: &str, request: &Request| {
        machine
            .add_as(network, owner(container), request)
            .unwrap()
            .remove(0)
    };
    let node = routed(&["10.64.0.0/24"]);
    assert_eq!(add("pods", "a", &node), "10.64.0.1/24");
    assert_eq!(add("bridge", "a", &node), "10.64.0.2/24");
    let own = Request {
        ranges: vec![Range::on_link(net("192.168.0.0/24"), None)],
        ..Request::default()
    };
    assert_eq!(add("red", "b", &own), "192.168.0.1/24");
    assert_eq!(add("blue", "b", &own), "192.168.0.1/24");
    assert_eq!(add("blue", "c", &own), "192.168.0.2/24");
    // A network's own subnet that is the node's, too, keeps clear of it.
    let overlap = Request {
        ranges: vec![Range::on_link(net("10.64.0.0/24"), None)],
        ..Request::default()
    };
    assert_eq!(add("red", "c", &overlap), "10.64.0.3/24");
    assert_eq!(add("pods", "b", &node), "10.64.0.4/24");
}

#[test]
fn requested_addresses_are_given_when_they_are_free() {
    let machine = Machine::new();
    let mut request = routed(&["10.64.0.0/24", "fd00:64::/64"]);
    request.requested = vec![ip("10.64.0.7")];
    assert_eq!(
        machine.add("a", &request).unwrap(),
        ["10.64.0.7/24", "fd00:64::1/64"]
    );
    request.requested = vec![ip("fd00:64::7"), ip("10.64.0.9"), ip("10.64.0.8")];
    assert_eq!(
        machine.add("b", &request).unwrap(),
        ["10.64.0.8/24", "10.64.0.9/24", "fd00:64::7/64"]
    );
}

#[test]
fn requested_addresses_are_refused_with_the_reason() {
    let mut machine = Machine::new();
    let range = Range::on_link(net("10.64.0.0/24"), Some(ip("10.64.0.1")));
    let draining = Range::on_link(net("10.64.1.0/24"), None).draining();
    let mut request = Request {
        ranges: vec![range.reserve(net("10.64.0.128/25")), draining],
        requested: Vec::new(),
        cooldown: COOLDOWN,
    };
    let named = Owner {
        name: Some("web-0".to_owned()),
        ..owner("a")
    };
    machine.add_as("pods", named.clone(), &request).unwrap();
    let mut refused = |container: &str, address: &str| {
        request.requested = vec![ip(address)];
        text(&machine.add(container, &request).unwrap_err())
    };
    let begin = "the requested address ";
    for (address, why) in [
        (
            "10.65.0.1",
            "cannot be given: it is not in 10.64.0.0/24, 10.64.1.0/24",
        ),
        (
            "fd00::1",
            "cannot be given: it is not in 10.64.0.0/24, 10.64.1.0/24",
        ),
        (
            "10.64.0.0",
            "cannot be given: it is the network's own address",
        ),
        (
            "10.64.0.255",
            "cannot be given: it is the broadcast address",
        ),
        ("10.64.0.1", "cannot be given: it is the gateway's address"),
        (
            "10.64.0.200",
            "cannot be given: it is in the reserved range 10.64.0.128/25",
        ),
        (
            "10.64.1.7",
            "cannot be given: its subnet 10.64.1.0/24 is being taken away from this node",
        ),
        (
            "10.64.0.2",
            "cannot be given: eth0 of container a (web-0) has it in the network pods",
        ),
    ] {
        assert_eq!(refused("b", address), format!("{begin}{address} {why}"));
    }
    assert_eq!(
        refused("a", "10.64.0.9"),
        "the requested address 10.64.0.9 cannot be given: eth0 of container a has 10.64.0.2 already; \
         DEL it first"
    );
    machine.del("a").unwrap();
    machine.pass(Duration::from_secs(10));
    request.requested = vec![ip("10.64.0.2")];
    let error = machine.add("b", &request).unwrap_err();
    assert_eq!(
        text(&error),
        "the requested address 10.64.0.2 cannot be given: it was freed a short time ago and is given \
         to nobody else before 2026-11-21T14:45:51Z (in 51 s)"
    );
    assert!(error.is_temporary());
    // But the next pod of the same name has it at once.
    let next = Owner {
        container: "c".to_owned(),
        ..named
    };
    assert_eq!(
        machine.add_as("pods", next, &request).unwrap(),
        ["10.64.0.2/24"]
    );
}

#[test]
fn an_attachment_without_addresses_has_a_lease() {
    let machine = Machine::new();
    assert!(machine.add("a", &Request::default()).unwrap().is_empty());
    assert_eq!(machine.snapshot().leases[0].owner.container, "a");
    assert!(machine.del("a").is_some());
    assert_eq!(machine.snapshot(), Snapshot::default());
}

#[test]
fn garbage_collection_ends_just_what_the_runtime_does_not_know() {
    let machine = Machine::new();
    let request = routed(&["10.64.0.0/24"]);
    for container in ["a", "b", "c"] {
        machine.add(container, &request).unwrap();
    }
    machine.add_as("other", owner("z"), &request).unwrap();
    let ended = machine.open("pods").retain(|container, ifname| {
        assert_eq!(ifname, "eth0");
        container == "b"
    });
    let ended: Vec<_> = ended
        .unwrap()
        .into_iter()
        .map(|it| it.owner.container)
        .collect();
    assert_eq!(ended, ["a", "c"]);
    let left = machine.snapshot().leases;
    let left: Vec<_> = left.iter().map(|it| &*it.owner.container).collect();
    assert_eq!(left, ["b", "z"]);
}

#[test]
fn one_container_may_have_several_interfaces() {
    let machine = Machine::new();
    let request = routed(&["10.64.0.0/24"]);
    machine.add("a", &request).unwrap();
    let second = Owner {
        ifname: "net1".to_owned(),
        ..owner("a")
    };
    assert_eq!(
        machine.add_as("pods", second, &request).unwrap(),
        ["10.64.0.2/24"]
    );
    machine.del("a").unwrap();
    let leases = machine.open("pods");
    assert!(leases.of("a", "eth0").is_none() && leases.of("a", "net1").is_some());
    assert_eq!(leases.holder(ip("10.64.0.2")).unwrap().owner.ifname, "net1");
}
