//! Keys of peers: which are wanted, who is let in with them, and what is told of them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use bgp::config::{Authentication, PeerConfig};
use bgp::query::PeerStatus;
use plan::NodeConfig;
use proto::speaker::v1 as pb;

use super::{Daemon, ESTABLISHED, now};
use crate::keys::{KeyFile, Keys};
use crate::transport::{Distance, Signing, Terms};

/// The files that hold a configuration's keys.
pub(super) fn files(config: &NodeConfig) -> BTreeSet<String> {
    let peers = config.bgp.peers.iter();
    peers
        .filter_map(|peer| file(peer.authentication.as_ref()))
        .map(str::to_owned)
        .collect()
}

fn file(authentication: Option<&Authentication>) -> Option<&str> {
    authentication.map(|Authentication::Md5 { key_file }| key_file.as_str())
}

fn terms(peer: &PeerConfig, keys: &Keys) -> Terms {
    let signing = match file(peer.authentication.as_ref()) {
        None => Signing::Plain,
        Some(file) => match keys.get(file).map(|it| &it.key) {
            None => Signing::NotYet,
            Some(Ok(key)) => Signing::With(key.clone()),
            Some(Err(error)) => Signing::Missing(error.to_string()),
        },
    };
    Terms {
        distance: Distance::of(peer),
        signing,
    }
}

impl Daemon {
    /// Lets the peers of a configuration in, each on its own terms, and nobody else.
    pub(super) fn listen(&mut self, config: &NodeConfig) {
        let addresses = self.listen.iter();
        let addresses: Vec<SocketAddr> = addresses
            .map(|ip| SocketAddr::new(*ip, config.listen_port))
            .collect();
        let keys = self.keys.now();
        let peers = config.bgp.peers.iter();
        let known = peers.map(|peer| (peer.address, terms(peer, &keys)));
        self.transport.listen(&addresses, known.collect());
    }

    /// A key came, went or is another one.
    pub(super) fn on_keys(&mut self) {
        if let Some(in_force) = self.in_force.clone() {
            self.listen(&in_force.config);
        }
        for peer in self.engine.peers(now()) {
            if peer.authentication.is_some() {
                // Nobody may be watching.
                let _ = self.peer_changes.send(peer.id);
            }
        }
        self.changed();
    }

    /// What is known of a peer's key. A session that is down for want of one says so.
    pub(super) fn with_key(&self, mut peer: PeerStatus) -> (PeerStatus, Option<pb::Key>) {
        let Some(file) = file(peer.authentication.as_ref()) else {
            return (peer, None);
        };
        let keys = self.keys.now();
        let state = keys.get(file);
        let problem = state.and_then(|state| state.key.as_ref().err());
        let problem = problem.map(ToString::to_string);
        let key = pb::Key {
            file: file.to_owned(),
            problem: problem.clone().unwrap_or_default(),
            since_ms: state.map_or(0, since_ms),
        };
        if let (Some(problem), Some(state)) = (problem, state)
            && peer.state != ESTABLISHED
        {
            let age = state.since.elapsed().unwrap_or_default();
            let at = now().checked_sub(age).unwrap_or_else(now);
            peer.last_error = Some((at, format!("no session without a key: {problem}")));
        }
        (peer, Some(key))
    }

    /// What a person should know: a stable word and a sentence.
    pub(crate) fn key_problems(&self) -> Vec<(&'static str, String)> {
        let keys = self.keys.now();
        let peers = self.engine.peers(now()).into_iter();
        let of = |peer: PeerStatus| {
            let file = file(peer.authentication.as_ref())?;
            let (state, name) = (keys.get(file)?, &peer.name);
            match &state.key {
                Err(error) => {
                    let effect = match peer.state == ESTABLISHED {
                        true => {
                            "the session goes on with the key it had, and cannot come back without"
                        }
                        false => "the session stays down",
                    };
                    Some(("NoKey", format!("peer {name}: {error}; {effect}")))
                }
                Ok(_) if state.is_exposed => {
                    let what = "every user of this host can read";
                    let text = format!("peer {name}: {what} its key in {file}; chmod o-rwx {file}");
                    Some(("KeyExposed", text))
                }
                Ok(_) => None,
            }
        };
        peers.filter_map(of).collect()
    }
}

fn since_ms(state: &KeyFile) -> i64 {
    let since = state.since.duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default().as_millis();
    i64::try_from(since).unwrap_or(i64::MAX)
}
