//! A netlink socket: many requests in one send, and which of them failed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::message::{self, Requests};

/// The kernel fills at most 32 KiB at a time; a notification is far smaller.
const RECEIVE: usize = 64 * 1024;

/// A socket to the part of the kernel that keeps links, routes and nexthop objects, in the network
/// namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    port: u32,
    buffer: Vec<u8>,
}

/// A request that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its place among the requests, from 0.
    pub request: usize,
    /// As in `errno.h`, positive.
    pub errno: i32,
    /// The kernel's own words; empty when it has none.
    pub text: String,
}

impl Failure {
    /// The kernel does not know what it was asked for: it is too old for it.
    pub fn says_unknown_kind(&self) -> bool {
        let unknown = ["Invalid group type", "Unknown attribute type"];
        self.errno == libc::EINVAL && unknown.iter().any(|text| self.text.contains(text))
    }

    /// The kernel has no IPv6, or none for this link (its MTU is below 1280).
    pub fn says_no_ipv6(&self) -> bool {
        self.errno == libc::EAFNOSUPPORT
    }

    /// What the kernel said, in words.
    pub fn reason(&self) -> String {
        let error = io::Error::from_raw_os_error(self.errno);
        if self.text.is_empty() {
            error.to_string()
        } else {
            format!("{error}: {}", self.text)
        }
    }
}

/// What can go wrong between us and the kernel, beside the refusal of a single request.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened or set up.
    #[error("cannot open a netlink socket ({step}); this needs CAP_NET_ADMIN")]
    Open {
        /// What was attempted.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Nothing was sent.
    #[error("cannot send {requests} requests to the kernel")]
    Send {
        /// How many.
        requests: usize,
        /// Why not.
        source: io::Error,
    },
    /// The answer could not be read.
    #[error("cannot read what the kernel answers")]
    Receive {
        /// Why not.
        source: io::Error,
    },
    /// Messages were lost, because more came than the socket holds. What is there must be listed
    /// again.
    #[error("the kernel had more to say than the socket holds; some of it is lost")]
    Overrun,
    /// A list was refused.
    #[error("the kernel refuses to list {what}: {}", .failure.reason())]
    List {
        /// Of what.
        what: &'static str,
        /// As the kernel said.
        failure: Failure,
    },
}

impl Netlink {
    /// Opens a socket whose receive buffer has about `receive` bytes, as the kernel counts them.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Open`].
    pub fn open(receive: usize) -> Result<Netlink, NetlinkError> {
        Netlink::open_to(NETLINK_ROUTE, receive)
    }

    /// [`Netlink::open`] for another part of the kernel: one of `netlink_sys::protocols`.
    pub(crate) fn open_to(protocol: isize, receive: usize) -> Result<Netlink, NetlinkError> {
        let open = |step| move |source| NetlinkError::Open { step, source };
        let mut socket = Socket::new(protocol).map_err(open("open"))?;
        let address = socket.bind_auto().map_err(open("bind"))?;
        set_receive_buffer(&socket, receive).map_err(open("receive buffer"))?;
        // Errors come with words, without a copy of the request; filters of lists are obeyed.
        socket.set_ext_ack(true).map_err(open("extended errors"))?;
        socket.set_cap_ack(true).map_err(open("capped errors"))?;
        socket
            .set_netlink_get_strict_chk(true)
            .map_err(open("strict lists"))?;
        Ok(Netlink {
            socket,
            port: address.port_number(),
            buffer: vec![0; RECEIVE],
        })
    }

    /// The number by which the kernel knows this socket: the sender of what it causes.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// For [`wait`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.socket.as_fd()
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends all requests at once and clears them. Those that failed are in `failures`, by their
    /// place; every other one was carried out. Requests are carried out in order, and one that
    /// fails does not stop those behind it.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Overrun`]: it is unknown which requests failed. Else nothing was done.
    pub fn carry_out(
        &mut self,
        requests: &mut Requests,
        failures: &mut Vec<Failure>,
    ) -> Result<(), NetlinkError> {
        self.exchange(requests, failures, |_| ())
    }

