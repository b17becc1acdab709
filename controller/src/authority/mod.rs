//! The authority that controllers keep themselves, so that TLS needs nothing to be prepared.
//!
//! Its key is in a Secret that only controllers can read; what others are to trust is in a ConfigMap of
//! the same name. Every controller follows both and takes the steps that are due ([`state`]); each is one
//! compare-and-swap, so of several that try one does it and the others see it. The certificate that a
//! controller shows is made in its memory, under names that all controllers have.

mod issue;
mod objects;
mod state;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use ipam::Millis;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::pauses::Pauses;
use crate::source::files::now;
use objects::Published;
pub(crate) use state::Limits;
use state::{Authorities, Step, millis};

/// What is due is looked at no seldomer than this: the wall clock may jump.
const LOOK: Duration = Duration::from_secs(60);
/// Between attempts of what failed.
const RETRY: Duration = Duration::from_secs(2);
/// A clock that is set back by less is as good as one that was not.
const SET_BACK: Duration = Duration::from_secs(3600);

/// What the authority is kept with.
pub(crate) struct Keeper {
    secrets: Api<Secret>,
    bundles: Api<ConfigMap>,
    services: Api<Service>,
    namespace: String,
    /// Names and addresses beyond those that every controller has.
    names: Vec<String>,
    limits: Limits,
    serving: watch::Sender<Option<Arc<ServerConfig>>>,
    shown: Option<Shown>,
    /// The generation that is there, and since when we know it.
    seen: Option<(u64, Instant)>,
    /// What is wrong has been told.
    told: bool,
}

/// The certificate that is shown.
struct Shown {
    generation: u64,
    names: Vec<String>,
    made_at: Millis,
    renew_at: Millis,
    ends: Millis,
}

impl Shown {
    /// Whether our clock was set back since it was made.
    fn is_of_later(&self, now: Millis) -> bool {
        now < self.made_at.saturating_sub(millis(SET_BACK))
    }
}

