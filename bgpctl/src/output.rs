//! Where answers go: colours, lists of JSON or YAML as they come, complaints.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::cli::{Color, Format};
use crate::error::Failure;

/// Titles of columns and of paragraphs.
pub(crate) const TITLE: Style = Style::new().bold();
/// What is there for completeness.
pub(crate) const DIM: Style = Style::new().dimmed();
/// As it should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// On its way.
pub(crate) const SOON: Style = AnsiColor::Yellow.on_default();
/// Not as it should be.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();

/// How answers look, and whether in colour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    color: bool,
    complaints_in_color: bool,
}

impl Output {
    pub(crate) fn new(format: Format, color: Color) -> Output {
        // https://no-color.org: set and not empty.
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let on = |terminal: bool| match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && !unwanted,
        };
        Output {
            format,
            color: on(io::stdout().is_terminal()),
            complaints_in_color: on(io::stderr().is_terminal()),
        }
    }

    /// For people, as columns.
    pub(crate) fn is_table(self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// With more columns.
    pub(crate) fn is_wide(self) -> bool {
        self.format == Format::Wide
    }

    /// `text` in a style, where colours are wanted.
    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        let mut painted = String::new();
        self.paint_into(style, text, &mut painted);
        painted
    }

    /// Appends `text` in a style.
    pub(crate) fn paint_into(self, style: Style, text: &str, out: &mut String) {
        match self.color && !text.is_empty() && style != Style::new() {
            true => {
                let painted = format_args!("{style}{text}{style:#}");
                let _ = fmt::Write::write_fmt(out, painted); // a String takes everything
            }
            false => out.push_str(text),
        }
    }

    /// Where answers are written; large ones in large pieces.
    pub(crate) fn writer(self) -> BufWriter<Stdout> {
        BufWriter::with_capacity(64 * 1024, io::stdout())
    }

    /// One value, not a list.
    pub(crate) fn print_value(self, value: &impl Serialize) -> Result<(), Failure> {
        let mut writer = self.writer();
        match self.format {
            Format::Json => {
                let text = serde_json::to_string_pretty(value).map_err(encode)?;
                writeln!(writer, "{text}")?;
            }
            _ => writer.write_all(yaml(value)?.as_bytes())?,
        }
        Ok(writer.flush()?)
    }

    /// A list whose elements come one by one.
    pub(crate) fn list(self) -> List {
        List {
            writer: self.writer(),
            format: self.format,
            watching: false,
            elements: 0,
        }
    }

    /// A list without an end: each element is a line (JSON) or a document (YAML), written at once.
    pub(crate) fn endless_list(self) -> List {
        List {
            watching: true,
            ..self.list()
        }
    }

    /// Tells the user on standard error why something failed, and what to do.
    pub(crate) fn complain(self, failure: &Failure) {
        let mut text = failure.to_string();
        let mut source = std::error::Error::source(failure);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text += ": ";
                text += &cause_text;
            }
            source = cause.source();
        }
        self.say(BAD, "error", &text);
        let help = failure.help();
        if !help.is_empty() {
            self.say(SOON, "help", &help);
        }
    }

    /// Something the user should know besides the answer, on standard error.
    pub(crate) fn warn(self, text: &str) {
        self.say(SOON, "warning", text);
    }

    fn say(self, style: Style, word: &str, text: &str) {
        let indent = format!("\n{}", " ".repeat(word.len() + 2));
        let text = text.trim_end().replace('\n', &indent);
        match self.complaints_in_color {
            true => eprintln!("{style}{word}:{style:#} {text}"),
            false => eprintln!("{word}: {text}"),
        }
    }
}

/// A list of JSON or YAML, written as its elements come.
pub(crate) struct List {
    writer: BufWriter<Stdout>,
    format: Format,
    watching: bool,
    elements: usize,
}

impl List {
    pub(crate) fn push(&mut self, element: &impl Serialize) -> Result<(), Failure> {
        match (self.format, self.watching) {
            (Format::Json, false) => {
                let before: &[u8] = if self.elements == 0 { b"[\n" } else { b",\n" };
                self.writer.write_all(before)?;
                serde_json::to_writer(&mut self.writer, element).map_err(|error| {
                    match error.io_error_kind() {
                        Some(kind) => Failure::Print(kind.into()),
                        None => encode(error),
                    }
                })?;
            }
            (Format::Json, true) => {
                let line = serde_json::to_string(element).map_err(encode)?;
                writeln!(self.writer, "{line}")?;
            }
            (_, false) => self.writer.write_all(yaml(&[element])?.as_bytes())?,
            (_, true) => {
                self.writer.write_all(b"---\n")?;
                self.writer.write_all(yaml(element)?.as_bytes())?;
            }
        }
        self.elements += 1;
        if self.watching {
            self.writer.flush()?;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        if !self.watching {
            let end: &[u8] = match (self.format, self.elements) {
                (Format::Json, 0) | (Format::Yaml, 0) => b"[]\n",
                (Format::Json, _) => b"\n]\n",
                _ => b"",
            };
            self.writer.write_all(end)?;
        }
        Ok(self.writer.flush()?)
    }
}

fn yaml(value: &impl Serialize) -> Result<String, Failure> {
    serde_saphyr::to_string(value).map_err(encode)
}

fn encode(error: impl std::fmt::Display) -> Failure {
    Failure::Encode(error.to_string())
}
