//! `decide`: from a view to one step with its reason. No clock, no I/O, no randomness; the order of the input does not matter.

use std::collections::BTreeSet;
use std::time::Duration;

use super::bootstrap::{self, start_by};
use super::claim;
use super::departure;
use super::evidence::{may_believe, signs_of_a_cluster};
use super::initial_list::same_urls;
use super::owner;
use super::quorum::quorum;
use super::removal;
use super::step::{Doubt, Halt, Hold, KeepReason, Quarantine, RemovalReason, Step};
use super::types::{ClusterId, InitialList, Known, ListedMember, Member, MemberId, initial_cluster};
use super::upgrade;
use super::view::{DataDir, EtcdSeen, Liveness, LogEnd, LogSeen, PeerState, Policy, View};

/// etcd answers 404 "member not found" to an add that follows a removal of the same URL within a second (measured).
pub const SETTLE_AFTER_REMOVAL: Duration = Duration::from_millis(1050);

pub fn decide(policy: &Policy, view: &View) -> Step {
    let step = match &view.data {
        DataDir::Whole { ids } => with_data(policy, view, ids),
        DataDir::Partial { what } => with_partial_data(view, what),
        DataDir::Fresh => fresh(policy, view),
    };
    departure::hold_back(view, upgrade::hold_back(policy, view, step))
}

/// We have data (section "Decision" 1).
fn with_data(policy: &Policy, view: &View, ids: &Known<(ClusterId, MemberId)>) -> Step {
    let Known::Known((ours, member)) = *ids else { return unreadable_data(view) };
    let living = view.living_clusters();
    if let Some(etcd) = living.get(&ours) {
        return match etcd.members.iter().find(|m| m.id == member) {
            None => Step::Quarantine(Quarantine::RemovedWhileDown { cluster: ours, member }),
            Some(m) => {
                owner::may_run(policy, view, ours, member).map_or_else(Step::Hold, |()| with_quorum(view, etcd, m))
            }
        };
    }
    match living.keys().next() {
        None if is_given_up(view) => Step::Quarantine(Quarantine::Recovered { cluster: ours, member }),
        None => match owner::may_run(policy, view, ours, member).and_then(|()| is_up_to_date(policy, view, member)) {
            Ok(()) => resume_or_give_up(view, ours),
            Err(hold) => Step::Hold(hold),
        },
        Some(&living) if view.ledger.never_elected => Step::Quarantine(Quarantine::NeverElected { ours, living }),
        Some(&living) => Step::Halt(Halt::ForeignData { ours, living }),
    }
}

/// An operator ordered that a new cluster goes on with a copy of our data. (Of a copied disk it was not ordered.)
fn is_given_up(view: &View) -> bool {
    view.ledger.recovery.is_some() && view.ledger.instance.as_ref() == Some(&view.me.instance)
}

/// A quorum lists us, and we run as that member.
fn with_quorum(view: &View, etcd: &EtcdSeen, member: &Member) -> Step {
    if let Some(step) = give_up_damaged(view, etcd, member).or_else(|| give_up_older_copy(view, etcd, member)) {
        return step;
    }
    match has_moved(member, &view.me.listed.peer_urls) {
        true => Step::UpdateSelf { id: member.id },
        false => Step::Resume,
    }
}

/// The disk was restored to an older state, as a peer knows that saw its log go further. Raft relies on acknowledged entries
/// being there, so it starts only if the operator says so.
fn is_up_to_date(policy: &Policy, view: &View, member: MemberId) -> Result<(), Hold> {
    match behind(view).filter(|_| policy.adopt != Some(member)) {
        Some((here, seen)) => Err(Hold::OlderCopy { member, here, before: seen.before, by: seen.by.clone() }),
        None => Ok(()),
    }
}

/// While a quorum runs without it, that copy has nothing that the quorum lacks: this node gets everything from the others.
fn give_up_older_copy(view: &View, etcd: &EtcdSeen, member: &Member) -> Option<Step> {
    let (here, seen) = behind(view)?;
    let (before, by) = (seen.before, seen.by.clone());
    can_do_without(view, etcd, member).then_some(Step::Quarantine(Quarantine::OlderCopy {
        cluster: etcd.cluster,
        member: member.id,
        here,
        before,
        by,
    }))
}

