//! The founding under every disturbance a small world allows: see `world.rs` for what may happen.
//!
//! Breadth first, so that a counterexample is a shortest one. Where the whole space is too big, the bound is printed.
//! `cargo test --profile model --test model -- --nocapture` shows the counts; MODEL_STATES and
//! MODEL_WALKS raise the bounds, MODEL_SEED replays one walk.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

#[path = "../common/mod.rs"]
mod common;
mod explore;
mod world;

use explore::{Outcome, Promise, explore, walk};
use world::{Budget, Mask, Rules, World};

fn rules(size: usize, slots: usize) -> Rules {
    let policy = common::policy(Some(size));
    Rules { policy, size, slots, ec2_is_timely: true }
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

fn check(name: &str, rules: &Rules, starts: &[Vec<Mask>], budget: Budget, promise: Promise) {
    let worlds: Vec<World> = starts.iter().map(|shown| World::new(rules, shown, budget)).collect();
    let Outcome { states, complete, healed, counterexample } =
        explore(rules, worlds, promise, bound("MODEL_STATES", 20_000));
    let space = if complete { "the whole space" } else { "bounded" };
    println!("{name}: {states} states ({space}), {healed} of them healed to the end");
    if let Some(trace) = counterexample {
        panic!("{name}: {trace}");
    }
}

const QUIET: Budget = Budget { crashes: 0, wipes: 0, cuts: 0, terminations: 0, rounds: 2 };

#[test]
fn two_nodes() {
    let rules = rules(2, 3);
    let starts = all_stale_rosters(2);
    check("two, crash and cut", &rules, &starts, Budget { crashes: 1, cuts: 1, ..QUIET }, Promise::OneEver);
    check("two, one terminated", &rules, &starts, Budget { crashes: 1, terminations: 1, ..QUIET }, Promise::OneEver);
}

#[test]
fn three_nodes() {
    let rules = rules(3, 4);
    let starts = all_stale_rosters(3);
    check("three, crash", &rules, &starts, Budget { crashes: 1, ..QUIET }, Promise::OneEver);
    check("three, cut", &rules, &starts, Budget { cuts: 1, ..QUIET }, Promise::OneEver);
    check(
        "three, one terminated",
        &rules,
        &[vec![7; 3]],
        Budget { terminations: 1, crashes: 1, ..QUIET },
        Promise::OneEver,
    );
    check("three, a disk lost", &rules, &[vec![7; 3]], Budget { wipes: 1, ..QUIET }, Promise::OneAtOnce);
    let lost = Budget { wipes: 1, crashes: 1, ..QUIET };
    check("three, a disk lost and a crash", &rules, &[vec![7; 3]], lost, Promise::OneAtOnce);
}

/// Deeper than a search gets: whole lives, disturbed many times over, then healed.
#[test]
fn walks() {
    // No disk is lost unseen: what G1b is promised for. Then with lost disks, for G1a and against amnesia.
    let budget = Budget { crashes: 4, cuts: 3, terminations: 2, wipes: 0, rounds: 8 };
    walk_all("walks", budget, Promise::OneEver);
    walk_all("walks with lost disks", Budget { wipes: 2, terminations: 1, ..budget }, Promise::OneAtOnce);
}

fn walk_all(name: &str, budget: Budget, promise: Promise) {
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
        let start = World::new(&rules, &shown, budget);
        if let Err(broken) = walk(&rules, start, promise, seed as u64, 120) {
            panic!("{name}: {size} nodes, {broken}");
        }
    }
    println!("{name}: seeds {first} to {last}, 120 events each, healed at the end");
}
