//! Priority over other work of this host, where that is allowed.

use std::io;

use nix::sys::resource::{Resource, getrlimit};

/// Puts the calling thread under SCHED_FIFO and keeps the program in memory. Returns what was
/// reached, in words; a host that allows neither is served with ordinary priority.
///
/// `priority` is 1 to 99, or 0 to try nothing.
pub(crate) fn claim(priority: u8) -> String {
    if priority == 0 {
        return "ordinary: switched off".into();
    }
    let text = match fifo(priority) {
        Ok(()) => format!("SCHED_FIFO {priority}"),
        Err(error) => {
            tracing::warn!(
                %error,
                "no real-time priority (it takes CAP_SYS_NICE, or LimitRTPRIO= in the unit): under \
                 load sessions with short intervals may go down although the path is well"
            );
            format!("ordinary: SCHED_FIFO {priority} was refused ({error})")
        }
    };
    if let Err(error) = lock_memory() {
        tracing::info!(%error, "memory is not locked (it takes CAP_IPC_LOCK or LimitMEMLOCK=)");
    }
    text
}

fn fifo(priority: u8) -> io::Result<()> {
    // The kernel's `struct sched_param` is this number and nothing else.
    let parameters = libc::c_int::from(priority);
    // Threads and programs started from here are ordinary again.
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // Without the C library: musl's `sched_setscheduler` always says that there is no such function.
    // SAFETY: 0 means the calling thread; the number outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            policy,
            &raw const parameters,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Pages in use stay in memory; those that come later are not promised, so that a small limit on
/// locked memory cannot make an allocation fail.
fn lock_memory() -> io::Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    let flags = libc::MCL_CURRENT | libc::MCL_ONFAULT;
    // SAFETY: takes no pointers.
    match unsafe { libc::mlockall(flags) } {
        0 => Ok(()),
        _ => {
            let error = io::Error::last_os_error();
            Err(io::Error::new(
                error.kind(),
                format!("{error} (limit {limit} octets)"),
            ))
        }
    }
}
