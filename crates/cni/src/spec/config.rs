//! The network configuration, as it comes on standard input.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::environment::is_identifier;
use super::result::{Dns, Success};
use super::{Code, Error, Version};

/// How a container is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A veth pair and routes.
    #[default]
    Routed,
    /// A veth pair into a bridge.
    Bridge,
    /// A link of its own on an interface of the host, with its own MAC address.
    Macvlan,
    /// The same, with its parent's MAC address.
    Ipvlan,
    /// Nothing: the container has the host's network.
    Host,
    /// Only the loopback interface.
    None,
}

impl Mode {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Routed => "routed",
            Mode::Bridge => "bridge",
            Mode::Macvlan => "macvlan",
            Mode::Ipvlan => "ipvlan",
            Mode::Host => "host",
            Mode::None => "none",
        }
    }
}

/// A network configuration, with what libcni adds to it for one call.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkConfig {
    /// The version of the specification that the answer has to follow; 0.1.0 when it is missing.
    #[serde(default = "oldest")]
    pub cni_version: Version,
    /// The network's name; empty is refused.
    #[serde(default)]
    pub name: String,
    /// The file name of the plugin that is meant.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// How containers are attached.
    #[serde(default)]
    pub mode: Mode,
    /// The largest packet; `None`: that of the node's path.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Where the node file and the leases are.
    #[serde(default = "data_dir")]
    pub data_dir: PathBuf,
    /// Which addresses containers get; `None`: the node's, of purpose Pods.
    #[serde(default)]
    pub ipam: Option<Ipam>,
    /// Mode `bridge`: the bridge's name; `None`: made of the network's.
    #[serde(default)]
    pub bridge: Option<String>,
    /// Mode `bridge`: its containers do not reach each other.
    #[serde(default)]
    pub isolated: bool,
    /// Mode `bridge`: a container reaches itself by an address that the host translates.
    #[serde(default)]
    pub hairpin: Option<bool>,
    /// Mode `bridge`: no way out of it.
    #[serde(default)]
    pub internal: bool,
    /// Mode `bridge`: bridges that this one may reach, if they name it, too.
    #[serde(default)]
    pub connected: Vec<String>,
    /// Mode `bridge` with subnets of its own: what leaves the host has the host's address.
    #[serde(default)]
    pub ip_masq: bool,
    /// Modes `macvlan` and `ipvlan`: the host's interface.
    #[serde(default)]
    pub parent: Option<String>,
    /// Modes `macvlan` and `ipvlan`: an 802.1Q VLAN of the parent.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// Mode `macvlan`: bridge, private, vepa or passthru.
    #[serde(default)]
    pub macvlan_mode: Option<String>,
    /// Mode `ipvlan`: l2, l3 or l3s.
    #[serde(default)]
    pub ipvlan_mode: Option<String>,
    /// Name servers for containers.
    #[serde(default)]
    pub dns: Option<Dns>,
    /// What the runtime wants for this container (by the capabilities that the configuration names).
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    /// What the user wants for this container, by convention under `cni`.
    #[serde(default)]
    pub args: Args,
    /// ADD: what the plugins before this one made. CHECK and DEL: the result of the whole chain.
    #[serde(default)]
    pub prev_result: Option<Success>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Attachment>>,
    #[serde(default, rename = "cni.dev/attachments")]
    attachments: Option<Vec<Attachment>>,
    /// Everything else.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// `ipam`: addresses are always given by this plugin, never by another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ipam {
    /// Only to refuse other plugins' names.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Addresses of the node's subnets out of this Pool.
    #[serde(default)]
    pub pool: Option<String>,
    /// Addresses of these subnets; not for mode `routed`.
    #[serde(default)]
    pub subnets: Vec<IpamSubnet>,
    /// Routes in the container; `None`: default routes.
    #[serde(default)]
    pub routes: Option<Vec<IpamRoute>>,
}

