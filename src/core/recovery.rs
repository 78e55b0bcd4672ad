//! When a member may found its cluster anew from its own data, because a quorum of its members is lost for good. Never by itself: an operator asks, and this
//! says what stands against it.

use std::fmt;

use super::quorum::quorum;
use super::types::{Known, Member, MemberId};
use super::view::LogEnd;

/// What is known of another member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Other {
    pub member: Member,
    /// Whether its instance is terminated, as EC2 or the static host list says.
    pub gone: Known<bool>,
    /// The operator says that it is lost for good.
    pub named_lost: bool,
    /// Something answers where it is listed: its etcd, its supervisor, or what can't be understood.
    pub answers: bool,
    /// How far its log goes, as the operator read it there. (An etcd that runs says only how far its log is known to be committed, and an acknowledged write may lie
    /// behind that.)
    pub log: Option<LogEnd>,
}

impl Other {
    /// It never comes back: it does not answer, and its instance is gone or the operator says so. A stopped instance is not gone.
    pub fn is_lost(&self) -> bool {
        !self.answers && (self.named_lost || self.gone == Known::Known(true))
    }
}

/// Ourselves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Own {
    pub member: MemberId,
    pub is_learner: bool,
    /// As our etcd says; one that was started without a quorum does not answer.
    pub leader: Known<Option<MemberId>>,
    pub log: LogEnd,
}

/// What stands against it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There is a quorum.
    Led(MemberId),
    /// There may be one.
    LeaderUnknown(String),
    /// A learner may lack what was acknowledged, and there is no way to see how much.
    Learner,
    /// The operator called one lost that answers.
    NotLost(Box<Member>),
    /// Those that are not proved lost are a quorum: it may come back by itself.
    MayReturn { lost: usize, voters: usize, open: Vec<(Member, Known<bool>)> },
    /// Another survivor has more, or as much is not known.
    Behind { of: Box<Member>, theirs: Option<LogEnd>, ours: LogEnd },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Led(leader) => write!(f, "the cluster has a leader, {leader}: there is nothing to recover"),
            Self::LeaderUnknown(cause) => write!(f, "whether the cluster has a leader is unknown: {cause}"),
            Self::Learner => f.write_str(
                "this member is a learner: it may lack writes that were acknowledged, and nothing shows how many; restore a snapshot, or recover on a voter",
            ),
            Self::NotLost(member) => {
                write!(f, "{} (member {}) was named as lost, and something answers at {}", name(member), member.id, member.peer_urls.join(","))
            }
            Self::MayReturn { lost, voters, open } => {
                write!(f, "of {voters} voters {lost} are lost for good, and without {} more the quorum may come back by itself", voters + 1 - quorum(*voters) - lost)?;
                for (member, gone) in open {
                    let state = match gone {
                        Known::Known(false) => "its instance exists".to_owned(),
                        Known::Known(true) => "its instance is gone".to_owned(),
                        Known::Unknown(cause) => format!("the state of its instance is unknown: {cause}"),
                    };
                    write!(f, "; {} (member {}): {state}", name(member), member.id)?;
                }
                f.write_str("; start them, or name each that is lost for good: --lost MEMBER-ID")
            }
            Self::Behind { of, theirs: Some(theirs), ours } => write!(
                f,
                "{} (member {}) has more: its log ends at {theirs}, ours at {ours}; recover there",
                name(of),
                of.id
            ),
            Self::Behind { of, theirs: None, .. } => write!(
                f,
                "how far the log of {} (member {}) goes is not known; run `etcd-muster recover` there, and give here what it says: --log-end {}=TERM.INDEX",
                name(of),
                of.id,
                of.id
            ),
        }
    }
}

fn name(member: &Member) -> &str {
    if member.name.is_empty() { "a member that never started" } else { &member.name }
}

