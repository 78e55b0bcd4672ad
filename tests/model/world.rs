//! A world of a few instances that run the real `decide`, the real acceptor and the real tallies, and may be disturbed.
//!
//! What is the model's own: the network (calls and answers are mail that may wait for ever), etcd (alive with a quorum of
//! its members on one side of a cut), EC2 (each node sees its own, possibly stale, listing), and time. Time is a choice:
//! whoever doesn't answer may have done so for a moment or for longer than the grace time. That is more than can happen, so
//! what holds here holds there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use etcd_muster::cluster::claim::Claimed;
use etcd_muster::cluster::decide::decide;
use etcd_muster::cluster::paxos::{
    Answer, Call, Charter, Joined, Ledger, Standing, Tally, answer, tally_accepts, tally_promises,
};
use etcd_muster::cluster::quorum::quorum;
use etcd_muster::cluster::step::{Proposal, Quarantine, Step};
use etcd_muster::cluster::types::{
    ClusterId, InitialList, InstanceId, InstanceState, Known, ListedMember, Member, MemberId, Roster,
};
use etcd_muster::cluster::view::{DataDir, EtcdSeen, Fate, FreshSeen, Me, Peer, Policy, Sighting, View};

use crate::common::{NOW, id, instance, listed};

const NAMES: [char; 7] = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];
const LONG: Duration = Duration::from_secs(3600);

/// A set of instances, a bit each.
pub type Mask = u8;

fn bits(mask: Mask) -> impl Iterator<Item = usize> {
    (0..8).filter(move |n| mask & (1 << n) != 0)
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Life {
    Unborn,
    Up,
    Down,
    Dead,
}

/// etcd's data on a disk: of which cluster, under which of its member ids.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Data {
    pub cluster: u8,
    member: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Round {
    proposal: Proposal,
    /// Phase 2: the list that was sent.
    sent: Option<InitialList>,
    answers: BTreeMap<InstanceId, Answer>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    pub life: Life,
    pub ledger: Ledger,
    pub data: Option<Data>,
    pub running: bool,
    yielded: bool,
    /// Its disk was lost when the founding window was over: that must never go unnoticed.
    wiped_late: bool,
    /// What EC2 shows this node: standing and terminated.
    shown: (Mask, Mask),
    round: Option<Round>,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct Mail {
    to: u8,
    from: u8,
    /// Serialised, as it really travels; it also gives mail an order without asking the product for one.
    text: String,
    is_answer: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Place {
    node: u8,
    is_learner: bool,
    published: bool,
    /// An etcd has run under this id, and may have voted.
    ran: bool,
}

/// One etcd cluster: a list that was started, and what became of its members.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cluster {
    pub list: InitialList,
    /// By member id.
    places: BTreeMap<u8, Place>,
    next_member: u8,
    pub wrote: bool,
}

/// What may still go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Budget {
    pub crashes: u8,
    pub wipes: u8,
    pub cuts: u8,
    pub terminations: u8,
    pub rounds: u8,
}

/// What stays the same.
#[derive(Clone, Debug)]
pub struct Rules {
    pub policy: Policy,
    pub size: usize,
    pub slots: usize,
    /// EC2 shows launches and terminations older than the grace time (the assumption of G1b).
    pub ec2_is_timely: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    pub nodes: Vec<Node>,
    mail: BTreeSet<Mail>,
    pub clusters: Vec<Cluster>,
    /// Those on the other side.
    cut: Mask,
    pub budget: Budget,
    /// The fleet has outlived the founding window.
    old: bool,
    /// An id that had run before was started with an empty log, and not in the window in which that can't be told.
    pub amnesia: bool,
}

/// How long a look thinks the silent have been silent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waited {
    Moment,
    Long,
}

impl World {
    /// `born` instances are up and fresh; each sees this part of the fleet (the stale roster).
    pub fn new(rules: &Rules, shown: &[Mask], budget: Budget) -> Self {
        let node = |n: usize| Node {
            life: if n < shown.len() { Life::Up } else { Life::Unborn },
            ledger: Ledger { nonce: n as u64 + 1, ..Ledger::default() },
            data: None,
            running: false,
            yielded: false,
            wiped_late: false,
            shown: (shown.get(n).copied().unwrap_or(0), 0),
            round: None,
        };
        let nodes = (0..rules.slots).map(node).collect();
        Self { nodes, mail: BTreeSet::new(), clusters: Vec::new(), cut: 0, budget, old: false, amnesia: false }
    }

