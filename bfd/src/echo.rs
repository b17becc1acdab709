//! Echo packets on the wire. RFC 5881 §4.
//!
//! Ours are sent to our own address, in frames for the hardware of the other side, whose kernel
//! forwards them back to us; ours in turn would drop them, because nobody else may send from our
//! address. So they go out and come in by way of packet sockets. These also see Control packets, from
//! whose frames the other side's hardware address is learned.
//!
//! Echo packets of others that are made likewise are looped by our kernel's forwarding alone. FRR sends
//! those over IPv6 to *our* address: they are sent back here.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use bfd::EchoWire;

use crate::udp::{Receiver, Room};

/// RFC 5881 §4.
const PORT: u16 = 3785;
/// Of single-hop Control packets.
const CONTROL_PORT: u16 = 3784;
/// Internetwork control, as Control packets have it.
const TRAFFIC_CLASS: u8 = 0xc0;
const UDP: u8 = 17;
/// The longest packet we build: IPv6, UDP, and what is in it.
const LONGEST: usize = 40 + 8 + bfd::echo::LENGTH;
/// Octets kept of what arrives.
const KEPT: usize = 256;

/// How Echo packets get to the other side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    interface: i32,
    hardware: [u8; 8],
    hardware_length: u8,
    local: IpAddr,
}

/// The sockets, and what is known of the other sides.
#[derive(Debug)]
pub(crate) struct Echoes {
    /// For IPv4 and IPv6.
    packets: [OwnedFd; 2],
    /// For those whose echoes come to our address.
    mirrors: Vec<Receiver>,
    /// Every other side whose session has Echo packets.
    ways: HashMap<IpAddr, Option<Way>>,
}

impl Echoes {
    /// Sockets for sessions with these other sides.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; packet sockets take CAP_NET_RAW.
    pub(crate) fn open() -> io::Result<Echoes> {
        let packets = [
            packet_socket(libc::ETH_P_IP).map_err(refused)?,
            packet_socket(libc::ETH_P_IPV6).map_err(refused)?,
        ];
        Ok(Echoes {
            packets,
            mirrors: Receiver::on(PORT, bfd::Hops::Single)?,
            ways: HashMap::new(),
        })
    }

    /// Other sides that have Echo packets, all of them.
    pub(crate) fn configure(&mut self, remotes: impl IntoIterator<Item = IpAddr>) {
        let known = std::mem::take(&mut self.ways);
        let way = |remote: IpAddr| (remote, known.get(&remote).copied().flatten());
        self.ways = remotes.into_iter().map(way).collect();
    }

    /// To be waited for.
    pub(crate) fn fds(&self) -> impl Iterator<Item = RawFd> {
        let packets = self.packets.iter().map(|it| it.as_raw_fd());
        packets.chain(self.mirrors.iter().map(Receiver::fd))
    }

    /// Sends a packet of ours on its way to us; before the way is known it is lost.
    pub(crate) fn send(&self, remote: IpAddr, packet: &EchoWire) {
        let Some(Some(way)) = self.ways.get(&remote) else {
            return;
        };
        let mut bytes = [0; LONGEST];
        let length = build(way.local, packet.as_bytes(), &mut bytes);
        let (socket, protocol) = match way.local {
            IpAddr::V4(_) => (&self.packets[0], libc::ETH_P_IP),
            IpAddr::V6(_) => (&self.packets[1], libc::ETH_P_IPV6),
        };
        let mut to = link_address(protocol);
        to.sll_ifindex = way.interface;
        to.sll_addr = way.hardware;
        to.sll_halen = way.hardware_length;
        // SAFETY: both buffers are whole and outlive the call. What cannot be sent is lost, as packets
        // are.
        unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                length,
                libc::MSG_DONTWAIT,
                (&raw const to).cast(),
                size_of_val(&to) as libc::socklen_t,
            );
        }
    }

    /// Everything that has arrived; `came_back` is called with what may be ours.
    pub(crate) fn read(&mut self, room: &mut Room, mut came_back: impl FnMut(&[u8])) {
        let mut bytes = [0; KEPT];
        for socket in &self.packets {
            while let Some((length, from)) = receive(socket, &mut bytes) {
                let Some(seen) = Seen::parse(&bytes[..length]) else {
                    continue;
                };
                if seen.port == PORT {
                    came_back(seen.payload);
                } else if let Some(way) = self.ways.get_mut(&seen.source)
                    && seen.ttl == 255
                {
                    *way = Some(Way {
                        interface: from.sll_ifindex,
                        hardware: from.sll_addr,
                        hardware_length: from.sll_halen.min(8),
                        local: seen.destination,
                    });
                }
            }
        }
        for mirror in &self.mirrors {
            while let Ok(Some(received)) = mirror.receive(room) {
                // One that was looped already arrives with less.
                if received.ttl == 255 && self.ways.contains_key(&received.remote) {
                    mirror.send_back(&received);
                }
            }
        }
    }
}

