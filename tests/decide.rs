//! Every rule of the decision, on views small enough to read.

mod common;

use std::time::Duration;

use common::*;
use muster_core::claim::{Establish, establish};
use muster_core::decide::{Attend, Running, attend};
use muster_core::paxos::RanAs;
use muster_core::paxos::{
    Accepted, AcceptorContext, Answer, Ballot, Call, FirstStart, Joined, Ledger, LeftBehind, answer,
};
use muster_core::removal::{UNHEALTHY_AFTER, reconcile};
use muster_core::seed::{MaySeed, SeedSeen, Snapshots};
use muster_core::set_aside::{Refusal, may_set_aside};
use muster_core::step::KeepReason;
use muster_core::step::{AbsenceReason, AloneReason, Doubt, Halt, Hold, Quarantine, RemovalReason, Step};
use muster_core::types::Seed;
use muster_core::types::{ClusterId, InitialList, Instance, InstanceState, Known, Member, MemberId, Roster};
use muster_core::view::Claim;
use muster_core::view::ClaimState;
use muster_core::view::Ending;
use muster_core::view::EtcdSeen;
use muster_core::view::{Clean, DataDir, Liveness, LogEnd, LogSeen, PeerState, Policy, Silence, Twin, View};

const LONG: Duration = Duration::from_secs(61);
const NO_TIME: Duration = Duration::ZERO;

/// Who isn't said to be silent answers.
fn decide(policy: &Policy, view: &View) -> Step {
    let mut view = view.clone();
    others_answer(&mut view);
    muster_core::decide::decide(policy, &view)
}

fn absence(step: &Step) -> &AbsenceReason {
    match step {
        Step::Hold(Hold::Absent { why, .. }) => why,
        other => panic!("not held for absence: {other}"),
    }
}

fn list(names: &str) -> InitialList {
    InitialList::empty(names.chars().map(listed).collect(), "t-1".to_owned())
}

// ---- founding

#[test]
fn all_fresh_found_at_once_and_the_oldest_proposes() {
    let policy = policy(Some(3));
    let mut oldest = view('a', "abc");
    all_fresh(&policy, &mut oldest, "bc");
    let Step::Propose(proposal) = decide(&policy, &oldest) else { panic!("no proposal") };
    assert_eq!(proposal.list.members, "abc".chars().map(listed).collect::<Vec<_>>());
    let mut younger = view('b', "abc");
    all_fresh(&policy, &mut younger, "ac");
    assert_eq!(decide(&policy, &younger), Step::Hold(Hold::AwaitProposer { instance: id('a') }));
}

#[test]
fn the_ballot_is_above_any_seen() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    all_fresh(&policy, &mut v, "bc");
    let PeerState::Fresh(mut seen) = v.peers[&id('b')].sighting.clone() else { panic!() };
    seen.promised = Some(Ballot { round: 7, proposer: id('c'), nonce: 1 });
    says(&mut v, 'b', PeerState::Fresh(seen), NO_TIME);
    let Step::Propose(proposal) = decide(&policy, &v) else { panic!("no proposal") };
    assert_eq!(proposal.ballot.round, 8);
    assert!(proposal.list.token.starts_with("t-"), "{}", proposal.list.token);
}

#[test]
fn silence_and_refusal_are_no_consent() {
    let policy = policy(Some(3));
    for absent in [PeerState::Refused, PeerState::Silent("timeout".into())] {
        let mut v = view('a', "abc");
        all_fresh(&policy, &mut v, "b");
        says(&mut v, 'c', absent.clone(), NO_TIME);
        assert!(matches!(absence(&decide(&policy, &v)), AbsenceReason::Grace { .. }), "{absent}");
        says(&mut v, 'c', absent, LONG);
        assert!(matches!(decide(&policy, &v), Step::Propose(_)), "the grace time is over and two of three answer");
    }
}

#[test]
fn absence_is_not_forgiven_beside_a_terminated_or_an_old_instance() {
    let mut policy = policy(Some(3));
    let mut v = view('a', "abc");
    all_fresh(&policy, &mut v, "b");
    says(&mut v, 'c', PeerState::Refused, LONG);
    let Known::Known(young) = v.roster.clone() else { panic!() };

    let mut with_terminated = young.all().to_vec();
    with_terminated.push(instance('d', InstanceState::Terminated));
    v.roster = Known::Known(Roster::new(with_terminated, NOW));
    assert_eq!(*absence(&decide(&policy, &v)), AbsenceReason::Terminated(id('d')));

    v.roster = Known::Known(Roster::new(young.all().to_vec(), NOW + 3600));
    assert_eq!(*absence(&decide(&policy, &v)), AbsenceReason::Aged(id('a')));
    policy.found_absent = true;
    assert!(matches!(decide(&policy, &v), Step::Propose(_)), "the operator vouches");
}

#[test]
fn fewer_than_a_quorum_never_found() {
    let policy = policy(Some(5));
    let mut v = view('a', "abcde");
    all_fresh(&policy, &mut v, "b");
    for name in ['c', 'd', 'e'] {
        says(&mut v, name, PeerState::Refused, LONG);
    }
    assert_eq!(
        *absence(&decide(&policy, &v)),
        AbsenceReason::TooFewAnswer { answering: 2, needed: 3, first: Vec::new() }
    );
}

#[test]
fn a_short_list_needs_all_of_it_and_a_quorum_of_n() {
    let policy = policy(Some(3));
    let mut two = view('a', "ab");
    all_fresh(&policy, &mut two, "b");
    assert!(matches!(absence(&decide(&policy, &two)), AbsenceReason::Grace { .. }), "the third may come");
    two.roster_unchanged_for = LONG;
    assert!(matches!(decide(&policy, &two), Step::Propose(_)));
    let five = common::policy(Some(5));
    let mut three = view('a', "abc");
    all_fresh(&five, &mut three, "bc");
    three.roster_unchanged_for = LONG;
    assert!(matches!(decide(&five, &three), Step::Propose(_)), "three are a quorum of five");
    all_fresh(&five, &mut two, "b");
    assert!(matches!(absence(&decide(&five, &two)), AbsenceReason::TooFewAnswer { .. }));
}

#[test]
fn another_roster_or_any_sign_of_a_cluster_holds() {
    let policy = policy(Some(3));
    let other = policy_charter("abd");
    let instance = id('c');
    for (sighting, hold) in [
        (fresh('c', &other), Hold::DifferentRoster { instance: instance.clone(), theirs: Some(other.clone()) }),
        (PeerState::Mismatch("TLS".into()), Hold::PeerMismatch { instance: instance.clone(), cause: "TLS".into() }),
        (seen_data(None, None), Hold::PeerHasData { instance: instance.clone() }),
        (etcd("abc", false), Hold::ClusterWithoutQuorum { instance: instance.clone(), cluster: LIVING }),
    ] {
        let mut v = view('a', "abc");
        all_fresh(&policy, &mut v, "b");
        says(&mut v, 'c', sighting.clone(), LONG);
        assert_eq!(decide(&policy, &v), Step::Hold(hold), "{sighting}");
    }
}

/// A ballot that wraps around would be one that was used before.
#[test]
fn a_promise_for_the_greatest_round_holds() {
    let policy = policy(Some(2));
    let mut v = view('a', "ab");
    all_fresh(&policy, &mut v, "b");
    let Some(PeerState::Fresh(fresh)) = v.peers.get_mut(&id('b')).map(|peer| &mut peer.sighting) else { panic!() };
    fresh.promised = Some(Ballot { round: u64::MAX, proposer: id('x'), nonce: 1 });
    let step = decide(&policy, &v);
    assert!(matches!(&step, Step::Hold(Hold::PeerMismatch { instance, .. }) if *instance == id('b')), "{step}");
}

fn policy_charter(names: &str) -> muster_core::paxos::Charter {
    policy(Some(3)).charter(&roster(names))
}

#[test]
fn without_ec2_or_without_us_in_it_nothing_is_founded() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    all_fresh(&policy, &mut v, "bc");
    v.roster = Known::Unknown("throttled".into());
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::RosterUnknown { .. })));
    let mut outside = view('d', "abc");
    outside.own_tags = Known::Known(vec![("etcd".to_owned(), "2".to_owned())]);
    let Step::Hold(hold) = decide(&policy, &outside) else { panic!() };
    assert!(hold.to_string().contains("its tags are etcd=2"), "{hold}");
}

#[test]
fn size_unset_wants_everybody_but_in_a_small_steady_fleet() {
    let policy = policy(None);
    let mut v = view('a', "abcd");
    all_fresh(&policy, &mut v, "bc");
    says(&mut v, 'd', PeerState::Refused, LONG);
    v.roster_unchanged_for = LONG;
    assert_eq!(*absence(&decide(&policy, &v)), AbsenceReason::SizeUnset);
    let mut three = view('a', "abc");
    all_fresh(&policy, &mut three, "b");
    says(&mut three, 'c', PeerState::Refused, LONG);
    assert_eq!(*absence(&decide(&policy, &three)), AbsenceReason::SizeUnset, "the roster has just changed");
    three.roster_unchanged_for = LONG;
    assert!(matches!(decide(&policy, &three), Step::Propose(_)));
}

#[test]
fn one_instance_is_not_enough_unless_the_size_is_one() {
    let alone = view('a', "a");
    assert_eq!(decide(&policy(None), &alone), Step::Hold(Hold::TooFewInstances { have: 1, need: 2 }));
    assert!(matches!(decide(&policy(Some(1)), &alone), Step::Propose(_)));
}

#[test]
fn one_of_two() {
    let mut policy = policy(Some(2));
    let mut older = view('a', "ab");
    says(&mut older, 'b', PeerState::Refused, NO_TIME);
    assert!(matches!(absence(&decide(&policy, &older)), AbsenceReason::Grace { .. }));
    says(&mut older, 'b', PeerState::Refused, LONG);
    assert!(matches!(decide(&policy, &older), Step::FoundAlone { why: AloneReason::OtherRefused(_), .. }));
    // Refused only now and then proves nothing: packets were lost in between.
    older.peers.get_mut(&id('b')).unwrap().refused_throughout = false;
    assert_eq!(*absence(&decide(&policy, &older)), AbsenceReason::OneOfTwo);

    let mut younger = view('b', "ab");
    says(&mut younger, 'a', PeerState::Refused, LONG);
    assert_eq!(*absence(&decide(&policy, &younger)), AbsenceReason::OneOfTwo, "both could claim it of each other");
    policy.found_alone = true;
    assert!(matches!(decide(&policy, &younger), Step::FoundAlone { why: AloneReason::OperatorSaysSo, .. }));
}

