//! The service on the Unix socket: one subscriber at a time says which sessions it wants and hears
//! of them. When it goes, the sessions stay for the grace time; so they do when this process takes the
//! place of another one.
//!
//! A [`Keeper`] task knows what is wanted and by whom; streams and the hot thread only send it
//! [`Note`]s, so that what happened is told in the order in which it happened.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bfd::{Change, SessionConfig, SessionKey};
use proto::bfd::v1 as pb;
use proto::bfd::v1::bfd_service_server::{BfdService, BfdServiceServer};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::desired::{self, Unusable};
use crate::hot::{Handle, Order, Shown, Told};
use crate::last_life::Place;

/// How often the subscriber hears of what changes without a change of state: intervals agreed on, and
/// what a person can do something about.
const LOOK: Duration = Duration::from_secs(1);

/// How often it hears of counters alone.
const COUNTERS: Duration = Duration::from_secs(10);

/// Events a subscriber may be behind before its stream ends; it subscribes again then, and is told
/// everything.
const BEHIND: usize = 4096;

type Events = mpsc::Sender<Result<pb::Event, Status>>;

/// What the keeper is told by streams.
enum Note {
    /// A subscriber is there, with a number of its own.
    Subscribed(u64, Events),
    /// What it wants.
    Desired(u64, pb::DesiredSessions),
    /// It has gone.
    Gone(u64),
    /// A person asks.
    List(oneshot::Sender<pb::ListSessionsResponse>),
}

/// The service, and the task behind it, which ends only when the hot thread has. `before` is what was
/// wanted of the process before this one: it is put in force at once.
pub(crate) fn start(
    hot: Handle,
    told: mpsc::UnboundedReceiver<Told>,
    grace: Duration,
    place: Place,
    before: Option<pb::DesiredSessions>,
) -> (BfdServiceServer<Service>, tokio::task::JoinHandle<()>) {
    let (notes, inbox) = mpsc::channel(64);
    let mut keeper = Keeper {
        hot,
        grace,
        place,
        subscriber: None,
        in_force: None,
        unusable: Vec::new(),
        unheard: HashSet::new(),
        wanted: 0,
        leave_at: None,
        started_ms: wall_ms(std::time::Instant::now()),
    };
    if let Some(before) = before {
        keeper.go_on(before);
    }
    let keeper = tokio::spawn(keeper.run(inbox, told));
    let service = BfdServiceServer::new(Service {
        notes,
        next: std::sync::atomic::AtomicU64::new(1),
    });
    (service, keeper)
}

/// The gRPC side.
pub(crate) struct Service {
    notes: mpsc::Sender<Note>,
    next: std::sync::atomic::AtomicU64,
}

#[tonic::async_trait]
impl BfdService for Service {
    type SubscribeStream = ReceiverStream<Result<pb::Event, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::DesiredSessions>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (events, stream) = mpsc::channel(BEHIND);
        self.note(Note::Subscribed(id, events)).await?;
        let notes = self.notes.clone();
        let mut desired = request.into_inner();
        tokio::spawn(async move {
            while let Some(Ok(desired)) = desired.next().await {
                if notes.send(Note::Desired(id, desired)).await.is_err() {
                    return;
                }
            }
            // Without a keeper nobody needs to know.
            let _ = notes.send(Note::Gone(id)).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_sessions(
        &self,
        _: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let (answer, response) = oneshot::channel();
        self.note(Note::List(answer)).await?;
        let response = response.await.map_err(|_| stopping())?;
        Ok(Response::new(response))
    }
}

impl Service {
    async fn note(&self, note: Note) -> Result<(), Status> {
        self.notes.send(note).await.map_err(|_| stopping())
    }
}

fn stopping() -> Status {
    Status::unavailable("routeshare-bfd is stopping")
}

struct Subscriber {
    id: u64,
    events: Events,
    /// What it was told of all sessions last, without counters; `None`: nothing yet, so that
    /// changes would mean nothing to it.
    knows: Option<Vec<pb::Session>>,
    /// When that was.
    told_at: Instant,
}

struct Keeper {
    hot: Handle,
    grace: Duration,
    /// Where the next process reads what is wanted.
    place: Place,
    subscriber: Option<Subscriber>,
    /// What is wanted, as it was said and written down.
    in_force: Option<pb::DesiredSessions>,
    /// Sessions that failed while nobody listened, and have not come up again.
    unheard: HashSet<SessionKey>,
    /// Of those wanted: what cannot be put in force.
    unusable: Vec<Unusable>,
    wanted: usize,
    /// When the sessions end because nobody has come back for them.
    leave_at: Option<Instant>,
    /// When this process started, in milliseconds since the Unix epoch.
    started_ms: i64,
}

impl Keeper {
    async fn run(
        mut self,
        mut notes: mpsc::Receiver<Note>,
        mut told: mpsc::UnboundedReceiver<Told>,
    ) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let leave_at = self.leave_at;
            tokio::select! {
                _ = look.tick(), if self.subscriber.is_some() => self.hot.order(Order::Tell),
                told = told.recv() => match told {
                    Some(told) => self.on_told(told),
                    None => return,
                },
                Some(note) = notes.recv() => self.on_note(note),
                () = sleep_until(leave_at.unwrap_or_else(Instant::now)), if leave_at.is_some() => {
                    tracing::warn!(sessions = self.wanted, "nobody came back for the sessions in the grace time: they end");
                    self.leave_at = None;
                    self.want(pb::DesiredSessions::default(), Vec::new(), Vec::new());
                }
            }
        }
    }

