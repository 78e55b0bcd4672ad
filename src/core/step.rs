//! What may be done next, and the reasons for it: what the log, `plan` and the status page show.

use std::time::Duration;

use super::paxos::{Accepted, Ballot, Charter, LeftBehind};
use super::types::{ClusterId, InitialList, InstanceId, Known, ListedMember, MemberId};
use super::view::{Ending, LogEnd};

/// What to do next. The executor has no choices left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Change nothing, look again.
    Hold(Hold),
    /// Run a founding round for this list, unless an older one must be adopted.
    Propose(Proposal),
    /// Found with ourselves as the only member (the rule for N = 2).
    FoundAlone { accepted: Accepted, why: AloneReason },
    /// Claim this list as the first members.
    Claim(ClaimProposal),
    /// Record that we will never start by this chosen list: it holds us otherwise than we can be started now.
    Renounce { list: InitialList, ours: ListedMember },
    /// Start etcd as a new cluster under a chosen list.
    StartNew(InitialList),
    /// Remove that member.
    RemoveMember { id: MemberId, why: RemovalReason },
    /// Add ourselves as a learner.
    AddSelf,
    /// Publish our new peer URLs for that member id.
    UpdateSelf { id: MemberId },
    /// Start etcd as an unstarted member of a living cluster, under this `--initial-cluster`.
    StartExisting { cluster: ClusterId, member: MemberId, initial_cluster: String },
    /// Start etcd with the data it has.
    Resume,
    /// Move the data aside, then decide again.
    Quarantine(Quarantine),
    /// StayReason down and touch nothing until an operator has looked.
    Halt(Halt),
}

/// A founding round to run.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Proposal {
    pub ballot: Ballot,
    pub charter: Charter,
    /// The value, if no older one must be adopted.
    pub list: InitialList,
}

/// A list to claim.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ClaimProposal {
    /// Recorded as promised before the claim is written, so that no token is ever used for two lists.
    pub ballot: Ballot,
    pub list: InitialList,
    /// The version of a void claim; `None`: there must be none at all.
    pub replaces: Option<String>,
}

/// Why we may found alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AloneReason {
    /// The other of two refused connections for the whole grace time, and we are the oldest.
    OtherRefused(InstanceId),
    /// The other of two is silent and EC2 calls it impaired, and we are the oldest.
    OtherImpaired(InstanceId),
    /// The other of two is terminated.
    OtherTerminated(InstanceId),
    /// `MUSTER_FOUND_ALONE=yes`.
    OperatorSaysSo,
    /// The claim is free: whichever of the two writes it has decided.
    ClaimDecides,
}

/// Why a member is removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemovalReason {
    /// It is our own id from before our disk was lost: we are the proof.
    OwnOldId,
    /// Its instance is gone by EC2's word, it was silent for the dwell time, and the rest has quorum.
    Gone(InstanceId),
    /// `MUSTER_CLEAN=unhealthy`: it was silent for five minutes, and the rest has quorum.
    Unhealthy,
    /// A learner that never ran, and no instance is where it would run: it was silent for the dwell time, and the rest has quorum.
    NeverStarted,
}

/// Why a member that looks dead is still kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeepReason {
    /// It answers.
    Alive,
    /// Whether it answers could not be found out.
    Unasked,
    /// `MUSTER_CLEAN=off`.
    Off,
    /// No instance could be named for it.
    NoInstance,
    /// Its instance is in being, by EC2's or the written roster's word.
    InstanceExists(InstanceId),
    /// EC2 could not be asked.
    Unknown(InstanceId, String),
    /// Not silent for long enough.
    Dwell,
    /// A learner is on its way.
    ChangeInFlight(MemberId),
    /// The remaining voters that answer are too few.
    QuorumAfter { answering: usize, needed: usize },
    /// Nobody waits to take its place, and without it the cluster could be outvoted by as many fresh instances.
    WouldShrink { voters: usize, size: usize },
}

/// Why data is moved aside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Quarantine {
    /// The living cluster of our data doesn't list our member id any more.
    RemovedWhileDown { cluster: ClusterId, member: MemberId },
    /// Our data never elected, and another cluster has quorum.
    NeverElected { ours: ClusterId, living: ClusterId },
    /// Our data never elected, and so many of its cluster's first members are terminated that it never can.
    Void { ours: ClusterId },
    /// Half of the data is lost, and the cluster it belongs to lives.
    Partial { what: String },
    /// By etcd's own word, life after life, the data is damaged, and its cluster lives without it.
    Damaged { cluster: ClusterId, member: MemberId, said: String },
    /// The disk is an older copy of itself, and its cluster lives without it.
    OlderCopy { cluster: ClusterId, member: MemberId, here: LogEnd, before: LogEnd, by: InstanceId },
}

