//! Snapshots of earlier clusters, as a node without data sees them before a bootstrap: evidence that a cluster was, and what is to be
//! restored.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::snapshot_places;
use crate::aws::s3::S3;
use crate::config;
use crate::core::seed::{Order, SeedSeen, Snapshots, Which, choose};
use crate::core::types::{ClusterId, InstanceId, Known, LaunchTime, Seed};
use crate::snapshot::catalog;
use crate::snapshot::place::{Listing, Place};
use crate::util::clock;

/// What was seen serves this long: observations come in bursts while peers change.
const SERVES: Duration = Duration::from_secs(2);
/// A place that says nothing for this long is unknown; a store's own retries take longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many orders are read, the last ones.
const ORDERS: usize = 16;

/// The first N of the roster, with their launch times.
pub type First = [(InstanceId, Option<LaunchTime>)];

/// Looks at the places, and remembers for a moment what was there.
#[derive(Debug)]
pub struct EarlierSnapshots {
    settings: config::Snapshots,
    s3: S3,
    places: Vec<Arc<Place>>,
    seen: Option<Seen>,
}

/// What was seen for these instances, and when.
#[derive(Debug)]
struct Seen {
    at: Instant,
    first: Vec<(InstanceId, Option<LaunchTime>)>,
    found: (Snapshots, SeedSeen),
}

impl EarlierSnapshots {
    /// For these settings; without a place nothing is ever asked.
    pub fn new(settings: config::Snapshots, s3: S3) -> Self {
        Self { settings, s3, places: Vec::new(), seen: None }
    }

    /// What the places hold, and what these instances are to restore.
    pub async fn look(&mut self, first: &First) -> (Snapshots, SeedSeen) {
        if let Some(seen) = &self.seen
            && clock::now() - seen.at < SERVES
            && seen.first == first
        {
            return seen.found.clone();
        }
        let found = self.look_now(first).await;
        self.seen = Some(Seen { at: clock::now(), first: first.to_vec(), found: found.clone() });
        found
    }

    /// The next look is a new one.
    pub fn expire(&mut self) {
        self.seen = None;
    }

    async fn look_now(&mut self, first: &First) -> (Snapshots, SeedSeen) {
        let sources = self.settings.sources();
        if sources.is_empty() {
            return (Snapshots::NotAsked, SeedSeen::default());
        }
        if self.places.is_empty() {
            match snapshot_places::open(&self.settings, &sources, || self.s3.clone()).await {
                Ok(places) => self.places = places,
                Err(cause) => return unknown(&self.settings, &cause),
            }
        }
        let (mut snapshots, mut seed) = (Snapshots::NotAsked, SeedSeen::default());
        let mut orders = Vec::new();
        for (place, location) in self.places.iter().zip(&sources) {
            let listed = tokio::time::timeout(PATIENCE, place.list("")).await;
            let listed = match listed {
                Ok(listed) => listed.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no complete list within {} s", PATIENCE.as_secs())),
            };
            if let Ok(listing) = &listed {
                let found = tokio::time::timeout(PATIENCE, orders_in(place, listing, first)).await;
                orders.extend(found.unwrap_or_else(|_| vec![unread(place)]));
            }
            if let Some(source) = self.settings.seed.as_ref().filter(|source| source.location == *location) {
                let meant = match &listed {
                    Ok(listing) => {
                        let meant = tokio::time::timeout(PATIENCE, meant_by(&source.which, place, listing)).await;
                        meant.unwrap_or_else(|_| Err(format!("no manifests within {} s", PATIENCE.as_secs())))
                    }
                    Err(cause) => Err(cause.clone()),
                };
                (seed.wanted, seed.acceptable) = match meant {
                    Ok((wanted, acceptable)) => (Some(Known::Known(wanted)), acceptable),
                    Err(cause) => (Some(Known::Unknown(format!("MUSTER_SEED={source}: {cause}"))), BTreeSet::new()),
                };
            }
            if self.settings.places.contains(location) {
                snapshots = the_more_telling(snapshots, seen_in(place, listed));
            }
        }
        obey(&mut seed, orders);
        (snapshots, seed)
    }
}

fn unknown(settings: &config::Snapshots, cause: &str) -> (Snapshots, SeedSeen) {
    let place = settings.sources().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let wanted = settings.seed.as_ref().map(|source| Known::Unknown(format!("MUSTER_SEED={source}: {cause}")));
    (Snapshots::Unknown { place, cause: cause.to_owned() }, SeedSeen { wanted, ..SeedSeen::default() })
}

fn seen_in(place: &Place, listed: Result<Listing, String>) -> Snapshots {
    let place = place.to_string();
    match listed {
        Err(cause) => Snapshots::Unknown { place, cause },
        Ok(listing) => {
            let (mut count, mut newest) = (0, None);
            for name in catalog::names(&listing) {
                (count, newest) = (count + 1, Some(name));
            }
            newest.map_or(Snapshots::Absent, |newest| Snapshots::Seen { place, count, newest: newest.to_string() })
        }
    }
}

