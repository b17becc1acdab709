//! Network interfaces.

use std::str::FromStr;
use std::{fmt, io};

use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkExtentMask, LinkFlags,
    LinkMessage,
};
use tokio::runtime::{Builder, Runtime};

use crate::message::{DUMP, Message, Requests, attributes, text, u32_at};
use crate::socket::{Netlink, NetlinkError};
use crate::virtual_link::{BridgePort, VirtualKind};

pub(crate) const NEW: u16 = libc::RTM_NEWLINK;
pub(crate) const DELETE: u16 = libc::RTM_DELLINK;
/// Bytes of `struct ifinfomsg`: family, padding, type (2), index (4), flags (4), change (4).
const BODY: usize = 16;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// What a person calls it.
    pub name: String,
    /// Switched on and with a carrier: packets can leave by it.
    pub up: bool,
    /// The largest packet that leaves by it, in octets.
    pub mtu: u32,
}

impl Link {
    pub(crate) fn read(message: Message<'_>) -> Option<Link> {
        let index = u32_at(message.body, 4)?;
        let flags = u32_at(message.body, 8)?;
        let name = attributes(message.body, BODY)
            .find(|(kind, _)| *kind == libc::IFLA_IFNAME)
            .map(|(_, value)| text(value))?;
        let mtu = attributes(message.body, 16)
            .find(|(kind, _)| *kind == libc::IFLA_MTU)
            .and_then(|(_, value)| u32_at(value, 0))?;
        let needed = libc::IFF_UP as u32 | libc::IFF_LOWER_UP as u32;
        Some(Link {
            index,
            name,
            up: flags & needed == needed,
            mtu,
        })
    }
}

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub(crate) fn read(octets: &[u8]) -> Option<Mac> {
        octets.try_into().ok().map(Mac)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = ();

    /// Six pairs of hexadecimal digits with ':' or '-' between them.
    fn from_str(text: &str) -> Result<Mac, ()> {
        let mut octets = [0; 6];
        let mut pairs = text.split([':', '-']);
        for octet in &mut octets {
            let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or(())?;
            *octet = u8::from_str_radix(pair, 16).map_err(|_| ())?;
        }
        pairs.next().map_or(Ok(Mac(octets)), |_| Err(()))
    }
}

/// `IF_OPER_UP`.
const OPERATIONAL: u8 = 6;

/// A network interface with what is needed to judge whether it is as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkDetails {
    /// The kernel's number for it.
    pub index: u32,
    /// What a person calls it.
    pub name: String,
    /// `veth`, `bridge`, …; `None`: hardware or loopback.
    pub kind: Option<String>,
    /// Switched on.
    pub up: bool,
    /// Its operational state is up: it has a carrier and the kernel has acted on that, so what is sent goes
    /// out. (A link without a carrier of its own, such as loopback, never says so.)
    pub operational: bool,
    /// The largest packet.
    pub mtu: u32,
    /// Number of the bridge (or bond, …) it is a port of.
    pub master: Option<u32>,
    /// Number of the interface it stands on; of a veth that of the other end, in its namespace.
    pub parent: Option<u32>,
    /// The note on it; empty when there is none.
    pub alias: String,
    /// Its MAC address; `None`: it has none of six octets.
    pub mac: Option<Mac>,
    /// For the kinds that stand on others, what only their kind has.
    pub virtual_kind: Option<VirtualKind>,
    /// For ports of a bridge, how they send.
    pub port: Option<BridgePort>,
    /// The number that it has in common with others, as `group` in `ip link`; 0 is that of all.
    pub group: u32,
}

impl LinkDetails {
    pub(crate) fn read(message: Message<'_>) -> Option<LinkDetails> {
        let mut link = LinkDetails {
            index: u32_at(message.body, 4)?,
            name: String::new(),
            kind: None,
            up: u32_at(message.body, 8)? & libc::IFF_UP as u32 != 0,
            operational: false,
            mtu: 0,
            master: None,
            parent: None,
            alias: String::new(),
            mac: None,
            virtual_kind: None,
            port: None,
            group: 0,
        };
        for (kind, value) in attributes(message.body, BODY) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_OPERSTATE => link.operational = value.first() == Some(&OPERATIONAL),
                libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
                libc::IFLA_MASTER => link.master = u32_at(value, 0),
                libc::IFLA_LINK => link.parent = u32_at(value, 0),
                libc::IFLA_IFALIAS => link.alias = text(value),
                libc::IFLA_GROUP => link.group = u32_at(value, 0)?,
                libc::IFLA_ADDRESS => link.mac = Mac::read(value),
                libc::IFLA_LINKINFO => {
                    let find = |wanted| attributes(value, 0).find(|(kind, _)| *kind == wanted);
                    let data = |wanted| find(wanted).map(|(_, value)| value);
                    link.kind = data(libc::IFLA_INFO_KIND).map(text);
                    link.virtual_kind = VirtualKind::read(
                        link.kind.as_deref().unwrap_or_default(),
                        data(libc::IFLA_INFO_DATA).unwrap_or_default(),
                    );
                    link.port = match data(libc::IFLA_INFO_SLAVE_KIND).map(text).as_deref() {
                        Some("bridge") => data(libc::IFLA_INFO_SLAVE_DATA).map(BridgePort::read),
                        _ => None,
                    };
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// Which link is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By<'a> {
    /// The kernel's number for it.
    Index(u32),
    /// Its name.
    Name(&'a str),
}

/// What is to be different about a link; `None`: as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkChange<'a> {
    /// On or off.
    pub up: Option<bool>,
    /// Another name, 15 bytes at most; only for a link by its number, which is off.
    pub name: Option<&'a str>,
    /// The note on it, 255 bytes at most.
    pub alias: Option<&'a str>,
    /// The largest packet.
    pub mtu: Option<u32>,
    /// The bridge that it becomes a port of.
    pub master: Option<u32>,
    /// The number that it has in common with others.
    pub group: Option<u32>,
    /// Whether the kernel gives it an IPv6 link-local address when it is switched on, and finds out
    /// by duplicate address detection whether that is free.
    pub own_link_local: Option<bool>,
}

impl LinkChange<'_> {
    /// The kernel makes no IPv6 address for it. Fails where the kernel has no IPv6 (see
    /// [`Failure::says_no_ipv6`](crate::Failure::says_no_ipv6)).
    pub fn no_link_local() -> LinkChange<'static> {
        LinkChange {
            own_link_local: Some(false),
            ..LinkChange::default()
        }
    }
}

