//! Keys of peers, out of Secrets of the controller's namespace.
//!
//! Only Secrets of type `routeshare.io/key` are read, and the API server is asked for no others: who may
//! write a Peer must not be able to have any Secret there is (such as the authority's) sent to a node. One
//! watch for all of them costs the API server one request and hears of changes at once; a request a
//! Secret would be one for each of five thousand speakers after a fail-over, or a copy of all keys just the
//! same. A key is kept in a page that is in no core dump ([`Locked`]).
//!
//! The buffers in which an answer of the API server arrives are not ours to wipe. So a controller that
//! reads Secrets leaves no core dump at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use keys::{Locked, MOST, Sealer};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_objects};
use kube::{Api, Client};
use nix::sys::prctl;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zeroize::Zeroize as _;

use crate::pauses::Pauses;

/// What a Secret has to be to be read.
pub(crate) const TYPE: &str = "routeshare.io/key";

/// A Secret's name, and the key of its data.
pub(crate) type Name = (String, String);

/// What stands under a name.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Key(Arc<Key>),
    /// Why there is none.
    Missing(String),
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            // A key that was read again and is the same is kept as the one it was.
            (Value::Key(one), Value::Key(other)) => Arc::ptr_eq(one, other),
            (Value::Missing(one), Value::Missing(other)) => one == other,
            _ => false,
        }
    }
}

/// A key.
#[derive(Debug)]
pub(crate) struct Key {
    page: Locked,
    length: usize,
}

impl Key {
    fn new(octets: &[u8]) -> std::io::Result<Key> {
        let mut page = Locked::new()?;
        page.bytes_mut()[..octets.len()].copy_from_slice(octets);
        Ok(Key {
            page,
            length: octets.len(),
        })
    }

    fn octets(&self) -> &[u8] {
        &self.page.bytes()[..self.length]
    }

    /// See [`Sealer::seal`].
    pub(crate) fn seal(&self, sealer: &Sealer, number: u32, name: &[u8]) -> Vec<u8> {
        sealer.seal(number, name, self.octets())
    }
}

type Content = BTreeMap<String, Value>;

/// All keys there are.
pub(crate) struct Secrets {
    namespace: String,
    /// By Secret; `None` while nobody has been asked.
    all: Mutex<Option<BTreeMap<String, Content>>>,
    changes: watch::Sender<u64>,
}

impl Secrets {
    /// Of this namespace; nothing is known yet.
    pub(crate) fn new(namespace: &str) -> Secrets {
        Secrets {
            namespace: namespace.to_owned(),
            all: Mutex::default(),
            changes: watch::Sender::default(),
        }
    }

    /// Hears of every change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What stands under these names; `None` while that is not known.
    pub(crate) fn look(&self, names: &BTreeSet<Name>) -> Option<Vec<(Name, Value)>> {
        let all = self.lock();
        let all = all.as_ref()?;
        let look = |name: &Name| {
            let (secret, key) = name;
            let Some(content) = all.get(secret) else {
                return Value::Missing(format!(
                    "there is no Secret {secret} of type {TYPE} in namespace {}",
                    self.namespace
                ));
            };
            let value = content.get(key).cloned();
            value.unwrap_or_else(|| Value::Missing(format!("Secret {secret} has no key {key}")))
        };
        Some(
            names
                .iter()
                .map(|name| (name.clone(), look(name)))
                .collect(),
        )
    }

