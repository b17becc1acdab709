//! Netlink messages: requests packed one behind the other, answers taken apart.
//!
//! Everything is in the host's byte order but addresses. `linux/netlink.h`, `linux/rtnetlink.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_core::Emitable as _;
use rtnetlink::packet_route::link::LinkMessage;

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Bytes of `struct rtattr`.
const ATTRIBUTE_HEADER: usize = 4;

/// `NLMSG_ERROR`: the outcome of one request.
pub(crate) const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a list.
pub(crate) const DONE: u16 = 3;

pub(crate) const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
pub(crate) const ACK: u16 = libc::NLM_F_ACK as u16;
pub(crate) const DUMP: u16 = libc::NLM_F_DUMP as u16;
pub(crate) const CREATE: u16 = libc::NLM_F_CREATE as u16;
pub(crate) const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
pub(crate) const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
pub(crate) const APPEND: u16 = libc::NLM_F_APPEND as u16;
/// `NLM_F_DUMP_INTR`: the list changed while it was read.
pub(crate) const INTERRUPTED: u16 = 0x10;

/// Requests, one behind the other, as one send takes them.
///
/// Each kind of object adds its own methods: `add_route`, `put_next_hop`, … The place of a request
/// (0 is the first) is what [`Failure`](crate::Failure) names when it fails.
#[derive(Debug)]
pub struct Requests {
    pub(crate) bytes: Vec<u8>,
    /// Where the last request begins.
    last: usize,
    count: usize,
    /// Sequence number of the first request.
    pub(crate) first: u32,
}

impl Default for Requests {
    fn default() -> Requests {
        Requests::new()
    }
}

impl Requests {
    /// None yet.
    pub fn new() -> Requests {
        Requests {
            bytes: Vec::new(),
            last: 0,
            count: 0,
            first: 1,
        }
    }

    /// How many requests there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Forgets all of them; the memory is kept for the next ones.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.first = self.first.wrapping_add(self.count as u32);
        self.count = 0;
    }

    pub(crate) fn begin(&mut self, kind: u16, flags: u16) {
        self.last = self.bytes.len();
        let sequence = self.first.wrapping_add(self.count as u32);
        self.bytes.extend_from_slice(&0u32.to_ne_bytes()); // the length, known in `end`
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.count += 1;
    }

    pub(crate) fn end(&mut self) {
        let length = (self.bytes.len() - self.last) as u32;
        self.bytes[self.last..self.last + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Raw bytes behind the header; their number must be a multiple of four.
    pub(crate) fn body(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A request about a link in the words of `rtnetlink`.
    pub fn link_message(&mut self, kind: u16, flags: u16, message: &LinkMessage) {
        self.begin(kind, flags);
        let start = self.bytes.len();
        self.bytes.resize(start + message.buffer_len(), 0);
        message.emit(&mut self.bytes[start..]);
        self.end();
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// An attribute that holds others.
    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Requests)) {
        let start = self.bytes.len();
        self.attribute(kind, &[]);
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    pub(crate) fn attribute_u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    pub(crate) fn attribute_address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(a) => self.attribute(kind, &a.octets()),
            IpAddr::V6(a) => self.attribute(kind, &a.octets()),
        }
    }

    /// Asks for an answer to the last request even when it succeeds, so that the answers have an
    /// end.
    pub(crate) fn acknowledge_last(&mut self) {
        let flags = self.last + 6;
        let old = u16::from_ne_bytes([self.bytes[flags], self.bytes[flags + 1]]);
        self.bytes[flags..flags + 2].copy_from_slice(&(old | ACK).to_ne_bytes());
    }
}

/// One message from the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The socket whose request caused it; 0 is the kernel itself.
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

/// The messages of one datagram. Ends early at a length that cannot be.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        if length < HEADER || length > bytes.len() {
            return None;
        }
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            port: u32_at(bytes, 12)?,
            body: &bytes[HEADER..length],
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

/// The attributes that follow the first `skip` bytes, as kind and value. Ends early at a length
/// that cannot be.
pub(crate) fn attributes(body: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut bytes = body.get(skip..).unwrap_or(&[]);
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        if length < ATTRIBUTE_HEADER || length > bytes.len() {
            return None;
        }
        // The two highest bits say "nested" and "network byte order".
        let kind = u16_at(bytes, 2)? & 0x3FFF;
        let value = &bytes[ATTRIBUTE_HEADER..length];
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// An address of four or sixteen octets; anything else is none.
pub(crate) fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(octets)
        .ok()
        .map(|octets| Ipv6Addr::from(octets).into())
}

/// A text that ends at its first NUL.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// `AF_INET` or `AF_INET6`.
pub(crate) fn address_family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_back_with_its_attributes_padded_to_four_bytes() {
        let mut requests = Requests::new();
        requests.begin(24, CREATE);
        requests.body(&[1, 2, 3, 4]);
        requests.attribute(7, &[9]);
        requests.attribute_u32(8, 77);
        requests.end();
        requests.begin(25, 0);
        requests.end();
        requests.acknowledge_last();

        let read: Vec<_> = messages(&requests.bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].kind, 24);
        assert_eq!(read[0].flags, CREATE | REQUEST);
        assert_eq!(&read[0].body[..4], &[1, 2, 3, 4]);
        let values: Vec<_> = attributes(read[0].body, 4).collect();
        assert_eq!(values, [(7, &[9][..]), (8, &77u32.to_ne_bytes()[..])]);
        assert_eq!(read[1].flags, REQUEST | ACK);
        assert_eq!(read[1].sequence, read[0].sequence + 1);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_disturb_the_reading(bytes in proptest::collection::vec(0u8.., 0..200)) {
            for message in messages(&bytes) {
                let _ = attributes(message.body, 12).count();
            }
        }
    }
}
