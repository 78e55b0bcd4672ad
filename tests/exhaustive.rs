//! Every small view: all a peer can say, for up to three peers, under all states of our own data and ledger, all rosters and
//! all policies. On each the guarantees hold, and the number of views is printed.
//!
//! Unless EXHAUSTIVE is set, the third peer says only part of it; with EXHAUSTIVE=kinds, one thing of each kind; with
//! EXHAUSTIVE=2/7, the second of seven parts.

mod common;

use std::time::Duration;

use common::*;
use muster_core::decide::decide;
use muster_core::paxos::{Accepted, Ballot, Joined, Ledger};
use muster_core::step::{Hold, Quarantine, RemovalReason, Step};
use muster_core::types::{ClusterId, InitialList, Instance, InstanceState, Known, Member, MemberId, Roster};
use muster_core::view::Claim;
use muster_core::view::ClaimState;
use muster_core::view::Ending;
use muster_core::view::{Clean, DataDir, Liveness, LogEnd, LogSeen, PeerState, Policy, Silence, Twin, View};

const LONG: Duration = Duration::from_secs(3600);
const OTHER: ClusterId = ClusterId(0xc2);
const ME: char = 'b';
/// Older and younger than us.
const PEERS: [char; 3] = ['a', 'c', 'd'];

fn list(names: &str) -> InitialList {
    InitialList::empty(names.chars().map(listed).collect(), "t-1".to_owned())
}

/// One thing a peer may say, and for how long it has been silent.
type Say = fn(&Policy, &mut View, char);

fn set_etcd(view: &mut View, name: char, members: &str, cluster: ClusterId, has_quorum: bool) {
    let PeerState::Etcd(mut seen) = etcd(members, has_quorum) else { return };
    seen.cluster = cluster;
    says(view, name, PeerState::Etcd(seen), Duration::ZERO);
}

fn set_fresh(policy: &Policy, view: &mut View, name: char, roster_of: &Roster, chosen: Option<&str>) {
    let PeerState::Fresh(mut seen) = fresh(name, &policy.charter(roster_of)) else { return };
    seen.chosen = chosen.map(list);
    seen.promised = chosen.map(|_| Ballot { round: 3, proposer: id(name), nonce: 9 });
    says(view, name, PeerState::Fresh(seen), Duration::ZERO);
}

fn own_roster(view: &View) -> Roster {
    view.roster.known().cloned().unwrap_or_default()
}

/// Everything a peer can say; the first seven are of a kind each.
const SAYINGS: &[Say] = &[
    |p, v, n| set_fresh(p, v, n, &own_roster(v), None),
    |_, v, n| says(v, n, PeerState::Refused, LONG),
    |_, v, n| says(v, n, PeerState::Silent("timeout".to_owned()), LONG),
    |_, v, n| set_etcd(v, n, "acd", LIVING, true),
    |_, v, n| set_etcd(v, n, "abc", LIVING, false),
    |_, v, n| says(v, n, seen_data(None, None), Duration::ZERO),
    |_, v, n| says(v, n, PeerState::Mismatch("TLS".to_owned()), Duration::ZERO),
    |_, v, n| set_etcd(v, n, "abc", LIVING, true),
    |_, v, n| says(v, n, PeerState::Refused, Duration::ZERO),
    |_, v, n| {
        says(v, n, PeerState::Refused, LONG);
        v.peers.entry(id(n)).and_modify(|peer| peer.refused_throughout = false);
    },
    |_, v, n| says(v, n, PeerState::Silent("timeout".to_owned()), Duration::ZERO),
    |_, v, n| {
        says(v, n, PeerState::Silent("timeout".to_owned()), LONG);
        v.peers.entry(id(n)).and_modify(|peer| peer.impaired = Known::Known(true));
    },
    |p, v, n| set_fresh(p, v, n, &roster("xyz"), None),
    |p, v, n| set_fresh(p, v, n, &own_roster(v), Some("abc")),
    |p, v, n| set_fresh(p, v, n, &own_roster(v), Some("acd")),
    |_, v, n| {
        let seen = seen_data(Some(LIVING), Some(list("abc")));
        says(v, n, seen, Duration::ZERO);
    },
    |_, v, n| set_etcd(v, n, "ac", LIVING, true),
    |_, v, n| set_etcd(v, n, "ac", OTHER, true),
    |_, v, n| {
        let PeerState::Etcd(mut seen) = etcd("ac", true) else { return };
        let unstarted =
            Member { id: MemberId(77), name: String::new(), client_urls: Vec::new(), is_learner: true, ..voter(ME) };
        seen.members.push(unstarted);
        says(v, n, PeerState::Etcd(seen), Duration::ZERO);
    },
    |_, v, n| {
        let PeerState::Etcd(mut seen) = etcd("ac", true) else { return };
        seen.members.push(Member { is_learner: true, ..voter('x') });
        says(v, n, PeerState::Etcd(seen), Duration::ZERO);
    },
    // Added and never started, by whom nobody can say.
    |_, v, n| {
        let PeerState::Etcd(mut seen) = etcd("ac", true) else { return };
        let nobodys =
            Member { id: MemberId(78), name: String::new(), client_urls: Vec::new(), is_learner: true, ..voter('x') };
        seen.members.push(nobodys);
        says(v, n, PeerState::Etcd(seen), Duration::ZERO);
    },
];
const THIRD_IN_SHORT: usize = 3;
const KINDS: usize = 7;

