//! A closed pipe ends a command without an error message.

use std::process::{Command, Stdio};

use codeloc_tests::processes::{binary, command, root};

use super::{COMMANDS, daemon_with_text};

/// The exit code of a program that SIGPIPE ended, as shells report it.
const CLOSED_PIPE: i32 = 141;

/// The exit code and standard error of a command whose standard output is closed.
fn run_with_closed_pipe(command: &mut Command) -> (i32, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_command_with_a_closed_pipe_ends_quietly() {
    let server = daemon_with_text("plain");
    for arguments in COMMANDS {
        let mut codeloc = command(binary("codeloc"));
        codeloc.args(arguments).args(["--server", &server]);
        let (code, errors) = run_with_closed_pipe(&mut codeloc);
        // An unknown location leaves nothing to print.
        let expected = if arguments == ["status", "ordres"] { 1 } else { CLOSED_PIPE };
        assert_eq!(code, expected, "{arguments:?}: {errors}");
        assert!(expected == 1 || errors.is_empty(), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_local_command_with_a_closed_pipe_ends_quietly() {
    let arguments: [&[&str]; 6] =
        [&["--help"], &["status", "--help"], &["--version"], &["completions", "zsh"], &["schema"], &["validate"]];
    for arguments in arguments {
        let mut codeloc = command(binary("codeloc"));
        codeloc.args(arguments).current_dir(root());
        let (code, errors) = run_with_closed_pipe(&mut codeloc);
        // The argument parser exits with 0 even if its text is not read.
        assert!([0, CLOSED_PIPE].contains(&code) && errors.is_empty(), "{arguments:?} ends with {code}: {errors}");
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
