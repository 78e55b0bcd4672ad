//! The founding's bookkeeping under any schedule of calls, lost answers and wiped or restarted acceptors: at most one list
//! is ever chosen, as long as no majority of disks is lost.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod common;

use std::collections::BTreeMap;

use common::{id, listed, policy, roster};
use muster_core::paxos::{
    Accepted, AcceptorContext, Answer, Ballot, Call, Charter, FirstStart, Joined, Ledger, LeftBehind, Tally, WalVolume,
    answer, learn, tally_accepts, tally_promises,
};
use muster_core::types::{ClusterId, InitialList, InstanceId, MemberId};
use proptest::prelude::*;

const NAMES: &str = "abcde";

#[derive(Clone, Debug)]
enum Event {
    /// A node runs phase 1 with those acceptors whose bit is set.
    Prepare { proposer: usize, reach: u8 },
    /// A node runs phase 2 with what it learnt in its phase 1, however long ago.
    Accept { proposer: usize, reach: u8 },
}

struct Round {
    ballot: Ballot,
    list: InitialList,
}

struct World {
    charter: Charter,
    ledgers: Vec<Ledger>,
    rounds: BTreeMap<usize, Round>,
    chosen: Vec<InitialList>,
}

impl World {
    fn new(size: usize) -> Self {
        let names: String = NAMES.chars().take(size).collect();
        let nonces = (0..size).map(|n| Ledger { nonce: n as u64 + 1, ..Ledger::default() });
        Self {
            charter: policy(Some(size)).charter(&roster(&names)),
            ledgers: nonces.collect(),
            rounds: BTreeMap::new(),
            chosen: Vec::new(),
        }
    }

    fn name(n: usize) -> char {
        NAMES.chars().nth(n).unwrap()
    }

    /// What that node knows.
    fn standing(&self, n: usize) -> AcceptorContext {
        let listings =
            self.charter.first.iter().map(|(i, _)| (i.clone(), [listed(i.0.chars().last().unwrap())].into()));
        AcceptorContext {
            me: id(Self::name(n)),
            charter: Some(self.charter.clone()),
            listings: listings.collect(),
            ..AcceptorContext::default()
        }
    }

    fn ask(&mut self, reach: u8, call: &Call) -> BTreeMap<InstanceId, Answer> {
        let mut answers = BTreeMap::new();
        for n in (0..self.ledgers.len()).filter(|n| reach & (1 << n) != 0) {
            let (given, next) = answer(&self.ledgers[n], &self.standing(n), call);
            if let Some(next) = next {
                self.ledgers[n] = next;
            }
            // The two upper bits lose answers that were given.
            if reach & 0x40 == 0 || n % 2 == 0 {
                answers.insert(id(Self::name(n)), given);
            }
        }
        answers
    }

