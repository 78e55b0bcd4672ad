//! When an operator may have the data here moved aside, so that this node joins the others' cluster as a new member. Never by itself.

use std::fmt;

use super::types::ClusterId;
use super::view::{DataDir, EtcdSeen, PeerState, View};

/// What stands against it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    NoData,
    /// Something listens at this host's peer port: its supervisor, or an etcd.
    Runs(String),
    /// No cluster with a quorum answers: what lies here may be all that is left of what was acknowledged.
    MayBeTheLast,
    TwoClusters(Vec<ClusterId>),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoData => f.write_str("there is no data here"),
            Self::Runs(what) => write!(f, "this host's peer port does not refuse ({what}); stop the supervisor here, and etcd, first"),
            Self::MayBeTheLast => f.write_str(
                "no cluster with a quorum answers, so what lies here may be all that is left of acknowledged writes; start the other members first, or see \
                 etcd-muster recover",
            ),
            Self::TwoClusters(ids) => {
                let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
                write!(f, "two clusters with a quorum answer ({}); give the instances of one of them another tag value first", ids.join(", "))
            }
        }
    }
}

/// The cluster that this node joins afterwards, if what lies here may be moved aside: nothing runs here, and exactly one cluster has a quorum. That quorum lives
/// without this member, so it has everything that was acknowledged there.
///
/// # Errors
/// What stands against it.
pub fn may_set_aside<'a>(view: &'a View, own_port: &PeerState) -> Result<&'a EtcdSeen, Refusal> {
    if view.data == DataDir::Fresh {
        return Err(Refusal::NoData);
    }
    if *own_port != PeerState::Refused {
        return Err(Refusal::Runs(own_port.to_string()));
    }
    let living = view.living_clusters();
    if living.len() > 1 {
        return Err(Refusal::TwoClusters(living.into_keys().collect()));
    }
    living.into_values().next().ok_or(Refusal::MayBeTheLast)
}
