//! Accepting: one task per listening socket, IPv4 and IPv6 apart so that each can fail alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, io};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::terms::{Known, Signing, Terms};
use super::{Note, addresses, connection, distance};

/// How often a listener that could not start tries again.
const RETRY: Duration = Duration::from_secs(5);
/// How long accepting pauses when the host has no more file descriptors.
const PAUSE: Duration = Duration::from_millis(200);
/// Connections that wait for us in the kernel.
const BACKLOG: i32 = 128;

/// Why we do not listen on an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenProblem {
    /// What a person should know and do.
    pub(crate) message: String,
}

/// Connections refused without asking the engine.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    unknown: AtomicU64,
    too_many: AtomicU64,
    no_key: AtomicU64,
}

impl Refusals {
    /// From addresses that are no peer's.
    pub(crate) fn count_unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// From a peer that has too many already.
    pub(crate) fn count_too_many(&self) -> u64 {
        self.too_many.load(Ordering::Relaxed)
    }

    /// From a peer whose key is not there.
    pub(crate) fn count_no_key(&self) -> u64 {
        self.no_key.load(Ordering::Relaxed)
    }

    fn no_key(&self, remote: SocketAddr) {
        let what = "connection from a peer whose key is not there";
        note(what, remote.ip(), &self.no_key);
    }

    fn unknown(&self, remote: SocketAddr) {
        note(
            "connection from an address that no peer has",
            remote.ip(),
            &self.unknown,
        );
    }

    pub(super) fn too_many(&self, remote: IpAddr) {
        note("too many connections from one peer", remote, &self.too_many);
    }
}

/// Counts, and logs the 1st, 2nd, 4th, 8th … so that a flood does not fill the log.
fn note(what: &str, remote: IpAddr, counter: &AtomicU64) {
    let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
    if count.is_power_of_two() {
        tracing::warn!(%remote, count, "refused: {what}");
    }
}

/// A listening task; dropping it stops listening.
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on `address` for as long as the result lives.
pub(super) fn start(
    address: SocketAddr,
    mut known: watch::Receiver<Arc<Known>>,
    refusals: Arc<Refusals>,
    notes: mpsc::Sender<Note>,
) -> Listener {
    let task = tokio::spawn(async move {
        let mut problem = Told {
            address,
            notes: notes.clone(),
            last: None,
        };
        loop {
            let guarded = Arc::clone(&known.borrow_and_update());
            let error = match bind(address, &guarded) {
                Ok((listener, signed, unsigned)) => {
                    tracing::info!(%address, "listening for BGP connections");
                    let acceptor = Acceptor {
                        listener,
                        guarded,
                        signed,
                        unsigned,
                        refusals: &refusals,
                        notes: &notes,
                    };
                    match acceptor.run(&mut known, &mut problem).await {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
                Err(error) if no_such_family(&error) => {
                    tracing::info!(%address, %error, "this host does not have this address family");
                    return;
                }
                Err(error) => error,
            };
            problem.is(Some(explain(address, &error).await)).await;
            tokio::time::sleep(RETRY).await;
        }
    });
    Listener { address, task }
}

/// What was last told of a listening socket.
struct Told {
    address: SocketAddr,
    notes: mpsc::Sender<Note>,
    last: Option<ListenProblem>,
}

impl Told {
    /// Tells what is new.
    async fn is(&mut self, message: Option<String>) {
        let problem = message.map(|message| ListenProblem { message });
        if problem == self.last {
            return;
        }
        let address = self.address;
        if let Some(problem) = &problem {
            tracing::error!(%address, "{}", problem.message);
        }
        self.last.clone_from(&problem);
        // Nobody listens to us once the transport is gone.
        let _ = self.notes.send(Note::Listening { address, problem }).await;
    }
}

/// Peers that should sign and cannot, with the reason.
type Unsigned = BTreeMap<IpAddr, String>;

fn bind(address: SocketAddr, known: &Known) -> io::Result<(TcpListener, Signed, Unsigned)> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?; // connections of our last life linger in TIME_WAIT
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    // Before anybody can connect.
    let mut signed = Signed::new();
    let unsigned = guard(&socket, address, &mut signed, known)?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    Ok((listener, signed, unsigned))
}

/// With what the peers of a listening socket sign, as the kernel has been told.
type Signed = BTreeMap<IpAddr, Signing>;

/// Makes the socket, and the connections that it will make, take nothing that is against the terms of
/// a peer that is known now. Gives those who cannot have their key set.
fn guard(
    socket: &Socket,
    address: SocketAddr,
    signed: &mut Signed,
    known: &Known,
) -> io::Result<Unsigned> {
    let far = |(ip, terms): (&IpAddr, &Terms)| (*ip, terms.distance);
    distance::guard(socket, address.is_ipv6(), &known.iter().map(far).collect())
        .map_err(|error| io::Error::other(format!("cannot set up TTL security: {error}")))?;
    let gone = signed.keys().filter(|peer| !known.contains_key(peer));
    for peer in gone.copied().collect::<Vec<_>>() {
        let mut used = signed.remove(&peer);
        Signing::Plain.set_on_listener(&mut used, socket, peer)?;
    }
    let mut unsigned = Unsigned::new();
    let ours = |peer: &IpAddr| peer.is_ipv6() == address.is_ipv6();
    for (peer, terms) in known.iter().filter(|(peer, _)| ours(peer)) {
        let mut used = signed.remove(peer);
        if let Err(error) = terms.signing.set_on_listener(&mut used, socket, *peer) {
            unsigned.insert(*peer, error.to_string());
        }
        signed.extend(used.map(|used| (*peer, used)));
    }
    Ok(unsigned)
}

/// What accepts on one listening socket.
struct Acceptor<'a> {
    listener: TcpListener,
    /// Whom the socket is guarded for.
    guarded: Arc<Known>,
    signed: Signed,
    unsigned: Unsigned,
    refusals: &'a Refusals,
    notes: &'a mpsc::Sender<Note>,
}

