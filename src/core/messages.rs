//! Steps and their reasons in words, for people: what the log, `plan` and the status page say.

use std::fmt;

use super::release::OldRecords;
use super::step::{
    AbsenceReason, AloneReason, Doubt, Halt, Hold, KeepReason, Obstacle, Quarantine, RemovalReason, Step, Subject,
};
use super::types::{ClusterId, InstanceId, Known, MemberId};
use super::upgrade::Blocker;
use super::view::Ending;

fn ids<T: ToString>(ids: &[T]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hold(hold) => write!(f, "hold: {hold}"),
            Self::Propose(p) => {
                write!(f, "propose: {} as the first members (ballot {})", p.list.initial_cluster(), p.ballot)
            }
            Self::FoundAlone { why, .. } => write!(f, "bootstrap alone: {why}"),
            Self::Claim(claiming) => {
                write!(f, "claim: {} as the first members", claiming.list.initial_cluster())?;
                f.write_str(if claiming.replaces.is_some() {
                    ", replacing a claim whose first members can no longer form a quorum"
                } else {
                    ""
                })
            }
            Self::Renounce { list, ours } => write!(
                f,
                "renounce: the agreed list ({}) has another name or peer URL for this node than its settings have now ({} at {}), so \
                 this node never starts under that list",
                list.initial_cluster(),
                ours.name,
                ours.peer_urls.join(",")
            ),
            Self::StartNew(list) => {
                write!(f, "start new: {} (token {})", list.initial_cluster(), list.token)?;
                list.seed.as_ref().map_or(Ok(()), |seed| write!(f, ", restored from {}/{}", seed.place, seed.snapshot))
            }
            Self::RemoveMember { id, why } => write!(f, "remove member {id}: {why}"),
            Self::AddSelf => f.write_str("add self: a cluster with quorum answers; this node joins it as a learner"),
            Self::UpdateSelf { id } => {
                write!(f, "update self: member {id} is listed under another peer URL than this node has now")
            }
            Self::StartExisting { cluster, member, .. } => {
                write!(f, "start existing: as member {member} of cluster {cluster}")
            }
            Self::Resume => f.write_str("resume: starting etcd with its existing data"),
            Self::Quarantine(why) => write!(f, "quarantine: {why}"),
            Self::Halt(why) => write!(f, "halt: {why}"),
        }
    }
}

impl fmt::Display for RemovalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnOldId => f.write_str("it is this instance's former member, and its data is no longer on this disk"),
            Self::Gone(instance) => {
                write!(f, "its instance {instance} is gone, the member does not answer, and the others have a quorum")
            }
            Self::Unhealthy => {
                f.write_str("it has not answered for 5 minutes (MUSTER_REMOVE=unhealthy), and the others have a quorum")
            }
            Self::NeverStarted => f.write_str(
                "it is a learner that never started, no instance has its address, it does not answer, and the others have a quorum",
            ),
        }
    }
}