    /// Like [`Netlink::carry_out`], and hands every answer that is no outcome to `answer`.
    pub(crate) fn exchange(
        &mut self,
        requests: &mut Requests,
        failures: &mut Vec<Failure>,
        mut answer: impl FnMut(message::Message<'_>),
    ) -> Result<(), NetlinkError> {
        failures.clear();
        if requests.is_empty() {
            return Ok(());
        }
        requests.acknowledge_last();
        let (first, count) = (requests.first, requests.len());
        let sent = self.send(&requests.bytes, count);
        requests.clear();
        sent?;
        // The kernel has worked everything off inside the send, so all answers are there. Only if
        // they were too many for the buffer is the last one missing.
        let mut overrun = false;
        loop {
            let Some(length) = self.receive(&mut overrun)? else {
                return Err(NetlinkError::Overrun);
            };
            for message in message::messages(&self.buffer[..length]) {
                let request = message.sequence.wrapping_sub(first) as usize;
                if request >= count {
                    continue; // an answer to requests given up after an overrun
                }
                if message.kind != message::ERROR {
                    answer(message);
                    continue;
                }
                if let Some((errno, text)) = outcome(message) {
                    failures.push(Failure {
                        request,
                        errno,
                        text,
                    });
                }
                if request == count - 1 {
                    return if overrun {
                        Err(NetlinkError::Overrun)
                    } else {
                        Ok(())
                    };
                }
            }
        }
    }

    pub(crate) fn send(&self, bytes: &[u8], requests: usize) -> Result<(), NetlinkError> {
        let kernel = SocketAddr::new(0, 0);
        loop {
            match self.socket.send_to(bytes, &kernel, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(NetlinkError::Send { requests, source }),
            }
        }
    }

    /// Reads one datagram into the buffer; `None` when there is none. Sets `overrun` when messages
    /// before it were lost.
    pub(crate) fn receive(&mut self, overrun: &mut bool) -> Result<Option<usize>, NetlinkError> {
        loop {
            let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
            match self.socket.recv(&mut &mut self.buffer[..], flags) {
                Ok(length) if length <= self.buffer.len() => return Ok(Some(length)),
                Ok(_) => *overrun = true, // cut off
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(None),
                    Some(libc::EINTR) => {}
                    Some(libc::ENOBUFS) => *overrun = true,
                    _ => return Err(NetlinkError::Receive { source: error }),
                },
            }
        }
    }

    /// Lets this many bytes be sent at once.
    pub(crate) fn set_send_buffer(&self, bytes: usize) -> Result<(), NetlinkError> {
        // The kernel doubles the number and counts its own structures, too.
        force_buffer(&self.socket, (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), bytes).map_err(
            |source| NetlinkError::Open {
                step: "send buffer",
                source,
            },
        )
    }

    pub(crate) fn received(&self, length: usize) -> &[u8] {
        &self.buffer[..length]
    }
}

/// The error of an `NLMSG_ERROR` and the kernel's words; `None` for success.
pub(crate) fn outcome(message: message::Message<'_>) -> Option<(i32, String)> {
    let code = message::u32_at(message.body, 0).unwrap_or(0) as i32;
    if code == 0 {
        return None;
    }
    // `struct nlmsgerr` repeats the header of the request; attributes follow (NLMSGERR_ATTR_MSG 1).
    let text = message::attributes(message.body, 4 + message::HEADER)
        .find(|(kind, _)| *kind == 1)
        .map(|(_, value)| message::text(value))
        .unwrap_or_default();
    Some((-code, text))
}

/// Waits until one of `fds` has something to read or `timeout` (rounded up to milliseconds) is
/// over; `None` waits for ever. An interruption by a signal ends the wait.
///
/// # Errors
///
/// Those of `poll(2)`.
pub fn wait(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let timeout = timeout.map_or(-1, |t| {
        t.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32
    });
    // SAFETY: the pointer and the count are those of `polled`, which outlives the call.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
    match ready {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        },
        _ => Ok(()),
    }
}

fn set_receive_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    force_buffer(socket, (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), bytes)
}

/// Beyond the host's limit where we may, by the first option; else up to it, by the second.
fn force_buffer(
    socket: &Socket,
    (force, ask): (libc::c_int, libc::c_int),
    bytes: usize,
) -> io::Result<()> {
    match set_option(socket, force, &(bytes as libc::c_int)) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            set_option(socket, ask, &(bytes as libc::c_int))
        }
        outcome => outcome,
    }
}

/// `setsockopt(2)` at `SOL_SOCKET`.
pub(crate) fn set_option<T>(socket: &Socket, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `value`, which outlives the call.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets only what this classic BPF program says come to the socket.
pub(crate) fn set_filter(socket: &Socket, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_mut_ptr(),
    };
    set_option(socket, libc::SO_ATTACH_FILTER, &program)
}
