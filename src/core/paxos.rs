//! Single-decree Paxos over the roster: the value is the initial list, the acceptors are the instances.
//!
//! (Lamport, "Paxos Made Simple", section 2.) This file has the bookkeeping: pure functions from a ledger and a message to an
//! answer and the next ledger. The next ledger must be durable *before* the answer is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::quorum::quorum;
use super::seed::MaySeed;
use super::types::{ClusterId, InitialList, InstanceId, LaunchTime, ListedMember, MemberId};

/// Orders proposals. The nonce is created with the ledger, so that a node whose disk was wiped can't use a ballot again.
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

/// What a bootstrap is about. Two nodes may exchange bootstrap messages only if their charters are equal: then they count the
/// same quorums over the same acceptors. A charter with a field that this program does not know is refused, because the field
/// may be a condition that the program can't keep.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Charter {
    /// N.
    pub size: usize,
    pub token_prefix: String,
    /// The first N of the roster by rank, with launch times, which change at stop/start.
    pub first: Vec<(InstanceId, Option<LaunchTime>)>,
    /// `MUSTER_CLAIM`: nodes that use the claim and nodes that vote must not count each other.
    #[serde(default)]
    pub claim: Option<String>,
    /// All non-terminated hosts of a static host list: only its author can know that two nodes mean the same hosts by it.
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

/// The member whose data is here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct RanAs {
    pub cluster: ClusterId,
    pub member: MemberId,
}

/// The member that we added to a running cluster for ourselves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Joined {
    pub cluster: ClusterId,
    pub member: MemberId,
    /// Set, durably, before etcd is first spawned under this id.
    pub spawned: bool,
}

/// The volume of etcd's WAL, as it is found.
#[derive(Clone, Copy, Debug)]
pub struct WalVolume {
    pub holds_wal: bool,
    /// It bears the mark that we left there before the first start.
    pub is_marked: bool,
}

/// A start of etcd under an id that it has never run under.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum FirstStart {
    /// Under the chosen list.
    Founding,
    /// As an unstarted member of a running cluster.
    Joining,
}

/// What data was moved aside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum LeftBehind {
    /// From an etcd that may have voted.
    #[default]
    MayHaveVoted,
    /// Left by a first start that never created a WAL.
    NeverBegan(FirstStart),
    /// From a bootstrap that can never have a quorum.
    Void,
    /// From a cluster whose quorum is lost for good; it goes on as the one that the ledger's `recovery` names.
    Recovered,
}

/// What this instance must never forget: stored in `ED_DATA/muster/`, fsynced before any answer that depends on it is sent. A
/// field that this program does not know may be a promise, so a ledger with such a field is left unchanged.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// The version of the file's format; 0: from before the format had versions.
    #[serde(default)]
    pub format: u32,
    /// Random, created with the file, and so the id of the disk: only a copy of this disk has the same.
    pub nonce: u64,
    /// The instance that this disk belongs to. `None`: no record shows whose data this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// The member that etcd here was last seen to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_as: Option<RanAs>,
    /// Tokens of lists that have this instance under another name or URL than it has now: it never ran under them, and never
    /// will.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub renounced: BTreeSet<String>,
    pub promised: Option<Ballot>,
    pub accepted: Option<Accepted>,
    pub chosen: Option<InitialList>,
    /// Set before etcd is spawned under the chosen list, and cleared only when that list is void: if the data dir disappears in
    /// between, it was lost.
    #[serde(default)]
    pub founded: bool,
    /// This disk saw the claim absent, so it is from before the bootstrap.
    #[serde(default)]
    pub saw_unclaimed: bool,
    /// A bootstrap created the WAL in the data dir, and it has not been seen to elect a leader. False or lost: counts as
    /// elected.
    #[serde(default)]
    pub never_elected: bool,
    #[serde(default)]
    pub joined: Option<Joined>,
    /// Set before etcd is first spawned under an id, cleared once it was seen to serve. Cleared or lost: counts as served.
    #[serde(default)]
    pub starting: Option<FirstStart>,
    /// This instance was about to be terminated and had its member removed: it stays down until EC2 cancels the termination.
    #[serde(default)]
    pub left: bool,
    /// By an operator's order: the data here was copied as the seed of that list, which begins once the data is moved aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Accepted>,
}

