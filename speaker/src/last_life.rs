//! Whether this start is a restart: a note in the state directory says when this node's speaker was
//! last alive, and what its peers expect of it since.
//!
//! The note counts only within one boot of the machine, by the time since that boot: kernel routes do
//! not outlive a boot, and the wall clock may have been set in between. It is renewed every few seconds
//! and needs no fsync: whatever takes the page cache takes the kernel's routes too.
//!
//! It is text, one word and its values a line: `boot ID`, `alive MILLISECONDS`, `within SECONDS`,
//! `routes FAMILY` for each family, `peer NAME` for each peer, `end`. A build that does not know a word
//! reads on: after an upgrade, or back from one, a restart is a restart.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bgp::types::Family;

const NAME: &str = "alive";
const HEADER: &str = "routeshare-alive 1";

/// What is noted of a life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Life {
    /// For how long peers were asked to keep our routes, the longest of them: the restart time, and
    /// the long-lived stale time behind it.
    pub(crate) within: Duration,
    /// Families in which there were learned routes in use.
    pub(crate) routes: Vec<Family>,
    /// Peers with an Established session that agreed on graceful restart.
    pub(crate) peers: Vec<String>,
}

/// A moment: which boot, and how long after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    boot: String,
    since_boot: Duration,
}

impl Moment {
    /// Now; `None` when the kernel does not tell, and then every start is a first one.
    pub(crate) fn now() -> Option<Moment> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let seconds: f64 = uptime.split(' ').next()?.parse().ok()?;
        Some(Moment {
            boot: boot.trim().to_owned(),
            since_boot: Duration::try_from_secs_f64(seconds).ok()?,
        })
    }
}

/// The place of the note.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    path: PathBuf,
}

impl Note {
    /// In the speaker's state directory.
    pub(crate) fn new(state_dir: &Path) -> Note {
        Note {
            path: state_dir.join(NAME),
        }
    }

    /// The last life, and how long ago it ended at most, when that was in time for its peers.
    pub(crate) fn read(&self, now: Option<&Moment>) -> Option<(Life, Duration)> {
        let text = fs::read_to_string(&self.path).ok()?;
        let (life, then) = parse(&text)?;
        let now = now.filter(|now| now.boot == then.boot)?;
        let ago = now.since_boot.checked_sub(then.since_boot)?;
        (ago <= life.within).then_some((life, ago))
    }

    /// Replaces the note.
    pub(crate) fn write(&self, life: &Life, now: &Moment) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let next = self.path.with_extension("new");
        fs::write(&next, print(life, now))?;
        fs::rename(next, &self.path)
    }

    /// There is nothing to come back to.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn print(life: &Life, now: &Moment) -> String {
    let mut lines = vec![
        HEADER.to_owned(),
        format!("boot {}", now.boot),
        format!("alive {}", now.since_boot.as_millis()),
        format!("within {}", life.within.as_secs()),
    ];
    lines.extend(life.routes.iter().map(|family| format!("routes {family}")));
    lines.extend(life.peers.iter().map(|peer| format!("peer {peer}")));
    lines.push("end\n".to_owned());
    lines.join("\n")
}

/// `None` for anything that we have not written whole.
fn parse(text: &str) -> Option<(Life, Moment)> {
    let mut lines = text.strip_suffix("\nend\n")?.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let mut life = Life::default();
    let (mut boot, mut alive, mut within) = (None, None, None);
    for line in lines {
        match line.split_once(' ')? {
            ("boot", id) => boot = Some(id.to_owned()),
            ("alive", time) => alive = Some(Duration::from_millis(time.parse().ok()?)),
            ("within", seconds) => within = Some(Duration::from_secs(seconds.parse().ok()?)),
            ("routes", name) => {
                let known = Family::ALL.into_iter().find(|it| it.to_string() == name);
                life.routes.push(known?);
            }
            ("peer", name) => life.peers.push(name.to_owned()),
            _ => {} // a newer build's
        }
    }
    life.within = within?;
    let moment = Moment {
        boot: boot?,
        since_boot: alive?,
    };
    Some((life, moment))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(boot: &str, seconds: u64) -> Moment {
        Moment {
            boot: boot.into(),
            since_boot: Duration::from_secs(seconds),
        }
    }

    fn life() -> Life {
        Life {
            within: Duration::from_secs(120),
            routes: vec![Family::Ipv6],
            peers: vec!["tor a".into(), "tor-b".into()],
        }
    }

    #[test]
    fn a_start_soon_after_the_last_life_is_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let note = Note::new(&directory.path().join("state"));
        assert_eq!(note.read(Some(&moment("a", 1000))), None, "a first start");
        note.write(&life(), &moment("a", 1000)).unwrap();
        let ago = |seconds| Some((life(), Duration::from_secs(seconds)));
        assert_eq!(note.read(Some(&moment("a", 1000))), ago(0));
        assert_eq!(note.read(Some(&moment("a", 1120))), ago(120));
        assert_eq!(note.read(Some(&moment("a", 1121))), None, "too late");
        assert_eq!(note.read(Some(&moment("a", 999))), None, "before it");
        assert_eq!(note.read(Some(&moment("b", 1010))), None, "another boot");
        assert_eq!(note.read(None), None, "nobody knows");
        note.remove().unwrap();
        note.remove().unwrap();
        assert_eq!(note.read(Some(&moment("a", 1000))), None, "it left");
    }

    #[test]
    fn a_note_that_is_damaged_anywhere_is_none() {
        let whole = print(&life(), &moment("a", 7));
        assert_eq!(parse(&whole), Some((life(), moment("a", 7))));
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "{length}");
        }
        assert_eq!(parse(&whole.replace("alive 1", "alive 2")), None);
        assert_eq!(parse(&whole.replace("within", "without")), None);
    }

    /// What the first build with graceful restart wrote, and what a newer one might.
    #[test]
    fn notes_of_other_builds_are_read() {
        let first = "routeshare-alive 1\nboot a\nalive 7000\nwithin 120\nroutes IPv6\n\
                     peer tor a\npeer tor-b\nend\n";
        assert_eq!(parse(first), Some((life(), moment("a", 7))));
        let newer = first.replace("routes IPv6\n", "routes IPv6\nmood good\n");
        assert_eq!(parse(&newer), Some((life(), moment("a", 7))));
    }

    #[test]
    fn the_kernel_tells_the_time() {
        let first = Moment::now().unwrap();
        let second = Moment::now().unwrap();
        assert_eq!(first.boot, second.boot);
        assert!(first.since_boot <= second.since_boot);
    }
}
