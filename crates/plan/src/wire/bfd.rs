//! BFD sessions to and from the gRPC contract; what `routeshare-bfd` is told is a part of it.

use proto::bfd::v1 as wire;
use proto::controller::v1 as pb;

use super::keys::key_source;
use super::{WireError, number, present, quoted, text, wrong};
use crate::{BfdAuthentication, BfdSession};

const KEYED: &str = "KeyedSha1";
const METICULOUS: &str = "MeticulousKeyedSha1";

pub(super) fn to_proto(it: &BfdSession) -> pb::BfdSession {
    pb::BfdSession {
        peer: it.peer.clone(),
        session: Some(session(it)),
    }
}

/// What `routeshare-bfd` is told of a session.
pub fn session(it: &BfdSession) -> wire::SessionConfig {
    wire::SessionConfig {
        remote: it.remote.to_string(),
        local: it.local.map_or(String::new(), |local| local.to_string()),
        multihop: it.multihop,
        min_tx_millis: it.min_tx_millis.into(),
        min_rx_millis: it.min_rx_millis.into(),
        multiplier: it.multiplier.into(),
        admin_down: it.admin_down,
        authentication: it.authentication.as_ref().map(|it| wire::Authentication {
            kind: if it.meticulous { METICULOUS } else { KEYED }.into(),
            key_id: it.key_id.into(),
            key_file: it.key.to_string(),
        }),
        echo_millis: it.echo_millis.unwrap_or(0).into(),
    }
}

pub(super) fn from_proto(at: &str, it: pb::BfdSession) -> Result<BfdSession, WireError> {
    let at = format!("{at}.session");
    let field = |name: &str| format!("{at}.{name}");
    let session = present(it.session, &at)?;
    let millis = |name: &str, value: u32| match value {
        10..=60_000 => number(&field(name), value, "10 to 60000"),
        _ => Err(wrong(field(name), value, "10 to 60000")),
    };
    Ok(BfdSession {
        peer: it.peer,
        remote: text(&field("remote"), &session.remote, "an IP address")?,
        local: match session.local.as_str() {
            "" => None,
            local => Some(text(&field("local"), local, "an IP address or nothing")?),
        },
        multihop: session.multihop,
        min_tx_millis: millis("min_tx_millis", session.min_tx_millis)?,
        min_rx_millis: millis("min_rx_millis", session.min_rx_millis)?,
        multiplier: match session.multiplier {
            0 => return Err(wrong(field("multiplier"), 0, "1 to 255")),
            value => number(&field("multiplier"), value, "1 to 255")?,
        },
        admin_down: session.admin_down,
        authentication: match session.authentication {
            None => None,
            Some(it) => Some(BfdAuthentication {
                meticulous: match it.kind.as_str() {
                    KEYED => false,
                    METICULOUS => true,
                    other => {
                        return Err(wrong(
                            field("authentication.kind"),
                            quoted(other),
                            "KeyedSha1 or MeticulousKeyedSha1",
                        ));
                    }
                },
                key_id: number(&field("authentication.key_id"), it.key_id, "0 to 255")?,
                key: key_source(&field("authentication.key_file"), &it.key_file)?,
            }),
        },
        echo_millis: match (session.echo_millis, session.multihop) {
            (0, _) => None,
            (found, true) => {
                let allowed = "0 where multihop is set";
                return Err(wrong(field("echo_millis"), found, allowed));
            }
            (found, false) => Some(millis("echo_millis", found)?),
        },
    })
}
