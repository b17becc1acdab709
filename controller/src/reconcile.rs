//! The loop that turns resources into configurations.
//!
//! resources (source) + what was given out (store) + what speakers say (registry)
//!   → subnets and AS numbers (`ipam`) → configurations (`plan`) → versions
//!   → one durable commit → the speakers and the operators see it.
//!
//! One task runs it, and nobody else writes to the store. Until the commit has returned, nothing of
//! what a pass decided is visible outside of it; when the commit fails, the pass has not happened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::SubnetSource;
use ipam::Millis;
use ipam::numbers::{self, NumberLease};
use ipam::pool::{self, Desired, Family, Ledger, State, Use, Wish};
use ipnetwork::IpNetwork;
use proto::controller::v1 as pb;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::planning::{family_of, grace, plan, pool_of, snapshot, wanted_numbers};
use crate::projections::Feedback;
use crate::registry::{Registry, SpeakerState, is_nearly_used_up, taken};
use crate::source::files::now;
use crate::source::{Loaded, SourceState};
use crate::standing::Lead;
use crate::store::{self, Commit, Contents, Size, Store, StoreError, StoredResources};

/// After a start nothing is freed for so long (or for the grace time, if that is shorter): speakers
/// that still use a subnet must have had the time to come back and say so.
const LEARN_USERS: Duration = Duration::from_secs(60);
/// Passes are at least so far apart, so that many small events cost one pass.
const BREATHE: Duration = Duration::from_millis(20);
/// A commit that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Deadlines are looked at again after this.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// While something waits for the end of a grace time, the clock is stored so often.
const KEEP_TIME: Duration = Duration::from_secs(300);

/// What operators see, whole; replaced after every pass that changed something.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Counts up with every accepted change of the resources; 0 while there are none.
    pub(crate) generation: u64,
    /// The resources in force.
    pub(crate) loaded: Option<Arc<Loaded>>,
    /// Every node of the resources, and removed ones that still hold something.
    pub(crate) nodes: BTreeMap<String, NodeView>,
    /// Every subnet given out.
    pub(crate) ledger: Ledger,
    /// Every AS number given out, by the key it is kept under.
    pub(crate) numbers: BTreeMap<String, NumberLease>,
    /// How full the pools are, by name.
    pub(crate) pools: BTreeMap<String, Vec<Use>>,
    /// The configuration of each node that has one.
    pub(crate) configs: BTreeMap<String, Arc<pb::NodeConfig>>,
    /// Why the store cannot be written; empty when it can.
    pub(crate) store_error: String,
    /// How full the store is, where it can be full.
    pub(crate) store_size: Option<Size>,
    /// The generation of the store that this is; 0 for a store that nobody else writes to.
    pub(crate) ledger_generation: u64,
    /// The generation at which this process took over the store; 0 as above, and before that.
    pub(crate) leads_since: u64,
    /// Subnets whose grace time is over and that nobody uses: to be freed once they stand nowhere.
    pub(crate) due: BTreeSet<IpNetwork>,
}

/// One node as operators see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeView {
    /// Whether the resources in force have it.
    pub(crate) exists: bool,
    /// Why it has no configuration or no subnet.
    pub(crate) problems: Vec<String>,
}

/// The loop's state.
pub(crate) struct Reconciler {
    store: Store,
    /// Whether the store can be committed to: not before it was read, and not after an error.
    open: bool,
    /// This process has committed.
    begun: bool,
    clock: Clock,
    contents: Contents,
    registry: Arc<Registry>,
    source: watch::Receiver<SourceState>,
    view: watch::Sender<View>,
    lead: Lead,
    /// What is written elsewhere about the subnets; only in a cluster.
    projected: Option<Feedback>,
    /// The store's generation after this process's first commit.
    leads_since: u64,
    started: Instant,
    /// What the last plan was made of, and what came of it; good while nothing changes.
    planned: Option<Planned>,
    /// The last pass freed something that somebody may be waiting for.
    freed: bool,
    /// Another controller has taken over.
    lost: bool,
}

struct Planned {
    loaded: Arc<Loaded>,
    configs: BTreeMap<String, Arc<pb::NodeConfig>>,
    problems: Vec<(String, String)>,
}

