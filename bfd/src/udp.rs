//! The sockets: four that receive (two ports, two families), and one a session that sends.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, RawFd};
use std::time::{Duration, Instant};

use bfd::{Hops, SessionKey};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

/// RFC 5881 §4, RFC 5883 §5.
fn port(hops: Hops) -> u16 {
    match hops {
        Hops::Single => 3784,
        Hops::Multi => 4784,
    }
}

/// RFC 5881 §4: the source port of Control packets.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
/// Ports tried for one session before it is given up for now.
const ATTEMPTS: usize = 64;
/// Internetwork control, as routing protocols use it (class selector 6).
const TRAFFIC_CLASS: u32 = 0xc0;
/// Octets kept of a datagram: more than any Control packet has.
const LONGEST: usize = 256;
/// Packets of 500 sessions for a second.
const RECEIVE_BUFFER: usize = 4 << 20;
/// How long a session whose socket failed waits before it tries again.
const RETRY: Duration = Duration::from_secs(1);

/// A socket that receives on one port of one family.
#[derive(Debug)]
pub(crate) struct Receiver {
    socket: Socket,
    hops: Hops,
}

/// What arrived.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    pub(crate) remote: IpAddr,
    /// Its source port.
    pub(crate) port: u16,
    pub(crate) local: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) hops: Hops,
    pub(crate) bytes: &'a [u8],
}

/// Room for one datagram and what the kernel says of it.
#[derive(Debug)]
#[repr(align(8))] // as control messages are
pub(crate) struct Room {
    control: [u8; 128],
    bytes: [u8; LONGEST],
}

impl Room {
    pub(crate) fn new() -> Room {
        Room {
            control: [0; 128],
            bytes: [0; LONGEST],
        }
    }
}

impl Receiver {
    /// All of this host that can be had; a host without IPv6 has two.
    ///
    /// # Errors
    ///
    /// When a port is taken: another BFD daemon runs.
    pub(crate) fn all() -> io::Result<Vec<Receiver>> {
        let mut receivers = Vec::new();
        for hops in [Hops::Single, Hops::Multi] {
            receivers.extend(Receiver::on(port(hops), hops)?);
        }
        Ok(receivers)
    }

    /// On one port, of both families.
    ///
    /// # Errors
    ///
    /// When it is taken.
    pub(crate) fn on(port: u16, hops: Hops) -> io::Result<Vec<Receiver>> {
        let address = |ip: IpAddr| SocketAddr::new(ip, port);
        let mut receivers = vec![Receiver::bind(address(Ipv4Addr::UNSPECIFIED.into()), hops)?];
        match Receiver::bind(address(Ipv6Addr::UNSPECIFIED.into()), hops) {
            Ok(receiver) => receivers.push(receiver),
            Err(error) if no_such_family(&error) => {
                tracing::info!(%error, "this host has no IPv6: no sessions over IPv6");
            }
            Err(error) => return Err(error),
        }
        Ok(receivers)
    }

    fn bind(address: SocketAddr, hops: Hops) -> io::Result<Receiver> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM.nonblocking(),
            Some(Protocol::UDP),
        )?;
        if address.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            socket.set_only_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        // Past the limit of unprivileged processes where that is allowed.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        socket.bind(&address.into()).map_err(|error| {
            let text = format!("UDP port {}: {error}", address.port());
            io::Error::new(error.kind(), text)
        })?;
        Ok(Receiver { socket, hops })
    }

    /// Sends a datagram back to where it came from, as if it had been forwarded.
    pub(crate) fn send_back(&self, received: &Received<'_>) {
        let to = SocketAddr::new(received.remote, received.port);
        let limited = match received.remote {
            IpAddr::V4(_) => self.socket.set_ttl_v4(254),
            IpAddr::V6(_) => self.socket.set_unicast_hops_v6(254),
        };
        if limited.is_ok() {
            // One that cannot be sent is lost, as packets are.
            let _ = self.socket.send_to(received.bytes, &to.into());
        }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The next datagram, `None` when there is none. Allocates nothing.
    pub(crate) fn receive<'a>(&self, room: &'a mut Room) -> io::Result<Option<Received<'a>>> {
        let Room { control, bytes } = room;
        let (mut local, mut ttl) = (None, None);
        let (length, from) = {
            let mut parts = [IoSliceMut::new(bytes)];
            let message = match recvmsg::<SockaddrStorage>(
                self.fd(),
                &mut parts,
                Some(control),
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(message) => message,
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            for control in message.cmsgs()? {
                match control {
                    ControlMessageOwned::Ipv4Ttl(value)
                    | ControlMessageOwned::Ipv6HopLimit(value) => ttl = u8::try_from(value).ok(),
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        local = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into());
                    }
                    ControlMessageOwned::Ipv6PacketInfo(info) => {
                        local = Some(IpAddr::from(info.ipi6_addr.s6_addr));
                    }
                    _ => {}
                }
            }
            (message.bytes, message.address)
        };
        let remote = from.and_then(|from| {
            let v4 = from.as_sockaddr_in();
            let v4 = v4.map(|from| (IpAddr::from(from.ip()), from.port()));
            v4.or_else(|| from.as_sockaddr_in6().map(|it| (it.ip().into(), it.port())))
        });
        let received = match (remote, local, ttl) {
            (Some((remote, port)), Some(local), Some(ttl)) => Received {
                remote,
                port,
                local,
                ttl,
                hops: self.hops,
                bytes: &bytes[..length.min(LONGEST)],
            },
            _ => return Err(io::Error::other("the kernel did not tell address and TTL")),
        };
        Ok(Some(received))
    }
}

