//! Sees to it that no task outlives this process, not even after `kill -9`.
//!
//! A shell holds the reading end of a pipe and the list of process groups; when the pipe closes it kills them. What a
//! parent-death signal does not cover is covered so: grandchildren, other systems than Linux, threads that end early.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::lock::lock;

const SCRIPT: &str = include_str!("guardian.sh");

/// A process group that is watched for as long as this lives, and killed when it is dropped.
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
            // No such process: nobody is left, which is what we want.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => {
                tracing::warn!(group = ?self.id, %error, "a process group cannot be signalled");
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
    /// From the return on the group is watched.
    pub(super) fn add(&mut self, group: Pid) -> io::Result<()> {
        let group = group.as_raw_nonzero().get();
        self.groups.insert(group);
        if self.tell("add", group).is_ok() {
            return Ok(());
        }
        // There is no shell yet, or somebody ended it: a new one learns the whole list.
        self.end();
        self.shell = Some(spawn()?);
        self.groups.clone().into_iter().try_for_each(|group| self.tell("add", group))
    }

    /// The group has ended: its number may soon be another's.
    pub(super) fn remove(&mut self, group: Pid) {
        let group = group.as_raw_nonzero().get();
        self.groups.remove(&group);
        // A shell that has gone has no list either.
        drop(self.tell("drop", group));
    }

    fn tell(&mut self, verb: &str, group: i32) -> io::Result<()> {
        let shell = self.shell.as_mut().and_then(|shell| shell.stdin.as_mut());
        shell.ok_or(io::ErrorKind::NotConnected)?.write_all(format!("{verb} {group}\n").as_bytes())
    }

    /// Closes the pipe and waits until the shell has done its work.
    fn end(&mut self) {
        if let Some(mut shell) = self.shell.take() {
            drop(shell.stdin.take());
            if let Err(error) = shell.wait() {
                tracing::warn!(%error, "the guardian of the tasks' processes cannot be waited for");
            }
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.end();
    }
}

/// In a process group of its own, so that Ctrl-C on the terminal does not reach it.
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
