//! What is written in the Lease, and what an observer concludes from it. Pure but for the clock.

use std::collections::BTreeMap;
use std::time::Duration;

use crd::names::{LEADER_ADDRESS_ANNOTATION, LEADER_POD_ANNOTATION, LEASE};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// Who we are in the election.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// The pod's name.
    pod: String,
    /// The pod's name and a number of this start: a process that is started again must not take what
    /// its predecessor held for its own.
    identity: String,
    /// Where speakers reach us.
    address: String,
}

impl Candidate {
    /// The controller in `pod`, which speakers reach at `address`.
    pub(crate) fn new(pod: String, address: String) -> Candidate {
        let mut start = [0; 8];
        // It fails only where there is no source of randomness at all.
        let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut start);
        filled.expect("the kernel gives random numbers");
        let identity = format!("{pod}_{:016x}", u64::from_be_bytes(start));
        Candidate {
            pod,
            identity,
            address,
        }
    }

    /// How we are called in the Lease.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// The name of the Lease.
    pub(super) fn lease(&self) -> &'static str {
        LEASE
    }

    /// Whether it is ours.
    pub(super) fn holds(&self, lease: &Lease) -> bool {
        holder(lease) == Some(&self.identity)
    }

    /// Where the leader is that holds the Lease; none when its time is up, and when it says our own
    /// address: that is what our predecessor left.
    pub(super) fn leader_in(&self, observed: &Observed) -> Option<String> {
        let address = observed
            .address()
            .filter(|address| *address != self.address)?;
        (!observed.is_free(Instant::now())).then(|| address.to_owned())
    }

    /// A Lease of ours where there was none.
    pub(super) fn new_lease(&self) -> Lease {
        self.taken(Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.to_owned()),
                ..ObjectMeta::default()
            },
            spec: None,
        })
    }

    /// The Lease, taken over.
    pub(super) fn taken(&self, lease: Lease) -> Lease {
        let transitions = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.lease_transitions)
            .map_or(0, |count| count.saturating_add(1));
        let mut lease = self.renewed(&lease);
        let spec = lease.spec.get_or_insert_default();
        spec.acquire_time = spec.renew_time.clone();
        spec.lease_transitions = Some(transitions);
        lease
    }

    /// The Lease, renewed.
    pub(super) fn renewed(&self, lease: &Lease) -> Lease {
        let mut lease = lease.clone();
        lease.metadata.managed_fields = None;
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.insert(LEADER_ADDRESS_ANNOTATION.to_owned(), self.address.clone());
        annotations.insert(LEADER_POD_ANNOTATION.to_owned(), self.pod.clone());
        let seconds = i32::try_from(super::LEASE.as_secs()).unwrap_or(i32::MAX);
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(seconds);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        lease
    }

    /// The Lease, given back: free at once.
    pub(super) fn released(&self, lease: &Lease) -> Lease {
        let mut lease = lease.clone();
        lease.metadata.managed_fields = None;
        if let Some(annotations) = &mut lease.metadata.annotations {
            annotations.remove(LEADER_ADDRESS_ANNOTATION);
            annotations.remove(LEADER_POD_ANNOTATION);
        }
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        lease
    }
}

/// Who holds a Lease.
fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref();
    holder.filter(|holder| !holder.is_empty())
}

/// A Lease as it was seen, and since when it has not changed.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    lease: Lease,
    /// When we first saw it as it is.
    since: Instant,
    /// How long it is left alone from then on.
    valid: Duration,
}

impl Observed {
    /// `before` is what was observed last. `ours` is how long a Lease is left alone that says less, or
    /// nothing: a Lease written with another duration must not be taken earlier than we promise.
    pub(super) fn new(lease: Lease, before: Option<Observed>, ours: Duration) -> Observed {
        let says = lease.spec.as_ref().and_then(|s| s.lease_duration_seconds);
        let says = says.and_then(|seconds| u64::try_from(seconds).ok());
        let valid = Duration::from_secs(says.unwrap_or(0)).max(ours);
        let version = lease.metadata.resource_version.clone();
        let since = before
            .filter(|before| before.lease.metadata.resource_version == version)
            .map_or_else(Instant::now, |before| before.since);
        Observed {
            lease,
            since,
            valid,
        }
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(super) fn holder(&self) -> Option<&str> {
        holder(&self.lease)
    }

    /// When it may be taken: at once when nobody holds it.
    pub(super) fn free_at(&self) -> Instant {
        match holder(&self.lease) {
            Some(_) => self.since + self.valid,
            None => self.since,
        }
    }

    pub(super) fn is_free(&self, now: Instant) -> bool {
        now >= self.free_at()
    }

    fn address(&self) -> Option<&str> {
        holder(&self.lease)?;
        let annotations: &BTreeMap<_, _> = self.lease.metadata.annotations.as_ref()?;
        annotations
            .get(LEADER_ADDRESS_ANNOTATION)
            .map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OURS: Duration = Duration::from_secs(10);

    fn candidate(pod: &str, address: &str) -> Candidate {
        Candidate::new(pod.to_owned(), address.to_owned())
    }

    /// As the API server has it after its `version`th change.
    fn stored(mut lease: Lease, version: u32) -> Lease {
        lease.metadata.resource_version = Some(version.to_string());
        lease
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_free_when_it_was_not_seen_to_change_for_its_time() {
        let holder = candidate("a", "192.0.2.1:7443");
        let other = candidate("b", "192.0.2.2:7443");
        let mut observed = Observed::new(stored(holder.new_lease(), 1), None, OURS);
        for version in 2..5 {
            tokio::time::advance(Duration::from_secs(8)).await;
            // Seen again as it is: that is no change.
            observed = Observed::new(observed.lease.clone(), Some(observed), OURS);
            assert!(!observed.is_free(Instant::now()));
            assert_eq!(
                other.leader_in(&observed).as_deref(),
                Some("192.0.2.1:7443")
            );
            let renewed = stored(holder.renewed(observed.lease()), version);
            observed = Observed::new(renewed, Some(observed), OURS);
        }
        tokio::time::advance(Duration::from_secs(9)).await;
        let same = observed.lease.clone();
        observed = Observed::new(same, Some(observed), OURS);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(observed.is_free(Instant::now()));
        assert_eq!(other.leader_in(&observed), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_given_back_is_free_at_once_and_one_that_says_less_time_is_not_taken_earlier() {
        let holder = candidate("a", "192.0.2.1:7443");
        let mut lease = holder.new_lease();
        lease.spec.get_or_insert_default().lease_duration_seconds = Some(1);
        let observed = Observed::new(stored(lease, 1), None, OURS);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(!observed.is_free(Instant::now()));
        let released = Observed::new(stored(holder.released(observed.lease()), 2), None, OURS);
        assert!(released.is_free(Instant::now()));
        assert_eq!(released.holder(), None);
        let next = candidate("b", "192.0.2.2:7443");
        let taken = next.taken(released.lease().clone());
        assert!(next.holds(&taken) && !holder.holds(&taken));
        assert_eq!(taken.spec.unwrap().lease_transitions, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_our_predecessor_left_is_neither_ours_nor_anybody_to_go_to() {
        let before = candidate("a", "192.0.2.1:7443");
        let again = candidate("a", "192.0.2.1:7443");
        let observed = Observed::new(stored(before.new_lease(), 1), None, OURS);
        assert!(!again.holds(observed.lease()));
        assert_eq!(again.leader_in(&observed), None);
        assert!(!observed.is_free(Instant::now()));
    }
}
