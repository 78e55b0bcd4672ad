//! The protocol between supervisors, on the peer port, before etcd runs.
//!
//! `GET /muster/v1/hello` returns this node's state; `POST /muster/v1/call` is a step of a bootstrap. To everything else the
//! port answers 404 at once: no answer would block other etcds, and 403 and 410 stop running ones (measured).

pub mod clients;

pub mod client;
pub mod server;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::core::paxos::{Ballot, Call, Charter};
use crate::core::release::Release;
use crate::core::types::{ClusterId, InitialList, InstanceId, ListedMember, MemberId};
use crate::core::view::{DataSeen, FreshSeen, LogEnd, PeerState};

const HELLO_PATH: &str = "/muster/v1/hello";
const CALL_PATH: &str = "/muster/v1/call";
/// The header with the caller's id, so that a node that others wait for is noticed when it calls. Without it (as from `plan`)
/// no peer observes early.
const FROM_HEADER: &str = "x-muster-from";

/// A supervisor's report about itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub listed: ListedMember,
    pub has_data: bool,
    /// The cluster of that data, where known.
    pub cluster: Option<ClusterId>,
    pub charter: Option<Charter>,
    pub promised: Option<Ballot>,
    pub chosen: Option<InitialList>,
    /// Tokens of the lists that it never starts under.
    #[serde(default)]
    pub renounced: BTreeSet<String>,
    /// The member of its data, where known.
    #[serde(default)]
    pub member: Option<MemberId>,
    /// How far it saw the logs of that cluster's other members go.
    #[serde(default)]
    pub logs: Vec<(MemberId, LogEnd)>,
    /// The etcd that it would start, if already known.
    #[serde(default)]
    pub release: Option<Release>,
    /// What it restores, and how far it is. For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restoring: Option<String>,
}

impl From<Hello> for PeerState {
    fn from(hello: Hello) -> Self {
        let Hello { listed, has_data, cluster, charter, promised, chosen, renounced, member, logs, release, restoring } =
            hello;
        match has_data {
            true => Self::HasData(DataSeen { cluster, member, chosen, renounced, logs: logs.into_iter().collect() }),
            false => Self::Fresh(FreshSeen { charter, promised, chosen, renounced, listed, release, restoring }),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    from: InstanceId,
    call: Call,
}

#[cfg(test)]
mod tests;
