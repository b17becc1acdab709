//! Where questions are taken: the resolver's own addresses, and the gateways of bridges, as they come.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use nix::ifaddrs::getifaddrs;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use super::forward::PORT;
use super::server::Server;

/// What may wait to be read: the kernel counts about 800 bytes for each small datagram.
const RECEIVE: usize = 1 << 20;
/// Connections that may wait to be accepted.
const WAITING: i32 = 128;

/// The sockets that are open, each with its tasks.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    open: BTreeMap<IpAddr, JoinSet<()>>,
}

impl Listeners {
    /// Opens what is not open, closes what is wanted no more, and returns what cannot be opened and why.
    pub(crate) fn settle(
        &mut self,
        wanted: &BTreeSet<IpAddr>,
        server: &Arc<Server>,
    ) -> BTreeMap<IpAddr, io::Error> {
        self.open.retain(|address, _| wanted.contains(address));
        let mut problems = BTreeMap::new();
        for address in wanted {
            if self.open.contains_key(address) {
                continue;
            }
            match open(*address) {
                Ok((datagrams, listener)) => {
                    tracing::info!(%address, "answering names");
                    let mut tasks = JoinSet::new();
                    tasks.spawn(Arc::clone(server).datagrams(datagrams));
                    tasks.spawn(Arc::clone(server).connections(listener));
                    self.open.insert(*address, tasks);
                }
                Err(error) => {
                    problems.insert(*address, error);
                }
            }
        }
        problems
    }
}

fn open(address: IpAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let address = SocketAddr::from((address, PORT));
    let domain = Domain::for_address(address);
    let datagrams = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    let stream = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    // A connection that has just been closed does not keep us from listening.
    stream.set_reuse_address(true)?;
    for socket in [&datagrams, &stream] {
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(address))?;
    }
    // Less is no reason not to answer.
    let _ = datagrams.set_recv_buffer_size(RECEIVE);
    stream.listen(WAITING)?;
    Ok((
        UdpSocket::from_std(datagrams.into())?,
        TcpListener::from_std(stream.into())?,
    ))
}

/// The addresses of this host's bridges on whose networks `containers` are.
pub(crate) fn gateways(containers: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let Ok(addresses) = getifaddrs() else {
        return BTreeSet::new();
    };
    let bridges = addresses.filter_map(|it| {
        let network = network(it.address.as_ref()?, it.netmask.as_ref()?)?;
        is_bridge(&it.interface_name).then_some(network)
    });
    bridges
        .filter(|network| containers.iter().any(|it| network.contains(*it)))
        .map(|network| network.ip())
        .collect()
}

fn is_bridge(interface: &str) -> bool {
    Path::new("/sys/class/net")
        .join(interface)
        .join("bridge")
        .exists()
}

fn network(
    address: &nix::sys::socket::SockaddrStorage,
    mask: &nix::sys::socket::SockaddrStorage,
) -> Option<IpNetwork> {
    if let (Some(address), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
        return IpNetwork::with_netmask(address.ip().into(), mask.ip().into()).ok();
    }
    let (address, mask) = (address.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
    IpNetwork::with_netmask(address.ip().into(), mask.ip().into()).ok()
}
