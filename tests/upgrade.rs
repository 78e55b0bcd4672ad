//! Which etcd may start on which data, join which cluster, found beside whom: what was measured on real releases, cell by cell, and
//! every small case of the rule.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{LIVING, etcd, fresh, id, member_id, policy, says, view};
use muster_core::decide::decide;
use muster_core::release::{DataRelease, Installed, OldRecords};
use muster_core::release::{Minor, Release};
use muster_core::step::Obstacle;
use muster_core::step::{Hold, Step};
use muster_core::types::{Known, MemberId};
use muster_core::upgrade::{Blocker, MemberState, blockers, may_start, snapshot_count};
use muster_core::view::{DataDir, EtcdSeen, FreshSeen, PeerState, Policy, View};

const RELEASES: [&str; 5] = ["3.3.25", "3.4.23", "3.5.33", "3.6.16", "3.7.3"];

fn release(text: &str) -> Release {
    Release::parse(text).expect("a release")
}

fn minor(text: &str) -> Minor {
    Minor::parse(text).expect("a minor release")
}

fn data(version: &str, records: OldRecords) -> DataRelease {
    let version = minor(version);
    let storage_version = (version >= Minor(3, 6)).then_some(version);
    DataRelease { cluster_version: Some(version), storage_version, records, end: 20, ..DataRelease::default() }
}

/// A single member's data (20 keys, no raft snapshot), last run by the first, started by the second. What came down, was refused, or
/// started in silence on newer data must be held; what ran must be let. One start is held though it ran: 3.4's data by 3.6, which etcd
/// itself supports for no cluster ("Upgrade etcd from 3.5 to 3.6": every member must run 3.5).
#[test]
fn what_was_measured_on_real_data_is_what_is_judged() {
    use OldRecords::{Foreign, None, OfMembers};
    let measured = [
        ("3.4", OfMembers, "3.5.33", true),
        ("3.4", Foreign, "3.5.33", true),
        ("3.4", OfMembers, "3.6.16", false),
        ("3.4", Foreign, "3.6.16", false),
        ("3.4", OfMembers, "3.7.3", false),
        ("3.5", OfMembers, "3.5.33", true),
        ("3.5", Foreign, "3.5.33", true),
        ("3.5", OfMembers, "3.6.16", true),
        ("3.5", Foreign, "3.6.16", false),
        ("3.5", None, "3.6.16", true),
        ("3.5", OfMembers, "3.7.3", false),
        ("3.5", None, "3.7.3", false),
        ("3.6", OfMembers, "3.6.16", true),
        ("3.6", OfMembers, "3.7.3", false),
        ("3.6", None, "3.7.3", true),
        ("3.6", None, "3.5.33", false),
        ("3.7", None, "3.6.16", false),
        ("3.7", None, "3.5.33", false),
        ("3.7", None, "3.4.23", false),
        ("3.6", None, "3.4.23", false),
        ("3.6", None, "3.3.25", false),
        ("3.7", None, "3.7.3", true),
    ];
    for (version, records, installed, runs) in measured {
        let judged = may_start(release(installed), &data(version, records), 1);
        assert_eq!(judged.is_ok(), runs, "{installed} on data of {version} with {records:?}: {judged:?}");
    }
}

/// Two promotions that were forgotten are refused by 3.6, one is taken and mended (3.5.1 and 3.5.19, three and five members).
#[test]
fn learners_on_paper_are_counted() {
    let with = |learners: u64| DataRelease {
        learners: (1..=learners).map(MemberId).collect(),
        ..data("3.5", OldRecords::OfMembers)
    };
    for (learners, most, runs) in [(0, 1, true), (1, 1, true), (2, 1, false), (3, 1, false), (3, 3, true)] {
        assert_eq!(may_start(release("3.6.16"), &with(learners), most).is_ok(), runs, "{learners} of {most}");
        assert!(may_start(release("3.5.33"), &with(learners), most).is_ok(), "3.5 doesn't count them");
    }
}

