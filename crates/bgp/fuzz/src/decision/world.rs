//! The engine, the far ends of its sessions, and the kernel's side.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bgp::attributes::Attributes;
use bgp::codec::{self, Context, Nlri, STANDARD_MESSAGE, Update, UpdateBuilder};
use bgp::engine::{Command, Engine, Input, LocalAddresses, NextHopState, Output};
use bgp::message::{Capabilities, Message, Open, RefreshKind};
use bgp::query::{Destinations, Fault, RouteQuery, RouteRow, View};
use bgp::types::{ConnId, Family, Prefix};
use bytes::BytesMut;

use super::menu::{self, PEERS, Wanted};
use super::model::{Facts, Route};

/// Longer than a session that fell waits.
const A_WHILE: Duration = Duration::from_secs(61);

pub(super) struct World {
    engine: Engine,
    now: Instant,
    wanted: Wanted,
    peers: Vec<Far>,
    /// What peers with a session have said, as the tables should have it.
    said: Vec<Option<BTreeMap<Prefix, Attributes>>>,
    /// A peer sends a family again: what it has said since it began.
    again: BTreeMap<(usize, Family), BTreeSet<Prefix>>,
    hops: BTreeMap<IpAddr, u8>,
    tracked: BTreeSet<IpAddr>,
    /// Next hops whose state has yet to be told.
    unanswered: Vec<IpAddr>,
    hold_answers: bool,
    /// The kernel's routes: each uses a group.
    fib: BTreeMap<Prefix, u32>,
    /// Groups of next hops, as they are now.
    groups: BTreeMap<u32, Vec<IpAddr>>,
    fib_pending: bool,
    fib_blocked: bool,
    next_conn: u64,
}

/// The far end of a peer's last session.
#[derive(Default)]
struct Far {
    conn: Option<ConnId>,
    /// It has been told that there is something to send.
    due: bool,
    blocked: bool,
    inbox: BytesMut,
    heard: BTreeMap<Prefix, Attributes>,
}

impl World {
    /// All sessions are there.
    pub(super) fn new() -> World {
        let now = Instant::now();
        let wanted = Wanted::new();
        let mut engine = Engine::new(7);
        let configured = engine.configure(now, wanted.config());
        configured.expect("the first configuration is right");
        let mut world = World {
            engine,
            now,
            wanted,
            peers: (0..PEERS).map(|_| Far::default()).collect(),
            said: vec![None; PEERS],
            again: BTreeMap::new(),
            hops: BTreeMap::new(),
            tracked: BTreeSet::new(),
            unanswered: Vec::new(),
            hold_answers: false,
            fib: BTreeMap::new(),
            groups: BTreeMap::new(),
            fib_pending: false,
            fib_blocked: false,
            next_conn: 1 << 63,
        };
        world.settle();
        for peer in 0..PEERS {
            world.come(peer);
        }
        world
    }

    pub(super) fn configure(&mut self, change: impl FnOnce(&mut Wanted)) {
        change(&mut self.wanted);
        for peer in 0..PEERS {
            if !self.wanted.peers[peer].configured {
                self.forget(peer);
            }
        }
        let configured = self.engine.configure(self.now, self.wanted.config());
        configured.expect("what is chosen from the menu is right");
        self.carry_out();
    }

    /// The peer connects, and its session comes up, if it is configured and has none.
    pub(super) fn come(&mut self, peer: usize) {
        if !self.wanted.peers[peer].configured || self.peers[peer].conn.is_some() {
            return;
        }
        self.wait(A_WHILE); // the session may have fallen
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let input = Input::Accepted {
            conn,
            local: LocalAddresses {
                address: menu::OUR_ADDRESS,
                other_family: Some(menu::OUR_ADDRESS6),
            },
            remote: SocketAddr::new(menu::address(peer), 40_000),
        };
        self.engine.handle(self.now, input);
        self.peers[peer] = Far {
            conn: Some(conn),
            ..Far::default()
        };
        let open = Open {
            asn: menu::asn(peer),
            hold_time: 0,
            router_id: menu::router_id(peer),
            capabilities: Capabilities {
                families: Family::ALL.to_vec(),
                four_octet_as: Some(menu::asn(peer)),
                route_refresh: true,
                enhanced_route_refresh: true,
                ..Capabilities::default()
            },
        };
        let mut bytes = BytesMut::new();
        codec::encode_open(&open, &mut bytes);
        codec::encode_keepalive(&mut bytes);
        self.said[peer] = Some(BTreeMap::new());
        self.say(peer, bytes);
        assert_eq!(self.state(peer), "Established");
    }

