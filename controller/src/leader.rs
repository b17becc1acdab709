//! Which of several controllers leads: whoever holds the Lease `routeshare-controller`.
//!
//! The Lease is taken and renewed by compare-and-swap on its resourceVersion, as the API server does
//! it: of two that try at once, one is told of a conflict. Times are those of our own monotonic clock:
//! a Lease is free when we have not seen it change for as long as it says, whatever times are written
//! in it, so that no clock has to agree with another one and none may jump.
//!
//! The Lease only makes sure that normally one controller works at a time. That nothing is given out
//! twice is not its business: every grant is a compare-and-swap of its own (see `store`).
//!
//! - A leader renews every [`RENEW_EVERY`]. When it could not for [`GIVES_UP`] it is [`Standing::Cut`]:
//!   it decides nothing more, before anybody else may take over. Its speakers' streams stay open: when
//!   the API server is away for everybody, nobody else can take over either.
//! - When it has been cut off for [`STREAMS_END`], it lets its speakers look for another leader.
//! - When somebody else holds the Lease, the process ends; a new one stands by with empty hands.
//! - A leader that is told to stop gives the Lease back, so that the next one need not wait.

mod lease;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(crate) use lease::Candidate;
use lease::Observed;

use crate::pauses::Pauses;

/// How long others leave a Lease alone that does not change.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// How often the leader renews it.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// A leader that could not renew for so long decides nothing more. Shorter than [`LEASE`] by more than
/// a request can take that was sent just before.
const GIVES_UP: Duration = Duration::from_secs(7);
/// A leader that is cut off for so long lets its speakers go. Longer than an API server takes to be
/// restarted or upgraded: they would find nobody else then.
const STREAMS_END: Duration = Duration::from_secs(90);
/// After an attempt that failed.
const RETRY: Duration = Duration::from_millis(500);
/// No request about the Lease may take longer, so that one that is lost leaves time for others.
const REQUEST: Duration = Duration::from_secs(2);
/// Where the API server is slow for everybody, it may take up to this: otherwise nobody could lead.
const SLOW_REQUEST: Duration = Duration::from_secs(5);
/// The longest pause between two attempts to watch the Lease.
const WATCH_AGAIN: Duration = Duration::from_secs(2);

/// Where this controller stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It decides, grants and tells.
    Leading,
    /// It leads as far as it knows, but the API server has not confirmed it for a while: it keeps
    /// what it has, and decides nothing.
    Cut,
    /// It does nothing but wait.
    Standby {
        /// Where the leader listens, as `HOST:PORT`; none when there is no leader that is known to
        /// live and to be another.
        leader: Option<String>,
    },
}

/// Somebody else has the Lease that was ours.
#[derive(Debug, thiserror::Error)]
#[error(
    "the Lease {lease} is no longer ours but {holder}'s: another controller leads; this one ends, and \
     stands by when it is started again"
)]
pub(crate) struct Lost {
    lease: &'static str,
    holder: String,
    /// Where it listens.
    leader: Option<String>,
}

/// Why the Lease could not be read or written.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Somebody has changed it since we read it.
    #[error("somebody else has changed it")]
    Conflict,
    #[error("the API server did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error(transparent)]
    Api(kube::Error),
}

/// Takes part in the election.
pub(crate) struct Elector {
    candidate: Candidate,
    leases: Api<Lease>,
    patience: Patience,
    standing: watch::Sender<Standing>,
    /// The Lease as last seen, and when it changed; none before it was seen, and when there is none.
    observed: Option<Observed>,
}

impl Elector {
    /// One that stands by.
    pub(crate) fn new(candidate: Candidate, leases: Api<Lease>) -> Elector {
        Elector {
            candidate,
            leases,
            patience: Patience::default(),
            standing: watch::Sender::new(Standing::Standby { leader: None }),
            observed: None,
        }
    }

    /// Where it stands, now and later.
    pub(crate) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Stands by until the Lease is free, then leads until `resign`; after that it only watches who is
    /// next, until `end`.
    ///
    /// # Errors
    ///
    /// [`Lost`] when somebody else leads in our place.
    pub(crate) async fn run(
        mut self,
        resign: CancellationToken,
        end: CancellationToken,
    ) -> Result<(), Lost> {
        if self.stand_by(&resign, true).await {
            info!(identity = self.candidate.identity(), "leading");
            self.standing.send_replace(Standing::Leading);
            let lost = self.lead(&resign).await.err();
            if let Some(lost) = lost {
                let leader = lost.leader.clone();
                self.standing.send_replace(Standing::Standby { leader });
                return Err(lost);
            }
            // Streams stay open until there is somebody to go to.
            self.standing.send_replace(Standing::Cut);
            self.release().await;
        }
        self.stand_by(&end, false).await;
        Ok(())
    }