/// One place that holds some is evidence, whatever the others do; only if all can be read there are none.
fn the_more_telling(one: Snapshots, other: Snapshots) -> Snapshots {
    let rank = |seen: &Snapshots| match seen {
        Snapshots::NotAsked => 0,
        Snapshots::Absent => 1,
        Snapshots::Unknown { .. } => 2,
        Snapshots::Seen { .. } => 3,
    };
    if rank(&other) > rank(&one) { other } else { one }
}

/// Which snapshot is to be restored, and all that another node could have taken for it.
async fn meant_by(which: &Which, place: &Arc<Place>, listing: &Listing) -> Result<(Seed, BTreeSet<Seed>), String> {
    let manifests = catalog::candidates(place, listing, which).await;
    let (chosen, at) = (choose(which, &manifests)?, place.to_string());
    let read = manifests.values().filter_map(|manifest| manifest.as_ref().ok());
    let of_it = read.filter(|manifest| manifest.cluster == chosen.cluster);
    let verified = of_it.filter(|manifest| manifest.verified.is_some() || matches!(which, Which::Named(_)));
    Ok((Seed::of(&at, &chosen), verified.map(|manifest| Seed::of(&at, manifest)).collect()))
}

/// An order for these instances: its key, and its seed if the snapshot is there as it says.
type Ordered = (String, Result<Seed, String>);

/// Unknown, and behind all that could be known.
fn unread(place: &Place) -> Ordered {
    let cause = format!("the orders in {place} can't be read within {} s", PATIENCE.as_secs());
    (format!("{}~", Order::FOLDER), Err(cause))
}

async fn orders_in(place: &Arc<Place>, listing: &Listing, first: &First) -> Vec<Ordered> {
    let keys = listing.entries.iter().rev().map(|entry| &entry.key).filter(|key| Order::is_key(key)).take(ORDERS);
    let clusters: BTreeSet<ClusterId> = catalog::names(listing).map(|name| name.cluster).collect();
    let mut found = Vec::new();
    for key in keys {
        let unreadable = |cause: String| (key.clone(), Err(format!("the order {place}/{key} can't be read: {cause}")));
        match place.read(key).await {
            Err(error) => found.push(unreadable(error.to_string())),
            // Removed meanwhile.
            Ok(None) => {}
            Ok(Some(stored)) => match serde_json::from_slice::<Order>(&stored.body) {
                // Of a newer program, or none of ours; whom it is for is not known.
                Err(error) => found.push(unreadable(error.to_string())),
                Ok(order) if order.format != Order::FORMAT => {
                    found.push(unreadable(format!(
                        "its format is {}; this release knows {}",
                        order.format,
                        Order::FORMAT
                    )));
                }
                Ok(order) if !order.is_for(&place.to_string(), first, &clusters) => {}
                Ok(order) => found.push((key.clone(), is_there(place, order.seed).await)),
            },
        }
    }
    found
}

/// A seed that is chosen can't be changed any more, so what is not there must not be chosen.
async fn is_there(place: &Arc<Place>, seed: Seed) -> Result<Seed, String> {
    if let Some(fault) = seed.fault() {
        return Err(format!("the order is void: {fault}"));
    }
    let Some(name) = seed.name() else { return Err("the order names no snapshot".to_owned()) };
    match catalog::manifest(place, &name).await {
        Ok(manifest) if (&manifest.sha256, manifest.size) == (&seed.sha256, seed.size) => Ok(seed),
        Ok(_) => Err(format!("{place}/{} is another snapshot than the one that was ordered", seed.snapshot)),
        Err(cause) => Err(format!("{place}/{}, which was ordered, can't be read: {cause}", seed.snapshot)),
    }
}

