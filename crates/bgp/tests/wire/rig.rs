//! An engine whose peers are played by the tests, byte by byte.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp::attributes::{Attributes, NextHop};
use bgp::codec::{self, Context, Nlri, STANDARD_MESSAGE, Update, UpdateBuilder};
use bgp::config::{
    Action, Config, DecisionConfig, Match, NextHopMode, PeerConfig, Policy, Rule, Timers,
};
use bgp::engine::{Engine, Input, LocalAddresses, NextHopState, Output};
use bgp::message::{Capabilities, Message, Notification, Open};
use bgp::query::{Destinations, RouteQuery, View};
use bgp::types::{Asn, ConnId, Family, Prefix, RouterId};
use bytes::BytesMut;

/// Our own AS number.
pub(crate) const OUR_ASN: Asn = Asn(64512);

/// A peer, played by a test: external, and passive on our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// The one that misbehaves.
    Mallory,
    /// The one that does not.
    Alice,
}

impl Who {
    pub(crate) const ALL: [Who; 2] = [Who::Mallory, Who::Alice];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Who::Mallory => "mallory",
            Who::Alice => "alice",
        }
    }

    pub(crate) fn asn(self) -> Asn {
        Asn(65001 + self as u32)
    }

    pub(crate) fn address(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1 + self as u8))
    }

    pub(crate) fn address6(self) -> IpAddr {
        format!("2001:db8::{}", 1 + self as u8).parse().unwrap()
    }

    /// A next hop of routes of `family`.
    pub(crate) fn next_hop(self, family: Family) -> NextHop {
        match family {
            Family::Ipv4 => self.address().into(),
            Family::Ipv6 => self.address6().into(),
        }
    }

    /// What a route of it says.
    pub(crate) fn attributes(self, med: u32) -> Attributes {
        Attributes {
            as_path: [self.asn(), Asn(65100)].into_iter().collect(),
            med: Some(med),
            ..Attributes::default()
        }
    }
}

/// What both sessions agree on.
pub(crate) fn context() -> Context {
    Context {
        ebgp: true,
        four_octet_as: true,
        families: Family::ALL.into_iter().collect(),
        extended_next_hop: [Family::Ipv4].into_iter().collect(),
        max_message: STANDARD_MESSAGE,
    }
}

fn peer(who: Who) -> PeerConfig {
    PeerConfig {
        name: who.name().into(),
        description: String::new(),
        address: who.address(),
        port: 179,
        local_address: None,
        local_asn: OUR_ASN,
        remote_asn: who.asn(),
        passive: true,
        shutdown: None,
        ttl: 1,
        families: Family::ALL.to_vec(),
        extended_next_hop: true,
        ttl_security: None,
        authentication: None,
        max_prefixes: None,
        timers: Timers::default(),
        import: vec!["everything".into()],
        export: vec!["everything".into()],
        next_hop: NextHopMode::Auto,
        allow_own_as: 0,
        reflector_client: false,
        graceful_restart: None,
    }
}

fn config() -> Config {
    let everything = Policy {
        name: "everything".into(),
        rules: vec![Rule {
            name: "accept".into(),
            matches: Match::default(),
            action: Action::Accept,
            set: vec![],
        }],
    };
    Config {
        asn: OUR_ASN,
        router_id: RouterId([192, 0, 2, 100].into()),
        cluster_id: None,
        peers: Who::ALL.into_iter().map(peer).collect(),
        policies: vec![everything],
        advertisements: vec![],
        originate: vec![],
        decision: DecisionConfig::default(),
        own_subnets: vec![],
    }
}

/// The engine and what stands around it.
pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) now: Instant,
    /// Bytes that each connection's far end has not read yet.
    sent: BTreeMap<ConnId, BytesMut>,
    /// Bytes that the engine has left because they are no whole message.
    left: BTreeMap<ConnId, BytesMut>,
    closed: BTreeSet<ConnId>,
    /// Peers that read nothing at present.
    busy: BTreeSet<Who>,
    conns: BTreeMap<Who, ConnId>,
    next_conn: u64,
    hold_time: u16,
}

impl Rig {
    /// Both sessions are Established, and neither has any routes.
    pub(crate) fn established() -> Rig {
        Rig::established_with_hold_time(0)
    }

