//! `decide`: from a view to one step, with its reason. No clock, no I/O, no randomness; input order is irrelevant.

use std::time::Duration;

use super::claim;
use super::cleaning;
use super::founding;
use super::leaving;
use super::quorum::quorum;
use super::step::{Halt, Hold, Quarantine, Removal, Step};
use super::types::{ClusterId, InitialList, Known, ListedMember, Member, MemberId, Roster, initial_cluster};
use super::view::{DataDir, EtcdSeen, Policy, Sighting, View};

/// etcd answers 404 "member not found" to an add that follows a removal of the same URL within a second (measured).
pub const SETTLE_AFTER_REMOVAL: Duration = Duration::from_millis(1050);

/// The one decision.
pub fn decide(policy: &Policy, view: &View) -> Step {
    let step = match &view.data {
        DataDir::Whole { ids } => with_data(policy, view, ids),
        DataDir::Partial { what } => with_partial_data(view, what),
        DataDir::Fresh => fresh(policy, view),
    };
    leaving::hold_back(view, step)
}

/// We have data (section "Decision" 1).
fn with_data(policy: &Policy, view: &View, ids: &Known<(ClusterId, MemberId)>) -> Step {
    // Without ids etcd itself must judge its WAL; it refuses a bad one and touches nothing.
    let Known::Known((ours, member)) = *ids else { return unreadable_data(view) };
    let living = view.living_clusters();
    if let Some(etcd) = living.get(&ours) {
        return match etcd.members.iter().find(|m| m.id == member) {
            None => Step::Quarantine(Quarantine::RemovedWhileDown { cluster: ours, member }),
            Some(m) => {
                give_up_damaged(view, etcd, m).unwrap_or_else(|| match has_moved(m, &view.me.listed.peer_urls) {
                    true => Step::UpdateSelf { id: member },
                    false => Step::Resume,
                })
            }
        };
    }
    match living.keys().next() {
        None => resume_or_give_up(policy, view, ours),
        Some(&living) if view.ledger.never_elected => Step::Quarantine(Quarantine::NeverElected { ours, living }),
        Some(&living) => Step::Halt(Halt::ForeignData { ours, living }),
    }
}

/// Our member is listed where we no longer are, and can be told so. Not a learner: before 3.5.31/3.6.12 an update promotes it
/// (etcd#21694).
pub fn has_moved(member: &Member, peer_urls: &[String]) -> bool {
    !member.is_learner && !same_urls(&member.peer_urls, peer_urls)
}

/// Data whose ids are lost with its WAL's head: whose it is, only our own record on the same disk can tell.
fn unreadable_data(view: &View) -> Step {
    let ledger = &view.ledger;
    let ours = ledger.joined.map(|j| j.cluster).or(view.chosen_cluster.filter(|_| ledger.founded));
    let living = view.living_clusters();
    let step = ours.and_then(|ours| living.get(&ours)).and_then(|etcd| {
        let me = &view.me.listed;
        let member = etcd.members.iter().find(|m| m.name == me.name && same_urls(&m.peer_urls, &me.peer_urls));
        give_up_damaged(view, etcd, member?)
    });
    step.unwrap_or(Step::Resume)
}

/// What etcd ends over, life after life, is given up only for all of it: one cluster lives, it is ours, it lists us, and its
/// other voters are a quorum, so that nothing is in our data alone.
fn give_up_damaged(view: &View, etcd: &EtcdSeen, member: &Member) -> Option<Step> {
    let said = view.condemned.clone()?;
    let voters = etcd.members.iter().filter(|m| !m.is_learner);
    let others = voters.clone().filter(|m| m.id != member.id).count();
    if view.living_clusters().len() > 1 || others < quorum(voters.count()) {
        return None;
    }
    Some(Step::Quarantine(Quarantine::Damaged { cluster: etcd.cluster, member: member.id, said }))
}

/// Data that never elected, by etcd's own word, under a list that can never have a quorum: nothing was ever written, and
/// nothing ever could be. (Found by the model: without this a fleet with such a node stays down for ever.)
fn resume_or_give_up(policy: &Policy, view: &View, ours: ClusterId) -> Step {
    let robbed = view.ledger.chosen.as_ref().is_some_and(|list| view.standing(policy).robs_of_quorum(list));
    match view.yielded && view.ledger.never_elected && view.chosen_cluster == Some(ours) && robbed {
        true => Step::Quarantine(Quarantine::Void { ours }),
        false => Step::Resume,
    }
}

