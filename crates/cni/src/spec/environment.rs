//! `CNI_COMMAND` and its companions.

use std::path::PathBuf;

use super::{Code, Error};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach a container to the network.
    Add,
    /// Detach it.
    Del,
    /// Is it attached as ADD left it?
    Check,
    /// Can ADD be served?
    Status,
    /// Remove what the runtime no longer knows.
    Gc,
    /// Which versions are answered?
    Version,
}

/// What a runtime says in the environment. Only what the command needs is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: Command,
    /// `CNI_CONTAINERID`; empty for STATUS, GC and VERSION.
    pub container: String,
    /// `CNI_IFNAME`: what the interface is called in the container; empty for STATUS, GC, VERSION.
    pub ifname: String,
    /// `CNI_NETNS`; DEL may come without it.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`: pairs of key and value.
    pub args: Vec<(String, String)>,
}

/// An interface name is at most this long (`IFNAMSIZ` less the NUL).
const IFNAME: usize = 15;

impl Environment {
    /// Reads it with `get`, which is [`std::env::var`] but in tests.
    ///
    /// # Errors
    ///
    /// [`Code::InvalidEnvironment`], naming what is missing or wrong.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Environment, Error> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let wrong = |message: String| Error::new(Code::InvalidEnvironment, message);
        let command = match get("CNI_COMMAND").as_deref() {
            Some("ADD") => Command::Add,
            Some("DEL") => Command::Del,
            Some("CHECK") => Command::Check,
            Some("STATUS") => Command::Status,
            Some("GC") => Command::Gc,
            Some("VERSION") => Command::Version,
            Some(other) => {
                return Err(wrong(format!(
                    "CNI_COMMAND is {other:?}; must be ADD, DEL, CHECK, STATUS, GC or VERSION"
                )));
            }
            None => return Err(wrong("CNI_COMMAND is not set".into())),
        };
        let mut environment = Environment {
            command,
            container: String::new(),
            ifname: String::new(),
            netns: get("CNI_NETNS").map(PathBuf::from),
            args: Vec::new(),
        };
        if matches!(command, Command::Status | Command::Gc | Command::Version) {
            return Ok(environment);
        }
        let need = |name: &str| get(name).ok_or_else(|| wrong(format!("{name} is not set")));
        environment.container = need("CNI_CONTAINERID")?;
        if !is_identifier(&environment.container) {
            return Err(wrong(format!(
                "CNI_CONTAINERID is {:?}; must begin with a letter or digit, with only letters, digits, \
                 '_', '.' and '-' behind it",
                environment.container
            )));
        }
        environment.ifname = need("CNI_IFNAME")?;
        if let Err(why) = check_ifname(&environment.ifname) {
            return Err(wrong(format!(
                "CNI_IFNAME is {:?}: {why}",
                environment.ifname
            )));
        }
        if environment.netns.is_none() && command != Command::Del {
            return Err(wrong("CNI_NETNS is not set".into()));
        }
        environment.args = read_args(&get("CNI_ARGS").unwrap_or_default()).map_err(wrong)?;
        Ok(environment)
    }

    /// The value of a key of `CNI_ARGS`.
    pub fn arg(&self, key: &str) -> Option<&str> {
        let found = self.args.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }
}

/// `KEY=VALUE;KEY=VALUE`. Keys that we do not know are somebody else's.
fn read_args(text: &str) -> Result<Vec<(String, String)>, String> {
    text.split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(format!(
                "CNI_ARGS has {pair:?}; must be KEY=VALUE, separated by ';'"
            )),
        })
        .collect()
}

/// What container IDs and network names are made of: they become parts of file names.
pub(super) fn is_identifier(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(allowed)
}

/// What the kernel takes as a name of an interface.
fn check_ifname(name: &str) -> Result<(), String> {
    if name.len() > IFNAME {
        return Err(format!("at most {IFNAME} bytes"));
    }
    if matches!(name, "." | "..")
        || name.contains(['/', ':', '%'])
        || name.contains(char::is_whitespace)
    {
        return Err("an interface cannot be called so (no '/', ':', '%' or blanks)".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Environment, Error> {
        Environment::read(|name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn what_a_runtime_sets_is_read() {
        let environment = read(&[
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/a"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web-0;IP="),
        ])
        .unwrap();
        assert_eq!(environment.command, Command::Add);
        assert_eq!(environment.arg("K8S_POD_NAME"), Some("web-0"));
        assert_eq!(environment.arg("IP"), Some(""));
        assert_eq!(environment.arg("MAC"), None);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let full = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/a"),
            ("CNI_IFNAME", "eth0"),
        ];
        for missing in 0..full.len() {
            let mut some = full.to_vec();
            let (name, _) = some.remove(missing);
            let error = read(&some).unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment);
            assert!(error.message.contains(name), "{error}");
        }
        for (name, value) in [
            ("CNI_COMMAND", "add"),
            ("CNI_CONTAINERID", "../x"),
            ("CNI_CONTAINERID", "-x"),
            ("CNI_IFNAME", "eth0/1"),
            ("CNI_IFNAME", "sixteen-letters-"),
            ("CNI_IFNAME", "a b"),
            ("CNI_IFNAME", "eth%d"),
            ("CNI_IFNAME", ".."),
            ("CNI_ARGS", "x"),
        ] {
            let mut some = full.to_vec();
            some.retain(|(key, _)| *key != name);
            some.push((name, value));
            let error = read(&some).unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment);
            assert!(
                error.message.contains(name) && error.message.contains(value),
                "{error}"
            );
        }
    }

    #[test]
    fn del_needs_no_namespace_and_status_nothing() {
        let del = [
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
        ];
        assert_eq!(read(&del).unwrap().netns, None);
        assert!(read(&[("CNI_COMMAND", "STATUS")]).is_ok());
        assert!(read(&[("CNI_COMMAND", "GC")]).is_ok());
        assert!(read(&[("CNI_COMMAND", "VERSION")]).is_ok());
    }
}
