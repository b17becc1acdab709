//! Speakers and sessions in few words, and questions about them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bgp::codec::{Context, Update};
use bgp::config::{
    Action, Advertisement, Config, DecisionConfig, GracefulRestart, LongLived, Match, NextHopMode,
    Originated, PeerConfig, Policy, Rule, Source, Timers,
};
use bgp::engine::{Command, Restart};
use bgp::message::{Cease, Message, Notification};
use bgp::query::{Destinations, PeerStatus, RouteQuery, RouteRow, View};
use bgp::types::{Asn, Family, Prefix, RouterId};

use crate::net::{Id, Link, Net};

/// Name of the policy that accepts everything.
pub(crate) const OPEN: &str = "open";

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn name(id: Id) -> String {
    format!("s{id}")
}

/// 10.0.0.1 is speaker 0.
pub(crate) fn address(id: Id) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(id).unwrap() + 1)
}

/// Two speakers of AS 65000 and AS 65001, Established.
pub(crate) fn established_pair(seed: u64) -> (Net, Id, Id) {
    let mut net = Net::new(seed);
    let a = net.speaker(65000);
    let b = net.speaker(65001);
    net.peer(a, b);
    net.begin();
    net.advance(seconds(5));
    assert_eq!(net.state(a, b), "Established", "{:?}", net.status(a, b));
    assert_eq!(net.state(b, a), "Established", "{:?}", net.status(b, a));
    (net, a, b)
}

/// The prefix that speaker `id` originates, of each family.
pub(crate) fn own_prefix(id: Id) -> [Prefix; 2] {
    let octet = u8::try_from(id).unwrap();
    [
        Prefix::new(Ipv4Addr::new(10, 64, octet, 0).into(), 24),
        Prefix::new(
            Ipv6Addr::new(0xfd00, 0x64, u16::from(octet), 0, 0, 0, 0, 0).into(),
            64,
        ),
    ]
}

