//! Tests of time on machines that others use too: one that failed beside others is run once more,
//! alone. What passes then is told as flaky, by name, and kept an eye on; what fails again has failed.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::cargo::cargo;
use crate::progress::{bad, soon};

/// With more than these failing, it is not the machine.
const MOST: usize = 3;

/// Runs `cargo test` with these arguments; `harness` is for the test programs themselves.
///
/// # Errors
///
/// When tests fail twice, too many of them fail at once, or they cannot be run.
pub(crate) fn test(arguments: &[&str], harness: &[&str]) -> anyhow::Result<()> {
    let command = |harness: &[&str]| {
        let mut command = cargo(arguments);
        command.arg("--").args(harness);
        command
    };
    let what = format!("cargo {}", arguments.join(" "));
    let (passed, failed) = run(&mut command(harness), &what)?;
    if passed {
        return Ok(());
    }
    if failed.is_empty() || failed.len() > MOST {
        bail!("{what} failed");
    }
    println!("\n  once more, alone: {}", failed.join(", "));
    let mut alone = vec!["--test-threads", "1", "--exact"];
    alone.extend(failed.iter().map(String::as_str));
    let (passed, failed_again) = run(&mut command(&alone), &what)?;
    if !passed {
        let names = match failed_again.is_empty() {
            true => failed.join(", "),
            false => failed_again.join(", "),
        };
        println!("{} failed twice: {names}", bad("✘"));
        bail!("{what} failed");
    }
    println!(
        "{} flaky: {} failed beside other tests and passed alone",
        soon("!"),
        failed.join(", ")
    );
    Ok(())
}

/// Whether all went well, and the names of the tests that failed.
fn run(command: &mut Command, what: &str) -> anyhow::Result<(bool, Vec<String>)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    let stdout = child.stdout.take().context("no output")?;
    let mut failed = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.with_context(|| format!("cannot read what {what} says"))?;
        println!("{line}");
        failed.extend(name_of_failed(&line));
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {what}"))?;
    Ok((status.success(), failed))
}

/// `test keys::a_key_changes ... FAILED`
fn name_of_failed(line: &str) -> Option<String> {
    let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::name_of_failed;

    #[test]
    fn the_harness_says_which_failed() {
        let failed = |line| name_of_failed(line);
        assert_eq!(failed("test a::b ... FAILED").as_deref(), Some("a::b"));
        assert_eq!(failed("test a::b ... ok"), None);
        assert_eq!(failed("test result: FAILED. 1 passed; 1 failed"), None);
    }
}
