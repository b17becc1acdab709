//! One key, in memory that nobody else sees.
//!
//! The page holds what `setsockopt(TCP_MD5SIG)` takes, with the key in its place: it is read from its
//! file right into the page, the kernel takes it from there, and no copy of it is ever made elsewhere
//! in the process. `MADV_DONTDUMP` keeps the page out of core dumps, `mlock` off the disk, and it is
//! wiped before it is given back. Core dumps as such stay possible: they are what a crash is
//! understood by.

use std::fs::File;
use std::io::{self, Read as _};
use std::mem::offset_of;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use nix::libc::{self, c_int, c_void, socklen_t};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use zeroize::Zeroize as _;

/// A page on every machine we run on, or a part of one.
const PAGE: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not zero");

/// A key with which TCP segments are signed (TCP MD5, RFC 2385).
pub(crate) struct Key {
    page: Mutex<Page>,
}

impl Key {
    /// The longest key, in octets.
    pub(crate) const MOST: usize = 80;

    /// Room for a key.
    ///
    /// # Errors
    ///
    /// When there is no memory for it that stays out of core dumps.
    pub(super) fn empty() -> io::Result<Key> {
        let page = Mutex::new(Page::new()?);
        Ok(Key { page })
    }

    /// Takes what a file holds, without one newline at its end. Gives the length: more than
    /// [`Key::MOST`] says that it is too long, not how long it is; then it is no key.
    pub(super) fn read_from(&mut self, file: &mut File) -> io::Result<usize> {
        let page = self.page.get_mut().unwrap_or_else(PoisonError::into_inner);
        let option = page.option_mut();
        let mut length = 0;
        while length < option.key.len() {
            match file.read(&mut option.key[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if length > 0 && option.key[length - 1] == b'\n' {
            length -= 1;
        }
        // What follows is not the key's.
        option.key[length..].zeroize();
        option.key_length = length.min(Key::MOST) as u16;
        Ok(length)
    }

    /// Whether both are the same octets.
    pub(super) fn is_same(&self, other: &Key) -> bool {
        if std::ptr::eq(self, other) {
            return true;
        }
        let (ours, theirs) = (self.lock(), other.lock());
        let (ours, theirs) = (ours.option(), theirs.option());
        ours.key_length == theirs.key_length && ours.key == theirs.key
    }

    /// Signs with this key what is sent to `remote` over a socket, or over those that a listening
    /// socket makes, and drops what comes from there and is not signed so. A key from before is
    /// replaced, also while a connection stands.
    ///
    /// # Errors
    ///
    /// When the kernel has no TCP MD5, or no more room for keys (`net.core.optmem_max`).
    pub(crate) fn sign(&self, socket: impl AsFd, remote: IpAddr) -> io::Result<()> {
        let mut page = self.lock();
        page.option_mut().address = address(remote);
        set(socket.as_fd(), page.option())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Signs no more what is sent to `remote`; nothing happens where nothing was signed.
///
/// # Errors
///
/// As [`Key::sign`].
pub(crate) fn unsign(socket: impl AsFd, remote: IpAddr) -> io::Result<()> {
    let option = Md5Option {
        address: address(remote),
        flags: 0,
        prefix_length: 0,
        key_length: 0,
        interface: 0,
        key: [0; KEY],
    };
    match set(socket.as_fd(), &option) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// `struct tcp_md5sig` of `linux/tcp.h`, and room behind it to see that a key is too long.
#[repr(C, align(8))]
struct Md5Option {
    /// A `sockaddr_storage`.
    address: [u8; 128],
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: c_int,
    key: [u8; KEY],
}

/// A key, a newline, and one octet too many.
const KEY: usize = Key::MOST + 2;

/// What the kernel looks at.
const LENGTH: usize = offset_of!(Md5Option, key) + Key::MOST;

/// A `sockaddr_in` or `sockaddr_in6` of any port.
fn address(ip: IpAddr) -> [u8; 128] {
    let mut bytes = [0; 128];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    match ip {
        IpAddr::V4(ip) => {
            put(0, &(libc::AF_INET as libc::sa_family_t).to_ne_bytes());
            put(4, &ip.octets());
        }
        IpAddr::V6(ip) => {
            put(0, &(libc::AF_INET6 as libc::sa_family_t).to_ne_bytes());
            put(8, &ip.octets());
        }
    }
    bytes
}

fn set(socket: BorrowedFd<'_>, option: &Md5Option) -> io::Result<()> {
    // SAFETY: the pointer is that of `option`, which lives until the call is over, and the length is
    // not more than its size.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MD5SIG,
            std::ptr::from_ref(option).cast(),
            LENGTH as socklen_t,
        )
    };
    nix::errno::Errno::result(outcome)?;
    Ok(())
}

/// Memory of its own for one option.
struct Page(NonNull<Md5Option>);

// SAFETY: the memory is reached by this value alone.
unsafe impl Send for Page {}

impl Page {
    fn new() -> io::Result<Page> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: new memory, wherever the kernel puts it.
        let start = unsafe { mmap_anonymous(None, PAGE, protection, MapFlags::MAP_PRIVATE) }?;
        // Anonymous memory is zero, which is an option without a key, and aligned to a page.
        let page = Page(start.cast());
        // SAFETY: the memory is ours, and neither call changes what is in it.
        unsafe {
            madvise(start, PAGE.get(), MmapAdvise::MADV_DONTDUMP)?;
            // A limit (RLIMIT_MEMLOCK) may be in the way; swapping a key out is no reason to do without.
            let _ = mlock(start, PAGE.get());
        }
        Ok(page)
    }

    fn option(&self) -> &Md5Option {
        // SAFETY: it is aligned, written (all zero is a value), and reached by `self` alone.
        unsafe { self.0.as_ref() }
    }

    fn option_mut(&mut self) -> &mut Md5Option {
        // SAFETY: as in `option`.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.option_mut().key.zeroize();
        // SAFETY: it was mapped by `new`, and nothing refers to it any more.
        let _ = unsafe { munmap(self.0.cast::<c_void>(), PAGE.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_laid_out_as_the_kernel_has_it() {
        // linux/tcp.h: sockaddr_storage, __u8, __u8, __u16, int, __u8[80].
        assert_eq!(LENGTH, 216);
        assert_eq!(offset_of!(Md5Option, key_length), 130);
        assert_eq!(offset_of!(Md5Option, interface), 132);
        assert_eq!(offset_of!(Md5Option, key), 136);
        assert!(size_of::<Md5Option>() <= PAGE.get());
    }
}
