//! Containers attached to networks by CNI plugins, driven by `cnitool` as by a runtime.

mod bridge;
mod every_step;
mod examples;
mod ipvlan;
mod lifecycle;
mod macvlan;
mod routed;
mod the_harness_itself;
mod traffic;
