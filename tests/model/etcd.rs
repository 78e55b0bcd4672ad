//! The model's etcd: what it is, when a cluster has a quorum, and what follows by itself.

use std::collections::BTreeSet;

use crate::common::{RELEASE, VERSION};
use muster_core::quorum::quorum;
use muster_core::types::{ClusterId, InitialList, Member, MemberId};
use muster_core::view::{EtcdSeen, Quorum, View};

use crate::world::{Cluster, Data, Launch, Life, NAMES, Place, World, bits, node_of};

impl Cluster {
    pub fn under(list: &InitialList) -> Self {
        let place =
            |m| Place { node: node_of(m) as u8, listed: m.clone(), is_learner: false, published: false, ran: false };
        let places = list.members.iter().enumerate().map(|(i, m)| (i as u8, place(m))).collect();
        Self { list: list.clone(), places, next_member: list.members.len() as u8, wrote: false }
    }
}

impl World {
    /// Whether the cluster has a quorum of running voters on the side of that node. Whoever runs with a member's data is it,
    /// wherever the list has it: an etcd dials the others.
    pub fn has_quorum_beside(&self, cluster: usize, node: usize) -> bool {
        let c = &self.clusters[cluster];
        let voters = c.places.iter().filter(|(_, p)| !p.is_learner);
        let runs = |(member, _): &(&u8, &Place)| {
            self.runners(Data { cluster: cluster as u8, member: **member }).any(|n| self.same_side(n, node))
        };
        voters.clone().filter(runs).count() >= quorum(voters.count())
    }

    /// Those on which an etcd runs with that data.
    pub fn runners(&self, data: Data) -> impl Iterator<Item = usize> {
        bits(self.of(|n| n.life == Life::Up && n.runs() && n.data == Some(data)))
    }

    /// A disk that may come back has that data.
    pub fn is_held(&self, data: Data) -> bool {
        self.nodes.iter().any(|n| n.life != Life::Dead && n.data == Some(data))
    }

    /// G6: two run as one member.
    pub fn has_twins(&self) -> bool {
        let data = self.nodes.iter().filter_map(|n| n.data);
        data.collect::<BTreeSet<_>>().into_iter().any(|data| self.runners(data).count() > 1)
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
            let may_still_start = n.life != Life::Dead && (fresh_but_listed || !place.ran);
            self.is_held(Data { cluster: cluster as u8, member: **member }) || may_still_start
        };
        voters.clone().filter(kept).count() < quorum(voters.count())
    }

    /// What follows by itself: a cluster with a quorum elects, writes, publishes its running members.
    pub fn settle(&mut self) {
        for c in self.quorate() {
            if !self.clusters[c].wrote {
                self.clusters[c].wrote = true;
            }
            for n in 0..self.nodes.len() {
                let data = self.nodes[n].data.filter(|d| usize::from(d.cluster) == c && self.nodes[n].runs());
                let listed = self.listed(n);
                if let Some(data) = data
                    && (!self.has_published(n) || self.place_of(data).is_some_and(|p| p.listed != self.listed(n)))
                    && self.has_quorum_beside(c, n)
                    && let Some(place) = self.clusters[c].places.get_mut(&data.member)
                {
                    // Its new address too, if it has one.
                    (place.published, place.node, place.listed) = (true, n as u8, listed);
                }
            }
        }
        self.forget_dead_letters();
    }

    /// That node's etcd has been in an elected cluster, and would say so itself.
    pub fn has_published(&self, n: usize) -> bool {
        self.nodes[n].data.and_then(|data| self.place_of(data)).is_some_and(|p| p.published)
    }

    fn place_of(&self, data: Data) -> Option<&Place> {
        self.clusters[usize::from(data.cluster)].places.get(&data.member)
    }

    pub fn cluster_of_list(list: &InitialList) -> ClusterId {
        // As etcd's: it follows from members and token, and the token from the ballot.
        let text = list.initial_cluster() + &list.token;
        ClusterId(text.bytes().fold(7, |hash: u64, b| hash.wrapping_mul(1_099_511_628_211) ^ u64::from(b)))
    }

    pub fn member_id(cluster: usize, member: u8) -> MemberId {
        MemberId(cluster as u64 * 100 + u64::from(member))
    }

    pub fn etcd_seen(&self, cluster: usize, by: usize) -> EtcdSeen {
        let c = &self.clusters[cluster];
        let member = |(id, place): (&u8, &Place)| {
            let l = place.listed.clone();
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
            quorum: match self.has_quorum_beside(cluster, by) {
                true => Quorum::Proven,
                false if c.wrote => Quorum::Unproven,
                false => Quorum::NeverElected,
            },
            version: Some(VERSION),
            release: Some(RELEASE),
        }
    }
}

/// etcd makes its WAL, and may vote from then on.
pub fn make_wal(after: &mut World, n: usize, launch: &Launch) {
    let data = match launch {
        Launch::Resume => return,
        Launch::Existing { place, .. } => *place,
        Launch::New(list) => {
            after.began_empty |= list.seed.is_some();
            let known = after.clusters.iter().position(|c| c.list == *list);
            let index = known.unwrap_or(after.clusters.len());
            if known.is_none() {
                after.clusters.push(Cluster::under(list));
            }
            let member = list.members.iter().position(|m| node_of(m) == n).unwrap_or_default() as u8;
            Data { cluster: index as u8, member }
        }
    };
    // A place that is gone was given up because its log was lost, or removed by the others: it may have voted too.
    let place = after.clusters[usize::from(data.cluster)].places.get_mut(&data.member);
    let ran = place.as_ref().is_none_or(|p| p.ran);
    if let Some(place) = place {
        place.ran = true;
    }
    after.amnesia |= ran && !after.nodes[n].forgiven;
    (after.nodes[n].data, after.nodes[n].half) = (Some(data), false);
}

/// Its cluster lives beside it and lists it no more: the others tell it so.
pub fn is_removed(world: &World, n: usize) -> bool {
    let node = &world.nodes[n];
    let Some(data) = node.data.filter(|_| node.runs()) else { return false };
    let cluster = usize::from(data.cluster);
    !world.clusters[cluster].places.contains_key(&data.member) && world.has_quorum_beside(cluster, n)
}

pub fn promote(world: &World, n: usize, add: &mut impl FnMut(String, World)) {
    let node = &world.nodes[n];
    let Some(data) = node.data.filter(|_| node.runs()) else { return };
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

pub fn living_cluster(world: &World, view: &View) -> Option<usize> {
    let id = *view.living_clusters().keys().next()?;
    world.clusters.iter().position(|c| World::cluster_of_list(&c.list) == id)
}

/// etcd's own check: the started voters that remain are a quorum of the rest.
pub fn removal_keeps_quorum(world: &World, cluster: usize, member: u8) -> bool {
    let c = &world.clusters[cluster];
    let rest = c.places.iter().filter(|(id, p)| **id != member && !p.is_learner);
    let running =
        rest.clone().filter(|(id, _)| world.runners(Data { cluster: cluster as u8, member: **id }).next().is_some());
    running.count() >= quorum(rest.count())
}
