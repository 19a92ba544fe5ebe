//! A closed pipe ends a command quietly.

use std::process::{Command, Stdio};

use codeloc_tests::processes::{binary, command, root};

use super::{COMMANDS, talking};

/// As shells report a program that SIGPIPE ended.
const CLOSED_PIPE: i32 = 141;

/// The exit code and standard error of a command whose standard output is closed.
fn unread(command: &mut Command) -> (i32, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_command_with_a_closed_output_ends_quietly() {
    let server = talking("plain");
    for words in COMMANDS {
        let mut codeloc = command(binary("codeloc"));
        codeloc.args(words).args(["--server", &server]);
        let (code, errors) = unread(&mut codeloc);
        // An unknown location leaves nothing to print.
        let wanted = if words == ["status", "ordres"] { 1 } else { CLOSED_PIPE };
        assert_eq!(code, wanted, "{words:?}: {errors}");
        assert!(wanted == 1 || errors.is_empty(), "{words:?}: {errors}");
    }
}

#[test]
fn a_command_without_a_daemon_ends_quietly_too() {
    let words: [&[&str]; 6] =
        [&["--help"], &["status", "--help"], &["--version"], &["completions", "zsh"], &["schema"], &["validate"]];
    for words in words {
        let mut codeloc = command(binary("codeloc"));
        codeloc.args(words).current_dir(root());
        let (code, errors) = unread(&mut codeloc);
        // The parser ends with 0 whether or not its text is read.
        assert!([0, CLOSED_PIPE].contains(&code) && errors.is_empty(), "{words:?} ends with {code}: {errors}");
    }
}

#[test]
fn an_error_keeps_its_exit_code_without_a_reader() {
    let mut child = command(binary("codeloc"))
        .args(["status", "--server", "http://127.0.0.1:1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
