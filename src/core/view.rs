//! Everything a decision may rest on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::paxos::{AcceptorContext, Ballot, Charter, Ledger};
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
    /// `MUSTER_ADOPT`: the operator vouches that this host may run as that member, whose data it holds.
    pub adopt: Option<MemberId>,
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
        self.cluster_size.unwrap_or_else(|| roster.non_terminated().count())
    }

    /// The founding this roster calls for.
    pub fn charter(&self, roster: &Roster) -> Charter {
        let size = self.size(roster);
        let written = || roster.non_terminated().map(|i| (i.id.clone(), i.address)).collect();
        Charter {
            size,
            token_prefix: self.token_prefix.clone(),
            first: roster.non_terminated().take(size).map(|i| (i.id.clone(), i.launched)).collect(),
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
    /// Those, too, that have not answered for [`super::removal::UNHEALTHY_AFTER`].
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
    pub quorum: Quorum,
}

impl EtcdSeen {
    /// The member list was read through a quorum.
    pub fn has_quorum(&self) -> bool {
        self.quorum == Quorum::Proven
    }
}

/// What is known of a cluster's quorum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quorum {
    /// It answered.
    Proven,
    /// It didn't, which is not "lost".
    Unproven,
    /// `/version` says not_decided: as far as this member knows there never was one.
    NeverElected,
}

/// What a fresh node's supervisor said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FreshSeen {
    pub charter: Option<Charter>,
    pub promised: Option<Ballot>,
    pub chosen: Option<InitialList>,
    /// Tokens of the lists that it will never start by.
    pub renounced: BTreeSet<String>,
    /// How it wants to be listed: it alone knows its overrides.
    pub listed: ListedMember,
}

/// What the supervisor of a node with data said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DataSeen {
    /// The cluster of that data, where known.
    pub cluster: Option<ClusterId>,
    /// The member of that data, where known.
    pub member: Option<MemberId>,
    /// Served by one that yields (R5).
    pub chosen: Option<InitialList>,
    /// Tokens of the lists that it will never start by.
    pub renounced: BTreeSet<String>,
    /// How far it saw the logs of that cluster's other members go.
    pub logs: BTreeMap<MemberId, LogEnd>,
}

/// What a peer can say (by evidence, never by assumption).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerState {
    Etcd(EtcdSeen),
    Fresh(FreshSeen),
    /// Its supervisor holds a data dir, and no etcd runs on it now.
    HasData(DataSeen),
    /// Host up, nothing listening.
    Refused,
    /// No answer, no route, or accepted and mute.
    Silent(String),
    /// TLS or protocol error.
    Mismatch(String),
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd(etcd) => {
                let quorum = if etcd.has_quorum() { "quorum" } else { "no quorum proven" };
                write!(f, "etcd of cluster {}, {} members, {quorum}", etcd.cluster, etcd.members.len())
            }
            Self::Fresh(fresh) if fresh.chosen.is_some() => f.write_str("fresh, knows the chosen list"),
            Self::Fresh(_) => f.write_str("fresh"),
            Self::HasData(DataSeen { cluster: Some(id), .. }) => {
                write!(f, "holds data of cluster {id}, etcd not running")
            }
            Self::HasData(_) => f.write_str("holds data, etcd not running"),
            Self::Refused => f.write_str("connection refused"),
            Self::Silent(cause) => write!(f, "silent: {cause}"),
            Self::Mismatch(cause) => write!(f, "mismatch: {cause}"),
        }
    }
}

/// A roster instance other than ourselves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub sighting: PeerState,
    /// How long the same kind of silence has lasted; zero for a peer that answered.
    pub unanswered_for: Duration,
    /// Every look in that time was `Refused` (the host answered, so nothing was lost on the way).
    pub refused_throughout: bool,
    /// DescribeInstanceStatus calls it impaired; asked for where it matters (N = 2).
    pub impaired: Known<bool>,
    /// How we would list it; `None`: no usable address.
    pub listed: Option<ListedMember>,
}

/// What is known of a member's life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// Its etcd serves, or something stands at its address that can't be understood.
    Answers,
    /// It doesn't answer.
    Silent(Silence),
    /// Nobody could find out. Never read as either.
    Unknown,
}

