//! One child, spawned so that it can't outlive its supervisor, with its output passed on.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, getpid, getppid};
use tokio::sync::oneshot;

use super::reaper::Reaper;
use crate::core::restart::Ended;
use crate::util::lock::lock;
use crate::util::logger;

/// How much of a child's output is kept for the verdict on its end; etcd's last words before a fatal exit fit in it.
const TAIL_BYTES: usize = 16 << 10;
/// A longer line is passed on in pieces: a line without an end must not be buffered for ever.
const LONGEST_LINE: u64 = 64 << 10;
/// How long to wait for the rest of an ended child's output.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(200);

/// nice(2).
const LOWEST_PRIORITY: libc::c_int = 19;
/// ioprio_set(2): of one process; the class "idle".
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_IDLE: libc::c_int = 3 << 13;
/// proc(5), oom_score_adj.
const FIRST_TO_GO: &str = "1000";

/// A program that is started for its output on stdout.
#[derive(Debug)]
pub struct Output {
    pid: Pid,
    stdout: Option<ChildStdout>,
    reaper: Reaper,
}

impl Output {
    /// Starts it.
    ///
    /// # Errors
    /// `exec` fails: no such file, not executable.
    #[expect(clippy::disallowed_methods, reason = "the one file that spawns")]
    pub fn of(program: &Path, argument: &str, reaper: &Reaper) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg(argument).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        reaper.expect(pid);
        Ok(Self { pid, stdout: child.stdout.take(), reaper: reaper.clone() })
    }

    /// Waits for its end; returns its output, which must fit in a pipe (64 KiB).
    ///
    /// # Errors
    /// The pipe fails.
    pub async fn finish(mut self) -> io::Result<String> {
        self.reaper.wait(self.pid).await;
        let mut text = String::new();
        self.stdout.take().map_or(Ok(0), |mut stdout| stdout.read_to_string(&mut text))?;
        Ok(text)
    }
}

impl Drop for Output {
    /// It is no longer waited for: a stop came first, and it may hang.
    fn drop(&mut self) {
        if !self.reaper.has_ended(self.pid) {
            let _gone = kill(self.pid, Signal::SIGKILL);
        }
    }
}

/// A program that is run for a purpose of ours beside etcd: at the lowest priority, the first to go when memory is short, and never longer than this
/// value lives.
#[derive(Debug)]
pub struct Helper {
    pid: Pid,
    reaper: Reaper,
}

/// How much of the machine a helper gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Priority {
    /// What nobody else wants: an etcd serves here.
    Lowest,
    /// As much as we: nothing serves here until it is done.
    Ours,
}

impl Helper {
    /// Starts it in that directory, with exactly this environment; what it says goes into the file. Call on the main thread only, as
    /// [`Child::spawn`].
    ///
    /// # Errors
    /// `exec` fails: no such file, not executable.
    #[expect(
        unsafe_code,
        reason = "pre_exec: the closure only calls sigprocmask, prctl, getppid, nice and ioprio_set, all async-signal-safe"
    )]
    #[expect(clippy::disallowed_methods, reason = "the one file that spawns")]
    pub fn spawn(
        program: &Path,
        arguments: &[String],
        env: &BTreeMap<String, String>,
        directory: &Path,
        output: &File,
        reaper: &Reaper,
        priority: Priority,
    ) -> io::Result<Self> {
        let us = getpid();
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(env).current_dir(directory);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
        unsafe {
            command.pre_exec(move || {
                SigSet::empty().thread_set_mask()?;
                // What it does is of no use without us.
                set_pdeathsig(Signal::SIGKILL)?;
                if getppid() != us {
                    return Err(io::Error::other("the supervisor is gone"));
                }
                if priority == Priority::Lowest {
                    // Both only make it slower: that they fail is no reason not to run it.
                    let _as_it_is = libc::nice(LOWEST_PRIORITY);
                    let _as_it_is = libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE);
                }
                Ok(())
            });
        }
        let pid = Pid::from_raw(i32::try_from(command.spawn()?.id()).map_err(io::Error::other)?);
        reaper.expect(pid);
        let _as_it_is = fs::write(format!("/proc/{pid}/oom_score_adj"), FIRST_TO_GO);
        Ok(Self { pid, reaper: reaper.clone() })
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits that long for its end; `None`: it still runs.
    pub async fn wait_within(&self, patience: Duration) -> Option<Ended> {
        tokio::time::timeout(patience, self.reaper.wait(self.pid)).await.ok()
    }

    /// Asks it to end, and waits that long; false: it still runs.
    pub async fn stop(&self, patience: Duration) -> bool {
        if !self.reaper.has_ended(self.pid) {
            let _gone = kill(self.pid, Signal::SIGTERM);
        }
        self.wait_within(patience).await.is_some()
    }

    /// Kills it, and waits until it is gone.
    pub async fn end(&self) {
        self.kill();
        self.reaper.wait(self.pid).await;
    }

    fn kill(&self) {
        if !self.reaper.has_ended(self.pid) {
            let _gone = kill(self.pid, Signal::SIGKILL);
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of a child's output.
#[derive(Clone, Debug, Default)]
pub struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// The current contents.
    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self.held().iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Appends a line, and drops lines that are too old.
    pub fn push(&self, line: &[u8]) {
        let mut held = self.held();
        held.extend(line);
        let surplus = held.len().saturating_sub(TAIL_BYTES);
        held.drain(..surplus);
    }

    fn held(&self) -> MutexGuard<'_, VecDeque<u8>> {
        lock(&self.0)
    }
}

