//! What verbs print: JSON, or columns and sizes for people.

use std::io::{self, Write};

use serde_json::Value;

use super::{Failure, Result};

/// Lines on the standard output. A reader that goes away early is no failure.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::of("the standard output")(error))
        }
        _ => Ok(()),
    }
}

/// A value as JSON.
pub(super) fn json(value: &Value) -> Result<()> {
    print(&format!("{value:#}"))
}

/// Columns, as wide as they need to be; the last is not filled up.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(head[at].len())
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let filled = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        let line = filled.collect::<Vec<_>>().join("  ");
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| line(&mut row.iter().map(String::as_str))),
    );
    print(&lines.join("\n"))
}

/// Names and what they are, one a line; what is nothing is left out.
pub(super) fn facts(facts: &[(&str, String)]) -> Result<()> {
    let told = facts.iter().filter(|(_, value)| !value.is_empty());
    let lines: Vec<_> = told
        .map(|(name, value)| format!("{:14} {value}", format!("{name}:")))
        .collect();
    print(&lines.join("\n"))
}

/// A text of the service's, without what could steer a terminal; nothing for what is no text.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        Value::Null => String::new(),
        value => value.to_string(),
    }
}

/// A number of bytes for people: `1.5 GiB`; nothing for what is no number.
pub(super) fn bytes(value: &Value) -> String {
    value.as_u64().map_or_else(String::new, size)
}

/// The same.
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit == 0 || value.fract() == 0.0 {
        true => format!("{value:.0} {}", UNITS[unit]),
        false => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// A text without what could steer a terminal.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for char in text.chars() {
        match char.is_control() {
            true => plain.extend(char.escape_default()),
            false => plain.push(char),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_text_steers_nothing() {
        assert_eq!(size(512), "512 B");
        assert_eq!(size(1 << 30), "1 GiB");
        assert_eq!(size(1_610_612_736), "1.5 GiB");
        assert_eq!(plain("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
    }
}
