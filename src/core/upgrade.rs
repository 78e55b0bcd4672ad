//! Which release of etcd may start on which data, join which cluster, and bootstrap with which nodes.
//!
//! etcd's own checks do not protect a quiet cluster. An older etcd starts, without a warning, on newer data that has no raft
//! snapshot yet, and then the newer one can't be started on it again (3.4.23 over 3.6.16 and 3.7.3); a newer one refuses, or
//! crashes over, what an older one left in the log; and before that, member list, health and hash look right. So each start is
//! judged here first, by what the data itself shows. What is stated about a release below was measured on the last of its
//! minor: 3.3.25, 3.4.23, 3.5.33, 3.6.16, 3.7.3.

use super::release::{DataRelease, Installed, Minor, OldRecords, Release};
use super::step::{Hold, Obstacle, Step, Subject};
use super::types::{Known, MemberId};
use super::view::{DataDir, PeerState, Policy, View};

const V3_4: Minor = Minor(3, 4);
const V3_5: Minor = Minor(3, 5);
const V3_6: Minor = Minor(3, 6);
const V3_7: Minor = Minor(3, 7);

/// Blocks a step that would start, or add a member for, an etcd that can't run there.
pub fn hold_back(policy: &Policy, view: &View, step: Step) -> Step {
    let judged = match &step {
        Step::Resume | Step::UpdateSelf { .. } => may_resume(policy, view),
        Step::AddSelf => may_add_itself(policy, view),
        Step::StartExisting { .. } => may_join(policy, view),
        // A node that can't join must not remove a member to make room for itself.
        Step::RemoveMember { .. } if view.data == DataDir::Fresh => may_add_itself(policy, view),
        Step::Propose(_) | Step::FoundAlone { .. } | Step::Claim(_) | Step::StartNew(_) => may_found(view),
        _ => Ok(()),
    };
    match judged {
        Ok(()) => step,
        Err(obstacle) => Step::Hold(Hold::Release(obstacle)),
    }
}

fn installed(view: &View) -> Result<Option<Release>, Obstacle> {
    match &view.installed {
        Installed::NotAsked => Ok(None),
        Installed::Known(release) => Ok(Some(*release)),
        Installed::Unknown(cause) => Err(Obstacle::Unreadable(cause.clone())),
    }
}

fn may_resume(policy: &Policy, view: &View) -> Result<(), Obstacle> {
    let Some(installed) = installed(view)? else { return Ok(()) };
    // The data here may be older than the last change of the cluster's version.
    if let DataDir::Whole { ids: Known::Known((ours, _)) } = view.data
        && let Some(cluster) = view.living_clusters().get(&ours).and_then(|etcd| etcd.version)
        && installed.minor() < cluster
    {
        return Err(Obstacle::Older { installed, than: cluster, of: Subject::Cluster });
    }
    match &view.data_release {
        Known::Known(data) => may_start(installed, data, policy.max_learners),
        // etcd itself must judge data that can't be read here; it refuses a bad backend and changes nothing.
        Known::Unknown(_) => Ok(()),
    }
}

/// Whether that release may start on that data.
///
/// # Errors
/// Why it may not.
pub fn may_start(installed: Release, data: &DataRelease, max_learners: usize) -> Result<(), Obstacle> {
    if let Some(minor) = data.minor() {
        one_minor(installed, minor, Subject::Data)?;
    }
    if installed.minor() < V3_6 {
        return Ok(());
    }
    // First, because a raft snapshot is no way out of it.
    if data.v2_keys {
        return Err(Obstacle::V2Keys { installed });
    }
    let unfit = if installed.minor() < V3_7 { OldRecords::Foreign } else { OldRecords::OfMembers };
    if data.records >= unfit {
        return Err(Obstacle::Records { installed, records: data.records });
    }
    if data.learners.len() > max_learners {
        let members = data.learners.iter().copied().collect();
        return Err(Obstacle::Learners { installed, members, most: max_learners });
    }
    Ok(())
}