/// Half of our data is there: moved aside only if the cluster it belonged to lives and can give us all of it again.
fn with_partial_data(view: &View, what: &str) -> Step {
    let what = what.to_owned();
    let ours = [view.ledger.joined.map(|j| j.cluster), view.chosen_cluster, view.accepted_cluster];
    let living = view.living_clusters();
    if living.keys().any(|id| ours.contains(&Some(*id))) {
        return Step::Quarantine(Quarantine::Partial { what });
    }
    Step::Hold(Hold::PartialData { what })
}

/// We hold no data (section "Decision" 2 to 5).
fn fresh(policy: &Policy, view: &View) -> Step {
    let living = view.living_clusters();
    if living.len() > 1 {
        return Step::Halt(Halt::TwoClusters { ids: living.into_keys().collect() });
    }
    if let Some(etcd) = living.into_values().next() {
        return join(policy, view, etcd);
    }
    if policy.claim.is_some() {
        return claim::obey(policy, view);
    }
    // A founder that joined its own cluster may have voted under the list's id too. (Found by the model.)
    let has_run = view.ledger.founded || view.ledger.joined.is_some();
    if let Some(list) = chosen(policy, view) {
        return match (list.holds(&view.me.instance), has_run) {
            (true, false) => Step::StartNew(list.clone()),
            (true, true) => Step::Hold(Hold::DiskLost),
            (false, _) => Step::Hold(Hold::NotListed),
        };
    }
    if has_run {
        return Step::Hold(Hold::DiskLost);
    }
    if let Some(hold) = signs_of_a_cluster(view) {
        return Step::Hold(hold);
    }
    founding::found(policy, view)
}

/// The list that a quorum has accepted, as far as we can know (R4): by a peer's word, now or before, or because an etcd runs
/// under the cluster id that follows from the list we accepted.
fn chosen<'a>(policy: &Policy, view: &'a View) -> Option<&'a InitialList> {
    let standing = view.standing(policy);
    let told = view.peers.values().filter_map(|peer| match &peer.sighting {
        Sighting::Fresh(fresh) => fresh.chosen.as_ref(),
        Sighting::HasData { chosen, .. } => chosen.as_ref(),
        _ => None,
    });
    let told = view.ledger.chosen.as_ref().into_iter().chain(told).filter(|_| may_believe(policy, view));
    let ours = view.ledger.accepted.as_ref().map(|accepted| &accepted.list);
    let shown = ours.filter(|_| view.etcds().any(|(_, etcd)| Some(etcd.cluster) == view.accepted_cluster));
    told.chain(shown).find(|list| !standing.voids(list))
}

/// A word is enough to start by for one who took part, by its own ledger, or who is too young to have been wiped since. Any
/// other may have run before, and voted. (Found by the tests, and again by the model for a list that was pushed.)
pub(super) fn may_believe(policy: &Policy, view: &View) -> bool {
    let took_part = view.ledger.promised.is_some() || view.ledger.saw_unclaimed;
    let young =
        |roster: &Roster| roster.find(&view.me.instance).is_some_and(|me| roster.is_younger(me, policy.found_window));
    took_part || policy.found_absent || view.roster.known().is_some_and(young)
}

/// An etcd, data, or anything unreadable: never propose beside it (G2).
pub fn signs_of_a_cluster(view: &View) -> Option<Hold> {
    view.peers.iter().find_map(|(id, peer)| {
        let instance = id.clone();
        match &peer.sighting {
            Sighting::Etcd(etcd) => Some(Hold::ClusterWithoutQuorum { instance, cluster: etcd.cluster }),
            Sighting::HasData { .. } => Some(Hold::PeerHasData { instance }),
            Sighting::Mismatch(cause) => Some(Hold::PeerMismatch { instance, cause: cause.clone() }),
            Sighting::Fresh(_) | Sighting::Refused | Sighting::Silent(_) => None,
        }
    })
}

/// We are fresh and a cluster with quorum answers (section "Decision" 2).
fn join(policy: &Policy, view: &View, etcd: &EtcdSeen) -> Step {
    let me = &view.me.listed;
    let at_our_urls = etcd.members.iter().find(|m| m.peer_urls.iter().any(|url| me.peer_urls.contains(url)));
    let by_our_name = etcd.members.iter().find(|m| m.name == me.name);
    if let Some(member) = by_our_name.or(at_our_urls) {
        return listed(policy, view, etcd, member);
    }
    if let Some(step) = clean(policy, view, etcd) {
        return step;
    }
    // etcd 3.4 and 3.5 take one learner at a time; on all, one change at a time (G3).
    if let Some(learner) = etcd.members.iter().find(|m| m.is_learner) {
        return Step::Hold(Hold::AnotherJoins { member: learner.id });
    }
    let voters = etcd.members.len();
    if policy.cluster_size.is_some_and(|size| voters >= size) {
        let kept = etcd.members.iter().filter_map(|m| Some((m.id, cleaning::verdict(policy, view, etcd, m).err()?)));
        return Step::Hold(Hold::Spare { voters, kept: kept.collect() });
    }
    if view.since_own_removal.is_some_and(|since| since < SETTLE_AFTER_REMOVAL) {
        return Step::Hold(Hold::Settling);
    }
    Step::AddSelf
}