    /// Follows the Secrets until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, client: Client, shutdown: CancellationToken) {
        if let Err(error) = prctl::set_dumpable(false) {
            warn!(%error, "a core dump of this controller would hold keys of peers");
        }
        let secrets: Api<Secret> = Api::namespaced(client, &self.namespace);
        let config = watcher::Config::default().fields(&format!("type={TYPE}"));
        let pauses = Pauses::new(Duration::from_millis(200), Duration::from_secs(10));
        let events = watch_objects(secrets, config).backoff(pauses);
        let mut events = std::pin::pin!(events);
        // What is being listed, while it is.
        let mut listed: Option<BTreeMap<String, Content>> = None;
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(Event::Init)) => listed = Some(BTreeMap::new()),
                Some(Ok(Event::InitApply(secret))) => {
                    let (name, content) = self.read(secret);
                    listed.get_or_insert_default().insert(name, content);
                }
                Some(Ok(Event::InitDone)) => {
                    let listed = listed.take().unwrap_or_default();
                    info!(secrets = listed.len(), "Secrets with keys of peers");
                    *self.lock() = Some(listed);
                    self.changed();
                }
                Some(Ok(Event::Apply(secret))) => {
                    let (name, content) = self.read(secret);
                    info!(secret = name, "keys of peers changed");
                    self.lock().get_or_insert_default().insert(name, content);
                    self.changed();
                }
                Some(Ok(Event::Delete(secret))) => {
                    let (name, _) = self.read(secret);
                    info!(secret = name, "a Secret with keys of peers is gone");
                    self.lock().get_or_insert_default().remove(&name);
                    self.changed();
                }
                // What was known stays in force.
                Some(Err(error)) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "Secrets cannot be watched"
                    );
                }
                None => return,
            }
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Takes the keys out of a Secret and wipes what it held.
    fn read(&self, mut secret: Secret) -> (String, Content) {
        let name = secret.metadata.name.take().unwrap_or_default();
        let before = self.lock().as_ref().and_then(|all| all.get(&name).cloned());
        let data = secret.data.take().unwrap_or_default();
        let content = data.into_iter().map(|(key, mut octets)| {
            let value = match before.as_ref().and_then(|before| before.get(&key)) {
                Some(Value::Key(known)) if known.octets() == octets.0 => {
                    Value::Key(Arc::clone(known))
                }
                _ => value(&name, &key, &octets.0),
            };
            octets.0.zeroize();
            (key, value)
        });
        let content = content.collect();
        (name, content)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<BTreeMap<String, Content>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn value(secret: &str, key: &str, octets: &[u8]) -> Value {
    // One newline at the end is not the key's.
    let length = octets.len() - usize::from(octets.ends_with(b"\n"));
    match length {
        0 => Value::Missing(format!("{key} in Secret {secret} is empty")),
        1..=MOST => Key::new(&octets[..length]).map_or_else(
            |error| Value::Missing(format!("no memory for {key} in Secret {secret}: {error}")),
            |key| Value::Key(Arc::new(key)),
        ),
        _ => Value::Missing(format!(
            "{key} in Secret {secret} has {length} octets, and no key has more than {MOST}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn secret(name: &str, data: &[(&str, &[u8])]) -> Secret {
        let data = data.iter();
        let data = data.map(|(key, octets)| ((*key).to_owned(), ByteString(octets.to_vec())));
        Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(data.collect()),
            ..Secret::default()
        }
    }

    fn look(secrets: &Secrets, key: &str) -> Value {
        let name = ("bgp-keys".to_owned(), key.to_owned());
        let mut found = secrets.look(&BTreeSet::from([name])).unwrap();
        found.remove(0).1
    }

    #[test]
    fn what_is_no_key_says_why_and_a_key_that_is_the_same_is_kept() {
        let secrets = Secrets::new("routeshare");
        assert!(
            secrets.look(&BTreeSet::new()).is_none(),
            "nothing is known yet"
        );
        let long = [b'x'; 81];
        let data: [(&str, &[u8]); 4] = [
            ("tor", b"correct horse\n"),
            ("most", &long[..80]),
            ("long", &long),
            ("empty", b"\n"),
        ];
        let read = || secrets.read(secret("bgp-keys", &data));
        *secrets.lock() = Some(BTreeMap::from([read()]));
        let Value::Key(key) = look(&secrets, "tor") else {
            panic!("no key");
        };
        assert_eq!(key.octets(), b"correct horse");
        assert!(matches!(look(&secrets, "most"), Value::Key(_)));
        for (key, words) in [
            ("long", "has 81 octets"),
            ("empty", "is empty"),
            ("other", "Secret bgp-keys has no key other"),
        ] {
            let Value::Missing(problem) = look(&secrets, key) else {
                panic!("{key} is a key");
            };
            assert!(problem.contains(words), "{problem}");
        }
        // Written without the newline it is the same.
        let same: [(&str, &[u8]); 1] = [("tor", b"correct horse")];
        let again = secrets.read(secret("bgp-keys", &same));
        assert_eq!(again.1["tor"], Value::Key(key));
        let other: [(&str, &[u8]); 1] = [("tor", b"battery")];
        let other = secrets.read(secret("bgp-keys", &other));
        assert_ne!(other.1["tor"], again.1["tor"]);
        let text = format!("{other:?}");
        assert!(
            !text.contains("battery") && !text.contains("98, 97, 116"),
            "{text}"
        );
    }
}
