//! A requested stop: withdraws readiness, hands over leadership, asks etcd to end, and waits no longer than its data requires.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Daemon;
use super::lifecycle_hooks::Transition;
use crate::core::quorum::quorum;
use crate::core::release::Release;
use crate::core::restart::{Ended, stop_code};
use crate::core::stopping::{Patience, Seen, may_be_cut_short};
use crate::core::types::{InstanceId, Member, MemberId};
use crate::discovery::addresses;
use crate::etcd::client::{self, Client};
use crate::etcd::data_dir::Paths;
use crate::process::spawn::Child;

/// Moving leadership must not delay a stop longer than this.
const MOVE_LEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// For one voter to report that it could lead.
const HEIR_TIMEOUT: Duration = Duration::from_millis(300);
/// For the others to report that they are a quorum.
const QUORUM_TIMEOUT: Duration = Duration::from_secs(1);
/// Nor must a lifecycle hook; the hook's own timeout applies anyway.
const HOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// A member that was removed from its cluster ends by itself within some 30 ms, and its clients' streams with it. Only if it is
/// asked to stop at that moment does it serve them for 7 s more, although they see nothing any longer (measured on 3.5.33,
/// 3.6.16 and 3.7.3).
const OWN_END: Duration = Duration::from_millis(500);

/// The other members, by which a stopping etcd is judged.
struct Others {
    voters: Vec<Member>,
    needed: usize,
}

impl Daemon {
    /// A requested stop. If the instance is about to be terminated, nothing is left to wait for once etcd has stopped.
    pub(super) async fn stop(&mut self) -> i32 {
        let code = self.stop_etcd().await;
        if self.notices.proven_since().is_some() {
            self.hooks.complete(Transition::Terminate, &InstanceId(self.identity.instance.clone()));
            self.hooks.settle(HOOK_TIMEOUT).await;
        }
        code
    }

    /// Leadership first, then etcd.
    async fn stop_etcd(&mut self) -> i32 {
        self.notify.tell("STOPPING=1");
        self.recorder.stopping();
        let Some(child) = &self.child else {
            self.obeyed.set();
            log::info!("stopped");
            return 0;
        };
        if self.acceptor_state.ledger().left {
            self.obeyed.set();
            end_what_left(child).await;
            log::info!("etcd stopped");
            return 0;
        }
        let others = match child.has_ended() {
            true => Err(Patience::Unknown("etcd had already ended".to_owned())),
            false => self.hand_over().await,
        };
        self.obeyed.set();
        match self.drain(child, others).await {
            ended if stop_code(ended) == 0 => {
                log::info!("etcd stopped");
                0
            }
            ended => {
                log::warn!("etcd ended with {ended:?} when stopped");
                stop_code(ended)
            }
        }
    }

    /// Gives up leadership, and returns the members that can do without us.
    async fn hand_over(&self) -> Result<Others, Patience> {
        let settings = self.settings();
        let (client_url, peer_url) = (addresses::own_client_url(&settings), addresses::own_peer_url(&settings));
        let moving =
            tokio::time::timeout(MOVE_LEADER_TIMEOUT, move_leadership(&self.etcd, &client_url, &settings.paths));
        // Best effort. An etcd that does not answer is not queried a second time.
        moving.await.map_err(|_| Patience::Unknown("it does not answer".to_owned()))?;
        let survives_a_kill = self.release().is_some_and(Release::survives_a_kill);
        let unknown = |error: client::Error| Patience::Unknown(error.to_string());
        let status = self.etcd.status(&client_url, QUORUM_TIMEOUT).await.map_err(unknown)?;
        // A stop may come between an election and the observation that would have seen it. Data that elected never gives way
        // (R6).
        if status.leader.is_some()
            && let Err(error) = self.acceptor_state.amend(|ledger| ledger.never_elected = false)
        {
            log::error!("{error}");
        }
        // Our own member's list: it may be slightly old, and each member's health is queried anyway.
        let members = self.etcd.peer_members(&peer_url, QUORUM_TIMEOUT).await.map_err(unknown)?.members;
        let voters: Vec<_> = members.iter().filter(|m| !m.is_learner).cloned().collect();
        let needed = quorum(voters.len());
        let never_vote = settings.paths.never_vote().await;
        let others = voters.into_iter().filter(|m| m.id != status.member && !never_vote.contains(&m.id));
        let voters: Vec<_> = others.collect();
        let healthy = healthy_of(&self.etcd, &voters, needed).await;
        let seen = Seen { members, healthy, me: status.member, leader: status.leader, survives_a_kill };
        may_be_cut_short(&seen).map(|()| Others { voters, needed })
    }

