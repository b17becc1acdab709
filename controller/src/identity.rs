//! Who is asking: a node's speaker, an operator, or whoever can reach a socket that trusts everybody.
//!
//! On the TLS port the client's certificate says it: organisation `routeshare:nodes` with the node's
//! name as common name, or organisation `routeshare:operators`. TLS itself has checked that the
//! certificate is of our authority. In Kubernetes a service-account token says it as well (`tokens`). The
//! Unix socket (mode 0600) and the plaintext port (which exists only when asked for) trust everybody who
//! can connect.

mod tokens;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use tonic::Status;
use tonic::codegen::http::{Extensions, HeaderMap};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub(crate) use tokens::Tokens;

const NODES: &str = "routeshare:nodes";
const OPERATORS: &str = "routeshare:operators";

/// How a listener finds out who is asking.
#[derive(Clone)]
pub(crate) enum Trust {
    /// By the client's certificate.
    Certificates,
    /// By the token that comes with a request, or else by the client's certificate.
    Tokens(Arc<Tokens>),
    /// Not at all: whoever can connect may do everything.
    Everybody,
}

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The speaker of the node of this name.
    Node(String),
    /// An operator of this name.
    Operator(String),
    /// Somebody on a listener that trusts everybody.
    Trusted,
}

/// Resolves with what a client is told when its stream ends.
pub(crate) type Ending = Pin<Box<dyn Future<Output = Status> + Send>>;

impl Trust {
    /// Who sent the request with these headers and extensions.
    ///
    /// # Errors
    ///
    /// `Unauthenticated` or `PermissionDenied` when what it shows is of no use here, `Unavailable` when
    /// that cannot be found out now.
    pub(crate) async fn identify(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Identity, Status> {
        match self {
            Trust::Everybody => Ok(Identity::Trusted),
            Trust::Certificates => of_client(extensions),
            Trust::Tokens(tokens) => match bearer(headers)? {
                Some(token) => tokens.identify(token, address_of(extensions)).await,
                None => of_client(extensions),
            },
        }
    }

    /// When a stream that was opened with these headers must end, because who opened it has to show
    /// something newer.
    pub(crate) fn ending(&self, headers: &HeaderMap) -> Ending {
        if let Trust::Tokens(tokens) = self
            && let Ok(Some(token)) = bearer(headers)
            && let Some(expires) = tokens::expires(token)
        {
            return Box::pin(Arc::clone(tokens).outlived(expires));
        }
        Box::pin(std::future::pending())
    }
}

/// Metadata that shows a token. RFC 6750 §2.1.
pub(crate) const AUTHORIZATION: &str = "authorization";

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Status> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    let token = value
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("Bearer "));
    token
        .map(Some)
        .ok_or_else(|| Status::unauthenticated("metadata `authorization` is not `Bearer TOKEN`"))
}

/// Where a client comes from.
fn address_of(extensions: &Extensions) -> Option<IpAddr> {
    let info = extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?;
    info.get_ref().remote_addr().map(|address| address.ip())
}

fn of_client(extensions: &Extensions) -> Result<Identity, Status> {
    let certificates = extensions
        .get::<TlsConnectInfo<TcpConnectInfo>>()
        .and_then(TlsConnectInfo::peer_certs);
    match certificates.as_ref().and_then(|all| all.first()) {
        Some(certificate) => of_certificate(certificate.as_ref()),
        None => Err(Status::unauthenticated(
            "this client shows neither a certificate nor, in Kubernetes, a service account's token",
        )),
    }
}

impl Identity {
    /// Whether this may be the speaker of `node`.
    pub(crate) fn check_node(&self, node: &str) -> Result<(), Status> {
        match self {
            Identity::Node(name) if name == node => Ok(()),
            Identity::Node(name) => Err(Status::permission_denied(format!(
                "this client is the speaker of node {name}, and nobody of node {node}"
            ))),
            Identity::Operator(name) => Err(Status::permission_denied(format!(
                "this client is operator {name}, and no speaker; speakers show a node's certificate \
                 (bgpctl pki node) or the token of their pod"
            ))),
            Identity::Trusted => Ok(()),
        }
    }

    /// Whether this may ask and command everything.
    pub(crate) fn check_operator(&self) -> Result<(), Status> {
        match self {
            Identity::Node(name) => Err(Status::permission_denied(format!(
                "this client is the speaker of node {name}; this is for operators, who show a certificate \
                 (bgpctl pki operator) or a token of service account routeshare-operator"
            ))),
            Identity::Operator(_) | Identity::Trusted => Ok(()),
        }
    }
}

fn of_certificate(der: &[u8]) -> Result<Identity, Status> {
    let useless = |why: &str| {
        Status::permission_denied(format!(
            "{why}; it needs organisation (O) {NODES} or {OPERATORS} and a common name (CN), as \
             `bgpctl pki` makes it"
        ))
    };
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| useless("the certificate cannot be read"))?;
    let subject = certificate.subject();
    // Exactly one of each: of two names, a reader elsewhere might take the other one.
    let mut names = subject.iter_common_name();
    let (Some(Ok(name)), None) = (names.next().map(|cn| cn.as_str()), names.next()) else {
        return Err(useless("the certificate does not have one common name"));
    };
    let mut organisations = subject.iter_organization();
    let organisation = organisations.next().and_then(|o| o.as_str().ok());
    match (organisation, organisations.next()) {
        (Some(NODES), None) => Ok(Identity::Node(name.to_owned())),
        (Some(OPERATORS), None) => Ok(Identity::Operator(name.to_owned())),
        _ => Err(useless(&format!(
            "the certificate of {name} says neither node nor operator"
        ))),
    }
}
