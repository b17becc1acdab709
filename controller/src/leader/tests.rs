use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use tonic::codegen::http;

use super::*;

/// An API server with one Lease. It can be away, so that nobody gets an answer, and slow.
#[derive(Clone, Default)]
struct Server {
    lease: Arc<Mutex<Option<serde_json::Value>>>,
    version: Arc<AtomicU64>,
    away: Arc<AtomicBool>,
    /// Milliseconds until its answer, also where nobody waits for that any more.
    slow: Arc<AtomicU64>,
}

impl Server {
    fn leases(&self) -> Api<Lease> {
        let server = self.clone();
        let service = tower::service_fn(move |request| {
            let server = server.clone();
            let slow = Duration::from_millis(server.slow.load(Ordering::Relaxed));
            let answer = tokio::spawn(server.answer(request));
            async move {
                tokio::time::sleep(slow).await;
                answer.await.unwrap()
            }
        });
        Api::namespaced(Client::new(service, "routeshare"), "routeshare")
    }

    async fn answer(
        self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, kube::Error> {
        if self.away.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let (parts, body) = request.into_parts();
        if parts
            .uri
            .query()
            .is_some_and(|query| query.contains("watch"))
        {
            std::future::pending::<()>().await; // nobody else touches the Lease
        }
        let sent = body.collect().await?.to_bytes();
        let mut lease = self.lease.lock().unwrap();
        let (code, answer) = match (&parts.method, &*lease) {
            (&http::Method::GET, Some(lease)) if parts.uri.path().ends_with("controller") => {
                (200, lease.clone())
            }
            (&http::Method::GET, _) if parts.uri.path().ends_with("leases") => (
                200,
                serde_json::json!({
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "LeaseList",
                    "metadata": {"resourceVersion": "1"},
                    "items": [],
                }),
            ),
            (&http::Method::GET, _) => (
                404,
                serde_json::json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}),
            ),
            _ => {
                let mut sent: serde_json::Value = serde_json::from_slice(&sent).unwrap();
                let there = lease.as_ref().map(|it| &it["metadata"]["resourceVersion"]);
                if parts.method == http::Method::PUT
                    && there != Some(&sent["metadata"]["resourceVersion"])
                {
                    let conflict = serde_json::json!({
                        "kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409,
                    });
                    return Ok(response(409, &conflict));
                }
                let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
                sent["metadata"]["resourceVersion"] = version.to_string().into();
                *lease = Some(sent.clone());
                (200, sent)
            }
        };
        Ok(response(code, &answer))
    }
}

fn response(code: u16, answer: &serde_json::Value) -> http::Response<Body> {
    let answer = serde_json::to_vec(answer).unwrap();
    let response = http::Response::builder().status(code);
    response.body(Body::from(answer)).unwrap()
}

/// When `standing` comes to be so, from `begun` on.
async fn after(
    standing: &mut watch::Receiver<Standing>,
    begun: Instant,
    wanted: Standing,
) -> Duration {
    let hour = Duration::from_secs(3600);
    let reached = timeout(hour, standing.wait_for(|it| *it == wanted)).await;
    let reached = reached.unwrap_or_else(|_| panic!("it never was {wanted:?}"));
    drop(reached.unwrap());
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_decides_nothing_soon_and_lets_its_speakers_go_much_later() {
    let server = Server::default();
    let candidate = Candidate::new("controller-1".to_owned(), "192.0.2.1:7443".to_owned());
    let elector = Elector::new(candidate, server.leases());
    let mut standing = elector.standing();
    let (resign, end) = (CancellationToken::new(), CancellationToken::new());
    let run = tokio::spawn(elector.run(resign.clone(), end.clone()));
    after(&mut standing, Instant::now(), Standing::Leading).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*standing.borrow(), Standing::Leading);

    // The last renewal that was confirmed was up to `RENEW_EVERY` ago.
    server.away.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let early = |at: Duration, limit: Duration| limit.saturating_sub(RENEW_EVERY) <= at;
    let cut = after(&mut standing, begun, Standing::Cut).await;
    assert!(
        early(cut, GIVES_UP) && cut <= GIVES_UP,
        "cut off after {cut:?}"
    );
    let alone = Standing::Standby { leader: None };
    let gone = after(&mut standing, begun, alone).await;
    let limit = GIVES_UP + STREAMS_END;
    // It is looked at with each attempt to renew.
    let late = limit + SLOW_REQUEST + RETRY;
    assert!(early(gone, limit) && gone <= late, "let go after {gone:?}");

    server.away.store(false, Ordering::Relaxed);
    let back = after(&mut standing, Instant::now(), Standing::Leading).await;
    assert!(back <= SLOW_REQUEST + RETRY, "leading again after {back:?}");
    resign.cancel();
    end.cancel();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_takes_seconds_for_every_answer_has_a_leader_all_the_same() {
    let server = Server::default();
    server.slow.store(3_000, Ordering::Relaxed);
    let candidate = Candidate::new("controller-1".to_owned(), "192.0.2.1:7443".to_owned());
    let elector = Elector::new(candidate, server.leases());
    let mut standing = elector.standing();
    let (resign, end) = (CancellationToken::new(), CancellationToken::new());
    let run = tokio::spawn(elector.run(resign.clone(), end.clone()));
    let minute = Duration::from_secs(60);
    let took = after(&mut standing, Instant::now(), Standing::Leading).await;
    assert!(took < minute, "{took:?}");
    // It stays so, also when it is quick for a while and slow again.
    for slow in [3_000, 10, 900, 1_900] {
        server.slow.store(slow, Ordering::Relaxed);
        let changed = timeout(
            10 * minute,
            standing.wait_for(|it| *it != Standing::Leading),
        );
        assert!(changed.await.is_err(), "answers after {slow} ms");
    }
    // Where it becomes slow all at once, it decides nothing for some seconds at most.
    server.slow.store(3_000, Ordering::Relaxed);
    tokio::time::sleep(minute).await;
    assert_eq!(*standing.borrow(), Standing::Leading);
    resign.cancel();
    end.cancel();
    run.await.unwrap().unwrap();
}
