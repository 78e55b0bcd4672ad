//! Steps and their reasons in words, for people: what the log, `plan` and the status page say.

use std::fmt;

use super::step::{AbsenceReason, AloneReason, Doubt, Halt, Hold, KeepReason, Quarantine, RemovalReason, Step};
use super::types::{ClusterId, InstanceId, Known, MemberId};

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
            Self::FoundAlone { why, .. } => write!(f, "found alone: {why}"),
            Self::Claim(claiming) => {
                write!(f, "claim: {} as the first members", claiming.list.initial_cluster())?;
                f.write_str(if claiming.replaces.is_some() {
                    ", in place of a claim that can't have a quorum any more"
                } else {
                    ""
                })
            }
            Self::Renounce { list, ours } => write!(
                f,
                "renounce: the list agreed on ({}) holds this node otherwise than its settings do now ({} at {}), so it is never \
                 started here",
                list.initial_cluster(),
                ours.name,
                ours.peer_urls.join(",")
            ),
            Self::StartNew(list) => write!(f, "start new: {} (token {})", list.initial_cluster(), list.token),
            Self::RemoveMember { id, why } => write!(f, "remove member {id}: {why}"),
            Self::AddSelf => f.write_str("add self: a cluster with quorum answers, joining it as a learner"),
            Self::UpdateSelf { id } => write!(f, "update self: member {id} is listed under another peer URL"),
            Self::StartExisting { cluster, member, .. } => {
                write!(f, "start existing: as member {member} of cluster {cluster}")
            }
            Self::Resume => f.write_str("resume: etcd has its data"),
            Self::Quarantine(why) => write!(f, "quarantine: {why}"),
            Self::Halt(why) => write!(f, "halt: {why}"),
        }
    }
}

