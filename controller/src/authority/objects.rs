//! The authorities in their Secret, and what others trust in its ConfigMap.

use std::collections::BTreeMap;

use anyhow::Context as _;
use crd::names::{CA, CA_CERTIFICATE, FIELD_MANAGER, MANAGED_BY_LABEL};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Error};

use super::issue;
use super::state::{Authorities, Authority};

const KEY: &str = "ca.key";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const OLD_CERTIFICATES: &str = "old.crt";

/// On both: counts up with every change.
const GENERATION: &str = "routeshare.io/generation";
/// On the Secret, in milliseconds since the Unix epoch.
const PUBLISHED: &str = "routeshare.io/next-published";
const OLD_UNTIL: &str = "routeshare.io/old-until";
/// On the Secret: whoever sets it asks for another authority.
pub(super) const ROTATE: &str = "routeshare.io/rotate";

/// What a Secret holds.
pub(super) fn read(secret: &Secret) -> anyhow::Result<Authorities> {
    let text = |key: &str| {
        let value = secret.data.as_ref().and_then(|data| data.get(key));
        value
            .map(|value| String::from_utf8(value.0.clone()))
            .transpose()
            .with_context(|| format!("{key} in Secret {CA} is no text"))
    };
    let authority = |certificate: &str, key: &str| -> anyhow::Result<Option<Authority>> {
        let (Some(certificate), Some(key)) = (text(certificate)?, text(key)?) else {
            return Ok(None);
        };
        let not_after = issue::end_of(&certificate, &key)?;
        Ok(Some(Authority {
            certificate,
            key,
            not_after,
        }))
    };
    let damaged = || {
        format!(
            "Secret {CA} holds no authority of ours ({CA_CERTIFICATE}, {KEY}); delete it, and another one is \
             made: speakers trust it when their ConfigMap {CA} has it"
        )
    };
    let current = authority(CA_CERTIFICATE, KEY).with_context(damaged)?;
    let annotation = |key: &str| secret.metadata.annotations.as_ref()?.get(key);
    let number = |key: &str| annotation(key).and_then(|text| text.parse().ok());
    Ok(Authorities {
        generation: number(GENERATION).unwrap_or(1),
        current: current.with_context(damaged)?,
        // One that cannot be read is made anew; what signs is not touched by it.
        next: authority(NEXT_CERTIFICATE, NEXT_KEY).unwrap_or_default(),
        published: number(PUBLISHED),
        old: text(OLD_CERTIFICATES)?.unwrap_or_default(),
        old_until: number(OLD_UNTIL).unwrap_or(0),
        asked: annotation(ROTATE).is_some(),
    })
}

/// Puts them into a Secret; what others have added to it stays.
fn write(secret: &mut Secret, all: &Authorities) {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let mut data = BTreeMap::from([
        (CA_CERTIFICATE.to_owned(), bytes(&all.current.certificate)),
        (KEY.to_owned(), bytes(&all.current.key)),
    ]);
    if let Some(next) = &all.next {
        data.insert(NEXT_CERTIFICATE.to_owned(), bytes(&next.certificate));
        data.insert(NEXT_KEY.to_owned(), bytes(&next.key));
    }
    if !all.old.is_empty() {
        data.insert(OLD_CERTIFICATES.to_owned(), bytes(&all.old));
    }
    secret.data = Some(data);
    let annotations = secret.metadata.annotations.get_or_insert_default();
    let mut set = |key: &str, value: Option<String>| match value {
        Some(value) => drop(annotations.insert(key.to_owned(), value)),
        None => drop(annotations.remove(key)),
    };
    set(GENERATION, Some(all.generation.to_string()));
    set(PUBLISHED, all.published.map(|at| at.to_string()));
    let old_until = (!all.old.is_empty()).then(|| all.old_until.to_string());
    set(OLD_UNTIL, old_until);
    set(ROTATE, all.asked.then(String::new));
}

fn named() -> ObjectMeta {
    let label = (MANAGED_BY_LABEL.to_owned(), FIELD_MANAGER.to_owned());
    ObjectMeta {
        name: Some(CA.to_owned()),
        labels: Some(BTreeMap::from([label])),
        ..ObjectMeta::default()
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// `None` when the API server says that there is another version already.
fn unless_conflict<T>(outcome: Result<T, Error>) -> Result<Option<T>, Error> {
    match outcome {
        Ok(made) => Ok(Some(made)),
        Err(Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the Secret; `None` when there is one.
pub(super) async fn create(
    secrets: &Api<Secret>,
    first: &Authorities,
) -> anyhow::Result<Option<Secret>> {
    let mut secret = Secret {
        metadata: named(),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    write(&mut secret, first);
    let created = secrets.create(&params(), &secret).await;
    unless_conflict(created).with_context(|| format!("cannot create Secret {CA}"))
}

/// Replaces what is in the Secret; `None` when it has changed since it was read.
pub(super) async fn replace(
    secrets: &Api<Secret>,
    read: &Secret,
    next: &Authorities,
) -> anyhow::Result<Option<Secret>> {
    let mut secret = read.clone();
    write(&mut secret, next);
    let replaced = secrets.replace(CA, &params(), &secret).await;
    unless_conflict(replaced).with_context(|| format!("cannot write Secret {CA}"))
}

/// Whether the ConfigMap says what it should.
#[derive(Debug)]
pub(super) enum Published {
    Yes,
    /// It is of a later change than what we know of the Secret. So we are late, or the Secret is not the
    /// one that this ConfigMap was made from; then it has to be written all the same.
    Later(Box<ConfigMap>),
}

/// Brings the ConfigMap up to what these say; one of a later change is left as it is.
pub(super) async fn publish(
    bundles: &Api<ConfigMap>,
    all: &Authorities,
) -> anyhow::Result<Published> {
    let bundle = all.bundle();
    loop {
        let there = bundles
            .get_opt(CA)
            .await
            .with_context(|| format!("cannot read ConfigMap {CA}"))?;
        if let Some(map) = &there {
            if map.data.as_ref().and_then(|data| data.get(CA_CERTIFICATE)) == Some(&bundle) {
                return Ok(Published::Yes);
            }
            if generation_of(map).is_some_and(|it| it > all.generation) {
                return Ok(Published::Later(Box::new(map.clone())));
            }
        }
        if overwrite(bundles, there, all).await? {
            return Ok(Published::Yes);
        }
    }
}

/// Writes the bundle over this version of the ConfigMap; `false` when there is another one.
pub(super) async fn overwrite(
    bundles: &Api<ConfigMap>,
    there: Option<ConfigMap>,
    all: &Authorities,
) -> anyhow::Result<bool> {
    let is_there = there.is_some();
    let mut map = there.unwrap_or_else(|| ConfigMap {
        metadata: named(),
        ..ConfigMap::default()
    });
    let data = map.data.get_or_insert_default();
    data.insert(CA_CERTIFICATE.to_owned(), all.bundle());
    let annotations = map.metadata.annotations.get_or_insert_default();
    annotations.insert(GENERATION.to_owned(), all.generation.to_string());
    let written = match is_there {
        true => bundles.replace(CA, &params(), &map).await,
        false => bundles.create(&params(), &map).await,
    };
    let written = unless_conflict(written);
    let written = written.with_context(|| format!("cannot write ConfigMap {CA}"))?;
    Ok(written.is_some())
}

fn generation_of(map: &ConfigMap) -> Option<u64> {
    let annotations = map.metadata.annotations.as_ref()?;
    annotations.get(GENERATION)?.parse().ok()
}