/// A v2 key in the raft snapshot of 3.5.33: 3.6.16 exits with 1, "illegal v2store content", and 3.5.33 starts again on it.
#[test]
fn keys_of_the_v2_api_are_for_3_5_and_earlier() {
    let kept = DataRelease { v2_keys: true, snapshot: 20, ..data("3.5", OldRecords::None) };
    assert_eq!(may_start(release("3.5.33"), &kept, 1), Ok(()));
    let installed = release("3.6.16");
    assert_eq!(may_start(installed, &kept, 1), Err(Obstacle::V2Keys { installed }));
    assert_eq!(may_start(installed, &DataRelease { v2_keys: false, ..kept }, 1), Ok(()));
}

/// Every release, version, form, record and count of learners: never back, never past a minor release, never over what can't be
/// applied; and the same minor release on data that it ran itself is never held for its version.
#[test]
fn every_small_case_keeps_the_rule() {
    let versions = [None, Some("3.3"), Some("3.4"), Some("3.5"), Some("3.6"), Some("3.7"), Some("3.8")];
    let (mut cases, mut held) = (0, 0);
    for installed in RELEASES.map(release) {
        for (cluster_version, storage_version) in versions.iter().flat_map(|c| versions.iter().map(move |s| (c, s))) {
            for records in [OldRecords::None, OldRecords::OfMembers, OldRecords::Foreign] {
                for (learners, v2_keys) in (0..3).flat_map(|learners| [(learners, false), (learners, true)]) {
                    let data = DataRelease {
                        v2_keys,
                        cluster_version: cluster_version.map(minor),
                        storage_version: storage_version.map(minor),
                        learners: (0..learners).map(MemberId).collect::<BTreeSet<_>>(),
                        records,
                        snapshot: 3,
                        end: 20,
                    };
                    let judged = may_start(installed, &data, 1);
                    (cases, held) = (cases + 1, held + usize::from(judged.is_err()));
                    let ours = installed.minor();
                    let Some(newest) = data.cluster_version.max(data.storage_version) else {
                        // Data that never had a version: only what its log holds counts.
                        assert!(judged.is_err() || ours < Minor(3, 7) || records == OldRecords::None, "{data:?}");
                        assert!(judged.is_ok() || ours >= Minor(3, 6), "{data:?}");
                        continue;
                    };
                    if judged.is_ok() {
                        assert!(ours >= newest && ours <= newest.next(), "{installed} on {data:?}");
                        assert!(ours < Minor(3, 6) || (records != OldRecords::Foreign && learners < 2), "{data:?}");
                        assert!(ours < Minor(3, 7) || records == OldRecords::None, "{data:?}");
                        assert!(ours < Minor(3, 6) || !v2_keys, "{data:?}");
                    } else if ours == newest && ours < Minor(3, 6) {
                        panic!("{installed} is held on its own data: {judged:?}");
                    }
                }
            }
        }
    }
    assert_eq!(cases, 5 * 49 * 18);
    assert!(held > cases / 2 && held < cases, "{held} of {cases}");
}

/// etcd writes a raft snapshot when more entries than the count have been applied since the last one.
#[test]
fn a_snapshot_is_due_as_soon_as_the_log_is_applied() {
    for installed in RELEASES.map(release) {
        for records in [OldRecords::None, OldRecords::OfMembers, OldRecords::Foreign] {
            for (snapshot, end) in [(0, 1), (0, 20), (19, 20), (20, 20), (100_000, 100_020), (30, 20)] {
                let data = DataRelease { snapshot, end, records, ..data("3.5", records) };
                let count = snapshot_count(installed, &data);
                let unfit = match installed.minor() {
                    Minor(3, 5) => records == OldRecords::Foreign,
                    Minor(3, 6 | 7) => records != OldRecords::None,
                    _ => false,
                };
                assert_eq!(count.is_some(), unfit && end >= snapshot, "{installed} {data:?}");
                if let Some(count) = count {
                    let applied = end - snapshot;
                    assert!(
                        count >= 1 && (applied > count || applied < 2),
                        "{count} of {applied}: no snapshot at once"
                    );
                    assert!(applied <= 2 || applied - count == 1, "{count} of {applied}: one snapshot after another");
                }
            }
        }
    }
}

