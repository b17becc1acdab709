//! The files: made whole, locked, read, appended to, written anew.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use nix::fcntl::{FallocateFlags, fallocate};

use super::Now;
use super::error::LogError;
use super::record::{Boot, Fault, Format, Record, VERSION};
use super::state::State;

const DIRECTORY: &str = "leases";
const LOG: &str = "log";
const LOCK: &str = "lock";
/// A log being written anew; one that is left there is of a process that died.
const NEXT: &str = "log.new";
/// The end of a log that a power failure tore, and what follows it.
const TORN: &str = "log.torn";

/// So many octets of room on the disk are there behind the end of the log, or no lease begins; then
/// the leases of some hundred containers can end on a disk that is full.
const ROOM: u64 = 32 * 1024;

/// A reader sees a log that is cut off and appended to between two of its reads at most so often.
const READS: usize = 5;

pub(super) fn log_path(data_dir: &Path) -> PathBuf {
    data_dir.join(DIRECTORY).join(LOG)
}

/// The log, and the lock on it.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    log: File,
    /// Where the last whole line ends.
    end: u64,
    torn: Option<PathBuf>,
    /// Dropped, and so freed, last.
    _lock: File,
}

/// Waits until what was written survives a power failure.
#[derive(Debug)]
#[must_use = "nobody may be told of a lease before it survives a power failure"]
pub struct Durable {
    path: PathBuf,
    syncing: Syncing,
}

#[derive(Debug)]
enum Syncing {
    Behind(JoinHandle<io::Result<()>>),
    /// There was no thread to be had.
    Done(io::Result<()>),
}

impl Durable {
    /// Waits. Processes that wait at the same time wait for the same write of the disk.
    ///
    /// # Errors
    ///
    /// [`LogError::Io`] when the disk does not take it. Then the attachment has to be undone.
    pub fn wait(self) -> Result<(), LogError> {
        let result = match self.syncing {
            Syncing::Behind(thread) => thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread that syncs it panicked"))),
            Syncing::Done(result) => result,
        };
        result.map_err(failed("sync", &self.path))
    }
}

/// What a log comes to.
struct Parsed {
    state: State,
    /// Where the last whole line ends.
    end: u64,
    /// What is behind that was torn by a power failure, not just not written to its end.
    torn: bool,
}

/// Whether the log can be written to, where there is one.
pub(super) fn check_writable(data_dir: &Path) -> Result<(), LogError> {
    let path = log_path(data_dir);
    match File::options().write(true).open(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(failed("open for writing", &path)(error))
        }
        _ => Ok(()),
    }
}

/// The leases without a lock; none when there is no directory.
pub(super) fn read(data_dir: &Path, now: &Now) -> Result<State, LogError> {
    let path = log_path(data_dir);
    let mut attempt = 1;
    loop {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return match path.with_file_name(LOCK).exists() {
                    true => Err(LogError::Missing { path }),
                    false => Ok(State::default()),
                };
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        match parse(&path, &bytes, now) {
            Err(LogError::Damaged { .. }) if attempt < READS => attempt += 1,
            parsed => return parsed.map(|parsed| parsed.state),
        }
    }
}