/// Whether our data may become the beginning of a new cluster.
///
/// # Errors
/// What stands against it.
pub fn may_recover(own: &Own, others: &[Other]) -> Result<(), Refusal> {
    match &own.leader {
        Known::Known(Some(leader)) => return Err(Refusal::Led(*leader)),
        Known::Unknown(cause) => return Err(Refusal::LeaderUnknown(cause.clone())),
        Known::Known(None) => {}
    }
    if own.is_learner {
        return Err(Refusal::Learner);
    }
    if let Some(other) = others.iter().find(|other| other.named_lost && other.answers) {
        return Err(Refusal::NotLost(Box::new(other.member.clone())));
    }
    let others: Vec<&Other> = others.iter().filter(|other| !other.member.is_learner).collect();
    let voters = others.len() + 1;
    let lost = others.iter().filter(|other| other.is_lost()).count();
    let left: Vec<&&Other> = others.iter().filter(|other| !other.is_lost()).collect();
    if voters - lost >= quorum(voters) {
        let open = left.iter().map(|other| (other.member.clone(), other.gone.clone())).collect();
        return Err(Refusal::MayReturn { lost, voters, open });
    }
    // Of two with equally long logs either has all that the other has: a committed entry is in both or in neither.
    let ahead = left.iter().find(|other| other.log.is_none_or(|theirs| theirs > own.log));
    match ahead {
        Some(other) => Err(Refusal::Behind { of: Box::new(other.member.clone()), theirs: other.log, ours: own.log }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Own =
        Own { member: MemberId(1), is_learner: false, leader: Known::Known(None), log: LogEnd { term: 3, index: 90 } };

    fn other(id: u64) -> Other {
        let member = Member {
            id: MemberId(id),
            name: format!("i-{id}"),
            peer_urls: vec![format!("http://10.0.0.{id}:2380")],
            client_urls: Vec::new(),
            is_learner: false,
        };
        Other { member, gone: Known::Known(false), named_lost: false, answers: false, log: None }
    }

    fn gone(id: u64) -> Other {
        Other { gone: Known::Known(true), ..other(id) }
    }

    fn survives(id: u64, term: u64, index: u64) -> Other {
        Other { answers: true, log: Some(LogEnd { term, index }), ..other(id) }
    }

    #[test]
    fn a_survivor_of_a_lost_quorum_may_recover() {
        assert_eq!(may_recover(&OWN, &[gone(2), gone(3)]), Ok(()));
        assert_eq!(may_recover(&OWN, &[gone(2), Other { named_lost: true, ..other(3) }]), Ok(()));
        assert_eq!(may_recover(&OWN, &[gone(2), gone(3), gone(4), survives(5, 3, 90)]), Ok(()));
        assert_eq!(may_recover(&OWN, &[gone(2), gone(3), gone(4), survives(5, 2, 95)]), Ok(()), "an older term");
        assert_eq!(may_recover(&OWN, &[gone(2)]), Ok(()), "one of two");
    }

    #[test]
    fn a_quorum_that_may_come_back_is_waited_for() {
        // One of the two that are needed is only stopped, or nobody knows.
        for open in [other(3), Other { gone: Known::Unknown("503".to_owned()), ..other(3) }] {
            let refusal = may_recover(&OWN, &[gone(2), open]).unwrap_err();
            assert!(matches!(refusal, Refusal::MayReturn { lost: 1, voters: 3, .. }), "{refusal}");
        }
        assert!(matches!(
            may_recover(&OWN, &[gone(2), other(3), other(4), gone(5)]),
            Err(Refusal::MayReturn { lost: 2, voters: 5, .. })
        ));
        let unknown = Own { leader: Known::Unknown("TLS".to_owned()), ..OWN };
        assert!(matches!(may_recover(&unknown, &[gone(2), gone(3)]), Err(Refusal::LeaderUnknown(_))));
        let led = Own { leader: Known::Known(Some(MemberId(3))), ..OWN };
        assert_eq!(may_recover(&led, &[gone(2), gone(3)]), Err(Refusal::Led(MemberId(3))));
    }

    #[test]
    fn whoever_answers_is_not_lost() {
        let answers = Other { named_lost: true, ..survives(3, 3, 90) };
        assert!(matches!(may_recover(&OWN, &[gone(2), answers]), Err(Refusal::NotLost(_))));
        // EC2 says that it is gone, and it answers: then it is not.
        let odd = Other { answers: true, ..gone(3) };
        assert!(matches!(may_recover(&OWN, &[gone(2), odd]), Err(Refusal::MayReturn { .. })));
    }

    #[test]
    fn only_the_survivor_with_the_most_and_no_learner() {
        let behind = [gone(2), gone(3), gone(4), survives(5, 3, 91)];
        assert!(matches!(
            may_recover(&OWN, &behind),
            Err(Refusal::Behind { theirs: Some(LogEnd { term: 3, index: 91 }), .. })
        ));
        let unknown = [gone(2), gone(3), gone(4), Other { answers: true, ..other(5) }];
        assert!(matches!(may_recover(&OWN, &unknown), Err(Refusal::Behind { theirs: None, .. })));
        let learner = Own { is_learner: true, ..OWN };
        assert_eq!(may_recover(&learner, &[gone(2), gone(3)]), Err(Refusal::Learner));
        // A learner's log, and that it is lost, says nothing about the voters.
        let beside = Other { member: Member { is_learner: true, ..other(4).member }, ..other(4) };
        assert_eq!(may_recover(&OWN, &[gone(2), gone(3), beside]), Ok(()));
    }
}