/// Where our log ends, if a peer saw it go further.
fn behind(view: &View) -> Option<(LogEnd, &LogSeen)> {
    let seen = view.log.as_ref()?;
    let here = *seen.here.known()?;
    // Committed entries are never taken back, whatever the term.
    (here.index < seen.before.index).then_some((here, seen))
}

/// The cluster lists our member under an address that we no longer have, and can be told. Not for a learner: before
/// 3.5.31/3.6.12 an update promotes it (etcd#21694).
pub fn has_moved(member: &Member, peer_urls: &[String]) -> bool {
    !member.is_learner && !same_urls(&member.peer_urls, peer_urls)
}

/// Data whose ids are lost with the head of its WAL: only our own record on the same disk can show whose it is. If it is ours,
/// etcd itself must judge its WAL; it refuses a bad one and changes nothing.
fn unreadable_data(view: &View) -> Step {
    let ledger = &view.ledger;
    if let Some(owner) = ledger.instance.as_ref().filter(|owner| **owner != view.me.instance) {
        let why = Doubt::OwnerUnknown("the member that it belongs to can't be read".to_owned());
        return Step::Hold(Hold::NotOurs { member: None, owner: Some(owner.clone()), why });
    }
    let ran = ledger.ran_as.map(|ran| ran.cluster);
    let ours = ran.or(ledger.joined.map(|j| j.cluster)).or(view.chosen_cluster.filter(|_| ledger.founded));
    let living = view.living_clusters();
    let step = ours.and_then(|ours| living.get(&ours)).and_then(|etcd| {
        let me = &view.me.listed;
        let member = etcd.members.iter().find(|m| m.name == me.name && same_urls(&m.peer_urls, &me.peer_urls));
        give_up_damaged(view, etcd, member?)
    });
    step.unwrap_or(Step::Resume)
}

/// Data that etcd repeatedly fails on is given up only if all of this holds: exactly one cluster has a quorum, it is ours, it
/// lists us, and its other voters are a quorum, so that our data has nothing that they lack.
fn give_up_damaged(view: &View, etcd: &EtcdSeen, member: &Member) -> Option<Step> {
    let said = view.condemned.clone()?;
    can_do_without(view, etcd, member).then_some(Step::Quarantine(Quarantine::Damaged {
        cluster: etcd.cluster,
        member: member.id,
        said,
    }))
}

/// Exactly one cluster has a quorum, and its other voters are a quorum.
fn can_do_without(view: &View, etcd: &EtcdSeen, member: &Member) -> bool {
    let voters = etcd.members.iter().filter(|m| !m.is_learner);
    let others = voters.clone().filter(|m| m.id != member.id).count();
    view.living_clusters().len() == 1 && others >= quorum(voters.count())
}

/// Data that never elected a leader, as etcd itself reports, under a list that can never have a quorum: nothing was ever
/// written with it, and nothing can be. (Found by the model: otherwise a fleet with such a node stays down for ever.)
fn resume_or_give_up(view: &View, ours: ClusterId) -> Step {
    let robbed = || view.ledger.chosen.as_ref().is_some_and(|list| view.losses().robs_of_quorum(list));
    match view.yielded && view.ledger.never_elected && view.chosen_cluster == Some(ours) && robbed() {
        true => Step::Quarantine(Quarantine::Void { ours }),
        false => Step::Resume,
    }
}

