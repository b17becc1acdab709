//! An UPDATE taken apart without a look at what its path attributes say. RFC 4271 §4.3, RFC 4760.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use super::attributes::{self, Need};
use super::{Context, Fault, Nlri, WireError, attribute, attribute_name, family, flags, subcode};
use crate::message::Notification;
use crate::types::Family;

/// An UPDATE whose prefixes are found and well-formed.
///
/// What is withdrawn comes before what is announced: a prefix in both is announced
/// (RFC 4271 §4.3).
#[derive(Clone, Debug)]
pub struct Update<'a> {
    /// Prefixes that the peer takes back.
    pub withdrawn: SmallVec<[Nlri<'a>; 2]>,
    /// Prefixes that the peer has, each list with its path attributes.
    pub announced: SmallVec<[Announced<'a>; 2]>,
    /// The peer has sent all it has of this family; then the lists are empty. RFC 4724 §2.
    pub end_of_rib: Option<Family>,
    /// Routes that were ignored, because they are of families that this session does not carry.
    pub faults: Vec<Fault>,
}

/// Prefixes and what they have in common.
#[derive(Clone, Debug)]
pub struct Announced<'a> {
    /// At least one.
    pub nlri: Nlri<'a>,
    /// For [`decode_attributes`](super::decode_attributes), whose outcome depends on nothing but
    /// these bytes and the [`Context`]: where both are known, so is the outcome.
    ///
    /// The path attributes as received, without MP_REACH_NLRI and MP_UNREACH_NLRI; for prefixes
    /// of an MP_REACH_NLRI that attribute is in front, without its prefixes.
    pub attributes: Cow<'a, [u8]>,
}

impl<'a> Update<'a> {
    /// Takes the body of an UPDATE apart.
    ///
    /// # Errors
    ///
    /// What resets the session because the prefixes cannot be found for certain, or because
    /// RFC 7606 left it as it was: lengths that contradict one another, a malformed prefix,
    /// MP_REACH_NLRI or MP_UNREACH_NLRI malformed or there twice, an unknown well-known attribute,
    /// malformed attributes in an UPDATE without prefixes to withdraw instead. RFC 4271 §6.3,
    /// RFC 7606 §3, §5.
    pub fn decode(body: &'a [u8], context: &Context) -> Result<Update<'a>, WireError> {
        let [withdrawn, block, nlri] = sections(body)?;
        let mut update = Update {
            withdrawn: SmallVec::new(),
            announced: SmallVec::new(),
            end_of_rib: None,
            faults: Vec::new(),
        };
        let ipv4 = context.families.contains(Family::Ipv4);
        if body.len() == 4 {
            update.end_of_rib = ipv4.then_some(Family::Ipv4);
            return Ok(update);
        }
        let (withdrawn, nlri) = (body_nlri(withdrawn)?, body_nlri(nlri)?);
        let parts = Parts::find(block)?;
        let unreach = match &parts.unreach {
            Some(attribute) => Unreach::parse(block, attribute, context)?,
            None => Unreach::default(),
        };
        let reach = match &parts.reach {
            Some(attribute) => Reach::parse(block, attribute, context)?,
            None => Reach::default(),
        };

        for (kind, afi_safi) in [
            (attribute::MP_UNREACH, unreach.ignored),
            (attribute::MP_REACH, reach.ignored),
        ] {
            if let Some((afi, safi)) = afi_safi {
                let reason = format!("ignored: AFI {afi}, SAFI {safi} is not for this session");
                update.faults.push(Fault::new(kind, reason));
            }
        }
        let only_unreach = withdrawn.is_empty() && nlri.is_empty() && parts.only_unreach(block);
        match unreach.nlri {
            Some(nlri) if only_unreach && nlri.is_empty() => {
                update.end_of_rib = Some(nlri.family());
                return Ok(update);
            }
            Some(nlri) if !nlri.is_empty() => update.withdrawn.push(nlri),
            _ => {}
        }
        let has_ipv4 = !withdrawn.is_empty() || !nlri.is_empty();
        if has_ipv4 && !ipv4 {
            let reason = "ignored: IPv4 routes are not for this session";
            update.faults.push(Fault::new(0, reason));
        }
        if !withdrawn.is_empty() && ipv4 {
            update.withdrawn.push(withdrawn);
        }

        // RFC 7606 §5.2: attributes without prefixes mean that some prefixes may not have been
        // found; then nothing worse than a discarded attribute may pass.
        let reachable = !nlri.is_empty() || reach.anything;
        let others = parts.others(block);
        if !reachable && !others.is_empty() {
            let looked_at = attributes::decode_block_of(&others, context, Need::Nothing);
            if let Err(malformed) = looked_at {
                return Err(malformed.into_wire_error());
            }
        }
        if let Some(mp_nlri) = reach.nlri.filter(|nlri| !nlri.is_empty()) {
            let mut key = reach.key;
            key.extend_from_slice(&others);
            update.announced.push(Announced {
                nlri: mp_nlri,
                attributes: Cow::Owned(key),
            });
        }
        if !nlri.is_empty() && ipv4 {
            update.announced.push(Announced {
                nlri,
                attributes: others,
            });
        }
        Ok(update)
    }
}

/// Withdrawn routes, path attributes, and NLRI.
fn sections(body: &[u8]) -> Result<[&[u8]; 3], WireError> {
    fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
    }
    counted(body)
        .and_then(|(withdrawn, rest)| {
            let (block, nlri) = counted(rest)?;
            Some([withdrawn, block, nlri])
        })
        .ok_or_else(|| {
            WireError::new(
                Notification::update(subcode::MALFORMED_ATTRIBUTE_LIST, Bytes::new()),
                "the lengths within an UPDATE are more than its own length",
            )
        })
}

