//! Route reflection, RFC 4456: who hears of whose routes, and what is written into them.

use std::net::Ipv4Addr;

use super::rig::{OUR_AS, Rig, config, nth, peer};
use crate::attributes::Attributes;
use crate::config::{NextHopMode, PeerConfig, Set};
use crate::query::{ExportState, Outcome, Refusal, Step, Withheld};
use crate::types::RouterId;

const OURS: [u8; 4] = [192, 0, 2, 1];

fn client(name: &str, last_octet: u8) -> PeerConfig {
    PeerConfig {
        reflector_client: true,
        ..peer(name, OUR_AS, last_octet)
    }
}

/// Clients `c2` and `c3`, other internal peers `i4` and `i5`, an external one `e6`.
fn reflector() -> Rig {
    let mut rig = Rig::new(config(vec![
        client("c2", 2),
        client("c3", 3),
        peer("i4", OUR_AS, 4),
        peer("i5", OUR_AS, 5),
        peer("e6", 65006, 6),
    ]));
    rig.establish_all();
    rig
}

fn hears(rig: &mut Rig, index: u32) -> Vec<&'static str> {
    let mut who = vec!["c2", "c3", "i4", "i5", "e6"];
    who.retain(|name| rig.script(name).heard.contains_key(&nth(index)));
    who
}

fn clusters(ids: &[[u8; 4]]) -> Vec<Ipv4Addr> {
    ids.iter().copied().map(Ipv4Addr::from).collect()
}

#[test]
fn a_client_s_routes_are_for_everybody_those_of_others_for_clients_and_outside() {
    let mut rig = reflector();
    for (index, from) in (0..).zip(["c2", "i4", "e6"]) {
        let attributes = rig.own(from);
        rig.announce(from, &[nth(index)], &attributes);
    }
    assert_eq!(hears(&mut rig, 0), ["c3", "i4", "i5", "e6"]);
    assert_eq!(hears(&mut rig, 1), ["c2", "c3", "e6"]);
    assert_eq!(hears(&mut rig, 2), ["c2", "c3", "i4", "i5"]);
    let exports = rig.engine.explain(nth(1)).exports;
    let i5 = exports.iter().find(|export| &*export.peer == "i5").unwrap();
    assert_eq!(
        i5.state,
        ExportState::NotAdvertised(Withheld::IbgpToIbgp),
        "and a person is told why"
    );
}

#[test]
fn a_reflected_route_says_who_originated_it_and_which_clusters_it_went_through() {
    let mut rig = reflector();
    let sent = Attributes {
        local_pref: Some(200),
        med: Some(7),
        ..rig.own("c2")
    };
    rig.announce("c2", &[nth(0)], &sent);
    let heard = rig.script("i4").heard[&nth(0)].clone();
    let expected = Attributes {
        originator_id: Some(RouterId([192, 0, 2, 2].into())),
        cluster_list: clusters(&[OURS]),
        ..sent.clone()
    };
    assert_eq!(
        heard, expected,
        "all else stays as it was, the next hop too"
    );
    // What another reflector wrote into it stays.
    let reflected = Attributes {
        originator_id: Some(RouterId([10, 1, 1, 1].into())),
        cluster_list: clusters(&[[10, 8, 8, 8], [10, 9, 9, 9]]),
        ..rig.own("i4")
    };
    rig.announce("i4", &[nth(1)], &reflected);
    let expected = Attributes {
        cluster_list: clusters(&[OURS, [10, 8, 8, 8], [10, 9, 9, 9]]),
        local_pref: Some(100),
        ..reflected
    };
    assert_eq!(rig.script("c3").heard[&nth(1)], expected);
    // Outside it says nothing of that, and a route from outside has none of it.
    let outside = &rig.script("e6").heard[&nth(1)];
    assert_eq!(outside.originator_id, None);
    assert!(outside.cluster_list.is_empty());
    let attributes = rig.own("e6");
    rig.announce("e6", &[nth(2)], &attributes);
    let inside = &rig.script("c2").heard[&nth(2)];
    assert_eq!(inside.originator_id, None);
    assert!(inside.cluster_list.is_empty());
}

#[test]
fn the_next_hop_of_a_reflected_route_is_changed_by_policy_alone() {
    let mut rig = reflector();
    for peer in &mut rig.config.peers {
        peer.next_hop = NextHopMode::Self_;
    }
    rig.configure();
    let own = rig.own("c2");
    rig.announce("c2", &[nth(0)], &own);
    let external = rig.own("e6");
    rig.announce("e6", &[nth(1)], &external);
    assert_eq!(rig.script("c3").heard[&nth(0)].next_hop, own.next_hop);
    let ours = Some(std::net::IpAddr::from(OURS).into());
    assert_eq!(rig.script("c3").heard[&nth(1)].next_hop, ours);
    assert_eq!(rig.script("e6").heard[&nth(0)].next_hop, ours);
    rig.config.policies[0].rules[0].set = vec![Set::NextHopSelf];
    for peer in &mut rig.config.peers {
        peer.import = Vec::new();
    }
    rig.configure();
    assert_eq!(rig.script("c3").heard[&nth(0)].next_hop, ours);
    assert_eq!(
        rig.script("c3").heard[&nth(0)].cluster_list,
        clusters(&[OURS])
    );
}

