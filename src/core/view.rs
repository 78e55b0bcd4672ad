//! Everything that a decision may depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::paxos::{AcceptorContext, Ballot, Charter, Ledger};
use super::release::{DataRelease, Installed, Minor, Release};
use super::seed::{MaySeed, SeedSeen, Snapshots};
use super::types::{ClusterId, InitialList, InstanceId, Known, ListedMember, Member, MemberId, Roster};

/// The operator's settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// `MUSTER_CLUSTER_SIZE`: N. Unset: the size of the roster.
    pub cluster_size: Option<usize>,
    /// `MUSTER_MIN_NODES`.
    pub min_nodes: usize,
    /// `MUSTER_BOOTSTRAP_GRACE`: how long to wait for an absent instance.
    pub found_grace: Duration,
    /// `MUSTER_BOOTSTRAP_WINDOW`: the greatest age of a fleet that may bootstrap without absent instances.
    pub found_window: Duration,
    /// `MUSTER_BOOTSTRAP_WITHOUT_ABSENT`: the operator vouches that the absent instances have no cluster.
    pub found_absent: bool,
    /// `MUSTER_BOOTSTRAP_ALONE`: the operator vouches for a bootstrap by one of two.
    pub found_alone: bool,
    /// `MUSTER_REMOVE`.
    pub clean: Clean,
    /// `MUSTER_REMOVE_AFTER`: how long a member must not have answered before it may be removed.
    pub clean_dwell: Duration,
    /// `MUSTER_ADOPT`: the operator vouches that this host may run as that member, whose data it holds.
    pub adopt: Option<MemberId>,
    /// `ETCD_MAX_LEARNERS`: how many learners etcd 3.6 and later accept.
    pub max_learners: usize,
    /// `MUSTER_JOIN_NEWER`: the operator confirms that the cluster's log has no record that a newer release can't apply.
    pub join_newer: bool,
    pub token_prefix: String,
    /// `MUSTER_CLAIM`: the claim object, if one is used.
    pub claim: Option<String>,
    /// `MUSTER_JOIN`: client URLs of a cluster outside the roster. A node without data joins it, and never founds one.
    pub join: Vec<String>,
    /// `MUSTER_SEED`: where a cluster that is founded gets its data from; `None`: it begins empty, or as an operator orders.
    pub seed: Option<String>,
    /// `MUSTER_SNAPSHOTS`: the places where snapshots of an earlier cluster may be.
    pub snapshots: Vec<String>,
    /// The tag filter, or the static host list, as text for reasons that name it.
    pub filter: String,
    /// `MUSTER_HOSTS`: the instances come from a static host list.
    pub written: bool,
}

impl Policy {
    /// N for this roster.
    pub fn size(&self, roster: &Roster) -> usize {
        self.cluster_size.unwrap_or_else(|| roster.non_terminated().count())
    }

    /// The charter of a bootstrap of this roster.
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

    /// The charter under which this node votes; `None`: it is to join another cluster, so it takes part in no bootstrap.
    pub fn charter_to_vote(&self, roster: &Roster) -> Option<Charter> {
        self.join.is_empty().then(|| self.charter(roster))
    }
}

/// Which members may be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clean {
    Off,
    /// Members whose instance is gone, as EC2 reports.
    Gone,
    /// Also members that have not answered for [`super::removal::UNHEALTHY_AFTER`].
    Unhealthy,
}

/// The state of our data and WAL directories.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DataDir {
    /// No WAL and no data.
    Fresh,
    /// A WAL and a backend; the ids as the WAL's metadata record has them, if it could be read.
    Whole { ids: Known<(ClusterId, MemberId)> },
    /// One without the other; the text says which.
    Partial { what: String },
}

/// What an etcd answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EtcdSeen {
    pub cluster: ClusterId,
    /// The URL of its client port, for the next step.
    pub client_url: String,
    pub members: Vec<Member>,
    pub quorum: Quorum,
    /// The cluster's version, as that etcd reports it; `None`: the cluster has none yet, or it did not report it.
    pub version: Option<Minor>,
    /// The release that this etcd itself runs.
    pub release: Option<Release>,
}

impl EtcdSeen {
    /// The member list was read through a quorum.
    pub fn has_quorum(&self) -> bool {
        self.quorum == Quorum::Proven
    }

    /// Whether it can be asked to change members: 3.3 adds a voter when asked for a learner, so its gateway is never asked.
    pub fn changes_members(&self) -> bool {
        self.release.is_none_or(|release| release.is_at_least(3, 4))
    }
}