    fn of(&self, wanted: impl Fn(&Node) -> bool) -> Mask {
        self.nodes.iter().enumerate().filter(|(_, n)| wanted(n)).fold(0, |mask, (n, _)| mask | 1 << n)
    }

    fn truth(&self) -> (Mask, Mask) {
        (self.of(|n| matches!(n.life, Life::Up | Life::Down)), self.of(|n| n.life == Life::Dead))
    }

    fn same_side(&self, a: usize, b: usize) -> bool {
        (self.cut >> a & 1) == (self.cut >> b & 1)
    }

    /// Whether the cluster has a quorum of running voters on the side of that node.
    fn has_quorum_beside(&self, cluster: usize, node: usize) -> bool {
        let c = &self.clusters[cluster];
        let voters = c.places.iter().filter(|(_, p)| !p.is_learner);
        let runs = |(member, place): &(&u8, &Place)| {
            let n = &self.nodes[usize::from(place.node)];
            let data = Data { cluster: cluster as u8, member: **member };
            n.life == Life::Up && n.running && n.data == Some(data) && self.same_side(usize::from(place.node), node)
        };
        voters.clone().filter(runs).count() >= quorum(voters.count())
    }

    /// Clusters that could accept a write now.
    pub fn quorate(&self) -> Vec<usize> {
        let anywhere = |c: &usize| (0..self.nodes.len()).any(|n| self.has_quorum_beside(*c, n));
        (0..self.clusters.len()).filter(anywhere).collect()
    }

    /// The cluster's data on disks that may come back is no quorum any more: it can never write again.
    pub fn is_lost(&self, cluster: usize) -> bool {
        let voters = self.clusters[cluster].places.iter().filter(|(_, p)| !p.is_learner);
        let kept = |(member, place): &(&u8, &Place)| {
            let n = &self.nodes[usize::from(place.node)];
            let fresh_but_listed = n.data.is_none() && !n.ledger.founded && n.ledger.joined.is_none();
            n.life != Life::Dead
                && (n.data == Some(Data { cluster: cluster as u8, member: **member }) || fresh_but_listed)
        };
        voters.clone().filter(kept).count() < quorum(voters.count())
    }

    /// What follows by itself: a cluster with a quorum elects, writes, publishes its running members.
    fn settle(&mut self) {
        for c in self.quorate() {
            self.clusters[c].wrote = true;
            let beside: Vec<usize> = (0..self.nodes.len()).filter(|n| self.has_quorum_beside(c, *n)).collect();
            for (n, node) in self.nodes.iter_mut().enumerate() {
                if node.running
                    && beside.contains(&n)
                    && let Some(data) = node.data.filter(|d| usize::from(d.cluster) == c)
                {
                    node.ledger.never_elected = false;
                    if let Some(place) = self.clusters[c].places.get_mut(&data.member) {
                        place.published = true;
                    }
                }
            }
        }
        self.forget_dead_letters();
    }

    /// Mail that can never change anything again: the state space need not remember it.
    fn forget_dead_letters(&mut self) {
        let nodes = &self.nodes;
        self.mail.retain(|mail| {
            let to = &nodes[usize::from(mail.to)];
            if to.life == Life::Dead {
                return false;
            }
            if mail.is_answer {
                let Ok((ballot, phase_two, _)) = read_answer(&mail.text) else { return false };
                return to.round.as_ref().is_some_and(|r| r.proposal.ballot == ballot && r.sent.is_some() == phase_two);
            }
            match read_call(&mail.text) {
                Some(Call::Prepare { ballot, .. } | Call::Accept { ballot, .. }) => {
                    to.ledger.promised.as_ref().is_none_or(|promised| *promised <= ballot)
                }
                Some(Call::Chosen { .. }) => to.ledger.chosen.is_none(),
                None => false,
            }
        });
    }

