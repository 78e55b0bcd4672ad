//! Basic types, in EC2's and etcd's own terms and spelling.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An EC2 instance id, `i-…`; with a static host list, the host's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct InstanceId(pub String);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An etcd member id; printed in hex as etcd and etcdctl print it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct MemberId(pub u64);

/// An etcd cluster id; printed in hex as etcd prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ClusterId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// EC2's instance states (API reference, InstanceState).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum InstanceState {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopping,
    Stopped,
}

impl InstanceState {
    /// EC2's name of the state.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// Parses EC2's name of the state.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::ShuttingDown, Self::Terminated, Self::Stopping, Self::Stopped]
            .into_iter()
            .find(|state| state.name() == word)
    }
}

/// Seconds since the epoch at which EC2 last started an instance (API reference, Instance: `launchTime`). It changes at stop/start.
pub type LaunchTime = i64;

/// One instance as DescribeInstances shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    pub id: InstanceId,
    pub state: InstanceState,
    /// `None`: a static host list may omit it. Then the age is unknown.
    pub launched: Option<LaunchTime>,
    /// When its primary interface was attached, in seconds since the epoch; a stop and a start do not change it. `None`: EC2
    /// shows no interface (it never does for a terminated instance), or the list is static.
    pub attached: Option<i64>,
    /// When EC2 last changed its state, in seconds since the epoch; `None` where EC2 gives no time (it gives one for changes
    /// made by an API call).
    pub changed: Option<i64>,
    /// `None`: EC2 shows no private address (yet, or any more).
    pub address: Option<IpAddr>,
    pub private_dns: Option<String>,
    pub zone: String,
}

/// The instances of one complete DescribeInstances answer, or of a static host list (`MUSTER_HOSTS`), by rank.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Roster {
    by_rank: Vec<Instance>,
    /// EC2's own clock when it answered (its Date header), in seconds since the epoch; our clock for a static host list.
    pub seen_at: i64,
}

impl Roster {
    /// From EC2: oldest first, equal launch times by id, so that the order of its answer never matters.
    pub fn new(mut instances: Vec<Instance>, seen_at: i64) -> Self {
        instances.sort_by(|a, b| (a.launched, &a.id).cmp(&(b.launched, &b.id)));
        Self { by_rank: instances, seen_at }
    }

    /// From a static host list: rank is the order in the list.
    pub fn written(instances: Vec<Instance>, seen_at: i64) -> Self {
        Self { by_rank: instances, seen_at }
    }

    /// All instances by rank, terminated ones too.
    pub fn all(&self) -> &[Instance] {
        &self.by_rank
    }

    /// The instances that may have a member, or get one: all but the terminated. A shutting-down one may still serve, a stopped
    /// one may come back with data.
    pub fn non_terminated(&self) -> impl Iterator<Item = &Instance> {
        self.by_rank.iter().filter(|i| i.state != InstanceState::Terminated)
    }

    /// The instances that are shown as terminated.
    pub fn terminated(&self) -> impl Iterator<Item = &Instance> {
        self.by_rank.iter().filter(|i| i.state == InstanceState::Terminated)
    }

    pub fn find(&self, id: &InstanceId) -> Option<&Instance> {
        self.by_rank.iter().find(|i| i.id == *id)
    }

    /// Whether the first of two ranks before the second.
    pub fn ranks_before(&self, first: &InstanceId, other: &InstanceId) -> bool {
        self.by_rank.iter().find(|i| i.id == *first || i.id == *other).is_some_and(|i| i.id == *first)
    }

    /// How long ago an instance was first launched, by the clock of the source of the list; `None`: unknown. The launch time
    /// alone is that of the last start: a fleet that was stopped and started would look young although its disks may hold a
    /// cluster.
    pub fn age(&self, instance: &Instance) -> Option<Duration> {
        let launched = instance.launched?;
        let first = instance.attached.map_or(launched, |attached| attached.min(launched));
        // A launch in the future is a typing error or a wrong clock.
        u64::try_from(self.seen_at.saturating_sub(first)).ok().map(Duration::from_secs)
    }

