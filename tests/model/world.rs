//! A world of a few instances that run the real `decide`, the real acceptor and the real tallies, and may be disturbed.
//!
//! An event is one durable write, or one effect outside the node, never both, so that a crash can fall between any two:
//! either by a state in between (a launch is decided, recorded, begun) or, where nobody else could see that state, by an
//! outcome of the step or of the crash itself (a quarantine broken off, a place taken and not recorded, an election seen and
//! not recorded). A durable write has no half: `Store` writes a draft, syncs it and renames it, so there is the old file or
//! the new one. A call that was recorded and not answered is an answer that never arrives. So is a round whose proposer has
//! answered itself and then ends: the call is in the mail, and stays there.
//!
//! What is the model's own: the network (calls and answers are mail that may wait for ever), etcd (alive with a quorum of
//! its members on one side of a cut), EC2 (each node sees its own, possibly stale, listing), and time. Time is a choice:
//! whoever doesn't answer may have done so for a moment or for longer than the grace time. That is more than can happen, so
//! what holds here holds there.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use muster_core::paxos::{Accepted, Answer, Ledger, LeftBehind};
use muster_core::step::Proposal;
use muster_core::types::{ClusterId, InitialList, InstanceId, ListedMember};
use muster_core::view::Policy;

use crate::claim::Object;
use crate::common::{id, listed};
use crate::mail::Mail;
use crate::restore::Orders;
use crate::shared::Shared;

pub const NAMES: [char; 7] = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];
pub const LONG: Duration = Duration::from_secs(3600);

/// A set of instances, a bit each.
pub type Mask = u8;

pub fn bits(mask: Mask) -> impl Iterator<Item = usize> {
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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Data {
    pub cluster: u8,
    pub member: u8,
}

/// What a volume's snapshot or a machine image holds: a disk as it was.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Disk {
    pub ledger: Ledger,
    pub data: Option<Data>,
    pub half: bool,
    pub marked: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Round {
    pub proposal: Proposal,
    /// Phase 2: the list that was sent.
    pub sent: Option<InitialList>,
    pub answers: BTreeMap<InstanceId, Answer>,
}

/// How etcd is started.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Launch {
    New(InitialList),
    Existing { id: ClusterId, place: Data },
    Resume,
}

/// What a supervisor is in the middle of; a crash forgets it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Doing {
    /// Looking and deciding.
    Deliberates,
    /// A founding round, as its proposer.
    Round(Round),
    /// Decided to found alone; by what it saw, which may have changed since.
    Alone(Accepted),
    /// What was restored is being moved to where etcd looks for it: the data, then the WAL.
    Installing(InitialList),
    /// Decided to start etcd: offers the list, paces, and still serves the roll call.
    Launching(Launch),
    /// The launch is on record. An etcd without a WAL yet, or one that serves nothing yet: who asks is refused. (A port that
    /// is bound and mute is silent; that proves less, so it allows less.)
    Starting(Launch),
    /// etcd serves.
    Runs,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    pub life: Life,
    pub ledger: Ledger,
    pub data: Option<Data>,
    /// A backend without its WAL: a start that was broken off, or a WAL volume that was lost.
    pub half: bool,
    /// The WAL's volume bears this ledger's mark.
    pub marked: bool,
    /// Its WAL volume was lost, and the ledger wasn't: what it may have voted is unknown for ever.
    pub wal_lost: bool,
    /// A quarantine that was begun.
    pub moving: Option<Moving>,
    pub doing: Doing,
    pub yielded: bool,
    /// It lost its ledger in the founding window, in which that can't be told.
    pub forgiven: bool,
    /// It is set to another port than at first, and so listed otherwise.
    pub moved: bool,
    /// Its metadata service was mute, and it goes on as the instance that its disk was with.
    pub taken_for: Option<u8>,
    /// What EC2 shows this node: standing and terminated.
    pub shown: (Mask, Mask),
    /// It runs a program that knows no seeds, and looks for no snapshots.
    pub older: bool,
    /// The orders that it sees.
    pub sees: Orders,
    /// For which list its data is restored, beside where etcd looks for it.
    pub staged: Option<String>,
}

