//! What first members restore before they start: a snapshot of an earlier cluster, and who may say so.
//!
//! A restore is a founding whose list has a seed. Either `MUSTER_SEED` names where it comes from, or an order does that lies beside the
//! snapshots: whoever can write there could change the snapshots as well, and nobody else can make a node restore anything.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::snapshot::manifest::{Manifest, is_sha256};
use super::snapshot::name::Name;
use super::types::{ClusterId, InstanceId, Known, LaunchTime, Seed};

/// How far revisions are raised: far more than a cluster can have written since its last snapshot, so that no client meets a revision
/// again that it has seen with other content (etcd's "Disaster recovery" advises as much).
pub const BUMP: u64 = 1_000_000_000;

impl Seed {
    /// The seed that a manifest in that place describes.
    pub fn of(place: &str, manifest: &Manifest) -> Self {
        Self {
            place: place.to_owned(),
            snapshot: manifest.name().to_string(),
            sha256: manifest.sha256.clone(),
            size: manifest.size,
            bump: BUMP,
        }
    }

    /// The snapshot's name; `None`: it is none.
    pub fn name(&self) -> Option<Name> {
        Name::parse(&self.snapshot)
    }

    /// The cluster of which the snapshot was taken.
    pub fn cluster(&self) -> Option<ClusterId> {
        Some(self.name()?.cluster)
    }

    /// Why nothing can be restored from it, if so. The rule depends only on the seed, so that all nodes judge it alike.
    pub fn fault(&self) -> Option<String> {
        if self.name().is_none() {
            return Some(format!("{:?} is no snapshot's name", self.snapshot));
        }
        if !is_sha256(&self.sha256) {
            return Some(format!("{:?} is no SHA-256", self.sha256));
        }
        // etcd's revisions are signed.
        let can_be = self.size > 0 && self.bump <= i64::MAX as u64 / 2;
        let fault =
            || format!("a snapshot of {} bytes can't be restored with revisions raised by {}", self.size, self.bump);
        (!can_be).then(fault)
    }
}

/// What an operator orders: that exactly these instances restore that snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// [`Order::FORMAT`].
    pub format: u32,
    pub seed: Seed,
    /// The first N of the roster when it was given, with their launch times. Instances that come later don't obey it.
    pub first: Vec<(InstanceId, Option<LaunchTime>)>,
    /// The clusters of which the place held snapshots then. Once it holds one of another, the order was carried out, or is not what is wanted any more: hosts
    /// of a static list are the same ones for years, and would restore that old snapshot again whenever they lost their disks.
    pub clusters: BTreeSet<ClusterId>,
    /// When, by the clock of the instance on which it was given, RFC 3339 in UTC. For people only.
    pub at: String,
}

impl Order {
    /// The format that this program writes.
    pub const FORMAT: u32 = 1;
    /// The folder of orders, below the place.
    pub const FOLDER: &'static str = "restore-orders/";

    /// The key of this order, below the place: a later one's is behind it. `plan` is the plan's id.
    pub fn key(&self, plan: &str) -> String {
        let at: String = self.at.chars().filter(char::is_ascii_alphanumeric).collect();
        format!("{}{at}-{plan}.json", Self::FOLDER)
    }

    /// Whether it is still to be obeyed by these instances, where that place holds snapshots of these clusters.
    pub fn is_for(
        &self,
        place: &str,
        first: &[(InstanceId, Option<LaunchTime>)],
        clusters: &BTreeSet<ClusterId>,
    ) -> bool {
        self.seed.place == place && self.first == first && clusters.is_subset(&self.clusters)
    }

    /// Whether that is such a key.
    pub fn is_key(key: &str) -> bool {
        let plan = key.strip_prefix(Self::FOLDER).and_then(|rest| rest.strip_suffix(".json"));
        plan.is_some_and(|plan| !plan.is_empty() && plan.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
    }
}

/// Which snapshots a list may have as its seed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum MaySeed {
    /// None: no place for snapshots is configured, or none of them holds any.
    #[default]
    Nothing,
    /// One of these, and not none of them: a cluster was, or a seed is configured. Empty: which ones is not known.
    OneOf(BTreeSet<Seed>),
}