/// A running child.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    reaper: Reaper,
    output: Tail,
    /// Resolves when all output has been passed on.
    passed_on: oneshot::Receiver<()>,
}

impl Child {
    /// Spawns `program` with exactly this environment. Call on the main thread only: the kernel sends the parent-death signal
    /// when the spawning *thread* ends.
    ///
    /// # Errors
    /// `exec` fails: no such file, not executable.
    #[expect(
        unsafe_code,
        reason = "pre_exec: the closure only calls sigprocmask, prctl and getppid, all async-signal-safe"
    )]
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn(program: &Path, env: &BTreeMap<String, String>, reaper: &Reaper) -> io::Result<Self> {
        let supervisor = getpid();
        let mut command = Command::new(program);
        let (pipe, stderr) = io::pipe()?;
        command.env_clear().envs(env).stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(stderr);
        unsafe {
            command.pre_exec(move || {
                // A child inherits the blocked signals (Rust 1.66 and later do not change the mask), and would never receive
                // SIGTERM.
                SigSet::empty().thread_set_mask()?;
                set_pdeathsig(Signal::SIGTERM)?;
                // The supervisor may have died before the line above.
                if getppid() != supervisor {
                    return Err(io::Error::other("the supervisor is gone"));
                }
                Ok(())
            });
        }
        let output = Tail::default();
        let kept = output.clone();
        let (done, passed_on) = oneshot::channel();
        // Always drained, so that an unread stderr blocks neither etcd nor us. The reading thread is started before the child,
        // which would otherwise run without a reader if no thread can be started.
        std::thread::Builder::new().name("etcd-output".to_owned()).stack_size(64 << 10).spawn(move || {
            pass_on(pipe, logger::pass_on, &kept);
            drop(done);
        })?;
        let child = command.spawn();
        // Our end of etcd's stderr: while it is open, etcd's output has no end.
        drop(command);
        let pid = Pid::from_raw(i32::try_from(child?.id()).map_err(io::Error::other)?);
        reaper.expect(pid);
        Ok(Self { pid, reaper: reaper.clone(), output, passed_on })
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn has_ended(&self) -> bool {
        self.reaper.has_ended(self.pid)
    }

    /// Waits for its end. Cancel-safe.
    pub async fn wait(&self) -> Ended {
        self.reaper.wait(self.pid).await
    }

    /// The end of its output; complete once the child has ended.
    pub async fn last_words(&mut self) -> String {
        // A grandchild that still has the pipe open must not block us.
        let _ended = tokio::time::timeout(OUTPUT_PATIENCE, &mut self.passed_on).await;
        self.output.text()
    }

    /// The end of its output so far.
    pub fn output(&self) -> &Tail {
        &self.output
    }

    /// Asks it to stop, waits that long, then kills it.
    pub async fn stop(&self, patience: Duration) -> Ended {
        match self.stop_within(patience).await {
            Some(ended) => ended,
            None => {
                log::warn!("etcd did not stop within {} s, killing it", patience.as_secs());
                self.kill().await
            }
        }
    }

    /// Asks it to stop, and waits that long; `None`: it still runs.
    pub async fn stop_within(&self, patience: Duration) -> Option<Ended> {
        self.signal(Signal::SIGTERM);
        self.wait_within(patience).await
    }

    /// Waits that long for its end; `None`: it still runs.
    pub async fn wait_within(&self, patience: Duration) -> Option<Ended> {
        tokio::time::timeout(patience, self.wait()).await.ok()
    }

    /// Kills it.
    pub async fn kill(&self) -> Ended {
        self.signal(Signal::SIGKILL);
        self.wait().await
    }

    fn signal(&self, signal: Signal) {
        if !self.has_ended()
            && let Err(error) = kill(self.pid, signal)
        {
            log::warn!("{signal} to etcd ({}): {error}", self.pid);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
    }
}

/// Line by line, so that none of our lines lands in the middle of one of etcd's.
fn pass_on(stream: impl Read, mut out: impl FnMut(&[u8]), tail: &Tail) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while let Ok(1..) = stream.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
        out(&line);
        tail.push(&line);
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was passed on at once.
    fn passed_on(stream: impl Read, tail: &Tail) -> Vec<String> {
        let mut writes = Vec::new();
        pass_on(stream, |line| writes.push(String::from_utf8_lossy(line).into_owned()), tail);
        writes
    }

    #[test]
    fn output_is_passed_on_by_whole_lines_however_it_comes() {
        let pieces = b"one li".chain(&b"ne\nanother\nand a last"[..]);
        let tail = Tail::default();
        assert_eq!(passed_on(pieces, &tail), ["one line\n", "another\n", "and a last"]);
        assert_eq!(tail.text(), "one line\nanother\nand a last");
    }

    #[test]
    fn a_line_without_an_end_is_passed_on_in_pieces() {
        let writes = passed_on(io::repeat(b'x').take(LONGEST_LINE + 1), &Tail::default());
        assert_eq!(writes.iter().map(String::len).collect::<Vec<_>>(), [64 << 10, 1]);
    }
}