    /// Asks etcd to end. If the others have everything, its clients get `MUSTER_DRAIN_TIMEOUT` to disconnect; otherwise etcd
    /// gets `MUSTER_STOP_TIMEOUT`.
    async fn drain(&self, child: &Child, others: Result<Others, Patience>) -> Ended {
        let all = self.config.stop.timeout;
        let first = self.config.stop.drain_timeout.min(all);
        if let Some(ended) = child.stop_within(first).await {
            return ended;
        }
        // Checked again: much may have happened meanwhile.
        let why = match others {
            Err(patience) => patience,
            Ok(Others { voters, needed }) => {
                let healthy = healthy_of(&self.etcd, &voters, needed).await.len();
                if healthy >= needed {
                    log::info!(
                        "etcd still had clients after {} s (MUSTER_DRAIN_TIMEOUT); killing it: the others are a \
                         quorum and have everything that it acknowledged",
                        first.as_secs_f32()
                    );
                    return match child.kill().await {
                        // This is the intended end.
                        Ended::Signaled(9) => Ended::Exited(0),
                        other => other,
                    };
                }
                Patience::NoQuorum { healthy, needed }
            }
        };
        let (rest, all) = (all.saturating_sub(first), all.as_secs_f32());
        if !rest.is_zero() {
            let first = first.as_secs_f32();
            log::info!(
                "etcd has not ended after {first} s; waiting up to {all} s in total (MUSTER_STOP_TIMEOUT), because {why}"
            );
            if let Some(ended) = child.wait_within(rest).await {
                return ended;
            }
        }
        log::warn!("etcd did not stop within {all} s, killing it");
        child.kill().await
    }
}

/// Ends an etcd whose member has left or was removed: nothing needs its data, and its clients must notice that it is gone.
pub(super) async fn end_what_left(child: &Child) {
    if child.wait_within(OWN_END).await.is_none() {
        child.kill().await;
    }
}

/// The members that report themselves healthy; returns as soon as there are that many.
async fn healthy_of(etcd: &Client, members: &[Member], enough: usize) -> BTreeSet<MemberId> {
    let mut questions = JoinSet::new();
    for member in members {
        let (etcd, id, urls) = (etcd.clone(), member.id, member.client_urls.clone());
        let asked = async move { etcd.is_healthy(&urls, QUORUM_TIMEOUT).await.then_some(id) };
        questions.spawn(async move { tokio::time::timeout(QUORUM_TIMEOUT, asked).await.ok().flatten() });
    }
    let mut healthy = BTreeSet::new();
    while healthy.len() < enough
        && let Some(answered) = questions.join_next().await
    {
        healthy.extend(answered.ok().flatten());
    }
    healthy
}

/// Hands over to a healthy voter: after a hand-over to a dead one no write succeeds until the election timeout. If none is
/// healthy, as under an alarm, etcd's own stop hands over. Who is a voter in the member list only is never asked: to raft it is a
/// learner, and a hand-over to it times out (3.4.23, 3.5.30).
async fn move_leadership(etcd: &Client, url: &str, paths: &Paths) {
    let Ok(status) = etcd.status(url, MOVE_LEADER_TIMEOUT).await else { return };
    if status.leader != Some(status.member) {
        return;
    }
    let Ok(list) = etcd.member_list(url, MOVE_LEADER_TIMEOUT).await else { return };
    let never_vote = paths.never_vote().await;
    let heirs = list.members.iter().filter(|m| m.id != status.member && !m.is_learner && !never_vote.contains(&m.id));
    for heir in heirs {
        if !etcd.is_healthy(&heir.client_urls, HEIR_TIMEOUT).await {
            continue;
        }
        match etcd.move_leader(url, heir.id, MOVE_LEADER_TIMEOUT).await {
            Ok(()) => log::info!("leadership moved to member {}", heir.id),
            Err(error) => log::warn!("moving leadership failed: {error}"),
        }
        return;
    }
}
