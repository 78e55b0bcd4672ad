//! Crash, restart, wipe, terminate, launch; and what the end of all faults is.

use etcd_muster::cluster::paxos::Ledger;
use etcd_muster::cluster::quorum::quorum;

use crate::etcd::make_wal;
use crate::world::{Budget, Data, Doing, Launch, Life, NAMES, Node, Rules, World, bits, named, node_of};

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
                let ledger = Ledger { nonce: node.ledger.nonce + WIPED, ..Ledger::default() };
                after.nodes[n] =
                    Node { life: Life::Down, forgiven: !world.old, shown: node.shown, ..Node::new(ledger) };
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
        Life::Unborn | Life::Dead => {}
    }
}

impl World {
    /// All faults over: everybody is up, sees everything, and no more harm will come.
    pub fn healed(&self, rules: &Rules) -> Self {
        let mut after = self.clone();
        after.cut = 0;
        after.mail.clear();
        after.object.writes.clear();
        after.budget = Budget { crashes: 0, wipes: 0, wals: 0, cuts: 0, terminations: 0, rounds: 250 };
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
        let up: Vec<usize> = bits(self.of(|n| n.life == Life::Up)).collect();
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
            let kept = voters.clone().filter(|(id, place)| {
                self.nodes[usize::from(place.node)].data == Some(Data { cluster: c as u8, member: **id })
            });
            kept.count() >= quorum(voters.count())
        };
        let bereft = |node: &Node| node.wal_lost && node.ledger.founded && node.data.is_none();
        let robbed = self.nodes.iter().filter(|n| bereft(n)).filter_map(|n| n.ledger.chosen.as_ref()).any(|list| {
            let of_use = list.members.iter().map(|m| &self.nodes[node_of(m)]);
            of_use.filter(|n| n.life != Life::Dead && !bereft(n)).count() < quorum(list.members.len())
        });
        robbed || (0..self.clusters.len()).any(|c| self.clusters[c].wrote && !with_data(c))
    }
}
