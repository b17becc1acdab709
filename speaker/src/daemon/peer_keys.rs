//! Keys of peers: which are wanted, who is let in with them, and what is told of them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bgp::config::{Authentication, KeySource, PeerConfig};
use bgp::query::PeerStatus;
use plan::NodeConfig;
use proto::controller::v1::Problem;
use proto::speaker::v1 as pb;

use super::{Daemon, ESTABLISHED, now};
use crate::keys::Keys;
use crate::keys::ao::{self, AoKey};
use crate::transport::{Distance, Signing, Terms};

/// What a kernel without TCP-AO makes of a peer that asks for it.
const NO_AO: &str = "this host's kernel has no TCP-AO (Linux 6.7 or newer, built with CONFIG_TCP_AO); use \
                     password (TCP MD5), or another kernel";

/// Where a configuration's keys are, those of BFD too.
pub(super) fn sources(config: &NodeConfig) -> BTreeSet<KeySource> {
    let peers = config.bgp.peers.iter();
    let all = peers.filter_map(|peer| peer.authentication.as_ref());
    let bfd = config.bfd.iter();
    let bfd = bfd.filter_map(|it| it.authentication.as_ref());
    all.flat_map(Authentication::keys)
        .chain(bfd.map(|it| &it.key))
        .cloned()
        .collect()
}

fn terms(peer: &PeerConfig, keys: &Keys) -> Terms {
    Terms {
        distance: Distance::of(peer),
        signing: signing(peer.authentication.as_ref(), keys),
    }
}

fn signing(authentication: Option<&Authentication>, keys: &Keys) -> Signing {
    match authentication {
        None => Signing::Plain,
        Some(Authentication::Md5 { key }) => match keys.get(key).map(|it| &it.key) {
            None => Signing::NotYet,
            Some(Ok(key)) => Signing::Md5(key.clone()),
            Some(Err(error)) => Signing::Missing(error.to_string()),
        },
        Some(Authentication::Ao { .. }) if !ao::is_available() => Signing::Missing(NO_AO.into()),
        Some(Authentication::Ao { keys: wanted }) => {
            let mut usable = Vec::new();
            let mut missing = None;
            for it in wanted {
                match keys.get(&it.key).map(|it| &it.key) {
                    None => return Signing::NotYet,
                    Some(Ok(key)) => usable.push(AoKey {
                        send_id: it.send_id,
                        receive_id: it.receive_id,
                        algorithm: it.algorithm,
                        key: key.clone(),
                    }),
                    Some(Err(error)) => missing = missing.or(Some(error.to_string())),
                }
            }
            // One key of several may be on its way; one that is there is as good a protection.
            match missing {
                Some(missing) if usable.is_empty() => Signing::Missing(missing),
                _ => Signing::Ao(usable.into()),
            }
        }
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
            // Which reads its keys when it is told what is wanted.
            if in_force
                .config
                .bfd
                .iter()
                .any(|it| it.authentication.is_some())
            {
                self.bfd.again();
            }
        }
        for peer in self.engine.peers(now()) {
            if peer.authentication.is_some() {
                // Nobody may be watching.
                let _ = self.peer_changes.send(peer.id);
            }
        }
        self.changed();
    }

    /// What is known of a peer's keys. A session that is down for want of one says so.
    pub(super) fn with_key(&self, mut peer: PeerStatus) -> (PeerStatus, Option<pb::Key>) {
        let Some(authentication) = &peer.authentication else {
            return (peer, None);
        };
        let keys = self.keys.now();
        let sources = authentication.keys();
        let states = sources.iter().filter_map(|source| keys.get(*source));
        let since = states.map(|state| state.since).max();
        let problem = match signing(Some(authentication), &keys) {
            Signing::Missing(problem) => problem,
            _ => String::new(),
        };
        let key = pb::Key {
            kind: match authentication {
                Authentication::Md5 { .. } => "TCP MD5".to_owned(),
                Authentication::Ao { .. } => "TCP-AO".to_owned(),
            },
            file: sources
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
            problem: problem.clone(),
            since_ms: since.map_or(0, ms),
        };
        if !problem.is_empty() && peer.state != ESTABLISHED {
            let age = since.and_then(|since| since.elapsed().ok());
            let at = now().checked_sub(age.unwrap_or_default());
            let text = format!("no session without a key: {problem}");
            peer.last_error = Some((at.unwrap_or_else(now), text));
        }
        (peer, Some(key))
    }

    /// What a person should know.
    pub(crate) fn key_problems(&self) -> Vec<Problem> {
        let keys = self.keys.now();
        let peers = self.engine.peers(now()).into_iter();
        let of = |peer: PeerStatus| {
            let problems = problems(&peer, &keys).into_iter();
            problems.map(move |(reason, message)| Problem {
                reason: reason.to_owned(),
                message,
                peer: peer.name.clone(),
            })
        };
        peers.flat_map(of).collect()
    }
}

fn problems(peer: &PeerStatus, keys: &Keys) -> Vec<(&'static str, String)> {
    let Some(authentication) = &peer.authentication else {
        return Vec::new();
    };
    let name = &peer.name;
    if matches!(authentication, Authentication::Ao { .. }) && !ao::is_available() {
        let text = format!("peer {name}: {NO_AO}; the session stays down");
        return vec![("NoTcpAo", text)];
    }
    let is_missing = matches!(signing(Some(authentication), keys), Signing::Missing(_));
    let effect = match (is_missing, peer.state == ESTABLISHED) {
        (false, _) => "the session has the other keys",
        (true, true) => "the session goes on with the key it had, and cannot come back without",
        (true, false) => "the session stays down",
    };
    let of = |source: &KeySource| {
        let state = keys.get(source)?;
        match &state.key {
            Err(error) => Some(("NoKey", format!("peer {name}: {error}; {effect}"))),
            Ok(_) if state.is_exposed => {
                let what = "every user of this host can read";
                let text = format!("peer {name}: {what} its key in {source}; chmod o-rwx {source}");
                Some(("KeyExposed", text))
            }
            Ok(_) => None,
        }
    };
    authentication.keys().into_iter().filter_map(of).collect()
}

fn ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
