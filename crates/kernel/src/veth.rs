//! Pairs of virtual Ethernet interfaces: what goes into one comes out of the other
//! (`linux/veth.h`).

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use crate::link::{self, LinkChange, LinkDetails, Mac};
use crate::message::{CREATE, EXCLUSIVE, Requests};
use crate::socket::{Failure, Netlink, NetlinkError};

/// A pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// The end here.
    pub here: VethEnd<'a>,
    /// The end there.
    pub there: VethEnd<'a>,
    /// The network namespace that the other end is in from the beginning.
    pub namespace: BorrowedFd<'a>,
    /// The largest packet of both.
    pub mtu: u32,
    /// A note for people and for us on the end here, 255 bytes at most.
    pub alias: &'a str,
    /// The number that the end here has in common with others; 0: none of its own.
    pub group: u32,
}

/// One end.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// What it is called, 15 bytes at most.
    pub name: &'a str,
    /// Its MAC address.
    pub mac: Mac,
}

/// The kernel's numbers for a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VethIndexes {
    /// Of the end here.
    pub here: u32,
    /// Of the end there, in its namespace.
    pub there: u32,
}

/// Makes a pair in one send: both ends or none. The end here is on, has no IPv6 address of its own
/// (it needs none to forward, and nothing is multicast by it) and bears the note; the one there is
/// off.
///
/// `Ok(Err(failure))`: the kernel refuses. With `EEXIST` one of the names is taken, here or there; a
/// link here that has this name already is on afterwards and bears the note, so names must not be
/// shared with others.
///
/// # Errors
///
/// Those of the socket.
pub fn create(
    netlink: &mut Netlink,
    veth: &Veth<'_>,
) -> Result<Result<VethIndexes, Failure>, NetlinkError> {
    let mut requests = Requests::new();
    requests.add_veth(veth);
    let here = link::By::Name(veth.here.name);
    // Not in the request before: the kernel would pass it over there.
    requests.set_link(here, &LinkChange::no_link_local());
    let up = LinkChange {
        up: Some(true),
        alias: Some(veth.alias),
        ..LinkChange::default()
    };
    requests.set_link(here, &up);
    requests.get_link(here);
    let mut made = None;
    let mut failures = Vec::new();
    netlink.exchange(&mut requests, &mut failures, |message| {
        made =
            made.or(LinkDetails::read(message).and_then(|link| Some((link.index, link.parent?))));
    })?;
    failures.retain(|failure| !(failure.request == 1 && failure.says_no_ipv6()));
    // The first failure explains those behind it.
    Ok(match (failures.into_iter().next(), made) {
        (Some(failure), _) => Err(failure),
        (None, Some((here, there))) => Ok(VethIndexes { here, there }),
        (None, None) => Err(Failure {
            request: 3,
            errno: libc::ENODEV,
            text: "the pair is gone again".into(),
        }),
    })
}

impl Requests {
    /// A new pair, both ends off. Fails with `EEXIST` when a name is taken.
    pub fn add_veth(&mut self, veth: &Veth<'_>) {
        let end = |end: &VethEnd<'_>| {
            let mut message = LinkMessage::default();
            message.attributes = vec![
                LinkAttribute::IfName(end.name.to_owned()),
                LinkAttribute::Mtu(veth.mtu),
                LinkAttribute::Address(end.mac.0.to_vec()),
                // Otherwise the kernel makes one for each processor, switches all but one off, and waits each
                // time for a grace period, with everybody else who changes the network waiting behind it.
                LinkAttribute::NumTxQueues(1),
                LinkAttribute::NumRxQueues(1),
            ];
            message
        };
        let mut there = end(&veth.there);
        let namespace = veth.namespace.as_raw_fd();
        there.attributes.push(LinkAttribute::NetNsFd(namespace));
        let mut here = end(&veth.here);
        here.header.flags = LinkFlags::empty();
        here.attributes.push(LinkAttribute::Group(veth.group));
        here.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(there))),
        ]));
        self.link_message(link::NEW, CREATE | EXCLUSIVE, &here);
    }
}
