//! What `/status` serves as JSON; all other pages are made from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A point in time, by the wall clock and by its age.
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
    /// `None`: the metadata service has not answered yet.
    pub identity: Option<Who>,
    pub started: Moment,
    /// The supervisor's loop is alive.
    pub live: bool,
    /// etcd here is a healthy voter.
    pub ready: bool,
    pub step: String,
    /// The kind of the reason: one of few, stable words.
    pub kind: String,
    pub reason: String,
    pub since: Moment,
    pub etcd: Etcd,
    /// `None`: no member list was read recently.
    pub members: Option<Members>,
    /// `MUSTER_CLUSTER_SIZE`; `None`: as many as there are instances.
    #[serde(default)]
    pub wanted_members: Option<usize>,
    /// What `MUSTER_CLAIM` holds, as last read: unknown, absent, founding, established, or other (another cluster's). `None`: it was not read.
    #[serde(default)]
    pub claim: Option<String>,
    /// The last member list, however old.
    #[serde(default)]
    pub last_listed: Vec<Listed>,
    /// For each place for snapshots.
    #[serde(default)]
    pub snapshots: Vec<PlaceStatus>,
    /// For each port with TLS.
    pub certificates: Vec<Certificate>,
    pub api: Vec<ApiCount>,
    pub decisions_total: BTreeMap<String, u64>,
    pub failures_total: u64,
    /// Our log lines and etcd's, dropped because the log was not read.
    #[serde(default)]
    pub log_lines_dropped: u64,
    /// The latest last.
    pub decisions: Vec<Decision>,
}

/// This instance.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Who {
    pub instance: String,
    pub address: String,
    /// `None`: from a static host list.
    pub region: Option<String>,
}

/// This node's etcd, as the supervisor last saw it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Etcd {
    /// `None`: it does not run.
    pub pid: Option<i32>,
    pub cluster: Option<String>,
    pub member: Option<String>,
    /// learner or voter; `None`: not known yet.
    pub role: Option<String>,
    pub restarts: u64,
    /// Since it last reported itself healthy; if never, since the supervisor's start.
    pub seconds_since_healthy: u64,
}

/// How many members of each kind the cluster lists.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Members {
    pub voters: usize,
    pub learners: usize,
    pub unstarted: usize,
    pub seconds_ago: u64,
}

/// One member of the last list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    pub member: String,
    /// Empty for a member that was added and never started.
    pub name: String,
    /// Empty until the member has published itself.
    pub client_urls: Vec<String>,
}

/// When a port's certificate and its CA expire, in seconds since the epoch.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// client or peer.
    pub side: String,
    /// `None`: it can't be read.
    pub not_after: Option<i64>,
    pub ca_not_after: Option<i64>,
}

/// Snapshots at one place, as this supervisor knows of them: only the leader's looks, and every one that has led.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlaceStatus {
    /// As the operator wrote it.
    pub place: String,
    /// `MUSTER_SNAPSHOT_EVERY`; `None`: only by hand.
    #[serde(default)]
    pub interval_seconds: Option<u64>,
    /// The newest one's name; empty: none is known.
    pub name: String,
    /// When a snapshot was last stored there, or found to have all that there is; in seconds since the epoch.
    pub last_success: Option<i64>,
    /// When the newest was last proved; in seconds since the epoch.
    pub last_verified: Option<i64>,
    /// digest or restore.
    pub verified: Option<String>,
    pub size_bytes: Option<u64>,
    pub revision: Option<u64>,
    pub failures_total: BTreeMap<String, u64>,
    /// Why the last attempt failed.
    pub trouble: Option<String>,
}

/// Calls of one of AWS's services.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ApiCount {
    pub service: String,
    pub calls: u64,
    pub errors: u64,
}

/// A new step, with its reason.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Decision {
    pub at: String,
    pub step: String,
    pub kind: String,
    pub reason: String,
}