    fn on_note(&mut self, note: Note) {
        match note {
            Note::Subscribed(id, events) => {
                let new = Subscriber {
                    id,
                    events,
                    knows: None,
                    told_at: Instant::now(),
                };
                if let Some(old) = self.subscriber.replace(new) {
                    tracing::warn!("another subscriber takes the place of the one before");
                    // It may have gone in this moment.
                    let _ = old.events.try_send(Err(Status::aborted(
                        "another subscriber has taken the place of this one",
                    )));
                }
                self.leave_at = None;
            }
            Note::Desired(id, desired) => self.on_desired(id, desired),
            Note::Gone(id) => {
                if self.subscriber.as_ref().is_some_and(|it| it.id == id) {
                    self.subscriber = None;
                    self.leave_at = Some(Instant::now() + self.grace);
                    tracing::info!(
                        sessions = self.wanted,
                        grace_seconds = self.grace.as_secs(),
                        "the subscriber has gone; the sessions stay for the grace time"
                    );
                }
            }
            Note::List(answer) => {
                let (ask, sessions) = oneshot::channel();
                self.hot.order(Order::List(ask));
                let unusable: Vec<pb::Session> = self.unusable.iter().map(unusable).collect();
                let subscribed = self.subscriber.is_some();
                let priority = self.hot.priority.clone();
                let started_ms = self.started_ms;
                tokio::spawn(async move {
                    let sessions = sessions.await.unwrap_or_default();
                    let shown = sessions.iter().map(session);
                    let _ = answer.send(pb::ListSessionsResponse {
                        sessions: shown.chain(unusable).collect(),
                        subscribed,
                        priority,
                        started_ms,
                    });
                });
            }
        }
    }

    fn on_desired(&mut self, id: u64, wanted: pb::DesiredSessions) {
        let Some(subscriber) = self.subscriber.as_ref().filter(|it| it.id == id) else {
            return; // its successor counts
        };
        match desired::parse(wanted.clone()) {
            Ok((configs, unusable)) => {
                for it in &unusable {
                    tracing::error!(remote = %it.remote, problem = %it.problem, "no session");
                }
                tracing::info!(sessions = configs.len(), "sessions wanted");
                self.want(wanted, configs, unusable);
            }
            Err(error) => {
                tracing::error!(%error, "what is wanted is refused; what was wanted before stays");
                let _ = subscriber
                    .events
                    .try_send(Err(Status::invalid_argument(error.to_string())));
            }
        }
    }

    /// Goes on with what was wanted of the process before this one, as if its subscriber had gone in
    /// this moment.
    fn go_on(&mut self, before: pb::DesiredSessions) {
        match desired::parse(before.clone()) {
            Ok((configs, unusable)) => {
                self.want(before, configs, unusable);
                self.leave_at = Some(Instant::now() + self.grace);
            }
            // Written by another build.
            Err(error) => tracing::warn!(%error, "what the last process left is not understood"),
        }
    }

    fn want(
        &mut self,
        said: pb::DesiredSessions,
        configs: Vec<SessionConfig>,
        unusable: Vec<Unusable>,
    ) {
        self.wanted = configs.len();
        self.unusable = unusable;
        self.unheard
            .retain(|key| configs.iter().any(|it| it.key_of == *key));
        self.hot.order(Order::Configure(configs));
        if self.in_force.as_ref() != Some(&said) {
            if let Err(error) = self.place.write_wanted(&said) {
                tracing::warn!(%error, "cannot write down what is wanted: after a restart the sessions begin anew");
            }
            self.in_force = Some(said);
        }
    }