/// A subnet of `ipam`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpamSubnet {
    /// The subnet.
    pub subnet: IpNetwork,
    /// The first address to give.
    #[serde(default)]
    pub range_start: Option<IpAddr>,
    /// The last address to give.
    #[serde(default)]
    pub range_end: Option<IpAddr>,
    /// The container's gateway; never given to a container.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Never given to a container.
    #[serde(default)]
    pub reserved: Vec<IpNetwork>,
}

/// A route of `ipam`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpamRoute {
    /// Where packets are for.
    pub dst: IpNetwork,
    /// The next router; `None`: the gateway of the subnet.
    #[serde(default)]
    pub gw: Option<IpAddr>,
}

/// `runtimeConfig`. What other plugins of the chain read (`portMappings`, `bandwidth`, …) is passed
/// over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RuntimeConfig {
    /// Capability `ips`.
    #[serde(default, deserialize_with = "addresses")]
    pub ips: Vec<IpAddr>,
    /// Capability `mac`.
    #[serde(default)]
    pub mac: Option<String>,
    /// Capability `aliases`.
    #[serde(default)]
    pub aliases: Aliases,
}

/// Capability `aliases`: a list, or (Podman) a list for each network.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Aliases {
    /// For the network of this configuration.
    Ours(Vec<String>),
    /// By the names of networks.
    OfNetworks(std::collections::BTreeMap<String, Vec<String>>),
}

impl Default for Aliases {
    fn default() -> Aliases {
        Aliases::Ours(Vec::new())
    }
}

/// `args`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Args {
    /// By convention the place for what plugins have in common.
    #[serde(default)]
    pub cni: CniArgs,
}

/// `args.cni`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct CniArgs {
    /// Requested addresses.
    #[serde(default, deserialize_with = "addresses")]
    pub ips: Vec<IpAddr>,
}

/// What tells an attachment from every other in a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// Fields of network configurations that say nothing to this plugin.
const PASSED_OVER: [&str; 9] = [
    "capabilities",
    "plugins",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "deviceID",
    "pciBusID",
    "logFile",
    "logLevel",
];

impl NetworkConfig {
    /// Reads it. The version in which an error has to be answered is that of [`version_of`].
    ///
    /// # Errors
    ///
    /// [`Code::Decoding`] when it is no JSON, [`Code::IncompatibleVersion`], [`Code::InvalidConfig`].
    pub fn read(text: &str) -> Result<NetworkConfig, Error> {
        let value: Value = serde_json::from_str(text).map_err(|error| {
            Error::new(
                Code::Decoding,
                format!("the network configuration on standard input is no JSON: {error}"),
            )
        })?;
        if let Some(version) = value.get("cniVersion").and_then(Value::as_str) {
            version.parse::<Version>()?;
        }
        let invalid = |message: String| Error::new(Code::InvalidConfig, message);
        // libcni says null for what there is none of.
        let value = match value {
            Value::Object(fields) => {
                let set = fields.into_iter().filter(|(_, value)| !value.is_null());
                Value::Object(set.collect())
            }
            other => other,
        };
        let config: NetworkConfig = serde_path_to_error::deserialize(value).map_err(|error| {
            let (field, error) = (error.path().to_string(), error.inner());
            invalid(match field.as_str() {
                "." => format!("the network configuration: {error}"),
                field => format!("{field} of the network configuration: {error}"),
            })
        })?;
        if config.name.is_empty() {
            return Err(invalid("the network configuration has no name".into()));
        }
        if !is_identifier(&config.name) {
            return Err(invalid(format!(
                "name of the network configuration is {:?}; must begin with a letter or digit, with only \
                 letters, digits, '_', '.' and '-' behind it",
                config.name
            )));
        }
        Ok(config)
    }