impl MaySeed {
    /// Why no list may be agreed on here that has that seed, or none.
    pub fn misfit(&self, seed: Option<&Seed>) -> Option<String> {
        match (self, seed) {
            (Self::Nothing, None) => None,
            (Self::OneOf(seeds), Some(seed)) if seeds.contains(seed) => None,
            (Self::OneOf(_), None) => Some(
                "it founds an empty cluster, although a snapshot is to be restored or its place holds some".to_owned(),
            ),
            (_, Some(seed)) => Some(format!("it restores {}/{}, which nobody ordered", seed.place, seed.snapshot)),
        }
    }
}

/// What is known about snapshots of earlier clusters, before a bootstrap.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Snapshots {
    /// No place is configured, or nothing depends on it now.
    #[default]
    NotAsked,
    /// A place can't be read.
    Unknown { place: String, cause: String },
    /// The places hold none.
    Absent,
    /// A place holds some.
    Seen {
        place: String,
        /// How many, in that place.
        count: usize,
        /// The newest in the order of names.
        newest: String,
    },
}

/// What is to be restored, before a bootstrap.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SeedSeen {
    /// What a proposer restores; `None`: nothing is ordered or configured.
    pub wanted: Option<Known<Seed>>,
    /// An operator ordered it, for exactly these instances.
    pub by_order: bool,
    /// All that may have been wanted: a list that another node proposed before may have any of them.
    pub acceptable: BTreeSet<Seed>,
}

/// Which snapshot `MUSTER_SEED` means.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Which {
    /// The newest verified one of the only lineage there.
    #[default]
    Newest,
    /// The newest verified one of that cluster.
    Of(ClusterId),
    /// That one, verified or not.
    Named(Name),
}

/// Chooses among the snapshots of a place: `manifests` are those that are listed, with the reason why one can't be read or is not understood.
///
/// # Errors
/// Why none can be chosen, with the way out.
pub fn choose(which: &Which, manifests: &BTreeMap<Name, Result<Manifest, String>>) -> Result<Manifest, String> {
    let cluster = match which {
        Which::Named(name) => {
            let found = manifests.get(name).ok_or_else(|| format!("there is no snapshot {name}"))?;
            return found.clone().map_err(|cause| format!("the manifest of {name} can't be used: {cause}"));
        }
        Which::Of(cluster) => *cluster,
        Which::Newest => last_of_lineage(manifests)?,
    };
    let of_it = manifests.iter().rev().filter(|(name, _)| name.cluster == cluster);
    for (name, manifest) in of_it.clone() {
        match manifest {
            Ok(manifest) if manifest.verified.is_some() => return Ok(manifest.clone()),
            Ok(_) => {}
            // It may be the newest verified one; an older one would be restored without a word.
            Err(cause) => {
                return Err(format!("the manifest of {name} can't be used: {cause}; name the snapshot to restore"));
            }
        }
    }
    Err(match of_it.count() {
        0 => format!("there is no snapshot of cluster {cluster}"),
        count => format!(
            "none of the {count} snapshots of cluster {cluster} is verified; verify one (etcd-muster snapshot verify), or name one"
        ),
    })
}