impl Keeper {
    /// For a controller in this namespace that is also known under `names`.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        names: Vec<String>,
        limits: Limits,
    ) -> (Keeper, watch::Receiver<Option<Arc<ServerConfig>>>) {
        let (serving, receiver) = watch::channel(None);
        let keeper = Keeper {
            secrets: Api::namespaced(client.clone(), namespace),
            bundles: Api::namespaced(client.clone(), namespace),
            services: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            names,
            limits,
            serving,
            shown: None,
            seen: None,
            told: false,
        };
        (keeper, receiver)
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let pauses = Pauses::new(Duration::from_millis(200), Duration::from_secs(10));
        let changes = watcher::watch_object(self.secrets.clone(), crd::names::CA).backoff(pauses);
        let mut changes = std::pin::pin!(changes);
        let mut known: Option<Secret> = None;
        let mut wake = None; // not before the first look has been had
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                change = changes.next() => match change {
                    Some(Ok(secret)) => known = secret,
                    Some(Err(error)) => {
                        warn!(error = &error as &dyn std::error::Error, "the authority cannot be watched");
                        continue;
                    }
                    None => return,
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            let wait = match self.settle(&mut known).await {
                Ok(wait) => {
                    if std::mem::take(&mut self.told) {
                        info!("the authority is kept up again");
                    }
                    wait
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.told, true) {
                        warn!(
                            error = format!("{error:#}"),
                            "the authority cannot be kept up"
                        );
                    }
                    RETRY
                }
            };
            wake = Some(Instant::now() + wait);
        }
    }

    /// Takes what steps are due and shows a certificate of whoever signs then. Says how long there is
    /// nothing to do.
    async fn settle(&mut self, known: &mut Option<Secret>) -> anyhow::Result<Duration> {
        let steps = self.take_steps(known).await;
        // A certificate has to be renewed also while no step can be taken.
        let Some(secret) = known else {
            return steps.map(|()| RETRY);
        };
        let all = self.seen(objects::read(secret)?);
        self.show(&all).await?;
        steps?;
        let due = all.next_step(&self.limits).into_iter();
        let due = due
            .chain(self.shown.iter().map(|shown| shown.renew_at))
            .min();
        let left = due.map(|due| Duration::from_millis(due.saturating_sub(now())));
        Ok(left.unwrap_or(LOOK).clamp(Duration::from_millis(100), LOOK))
    }

    /// These as we know them, by our clock: how long we have known what waits is counted by the monotonic
    /// one, so that no clock that is fast, or is set, cuts a wait short.
    fn seen(&mut self, all: Authorities) -> Authorities {
        let known = self
            .seen
            .filter(|(generation, _)| *generation == all.generation);
        let (_, since) = *self
            .seen
            .insert(known.unwrap_or((all.generation, Instant::now())));
        let since = now().saturating_sub(millis(since.elapsed()));
        all.known_since(since, &self.limits)
    }

    async fn take_steps(&mut self, known: &mut Option<Secret>) -> anyhow::Result<()> {
        loop {
            let Some(secret) = known else {
                *known = Some(self.create().await?);
                continue;
            };
            let all = self.seen(objects::read(secret)?);
            let step = all.step(now(), &self.limits);
            // Before an authority counts as published, and before anything is signed.
            if let Published::Later(map) = objects::publish(&self.bundles, &all).await? {
                let newest = self.secrets.get_opt(crd::names::CA).await?;
                let is_newest = newest.as_ref().is_some_and(|newest| {
                    newest.metadata.resource_version == secret.metadata.resource_version
                });
                if !is_newest {
                    *known = newest;
                    continue;
                }
                // The Secret is the newest there is, and every change of it is in the Secret first: what
                // the ConfigMap says is of another Secret, which was deleted or put back as it once was.
                warn!(
                    "the ConfigMap has authorities that are not in the Secret; it is written again"
                );
                if !objects::overwrite(&self.bundles, Some(*map), &all).await? {
                    continue;
                }
            }
            let Some(step) = step else { return Ok(()) };
            let lasts = self.limits.authority;
            let next = all.after(step, now(), &self.limits, || issue::authority(now(), lasts))?;
            let replaced = objects::replace(&self.secrets, secret, &next).await?;
            match replaced {
                Some(secret) => {
                    info!(generation = next.generation, "{}", words(step));
                    *known = Some(secret);
                }
                // Another controller was faster, and has done it, most likely.
                None => *known = self.secrets.get_opt(crd::names::CA).await?,
            }
        }
    }

    /// The first authority; that of another controller, where one was faster.
    async fn create(&self) -> anyhow::Result<Secret> {
        let first = Authorities::first(issue::authority(now(), self.limits.authority)?);
        if let Some(created) = objects::create(&self.secrets, &first).await? {
            info!(namespace = self.namespace, "made an authority for TLS");
            return Ok(created);
        }
        Ok(self.secrets.get(crd::names::CA).await?)
    }

    /// Shows a certificate of the authority that signs, until two thirds of its time are over.
    async fn show(&mut self, all: &Authorities) -> anyhow::Result<()> {
        let made_at = now();
        let is_of_later = |shown: &&Shown| shown.is_of_later(made_at);
        let of_later = self.shown.as_ref().filter(is_of_later);
        let is_good = |shown: &Shown| {
            shown.generation == all.generation && made_at < shown.renew_at && of_later.is_none()
        };
        if self.shown.as_ref().is_some_and(is_good) {
            return Ok(());
        }
        // Which of the two clocks is right is not known: until the next one, this holds by both.
        let until = of_later.map_or(0, |shown| shown.ends.saturating_sub(made_at));
        let holds = self.limits.certificate.max(Duration::from_millis(until));
        let names = self.serving_names().await;
        let lasts = self.limits.certificate;
        let (config, ends) = issue::serving(&all.current, &names, made_at, holds)?;
        let left = ends.saturating_sub(made_at).min(millis(lasts));
        info!(names = names.join(", "), "a new certificate for TLS");
        self.serving.send_replace(Some(config));
        self.shown = Some(Shown {
            generation: all.generation,
            names,
            made_at,
            renew_at: made_at + left / 3 * 2,
            ends,
        });
        Ok(())
    }

    async fn serving_names(&self) -> Vec<String> {
        let service = crd::names::CONTROLLER_SERVICE;
        let mut names = vec![service.to_owned()];
        for domain in ["", ".svc", ".svc.cluster.local"] {
            names.push(format!("{service}.{}{domain}", self.namespace));
        }
        names.extend(self.names.iter().cloned());
        match self.services.get_opt(service).await {
            Ok(service) => {
                let spec = service.and_then(|service| service.spec);
                let addresses = spec.and_then(|spec| spec.cluster_ips).into_iter().flatten();
                names.extend(addresses.filter(|address| address.parse::<IpAddr>().is_ok()));
            }
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the Service's addresses are not known"
                );
                // Those of before are better than none.
                let before = self.shown.iter().flat_map(|shown| &shown.names);
                names.extend(before.cloned());
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }
}

fn words(step: Step) -> &'static str {
    match step {
        Step::Make => "made the next authority for TLS",
        Step::Publish => "the next authority for TLS is published",
        Step::Use => "the next authority for TLS signs from now on",
        Step::Forget => "the old authority for TLS is in the bundle no more",
    }
}
