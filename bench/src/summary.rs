//! The rows of a run brought together: medians of the rounds, and ratios to BIRD and to the floor.

use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;

/// Everything one run measured: the JSON file.
#[derive(Deserialize, Serialize)]
pub(crate) struct Report {
    pub(crate) date: String,
    pub(crate) machine: String,
    pub(crate) command: String,
    pub(crate) versions: Vec<String>,
    pub(crate) outcomes: Vec<Outcome>,
}

/// The medians of one daemon's rounds of one scenario.
pub(crate) struct Line {
    pub(crate) scenario: String,
    pub(crate) prefixes: usize,
    pub(crate) daemon: String,
    rounds: Vec<Outcome>,
}

impl Line {
    /// The median of what `of` finds in the rounds; `None` if it is in none.
    pub(crate) fn median(&self, of: impl Fn(&Outcome) -> Option<f64>) -> Option<f64> {
        let mut found: Vec<f64> = self.rounds.iter().filter_map(of).collect();
        found.sort_by(f64::total_cmp);
        let (low, high) = (
            *found.get(found.len().checked_sub(1)? / 2)?,
            *found.get(found.len() / 2)?,
        );
        Some(f64::midpoint(low, high))
    }

    /// Until all of it was done.
    pub(crate) fn seconds(&self) -> Option<f64> {
        self.median(Outcome::seconds)
    }

    /// Peak memory in MiB; for `idle`, what is resident at rest.
    pub(crate) fn memory(&self) -> Option<f64> {
        match self.scenario.as_str() {
            "idle" => self.median(|row| row.memory_mib),
            _ => self.median(|row| row.peak_memory_mib),
        }
    }

    /// What the scenario is about, and its unit.
    fn figure(&self) -> Option<(f64, &'static str)> {
        let (value, unit) = match self.scenario.as_str() {
            "idle" => (self.memory(), "MiB"),
            "churn" => (self.median(|row| row.cpu_us_per_update), "µs CPU"),
            "bfd" => {
                let alarms = |row: &Outcome| row.false_alarms.map(|it| it as f64);
                (self.median(alarms), "false alarms")
            }
            "query" => (self.median(|row| row.routes_per_second), "routes/s"),
            name if name.starts_with("failover") => (self.median(|row| row.outage_ms), "ms"),
            _ => (self.seconds(), "s"),
        };
        Some((value?, unit))
    }
}

impl Report {
    /// One line for each scenario, number of prefixes and daemon, in the order of measurement.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for row in &self.outcomes {
            let same = |line: &&mut Line| {
                (&line.scenario, line.prefixes, &line.daemon)
                    == (&row.scenario, row.prefixes, &row.daemon)
            };
            match lines.iter_mut().find(same) {
                Some(line) => line.rounds.push(row.clone()),
                None => lines.push(Line {
                    scenario: row.scenario.clone(),
                    prefixes: row.prefixes,
                    daemon: row.daemon.clone(),
                    rounds: vec![row.clone()],
                }),
            }
        }
        // Stable: daemons stay in order within a scenario.
        let order: Vec<(String, usize)> = lines
            .iter()
            .map(|line| (line.scenario.clone(), line.prefixes))
            .collect();
        let place = |line: &Line| {
            let wanted = (&line.scenario, line.prefixes);
            order
                .iter()
                .position(|(scenario, prefixes)| (scenario, *prefixes) == wanted)
        };
        lines.sort_by_key(place);
        lines
    }

    /// The summary as a table in Markdown.
    pub(crate) fn summary(&self) -> String {
        let lines = self.lines();
        let mut text = String::from(
            "| scenario | prefixes | daemon | figure | ÷ BIRD | receiver | kernel | kernel ÷ floor | CPU | memory | ÷ BIRD | lag p99 |\n\
             |---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for line in &lines {
            let beside = |daemon: &str| {
                lines.iter().find(|other| {
                    (&other.scenario, other.prefixes) == (&line.scenario, line.prefixes)
                        && other.daemon == daemon
                })
            };
            let (bird, floor) = (beside("bird"), beside("floor"));
            let kernel = line.median(|row| row.kernel_seconds);
            let by_bird = |of: &dyn Fn(&Line) -> Option<f64>| ratio(of(line), bird.and_then(of));
            let failed = line.rounds.iter().filter(|row| row.error.is_some()).count();
            let figure = match line.figure() {
                Some((value, unit)) => format!("{} {unit}", short(value)),
                None => format!("failed {failed}×"),
            };
            let seconds = |value: Option<f64>| value.map(|v| format!("{} s", short(v)));
            let cells = [
                Some(line.scenario.clone()),
                Some(line.prefixes.to_string()),
                Some(line.daemon.clone()),
                Some(figure),
                by_bird(&|line| line.figure().map(|(value, _)| value)),
                seconds(line.median(|row| row.receiver_seconds)),
                seconds(kernel),
                ratio(
                    kernel,
                    floor.and_then(|line| line.median(|row| row.kernel_seconds)),
                ),
                seconds(line.median(|row| row.cpu_seconds)),
                line.memory().map(|value| format!("{} MiB", short(value))),
                by_bird(&Line::memory),
                line.median(|row| row.lag_ms.map(|lag| lag[1]))
                    .map(|value| format!("{} ms", short(value))),
            ];
            let cells = cells.map(|cell| cell.unwrap_or_else(|| "–".to_owned()));
            text += &format!("| {} |\n", cells.join(" | "));
        }
        text
    }
}

fn ratio(value: Option<f64>, to: Option<f64>) -> Option<String> {
    let (value, to) = (value?, to?);
    (to > 0.0).then(|| format!("{:.2}", value / to))
}

/// Three digits or so.
pub(crate) fn short(value: f64) -> String {
    let digits = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(daemon: &str, round: usize, kernel: f64) -> Outcome {
        Outcome {
            scenario: "table".to_owned(),
            daemon: daemon.to_owned(),
            round,
            prefixes: 10,
            kernel_seconds: Some(kernel),
            ..Outcome::default()
        }
    }

    fn report() -> Report {
        Report {
            date: String::new(),
            machine: String::new(),
            command: String::new(),
            versions: Vec::new(),
            outcomes: vec![
                row("routeshare", 1, 2.0),
                row("bird", 1, 9.0),
                row("floor", 1, 1.0),
                row("routeshare", 2, 4.0),
                row("bird", 2, 6.0),
                row("floor", 2, 3.0),
                row("routeshare", 3, 2.5),
            ],
        }
    }

    #[test]
    fn medians_and_ratios_are_of_the_rounds() {
        let report = report();
        let medians: Vec<_> = report.lines().iter().map(Line::seconds).collect();
        assert_eq!(medians, [Some(2.5), Some(7.5), Some(2.0)]);
        let text = report.summary();
        assert!(
            text.contains("| table | 10 | routeshare | 2.50 s | 0.33 | – | 2.50 s | 1.25 |"),
            "{text}"
        );
    }

    #[test]
    fn a_daemon_that_failed_is_said_to_have_failed() {
        let mut report = report();
        report.outcomes = vec![Outcome {
            error: Some("no session".to_owned()),
            kernel_seconds: None,
            ..row("frr", 1, 0.0)
        }];
        assert!(report.summary().contains("| frr | failed 1× |"));
    }
}
