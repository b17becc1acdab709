//! The smallest BGP speaker that can drive a daemon: it connects, sends what was prepared, and counts
//! what comes back.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::table::{Family, slot4, slot6};

const KEEPALIVE: [u8; 19] = [
    0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
    0, 19, 4,
];

/// An established session.
pub(crate) struct Session {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    last_keepalive: Instant,
}

/// What a read brought.
#[derive(Default)]
pub(crate) struct Heard {
    /// Slots of announced destinations.
    pub(crate) announced: Vec<u64>,
}

impl Session {
    /// Connects from `local` to the daemon at `remote`:179, again and again until it is there or
    /// `patience` is over, and brings the session up as AS `asn`.
    pub(crate) fn open(
        local: IpAddr,
        remote: IpAddr,
        asn: u32,
        patience: Duration,
    ) -> Result<Session> {
        let deadline = Instant::now() + patience;
        loop {
            let error = match Session::try_open(remote, asn) {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            if Instant::now() > deadline {
                return Err(error.context(format!("no BGP session from {local} to {remote}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn try_open(remote: IpAddr, asn: u32) -> Result<Session> {
        let mut stream =
            TcpStream::connect_timeout(&SocketAddr::new(remote, 179), Duration::from_secs(2))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let IpAddr::V4(id) = stream.local_addr()?.ip() else {
            bail!("an IPv4 session is needed")
        };
        stream.write_all(&open_message(asn, id.octets()))?;
        let mut session = Session {
            stream,
            buffer: vec![0; 1 << 18],
            filled: 0,
            last_keepalive: Instant::now(),
        };
        let kind = session.next_kind()?;
        if kind != 1 {
            bail!("the daemon answered with message type {kind} instead of OPEN");
        }
        session.stream.write_all(&KEEPALIVE)?;
        let kind = session.next_kind()?;
        if kind != 4 {
            bail!("the daemon answered with message type {kind} instead of KEEPALIVE");
        }
        Ok(session)
    }

    /// Waits for one message and drops it; its type.
    fn next_kind(&mut self) -> Result<u8> {
        loop {
            if self.filled >= 19 {
                let length = usize::from(u16::from_be_bytes([self.buffer[16], self.buffer[17]]));
                if self.filled >= length {
                    let kind = self.buffer[18];
                    self.buffer.copy_within(length..self.filled, 0);
                    self.filled -= length;
                    return Ok(kind);
                }
            }
            let read = self.stream.read(&mut self.buffer[self.filled..])?;
            if read == 0 {
                bail!("the daemon closed the connection");
            }
            self.filled += read;
        }
    }

    /// A second handle to the connection, to send while another thread reads.
    pub(crate) fn sender(&self) -> Result<Sender> {
        Ok(Sender {
            stream: self.stream.try_clone()?,
        })
    }

    /// Reads what is there, waiting at most 100 ms. Sends a KEEPALIVE every ten seconds if
    /// `keepalive` is set; it must not be while a [`Sender`] is in the middle of a message.
    pub(crate) fn read(&mut self, keepalive: bool, heard: &mut Heard) -> Result<()> {
        heard.announced.clear();
        if keepalive && self.last_keepalive.elapsed() > Duration::from_secs(10) {
            self.stream.write_all(&KEEPALIVE)?;
            self.last_keepalive = Instant::now();
        }
        self.stream
            .set_read_timeout(Some(Duration::from_millis(100)))?;
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => bail!("the daemon closed the connection"),
            Ok(read) => self.filled += read,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error).context("cannot read from the daemon"),
        }
        let mut at = 0;
        while self.filled - at >= 19 {
            let message = &self.buffer[at..self.filled];
            let length = usize::from(u16::from_be_bytes([message[16], message[17]]));
            if message.len() < length {
                break;
            }
            match message[18] {
                2 => hear_update(&message[19..length], heard)?,
                3 => bail!(
                    "the daemon sent NOTIFICATION {}/{}",
                    message[19],
                    message[20]
                ),
                _ => {}
            }
            at += length;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }
}

/// Sends prepared messages.
pub(crate) struct Sender {
    stream: TcpStream,
}

impl Sender {
    /// Sends whole messages; returns when the kernel has taken them.
    pub(crate) fn send(&mut self, messages: &[u8]) -> Result<()> {
        self.stream
            .set_write_timeout(Some(Duration::from_secs(600)))?;
        self.stream
            .write_all(messages)
            .context("cannot send to the daemon")
    }
}

fn open_message(asn: u32, id: [u8; 4]) -> Vec<u8> {
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 65, 4];
    capabilities.extend(asn.to_be_bytes());
    let mut body = vec![4];
    body.extend(u16::try_from(asn).unwrap_or(23456).to_be_bytes());
    body.extend(180_u16.to_be_bytes());
    body.extend(id);
    body.push(capabilities.len() as u8 + 2);
    body.extend([2, capabilities.len() as u8]);
    body.extend(capabilities);
    let mut message = vec![0xFF; 16];
    message.extend((19 + body.len() as u16).to_be_bytes());
    message.push(1);
    message.extend(body);
    message
}

fn hear_update(body: &[u8], heard: &mut Heard) -> Result<()> {
    let short = || anyhow::anyhow!("the daemon sent an UPDATE that is too short");
    let number = |at: usize| -> Result<usize> {
        let octets = body.get(at..at + 2).ok_or_else(short)?;
        Ok(usize::from(u16::from_be_bytes([octets[0], octets[1]])))
    };
    let withdrawn_end = 2 + number(0)?;
    let attributes_end = withdrawn_end + 2 + number(withdrawn_end)?;
    let mut attributes = body
        .get(withdrawn_end + 2..attributes_end)
        .ok_or_else(short)?;
    slots(Family::Ipv4, &body[attributes_end..], &mut heard.announced);
    while attributes.len() >= 3 {
        let (flags, kind) = (attributes[0], attributes[1]);
        let (header, length) = if flags & 0x10 != 0 {
            (
                4,
                usize::from(u16::from_be_bytes([
                    attributes[2],
                    *attributes.get(3).ok_or_else(short)?,
                ])),
            )
        } else {
            (3, usize::from(attributes[2]))
        };
        let value = attributes.get(header..header + length).ok_or_else(short)?;
        match kind {
            14 if value.len() > 4 && value[1] == 2 => {
                let nlri = value.get(5 + usize::from(value[3])..).ok_or_else(short)?;
                slots(Family::Ipv6, nlri, &mut heard.announced);
            }
            _ => {}
        }
        attributes = &attributes[header + length..];
    }
    Ok(())
}

fn slots(family: Family, mut nlri: &[u8], out: &mut Vec<u64>) {
    while let Some((length, rest)) = nlri.split_first() {
        let octets = usize::from(length.div_ceil(8)).min(rest.len());
        match family {
            Family::Ipv4 => {
                let mut network = [0; 4];
                network[..octets.min(4)].copy_from_slice(&rest[..octets.min(4)]);
                out.push(slot4(u32::from_be_bytes(network)));
            }
            Family::Ipv6 => {
                let mut network = [0; 16];
                network[..octets.min(16)].copy_from_slice(&rest[..octets.min(16)]);
                out.push(slot6(u128::from_be_bytes(network)));
            }
        }
        nlri = &rest[octets..];
    }
}
