//! How routes travel from speaker to speaker.

use std::net::Ipv4Addr;

use bgp::query::View;
use bgp::types::{Family, Prefix};

use crate::net::{Id, Net};
use crate::world::{address, established_pair, name, originated, own_prefix, seconds};

fn chain(asns: &[u32]) -> (Net, Vec<Id>) {
    let mut net = Net::new(1);
    let ids: Vec<_> = asns.iter().map(|asn| net.speaker(*asn)).collect();
    for pair in ids.windows(2) {
        net.peer(pair[0], pair[1]);
    }
    net.begin();
    net.advance(seconds(20));
    (net, ids)
}

#[test]
fn along_a_chain_of_external_peers_every_as_is_written_down() {
    let (net, ids) = chain(&[65000, 65001, 65002, 65003]);
    net.assert_all_reachable();
    for prefix in own_prefix(ids[0]) {
        let path = net.path(ids[3], prefix);
        assert_eq!(path.as_deref(), Some("65002 65001 65000"));
    }
}

#[test]
fn four_octet_as_numbers_travel_whole() {
    let (net, ids) = chain(&[4_200_000_001, 65001, 4_200_000_002]);
    let path = net.path(ids[2], own_prefix(ids[0])[0]);
    assert_eq!(path.as_deref(), Some("65001 4200000001"));
}

#[test]
fn a_route_from_an_internal_peer_is_not_told_to_another() {
    let (net, ids) = chain(&[65000, 65000, 65000]);
    assert!(net.path(ids[1], own_prefix(ids[0])[0]).is_some());
    assert_eq!(net.path(ids[2], own_prefix(ids[0])[0]), None);
}

#[test]
fn in_a_full_mesh_of_internal_peers_everybody_knows_everything_with_an_empty_path() {
    let mut net = Net::new(2);
    let ids: Vec<_> = (0..5).map(|_| net.speaker(65000)).collect();
    for a in 0..5 {
        for b in a + 1..5 {
            net.peer(a, b);
        }
    }
    net.begin();
    net.advance(seconds(20));
    net.assert_all_reachable();
    for prefix in own_prefix(ids[4]) {
        assert_eq!(net.path(ids[0], prefix).as_deref(), Some(""));
    }
}

#[test]
fn a_withdrawn_route_goes_everywhere() {
    let (mut net, ids) = chain(&[65000, 65001, 65002]);
    let [prefix, _] = own_prefix(ids[0]);
    net.configure(ids[0], |config| {
        config.originate.remove(0);
    });
    net.advance(seconds(5));
    assert_eq!(net.path(ids[1], prefix), None);
    assert_eq!(net.path(ids[2], prefix), None);
    assert!(net.path(ids[2], own_prefix(ids[0])[1]).is_some());
    for id in ids {
        net.assert_fib(id);
    }
}

#[test]
fn a_session_that_ends_takes_its_routes_along_everywhere() {
    let (mut net, ids) = chain(&[65000, 65001, 65002]);
    net.speakers[ids[0]].listening = false;
    net.cut(ids[0], ids[1]);
    net.advance(seconds(91));
    assert_eq!(net.path(ids[2], own_prefix(ids[0])[0]), None);
    assert!(net.path(ids[2], own_prefix(ids[1])[0]).is_some());
    net.assert_fib(ids[2]);
}

#[test]
fn each_side_marks_the_end_of_its_first_routes_once_a_family() {
    let (mut net, a, b) = established_pair(3);
    net.advance(seconds(60));
    for (here, there) in [(a, b), (b, a)] {
        let mut families = net.end_of_ribs(here, there);
        families.sort_unstable();
        assert_eq!(families, Family::ALL);
        for family in net.status(here, there).families {
            assert!(family.end_of_rib_received && family.end_of_rib_sent);
        }
    }
}

#[test]
fn a_withdrawal_is_never_an_end_of_rib() {
    let (mut net, a, b) = established_pair(4);
    let before = net.end_of_ribs(a, b).len();
    net.configure(a, |config| config.originate.clear());
    net.advance(seconds(5));
    assert_eq!(net.end_of_ribs(a, b).len(), before);
    assert_eq!(net.path(b, own_prefix(a)[0]), None);
    assert_eq!(net.path(b, own_prefix(a)[1]), None);
}

