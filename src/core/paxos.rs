//! Single-decree Paxos over the roster: the value is the initial list, the acceptors are the instances.
//!
//! (Lamport, "Paxos Made Simple", section 2.) What is here is the bookkeeping: pure functions from a ledger and a message
//! to an answer and the next ledger. The next ledger must be durable *before* the answer leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::quorum::quorum;
use super::types::{ClusterId, InitialList, InstanceId, LaunchTime, ListedMember, MemberId};

/// Orders proposals. The nonce is made with the ledger, so that a node whose disk was wiped can't use a ballot again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Ballot {
    pub round: u64,
    pub proposer: InstanceId,
    pub nonce: u64,
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.round, self.proposer)
    }
}

/// Names and addresses, by rank.
pub type WrittenHosts = Box<[(InstanceId, Option<IpAddr>)]>;

/// What a founding is over. Two nodes may only talk about a founding if theirs are equal: then they count the same
/// quorums over the same acceptors. A field that this program doesn't know is a condition it can't keep: such a charter is none.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Charter {
    /// N.
    pub size: usize,
    pub token_prefix: String,
    /// The first N of the roster by rank. The launch time is in it, because it changes at stop/start.
    pub first: Vec<(InstanceId, Option<LaunchTime>)>,
    /// `MUSTER_CLAIM`: those who claim and those who vote must not count each other.
    #[serde(default)]
    pub claim: Option<String>,
    /// A written roster's, all of it that stands: nobody but its writers vouches that two nodes mean the same hosts by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<WrittenHosts>,
}

impl fmt::Display for Charter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&str> = self.first.iter().map(|(id, _)| id.0.as_str()).collect();
        write!(f, "{} of {}, token {}", ids.join(" "), self.size, self.token_prefix)?;
        self.claim.iter().try_for_each(|claim| write!(f, ", claim {claim}"))?;
        let Some(written) = &self.written else { return Ok(()) };
        let at = |(id, address): &(InstanceId, Option<IpAddr>)| {
            address.map_or_else(|| id.to_string(), |address| format!("{id}={address}"))
        };
        write!(f, ", list {}", written.iter().map(at).collect::<Vec<_>>().join(","))
    }
}

/// A list and the ballot it was accepted in.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Accepted {
    pub ballot: Ballot,
    pub list: InitialList,
}

/// The member that the data here is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct RanAs {
    pub cluster: ClusterId,
    pub member: MemberId,
}

/// Our place in a living cluster that we added ourselves to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Joined {
    pub cluster: ClusterId,
    pub member: MemberId,
    /// Set, durably, before etcd is spawned under this id for the first time.
    pub spawned: bool,
}

/// A start of etcd under an id that it has never run under.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum FirstStart {
    /// Under the chosen list.
    Founding,
    /// As an unstarted member of a living cluster.
    Joining,
}

/// What data was moved aside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum LeftBehind {
    /// Of an etcd that may have voted.
    #[default]
    MayHaveVoted,
    /// What a first start left that never made a WAL.
    NeverBegan(FirstStart),
    /// Of a founding that can never have a quorum.
    Void,
}

/// What this instance must never forget: kept in `ED_DATA/muster/`, fsynced before any answer that depends on it. A field that
/// this program doesn't know may be a promise: such a ledger is left as it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// The version of the file's format; 0: from before it had one.
    #[serde(default)]
    pub format: u32,
    /// Random, made with the file, and so the disk's own id: no other disk has it but a copy of this one.
    pub nonce: u64,
    /// The instance that this disk belongs to. `None`: no record says whose the data here is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// The member that etcd here was last seen to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_as: Option<RanAs>,
    /// Tokens of lists that hold this instance otherwise than it can be started now: it never ran under them, and never will.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub renounced: BTreeSet<String>,
    pub promised: Option<Ballot>,
    pub accepted: Option<Accepted>,
    pub chosen: Option<InitialList>,
    /// Set before etcd is spawned under the chosen list, and unset only when that list is void: a data dir that is gone in
    /// between was lost.
    #[serde(default)]
    pub founded: bool,
    /// This disk saw the claim absent: it is from before the founding.
    #[serde(default)]
    pub saw_unclaimed: bool,
    /// The WAL in the data dir was made by a founding and has not been seen to elect. False or lost: counts as elected.
    #[serde(default)]
    pub never_elected: bool,
    #[serde(default)]
    pub joined: Option<Joined>,
    /// Set before etcd is first spawned under an id, unset once it was seen to serve there. Unset or lost: counts as served.
    #[serde(default)]
    pub starting: Option<FirstStart>,
    /// This instance was about to end, and had its member removed: it stays down until EC2 says that it lives on.
    #[serde(default)]
    pub left: bool,
}

