//! The service-account token that says which node we are.
//!
//! kubelet replaces its file long before it ends. Nothing here checks it: whoever it is for does.

use std::path::{Path, PathBuf};
use std::{fs, io};

use tonic::metadata::{Ascii, MetadataValue};

/// More than a token has.
const LARGEST: u64 = 64 * 1024;

/// Why there is no token to show.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("cannot read the token in {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} holds no token; kubelet writes one there (a projected volume of a pod)")]
    NoToken { path: PathBuf },
}

/// A token as request metadata `authorization` shows it.
#[derive(Clone)]
pub(super) struct Bearer(MetadataValue<Ascii>);

impl Bearer {
    /// Reads the token of a file as it is now.
    ///
    /// # Errors
    ///
    /// [`TokenError`].
    pub(super) fn read(path: &Path) -> Result<Bearer, TokenError> {
        let failed = |source| TokenError::Read {
            path: path.to_path_buf(),
            source,
        };
        let none = || TokenError::NoToken {
            path: path.to_path_buf(),
        };
        if fs::metadata(path).map_err(failed)?.len() > LARGEST {
            return Err(none());
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|octet| octet.is_ascii_graphic()) {
            return Err(none());
        }
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {text}").parse().map_err(|_| none())?;
        value.set_sensitive(true);
        Ok(Bearer(value))
    }

    /// Shows it with a request.
    pub(super) fn show<T>(&self, request: &mut tonic::Request<T>) {
        let metadata = request.metadata_mut();
        metadata.insert("authorization", self.0.clone());
    }

    /// Whether the file holds another one now. One that cannot be read is none.
    pub(super) fn is_replaced(&self, path: &Path) -> bool {
        Bearer::read(path).is_ok_and(|now| now.0 != self.0)
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_words_of_its_file_and_is_never_printed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let error = Bearer::read(&path).unwrap_err().to_string();
        assert!(error.contains("cannot read the token in"), "{error}");
        for wrong in ["", "\n", "two words", "a\nb", "gar\u{e4}ge"] {
            fs::write(&path, wrong).unwrap();
            let error = Bearer::read(&path).unwrap_err();
            assert!(matches!(error, TokenError::NoToken { .. }), "{wrong}");
            assert!(wrong.trim().is_empty() || !error.to_string().contains(wrong));
        }
        fs::write(&path, "a.b.c\n").unwrap();
        let bearer = Bearer::read(&path).unwrap();
        assert!(!bearer.is_replaced(&path));
        let mut request = tonic::Request::new(());
        bearer.show(&mut request);
        assert_eq!(
            request.metadata().get("authorization").unwrap(),
            "Bearer a.b.c"
        );
        assert!(!format!("{bearer:?} {request:?}").contains("a.b.c"));
        fs::remove_file(&path).unwrap();
        assert!(!bearer.is_replaced(&path));
        fs::write(&path, "d.e.f").unwrap();
        assert!(bearer.is_replaced(&path));
    }
}