#[test]
fn one_of_two_with_the_other_silent_needs_ec2s_word() {
    let policy = policy(Some(2));
    let mut v = view('a', "ab");
    says(&mut v, 'b', PeerState::Silent("timeout".into()), LONG);
    for (impaired, founds) in
        [(Known::Unknown("denied".into()), false), (Known::Known(false), false), (Known::Known(true), true)]
    {
        v.peers.get_mut(&id('b')).unwrap().impaired = impaired.clone();
        assert_eq!(matches!(decide(&policy, &v), Step::FoundAlone { .. }), founds, "{impaired:?}");
    }
}

#[test]
fn one_of_two_may_found_when_the_other_is_terminated_but_not_over_a_shared_list() {
    let policy = policy(Some(2));
    let mut v = view('b', "b");
    v.roster = Known::Known(Roster::new(
        vec![instance('a', InstanceState::Terminated), instance('b', InstanceState::Running)],
        NOW,
    ));
    assert!(matches!(decide(&policy, &v), Step::FoundAlone { why: AloneReason::OtherTerminated(_), .. }));
    let mut older = view('a', "ab");
    says(&mut older, 'b', PeerState::Refused, LONG);
    older.ledger.accepted =
        Some(Accepted { ballot: Ballot { round: 1, proposer: id('b'), nonce: 2 }, list: list("ab") });
    assert_eq!(*absence(&decide(&policy, &older)), AbsenceReason::OneOfTwo, "that list may have been chosen");
}

// ---- snapshots of an earlier cluster, and seeds

/// With a place for snapshots.
fn keeping(policy: Policy) -> Policy {
    Policy { snapshots: vec!["file:/b".to_owned()], ..policy }
}

fn some_are_seen() -> Snapshots {
    Snapshots::Seen { place: "file:/b".to_owned(), count: 3, newest: "n".to_owned() }
}

fn no_answer() -> Snapshots {
    Snapshots::Unknown { place: "file:/b".to_owned(), cause: "503".to_owned() }
}

fn ordered(seed: Seed) -> SeedSeen {
    SeedSeen { by_order: false, acceptable: [seed.clone()].into(), wanted: Some(Known::Known(seed)) }
}

/// The ways to found: as the oldest of three, as the only one, alone of two, as the rest of two, alone of two by a claim, and of three by a claim.
fn about_to_found() -> Vec<(&'static str, Policy, View)> {
    let claim = |policy: Policy| Policy { claim: Some("s3://b/claim.json".to_owned()), ..policy };
    let mut three = view('a', "abc");
    all_fresh(&policy(Some(3)), &mut three, "bc");
    let mut claimed = view('a', "abc");
    all_fresh(&claim(policy(Some(3))), &mut claimed, "bc");
    claimed.claim = ClaimState::Absent;
    let mut two = view('a', "ab");
    says(&mut two, 'b', PeerState::Refused, LONG);
    let mut left = view('b', "b");
    let both = vec![instance('a', InstanceState::Terminated), instance('b', InstanceState::Running)];
    left.roster = Known::Known(Roster::new(both, NOW));
    let two_by_claim = View { claim: ClaimState::Absent, ..two.clone() };
    vec![
        ("three", policy(Some(3)), three),
        ("one", policy(Some(1)), view('a', "a")),
        ("alone of two", policy(Some(2)), two),
        ("the rest of two", policy(Some(2)), left),
        ("three by a claim", claim(policy(Some(3))), claimed),
        ("alone of two by a claim", claim(policy(Some(2))), two_by_claim),
    ]
}

/// The list with which it would found.
fn founds(step: &Step) -> Option<&InitialList> {
    match step {
        Step::Propose(proposal) => Some(&proposal.list),
        Step::FoundAlone { accepted, .. } => Some(&accepted.list),
        Step::Claim(claiming) => Some(&claiming.list),
        _ => None,
    }
}

#[test]
fn no_empty_cluster_is_founded_beside_snapshots_or_where_there_may_be_some() {
    for (how, policy, v) in about_to_found() {
        let begins_empty = |step: &Step| founds(step).is_some_and(|list| list.seed.is_none());
        assert!(begins_empty(&decide(&policy, &v)), "{how}: without a place");
        let policy = keeping(policy);
        let sees = |snapshots: Snapshots| decide(&policy, &View { snapshots, ..v.clone() });
        let Step::Hold(Hold::SnapshotsSeen { place, count, newest }) = sees(some_are_seen()) else {
            panic!("{how}: {}", sees(some_are_seen()));
        };
        assert_eq!((place.as_str(), count, newest.as_str()), ("file:/b", 3, "n"));
        assert!(matches!(sees(no_answer()), Step::Hold(Hold::SnapshotsUnknown { .. })), "{how}");
        assert!(matches!(sees(Snapshots::NotAsked), Step::Hold(Hold::SnapshotsUnknown { .. })), "{how}: not asked");
        assert!(begins_empty(&sees(Snapshots::Absent)), "{how}: none are there");
    }
}

#[test]
fn what_is_ordered_is_what_is_founded_with() {
    for (how, policy, v) in about_to_found() {
        // MUSTER_SEED names a place that need not be one for snapshots to come.
        let named = Policy { seed: Some("file:/b".to_owned()), ..policy.clone() };
        for policy in [keeping(policy.clone()), keeping(named.clone()), named] {
            for snapshots in [some_are_seen(), no_answer(), Snapshots::Absent, Snapshots::NotAsked] {
                let ordered = View { seed: ordered(seed(9)), snapshots: snapshots.clone(), ..v.clone() };
                let step = decide(&policy, &ordered);
                let list = founds(&step).unwrap_or_else(|| panic!("{how}, {snapshots:?}: {step}"));
                assert_eq!(list.seed.as_deref(), Some(&seed(9)), "{how}, {snapshots:?}");
                assert_eq!(ordered.may_seed(&policy).misfit(list.seed.as_deref()), None, "it accepts that itself");
            }
        }
    }
}

#[test]
fn a_seed_that_is_not_known_holds_even_where_no_snapshots_are() {
    for (how, policy, v) in about_to_found() {
        let unknown = SeedSeen { wanted: Some(Known::Unknown("503".to_owned())), ..SeedSeen::default() };
        let named = Policy { seed: Some("file:/b".to_owned()), ..policy.clone() };
        for (policy, seed) in
            [(keeping(policy.clone()), unknown.clone()), (named.clone(), unknown), (named, SeedSeen::default())]
        {
            for snapshots in [Snapshots::Absent, Snapshots::NotAsked, some_are_seen(), no_answer()] {
                let v = View { seed: seed.clone(), snapshots: snapshots.clone(), ..v.clone() };
                let step = decide(&policy, &v);
                assert!(matches!(step, Step::Hold(Hold::SeedUnknown { .. })), "{how}, {snapshots:?}: {step}");
                assert_eq!(v.may_seed(&policy), MaySeed::OneOf([].into()), "{how}: nothing is accepted either");
            }
        }
    }
}

/// What a node accepts by what it sees itself.
#[test]
fn what_may_be_accepted_follows_from_what_is_seen() {
    let v = view('a', "abc");
    let bare = policy(Some(3));
    let one = |seed: Seed| MaySeed::OneOf([seed].into());
    for (policy, snapshots, seed, may) in [
        (bare.clone(), Snapshots::NotAsked, SeedSeen::default(), MaySeed::Nothing),
        (keeping(bare.clone()), Snapshots::Absent, SeedSeen::default(), MaySeed::Nothing),
        (keeping(bare.clone()), Snapshots::NotAsked, SeedSeen::default(), MaySeed::OneOf([].into())),
        (keeping(bare.clone()), no_answer(), SeedSeen::default(), MaySeed::OneOf([].into())),
        (keeping(bare.clone()), some_are_seen(), SeedSeen::default(), MaySeed::OneOf([].into())),
        (keeping(bare.clone()), some_are_seen(), ordered(seed(9)), one(seed(9))),
        (keeping(bare.clone()), Snapshots::Absent, ordered(seed(9)), one(seed(9))),
        (bare, Snapshots::NotAsked, ordered(seed(9)), one(seed(9))),
    ] {
        let v = View { snapshots: snapshots.clone(), seed, ..v.clone() };
        assert_eq!(v.may_seed(&policy), may, "{snapshots:?}");
        assert_eq!(v.acceptor_context(&policy).may_seed, may, "{snapshots:?}");
    }
}

/// It may have been chosen, and another node can no longer change that either.
#[test]
fn an_accepted_list_with_a_seed_is_carried_on_when_its_order_is_gone() {
    let policy = keeping(policy(Some(3)));
    let mut v = view('a', "abc");
    all_fresh(&policy, &mut v, "bc");
    let accepted = InitialList { seed: Some(Box::new(seed(9))), ..list("abc") };
    let ballot = Ballot { round: 1, proposer: id('b'), nonce: 2 };
    v.ledger.accepted = Some(Accepted { ballot: ballot.clone(), list: accepted.clone() });
    for snapshots in [some_are_seen(), no_answer(), Snapshots::Absent] {
        v.snapshots = snapshots;
        let step = decide(&policy, &v);
        assert_eq!(founds(&step).and_then(|list| list.seed.as_deref()), Some(&seed(9)), "{step}");
        let again = Ballot { round: 2, ..ballot.clone() };
        let charter = v.acceptor_context(&policy).charter.unwrap();
        let call = Call::Accept { charter, ballot: again, list: accepted.clone() };
        assert_eq!(answer(&v.ledger, &v.acceptor_context(&policy), &call).0, Answer::Accepted);
    }
    v.snapshots = some_are_seen();
    v.seed = ordered(seed(10));
    let step = decide(&policy, &v);
    assert_eq!(founds(&step).and_then(|list| list.seed.as_deref()), Some(&seed(10)), "a later order: {step}");
    v.seed = SeedSeen::default();
    v.ledger.renounced = [accepted.token].into();
    for name in ['b', 'c'] {
        let PeerState::Fresh(mut fresh) = v.peers[&id(name)].sighting.clone() else { panic!() };
        fresh.renounced = v.ledger.renounced.clone();
        says(&mut v, name, PeerState::Fresh(fresh), NO_TIME);
    }
    let step = decide(&policy, &v);
    assert!(matches!(step, Step::Hold(Hold::SnapshotsSeen { .. })), "a void one is not: {step}");
}

