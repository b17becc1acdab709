//! The store in the API server, for a controller in a cluster.
//!
//! One ConfigMap holds all of it ([`super::document`]), and a commit is one PUT that names the version
//! it was made from: the API server carries out one of two such requests and refuses the other. So two
//! controllers can both believe that they lead, wake up after an hour, or have requests arrive late,
//! and still no two grants contradict one another.
//!
//! - A process begins with a commit of its own (the reconcile loop's first). From then on every commit
//!   of the one before it is refused.
//! - A commit that is refused because another process has written since is the end of this process.
//! - After an answer that says nothing (a timeout, a connection that broke, an error of the server) the
//!   object is read again. A request that is under way then does no harm when it arrives: either the
//!   object has been changed since, and it is refused; or it has not, and the next commit finds it.

use std::fmt;
use std::time::{Duration, Instant};

use crd::names::{FIELD_MANAGER, LEASE, LEDGER, MANAGED_BY_LABEL};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::{info, warn};

use super::document::{Document, LIMIT, Unreadable, size};
use super::rebuild::{self, Rebuilt};
use super::{Commit, Contents, Size};

/// How long a request may take. What is slower counts as unclear.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to read all NodeSubnets objects.
const REBUILD_PATIENCE: Duration = Duration::from_secs(60);
/// The API server keeps every version of the object for some minutes. Commits are spaced so that they
/// come to this many octets a second at most, once the first [`BURST`] is used up.
const OCTETS_PER_SECOND: f64 = 512.0 * 1024.0;
/// Octets that may be written at once.
const BURST: f64 = 4.0 * 1024.0 * 1024.0;
/// From here on it is said that the ledger is nearly full.
const NEARLY_FULL_PERCENT: usize = 80;

/// On the ConfigMap: which process wrote it last, where it can be seen without reading all of it.
const WRITER_ANNOTATION: &str = "routeshare.io/writer";

/// The ledger in its ConfigMap.
pub(crate) struct KubernetesStore {
    maps: Api<ConfigMap>,
    leases: Api<Lease>,
    client: Client,
    namespace: String,
    /// Names this process, and is who holds the Lease while it leads.
    identity: String,
    runtime: Handle,
    /// What is there, as far as this process knows; good for a commit while `version` is there.
    known: Option<Document>,
    /// The resourceVersion that goes with `known`; none from an error to the next reading.
    version: Option<String>,
    /// Whether this process has written: from then on every other writer is its successor.
    has_written: bool,
    used: usize,
    budget: Budget,
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    #[error("cannot {doing} ConfigMap {name}")]
    Refused {
        doing: Doing,
        name: String,
        source: Box<kube::Error>,
    },
    #[error("cannot {doing} ConfigMap {name}: no answer within {} s", PATIENCE.as_secs())]
    Late { doing: Doing, name: String },
    #[error(
        "controller {writer} has written ConfigMap {name} since: it leads now, and this one stops"
    )]
    Lost { name: String, writer: String },
    #[error(
        "ConfigMap {name} was {done}; it is not written again before it is seen that this controller \
         leads: {why}"
    )]
    Tampered {
        name: String,
        done: &'static str,
        why: String,
    },
    #[error(
        "ConfigMap {name} says who holds which subnet and cannot be used: {why}. Nothing is given out. \
         Restore it from a backup that is newer than the last change; or delete it: the controller then \
         rebuilds it from the NodeSubnets objects and from what the Nodes' podCIDRs say"
    )]
    Unreadable { name: String, why: Unreadable },
    #[error(
        "the ledger would take {size} octets and ConfigMap {name} holds {LIMIT}: nothing further is given \
         out; remove nodes, or pools that give every node a further subnet"
    )]
    TooLarge { name: String, size: usize },
    #[error(
        "ConfigMap {name} is an old copy: it is generation {generation}, and NodeSubnets objects repeat \
         generation {repeated}. Nothing is given out, because it does not know what was given since. \
         Delete it: the controller then rebuilds it from those objects and from the Nodes' podCIDRs"
    )]
    Old {
        name: String,
        generation: u64,
        repeated: u64,
    },
}

