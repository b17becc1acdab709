use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::join_all;
use http_body_util::BodyExt as _;
use k8s_openapi::api::authentication::v1::UserInfo;
use kube::client::Body;
use tonic::codegen::http;

use super::*;

fn said(account: &str, node: &[&str]) -> TokenReviewStatus {
    let node = node.iter().map(|node| (*node).to_owned()).collect();
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec![TOKEN_AUDIENCE.into()]),
        user: Some(UserInfo {
            username: Some(format!("system:serviceaccount:{account}")),
            extra: Some(BTreeMap::from([(NODE_NAME.to_owned(), node)])),
            ..UserInfo::default()
        }),
        error: None,
    }
}

fn judged(status: &TokenReviewStatus) -> Result<Identity, Refusal> {
    judge(status, "routeshare")
}

#[test]
fn only_the_speaker_of_a_pod_is_a_node_and_only_the_operator_account_an_operator() {
    let node = judged(&said("routeshare:routeshare-speaker", &["n1"]));
    assert_eq!(node, Ok(Identity::Node("n1".into())));
    let operator = judged(&said("routeshare:routeshare-operator", &[]));
    assert!(matches!(operator, Ok(Identity::Operator(_))));
    for (account, node) in [
        ("routeshare:routeshare-speaker", &[][..]),
        ("routeshare:routeshare-speaker", &[""]),
        ("routeshare:routeshare-speaker", &["n1", "n2"]),
        ("routeshare:routeshare-controller", &["n1"]),
        ("default:routeshare-speaker", &["n1"]),
        ("default:routeshare-operator", &[]),
        ("routeshare:routeshare-speaker-2", &["n1"]),
    ] {
        let refused = judged(&said(account, node)).unwrap_err();
        assert!(
            matches!(refused, Refusal::Denied(_)),
            "{account} {node:?}: {refused:?}"
        );
    }
}

#[test]
fn a_token_for_somebody_else_or_of_nobody_is_nobodys() {
    let good = said("routeshare:routeshare-speaker", &["n1"]);
    type Change = fn(&mut TokenReviewStatus);
    let changes: [Change; 5] = [
        |it| it.authenticated = Some(false),
        |it| it.authenticated = None,
        |it| it.audiences = None,
        |it| it.audiences = Some(vec![]),
        |it| it.audiences = Some(vec!["https://kubernetes.default.svc".into()]),
    ];
    for change in changes {
        let mut other = good.clone();
        change(&mut other);
        let refused = judged(&other).unwrap_err();
        assert!(
            matches!(refused, Refusal::Unauthenticated(_)),
            "{refused:?}"
        );
    }
}

#[test]
fn what_was_said_lasts_a_while_and_longer_when_nobody_can_be_asked() {
    let at = Instant::now();
    let node = Identity::Node("n1".into());
    let accepted = Known(Some((at, Ok(node.clone()))));
    let second = Duration::from_secs(1);
    assert_eq!(accepted.fresh(at + FRESH - second), Some(Ok(node.clone())));
    assert_eq!(accepted.fresh(at + FRESH), None);
    assert_eq!(accepted.stale(at + STALE - second), Some(node));
    assert_eq!(accepted.stale(at + STALE), None);
    let refusal = Refusal::Denied("no".into());
    let refused = Known(Some((at, Err(refusal.clone()))));
    assert_eq!(refused.fresh(at + REFUSED - second), Some(Err(refusal)));
    assert_eq!(refused.fresh(at + REFUSED), None);
    assert_eq!(refused.stale(at), None);
    assert_eq!(
        (Known::default().fresh(at), Known::default().stale(at)),
        (None, None)
    );
}