/// G-S5: anything that may be the cluster or its data.
#[test]
fn nothing_is_restored_beside_a_cluster_or_data() {
    for policy in [policy(Some(3)), Policy { claim: Some("s3://b/claim.json".to_owned()), ..policy(Some(3)) }] {
        let policy = keeping(policy);
        let mut v = view('a', "abc");
        all_fresh(&policy, &mut v, "bc");
        (v.snapshots, v.seed, v.claim) = (some_are_seen(), ordered(seed(9)), ClaimState::Absent);
        assert!(founds(&decide(&policy, &v)).is_some());
        for sign in [
            etcd("abc", false),
            seen_data(Some(LIVING), None),
            seen_data(None, None),
            PeerState::Mismatch("an older program, or TLS".to_owned()),
        ] {
            let mut v = v.clone();
            says(&mut v, 'c', sign.clone(), LONG);
            assert!(matches!(decide(&policy, &v), Step::Hold(_)), "{sign}");
        }
        // Our own data is not restored over: it is run.
        let whole = DataDir::Whole { ids: Known::Known((LIVING, member_id('a'))) };
        assert_eq!(decide(&policy, &View { data: whole, ..v.clone() }), Step::Resume);
        let partial = DataDir::Partial { what: "no WAL".to_owned() };
        let step = decide(&policy, &View { data: partial, ..v.clone() });
        assert!(matches!(step, Step::Hold(Hold::PartialData { .. })), "{step}");
        // Nor is a member that lost its disk founded anew.
        let mut lost = v.clone();
        lost.ledger.start_founding(&list("abc"));
        assert_eq!(decide(&policy, &lost), Step::Hold(Hold::DiskLost));
    }
}

#[test]
fn a_living_cluster_is_joined_and_a_chosen_list_obeyed_whatever_snapshots_say() {
    let policy = keeping(Policy { seed: Some("file:/b".to_owned()), ..policy(Some(3)) });
    let unknown = SeedSeen { wanted: Some(Known::Unknown("503".to_owned())), ..SeedSeen::default() };
    for snapshots in [Snapshots::NotAsked, Snapshots::Absent, some_are_seen(), no_answer()] {
        for seed in [SeedSeen::default(), unknown.clone(), ordered(seed(10))] {
            let mut v = View { snapshots: snapshots.clone(), seed, ..view('c', "abc") };
            for seeded in [None, Some(Box::new(common::seed(9)))] {
                let chosen = InitialList { seed: seeded, ..list("abc") };
                v.ledger.chosen = Some(chosen.clone());
                assert_eq!(decide(&policy, &v), Step::StartNew(chosen.clone()), "{snapshots:?}");
                let claim = Claim::Founding { list: chosen.clone() };
                let claimed = Policy { claim: Some("s3://b/claim.json".to_owned()), ..policy.clone() };
                let mut by_claim = v.clone();
                by_claim.ledger.chosen = None;
                by_claim.claim = ClaimState::Held { claim, version: "1".to_owned() };
                assert_eq!(decide(&claimed, &by_claim), Step::StartNew(chosen), "{snapshots:?}");
            }
            v.ledger.chosen = None;
            says(&mut v, 'a', etcd("ab", true), NO_TIME);
            assert_eq!(decide(&policy, &v), Step::AddSelf, "{snapshots:?}");
        }
    }
}

// ---- a written roster

/// Addresses, and no ages but where they are given.
fn written(names: &str, launched: Option<i64>) -> Roster {
    let entry = |name| Instance {
        launched,
        address: Some([10, 0, 0, name as u8].into()),
        ..instance(name, InstanceState::Running)
    };
    Roster::written(names.chars().map(entry).collect(), NOW)
}

fn by_list(me: char, names: &str, launched: Option<i64>) -> (Policy, View) {
    let mut v = view(me, names);
    (v.roster, v.roster_unchanged_for) = (Known::Known(written(names, launched)), LONG);
    (Policy { written: true, ..policy(Some(names.len())) }, v)
}

#[test]
fn in_a_written_roster_rank_is_the_order_and_nobody_s_age_is_guessed() {
    let (policy, mut v) = by_list('c', "cab", None);
    all_fresh(&policy, &mut v, "ab");
    assert!(matches!(decide(&policy, &v), Step::Propose(_)), "all answer, and c is the first");
    says(&mut v, 'b', PeerState::Refused, LONG);
    assert_eq!(*absence(&decide(&policy, &v)), AbsenceReason::AgeUnknown(id('c')));
    let vouched = Policy { found_absent: true, ..policy.clone() };
    assert!(matches!(decide(&vouched, &v), Step::Propose(_)));
    for (launched, founds) in [(NOW - 60, true), (NOW - 86_400, false), (NOW + 60, false)] {
        let (policy, mut v) = by_list('c', "cab", Some(launched));
        all_fresh(&policy, &mut v, "ab");
        says(&mut v, 'b', PeerState::Refused, LONG);
        assert_eq!(matches!(decide(&policy, &v), Step::Propose(_)), founds, "{}", launched - NOW);
    }
}

#[test]
fn lists_that_differ_never_agree() {
    let (policy, mut v) = by_list('a', "abc", None);
    let ours = written("abc", None);
    let moved = Roster::written(
        ours.all().iter().map(|i| Instance { address: Some([10, 9, 9, 9].into()), ..i.clone() }).collect(),
        NOW,
    );
    for (theirs, why) in [
        (written("acb", None), "another order"),
        (written("abcd", None), "a spare more"),
        (written("abc", Some(NOW - 60)), "ages"),
        (moved, "other addresses"),
    ] {
        all_fresh(&policy, &mut v, "c");
        says(&mut v, 'b', fresh('b', &policy.charter(&theirs)), NO_TIME);
        let hold = decide(&policy, &v);
        assert!(matches!(hold, Step::Hold(Hold::DifferentRoster { .. })), "{why}: {hold}");
        assert!(hold.to_string().ends_with("set the same MUSTER_HOSTS on all nodes"), "{hold}");
        let standing = AcceptorContext { charter: Some(policy.charter(&ours)), ..AcceptorContext::default() };
        let ballot = Ballot { round: 1, proposer: id('b'), nonce: 2 };
        let call = Call::Prepare { charter: policy.charter(&theirs), ballot };
        assert!(matches!(answer(&v.ledger, &standing, &call), (Answer::DifferentRoster { .. }, None)), "{why}");
    }
}

/// Each of two may be the first in its own file, and look for the other at an address that is wrong.
#[test]
fn one_of_two_by_a_list_founds_on_the_operators_word_only() {
    let (policy, mut v) = by_list('a', "ab", Some(NOW - 60));
    says(&mut v, 'b', PeerState::Refused, LONG);
    assert_eq!(*absence(&decide(&policy, &v)), AbsenceReason::OneOfTwo);
    let vouched = Policy { found_alone: true, ..policy.clone() };
    assert!(matches!(decide(&vouched, &v), Step::FoundAlone { why: AloneReason::OperatorSaysSo, .. }));
    let mut gone = view('a', "a");
    let mut entries = written("ab", Some(NOW - 60)).all().to_vec();
    entries[1].state = InstanceState::Terminated;
    gone.roster = Known::Known(Roster::written(entries, NOW));
    assert_eq!(*absence(&decide(&policy, &gone)), AbsenceReason::Terminated(id('b')));
    let vouched = Policy { found_absent: true, ..policy };
    assert!(matches!(decide(&vouched, &gone), Step::FoundAlone { why: AloneReason::OtherTerminated(_), .. }));
}

/// A name is no instance id: by another list another host may bear it, and live.
#[test]
fn the_member_that_bears_our_name_elsewhere_is_replaced_only_once_it_is_silent() {
    let (policy, mut v) = by_list('c', "abc", None);
    says(&mut v, 'a', etcd("abc", true), NO_TIME);
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    v.me.listed.peer_urls = vec!["http://new-c:2380".into()];
    let kept = |step: Step| match step {
        Step::Hold(Hold::NameTaken { kept, .. }) => kept,
        other => panic!("{other}"),
    };
    v.liveness.insert(member_id('c'), Liveness::Answers);
    assert_eq!(kept(decide(&policy, &v)), KeepReason::Alive);
    v.roster = Known::Unknown("half a file".into());
    v.liveness.clear();
    let unasked = muster_core::decide::decide(&policy, &v);
    assert_eq!(kept(unasked), KeepReason::Unasked, "nor while the list can't be read");
    v.liveness.insert(member_id('c'), fate('c', Known::Known(false), Duration::from_secs(29)));
    assert_eq!(kept(decide(&policy, &v)), KeepReason::Dwell);
    v.liveness.insert(member_id('c'), fate('c', Known::Known(false), Duration::from_secs(30)));
    assert_eq!(decide(&policy, &v), Step::RemoveMember { id: member_id('c'), why: RemovalReason::OwnOldId });
    v.liveness.insert(member_id('b'), fate('b', Known::Known(false), LONG));
    assert!(matches!(kept(decide(&policy, &v)), KeepReason::QuorumAfter { .. }));
    v.liveness.clear();
    v.me.listed = listed('c');
    let at_home = Step::RemoveMember { id: member_id('c'), why: RemovalReason::OwnOldId };
    assert_eq!(decide(&policy, &v), at_home, "where it was, we are: its disk is lost");
}

#[test]
fn a_host_of_unknown_age_believes_a_choice_only_if_it_took_part() {
    let (policy, mut v) = by_list('c', "abc", None);
    v.ledger.chosen = Some(list("abc"));
    assert!(!matches!(decide(&policy, &v), Step::StartNew(_)), "it may have run before, and been wiped");
    v.ledger.promised = Some(Ballot { round: 1, proposer: id('a'), nonce: 1 });
    assert_eq!(decide(&policy, &v), Step::StartNew(list("abc")));
}

// ---- a chosen list

#[test]
fn a_chosen_list_is_started_by_those_it_holds() {
    let policy = policy(Some(3));
    let mut v = view('c', "abc");
    v.ledger.chosen = Some(list("abc"));
    assert_eq!(decide(&policy, &v), Step::StartNew(list("abc")));
    v.ledger.chosen = Some(list("abd"));
    assert_eq!(decide(&policy, &v), Step::Hold(Hold::NotListed));
    v.ledger.chosen = Some(list("abc"));
    v.ledger.founded = true;
    assert_eq!(decide(&policy, &v), Step::Hold(Hold::DiskLost), "its etcd ran before: an empty log must not vote");
}

/// The model's counterexample: a founder that came late joined its own cluster under the id it was listed by, voted, and lost
/// its WAL; out of the cluster's sight it was about to start under that id again.
#[test]
fn a_founder_that_joined_does_not_start_new() {
    let policy = policy(Some(3));
    let mut v = view('c', "abc");
    v.ledger.promised = Some(Ballot { round: 1, proposer: id('a'), nonce: 1 });
    v.ledger.start_founding(&list("abc"));
    v.ledger.left_behind(LeftBehind::NeverBegan(FirstStart::Founding));
    assert_eq!(decide(&policy, &v), Step::StartNew(list("abc")), "as if it had never run");
    v.ledger.start_joining(LIVING, member_id('c'));
    v.ledger.left_behind(LeftBehind::MayHaveVoted);
    assert_eq!(decide(&policy, &v), Step::Hold(Hold::DiskLost));
}

/// Nor does one that gave up the id it was listed by.
#[test]
fn an_id_that_was_given_up_is_not_started_again() {
    let policy = policy(Some(3));
    let mut v = view('c', "abc");
    v.ledger.chosen = Some(list("abc"));
    v.ledger.give_up_old_id();
    assert_eq!(decide(&policy, &v), Step::Hold(Hold::DiskLost));
    says(&mut v, 'a', etcd("ab", true), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::AddSelf);
}

