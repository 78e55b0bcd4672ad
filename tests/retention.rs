//! Which snapshots may be deleted: every small place, and what operators of other systems met.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::collections::{BTreeMap, BTreeSet};

use muster_core::snapshot::manifest::{FORMAT, Level, Manifest, Reason, Verified};
use muster_core::snapshot::name::{Kind, Name};
use muster_core::snapshot::retention::{FLOOR, Keep, Kept, Object, Plan, Question, Superseded, plan};
use muster_core::types::{ClusterId, MemberId};

const OURS: ClusterId = ClusterId(7);
/// Names below ours, and above.
const THEIRS: [ClusterId; 2] = [ClusterId(6), ClusterId(8)];
const NOTHING: Keep = Keep { hours: 0, days: 0, weeks: 0 };

fn name(cluster: ClusterId, revision: u64) -> Name {
    Name::new(cluster, revision, revision + 5, "i-1")
}

fn verified() -> Option<Verified> {
    Some(Verified { level: Level::Digest, at: "2026-11-30T06:00:00Z".to_owned(), by: "i-1".to_owned() })
}

fn manifest(name: &Name, taken_at: &str) -> Manifest {
    Manifest {
        format: FORMAT,
        cluster: name.cluster,
        parent: None,
        member: MemberId(1),
        instance: name.instance.clone(),
        etcd: "3.6.16".to_owned(),
        storage_version: None,
        revision: name.revision,
        compact_revision: 0,
        term: 2,
        index: name.index,
        size: 4_128,
        sha256: "0a".repeat(32),
        plain: None,
        hash_kv: None,
        members: Vec::new(),
        auth: false,
        alarms: Vec::new(),
        taken_at: taken_at.to_owned(),
        store_date: None,
        reason: Reason::Scheduled,
        encryption: None,
        verified: verified(),
    }
}

/// The objects of a whole snapshot.
fn whole(manifest: &Manifest) -> Vec<Object> {
    let name = manifest.name();
    vec![
        Object { key: name.data_key(), size: manifest.size, manifest: None },
        Object { key: name.manifest_key(), size: 900, manifest: Some(Ok(manifest.clone())) },
    ]
}

fn hour(at: u64) -> String {
    format!("2026-11-{:02}T{:02}:10:00Z", 1 + at / 24, at % 24)
}

/// So many verified ones, an hour apart.
fn hourly(many: u64) -> Vec<Object> {
    (0..many).flat_map(|at| whole(&manifest(&name(OURS, at + 1), &hour(at)))).collect()
}

fn judged(objects: &[Object], keep: Keep, latest: Result<Name, String>) -> Plan {
    let seeds = BTreeSet::new();
    plan(&Question { listing: Ok(objects), cluster: OURS, seeds: &seeds, keep, latest, idle_writer: None })
}

fn deleted(plan: &Plan) -> Vec<u64> {
    plan.delete.iter().map(|deletion| deletion.name.revision).collect()
}

#[test]
fn the_newest_of_hours_days_and_weeks_stay() {
    let objects = hourly(20 * 24);
    let latest = name(OURS, 20 * 24);
    let plan = judged(&objects, Keep { hours: 24, days: 7, weeks: 4 }, Ok(latest));
    let stay: Vec<u64> = (1..=480).filter(|revision| !deleted(&plan).contains(revision)).collect();
    // 24 hours; the last of each of seven days; the last of each of four weeks, which begin on Thursdays as 1970 did.
    let hours = 457..=480;
    let expected: BTreeSet<u64> = hours.chain([336, 360, 384, 408, 432, 456]).chain([96, 264, 432]).collect();
    assert_eq!(stay, expected.into_iter().collect::<Vec<_>>());
}

/// Case 11: a leader's clock jumps ten years ahead, another's is a year behind.
#[test]
fn no_clock_empties_a_place() {
    let keep = Keep { hours: 3, days: 0, weeks: 0 };
    let mut objects = hourly(10);
    objects.extend(whole(&manifest(&name(OURS, 11), "2036-11-30T06:00:00Z")));
    objects.extend(whole(&manifest(&name(OURS, 12), "2025-11-30T06:00:00Z")));
    assert_eq!(deleted(&judged(&objects, keep, Ok(name(OURS, 12)))), (1..=9).collect::<Vec<_>>());
    // A clock that stands still has one hour; the floor holds.
    let stuck: Vec<Object> = (1..=9).flat_map(|at| whole(&manifest(&name(OURS, at), &hour(0)))).collect();
    assert_eq!(deleted(&judged(&stuck, keep, Ok(name(OURS, 9)))), (1..=6).collect::<Vec<_>>());
}

/// Case 12, and coreos/etcd-operator#2113: 9,999 is older than 10,000.
#[test]
fn the_order_is_that_of_numbers() {
    let revisions = [9_998, 9_999, 10_000, 10_001, (1 << 53) + 1];
    let objects: Vec<Object> = revisions.iter().flat_map(|at| whole(&manifest(&name(OURS, *at), &hour(0)))).collect();
    assert_eq!(deleted(&judged(&objects, NOTHING, Ok(name(OURS, (1 << 53) + 1)))), [9_998, 9_999]);
}

