//! What may happen next; and a node's own part of it: one look, and the step that follows.

use muster_core::decide::decide;
use muster_core::paxos::{Call, Joined, LeftBehind, WalVolume};
use muster_core::step::{RemovalReason, Step};
use muster_core::types::{InitialList, MemberId};
use muster_core::view::{DataDir, PeerState, View};

use crate::claim::{claim, settle_claim};
use crate::etcd::{is_removed, living_cluster, make_wal, promote, removal_keeps_quorum};
use crate::faults::{cut, disturb, endings, speak_as_a_stranger, stop_and_start, take_image};
use crate::founding::{go_on_with_round, learn, send_round};
use crate::mail::{Letter, deliver, post};
use crate::restore::{EARLIER, install, order, prepare};
use crate::world::{Cluster, Data, Doing, Launch, Life, Moving, NAMES, Place, Round, Rules, Waited, World, node_of};

/// Everything that may happen next: what it is called, and the world after it.
pub fn successors(rules: &Rules, world: &World) -> Vec<(String, World)> {
    let mut next = Vec::new();
    let mut add = |what: String, mut after: World| {
        after.settle();
        if after != *world {
            next.push((what, after));
        }
    };
    for (n, node) in world.nodes.iter().enumerate() {
        let name = NAMES[n];
        if node.life == Life::Up {
            go_on(rules, world, n, &mut add);
            if node.shown != world.truth() {
                let mut after = world.clone();
                after.nodes[n].shown = world.truth();
                // A round is over its roster.
                if node.round().is_some() {
                    after.nodes[n].doing = Doing::Deliberates;
                }
                add(format!("{name} sees EC2's newest listing"), after);
            }
        }
        disturb(rules, world, n, &mut add);
        speak_as_a_stranger(rules, world, n, &mut add);
    }
    for mail in &world.mail {
        if let Some((what, after)) = deliver(rules, world, mail) {
            add(what, after);
        }
    }
    stop_and_start(world, &mut add);
    take_image(world, &mut add);
    cut(world, &mut add);
    settle_claim(rules, world, &mut add);
    order(rules, world, &mut add);
    // One that waits for an order too; by a claim only if all have seen that there is none, as they do within seconds.
    let counts = |c: &Cluster| c.wrote && (rules.policy.claim.is_none() || c.list.token != EARLIER);
    if !world.old && world.clusters.iter().any(counts) {
        add("the fleet grows old".to_owned(), world.grown_old());
    }
    next
}

/// A node goes on with what it does.
fn go_on(rules: &Rules, world: &World, n: usize, add: &mut impl FnMut(String, World)) {
    let node = &world.nodes[n];
    let name = NAMES[n];
    let mut after = world.clone();
    let wal = WalVolume { holds_wal: node.data.is_some(), is_marked: node.marked };
    match &node.doing {
        // What a crash broke off comes first, as in `Daemon::deliberate` (decision_loop.rs).
        Doing::Deliberates if node.moving.is_some() => {
            finish_quarantine(&mut after, n);
            add(format!("{name} finishes its quarantine"), after);
        }
        Doing::Deliberates if node.ledger.never_began(wal).is_some() => {
            let Some(start) = node.ledger.never_began(wal) else { return };
            for (how, after) in quarantine(world, n, Moving { why: LeftBehind::NeverBegan(start) }) {
                add(format!("{name} forgets a start that never began{how}"), after);
            }
        }
        Doing::Deliberates | Doing::Round(_) => {
            for waited in [Waited::Moment, Waited::Long] {
                // The assumption: what is older than the grace time is shown.
                if waited == Waited::Long && rules.ec2_is_timely && node.shown != world.truth() {
                    continue;
                }
                let steps = match node.round() {
                    Some(_) => go_on_with_round(rules, world, n, waited),
                    None => look_and_act(rules, world, n, waited),
                };
                for (what, after) in steps {
                    add(format!("{name} looks ({waited:?}): {what}"), after);
                }
            }
        }
        Doing::Alone(accepted) => {
            after.nodes[n].ledger.found_alone(accepted);
            after.nodes[n].doing = Doing::Deliberates;
            add(format!("{name} founds alone"), after);
        }
        Doing::Launching(launch) => {
            let node = &mut after.nodes[n];
            match launch {
                Launch::New(list) => node.ledger.start_founding(list),
                Launch::Existing { id, place } => {
                    node.ledger.start_joining(*id, World::member_id(place.cluster.into(), place.member));
                }
                Launch::Resume => return,
            }
            node.marked = true;
            node.doing = match launch {
                Launch::New(list) if list.seed.is_some() => Doing::Installing(list.clone()),
                _ => Doing::Starting(launch.clone()),
            };
            add(format!("{name} records its launch"), after);
        }
        Doing::Installing(list) => add(install(&mut after, n, list), after),
        Doing::Starting(launch) => {
            make_wal(&mut after, n, launch);
            after.nodes[n].doing = Doing::Runs;
            add(format!("{name}'s etcd serves"), after);
        }
        Doing::Runs => {
            promote(world, n, add);
            if node.ledger.never_elected && !world.has_published(n) {
                let node = &mut after.nodes[n];
                (node.doing, node.yielded, node.ledger.starting) = (Doing::Deliberates, true, None);
                add(format!("{name} yields"), after);
            }
            if is_removed(world, n) {
                for (how, mut after) in endings(world, n) {
                    after.nodes[n].doing = Doing::Deliberates;
                    add(format!("{name}'s etcd learns that it was removed, and ends{how}"), after);
                }
            }
        }
    }
}