    /// Reads only what tells which attachments are meant and where they are written down: whatever
    /// else the configuration says by now, it must not keep them.
    ///
    /// # Errors
    ///
    /// Those of [`NetworkConfig::read`], about these fields.
    pub fn read_for_removal(text: &str) -> Result<NetworkConfig, Error> {
        const NEEDED: [&str; 6] = [
            "cniVersion",
            "name",
            "type",
            "dataDir",
            "cni.dev/valid-attachments",
            "cni.dev/attachments",
        ];
        let Ok(Value::Object(mut fields)) = serde_json::from_str(text) else {
            return NetworkConfig::read(text);
        };
        fields.retain(|name, _| NEEDED.contains(&name.as_str()));
        NetworkConfig::read(&Value::Object(fields).to_string())
    }

    /// Refuses what this plugin would not obey. DEL and GC do without: what was made must go, whatever
    /// the configuration says by now.
    ///
    /// # Errors
    ///
    /// [`Code::UnsupportedField`], [`Code::InvalidConfig`].
    pub fn check(&self) -> Result<(), Error> {
        let ours = |name: &str| !name.contains(['.', '/']) && !PASSED_OVER.contains(&name);
        if let Some((name, value)) = self.others.iter().find(|(name, _)| ours(name)) {
            return Err(Error::new(
                Code::UnsupportedField,
                format!(
                    "field {name:?} of the network configuration is not known (its value is {value})"
                ),
            )
            .details("it would not be obeyed: leave it out, or look how it is spelt (docs/pods.md, modes)"));
        }
        self.check_masquerade()?;
        let Some(ipam) = &self.ipam else {
            return Ok(());
        };
        if let Some(kind) = ipam.kind.as_deref().filter(|kind| *kind != self.kind) {
            return Err(Error::new(
                Code::UnsupportedField,
                format!("ipam.type is {kind:?}, and this plugin leaves addresses to no other"),
            )
            .details("leave out ipam.type; ipam.subnets or ipam.pool says which addresses"));
        }
        if ipam.pool.is_some() && !ipam.subnets.is_empty() {
            return Err(Error::new(
                Code::InvalidConfig,
                "ipam has both pool and subnets; must be one of them",
            ));
        }
        if self.mode == Mode::Routed && !ipam.subnets.is_empty() {
            return Err(Error::new(
                Code::InvalidConfig,
                "ipam.subnets and mode \"routed\": its addresses are of the node's subnets",
            )
            .details("leave out ipam.subnets, or name a Pool in ipam.pool"));
        }
        Ok(())
    }

    /// Who has addresses that the fabric knows says in the Pool whether they are hidden.
    fn check_masquerade(&self) -> Result<(), Error> {
        if !self.ip_masq {
            return Ok(());
        }
        let own = self
            .ipam
            .as_ref()
            .is_some_and(|ipam| !ipam.subnets.is_empty());
        if self.mode != Mode::Bridge || !own {
            return Err(Error::new(
                Code::UnsupportedField,
                "field \"ipMasq\" of the network configuration is true, and this plugin masquerades only for mode \
                 \"bridge\" with ipam.subnets",
            )
            .details("for addresses of the node's subnets say so in the Pool: spec.masquerade"));
        }
        if self.internal {
            return Err(Error::new(
                Code::InvalidConfig,
                "both internal and ipMasq are true, and nothing leaves an internal network; must be one of them",
            ));
        }
        Ok(())
    }

    /// GC: everything that the runtime still has. The first runtimes with GC (libcni 1.2.0) have
    /// another name for it; `cnitool gc` does not say.
    pub fn valid_attachments(&self) -> Option<&[Attachment]> {
        let said = self.valid_attachments.as_ref();
        said.or(self.attachments.as_ref()).map(Vec::as_slice)
    }

    /// Mode `ipvlan`, but for `l2`: addresses stand alone and are routed to the host.
    pub fn is_routed_ipvlan(&self) -> bool {
        self.mode == Mode::Ipvlan && self.ipvlan_mode.as_deref() != Some("l2")
    }

    /// Names by which other containers find this one, as the runtime wants them.
    pub fn aliases(&self) -> &[String] {
        match &self.runtime_config.aliases {
            Aliases::Ours(aliases) => aliases,
            Aliases::OfNetworks(all) => all.get(&self.name).map_or(&[], Vec::as_slice),
        }
    }
}

