//! Tables for people: columns as wide as what is in them, numbers to the right, and no line that is broken where it fits.

use std::{fmt::Write, time::Duration};

use crate::cli::terminal::{Palette, plain};

/// Of a text, or of a list of them, no more than so many characters are shown in a table.
const LONGEST: usize = 24;

/// Where a column's texts stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// A cell: what it says, [as it may be shown](plain), and its colour.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    text: String,
    colour: &'static str,
}

impl Cell {
    pub fn coloured(text: impl Into<String>, colour: &'static str) -> Self {
        Self { text: plain(&text.into()), colour }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::coloured(text, "")
    }
}

/// Rows under headings.
pub(super) struct Table<const N: usize> {
    headings: [(&'static str, Side); N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    pub fn new(headings: [(&'static str, Side); N]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(cells);
    }

    /// The lines, each after `indent`.
    pub fn write(&self, out: &mut String, indent: &str, palette: Palette) {
        let width = |text: &str| text.chars().count();
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| width(&row[column].text));
            cells.chain([width(self.headings[column].0)]).max().unwrap_or_default()
        });
        let mut line = |cells: &[Cell; N]| {
            let mut text = indent.to_owned();
            for (column, cell) in cells.iter().enumerate() {
                let blank = " ".repeat(widths[column] - width(&cell.text));
                let gap = if column == 0 { "" } else { "  " };
                let reset = if cell.colour.is_empty() { "" } else { palette.reset };
                let (colour, shown) = (cell.colour, &cell.text);
                let _ = match self.headings[column].1 {
                    Side::Left => write!(text, "{gap}{colour}{shown}{reset}{blank}"),
                    Side::Right => write!(text, "{gap}{blank}{colour}{shown}{reset}"),
                };
            }
            out.push_str(text.trim_end());
            out.push('\n');
        };
        line(&self.headings.map(|(heading, _)| Cell::coloured(heading, palette.dim)));
        for row in &self.rows {
            line(row);
        }
    }
}

/// A duration in its two largest units: `12s`, `3m 5s`, `2h 0m`, `5d 4h`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// A number with its thousands apart: `12 345`, readable at a glance and by everybody in the same way.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// What fits into a column, of a text that somebody else has chosen.
pub(super) fn short(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// As many items as fit, and how many more there are.
pub(super) fn some<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<&str> = items.into_iter().collect();
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        let gap = if index == 0 { "" } else { ", " };
        if index > 0 && text.chars().count() + gap.len() + item.chars().count() > LONGEST {
            let _ = write!(text, " +{}", items.len() - index);
            break;
        }
        text.push_str(gap);
        text.push_str(&short(item));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::new([("ID", Side::Left), ("LAG", Side::Right), ("BINDINGS", Side::Left)]);
        table.row(["s1".into(), "0".into(), "a".into()]);
        table.row(["s1234".into(), Cell::coloured("12 345", Palette::ANSI.red), "b, ü".into()]);
        let mut text = String::new();
        table.write(&mut text, "  ", Palette::PLAIN);
        let plain = "  ID        LAG  BINDINGS\n  s1          0  a\n  s1234  \u{1b}[31m12 345  b, ü\n";
        assert_eq!(text, plain);
        let mut coloured = String::new();
        table.write(&mut coloured, "  ", Palette::ANSI);
        assert!(coloured.contains("\u{1b}[31m12 345\u{1b}[0m  b"), "{coloured}");
    }

    #[test]
    fn durations_and_numbers() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m 0s"),
            (3599, "59m 59s"),
            (3600, "1h 0m"),
            (86_399, "23h 59m"),
            (86_400, "1d 0h"),
            (31 * 86_400 + 7200, "31d 2h"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
        for (value, text) in
            [(0, "0"), (999, "999"), (1000, "1 000"), (123_456, "123 456"), (1_234_567, "1 234 567")]
        {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn what_is_long_is_cut_and_counted() {
        assert_eq!(some([]), "");
        assert_eq!(some(["call.*.*"]), "call.*.*");
        assert_eq!(some(["call.*.*", "object.*.user", "fax.status.*"]), "call.*.*, object.*.user +1");
        let long = "x".repeat(100);
        assert_eq!(short(&long).chars().count(), LONGEST);
        assert!(some([&*long, "b", "c"]).ends_with("… +2"));
    }
}
