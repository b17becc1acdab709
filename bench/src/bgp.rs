//! The smallest BGP speaker that can drive a daemon: it connects, sends what was prepared, and counts
//! what comes back.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

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
    /// Slots of withdrawn destinations.
    pub(crate) withdrawn: Vec<u64>,
}

impl Session {
    /// Connects from `local` to the daemon at `remote`:179, again and again until it is there or
    /// `patience` is over, and brings the session up as AS `asn`.
    ///
    /// # Errors
    ///
    /// When there is no session after `patience`, with why the last try failed.
    pub(crate) fn open(
        local: Ipv4Addr,
        remote: Ipv4Addr,
        asn: u32,
        patience: Duration,
    ) -> Result<Session> {
        let deadline = Instant::now() + patience;
        loop {
            let error = match Session::try_open(local, remote, asn) {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            if Instant::now() > deadline {
                return Err(error.context(format!("no BGP session from {local} to {remote}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn try_open(local: Ipv4Addr, remote: Ipv4Addr, asn: u32) -> Result<Session> {
        let mut stream = dial(local, remote)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&open_message(asn, local.octets()))?;
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

    /// Ends the connection, for senders too.
    pub(crate) fn close(&self) {
        // An error says that it has ended already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Reads, for nobody, until `stop` or the end of the session: a daemon whose peer does not read
    /// would wait for it. `keepalive` as for [`read`](Session::read).
    pub(crate) fn drain(&mut self, keepalive: bool, stop: &AtomicBool) {
        let mut heard = Heard::default();
        let mut open = true;
        while open && !stop.load(Ordering::Relaxed) {
            open = self.read(keepalive, &mut heard).is_ok();
        }
    }

    /// Reads what is there, waiting at most 100 ms. Sends a KEEPALIVE every ten seconds if
    /// `keepalive` is set; it must not be while a [`Sender`] is in the middle of a message.
    pub(crate) fn read(&mut self, keepalive: bool, heard: &mut Heard) -> Result<()> {
        heard.announced.clear();
        heard.withdrawn.clear();
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
            .set_write_timeout(Some(Duration::from_secs(150)))?;
        self.stream
            .write_all(messages)
            .context("cannot send to the daemon")
    }
}

/// A TCP connection from an address of ours (the standard library cannot choose one).
fn dial(local: Ipv4Addr, remote: Ipv4Addr) -> Result<TcpStream> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(2, 0))?;
    bind(
        socket.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(local, 0)),
    )?;
    connect(
        socket.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(remote, 179)),
    )?;
    Ok(TcpStream::from(socket))
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
    let withdrawn = body.get(2..withdrawn_end).ok_or_else(short)?;
    slots(Family::Ipv4, withdrawn, &mut heard.withdrawn);
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
            15 if value.len() >= 3 && value[1] == 2 => {
                slots(Family::Ipv6, &value[3..], &mut heard.withdrawn);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{NextHop, Table};

    #[test]
    fn what_is_sent_is_heard() -> Result<()> {
        for (family, next_hop) in [
            (Family::Ipv4, NextHop::V4(Ipv4Addr::new(10, 99, 1, 2))),
            (Family::Ipv6, NextHop::V6("fd99:1::2".parse()?)),
        ] {
            let table = Table::new(family, 3000, 7);
            let mut heard = Heard::default();
            for message in messages(&table.announcements(65001, next_hop, 2)) {
                hear_update(&message[19..], &mut heard)?;
            }
            for message in messages(&table.withdrawals()) {
                hear_update(&message[19..], &mut heard)?;
            }
            let wanted: Vec<u64> = table.slots().collect();
            assert_eq!(heard.announced, wanted);
            assert_eq!(heard.withdrawn, wanted);
        }
        Ok(())
    }

    fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut found = Vec::new();
        while bytes.len() >= 19 {
            let length = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
            let (message, rest) = bytes.split_at(length);
            found.push(message);
            bytes = rest;
        }
        found
    }
}