impl Ledger {
    /// A founding with ourselves as the only acceptor.
    pub fn found_alone(&mut self, accepted: &Accepted) {
        self.promised = Some(accepted.ballot.clone());
        self.chosen = Some(accepted.list.clone());
        self.accepted = Some(accepted.clone());
    }

    /// Never to start by that list. Without effect once etcd was started by one.
    pub fn renounce(&mut self, list: &InitialList) {
        if !self.founded {
            self.renounced.insert(list.token.clone());
        }
    }

    /// What foundings have brought here so far: the list accepted last, and the chosen one.
    pub fn lists(&self) -> [Option<&InitialList>; 2] {
        [self.accepted.as_ref().map(|accepted| &accepted.list), self.chosen.as_ref()]
    }

    /// What must be durable before etcd first runs under the chosen list.
    pub fn start_founding(&mut self, list: &InitialList) {
        self.chosen = Some(list.clone());
        self.founded = true;
        self.never_elected = true;
        self.starting = Some(FirstStart::Founding);
    }

    /// What must be durable before we remove our own old id: it may have voted, so it is as if our etcd had run under it.
    pub fn give_up_old_id(&mut self) {
        self.founded = true;
    }

    /// What must be durable before etcd first runs as that member of a living cluster.
    pub fn start_joining(&mut self, cluster: ClusterId, member: MemberId) {
        self.joined = Some(Joined { cluster, member, spawned: true });
        self.never_elected = false;
        self.starting = Some(FirstStart::Joining);
    }

    /// A first start that was broken off before etcd made its WAL: no vote was cast under its id. It takes two proofs beside
    /// the missing WAL, for a WAL that was lost is missing too: etcd was never seen to serve, and the volume is the one that
    /// the WAL would have been made on, by the mark we left there before the start.
    pub fn never_began(&self, holds_wal: bool, volume_is_marked: bool) -> Option<FirstStart> {
        self.starting.filter(|_| !holds_wal && volume_is_marked)
    }

    /// The data was moved aside. Where it is known that no vote counts that was cast with it, it is as if etcd had never run under
    /// that id; else `founded` and `spawned` stay: this instance must never start with an empty log under an id that may have
    /// voted. May be done twice.
    pub fn left_behind(&mut self, why: LeftBehind) {
        self.never_elected = false;
        self.starting = None;
        match why {
            LeftBehind::NeverBegan(FirstStart::Founding) => self.founded = false,
            LeftBehind::NeverBegan(FirstStart::Joining) => {
                self.joined = self.joined.map(|joined| Joined { spawned: false, ..joined });
            }
            // Who renounced it may be out of sight tomorrow: we do it ourselves. (Found by the model.)
            LeftBehind::Void => {
                self.founded = false;
                if let Some(list) = self.chosen.take() {
                    self.renounce(&list);
                }
            }
            LeftBehind::MayHaveVoted => {}
        }
    }

    /// The chosen list as others may be told it: unless it is void or doesn't hold us, and never beside data that elected. A listed node that
    /// asks then has lost its disk, and must not run again, with an empty log, under an id that has voted.
    pub fn valid_choice(&self, standing: &AcceptorContext) -> Option<&InitialList> {
        let may_tell = !standing.has_data || self.never_elected;
        let ours = |list: &&InitialList| list.holds(&standing.me);
        self.chosen.as_ref().filter(ours).filter(|list| may_tell && !standing.voids(list))
    }
}