    fn run(&mut self, event: &Event) {
        match *event {
            Event::Prepare { proposer, reach } => {
                let n = proposer % self.ledgers.len();
                let highest =
                    self.ledgers.iter().filter_map(|l| l.promised.as_ref()).map(|b| b.round).max().unwrap_or(0);
                let ballot = Ballot { round: highest + 1, proposer: id(Self::name(n)), nonce: self.ledgers[n].nonce };
                let call = Call::Prepare { charter: self.charter.clone(), ballot: ballot.clone() };
                let answers = self.ask(reach, &call);
                let members = self.charter.first.iter().map(|(i, _)| listed(i.0.chars().last().unwrap())).collect();
                let own = InitialList::empty(members, format!("{}-{n}", ballot.round));
                match tally_promises(&self.charter, &self.standing(n), &answers) {
                    Tally::Free => drop(self.rounds.insert(n, Round { ballot, list: own })),
                    Tally::Adopt(list) => drop(self.rounds.insert(n, Round { ballot, list })),
                    Tally::Chosen(list) => self.chosen.push(list),
                    _ => drop(self.rounds.remove(&n)),
                }
            }
            Event::Accept { proposer, reach } => {
                let n = proposer % self.ledgers.len();
                let Some(Round { ballot, list }) = self.rounds.get(&n) else { return };
                let list = list.clone();
                let call = Call::Accept { charter: self.charter.clone(), ballot: ballot.clone(), list: list.clone() };
                let answers = self.ask(reach, &call);
                if let Tally::Chosen(list) = tally_accepts(&self.charter, &list, &answers) {
                    self.ledgers[n].chosen.get_or_insert(list.clone());
                    self.chosen.push(list);
                }
            }
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let reach = prop_oneof![3 => Just(0x1f_u8), 2 => any::<u8>()];
    (any::<bool>(), 0..5_usize, reach).prop_map(|(prepare, proposer, reach)| match prepare {
        true => Event::Prepare { proposer, reach },
        false => Event::Accept { proposer, reach },
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn at_most_one_list_is_chosen(size in 1..=5_usize, events in prop::collection::vec(event(), 1..40)) {
        let mut world = World::new(size);
        for event in &events {
            world.run(event);
        }
        prop_assert!(world.chosen.windows(2).all(|pair| pair[0] == pair[1]), "{:?}", world.chosen);
    }
}

/// The property above would hold too if nothing were ever chosen.
#[test]
fn an_undisturbed_round_chooses() {
    for size in 1..=5 {
        let mut world = World::new(size);
        world.run(&Event::Prepare { proposer: 0, reach: 0x1f });
        world.run(&Event::Accept { proposer: 0, reach: 0x1f });
        assert_eq!(world.chosen.len(), 1, "{size}");
    }
}

/// Of two accepted lists only the one of the higher ballot can have been chosen.
#[test]
fn the_highest_accepted_ballot_is_adopted() {
    let world = World::new(5);
    let accepted = |round, token: &str| {
        let ballot = Ballot { round, proposer: id('a'), nonce: 1 };
        let list = InitialList::empty(vec![listed('a'), listed('b'), listed('c')], token.to_owned());
        Answer::Promised { accepted: Some(Accepted { ballot, list }) }
    };
    for (first, second) in [((1, "low"), (2, "high")), ((2, "high"), (1, "low"))] {
        let answers = BTreeMap::from([
            (id('a'), accepted(first.0, first.1)),
            (id('b'), accepted(second.0, second.1)),
            (id('c'), Answer::Promised { accepted: None }),
        ]);
        let Tally::Adopt(list) = tally_promises(&world.charter, &world.standing(1), &answers) else {
            panic!("not adopted")
        };
        assert_eq!(list.token, "high");
    }
}

#[test]
fn a_call_over_another_roster_changes_nothing() {
    let world = World::new(3);
    let other = policy(Some(3)).charter(&roster("abd"));
    let ballot = Ballot { round: 1, proposer: id('a'), nonce: 1 };
    let (given, next) = answer(&world.ledgers[1], &world.standing(1), &Call::Prepare { charter: other, ballot });
    assert!(matches!(given, Answer::DifferentRoster { .. }));
    assert_eq!(next, None);
}

/// Who asks for the list after an election has lost its disk.
#[test]
fn the_list_is_told_beside_data_only_while_it_never_elected() {
    let world = World::new(3);
    let standing = AcceptorContext { has_data: true, ..world.standing(1) };
    let list = InitialList::empty(vec![listed('a'), listed('b'), listed('c')], "t".to_owned());
    let elected = Ledger { chosen: Some(list.clone()), founded: true, ..world.ledgers[1].clone() };
    assert_eq!(elected.valid_choice(&standing), None);
    let never_elected = Ledger { never_elected: true, ..elected };
    assert_eq!(never_elected.valid_choice(&standing), Some(&list));
}

#[test]
fn a_node_with_data_promises_nothing() {
    let world = World::new(3);
    let standing = AcceptorContext { has_data: true, ..world.standing(1) };
    let ballot = Ballot { round: 1, proposer: id('a'), nonce: 1 };
    let call = Call::Prepare { charter: world.charter.clone(), ballot };
    assert_eq!(answer(&world.ledgers[1], &standing, &call), (Answer::HasData, None));
}

/// No WAL, and our mark: nothing was ever written there.
const EMPTY: WalVolume = WalVolume { holds_wal: false, is_marked: true };

/// A missing WAL proves that none was made only before etcd was seen to serve, and on the volume it would have been made on.
#[test]
fn a_first_start_never_began_only_by_all_proofs() {
    let list = InitialList::empty(vec![listed('a')], "t".to_owned());
    let mut ledger = Ledger::default();
    assert_eq!(ledger.never_began(EMPTY), None, "nothing was started");
    ledger.start_founding(&list);
    assert_eq!(ledger.never_began(EMPTY), Some(FirstStart::Founding));
    assert_eq!(ledger.never_began(WalVolume { holds_wal: true, ..EMPTY }), None, "there is a WAL");
    assert_eq!(ledger.never_began(WalVolume { is_marked: false, ..EMPTY }), None, "its volume was lost");
    ledger.starting = None;
    assert_eq!(ledger.never_began(EMPTY), None, "it served");
    ledger.start_joining(ClusterId(1), MemberId(2));
    assert_eq!(ledger.never_began(EMPTY), Some(FirstStart::Joining));
}

/// What is forgotten is the start that never began, and no earlier one; however often the move is resumed.
#[test]
fn only_the_start_that_never_began_is_forgotten() {
    let list = InitialList::empty(vec![listed('a')], "t".to_owned());
    let spawned = |ledger: &Ledger| ledger.joined.is_some_and(|j: Joined| j.spawned);
    let mut ledger = Ledger::default();
    ledger.start_founding(&list);
    ledger.starting = None;
    ledger.left_behind(LeftBehind::MayHaveVoted);
    assert!(ledger.founded, "it may have voted");
    ledger.start_joining(ClusterId(1), MemberId(2));
    for _ in 0..2 {
        ledger.left_behind(LeftBehind::NeverBegan(FirstStart::Joining));
        assert!(ledger.founded && !spawned(&ledger) && ledger.starting.is_none(), "{ledger:?}");
    }
    ledger.start_joining(ClusterId(1), MemberId(2));
    ledger.left_behind(LeftBehind::MayHaveVoted);
    assert!(spawned(&ledger) && ledger.never_began(EMPTY).is_none(), "it may have voted");
    ledger.start_founding(&list);
    for _ in 0..2 {
        ledger.left_behind(LeftBehind::NeverBegan(FirstStart::Founding));
        assert!(!ledger.founded && spawned(&ledger), "{ledger:?}");
    }
}

#[test]
fn a_list_without_us_is_never_recorded() {
    let world = World::new(3);
    let list = InitialList::empty(vec![listed('a'), listed('b')], "t".to_owned());
    let (said, next) = learn(&world.ledgers[2], &world.standing(2), &list);
    assert!(matches!(said, Answer::Unfit { .. }) && next.is_none());
    let (said, next) = learn(&world.ledgers[1], &world.standing(1), &list);
    assert!(matches!(said, Answer::Chosen { .. }) && next.is_some_and(|ledger| ledger.chosen == Some(list)));
}

/// Who renounced it, or who was terminated, may be out of sight when it is told once more.
#[test]
fn whoever_promises_past_a_void_choice_never_starts_by_it() {
    let world = World::new(3);
    let list = InitialList::empty(vec![listed('a'), listed('b'), listed('c')], "t-void".to_owned());
    let ledger = Ledger { chosen: Some(list.clone()), ..world.ledgers[1].clone() };
    let ballot = Ballot { round: 1, proposer: id('a'), nonce: 1 };
    let call = Call::Prepare { charter: world.charter.clone(), ballot };
    assert!(matches!(answer(&ledger, &world.standing(1), &call), (Answer::Chosen { .. }, None)), "it stands");
    let renounced = ['a', 'c'].map(|name| (id(name), list.token.clone())).into();
    let (said, next) = answer(&ledger, &AcceptorContext { renounced, ..world.standing(1) }, &call);
    let next = next.unwrap();
    assert!(matches!(said, Answer::Promised { .. }) && next.chosen.is_none() && next.renounced.contains(&list.token));
}

#[test]
fn void_data_that_is_moved_aside_takes_its_list_with_it() {
    let list = InitialList::empty(vec![listed('a'), listed('b')], "t-void".to_owned());
    let mut ledger = Ledger::default();
    ledger.start_founding(&list);
    ledger.left_behind(LeftBehind::Void);
    assert!(!ledger.founded && ledger.chosen.is_none() && ledger.renounced.contains(&list.token));
}