impl Liveness {
    /// For how long it has been silent, if it is known to be.
    pub fn silent_for(&self) -> Option<Duration> {
        match self {
            Self::Silent(silence) => Some(silence.silent_for),
            Self::Answers | Self::Unknown => None,
        }
    }
}

/// A member that doesn't answer, and that its instance may have left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Silence {
    /// The instance the member belongs to: by name, else by who holds, or was last seen to hold, its address. `None`: no
    /// instance of the whole roster does, and none was seen to.
    pub instance: Option<InstanceId>,
    /// EC2's answer when asked by that id.
    pub gone: Known<bool>,
    /// How long the member has not answered: by our own looks, or since EC2 terminated its instance.
    pub silent_for: Duration,
}

/// Who we are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalMember {
    pub instance: InstanceId,
    pub listed: ListedMember,
}

/// Who else answers as the member that the data here is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Twin {
    /// Nobody does, at no place where that member is listed.
    Nobody,
    /// An etcd at that URL says that it is that very member; it is listed by that name.
    Runs { at: String, name: String },
    /// Something answers where that member is listed, and who it is couldn't be found out.
    Unknown { at: String, cause: String },
    /// That instance holds data of the same member; no etcd runs on it now.
    Holds { instance: InstanceId },
}

/// How far a member's log went: raft's term and index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LogEnd {
    pub term: u64,
    pub index: u64,
}

impl fmt::Display for LogEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "index {} of term {}", self.index, self.term)
    }
}

/// The end of the log here, and what others saw of it before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSeen {
    /// By the WAL here.
    pub here: Known<LogEnd>,
    /// What that instance's supervisor saw this member hold.
    pub before: LogEnd,
    pub by: InstanceId,
}

/// That our own log went on once: the word of another supervisor, which answers no more once its etcd runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Told {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub before: LogEnd,
    pub by: InstanceId,
}

/// What the object says.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Claim {
    /// This list is to be started, and no other, unless it is void.
    Founding { list: InitialList },
    /// This cluster has elected: fresh nodes only join it.
    Established { cluster: ClusterId },
}

/// The claim as it was seen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ClaimState {
    /// `MUSTER_CLAIM` is not set, or nothing depends on it.
    NotAsked,
    Unknown(String),
    Absent,
    /// `version` is what a write that replaces it is held to.
    Held {
        claim: Claim,
        version: String,
    },
}

impl ClaimState {
    /// By what is seen now nobody has started by this claim, nor ever can: it is free, or its list can't have a quorum any more.
    /// Whoever sees that has a disk from before the founding that is to come.
    pub fn is_before_a_founding(&self, standing: &AcceptorContext) -> bool {
        match self {
            Self::Absent => true,
            Self::Held { claim: Claim::Founding { list }, .. } => list.fault().is_none() && standing.voids(list),
            Self::Held { claim: Claim::Established { .. }, .. } | Self::NotAsked | Self::Unknown(_) => false,
        }
    }
}

/// What proves that this instance is about to end for good. A stop, a reboot or a deployment never does.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Ending {
    /// Its Auto Scaling group brings it to that state.
    Group(String),
    /// EC2 takes a Spot instance back.
    Spot,
}

impl Ending {
    /// By `autoscaling/target-lifecycle-state`. The other states it may be brought to can be come back from (Auto Scaling User
    /// Guide, "Retrieve the target lifecycle state").
    pub fn by_target_state(state: &str) -> Option<Self> {
        ["Terminated", "Warmed:Terminated"].contains(&state).then(|| Self::Group(state.to_owned()))
    }

    /// By the action in `spot/instance-action`: `stop` and `hibernate` keep the disks (EC2 User Guide, "Spot Instance
    /// interruption notices").
    pub fn by_spot_action(action: &str) -> Option<Self> {
        (action == "terminate").then_some(Self::Spot)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(state) => write!(f, "its Auto Scaling group ends it: target-lifecycle-state is {state}"),
            Self::Spot => f.write_str("EC2 takes this Spot instance back: instance-action is terminate"),
        }
    }
}