#[expect(
    clippy::disallowed_methods,
    reason = "the program's settings are read in config alone; this is the test's own"
)]
fn sayings_of_the_third() -> Vec<Say> {
    let asked = std::env::var("EXHAUSTIVE");
    let part = asked.as_deref().ok().and_then(|asked| asked.split_once('/'));
    if let Some((part, parts)) = part.and_then(|(n, of)| Some((n.parse::<usize>().ok()?, of.parse::<usize>().ok()?))) {
        return SAYINGS.iter().copied().skip(part - 1).step_by(parts).collect();
    }
    let first = match asked.as_deref() {
        Ok("kinds") => KINDS,
        Ok(_) => SAYINGS.len(),
        Err(_) => THIRD_IN_SHORT,
    };
    SAYINGS[..first].to_vec()
}

fn data_dirs() -> Vec<DataDir> {
    let ids = |cluster| DataDir::Whole { ids: Known::Known((cluster, member_id(ME))) };
    vec![
        DataDir::Fresh,
        ids(LIVING),
        ids(OTHER),
        DataDir::Whole { ids: Known::Unknown("short read".to_owned()) },
        DataDir::Partial { what: "no WAL".to_owned() },
    ]
}

/// A ledger with the cluster ids that its accepted and its chosen list would give.
type Memory = (Ledger, Option<ClusterId>, Option<ClusterId>);

fn ledgers() -> Vec<Memory> {
    let blank = Ledger { nonce: 1, instance: Some(id(ME)), ..Ledger::default() };
    let accepted = Accepted { ballot: Ballot { round: 2, proposer: id('a'), nonce: 5 }, list: list("abc") };
    let joined = |spawned| Some(Joined { cluster: LIVING, member: MemberId(77), spawned });
    vec![
        (blank.clone(), None, None),
        (Ledger { accepted: Some(accepted.clone()), ..blank.clone() }, Some(LIVING), None),
        (Ledger { accepted: Some(accepted), ..blank.clone() }, Some(OTHER), None),
        (Ledger { chosen: Some(list("abc")), ..blank.clone() }, None, Some(LIVING)),
        (Ledger { chosen: Some(list("acd")), ..blank.clone() }, None, Some(LIVING)),
        (Ledger { chosen: Some(list("abc")), founded: true, never_elected: true, ..blank.clone() }, None, Some(LIVING)),
        (Ledger { joined: joined(false), ..blank.clone() }, None, None),
        (Ledger { joined: joined(true), ..blank.clone() }, None, None),
        (Ledger { chosen: Some(list("abc")), saw_unclaimed: true, ..blank.clone() }, None, Some(LIVING)),
        (
            Ledger {
                chosen: Some(list("abc")),
                promised: Some(Ballot { round: 1, proposer: id(ME), nonce: 1 }),
                renounced: [list("abc").token].into(),
                ..blank
            },
            None,
            Some(LIVING),
        ),
    ]
}

