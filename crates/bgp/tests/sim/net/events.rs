//! What happens in the network, one event after the other: connections, segments, timers.

use super::*;

impl Net {
    pub(super) fn next(&self) -> Option<Instant> {
        let timers = self.speakers.iter().filter_map(|s| s.engine.poll_timeout());
        let event = self.events.keys().next().map(|(at, _)| *at);
        timers.chain(event).min()
    }

    pub(super) fn step(&mut self) {
        if let Some(entry) = self.events.first_entry()
            && entry.key().0 <= self.now
        {
            let event = entry.remove();
            return self.happen(event);
        }
        for id in 0..self.speakers.len() {
            let due = self.speakers[id].engine.poll_timeout();
            if due.is_some_and(|due| due <= self.now) {
                self.with(id, |engine, now| engine.handle_timeout(now));
            }
        }
    }

    fn happen(&mut self, event: Event) {
        let Event { tcp, end, ref what } = event;
        let [a, b] = [end, 1 - end].map(|end| self.tcps[tcp].ends[end].speaker);
        let wire = self.wire(a, b);
        if wire.cut && !matches!(what, What::Reset) {
            return wire.held.push(event);
        }
        let state = self.tcps[tcp].ends[end].state;
        match what {
            What::Syn if self.tcps[tcp].ends[0].state == EndState::Closed => {}
            What::Syn if self.speakers[a].listening => {
                self.send_on(tcp, end, What::SynAck);
            }
            What::Syn => self.send_on(tcp, end, What::Refused),
            What::SynAck if state == EndState::Opening => {
                self.tcps[tcp].ends[end].state = EndState::Open;
                self.send_on(tcp, end, What::Ack);
                self.come_up(tcp, end);
            }
            What::Ack => {
                self.tcps[tcp].ends[end].state = EndState::Open;
                self.come_up(tcp, end);
            }
            What::Refused if state == EndState::Opening => {
                self.go_down(tcp, end, Some("connection refused"));
            }
            What::Data(bytes) if state == EndState::Open => {
                let here = &mut self.tcps[tcp].ends[end];
                here.inbox.extend_from_slice(bytes);
                here.fresh += bytes.len();
                self.read(tcp, end);
            }
            What::Fin if state == EndState::Open => {
                self.tcps[tcp].ends[end].finished = true;
                self.read(tcp, end);
            }
            What::Reset if state != EndState::Closed => {
                self.go_down(tcp, end, Some("connection reset by peer"));
            }
            _ => {} // the end is closed
        }
    }

    fn come_up(&mut self, tcp: usize, end: usize) {
        let [id, other] = [end, 1 - end].map(|end| self.tcps[tcp].ends[end].speaker);
        let conn = self.tcps[tcp].ends[end].conn;
        let speaker = &mut self.speakers[id];
        speaker.ends.insert(conn, (tcp, end));
        let local = LocalAddresses {
            address: speaker.v4.into(),
            other_family: Some(speaker.v6.into()),
        };
        let remote = SocketAddr::new(self.speakers[other].v4.into(), 40_000);
        let input = match end {
            0 => Input::Connected {
                conn,
                local,
                remote,
            },
            _ => Input::Accepted {
                conn,
                local,
                remote,
            },
        };
        self.with(id, |engine, now| engine.handle(now, input));
    }

    /// A connection ends under its engine.
    fn go_down(&mut self, tcp: usize, end: usize, error: Option<&str>) {
        let End {
            speaker,
            conn,
            state,
            ..
        } = self.tcps[tcp].ends[end];
        self.forget(tcp, end);
        let error = error.map(str::to_owned);
        let input = match state {
            EndState::Opening => Input::ConnectFailed {
                conn,
                error: error.unwrap_or_default(),
            },
            _ => Input::Closed { conn, error },
        };
        self.with(speaker, |engine, now| engine.handle(now, input));
    }