#[test]
fn a_token_says_when_it_ends() {
    let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
    let at = expires(&token(r#"{"exp": 1790000000, "sub": "x"}"#)).unwrap();
    assert_eq!(
        at.duration_since(UNIX_EPOCH).unwrap().as_secs(),
        1_790_000_000
    );
    for wrong in [
        "",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        &token("{}"),
        &token(r#"{"exp": "soon"}"#),
        &token(r#"{"exp": 18446744073709551615}"#),
        &format!("{}{}", token(r#"{"exp": 1790000000}"#), "x".repeat(LONGEST)),
    ] {
        assert_eq!(expires(wrong), None, "{wrong}");
    }
}

/// An API server that says that a token is a speaker's, a moment after it was asked; it can be away.
#[derive(Clone, Default)]
struct Server {
    away: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    at_once: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
}

/// What a token ends with that nobody has signed.
const FORGED: &str = ".Zm9yZ2Vk";

/// How long an answer takes.
const ANSWER: Duration = Duration::from_millis(10);

impl Server {
    fn tokens(&self) -> Arc<Tokens> {
        let server = self.clone();
        let service = tower::service_fn(move |request| server.clone().answer(request));
        let client = Client::new(service, "routeshare");
        Arc::new(Tokens::new(client, "routeshare".to_owned()))
    }

    async fn answer(
        self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, kube::Error> {
        if self.away.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        sleep(ANSWER).await;
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        let sent = request.into_body().collect().await?.to_bytes();
        let mut review: TokenReview = serde_json::from_slice(&sent).unwrap();
        review.status = Some(match review.spec.token.ends_with(FORGED) {
            true => TokenReviewStatus::default(),
            false => said("routeshare:routeshare-speaker", &["n1"]),
        });
        let answer = serde_json::to_vec(&review).unwrap();
        Ok(http::Response::new(Body::from(answer)))
    }
}

/// A token of which nobody knows anything but that it ends then.
fn token(number: usize, expires: SystemTime) -> String {
    let seconds = expires.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = format!(r#"{{"exp": {seconds}, "sub": "{number}"}}"#);
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

fn in_an_hour() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

#[tokio::test(start_paused = true)]
async fn five_thousand_speakers_at_once_are_some_dozens_of_reviews_at_a_time_and_one_each() {
    const SPEAKERS: usize = 5000;
    let server = Server::default();
    let tokens = server.tokens();
    let begun = Instant::now();
    let expires = in_an_hour();
    // A stream, a tunnel and a stream of keys each, with one token.
    let all = (0..3 * SPEAKERS).map(|number| {
        let (tokens, token) = (Arc::clone(&tokens), token(number % SPEAKERS, expires));
        async move { tokens.identify(&token, None).await }
    });
    for identity in join_all(all).await {
        assert_eq!(identity.unwrap(), Identity::Node("n1".to_owned()));
    }
    assert_eq!(server.asked.load(Ordering::Relaxed), SPEAKERS);
    assert_eq!(server.most_at_once.load(Ordering::Relaxed), AT_ONCE);
    let took = begun.elapsed();
    let rounds = u32::try_from(SPEAKERS.div_ceil(AT_ONCE)).unwrap();
    assert!(took <= ANSWER * (rounds + 2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_forged_tokens_is_a_few_reviews_a_second_and_nobody_else_waits() {
    const FORGERIES: usize = 20_000;
    let server = Server::default();
    let tokens = server.tokens();
    let expires = in_an_hour();
    let [attacker, node] = ["192.0.2.66", "192.0.2.1"].map(|text| text.parse().ok());
    let known = token(1, expires);
    tokens.identify(&known, attacker).await.unwrap();
    let flood = (0..FORGERIES).map(|number| {
        let good = token(number, expires);
        let forged = good.replace(".c2ln", FORGED);
        let tokens = Arc::clone(&tokens);
        tokio::spawn(async move { tokens.identify(&forged, attacker).await })
    });
    let begun = Instant::now();
    let flood: Vec<_> = flood.collect();
    sleep(ANSWER / 2).await;
    // Another node's speaker comes in as always, and so does who is known on the attacker's own host.
    let unknown = token(2, expires);
    let unknown = tokens.identify(&unknown, node);
    timeout(ANSWER * 4, unknown).await.unwrap().unwrap();
    sleep(FRESH).await;
    let again = tokens.identify(&known, attacker);
    timeout(ANSWER * 4, again).await.unwrap().unwrap();

    let outcomes = join_all(flood).await.into_iter().map(Result::unwrap);
    let codes: Vec<tonic::Code> = outcomes.map(|it| it.unwrap_err().code()).collect();
    let count = |code| codes.iter().filter(|it| **it == code).count();
    let (refused, crowded) = (
        count(tonic::Code::Unauthenticated),
        count(tonic::Code::ResourceExhausted),
    );
    assert_eq!(refused + crowded, FORGERIES, "{codes:?}");
    // Everybody had his answer within PATIENCE and a review.
    let seconds = PATIENCE.as_secs() / PENALTY.as_secs() + 1;
    let most = AT_ONCE_OF_ONE * usize::try_from(seconds).unwrap();
    assert!((1..=most).contains(&refused), "{refused} of at most {most}");
    assert_eq!(server.asked.load(Ordering::Relaxed), refused + 3);
    assert!(begun.elapsed() < FRESH * 2);
}

#[tokio::test(start_paused = true)]
async fn who_is_known_stays_so_however_many_tokens_are_made_up() {
    let server = Server::default();
    let tokens = server.tokens();
    let expires = in_an_hour();
    let known = token(0, expires);
    tokens.identify(&known, None).await.unwrap();
    let waiting: Vec<_> = (1..MOST)
        .map(|number| {
            tokens
                .entry(&token(number, expires))
                .unwrap()
                .try_lock_owned()
                .unwrap()
        })
        .collect();
    let refused = tokens.identify(&token(MOST, expires), None).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::ResourceExhausted);
    server.away.store(true, Ordering::Relaxed);
    sleep(FRESH).await;
    tokens.identify(&known, None).await.unwrap();
    drop(waiting);
    server.away.store(false, Ordering::Relaxed);
    sleep(PAUSE).await;
    tokens.identify(&token(MOST, expires), None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_outlives_its_token_by_ten_minutes_or_as_long_as_its_speaker_could_not_come_back()
{
    let server = Server::default();
    let tokens = server.tokens();
    let hour = Duration::from_secs(3600);
    // The token says seconds, and the wall clock goes on by itself.
    let about = |took: Duration, wanted: Duration| took.abs_diff(wanted) <= Duration::from_secs(3);
    let begun = Instant::now();
    let status = Arc::clone(&tokens).outlived(in_an_hour()).await;
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    let took = begun.elapsed();
    assert!(about(took, hour + OUTLIVES), "{took:?}");

    server.away.store(true, Ordering::Relaxed);
    let ended = tokio::spawn(Arc::clone(&tokens).outlived(SystemTime::now()));
    sleep(10 * hour).await;
    assert!(!ended.is_finished());
    server.away.store(false, Ordering::Relaxed);
    let back = Instant::now();
    ended.await.unwrap();
    let took = back.elapsed();
    assert!(took <= FRESH + PATIENCE, "{took:?}");
}