/// A call in a founding.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Call {
    /// Phase 1a.
    Prepare { charter: Charter, ballot: Ballot },
    /// Phase 2a.
    Accept { charter: Charter, ballot: Ballot, list: InitialList },
    /// A quorum has accepted this. Without a charter, as 0.1.0 says it, it is taken only for what we accepted ourselves.
    Chosen {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        charter: Option<Charter>,
        list: InitialList,
    },
}

/// The answer to a [`Call`].
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Phase 1b: nothing below this ballot will be accepted; what was accepted last.
    Promised { accepted: Option<Accepted> },
    /// Phase 2b.
    Accepted,
    /// A higher ballot was promised.
    Refused { promised: Ballot },
    /// The question is settled: this list.
    Chosen { list: InitialList },
    /// The acceptor sees another roster (or none yet): no state was changed.
    DifferentRoster { theirs: Option<Charter> },
    /// The acceptor holds etcd data and takes no part.
    HasData,
    /// No etcd could be started by that list, or it isn't of these instances: no promise was changed.
    Unfit { why: String },
}

/// What an acceptor knows besides its ledger.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AcceptorContext {
    pub me: InstanceId,
    /// `None` until a complete roster was seen.
    pub charter: Option<Charter>,
    pub terminated: BTreeSet<InstanceId>,
    pub has_data: bool,
    /// How each instance of the roster may be listed: by its own word, and by EC2's.
    pub listings: BTreeMap<InstanceId, BTreeSet<ListedMember>>,
    /// Who will never start by which list, by its token.
    pub renounced: BTreeSet<(InstanceId, String)>,
}

impl AcceptorContext {
    /// Void: the list can never have a quorum, and we hold no WAL.
    pub fn voids(&self, list: &InitialList) -> bool {
        !self.has_data && (list.fault().is_some() || self.robs_of_quorum(list))
    }

    /// So many of the listed are terminated, or will never start by it, that the list can never have a quorum.
    pub fn robs_of_quorum(&self, list: &InitialList) -> bool {
        let lost = |m: &&ListedMember| {
            self.terminated.contains(&m.instance) || self.renounced.contains(&(m.instance.clone(), list.token.clone()))
        };
        let lost = list.members.iter().filter(lost).count();
        list.members.len() - lost < quorum(list.members.len())
    }

    /// Why no founding of these instances can mean that list. A caller is nobody until his list fits: he may be a stranger, or
    /// of another cluster. What we accepted ourselves fitted then.
    fn misfit(&self, ledger: &Ledger, charter: &Charter, list: &InitialList) -> Option<String> {
        if let Some(fault) = list.fault() {
            return Some(fault);
        }
        if ledger.renounced.len() >= MOST_RENOUNCED {
            return Some(format!("{MOST_RENOUNCED} lists were renounced here already"));
        }
        if ledger.accepted.as_ref().is_some_and(|accepted| accepted.list == *list) {
            return None;
        }
        let (have, need) = (list.members.len(), quorum(charter.size));
        if have < need {
            return Some(format!("the list has {have} members, and {need} must accept it"));
        }
        list.members.iter().find_map(|member| {
            let ListedMember { instance, name, peer_urls } = member;
            let gone = || self.terminated.contains(instance);
            let renounced = || self.renounced.contains(&(instance.clone(), list.token.clone()));
            match self.listings.get(instance) {
                Some(listings) if listings.iter().any(|l| l.is_same(member)) || renounced() => None,
                Some(_) => {
                    Some(format!("it lists {instance} as {name} at {}, which is not its word", peer_urls.join(",")))
                }
                None if gone() => None,
                None => Some(format!("it lists {instance}, which isn't in the roster")),
            }
        })
    }
}

/// Rounds are counted up by one from the highest seen. Who is further ahead than this makes them up, and a promise for the
/// greatest would be the last.
const MOST_ROUNDS_AHEAD: u64 = 1 << 20;

/// A few lists are enough for any founding. Who sends thousands wants to fill the disk.
const MOST_RENOUNCED: usize = 4096;