/// Whose the data is by its record, and what EC2 says of him.
fn owners() -> [(Option<char>, Known<bool>); 5] {
    [
        (Some('a'), Known::Known(true)),
        (Some('a'), Known::Known(false)),
        (Some('a'), Known::Unknown("throttled".to_owned())),
        (Some('z'), Known::Known(true)),
        (None, Known::Unknown("not asked".to_owned())),
    ]
}

fn twins() -> [Twin; 4] {
    let at = || "http://a:2379".to_owned();
    [
        Twin::Nobody,
        Twin::Runs { at: at(), name: "i-a".to_owned() },
        Twin::Unknown { at: at(), cause: "mute".to_owned() },
        Twin::Holds { instance: id('c') },
    ]
}

/// An older copy of itself, and a whole one.
fn logs() -> [LogSeen; 2] {
    let end = |index| LogEnd { term: 2, index };
    [9, 5].map(|here| LogSeen { here: Known::Known(end(here)), before: end(9), by: id('c') })
}

fn rosters(names: &str) -> Vec<Known<Roster>> {
    let young = roster(names);
    let with = |name, state| {
        let mut all = young.all().to_vec();
        all.push(instance(name, state));
        Known::Known(Roster::new(all, NOW))
    };
    vec![
        Known::Known(young.clone()),
        with('y', InstanceState::Terminated),
        Known::Known(Roster::new(young.all().to_vec(), NOW + 86_400)),
        Known::Known(Roster::written(
            young.all().iter().map(|i| Instance { launched: None, ..i.clone() }).collect(),
            NOW,
        )),
        Known::Known(Roster::new(young.all().iter().filter(|i| i.id != id(ME)).cloned().collect(), NOW)),
        Known::Unknown("RequestLimitExceeded".to_owned()),
    ]
}

fn policies() -> Vec<Policy> {
    let mut all = Vec::new();
    for size in [None, Some(2), Some(3), Some(5)] {
        for (found_absent, found_alone) in [(false, false), (true, false), (false, true)] {
            for clean in [Clean::Gone, Clean::Unhealthy, Clean::Off] {
                all.push(Policy { found_absent, found_alone, clean, ..policy(size) });
            }
            all.push(Policy { found_absent, found_alone, claim: Some("s3://b/claim.json".to_owned()), ..policy(size) });
        }
    }
    // Beside an old fleet that does not answer.
    all.push(Policy { found_absent: true, join: vec!["http://old:2379".to_owned()], ..policy(Some(3)) });
    all
}

/// What the claim says where there is one: of `by`, `y` is terminated wherever EC2 shows it.
fn claims(policy: &Policy) -> Vec<ClaimState> {
    if policy.claim.is_none() {
        return vec![ClaimState::NotAsked];
    }
    let held = |claim| ClaimState::Held { claim, version: VERSION.to_owned() };
    let founding = |names| held(Claim::Founding { list: list(names) });
    vec![
        ClaimState::Unknown("AccessDenied".to_owned()),
        ClaimState::Absent,
        founding("abc"),
        founding("acd"),
        founding("by"),
        held(Claim::Established { cluster: LIVING }),
    ]
}

const VERSION: &str = "\"1\"";

/// What EC2 says, asked by id, of members that do not answer; and that nothing is known of them.
fn liveness() -> [fn(char) -> Liveness; 6] {
    [
        |name| fate(name, Known::Known(true), LONG),
        |name| fate(name, Known::Known(true), Duration::ZERO),
        |name| fate(name, Known::Known(false), LONG),
        |name| fate(name, Known::Unknown("throttled".to_owned()), LONG),
        |_| {
            let gone = Known::Unknown("no instance can be named".to_owned());
            Liveness::Silent(Silence { instance: None, gone, silent_for: LONG })
        },
        |_| Liveness::Unknown,
    ]
}

