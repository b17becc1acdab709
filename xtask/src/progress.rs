//! Telling what is done, and how long it took: a spinner on a terminal, plain lines elsewhere.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const SOON: Style = AnsiColor::Yellow.on_default();
const TITLE: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// Seconds between two lines about what takes long, where there is no terminal.
const NOW_AND_THEN: u64 = 20;

/// Whether standard output takes colours: a terminal, and NO_COLOR is not set.
pub(crate) fn in_color() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !unwanted
}

fn paint(style: Style, text: &str) -> String {
    match in_color() {
        true => format!("{style}{text}{style:#}"),
        false => text.to_owned(),
    }
}

/// As it should be.
pub(crate) fn good(text: &str) -> String {
    paint(GOOD, text)
}

/// Not as it should be.
pub(crate) fn bad(text: &str) -> String {
    paint(BAD, text)
}

/// On its way.
pub(crate) fn soon(text: &str) -> String {
    paint(SOON, text)
}

/// A title.
pub(crate) fn title(text: &str) -> String {
    paint(TITLE, text)
}

/// What is there for completeness.
pub(crate) fn dim(text: &str) -> String {
    paint(DIM, text)
}

/// A step that is being done.
pub(crate) struct Step {
    what: String,
    start: Instant,
    bar: Option<ProgressBar>,
    /// When [`now`](Step::now) last printed a line: seconds since the start.
    told: AtomicU64,
}

impl Step {
    /// What is going on at the moment. Where there is no terminal it is told now and then, so that
    /// whoever reads sees that something goes on.
    pub(crate) fn now(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}  {}", self.what, dim(text)));
            return;
        }
        let now = self.start.elapsed().as_secs();
        let told = self.told.load(Ordering::Relaxed);
        if now >= told + NOW_AND_THEN {
            self.told.store(now, Ordering::Relaxed);
            println!("  {text}");
        }
    }

    /// Something that stays to be read.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("  {text}")),
            None => println!("  {text}"),
        }
    }
}

/// Does one step and tells how it went: `work` gives what there is to say about its result.
///
/// # Errors
///
/// Those of `work`.
pub(crate) fn step(
    what: &str,
    work: impl FnOnce(&Step) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let bar = terminal.then(|| {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {msg} {elapsed:.dim}") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    });
    let step = Step {
        what: what.to_owned(),
        start: Instant::now(),
        bar,
        told: AtomicU64::new(0),
    };
    let result = work(&step);
    if let Some(bar) = &step.bar {
        bar.finish_and_clear();
    }
    let took = dim(&format!("{:.1} s", step.start.elapsed().as_secs_f64()));
    match result {
        Ok(said) if said.is_empty() => println!("{} {what}  {took}", good("✔")),
        Ok(said) => println!("{} {what}: {said}  {took}", good("✔")),
        Err(error) => {
            println!("{} {what}  {took}", bad("✘"));
            return Err(error);
        }
    }
    Ok(())
}
