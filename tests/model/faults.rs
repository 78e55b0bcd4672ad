//! Crash, restart, wipe, terminate, launch; and what the end of all faults is.

use std::collections::BTreeSet;
use std::rc::Rc;

use muster_core::paxos::{Ballot, Call, Ledger, answer};
use muster_core::quorum::quorum;

use muster_core::owner;
use muster_core::types::{InitialList, InstanceId, ListedMember};

use crate::common::{id, listed};
use crate::etcd::make_wal;
use crate::mail::brief;
use crate::restore::EARLIER;
use crate::world::{
    Budget, Data, Disk, Doing, Launch, LeftOut, Life, NAMES, Node, Rules, World, bits, index_of, named, node_of,
};

/// What a new ledger's nonce is above the lost one's.
const WIPED: u64 = 100;

/// How a node's etcd or supervisor may end, as far as the disk shows it. An etcd that is starting has made nothing, or its
/// backend, or its WAL too. Of one that ran it was recorded, or not yet, that it served and that it elected.
pub fn endings(world: &World, n: usize) -> Vec<(&'static str, World)> {
    let node = &world.nodes[n];
    let mut endings = vec![("", world.clone())];
    let mut also = |how, change: &dyn Fn(&mut World)| {
        let mut after = world.clone();
        change(&mut after);
        endings.push((how, after));
    };
    match &node.doing {
        Doing::Starting(launch) if *launch != Launch::Resume => {
            also(", with a backend and no WAL", &|after| after.nodes[n].half = true);
            also(", with a WAL", &|after| make_wal(after, n, launch));
        }
        Doing::Runs => {
            if node.ledger.starting.is_some() {
                also(", seen to serve", &|after| after.nodes[n].ledger.starting = None);
            }
            if node.ledger.never_elected && world.has_published(n) {
                also(", seen to elect", &|after| {
                    let ledger = &mut after.nodes[n].ledger;
                    (ledger.starting, ledger.never_elected) = (None, false);
                });
            }
        }
        _ => {}
    }
    endings
}

/// The network parts, and is mended.
pub fn cut(world: &World, add: &mut impl FnMut(String, World)) {
    if world.cut != 0 {
        add("the cut heals".to_owned(), World { cut: 0, ..world.clone() });
    } else if world.budget.cuts > 0 {
        for mask in (2..1 << world.nodes.len()).step_by(2) {
            let mut after = World { cut: mask, ..world.clone() };
            after.budget.cuts -= 1;
            add(format!("{} cut off", named(mask)), after);
        }
    }
}

/// Crash, restart, wipe, terminate, launch.
pub fn disturb(rules: &Rules, world: &World, n: usize, add: &mut impl FnMut(String, World)) {
    let node = &world.nodes[n];
    let name = NAMES[n];
    match node.life {
        Life::Up | Life::Down => {
            if node.life == Life::Up && world.budget.crashes > 0 {
                for (how, mut after) in endings(world, n) {
                    after.budget.crashes -= 1;
                    after.nodes[n].stop();
                    add(format!("{name} crashes{how}"), after);
                }
            }
            if node.life == Life::Down {
                let mut after = world.clone();
                after.nodes[n].life = Life::Up;
                add(format!("{name} restarts"), after);
            }
            if world.budget.settings > 0 && !node.has_data() {
                let mut after = world.clone();
                after.budget.settings -= 1;
                after.nodes[n].moved = !node.moved;
                after.nodes[n].stop();
                add(format!("{name} is set to another port"), after);
            }
            if world.budget.wals > 0 {
                for (how, mut after) in endings(world, n) {
                    after.budget.wals -= 1;
                    let node = &mut after.nodes[n];
                    node.stop();
                    node.half |= node.data.take().is_some();
                    (node.marked, node.wal_lost) = (false, true);
                    add(format!("{name} crashes{how} and loses its WAL volume"), after);
                }
            }
            if world.budget.wipes > 0 {
                let mut after = world.clone();
                after.budget.wipes -= 1;
                let ledger = Ledger { nonce: node.ledger.nonce + WIPED, instance: Some(id(name)), ..Ledger::default() };
                after.nodes[n] = Node {
                    life: Life::Down,
                    forgiven: !world.old,
                    shown: node.shown,
                    moved: node.moved,
                    ..Node::new(ledger)
                };
                add(format!("{name} crashes and loses its disk"), after);
            }
            if world.budget.terminations > 0 {
                let mut after = world.clone();
                after.budget.terminations -= 1;
                after.nodes[n] = Node { life: Life::Dead, ..Node::new(Ledger::default()) };
                add(format!("{name} is terminated"), after);
            }
        }
        Life::Unborn
            if world.truth().0.count_ones() < rules.size as u32 && n > 0 && world.nodes[n - 1].life != Life::Unborn =>
        {
            let mut after = world.clone();
            after.nodes[n].life = Life::Up;
            after.nodes[n].shown = after.truth();
            add(format!("{name} is launched as a replacement"), after);
        }
        Life::Unborn if n > 0 && world.nodes[n - 1].life != Life::Unborn => boot_from_image(rules, world, n, add),
        Life::Unborn | Life::Dead => {}
    }
}