/// All members have new addresses: returns the URLs in the member list, if none of them belongs to an instance now. Each member
/// looks for the others at the old addresses, so the cluster can't recover by itself.
pub fn scattered(view: &View) -> Option<Vec<String>> {
    let DataDir::Whole { ids: Known::Known((ours, _)) } = view.data else { return None };
    let lists = view.etcds().filter(|etcd| etcd.cluster == ours);
    let urls: Vec<String> = lists.flat_map(|etcd| &etcd.members).flat_map(|m| m.peer_urls.clone()).collect();
    let now: Vec<ListedMember> = view.listings().into_values().flatten().collect();
    let is_somebodys = |url: &String| now.iter().any(|listed| listed.peer_urls.contains(url));
    (!urls.is_empty() && view.living_clusters().is_empty() && !urls.iter().any(is_somebodys))
        .then(|| urls.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
}

/// Part of our data is missing: it is moved aside only if the cluster that it belonged to has a quorum and can give us all of
/// it again.
fn with_partial_data(view: &View, what: &str) -> Step {
    let what = what.to_owned();
    let ours = [view.ledger.joined.map(|j| j.cluster), view.chosen_cluster, view.accepted_cluster];
    let living = view.living_clusters();
    if living.keys().any(|id| ours.contains(&Some(*id))) {
        return Step::Quarantine(Quarantine::Partial { what });
    }
    Step::Hold(Hold::PartialData { what })
}

/// We have no data (section "Decision" 2 to 5).
fn fresh(policy: &Policy, view: &View) -> Step {
    let living = view.living_clusters();
    if living.len() > 1 {
        return Step::Halt(Halt::TwoClusters { ids: living.into_keys().collect() });
    }
    if let Some(etcd) = living.into_values().next() {
        return join(policy, view, etcd);
    }
    if !policy.join.is_empty() {
        return Step::Hold(Hold::OldFleetUnseen {
            asked: policy.join.iter().map(|url| (url.clone(), unseen(view, url))).collect(),
        });
    }
    if policy.claim.is_some() {
        return claim::obey(policy, view);
    }
    // A first member that joined its own cluster may have voted under the list's id too (found by the model). So may one whose
    // disk was restored from before that.
    let has_run = view.ledger.founded || view.ledger.joined.is_some() || is_published(view);
    if let Some(list) = chosen(policy, view) {
        return match (list.entry(&view.me.instance), has_run) {
            (Some(entry), false) => start_by(view, list, entry),
            (Some(_), true) => Step::Hold(Hold::DiskLost),
            (None, _) => Step::Hold(Hold::NotListed),
        };
    }
    if has_run {
        return Step::Hold(Hold::DiskLost);
    }
    if let Some(hold) = signs_of_a_cluster(view) {
        return Step::Hold(hold);
    }
    give_up_acceptance(view).unwrap_or_else(|| bootstrap::found(policy, view))
}

/// Why no cluster with a quorum is seen at that client URL.
fn unseen(view: &View, url: &str) -> String {
    match view.old_fleet.get(url) {
        Some(Known::Known(etcd)) => format!("cluster {} has no proven quorum", etcd.cluster),
        Some(Known::Unknown(cause)) => cause.clone(),
        None => "not asked".to_owned(),
    }
}

/// The list that we accepted has us under another name or URL than we have now. A node that adopts it must learn that we never
/// start under it; otherwise no node that knows our present listing could accept it again. (Found by the model.)
fn give_up_acceptance(view: &View) -> Option<Step> {
    let list = &view.ledger.accepted.as_ref()?.list;
    let ours = &view.me.listed;
    let entry = list.entry(&view.me.instance)?;
    let stands = !view.ledger.renounced.contains(&list.token) && !view.losses().voids(list);
    (stands && !entry.is_same(ours)).then(|| Step::Renounce { list: list.clone(), ours: ours.clone() })
}

/// An etcd of the cluster that we helped to bootstrap lists us as a member that has run.
fn is_published(view: &View) -> bool {
    let ours = [view.accepted_cluster, view.chosen_cluster];
    let lists = view.etcds().filter(|etcd| ours.contains(&Some(etcd.cluster)));
    lists.flat_map(|etcd| &etcd.members).any(|m| m.name == view.me.listed.name && !m.client_urls.is_empty())
}

/// The list that a quorum has accepted, as far as we can know (R4): because a peer reports it, now or earlier, or because an
/// etcd runs under the cluster id that follows from the list we accepted.
fn chosen<'a>(policy: &Policy, view: &'a View) -> Option<&'a InitialList> {
    let told = view.peers.values().filter_map(|peer| match &peer.sighting {
        PeerState::Fresh(fresh) => fresh.chosen.as_ref(),
        PeerState::HasData(data) => data.chosen.as_ref(),
        _ => None,
    });
    let told = view.ledger.chosen.as_ref().into_iter().chain(told).filter(|_| may_believe(policy, view));
    let ours = view.ledger.accepted.as_ref().map(|accepted| &accepted.list);
    let shown = ours.filter(|_| view.etcds().any(|etcd| Some(etcd.cluster) == view.accepted_cluster));
    told.chain(shown).find(|list| !view.losses().voids(list))
}