/// IPv4 prefixes outside of path attributes.
fn body_nlri(bytes: &[u8]) -> Result<Nlri<'_>, WireError> {
    Nlri::new(Family::Ipv4, bytes).map_err(|reason| {
        WireError::new(
            Notification::update(subcode::INVALID_NETWORK_FIELD, Bytes::new()),
            reason,
        )
    })
}

/// Where things are in a block of path attributes.
#[derive(Default)]
struct Parts {
    reach: Option<Located>,
    unreach: Option<Located>,
}

/// One path attribute, from its flags to the end of its value.
struct Located {
    whole: Range<usize>,
    value: Range<usize>,
}

impl Located {
    /// A session reset over this attribute, which the NOTIFICATION shows. RFC 4271 §6.3.
    fn reset(&self, block: &[u8], subcode: u8, reason: String) -> WireError {
        let whole = &block[self.whole.clone()];
        let name = attribute_name(whole.get(1).copied().unwrap_or(0));
        WireError::new(
            Notification::update(subcode, Bytes::copy_from_slice(whole)),
            format!("{name}: {reason}"),
        )
    }
}

impl Parts {
    /// Walks over the attributes. Stops where one is cut off: what is behind that cannot be told
    /// apart, and [`decode_attributes`](super::decode_attributes) will find the same.
    fn find(block: &[u8]) -> Result<Parts, WireError> {
        let mut parts = Parts::default();
        let mut rest = block;
        while !rest.is_empty() {
            let start = block.len() - rest.len();
            let Some((attribute, behind)) = split_attribute(rest) else {
                // RFC 7606 §5.3: prefixes may have been in there.
                if let Some(&kind @ (attribute::MP_REACH | attribute::MP_UNREACH)) = rest.get(1) {
                    return Err(WireError::new(
                        Notification::update(
                            subcode::OPTIONAL_ATTRIBUTE,
                            Bytes::copy_from_slice(rest),
                        ),
                        format!("{}: cut off", attribute_name(kind)),
                    ));
                }
                break;
            };
            let end = block.len() - behind.len();
            let located = Located {
                whole: start..end,
                value: end - attribute.value.len()..end,
            };
            rest = behind;
            let slot = match attribute.kind {
                attribute::MP_REACH => &mut parts.reach,
                attribute::MP_UNREACH => &mut parts.unreach,
                // RFC 4271 §6.3, which RFC 7606 has not changed.
                kind if attribute.flags & flags::OPTIONAL == 0 && !is_registered(kind) => {
                    let reason = "a well-known attribute that is not known".into();
                    return Err(located.reset(block, subcode::UNRECOGNIZED_WELL_KNOWN, reason));
                }
                _ => continue,
            };
            // RFC 7606 §3 g.
            if slot.is_some() {
                return Err(WireError::new(
                    Notification::update(subcode::MALFORMED_ATTRIBUTE_LIST, Bytes::new()),
                    format!("{}: there twice", attribute_name(attribute.kind)),
                ));
            }
            // RFC 7606 §5.3 keeps the reset for wrong flags of these two.
            if attribute.flags & !flags::EXTENDED & 0xF0 != flags::OPTIONAL {
                let reason = format!("flags {:#04x}; allowed: 0x80, 0x90", attribute.flags);
                return Err(located.reset(block, subcode::ATTRIBUTE_FLAGS, reason));
            }
            *slot = Some(located);
        }
        Ok(parts)
    }