impl Store {
    /// Waits for the lock and reads the log; makes both when there is no directory.
    pub(super) fn open(data_dir: &Path, now: &Now) -> Result<(Store, State), LogError> {
        let directory = data_dir.join(DIRECTORY);
        let lock = loop {
            if let Some(lock) = lock(&directory)? {
                break lock;
            }
            make(data_dir, &directory, now)?;
        };
        let path = directory.join(LOG);
        let mut log = match File::options().read(true).write(true).open(&path) {
            Ok(log) => log,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(LogError::Missing { path });
            }
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes).map_err(failed("read", &path))?;
        let Parsed { state, end, torn } = parse(&path, &bytes, now)?;
        let mut store = Store {
            directory,
            log,
            end,
            torn: None,
            _lock: lock,
        };
        if torn {
            store.set_aside(&bytes)?;
        }
        if end < bytes.len() as u64 {
            // Of a process that died while it wrote, or of a power failure; nobody was told of it.
            store.cut()?;
        }
        Ok((store, state))
    }

    /// Where the torn end of the log went.
    pub(super) fn torn(&self) -> Option<&Path> {
        self.torn.as_deref()
    }

    /// Makes sure that there is room on the disk for this lease and for the end of many.
    pub(super) fn reserve(&self) -> Result<(), LogError> {
        let metadata = self.log.metadata().map_err(failed("read", &self.path()))?;
        // Blocks of 512 octets, whatever the file system's are (stat(2)).
        let room = (metadata.blocks() * 512).saturating_sub(metadata.len());
        if room >= ROOM {
            return Ok(());
        }
        let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (offset, length) = (metadata.len().cast_signed(), (2 * ROOM).cast_signed());
        match fallocate(&self.log, flags, offset, length) {
            // Some file systems have no room to take in advance.
            Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP) => Ok(()),
            Err(error) => Err(failed("reserve room for", &self.path())(error.into())),
        }
    }

    /// Writes lines behind the last, all or none. They outlive this process; see
    /// [`Store::make_durable`].
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<(), LogError> {
        if let Err(error) = self.log.write_all_at(lines, self.end) {
            // Should this fail, too, the next process cuts it off.
            let _ = self.cut();
            return Err(failed("append to", &self.path())(error));
        }
        self.end += lines.len() as u64;
        Ok(())
    }

    /// Frees the lock and sees to it, behind the caller's back, that all that was written so far
    /// survives a power failure.
    pub(super) fn make_durable(self) -> Durable {
        let path = self.path();
        let log = self.log;
        let again = log.try_clone();
        let thread = thread::Builder::new().stack_size(64 * 1024);
        let syncing = match thread.spawn(move || log.sync_data()) {
            Ok(thread) => Syncing::Behind(thread),
            Err(_) => Syncing::Done(again.and_then(|log| log.sync_data())),
        };
        Durable { path, syncing }
    }

    /// Puts a log of these lines into the place of this one, durably.
    pub(super) fn replace(&mut self, lines: &[u8]) -> Result<(), LogError> {
        let (path, next) = (self.path(), self.directory.join(NEXT));
        let write = || -> io::Result<File> {
            let log = write_durably(&next, lines)?;
            fs::rename(&next, &path)?;
            File::open(&self.directory)?.sync_all()?;
            Ok(log)
        };
        match write() {
            Ok(log) => {
                self.log = log;
                self.end = lines.len() as u64;
                Ok(())
            }
            // What it would only have made shorter stays as it is.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded
                ) =>
            {
                let _ = fs::remove_file(&next);
                Ok(())
            }
            Err(error) => Err(failed("write anew", &path)(error)),
        }
    }

    fn set_aside(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        let path = self.directory.join(TORN);
        let start = usize::try_from(self.end).unwrap_or(bytes.len());
        write_durably(&path, &bytes[start..]).map_err(failed("write", &path))?;
        self.torn = Some(path);
        Ok(())
    }

    fn cut(&mut self) -> Result<(), LogError> {
        let cut = self.log.set_len(self.end);
        cut.map_err(failed("cut off the unfinished end of", &self.path()))
    }

    fn path(&self) -> PathBuf {
        self.directory.join(LOG)
    }
}

/// The lock, once it is ours and still the one in its place; `None` when there is no directory.
fn lock(directory: &Path) -> Result<Option<File>, LogError> {
    let path = directory.join(LOCK);
    loop {
        let lock = match File::options().read(true).write(true).open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return match is_empty(directory) {
                    true => Ok(None),
                    false => Err(LogError::Foreign {
                        path: directory.to_owned(),
                        what: "a directory with other files and without a lock".to_owned(),
                    }),
                };
            }
            Err(error) => return Err(failed("open", &path)(error)),
        };
        while let Err(error) = lock.lock() {
            if error.kind() != ErrorKind::Interrupted {
                return Err(failed("lock", &path)(error));
            }
        }
        let ours = lock.metadata().map_err(failed("read", &path))?;
        let there = fs::metadata(&path).map(|there| (there.dev(), there.ino()));
        if there.is_ok_and(|there| there == (ours.dev(), ours.ino())) {
            return Ok(Some(lock));
        }
    }
}

/// There is none, or one that somebody has made in advance.
fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

