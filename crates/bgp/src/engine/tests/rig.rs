//! An engine, and peers whose half of the session is played by the test.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::attributes::{Attributes, NextHop};
use crate::codec::{
    Context, Update, UpdateBuilder, decode_attributes, encode_block, encode_end_of_rib,
    encode_keepalive, encode_open, encode_route_refresh, next_message,
};
use crate::config::{
    Action, Config, DecisionConfig, Match, NextHopMode, PeerConfig, Policy, Rule, Timers,
};
use crate::engine::{Engine, FibChange, Input, LocalAddresses, NextHopState, Output};
use crate::message::{Capabilities, GracefulRestart, Message, Notification, Open, RefreshKind};
use crate::query::{Outcome, PeerStatus};
use crate::types::{Asn, ConnId, Family, Prefix, RouterId};

pub(super) const OUR_AS: u32 = 65000;

/// The other side of a session.
pub(super) struct Script {
    pub(super) name: String,
    pub(super) conn: ConnId,
    pub(super) asn: u32,
    pub(super) address: IpAddr,
    context: Context,
    inbox: BytesMut,
    /// What it was told and not taken back, by prefix.
    pub(super) heard: BTreeMap<Prefix, Attributes>,
    /// Prefixes withdrawn that it did not have.
    pub(super) superfluous: BTreeSet<Prefix>,
    /// Prefixes announced, in order, again and again.
    pub(super) announced: Vec<Prefix>,
    pub(super) ends_of_rib: Vec<Family>,
    pub(super) refreshes: Vec<RefreshKind>,
    pub(super) notification: Option<Notification>,
    /// Everything that came after the handshake.
    pub(super) raw: BytesMut,
    /// It does not read.
    pub(super) blocked: bool,
}

pub(super) struct Rig {
    pub(super) engine: Engine,
    pub(super) now: Instant,
    pub(super) config: Config,
    pub(super) scripts: Vec<Script>,
    pub(super) fib: BTreeMap<Prefix, Vec<IpAddr>>,
    /// Of each of these, what is kept ready.
    pub(super) backups: BTreeMap<Prefix, Vec<IpAddr>>,
    /// Numbers of the sets that the kernel's side was told.
    told: BTreeMap<Prefix, u32>,
    /// Next hops that were told to be down, each time.
    pub(super) down: Vec<Vec<IpAddr>>,
    pub(super) fib_blocked: bool,
    /// Next hops that nothing leads to.
    pub(super) unreachable: BTreeSet<IpAddr>,
    pub(super) metrics: BTreeMap<IpAddr, u32>,
    /// Next hops that are on no network of ours, and the router on the way there.
    pub(super) gateways: BTreeMap<IpAddr, IpAddr>,
    pub(super) tracked: BTreeSet<IpAddr>,
    sending: BTreeSet<ConnId>,
    fib_pending: bool,
    /// What peers say of their restarts.
    pub(super) graceful: Option<GracefulRestart>,
}

pub(super) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// The `index`th of many prefixes.
pub(super) fn nth(index: u32) -> Prefix {
    let address = std::net::Ipv4Addr::from(0x1000_0000 + (index << 8));
    Prefix::new(IpAddr::V4(address), 24)
}

pub(super) fn rule(name: &str, matches: Match, action: Action) -> Rule {
    Rule {
        name: name.into(),
        matches,
        action,
        set: Vec::new(),
    }
}

pub(super) fn policy(name: &str, rules: Vec<Rule>) -> Policy {
    Policy {
        name: name.into(),
        rules,
    }
}

pub(super) fn peer(name: &str, asn: u32, last_octet: u8) -> PeerConfig {
    PeerConfig {
        name: name.into(),
        description: String::new(),
        address: IpAddr::from([192, 0, 2, last_octet]),
        port: 179,
        local_address: None,
        local_asn: Asn(OUR_AS),
        remote_asn: Asn(asn),
        passive: true,
        shutdown: None,
        ttl: 1,
        families: vec![Family::Ipv4, Family::Ipv6],
        extended_next_hop: false,
        ttl_security: None,
        authentication: None,
        max_prefixes: None,
        timers: Timers {
            hold: 0,
            ..Timers::default()
        },
        import: vec!["all".into()],
        export: vec!["all".into()],
        next_hop: NextHopMode::Auto,
        allow_own_as: 0,
        reflector_client: false,
        graceful_restart: None,
    }
}

