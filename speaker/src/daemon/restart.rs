//! Our own restart: what the last life left behind, and what the next one will find of this one.
//! RFC 4724 §4.1.

use std::time::Duration;

use bgp::engine::Restart;
use bgp::types::Family;
use plan::NodeConfig;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Daemon, Departure, ESTABLISHED, now};
use crate::last_life::{Life, Moment, Note};

/// Looks of the loop between two notes.
const NOTE_EVERY: u32 = 5;
/// How long the kernel's side may take to say what it has adopted; peers wait meanwhile.
const ADOPTION: Duration = Duration::from_secs(15);

/// The note about this life, and whether the one about the last has been read.
pub(super) struct LastLife {
    note: Note,
    read: bool,
    looks: u32,
    /// The write under way: a disk that hangs must not hang the loop.
    writing: Option<JoinHandle<()>>,
}

impl LastLife {
    pub(super) fn new(note: Note) -> LastLife {
        LastLife {
            note,
            read: false,
            looks: 0,
            writing: None,
        }
    }

    /// What the note says of our peers is not so any more.
    pub(super) fn changed(&mut self) {
        self.looks = NOTE_EVERY;
    }
}

impl Daemon {
    /// Before the first configuration: if the last life ended only a moment ago, the engine is told
    /// so. Waits for the kernel's side to say what it has adopted, since OPEN has to tell the truth
    /// about that; there is nothing else for the loop to do yet.
    pub(super) async fn look_back(&mut self, config: &NodeConfig) {
        if self.last_life.read || config.bgp.check().is_err() {
            return;
        }
        self.last_life.read = true;
        let Some((life, ago)) = self.last_life.note.read(Moment::now().as_ref()) else {
            tracing::info!("a first start: no speaker was here in the time that peers wait");
            return;
        };
        self.kernel.configure(config);
        let adopted = match self.kernel.fib() {
            Some(fib) => timeout(ADOPTION, fib.summary()).await.ok(),
            None => None,
        };
        let adopted = adopted.map(|summary| summary.adopted);
        // Where there were learned routes, some must be left; a node without any, or whose routes
        // are not for the kernel, forwards as it did.
        let preserved = Family::ALL.into_iter().filter(|family| {
            let left = adopted.is_some_and(|adopted| adopted[*family as usize] > 0);
            let untouched = adopted.is_some() && !life.routes.contains(family);
            left || untouched || !config.kernel.install
        });
        let restart = Restart {
            preserved: preserved.collect(),
            peers: life.peers,
        };
        tracing::info!(
            ago_s = ago.as_secs(),
            preserved = ?restart.preserved,
            peers = ?restart.peers,
            "a restart: waiting for all routes of these peers before anything is told"
        );
        self.engine.restarted(restart);
    }

    /// Notes now and then that we are alive.
    pub(super) fn note_life(&mut self) {
        self.last_life.looks += 1;
        let busy = |writing: &JoinHandle<()>| !writing.is_finished();
        if self.in_force.is_none()
            || self.last_life.looks < NOTE_EVERY
            || self.last_life.writing.as_ref().is_some_and(busy)
            // Until all has been heard again, what the last life knew is the better note.
            || self.engine.deferral().is_some()
        {
            return;
        }
        self.last_life.looks = 0;
        let (note, life) = (self.last_life.note.clone(), self.life());
        let write = tokio::task::spawn_blocking(move || write(&note, &life));
        self.last_life.writing = Some(write);
    }

    /// What the next life is to find.
    pub(super) fn note_departure(&mut self, departure: Departure) {
        match departure {
            Departure::ComingBack if self.in_force.is_some() => {
                if self.engine.deferral().is_none() {
                    write(&self.last_life.note, &self.life());
                }
            }
            Departure::ComingBack => {}
            Departure::Leaving => {
                if let Err(error) = self.last_life.note.remove() {
                    tracing::warn!(%error, "cannot remove the note that a speaker was here");
                }
            }
        }
    }

    fn life(&self) -> Life {
        let peers = self.engine.peers(now());
        let families = || peers.iter().flat_map(|peer| &peer.families);
        let used = |family: &Family| {
            let mut those = families().filter(|it| it.family == *family);
            those.any(|it| it.best > 0)
        };
        // One that is away for a moment will want to hear of us too.
        let expects = peers.iter().filter(|peer| {
            let agreed = peer.graceful_restart.unwrap_or_default();
            let up = peer.state == ESTABLISHED && agreed.peer_seconds.is_some();
            up || agreed.stale_until.is_some()
        });
        let promised = peers.iter().filter_map(|peer| {
            let ours = peer.graceful_restart?;
            let long_lived = ours.long_lived.map_or(0, |it| it.stale_seconds);
            Some(u64::from(ours.restart_seconds) + u64::from(long_lived))
        });
        Life {
            within: Duration::from_secs(promised.max().unwrap_or(0)),
            routes: Family::ALL.into_iter().filter(used).collect(),
            peers: expects.map(|peer| peer.name.clone()).collect(),
        }
    }
}

fn write(note: &Note, life: &Life) {
    let Some(moment) = Moment::now() else { return };
    if let Err(error) = note.write(life, &moment) {
        tracing::warn!(%error, "cannot note that this speaker is alive: the next start will not be a graceful restart");
    }
}
