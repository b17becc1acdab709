//! What an attachment is made of, in the shape of each version.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Version;

/// The result of ADD: what there is now, the work of earlier plugins of the chain included.
///
/// It is read in the shape of versions 0.3.0 and later; earlier ones have no chains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Success {
    /// In the container and on the host.
    #[serde(default, deserialize_with = "null_is_none")]
    pub interfaces: Vec<Interface>,
    /// Addresses of these interfaces.
    #[serde(default, deserialize_with = "null_is_none")]
    pub ips: Vec<Address>,
    /// Routes in the container.
    #[serde(default, deserialize_with = "null_is_none")]
    pub routes: Vec<Route>,
    /// Name servers for the container.
    #[serde(default)]
    pub dns: Dns,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// What it is called.
    pub name: String,
    /// Its MAC address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its largest packet. Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The container's namespace; empty: the interface is the host's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Others' (vhost-user). Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
    /// Others' (SR-IOV). Since 1.1.0.
    #[serde(default, rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// With the length of its subnet.
    pub address: IpNetwork,
    /// The next router of its subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The place of the interface in [`Success::interfaces`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route in the container. Everything behind `gw` is since 1.1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where packets are for.
    pub dst: IpNetwork,
    /// The next router; `None`: the destination is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// The largest packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The largest TCP segment to offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// The metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// The routing table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// As in `rtnetlink(7)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Route {
    /// A route with a next router.
    pub fn via(dst: IpNetwork, gateway: IpAddr) -> Route {
        Route {
            gw: Some(gateway),
            ..Route::on_link(dst)
        }
    }

    /// A route to what is on the link.
    pub fn on_link(dst: IpNetwork) -> Route {
        Route {
            dst,
            gw: None,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }
}

/// What goes into a container's `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses, the first choice first.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_none"
    )]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Domains that short names are looked up in.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_none"
    )]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_none"
    )]
    pub options: Vec<String>,
}

impl Success {
    /// Takes up what this plugin made behind what is there already. The addresses of `more` count
    /// its own interfaces from 0. Its name servers, if it has any, take the place of those there.
    pub fn append(&mut self, more: Success) {
        let before = self.interfaces.len();
        self.interfaces.extend(more.interfaces);
        self.ips.extend(more.ips.into_iter().map(|address| Address {
            interface: address.interface.map(|place| place + before),
            ..address
        }));
        self.routes.extend(more.routes);
        if more.dns != Dns::default() {
            self.dns = more.dns;
        }
    }

    /// As the specification of a version wants it on standard output.
    pub fn to_json(&self, version: Version) -> String {
        let value = match version {
            Version::V0_1_0 | Version::V0_2_0 => self.of_families(version),
            _ => self.of_interfaces(version),
        };
        value.to_string()
    }

    /// Up to 0.2.0: one address of each family.
    fn of_families(&self, version: Version) -> Value {
        let mut value = json!({ "cniVersion": version, "dns": self.dns });
        for (key, v4) in [("ip4", true), ("ip6", false)] {
            let Some(ip) = self.ips.iter().find(|ip| ip.address.is_ipv4() == v4) else {
                continue;
            };
            let routes = self.routes.iter().filter(|route| route.dst.is_ipv4() == v4);
            let routes: Vec<Value> = routes.map(short_route).collect();
            let mut family = json!({ "ip": ip.address, "routes": routes });
            if let Some(gateway) = ip.gateway {
                family["gateway"] = json!(gateway);
            }
            value[key] = family;
        }
        value
    }

    fn of_interfaces(&self, version: Version) -> Value {
        let newest = version >= Version::V1_1_0;
        let interfaces = self.interfaces.iter().map(|interface| {
            if newest {
                return json!(interface);
            }
            json!(Interface {
                mtu: None,
                socket_path: None,
                pci_id: None,
                ..interface.clone()
            })
        });
        let ips = self.ips.iter().map(|ip| {
            let mut value = json!(ip);
            if version < Version::V1_0_0 {
                value["version"] = json!(if ip.address.is_ipv4() { "4" } else { "6" });
            }
            value
        });
        let routes = self.routes.iter().map(|route| {
            if newest {
                json!(route)
            } else {
                short_route(route)
            }
        });
        json!({
            "cniVersion": version,
            "interfaces": interfaces.collect::<Vec<_>>(),
            "ips": ips.collect::<Vec<_>>(),
            "routes": routes.collect::<Vec<_>>(),
            "dns": self.dns,
        })
    }
}