/// A configuration in which everything passes.
pub(super) fn config(peers: Vec<PeerConfig>) -> Config {
    let all = rule("any", Match::default(), Action::Accept);
    Config {
        asn: Asn(OUR_AS),
        router_id: RouterId([192, 0, 2, 1].into()),
        cluster_id: None,
        peers,
        policies: vec![policy("all", vec![all])],
        advertisements: Vec::new(),
        originate: Vec::new(),
        decision: DecisionConfig::default(),
        own_subnets: Vec::new(),
    }
}

impl Rig {
    /// External peers `p2`, `p3`, … of AS 65002, 65003, …, all established.
    pub(super) fn with_peers(count: u8) -> Rig {
        let peers = (2..2 + count).map(|n| peer(&format!("p{n}"), 65000 + u32::from(n), n));
        let mut rig = Rig::new(config(peers.collect()));
        rig.establish_all();
        rig
    }

    pub(super) fn new(config: Config) -> Rig {
        let now = Instant::now();
        let mut engine = Engine::new(7);
        engine.configure(now, config.clone()).unwrap();
        Rig {
            engine,
            now,
            config,
            scripts: Vec::new(),
            fib: BTreeMap::new(),
            backups: BTreeMap::new(),
            told: BTreeMap::new(),
            down: Vec::new(),
            fib_blocked: false,
            unreachable: BTreeSet::new(),
            metrics: BTreeMap::new(),
            gateways: BTreeMap::new(),
            tracked: BTreeSet::new(),
            sending: BTreeSet::new(),
            fib_pending: false,
            graceful: None,
        }
    }

    pub(super) fn establish_all(&mut self) {
        for peer in self.config.peers.clone() {
            self.establish(&peer.name);
        }
    }

    /// The peer connects, and the session comes up. A script of the same name is replaced.
    pub(super) fn establish(&mut self, name: &str) {
        let peer = self
            .config
            .peers
            .iter()
            .find(|peer| peer.name == name)
            .unwrap()
            .clone();
        let conn = ConnId((1 << 63) + self.scripts.len() as u64 + rand_conn(&self.scripts));
        let local = LocalAddresses {
            address: IpAddr::from([192, 0, 2, 1]),
            other_family: Some("2001:db8::1".parse().unwrap()),
        };
        let remote = SocketAddr::new(peer.address, 40_000);
        let input = Input::Accepted {
            conn,
            local,
            remote,
        };
        self.engine.handle(self.now, input);
        let families = peer.families.clone();
        let IpAddr::V4(id) = peer.address else {
            panic!("the rig's peers have IPv4 addresses")
        };
        let open = Open {
            asn: peer.remote_asn,
            hold_time: 0,
            router_id: RouterId(id),
            capabilities: Capabilities {
                families: families.clone(),
                four_octet_as: Some(peer.remote_asn),
                route_refresh: true,
                enhanced_route_refresh: true,
                graceful_restart: self.graceful.clone(),
                ..Capabilities::default()
            },
        };
        let mut bytes = BytesMut::new();
        encode_open(&open, &mut bytes);
        encode_keepalive(&mut bytes);
        self.scripts.retain(|script| script.name != name);
        self.scripts.push(Script {
            name: name.into(),
            conn,
            asn: peer.remote_asn.0,
            address: peer.address,
            context: Context {
                ebgp: peer.is_ebgp(),
                four_octet_as: true,
                families: families.into_iter().collect(),
                extended_next_hop: [].into_iter().collect(),
                max_message: 4096,
            },
            inbox: BytesMut::new(),
            heard: BTreeMap::new(),
            superfluous: BTreeSet::new(),
            announced: Vec::new(),
            ends_of_rib: Vec::new(),
            refreshes: Vec::new(),
            notification: None,
            raw: BytesMut::new(),
            blocked: false,
        });
        self.engine.receive(self.now, conn, &mut bytes);
        self.run();
        assert_eq!(self.status(name).state, "Established");
    }

    pub(super) fn script(&mut self, name: &str) -> &mut Script {
        self.scripts
            .iter_mut()
            .find(|script| script.name == name)
            .unwrap()
    }

    pub(super) fn status(&self, name: &str) -> PeerStatus {
        let all = self.engine.peers(self.now);
        all.into_iter().find(|peer| peer.name == name).unwrap()
    }

