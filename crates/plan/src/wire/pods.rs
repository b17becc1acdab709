//! What pods get, and out of which subnets.

use proto::controller::v1 as pb;

use super::{WireError, each_text, names, quoted, text, texts, wrong};
use crate::{PodsConfig, Purpose, Subnet};

pub(super) fn to_proto(pods: &PodsConfig) -> pb::Pods {
    let sysctls = pods.sysctls.iter();
    pb::Pods {
        mtu: pods.mtu,
        cooldown_seconds: pods.cooldown_seconds,
        chained: pods.chained.clone(),
        sysctls: sysctls
            .map(|(name, value)| pb::Sysctl {
                name: name.clone(),
                value: value.clone(),
            })
            .collect(),
        names: pods.names.as_ref().map(names::to_proto),
    }
}

/// All else is for others to judge: the plugin, and those that come after it.
pub(super) fn from_proto(pods: pb::Pods) -> Result<PodsConfig, WireError> {
    let sysctls = pods.sysctls.into_iter();
    Ok(PodsConfig {
        mtu: pods.mtu,
        cooldown_seconds: pods.cooldown_seconds,
        chained: pods.chained,
        sysctls: sysctls.map(|it| (it.name, it.value)).collect(),
        names: pods.names.map(names::from_proto).transpose()?,
    })
}

pub(super) fn subnet_to_proto(subnet: &Subnet) -> pb::Subnet {
    pb::Subnet {
        prefix: subnet.prefix.to_string(),
        pool: subnet.pool.clone(),
        purpose: match subnet.purpose {
            Purpose::Pods => "Pods".into(),
        },
        reserved: texts(&subnet.reserved),
        draining: subnet.draining,
    }
}

pub(super) fn subnet_from_proto(at: &str, subnet: pb::Subnet) -> Result<Subnet, WireError> {
    let reserved = format!("{at}.reserved");
    Ok(Subnet {
        prefix: text(&format!("{at}.prefix"), &subnet.prefix, "a prefix")?,
        pool: subnet.pool,
        purpose: match subnet.purpose.as_str() {
            "Pods" => Purpose::Pods,
            other => return Err(wrong(format!("{at}.purpose"), quoted(other), "Pods")),
        },
        reserved: each_text(&reserved, subnet.reserved, "a prefix")?,
        draining: subnet.draining,
    })
}
