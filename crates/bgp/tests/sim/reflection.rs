//! Route reflectors (RFC 4456) and their clients: everybody knows everybody without a mesh, and the
//! loss of a reflector is nobody's loss.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp::config::{GracefulRestart, LongLived, NextHopMode};
use bgp::query::View;
use bgp::types::Prefix;

use crate::net::{Id, Net};
use crate::world::{address, own_prefix, seconds};

/// `reflectors` speakers that reflect to `clients` others; the reflectors know one another.
fn site(seed: u64, reflectors: usize, clients: usize) -> (Net, Vec<Id>, Vec<Id>) {
    let mut net = Net::new(seed);
    let reflectors: Vec<Id> = (0..reflectors).map(|_| net.speaker(65000)).collect();
    let clients: Vec<Id> = (0..clients).map(|_| net.speaker(65000)).collect();
    for (index, a) in reflectors.iter().enumerate() {
        for b in &reflectors[index + 1..] {
            net.peer(*a, *b);
        }
        for client in &clients {
            net.peer(*a, *client);
            net.config_of(*a, *client).reflector_client = true;
        }
    }
    (net, reflectors, clients)
}

/// The kernels of some speakers.
fn kernels(net: &Net, of: &[Id]) -> Vec<BTreeMap<Prefix, Vec<IpAddr>>> {
    of.iter().map(|id| net.speakers[*id].fib.clone()).collect()
}

/// Every client reaches every other one directly.
fn assert_direct(net: &Net, clients: &[Id]) {
    for client in clients {
        for other in clients.iter().filter(|other| *other != client) {
            let [prefix, _] = own_prefix(*other);
            let next_hops = net.speakers[*client].fib.get(&prefix);
            assert_eq!(
                next_hops.map(Vec::as_slice),
                Some([IpAddr::from(address(*other))].as_slice()),
                "{client} to {other}"
            );
        }
    }
}

#[test]
fn clients_know_one_another_by_one_reflector_and_send_packets_directly() {
    let (mut net, _, clients) = site(1, 1, 5);
    net.begin();
    net.advance(seconds(20));
    net.assert_all_reachable();
    assert_direct(&net, &clients);
}

#[test]
fn with_two_reflectors_the_loss_of_one_changes_no_kernel_s_route() {
    let (mut net, reflectors, clients) = site(2, 2, 5);
    net.begin();
    net.advance(seconds(20));
    net.assert_all_reachable();
    assert_direct(&net, &clients);
    let subnets_of_clients = |net: &Net| {
        let mut kernels = kernels(net, &clients);
        for kernel in &mut kernels {
            for prefix in own_prefix(reflectors[0]) {
                kernel.remove(&prefix);
            }
        }
        kernels
    };
    let before = subnets_of_clients(&net);
    let downs = |net: &Net| -> Vec<usize> {
        clients
            .iter()
            .map(|id| net.speakers[*id].down.len())
            .collect()
    };
    let down_before = downs(&net);
    for client in &clients {
        net.cut(reflectors[0], *client);
    }
    net.cut(reflectors[0], reflectors[1]);
    // The hold time passes second by second.
    for _ in 0..100 {
        net.advance(seconds(1));
        assert_eq!(subnets_of_clients(&net), before);
    }
    assert_ne!(net.state(clients[0], reflectors[0]), "Established");
    // But for the reflector's own subnets, no next hop was lost.
    let more = downs(&net)
        .iter()
        .zip(&down_before)
        .all(|(now, then)| now - then <= 2);
    assert!(more);
    assert_direct(&net, &clients);
}

#[test]
fn a_client_with_only_one_reflector_left_reaches_those_that_have_only_the_other() {
    let (mut net, reflectors, clients) = site(3, 2, 3);
    net.begin();
    net.advance(seconds(20));
    net.cut(reflectors[0], clients[0]);
    net.cut(reflectors[1], clients[1]);
    net.advance(seconds(100));
    assert_ne!(net.state(clients[0], reflectors[0]), "Established");
    assert_ne!(net.state(clients[1], reflectors[1]), "Established");
    assert_direct(&net, &clients);
    let rows = net.rows(clients[0], View::Best);
    let [prefix, _] = own_prefix(clients[1]);
    let row = rows.into_iter().find(|row| row.prefix == prefix).unwrap();
    let list = row.attributes.cluster_list.clone();
    assert_eq!(list, [address(reflectors[1]), address(reflectors[0])]);
    let originator = row.attributes.originator_id.map(|id| id.0);
    assert_eq!(originator, Some(address(clients[1])));
}

