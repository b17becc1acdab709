//! Containers attached to networks by CNI plugins, driven by `cnitool` as by a runtime.

mod every_step;
mod lifecycle;
mod routed;
mod the_harness_itself;
