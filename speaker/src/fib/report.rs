//! What a person is told: the state of a prefix, numbers, problems.

use std::time::Instant;

use bgp::types::Prefix;
use plan::KernelConfig;

use super::driver::Driver;
use super::foreign::ForeignRoute;
use super::objects::WaysOut;
use super::subnets::METRIC;
use super::table::{Entry, State};
use super::{FibEvent, FibProblem, FibSummary, KernelState, RouteState};

/// Problems told at once.
const TOLD: usize = 100;

impl Driver {
    pub(super) fn state(&self, prefix: Prefix) -> KernelState {
        if let Some(installed) = self.subnets.installed(prefix) {
            return self.own_subnet(prefix, installed);
        }
        let entry = self.table.get(prefix);
        let state = self.route_state(entry);
        let text = match entry {
            Some(entry) if entry.state() == State::Leaving => {
                "its removal from the kernel waits for its turn".to_owned()
            }
            Some(entry) if !entry.is_wanted() => String::new(),
            Some(_) if !self.config.install => "kernel.install is off for this node".to_owned(),
            Some(entry) => self.state_in_words(prefix, entry),
            None => String::new(),
        };
        let entry = entry.filter(|_| state == RouteState::Installed);
        let ways = entry.map_or_else(WaysOut::default, |entry| self.groups.ways_out(entry.slot()));
        let paths = ways.paths.iter().map(|path| self.path_in_words(path));
        let backup = |path| format!("{} (backup)", self.path_in_words(path));
        KernelState {
            prefix,
            state,
            text,
            next_hops: paths.chain(ways.backups.iter().map(backup)).collect(),
            kernel: self.config,
        }
    }

    /// The states alone of prefixes in ascending order, for pages of a table.
    pub(super) fn route_states(&self, prefixes: &[Prefix]) -> Vec<RouteState> {
        let entries = self.table.get_each(prefixes);
        let each = prefixes.iter().zip(entries);
        let states = each.map(|(prefix, entry)| match self.subnets.installed(*prefix) {
            Some(true) => RouteState::Installed,
            Some(false) => RouteState::Refused,
            None => self.route_state(entry),
        });
        states.collect()
    }

    fn route_state(&self, entry: Option<Entry>) -> RouteState {
        match entry.map(Entry::state) {
            None | Some(State::Stale | State::Leaving) => RouteState::NotInstalled,
            Some(_) if !self.config.install => RouteState::NotInstalled,
            Some(State::Installed) => RouteState::Installed,
            Some(State::Pending) => RouteState::Pending,
            Some(State::Refused) => RouteState::Refused,
            Some(State::Foreign) => RouteState::Foreign,
        }
    }

    /// One of our own subnets: its route catches what no pod of ours has.
    fn own_subnet(&self, prefix: Prefix, installed: bool) -> KernelState {
        let (state, text) = match installed {
            true => (
                RouteState::Installed,
                "our own subnet: addresses that no pod has are unreachable",
            ),
            false => (
                RouteState::Refused,
                "our own subnet: its unreachable route is not there",
            ),
        };
        KernelState {
            prefix,
            state,
            text: text.to_owned(),
            next_hops: Vec::new(),
            kernel: KernelConfig {
                metric: METRIC,
                ..self.config
            },
        }
    }

    fn state_in_words(&self, prefix: Prefix, entry: Entry) -> String {
        match entry.state() {
            State::Installed | State::Stale | State::Leaving | State::Foreign => {
                let foreign = self.foreign.in_the_way(prefix, self.config.metric);
                foreign.map_or_else(String::new, |route| self.wins(prefix, route))
            }
            State::Pending => {
                let (hops, _) = self.groups.set(entry.slot());
                let refused = hops.iter().flat_map(|hop| self.hops.paths(*hop));
                let reason = refused
                    .filter_map(|path| self.refused_paths.get(path))
                    .next();
                match reason {
                    Some(reason) => format!("the kernel refuses the way out: {reason}"),
                    None if self.is_ready(entry.slot()) => "waits for its turn".to_owned(),
                    None => "none of its next hops can be reached".to_owned(),
                }
            }
            State::Refused => {
                let reason = self.refusals.get(&prefix).cloned();
                reason.unwrap_or_else(|| "tried again soon".to_owned())
            }
        }
    }

    fn wins(&self, prefix: Prefix, route: &ForeignRoute) -> String {
        let (protocol, metric) = (protocol_in_words(route.protocol), route.metric);
        let show = self.command_to_show(prefix);
        let ours = self.config.metric;
        format!(
            "a route of {protocol} with metric {metric} is used instead of ours (metric {ours}); \
             see `{show}`, remove it or give ours a lower metric"
        )
    }

    pub(super) fn summary(&self) -> FibSummary {
        let count = |state| self.table.count(state);
        FibSummary {
            installed: count(State::Installed),
            pending: count(State::Leaving)
                + if self.config.install {
                    count(State::Pending)
                } else {
                    0
                },
            refused: count(State::Refused) + count(State::Foreign),
            stale: count(State::Stale),
            adopted: self.adopted,
            groups: self.groups.len(),
            repaired: self.repaired,
            overruns: self.overruns,
            problems: self.problems_now(),
        }
    }

    /// Tells problems and the use of our subnets when they changed, and not too often.
    pub(super) fn report(&mut self) {
        if !self.problems_dirty || Instant::now() < self.report_at {
            return;
        }
        self.problems_dirty = false;
        let used = self.subnets.wanted();
        let used: Vec<(Prefix, u64)> = used
            .map(|subnet| (subnet, self.foreign.hosts_within(subnet, &self.leased)))
            .collect();
        if used != self.used {
            self.used.clone_from(&used);
            self.tell(FibEvent::SubnetsUsed(used));
        }
        self.report_at = Instant::now() + self.tuning.report;
        let now = self.problems_now();
        if now != self.problems {
            self.problems.clone_from(&now);
            self.tell(FibEvent::Problems(now));
        }
    }

    fn problems_now(&self) -> Vec<FibProblem> {
        let trouble = self.trouble.iter().map(|text| FibProblem {
            reason: "KernelUnavailable",
            prefix: None,
            message: text.clone(),
        });
        let paths = self.refused_paths.iter().map(|(path, reason)| FibProblem {
            reason: "KernelRefused",
            prefix: None,
            message: format!("{}: {reason}", self.path_in_words(path)),
        });
        let refused = self.refusals.iter().map(|(prefix, reason)| FibProblem {
            reason: "KernelRefused",
            prefix: Some(*prefix),
            message: reason.clone(),
        });
        let metric = self.config.metric;
        let foreign = self.foreign.prefixes().filter_map(|prefix| {
            self.table.get(prefix).filter(|entry| entry.is_wanted())?;
            let route = self.foreign.in_the_way(prefix, metric)?;
            Some(FibProblem {
                reason: "ForeignRoute",
                prefix: Some(prefix),
                message: self.wins(prefix, route),
            })
        });
        let all = trouble.chain(paths).chain(refused).chain(foreign);
        all.take(TOLD).collect()
    }
}

/// The common ones of `/etc/iproute2/rt_protos`.
fn protocol_in_words(protocol: u8) -> String {
    let name = match protocol {
        2 => "the kernel (an address of this host)",
        3 => "protocol boot (by hand)",
        4 => "protocol static",
        9 => "router advertisements",
        11 => "zebra",
        12 => "BIRD",
        16 => "DHCP",
        186 => "FRR (BGP)",
        188 => "FRR (OSPF)",
        other => return format!("protocol {other}"),
    };
    name.to_owned()
}
