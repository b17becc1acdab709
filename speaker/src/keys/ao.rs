//! TCP-AO (RFC 5925): several keys an address, told apart by numbers that stand in every segment.
//!
//! Both sides may have more keys than they use. Each says in its segments with which one it wants to
//! be answered (RNextKeyID), and the other side's kernel changes over: so keys come and go under a
//! connection that stands, and no segment is lost. Linux has this since 6.7, where it is built with
//! `CONFIG_TCP_AO`.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::{Arc, OnceLock};

use bgp::config::AoAlgorithm;
use nix::libc::{self, c_int, socklen_t};

use super::address;
use super::secret::Key;

/// Options of `linux/tcp.h`.
const TCP_AO_ADD_KEY: c_int = 38;
const TCP_AO_DEL_KEY: c_int = 39;
const TCP_AO_INFO: c_int = 40;

/// Bits of the first word behind an address.
const SET_CURRENT: u32 = 1
    << if cfg!(target_endian = "little") {
        0
    } else {
        31
    };
const SET_RNEXT: u32 = 1
    << if cfg!(target_endian = "little") {
        1
    } else {
        30
    };

/// A master key tuple, but for the address.
#[derive(Clone, Debug)]
pub(crate) struct AoKey {
    /// KeyID of the segments that are signed with it by us.
    pub(crate) send_id: u8,
    /// KeyID of the segments that are signed with it by the other side.
    pub(crate) receive_id: u8,
    pub(crate) algorithm: AoAlgorithm,
    pub(crate) key: Arc<Key>,
}

impl PartialEq for AoKey {
    fn eq(&self, other: &AoKey) -> bool {
        (self.send_id, self.receive_id) == (other.send_id, other.receive_id)
            && self.algorithm == other.algorithm
            && Arc::ptr_eq(&self.key, &other.key)
    }
}

impl AoKey {
    /// The kernel has one key only for each.
    fn shares_an_id_with(&self, other: &AoKey) -> bool {
        self.send_id == other.send_id || self.receive_id == other.receive_id
    }

    /// Adds it to a socket; with `first` it is the one to be used from the start, which only a socket
    /// that is to be connected can be told.
    fn add(&self, socket: impl AsFd, remote: IpAddr, first: bool) -> io::Result<()> {
        let head = |length| self.head(remote, length, first);
        self.key.give(socket.as_fd(), TCP_AO_ADD_KEY, head)
    }

    /// `struct tcp_ao_add`, up to the key.
    fn head(&self, remote: IpAddr, key_length: u8, first: bool) -> Vec<u8> {
        let algorithm = match self.algorithm {
            AoAlgorithm::HmacSha1 => "hmac(sha1)",
            AoAlgorithm::Aes128Cmac => "cmac(aes128)",
        };
        let mut name = [0; 64];
        name[..algorithm.len()].copy_from_slice(algorithm.as_bytes());
        let mut head = address(remote).to_vec();
        head.extend(name);
        head.extend(0_i32.to_ne_bytes()); // interface
        let set = if first { SET_CURRENT | SET_RNEXT } else { 0 };
        head.extend(set.to_ne_bytes());
        head.extend([0, 0]); // reserved
        head.push(prefix_length(remote));
        head.extend([self.send_id, self.receive_id]);
        // Length of the code: 0 is the 12 octets of RFC 5926. No flags: TCP options are covered.
        head.extend([0, 0, key_length]);
        head
    }

    /// Takes it off a socket.
    fn delete(&self, socket: impl AsFd, remote: IpAddr) -> io::Result<()> {
        let mut option = address(remote).to_vec();
        option.extend(0_i32.to_ne_bytes()); // interface
        option.extend(0_u32.to_ne_bytes());
        option.extend([0, 0]); // reserved
        option.push(prefix_length(remote));
        option.extend([self.send_id, self.receive_id]);
        option.extend([0, 0, 0]); // current and next key: as they are; no flags
        set(socket, TCP_AO_DEL_KEY, &option)
    }

