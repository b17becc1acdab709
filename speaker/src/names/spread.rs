//! Datagrams spread over several sockets by who sends them, so that one container that floods the resolver
//! fills one socket's buffer and leaves the others to the rest.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use socket2::Socket;

/// How many sockets share an address.
pub(super) const SOCKETS: u32 = 16;

/// Lets the sender's address choose the socket, in the group of those that are bound to `address` like this
/// one (`SO_REUSEPORT`).
///
/// # Errors
///
/// `setsockopt(2)`'s. Address and port of both sides choose it then.
pub(super) fn by_sender(socket: &Socket, address: IpAddr) -> io::Result<()> {
    // The last 32 bits of the sender's address in the IP header.
    let at = match address {
        IpAddr::V4(_) => 12,
        IpAddr::V6(_) => 8 + 12,
    };
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let network = libc::SKF_NET_OFF as u32;
    let mut program = [
        statement(load, network.wrapping_add(at)),
        statement(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, SOCKETS),
        statement(libc::BPF_RET | BPF_A, 0),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the pointer and the length are those of `filter`, which outlives the call, as does the
    // program that it points at; the kernel copies both.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            std::ptr::from_ref(&filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The accumulator is the result (`linux/bpf_common.h` has it in classic BPF only).
const BPF_A: u32 = 0x10;
