//! Questions that are not ours go to the host's resolvers, or to those of the configuration, byte by byte
//! but for the ID: what they and who asks agree on (EDNS, DNSSEC) is theirs.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

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
/// How long all of them have: who asks has given up after five seconds.
const PATIENCE_IN_ALL: Duration = Duration::from_millis(4500);
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
    /// The place of the one that answered last.
    first: AtomicUsize,
}

#[derive(Clone, Debug)]
struct Read {
    at: Instant,
    modified: Option<SystemTime>,
    resolvers: Vec<SocketAddr>,
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
        let modified = fs::metadata(path).and_then(|file| file.modified()).ok();
        let resolvers = match read.take() {
            Some(read) if read.modified == modified && modified.is_some() => read.resolvers,
            _ => self.of_file(path),
        };
        *read = Some(Read {
            at: now,
            modified,
            resolvers: resolvers.clone(),
        });
        resolvers
    }

    fn of_file(&self, path: &Path) -> Vec<SocketAddr> {
        use std::io::Read as _;
        let mut text = String::new();
        let read =
            fs::File::open(path).and_then(|file| file.take(LARGEST_FILE).read_to_string(&mut text));
        if let Err(error) = read {
            tracing::warn!(path = %path.display(), %error, "cannot read the host's resolvers");
            return Vec::new();
        }
        let mut resolvers = resolvers(&text);
        resolvers.retain(|it| !self.own.contains(it.ip()));
        resolvers.truncate(MOST);
        resolvers
    }

    /// Asks one resolver after the other, beginning with the one that answered last, and returns the
    /// first reply to this question, with the ID of who asks.
    pub(crate) async fn ask(
        &self,
        query: &Query<'_>,
        bytes: &[u8],
        stream: bool,
    ) -> Result<Vec<u8>, NoReply> {
        let resolvers = self.resolvers();
        if resolvers.is_empty() {
            return Err(NoReply::Nobody);
        }
        let first = self.first.load(Ordering::Relaxed);
        let in_turn = async {
            for turn in first..first + resolvers.len() {
                let place = turn % resolvers.len();
                let reply = timeout(PATIENCE, exchange(resolvers[place], query, bytes, stream));
                match reply.await {
                    Ok(Ok(reply)) => {
                        self.first.store(place, Ordering::Relaxed);
                        return Some(reply);
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(resolver = %resolvers[place], %error, "no reply");
                    }
                    Err(_) => tracing::debug!(resolver = %resolvers[place], "no reply in time"),
                }
            }
            None
        };
        let reply = timeout(PATIENCE_IN_ALL, in_turn).await.ok().flatten();
        reply.ok_or(NoReply::Late)
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
mod tests {
    use super::*;

    #[test]
    fn the_hosts_resolvers_are_those_of_its_file() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 10.0.0.53\nnameserver\tfd00::53 # x\n\
                    nameserver fe80::1%7\nnameserver nonsense\n nameserver 10.0.0.54\noptions ndots:2\n";
        let found: Vec<String> = resolvers(text).iter().map(ToString::to_string).collect();
        let expected = [
            "10.0.0.53:53",
            "[fd00::53]:53",
            "[fe80::1%7]:53",
            "10.0.0.54:53",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn nobody_asks_itself() {
        let own = Own::default();
        own.replace(["169.254.1.1".parse().unwrap()].into());
        let to = ["169.254.1.1", "10.0.0.53"].map(|it| it.parse().unwrap());
        let upstream = Upstream::new(Forward::To(to.to_vec()), own.clone());
        assert_eq!(upstream.resolvers(), ["10.0.0.53:53".parse().unwrap()]);

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        fs::write(&path, "nameserver 169.254.1.1\nnameserver 10.0.0.54\n").unwrap();
        let upstream = Upstream::new(Forward::File(path), own);
        assert_eq!(upstream.resolvers(), ["10.0.0.54:53".parse().unwrap()]);
    }
}