    fn roster(&self, n: usize) -> Roster {
        let (standing, terminated) = self.nodes[n].shown;
        let all = bits(standing).map(|i| instance(NAMES[i], InstanceState::Running));
        let gone = bits(terminated).map(|i| instance(NAMES[i], InstanceState::Terminated));
        Roster::new(all.chain(gone).collect(), if self.old { NOW + 86_400 } else { NOW })
    }

    fn standing(&self, rules: &Rules, n: usize) -> Standing {
        let roster = self.roster(n);
        Standing {
            charter: Some(rules.policy.charter(&roster)),
            terminated: roster.terminated().map(|i| i.id.clone()).collect(),
            has_data: self.nodes[n].data.is_some(),
        }
    }

    fn cluster_of_list(list: &InitialList) -> ClusterId {
        // As etcd's: it follows from members and token, and the token from the ballot.
        let text = list.initial_cluster() + &list.token;
        ClusterId(text.bytes().fold(7, |hash: u64, b| hash.wrapping_mul(1_099_511_628_211) ^ u64::from(b)))
    }

    fn member_id(cluster: usize, member: u8) -> MemberId {
        MemberId(cluster as u64 * 100 + u64::from(member))
    }

    fn etcd_seen(&self, cluster: usize, by: usize) -> EtcdSeen {
        let c = &self.clusters[cluster];
        let member = |(id, place): (&u8, &Place)| {
            let l = listed(NAMES[usize::from(place.node)]);
            let started = !place.is_learner || place.published;
            Member {
                id: Self::member_id(cluster, *id),
                name: if started { l.name } else { String::new() },
                peer_urls: l.peer_urls,
                client_urls: if place.published { vec!["http://x:2379".to_owned()] } else { Vec::new() },
                is_learner: place.is_learner,
            }
        };
        EtcdSeen {
            cluster: Self::cluster_of_list(&c.list),
            client_url: "http://x:2379".to_owned(),
            members: c.places.iter().map(member).collect(),
            has_quorum: self.has_quorum_beside(cluster, by),
            undecided: !c.wrote,
        }
    }

    fn sight(&self, rules: &Rules, from: usize, to: usize) -> Sighting {
        let node = &self.nodes[to];
        if !self.same_side(from, to) || node.life == Life::Dead {
            return Sighting::Silent("cut off".to_owned());
        }
        if node.life != Life::Up {
            return Sighting::Refused;
        }
        let standing = self.standing(rules, to);
        let chosen = node.ledger.standing_choice(&standing).cloned();
        match node.data {
            Some(data) if node.running => Sighting::Etcd(self.etcd_seen(usize::from(data.cluster), to)),
            Some(data) => {
                let cluster = Some(Self::cluster_of_list(&self.clusters[usize::from(data.cluster)].list));
                Sighting::HasData { cluster, chosen }
            }
            None => Sighting::Fresh(FreshSeen {
                charter: standing.charter,
                promised: node.ledger.promised.clone(),
                chosen,
                listed: listed(NAMES[to]),
            }),
        }
    }

    /// The view of one look.
    pub fn view(&self, rules: &Rules, n: usize, waited: Waited) -> View {
        let node = &self.nodes[n];
        let roster = self.roster(n);
        let silent_for = if waited == Waited::Long { LONG } else { Duration::ZERO };
        let mut peers = BTreeMap::new();
        for p in bits(node.shown.0).filter(|p| *p != n) {
            let sighting = self.sight(rules, n, p);
            let silent = matches!(sighting, Sighting::Refused | Sighting::Silent(_));
            peers.insert(
                id(NAMES[p]),
                Peer {
                    refused_throughout: sighting == Sighting::Refused,
                    sighting,
                    unanswered_for: if silent { silent_for } else { Duration::ZERO },
                    impaired: Known::Unknown("not asked".to_owned()),
                    listed: Some(listed(NAMES[p])),
                },
            );
        }
        let data = match node.data {
            None => DataDir::Fresh,
            Some(d) => {
                let cluster = usize::from(d.cluster);
                let ids = (Self::cluster_of_list(&self.clusters[cluster].list), Self::member_id(cluster, d.member));
                DataDir::Whole { ids: Known::Known(ids) }
            }
        };
        let mut view = View {
            me: Me { instance: id(NAMES[n]), listed: listed(NAMES[n]) },
            data,
            yielded: node.yielded,
            ledger: node.ledger.clone(),
            accepted_cluster: node.ledger.accepted.as_ref().map(|a| Self::cluster_of_list(&a.list)),
            chosen_cluster: node.ledger.chosen.as_ref().map(Self::cluster_of_list),
            claim: Claimed::NotAsked,
            roster: Known::Known(roster),
            roster_unchanged_for: silent_for,
            own_tags: Known::Unknown("not asked".to_owned()),
            peers,
            fates: BTreeMap::new(),
            since_own_removal: None,
        };
        view.fates = self.fates(n, &view, silent_for);
        view
    }

