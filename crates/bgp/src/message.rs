//! The messages of BGP in our own words: what the session speaks and hears.
//!
//! [`codec`](crate::codec) turns them into bytes and back.

use std::fmt;

use bytes::Bytes;

use crate::types::{Asn, Family, RouterId};

/// One whole message. RFC 4271 §4, RFC 2918.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first message of a connection.
    Open(Open),
    /// The body of an UPDATE, not looked into yet.
    Update(Bytes),
    /// The last message of a connection.
    Notification(Notification),
    /// A sign of life.
    Keepalive,
    /// Asks for all routes again, or marks the beginning or end of them. RFC 2918, RFC 7313.
    RouteRefresh {
        /// `None`: a family or a kind that we do not know; such a message is ignored.
        /// RFC 7313 §5.
        family: Option<Family>,
        /// What it says.
        kind: RefreshKind,
    },
}

/// What a ROUTE-REFRESH says. RFC 7313 §3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefreshKind {
    /// Send everything again.
    Request,
    /// All of it follows now (BoRR).
    Begin,
    /// That was all of it (EoRR).
    End,
}

/// An OPEN whose fields are well-formed; whether they suit us is for the session to say.
/// RFC 4271 §4.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The sender's AS number: from the capability where there is one, else from the 2-octet field.
    pub asn: Asn,
    /// Offered hold time in seconds: 0 (never expires) or at least 3.
    pub hold_time: u16,
    /// The sender's BGP Identifier, never zero.
    pub router_id: RouterId,
    /// What else it can do.
    pub capabilities: Capabilities,
}

/// What a speaker says it can do. RFC 5492.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// Families of multiprotocol BGP; an empty list means plain IPv4 (RFC 4760 §8).
    pub families: Vec<Family>,
    /// AS numbers have four octets; this is the sender's. RFC 6793.
    pub four_octet_as: Option<Asn>,
    /// ROUTE-REFRESH. RFC 2918.
    pub route_refresh: bool,
    /// ROUTE-REFRESH with beginning and end. RFC 7313.
    pub enhanced_route_refresh: bool,
    /// Messages of up to 65535 octets. RFC 8654.
    pub extended_message: bool,
    /// Families whose routes may have an IPv6 next hop although they are not IPv6. RFC 8950.
    pub extended_next_hop: Vec<Family>,
    /// Graceful restart. RFC 4724, RFC 8538.
    pub graceful_restart: Option<GracefulRestart>,
    /// Long-lived graceful restart: what is to become of each family's routes once the restart time
    /// is up. RFC 9494 §3.1.
    pub long_lived: Option<LongLived>,
    /// Codes of capabilities that we do not use, in the order of their arrival.
    pub unknown: Vec<u8>,
}

/// What a speaker says about its restarts. RFC 4724 §3, RFC 8538 §2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GracefulRestart {
    /// R: it has restarted; do not wait for its End-of-RIB before you speak.
    pub restarting: bool,
    /// N: a NOTIFICATION does not end it, but for Cease/Hard Reset.
    pub notification: bool,
    /// How long it needs at most to come back, in seconds; at most 4095.
    pub seconds: u16,
    /// Families whose routes are to be kept while it is away. Empty: it keeps the routes of others
    /// and does not ask for the same.
    pub families: Vec<ForwardingState>,
}

/// What a speaker that has restarted says of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ForwardingState {
    /// Which.
    pub family: Family,
    /// F: it has gone on forwarding by the routes it had.
    pub preserved: bool,
}

/// What a speaker asks for the time after its restart time. RFC 9494 §3.1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LongLived {
    /// Families whose routes are to be kept. Empty: it only takes such routes of others.
    pub families: Vec<LongLivedState>,
}

/// What a speaker asks for one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LongLivedState {
    /// Which.
    pub family: Family,
    /// F: it has gone on forwarding by the routes it had.
    pub preserved: bool,
    /// How long its routes are to be kept, in seconds; at most 16,777,215.
    pub seconds: u32,
}

impl LongLived {
    /// The longest time the capability can carry, in seconds.
    pub const MAX_SECONDS: u32 = (1 << 24) - 1;

    /// What it asks for a family, if anything.
    pub fn of(&self, family: Family) -> Option<&LongLivedState> {
        self.families.iter().find(|entry| entry.family == family)
    }
}

impl GracefulRestart {
    /// The longest restart time the capability can carry, in seconds.
    pub const MAX_SECONDS: u16 = 4095;

