//! What a configuration may say, for the modes that have fields of their own.

use cni::spec::{Code, Error, Mode};

use crate::request::Request;

/// The longest name of an interface, in bytes (`IFNAMSIZ` less the NUL).
pub(super) const IFNAME: usize = 15;
/// IPv4 needs 68 (RFC 791), IPv6 1280 (RFC 8200 §5).
const SMALLEST: u32 = 68;
const SMALLEST_V6: u32 = 1280;
const LARGEST: u32 = 65_535;

/// Fields of other modes, and values that no interface can have. `v6`: containers get IPv6 addresses.
pub(super) fn check(request: &Request, v6: bool) -> Result<(), Error> {
    let config = &request.config;
    let mode = config.mode;
    let said = [
        ("bridge", config.bridge.is_some(), &[Mode::Bridge][..]),
        ("isolated", config.isolated, &[Mode::Bridge]),
        ("hairpin", config.hairpin.is_some(), &[Mode::Bridge]),
        ("internal", config.internal, &[Mode::Bridge]),
        ("connected", !config.connected.is_empty(), &[Mode::Bridge]),
        (
            "parent",
            config.parent.is_some(),
            &[Mode::Macvlan, Mode::Ipvlan],
        ),
        (
            "vlan",
            config.vlan.is_some(),
            &[Mode::Macvlan, Mode::Ipvlan],
        ),
        (
            "macvlanMode",
            config.macvlan_mode.is_some(),
            &[Mode::Macvlan],
        ),
        ("ipvlanMode", config.ipvlan_mode.is_some(), &[Mode::Ipvlan]),
    ];
    let strange = said
        .iter()
        .find(|(_, said, modes)| *said && !modes.contains(&mode));
    if let Some((field, _, modes)) = strange {
        let modes: Vec<String> = modes
            .iter()
            .map(|mode| format!("{:?}", mode.as_str()))
            .collect();
        return Err(invalid(format!(
            "{field} is a field of mode {}; mode is {:?}",
            modes.join(" and "),
            mode.as_str()
        )));
    }
    let smallest = if v6 { SMALLEST_V6 } else { SMALLEST };
    match config.mtu {
        Some(mtu) if !(smallest..=LARGEST).contains(&mtu) => Err(invalid(format!(
            "mtu is {mtu}; must be {smallest} to {LARGEST}{}",
            if v6 { " with IPv6 addresses" } else { "" }
        ))),
        _ => Ok(()),
    }
}

/// A name that an interface can have.
pub(super) fn interface_name(field: &str, name: &str) -> Result<(), Error> {
    let strange = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':');
    if name.is_empty()
        || name.len() > IFNAME
        || matches!(name, "." | "..")
        || name.contains(strange)
    {
        return Err(invalid(format!(
            "{field} is {name:?}; an interface's name has 1 to {IFNAME} bytes, without blanks, ':' and '/'"
        )));
    }
    Ok(())
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(Code::InvalidConfig, message)
}
