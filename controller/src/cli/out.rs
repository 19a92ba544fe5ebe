//! Tables with colours and ages.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use codeloc_core::status::{Health, Sync};
use jiff::Timestamp;

use super::terminal::{self, Piece};
use crate::runtime::Clock;
use crate::settings::Severity;

/// A cell of a table.
pub struct Cell(Piece);

impl Cell {
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(Piece::of_one_line(text.as_ref(), Style::new()))
    }

    /// `-` for `None`.
    pub fn of(text: Option<impl AsRef<str>>) -> Self {
        text.map_or_else(|| Self::new("-"), Self::new)
    }

    fn coloured(text: impl AsRef<str>, colour: AnsiColor) -> Self {
        Self(Piece::of_one_line(text.as_ref(), colour.on_default()))
    }
}

impl From<Sync> for Cell {
    fn from(sync: Sync) -> Self {
        let colour = match sync {
            Sync::Synced => AnsiColor::Green,
            Sync::OutOfSync => AnsiColor::Yellow,
            Sync::Unknown => AnsiColor::BrightBlack,
        };
        Self::coloured(sync.to_string(), colour)
    }
}

impl From<Health> for Cell {
    fn from(health: Health) -> Self {
        let colour = match health {
            Health::Healthy => AnsiColor::Green,
            Health::Progressing => AnsiColor::Yellow,
            Health::Degraded | Health::Missing => AnsiColor::Red,
            Health::Suspended | Health::Unknown => AnsiColor::BrightBlack,
        };
        Self::coloured(health.to_string(), colour)
    }
}

impl From<Severity> for Cell {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Normal => Self::new(severity.label()),
            Severity::Warning => Self::coloured(severity.label(), AnsiColor::Red),
        }
    }
}

/// Prints a table, with colours if standard output is a terminal.
pub fn table<const COLUMNS: usize>(titles: [&str; COLUMNS], rows: Vec<[Cell; COLUMNS]>) {
    let mut all = vec![titles.map(Cell::new)];
    all.extend(rows);
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|column| all.iter().map(|row| row[column].0.width()).max().unwrap_or(0));
    let mut out = String::new();
    for row in &all {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = if column + 1 < COLUMNS { widths[column] } else { 0 };
            // Padding follows the colour codes, which have no width.
            let padding = " ".repeat(width.saturating_sub(cell.0.width()));
            let gap = if column == 0 { "" } else { "  " };
            let _ = write!(line, "{gap}{}{padding}", cell.0);
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    terminal::write(&out);
}

/// Time since then: `40s`, `12m`, `3h`, `2d`.
pub fn age(at: Timestamp) -> String {
    let seconds = Clock::of_this_machine().now().duration_since(at).as_secs().max(0);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}
