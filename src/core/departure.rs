//! Leaving for good (`MUSTER_LEAVE`, `etcd-muster leave`): an instance that EC2 is about to terminate, or whose operator says so, removes its member from the cluster, if the
//! others keep their quorum (section "Leaving" of ARCHITECTURE.md).

use std::collections::BTreeSet;
use std::fmt;

use super::quorum::quorum;
use super::step::{Hold, Quarantine, Step};
use super::types::{Known, Member, MemberId};
use super::view::View;

/// The cluster as seen by a member that is about to be terminated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Read through a quorum.
    pub members: Vec<Member>,
    /// The other members that report themselves healthy. A member that did not answer is not in it.
    pub healthy: BTreeSet<MemberId>,
    pub me: MemberId,
    pub leader: Option<MemberId>,
}

/// What a member that is about to be terminated does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Leave {
    /// Hand over leadership first.
    HandOver(MemberId),
    /// Let the leader remove us: only the leader knows every membership change in progress, so of two members that leave at
    /// once, the second is judged by what the first has left.
    Remove { leader: MemberId },
    /// We are not a member any more.
    Out,
    /// Keep running until the instance ends.
    StayReason(StayReason),
}

/// Why a member that is about to be terminated does not leave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StayReason {
    LastMember,
    /// Another member was added and is not a voter yet: one change at a time.
    AnotherJoins(MemberId),
    /// The other healthy members would not be a quorum.
    QuorumAfter {
        healthy: usize,
        needed: usize,
    },
    NoLeader,
    /// The cluster could not be queried, or refused, for that reason.
    Unknown(String),
}

impl StayReason {
    /// Whether waiting can help, if the instance's end can be delayed.
    pub fn may_pass(&self) -> bool {
        !matches!(self, Self::LastMember)
    }
}

impl fmt::Display for StayReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LastMember => f.write_str("it is the last member"),
            Self::AnotherJoins(member) => write!(f, "member {member} is joining; one change at a time"),
            Self::QuorumAfter { healthy, needed } => {
                write!(f, "{healthy} other voters are healthy, removing it needs {needed}")
            }
            Self::NoLeader => f.write_str("no healthy leader is seen"),
            Self::Unknown(cause) => f.write_str(cause),
        }
    }
}

/// Whether to leave.
pub fn leave(seen: &Seen) -> Leave {
    let others = || seen.members.iter().filter(|m| m.id != seen.me);
    if !seen.members.iter().any(|m| m.id == seen.me) {
        return Leave::Out;
    }
    // A voter that never started is a change in progress too.
    if let Some(joining) = others().find(|m| m.is_learner || m.client_urls.is_empty()) {
        return Leave::StayReason(StayReason::AnotherJoins(joining.id));
    }
    let rest = others().count();
    if rest == 0 {
        return Leave::StayReason(StayReason::LastMember);
    }
    let healthy = others().filter(|m| seen.healthy.contains(&m.id)).count();
    let needed = quorum(rest);
    if healthy < needed {
        return Leave::StayReason(StayReason::QuorumAfter { healthy, needed });
    }
    match (heir(seen), seen.leader) {
        (Some(heir), _) => Leave::HandOver(heir),
        (None, Some(leader)) if seen.healthy.contains(&leader) => Leave::Remove { leader },
        _ => Leave::StayReason(StayReason::NoLeader),
    }
}

/// If we lead, the voter to hand leadership to. Also where we can't leave, because the instance ends anyway.
pub fn heir(seen: &Seen) -> Option<MemberId> {
    let voters = seen.members.iter().filter(|m| m.id != seen.me && !m.is_learner);
    let heir = voters.map(|m| m.id).find(|id| seen.healthy.contains(id));
    heir.filter(|_| seen.leader == Some(seen.me))
}

