//! What two OPENs agree on, and which one is refused.

use bytes::Bytes;

use super::*;
use crate::message::OpenError;

fn refusal(settings: &Settings, open: Open) -> (OpenError, Bytes, String) {
    let refusal = negotiate(settings, open).unwrap_err();
    let errors = [
        OpenError::BadPeerAs,
        OpenError::BadBgpIdentifier,
        OpenError::UnacceptableHoldTime,
        OpenError::UnsupportedCapability,
    ];
    let error = errors
        .into_iter()
        .find(|error| *error as u8 == refusal.notification.subcode)
        .unwrap();
    assert_eq!(refusal.notification.code, crate::message::code::OPEN);
    (error, refusal.notification.data, refusal.why)
}

#[test]
fn two_full_opens_agree_on_everything() {
    let agreed = agreed();
    assert_eq!(agreed.families, Family::ALL);
    assert_eq!(agreed.extended_next_hop, [Family::Ipv4]);
    assert_eq!(agreed.max_message, 65535);
    assert_eq!(agreed.hold_time, Some(Duration::from_secs(90)));
    assert!(agreed.four_octet_as && agreed.route_refresh && agreed.enhanced_route_refresh);
}

#[test]
fn a_peer_without_capabilities_speaks_plain_ipv4() {
    let open = Open {
        capabilities: Capabilities::default(),
        ..their_open()
    };
    let agreed = negotiate(&settings(1, 65001), open).unwrap();
    assert_eq!(agreed.families, [Family::Ipv4]);
    assert_eq!(agreed.extended_next_hop, []);
    assert_eq!(agreed.max_message, 4096);
    assert!(!agreed.four_octet_as && !agreed.route_refresh && !agreed.enhanced_route_refresh);
}

#[test]
fn the_smaller_hold_time_wins_and_zero_means_never() {
    for (ours, theirs, expected) in [
        (90, 180, Some(90)),
        (90, 3, Some(3)),
        (0, 180, None),
        (90, 0, None),
    ] {
        let mut settings = settings(1, 65001);
        settings.hold_time = ours;
        let open = Open {
            hold_time: theirs,
            ..their_open()
        };
        let agreed = negotiate(&settings, open).unwrap();
        assert_eq!(agreed.hold_time, expected.map(Duration::from_secs));
    }
}

#[test]
fn a_hold_time_of_one_or_two_seconds_is_refused() {
    for hold_time in [1, 2] {
        let open = Open {
            hold_time,
            ..their_open()
        };
        let (error, ..) = refusal(&settings(1, 65001), open);
        assert_eq!(error, OpenError::UnacceptableHoldTime);
    }
}

#[test]
fn a_wrong_as_is_refused_and_both_numbers_are_named() {
    let open = Open {
        asn: Asn(4_200_000_000),
        ..their_open()
    };
    let (error, data, why) = refusal(&settings(1, 65001), open);
    assert_eq!(error, OpenError::BadPeerAs);
    assert_eq!(data[..], 23456u16.to_be_bytes());
    assert_eq!(why, "it is AS 4200000000, expected 65009");
}

#[test]
fn our_own_identifier_is_refused_in_our_own_as_only() {
    let (error, data, why) = refusal(&settings(9, 65009), their_open());
    assert_eq!(error, OpenError::BadBgpIdentifier);
    assert_eq!(data[..], [10, 0, 0, 9]);
    assert_eq!(why, "10.0.0.9 is our own identifier");
    assert!(negotiate(&settings(9, 65001), their_open()).is_ok());
}

#[test]
fn without_a_common_family_the_missing_capability_is_named() {
    let mut settings = settings(1, 65001);
    settings.families = vec![Family::Ipv6];
    let mut open = their_open();
    open.capabilities.families = vec![Family::Ipv4];
    let (error, data, why) = refusal(&settings, open);
    assert_eq!(error, OpenError::UnsupportedCapability);
    assert_eq!(data[..], [1, 4, 0, 2, 0, 1]);
    assert_eq!(why, "no common family: it offers IPv4, we IPv6");
}
