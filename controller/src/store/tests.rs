//! What both stores share, and how large the ledger in the API server becomes.

use ipam::numbers::NumberLease;
use ipam::pool::{Lease, Ledger};
use ipnetwork::IpNetwork;

use super::document::{self, Document, LIMIT, Unreadable};
use super::*;

fn lease(node: &str, state: State) -> Lease {
    Lease {
        pool: "pods".to_owned(),
        node: node.to_owned(),
        fixed: false,
        state,
        since: 1_795_000_000_000,
    }
}

fn contents() -> Contents {
    let waiting = State::Waiting { free_at: 5000 };
    let leases = [
        ("10.0.0.0/24", lease("a", State::Assigned)),
        ("10.0.1.0/24", lease("b", waiting)),
        ("fd00::/64", lease("a", State::Assigned)),
    ];
    let leases = leases.map(|(subnet, lease)| (subnet.parse().unwrap(), lease));
    let number = |asn, free_at| NumberLease { asn, free_at };
    let version = Version {
        version: 12,
        digest: "00ff".to_owned(),
    };
    Contents {
        ledger: Ledger::new(leases).unwrap(),
        numbers: [
            ("node/a".to_owned(), number(65001, None)),
            ("rack/r1".to_owned(), number(65002, Some(6000))),
        ]
        .into(),
        versions: [("a".to_owned(), version)].into(),
        last_version: 12,
        resources: StoredResources {
            files: Vec::new(),
            digest: "abc".to_owned(),
            generation: 3,
            loaded: 99,
        },
        clock: 4000,
    }
}

fn free_ats(contents: &Contents) -> Vec<Millis> {
    let subnets = contents.ledger.iter().filter_map(|(_, l)| match l.state {
        State::Assigned => None,
        State::Waiting { free_at } => Some(free_at),
    });
    let numbers = contents.numbers.values().filter_map(|n| n.free_at);
    subnets.chain(numbers).collect()
}

#[test]
fn a_wall_clock_that_was_set_between_two_runs_neither_shortens_nor_prolongs_a_grace_time() {
    let day = 86_400_000;
    for now in [4000 + 3 * day, 4001, 4000, 10, 0] {
        let mut contents = contents();
        let (subnets, numbers) = rebased(&contents, now);
        contents.apply(&Commit {
            subnets: &subnets,
            numbers: &numbers,
            last_version: 12,
            clock: now,
            ..Commit::default()
        });
        assert_eq!(free_ats(&contents), [now + 1000, now + 2000], "now {now}");
    }
}

#[test]
fn what_an_older_controller_stored_without_a_clock_keeps_its_times() {
    let contents = Contents {
        clock: 0,
        ..contents()
    };
    assert_eq!(rebased(&contents, 77), (Vec::new(), Vec::new()));
}

#[test]
fn a_grace_time_that_is_over_stays_over() {
    let mut contents = contents();
    contents.clock = 9000;
    let (subnets, _) = rebased(&contents, 100);
    let [pool::Change::Set(_, lease)] = &subnets[..] else {
        panic!("{subnets:?}");
    };
    assert_eq!(lease.state, State::Waiting { free_at: 100 });
}

#[test]
fn a_ledger_reads_back_as_it_was_written() {
    let document = Document {
        contents: contents(),
        generation: 7,
        writer: "controller-0".to_owned(),
    };
    let read = Document::decode(&document.encode()).unwrap();
    assert_eq!(format!("{read:?}"), format!("{document:?}"));
}

#[test]
fn a_ledger_that_was_changed_by_hand_or_by_a_newer_controller_is_refused() {
    let whole = Document::default().encode();
    assert!(Document::decode(&whole).is_ok());
    let mut map = whole.clone();
    map.data
        .as_mut()
        .unwrap()
        .insert("schema".to_owned(), "2".to_owned());
    assert_eq!(Document::decode(&map).unwrap_err(), Unreadable::Newer(2));
    for key in ["schema", "sha256"] {
        let mut map = whole.clone();
        map.data.as_mut().unwrap().remove(key);
        let error = Document::decode(&map).unwrap_err();
        assert!(matches!(error, Unreadable::Damaged(_)), "{error}");
    }
    let length = whole.binary_data.as_ref().unwrap()["ledger.json.gz"]
        .0
        .len();
    for at in 0..length {
        let mut map = whole.clone();
        let data = map.binary_data.as_mut().unwrap();
        data.get_mut("ledger.json.gz").unwrap().0[at] ^= 1;
        let error = Document::decode(&map).unwrap_err();
        assert!(matches!(error, Unreadable::Damaged(_)), "{error}");
    }
}

/// A cluster as a cloud makes it: names without order, nodes that came over a year.
fn cluster(nodes: u32) -> Document {
    let mut contents = contents();
    let mut leases = Vec::new();
    for n in 0..nodes {
        let mixed = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let node = format!(
            "ip-10-{}-{}-{}.eu-west-1.compute.internal",
            n >> 16,
            n >> 8 & 255,
            n & 255
        );
        let since = 1_760_000_000_000 + mixed % 31_536_000_000;
        let v4 = IpNetwork::new((0x0a00_0000 + (n << 8)).to_be_bytes().into(), 24).unwrap();
        let v6 = (0xfd00_u128 << 112) + (u128::from(n) << 64);
        let v6 = IpNetwork::new(v6.to_be_bytes().into(), 64).unwrap();
        for subnet in [v4, v6] {
            let mut lease = lease(&node, State::Assigned);
            lease.since = since;
            leases.push((subnet, lease));
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, &mixed.to_be_bytes());
        let version = Version {
            version: 100_000 + u64::from(n),
            digest: hex(&digest.as_ref()[..8]),
        };
        contents.versions.insert(node.clone(), version);
        let number = NumberLease {
            asn: 4_200_000_000 + n,
            free_at: None,
        };
        contents.numbers.insert(format!("node/{node}"), number);
    }
    contents.ledger = Ledger::new(leases).unwrap();
    Document {
        contents,
        ..Document::default()
    }
}

#[test]
fn a_cluster_of_20_000_nodes_in_both_families_fits_with_room_to_spare() {
    for (nodes, most) in [(5_000, LIMIT * 25 / 100), (20_000, LIMIT * 80 / 100)] {
        let started = std::time::Instant::now();
        let map = cluster(nodes).encode();
        let size = document::size(&map);
        println!("{nodes} nodes: {size} octets, {:?}", started.elapsed());
        assert!(size < most, "{nodes} nodes: {size} octets");
    }
}
