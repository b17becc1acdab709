//! The way to `routeshare-bfd`: says which BFD sessions are wanted, hears how they are.
//!
//! A task keeps a stream open while any session is wanted. It says the whole set whenever that
//! changes and after every reconnect; the other side finds the difference. Without it BGP goes on by
//! its hold timers, and that is reported.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::bfd::v1 as pb;
use proto::bfd::v1::bfd_service_client::BfdServiceClient;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;
use tonic::transport::{Endpoint, Uri};

/// Between attempts to reach `routeshare-bfd`.
const PAUSE: Duration = Duration::from_millis(500);
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

/// What the loop knows of BFD.
#[derive(Debug)]
pub(crate) struct Bfd {
    wanted: watch::Sender<pb::DesiredSessions>,
    /// By the other side's address, as told last.
    sessions: BTreeMap<IpAddr, pb::Session>,
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
            away: None,
        };
        (bfd, inbox)
    }

    /// The sessions wanted, all of them.
    pub(crate) fn configure(&mut self, sessions: &[plan::BfdSession]) {
        let sessions = sessions.iter().map(plan::wire::bfd_session).collect();
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

    /// Takes note of an event; gives the sessions that failed, with the reason in words.
    pub(crate) fn on_event(&mut self, event: BfdEvent) -> Vec<(IpAddr, String)> {
        let event = match event {
            BfdEvent::Away(reason) => {
                // How they are now nobody knows; nothing has failed because of that.
                self.sessions.clear();
                self.away = Some(reason);
                return Vec::new();
            }
            BfdEvent::Sessions(event) => event,
        };
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
                failed.push((address, format!("BFD: {}", session.diagnostic)));
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
    loop {
        if wanted.wait_for(|it| !it.sessions.is_empty()).await.is_err() {
            return; // the loop has ended
        }
        let begun = Instant::now();
        let Err(error) = stream(&socket, wanted.clone(), &events).await;
        let text = error.to_string();
        if text != told || begun.elapsed() > PAUSE {
            tracing::warn!(%error, "no BFD; peers go on by their hold timers");
            told.clone_from(&text);
        }
        if matches!(error, StreamError::NoLoop) || events.send(BfdEvent::Away(text)).await.is_err()
        {
            return;
        }
        tokio::time::sleep(PAUSE).await;
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
            away: None,
        }
    }

    #[test]
    fn only_a_change_that_says_so_is_a_failure() {
        let mut bfd = bfd();
        bfd.configure(&[wanted("192.0.2.1")]);
        for (whole, state) in [
            (true, "Down"),
            (false, "Up"),
            (false, "Down"),
            (true, "Down"),
        ] {
            assert_eq!(bfd.on_event(event(whole, state, false)), []);
        }
        let failed = bfd.on_event(event(false, "Down", true));
        let address = "192.0.2.1".parse().unwrap();
        assert_eq!(failed, [(address, "BFD: silence".to_owned())]);
    }

    #[test]
    fn without_routeshare_bfd_nothing_fails_and_a_problem_is_told_while_it_is_wanted() {
        let mut bfd = bfd();
        let peer = "192.0.2.1".parse().unwrap();
        assert_eq!(bfd.session(peer), None);
        bfd.configure(&[wanted("192.0.2.1")]);
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
        bfd.configure(&[]);
        assert_eq!(bfd.problems(), []);
        assert_eq!(bfd.session(peer), None);
    }
}
