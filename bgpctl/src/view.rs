//! How answers look to programs: the JSON and YAML of `--output`.
//!
//! Names are those of the resources (camelCase, `asn`, `ipv4`), times are RFC 3339, what is not there
//! is left out. These are a contract with scripts; the gRPC types are not.

use proto::controller::v1 as controller;
use serde::Serialize;

mod explanation;
mod nodes;
mod peers;
mod pods;
mod routes;
mod status;

pub(crate) use explanation::Explanation;
pub(crate) use nodes::{Node, SubnetLease};
pub(crate) use peers::{Peer, WatchedPeer};
pub(crate) use pods::Pod;
pub(crate) use routes::{Attributes, Route, RouteChange};
pub(crate) use status::{ControllerStatus, SpeakerStatus};

type Text = Option<String>;

/// Empty texts are what protobuf has for "not there".
fn some(text: &str) -> Text {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Something one speaker answered, with its node's name where several were asked.
#[derive(Serialize)]
pub(crate) struct OfNode<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Text,
    #[serde(flatten)]
    pub(crate) answer: T,
}

#[derive(Serialize)]
pub(crate) struct Problem {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Text,
    message: String,
}

impl From<&controller::Problem> for Problem {
    fn from(problem: &controller::Problem) -> Problem {
        Problem {
            reason: some(&problem.reason),
            message: problem.message.clone(),
        }
    }
}

/// Two digits an octet, nothing between them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