    fn fates(&self, n: usize, view: &View, silent_for: Duration) -> BTreeMap<MemberId, Fate> {
        let mut fates = BTreeMap::new();
        for etcd in view.living_clusters().values() {
            let cluster = self.clusters.iter().position(|c| Self::cluster_of_list(&c.list) == etcd.cluster);
            let Some(cluster) = cluster else { continue };
            for (member, place) in &self.clusters[cluster].places {
                let holder = &self.nodes[usize::from(place.node)];
                let data = Some(Data { cluster: cluster as u8, member: *member });
                let seen = self.same_side(n, usize::from(place.node));
                if seen && holder.life == Life::Up && holder.running && holder.data == data {
                    continue;
                }
                // EC2 asked by id tells the truth; only listings lag.
                let gone = holder.life == Life::Dead;
                let instance = Some(id(NAMES[usize::from(place.node)]));
                let fate = Fate { instance, gone: Known::Known(gone), silent_for };
                fates.insert(Self::member_id(cluster, *member), fate);
            }
        }
        fates
    }
}

fn write_answer(round: &Round, given: &Answer) -> String {
    serde_json::to_string(&(&round.proposal.ballot, round.sent.is_some(), given)).unwrap_or_default()
}

fn read_answer(text: &str) -> Result<(etcd_muster::cluster::paxos::Ballot, bool, Answer), serde_json::Error> {
    serde_json::from_str(text)
}

fn read_call(text: &str) -> Option<Call> {
    serde_json::from_str(text).ok()
}

/// Everything that may happen next: what it is called, and the world after it.
pub fn successors(rules: &Rules, world: &World) -> Vec<(String, World)> {
    let mut next = Vec::new();
    let mut add = |what: String, mut after: World| {
        after.settle();
        if after != *world {
            next.push((what, after));
        }
    };
    for (n, node) in world.nodes.iter().enumerate() {
        let name = NAMES[n];
        if node.life == Life::Up {
            if !node.running {
                for waited in [Waited::Moment, Waited::Long] {
                    // The assumption: what is older than the grace time is shown.
                    if waited == Waited::Long && rules.ec2_is_timely && node.shown != world.truth() {
                        continue;
                    }
                    for (what, after) in look_and_act(rules, world, n, waited) {
                        add(format!("{name} looks ({waited:?}): {what}"), after);
                    }
                }
            } else if node.ledger.never_elected {
                let mut after = world.clone();
                (after.nodes[n].running, after.nodes[n].yielded) = (false, true);
                add(format!("{name} yields"), after);
            }
            if node.shown != world.truth() {
                let mut after = world.clone();
                after.nodes[n].shown = world.truth();
                after.nodes[n].round = None;
                add(format!("{name} sees EC2's newest listing"), after);
            }
            promote(world, n, &mut add);
            if is_removed(world, n) {
                let mut after = world.clone();
                after.nodes[n].running = false;
                add(format!("{name}'s etcd learns that it was removed, and ends"), after);
            }
        }
        disturb(rules, world, n, &mut add);
    }
    for mail in &world.mail {
        if let Some((what, after)) = deliver(rules, world, mail) {
            add(what, after);
        }
    }
    if world.cut != 0 {
        add("the cut heals".to_owned(), World { cut: 0, ..world.clone() });
    } else if world.budget.cuts > 0 {
        for mask in (2..1 << world.nodes.len()).step_by(2) {
            let mut after = World { cut: mask, ..world.clone() };
            after.budget.cuts -= 1;
            add(format!("{} cut off", named(mask)), after);
        }
    }
    if !world.old && world.clusters.iter().any(|c| c.wrote) {
        // No call lives for a quarter of an hour: it has a timeout of seconds.
        let mail = BTreeSet::new();
        add("the fleet grows old".to_owned(), World { old: true, mail, ..world.clone() });
    }
    next
}

