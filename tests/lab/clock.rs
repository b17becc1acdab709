//! A wall clock that is set while a program runs.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::packages::FAKETIME;

/// The wall clock of the programs that have [its environment](FalseClock::environment), as somebody
/// who sets the machine's clock changes it. Their monotonic clock goes on as ever: setting the time
/// does not touch it.
#[derive(Debug)]
pub struct FalseClock {
    file: PathBuf,
    library: PathBuf,
}

impl FalseClock {
    /// One that is right so far. Its file is in `directory`.
    ///
    /// # Errors
    ///
    /// When libfaketime is missing or the file cannot be written.
    pub fn new(directory: &Path) -> anyhow::Result<FalseClock> {
        let clock = FalseClock {
            file: directory.join("clock"),
            library: library().with_context(|| {
                let package = FAKETIME.package;
                format!("libfaketime is missing; install with: sudo apt-get install {package}")
            })?,
        };
        clock.set("+0")?;
        Ok(clock)
    }

    /// Sets it to a distance from the right time, such as `+40d`, `-1h` or `+0`.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn set(&self, distance: &str) -> anyhow::Result<()> {
        // Never half of it: programs read it whenever they ask for the time.
        let new = self.file.with_extension("new");
        std::fs::write(&new, distance)?;
        std::fs::rename(&new, &self.file)
            .with_context(|| format!("cannot write {}", self.file.display()))
    }

    /// What a program needs to have this clock.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

/// Debian keeps it in a directory of its machine's architecture.
fn library() -> Option<PathBuf> {
    let directories = std::fs::read_dir("/usr/lib").ok()?.flatten();
    directories
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|file| file.is_file())
}