#[test]
fn an_accepted_list_is_started_only_when_an_etcd_shows_it_was_chosen() {
    let policy = policy(Some(3));
    let mut v = view('c', "abc");
    v.ledger.accepted = Some(Accepted { ballot: Ballot { round: 1, proposer: id('a'), nonce: 2 }, list: list("abc") });
    let PeerState::Etcd(mut seen) = etcd("abc", false) else { panic!() };
    seen.members.iter_mut().for_each(|m| m.client_urls.clear());
    says(&mut v, 'a', PeerState::Etcd(seen), NO_TIME);
    v.accepted_cluster = Some(ClusterId(0xdead));
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::ClusterWithoutQuorum { .. })));
    v.accepted_cluster = Some(LIVING);
    assert_eq!(decide(&policy, &v), Step::StartNew(list("abc")));
}

/// A wiped node is told the list like any other, and may have voted under its id.
#[test]
fn a_word_is_believed_only_by_the_young_and_by_those_who_took_part() {
    let policy = policy(Some(3));
    let mut v = view('c', "abc");
    v.ledger.chosen = Some(list("abc"));
    assert_eq!(decide(&policy, &v), Step::StartNew(list("abc")), "younger than the founding window");
    v.roster = Known::Known(Roster::new(roster("abc").all().to_vec(), NOW + 3600));
    assert!(matches!(decide(&policy, &v), Step::Hold(_)));
    v.ledger.promised = Some(Ballot { round: 1, proposer: id('a'), nonce: 1 });
    assert_eq!(decide(&policy, &v), Step::StartNew(list("abc")), "its disk is the founding's");
}

#[test]
fn a_void_choice_binds_nobody() {
    let policy = policy(Some(3));
    let mut v = view('c', "cde");
    v.ledger.chosen = Some(list("abc"));
    let mut instances = v.roster.known().unwrap().all().to_vec();
    instances.extend(['a', 'b'].map(|n| instance(n, InstanceState::Terminated)));
    v.roster = Known::Known(Roster::new(instances, NOW));
    all_fresh(&policy, &mut v, "de");
    let Step::Propose(proposal) = decide(&policy, &v) else { panic!("two of three listed are terminated") };
    assert_eq!(proposal.charter.first.len(), 3);
}

// ---- the claim

fn claiming(size: usize) -> Policy {
    Policy { claim: Some("s3://b/claim.json".to_owned()), ..policy(Some(size)) }
}

fn held(claim: Claim) -> ClaimState {
    ClaimState::Held { claim, version: "\"v1\"".to_owned() }
}

/// A fleet of three, all fresh, seen by the oldest.
fn all_fresh_under(policy: &Policy, claim: ClaimState) -> View {
    let mut v = view('a', "abc");
    all_fresh(policy, &mut v, "bc");
    v.claim = claim;
    v
}

#[test]
fn a_free_claim_is_written_by_the_oldest_and_nothing_is_voted_on() {
    let policy = claiming(3);
    let mut v = all_fresh_under(&policy, ClaimState::Absent);
    let Step::Claim(claiming) = decide(&policy, &v) else { panic!("no claim") };
    assert_eq!((claiming.list.members.len(), claiming.replaces), (3, None));
    says(&mut v, 'b', seen_data(None, None), NO_TIME);
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::PeerHasData { .. })), "G2");
}

#[test]
fn a_claim_that_cant_be_read_is_not_a_free_one() {
    let policy = claiming(3);
    let v = all_fresh_under(&policy, ClaimState::Unknown("AccessDenied".to_owned()));
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::ClaimUnknown { .. })));
}

#[test]
fn those_who_claim_and_those_who_vote_dont_count_each_other() {
    let policy = claiming(3);
    let mut v = all_fresh_under(&policy, ClaimState::Absent);
    says(&mut v, 'b', fresh('b', &policy_charter("abc")), NO_TIME);
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::DifferentRoster { .. })));
}

#[test]
fn the_claimed_list_is_started_whatever_was_chosen_otherwise() {
    let policy = claiming(3);
    let mut v = all_fresh_under(&policy, held(Claim::Founding { list: list("abc") }));
    v.ledger.chosen = Some(list("abd"));
    assert_eq!(decide(&policy, &v), Step::StartNew(list("abc")));
    v.ledger.founded = true;
    assert_eq!(decide(&policy, &v), Step::Hold(Hold::DiskLost));
    let without_us = all_fresh_under(&policy, held(Claim::Founding { list: list("bcd") }));
    assert!(matches!(decide(&policy, &without_us), Step::Hold(Hold::ClaimedByOthers { .. })));
}

#[test]
fn an_old_node_obeys_a_claim_only_if_its_disk_saw_it_free() {
    let policy = claiming(3);
    let mut v = all_fresh_under(&policy, held(Claim::Founding { list: list("abc") }));
    v.roster = Known::Known(Roster::new(roster("abc").all().to_vec(), NOW + 3600));
    assert_eq!(decide(&policy, &v), Step::Hold(Hold::DiskLost));
    v.ledger.saw_unclaimed = true;
    assert_eq!(decide(&policy, &v), Step::StartNew(list("abc")));
}

#[test]
fn a_void_claim_is_replaced_as_it_was_seen_and_an_established_one_never() {
    let policy = claiming(3);
    let mut instances = roster("abc").all().to_vec();
    instances.extend(['x', 'y'].map(|n| instance(n, InstanceState::Terminated)));
    let seen = Known::Known(Roster::new(instances, NOW));
    let mut v = view('a', "abc");
    v.roster = seen.clone();
    all_fresh(&policy, &mut v, "bc");
    v.claim = held(Claim::Founding { list: list("axy") });
    let Step::Claim(claiming) = decide(&policy, &v) else { panic!("two of three claimed are terminated") };
    assert_eq!(claiming.replaces.as_deref(), Some("\"v1\""));
    v.claim = held(Claim::Established { cluster: LIVING });
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::Established { .. })));
}

#[test]
fn with_a_claim_either_of_two_may_found_when_the_other_is_silent() {
    let policy = claiming(2);
    let mut younger = view('b', "ab");
    says(&mut younger, 'a', PeerState::Silent("timeout".into()), LONG);
    younger.claim = ClaimState::Absent;
    let Step::Claim(claiming) = decide(&policy, &younger) else { panic!("no claim") };
    assert_eq!(claiming.list.members, [listed('b')]);
    says(&mut younger, 'a', PeerState::Silent("timeout".into()), NO_TIME);
    assert!(matches!(absence(&decide(&policy, &younger)), AbsenceReason::Grace { .. }));
}

#[test]
fn one_who_saw_the_claim_free_may_take_the_place_it_was_given() {
    let policy = claiming(3);
    let mut v = view('c', "abc");
    let PeerState::Etcd(mut seen) = etcd("abc", true) else { panic!() };
    seen.members[2].client_urls.clear();
    says(&mut v, 'a', PeerState::Etcd(seen), NO_TIME);
    v.chosen_cluster = Some(LIVING);
    assert!(
        matches!(decide(&policy, &v), Step::RemoveMember { why: RemovalReason::OwnOldId, .. }),
        "told, as a wiped node is"
    );
    v.ledger.saw_unclaimed = true;
    assert!(matches!(decide(&policy, &v), Step::StartExisting { .. }));
}

#[test]
fn a_claim_is_established_by_its_own_cluster_only() {
    let id_of = |_: &InitialList| LIVING;
    let write = |replaces: Option<&str>| Establish::Write { replaces: replaces.map(str::to_owned) };
    let founding = held(Claim::Founding { list: list("abc") });
    assert_eq!(establish(&founding, LIVING, id_of), write(Some("\"v1\"")));
    assert_eq!(establish(&ClaimState::Absent, LIVING, id_of), write(None));
    assert!(matches!(establish(&founding, ClusterId(7), id_of), Establish::Conflict(_)));
    let established = held(Claim::Established { cluster: LIVING });
    assert_eq!(establish(&established, LIVING, id_of), Establish::Done);
    assert!(matches!(establish(&established, ClusterId(7), id_of), Establish::Conflict(_)));
}

// ---- data

fn with_data(cluster: ClusterId) -> muster_core::view::View {
    let mut v = view('a', "abc");
    v.data = DataDir::Whole { ids: Known::Known((cluster, member_id('a'))) };
    v
}

/// Recorded here by an operator's order, about this data.
fn with_recovery() -> View {
    let mut v = with_data(LIVING);
    let ballot = v.ledger.own_ballot(&id('a'));
    let list = InitialList { seed: Some(Box::new(seed(9))), ..list("a") };
    v.ledger.promised = Some(ballot.clone());
    v.ledger.recovery = Some(Accepted { ballot, list });
    v
}

#[test]
fn recovered_data_is_moved_aside_and_its_list_begins() {
    let policy = policy(Some(3));
    let v = with_recovery();
    let Step::Quarantine(why) = decide(&policy, &v) else { panic!("not moved aside") };
    assert_eq!(why, Quarantine::Recovered { cluster: LIVING, member: member_id('a') });
    let mut after = View { data: DataDir::Fresh, ..v.clone() };
    (after.ledger.founded, after.ledger.ran_as) = (true, Some(RanAs { cluster: LIVING, member: member_id('a') }));
    after.ledger.left_behind(why.left_behind());
    let list = v.ledger.recovery.as_ref().unwrap().list.clone();
    assert_eq!(decide(&policy, &after), Step::StartNew(list), "whatever another survivor holds");
    assert_eq!((after.ledger.recovery, after.ledger.ran_as), (None, None));
}

/// Otherwise a later loss of the quorum would bring up, long after, what was once ordered.
#[test]
fn a_recovery_is_forgotten_by_who_runs_in_the_old_cluster_again() {
    let mut v = with_recovery();
    v.ledger.own_data(&id('a'));
    assert_eq!((v.ledger.recovery.as_ref(), v.ledger.instance.as_ref()), (None, Some(&id('a'))));
    assert!(!matches!(decide(&policy(Some(3)), &v), Step::Quarantine(_)));
}

#[test]
fn a_recovery_ends_where_a_cluster_lives_or_the_disk_is_another_s() {
    let policy = policy(Some(3));
    let mut v = with_recovery();
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::Resume, "the quorum is back");
    let mut v = View { data: with_data(ClusterId(7)).data, ..v };
    assert!(
        matches!(decide(&policy, &v), Step::Halt(Halt::ForeignData { .. })),
        "no second cluster is begun beside another one"
    );
    v = with_recovery();
    v.ledger.instance = Some(id('z'));
    assert!(!matches!(decide(&policy, &v), Step::Quarantine(_)), "a copy of the disk was not what was ordered");
}