impl Acceptor<'_> {
    /// Accepts until the transport is gone.
    ///
    /// # Errors
    ///
    /// When the socket cannot be guarded for those who are known now; then it must not stay.
    async fn run(
        mut self,
        known: &mut watch::Receiver<Arc<Known>>,
        problem: &mut Told,
    ) -> io::Result<()> {
        loop {
            problem.is(self.problem()).await;
            let mut accepted = Vec::new();
            tokio::select! {
                biased;
                changed = known.changed() => if changed.is_err() {
                    return Ok(());
                },
                result = self.listener.accept() => match result {
                    Ok(connection) => accepted.push(connection),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection; trying again");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
            let now = Arc::clone(&known.borrow_and_update());
            let before = std::mem::replace(&mut self.guarded, Arc::clone(&now));
            if before != now {
                let address = self.listener.local_addr()?;
                let socket = SockRef::from(&self.listener);
                self.unsigned = guard(&socket, address, &mut self.signed, &now)?;
                accepted.extend(self.waiting());
            }
            for (stream, remote) in accepted {
                match self.terms_of(remote, &before) {
                    Some(terms) => {
                        if self.admit(stream, remote, terms).await.is_err() {
                            return Ok(());
                        }
                    }
                    None => reset(&stream),
                }
            }
        }
    }

    /// On which terms a connection is let in, if it is.
    fn terms_of(&self, remote: SocketAddr, before: &Known) -> Option<&Terms> {
        let peer = remote.ip();
        let Some(terms) = self.guarded.get(&peer) else {
            self.refusals.unknown(remote);
            return None;
        };
        if !terms.signing.is_ready() || self.unsigned.contains_key(&peer) {
            self.refusals.no_key(remote);
            return None;
        }
        // It may have come past what is asked of it now.
        (before.get(&peer) == Some(terms)).then_some(terms)
    }

    /// What a person should know.
    fn problem(&self) -> Option<String> {
        let (peer, error) = self.unsigned.first_key_value()?;
        let others = match self.unsigned.len() - 1 {
            0 => String::new(),
            others => format!(" and {others} others"),
        };
        Some(format!(
            "connections of {peer}{others} cannot be accepted: cannot set the key: {error}; the kernel \
             needs CONFIG_TCP_MD5SIG or CONFIG_TCP_AO, and room for many keys in net.core.optmem_max"
        ))
    }

    /// Connections that were made before the socket was guarded as it is now.
    fn waiting(&self) -> Vec<(TcpStream, SocketAddr)> {
        let socket = SockRef::from(&self.listener);
        let next = || {
            let (socket, remote) = socket.accept().ok()?;
            socket.set_nonblocking(true).ok()?;
            let stream = TcpStream::from_std(socket.into()).ok()?;
            Some((stream, remote.as_socket()?))
        };
        std::iter::from_fn(next).collect()
    }

    /// Hands a connection on; an error when nobody takes it any more.
    async fn admit(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        terms: &Terms,
    ) -> Result<(), mpsc::error::SendError<Note>> {
        let local = stream.local_addr();
        match local.and_then(|local| {
            connection::prepare_accepted(&stream, remote.ip(), terms)?;
            Ok(addresses::complete(local.ip()))
        }) {
            Ok(local) => {
                let note = Note::Accepted {
                    stream,
                    local,
                    remote,
                };
                // Waits while the loop is behind: the kernel's backlog is the bound.
                self.notes.send(note).await
            }
            Err(error) => {
                tracing::debug!(%remote, %error, "connection gone at once");
                Ok(())
            }
        }
    }
}

/// Makes closing send RST, so that a flood leaves nothing behind here, not even TIME_WAIT.
pub(super) fn reset(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "cannot set SO_LINGER");
    }
}