/// What a broken-off quarantine leaves behind for the next start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Moving {
    pub why: LeftBehind,
}

impl Node {
    /// With empty disks but for that ledger.
    pub fn new(ledger: Ledger) -> Self {
        Self {
            life: Life::Unborn,
            ledger,
            data: None,
            half: false,
            marked: false,
            wal_lost: false,
            moving: None,
            doing: Doing::Deliberates,
            yielded: false,
            forgiven: false,
            moved: false,
            taken_for: None,
            shown: (0, 0),
            older: false,
            sees: Orders::default(),
            staged: None,
        }
    }

    /// The supervisor ends, and its etcd with it.
    pub fn stop(&mut self) {
        (self.life, self.doing, self.yielded, self.staged) = (Life::Down, Doing::Deliberates, false, None);
    }

    pub fn runs(&self) -> bool {
        self.doing == Doing::Runs
    }

    pub fn round(&self) -> Option<&Round> {
        match &self.doing {
            Doing::Round(round) => Some(round),
            _ => None,
        }
    }

    /// The roll call is served.
    pub fn answers(&self) -> bool {
        self.life == Life::Up && !matches!(self.doing, Doing::Installing(_) | Doing::Starting(_) | Doing::Runs)
    }

    pub fn has_data(&self) -> bool {
        self.data.is_some() || self.half
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    pub node: u8,
    /// As the member list has it.
    pub listed: ListedMember,
    pub is_learner: bool,
    pub published: bool,
    /// An etcd has run under this id, and may have voted.
    pub ran: bool,
}

/// One etcd cluster: a list that was started, and what became of its members.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cluster {
    pub list: InitialList,
    /// By member id.
    pub places: BTreeMap<u8, Place>,
    pub next_member: u8,
    pub wrote: bool,
}

/// What may still go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Budget {
    pub crashes: u8,
    /// Whole disks lost, the ledger with them.
    pub wipes: u8,
    /// WAL volumes lost, the ledger not.
    pub wals: u8,
    pub cuts: u8,
    pub terminations: u8,
    pub rounds: u8,
    /// Snapshots of a disk, each of which a new instance may boot from.
    pub copies: u8,
    /// Calls of a stranger who knows the charter.
    pub strangers: u8,
    /// An operator changes a node's port, and so how it is listed.
    pub settings: u8,
    /// The store loses the claim, or serves the one before, though it passed its trial.
    pub lies: u8,
    /// An operator orders a restore, or withdraws the last order.
    pub orders: u8,
    /// A member of the earlier cluster comes back with its data.
    pub returns: u8,
}

/// What stays the same.
#[derive(Clone, Debug)]
pub struct Rules {
    pub policy: Policy,
    pub size: usize,
    pub slots: usize,
    /// EC2 shows launches and terminations older than the grace time (the assumption of G1b).
    pub ec2_is_timely: bool,
    /// What the claim's store makes of a write on a condition.
    pub store: Store,
    /// There are snapshots of an earlier cluster, of which one member may come back: the last slot.
    pub beside_snapshots: bool,
    /// Guards that are left out, to show what they keep out.
    pub left_out: Option<LeftOut>,
}