/// What is known of a cluster's quorum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quorum {
    /// It answered.
    Proven,
    /// It did not answer, which does not mean that the quorum is lost.
    Unproven,
    /// `/version` says not_decided: as far as this member knows there never was a quorum.
    NeverElected,
}

/// What a fresh node's supervisor answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FreshSeen {
    pub charter: Option<Charter>,
    pub promised: Option<Ballot>,
    pub chosen: Option<InitialList>,
    /// Tokens of the lists that it never starts under.
    pub renounced: BTreeSet<String>,
    /// How it is to be listed: only the node itself knows its overrides.
    pub listed: ListedMember,
    /// The etcd that it would start, if it reported one.
    pub release: Option<Release>,
    /// What it restores, and how far it is. For people.
    pub restoring: Option<String>,
}

/// What the supervisor of a node with data answered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DataSeen {
    /// The cluster of that data, where known.
    pub cluster: Option<ClusterId>,
    /// The member of that data, where known.
    pub member: Option<MemberId>,
    /// Sent by a node that yields (R5).
    pub chosen: Option<InitialList>,
    /// Tokens of the lists that it never starts under.
    pub renounced: BTreeSet<String>,
    /// How far it saw the logs of that cluster's other members go.
    pub logs: BTreeMap<MemberId, LogEnd>,
}

/// What is known of a peer (by evidence, never by assumption).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerState {
    Etcd(EtcdSeen),
    Fresh(FreshSeen),
    /// Its supervisor has a data dir, and etcd is not running there now.
    HasData(DataSeen),
    /// Host up, nothing listening.
    Refused,
    /// No answer, no route, or the connection was accepted without an answer.
    Silent(String),
    /// TLS or protocol error.
    Mismatch(String),
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd(etcd) => {
                let quorum = if etcd.has_quorum() { "quorum" } else { "no proven quorum" };
                write!(f, "etcd of cluster {}, {} members, {quorum}", etcd.cluster, etcd.members.len())
            }
            Self::Fresh(FreshSeen { restoring: Some(progress), .. }) => write!(f, "fresh, {progress}"),
            Self::Fresh(fresh) if fresh.chosen.is_some() => f.write_str("fresh, knows the chosen list"),
            Self::Fresh(_) => f.write_str("fresh"),
            Self::HasData(DataSeen { cluster: Some(id), .. }) => {
                write!(f, "has data of cluster {id}, etcd not running")
            }
            Self::HasData(_) => f.write_str("has data, etcd not running"),
            Self::Refused => f.write_str("connection refused"),
            Self::Silent(cause) => write!(f, "unreachable: {cause}"),
            Self::Mismatch(cause) => write!(f, "unusable answer: {cause}"),
        }
    }
}

/// A roster instance other than ourselves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub sighting: PeerState,
    /// How long the same kind of failure to answer has lasted; zero for a peer that answered.
    pub unanswered_for: Duration,
    /// Every observation in that time was `Refused` (the host answered, so nothing was lost on the way).
    pub refused_throughout: bool,
    /// DescribeInstanceStatus reports it as impaired; queried only where it matters (N = 2).
    pub impaired: Known<bool>,
    /// How we would list it; `None`: no usable address.
    pub listed: Option<ListedMember>,
}

/// Whether a member answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// Its etcd serves, or something at its address gives an answer that can't be used.
    Answers,
    /// It does not answer.
    Silent(Silence),
    /// It could not be determined. Never treated as either of the others.
    Unknown,
}

impl Liveness {
    /// How long it has not answered, if that is known.
    pub fn silent_for(&self) -> Option<Duration> {
        match self {
            Self::Silent(silence) => Some(silence.silent_for),
            Self::Answers | Self::Unknown => None,
        }
    }
}

impl fmt::Display for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Silent(Silence { instance, gone, silent_for }) = self else {
            return f.write_str(if matches!(self, Self::Answers) {
                "answers"
            } else {
                "whether it answers is unknown"
            });
        };
        write!(f, "does not answer, for {} s; ", silent_for.as_secs())?;
        match instance {
            Some(id) => write!(f, "its instance {id} ")?,
            None => f.write_str("its instance is not listed and ")?,
        }
        match gone {
            Known::Known(true) => f.write_str("is gone"),
            Known::Known(false) => f.write_str("is not gone"),
            Known::Unknown(cause) => write!(f, "may be gone: {cause}"),
        }
    }
}

/// A member that does not answer and that its instance may have left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Silence {
    /// The instance that the member belongs to: by name, otherwise the one that has, or was last seen with, its address.
    /// `None`: no instance of the whole roster.
    pub instance: Option<InstanceId>,
    /// EC2's answer when asked by that id.
    pub gone: Known<bool>,
    /// How long the member has not answered: by our own observations, or since EC2 terminated its instance.
    pub silent_for: Duration,
}

