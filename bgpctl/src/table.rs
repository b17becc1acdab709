//! Columns for people.
//!
//! Rows may come in any number: the first [`FIRST_PAGE`] decide how wide the columns are, and what
//! comes later is printed at once, so that a million rows need no more memory than a thousand.

use std::io::Write;

use anstyle::Style;

use crate::error::Failure;
use crate::output::{Output, TITLE};

/// So many rows are looked at before the widths are fixed.
const FIRST_PAGE: usize = 500;
/// Between two columns.
const GAP: usize = 2;
/// So many octets of lines are written at once.
const TOGETHER: usize = 64 * 1024;

/// A column's title, and to which side its cells are pushed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    right: bool,
    optional: bool,
    /// Either every row has something here, or none has.
    all_or_none: bool,
    /// At least so wide in a table of more than a page, whose later rows are not known.
    room: usize,
}

impl Column {
    /// Words.
    pub(crate) const fn text(title: &'static str) -> Column {
        Column {
            title,
            right: false,
            optional: false,
            all_or_none: false,
            room: 0,
        }
    }

    /// Numbers.
    pub(crate) const fn number(title: &'static str) -> Column {
        Column {
            right: true,
            ..Column::text(title)
        }
    }

    /// Words that are left out, with the title, when no row of a short table has any.
    pub(crate) const fn optional(title: &'static str) -> Column {
        Column {
            optional: true,
            ..Column::text(title)
        }
    }

    /// Words that either all rows have or none has; then the column is left out of long tables too.
    pub(crate) const fn all_or_none(title: &'static str) -> Column {
        Column {
            all_or_none: true,
            ..Column::optional(title)
        }
    }

    /// With room for later rows of a long table.
    pub(crate) const fn room(mut self, width: usize) -> Column {
        self.room = width;
        self
    }
}

/// One field of one row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(crate) fn styled(style: Style, text: impl Into<String>) -> Cell {
        Cell {
            text: text.into(),
            style,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell::styled(Style::new(), text)
    }
}

/// A row whose memory serves for the next one, too: for tables of any length.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    /// Of all cells, one behind the other.
    text: String,
    /// Where each cell ends, and how it looks.
    cells: Vec<(usize, Style)>,
}

impl Row {
    /// Without cells.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.cells.clear();
    }

    /// Appends a cell.
    pub(crate) fn add(&mut self, style: Style, text: &str) {
        self.text.push_str(text);
        self.cells.push((self.text.len(), style));
    }

    /// The cells.
    fn iter(&self) -> impl Iterator<Item = (&str, Style)> {
        let mut start = 0;
        self.cells.iter().map(move |(end, style)| {
            let text = &self.text[start..*end];
            start = *end;
            (text, *style)
        })
    }
}

impl From<Vec<Cell>> for Row {
    fn from(cells: Vec<Cell>) -> Row {
        let mut row = Row::default();
        for cell in cells {
            row.add(cell.style, &cell.text);
        }
        row
    }
}

/// A table that is written as its rows come.
pub(crate) struct Table<W> {
    writer: W,
    output: Output,
    columns: Vec<Column>,
    /// Lines that go out together.
    lines: String,
    /// Rows that wait for the widths; none once those are fixed.
    waiting: Vec<Row>,
    /// Of each column; `None` for one that is left out. Empty until fixed.
    widths: Vec<Option<usize>>,
}

impl<W: Write> Table<W> {
    pub(crate) fn new(output: Output, writer: W, columns: Vec<Column>) -> Table<W> {
        Table {
            writer,
            output,
            columns,
            lines: String::new(),
            waiting: Vec::new(),
            widths: Vec::new(),
        }
    }

    /// Adds a row; it has a cell for every column.
    pub(crate) fn push(&mut self, row: Vec<Cell>) -> Result<(), Failure> {
        self.push_row(&Row::from(row))
    }

    /// As [`Table::push`].
    pub(crate) fn push_row(&mut self, row: &Row) -> Result<(), Failure> {
        debug_assert_eq!(row.cells.len(), self.columns.len());
        if !self.widths.is_empty() {
            return self.write(row);
        }
        self.waiting.push(row.clone());
        if self.waiting.len() == FIRST_PAGE {
            self.fix(false)?;
        }
        Ok(())
    }

    /// Writes what is left; a table without rows has no titles either.
    pub(crate) fn finish(mut self) -> Result<W, Failure> {
        if self.widths.is_empty() && !self.waiting.is_empty() {
            self.fix(true)?;
        }
        self.writer.write_all(self.lines.as_bytes())?;
        self.writer.flush()?;
        Ok(self.writer)
    }

