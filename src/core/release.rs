//! etcd's version numbers, and what data shows about releases.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::types::MemberId;

/// A minor release, such as `3.5`: a cluster's version and the format of its data follow it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Minor(pub u32, pub u32);

impl Minor {
    /// Parses `3.5` or `3.5.0`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self(next()?, next()?))
    }

    /// A cluster's version; `None`: it has none yet, or it can't be read. Until a cluster has heard from every member which release it
    /// runs, etcd gives it 3.0, whatever the members run (`version.MinClusterVersion`; seen on 3.5.33 and 3.6.16).
    pub fn of_cluster(text: &str) -> Option<Self> {
        Self::parse(text).filter(|version| *version > Self(3, 0))
    }

    /// The next one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0, self.1 + 1)
    }

    /// The previous one; of 3.0 itself, because etcd has none to which data could be downgraded.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0, self.1.saturating_sub(1))
    }
}

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A release of etcd.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Release {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl Release {
    /// Parses `3.5.1`; ignores what follows a third number.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(['.', '-', '+']).map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self { major: next()?, minor: next()?, patch: next()? })
    }

    /// Whether it is of this minor release or a later one.
    pub const fn is_at_least(self, major: u32, minor: u32) -> bool {
        self.major > major || (self.major == major && self.minor >= minor)
    }

    /// Whether its `/health` only reads. Until 3.4 each call of it is an entry of the raft log (its QGET goes through `Do`: 3.4's
    /// etcdserver/api/etcdhttp/metrics.go), and etcd 3.6 doesn't come up over a log that holds such entries (measured on data of
    /// 3.3.25 and 3.4.23 with 3.6.16).
    pub const fn health_only_reads(self) -> bool {
        self.is_at_least(3, 5)
    }

    /// Whether it has after a kill all that it acknowledged: 3.5.0 to 3.5.2 may not (etcd#13766).
    pub const fn survives_a_kill(self) -> bool {
        !matches!((self.major, self.minor, self.patch), (3, 5, 0..=2))
    }

    /// Its minor release.
    pub const fn minor(self) -> Minor {
        Minor(self.major, self.minor)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The etcd that would be started, as far as it is known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Installed {
    /// It was not queried (`plan` without an etcd): nothing is judged.
    #[default]
    NotAsked,
    Known(Release),
    /// It reported no release that can be parsed.
    Unknown(String),
}

/// What the data here shows about releases.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DataRelease {
    /// The cluster's version, from the log after the snapshot, otherwise from the backend; `None`: it never had one.
    pub cluster_version: Option<Minor>,
    /// The version of the backend's format. 3.5 and earlier store none.
    pub storage_version: Option<Minor>,
    /// The members that the backend lists as learners. A promotion by 3.5.20 or earlier is missing there (etcd#19557).
    pub learners: BTreeSet<MemberId>,
    /// The newest raft snapshot holds keys of the v2 API. 3.6 does not start with it.
    pub v2_keys: bool,
    /// The old records in the log after the newest raft snapshot.
    pub records: OldRecords,
    /// The index of that snapshot, 0 without one, and of the log's last entry.
    pub snapshot: u64,
    pub end: u64,
}

/// Records in the v2 API's format in a raft log, which etcd applies at every start until a raft snapshot follows them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum OldRecords {
    #[default]
    None,
    /// A member's attributes or the cluster's version, as every start of 3.5 and earlier writes them. 3.7 does not start with
    /// them.
    OfMembers,
    /// Anything else: a v2 key, or the request that each `/health` of 3.3 and 3.4 was. 3.6 does not start with it either.
    Foreign,
}

impl DataRelease {
    /// The newest minor release whose format the data is known to have.
    pub fn minor(&self) -> Option<Minor> {
        self.cluster_version.max(self.storage_version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(Release::parse("3.5.1"), Some(Release { major: 3, minor: 5, patch: 1 }));
        assert_eq!(Release::parse("3.6.0-rc.1").map(|r| r.patch), Some(0));
        assert_eq!(Release::parse("3.3.25+dfsg").map(|r| r.to_string()).as_deref(), Some("3.3.25"));
        assert_eq!(Release::parse("git"), None);
    }

    /// A fleet that lost its power in its first seconds would otherwise be held for its data's age.
    #[test]
    fn a_new_clusters_first_version_is_none_yet() {
        assert_eq!(Minor::of_cluster("3.0.0"), None);
        assert_eq!(Minor::of_cluster("not_decided"), None);
        assert_eq!(Minor::of_cluster("3.7.0"), Some(Minor(3, 7)));
        assert_eq!(Minor::of_cluster("3.3.0"), Some(Minor(3, 3)));
    }

    #[test]
    fn only_old_releases_write_when_asked_for_their_health() {
        let reads = |text| Release::parse(text).unwrap().health_only_reads();
        assert!(["3.5.0", "3.5.33", "3.6.16", "3.7.3", "4.0.0"].into_iter().all(reads));
        assert!(!["2.3.8", "3.3.25", "3.4.23", "3.4.45"].into_iter().any(reads));
    }
}