#[test]
fn a_claim_for_the_lost_cluster_is_replaced_by_an_operators_word_about_that_cluster_alone() {
    let policy = Policy { claim: Some("s3://b/claim.json".to_owned()), ..policy(Some(3)) };
    let lost = seed(9).cluster().unwrap();
    let claimed = |cluster| ClaimState::Held { claim: Claim::Established { cluster }, version: "7".to_owned() };
    let replaces = |step: &Step| match step {
        Step::Claim(claiming) => Some((claiming.list.clone(), claiming.replaces.clone())),
        _ => None,
    };
    let mut v = with_recovery();
    v.data = DataDir::Fresh;
    v.ledger.left_behind(LeftBehind::Recovered);
    let list = v.ledger.chosen.clone().unwrap();
    v.claim = claimed(lost);
    assert_eq!(replaces(&decide(&policy, &v)), Some((list, Some("7".to_owned()))));
    v.claim = claimed(ClusterId(1));
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::Established { .. })), "the claim is for another one");
    let mut v = view('a', "abc");
    all_fresh(&policy, &mut v, "bc");
    v.claim = claimed(lost);
    v.seed = SeedSeen { by_order: true, ..ordered(seed(9)) };
    let (list, version) = replaces(&decide(&policy, &v)).unwrap();
    assert_eq!((list.seed, version), (Some(Box::new(seed(9))), Some("7".to_owned())));
    v.seed.by_order = false;
    assert!(
        matches!(decide(&policy, &v), Step::Hold(Hold::Established { .. })),
        "MUSTER_SEED says nothing about a cluster that a claim names"
    );
}

#[test]
fn data_resumes_whatever_ec2_and_the_peers_do() {
    let policy = policy(Some(3));
    let mut v = with_data(LIVING);
    assert_eq!(decide(&policy, &v), Step::Resume);
    v.roster = Known::Unknown("down".into());
    assert_eq!(decide(&policy, &v), Step::Resume);
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::Resume);
}

#[test]
fn a_moved_member_publishes_its_address_first() {
    let policy = policy(Some(3));
    let mut v = with_data(LIVING);
    v.me.listed.peer_urls = vec!["http://elsewhere:2380".into()];
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::UpdateSelf { id: member_id('a') });
}

#[test]
fn data_is_moved_aside_only_on_its_own_clusters_word() {
    let policy = policy(Some(3));
    let mut v = with_data(LIVING);
    says(&mut v, 'b', etcd("bc", false), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::Resume, "without a quorum a list proves nothing");
    says(&mut v, 'b', etcd("bc", true), NO_TIME);
    assert!(matches!(decide(&policy, &v), Step::Quarantine(Quarantine::RemovedWhileDown { .. })));
}

#[test]
fn damaged_data_is_moved_aside_only_for_a_cluster_that_can_give_it_again() {
    let policy = policy(Some(3));
    let mut v = with_data(LIVING);
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    let said = "walpb: crc mismatch".to_owned();
    assert_eq!(decide(&policy, &v), Step::Resume, "nothing is condemned");
    v.condemned = Some(said.clone());
    let damaged = Step::Quarantine(Quarantine::Damaged { cluster: LIVING, member: member_id('a'), said });
    assert_eq!(decide(&policy, &v), damaged);
    for (elsewhere, why) in [
        (etcd("abc", false), "no quorum is proven"),
        (PeerState::Refused, "nobody answers"),
        (seen_data(Some(LIVING), None), "the others don't run"),
        (etcd("ab", true), "one other voter of two is no quorum: a list that old proves nothing"),
        (etcd("a", true), "a sole member's data is all there is"),
    ] {
        says(&mut v, 'b', elsewhere, NO_TIME);
        assert_eq!(decide(&policy, &v), Step::Resume, "{why}");
    }
    says(&mut v, 'b', etcd("bc", true), NO_TIME);
    assert!(matches!(decide(&policy, &v), Step::Quarantine(Quarantine::RemovedWhileDown { .. })));
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    let PeerState::Etcd(mut other) = etcd("cd", true) else { panic!() };
    other.cluster = ClusterId(0xc2);
    says(&mut v, 'c', PeerState::Etcd(other), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::Resume, "two clusters: which one is meant, only the operator knows");
    v.data = DataDir::Whole { ids: Known::Known((ClusterId(0xbad), member_id('a'))) };
    assert!(matches!(decide(&policy, &v), Step::Halt(_)), "another cluster's is foreign, damaged or not");
}

#[test]
fn damaged_data_without_ids_is_whose_our_own_record_says() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    v.data = DataDir::Whole { ids: Known::Unknown("torn".into()) };
    v.condemned = Some("cannot use none as id".into());
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::Resume, "whose data it is, is unknown");
    v.chosen_cluster = Some(LIVING);
    assert_eq!(decide(&policy, &v), Step::Resume, "a list we were told, and never started");
    v.ledger.founded = true;
    assert!(matches!(decide(&policy, &v), Step::Quarantine(Quarantine::Damaged { .. })));
    v.ledger.joined = Some(Joined { cluster: ClusterId(0xbad), member: member_id('a'), spawned: true });
    assert_eq!(decide(&policy, &v), Step::Resume, "we joined another one since");
    v.ledger.joined = Some(Joined { cluster: LIVING, member: member_id('a'), spawned: true });
    says(&mut v, 'b', etcd("bcd", true), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::Resume, "it doesn't list us");
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    v.condemned = None;
    assert_eq!(decide(&policy, &v), Step::Resume, "nothing is condemned");
}

/// The way back: its own old place is given up, and a learner takes it.
#[test]
fn whoever_moved_its_damaged_data_aside_gives_up_its_old_id() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    v.ledger.founded = true;
    v.ledger.left_behind(LeftBehind::MayHaveVoted);
    v.chosen_cluster = Some(LIVING);
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::RemoveMember { id: member_id('a'), why: RemovalReason::OwnOldId });
    says(&mut v, 'b', etcd("bc", true), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::AddSelf);
}

#[test]
fn foreign_data_halts_unless_it_never_elected() {
    let policy = policy(Some(3));
    let mut v = with_data(ClusterId(0xbad));
    says(&mut v, 'b', etcd("bc", true), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::Halt(Halt::ForeignData { ours: ClusterId(0xbad), living: LIVING }));
    v.ledger.never_elected = true;
    assert!(matches!(decide(&policy, &v), Step::Quarantine(Quarantine::NeverElected { .. })));
}

/// The model's counterexample: of two founders one is terminated before its etcd ever ran; the other has a WAL that never
/// elected, and without this rule keeps every replacement waiting.
#[test]
fn data_of_a_founding_that_can_never_elect_gives_way_on_etcds_own_word() {
    let policy = policy(Some(2));
    let mut v = view('b', "bc");
    v.data = DataDir::Whole { ids: Known::Known((LIVING, member_id('b'))) };
    v.ledger.chosen = Some(list("ab"));
    v.chosen_cluster = Some(LIVING);
    (v.ledger.founded, v.ledger.never_elected) = (true, true);
    let mut all = v.roster.known().unwrap().all().to_vec();
    all.push(instance('a', InstanceState::Terminated));
    v.roster = Known::Known(Roster::new(all, NOW));
    assert_eq!(decide(&policy, &v), Step::Resume, "our record alone is not enough: an election may have been missed");
    v.yielded = true;
    assert_eq!(decide(&policy, &v), Step::Quarantine(Quarantine::Void { ours: LIVING }));
    v.ledger.never_elected = false;
    assert_eq!(decide(&policy, &v), Step::Resume);
}

#[test]
fn half_of_the_data_is_never_fresh() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    all_fresh(&policy, &mut v, "bc");
    v.data = DataDir::Partial { what: "no WAL".into() };
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::PartialData { .. })));
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::PartialData { .. })), "whose data it is, is unknown");
    v.chosen_cluster = Some(LIVING);
    assert!(matches!(decide(&policy, &v), Step::Quarantine(Quarantine::Partial { .. })));
}

// ---- a living cluster

#[test]
fn two_living_clusters_halt() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    says(&mut v, 'b', etcd("b", true), NO_TIME);
    let PeerState::Etcd(mut other) = etcd("c", true) else { panic!() };
    other.cluster = ClusterId(0xc2);
    says(&mut v, 'c', PeerState::Etcd(other), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::Halt(Halt::TwoClusters { ids: vec![LIVING, ClusterId(0xc2)] }));
}

/// What one of the old fleet's etcds answers, outside the roster.
fn beside(view: &mut View, members: &str) -> &'static str {
    const URL: &str = "http://old:2379";
    let PeerState::Etcd(seen) = etcd(members, true) else { panic!() };
    view.old_fleet.insert(URL.to_owned(), Known::Known(seen));
    URL
}

#[test]
fn who_is_to_join_an_old_fleet_never_founds_beside_it() {
    let mut policy = policy(Some(3));
    let mut v = view('a', "abc");
    all_fresh(&policy, &mut v, "bc");
    assert!(matches!(decide(&policy, &v), Step::Propose(_)));
    policy.join = vec!["http://old:2379".to_owned()];
    assert!(v.acceptor_context(&policy).charter.is_none(), "nor does it vote for a list");
    for (seen, why) in
        [(None, "not asked"), (Some(Known::Unknown("connection refused".to_owned())), "connection refused")]
    {
        v.old_fleet = seen.map(|seen| ("http://old:2379".to_owned(), seen)).into_iter().collect();
        let Step::Hold(hold @ Hold::OldFleetUnseen { .. }) = decide(&policy, &v) else { panic!() };
        assert!(hold.to_string().contains(&format!("http://old:2379: {why};")), "{hold}");
    }
    // Neither a chosen list nor a claim brings it further.
    v.ledger.chosen = Some(list("abc"));
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::OldFleetUnseen { .. })));
    v.ledger.chosen = None;
    policy.claim = Some("s3://b/claim.json".to_owned());
    v.claim = ClaimState::Absent;
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::OldFleetUnseen { .. })));
}

#[test]
fn beside_an_old_fleet_the_size_is_the_new_ones() {
    let policy = Policy { join: vec!["http://old:2379".to_owned()], ..policy(Some(3)) };
    let mut v = view('c', "abcd");
    let url = beside(&mut v, "xyz");
    assert_eq!(decide(&policy, &v), Step::AddSelf);
    assert_eq!(v.living_clusters()[&LIVING].client_url, "http://x:2379", "asked through the old fleet: {url}");
    beside(&mut v, "xyzabd");
    let Step::Hold(Hold::Spare { voters: 3, wanted: 3, .. }) = decide(&policy, &v) else { panic!() };
    // A member whose instance is terminated has its place until it is removed.
    let mut v = view('c', "abc");
    beside(&mut v, "xyzabd");
    v.liveness.insert(member_id('d'), fate('d', Known::Unknown("throttled".to_owned()), LONG));
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::Spare { voters: 3, .. })));
    // Whose a member is, only the roster tells.
    v.roster = Known::Unknown("throttled".to_owned());
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::Spare { voters: 6, .. })));
    // Nobody of the old fleet is removed: that its machines are gone can't be known.
    let mut v = view('c', "abc");
    beside(&mut v, "xyz");
    for name in "xyz".chars() {
        let gone = Known::Unknown("its instance is unknown".to_owned());
        v.liveness.insert(member_id(name), Liveness::Silent(Silence { instance: None, gone, silent_for: LONG }));
    }
    assert_eq!(decide(&policy, &v), Step::AddSelf);
}

