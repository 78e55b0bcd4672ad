//! How long to wait for an etcd that was asked to stop (section "Stopping" of ARCHITECTURE.md).
//!
//! Since 3.5.16 a stopping etcd serves open streams for 7 s more, and waits without a limit for a connection on a plain port
//! that never sent anything, while it accepts no new ones (measured). Its clients gain nothing from that: they have to
//! reconnect elsewhere anyway.

use std::collections::BTreeSet;
use std::fmt;

use super::quorum::quorum;
use super::types::{Member, MemberId};

/// The cluster as seen by a member that is to stop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub members: Vec<Member>,
    /// The other members that report themselves healthy, which takes a quorum. A member that did not answer is not in it.
    pub healthy: BTreeSet<MemberId>,
    pub me: MemberId,
    pub leader: Option<MemberId>,
    /// This etcd release keeps everything that it acknowledged, even when killed.
    pub survives_a_kill: bool,
}

/// Why etcd is given all the time there is to end by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Patience {
    /// This release may lose acknowledged writes when killed, or the release is unknown.
    Release,
    Leads,
    NoLeader,
    /// The other healthy members are not a quorum: they may lack what is here.
    NoQuorum {
        healthy: usize,
        needed: usize,
    },
    /// The cluster could not be queried, for that reason.
    Unknown(String),
}

impl fmt::Display for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release => f.write_str("killing this etcd release may lose acknowledged writes"),
            Self::Leads => f.write_str("it is still the leader"),
            Self::NoLeader => f.write_str("there is no leader"),
            Self::NoQuorum { healthy, needed } => {
                write!(f, "{healthy} other voters are healthy, a quorum is {needed}")
            }
            Self::Unknown(cause) => f.write_str(cause),
        }
    }
}

/// Whether an etcd that was asked to stop may be killed once its clients had time to disconnect. A kill alone loses nothing
/// that was acknowledged: each entry is synced to its WAL before that. Still, it is done only if a quorum of the other voters
/// has everything as well.
///
/// # Errors
/// Why etcd must not be killed yet.
pub fn may_be_cut_short(seen: &Seen) -> Result<(), Patience> {
    if !seen.survives_a_kill {
        return Err(Patience::Release);
    }
    // A removed member has nothing that the cluster needs.
    if !seen.members.iter().any(|m| m.id == seen.me) {
        return Ok(());
    }
    let voters = || seen.members.iter().filter(|m| !m.is_learner);
    let healthy = voters().filter(|m| m.id != seen.me && seen.healthy.contains(&m.id)).count();
    let needed = quorum(voters().count());
    if healthy < needed {
        return Err(Patience::NoQuorum { healthy, needed });
    }
    match seen.leader {
        None => Err(Patience::NoLeader),
        Some(leader) if leader == seen.me => Err(Patience::Leads),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That many members, 0 is us; of the others, those with a bit set are healthy, or learners.
    fn seen(count: u64, healthy: u64, learners: u64, leader: Option<u64>) -> Seen {
        let member = |id: u64| Member {
            id: MemberId(id),
            name: format!("i-{id}"),
            peer_urls: vec![],
            client_urls: vec![],
            is_learner: learners >> id & 1 == 1,
        };
        Seen {
            members: (0..count).map(member).collect(),
            healthy: (1..count).filter(|id| healthy >> id & 1 == 1).map(MemberId).collect(),
            me: MemberId(0),
            leader: leader.map(MemberId),
            survives_a_kill: true,
        }
    }

    #[test]
    fn each_guard_has_its_reason() {
        let all = u64::MAX;
        assert_eq!(may_be_cut_short(&seen(3, all, 0, Some(1))), Ok(()));
        assert_eq!(may_be_cut_short(&seen(3, all, 1, Some(1))), Ok(()), "a learner takes no vote along");
        assert_eq!(may_be_cut_short(&seen(3, all, 0, Some(0))), Err(Patience::Leads));
        assert_eq!(may_be_cut_short(&seen(3, all, 0, None)), Err(Patience::NoLeader));
        let alone = Patience::NoQuorum { healthy: 0, needed: 1 };
        assert_eq!(may_be_cut_short(&seen(1, all, 0, Some(9))), Err(alone));
        let two = Patience::NoQuorum { healthy: 1, needed: 2 };
        assert_eq!(may_be_cut_short(&seen(2, all, 0, Some(1))), Err(two.clone()));
        assert_eq!(may_be_cut_short(&seen(3, 0b010, 0, Some(1))), Err(two.clone()));
        assert_eq!(may_be_cut_short(&seen(4, all, 0b1000, Some(1))), Ok(()), "two of three voters");
        assert_eq!(may_be_cut_short(&seen(4, 0b1010, 0b1000, Some(1))), Err(two), "a learner makes no quorum");
        let old = Seen { survives_a_kill: false, ..seen(3, all, 0, Some(1)) };
        assert_eq!(may_be_cut_short(&old), Err(Patience::Release));
        let removed = Seen { me: MemberId(9), ..seen(3, 0, 0, None) };
        assert_eq!(may_be_cut_short(&removed), Ok(()));
    }

    /// Every cluster of up to five: a member that is killed leaves a quorum of healthy voters behind, one of which leads.
    #[test]
    fn nobody_is_cut_short_whose_data_the_others_may_need() {
        let (mut cut, mut waited) = (0, 0);
        for count in 1..=5_u64 {
            for healthy in 0..1 << count {
                for learners in 0..1 << count {
                    for leader in (0..count).map(Some).chain([None]) {
                        let seen = seen(count, healthy, learners, leader);
                        if may_be_cut_short(&seen).is_err() {
                            waited += 1;
                            continue;
                        }
                        cut += 1;
                        let voters = (0..count).filter(|id| learners >> id & 1 == 0).count();
                        let ready = (1..count).filter(|id| (healthy & !learners) >> id & 1 == 1).count();
                        assert!(2 * ready > voters && leader.is_some_and(|id| id != 0), "{seen:?}");
                    }
                }
            }
        }
        assert!(cut > 100 && waited > cut, "{cut} cut short, {waited} waited for");
    }
}
