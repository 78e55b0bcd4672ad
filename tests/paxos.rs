//! The founding's bookkeeping under any schedule of calls, lost answers and wiped or restarted acceptors: at most one list
//! is ever chosen, as long as no majority of disks is lost.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod common;

use std::collections::BTreeMap;

use common::{id, listed, policy, roster, seed};
use muster_core::paxos::{
    Accepted, AcceptorContext, Answer, Ballot, Call, Charter, FirstStart, Joined, Ledger, LeftBehind, Tally, WalVolume,
    answer, learn, tally_accepts, tally_promises,
};
use muster_core::seed::MaySeed;
use muster_core::types::Seed;
use muster_core::types::{ClusterId, InitialList, InstanceId, MemberId};
use proptest::prelude::*;

const NAMES: &str = "abcde";

#[derive(Clone, Debug)]
enum Event {
    /// A node runs phase 1 with those acceptors whose bit is set, for a list with that seed; 0: with none.
    Prepare { proposer: usize, reach: u8, wants: u64 },
    /// A node runs phase 2 with what it learnt in its phase 1, however long ago.
    Accept { proposer: usize, reach: u8 },
    /// A node sees other snapshots and orders than before.
    Sees { node: usize, orders: Option<u8> },
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
    may_seed: Vec<MaySeed>,
}

fn some_seed(wants: u64) -> Option<Box<Seed>> {
    (wants > 0).then(|| Box::new(seed(wants)))
}