fn no_such_family(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

/// What a session sends with. Opened when first needed, and again after an error.
#[derive(Debug)]
pub(crate) struct Sender {
    key: SessionKey,
    /// Its source port, so that it has the same one again. 0: none yet.
    port: u16,
    state: Result<Socket, (Instant, io::Error)>,
}

impl Sender {
    /// `port`: the one that it had before, 0 when there was none.
    pub(crate) fn open(now: Instant, key: SessionKey, port: u16) -> Sender {
        let mut sender = Sender {
            key,
            port,
            state: Err((now, io::ErrorKind::NotConnected.into())),
        };
        sender.open_again(now);
        sender
    }

    fn open_again(&mut self, now: Instant) {
        self.state = match open(self.key, self.port) {
            Ok((socket, port)) => {
                self.port = port;
                Ok(socket)
            }
            Err(error) => Err((now, error)),
        };
    }

    /// The other side.
    pub(crate) fn remote(&self) -> IpAddr {
        self.key.remote
    }

    /// The source port of what is sent; RFC 5881 §4: the same for all packets of a session.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Sends a packet; one that cannot be sent is lost, as packets are.
    pub(crate) fn send(&mut self, now: Instant, packet: &[u8]) {
        if self.state.as_ref().is_err_and(|(at, _)| now < *at + RETRY) {
            return;
        }
        if self.state.is_err() {
            self.open_again(now);
        }
        let Ok(socket) = &self.state else { return };
        let sent = match socket.send(packet) {
            // Not this packet's error: an ICMP message about an earlier one waited here.
            Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => socket.send(packet),
            sent => sent,
        };
        match sent {
            Ok(_) => {}
            // The queue is full, or still no daemon over there: nothing that another socket mends.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EAGAIN | libc::ENOBUFS | libc::ECONNREFUSED)
                ) => {}
            // The address has gone, or there is no route: the kernel has to choose anew.
            Err(error) => self.state = Err((now, error)),
        }
    }

    /// Why nothing is sent.
    pub(crate) fn error(&self) -> Option<String> {
        let (_, error) = self.state.as_ref().err()?;
        let from = match self.key.local {
            Some(local) => format!(" from {local}"),
            None => String::new(),
        };
        Some(format!("cannot send{from} to {}: {error}", self.key.remote))
    }
}

/// A socket, and the port it sends from: `port` if that can be had.
fn open(key: SessionKey, port_before: u16) -> io::Result<(Socket, u16)> {
    let remote = SocketAddr::new(key.remote, port(key.hops));
    let any = match key.remote {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = Socket::new(
        Domain::for_address(remote),
        Type::DGRAM.nonblocking(),
        Some(Protocol::UDP),
    )?;
    // RFC 5881 §5; over several hops it lets the other side count them.
    match key.remote {
        IpAddr::V4(_) => {
            socket.set_ttl_v4(255)?;
            socket.set_tos_v4(TRAFFIC_CLASS)?;
        }
        IpAddr::V6(_) => {
            socket.set_unicast_hops_v6(255)?;
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
        }
    }
    let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
    let before = SOURCE_PORTS.contains(&port_before).then_some(port_before);
    let others = std::iter::repeat_with(|| rand::random_range(SOURCE_PORTS));
    for port in before.into_iter().chain(others).take(ATTEMPTS) {
        let local = SocketAddr::new(key.local.unwrap_or(any), port);
        match socket.bind(&local.into()) {
            Ok(()) => {
                socket.connect(&remote.into())?;
                return Ok((socket, port));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_leave_from_the_ports_and_with_the_ttl_of_the_rfc() {
        let key = SessionKey {
            remote: [127, 0, 0, 1].into(),
            local: Some([127, 0, 0, 2].into()),
            hops: Hops::Single,
        };
        let (socket, port) = open(key, 0).unwrap();
        let local = socket.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(local.ip(), key.local.unwrap());
        assert!(SOURCE_PORTS.contains(&port) && local.port() == port);
        let remote = socket.peer_addr().unwrap().as_socket().unwrap();
        assert_eq!(remote, SocketAddr::new(key.remote, 3784));
        assert_eq!(socket.ttl_v4().unwrap(), 255);
        let (_, other) = open(key, port).unwrap();
        assert_ne!(other, port, "it is taken");
        drop(socket);
        assert_eq!(open(key, port).unwrap().1, port);
    }

    #[test]
    fn an_address_that_is_not_there_is_named_and_tried_again_later() {
        let now = Instant::now();
        let key = SessionKey {
            remote: [127, 0, 0, 1].into(),
            local: Some([192, 0, 2, 77].into()),
            hops: Hops::Multi,
        };
        let mut sender = Sender::open(now, key, 0);
        let error = sender.error().unwrap();
        assert!(error.contains("from 192.0.2.77 to 127.0.0.1"), "{error}");
        sender.key.local = None; // the address is there now
        sender.send(now, b"x");
        assert!(sender.error().is_some(), "not at once");
        sender.send(now + RETRY, b"x");
        assert_eq!(sender.error(), None);
    }
}
