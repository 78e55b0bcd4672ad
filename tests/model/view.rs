//! What a node sees: EC2's listing as it has it, its peers, the members of a living cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_core::paxos::AcceptorContext;
use muster_core::release::{DataRelease, Installed};
use muster_core::types::{Instance, InstanceState, Known, MemberId, Roster};
use muster_core::view::ClaimState;
use muster_core::view::{DataDir, DataSeen, FreshSeen, Liveness, LocalMember, Peer, PeerState, Silence, Twin, View};

use crate::common::{NOW, RELEASE, id, instance, listed};
use crate::world::{Data, Doing, LONG, LeftOut, Life, NAMES, Rules, Store, Waited, World, bits, index_of};

/// A fleet that is a day old is stopped, and started a minute before EC2 is asked.
const RESTARTED: i64 = 86_340;

impl World {
    pub fn roster(&self, rules: &Rules, n: usize) -> Roster {
        let (standing, terminated) = self.nodes[n].shown;
        let since = if self.restarted { RESTARTED } else { 0 };
        let all = bits(standing).map(|i| {
            let first = instance(NAMES[i], InstanceState::Running);
            Instance { attached: first.launched, launched: first.launched.map(|at| at + since), ..first }
        });
        let gone = bits(terminated).map(|i| instance(NAMES[i], InstanceState::Terminated));
        if rules.policy.written {
            let ageless = |i: Instance| Instance { launched: None, ..i };
            return Roster::written(all.chain(gone).map(ageless).collect(), NOW);
        }
        Roster::new(all.chain(gone).collect(), if self.old { NOW + 86_400 } else { NOW })
    }

    pub fn standing(&self, rules: &Rules, n: usize) -> AcceptorContext {
        let roster = self.roster(rules, n);
        let me = self.me(n);
        let own = [(id(NAMES[me]), BTreeSet::from([self.listed(n)]))];
        let peers: Vec<usize> = bits(self.nodes[n].shown.0).filter(|p| ![n, me].contains(p)).collect();
        let answers = |p: &usize| self.same_side(n, *p) && self.nodes[*p].answers();
        let listings = |p: &usize| {
            let by_its_word = answers(p).then(|| self.listed(*p));
            (id(NAMES[*p]), [listed(NAMES[*p])].into_iter().chain(by_its_word).collect())
        };
        let renounced = |p: usize| {
            let tokens = self.nodes[p].ledger.renounced.iter();
            tokens.map(move |token| (id(NAMES[p]), token.clone())).collect::<Vec<_>>()
        };
        // It is known from the last look, and the one that decided to start by a list saw nobody renounce it.
        let looks = !matches!(self.nodes[n].doing, Doing::Launching(_));
        let told = peers.iter().copied().filter(|p| looks && answers(p));
        AcceptorContext {
            me: id(NAMES[me]),
            charter: Some(rules.policy.charter(&roster)),
            terminated: roster.terminated().map(|i| i.id.clone()).collect(),
            has_data: self.nodes[n].has_data(),
            listings: peers.iter().map(listings).chain(own).collect(),
            renounced: told.chain([me]).flat_map(renounced).collect(),
            may_seed: self.may_seed(rules, n),
        }
    }

    /// Who else is the member that this node's data is of, where it is listed or by its roll call.
    fn twin(&self, n: usize, data: Data) -> Twin {
        let place = self.clusters[usize::from(data.cluster)].places.get(&data.member);
        // Its own address is no other's, whoever it is by mistake.
        let others = bits(self.nodes[n].shown.0).filter(|p| ![n, self.me(n)].contains(p) && self.same_side(n, *p));
        let mut others = others.filter(|p| self.nodes[*p].data == Some(data) && self.nodes[*p].life == Life::Up);
        let Some(p) = others.next() else { return Twin::Nobody };
        match (self.nodes[p].runs(), place.is_some_and(|place| usize::from(place.node) == p)) {
            (true, true) => Twin::Runs { at: format!("http://{}:2379", NAMES[p]), name: format!("i-{}", NAMES[p]) },
            (true, false) => Twin::Nobody,
            (false, _) if self.nodes[p].answers() => Twin::Holds { instance: id(NAMES[p]) },
            (false, _) => Twin::Nobody,
        }
    }

    pub fn sight(&self, rules: &Rules, from: usize, to: usize) -> PeerState {
        let node = &self.nodes[to];
        if !self.same_side(from, to) || node.life == Life::Dead {
            return PeerState::Silent("cut off".to_owned());
        }
        if let Some(data) = node.data.filter(|_| node.life == Life::Up && node.runs()) {
            return PeerState::Etcd(self.etcd_seen(usize::from(data.cluster), to));
        }
        if !node.answers() {
            return PeerState::Refused;
        }
        let standing = self.standing(rules, to);
        let chosen = node.ledger.valid_choice(&standing).cloned();
        if self.nodes[from].older && chosen.as_ref().is_some_and(|list| list.seed.is_some()) {
            return PeerState::Mismatch("its hello can't be read".to_owned());
        }
        let renounced = node.ledger.renounced.clone();
        match node.data {
            Some(data) => {
                let cluster = Some(Self::cluster_of_list(&self.clusters[usize::from(data.cluster)].list));
                PeerState::HasData(DataSeen { cluster, chosen, renounced, ..DataSeen::default() })
            }
            None if node.half => PeerState::HasData(DataSeen { chosen, renounced, ..DataSeen::default() }),
            None => PeerState::Fresh(FreshSeen {
                charter: standing.charter,
                promised: node.ledger.promised.clone(),
                chosen,
                renounced,
                listed: self.listed(to),
                release: Some(RELEASE),
                restoring: None,
            }),
        }
    }

