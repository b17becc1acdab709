//! One TCP connection: a task that reads, writes, and at the end drains.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use bgp::engine::LocalAddresses;
use bgp::types::ConnId;
use bytes::{Buf as _, BufMut as _, BytesMut};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::listen::reset;
use super::terms::{self, Known, Signing, Terms};
use super::{DRAIN, Note, addresses};

/// A quiet connection reads into a buffer of this size; it grows while full reads come.
const SMALLEST_READ: usize = 4 * 1024;
/// A busy one reads at most this much before the loop has its turn.
const LARGEST_READ: usize = 128 * 1024;

/// DSCP CS6, network control, as routers mark BGP.
const TRAFFIC_CLASS: u32 = 0xc0;

/// A connection attempt; dropping it ends the attempt.
pub(super) struct Attempt(JoinHandle<()>);

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs an attempt as a task.
pub(super) fn attempt(work: impl Future<Output = ()> + Send + 'static) -> Attempt {
    Attempt(tokio::spawn(work))
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{remote} is no peer's address any more")]
    Unknown { remote: SocketAddr },
    #[error("not connecting without a key: {0}")]
    NoKey(String),
    #[error("cannot sign what goes to {remote}: {source}")]
    Key {
        remote: SocketAddr,
        source: io::Error,
    },
    #[error("cannot open a socket to {remote}: {source}")]
    Socket {
        remote: SocketAddr,
        source: io::Error,
    },
    #[error("cannot use {local} as source address: {source}; is it an address of this host?")]
    Bind { local: IpAddr, source: io::Error },
    #[error("cannot connect to {remote}: {source}")]
    Connect {
        remote: SocketAddr,
        source: io::Error,
    },
}

/// Connects from `local` (any address when absent).
pub(super) async fn open(
    remote: SocketAddr,
    local: Option<IpAddr>,
    terms: &Terms,
) -> Result<(TcpStream, LocalAddresses, SocketAddr), OpenError> {
    let failed = |source| OpenError::Socket { remote, source };
    let domain = Domain::for_address(remote);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    prepare(&socket, remote.ip()).map_err(failed)?;
    terms.distance.set(&socket, remote.ip()).map_err(failed)?;
    if let Signing::Missing(reason) = &terms.signing {
        return Err(OpenError::NoKey(reason.clone()));
    }
    terms
        .signing
        .set(&socket, remote.ip())
        .map_err(|source| OpenError::Key { remote, source })?;
    if let Some(local) = local {
        let address = SocketAddr::new(local, 0).into();
        socket
            .bind(&address)
            .map_err(|source| OpenError::Bind { local, source })?;
    }
    let stream = TcpSocket::from_std_stream(socket.into())
        .connect(remote)
        .await
        .map_err(|source| OpenError::Connect { remote, source })?;
    let local = stream.local_addr().map_err(failed)?;
    let peer = stream.peer_addr().map_err(failed)?;
    Ok((stream, addresses::complete(local.ip()), peer))
}

/// Options that every connection has: no waiting for more to send, network-control class.
fn prepare(socket: &Socket, remote: IpAddr) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    match remote {
        IpAddr::V4(_) => socket.set_tos_v4(TRAFFIC_CLASS),
        IpAddr::V6(_) => socket.set_tclass_v6(TRAFFIC_CLASS),
    }
}

/// Options of a connection that was accepted.
pub(super) fn prepare_accepted(
    stream: &TcpStream,
    remote: IpAddr,
    terms: &Terms,
) -> io::Result<()> {
    let socket = SockRef::from(stream);
    prepare(&socket, remote)?;
    terms.signing.set_on_accepted(&socket, remote)?;
    terms.distance.set_on_accepted(&socket, remote)
}

/// The transport's end of an open connection. Each queue holds at most the one buffer that the
/// transport may have on its way, so sending never waits.
pub(super) struct Handle {
    send: mpsc::Sender<BytesMut>,
    give_back: mpsc::Sender<BytesMut>,
    close: oneshot::Sender<BytesMut>,
}

impl Handle {
    /// Sends a buffer; only when the one before was reported as sent.
    pub(super) fn send(&self, data: BytesMut) {
        // Fails only when the task has ended, and then it has reported so.
        let _ = self.send.try_send(data);
    }

    /// Gives a received buffer back.
    pub(super) fn give_back(&self, data: BytesMut) {
        let _ = self.give_back.try_send(data);
    }

    /// Drains and closes.
    pub(super) fn close(self, last: BytesMut) {
        let _ = self.close.send(last);
    }
}

/// What a connection needs to keep its key up to date: whose it is, and where that is said.
pub(super) type Follow = (IpAddr, watch::Receiver<Arc<Known>>);

