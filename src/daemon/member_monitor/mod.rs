//! Monitors a running member: sees it elect a leader, promotes it when in sync, reports readiness, and stops it if it must
//! yield.

mod claim;
mod members;
mod on_paper;
mod quorum;
mod readiness;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::quorum::{LOST_AFTER, Loss, report_quorum_back};
use super::claim_store::ClaimStore;
use crate::core::decide::{Attend, Running, YIELD_AFTER, attend};
use crate::core::paxos::RanAs;
use crate::core::release::Release;
use crate::core::types::{ClusterId, Member, MemberId};
use crate::core::view::LogEnd;
use crate::etcd::client::{self, Client, Health};
use crate::etcd::data_dir::Paths;
use crate::peer::server::AcceptorState;
use crate::process::notify::Notify;
use crate::process::spawn::Tail;
use crate::status::recorder::StatusRecorder;
use crate::util::clock;
use crate::util::log_once::LogOnce;

/// While waiting for something: short pauses at first, then longer ones.
const FIRST_POLL: Duration = Duration::from_millis(2);
const LONGEST_POLL: Duration = Duration::from_secs(1);
/// At rest: one request to our own etcd per interval.
const REST: Duration = Duration::from_secs(10);
/// A first run that serves nothing for this long never will: joining etcds ask each other's `/version` without a timeout, and
/// two that join at once wait for each other for ever (etcd#13623; seen on 3.4.23 and 3.5.1).
const SERVE_WITHIN: Duration = Duration::from_secs(15);
/// One request in this many is for the member list, which includes a read through the quorum.
const MEMBERS_EVERY: u32 = 6;
/// How often the list is read again at the next look because it has a member without client URLs.
const EARLY_LISTS: u32 = 3;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// For a change of our member, which may wait for the leader's own commit.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Monitors one run of etcd.
#[derive(Debug)]
pub struct MemberMonitor<'a> {
    pub etcd: &'a Client,
    pub paths: &'a Paths,
    /// The release that was started.
    pub installed: Option<Release>,
    pub acceptor_state: &'a AcceptorState,
    pub claim: &'a ClaimStore,
    pub notify: &'a Notify,
    pub recorder: &'a StatusRecorder,
    /// The last lines of etcd's output.
    pub output: &'a Tail,
    pub own_client_url: String,
    pub own_peer_url: String,
    /// The peer URLs under which our member is to be listed.
    pub advertised: Vec<String>,
    /// The URL at which clients reach this etcd.
    pub advertised_to_clients: Vec<String>,
    /// Client URLs of the cluster's other members: a learner can't be asked to promote itself.
    pub others: Vec<String>,
    pub spawned_at: Instant,
    /// It has no WAL yet, so that it can be stopped at any time.
    pub is_first_start: bool,
}

/// Why etcd is to be stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// R5.
    Yield,
    /// It hangs before it serves.
    Stuck,
    /// Its member has left the cluster; another task reports that.
    Left,
    /// It is restarted for the sake of a raft snapshot: not for an attendant to say.
    Prepared,
    /// An operator ordered what its data must not be in use for: not for an attendant to say.
    Ordered,
}

/// What is known of this run so far.
#[derive(Debug, Default)]
pub struct Progress {
    /// The peer port has answered.
    pub served: bool,
    /// By the peer port's word; `None`: it can't be told.
    release: Option<Release>,
    ready: bool,
    leaderless_since: Option<Instant>,
    /// By its own word: a learner when it was last seen.
    was_learner: bool,
    /// When it was first seen to be one no more. (A promotion may take as long as is waited for its answer.)
    promoted_at: Option<Instant>,
    /// Since then raft has it as a learner, though it is listed as a voter.
    on_paper_since: Option<Instant>,
    /// The quorum is lost, and that was reported.
    loss: Option<Loss>,
    cluster: Option<ClusterId>,
    member: Option<MemberId>,
    /// Nothing is left to do about the claim.
    claim_is_done: bool,
    /// The cluster's members, as last listed.
    members: Vec<Member>,
    /// How far the others' logs went at the last observation.
    logs: BTreeMap<MemberId, LogEnd>,
    /// The pause before the claim is tried again, and when.
    claim_pause: Duration,
    claim_due: Option<Instant>,
    /// The others have our address.
    address_is_published: bool,
    /// Why they do not, as last logged.
    address_problem: LogOnce,
    last_warning: LogOnce,
    /// How many members there are, and how many there should be, as last logged.
    size_problem: LogOnce,
    /// Queries at rest so far.
    questions: u32,
    /// Lists that were read early so far.
    early_lists: u32,
    /// Why it is not healthy, as last logged.
    health_problem: LogOnce,
}

