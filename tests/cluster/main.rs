//! Our controller and speakers in a cluster: a real etcd, a real kube-apiserver, nothing mocked.
//!
//! Needs root; `cargo xtask test --only cluster` builds the programs of Kubernetes once, builds ours and
//! runs this. One module a topic.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod clock;
mod identity;
mod install;
mod judgement;
mod leaders;
mod mesh;
mod nodes;
mod objects;
mod operator;
mod outages;
mod status;
mod subnets;
mod the_cluster_itself;
mod two_leaders;
