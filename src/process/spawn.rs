//! One child, spawned so that it can't outlive its supervisor, its output passed on.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, getpid, getppid};
use tokio::sync::oneshot;

use super::reaper::Reaper;
use crate::core::restart::Ended;
use crate::util::logger;

/// What is kept of a child's output for the verdict on its end; etcd's last words before a fatal exit fit in it.
const TAIL_BYTES: usize = 16 << 10;
/// A line that is longer comes in pieces: what doesn't end must not be kept for ever.
const LONGEST_LINE: u64 = 64 << 10;
/// How long the rest of an ended child's output is waited for.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(200);

/// A program that was started for what it writes to stdout.
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
    /// What `exec` says: no such file, not executable.
    #[expect(clippy::disallowed_methods, reason = "the one file that spawns")]
    pub fn of(program: &Path, argument: &str, reaper: &Reaper) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg(argument).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        reaper.expect(pid);
        Ok(Self { pid, stdout: child.stdout.take(), reaper: reaper.clone() })
    }

    /// Waits for its end; what it wrote, which must fit in a pipe (64 KiB).
    ///
    /// # Errors
    /// The pipe's.
    pub async fn finish(mut self) -> io::Result<String> {
        self.reaper.wait(self.pid).await;
        let mut text = String::new();
        self.stdout.take().map_or(Ok(0), |mut stdout| stdout.read_to_string(&mut text))?;
        Ok(text)
    }
}

impl Drop for Output {
    /// Nobody waits for it any more: a stop came first, and it may be one that hangs.
    fn drop(&mut self) {
        if !self.reaper.has_ended(self.pid) {
            let _gone = kill(self.pid, Signal::SIGKILL);
        }
    }
}

/// A running child.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    reaper: Reaper,
    tail: Arc<Mutex<VecDeque<u8>>>,
    /// Resolves when all output has been passed on.
    passed_on: oneshot::Receiver<()>,
}

impl Child {
    /// Spawns `program` with exactly this environment. Call on the main thread only: the kernel sends the parent-death
    /// signal when the spawning *thread* ends.
    ///
    /// # Errors
    /// What `exec` says: no such file, not executable.
    #[expect(
        unsafe_code,
        reason = "pre_exec: the closure only calls sigprocmask, prctl and getppid, all async-signal-safe"
    )]
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn(program: &Path, env: &BTreeMap<String, String>, reaper: &Reaper) -> io::Result<Self> {
        let supervisor = getpid();
        let mut command = Command::new(program);
        let (output, stderr) = io::pipe()?;
        command.env_clear().envs(env).stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(stderr);
        unsafe {
            command.pre_exec(move || {
                // A child inherits what is blocked here (Rust 1.66 and later leave the mask alone), and would never hear SIGTERM.
                SigSet::empty().thread_set_mask()?;
                set_pdeathsig(Signal::SIGTERM)?;
                // The supervisor may have died before the line above.
                if getppid() != supervisor {
                    return Err(io::Error::other("the supervisor is gone"));
                }
                Ok(())
            });
        }
        let tail = Arc::<Mutex<VecDeque<u8>>>::default();
        let kept = tail.clone();
        let (done, passed_on) = oneshot::channel();
        // Always drained, so that a stderr nobody reads holds up neither etcd nor us. Had before the child is, which would else run
        // on without a reader where no thread is to be had.
        std::thread::Builder::new().name("etcd-output".to_owned()).stack_size(64 << 10).spawn(move || {
            pass_on(output, logger::pass_on, &kept);
            drop(done);
        })?;
        let child = command.spawn();
        // Our end of etcd's stderr: while it is open, there is no end of etcd's output.
        drop(command);
        let pid = Pid::from_raw(i32::try_from(child?.id()).map_err(io::Error::other)?);
        reaper.expect(pid);
        Ok(Self { pid, reaper: reaper.clone(), tail, passed_on })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.reaper.has_ended(self.pid)
    }

    /// Waits for its end. Cancel-safe.
    pub async fn wait(&self) -> Ended {
        self.reaper.wait(self.pid).await
    }

    /// The last of its output; whole once the child has ended.
    pub async fn last_words(&mut self) -> String {
        // A grandchild that still holds the pipe must not hold us up.
        let _ended = tokio::time::timeout(OUTPUT_PATIENCE, &mut self.passed_on).await;
        self.tail()
    }

    /// The last of its output so far.
    pub fn tail(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        String::from_utf8_lossy(&tail.iter().copied().collect::<Vec<u8>>()).into_owned()
    }

    /// Asks it to stop, waits so long, then kills it.
    pub async fn stop(&self, patience: Duration) -> Ended {
        match self.stop_within(patience).await {
            Some(ended) => ended,
            None => {
                log::warn!("etcd did not stop within {} s, killing it", patience.as_secs());
                self.kill().await
            }
        }
    }

    /// Asks it to stop, and waits so long; `None`: it is still there.
    pub async fn stop_within(&self, patience: Duration) -> Option<Ended> {
        self.signal(Signal::SIGTERM);
        self.wait_within(patience).await
    }

    /// Waits so long for its end; `None`: it is still there.
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

/// Line by line, so that none of ours comes into the middle of one of etcd's.
fn pass_on(stream: impl Read, mut out: impl FnMut(&[u8]), tail: &Mutex<VecDeque<u8>>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while let Ok(1..) = stream.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
        out(&line);
        let mut tail = tail.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        tail.extend(&line);
        let surplus = tail.len().saturating_sub(TAIL_BYTES);
        tail.drain(..surplus);
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was passed on at once.
    fn passed_on(stream: impl Read, tail: &Mutex<VecDeque<u8>>) -> Vec<String> {
        let mut writes = Vec::new();
        pass_on(stream, |line| writes.push(String::from_utf8_lossy(line).into_owned()), tail);
        writes
    }

    #[test]
    fn output_is_passed_on_by_whole_lines_however_it_comes() {
        let pieces = b"one li".chain(&b"ne\nanother\nand a last"[..]);
        let tail = Mutex::default();
        assert_eq!(passed_on(pieces, &tail), ["one line\n", "another\n", "and a last"]);
        let tail: Vec<u8> = tail.into_inner().unwrap().into();
        assert_eq!(tail, b"one line\nanother\nand a last");
    }

    #[test]
    fn a_line_without_an_end_is_passed_on_in_pieces() {
        let writes = passed_on(io::repeat(b'x').take(LONGEST_LINE + 1), &Mutex::default());
        assert_eq!(writes.iter().map(String::len).collect::<Vec<_>>(), [64 << 10, 1]);
    }
}
