//! What outlives this process, so that the next one goes on with its sessions: which were wanted, and
//! how each of them was. Two files beside the socket, both of this boot only:
//!
//! - `bfd.wanted`: what the subscriber said last, written when it says something else;
//! - `bfd.memory`: a [`Record`] a session, mapped into memory. The hot thread writes there what
//!   changed, with every packet: that takes no system call, and what is written stays whatever
//!   happens to the process, be it SIGKILL. Of each record there are two, written in turns, so that
//!   one is always whole.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bfd::memory::{LENGTH, Memory};
use prost::Message as _;
use proto::bfd::v1 as pb;

/// Changes with the form of a record.
const MAGIC: [u8; 8] = *b"rsbfd\0\0\x01";
/// Before the records: the magic and which boot this is.
const HEAD: usize = 64;
/// A generation, a port, a [`Memory`], and a sum over these.
const RECORD: usize = 8 + 8 + LENGTH + 8;
/// Two records of one session.
const PAIR: usize = 2 * RECORD;
/// Sessions that can be remembered.
const MOST: usize = 16_384;

/// The clock of [`Instant`], as other processes of this boot see it.
#[derive(Clone, Copy, Debug)]
struct Clock {
    now: Instant,
    nanos: u64,
}

impl Clock {
    fn new() -> io::Result<Clock> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the structure is whole and outlives the call.
        if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
        Ok(Clock {
            now: Instant::now(),
            nanos: seconds * 1_000_000_000 + nanos,
        })
    }

    fn nanos(&self, at: Instant) -> u64 {
        let later = at.saturating_duration_since(self.now).as_nanos() as u64;
        let earlier = self.now.saturating_duration_since(at).as_nanos() as u64;
        (self.nanos + later).saturating_sub(earlier)
    }

    fn at(&self, nanos: u64) -> Option<Instant> {
        match nanos.checked_sub(self.nanos) {
            Some(later) => self.now.checked_add(Duration::from_nanos(later)),
            None => self
                .now
                .checked_sub(Duration::from_nanos(self.nanos - nanos)),
        }
    }
}

/// A session as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) memory: Memory,
    /// The source port of its packets. RFC 5881 §4: it stays the same.
    pub(crate) port: u16,
}

/// Where the files are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    wanted: PathBuf,
    memory: PathBuf,
}

/// What the last process of this boot left.
#[derive(Debug, Default)]
pub(crate) struct LastLife {
    /// What its subscriber wanted, unless nothing was.
    pub(crate) wanted: Option<pb::DesiredSessions>,
    pub(crate) records: Vec<Record>,
}

impl LastLife {
    /// For how long nothing has been sent.
    pub(crate) fn silence(&self) -> Duration {
        let last = self.records.iter().map(|it| it.memory.last_sent()).max();
        last.map_or(Duration::ZERO, |last| last.elapsed())
    }
}

impl Place {
    /// Beside the socket.
    pub(crate) fn beside(socket: &Path) -> Place {
        Place {
            wanted: socket.with_extension("wanted"),
            memory: socket.with_extension("memory"),
        }
    }

    /// What was left; nothing when it cannot be read, which is told.
    pub(crate) fn read(&self) -> LastLife {
        let wanted = read(&self.wanted).and_then(|octets| {
            let octets = octets.strip_prefix(head()?.as_slice())?;
            pb::DesiredSessions::decode(octets).ok()
        });
        let records = read(&self.memory).and_then(|octets| {
            let records = octets.strip_prefix(head()?.as_slice())?;
            let clock = Clock::new().ok()?;
            let pairs = records.chunks_exact(PAIR);
            Some(pairs.filter_map(|pair| newest(pair, clock)).collect())
        });
        LastLife {
            wanted: wanted.filter(|it| !it.sessions.is_empty()),
            records: records.unwrap_or_default(),
        }
    }

    /// Writes down what is wanted.
    ///
    /// # Errors
    ///
    /// When it cannot be written; the next process begins without sessions then.
    pub(crate) fn write_wanted(&self, wanted: &pb::DesiredSessions) -> io::Result<()> {
        let new = self.wanted.with_extension("wanted-new");
        let mut file = create(&new)?;
        file.write_all(&head().ok_or_else(no_boot)?)?;
        file.write_all(&wanted.encode_to_vec())?;
        fs::rename(&new, &self.wanted)
    }

    /// Nothing is left to the next process.
    pub(crate) fn forget(&self) {
        for path in [&self.wanted, &self.memory] {
            match fs::remove_file(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "cannot remove a file");
                }
            }
        }
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(octets) => Some(octets),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, path = %path.display(), "cannot read what the last process left");
            }
            None
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    let _ = fs::remove_file(path); // of a crashed start
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// The first octets of both files; those of another boot or another build's form differ.
fn head() -> Option<[u8; HEAD]> {
    let boot = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&MAGIC);
    let boot = boot.get(..36)?;
    head[8..8 + boot.len()].copy_from_slice(boot);
    Some(head)
}

