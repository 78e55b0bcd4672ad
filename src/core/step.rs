//! What may be done next, with the reasons: what the log, `plan` and the status page show.

use std::time::Duration;

use super::paxos::{Accepted, Ballot, Charter, LeftBehind};
use super::release::{Minor, OldRecords, Release};
use super::types::{ClusterId, InitialList, InstanceId, Known, ListedMember, MemberId};
use super::view::{Ending, LogEnd};

/// What to do next. The executor has no choices left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Change nothing, observe again.
    Hold(Hold),
    /// Run a bootstrap round for this list, unless an older one must be adopted.
    Propose(Proposal),
    /// Bootstrap with ourselves as the only member (the rule for N = 2).
    FoundAlone {
        accepted: Accepted,
        why: AloneReason,
    },
    /// Claim this list as the first members.
    Claim(ClaimProposal),
    /// Record that we never start under this chosen list: it has us under another name or URL than we have now.
    Renounce {
        list: InitialList,
        ours: ListedMember,
    },
    /// Start etcd as a new cluster under a chosen list.
    StartNew(InitialList),
    RemoveMember {
        id: MemberId,
        why: RemovalReason,
    },
    /// Add ourselves as a learner.
    AddSelf,
    /// Publish our new peer URLs for that member id.
    UpdateSelf {
        id: MemberId,
    },
    /// Start etcd as an unstarted member of a running cluster, under this `--initial-cluster`.
    StartExisting {
        cluster: ClusterId,
        member: MemberId,
        initial_cluster: String,
    },
    /// Start etcd with the data it has.
    Resume,
    /// Move the data aside, then decide again.
    Quarantine(Quarantine),
    /// Stay down and change nothing until an operator has intervened.
    Halt(Halt),
}

/// A bootstrap round to run.
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
    /// The version of a void claim; `None`: no claim may exist.
    pub replaces: Option<String>,
}

/// Why we may bootstrap alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AloneReason {
    /// The other of two refused connections for the whole grace time, and we are the oldest.
    OtherRefused(InstanceId),
    /// The other of two does not answer, EC2 reports it as impaired, and we are the oldest.
    OtherImpaired(InstanceId),
    /// The other of two is terminated.
    OtherTerminated(InstanceId),
    /// `MUSTER_BOOTSTRAP_ALONE=yes`.
    OperatorSaysSo,
    /// The claim is free: whichever of the two writes it has decided.
    ClaimDecides,
}

/// Why a member is removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemovalReason {
    /// It is our own id from before our disk was lost: we are the proof.
    OwnOldId,
    /// EC2 reports its instance as gone, it has not answered for the dwell time, and the others have a quorum.
    Gone(InstanceId),
    /// `MUSTER_REMOVE=unhealthy`: it has not answered for five minutes, and the others have a quorum.
    Unhealthy,
    /// A learner that never ran and whose address no instance has: it has not answered for the dwell time, and the others have
    /// a quorum.
    NeverStarted,
}

/// Why a member that looks dead is still kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeepReason {
    /// It answers.
    Alive,
    /// It is unknown whether it answers.
    Unasked,
    /// `MUSTER_REMOVE=off`.
    Off,
    /// Its instance is unknown.
    NoInstance,
    /// Its instance exists, by EC2 or the static host list.
    InstanceExists(InstanceId),
    /// EC2 does not answer.
    Unknown(InstanceId, String),
    /// It has not been unreachable for long enough.
    Dwell,
    /// A learner is joining.
    ChangeInFlight(MemberId),
    /// The remaining voters that answer are too few.
    QuorumAfter { answering: usize, needed: usize },
    /// No replacement is waiting, and without it as many fresh instances could outvote the cluster.
    WouldShrink { voters: usize, size: usize },
}

/// Why data is moved aside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Quarantine {
    /// The cluster of our data has a quorum and no longer lists our member id.
    RemovedWhileDown { cluster: ClusterId, member: MemberId },
    /// Our data never elected a leader, and another cluster has a quorum.
    NeverElected { ours: ClusterId, living: ClusterId },
    /// Our data never elected a leader, and never can: too many of its cluster's first members are terminated.
    Void { ours: ClusterId },
    /// Part of the data is lost, and its cluster has a quorum.
    Partial { what: String },
    /// etcd reported damaged data in several runs in a row, and its cluster has a quorum without it.
    Damaged { cluster: ClusterId, member: MemberId, said: String },
    /// The disk was restored to an older state, and its cluster has a quorum without it.
    OlderCopy { cluster: ClusterId, member: MemberId, here: LogEnd, before: LogEnd, by: InstanceId },
    /// Its cluster's quorum is lost for good, and an operator ordered that a new one goes on with a copy of it.
    Recovered { cluster: ClusterId, member: MemberId },
}