fn named(mask: Mask) -> String {
    bits(mask).map(|n| NAMES[n].to_string()).collect::<Vec<_>>().join("+")
}

/// Crash, restart, wipe, terminate, launch.
fn disturb(rules: &Rules, world: &World, n: usize, add: &mut impl FnMut(String, World)) {
    let node = &world.nodes[n];
    let name = NAMES[n];
    let stopped = |after: &mut World| {
        after.nodes[n].life = Life::Down;
        after.nodes[n].running = false;
        after.nodes[n].yielded = false;
        after.nodes[n].round = None;
    };
    match node.life {
        Life::Up | Life::Down => {
            if node.life == Life::Up && world.budget.crashes > 0 {
                let mut after = world.clone();
                after.budget.crashes -= 1;
                stopped(&mut after);
                add(format!("{name} crashes"), after);
            }
            if node.life == Life::Down {
                let mut after = world.clone();
                after.nodes[n].life = Life::Up;
                add(format!("{name} restarts"), after);
            }
            if world.budget.wipes > 0 {
                let mut after = world.clone();
                after.budget.wipes -= 1;
                stopped(&mut after);
                after.nodes[n].data = None;
                after.nodes[n].wiped_late = world.old;
                after.nodes[n].ledger = Ledger { nonce: node.ledger.nonce + 100, ..Ledger::default() };
                add(format!("{name} crashes and loses its disk"), after);
            }
            if world.budget.terminations > 0 {
                let mut after = world.clone();
                after.budget.terminations -= 1;
                stopped(&mut after);
                after.nodes[n] = Node {
                    life: Life::Dead,
                    data: None,
                    ledger: Ledger::default(),
                    shown: (0, 0),
                    ..after.nodes[n].clone()
                };
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

/// Its cluster lives beside it and lists it no more: the others tell it so.
fn is_removed(world: &World, n: usize) -> bool {
    let node = &world.nodes[n];
    let Some(data) = node.data.filter(|_| node.running) else { return false };
    let cluster = usize::from(data.cluster);
    !world.clusters[cluster].places.contains_key(&data.member) && world.has_quorum_beside(cluster, n)
}

fn promote(world: &World, n: usize, add: &mut impl FnMut(String, World)) {
    let node = &world.nodes[n];
    let Some(data) = node.data.filter(|_| node.running) else { return };
    let cluster = usize::from(data.cluster);
    let learner = world.clusters[cluster].places.get(&data.member).is_some_and(|p| p.is_learner);
    if learner && world.has_quorum_beside(cluster, n) {
        let mut after = world.clone();
        if let Some(place) = after.clusters[cluster].places.get_mut(&data.member) {
            place.is_learner = false;
            place.published = true;
        }
        add(format!("{} is promoted", NAMES[n]), after);
    }
}

/// One look and the step that follows from it; a proposer in the middle of a round goes on with it instead.
fn look_and_act(rules: &Rules, world: &World, n: usize, waited: Waited) -> Vec<(String, World)> {
    if world.nodes[n].round.is_some() {
        return go_on_with_round(rules, world, n, waited);
    }
    let view = world.view(rules, n, waited);
    let step = decide(&rules.policy, &view);
    let mut after = world.clone();
    match &step {
        Step::Hold(_) | Step::Halt(_) | Step::UpdateSelf { .. } => return Vec::new(),
        Step::Propose(proposal) => {
            if proposal.ballot.round > u64::from(world.budget.rounds) {
                return Vec::new();
            }
            let round = Round { proposal: proposal.clone(), sent: None, answers: BTreeMap::new() };
            let call = Call::Prepare { charter: proposal.charter.clone(), ballot: proposal.ballot.clone() };
            send_round(rules, &mut after, n, &view, round, &call);
        }
        Step::Claim(_) => return Vec::new(),
        Step::FoundAlone { accepted, .. } => after.nodes[n].ledger.found_alone(accepted),
        Step::StartNew(list) => start_new(rules, &mut after, n, &view, list),
        Step::Resume => (after.nodes[n].running, after.nodes[n].yielded) = (true, false),
        Step::Quarantine(why) => {
            (after.nodes[n].data, after.nodes[n].yielded) = (None, false);
            after.nodes[n].ledger.left_behind(matches!(why, Quarantine::Void { .. }));
        }
        Step::RemoveMember { id: member, .. } => {
            let (cluster, member) = (member.0 as usize / 100, (member.0 % 100) as u8);
            if !removal_keeps_quorum(world, cluster, member) {
                return Vec::new();
            }
            after.clusters[cluster].places.remove(&member);
        }
        Step::AddSelf => {
            let Some(cluster) = living_cluster(world, &view) else { return Vec::new() };
            let c = &mut after.clusters[cluster];
            let member = c.next_member;
            c.next_member += 1;
            c.places.insert(member, Place { node: n as u8, is_learner: true, published: false, ran: false });
            let joined = Joined {
                cluster: World::cluster_of_list(&c.list),
                member: World::member_id(cluster, member),
                spawned: false,
            };
            after.nodes[n].ledger.joined = Some(joined);
        }
        Step::StartExisting { cluster, member, .. } => {
            let member_number = (member.0 % 100) as u8;
            let index = (member.0 / 100) as u8;
            if let Some(place) = after.clusters[usize::from(index)].places.get_mut(&member_number) {
                after.amnesia |= place.ran && world.nodes[n].wiped_late;
                place.ran = true;
            }
            let node = &mut after.nodes[n];
            node.ledger.joined = Some(Joined { cluster: *cluster, member: *member, spawned: true });
            node.ledger.never_elected = false;
            node.data = Some(Data { cluster: index, member: member_number });
            node.running = true;
        }
    }
    vec![(step.to_string(), after)]
}

fn living_cluster(world: &World, view: &View) -> Option<usize> {
    let id = *view.living_clusters().keys().next()?;
    world.clusters.iter().position(|c| World::cluster_of_list(&c.list) == id)
}

/// etcd's own check: the started voters that remain are a quorum of the rest.
fn removal_keeps_quorum(world: &World, cluster: usize, member: u8) -> bool {
    let c = &world.clusters[cluster];
    let rest = c.places.iter().filter(|(id, p)| **id != member && !p.is_learner);
    let running = rest.clone().filter(|(id, p)| {
        let n = &world.nodes[usize::from(p.node)];
        n.running && n.data == Some(Data { cluster: cluster as u8, member: **id })
    });
    running.count() >= quorum(rest.count())
}

fn start_new(rules: &Rules, after: &mut World, n: usize, view: &View, list: &InitialList) {
    let standing = after.standing(rules, n);
    let (_, learnt) = answer(&after.nodes[n].ledger, &standing, &Call::Chosen { list: list.clone() });
    if let Some(ledger) = learnt {
        after.nodes[n].ledger = ledger;
    }
    for member in list.members.iter().filter(|m| m.instance != view.me.instance) {
        let fresh = view.peers.get(&member.instance).is_some_and(|p| matches!(p.sighting, Sighting::Fresh(_)));
        if fresh {
            post(after, n, node_of(member), &Call::Chosen { list: list.clone() });
        }
    }
    let index = after.clusters.iter().position(|c| c.list == *list).unwrap_or_else(|| {
        let places =
            list.members.iter().enumerate().map(|(i, m)| {
                (i as u8, Place { node: node_of(m) as u8, is_learner: false, published: false, ran: false })
            });
        let places: BTreeMap<u8, Place> = places.collect();
        let next_member = places.len() as u8;
        after.clusters.push(Cluster { list: list.clone(), places, next_member, wrote: false });
        after.clusters.len() - 1
    });
    let member = list.members.iter().position(|m| node_of(m) == n).unwrap_or_default() as u8;
    let wiped_late = after.nodes[n].wiped_late;
    if let Some(place) = after.clusters[index].places.get_mut(&member) {
        after.amnesia |= place.ran && wiped_late;
        place.ran = true;
    }
    let node = &mut after.nodes[n];
    node.ledger.founded = true;
    node.ledger.never_elected = true;
    node.data = Some(Data { cluster: index as u8, member });
    node.running = true;
    node.round = None;
}

fn node_of(member: &ListedMember) -> usize {
    index_of(&member.instance)
}

fn index_of(id: &InstanceId) -> usize {
    NAMES.iter().position(|n| id.0.ends_with(*n)).unwrap_or_default()
}

fn post(world: &mut World, from: usize, to: usize, call: &Call) {
    let text = serde_json::to_string(call).unwrap_or_default();
    world.mail.insert(Mail { to: to as u8, from: from as u8, text, is_answer: false });
}

/// Asks ourselves at once, and by mail all acceptors that were seen fresh.
fn send_round(rules: &Rules, after: &mut World, n: usize, view: &View, mut round: Round, call: &Call) {
    let charter: &Charter = &round.proposal.charter;
    for (acceptor, _) in charter.first.clone() {
        if index_of(&acceptor) == n {
            let (given, ledger) = answer(&after.nodes[n].ledger, &after.standing(rules, n), call);
            if let Some(ledger) = ledger {
                after.nodes[n].ledger = ledger;
            }
            round.answers.insert(acceptor, given);
        } else if view.peers.get(&acceptor).is_some_and(|p| matches!(p.sighting, Sighting::Fresh(_))) {
            post(after, n, index_of(&acceptor), call);
        }
    }
    after.nodes[n].round = Some(round);
}

fn go_on_with_round(rules: &Rules, world: &World, n: usize, waited: Waited) -> Vec<(String, World)> {
    let Some(round) = &world.nodes[n].round else { return Vec::new() };
    let mut after = world.clone();
    after.nodes[n].round = None;
    let dropped = ("drops its round".to_owned(), after.clone());
    let learn = |after: &mut World, list: &InitialList| {
        let standing = after.standing(rules, n);
        let (_, ledger) = answer(&after.nodes[n].ledger, &standing, &Call::Chosen { list: list.clone() });
        if let Some(ledger) = ledger {
            after.nodes[n].ledger = ledger;
        }
    };
    let charter = &round.proposal.charter;
    if let Some(list) = &round.sent {
        return match tally_accepts(charter, list, &round.answers) {
            Tally::Chosen(list) => {
                learn(&mut after, &list);
                vec![("knows its list is chosen".to_owned(), after)]
            }
            _ => vec![dropped],
        };
    }
    let list = match tally_promises(charter, &world.standing(rules, n), &round.answers) {
        Tally::Free => round.proposal.list.clone(),
        Tally::Adopt(list) => list,
        Tally::Chosen(list) => {
            learn(&mut after, &list);
            return vec![("learns the chosen list".to_owned(), after)];
        }
        _ => return vec![dropped],
    };
    // R1: look again before the accept phase.
    let view = world.view(rules, n, waited);
    match decide(&rules.policy, &view) {
        Step::Propose(again) if again.charter == *charter => {}
        _ => return vec![dropped],
    }
    let next = Round { proposal: round.proposal.clone(), sent: Some(list.clone()), answers: BTreeMap::new() };
    let call = Call::Accept { charter: charter.clone(), ballot: round.proposal.ballot.clone(), list };
    send_round(rules, &mut after, n, &view, next, &call);
    vec![("asks for acceptance".to_owned(), after), dropped]
}

fn deliver(rules: &Rules, world: &World, mail: &Mail) -> Option<(String, World)> {
    let (to, from) = (usize::from(mail.to), usize::from(mail.from));
    // Whoever sent it may have ended since.
    if world.nodes[to].life != Life::Up || !world.same_side(from, to) {
        return None;
    }
    let mut after = world.clone();
    after.mail.remove(mail);
    if mail.is_answer {
        let (_, _, given) = read_answer(&mail.text).ok()?;
        let round = after.nodes[to].round.as_mut()?;
        round.answers.insert(id(NAMES[from]), given);
        return Some((format!("{} hears {}", NAMES[to], NAMES[from]), after));
    }
    if world.nodes[to].running {
        // An etcd listens there now: it answers 404 to this.
        return Some((format!("{}'s etcd ignores a call", NAMES[to]), after));
    }
    let call = read_call(&mail.text)?;
    let (given, ledger) = answer(&world.nodes[to].ledger, &world.standing(rules, to), &call);
    if let Some(ledger) = ledger {
        after.nodes[to].ledger = ledger;
    }
    let (ballot, phase_two) = match &call {
        Call::Prepare { ballot, .. } => (ballot, false),
        Call::Accept { ballot, .. } => (ballot, true),
        Call::Chosen { .. } => return Some((format!("{} is told the chosen list", NAMES[to]), after)),
    };
    let round = after.nodes[from].round.clone();
    if let Some(round) = round.filter(|r| r.proposal.ballot == *ballot && r.sent.is_some() == phase_two) {
        let text = write_answer(&round, &given);
        after.mail.insert(Mail { to: mail.from, from: mail.to, text, is_answer: true });
    }
    Some((format!("{} answers {}: {}", NAMES[to], NAMES[from], brief(&given)), after))
}

fn brief(answer: &Answer) -> &'static str {
    match answer {
        Answer::Promised { .. } => "promised",
        Answer::Accepted => "accepted",
        Answer::Refused { .. } => "refused",
        Answer::Chosen { .. } => "chosen already",
        Answer::DifferentRoster { .. } => "different roster",
        Answer::HasData => "has data",
    }
}

impl World {
    /// All faults over: everybody is up, sees everything, and no more harm will come.
    pub fn healed(&self, rules: &Rules) -> Self {
        let mut after = self.clone();
        after.cut = 0;
        after.mail.clear();
        after.budget = Budget { crashes: 0, wipes: 0, cuts: 0, terminations: 0, rounds: 250 };
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
        for node in after.nodes.iter_mut().filter(|n| n.life == Life::Up) {
            node.shown = truth;
            node.round = None;
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
                    && self.nodes[*n].running
                    && self.nodes[*n].data == Some(Data { cluster: *cluster as u8, member: *id })
            })
        };
        let voters = up.iter().filter(|n| is_voter(n)).count();
        voters == up.len().min(rules.size)
    }

    /// A cluster wrote, and what is left of its data is no quorum: the operator's case.
    pub fn is_operators_case(&self) -> bool {
        let with_data = |c: usize| {
            let voters = self.clusters[c].places.iter().filter(|(_, p)| !p.is_learner);
            let kept = voters.clone().filter(|(id, place)| {
                self.nodes[usize::from(place.node)].data == Some(Data { cluster: c as u8, member: **id })
            });
            kept.count() >= quorum(voters.count())
        };
        (0..self.clusters.len()).any(|c| self.clusters[c].wrote && !with_data(c))
    }

    /// A line a node.
    pub fn show(&self) -> String {
        let lines = self.nodes.iter().enumerate().map(|(n, node)| {
            let l = &node.ledger;
            format!(
                "  {} {:?} shown {}|{} data {:?}{} promised {:?} accepted {:?} chosen {:?} founded {} joined {:?}{}",
                NAMES[n],
                node.life,
                named(node.shown.0),
                named(node.shown.1),
                node.data.map(|d| (d.cluster, d.member)),
                if node.running { " running" } else { "" },
                l.promised.as_ref().map(ToString::to_string),
                l.accepted.as_ref().map(|a| a.list.token.clone()),
                l.chosen.as_ref().map(|list| list.token.clone()),
                l.founded,
                l.joined.map(|j| (j.member.0, j.spawned)),
                if node.round.is_some() { " in a round" } else { "" },
            )
        });
        let clusters = self.clusters.iter().map(|c| {
            let members: Vec<String> = c
                .places
                .iter()
                .map(|(id, p)| {
                    format!("{id}:{}{}", NAMES[usize::from(p.node)], if p.is_learner { "(learner)" } else { "" })
                })
                .collect();
            format!("  cluster {} members {} wrote {}", c.list.token, members.join(" "), c.wrote)
        });
        let mut text: Vec<String> = lines.chain(clusters).collect();
        text.push(format!("  cut {} mail {} old {}", named(self.cut), self.mail.len(), self.old));
        text.join("\n")
    }
}