/// As it was before 1.1.0.
fn short_route(route: &Route) -> Value {
    match route.gw {
        Some(gateway) => json!({ "dst": route.dst, "gw": gateway }),
        None => json!({ "dst": route.dst }),
    }
}

fn null_is_none<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn success() -> Success {
        let interface = |name: &str, sandbox: &str| Interface {
            name: name.into(),
            mac: "02:00:00:00:00:01".into(),
            mtu: Some(1500),
            sandbox: sandbox.into(),
            ..Interface::default()
        };
        let address = |text: &str, gateway: &str| Address {
            address: text.parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
            interface: Some(1),
        };
        Success {
            interfaces: vec![interface("rs1", ""), interface("eth0", "/run/netns/a")],
            ips: vec![
                address("10.64.0.5/32", "169.254.1.1"),
                address("fd00::5/128", "fe80::1"),
            ],
            routes: vec![
                Route::via("0.0.0.0/0".parse().unwrap(), "169.254.1.1".parse().unwrap()),
                Route {
                    mtu: Some(1400),
                    ..Route::via("::/0".parse().unwrap(), "fe80::1".parse().unwrap())
                },
            ],
            dns: Dns::default(),
        }
    }

    fn written(version: Version) -> Value {
        serde_json::from_str(&success().to_json(version)).unwrap()
    }

    #[test]
    fn each_version_has_its_shape() {
        let oldest = written(Version::V0_2_0);
        assert_eq!(oldest["ip4"]["ip"], "10.64.0.5/32");
        assert_eq!(oldest["ip4"]["gateway"], "169.254.1.1");
        assert_eq!(
            oldest["ip6"]["routes"],
            json!([{"dst": "::/0", "gw": "fe80::1"}])
        );
        assert!(oldest.get("interfaces").is_none());

        let older = written(Version::V0_3_1);
        assert_eq!(older["ips"][0]["version"], "4");
        assert_eq!(older["ips"][1]["version"], "6");
        assert!(older["interfaces"][0].get("sandbox").is_none());
        assert_eq!(older["interfaces"][1]["sandbox"], "/run/netns/a");

        let old = written(Version::V1_0_0);
        assert!(old["ips"][0].get("version").is_none());
        assert!(old["interfaces"][0].get("mtu").is_none());
        assert!(old["routes"][1].get("mtu").is_none());

        let newest = written(Version::V1_1_0);
        assert_eq!(newest["cniVersion"], "1.1.0");
        assert_eq!(newest["interfaces"][1]["mtu"], 1500);
        assert_eq!(newest["routes"][1]["mtu"], 1400);
        assert_eq!(newest["ips"][1]["interface"], 1);
    }

    #[test]
    fn what_was_written_since_0_3_0_is_read_back() {
        for version in Version::ALL.into_iter().filter(|v| *v >= Version::V0_3_0) {
            let read: Success = serde_json::from_str(&success().to_json(version)).unwrap();
            assert_eq!(read.ips, success().ips);
            assert_eq!(read.interfaces[1].sandbox, "/run/netns/a");
            assert_eq!(read.interfaces[0].mtu.is_some(), version >= Version::V1_1_0);
        }
        let null: Success = serde_json::from_str(r#"{"interfaces":null,"ips":null}"#).unwrap();
        assert_eq!(null, Success::default());
    }

    #[test]
    fn what_others_made_stays_and_the_places_of_interfaces_are_right() {
        let mut all = success();
        all.append(success());
        assert_eq!(all.interfaces.len(), 4);
        assert_eq!(all.ips[0].interface, Some(1));
        assert_eq!(all.ips[2].interface, Some(3));
        assert_eq!(all.interfaces[3].name, "eth0");
    }
}