    /// Attributes of a route that a peer has from its own AS.
    pub(super) fn own(&mut self, name: &str) -> Attributes {
        let script = self.script(name);
        let path = Some(Asn(script.asn)).filter(|asn| asn.0 != OUR_AS);
        Attributes {
            as_path: path.into_iter().collect(),
            local_pref: path.is_none().then_some(100),
            next_hop: Some(NextHop::from(script.address)),
            ..Attributes::default()
        }
    }

    /// A peer announces prefixes, and everything happens that follows from that.
    pub(super) fn announce(&mut self, name: &str, prefixes: &[Prefix], attributes: &Attributes) {
        self.say(name, prefixes, attributes);
        self.run();
    }

    /// The same, without what follows.
    pub(super) fn say(&mut self, name: &str, prefixes: &[Prefix], attributes: &Attributes) {
        let mut block = Vec::new();
        encode_block(attributes, true, &mut block);
        let next_hop = attributes.next_hop.unwrap();
        let mut bytes = BytesMut::new();
        let family = prefixes[0].family();
        let mut update =
            UpdateBuilder::announce(&block, next_hop, family, 4096, &mut bytes).unwrap();
        for prefix in prefixes {
            update.push(*prefix);
        }
        update.finish();
        self.bytes(name, bytes);
    }

    pub(super) fn withdraw(&mut self, name: &str, prefixes: &[Prefix]) {
        let mut bytes = BytesMut::new();
        let mut update = UpdateBuilder::withdraw(prefixes[0].family(), 4096, &mut bytes);
        for prefix in prefixes {
            update.push(*prefix);
        }
        update.finish();
        self.bytes(name, bytes);
        self.run();
    }

    pub(super) fn refresh(&mut self, name: &str, kind: RefreshKind) {
        self.say_refresh(name, kind);
        self.run();
    }

    /// The same, without what follows.
    pub(super) fn say_refresh(&mut self, name: &str, kind: RefreshKind) {
        let mut bytes = BytesMut::new();
        encode_route_refresh(Family::Ipv4, kind, &mut bytes);
        self.bytes(name, bytes);
    }

    /// The peer has said all it had to say of IPv4.
    pub(super) fn end_of_rib(&mut self, name: &str) {
        let mut bytes = BytesMut::new();
        encode_end_of_rib(Family::Ipv4, &mut bytes);
        self.bytes(name, bytes);
        self.run();
    }

    fn bytes(&mut self, name: &str, mut bytes: BytesMut) {
        let conn = self.script(name).conn;
        self.engine.receive(self.now, conn, &mut bytes);
    }

    pub(super) fn disconnect(&mut self, name: &str) {
        let conn = self.script(name).conn;
        let input = Input::Closed { conn, error: None };
        self.engine.handle(self.now, input);
        self.run();
    }

    pub(super) fn configure(&mut self) {
        self.engine
            .configure(self.now, self.config.clone())
            .unwrap();
        self.run();
    }

    pub(super) fn hop(&mut self, address: IpAddr, reachable: bool) {
        match reachable {
            true => self.unreachable.remove(&address),
            false => self.unreachable.insert(address),
        };
        self.tell_hop(address);
        self.run();
    }

    fn tell_hop(&mut self, address: IpAddr) {
        let state = (!self.unreachable.contains(&address)).then(|| NextHopState {
            metric: self.metrics.get(&address).copied().unwrap_or(0),
            via: self.gateways.get(&address).copied(),
            interface: "eth0".into(),
        });
        self.engine
            .handle(self.now, Input::NextHop { address, state });
    }

