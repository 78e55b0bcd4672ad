//! A running member of an instance that is about to end: watched for, and taken out of the cluster if the rest keeps its
//! quorum.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::lifecycle_hooks::{LifecycleHooks, Transition};
use super::termination_notice::{POLL, TerminationNotices};
use crate::core::departure::{Leave, Seen, StayReason, heir, leave};
use crate::core::types::{InstanceId, Known, Member, MemberId};
use crate::core::view::Ending;
use crate::etcd::client::{Client, MemberList, Status};
use crate::peer::server::AcceptorState;
use crate::util::clock;
use crate::util::words;

/// While leaving, and until we vote.
const SOON: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// For a change of members or of the leader.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// What may pass (a learner that catches up, a voter that restarts) is waited for so long before the group is told to go on.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks after one life of etcd, beside its attendant.
#[derive(Debug)]
pub struct Departure<'a> {
    pub etcd: &'a Client,
    pub acceptor_state: &'a AcceptorState,
    pub notices: &'a TerminationNotices,
    pub hooks: &'a Arc<LifecycleHooks>,
    pub instance: InstanceId,
    pub own_client_url: String,
    /// Client URLs of the cluster's other members: a learner answers little itself.
    pub others: Vec<String>,
}

impl Departure<'_> {
    /// Attends until our member has left the cluster, which is then on record. Cancel-safe.
    pub async fn until_left(&self) {
        tokio::select! {
            () = self.watch() => {}
            () = self.welcome() => {}
        }
    }

    /// The launch hook is completed once we vote: promoted in sync, and healthy by a read through the quorum.
    async fn welcome(&self) {
        if self.hooks.are_wanted() {
            while !self.votes().await {
                clock::pause(SOON).await;
            }
            self.hooks.complete(Transition::Launch, &self.instance);
        }
        std::future::pending().await
    }

    async fn votes(&self) -> bool {
        let Ok(status) = self.etcd.status(&self.own_client_url, ANSWER_TIMEOUT).await else { return false };
        let healthy = async { matches!(self.etcd.health(&self.own_client_url, ANSWER_TIMEOUT).await, Ok(Ok(()))) };
        status.leader.is_some() && !status.is_learner && healthy.await
    }

    async fn watch(&self) {
        if !self.notices.are_wanted() {
            std::future::pending::<()>().await;
        }
        let mut said = String::new();
        loop {
            let ended_before = self.notices.proven_since().is_some();
            let pause = match self.notices.read().await {
                Known::Known(Some(ending)) => {
                    if !ended_before {
                        log::info!("this instance is about to end: {ending}");
                    }
                    match self.depart(&ending, &mut said).await {
                        Some(pause) => pause,
                        None => return,
                    }
                }
                Known::Known(None) => {
                    self.hooks.recall_termination();
                    if ended_before {
                        log::info!("EC2 cancelled the termination of this instance");
                    }
                    said.clear();
                    POLL
                }
                // Nothing follows from silence: neither an end, nor that one is called off.
                Known::Unknown(cause) => {
                    say(&mut said, format!("whether this instance is about to end is unknown: {cause}"));
                    POLL
                }
            };
            clock::pause(pause).await;
        }
    }

    /// One attempt; `None`: we have left. Else how long until the next.
    async fn depart(&self, ending: &Ending, said: &mut String) -> Option<Duration> {
        let stay = match self.look().await {
            Err(cause) => StayReason::Unknown(format!("the cluster can't be asked: {cause}")),
            Ok((seen, leader_url)) => match (leave(&seen), leader_url) {
                (Leave::Out, _) => return self.left(seen.me, ending),
                (Leave::Remove { .. }, Some(url)) => {
                    match self.etcd.member_remove(&url, seen.me, CHANGE_TIMEOUT).await {
                        Ok(()) => return self.left(seen.me, ending),
                        // What became of it shows in the next round, or in etcd's end.
                        Err(error) => StayReason::Unknown(format!("its removal isn't confirmed: {error}")),
                    }
                }
                (Leave::Remove { .. }, None) => StayReason::NoLeader,
                (Leave::HandOver(heir), _) => match self.hand_over(heir).await {
                    Ok(()) => return Some(Duration::ZERO),
                    Err(cause) => StayReason::Unknown(cause),
                },
                (Leave::StayReason(why), _) => {
                    if let Some(heir) = heir(&seen)
                        && let Err(cause) = self.hand_over(heir).await
                    {
                        log::warn!("{cause}");
                    }
                    why
                }
            },
        };
        let overdue = self.notices.proven_since().is_some_and(|since| clock::now() - since >= PATIENCE);
        if overdue || !stay.may_pass() {
            self.hooks.complete(Transition::Terminate, &self.instance);
        }
        say(said, format!("this instance is about to end, and its member stays until then: {stay}"));
        Some(if overdue { POLL } else { SOON })
    }

    fn left(&self, member: MemberId, ending: &Ending) -> Option<Duration> {
        log::info!("member {member} has left the cluster: {ending}");
        if let Err(error) = self.acceptor_state.amend(|ledger| ledger.left = true) {
            // The member list says the same, as long as it can be read.
            log::error!("{error}");
        }
        None
    }

    async fn hand_over(&self, heir: MemberId) -> Result<(), String> {
        match self.etcd.move_leader(&self.own_client_url, heir, CHANGE_TIMEOUT).await {
            Ok(()) => {
                log::info!("leadership moved to member {heir}");
                Ok(())
            }
            Err(error) => Err(format!("leadership could not be moved: {error}")),
        }
    }

    /// The cluster as it is now, and the leader's client URL.
    async fn look(&self) -> Result<(Seen, Option<String>), String> {
        let status = self.etcd.status(&self.own_client_url, ANSWER_TIMEOUT).await.map_err(|e| e.to_string())?;
        let list = self.list(&status).await?;
        let healthy = self.ask_health(&list.members, status.member).await;
        let leader = list.members.iter().find(|m| Some(m.id) == status.leader);
        let leader_url = leader.and_then(|m| m.client_urls.first().cloned());
        Ok((Seen { members: list.members, healthy, me: status.member, leader: status.leader }, leader_url))
    }

    /// The member list through the quorum; 3.4 gives what it has, so a read through the quorum goes first.
    async fn list(&self, status: &Status) -> Result<MemberList, String> {
        let sources =
            if status.is_learner { self.others.as_slice() } else { std::slice::from_ref(&self.own_client_url) };
        let mut trouble = "no other member is known".to_owned();
        for url in sources {
            let listed = async {
                self.etcd.read_through_quorum(url, ANSWER_TIMEOUT).await?;
                self.etcd.member_list(url, ANSWER_TIMEOUT).await
            };
            match listed.await {
                Ok(list) if list.cluster == status.cluster => return Ok(list),
                Ok(list) => trouble = format!("{} is of cluster {}", words::without_secrets(url), list.cluster),
                Err(error) => trouble = error.to_string(),
            }
        }
        Err(trouble)
    }

    async fn ask_health(&self, members: &[Member], me: MemberId) -> BTreeSet<MemberId> {
        let mut questions = JoinSet::new();
        for member in members.iter().filter(|m| m.id != me && !m.is_learner) {
            let (etcd, id, urls) = (self.etcd.clone(), member.id, member.client_urls.clone());
            questions.spawn(async move { etcd.is_healthy(&urls, ANSWER_TIMEOUT).await.then_some(id) });
        }
        let mut healthy = BTreeSet::new();
        while let Some(answered) = questions.join_next().await {
            healthy.extend(answered.ok().flatten());
        }
        healthy
    }
}

/// One line, unless it was the last one said.
fn say(said: &mut String, line: String) {
    if *said != line {
        log::warn!("{line}");
        *said = line;
    }
}
