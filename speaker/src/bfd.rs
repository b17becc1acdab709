//! The way to `routeshare-bfd`: says which BFD sessions are wanted, hears how they are.
//!
//! A task keeps a stream open while any session is wanted. It says the whole set whenever that
//! changes and after every reconnect; the other side finds the difference. Without it BGP goes on by
//! its hold timers, and that is reported.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use bgp::config::KeySource;
use hyper_util::rt::TokioIo;
use proto::bfd::v1 as pb;
use proto::bfd::v1::bfd_service_client::BfdServiceClient;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;
use tonic::transport::{Endpoint, Uri};

/// Between attempts to reach `routeshare-bfd`: the first after it went away, and the longest. It is
/// back in a moment when it only restarts.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long it may take to hear that nothing is wanted any more.
const GOODBYE: Duration = Duration::from_secs(1);
/// Events on their way to the loop.
const AHEAD: usize = 1024;
/// Of a message: thousands of sessions.
const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;

/// What the loop is told.
#[derive(Debug)]
pub(crate) enum BfdEvent {
    /// All sessions, or those that changed.
    Sessions(pb::Event),
    /// Nobody answers, with the reason in words.
    Away(String),
}

/// A path that carries packets no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The other side.
    pub(crate) peer: IpAddr,
    /// In words.
    pub(crate) reason: String,
    /// Whether its BFD does not share the fate of its BGP: then its forwarding is down, too.
    /// RFC 5882 §4.3.
    pub(crate) forwarding: bool,
    /// How long ago it was noticed.
    pub(crate) ago: Duration,
}

/// What the loop knows of BFD.
#[derive(Debug)]
pub(crate) struct Bfd {
    wanted: watch::Sender<pb::DesiredSessions>,
    /// By the other side's address, as told last.
    sessions: BTreeMap<IpAddr, pb::Session>,
    /// Whether somebody tells us how they are, and why not.
    connected: bool,
    away: Option<String>,
}

impl Bfd {
    /// Nothing is wanted yet; nobody is asked before something is.
    pub(crate) fn start(socket: PathBuf) -> (Bfd, mpsc::Receiver<BfdEvent>) {
        let (wanted, changes) = watch::channel(pb::DesiredSessions::default());
        let (events, inbox) = mpsc::channel(AHEAD);
        // Ends with the loop.
        tokio::spawn(run(socket, changes, events));
        let bfd = Bfd {
            wanted,
            sessions: BTreeMap::new(),
            connected: false,
            away: None,
        };
        (bfd, inbox)
    }

    /// The sessions wanted, all of them. `place`: where on this node a key is.
    pub(crate) fn configure(
        &mut self,
        sessions: &[plan::BfdSession],
        place: impl Fn(&KeySource) -> String,
    ) {
        let sessions = sessions.iter().map(|session| {
            let mut told = plan::wire::bfd_session(session);
            if let (Some(told), Some(known)) = (&mut told.authentication, &session.authentication) {
                told.key_file = place(&known.key);
            }
            told
        });
        let sessions = sessions.collect();
        let wanted = pb::DesiredSessions { sessions };
        let kept = |address: &IpAddr| {
            let address = address.to_string();
            wanted.sessions.iter().any(|it| it.remote == address)
        };
        self.sessions.retain(|address, _| kept(address));
        self.wanted.send_if_modified(|last| {
            let changed = *last != wanted;
            *last = wanted;
            changed
        });
    }

    /// The same is wanted, and keys may be others.
    pub(crate) fn again(&self) {
        self.wanted.send_modify(|_| {});
    }

    /// Nothing is wanted any more, and the other sides are to hear that before we go. `events` is what
    /// [`Self::start`] gave.
    pub(crate) async fn leave(&mut self, events: &mut mpsc::Receiver<BfdEvent>) {
        if self.wanted.borrow().sessions.is_empty() || self.away.is_some() {
            return;
        }
        self.configure(&[], KeySource::to_string);
        let gone = async {
            while let Some(BfdEvent::Sessions(event)) = events.recv().await {
                if event.whole && event.sessions.is_empty() {
                    return;
                }
            }
        };
        if tokio::time::timeout(GOODBYE, gone).await.is_err() {
            tracing::warn!("routeshare-bfd has not said that the sessions end");
        }
    }

