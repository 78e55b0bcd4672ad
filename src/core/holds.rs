//! Every kind of hold and halt: what it means and what ends it. `docs/holds.md` is generated from these tables.

/// A kind of hold or halt, under the name that metrics and `status --json` use.
#[derive(Clone, Copy, Debug)]
pub struct Explained {
    pub kind: &'static str,
    pub meaning: &'static str,
    pub ends: &'static str,
}

const fn hold(kind: &'static str, meaning: &'static str, ends: &'static str) -> Explained {
    Explained { kind, meaning, ends }
}

/// The holds: the node changes nothing and keeps deciding again by itself.
pub const HOLDS: &[Explained] = &[
    hold(
        "roster_unknown",
        "The list of instances can't be read: EC2's answer is missing or incomplete, or the roster file is unusable.",
        "EC2 answers, or the file is fixed. A running etcd keeps running.",
    ),
    hold(
        "not_in_roster",
        "This instance does not have the tags of the filter.",
        "Tag the instance, or set `MUSTER_TAGS`.",
    ),
    hold("too_few_instances", "Fewer instances are listed than `MUSTER_MIN_NODES` requires.", "Launch more instances."),
    hold("no_address", "EC2 reports no private address for an instance yet.", "EC2 reports the address."),
    hold("same_name", "Two instances have the same member name.", "Unset `ETCD_NAME`, or give each instance its own."),
    hold(
        "partial_data",
        "Part of etcd's data is missing, for example the WAL volume.",
        "Restore that part, or move the rest away to start this node as new. If its cluster has a quorum, this node rejoins by itself.",
    ),
    hold(
        "not_ours",
        "The data belongs to another instance, or no record shows that it is this instance's. Two copies of one member must never run at once.",
        "EC2 reports the owner as terminated; or move the data away; or set `MUSTER_ADOPT=MEMBER-ID` if the original is gone for good.",
    ),
    hold(
        "runs_elsewhere",
        "Another host already runs as the member whose data is here.",
        "Stop the supervisor and move the data aside (`etcd-muster set-aside`): the node then starts as new.",
    ),
    hold(
        "older_copy",
        "The disk was restored to an older state: another supervisor saw later entries in this member's log.",
        "A quorum of the other members answers: this node then rejoins by itself. `MUSTER_ADOPT=MEMBER-ID` starts it with the data it has.",
    ),
    hold(
        "listed_otherwise",
        "The agreed list of first members has this node under a name or peer URL that its settings no longer give it.",
        "The others form a quorum and this node joins; or, if too many nodes are in this state, they agree on a new list.",
    ),
    hold(
        "unresolved",
        "The name in an instance's peer URL does not resolve here, so etcd could not reach that instance.",
        "Fix DNS, or set `ETCD_MEMBER_TYPE=ip` on all nodes.",
    ),
    hold(
        "disk_lost",
        "This instance was a member, its data is gone, and no quorum answers.",
        "Start the other members, or restore a snapshot.",
    ),
    hold(
        "not_listed",
        "The other nodes agreed on a list of first members without this node.",
        "The others form a quorum; this node then joins.",
    ),
    hold(
        "claim_unknown",
        "The claim object can't be read, or its store failed the start-up check.",
        "The object becomes readable.",
    ),
    hold(
        "claimed_by_others",
        "The claim object names other first members.",
        "A quorum of them answers; this node then joins. If they are lost for good, delete the object.",
    ),
    hold(
        "established",
        "The claim object says that a cluster was bootstrapped.",
        "A quorum of that cluster answers; this node then joins. If the cluster is lost for good, delete the object.",
    ),
    hold(
        "snapshots_seen",
        "No cluster is seen, and a place for snapshots holds some: a cluster was, so none is founded empty.",
        "Restore one (`etcd-muster restore`), or set `MUSTER_SEED` on all nodes; or name another prefix in `MUSTER_SNAPSHOTS` for a cluster \
         that is to begin empty.",
    ),
    hold(
        "snapshots_unknown",
        "A place for snapshots can't be read, so a cluster may have been.",
        "The place can be read; or take it out of `MUSTER_SNAPSHOTS` if no cluster was.",
    ),
    hold(
        "seed_unknown",
        "Which snapshot is to be restored can't be determined.",
        "The place can be read, and `MUSTER_SEED` means exactly one snapshot.",
    ),
    hold(
        "recovering",
        "A new cluster is being made from a copy of the data here, as an operator ordered (`etcd-muster recover`).",
        "It begins; or it fails, and etcd starts with its data again. The line names the cause.",
    ),
    hold(
        "restoring",
        "The snapshot with which the cluster begins is not restored here yet, or can't be.",
        "It is restored; or a quorum of the others runs: this node then gets the data from them. The line names the cause and the remedy.",
    ),
    hold(
        "old_fleet_unseen",
        "`MUSTER_JOIN` names a cluster to join, and no quorum of it answers.",
        "It answers at one of these URLs; or unset `MUSTER_JOIN` on all nodes if they are to have a cluster of their own.",
    ),
    hold(
        "cluster_without_quorum",
        "An instance runs etcd, but its cluster has no proven quorum.",
        "Enough members of that cluster run and elect a leader. If they are lost for good, run `etcd-muster recover` there.",
    ),
    hold(
        "peer_has_data",
        "An instance has etcd data, and its etcd is not running.",
        "That etcd starts, or its data is moved away.",
    ),
    hold(
        "peer_mismatch",
        "An instance gives an answer that can't be used, for example a failed TLS handshake. It may be part of a cluster.",
        "The cause is fixed on that instance or here.",
    ),
    hold(
        "different_roster",
        "An instance has another list of instances, or other bootstrap settings.",
        "EC2 lists the same instances to both; or set the same `MUSTER_` settings on all nodes.",
    ),
    hold("await_proposer", "Another instance is older, so it proposes the first members.", "That instance proposes."),
    hold(
        "absent_grace",
        "An instance did not answer, and the grace period is not over.",
        "It answers, or `MUSTER_BOOTSTRAP_GRACE` passes.",
    ),
    hold(
        "absent_terminated",
        "An instance does not answer, and a terminated instance may have been in a cluster.",
        "It answers; or set `MUSTER_BOOTSTRAP_WITHOUT_ABSENT=yes` if no cluster existed.",
    ),
    hold(
        "absent_aged",
        "An instance does not answer, and the fleet is older than `MUSTER_BOOTSTRAP_WINDOW`, so a cluster may already exist.",
        "It answers; or set `MUSTER_BOOTSTRAP_WITHOUT_ABSENT=yes` if no cluster existed.",
    ),
    hold(
        "absent_age_unknown",
        "An instance does not answer, and the age of the fleet is unknown, so a cluster may already exist.",
        "It answers; or add `launched` to the roster file; or set `MUSTER_BOOTSTRAP_WITHOUT_ABSENT=yes` if no cluster existed.",
    ),
    hold(
        "absent_too_few_answer",
        "Fewer instances without data answer than a majority of `MUSTER_CLUSTER_SIZE`.",
        "Start the others.",
    ),
    hold(
        "absent_size_unset",
        "An instance does not answer, and `MUSTER_CLUSTER_SIZE` is unset.",
        "It answers; or set `MUSTER_CLUSTER_SIZE`.",
    ),
    hold(
        "absent_one_of_two",
        "One of two instances does not answer, and nothing proves that it has no cluster.",
        "It answers; or set `MUSTER_BOOTSTRAP_ALONE=yes` if it has none.",
    ),
    hold(
        "another_joins",
        "Another member is joining. One change is made at a time.",
        "That member becomes a voter, or is removed as dead.",
    ),
    hold(
        "spare",
        "The cluster has all its members. This node is a standby.",
        "A member is provably dead; this node then replaces it.",
    ),
    hold(
        "address_taken",
        "A member is already listed at this node's peer URL.",
        "That member is provably dead, or is removed by hand.",
    ),
    hold(
        "name_taken",
        "A member on another host has this host's name in `MUSTER_HOSTS`.",
        "That member has not answered for `MUSTER_REMOVE_AFTER`; or give this host another name.",
    ),
    hold("settling", "etcd has not yet applied the removal of the old member.", "etcd applies it."),
    hold("release_unknown", "The etcd here does not report its release.", "Install a working etcd for this machine."),
    hold(
        "release_older",
        "The etcd here is older than the data here, or than the cluster.",
        "Install the newer release again. To downgrade on purpose, downgrade the whole cluster first.",
    ),
    hold(
        "release_skips",
        "The etcd here is more than one minor release newer than the data here, or than the cluster.",
        "Run the minor release in between on every member first.",
    ),
    hold(
        "release_records",
        "The log here has records of an older release that the etcd here can't apply.",
        "Run the previous minor release here once more: it writes a raft snapshot at its start.",
    ),
    hold(
        "release_learners",
        "The data here lists more members as learners than the etcd here accepts. etcd 3.5.20 and earlier did not \
         store promotions.",
        "Run etcd 3.5.33 or later on all members: the leader's supervisor then stores every voter again.",
    ),
    hold(
        "release_v2_keys",
        "The data here has keys of the v2 API, with which etcd 3.6 does not start.",
        "Run etcd 3.5 here with `ETCD_ENABLE_V2=true`, move the keys to v3 or delete them, and restart it without that setting.",
    ),
    hold(
        "release_joins_first",
        "The etcd here is newer than the cluster, whose log may have records that it can't apply.",
        "Upgrade the members to this release; or install the cluster's release here; or set `MUSTER_JOIN_NEWER=yes` \
         after a check of every member.",
    ),
    hold(
        "release_no_learners",
        "A member of the cluster runs etcd 3.3, which has no learners, and ends when one is added.",
        "Upgrade every member to 3.4 or later.",
    ),
    hold(
        "release_cluster_unknown",
        "The cluster to join does not report its version, or whether it is being downgraded.",
        "Its members report it.",
    ),
    hold(
        "release_downgrading",
        "The cluster is being downgraded. An etcd that joins meanwhile is refused by the others, and its entry would block the end.",
        "The downgrade ends with the last member on the older release; or cancel it (`etcdctl downgrade cancel`).",
    ),
    hold(
        "release_beside",
        "Another node would start an etcd release that does not work together with this node's.",
        "Install the same release on all nodes.",
    ),
    hold(
        "ending",
        "EC2 is about to terminate this instance, or `etcd-muster leave` was run, so it does not join.",
        "The termination is cancelled; `etcd-muster leave --cancel`.",
    ),
    hold(
        "left",
        "This node left the cluster, because EC2 was about to terminate its instance, or because `etcd-muster leave` was run.",
        "The termination is cancelled, or set `MUSTER_LEAVE=no`; `etcd-muster leave --cancel`.",
    ),
    hold(
        "certificates",
        "A certificate, key or CA file is missing, expired or unusable.",
        "The file is fixed. No restart is needed.",
    ),
    hold(
        "damaged_data",
        "etcd exited several times in a row and reported damaged data.",
        "A quorum of the other members answers: this node then rejoins by itself. Otherwise restore the data; etcd is started every minute.",
    ),
    hold(
        "files_unusable",
        "A file or program can't be used at present: the disk is full, too many files are open, memory is short, or the binary is busy.",
        "The cause goes away. The line names path, cause and remedy.",
    ),
    hold(
        "own_files",
        "The supervisor's own files in `ED_DATA` can't be read or written.",
        "The cause goes away or is fixed.",
    ),
    hold(
        "identity_unknown",
        "The metadata service does not answer, and nothing else shows which instance this is.",
        "The metadata service answers.",
    ),
    hold("peer_port_in_use", "Another program uses the peer port.", "Stop that program."),
];

/// The halts: the node stays down until an operator has intervened and restarted it.
pub const HALTS: &[Explained] = &[
    hold(
        "two_clusters",
        "The tagged instances run two clusters with a quorum.",
        "Give the instances of one cluster another tag value, then restart this node.",
    ),
    hold(
        "foreign_data",
        "The data here belongs to one cluster, and the other instances run another.",
        "Move the data aside (`etcd-muster set-aside`), then restart this node.",
    ),
    hold(
        "name_in_use",
        "`ETCD_NAME` is already the name of a member on another host.",
        "Unset `ETCD_NAME`, or give each instance its own; then restart this node.",
    ),
];
