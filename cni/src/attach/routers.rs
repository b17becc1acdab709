//! What containers say of routers is not for their host: who may send router advertisements (`CAP_NET_RAW`,
//! which runtimes give to all) would otherwise give it addresses, name servers and a default route.

use std::{fs, io};

use cni::spec::{Code, Error};

/// The host takes nothing from router advertisements on its interface `name`, whatever it does with new
/// interfaces otherwise.
pub(super) fn ignore(name: &str) -> Result<(), Error> {
    let path = setting(name);
    match fs::write(&path, "0") {
        Ok(()) => Ok(()),
        // No IPv6 on this host or link.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) if check(name).is_none() => Ok(()),
        Err(error) => Err(Error::new(
            Code::Io,
            format!("cannot set {path} of the host to 0: {error}"),
        )
        .details(
            "a container could give its host addresses and routes; the plugin needs /proc/sys writable, or \
             net.ipv6.conf.default.accept_ra 0 on the host",
        )),
    }
}

/// What is not as [`ignore`] left it.
pub(super) fn check(name: &str) -> Option<String> {
    let path = setting(name);
    let value = fs::read_to_string(&path).ok()?;
    (value.trim() != "0").then(|| {
        format!(
            "{path} of the host is {}: a container could give it addresses and routes",
            value.trim()
        )
    })
}

fn setting(name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{name}/accept_ra")
}
