//! What the whole program does with files, reports and signals.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;
use proto::controller::v1 as pb;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bench::{Bench, Running, Speaker, fabric, pool, subnets, wait_for};

async fn status(controller: &Running) -> pb::Status {
    let mut admin = controller.admin().await;
    let answer = admin.get_status(pb::GetStatusRequest {}).await.unwrap();
    answer.into_inner()
}

async fn node(controller: &Running, name: &str) -> Option<pb::Node> {
    let mut admin = controller.admin().await;
    let answer = admin.list_nodes(pb::ListNodesRequest {}).await.unwrap();
    answer
        .into_inner()
        .nodes
        .into_iter()
        .find(|n| n.name == name)
}

async fn leases(controller: &Running, node: &str) -> Vec<pb::SubnetLease> {
    let mut admin = controller.admin().await;
    let answer = admin.list_subnets(pb::ListSubnetsRequest {}).await.unwrap();
    let leases = answer.into_inner().subnets.into_iter();
    leases.filter(|lease| lease.node == node).collect()
}

#[tokio::test]
async fn a_node_gets_its_configuration_and_hears_again_only_when_it_changes() {
    let bench = Bench::new();
    bench.nodes(["a", "b"]);
    let controller = bench.start(&[]);
    let mut a = Speaker::open(controller.connect().await, "a")
        .await
        .unwrap();
    let first = a.next().await;
    assert_eq!(subnets(&first), ["10.64.0.0/26", "fd00:64::/64"]);
    assert_eq!(first.asn, 4_200_000_000);
    // A change that means nothing to `a`, then one that does.
    bench.nodes(["a", "b", "c"]);
    wait_for("node c", || async {
        node(&controller, "c").await.ok_or("not there")
    })
    .await;
    bench.write(
        "fabric.yaml",
        &(fabric(3600) + "  timers: {holdSeconds: 30}\n  listenPort: 1179\n"),
    );
    let second = a.next().await;
    assert!(second.version > first.version);
    assert_eq!(
        (second.listen_port, subnets(&second)),
        (1179, subnets(&first))
    );
    let seen = node(&controller, "a").await.unwrap();
    assert!(seen.connected && seen.desired_version == second.version);
    let never = node(&controller, "b").await.unwrap();
    assert!(!never.connected && never.report.is_none() && never.subnets.len() == 2);
}

