//! The exchange between supervisors, on the peer port, before any etcd runs.
//!
//! `GET /muster/v1/hello` says what this node is; `POST /muster/v1/call` is a step of the founding. To all else the port
//! answers 404 at once: silence holds up other etcds, 403 and 410 stop live ones (measured).

pub mod client;
pub mod server;

use serde::{Deserialize, Serialize};

use crate::cluster::paxos::{Ballot, Call, Charter};
use crate::cluster::types::{ClusterId, InitialList, InstanceId, ListedMember};
use crate::cluster::view::{FreshSeen, Sighting};

const HELLO_PATH: &str = "/muster/v1/hello";
const CALL_PATH: &str = "/muster/v1/call";
/// Names the caller, so that a node that is waited for is noticed when it calls. Without it (as from `plan`) nobody stirs.
const FROM_HEADER: &str = "x-muster-from";

/// What a supervisor says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub listed: ListedMember,
    pub has_data: bool,
    /// The cluster of that data, where known.
    pub cluster: Option<ClusterId>,
    pub charter: Option<Charter>,
    pub promised: Option<Ballot>,
    pub chosen: Option<InitialList>,
}

impl From<Hello> for Sighting {
    fn from(hello: Hello) -> Self {
        let Hello { listed, has_data, cluster, charter, promised, chosen } = hello;
        match has_data {
            true => Self::HasData { cluster, chosen },
            false => Self::Fresh(FreshSeen { charter, promised, chosen, listed }),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    from: InstanceId,
    call: Call,
}