#[test]
fn routes_of_one_family_alone_are_exchanged_where_only_one_is_common() {
    let mut net = Net::new(5);
    let (a, b) = (net.speaker(65000), net.speaker(65001));
    net.peer(a, b);
    net.config_of(a, b).families = vec![Family::Ipv6];
    net.begin();
    net.advance(seconds(5));
    assert_eq!(net.path(b, own_prefix(a)[0]), None);
    assert!(net.path(b, own_prefix(a)[1]).is_some());
}

/// The `n`th of many prefixes.
fn prefix(n: u32) -> Prefix {
    Prefix::new(Ipv4Addr::from(0x0b00_0000 + (n << 8)).into(), 24)
}

#[test]
fn what_a_slow_receiver_has_yet_to_hear_stays_bounded_and_ends_with_the_present_state() {
    const MANY: u32 = 20_000;
    let (mut net, a, b) = established_pair(6);
    net.set_reading(b, false);
    net.configure(a, |config| {
        config
            .originate
            .extend((0..MANY).map(prefix).map(originated));
    });
    let mut most = 0;
    let sent_before = net.sent.len();
    for round in 0..20 {
        // Every other route comes and goes, again and again.
        net.configure(a, |config| {
            config.originate.truncate(2);
            let kept = (0..MANY).filter(|n| n % 2 == round % 2);
            config.originate.extend(kept.map(prefix).map(originated));
        });
        net.advance(seconds(1));
        let families = net.status(a, b).families;
        most = most.max(families.iter().map(|family| family.pending).sum::<u64>());
    }
    assert!(most > 0, "something waits");
    assert!(most <= u64::from(MANY) + 4, "one change a prefix: {most}");
    let bytes: usize = net.sent[sent_before..]
        .iter()
        .map(|sent| match &sent.message {
            bgp::message::Message::Update(body) => body.len(),
            _ => 0,
        })
        .sum();
    assert!(bytes < 400_000, "what was sent fits the window: {bytes}");

    net.set_reading(b, true);
    net.advance(seconds(10));
    let view = View::Received { peer: name(a) };
    let heard: Vec<_> = net.rows(b, view).iter().map(|row| row.prefix).collect();
    let odd = (0..MANY).filter(|n| n % 2 == 1).map(prefix);
    let mut expected: Vec<_> = odd.chain(own_prefix(a)).collect();
    expected.sort_unstable();
    assert_eq!(heard, expected);
    assert_eq!(net.status(a, b).established_count, 1);
    net.assert_fib(b);
}

#[test]
fn what_a_speaker_believes_it_has_sent_is_what_the_other_has_received() {
    let (net, ids) = chain(&[65000, 65001, 65002, 65003]);
    for pair in ids.windows(2) {
        for (here, there) in [(pair[0], pair[1]), (pair[1], pair[0])] {
            let told = |id, view| -> Vec<_> {
                let rows = net.rows(id, view).into_iter();
                rows.map(|row| (row.prefix, row.attributes.as_path.to_string()))
                    .collect()
            };
            let sent = told(here, View::Advertised { peer: name(there) });
            let received = told(there, View::Received { peer: name(here) });
            assert_eq!(sent, received, "{} to {}", name(here), name(there));
        }
    }
}

/// Two ways to the same prefix, one longer; the session over the shorter one is cut, with the hold
/// timer as the only one to notice.
#[test]
fn a_silent_peer_s_next_hop_is_down_when_the_hold_timer_says_so_and_the_backup_is_used() {
    let mut net = Net::new(11);
    for id in 0..4 {
        net.speaker(65000 + id);
    }
    // 0 – 1 – 3, and 0 – 2 – 1 – 3.
    for (a, b) in [(0, 1), (1, 3), (0, 2), (2, 1)] {
        net.peer(a, b);
    }
    net.speakers[0].config.decision.backup_paths = true;
    net.begin();
    net.advance(seconds(30));
    let prefix = own_prefix(3)[0];
    let [first, second] = [1, 2].map(|id| std::net::IpAddr::V4(address(id)));
    assert_eq!(net.speakers[0].fib[&prefix], [first]);
    assert_eq!(net.speakers[0].backups[&prefix], [second]);
    net.cut(0, 1);
    net.advance(seconds(120));
    assert!(net.speakers[0].down.contains(&first));
    assert!(!net.speakers[0].down.contains(&second));
    assert_eq!(net.speakers[0].fib[&prefix], [second]);
    net.mend(0, 1);
    net.advance(seconds(120));
    assert_eq!(net.speakers[0].fib[&prefix], [first]);
    assert_eq!(net.speakers[0].backups[&prefix], [second]);
}
