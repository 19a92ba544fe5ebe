//! Kills all tasks when this process ends, even after `kill -9`.
//!
//! A shell reads the process groups from a pipe and kills them when the pipe closes. Unlike a parent-death signal, this
//! works for grandchildren, on other systems than Linux, and when threads end early.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::lock::lock;

const SCRIPT: &str = include_str!("guardian.sh");

/// A process group that is killed when this is dropped or this process ends.
pub(super) struct Group {
    id: Pid,
    guardian: Arc<Mutex<Guardian>>,
}

impl Group {
    pub(super) fn new(id: Pid, guardian: &Arc<Mutex<Guardian>>) -> io::Result<Self> {
        let group = Self { id, guardian: Arc::clone(guardian) };
        lock(guardian).add(id)?;
        Ok(group)
    }

    pub(super) fn signal(&self, signal: Signal) {
        match kill_process_group(self.id, signal) {
            // SRCH: the group has already ended.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => {
                tracing::warn!(group = ?self.id, %error, "cannot signal a process group");
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        lock(&self.guardian).remove(self.id);
    }
}

#[derive(Default)]
pub(super) struct Guardian {
    shell: Option<Child>,
    groups: BTreeSet<i32>,
}

impl Guardian {
    /// Adds a group. When this returns, the shell knows it.
    pub(super) fn add(&mut self, group: Pid) -> io::Result<()> {
        let group = group.as_raw_nonzero().get();
        self.groups.insert(group);
        if self.send("add", group).is_ok() {
            return Ok(());
        }
        // No shell runs yet, or it was killed: start one and send all groups.
        self.end();
        self.shell = Some(spawn()?);
        self.groups.clone().into_iter().try_for_each(|group| self.send("add", group))
    }

    /// Removes a group that has ended: its id can be reused.
    pub(super) fn remove(&mut self, group: Pid) {
        let group = group.as_raw_nonzero().get();
        self.groups.remove(&group);
        // A shell that ended needs no update.
        drop(self.send("drop", group));
    }

    fn send(&mut self, verb: &str, group: i32) -> io::Result<()> {
        let shell = self.shell.as_mut().and_then(|shell| shell.stdin.as_mut());
        shell.ok_or(io::ErrorKind::NotConnected)?.write_all(format!("{verb} {group}\n").as_bytes())
    }

    /// Closes the pipe and waits for the end of the shell.
    fn end(&mut self) {
        if let Some(mut shell) = self.shell.take() {
            drop(shell.stdin.take());
            if let Err(error) = shell.wait() {
                tracing::warn!(%error, "cannot wait for the guardian");
            }
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts the shell in a separate process group, so that Ctrl-C does not reach it.
fn spawn() -> io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", SCRIPT, "localcloud-guardian"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}