/// The last order is what an operator wants now; a list that was proposed by an earlier one may still be agreed on.
fn obey(seed: &mut SeedSeen, mut orders: Vec<Ordered>) {
    orders.sort();
    seed.acceptable.extend(orders.iter().filter_map(|(_, seed)| seed.clone().ok()));
    if let Some((_, last)) = orders.pop() {
        seed.wanted = Some(last.map_or_else(Known::Unknown, Known::Known));
        seed.by_order = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::seed::BUMP;
    use crate::core::snapshot::manifest::Manifest;
    use crate::snapshot::place::directory::Directory;
    use crate::util::scratch::Scratch;

    fn seed(place: &str) -> Seed {
        let snapshot = "00000000000000c1/00000000000000000009-00000000000000000012-i-1".to_owned();
        Seed { place: place.to_owned(), snapshot, sha256: "ab".repeat(32), size: 8_224, bump: BUMP }
    }

    /// Which orders are seen in a place, and what is made of them.
    #[tokio::test]
    async fn an_order_is_obeyed_by_its_instances_while_what_it_names_is_there() {
        let dir = Scratch::make();
        let place = Arc::new(Place::Directory(Directory::new(dir.path().to_owned())));
        let first = [(InstanceId("i-a".to_owned()), Some(1)), (InstanceId("i-b".to_owned()), Some(2))];
        let manifest: Manifest = serde_json::from_value(serde_json::json!({
            "format": 1, "cluster": "00000000000000c1", "member": "0000000000000001", "instance": "i-1", "etcd": "3.6.16",
            "revision": 9, "compact_revision": 1, "term": 2, "index": 12, "size": 8_224, "sha256": "ab".repeat(32),
            "members": [], "auth": false, "alarms": [], "taken_at": "2026-11-30T06:00:00Z", "reason": "scheduled",
        }))
        .unwrap();
        let folder = dir.path().join("00000000000000c1");
        std::fs::create_dir(&folder).unwrap();
        let written = folder.join("00000000000000000009-00000000000000000012-i-1.json");
        std::fs::write(&written, catalog::written(&manifest)).unwrap();
        let seen = async || {
            let listing = place.list("").await.unwrap();
            let mut seed = SeedSeen::default();
            obey(&mut seed, orders_in(&place, &listing, &first).await);
            seed
        };
        let given = Order {
            format: Order::FORMAT,
            seed: Seed::of(&place.to_string(), &manifest),
            first: first.to_vec(),
            clusters: [ClusterId(0xc1)].into(),
            at: "2026-11-30T06:00:00Z".to_owned(),
        };
        let give = async |order: &Order, plan: &str| {
            let bytes = serde_json::to_vec(order).unwrap();
            place.put_order(&order.key(plan), bytes.into()).await.unwrap();
        };
        assert_eq!(seen().await, SeedSeen::default(), "nothing is ordered");
        give(&Order { first: first[..1].to_vec(), ..given.clone() }, "a").await;
        give(&Order { clusters: BTreeSet::new(), ..given.clone() }, "b").await;
        give(&Order { seed: seed("file:/elsewhere"), ..given.clone() }, "c").await;
        assert_eq!(seen().await, SeedSeen::default(), "for others, for before, or from elsewhere");
        give(&given, "d").await;
        let wanted = || Some(Known::Known(given.seed.clone()));
        assert_eq!(
            seen().await,
            SeedSeen { wanted: wanted(), by_order: true, acceptable: [given.seed.clone()].into() }
        );
        // Another snapshot of that name, none, and one that can't be read.
        let other = Manifest { sha256: "cd".repeat(32), ..manifest };
        let before = std::fs::read(&written).unwrap();
        for now in [Some(catalog::written(&other)), Some(b"{}".to_vec()), None] {
            match &now {
                Some(bytes) => std::fs::write(&written, bytes).unwrap(),
                None => std::fs::remove_file(&written).unwrap(),
            }
            let seen = seen().await;
            assert!(matches!(seen.wanted, Some(Known::Unknown(_))) && seen.acceptable.is_empty(), "{now:?}: {seen:?}");
        }
        std::fs::write(&written, before).unwrap();
        assert_eq!(seen().await.wanted, wanted());
        // Of a newer program: it may be for these instances.
        give(&Order { format: Order::FORMAT + 1, first: Vec::new(), ..given.clone() }, "e").await;
        let seen = seen().await;
        assert!(matches!(&seen.wanted, Some(Known::Unknown(why)) if why.contains("format")), "{seen:?}");
        assert_eq!(seen.acceptable, [given.seed.clone()].into(), "what another node proposed before is accepted");
    }

    #[test]
    fn one_place_that_holds_some_is_enough_and_only_all_that_hold_none_are_none() {
        let seen = || Snapshots::Seen { place: "file:/b".to_owned(), count: 1, newest: "n".to_owned() };
        let unknown = || Snapshots::Unknown { place: "s3://b".to_owned(), cause: "503".to_owned() };
        for (one, other, expected) in [
            (unknown(), seen(), seen()),
            (seen(), Snapshots::Absent, seen()),
            (Snapshots::Absent, unknown(), unknown()),
            (unknown(), Snapshots::Absent, unknown()),
            (Snapshots::NotAsked, Snapshots::Absent, Snapshots::Absent),
        ] {
            assert_eq!(the_more_telling(one, other), expected);
        }
    }

    #[test]
    fn the_last_order_is_wanted_and_those_before_it_may_still_be_agreed_on() {
        let (first, second) = (seed("file:/a"), seed("file:/b"));
        let mut seen = SeedSeen::default();
        obey(&mut seen, vec![("o/2".to_owned(), Ok(second.clone())), ("o/1".to_owned(), Ok(first.clone()))]);
        assert_eq!(seen.wanted, Some(Known::Known(second.clone())));
        assert_eq!(seen.acceptable, BTreeSet::from([first.clone(), second]));
        let mut seen = SeedSeen::default();
        obey(&mut seen, vec![("o/2".to_owned(), Err("gone".to_owned())), ("o/1".to_owned(), Ok(first))]);
        assert_eq!(
            seen.wanted,
            Some(Known::Unknown("gone".to_owned())),
            "not the one before, which nobody wants any more"
        );
    }
}