    /// The connection of a peer is gone.
    pub(super) fn drop(&mut self, peer: usize) {
        let Some(conn) = self.peers[peer].conn else {
            return;
        };
        self.forget(peer);
        let input = Input::Closed { conn, error: None };
        self.engine.handle(self.now, input);
        self.carry_out();
    }

    fn forget(&mut self, peer: usize) {
        self.peers[peer] = Far::default();
        self.said[peer] = None;
        self.again.retain(|(whose, _), _| *whose != peer);
    }

    pub(super) fn announce(&mut self, peer: usize, family: Family, mask: u8, what: &Attributes) {
        let prefixes = menu::chosen(family, mask);
        let Some(said) = self.said[peer].as_mut() else {
            return;
        };
        said.extend(prefixes.iter().map(|prefix| (*prefix, what.clone())));
        if let Some(again) = self.again.get_mut(&(peer, family)) {
            again.extend(&prefixes);
        }
        let mut block = Vec::new();
        codec::encode_block(what, true, &mut block);
        let next_hop = what.next_hop.expect("everything on the menu has one");
        let mut bytes = BytesMut::new();
        let built = UpdateBuilder::announce(&block, next_hop, family, STANDARD_MESSAGE, &mut bytes);
        let mut builder = built.expect("everything on the menu is short");
        prefixes.iter().for_each(|prefix| builder.push(*prefix));
        builder.finish();
        self.say(peer, bytes);
    }

    pub(super) fn withdraw(&mut self, peer: usize, family: Family, mask: u8) {
        let prefixes = menu::chosen(family, mask);
        let Some(said) = self.said[peer].as_mut() else {
            return;
        };
        said.retain(|prefix, _| !prefixes.contains(prefix));
        let mut bytes = BytesMut::new();
        let mut builder = UpdateBuilder::withdraw(family, STANDARD_MESSAGE, &mut bytes);
        prefixes.iter().for_each(|prefix| builder.push(*prefix));
        builder.finish();
        self.say(peer, bytes);
    }

    /// RFC 7313: what a peer does not say between beginning and end is gone.
    pub(super) fn refresh(&mut self, peer: usize, family: Family, kind: RefreshKind) {
        let Some(said) = self.said[peer].as_mut() else {
            return;
        };
        match kind {
            RefreshKind::Request => {}
            RefreshKind::Begin => {
                self.again.insert((peer, family), BTreeSet::new());
            }
            RefreshKind::End => {
                if let Some(again) = self.again.remove(&(peer, family)) {
                    said.retain(|prefix, _| prefix.family() != family || again.contains(prefix));
                }
            }
        }
        let mut bytes = BytesMut::new();
        codec::encode_route_refresh(family, kind, &mut bytes);
        self.say(peer, bytes);
    }

    /// A person asks that everything be said again. RFC 2918.
    pub(super) fn soft_reset(&mut self, peer: usize) {
        let command = Command::SoftReset {
            peer: menu::name(peer),
        };
        let done = self.engine.command(self.now, command);
        assert_eq!(done.is_ok(), self.said[peer].is_some());
        self.carry_out();
    }

    fn say(&mut self, peer: usize, mut bytes: BytesMut) {
        let conn = self.peers[peer].conn.expect("whoever speaks is connected");
        self.engine.receive(self.now, conn, &mut bytes);
        assert!(bytes.is_empty());
        self.carry_out();
    }

    /// The way to a next hop is another one.
    pub(super) fn hop(&mut self, which: usize, state: u8) {
        let mut hops: Vec<IpAddr> = (0..PEERS).map(menu::address).collect();
        for family in Family::ALL {
            let texts = menu::next_hops(family).iter();
            hops.extend(texts.map(|text| text.parse::<IpAddr>().expect("an address")));
        }
        let address = hops[which % hops.len()];
        self.hops.insert(address, state);
        if self.tracked.contains(&address) {
            self.unanswered.push(address);
        }
        self.answer();
        self.carry_out();
    }

    pub(super) fn hold_answers(&mut self, hold: bool) {
        self.hold_answers = hold;
        self.answer();
        self.carry_out();
    }