/// Somebody takes a snapshot of a node's volumes, or makes an image of the machine.
pub fn take_image(world: &World, add: &mut impl FnMut(String, World)) {
    if world.budget.copies == 0 || world.image.is_some() {
        return;
    }
    for (n, node) in world.nodes.iter().enumerate() {
        if matches!(node.life, Life::Up | Life::Down) {
            let Node { ledger, data, half, marked, .. } = node.clone();
            let mut after = World { image: Some(Rc::new(Disk { ledger, data, half, marked })), ..world.clone() };
            after.budget.copies -= 1;
            add(format!("{}'s disk is copied", NAMES[n]), after);
        }
    }
}

/// A new instance boots from it, however old it is by then. What another promised is not promised here, where there is no data
/// that it could be about (`Store::bind`).
fn boot_from_image(rules: &Rules, world: &World, n: usize, add: &mut impl FnMut(String, World)) {
    let Some(image) = &world.image else { return };
    let mut after = World { image: None, ..world.clone() };
    let Disk { ledger, data, half, marked } = (**image).clone();
    let has_data = data.is_some() || half;
    let own = Ledger { nonce: n as u64 + 1, instance: Some(id(NAMES[n])), ..Ledger::default() };
    let ledger = if has_data { ledger } else { own };
    after.nodes[n] = Node { life: Life::Up, data, half, marked: marked && has_data, ..Node::new(ledger) };
    after.nodes[n].shown = after.truth();
    // Its metadata service is mute: who it is only its disk says, and the machine. It waits, as if it were down, or goes on.
    if let Some(owner) = image.ledger.instance.as_ref().map(index_of) {
        let mut mute = after.clone();
        let is_owner = owner::is_this_machine("", &id(NAMES[owner]).0, || owner == n);
        match is_owner || rules.left_out == Some(LeftOut::Machine) {
            true => {
                mute.nodes[n].ledger = image.ledger.clone();
                mute.nodes[n].marked = image.marked;
                mute.nodes[n].taken_for = Some(owner as u8);
            }
            false => mute.nodes[n].life = Life::Down,
        }
        add(format!("{} boots from a copy, and its metadata service is mute", NAMES[n]), mute);
    }
    add(format!("{} boots from a copy", NAMES[n]), after);
}

/// The whole fleet is stopped and started: EC2 shows each launched anew.
pub fn stop_and_start(world: &World, add: &mut impl FnMut(String, World)) {
    if !world.old || world.restarted || world.budget.crashes == 0 {
        return;
    }
    let mut after = World { restarted: true, ..world.clone() };
    after.budget.crashes -= 1;
    for n in 0..after.nodes.len() {
        if after.nodes[n].life == Life::Up {
            after.nodes[n].stop();
        }
    }
    add("the fleet is stopped and started".to_owned(), after);
}

/// Whoever reaches the port can ask for the charter, and post what he likes.
pub fn speak_as_a_stranger(rules: &Rules, world: &World, n: usize, add: &mut impl FnMut(String, World)) {
    let node = &world.nodes[n];
    if world.budget.strangers == 0 || !node.answers() {
        return;
    }
    let standing = world.standing(rules, n);
    let Some(charter) = standing.charter.clone() else { return };
    let entry = |name: char, url: &str| ListedMember { peer_urls: vec![url.to_owned()], ..listed(name) };
    let list = |members: Vec<ListedMember>| InitialList::empty(members, "stranger".to_owned());
    let lists = [
        list(vec![listed('x'), listed('y')]),
        list(NAMES[..rules.size].iter().map(|name| entry(*name, "http://192.0.2.1:2380")).collect()),
        list(vec![entry(NAMES[n], "http://192.0.2.1:2380"), listed('x')]),
        list(vec![world.listed(n)]),
    ];
    let ballot = Ballot { round: u64::MAX, proposer: id('x'), nonce: 0 };
    let mut calls = vec![Call::Prepare { charter: charter.clone(), ballot: ballot.clone() }];
    for list in lists {
        let ballot = Ballot { round: 1, ..ballot.clone() };
        calls.push(Call::Accept { charter: charter.clone(), ballot, list: list.clone() });
        calls.push(Call::Chosen { charter: Some(charter.clone()), list: list.clone() });
        calls.push(Call::Chosen { charter: None, list });
    }
    for call in calls {
        if let (said, Some(ledger)) = answer(&node.ledger, &standing, &call) {
            let mut after = world.clone();
            after.budget.strangers -= 1;
            after.nodes[n].ledger = ledger;
            add(format!("{} is told by a stranger: {}", NAMES[n], brief(&said)), after);
        }
    }
}

