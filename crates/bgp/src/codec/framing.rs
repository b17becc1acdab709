//! The stream cut into messages, and the messages that need little more than that.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{HEADER, STANDARD_MESSAGE, WireError, afi_safi, family, kind, open};
use crate::message::{HeaderError, Message, Notification, RefreshKind, code};
use crate::types::Family;

/// Takes the next whole message from the front of `buf`; `None`: more bytes are needed.
///
/// `max_message` is [`STANDARD_MESSAGE`] until both OPENs have said otherwise. A header is judged as
/// soon as it is there, so that garbage is not waited for.
///
/// # Errors
///
/// The NOTIFICATION to send for a header, an OPEN or a ROUTE-REFRESH that is malformed; the stream
/// is of no use after that. RFC 4271 §6.1, §6.2; RFC 7313 §5.
pub fn next_message(buf: &mut BytesMut, max_message: u16) -> Result<Option<Message>, WireError> {
    if buf.iter().take(16).any(|octet| *octet != 0xFF) {
        return Err(WireError::new(
            Notification::header(HeaderError::ConnectionNotSynchronized, Bytes::new()),
            "the marker is not all ones",
        ));
    }
    let Some(&[high, low, kind]) = buf.get(16..HEADER) else {
        return Ok(None);
    };
    let length = u16::from_be_bytes([high, low]);
    check_header(kind, length, max_message)?;
    if buf.len() < usize::from(length) {
        return Ok(None);
    }
    let mut message = buf.split_to(usize::from(length)).freeze();
    if kind == kind::ROUTE_REFRESH {
        return decode_route_refresh(&message).map(Some);
    }
    message.advance(HEADER);
    Ok(Some(match kind {
        kind::OPEN => Message::Open(open::decode_open(message)?),
        kind::UPDATE => Message::Update(message),
        kind::NOTIFICATION => {
            let (code, subcode) = (message.get_u8(), message.get_u8());
            Message::Notification(Notification::new(code, subcode, message))
        }
        // `check_header` lets nothing else through.
        _ => Message::Keepalive,
    }))
}

/// RFC 4271 §6.1: length and type, in this order.
fn check_header(kind: u8, length: u16, max_message: u16) -> Result<(), WireError> {
    let bad_length = |reason: String| {
        let data = Bytes::copy_from_slice(&length.to_be_bytes());
        WireError::new(
            Notification::header(HeaderError::BadMessageLength, data),
            reason,
        )
    };
    // RFC 8654 §4: OPEN and KEEPALIVE stay as short as they were.
    let (name, least, most) = match kind {
        kind::OPEN => ("an OPEN", 29, STANDARD_MESSAGE),
        kind::UPDATE => ("an UPDATE", 23, max_message),
        kind::NOTIFICATION => ("a NOTIFICATION", 21, max_message),
        kind::KEEPALIVE => ("a KEEPALIVE", 19, 19),
        kind::ROUTE_REFRESH => ("a ROUTE-REFRESH", 23, max_message),
        _ => ("a message", 19, max_message),
    };
    if !(least..=most).contains(&length) {
        return Err(bad_length(format!(
            "{name} of {length} octets; allowed: {least} to {most}"
        )));
    }
    if !(kind::OPEN..=kind::ROUTE_REFRESH).contains(&kind) {
        return Err(WireError::new(
            Notification::header(HeaderError::BadMessageType, Bytes::copy_from_slice(&[kind])),
            format!("a message of the unknown type {kind}"),
        ));
    }
    Ok(())
}

/// RFC 2918 §3, RFC 7313 §3.2 and §5.
fn decode_route_refresh(message: &Bytes) -> Result<Message, WireError> {
    let body: [u8; 4] = std::array::from_fn(|at| message[HEADER + at]); // 23 octets at least
    let [high, low, kind, safi] = body;
    let named = family(u16::from_be_bytes([high, low]), safi);
    let (family, kind) = match kind {
        0 => (named, RefreshKind::Request),
        1 => (named, RefreshKind::Begin),
        2 => (named, RefreshKind::End),
        // RFC 7313 §5: a message of an unknown subtype is ignored.
        _ => (None, RefreshKind::Request),
    };
    // What follows a request is ORF (RFC 5291), which nobody may send us: we do not offer it.
    // It only filters, so the plain request in front of it is still right.
    if message.len() > 23 && kind != RefreshKind::Request {
        return Err(WireError::new(
            Notification::new(code::ROUTE_REFRESH, 1, message.clone()),
            format!("a ROUTE-REFRESH of {} octets; allowed: 23", message.len()),
        ));
    }
    Ok(Message::RouteRefresh { family, kind })
}

/// Appends a KEEPALIVE. RFC 4271 §4.4.
pub fn encode_keepalive(out: &mut BytesMut) {
    put_header(kind::KEEPALIVE, HEADER as u16, out);
}

/// Appends a NOTIFICATION; data that does not fit in [`STANDARD_MESSAGE`] octets is cut off.
/// RFC 4271 §4.5.
pub fn encode_notification(notification: &Notification, out: &mut BytesMut) {
    let room = usize::from(STANDARD_MESSAGE) - HEADER - 2;
    let data = &notification.data[..notification.data.len().min(room)];
    put_header(kind::NOTIFICATION, (HEADER + 2 + data.len()) as u16, out);
    out.put_u8(notification.code);
    out.put_u8(notification.subcode);
    out.put_slice(data);
}

/// Appends a ROUTE-REFRESH. RFC 2918 §3, RFC 7313 §3.2.
pub fn encode_route_refresh(family: Family, kind: RefreshKind, out: &mut BytesMut) {
    let (afi, safi) = afi_safi(family);
    put_header(kind::ROUTE_REFRESH, HEADER as u16 + 4, out);
    out.put_u16(afi);
    out.put_u8(match kind {
        RefreshKind::Request => 0,
        RefreshKind::Begin => 1,
        RefreshKind::End => 2,
    });
    out.put_u8(safi);
}

/// Appends the header of a message of `length` octets, itself included (or 0, to be set later).
/// RFC 4271 §4.1.
pub(super) fn put_header(kind: u8, length: u16, out: &mut BytesMut) {
    out.put_slice(&[0xFF; 16]);
    out.put_u16(length);
    out.put_u8(kind);
}
