//! Whatever happens in whatever order: no address has two containers, none is given while it cools
//! down, none is refused that could be given, and every process sees what the one before it left.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

const CONTAINERS: u8 = 7;
const NETWORKS: [&str; 3] = ["pods", "bridge", "red"];

#[derive(Clone, Debug)]
enum Step {
    Add {
        network: usize,
        container: u8,
        requested: Option<u8>,
        both: bool,
    },
    Del {
        network: usize,
        container: u8,
    },
    /// The runtime knows those of which the bit is set.
    Gc {
        network: usize,
        keep: u8,
    },
    Pass(u64),
    SetClock(i32),
    Reboot {
        uptime: u64,
    },
    /// A process dies while it writes, so many octets before the end of its line.
    Killed {
        container: u8,
        missing: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (network, container) = (0..NETWORKS.len(), 0..CONTAINERS);
    prop_oneof![
        8 => (network.clone(), container.clone(), proptest::option::weighted(0.2, 0_u8..9), any::<bool>())
            .prop_map(|(network, container, requested, both)| Step::Add {
                network, container, requested, both
            }),
        5 => (network.clone(), container.clone())
            .prop_map(|(network, container)| Step::Del { network, container }),
        1 => (network, any::<u8>()).prop_map(|(network, keep)| Step::Gc { network, keep }),
        4 => (0_u64..40_000).prop_map(Step::Pass),
        1 => any::<i32>().prop_map(Step::SetClock),
        1 => (0_u64..200_000).prop_map(|uptime| Step::Reboot { uptime }),
        1 => (container, 1_usize..100)
            .prop_map(|(container, missing)| Step::Killed { container, missing }),
    ]
}

/// The ranges of a network: the first two have those of the node, the third has its own.
fn ranges(network: usize, both: bool) -> Vec<Range> {
    let family = |subnet: &str| match network {
        0 => Range::routed(net(subnet))
            .of_node()
            .reserve(net("10.64.0.3/32")),
        1 => Range::on_link(net(subnet), Some(ip("10.64.0.1"))).of_node(),
        _ => Range::on_link(net(subnet), None),
    };
    let subnets = match network {
        2 => ["192.168.0.0/29", "192.168.0.8/30", "fd00:99::/125"],
        _ => ["10.64.0.0/29", "10.64.0.8/30", "fd00:64::/125"],
    };
    let subnets = if both { &subnets[..] } else { &subnets[..2] };
    subnets.iter().map(|subnet| family(subnet)).collect()
}

#[derive(Clone, Debug)]
struct Held {
    addresses: Vec<IpAddr>,
    of_node: bool,
    earlier_boot: bool,
}

/// An address of a network, or of the whole node.
type Place = (Option<usize>, IpAddr);

/// What has to be so.
#[derive(Default)]
struct Model {
    leases: BTreeMap<(usize, u8), Held>,
    /// When an address was freed in this boot, by whom; 0 for what was freed before.
    freed: BTreeMap<Place, (u64, (usize, u8))>,
}

impl Model {
    /// `None` for what is unique on the whole node.
    fn scope(network: usize) -> Option<usize> {
        (network > 1).then_some(network)
    }

    fn free(&mut self, key: (usize, u8), uptime: u64) -> bool {
        let Some(held) = self.leases.remove(&key) else {
            return false;
        };
        for address in held.addresses {
            let then = if held.earlier_boot { 0 } else { uptime };
            self.freed
                .insert((Model::scope(key.0), address), (then, key));
        }
        true
    }

    fn rests(uptime: u64, then: u64) -> bool {
        uptime - then <= COOLDOWN.as_millis() as u64
    }

    /// Whether an address of a network could be given to this container now.
    fn is_free(&self, key: (usize, u8), address: IpAddr, requested: bool, uptime: u64) -> bool {
        let scope = Model::scope(key.0);
        for (holder, held) in &self.leases {
            let shares = scope.is_none() || held.of_node || holder.0 == key.0;
            if *holder == key || !shares || !held.addresses.contains(&address) {
                continue;
            }
            if !held.earlier_boot {
                return false;
            }
            let namesake = requested && holder.1 == key.1;
            if Model::rests(uptime, 0) && !namesake {
                return false;
            }
        }
        match self.freed.get(&(scope, address)) {
            Some((then, by)) => !Model::rests(uptime, *then) || (requested && *by == key),
            None => true,
        }
    }
}

struct Run {
    machine: Machine,
    model: Model,
    boots: u32,
}

impl Run {
    fn uptime(&self) -> u64 {
        self.machine.now.uptime.as_millis() as u64
    }

