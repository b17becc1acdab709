//! TCP connections that somebody begins and never ends, from addresses that are not theirs.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::Context as _;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use crate::namespace::Namespace;

/// Sends SYNs out of a machine by a raw socket.
#[derive(Debug)]
pub struct SynFlood {
    socket: OwnedFd,
}

impl SynFlood {
    /// On a machine.
    ///
    /// # Errors
    ///
    /// When raw sockets are not allowed.
    pub fn new(machine: &Namespace) -> anyhow::Result<SynFlood> {
        let made = machine.within(|| {
            socket(
                AddressFamily::Inet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::Raw, // with the IP header in front
            )
        })?;
        Ok(SynFlood {
            socket: made.context("cannot open a raw socket")?,
        })
    }

    /// One SYN that seems to come from `from`.
    ///
    /// # Errors
    ///
    /// When it cannot be sent.
    pub fn send(&self, from: SocketAddrV4, to: SocketAddrV4) -> anyhow::Result<()> {
        let packet = syn(from, to);
        // A queue that is full for a moment is what a flood wants; the packet is lost.
        match sendto(
            self.socket.as_raw_fd(),
            &packet,
            &SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0)),
            MsgFlags::empty(),
        ) {
            Ok(_) | Err(nix::errno::Errno::ENOBUFS) => Ok(()),
            Err(error) => Err(error).context("cannot send a SYN"),
        }
    }
}

/// IPv4 (RFC 791; the kernel puts in its checksum) and TCP (RFC 9293), without options.
fn syn(from: SocketAddrV4, to: SocketAddrV4) -> [u8; 40] {
    let mut packet = [0; 40];
    let (ip, tcp) = packet.split_at_mut(20);
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&40_u16.to_be_bytes());
    ip[8] = 64;
    ip[9] = 6;
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    tcp[0..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&u32::from(from.port()).to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = 0x02;
    tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let sum = checksum(*from.ip(), *to.ip(), tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Over the pseudo header and the segment. RFC 9293 §3.1.
fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let (from, to) = (from.octets(), to.octets());
    let length = segment.len() as u32;
    let words = [
        &from[..],
        &to,
        &[0, 6],
        &(length as u16).to_be_bytes(),
        segment,
    ]
    .concat();
    let (pairs, _) = words.as_chunks::<2>();
    let mut sum: u32 = pairs
        .iter()
        .map(|w| u32::from(u16::from_be_bytes(*w)))
        .sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}