/// What a store makes of a write on a condition: as AWS documents it, or as some do (`scripts/stores`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Store {
    Keeps,
    Ignores,
    Refuses,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeftOut {
    /// The store is used as it is (`ClaimStore::prove`).
    Trial,
    /// Whoever can't ask who he is, is whom his disk was with (`owner::is_this_machine`).
    Machine,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    pub nodes: Shared<Node>,
    pub mail: BTreeSet<Mail>,
    pub clusters: Shared<Cluster>,
    /// Those on the other side.
    pub cut: Mask,
    /// What `MUSTER_CLAIM` names.
    pub object: Object,
    /// What lies beside the snapshots.
    pub orders: Orders,
    pub budget: Budget,
    /// The fleet has outlived the founding window.
    pub old: bool,
    /// All of it was stopped and started since: EC2 shows new launch times.
    pub restarted: bool,
    /// A disk as it was, of which a copy may be made.
    pub image: Option<Rc<Disk>>,
    /// An id that had run before was started with an empty log, and not in the window in which that can't be told.
    pub amnesia: bool,
    /// One node ran an older program at first.
    pub had_older: bool,
    /// A first member of a list with a seed began without its data.
    pub began_empty: bool,
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
            shown: (shown.get(n).copied().unwrap_or(0), 0),
            ..Node::new(Ledger { nonce: n as u64 + 1, instance: Some(id(NAMES[n])), ..Ledger::default() })
        };
        let nodes = Shared::new((0..rules.slots).map(node));
        Self {
            nodes,
            mail: BTreeSet::new(),
            clusters: Shared::new([]),
            cut: 0,
            object: Object::default(),
            orders: Orders::default(),
            budget,
            old: false,
            restarted: false,
            image: None,
            amnesia: false,
            had_older: false,
            began_empty: false,
        }
    }

    pub fn of(&self, wanted: impl Fn(&Node) -> bool) -> Mask {
        self.nodes.iter().enumerate().filter(|(_, n)| wanted(n)).fold(0, |mask, (n, _)| mask | 1 << n)
    }

    /// Which instance a node takes itself for.
    pub fn me(&self, n: usize) -> usize {
        self.nodes[n].taken_for.map_or(n, usize::from)
    }

    /// How a node is listed by its own word.
    pub fn listed(&self, n: usize) -> ListedMember {
        let name = NAMES[self.me(n)];
        let listed = listed(name);
        match self.nodes[n].moved {
            true => ListedMember { peer_urls: vec![format!("http://{name}:3380")], ..listed },
            false => listed,
        }
    }

    pub fn truth(&self) -> (Mask, Mask) {
        (self.of(|n| matches!(n.life, Life::Up | Life::Down)), self.of(|n| n.life == Life::Dead))
    }

    pub fn same_side(&self, a: usize, b: usize) -> bool {
        (self.cut >> a & 1) == (self.cut >> b & 1)
    }

    /// A line a node.
    pub fn show(&self) -> String {
        let lines = self.nodes.iter().enumerate().map(|(n, node)| {
            let l = &node.ledger;
            format!(
                "  {}{} {:?} shown {}|{} data {:?}{}{}{} promised {:?} accepted {:?} chosen {:?} founded {} joined {:?}{}",
                NAMES[n],
                if node.older { " (older)" } else { "" },
                node.life,
                named(node.shown.0),
                named(node.shown.1),
                node.data.map(|d| (d.cluster, d.member)),
                if node.half { " (half)" } else { "" },
                if node.marked { " marked" } else { "" },
                match &node.doing {
                    Doing::Deliberates => "",
                    Doing::Round(_) => " in a round",
                    Doing::Alone(_) => " about to found alone",
                    Doing::Installing(_) => " installing",
                    Doing::Launching(_) => " launching",
                    Doing::Starting(_) => " starting",
                    Doing::Runs => " running",
                },
                l.promised.as_ref().map(ToString::to_string),
                l.accepted.as_ref().map(|a| a.list.token.clone()),
                l.chosen.as_ref().map(|list| list.token.clone()),
                l.founded,
                l.joined.map(|j| (j.member.0, j.spawned)),
                if node.moving.is_some() { " quarantine unfinished" } else { "" },
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
        if let Some(claim) = &self.object.claim {
            text.push(format!("  claim {claim:?}"));
        }
        if let Some(image) = &self.image {
            text.push(format!(
                "  image of {:?}: data {:?}",
                image.ledger.instance,
                image.data.map(|d| (d.cluster, d.member))
            ));
        }
        let (old, restarted) = (self.old, self.restarted);
        text.push(format!("  cut {} mail {} old {old} restarted {restarted}", named(self.cut), self.mail.len()));
        text.join("\n")
    }
}

pub fn named(mask: Mask) -> String {
    bits(mask).map(|n| NAMES[n].to_string()).collect::<Vec<_>>().join("+")
}

pub fn node_of(member: &ListedMember) -> usize {
    index_of(&member.instance)
}

pub fn index_of(id: &InstanceId) -> usize {
    NAMES.iter().position(|n| id.0.ends_with(*n)).unwrap_or_default()
}