/// Moves the data aside; or what a crash leaves of that, after each of its four writes. What is left is taken up again at
/// the next start (`Executor::finish_quarantine`).
fn quarantine(world: &World, n: usize, moving: Moving) -> Vec<(&'static str, World)> {
    let mut done = world.clone();
    done.nodes[n].moving = Some(moving);
    let mut outcomes = Vec::new();
    if world.budget.crashes > 0 {
        let mut begun = done.clone();
        begun.budget.crashes -= 1;
        begun.nodes[n].stop();
        outcomes.push((", and crashes when it is marked", begun.clone()));
        if begun.nodes[n].data.take().is_some() {
            begun.nodes[n].half = true;
            outcomes.push((", and crashes when the WAL is moved", begun.clone()));
        }
        begun.nodes[n].half = false;
        outcomes.push((", and crashes when all is moved", begun.clone()));
        begun.nodes[n].ledger.left_behind(moving.why);
        outcomes.push((", and crashes when it is recorded", begun));
    }
    finish_quarantine(&mut done, n);
    outcomes.push(("", done));
    outcomes
}

fn finish_quarantine(after: &mut World, n: usize) {
    let node = &mut after.nodes[n];
    if let Some(moving) = node.moving.take() {
        (node.data, node.half, node.yielded) = (None, false, false);
        node.ledger.left_behind(moving.why);
    }
}