    /// Asks the other side to sign with it, and so to be answered with it.
    pub(crate) fn request(&self, socket: impl AsFd) -> io::Result<()> {
        set(socket, TCP_AO_INFO, &info(SET_RNEXT, 0, self.receive_id))
    }
}

/// `struct tcp_ao_info_opt`.
fn info(set: u32, current: u8, rnext: u8) -> Vec<u8> {
    let mut option = set.to_ne_bytes().to_vec();
    option.extend([0, 0, current, rnext]);
    option.extend([0; 40]); // counters
    option
}

/// Gives a new socket the keys towards `remote`; the first is to be used, the others are accepted.
/// `connects`: it is to be connected, not to listen.
///
/// # Errors
///
/// When the kernel refuses one.
pub(crate) fn sign(
    keys: &[AoKey],
    socket: impl AsFd,
    remote: IpAddr,
    connects: bool,
) -> io::Result<()> {
    for (index, key) in keys.iter().enumerate() {
        key.add(socket.as_fd(), remote, connects && index == 0)?;
    }
    Ok(())
}

/// Brings the keys of a socket from `used` to `wanted`: those that a standing connection still signs
/// with stay for now, so call it again. Changes `used` to what is there.
///
/// # Errors
///
/// When the kernel refuses a new key, also because another with one of its numbers is still in use.
pub(crate) fn change(
    used: &mut Vec<AoKey>,
    wanted: &[AoKey],
    socket: impl AsFd,
    remote: IpAddr,
) -> io::Result<()> {
    // One whose numbers are to mean another key goes first.
    let replaced = |key: &AoKey| {
        let mut wanted = wanted.iter();
        wanted.any(|new| new.shares_an_id_with(key) && new != key)
    };
    delete(used, replaced, &socket, remote)?;
    let mut outcome = Ok(());
    for key in wanted {
        if !used.contains(key) {
            let is_free = !used.iter().any(|other| other.shares_an_id_with(key));
            match key.add(&socket, remote, false) {
                Ok(()) => used.push(key.clone()),
                // An accepted connection has it from its listening socket.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_free => {
                    used.push(key.clone());
                }
                Err(error) => outcome = Err(error),
            }
        }
    }
    if outcome.is_ok() {
        delete(used, |key| !wanted.contains(key), &socket, remote)?;
    }
    outcome
}

fn delete(
    used: &mut Vec<AoKey>,
    which: impl Fn(&AoKey) -> bool,
    socket: impl AsFd,
    remote: IpAddr,
) -> io::Result<()> {
    let mut outcome = Ok(());
    used.retain(|key| {
        if !which(key) {
            return true;
        }
        match key.delete(&socket, remote) {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => true,
            Err(error) => {
                outcome = Err(error);
                true
            }
        }
    });
    outcome
}

/// Whether this kernel has TCP-AO.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        // A socket without keys has nothing to tell; a kernel without TCP-AO does not know the question.
        let Ok(socket) = TcpListener::bind(("127.0.0.1", 0)) else {
            return false;
        };
        let mut option = info(0, 0, 0);
        let mut length = option.len() as socklen_t;
        // SAFETY: the pointers are those of `option` and `length`, which live until the call is over.
        let outcome = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                TCP_AO_INFO,
                option.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        outcome == 0 || nix::errno::Errno::last() == nix::errno::Errno::ENOENT
    })
}

fn prefix_length(remote: IpAddr) -> u8 {
    if remote.is_ipv4() { 32 } else { 128 }
}

fn set(socket: impl AsFd, option: c_int, value: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `value`, which lives until the call is over.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            value.as_ptr().cast(),
            value.len() as socklen_t,
        )
    };
    nix::errno::Errno::result(outcome)?;
    Ok(())
}

#[cfg(test)]
mod tests;
