//! Requests to the kernel with what each is for, carried out all at once.

use cni::spec::Error;
use kernel::{Failure, Netlink, Requests};

use crate::answer::{refused, unheard};

/// `RT_TABLE_MAIN`.
pub(super) const MAIN: u32 = 254;
/// `RTPROT_STATIC`: of the routes in a container.
pub(super) const STATIC: u8 = 4;
/// Metric of a route beside one of another network of the container, less the interface's number.
pub(super) const BEHIND: u32 = 2048;

/// Requests with what each is for.
#[derive(Default)]
pub(super) struct Steps {
    requests: Requests,
    attempts: Vec<String>,
}

impl Steps {
    pub(super) fn add(&mut self, attempt: impl Into<String>, request: impl FnOnce(&mut Requests)) {
        request(&mut self.requests);
        self.attempts.push(attempt.into());
    }

    pub(super) fn len(&self) -> usize {
        self.attempts.len()
    }

    /// All at once; those that failed, with what they were for.
    pub(super) fn carry_out(
        &mut self,
        netlink: &mut Netlink,
    ) -> Result<Vec<(String, Failure)>, Error> {
        let mut failures = Vec::new();
        netlink
            .carry_out(&mut self.requests, &mut failures)
            .map_err(|error| unheard(&error))?;
        let attempts = std::mem::take(&mut self.attempts);
        Ok(failures
            .into_iter()
            .map(|failure| (attempts[failure.request].clone(), failure))
            .collect())
    }

    /// All at once; none may fail.
    pub(super) fn all(&mut self, netlink: &mut Netlink) -> Result<(), Error> {
        match self.carry_out(netlink)?.first() {
            None => Ok(()),
            Some((what, failure)) => Err(refused(what, failure)),
        }
    }
}
