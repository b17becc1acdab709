//! A peer that says exactly the bytes it is told to, for what no real speaker would say.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use crate::namespace::Namespace;

/// OPEN, UPDATE, NOTIFICATION, KEEPALIVE. RFC 4271 §4.1.
pub const OPEN: u8 = 1;
/// RFC 4271 §4.3.
pub const UPDATE: u8 = 2;
/// RFC 4271 §4.5.
pub const NOTIFICATION: u8 = 3;
/// RFC 4271 §4.4.
pub const KEEPALIVE: u8 = 4;

/// How long the other side may take to say something.
const PATIENCE: Duration = Duration::from_secs(10);

/// One TCP connection to (or from) a speaker.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
}

/// A message as it came: its type and what follows the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// See [`OPEN`] and the others.
    pub kind: u8,
    /// Without the 19 octets of the header.
    pub body: Vec<u8>,
}

impl Raw {
    /// Connects from a machine to a speaker.
    ///
    /// # Errors
    ///
    /// When nobody listens.
    pub fn connect(machine: &Namespace, to: SocketAddr) -> anyhow::Result<Raw> {
        let stream = machine
            .within(|| TcpStream::connect_timeout(&to, PATIENCE))?
            .with_context(|| format!("cannot connect to {to}"))?;
        Raw::over(stream)
    }

    /// Connects from one of a machine's addresses to a speaker.
    ///
    /// # Errors
    ///
    /// When the address is not there, or nobody listens.
    pub fn connect_from(
        machine: &Namespace,
        from: Ipv4Addr,
        to: SocketAddr,
    ) -> anyhow::Result<Raw> {
        let connected = machine.within(|| -> anyhow::Result<TcpStream> {
            let socket = socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::SOCK_CLOEXEC,
                None,
            )?;
            bind(
                socket.as_raw_fd(),
                &SockaddrIn::from(SocketAddrV4::new(from, 0)),
            )?;
            let SocketAddr::V4(to) = to else {
                bail!("{to} is of the other family");
            };
            connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
            Ok(TcpStream::from(socket))
        })?;
        Raw::over(connected.with_context(|| format!("cannot connect from {from} to {to}"))?)
    }

    /// Waits for a speaker to connect to a machine.
    ///
    /// # Errors
    ///
    /// When the address is not there or taken.
    pub fn accept(machine: &Namespace, at: SocketAddr) -> anyhow::Result<Raw> {
        let (stream, _) = machine.within(|| TcpListener::bind(at)?.accept())??;
        Raw::over(stream)
    }

    /// Speaks over a connection that is there.
    ///
    /// # Errors
    ///
    /// When it cannot be set up.
    pub fn over(stream: TcpStream) -> anyhow::Result<Raw> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Raw { stream })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).context("cannot send")
    }

    /// Whether the other side has closed it, or reset it; waits up to ten seconds for that.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }

    /// Waits as long as this for the other side from now on.
    ///
    /// # Errors
    ///
    /// When the socket cannot be told.
    pub fn set_patience(&mut self, patience: Duration) -> anyhow::Result<()> {
        self.stream.set_read_timeout(Some(patience))?;
        Ok(self.stream.set_write_timeout(Some(patience))?)
    }

    /// The next message.
    ///
    /// # Errors
    ///
    /// When the connection ends, or nothing comes for ten seconds.
    pub fn receive(&mut self) -> anyhow::Result<Received> {
        let mut header = [0; 19];
        self.stream
            .read_exact(&mut header)
            .context("no message came")?;
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        let Some(rest) = length.checked_sub(19) else {
            bail!("a message of {length} octets came");
        };
        let mut body = vec![0; rest];
        self.stream
            .read_exact(&mut body)
            .context("half a message came")?;
        Ok(Received {
            kind: header[18],
            body,
        })
    }

    /// The next message of a kind; others are passed over.
    ///
    /// # Errors
    ///
    /// As [`receive`](Raw::receive), or when a NOTIFICATION comes that was not asked for.
    pub fn expect(&mut self, kind: u8) -> anyhow::Result<Received> {
        loop {
            let message = self.receive()?;
            if message.kind == kind {
                return Ok(message);
            }
            if message.kind == NOTIFICATION {
                bail!("a NOTIFICATION came: {:02x?}", message.body);
            }
        }
    }

    /// Opens a session up to Established.
    ///
    /// # Errors
    ///
    /// When the other side refuses.
    pub fn establish(&mut self, asn: u32, router_id: Ipv4Addr) -> anyhow::Result<()> {
        self.send(&open(asn, router_id))?;
        self.expect(OPEN)?;
        self.send(&message(KEEPALIVE, &[]))?;
        self.expect(KEEPALIVE).map(drop)
    }
}

/// A message with a correct header.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![0xff; 16];
    bytes.extend(length.to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// An OPEN with hold time 90 s, both unicast families and 4-octet AS numbers.
pub fn open(asn: u32, router_id: Ipv4Addr) -> Vec<u8> {
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 65, 4];
    capabilities.extend(asn.to_be_bytes());
    let parameter = [&[2, capabilities.len() as u8], capabilities.as_slice()].concat();
    let mut body = vec![4];
    body.extend(u16::try_from(asn).unwrap_or(23456).to_be_bytes());
    body.extend(90_u16.to_be_bytes());
    body.extend(router_id.octets());
    body.push(parameter.len() as u8);
    body.extend(parameter);
    message(OPEN, &body)
}

/// An UPDATE that announces IPv4 prefixes (address and length) with these path attributes.
pub fn update(attributes: &[u8], prefixes: &[(Ipv4Addr, u8)]) -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend(
        u16::try_from(attributes.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    body.extend(attributes);
    for (address, length) in prefixes {
        body.push(*length);
        body.extend(&address.octets()[..usize::from(length.div_ceil(8))]);
    }
    message(UPDATE, &body)
}

/// ORIGIN (IGP), AS_PATH (one sequence, 4-octet) and NEXT_HOP.
pub fn attributes(as_path: &[u32], next_hop: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0x40, 1, 1, 0, 0x40, 2];
    bytes.push((2 + 4 * as_path.len()) as u8);
    bytes.extend([2, as_path.len() as u8]);
    for asn in as_path {
        bytes.extend(asn.to_be_bytes());
    }
    bytes.extend([0x40, 3, 4]);
    bytes.extend(next_hop.octets());
    bytes
}
