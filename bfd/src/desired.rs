//! What a subscriber wants, checked and put into our own types; keys are read from their files.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use bfd::{AuthKind, Hops, Key, SessionConfig, SessionKey};
use proto::bfd::v1 as pb;

/// A session that cannot be had now, for a reason a person can remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unusable {
    pub(crate) remote: String,
    pub(crate) local: String,
    pub(crate) multihop: bool,
    pub(crate) problem: String,
}

/// A field that holds what it must not.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("sessions[{index}].{field}: found `{found}`; allowed: {allowed}")]
pub(crate) struct WireError {
    index: usize,
    field: &'static str,
    found: String,
    allowed: &'static str,
}

/// The sessions, and those whose key cannot be had: they stay down, they never run without it.
///
/// # Errors
///
/// The first field that is wrong.
pub(crate) fn parse(
    desired: pb::DesiredSessions,
) -> Result<(Vec<SessionConfig>, Vec<Unusable>), WireError> {
    let (mut configs, mut unusable) = (Vec::new(), Vec::new());
    for (index, session) in desired.sessions.into_iter().enumerate() {
        let (config, authentication) = one(index, &session)?;
        match authentication.map(|(kind, id, file)| key(kind, id, file)) {
            None => configs.push(config),
            Some(Ok(key)) => configs.push(SessionConfig {
                key: Some(key),
                ..config
            }),
            Some(Err(problem)) => unusable.push(Unusable {
                remote: session.remote,
                local: session.local,
                multihop: session.multihop,
                problem,
            }),
        }
    }
    Ok((configs, unusable))
}

type Authentication<'a> = (AuthKind, u8, &'a str);

fn one(
    index: usize,
    session: &pb::SessionConfig,
) -> Result<(SessionConfig, Option<Authentication<'_>>), WireError> {
    let wrong = |field, found: &dyn std::fmt::Display, allowed| WireError {
        index,
        field,
        found: found.to_string(),
        allowed,
    };
    let address = |field, text: &str| -> Result<IpAddr, WireError> {
        text.parse()
            .map_err(|_| wrong(field, &text, "an IP address"))
    };
    let millis = |field, value: u32| match value {
        1..=60_000 => Ok(Duration::from_millis(value.into())),
        _ => Err(wrong(field, &value, "1 to 60000")),
    };
    let remote = address("remote", &session.remote)?;
    let local = match session.local.as_str() {
        "" => None,
        text => Some(address("local", text)?),
    };
    if local.is_some_and(|local| local.is_ipv4() != remote.is_ipv4()) {
        let allowed = "an address of the remote's family";
        return Err(wrong("local", &session.local, allowed));
    }
    let echo = match (session.echo_millis, session.multihop) {
        (0, _) => None,
        (_, true) => {
            let found = session.echo_millis;
            return Err(wrong("echo_millis", &found, "0 where multihop is set"));
        }
        (echo, false) => Some(millis("echo_millis", echo)?),
    };
    let detect_mult = u8::try_from(session.multiplier).ok().filter(|it| *it > 0);
    let authentication = match &session.authentication {
        None => None,
        Some(it) => {
            let kind = match it.kind.as_str() {
                "KeyedSha1" => AuthKind::KeyedSha1,
                "MeticulousKeyedSha1" => AuthKind::MeticulousKeyedSha1,
                other => {
                    let allowed = "KeyedSha1 or MeticulousKeyedSha1";
                    return Err(wrong("authentication.kind", &other, allowed));
                }
            };
            let id = u8::try_from(it.key_id)
                .map_err(|_| wrong("authentication.key_id", &it.key_id, "0 to 255"))?;
            Some((kind, id, it.key_file.as_str()))
        }
    };
    let config = SessionConfig {
        key_of: SessionKey {
            remote,
            local,
            hops: match session.multihop {
                true => Hops::Multi,
                false => Hops::Single,
            },
        },
        min_tx: millis("min_tx_millis", session.min_tx_millis)?,
        min_rx: millis("min_rx_millis", session.min_rx_millis)?,
        detect_mult: detect_mult
            .ok_or_else(|| wrong("multiplier", &session.multiplier, "1 to 255"))?,
        admin_down: session.admin_down,
        key: None,
        echo_tx: echo,
        echo_rx: echo.filter(|_| forwards(remote)),
    };
    Ok((config, authentication))
}