#[tokio::test]
async fn refused_files_change_nothing_and_are_shown_also_after_a_restart() {
    let bench = Bench::new();
    bench.nodes(["a"]);
    let mut controller = bench.start(&["--metrics", "127.0.0.1:0"]);
    let mut a = Speaker::open(controller.connect().await, "a")
        .await
        .unwrap();
    let first = a.next().await;
    fs::write(bench.resource("nodes.yaml"), "kind: [").unwrap();
    let refused = wait_for("the refusal", || async {
        let status = status(&controller).await;
        status.refused.first().cloned().ok_or(status.generation)
    })
    .await;
    assert!(refused.contains("nodes.yaml"), "{refused}");
    let address = controller.logged("metrics", "address").await;
    let metrics = scrape(&address).await;
    assert!(
        metrics.contains("routeshare_controller_resources_refused 1\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("routeshare_controller_nodes_connected 1\n"),
        "{metrics}"
    );
    let used = "pool_subnets_used{pool=\"pods\",prefix=\"10.64.0.0/16\"} 1\n";
    assert!(metrics.contains(used), "{metrics}");
    controller.kill();

    let controller = bench.start(&[]);
    let mut a = Speaker::open(controller.connect().await, "a")
        .await
        .unwrap();
    assert_eq!(
        a.next().await,
        first,
        "the last good resources are in force"
    );
    assert!(!status(&controller).await.refused.is_empty());
    fs::remove_file(bench.resource("nodes.yaml")).unwrap();
    wait_for("the other refusal", || async {
        let refused = status(&controller).await.refused.join(" ");
        if refused.contains("every Node") {
            Ok(())
        } else {
            Err(refused)
        }
    })
    .await;
    // Meant so: `a` is gone, and its subnets wait.
    controller.signal(Signal::SIGHUP);
    wait_for("the removal", || async {
        let leases = leases(&controller, "a").await;
        let waiting = leases
            .iter()
            .all(|lease| lease.state == "Waiting" && lease.free_at_ms > 0);
        if waiting && leases.len() == 2 {
            Ok(())
        } else {
            Err(leases)
        }
    })
    .await;
    assert_eq!(status(&controller).await.refused, [""; 0]);
    let gone = node(&controller, "a").await.unwrap();
    assert!(gone.connected && gone.problems[0].contains("no Node resource"));
    // Its speaker is here, and is none of the nodes that there are.
    let status = status(&controller).await;
    assert!(status.nodes_connected <= status.nodes, "{status:?}");
}

async fn scrape(address: &str) -> String {
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    connection.write_all(request).await.unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_node_whose_subnet_is_nearly_used_up_gets_one_more() {
    let bench = Bench::new();
    bench.nodes(["a"]);
    let controller = bench.start(&[]);
    let mut a = Speaker::open(controller.connect().await, "a")
        .await
        .unwrap();
    let first = a.next().await;
    a.report(&first, 51); // 80 % of 64 are 51.2
    a.report(&first, 52);
    let second = a.next().await;
    assert_eq!(
        subnets(&second),
        ["10.64.0.0/26", "10.64.0.64/26", "fd00:64::/64"]
    );
    // The old version's report asks for nothing more, and neither does half use of both.
    a.report(&first, 64);
    a.report(&second, 50);
    a.report(&second, 60);
    assert_eq!(subnets(&a.next().await).len(), 4);
    let leases = leases(&controller, "a").await;
    assert_eq!(
        leases.iter().map(|lease| lease.used).collect::<Vec<_>>(),
        [60, 60, 0, 60]
    );
}

#[tokio::test]
async fn addresses_that_cool_down_count_and_those_that_no_pod_can_have_do_not() {
    let bench = Bench::new();
    bench.nodes(["a"]);
    let controller = bench.start(&[]);
    let mut a = Speaker::open(controller.connect().await, "a")
        .await
        .unwrap();
    let first = a.next().await;
    a.report_use(&first, 20, 64, 31);
    a.report_use(&first, 20, 64, 32);
    // Of both families: the speaker says of an IPv6 subnet, too, that it is nearly used up.
    let second = a.next().await;
    assert_eq!(subnets(&second).len(), 4);
    // Of 32 addresses that are not reserved 26 are more than 80 %, of 64 they are not.
    a.report_use(&second, 26, 64, 0);
    a.report_use(&second, 26, 32, 0);
    assert_eq!(subnets(&a.next().await).len(), 6);
}

#[tokio::test]
async fn a_subnet_is_given_again_after_the_grace_time_but_not_while_its_speaker_uses_it() {
    let bench = Bench::new();
    bench.write("fabric.yaml", &fabric(0));
    bench.write("pool.yaml", &pool("10.64.0.0/26", "fd00:64::/64"));
    bench.nodes(["a", "b"]);
    let controller = bench.start(&[]);
    let mut a = Speaker::open(controller.connect().await, "a")
        .await
        .unwrap();
    let config = a.next().await;
    a.report(&config, 1);
    let full = node(&controller, "b").await.unwrap().problems;
    assert!(full[0].contains("1 of 1 are assigned"), "{full:?}");
    bench.nodes(["b"]);
    wait_for("the problem", || async {
        let problems = node(&controller, "a")
            .await
            .map(|node| node.problems.join(" "));
        let problems = problems.unwrap_or_default();
        if problems.contains("still uses") {
            Ok(())
        } else {
            Err(problems)
        }
    })
    .await;
    assert_eq!(leases(&controller, "b").await, []);
    drop(a);
    let mut b = Speaker::open(controller.connect().await, "b")
        .await
        .unwrap();
    let mut config = b.next().await;
    while config.subnets.len() < 2 {
        config = b.next().await;
    }
    assert_eq!(subnets(&config), ["10.64.0.0/26", "fd00:64::/64"]);
}

#[tokio::test]
async fn a_second_stream_of_a_node_ends_the_first() {
    let bench = Bench::new();
    bench.nodes(["a"]);
    let controller = bench.start(&[]);
    let mut first = Speaker::open(controller.connect().await, "a")
        .await
        .unwrap();
    let config = first.next().await;
    let mut second = Speaker::open(controller.connect().await, "a")
        .await
        .unwrap();
    assert_eq!(second.next().await, config);
    let ended = first.configs.message().await.unwrap_err();
    assert_eq!(ended.code(), tonic::Code::Aborted);
    let seen = node(&controller, "a").await.unwrap();
    assert!(seen.connected && seen.away_since_ms == 0);

    drop(second);
    let away = wait_for("a to be away", || async {
        let seen = node(&controller, "a").await.ok_or("not there")?;
        (!seen.connected).then_some(seen).ok_or("still connected")
    })
    .await;
    assert!(away.away_since_ms >= seen.connected_since_ms);
    assert_eq!(away.connected_since_ms, 0);
}

#[tokio::test]
async fn two_controllers_never_share_a_state_file_or_a_socket() {
    let bench = Bench::new();
    bench.nodes(["a"]);
    let first = bench.start(&[]);
    first.connect().await;
    let (status, log) = bench.start(&[]).ended().await;
    assert!(!status.success());
    assert!(log.contains("another controller has"), "{log}");
    let other = bench.path("other.redb");
    let (status, log) = bench
        .start(&["--state", other.to_str().unwrap()])
        .ended()
        .await;
    assert!(!status.success(), "{log}");
    first.connect().await;
}

#[tokio::test]
async fn it_stops_cleanly_at_sigterm_and_ends_its_streams() {
    let bench = Bench::new();
    bench.nodes(["a"]);
    let controller = bench.start(&[]);
    let mut a = Speaker::open(controller.connect().await, "a")
        .await
        .unwrap();
    a.next().await;
    let mode = fs::metadata(bench.path("socket"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    controller.signal(Signal::SIGTERM);
    let ended = a.configs.message().await.unwrap_err();
    assert_eq!(ended.code(), tonic::Code::Unavailable);
    let (status, log) = controller.ended().await;
    assert!(status.success(), "{log}");
    assert!(!bench.path("socket").exists());
}

#[tokio::test]
async fn plaintext_beyond_this_host_is_refused_unless_said_twice() {
    let bench = Bench::new();
    let (status, log) = bench
        .start(&["--insecure-listen", "0.0.0.0:0"])
        .ended()
        .await;
    assert!(!status.success());
    assert!(log.contains("--insecure-allow-remote"), "{log}");
}

#[tokio::test]
async fn a_static_subnet_is_not_given_while_another_node_still_holds_it() {
    let bench = Bench::new();
    bench.nodes(["a", "b"]);
    let controller = bench.start(&[]);
    let mut b = Speaker::open(controller.connect().await, "b")
        .await
        .unwrap();
    assert_eq!(subnets(&b.next().await)[0], "10.64.0.64/26");
    // `b` shall have what `a` holds.
    let reserving =
        pool("10.64.0.0/16", "fd00:64::/48").replace("nodeS", "reserved: [10.64.0.0/26], nodeS");
    bench.write("pool.yaml", &reserving);
    let with_static = crate::bench::nodes(["a"])
        + &crate::bench::nodes(["b"]).replace("spec: {", "spec: {subnets: [10.64.0.0/26], ");
    bench.write("nodes.yaml", &with_static);
    wait_for("the problem", || async {
        let problems = node(&controller, "b").await.unwrap().problems.join(" ");
        if problems.contains("which node a holds") {
            Ok(())
        } else {
            Err(problems)
        }
    })
    .await;
    let mut admin = controller.admin().await;
    let config = admin.get_node_config(pb::GetNodeConfigRequest {
        node: "b".to_owned(),
    });
    let config = config.await.unwrap().into_inner();
    assert_eq!(subnets(&config), ["10.64.0.64/26", "fd00:64:0:1::/64"]);
}

#[tokio::test]
async fn health_follows_the_resources_and_reflection_lists_the_services() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response};

    let bench = Bench::new();
    fs::remove_file(bench.resource("fabric.yaml")).unwrap();
    let controller = bench.start(&[]);
    let channel = controller.connect().await;
    let serving = async || {
        let mut health = HealthClient::new(channel.clone());
        let request = HealthCheckRequest::default();
        health.check(request).await.unwrap().into_inner().status()
    };
    assert_eq!(serving().await, ServingStatus::NotServing);
    bench.write("fabric.yaml", &fabric(3600));
    wait_for("readiness", || async {
        match serving().await {
            ServingStatus::Serving => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let mut answers = ServerReflectionClient::new(channel.clone())
        .server_reflection_info(futures::stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(server_reflection_response::MessageResponse::ListServicesResponse(services)) = answer
    else {
        panic!("no list: {answer:?}");
    };
    let services: Vec<String> = services.service.into_iter().map(|s| s.name).collect();
    let ours = "routeshare.controller.v1.AdminService".to_owned();
    assert!(services.contains(&ours), "{services:?}");
}
