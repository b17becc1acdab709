//! NodeReport: what the controller is told, on change: the first few changes soon, a long row of them
//! once per look of the loop.

use bgp::query::PeerStatus;
use proto::controller::v1 as pb;
use tokio::sync::watch;

use crate::clock::wall_ms_or_0;
use crate::daemon::{Daemon, now};

/// Quiet looks after which the report is built anyway, because counters change without an event.
const QUIET_LOOKS: u32 = 10;
/// Reports that may be prompt in a row; each quiet look gives one back.
const PROMPT_REPORTS: u32 = 5;

/// Decides when a report is due, and keeps the last one for those who connect.
pub(crate) struct Reporter {
    sender: watch::Sender<pb::NodeReport>,
    changed: bool,
    quiet: u32,
    prompt: u32,
}

impl Reporter {
    /// The first report names the node and nothing else.
    pub(crate) fn new(node: &str) -> (Reporter, watch::Receiver<pb::NodeReport>) {
        let report = pb::NodeReport {
            node: node.to_owned(),
            software: SOFTWARE.to_owned(),
            ..pb::NodeReport::default()
        };
        let (sender, receiver) = watch::channel(report);
        (
            Reporter {
                sender,
                changed: false,
                quiet: 0,
                prompt: PROMPT_REPORTS,
            },
            receiver,
        )
    }

    /// Something worth telling happened.
    pub(crate) fn changed(&mut self) {
        self.changed = true;
    }

    /// Whether a change need not wait for the next regular look.
    pub(crate) fn may_be_prompt(&self) -> bool {
        self.prompt > 0
    }

    /// Whether a report is to be built in this look.
    pub(crate) fn due(&mut self) -> bool {
        self.quiet += 1;
        self.prompt = match self.changed {
            true => self.prompt.saturating_sub(1),
            false => (self.prompt + 1).min(PROMPT_REPORTS),
        };
        let due = self.changed || self.quiet >= QUIET_LOOKS;
        if due {
            self.changed = false;
            self.quiet = 0;
        }
        due
    }

    /// Tells it, if it says anything new.
    pub(crate) fn send(&self, mut report: pb::NodeReport) {
        self.sender.send_if_modified(|last| {
            keep_times(&mut report, last);
            let changed = *last != report;
            *last = report;
            changed
        });
    }

    /// Our node's name.
    pub(crate) fn node(&self) -> String {
        self.sender.borrow().node.clone()
    }
}

/// The time at which a state was entered is made of two clocks that do not go alike: as long as it is
/// nearly the time that was told, it is that time, so that it alone is no news.
fn keep_times(report: &mut pb::NodeReport, last: &pb::NodeReport) {
    const NEARLY_MS: u64 = 1000;
    for session in &mut report.sessions {
        let mut told = last.sessions.iter();
        let told = told.find(|it| it.peer == session.peer && it.state == session.state);
        if let Some(told) = told.filter(|it| it.since_ms.abs_diff(session.since_ms) < NEARLY_MS) {
            session.since_ms = told.since_ms;
        }
    }
}

/// The speaker's version, as `--version` prints it.
pub(crate) const SOFTWARE: &str = concat!("routeshare-speaker ", env!("CARGO_PKG_VERSION"));

/// The state of everything, as of now.
pub(crate) fn build(daemon: &Daemon) -> pb::NodeReport {
    pb::NodeReport {
        node: daemon.node(),
        version: daemon.version(),
        sessions: daemon
            .peers()
            .iter()
            .map(|(peer, ..)| session(peer))
            .collect(),
        subnets: subnets(daemon),
        problems: problems(daemon),
        software: SOFTWARE.to_owned(),
        refused: daemon.desired.refused.clone().unwrap_or_default(),
    }
}

/// The node's subnets, how many addresses pods have of them, and how many they can have.
pub(crate) fn subnets(daemon: &Daemon) -> Vec<pb::SubnetUse> {
    let leases = daemon.leases.known();
    let subnets = daemon
        .in_force
        .iter()
        .flat_map(|in_force| &in_force.config.subnets);
    subnets
        .map(|subnet| {
            let used = daemon.subnets_used.get(&subnet.prefix);
            leases.use_of(subnet, used.copied().unwrap_or(0))
        })
        .collect()
}