/// Makes the directory with everything in it, in one step.
fn make(data_dir: &Path, directory: &Path, now: &Now) -> Result<(), LogError> {
    let next = data_dir.join(format!("{DIRECTORY}.new-{}", std::process::id()));
    let build = || -> io::Result<()> {
        // Whatever the runtime's umask is, nobody else may write here.
        let mut directories = fs::DirBuilder::new();
        directories.recursive(true).mode(0o755).create(data_dir)?;
        match fs::remove_dir_all(&next) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(&next)?;
        let mut lines = Vec::new();
        Record::Format(Format::ours()).write(&mut lines);
        let (id, at) = (now.boot.clone(), now.wall);
        Record::Boot(Boot { id, at }).write(&mut lines);
        write_durably(&next.join(LOG), &lines)?;
        write_durably(&next.join(LOCK), b"")?;
        File::open(&next)?.sync_all()?;
        fs::rename(&next, directory)?;
        File::open(data_dir)?.sync_all()
    };
    let built = build();
    if built.is_ok() {
        return Ok(());
    }
    let _ = fs::remove_dir_all(&next);
    match directory.join(LOCK).exists() {
        // Somebody else was quicker.
        true => Ok(()),
        false => built.map_err(failed("make", directory)),
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    let mut file = options.mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

/// Reads all whole lines.
fn parse(path: &Path, bytes: &[u8], now: &Now) -> Result<Parsed, LogError> {
    let mut state = State::default();
    let mut end = 0;
    let mut torn = false;
    if bytes.is_empty() {
        first_line(path, bytes)?;
    }
    for (index, line) in lines(bytes).enumerate() {
        let Some(whole) = line.strip_suffix(b"\n").filter(|_| index > 0) else {
            if index == 0 {
                first_line(path, line)?;
                end += line.len();
                state.apply(Record::Format(Format::ours()));
                continue;
            }
            // Of a process that writes it just now, or died.
            break;
        };
        let damaged = |what: String| LogError::Damaged {
            path: path.to_owned(),
            line: index + 1,
            what,
        };
        match Record::read(whole) {
            Ok(Record::Format(_)) => return Err(damaged("a second beginning".to_owned())),
            Ok(record) => state.apply(record),
            // Within a boot nothing tears a line. Before this boot a power failure may have, and all
            // that was not on the disk then was nobody's. The first process after it cuts that off: where
            // this boot has begun further on, the line was whole then.
            Err(Fault::Damaged)
                if state.boot().is_some_and(|boot| boot != now.boot)
                    && !begins(&bytes[end..], now) =>
            {
                torn = true;
                break;
            }
            Err(Fault::Damaged) => return Err(damaged("its checksum is wrong".to_owned())),
            Err(Fault::Unknown(what)) => {
                return Err(damaged(format!("{what}; did a newer build write it?")));
            }
        }
        end += line.len();
    }
    Ok(Parsed {
        state,
        end: end as u64,
        torn,
    })
}

/// Each with its end, if it has one.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut begin = 0;
    let ends = memchr::memchr_iter(b'\n', bytes).map(|place| place + 1);
    let unfinished = (bytes.last() != Some(&b'\n')).then_some(bytes.len());
    let lines = ends.chain(unfinished).map(move |end| {
        let line = &bytes[begin..end];
        begin = end;
        line
    });
    lines.filter(|line| !line.is_empty())
}

/// Whether this boot begins in one of these lines.
fn begins(bytes: &[u8], now: &Now) -> bool {
    let lines = bytes.split(|byte| *byte == b'\n');
    let mut records = lines.filter_map(|line| Record::read(line).ok());
    records.any(|record| matches!(record, Record::Boot(boot) if boot.id == now.boot))
}

/// The first line says what the file is.
fn first_line(path: &Path, line: &[u8]) -> Result<(), LogError> {
    let foreign = |what: &str| LogError::Foreign {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let whole = line.strip_suffix(b"\n");
    let record = whole.map(Record::read);
    match record {
        Some(Ok(Record::Format(format))) if format.name != Format::NAME => {
            Err(foreign(&format!("it says that it is {:?}", format.name)))
        }
        Some(Ok(Record::Format(format))) if format.version == VERSION => Ok(()),
        Some(Ok(Record::Format(format))) => Err(LogError::Version {
            path: path.to_owned(),
            version: format.version,
        }),
        _ if line.is_empty() => Err(foreign("it is empty")),
        _ => Err(foreign("its first line is not that of one")),
    }
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |error| LogError::Io {
        attempt,
        path,
        error,
    }
}