/// `None`: no snapshots are seen; else the orders that are, a bit each.
fn seeing(orders: Option<u8>) -> MaySeed {
    let seeds = |orders: u8| (1..=2).filter(|n| orders & (1 << (n - 1)) != 0).map(seed).collect();
    orders.map_or(MaySeed::Nothing, |orders| MaySeed::OneOf(seeds(orders)))
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
            may_seed: vec![MaySeed::Nothing; size],
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
            may_seed: self.may_seed[n].clone(),
            ..AcceptorContext::default()
        }
    }

    fn ask(&mut self, reach: u8, call: &Call) -> BTreeMap<InstanceId, Answer> {
        let mut answers = BTreeMap::new();
        for n in (0..self.ledgers.len()).filter(|n| reach & (1 << n) != 0) {
            let (given, next) = answer(&self.ledgers[n], &self.standing(n), call);
            if let Some(next) = next {
                let list = |ledger: &Ledger| ledger.accepted.as_ref().map(|accepted| accepted.list.clone());
                if let (before, Some(list)) = (list(&self.ledgers[n]), list(&next))
                    && before.as_ref() != Some(&list)
                {
                    assert_eq!(self.may_seed[n].misfit(list.seed.as_deref()), None, "accepted at first sight");
                }
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
            Event::Prepare { proposer, reach, wants } => {
                let n = proposer % self.ledgers.len();
                let highest =
                    self.ledgers.iter().filter_map(|l| l.promised.as_ref()).map(|b| b.round).max().unwrap_or(0);
                let ballot = Ballot { round: highest + 1, proposer: id(Self::name(n)), nonce: self.ledgers[n].nonce };
                let call = Call::Prepare { charter: self.charter.clone(), ballot: ballot.clone() };
                let answers = self.ask(reach, &call);
                let members = self.charter.first.iter().map(|(i, _)| listed(i.0.chars().last().unwrap())).collect();
                let token = format!("{}-{n}", ballot.round);
                let own = InitialList { seed: some_seed(wants), ..InitialList::empty(members, token) };
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
            Event::Sees { node, orders } => {
                let n = node % self.ledgers.len();
                self.may_seed[n] = seeing(orders);
            }
        }
    }
}

fn event(most_wanted: u64) -> impl Strategy<Value = Event> {
    let reach = prop_oneof![3 => Just(0x1f_u8), 2 => any::<u8>()];
    (any::<bool>(), 0..5_usize, reach, 0..=most_wanted).prop_map(|(prepare, proposer, reach, wants)| match prepare {
        true => Event::Prepare { proposer, reach, wants },
        false => Event::Accept { proposer, reach },
    })
}

/// Also what each sees of snapshots and orders changes.
fn event_beside_snapshots() -> impl Strategy<Value = Event> {
    let sees = (0..5_usize, prop::option::weighted(0.7, 0..4_u8));
    prop_oneof![6 => event(2), 1 => sees.prop_map(|(node, orders)| Event::Sees { node, orders })]
}

fn all_alike(chosen: &[InitialList]) -> bool {
    chosen.windows(2).all(|pair| pair[0] == pair[1])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn at_most_one_list_is_chosen(size in 1..=5_usize, events in prop::collection::vec(event(0), 1..40)) {
        let mut world = World::new(size);
        for event in &events {
            world.run(event);
        }
        prop_assert!(all_alike(&world.chosen), "{:?}", world.chosen);
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// Two orders at once, which each acceptor knows: one of them.
    #[test]
    fn of_two_orders_at_most_one_is_chosen(size in 1..=5_usize, events in prop::collection::vec(event(2), 1..40)) {
        let mut world = World::new(size);
        world.may_seed.fill(seeing(Some(3)));
        for event in &events {
            world.run(event);
        }
        prop_assert!(all_alike(&world.chosen), "{:?}", world.chosen);
        prop_assert!(world.chosen.iter().all(|list| list.seed.is_some()), "an empty cluster beside snapshots");
    }

    /// Some see the snapshots and some don't yet, some know another order than others.
    #[test]
    fn never_both_a_seeded_and_an_unseeded_list(
        size in 1..=5_usize,
        seen in prop::collection::vec(prop::option::weighted(0.7, 0..4_u8), 5),
        events in prop::collection::vec(event_beside_snapshots(), 1..60),
    ) {
        let mut world = World::new(size);
        for (may_seed, orders) in world.may_seed.iter_mut().zip(&seen) {
            *may_seed = seeing(*orders);
        }
        for event in &events {
            world.run(event);
        }
        prop_assert!(all_alike(&world.chosen), "{:?}", world.chosen);
    }
}

/// The property above would hold too if nothing were ever chosen.
#[test]
fn an_undisturbed_round_chooses() {
    for size in 1..=5 {
        let mut world = World::new(size);
        world.run(&Event::Prepare { proposer: 0, reach: 0x1f, wants: 0 });
        world.run(&Event::Accept { proposer: 0, reach: 0x1f });
        assert_eq!(world.chosen.len(), 1, "{size}");
    }
}

/// So would those with seeds.
#[test]
fn an_undisturbed_round_by_an_order_chooses() {
    for size in 1..=5 {
        let mut world = World::new(size);
        world.may_seed.fill(seeing(Some(1)));
        world.run(&Event::Prepare { proposer: 0, reach: 0x1f, wants: 1 });
        world.run(&Event::Accept { proposer: 0, reach: 0x1f });
        assert_eq!(world.chosen.first().and_then(|list| list.seed.as_deref()), Some(&seed(1)), "{size}");
    }
}

/// What an acceptor says to a list with that seed, and whether it accepted.
fn asked(world: &mut World, n: usize, wants: u64) -> (Answer, bool) {
    let members = ['a', 'b', 'c'].map(listed).to_vec();
    let list = InitialList { seed: some_seed(wants), ..InitialList::empty(members, format!("t-{wants}")) };
    let ballot = Ballot { round: 1, proposer: id('a'), nonce: 1 };
    let call = Call::Accept { charter: world.charter.clone(), ballot, list: list.clone() };
    let (said, next) = answer(&world.ledgers[n], &world.standing(n), &call);
    if let Some(next) = next {
        world.ledgers[n] = next;
    }
    let accepted = world.ledgers[n].accepted.as_ref();
    (said, accepted.is_some_and(|accepted| accepted.list == list))
}

#[test]
fn an_acceptor_accepts_the_seeds_that_it_knows_and_nothing_beside_snapshots() {
    for (sees, wants, accepts) in [
        (None, 0, true),
        (None, 1, false),
        (Some(0b01), 0, false),
        (Some(0b01), 1, true),
        (Some(0b01), 2, false),
        (Some(0b11), 2, true),
        (Some(0), 0, false),
        (Some(0), 1, false),
    ] {
        let mut world = World::new(3);
        world.may_seed.fill(seeing(sees));
        let (said, accepted) = asked(&mut world, 1, wants);
        assert_eq!(accepted, accepts, "{sees:?} {wants}");
        match accepts {
            true => assert_eq!(said, Answer::Accepted),
            false => assert!(matches!(&said, Answer::Unfit { .. }) && world.ledgers[1].promised.is_none(), "{said:?}"),
        }
        // Nor is it believed that such a list is chosen.
        let mut world = World::new(3);
        world.may_seed.fill(seeing(sees));
        let members = ['a', 'b', 'c'].map(listed).to_vec();
        let list = InitialList { seed: some_seed(wants), ..InitialList::empty(members, "t".to_owned()) };
        let call = Call::Chosen { charter: Some(world.charter.clone()), list };
        let (said, next) = answer(&world.ledgers[1], &world.standing(1), &call);
        assert_eq!(next.is_some(), accepts, "{sees:?} {wants}: {said:?}");
    }
}

/// The order may have been removed since, or its place can't be read.
#[test]
fn an_acceptor_keeps_to_the_seed_that_it_accepted() {
    let mut world = World::new(3);
    world.may_seed.fill(seeing(Some(0b01)));
    assert_eq!(asked(&mut world, 1, 1).0, Answer::Accepted);
    for sees in [Some(0), None, Some(0b10)] {
        world.may_seed.fill(seeing(sees));
        assert_eq!(asked(&mut world, 1, 1).0, Answer::Accepted, "{sees:?}");
    }
}

/// An older program proposed an empty cluster, which it alone accepted: once it knows better, or is not the oldest, the order is carried out.
#[test]
fn what_nobody_else_accepts_is_proposed_again_only_if_it_may_have_been_chosen() {
    let tally = |by_others: [Option<Option<u64>>; 2], sees| {
        let mut world = World::new(3);
        world.may_seed.fill(seeing(sees));
        let accepted = |round, wants| {
            let members = ['a', 'b', 'c'].map(listed).to_vec();
            let list = InitialList { seed: some_seed(wants), ..InitialList::empty(members, format!("t-{wants}")) };
            Accepted { ballot: Ballot { round, proposer: id('a'), nonce: 1 }, list }
        };
        let mut answers = BTreeMap::from([(id('a'), Answer::Promised { accepted: Some(accepted(2, 0)) })]);
        for (name, said) in ['b', 'c'].into_iter().zip(by_others) {
            if let Some(wants) = said {
                let accepted = wants.map(|wants| accepted(if wants == 0 { 2 } else { 1 }, wants));
                answers.insert(id(name), Answer::Promised { accepted });
            }
        }
        tally_promises(&world.charter, &world.standing(1), &answers)
    };
    let is_adopted = |tally: &Tally| matches!(tally, Tally::Adopt(list) if list.seed.is_none());
    assert_eq!(tally([Some(None), Some(None)], Some(1)), Tally::Free);
    assert_eq!(tally([Some(None), Some(Some(1))], Some(1)), Tally::Free, "the order's, of a lower ballot");
    for may_be_chosen in [[Some(None), None], [None, Some(None)], [Some(Some(0)), Some(None)], [Some(Some(0)), None]] {
        let tally = tally(may_be_chosen, Some(1));
        assert!(is_adopted(&tally), "{may_be_chosen:?}: {tally:?}");
    }
    assert!(is_adopted(&tally([Some(None), Some(None)], None)), "where it fits it is simply carried on");
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

#[test]
fn a_list_with_a_seed_has_a_shape_of_its_own_and_no_other_is_a_list() {
    let unseeded = InitialList::empty(vec![listed('a')], "t".to_owned());
    let seeded = InitialList { seed: some_seed(9), ..unseeded.clone() };
    for list in [&unseeded, &seeded] {
        let text = serde_json::to_string(list).unwrap();
        assert_eq!(serde_json::from_str::<InitialList>(&text).unwrap(), *list);
    }
    let text = serde_json::to_string(&seeded).unwrap();
    assert!(text.starts_with(r#"{"seeded":{"members":["#), "a program that knows no seeds finds no members: {text}");
    for odd in [
        "{}".to_owned(),
        r#"{"token":"t"}"#.to_owned(),
        r#"{"members":[]}"#.to_owned(),
        // Conditions that this program can't keep.
        text.replace(r#""token":"#, r#""only_if":1,"token":"#),
        text.replace(r#""bump":"#, r#""only_if":1,"bump":"#),
        text.replace(r#""bump":1000000000"#, r#""bump":-1"#),
        text.replace(r#"{"seeded":"#, r#"{"members":[],"token":"t","seeded":"#),
    ] {
        assert!(odd != text && serde_json::from_str::<InitialList>(&odd).is_err(), "{odd}");
    }
}

/// It would be chosen, and nobody could ever start by it.
#[test]
fn a_seed_that_can_not_be_restored_is_refused_whoever_ordered_it() {
    let world = World::new(3);
    let odd = Seed { snapshot: "latest".to_owned(), ..seed(9) };
    let list = InitialList {
        seed: Some(Box::new(odd.clone())),
        ..InitialList::empty(['a', 'b', 'c'].map(listed).to_vec(), "t".to_owned())
    };
    let standing = AcceptorContext { may_seed: MaySeed::OneOf([odd].into()), ..world.standing(1) };
    let ballot = Ballot { round: 1, proposer: id('a'), nonce: 1 };
    let call = Call::Accept { charter: world.charter.clone(), ballot, list };
    let (said, next) = answer(&world.ledgers[1], &standing, &call);
    assert!(matches!(&said, Answer::Unfit { why } if why.contains("no snapshot's name")), "{said:?}");
    assert!(next.is_none_or(|ledger| ledger.accepted.is_none()));
}
