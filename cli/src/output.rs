//! What goes to stdout: a table for people, JSON or YAML for programs.
//!
//! stdout carries data only; everything said to people goes to stderr. Field names are those of REST and do
//! not change.

use std::io::{self, IsTerminal, Write};

use anyhow::Context as _;
use comfy_table::{ContentArrangement, Table};
use serde_json::Value;

/// The form of the data on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Prints a value in this form; `table` makes the form for people.
pub(crate) fn print(
    format: Format,
    value: &Value,
    table: impl FnOnce(&Value) -> String,
) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => table(value),
        Format::Json => json(value)?,
        Format::Yaml => yaml(value)?,
    };
    write(&text)
}

/// Writes to stdout, with a newline at the end if the text has none.
pub(crate) fn write(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    finish(
        out.write_all(text.as_bytes())
            .and_then(|()| out.write_all(newline.as_bytes()))
            .and_then(|()| out.flush()),
    )
}

/// Writes bytes to stdout as they are.
pub(crate) fn write_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    finish(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Whoever read our stdout has had enough (`| head`): that is no error to talk about.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl std::fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the reader of stdout is gone")
    }
}

impl std::error::Error for ReaderGone {}

fn finish(written: io::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        other => other.context("writing to stdout"),
    }
}

fn json(value: &Value) -> anyhow::Result<String> {
    serde_json::to_string_pretty(value).context("writing JSON")
}

fn yaml(value: &Value) -> anyhow::Result<String> {
    serde_saphyr::to_string(value).context("writing YAML")
}

/// A table of text cells under a header line.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    let lines = table.to_string();
    let mut text = String::with_capacity(lines.len());
    for line in lines.lines() {
        // comfy-table pads the first column too.
        text.push_str(line.strip_prefix(' ').unwrap_or(line).trim_end());
        text.push('\n');
    }
    text
}

/// `name  value` lines; empty values are left out.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        for (i, line) in value.trim_end().lines().enumerate() {
            let name = if i == 0 { name } else { "" };
            text.push_str(format!("{name:width$}  {line}").trim_end());
            text.push('\n');
        }
    }
    text
}

/// A cell: the text of a string or number, nothing for null.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(_) => value.to_string(),
    }
}

/// Text of a task or a spec without anything that steers a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            skip_escape(&mut chars);
        } else if !c.is_control() || c == '\n' || c == '\t' {
            out.push(c);
        }
    }
    out
}

/// Skips what follows an ESC: `[` to a final byte (colours, cursor), `]` to its end (titles), else one character.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        Some('[') => drop(chars.find(|c| ('@'..='~').contains(c))),
        Some(']') => drop(chars.find(|c| *c == '\u{7}' || *c == '\\')),
        Some(_) | None => {}
    }
}

/// Bytes in the unit that reads best: `512 B`, `1.5 GiB`.
pub(crate) fn bytes(n: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut n = n;
    let mut unit = 0;
    while n >= 1024.0 && unit + 1 < units.len() {
        n /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n:.0} B") } else { format!("{n:.1} {}", units[unit]) }
}

/// A span of seconds as people say it: `3s`, `4m05s`, `2h03m`, `3d04h`.
pub(crate) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// `1 job`, `2 jobs`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// Whether colours may go to stderr: a terminal, and nobody asked for none (no-color.org).
pub(crate) fn colours_on_stderr() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_start_at_the_left_and_have_no_trailing_blanks() {
        let text =
            table(["NAME", "STATE"], [["a".into(), "idle".into()], ["longer-name".into(), String::new()]]);
        assert_eq!(text, "NAME         STATE\na            idle\nlonger-name\n");
    }

    #[test]
    fn empty_fields_are_left_out_and_long_ones_are_indented() {
        let text = fields(&[("state", "failed".into()), ("exit", String::new()), ("why", "a\nb".into())]);
        assert_eq!(text, "state  failed\nwhy    a\n       b\n");
    }

    #[test]
    fn cells_carry_no_terminal_control() {
        assert_eq!(cell(&json!("a\u{1b}[2Jb\r\u{1b}]0;title\u{7}c\u{1b}(d\u{1b}[31")), "abcd".to_owned());
        assert_eq!(cell(&json!(null)), "");
        assert_eq!(cell(&json!([1, "x"])), "1,x");
    }

    #[test]
    fn quantities_read_well() {
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(1536.0 * 1024.0), "1.5 MiB");
        assert_eq!([span(3), span(65), span(7_380), span(90_000)], ["3s", "1m05s", "2h03m", "1d01h"]);
    }

    #[test]
    fn yaml_reads_back_as_the_same_value() {
        let value = json!({"a": "yes", "b": ["1", 1, null, true], "c": {"d": "x: y\nz\n"}, "e": {}, "f": []});
        let back: Value = serde_saphyr::from_str(&yaml(&value).unwrap()).unwrap();
        assert_eq!(back, value);
    }
}