#[test]
fn an_old_fleet_beside_a_cluster_of_the_roster_are_two() {
    let policy = Policy { join: vec!["http://old:2379".to_owned()], ..policy(Some(3)) };
    let mut v = view('c', "abc");
    beside(&mut v, "xyz");
    let PeerState::Etcd(seen) = etcd("ab", true) else { panic!() };
    says(&mut v, 'a', PeerState::Etcd(EtcdSeen { cluster: ClusterId(0xc2), ..seen }), NO_TIME);
    assert!(matches!(decide(&policy, &v), Step::Halt(Halt::TwoClusters { .. })));
}

#[test]
fn a_replacement_removes_the_provably_dead_first() {
    let policy = policy(Some(3));
    let mut v = view('d', "bcd");
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    says(&mut v, 'c', etcd("abc", true), NO_TIME);
    let dwell = Duration::from_secs(30);
    for (gone, silent, kept) in [
        (Known::Known(false), dwell, Some(KeepReason::InstanceExists(id('a')))),
        (Known::Unknown("throttled".into()), dwell, Some(KeepReason::Unknown(id('a'), "throttled".into()))),
        (Known::Known(true), dwell - Duration::from_secs(1), Some(KeepReason::Dwell)),
        (Known::Known(true), dwell, None),
    ] {
        v.liveness.insert(member_id('a'), fate('a', gone, silent));
        match (decide(&policy, &v), kept) {
            (Step::RemoveMember { id, why: RemovalReason::Gone(_) }, None) => assert_eq!(id, member_id('a')),
            (Step::Hold(Hold::Spare { kept, .. }), Some(why)) => assert!(kept.contains(&(member_id('a'), why))),
            (step, kept) => panic!("{step}, {kept:?}"),
        }
    }
}

#[test]
fn nobody_is_removed_below_quorum() {
    let policy = policy(Some(3));
    let mut v = view('d', "bcd");
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    v.liveness.insert(member_id('a'), fate('a', Known::Known(true), LONG));
    v.liveness.insert(member_id('c'), fate('c', Known::Known(false), LONG));
    let Step::Hold(Hold::Spare { kept, .. }) = decide(&policy, &v) else { panic!() };
    assert!(kept.contains(&(member_id('a'), KeepReason::QuorumAfter { answering: 1, needed: 2 })), "{kept:?}");
}

#[test]
fn nobody_is_removed_while_a_learner_is_on_its_way() {
    let policy = policy(Some(3));
    let mut v = view('d', "bcd");
    let PeerState::Etcd(mut seen) = etcd("abc", true) else { panic!() };
    seen.members.push(Member { is_learner: true, ..voter('x') });
    says(&mut v, 'b', PeerState::Etcd(seen), NO_TIME);
    v.liveness.insert(member_id('a'), fate('a', Known::Known(true), LONG));
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::AnotherJoins { member, .. }) if member == member_id('x')));
    v.liveness.insert(member_id('x'), fate('x', Known::Known(true), LONG));
    let Step::RemoveMember { .. } = decide(&policy, &v) else { panic!("a dead learner blocks nobody") };
}

#[test]
fn the_unhealthy_are_removed_only_where_the_operator_says_so() {
    let cautious = policy(Some(3));
    let bold = Policy { clean: Clean::Unhealthy, ..policy(Some(3)) };
    let mut v = view('d', "bcd");
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    for (silent, removed) in [(UNHEALTHY_AFTER, true), (UNHEALTHY_AFTER - Duration::from_secs(1), false)] {
        for gone in [Known::Known(false), Known::Unknown("throttled".into())] {
            v.liveness.insert(member_id('a'), fate('a', gone, silent));
            let why = RemovalReason::Unhealthy;
            assert_eq!(decide(&bold, &v) == Step::RemoveMember { id: member_id('a'), why }, removed);
            assert!(matches!(decide(&cautious, &v), Step::Hold(Hold::Spare { .. })));
        }
    }
}

#[test]
fn without_a_replacement_no_cluster_shrinks_so_far_that_fresh_ones_could_outvote_it() {
    let ours = |size, members: &str| {
        let mut v = view('a', "ab");
        v.data = DataDir::Whole { ids: Known::Known((LIVING, member_id('a'))) };
        says(&mut v, 'b', etcd(members, true), NO_TIME);
        v.liveness.insert(member_id('z'), fate('z', Known::Known(true), LONG));
        v.liveness.insert(member_id('a'), Liveness::Answers);
        others_answer(&mut v);
        reconcile(&policy(Some(size)), &v, LIVING)
    };
    assert_eq!(ours(3, "abz"), Ok((member_id('z'), RemovalReason::Gone(id('z')))));
    assert_eq!(ours(5, "abcdz"), Ok((member_id('z'), RemovalReason::Gone(id('z')))));
    assert_eq!(ours(5, "abcz"), Err(vec![(member_id('z'), KeepReason::WouldShrink { voters: 4, size: 5 })]));
    let mut unseen = view('a', "ab");
    unseen.roster = Known::Unknown("throttled".into());
    says(&mut unseen, 'b', etcd("abz", true), NO_TIME);
    unseen.liveness.insert(member_id('z'), fate('z', Known::Known(true), LONG));
    assert_eq!(reconcile(&policy(Some(3)), &unseen, LIVING), Err(Vec::new()));
    assert_eq!(reconcile(&policy(Some(3)), &unseen, ClusterId(7)), Err(Vec::new()));
}

#[test]
fn one_joins_at_a_time_as_a_learner() {
    let policy = policy(Some(3));
    let mut v = view('c', "abc");
    says(&mut v, 'a', etcd("ab", true), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::AddSelf);
    let PeerState::Etcd(mut seen) = etcd("ab", true) else { panic!() };
    let learner = MemberId(9);
    seen.members.push(Member { id: learner, is_learner: true, name: String::new(), ..voter('x') });
    says(&mut v, 'a', PeerState::Etcd(seen), NO_TIME);
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::AnotherJoins { member, .. }) if member == learner));
}

#[test]
fn an_unstarted_place_is_taken_only_by_its_own_record() {
    let policy = policy(Some(3));
    let mut v = view('c', "abc");
    let PeerState::Etcd(mut seen) = etcd("ab", true) else { panic!() };
    let place = MemberId(9);
    seen.members.push(Member {
        id: place,
        name: String::new(),
        client_urls: Vec::new(),
        is_learner: true,
        ..voter('c')
    });
    says(&mut v, 'a', PeerState::Etcd(seen), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::RemoveMember { id: place, why: RemovalReason::OwnOldId });
    v.ledger.joined = Some(Joined { cluster: LIVING, member: place, spawned: false });
    let Step::StartExisting { member, initial_cluster, .. } = decide(&policy, &v) else { panic!() };
    assert_eq!(member, place);
    assert_eq!(initial_cluster, "i-a=http://a:2380,i-b=http://b:2380,i-c=http://c:2380");
    v.ledger.joined = Some(Joined { cluster: LIVING, member: place, spawned: true });
    assert_eq!(decide(&policy, &v), Step::RemoveMember { id: place, why: RemovalReason::OwnOldId });
}

#[test]
fn a_lost_disk_gives_up_its_old_id() {
    let policy = policy(Some(3));
    let mut v = view('c', "abc");
    says(&mut v, 'a', etcd("abc", true), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::RemoveMember { id: member_id('c'), why: RemovalReason::OwnOldId });
}

#[test]
fn another_instances_name_or_address_is_not_ours_to_remove() {
    let policy = policy(Some(3));
    let mut v = view('c', "abc");
    says(&mut v, 'a', etcd("ab", true), NO_TIME);
    v.me.listed.name = "i-b".into();
    assert!(matches!(decide(&policy, &v), Step::Halt(Halt::NameInUse { .. })));
    v.me.listed.name = "i-c".into();
    v.me.listed.peer_urls = vec!["http://b:2380".into()];
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::AddressTaken { .. })));
}

// ---- a running member

#[test]
fn only_an_etcd_that_never_elected_yields() {
    let running = Running {
        member: MemberId(1),
        is_learner: false,
        has_leader: false,
        never_elected: true,
        without_leader_for: Duration::from_secs(20),
        yield_after: Duration::from_secs(16),
    };
    assert_eq!(attend(&running), Attend::Yield);
    assert_eq!(attend(&Running { never_elected: false, ..running }), Attend::Keep);
    assert_eq!(attend(&Running { without_leader_for: Duration::from_secs(9), ..running }), Attend::Keep);
    let learner = Running { is_learner: true, has_leader: true, ..running };
    assert_eq!(attend(&learner), Attend::Promote(MemberId(1)));
}

// ---- leaving

fn terminated() -> Known<Option<Ending>> {
    Known::Known(Some(Ending::Group("Terminated".to_owned())))
}

#[test]
fn an_instance_that_ends_joins_nothing_but_its_member_runs_on() {
    let policy = policy(Some(3));
    let mut joining = view('d', "bcd");
    says(&mut joining, 'b', etcd("bc", true), NO_TIME);
    assert_eq!(decide(&policy, &joining), Step::AddSelf);
    joining.ending = terminated();
    assert!(matches!(decide(&policy, &joining), Step::Hold(Hold::Ending(_))));
    joining.ending = Known::Unknown("silence".to_owned());
    assert_eq!(decide(&policy, &joining), Step::AddSelf, "unknown is no end");

    let mut replacing = view('d', "bcd");
    says(&mut replacing, 'b', etcd("abc", true), NO_TIME);
    replacing.liveness.insert(member_id('a'), fate('a', Known::Known(true), LONG));
    assert!(matches!(decide(&policy, &replacing), Step::RemoveMember { .. }));
    replacing.ending = terminated();
    assert!(matches!(decide(&policy, &replacing), Step::Hold(Hold::Ending(_))));

    let mut member = with_data(LIVING);
    member.ending = terminated();
    assert_eq!(decide(&policy, &member), Step::Resume, "it leaves as a running member, or not at all");
    says(&mut member, 'b', etcd("abc", true), NO_TIME);
    assert_eq!(decide(&policy, &member), Step::Resume);

    let mut founder = view('a', "abc");
    all_fresh(&policy, &mut founder, "bc");
    founder.ending = terminated();
    assert!(matches!(decide(&policy, &founder), Step::Propose(_)), "others may be waiting for it");
}