/// What a pass decided, not yet durable.
struct Pass {
    loaded: Arc<Loaded>,
    subnets: Vec<pool::Change>,
    numbers: Vec<numbers::Change>,
    problems: Vec<(String, String)>,
    due: BTreeSet<IpNetwork>,
}

impl Reconciler {
    /// A loop over `contents`, which was read from `store`; without, it is read in the loop.
    pub(crate) fn new(
        store: Store,
        contents: Option<Contents>,
        registry: Arc<Registry>,
        source: watch::Receiver<SourceState>,
        view: watch::Sender<View>,
        lead: Lead,
        projected: Option<Feedback>,
    ) -> Reconciler {
        Reconciler {
            store,
            open: contents.is_some(),
            begun: false,
            clock: Clock::start(now()),
            contents: contents.unwrap_or_default(),
            registry,
            source,
            view,
            lead,
            projected,
            leads_since: 0,
            started: Instant::now(),
            planned: None,
            freed: false,
            lost: false,
        }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            self.source.mark_unchanged();
            self = match tokio::task::spawn_blocking(move || {
                self.pass(self.clock.now());
                self
            })
            .await
            {
                Ok(reconciler) => reconciler,
                Err(panicked) => {
                    // Going on with half a state is worse than a restart from the store.
                    error!(error = %panicked, "a reconcile pass failed; the controller stops");
                    shutdown.cancel();
                    return;
                }
            };
            if self.lost {
                shutdown.cancel();
                return;
            }
            let wake = Instant::now() + self.next_deadline(self.clock.now());
            let registry = Arc::clone(&self.registry);
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.source.changed() => if changed.is_err() {
                    return; // the source is gone: shutting down
                },
                () = registry.attention() => {}
                () = self.lead.changed() => {}
                () = Feedback::changed(self.projected.as_mut()) => {}
                () = sleep_until(wake) => {}
            }
            sleep(BREATHE.max(self.store.rest())).await;
        }
    }

    /// One pass over everything. `now` is what [`Clock`] says.
    fn pass(&mut self, now: Millis) {
        if !self.lead.may_decide() {
            return; // what is told stays; the next pass comes when it may again
        }
        let Some(loaded) = self.source.borrow().in_force.clone() else {
            return; // nothing is known, so nothing changes
        };
        if let Err(error) = self.try_pass(loaded, now) {
            let failing = !self.view.borrow().store_error.is_empty();
            if error.is_lost() {
                error!("{error}");
                self.lost = true;
            } else if !failing {
                error!(
                    error = &error as &dyn std::error::Error,
                    "nothing is given out until {} can be written",
                    self.store.place()
                );
            }
            // A commit that failed may have happened all the same: what counts is what is there when
            // the store is opened again.
            self.open = false;
            self.planned = None;
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            let text = format!("{error}{}", source.unwrap_or_default());
            self.view.send_modify(|view| view.store_error = text);
        }
    }

    fn try_pass(&mut self, loaded: Arc<Loaded>, now: Millis) -> Result<(), StoreError> {
        if !self.open {
            self.contents = self.store.reopen()?;
            info!("{} is open", self.store.place());
            self.open = true;
        }
        if !self.begun {
            self.begin(now)?;
        }
        let speakers = self.registry.states();
        let pass = self.decide(loaded, &speakers, now);
        self.carry_out(pass, now)
    }

    /// This process's first commit: grace times go on from where they were, and whoever led before
    /// cannot commit any more.
    fn begin(&mut self, now: Millis) -> Result<(), StoreError> {
        let (subnets, numbers) = store::rebased(&self.contents, now);
        if self.store.is_exclusive() && subnets.is_empty() && numbers.is_empty() {
            self.begun = true;
            return Ok(());
        }
        self.write(&Commit {
            subnets: &subnets,
            numbers: &numbers,
            last_version: self.contents.last_version,
            clock: now,
            ..Commit::default()
        })?;
        self.leads_since = self.store.generation();
        self.begun = true;
        Ok(())
    }

    /// The one place where something is committed.
    fn write(&mut self, commit: &Commit<'_>) -> Result<(), StoreError> {
        self.store.commit(commit)?;
        self.contents.apply(commit);
        Ok(())
    }

    fn decide(
        &self,
        loaded: Arc<Loaded>,
        speakers: &BTreeMap<String, SpeakerState>,
        now: Millis,
    ) -> Pass {
        let desired = self.desired(&loaded, speakers);
        let (subnets, subnet_problems) = pool::settle(&self.contents.ledger, &desired, now);
        let wanted = wanted_numbers(&loaded, desired.grace);
        let (numbers, number_problems) = numbers::settle(&self.contents.numbers, &wanted, now);
        let mut problems: Vec<(String, String)> = subnet_problems
            .into_iter()
            .map(|problem| (problem.node().to_owned(), problem.to_string()))
            .collect();
        problems.extend(number_problems.into_iter().map(|problem| {
            let node = problem.key.strip_prefix("node/").unwrap_or_default();
            (node.to_owned(), problem.to_string())
        }));
        let due = self.contents.ledger.iter().filter(|(subnet, lease)| {
            let over = matches!(lease.state, State::Waiting { free_at } if free_at <= now);
            over && desired.may_free && !desired.in_use.contains(subnet)
        });
        Pass {
            loaded,
            subnets,
            numbers,
            problems,
            due: due.map(|(subnet, _)| subnet).collect(),
        }
    }

    fn desired(&self, loaded: &Loaded, speakers: &BTreeMap<String, SpeakerState>) -> Desired {
        let resources = &loaded.resources;
        let fixed = resources.nodes.values().flat_map(|node| {
            let subnets = node.spec.subnets.iter();
            subnets.map(|subnet| (node.metadata.name.clone(), IpNetwork::from(*subnet)))
        });
        let grace = grace(loaded);
        let grace_millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let adopts = resources.fabric.spec.node_subnets == SubnetSource::Adopt;
        let projected = self.projected.as_ref();
        let found = projected.filter(|_| !adopts).map(Feedback::found);
        Desired {
            nodes: resources.nodes.keys().cloned().collect(),
            pools: resources.pools.values().map(pool_of).collect(),
            wishes: self.wishes(loaded, speakers),
            fixed: fixed.collect(),
            found: found.unwrap_or_default(),
            shown: projected.map_or_else(BTreeSet::new, |it| it.shown(&self.contents.ledger)),
            grace: grace_millis,
            // Whoever gives them out has its own idea of when they are free.
            fixed_grace: if adopts { 0 } else { grace_millis },
            in_use: self.in_use(speakers),
            may_free: self.started.elapsed() >= LEARN_USERS.min(grace),
        }
    }

    /// One subnet for everybody, and one more for those whose subnets are nearly used up.
    fn wishes(&self, loaded: &Loaded, speakers: &BTreeMap<String, SpeakerState>) -> Vec<Wish> {
        let hungry = self.hungry(speakers);
        plan::wanted_subnets(&loaded.resources)
            .into_iter()
            .map(|wanted| {
                let family = family_of(wanted.family);
                let key = (wanted.node, wanted.pool, family);
                let count = hungry.get(&key).map_or(1, |held| held + 1);
                let (node, pool, family) = key;
                Wish {
                    node,
                    pool,
                    family,
                    count,
                }
            })
            .collect()
    }

    /// Who needs a further subnet, and how many it has. Only what a speaker says while it has its
    /// newest configuration counts: before that it does not know of a subnet it was just given.
    fn hungry(
        &self,
        speakers: &BTreeMap<String, SpeakerState>,
    ) -> BTreeMap<(String, String, Family), usize> {
        /// Subnets, addresses in use, addresses in all.
        type Tally = (usize, u128, u128);
        let view = self.view.borrow();
        let mut tallies: BTreeMap<(String, String, Family), Tally> = BTreeMap::new();
        for (node, state) in speakers {
            let (Some(report), Some(config)) = (&state.report, view.configs.get(node)) else {
                continue;
            };
            if !state.reported || report.version != config.version {
                continue;
            }
            for subnet in &report.subnets {
                let Ok(prefix) = subnet.prefix.parse::<IpNetwork>() else {
                    continue;
                };
                let lease = self.contents.ledger.get(prefix);
                let Some(lease) = lease.filter(|lease| lease.node == *node && !lease.fixed) else {
                    continue;
                };
                let key = (node.clone(), lease.pool.clone(), Family::of(prefix));
                let tally = tallies.entry(key).or_default();
                let (taken, size) = taken(subnet, prefix);
                tally.0 += 1;
                tally.1 = tally.1.saturating_add(taken);
                tally.2 = tally.2.saturating_add(size);
            }
        }
        tallies.retain(|_, (_, used, size)| is_nearly_used_up(*used, *size));
        if tallies.is_empty() {
            return BTreeMap::new();
        }
        let mut held: BTreeMap<(&str, &str, Family), usize> = BTreeMap::new();
        for (subnet, lease) in self.contents.ledger.iter() {
            if !lease.fixed && lease.state == State::Assigned {
                let key = (&*lease.node, &*lease.pool, Family::of(subnet));
                *held.entry(key).or_default() += 1;
            }
        }
        tallies.retain(|(node, pool, family), (reported, ..)| {
            held.get(&(&**node, &**pool, *family)) == Some(reported)
        });
        let counts = tallies.into_iter().map(|(key, (held, ..))| (key, held));
        counts.collect()
    }

    /// What speakers with an open stream still use, as far as they have said; all that was theirs
    /// before they have said anything.
    fn in_use(&self, speakers: &BTreeMap<String, SpeakerState>) -> BTreeSet<IpNetwork> {
        let mut in_use = BTreeSet::new();
        let mut reported: BTreeMap<&str, BTreeSet<IpNetwork>> = BTreeMap::new();
        for (subnet, lease) in self.contents.ledger.iter() {
            // What a speaker says of other nodes' subnets is not for it to say.
            let Some(state) = speakers.get(&lease.node) else {
                continue;
            };
            if state.connected_since.is_none() {
                continue;
            }
            let is_used = !state.reported
                || (reported.entry(&lease.node))
                    .or_insert_with(|| state.subnets())
                    .contains(&subnet);
            if is_used {
                in_use.insert(subnet);
            }
        }
        in_use
    }

    /// Commits the pass, then lets everybody see it.
    fn carry_out(&mut self, pass: Pass, now: Millis) -> Result<(), StoreError> {
        let Pass {
            loaded,
            subnets,
            numbers,
            problems,
            due,
        } = pass;
        let same = self.planned.as_ref().is_some_and(|planned| {
            Arc::ptr_eq(&planned.loaded, &loaded) && subnets.is_empty() && numbers.is_empty()
        });
        if same {
            self.freed = false;
            self.keep_time(now)?;
        } else {
            // Lost when the commit fails: then the next pass plans anew.
            let planned = self.commit(loaded, &subnets, &numbers, now)?;
            self.freed = subnets.iter().any(|c| matches!(c, pool::Change::Free(_)));
            self.freed |= numbers
                .iter()
                .any(|c| matches!(c, numbers::Change::Free(_)));
            log_changes(&subnets);
            self.planned = Some(planned);
        }
        let Some(planned) = &self.planned else {
            return Ok(());
        };
        // Operators first: who asks about what a speaker was told finds it.
        self.publish(planned, problems, due);
        for (node, config) in &planned.configs {
            self.registry.tell(node, config);
        }
        self.registry.forget_others(&planned.configs);
        Ok(())
    }

    /// Plans with what was decided, and commits all of it.
    fn commit(
        &mut self,
        loaded: Arc<Loaded>,
        subnets: &[pool::Change],
        numbers: &[numbers::Change],
        now: Millis,
    ) -> Result<Planned, StoreError> {
        let mut ledger = self.contents.ledger.clone();
        ledger.apply(subnets);
        let mut leased = self.contents.numbers.clone();
        store::apply_numbers(&mut leased, numbers);
        let nothing_yet = BTreeMap::new();
        let before = (self.planned.as_ref()).map_or(&nothing_yet, |planned| &planned.configs);
        let snapshot = snapshot(&loaded, &ledger, &leased);
        let numbered = plan(&snapshot, &self.contents, &ledger, before);
        let stored = self.stored_resources(&loaded);
        let nothing = subnets.is_empty() && numbers.is_empty() && numbered.changes.is_empty();
        if !nothing || stored.is_some() {
            self.write(&Commit {
                subnets,
                numbers,
                versions: &numbered.changes,
                last_version: numbered.last_version,
                resources: stored.as_ref(),
                clock: now,
            })?;
        }
        Ok(Planned {
            loaded,
            configs: numbered.configs,
            problems: numbered.problems,
        })
    }

    /// While somebody waits, a restart must not make him wait for much longer than without.
    fn keep_time(&mut self, now: Millis) -> Result<(), StoreError> {
        let passed = Duration::from_millis(now.saturating_sub(self.contents.clock));
        if passed < KEEP_TIME || !self.contents.waits() {
            return Ok(());
        }
        self.write(&Commit {
            last_version: self.contents.last_version,
            clock: now,
            ..Commit::default()
        })
    }

    fn publish(
        &self,
        planned: &Planned,
        mut problems: Vec<(String, String)>,
        due: BTreeSet<IpNetwork>,
    ) {
        let loaded = &planned.loaded;
        problems.extend(planned.problems.iter().chain(&loaded.problems).cloned());
        let mut nodes: BTreeMap<String, NodeView> = BTreeMap::new();
        for node in loaded.resources.nodes.keys() {
            nodes.entry(node.clone()).or_default().exists = true;
        }
        let before = self.view.borrow().nodes.clone();
        for (node, problem) in problems {
            let told = before.get(&node);
            if told.is_none_or(|told| !told.problems.contains(&problem)) {
                warn!(%node, %problem, "problem");
            }
            nodes.entry(node).or_default().problems.push(problem);
        }
        let pools = loaded.resources.pools.values().map(|pool| {
            let uses = pool::usage(&pool_of(pool), &self.contents.ledger);
            (pool.metadata.name.clone(), uses)
        });
        self.view.send_replace(View {
            generation: self.contents.resources.generation,
            loaded: Some(Arc::clone(loaded)),
            nodes,
            ledger: self.contents.ledger.clone(),
            numbers: self.contents.numbers.clone(),
            pools: pools.collect(),
            configs: planned.configs.clone(),
            store_error: String::new(),
            store_size: self.store.size(),
            ledger_generation: self.store.generation(),
            leads_since: self.leads_since,
            due,
        });
    }

    /// What to store of the resources; none when the store has them.
    fn stored_resources(&self, loaded: &Loaded) -> Option<StoredResources> {
        let stored = &self.contents.resources;
        let digest = store::resources_digest(&loaded.files);
        (stored.digest != digest).then(|| StoredResources {
            files: loaded.files.clone(),
            digest,
            generation: stored.generation + 1,
            loaded: loaded.at,
        })
    }

    /// How long until something happens by itself.
    fn next_deadline(&self, now: Millis) -> Duration {
        if !self.open {
            return RETRY;
        }
        if self.freed {
            return Duration::ZERO;
        }
        let subnets = self.contents.ledger.iter().filter_map(|(_, lease)| {
            let State::Waiting { free_at } = lease.state else {
                return None;
            };
            Some(free_at)
        });
        let numbers = self.contents.numbers.values().filter_map(|n| n.free_at);
        let Some(next) = subnets.chain(numbers).min() else {
            return LONGEST_SLEEP;
        };
        let learning = LEARN_USERS.saturating_sub(self.started.elapsed());
        let grace = self.source.borrow().in_force.as_deref().map(grace);
        let learning = learning.min(grace.unwrap_or_default());
        let wait = match next.saturating_sub(now) {
            0 if learning.is_zero() => RETRY, // held back because it is still used
            wait => Duration::from_millis(wait).max(learning),
        };
        wait.min(LONGEST_SLEEP)
    }
}

fn log_changes(changes: &[pool::Change]) {
    for change in changes {
        match change {
            pool::Change::Set(subnet, lease) => match lease.state {
                State::Assigned => info!(%subnet, node = lease.node, "subnet assigned"),
                State::Waiting { .. } => {
                    info!(%subnet, node = lease.node, "subnet waits: its node is gone");
                }
            },
            pool::Change::Free(subnet) => info!(%subnet, "subnet free again"),
        }
    }
}
