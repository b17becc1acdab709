//! Routes in columns.

use std::io::{BufWriter, Stdout, Write as _};

use anstyle::Style;

use crate::error::Failure;
use crate::output::{BAD, DIM, GOOD, Output, SOON};
use crate::table::{Column, Row, Table};
use crate::time::{age, now, until};
use crate::view::{self, Attributes, Route};

const PLAIN: Style = Style::new();

/// A table for each run of routes of one family, whose widths then fit.
pub(super) struct Tables {
    output: Output,
    now: i64,
    family: Option<bool>,
    table: Option<Table<BufWriter<Stdout>>>,
    /// Prefix and node of the last row.
    last: (String, String),
    /// The last time and its age: many routes came together.
    age: (i64, String),
    row: Row,
}

impl Tables {
    pub(super) fn new(output: Output) -> Tables {
        Tables {
            output,
            now: now(),
            family: None,
            table: None,
            last: (String::new(), String::new()),
            age: (0, age(0, 0)),
            row: Row::default(),
        }
    }

    pub(super) fn push(&mut self, node: Option<&str>, route: &Route<'_>) -> Result<(), Failure> {
        let ipv6 = route.prefix.contains(':');
        // Nodes are asked one after the other: their tables may take turns between families, which
        // one table has to bear.
        let next_family = self.family.is_some_and(|family| family != ipv6) && node.is_none();
        let mut table = match self.table.take() {
            Some(table) if !next_family => table,
            Some(table) => {
                let mut writer = table.finish()?;
                writer.write_all(b"\n")?;
                Table::new(self.output, writer, columns(self.output))
            }
            None => Table::new(self.output, self.output.writer(), columns(self.output)),
        };
        self.family = Some(ipv6);
        self.fill(node.unwrap_or_default(), route);
        table.push_row(&self.row)?;
        self.table = Some(table);
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), Failure> {
        match self.table {
            Some(table) => table.finish().map(drop),
            None => Ok(()),
        }
    }

    /// Makes the row of a route.
    fn fill(&mut self, node: &str, route: &Route<'_>) {
        let attributes = &route.attributes;
        let again = self.last.0 == route.prefix && self.last.1 == node;
        if !again {
            let (prefix, last_node) = &mut self.last;
            prefix.clear();
            prefix.push_str(route.prefix);
            last_node.clear();
            last_node.push_str(node);
        }
        if self.age.0 != route.since_ms {
            self.age = (route.since_ms, age(route.since_ms, self.now));
        }
        let row = &mut self.row;
        row.clear();
        row.add(PLAIN, node);
        row.add(if again { DIM } else { PLAIN }, route.prefix);
        let or = |text: Option<&'_ str>, row: &mut Row, otherwise| match text {
            Some(text) => row.add(PLAIN, text),
            None => row.add(DIM, otherwise),
        };
        or(attributes.next_hop, row, "-");
        or(route.peer, row, "local");
        let path = attributes.as_path;
        or((!path.is_empty()).then_some(path), row, "-");
        row.add(PLAIN, &self.age.1);
        if self.output.is_wide() {
            row.add(PLAIN, &number(attributes.local_preference));
            row.add(PLAIN, &number(attributes.med));
            row.add(PLAIN, attributes.origin);
            row.add(PLAIN, &communities(attributes));
            row.add(PLAIN, &others(attributes));
        }
        let stale = stale(route);
        match (route.best, route.multipath, route.reason) {
            (true, _, _) if stale.is_none() => row.add(GOOD, "best"),
            (_, true, _) if stale.is_none() => row.add(GOOD, "multipath"),
            (true, _, _) => row.add(SOON, &format!("best, {}", stale.unwrap_or_default())),
            (_, true, _) => row.add(SOON, &format!("multipath, {}", stale.unwrap_or_default())),
            (_, _, Some(reason)) if route.backup => row.add(SOON, &format!("backup; {reason}")),
            (_, _, reason) => row.add(SOON, reason.unwrap_or_default()),
        }
        let (style, kernel) = kernel(route.kernel.unwrap_or_default());
        row.add(style, kernel);
    }
}

/// For a route kept from a session that was lost: that it is, and for how long it will be kept.
pub(crate) fn stale(route: &Route<'_>) -> Option<String> {
    let kind = match (route.stale, route.long_lived_stale) {
        (_, true) => "long-lived stale",
        (true, false) => "stale",
        (false, false) => return None,
    };
    let left = until(route.stale_until_ms, now());
    Some(format!("{kind} for {left} more"))
}

fn columns(output: Output) -> Vec<Column> {
    let mut columns = vec![
        Column::all_or_none("NODE"),
        // The longest IPv4 prefix; most IPv6 prefixes and every age are not longer.
        Column::text("PREFIX").room(18),
        Column::text("NEXT HOP"),
        Column::text("FROM"),
        Column::text("AS PATH"),
        Column::text("AGE").room(6),
    ];
    if output.is_wide() {
        columns.extend([
            Column::optional("PREF"),
            Column::optional("MED"),
            Column::text("ORIGIN"),
            Column::optional("COMMUNITIES"),
            Column::optional("OTHER"),
        ]);
    }
    columns.extend([Column::optional("STATE"), Column::optional("KERNEL")]);
    columns
}

fn kernel(word: &str) -> (Style, &str) {
    match word {
        "Installed" => (GOOD, "installed"),
        "Refused" => (BAD, "refused"),
        "Pending" => (SOON, "pending"),
        "NotInstalled" => (DIM, "not installed"),
        "Foreign" => (DIM, "foreign"),
        other => (DIM, other),
    }
}

fn number(number: Option<u32>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

fn communities(attributes: &Attributes<'_>) -> String {
    let all = [
        attributes.communities,
        attributes.large_communities,
        attributes.extended_communities,
    ];
    let all: Vec<&str> = all.into_iter().flatten().map(String::as_str).collect();
    all.join(" ")
}

/// What has no column of its own.
fn others(attributes: &Attributes<'_>) -> String {
    let mut others = Vec::new();
    if attributes.atomic_aggregate {
        others.push("atomic-aggregate".to_owned());
    }
    if let Some(aggregator) = attributes.aggregator {
        others.push(format!("aggregator {aggregator}"));
    }
    if let Some(originator) = attributes.originator_id {
        others.push(format!("originator {originator}"));
    }
    if !attributes.cluster_list.is_empty() {
        others.push(format!("clusters {}", attributes.cluster_list.join(" ")));
    }
    let unknown = attributes.unknown.iter();
    others.extend(unknown.map(|it| format!("type {} {}", it.r#type, view::hex(&it.value))));
    others.join(", ")
}