/// The cluster that no other one there was restored from. One of which no manifest can be read counts: what it was restored from is unknown.
fn last_of_lineage(manifests: &BTreeMap<Name, Result<Manifest, String>>) -> Result<ClusterId, String> {
    let clusters: BTreeSet<ClusterId> = manifests.keys().map(|name| name.cluster).collect();
    let read = manifests.values().filter_map(|manifest| manifest.as_ref().ok());
    let parents: BTreeSet<ClusterId> = read.filter_map(|manifest| manifest.parent).collect();
    let last: Vec<ClusterId> = clusters.difference(&parents).copied().collect();
    match last.as_slice() {
        [cluster] => Ok(*cluster),
        [] => Err("there is no snapshot".to_owned()),
        several => {
            let named: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(format!("there are snapshots of several clusters: {}; name one: PLACE/CLUSTER", named.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::manifest::{FORMAT, Level, Reason, Verified};
    use super::super::types::MemberId;
    use super::*;

    fn snapshots(of: &[(u64, u64, Option<u64>, bool)]) -> BTreeMap<Name, Result<Manifest, String>> {
        let manifest = |&(cluster, revision, parent, is_verified): &(u64, u64, Option<u64>, bool)| {
            let at = "2026-11-30T06:00:00Z".to_owned();
            let verified = Verified { level: Level::Digest, at: at.clone(), by: "i-1".to_owned() };
            Manifest {
                format: FORMAT,
                cluster: ClusterId(cluster),
                parent: parent.map(ClusterId),
                member: MemberId(1),
                instance: "i-1".to_owned(),
                etcd: "3.6.16".to_owned(),
                storage_version: None,
                revision,
                compact_revision: 1,
                term: 2,
                index: revision + 3,
                size: 8_224,
                sha256: "ab".repeat(32),
                plain: None,
                hash_kv: None,
                members: Vec::new(),
                auth: false,
                alarms: Vec::new(),
                taken_at: at,
                store_date: None,
                reason: Reason::Scheduled,
                encryption: None,
                verified: Some(verified).filter(|_| is_verified),
            }
        };
        of.iter().map(manifest).map(|manifest| (manifest.name(), Ok(manifest))).collect()
    }

    fn chosen(which: &Which, of: &[(u64, u64, Option<u64>, bool)]) -> Result<(u64, u64), String> {
        choose(which, &snapshots(of)).map(|manifest| (manifest.cluster.0, manifest.revision))
    }

    #[test]
    fn the_newest_verified_one_of_the_youngest_cluster_is_restored() {
        let one = [(7, 10, None, true), (7, 9, None, true), (7, 11, None, false)];
        assert_eq!(chosen(&Which::Newest, &one), Ok((7, 10)));
        // Restored once already: what it was restored from is older, whatever its id and revision are.
        let twice = [(7, 10, None, true), (3, 5, Some(7), true), (3, 4, Some(7), true)];
        assert_eq!(chosen(&Which::Newest, &twice), Ok((3, 5)));
        let three = [(7, 10, None, true), (3, 5, Some(7), true), (5, 2, Some(3), true)];
        assert_eq!(chosen(&Which::Newest, &three), Ok((5, 2)));
        assert_eq!(chosen(&Which::Of(ClusterId(7)), &three), Ok((7, 10)));
    }

    #[test]
    fn what_is_not_certain_is_not_restored() {
        let unverified = [(7, 10, None, false), (7, 9, None, false)];
        assert!(
            chosen(&Which::Newest, &unverified)
                .unwrap_err()
                .contains("none of the 2 snapshots of cluster 7 is verified")
        );
        // Not one of the cluster before it: what was written since would be lost without a word.
        let only_the_parents = [(7, 10, None, true), (3, 5, Some(7), false)];
        assert!(chosen(&Which::Newest, &only_the_parents).is_err());
        let two = [(7, 10, None, true), (3, 5, None, true)];
        assert!(chosen(&Which::Newest, &two).unwrap_err().contains("several clusters: 3, 7"));
        // Two that were restored from the same one.
        let fork = [(7, 10, None, true), (3, 5, Some(7), true), (4, 5, Some(7), true)];
        assert!(chosen(&Which::Newest, &fork).unwrap_err().contains("several clusters: 3, 4"));
        assert!(chosen(&Which::Newest, &[]).is_err() && chosen(&Which::Of(ClusterId(9)), &two).is_err());
        // Named, it needs no proof: its digest is compared in any case.
        let name = unverified_name();
        assert_eq!(chosen(&Which::Named(name.clone()), &unverified), Ok((7, 9)));
        assert!(chosen(&Which::Named(name), &two).is_err());
    }

    /// A place that can't be read for a moment, or a manifest of a newer release.
    #[test]
    fn what_can_not_be_read_may_be_what_is_meant() {
        let all = [(7, 10, None, true), (7, 9, None, true), (3, 5, Some(7), true), (3, 4, Some(7), true)];
        let choose_without = |which: &Which, unreadable: &[(u64, u64)]| {
            let mut manifests = snapshots(&all);
            for (name, manifest) in &mut manifests {
                if unreadable.contains(&(name.cluster.0, name.revision)) {
                    *manifest = Err("503".to_owned());
                }
            }
            choose(which, &manifests).map(|manifest| (manifest.cluster.0, manifest.revision))
        };
        assert_eq!(choose_without(&Which::Newest, &[]), Ok((3, 5)));
        assert_eq!(choose_without(&Which::Newest, &[(3, 4), (7, 10)]), Ok((3, 5)), "older ones don't matter");
        assert!(choose_without(&Which::Newest, &[(3, 5)]).unwrap_err().contains("503"), "nor an older one instead");
        let lost = choose_without(&Which::Newest, &[(3, 5), (3, 4)]).unwrap_err();
        assert!(lost.contains("several clusters: 3, 7"), "nor the one before it: {lost}");
        assert!(choose_without(&Which::Of(ClusterId(7)), &[(7, 10)]).is_err());
        let name = Name::new(ClusterId(7), 10, 13, "i-1");
        assert!(choose_without(&Which::Named(name), &[(7, 10)]).unwrap_err().contains("503"));
    }

    fn unverified_name() -> Name {
        Name::new(ClusterId(7), 9, 12, "i-1")
    }

    fn seed() -> Seed {
        Seed {
            place: "file:/b".to_owned(),
            snapshot: unverified_name().to_string(),
            sha256: "ab".repeat(32),
            size: 8_224,
            bump: BUMP,
        }
    }

    #[test]
    fn a_list_has_the_seed_that_may_be_and_no_other() {
        let (ours, other) = (seed(), Seed { sha256: "cd".repeat(32), ..seed() });
        let one = MaySeed::OneOf(BTreeSet::from([ours.clone()]));
        assert_eq!((one.misfit(Some(&ours)), MaySeed::Nothing.misfit(None)), (None, None));
        assert!(one.misfit(None).is_some(), "nobody founds an empty cluster beside snapshots");
        assert!(one.misfit(Some(&other)).is_some() && MaySeed::Nothing.misfit(Some(&ours)).is_some());
        let unknown = MaySeed::OneOf(BTreeSet::new());
        assert!(unknown.misfit(None).is_some() && unknown.misfit(Some(&ours)).is_some());
    }

    #[test]
    fn a_seed_that_can_not_be_one_is_told() {
        assert_eq!(seed().fault(), None);
        for odd in [
            Seed { snapshot: "7/9".to_owned(), ..seed() },
            Seed { sha256: "AB".repeat(32), ..seed() },
            Seed { size: 0, ..seed() },
            Seed { bump: u64::MAX, ..seed() },
        ] {
            assert!(odd.fault().is_some(), "{odd:?}");
        }
    }

    fn order(first: &[(InstanceId, Option<LaunchTime>)], clusters: &[u64]) -> Order {
        Order {
            format: Order::FORMAT,
            seed: seed(),
            first: first.to_vec(),
            clusters: clusters.iter().copied().map(ClusterId).collect(),
            at: "2026-11-30T06:00:00Z".to_owned(),
        }
    }

    #[test]
    fn an_order_is_for_its_instances_until_another_cluster_left_snapshots() {
        let host = |name: &str, launched: Option<i64>| (InstanceId(name.to_owned()), launched);
        let first = [host("db-1", None), host("db-2", None)];
        let there = |clusters: &[u64]| clusters.iter().copied().map(ClusterId).collect();
        let given = order(&first, &[7]);
        assert!(given.is_for("file:/b", &first, &there(&[7])));
        assert!(given.is_for("file:/b", &first, &there(&[])), "the snapshot itself is looked for apart");
        assert!(!given.is_for("file:/c", &first, &there(&[7])), "copied from another place");
        for other in [vec![], first[..1].to_vec(), vec![first[1].clone(), first[0].clone()]] {
            assert!(!given.is_for("file:/b", &other, &there(&[7])), "{other:?}");
        }
        assert!(!given.is_for("file:/b", &[host("db-1", Some(1)), first[1].clone()], &there(&[7])), "launched anew");
        // What was restored by it runs for a year and leaves snapshots; then all hosts are installed anew.
        assert!(!given.is_for("file:/b", &first, &there(&[7, 9])), "would lose that year");
        assert!(order(&first, &[7, 9]).is_for("file:/b", &first, &there(&[7, 9])), "ordered anew");
    }

    #[test]
    fn only_orders_are_orders() {
        let order = order(&[], &[]);
        assert_eq!(order.key("a1b2"), "restore-orders/20261130T060000Z-a1b2.json");
        assert!(Order::is_key(&order.key("a1b2")));
        for odd in ["restore-orders/.json", "restore-orders/a/b.json", "orders/a.json", "restore-orders/a.db", ""] {
            assert!(!Order::is_key(odd), "{odd:?}");
        }
    }
}
