//! The one caller of `waitpid`: as PID 1 this process inherits every orphan of the container.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::sync::Notify;

use super::signals::ChildExits;
use crate::cluster::supervision::Ended;

/// Hands out the ends of our own children; reaps all others.
#[derive(Clone, Debug, Default)]
pub struct Reaper {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// `None` while a child we spawned lives.
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
                exits.next().await;
            }
        });
        reaper
    }

    /// Says that this child's end will be asked for. Before the runtime's next turn, so that its end can't be missed.
    pub(super) fn expect(&self, pid: Pid) {
        self.ours().insert(pid.as_raw(), None);
    }

    /// Waits for the end of a child of ours. Cancel-safe; the end is kept until asked for.
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

    fn reap(&self) {
        loop {
            let (pid, ended) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Ended::Exited(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Ended::Signaled(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) | Ok(_) => continue,
                Err(error) => {
                    log::error!("waitpid: {error}");
                    return;
                }
            };
            if let Some(slot) = self.ours().get_mut(&pid.as_raw()) {
                *slot = Some(ended);
                self.shared.ended.notify_waiters();
            }
        }
    }

    fn ours(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, Option<Ended>>> {
        self.shared.ours.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
