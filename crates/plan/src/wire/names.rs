//! The resolver for names of containers.

use proto::controller::v1 as pb;

use super::{WireError, each, text, texts, wrong};
use crate::NamesConfig;

pub(super) fn to_proto(names: &NamesConfig) -> pb::Names {
    pb::Names {
        domain: names.domain.clone(),
        forward: names.forward.as_ref().map(|forward| pb::Resolvers {
            addresses: texts(forward),
        }),
    }
}

pub(super) fn from_proto(names: pb::Names) -> Result<NamesConfig, WireError> {
    if names.domain.is_empty() {
        return Err(wrong(
            "pods.names.domain",
            "nothing",
            "a domain such as pods.internal",
        ));
    }
    let forward = names.forward.map(|forward| {
        each(
            "pods.names.forward.addresses",
            forward.addresses,
            |at, address| text(at, &address, "an IP address"),
        )
    });
    Ok(NamesConfig {
        domain: names.domain,
        forward: forward.transpose()?,
    })
}