    /// Takes note of an event; gives the sessions that failed.
    pub(crate) fn on_event(&mut self, event: BfdEvent) -> Vec<Failure> {
        let event = match event {
            BfdEvent::Away(reason) => {
                // How they are now nobody knows; nothing has failed because of that.
                self.sessions.clear();
                self.connected = false;
                self.away = Some(reason);
                return Vec::new();
            }
            BfdEvent::Sessions(event) => event,
        };
        self.connected = true;
        self.away = None;
        if event.whole {
            self.sessions.clear();
        }
        let mut failed = Vec::new();
        for session in event.sessions {
            let Ok(address) = session.remote.parse() else {
                continue; // its addresses are those we gave it
            };
            if session.failed {
                failed.push(Failure {
                    peer: address,
                    reason: format!("BFD: {}", session.diagnostic),
                    forwarding: session.remote_control_plane_independent,
                    ago: since(session.since_ms),
                });
            }
            self.sessions.insert(address, session);
        }
        failed
    }

    /// The session with a peer, if one is wanted; while nothing is known of it its state is empty
    /// and its problem says why.
    pub(crate) fn session(&self, peer: IpAddr) -> Option<pb::Session> {
        if let Some(session) = self.sessions.get(&peer) {
            return Some(session.clone());
        }
        let address = peer.to_string();
        let wanted = self.wanted.borrow();
        let wanted = wanted.sessions.iter().find(|it| it.remote == address)?;
        Some(pb::Session {
            remote: address,
            local: wanted.local.clone(),
            multihop: wanted.multihop,
            problem: self.away.clone().unwrap_or_default(),
            ..pb::Session::default()
        })
    }

    /// Whether somebody tells us how the sessions are.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected && !self.wanted.borrow().sessions.is_empty()
    }

    /// What a person should know: a stable word and a sentence.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let wanted = self.wanted.borrow().sessions.len();
        if let Some(reason) = self.away.as_ref().filter(|_| wanted > 0) {
            return vec![(
                "NoBfd",
                format!("{reason}; the {wanted} peers with BFD go on by their hold timers"),
            )];
        }
        let troubled = self.sessions.iter();
        let troubled = troubled.filter(|(_, it)| !it.problem.is_empty() && it.state != "Up");
        troubled
            .map(|(address, it)| ("BfdSession", format!("BFD with {address}: {}", it.problem)))
            .collect()
    }
}

/// How long ago it was so many milliseconds since the Unix epoch.
fn since(at_ms: i64) -> Duration {
    let at = UNIX_EPOCH + Duration::from_millis(at_ms.max(0).unsigned_abs());
    at.elapsed().unwrap_or_default()
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("routeshare-bfd does not answer on {socket}: {text}")]
    Connect { socket: PathBuf, text: String },
    #[error("routeshare-bfd refuses us: {0}")]
    Refused(String),
    #[error("routeshare-bfd has ended the stream")]
    Ended,
    #[error("the loop has ended")]
    NoLoop,
}

