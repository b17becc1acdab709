//! The last NodeConfig in force, as a file: written whole or not at all, and never believed blindly.
//!
//! The file is a header of three words in ASCII (`routeshare-node-config`, the format's version, the
//! checksum of the rest in hex), a newline, and the encoded message.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use prost::Message as _;
use proto::controller::v1::NodeConfig;

const NAME: &str = "node-config";
const MAGIC: &str = "routeshare-node-config";
const FORMAT: &str = "1";

/// Why the copy cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is damaged ({reason}); it is ignored and replaced by the next configuration")]
    Damaged { path: PathBuf, reason: &'static str },
    #[error(
        "cannot write {path}: {source}; after a restart without controller this node starts with an \
         older configuration or none"
    )]
    Write { path: PathBuf, source: io::Error },
}

/// The place of the copy.
pub(super) struct Copy {
    path: PathBuf,
}

impl Copy {
    /// In the speaker's state directory, which is made when it is needed.
    pub(super) fn new(state_dir: &Path) -> Copy {
        Copy {
            path: state_dir.join(NAME),
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The copy; `None` when there is none yet.
    pub(super) fn load(&self) -> Result<Option<NodeConfig>, DiskError> {
        let path = &self.path;
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(DiskError::Read {
                    path: path.clone(),
                    source,
                });
            }
        };
        let damaged = |reason| DiskError::Damaged {
            path: path.clone(),
            reason,
        };
        let end = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(|| damaged("no header"))?;
        let (header, message) = (&bytes[..end], &bytes[end + 1..]);
        let header = std::str::from_utf8(header).map_err(|_| damaged("no header"))?;
        let words: Vec<&str> = header.split(' ').collect();
        match words[..] {
            [MAGIC, FORMAT, sum] if sum == checksum(message) => {}
            [MAGIC, FORMAT, _] => return Err(damaged("its checksum is wrong")),
            [MAGIC, ..] => return Err(damaged("another version wrote it")),
            _ => return Err(damaged("no header")),
        }
        NodeConfig::decode(message)
            .map(Some)
            .map_err(|_| damaged("not a NodeConfig"))
    }

    /// Replaces the copy. When this returns, the new one survives a power failure; until then the
    /// old one does.
    pub(super) fn save(&self, config: &NodeConfig) -> Result<(), DiskError> {
        let write = || -> io::Result<()> {
            let directory = self.path.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(directory)?;
            let message = config.encode_to_vec();
            let next = self.path.with_extension("new");
            let mut file = File::create(&next)?;
            writeln!(file, "{MAGIC} {FORMAT} {}", checksum(&message))?;
            file.write_all(&message)?;
            file.sync_all()?;
            fs::rename(&next, &self.path)?;
            File::open(directory)?.sync_all()
        };
        write().map_err(|source| DiskError::Write {
            path: self.path.clone(),
            source,
        })
    }
}

/// FNV-1a of 64 bits, in hex: against torn and rotten files, not against people.
fn checksum(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> (tempfile::TempDir, Copy, NodeConfig) {
        let directory = tempfile::tempdir().unwrap();
        let copy = Copy::new(&directory.path().join("state"));
        let config = NodeConfig {
            node: "a".into(),
            version: 7,
            asn: 64512,
            ..NodeConfig::default()
        };
        copy.save(&config).unwrap();
        (directory, copy, config)
    }

    #[test]
    fn what_was_saved_last_is_loaded() {
        let (_directory, copy, config) = kept();
        assert_eq!(copy.load().unwrap(), Some(config.clone()));
        let newer = NodeConfig {
            version: 8,
            ..config
        };
        copy.save(&newer).unwrap();
        assert_eq!(copy.load().unwrap(), Some(newer));
    }

    #[test]
    fn no_copy_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Copy::new(directory.path()).load().unwrap(), None);
    }

    #[test]
    fn a_copy_cut_off_anywhere_is_damaged() {
        let (_directory, copy, _) = kept();
        let whole = fs::read(copy.path()).unwrap();
        for length in 0..whole.len() {
            fs::write(copy.path(), &whole[..length]).unwrap();
            let error = copy.load().unwrap_err().to_string();
            assert!(error.contains("damaged"), "{length}: {error}");
        }
    }

    #[test]
    fn a_copy_with_any_bit_flipped_is_damaged() {
        let (_directory, copy, _) = kept();
        let whole = fs::read(copy.path()).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(copy.path(), bytes).unwrap();
            assert!(copy.load().is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Copy::new(&file)
            .save(&NodeConfig::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("file/node-config"), "{error}");
    }
}