/// Case 14.
#[test]
fn while_uploads_fail_or_the_listing_is_not_whole_nothing_is_deleted() {
    let objects = hourly(300);
    let failed = judged(&objects, NOTHING, Err("503 SlowDown".to_owned()));
    assert!(failed.delete.is_empty());
    assert_eq!(failed.kept[&name(OURS, 1).manifest_key()].to_string(), "the last snapshot failed: 503 SlowDown");
    let seeds = BTreeSet::new();
    let listing = Err("the second page is the first".to_owned());
    let latest = Ok(name(OURS, 300));
    let cut =
        plan(&Question { listing, cluster: OURS, seeds: &seeds, keep: NOTHING, latest, idle_writer: Some("i-1") });
    assert_eq!(cut, Plan::default());
}

/// The same token and members give a restored cluster the old id (etcd 3.3 to 3.5), and its revisions go back. Its own snapshots must not be taken for
/// the oldest of those that were there before.
#[test]
fn what_is_greater_than_the_latest_is_not_judged_and_judges_nothing() {
    let mut objects: Vec<Object> =
        (1_000..1_010).flat_map(|at| whole(&manifest(&name(OURS, at), &hour(at - 1_000)))).collect();
    objects.extend((20..25).flat_map(|at| whole(&manifest(&name(OURS, at), &hour(at)))));
    let plan = judged(&objects, NOTHING, Ok(name(OURS, 24)));
    assert_eq!(deleted(&plan), [20, 21]);
    assert_eq!(plan.kept[&name(OURS, 22).manifest_key()], Kept::Floor);
    assert_eq!(plan.kept[&name(OURS, 1_000).manifest_key()], Kept::Newer);
}

#[test]
fn data_without_a_manifest_goes_only_when_its_writer_has_ended() {
    let mut objects = hourly(3);
    let (ours, late) = (Name::new(OURS, 2, 1, "i-1"), Name::new(OURS, 2, 1, "i-2"));
    for name in [&ours, &late] {
        objects.push(Object { key: name.data_key(), size: 7, manifest: None });
    }
    let seeds = BTreeSet::new();
    let question = |idle_writer| Question {
        listing: Ok(&objects),
        cluster: OURS,
        seeds: &seeds,
        keep: NOTHING,
        latest: Ok(name(OURS, 3)),
        idle_writer,
    };
    let judged = plan(&question(Some("i-1")));
    assert_eq!(judged.delete.len(), 1);
    assert_eq!((judged.delete[0].keys.clone(), judged.delete[0].size), (vec![ours.data_key()], 7));
    assert_eq!(judged.kept[&late.data_key()], Kept::WithoutManifest);
    assert!(plan(&question(None)).delete.is_empty());
}

/// What a snapshot of a small place may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sort {
    Verified,
    Unverified,
    ByHand,
    Seed,
    Theirs,
    NotUnderstood,
    WithoutData,
    WithoutManifest,
}

const SORTS: [Sort; 8] = [
    Sort::Verified,
    Sort::Unverified,
    Sort::ByHand,
    Sort::Seed,
    Sort::Theirs,
    Sort::NotUnderstood,
    Sort::WithoutData,
    Sort::WithoutManifest,
];

/// A small place: of each sort and from one of three hours, of which one is ten years ahead.
fn small_place(sorts: &[Sort], hours: usize) -> (Vec<Object>, BTreeSet<Name>) {
    let times = [hour(0), hour(1), "2036-11-30T06:00:00Z".to_owned()];
    let mut objects = vec![Object { key: "lost+found/x".to_owned(), size: 1, manifest: None }];
    let mut seeds = BTreeSet::new();
    for (at, sort) in sorts.iter().enumerate() {
        let cluster = if *sort == Sort::Theirs { THEIRS[at % 2] } else { OURS };
        let name = name(cluster, at as u64 + 1);
        let time = &times[(hours / 3_usize.pow(at as u32)) % 3];
        let mut manifest = manifest(&name, time);
        match sort {
            Sort::Unverified => manifest.verified = None,
            Sort::ByHand => manifest.reason = Reason::ByHand,
            Sort::Seed => _ = seeds.insert(name.clone()),
            _ => {}
        }
        let mut both = whole(&manifest);
        match sort {
            Sort::NotUnderstood => both[1].manifest = Some(Err("format 2".to_owned())),
            Sort::WithoutData => both[0].size -= 1,
            Sort::WithoutManifest => _ = both.pop(),
            _ => {}
        }
        objects.extend(both);
    }
    (objects, seeds)
}