/// One look and the step that follows from it.
fn look_and_act(rules: &Rules, world: &World, n: usize, waited: Waited) -> Vec<(String, World)> {
    let view = world.view(rules, n, waited);
    let mut after = world.clone();
    let before = view.claim.is_before_a_founding(&view.losses());
    if view.data == DataDir::Fresh && before && !view.ledger.saw_unclaimed {
        after.nodes[n].ledger.saw_unclaimed = true;
        return vec![("the claim is free".to_owned(), after)];
    }
    let step = decide(&world.policy(rules, n), &view);
    match &step {
        Step::Hold(_) | Step::Halt(_) => return Vec::new(),
        // Before etcd starts, and by itself once it has a quorum (`settle`): here it is started.
        Step::UpdateSelf { id } => {
            after.nodes[n].ledger.instance = Some(view.me.instance.clone());
            let (cluster, member) = (id.0 as usize / 100, (id.0 % 100) as u8);
            if let Some(place) = after.clusters[cluster].places.get_mut(&member) {
                (place.node, place.listed) = (n as u8, view.me.listed.clone());
            }
        }
        Step::Renounce { list, .. } => after.nodes[n].ledger.renounce(list),
        Step::Propose(proposal) => {
            if proposal.ballot.round > u64::from(world.budget.rounds) {
                return Vec::new();
            }
            let round = Round { proposal: proposal.clone(), sent: None, answers: Default::default() };
            let call = Call::Prepare { charter: proposal.charter.clone(), ballot: proposal.ballot.clone() };
            send_round(rules, &mut after, n, &view, round, &call);
        }
        Step::Claim(claiming) => {
            if claiming.ballot.round > u64::from(world.budget.rounds) {
                return Vec::new();
            }
            claim(&mut after, n, claiming);
        }
        Step::FoundAlone { accepted, .. } => {
            after.nodes[n].doing = Doing::Alone(accepted.clone());
        }
        Step::StartNew(list) => {
            learn(rules, &mut after, n, list);
            if prepare(&mut after, n, list) {
                offer(rules, &mut after, n, &view, list);
                return vec![("restores the data of its list".to_owned(), after)];
            }
            if list.seed.is_none() {
                offer(rules, &mut after, n, &view, list);
            }
            after.nodes[n].doing = Doing::Launching(Launch::New(list.clone()));
        }
        Step::StartExisting { cluster, member, .. } => {
            let place = Data { cluster: (member.0 / 100) as u8, member: (member.0 % 100) as u8 };
            after.nodes[n].doing = Doing::Launching(Launch::Existing { id: *cluster, place });
        }
        Step::Resume => {
            let node = &mut after.nodes[n];
            node.ledger.instance = Some(view.me.instance.clone());
            (node.doing, node.yielded) = (Doing::Starting(Launch::Resume), false);
        }
        Step::Quarantine(why) => {
            let outcomes = quarantine(world, n, Moving { why: why.left_behind() });
            return outcomes.into_iter().map(|(how, after)| (format!("{step}{how}"), after)).collect();
        }
        Step::RemoveMember { id, why } => return remove_member(world, n, *id, why, &step),
        Step::AddSelf => return add_self(world, n, &view, &step),
    }
    vec![(step.to_string(), after)]
}

/// Our own id is given up in our record first.
fn remove_member(world: &World, n: usize, id: MemberId, why: &RemovalReason, step: &Step) -> Vec<(String, World)> {
    let mut after = world.clone();
    let mut outcomes = Vec::new();
    if *why == RemovalReason::OwnOldId {
        after.nodes[n].ledger.give_up_old_id();
        if world.budget.crashes > 0 {
            let mut recorded = after.clone();
            recorded.budget.crashes -= 1;
            recorded.nodes[n].stop();
            outcomes.push((format!("{step}, and crashes when it is recorded"), recorded));
        }
    }
    let (cluster, member) = (id.0 as usize / 100, (id.0 % 100) as u8);
    if removal_keeps_quorum(world, cluster, member) {
        after.clusters[cluster].places.remove(&member);
        outcomes.push((step.to_string(), after));
    }
    outcomes
}

/// Our place in the cluster, then our record of it. A lost answer is as a crash in between, without the crash.
fn add_self(world: &World, n: usize, view: &View, step: &Step) -> Vec<(String, World)> {
    let Some(cluster) = living_cluster(world, view) else { return Vec::new() };
    let mut after = world.clone();
    let listed = world.listed(n);
    let c = &mut after.clusters[cluster];
    let member = c.next_member;
    c.next_member += 1;
    c.places.insert(member, Place { node: n as u8, listed, is_learner: true, published: false, ran: false });
    let id = World::cluster_of_list(&c.list);
    let mut outcomes = Vec::new();
    if world.budget.crashes > 0 {
        let mut unrecorded = after.clone();
        unrecorded.budget.crashes -= 1;
        unrecorded.nodes[n].stop();
        outcomes.push((format!("{step}, and crashes before its record"), unrecorded));
    }
    let joined = Joined { cluster: id, member: World::member_id(cluster, member), spawned: false };
    after.nodes[n].ledger.joined = Some(joined);
    outcomes.push((step.to_string(), after));
    outcomes
}

/// R4: the chosen list is offered to the listed that were seen fresh.
fn offer(rules: &Rules, after: &mut World, n: usize, view: &View, list: &InitialList) {
    for member in list.members.iter().filter(|m| m.instance != view.me.instance) {
        let fresh = view.peers.get(&member.instance).is_some_and(|p| matches!(p.sighting, PeerState::Fresh(_)));
        if fresh {
            let charter = view.roster.known().map(|roster| rules.policy.charter(roster));
            post(after, n, node_of(member), Letter::Call(Call::Chosen { charter, list: list.clone() }));
        }
    }
}
