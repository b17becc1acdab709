//! What a replica that does not lead answers: who does.
//!
//! Speakers and operators may ask any replica. One that does not lead answers `Unavailable` with the
//! leader's address as metadata `routeshare-leader`, and they go there. A speaker that comes from there
//! and has found nobody says so (`routeshare-leader-failed`), and is kept waiting until somebody else
//! leads: when the leader has died, five thousand speakers that wait cost less than five thousand that
//! ask again and again, and are served the moment there is one.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::leader::{LEASE, Standing};

/// Answers: where the leader is, as `HOST:PORT`.
pub(crate) const LEADER: &str = "routeshare-leader";
/// Requests: a leader that could not be reached.
pub(crate) const FAILED: &str = "routeshare-leader-failed";

/// How long a speaker waits for a leader. A dead one is replaced within the time of its Lease.
const WAIT: Duration = LEASE.saturating_mul(2);

/// Whether this controller leads, for those who answer requests.
#[derive(Clone)]
pub(crate) struct Lead {
    standing: watch::Receiver<Standing>,
    alone: bool,
}

impl Lead {
    /// Of a controller that takes part in an election.
    pub(crate) fn new(standing: watch::Receiver<Standing>) -> Lead {
        Lead {
            standing,
            alone: false,
        }
    }

    /// Of the only controller.
    pub(crate) fn alone() -> Lead {
        Lead {
            standing: watch::Sender::new(Standing::Leading).subscribe(),
            alone: true,
        }
    }

    /// Whether there is no election.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Whether it may decide and tell what changes anything.
    pub(crate) fn may_decide(&self) -> bool {
        *self.standing.borrow() == Standing::Leading
    }

    /// Returns when that may have changed.
    pub(crate) async fn changed(&mut self) {
        if self.standing.changed().await.is_err() {
            std::future::pending().await // it stays as it is
        }
    }

    /// Whether this controller answers.
    ///
    /// # Errors
    ///
    /// `Unavailable`, with the leader's address where there is one.
    pub(crate) fn check(&self) -> Result<(), Status> {
        match &*self.standing.borrow() {
            Standing::Leading | Standing::Cut => Ok(()),
            Standing::Standby { leader } => Err(elsewhere(leader.as_deref())),
        }
    }

    /// The same for a speaker, which waits while nobody leads but the one it could not reach.
    ///
    /// # Errors
    ///
    /// As [`Lead::check`].
    pub(crate) async fn wait(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let failed = metadata.get(FAILED).and_then(|value| value.to_str().ok());
        let mut standing = self.standing.clone();
        let known = standing.wait_for(|standing| match standing {
            Standing::Leading | Standing::Cut => true,
            Standing::Standby { leader } => leader.is_some() && leader.as_deref() != failed,
        });
        // When the time is up, what is known is said all the same.
        let _ = timeout(WAIT, known).await;
        self.check()
    }

    /// Returns, with what its speakers are told, when this controller leads no more.
    pub(crate) async fn ended(&mut self) -> Status {
        let stands_by = |standing: &Standing| matches!(standing, Standing::Standby { .. });
        let ended = self.standing.wait_for(stands_by);
        if ended.await.is_err() {
            std::future::pending::<()>().await; // it stays as it is
        }
        self.check().err().unwrap_or_else(|| elsewhere(None))
    }

    /// What speakers are told when the controller stops.
    pub(crate) fn stopping(&self) -> Status {
        match &*self.standing.borrow() {
            Standing::Standby {
                leader: Some(leader),
            } => elsewhere(Some(leader)),
            _ => Status::unavailable("the controller is stopping"),
        }
    }
}

fn elsewhere(leader: Option<&str>) -> Status {
    let Some(leader) = leader else {
        return Status::unavailable(
            "this controller stands by, and none leads at the moment; ask again",
        );
    };
    let mut status = Status::unavailable(format!(
        "this controller stands by; the one at {leader} leads"
    ));
    if let Ok(leader) = leader.parse() {
        status.metadata_mut().insert(LEADER, leader);
    }
    status
}