/// An acceptor's step: the answer, and the ledger that must be durable before it is given (`None`: unchanged).
pub fn answer(ledger: &Ledger, standing: &AcceptorContext, call: &Call) -> (Answer, Option<Ledger>) {
    if let Call::Chosen { charter, list } = call {
        return hear(ledger, standing, charter.as_ref(), list);
    }
    if let Some(list) = ledger.valid_choice(standing) {
        return (Answer::Chosen { list: list.clone() }, None);
    }
    if standing.has_data {
        return (Answer::HasData, None);
    }
    let (Call::Prepare { charter, ballot } | Call::Accept { charter, ballot, .. }) = call else {
        return (Answer::HasData, None);
    };
    if standing.charter.as_ref() != Some(charter) {
        return (Answer::DifferentRoster { theirs: standing.charter.clone() }, None);
    }
    let highest = ledger.promised.as_ref().map_or(0, |promised| promised.round);
    if ballot.round > highest.saturating_add(MOST_ROUNDS_AHEAD) {
        return (Answer::Unfit { why: format!("round {} is far above any that was promised", ballot.round) }, None);
    }
    if let Call::Accept { list, .. } = call
        && let Some(why) = standing.misfit(ledger, charter, list)
    {
        return (Answer::Unfit { why }, renounced(ledger, standing, list));
    }
    // A promise is for this ballot and all below: the same ballot may be prepared again only by its own proposer, whose
    // first answer was lost.
    if let Some(promised) = &ledger.promised
        && promised > ballot
    {
        return (Answer::Refused { promised: promised.clone() }, None);
    }
    let mut next = ledger.clone();
    // What was chosen is void, or we would have said so. Whoever promises again must not start by it when he can't see any more
    // who renounced it, or when he is told of it once more. (Found by the model.)
    if !ledger.founded
        && let Some(list) = next.chosen.take()
    {
        next.renounce(&list);
    }
    next.promised = Some(ballot.clone());
    let answer = match call {
        Call::Accept { ballot, list, .. } => {
            // Had it been chosen, this would be the same, unless it is void.
            if let Some(before) = ledger.accepted.as_ref().filter(|before| before.list != *list) {
                next.renounce(&before.list);
            }
            next.accepted = Some(Accepted { ballot: ballot.clone(), list: list.clone() });
            Answer::Accepted
        }
        _ => Answer::Promised { accepted: ledger.accepted.clone() },
    };
    (answer, Some(next))
}

/// A list that fits but for our own entry is never started here: that is put on record, so that it isn't waited for.
fn renounced(ledger: &Ledger, standing: &AcceptorContext, list: &InitialList) -> Option<Ledger> {
    let own = standing.listings.get(&standing.me)?;
    let entry = list.entry(&standing.me).filter(|_| list.fault().is_none())?;
    if own.iter().any(|listed| listed.is_same(entry)) || ledger.renounced.len() >= MOST_RENOUNCED {
        return None;
    }
    let mut next = ledger.clone();
    next.renounce(list);
    (next != *ledger).then_some(next)
}

/// A caller's word that a list is chosen. It is taken of a founding that is ours: by its charter, or because we accepted the list.
fn hear(
    ledger: &Ledger,
    standing: &AcceptorContext,
    charter: Option<&Charter>,
    list: &InitialList,
) -> (Answer, Option<Ledger>) {
    let accepted = ledger.accepted.as_ref().is_some_and(|accepted| accepted.list == *list);
    let Some(own) = standing.charter.as_ref().filter(|own| accepted || Some(*own) == charter) else {
        return (Answer::DifferentRoster { theirs: standing.charter.clone() }, None);
    };
    match standing.misfit(ledger, own, list) {
        Some(why) => (Answer::Unfit { why }, renounced(ledger, standing, list)),
        None => learn(ledger, standing, list),
    }
}