/// The version in which to answer a configuration that may be wrong in everything else.
pub fn version_of(text: &str) -> Version {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versioned {
        cni_version: Version,
    }
    serde_json::from_str::<Versioned>(text).map_or(Version::NEWEST, |found| found.cni_version)
}

fn oldest() -> Version {
    Version::V0_1_0
}

fn data_dir() -> PathBuf {
    PathBuf::from(crate::DATA_DIR)
}

/// Addresses with or without the length of their subnet.
fn addresses<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    let texts: Option<Vec<String>> = Option::deserialize(deserializer)?;
    let texts = texts.unwrap_or_default();
    let read = texts.iter().map(|text| read_address(text));
    read.collect::<Result<_, _>>()
        .map_err(serde::de::Error::custom)
}

/// An address with or without the length of its subnet.
///
/// # Errors
///
/// Words for a person when it is none.
pub fn read_address(text: &str) -> Result<IpAddr, String> {
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    let length = text.parse::<IpNetwork>(); // refuses a length that cannot be
    match (address.parse(), length) {
        (Ok(address), Ok(_)) => Ok(address),
        _ => Err(format!(
            "{text:?} is no address, with or without the length of its subnet"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(fields: &str) -> Result<NetworkConfig, Error> {
        let text =
            format!(r#"{{"cniVersion":"1.1.0","name":"pods","type":"routeshare-cni",{fields}}}"#);
        let config = NetworkConfig::read(&text)?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn what_libcni_adds_is_read() {
        let read = config(
            r#""capabilities":{"ips":true},"runtimeConfig":{"ips":["10.64.0.9/24","fd00::9"],
               "mac":"02:00:00:00:00:01","aliases":["db"],"portMappings":[{"hostPort":1}]},
               "args":{"cni":{"ips":["10.64.0.9"],"labels":[]}},"prevResult":null,
               "cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}],"cni.dev/other":1"#,
        )
        .unwrap();
        assert_eq!(read.runtime_config.ips.len(), 2);
        assert_eq!(read.args.cni.ips, ["10.64.0.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(read.aliases(), ["db"]);
        assert_eq!(read.valid_attachments().unwrap()[0].container, "c1");
        assert_eq!(read.data_dir, PathBuf::from(crate::DATA_DIR));
        assert_eq!(read.mode, Mode::Routed);

        let podman = config(r#""runtimeConfig":{"aliases":{"pods":["a"],"other":["b"]}}"#).unwrap();
        assert_eq!(podman.aliases(), ["a"]);
    }

    #[test]
    fn a_field_that_would_not_be_obeyed_is_refused_with_its_value() {
        for (fields, code, words) in [
            (
                r#""hairpn":true"#,
                Code::UnsupportedField,
                "\"hairpn\" of the network configuration is not known (its value is true)",
            ),
            (r#""ipMasq":true"#, Code::UnsupportedField, "ipMasq"),
            (
                r#""mode":"bridge","ipMasq":true,"ipam":{"pool":"a"}"#,
                Code::UnsupportedField,
                "ipam.subnets",
            ),
            (
                r#""mode":"bridge","ipMasq":true,"internal":true,"ipam":{"subnets":[{"subnet":"10.0.0.0/24"}]}"#,
                Code::InvalidConfig,
                "internal",
            ),
            (
                r#""ipam":{"type":"host-local"}"#,
                Code::UnsupportedField,
                "host-local",
            ),
            (
                r#""ipam":{"subnet":"10.0.0.0/24"}"#,
                Code::InvalidConfig,
                "ipam.subnet of the network configuration: unknown field `subnet`",
            ),
            (
                r#""mode":"bridge","ipam":{"subnets":[{"subnet":"10.0.0.0/24"},{"subnet":"10.0.1/24"}]}"#,
                Code::InvalidConfig,
                "ipam.subnets[1].subnet of the network configuration: invalid address: 10.0.1/24",
            ),
            (
                r#""ipam":{"subnets":[{"subnet":"10.0.0.0/24"}]}"#,
                Code::InvalidConfig,
                "routed",
            ),
            (
                r#""mode":"bridge","ipam":{"pool":"a","subnets":[{"subnet":"10.0.0.0/24"}]}"#,
                Code::InvalidConfig,
                "both",
            ),
            (
                r#""mode":"vlan""#,
                Code::InvalidConfig,
                "mode of the network configuration: unknown variant `vlan`",
            ),
            (
                r#""runtimeConfig":{"ips":["10.0.0"]}"#,
                Code::InvalidConfig,
                "10.0.0",
            ),
            (
                r#""runtimeConfig":{"ips":["10.0.0.1/33"]}"#,
                Code::InvalidConfig,
                "10.0.0.1/33",
            ),
        ] {
            let error = config(fields).unwrap_err();
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.contains(words), "{error}");
        }
    }

    #[test]
    fn what_is_only_to_go_is_found_whatever_else_the_configuration_says() {
        let text = r#"{"cniVersion":"1.1.0","name":"pods","type":"x","mode":"gone","dataDir":"/d",
            "prevResult":7,"ipMasq":"no"}"#;
        assert!(NetworkConfig::read(text).is_err());
        let read = NetworkConfig::read_for_removal(text).unwrap();
        assert_eq!(read.name, "pods");
        assert_eq!(read.data_dir, PathBuf::from("/d"));
        assert_eq!(
            NetworkConfig::read_for_removal("{").unwrap_err().code,
            Code::Decoding
        );
    }

    #[test]
    fn what_cannot_be_read_has_the_code_for_it() {
        let code = |text: &str| NetworkConfig::read(text).unwrap_err().code;
        assert_eq!(code("{"), Code::Decoding);
        assert_eq!(code(""), Code::Decoding);
        assert_eq!(
            code(r#"{"cniVersion":"9.9.9","name":"a"}"#),
            Code::IncompatibleVersion
        );
        assert_eq!(code(r#"{"cniVersion":"1.0.0"}"#), Code::InvalidConfig);
        assert_eq!(
            code(r#"{"cniVersion":"1.0.0","name":"../a"}"#),
            Code::InvalidConfig
        );
        assert_eq!(code("[]"), Code::InvalidConfig);
        assert_eq!(
            version_of(r#"{"cniVersion":"0.4.0","name":7}"#),
            Version::V0_4_0
        );
        assert_eq!(version_of("{"), Version::NEWEST);
    }

    /// A configuration with everything, and places in it that are changed at random.
    const FULL: &str = r#"{"cniVersion":"1.1.0","name":"pods","type":"routeshare-cni","mode":"bridge",
        "mtu":1400,"ipam":{"subnets":[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.9","gateway":"10.0.0.1"}],
        "routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}]},"runtimeConfig":{"ips":["10.0.0.9/24"],"mac":"x",
        "aliases":{"pods":["a"]}},"args":{"cni":{"ips":["fd00::1"]}},"dns":{"nameservers":["::1"]},
        "prevResult":{"interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.0.0.9/24",
        "interface":0,"version":"4"}],"routes":[{"dst":"::/0","gw":"fe80::1"}]},
        "cni.dev/valid-attachments":[{"containerID":"a","ifname":"b"}]}"#;

    proptest::proptest! {
        #[test]
        fn nothing_that_comes_on_standard_input_panics(
            at in 0..FULL.len(),
            cut in 0usize..20,
            put in "[0-9a-z{}:,.\"\\[\\]/ -]{0,6}",
        ) {
            let end = (at + cut).min(FULL.len());
            let text = format!("{}{put}{}", &FULL[..at], &FULL[end..]);
            for read in [NetworkConfig::read(&text), NetworkConfig::read_for_removal(&text)] {
                let outcome = read.and_then(|config| config.check());
                if let Err(error) = outcome {
                    proptest::prop_assert!(!error.message.is_empty());
                }
            }
            version_of(&text);
        }
    }
}
