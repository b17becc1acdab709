use proptest::prelude::*;

use super::*;

fn attachment(network: &str, container: &str, addresses: &[&str], names: &[&str]) -> Attachment {
    Attachment {
        network: network.into(),
        container: container.into(),
        of_node: true,
        addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
        names: names.iter().map(|it| (*it).to_owned()).collect(),
    }
}

fn zone() -> Zone {
    Zone::new(
        "Pods.Internal",
        &[
            attachment("front", "c1", &["10.0.0.2", "fd00::2"], &["web1", "web"]),
            attachment("front", "c2", &["10.0.0.3"], &["web2", "web"]),
            attachment("back", "c2", &["10.1.0.3"], &["web2"]),
            attachment("back", "c3", &["10.1.0.4"], &["db", "Store.example.com"]),
        ],
        &[attachment("front", "", &["10.0.7.9"], &["far", "web"])],
        0,
    )
}

fn ask(zone: &Zone, from: &str, name: &str, kind: Kind) -> Found {
    let asker = zone.asker(from.parse().unwrap()).unwrap().unwrap();
    zone.find(asker, name, kind)
}

fn addresses(found: Found) -> Vec<String> {
    match found {
        Found::Addresses(addresses) => addresses.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_container_is_found_by_name_and_in_full() {
    let zone = zone();
    for name in ["web2", "web2.front.pods.internal"] {
        let found = ask(&zone, "10.0.0.2", name, Kind::Ipv4);
        assert_eq!(addresses(found), ["10.0.0.3"], "{name}");
    }
    let found = ask(&zone, "fd00::2", "web1", Kind::Ipv6);
    assert_eq!(addresses(found), ["fd00::2"]);
    let found = ask(&zone, "10.0.0.2", "far", Kind::Ipv4);
    assert_eq!(addresses(found), ["10.0.7.9"]);
}

/// As every C library does: both families are asked for, the one after the other.
#[test]
fn who_asks_for_both_families_gets_each_in_turn() {
    let here = [
        attachment("front", "c1", &["10.0.0.2", "fd00::2"], &["web"]),
        attachment("front", "c2", &["10.0.0.3", "fd00::3"], &["web"]),
    ];
    let zone = Zone::new("pods.internal", &here, &[], 0);
    let both = |_| {
        let first = |kind| addresses(ask(&zone, "10.0.0.2", "web", kind))[0].clone();
        [first(Kind::Ipv4), first(Kind::Ipv6)]
    };
    let firsts: Vec<[String; 2]> = (0..4).map(both).collect();
    assert_eq!(firsts[0], ["10.0.0.2", "fd00::2"]);
    assert_eq!(firsts[1], ["10.0.0.3", "fd00::3"]);
    assert_eq!(firsts[..2], firsts[2..]);
}

#[test]
fn a_new_zone_goes_on_where_it_is_told_to() {
    let here = [2, 3, 4].map(|it| attachment("front", "c", &[&format!("10.0.0.{it}")], &["web"]));
    let first = |turn| {
        let zone = Zone::new("pods.internal", &here, &[], turn);
        addresses(ask(&zone, "10.0.0.2", "web", Kind::Ipv4))[0].clone()
    };
    assert_eq!([5, 6, 7].map(first), ["10.0.0.4", "10.0.0.2", "10.0.0.3"]);
}

#[test]
fn containers_under_one_alias_are_answered_in_turn() {
    let zone = zone();
    let first = |_| addresses(ask(&zone, "10.0.0.2", "web", Kind::Ipv4))[0].clone();
    let firsts: Vec<String> = (0..6).map(first).collect();
    let turn = ["10.0.0.2", "10.0.0.3", "10.0.7.9"];
    assert_eq!(firsts, [turn, turn].concat());
}

#[test]
fn another_networks_names_are_not_there() {
    let zone = zone();
    assert_eq!(ask(&zone, "10.0.0.2", "db", Kind::Ipv4), Found::Elsewhere);
    let in_full = "db.back.pods.internal";
    assert_eq!(ask(&zone, "10.0.0.2", in_full, Kind::Ipv4), Found::NoName);
    let network = "back.pods.internal";
    assert_eq!(ask(&zone, "10.0.0.2", network, Kind::Ipv4), Found::NoName);
    let reverse = "4.0.1.10.in-addr.arpa";
    assert_eq!(
        ask(&zone, "10.0.0.2", reverse, Kind::Pointer),
        Found::NoName
    );
}

#[test]
fn a_container_of_two_networks_sees_both() {
    let zone = zone();
    for from in ["10.0.0.3", "10.1.0.3"] {
        for (name, address) in [("db", "10.1.0.4"), ("web1", "10.0.0.2")] {
            assert_eq!(addresses(ask(&zone, from, name, Kind::Ipv4)), [address]);
        }
    }
    // Its own name: in the network it asks from.
    assert_eq!(
        addresses(ask(&zone, "10.1.0.3", "web2", Kind::Ipv4)),
        ["10.1.0.3"]
    );
    assert_eq!(
        addresses(ask(&zone, "10.0.0.3", "web2", Kind::Ipv4)),
        ["10.0.0.3"]
    );
}

#[test]
fn an_address_of_two_containers_tells_nothing_of_who_asks() {
    let zone = Zone::new(
        "pods.internal",
        &[
            attachment("a", "c1", &["10.0.0.2"], &["one"]),
            attachment("b", "c2", &["10.0.0.2"], &["two"]),
        ],
        &[],
        0,
    );
    assert_eq!(zone.asker("10.0.0.2".parse().unwrap()), Some(None));
    assert_eq!(zone.asker("10.0.0.3".parse().unwrap()), None);
}

#[test]
fn what_there_is_none_of_is_said_as_it_is() {
    let zone = zone();
    let ask = |name, kind| ask(&zone, "10.0.0.2", name, kind);
    assert_eq!(ask("web2", Kind::Ipv6), Found::NoData);
    assert_eq!(ask("web2", Kind::Other), Found::NoData);
    assert_eq!(ask("nobody.front.pods.internal", Kind::Ipv4), Found::NoName);
    assert_eq!(ask("front.pods.internal", Kind::Ipv4), Found::NoData);
    assert_eq!(ask("pods.internal", Kind::Authority), Found::Authority);
    assert_eq!(ask("pods.internal", Kind::Ipv4), Found::NoData);
    assert_eq!(ask("web.example.com", Kind::Ipv4), Found::Elsewhere);
    assert_eq!(ask("notpods.internal", Kind::Ipv4), Found::Elsewhere);
    assert_eq!(ask("nobody", Kind::Ipv4), Found::Elsewhere);
}

#[test]
fn an_alias_may_be_any_name() {
    let zone = zone();
    let found = ask(&zone, "10.1.0.3", "store.example.com", Kind::Ipv4);
    assert_eq!(addresses(found), ["10.1.0.4"]);
    let outside = ask(&zone, "10.0.0.2", "store.example.com", Kind::Ipv4);
    assert_eq!(outside, Found::Elsewhere);
}

#[test]
fn an_address_is_found_by_its_containers_name() {
    let zone = zone();
    let names = |name| ask(&zone, "10.0.0.2", name, Kind::Pointer);
    let found = Found::Names(vec!["web1.front.pods.internal".into()]);
    assert_eq!(names("2.0.0.10.in-addr.arpa"), found);
    let ipv6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(names(ipv6), found);
    assert_eq!(names("1.1.1.1.in-addr.arpa"), Found::Elsewhere);
    assert_eq!(names("1.1.1.in-addr.arpa"), Found::Elsewhere);
    assert_eq!(names("x.1.1.1.in-addr.arpa"), Found::Elsewhere);
}

#[test]
fn the_host_asks_in_full_for_every_network() {
    let zone = zone();
    let host = zone.host();
    for name in ["db.back.pods.internal", "web1.front.pods.internal"] {
        assert_eq!(addresses(zone.find(&host, name, Kind::Ipv4)).len(), 1);
    }
    assert_eq!(zone.find(&host, "db", Kind::Ipv4), Found::Elsewhere);
}

#[test]
fn names_that_nobody_can_ask_for_are_left_out() {
    assert_eq!(normal("Web-1_a."), Some("web-1_a".into()));
    for name in ["", ".", "a..b", "a b", "ä", "a\\b", &"a".repeat(64)] {
        assert_eq!(normal(name), None, "{name}");
    }
}

proptest! {
    /// Whatever is asked, an answer has only addresses of containers that share a network with who asks.
    #[test]
    fn nothing_is_told_across_networks(
        places in proptest::collection::vec((0_u8..4, 0_u8..6, 0_u8..5), 1..40),
        asked in 0_u8..5,
        from in 0_usize..40,
        in_full in proptest::option::of(0_u8..4),
    ) {
        let here: Vec<Attachment> = places.iter().zip(2_u8..).map(|((network, container, name), host)| {
            attachment(
                &format!("n{network}"),
                &format!("c{container}"),
                &[&format!("10.{network}.0.{host}")],
                &[&format!("x{name}"), "all"],
            )
        }).collect();
        let zone = Zone::new("pods.internal", &here, &[], 0);
        let who = &here[from % here.len()];
        let asker = zone.asker(who.addresses[0]).unwrap().unwrap();
        let name = match in_full {
            Some(network) => format!("x{asked}.n{network}.pods.internal"),
            None => format!("x{asked}"),
        };
        let mine: Vec<&str> = here.iter().filter(|it| it.container == who.container)
            .map(|it| it.network.as_str()).collect();
        if let Found::Addresses(found) = zone.find(asker, &name, Kind::Ipv4) {
            for address in found {
                let owner = here.iter().find(|it| it.addresses.contains(&address)).unwrap();
                prop_assert!(mine.contains(&owner.network.as_str()));
                let asked = format!("x{asked}");
                prop_assert!(owner.names.contains(&asked));
            }
        }
        if let Found::Addresses(all) = zone.find(asker, "all", Kind::Ipv4) {
            prop_assert!(!all.is_empty());
        }
    }

    #[test]
    fn no_name_panics(name in "[a-z0-9.\\\\-]{0,80}(\\.in-addr\\.arpa|\\.ip6\\.arpa|\\.pods\\.internal|)") {
        let zone = zone();
        for kind in [Kind::Ipv4, Kind::Ipv6, Kind::Pointer, Kind::Authority, Kind::Other] {
            ask(&zone, "10.0.0.2", &name, kind);
        }
    }
}