/// We are fresh, and a cluster with quorum answers (section "Decision" 2).
fn join(policy: &Policy, view: &View, etcd: &EtcdSeen) -> Step {
    let me = &view.me.listed;
    let at_our_urls = etcd.members.iter().find(|m| m.peer_urls.iter().any(|url| me.peer_urls.contains(url)));
    let by_our_name = etcd.members.iter().find(|m| m.name == me.name);
    // If we added ourselves and never ran, and our address has changed since, only our own record shows which member is ours.
    // (Found by the model.)
    let recorded = view.ledger.joined.filter(|joined| joined.cluster == etcd.cluster).map(|joined| joined.member);
    let by_our_record = etcd.members.iter().find(|m| removal::never_ran(m) && Some(m.id) == recorded);
    if let Some(member) = by_our_name.or(at_our_urls).or(by_our_record) {
        return listed(policy, view, etcd, member);
    }
    if let Some(step) = clean(policy, view, etcd) {
        return step;
    }
    // etcd 3.4 and 3.5 allow one learner at a time; with every release we make one change at a time (G3).
    if let Some(learner) = etcd.members.iter().find(|m| m.is_learner) {
        let kept = removal::verdict(policy, view, etcd, learner).err().unwrap_or(KeepReason::Alive);
        let silent_for = view.liveness_of(learner.id).silent_for();
        return Step::Hold(Hold::AnotherJoins {
            member: learner.id,
            urls: learner.peer_urls.clone(),
            kept,
            silent_for,
        });
    }
    // Beside an old fleet the size is that of the new one.
    let beside = !policy.join.is_empty() && view.roster.known().is_some();
    let voters = etcd.members.iter().filter(|m| !beside || view.is_of_the_roster(m)).count();
    if let Some(wanted) = policy.cluster_size.filter(|wanted| voters >= *wanted) {
        let kept = etcd.members.iter().filter_map(|m| Some((m.id, removal::verdict(policy, view, etcd, m).err()?)));
        return Step::Hold(Hold::Spare { cluster: etcd.cluster, voters, wanted, kept: kept.collect() });
    }
    if view.since_own_removal.is_some_and(|since| since < SETTLE_AFTER_REMOVAL) {
        return Step::Hold(Hold::Settling);
    }
    Step::AddSelf
}