    fn forget(&mut self, tcp: usize, end: usize) {
        let gone = &mut self.tcps[tcp].ends[end];
        gone.state = EndState::Closed;
        gone.inbox.clear();
        gone.fresh = 0;
        let speaker = &mut self.speakers[gone.speaker];
        speaker.ends.remove(&gone.conn);
        speaker.sendable.remove(&gone.conn);
    }

    /// Gives the engine what has arrived, if the speaker reads.
    pub(super) fn read(&mut self, tcp: usize, end: usize) {
        let here = &mut self.tcps[tcp].ends[end];
        let (id, conn) = (here.speaker, here.conn);
        if !self.speakers[id].reading || here.state != EndState::Open {
            return;
        }
        let fresh = std::mem::take(&mut here.fresh);
        if fresh > 0 {
            let mut inbox = std::mem::take(&mut here.inbox);
            self.tcps[tcp].streams[1 - end].unread -= fresh;
            self.with(id, |engine, now| engine.receive(now, conn, &mut inbox));
            self.tcps[tcp].ends[end].inbox = inbox;
            let sender = self.tcps[tcp].ends[1 - end].speaker;
            self.flush(sender);
        }
        let here = &self.tcps[tcp].ends[end];
        if here.finished && here.state == EndState::Open {
            self.go_down(tcp, end, None);
            self.send_on(tcp, end, What::Fin);
        }
    }

    /// Carries out what the engine wants, until it wants nothing more.
    pub(super) fn flush(&mut self, id: Id) {
        loop {
            while let Some(output) = self.speakers[id].engine.poll_output() {
                self.carry_out(id, output);
            }
            let sendable: Vec<_> = self.speakers[id].sendable.iter().copied().collect();
            let sent = sendable.into_iter().any(|conn| self.send(id, conn, WINDOW));
            if !sent {
                break;
            }
        }
        let speaker = &mut self.speakers[id];
        if speaker.engine.deferral().is_none() {
            speaker.adopted.clear();
        }
    }

    fn carry_out(&mut self, id: Id, output: Output) {
        match output {
            Output::Connect { conn, remote, .. } => self.connect(id, conn, remote),
            Output::Close { conn } => self.close(id, conn),
            Output::Send { conn } => {
                self.speakers[id].sendable.insert(conn);
            }
            Output::TrackNextHop(address) => {
                assert!(self.speakers[id].tracked.insert(address), "tracked twice");
                let known = |s: &Speaker| s.v4 == address || s.v6 == address;
                let state = self.speakers.iter().any(known).then(connected);
                let input = Input::NextHop { address, state };
                self.speakers[id].engine.handle(self.now, input);
            }
            Output::UntrackNextHop(address) => {
                assert!(self.speakers[id].tracked.remove(&address), "not tracked");
            }
            Output::FibPending => self.pull_fib(id),
            Output::NextHopsDown { hops, .. } => {
                let Speaker { fib, backups, .. } = &mut self.speakers[id];
                for (prefix, used) in fib {
                    let ready = backups.entry(*prefix).or_default();
                    ready.retain(|hop| !hops.contains(hop));
                    if used.iter().any(|hop| !hops.contains(hop)) {
                        used.retain(|hop| !hops.contains(hop));
                    } else if !ready.is_empty() {
                        *used = std::mem::take(ready);
                    }
                }
                self.speakers[id].down.extend(hops);
            }
            Output::SessionChanged(_) | Output::BestChanged(_) => {}
        }
    }

    fn pull_fib(&mut self, id: Id) {
        const MANY: usize = 100;
        let Speaker {
            engine,
            fib,
            backups,
            ..
        } = &mut self.speakers[id];
        let mut changes = Vec::new();
        loop {
            engine.poll_fib(MANY, &mut changes);
            let last = changes.len() < MANY;
            for change in changes.drain(..) {
                match change.next_hops {
                    Some(set) => {
                        fib.insert(change.prefix, set.hops.clone());
                        backups.insert(change.prefix, set.backups.clone());
                    }
                    None => {
                        fib.remove(&change.prefix);
                        backups.remove(&change.prefix);
                    }
                }
            }
            if last {
                return;
            }
        }
    }