#[test]
fn who_has_left_stays_down_until_ec2_says_that_it_lives_on() {
    let policy = policy(Some(3));
    let held = |v: &View| matches!(decide(&policy, v), Step::Hold(Hold::Left { .. }));
    let mut v = with_data(LIVING);
    says(&mut v, 'b', etcd("bc", true), NO_TIME);
    assert!(matches!(decide(&policy, &v), Step::Quarantine(Quarantine::RemovedWhileDown { .. })));
    v.ending = Known::Unknown("silence".to_owned());
    assert!(matches!(decide(&policy, &v), Step::Quarantine(_)), "somebody else removed it");
    v.ending = terminated();
    assert!(held(&v), "the member list alone shows that it has left");
    v.ledger.left = true;
    assert!(held(&v));
    v.ending = Known::Unknown("silence".to_owned());
    assert!(held(&v), "silence doesn't call an end off");
    v.ending = Known::Known(None);
    assert!(matches!(decide(&policy, &v), Step::Quarantine(Quarantine::RemovedWhileDown { .. })));
    // No cluster in sight: on record, it isn't taken for a restart.
    says(&mut v, 'b', PeerState::Refused, LONG);
    for ending in [terminated(), Known::Unknown("silence".to_owned())] {
        v.ending = ending;
        assert!(held(&v));
    }
}

// ---- whose the data is

/// Data of member a, whose instance is another, beside a cluster that lists it at its own place.
fn a_copy(living: bool) -> View {
    let mut v = view('d', "abcd");
    v.data = DataDir::Whole { ids: Known::Known((LIVING, member_id('a'))) };
    v.ledger.instance = Some(id('a'));
    v.owner_gone = Known::Known(false);
    if living {
        says(&mut v, 'b', etcd("abc", true), NO_TIME);
        says(&mut v, 'c', etcd("abc", true), NO_TIME);
    }
    v
}

fn doubt(step: Step) -> Doubt {
    match step {
        Step::Hold(Hold::NotOurs { why, .. }) => why,
        other => panic!("{other}"),
    }
}

#[test]
fn a_copy_of_a_living_members_disk_holds_and_names_whose_it_is() {
    let policy = policy(Some(3));
    let mut v = a_copy(true);
    says(&mut v, 'a', etcd("abc", true), NO_TIME);
    v.twin = Twin::Runs { at: "http://a:2379".to_owned(), name: "i-a".to_owned() };
    let step = decide(&policy, &v);
    assert!(matches!(&step, Step::Hold(Hold::RunsElsewhere { name, .. }) if name == "i-a"), "{step}");
    assert!(step.to_string().contains("i-a") && step.to_string().contains("http://a:2379"), "{step}");
    // Without a record, and by the operator's word, the same: two never run as one.
    v.ledger.instance = None;
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::RunsElsewhere { .. })));
    let vouched = Policy { adopt: Some(member_id('a')), ..policy.clone() };
    assert!(matches!(decide(&vouched, &v), Step::Hold(Hold::RunsElsewhere { .. })));
    // The original itself steps aside for nobody but whoever provably runs as it.
    v.ledger.instance = Some(id('d'));
    v.twin = Twin::Unknown { at: "http://a:2380".to_owned(), cause: "mute".to_owned() };
    assert!(matches!(decide(&policy, &v), Step::UpdateSelf { .. }));
}

#[test]
fn in_a_partition_a_copy_never_makes_up_the_quorum() {
    let policy = policy(Some(3));
    let mut v = a_copy(false);
    says(&mut v, 'c', etcd("abc", false), NO_TIME);
    says(&mut v, 'a', PeerState::Silent("cut".into()), LONG);
    assert_eq!(doubt(decide(&policy, &v)), Doubt::OwnerStands);
    v.owner_gone = Known::Unknown("throttled".into());
    assert_eq!(doubt(decide(&policy, &v)), Doubt::OwnerUnknown("throttled".into()));
    v.ledger.instance = None;
    assert_eq!(doubt(decide(&policy, &v)), Doubt::NoRecord);
    let vouched = Policy { adopt: Some(member_id('a')), ..policy.clone() };
    assert_eq!(decide(&vouched, &v), Step::Resume, "the operator knows");
    let other = Policy { adopt: Some(member_id('b')), ..policy };
    assert_eq!(doubt(decide(&other, &v)), Doubt::NoRecord, "that was another member");
}

#[test]
fn the_disk_of_an_owner_that_is_gone_runs_where_it_is_now() {
    let policy = policy(Some(3));
    let mut v = a_copy(true);
    v.owner_gone = Known::Known(true);
    v.liveness.insert(member_id('a'), fate('a', Known::Known(true), NO_TIME));
    assert_eq!(decide(&policy, &v), Step::UpdateSelf { id: member_id('a') }, "at once");
    v.liveness.insert(member_id('a'), Liveness::Answers);
    assert_eq!(doubt(decide(&policy, &v)), Doubt::OwnerStands, "whoever answers is not gone");
    let mut alone = a_copy(false);
    alone.owner_gone = Known::Known(true);
    assert_eq!(decide(&policy, &alone), Step::Resume, "with everybody down, it may be what makes up the quorum");
    alone.twin = Twin::Holds { instance: id('c') };
    assert_eq!(doubt(decide(&policy, &alone)), Doubt::HeldBy(id('c')), "of two copies none is the first to run");
}

/// It may be cut off, and vote: two that vote under one id can elect two leaders.
#[test]
fn an_owner_that_is_only_silent_is_never_replaced_by_a_copy() {
    let policy = policy(Some(3));
    for (owner, why) in [(Some(id('a')), Doubt::OwnerStands), (None, Doubt::NoRecord)] {
        let mut v = a_copy(true);
        v.ledger.instance = owner;
        says(&mut v, 'a', PeerState::Refused, LONG);
        v.liveness.insert(member_id('a'), fate('a', Known::Known(false), LONG));
        assert_eq!(doubt(decide(&policy, &v)), why);
        let vouched = Policy { adopt: Some(member_id('a')), ..policy.clone() };
        assert_eq!(decide(&vouched, &v), Step::UpdateSelf { id: member_id('a') });
    }
}

/// The disk was put back from before its first start; its ledger shows a promise, and nothing of a life.
#[test]
fn whoever_is_listed_as_one_that_ran_never_starts_the_list_again() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    v.ledger.chosen = Some(list("abc"));
    v.ledger.promised = Some(Ballot { round: 1, proposer: id('a'), nonce: 1 });
    v.chosen_cluster = Some(LIVING);
    says(&mut v, 'b', etcd("abc", false), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::Hold(Hold::DiskLost));
}

#[test]
fn data_without_a_record_is_ours_where_its_member_is_listed_at_our_address() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    v.data = DataDir::Whole { ids: Known::Known((LIVING, member_id('a'))) };
    v.ledger.instance = None;
    assert_eq!(doubt(decide(&policy, &v)), Doubt::NoRecord, "a disk alone says nothing");
    for quorum in [true, false] {
        says(&mut v, 'b', etcd("abc", quorum), NO_TIME);
        assert_eq!(decide(&policy, &v), Step::Resume);
    }
    // A record of another weighs more than a list that may be old.
    v.ledger.instance = Some(id('z'));
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::NotOurs { .. })));
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::Resume);
}

/// Its name is its instance id, and yet a copy of its disk may go by it, or by its place.
#[test]
fn our_old_place_is_not_removed_while_anybody_answers_as_that_member() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    v.me.listed.peer_urls = vec!["http://new-a:2380".to_owned()];
    v.liveness.insert(member_id('a'), Liveness::Answers);
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::NameTaken { kept: KeepReason::Alive, .. })));
    v.liveness.insert(member_id('a'), Liveness::Unknown);
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::NameTaken { kept: KeepReason::Unasked, .. })));
    v.liveness.insert(member_id('a'), fate('a', Known::Known(false), NO_TIME));
    assert_eq!(decide(&policy, &v), Step::RemoveMember { id: member_id('a'), why: RemovalReason::OwnOldId });
}

#[test]
fn an_older_copy_of_its_own_disk_is_had_anew_or_waits() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    v.data = DataDir::Whole { ids: Known::Known((LIVING, member_id('a'))) };
    let end = |index| LogEnd { term: 3, index };
    let seen = |here, before| Some(LogSeen { here: Known::Known(end(here)), before: end(before), by: id('c') });
    v.log = seen(300, 500);
    let step = decide(&policy, &v);
    assert!(matches!(&step, Step::Hold(Hold::OlderCopy { by, .. }) if *by == id('c')), "{step}");
    assert!(step.to_string().contains("could lose writes") && step.to_string().contains("MUSTER_ADOPT=61"), "{step}");
    assert_eq!(decide(&Policy { adopt: Some(member_id('a')), ..policy.clone() }, &v), Step::Resume);
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    assert!(matches!(decide(&policy, &v), Step::Quarantine(Quarantine::OlderCopy { .. })), "a quorum has all of it");
    says(&mut v, 'b', etcd("ab", true), NO_TIME);
    assert_eq!(decide(&policy, &v), Step::Resume, "of two the other alone is no quorum: raft fills us up");
    v.log = seen(500, 500);
    assert_eq!(decide(&policy, &v), Step::Resume);
    v.log = Some(LogSeen { here: Known::Unknown("torn".into()), before: end(500), by: id('c') });
    assert_eq!(decide(&policy, &v), Step::Resume, "what can't be read proves nothing");
}

// ---- lists that can't be started by

/// After the choice and before the first start an operator has mended a setting.
#[test]
fn a_list_that_holds_us_otherwise_is_renounced_and_gives_way_when_enough_did() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    all_fresh(&policy, &mut v, "bc");
    v.ledger.chosen = Some(list("abc"));
    v.ledger.promised = Some(Ballot { round: 1, proposer: id('a'), nonce: 1 });
    assert_eq!(decide(&policy, &v), Step::StartNew(list("abc")));
    v.me.listed.peer_urls = vec!["http://a:3380".to_owned()];
    assert!(matches!(decide(&policy, &v), Step::Renounce { .. }));
    v.ledger.renounce(&list("abc"));
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::ListedOtherwise { .. })));
    v.me.listed = listed('a');
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::ListedOtherwise { .. })), "a word is kept");
    let PeerState::Fresh(mut seen) = v.peers[&id('b')].sighting.clone() else { panic!() };
    seen.renounced.insert("t-1".to_owned());
    says(&mut v, 'b', PeerState::Fresh(seen), NO_TIME);
    assert!(matches!(decide(&policy, &v), Step::Propose(_)), "two of three never start by it: it can't have a quorum");
}