impl Quarantine {
    /// What the ledger has to know of it.
    pub const fn left_behind(&self) -> LeftBehind {
        match self {
            Self::Void { .. } => LeftBehind::Void,
            _ => LeftBehind::MayHaveVoted,
        }
    }
}

/// Why this node stays down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Halt {
    TwoClusters { ids: Vec<ClusterId> },
    ForeignData { ours: ClusterId, living: ClusterId },
    NameInUse { name: String, member: MemberId, urls: Vec<String> },
}

/// Why nothing may be done yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hold {
    RosterUnknown {
        cause: String,
    },
    NotInRoster {
        filter: String,
        tags: Known<Vec<String>>,
    },
    TooFewInstances {
        have: usize,
        need: usize,
    },
    NoAddress {
        instance: InstanceId,
    },
    SameName {
        name: String,
        instances: [InstanceId; 2],
    },
    PartialData {
        what: String,
    },
    /// The data here is another instance's, or nobody knows whose, and nothing proves that its owner is gone.
    NotOurs {
        member: Option<(ClusterId, MemberId)>,
        owner: Option<InstanceId>,
        why: Doubt,
    },
    /// Somebody else runs as the member that the data here is of.
    RunsElsewhere {
        cluster: ClusterId,
        member: MemberId,
        name: String,
        at: String,
    },
    /// The disk here is an older copy of itself, and no quorum lives without it.
    OlderCopy {
        member: MemberId,
        here: LogEnd,
        before: LogEnd,
        by: InstanceId,
    },
    /// By the list that was agreed on we are another than we can be started as now.
    ListedOtherwise {
        listed: Box<ListedMember>,
        ours: Box<ListedMember>,
    },
    /// The peer URL of an instance that would be listed doesn't resolve here.
    Unresolved {
        instance: InstanceId,
        cause: String,
    },
    /// We have been in a cluster, our data is gone, and no quorum answers.
    DiskLost,
    /// A list was chosen without us.
    NotListed,
    ClaimUnknown {
        cause: String,
    },
    /// Others are claimed to be the first members.
    ClaimedByOthers {
        claim: String,
        list: InitialList,
    },
    /// By the claim a cluster was founded, and no quorum of it is seen.
    Established {
        cluster: ClusterId,
        claim: String,
    },
    ClusterWithoutQuorum {
        instance: InstanceId,
        cluster: ClusterId,
    },
    PeerHasData {
        instance: InstanceId,
    },
    PeerMismatch {
        instance: InstanceId,
        cause: String,
    },
    DifferentRoster {
        instance: InstanceId,
        theirs: Option<Charter>,
    },
    AwaitProposer {
        instance: InstanceId,
    },
    Absent {
        absent: Vec<InstanceId>,
        why: AbsenceReason,
    },
    AnotherJoins {
        member: MemberId,
        urls: Vec<String>,
        /// Why it isn't removed; `None`: it could be, but for the others.
        kept: KeepReason,
        silent_for: Option<Duration>,
    },
    Spare {
        cluster: ClusterId,
        voters: usize,
        kept: Vec<(MemberId, KeepReason)>,
    },
    AddressTaken {
        member: MemberId,
        kept: KeepReason,
    },
    /// By a written roster this host has the name of a member elsewhere.
    NameTaken {
        member: MemberId,
        urls: Vec<String>,
        kept: KeepReason,
    },
    Settling,
    /// This instance is about to end: it joins nothing any more.
    Ending(Ending),
    /// This instance was about to end and is no member any more.
    Left {
        ending: Known<Ending>,
    },
}

/// What stands in the way of running with data that isn't known to be ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Doubt {
    /// Its owner is in being, by EC2's or the written roster's word.
    OwnerStands,
    /// What became of its owner is unknown.
    OwnerUnknown(String),
    /// Nothing says whose it is.
    NoRecord,
    /// Something answers where its member is listed.
    Answered { at: String, cause: String },
    /// That instance holds data of the same member.
    HeldBy(InstanceId),
}

/// Why the absence of instances isn't forgiven.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AbsenceReason {
    /// The grace time is not over.
    Grace { waited: Duration, grace: Duration },
    /// The roster shows terminated instances: one of them may have been in a cluster.
    Terminated(InstanceId),
    /// This instance is older than the founding window.
    Aged(InstanceId),
    /// Nobody can say how old this instance is.
    AgeUnknown(InstanceId),
    /// Fewer answer than make a quorum of N. `first`: those that count, where there are others.
    TooFewAnswer { answering: usize, needed: usize, first: Vec<InstanceId> },
    /// N is unset and the roster is too large, or changed.
    SizeUnset,
    /// N = 2, and nothing proves the other dead.
    OneOfTwo,
}