impl Quarantine {
    /// What the ledger must record about it.
    pub const fn left_behind(&self) -> LeftBehind {
        match self {
            Self::Void { .. } => LeftBehind::Void,
            Self::Recovered { .. } => LeftBehind::Recovered,
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
    /// The data here belongs to another instance, or no record shows whose it is, and nothing proves that its owner is gone.
    NotOurs {
        member: Option<(ClusterId, MemberId)>,
        owner: Option<InstanceId>,
        why: Doubt,
    },
    /// Another host runs as the member whose data is here.
    RunsElsewhere {
        cluster: ClusterId,
        member: MemberId,
        name: String,
        at: String,
    },
    /// The disk here was restored to an older state, and no quorum answers.
    OlderCopy {
        member: MemberId,
        here: LogEnd,
        before: LogEnd,
        by: InstanceId,
    },
    /// The agreed list has us under another name or URL than we have now.
    ListedOtherwise {
        listed: Box<ListedMember>,
        ours: Box<ListedMember>,
    },
    /// The name in an instance's peer URL does not resolve here.
    Unresolved {
        instance: InstanceId,
        cause: String,
    },
    /// We were a member, our data is gone, and no quorum answers.
    DiskLost,
    /// A list was chosen without us.
    NotListed,
    ClaimUnknown {
        cause: String,
    },
    /// The claim names other first members.
    ClaimedByOthers {
        claim: String,
        list: InitialList,
    },
    /// The claim says that a cluster was bootstrapped, and no quorum of it answers.
    Established {
        cluster: ClusterId,
        claim: String,
    },
    /// What is to be restored can't be determined.
    SeedUnknown {
        cause: String,
    },
    /// Whether there are snapshots of an earlier cluster can't be determined.
    SnapshotsUnknown {
        place: String,
        cause: String,
    },
    /// There are snapshots: a cluster was, and nobody said what is to become of its data.
    SnapshotsSeen {
        place: String,
        count: usize,
        newest: String,
    },
    /// No cluster with a quorum answers at `MUSTER_JOIN`: each URL, and why not.
    OldFleetUnseen {
        asked: Vec<(String, String)>,
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
        /// Why it is not removed.
        kept: KeepReason,
        silent_for: Option<Duration>,
    },
    Spare {
        cluster: ClusterId,
        voters: usize,
        /// `MUSTER_CLUSTER_SIZE`.
        wanted: usize,
        kept: Vec<(MemberId, KeepReason)>,
    },
    AddressTaken {
        member: MemberId,
        kept: KeepReason,
    },
    /// A member on another host has this host's name (static host list).
    NameTaken {
        member: MemberId,
        urls: Vec<String>,
        kept: KeepReason,
    },
    Settling,
    /// The etcd here can't start on this data, or can't join that cluster.
    Release(Obstacle),
    /// This instance is about to be terminated, so it does not join.
    Ending(Ending),
    /// This instance was about to be terminated, and is no longer a member.
    Left {
        ending: Known<Ending>,
    },
}

/// Why data that is not known to be ours must not run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Doubt {
    /// Its owner exists, by EC2 or the static host list.
    OwnerStands,
    /// The state of its owner is unknown.
    OwnerUnknown(String),
    /// No record shows whose it is.
    NoRecord,
    /// Something answers where its member is listed.
    Answered { at: String, cause: String },
    /// That instance has data of the same member.
    HeldBy(InstanceId),
}

/// Why we do not bootstrap without the absent instances.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AbsenceReason {
    /// The grace time is not over.
    Grace { waited: Duration, grace: Duration },
    /// The roster shows terminated instances, one of which may have been in a cluster.
    Terminated(InstanceId),
    /// This instance is older than the bootstrap window.
    Aged(InstanceId),
    /// The age of this instance is unknown.
    AgeUnknown(InstanceId),
    /// Fewer answer than a quorum of N. `first`: the N that count, if more are listed.
    TooFewAnswer { answering: usize, needed: usize, first: Vec<InstanceId> },
    /// N is unset and the roster is too large, or changed.
    SizeUnset,
    /// N = 2, and nothing proves the other dead.
    OneOfTwo,
}

/// Why etcd is not started, or this node does not join.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// The release of the etcd here is unknown.
    Unreadable(String),
    /// The data, or the cluster to join, has a newer release.
    Older { installed: Release, than: Minor, of: Subject },
    /// A minor release would be skipped.
    Skips { installed: Release, from: Minor, of: Subject },
    /// The log has records that this release can't apply.
    Records { installed: Release, records: OldRecords },
    /// The raft snapshot holds keys of the v2 API, with which this release does not start.
    V2Keys { installed: Release },
    /// The data lists more members as learners than this release accepts.
    Learners { installed: Release, members: Vec<MemberId>, most: usize },
    /// The log of the cluster to join may have records that this release can't apply.
    JoinsFirst { installed: Release, cluster: Minor },
    /// A member of the cluster to join runs a release that has no learners, and would come down over one.
    NoLearners { oldest: Minor },
    /// The cluster to join did not report its version.
    ClusterUnknown { installed: Release },
    /// The cluster to join is being downgraded to that minor release.
    Downgrading { to: Minor },
    /// The cluster to join did not report whether it is being downgraded.
    DowngradeUnknown(String),
    /// Another first member would start a release that does not work together with ours.
    Beside { installed: Release, instance: String, theirs: Release },
}

/// Whose release is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    Data,
    Cluster,
    Snapshot,
}