    fn on_told(&mut self, told: Told) {
        match told {
            Told::Sessions {
                sessions,
                configured,
            } => {
                let Some(subscriber) = &mut self.subscriber else {
                    return;
                };
                let shown = sessions.iter().map(|it| pb::Session {
                    failed: self.unheard.contains(&it.status.key),
                    ..session(it)
                });
                let sessions = shown.chain(self.unusable.iter().map(unusable));
                let sessions: Vec<pb::Session> = sessions.collect();
                let plain: Vec<pb::Session> = sessions.iter().map(without_counters).collect();
                // Whoever has not been told what is in force waits for that.
                let old = subscriber.told_at.elapsed() >= COUNTERS;
                let news = subscriber
                    .knows
                    .as_ref()
                    .is_some_and(|it| old || *it != plain);
                if configured || news {
                    subscriber.knows = Some(plain);
                    subscriber.told_at = Instant::now();
                    self.unheard.clear();
                    self.tell(pb::Event {
                        whole: true,
                        sessions,
                    });
                }
            }
            Told::Changed(change, shown) => {
                log(&change);
                let changed = pb::Session {
                    failed: change.is_failure(),
                    // As it was then: `shown` may already be further.
                    state: change.to.to_string(),
                    remote_control_plane_independent: change.remote_independent,
                    ..session(&shown)
                };
                let mut subscriber = self.subscriber.as_ref();
                if subscriber.is_some_and(|it| it.knows.is_some()) {
                    self.tell(pb::Event {
                        whole: false,
                        sessions: vec![changed],
                    });
                    subscriber = self.subscriber.as_ref();
                }
                if change.to == bfd::State::Up {
                    self.unheard.remove(&change.key);
                } else if change.is_failure() && subscriber.is_none_or(|it| it.knows.is_none()) {
                    self.unheard.insert(change.key);
                }
            }
        }
    }

    fn tell(&mut self, event: pb::Event) {
        let Some(subscriber) = &self.subscriber else {
            return;
        };
        if subscriber.events.try_send(Ok(event)).is_err() {
            // Its stream ends here; it comes back and is told everything.
            tracing::warn!("the subscriber does not keep up");
            self.subscriber = None;
            self.leave_at = Some(Instant::now() + self.grace);
        }
    }
}

fn without_counters(it: &pb::Session) -> pb::Session {
    pb::Session {
        sent: 0,
        received: 0,
        discarded: 0,
        late_received: 0,
        late_sent: 0,
        longest_silence_micros: 0,
        echo: it.echo.clone().map(|it| pb::Echo {
            sent: 0,
            returned: 0,
            ..it
        }),
        since_ms: 0, // made of two clocks, so it may differ by one
        ..it.clone()
    }
}

fn log(change: &Change) {
    let (from, to) = (change.from, change.to);
    let remote = change.key.remote;
    if change.is_failure() {
        tracing::warn!(%remote, %from, %to, reason = %change.diagnostic, "session failed");
    } else {
        tracing::info!(%remote, %from, %to, "session");
    }
}

fn session(shown: &Shown) -> pb::Session {
    let it = &shown.status;
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let problem = match (&shown.error, &it.last_discard) {
        (Some(error), _) => error.clone(),
        (None, Some(discard)) if it.state != bfd::State::Up => {
            format!("the last packet refused: {discard}")
        }
        _ => String::new(),
    };
    pb::Session {
        state: it.state.to_string(),
        diagnostic: it.diagnostic.to_string(),
        remote_state: it.remote_state.to_string(),
        remote_diagnostic: it.remote_diagnostic.to_string(),
        since_ms: wall_ms(it.since),
        discriminator: it.discriminator,
        remote_discriminator: it.remote_discriminator,
        tx_interval_micros: it.tx_interval.map_or(0, micros),
        detection_micros: micros(it.detection_time),
        remote_control_plane_independent: it.remote_control_plane_independent,
        sent: it.counts.sent,
        received: it.counts.received,
        discarded: it.counts.discarded,
        ups: it.counts.ups,
        downs: it.counts.downs,
        late_received: it.counts.late_received,
        late_sent: it.counts.late_sent,
        longest_silence_micros: it.counts.longest_silence,
        problem,
        echo: it.echo.map(|it| echo(&it, shown)),
        failed: false,
        ..of(&it.key)
    }
}

fn echo(it: &bfd::EchoStatus, shown: &Shown) -> pb::Echo {
    let problem = if shown.status.state != bfd::State::Up || it.relied_on {
        ""
    } else if let Some(error) = &shown.echo_error {
        error
    } else if !it.looped {
        "the other side does not loop Echo packets"
    } else if it.sent > 10 && it.returned == 0 {
        "none comes back: does the other side forward (net.ipv4.ip_forward, net.ipv6.conf.all.forwarding)?"
    } else {
        ""
    };
    let interval = it.interval.map_or(0, |it| it.as_micros());
    pb::Echo {
        interval_micros: u64::try_from(interval).unwrap_or(u64::MAX),
        sent: it.sent,
        returned: it.returned,
        relied_on: it.relied_on,
        problem: problem.to_owned(),
    }
}

fn unusable(it: &Unusable) -> pb::Session {
    pb::Session {
        remote: it.remote.clone(),
        local: it.local.clone(),
        multihop: it.multihop,
        state: bfd::State::Down.to_string(),
        problem: it.problem.clone(),
        ..pb::Session::default()
    }
}

fn of(key: &SessionKey) -> pb::Session {
    pb::Session {
        remote: key.remote.to_string(),
        local: key.local.map_or(String::new(), |local| local.to_string()),
        multihop: key.hops == bfd::Hops::Multi,
        ..pb::Session::default()
    }
}

/// Milliseconds since the Unix epoch.
fn wall_ms(at: std::time::Instant) -> i64 {
    let wall = SystemTime::now().checked_sub(at.elapsed());
    let since = wall.and_then(|wall| wall.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
