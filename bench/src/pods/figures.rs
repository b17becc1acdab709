//! What plugins take for ADD and DEL: all measurements, their table, and whether the goal is reached.

use serde::Serialize;

use super::estimate::Estimate;
use super::percentile::{median, percentile};

/// Ours, as the rows call it.
pub(super) const OURS: &str = "routeshare";
/// Ours is to take at most this part of what another plugin takes.
const GOAL: f64 = 0.5;

/// The families of containers' addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Families {
    Ipv4,
    Both,
}

impl Families {
    pub(super) fn name(self) -> &'static str {
        match self {
            Families::Ipv4 => "IPv4",
            Families::Both => "IPv4 and IPv6",
        }
    }

    /// Containers one after another: about as many as Kubernetes puts on a node; fewer where Debian's plugins wait
    /// seconds for duplicate address detection.
    pub(super) fn alone(self) -> usize {
        match self {
            Families::Ipv4 => 100,
            Families::Both => 20,
        }
    }

    pub(super) fn subnets(self) -> &'static [&'static str] {
        match self {
            Families::Ipv4 => &["10.64.0.0/16"],
            Families::Both => &["10.64.0.0/16", "fd00:64::/64"],
        }
    }
}

/// All measurements of one kind of work of one plugin.
#[derive(Serialize)]
pub(super) struct Row {
    plugin: &'static str,
    families: Families,
    work: String,
    /// One for each call.
    pub(super) milliseconds: Vec<f64>,
    /// CPU time of the plugin's processes and of those that they left behind, one for each call; where they were
    /// alone.
    pub(super) cpu_milliseconds: Vec<f64>,
    /// Until no process was left, one for each call; where they were alone.
    pub(super) settled_milliseconds: Vec<f64>,
    /// Until the last of those that were started together had answered, one for each turn.
    pub(super) all_milliseconds: Vec<f64>,
}

impl Row {
    /// The calls that were made in some turns: those that were started together, or one.
    fn calls(&self, turns: &[usize]) -> Vec<f64> {
        let together = match self.all_milliseconds.len() {
            0 => 1,
            turns => self.milliseconds.len() / turns,
        };
        let of = |turn: &usize| self.milliseconds.chunks(together).nth(*turn);
        turns.iter().filter_map(of).flatten().copied().collect()
    }

    fn turns(&self) -> usize {
        match self.all_milliseconds.len() {
            0 => self.milliseconds.len(),
            turns => turns,
        }
    }

    fn same_work(&self, other: &Row) -> bool {
        (self.families, &self.work) == (other.families, &other.work)
    }
}

/// In the order of measurement.
#[derive(Default)]
pub(super) struct Rows(pub(super) Vec<Row>);

impl Rows {
    pub(super) fn row(&mut self, plugin: &'static str, families: Families, work: &str) -> &mut Row {
        let same =
            |row: &Row| (row.plugin, row.families, row.work.as_str()) == (plugin, families, work);
        let at = self.0.iter().position(same).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push(Row {
                plugin,
                families,
                work: work.to_owned(),
                milliseconds: Vec::new(),
                cpu_milliseconds: Vec::new(),
                settled_milliseconds: Vec::new(),
                all_milliseconds: Vec::new(),
            });
        }
        &mut self.0[at]
    }

    /// By kind of work.
    fn in_order(&self) -> Vec<&Row> {
        let mut order: Vec<&Row> = self.0.iter().collect();
        order.sort_by_key(|row| self.0.iter().position(|other| other.same_work(row)));
        order
    }

    fn ours(&self, row: &Row) -> Option<&Row> {
        let ours = |other: &&Row| other.plugin == OURS && other.same_work(row);
        self.0.iter().find(ours)
    }

    /// In Markdown.
    pub(super) fn table(&self) -> String {
        let mut text = String::from(
            "| families | work | plugin | p50 | ÷ ours | p99 | ÷ ours | CPU | no process left, p50 | all have answered |\n\
             |---|---|---|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for row in self.in_order() {
            let ours = self.ours(row);
            let shown =
                |value: Option<f64>| value.map_or("–".to_owned(), |it| format!("{it:.1} ms"));
            let [p50, p99] = [50.0, 99.0].map(|percent| {
                let of = |row: &Row| percentile(&row.milliseconds, percent);
                let ratio = ours.and_then(of).zip(of(row)).map(|(ours, it)| it / ours);
                let ratio = ratio.map_or("–".to_owned(), |it| format!("{it:.2}"));
                format!("{} | {ratio}", shown(of(row)))
            });
            text += &format!(
                "| {} | {} | {} | {p50} | {p99} | {} | {} | {} |\n",
                row.families.name(),
                row.work,
                row.plugin,
                shown(median(&row.cpu_milliseconds)),
                shown(median(&row.settled_milliseconds)),
                shown(median(&row.all_milliseconds)),
            );
        }
        text
    }

    /// Ours divided by each other plugin's, with the range that it is in with 95 % confidence, beside the goal. In
    /// Markdown.
    pub(super) fn goals(&self) -> String {
        let mut text = format!(
            "| families | work | beside | p50, ours ÷ its | at most {GOAL} | p99, ours ÷ its | at most {GOAL} |\n\
             |---|---|---|--:|---|--:|---|\n",
        );
        for row in self.in_order() {
            let Some(ours) = self.ours(row).filter(|ours| ours.plugin != row.plugin) else {
                continue;
            };
            let [p50, p99] = [50.0, 99.0].map(|percent| {
                let turns = ours.turns().min(row.turns());
                let estimate = Estimate::of_turns(turns, |turns| {
                    let of = |row: &Row| percentile(&row.calls(turns), percent);
                    Some(of(ours)? / of(row)?)
                });
                estimate.map_or("– | –".to_owned(), |estimate| {
                    format!("{estimate} | {}", estimate.at_most(GOAL))
                })
            });
            text += &format!(
                "| {} | {} | {} | {p50} | {p99} |\n",
                row.families.name(),
                row.work,
                row.plugin,
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_judged_by_turns_and_each_kind_of_work_by_itself() {
        let mut rows = Rows::default();
        for turn in 0..20 {
            let work = "DEL, 2 at once";
            let ours = rows.row(OURS, Families::Ipv4, work);
            ours.milliseconds.extend([4.0, 5.0 + f64::from(turn % 2)]);
            ours.all_milliseconds.push(6.0);
            let other = rows.row("ptp", Families::Ipv4, work);
            other.milliseconds.extend([10.0, 11.0]);
            other.all_milliseconds.push(12.0);
            rows.row(OURS, Families::Ipv4, "DEL alone")
                .milliseconds
                .push(4.0);
        }
        let goals = rows.goals();
        let lines: Vec<&str> = goals.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "| IPv4 | DEL, 2 at once | ptp | 0.40 (0.40–0.40) | reached | 0.55 (0.55–0.55) | missed |"
            ]
        );
        assert_eq!(rows.table().lines().count(), 5);
    }
}