    /// Watches the Lease, and takes it when it is free (if it `takes`). Whether it was taken; false
    /// when resigned.
    async fn stand_by(&mut self, resign: &CancellationToken, takes: bool) -> bool {
        let mut changes = std::pin::pin!(changes(self.leases.clone(), self.candidate.lease()));
        let mut told = false;
        loop {
            self.tell_standby(takes);
            let free = self.observed.as_ref().map(Observed::free_at);
            tokio::select! {
                () = resign.cancelled() => return false,
                Some(change) = changes.next() => self.observe(change),
                () = sleep_until(free.unwrap_or_else(Instant::now)), if takes => {
                    match self.try_to_take().await {
                        Ok(taken) if taken => return true,
                        Ok(_) => told = false,
                        Err(error) => {
                            if !std::mem::replace(&mut told, true) {
                                let error = &error as &dyn std::error::Error;
                                warn!(error, lease = self.candidate.lease(), "cannot try to lead");
                            }
                            tokio::time::sleep(RETRY).await;
                        }
                    }
                }
                () = sleep_until(free.unwrap_or_else(Instant::now)), if !takes && free.is_some() => {
                    self.observed = None; // its time is up: its holder is not known to live
                }
            }
        }
    }

    /// Looks whether the Lease has really not changed, and takes it then.
    async fn try_to_take(&mut self) -> Result<bool, Failure> {
        // Our watch may have died unnoticed; the Lease itself cannot be wrong.
        let found = self.get().await?;
        self.observe(found);
        let taken = match &self.observed {
            Some(observed) if !observed.is_free(Instant::now()) => return Ok(false),
            Some(observed) => {
                let lease = self.candidate.taken(observed.lease().clone());
                self.put(&lease).await
            }
            None => self.create().await,
        };
        match taken {
            Ok(lease) => {
                self.observe(Some(lease));
                Ok(true)
            }
            Err(Failure::Conflict) => {
                let found = self.get().await?;
                self.observe(found);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Renews the Lease until `resign`.
    async fn lead(&mut self, resign: &CancellationToken) -> Result<(), Lost> {
        let mut confirmed = Instant::now();
        let mut next = confirmed + RENEW_EVERY;
        let mut failing = false;
        loop {
            let cut = confirmed + GIVES_UP;
            let wake = match *self.standing.borrow() {
                Standing::Leading => next.min(cut),
                _ => next,
            };
            tokio::select! {
                () = resign.cancelled() => return Ok(()),
                () = sleep_until(wake) => {}
            }
            let begun = Instant::now();
            self.tell_cut(begun.saturating_duration_since(confirmed));
            if begun < next {
                continue;
            }
            // What is told while we wait for the answer must not wait for it.
            let renewed = {
                let renewing = self.renew();
                let mut renewing = std::pin::pin!(renewing);
                tokio::select! {
                    renewed = &mut renewing => renewed,
                    () = sleep_until(cut), if begun < cut => {
                        self.tell(Standing::Cut);
                        renewing.await
                    }
                }
            };
            match renewed? {
                Ok(lease) => {
                    confirmed = begun;
                    next = begun + RENEW_EVERY;
                    if std::mem::take(&mut failing) {
                        info!("the Lease is renewed again");
                    }
                    self.observe(Some(lease));
                    if begun.elapsed() < GIVES_UP {
                        self.tell(Standing::Leading);
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        let error = &error as &dyn std::error::Error;
                        warn!(
                            error,
                            lease = self.candidate.lease(),
                            "cannot renew the Lease"
                        );
                    }
                    next = Instant::now() + RETRY;
                }
            }
        }
    }

    /// Cut off, and for how long.
    fn tell_cut(&self, unconfirmed: Duration) {
        if unconfirmed >= GIVES_UP + STREAMS_END {
            self.tell(Standing::Standby { leader: None });
        } else if unconfirmed >= GIVES_UP {
            self.tell(Standing::Cut);
        }
    }

    fn tell(&self, standing: Standing) {
        self.standing.send_if_modified(|current| {
            if *current == standing {
                return false;
            }
            match &standing {
                Standing::Leading => info!("leading again"),
                Standing::Cut => warn!(
                    "the Lease could not be renewed for {} s: nothing is decided until it is; what \
                     speakers have stays in force",
                    GIVES_UP.as_secs()
                ),
                Standing::Standby { .. } => warn!(
                    "the Lease could not be renewed for {} s: speakers may look for another leader",
                    (GIVES_UP + STREAMS_END).as_secs()
                ),
            }
            *current = standing;
            true
        });
    }

    /// Who leads, as far as it is known. `waiting`: whether we wait for our turn; who has given the
    /// Lease back says nothing before there is somebody else.
    fn tell_standby(&self, waiting: bool) {
        let observed = self.observed.as_ref();
        let leader = observed.and_then(|observed| self.candidate.leader_in(observed));
        if !waiting && leader.is_none() {
            return;
        }
        let standing = Standing::Standby { leader };
        self.standing.send_if_modified(|current| {
            let changed = *current != standing;
            if let (
                true,
                Standing::Standby {
                    leader: Some(leader),
                },
            ) = (changed, &standing)
            {
                info!(leader, "standing by");
            }
            *current = standing;
            changed
        });
    }

    /// One renewal. Outer error: somebody else leads. Inner: it may be tried again.
    async fn renew(&self) -> Result<Result<Lease, Failure>, Lost> {
        let Some(observed) = &self.observed else {
            return Ok(Err(Failure::Conflict)); // not reached: we have seen what we took
        };
        let found = match self.put(&self.candidate.renewed(observed.lease())).await {
            Err(Failure::Conflict) => self.get().await,
            other => return Ok(other),
        };
        match found {
            // Somebody else has written into it, or our last renewal came through although its
            // answer did not.
            Ok(Some(lease)) if self.candidate.holds(&lease) => {
                Ok(self.put(&self.candidate.renewed(&lease)).await)
            }
            Ok(Some(lease)) => {
                let observed = Observed::new(lease, None, LEASE);
                Err(Lost {
                    lease: self.candidate.lease(),
                    holder: observed.holder().unwrap_or("nobody").to_owned(),
                    leader: self.candidate.leader_in(&observed),
                })
            }
            // Deleted. Whoever makes it first has it.
            Ok(None) => Ok(self.create().await),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Gives the Lease back, once: if that fails the others wait for its time to be up.
    async fn release(&mut self) {
        let Some(observed) = self.observed.take() else {
            return;
        };
        match self.put(&self.candidate.released(observed.lease())).await {
            Ok(_) => info!("the Lease is given back"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(
                    error,
                    "cannot give the Lease back; the next leader waits for its end"
                );
            }
        }
    }

    fn observe(&mut self, lease: Option<Lease>) {
        self.observed = lease.map(|lease| Observed::new(lease, self.observed.take(), LEASE));
    }

    async fn get(&self) -> Result<Option<Lease>, Failure> {
        let lease = self.leases.get_opt(self.candidate.lease());
        self.patience.answer(lease).await
    }

    async fn put(&self, lease: &Lease) -> Result<Lease, Failure> {
        let parameters = kube::api::PostParams::default();
        let name = self.candidate.lease();
        let replaced = self.leases.replace(name, &parameters, lease);
        self.patience.answer(replaced).await
    }

    async fn create(&self) -> Result<Lease, Failure> {
        let parameters = kube::api::PostParams::default();
        let lease = self.candidate.new_lease();
        let created = self.leases.create(&parameters, &lease);
        self.patience.answer(created).await
    }
}

/// How long an answer is waited for: longer after each that did not come in time, until they are quick
/// again.
#[derive(Default)]
struct Patience {
    /// Answers in a row that were late, up to where it makes no difference.
    late: AtomicU32,
}

impl Patience {
    fn limit(&self) -> Duration {
        let doubled = 1_u32 << self.late.load(Ordering::Relaxed).min(8);
        REQUEST.saturating_mul(doubled).min(SLOW_REQUEST)
    }

    async fn answer<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Failure> {
        let (begun, limit) = (Instant::now(), self.limit());
        let answer = timeout(limit, request).await;
        let late = self.late.load(Ordering::Relaxed);
        let late = match answer {
            Err(_) => late.saturating_add(1),
            Ok(_) if begun.elapsed() < REQUEST / 2 => 0,
            Ok(_) => late,
        };
        self.late.store(late, Ordering::Relaxed);
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            // 409 for one that has changed and for one that is there already; 404 for one that is gone.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                Err(Failure::Conflict)
            }
            Ok(Err(error)) => Err(Failure::Api(error)),
            Err(_) => Err(Failure::Timeout(limit)),
        }
    }
}

/// Every change of the Lease; none when it is gone. Errors are passed over: who waits for a Lease to
/// become free reads it again anyway.
fn changes(leases: Api<Lease>, name: &str) -> impl Stream<Item = Option<Lease>> + use<> {
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(30);
    let pauses = Pauses::new(RETRY, WATCH_AGAIN);
    let events = kube::runtime::utils::StreamBackoff::new(watcher::watcher(leases, config), pauses);
    let mut seen = false;
    events.filter_map(move |event| match event.ok()? {
        Event::Apply(lease) => Some(Some(lease)),
        Event::Delete(_) => Some(None),
        Event::Init => {
            seen = false;
            None
        }
        Event::InitApply(lease) => {
            seen = true;
            Some(Some(lease))
        }
        Event::InitDone => (!seen).then_some(None),
    })
}

#[cfg(test)]
mod tests;