/// Those that count: verified, of this cluster, with their data.
fn proved(objects: &[Object]) -> BTreeSet<Name> {
    let sizes: BTreeMap<&str, u64> = objects.iter().map(|object| (object.key.as_str(), object.size)).collect();
    let manifests = objects.iter().filter_map(|object| object.manifest.as_ref()?.as_ref().ok());
    let whole = manifests.filter(|manifest| sizes.get(manifest.name().data_key().as_str()) == Some(&manifest.size));
    whole.filter(|m| m.verified.is_some() && m.cluster == OURS).map(Manifest::name).collect()
}

/// G-S2 and G-S3 in every small place.
fn keeps_the_rule(sorts: &[Sort], hours: usize, keep: Keep, latest: Option<u64>, idle_writer: Option<&str>) -> usize {
    let (objects, seeds) = small_place(sorts, hours);
    let latest = latest.map(|revision| name(OURS, revision)).ok_or_else(|| "no".to_owned());
    let question = |objects| Question {
        listing: Ok(objects),
        cluster: OURS,
        seeds: &seeds,
        keep,
        latest: latest.clone(),
        idle_writer,
    };
    let judged = plan(&question(&objects));
    let case = || format!("{sorts:?} {hours} {keep:?} {latest:?} {idle_writer:?}: {judged:?}");
    let gone: BTreeSet<&String> = judged.delete.iter().flat_map(|deletion| &deletion.keys).collect();
    let left: Vec<Object> = objects.iter().filter(|object| !gone.contains(&object.key)).cloned().collect();
    let (before, after) = (proved(&objects), proved(&left));
    assert!(latest.is_ok() || gone.is_empty(), "deleted after a failure: {}", case());
    assert!(after.len() >= before.len().min(FLOOR), "below the floor: {}", case());
    assert!(before.last() == after.last(), "the newest verified one is gone: {}", case());
    for deletion in &judged.delete {
        let sort = sorts[deletion.name.revision as usize - 1];
        assert!(latest.as_ref().is_ok_and(|latest| deletion.name < *latest), "not older: {}", case());
        match &deletion.why {
            Superseded::By(newer) => {
                assert!(matches!(sort, Sort::Verified | Sort::Unverified), "not ours to delete: {}", case());
                assert!(after.contains(newer) && *newer > deletion.name, "nothing newer stays: {}", case());
                let many = after.iter().filter(|name| **name > deletion.name).count();
                assert!(many >= FLOOR, "{many} newer ones stay: {}", case());
                assert_eq!(deletion.keys, [deletion.name.manifest_key(), deletion.name.data_key()], "{}", case());
            }
            Superseded::Unfinished(_) => {
                assert!(
                    sort == Sort::WithoutManifest && idle_writer == Some("i-1"),
                    "may be being written: {}",
                    case()
                );
            }
        }
    }
    for object in &objects {
        let told = usize::from(gone.contains(&object.key)) + usize::from(judged.kept.contains_key(&object.key));
        let is_data = |(name, kind): (Name, Kind)| {
            kind == Kind::Data && objects.iter().any(|other| other.key == name.manifest_key())
        };
        let belongs = Name::of_key(&object.key).is_some_and(is_data);
        assert!(told == 1 || (told == 0 && belongs), "{} is told of {told} times: {}", object.key, case());
    }
    assert!(plan(&question(&left)).delete.is_empty(), "a second time deletes more: {}", case());
    judged.delete.len()
}

#[test]
fn every_small_place_keeps_the_rule() {
    const MANY: usize = 4;
    let keeps = [NOTHING, Keep { hours: 1, days: 0, weeks: 1 }];
    let mut deletions = 0;
    for place in 0..SORTS.len().pow(MANY as u32) {
        let sort = |at| SORTS[(place / SORTS.len().pow(at as u32)) % SORTS.len()];
        // With three that are newer there is something to delete.
        let sorts: Vec<Sort> = (0..MANY).map(sort).chain([Sort::Verified]).collect();
        // Times matter to what counts by hours alone: any will do for the rest.
        let hours = place % 3_usize.pow(MANY as u32 + 1);
        for keep in keeps {
            for latest in [None, Some(4), Some(5)] {
                deletions += keeps_the_rule(&sorts, hours, keep, latest, Some("i-1").filter(|_| place % 2 == 0));
            }
        }
    }
    assert!(deletions > 1_000, "hardly anything was deleted: {deletions}");
}

#[test]
fn every_order_of_hours_keeps_the_rule() {
    let mut deletions = 0;
    for hours in 0..3_usize.pow(5) {
        for unverified in 0..32 {
            let sort = |at: usize| if unverified >> at & 1 == 1 { Sort::Unverified } else { Sort::Verified };
            let sorts: Vec<Sort> = (0..5).map(sort).collect();
            for keep in [NOTHING, Keep { hours: 1, days: 0, weeks: 0 }, Keep { hours: 2, days: 1, weeks: 1 }] {
                deletions += keeps_the_rule(&sorts, hours, keep, Some(5), None);
            }
        }
    }
    assert!(deletions > 1_000, "hardly anything was deleted: {deletions}");
}