fn no_such_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
}

async fn explain(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let find = move || owner(Path::new("/proc"), port);
            let owner = tokio::task::spawn_blocking(find).await.ok().flatten();
            let owner = owner.unwrap_or_else(|| "another program".to_owned());
            format!(
                "cannot listen on {address}: {owner} has port {port}; stop it, or set another \
                 `listenPort`. Sessions that we open ourselves still work; trying again every {} s",
                RETRY.as_secs()
            )
        }
        io::ErrorKind::PermissionDenied => format!(
            "cannot listen on {address}: {error}; ports below 1024 need the capability \
             CAP_NET_BIND_SERVICE. Sessions that we open ourselves still work"
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "cannot listen on {address}: it is no address of this host (yet); trying again every \
             {} s",
            RETRY.as_secs()
        ),
        _ => format!(
            "cannot listen on {address}: {error}; trying again every {} s",
            RETRY.as_secs()
        ),
    }
}

/// Which program listens on a TCP port, such as `bird (process 812)`; `None` when it cannot be seen.
fn owner(proc: &Path, port: u16) -> Option<String> {
    let tables = ["net/tcp", "net/tcp6"].map(|table| fs::read_to_string(proc.join(table)));
    let inodes: Vec<String> = tables
        .into_iter()
        .flatten()
        .flat_map(|table| listening(&table, port))
        .collect();
    let sockets: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    fs::read_dir(proc).ok()?.flatten().find_map(|process| {
        let id: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut open = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        open.find(|file| {
            let target = fs::read_link(file.path()).ok();
            target.is_some_and(|target| sockets.iter().any(|socket| target == Path::new(socket)))
        })?;
        let name = fs::read_to_string(process.path().join("comm")).ok()?;
        Some(format!("{} (process {id})", name.trim()))
    })
}

/// Inodes of sockets that listen on `port`, from the text of `/proc/net/tcp`.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let rows = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| {
        let local = row.get(1).and_then(|local| local.rsplit_once(':'));
        let row_port = local.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        row_port == Some(port) && row.get(3) == Some(&LISTEN)
    })
    .filter_map(|row| row.get(9).map(|inode| (*inode).to_owned()))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_names_the_program_that_has_it() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(address, &Known::new()).unwrap_err();
        let text = explain(address, &error).await;
        let us = format!("(process {})", std::process::id());
        assert!(text.contains(&us) && text.contains("listenPort"), "{text}");
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 00000000:00B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n\
             1: 0100007F:00B3 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n\
             2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0\n";
        assert_eq!(listening(table, 179), ["4711"]);
    }
}