    fn add(&mut self, key: (usize, u8), requested: Option<u8>, both: bool) {
        let (network, container) = key;
        let uptime = self.uptime();
        let ranges = ranges(network, both);
        let base = if network == 2 {
            "192.168.0."
        } else {
            "10.64.0."
        };
        let requested = requested.map(|last| ip(&format!("{base}{last}")));
        let request = Request {
            ranges: ranges.clone(),
            requested: requested.into_iter().collect(),
            cooldown: COOLDOWN,
        };
        let owner = owner(&format!("c{container}"));
        let given = self.machine.add_as(NETWORKS[network], owner, &request);
        let before = self.model.leases.get(&key).cloned();
        let addresses: Vec<IpAddr> = match given {
            Ok(given) => given.iter().map(|it| net(it).ip()).collect(),
            Err(error) => return self.refused(key, &request, &error),
        };
        if let Some(before) = before.filter(|before| !before.earlier_boot) {
            assert_eq!(before.addresses, addresses, "the same again");
            return;
        }
        let before = self.model.leases.get(&key).cloned();
        let kept = before.is_some_and(|before| before.addresses == addresses);
        assert_eq!(addresses.len(), 1 + usize::from(both), "one of each family");
        for address in &addresses {
            let range = ranges.iter().find(|range| range.contains(*address));
            let range = range.expect("within a range");
            assert_eq!(range.exclusion(*address), None);
            let wanted = requested == Some(*address);
            let free = kept || self.model.is_free(key, *address, wanted, uptime);
            assert!(free, "{address} was not to be had");
        }
        assert!(requested.is_none_or(|address| addresses.contains(&address)));
        self.model.free(key, 0);
        // Those of earlier boots that had them have lost all they had.
        let scope = Model::scope(network);
        let lost = self.model.leases.iter().filter(|(holder, held)| {
            let shares = scope.is_none() || held.of_node || holder.0 == network;
            shares
                && held
                    .addresses
                    .iter()
                    .any(|address| addresses.contains(address))
        });
        for holder in lost.map(|(holder, _)| *holder).collect::<Vec<_>>() {
            self.model.free(holder, 0);
        }
        for address in &addresses {
            self.model.freed.remove(&(scope, *address));
        }
        let held = Held {
            addresses,
            of_node: network < 2,
            earlier_boot: false,
        };
        self.model.leases.insert(key, held);
    }

