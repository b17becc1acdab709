//! The speakers that are, or were, connected: their streams, what they said last, and their tunnels.
//!
//! Shared between the gRPC handlers (which write what speakers do) and the reconcile loop (which
//! writes what speakers are told). Everything about one node is behind one short lock; the newest
//! NodeConfig is in a watch channel of its node, so that a slow speaker costs one configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipam::Millis;
use ipnetwork::IpNetwork;
use proto::controller::v1 as pb;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::names::Names;

/// A subnet that is used beyond this many percent asks for another one.
const NEARLY_USED_UP_PERCENT: u128 = 80;

/// All speakers, by node name.
#[derive(Default)]
pub(crate) struct Registry {
    speakers: Mutex<BTreeMap<String, Speaker>>,
    attention: Notify,
    /// Nodes whose speakers did something since these were asked for last, if they ever were.
    touched: Mutex<BTreeSet<String>>,
    touching: Notify,
    is_followed: AtomicBool,
    /// Numbers streams and tunnels, so that the end of an old one is not taken for that of its
    /// successor.
    last_id: AtomicU64,
    /// What containers are called.
    pub(crate) names: Names,
}

struct Speaker {
    config: watch::Sender<Option<Arc<pb::NodeConfig>>>,
    stream: Option<Stream>,
    /// When the last stream ended.
    away_since: Option<Millis>,
    report: Option<Arc<pb::NodeReport>>,
    tunnel: Option<Tunnel>,
}

struct Stream {
    id: u64,
    since: Millis,
    replaced: CancellationToken,
    /// Whether it has reported since it was opened.
    reported: bool,
}

struct Tunnel {
    id: u64,
    channel: Channel,
    replaced: CancellationToken,
}

/// What is known of one speaker.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpeakerState {
    /// Since when its stream is open; absent when it is not.
    pub(crate) connected_since: Option<Millis>,
    /// Since when it is not; absent while it is open, and when none was in this run of the controller.
    pub(crate) away_since: Option<Millis>,
    /// What it said last, in this run of the controller.
    pub(crate) report: Option<Arc<pb::NodeReport>>,
    /// Whether it has said something on the stream that is open.
    pub(crate) reported: bool,
}

/// An open stream's side of the registry.
pub(crate) struct OpenStream {
    /// Names it in [`Registry::report`] and [`Registry::closed`].
    pub(crate) id: u64,
    /// The node's newest configuration.
    pub(crate) config: watch::Receiver<Option<Arc<pb::NodeConfig>>>,
    /// Cancelled when another stream of the same node has taken over.
    pub(crate) replaced: CancellationToken,
}

impl Registry {
    /// A speaker has opened its stream. An older stream of the node ends: it is most likely what is
    /// left of a connection that broke.
    pub(crate) fn opened(&self, node: &str, now: Millis) -> OpenStream {
        let id = self.next_id();
        let mut speakers = self.lock();
        let speaker = speakers.entry(node.to_owned()).or_default();
        let replaced = CancellationToken::new();
        let old = speaker.stream.replace(Stream {
            id,
            since: now,
            replaced: replaced.clone(),
            reported: false,
        });
        speaker.away_since = None;
        if let Some(old) = old {
            old.replaced.cancel();
        }
        self.touch(node);
        OpenStream {
            id,
            config: speaker.config.subscribe(),
            replaced,
        }
    }

    /// A speaker has said how it fares.
    pub(crate) fn report(&self, node: &str, id: u64, report: pb::NodeReport) {
        let mut speakers = self.lock();
        let Some(speaker) = speakers.get_mut(node) else {
            return;
        };
        let Some(stream) = speaker.stream.as_mut().filter(|stream| stream.id == id) else {
            return;
        };
        let first = !std::mem::replace(&mut stream.reported, true);
        let nearly = report.subnets.iter().any(|subnet| {
            let Ok(prefix) = subnet.prefix.parse() else {
                return false;
            };
            let (taken, size) = taken(subnet, prefix);
            is_nearly_used_up(taken, size)
        });
        let before = speaker.report.replace(Arc::new(report));
        let changed = before.is_none_or(|before| {
            let now = speaker.report.as_ref();
            now.is_some_and(|now| now.subnets != before.subnets || now.version != before.version)
        });
        drop(speakers);
        self.touch(node);
        if first || (nearly && changed) {
            self.attention.notify_one();
        }
    }

    /// A stream has ended, for whatever reason.
    pub(crate) fn closed(&self, node: &str, id: u64, now: Millis) {
        let mut speakers = self.lock();
        if let Some(speaker) = speakers.get_mut(node)
            && speaker.stream.take_if(|stream| stream.id == id).is_some()
        {
            speaker.away_since = Some(now);
        }
        drop(speakers);
        self.touch(node);
        self.attention.notify_one();
    }

    /// A speaker has opened a tunnel; an older one is closed. Returns its number, and when to close.
    pub(crate) fn tunnel_opened(&self, node: &str, channel: Channel) -> (u64, CancellationToken) {
        let id = self.next_id();
        let mut speakers = self.lock();
        let speaker = speakers.entry(node.to_owned()).or_default();
        let replaced = CancellationToken::new();
        let old = speaker.tunnel.replace(Tunnel {
            id,
            channel,
            replaced: replaced.clone(),
        });
        if let Some(old) = old {
            old.replaced.cancel();
        }
        (id, replaced)
    }

