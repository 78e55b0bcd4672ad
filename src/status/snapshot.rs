//! What `/status` serves as JSON, and every other page is made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A point in time, by the wall clock and by how long ago it is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    pub at: String,
    pub epoch: i64,
    pub seconds_ago: u64,
}

/// The node at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    pub version: String,
    /// `None`: the metadata service has not told yet.
    pub identity: Option<Who>,
    pub started: Moment,
    /// The supervisor's loop lives.
    pub live: bool,
    /// etcd here is a healthy voter.
    pub ready: bool,
    pub step: String,
    /// The kind of the reason: few, stable words.
    pub kind: String,
    pub reason: String,
    pub since: Moment,
    pub etcd: Etcd,
    /// `None`: no member list was seen lately.
    pub members: Option<Members>,
    /// The member list that was last seen, however long ago.
    #[serde(default)]
    pub last_listed: Vec<Listed>,
    /// Of each port that speaks TLS.
    pub certificates: Vec<Certificate>,
    pub api: Vec<ApiCount>,
    pub decisions_total: BTreeMap<String, u64>,
    pub failures_total: u64,
    /// Ours and etcd's, for want of somebody who reads them.
    #[serde(default)]
    pub log_lines_dropped: u64,
    /// The latest last.
    pub decisions: Vec<Decision>,
}

/// Which instance this is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Who {
    pub instance: String,
    pub address: String,
    /// `None`: by a written roster.
    pub region: Option<String>,
}

/// The etcd of this node, as the supervisor last saw it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Etcd {
    /// `None`: it doesn't run.
    pub pid: Option<i32>,
    pub cluster: Option<String>,
    pub member: Option<String>,
    /// learner or voter; `None`: it has not said yet.
    pub role: Option<String>,
    pub restarts: u64,
    /// Since it last called itself healthy; since the supervisor's start if it never did.
    pub seconds_since_healthy: u64,
}

/// How many members the cluster lists, by what they are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Members {
    pub voters: usize,
    pub learners: usize,
    pub unstarted: usize,
    pub seconds_ago: u64,
}

/// One member of the list that was last seen.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    pub member: String,
    /// Empty for a member that was added and never started.
    pub name: String,
    /// Empty until the member has published itself.
    pub client_urls: Vec<String>,
}

/// Until when a port's certificate, and the CA beside it, are valid: seconds since the epoch.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// client or peer.
    pub side: String,
    /// `None`: it can't be read.
    pub not_after: Option<i64>,
    pub ca_not_after: Option<i64>,
}

/// Calls of one of AWS's services.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ApiCount {
    pub service: String,
    pub calls: u64,
    pub errors: u64,
}

/// A step that was new, and why it was taken.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Decision {
    pub at: String,
    pub step: String,
    pub kind: String,
    pub reason: String,
}