    /// The same; the peers offer this hold time, in seconds.
    pub(crate) fn established_with_hold_time(hold_time: u16) -> Rig {
        let mut rig = Rig {
            hold_time,
            engine: Engine::new(7),
            now: Instant::now(),
            sent: BTreeMap::new(),
            left: BTreeMap::new(),
            closed: BTreeSet::new(),
            busy: BTreeSet::new(),
            conns: BTreeMap::new(),
            next_conn: 1 << 63,
        };
        rig.engine.configure(rig.now, config()).unwrap();
        rig.settle();
        for who in Who::ALL {
            rig.connect(who);
            assert_eq!(rig.state(who), "Established");
        }
        rig
    }

    /// A new connection from `who`, with OPEN and KEEPALIVE.
    pub(crate) fn connect(&mut self, who: Who) {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.conns.insert(who, conn);
        let local = LocalAddresses {
            address: [192, 0, 2, 100].into(),
            other_family: Some("2001:db8::100".parse().unwrap()),
        };
        let input = Input::Accepted {
            conn,
            local,
            remote: SocketAddr::new(who.address(), 40000),
        };
        self.engine.handle(self.now, input);
        self.settle();
        let open = Open {
            asn: who.asn(),
            hold_time: self.hold_time,
            router_id: RouterId([10, 0, 0, 1 + who as u8].into()),
            capabilities: Capabilities {
                families: Family::ALL.to_vec(),
                four_octet_as: Some(who.asn()),
                route_refresh: true,
                enhanced_route_refresh: true,
                extended_message: false,
                extended_next_hop: vec![Family::Ipv4],
                graceful_restart: None,
                long_lived: None,
                unknown: vec![],
            },
        };
        let mut bytes = BytesMut::new();
        codec::encode_open(&open, &mut bytes);
        codec::encode_keepalive(&mut bytes);
        self.say(who, &bytes);
    }

    /// Bytes from a peer, as one read.
    pub(crate) fn say(&mut self, who: Who, bytes: &[u8]) {
        let conn = self.conns[&who];
        if self.closed.contains(&conn) {
            return;
        }
        let data = self.left.entry(conn).or_default();
        data.extend_from_slice(bytes);
        self.engine.receive(self.now, conn, data);
        self.settle();
    }