#[test]
fn the_guarantees_hold_on_every_small_view() {
    let third = sayings_of_the_third();
    let mut tasks = Vec::new();
    for policy in policies() {
        for peers in 0..=PEERS.len() {
            tasks.push((policy.clone(), peers));
        }
    }
    let queue = std::sync::Mutex::new(tasks);
    let (views, steps) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..std::thread::available_parallelism().map_or(2, usize::from))
            .map(|_| {
                scope.spawn(|| {
                    let mut count = (0_u64, [0_u64; STEPS]);
                    loop {
                        let task = queue.lock().ok().and_then(|mut queue| queue.pop());
                        let Some((policy, peers)) = task else { return count };
                        look_at_all(&policy, peers, &third, &mut count);
                    }
                })
            })
            .collect();
        let mut total = (0, [0; STEPS]);
        for worker in workers {
            let Ok((views, steps)) = worker.join() else { panic!("a guarantee is broken; the view is above") };
            total.0 += views;
            total.1.iter_mut().zip(steps).for_each(|(sum, n)| *sum += n);
        }
        total
    });
    let named: Vec<String> = NAMES.iter().zip(steps).map(|(name, n)| format!("{name} {n}")).collect();
    report(&format!("{views} views; steps: {}", named.join(", ")));
    assert!(steps.iter().all(|n| *n > 0), "a step that is never taken is not tested: {}", named.join(", "));
}

const STEPS: usize = 13;
const NAMES: [&str; STEPS] = [
    "hold",
    "propose",
    "bootstrap alone",
    "start new",
    "remove member",
    "add self",
    "update self",
    "start existing",
    "resume",
    "quarantine",
    "halt",
    "claim",
    "renounce",
];

fn kind(step: &Step) -> usize {
    match step {
        Step::Hold(_) => 0,
        Step::Propose(_) => 1,
        Step::FoundAlone { .. } => 2,
        Step::StartNew(_) => 3,
        Step::RemoveMember { .. } => 4,
        Step::AddSelf => 5,
        Step::UpdateSelf { .. } => 6,
        Step::StartExisting { .. } => 7,
        Step::Resume => 8,
        Step::Quarantine(_) => 9,
        Step::Halt(_) => 10,
        Step::Claim(_) => 11,
        Step::Renounce { .. } => 12,
    }
}

fn look_at_all(policy: &Policy, peers: usize, third: &[Say], count: &mut (u64, [u64; STEPS])) {
    let names: String = PEERS[..peers].iter().chain([&ME]).collect();
    let sayings: Vec<&[Say]> = (0..peers).map(|i| if i == 2 { third } else { SAYINGS }).collect();
    let combinations: usize = sayings.iter().map(|of| of.len()).product();
    for (which_roster, roster) in rosters(&names).into_iter().enumerate() {
        for mut which in 0..combinations {
            let mut v = view(ME, &names);
            v.roster = roster.clone();
            v.roster_unchanged_for = LONG;
            for (peer, of) in sayings.iter().enumerate() {
                of[which % of.len()](policy, &mut v, PEERS[peer]);
                which /= of.len();
            }
            let moved = v.me.listed.peer_urls[0].replace('b', "elsewhere");
            for data in data_dirs() {
                // The claim is a fresh node's concern.
                if policy.claim.is_some() && data != DataDir::Fresh {
                    continue;
                }
                for (ledger, accepted_cluster, chosen_cluster) in ledgers() {
                    v.data = data.clone();
                    (v.ledger, v.accepted_cluster, v.chosen_cluster) = (ledger, accepted_cluster, chosen_cluster);
                    for claim in claims(policy) {
                        v.claim = claim;
                        check(policy, &mut v, count);
                    }
                }
                if matches!(data, DataDir::Whole { .. }) {
                    // Condemned data, under the ledgers that differ in whose it may be.
                    v.condemned = Some("walpb: crc mismatch".to_owned());
                    for (ledger, accepted_cluster, chosen_cluster) in ledgers().split_off(4) {
                        (v.ledger, v.accepted_cluster, v.chosen_cluster) = (ledger, accepted_cluster, chosen_cluster);
                        check(policy, &mut v, count);
                    }
                    v.condemned = None;
                }
                let at_home = std::mem::replace(&mut v.me.listed.peer_urls[0], moved.clone());
                check(policy, &mut v, count);
                if data == DataDir::Fresh {
                    // A setting was changed since a list was agreed on.
                    (v.ledger, v.accepted_cluster, v.chosen_cluster) = ledgers().swap_remove(3);
                    for claim in claims(policy) {
                        v.claim = claim;
                        check(policy, &mut v, count);
                    }
                }
                v.me.listed.peer_urls[0] = at_home;
                // Whose a disk is, is told by EC2's answer about one instance, whatever it lists.
                if which_roster == 0 && matches!(data, DataDir::Whole { ids: Known::Known(_) }) {
                    look_at_disks(policy, &mut v, count);
                }
            }
        }
    }
}