    /// Whether it was launched less than that long ago. If the age is unknown: no.
    pub fn is_younger(&self, instance: &Instance, window: Duration) -> bool {
        self.age(instance).is_some_and(|age| age < window)
    }
}

/// An entry of etcd's member list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub id: MemberId,
    /// Empty for a member that was added and never started.
    pub name: String,
    pub peer_urls: Vec<String>,
    /// Empty until the member has published itself.
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

/// One line of an initial cluster: who, under which name, at which peer URLs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ListedMember {
    pub instance: InstanceId,
    pub name: String,
    pub peer_urls: Vec<String>,
}

/// The snapshot that all first members of a list restore.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// Where it is, as `MUSTER_SNAPSHOTS` names the place.
    pub place: String,
    /// Its name there: `CLUSTER/REVISION-INDEX-INSTANCE`.
    pub snapshot: String,
    /// SHA-256 of the data as stored, 64 hex digits.
    pub sha256: String,
    /// Bytes of the data as stored.
    pub size: u64,
    /// By how much the revision is raised; 0: not at all, because the operator says so.
    pub bump: u64,
}

/// The agreed initial cluster, with the token that makes its ids unique.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "WrittenList", into = "WrittenList")]
pub struct InitialList {
    pub members: Vec<ListedMember>,
    pub token: String,
    /// The snapshot that all of them restore first; `None`: the cluster begins empty.
    pub seed: Option<Box<Seed>>,
}

/// A list as it is stored and sent. One with a seed has another shape: a program that knows no seeds would otherwise read it as a list
/// without one, and found an empty cluster under it.
#[derive(Serialize, Deserialize)]
struct WrittenList {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    members: Option<Vec<ListedMember>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seeded: Option<Seeded>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seeded {
    members: Vec<ListedMember>,
    token: String,
    seed: Box<Seed>,
}

impl From<InitialList> for WrittenList {
    fn from(InitialList { members, token, seed }: InitialList) -> Self {
        match seed {
            Some(seed) => Self { members: None, token: None, seeded: Some(Seeded { members, token, seed }) },
            None => Self { members: Some(members), token: Some(token), seeded: None },
        }
    }
}

impl TryFrom<WrittenList> for InitialList {
    type Error = &'static str;

    fn try_from(written: WrittenList) -> Result<Self, Self::Error> {
        match written {
            WrittenList { members: Some(members), token: Some(token), seeded: None } => Ok(Self::empty(members, token)),
            WrittenList { members: None, token: None, seeded: Some(Seeded { members, token, seed }) } => {
                Ok(Self { members, token, seed: Some(seed) })
            }
            _ => Err("a list has members and a token, or is seeded"),
        }
    }
}

impl InitialList {
    /// A list whose cluster begins empty.
    pub const fn empty(members: Vec<ListedMember>, token: String) -> Self {
        Self { members, token, seed: None }
    }

    /// Whether the list names that instance.
    pub fn holds(&self, id: &InstanceId) -> bool {
        self.entry(id).is_some()
    }

    /// How the list names that instance.
    pub fn entry(&self, id: &InstanceId) -> Option<&ListedMember> {
        self.members.iter().find(|m| m.instance == *id)
    }

    /// etcd's `--initial-cluster`: `name=url,name=url`.
    pub fn initial_cluster(&self) -> String {
        initial_cluster(self.members.iter().map(|m| (m.name.as_str(), m.peer_urls.as_slice())))
    }
}

/// Spells etcd's `--initial-cluster` (a name is repeated for each of its URLs).
pub fn initial_cluster<'a>(members: impl Iterator<Item = (&'a str, &'a [String])>) -> String {
    let mut words = Vec::new();
    for (name, urls) in members {
        words.extend(urls.iter().map(|url| format!("{name}={url}")));
    }
    words.join(",")
}

/// An observed value. **Unknown is never absent.**
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Known<T> {
    Known(T),
    Unknown(String),
}

impl<T> Known<T> {
    /// The value, if it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }
}
