//! Which member may be removed (section "Cleaning" of ARCHITECTURE.md): only the provably dead, one at a time.

use super::quorum::quorum;
use super::types::{InstanceId, Known, Member, MemberId};
use super::view::{Clean, EtcdSeen, Policy, View};

/// Why a member that looks dead is still kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// It answers.
    Alive,
    /// `MUSTER_CLEAN=off`.
    Off,
    /// No instance could be named for it.
    NoInstance,
    /// EC2 shows its instance in being.
    Standing(InstanceId),
    /// EC2 could not be asked.
    Unknown(InstanceId, String),
    /// Not silent for long enough.
    Dwell,
    /// The remaining voters that answer are too few.
    QuorumAfter { answering: usize, needed: usize },
}

/// The first member (by id) that may go, if any. Whoever asks is fresh: a replacement is waiting.
pub fn removable(policy: &Policy, view: &View, cluster: &EtcdSeen) -> Option<MemberId> {
    cluster.members.iter().filter(|m| verdict(policy, view, cluster, m).is_ok()).map(|m| m.id).min()
}

/// All proofs for one member, or the first that is missing.
pub fn verdict(policy: &Policy, view: &View, cluster: &EtcdSeen, member: &Member) -> Result<(), Kept> {
    let fate = view.fates.get(&member.id).ok_or(Kept::Alive)?;
    if policy.clean == Clean::Off {
        return Err(Kept::Off);
    }
    let instance = fate.instance.clone().ok_or(Kept::NoInstance)?;
    match &fate.gone {
        Known::Known(true) => {}
        Known::Known(false) => return Err(Kept::Standing(instance)),
        Known::Unknown(cause) => return Err(Kept::Unknown(instance, cause.clone())),
    }
    if fate.silent_for < policy.clean_dwell {
        return Err(Kept::Dwell);
    }
    let rest: Vec<&Member> = cluster.members.iter().filter(|m| !m.is_learner && m.id != member.id).collect();
    let answering = rest.iter().filter(|m| !view.fates.contains_key(&m.id)).count();
    let needed = quorum(rest.len());
    if answering < needed {
        return Err(Kept::QuorumAfter { answering, needed });
    }
    Ok(())
}
