//! Links that stand on others: bridges and the flags of their ports, macvlan, ipvlan, VLANs
//! (`linux/if_link.h`).

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoPortData, InfoPortKind,
    InfoVlan, IpVlanMode, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};

use crate::link::{self, By, Mac};
use crate::message::{CREATE, EXCLUSIVE, Requests, attributes, u16_at, u32_at};

/// What a link is, with what only this kind has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtualKind {
    /// A switch.
    Bridge,
    /// Links with MAC addresses of their own on one parent.
    Macvlan(MacvlanMode),
    /// Links that share their parent's MAC address.
    Ipvlan(IpvlanMode),
    /// Frames of the parent that carry this 802.1Q number, 1 to 4094.
    Vlan(u16),
}

/// How the macvlan links of one parent reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Directly, within the host.
    Bridge,
    /// Not at all.
    Private,
    /// By a switch outside that sends frames back to where they came from (802.1Qbg).
    Vepa,
    /// There is one only; it has its parent to itself, with its MAC address.
    Passthru,
}

/// Up to which layer the ipvlan links of one parent work. All of a parent have the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpvlanMode {
    /// They ask and answer for their addresses with ARP and neighbour discovery.
    L2,
    /// They do not; the parent takes packets to their addresses out of what it receives, and
    /// routes by the tables of its own namespace.
    L3,
    /// As `L3`, and packets pass the netfilter hooks of the parent's namespace.
    L3s,
}

/// How a port of a bridge sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgePort {
    /// Frames also go back to where they came from.
    pub hairpin: bool,
    /// Never to another isolated port.
    pub isolated: bool,
}

/// A link to be made.
#[derive(Clone, Copy, Debug)]
pub struct VirtualLink<'a> {
    /// What it is called, 15 bytes at most. Kernels before 6.13 do not make one in another namespace if
    /// *this* one has a link of its name.
    pub name: &'a str,
    /// What it is.
    pub kind: VirtualKind,
    /// The link it stands on, by its number in the namespace of the socket; bridges have none.
    pub parent: Option<u32>,
    /// Where it is put at once, with its name; `None`: the namespace of the socket.
    pub namespace: Option<BorrowedFd<'a>>,
    /// The largest packet; `None`: its parent's, or 1500.
    pub mtu: Option<u32>,
    /// Its MAC address; `None`: the kernel's choice. A bridge without one of its own takes that of a
    /// port, and another one when that port goes.
    pub mac: Option<Mac>,
    /// The number that it has in common with others; 0: none of its own.
    pub group: u32,
    /// Whether it is switched on.
    pub up: bool,
}

impl Requests {
    /// A new link, all of it or nothing. Fails with `EEXIST` when the name is taken, and with
    /// `EOPNOTSUPP` by a kernel without its driver.
    pub fn add_virtual_link(&mut self, link: &VirtualLink<'_>) {
        let mut message = LinkMessage::default();
        if link.up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        let attributes = &mut message.attributes;
        attributes.push(LinkAttribute::IfName(link.name.to_owned()));
        attributes.extend(link.parent.map(LinkAttribute::Link));
        attributes.extend(link.mtu.map(LinkAttribute::Mtu));
        attributes.extend((link.group > 0).then_some(LinkAttribute::Group(link.group)));
        attributes.extend(
            link.namespace
                .map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())),
        );
        attributes.extend(link.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        attributes.push(LinkAttribute::LinkInfo(link.kind.info()));
        self.link_message(link::NEW, CREATE | EXCLUSIVE, &message);
    }

    /// How a port of a bridge sends. Fails with `EOPNOTSUPP` when the link is no port.
    pub fn set_bridge_port(&mut self, port: By<'_>, flags: BridgePort) {
        let mut message = LinkMessage::default();
        port.put_into(&mut message);
        let info = LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![
                InfoBridgePort::HairpinMode(flags.hairpin),
                InfoBridgePort::Isolated(flags.isolated),
            ])),
        ]);
        message.attributes.push(info);
        self.link_message(link::NEW, 0, &message);
    }
}

/// The first attribute of the data of macvlan (`IFLA_MACVLAN_MODE`), ipvlan and VLAN links
/// (`IFLA_IPVLAN_MODE`, `IFLA_VLAN_ID`).
const FIRST: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;

impl VirtualKind {
    /// `None` for kinds and modes that we do not make.
    pub(crate) fn read(kind: &str, data: &[u8]) -> Option<VirtualKind> {
        let find = || attributes(data, 0).find(|(kind, _)| *kind == FIRST);
        let first = || find().map(|(_, value)| value);
        Some(match kind {
            "bridge" => VirtualKind::Bridge,
            "macvlan" => VirtualKind::Macvlan(match MacVlanMode::from(u32_at(first()?, 0)?) {
                MacVlanMode::Bridge => MacvlanMode::Bridge,
                MacVlanMode::Private => MacvlanMode::Private,
                MacVlanMode::Vepa => MacvlanMode::Vepa,
                MacVlanMode::Passthrough => MacvlanMode::Passthru,
                _ => return None,
            }),
            "ipvlan" => VirtualKind::Ipvlan(match u16_at(first()?, 0)? {
                0 => IpvlanMode::L2,
                1 => IpvlanMode::L3,
                2 => IpvlanMode::L3s,
                _ => return None,
            }),
            "vlan" => VirtualKind::Vlan(u16_at(first()?, 0)?),
            _ => return None,
        })
    }

    fn info(self) -> Vec<LinkInfo> {
        let (kind, data) = match self {
            VirtualKind::Bridge => return vec![LinkInfo::Kind(InfoKind::Bridge)],
            VirtualKind::Macvlan(mode) => (
                InfoKind::MacVlan,
                InfoData::MacVlan(vec![InfoMacVlan::Mode(mode.into())]),
            ),
            VirtualKind::Ipvlan(mode) => (
                InfoKind::IpVlan,
                InfoData::IpVlan(vec![InfoIpVlan::Mode(mode.into())]),
            ),
            VirtualKind::Vlan(id) => (InfoKind::Vlan, InfoData::Vlan(vec![InfoVlan::Id(id)])),
        };
        vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]
    }
}

impl BridgePort {
    pub(crate) fn read(data: &[u8]) -> BridgePort {
        let is = |wanted| {
            let mut all = attributes(data, 0);
            all.any(|(kind, value)| kind == wanted && value == [1])
        };
        BridgePort {
            hairpin: is(IFLA_BRPORT_MODE),
            isolated: is(IFLA_BRPORT_ISOLATED),
        }
    }
}

impl From<MacvlanMode> for MacVlanMode {
    fn from(mode: MacvlanMode) -> MacVlanMode {
        match mode {
            MacvlanMode::Bridge => MacVlanMode::Bridge,
            MacvlanMode::Private => MacVlanMode::Private,
            MacvlanMode::Vepa => MacVlanMode::Vepa,
            MacvlanMode::Passthru => MacVlanMode::Passthrough,
        }
    }
}

impl From<IpvlanMode> for IpVlanMode {
    fn from(mode: IpvlanMode) -> IpVlanMode {
        match mode {
            IpvlanMode::L2 => IpVlanMode::L2,
            IpvlanMode::L3 => IpVlanMode::L3,
            IpvlanMode::L3s => IpVlanMode::L3S,
        }
    }
}