    /// Time passes; all timers of the tables run.
    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.run();
    }

    /// Until nothing is left to be done now.
    pub(super) fn run(&mut self) {
        loop {
            let sessions = self.engine.peers.values();
            let timers = sessions.filter_map(|peer| peer.session.poll_timeout());
            assert_eq!(self.engine.peers.first_timer(), timers.min());
            let mut quiet = true;
            while let Some(output) = self.engine.poll_output() {
                quiet = false;
                self.carry_out(output);
            }
            quiet &= !self.pump();
            if self.engine.poll_timeout().is_some_and(|at| at <= self.now) {
                self.engine.handle_timeout(self.now);
                quiet = false;
            }
            if quiet {
                return;
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send { conn } => {
                assert!(self.sending.insert(conn), "`Send` is told once");
            }
            Output::FibPending => {
                assert!(!std::mem::replace(&mut self.fib_pending, true));
            }
            Output::TrackNextHop(address) => {
                assert!(self.tracked.insert(address));
                self.tell_hop(address);
            }
            Output::UntrackNextHop(address) => {
                assert!(self.tracked.remove(&address));
            }
            Output::NextHopsDown { hops, last_set } => {
                for (prefix, used) in &mut self.fib {
                    if self.told[prefix] > last_set {
                        continue;
                    }
                    let backups = self.backups.entry(*prefix).or_default();
                    backups.retain(|hop| !hops.contains(hop));
                    if used.iter().any(|hop| !hops.contains(hop)) {
                        used.retain(|hop| !hops.contains(hop));
                    } else if !backups.is_empty() {
                        *used = std::mem::take(backups);
                    }
                }
                self.down.push(hops);
            }
            _ => {}
        }
    }

    /// Sends and installs what may be; true: something was done.
    pub(super) fn pump(&mut self) -> bool {
        let mut done = false;
        for conn in self.sending.clone() {
            let script = self.scripts.iter_mut().find(|script| script.conn == conn);
            if script.as_ref().is_some_and(|script| script.blocked) {
                continue;
            }
            done = true;
            let mut buf = BytesMut::new();
            if !self.engine.poll_send(self.now, conn, &mut buf) {
                self.sending.remove(&conn);
            }
            if let Some(script) = script {
                script.read(&buf);
            }
        }
        if self.fib_pending && !self.fib_blocked {
            done = true;
            let mut changes = Vec::new();
            self.engine.poll_fib(64, &mut changes);
            self.fib_pending = changes.len() == 64;
            for FibChange { prefix, next_hops } in changes {
                match next_hops {
                    Some(set) => {
                        self.fib.insert(prefix, set.hops.clone());
                        self.backups.insert(prefix, set.backups.clone());
                        let old = self.told.insert(prefix, set.id);
                        assert_ne!(old, Some(set.id), "{prefix}: told again");
                    }
                    None => {
                        assert!(self.fib.remove(&prefix).is_some(), "{prefix}: not there");
                        self.told.remove(&prefix);
                        self.backups.remove(&prefix);
                    }
                }
            }
        }
        done
    }

    /// A block reader reads again.
    pub(super) fn unblock(&mut self, name: &str) {
        self.script(name).blocked = false;
        self.run();
    }

    /// The best route's peer.
    pub(super) fn best(&self, prefix: Prefix) -> Option<String> {
        let candidates = self.engine.explain(prefix).candidates;
        let best = candidates
            .into_iter()
            .find(|c| c.outcome == Outcome::Best)?;
        Some(
            best.route
                .peer
                .map_or("local".into(), |peer| peer.to_string()),
        )
    }
}

/// A connection's number is not used again.
fn rand_conn(scripts: &[Script]) -> u64 {
    scripts
        .iter()
        .map(|script| script.conn.0 & 0xFFFF_FFFF)
        .max()
        .unwrap_or(0)
        + 1
}

impl Script {
    fn read(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        self.inbox.extend_from_slice(bytes);
        while let Some(message) = next_message(&mut self.inbox, 4096).unwrap() {
            match message {
                Message::Update(body) => self.update(&body),
                Message::RouteRefresh { kind, .. } => self.refreshes.push(kind),
                Message::Notification(notification) => self.notification = Some(notification),
                Message::Open(_) | Message::Keepalive => {}
            }
        }
    }

    fn update(&mut self, body: &[u8]) {
        let update = Update::decode(body, &self.context).unwrap();
        assert!(update.faults.is_empty());
        self.ends_of_rib.extend(update.end_of_rib);
        for prefix in update.withdrawn.iter().flat_map(|nlri| nlri.iter()) {
            if self.heard.remove(&prefix).is_none() {
                self.superfluous.insert(prefix);
            }
        }
        for announced in &update.announced {
            let decoded = decode_attributes(&announced.attributes, &self.context).unwrap();
            for prefix in announced.nlri.iter() {
                self.heard.insert(prefix, decoded.attributes.clone());
                self.announced.push(prefix);
            }
        }
    }
}
