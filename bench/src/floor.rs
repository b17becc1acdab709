//! The kernel's own floor: the same routes written by nothing but netlink messages, by nexthop id,
//! 512 to a send. No daemon that uses the kernel's tables can be quicker.

use std::io;
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::table::{Family, Table};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEXTHOP: u16 = 104;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const PROTOCOL: u8 = 250;
const NEXTHOP_ID: u32 = 1;
const BATCH: usize = 512;

/// Writes `table` into the calling thread's network namespace, towards `gateway` on the interface
/// with index `oif`, and says how long that took.
pub(crate) fn write(table: &Table, gateway: std::net::IpAddr, oif: u32) -> Result<Duration> {
    let socket = Socket::open()?;
    let mut request = Vec::new();
    nexthop(gateway, oif, &mut request);
    socket.send(&request, 1)?;

    every(RTM_NEWROUTE, table, &socket)
}

/// Removes what [`write`] wrote, and says how long that took.
///
/// # Errors
///
/// When the kernel refuses one removal.
pub(crate) fn remove(table: &Table) -> Result<Duration> {
    every(RTM_DELROUTE, table, &Socket::open()?)
}

fn every(kind: u16, table: &Table, socket: &Socket) -> Result<Duration> {
    let prefixes: Vec<(u128, u8)> = table.prefixes().collect();
    let mut batch = Vec::with_capacity(BATCH * 64);
    let began = Instant::now();
    for chunk in prefixes.chunks(BATCH) {
        batch.clear();
        for (index, (network, length)) in chunk.iter().enumerate() {
            route(
                kind,
                table.family,
                *network,
                *length,
                index + 1 == chunk.len(),
                &mut batch,
            );
        }
        socket.send(&batch, chunk.len())?;
    }
    Ok(began.elapsed())
}

struct Socket(OwnedFd);

impl Socket {
    fn open() -> Result<Socket> {
        // SAFETY: plain system calls; the descriptor is owned from here on.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("cannot open a netlink socket");
        }
        // SAFETY: `fd` is open and nobody else's.
        Ok(Socket(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends `messages`, the last of which asks for an ACK, and waits for it.
    fn send(&self, messages: &[u8], count: usize) -> Result<()> {
        // SAFETY: the buffer is valid for its length.
        let sent = unsafe {
            libc::send(
                self.0.as_raw_fd(),
                messages.as_ptr().cast(),
                messages.len(),
                0,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error()).context("cannot send to netlink");
        }
        let mut answer = [0_u8; 8192];
        // SAFETY: the buffer is valid for its length.
        let read = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                answer.as_mut_ptr().cast(),
                answer.len(),
                0,
            )
        };
        if read < 20 {
            return Err(io::Error::last_os_error()).context("no answer from netlink");
        }
        let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        if error != 0 {
            let error = io::Error::from_raw_os_error(-error);
            bail!("the kernel refused one of {count} messages: {error}");
        }
        Ok(())
    }
}

/// One netlink message: header, `fixed` part, attributes.
fn message(kind: u16, flags: u16, fixed: &[u8], attributes: &[(u16, &[u8])], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend((NLM_F_REQUEST | NLM_F_CREATE | flags).to_ne_bytes());
    out.extend([0; 8]);
    out.extend(fixed);
    for (kind, value) in attributes {
        out.extend((4 + value.len() as u16).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(*value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    let length = (out.len() - start) as u32;
    out[start..start + size_of::<u32>()].copy_from_slice(&length.to_ne_bytes());
}

fn nexthop(gateway: std::net::IpAddr, oif: u32, out: &mut Vec<u8>) {
    const NHA_ID: u16 = 1;
    const NHA_OIF: u16 = 5;
    const NHA_GATEWAY: u16 = 6;
    let (family, octets) = match gateway {
        std::net::IpAddr::V4(a) => (libc::AF_INET, a.octets().to_vec()),
        std::net::IpAddr::V6(a) => (libc::AF_INET6, a.octets().to_vec()),
    };
    let attributes: [(u16, &[u8]); 3] = [
        (NHA_ID, &NEXTHOP_ID.to_ne_bytes()),
        (NHA_OIF, &oif.to_ne_bytes()),
        (NHA_GATEWAY, &octets),
    ];
    let fixed = [family as u8, 0, PROTOCOL, 0, 0, 0, 0, 0];
    message(
        RTM_NEWNEXTHOP,
        NLM_F_ACK | NLM_F_REPLACE,
        &fixed,
        &attributes,
        out,
    );
}

fn route(kind: u16, family: Family, network: u128, length: u8, ack: bool, out: &mut Vec<u8>) {
    const RTA_DST: u16 = 1;
    const RTA_NH_ID: u16 = 30;
    let octets = network.to_be_bytes();
    let v4 = Ipv4Addr::from(network as u32).octets();
    let (family, destination): (_, &[u8]) = match family {
        Family::Ipv4 => (libc::AF_INET, &v4),
        Family::Ipv6 => (libc::AF_INET6, &octets),
    };
    // rtmsg: family, dst_len, src_len, tos, table (main), protocol, scope (universe), type (unicast), flags.
    let fixed = [family as u8, length, 0, 0, 254, PROTOCOL, 0, 1, 0, 0, 0, 0];
    let flags = if ack { NLM_F_ACK } else { 0 };
    let attributes: [(u16, &[u8]); 2] = [
        (RTA_DST, destination),
        (RTA_NH_ID, &NEXTHOP_ID.to_ne_bytes()),
    ];
    message(kind, flags, &fixed, &attributes, out);
}
