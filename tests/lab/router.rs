//! A machine that says it is a router.

use std::net::SocketAddrV6;
use std::os::fd::AsRawFd as _;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt,
    socket, sockopt,
};

use crate::namespace::Namespace;

/// Sends one router advertisement (RFC 4861 §4.2), for half an hour and with these options, to all nodes on the
/// link of an interface, which has to have a link-local address.
///
/// # Errors
///
/// When the kernel refuses.
pub fn advertise(router: &Namespace, interface: &str, options: &[u8]) -> anyhow::Result<()> {
    router.within(|| -> anyhow::Result<()> {
        let socket = socket(
            AddressFamily::Inet6,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::IcmpV6,
        )?;
        setsockopt(&socket, sockopt::Ipv6MulticastHops, &255)?;
        let index = if_nametoindex(interface)?;
        let all_nodes = SocketAddrV6::new("ff02::1".parse()?, 0, 0, index);
        // Type, code, checksum (the kernel's), hop limit, flags, lifetime in seconds, two timers.
        let mut message = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        message.extend(options);
        let to = SockaddrIn6::from(all_nodes);
        sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty())?;
        Ok(())
    })?
}
