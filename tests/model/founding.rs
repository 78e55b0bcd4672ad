//! A founding round as its proposer goes through it.

use std::collections::BTreeMap;

use muster_core::decide::decide;
use muster_core::paxos::{self, Call, Charter, Tally, answer, tally_accepts, tally_promises};
use muster_core::step::Step;
use muster_core::types::InitialList;
use muster_core::view::{PeerState, View};

use crate::mail::{Letter, post};
use crate::world::{Doing, Round, Rules, Waited, World, index_of};

/// Asks ourselves at once, and by mail all acceptors that were seen fresh.
pub fn send_round(rules: &Rules, after: &mut World, n: usize, view: &View, mut round: Round, call: &Call) {
    let charter: &Charter = &round.proposal.charter;
    for (acceptor, _) in charter.first.clone() {
        if index_of(&acceptor) == n {
            let (given, ledger) = answer(&after.nodes[n].ledger, &after.standing(rules, n), call);
            if let Some(ledger) = ledger {
                after.nodes[n].ledger = ledger;
            }
            round.answers.insert(acceptor, given);
        } else if view.peers.get(&acceptor).is_some_and(|p| matches!(p.sighting, PeerState::Fresh(_))) {
            post(after, n, index_of(&acceptor), Letter::Call(call.clone()));
        }
    }
    after.nodes[n].doing = Doing::Round(round);
}

pub fn go_on_with_round(rules: &Rules, world: &World, n: usize, waited: Waited) -> Vec<(String, World)> {
    let Some(round) = world.nodes[n].round() else { return Vec::new() };
    let mut after = world.clone();
    after.nodes[n].doing = Doing::Deliberates;
    let dropped = ("drops its round".to_owned(), after.clone());
    let charter = &round.proposal.charter;
    if let Some(list) = &round.sent {
        return match tally_accepts(charter, list, &round.answers) {
            Tally::Chosen(list) => {
                learn(rules, &mut after, n, &list);
                vec![("knows its list is chosen".to_owned(), after)]
            }
            _ => vec![dropped],
        };
    }
    let list = match tally_promises(charter, &world.standing(rules, n), &round.answers) {
        Tally::Free => round.proposal.list.clone(),
        Tally::Adopt(list) => list,
        Tally::Chosen(list) => {
            learn(rules, &mut after, n, &list);
            return vec![("learns the chosen list".to_owned(), after)];
        }
        _ => return vec![dropped],
    };
    // R1: look again before the accept phase.
    let view = world.view(rules, n, waited);
    match decide(&world.policy(rules, n), &view) {
        Step::Propose(again) if again.charter == *charter => {}
        _ => return vec![dropped],
    }
    let next = Round { proposal: round.proposal.clone(), sent: Some(list.clone()), answers: BTreeMap::new() };
    let call = Call::Accept { charter: charter.clone(), ballot: round.proposal.ballot.clone(), list };
    send_round(rules, &mut after, n, &view, next, &call);
    vec![("asks for acceptance".to_owned(), after), dropped]
}

/// Records a list that is known to be chosen. Until then only the answers said so, and a crash forgets them.
pub fn learn(rules: &Rules, after: &mut World, n: usize, list: &InitialList) {
    let standing = after.standing(rules, n);
    let (_, ledger) = paxos::learn(&after.nodes[n].ledger, &standing, list);
    if let Some(ledger) = ledger {
        after.nodes[n].ledger = ledger;
    }
}
