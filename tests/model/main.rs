//! The founding under every disturbance a small world allows: see `world.rs` for what may happen.
//!
//! Breadth first, so that a counterexample is a shortest one. Where the whole space is too big, the bound is printed.
//! `cargo test --profile model -p muster-core --test model -- --nocapture` shows the counts; MODEL_STATES and
//! MODEL_WALKS raise the bounds, MODEL_SEED replays one walk.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod claim;
#[path = "../common/mod.rs"]
mod common;
mod etcd;
mod explore;
mod faults;
mod founding;
mod mail;
mod restore;
mod shared;
mod steps;
mod view;
mod world;

use explore::{Outcome, Promise, explore, first, walk};
use muster_core::view::Policy;
use world::{Budget, Doing, LeftOut, Mask, Rules, Store, World};

fn rules(size: usize, slots: usize) -> Rules {
    Rules {
        policy: common::policy(Some(size)),
        size,
        slots,
        ec2_is_timely: true,
        store: Store::Keeps,
        beside_snapshots: false,
        left_out: None,
    }
}

/// How much of it: enough for every run of the tests, or as much as the environment says.
#[expect(
    clippy::disallowed_methods,
    reason = "the program's settings are read in config alone; this is the test's own"
)]
fn bound(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// All that each node may see of a fleet at first: itself, and any part of the others.
fn all_stale_rosters(born: usize) -> Vec<Vec<Mask>> {
    let all: Mask = (1 << born) - 1;
    let mut starts = vec![Vec::new()];
    for n in 0..born {
        let masks: Vec<Mask> = (0..=all).filter(|m| m & (1 << n) != 0).collect();
        starts = starts.iter().flat_map(|s: &Vec<Mask>| masks.iter().map(|m| [s.clone(), vec![*m]].concat())).collect();
    }
    starts
}

/// Fleets that see these parts of themselves.
fn new(rules: &Rules, starts: &[Vec<Mask>]) -> Vec<World> {
    starts.iter().map(|shown| World::new(rules, shown, QUIET)).collect()
}

/// What can happen to these fleets from here on.
fn check(name: &str, rules: &Rules, worlds: &[World], budget: Budget, promise: Promise) {
    let worlds = worlds.iter().map(|world| World { budget, ..world.clone() }).collect();
    let found = explore(rules, worlds, promise, bound("MODEL_STATES", 12_000));
    let Outcome { states, depth, healed, .. } = found;
    let space = match found.is_complete {
        true => "the whole space".to_owned(),
        false => format!("bounded: all runs of {depth} events"),
    };
    common::report(&format!("{name}: {states} states ({space}), {healed} of them healed to the end"));
    if let Some(trace) = found.counterexample {
        panic!("{name}: {trace}");
    }
}

/// What a guard keeps out is found where the guard is left out: else the search would prove nothing.
fn fails(name: &str, rules: &Rules, worlds: &[World], budget: Budget, how: &str) {
    let worlds = worlds.iter().map(|world| World { budget, ..world.clone() }).collect();
    let found = explore(rules, worlds, Promise::OneEver, bound("MODEL_STATES", 12_000));
    let trace = found.counterexample.unwrap_or_else(|| panic!("{name}: nothing is broken in {} states", found.states));
    assert!(trace.starts_with(how), "{name}: {trace}");
    common::report(&format!("{name}: broken after {} states, as it must be", found.states));
}

fn all_run(world: &World, size: usize) -> bool {
    world.nodes.iter().filter(|n| n.runs() && n.ledger.founded).count() == size
}

const QUIET: Budget = Budget {
    crashes: 0,
    wipes: 0,
    wals: 0,
    cuts: 0,
    terminations: 0,
    rounds: 2,
    copies: 0,
    strangers: 0,
    settings: 0,
    lies: 0,
    orders: 0,
    returns: 0,
};
const CRASH: Budget = Budget { crashes: 1, ..QUIET };
const TWO_CRASHES: Budget = Budget { crashes: 2, ..QUIET };
const CUT: Budget = Budget { cuts: 1, ..QUIET };

#[test]
fn two_nodes() {
    let rules = rules(2, 3);
    let stale = new(&rules, &all_stale_rosters(2));
    check("two, crash and cut", &rules, &stale, Budget { cuts: 1, ..CRASH }, Promise::OneEver);
    check("two, WAL lost and crash", &rules, &stale, Budget { wals: 1, ..CRASH }, Promise::OneEver);
    check("two, WAL lost and cut", &rules, &stale, Budget { wals: 1, ..CUT }, Promise::OneEver);
    check("two, one terminated and crash", &rules, &stale, Budget { terminations: 1, ..CRASH }, Promise::OneEver);
}

#[test]
fn three_nodes() {
    let rules = rules(3, 4);
    let stale = new(&rules, &all_stale_rosters(3));
    let whole = new(&rules, &[vec![7; 3]]);
    check("three, crash", &rules, &stale, CRASH, Promise::OneEver);
    check("three, cut", &rules, &stale, CUT, Promise::OneEver);
    check("three, one terminated and crash", &rules, &whole, Budget { terminations: 1, ..CRASH }, Promise::OneEver);
    check("three, disk lost", &rules, &whole, Budget { wipes: 1, ..QUIET }, Promise::OneAtOnce);
    check("three, disk lost and crash", &rules, &whole, Budget { wipes: 1, ..CRASH }, Promise::OneAtOnce);
}

/// The same from later on, where a search from the beginning doesn't get to.
#[test]
fn three_nodes_further_on() {
    let rules = rules(3, 4);
    let whole = World::new(&rules, &[7; 3], QUIET);
    let asks = [first(&rules, whole, |world| world.nodes[0].round().is_some_and(|r| r.sent.is_some()))];
    check("three in the accept phase, crash", &rules, &asks, CRASH, Promise::OneEver);
    // With the third one's acceptance, and without.
    let chose = [true, false].map(|accepted| {
        first(&rules, asks[0].clone(), |world| {
            world.nodes[0].ledger.chosen.is_some() && world.nodes[2].ledger.accepted.is_some() == accepted
        })
    });
    check("three that chose, crash", &rules, &chose, CRASH, Promise::OneEver);
    check("three that chose, two crashes", &rules, &chose, Budget { crashes: 2, ..CRASH }, Promise::OneEver);
    check("three that chose, WAL lost and crash", &rules, &chose, Budget { wals: 1, ..CRASH }, Promise::OneEver);
    let two_run = |world: &World| {
        let late = &world.nodes[2];
        world.clusters.iter().any(|c| c.wrote) && late.doing == Doing::Deliberates && late.ledger.chosen.is_some()
    };
    let run = chose.clone().map(|chose| first(&rules, chose, two_run));
    let all_run = [first(&rules, chose[0].clone(), |world| all_run(world, 3))];
    check("three that run, WAL lost and crash", &rules, &all_run, Budget { wals: 1, ..CRASH }, Promise::OneEver);
    check("three that run, WAL lost and cut", &rules, &all_run, Budget { wals: 1, ..CUT }, Promise::OneEver);
    check("two of three run, WAL lost and crash", &rules, &run, Budget { wals: 1, ..CRASH }, Promise::OneEver);
    check("two of three run, WAL lost and cut", &rules, &run[..1], Budget { wals: 1, ..CUT }, Promise::OneEver);
    check("two of three run, disk lost and crash", &rules, &run, Budget { wipes: 1, ..CRASH }, Promise::OneAtOnce);
}

#[test]
fn five_nodes() {
    let rules = rules(5, 6);
    let whole = [World::new(&rules, &[31; 5], QUIET)];
    check("five, crash", &rules, &whole, CRASH, Promise::OneEver);
    check("five, cut", &rules, &whole, CUT, Promise::OneEver);
    let asks = |world: &World| world.nodes[0].round().is_some_and(|r| r.sent.is_some());
    let asks = [first(&rules, whole[0].clone(), asks)];
    check("five in the accept phase, crash", &rules, &asks, CRASH, Promise::OneEver);
    let chose = [first(&rules, asks[0].clone(), |world| world.nodes[0].ledger.chosen.is_some())];
    check("five that chose, two crashes", &rules, &chose, Budget { crashes: 2, ..CRASH }, Promise::OneEver);
    check("five that chose, WAL lost and crash", &rules, &chose, Budget { wals: 1, ..CRASH }, Promise::OneEver);
}

/// A disk is copied, and a new instance boots from the copy: beside the original, cut off from it, or in its place.
#[test]
fn a_copied_disk() {
    let rules = rules(3, 5);
    let whole = World::new(&rules, &[7; 3], QUIET);
    let all_run = [first(&rules, whole.clone(), |world| all_run(world, 3))];
    let copy = Budget { copies: 1, ..QUIET };
    check("three that run, a disk copied and crash", &rules, &all_run, Budget { crashes: 1, ..copy }, Promise::OneEver);
    check("three that run, a disk copied and cut", &rules, &all_run, Budget { cuts: 1, ..copy }, Promise::OneEver);
    let replaced = Budget { terminations: 1, ..copy };
    check("three that run, a disk copied and one terminated", &rules, &all_run, replaced, Promise::OneEver);
    let fresh = Budget { crashes: 1, ..copy };
    check("three, a disk copied and crash", &rules, &[whole], fresh, Promise::OneEver);
}

/// Whoever can't ask the metadata service is not whom its disk was with: without that rule two run as one member.
#[test]
fn a_mute_metadata_service() {
    let rules = Rules { left_out: Some(LeftOut::Machine), ..rules(3, 5) };
    let whole = World::new(&rules, &[7; 3], QUIET);
    let all_run = [first(&rules, whole, |world| all_run(world, 3))];
    let copied = Budget { copies: 1, cuts: 1, ..QUIET };
    fails("three that run, a disk copied, metadata mute and taken at its disk's word", &rules, &all_run, copied, "G6");
}

/// Launch times are those of the last start; the volumes of two are not mounted then, and the third is off.
#[test]
fn a_fleet_that_was_stopped_and_started() {
    let rules = rules(3, 4);
    let whole = World::new(&rules, &[7; 3], QUIET);
    let grown = first(&rules, whole, |world| all_run(world, 3)).grown_old();
    let budget = Budget { crashes: 2, wipes: 2, ..QUIET };
    check("three that are old, stopped, started and two disks lost", &rules, &[grown], budget, Promise::OneEver);
}

/// Whoever reaches the port: he knows the charter, for hello tells it.
#[test]
fn a_stranger() {
    let budget = Budget { strangers: 2, ..QUIET };
    let two = rules(2, 3);
    check("two, a stranger", &two, &new(&two, &[vec![3; 2]]), budget, Promise::OneEver);
    let three = rules(3, 4);
    check("three, a stranger", &three, &new(&three, &[vec![7; 3]]), budget, Promise::OneEver);
}

/// Between the choice and the first start an operator gives nodes another port.
#[test]
fn a_changed_setting() {
    let two = rules(2, 3);
    let budget = Budget { settings: 2, ..QUIET };
    check("two, two settings changed", &two, &new(&two, &[vec![3; 2]]), budget, Promise::OneEver);
    let three = rules(3, 4);
    let whole = World::new(&three, &[7; 3], QUIET);
    let chose = [true, false].map(|accepted| {
        first(&three, whole.clone(), |world| {
            world.nodes[0].ledger.chosen.is_some() && world.nodes[2].ledger.accepted.is_some() == accepted
        })
    });
    for settings in [1, 2, 3] {
        let budget = Budget { settings, ..QUIET };
        check(&format!("three that chose, {settings} settings changed"), &three, &chose, budget, Promise::OneEver);
    }
    let crash = Budget { settings: 2, ..CRASH };
    check("three that chose, two settings changed and crash", &three, &chose, crash, Promise::OneEver);
}

/// A list that an operator wrote, without a word on ages: files that differ, too.
#[test]
fn a_written_roster() {
    let written =
        |size, slots| Rules { policy: Policy { written: true, ..common::policy(Some(size)) }, ..rules(size, slots) };
    let two = written(2, 3);
    let differing = new(&two, &all_stale_rosters(2));
    check("two by a list, crash and cut", &two, &differing, Budget { cuts: 1, ..CRASH }, Promise::OneEver);
    check("two by a list, disk lost and crash", &two, &differing, Budget { wipes: 1, ..CRASH }, Promise::OneAtOnce);
    let three = written(3, 4);
    let differing = new(&three, &all_stale_rosters(3));
    check("three by a list, crash", &three, &differing, CRASH, Promise::OneEver);
    check("three by a list, cut", &three, &differing, CUT, Promise::OneEver);
    let whole = new(&three, &[vec![7; 3]]);
    check(
        "three by a list, one terminated and crash",
        &three,
        &whole,
        Budget { terminations: 1, ..CRASH },
        Promise::OneEver,
    );
    check("three by a list, disk lost", &three, &whole, Budget { wipes: 1, ..QUIET }, Promise::OneAtOnce);
}

/// With a claim, and an EC2 that may hide launches and terminations for ever: nothing but the object keeps two from founding.
fn claiming(size: usize, slots: usize) -> Rules {
    let policy = Policy { claim: Some("s3://b/claim.json".to_owned()), ..common::policy(Some(size)) };
    Rules { policy, ec2_is_timely: false, ..rules(size, slots) }
}

#[test]
fn a_claim() {
    let one = claiming(1, 2);
    let apart = new(&one, &[vec![1, 2]]);
    check("two of size one with a claim, crash", &one, &apart, CRASH, Promise::OneEver);
    let two = claiming(2, 3);
    let stale = new(&two, &all_stale_rosters(2));
    check("two with a claim, crash and cut", &two, &stale, Budget { cuts: 1, ..CRASH }, Promise::OneEver);
    let lost = Budget { terminations: 1, ..CRASH };
    check("two with a claim, one terminated and crash", &two, &stale, lost, Promise::OneEver);
    check("two with a claim, disk lost and crash", &two, &stale, Budget { wipes: 1, ..CRASH }, Promise::OneEver);
    let three = claiming(3, 4);
    let stale = new(&three, &all_stale_rosters(3));
    check("three with a claim, crash", &three, &stale, CRASH, Promise::OneEver);
    check("three with a claim, cut", &three, &stale, CUT, Promise::OneEver);
    let whole = new(&three, &[vec![7; 3]]);
    check("three with a claim, one terminated and crash", &three, &whole, lost, Promise::OneEver);
    check("three with a claim, disk lost and crash", &three, &whole, Budget { wipes: 1, ..CRASH }, Promise::OneEver);
}

/// Stores that ignore or refuse conditions fail their trial, and found nothing; whose claim is used as it is founds twice.
#[test]
fn a_store_that_is_no_place_for_a_claim() {
    let run = Budget { wipes: 1, ..CRASH };
    for (store, what) in [(Store::Ignores, "ignores"), (Store::Refuses, "refuses")] {
        let two = Rules { store, ..claiming(2, 3) };
        let stale = new(&two, &all_stale_rosters(2));
        check(&format!("two with a claim, a store that {what} conditions"), &two, &stale, run, Promise::OneEver);
        // What ran before there was such a store goes on.
        let three = claiming(3, 4);
        let whole = World::new(&three, &[7; 3], QUIET);
        let ran = [first(&three, whole, |world| all_run(world, 3))];
        let three = Rules { store, ..three };
        check(&format!("three that run, a store that {what} conditions"), &three, &ran, run, Promise::OneEver);
    }
    let trusted = Rules { store: Store::Ignores, left_out: Some(LeftOut::Trial), ..claiming(1, 2) };
    let apart = new(&trusted, &[vec![1, 2]]);
    fails("two of size one, a store that ignores conditions and is trusted", &trusted, &apart, QUIET, "G1a");
}

/// The bucket is restored or emptied: where data is seen, or too few are fresh, nothing is founded by what it says.
#[test]
fn a_store_that_forgets() {
    let three = claiming(3, 4);
    let ran = [first(&three, World::new(&three, &[7; 3], QUIET), |world| all_run(world, 3))];
    let lies = Budget { lies: 2, ..QUIET };
    check("three that run, claim lost and crash", &three, &ran, Budget { crashes: 1, ..lies }, Promise::OneEver);
    check("three that run, claim and disk lost", &three, &ran, Budget { wipes: 1, ..lies }, Promise::OneEver);
    check(
        "three that run, claim lost, disk lost and cut",
        &three,
        &ran,
        Budget { wipes: 1, cuts: 1, ..lies },
        Promise::OneEver,
    );
}

/// Beside snapshots of an earlier cluster.
fn restoring(size: usize, slots: usize) -> Rules {
    let policy = Policy { snapshots: vec!["file:/b".to_owned()], ..common::policy(Some(size)) };
    Rules { policy, beside_snapshots: true, ..rules(size, slots) }
}

fn restoring_by_a_claim(size: usize, slots: usize) -> Rules {
    let policy = Policy { snapshots: vec!["file:/b".to_owned()], ..claiming(size, slots).policy };
    Rules { policy, ..restoring(size, slots) }
}

/// A fleet of that size that sees all of itself.
fn beside_snapshots(rules: &Rules, older: Option<usize>) -> World {
    World::new(rules, &vec![(1 << rules.size) - 1; rules.size], QUIET).beside_snapshots(rules, older)
}

#[test]
fn a_restore() {
    let ordered = Budget { orders: 1, ..QUIET };
    let crash = Budget { crashes: 1, ..ordered };
    for size in [2, 3] {
        let rules = restoring(size, size + 1);
        let whole = [beside_snapshots(&rules, None)];
        let name = |what: &str| format!("{size} beside snapshots, {what}");
        check(&name("an order and crash"), &rules, &whole, crash, Promise::OneEver);
        let two = Budget { orders: 2, ..QUIET };
        check(&name("two orders, or one withdrawn"), &rules, &whole, two, Promise::OneEver);
        let old = Budget { returns: 1, ..ordered };
        check(&name("an order and an old member"), &rules, &whole, old, Promise::OneEver);
        let older = (0..size).map(|older| beside_snapshots(&rules, Some(older))).collect::<Vec<_>>();
        check(&name("an order, an older program and crash"), &rules, &older, crash, Promise::OneEver);
        let late = older.iter().cloned().map(World::ordered).collect::<Vec<_>>();
        check(&name("ordered, an older program"), &rules, &late, ordered, Promise::OneEver);
    }
    let rules = restoring_by_a_claim(3, 4);
    let whole = [None, Some(0), Some(2)].map(|older| beside_snapshots(&rules, older));
    check("three beside snapshots with a claim, an order and crash", &rules, &whole[..1], crash, Promise::OneEver);
    check("the same, one of them older", &rules, &whole[1..], crash, Promise::OneEver);
}

/// Between its stages, where a search from the beginning doesn't get to.
#[test]
fn a_restore_further_on() {
    let rules = restoring(3, 4);
    let whole = beside_snapshots(&rules, None).ordered();
    let chose = first(&rules, whole, |world| world.nodes[0].ledger.chosen.is_some());
    let installs = first(&rules, chose.clone(), |world| matches!(world.nodes[0].doing, Doing::Installing(_)));
    let half = first(&rules, installs.clone(), |world| world.nodes[0].half);
    let runs = first(&rules, half.clone(), |world| world.nodes[0].runs());
    let all_run = first(&rules, runs.clone(), |world| all_run(world, 3));
    let early = [chose, installs, half];
    check("three that begin with what is restored, two crashes", &rules, &early, TWO_CRASHES, Promise::OneEver);
    let disturbed = Budget { orders: 1, returns: 1, ..CRASH };
    for (stage, starts) in [("begin", &early[..]), ("run in part", &[runs]), ("run", &[all_run])] {
        let name = |what: &str| format!("three that {stage} with what is restored, {what}");
        let order = name("another order, an old member and crash");
        check(&order, &rules, starts, disturbed, Promise::OneEver);
        check(&name("cut and crash"), &rules, starts, Budget { cuts: 1, ..CRASH }, Promise::OneEver);
    }
}

/// Deeper than a search gets: whole lives, disturbed many times over, then healed.
#[test]
fn walks() {
    // No disk is lost unseen: what G1b is promised for. Then with lost disks, for G1a and against amnesia.
    let budget = Budget { crashes: 4, cuts: 3, terminations: 2, rounds: 8, ..QUIET };
    walk_all("walks", rules, budget, Promise::OneEver);
    walk_all("walks with lost WAL volumes", rules, Budget { wals: 2, terminations: 1, ..budget }, Promise::OneEver);
    let lost = Budget { wipes: 2, terminations: 1, ..budget };
    walk_all("walks with lost disks", rules, lost, Promise::OneAtOnce);
    let copied = Budget { copies: 1, settings: 2, strangers: 2, ..budget };
    walk_all("walks with copied disks, strangers and changed settings", rules, copied, Promise::OneEver);
    walk_all("walks with a claim", claiming, budget, Promise::OneEver);
    walk_all("walks with a claim and lost disks", claiming, lost, Promise::OneEver);
    let ordered = Budget { crashes: 4, cuts: 3, rounds: 8, orders: 3, returns: 1, ..QUIET };
    walk_all("walks beside snapshots", restoring, ordered, Promise::OneEver);
    walk_all(
        "walks beside snapshots with lost WAL volumes",
        restoring,
        Budget { wals: 1, ..ordered },
        Promise::OneEver,
    );
    walk_all("walks beside snapshots with a claim", restoring_by_a_claim, ordered, Promise::OneEver);
}

fn walk_all(name: &str, rules: fn(usize, usize) -> Rules, budget: Budget, promise: Promise) {
    let walks = bound("MODEL_WALKS", 60);
    let only = bound("MODEL_SEED", 0);
    let seeds = if only > 0 { only..=only } else { 1..=walks };
    let (first, last) = (*seeds.start(), *seeds.end());
    for seed in seeds {
        let size = [2, 3, 3, 5][seed % 4];
        // Each that is terminated can be replaced.
        let rules = rules(size, size + 2);
        let starts = all_stale_rosters(size.min(3));
        let mut shown = starts[seed * 7 % starts.len()].clone();
        shown.resize(size, (1 << size) - 1);
        let mut start = World::new(&rules, &shown, budget);
        if rules.beside_snapshots {
            // In every other of them one runs an older program.
            start = start.beside_snapshots(&rules, Some(seed / 8 % size).filter(|_| seed % 8 < 4));
        }
        if let Err(broken) = walk(&rules, start, promise, seed as u64, 120) {
            panic!("{name}: {size} nodes, {broken}");
        }
    }
    common::report(&format!("{name}: seeds {first} to {last}, 120 events each, healed at the end"));
}