    /// Whether the block is an MP_UNREACH_NLRI and nothing else.
    fn only_unreach(&self, block: &[u8]) -> bool {
        self.unreach
            .as_ref()
            .is_some_and(|unreach| unreach.whole == (0..block.len()))
    }

    /// The block without MP_REACH_NLRI and MP_UNREACH_NLRI; borrowed where it is in one piece.
    fn others<'a>(&self, block: &'a [u8]) -> Cow<'a, [u8]> {
        let mut cuts: SmallVec<[&Range<usize>; 2]> = [&self.reach, &self.unreach]
            .into_iter()
            .flatten()
            .map(|located| &located.whole)
            .collect();
        cuts.sort_unstable_by_key(|cut| cut.start);
        let mut pieces: SmallVec<[&[u8]; 3]> = SmallVec::new();
        let mut from = 0;
        for cut in cuts {
            pieces.push(&block[from..cut.start]);
            from = cut.end;
        }
        pieces.push(&block[from..]);
        pieces.retain(|piece| !piece.is_empty());
        match pieces.as_slice() {
            [] => Cow::Borrowed(&[]),
            [piece] => Cow::Borrowed(piece),
            several => Cow::Owned(several.concat()),
        }
    }
}

/// Whether IANA has given `kind` to an attribute: then it is known whether that is well-known, and
/// wrong flags cost its routes and not the session (RFC 7606 §3 c).
fn is_registered(kind: u8) -> bool {
    matches!(kind, 1..=10 | 14..=18 | 22..=26 | 29 | 32..=40 | 128)
}

/// A path attribute as it stands in a message.
pub(super) struct RawAttribute<'a> {
    pub(super) flags: u8,
    pub(super) kind: u8,
    pub(super) value: &'a [u8],
}

/// The first attribute of a block and what is behind it; none when it is cut off.
pub(super) fn split_attribute(block: &[u8]) -> Option<(RawAttribute<'_>, &[u8])> {
    let (&[flags, kind], rest) = block.split_first_chunk::<2>()?;
    let (length, rest) = if flags & flags::EXTENDED != 0 {
        let (length, rest) = rest.split_first_chunk::<2>()?;
        (usize::from(u16::from_be_bytes(*length)), rest)
    } else {
        let (length, rest) = rest.split_first()?;
        (usize::from(*length), rest)
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((RawAttribute { flags, kind, value }, rest))
}

/// The family, when this session carries it.
fn negotiated(afi: u16, safi: u8, context: &Context) -> Option<Family> {
    family(afi, safi).filter(|family| context.families.contains(*family))
}

/// MP_UNREACH_NLRI. RFC 4760 §4.
#[derive(Default)]
struct Unreach<'a> {
    /// AFI and SAFI of a family that this session does not carry.
    ignored: Option<(u16, u8)>,
    nlri: Option<Nlri<'a>>,
}

