//! Questions that are not ours go to the host's resolvers, or to those of the configuration, byte by byte
//! but for the ID: what they and who asks agree on (EDNS, DNSSEC) is theirs.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{self, LARGEST, Query};
use super::server::Own;

/// Where a host's resolvers are written.
pub(crate) const HOST_RESOLVERS: &str = "/etc/resolv.conf";
/// The port of DNS.
pub(crate) const PORT: u16 = 53;
/// How long one resolver has; the next one is asked then.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often somebody is asked at least: datagrams get lost.
const TURNS: usize = 2;
/// How long all of them have: who asks has given up after five seconds.
const PATIENCE_IN_ALL: Duration = Duration::from_secs(4);
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// More resolvers than this are not asked.
const MOST: usize = 8;
const LARGEST_FILE: u64 = 64 * 1024;

/// Where what is not ours is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    /// The resolvers of this file.
    File(PathBuf),
    /// These; nobody when there is none.
    To(Vec<IpAddr>),
}

/// The resolvers to ask, as they are now.
#[derive(Debug)]
pub(crate) struct Upstream {
    forward: Forward,
    /// Addresses of our own: to ask there would go in circles.
    own: Own,
    read: Mutex<Option<Read>>,
    /// The place of the one that answered last, or behind one that did not.
    first: AtomicUsize,
}

/// What the file said.
#[derive(Clone, Debug)]
struct Read {
    at: Instant,
    resolvers: Vec<SocketAddr>,
    /// Why it could not be read.
    error: Option<String>,
}

/// Why nobody answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoReply {
    /// There is nobody to ask.
    Nobody,
    /// Nobody answered in time.
    Late,
}

impl Upstream {
    pub(crate) fn new(forward: Forward, own: Own) -> Upstream {
        Upstream {
            forward,
            own,
            read: Mutex::new(None),
            first: AtomicUsize::new(0),
        }
    }

