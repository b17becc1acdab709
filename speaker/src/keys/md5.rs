//! TCP MD5 (RFC 2385): one key an address.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use nix::libc::TCP_MD5SIG;

use super::address;
use super::secret::Key;

/// Signs with this key what is sent to `remote` over a socket, or over those that a listening socket
/// makes, and drops what comes from there and is not signed so. A key from before is replaced, also
/// while a connection stands.
///
/// # Errors
///
/// When the kernel has no TCP MD5, or no more room for keys (`net.core.optmem_max`).
pub(crate) fn sign(key: &Key, socket: impl AsFd, remote: IpAddr) -> io::Result<()> {
    key.give(socket.as_fd(), TCP_MD5SIG, |length| head(remote, length))
}

/// Signs no more what is sent to `remote`; nothing happens where nothing was signed.
///
/// # Errors
///
/// As [`sign`].
pub(crate) fn unsign(socket: impl AsFd, remote: IpAddr) -> io::Result<()> {
    let none = Key::empty()?;
    let outcome = none.give(socket.as_fd(), TCP_MD5SIG, |_| head(remote, 0));
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// `struct tcp_md5sig` of `linux/tcp.h`, up to the key.
fn head(remote: IpAddr, key_length: u8) -> Vec<u8> {
    let mut head = address(remote).to_vec();
    head.extend([0, 0]); // flags, prefix length
    head.extend(u16::from(key_length).to_ne_bytes());
    head.extend(0_i32.to_ne_bytes()); // interface
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_laid_out_as_the_kernel_has_it() {
        // linux/tcp.h: sockaddr_storage, __u8, __u8, __u16, int, __u8[80]; 216 octets.
        let head = head("192.0.2.1".parse().unwrap(), 7);
        assert_eq!(head.len() + Key::MOST, 216);
        assert_eq!(head[0..2], 2_u16.to_ne_bytes());
        assert_eq!(head[4..8], [192, 0, 2, 1]);
        assert_eq!(head[130..132], 7_u16.to_ne_bytes());
        let head = super::head("2001:db8::1".parse().unwrap(), 80);
        assert_eq!(head[0..2], 10_u16.to_ne_bytes());
        assert_eq!(head[8..12], [0x20, 0x01, 0x0d, 0xb8]);
    }
}