/// This node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalMember {
    pub instance: InstanceId,
    pub listed: ListedMember,
}

/// What else answers as the member whose data is here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Twin {
    /// Nothing, at any address where that member is listed.
    Nobody,
    /// An etcd at that URL reports that it is the same member; the member is listed under that name.
    Runs { at: String, name: String },
    /// Something answers where that member is listed, and it can't be determined what.
    Unknown { at: String, cause: String },
    /// That instance has data of the same member; etcd is not running there now.
    Holds { instance: InstanceId },
}

/// How far a member's log goes: raft's term and index.
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
    /// From the WAL here.
    pub here: Known<LogEnd>,
    /// What that instance's supervisor saw this member have.
    pub before: LogEnd,
    pub by: InstanceId,
}

/// How far another supervisor saw our own log go. Stored, because it no longer answers once its etcd runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Told {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub before: LogEnd,
    pub by: InstanceId,
}

/// The contents of the claim object.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Claim {
    /// This list is to be started, and no other, unless it is void.
    Founding { list: InitialList },
    /// This cluster has elected a leader: fresh nodes only join it.
    Established { cluster: ClusterId },
}

/// The claim as observed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ClaimState {
    /// `MUSTER_CLAIM` is unset, or nothing depends on it now.
    NotAsked,
    Unknown(String),
    Absent,
    /// `version` is the condition for a write that replaces it.
    Held {
        claim: Claim,
        version: String,
    },
}

impl ClaimState {
    /// What was found, in a word, for a node with data of that cluster or without; `None`: nothing was read.
    pub fn word(&self, ours: Option<ClusterId>) -> Option<&'static str> {
        match self {
            Self::NotAsked => None,
            Self::Unknown(_) => Some("unknown"),
            Self::Absent => Some("absent"),
            Self::Held { claim: Claim::Founding { .. }, .. } => Some("founding"),
            Self::Held { claim: Claim::Established { cluster }, .. } if ours.is_none_or(|ours| ours == *cluster) => {
                Some("established")
            }
            Self::Held { claim: Claim::Established { .. }, .. } => Some("other"),
        }
    }

    /// By this view no node has started under this claim, nor ever can: it is absent, or its list can't have a quorum any more.
    /// A disk that saw this is from before the bootstrap to come.
    pub fn is_before_a_founding(&self, standing: &AcceptorContext) -> bool {
        match self {
            Self::Absent => true,
            Self::Held { claim: Claim::Founding { list }, .. } => list.fault().is_none() && standing.voids(list),
            Self::Held { claim: Claim::Established { .. }, .. } | Self::NotAsked | Self::Unknown(_) => false,
        }
    }
}

/// Why this node's member is to leave: what proves that this instance is about to be terminated for good (a stop, a reboot or a
/// deployment never does), or the operator's word.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Ending {
    /// `etcd-muster leave`: the instance goes on running.
    Asked,
    /// Its Auto Scaling group moves it to that state.
    Group(String),
    /// EC2 reclaims a Spot instance.
    Spot,
}

impl Ending {
    /// From `autoscaling/target-lifecycle-state`. An instance can come back from the other states (Auto Scaling User Guide,
    /// "Retrieve the target lifecycle state").
    pub fn by_target_state(state: &str) -> Option<Self> {
        ["Terminated", "Warmed:Terminated"].contains(&state).then(|| Self::Group(state.to_owned()))
    }

    /// From the action in `spot/instance-action`: `stop` and `hibernate` keep the disks (EC2 User Guide, "Spot Instance
    /// interruption notices").
    pub fn by_spot_action(action: &str) -> Option<Self> {
        (action == "terminate").then_some(Self::Spot)
    }

    /// Whether the instance itself ends, for which its Auto Scaling group may be waiting.
    pub fn is_termination(&self) -> bool {
        *self != Self::Asked
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("etcd-muster leave was run here"),
            Self::Group(state) => write!(f, "its Auto Scaling group terminates it: target-lifecycle-state is {state}"),
            Self::Spot => f.write_str("EC2 reclaims this Spot instance: instance-action is terminate"),
        }
    }
}