impl Net {
    /// A speaker that originates its two prefixes towards everybody, and an open policy to name.
    pub(crate) fn speaker(&mut self, asn: u32) -> Id {
        let id = self.speakers.len();
        let config = Config {
            asn: Asn(asn),
            router_id: RouterId(address(id)),
            cluster_id: None,
            peers: Vec::new(),
            policies: vec![Policy {
                name: OPEN.into(),
                rules: vec![Rule {
                    name: "all".into(),
                    matches: Match::default(),
                    action: Action::Accept,
                    set: Vec::new(),
                }],
            }],
            advertisements: vec![Advertisement {
                name: "own".into(),
                peers: Vec::new(),
                set: Vec::new(),
            }],
            originate: own_prefix(id).map(originated).into(),
            decision: DecisionConfig::default(),
            own_subnets: own_prefix(id).into(),
        };
        let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::try_from(id).unwrap() + 1);
        self.add(config, address(id), v6)
    }

    /// A link and a session between two speakers, open in both directions, for both families.
    pub(crate) fn peer(&mut self, a: Id, b: Id) {
        self.link(a, b, Link::default());
        for (here, there) in [(a, b), (b, a)] {
            let remote_asn = self.speakers[there].config.asn;
            let config = &mut self.speakers[here].config;
            config.advertisements[0].peers.push(name(there));
            config.peers.push(PeerConfig {
                name: name(there),
                description: String::new(),
                address: address(there).into(),
                port: 179,
                local_address: None,
                local_asn: config.asn,
                remote_asn,
                passive: false,
                shutdown: None,
                ttl: 1,
                families: Family::ALL.to_vec(),
                extended_next_hop: false,
                ttl_security: None,
                authentication: None,
                max_prefixes: None,
                timers: Timers::default(),
                import: vec![OPEN.into()],
                export: vec![OPEN.into()],
                next_hop: NextHopMode::Auto,
                allow_own_as: 0,
                reflector_client: false,
                graceful_restart: None,
            });
        }
    }

    /// Graceful restart on all sessions there are.
    pub(crate) fn graceful(&mut self) {
        for speaker in &mut self.speakers {
            for peer in &mut speaker.config.peers {
                peer.graceful_restart = Some(GracefulRestart::default());
            }
        }
    }

    /// Long-lived graceful restart on all sessions there are.
    pub(crate) fn long_lived(&mut self, long_lived: LongLived) {
        for speaker in &mut self.speakers {
            for peer in &mut speaker.config.peers {
                peer.graceful_restart = Some(GracefulRestart {
                    long_lived: Some(long_lived),
                    ..GracefulRestart::default()
                });
            }
        }
    }

    /// What a process that takes the place of another one finds of it when all was well.
    pub(crate) fn legacy(&self, id: Id) -> Restart {
        Restart {
            preserved: Family::ALL.to_vec(),
            peers: (self.speakers[id].config.peers.iter())
                .map(|peer| peer.name.clone())
                .collect(),
        }
    }

    /// What speaker `here` is configured to do with `there`.
    pub(crate) fn config_of(&mut self, here: Id, there: Id) -> &mut PeerConfig {
        peer_in(&mut self.speakers[here].config, there)
    }

    /// Changes that while the network runs.
    pub(crate) fn reconfigure(
        &mut self,
        here: Id,
        there: Id,
        change: impl FnOnce(&mut PeerConfig),
    ) {
        self.configure(here, |config| change(peer_in(config, there)));
    }

    /// All speakers start at the same moment.
    pub(crate) fn begin(&mut self) {
        for id in 0..self.speakers.len() {
            self.configure(id, |_| {});
        }
    }

    pub(crate) fn command(&mut self, id: Id, command: Command) {
        self.with(id, |engine, now| engine.command(now, command))
            .unwrap();
    }

    pub(crate) fn status(&self, here: Id, there: Id) -> PeerStatus {
        let peers = self.speakers[here].engine.peers(self.now);
        let mut peers = peers.into_iter();
        peers.find(|peer| peer.name == name(there)).unwrap()
    }

    pub(crate) fn state(&self, here: Id, there: Id) -> &'static str {
        self.status(here, there).state
    }

    pub(crate) fn last_error(&self, here: Id, there: Id) -> String {
        let error = self.status(here, there).last_error;
        error.map(|(_, text)| text).unwrap_or_default()
    }

    /// Every NOTIFICATION sent from one speaker to another, but those that resolve a collision.
    pub(crate) fn notifications(&self, from: Id, to: Id) -> Vec<Notification> {
        let all = self.all_notifications(from, to).into_iter();
        all.filter(|sent| *sent != collision()).collect()
    }

    /// Every NOTIFICATION sent from one speaker to another.
    pub(crate) fn all_notifications(&self, from: Id, to: Id) -> Vec<Notification> {
        let sent = self.sent.iter();
        let sent = sent.filter(|sent| (sent.from, sent.to) == (from, to));
        sent.filter_map(|sent| match &sent.message {
            Message::Notification(notification) => Some(notification.clone()),
            _ => None,
        })
        .collect()
    }

    /// The families of End-of-RIB markers sent from one speaker to another.
    pub(crate) fn end_of_ribs(&self, from: Id, to: Id) -> Vec<Family> {
        let context = Context {
            ebgp: true,
            four_octet_as: true,
            families: Family::ALL.into_iter().collect(),
            extended_next_hop: Family::ALL.into_iter().collect(),
            max_message: bgp::codec::EXTENDED_MESSAGE,
        };
        let sent = self.sent.iter();
        let sent = sent.filter(|sent| (sent.from, sent.to) == (from, to));
        sent.filter_map(|sent| match &sent.message {
            Message::Update(body) => Update::decode(body, &context).unwrap().end_of_rib,
            _ => None,
        })
        .collect()
    }

    /// A table of a speaker, all pages of it.
    pub(crate) fn rows(&self, id: Id, view: View) -> Vec<RouteRow> {
        let query = RouteQuery {
            view,
            destinations: Destinations::All,
            family: None,
        };
        let mut rows = Vec::new();
        let mut after = None;
        loop {
            let engine = &self.speakers[id].engine;
            let page = engine.routes(&query, after, 7).unwrap();
            rows.extend(page.rows());
            after = page.next;
            if after.is_none() {
                return rows;
            }
        }
    }

    /// The AS path by which a speaker reaches a prefix; empty for its own.
    pub(crate) fn path(&self, id: Id, prefix: Prefix) -> Option<String> {
        let rows = self.rows(id, View::Best).into_iter();
        let mut best = rows.filter(|row| row.prefix == prefix && row.best);
        best.next().map(|row| row.attributes.as_path.to_string())
    }

    /// Everything a speaker has chosen: prefix, AS path, next hop.
    pub(crate) fn chosen(&self, id: Id) -> Vec<String> {
        let text = |row: RouteRow| {
            let via = row.attributes.next_hop.as_ref().map(|hop| hop.address);
            let mark = if row.best { "best" } else { "also" };
            format!("{mark} {} [{}] {via:?}", row.prefix, row.attributes.as_path)
        };
        let used = |row: &RouteRow| row.best || row.multipath;
        let rows = self.rows(id, View::Best).into_iter();
        rows.filter(used).map(text).collect()
    }

    /// The same of all speakers.
    pub(crate) fn outcome(&self) -> Vec<Vec<String>> {
        (0..self.speakers.len()).map(|id| self.chosen(id)).collect()
    }

    /// Whether every speaker has every other's prefixes, and its kernel's table says the same as
    /// its Loc-RIB.
    pub(crate) fn assert_all_reachable(&self) {
        for id in 0..self.speakers.len() {
            for other in 0..self.speakers.len() {
                for prefix in own_prefix(other) {
                    let path = self.path(id, prefix);
                    assert!(path.is_some(), "{} does not know {prefix}", name(id));
                }
            }
            self.assert_fib(id);
        }
    }

    /// Whether a speaker's kernel was told exactly what was chosen.
    pub(crate) fn assert_fib(&self, id: Id) {
        let mut expected: BTreeMap<Prefix, Vec<IpAddr>> = BTreeMap::new();
        for row in self.rows(id, View::All) {
            let used = row.source != Source::Local && (row.best || row.multipath);
            if let Some(hop) = row.attributes.next_hop.as_ref().filter(|_| used) {
                let hops = expected.entry(row.prefix).or_default();
                hops.push(hop.address);
                hops.sort_unstable();
                hops.dedup();
            }
        }
        assert_eq!(
            self.speakers[id].fib,
            expected,
            "the kernel of {}",
            name(id)
        );
        for (prefix, ready) in &self.speakers[id].backups {
            let used = &expected[prefix];
            assert!(ready.iter().all(|hop| !used.contains(hop)), "{prefix}");
            assert!(used.len() == 1 || ready.is_empty(), "{prefix}");
        }
    }
}

/// Closes the one connection too many.
pub(crate) fn collision() -> Notification {
    Notification::cease(Cease::ConnectionCollisionResolution, "")
}

pub(crate) fn originated(prefix: Prefix) -> Originated {
    Originated {
        prefix,
        advertisements: vec!["own".into()],
    }
}

fn peer_in(config: &mut Config, there: Id) -> &mut PeerConfig {
    let mut peers = config.peers.iter_mut();
    peers.find(|peer| peer.name == name(there)).unwrap()
}