    /// A tunnel has ended.
    pub(crate) fn tunnel_closed(&self, node: &str, id: u64) {
        if let Some(speaker) = self.lock().get_mut(node) {
            speaker.tunnel.take_if(|tunnel| tunnel.id == id);
        }
    }

    /// The way to a node's speaker; none when it has no tunnel open.
    pub(crate) fn tunnel(&self, node: &str) -> Option<Channel> {
        let speakers = self.lock();
        let tunnel = speakers.get(node)?.tunnel.as_ref()?;
        Some(tunnel.channel.clone())
    }

    /// Gives a node its configuration; its stream hears of it when the version is another.
    pub(crate) fn tell(&self, node: &str, config: &Arc<pb::NodeConfig>) {
        let mut speakers = self.lock();
        let speaker = speakers.entry(node.to_owned()).or_default();
        speaker.config.send_if_modified(|current| {
            let version = current.as_ref().map(|current| current.version);
            let changed = version != Some(config.version);
            if changed {
                *current = Some(Arc::clone(config));
            }
            changed
        });
    }

    /// Nodes that are not in `keep` are told nothing more; what their speakers have stays in force.
    pub(crate) fn forget_others(&self, keep: &BTreeMap<String, Arc<pb::NodeConfig>>) {
        self.names.exist(keep);
        self.lock().retain(|node, speaker| {
            if keep.contains_key(node) {
                return true;
            }
            // Quietly: a stream that waits is not woken to be told nothing.
            speaker
                .config
                .send_if_modified(|current| current.take().is_some_and(|_| false));
            speaker.stream.is_some() || speaker.tunnel.is_some()
        });
    }

    /// A node's newest configuration, now and from now on.
    pub(crate) fn config(&self, node: &str) -> watch::Receiver<Option<Arc<pb::NodeConfig>>> {
        let mut speakers = self.lock();
        let speaker = speakers.entry(node.to_owned()).or_default();
        speaker.config.subscribe()
    }

    /// What is known of each speaker.
    pub(crate) fn states(&self) -> BTreeMap<String, SpeakerState> {
        let speakers = self.lock();
        let states = speakers.iter();
        states
            .map(|(node, speaker)| (node.clone(), speaker.state()))
            .collect()
    }

    /// What is known of one speaker.
    pub(crate) fn state(&self, node: &str) -> Option<SpeakerState> {
        self.lock().get(node).map(Speaker::state)
    }

    /// The nodes whose speakers came, went or said something since this was asked last.
    pub(crate) fn touched(&self) -> BTreeSet<String> {
        self.is_followed.store(true, Ordering::Relaxed);
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *touched)
    }

    /// Returns when [`Registry::touched`] has something to say.
    pub(crate) async fn touching(&self) {
        self.touching.notified().await;
    }

    fn touch(&self, node: &str) {
        if self.is_followed.load(Ordering::Relaxed) {
            let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
            if touched.insert(node.to_owned()) {
                self.touching.notify_one();
            }
        }
    }

    /// Returns when a speaker did something that the reconcile loop should look at.
    pub(crate) async fn attention(&self) {
        self.attention.notified().await;
    }

    fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Speaker>> {
        // Every change is complete in itself, so what a panicking holder left behind is sound.
        self.speakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many addresses a subnet has.
pub(crate) fn size_of(subnet: IpNetwork) -> u128 {
    let bits = if subnet.is_ipv4() { 32 } else { 128 } - u32::from(subnet.prefix());
    1_u128.checked_shl(bits).unwrap_or(u128::MAX)
}

/// How many addresses of a subnet no further pod can have now, and how many there are for pods.
pub(crate) fn taken(subnet: &pb::SubnetUse, prefix: IpNetwork) -> (u128, u128) {
    let size = match subnet.size {
        // As an older speaker says it, or one that has more than fit.
        0 | u64::MAX => size_of(prefix),
        size => size_of(prefix).min(size.into()),
    };
    let taken = u128::from(subnet.used) + u128::from(subnet.cooling);
    (taken.min(size), size)
}

/// Whether so much of so many addresses is used that another subnet is needed.
pub(crate) fn is_nearly_used_up(used: u128, size: u128) -> bool {
    used.saturating_mul(100) > size.saturating_mul(NEARLY_USED_UP_PERCENT)
}

impl Default for Speaker {
    fn default() -> Speaker {
        Speaker {
            config: watch::Sender::new(None),
            stream: None,
            away_since: None,
            report: None,
            tunnel: None,
        }
    }
}

impl Speaker {
    fn state(&self) -> SpeakerState {
        let stream = self.stream.as_ref();
        SpeakerState {
            connected_since: stream.map(|stream| stream.since),
            away_since: self.away_since,
            report: self.report.clone(),
            reported: stream.is_some_and(|stream| stream.reported),
        }
    }
}

impl SpeakerState {
    /// The subnets the speaker says it has, whether its stream is open or not.
    pub(crate) fn subnets(&self) -> BTreeSet<IpNetwork> {
        let report = self.report.iter();
        report
            .flat_map(|report| &report.subnets)
            .filter_map(|subnet| subnet.prefix.parse().ok())
            .collect()
    }
}
