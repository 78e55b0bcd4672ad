//! The model's S3: one object, and the writes of it that are under way. Reads are consistent, so a look reads it at once; a
//! write may take place at any later time, or never, whoever sent it and whatever became of them.

use std::collections::BTreeSet;

use muster_core::claim::{Establish, establish};
use muster_core::step::ClaimProposal;
use muster_core::view::Claim;
use muster_core::view::ClaimState;
use serde::{Deserialize, Serialize};

use crate::restore::EARLIER;
use crate::world::{NAMES, Rules, Store, World};

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Object {
    pub claim: Option<Claim>,
    /// What was there before the last write.
    before: Option<Claim>,
    version: u8,
    /// As text, which gives them an order.
    pub writes: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
struct Write {
    claim: Claim,
    /// `None`: only if there is no object.
    replaces: Option<String>,
}

impl Object {
    pub fn read(&self) -> ClaimState {
        let held = |claim: &Claim| ClaimState::Held { claim: claim.clone(), version: self.version.to_string() };
        self.claim.as_ref().map_or(ClaimState::Absent, held)
    }

    fn becomes(&mut self, claim: Option<Claim>) {
        self.before = std::mem::replace(&mut self.claim, claim);
        self.version += 1;
    }

    fn send(&mut self, claim: Claim, replaces: Option<String>) {
        self.writes.insert(serde_json::to_string(&Write { claim, replaces }).unwrap_or_default());
    }
}

/// A node claims its list: its ballot on record, then the write on its way.
pub fn claim(after: &mut World, n: usize, claiming: &ClaimProposal) {
    after.nodes[n].ledger.promised = Some(claiming.ballot.clone());
    after.object.send(Claim::Founding { list: claiming.list.clone() }, claiming.replaces.clone());
}

/// What may happen to the object.
pub fn settle_claim(rules: &Rules, world: &World, add: &mut impl FnMut(String, World)) {
    if rules.policy.claim.is_none() {
        return;
    }
    for text in &world.object.writes {
        let Ok(write) = serde_json::from_str::<Write>(text) else { continue };
        let current = world.object.claim.as_ref().map(|_| world.object.version.to_string());
        let is_taken = match rules.store {
            Store::Keeps => current == write.replaces,
            Store::Ignores => true,
            Store::Refuses => false,
        };
        let mut after = world.clone();
        after.object.writes.remove(text);
        if is_taken {
            after.object.becomes(Some(write.claim));
            add("S3 takes a write".to_owned(), after);
        } else {
            add("S3 refuses a write".to_owned(), after);
        }
    }
    if world.budget.lies > 0 && world.object.claim.is_some() {
        for (what, claim) in [("loses the claim", None), ("serves the claim before", world.object.before.clone())] {
            let mut after = world.clone();
            after.budget.lies -= 1;
            after.object.becomes(claim);
            add(format!("S3 {what}"), after);
        }
    }
    for (n, node) in world.nodes.iter().enumerate() {
        let Some(data) = node.data.filter(|_| node.runs() && world.has_published(n)) else { continue };
        let list = &world.clusters[usize::from(data.cluster)].list;
        if list.token == EARLIER {
            // What is left of it never has a leader.
            continue;
        }
        let cluster = World::cluster_of_list(list);
        if let Establish::Write { replaces } = establish(&world.object.read(), cluster, World::cluster_of_list) {
            let mut after = world.clone();
            after.object.send(Claim::Established { cluster }, replaces);
            add(format!("{} writes that its cluster is established", NAMES[n]), after);
        }
    }
}
