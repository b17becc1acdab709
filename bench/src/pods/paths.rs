//! What paths between containers carry: all measurements, their table, and whether the goal is reached.

use std::net::IpAddr;

use serde::Serialize;

use super::estimate::{Estimate, Verdict};
use super::percentile::{median, percentile};
use super::stream::Throughput;

/// One veth pair with nothing between.
const VETH: &str = "veth";
/// What `routed` takes more than another path is to be at most this part.
const GOAL: f64 = 0.03;

/// What was seen of one path in one family; one value for each turn.
#[derive(Serialize)]
pub(super) struct Row {
    nodes: usize,
    family: &'static str,
    path: &'static str,
    gbit: Vec<f64>,
    cpu_seconds_per_gib: Vec<f64>,
    /// The median of the turn's round trips, and their 99th percentile.
    microseconds: Vec<f64>,
    microseconds_p99: Vec<f64>,
}

impl Row {
    pub(super) fn add(&mut self, load: Throughput, trips: &[f64]) {
        self.gbit.push(load.gbit);
        self.cpu_seconds_per_gib.push(load.cpu_per_gib);
        self.microseconds.extend(median(trips));
        self.microseconds_p99.extend(percentile(trips, 99.0));
    }

    fn is_beside(&self, other: &Row) -> bool {
        (self.nodes, self.family) == (other.nodes, other.family)
    }
}

#[derive(Default)]
pub(super) struct Rows(pub(super) Vec<Row>);

impl Rows {
    pub(super) fn row(&mut self, nodes: usize, address: IpAddr, path: &'static str) -> &mut Row {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let same = |row: &Row| (row.nodes, row.family, row.path) == (nodes, family, path);
        let at = self.0.iter().position(same).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push(Row {
                nodes,
                family,
                path,
                gbit: Vec::new(),
                cpu_seconds_per_gib: Vec::new(),
                microseconds: Vec::new(),
                microseconds_p99: Vec::new(),
            });
        }
        &mut self.0[at]
    }

    fn find(&self, beside: &Row, path: &str) -> Option<&Row> {
        let mut rows = self.0.iter();
        rows.find(|row| row.path == path && row.is_beside(beside))
    }

    /// Medians, how far half of the turns are from them, and the median of the ratios within a turn. In Markdown.
    pub(super) fn table(&self) -> String {
        let mut text = String::from(
            "| nodes | family | path | Gbit/s | ÷ veth | CPU s per GiB | ÷ veth | round trip p50 | ÷ veth | p99 |\n\
             |--:|---|---|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        let mut order: Vec<&Row> = self.0.iter().collect();
        order.sort_by_key(|row| (row.nodes, row.family, row.path != VETH));
        for row in order {
            let cell = |of: fn(&Row) -> &[f64], unit: &str| {
                let Some(value) = median(of(row)) else {
                    return "– | –".to_owned();
                };
                let veth = self.find(row, VETH).filter(|_| row.path != VETH);
                let ratio = veth.and_then(|veth| ratio(of(row), of(veth)));
                let ratio = ratio.map_or("–".to_owned(), |it| it.to_string());
                format!("{value:.2}{unit} ±{:.0} % | {ratio}", spread(of(row)))
            };
            text += &format!(
                "| {} | {} | {} | {} | {} | {} | {:.1} µs |\n",
                row.nodes,
                row.family,
                row.path,
                cell(|row| &row.gbit, ""),
                cell(|row| &row.cpu_seconds_per_gib, ""),
                cell(|row| &row.microseconds, " µs"),
                median(&row.microseconds_p99).unwrap_or(0.0),
            );
        }
        text
    }

    /// Mode `routed` beside one bare pair, and beside the same path made by hand. In Markdown.
    pub(super) fn goals(&self) -> String {
        let (most, least) = (1.0 + GOAL, 1.0 - GOAL);
        let mut text = format!(
            "| nodes | family | routed beside | Gbit/s | at least {least} | CPU s per GiB | at most {most} | round trip p50 | at most {most} |\n\
             |--:|---|---|--:|---|--:|---|--:|---|\n",
        );
        for routed in self.0.iter().filter(|row| row.path == "routed") {
            for other in [VETH, "by hand"] {
                let Some(other) = self.find(routed, other) else {
                    continue;
                };
                let cell = |of: fn(&Row) -> &[f64], judge: &dyn Fn(&Estimate) -> Verdict| {
                    let estimate = ratio(of(routed), of(other));
                    estimate.map_or("– | –".to_owned(), |it| {
                        format!("{it} | {}", judge(&it))
                    })
                };
                text += &format!(
                    "| {} | {} | {} | {} | {} | {} |\n",
                    routed.nodes,
                    routed.family,
                    other.path,
                    cell(|row| &row.gbit, &|it| it.at_least(least)),
                    cell(|row| &row.cpu_seconds_per_gib, &|it| it.at_most(most)),
                    cell(|row| &row.microseconds, &|it| it.at_most(most)),
                );
            }
        }
        text
    }
}

/// The median of the ratios within a turn.
fn ratio(ours: &[f64], others: &[f64]) -> Option<Estimate> {
    let ratios: Vec<f64> = ours.iter().zip(others).map(|(a, b)| a / b).collect();
    Estimate::of_turns(ratios.len(), |turns| {
        let drawn: Vec<f64> = turns.iter().map(|turn| ratios[*turn]).collect();
        median(&drawn)
    })
}

/// Half of the turns are so many per cent from the median at most.
fn spread(values: &[f64]) -> f64 {
    let middle = median(values).unwrap_or(0.0);
    let away: Vec<f64> = values
        .iter()
        .map(|value| (value / middle - 1.0).abs())
        .collect();
    median(&away).unwrap_or(0.0) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_now_fast_and_now_slow_does_not_hide_a_difference() {
        let mut rows = Rows::default();
        let address: IpAddr = [10, 0, 0, 1].into();
        for turn in 0..20 {
            let speed = 1.0 + f64::from(turn % 4) / 4.0;
            for (path, takes) in [(VETH, 1.0), ("by hand", 1.1), ("routed", 1.11)] {
                let load = Throughput {
                    gbit: 20.0 * speed / takes,
                    cpu_per_gib: takes / speed,
                };
                rows.row(1, address, path)
                    .add(load, &[50.0 * takes / speed]);
            }
        }
        let goals = rows.goals();
        let lines: Vec<&str> = goals.lines().skip(2).collect();
        let missed = "| 1 | IPv4 | veth | 0.90 (0.90–0.90) | missed | 1.11 (1.11–1.11) | missed | 1.11 (1.11–1.11) | missed |";
        let reached = "| 1 | IPv4 | by hand | 0.99 (0.99–0.99) | reached | 1.01 (1.01–1.01) | reached | 1.01 (1.01–1.01) | reached |";
        assert_eq!(lines, [missed, reached]);
        assert!(rows.table().contains("±"), "{}", rows.table());
    }
}
