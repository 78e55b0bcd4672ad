//! The founding under every disturbance a small world allows: see `world.rs` for what may happen.
//!
//! Breadth first, so that a counterexample is a shortest one. Where the whole space is too big, the bound is printed.
//! `cargo test --profile model --test model -- --nocapture` shows the counts; MODEL_STATES raises the bound.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

#[path = "../common/mod.rs"]
mod common;
mod explore;
mod world;

use explore::{Outcome, Promise, explore};
use world::{Budget, Mask, Rules, World};

fn rules(size: usize, slots: usize) -> Rules {
    let policy = common::policy(Some(size));
    Rules { policy, size, slots, ec2_is_timely: true }
}

/// States to visit: enough for every CI run, or as many as MODEL_STATES says.
#[expect(
    clippy::disallowed_methods,
    reason = "the program's settings are read in config alone; this is the test's own"
)]
fn bound() -> usize {
    std::env::var("MODEL_STATES").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
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
    let Outcome { states, complete, healed, counterexample } = explore(rules, worlds, promise, bound());
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
}
