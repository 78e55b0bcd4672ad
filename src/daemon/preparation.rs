//! Prepares a member's data for the next minor release of etcd, while the present one runs.
//!
//! After its newest raft snapshot the log must have no record that the next release can't apply. A snapshot written at our own
//! first start is not enough while another member runs an older release: its `/health` (3.4) and its starts (3.5) keep writing
//! such records. So the log is checked once more when the cluster's version shows that all members have this release, and if it
//! still has such records, etcd is restarted, once: one member after another, by rank, and only while all others are healthy.

#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::task::JoinSet;

use crate::core::release::DataRelease;
use crate::core::release::{Minor, Release};
use crate::core::types::{Known, Member};
use crate::core::upgrade::snapshot_count;
use crate::etcd::client::{Client, Health};
use crate::etcd::data_dir::Paths;
use crate::util::clock;
use crate::util::file;
use crate::util::log_once::LogOnce;

/// With fewer entries between raft snapshots, snapshots cost writes (measured on 3.5.33 and 3.6.16, eight writers: nothing at
/// 200, a fifth at 40, half at 7), so an etcd that was started for one snapshot is restarted after it.
const CHEAP_SNAPSHOT_COUNT: u64 = 200;
/// The interval of the checks for that snapshot, and for the cluster's version.
const SNAPSHOT_POLL: Duration = Duration::from_millis(100);
const VERSION_POLL: Duration = Duration::from_secs(2);
/// Each member's turn, by the rank of its id. A restart takes a second or two.
const TURN: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A change of members waits for the leader's commit.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// The first release of 3.5 whose member update leaves a learner a learner.
const UPDATES_ONLY: Release = Release { major: 3, minor: 5, patch: 31 };

/// The raft snapshot for which this run was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// etcd's `ETCD_SNAPSHOT_COUNT` for this run.
    pub count: u64,
    /// The index that it must reach.
    pub end: u64,
}

impl Wanted {
    /// The snapshot that a start of that release on that data must write.
    pub fn of(release: Option<Release>, data: &Known<DataRelease>) -> Option<Self> {
        let data = data.known()?;
        snapshot_count(release?, data).map(|count| Self { count, end: data.end })
    }
}

/// Prepares the data during one run of etcd.
#[derive(Debug)]
pub struct Preparation<'a> {
    pub etcd: &'a Client,
    pub paths: &'a Paths,
    pub release: Option<Release>,
    pub wanted: Option<Wanted>,
    pub own_client_url: String,
    pub own_peer_url: String,
}