    /// Whether routes of a family are to be kept while the speaker is away.
    pub fn covers(&self, family: Family) -> bool {
        self.families.iter().any(|entry| entry.family == family)
    }

    /// Whether the speaker says that it has gone on forwarding in a family.
    pub fn preserved(&self, family: Family) -> bool {
        let said = |entry: &ForwardingState| entry.family == family && entry.preserved;
        self.families.iter().any(said)
    }
}

impl Capabilities {
    /// All of them in words, for a person.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        names.extend(self.families.iter().map(|f| format!("{f} unicast")));
        if self.four_octet_as.is_some() {
            names.push("4-octet AS numbers".to_owned());
        }
        if self.route_refresh {
            names.push("route refresh".into());
        }
        if self.enhanced_route_refresh {
            names.push("enhanced route refresh".into());
        }
        if self.extended_message {
            names.push("extended message".into());
        }
        let next_hops = self.extended_next_hop.iter();
        names.extend(next_hops.map(|f| format!("{f} with IPv6 next hop")));
        if self.graceful_restart.is_some() {
            names.push("graceful restart".into());
        }
        if self.long_lived.is_some() {
            names.push("long-lived graceful restart".into());
        }
        names.extend(self.unknown.iter().map(|code| capability_name(*code)));
        names
    }
}

/// The name IANA gives to a capability that we do not use.
fn capability_name(code: u8) -> String {
    let name = match code {
        3 => "outbound route filtering",
        6 => "BGP extended message",
        9 => "BGP role",
        67 => "dynamic capability",
        69 => "ADD-PATH",
        73 => "FQDN",
        75 => "software version",
        76 => "paths limit",
        77 => "link-local next hop",
        128 => "route refresh (Cisco)",
        131 => "multisession (Cisco)",
        _ => return format!("capability {code}"),
    };
    name.into()
}

/// Why a connection ends. RFC 4271 §4.5.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode; zero: unspecific.
    pub subcode: u8,
    /// What the code and subcode say about it.
    pub data: Bytes,
}

/// Error codes. RFC 4271 §4.5, RFC 7313 §5.
pub mod code {
    /// Message Header Error.
    pub const HEADER: u8 = 1;
    /// OPEN Message Error.
    pub const OPEN: u8 = 2;
    /// UPDATE Message Error.
    pub const UPDATE: u8 = 3;
    /// Hold Timer Expired.
    pub const HOLD_TIMER: u8 = 4;
    /// Finite State Machine Error.
    pub const FSM: u8 = 5;
    /// Cease.
    pub const CEASE: u8 = 6;
    /// ROUTE-REFRESH Message Error.
    pub const ROUTE_REFRESH: u8 = 7;
}

/// Subcodes of [`code::HEADER`]. RFC 4271 §6.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeaderError {
    /// The marker is not all ones.
    ConnectionNotSynchronized = 1,
    /// The length does not fit the type of the message.
    BadMessageLength = 2,
    /// No such type of message.
    BadMessageType = 3,
}

/// Subcodes of [`code::OPEN`]. RFC 4271 §6.2, RFC 5492 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpenError {
    /// Something else.
    Unspecific = 0,
    /// Not BGP-4; the data is the version we speak, in two octets.
    UnsupportedVersionNumber = 1,
    /// Not the AS that we expect there.
    BadPeerAs = 2,
    /// Zero, or our own.
    BadBgpIdentifier = 3,
    /// An optional parameter other than capabilities.
    UnsupportedOptionalParameter = 4,
    /// 1 s or 2 s.
    UnacceptableHoldTime = 6,
    /// We need a capability that is not there; the data is that capability.
    UnsupportedCapability = 7,
}

/// Subcodes of [`code::FSM`]: in which state a message arrived that must not arrive there.
/// RFC 6608 §3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FsmError {
    /// In no state that has a subcode.
    Unspecific = 0,
    /// In OpenSent.
    OpenSent = 1,
    /// In OpenConfirm.
    OpenConfirm = 2,
    /// In Established.
    Established = 3,
}

