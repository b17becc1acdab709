//! The table as it is wanted → nftables.

use kernel::nft::Table;
use kernel::nft::table::{Step, plan};
use kernel::{Nft, NftError, NftMonitor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Problem;
use super::ruleset::{NAME, SOURCES};
use crate::desired::chain;

/// How often it is tried again when somebody else changes nftables at the same time.
const TRIES: usize = 20;
/// Bytes of changes made by others that may wait, as the kernel counts them.
const HEARD: usize = 4 << 20;

/// Our table, and eyes on it.
#[derive(Default)]
pub(super) struct Tables {
    nft: Option<Nft>,
    monitor: Option<AsyncFd<NftMonitor>>,
    /// Why there are none.
    closed: Option<String>,
    /// We have written it in this life.
    written: bool,
}

impl Tables {
    /// Opens the sockets, if they are not open yet. On a thread of the runtime.
    pub(super) fn open(&mut self) {
        if self.nft.is_some() && self.monitor.is_some() {
            return;
        }
        match self.try_open() {
            Ok(()) => self.closed = None,
            Err(error) => self.closed = Some(format!("{error:#}")),
        }
    }

    fn try_open(&mut self) -> anyhow::Result<()> {
        let nft = Nft::open()?;
        let monitor = NftMonitor::open(&nft, &[NAME, cni::bridges::TABLE], HEARD)?;
        // SAFETY: the monitor owns its socket, which is the same one for as long as the monitor is there.
        let monitor = unsafe { AsyncFd::register_with_interest(monitor, Interest::READABLE) };
        self.monitor = Some(monitor.map_err(std::io::Error::from)?);
        self.nft = Some(nft);
        Ok(())
    }

    /// Brings it to what is wanted, `None`: not there; and says why it is not.
    pub(super) fn put_right(&mut self, wanted: Option<&Table>) -> Option<Problem> {
        let mut problem = None;
        let outcome = match &mut self.nft {
            Some(nft) => be(nft, wanted).or_else(|error| {
                let less = wanted.filter(|_| is_about_sources(&error));
                let mut less = less.cloned().ok_or_else(|| chain(&error))?;
                less.chains.remove(SOURCES);
                problem = Some(unchecked(&error));
                be(nft, Some(&less)).map_err(|error| chain(&error))
            }),
            None => Err(self.closed.clone().unwrap_or_default()),
        };
        match outcome {
            Ok(steps) => {
                if !steps.is_empty() {
                    let again = self.written;
                    tracing::info!(
                        table = NAME,
                        steps = steps.len(),
                        again,
                        "nftables put right"
                    );
                }
                self.written = wanted.is_some();
                problem
            }
            // Nothing is wanted, and perhaps nothing is there.
            Err(_) if wanted.is_none() => None,
            Err(why) => {
                let masquerades = wanted.is_some_and(|it| it.chains.contains_key("postrouting"));
                let until = match masquerades {
                    true => "pods may reach outside the cluster with their own addresses only",
                    false => "TCP of pods may stall where a path's MTU is smaller",
                };
                let message = format!(
                    "table inet {NAME} of nftables is not as it should be: {why}; until then {until}. This needs \
                     CAP_NET_ADMIN, and a kernel with nf_tables, nft_masq and nft_ct; tried again every 10 s"
                );
                Some(("Nftables", message))
            }
        }
    }

    /// The socket, or why there is none.
    pub(super) fn nft(&mut self) -> Result<&mut Nft, &str> {
        let closed = self.closed.as_deref().unwrap_or_default();
        self.nft.as_mut().ok_or(closed)
    }

    /// Resolves when somebody else has changed one of the tables.
    pub(super) async fn changed_by_others(&mut self) {
        let Some(monitor) = &mut self.monitor else {
            return std::future::pending().await;
        };
        loop {
            let Ok(mut ready) = monitor.readable_mut().await else {
                return std::future::pending().await; // the runtime is ending
            };
            let heard = ready.get_inner_mut().read();
            ready.clear_ready();
            match heard {
                Ok(None) => {}
                // The plugin, as a rule, for a container that comes or goes.
                Ok(Some(change)) if !change.tables.contains(NAME) => return,
                Ok(Some(change)) => {
                    let (number, name) = change.process.unwrap_or_default();
                    tracing::warn!(
                        table = NAME,
                        process = name,
                        number,
                        "somebody else changed our table of nftables; putting it right"
                    );
                    return;
                }
                // Changes are lost, or the socket is no good: look for ourselves.
                Err(_) => return,
            }
        }
    }
}

/// Whether only the look at pods' addresses is refused: the rest does not depend on it.
fn is_about_sources(error: &NftError) -> bool {
    let chain = format!("`{SOURCES}`");
    matches!(error, NftError::Refused { what, .. } if what.contains(&chain))
}

fn unchecked(error: &NftError) -> Problem {
    let message = format!(
        "pods can send with each other's addresses: {}. This needs a kernel with nft_fib_inet (CONFIG_NFT_FIB_INET); \
         tried again every 10 s",
        chain(error)
    );
    ("PodSources", message)
}

/// Makes our table be this one.
fn be(nft: &mut Nft, table: Option<&Table>) -> Result<Vec<Step>, NftError> {
    bring(nft, NAME, |_| Goal::Be(table.cloned()))
}

/// What is to become of a table.
pub(super) enum Goal {
    AsItIs,
    /// `None`: not there.
    Be(Option<Table>),
}

/// Lists, plans and acts until the table of this name is what is `wanted` of the one that is there.
pub(super) fn bring(
    nft: &mut Nft,
    name: &str,
    wanted: impl Fn(Option<&Table>) -> Goal,
) -> Result<Vec<Step>, NftError> {
    for _ in 0..TRIES {
        let (there, since) = nft.list(name)?;
        let Goal::Be(wanted) = wanted(there.as_ref()) else {
            return Ok(Vec::new());
        };
        let steps = plan(wanted.as_ref(), there.as_ref());
        let is_wanted = wanted.is_some();
        let table = wanted.unwrap_or_default();
        match nft.commit(&table.batch(name, &steps), Some(since)) {
            Ok(()) => return Ok(steps),
            Err(NftError::Changed) => {}
            // What the kernel has may not be what it lists: all of it anew.
            Err(NftError::Refused { .. }) if !steps.contains(&Step::Replace) && is_wanted => {
                let steps = vec![Step::Replace];
                nft.commit(&table.batch(name, &steps), None)?;
                return Ok(steps);
            }
            Err(error) => return Err(error),
        }
    }
    Err(NftError::Changed)
}
