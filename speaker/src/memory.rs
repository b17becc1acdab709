//! How the C library hands out memory.

/// Large blocks are given back to the kernel when they are freed, and grow in place.
///
/// Left to itself, glibc raises the size from which it does so with every such block that is freed, up to
/// 32 MiB; from then on a table that doubles leaves a hole of its old size in the heap, which stays resident.
/// To be called before there are other threads.
pub(crate) fn give_large_blocks_back() {
    #[cfg(target_env = "gnu")]
    {
        /// Octets; a block of this size or more has pages of its own.
        const LARGE: libc::c_int = 256 * 1024;
        // SAFETY: sets a number in the C library; nothing of ours is passed. It fails only for numbers that
        // are out of range, and then all is as before.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    }
}
