//! What the runtime wants.

use std::path::Path;

use cni::leases::{Now, Owner};
use cni::node::{NodeFile, NodeFileError};
use cni::spec::{Code, Command, Environment, Error, Mode, NetworkConfig, config};

/// A call of the plugin.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) environment: Environment,
    pub(crate) config: NetworkConfig,
}

impl Request {
    /// Reads the network configuration. Commands that only take away are content with little of it.
    pub(crate) fn read(environment: Environment, text: &str) -> Result<Request, Error> {
        let config = match environment.command {
            Command::Del | Command::Gc => NetworkConfig::read_for_removal(text)?,
            _ => {
                let config = NetworkConfig::read(text)?;
                config.check()?;
                config
            }
        };
        Ok(Request {
            environment,
            config,
        })
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }

    /// The node file; `None` where there is none and the mode can do without.
    ///
    /// # Errors
    ///
    /// It is needed or damaged; then ADD may succeed later.
    pub(crate) fn node_file(&self) -> Result<Option<NodeFile>, Error> {
        match NodeFile::read(&NodeFile::path(self.data_dir())) {
            Ok(node) => Ok(Some(node)),
            Err(NodeFileError::Missing { .. }) if !self.needs_node_file() => Ok(None),
            Err(error) => Err(Error::new(Code::TryAgainLater, chain(&error))),
        }
    }

    /// Whether the container's addresses are of the node's subnets.
    pub(crate) fn needs_node_file(&self) -> bool {
        let ipam = self.config.ipam.as_ref();
        match self.config.mode {
            Mode::Host | Mode::None => false,
            Mode::Routed => true,
            // They may have none at all: what is on the parent's link is the fabric's.
            Mode::Macvlan | Mode::Ipvlan if !self.config.is_routed_ipvlan() => {
                ipam.is_some_and(|ipam| ipam.pool.is_some())
            }
            Mode::Bridge | Mode::Macvlan | Mode::Ipvlan => {
                ipam.is_none_or(|ipam| ipam.subnets.is_empty())
            }
        }
    }

    /// As the leases know the container.
    pub(crate) fn owner(&self) -> Owner {
        let arg = |key| self.environment.arg(key).filter(|value| !value.is_empty());
        let netns = self.environment.netns.as_deref();
        Owner {
            container: self.environment.container.clone(),
            ifname: self.environment.ifname.clone(),
            netns: netns.map(|path| path.display().to_string()),
            mode: self.config.mode.as_str().to_owned(),
            name: arg("K8S_POD_NAME").map(str::to_owned),
            namespace: arg("K8S_POD_NAMESPACE").map(str::to_owned),
            aliases: self.config.aliases().to_vec(),
        }
    }

    /// Addresses that the container is to have, however they were asked for.
    pub(crate) fn requested(&self) -> Result<Vec<std::net::IpAddr>, Error> {
        let mut requested = self.config.runtime_config.ips.clone();
        requested.extend(&self.config.args.cni.ips);
        let arg = self.environment.arg("IP").unwrap_or_default();
        for text in arg.split(',').filter(|text| !text.is_empty()) {
            requested.push(config::read_address(text).map_err(|why| {
                Error::new(Code::InvalidEnvironment, format!("IP in CNI_ARGS: {why}"))
            })?);
        }
        requested.sort();
        requested.dedup();
        Ok(requested)
    }
}

/// The time, for leases.
pub(crate) fn now() -> Result<Now, Error> {
    Now::read().map_err(|error| Error::new(Code::Io, chain(&error)))
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