impl fmt::Display for AloneReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherRefused(id) => {
                write!(f, "{id} refused connections for the whole grace time, and this instance is older")
            }
            Self::OtherImpaired(id) => {
                write!(f, "{id} does not answer, EC2 reports it as impaired, and this instance is older")
            }
            Self::OtherTerminated(id) => write!(f, "the other of the two instances, {id}, is terminated"),
            Self::OperatorSaysSo => f.write_str("MUSTER_BOOTSTRAP_ALONE=yes"),
            Self::ClaimDecides => f.write_str("the claim object does not exist yet"),
        }
    }
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemovedWhileDown { cluster, member } => {
                write!(f, "cluster {cluster} no longer lists member {member}; the data is moved aside, not deleted")
            }
            Self::NeverElected { ours, living } => {
                write!(f, "cluster {living} is running, and cluster {ours}, whose data is here, never elected a leader")
            }
            Self::Void { ours } => write!(
                f,
                "cluster {ours} never elected a leader, and never can: too many of its first members are terminated"
            ),
            Self::Partial { what } => write!(f, "{what}, and its cluster runs without this member"),
            Self::Damaged { cluster, member, said } => write!(
                f,
                "the data of member {member} is damaged (etcd repeatedly reported: {said}), and cluster {cluster} has a quorum \
                 without it; the data is moved aside, not deleted, and this node rejoins as a new member"
            ),
            Self::OlderCopy { cluster, member, here, before, by } => write!(
                f,
                "the disk was restored to an older state: member {member}'s log ends at {here}, but {by} saw it at {before}; cluster \
                 {cluster} has a quorum without it; the data is moved aside, not deleted, and this node rejoins as a new member"
            ),
            Self::Recovered { cluster, member } => write!(
                f,
                "the quorum of cluster {cluster} is lost for good, by an operator's word; the data of member {member} is moved aside, not deleted, and a new \
                 cluster goes on with a copy of it"
            ),
        }
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoClusters { ids: found } => write!(
                f,
                "the tagged (or listed) instances run two clusters with a quorum, {}; give the instances of one of them another tag value, \
                 then restart this node",
                ids(found)
            ),
            Self::ForeignData { ours, living } => write!(
                f,
                "the data here belongs to cluster {ours}, but the other instances run cluster {living}; to join that cluster, move the \
                 data aside (etcd-muster set-aside), then restart this node"
            ),
            Self::NameInUse { name, member, urls } => write!(
                f,
                "ETCD_NAME={name} is already the name of member {member} at {}; unset ETCD_NAME or give each instance its own, then \
                 restart this node",
                urls.join(",")
            ),
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RosterUnknown { cause } => f.write_str(cause),
            Self::NotInRoster { filter, tags } => {
                write!(f, "this instance does not match the filter {filter}; ")?;
                match tags {
                    Known::Known(tags) if tags.is_empty() => f.write_str("it has no tags")?,
                    Known::Known(tags) => write!(f, "its tags are {}", tags.join(", "))?,
                    Known::Unknown(cause) => write!(f, "its tags are unknown ({cause})")?,
                }
                f.write_str("; tag the instance, or set MUSTER_TAGS")
            }
            Self::TooFewInstances { have, need } => {
                write!(f, "too few instances are tagged (or listed): {have}, MUSTER_MIN_NODES requires {need}; launch more")
            }
            Self::NoAddress { instance } => write!(f, "{instance} has no usable private address yet; waiting for EC2 to report one"),
            Self::SameName { name, instances } => write!(
                f,
                "ETCD_NAME={name} is the name of both {} and {}; unset ETCD_NAME or give each instance its own",
                instances[0], instances[1]
            ),
            Self::PartialData { what } => {
                write!(f, "{what}; restore it, or move the rest away to start this node as new")
            }
            Self::NotOurs { member, owner, why } => not_ours(f, *member, owner.as_ref(), why),
            Self::RunsElsewhere { cluster, member, name, at } => write!(
                f,
                "the data here belongs to member {member} of cluster {cluster}, which runs as {name} at {at}; two copies of one member \
                 must never run at once: move ED_DATA and ED_WAL away to start this node as new"
            ),
            Self::OlderCopy { member, here, before, by } => write!(
                f,
                "the disk here was restored to an older state: member {member}'s log ends at {here}, but {by} saw it at {before}; \
                 starting it now could lose writes acknowledged in between; start the other members, and this node rejoins as a new \
                 member by itself; MUSTER_ADOPT={member} starts it anyway and accepts that loss"
            ),
            Self::ListedOtherwise { listed, ours } => write!(
                f,
                "the agreed list of first members has this node as {} at {}, but its settings make it {} at {}, so it never starts \
                 under that list; it joins once the others have a quorum, or a new list is agreed on if too many nodes are in this \
                 state; if all nodes stay down, move ED_DATA/muster away on all of them",
                listed.name,
                listed.peer_urls.join(","),
                ours.name,
                ours.peer_urls.join(",")
            ),
            Self::Unresolved { instance, cause } => write!(
                f,
                "the name in {instance}'s peer URL can't be resolved here ({cause}), so etcd could not reach it; fix DNS, or set \
                 ETCD_MEMBER_TYPE=ip on all nodes"
            ),
            Self::DiskLost => f.write_str(
                "this instance was a member, its data is gone, and no quorum answers; start the other members, or restore a snapshot",
            ),
            Self::ClaimUnknown { cause } => write!(f, "the claim object can't be read ({cause}); no cluster is bootstrapped without it; retrying"),
            Self::Established { cluster, claim } => write!(
                f,
                "{claim} says that cluster {cluster} was bootstrapped; this node joins when a quorum of that cluster answers; if the \
                 cluster is lost for good, delete that object to bootstrap a new one"
            ),
            Self::ClaimedByOthers { claim, list } => write!(
                f,
                "{claim} names {} as the first members; this node joins when a quorum of them answers; if they are lost for good, \
                 delete that object to bootstrap a new cluster",
                list.members.iter().map(|m| m.instance.0.as_str()).collect::<Vec<_>>().join(", ")
            ),
            Self::NotListed => f.write_str("the others agreed on first members without this instance; it joins when they have a quorum"),
            Self::SeedUnknown { cause } => write!(f, "what is to be restored can't be determined: {cause}"),
            Self::SnapshotsUnknown { place, cause } => write!(
                f,
                "whether a cluster was is unknown, because {place} can't be read: {cause}; make it readable, or take it out of \
                 MUSTER_SNAPSHOTS if no cluster was"
            ),
            Self::SnapshotsSeen { place, count, newest } => write!(
                f,
                "{place} has {count} snapshot(s), the last {newest}, so a cluster was, and none is founded empty; restore it (etcd-muster \
                 restore), or set MUSTER_SEED={place} on all nodes; for an empty cluster name another prefix in MUSTER_SNAPSHOTS"
            ),
            Self::ClusterWithoutQuorum { instance, cluster } => write!(
                f,
                "{instance} runs etcd of cluster {cluster}, which has no proven quorum; start enough of its members for an election, or \
                 run etcd-muster recover on {instance} if they are lost for good"
            ),
            Self::PeerHasData { instance } => {
                write!(f, "{instance} has etcd data but its etcd is not running; start etcd there, or move its data away")
            }
            Self::PeerMismatch { instance, cause } => {
                write!(f, "{instance} gives an answer that can't be used ({cause}), so it may be part of a cluster; fix that on {instance} or here")
            }
            Self::DifferentRoster { instance, theirs: Some(theirs) } if theirs.written.is_some() => {
                write!(f, "{instance} has a different bootstrap configuration ({theirs}); set the same MUSTER_HOSTS on all nodes")
            }
            Self::DifferentRoster { instance, theirs: Some(theirs) } => {
                write!(
                    f,
                    "{instance} has a different bootstrap configuration ({theirs}); waiting until EC2 lists the same instances to both; \
                     their MUSTER_ settings must be the same"
                )
            }
            Self::OldFleetUnseen { asked } => {
                f.write_str("MUSTER_JOIN is set, so this node joins that cluster and founds none, and no quorum of it answers: ")?;
                let seen: Vec<String> = asked.iter().map(|(url, why)| format!("{url}: {why}")).collect();
                write!(f, "{}; name client URLs of members that run, or unset MUSTER_JOIN if this fleet is to have a cluster of its own", seen.join("; "))
            }
            Self::DifferentRoster { instance, theirs: None } => write!(f, "{instance} has no complete list of instances yet; waiting for it"),
            Self::AwaitProposer { instance } => write!(f, "{instance} is older, so it proposes the first members; waiting for its proposal"),
            Self::Absent { absent, why } => match absent.is_empty() {
                true => write!(f, "fewer instances are listed than MUSTER_CLUSTER_SIZE; {why}"),
                false => write!(f, "{} did not answer; {why}", ids(absent)),
            },
            Self::AnotherJoins { member, urls, kept, silent_for } => {
                write!(f, "member {member} at {} is joining; one change at a time", urls.join(","))?;
                match silent_for {
                    Some(silent) => write!(f, "; it has not answered for {} s and {kept}", silent.as_secs()),
                    None if *kept == KeepReason::Alive => f.write_str("; waiting until that member becomes a voter"),
                    None => write!(f, "; it {kept}"),
                }
            }
            Self::Spare { cluster, voters, wanted, kept } => {
                match voters > wanted {
                    true => write!(f, "spare: cluster {cluster} has {voters} members, more than MUSTER_CLUSTER_SIZE={wanted} here")?,
                    false => write!(f, "spare: cluster {cluster} has all its {voters} members")?,
                }
                f.write_str("; this node waits to replace one that is provably dead")?;
                kept.iter().filter(|(_, why)| !matches!(why, KeepReason::Alive | KeepReason::Unasked)).try_for_each(|(id, why)| write!(f, "; {id} {why}"))
            }
            Self::NameTaken { member, urls, kept } => write!(
                f,
                "member {member} at {} already has this host's name in MUSTER_HOSTS; {member} {kept}; give this host another name if \
                 both should run",
                urls.join(",")
            ),
            Self::AddressTaken { member, kept } => write!(f, "member {member} is already listed at this node's peer URL; {member} {kept}"),
            Self::Settling => f.write_str("waiting for etcd to apply the removal of the old member"),
            Self::Release(obstacle) => write!(f, "{obstacle}"),
            Self::Ending(ending @ Ending::Asked) => {
                write!(f, "this node is to be no member ({ending}); to have it join: etcd-muster leave --cancel")
            }
            Self::Ending(ending) => write!(f, "this instance is about to be terminated, so it does not join ({ending})"),
            Self::Left { ending: Known::Known(ending @ Ending::Asked) } => {
                write!(f, "this node has left the cluster ({ending}); to have it join again: etcd-muster leave --cancel")
            }
            Self::Left { ending: Known::Known(ending) } => {
                write!(f, "this instance has left the cluster ({ending}); it rejoins if the termination is cancelled")
            }
            Self::Left { ending: Known::Unknown(cause) } => write!(
                f,
                "this instance has left the cluster, and whether its termination was cancelled is unknown ({cause}); if it was, set \
                 MUSTER_LEAVE=no to rejoin"
            ),
        }
    }
}