impl Ledger {
    /// A bootstrap with ourselves as the only acceptor.
    pub fn found_alone(&mut self, accepted: &Accepted) {
        self.promised = Some(accepted.ballot.clone());
        self.chosen = Some(accepted.list.clone());
        self.accepted = Some(accepted.clone());
    }

    /// Never to start under that list. Has no effect once etcd was started under one.
    pub fn renounce(&mut self, list: &InitialList) {
        if !self.founded {
            self.renounced.insert(list.token.clone());
        }
    }

    /// The results of bootstraps so far: the list accepted last, and the chosen one.
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

    /// What must be durable before we remove our own old id: it may have voted, so this counts as if our etcd had run under it.
    pub fn give_up_old_id(&mut self) {
        self.founded = true;
    }

    /// What must be durable before etcd first runs as that member of a running cluster.
    pub fn start_joining(&mut self, cluster: ClusterId, member: MemberId) {
        self.joined = Some(Joined { cluster, member, spawned: true });
        self.never_elected = false;
        self.starting = Some(FirstStart::Joining);
    }

    /// A first start that ended before etcd created its WAL: no vote was cast under its id. The missing WAL alone does not
    /// prove that, because a lost WAL is missing too. It takes two more proofs: etcd was never seen to serve, and the volume is
    /// the one on which the WAL would have been created, by the mark that we left there before the start.
    pub fn never_began(&self, WalVolume { holds_wal, is_marked }: WalVolume) -> Option<FirstStart> {
        self.starting.filter(|_| !holds_wal && is_marked)
    }

    /// The data here is that instance's from now on, and its cluster lives: what was to go on in its place does not.
    pub fn own_data(&mut self, instance: &InstanceId) {
        self.instance = Some(instance.clone());
        self.recovery = None;
    }

    /// The data was moved aside. If it is known that no vote cast with it counts, this is as if etcd had never run under that
    /// id; otherwise `founded` and `spawned` stay set: this instance must never start with an empty log under an id that may
    /// have voted. Idempotent.
    pub fn left_behind(&mut self, why: LeftBehind) {
        self.never_elected = false;
        self.starting = None;
        match why {
            LeftBehind::NeverBegan(FirstStart::Founding) => self.founded = false,
            LeftBehind::NeverBegan(FirstStart::Joining) => {
                self.joined = self.joined.map(|joined| Joined { spawned: false, ..joined });
            }
            // The nodes that renounced it may be unreachable later, so we renounce it ourselves. (Found by the model.)
            LeftBehind::Void => {
                self.founded = false;
                if let Some(list) = self.chosen.take() {
                    self.renounce(&list);
                }
            }
            // Whatever votes were cast were for a cluster that goes on under another id.
            LeftBehind::Recovered => {
                if let Some(accepted) = self.recovery.take() {
                    (self.founded, self.joined, self.ran_as) = (false, None, None);
                    self.found_alone(&accepted);
                }
            }
            LeftBehind::MayHaveVoted => {}
        }
    }

    /// The ballot of a list that we alone decide on: above any that we promised, so that no token is ever used for two lists.
    pub fn own_ballot(&self, me: &InstanceId) -> Ballot {
        let round = self.promised.as_ref().map_or(0, |promised| promised.round).saturating_add(1);
        Ballot { round, proposer: me.clone(), nonce: self.nonce }
    }

    /// The chosen list that others may learn from us: not if it is void or does not list us, and never if we have data that
    /// elected a leader. A listed node that asks then has lost its disk, and must not run again, with an empty log, under an id
    /// that has voted.
    pub fn valid_choice(&self, standing: &AcceptorContext) -> Option<&InitialList> {
        let may_tell = !standing.has_data || self.never_elected;
        let ours = |list: &&InitialList| list.holds(&standing.me);
        self.chosen.as_ref().filter(ours).filter(|list| may_tell && !standing.voids(list))
    }
}

/// A call in a bootstrap.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Call {
    /// Phase 1a.
    Prepare { charter: Charter, ballot: Ballot },
    /// Phase 2a.
    Accept { charter: Charter, ballot: Ballot, list: InitialList },
    /// A quorum has accepted this list. Without a charter, as 0.1.0 sends it, it is believed only if we accepted the same list.
    Chosen {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        charter: Option<Charter>,
        list: InitialList,
    },
}