    fn connect(&mut self, id: Id, conn: ConnId, remote: SocketAddr) {
        self.speakers[id].attempts += 1;
        let tcp = self.tcps.len();
        let is_remote = |s: &Speaker| remote.ip() == s.v4 || remote.ip() == s.v6;
        let other = self.speakers.iter().position(is_remote);
        let other = other.unwrap_or_else(|| panic!("nobody has the address {remote}"));
        let end = |speaker, conn| End {
            speaker,
            conn,
            state: EndState::Opening,
            inbox: BytesMut::new(),
            fresh: 0,
            finished: false,
        };
        let stream = || Stream {
            unread: 0,
            last_arrival: self.now,
            tap: BytesMut::new(),
        };
        let theirs = ConnId(1 << 63 | tcp as u64);
        self.tcps.push(Tcp {
            ends: [end(id, conn), end(other, theirs)],
            streams: [stream(), stream()],
        });
        self.speakers[id].ends.insert(conn, (tcp, 0));
        self.send_on(tcp, 0, What::Syn);
    }

    /// Sends what there is still to send, then closes.
    fn close(&mut self, id: Id, conn: ConnId) {
        let Some((tcp, end)) = self.speakers[id].ends.get(&conn).copied() else {
            return; // ended by the other side at the same moment
        };
        if self.tcps[tcp].ends[end].state == EndState::Open {
            while self.send(id, conn, usize::MAX) {}
            self.send_on(tcp, end, What::Fin);
        }
        self.forget(tcp, end);
    }

    /// Sends one piece if the window has room; whether it did.
    fn send(&mut self, id: Id, conn: ConnId, window: usize) -> bool {
        let Some((tcp, end)) = self.speakers[id].ends.get(&conn).copied() else {
            return false;
        };
        let open = self.tcps[tcp].ends[end].state == EndState::Open;
        if !open || self.tcps[tcp].streams[end].unread >= window {
            return false;
        }
        let mut bytes = BytesMut::new();
        let now = self.now;
        let more = self.speakers[id].engine.poll_send(now, conn, &mut bytes);
        if !more {
            self.speakers[id].sendable.remove(&conn);
        }
        if bytes.is_empty() {
            return more;
        }
        self.tap(tcp, end, &bytes);
        self.send_on(tcp, end, What::Data(bytes.freeze()));
        true
    }

    /// From one end to the other, with what the link does to it.
    pub(super) fn send_on(&mut self, tcp: usize, end: usize, what: What) {
        let [a, b] = [end, 1 - end].map(|end| self.tcps[tcp].ends[end].speaker);
        let link = self.wire(a, b).link;
        let mut time = link.delay + self.random.up_to(link.jitter);
        let mut retransmission = RETRANSMISSION;
        while self.random.chance(link.loss) {
            time += retransmission;
            retransmission *= 2;
        }
        let stream = &mut self.tcps[tcp].streams[end];
        if let What::Data(bytes) = &what {
            stream.unread += bytes.len();
        }
        let at = stream.last_arrival.max(self.now + time);
        stream.last_arrival = at;
        let end = 1 - end;
        self.schedule(at, Event { tcp, end, what });
    }

    pub(super) fn schedule(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    /// Writes down the messages that are in these bytes.
    fn tap(&mut self, tcp: usize, end: usize, bytes: &[u8]) {
        let [from, to] = [end, 1 - end].map(|end| self.tcps[tcp].ends[end].speaker);
        let at = self.now - self.start;
        let tap = &mut self.tcps[tcp].streams[end].tap;
        tap.extend_from_slice(bytes);
        while let Some(message) = next_message(tap, EXTENDED_MESSAGE).expect("well-formed") {
            self.sent.push(Sent {
                at,
                from,
                to,
                message,
            });
        }
    }

    pub(super) fn wire(&mut self, a: Id, b: Id) -> &mut Wire {
        let wire = self.links.get_mut(&(a.min(b), a.max(b)));
        wire.unwrap_or_else(|| panic!("no link between {a} and {b}"))
    }
}
