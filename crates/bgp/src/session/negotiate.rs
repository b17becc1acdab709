//! What two OPENs together allow. RFC 4271 §4.2 and §6.2, and the capabilities of RFC 5492.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{EXTENDED_MESSAGE, STANDARD_MESSAGE};
use crate::message::{
    Capabilities, ForwardingState, GracefulRestart, LongLived, LongLivedState, Notification, Open,
    OpenError,
};
use crate::types::{Asn, Family, RouterId};

use super::context::{Restart, Settings};

/// What both sides of an Established session have agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Families whose routes are exchanged, in the order of [`Family::ALL`]; at least one.
    pub families: Vec<Family>,
    /// Both sides write AS numbers in four octets. RFC 6793.
    pub four_octet_as: bool,
    /// Longest message either side may send: 4096, or 65535 by RFC 8654.
    pub max_message: u16,
    /// The peer sends its routes again when asked. RFC 2918.
    pub route_refresh: bool,
    /// Both sides mark beginning and end of that. RFC 7313.
    pub enhanced_route_refresh: bool,
    /// Families whose routes may have IPv6 next hops although they are not IPv6. RFC 8950.
    pub extended_next_hop: Vec<Family>,
    /// What the peer says of its restarts, where we offer graceful restart too. RFC 4724.
    pub graceful_restart: Option<GracefulRestart>,
    /// What the peer asks for after its restart time, where we offer that too. RFC 9494.
    pub long_lived: Option<LongLived>,
    /// `None`: the session never expires.
    pub hold_time: Option<Duration>,
    /// The peer's AS number.
    pub remote_asn: Asn,
    /// The peer's BGP Identifier.
    pub remote_router_id: RouterId,
    /// All that the peer said it can do.
    pub remote_capabilities: Capabilities,
}

impl Negotiated {
    /// Whether a NOTIFICATION other than Hard Reset leaves the other side's routes in place.
    /// RFC 8538 §2; we always say that it does.
    pub fn survives_notification(&self) -> bool {
        self.graceful_restart
            .as_ref()
            .is_some_and(|gr| gr.notification)
    }

    /// Whether the peer knows what a long-lived stale route is. RFC 9494 §4.3.
    pub fn takes_long_lived_stale(&self) -> bool {
        let said = &self.remote_capabilities;
        said.long_lived.is_some() && said.graceful_restart.is_some()
    }

    /// A NOTIFICATION with which the session ends and its routes with it: a Hard Reset where less
    /// would not end graceful restart. RFC 8538 §3.1.
    pub fn for_good(&self, notification: Notification) -> Notification {
        match self.survives_notification() {
            true => notification.into_hard_reset(),
            false => notification,
        }
    }
}

/// Why an OPEN is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What the peer is told.
    pub(super) notification: Notification,
    /// Details for our own people.
    pub(super) why: String,
}

impl Refusal {
    fn new(error: OpenError, data: impl AsRef<[u8]>, why: String) -> Refusal {
        let data = Bytes::copy_from_slice(data.as_ref());
        Refusal {
            notification: Notification::open(error, data),
            why,
        }
    }
}

/// The OPEN that we send.
pub(super) fn our_open(settings: &Settings, restart: Restart) -> Open {
    Open {
        asn: settings.local_asn,
        hold_time: settings.hold_time,
        router_id: settings.router_id,
        capabilities: Capabilities {
            families: settings.families.clone(),
            four_octet_as: Some(settings.local_asn),
            route_refresh: true,
            enhanced_route_refresh: true,
            extended_message: true,
            extended_next_hop: our_extended_next_hop(settings),
            graceful_restart: settings.restart_seconds.map(|seconds| GracefulRestart {
                restarting: restart.restarting,
                notification: true,
                seconds,
                families: (settings.families.iter())
                    .map(|family| ForwardingState {
                        family: *family,
                        preserved: restart.preserved.contains(*family),
                    })
                    .collect(),
            }),
            long_lived: settings.long_lived_seconds.map(|seconds| LongLived {
                families: (settings.families.iter())
                    .map(|family| LongLivedState {
                        family: *family,
                        preserved: restart.preserved.contains(*family),
                        seconds,
                    })
                    .collect(),
            }),
            unknown: Vec::new(),
        },
    }
}

