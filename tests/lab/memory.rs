//! What a process has in its memory.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use anyhow::Context as _;

/// Where in a process's memory texts were found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// In stretches that a core dump would have: the text, and where the stretch begins.
    pub dumped: Vec<(String, u64)>,
    /// In others: the texts.
    pub kept: Vec<String>,
    /// How many octets could be read.
    pub looked: usize,
}

/// Looks for texts in all memory of a process that can be read.
///
/// # Errors
///
/// When there is no such process.
pub fn find(process: u32, texts: &[&str]) -> anyhow::Result<Found> {
    let file = File::open(format!("/proc/{process}/mem")).context("cannot look into it")?;
    let mut found = Found::default();
    for stretch in stretches(process)? {
        let length = usize::try_from(stretch.end - stretch.start)?;
        let mut bytes = vec![0; length];
        // Some cannot be read by anybody, such as guard pages and `[vvar]`.
        if file.read_exact_at(&mut bytes, stretch.start).is_err() {
            continue;
        }
        found.looked += length;
        for text in texts {
            match has(&bytes, text.as_bytes()) {
                true if stretch.is_dumped => {
                    found.dumped.push(((*text).to_owned(), stretch.start));
                }
                true => found.kept.push((*text).to_owned()),
                false => {}
            }
        }
    }
    Ok(found)
}

/// Whether some octets are among others; quick enough for all memory of a process.
pub fn has(all: &[u8], some: &[u8]) -> bool {
    // SAFETY: both pointers go with the length of what they point to.
    let found = unsafe {
        libc::memmem(
            all.as_ptr().cast(),
            all.len(),
            some.as_ptr().cast(),
            some.len(),
        )
    };
    !found.is_null()
}

/// A stretch of a process's memory, as `/proc/PID/smaps` has it.
struct Stretch {
    start: u64,
    end: u64,
    is_dumped: bool,
}

fn stretches(process: u32) -> anyhow::Result<Vec<Stretch>> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps"))?;
    let mut stretches: Vec<Stretch> = Vec::new();
    for line in text.lines() {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let range = first.split_once('-').and_then(|(start, end)| {
            let hex = |text| u64::from_str_radix(text, 16).ok();
            Some((hex(start)?, hex(end)?))
        });
        if let Some((start, end)) = range {
            let is_dumped = rest.starts_with('r');
            stretches.push(Stretch {
                start,
                end,
                is_dumped,
            });
        } else if first == "VmFlags:"
            && rest.split_whitespace().any(|flag| flag == "dd")
            && let Some(last) = stretches.last_mut()
        {
            last.is_dumped = false;
        }
    }
    Ok(stretches)
}