impl Preparation<'_> {
    /// Resolves when etcd is to be restarted; if nothing is missing, never. Cancel-safe.
    pub async fn until_a_restart_is_due(&self) {
        if let Some(Wanted { end, .. }) = self.wanted.filter(|wanted| wanted.count < CHEAP_SNAPSHOT_COUNT) {
            self.until_written(end).await;
            log::info!("etcd has written the raft snapshot; restarting it with its own ETCD_SNAPSHOT_COUNT");
            return;
        }
        let Some(release) = self.release else { return std::future::pending().await };
        self.until_all_have(release.minor()).await;
        let mut last_failure = LogOnce::default();
        loop {
            let Some(turn) = self.turn().await else {
                // Whose turn it is can't be told: not ours.
                clock::pause(TURN).await;
                continue;
            };
            clock::pause(turn).await;
            let recorded = self.record_voters(&mut last_failure).await;
            match self.lacks_a_snapshot(release).await {
                Some(false) if recorded => return std::future::pending().await,
                Some(true) if self.all_are_healthy().await => break,
                Some(_) | None => {}
            }
        }
        log::info!(
            "all members run etcd {}, but the log here still has records that the next release can't apply; \
             restarting etcd for a raft snapshot while the others are healthy",
            release.minor()
        );
    }

    /// (The log's last entries may never have been committed; others then get their indexes.)
    async fn until_written(&self, end: u64) {
        while self.paths.newest_snapshot().is_none_or(|index| index < end) || !self.begins_behind(end).await {
            clock::pause(SNAPSHOT_POLL).await;
        }
    }

    /// Whether etcd would begin with a snapshot of that index or a later one. It writes the file first, then the log's record of
    /// it (`storage.SaveSnap`), and without the record the file is never used: an etcd stopped in between would want it again.
    async fn begins_behind(&self, end: u64) -> bool {
        matches!(self.log_release().await, Some(data) if data.snapshot >= end)
    }

    async fn until_all_have(&self, minor: Minor) {
        loop {
            let version = self.etcd.peer_version(&self.own_peer_url, ANSWER_TIMEOUT).await;
            if version.is_ok_and(|version| Minor::of_cluster(&version.etcdcluster).is_some_and(|of| of >= minor)) {
                return;
            }
            clock::pause(VERSION_POLL).await;
        }
    }

    /// Makes the cluster store once more, under its unchanged URLs, each voter that the backend here lists as a learner: etcd
    /// up to 3.5.20 did not store a promotion there (etcd#19557), and 3.6 does not start with two of them. A learner is never
    /// updated, and no member is before all have a release in which an update promotes none (3.5.31, etcd#21694).
    ///
    /// Whether nothing of it is left to do. While other members are still being moved to such a release, something is.
    async fn record_voters(&self, last_failure: &mut LogOnce) -> bool {
        let (paths, Some(members)) = (self.paths.clone(), self.members().await) else { return false };
        let Ok(reading) = file::begin(&self.paths.data, move || paths.learners()) else { return false };
        let Ok(Ok(on_paper)) = reading.await else { return false };
        let stale: Vec<&Member> = members.iter().filter(|m| !m.is_learner && on_paper.contains(&m.id)).collect();
        if stale.is_empty() {
            return true;
        }
        if !self.all_can_update(&members).await {
            return false;
        }
        let mut recorded = true;
        for member in stale {
            let update = self.etcd.member_update(&self.own_client_url, member.id, &member.peer_urls, CHANGE_TIMEOUT);
            match update.await {
                Ok(()) => log::info!(
                    "member {} is a voter, but the data here still lists it as a learner, which etcd 3.6 would \
                     count; storing it again",
                    member.id
                ),
                Err(error) => {
                    recorded = false;
                    let line = format!("member {} can't be stored as a voter: {error}; retrying", member.id);
                    if last_failure.is_news_but_for_numbers(&line) {
                        log::warn!("{line}");
                    }
                }
            }
        }
        recorded
    }

    async fn all_can_update(&self, members: &[Member]) -> bool {
        for member in members {
            let Some(url) = member.peer_urls.first() else { return false };
            let version = self.etcd.peer_version(url, ANSWER_TIMEOUT).await.ok();
            if version
                .and_then(|version| Release::parse(&version.etcdserver))
                .is_none_or(|release| release < UPDATES_ONLY)
            {
                return false;
            }
        }
        true
    }

    /// `None`: it can't be read now.
    async fn lacks_a_snapshot(&self, release: Release) -> Option<bool> {
        Some(snapshot_count(release, &self.log_release().await?).is_some())
    }

    /// What the log shows now; `None`: it can't be read now.
    async fn log_release(&self) -> Option<DataRelease> {
        let paths = self.paths.clone();
        let reading = file::begin(&self.paths.data, move || paths.log_release()).ok()?;
        reading.await.ok()?.ok()
    }

    /// `None`: no quorum tells them now.
    async fn members(&self) -> Option<Vec<Member>> {
        self.etcd.member_list(&self.own_client_url, ANSWER_TIMEOUT).await.ok().map(|list| list.members)
    }

    /// How long until it is our turn: a round is as long as all turns, and ours comes as our id does. `None`: it can't be told.
    async fn turn(&self) -> Option<Duration> {
        let own = self.etcd.status(&self.own_client_url, ANSWER_TIMEOUT).await.ok()?.member;
        let earlier = self.members().await?.iter().filter(|member| member.id < own).count();
        Some(TURN * u32::try_from(1 + earlier).ok()?)
    }

    /// Every member, by its own word; with one that doesn't answer a restart may cost the quorum.
    async fn all_are_healthy(&self) -> bool {
        let Some(members) = self.members().await else { return false };
        let mut asked = JoinSet::new();
        for member in &members {
            let (etcd, url) = (self.etcd.clone(), member.client_urls.first().cloned());
            asked.spawn(async move {
                matches!(etcd.health(&url?, ANSWER_TIMEOUT).await, Ok(Health::Healthy)).then_some(())
            });
        }
        let healthy = asked.join_all().await.into_iter().flatten().count();
        healthy == members.len()
    }
}
