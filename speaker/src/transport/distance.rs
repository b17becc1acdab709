//! How far packets go, and from how far they may come (GTSM, RFC 5082).
//!
//! A connection has a minimum of its own (`IP_MINTTL`), which the kernel looks at before anything
//! else. A listening socket is shared by peers that want one and others that do not, and whoever
//! connects could send before we know of it. So a filter on the listening socket drops what comes with
//! the address of such a peer from too far, from the first SYN on; connections are born with it, and
//! lose it once they have their minimum.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use bgp::config::PeerConfig;
use nix::libc::{
    BPF_ABS, BPF_B, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, IP_MINTTL,
    IPPROTO_IP, IPPROTO_IPV6, IPV6_MINHOPCOUNT, SKF_NET_OFF, c_int, socklen_t,
};
use socket2::{SockFilter, Socket};

/// What our end of TTL security sends with: no router lets a packet through that still has it.
const MOST: u8 = 255;

/// How connections with a peer are made, whichever side opens them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Distance {
    /// IP time to live of what we send.
    pub(super) ttl: u8,
    /// What comes with less is dropped; 0: nothing is.
    pub(super) least: u8,
}

impl Distance {
    /// As a peer is configured.
    pub(crate) fn of(peer: &PeerConfig) -> Distance {
        Distance {
            ttl: peer.ttl,
            // One hop is the same link, where nothing is taken off.
            least: peer.ttl_security.map_or(0, |hops| MOST - (hops - 1)),
        }
    }

    /// Sets both on a connection with `remote`, or before there is one.
    pub(super) fn set(self, socket: &Socket, remote: IpAddr) -> io::Result<()> {
        match remote {
            IpAddr::V4(_) => socket.set_ttl_v4(self.ttl.into())?,
            IpAddr::V6(_) => socket.set_unicast_hops_v6(self.ttl.into())?,
        }
        if self.least == 0 {
            return Ok(());
        }
        let (level, option) = match remote {
            IpAddr::V4(_) => (IPPROTO_IP, IP_MINTTL),
            IpAddr::V6(_) => (IPPROTO_IPV6, IPV6_MINHOPCOUNT),
        };
        set_option(socket, level, option, c_int::from(self.least))
    }

    /// As [`Distance::set`], on a connection that was accepted: it has the listening socket's filter
    /// until its own minimum is in force.
    pub(super) fn set_on_accepted(self, socket: &Socket, remote: IpAddr) -> io::Result<()> {
        self.set(socket, remote)?;
        without_filter(socket)
    }
}

/// Prepares a listening socket: its answers travel as far as any, so that a peer with TTL security
/// takes them, and what comes from too far is dropped, by the address that it comes from.
///
/// # Errors
///
/// When the kernel does not take the filter, as when it is too long for `net.core.optmem_max`; then
/// everything is dropped that comes to be accepted.
pub(super) fn guard(
    listener: &Socket,
    is_ipv6: bool,
    known: &HashMap<IpAddr, Distance>,
) -> io::Result<()> {
    match is_ipv6 {
        false => listener.set_ttl_v4(MOST.into())?,
        true => listener.set_unicast_hops_v6(MOST.into())?,
    }
    let mut near: Vec<(IpAddr, u8)> = (known.iter())
        .filter(|(address, distance)| distance.least > 0 && address.is_ipv6() == is_ipv6)
        .map(|(address, distance)| (*address, distance.least))
        .collect();
    near.sort_unstable();
    if near.is_empty() {
        return without_filter(listener);
    }
    listener.attach_filter(&program(&near)).inspect_err(|_| {
        // One instruction fits anywhere.
        let _ = listener.attach_filter(&[drop_it()]);
    })
}

fn without_filter(socket: &Socket) -> io::Result<()> {
    match socket.detach_filter() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()), // there is none
        other => other,
    }
}

fn set_option(socket: &Socket, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as socklen_t;
    // SAFETY: the pointer and the length are those of `value`, which lives until the call is over.
    let outcome = unsafe {
        let value = &raw const value;
        nix::libc::setsockopt(socket.as_raw_fd(), level, option, value.cast(), length)
    };
    nix::errno::Errno::result(outcome)?;
    Ok(())
}

/// Where the filter looks: offsets in the IP header.
struct Header {
    ttl: u32,
    source: u32,
}

const IPV4: Header = Header { ttl: 8, source: 12 };
const IPV6: Header = Header { ttl: 7, source: 8 };

/// Drops what comes with one of these addresses and less than its TTL, and lets everything else pass.
/// All are of one family.
fn program(near: &[(IpAddr, u8)]) -> Vec<SockFilter> {
    let mut program = Vec::new();
    for (address, least) in near {
        let (header, words) = match address {
            IpAddr::V4(address) => (IPV4, vec![address.to_bits()]),
            IpAddr::V6(address) => {
                let octets = address.octets();
                let words = octets.chunks_exact(4);
                let word = |it: &[u8]| u32::from_be_bytes([it[0], it[1], it[2], it[3]]);
                (IPV6, words.map(word).collect())
            }
        };
        let judgement = [
            load(BPF_B, header.ttl),
            jump(BPF_JGE, u32::from(*least), 0, 1),
            pass(),
            drop_it(),
        ];
        for (index, word) in words.iter().enumerate() {
            let after = words.len() - index - 1; // two instructions each
            let other = 2 * after + judgement.len();
            program.push(load(BPF_W, header.source + 4 * index as u32));
            program.push(jump(BPF_JEQ, *word, 0, other as u8));
        }
        program.extend(judgement);
    }
    program.push(pass());
    program
}

fn load(size: u32, offset: u32) -> SockFilter {
    // Negative offsets count from the network header.
    let from = (SKF_NET_OFF as u32).wrapping_add(offset);
    instruction(BPF_LD | size | BPF_ABS, from)
}

fn jump(condition: u32, value: u32, if_true: u8, if_false: u8) -> SockFilter {
    let code = (BPF_JMP | condition | BPF_K) as u16;
    SockFilter::new(code, if_true, if_false, value)
}

fn pass() -> SockFilter {
    instruction(BPF_RET | BPF_K, u32::MAX)
}

fn drop_it() -> SockFilter {
    instruction(BPF_RET | BPF_K, 0)
}

fn instruction(code: u32, value: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, value)
}

#[cfg(test)]
mod tests;
