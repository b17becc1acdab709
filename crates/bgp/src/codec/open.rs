//! OPEN and its capabilities. RFC 4271 §4.2, §6.2; RFC 5492.

use bytes::{Bytes, BytesMut};
use rustbgpd_wire::{
    Afi, Capability, ExtendedNextHopFamily, GracefulRestartFamily, LlgrFamily, OpenMessage, Safi,
};

use super::{WireError, family};
use crate::message::{
    Capabilities, ForwardingState, GracefulRestart, LongLived, LongLivedState, Notification, Open,
    OpenError,
};
use crate::types::{Asn, Family, RouterId};

/// Appends an OPEN.
///
/// Codes in `unknown` are not sent: we would promise what we cannot do.
pub fn encode_open(open: &Open, out: &mut BytesMut) {
    let message = OpenMessage {
        version: 4,
        my_as: two_octets(open.asn),
        hold_time: open.hold_time,
        bgp_identifier: open.router_id.0,
        capabilities: to_wire(&open.capabilities),
    };
    message
        .encode(out)
        .expect("one capability a family and kind is far below the 4096 octets of an OPEN");
}

/// An AS number as a 2-octet field carries it. RFC 6793 §4.2.2.
fn two_octets(asn: Asn) -> u16 {
    u16::try_from(asn.0).unwrap_or(Asn::TRANS.0 as u16)
}

fn to_wire(capabilities: &Capabilities) -> Vec<Capability> {
    let mut wire = Vec::new();
    let has = |families: &[Family]| {
        Family::ALL
            .into_iter()
            .filter(|f| families.contains(f))
            .collect()
    };
    let families: Vec<Family> = has(&capabilities.families);
    wire.extend(families.iter().map(|family| Capability::MultiProtocol {
        afi: afi(*family),
        safi: Safi::Unicast,
    }));
    if capabilities.route_refresh {
        wire.push(Capability::RouteRefresh);
    }
    let extended: Vec<Family> = has(&capabilities.extended_next_hop);
    if !extended.is_empty() {
        let entry = |family: &Family| ExtendedNextHopFamily {
            nlri_afi: afi(*family),
            nlri_safi: Safi::Unicast,
            next_hop_afi: Afi::Ipv6,
        };
        wire.push(Capability::ExtendedNextHop(
            extended.iter().map(entry).collect(),
        ));
    }
    if capabilities.extended_message {
        wire.push(Capability::ExtendedMessage);
    }
    if let Some(asn) = capabilities.four_octet_as {
        wire.push(Capability::FourOctetAs { asn: asn.0 });
    }
    if let Some(restart) = &capabilities.graceful_restart {
        wire.push(graceful_restart(restart));
    }
    if let Some(long_lived) = &capabilities.long_lived {
        let entry = |entry: &LongLivedState| LlgrFamily {
            afi: afi(entry.family),
            safi: Safi::Unicast,
            forwarding_preserved: entry.preserved,
            stale_time: entry.seconds.min(LongLived::MAX_SECONDS),
        };
        wire.push(Capability::LongLivedGracefulRestart(
            long_lived.families.iter().map(entry).collect(),
        ));
    }
    if capabilities.enhanced_route_refresh {
        wire.push(Capability::EnhancedRouteRefresh);
    }
    wire
}

fn graceful_restart(restart: &GracefulRestart) -> Capability {
    let entry = |entry: &ForwardingState| GracefulRestartFamily {
        afi: afi(entry.family),
        safi: Safi::Unicast,
        forwarding_preserved: entry.preserved,
    };
    Capability::GracefulRestart {
        restart_state: restart.restarting,
        notification: restart.notification,
        restart_time: restart.seconds.min(GracefulRestart::MAX_SECONDS),
        families: restart.families.iter().map(entry).collect(),
    }
}

fn afi(family: Family) -> Afi {
    match family {
        Family::Ipv4 => Afi::Ipv4,
        Family::Ipv6 => Afi::Ipv6,
    }
}

/// Reads the body of an OPEN.
///
/// # Errors
///
/// What RFC 4271 §6.2 names and a body alone shows. Whether AS number and BGP Identifier are the
/// right ones is for the session to say.
pub(super) fn decode_open(mut body: Bytes) -> Result<Open, WireError> {
    let length = body.len();
    let message = OpenMessage::decode(&mut body, length).map_err(|error| {
        let (code, subcode, data) = error.to_notification();
        WireError::new(
            Notification::new(code.as_u8(), subcode, data),
            error.to_string(),
        )
    })?;
    let capabilities = from_wire(&message.capabilities);
    let wrong = |error, reason: String| {
        Err(WireError::new(
            Notification::open(error, Bytes::new()),
            reason,
        ))
    };
    let asn = capabilities
        .four_octet_as
        .unwrap_or(Asn(message.my_as.into()));
    // RFC 7607; and the two places must agree wherever the 2-octet one can (RFC 6793 §4.1).
    if asn.0 == 0 || message.my_as == 0 {
        return wrong(OpenError::BadPeerAs, "AS 0 in an OPEN".into());
    }
    if message.my_as != two_octets(asn) && message.my_as != two_octets(Asn::TRANS) {
        let reason = format!(
            "an OPEN from AS {} and from AS {asn} at once",
            message.my_as
        );
        return wrong(OpenError::BadPeerAs, reason);
    }
    if message.bgp_identifier.is_unspecified() {
        let reason = "an OPEN with the BGP Identifier 0.0.0.0".into();
        return wrong(OpenError::BadBgpIdentifier, reason);
    }
    if matches!(message.hold_time, 1 | 2) {
        let reason = format!(
            "an OPEN with a hold time of {} s; allowed: 0 s or at least 3 s",
            message.hold_time
        );
        return wrong(OpenError::UnacceptableHoldTime, reason);
    }
    Ok(Open {
        asn,
        hold_time: message.hold_time,
        router_id: RouterId(message.bgp_identifier),
        capabilities,
    })
}