/// Whether the etcd here may start on a snapshot of that release: of its own minor release, or of the one before.
///
/// # Errors
/// Why not; a release that is not understood passes, for etcd itself looks again.
pub fn fits_snapshot(installed: Release, taken_with: &str) -> Result<(), Obstacle> {
    Release::parse(taken_with).map_or(Ok(()), |taken| one_minor(installed, taken.minor(), Subject::Snapshot))
}

fn one_minor(installed: Release, minor: Minor, of: Subject) -> Result<(), Obstacle> {
    match installed.minor() {
        ours if ours < minor => Err(Obstacle::Older { installed, than: minor, of }),
        ours if ours > minor.next() => Err(Obstacle::Skips { installed, from: minor, of }),
        _ => Ok(()),
    }
}

/// 3.3 has no learners, and does not survive one in its cluster (3.3.25). A member of 3.4 is no protection, nor is the cluster's version.
fn may_add_itself(policy: &Policy, view: &View) -> Result<(), Obstacle> {
    may_join(policy, view)?;
    if installed(view)?.is_none() {
        return Ok(());
    }
    let seen = view.etcds().filter_map(|etcd| Some(etcd.release?.minor()));
    let versions = view.living_clusters().into_values().filter_map(|etcd| etcd.version);
    match seen.chain(versions).min() {
        Some(oldest) if oldest < V3_4 => Err(Obstacle::NoLearners { oldest }),
        _ => Ok(()),
    }
}

/// An added member that can't be used stays behind, and blocks every change of the cluster's version.
fn may_join(policy: &Policy, view: &View) -> Result<(), Obstacle> {
    let Some(installed) = installed(view)? else { return Ok(()) };
    let Some(etcd) = view.living_clusters().into_values().next() else { return Ok(()) };
    // etcd of either release is then refused (3.6.16 and 3.7.3: "incompatible with current running cluster"), after its entry was made.
    match &view.downgrade {
        Known::Known(None) => {}
        Known::Known(Some(to)) => return Err(Obstacle::Downgrading { to: *to }),
        Known::Unknown(cause) => return Err(Obstacle::DowngradeUnknown(cause.clone())),
    }
    let Some(cluster) = etcd.version else {
        // It waits for a member that it has not heard from, which may be this one: then the founders' releases must work together.
        let theirs = etcd.release.ok_or(Obstacle::ClusterUnknown { installed })?;
        return match works_beside(installed, theirs) {
            true => Ok(()),
            false => Err(Obstacle::Beside { installed, instance: etcd.client_url.clone(), theirs }),
        };
    };
    one_minor(installed, cluster, Subject::Cluster)?;
    // A leader sends its log unchanged, which may still have records of 3.5.
    match installed.minor() > cluster && cluster >= V3_6 && !policy.join_newer {
        true => Err(Obstacle::JoinsFirst { installed, cluster }),
        false => Ok(()),
    }
}

/// Two that bootstrap one cluster: of one minor release, or of two that follow each other.
fn works_beside(ours: Release, theirs: Release) -> bool {
    theirs.minor() <= ours.minor().next() && ours.minor() <= theirs.minor().next()
}

fn may_found(view: &View) -> Result<(), Obstacle> {
    let Some(installed) = installed(view)? else { return Ok(()) };
    let fresh = view.peers.iter().filter_map(|(id, peer)| match &peer.sighting {
        PeerState::Fresh(fresh) => Some((id, fresh.release?)),
        _ => None,
    });
    match fresh.into_iter().find(|(_, theirs)| !works_beside(installed, *theirs)) {
        Some((id, theirs)) => Err(Obstacle::Beside { installed, instance: id.to_string(), theirs }),
        None => Ok(()),
    }
}

