//! Containers attached to networks by CNI plugins, driven by `cnitool` as by a runtime.

mod bridge;
mod chained;
mod configuration;
mod containerd;
mod delegated;
mod every_step;
mod examples;
mod first_packet;
mod health;
mod hostile;
mod install;
mod ipvlan;
mod leases;
mod lifecycle;
mod macvlan;
mod malformed;
mod many;
mod masquerade;
mod names;
mod routed;
mod scene;
mod sources;
mod the_harness_itself;
mod traffic;
mod versions;
