use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use tonic::codegen::http;

use super::*;

/// An API server with one Lease, which can be away: then nobody gets an answer.
#[derive(Clone, Default)]
struct Server {
    lease: Arc<Mutex<Option<serde_json::Value>>>,
    version: Arc<AtomicU64>,
    away: Arc<AtomicBool>,
}

impl Server {
    fn leases(&self) -> Api<Lease> {
        let server = self.clone();
        let service = tower::service_fn(move |request| server.clone().answer(request));
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
                let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
                sent["metadata"]["resourceVersion"] = version.to_string().into();
                *lease = Some(sent.clone());
                (200, sent)
            }
        };
        let answer = serde_json::to_vec(&answer).unwrap();
        let response = http::Response::builder().status(code);
        Ok(response.body(Body::from(answer)).unwrap())
    }
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
    let late = limit + REQUEST + RETRY;
    assert!(early(gone, limit) && gone <= late, "let go after {gone:?}");

    server.away.store(false, Ordering::Relaxed);
    let back = after(&mut standing, Instant::now(), Standing::Leading).await;
    assert!(back <= REQUEST + RETRY, "leading again after {back:?}");
    resign.cancel();
    end.cancel();
    run.await.unwrap().unwrap();
}