fn not_ours(
    f: &mut fmt::Formatter<'_>,
    member: Option<(ClusterId, MemberId)>,
    owner: Option<&InstanceId>,
    why: &Doubt,
) -> fmt::Result {
    f.write_str("the data here belongs to ")?;
    match member {
        Some((cluster, member)) => write!(f, "member {member} of cluster {cluster}")?,
        None => f.write_str("an unknown member")?,
    }
    match owner {
        Some(owner) => write!(f, " and, by its record, to {owner}; ")?,
        None => f.write_str(", and no record shows that it is this instance's; ")?,
    }
    let owner = owner.map_or_else(|| "its owner".to_owned(), ToString::to_string);
    match why {
        Doubt::OwnerStands => write!(f, "{owner} exists")?,
        Doubt::OwnerUnknown(cause) => write!(f, "the state of {owner} is unknown ({cause})")?,
        Doubt::NoRecord => f.write_str("no cluster that answers lists that member at this address")?,
        Doubt::Answered { at, cause } => write!(f, "something answers at {at}, where that member is listed ({cause})")?,
        Doubt::HeldBy(instance) => write!(f, "{instance} has data of the same member")?,
    }
    f.write_str(
        "; two copies of one member must never run at once: move ED_DATA and ED_WAL away to start this node as new",
    )?;
    match member {
        Some((_, member)) => {
            write!(f, "; if the original is gone for good, set MUSTER_ADOPT={member} to start it here")
        }
        None => Ok(()),
    }
}

