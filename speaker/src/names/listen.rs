//! Where questions are taken: the resolver's own addresses, and the gateways of bridges, as they come.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use kernel::{Netlink, NetlinkError, list};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use super::forward::PORT;
use super::server::Server;
use super::spread::{SOCKETS, by_sender};

/// What may wait to be read: the kernel counts about 800 bytes for each small datagram.
const RECEIVE: usize = 128 * 1024;
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
                Ok((sockets, listener)) => {
                    tracing::info!(%address, "answering names");
                    let mut tasks = JoinSet::new();
                    for datagrams in sockets {
                        tasks.spawn(Arc::clone(server).datagrams(datagrams));
                    }
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

fn open(address: IpAddr) -> io::Result<(Vec<UdpSocket>, TcpListener)> {
    let address = SocketAddr::from((address, PORT));
    let stream = socket(address, Type::STREAM, Protocol::TCP)?;
    // A connection that has just been closed does not keep us from listening.
    stream.set_reuse_address(true)?;
    stream.bind(&SockAddr::from(address))?;
    stream.listen(WAITING)?;
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let datagrams = socket(address, Type::DGRAM, Protocol::UDP)?;
        datagrams.set_reuse_port(true)?;
        datagrams.bind(&SockAddr::from(address))?;
        // Less is no reason not to answer.
        let _ = datagrams.set_recv_buffer_size(RECEIVE);
        if let Err(error) = by_sender(&datagrams, address.ip()) {
            tracing::debug!(%error, "the resolver's sockets are not chosen by sender");
        }
        sockets.push(UdpSocket::from_std(datagrams.into())?);
    }
    Ok((sockets, TcpListener::from_std(stream.into())?))
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The addresses of this host's bridges on whose networks `containers` are.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn gateways(containers: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let mut netlink = Netlink::open(RECEIVE)?;
    let mut gateways = BTreeSet::new();
    for link in list::links(&mut netlink)? {
        if link.kind.as_deref() != Some("bridge") {
            continue;
        }
        for found in list::addresses(&mut netlink, link.index)? {
            let network = IpNetwork::new(found.address, found.length).ok();
            let has = |network: IpNetwork| containers.iter().any(|it| network.contains(*it));
            if !found.unusable && network.is_some_and(has) {
                gateways.insert(found.address);
            }
        }
    }
    Ok(gateways)
}