/// A living cluster lists our name or our address, and we are fresh.
fn listed(policy: &Policy, view: &View, etcd: &EtcdSeen, member: &Member) -> Step {
    let me = &view.me.listed;
    let named = member.name == me.name;
    let at_our_urls = member.peer_urls.iter().any(|url| me.peer_urls.contains(url));
    if named && !at_our_urls && me.name != view.me.instance.0 && held_by_another(view, member) {
        let (name, urls) = (member.name.clone(), member.peer_urls.clone());
        return Step::Halt(Halt::NameInUse { name, member: member.id, urls });
    }
    // A name that an operator wrote is no proof as an instance id is: another host may bear it still, by another list.
    if named
        && !at_our_urls
        && policy.written
        && let Err(kept) = cleaning::has_fallen_silent(policy, view, etcd, member)
    {
        return Step::Hold(Hold::NameTaken { member: member.id, urls: member.peer_urls.clone(), kept });
    }
    if !named && !member.name.is_empty() {
        // Another instance's member at our address: its owner may have moved and still hold its data.
        return match cleaning::verdict(policy, view, etcd, member) {
            Ok(_) => clean(policy, view, etcd).unwrap_or(Step::Hold(Hold::Settling)),
            Err(kept) => Step::Hold(Hold::AddressTaken { member: member.id, kept }),
        };
    }
    // A wiped voter may already have voted under this id: only our own record shows that etcd never ran under it.
    let ledger = &view.ledger;
    let added = ledger.joined.is_some_and(|j| j.cluster == etcd.cluster && j.member == member.id && !j.spawned);
    // Our acceptance shows that our disk is the founding's, and so does to have seen the claim absent. To have been told the
    // list shows nothing: a wiped node is told too.
    let accepted = view.accepted_cluster == Some(etcd.cluster);
    let claimed = ledger.saw_unclaimed && view.chosen_cluster == Some(etcd.cluster);
    let founder = !ledger.founded && ledger.joined.is_none() && (accepted || claimed);
    if member.client_urls.is_empty() && (added || founder) {
        return Step::StartExisting {
            cluster: etcd.cluster,
            member: member.id,
            initial_cluster: existing_cluster(etcd, member.id, me),
        };
    }
    Step::RemoveMember { id: member.id, why: Removal::OwnOldId }
}

fn held_by_another(view: &View, member: &Member) -> bool {
    view.peers
        .values()
        .any(|peer| peer.listed.as_ref().is_some_and(|l| l.peer_urls.iter().any(|u| member.peer_urls.contains(u))))
}

fn clean(policy: &Policy, view: &View, etcd: &EtcdSeen) -> Option<Step> {
    cleaning::removable(policy, view, etcd).map(|(id, why)| Step::RemoveMember { id, why })
}

/// etcd wants exactly all members' URLs; the names of others, unstarted ones above all, may be placeholders.
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

fn same_urls(a: &[String], b: &[String]) -> bool {
    a.len() == b.len() && a.iter().all(|url| b.contains(url))
}

/// A running member's next step, beside keeping it running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attend {
    Keep,
    /// Promote our learner.
    Promote(MemberId),
    /// Stop an etcd that never elected and serve the roll call for a while (R5).
    Yield,
}

/// What our own running etcd shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Running {
    pub member: MemberId,
    pub is_learner: bool,
    pub has_leader: bool,
    /// This WAL has never elected, by etcd's own word and by our record.
    pub never_elected: bool,
    pub without_leader_for: Duration,
    /// `YIELD_AFTER` with jitter.
    pub yield_after: Duration,
}

/// R5: how long an etcd that never elected may be without a leader.
pub const YIELD_AFTER: Duration = Duration::from_secs(15);

/// Never yields after a first election.
pub fn attend(running: &Running) -> Attend {
    match running {
        r if r.is_learner && r.has_leader => Attend::Promote(r.member),
        r if r.never_elected && !r.has_leader && r.without_leader_for >= r.yield_after => Attend::Yield,
        _ => Attend::Keep,
    }
}