/// Whether this host's kernel forwards packets of this family: then it loops Echo packets.
fn forwards(family: IpAddr) -> bool {
    let setting = match family {
        IpAddr::V4(_) => "/proc/sys/net/ipv4/ip_forward",
        IpAddr::V6(_) => "/proc/sys/net/ipv6/conf/all/forwarding",
    };
    fs::read_to_string(setting).is_ok_and(|it| it.trim() != "0")
}

fn key(kind: AuthKind, id: u8, file: &str) -> Result<Key, String> {
    let bytes =
        fs::read(file).map_err(|error| format!("cannot read the key in {file}: {error}"))?;
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    Key::new(kind, id, bytes).map_err(|error| format!("{file}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> pb::SessionConfig {
        pb::SessionConfig {
            remote: "192.0.2.1".into(),
            local: String::new(),
            multihop: false,
            min_tx_millis: 300,
            min_rx_millis: 200,
            multiplier: 3,
            admin_down: false,
            authentication: None,
            echo_millis: 0,
        }
    }

    fn parse_one(
        session: pb::SessionConfig,
    ) -> Result<(Vec<SessionConfig>, Vec<Unusable>), String> {
        let sessions = vec![session];
        parse(pb::DesiredSessions { sessions }).map_err(|error| error.to_string())
    }

    #[test]
    fn a_wrong_field_is_named_with_what_is_allowed() {
        type Change = fn(&mut pb::SessionConfig);
        let table: [(Change, &str); 8] = [
            (|it| it.echo_millis = 60_001, "echo_millis"),
            (
                |it| (it.echo_millis, it.multihop) = (50, true),
                "echo_millis: found `50`; allowed: 0 where multihop is set",
            ),
            (
                |it| it.remote = "tor".into(),
                "remote: found `tor`; allowed: an IP address",
            ),
            (
                |it| it.local = "fd00::1".into(),
                "an address of the remote's family",
            ),
            (
                |it| it.min_tx_millis = 0,
                "min_tx_millis: found `0`; allowed: 1 to 60000",
            ),
            (|it| it.min_rx_millis = 60_001, "min_rx_millis"),
            (|it| it.multiplier = 0, "multiplier"),
            (|it| it.multiplier = 256, "multiplier"),
        ];
        for (change, expected) in table {
            let mut wrong = session();
            change(&mut wrong);
            let error = parse_one(wrong).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_session_whose_key_cannot_be_read_does_not_run_without_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let with_key = |file: &std::path::Path| pb::SessionConfig {
            authentication: Some(pb::Authentication {
                kind: "KeyedSha1".into(),
                key_id: 1,
                key_file: file.display().to_string(),
            }),
            ..session()
        };
        let (configs, unusable) = parse_one(with_key(&file)).unwrap();
        assert!(configs.is_empty());
        assert!(
            unusable[0].problem.contains("cannot read the key"),
            "{unusable:?}"
        );
        fs::write(&file, "secret\n").unwrap();
        let (configs, unusable) = parse_one(with_key(&file)).unwrap();
        assert_eq!(unusable, []);
        let expected = Key::new(AuthKind::KeyedSha1, 1, b"secret").unwrap();
        assert_eq!(configs[0].key, Some(expected));
        fs::write(&file, [7; 30]).unwrap();
        let (_, unusable) = parse_one(with_key(&file)).unwrap();
        assert!(unusable[0].problem.contains("1 to 20"), "{unusable:?}");
    }
}
