//! Breadth-first search with 128-bit fingerprints, and fair runs from the states it meets.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};

use crate::steps::successors;
use crate::world::{Rules, Store, World};

/// What must hold in every state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// G1a: never two clusters that could both accept a write.
    OneAtOnce,
    /// G1b: beyond that, none writes after another has, unless that one is lost for ever.
    OneEver,
}

/// What a search found.
pub struct Outcome {
    pub states: usize,
    pub is_complete: bool,
    /// Every run of so many events was followed; all runs, where complete.
    pub depth: usize,
    pub healed: usize,
    pub counterexample: Option<String>,
}

/// How many states apart fair runs are started.
const HEAL_EVERY: usize = 50;
/// Looks and deliveries in a fair run, before it counts as stuck.
const FAIR_TURNS: usize = 400;

type Print = u128;

fn fingerprint(world: &World) -> Print {
    let half = |salt: u64| {
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        salt.hash(&mut hasher);
        world.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

fn breach(rules: &Rules, world: &World, promise: Promise) -> Option<&'static str> {
    let quorate = world.quorate();
    if quorate.len() > 1 {
        return Some("G1a: two clusters could both accept writes");
    }
    if world.has_twins() {
        return Some("G6: two run as one member");
    }
    if world.amnesia {
        return Some("an id that may have voted was started with an empty log");
    }
    if world.began_empty {
        return Some("a member of a cluster with a seed began without its data");
    }
    if rules.beside_snapshots
        && !world.one_may_found_blindly(rules)
        && world.clusters.iter().any(|c| c.is_new_and_empty())
    {
        return Some("an empty cluster was founded beside snapshots");
    }
    let wrote = (0..world.clusters.len()).filter(|c| world.clusters[*c].wrote && !world.is_lost(*c)).count();
    (promise == Promise::OneEver && wrote > 1).then_some("G1b: a second cluster wrote")
}

pub fn explore(rules: &Rules, starts: Vec<World>, promise: Promise, most: usize) -> Outcome {
    let mut seen: HashMap<Print, Option<(Print, String)>> = HashMap::new();
    let mut queue = VecDeque::new();
    for start in starts {
        let print = fingerprint(&start);
        if seen.insert(print, None).is_none() {
            queue.push_back((print, 0, start));
        }
    }
    let (mut visited, mut healed) = (0, 0);
    // How far the last state was, and the first that was not gone on from.
    let (mut reached, mut bound) = (0, None);
    while let Some((print, depth, world)) = queue.pop_front() {
        reached = depth;
        visited += 1;
        if let Some(what) = breach(rules, &world, promise) {
            let text = format!("{what}\n{}\n{}", trace(&seen, print), world.show());
            return Outcome { states: visited, is_complete: false, depth, healed, counterexample: Some(text) };
        }
        if visited % HEAL_EVERY == 1 {
            healed += 1;
            if let Some(stuck) = stuck(rules, &world) {
                let text = format!("G5: {stuck}\nbefore healing:\n{}\n{}", trace(&seen, print), world.show());
                return Outcome { states: visited, is_complete: false, depth, healed, counterexample: Some(text) };
            }
        }
        if seen.len() >= most {
            bound = bound.or(Some(depth));
            continue;
        }
        for (what, next) in successors(rules, &world) {
            let next_print = fingerprint(&next);
            if let std::collections::hash_map::Entry::Vacant(slot) = seen.entry(next_print) {
                slot.insert(Some((print, what)));
                queue.push_back((next_print, depth + 1, next));
            }
        }
    }
    let depth = bound.unwrap_or(reached);
    Outcome { states: visited, is_complete: bound.is_none(), depth, healed, counterexample: None }
}

/// The first state of an undisturbed run in which that is so.
pub fn first(rules: &Rules, start: World, wanted: impl Fn(&World) -> bool) -> World {
    let mut seen = HashSet::from([fingerprint(&start)]);
    let mut queue = VecDeque::from([start]);
    while let Some(world) = queue.pop_front() {
        if wanted(&world) {
            return world;
        }
        let next = successors(rules, &world).into_iter().map(|(_, after)| after);
        queue.extend(next.filter(|after| seen.insert(fingerprint(after))));
    }
    panic!("no run comes to that");
}

/// A walk of so many events, each taken by chance; what it broke, with the way there.
pub fn walk(rules: &Rules, start: World, promise: Promise, seed: u64, most: usize) -> Result<(), String> {
    let mut chance = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut steps = Vec::new();
    let mut now = start;
    for _ in 0..most {
        let possible = successors(rules, &now);
        if possible.is_empty() {
            break;
        }
        // xorshift64: a seed replays the walk.
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        let at = usize::try_from(chance % possible.len() as u64).unwrap_or(0);
        let (what, next) = possible.into_iter().nth(at).unwrap_or_else(|| (String::new(), now.clone()));
        steps.push(format!("  {}. {what}", steps.len() + 1));
        now = next;
        if let Some(what) = breach(rules, &now, promise) {
            return Err(format!("seed {seed}: {what}\n{}\n{}", steps.join("\n"), now.show()));
        }
    }
    match stuck(rules, &now) {
        None => Ok(()),
        Some(why) => Err(format!("seed {seed}: G5: {why}\nbefore healing:\n{}\n{}", steps.join("\n"), now.show())),
    }
}

fn trace(seen: &HashMap<Print, Option<(Print, String)>>, mut at: Print) -> String {
    let mut steps = Vec::new();
    while let Some(Some((before, what))) = seen.get(&at) {
        steps.push(what.clone());
        at = *before;
    }
    let numbered = steps.iter().rev().enumerate().map(|(n, what)| format!("  {}. {what}", n + 1));
    numbered.collect::<Vec<_>>().join("\n")
}

/// Heals the world and lets everybody act in turn; `Some`: it never became one cluster.
fn stuck(rules: &Rules, world: &World) -> Option<String> {
    if world.is_operators_case() || (rules.policy.written && world.lost_somebody()) {
        return None;
    }
    // The operator gives them another store, too.
    let rules = &Rules { store: Store::Keeps, ..rules.clone() };
    let mut now = world.healed(rules);
    let mut taken: HashMap<String, usize> = HashMap::new();
    let mut last = Vec::new();
    for turn in 1..=FAIR_TURNS {
        if now.is_one_cluster(rules) {
            return None;
        }
        let possible = successors(rules, &now).into_iter().filter(|(what, _)| !what.contains("grows old"));
        // Fair: of what is possible, what was not done for longest.
        let key = |what: &str| what.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        let next = possible.min_by_key(|(what, _)| (slowness(what), taken.get(&key(what)).copied().unwrap_or(0)));
        let Some((what, after)) = next else {
            return Some(format!("stuck after healing:\n{}\n  last: {}", now.show(), last.join("; ")));
        };
        taken.insert(key(&what), turn);
        last.push(what);
        now = after;
    }
    Some(format!("no end after {FAIR_TURNS} turns:\n{}\n  last: {}", now.show(), last[last.len() - 20..].join("; ")))
}

/// What comes before what when nothing is broken: mail takes milliseconds, a look follows, a round is given up after seconds,
/// an etcd yields after fifteen.
fn slowness(what: &str) -> u8 {
    match what {
        _ if what.contains("yields") => 3,
        _ if what.contains("drops") => 2,
        _ if what.contains("looks") => 1,
        _ => 0,
    }
}
