//! What hands out memory, and how.

/// What is planned on one thread is freed on another, and thousands of connections have buffers that are hardly
/// touched: glibc's allocator keeps most of what was freed, and musl's is slow with threads
/// (docs/decisions/0030-allocator.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Pages stay small: in a huge one all is resident that any part of it needs, and of a connection's buffers that is
/// a page or two in seven. To be called before there are other threads.
pub(crate) fn keep_pages_small() {
    // A kernel without huge pages has none to leave out.
    let _ = nix::sys::prctl::set_thp_disable(true);
}