#[test]
fn a_route_that_was_here_before_is_refused_with_its_reason() {
    let mut rig = reflector();
    rig.config.cluster_id = Some([10, 0, 0, 77].into());
    rig.configure();
    let looped = Attributes {
        cluster_list: clusters(&[[10, 8, 8, 8], [10, 0, 0, 77]]),
        ..rig.own("i4")
    };
    rig.announce("i4", &[nth(0)], &looped);
    let candidate = rig.engine.explain(nth(0)).candidates.remove(0);
    assert_eq!(candidate.outcome, Outcome::Refused(Refusal::ClusterLoop));
    // Our router id names another cluster, if anything.
    let other = Attributes {
        cluster_list: clusters(&[OURS]),
        ..rig.own("i4")
    };
    rig.announce("i4", &[nth(1)], &other);
    assert_eq!(rig.best(nth(1)).as_deref(), Some("i4"));
    // A speaker without clients is of no cluster.
    rig.config.peers[0].reflector_client = false;
    rig.config.peers[1].reflector_client = false;
    rig.configure();
    assert_eq!(rig.best(nth(0)).as_deref(), Some("i4"));
}

#[test]
fn the_direct_way_wins_over_the_one_through_another_reflector() {
    let mut rig = reflector();
    let direct = rig.own("c3");
    let detour = Attributes {
        originator_id: Some(RouterId([192, 0, 2, 3].into())),
        cluster_list: clusters(&[[10, 8, 8, 8]]),
        ..direct.clone()
    };
    rig.announce("i4", &[nth(0)], &detour);
    rig.announce("c3", &[nth(0)], &direct);
    assert_eq!(rig.best(nth(0)).as_deref(), Some("c3"));
    let candidates = rig.engine.explain(nth(0)).candidates;
    let lost = candidates
        .iter()
        .find(|it| it.route.peer.as_deref() == Some("i4"));
    let outcome = lost.unwrap().outcome.clone();
    assert_eq!(
        outcome,
        Outcome::Multipath,
        "packets go the same way by both"
    );
    rig.config.decision.max_paths = 1;
    rig.configure();
    let candidates = rig.engine.explain(nth(0)).candidates;
    let lost = candidates
        .iter()
        .find(|it| it.route.peer.as_deref() == Some("i4"));
    let by_length = Outcome::Lost {
        step: Step::ClusterListLength,
        to: Some("c3".into()),
    };
    assert_eq!(lost.unwrap().outcome, by_length);
}

#[test]
fn who_becomes_a_client_hears_everything_and_who_is_none_any_more_does_not() {
    let mut rig = reflector();
    for (index, from) in (0..).zip(["i4", "i5"]) {
        let attributes = rig.own(from);
        rig.announce(from, &[nth(index)], &attributes);
    }
    assert_eq!(hears(&mut rig, 0), ["c2", "c3", "e6"]);
    rig.config.peers[2].reflector_client = true;
    rig.configure();
    assert_eq!(hears(&mut rig, 0), ["c2", "c3", "i5", "e6"]);
    assert_eq!(hears(&mut rig, 1), ["c2", "c3", "i4", "e6"]);
    rig.config.peers[2].reflector_client = false;
    rig.configure();
    assert_eq!(hears(&mut rig, 0), ["c2", "c3", "e6"]);
    assert_eq!(hears(&mut rig, 1), ["c2", "c3", "e6"]);
    let established = rig.status("i4").established_count;
    assert_eq!(established, 1, "the session knows nothing of it");
}

#[test]
fn another_cluster_id_is_told_without_a_reset() {
    let mut rig = reflector();
    let attributes = rig.own("c2");
    rig.announce("c2", &[nth(0)], &attributes);
    rig.config.cluster_id = Some([10, 0, 0, 77].into());
    rig.configure();
    let heard = &rig.script("c3").heard[&nth(0)];
    assert_eq!(heard.cluster_list, clusters(&[[10, 0, 0, 77]]));
    assert_eq!(rig.status("c3").established_count, 1);
}

#[test]
fn clients_are_sent_the_same_bytes() {
    let mut rig = reflector();
    rig.config.peers.push(client("c7", 7));
    rig.configure();
    rig.establish("c7");
    for name in ["c3", "c7"] {
        rig.script(name).raw.clear();
    }
    for index in 0..100 {
        let attributes = Attributes {
            med: Some(index % 7),
            ..rig.own("c2")
        };
        rig.announce("c2", &[nth(index)], &attributes);
    }
    let raw = rig.script("c3").raw.clone();
    assert!(!raw.is_empty());
    assert_eq!(rig.script("c7").raw, raw);
    let groups = rig.engine.v4.groups.iter().flatten().count();
    assert_eq!(
        groups, 3,
        "of clients, of other internal peers, of external ones"
    );
}

#[test]
fn only_an_internal_peer_can_be_a_client() {
    let mut wrong = reflector().config;
    wrong.peers[4].reflector_client = true;
    assert_eq!(
        wrong.check().unwrap_err().to_string(),
        "being a reflector's client of peer `e6` is eBGP; allowed: only with peers of our own AS"
    );
}
