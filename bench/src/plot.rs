//! The picture: time and memory of every daemon side by side, as SVG, with nothing but what every
//! browser has.

use std::fmt::Write as _;

use crate::summary::{Line, Report, short};

const WIDTH: f64 = 960.0;
const ROW: f64 = 20.0;
const TITLE: f64 = 30.0;
const HEAD: f64 = 64.0;
/// Where daemons' names end, and bars of time and of memory begin.
const NAMES: f64 = 110.0;
const TIME: f64 = 120.0;
const MEMORY: f64 = 560.0;
/// The longest bar; the figure stands behind it.
const BAR: f64 = 310.0;

/// The scenarios of `report` that have a time, a bar for each daemon.
pub(crate) fn svg(report: &Report) -> String {
    let lines: Vec<Line> = report
        .lines()
        .into_iter()
        .filter(|line| line.seconds().is_some() && line.scenario != "idle")
        .collect();
    let mut body = String::new();
    let mut y = HEAD;
    for group in lines.chunk_by(|a, b| (&a.scenario, a.prefixes) == (&b.scenario, b.prefixes)) {
        let title = format!(
            "{}: {} prefixes",
            group[0].scenario,
            thousands(group[0].prefixes)
        );
        y += TITLE;
        text(&mut body, (10.0, y - 8.0), "start", "title", &title);
        let most = |of: fn(&Line) -> Option<f64>| {
            group
                .iter()
                .filter_map(of)
                .fold(f64::MIN_POSITIVE, f64::max)
        };
        let (most_time, most_memory) = (most(Line::seconds), most(Line::memory));
        for line in group {
            let middle = y + ROW / 2.0 + 4.0;
            text(&mut body, (NAMES, middle), "end", "name", &line.daemon);
            let class = match line.daemon.as_str() {
                "routeshare" => "ours",
                "floor" => "floor",
                _ => "other",
            };
            let panels = [
                (TIME, line.seconds(), most_time, "s"),
                (MEMORY, line.memory(), most_memory, "MiB"),
            ];
            for (x, value, most, unit) in panels {
                let Some(value) = value else { continue };
                let width = (BAR * value / most).max(1.0);
                let _ = writeln!(
                    body,
                    r#"<rect class="{class}" x="{x}" y="{:.0}" width="{width:.1}" height="{:.0}"/>"#,
                    y + 3.0,
                    ROW - 6.0
                );
                let figure = format!("{} {unit}", short(value));
                text(
                    &mut body,
                    (x + width + 6.0, middle),
                    "start",
                    "name",
                    &figure,
                );
            }
            y += ROW;
        }
    }
    let height = y + 16.0;
    let mut out = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Time and memory of BGP daemons on the same work">
<style>
text {{ font-family: system-ui, sans-serif; fill: #24292f; }}
.head {{ font-size: 16px; font-weight: 600; }} .title {{ font-size: 14px; font-weight: 600; }}
.name {{ font-size: 12px; }} .note {{ font-size: 11px; fill: #57606a; }}
.ours {{ fill: #0969da; }} .other {{ fill: #afb8c1; }} .floor {{ fill: #d4a72c; }}
</style>
<rect width="100%" height="100%" fill="#ffffff"/>
"##
    );
    text(
        &mut out,
        (TIME, 24.0),
        "start",
        "head",
        "Time until the last prefix arrived",
    );
    text(&mut out, (MEMORY, 24.0), "start", "head", "Peak memory");
    let note = format!(
        "{}, {}; medians; shorter is better. floor: the kernel alone",
        report.date, report.machine
    );
    text(&mut out, (TIME, 44.0), "start", "note", &note);
    out + &body + "</svg>\n"
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, class: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
    );
}

/// With a comma before every three digits.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;

    #[test]
    fn thousands_are_set_apart() {
        let all = [7, 1_000, 1_000_000].map(thousands);
        assert_eq!(all, ["7", "1,000", "1,000,000"]);
    }

    #[test]
    fn each_daemon_has_a_bar_as_long_as_its_time() {
        let row = |daemon: &str, seconds| Outcome {
            scenario: "table".to_owned(),
            daemon: daemon.to_owned(),
            prefixes: 1_000_000,
            kernel_seconds: Some(seconds),
            ..Outcome::default()
        };
        let svg = svg(&Report {
            date: "2000-01-01".to_owned(),
            machine: "2 cores <of> something".to_owned(),
            command: String::new(),
            versions: Vec::new(),
            outcomes: vec![row("routeshare", 1.0), row("bird", 4.0)],
        });
        assert!(
            svg.contains(r#"class="ours" x="120" y="97" width="77.5""#),
            "{svg}"
        );
        assert!(
            svg.contains(r#"class="other" x="120" y="117" width="310.0""#),
            "{svg}"
        );
        assert!(svg.contains("2 cores &lt;of> something"));
    }
}