/// An instance that is about to be terminated does not join, and one that has left stays down until EC2 cancels the
/// termination. A bootstrap in progress is not delayed: others may be waiting for us.
pub(super) fn hold_back(view: &View, step: Step) -> Step {
    let left = view.ledger.left || matches!(step, Step::Quarantine(Quarantine::RemovedWhileDown { .. }));
    match (&view.ending, step) {
        (Known::Known(Some(ending)), _) if left => Step::Hold(Hold::Left { ending: Known::Known(ending.clone()) }),
        // "Unknown" means neither that the instance ends nor that the termination was cancelled.
        (Known::Unknown(cause), _) if view.ledger.left => {
            Step::Hold(Hold::Left { ending: Known::Unknown(cause.clone()) })
        }
        (
            Known::Known(Some(ending)),
            Step::AddSelf | Step::StartExisting { .. } | Step::RemoveMember { .. } | Step::Quarantine(_),
        ) => Step::Hold(Hold::Ending(ending.clone())),
        (_, step) => step,
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::Ending;
    use super::*;

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Kind {
        Healthy,
        Silent,
        Learner,
        Unstarted,
    }
    const KINDS: [Kind; 4] = [Kind::Healthy, Kind::Silent, Kind::Learner, Kind::Unstarted];

    /// Member 0 is us.
    fn seen(kinds: &[Kind], leader: Option<u64>) -> Seen {
        let member = |(id, kind): (u64, &Kind)| Member {
            id: MemberId(id),
            name: format!("i-{id}"),
            peer_urls: vec![],
            client_urls: if *kind == Kind::Unstarted { vec![] } else { vec![format!("http://{id}:2379")] },
            is_learner: *kind == Kind::Learner,
        };
        let numbered = || (0..).zip(kinds);
        Seen {
            members: numbered().map(member).collect(),
            healthy: numbered()
                .filter(|(id, k)| *id != 0 && **k == Kind::Healthy)
                .map(|(id, _)| MemberId(id))
                .collect(),
            me: MemberId(0),
            leader: leader.map(MemberId),
        }
    }

    #[test]
    fn what_proves_an_end() {
        assert_eq!(Ending::by_target_state("Terminated"), Some(Ending::Group("Terminated".to_owned())));
        assert!(Ending::by_target_state("Warmed:Terminated").is_some());
        for state in ["InService", "Standby", "Detached", "Warmed:Stopped", "Warmed:Running", "Warmed:Hibernated", ""] {
            assert_eq!(Ending::by_target_state(state), None, "{state}");
        }
        assert_eq!(Ending::by_spot_action("terminate"), Some(Ending::Spot));
        for action in ["stop", "hibernate", ""] {
            assert_eq!(Ending::by_spot_action(action), None, "{action}");
        }
    }

    #[test]
    fn a_follower_is_removed_by_the_leader_and_a_leader_hands_over_first() {
        use Kind::Healthy;
        let three = [Healthy, Healthy, Healthy];
        assert_eq!(leave(&seen(&three, Some(2))), Leave::Remove { leader: MemberId(2) });
        assert_eq!(leave(&seen(&three, Some(0))), Leave::HandOver(MemberId(1)));
        assert_eq!(leave(&seen(&three, None)), Leave::StayReason(StayReason::NoLeader));
        assert_eq!(leave(&seen(&[Healthy, Healthy], Some(1))), Leave::Remove { leader: MemberId(1) });
    }

    #[test]
    fn each_guard_has_its_reason() {
        use Kind::{Healthy, Learner, Silent, Unstarted};
        let stay = |kinds: &[Kind]| match leave(&seen(kinds, Some(1))) {
            Leave::StayReason(why) => why,
            other => panic!("{kinds:?}: {other:?}"),
        };
        assert_eq!(stay(&[Healthy]), StayReason::LastMember);
        assert_eq!(stay(&[Healthy, Learner]), StayReason::AnotherJoins(MemberId(1)));
        assert_eq!(stay(&[Healthy, Healthy, Healthy, Unstarted]), StayReason::AnotherJoins(MemberId(3)));
        assert_eq!(stay(&[Healthy, Healthy, Silent]), StayReason::QuorumAfter { healthy: 1, needed: 2 });
        assert_eq!(
            leave(&seen(&[Healthy, Silent, Healthy, Healthy], Some(1))),
            Leave::StayReason(StayReason::NoLeader)
        );
        assert_eq!(leave(&Seen { me: MemberId(9), ..seen(&[Healthy, Healthy], Some(1)) }), Leave::Out);
        // Our own learner is not another's change, and removing it costs no vote.
        assert_eq!(leave(&seen(&[Learner, Healthy, Healthy, Silent], Some(1))), Leave::Remove { leader: MemberId(1) });
    }

    /// Every cluster of up to five: a member that leaves leaves a quorum of started, healthy voters, and no change in progress.
    #[test]
    fn nobody_ever_leaves_less_than_a_quorum() {
        let (mut left, mut stayed) = (0, 0);
        for size in 1..=5_u32 {
            for code in 0..4_usize.pow(size) {
                let kinds: Vec<Kind> = (0..size).map(|place| KINDS[code / 4_usize.pow(place) % 4]).collect();
                for leader in (0..u64::from(size)).map(Some).chain([None]) {
                    let seen = seen(&kinds, leader);
                    let rest = &kinds[1..];
                    match leave(&seen) {
                        Leave::StayReason(_) => stayed += 1,
                        Leave::Out => panic!("{kinds:?}"),
                        goes => {
                            left += 1;
                            let healthy = rest.iter().filter(|k| **k == Kind::Healthy).count();
                            assert!(2 * healthy > rest.len() && healthy >= 1, "{kinds:?}");
                            assert!(!rest.iter().any(|k| matches!(k, Kind::Learner | Kind::Unstarted)), "{kinds:?}");
                            let helper = match goes {
                                Leave::HandOver(heir) => (leader == Some(0)).then_some(heir),
                                Leave::Remove { leader: asked } => (leader == Some(asked.0)).then_some(asked),
                                _ => None,
                            };
                            assert!(helper.is_some_and(|id| id.0 != 0 && seen.healthy.contains(&id)), "{kinds:?}");
                        }
                    }
                    assert!(heir(&seen).is_none_or(|id| leader == Some(0) && seen.healthy.contains(&id)));
                }
            }
        }
        assert!(left > 100 && stayed > left, "{left} left, {stayed} stayed");
    }
}
