//! Takes a link away without waiting until the kernel has done with it.
//!
//! Who asks for a link's removal is answered when nothing in the kernel can point to it any more: after grace
//! periods of RCU that every processor has to go through. That is nearly all of the time that DEL would take,
//! and most of it is spent after the link is gone for everybody: its name and addresses are free, its routes and its other
//! end are no more. A process of its own asks and waits for the answer; the plugin waits until the link
//! is gone, and ends. Decision 0029.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use kernel::link::By;
use kernel::link_end::LinkEnd;
use kernel::{NetlinkError, Requests, socket};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::net::if_::if_nametoindex;
use nix::unistd::{ForkResult, fork, pipe2, read};

use crate::netns::host_netlink;

/// `PROC_PID_INIT_INO`: the namespace that the machine's own first process is in.
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Takes the host's interface of this name away. Whether it was seen to go: otherwise nothing is known, and it has to be
/// taken away in the ordinary way, which also says what is wrong.
pub(super) fn seen(name: &str) -> bool {
    is_buried() && attempt(name).unwrap_or(false)
}

/// Whether somebody waits for processes whose parent has ended: the machine's first process does, the first
/// one of a container perhaps not, and they would stay for ever.
fn is_buried() -> bool {
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|ns| ns.ino() == FIRST_PID_NAMESPACE)
}

fn attempt(name: &str) -> Result<bool, NetlinkError> {
    // By number, which is not given again: the other process may come late, when the container is attached anew.
    let Ok(index) = if_nametoindex(name) else {
        return Ok(false);
    };
    let mut end = LinkEnd::watch(index)?;
    let Some(other) = another_process(index) else {
        return Ok(false);
    };
    loop {
        let has_ended = has_ended(&other);
        if end.is_gone()? || has_ended {
            return end.is_gone();
        }
        if socket::wait(&[end.fd(), other.as_fd()], None).is_err() {
            return Ok(false);
        }
    }
}

/// Starts it; what can be read to its end when it has ended.
fn another_process(index: u32) -> Option<OwnedFd> {
    let (ours, its) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
    // SAFETY: DEL has no other thread, so that the copy of the memory is whole.
    match unsafe { fork() }.ok()? {
        ForkResult::Parent { .. } => Some(ours),
        ForkResult::Child => {
            // Whoever started the plugin reads until nobody can write any more.
            for standard in 0..3 {
                // SAFETY: both numbers are of open files of this process, or the call fails.
                unsafe { libc::dup2(its.as_raw_fd(), standard) };
            }
            remove(index);
            // SAFETY: ends the process and does nothing else: what is to be done at the end is the parent's.
            unsafe { libc::_exit(0) }
        }
    }
}

/// What goes wrong is found out by the parent, which does not see the link go.
fn remove(index: u32) {
    // The answers to the parent's socket are the parent's.
    let Ok(mut host) = host_netlink() else { return };
    let mut requests = Requests::new();
    requests.remove_link(By::Index(index));
    host.carry_out(&mut requests, &mut Vec::new()).ok();
}

fn has_ended(process: &OwnedFd) -> bool {
    match read(process, &mut [0; 256]) {
        Ok(read) => read == 0,
        Err(error) => !matches!(error, Errno::EAGAIN | Errno::EINTR),
    }
}