/// One observation of everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    pub me: LocalMember,
    pub data: DataDir,
    /// Our etcd has just run with this data and said of it that it never elected (R5's yield).
    pub yielded: bool,
    /// ProcessRun after life etcd has ended over this data: its words ([`super::restart::Verdict::Condemned`]).
    pub condemned: Option<String>,
    pub ledger: Ledger,
    /// What says that this instance is about to end for good, if anything does (`MUSTER_LEAVE`).
    pub ending: Known<Option<Ending>>,
    /// The cluster id that follows from the accepted list and its token.
    pub accepted_cluster: Option<ClusterId>,
    /// The cluster id that follows from the chosen list.
    pub chosen_cluster: Option<ClusterId>,
    pub claim: ClaimState,
    pub roster: Known<Roster>,
    pub roster_unchanged_for: Duration,
    /// The roster lacks us: our own tags as EC2 has them when asked by id.
    pub own_tags: Known<Vec<(String, String)>>,
    pub peers: BTreeMap<InstanceId, Peer>,
    /// What is known of the living cluster's members; see [`View::fate`].
    pub fates: BTreeMap<MemberId, Liveness>,
    /// Whether the instance that our data belongs to by the ledger, where that is another, is gone by EC2's word.
    pub owner_gone: Known<bool>,
    /// Who else answers as the member that our data is of.
    pub twin: Twin,
    /// Of our data, where somebody saw it further on than any other did.
    pub log: Option<LogSeen>,
    /// Hosts of peer URLs that a founding would list and that don't resolve here, and why.
    pub unresolved: BTreeMap<InstanceId, String>,
    /// Time since we removed our own old member id; etcd loses an add that follows within a second.
    pub since_own_removal: Option<Duration>,
}

impl View {
    /// The acceptor's side of this view.
    pub fn standing(&self, policy: &Policy) -> AcceptorContext {
        let charter = self.roster.known().map(|roster| policy.charter(roster));
        AcceptorContext { charter, listings: self.listings(), ..self.losses() }
    }

    /// As much of it as tells whether a list can still have a quorum.
    pub fn losses(&self) -> AcceptorContext {
        let roster = self.roster.known();
        AcceptorContext {
            me: self.me.instance.clone(),
            terminated: roster.into_iter().flat_map(Roster::terminated).map(|i| i.id.clone()).collect(),
            has_data: self.data != DataDir::Fresh,
            renounced: self.renounced(),
            ..AcceptorContext::default()
        }
    }

    /// How each instance may be listed: by its own word, and by EC2's.
    pub fn listings(&self) -> BTreeMap<InstanceId, BTreeSet<ListedMember>> {
        let peers = self.peers.iter().map(|(id, peer)| {
            let by_its_word = match &peer.sighting {
                PeerState::Fresh(fresh) => Some(fresh.listed.clone()),
                _ => None,
            };
            (id.clone(), peer.listed.iter().cloned().chain(by_its_word).collect())
        });
        let own = (self.me.instance.clone(), BTreeSet::from([self.me.listed.clone()]));
        peers.chain([own]).collect()
    }

    /// Who will never start by which list, by its token.
    pub fn renounced(&self) -> BTreeSet<(InstanceId, String)> {
        let of = |id: &InstanceId, tokens: &BTreeSet<String>| {
            tokens.iter().map(|token| (id.clone(), token.clone())).collect::<Vec<_>>()
        };
        let peers = self.peers.iter().flat_map(|(id, peer)| match &peer.sighting {
            PeerState::Fresh(fresh) => of(id, &fresh.renounced),
            PeerState::HasData(data) => of(id, &data.renounced),
            _ => Vec::new(),
        });
        peers.chain(of(&self.me.instance, &self.ledger.renounced)).collect()
    }

    /// What is known of that member. Of whom nothing was found out, nothing is known.
    pub fn fate(&self, member: MemberId) -> &Liveness {
        self.fates.get(&member).unwrap_or(&Liveness::Unknown)
    }

    /// The etcds seen, in the order of their instances' ids.
    pub fn etcds(&self) -> impl Iterator<Item = (&InstanceId, &EtcdSeen)> {
        self.peers.iter().filter_map(|(id, peer)| match &peer.sighting {
            PeerState::Etcd(etcd) => Some((id, etcd)),
            _ => None,
        })
    }

    /// One proven member list for each cluster that has quorum.
    pub fn living_clusters(&self) -> BTreeMap<ClusterId, &EtcdSeen> {
        let mut living = BTreeMap::new();
        for (_, etcd) in self.etcds().filter(|(_, etcd)| etcd.has_quorum()) {
            living.entry(etcd.cluster).or_insert(etcd);
        }
        living
    }
}
