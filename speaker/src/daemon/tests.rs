//! Whole speakers in this process, over the loopback addresses 127.0.0.0/8, with kernel routes off.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bgp::config::{
    Action, Advertisement, GracefulRestart, Match, NextHopMode, Originated, PeerConfig, Policy,
    Rule, Set, Timers,
};
use bgp::types::{Asn, Family, Prefix, RouterId};
use hyper_util::rt::TokioIo;
use plan::wire::routes::{CompactPage, attributes, kernel_word};
use proto::speaker::v1 as pb;
use proto::speaker::v1::speaker_service_client::SpeakerServiceClient;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Uri};

use super::*;
use crate::desired::controller::Address;
use crate::desired::tests::{Fake, config, keep};
use crate::speaker::{Settings, Speaker};

/// How long a condition may take before a test fails.
const DEADLINE: Duration = Duration::from_secs(30);
const PORT: u16 = 17_900;

mod rig;

use rig::*;

#[tokio::test]
async fn two_speakers_find_each_other_from_their_disks_alone() {
    let net = Net::new();
    let (mut a, _b) = pair(&net).await;
    let peer = a.peer("n2").await;
    assert_eq!(
        (peer.remote_asn, peer.remote_router_id.as_str()),
        (64514, "10.0.0.2")
    );
    assert_eq!(peer.local_address, net.address(1).to_string());
    assert_eq!(peer.hold_seconds, 90);
    let status = a
        .admin
        .get_status(pb::GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((status.node.as_str(), status.version), ("n1", 1));
    assert_eq!(
        (status.config_source.as_str(), status.controller_connected),
        ("disk", false)
    );
    assert!(
        status
            .problems
            .iter()
            .any(|problem| problem.reason == "NoController")
    );
    let config = a
        .admin
        .get_config(pb::GetConfigRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(plan::wire::from_proto(config).unwrap(), net.config(1, &[2]));
}

#[tokio::test]
async fn a_speaker_without_peers_and_controller_is_healthy_and_ready_once_it_has_a_configuration() {
    let net = Net::new();
    let a = Node::start(&net, &net.config(1, &[2])).await;
    let config_in_force = async {
        while !a.get("/readyz").await.starts_with("HTTP/1.1 200 ") {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, config_in_force)
        .await
        .expect("ready, though its peer never comes");
    let nothing = tempfile::tempdir().unwrap();
    let b = Node::start_in(nothing, &net, &net.config(2, &[1])).await;
    assert!(b.get("/healthz").await.starts_with("HTTP/1.1 200 "));
    let answer = b.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("no configuration on disk"), "{answer}");
}

#[tokio::test]
async fn routes_go_from_one_speaker_to_the_other_and_go_with_the_session() {
    let net = Net::new();
    let (a, mut b) = pair(&net).await;
    let told = |peer: &pb::Peer| peer.families.iter().any(|family| family.received == 1);
    b.until("n1", "heard", told).await;
    let received = b.routes("Received", "n1").await.remove(0);
    assert_eq!(received.prefix, own_prefix(1).to_string());
    let attributes = received.attributes.unwrap();
    assert_eq!(
        (attributes.as_path.as_str(), attributes.next_hop.as_str()),
        ("64513", "192.0.2.1")
    );
    let request = pb::ExplainRequest {
        prefix: "10.64.1.0/24".into(),
    };
    let explanation = b.admin.explain(request).await.unwrap().into_inner();
    assert_eq!(explanation.candidates.len(), 1, "{explanation:#?}");
    b.same_in_columns("Received", "n1", 1).await;
    b.same_in_columns("Advertised", "n1", 1).await;
    b.same_in_columns("All", "", 2).await;
    a.stop(Departure::ComingBack).await;
    b.wait("n1", "down", |peer| peer.state != ESTABLISHED).await;
    assert!(b.routes("Received", "n1").await.is_empty());
}

#[tokio::test]
async fn coming_back_says_nothing_and_leaving_says_cease() {
    let net = Net::new();
    let (a, mut b) = pair(&net).await;
    let directory = a.stop(Departure::ComingBack).await;
    let peer = b.wait("n1", "down", |peer| peer.state != ESTABLISHED).await;
    assert_eq!(
        peer.received.unwrap().notification,
        0,
        "{}",
        peer.last_error
    );
    // The same speaker again, from the same disk.
    let a = Node::start_in(directory, &net, &net.config(1, &[2])).await;
    b.established("n1").await;
    a.stop(Departure::Leaving).await;
    let peer = b
        .wait("n1", "told", |peer| !peer.last_error.is_empty())
        .await;
    assert_eq!(peer.received.unwrap().notification, 1);
    assert!(peer.last_error.contains("leaving"), "{}", peer.last_error);
}

/// Nodes 1 and 2 with graceful restart.
fn graceful(net: &Net, node: u8, peer: u8) -> NodeConfig {
    let mut config = net.config(node, &[peer]);
    config.bgp.peers[0].graceful_restart = Some(GracefulRestart::default());
    config
}

#[tokio::test]
async fn a_speaker_that_comes_back_is_a_restart_to_its_peers_and_one_that_left_is_not() {
    let net = Net::new();
    let config = graceful(&net, 1, 2);
    let mut a = Node::start(&net, &config).await;
    let mut b = Node::start(&net, &graceful(&net, 2, 1)).await;
    a.established("n2").await;
    let restart = b.established("n1").await.graceful_restart.unwrap();
    assert!(
        restart.notification && !restart.peer_restarted,
        "a first start"
    );
    assert_eq!(
        (restart.restart_seconds, restart.peer_seconds),
        (120, Some(120))
    );
    let told = |peer: &pb::Peer| peer.families.iter().any(|family| family.received == 1);
    b.until("n1", "heard", told).await;

    let directory = a.stop(Departure::ComingBack).await;
    let away = b.wait("n1", "down", |peer| peer.state != ESTABLISHED).await;
    assert_eq!(away.families[0].stale, 1);
    assert!(away.graceful_restart.unwrap().stale_until_ms > 0);
    let kept = b.routes("Received", "n1").await.remove(0);
    assert!(kept.stale && kept.prefix == own_prefix(1).to_string());

    let mut a = Node::start_in(directory, &net, &config).await;
    a.established("n2").await;
    let back = b.established("n1").await;
    assert!(back.graceful_restart.unwrap().peer_restarted, "{back:#?}");
    let repeated = |peer: &pb::Peer| peer.families[0].received == 1 && peer.families[0].stale == 0;
    b.until("n1", "told everything again", repeated).await;
    let status = a.admin.get_status(pb::GetStatusRequest {}).await.unwrap();
    assert!(status.into_inner().restart_waiting_for.is_empty());

    let directory = a.stop(Departure::Leaving).await;
    b.wait("n1", "down", |peer| peer.state != ESTABLISHED).await;
    assert!(b.routes("Received", "n1").await.is_empty());
    let _a = Node::start_in(directory, &net, &config).await;
    let back = b.established("n1").await;
    assert!(!back.graceful_restart.unwrap().peer_restarted, "{back:#?}");
}

#[tokio::test]
async fn a_speaker_that_crashes_is_a_restart_too() {
    let net = Net::new();
    let config = graceful(&net, 1, 2);
    let mut a = Node::start(&net, &config).await;
    let mut b = Node::start(&net, &graceful(&net, 2, 1)).await;
    a.established("n2").await;
    b.established("n1").await;
    let note = a.directory.path().join("alive");
    let noted = async {
        while !std::fs::read_to_string(&note).is_ok_and(|text| text.contains("peer n2")) {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, noted)
        .await
        .expect("it notes that it lives");
    a.loop_task.abort();
    assert!(a.loop_task.await.unwrap_err().is_cancelled());
    b.wait("n1", "down", |peer| peer.state != ESTABLISHED).await;
    // In a directory of its own: the tasks that answer questions live on in this process.
    let directory = tempfile::tempdir().unwrap();
    keep(directory.path(), &config);
    std::fs::copy(note, directory.path().join("alive")).unwrap();
    let _a = Node::start_in(directory, &net, &config).await;
    let back = b.established("n1").await;
    assert!(back.graceful_restart.unwrap().peer_restarted, "{back:#?}");
}

#[tokio::test]
async fn an_operator_shuts_a_session_down_and_enables_it_again() {
    let net = Net::new();
    let (mut a, mut b) = pair(&net).await;
    let request = pb::ShutdownPeerRequest {
        peer: "n2".into(),
        message: "new cables".into(),
    };
    a.admin.shutdown_peer(request).await.unwrap();
    let peer = b
        .wait("n1", "down", |peer| !peer.last_error.is_empty())
        .await;
    assert!(
        peer.last_error.contains("new cables"),
        "{}",
        peer.last_error
    );
    a.admin
        .enable_peer(pb::EnablePeerRequest { peer: "n2".into() })
        .await
        .unwrap();
    a.wait("n2", "back", |peer| peer.established_count == 2)
        .await;
    let request = pb::ResetPeerRequest {
        peer: "n9".into(),
        ..pb::ResetPeerRequest::default()
    };
    let error = a.admin.reset_peer(request).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    assert!(
        error.message().contains("n2"),
        "it names the peers there are: {error}"
    );
}

#[tokio::test]
async fn garbage_from_a_peers_address_is_answered_counted_and_harms_no_other_session() {
    let net = Net::new();
    let mut a = Node::start(&net, &net.config(1, &[2, 3])).await;
    let mut b = Node::start(&net, &net.config(2, &[1])).await;
    a.established("n2").await;
    b.established("n1").await;
    let garbage = [
        &b"GET / HTTP/1.1\r\nHost: bgp\r\n\r\n"[..],
        &[0xff; 19],
        &[0x00; 4096],
    ];
    let mut answers = Vec::new();
    for garbage in garbage {
        let mut stream = net.dial(3, 1).await;
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(DEADLINE, stream.read_to_end(&mut answer));
        // Later ones meet a session that waits (IdleHoldTimer) and are closed unheard, or reset.
        let _ = read.await.expect("the connection is closed in time");
        answers.push(answer);
    }
    // OPEN comes first; the last message is a NOTIFICATION: Message Header Error.
    let last = answers[0]
        .windows(16)
        .rposition(|marker| marker == [0xff; 16])
        .unwrap();
    assert_eq!(answers[0][last + 18..last + 20], [3, 1], "{answers:02x?}");
    let peer = a
        .wait("n3", "told", |peer| !peer.last_error.is_empty())
        .await;
    assert!(peer.sent.unwrap().notification >= 1);
    assert_eq!(a.peer("n2").await.established_count, 1);
    assert_eq!(a.peer("n2").await.state, ESTABLISHED);
}

#[tokio::test]
async fn five_hundred_strangers_are_counted_and_harm_no_session() {
    let net = Net::new();
    let (mut a, _b) = pair(&net).await;
    for _ in 0..500 {
        let mut stream = net.dial(77, 1).await;
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    }
    let text = a.metrics().await;
    let line = "routeshare_speaker_connections_refused_total{reason=\"unknown-address\"} 500";
    assert!(text.contains(line), "{text}");
    assert!(
        text.contains("routeshare_speaker_session_established{peer=\"n2\"} 1"),
        "{text}"
    );
    assert_eq!(a.peer("n2").await.established_count, 1);
}

#[tokio::test]
async fn a_session_is_opened_although_another_program_has_our_port() {
    let net = Net::new();
    let taken = std::net::TcpListener::bind((net.address(1), PORT)).unwrap();
    let mut a = Node::start(&net, &net.config(1, &[2])).await;
    let _b = Node::start(&net, &net.config(2, &[1])).await;
    a.established("n2").await;
    let status = a
        .admin
        .get_status(pb::GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    let problem = status
        .problems
        .iter()
        .find(|problem| problem.reason == "CannotListen");
    assert!(problem.unwrap().message.contains("listenPort"));
    drop(taken);
}

#[tokio::test]
async fn a_changed_configuration_is_put_in_force_and_reported() {
    let net = Net::new();
    let mut b = Node::start(&net, &net.config(2, &[1])).await;
    let directory = tempfile::tempdir().unwrap();
    let mut fake = Fake::start_for("n1", &directory.path().join("controller"));
    let first = NodeConfig {
        version: 5,
        ..net.config(1, &[2])
    };
    fake.say(&first);
    let mut a = Node::start_in(directory, &net, &first).await;
    a.established("n2").await;
    let told = async {
        loop {
            let report = fake.reports.recv().await.unwrap();
            let up = report
                .sessions
                .iter()
                .any(|session| session.state == ESTABLISHED);
            if report.version == 5 && up {
                return report;
            }
        }
    };
    assert_eq!(timeout(DEADLINE, told).await.unwrap().node, "n1");
    // Without the peer, the session ends and its peer hears why.
    fake.say(&NodeConfig {
        version: 6,
        ..net.config(1, &[])
    });
    let peer = b.wait("n1", "down", |peer| peer.state != ESTABLISHED).await;
    assert_eq!(
        peer.received.unwrap().notification,
        1,
        "{}",
        peer.last_error
    );
    let status = a
        .admin
        .get_status(pb::GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.version, status.config_source.as_str()),
        (6, "controller")
    );
}

#[tokio::test]
async fn a_configuration_that_contradicts_itself_changes_nothing() {
    let net = Net::new();
    let directory = tempfile::tempdir().unwrap();
    let mut fake = Fake::start_for("n1", &directory.path().join("controller"));
    let good = net.config(1, &[2]);
    fake.say(&good);
    let mut a = Node::start_in(directory, &net, &good).await;
    let mut b = Node::start(&net, &net.config(2, &[1])).await;
    b.established("n1").await;
    let mut bad = NodeConfig { version: 2, ..good };
    bad.bgp.policies.clear();
    fake.say(&bad);
    let refused = async {
        loop {
            let report = fake.reports.recv().await.unwrap();
            if !report.refused.is_empty() {
                return report;
            }
        }
    };
    let report = timeout(DEADLINE, refused).await.unwrap();
    assert!(
        report.refused.contains("`everything`"),
        "{}",
        report.refused
    );
    assert_eq!(report.version, 1);
    assert_eq!(a.peer("n2").await.state, ESTABLISHED);
}