/// What a person should know, most serious first.
pub(crate) fn problems(daemon: &Daemon) -> Vec<pb::Problem> {
    let problem = |reason: &str, message: &str| pb::Problem {
        reason: reason.to_owned(),
        message: message.to_owned(),
        peer: String::new(),
    };
    let kernel = daemon
        .kernel
        .problem()
        .into_iter()
        .chain(&daemon.kernel_problems);
    let refused = daemon
        .desired
        .refused
        .iter()
        .map(|text| problem("ConfigurationRefused", text));
    let listen = daemon
        .transport
        .problems()
        .map(|at| problem("CannotListen", &at.message));
    let kernel = kernel.map(|at| problem(at.reason, &at.message));
    let copy = daemon
        .desired
        .copy
        .iter()
        .map(|text| problem("ConfigurationCopy", text));
    let source = daemon
        .desired
        .source
        .iter()
        .map(|text| problem("NoController", text));
    let incomplete = daemon
        .desired
        .incomplete
        .iter()
        .map(|text| problem("ConfigurationIncomplete", text));
    let bfd = daemon.bfd.problems();
    let bfd = bfd.iter().map(|(reason, text)| problem(reason, text));
    let keys = daemon.key_problems();
    let leases = daemon.leases.known();
    let leases = leases.problem.iter().map(|text| problem("Leases", text));
    let pods = [daemon.cni_conf.problems(), daemon.host.problems()].concat();
    let pods = pods.iter().map(|(reason, text)| problem(reason, text));
    let names = daemon.names.problems();
    let names = names.iter().map(|text| problem("Names", text));
    refused
        .chain(incomplete)
        .chain(listen)
        .chain(keys)
        .chain(crate::limits::problems(&daemon.engine.peers(now())))
        .chain(kernel)
        .chain(copy)
        .chain(source)
        .chain(bfd)
        .chain(pods)
        .chain(names)
        .chain(leases)
        .collect()
}

fn session(peer: &PeerStatus) -> pb::SessionReport {
    let sum = |count: fn(&bgp::query::FamilyStatus) -> u64| peer.families.iter().map(count).sum();
    pb::SessionReport {
        peer: peer.name.clone(),
        address: peer.address.to_string(),
        remote_asn: peer.remote_asn.0,
        state: peer.state.to_owned(),
        since_ms: wall_ms_or_0(peer.since),
        prefixes_received: sum(|family| family.received),
        prefixes_accepted: sum(|family| family.accepted),
        prefixes_advertised: sum(|family| family.advertised),
        last_error: peer
            .last_error
            .as_ref()
            .map_or(String::new(), |(_, text)| text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_due_after_a_change_and_now_and_then() {
        let (mut reporter, _reports) = Reporter::new("a");
        assert!(!reporter.due());
        reporter.changed();
        reporter.changed();
        assert!(reporter.due());
        let quiet = (0..QUIET_LOOKS).map(|_| reporter.due()).collect::<Vec<_>>();
        assert_eq!(quiet.iter().filter(|due| **due).count(), 1);
    }

    #[test]
    fn a_few_changes_are_told_soon_and_a_long_row_of_them_is_not() {
        let (mut reporter, _reports) = Reporter::new("a");
        for _ in 0..PROMPT_REPORTS {
            reporter.changed();
            assert!(reporter.may_be_prompt());
            assert!(reporter.due());
        }
        reporter.changed();
        assert!(!reporter.may_be_prompt());
        assert!(reporter.due());
        assert!(!reporter.due());
        assert!(reporter.may_be_prompt());
    }

    #[test]
    fn an_equal_report_is_not_sent_twice() {
        let (reporter, mut reports) = Reporter::new("a");
        let report = pb::NodeReport {
            version: 1,
            ..reports.borrow_and_update().clone()
        };
        reporter.send(report.clone());
        assert!(reports.has_changed().unwrap());
        reports.mark_unchanged();
        reporter.send(report);
        assert!(!reports.has_changed().unwrap());
    }

    #[test]
    fn a_clock_that_is_adjusted_is_no_news_and_another_session_is() {
        let (reporter, mut reports) = Reporter::new("a");
        let report = |since_ms| pb::NodeReport {
            sessions: vec![pb::SessionReport {
                peer: "tor".into(),
                state: "Established".into(),
                since_ms,
                ..pb::SessionReport::default()
            }],
            ..pb::NodeReport::default()
        };
        reporter.send(report(100_000));
        reports.mark_unchanged();
        for adjusted in [100_001, 99_999, 100_400] {
            reporter.send(report(adjusted));
            assert!(!reports.has_changed().unwrap());
        }
        reporter.send(report(101_001));
        assert!(reports.has_changed().unwrap());
    }
}
