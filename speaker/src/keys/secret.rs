//! One key, in memory that nobody else sees.
//!
//! The page holds what `setsockopt` takes, with the key in its place: it is read from its file right
//! into the page, the kernel takes it from there, and no copy of it is ever made elsewhere in the
//! process. `MADV_DONTDUMP` keeps the page out of core dumps, `mlock` off the disk, and it is
//! wiped before it is given back. Core dumps as such stay possible: they are what a crash is
//! understood by.

use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use nix::libc::{self, c_int, c_void, socklen_t};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use zeroize::Zeroize as _;

/// A page on every machine we run on, or a part of one.
const PAGE: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not zero");

/// A key with which TCP segments are signed.
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
        let slot = page.slot_mut();
        let mut length = 0;
        while length < slot.key.len() {
            match file.read(&mut slot.key[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if length > 0 && slot.key[length - 1] == b'\n' {
            length -= 1;
        }
        // What follows is not the key's.
        slot.key[length..].zeroize();
        slot.length = length.min(Key::MOST) as u8;
        Ok(length)
    }

    /// Whether both are the same octets.
    pub(super) fn is_same(&self, other: &Key) -> bool {
        if std::ptr::eq(self, other) {
            return true;
        }
        let (ours, theirs) = (self.lock(), other.lock());
        let (ours, theirs) = (ours.slot(), theirs.slot());
        ours.length == theirs.length && ours.key == theirs.key
    }

    /// Gives the kernel the key, behind `head`, which is made for the key's length: every option that
    /// takes a key has it at its end.
    pub(super) fn give(
        &self,
        socket: BorrowedFd<'_>,
        option: c_int,
        head: impl FnOnce(u8) -> Vec<u8>,
    ) -> io::Result<()> {
        let mut page = self.lock();
        let slot = page.slot_mut();
        let head = head(slot.length);
        let start = HEAD - head.len();
        slot.head[start..].copy_from_slice(&head);
        // SAFETY: the pointer is into `slot`, which is locked until the call is over, and as many
        // octets follow it there as the length says.
        let outcome = unsafe {
            let value = std::ptr::from_ref(slot).cast::<u8>().add(start);
            let length = (head.len() + Key::MOST) as socklen_t;
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                option,
                value.cast(),
                length,
            )
        };
        nix::errno::Errno::result(outcome)?;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// An option with a key: of different length before the key, and always the same behind that.
#[repr(C, align(8))]
struct Slot {
    head: [u8; HEAD],
    key: [u8; KEY],
    /// Of the key.
    length: u8,
}

/// The longest head of an option.
pub(super) const HEAD: usize = 208;

/// A key, a newline, and one octet too many.
const KEY: usize = Key::MOST + 2;

/// Memory of its own for one option.
struct Page(NonNull<Slot>);

// SAFETY: the memory is reached by this value alone.
unsafe impl Send for Page {}

impl Page {
    fn new() -> io::Result<Page> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: new memory, wherever the kernel puts it.
        let start = unsafe { mmap_anonymous(None, PAGE, protection, MapFlags::MAP_PRIVATE) }?;
        // Anonymous memory is zero, which is a slot without a key, and aligned to a page.
        let page = Page(start.cast());
        // SAFETY: the memory is ours, and neither call changes what is in it.
        unsafe {
            madvise(start, PAGE.get(), MmapAdvise::MADV_DONTDUMP)?;
            // A limit (RLIMIT_MEMLOCK) may be in the way; swapping a key out is no reason to do without.
            let _ = mlock(start, PAGE.get());
        }
        Ok(page)
    }

    fn slot(&self) -> &Slot {
        // SAFETY: it is aligned, written (all zero is a value), and reached by `self` alone.
        unsafe { self.0.as_ref() }
    }

    fn slot_mut(&mut self) -> &mut Slot {
        // SAFETY: as in `slot`.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.slot_mut().key.zeroize();
        // SAFETY: it was mapped by `new`, and nothing refers to it any more.
        let _ = unsafe { munmap(self.0.cast::<c_void>(), PAGE.get()) };
    }
}
