//! Calls and answers under way: each may arrive at any later time, or never.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use muster_core::paxos::{Answer, Ballot, Call, answer};
use serde::Serialize;

use crate::common::id;
use crate::world::{Doing, Life, NAMES, Node, Rules, World};

/// What travels.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum Letter {
    Call(Call),
    /// An answer, with the ballot and phase that it answers.
    Answer {
        ballot: Ballot,
        phase_two: bool,
        answer: Answer,
    },
}

impl Letter {
    /// An older program can't read it.
    fn has_seed(&self) -> bool {
        let list = match self {
            Self::Call(Call::Accept { list, .. } | Call::Chosen { list, .. }) => Some(list),
            Self::Answer { answer: Answer::Chosen { list }, .. } => Some(list),
            Self::Answer { answer: Answer::Promised { accepted }, .. } => accepted.as_ref().map(|a| &a.list),
            Self::Call(Call::Prepare { .. }) | Self::Answer { .. } => None,
        };
        list.is_some_and(|list| list.seed.is_some())
    }
}

/// A letter under way. Its text gives it an order, and a hash, without asking the product for one.
#[derive(Clone, Debug)]
pub struct Mail {
    pub to: u8,
    pub from: u8,
    text: Rc<str>,
    letter: Rc<Letter>,
}

impl Mail {
    fn key(&self) -> (u8, u8, &str) {
        (self.to, self.from, &self.text)
    }
}

impl PartialEq for Mail {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Mail {}

impl PartialOrd for Mail {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Mail {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl Hash for Mail {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

pub fn post(world: &mut World, from: usize, to: usize, letter: Letter) {
    let text = serde_json::to_string(&letter).unwrap_or_default().into();
    world.mail.insert(Mail { to: to as u8, from: from as u8, text, letter: Rc::new(letter) });
}

pub fn deliver(rules: &Rules, world: &World, mail: &Mail) -> Option<(String, World)> {
    let (to, from) = (usize::from(mail.to), usize::from(mail.from));
    // Whoever sent it may have ended since. Where an etcd runs or starts a call finds nobody: as if it never arrived.
    if world.nodes[to].life != Life::Up || !world.same_side(from, to) {
        return None;
    }
    if world.nodes[to].older && mail.letter.has_seed() {
        return None;
    }
    let mut after = world.clone();
    after.mail.remove(mail);
    let call = match &*mail.letter {
        Letter::Answer { answer, .. } => {
            let Doing::Round(round) = &mut after.nodes[to].doing else { return None };
            round.answers.insert(id(NAMES[from]), answer.clone());
            return Some((format!("{} hears {}", NAMES[to], NAMES[from]), after));
        }
        Letter::Call(call) => call,
    };
    if !world.nodes[to].answers() {
        return None;
    }
    let (given, ledger) = answer(&world.nodes[to].ledger, &world.standing(rules, to), call);
    if let Some(ledger) = ledger {
        after.nodes[to].ledger = ledger;
    }
    let (ballot, phase_two) = match call {
        Call::Prepare { ballot, .. } => (ballot, false),
        Call::Accept { ballot, .. } => (ballot, true),
        Call::Chosen { .. } => return Some((format!("{} is told the chosen list", NAMES[to]), after)),
    };
    let what = format!("{} answers {}: {}", NAMES[to], NAMES[from], brief(&given));
    if awaits(&after.nodes[from], ballot, phase_two) {
        post(&mut after, to, from, Letter::Answer { ballot: ballot.clone(), phase_two, answer: given });
    }
    Some((what, after))
}

/// Whether that node is in this phase of this ballot's round.
fn awaits(node: &Node, ballot: &Ballot, phase_two: bool) -> bool {
    node.round().is_some_and(|r| r.proposal.ballot == *ballot && r.sent.is_some() == phase_two)
}

pub fn brief(answer: &Answer) -> &'static str {
    match answer {
        Answer::Promised { .. } => "promised",
        Answer::Accepted => "accepted",
        Answer::Refused { .. } => "refused",
        Answer::Chosen { .. } => "chosen already",
        Answer::DifferentRoster { .. } => "different roster",
        Answer::HasData => "has data",
        Answer::Unfit { .. } => "unfit",
    }
}

impl World {
    /// Mail that can never change anything again: the state space need not remember it.
    pub fn forget_dead_letters(&mut self) {
        let nodes = &self.nodes;
        self.mail.retain(|mail| {
            let to = &nodes[usize::from(mail.to)];
            if to.life == Life::Dead || (to.older && mail.letter.has_seed()) {
                return false;
            }
            match &*mail.letter {
                Letter::Answer { ballot, phase_two, .. } => awaits(to, ballot, *phase_two),
                Letter::Call(Call::Prepare { ballot, .. } | Call::Accept { ballot, .. }) => {
                    to.ledger.promised.as_ref().is_none_or(|promised| promised <= ballot)
                }
                Letter::Call(Call::Chosen { .. }) => to.ledger.chosen.is_none(),
            }
        });
    }
}
