//! When a fresh node may run a bootstrap round: rules R1 and R3 and the rule for two instances (section "Bootstrap" of
//! ARCHITECTURE.md). What a round does is in [`super::paxos`].

use super::evidence::signs_of_a_cluster;
use super::paxos::{Accepted, Ballot, Charter};
use super::quorum::quorum;
use super::seed::Snapshots;
use super::step::{AbsenceReason, AloneReason, Hold, Proposal, Step};
use super::types::{InitialList, Instance, InstanceId, Known, ListedMember, Roster, Seed};
use super::view::{Peer, PeerState, Policy, View};

/// Bootstraps, or says why not yet. Only for a fresh node that sees no sign of a cluster and knows no chosen list.
pub(super) fn found(policy: &Policy, view: &View) -> Step {
    debug_assert!(signs_of_a_cluster(view).is_none());
    match may_propose(policy, view) {
        Ok(step) => step,
        Err(hold) => Step::Hold(hold),
    }
}

fn may_propose(policy: &Policy, view: &View) -> Result<Step, Hold> {
    let roster = match &view.roster {
        Known::Known(roster) => roster,
        Known::Unknown(cause) => return Err(Hold::RosterUnknown { cause: cause.clone() }),
    };
    let me = roster.non_terminated().find(|i| i.id == view.me.instance).ok_or_else(|| not_in_roster(policy, view))?;
    let charter = policy.charter(roster);
    let have = roster.non_terminated().count();
    if policy.cluster_size == Some(2)
        && let Some(other) = only_other_is_terminated(roster)
        && have == 1
    {
        // That instance was launched and terminated inside the window, and we were launched inside it too: it can't have been in a
        // cluster that had time to be forgotten.
        let young = || !policy.written && roster.all().iter().all(|i| roster.is_younger(i, policy.found_window));
        if policy.found_absent || young() {
            return alone(policy, view, roster, AloneReason::OtherTerminated(other));
        }
        return Err(Hold::Absent { absent: vec![other.clone()], why: AbsenceReason::Terminated(other) });
    }
    let need = if policy.cluster_size == Some(1) { 1 } else { policy.min_nodes };
    if have < need {
        return Err(Hold::TooFewInstances { have, need });
    }
    same_charter(view, &charter)?;
    best_answering(view, roster, me)?;
    let absent: Vec<&Instance> =
        roster.non_terminated().filter(|i| i.id != me.id && fresh_peer(view, &i.id).is_none()).collect();
    if !absent.is_empty() || have < charter.size {
        if let [other] = absent.as_slice()
            && charter.size == 2
            && have == 2
        {
            return one_of_two(policy, view, roster, me, other);
        }
        forgive_absence(policy, view, roster, &charter, &absent)?;
    }
    propose(policy, view, charter)
}

/// R3: after the grace time a young fleet in which nothing was terminated may bootstrap without the instances that do not
/// answer.
fn forgive_absence(
    policy: &Policy,
    view: &View,
    roster: &Roster,
    charter: &Charter,
    absent: &[&Instance],
) -> Result<(), Hold> {
    let hold = |why| Err(Hold::Absent { absent: absent.iter().map(|i| i.id.clone()).collect(), why });
    let answering = charter.first.iter().filter(|(id, _)| !absent.iter().any(|i| i.id == *id)).count();
    // A list of m < N members needs a quorum of N out of m, and all m must answer (then N - m instances can't outvote m
    // members).
    let short = roster.non_terminated().count() < charter.size;
    let needed = quorum(charter.size);
    if answering < needed || (short && !absent.is_empty()) {
        let others = roster.non_terminated().count() > charter.size;
        return hold(AbsenceReason::TooFewAnswer {
            answering,
            needed: if short { answering + absent.len() } else { needed },
            first: charter.first.iter().map(|(id, _)| id.clone()).filter(|_| others).collect(),
        });
    }
    if policy.cluster_size.is_none() && (charter.size > 3 || view.roster_unchanged_for < policy.found_grace) {
        return hold(AbsenceReason::SizeUnset);
    }
    let waited = absent
        .iter()
        .map(|i| view.peers.get(&i.id).map_or(view.roster_unchanged_for, |p| p.unanswered_for))
        .min()
        .unwrap_or(view.roster_unchanged_for);
    if waited < policy.found_grace {
        return hold(AbsenceReason::Grace { waited, grace: policy.found_grace });
    }
    young(policy, roster).or_else(hold)
}

/// R3 (a) and (b): neither a terminated instance nor an old one could have been in a cluster. The operator may vouch for it.
fn young(policy: &Policy, roster: &Roster) -> Result<(), AbsenceReason> {
    if policy.found_absent {
        return Ok(());
    }
    if let Some(instance) = roster.terminated().next() {
        return Err(AbsenceReason::Terminated(instance.id.clone()));
    }
    match roster.non_terminated().find(|i| !roster.is_younger(i, policy.found_window)) {
        Some(instance) if roster.age(instance).is_none() => Err(AbsenceReason::AgeUnknown(instance.id.clone())),
        Some(instance) => Err(AbsenceReason::Aged(instance.id.clone())),
        None => Ok(()),
    }
}

