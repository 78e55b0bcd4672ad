//! What a member says that has lost its quorum: who is missing, and what can be done.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::quorum::quorum;
use super::types::{Member, MemberId};

/// What was heard from a member's peer port, where etcd answers without a quorum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// An etcd serves there.
    Etcd,
    /// Its host is up, and nothing listens.
    Refused,
    Silent,
    /// Somebody answers who is no etcd: its supervisor, while etcd is down, or one that holds.
    NoEtcd,
    /// Over a certificate or the protocol.
    NotUnderstood,
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Etcd => "answers",
            Self::Refused => "refuses: its host is up, its etcd is not",
            Self::Silent => "does not answer",
            Self::NoEtcd => "answers, but runs no etcd: see its supervisor's log",
            Self::NotUnderstood => "is there, but not understood: see its certificates",
        })
    }
}

/// A cluster without a leader, as one of its members sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost {
    me: Option<MemberId>,
    voters: Vec<Member>,
    heard: BTreeMap<MemberId, Heard>,
}

impl Lost {
    /// `members`: as the member itself last had them. `heard`: of the others; who isn't in it is silent. `None`: there is nobody to miss,
    /// for it is the only voter.
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

    /// Which voters are missing: when it changes, that is news.
    pub fn missing(&self) -> BTreeSet<MemberId> {
        self.others().filter(|(_, heard)| *heard != Heard::Etcd).map(|(member, _)| member.id).collect()
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, missing) = (self.voters.len(), self.missing());
        let (there, needed) = (all - missing.len(), quorum(all));
        let named = |(member, heard): (&Member, Heard)| {
            let name = if member.name.is_empty() { "one that never started" } else { &member.name };
            format!("{name} (member {}, {}) {heard}", member.id, member.peer_urls.join(","))
        };
        let named: Vec<_> = self.others().filter(|(m, _)| missing.contains(&m.id)).map(named).collect();
        if there >= needed {
            write!(f, "no leader is seen, though {there} of {all} voters answer and {needed} are a quorum")?;
            if !named.is_empty() {
                write!(f, "; missing: {}", named.join("; "))?;
            }
            return f.write_str("; see whether they reach each other at their peer ports, and what their logs say");
        }
        let more = needed - there;
        write!(
            f,
            "the quorum is lost: {there} of {all} voters answer, {needed} are needed; missing: {}; nothing is written or read through \
             the quorum until {more} of them {}; bring back their hosts with their disks, or mend what is between; if they are lost for \
             good, see \"Without a quorum\" in docs/operations.md",
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
            "the quorum is lost: 1 of 3 voters answer, 2 are needed; missing: i-2 (member 2, http://10.0.0.2:2380) answers, but runs \
             no etcd: see its supervisor's log; one that never started (member 3, http://10.0.0.3:2380) does not answer; nothing is \
             written or read through the quorum until 1 of them is back; bring back their hosts with their disks, or mend what is \
             between; if they are lost for good, see \"Without a quorum\" in docs/operations.md"
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
            said.starts_with("no leader is seen, though 2 of 3 voters answer and 2 are a quorum; missing: one that"),
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