async fn run(
    socket: PathBuf,
    mut wanted: watch::Receiver<pb::DesiredSessions>,
    events: mpsc::Sender<BfdEvent>,
) {
    let mut told = String::new();
    let mut pause = PAUSE;
    loop {
        if wanted.wait_for(|it| !it.sessions.is_empty()).await.is_err() {
            return; // the loop has ended
        }
        let begun = Instant::now();
        let Err(error) = stream(&socket, wanted.clone(), &events).await;
        let text = error.to_string();
        let lasted = begun.elapsed() > LONGEST_PAUSE;
        if text != told || lasted {
            tracing::warn!(%error, "no BFD; peers go on by their hold timers");
            told.clone_from(&text);
        }
        if lasted {
            pause = PAUSE;
        }
        if matches!(error, StreamError::NoLoop) || events.send(BfdEvent::Away(text)).await.is_err()
        {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = LONGEST_PAUSE.min(2 * pause);
    }
}

async fn stream(
    socket: &Path,
    wanted: watch::Receiver<pb::DesiredSessions>,
    events: &mpsc::Sender<BfdEvent>,
) -> Result<std::convert::Infallible, StreamError> {
    let path = socket.to_owned();
    // The URI only fills the request's `host`.
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://routeshare-bfd");
    let connected = endpoint.connect_with_connector(connector).await;
    let channel = connected.map_err(|error| StreamError::Connect {
        socket: socket.to_owned(),
        text: innermost(&error),
    })?;
    let mut client = BfdServiceClient::new(channel)
        .max_decoding_message_size(LARGEST_MESSAGE)
        .max_encoding_message_size(LARGEST_MESSAGE);
    let answer = client.subscribe(WatchStream::new(wanted)).await;
    let refused = |status: tonic::Status| StreamError::Refused(status.message().to_owned());
    let mut stream = answer.map_err(refused)?.into_inner();
    tracing::info!(socket = %socket.display(), "connected to routeshare-bfd");
    while let Some(event) = stream.next().await {
        let event = BfdEvent::Sessions(event.map_err(refused)?);
        events.send(event).await.map_err(|_| StreamError::NoLoop)?;
    }
    Err(StreamError::Ended)
}

/// What went wrong at the bottom of a chain; the layers above only say that something did.
fn innermost(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => innermost(source),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(remote: &str) -> plan::BfdSession {
        plan::BfdSession {
            peer: "tor".into(),
            remote: remote.parse().unwrap(),
            local: None,
            multihop: false,
            min_tx_millis: 300,
            min_rx_millis: 300,
            multiplier: 3,
            admin_down: false,
            authentication: None,
            echo_millis: None,
        }
    }

    fn event(whole: bool, state: &str, failed: bool) -> BfdEvent {
        let session = pb::Session {
            remote: "192.0.2.1".into(),
            state: state.into(),
            diagnostic: "silence".into(),
            failed,
            ..pb::Session::default()
        };
        let sessions = vec![session];
        BfdEvent::Sessions(pb::Event { whole, sessions })
    }

    fn bfd() -> Bfd {
        Bfd {
            wanted: watch::channel(pb::DesiredSessions::default()).0,
            sessions: BTreeMap::new(),
            connected: false,
            away: None,
        }
    }

    #[test]
    fn only_a_change_that_says_so_is_a_failure() {
        let mut bfd = bfd();
        bfd.configure(&[wanted("192.0.2.1")], KeySource::to_string);
        for (whole, state) in [
            (true, "Down"),
            (false, "Up"),
            (false, "Down"),
            (true, "Down"),
        ] {
            assert_eq!(bfd.on_event(event(whole, state, false)), []);
        }
        let failed = bfd.on_event(event(false, "Down", true));
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(failed.len(), 1);
        assert_eq!(
            (failed[0].peer, failed[0].reason.as_str()),
            (address, "BFD: silence")
        );
    }

    #[test]
    fn without_routeshare_bfd_nothing_fails_and_a_problem_is_told_while_it_is_wanted() {
        let mut bfd = bfd();
        let peer = "192.0.2.1".parse().unwrap();
        assert_eq!(bfd.session(peer), None);
        bfd.configure(&[wanted("192.0.2.1")], KeySource::to_string);
        bfd.on_event(event(true, "Up", false));
        assert_eq!(bfd.on_event(BfdEvent::Away("gone".into())), []);
        let session = bfd.session(peer).unwrap();
        assert_eq!(
            (session.state.as_str(), session.problem.as_str()),
            ("", "gone")
        );
        let problems = bfd.problems();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].1.contains("hold timers"), "{problems:?}");
        bfd.configure(&[], KeySource::to_string);
        assert_eq!(bfd.problems(), []);
        assert_eq!(bfd.session(peer), None);
    }
}