/// The number of entries between two raft snapshots with which to start etcd, so that it writes one as soon as it has applied
/// its log, and the next minor release can start on this data. `None`: no entry must get behind a snapshot.
///
/// etcd writes one when more entries than that have been applied since the last (`EtcdServer.shouldSnapshot`).
pub fn snapshot_count(installed: Release, data: &DataRelease) -> Option<u64> {
    // What the next minor release can't apply: 3.6 must get behind a snapshot what 3.5 itself writes at every start.
    let unfit = if installed.minor() < V3_6 { OldRecords::Foreign } else { OldRecords::OfMembers };
    let applied = data.end.checked_sub(data.snapshot)?;
    (installed.minor() >= V3_5 && data.records >= unfit).then(|| applied.saturating_sub(1).max(1))
}

/// A member before an upgrade.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberState {
    pub id: MemberId,
    pub name: String,
    pub is_learner: bool,
    /// It has published its client URLs.
    pub has_started: bool,
    /// As it reports itself.
    pub is_healthy: bool,
    pub release: Option<Release>,
}

/// What blocks the upgrade of a running cluster to its next release.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Blocker {
    /// The data of this member is not ready.
    Data(Obstacle),
    /// Its data could not be read.
    DataUnknown(String),
    /// A member that never started blocks every change of the cluster's version.
    NeverStarted(MemberId),
    Learner(MemberId),
    NotHealthy(MemberId),
    ReleaseUnknown(MemberId),
    /// That member runs an older minor release than all must have by now.
    Behind {
        member: MemberId,
        release: Release,
        needs: Minor,
    },
    /// That release does not store promotions, and its member update turns learners into voters.
    OldPatch {
        member: MemberId,
        release: Release,
    },
    /// The cluster is being downgraded to that minor release.
    Downgrading {
        to: String,
    },
    /// All members have a release whose version the cluster does not have yet.
    NotStepped {
        version: Option<Minor>,
        members: Minor,
    },
}

/// The first 3.5 that 3.6 may follow: later ones only fix bugs (etcd's CHANGELOG-3.5).
const READY_FOR_3_6: Release = Release { major: 3, minor: 5, patch: 31 };

/// Everything that blocks this member, of that cluster, from that release. Nothing: it may be installed here next.
pub fn blockers(
    target: Release,
    data: &Known<DataRelease>,
    most_learners: usize,
    version: Option<Minor>,
    members: &[MemberState],
) -> Vec<Blocker> {
    let mut found = Vec::new();
    match data {
        Known::Known(data) => found.extend(may_start(target, data, most_learners).err().map(Blocker::Data)),
        Known::Unknown(cause) => found.push(Blocker::DataUnknown(cause.clone())),
    }
    let needs = target.minor().previous();
    for member in members {
        let id = member.id;
        let blocker = match member.release {
            _ if !member.has_started => Some(Blocker::NeverStarted(id)),
            _ if member.is_learner => Some(Blocker::Learner(id)),
            _ if !member.is_healthy => Some(Blocker::NotHealthy(id)),
            None => Some(Blocker::ReleaseUnknown(id)),
            Some(release) if release.minor() < needs => Some(Blocker::Behind { member: id, release, needs }),
            Some(release) if target.minor() == V3_6 && release < READY_FOR_3_6 => {
                Some(Blocker::OldPatch { member: id, release })
            }
            Some(_) => None,
        };
        found.extend(blocker);
    }
    let oldest = members.iter().filter_map(|member| member.release).map(Release::minor).min();
    if let Some(oldest) = oldest.filter(|oldest| version.is_none_or(|version| version < *oldest)) {
        found.push(Blocker::NotStepped { version, members: oldest });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_restored_with_its_release_or_the_next() {
        let with = |installed: &str, taken: &str| fits_snapshot(Release::parse(installed).unwrap(), taken);
        for taken in ["3.6.16", "3.6.1", "3.5.33", "unheard of"] {
            assert_eq!(with("3.6.16", taken), Ok(()), "{taken}");
        }
        assert!(matches!(with("3.5.33", "3.6.1"), Err(Obstacle::Older { .. })));
        assert!(matches!(with("3.7.3", "3.5.33"), Err(Obstacle::Skips { .. })));
    }
}