impl fmt::Display for RemovalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnOldId => f.write_str("it is this instance's place from before, and its disk holds nothing of it"),
            Self::Gone(instance) => {
                write!(f, "its instance {instance} is gone, it was silent, and the rest has quorum")
            }
            Self::Unhealthy => {
                f.write_str("it was silent for 5 minutes (MUSTER_CLEAN=unhealthy), and the rest has quorum")
            }
            Self::NeverStarted => f.write_str(
                "it is a learner that never started, no instance is at its address, it was silent, and the rest has quorum",
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
                write!(f, "{id} is silent and EC2 calls it impaired, and this instance is older")
            }
            Self::OtherTerminated(id) => write!(f, "the other of two, {id}, is terminated"),
            Self::OperatorSaysSo => f.write_str("MUSTER_FOUND_ALONE=yes"),
            Self::ClaimDecides => f.write_str("nobody has claimed it yet"),
        }
    }
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemovedWhileDown { cluster, member } => {
                write!(
                    f,
                    "cluster {cluster} doesn't list member {member} any more; the data is moved aside, not deleted"
                )
            }
            Self::NeverElected { ours, living } => {
                write!(f, "cluster {living} lives, and the data here, of cluster {ours}, never had a leader")
            }
            Self::Void { ours } => write!(
                f,
                "cluster {ours} never had a leader, and with most of its first members terminated it never can"
            ),
            Self::Partial { what } => write!(f, "{what}, and its cluster lives"),
            Self::Damaged { cluster, member, said } => write!(
                f,
                "the data of member {member} is damaged (etcd said again and again: {said}), and cluster {cluster} has a \
                 quorum without it; the data is moved aside, not deleted, and this node joins anew"
            ),
            Self::OlderCopy { cluster, member, here, before, by } => write!(
                f,
                "the disk is an older copy of itself: member {member}'s log ends at {here}, and {by} saw it at {before}; cluster \
                 {cluster} has a quorum without it; the data is moved aside, not deleted, and this node joins anew"
            ),
        }
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoClusters { ids: found } => write!(
                f,
                "clusters {} both have quorum among the tagged (or listed) instances; give one of them another tag, then restart this node",
                ids(found)
            ),
            Self::ForeignData { ours, living } => write!(
                f,
                "the data here is of cluster {ours}, but cluster {living} is what runs; move the data dir away to join it"
            ),
            Self::NameInUse { name, member, urls } => write!(
                f,
                "ETCD_NAME={name} is the name of member {member} at {}; unset ETCD_NAME or give each instance its own",
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
                write!(f, "this instance doesn't match the filter {filter}; ")?;
                match tags {
                    Known::Known(tags) if tags.is_empty() => f.write_str("it has no tags")?,
                    Known::Known(tags) => write!(f, "its tags are {}", tags.join(", "))?,
                    Known::Unknown(cause) => write!(f, "its tags are unknown ({cause})")?,
                }
                f.write_str("; tag it, or set MUSTER_TAGS")
            }
            Self::TooFewInstances { have, need } => {
                write!(f, "{have} of at least {need} tagged (or listed) instances (MUSTER_MIN_NODES); launch more")
            }
            Self::NoAddress { instance } => write!(f, "{instance} has no usable private address yet"),
            Self::SameName { name, instances } => write!(
                f,
                "ETCD_NAME={name} is the name of {}; unset ETCD_NAME or give each instance its own",
                ids(instances)
            ),
            Self::PartialData { what } => {
                write!(f, "{what}; restore it, or move the rest away to start this node as new")
            }
            Self::NotOurs { member, owner, why } => not_ours(f, *member, owner.as_ref(), why),
            Self::RunsElsewhere { cluster, member, name, at } => write!(
                f,
                "the data here is of member {member} of cluster {cluster}, which is {name} and runs at {at}; a copy never runs beside \
                 its original: move ED_DATA and ED_WAL away to start this node as new"
            ),
            Self::OlderCopy { member, here, before, by } => write!(
                f,
                "the disk here is an older copy of itself: member {member}'s log ends at {here}, and {by} saw it at {before}; what \
                 was acknowledged in between could be lost if it ran now; start the other members first, then this node joins anew \
                 by itself; MUSTER_ADOPT={member} starts it all the same"
            ),
            Self::ListedOtherwise { listed, ours } => write!(
                f,
                "the list agreed on has this node as {} at {}, and by its settings it is {} at {}; it never starts as the former; it \
                 joins when the others have a quorum, and when too many of them are in the same case a new list is agreed on; if all \
                 stay down, move ED_DATA/muster away on all of them",
                listed.name,
                listed.peer_urls.join(","),
                ours.name,
                ours.peer_urls.join(",")
            ),
            Self::Unresolved { instance, cause } => write!(
                f,
                "the peer URL of {instance} can't be resolved here ({cause}), so no etcd here could reach it; mend the name service, \
                 or set ETCD_MEMBER_TYPE=ip on all"
            ),
            Self::DiskLost => f.write_str(
                "this instance was a member, its data is gone and no quorum answers; bring back the others, or restore a snapshot",
            ),
            Self::ClaimUnknown { cause } => write!(f, "the claim can't be read ({cause}); nothing is founded without it"),
            Self::Established { cluster, claim } => write!(
                f,
                "{claim} says that cluster {cluster} was founded; this node joins it when a quorum of it answers; if it is lost \
                 for good, delete that object to found anew"
            ),
            Self::ClaimedByOthers { claim, list } => write!(
                f,
                "{claim} names {} as the first members; this node joins when a quorum of them answers; if they are lost for good, \
                 delete that object to found anew",
                list.members.iter().map(|m| m.instance.0.as_str()).collect::<Vec<_>>().join(", ")
            ),
            Self::NotListed => f.write_str("the others found without this instance; it joins when they have a quorum"),
            Self::ClusterWithoutQuorum { instance, cluster } => write!(
                f,
                "{instance} runs etcd of cluster {cluster} without a proven quorum; an election mends that once enough of its \
                 members run (if they are lost for good: restore a snapshot)"
            ),
            Self::PeerHasData { instance } => {
                write!(f, "{instance} holds etcd data; its etcd must come up (or its data be moved away) first")
            }
            Self::PeerMismatch { instance, cause } => {
                write!(f, "{instance} can't be understood ({cause}); that is never read as \"no cluster\"")
            }
            Self::DifferentRoster { instance, theirs: Some(theirs) } if theirs.written.is_some() => {
                write!(f, "{instance} has a different founding configuration ({theirs}); give all the same MUSTER_ROSTER")
            }
            Self::DifferentRoster { instance, theirs: Some(theirs) } => {
                write!(f, "{instance} has a different founding configuration ({theirs}); waiting for EC2's answers to agree")
            }
            Self::DifferentRoster { instance, theirs: None } => write!(f, "{instance} has no complete roster yet"),
            Self::AwaitProposer { instance } => write!(f, "{instance} is older and proposes"),
            Self::Absent { absent, why } => match absent.is_empty() {
                true => write!(f, "not all that MUSTER_CLUSTER_SIZE counts are listed; {why}"),
                false => write!(f, "{} did not answer; {why}", ids(absent)),
            },
            Self::AnotherJoins { member, urls, kept, silent_for } => {
                write!(f, "member {member} at {} is joining; one change at a time", urls.join(","))?;
                match silent_for {
                    Some(silent) => write!(f, "; it has not answered for {} s and {kept}", silent.as_secs()),
                    None if *kept == KeepReason::Alive => f.write_str("; it ends when that member votes"),
                    None => write!(f, "; it {kept}"),
                }
            }
            Self::Spare { cluster, voters, kept } => {
                write!(f, "spare: cluster {cluster} has all its {voters} members")?;
                kept.iter().filter(|(_, why)| !matches!(why, KeepReason::Alive | KeepReason::Unasked)).try_for_each(|(id, why)| write!(f, "; {id} {why}"))
            }
            Self::NameTaken { member, urls, kept } => write!(
                f,
                "member {member} at {} has this host's name in MUSTER_ROSTER; {member} {kept}; give this host another name if both \
                 are to live",
                urls.join(",")
            ),
            Self::AddressTaken { member, kept } => write!(f, "member {member} is listed at this address; {member} {kept}"),
            Self::Settling => f.write_str("etcd applies the removal of the old member"),
            Self::Ending(ending) => write!(f, "this instance joins no more ({ending})"),
            Self::Left { ending: Known::Known(ending) } => {
                write!(f, "this instance has left the cluster ({ending}); it joins again if EC2 lets it live on")
            }
            Self::Left { ending: Known::Unknown(cause) } => write!(
                f,
                "this instance has left the cluster, and whether EC2 lets it live on is unknown ({cause}); MUSTER_LEAVE=no if it does"
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
    f.write_str("the data here is ")?;
    match member {
        Some((cluster, member)) => write!(f, "of member {member} of cluster {cluster}")?,
        None => f.write_str("of a member that can't be told")?,
    }
    match owner {
        Some(owner) => write!(f, ", and by its record {owner}'s; ")?,
        None => f.write_str(", and no record says that it is this instance's; ")?,
    }
    let owner = owner.map_or_else(|| "its owner".to_owned(), ToString::to_string);
    match why {
        Doubt::OwnerStands => write!(f, "{owner} exists")?,
        Doubt::OwnerUnknown(cause) => write!(f, "what became of {owner} is unknown ({cause})")?,
        Doubt::NoRecord => f.write_str("no list that is seen has that member at this address")?,
        Doubt::Answered { at, cause } => write!(f, "at {at}, where that member is listed, somebody answers ({cause})")?,
        Doubt::HeldBy(instance) => write!(f, "{instance} holds data of the same member")?,
    }
    f.write_str("; a copy never runs beside its original: move ED_DATA and ED_WAL away to start this node as new")?;
    match member {
        Some((_, member)) => write!(f, "; if the original is gone for good, MUSTER_ADOPT={member} starts it here"),
        None => Ok(()),
    }
}