    /// Fixes the widths, and writes the titles and the rows that have waited. Columns are left out
    /// only when the table is `complete`: a later row may need them.
    fn fix(&mut self, complete: bool) -> Result<(), Failure> {
        let rows = std::mem::take(&mut self.waiting);
        let mut widest = vec![0; self.columns.len()];
        for row in &rows {
            for ((text, _), widest) in row.iter().zip(&mut widest) {
                *widest = width(text).max(*widest);
            }
        }
        let widths = self
            .columns
            .iter()
            .zip(widest)
            .map(|(column, widest)| match widest {
                0 if column.all_or_none || column.optional && complete => None,
                widest if complete => Some(widest.max(width(column.title))),
                widest => Some(widest.max(width(column.title)).max(column.room)),
            });
        self.widths = widths.collect();
        let mut titles = Row::default();
        for column in &self.columns {
            titles.add(TITLE, column.title);
        }
        self.write(&titles)?;
        rows.iter().try_for_each(|row| self.write(row))
    }

    fn write(&mut self, row: &Row) -> Result<(), Failure> {
        let mut owed = 0;
        for (((text, style), column), size) in row.iter().zip(&self.columns).zip(&self.widths) {
            let Some(size) = size else { continue };
            let padding = size.saturating_sub(width(text));
            let (before, after) = if column.right {
                (padding, 0)
            } else {
                (0, padding)
            };
            // Blanks are owed until something follows, so that no line ends in them.
            if !text.is_empty() {
                blanks(owed + before, &mut self.lines);
                self.output.paint_into(style, text, &mut self.lines);
                owed = after + GAP;
            } else {
                owed += padding + GAP;
            }
        }
        self.lines.push('\n');
        if self.lines.len() >= TOGETHER {
            self.writer.write_all(self.lines.as_bytes())?;
            self.lines.clear();
        }
        Ok(())
    }
}

fn blanks(mut count: usize, line: &mut String) {
    const BLANKS: &str = "                                                                ";
    while count > 0 {
        let some = count.min(BLANKS.len());
        line.push_str(&BLANKS[..some]);
        count -= some;
    }
}

fn width(text: &str) -> usize {
    match text.is_ascii() {
        true => text.len(),
        false => text.chars().count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Color, Format};

    fn table(columns: Vec<Column>) -> Table<Vec<u8>> {
        Table::new(
            Output::new(Format::Table, Color::Never),
            Vec::new(),
            columns,
        )
    }

    fn text(table: Table<Vec<u8>>) -> String {
        String::from_utf8(table.finish().unwrap()).unwrap()
    }

    #[test]
    fn columns_are_aligned_and_no_line_ends_in_blanks() {
        let mut table = table(vec![
            Column::text("PEER"),
            Column::number("ROUTES"),
            Column::text("NOTE"),
        ]);
        table
            .push(vec!["tor-a".into(), "12".into(), "".into()])
            .unwrap();
        table
            .push(vec!["b".into(), "1".into(), "slow".into()])
            .unwrap();
        assert_eq!(
            text(table),
            "PEER   ROUTES  NOTE\ntor-a      12\nb           1  slow\n"
        );
    }

    #[test]
    fn a_column_that_nobody_needs_is_left_out() {
        let mut table = table(vec![
            Column::text("A"),
            Column::optional("REASON"),
            Column::text("B"),
        ]);
        table.push(vec!["1".into(), "".into(), "2".into()]).unwrap();
        assert_eq!(text(table), "A  B\n1  2\n");
    }

    #[test]
    fn later_pages_keep_the_widths_of_the_first_and_hide_nothing() {
        let mut table = table(vec![
            Column::text("A"),
            Column::optional("B"),
            Column::text("C"),
        ]);
        for _ in 0..FIRST_PAGE {
            table.push(vec!["1".into(), "".into(), "3".into()]).unwrap();
        }
        assert!(
            table.waiting.is_empty(),
            "the first page is written when it is full"
        );
        table
            .push(vec!["1234".into(), "x".into(), "3".into()])
            .unwrap();
        let text = text(table);
        assert!(text.starts_with("A  B  C\n1     3\n"), "{text}");
        assert!(text.ends_with("\n1234  x  3\n"), "{text}");
    }

    #[test]
    fn long_tables_have_room_for_later_rows_and_no_column_that_nobody_needs() {
        let mut table = table(vec![
            Column::all_or_none("NODE"),
            Column::text("PREFIX").room(6),
            Column::text("C"),
        ]);
        for _ in 0..FIRST_PAGE {
            table.push(vec!["".into(), "1".into(), "3".into()]).unwrap();
        }
        table
            .push(vec!["".into(), "123456".into(), "3".into()])
            .unwrap();
        let text = text(table);
        assert!(text.starts_with("PREFIX  C\n1       3\n"), "{text}");
        assert!(text.ends_with("\n123456  3\n"), "{text}");
    }

    #[test]
    fn a_table_without_rows_is_empty() {
        assert_eq!(text(table(vec![Column::text("A")])), "");
    }
}