    /// Carries out what the engine asks for, until it asks for nothing more.
    pub(crate) fn settle(&mut self) {
        loop {
            while let Some(output) = self.engine.poll_output() {
                self.carry_out(output);
            }
            match self.engine.poll_timeout() {
                Some(at) if at <= self.now => self.engine.handle_timeout(self.now),
                _ => return,
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Connect { .. } => panic!("the peers are passive"),
            Output::Send { conn } if self.busy.iter().any(|who| self.conns[who] == conn) => {}
            Output::Send { conn } => self.flush(conn),
            Output::Close { conn } => {
                self.flush(conn);
                self.closed.insert(conn);
            }
            Output::TrackNextHop(address) => {
                let state = Some(NextHopState {
                    metric: 0,
                    via: None,
                    interface: "eth0".into(),
                });
                let input = Input::NextHop { address, state };
                self.engine.handle(self.now, input);
            }
            Output::FibPending => {
                let mut changes = Vec::new();
                let mut asked = 0;
                while changes.len() == asked {
                    asked += 100;
                    self.engine.poll_fib(100, &mut changes);
                }
            }
            Output::UntrackNextHop(_)
            | Output::NextHopsDown { .. }
            | Output::SessionChanged(_)
            | Output::BestChanged(_) => {}
        }
    }

    fn flush(&mut self, conn: ConnId) {
        let buf = self.sent.entry(conn).or_default();
        while self.engine.poll_send(self.now, conn, buf) {}
    }

    /// `who` reads nothing from now on.
    pub(crate) fn stop_reading(&mut self, who: Who) {
        self.busy.insert(who);
    }

    /// `who` reads again.
    pub(crate) fn read_again(&mut self, who: Who) {
        if self.busy.remove(&who) {
            self.flush(self.conns[&who]);
            self.settle();
        }
    }

    pub(crate) fn reads(&self, who: Who) -> bool {
        !self.busy.contains(&who)
    }

    /// Lets time pass, timers and all.
    pub(crate) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.settle();
        }
        self.now = until;
        self.settle();
    }

    /// What `who` has been sent since the last call, as messages.
    pub(crate) fn heard(&mut self, who: Who) -> Vec<Message> {
        let mut bytes = self
            .sent
            .get_mut(&self.conns[&who])
            .map(BytesMut::split)
            .unwrap_or_default();
        let mut messages = Vec::new();
        while let Some(message) = codec::next_message(&mut bytes, STANDARD_MESSAGE).unwrap() {
            messages.push(message);
        }
        assert!(bytes.is_empty(), "half a message was sent");
        messages
    }

    /// The last NOTIFICATION among what `who` has been sent since the last look.
    pub(crate) fn notification(&mut self, who: Who) -> Option<Notification> {
        let heard = self.heard(who);
        heard.into_iter().rev().find_map(|message| match message {
            Message::Notification(notification) => Some(notification),
            _ => None,
        })
    }

    pub(crate) fn is_closed(&self, who: Who) -> bool {
        self.closed.contains(&self.conns[&who])
    }

    pub(crate) fn state(&self, who: Who) -> &'static str {
        let peers = self.engine.peers(self.now);
        let peer = peers.iter().find(|peer| peer.name == who.name());
        peer.unwrap().state
    }

    /// Prefixes and MEDs of a table, with next hops as the table has them.
    pub(crate) fn routes(&self, view: View) -> BTreeMap<Prefix, Attributes> {
        let query = RouteQuery {
            view,
            destinations: Destinations::All,
            family: None,
        };
        let (mut routes, mut after) = (BTreeMap::new(), None);
        loop {
            let page = self.engine.routes(&query, after, 100).unwrap();
            for row in page.rows() {
                routes.insert(row.prefix, Attributes::clone(&row.attributes));
            }
            match page.next {
                Some(cursor) => after = Some(cursor),
                None => return routes,
            }
        }
    }

    pub(crate) fn received(&self, who: Who) -> BTreeMap<Prefix, Attributes> {
        let peer = who.name().into();
        self.routes(View::Received { peer })
    }

    pub(crate) fn advertised(&self, who: Who) -> BTreeMap<Prefix, Attributes> {
        let peer = who.name().into();
        self.routes(View::Advertised { peer })
    }
}

/// About how many octets of UPDATEs a message is.
pub(crate) fn size(message: &Message) -> usize {
    match message {
        Message::Update(body) => body.len(),
        _ => 0,
    }
}

/// UPDATEs of `who` that announce `prefixes` with one MED.
pub(crate) fn announce(who: Who, med: u32, prefixes: &[Prefix]) -> BytesMut {
    let mut block = Vec::new();
    codec::encode_block(&who.attributes(med), true, &mut block);
    let mut out = BytesMut::new();
    for family in Family::ALL {
        let next_hop = who.next_hop(family);
        let built = UpdateBuilder::announce(&block, next_hop, family, STANDARD_MESSAGE, &mut out);
        let mut builder = built.unwrap();
        let of_family = prefixes.iter().filter(|prefix| prefix.family() == family);
        of_family.for_each(|prefix| builder.push(*prefix));
    }
    out
}

/// UPDATEs that withdraw `prefixes`.
pub(crate) fn withdraw(prefixes: &[Prefix]) -> BytesMut {
    let mut out = BytesMut::new();
    for family in Family::ALL {
        let mut builder = UpdateBuilder::withdraw(family, STANDARD_MESSAGE, &mut out);
        let of_family = prefixes.iter().filter(|prefix| prefix.family() == family);
        of_family.for_each(|prefix| builder.push(*prefix));
    }
    out
}

/// What a peer that hears `messages` knows in the end.
pub(crate) fn listen(messages: &[Message], known: &mut BTreeMap<Prefix, Attributes>) {
    for message in messages {
        let Message::Update(body) = message else {
            continue;
        };
        let update = Update::decode(body, &context()).unwrap();
        assert_eq!(update.faults, []);
        for prefix in update.withdrawn.iter().flat_map(Nlri::iter) {
            assert!(known.remove(&prefix).is_some(), "{prefix} was not there");
        }
        for announced in &update.announced {
            let decoded = codec::decode_attributes(&announced.attributes, &context()).unwrap();
            assert_eq!(decoded.discarded, []);
            for prefix in announced.nlri.iter() {
                known.insert(prefix, decoded.attributes.clone());
            }
        }
    }
}