fn with_etcd(installed: &str, view: View) -> View {
    View { installed: Installed::Known(release(installed)), ..view }
}

/// Node `a` is fresh, and `b` and `c` are a cluster of that version.
fn joining(installed: &str, cluster: Option<&str>) -> View {
    let mut view = with_etcd(installed, view('a', "abc"));
    for name in ['b', 'c'] {
        let PeerState::Etcd(seen) = etcd("bc", true) else { unreachable!() };
        let seen = EtcdSeen { version: cluster.map(minor), release: None, ..seen };
        says(&mut view, name, PeerState::Etcd(seen), Duration::ZERO);
    }
    view
}

/// What was measured of learners: an entry that can't be used is made by no one.
#[test]
fn a_joiner_is_of_the_clusters_release_or_the_next() {
    for (installed, cluster, joins) in [
        ("3.5.33", "3.5", true),
        ("3.6.16", "3.5", true),
        ("3.7.3", "3.5", false),
        ("3.4.23", "3.5", false),
        ("3.6.16", "3.6", true),
        ("3.5.33", "3.6", false),
        ("3.7.3", "3.6", false),
        ("3.7.3", "3.7", true),
        ("3.6.16", "3.7", false),
        ("3.5.33", "3.4", true),
        ("3.6.16", "3.4", false),
    ] {
        let step = decide(&policy(Some(3)), &joining(installed, Some(cluster)));
        assert_eq!(step == Step::AddSelf, joins, "{installed} into {cluster}: {step}");
        assert!(joins || matches!(step, Step::Hold(Hold::Release(_))), "{installed} into {cluster}: {step}");
    }
    let vouched = Policy { join_newer: true, ..policy(Some(3)) };
    assert_eq!(decide(&vouched, &joining("3.7.3", Some("3.6"))), Step::AddSelf);
    assert!(matches!(
        decide(&vouched, &joining("3.7.3", Some("3.5"))),
        Step::Hold(Hold::Release(Obstacle::Skips { .. }))
    ));
    let unknown = decide(&policy(Some(3)), &joining("3.5.33", None));
    assert!(matches!(unknown, Step::Hold(Hold::Release(Obstacle::ClusterUnknown { .. }))), "{unknown}");
}

/// 3.3.25 does not survive a learner in its cluster, whichever member adds it: one that is newer is no protection. A member that is already listed starts as it always did.
#[test]
fn nobody_adds_a_learner_beside_a_member_of_3_3() {
    let beside = |installed: &str, cluster: Option<&str>, theirs: [&str; 2]| {
        let mut view = joining(installed, cluster);
        for (name, theirs) in ['b', 'c'].into_iter().zip(theirs) {
            let PeerState::Etcd(seen) = &mut view.peers.get_mut(&id(name)).expect("a peer").sighting else {
                unreachable!()
            };
            seen.release = Some(release(theirs));
        }
        view
    };
    for (installed, cluster, theirs, joins) in [
        ("3.4.23", Some("3.3"), ["3.4.23", "3.4.23"], false),
        ("3.3.25", Some("3.3"), ["3.3.25", "3.3.25"], false),
        ("3.4.23", None, ["3.4.23", "3.3.25"], false),
        ("3.4.23", Some("3.4"), ["3.4.23", "3.4.23"], true),
        ("3.5.33", Some("3.4"), ["3.4.23", "3.5.33"], true),
        ("3.4.23", None, ["3.4.23", "3.4.23"], true),
    ] {
        let step = decide(&policy(Some(3)), &beside(installed, cluster, theirs));
        assert_eq!(step == Step::AddSelf, joins, "{installed} into {cluster:?} with {theirs:?}: {step}");
        let held = Step::Hold(Hold::Release(Obstacle::NoLearners { oldest: Minor(3, 3) }));
        assert!(joins || step == held, "{step}");
    }
}

