//! What a view proves: about a cluster, and about our own disk.

use super::step::Hold;
use super::types::Roster;
use super::view::{PeerState, Policy, View};

/// A peer's report that a list was chosen is trusted only if our own ledger shows that we took part, or if we are too young to
/// have been wiped since. Otherwise our disk may have been wiped after it voted. (Found by the tests, and again by the model
/// for a list that was pushed to us.)
pub fn may_believe(policy: &Policy, view: &View) -> bool {
    let took_part = view.ledger.promised.is_some() || view.ledger.saw_unclaimed;
    let young =
        |roster: &Roster| roster.find(&view.me.instance).is_some_and(|me| roster.is_younger(me, policy.found_window));
    took_part || policy.found_absent || view.roster.known().is_some_and(young)
}

/// An etcd, data, or an answer that can't be read: never propose beside it (G2).
pub fn signs_of_a_cluster(view: &View) -> Option<Hold> {
    view.peers.iter().find_map(|(id, peer)| {
        let instance = id.clone();
        match &peer.sighting {
            PeerState::Etcd(etcd) => Some(Hold::ClusterWithoutQuorum { instance, cluster: etcd.cluster }),
            PeerState::HasData(_) => Some(Hold::PeerHasData { instance }),
            PeerState::Mismatch(cause) => Some(Hold::PeerMismatch { instance, cause: cause.clone() }),
            PeerState::Fresh(_) | PeerState::Refused | PeerState::Silent(_) => None,
        }
    })
}
