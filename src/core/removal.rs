//! Which member may be removed (section "Removal" of ARCHITECTURE.md): only the provably dead, one at a time.

use std::time::Duration;

use super::quorum::quorum;
use super::step::{KeepReason, RemovalReason};
use super::types::{ClusterId, Known, Member, MemberId};
use super::view::{Clean, EtcdSeen, Liveness, Policy, Silence, View};

/// `MUSTER_REMOVE=unhealthy`: how long a member must not have answered to be removed without proof from EC2.
pub const UNHEALTHY_AFTER: Duration = Duration::from_secs(300);

/// The first member (by id) that may be removed, if any. The caller is a fresh node, so a replacement is waiting.
pub fn removable(policy: &Policy, view: &View, cluster: &EtcdSeen) -> Option<(MemberId, RemovalReason)> {
    let may_go = cluster.members.iter().filter_map(|m| Some((m.id, verdict(policy, view, cluster, m).ok()?)));
    may_go.min_by_key(|(id, _)| *id)
}

/// The same for the leader's supervisor (`MUSTER_REMOVE_INTERVAL`), where no replacement is waiting.
///
/// # Errors
/// Each member that does not answer, with the reason why it is kept.
pub fn reconcile(
    policy: &Policy,
    view: &View,
    ours: ClusterId,
) -> Result<(MemberId, RemovalReason), Vec<(MemberId, KeepReason)>> {
    let living = view.living_clusters();
    let (Some(cluster), 1, Known::Known(roster)) = (living.get(&ours), living.len(), &view.roster) else {
        return Err(Vec::new());
    };
    let size = policy.size(roster);
    let voters = cluster.members.iter().filter(|m| !m.is_learner).count();
    let verdict = |m: &Member| match verdict(policy, view, cluster, m) {
        Ok(_) if !m.is_learner && quorum(voters - 1) < quorum(size) => Err(KeepReason::WouldShrink { voters, size }),
        verdict => verdict,
    };
    let mut kept = Vec::new();
    for member in &cluster.members {
        match verdict(member) {
            Ok(why) => return Ok((member.id, why)),
            Err(KeepReason::Alive) => {}
            Err(why) => kept.push((member.id, why)),
        }
    }
    Err(kept)
}

/// Checks all proofs for one member.
///
/// # Errors
/// The first proof that is missing: why the member is kept.
pub fn verdict(policy: &Policy, view: &View, cluster: &EtcdSeen, member: &Member) -> Result<RemovalReason, KeepReason> {
    let fate = silence(view, member)?;
    if policy.clean == Clean::Off {
        return Err(KeepReason::Off);
    }
    let gone = match (&fate.instance, &fate.gone) {
        // It never ran, so it never voted, and no instance of the whole roster has its address. EC2 drops a terminated
        // instance's address at once, and the instance within the hour, so nothing could ever show whose member it was.
        (None, _) if never_ran(member) && fate.silent_for >= policy.clean_dwell => {
            return may_go(view, cluster, member).map(|()| RemovalReason::NeverStarted);
        }
        (None, _) if never_ran(member) => return Err(KeepReason::Dwell),
        (None, _) => Err(KeepReason::NoInstance),
        (Some(instance), Known::Known(true)) => Ok(instance),
        (Some(instance), Known::Known(false)) => Err(KeepReason::InstanceExists(instance.clone())),
        (Some(instance), Known::Unknown(cause)) => Err(KeepReason::Unknown(instance.clone(), cause.clone())),
    };
    let why = match gone {
        Ok(instance) if fate.silent_for >= policy.clean_dwell => RemovalReason::Gone(instance.clone()),
        Ok(_) => return Err(KeepReason::Dwell),
        Err(_) if policy.clean == Clean::Unhealthy && fate.silent_for >= UNHEALTHY_AFTER => RemovalReason::Unhealthy,
        Err(kept) => return Err(kept),
    };
    may_go(view, cluster, member).map(|()| why)
}

/// For a member that has our name in a static host list and is listed at another address.
///
/// # Errors
/// The first proof that is missing: why the member is kept.
pub fn has_fallen_silent(policy: &Policy, view: &View, cluster: &EtcdSeen, member: &Member) -> Result<(), KeepReason> {
    match silence(view, member)?.silent_for >= policy.clean_dwell {
        true => may_go(view, cluster, member),
        false => Err(KeepReason::Dwell),
    }
}

/// The member does not answer. If that is unknown, it is kept.
fn silence<'a>(view: &'a View, member: &Member) -> Result<&'a Silence, KeepReason> {
    match view.liveness_of(member.id) {
        Liveness::Silent(silence) => Ok(silence),
        Liveness::Answers => Err(KeepReason::Alive),
        Liveness::Unknown => Err(KeepReason::Unasked),
    }
}

/// A learner that was added and never published itself. (A voter without a name counts in quorums all the same.)
pub fn never_ran(member: &Member) -> bool {
    member.is_learner && member.name.is_empty() && member.client_urls.is_empty()
}

/// The cluster keeps its quorum without the member.
fn may_go(view: &View, cluster: &EtcdSeen, member: &Member) -> Result<(), KeepReason> {
    // One change at a time (G3): a learner is a change in progress, unless it is known not to answer.
    let is_silent = |m: &Member| matches!(view.liveness_of(m.id), Liveness::Silent(_));
    let on_its_way = |m: &&Member| m.is_learner && m.id != member.id && !is_silent(m);
    if let Some(learner) = cluster.members.iter().find(on_its_way) {
        return Err(KeepReason::ChangeInFlight(learner.id));
    }
    let rest: Vec<&Member> = cluster.members.iter().filter(|m| !m.is_learner && m.id != member.id).collect();
    let answering = rest.iter().filter(|m| *view.liveness_of(m.id) == Liveness::Answers).count();
    let needed = quorum(rest.len());
    if answering < needed {
        return Err(KeepReason::QuorumAfter { answering, needed });
    }
    Ok(())
}
