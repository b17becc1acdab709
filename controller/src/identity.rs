//! Who is asking: a node's speaker, an operator, or whoever can reach a socket that trusts everybody.
//!
//! On the TLS port the client's certificate says it: organisation `routeshare:nodes` with the node's
//! name as common name, or organisation `routeshare:operators`. TLS itself has checked that the
//! certificate is of our authority. The Unix socket (mode 0600) and the plaintext port (which exists
//! only when asked for) trust everybody who can connect.

use tonic::Status;
use tonic::codegen::http::Extensions;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use x509_parser::prelude::{FromDer as _, X509Certificate};

const NODES: &str = "routeshare:nodes";
const OPERATORS: &str = "routeshare:operators";

/// How a listener finds out who is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// By the client's certificate.
    Certificates,
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

impl Identity {
    /// Who sent the request with these extensions.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` when the certificate is of no use here.
    pub(crate) fn of(extensions: &Extensions, trust: Trust) -> Result<Identity, Status> {
        if trust == Trust::Everybody {
            return Ok(Identity::Trusted);
        }
        let certificates = extensions
            .get::<TlsConnectInfo<TcpConnectInfo>>()
            .and_then(TlsConnectInfo::peer_certs)
            .ok_or_else(|| Status::unauthenticated("no client certificate"))?;
        let certificate = certificates
            .first()
            .ok_or_else(|| Status::unauthenticated("no client certificate"))?;
        of_certificate(certificate.as_ref())
    }

    /// Whether this may be the speaker of `node`.
    pub(crate) fn check_node(&self, node: &str) -> Result<(), Status> {
        match self {
            Identity::Node(name) if name == node => Ok(()),
            Identity::Node(name) => Err(Status::permission_denied(format!(
                "the certificate is that of node {name}; it cannot be used for node {node}"
            ))),
            Identity::Operator(name) => Err(Status::permission_denied(format!(
                "the certificate is that of operator {name}; speakers need one of a node \
                 (bgpctl pki node)"
            ))),
            Identity::Trusted => Ok(()),
        }
    }

    /// Whether this may ask and command everything.
    pub(crate) fn check_operator(&self) -> Result<(), Status> {
        match self {
            Identity::Node(name) => Err(Status::permission_denied(format!(
                "the certificate is that of node {name}; this needs one of an operator \
                 (bgpctl pki operator)"
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