    fn answer(&mut self) {
        if self.hold_answers {
            return;
        }
        for address in std::mem::take(&mut self.unanswered) {
            let state = self.hop_state(address);
            self.engine
                .handle(self.now, Input::NextHop { address, state });
        }
    }

    fn hop_state(&self, address: IpAddr) -> Option<NextHopState> {
        menu::hop_state(self.hops.get(&address).copied().unwrap_or(0))
    }

    /// A peer stops reading, or reads again.
    pub(super) fn block(&mut self, peer: usize) {
        self.peers[peer].blocked ^= true;
        self.carry_out();
    }

    pub(super) fn block_fib(&mut self) {
        self.fib_blocked ^= true;
        self.carry_out();
    }

    pub(super) fn unblock_all(&mut self) {
        self.peers.iter_mut().for_each(|far| far.blocked = false);
        self.fib_blocked = false;
        self.hold_answers = false;
    }

    /// One piece of the work put off.
    pub(super) fn turn(&mut self) {
        self.engine.handle_timeout(self.now);
        self.carry_out();
    }

    pub(super) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        self.settle();
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.settle();
        }
        self.now = until;
    }

    /// Until nothing is left to be done now.
    pub(super) fn settle(&mut self) {
        let mut turns = 0;
        self.answer();
        self.carry_out();
        while self.engine.poll_timeout().is_some_and(|at| at <= self.now) {
            self.turn();
            turns += 1;
            assert!(turns < 10_000, "the engine never rests");
        }
    }

    /// Does what the engine asks for, as far as whoever is to take it does take it.
    fn carry_out(&mut self) {
        let mut rounds = 0;
        loop {
            let mut quiet = true;
            while let Some(output) = self.engine.poll_output() {
                quiet = false;
                self.take(output);
            }
            self.answer();
            quiet &= !self.read() && !self.feed_kernel();
            if quiet {
                return;
            }
            rounds += 1;
            assert!(rounds < 10_000, "the engine never falls silent");
        }
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Connect { .. } => panic!("the peers are passive"),
            Output::Send { conn } => {
                if let Some(far) = self.peers.iter_mut().find(|far| far.conn == Some(conn)) {
                    assert!(!std::mem::replace(&mut far.due, true), "told twice");
                }
            }
            Output::Close { conn } => {
                let open = self.peers.iter().any(|far| far.conn == Some(conn));
                assert!(!open, "a session is closed for no reason");
            }
            Output::TrackNextHop(address) => {
                assert!(self.tracked.insert(address), "{address} is tracked twice");
                self.unanswered.push(address);
            }
            Output::UntrackNextHop(address) => {
                assert!(self.tracked.remove(&address), "{address} is not tracked");
            }
            Output::FibPending => self.fib_pending = true,
            Output::NextHopsDown { hops, last_set } => {
                assert!(!hops.is_empty());
                for (_, group) in self.groups.range_mut(..=last_set) {
                    if group.iter().any(|hop| !hops.contains(hop)) {
                        group.retain(|hop| !hops.contains(hop));
                    }
                }
            }
            Output::SessionChanged(_) | Output::BestChanged(_) => {}
        }
    }

    /// Peers that read take what there is. Whether anything was done.
    fn read(&mut self) -> bool {
        let mut done = false;
        for peer in 0..PEERS {
            let far = &mut self.peers[peer];
            if let Some(conn) = far.conn
                && far.due
                && !far.blocked
            {
                done = true;
                let mut bytes = BytesMut::new();
                far.due = self.engine.poll_send(self.now, conn, &mut bytes);
                far.inbox.unsplit(bytes);
                hear(far, peer);
            }
        }
        done
    }

    fn feed_kernel(&mut self) -> bool {
        if !self.fib_pending || self.fib_blocked {
            return false;
        }
        let mut changes = Vec::new();
        self.engine.poll_fib(3, &mut changes);
        self.fib_pending = changes.len() == 3;
        for change in changes {
            let now = change.next_hops.as_ref().map(|set| set.id);
            let was = match &change.next_hops {
                Some(set) => {
                    // One that is there already stays as it is.
                    self.groups
                        .entry(set.id)
                        .or_insert_with(|| set.hops.clone());
                    self.fib.insert(change.prefix, set.id)
                }
                None => self.fib.remove(&change.prefix),
            };
            assert_ne!(was, now, "{} is told again", change.prefix);
        }
        let used: BTreeSet<u32> = self.fib.values().copied().collect();
        self.groups.retain(|id, _| used.contains(id));
        true
    }

    fn state(&self, peer: usize) -> &'static str {
        let peers = self.engine.peers(self.now);
        let found = peers.iter().find(|status| status.name == menu::name(peer));
        found.map_or("not configured", |status| status.state)
    }

    fn rows(&self, view: View) -> Vec<RouteRow> {
        let query = RouteQuery {
            view,
            destinations: Destinations::All,
            family: None,
        };
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let page = self.engine.routes(&query, after, 3).expect("it is a peer");
            rows.extend(page.rows());
            match page.next {
                Some(cursor) => after = Some(cursor),
                None => return rows,
            }
        }
    }

    /// Compares everything that can be seen from outside with what the model says.
    pub(super) fn check(&self) {
        if self.hold_answers && !self.unanswered.is_empty() {
            return; // the engine cannot know yet
        }
        let hops = |address| self.hop_state(address);
        let facts = Facts {
            wanted: &self.wanted,
            said: &self.said,
            hops: &hops,
        };
        let mut chosen: BTreeMap<Prefix, Vec<Route>> = BTreeMap::new();
        let best_rows = self.rows(View::Best);
        for prefix in facts.prefixes() {
            let (mut routes, several) = facts.chosen(prefix);
            let row = best_rows.iter().find(|row| row.prefix == prefix);
            if several {
                // Whichever it is, it is one of them.
                let is = |route: &Route| row.is_some_and(|row| is_of(row, route));
                let place = routes.iter().position(is);
                let place = place.unwrap_or_else(|| panic!("{prefix}: {row:?}"));
                routes.swap(0, place);
            }
            assert_eq!(row.is_some(), !routes.is_empty(), "{prefix}: {routes:?}");
            if let (Some(row), Some(best)) = (row, routes.first()) {
                assert!(is_of(row, best), "{prefix}: {row:?}, not {best:?}");
                assert_eq!(*row.attributes, best.attributes);
                chosen.insert(prefix, routes);
            }
        }
        assert_eq!(best_rows.len(), chosen.len());
        self.check_multipath(&chosen);
        self.check_fib(&chosen);
        for peer in 0..PEERS {
            self.check_peer(&facts, peer, &chosen);
        }
        self.check_tracked(&facts);
    }

    fn check_multipath(&self, chosen: &BTreeMap<Prefix, Vec<Route>>) {
        let rows = self.rows(View::All);
        for (prefix, routes) in chosen {
            let used = rows.iter().filter(|row| row.multipath && !row.best);
            let used = used.filter(|row| row.prefix == *prefix);
            let used: BTreeSet<_> = used.map(|row| row.peer.as_deref()).collect();
            let names: Vec<_> = routes.iter().map(|r| r.peer.map(menu::name)).collect();
            let expected: BTreeSet<_> = names[1..].iter().map(Option::as_deref).collect();
            assert_eq!(used, expected, "{prefix}");
        }
    }

    fn check_fib(&self, chosen: &BTreeMap<Prefix, Vec<Route>>) {
        if self.fib_blocked {
            return;
        }
        let mut expected = BTreeMap::new();
        for (prefix, routes) in chosen {
            let hops = routes.iter().filter_map(|route| route.attributes.next_hop);
            let hops: BTreeSet<IpAddr> = hops.map(|hop| hop.address).collect();
            if !hops.is_empty() {
                expected.insert(*prefix, Vec::from_iter(hops));
            }
        }
        let group = |(prefix, id): (&Prefix, &u32)| (*prefix, self.groups[id].clone());
        let fib: BTreeMap<Prefix, Vec<IpAddr>> = self.fib.iter().map(group).collect();
        assert_eq!(fib, expected, "the kernel's side");
        for (prefix, hops) in &expected {
            let explained = self.engine.explain(*prefix);
            assert_eq!(explained.next_hops, *hops);
            assert!(!explained.fib_pending);
        }
    }

    fn check_peer(&self, facts: &Facts<'_>, peer: usize, chosen: &BTreeMap<Prefix, Vec<Route>>) {
        if !self.wanted.peers[peer].configured {
            assert_eq!(self.state(peer), "not configured");
            return;
        }
        let name = menu::name(peer);
        let as_map = |rows: Vec<RouteRow>| -> BTreeMap<Prefix, Attributes> {
            let row = |row: RouteRow| (row.prefix, Attributes::clone(&row.attributes));
            rows.into_iter().map(row).collect()
        };
        let received = as_map(self.rows(View::Received { peer: name.clone() }));
        let nothing = BTreeMap::new();
        let said = self.said[peer].as_ref().unwrap_or(&nothing);
        assert_eq!(received, *said, "Adj-RIB-In of {name}");

        let statuses = self.engine.peers(self.now);
        let status = statuses.iter().find(|status| status.name == name);
        let status = status.expect("it is configured");
        assert_eq!(
            status.state == "Established",
            self.peers[peer].conn.is_some()
        );
        if self.said[peer].is_none() {
            return;
        }
        let in_messages = [
            Fault::TreatAsWithdraw,
            Fault::AttributeDiscard,
            Fault::SessionReset,
            Fault::FamilyNotNegotiated,
        ];
        let malformed = status
            .faults
            .keys()
            .find(|fault| in_messages.contains(fault));
        assert_eq!(malformed, None, "{status:?}");
        for family in &status.families {
            let of = |prefix: &&Prefix| prefix.family() == family.family;
            assert_eq!(family.received, said.keys().filter(of).count() as u64);
            let accepted = said.keys().filter(of);
            let accepted = accepted.filter(|prefix| facts.accepted(peer, **prefix).is_some());
            assert_eq!(family.accepted, accepted.count() as u64, "{name}");
            let best = chosen.iter().filter(|(prefix, _)| of(prefix));
            let best = best.filter(|(_, routes)| routes[0].peer == Some(peer));
            assert_eq!(family.best, best.count() as u64, "{name}");
        }
        let far = &self.peers[peer];
        if far.blocked {
            return;
        }
        let told = chosen.iter();
        let told = told
            .filter_map(|(prefix, routes)| Some((*prefix, facts.told(peer, *prefix, &routes[0])?)));
        let told: BTreeMap<Prefix, Attributes> = told.collect();
        assert_eq!(far.heard, told, "what {name} has heard");
        let advertised = as_map(self.rows(View::Advertised { peer: name.clone() }));
        assert_eq!(advertised, told, "Adj-RIB-Out of {name}");
    }

    fn check_tracked(&self, facts: &Facts<'_>) {
        let mut expected = BTreeSet::new();
        for (peer, said) in self.said.iter().enumerate() {
            for prefix in said.iter().flat_map(BTreeMap::keys) {
                let hop = facts.accepted(peer, *prefix).and_then(|a| a.next_hop);
                expected.extend(hop.map(|hop| hop.address));
            }
        }
        assert_eq!(self.tracked, expected, "next hops that are looked after");
    }
}

