//! The only caller of `waitpid`: as PID 1 this process inherits every orphan of the container.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::Notify;

use super::signals::ChildExits;
use crate::core::restart::Ended;
use crate::util::lock::lock;

/// Children are checked this often even without a SIGCHLD: a lost signal must not leave an ended etcd unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Reports the ends of our own children; reaps all others.
#[derive(Clone, Debug, Default)]
pub struct Reaper {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// `None` while a child that we spawned runs.
    ours: Mutex<BTreeMap<i32, Option<Ended>>>,
    ended: Notify,
}

impl Reaper {
    /// Starts reaping.
    pub fn start(mut exits: ChildExits) -> Self {
        let reaper = Self::default();
        let this = reaper.clone();
        tokio::spawn(async move {
            loop {
                this.reap();
                let _either_way = tokio::time::timeout(LOOK_EVERY, exits.next()).await;
            }
        });
        reaper
    }

    /// Announces that this child's end will be asked for. Must be called before the runtime's next turn, so that the end can't
    /// be missed.
    pub(super) fn expect(&self, pid: Pid) {
        self.ours().insert(pid.as_raw(), None);
    }

    /// Waits for the end of one of our children. Cancel-safe; the end is stored until it is read.
    pub async fn wait(&self, pid: Pid) -> Ended {
        loop {
            let changed = self.shared.ended.notified();
            if let Some(Some(ended)) = self.ours().get(&pid.as_raw()) {
                return *ended;
            }
            changed.await;
        }
    }

    /// Whether the child's end has been seen.
    pub fn has_ended(&self, pid: Pid) -> bool {
        matches!(self.ours().get(&pid.as_raw()), Some(Some(_)))
    }

    /// Our children whose end has not been seen.
    pub(super) fn running(&self) -> Vec<Pid> {
        let ours = self.ours();
        ours.iter().filter(|(_, ended)| ended.is_none()).map(|(pid, _)| Pid::from_raw(*pid)).collect()
    }

    /// Collects all children that have ended, from any thread.
    pub(super) fn reap(&self) {
        loop {
            match wait_for_any() {
                Ok(Some((pid, status))) => self.note(pid, status),
                Err(Errno::EINTR) => {}
                // No child has ended; or, ECHILD, there is none.
                Ok(None) | Err(Errno::ECHILD) => break,
                Err(error) => {
                    log::error!("waitpid: {error}");
                    break;
                }
            }
        }
        self.look_for_ours();
    }

    fn note(&self, pid: i32, status: ExitStatus) {
        let ended = match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Exited(code),
            (None, Some(signal)) => Ended::Signaled(signal),
            // Stopped or continued, which was not requested: not an end.
            (None, None) => return,
        };
        if let Some(slot) = self.ours().get_mut(&pid) {
            *slot = Some(ended);
            self.shared.ended.notify_waiters();
        }
    }

    /// One of our children that the kernel no longer knows has ended in an unknown way: something else read its status.
    fn look_for_ours(&self) {
        let mut ours = self.ours();
        for (pid, slot) in ours.iter_mut().filter(|(_, slot)| slot.is_none()) {
            let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            if waitid(Id::Pid(Pid::from_raw(*pid)), look) == Err(Errno::ECHILD) {
                log::error!("process {pid} has ended, and the kernel does not report how: treating it as killed");
                *slot = Some(Ended::Unseen);
                self.shared.ended.notify_waiters();
            }
        }
    }

    fn ours(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, Option<Ended>>> {
        lock(&self.shared.ours)
    }
}

/// One child that has ended, with the kernel's own status. nix's type has no room for the real-time signals, which can end a Go
/// program like any other (nix::sys::signal::Signal; signal(7)): the child would be reaped and its status lost.
#[expect(unsafe_code, reason = "waitpid(2) writes one int, to a place that outlives the call")]
fn wait_for_any() -> Result<Option<(i32, ExitStatus)>, Errno> {
    let mut status = 0;
    match Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) })? {
        0 => Ok(None),
        pid => Ok(Some((pid, ExitStatus::from_raw(status)))),
    }
}