/// A cluster with quorum lists our name or our address, and we are fresh.
fn listed(policy: &Policy, view: &View, etcd: &EtcdSeen, member: &Member) -> Step {
    let me = &view.me.listed;
    let named = member.name == me.name;
    let at_our_urls = member.peer_urls.iter().any(|url| me.peer_urls.contains(url));
    if named && !at_our_urls && me.name != view.me.instance.0 && held_by_another(view, member) {
        let (name, urls) = (member.name.clone(), member.peer_urls.clone());
        return Step::Halt(Halt::NameInUse { name, member: member.id, urls });
    }
    // A name that an operator wrote does not prove identity as an instance id does: by another host list another host may still
    // have it.
    if named
        && !at_our_urls
        && policy.written
        && let Err(kept) = removal::has_fallen_silent(policy, view, etcd, member)
    {
        return Step::Hold(Hold::NameTaken { member: member.id, urls: member.peer_urls.clone(), kept });
    }
    if !named && !member.name.is_empty() {
        // Another instance's member has our address: its owner may have moved and still have its data.
        return match removal::verdict(policy, view, etcd, member) {
            Ok(_) => clean(policy, view, etcd).unwrap_or(Step::Hold(Hold::Settling)),
            Err(kept) => Step::Hold(Hold::AddressTaken { member: member.id, kept }),
        };
    }
    // An instance id is unique only as long as no copy of our disk runs under it.
    if !at_our_urls && !matches!(view.liveness_of(member.id), Liveness::Silent(_)) {
        let kept =
            if *view.liveness_of(member.id) == Liveness::Answers { KeepReason::Alive } else { KeepReason::Unasked };
        return Step::Hold(Hold::NameTaken { member: member.id, urls: member.peer_urls.clone(), kept });
    }
    // A wiped voter may already have voted under this id: only our own record shows that etcd never ran under it.
    let ledger = &view.ledger;
    let added = ledger.joined.is_some_and(|j| j.cluster == etcd.cluster && j.member == member.id && !j.spawned);
    // Having accepted the list, or having seen the claim absent, proves that this disk took part in the bootstrap. Having
    // merely received the list proves nothing: a wiped node receives it too.
    let accepted = view.accepted_cluster == Some(etcd.cluster);
    let claimed = ledger.saw_unclaimed && view.chosen_cluster == Some(etcd.cluster);
    let renounced = ledger.lists().into_iter().flatten().any(|list| ledger.renounced.contains(&list.token));
    let founder = !ledger.founded && ledger.joined.is_none() && !renounced && (accepted || claimed);
    let as_we_are = same_urls(&member.peer_urls, &me.peer_urls);
    if member.client_urls.is_empty() && as_we_are && (added || founder) {
        return Step::StartExisting {
            cluster: etcd.cluster,
            member: member.id,
            initial_cluster: existing_cluster(etcd, member.id, me),
        };
    }
    Step::RemoveMember { id: member.id, why: RemovalReason::OwnOldId }
}

fn held_by_another(view: &View, member: &Member) -> bool {
    view.peers
        .values()
        .any(|peer| peer.listed.as_ref().is_some_and(|l| l.peer_urls.iter().any(|u| member.peer_urls.contains(u))))
}

fn clean(policy: &Policy, view: &View, etcd: &EtcdSeen) -> Option<Step> {
    removal::removable(policy, view, etcd).map(|(id, why)| Step::RemoveMember { id, why })
}

/// etcd requires exactly all members' URLs; the names of others may be placeholders, as they must be for unstarted members.
fn existing_cluster(etcd: &EtcdSeen, own: MemberId, me: &ListedMember) -> String {
    let names: Vec<(String, &[String])> = etcd
        .members
        .iter()
        .map(|m| match m.id == own {
            true => (me.name.clone(), me.peer_urls.as_slice()),
            false if m.name.is_empty() => (m.id.to_string(), m.peer_urls.as_slice()),
            false => (m.name.clone(), m.peer_urls.as_slice()),
        })
        .collect();
    initial_cluster(names.iter().map(|(name, urls)| (name.as_str(), *urls)))
}

/// What a running member does next, besides running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attend {
    Keep,
    /// Promote our learner.
    Promote(MemberId),
    /// Stop an etcd that never elected a leader, and answer peers for a while (R5).
    Yield,
}

/// What our own running etcd shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Running {
    pub member: MemberId,
    pub is_learner: bool,
    pub has_leader: bool,
    /// This WAL has never elected a leader, by etcd's own report and by our record.
    pub never_elected: bool,
    pub without_leader_for: Duration,
    /// [`YIELD_AFTER`] with jitter.
    pub yield_after: Duration,
}

/// R5: how long an etcd that never elected may be without a leader.
pub const YIELD_AFTER: Duration = Duration::from_secs(15);

/// Once a leader was elected, it never yields.
pub fn attend(running: &Running) -> Attend {
    match running {
        r if r.is_learner && r.has_leader => Attend::Promote(r.member),
        r if r.never_elected && !r.has_leader && r.without_leader_for >= r.yield_after => Attend::Yield,
        _ => Attend::Keep,
    }
}
