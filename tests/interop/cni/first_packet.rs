//! What ADD says is there works when it says so: the first packet comes through, in both directions.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use lab::Lab;
use serde_json::{Value, json};

use super::scene::{addresses, leases, node, on_host};

/// Sends one datagram and says whether it came.
fn arrives(from: &UdpSocket, to: &UdpSocket, address: IpAddr) -> bool {
    let port = to.local_addr().unwrap().port();
    from.send_to(b"first", (address, port)).unwrap();
    to.recv(&mut [0; 16]).is_ok()
}

#[test]
fn the_first_packet_after_add_arrives_in_both_directions() {
    the_first_packet_arrives(json!({"mode": "routed"}), 120);
}

#[test]
fn the_first_packet_after_add_arrives_over_a_bridge_too() {
    let subnets = [
        json!({"subnet": "10.65.0.0/16"}),
        json!({"subnet": "fd00:65::/64"}),
    ];
    let network = json!({"mode": "bridge", "ipam": {"subnets": subnets}});
    the_first_packet_arrives(network, 40);
}

fn the_first_packet_arrives(network: Value, times: usize) {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let mut configuration = node.plugin(network);
    configuration["cniVersion"] = "1.1.0".into();
    configuration["name"] = "first".into();
    let (container, other) = (lab.container("c1").unwrap(), lab.container("c2").unwrap());
    let add = |to| {
        node.ours("ADD", to, &configuration)
            .unwrap()
            .result()
            .unwrap()
    };
    let others: Vec<IpAddr> = addresses(&add(&other))
        .iter()
        .map(|it| it.parse().unwrap())
        .collect();
    // Open before there is an interface: nothing has to be waited for.
    let [own, far] = [&container, &other].map(|container| {
        let socket = container
            .namespace()
            .within(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)));
        let socket = socket.unwrap().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        socket
    });
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        address => address,
    };
    let mut lost = Vec::new();
    for number in 0..times {
        let given = addresses(&add(&container));
        let family = number % 2;
        let address: IpAddr = given[family].parse().unwrap();
        // In turns, as the first one may make the way for the second.
        let ways: [(&str, bool); 2] = match number % 4 < 2 {
            true => [
                ("to it", arrives(&far, &own, mapped(address))),
                ("from it", arrives(&own, &far, mapped(others[family]))),
            ],
            false => [
                ("from it", arrives(&own, &far, mapped(others[family]))),
                ("to it", arrives(&far, &own, mapped(address))),
            ],
        };
        let missing = ways.into_iter().filter(|(_, arrived)| !arrived);
        lost.extend(missing.map(|(way, _)| format!("{number}: {way}, {address}")));
        let deleted = node.ours("DEL", &container, &configuration).unwrap();
        deleted.result().unwrap();
    }
    assert!(
        lost.is_empty(),
        "{} of {}: {lost:#?}",
        lost.len(),
        2 * times
    );
    node.ours("DEL", &other, &configuration)
        .unwrap()
        .result()
        .unwrap();
    assert!(on_host(&machine).is_empty());
    assert!(leases(&node).is_empty());
}