/// Subcodes of [`code::CEASE`]. RFC 4486, RFC 9003, RFC 9384.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cease {
    /// Too many prefixes.
    MaximumPrefixes = 1,
    /// A person stopped the session; may carry a text.
    AdministrativeShutdown = 2,
    /// The peer is no longer configured.
    PeerDeConfigured = 3,
    /// A person restarted the session; may carry a text.
    AdministrativeReset = 4,
    /// The connection is not wanted.
    ConnectionRejected = 5,
    /// Something else was configured that needs a new session.
    OtherConfigurationChange = 6,
    /// Of two connections this is the one too many.
    ConnectionCollisionResolution = 7,
    /// Out of memory or of something else.
    OutOfResources = 8,
    /// Ends graceful restart too; the data is the NOTIFICATION it stands for: code, subcode, data.
    /// RFC 8538 §3.
    HardReset = 9,
    /// BFD says that the path between the two is down. RFC 9384.
    BfdDown = 10,
}

impl Notification {
    /// The longest text of a shutdown communication, in octets of UTF-8. RFC 9003 §2.
    pub const MAX_TEXT: usize = 255;

    /// A NOTIFICATION of any kind.
    pub fn new(code: u8, subcode: u8, data: impl Into<Bytes>) -> Notification {
        Notification {
            code,
            subcode,
            data: data.into(),
        }
    }

    /// Message Header Error.
    pub fn header(error: HeaderError, data: impl Into<Bytes>) -> Notification {
        Notification::new(code::HEADER, error as u8, data)
    }

    /// OPEN Message Error.
    pub fn open(error: OpenError, data: impl Into<Bytes>) -> Notification {
        Notification::new(code::OPEN, error as u8, data)
    }

    /// UPDATE Message Error; subcodes are those of RFC 4271 §6.3.
    pub fn update(subcode: u8, data: impl Into<Bytes>) -> Notification {
        Notification::new(code::UPDATE, subcode, data)
    }

    /// Hold Timer Expired.
    pub fn hold_timer_expired() -> Notification {
        Notification::new(code::HOLD_TIMER, 0, Bytes::new())
    }

    /// Finite State Machine Error; the data is the type of the message that must not arrive, where it
    /// was one. RFC 6608 §4.
    pub fn fsm(error: FsmError, message: Option<u8>) -> Notification {
        let data: Vec<u8> = message.into_iter().collect();
        Notification::new(code::FSM, error as u8, data)
    }

    /// Cease. `text` tells the other side's people why; it is sent with an administrative shutdown
    /// or reset only, cut to [`Notification::MAX_TEXT`] octets at a character's end, and left out
    /// when empty. RFC 9003 §2.
    pub fn cease(cease: Cease, text: &str) -> Notification {
        let with_text = matches!(
            cease,
            Cease::AdministrativeShutdown | Cease::AdministrativeReset
        );
        let data = match text.floor_char_boundary(Notification::MAX_TEXT) {
            end if end > 0 && with_text => {
                let mut data = Vec::with_capacity(1 + end);
                data.push(u8::try_from(end).unwrap_or(u8::MAX));
                data.extend_from_slice(&text.as_bytes()[..end]);
                Bytes::from(data)
            }
            _ => Bytes::new(),
        };
        Notification::new(code::CEASE, cease as u8, data)
    }

    /// Cease, Maximum Number of Prefixes Reached, with the family and its limit. RFC 4486 §4.
    pub fn maximum_prefixes(family: Family, limit: u32) -> Notification {
        let afi: u16 = match family {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        };
        let mut data = Vec::with_capacity(7);
        data.extend_from_slice(&afi.to_be_bytes());
        data.push(1); // SAFI unicast
        data.extend_from_slice(&limit.to_be_bytes());
        Notification::new(code::CEASE, Cease::MaximumPrefixes as u8, data)
    }

    /// Family and limit of a Maximum Number of Prefixes Reached; none when they are not there or not
    /// of a family that we know.
    pub fn prefix_limit(&self) -> Option<(Family, u32)> {
        if (self.code, self.subcode) != (code::CEASE, Cease::MaximumPrefixes as u8) {
            return None;
        }
        let family = match self.data.get(..3)? {
            [0, 1, 1] => Family::Ipv4,
            [0, 2, 1] => Family::Ipv6,
            _ => return None,
        };
        let limit = self.data.get(3..7)?.first_chunk()?;
        Some((family, u32::from_be_bytes(*limit)))
    }

    /// The same as a Hard Reset, which ends graceful restart too. RFC 8538 §3.1.
    #[must_use]
    pub fn into_hard_reset(self) -> Notification {
        let mut data = vec![self.code, self.subcode];
        data.extend_from_slice(&self.data);
        Notification::new(code::CEASE, Cease::HardReset as u8, data)
    }