impl MemberMonitor<'_> {
    /// Runs until etcd is to be stopped; otherwise for ever. Cancel-safe: `progress` outlives it.
    pub async fn until_stop(&self, progress: &mut Progress) -> Stop {
        let mut pause = FIRST_POLL;
        let yield_after = clock::jittered(YIELD_AFTER * 2);
        let serve_within = clock::jittered(SERVE_WITHIN * 2);
        loop {
            // At rest one request is enough: it includes a read through the quorum.
            self.recorder.heartbeat();
            if progress.ready && self.check_at_rest(progress).await {
                self.establish_claim(progress).await;
                clock::pause(REST).await;
                continue;
            }
            let running = self.observe(progress).await;
            if running.is_none() {
                self.note_unresponsive(progress);
            }
            if self.is_first_start && !progress.served && clock::now() - self.spawned_at >= serve_within {
                log::warn!("etcd has not served its peer port for {} s; restarting it", serve_within.as_secs());
                return Stop::Stuck;
            }
            let settled = progress.ready && running.is_some_and(|r| r.has_leader && !r.is_learner);
            match running.map(|r| attend(&Running { yield_after, ..r })) {
                Some(Attend::Yield) => {
                    log::info!(
                        "no leader for {} s, and none ever before; stopping etcd to serve the agreed list",
                        yield_after.as_secs()
                    );
                    return Stop::Yield;
                }
                Some(Attend::Promote(member)) => self.promote(member).await,
                Some(Attend::Keep) | None => {}
            }
            clock::pause(if settled { REST } else { pause }).await;
            pause = if settled { FIRST_POLL } else { (pause * 9 / 8).min(LONGEST_POLL) };
        }
    }

    /// By its own word, whose release this life's first look has seen.
    async fn health(&self, progress: &Progress) -> Result<Health, client::Error> {
        self.etcd.health_of(&self.own_client_url, progress.release, ANSWER_TIMEOUT).await
    }

    async fn is_healthy(&self, progress: &Progress) -> bool {
        matches!(self.health(progress).await, Ok(Health::Healthy))
    }

    async fn check_at_rest(&self, progress: &mut Progress) -> bool {
        progress.questions += 1;
        let well = if progress.questions == MEMBERS_EVERY {
            progress.questions = 0;
            self.observe_members(progress).await && !self.votes_on_paper_only(progress).await
        } else {
            self.is_healthy(progress).await
        };
        if well {
            self.observe_logs(progress).await;
        }
        match progress.member.filter(|_| well) {
            Some(member) => {
                self.set_ready(member);
                report_quorum_back(progress);
            }
            // 3.4 lists members without a quorum: only health ends a reported problem.
            None => progress.questions = 0,
        }
        well
    }

    async fn observe(&self, progress: &mut Progress) -> Option<Running> {
        let version = match self.etcd.peer_version(&self.own_peer_url, ANSWER_TIMEOUT).await {
            Ok(version) => version,
            Err(error) => {
                // This does not show that it serves: its TLS port completes handshakes before it has a WAL.
                if error.is_refusal() {
                    self.report_refusal(progress, &error).await;
                } else if progress.served {
                    self.set_not_ready("silent", &error.to_string());
                }
                return None;
            }
        };
        progress.served = true;
        progress.release = Release::parse(&version.etcdserver);
        self.record_serving();
        let never_elected = version.is_undecided() && self.acceptor_state.ledger().never_elected;
        // The client port does not answer before the first election: a status request would only wait.
        let patience = if version.is_undecided() && !progress.ready { LONGEST_POLL } else { ANSWER_TIMEOUT };
        let mut refused = false;
        let status = match self.etcd.status(&self.own_client_url, patience).await {
            Ok(status) => Some(status),
            // A status needs neither a quorum nor a leader: an error is about us (a certificate, a user), not the cluster.
            Err(error) if error.is_refusal() || matches!(error, client::Error::Api { .. }) => {
                refused = true;
                self.report_refusal(progress, &error).await;
                None
            }
            Err(_) => {
                if progress.ready {
                    self.set_not_ready("silent", "etcd's client port does not answer");
                }
                None
            }
        };
        let leader = status.as_ref().and_then(|s| s.leader);
        let is_learner = status.as_ref().is_some_and(|s| s.is_learner);
        if let Some(status) = &status {
            if progress.was_learner && !is_learner {
                progress.promoted_at = Some(clock::now());
            }
            progress.was_learner = is_learner;
            self.recorder.set_member(status.cluster, status.member, is_learner);
            self.record_member(status.cluster, status.member);
        }
        match (&status, leader) {
            (Some(status), Some(_)) if is_learner => {
                self.set_not_ready("learner", &format!("member {} is a learner until it is in sync", status.member));
            }
            (Some(status), None) => {
                let lost = progress.loss.as_ref().map(|loss| loss.line.clone());
                let line = lost.unwrap_or_else(|| format!("member {} sees no leader", status.member));
                self.set_not_ready("leaderless", &line);
            }
            _ => {}
        }
        if leader.is_some() {
            self.record_election();
            report_quorum_back(progress);
        }
        // At rest no leader is looked for, so the last time that one was seen may be long ago.
        progress.leaderless_since = match leader {
            Some(_) => None,
            None => progress.leaderless_since.or_else(|| Some(clock::now())),
        };
        let since = progress.leaderless_since.unwrap_or_else(clock::now);
        let without_leader_for = clock::now() - since;
        // A cluster that never elected has no quorum to lose: it yields.
        if without_leader_for >= LOST_AFTER
            && !self.acceptor_state.ledger().never_elected
            && (!refused || self.says_it_has_no_leader(progress).await)
        {
            self.report_loss(progress, status.as_ref().map(|s| s.member), since).await;
        }
        if let Some(status) = &status
            && leader.is_some()
            && !is_learner
        {
            progress.cluster = Some(status.cluster);
            progress.member = Some(status.member);
            if self.votes_on_paper_only(progress).await {
                self.recorder.set_member(status.cluster, status.member, true);
                self.report_vote_on_paper(progress, status.member);
                return None;
            }
            self.check_readiness(progress, status.member).await;
            self.establish_claim(progress).await;
        }
        Some(Running {
            member: status.as_ref().map_or(MemberId(0), |s| s.member),
            is_learner,
            has_leader: leader.is_some(),
            never_elected: never_elected && leader.is_none(),
            without_leader_for,
            yield_after: YIELD_AFTER,
        })
    }

    /// From now on a missing WAL is a lost one.
    fn record_serving(&self) {
        if self.acceptor_state.ledger().starting.is_some()
            && let Err(error) = self.acceptor_state.amend(|ledger| ledger.starting = None)
        {
            log::error!("{error}");
        }
    }

    /// Records whose data this is, as the WAL does too.
    fn record_member(&self, cluster: ClusterId, member: MemberId) {
        let ran_as = Some(RanAs { cluster, member });
        if self.acceptor_state.ledger().ran_as != ran_as
            && let Err(error) = self.acceptor_state.amend(|ledger| ledger.ran_as = ran_as)
        {
            log::error!("{error}");
        }
    }

    fn record_election(&self) {
        if self.acceptor_state.ledger().never_elected
            && let Err(error) = self.acceptor_state.amend(|ledger| ledger.never_elected = false)
        {
            log::error!("{error}");
        }
    }

    async fn promote(&self, member: MemberId) {
        if self.is_promoted_by(member, &self.others).await {
            return;
        }
        // With authentication enabled only the leader can promote, and it may not be among the members seen before the start.
        for url in &self.others {
            if let Ok(list) = self.etcd.member_list(url, ANSWER_TIMEOUT).await {
                let urls = list.members.into_iter().filter(|m| m.id != member).flat_map(|m| m.client_urls);
                self.is_promoted_by(member, &urls.collect::<Vec<_>>()).await;
                return;
            }
        }
    }

    /// Whether one of these has promoted it, or answered that it is too early.
    async fn is_promoted_by(&self, member: MemberId, urls: &[String]) -> bool {
        for url in urls {
            match self.etcd.member_promote(url, member, CHANGE_TIMEOUT).await {
                Ok(()) => {
                    log::info!("member {member} is in sync and promoted to voter");
                    return true;
                }
                // Not an error: the learner is still catching up.
                Err(error) if error.says("in sync with leader") => return true,
                Err(error) => log::debug!("promoting member {member} failed: {error}"),
            }
        }
        false
    }
}