/// The same data on a disk that is another's, or of which nobody knows; and one that was put back from a copy.
fn look_at_disks(policy: &Policy, v: &mut View, count: &mut (u64, [u64; STEPS])) {
    let blank = Ledger { nonce: 1, instance: Some(id(ME)), ..Ledger::default() };
    (v.ledger, v.accepted_cluster, v.chosen_cluster) = (blank, None, None);
    let vouched = Policy { adopt: Some(member_id(ME)), ..policy.clone() };
    for log in logs() {
        v.log = Some(log);
        check(policy, v, count);
    }
    check(&vouched, v, count);
    v.log = None;
    for twin in twins() {
        v.twin = twin;
        v.ledger.instance = Some(id(ME));
        check(policy, v, count);
        for (owner, gone) in owners() {
            (v.ledger.instance, v.owner_gone) = (owner.map(id), gone);
            check(policy, v, count);
        }
        check(&vouched, v, count);
    }
    (v.twin, v.ledger.instance) = (Twin::Nobody, Some(id(ME)));
}

fn check(policy: &Policy, v: &mut View, count: &mut (u64, [u64; STEPS])) {
    v.liveness.clear();
    let silent: Vec<Member> = v.living_clusters().values().flat_map(|etcd| etcd.members.clone()).collect();
    let is_seen = |m: &Member| {
        v.peers
            .values()
            .any(|p| matches!(&p.sighting, PeerState::Etcd(_)) && p.listed.as_ref().is_some_and(|l| l.name == m.name))
    };
    let seen: Vec<MemberId> = silent.iter().filter(|m| is_seen(m)).map(|m| m.id).collect();
    let silent: Vec<Member> = silent.into_iter().filter(|m| !is_seen(m) && m.name != format!("i-{ME}")).collect();
    // That no instance can be named makes a difference only where a member has no name.
    let unnamed = silent.iter().any(|m| m.name.is_empty());
    let liveness = liveness();
    let liveness = liveness.iter().enumerate().filter(|(which, _)| match which {
        0 => true,
        4 => unnamed,
        _ => !silent.is_empty(),
    });
    for (_, fate) in liveness {
        seen.iter().for_each(|id| _ = v.liveness.insert(*id, Liveness::Answers));
        for member in &silent {
            let name = member.name.chars().last().unwrap_or('x');
            v.liveness.insert(member.id, fate(name));
        }
        others_answer(v);
        let step = decide(policy, v);
        count.0 += 1;
        count.1[kind(&step)] += 1;
        if let Err(broken) = guarantees(policy, v, &step) {
            panic!("{broken}: {step}\n{policy:#?}\n{v:#?}");
        }
        if let Err(broken) = leaving(policy, v, &step) {
            panic!("{broken}: otherwise {step}\n{policy:#?}\n{v:#?}");
        }
    }
}