    /// Whether it ends graceful restart too. RFC 8538 §3.
    pub fn is_hard_reset(&self) -> bool {
        self.code == code::CEASE && self.subcode == Cease::HardReset as u8
    }

    /// Whether it says that the path between the two is down. RFC 9384.
    pub fn is_path_down(&self) -> bool {
        self.code == code::CEASE && self.subcode == Cease::BfdDown as u8
    }

    /// The NOTIFICATION that a Hard Reset stands for; `None` when it is none or does not say.
    fn within(&self) -> Option<Notification> {
        let (&[code, subcode], data) = self.data.split_first_chunk::<2>()?;
        let within = Notification::new(code, subcode, Bytes::copy_from_slice(data));
        (self.is_hard_reset() && !within.is_hard_reset()).then_some(within)
    }

    /// The text of an administrative shutdown or reset; none when there is none or when it is not
    /// the UTF-8 that RFC 9003 §2 asks for. It is the other side's, so characters in it that would
    /// move a cursor or turn the direction of writing are replaced before a person's terminal sees
    /// them.
    pub fn text(&self) -> Option<String> {
        let with_text = [
            Cease::AdministrativeShutdown as u8,
            Cease::AdministrativeReset as u8,
        ];
        if self.code != code::CEASE || !with_text.contains(&self.subcode) {
            return None;
        }
        let (length, text) = self.data.split_first()?;
        let text = std::str::from_utf8(text.get(..usize::from(*length))?).ok()?;
        let printable = |c: char| match c {
            '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => {
                '\u{FFFD}'
            }
            c if c.is_control() => '\u{FFFD}',
            c => c,
        };
        (!text.is_empty()).then(|| text.chars().map(printable).collect())
    }
}

impl fmt::Display for Notification {
    /// `Cease, Administrative Shutdown: "upgrading, back at 10"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match code_name(self.code) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "error code {}", self.code)?,
        }
        match subcode_name(self.code, self.subcode) {
            Some(name) => write!(f, ", {name}")?,
            None if self.subcode != 0 => write!(f, ", subcode {}", self.subcode)?,
            None => {}
        }
        if let Some((family, limit)) = self.prefix_limit() {
            write!(f, " ({limit} of {family})")?;
        }
        if let Some(within) = self.within() {
            return write!(f, " ({within})");
        }
        match self.text() {
            Some(text) => write!(f, ": \"{text}\""),
            None => Ok(()),
        }
    }
}

fn code_name(code: u8) -> Option<&'static str> {
    Some(match code {
        code::HEADER => "Message Header Error",
        code::OPEN => "OPEN Message Error",
        code::UPDATE => "UPDATE Message Error",
        code::HOLD_TIMER => "Hold Timer Expired",
        code::FSM => "Finite State Machine Error",
        code::CEASE => "Cease",
        code::ROUTE_REFRESH => "ROUTE-REFRESH Message Error",
        _ => return None,
    })
}