/// 3.3's gateway is never asked to change members, so whoever can be is asked.
#[test]
fn a_change_of_members_is_asked_of_a_member_that_takes_it() {
    for (theirs, asked) in
        [(["3.3.25", "3.4.23"], "3.4.23"), (["3.4.23", "3.3.25"], "3.4.23"), (["3.3.25", "3.3.25"], "3.3.25")]
    {
        let mut view = joining("3.4.23", Some("3.3"));
        for (name, theirs) in ['b', 'c'].into_iter().zip(theirs) {
            let PeerState::Etcd(seen) = &mut view.peers.get_mut(&id(name)).expect("a peer").sighting else {
                unreachable!()
            };
            seen.release = Some(release(theirs));
        }
        let living = view.living_clusters();
        assert_eq!(living.values().map(|etcd| etcd.release).collect::<Vec<_>>(), [Some(release(asked))], "{theirs:?}");
    }
}

/// etcd refuses a newcomer of the older release and of the newer one alike, and leaves its entry, which blocks the end of the downgrade.
#[test]
fn nobody_joins_while_the_cluster_is_downgraded() {
    for (installed, cluster) in [("3.7.3", "3.7"), ("3.6.16", "3.7"), ("3.7.3", "3.6"), ("3.6.16", "3.6")] {
        let mut view = joining(installed, Some(cluster));
        view.downgrade = Known::Known(Some(Minor(3, 6)));
        let step = decide(&policy(Some(3)), &view);
        let obstacle = Obstacle::Downgrading { to: Minor(3, 6) };
        assert_eq!(step, Step::Hold(Hold::Release(obstacle)), "{installed} into {cluster}");
        // Nor does anybody make room.
        view.liveness.insert(member_id('a'), common::fate('a', Known::Known(false), Duration::from_secs(60)));
        for name in ['b', 'c'] {
            let PeerState::Etcd(seen) = &mut view.peers.get_mut(&id(name)).expect("a peer").sighting else {
                unreachable!()
            };
            seen.members.push(common::voter('a'));
        }
        let step = decide(&policy(Some(3)), &view);
        assert!(matches!(step, Step::Hold(Hold::Release(Obstacle::Downgrading { .. }))), "{installed}: {step}");
    }
    let mut view = joining("3.6.16", Some("3.6"));
    view.downgrade = Known::Unknown("timed out".to_owned());
    let step = decide(&policy(Some(3)), &view);
    assert!(matches!(step, Step::Hold(Hold::Release(Obstacle::DowngradeUnknown(_)))), "{step}");
}

/// A cluster that has not heard from every member has no version (etcd says 3.0). The late one of its founders must start all the same,
/// or it never has one.
#[test]
fn the_late_founder_starts_under_a_cluster_without_a_version() {
    for (installed, theirs, starts) in [
        ("3.6.16", "3.6.16", true),
        ("3.6.16", "3.5.33", true),
        ("3.5.33", "3.6.16", true),
        ("3.7.3", "3.5.33", false),
        ("3.4.23", "3.6.16", false),
    ] {
        let mut view = joining(installed, None);
        for name in ['b', 'c'] {
            let PeerState::Etcd(seen) = &mut view.peers.get_mut(&id(name)).expect("a peer").sighting else {
                unreachable!()
            };
            seen.release = Some(release(theirs));
        }
        let step = decide(&policy(Some(3)), &view);
        assert_eq!(step == Step::AddSelf, starts, "{installed} beside {theirs}: {step}");
        assert!(starts || matches!(step, Step::Hold(Hold::Release(Obstacle::Beside { .. }))), "{step}");
    }
    assert_eq!(Minor::of_cluster("3.0.0"), None);
    assert_eq!(Minor::of_cluster("3.6.0"), Some(Minor(3, 6)));
}