/// Records a chosen list, if it holds us. A second, different one is never taken in place of the first unless the first is void.
pub fn learn(ledger: &Ledger, standing: &AcceptorContext, list: &InitialList) -> (Answer, Option<Ledger>) {
    if let Some(known) = ledger.valid_choice(standing) {
        return (Answer::Chosen { list: known.clone() }, None);
    }
    if standing.has_data {
        return (Answer::HasData, None);
    }
    if !list.holds(&standing.me) {
        return (Answer::Unfit { why: format!("it doesn't list {}", standing.me) }, None);
    }
    let mut next = ledger.clone();
    next.chosen = Some(list.clone());
    (Answer::Chosen { list: list.clone() }, Some(next))
}

/// What the proposer makes of a round's answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tally {
    /// Phase 1: a quorum promised; this list was accepted before and must be proposed again.
    Adopt(InitialList),
    /// Phase 1: a quorum promised and no standing list was ever accepted: propose a new one.
    Free,
    /// The list is chosen: by an answer that said so, or (phase 2) by a quorum of the listed.
    Chosen(InitialList),
    /// A higher ballot is about.
    Beaten(Ballot),
    /// This peer has a different founding configuration.
    DifferentRoster(InstanceId),
    /// This peer holds data.
    HasData(InstanceId),
    /// This peer finds the list unfit.
    Unfit { instance: InstanceId, why: String },
    /// So many answered, out of the quorum needed.
    TooFew { had: usize, needed: usize },
}

/// Reads the answers to [`Call::Prepare`].
pub fn tally_promises(charter: &Charter, standing: &AcceptorContext, answers: &BTreeMap<InstanceId, Answer>) -> Tally {
    if let Some(verdict) = settled(answers) {
        return verdict;
    }
    let promises: Vec<&Option<Accepted>> = charter
        .first
        .iter()
        .filter_map(|(id, _)| match answers.get(id) {
            Some(Answer::Promised { accepted }) => Some(accepted),
            _ => None,
        })
        .collect();
    let needed = quorum(charter.size);
    if promises.len() < needed {
        return unmet(answers, promises.len(), needed);
    }
    let highest = promises.into_iter().flatten().max_by(|a, b| a.ballot.cmp(&b.ballot));
    match highest {
        Some(accepted) if !standing.voids(&accepted.list) => Tally::Adopt(accepted.list.clone()),
        _ => Tally::Free,
    }
}

/// Reads the answers to [`Call::Accept`]: chosen once quorum(N) of the *listed* accepted.
pub fn tally_accepts(charter: &Charter, list: &InitialList, answers: &BTreeMap<InstanceId, Answer>) -> Tally {
    if let Some(verdict) = settled(answers) {
        return verdict;
    }
    let had = answers.iter().filter(|(id, answer)| **answer == Answer::Accepted && list.holds(id)).count();
    let needed = quorum(charter.size);
    if had < needed {
        return unmet(answers, had, needed);
    }
    Tally::Chosen(list.clone())
}

/// Answers that end a round whatever the others say: a choice that stands, or data.
fn settled(answers: &BTreeMap<InstanceId, Answer>) -> Option<Tally> {
    let chosen = answers.values().find_map(|answer| match answer {
        Answer::Chosen { list } => Some(Tally::Chosen(list.clone())),
        _ => None,
    });
    let data = || answers.iter().find(|(_, a)| **a == Answer::HasData).map(|(id, _)| Tally::HasData(id.clone()));
    chosen.or_else(data)
}

/// Why a quorum was missed, the most telling cause first.
fn unmet(answers: &BTreeMap<InstanceId, Answer>, had: usize, needed: usize) -> Tally {
    let beaten = answers.values().filter_map(|answer| match answer {
        Answer::Refused { promised } => Some(promised),
        _ => None,
    });
    if let Some(ballot) = beaten.max() {
        return Tally::Beaten(ballot.clone());
    }
    let telling = answers.iter().find_map(|(id, answer)| match answer {
        Answer::DifferentRoster { .. } => Some(Tally::DifferentRoster(id.clone())),
        Answer::Unfit { why } => Some(Tally::Unfit { instance: id.clone(), why: why.clone() }),
        _ => None,
    });
    telling.unwrap_or(Tally::TooFew { had, needed })
}
