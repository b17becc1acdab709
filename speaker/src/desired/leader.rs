//! Which controller to go to: the configured address, or where one of them says that the leader is.
//!
//! Any controller can be asked; one that does not lead says who does. When the leader cannot be
//! reached, the configured address is asked again, and told so: whoever answers there then waits with
//! its answer until there is another leader. So a fail-over takes as long as the election, and no
//! speaker asks again and again meanwhile.

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::controller::Address;

/// Metadata of a controller's answer: where the leader is, as `HOST:PORT`.
const LEADER: &str = "routeshare-leader";
/// Metadata of our request: a leader that we could not reach.
const FAILED: &str = "routeshare-leader-failed";
/// So many steps from one controller to the next are made without a pause.
const STEPS: u32 = 3;

/// Where to go next.
#[derive(Debug)]
pub(super) struct Way {
    configured: Address,
    /// Where a controller has sent us.
    leader: Option<(String, Address)>,
    /// A leader that was not there.
    failed: Option<String>,
    /// Steps without a stream.
    steps: u32,
}

/// How an attempt, or a stream, has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End<'a> {
    /// A controller says that another one leads.
    Elsewhere(&'a str),
    /// Otherwise.
    Failed,
}

impl Way {
    /// From the configured address.
    pub(super) fn new(configured: Address) -> Way {
        Way {
            configured,
            leader: None,
            failed: None,
            steps: 0,
        }
    }

    /// Where to connect.
    pub(super) fn address(&self) -> &Address {
        match &self.leader {
            Some((_, address)) => address,
            None => &self.configured,
        }
    }

    /// Says in a request which leader could not be reached.
    pub(super) fn mark(&self, metadata: &mut MetadataMap) {
        if let Some(failed) = self.failed.as_ref().and_then(|failed| failed.parse().ok()) {
            metadata.insert(FAILED, failed);
        }
    }

    /// A stream is open.
    pub(super) fn opened(&mut self) {
        self.steps = 0;
        self.failed = None;
    }

    /// Where to go after an end. Whether to go there at once.
    pub(super) fn ended(&mut self, end: End<'_>) -> bool {
        self.steps = self.steps.saturating_add(1);
        let was_at = self.leader.take();
        match end {
            End::Elsewhere(leader) => {
                let Some(address) = self.configured.at(leader) else {
                    return false;
                };
                self.leader = Some((leader.to_owned(), address));
                // Nobody has taken its place: perhaps it is back.
                let again = self.failed.take().is_some_and(|failed| failed == leader);
                !again && self.steps <= STEPS
            }
            End::Failed => match was_at {
                Some((leader, _)) => {
                    self.failed = Some(leader);
                    self.steps <= STEPS
                }
                None => false,
            },
        }
    }
}

/// Who leads, when an answer says that it is another one.
pub(super) fn named_in(status: &Status) -> Option<String> {
    if status.code() != Code::Unavailable {
        return None;
    }
    let leader = status.metadata().get(LEADER)?.to_str().ok()?;
    Some(leader.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way() -> Way {
        Way::new(Address::Insecure("http://127.0.0.1:1".parse().unwrap()))
    }

    fn target(way: &Way) -> String {
        match way.address() {
            Address::Insecure(uri) => uri.authority().unwrap().to_string(),
            _ => panic!("{way:?}"),
        }
    }

    fn failed(way: &Way) -> Option<String> {
        let mut metadata = MetadataMap::new();
        way.mark(&mut metadata);
        Some(metadata.get(FAILED)?.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_speaker_goes_where_the_leader_is_and_back_when_it_is_not_there() {
        let mut way = way();
        assert!(way.ended(End::Elsewhere("127.0.0.1:2")));
        assert_eq!(target(&way), "127.0.0.1:2");
        way.opened();
        assert!(way.ended(End::Failed), "the leader was killed");
        assert_eq!(target(&way), "127.0.0.1:1");
        assert_eq!(failed(&way).as_deref(), Some("127.0.0.1:2"));
        assert!(way.ended(End::Elsewhere("127.0.0.1:3")));
        assert_eq!(target(&way), "127.0.0.1:3");
        way.opened();
        assert_eq!(failed(&way), None);
        assert!(way.ended(End::Elsewhere("127.0.0.1:2")), "it hands over");
        assert_eq!(target(&way), "127.0.0.1:2");
    }

    #[test]
    fn nobody_is_asked_again_and_again_without_a_pause() {
        let mut way = way();
        assert!(!way.ended(End::Failed), "nobody is there");
        let at_once = (0..20).filter(|turn| {
            way.ended(match turn % 2 {
                0 => End::Elsewhere("127.0.0.1:2"),
                _ => End::Failed,
            })
        });
        assert!(at_once.count() <= STEPS as usize);
        assert!(!way.ended(End::Elsewhere("not an address")));
        assert_eq!(target(&way), "127.0.0.1:1");
        // Without TLS nobody is followed to another host.
        assert!(!way.ended(End::Elsewhere("192.0.2.1:7443")));
        assert_eq!(target(&way), "127.0.0.1:1");
    }
}