/// Who can't join makes no room for itself.
#[test]
fn nobody_is_removed_for_a_node_that_cannot_join() {
    for (installed, removes) in [("3.5.33", true), ("3.7.3", false)] {
        let mut view = joining(installed, Some("3.5"));
        for name in ['b', 'c'] {
            let PeerState::Etcd(seen) = &mut view.peers.get_mut(&id(name)).expect("a peer").sighting else {
                unreachable!()
            };
            // Our own place from before the disk was lost.
            seen.members.push(common::voter('a'));
        }
        view.liveness.insert(member_id('a'), common::fate('a', Known::Known(false), Duration::from_secs(60)));
        let step = decide(&policy(Some(3)), &view);
        assert_eq!(matches!(step, Step::RemoveMember { .. }), removes, "{installed}: {step}");
    }
}

/// A member with data: what the data says, and where its cluster lives what that says.
#[test]
fn a_member_starts_by_its_data_and_its_cluster() {
    let member = |installed: &str, version: &str, cluster: Option<&str>| {
        let mut view = joining(installed, cluster);
        for name in ['b', 'c'] {
            let PeerState::Etcd(seen) = &mut view.peers.get_mut(&id(name)).expect("a peer").sighting else {
                unreachable!()
            };
            seen.members.push(common::voter('a'));
        }
        let ids = Known::Known((LIVING, member_id('a')));
        let ledger = muster_core::paxos::Ledger { instance: Some(id('a')), ..view.ledger.clone() };
        View {
            data: DataDir::Whole { ids },
            data_release: Known::Known(data(version, OldRecords::None)),
            ledger,
            ..view
        }
    };
    for (installed, version, cluster, starts) in [
        ("3.5.33", "3.5", Some("3.5"), true),
        ("3.6.16", "3.5", Some("3.5"), true),
        ("3.7.3", "3.5", Some("3.5"), false),
        ("3.5.33", "3.6", Some("3.6"), false),
        // The cluster has stepped while this disk was away.
        ("3.5.33", "3.5", Some("3.6"), false),
        ("3.6.16", "3.5", Some("3.6"), true),
        ("3.6.16", "3.6", None, true),
    ] {
        let step = decide(&policy(Some(3)), &member(installed, version, cluster));
        assert_eq!(step == Step::Resume, starts, "{installed} on {version} beside {cluster:?}: {step}");
        assert!(starts || matches!(step, Step::Hold(Hold::Release(_))), "{step}");
    }
    // What can't be read is etcd's to judge.
    let unread = View { data_release: Known::Unknown("torn".to_owned()), ..member("3.7.3", "3.5", Some("3.5")) };
    assert_eq!(decide(&policy(Some(3)), &unread), Step::Resume);
}

/// 3.5 beside 3.6 forms a cluster, 3.4 beside 3.6 and 3.5 beside 3.7 never do. Who doesn't say is not judged.
#[test]
fn founders_are_of_one_release_or_two_that_follow_each_other() {
    for (ours, theirs, founds) in [
        ("3.5.33", Some("3.5.1"), true),
        ("3.5.33", Some("3.6.16"), true),
        ("3.6.16", Some("3.5.33"), true),
        ("3.6.16", Some("3.4.23"), false),
        ("3.4.23", Some("3.6.16"), false),
        ("3.5.33", Some("3.7.3"), false),
        ("3.7.3", None, true),
    ] {
        let mut view = with_etcd(ours, view('a', "abc"));
        let charter = policy(Some(3)).charter(view.roster.known().expect("a roster"));
        for name in ['b', 'c'] {
            let PeerState::Fresh(seen) = fresh(name, &charter) else { unreachable!() };
            let release = if name == 'c' { theirs.map(release) } else { Some(release(ours)) };
            says(&mut view, name, PeerState::Fresh(FreshSeen { release, ..seen }), Duration::ZERO);
        }
        let step = decide(&policy(Some(3)), &view);
        assert_eq!(matches!(step, Step::Propose(_)), founds, "{ours} beside {theirs:?}: {step}");
        assert!(founds || matches!(step, Step::Hold(Hold::Release(Obstacle::Beside { .. }))), "{step}");
    }
}