impl fmt::Display for AbsenceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grace { waited, grace } => write!(
                f,
                "waited {} of {} s (MUSTER_BOOTSTRAP_GRACE)",
                waited.as_secs().min(grace.as_secs()),
                grace.as_secs()
            ),
            Self::Terminated(id) => write!(
                f,
                "{id} is terminated and may have been in a cluster; set MUSTER_BOOTSTRAP_WITHOUT_ABSENT=yes if no cluster existed"
            ),
            Self::Aged(id) => write!(
                f,
                "{id} is older than MUSTER_BOOTSTRAP_WINDOW, so a cluster may already exist; set MUSTER_BOOTSTRAP_WITHOUT_ABSENT=yes if none does"
            ),
            Self::AgeUnknown(id) => write!(
                f,
                "the age of {id} is unknown (add `launched` in the MUSTER_HOSTS file), so a cluster may already exist; set \
                 MUSTER_BOOTSTRAP_WITHOUT_ABSENT=yes if none does"
            ),
            Self::TooFewAnswer { answering, needed, first } => {
                write!(f, "bootstrap needs answers from {needed} instances without data, has {answering}; start the others")?;
                match first.is_empty() {
                    true => Ok(()),
                    false => write!(
                        f,
                        " (the first {} are {}; other instances join later; give each cluster its own tag value)",
                        first.len(),
                        ids(first)
                    ),
                }
            }
            Self::SizeUnset => f.write_str(
                "all instances must answer while MUSTER_CLUSTER_SIZE is unset (except where at most three are listed and the list \
                 does not change for MUSTER_BOOTSTRAP_GRACE); set MUSTER_CLUSTER_SIZE",
            ),
            Self::OneOfTwo => f.write_str(
                "with two instances nothing proves that the other has no cluster; start it, or set MUSTER_BOOTSTRAP_ALONE=yes if it has none",
            ),
        }
    }
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive => f.write_str("is kept: it answers"),
            Self::Unasked => f.write_str("is kept: it could not be checked"),
            Self::Off => f.write_str("is kept: MUSTER_REMOVE=off"),
            Self::NoInstance => f.write_str("is kept: its instance is unknown; remove it by hand if it is dead"),
            Self::InstanceExists(id) => write!(f, "is kept: {id} exists"),
            Self::Unknown(id, cause) => write!(f, "is kept: the state of {id} is unknown ({cause})"),
            Self::Dwell => f.write_str("is kept until it has not answered for MUSTER_REMOVE_AFTER"),
            Self::ChangeInFlight(learner) => {
                write!(f, "is kept until learner {learner} becomes a voter: one change at a time")
            }
            Self::WouldShrink { voters, size } => write!(
                f,
                "is kept until its replacement joins: {size} new instances could outvote fewer than {voters} members"
            ),
            Self::QuorumAfter { answering, needed } => {
                write!(f, "is kept: {answering} other voters answer, removing it needs {needed}")
            }
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(cause) => write!(
                f,
                "the etcd here does not report its release: {cause}; install an etcd for this machine at ED_HOME/bin/etcd"
            ),
            Self::Older { installed, than, of: Subject::Data } => write!(
                f,
                "the etcd here is {installed}, but etcd {than} has run on the data here; install {than} again; to \
                 downgrade on purpose, downgrade the whole cluster first (etcdctl downgrade enable {}, with {than})",
                than.previous()
            ),
            Self::Older { installed, than, of: Subject::Cluster } => {
                write!(f, "the etcd here is {installed}, but the cluster is at {than}; install {than} here")
            }
            Self::Older { installed, than, of: Subject::Snapshot } => {
                write!(
                    f,
                    "the etcd here is {installed}, but the snapshot was taken of etcd {than}; install {than} here"
                )
            }
            Self::Skips { installed, from, of } => {
                let whose = match of {
                    Subject::Snapshot => "the snapshot is",
                    Subject::Data => "the data here is",
                    Subject::Cluster => "the cluster is",
                };
                write!(
                    f,
                    "the etcd here is {installed}, but {whose} at {from}; etcd upgrades one minor release at a \
                     time: run {} on every member first",
                    from.next()
                )
            }
            Self::Records { installed, records } => {
                let what = match records {
                    OldRecords::Foreign => "of v2 keys, or of /health on etcd 3.4 and earlier,",
                    _ => "that etcd 3.5 wrote",
                };
                let previous = installed.minor().previous();
                write!(
                    f,
                    "the raft log here has records {what} that etcd {installed} can't apply; run etcd {previous} \
                     here once more: it writes a raft snapshot at its start, and then {installed} can run"
                )
            }
            Self::V2Keys { installed } => write!(
                f,
                "the data here has keys of the v2 API, which etcd {installed} refuses; run etcd 3.5 here with \
                 ETCD_ENABLE_V2=true, move those keys to v3 or delete them (ETCDCTL_API=2 etcdctl ls --recursive, rm), \
                 then restart it without that setting, so that it writes a raft snapshot"
            ),
            Self::Learners { installed, members, most } => write!(
                f,
                "the data here lists {} as learners, but etcd {installed} accepts at most {most}; etcd 3.5.20 or \
                 earlier did not store a promotion; run etcd 3.5.33 or later on all members for a minute: the \
                 leader's supervisor then stores every voter again",
                ids(members)
            ),
            Self::JoinsFirst { installed, cluster } => write!(
                f,
                "the etcd here is {installed}, but the cluster is at {cluster}, and its members' logs may have \
                 records that {installed} can't apply; upgrade the members to {} first, or install {cluster} here; \
                 or set MUSTER_JOIN_NEWER=yes, once etcd-muster upgrade --check {installed} says go on every member",
                installed.minor()
            ),
            Self::NoLearners { oldest } => write!(
                f,
                "a member of the cluster runs etcd {oldest}, which has no learners, and ends when one is added; upgrade \
                 every member to {} first",
                oldest.next()
            ),
            Self::ClusterUnknown { installed } => write!(
                f,
                "the cluster does not report its version, so it is unknown whether etcd {installed} can join it; retrying"
            ),
            Self::Downgrading { to } => write!(
                f,
                "the cluster is being downgraded to {to}, and no etcd can join it meanwhile; install {to} on every \
                 member, which ends it, or cancel it (etcdctl downgrade cancel)"
            ),
            Self::DowngradeUnknown(cause) => {
                write!(f, "the cluster does not report whether it is being downgraded: {cause}; retrying")
            }
            Self::Beside { installed, instance, theirs } => write!(
                f,
                "the etcd here is {installed}, but the etcd of {instance} is {theirs}, and the two don't work \
                 together; install the same release on all nodes"
            ),
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(obstacle) => write!(f, "{obstacle}"),
            Self::DataUnknown(cause) => write!(f, "the data here can't be read: {cause}"),
            Self::NeverStarted(id) => write!(
                f,
                "member {id} was added but never started, which blocks every change of the cluster's version; start \
                 it, or remove it"
            ),
            Self::Learner(id) => write!(f, "member {id} is a learner; wait until it is promoted, once it is in sync"),
            Self::NotHealthy(id) => write!(
                f,
                "member {id} is not healthy, so a restart of another member may lose \
                the quorum; fix it first"
            ),
            Self::ReleaseUnknown(id) => write!(f, "member {id} does not report its release"),
            Self::Behind { member, release, needs } => {
                write!(f, "member {member} runs etcd {release}; upgrade every member to {needs} first")
            }
            Self::OldPatch { member, release } => write!(
                f,
                "member {member} runs etcd {release}, which may not have stored promotions; upgrade every member to \
                 the newest 3.5 first"
            ),
            Self::NotStepped { version: Some(version), members } => write!(
                f,
                "the members run {members}, but the cluster's version is still {version}; it changes within seconds \
                 after the last member's upgrade"
            ),
            Self::Downgrading { to } => write!(
                f,
                "the cluster is being downgraded to {to}, so its version does not rise; cancel that (etcdctl \
                 downgrade cancel)"
            ),
            Self::NotStepped { version: None, .. } => f.write_str("the cluster does not report its version"),
        }
    }
}