/// N = 2 and the other does not answer: we may bootstrap alone only with proof that the other is not a cluster of its own.
fn one_of_two(policy: &Policy, view: &View, roster: &Roster, me: &Instance, other: &Instance) -> Result<Step, Hold> {
    let hold = |why| Err(Hold::Absent { absent: vec![other.id.clone()], why });
    let peer = view.peers.get(&other.id);
    let waited = peer.map_or(std::time::Duration::ZERO, |p| p.unanswered_for);
    if waited < policy.found_grace {
        return hold(AbsenceReason::Grace { waited, grace: policy.found_grace });
    }
    if policy.found_alone {
        return alone(policy, view, roster, AloneReason::OperatorSaysSo);
    }
    if policy.claim.is_some() {
        young(policy, roster).or_else(hold_with(other))?;
        return alone(policy, view, roster, AloneReason::ClaimDecides);
    }
    // Two host files may each put another of the two first, at a wrong address; only their authors know that they mean one
    // fleet.
    if policy.written {
        return hold(AbsenceReason::OneOfTwo);
    }
    // Each could claim the same proof about the other; so the older one may, and the younger joins it.
    let oldest = roster.ranks_before(&me.id, &other.id);
    let why = match peer {
        Some(Peer { refused_throughout: true, .. }) => AloneReason::OtherRefused(other.id.clone()),
        Some(Peer { sighting: PeerState::Silent(_), impaired: Known::Known(true), .. }) => {
            AloneReason::OtherImpaired(other.id.clone())
        }
        _ => return hold(AbsenceReason::OneOfTwo),
    };
    if !oldest {
        return hold(AbsenceReason::OneOfTwo);
    }
    young(policy, roster).or_else(hold_with(other))?;
    alone(policy, view, roster, why)
}

fn hold_with(other: &Instance) -> impl Fn(AbsenceReason) -> Result<(), Hold> + '_ {
    |why| Err(Hold::Absent { absent: vec![other.id.clone()], why })
}

/// The other instance of a fleet of two, if it is terminated.
fn only_other_is_terminated(roster: &Roster) -> Option<InstanceId> {
    let mut terminated = roster.terminated();
    let other = terminated.next()?;
    terminated.next().is_none().then(|| other.id.clone())
}

/// Bootstraps with ourselves as the only member, unless we accepted a list with the other, which may have been chosen.
fn alone(policy: &Policy, view: &View, roster: &Roster, why: AloneReason) -> Result<Step, Hold> {
    let accepted = view.ledger.accepted.as_ref().filter(|a| !view.losses().voids(&a.list));
    let shared = accepted.and_then(|a| a.list.members.iter().find(|m| m.instance != view.me.instance));
    if let Some(other) = shared
        && why != AloneReason::OperatorSaysSo
    {
        return Err(Hold::Absent { absent: vec![other.instance.clone()], why: AbsenceReason::OneOfTwo });
    }
    let charter = policy.charter(roster);
    let ballot = next_ballot(view)?;
    let members = vec![view.me.listed.clone()];
    let list = InitialList { members, token: token(&charter.token_prefix, &ballot), seed: seed(policy, view)? };
    Ok(Step::FoundAlone { accepted: Accepted { ballot, list }, why })
}

/// R1: a round above any that was seen.
fn propose(policy: &Policy, view: &View, charter: Charter) -> Result<Step, Hold> {
    let members = charter.first.iter().map(|(id, _)| listed(view, id)).collect::<Result<Vec<_>, _>>()?;
    // An etcd that can't resolve a member's name never reaches that member, and a chosen list can't be changed.
    let unresolved = charter.first.iter().find_map(|(id, _)| view.unresolved.get_key_value(id));
    if let Some((instance, cause)) = unresolved {
        return Err(Hold::Unresolved { instance: instance.clone(), cause: cause.clone() });
    }
    // etcd tells the members of an initial cluster apart by name.
    for (i, member) in members.iter().enumerate() {
        if let Some(twin) = members[..i].iter().find(|m| m.name == member.name) {
            let instances = [twin.instance.clone(), member.instance.clone()];
            return Err(Hold::SameName { name: member.name.clone(), instances });
        }
    }
    let ballot = next_ballot(view)?;
    let list = InitialList { members, token: token(&charter.token_prefix, &ballot), seed: seed(policy, view)? };
    Ok(Step::Propose(Proposal { ballot, charter, list }))
}