/// One observation of everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    pub me: LocalMember,
    pub data: DataDir,
    /// Our etcd has just run with this data and reported that it never elected a leader (R5's yield).
    pub yielded: bool,
    /// etcd reported damaged data in several runs in a row: its words ([`super::restart::Verdict::Condemned`]).
    pub condemned: Option<String>,
    pub ledger: Ledger,
    /// What shows that this instance is about to be terminated for good, if anything does (`MUSTER_LEAVE`).
    pub ending: Known<Option<Ending>>,
    /// The cluster id that follows from the accepted list and its token.
    pub accepted_cluster: Option<ClusterId>,
    /// The cluster id that follows from the chosen list.
    pub chosen_cluster: Option<ClusterId>,
    pub claim: ClaimState,
    /// Snapshots of earlier clusters, in the configured places.
    pub snapshots: Snapshots,
    /// What is to be restored.
    pub seed: SeedSeen,
    pub roster: Known<Roster>,
    pub roster_unchanged_for: Duration,
    /// If the roster lacks us: our own tags, as EC2 has them when asked by id.
    pub own_tags: Known<Vec<(String, String)>>,
    pub peers: BTreeMap<InstanceId, Peer>,
    /// What the etcds of `MUSTER_JOIN` answered, by client URL; queried only for a fresh node.
    pub old_fleet: BTreeMap<String, Known<EtcdSeen>>,
    /// What is known of the running cluster's members; see [`View::fate`].
    pub liveness: BTreeMap<MemberId, Liveness>,
    /// If the ledger names another instance as the owner of our data: whether that instance is gone, as EC2 reports.
    pub owner_gone: Known<bool>,
    /// What else answers as the member whose data we have.
    pub twin: Twin,
    /// The end of our log, and the furthest that a peer saw it.
    pub log: Option<LogSeen>,
    /// Hosts in peer URLs that a bootstrap would list and that do not resolve here, with the reason.
    pub unresolved: BTreeMap<InstanceId, String>,
    /// Time since we removed our own old member id; etcd loses an add that follows within a second.
    pub since_own_removal: Option<Duration>,
    /// The etcd that would be started.
    pub installed: Installed,
    /// What the data shows about releases; meaningless without data.
    pub data_release: Known<DataRelease>,
    /// The minor release to which the cluster to join is being downgraded, if it is. Queried only for a fresh node.
    pub downgrade: Known<Option<Minor>>,
}

impl View {
    /// The acceptor's side of this view.
    pub fn acceptor_context(&self, policy: &Policy) -> AcceptorContext {
        let charter = self.roster.known().and_then(|roster| policy.charter_to_vote(roster));
        AcceptorContext { charter, listings: self.listings(), may_seed: self.may_seed(policy), ..self.losses() }
    }

    /// Which seeds a list may have, for a node without data.
    pub fn may_seed(&self, policy: &Policy) -> MaySeed {
        let none_was_seen = match &self.snapshots {
            Snapshots::NotAsked => policy.snapshots.is_empty(),
            Snapshots::Absent => true,
            Snapshots::Unknown { .. } | Snapshots::Seen { .. } => false,
        };
        match policy.seed.is_none() && self.seed == SeedSeen::default() && none_was_seen {
            true => MaySeed::Nothing,
            false => MaySeed::OneOf(self.seed.acceptable.clone()),
        }
    }

    /// The part of it that shows whether a list can still have a quorum.
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

    /// How each instance may be listed: as it reports itself, and as EC2 reports it.
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

    /// The instances that never start under a list, by the list's token.
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

    /// What is known of that member; unknown if nothing was determined.
    pub fn liveness_of(&self, member: MemberId) -> &Liveness {
        self.liveness.get(&member).unwrap_or(&Liveness::Unknown)
    }

    /// The etcds seen, in the order of their instances' ids; then those outside the roster.
    pub fn etcds(&self) -> impl Iterator<Item = &EtcdSeen> {
        let peers = self.peers.values().filter_map(|peer| match &peer.sighting {
            PeerState::Etcd(etcd) => Some(etcd),
            _ => None,
        });
        peers.chain(self.old_fleet.values().filter_map(Known::known))
    }

    /// Whether that member belongs to an instance of the roster, or to us.
    pub fn is_of_the_roster(&self, member: &Member) -> bool {
        let is_listed = |listed: &ListedMember| {
            listed.name == member.name || listed.peer_urls.iter().any(|url| member.peer_urls.contains(url))
        };
        let has_instance = matches!(self.liveness_of(member.id), Liveness::Silent(Silence { instance: Some(_), .. }));
        has_instance || self.listings().values().flatten().any(is_listed)
    }

    /// One proven member list for each cluster that has quorum.
    pub fn living_clusters(&self) -> BTreeMap<ClusterId, &EtcdSeen> {
        let mut living = BTreeMap::new();
        for etcd in self.etcds().filter(|etcd| etcd.has_quorum()) {
            let kept = living.entry(etcd.cluster).or_insert(etcd);
            if !kept.changes_members() && etcd.changes_members() {
                *kept = etcd;
            }
        }
        living
    }
}