/// The answer to a [`Call`].
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Phase 1b: nothing below this ballot will be accepted; and what was accepted last.
    Promised { accepted: Option<Accepted> },
    /// Phase 2b.
    Accepted,
    /// A higher ballot was promised.
    Refused { promised: Ballot },
    /// The question is already decided: this list.
    Chosen { list: InitialList },
    /// The acceptor has another roster (or none yet): no state was changed.
    DifferentRoster { theirs: Option<Charter> },
    /// The acceptor has etcd data and does not take part.
    HasData,
    /// No etcd could start under that list, or it is not a list of these instances: no promise was changed.
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
    /// How each instance of the roster may be listed: as it reports itself, and as EC2 reports it.
    pub listings: BTreeMap<InstanceId, BTreeSet<ListedMember>>,
    /// The instances that will never start under a list, by the list's token.
    pub renounced: BTreeSet<(InstanceId, String)>,
    /// Which seeds a list may have, by our own settings and what we saw ourselves: no caller is believed about that.
    pub may_seed: MaySeed,
}

impl AcceptorContext {
    /// Void: the list can never have a quorum, and we have no WAL.
    pub fn voids(&self, list: &InitialList) -> bool {
        !self.has_data && (list.fault().is_some() || self.robs_of_quorum(list))
    }

    /// So many of the listed instances are terminated, or will never start under the list, that it can never have a quorum.
    pub fn robs_of_quorum(&self, list: &InitialList) -> bool {
        let lost = |m: &&ListedMember| {
            self.terminated.contains(&m.instance) || self.renounced.contains(&(m.instance.clone(), list.token.clone()))
        };
        let lost = list.members.iter().filter(lost).count();
        list.members.len() - lost < quorum(list.members.len())
    }

    /// Why no bootstrap of these instances can mean that list. A caller is not trusted before its list fits: it may be a
    /// stranger, or of another cluster. A list that we accepted ourselves fitted then.
    fn misfit(&self, ledger: &Ledger, charter: &Charter, list: &InitialList) -> Option<String> {
        if let Some(fault) = list.fault() {
            return Some(fault);
        }
        if ledger.renounced.len() >= MOST_RENOUNCED {
            return Some(format!("{MOST_RENOUNCED} lists were already renounced here"));
        }
        if ledger.accepted.as_ref().is_some_and(|accepted| accepted.list == *list) {
            return None;
        }
        if let Some(why) = self.may_seed.misfit(list.seed.as_deref()) {
            return Some(why);
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
                Some(_) => Some(format!(
                    "it lists {instance} as {name} at {}, which is not what {instance} reports",
                    peer_urls.join(",")
                )),
                None if gone() => None,
                None => Some(format!("it lists {instance}, which is not in the roster")),
            }
        })
    }
}

/// Rounds increase by one from the highest seen. A caller that is further ahead than this makes them up, and a promise for the
/// highest possible round would be the last one.
const MOST_ROUNDS_AHEAD: u64 = 1 << 20;

/// A few lists are enough for any bootstrap. A caller that sends thousands tries to fill the disk.
const MOST_RENOUNCED: usize = 4096;

