//! Memory that nobody else sees.
//!
//! `MADV_DONTDUMP` keeps a page out of core dumps, `mlock` off the disk, and it is wiped before it is
//! given back. Core dumps as such stay possible: they are what a crash is understood by.

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use zeroize::Zeroize as _;

/// A page on every machine we run on, or a part of one.
const PAGE: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not zero");

/// A page of memory of its own; zero when new.
pub struct Locked(NonNull<[u8; PAGE.get()]>);

// SAFETY: the memory is reached by this value alone.
unsafe impl Send for Locked {}
// SAFETY: a shared reference only reads it.
unsafe impl Sync for Locked {}

impl Locked {
    /// A new page.
    ///
    /// # Errors
    ///
    /// When there is no memory that stays out of core dumps.
    pub fn new() -> io::Result<Locked> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: new memory, wherever the kernel puts it.
        let start = unsafe { mmap_anonymous(None, PAGE, protection, MapFlags::MAP_PRIVATE) }?;
        let page = Locked(start.cast());
        // SAFETY: the memory is ours, and neither call changes what is in it.
        unsafe {
            madvise(start, PAGE.get(), MmapAdvise::MADV_DONTDUMP)?;
            // A limit (RLIMIT_MEMLOCK) may be in the way; swapping a key out is no reason to do without.
            let _ = mlock(start, PAGE.get());
        }
        Ok(page)
    }

    /// What is in it; 4096 octets.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: it is mapped, was zero at first, and is reached by `self` alone.
        unsafe { self.0.as_ref() }
    }

    /// As [`Locked::bytes`], to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        // SAFETY: it was mapped by `new`, and nothing refers to it any more.
        let _ = unsafe { munmap(self.0.cast(), PAGE.get()) };
    }
}

impl std::fmt::Debug for Locked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Locked(…)")
    }
}
