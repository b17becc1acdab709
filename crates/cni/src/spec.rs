//! The Container Network Interface, specification 1.1.0 and those before it: what a runtime hands to
//! a plugin and what it expects back.
//!
//! - [`version`]: the versions we answer;
//! - [`environment`]: `CNI_COMMAND` and its companions;
//! - [`config`]: the network configuration, as it comes on standard input;
//! - [`result`]: interfaces, addresses and routes, in the shape of each version;
//! - [`error`]: what a runtime is told when something cannot be done.
//!
//! <https://www.cni.dev/docs/spec/>

pub mod config;
pub mod environment;
pub mod error;
pub mod result;
pub mod version;

pub use config::{Mode, NetworkConfig};
pub use environment::{Command, Environment};
pub use error::{Code, Error};
pub use result::{Address, Dns, Interface, Route, Success};
pub use version::Version;