/// Looks at the peer's OPEN beside our own.
///
/// # Errors
///
/// The refusal: Bad Peer AS, Bad BGP Identifier, Unacceptable Hold Time, or
/// Unsupported Capability when there is no common family. RFC 4271 §6.2, RFC 6286 §2.2,
/// RFC 5492 §5.
pub(super) fn negotiate(settings: &Settings, theirs: Open) -> Result<Negotiated, Refusal> {
    if theirs.asn != settings.remote_asn {
        let asn = u16::try_from(theirs.asn.0).unwrap_or(Asn::TRANS.0 as u16);
        let why = format!("it is AS {}, expected {}", theirs.asn, settings.remote_asn);
        return Err(Refusal::new(OpenError::BadPeerAs, asn.to_be_bytes(), why));
    }
    // Within one AS identifiers are unique; two ASes may well use the same one.
    let same_as = settings.local_asn == theirs.asn;
    if theirs.router_id.0.is_unspecified() || (same_as && theirs.router_id == settings.router_id) {
        let why = match theirs.router_id.0.is_unspecified() {
            true => "its identifier is 0.0.0.0".into(),
            false => format!("{} is our own identifier", theirs.router_id),
        };
        let data = theirs.router_id.0.octets();
        return Err(Refusal::new(OpenError::BadBgpIdentifier, data, why));
    }
    let hold_time = negotiate_hold_time(settings.hold_time, theirs.hold_time)?;

    let capabilities = theirs.capabilities;
    let plain = [Family::Ipv4];
    let offered = match capabilities.families.as_slice() {
        [] => &plain[..], // plain BGP-4, RFC 4760 §8
        families => families,
    };
    let common = |ours: &[Family], theirs: &[Family]| -> Vec<Family> {
        let both = |family: &Family| ours.contains(family) && theirs.contains(family);
        Family::ALL.into_iter().filter(both).collect()
    };
    let families = common(&settings.families, offered);
    if families.is_empty() {
        let names = |families: &[Family]| -> Vec<String> {
            families.iter().map(Family::to_string).collect()
        };
        let why = format!(
            "no common family: it offers {}, we {}",
            names(offered).join(" and "),
            names(&settings.families).join(" and "),
        );
        let data = multiprotocol_capabilities(&settings.families);
        return Err(Refusal::new(OpenError::UnsupportedCapability, data, why));
    }
    let extended_next_hop = common(
        &our_extended_next_hop(settings),
        &capabilities.extended_next_hop,
    );
    Ok(Negotiated {
        extended_next_hop: common(&extended_next_hop, &families),
        families,
        four_octet_as: capabilities.four_octet_as.is_some(),
        max_message: if capabilities.extended_message {
            EXTENDED_MESSAGE
        } else {
            STANDARD_MESSAGE
        },
        route_refresh: capabilities.route_refresh,
        enhanced_route_refresh: capabilities.enhanced_route_refresh,
        graceful_restart: (capabilities.graceful_restart.clone())
            .filter(|_| settings.restart_seconds.is_some()),
        // It means nothing without the other one. RFC 9494 §3.1.
        long_lived: (capabilities.long_lived.clone()).filter(|_| {
            settings.long_lived_seconds.is_some() && capabilities.graceful_restart.is_some()
        }),
        hold_time,
        remote_asn: theirs.asn,
        remote_router_id: theirs.router_id,
        remote_capabilities: capabilities,
    })
}

/// The hold time both sides will use: the smaller of the two offers.
///
/// `ours` and `theirs` are whole seconds, as OPEN carries them. Zero wins over every other value
/// and means that the session never expires; then `None` is returned.
///
/// # Errors
///
/// Unacceptable Hold Time when the peer offers 1 or 2 seconds.
///
/// RFC 4271 §4.2, §6.2.
fn negotiate_hold_time(ours: u16, theirs: u16) -> Result<Option<Duration>, Refusal> {
    match ours.min(theirs) {
        _ if matches!(theirs, 1 | 2) => Err(Refusal::new(
            OpenError::UnacceptableHoldTime,
            Bytes::new(),
            format!("it offers {theirs} s; allowed are 0 s and 3 s or more"),
        )),
        0 => Ok(None),
        seconds => Ok(Some(Duration::from_secs(seconds.into()))),
    }
}

/// Time between KEEPALIVEs: as configured, at most a third of the hold time. RFC 4271 §4.4.
pub(super) fn keepalive_time(configured: Duration, hold_time: Duration) -> Duration {
    let most = hold_time / 3;
    match configured {
        Duration::ZERO => most,
        configured => configured.min(most),
    }
}

/// Only IPv4 has anything to gain from it.
fn our_extended_next_hop(settings: &Settings) -> Vec<Family> {
    let offered = settings.extended_next_hop && settings.families.contains(&Family::Ipv4);
    offered.then_some(Family::Ipv4).into_iter().collect()
}

/// The multiprotocol capabilities that the peer would have to offer, as they stand in an OPEN.
fn multiprotocol_capabilities(families: &[Family]) -> Bytes {
    let mut data = BytesMut::new();
    for family in families {
        let afi = match family {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        };
        data.put_slice(&[1, 4, 0, afi, 0, 1]);
    }
    data.freeze()
}
