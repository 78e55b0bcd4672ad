//! A vote on paper: the member list has us as a voter, and raft as a learner.
//!
//! `member update` of a learner makes such a member on etcd up to 3.5.30 and 3.6.11, even with its unchanged URLs (etcd#21694; seen on
//! 3.4.23, 3.5.1, 3.5.30, 3.6.11). It reports itself healthy, serves reads, and does not count: writes go on without it, leadership
//! handed to it times out. `etcd_server_is_learner` in its metrics tells it too, but not after a raft snapshot and a restart
//! (3.5.30); raft's own list in the backend does, from 3.5 on, and of every member.

use std::time::Duration;

use super::{MemberMonitor, Progress};
use crate::core::types::MemberId;
use crate::util::clock;

/// etcd writes its backend every 0.1 s, or at the end of a batch: so long at most it lacks a promotion.
const BACKEND_LAGS: Duration = Duration::from_secs(2);

impl MemberMonitor<'_> {
    /// Whether raft has us as a learner; `false` too where that is unknown, or our promotion is too recent to tell.
    pub(super) async fn votes_on_paper_only(&self, progress: &mut Progress) -> bool {
        let was_promoted = progress.promoted_at.is_some_and(|at| clock::now() - at < BACKEND_LAGS);
        let on_paper = match progress.member {
            Some(member) if !was_promoted => self.paths.never_vote().await.contains(&member),
            _ => false,
        };
        progress.on_paper_since = progress.on_paper_since.or_else(|| Some(clock::now())).filter(|_| on_paper);
        on_paper
    }

    /// Not ready; said aloud once it has lasted, because a promotion just before a crash is not in the backend yet.
    pub(super) fn report_vote_on_paper(&self, progress: &mut Progress, member: MemberId) {
        let line = format!(
            "member {member} is listed as a voter, but it is a learner to raft: its vote does not count, and it can't lead (a \
             member update made a learner of etcd up to 3.5.30 or 3.6.11 so); remove it (etcdctl member remove {member}), and \
             this node joins again by itself"
        );
        progress.ready = false;
        let has_lasted = progress.on_paper_since.is_some_and(|since| clock::now() - since >= BACKEND_LAGS);
        match has_lasted {
            true => self.set_health_problem(progress, "on_paper", line),
            false => self.set_not_ready("on_paper", &line),
        }
    }
}