/// The names of IANA's registry "BGP Error Subcodes".
fn subcode_name(code: u8, subcode: u8) -> Option<&'static str> {
    Some(match (code, subcode) {
        (code::HEADER, 1) => "Connection Not Synchronized",
        (code::HEADER, 2) => "Bad Message Length",
        (code::HEADER, 3) => "Bad Message Type",
        (code::OPEN, 1) => "Unsupported Version Number",
        (code::OPEN, 2) => "Bad Peer AS",
        (code::OPEN, 3) => "Bad BGP Identifier",
        (code::OPEN, 4) => "Unsupported Optional Parameter",
        (code::OPEN, 6) => "Unacceptable Hold Time",
        (code::OPEN, 7) => "Unsupported Capability",
        (code::OPEN, 11) => "Role Mismatch",
        (code::UPDATE, 1) => "Malformed Attribute List",
        (code::UPDATE, 2) => "Unrecognized Well-known Attribute",
        (code::UPDATE, 3) => "Missing Well-known Attribute",
        (code::UPDATE, 4) => "Attribute Flags Error",
        (code::UPDATE, 5) => "Attribute Length Error",
        (code::UPDATE, 6) => "Invalid ORIGIN Attribute",
        (code::UPDATE, 8) => "Invalid NEXT_HOP Attribute",
        (code::UPDATE, 9) => "Optional Attribute Error",
        (code::UPDATE, 10) => "Invalid Network Field",
        (code::UPDATE, 11) => "Malformed AS_PATH",
        (code::FSM, 1) => "unexpected message in OpenSent",
        (code::FSM, 2) => "unexpected message in OpenConfirm",
        (code::FSM, 3) => "unexpected message in Established",
        (code::CEASE, 1) => "Maximum Number of Prefixes Reached",
        (code::CEASE, 2) => "Administrative Shutdown",
        (code::CEASE, 3) => "Peer De-configured",
        (code::CEASE, 4) => "Administrative Reset",
        (code::CEASE, 5) => "Connection Rejected",
        (code::CEASE, 6) => "Other Configuration Change",
        (code::CEASE, 7) => "Connection Collision Resolution",
        (code::CEASE, 8) => "Out of Resources",
        (code::CEASE, 9) => "Hard Reset",
        (code::CEASE, 10) => "BFD Down",
        (code::ROUTE_REFRESH, 1) => "Invalid Message Length",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_text_is_carried_and_shown() {
        let sent = Notification::cease(Cease::AdministrativeShutdown, "upgrade, back at 10");
        assert_eq!(sent.data[0], 19);
        assert_eq!(sent.text().as_deref(), Some("upgrade, back at 10"));
        assert_eq!(
            sent.to_string(),
            "Cease, Administrative Shutdown: \"upgrade, back at 10\""
        );
    }

    #[test]
    fn a_long_text_is_cut_at_a_characters_end() {
        let sent = Notification::cease(Cease::AdministrativeReset, &"ä".repeat(200));
        assert_eq!(sent.data.len(), 1 + 254);
        assert_eq!(sent.text(), Some("ä".repeat(127)));
    }

    #[test]
    fn other_ceases_carry_no_text() {
        let sent = Notification::cease(Cease::PeerDeConfigured, "bye");
        assert!(sent.data.is_empty());
        assert_eq!(sent.to_string(), "Cease, Peer De-configured");
    }

    #[test]
    fn a_peers_text_cannot_move_a_terminals_cursor() {
        let text = "\u{1b}[2Jall is well\r\n\u{202e}";
        let received = Notification::cease(Cease::AdministrativeShutdown, text);
        let shown = received.to_string();
        assert!(
            !shown.contains(['\u{1b}', '\r', '\n', '\u{202e}']),
            "{shown:?}"
        );
    }

    #[test]
    fn a_text_that_is_no_text_is_not_shown() {
        for data in [&b""[..], b"\x05abc", b"\x02\xff\xfe", b"\x00"] {
            let data = Bytes::copy_from_slice(data);
            assert_eq!(Notification::new(code::CEASE, 2, data).text(), None);
        }
    }

    #[test]
    fn codes_that_nobody_has_given_out_are_shown_as_numbers() {
        let strange = Notification::new(99, 7, Bytes::new());
        assert_eq!(strange.to_string(), "error code 99, subcode 7");
        assert_eq!(
            Notification::hold_timer_expired().to_string(),
            "Hold Timer Expired"
        );
    }

    #[test]
    fn a_hard_reset_says_what_it_stands_for() {
        let sent = Notification::cease(Cease::AdministrativeShutdown, "gone").into_hard_reset();
        assert_eq!(sent.data[..3], [code::CEASE, 2, 4]);
        assert!(sent.is_hard_reset());
        assert_eq!(
            sent.to_string(),
            "Cease, Hard Reset (Cease, Administrative Shutdown: \"gone\")"
        );
        let bare = Notification::cease(Cease::HardReset, "");
        assert_eq!(bare.to_string(), "Cease, Hard Reset");
        // However deep they are nested.
        let nested = bare.into_hard_reset().into_hard_reset();
        assert_eq!(nested.to_string(), "Cease, Hard Reset");
    }

    #[test]
    fn capabilities_are_named_for_a_person() {
        let capabilities = Capabilities {
            families: vec![Family::Ipv4, Family::Ipv6],
            four_octet_as: Some(Asn(64512)),
            extended_next_hop: vec![Family::Ipv4],
            graceful_restart: Some(GracefulRestart::default()),
            unknown: vec![250],
            ..Capabilities::default()
        };
        assert_eq!(
            capabilities.names(),
            [
                "IPv4 unicast",
                "IPv6 unicast",
                "4-octet AS numbers",
                "IPv4 with IPv6 next hop",
                "graceful restart",
                "capability 250",
            ]
        );
    }
}
