//! Everything a decision may rest on.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::claim::Claimed;
use super::leaving::Ending;
use super::paxos::{Ballot, Charter, Ledger, Standing};
use super::types::{ClusterId, InitialList, InstanceId, Known, ListedMember, Member, MemberId, Roster};

/// What the operator has set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// `MUSTER_CLUSTER_SIZE`: N. Unset: the size of the roster.
    pub cluster_size: Option<usize>,
    /// `MUSTER_MIN_NODES`.
    pub min_nodes: usize,
    /// `MUSTER_FOUND_GRACE`: how long an absent instance is waited for.
    pub found_grace: Duration,
    /// `MUSTER_FOUND_WINDOW`: the greatest age of a fleet in which absence may be forgiven.
    pub found_window: Duration,
    /// `MUSTER_FOUND_ABSENT`: the operator vouches that the absent hold no cluster.
    pub found_absent: bool,
    /// `MUSTER_FOUND_ALONE`: the operator vouches for founding with one of two.
    pub found_alone: bool,
    /// `MUSTER_CLEAN`.
    pub clean: Clean,
    /// `MUSTER_CLEAN_DWELL`: how long a member must not have answered before it may be removed.
    pub clean_dwell: Duration,
    pub token_prefix: String,
    /// `MUSTER_CLAIM`: the object that is claimed, if one is.
    pub claim: Option<String>,
    /// The tag filter, or the written roster, in words, for reasons that name it.
    pub filter: String,
    /// `MUSTER_ROSTER`: the roster is a list that an operator wrote.
    pub written: bool,
}

impl Policy {
    /// N for this roster.
    pub fn size(&self, roster: &Roster) -> usize {
        self.cluster_size.unwrap_or_else(|| roster.standing().count())
    }

    /// The founding this roster calls for.
    pub fn charter(&self, roster: &Roster) -> Charter {
        let size = self.size(roster);
        let written = || roster.standing().map(|i| (i.id.clone(), i.address)).collect();
        Charter {
            size,
            token_prefix: self.token_prefix.clone(),
            first: roster.standing().take(size).map(|i| (i.id.clone(), i.launched)).collect(),
            claim: self.claim.clone(),
            written: self.written.then(written),
        }
    }
}

/// Which members may be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clean {
    Off,
    /// Those whose instance is gone by EC2's word.
    Gone,
    /// Those, too, that have not answered for [`super::cleaning::UNHEALTHY_AFTER`].
    Unhealthy,
}

/// The state of our data and WAL directories.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DataDir {
    /// No WAL and no data.
    Fresh,
    /// A WAL and a backend; the ids as the WAL's metadata record has them, where it could be read.
    Whole { ids: Known<(ClusterId, MemberId)> },
    /// One without the other; the text says which.
    Partial { what: String },
}

/// What an etcd said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EtcdSeen {
    pub cluster: ClusterId,
    /// Where its client port is, for the step that follows.
    pub client_url: String,
    pub members: Vec<Member>,
    /// The member list was read through a quorum. False: not proven, which is not "lost".
    pub has_quorum: bool,
    /// `/version` says not_decided: this cluster has never elected.
    pub undecided: bool,
}

/// What a fresh node's supervisor said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FreshSeen {
    pub charter: Option<Charter>,
    pub promised: Option<Ballot>,
    pub chosen: Option<InitialList>,
    /// How it wants to be listed: it alone knows its overrides.
    pub listed: ListedMember,
}

/// What a peer can say (by evidence, never by assumption).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sighting {
    Etcd(EtcdSeen),
    Fresh(FreshSeen),
    /// Its supervisor holds a data dir. A chosen list is served by one that yields (R5).
    HasData {
        cluster: Option<ClusterId>,
        chosen: Option<InitialList>,
    },
    /// Host up, nothing listening.
    Refused,
    /// No answer, no route, or accepted and mute.
    Silent(String),
    /// TLS or protocol error.
    Mismatch(String),
}

impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd(etcd) => {
                let quorum = if etcd.has_quorum { "quorum" } else { "no quorum proven" };
                write!(f, "etcd of cluster {}, {} members, {quorum}", etcd.cluster, etcd.members.len())
            }
            Self::Fresh(fresh) if fresh.chosen.is_some() => f.write_str("fresh, knows the chosen list"),
            Self::Fresh(_) => f.write_str("fresh"),
            Self::HasData { cluster: Some(id), .. } => write!(f, "holds data of cluster {id}, etcd not running"),
            Self::HasData { cluster: None, .. } => f.write_str("holds data, etcd not running"),
            Self::Refused => f.write_str("connection refused"),
            Self::Silent(cause) => write!(f, "silent: {cause}"),
            Self::Mismatch(cause) => write!(f, "mismatch: {cause}"),
        }
    }
}

/// A roster instance other than ourselves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub sighting: Sighting,
    /// How long the same kind of silence has lasted; zero for a peer that answered.
    pub unanswered_for: Duration,
    /// Every look in that time was `Refused` (the host answered, so nothing was lost on the way).
    pub refused_throughout: bool,
    /// DescribeInstanceStatus calls it impaired; asked for where it matters (N = 2).
    pub impaired: Known<bool>,
    /// How we would list it; `None`: no usable address.
    pub listed: Option<ListedMember>,
}

/// What is known of a member that its instance may have left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fate {
    /// The instance the member belongs to: by name, else by its address.
    pub instance: Option<InstanceId>,
    /// EC2's answer when asked by that id.
    pub gone: Known<bool>,
    /// How long the member has not answered: by our own looks, or since EC2 terminated its instance.
    pub silent_for: Duration,
}

/// Who we are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Me {
    pub instance: InstanceId,
    pub listed: ListedMember,
}

/// One observation of everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    pub me: Me,
    pub data: DataDir,
    /// Our etcd has just run with this data and said of it that it never elected (R5's yield).
    pub yielded: bool,
    /// Life after life etcd has ended over this data: its words ([`super::supervision::Verdict::Condemned`]).
    pub condemned: Option<String>,
    pub ledger: Ledger,
    /// What says that this instance is about to end for good, if anything does (`MUSTER_LEAVE`).
    pub ending: Known<Option<Ending>>,
    /// The cluster id that follows from the accepted list and its token.
    pub accepted_cluster: Option<ClusterId>,
    /// The cluster id that follows from the chosen list.
    pub chosen_cluster: Option<ClusterId>,
    pub claim: Claimed,
    pub roster: Known<Roster>,
    pub roster_unchanged_for: Duration,
    /// The roster lacks us: our own tags as EC2 has them when asked by id.
    pub own_tags: Known<Vec<(String, String)>>,
    pub peers: BTreeMap<InstanceId, Peer>,
    /// Every member of the living cluster that does not answer; empty where that could not be found out.
    pub fates: BTreeMap<MemberId, Fate>,
    /// Time since we removed our own old member id; etcd loses an add that follows within a second.
    pub since_own_removal: Option<Duration>,
}

impl View {
    /// The acceptor's side of this view.
    pub fn standing(&self, policy: &Policy) -> Standing {
        let roster = self.roster.known();
        Standing {
            charter: roster.map(|r| policy.charter(r)),
            terminated: roster.into_iter().flat_map(Roster::terminated).map(|i| i.id.clone()).collect(),
            has_data: self.data != DataDir::Fresh,
        }
    }

    /// The etcds seen, in the order of their instances' ids.
    pub fn etcds(&self) -> impl Iterator<Item = (&InstanceId, &EtcdSeen)> {
        self.peers.iter().filter_map(|(id, peer)| match &peer.sighting {
            Sighting::Etcd(etcd) => Some((id, etcd)),
            _ => None,
        })
    }

    /// One proven member list for each cluster that has quorum.
    pub fn living_clusters(&self) -> BTreeMap<ClusterId, &EtcdSeen> {
        let mut living = BTreeMap::new();
        for (_, etcd) in self.etcds().filter(|(_, etcd)| etcd.has_quorum) {
            living.entry(etcd.cluster).or_insert(etcd);
        }
        living
    }
}