/// Starts the task of an open connection; `follow` where it is signed.
pub(super) fn start(
    conn: ConnId,
    stream: TcpStream,
    notes: mpsc::Sender<Note>,
    follow: Option<Follow>,
    tasks: &TaskTracker,
) -> Handle {
    let (send, queue) = mpsc::channel(1);
    let (give_back, given_back) = mpsc::channel(1);
    let (close, closed) = oneshot::channel();
    tasks.spawn(async move {
        let keys = follow_keys(&stream, follow);
        tokio::select! {
            () = run(conn, stream, notes, queue, given_back, closed) => {}
            never = keys => match never {},
        }
    });
    Handle {
        send,
        give_back,
        close,
    }
}

/// On a descriptor of its own, because reading and writing hold the stream.
fn follow_keys(
    stream: &TcpStream,
    follow: Option<Follow>,
) -> impl Future<Output = Infallible> + use<> {
    let own = follow.map(|(remote, known)| {
        let socket = stream.as_fd().try_clone_to_owned();
        (socket, remote, known)
    });
    async move {
        match own {
            Some((Ok(socket), remote, known)) => return terms::follow(socket, remote, known).await,
            Some((Err(error), remote, _)) => {
                tracing::warn!(peer = %remote, %error, "a key that changes will end this connection");
            }
            None => {}
        }
        std::future::pending().await
    }
}

async fn run(
    conn: ConnId,
    mut stream: TcpStream,
    notes: mpsc::Sender<Note>,
    mut queue: mpsc::Receiver<BytesMut>,
    given_back: mpsc::Receiver<BytesMut>,
    closed: oneshot::Receiver<BytesMut>,
) {
    let (reader, mut writer) = stream.split();
    // Bytes not yet in the socket: kept out here because closing cancels the writing.
    let mut pending = BytesMut::new();
    let ended = tokio::select! {
        result = read(conn, reader, &notes, given_back) => result,
        result = write(conn, &mut writer, &notes, &mut queue, &mut pending) => result,
        last = closed => {
            // The transport drops the handle without a word only when it is gone itself.
            let last = last.unwrap_or_default();
            let rest = queue.try_recv().unwrap_or_default();
            // What cannot be sent now is lost with the connection: the engine has let go of it.
            let drained = drain(&mut stream, pending.chain(rest).chain(last));
            if tokio::time::timeout(DRAIN, drained).await.is_err() {
                // Else the kernel would keep it for minutes, for a peer that takes nothing.
                reset(&stream);
            }
            Ok(())
        }
    };
    let error = ended.err().map(|error| error.to_string());
    // The socket goes first: whoever hears of it may count on that.
    drop(stream);
    let _ = notes.send(Note::Closed { conn, error }).await;
}

/// Reads until the other side closes.
async fn read(
    conn: ConnId,
    mut reader: ReadHalf<'_>,
    notes: &mpsc::Sender<Note>,
    mut given_back: mpsc::Receiver<BytesMut>,
) -> io::Result<()> {
    let mut size = SMALLEST_READ;
    let mut data = BytesMut::new();
    loop {
        data.reserve(size);
        let count = reader.read_buf(&mut (&mut data).limit(size)).await?;
        if count == 0 {
            return Ok(());
        }
        if count == size {
            size = (size * 2).min(LARGEST_READ);
        } else if count < size / 4 {
            size = (size / 2).max(SMALLEST_READ);
        }
        if notes.send(Note::Received { conn, data }).await.is_err() {
            return std::future::pending().await; // the speaker is stopping; `close` follows
        }
        data = match given_back.recv().await {
            Some(data) => data,
            None => return std::future::pending().await,
        };
        if data.is_empty() && data.capacity() > 4 * size {
            data = BytesMut::new(); // quiet again: give the memory back
        }
    }
}

/// Writes buffer after buffer.
async fn write(
    conn: ConnId,
    writer: &mut WriteHalf<'_>,
    notes: &mpsc::Sender<Note>,
    queue: &mut mpsc::Receiver<BytesMut>,
    pending: &mut BytesMut,
) -> io::Result<()> {
    while let Some(data) = queue.recv().await {
        *pending = data;
        writer.write_all_buf(pending).await?;
        let spare = std::mem::take(pending);
        if notes.send(Note::Sent { conn, spare }).await.is_err() {
            break;
        }
    }
    std::future::pending().await
}

/// Sends what is left, says FIN, and reads until the other side does so too: a socket closed with
/// unread bytes resets the connection, and the reset can destroy a NOTIFICATION on its way.
async fn drain(stream: &mut TcpStream, mut left: impl bytes::Buf) -> io::Result<()> {
    while left.has_remaining() {
        stream.write_buf(&mut left).await?;
    }
    stream.shutdown().await?;
    let mut unread = [0; 1024];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}
