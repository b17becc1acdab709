//! What the runtime is told.

use cni::spec::{Code, Error, Version};
use kernel::{Failure, NetlinkError};

use crate::request::chain;

/// VERSION: those that we answer, in the version that was asked with.
pub(crate) fn versions(text: &str) -> String {
    let asked = cni::spec::config::version_of(text);
    let all: Vec<String> = Version::ALL
        .iter()
        .map(|v| format!("{:?}", v.as_str()))
        .collect();
    format!(
        "{{\"cniVersion\":\"{asked}\",\"supportedVersions\":[{}]}}",
        all.join(",")
    )
}

/// The kernel refused a request: what was attempted, on what, and its reason.
pub(crate) fn refused(attempt: &str, failure: &Failure) -> Error {
    let error = Error::new(
        Code::Kernel,
        format!("cannot {attempt}: {}", failure.reason()),
    );
    match failure.errno {
        libc::EPERM => {
            error.details("the plugin needs CAP_NET_ADMIN and CAP_SYS_ADMIN on the host")
        }
        _ => error,
    }
}

/// Nothing could be asked of the kernel.
pub(crate) fn unheard(error: &NetlinkError) -> Error {
    Error::new(Code::Kernel, chain(error))
}
