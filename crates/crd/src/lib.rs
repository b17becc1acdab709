//! The resources of `api` as Kubernetes sees them, and those that only Kubernetes has.
//!
//! Used by the controller, which reads and writes these objects, by bgpctl, which looks for the
//! controller, and by `cargo xtask crds`, which writes `deploy/crds`. In reading order:
//!
//! - [`names`]: what things are called in a cluster: labels, annotations, our own objects;
//! - [`Kind`]: the kinds, and how each is called;
//! - [`Written`]: an object that a user wrote, as the API server has it;
//! - [`NodeSubnets`], [`NodeStatus`]: what the controller writes about a node;
//! - [`conditions`]: `Accepted`, `Programmed`, `Degraded`.

pub mod conditions;
mod definition;
mod kind;
pub mod names;
mod node_status;
mod node_subnets;
mod object;
mod written;

pub use definition::DefinitionError;
pub use kind::{KINDS, Kind, WRITTEN_BY_USERS};
pub use node_status::{NodeState, NodeStatus, Problem, SessionState, SubnetState, Version};
pub use node_subnets::{Family, GivenAsn, NodeSubnet, NodeSubnets, NodeSubnetsSpec, State};
pub use written::{SubnetCounts, Written, WrittenStatus};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// A moment as Kubernetes writes it, to the second; `None` for 0, which means that there is none, and
/// for what is too far away to be one. `millis` are milliseconds since the Unix epoch.
pub fn time(millis: i64) -> Option<Time> {
    // What is written and read again is the same.
    let moment = k8s_openapi::jiff::Timestamp::from_second(millis.div_euclid(1000)).ok()?;
    (millis != 0).then(|| Time::from(moment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_the_same_when_it_was_written_and_read() {
        for millis in [1_795_274_532_764, 1_795_274_532_000, 1, -1] {
            let at = time(millis).unwrap();
            let text = serde_json::to_string(&at).unwrap();
            assert_eq!(serde_json::from_str::<Time>(&text).unwrap(), at, "{text}");
        }
        assert_eq!(time(0), None);
        assert_eq!(time(i64::MAX), None);
    }
}
