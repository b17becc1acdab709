//! Who may do what on the TLS port: a certificate names its owner, and gives no more than its own.

use std::fs;

use proto::controller::v1 as pb;
use proto::controller::v1::admin_service_client::AdminServiceClient;
use proto::controller::v1::config_service_client::ConfigServiceClient;
use proto::speaker::v1::GetStatusRequest;
use proto::speaker::v1::speaker_service_client::SpeakerServiceClient;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use crate::bench::{Bench, Running, Speaker, subnets, wait_for};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Certificate and key, as PEM.
    fn issue(&self, name: &str, organisation: Option<&str>, server: bool) -> (String, String) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(organisation) = organisation {
            params
                .distinguished_name
                .push(DnType::OrganizationName, organisation);
        }
        params.extended_key_usages = vec![if server {
            ExtendedKeyUsagePurpose::ServerAuth
        } else {
            ExtendedKeyUsagePurpose::ClientAuth
        }];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

struct Tls {
    bench: Bench,
    controller: Running,
    authority: Authority,
    address: String,
}

impl Tls {
    /// A controller with TLS that knows the nodes `a` and `b`.
    async fn start() -> Tls {
        // Another test may have done so.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let bench = Bench::new();
        bench.nodes(["a", "b"]);
        let authority = Authority::new();
        let (cert, key) = authority.issue("controller", None, true);
        let [ca, cert, key] = [
            ("ca.crt", authority.0.pem()),
            ("controller.crt", cert),
            ("controller.key", key),
        ]
        .map(|(name, text)| {
            fs::write(bench.path(name), text).unwrap();
            bench.path(name).to_str().unwrap().to_owned()
        });
        let controller = bench.start(&[
            "--listen",
            "127.0.0.1:0",
            "--ca",
            &ca,
            "--cert",
            &cert,
            "--key",
            &key,
        ]);
        let address = controller.logged("listening with TLS", "address").await;
        Tls {
            bench,
            controller,
            authority,
            address,
        }
    }

    async fn connect(
        &self,
        identity: Option<(String, String)>,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.authority.0.pem()));
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await
    }

    async fn connect_as(&self, name: &str, organisation: &str) -> Channel {
        let identity = self.authority.issue(name, Some(organisation), false);
        self.connect(Some(identity)).await.unwrap()
    }

    /// What a client is told that asks for everything an operator may.
    async fn ask(&self, channel: Channel) -> Result<(), Status> {
        let mut admin = AdminServiceClient::new(channel);
        admin.list_nodes(pb::ListNodesRequest {}).await.map(|_| ())
    }
}

#[tokio::test]
async fn a_node_gets_its_own_configuration_and_no_others() {
    let tls = Tls::start().await;
    let channel = tls.connect_as("a", "routeshare:nodes").await;
    let mut own = Speaker::open(channel.clone(), "a").await.unwrap();
    assert_eq!(subnets(&own.next().await)[0], "10.64.0.0/26");
    let refused = Speaker::open(channel.clone(), "b")
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("speaker of node a"));
    assert_eq!(
        tls.ask(channel.clone()).await.unwrap_err().code(),
        Code::PermissionDenied
    );

    let mut request = Request::new(GetStatusRequest {});
    request
        .metadata_mut()
        .insert("routeshare-node", "a".parse().unwrap());
    let refused = SpeakerServiceClient::new(channel.clone())
        .get_status(request)
        .await;
    assert_eq!(
        refused.unwrap_err().code(),
        Code::PermissionDenied,
        "not even its own speaker"
    );

    let mut request = Request::new(tokio_stream::pending());
    request
        .metadata_mut()
        .insert("routeshare-node", "b".parse().unwrap());
    let refused = ConfigServiceClient::new(channel)
        .tunnel(request)
        .await
        .map(|_| ());
    assert_eq!(
        refused.unwrap_err().code(),
        Code::PermissionDenied,
        "nor the tunnel of another"
    );
}

#[tokio::test]
async fn a_stream_whose_node_changes_its_name_is_ended() {
    let tls = Tls::start().await;
    let channel = tls.connect_as("a", "routeshare:nodes").await;
    let mut own = Speaker::open(channel, "a").await.unwrap();
    let mut config = own.next().await;
    own.node = "b".to_owned();
    config.node = "b".to_owned();
    own.report(&config, 64);
    assert!(matches!(own.configs.message().await, Ok(None)));
}

#[tokio::test]
async fn an_operator_asks_everything_and_is_no_speaker() {
    let tls = Tls::start().await;
    let channel = tls.connect_as("me", "routeshare:operators").await;
    tls.ask(channel.clone()).await.unwrap();
    let refused = Speaker::open(channel, "a").await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn certificates_that_say_nothing_or_are_of_others_are_of_no_use() {
    let tls = Tls::start().await;
    let plain = tls.authority.issue("a", None, false);
    let channel = tls.connect(Some(plain)).await.unwrap();
    assert_eq!(
        tls.ask(channel).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let channel = tls.connect_as("a", "routeshare:controllers").await;
    let refused = Speaker::open(channel, "a").await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let stranger = Authority::new().issue("me", Some("routeshare:operators"), false);
    let server = tls
        .authority
        .issue("me", Some("routeshare:operators"), true);
    for (identity, what) in [
        (None, "no certificate"),
        (Some(stranger), "another authority"),
        (Some(server), "a server's certificate"),
    ] {
        // TLS 1.3: the client believes to be connected before the server has looked.
        let asked = match tls.connect(identity).await {
            Ok(channel) => tls.ask(channel).await,
            Err(_) => continue,
        };
        let error = asked.expect_err(what);
        assert!(
            !error.message().contains("certificate is that of"),
            "{what}: {error}"
        );
    }
}

#[tokio::test]
async fn a_handshake_that_fails_is_in_the_log() {
    let tls = Tls::start().await;
    let stranger = Authority::new().issue("me", Some("routeshare:operators"), false);
    if let Ok(channel) = tls.connect(Some(stranger)).await {
        tls.ask(channel).await.unwrap_err();
    }
    wait_for("the line in the log", || async {
        let log = tls.controller.log();
        log.contains("handshake failed").then_some(()).ok_or(log)
    })
    .await;
}

#[tokio::test]
async fn certificates_are_renewed_without_a_restart() {
    let mut tls = Tls::start().await;
    let before = tls.connect_as("me", "routeshare:operators").await;
    tls.ask(before.clone()).await.unwrap();

    // Half of the files: a key that is not the certificate's.
    let other = Authority::new();
    let (cert, key) = other.issue("controller", None, true);
    fs::write(tls.bench.path("controller.key"), key).unwrap();
    let during = tls.connect_as("me", "routeshare:operators").await;
    tls.ask(during).await.unwrap();
    assert!(tls.controller.log().contains("those of before stay in use"));

    fs::write(tls.bench.path("controller.crt"), cert).unwrap();
    fs::write(tls.bench.path("ca.crt"), other.0.pem()).unwrap();
    let old = tls
        .authority
        .issue("me", Some("routeshare:operators"), false);
    tls.authority = other;
    let after = tls.connect_as("me", "routeshare:operators").await;
    tls.ask(after).await.unwrap();
    tls.ask(before).await.unwrap(); // connections that are there stay
    if let Ok(channel) = tls.connect(Some(old)).await {
        tls.ask(channel).await.unwrap_err();
    }
}
