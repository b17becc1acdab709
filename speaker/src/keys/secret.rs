//! One key, in memory that nobody else sees.
//!
//! The page holds what `setsockopt` takes, with the key in its place: it is read from its file, or
//! opened out of what the controller sealed, right in the page, the kernel takes it from there, and no copy of
//! it is ever made elsewhere in the process.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use keys::{Locked, MOST, OVERHEAD, Opener, SealError};
use nix::libc::{self, c_int, socklen_t};
use zeroize::Zeroize as _;

/// The longest head of an option: every option that takes a key has it at its end.
pub(super) const HEAD: usize = 208;
/// Where the key ends: it, a newline, and as much as a sealed one is longer.
const END: usize = HEAD + MOST + 1 + OVERHEAD;
/// Where its length is.
const LENGTH: usize = END;

/// A key with which TCP segments are signed.
pub(crate) struct Key {
    page: Mutex<Locked>,
}

impl Key {
    /// The longest key, in octets.
    pub(crate) const MOST: usize = MOST;

    /// Room for a key.
    ///
    /// # Errors
    ///
    /// When there is no memory for it that stays out of core dumps.
    pub(super) fn empty() -> io::Result<Key> {
        let page = Mutex::new(Locked::new()?);
        Ok(Key { page })
    }

    /// Takes what a file holds, without one newline at its end. Gives the length: more than
    /// [`Key::MOST`] says that it is too long, not how long it is; then it is no key.
    pub(super) fn read_from(&mut self, file: &mut File) -> io::Result<usize> {
        let page = self.page_mut();
        let mut length = 0;
        let room = &mut page[HEAD..END];
        while length < room.len() {
            match file.read(&mut room[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.ends_at(length))
    }

    /// Takes what the controller has sealed under this number and name. As [`Key::read_from`].
    pub(super) fn open_from(
        &mut self,
        opener: &Opener,
        number: u32,
        name: &str,
        sealed: &[u8],
    ) -> Result<usize, SealError> {
        let page = self.page_mut();
        let Some(room) = page[HEAD..END].get_mut(..sealed.len()) else {
            return Ok(Key::MOST + 1);
        };
        room.copy_from_slice(sealed);
        let length = opener.open(number, name.as_bytes(), room)?;
        Ok(self.ends_at(length))
    }

    /// One newline at the end is not the key's, nor is what follows.
    fn ends_at(&mut self, length: usize) -> usize {
        let page = self.page_mut();
        let mut length = length;
        if length > 0 && page[HEAD + length - 1] == b'\n' {
            length -= 1;
        }
        page[HEAD + length..END].zeroize();
        page[LENGTH] = length.min(Key::MOST) as u8;
        length
    }

    /// Writes it to a file, right out of its page.
    pub(super) fn write_to(&self, file: &mut File) -> io::Result<()> {
        let page = self.lock();
        let bytes = page.bytes();
        file.write_all(&bytes[HEAD..HEAD + usize::from(bytes[LENGTH])])
    }

    /// Whether both are the same octets.
    pub(super) fn is_same(&self, other: &Key) -> bool {
        if std::ptr::eq(self, other) {
            return true;
        }
        let (ours, theirs) = (self.lock(), other.lock());
        ours.bytes()[HEAD..=LENGTH] == theirs.bytes()[HEAD..=LENGTH]
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
        let bytes = page.bytes_mut();
        let head = head(bytes[LENGTH]);
        let start = HEAD - head.len();
        bytes[start..HEAD].copy_from_slice(&head);
        let value = &bytes[start..HEAD + Key::MOST];
        // SAFETY: the pointer and the length are those of `value`, which is locked until the call is over.
        let outcome = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                option,
                value.as_ptr().cast(),
                value.len() as socklen_t,
            )
        };
        nix::errno::Errno::result(outcome)?;
        Ok(())
    }

    fn page_mut(&mut self) -> &mut [u8] {
        let page = self.page.get_mut();
        page.unwrap_or_else(PoisonError::into_inner).bytes_mut()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Locked> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}
