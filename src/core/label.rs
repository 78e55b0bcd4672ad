//! The names of steps and of the kinds of their reasons, for metrics and scripts: few, without numbers or ids, and stable.

use super::step::{AbsenceReason, AloneReason, Halt, Hold, Obstacle, Quarantine, RemovalReason, Step};

/// A step and the kind of its reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label {
    pub step: &'static str,
    pub kind: &'static str,
}

impl Label {
    /// Every step that `decide` can return.
    pub const DECISIONS: [&str; 13] = [
        "hold",
        "propose",
        "found_alone",
        "claim",
        "renounce",
        "start_new",
        "remove_member",
        "add_self",
        "update_self",
        "start_existing",
        "resume",
        "quarantine",
        "halt",
    ];

    /// A hold whose reason isn't one of the decision's.
    pub const fn hold(kind: &'static str) -> Self {
        Self { step: "hold", kind }
    }

    /// etcd runs.
    pub const fn run(kind: &'static str) -> Self {
        Self { step: "run", kind }
    }
}

impl Step {
    /// Its label.
    pub const fn label(&self) -> Label {
        let (step, kind) = match self {
            Self::Hold(hold) => ("hold", hold.kind()),
            Self::Propose(_) => ("propose", ""),
            Self::FoundAlone { why, .. } => ("found_alone", why.kind()),
            Self::Claim(_) => ("claim", ""),
            Self::Renounce { .. } => ("renounce", ""),
            Self::StartNew(_) => ("start_new", ""),
            Self::RemoveMember { why: RemovalReason::OwnOldId, .. } => ("remove_member", "own_old_id"),
            Self::RemoveMember { why: RemovalReason::Gone(_), .. } => ("remove_member", "gone"),
            Self::RemoveMember { why: RemovalReason::Unhealthy, .. } => ("remove_member", "unhealthy"),
            Self::RemoveMember { why: RemovalReason::NeverStarted, .. } => ("remove_member", "never_started"),
            Self::AddSelf => ("add_self", ""),
            Self::UpdateSelf { .. } => ("update_self", ""),
            Self::StartExisting { .. } => ("start_existing", ""),
            Self::Resume => ("resume", ""),
            Self::Quarantine(why) => ("quarantine", why.kind()),
            Self::Halt(why) => ("halt", why.kind()),
        };
        Label { step, kind }
    }
}

impl Hold {
    const fn kind(&self) -> &'static str {
        match self {
            Self::RosterUnknown { .. } => "roster_unknown",
            Self::NotInRoster { .. } => "not_in_roster",
            Self::TooFewInstances { .. } => "too_few_instances",
            Self::NoAddress { .. } => "no_address",
            Self::SameName { .. } => "same_name",
            Self::PartialData { .. } => "partial_data",
            Self::NotOurs { .. } => "not_ours",
            Self::RunsElsewhere { .. } => "runs_elsewhere",
            Self::OlderCopy { .. } => "older_copy",
            Self::ListedOtherwise { .. } => "listed_otherwise",
            Self::Unresolved { .. } => "unresolved",
            Self::DiskLost => "disk_lost",
            Self::NotListed => "not_listed",
            Self::ClaimUnknown { .. } => "claim_unknown",
            Self::ClaimedByOthers { .. } => "claimed_by_others",
            Self::Established { .. } => "established",
            Self::SeedUnknown { .. } => "seed_unknown",
            Self::SnapshotsUnknown { .. } => "snapshots_unknown",
            Self::SnapshotsSeen { .. } => "snapshots_seen",
            Self::OldFleetUnseen { .. } => "old_fleet_unseen",
            Self::ClusterWithoutQuorum { .. } => "cluster_without_quorum",
            Self::PeerHasData { .. } => "peer_has_data",
            Self::PeerMismatch { .. } => "peer_mismatch",
            Self::DifferentRoster { .. } => "different_roster",
            Self::AwaitProposer { .. } => "await_proposer",
            Self::Absent { why, .. } => match why {
                AbsenceReason::Grace { .. } => "absent_grace",
                AbsenceReason::Terminated(_) => "absent_terminated",
                AbsenceReason::Aged(_) => "absent_aged",
                AbsenceReason::AgeUnknown(_) => "absent_age_unknown",
                AbsenceReason::TooFewAnswer { .. } => "absent_too_few_answer",
                AbsenceReason::SizeUnset => "absent_size_unset",
                AbsenceReason::OneOfTwo => "absent_one_of_two",
            },
            Self::AnotherJoins { .. } => "another_joins",
            Self::Spare { .. } => "spare",
            Self::AddressTaken { .. } => "address_taken",
            Self::NameTaken { .. } => "name_taken",
            Self::Settling => "settling",
            Self::Release(obstacle) => obstacle.kind(),
            Self::Ending(_) => "ending",
            Self::Left { .. } => "left",
        }
    }
}

impl Obstacle {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "release_unknown",
            Self::Older { .. } => "release_older",
            Self::Skips { .. } => "release_skips",
            Self::Records { .. } => "release_records",
            Self::V2Keys { .. } => "release_v2_keys",
            Self::Learners { .. } => "release_learners",
            Self::JoinsFirst { .. } => "release_joins_first",
            Self::NoLearners { .. } => "release_no_learners",
            Self::ClusterUnknown { .. } | Self::DowngradeUnknown(_) => "release_cluster_unknown",
            Self::Downgrading { .. } => "release_downgrading",
            Self::Beside { .. } => "release_beside",
        }
    }
}

impl AloneReason {
    const fn kind(&self) -> &'static str {
        match self {
            Self::OtherRefused(_) => "other_refused",
            Self::OtherImpaired(_) => "other_impaired",
            Self::OtherTerminated(_) => "other_terminated",
            Self::OperatorSaysSo => "operator_says_so",
            Self::ClaimDecides => "claim_decides",
        }
    }
}

impl Quarantine {
    const fn kind(&self) -> &'static str {
        match self {
            Self::RemovedWhileDown { .. } => "removed_while_down",
            Self::NeverElected { .. } => "never_elected",
            Self::Void { .. } => "void",
            Self::Partial { .. } => "partial",
            Self::Damaged { .. } => "damaged",
            Self::OlderCopy { .. } => "older_copy",
            Self::Recovered { .. } => "recovered",
        }
    }
}

impl Halt {
    const fn kind(&self) -> &'static str {
        match self {
            Self::TwoClusters { .. } => "two_clusters",
            Self::ForeignData { .. } => "foreign_data",
            Self::NameInUse { .. } => "name_in_use",
        }
    }
}
