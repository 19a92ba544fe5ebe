//! The reference pages and the example settings file say what the code says. Each is written from the code's own
//! definitions and compared with the committed one: a setting, a field or a flag that changes fails here until
//! `UPDATE_DOCS=1 cargo test -p codeloc --test reference` has rewritten its page.

#[cfg(feature = "aws")]
mod command_line;
mod config;
mod permissions;
mod settings;

use std::path::{Path, PathBuf};

/// The first line of every generated page.
const GENERATED: &str = "<!-- Generated: UPDATE_DOCS=1 cargo test -p codeloc --test reference -->\n\n";

/// `path` is relative to the root of the project.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap_or_default()
}

/// Compares a committed file with what it should say; writes it first where that is asked for.
#[expect(clippy::disallowed_methods, reason = "rewriting committed files is asked for through the environment")]
fn assert_fresh(path: &str, generated: &str) {
    if std::env::var("UPDATE_DOCS").is_ok() {
        std::fs::write(file(path), generated).unwrap();
    }
    assert!(
        read(path) == generated,
        "{path} is not what the code says; rewrite it with UPDATE_DOCS=1 cargo test -p codeloc --test reference"
    );
}

/// One row of a table in Markdown.
fn row<const COLUMNS: usize>(cells: [&str; COLUMNS]) -> String {
    format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

fn header<const COLUMNS: usize>(titles: [&str; COLUMNS]) -> String {
    row(titles) + &row(["---"; COLUMNS])
}

fn code(text: &str) -> String {
    format!("`{text}`")
}