fn refused(error: io::Error) -> io::Error {
    let text = format!("a packet socket is refused (it takes CAP_NET_RAW): {error}");
    io::Error::new(error.kind(), text)
}

fn link_address(protocol: i32) -> libc::sockaddr_ll {
    // SAFETY: plain numbers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (protocol as u16).to_be();
    address
}

/// A socket that sees the packets of one family for the two ports, without their frames.
fn packet_socket(protocol: i32) -> io::Result<OwnedFd> {
    // Of no protocol until the filter is in place.
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut filter = filter();
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its instructions outlive the call.
    let attached = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    let address = link_address(protocol);
    // SAFETY: the address is whole and outlives the call.
    let bound = || unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if attached != 0 || bound() != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// UDP to one of the two ports; BPF over the packet from its IP header on.
fn filter() -> [libc::sock_filter; 18] {
    const LOAD_OCTET: u16 = 0x30; // ld b [k]
    const LOAD_HALF: u16 = 0x28; // ld h [k]
    const LOAD_HALF_AFTER: u16 = 0x48; // ld h [x + k]
    const HEADER_LENGTH: u16 = 0xb1; // ldx 4 * ([k] & 0xf)
    const SHIFT_RIGHT: u16 = 0x74;
    const IF_EQUAL: u16 = 0x15;
    const IF_BITS: u16 = 0x45;
    const GO: u16 = 0x05;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    [
        step(LOAD_OCTET, 0, 0, 0),
        step(SHIFT_RIGHT, 0, 0, 4),
        step(IF_EQUAL, 0, 7, 4), // else to the IPv6 part
        step(LOAD_OCTET, 0, 0, 9),
        step(IF_EQUAL, 0, 12, UDP.into()),
        step(LOAD_HALF, 0, 0, 6),
        step(IF_BITS, 10, 0, 0x1fff), // a later fragment
        step(HEADER_LENGTH, 0, 0, 0),
        step(LOAD_HALF_AFTER, 0, 0, 2),
        step(GO, 0, 0, 4),       // to the ports
        step(IF_EQUAL, 0, 6, 6), // IPv6
        step(LOAD_OCTET, 0, 0, 6),
        step(IF_EQUAL, 0, 4, UDP.into()),
        step(LOAD_HALF, 0, 0, 42),
        step(IF_EQUAL, 1, 0, PORT.into()),
        step(IF_EQUAL, 0, 1, CONTROL_PORT.into()),
        step(RETURN, 0, 0, KEPT as u32),
        step(RETURN, 0, 0, 0),
    ]
}

/// The next packet from a packet socket, and the frame it came in.
fn receive(socket: &OwnedFd, bytes: &mut [u8; KEPT]) -> Option<(usize, libc::sockaddr_ll)> {
    let mut from = link_address(0);
    let mut length = size_of_val(&from) as libc::socklen_t;
    // SAFETY: the buffers are as large as is said, and outlive the call.
    let count = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            bytes.as_mut_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT,
            (&raw mut from).cast(),
            &raw mut length,
        )
    };
    usize::try_from(count)
        .ok()
        .map(|count| (count.min(KEPT), from))
}

/// A UDP packet, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Seen<'a> {
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    port: u16,
    payload: &'a [u8],
}