#[test]
fn reflectors_of_one_cluster_keep_one_copy_and_need_every_session() {
    let (mut net, reflectors, clients) = site(4, 2, 3);
    for reflector in &reflectors {
        net.speakers[*reflector].config.cluster_id = Some([10, 9, 9, 9].into());
    }
    net.begin();
    net.advance(seconds(20));
    net.assert_all_reachable();
    let [prefix, _] = own_prefix(clients[1]);
    net.cut(reflectors[0], clients[0]);
    net.cut(reflectors[1], clients[1]);
    net.advance(seconds(100));
    assert_eq!(
        net.path(clients[0], prefix),
        None,
        "what one cluster id costs"
    );
}

#[test]
fn reflectors_in_a_ring_of_clients_of_one_another_come_to_rest() {
    let mut net = Net::new(5);
    let ids: Vec<Id> = (0..4).map(|_| net.speaker(65000)).collect();
    for index in 0..4 {
        let (a, b) = (ids[index], ids[(index + 1) % 4]);
        net.peer(a, b);
        net.config_of(a, b).reflector_client = true;
        net.config_of(b, a).reflector_client = true;
    }
    net.begin();
    net.advance(seconds(30));
    net.assert_all_reachable();
    net.sent.clear();
    net.configure(ids[0], |config| {
        config.originate.remove(0);
    });
    net.advance(seconds(5));
    let [prefix, _] = own_prefix(ids[0]);
    for id in &ids {
        assert_eq!(net.path(*id, prefix), None);
        net.assert_fib(*id);
    }
    assert!(net.sent.len() < 60, "{} messages", net.sent.len());
}

#[test]
fn a_route_from_outside_comes_to_the_clients_with_the_border_s_address() {
    let (mut net, reflectors, clients) = site(6, 2, 2);
    let outside = net.speaker(65100);
    net.peer(clients[0], outside);
    for reflector in &reflectors {
        net.config_of(clients[0], *reflector).next_hop = NextHopMode::Self_;
        for client in &clients {
            net.config_of(*reflector, *client).next_hop = NextHopMode::Self_;
        }
    }
    net.begin();
    net.advance(seconds(20));
    let [prefix, _] = own_prefix(outside);
    assert_eq!(net.path(clients[1], prefix).as_deref(), Some("65100"));
    let border: IpAddr = address(clients[0]).into();
    assert_eq!(net.speakers[clients[1]].fib[&prefix], [border]);
    let told = net.rows(outside, View::All);
    let inner = told
        .iter()
        .filter(|row| row.attributes.originator_id.is_some());
    assert_eq!(inner.count(), 0);
}

#[test]
fn a_restarting_reflector_changes_no_kernel_s_route() {
    let (mut net, reflectors, clients) = site(7, 1, 4);
    net.graceful();
    net.begin();
    net.advance(seconds(20));
    let before = kernels(&net, &clients);
    let legacy = net.legacy(reflectors[0]);
    net.kill(reflectors[0]);
    net.start_again(reflectors[0], Some(legacy));
    for _ in 0..60 {
        net.advance(seconds(1));
        assert_eq!(kernels(&net, &clients), before);
    }
    assert_eq!(net.state(clients[0], reflectors[0]), "Established");
    net.assert_all_reachable();
}

#[test]
fn a_restarting_client_s_routes_are_kept_by_reflector_and_clients() {
    let (mut net, reflectors, clients) = site(8, 1, 3);
    net.graceful();
    net.begin();
    net.advance(seconds(20));
    let others = [clients[1], clients[2]];
    let before = kernels(&net, &others);
    let legacy = net.legacy(clients[0]);
    net.kill(clients[0]);
    net.start_again(clients[0], Some(legacy));
    for _ in 0..30 {
        net.advance(seconds(1));
        assert_eq!(kernels(&net, &others), before);
    }
    assert_eq!(net.state(reflectors[0], clients[0]), "Established");
    assert_direct(&net, &clients);
}

#[test]
fn a_client_that_is_long_gone_is_the_last_choice_of_all_until_its_time_is_up() {
    let (mut net, reflectors, clients) = site(9, 1, 3);
    net.long_lived(LongLived {
        stale_seconds: 600,
        at_most_seconds: None,
        tell_unaware: false,
    });
    net.begin();
    net.advance(seconds(20));
    let [prefix, _] = own_prefix(clients[0]);
    net.cut(reflectors[0], clients[0]);
    let restart = u64::from(GracefulRestart::default().restart_seconds);
    net.advance(seconds(90 + restart + 10));
    let rows = net.rows(clients[1], View::Best);
    let row = rows.into_iter().find(|row| row.prefix == prefix).unwrap();
    assert!(
        row.attributes
            .communities
            .contains(&bgp::types::Community::LLGR_STALE)
    );
    let originator = row.attributes.originator_id.map(|id| id.0);
    assert_eq!(originator, Some(address(clients[0])));
    net.advance(seconds(700));
    assert_eq!(net.path(clients[1], prefix), None);
}
