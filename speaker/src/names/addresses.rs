//! The resolver's own addresses: on the loopback interface, so that every container whose way out leads
//! through this host reaches them, whatever interface it has.

use std::io;
use std::net::IpAddr;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressMessage, AddressProtocol, AddressScope,
};

/// The index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;
/// How our addresses are marked (`proto` in `ip address`), as routes to pods are.
const PROTOCOL: u8 = 150;

/// Why an address is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    #[error(
        "cannot put {address} on lo: {source}; needed: CAP_NET_ADMIN, and the kernel's IPv6 for an IPv6 address"
    )]
    Add {
        address: IpAddr,
        source: rtnetlink::Error,
    },
    #[error("cannot list the addresses of lo: {0}")]
    List(#[source] rtnetlink::Error),
    #[error("cannot take our addresses from lo: {0}")]
    Remove(#[source] rtnetlink::Error),
}

/// Puts the addresses on `lo`, as far as they are not there, and returns what went wrong with each.
pub(crate) async fn put(addresses: &[IpAddr]) -> Vec<AddressError> {
    let handle = match open() {
        Ok(handle) => handle,
        Err(error) => return vec![error],
    };
    // What is there is left alone: to replace it would be told to everybody who follows addresses.
    let there = match on_loopback(&handle).await {
        Ok(there) => there,
        Err(source) => return vec![AddressError::List(source)],
    };
    let missing = |address: &&IpAddr| !there.iter().any(|message| has(message, **address));
    let mut problems = Vec::new();
    for address in addresses.iter().filter(missing) {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut request = handle.address().add(LOOPBACK, *address, length);
        let message = request.message_mut();
        // Never the source of a packet that leaves the host.
        message.header.scope = AddressScope::Host;
        let mark = AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL));
        message.attributes.push(mark);
        if let Err(source) = request.execute().await {
            let address = *address;
            problems.push(AddressError::Add { address, source });
        }
    }
    problems
}

/// Takes those of them away that carry our mark.
pub(crate) async fn remove(addresses: &[IpAddr]) -> Result<(), AddressError> {
    let handle = open()?;
    let there = on_loopback(&handle).await.map_err(AddressError::List)?;
    for message in there {
        let named = addresses.iter().any(|address| has(&message, *address));
        if named && is_marked(&message) {
            let removed = handle.address().del(message).execute().await;
            removed.map_err(AddressError::Remove)?;
        }
    }
    Ok(())
}

async fn on_loopback(handle: &rtnetlink::Handle) -> Result<Vec<AddressMessage>, rtnetlink::Error> {
    let list = handle.address().get().set_link_index_filter(LOOPBACK);
    list.execute().try_collect().await
}

fn has(message: &AddressMessage, address: IpAddr) -> bool {
    let mut attributes = message.attributes.iter();
    attributes.any(|it| matches!(it, AddressAttribute::Address(it) if *it == address))
}

fn is_marked(message: &AddressMessage) -> bool {
    let mut attributes = message.attributes.iter();
    attributes
        .any(|it| matches!(it, AddressAttribute::Protocol(mark) if u8::from(*mark) == PROTOCOL))
}

fn open() -> Result<rtnetlink::Handle, AddressError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(AddressError::Open)?;
    tokio::spawn(connection);
    Ok(handle)
}
