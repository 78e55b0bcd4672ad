//! The message of a member that has lost its quorum: which members are missing, and what the operator can do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::quorum::quorum;
use super::types::{Member, MemberId};

/// What a member's peer port answered. etcd answers there without a quorum, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// An etcd serves there.
    Etcd,
    /// Its host is up, and nothing listens.
    Refused,
    Silent,
    /// Something other than etcd answers: its supervisor, while etcd is down or the node holds.
    NoEtcd,
    /// A certificate or protocol error.
    NotUnderstood,
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Etcd => "answers",
            Self::Refused => "refuses connections: its host is up, its etcd is not",
            Self::Silent => "does not answer",
            Self::NoEtcd => "answers but runs no etcd: see its supervisor's log",
            Self::NotUnderstood => "gives an answer that can't be used: check its certificates",
        })
    }
}

/// A cluster without a leader, as seen by one of its members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost {
    me: Option<MemberId>,
    voters: Vec<Member>,
    heard: BTreeMap<MemberId, Heard>,
}

impl Lost {
    /// `members`: the member's own last list. `heard`: the others' answers; a member that is not in it did not answer. `None`:
    /// this is the only voter, so no other can be missing.
    pub fn seen(me: Option<MemberId>, members: &[Member], heard: BTreeMap<MemberId, Heard>) -> Option<Self> {
        let voters: Vec<_> = members.iter().filter(|m| !m.is_learner).cloned().collect();
        voters.iter().any(|m| Some(m.id) != me).then_some(Self { me, voters, heard })
    }

    fn heard(&self, id: MemberId) -> Heard {
        self.heard.get(&id).copied().unwrap_or(Heard::Silent)
    }

    fn others(&self) -> impl Iterator<Item = (&Member, Heard)> {
        self.voters.iter().filter(|m| Some(m.id) != self.me).map(|m| (m, self.heard(m.id)))
    }

    /// The missing voters: a change of this set is reported.
    pub fn missing(&self) -> BTreeSet<MemberId> {
        self.others().filter(|(_, heard)| *heard != Heard::Etcd).map(|(member, _)| member.id).collect()
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, missing) = (self.voters.len(), self.missing());
        let (there, needed) = (all - missing.len(), quorum(all));
        let named = |(member, heard): (&Member, Heard)| {
            let name = if member.name.is_empty() { "a member that never started" } else { &member.name };
            format!("{name} (member {}, {}) {heard}", member.id, member.peer_urls.join(","))
        };
        let named: Vec<_> = self.others().filter(|(m, _)| missing.contains(&m.id)).map(named).collect();
        if there >= needed {
            write!(f, "there is no leader, although {there} of {all} voters answer and {needed} are a quorum")?;
            if !named.is_empty() {
                write!(f, "; missing: {}", named.join("; "))?;
            }
            return f.write_str("; check that they reach each other's peer ports, and read their logs");
        }
        let more = needed - there;
        write!(
            f,
            "the quorum is lost: {there} of {all} voters answer, {needed} are needed; missing: {}; the cluster \
             serves no writes and no linearizable reads until {more} of them {}; start their hosts with their \
             disks, or repair the network; if they are lost for good, `etcd-muster recover` here shows the way",
            named.join("; "),
            if more == 1 { "is back" } else { "are back" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str, is_learner: bool) -> Member {
        let peer_urls = vec![format!("http://10.0.0.{id}:2380")];
        Member { id: MemberId(id), name: name.to_owned(), peer_urls, client_urls: vec![], is_learner }
    }

    fn three() -> Vec<Member> {
        vec![member(1, "i-1", false), member(2, "i-2", false), member(3, "", false), member(4, "i-4", true)]
    }

    #[test]
    fn who_is_missing_is_named_with_the_way_out() {
        let lost = Lost::seen(Some(MemberId(1)), &three(), [(MemberId(2), Heard::NoEtcd)].into()).unwrap();
        assert_eq!(
            lost.to_string(),
            "the quorum is lost: 1 of 3 voters answer, 2 are needed; missing: i-2 (member 2, http://10.0.0.2:2380) \
             answers but runs no etcd: see its supervisor's log; a member that never started (member 3, \
             http://10.0.0.3:2380) does not answer; the cluster serves no writes and no linearizable reads until 1 \
             of them is back; start their hosts with their disks, or repair the network; if they are lost for good, \
             `etcd-muster recover` here shows the way"
        );
        assert_eq!(lost.missing(), [MemberId(2), MemberId(3)].into(), "a learner takes no vote along");
        // By a learner: it is no voter itself.
        let lost = Lost::seen(Some(MemberId(4)), &three(), [(MemberId(2), Heard::Etcd)].into()).unwrap();
        assert!(lost.to_string().starts_with("the quorum is lost: 1 of 3 voters answer, 2 are needed; missing: i-1 "));
    }

    #[test]
    fn a_quorum_that_is_there_and_has_no_leader_is_another_matter() {
        let lost = Lost::seen(Some(MemberId(1)), &three(), [(MemberId(2), Heard::Etcd)].into()).unwrap();
        let said = lost.to_string();
        assert!(
            said.starts_with(
                "there is no leader, although 2 of 3 voters answer and 2 are a quorum; missing: a \
                member that"
            ),
            "{said}"
        );
    }

    #[test]
    fn the_only_voter_misses_nobody() {
        assert_eq!(
            Lost::seen(Some(MemberId(1)), &[member(1, "i-1", false), member(2, "", true)], BTreeMap::new()),
            None
        );
    }
}