/// The link of a name or number; `None` when there is none.
///
/// # Errors
///
/// Those of the socket.
pub fn find(netlink: &mut Netlink, link: By<'_>) -> Result<Option<LinkDetails>, NetlinkError> {
    let mut requests = Requests::new();
    requests.get_link(link);
    let mut found = None;
    let mut failures = Vec::new();
    netlink.exchange(&mut requests, &mut failures, |message| {
        if message.kind == NEW {
            found = LinkDetails::read(message);
        }
    })?;
    match failures.pop() {
        Some(failure) if failure.errno != libc::ENODEV => Err(NetlinkError::List {
            what: "a link",
            failure,
        }),
        _ => Ok(found),
    }
}

impl Requests {
    /// Changes a link. Fails with `ENODEV` when there is none.
    pub fn set_link(&mut self, link: By<'_>, change: &LinkChange<'_>) {
        let mut message = LinkMessage::default();
        if let Some(up) = change.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up {
                LinkFlags::Up
            } else {
                LinkFlags::empty()
            };
        }
        link.put_into(&mut message);
        let attributes = &mut message.attributes;
        attributes.extend(
            change
                .alias
                .map(|alias| LinkAttribute::IfAlias(alias.into())),
        );
        attributes.extend(change.name.map(|name| LinkAttribute::IfName(name.into())));
        attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        attributes.extend(change.master.map(LinkAttribute::Controller));
        attributes.extend(change.group.map(LinkAttribute::Group));
        attributes.extend(change.own_link_local.map(|own| {
            let mode = if own {
                In6AddrGenMode::Eui64
            } else {
                In6AddrGenMode::None
            };
            LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
                mode,
            )])])
        }));
        self.link_message(libc::RTM_SETLINK, 0, &message);
    }

    /// Takes a link away, and a veth's other end with it. Fails with `ENODEV` when there is none.
    pub fn remove_link(&mut self, link: By<'_>) {
        let mut message = LinkMessage::default();
        link.put_into(&mut message);
        self.link_message(DELETE, 0, &message);
    }

    pub(crate) fn get_link(&mut self, link: By<'_>) {
        let mut message = LinkMessage::default();
        link.put_into(&mut message);
        message.attributes.push(without_statistics());
        self.link_message(libc::RTM_GETLINK, 0, &message);
    }

    pub(crate) fn list_links(&mut self) {
        let mut message = LinkMessage::default();
        message.attributes.push(without_statistics());
        self.link_message(libc::RTM_GETLINK, DUMP, &message);
    }
}

impl By<'_> {
    pub(crate) fn put_into(self, message: &mut LinkMessage) {
        match self {
            By::Index(index) => message.header.index = index,
            By::Name(name) => message
                .attributes
                .push(LinkAttribute::IfName(name.to_owned())),
        }
    }
}

fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

/// Lists interfaces with `rtnetlink`: they are few, so its one request at a time costs nothing.
pub struct Links {
    runtime: Runtime,
    handle: rtnetlink::Handle,
}

/// Why interfaces cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// No socket, or nothing to wait for it with.
    #[error("cannot open a netlink socket to list interfaces")]
    Open(#[source] io::Error),
    /// The kernel did not answer.
    #[error("the kernel does not list interfaces")]
    List(#[source] rtnetlink::Error),
}

impl Links {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`LinksError::Open`].
    pub fn open() -> Result<Links, LinksError> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(LinksError::Open)?;
        let handle = {
            let _entered = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(LinksError::Open)?;
            runtime.spawn(connection);
            handle
        };
        Ok(Links { runtime, handle })
    }

    /// All interfaces. Waits for the kernel's answer; not to be called from within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`LinksError::List`].
    pub fn list(&self) -> Result<Vec<Link>, LinksError> {
        let messages = self.handle.link().get().execute();
        let messages: Vec<LinkMessage> = self
            .runtime
            .block_on(messages.try_collect())
            .map_err(LinksError::List)?;
        Ok(messages
            .into_iter()
            .filter_map(Link::from_message)
            .collect())
    }
}

impl Link {
    fn from_message(message: LinkMessage) -> Option<Link> {
        let mut name = None;
        let mut mtu = None;
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(it) => name = Some(it),
                LinkAttribute::Mtu(it) => mtu = Some(it),
                _ => {}
            }
        }
        let needed = LinkFlags::Up | LinkFlags::LowerUp;
        Some(Link {
            index: message.header.index,
            name: name?,
            up: message.header.flags.contains(needed),
            mtu: mtu?,
        })
    }
}