impl World {
    /// It outlives the founding window. No call lives for a quarter of an hour: it has a timeout of seconds.
    pub fn grown_old(&self) -> Self {
        Self { old: true, mail: BTreeSet::new(), ..self.clone() }
    }

    /// All faults over: everybody is up, sees everything, and no more harm will come.
    pub fn healed(&self, rules: &Rules) -> Self {
        let mut after = self.clone();
        after.cut = 0;
        after.mail.clear();
        after.object.writes.clear();
        after.budget = Budget { rounds: 250, ..Budget::default() };
        after.image = None;
        if rules.beside_snapshots {
            after = after.settle_restore();
        }
        for n in 0..after.nodes.len() {
            let wanted = after.truth().0.count_ones() < rules.size as u32;
            let node = &mut after.nodes[n];
            match node.life {
                Life::Down => node.life = Life::Up,
                Life::Unborn if wanted => node.life = Life::Up,
                _ => {}
            }
        }
        let truth = after.truth();
        for n in bits(truth.0) {
            let node = &mut after.nodes[n];
            node.shown = truth;
            if node.round().is_some() {
                node.doing = Doing::Deliberates;
            }
        }
        after.settle();
        after
    }

    /// One cluster of all running instances, but for spares beyond its size.
    pub fn is_one_cluster(&self, rules: &Rules) -> bool {
        let quorate = self.quorate();
        let [cluster] = quorate.as_slice() else { return false };
        // A copy holds until an operator has looked.
        let lives = |owner: &InstanceId| self.nodes[index_of(owner)].life != Life::Dead;
        let is_copy = |n: usize| {
            let owner = self.nodes[n].ledger.instance.as_ref().filter(|owner| index_of(owner) != n);
            self.nodes[n].has_data() && owner.is_some_and(lives)
        };
        let up: Vec<usize> = bits(self.of(|n| n.life == Life::Up)).filter(|n| !is_copy(*n)).collect();
        let members = &self.clusters[*cluster].places;
        let is_voter = |n: &usize| {
            members.iter().any(|(id, p)| {
                usize::from(p.node) == *n
                    && !p.is_learner
                    && self.nodes[*n].runs()
                    && self.nodes[*n].data == Some(Data { cluster: *cluster as u8, member: *id })
            })
        };
        let voters = up.iter().filter(|n| is_voter(n)).count();
        voters == up.len().min(rules.size)
    }

    /// Then nobody of unknown age believes a choice that it had no part in: the operator must vouch.
    pub fn lost_somebody(&self) -> bool {
        self.nodes.iter().any(|n| n.life == Life::Dead || n.ledger.nonce > WIPED)
    }

    /// A cluster wrote, and what is left of its data is no quorum; or of those that a list names too many are gone or have
    /// lost their WAL volume, so that nobody can know what was written: the operator's cases.
    pub fn is_operators_case(&self) -> bool {
        let with_data = |c: usize| {
            let voters = self.clusters[c].places.iter().filter(|(_, p)| !p.is_learner);
            let kept = voters.clone().filter(|(id, _)| self.is_held(Data { cluster: c as u8, member: **id }));
            kept.count() >= quorum(voters.count())
        };
        let bereft = |node: &Node| node.wal_lost && node.ledger.founded && node.data.is_none();
        let robbed = self.nodes.iter().filter(|n| bereft(n)).filter_map(|n| n.ledger.chosen.as_ref()).any(|list| {
            let of_use = list.members.iter().map(|m| &self.nodes[node_of(m)]);
            of_use.filter(|n| n.life != Life::Dead && !bereft(n)).count() < quorum(list.members.len())
        });
        let is_present = |c: &usize| self.clusters[*c].wrote && self.clusters[*c].list.token != EARLIER;
        robbed || (0..self.clusters.len()).filter(is_present).any(|c| !with_data(c))
    }
}
