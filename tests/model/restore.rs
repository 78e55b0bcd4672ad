//! A fleet that starts beside snapshots of an earlier cluster: what an operator orders, what each node sees of it, how the data of a list with a seed gets to
//! where etcd looks for it, and the member of the earlier cluster that comes back.
//!
//! One node may run a program from before seeds: it looks for no snapshots, and can't read what has a list with a seed in it.

use std::borrow::Cow;

use muster_core::seed::{MaySeed, SeedSeen, Snapshots};
use muster_core::types::{InitialList, Known};
use muster_core::view::{Claim, ClaimState, Policy};

use crate::common::{id, listed, seed};
use crate::etcd::make_wal;
use crate::world::{Budget, Cluster, Data, Doing, Launch, Life, NAMES, Rules, World};

/// The earlier cluster's token, by which it is known here.
pub const EARLIER: &str = "earlier";

/// The orders that lie beside the snapshots, a bit each; the highest is the last.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Orders(u8);

impl Orders {
    fn all(self) -> impl Iterator<Item = u64> {
        (1..=2).filter(move |n| self.0 & (1 << (n - 1)) != 0)
    }

    fn with_another(self) -> Option<Self> {
        (1..=2).map(|n| 1 << (n - 1)).find(|bit| *bit > self.0).map(|bit| Self(self.0 | bit))
    }

    fn without_the_last(self) -> Option<Self> {
        self.all().last().map(|n| Self(self.0 & !(1 << (n - 1))))
    }
}

impl World {
    /// The same fleet beside the snapshots of a cluster of which the last slot may come back; that node runs an older program.
    pub fn beside_snapshots(mut self, rules: &Rules, older: Option<usize>) -> Self {
        let last = rules.size;
        let list = InitialList::empty([NAMES[last], 'x', 'y'].map(listed).to_vec(), EARLIER.to_owned());
        let mut earlier = Cluster::under(&list);
        earlier.wrote = true;
        for place in earlier.places.values_mut() {
            (place.node, place.published, place.ran) = (last as u8, true, true);
        }
        self.clusters.push(earlier);
        let node = &mut self.nodes[last];
        node.data = Some(Data { cluster: 0, member: 0 });
        (node.ledger.chosen, node.ledger.founded, node.ledger.instance) = (Some(list), true, Some(id(NAMES[last])));
        if let Some(older) = older {
            (self.nodes[older].older, self.had_older) = (true, true);
        }
        self
    }

    /// An older program, which sees no snapshots, needs nobody's acceptance where it may found alone, or by a claim.
    pub fn one_may_found_blindly(&self, rules: &Rules) -> bool {
        self.had_older && (rules.size == 2 || rules.policy.claim.is_some())
    }

    /// An operator ordered already, and all have seen it.
    pub fn ordered(mut self) -> Self {
        self.orders = self.orders.with_another().unwrap_or(self.orders);
        for n in 0..self.nodes.len() {
            self.nodes[n].sees = self.orders;
        }
        self
    }

    /// All know what is ordered, and something is; the program is the same everywhere; the old member's instance is gone.
    pub fn settle_restore(self) -> Self {
        let mut after = if self.orders == Orders::default() { self.ordered() } else { self };
        for n in 0..after.nodes.len() {
            let orders = after.orders;
            let node = &mut after.nodes[n];
            (node.sees, node.older) = (orders, false);
            let is_old = node.ledger.chosen.as_ref().is_some_and(|list| list.token == EARLIER);
            if is_old && node.life != Life::Unborn {
                node.stop();
                (node.life, node.data) = (Life::Dead, None);
            }
        }
        after
    }

