//! What a node sees: EC2's listing as it has it, its peers, the members of a living cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_muster::cluster::claim::Claimed;
use etcd_muster::cluster::paxos::Standing;
use etcd_muster::cluster::types::{Instance, InstanceState, Known, MemberId, Roster};
use etcd_muster::cluster::view::{DataDir, Fate, FreshSeen, Me, Peer, Sighting, View};

use crate::common::{NOW, id, instance, listed};
use crate::world::{Data, LONG, Life, NAMES, Rules, Waited, World, bits};

impl World {
    pub fn roster(&self, rules: &Rules, n: usize) -> Roster {
        let (standing, terminated) = self.nodes[n].shown;
        let all = bits(standing).map(|i| instance(NAMES[i], InstanceState::Running));
        let gone = bits(terminated).map(|i| instance(NAMES[i], InstanceState::Terminated));
        if rules.policy.written {
            let ageless = |i: Instance| Instance { launched: None, ..i };
            return Roster::written(all.chain(gone).map(ageless).collect(), NOW);
        }
        Roster::new(all.chain(gone).collect(), if self.old { NOW + 86_400 } else { NOW })
    }

    pub fn standing(&self, rules: &Rules, n: usize) -> Standing {
        let roster = self.roster(rules, n);
        Standing {
            charter: Some(rules.policy.charter(&roster)),
            terminated: roster.terminated().map(|i| i.id.clone()).collect(),
            has_data: self.nodes[n].has_data(),
        }
    }

    pub fn sight(&self, rules: &Rules, from: usize, to: usize) -> Sighting {
        let node = &self.nodes[to];
        if !self.same_side(from, to) || node.life == Life::Dead {
            return Sighting::Silent("cut off".to_owned());
        }
        if let Some(data) = node.data.filter(|_| node.life == Life::Up && node.runs()) {
            return Sighting::Etcd(self.etcd_seen(usize::from(data.cluster), to));
        }
        if !node.answers() {
            return Sighting::Refused;
        }
        let standing = self.standing(rules, to);
        let chosen = node.ledger.standing_choice(&standing).cloned();
        match node.data {
            Some(data) => {
                let cluster = Some(Self::cluster_of_list(&self.clusters[usize::from(data.cluster)].list));
                Sighting::HasData { cluster, chosen }
            }
            None if node.half => Sighting::HasData { cluster: None, chosen },
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
        let roster = self.roster(rules, n);
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
            None if node.half => DataDir::Partial { what: "no WAL".to_owned() },
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
            condemned: None,
            ledger: node.ledger.clone(),
            accepted_cluster: node.ledger.accepted.as_ref().map(|a| Self::cluster_of_list(&a.list)),
            chosen_cluster: node.ledger.chosen.as_ref().map(Self::cluster_of_list),
            ending: Known::Known(None),
            claim: if rules.policy.claim.is_some() { self.object.read() } else { Claimed::NotAsked },
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

    pub fn fates(&self, n: usize, view: &View, silent_for: Duration) -> BTreeMap<MemberId, Fate> {
        let mut fates = BTreeMap::new();
        for etcd in view.living_clusters().values() {
            let cluster = self.clusters.iter().position(|c| Self::cluster_of_list(&c.list) == etcd.cluster);
            let Some(cluster) = cluster else { continue };
            for (member, place) in &self.clusters[cluster].places {
                let holder = &self.nodes[usize::from(place.node)];
                let data = Some(Data { cluster: cluster as u8, member: *member });
                let seen = self.same_side(n, usize::from(place.node));
                if seen && holder.life == Life::Up && holder.runs() && holder.data == data {
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