impl Seen<'_> {
    /// From the IP header on; options of IPv4 are skipped, IPv6 must have none.
    fn parse(bytes: &[u8]) -> Option<Seen<'_>> {
        let (source, destination, ttl, header) = match bytes.first()? >> 4 {
            4 => {
                let header = usize::from(bytes[0] & 0xf) * 4;
                let fixed: &[u8; 20] = bytes.first_chunk()?;
                let address = |at: usize| {
                    Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3])
                };
                (address(12).into(), address(16).into(), fixed[8], header)
            }
            6 => {
                let fixed: &[u8; 40] = bytes.first_chunk()?;
                let address = |at: usize| {
                    let octets = fixed[at..].first_chunk::<16>();
                    octets.map(|octets| IpAddr::from(Ipv6Addr::from(*octets)))
                };
                (address(8)?, address(24)?, fixed[7], 40)
            }
            _ => return None,
        };
        let udp = bytes.get(header..)?;
        let (head, payload) = udp.split_at_checked(8)?;
        // A frame may be longer than what is in it.
        let length = usize::from(u16::from_be_bytes([head[4], head[5]])).checked_sub(8)?;
        Some(Seen {
            source,
            destination,
            ttl,
            port: u16::from_be_bytes([head[2], head[3]]),
            payload: payload.get(..length)?,
        })
    }
}

/// A UDP packet from and to `local` with TTL 255, from the IP header on; how long it is.
fn build(local: IpAddr, payload: &[u8], out: &mut [u8; LONGEST]) -> usize {
    let udp_length = 8 + payload.len();
    let mut pseudo = 0_u32;
    let header = match local {
        IpAddr::V4(address) => {
            let total = (20 + udp_length) as u16;
            out[0] = 0x45;
            out[1] = TRAFFIC_CLASS;
            out[2..4].copy_from_slice(&total.to_be_bytes());
            out[6] = 0x40; // do not fragment
            out[8] = 255;
            out[9] = UDP;
            for at in [12, 16] {
                out[at..at + 4].copy_from_slice(&address.octets());
            }
            let checksum = fold(add(0, &out[..20]));
            out[10..12].copy_from_slice(&checksum.to_be_bytes());
            pseudo = add(pseudo, &out[12..20]);
            20
        }
        IpAddr::V6(address) => {
            out[0] = 0x60 | TRAFFIC_CLASS >> 4;
            out[1] = TRAFFIC_CLASS << 4;
            out[4..6].copy_from_slice(&(udp_length as u16).to_be_bytes());
            out[6] = UDP;
            out[7] = 255;
            for at in [8, 24] {
                out[at..at + 16].copy_from_slice(&address.octets());
            }
            pseudo = add(pseudo, &out[8..40]);
            40
        }
    };
    let end = header + udp_length;
    let udp = &mut out[header..end];
    udp[..2].copy_from_slice(&PORT.to_be_bytes());
    udp[2..4].copy_from_slice(&PORT.to_be_bytes());
    udp[4..6].copy_from_slice(&(udp_length as u16).to_be_bytes());
    udp[8..].copy_from_slice(payload);
    pseudo += u32::from(UDP) + udp_length as u32;
    let checksum = match fold(add(pseudo, udp)) {
        0 => u16::MAX, // 0 would mean: none
        checksum => checksum,
    };
    udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    end
}

/// RFC 1071: the sum of 16-bit words.
fn add(sum: u32, bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|word| match word {
        [a, b] => u32::from(u16::from_be_bytes([*a, *b])),
        [a] => u32::from(*a) << 8,
        _ => 0,
    });
    sum + words.sum::<u32>()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_built_is_right_for_the_kernel_and_is_read_again() {
        let payload = [7; bfd::echo::LENGTH];
        for (local, header) in [("192.0.2.1", 20), ("2001:db8::1", 40)] {
            let local: IpAddr = local.parse().unwrap();
            let mut bytes = [0; LONGEST];
            let length = build(local, &payload, &mut bytes);
            assert_eq!(length, header + 8 + payload.len());
            let seen = Seen::parse(&bytes).unwrap();
            let expected = Seen {
                source: local,
                destination: local,
                ttl: 255,
                port: PORT,
                payload: &payload,
            };
            assert_eq!(seen, expected);
            // A sum over what was summed, with the sum in it, is nothing.
            if local.is_ipv4() {
                assert_eq!(fold(add(0, &bytes[..20])), 0);
            }
            let addresses = if local.is_ipv4() { 12..20 } else { 8..40 };
            let pseudo = add(0, &bytes[addresses]) + u32::from(UDP) + (length - header) as u32;
            assert_eq!(fold(add(pseudo, &bytes[header..length])), 0);
            for cut in 0..length {
                assert_eq!(Seen::parse(&bytes[..cut]), None, "{cut} octets");
            }
        }
        assert_eq!(Seen::parse(&[0x45; 60]), None, "lengths that do not fit");
    }
}
