//! Every hold and halt by its kind: what it means, and what ends it. `docs/holds.md` is made of this table.

/// A kind of hold or halt, as metrics and `status --json` name it.
#[derive(Clone, Copy, Debug)]
pub struct Explained {
    pub kind: &'static str,
    pub meaning: &'static str,
    pub ends: &'static str,
}

const fn hold(kind: &'static str, meaning: &'static str, ends: &'static str) -> Explained {
    Explained { kind, meaning, ends }
}

/// The holds: the node changes nothing, and decides again by itself.
pub const HOLDS: &[Explained] = &[
    hold(
        "roster_unknown",
        "The list of instances can't be read: EC2 gave no complete answer, or the roster file is unusable.",
        "EC2 answers, or the file is mended. etcd that runs keeps running.",
    ),
    hold(
        "not_in_roster",
        "This instance does not carry the tags of the filter.",
        "Tag the instance, or set `MUSTER_TAGS`.",
    ),
    hold("too_few_instances", "Fewer instances are listed than `MUSTER_MIN_NODES`.", "Launch more instances."),
    hold("no_address", "EC2 shows no private address for an instance yet.", "EC2 shows the address."),
    hold(
        "same_name",
        "Two instances would have the same member name.",
        "Unset `ETCD_NAME`, or give each instance its own.",
    ),
    hold(
        "partial_data",
        "A part of etcd's data is missing, for example the WAL volume.",
        "Restore the part, or move the rest away to start this node as new. If its cluster lives, this node joins anew by itself.",
    ),
    hold(
        "not_ours",
        "The data belongs to another instance, or no record says whose it is. A copy never runs beside its original.",
        "EC2 calls the owner terminated; or move the data away; or `MUSTER_ADOPT=MEMBER-ID` when the original is gone for good.",
    ),
    hold(
        "runs_elsewhere",
        "Another host runs as the member that the data here is of.",
        "Move the data away to start this node as new.",
    ),
    hold(
        "older_copy",
        "The disk is an older copy of itself: another supervisor saw this member's log go further.",
        "A quorum of the others answers: this node then joins anew by itself. `MUSTER_ADOPT=MEMBER-ID` starts it with what it has.",
    ),
    hold(
        "listed_otherwise",
        "The agreed list of first members names this node with an address or name that its settings no longer have.",
        "The others form a quorum, and this node joins; or enough nodes are in the same case, and a new list is agreed on.",
    ),
    hold(
        "unresolved",
        "The peer URL of an instance that would be listed does not resolve here.",
        "Mend the name service, or set `ETCD_MEMBER_TYPE=ip` on all nodes.",
    ),
    hold(
        "disk_lost",
        "This instance was a member, its data is gone, and no quorum answers.",
        "Bring the other members back, or restore a snapshot.",
    ),
    hold(
        "not_listed",
        "The others agreed on first members without this node.",
        "They form a quorum; this node then joins.",
    ),
    hold("claim_unknown", "The claim object can't be read, or its store failed the trial.", "The object can be read."),
    hold(
        "claimed_by_others",
        "The claim names other first members.",
        "A quorum of them answers. If they are lost for good, delete the object.",
    ),
    hold(
        "established",
        "The claim says that a cluster was founded.",
        "A quorum of that cluster answers. If it is lost for good, delete the object.",
    ),
    hold(
        "cluster_without_quorum",
        "An instance runs etcd of a cluster whose quorum is not proven.",
        "Enough of its members run, and elect a leader. If they are lost for good, restore a snapshot.",
    ),
    hold(
        "peer_has_data",
        "An instance holds etcd data, and its etcd does not run.",
        "Its etcd comes up, or its data is moved away.",
    ),
    hold(
        "peer_mismatch",
        "An instance answers with something that can't be understood, for example a failed TLS handshake.",
        "The other side is mended. This is never read as \"no cluster\".",
    ),
    hold(
        "different_roster",
        "An instance counts other instances, or has other settings of founding.",
        "EC2's answers agree; or give all nodes the same settings and the same `MUSTER_ROSTER`.",
    ),
    hold("await_proposer", "Another instance is older, and proposes the first members.", "It proposes."),
    hold(
        "absent_grace",
        "An instance did not answer, and the grace time is not over.",
        "It answers, or `MUSTER_FOUND_GRACE` passes.",
    ),
    hold(
        "absent_terminated",
        "An instance does not answer, and a terminated one may have been in a cluster.",
        "It answers; or `MUSTER_FOUND_ABSENT=yes` when there was no cluster.",
    ),
    hold(
        "absent_aged",
        "An instance does not answer, and the fleet is older than `MUSTER_FOUND_WINDOW`, so it may have had a cluster.",
        "It answers; or `MUSTER_FOUND_ABSENT=yes` when there was no cluster.",
    ),
    hold(
        "absent_age_unknown",
        "An instance does not answer, and nothing says how old the fleet is.",
        "It answers; or add `launched` to the roster file; or `MUSTER_FOUND_ABSENT=yes`.",
    ),
    hold("absent_too_few_answer", "Fewer fresh instances answer than a majority of the size.", "Start the others."),
    hold(
        "absent_size_unset",
        "An instance does not answer, and `MUSTER_CLUSTER_SIZE` is unset.",
        "It answers; or set `MUSTER_CLUSTER_SIZE`.",
    ),
    hold(
        "absent_one_of_two",
        "One of two does not answer, and nothing proves that it has no cluster.",
        "It answers; or `MUSTER_FOUND_ALONE=yes` when it has none.",
    ),
    hold(
        "another_joins",
        "Another member is joining. One change is made at a time.",
        "That member votes, or is removed as dead.",
    ),
    hold("spare", "The cluster has all its members. This node is a standby.", "A member is provably dead."),
    hold(
        "address_taken",
        "A member is listed at this node's address.",
        "That member is provably dead, or is removed by hand.",
    ),
    hold(
        "name_taken",
        "A member elsewhere has this host's name (written roster).",
        "That member is silent for the dwell time; or give this host another name.",
    ),
    hold("settling", "etcd applies the removal of the old member.", "It is applied."),
    hold("ending", "EC2 is about to end this instance, so it joins nothing.", "The termination is cancelled."),
    hold(
        "left",
        "This instance has left the cluster because EC2 was about to end it.",
        "The termination is cancelled; or `MUSTER_LEAVE=no`.",
    ),
    hold(
        "certificates",
        "A certificate, key or CA file is missing, expired or unfit.",
        "The file is mended. No restart is needed.",
    ),
    hold(
        "damaged_data",
        "etcd ended several times in a row over damaged data.",
        "A quorum without this member answers: this node joins anew. Without one, restore the data; etcd is started every minute.",
    ),
    hold(
        "files_unusable",
        "A file or program can't be used for now: a full disk, too many open files, no memory, a busy binary.",
        "The cause passes. The line names path, cause and remedy.",
    ),
    hold(
        "own_files",
        "The supervisor's own files in `ED_DATA` can't be read or written.",
        "The cause passes, or is mended.",
    ),
    hold(
        "identity_unknown",
        "The metadata service does not answer, and nothing shows which instance this is.",
        "The metadata service answers.",
    ),
    hold("peer_port_in_use", "Another program holds the peer port.", "Stop that program."),
];

/// The halts: the node stays down until an operator has looked, and is restarted.
pub const HALTS: &[Explained] = &[
    hold(
        "two_clusters",
        "Two clusters with a quorum are among the tagged instances.",
        "Give one of them another tag value, then restart this node.",
    ),
    hold(
        "foreign_data",
        "The data here is of one cluster, and another cluster lives.",
        "Move the data directory away, then restart this node.",
    ),
    hold(
        "name_in_use",
        "`ETCD_NAME` is the name of a member elsewhere.",
        "Unset `ETCD_NAME`, or give each instance its own; then restart this node.",
    ),
];
