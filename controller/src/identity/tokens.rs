//! Service-account tokens: the API server says whose they are (TokenReview).
//!
//! A speaker's token is bound to its pod, and so says on which node that runs; it is made for us alone
//! (the audience), so that nobody who is shown it can use it at the API server. After a fail-over every
//! speaker comes with its token at once: reviews run side by side up to [`AT_ONCE`], and what was said of
//! a token is known for a while.
//!
//! | a token was | and is shown again | |
//! |---|---|---|
//! | accepted | within [`FRESH`] | accepted: that long a deleted pod's token is of use |
//! | accepted | later, and the API server does not answer | accepted until [`STALE`] |
//! | refused | within [`REFUSED`] | refused |
//! | neither | and the API server does not answer | `Unavailable` |
//! | neither | while too many such come from its address | `ResourceExhausted` |

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crd::names::{OPERATOR_ACCOUNT, SPEAKER_ACCOUNT, TOKEN_AUDIENCE};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tracing::warn;

use super::Identity;
use crate::gates::Gates;

/// So many reviews are under way at once.
const AT_ONCE: usize = 64;
/// So many of them for tokens that one address shows.
const AT_ONCE_OF_ONE: usize = 16;
/// So many more of one address wait for that. More than a cluster behind one address has speakers.
const WAITING_OF_ONE: usize = 1 << 13;
/// How long a refused token keeps its place among those.
const PENALTY: Duration = Duration::from_secs(4);
/// How long a review may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an accepted token is not asked for again.
const FRESH: Duration = Duration::from_secs(60);
/// How long an accepted token is good while the API server does not answer.
const STALE: Duration = Duration::from_secs(15 * 60);
/// How long a refused token is not asked for again.
const REFUSED: Duration = Duration::from_secs(10);
/// After a review without an answer no other one is begun for so long.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a stream may outlive the token it was opened with: its speaker has had another one for long.
const OUTLIVES: Duration = Duration::from_secs(10 * 60);
/// Tokens known at once.
const MOST: usize = 1 << 16;
/// While there are so many, those that are of no use any more are left out no more often than this.
const SWEEP: Duration = Duration::from_secs(1);
/// The longest token looked at.
const LONGEST: usize = 16 << 10;

const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Reviews tokens, and remembers what came of it.
pub(crate) struct Tokens {
    reviews: Api<TokenReview>,
    namespace: String,
    known: Mutex<All>,
    at_once: Semaphore,
    /// For tokens that are not known.
    gates: Gates,
    failed: Mutex<Option<(Instant, String)>>,
}

/// SHA-256 of a token: the token itself is not kept.
type Hash = [u8; 32];

/// What is known of all tokens.
#[derive(Default)]
struct All {
    tokens: HashMap<Hash, Arc<tokio::sync::Mutex<Known>>>,
    /// When those that are of no use any more were left out.
    swept: Option<Instant>,
}

/// What was said of a token, and when; nothing yet at first.
#[derive(Debug, Default)]
struct Known(Option<(Instant, Result<Identity, Refusal>)>);

/// Why a token is of no use here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refusal {
    /// It is nobody's.
    Unauthenticated(String),
    /// It is somebody's who has no business here.
    Denied(String),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        match refusal {
            Refusal::Unauthenticated(text) => Status::unauthenticated(text),
            Refusal::Denied(text) => Status::permission_denied(text),
        }
    }
}

impl Tokens {
    /// For service accounts of this namespace.
    pub(crate) fn new(client: Client, namespace: String) -> Tokens {
        Tokens {
            reviews: Api::all(client),
            namespace,
            known: Mutex::default(),
            at_once: Semaphore::new(AT_ONCE),
            gates: Gates::new(AT_ONCE_OF_ONE, WAITING_OF_ONE),
            failed: Mutex::default(),
        }
    }

    /// Whose token this is, which was shown from this address.
    ///
    /// # Errors
    ///
    /// `Unauthenticated` or `PermissionDenied` when it is of no use, `Unavailable` when that cannot be
    /// found out, `ResourceExhausted` when too many come from there.
    pub(super) async fn identify(
        &self,
        token: &str,
        from: Option<IpAddr>,
    ) -> Result<Identity, Status> {
        // What is none need not be asked for. When it ends says the API server: our clock may be wrong.
        let expires = expires(token)
            .ok_or_else(|| Status::unauthenticated("the token is not that of a service account"))?;
        let known = self.entry(token)?;
        // Who shows the same token waits for the one review.
        let mut known = known.lock().await;
        let now = Instant::now();
        if let Some(outcome) = known.fresh(now) {
            return outcome.map_err(Status::from);
        }
        let place = match from.filter(|_| known.stale(now).is_none()) {
            Some(address) => Some(self.gates.enter(address, PATIENCE).await.map_err(
                |crowded| {
                    Status::resource_exhausted(format!(
                        "it cannot be asked whose token this is: {crowded}; ask again"
                    ))
                },
            )?),
            None => None,
        };
        match self.review(token).await {
            Ok(status) => {
                let outcome = judge(&status, &self.namespace);
                let outcome = outcome.map_err(|refusal| match refusal {
                    Refusal::Unauthenticated(_) if expires <= SystemTime::now() => expired(),
                    other => other,
                });
                if let (Some(place), Err(_)) = (place, &outcome) {
                    place.keep(PENALTY);
                }
                known.0 = Some((Instant::now(), outcome.clone()));
                outcome.map_err(Status::from)
            }
            Err(error) => known.stale(now).ok_or_else(|| {
                Status::unavailable(format!(
                    "the API server cannot be asked whose token this is: {error}"
                ))
            }),
        }
    }