/// What the cluster begins with. Snapshots are evidence that one was: beside them none is founded empty.
fn seed(policy: &Policy, view: &View) -> Result<Option<Box<Seed>>, Hold> {
    match &view.seed.wanted {
        Some(Known::Known(seed)) => return Ok(Some(Box::new(seed.clone()))),
        Some(Known::Unknown(cause)) => return Err(Hold::SeedUnknown { cause: cause.clone() }),
        None if policy.seed.is_some() => return Err(Hold::SeedUnknown { cause: "it was not asked for".to_owned() }),
        None => {}
    }
    // Accepted already, by an order that is no longer there.
    let accepted = view.ledger.accepted.as_ref().filter(|accepted| !view.losses().voids(&accepted.list));
    if let Some(seed) = accepted.and_then(|accepted| accepted.list.seed.clone()) {
        return Ok(Some(seed));
    }
    match &view.snapshots {
        Snapshots::Absent => Ok(None),
        Snapshots::NotAsked if policy.snapshots.is_empty() => Ok(None),
        Snapshots::NotAsked => {
            let (place, cause) = (policy.snapshots.join(","), "it was not asked".to_owned());
            Err(Hold::SnapshotsUnknown { place, cause })
        }
        Snapshots::Unknown { place, cause } => {
            Err(Hold::SnapshotsUnknown { place: place.clone(), cause: cause.clone() })
        }
        Snapshots::Seen { place, count, newest } => {
            Err(Hold::SnapshotsSeen { place: place.clone(), count: *count, newest: newest.clone() })
        }
    }
}

/// How an instance is to be listed: as it reports itself, if it answered.
fn listed(view: &View, id: &InstanceId) -> Result<ListedMember, Hold> {
    if *id == view.me.instance {
        return Ok(view.me.listed.clone());
    }
    let by_its_word = fresh_peer(view, id).and_then(|peer| match &peer.sighting {
        PeerState::Fresh(fresh) => Some(fresh.listed.clone()),
        _ => None,
    });
    by_its_word.or_else(|| view.peers.get(id)?.listed.clone()).ok_or_else(|| Hold::NoAddress { instance: id.clone() })
}

fn next_ballot(view: &View) -> Result<Ballot, Hold> {
    let heard = view.peers.iter().filter_map(|(id, peer)| match &peer.sighting {
        PeerState::Fresh(fresh) => Some((fresh.promised.as_ref()?.round, id)),
        _ => None,
    });
    let own = view.ledger.promised.as_ref().map(|ballot| (ballot.round, &view.me.instance));
    let (highest, whose) = heard.chain(own).max().unwrap_or((0, &view.me.instance));
    // No real bootstrap gets that far: a peer made the round up. Using a ballot twice would be worse than using none.
    let round = highest.checked_add(1).ok_or_else(|| Hold::PeerMismatch {
        instance: whose.clone(),
        cause: format!("it has promised round {highest}, the highest possible; move its data directory away"),
    })?;
    Ok(Ballot { round, proposer: view.me.instance.clone(), nonce: view.ledger.nonce })
}

/// The ballot's nonce is the random part of the token, so that reused addresses never give equal cluster ids.
pub fn token(prefix: &str, ballot: &Ballot) -> String {
    format!("{prefix}-{:016x}-{}", ballot.nonce, ballot.round)
}

fn fresh_peer<'a>(view: &'a View, id: &InstanceId) -> Option<&'a Peer> {
    view.peers.get(id).filter(|peer| matches!(peer.sighting, PeerState::Fresh(_)))
}

fn same_charter(view: &View, charter: &Charter) -> Result<(), Hold> {
    let other = view.peers.iter().find_map(|(id, peer)| match &peer.sighting {
        PeerState::Fresh(fresh) if fresh.charter.as_ref() != Some(charter) => Some((id, fresh)),
        _ => None,
    });
    match other {
        Some((id, fresh)) => Err(Hold::DifferentRoster { instance: id.clone(), theirs: fresh.charter.clone() }),
        None => Ok(()),
    }
}

/// R1: the best-ranked instance that answers proposes.
fn best_answering(view: &View, roster: &Roster, me: &Instance) -> Result<(), Hold> {
    match roster.non_terminated().find(|i| i.id == me.id || fresh_peer(view, &i.id).is_some()) {
        Some(best) if best.id != me.id => Err(Hold::AwaitProposer { instance: best.id.clone() }),
        _ => Ok(()),
    }
}

fn not_in_roster(policy: &Policy, view: &View) -> Hold {
    let tags = match &view.own_tags {
        Known::Known(tags) => Known::Known(tags.iter().map(|(k, v)| format!("{k}={v}")).collect()),
        Known::Unknown(cause) => Known::Unknown(cause.clone()),
    };
    Hold::NotInRoster { filter: policy.filter.clone(), tags }
}

/// etcd starts under a list only if the list names it as it is (`--initial-advertise-peer-urls` must be its own entry of
/// `--initial-cluster`). If our settings have changed since the list was agreed on, we record that we never start under it;
/// once enough nodes have, the list can't have a quorum any more and a new one is agreed on.
pub(super) fn start_by(view: &View, list: &InitialList, entry: &ListedMember) -> Step {
    let ours = &view.me.listed;
    if view.ledger.renounced.contains(&list.token) {
        return Step::Hold(Hold::ListedOtherwise { listed: Box::new(entry.clone()), ours: Box::new(ours.clone()) });
    }
    match entry.is_same(ours) {
        true => Step::StartNew(list.clone()),
        false => Step::Renounce { list: list.clone(), ours: ours.clone() },
    }
}