/// An acceptor's step: the answer, and the ledger that must be durable before it is sent (`None`: unchanged).
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
        return (Answer::Unfit { why: format!("round {} is far above any promised round", ballot.round) }, None);
    }
    if let Call::Accept { list, .. } = call
        && let Some(why) = standing.misfit(ledger, charter, list)
    {
        return (Answer::Unfit { why }, renounced(ledger, standing, list));
    }
    // A promise covers this ballot and all below. Only its own proposer may prepare the same ballot again, if the first answer
    // was lost.
    if let Some(promised) = &ledger.promised
        && promised > ballot
    {
        return (Answer::Refused { promised: promised.clone() }, None);
    }
    let mut next = ledger.clone();
    // A chosen list is void here, otherwise we would have reported it. Promising again means never to start under it, not even
    // when we no longer see the nodes that renounced it or are told of it again. (Found by the model.)
    if !ledger.founded
        && let Some(list) = next.chosen.take()
    {
        next.renounce(&list);
    }
    next.promised = Some(ballot.clone());
    let answer = match call {
        Call::Accept { ballot, list, .. } => {
            // If a list had been chosen, it would be this one, unless it is void.
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

/// A list that fits except for our own entry is never started here: we record that, so that others do not wait for it.
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

/// A caller's report that a list is chosen. It is believed only about our own bootstrap: by its charter, or because we accepted
/// the list.
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

/// Records a chosen list, if it lists us. A second, different one never replaces the first unless the first is void.
pub fn learn(ledger: &Ledger, standing: &AcceptorContext, list: &InitialList) -> (Answer, Option<Ledger>) {
    if let Some(known) = ledger.valid_choice(standing) {
        return (Answer::Chosen { list: known.clone() }, None);
    }
    if standing.has_data {
        return (Answer::HasData, None);
    }
    if !list.holds(&standing.me) {
        return (Answer::Unfit { why: format!("it does not list {}", standing.me) }, None);
    }
    let mut next = ledger.clone();
    next.chosen = Some(list.clone());
    (Answer::Chosen { list: list.clone() }, Some(next))
}

/// What the proposer concludes from a round's answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tally {
    /// Phase 1: a quorum promised; this list was accepted before and must be proposed again.
    Adopt(InitialList),
    /// Phase 1: a quorum promised, and no valid list was ever accepted: propose a new one.
    Free,
    /// The list is chosen: by an answer that says so, or (phase 2) by a quorum of the listed.
    Chosen(InitialList),
    /// Another proposer uses a higher ballot.
    Beaten(Ballot),
    /// This peer has a different bootstrap configuration.
    DifferentRoster(InstanceId),
    /// This peer has data.
    HasData(InstanceId),
    /// This peer refuses the list as unfit.
    Unfit { instance: InstanceId, why: String },
    /// So many answered, out of the quorum needed.
    TooFew { had: usize, needed: usize },
}

/// Reads the answers to [`Call::Prepare`].
pub fn tally_promises(charter: &Charter, standing: &AcceptorContext, answers: &BTreeMap<InstanceId, Answer>) -> Tally {
    if let Some(verdict) = settled(answers) {
        return verdict;
    }
    let promises: BTreeMap<&InstanceId, &Option<Accepted>> = charter
        .first
        .iter()
        .filter_map(|(id, _)| match answers.get(id) {
            Some(Answer::Promised { accepted }) => Some((id, accepted)),
            _ => None,
        })
        .collect();
    let needed = quorum(charter.size);
    if promises.len() < needed {
        return unmet(answers, promises.len(), needed);
    }
    let highest = promises.values().copied().flatten().max_by(|a, b| a.ballot.cmp(&b.ballot));
    match highest {
        Some(Accepted { list, .. }) if standing.voids(list) => Tally::Free,
        // An older program, which sees no snapshots, may have proposed it; nobody who sees them ever accepts it.
        Some(Accepted { list, .. })
            if standing.may_seed.misfit(list.seed.as_deref()).is_some() && was_never_chosen(list, &promises) =>
        {
            Tally::Free
        }
        Some(accepted) => Tally::Adopt(accepted.list.clone()),
        None => Tally::Free,
    }
}

/// Whether so many of the listed promised and last accepted another list, or none, that no quorum can have accepted this one, which has the highest
/// ballot: whoever accepted it, and later another, would have been told of it in that later round.
fn was_never_chosen(list: &InitialList, promises: &BTreeMap<&InstanceId, &Option<Accepted>>) -> bool {
    let may_have_accepted = |member: &&ListedMember| match promises.get(&member.instance) {
        Some(Some(accepted)) => accepted.list == *list,
        Some(None) => false,
        None => true,
    };
    list.members.iter().filter(may_have_accepted).count() < quorum(list.members.len())
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

/// Answers that end a round whatever the others are: a valid choice, or data.
fn settled(answers: &BTreeMap<InstanceId, Answer>) -> Option<Tally> {
    let chosen = answers.values().find_map(|answer| match answer {
        Answer::Chosen { list } => Some(Tally::Chosen(list.clone())),
        _ => None,
    });
    let data = || answers.iter().find(|(_, a)| **a == Answer::HasData).map(|(id, _)| Tally::HasData(id.clone()));
    chosen.or_else(data)
}

/// Why there was no quorum, the most useful cause first.
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