/// The same view on an instance that is about to end, and on one that has left.
fn leaving(policy: &Policy, v: &mut View, step: &Step) -> Result<(), String> {
    v.ending = Known::Known(Some(Ending::Spot));
    let ends = decide(policy, v);
    v.ending = Known::Unknown("silence".to_owned());
    v.ledger.left = true;
    let left = decide(policy, v);
    (v.ending, v.ledger.left) = (Known::Known(None), false);
    let joins =
        matches!(ends, Step::AddSelf | Step::StartExisting { .. } | Step::RemoveMember { .. } | Step::Quarantine(_));
    if joins {
        return Err(format!("an instance that ends still does this: {ends}"));
    }
    if matches!(step, Step::Resume | Step::UpdateSelf { .. }) && ends != *step {
        return Err(format!("a member's etcd doesn't run because its instance ends: {ends}"));
    }
    match left {
        Step::Hold(Hold::Left { .. }) => Ok(()),
        other => Err(format!("one that has left does this, with EC2's word unknown: {other}")),
    }
}

/// The guarantees of ARCHITECTURE.md, written independently of the rules that shall keep them.
fn guarantees(policy: &Policy, v: &View, step: &Step) -> Result<(), &'static str> {
    let held = |condition: bool, what: &'static str| if condition { Ok(()) } else { Err(what) };
    let living = v.living_clusters();
    let sign_of_a_cluster = v
        .peers
        .values()
        .any(|p| matches!(p.sighting, PeerState::Etcd(_) | PeerState::HasData(_) | PeerState::Mismatch(_)));
    let is_fresh = v.data == DataDir::Fresh;
    let answering = v.peers.values().filter(|p| matches!(p.sighting, PeerState::Fresh(_))).count();
    let founds = matches!(step, Step::Propose(_) | Step::FoundAlone { .. } | Step::Claim(_) | Step::StartNew(_));
    held(policy.join.is_empty() || !founds, "a cluster is founded beside an old fleet")?;
    match step {
        Step::Propose(_) | Step::FoundAlone { .. } | Step::Claim(_) => {
            match (step, &v.claim) {
                (Step::Claim(claiming), ClaimState::Absent) => held(claiming.replaces.is_none(), "replacing no claim")?,
                (Step::Claim(claiming), ClaimState::Held { claim: Claim::Founding { list }, version }) => {
                    held(claiming.replaces.as_ref() == Some(version), "replacing a claim unconditionally")?;
                    held(v.acceptor_context(policy).voids(list), "replacing a claim that stands")?;
                }
                (_, ClaimState::NotAsked) => held(policy.claim.is_none(), "voting where a claim decides")?,
                _ => return Err("founding over a claim that stands or isn't known"),
            }
            held(is_fresh, "founding over data")?;
            held(!sign_of_a_cluster, "G2: founding beside a cluster")?;
            held(!v.ledger.founded && v.ledger.joined.is_none(), "founding by a former member")?;
            let Known::Known(roster) = &v.roster else { return Err("G4: founding without EC2") };
            held(roster.find(&id(ME)).is_some(), "founding by one who isn't in the roster")?;
            let everybody = answering + 1 == roster.non_terminated().count();
            let spotless = roster.terminated().next().is_none()
                && roster.non_terminated().all(|i| roster.age(i).is_some_and(|age| age < policy.found_window));
            let alone = match step {
                Step::FoundAlone { .. } => true,
                Step::Claim(claiming) => claiming.list.members.len() == 1,
                _ => false,
            };
            let vouched = policy.found_absent || (policy.found_alone && alone);
            let complete = everybody && roster.non_terminated().count() >= policy.size(roster);
            let other_terminated = policy.cluster_size == Some(2) && roster.all().len() == 2;
            held(complete || spotless || vouched || other_terminated, "R3: absence forgiven")?;
        }
        Step::StartNew(list) => {
            held(is_fresh && !v.ledger.founded && v.ledger.joined.is_none(), "starting new over an old life")?;
            held(list.entry(&id(ME)) == Some(&v.me.listed), "starting a list that holds us otherwise, or not at all")?;
            held(!v.ledger.renounced.contains(&list.token), "starting a list that was renounced")?;
            let told = v.peers.values().any(|p| match &p.sighting {
                PeerState::Fresh(f) => f.chosen.as_ref() == Some(list),
                PeerState::HasData(data) => data.chosen.as_ref() == Some(list),
                _ => false,
            });
            let shown = v.etcds().any(|etcd| Some(etcd.cluster) == v.accepted_cluster);
            let claimed = matches!(&v.claim, ClaimState::Held { claim: Claim::Founding { list: claimed }, .. } if claimed == list);
            let chosen = match policy.claim {
                Some(_) => claimed,
                None => v.ledger.chosen.as_ref() == Some(list) || told || shown,
            };
            held(chosen, "starting a list that isn't chosen")?;
            held(living.is_empty(), "starting new beside a living cluster")?;
        }
        Step::RemoveMember { id: member, why } => {
            held(is_fresh, "removing while holding data")?;
            held(living.len() == 1, "G4: removing without one living cluster")?;
            if *why == RemovalReason::Unhealthy {
                held(policy.clean == Clean::Unhealthy, "removing one not known to be gone unasked")?;
                let Liveness::Silent(fate) = v.liveness_of(*member) else {
                    return Err("removing one not known to be silent");
                };
                held(fate.silent_for >= Duration::from_secs(300), "removing before five minutes")?;
            } else if let RemovalReason::Gone(_) = why {
                held(policy.clean != Clean::Off, "removing with MUSTER_REMOVE=off")?;
                let Liveness::Silent(fate) = v.liveness_of(*member) else {
                    return Err("removing one not known to be silent");
                };
                held(fate.gone == Known::Known(true), "G4: removing one not known to be gone")?;
                held(fate.silent_for >= policy.clean_dwell, "removing before the dwell")?;
            } else if *why == RemovalReason::NeverStarted {
                held(policy.clean != Clean::Off, "removing with MUSTER_REMOVE=off")?;
                let Liveness::Silent(fate) = v.liveness_of(*member) else {
                    return Err("removing one not known to be silent");
                };
                held(fate.silent_for >= policy.clean_dwell && fate.instance.is_none(), "removing somebody's place")?;
                let member = living.values().flat_map(|e| &e.members).find(|m| m.id == *member);
                held(member.is_some_and(|m| m.is_learner && m.name.is_empty()), "removing one that may have voted")?;
            } else {
                held(*v.liveness_of(*member) != Liveness::Answers, "removing as ours one that answers")?;
                let own = living.values().flat_map(|e| &e.members).find(|m| m.id == *member);
                held(
                    own.is_some_and(|m| m.peer_urls == v.me.listed.peer_urls || m.name == v.me.listed.name)
                        || v.ledger.joined.is_some_and(|j| j.member == *member),
                    "removing another as ours",
                )?;
            }
        }
        Step::AddSelf => {
            held(is_fresh && living.len() == 1, "joining without one living cluster")?;
            let members = living.values().flat_map(|e| &e.members);
            held(members.clone().all(|m| !m.is_learner), "G3: two learners")?;
            // Beside an old fleet whoever is of no instance in the roster is the old one's.
            let ours = |m: &&Member| policy.join.is_empty() || own_roster(v).all().iter().any(|i| i.id.0 == m.name);
            let counted = members.filter(ours).count();
            held(policy.cluster_size.is_none_or(|size| counted < size), "growing beyond the size")?;
        }
        Step::StartExisting { member, .. } => {
            held(is_fresh, "starting existing over data")?;
            let recorded = v.ledger.joined.is_some_and(|j| j.member == *member && !j.spawned)
                || (!v.ledger.founded && (v.accepted_cluster.is_some() || v.chosen_cluster.is_some()));
            held(recorded, "taking a place without a record")?;
        }
        Step::Renounce { list, ours } => {
            held(is_fresh && !v.ledger.founded && v.ledger.joined.is_none(), "renouncing what may have been started")?;
            held(*ours == v.me.listed && list.entry(&id(ME)).is_some_and(|entry| entry != ours), "renouncing in vain")?;
        }
        Step::Resume | Step::UpdateSelf { .. } => {
            let DataDir::Whole { ids } = &v.data else { return Err("resuming without data") };
            if let Known::Known((cluster, member)) = ids {
                held(!matches!(v.twin, Twin::Runs { .. }), "G6: two run as one member")?;
                let (ours, etcd) = (v.ledger.instance == Some(id(ME)), living.get(cluster));
                let silent = v.liveness_of(*member).silent_for();
                let dead = v.owner_gone == Known::Known(true) && (etcd.is_none() || silent.is_some());
                let here = |m: &Member| m.id == *member && m.peer_urls == v.me.listed.peer_urls;
                let listed_here = v.etcds().any(|etcd| etcd.cluster == *cluster && etcd.members.iter().any(here));
                let proven = (v.ledger.instance.is_some() && dead) || listed_here || policy.adopt == Some(*member);
                held(ours || (proven && v.twin == Twin::Nobody), "G6: running with another's disk")?;
                let older = v.log.as_ref().is_some_and(|log| log.here.known() < Some(&log.before));
                held(!older || etcd.is_some() || policy.adopt == Some(*member), "running an older copy of itself")?;
            }
        }
        Step::Quarantine(why) => {
            held(!is_fresh && !living.is_empty(), "moving data aside without a living cluster")?;
            if let Quarantine::Damaged { cluster, member, .. } = why {
                held(v.condemned.is_some(), "moving aside what etcd has not condemned")?;
                let [etcd] = living.values().collect::<Vec<_>>()[..] else {
                    return Err("damaged, and two clusters live");
                };
                held(etcd.cluster == *cluster, "damaged, and not the living cluster's")?;
                held(etcd.members.iter().any(|m| m.id == *member && m.name == v.me.listed.name), "not listed there")?;
                let voters = etcd.members.iter().filter(|m| !m.is_learner).count();
                held(2 * (voters - 1) > voters, "the others are no quorum: ours may be the only copy")?;
                let recorded = v.ledger.founded || v.ledger.joined.is_some();
                match &v.data {
                    DataDir::Whole { ids: Known::Known(ids) } => held(*ids == (*cluster, *member), "another's data")?,
                    DataDir::Whole { ids: Known::Unknown(_) } => held(recorded, "whose data it is, is unknown")?,
                    _ => return Err("damaged, and not even whole"),
                }
            }
        }
        Step::Halt(_) => held(!living.is_empty(), "halting without a living cluster")?,
        Step::Hold(Hold::NotOurs { .. }) => held(v.ledger.instance != Some(id(ME)), "holding our own data")?,
        Step::Hold(Hold::RunsElsewhere { .. }) => held(matches!(v.twin, Twin::Runs { .. }), "nobody runs elsewhere")?,
        Step::Hold(Hold::OlderCopy { .. }) => held(v.log.is_some() && living.is_empty(), "no older copy")?,
        Step::Hold(_) => {
            held(!matches!(v.data, DataDir::Whole { .. }), "holding with data: etcd must run")?;
        }
    }
    Ok(())
}

#[test]
fn the_order_of_ec2s_answer_never_matters() {
    let policy = policy(Some(3));
    let mut v = view(ME, "abcd");
    all_fresh(&policy, &mut v, "acd");
    let first = decide(&policy, &v);
    let mut instances = roster("abcd").all().to_vec();
    for _ in 0..instances.len() {
        instances.rotate_left(1);
        v.roster = Known::Known(Roster::new(instances.clone(), NOW));
        assert_eq!(decide(&policy, &v), first);
        instances.swap(0, 1);
    }
}