    fn refused(&mut self, key: (usize, u8), request: &Request, error: &AllocateError) {
        let uptime = self.uptime();
        let candidates = |ipv4: bool| {
            let ranges = request.ranges.iter();
            let ranges = ranges.filter(move |range| range.subnet().is_ipv4() == ipv4);
            ranges.flat_map(|range| {
                let addresses = range.subnet().iter();
                addresses.filter(|it| range.contains(*it) && range.exclusion(*it).is_none())
            })
        };
        match error {
            AllocateError::Exhausted(exhausted) => {
                let ipv4 = exhausted.family == "IPv4";
                let free: Vec<IpAddr> = candidates(ipv4)
                    .filter(|address| self.model.is_free(key, *address, false, uptime))
                    .collect();
                assert!(free.is_empty(), "{error}, but {free:?} are free");
                if let Some(next) = exhausted.next {
                    assert!(next.after <= COOLDOWN);
                }
            }
            AllocateError::Unavailable { address, .. } => {
                let right = candidates(true).any(|it| it == *address)
                    && self.model.is_free(key, *address, true, uptime);
                assert!(!right, "{error}, but it is free");
            }
            AllocateError::HasOthers { address, lease } => {
                assert!(!self.model.leases[&key].addresses.contains(address));
                assert!(!lease.earlier_boot);
            }
            AllocateError::Log(error) => panic!("{error}"),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Add {
                network,
                container,
                requested,
                both,
            } => self.add((network, container), requested, both),
            Step::Del { network, container } => {
                let leases = self.machine.open(NETWORKS[network]);
                let ended = leases.release(&format!("c{container}"), "eth0").unwrap();
                let uptime = self.uptime();
                let had = self.model.free((network, container), uptime);
                assert_eq!(ended.is_some(), had);
            }
            Step::Gc { network, keep } => {
                let known = |container: u8| keep & (1 << container) != 0;
                let leases = self.machine.open(NETWORKS[network]);
                let ended = leases
                    .retain(|container, _| known(container[1..].parse().unwrap()))
                    .unwrap();
                let uptime = self.uptime();
                let gone = (0..CONTAINERS).filter(|container| !known(*container));
                let gone = gone.filter(|container| self.model.free((network, *container), uptime));
                assert_eq!(ended.len(), gone.count());
            }
            Step::Pass(time) => self.machine.now.uptime += Duration::from_millis(time),
            Step::SetClock(seconds) => {
                let seconds = jiff::SignedDuration::from_secs(seconds.into());
                self.machine.now.wall = at("", 0).wall + seconds;
            }
            Step::Reboot { uptime } => {
                self.boots += 1;
                self.machine.now = at(&format!("boot-{}", self.boots), uptime);
                for held in self.model.leases.values_mut() {
                    held.earlier_boot = true;
                }
                for (then, _) in self.model.freed.values_mut() {
                    *then = 0;
                }
            }
            Step::Killed { container, missing } => {
                let before = fs::read(self.machine.log()).ok();
                let container = format!("killed-{container}");
                let request = Request {
                    ranges: ranges(0, true),
                    ..Request::default()
                };
                let added = self.machine.add(&container, &request);
                let after = fs::read(self.machine.log()).unwrap();
                let kept = before.as_ref().map_or(0, Vec::len);
                if added.is_ok() && kept > 0 {
                    // What was written before the last line stays.
                    let line = after[..after.len() - 1].rsplit(|byte| *byte == b'\n');
                    let line = line.map(<[u8]>::len).next().unwrap();
                    let cut = after.len() - missing.min(line);
                    fs::write(self.machine.log(), &after[..cut]).unwrap();
                } else if added.is_ok() {
                    self.machine.del(&container).unwrap();
                    let uptime = self.uptime();
                    for address in self.machine.snapshot().freed {
                        let by = (0, CONTAINERS);
                        let key = (None, address.address.ip());
                        self.model.freed.insert(key, (uptime, by));
                    }
                }
                self.forget_those_that_gave_way();
            }
        }
    }

    /// Leases of earlier boots may have ended for one whose process died then.
    fn forget_those_that_gave_way(&mut self) {
        let snapshot = self.machine.snapshot();
        let there = |network: usize, container: u8| {
            let container = format!("c{container}");
            let mut leases = snapshot.leases.iter();
            leases.any(|lease| lease.is_of(NETWORKS[network], &container, "eth0"))
        };
        let gone = self
            .model
            .leases
            .iter()
            .filter(|(key, held)| held.earlier_boot && !there(key.0, key.1));
        for key in gone.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.model.free(key, 0);
        }
    }

    fn check(&self) {
        let snapshot = self.machine.snapshot();
        let seen = snapshot.leases.iter().map(|lease| {
            let network = NETWORKS.iter().position(|it| *it == lease.network).unwrap();
            let container: u8 = lease.owner.container[1..].parse().unwrap();
            let mut addresses: Vec<IpAddr> = lease.addresses.iter().map(|it| it.ip()).collect();
            addresses.sort_unstable();
            ((network, container), (addresses, lease.earlier_boot))
        });
        let seen: BTreeMap<_, _> = seen.collect();
        let modelled = self.model.leases.iter().map(|(key, held)| {
            let mut addresses = held.addresses.clone();
            addresses.sort_unstable();
            (*key, (addresses, held.earlier_boot))
        });
        assert_eq!(seen, modelled.collect());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_order_of_events_keeps_what_always_holds(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let mut run = Run { machine: Machine::quick(), model: Model::default(), boots: 1 };
        for step in steps {
            run.step(step);
            run.check();
        }
    }
}
