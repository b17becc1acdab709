//! Where a key is: in exactly one place, which can be one.

use super::Findings;
use crate::SecretKey;
use crate::parse::Document;

/// A place for a key, and what its two fields are called.
pub(super) struct Place<'a> {
    /// The path of what has the two fields.
    pub(super) at: &'a str,
    pub(super) file: (&'a str, Option<&'a str>),
    pub(super) secret: (&'a str, Option<&'a SecretKey>),
}

/// What stands in the place of a path or a name may be a key: it is not repeated.
pub(super) fn check(document: &Document, place: &Place<'_>, findings: &mut Findings<'_>) {
    let at = |field: &str| format!("{}.{field}", place.at);
    let (file, path) = place.file;
    let (secret, reference) = place.secret;
    match (path, reference) {
        (None, None) => findings.mistake(
            document,
            place.at,
            format!(
                "says not where the key is; write {file}: /etc/routeshare/tor.key, or {secret}: {{name: \
                 bgp-keys, key: tor}}"
            ),
        ),
        (Some(_), Some(_)) => findings.mistake(
            document,
            &at(secret),
            format!("stands beside {file}; a key is in one place: remove one of the two"),
        ),
        _ => {}
    }
    if path.is_some_and(|path| !path.starts_with('/') || path.contains(['\0', '\n'])) {
        findings.mistake(
            document,
            &at(file),
            "is no absolute path, and not repeated here as it may be a key; allowed: a path such as \
             `/etc/routeshare/tor.key`",
        );
    }
    let Some(reference) = reference else {
        return;
    };
    if !crate::names::is_name(&reference.name) {
        findings.mistake(
            document,
            &at(&format!("{secret}.name")),
            "is no name of a Secret, and not repeated here as it may be a key; allowed: at most 253 lower-case \
             letters, digits, `-` and `.`, beginning and ending with a letter or digit, such as `bgp-keys`",
        );
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let key = reference.key.as_str();
    let is_key = !key.is_empty()
        && key.len() <= 253
        && key != "."
        && !key.starts_with("..")
        && key.chars().all(allowed);
    if !is_key {
        findings.mistake(
            document,
            &at(&format!("{secret}.key")),
            "is no key of a Secret's data, and not repeated here as it may be a key for peers; allowed: at most \
             253 letters, digits, `-`, `_` and `.`, such as `tor`",
        );
    }
    findings.only_in_kubernetes(
        document,
        &at(secret),
        format!(
            "Secrets are read from Kubernetes, and these resources come from files; use {file}"
        ),
    );
}
