//! A running member: seen to elect, promoted when in sync, called ready, or told to yield.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::claim_store::{ClaimStore, Wrote};
use crate::core::claim::{Establish, establish};
use crate::core::decide::{Attend, Running, YIELD_AFTER, attend, has_moved};
use crate::core::label::Label;
use crate::core::paxos::RanAs;
use crate::core::quorum_loss::{Heard, Lost};
use crate::core::restart::waits_for_a_lock;
use crate::core::step::Step;
use crate::core::types::{ClusterId, Member, MemberId};
use crate::core::view::Claim;
use crate::core::view::LogEnd;
use crate::etcd::alarm;
use crate::etcd::client::{self, Client};
use crate::etcd::ids;
use crate::net::http::Failure;
use crate::peer::server::AcceptorState;
use crate::process::notify::Notify;
use crate::process::spawn::Child;
use crate::status::recorder::StatusRecorder;
use crate::util::clock;
use crate::util::log_once::LogOnce;

/// While something is awaited: soon, then slower.
const FIRST_POLL: Duration = Duration::from_millis(2);
const LONGEST_POLL: Duration = Duration::from_secs(1);
/// At rest: one request to our own etcd in so long.
const REST: Duration = Duration::from_secs(10);
/// A first life that doesn't serve for so long never will: joining etcds ask each other's `/version` without a timeout, and two
/// that join at once wait for each other for ever (etcd#13623; seen on 3.4.23 and 3.5.1).
const SERVE_WITHIN: Duration = Duration::from_secs(15);
/// Every so many of those questions is the member list, which holds a read through the quorum as well.
const MEMBERS_EVERY: u32 = 6;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A claim that can't be established is tried again after `REST`, doubling up to this.
const LONGEST_CLAIM_PAUSE: Duration = Duration::from_secs(5 * 60);
/// For a change of our member, which may wait for the leader's own commit.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Without a leader for so long, the quorum is said to be lost: an election takes a second or two. With the pause at rest and what
/// is asked in between that is within half a minute of the loss.
const LOST_AFTER: Duration = Duration::from_secs(8);
/// While it is lost, the others are asked so often whether they are there.
const ROLL_EVERY: Duration = Duration::from_secs(5);

/// Looks after one life of etcd.
#[derive(Debug)]
pub struct MemberMonitor<'a> {
    pub etcd: &'a Client,
    pub acceptor_state: &'a AcceptorState,
    pub claim: &'a ClaimStore,
    pub notify: &'a Notify,
    pub journal: &'a StatusRecorder,
    pub child: &'a Child,
    pub own_client_url: String,
    pub own_peer_url: String,
    /// Under which our member is to be listed.
    pub advertised: Vec<String>,
    /// Under which clients find this very etcd.
    pub advertised_to_clients: Vec<String>,
    /// Client URLs of the cluster's other members: a learner can't be asked to promote itself.
    pub others: Vec<String>,
    pub spawned_at: Instant,
    /// It has no WAL yet, so that it can be ended at any time.
    pub is_first_life: bool,
}

/// Why etcd is to be stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// R5.
    Yield,
    /// It hangs before it serves.
    Stuck,
    /// Its member has left the cluster: not for an attendant to say.
    Left,
}

/// What is known of this life so far.
#[derive(Debug, Default)]
pub struct Progress {
    /// The peer port has answered.
    pub served: bool,
    ready: bool,
    leaderless_since: Option<Instant>,
    /// The quorum is lost, and that was said.
    loss: Option<Loss>,
    cluster: Option<ClusterId>,
    member: Option<MemberId>,
    /// Nothing is left to do about the claim.
    claim_is_settled: bool,
    /// The cluster's members, as they were last listed.
    members: Vec<Member>,
    /// How far the others' logs went at the last look.
    logs: BTreeMap<MemberId, LogEnd>,
    /// Before it is tried again, and when.
    claim_pause: Duration,
    claim_due: Option<Instant>,
    /// The others have our address.
    address_is_settled: bool,
    /// Why they haven't, as it was last said.
    untold: LogOnce,
    complained: LogOnce,
    /// Asked at rest.
    questions: u32,
    /// Why it is not healthy, as it was last said.
    ailment: LogOnce,
}

