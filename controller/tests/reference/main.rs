//! Generates the reference pages and the example settings file from the code, and compares them with the committed files. After a change of
//! a setting, field or flag, run `UPDATE_DOCS=1 cargo test -p codeloc --test reference`.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod api;
mod command_line;
mod config;
mod doctor;
mod drift;
mod events;
mod metrics;
mod permissions;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The first line of every generated page.
const GENERATED: &str = "<!-- Generated: UPDATE_DOCS=1 cargo test -p codeloc --test reference -->\n\n";

/// `path` is relative to the root of the project.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap_or_default()
}

/// Compares a committed file with the generated text. With `UPDATE_DOCS`, writes the file first.
#[expect(clippy::disallowed_methods, reason = "UPDATE_DOCS requests rewriting committed files")]
fn assert_fresh(path: &str, generated: &str) {
    // Several tests may check the same file at the same time.
    static WRITING: Mutex<()> = Mutex::new(());
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    if std::env::var("UPDATE_DOCS").is_ok() && read(path) != generated {
        std::fs::write(file(path), generated).unwrap();
    }
    assert!(read(path) == generated, "{path} is out of date; run UPDATE_DOCS=1 cargo test -p codeloc --test reference");
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

#[test]
fn links_in_the_documentation_work() {
    let pages = std::fs::read_dir(file("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.chain(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(file));
    let mut broken = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        let local = targets.filter(|target| !target.starts_with("http"));
        broken.extend(local.map(|target| page.with_file_name(target)).filter(|target| !target.exists()));
    }
    assert_eq!(broken, Vec::<PathBuf>::new());
}