    /// The settings of that node.
    pub fn policy<'a>(&self, rules: &'a Rules, n: usize) -> Cow<'a, Policy> {
        match self.nodes[n].older {
            true => Cow::Owned(Policy { snapshots: Vec::new(), ..rules.policy.clone() }),
            false => Cow::Borrowed(&rules.policy),
        }
    }

    fn looks_for_snapshots(&self, rules: &Rules, n: usize) -> bool {
        rules.beside_snapshots && !self.nodes[n].older
    }

    pub fn snapshots_seen(&self, rules: &Rules, n: usize) -> Snapshots {
        match self.looks_for_snapshots(rules, n) {
            true => Snapshots::Seen { place: "file:/b".to_owned(), count: 1, newest: "n".to_owned() },
            false => Snapshots::NotAsked,
        }
    }

    pub fn seed_seen(&self, n: usize) -> SeedSeen {
        let node = &self.nodes[n];
        if node.older {
            return SeedSeen::default();
        }
        let wanted = node.sees.all().last().map(|last| Known::Known(seed(last)));
        SeedSeen { by_order: wanted.is_some(), wanted, acceptable: node.sees.all().map(seed).collect() }
    }

    pub fn may_seed(&self, rules: &Rules, n: usize) -> MaySeed {
        match self.looks_for_snapshots(rules, n) {
            true => MaySeed::OneOf(self.nodes[n].sees.all().map(seed).collect()),
            false => MaySeed::Nothing,
        }
    }

    /// What an older program makes of a claim of a list with a seed (`ClaimStore::read`).
    pub fn claim_read_by(&self, n: usize, claim: ClaimState) -> ClaimState {
        match &claim {
            ClaimState::Held { claim: Claim::Founding { list }, .. } if self.nodes[n].older && list.seed.is_some() => {
                ClaimState::Unknown("it is not a claim".to_owned())
            }
            _ => claim,
        }
    }
}

impl Cluster {
    /// It was founded here, without a seed.
    pub fn is_new_and_empty(&self) -> bool {
        self.list.seed.is_none() && self.list.token != EARLIER
    }
}

/// What the operator does, who sees it, and who comes back.
pub fn order(rules: &Rules, world: &World, add: &mut impl FnMut(String, World)) {
    if !rules.beside_snapshots {
        return;
    }
    for (n, node) in world.nodes.iter().enumerate() {
        if node.life == Life::Up && !node.older && node.sees != world.orders {
            let mut after = world.clone();
            after.nodes[n].sees = world.orders;
            add(format!("{} sees what is ordered", NAMES[n]), after);
        }
    }
    let spent = |orders| {
        let budget = Budget { orders: world.budget.orders - 1, ..world.budget };
        World { orders, budget, ..world.clone() }
    };
    if world.budget.orders > 0 {
        if let Some(orders) = world.orders.with_another() {
            add("a restore is ordered".to_owned(), spent(orders));
        }
        if let Some(orders) = world.orders.without_the_last() {
            add("the last order is withdrawn".to_owned(), spent(orders));
        }
    }
    let old = rules.size;
    if world.budget.returns > 0 && world.nodes[old].life == Life::Unborn {
        let mut after = world.clone();
        after.budget.returns -= 1;
        after.nodes[old].life = Life::Up;
        after.nodes[old].shown = after.truth();
        add(format!("{} comes back with the earlier cluster's data", NAMES[old]), after);
    }
}

/// Restores beside where etcd looks; `false`: that is done, or there is nothing to restore. All is looked at anew afterwards.
pub fn prepare(after: &mut World, n: usize, list: &InitialList) -> bool {
    let node = &mut after.nodes[n];
    if list.seed.is_none() || node.staged.as_ref() == Some(&list.token) {
        return false;
    }
    node.staged = Some(list.token.clone());
    true
}

/// The launch is on record: the data is moved into place, then the WAL (`Paths::install`).
pub fn install(after: &mut World, n: usize, list: &InitialList) -> String {
    if !after.nodes[n].half {
        after.nodes[n].half = true;
        return format!("{}'s data is installed", NAMES[n]);
    }
    let before = after.began_empty;
    make_wal(after, n, &Launch::New(list.clone()));
    after.began_empty = before | (after.nodes[n].staged.as_ref() != Some(&list.token));
    (after.nodes[n].staged, after.nodes[n].doing) = (None, Doing::Starting(Launch::Resume));
    format!("{}'s WAL is installed", NAMES[n])
}