#[derive(Debug)]
struct Loss {
    since: Instant,
    asked: Instant,
    missing: BTreeSet<MemberId>,
    line: String,
}

impl MemberMonitor<'_> {
    /// Attends until etcd shall be stopped; otherwise for ever. Cancel-safe: `progress` outlives it.
    pub async fn until_stop(&self, progress: &mut Progress) -> Stop {
        let mut pause = FIRST_POLL;
        let yield_after = clock::jittered(YIELD_AFTER * 2);
        let serve_within = clock::jittered(SERVE_WITHIN * 2);
        loop {
            // At rest one question is enough: it holds a read through the quorum.
            self.journal.beat();
            if progress.ready && self.is_well(progress).await {
                self.settle_claim(progress).await;
                clock::pause(REST).await;
                continue;
            }
            let running = self.look(progress).await;
            if running.is_none() {
                self.note_muteness(progress);
            }
            if self.is_first_life && !progress.served && clock::now() - self.spawned_at >= serve_within {
                log::warn!("etcd doesn't serve its peer port for {} s: it is started anew", serve_within.as_secs());
                return Stop::Stuck;
            }
            let settled = progress.ready && running.is_some_and(|r| r.has_leader && !r.is_learner);
            match running.map(|r| attend(&Running { yield_after, ..r })) {
                Some(Attend::Yield) => {
                    log::info!("no leader for {} s and never one before: etcd yields", yield_after.as_secs());
                    return Stop::Yield;
                }
                Some(Attend::Promote(member)) => self.promote(member).await,
                Some(Attend::Keep) | None => {}
            }
            clock::pause(if settled { REST } else { pause }).await;
            pause = if settled { FIRST_POLL } else { (pause * 9 / 8).min(LONGEST_POLL) };
        }
    }

    async fn is_well(&self, progress: &mut Progress) -> bool {
        progress.questions += 1;
        let well = if progress.questions == MEMBERS_EVERY {
            progress.questions = 0;
            self.see_members(progress).await
        } else {
            matches!(self.etcd.health(&self.own_client_url, ANSWER_TIMEOUT).await, Ok(Ok(())))
        };
        if well {
            self.see_logs(progress).await;
        }
        match progress.member.filter(|_| well) {
            Some(member) => {
                self.is_ready(member);
                note_quorum(progress);
            }
            // 3.4 lists members without a quorum: only health ends a trouble.
            None => progress.questions = 0,
        }
        well
    }

    fn is_ready(&self, member: MemberId) {
        self.journal.is_ready(true);
        self.tell("healthy", &format!("member {member} is healthy and votes"));
    }

    async fn see_members(&self, progress: &mut Progress) -> bool {
        let Ok(list) = self.etcd.member_list(&self.own_client_url, ANSWER_TIMEOUT).await else { return false };
        self.journal.saw_members(&list.members);
        if !progress.address_is_settled {
            self.settle_address(progress, &list.members).await;
        }
        progress.members = list.members;
        true
    }

    /// Where no quorum answered our look (the moved member may have been the leader, or be the one that is missing) etcd was
    /// started under its old address: it reaches the others, they don't reach it. Now there is a quorum to tell.
    async fn settle_address(&self, progress: &mut Progress, members: &[Member]) {
        let own = members.iter().find(|m| Some(m.id) == progress.member);
        let Some(own) = own.filter(|own| has_moved(own, &self.advertised)) else {
            progress.address_is_settled = own.is_some();
            return;
        };
        let step = Step::UpdateSelf { id: own.id };
        if let Some(at) = self.twin(own).await {
            let trouble = format!(
                "member {} is listed at {}, and {at} answers as that very member: one of the two runs with a copy of the other's \
                 disk; its address isn't changed; stop the one that is the copy, and move its ED_DATA and ED_WAL away",
                own.id,
                own.peer_urls.join(",")
            );
            if progress.untold.is_news(&trouble) {
                log::error!("{trouble}");
            }
            return;
        }
        match self.etcd.member_update(&self.own_client_url, own.id, &self.advertised, CHANGE_TIMEOUT).await {
            Ok(()) => {
                log::info!("{step}; now it is listed at {}", self.advertised.join(","));
                progress.address_is_settled = true;
            }
            Err(error) => {
                let trouble = format!("{step}: {error}; the others can't reach it, and are told again");
                if progress.untold.is_news(&trouble) {
                    log::warn!("{trouble}");
                }
            }
        }
        // The list is soon looked at again.
        progress.questions = MEMBERS_EVERY - 1;
    }

    /// Where else an etcd runs as this very member, if one does.
    async fn twin(&self, own: &Member) -> Option<String> {
        for url in own.client_urls.iter().filter(|url| !self.advertised_to_clients.contains(url)) {
            if let Ok(status) = self.etcd.status(url, ANSWER_TIMEOUT).await
                && status.member == own.id
            {
                return Some(url.clone());
            }
        }
        None
    }

    /// How far the others' logs go, for the day on which one of their disks is put back from an older copy. What was said to be
    /// committed may not be on disk yet: it counts from the next look on.
    async fn see_logs(&self, progress: &mut Progress) {
        let Some(cluster) = progress.cluster else { return };
        self.acceptor_state.saw_logs(cluster, &progress.logs);
        let mut questions = JoinSet::new();
        for member in progress.members.iter().filter(|m| Some(m.id) != progress.member) {
            let (etcd, id, urls) = (self.etcd.clone(), member.id, member.client_urls.clone());
            questions.spawn(async move {
                let status = etcd.status(urls.first()?, ANSWER_TIMEOUT).await.ok()?;
                let end = LogEnd { term: status.raft_term, index: status.raft_index };
                (status.member == id && status.cluster == cluster).then_some((id, end))
            });
        }
        while let Some(answered) = questions.join_next().await {
            progress.logs.extend(answered.ok().flatten());
        }
    }

    /// Not ready, and why.
    fn is_not_ready(&self, kind: &'static str, why: &str) {
        self.journal.is_ready(false);
        self.tell(kind, why);
    }

    fn tell(&self, kind: &'static str, line: &str) {
        if self.journal.now(Label::run(kind), line) {
            self.notify.tell(&format!("STATUS={line}"));
        }
    }

    async fn look(&self, progress: &mut Progress) -> Option<Running> {
        let version = match self.etcd.peer_version(&self.own_peer_url, ANSWER_TIMEOUT).await {
            Ok(version) => version,
            Err(error) => {
                // No sign that it serves: its TLS port shakes hands before it has a WAL.
                if error.is_refusal() {
                    self.note_refusal(progress, &error).await;
                } else if progress.served {
                    self.is_not_ready("silent", &error.to_string());
                }
                return None;
            }
        };
        progress.served = true;
        self.record_serving();
        let never_elected = version.is_undecided() && self.acceptor_state.ledger().never_elected;
        // The client port is mute until the first election: a status would only wait.
        let patience = if version.is_undecided() && !progress.ready { LONGEST_POLL } else { ANSWER_TIMEOUT };
        let mut refused = false;
        let status = match self.etcd.status(&self.own_client_url, patience).await {
            Ok(status) => Some(status),
            // A status needs neither a quorum nor a leader: whatever etcd itself has against it, it has against us.
            Err(error) if error.is_refusal() || matches!(error, client::Error::Api { .. }) => {
                refused = true;
                self.note_refusal(progress, &error).await;
                None
            }
            Err(_) => {
                if progress.ready {
                    self.is_not_ready("silent", "etcd's client port does not answer");
                }
                None
            }
        };
        let leader = status.as_ref().and_then(|s| s.leader);
        let is_learner = status.as_ref().is_some_and(|s| s.is_learner);
        if let Some(status) = &status {
            self.journal.is_member(status.cluster, status.member, is_learner);
            self.record_member(status.cluster, status.member);
        }
        match (&status, leader) {
            (Some(status), Some(_)) if is_learner => {
                self.is_not_ready("learner", &format!("member {} is a learner until it is in sync", status.member));
            }
            (Some(status), None) => {
                let lost = progress.loss.as_ref().map(|loss| loss.line.clone());
                let line = lost.unwrap_or_else(|| format!("member {} sees no leader", status.member));
                self.is_not_ready("leaderless", &line);
            }
            _ => {}
        }
        if leader.is_some() {
            self.record_election();
            progress.leaderless_since = None;
            note_quorum(progress);
        }
        let since = *progress.leaderless_since.get_or_insert_with(clock::now);
        let without_leader_for = if leader.is_some() { Duration::ZERO } else { clock::now() - since };
        // One that never elected has no quorum to lose: it yields.
        if without_leader_for >= LOST_AFTER
            && !self.acceptor_state.ledger().never_elected
            && (!refused || self.says_it_has_no_leader().await)
        {
            self.note_loss(progress, status.as_ref().map(|s| s.member), since).await;
        }
        if let Some(status) = &status
            && leader.is_some()
            && !is_learner
        {
            progress.cluster = Some(status.cluster);
            progress.member = Some(status.member);
            self.note_readiness(progress, status.member).await;
            self.settle_claim(progress).await;
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

    /// Who doesn't tell us of a leader may have one: then only `/health` counts, which needs no user.
    async fn says_it_has_no_leader(&self) -> bool {
        let health = self.etcd.health(&self.own_client_url, ANSWER_TIMEOUT).await;
        matches!(health, Ok(Err(reason)) if reason.contains("NO LEADER"))
    }

    /// Who is missing, and what can be done: when it is first seen, and again when somebody else is missing.
    async fn note_loss(&self, progress: &mut Progress, me: Option<MemberId>, since: Instant) {
        if progress.loss.as_ref().is_some_and(|loss| clock::now() - loss.asked < ROLL_EVERY) {
            return;
        }
        // Our own etcd's list, by its peer port: nobody is needed for it, nor a user.
        let Ok(list) = self.etcd.peer_members(&self.own_peer_url, ANSWER_TIMEOUT).await else { return };
        let is_ours = |m: &&Member| m.peer_urls.iter().any(|url| self.advertised.contains(url));
        let me = me.or(progress.member).or_else(|| list.members.iter().find(is_ours).map(|m| m.id));
        let heard = self.call_the_roll(&list.members, me).await;
        let Some(lost) = Lost::seen(me, &list.members, heard) else { return };
        let (missing, line) = (lost.missing(), lost.to_string());
        let asked = clock::now();
        match &mut progress.loss {
            Some(loss) if loss.missing == missing => loss.asked = asked,
            _ => {
                log::warn!("{line}");
                self.is_not_ready("leaderless", &line);
                progress.loss = Some(Loss { since, asked, missing, line });
            }
        }
    }

    /// What is heard from every other member's peer port.
    async fn call_the_roll(&self, members: &[Member], me: Option<MemberId>) -> BTreeMap<MemberId, Heard> {
        let mut questions = JoinSet::new();
        for member in members.iter().filter(|m| Some(m.id) != me) {
            let (etcd, id, urls) = (self.etcd.clone(), member.id, member.peer_urls.clone());
            questions.spawn(async move { (id, hear(&etcd, &urls).await) });
        }
        let mut heard = BTreeMap::new();
        while let Some(answered) = questions.join_next().await {
            heard.extend(answered.ok());
        }
        heard
    }

    /// From now on a missing WAL is a lost one.
    fn record_serving(&self) {
        if self.acceptor_state.ledger().starting.is_some()
            && let Err(error) = self.acceptor_state.amend(|ledger| ledger.starting = None)
        {
            log::error!("{error}");
        }
    }

    /// Whose data this is, beside the WAL that says so too.
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

    /// Ready: a voter, with a leader, healthy by its own word. Said once a life, and when it is lost. An alarm is no death: etcd
    /// answers, and needs its operator, not its supervisor.
    async fn note_readiness(&self, progress: &mut Progress, member: MemberId) {
        let health = self.etcd.health(&self.own_client_url, ANSWER_TIMEOUT).await;
        let ailment = match health {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(self.alarms().await.unwrap_or(reason)),
            Err(error) => Some(error.to_string()),
        };
        match ailment {
            None => {
                self.is_ready(member);
                if !progress.ready {
                    let took = (clock::now() - self.spawned_at).as_millis();
                    log::info!("member {member} is healthy and votes, {took} ms after etcd's start");
                    self.notify.tell("READY=1");
                    if !self.see_members(progress).await {
                        progress.questions = MEMBERS_EVERY - 1;
                    }
                }
                progress.ready = true;
                progress.ailment.forget();
            }
            Some(why) => self.note_ailment(progress, "unhealthy", format!("member {member} is not healthy: {why}")),
        }
    }

    /// What is wrong is said once, and again when it is something else.
    fn note_ailment(&self, progress: &mut Progress, kind: &'static str, ailment: String) {
        progress.ready = false;
        self.is_not_ready(kind, &ailment);
        if progress.ailment.is_news(&ailment) {
            log::warn!("{ailment}");
        }
    }

    /// etcd answers, but not us: over a certificate or a user, which doesn't pass by itself. Who was ready stays so while etcd calls
    /// itself healthy: authentication that was turned on without a user for us is no reason to send clients away.
    async fn note_refusal(&self, progress: &mut Progress, error: &client::Error) {
        let line = format!("etcd runs, but can't be asked: {error}");
        let healthy = async { matches!(self.etcd.health(&self.own_client_url, ANSWER_TIMEOUT).await, Ok(Ok(()))) };
        if !(progress.ready && healthy.await) {
            return self.note_ailment(progress, "refused", line);
        }
        if progress.ailment.is_news(&line) {
            log::warn!("{line}");
        }
    }

    /// etcd runs and does not answer: it was healthy before and hangs, or it waits for a lock.
    fn note_muteness(&self, progress: &mut Progress) {
        if progress.ready || (!progress.served && waits_for_a_lock(&self.child.tail())) {
            let (kind, why) = match progress.served {
                true => ("silent", "etcd runs, but does not answer; nothing is changed while that lasts"),
                false => (
                    "locked",
                    "hold: another process holds the data (etcd says: flocked by another process); nothing is touched; stop that \
                     other etcd, and this one goes on",
                ),
            };
            self.note_ailment(progress, kind, why.to_owned());
        }
    }

    /// The alarms that are raised anywhere in the cluster, each with the way out.
    async fn alarms(&self) -> Option<String> {
        let alarms = self.etcd.alarms(&self.own_client_url, ANSWER_TIMEOUT).await.ok()?;
        let named: Vec<_> = alarms.iter().map(|(member, alarm)| alarm::way_out(*member, alarm)).collect();
        (!named.is_empty()).then(|| named.join("; "))
    }

    /// From the first quorum on the claim says so: fresh nodes then only join.
    async fn settle_claim(&self, progress: &mut Progress) {
        let Some(cluster) = progress.cluster.filter(|_| progress.ready && !progress.claim_is_settled) else { return };
        if progress.claim_due.is_some_and(|due| clock::now() < due) {
            return;
        }
        let trouble = match establish(&self.claim.read().await, cluster, ids::cluster_id) {
            Establish::Done => {
                progress.claim_is_settled = true;
                return;
            }
            Establish::Write { replaces } => match self.write_established(cluster, replaces.as_deref()).await {
                Ok(true) => {
                    progress.claim_is_settled = true;
                    return;
                }
                // Another member was first: the next look shows it.
                Ok(false) => None,
                Err(cause) => Some(format!("the claim could not be written: {cause}")),
            },
            Establish::Conflict(theirs) => {
                progress.claim_is_settled = true;
                Some(format!(
                    "the claim is for {theirs}, but cluster {cluster} is what runs here; etcd runs on; give each cluster a \
                     MUSTER_CLAIM of its own, or delete the object that is out of date"
                ))
            }
            Establish::Later(cause) => Some(format!("the claim can't be read: {cause}")),
        };
        progress.claim_pause = (progress.claim_pause * 2).clamp(REST, LONGEST_CLAIM_PAUSE);
        progress.claim_due = Some(clock::now() + progress.claim_pause);
        if let Some(trouble) = trouble
            && progress.complained.is_news(&trouble)
        {
            log::warn!("{trouble}");
        }
    }

    /// False: another member was first.
    async fn write_established(&self, cluster: ClusterId, replaces: Option<&str>) -> Result<bool, String> {
        self.claim.prove().await?;
        match self.claim.write(&Claim::Established { cluster }, replaces).await {
            Ok(Wrote::Done) => {
                log::info!("the claim now says that cluster {cluster} is established");
                Ok(true)
            }
            Ok(Wrote::Refused { fault: None, .. }) => Ok(false),
            Ok(Wrote::Refused { fault: Some(fault), .. }) => Err(fault),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn promote(&self, member: MemberId) {
        if self.is_promoted_by(member, &self.others).await {
            return;
        }
        // With authentication on only the leader can promote, and it need not be among those that were seen before the start.
        for url in &self.others {
            if let Ok(list) = self.etcd.member_list(url, ANSWER_TIMEOUT).await {
                let urls = list.members.into_iter().filter(|m| m.id != member).flat_map(|m| m.client_urls);
                self.is_promoted_by(member, &urls.collect::<Vec<_>>()).await;
                return;
            }
        }
    }

    /// Whether one of these has promoted it, or has said that it is too early.
    async fn is_promoted_by(&self, member: MemberId, urls: &[String]) -> bool {
        for url in urls {
            match self.etcd.member_promote(url, member, CHANGE_TIMEOUT).await {
                Ok(()) => {
                    log::info!("member {member} is in sync and promoted to voter");
                    return true;
                }
                // Not an error: the learner is still catching up.
                Err(error) if error.says("in sync with leader") => return true,
                Err(error) => log::debug!("promotion of member {member}: {error}"),
            }
        }
        false
    }
}

/// A leader is seen, or health that takes one.
fn note_quorum(progress: &mut Progress) {
    if let Some(loss) = progress.loss.take() {
        log::info!("the quorum is back, after {} s", (clock::now() - loss.since).as_secs());
    }
}

/// The best that is heard at any of a member's peer URLs.
async fn hear(etcd: &Client, urls: &[String]) -> Heard {
    let mut heard = Heard::Silent;
    for url in urls {
        heard = match etcd.peer_version(url, ANSWER_TIMEOUT).await {
            Ok(_) => return Heard::Etcd,
            Err(error) => match error.failure() {
                Some(Failure::Refused) => Heard::Refused,
                Some(Failure::Timeout(_) | Failure::Unreachable(_)) => Heard::Silent,
                Some(Failure::Tls(_) | Failure::Protocol(_) | Failure::Closed(_)) => Heard::NotUnderstood,
                None => Heard::NoEtcd,
            },
        };
    }
    heard
}