fn no_boot() -> io::Error {
    io::Error::other("/proc/sys/kernel/random/boot_id says nothing")
}

/// Of two records the one written last, if any is whole.
fn newest(pair: &[u8], clock: Clock) -> Option<Record> {
    let whole = |record: &[u8]| {
        let record: &[u8; RECORD] = record.try_into().ok()?;
        let generation = u64::from_be_bytes(*record.first_chunk()?);
        let right = sum(&record[..RECORD - 8]).to_be_bytes() == record[RECORD - 8..];
        (right && generation > 0).then_some((generation, *record))
    };
    let records = pair.chunks_exact(RECORD).filter_map(whole);
    let (_, record) = records.max_by_key(|(generation, _)| *generation)?;
    let memory = record[16..].first_chunk::<LENGTH>()?;
    Some(Record {
        memory: Memory::decode(memory, |nanos| clock.at(nanos))?,
        port: u16::from_be_bytes([record[8], record[9]]),
    })
}

/// Tells a record that was written half: FNV-1a over words.
fn sum(octets: &[u8]) -> u64 {
    let words = octets.chunks_exact(8).filter_map(|it| it.first_chunk());
    words.fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        (sum ^ u64::from_be_bytes(*word)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Where the hot thread writes its sessions down.
#[derive(Debug)]
pub(crate) struct Store {
    clock: Clock,
    /// `MOST` pairs after the head, mapped; pages below `room` pairs are there for certain.
    map: *mut u8,
    file: File,
    /// Its name until it takes the place of the last process's, and its name then.
    unpublished: Option<(PathBuf, PathBuf)>,
    room: usize,
    generation: u64,
}

// SAFETY: the mapping belongs to this value alone and goes where it goes.
unsafe impl Send for Store {}

const SIZE: usize = HEAD + MOST * PAIR;

impl Store {
    /// An empty one, which is not yet what the next process would read: see [`Self::publish`].
    ///
    /// # Errors
    ///
    /// When the file cannot be made or mapped.
    pub(crate) fn create(place: &Place) -> io::Result<Store> {
        let head = head().ok_or_else(no_boot)?;
        let new = place.memory.with_extension("memory-new");
        let mut file = create(&new)?;
        file.write_all(&head)?;
        file.set_len(SIZE as u64)?;
        // SAFETY: a new mapping of a file as large as the mapping, at an address the kernel chooses.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Store {
            clock: Clock::new()?,
            map: map.cast(),
            file,
            unpublished: Some((new, place.memory.clone())),
            room: 0,
            generation: 0,
        })
    }

    /// Takes the place of what the last process left, once all that is still wanted of it is written
    /// here too. To be called with every configuration.
    pub(crate) fn publish(&mut self) {
        if let Some((new, name)) = self.unpublished.take()
            && let Err(error) = fs::rename(&new, &name)
        {
            tracing::warn!(%error, path = %name.display(), "sessions are not remembered");
        }
    }

    /// Makes room for sessions numbered below `sessions`, so that writing one can never fail for want
    /// of memory. To be called when sessions are opened, not with packets.
    pub(crate) fn reserve(&mut self, sessions: usize) {
        let sessions = sessions.min(MOST).next_power_of_two().max(64);
        if sessions <= self.room {
            return;
        }
        let length = (HEAD + sessions * PAIR) as libc::off_t;
        // SAFETY: takes no pointers.
        match unsafe { libc::posix_fallocate(self.file.as_raw_fd(), 0, length) } {
            0 => self.room = sessions,
            code => {
                let error = io::Error::from_raw_os_error(code);
                tracing::warn!(%error, "no room to remember sessions: another process would begin them anew");
            }
        }
    }

    /// Writes a session down, or with `None` that there is none of this number. One for which there
    /// is no room is not remembered. Allocates nothing and waits for nothing.
    pub(crate) fn write(&mut self, session: usize, record: Option<Record>) {
        if session >= self.room {
            return;
        }
        self.generation += 1;
        let mut octets = [0; RECORD];
        if let Some(record) = record {
            octets[..8].copy_from_slice(&self.generation.to_be_bytes());
            octets[8..10].copy_from_slice(&record.port.to_be_bytes());
            let memory = record.memory.encode(|at| self.clock.nanos(at));
            octets[16..16 + LENGTH].copy_from_slice(&memory);
            let sum = sum(&octets[..RECORD - 8]);
            octets[RECORD - 8..].copy_from_slice(&sum.to_be_bytes());
            self.put(session, self.generation as usize % 2, &octets);
        } else {
            self.put(session, 0, &octets);
            self.put(session, 1, &octets);
        }
    }

    fn put(&mut self, session: usize, turn: usize, octets: &[u8; RECORD]) {
        let at = HEAD + session * PAIR + turn * RECORD;
        // SAFETY: `session` is below `room`, so the record lies within the mapping, whose pages are
        // there; nobody else writes to it.
        unsafe {
            std::ptr::copy_nonoverlapping(octets.as_ptr(), self.map.add(at), RECORD);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: mapped by `create` with this size, and used by nobody any more.
        unsafe {
            libc::munmap(self.map.cast(), SIZE);
        }
    }
}

#[cfg(test)]
mod tests {
    use bfd::{Engine, Hops, Output, SessionConfig, SessionKey};

    use super::*;

    fn config(last: u8) -> SessionConfig {
        SessionConfig {
            key_of: SessionKey {
                remote: [192, 0, 2, last].into(),
                local: None,
                hops: Hops::Single,
            },
            min_tx: Duration::from_millis(300),
            min_rx: Duration::from_millis(300),
            detect_mult: 3,
            admin_down: false,
            key: None,
            echo_tx: None,
            echo_rx: None,
        }
    }

    /// Three sessions in a store; the last is taken away again.
    fn written(store: &mut Store) -> Vec<Record> {
        let mut engine = Engine::new(1, true);
        engine.configure(Instant::now(), (1..=3).map(config).collect());
        store.reserve(3);
        let mut records = Vec::new();
        while let Some(output) = engine.poll_output() {
            if let Output::Remember { session } = output {
                let memory = engine.memory(session).unwrap();
                let port = 50_000 + session.0 as u16;
                let record = Record { memory, port };
                store.write(session.0 as usize, Some(record));
                records.push((session.0, record));
            }
        }
        store.write(2, None);
        records.sort_by_key(|(session, _)| *session);
        records.truncate(2);
        records.into_iter().map(|(_, record)| record).collect()
    }

    fn place() -> (tempfile::TempDir, Place) {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::beside(&directory.path().join("bfd.sock"));
        (directory, place)
    }

    #[test]
    fn the_next_process_reads_what_this_one_wrote_to_the_microsecond() {
        let (_directory, place) = place();
        let mut store = Store::create(&place).unwrap();
        store.publish();
        let records = written(&mut store);
        // Not dropped: as if this process were killed.
        let found = place.read();
        assert_eq!(found.wanted, None);
        assert_eq!(found.records.len(), 2);
        let base = Instant::now() - Duration::from_secs(60);
        let micros = |record: &Record| record.memory.encode(|at| (at - base).as_micros() as u64);
        for (is, was) in found.records.iter().zip(&records) {
            assert_eq!(is.port, was.port);
            assert_eq!(is.memory.key, was.memory.key);
            let differ = micros(is).into_iter().zip(micros(was));
            let differ = differ.filter(|(a, b)| a != b).count();
            assert!(differ <= 8, "only times, by a rounding");
        }
    }

    #[test]
    fn a_record_written_half_leaves_the_one_before() {
        let (_directory, place) = place();
        let mut store = Store::create(&place).unwrap();
        store.publish();
        let records = written(&mut store);
        let older = records[0];
        let newer = Record {
            port: 60_000,
            ..older
        };
        store.write(0, Some(older));
        store.write(0, Some(newer));
        assert_eq!(place.read().records[0].port, newer.port);
        // The newer one, killed in the middle of it.
        let turn = store.generation as usize % 2;
        let mut half = [0; RECORD];
        half[..8].copy_from_slice(&store.generation.to_be_bytes());
        store.put(0, turn, &half);
        assert_eq!(place.read().records[0].port, older.port);
    }

    #[test]
    fn what_another_boot_or_another_form_left_is_nothing() {
        let (_directory, place) = place();
        let mut store = Store::create(&place).unwrap();
        store.publish();
        written(&mut store);
        let session = pb::SessionConfig {
            remote: "192.0.2.1".into(),
            ..pb::SessionConfig::default()
        };
        let wanted = pb::DesiredSessions {
            sessions: vec![session],
        };
        place.write_wanted(&wanted).unwrap();
        assert_eq!(place.read().wanted, Some(wanted));
        for octet in [7, 10] {
            for path in [&place.memory, &place.wanted] {
                let mut octets = fs::read(path).unwrap();
                octets[octet] ^= 1;
                fs::write(path, octets).unwrap();
            }
            let found = place.read();
            assert_eq!((found.wanted, found.records), (None, Vec::new()));
        }
        place.forget();
        place.forget();
        assert_eq!(place.read().records, Vec::new());
    }

    #[test]
    fn more_sessions_than_there_is_room_for_are_not_remembered_and_harm_nothing() {
        let (_directory, place) = place();
        let mut store = Store::create(&place).unwrap();
        store.publish();
        let record = written(&mut store)[0];
        store.reserve(usize::MAX / 2);
        store.write(MOST - 1, Some(record));
        store.write(MOST, Some(record));
        assert_eq!(place.read().records.len(), 3);
    }
}