/// An etcd that can't say what it is is never started; a node that has nobody ask is not judged.
#[test]
fn an_etcd_of_no_release_is_held() {
    let mut view = joining("3.5.33", Some("3.5"));
    view.installed = Installed::Unknown("it printed nothing".to_owned());
    assert!(matches!(decide(&policy(Some(3)), &view), Step::Hold(Hold::Release(Obstacle::Unreadable(_)))));
    view.installed = Installed::NotAsked;
    assert_eq!(decide(&policy(Some(3)), &view), Step::AddSelf);
}

/// What `upgrade --check` says of a cluster: one reason for each member that stands in the way, and none where none does.
#[test]
fn every_member_that_blocks_an_upgrade_is_named() {
    let member = |text: &str| MemberState {
        id: MemberId(7),
        name: "m".to_owned(),
        is_learner: false,
        has_started: true,
        is_healthy: true,
        release: Some(release(text)),
    };
    let check = |target: &str, version: Option<&str>, one: MemberState| {
        let data = Known::Known(data("3.5", OldRecords::OfMembers));
        blockers(release(target), &data, 1, version.map(minor), &[member("3.5.33"), one])
    };
    let id = MemberId(7);
    assert_eq!(check("3.6.16", Some("3.5"), member("3.5.33")), []);
    // One that has the release already is no reason, and the version steps after the last.
    assert_eq!(check("3.6.16", Some("3.5"), member("3.6.16")), []);
    let never = MemberState { has_started: false, release: None, ..member("3.5.33") };
    assert_eq!(check("3.6.16", Some("3.5"), never), [Blocker::NeverStarted(id)]);
    assert_eq!(
        check("3.6.16", Some("3.5"), MemberState { is_learner: true, ..member("3.5.33") }),
        [Blocker::Learner(id)]
    );
    assert_eq!(
        check("3.6.16", Some("3.5"), MemberState { is_healthy: false, ..member("3.5.33") }),
        [Blocker::NotHealthy(id)]
    );
    assert_eq!(
        check("3.6.16", Some("3.5"), MemberState { release: None, ..member("3.5.33") }),
        [Blocker::ReleaseUnknown(id)]
    );
    assert_eq!(
        check("3.6.16", Some("3.5"), member("3.5.20")),
        [Blocker::OldPatch { member: id, release: release("3.5.20") }]
    );
    let behind = Blocker::Behind { member: id, release: release("3.4.23"), needs: Minor(3, 5) };
    assert_eq!(check("3.6.16", Some("3.4"), member("3.4.23")), [behind]);
    let not_stepped = |version| Blocker::NotStepped { version, members: Minor(3, 5) };
    assert_eq!(check("3.6.16", Some("3.4"), member("3.5.33")), [not_stepped(Some(Minor(3, 4)))]);
    assert_eq!(check("3.6.16", None, member("3.5.33")), [not_stepped(None)]);
    // What the data says, and that it says nothing, both count.
    let unread = Known::Unknown("torn".to_owned());
    assert_eq!(
        blockers(release("3.6.16"), &unread, 1, Some(Minor(3, 5)), &[]),
        [Blocker::DataUnknown("torn".to_owned())]
    );
    assert!(matches!(check("3.7.3", Some("3.5"), member("3.5.33"))[..], [Blocker::Data(Obstacle::Skips { .. }), ..]));
}