    /// The view of one look.
    pub fn view(&self, rules: &Rules, n: usize, waited: Waited) -> View {
        let node = &self.nodes[n];
        let roster = self.roster(rules, n);
        let silent_for = if waited == Waited::Long { LONG } else { Duration::ZERO };
        let mut peers = BTreeMap::new();
        for p in bits(node.shown.0).filter(|p| ![n, self.me(n)].contains(p)) {
            let sighting = self.sight(rules, n, p);
            let silent = matches!(sighting, PeerState::Refused | PeerState::Silent(_));
            peers.insert(
                id(NAMES[p]),
                Peer {
                    refused_throughout: sighting == PeerState::Refused,
                    sighting,
                    unanswered_for: if silent { silent_for } else { Duration::ZERO },
                    impaired: Known::Unknown("not asked".to_owned()),
                    listed: Some(listed(NAMES[p])),
                },
            );
        }
        let data = match node.data {
            None if node.half => DataDir::Partial { what: "no WAL".to_owned() },
            None => DataDir::Fresh,
            Some(d) => {
                let cluster = usize::from(d.cluster);
                let ids = (Self::cluster_of_list(&self.clusters[cluster].list), Self::member_id(cluster, d.member));
                DataDir::Whole { ids: Known::Known(ids) }
            }
        };
        let mut view = View {
            me: LocalMember { instance: id(NAMES[self.me(n)]), listed: self.listed(n) },
            data,
            yielded: node.yielded,
            condemned: None,
            ledger: node.ledger.clone(),
            accepted_cluster: node.ledger.accepted.as_ref().map(|a| Self::cluster_of_list(&a.list)),
            chosen_cluster: node.ledger.chosen.as_ref().map(Self::cluster_of_list),
            ending: Known::Known(None),
            claim: self.claim_read_by(n, self.claim_seen(rules)),
            snapshots: self.snapshots_seen(rules, n),
            seed: self.seed_seen(n),
            roster: Known::Known(roster),
            roster_unchanged_for: silent_for,
            own_tags: Known::Unknown("not asked".to_owned()),
            peers,
            old_fleet: BTreeMap::new(),
            liveness: BTreeMap::new(),
            owner_gone: self.is_gone(rules, n),
            twin: node.data.map_or(Twin::Nobody, |data| self.twin(n, data)),
            log: None,
            unresolved: BTreeMap::new(),
            since_own_removal: None,
            installed: Installed::Known(RELEASE),
            data_release: Known::Known(DataRelease::default()),
            downgrade: Known::Known(None),
        };
        view.liveness = self.liveness(n, &view, silent_for);
        view
    }

    /// What the claim says to those who may depend on it: nothing, in a store that failed its trial.
    fn claim_seen(&self, rules: &Rules) -> ClaimState {
        match (rules.store, rules.left_out) {
            _ if rules.policy.claim.is_none() => ClaimState::NotAsked,
            (Store::Keeps, _) | (_, Some(LeftOut::Trial)) => self.object.read(),
            (Store::Ignores | Store::Refuses, _) => ClaimState::Unknown("the store failed its trial".to_owned()),
        }
    }

    /// What became of the instance that this node's disk belongs to by its ledger: by EC2's word, or the list's.
    fn is_gone(&self, rules: &Rules, n: usize) -> Known<bool> {
        let Some(owner) = self.nodes[n].ledger.instance.as_ref().map(index_of).filter(|owner| *owner != self.me(n))
        else {
            return Known::Unknown("not asked".to_owned());
        };
        match rules.policy.written && self.nodes[n].shown.1 & (1 << owner) == 0 {
            true => Known::Unknown("the list doesn't say".to_owned()),
            false => Known::Known(self.nodes[owner].life == Life::Dead),
        }
    }

    pub fn liveness(&self, n: usize, view: &View, silent_for: Duration) -> BTreeMap<MemberId, Liveness> {
        let mut liveness = BTreeMap::new();
        for etcd in view.living_clusters().values() {
            let cluster = self.clusters.iter().position(|c| Self::cluster_of_list(&c.list) == etcd.cluster);
            let Some(cluster) = cluster else { continue };
            for (member, place) in &self.clusters[cluster].places {
                let holder = &self.nodes[usize::from(place.node)];
                let data = Some(Data { cluster: cluster as u8, member: *member });
                let seen = self.same_side(n, usize::from(place.node));
                if seen && holder.life == Life::Up && holder.runs() && holder.data == data {
                    liveness.insert(Self::member_id(cluster, *member), Liveness::Answers);
                    continue;
                }
                // EC2 asked by id tells the truth; only listings lag.
                let gone = holder.life == Life::Dead;
                let instance = Some(id(NAMES[usize::from(place.node)]));
                let fate = Liveness::Silent(Silence { instance, gone: Known::Known(gone), silent_for });
                liveness.insert(Self::member_id(cluster, *member), fate);
            }
        }
        liveness
    }
}