fn is_of(row: &RouteRow, route: &Route) -> bool {
    row.peer.as_deref() == route.peer.map(menu::name).as_deref()
}

/// Takes in what a peer has been sent; it is told nothing that makes no sense.
fn hear(far: &mut Far, peer: usize) {
    let context = Context {
        ebgp: menu::is_external(peer),
        four_octet_as: true,
        families: Family::ALL.into_iter().collect(),
        extended_next_hop: [].into_iter().collect(),
        max_message: STANDARD_MESSAGE,
    };
    while let Some(message) =
        codec::next_message(&mut far.inbox, STANDARD_MESSAGE).expect("well-formed")
    {
        let body = match message {
            Message::Update(body) => body,
            Message::Notification(notification) => panic!("{notification}"),
            _ => continue,
        };
        let update = Update::decode(&body, &context).expect("well-formed");
        assert_eq!(update.faults, []);
        for prefix in update.withdrawn.iter().flat_map(Nlri::iter) {
            let had = far.heard.remove(&prefix);
            assert!(had.is_some(), "{prefix} is withdrawn and was not there");
        }
        for announced in &update.announced {
            let decoded = codec::decode_attributes(&announced.attributes, &context);
            let decoded = decoded.expect("well-formed");
            assert_eq!(decoded.discarded, []);
            for prefix in announced.nlri.iter() {
                far.heard.insert(prefix, decoded.attributes.clone());
            }
        }
    }
    assert!(far.inbox.is_empty(), "half a message");
}