impl<'a> Unreach<'a> {
    fn parse(
        block: &'a [u8],
        located: &Located,
        context: &Context,
    ) -> Result<Unreach<'a>, WireError> {
        let value = &block[located.value.clone()];
        let Some((&[high, low, safi], nlri)) = value.split_first_chunk::<3>() else {
            let reason = format!("{} octets; allowed: at least 3", value.len());
            return Err(located.reset(block, subcode::ATTRIBUTE_LENGTH, reason));
        };
        let afi = u16::from_be_bytes([high, low]);
        let Some(family) = negotiated(afi, safi, context) else {
            return Ok(Unreach {
                ignored: Some((afi, safi)),
                nlri: None,
            });
        };
        match Nlri::new(family, nlri) {
            Ok(nlri) => Ok(Unreach {
                ignored: None,
                nlri: Some(nlri),
            }),
            Err(reason) => Err(located.reset(block, subcode::OPTIONAL_ATTRIBUTE, reason)),
        }
    }
}

/// MP_REACH_NLRI. RFC 4760 §3.
#[derive(Default)]
struct Reach<'a> {
    /// AFI and SAFI of a family that this session does not carry.
    ignored: Option<(u16, u8)>,
    nlri: Option<Nlri<'a>>,
    /// Whether there are prefixes, or may be.
    anything: bool,
    /// The attribute without its prefixes: the beginning of a key.
    key: Vec<u8>,
}

impl<'a> Reach<'a> {
    fn parse(
        block: &'a [u8],
        located: &Located,
        context: &Context,
    ) -> Result<Reach<'a>, WireError> {
        let value = &block[located.value.clone()];
        let reset = |subcode, reason: String| Err(located.reset(block, subcode, reason));
        let (&[high, low, safi, length], rest) = match value.split_first_chunk::<4>() {
            Some(split) if !split.1.is_empty() => split,
            _ => {
                let reason = format!("{} octets; allowed: at least 5", value.len());
                return reset(subcode::ATTRIBUTE_LENGTH, reason);
            }
        };
        let afi = u16::from_be_bytes([high, low]);
        let Some(family) = negotiated(afi, safi, context) else {
            return Ok(Reach {
                ignored: Some((afi, safi)),
                anything: true,
                ..Reach::default()
            });
        };
        // RFC 7606 §7.11: with an unexpected length the prefixes are not where they seem to be.
        let allowed: &[u8] = match family {
            Family::Ipv6 => &[16, 32],
            Family::Ipv4 if context.extended_next_hop.contains(family) => &[4, 16, 32],
            Family::Ipv4 => &[4],
        };
        let next_hop = usize::from(length);
        let Some((_, nlri)) = rest
            .split_at_checked(next_hop + 1) // and the reserved octet
            .filter(|_| allowed.contains(&length))
        else {
            let reason = format!("a next hop of {length} octets; allowed: {allowed:?}");
            return reset(subcode::OPTIONAL_ATTRIBUTE, reason);
        };
        let nlri = match Nlri::new(family, nlri) {
            Ok(nlri) => nlri,
            Err(reason) => return reset(subcode::OPTIONAL_ATTRIBUTE, reason),
        };
        let head = &value[..4 + next_hop];
        let mut key = vec![flags::OPTIONAL, attribute::MP_REACH, head.len() as u8];
        key.extend_from_slice(head);
        Ok(Reach {
            ignored: None,
            anything: !nlri.is_empty(),
            nlri: Some(nlri),
            key,
        })
    }
}