/// What was being done when it failed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Doing {
    Read,
    Write,
    Create,
    Compare,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Doing::Read => "read",
            Doing::Write => "write",
            Doing::Create => "create",
            Doing::Compare => "read the NodeSubnets objects, to compare them with",
        })
    }
}

impl KubernetesStore {
    /// The ledger of the controllers in `namespace`, not yet read. `identity` is who this process is in
    /// the Lease.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        identity: String,
        runtime: Handle,
    ) -> KubernetesStore {
        KubernetesStore {
            maps: Api::namespaced(client.clone(), namespace),
            leases: Api::namespaced(client.clone(), namespace),
            client,
            namespace: namespace.to_owned(),
            identity,
            runtime,
            known: None,
            version: None,
            has_written: false,
            used: 0,
            budget: Budget::new(Instant::now()),
        }
    }

    /// What it is, for people.
    pub(crate) fn place(&self) -> String {
        format!("ConfigMap {}", self.name())
    }

    /// How long to wait before the next commit.
    pub(crate) fn rest(&self) -> Duration {
        self.budget.rest(Instant::now())
    }

    /// How full it is.
    pub(crate) fn size(&self) -> Size {
        Size {
            used: self.used,
            limit: LIMIT,
        }
    }

    /// To ask whether this process may still commit.
    pub(crate) fn check(&self) -> WriterCheck {
        WriterCheck {
            maps: self.maps.clone(),
            identity: self.identity.clone(),
        }
    }

    /// Counts up with every commit of whichever controller.
    pub(crate) fn generation(&self) -> u64 {
        self.known.as_ref().map_or(0, |known| known.generation)
    }

    /// Reads what is there; makes it when it is not.
    ///
    /// Blocks; not to be called on a runtime's worker thread.
    pub(crate) fn reopen(&mut self) -> Result<Contents, LedgerError> {
        self.version = None;
        let runtime = self.runtime.clone();
        runtime.block_on(async {
            // Before the ledger is read: whoever leads until now goes on writing both.
            let repeated = match self.has_written {
                true => 0,
                false => self.repeated().await?,
            };
            let read = self.maps.get_opt(LEDGER);
            match self.within(Doing::Read, read).await? {
                Some(map) => self.found(map, repeated).await,
                None => self.missing().await,
            }
        })
    }

    /// Makes the changes durable, all or none.
    ///
    /// Blocks; not to be called on a runtime's worker thread.
    pub(crate) fn commit(&mut self, commit: &Commit<'_>) -> Result<(), LedgerError> {
        let version = self.version.take();
        let version = version.expect("nobody commits between an error and reopen()");
        let mut next = self.known.clone().unwrap_or_default();
        next.contents.apply(commit);
        next.generation += 1;
        next.writer.clone_from(&self.identity);
        let map = self.map(&next, Some(version))?;
        let parameters = PostParams::default();
        let written = self.maps.replace(LEDGER, &parameters, &map);
        let written = self.within(Doing::Write, written);
        let written = self.runtime.block_on(written)?;
        self.wrote(next, written);
        Ok(())
    }

    async fn found(&mut self, map: ConfigMap, repeated: u64) -> Result<Contents, LedgerError> {
        let mut document = Document::decode(&map).map_err(|why| LedgerError::Unreadable {
            name: self.name(),
            why,
        })?;
        if document.generation < repeated {
            return Err(LedgerError::Old {
                name: self.name(),
                generation: document.generation,
                repeated,
            });
        }
        if let Some(known) = self.known.as_ref().filter(|_| self.has_written) {
            if document.generation < known.generation {
                // A successor's would be higher: somebody has put back a copy.
                self.must_lead("replaced by an older copy").await?;
                warn!(map = %self.name(), "the ledger was replaced by an older copy; it is written again");
                document = known.clone();
            } else if document.writer != self.identity {
                return Err(LedgerError::Lost {
                    name: self.name(),
                    writer: document.writer,
                });
            }
        }
        self.used = size(&map);
        self.version = map.metadata.resource_version;
        let contents = document.contents.clone();
        self.known = Some(document);
        Ok(contents)
    }

    /// There is none. One of three: a new cluster; somebody deleted it before this process came to lead;
    /// somebody deleted it just now.
    async fn missing(&mut self) -> Result<Contents, LedgerError> {
        let document = match self.known.as_ref().filter(|_| self.has_written) {
            Some(known) => {
                self.must_lead("deleted").await?;
                warn!(map = %self.name(), "the ledger was deleted; it is written again");
                known.clone()
            }
            None => self.rebuilt().await?,
        };
        let map = self.map(&document, None)?;
        let parameters = PostParams::default();
        let created = self.maps.create(&parameters, &map);
        let created = self.within(Doing::Create, created).await?;
        let contents = document.contents.clone();
        self.wrote(document, created);
        Ok(contents)
    }

    /// What the NodeSubnets objects say.
    async fn objects(&self) -> Result<Rebuilt, LedgerError> {
        let rebuilding = rebuild::from_node_subnets(&self.client);
        let rebuilt = timeout(REBUILD_PATIENCE, rebuilding).await;
        let rebuilt = rebuilt.map_err(|_| LedgerError::Late {
            doing: Doing::Compare,
            name: self.name(),
        })?;
        rebuilt.map_err(|source| LedgerError::Refused {
            doing: Doing::Compare,
            name: self.name(),
            source: Box::new(source),
        })
    }

    /// The newest ledger that the NodeSubnets objects repeat.
    async fn repeated(&self) -> Result<u64, LedgerError> {
        Ok(self.objects().await?.generation)
    }

    async fn rebuilt(&self) -> Result<Document, LedgerError> {
        let rebuilt = self.objects().await?;
        let document = Document {
            contents: rebuilt.contents,
            generation: rebuilt.generation + 1,
            writer: self.identity.clone(),
        };
        match document.contents.ledger.iter().count() {
            0 => info!(map = %self.name(), "there is no ledger yet; a new one is made"),
            subnets => warn!(
                map = %self.name(), subnets,
                "the ledger was lost; it is rebuilt from the NodeSubnets objects. A subnet that was \
                 given out in the last seconds before, and stands in none of them, is not known"
            ),
        }
        for lost in rebuilt.contradictions {
            warn!(%lost, "while rebuilding the ledger");
        }
        Ok(document)
    }

    /// What this process knows is all there was, if it has led without a break. An identity that lost
    /// the Lease never holds it again, so holding it now is proof of that.
    async fn must_lead(&self, done: &'static str) -> Result<(), LedgerError> {
        let lost = |why: String| LedgerError::Tampered {
            name: self.name(),
            done,
            why,
        };
        let lease = timeout(PATIENCE, self.leases.get(LEASE)).await;
        let late = |_| lost(format!("no answer within {} s", PATIENCE.as_secs()));
        let lease = lease.map_err(late)?;
        let lease = lease.map_err(|error| lost(error.to_string()))?;
        let holder = lease.spec.and_then(|spec| spec.holder_identity);
        let holder = holder.unwrap_or_default();
        if holder != self.identity {
            return Err(lost(format!("Lease {LEASE} is held by `{holder}`")));
        }
        Ok(())
    }

    /// The object to write; refused when it does not fit.
    fn map(&self, document: &Document, version: Option<String>) -> Result<ConfigMap, LedgerError> {
        let map = document.encode();
        let size = size(&map);
        if size > LIMIT {
            let name = self.name();
            return Err(LedgerError::TooLarge { name, size });
        }
        let labels = [(MANAGED_BY_LABEL.to_owned(), FIELD_MANAGER.to_owned())];
        let annotations = [(WRITER_ANNOTATION.to_owned(), document.writer.clone())];
        Ok(ConfigMap {
            metadata: ObjectMeta {
                name: Some(LEDGER.to_owned()),
                namespace: Some(self.namespace.clone()),
                labels: Some(labels.into()),
                annotations: Some(annotations.into()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            ..map
        })
    }

    fn wrote(&mut self, document: Document, written: ConfigMap) {
        let before = self.used;
        self.used = size(&written);
        let nearly = |used: usize| used * 100 >= LIMIT * NEARLY_FULL_PERCENT;
        if nearly(self.used) && !nearly(before) {
            warn!(
                map = %self.name(), octets = self.used, limit = LIMIT,
                "the ledger is nearly full; when it is, nothing further is given out"
            );
        }
        self.budget.spend(self.used, Instant::now());
        self.version = written.metadata.resource_version;
        self.known = Some(document);
        self.has_written = true;
    }

    async fn within<T>(
        &self,
        doing: Doing,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, LedgerError> {
        let answer = timeout(PATIENCE, request).await;
        let answer = answer.map_err(|_| LedgerError::Late {
            doing,
            name: self.name(),
        })?;
        answer.map_err(|source| LedgerError::Refused {
            doing,
            name: self.name(),
            source: Box::new(source),
        })
    }

    fn name(&self) -> String {
        format!("{}/{LEDGER}", self.namespace)
    }
}

/// Asks who wrote the ledger last.
#[derive(Clone)]
pub(crate) struct WriterCheck {
    maps: Api<ConfigMap>,
    identity: String,
}

impl WriterCheck {
    /// Who this process is.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// Who wrote the ledger last; none when there is no ledger. What is answered was so at some moment
    /// after the question.
    pub(crate) async fn writer(&self) -> Result<Option<String>, String> {
        let map = timeout(PATIENCE, self.maps.get_metadata_opt(LEDGER)).await;
        let map = map.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?;
        let map = map.map_err(|error| error.to_string())?;
        let annotations = map.and_then(|map| map.metadata.annotations);
        Ok(annotations.and_then(|mut all| all.remove(WRITER_ANNOTATION)))
    }
}

/// How much may be written: a bucket of [`BURST`] octets that fills by [`OCTETS_PER_SECOND`].
struct Budget {
    /// What is in it; below nothing when more was written than there was.
    octets: f64,
    at: Instant,
}

impl Budget {
    fn new(now: Instant) -> Budget {
        Budget {
            octets: BURST,
            at: now,
        }
    }

    fn level(&self, now: Instant) -> f64 {
        let filled = now.saturating_duration_since(self.at).as_secs_f64() * OCTETS_PER_SECOND;
        (self.octets + filled).min(BURST)
    }

    fn spend(&mut self, octets: usize, now: Instant) {
        #[expect(clippy::cast_precision_loss, reason = "a megabyte at most")]
        let octets = octets as f64;
        self.octets = self.level(now) - octets;
        self.at = now;
    }

    fn rest(&self, now: Instant) -> Duration {
        let missing = (-self.level(now)).max(0.0);
        Duration::from_secs_f64(missing / OCTETS_PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ledgers_are_never_slowed_down_and_large_ones_come_to_half_a_megabyte_a_second() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut now = start;
        for _ in 0..1000 {
            budget.spend(10_000, now);
            assert_eq!(budget.rest(now), Duration::ZERO);
            now += Duration::from_millis(20);
        }
        let (mut budget, mut now, mut written) = (Budget::new(start), start, 0);
        while now < start + Duration::from_secs(60) {
            budget.spend(500_000, now);
            written += 500_000;
            now += budget.rest(now).max(Duration::from_millis(20));
        }
        let allowed = BURST + 60.0 * OCTETS_PER_SECOND + 1_000_000.0;
        assert!(f64::from(written) < allowed, "{written}");
    }
}