impl fmt::Display for AbsenceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grace { waited, grace } => write!(
                f,
                "waited {} of {} s (MUSTER_FOUND_GRACE)",
                waited.as_secs().min(grace.as_secs()),
                grace.as_secs()
            ),
            Self::Terminated(id) => write!(
                f,
                "{id} is terminated and may have been in a cluster; MUSTER_FOUND_ABSENT=yes if there was none"
            ),
            Self::Aged(id) => write!(
                f,
                "{id} is older than MUSTER_FOUND_WINDOW, so there may have been a cluster; MUSTER_FOUND_ABSENT=yes if not"
            ),
            Self::AgeUnknown(id) => write!(
                f,
                "the age of {id} is unknown (add `launched` in MUSTER_ROSTER's file), so a cluster may already exist; \
                 MUSTER_FOUND_ABSENT=yes if not"
            ),
            Self::TooFewAnswer { answering, needed, first } => {
                write!(f, "{answering} fresh instances answer, founding needs {needed}; start the others")?;
                match first.is_empty() {
                    true => Ok(()),
                    false => write!(
                        f,
                        " (the first {} count: {}; whoever else is listed waits; give each cluster a tag value of its own)",
                        first.len(),
                        ids(first)
                    ),
                }
            }
            Self::SizeUnset => f.write_str(
                "all must answer while MUSTER_CLUSTER_SIZE is unset (but for a fleet of three at most that stays the same for \
                 MUSTER_FOUND_GRACE); set it to settle this",
            ),
            Self::OneOfTwo => f.write_str(
                "with two instances nothing proves that the other has no cluster; MUSTER_FOUND_ALONE=yes if it has none",
            ),
        }
    }
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive => f.write_str("is kept: it answers"),
            Self::Unasked => f.write_str("is kept: whether it lives could not be found out"),
            Self::Off => f.write_str("is kept: MUSTER_CLEAN=off"),
            Self::NoInstance => {
                f.write_str("is kept: no instance can be named for it; remove it by hand if it is dead")
            }
            Self::InstanceExists(id) => write!(f, "is kept: {id} exists"),
            Self::Unknown(id, cause) => write!(f, "is kept: EC2 can't say what became of {id} ({cause})"),
            Self::Dwell => f.write_str("is kept until it has been silent for MUSTER_CLEAN_DWELL"),
            Self::ChangeInFlight(learner) => write!(f, "is kept until learner {learner} votes: one change at a time"),
            Self::WouldShrink { voters, size } => write!(
                f,
                "is kept until its replacement joins: less than {voters} members could be outvoted by {size} fresh ones"
            ),
            Self::QuorumAfter { answering, needed } => {
                write!(f, "is kept: {answering} other voters answer, its removal needs {needed}")
            }
        }
    }
}
