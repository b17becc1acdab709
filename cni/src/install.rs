//! `routeshare-cni install --to DIR`: puts this program into the directory where runtimes look for plugins.
//!
//! Runtimes start plugins at any moment, also the one that is being replaced: the new one is written
//! beside it and takes its name at once; who runs the old one goes on with that.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// What the arguments behind `install` ask for.
pub(crate) fn directory(mut arguments: impl Iterator<Item = String>) -> Result<PathBuf, String> {
    let usage = "write `routeshare-cni install --to DIR`, such as /opt/cni/bin";
    let first = arguments.next().unwrap_or_default();
    let directory = match first.split_once('=') {
        Some(("--to", directory)) => Some(directory.to_owned()),
        None if first == "--to" => arguments.next(),
        None if first.is_empty() => None,
        _ => return Err(format!("unknown argument {first:?}: {usage}")),
    };
    if let Some(more) = arguments.next() {
        return Err(format!("unknown argument {more:?}: {usage}"));
    }
    match directory {
        Some(directory) if !directory.is_empty() => Ok(directory.into()),
        _ => Err(format!("it is not said where to install to: {usage}")),
    }
}

/// Installs the running program. Returns what was done, for a person.
pub(crate) fn install(directory: &Path) -> Result<String, String> {
    let path = directory.join(cni::PLUGIN);
    match copy(directory, &path) {
        Ok(true) => Ok(format!("{} installed", path.display())),
        Ok(false) => Ok(format!("{} is this program already", path.display())),
        Err(error) => Err(format!(
            "cannot install {}: {error}; the directory has to be one of the host that can be written (in \
             Kubernetes a hostPath), and on a file system from which programs can be started",
            path.display()
        )),
    }
}

/// False when it is there already.
fn copy(directory: &Path, path: &Path) -> io::Result<bool> {
    fs::create_dir_all(directory)?;
    // One at a time: an upgrade may start the next one while the last one still writes.
    let locked = Flock::lock(File::open(directory)?, FlockArg::LockExclusive)
        .map_err(|(_, errno)| io::Error::from(errno))?;
    let mut program = Vec::new();
    File::open("/proc/self/exe")?.read_to_end(&mut program)?;
    if fs::read(path).is_ok_and(|there| there == program) && is_executable(path)? {
        return Ok(false);
    }
    let next = directory.join(format!(".{}.new", cni::PLUGIN));
    let _ = fs::remove_file(&next); // of one that was killed; its mode may be another
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(&next)?;
    file.write_all(&program)?;
    // The mask of the process must not keep others from starting it.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    file.sync_all()?;
    drop(file);
    fs::rename(&next, path)?;
    locked.sync_all()?;
    Ok(true)
}

fn is_executable(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::metadata(path)?.permissions().mode() & 0o111 == 0o111)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &[&str]) -> Result<PathBuf, String> {
        directory(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn the_directory_is_a_word_of_its_own_or_behind_an_equals_sign() {
        assert_eq!(
            said(&["--to", "/opt/cni/bin"]).unwrap(),
            Path::new("/opt/cni/bin")
        );
        assert_eq!(
            said(&["--to=/opt/cni/bin"]).unwrap(),
            Path::new("/opt/cni/bin")
        );
    }

    #[test]
    fn what_else_is_said_is_refused_by_its_name() {
        for (words, told) in [
            (&[][..], "not said where"),
            (&["--to"], "not said where"),
            (&["--to="], "not said where"),
            (&["/opt/cni/bin"], "unknown argument \"/opt/cni/bin\""),
            (&["--into", "/opt/cni/bin"], "unknown argument \"--into\""),
            (&["--to", "/opt", "/bin"], "unknown argument \"/bin\""),
        ] {
            let error = said(words).unwrap_err();
            assert!(error.contains(told), "{words:?}: {error}");
            assert!(error.contains("install --to DIR"), "{error}");
        }
    }
}