    /// The resolvers, in the order of the configuration.
    pub(crate) fn resolvers(&self) -> Vec<SocketAddr> {
        let path = match &self.forward {
            Forward::To(addresses) => {
                let addresses = addresses.iter().filter(|it| !self.own.contains(**it));
                return addresses.map(|it| (*it, PORT).into()).take(MOST).collect();
            }
            Forward::File(path) => path,
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(read) = read.as_mut().filter(|read| now < read.at + LOOK) {
            return read.resolvers.clone();
        }
        // As a whole: what the file is by now need not be younger, or of another length.
        let (resolvers, error) = match self.of_file(path) {
            Ok(resolvers) => (resolvers, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        if let Some(error) = &error
            && read
                .as_ref()
                .is_none_or(|read| read.error != Some(error.clone()))
        {
            tracing::warn!(path = %path.display(), %error, "cannot read the host's resolvers");
        }
        *read = Some(Read {
            at: now,
            resolvers: resolvers.clone(),
            error,
        });
        resolvers
    }

    fn of_file(&self, path: &Path) -> io::Result<Vec<SocketAddr>> {
        use std::io::Read as _;
        let mut text = Vec::new();
        let file = fs::File::open(path)?;
        file.take(LARGEST_FILE).read_to_end(&mut text)?;
        let mut resolvers = resolvers(&String::from_utf8_lossy(&text));
        resolvers.retain(|it| !self.own.contains(it.ip()));
        resolvers.truncate(MOST);
        Ok(resolvers)
    }

    /// Whether this is who is asked: a question from there has come round in a circle.
    pub(crate) fn is_asked(&self, address: IpAddr) -> bool {
        self.resolvers().iter().any(|it| it.ip() == address)
    }

    /// Asks one resolver after the other, beginning with the one that answered last, and returns the
    /// first reply to this question, with the ID of who asks. One that says it cannot answer is taken when
    /// nobody can; one that does not say anything is asked again, as long as there is time.
    pub(crate) async fn ask(
        &self,
        query: &Query<'_>,
        bytes: &[u8],
        stream: bool,
    ) -> Result<Vec<u8>, NoReply> {
        self.ask_of(&self.resolvers(), query, bytes, stream).await
    }

    async fn ask_of(
        &self,
        resolvers: &[SocketAddr],
        query: &Query<'_>,
        bytes: &[u8],
        stream: bool,
    ) -> Result<Vec<u8>, NoReply> {
        if resolvers.is_empty() {
            return Err(NoReply::Nobody);
        }
        let count = resolvers.len();
        let first = self.first.load(Ordering::Relaxed);
        let mut failure = None;
        let in_turn = async {
            let mut cannot = vec![false; count];
            for turn in 0..count.max(TURNS) {
                let place = (first + turn) % count;
                if cannot[place] {
                    continue;
                }
                let reply = timeout(PATIENCE, exchange(resolvers[place], query, bytes, stream));
                match reply.await {
                    Ok(Ok(reply)) if message::is_failure(&reply) => {
                        cannot[place] = true;
                        failure.get_or_insert(reply);
                        continue;
                    }
                    Ok(Ok(reply)) => {
                        self.first.store(place, Ordering::Relaxed);
                        return Some(reply);
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(resolver = %resolvers[place], %error, "no reply");
                    }
                    Err(_) => tracing::debug!(resolver = %resolvers[place], "no reply in time"),
                }
                // The next question need not wait for it, too; unless somebody has found a better one.
                let next = (place + 1) % count;
                let _ =
                    self.first
                        .compare_exchange(place, next, Ordering::Relaxed, Ordering::Relaxed);
            }
            None
        };
        let reply = timeout(PATIENCE_IN_ALL, in_turn).await.ok().flatten();
        reply.or(failure).ok_or(NoReply::Late)
    }
}

/// One question to one resolver. Each has a socket, and so a port, of its own: who would answer in the
/// resolver's place has to know both port and ID.
async fn exchange(
    resolver: SocketAddr,
    query: &Query<'_>,
    bytes: &[u8],
    stream: bool,
) -> io::Result<Vec<u8>> {
    let id = rand::random();
    let mut question = bytes.to_vec();
    message::set_id(&mut question, id);
    let mut reply = match stream {
        true => over_tcp(resolver, query, &question, id).await?,
        false => over_udp(resolver, query, &question, id).await?,
    };
    message::set_id(&mut reply, message::id(bytes));
    Ok(reply)
}

async fn over_udp(
    resolver: SocketAddr,
    query: &Query<'_>,
    question: &[u8],
    id: u16,
) -> io::Result<Vec<u8>> {
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(question).await?;
    let mut reply = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut reply).await?;
        if query.is_answered_by(&reply[..length], id) {
            reply.truncate(length);
            return Ok(reply);
        }
    }
}

async fn over_tcp(
    resolver: SocketAddr,
    query: &Query<'_>,
    question: &[u8],
    id: u16,
) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    write_message(&mut stream, question).await?;
    let reply = read_message(&mut stream).await?;
    match query.is_answered_by(&reply, id) {
        true => Ok(reply),
        false => Err(io::Error::other("the reply is to another question")),
    }
}

/// A message over TCP has its length before it. RFC 1035 §4.2.2.
pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}

/// The next message.
pub(crate) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    // Not at once as much as is announced: who announces need not send.
    let mut message = Vec::with_capacity(usize::from(length).min(1024));
    let mut limited = stream.take(length.into());
    limited.read_to_end(&mut message).await?;
    match message.len() == usize::from(length) {
        true => Ok(message),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The name servers of a resolv.conf(5).
fn resolvers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    lines.filter_map(resolver).collect()
}

fn resolver(text: &str) -> Option<SocketAddr> {
    let Some((address, zone)) = text.split_once('%') else {
        let address: IpAddr = text.parse().ok()?;
        return Some((address, PORT).into());
    };
    let scope = match zone.parse() {
        Ok(index) => index,
        Err(_) => nix::net::if_::if_nametoindex(zone).ok()?,
    };
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