/// Whoever adopts it must know, or nobody who knows us by our word could accept it again.
#[test]
fn what_was_accepted_and_holds_us_otherwise_is_renounced_too() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    all_fresh(&policy, &mut v, "bc");
    v.ledger.accepted = Some(Accepted { ballot: Ballot { round: 1, proposer: id('b'), nonce: 2 }, list: list("abc") });
    assert!(matches!(decide(&policy, &v), Step::Propose(_)));
    v.me.listed.peer_urls = vec!["http://a:3380".to_owned()];
    assert!(matches!(decide(&policy, &v), Step::Renounce { .. }));
}

/// We took it, never ran in it, and have another address now.
#[test]
fn a_place_of_ours_under_another_address_is_given_up() {
    let policy = policy(Some(3));
    let mut v = view('c', "abc");
    let PeerState::Etcd(mut seen) = etcd("ab", true) else { panic!() };
    let place =
        Member { id: MemberId(9), name: String::new(), client_urls: Vec::new(), is_learner: true, ..voter('x') };
    seen.members.push(place);
    says(&mut v, 'a', PeerState::Etcd(seen), NO_TIME);
    v.liveness.insert(MemberId(9), fate('c', Known::Known(false), NO_TIME));
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::AnotherJoins { .. })), "somebody's");
    v.ledger.joined = Some(Joined { cluster: LIVING, member: MemberId(9), spawned: false });
    assert_eq!(decide(&policy, &v), Step::RemoveMember { id: MemberId(9), why: RemovalReason::OwnOldId });
    v.liveness.insert(MemberId(9), Liveness::Answers);
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::NameTaken { .. })), "somebody runs in it");
}

#[test]
fn whoever_was_started_by_a_list_can_never_renounce_it() {
    let mut ledger = Ledger::default();
    ledger.start_founding(&list("abc"));
    ledger.renounce(&list("abc"));
    assert!(ledger.renounced.is_empty());
}

#[test]
fn a_list_that_etcd_would_refuse_was_never_chosen() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    all_fresh(&policy, &mut v, "bc");
    let mut bad = list("abc");
    bad.members[1].peer_urls = vec!["http://ip-b.ec2.internal other.example:2380".to_owned()];
    v.ledger.chosen = Some(bad);
    assert!(matches!(decide(&policy, &v), Step::Propose(_)));
}

/// It needs no malice: a proposer of another cluster offers its list to an address that EC2 has handed on.
#[test]
fn a_strangers_word_changes_nothing() {
    let policy = policy(Some(3));
    let mut v = view('c', "abc");
    all_fresh(&policy, &mut v, "ab");
    let standing = v.acceptor_context(&policy);
    let charter = policy_charter("abc");
    let at = |name: char, url: &str| {
        let mut list = list("abc");
        list.members.iter_mut().filter(|m| m.instance == id(name)).for_each(|m| m.peer_urls = vec![url.to_owned()]);
        list
    };
    let lists = [list("xyz"), list("c"), at('a', "http://192.0.2.1:2380"), at('c', "http://192.0.2.1:2380"), {
        let mut list = list("abc");
        list.members[0].name = "x\0".to_owned();
        list
    }];
    let ballot = Ballot { round: 1, proposer: id('a'), nonce: 1 };
    let promises =
        |ledger: &Option<Ledger>| ledger.as_ref().map(|l| (l.promised.clone(), l.accepted.clone(), l.chosen.clone()));
    for list in lists {
        for call in [
            Call::Chosen { charter: Some(charter.clone()), list: list.clone() },
            Call::Chosen { charter: None, list: list.clone() },
            Call::Accept { charter: charter.clone(), ballot: ballot.clone(), list: list.clone() },
        ] {
            let (said, next) = answer(&v.ledger, &standing, &call);
            assert!(matches!(said, Answer::Unfit { .. } | Answer::DifferentRoster { .. }), "{call:?}: {said:?}");
            assert!(promises(&next).is_none_or(|after| after == (None, None, None)), "{call:?}");
        }
    }
    let others = Call::Chosen { charter: Some(policy_charter("xyz")), list: list("abc") };
    assert!(matches!(answer(&v.ledger, &standing, &others), (Answer::DifferentRoster { .. }, None)));
    let far = Call::Prepare { charter, ballot: Ballot { round: u64::MAX, proposer: id('a'), nonce: 1 } };
    assert!(matches!(answer(&v.ledger, &standing, &far), (Answer::Unfit { .. }, None)), "it would be the last promise");
}

#[test]
fn a_name_that_does_not_resolve_is_not_agreed_on() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    all_fresh(&policy, &mut v, "bc");
    v.unresolved.insert(id('b'), "http://b:2380: no such host".to_owned());
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::Unresolved { instance, .. }) if instance == id('b')));
}

/// A fleet that was stopped and started has young launch times, and may have been a cluster for years.
#[test]
fn age_is_told_by_the_first_launch() {
    let policy = policy(Some(3));
    let mut v = view('a', "abc");
    all_fresh(&policy, &mut v, "b");
    says(&mut v, 'c', PeerState::Refused, LONG);
    assert!(matches!(decide(&policy, &v), Step::Propose(_)), "young");
    let Known::Known(young) = v.roster.clone() else { panic!() };
    let restarted = |i: &Instance| Instance { attached: Some(NOW - 3600), ..i.clone() };
    let roster = Roster::new(young.all().iter().map(restarted).collect(), NOW);
    all_fresh_in(&policy, &mut v, &roster, "b");
    v.roster = Known::Known(roster);
    assert_eq!(*absence(&decide(&policy, &v)), AbsenceReason::Aged(id('a')));
}

// ---- members that never ran

#[test]
fn of_whom_nothing_is_known_counts_for_no_quorum() {
    let policy = policy(Some(3));
    let mut v = view('d', "abcd");
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    v.liveness.insert(member_id('a'), fate('a', Known::Known(true), LONG));
    v.liveness.insert(member_id('c'), Liveness::Unknown);
    let Step::Hold(Hold::Spare { kept, .. }) = decide(&policy, &v) else { panic!() };
    assert!(kept.contains(&(member_id('a'), KeepReason::QuorumAfter { answering: 1, needed: 2 })), "{kept:?}");
    v.liveness.insert(member_id('c'), Liveness::Answers);
    assert!(matches!(decide(&policy, &v), Step::RemoveMember { .. }));
}

/// EC2 forgets a terminated instance's address at once: nothing names whose the entry was.
#[test]
fn a_learner_that_never_ran_and_is_nobodys_blocks_no_join() {
    let policy = policy(Some(3));
    let mut v = view('d', "abd");
    let PeerState::Etcd(mut seen) = etcd("ab", true) else { panic!() };
    let learner =
        Member { id: MemberId(9), name: String::new(), client_urls: Vec::new(), is_learner: true, ..voter('x') };
    seen.members.push(learner.clone());
    for name in ['a', 'b'] {
        says(&mut v, name, PeerState::Etcd(seen.clone()), NO_TIME);
    }
    let nobody = |silent_for| {
        Liveness::Silent(Silence {
            instance: None,
            gone: Known::Unknown("no instance can be named".into()),
            silent_for,
        })
    };
    v.liveness.insert(learner.id, nobody(Duration::from_secs(29)));
    let step = decide(&policy, &v);
    assert!(matches!(&step, Step::Hold(Hold::AnotherJoins { kept: KeepReason::Dwell, .. })), "{step}");
    assert!(step.to_string().contains("http://x:2380") && step.to_string().contains("29 s"), "{step}");
    v.liveness.insert(learner.id, nobody(Duration::from_secs(30)));
    assert_eq!(decide(&policy, &v), Step::RemoveMember { id: learner.id, why: RemovalReason::NeverStarted });
    for fate in [Liveness::Unknown, Liveness::Answers, fate('x', Known::Known(false), LONG)] {
        v.liveness.insert(learner.id, fate);
        assert!(matches!(decide(&policy, &v), Step::Hold(Hold::AnotherJoins { .. })));
    }
    // A voter without a name counts in every quorum: it goes by proof alone.
    seen.members.last_mut().unwrap().is_learner = false;
    says(&mut v, 'a', PeerState::Etcd(seen.clone()), NO_TIME);
    says(&mut v, 'b', PeerState::Etcd(seen), NO_TIME);
    v.liveness.insert(learner.id, nobody(LONG));
    assert!(matches!(decide(&policy, &v), Step::Hold(Hold::Spare { .. })));
}

/// Two are terminated that claimed and never established; whoever never ran may follow the next claim.
#[test]
fn a_void_claim_shows_a_disk_from_before_the_next_founding() {
    let policy = Policy { claim: Some("s3://b/claim.json".to_owned()), ..policy(Some(2)) };
    let mut v = view('a', "ab");
    let held = |names| ClaimState::Held { claim: Claim::Founding { list: list(names) }, version: "1".to_owned() };
    let before = |v: &View, claim: &ClaimState| claim.is_before_a_founding(&v.acceptor_context(&policy));
    assert!(before(&v, &ClaimState::Absent) && !before(&v, &held("xy")));
    let mut all = roster("ab").all().to_vec();
    all.extend(["x", "y"].iter().flat_map(|n| n.chars()).map(|n| instance(n, InstanceState::Terminated)));
    v.roster = Known::Known(Roster::new(all, NOW));
    assert!(before(&v, &held("xy")) && !before(&v, &held("ab")));
    assert!(!before(&v, &ClaimState::Held { claim: Claim::Established { cluster: LIVING }, version: "1".to_owned() }));
    assert!(!before(&v, &ClaimState::Unknown("denied".into())));
}

#[test]
fn data_is_set_aside_by_an_operator_beside_exactly_one_quorum_that_lives_without_it() {
    let mut v = with_data(LIVING);
    assert_eq!(may_set_aside(&v, &PeerState::Refused), Err(Refusal::MayBeTheLast));
    says(&mut v, 'b', etcd("abc", false), NO_TIME);
    assert_eq!(
        may_set_aside(&v, &PeerState::Refused),
        Err(Refusal::MayBeTheLast),
        "a quorum that is not proven is none"
    );
    says(&mut v, 'b', etcd("abc", true), NO_TIME);
    assert_eq!(may_set_aside(&v, &PeerState::Refused).map(|seen| seen.cluster), Ok(LIVING));
    for own in [
        etcd("abc", true),
        seen_data(None, None),
        PeerState::Silent("timeout".to_owned()),
        PeerState::Mismatch("TLS".to_owned()),
    ] {
        assert!(matches!(may_set_aside(&v, &own), Err(Refusal::Runs(_))), "{own}");
    }
    let PeerState::Etcd(seen) = etcd("abc", true) else { panic!() };
    says(&mut v, 'c', PeerState::Etcd(EtcdSeen { cluster: ClusterId(7), ..seen }), NO_TIME);
    assert!(matches!(may_set_aside(&v, &PeerState::Refused), Err(Refusal::TwoClusters(_))));
    v.data = DataDir::Fresh;
    assert_eq!(may_set_aside(&v, &PeerState::Refused), Err(Refusal::NoData));
}
