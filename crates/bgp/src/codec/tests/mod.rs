//! What the codec must make of good and of bad bytes.

mod malformed;
mod messages;
mod roundtrip;
mod updates;

use super::*;

/// An external session with everything negotiated.
fn ebgp() -> Context {
    Context {
        ebgp: true,
        four_octet_as: true,
        families: Family::ALL.into_iter().collect(),
        extended_next_hop: [Family::Ipv4].into_iter().collect(),
        max_message: STANDARD_MESSAGE,
    }
}

/// An internal one.
fn ibgp() -> Context {
    Context {
        ebgp: false,
        ..ebgp()
    }
}

/// An external one with a speaker of 2-octet AS numbers and IPv4 alone.
fn old() -> Context {
    Context {
        four_octet_as: false,
        families: [Family::Ipv4].into_iter().collect(),
        extended_next_hop: FamilySet::default(),
        ..ebgp()
    }
}

/// The body of an UPDATE.
fn body(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let block = attributes.concat();
    let mut body = (withdrawn.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(withdrawn);
    body.extend_from_slice(&(block.len() as u16).to_be_bytes());
    body.extend_from_slice(&block);
    body.extend_from_slice(nlri);
    body
}

/// A path attribute with a length of one octet.
fn attr(flags: u8, kind: u8, value: &[u8]) -> Vec<u8> {
    [&[flags, kind, value.len() as u8], value].concat()
}

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
/// 65001 65002, four octets each.
const AS_PATH: &[u8] = &[0x40, 2, 10, 2, 2, 0, 0, 0xFD, 0xE9, 0, 0, 0xFD, 0xEA];
/// 65001, two octets.
const AS_PATH2: &[u8] = &[0x40, 2, 4, 2, 1, 0xFD, 0xE9];
/// 192.0.2.1.
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
/// 10.1.2.0/24.
const NLRI: &[u8] = &[24, 10, 1, 2];
/// 2001:db8::/32.
const NLRI6: &[u8] = &[32, 0x20, 0x01, 0x0D, 0xB8];
/// 2001:db8::1.
const GLOBAL: [u8; 16] = [0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// fe80::1.
const LINK_LOCAL: [u8; 16] = [0xFE, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// MP_REACH_NLRI.
fn mp_reach(afi: u8, next_hop: &[u8], nlri: &[u8]) -> Vec<u8> {
    let head = [0, afi, 1, next_hop.len() as u8];
    attr(0x80, 14, &[&head, next_hop, &[0], nlri].concat())
}

/// MP_UNREACH_NLRI.
fn mp_unreach(afi: u8, nlri: &[u8]) -> Vec<u8> {
    attr(0x80, 15, &[&[0, afi, 1], nlri].concat())
}