    /// Returns when a stream that was opened with this token has outlived it: it is ended then, unless its
    /// speaker could not come back because the API server does not answer.
    pub(super) async fn outlived(self: Arc<Self>, expires: SystemTime) -> Status {
        let left = expires.duration_since(SystemTime::now());
        sleep(left.unwrap_or_default() + OUTLIVES).await;
        while self.review("none").await.is_err() {
            sleep(FRESH).await;
        }
        Status::unauthenticated(
            "the token of this stream has expired; open it again with a new one",
        )
    }

    async fn review(&self, token: &str) -> Result<TokenReviewStatus, String> {
        let permit = self.at_once.acquire().await;
        let _permit = permit.map_err(|closed| closed.to_string())?;
        let paused = self.failed().clone();
        if let Some((at, error)) = paused.filter(|(at, _)| at.elapsed() < PAUSE) {
            return Err(format!("{error} ({} ms ago)", at.elapsed().as_millis()));
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
                token: token.to_owned(),
            },
            ..TokenReview::default()
        };
        let params = PostParams::default();
        let asked = timeout(PATIENCE, self.reviews.create(&params, &review));
        let error = match asked.await {
            Ok(Ok(review)) => return Ok(review.status.unwrap_or_default()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        warn!(error, "a token could not be reviewed");
        *self.failed() = Some((Instant::now(), error.clone()));
        Err(error)
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Option<(Instant, String)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, token: &str) -> Result<Arc<tokio::sync::Mutex<Known>>, Status> {
        let hash = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let hash = hash.as_ref().try_into().expect("SHA-256 has 32 octets");
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_full = all.tokens.len() >= MOST;
        let swept = all.swept.is_some_and(|swept| now < swept + SWEEP);
        if all.tokens.len() == all.tokens.capacity() || (is_full && !swept) {
            all.swept = Some(now);
            all.tokens
                .retain(|_, known| known.try_lock().map_or(true, |known| known.is_of_use(now)));
        }
        // Not at the cost of those who are known: nobody else lets them in while the API server is away.
        if all.tokens.len() >= MOST && !all.tokens.contains_key(&hash) {
            return Err(Status::resource_exhausted(
                "too many different tokens are shown to this controller; ask again",
            ));
        }
        Ok(Arc::clone(all.tokens.entry(hash).or_default()))
    }
}

impl Known {
    /// What need not be asked again.
    fn fresh(&self, now: Instant) -> Option<Result<Identity, Refusal>> {
        let (at, outcome) = self.0.as_ref()?;
        let lasts = if outcome.is_ok() { FRESH } else { REFUSED };
        (now < *at + lasts).then(|| outcome.clone())
    }

    /// What is good while nobody can be asked.
    fn stale(&self, now: Instant) -> Option<Identity> {
        let (at, outcome) = self.0.as_ref()?;
        let outcome = outcome.as_ref().ok()?;
        (now < *at + STALE).then(|| outcome.clone())
    }

    fn is_of_use(&self, now: Instant) -> bool {
        self.fresh(now).is_some() || self.stale(now).is_some()
    }
}

/// When a token says that it ends; `None` when it is no token of a service account.
pub(super) fn expires(token: &str) -> Option<SystemTime> {
    #[derive(serde::Deserialize)]
    struct Claims {
        exp: u64,
    }
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    if token.len() > LONGEST {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))
}

fn expired() -> Refusal {
    Refusal::Unauthenticated(
        "the token has expired; kubelet keeps the file of a projected volume fresh, other tokens are made \
         anew by `kubectl create token`"
            .to_owned(),
    )
}

/// What the API server's answer means here.
fn judge(status: &TokenReviewStatus, namespace: &str) -> Result<Identity, Refusal> {
    let is_for_us = |audiences: &Vec<String>| audiences.iter().any(|it| it == TOKEN_AUDIENCE);
    if status.authenticated != Some(true) || !status.audiences.as_ref().is_some_and(is_for_us) {
        // The API server's reason may name what it trusts; the log of our client is not the place.
        return Err(Refusal::Unauthenticated(format!(
            "the API server does not take this token for one with audience {TOKEN_AUDIENCE}: it is another's, \
             or its pod or service account is gone"
        )));
    }
    let user = status.user.as_ref();
    let name = user
        .and_then(|user| user.username.as_deref())
        .unwrap_or_default();
    let account = |account| format!("system:serviceaccount:{namespace}:{account}");
    if name == account(OPERATOR_ACCOUNT) {
        return Ok(Identity::Operator(OPERATOR_ACCOUNT.to_owned()));
    }
    if name != account(SPEAKER_ACCOUNT) {
        return Err(Refusal::Denied(format!(
            "the token is that of {name}; speakers are {}, operators {}",
            account(SPEAKER_ACCOUNT),
            account(OPERATOR_ACCOUNT)
        )));
    }
    let extra = user.and_then(|user| user.extra.as_ref());
    let nodes = extra.and_then(|extra| extra.get(NODE_NAME));
    match nodes.map(Vec::as_slice) {
        Some([node]) if !node.is_empty() => Ok(Identity::Node(node.clone())),
        _ => Err(Refusal::Denied(format!(
            "the token of {name} is not bound to a pod on a node, so it says not whose speaker this is; use \
             that of the pod's projected volume (Kubernetes 1.32 or newer)"
        ))),
    }
}

#[cfg(test)]
mod tests;