/// A capability said twice counts once, and the first AS number stands. RFC 5492 §4.
fn from_wire(wire: &[Capability]) -> Capabilities {
    fn add<T: PartialEq>(list: &mut Vec<T>, item: T) {
        if !list.contains(&item) {
            list.push(item);
        }
    }
    let mut capabilities = Capabilities::default();
    for capability in wire {
        match capability {
            Capability::MultiProtocol { afi, safi } => match family(*afi as u16, *safi as u8) {
                Some(family) => add(&mut capabilities.families, family),
                None => add(&mut capabilities.unknown, capability.code()),
            },
            Capability::RouteRefresh => capabilities.route_refresh = true,
            Capability::EnhancedRouteRefresh => capabilities.enhanced_route_refresh = true,
            Capability::ExtendedMessage => capabilities.extended_message = true,
            Capability::FourOctetAs { asn } => {
                capabilities.four_octet_as.get_or_insert(Asn(*asn));
            }
            Capability::ExtendedNextHop(entries) => {
                for entry in entries {
                    let nlri = (entry.nlri_afi as u16, u16::from(entry.nlri_safi as u8));
                    extended_next_hop(&mut capabilities, nlri, entry.next_hop_afi as u16);
                }
            }
            // Of several the last one counts. RFC 4724 §3.
            Capability::GracefulRestart {
                restart_state,
                notification,
                restart_time,
                families,
            } => {
                let families = families.iter().filter_map(|entry| {
                    Some(ForwardingState {
                        family: family(entry.afi as u16, entry.safi as u8)?,
                        preserved: entry.forwarding_preserved,
                    })
                });
                capabilities.graceful_restart = Some(GracefulRestart {
                    restarting: *restart_state,
                    notification: *notification,
                    seconds: *restart_time,
                    families: families.collect(),
                });
            }
            Capability::LongLivedGracefulRestart(entries) => {
                capabilities.long_lived.get_or_insert_default();
                for entry in entries {
                    let nlri = (entry.afi as u16, entry.safi as u8);
                    let said = (entry.forwarding_preserved, entry.stale_time);
                    long_lived(&mut capabilities, nlri, said);
                }
            }
            // The library gives up on the whole list when it does not know one of its families.
            Capability::Unknown { code: 71, data } if data.len() % 7 == 0 => {
                capabilities.long_lived.get_or_insert_default();
                for entry in data.chunks_exact(7) {
                    let nlri = (u16::from_be_bytes([entry[0], entry[1]]), entry[2]);
                    let seconds = u32::from_be_bytes([0, entry[4], entry[5], entry[6]]);
                    long_lived(&mut capabilities, nlri, (entry[3] & 0x80 != 0, seconds));
                }
            }
            Capability::Unknown { code: 5, data } if data.len() % 6 == 0 => {
                for entry in data.chunks_exact(6) {
                    let field = |at: usize| u16::from_be_bytes([entry[at], entry[at + 1]]);
                    extended_next_hop(&mut capabilities, (field(0), field(2)), field(4));
                }
            }
            other => add(&mut capabilities.unknown, other.code()),
        }
    }
    capabilities
}

/// One tuple of RFC 9494 §3.1: AFI and SAFI, F and stale time. Of several for one family the first
/// one counts.
fn long_lived(
    capabilities: &mut Capabilities,
    (afi, safi): (u16, u8),
    (preserved, seconds): (bool, u32),
) {
    if let Some(family) = family(afi, safi)
        && let Some(said) = &mut capabilities.long_lived
        && said.of(family).is_none()
    {
        said.families.push(LongLivedState {
            family,
            preserved,
            seconds,
        });
    }
}

/// One tuple of RFC 8950 §4: AFI and SAFI of the routes, AFI of the next hop.
fn extended_next_hop(capabilities: &mut Capabilities, (afi, safi): (u16, u16), next_hop: u16) {
    let family = u8::try_from(safi).ok().and_then(|safi| family(afi, safi));
    if let Some(family @ Family::Ipv4) = family
        && next_hop == 2
        && !capabilities.extended_next_hop.contains(&family)
    {
        capabilities.extended_next_hop.push(family);
    }
}
