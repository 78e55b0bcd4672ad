//! What a first member of a restored cluster does before its etcd starts: has the seed fetched and restored, and shows how far that is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::snapshot_places;
use crate::aws::s3::S3;
use crate::aws::ssm::Ssm;
use crate::config::{self, Config};
use crate::core::release::Release;
use crate::core::types::{InitialList, ListedMember, Seed};
use crate::etcd::data_dir::Paths;
use crate::process::reaper::Reaper;
use crate::snapshot::place::Place;
use crate::snapshot::restore::{Restore, Stage, Staged, stage};
use crate::snapshot::{salvage, spool};
use crate::util::backoff::Backoff;

/// A restore that failed is tried again after this; the pause doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Keeps what is ready until etcd is to start.
#[derive(Debug)]
pub(super) struct Restoration {
    settings: config::Snapshots,
    /// What this node salvaged of its own data.
    salvaged: PathBuf,
    s3: S3,
    ssm: Ssm,
    ready: Option<Staged>,
    /// For which list it failed last, and the pauses since.
    failed: Option<(String, Backoff)>,
}

/// What is restored, and where.
pub(super) struct Site<'a> {
    pub list: &'a InitialList,
    pub seed: &'a Seed,
    /// How the list names this node.
    pub entry: &'a ListedMember,
    pub paths: &'a Paths,
    pub etcd: &'a Path,
    pub installed: Option<Release>,
    pub reaper: &'a Reaper,
}

impl Restoration {
    pub(super) fn new(config: &Config, s3: S3, ssm: Ssm) -> Self {
        let salvaged = salvage::place_in(&config.etcd.data);
        Self { settings: config.snapshots.clone(), salvaged, s3, ssm, ready: None, failed: None }
    }

    /// What is ready for the list with that token.
    pub(super) fn take(&mut self, token: &str) -> Option<Staged> {
        self.ready.take().filter(|staged| staged.token == token)
    }

    /// Whether it failed for the list with that token, and was said so.
    pub(super) fn has_failed(&self, token: &str) -> bool {
        self.failed.as_ref().is_some_and(|(of, _)| of == token)
    }

    /// Makes it ready; `show` is told how far it is.
    ///
    /// # Errors
    /// It is not; as one line with the way out, and after which pause it may be tried again.
    pub(super) async fn prepare(
        &mut self,
        site: &Site<'_>,
        show: &(dyn Fn(&str) + Sync),
    ) -> Result<(), (String, Duration)> {
        let token = &site.list.token;
        match self.try_once(site, show).await {
            Ok(()) => {
                self.failed = None;
                Ok(())
            }
            Err(cause) => {
                let before = self.failed.take().filter(|(of, _)| of == token);
                let mut pauses = before.map_or_else(|| Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), |(_, pauses)| pauses);
                let pause = pauses.pause();
                self.failed = Some((token.clone(), pauses));
                Err((cause, pause))
            }
        }
    }

    async fn try_once(&mut self, site: &Site<'_>, show: &(dyn Fn(&str) + Sync)) -> Result<(), String> {
        // Another list's: it is of no use any more, and its room is needed.
        self.ready = None;
        let place = self.place(&site.seed.place).await?;
        let key = snapshot_places::key(&self.settings, &self.ssm).await?;
        let spool = spool::dir_in(&site.paths.data);
        let order = Restore {
            place: &place,
            seed: site.seed,
            key: key.as_ref(),
            list: site.list,
            entry: site.entry,
            paths: site.paths,
            spool: &spool,
            etcd: site.etcd,
            installed: site.installed,
            reaper: site.reaper,
        };
        let what = format!("{}/{}", site.seed.place, site.seed.snapshot);
        if !self.has_failed(&site.list.token) {
            log::info!("restoring {what}, {} bytes", site.seed.size);
        }
        let staged = stage(&order, &|now| show(&in_words(now))).await.map_err(|error| error.to_string())?;
        let alarms = staged.manifest.alarms.join(", ");
        match alarms.is_empty() {
            true => log::info!("restored {what}; etcd starts with it"),
            false => log::warn!(
                "restored {what}; it holds the alarms {alarms}, which make /health false: once the cluster runs and their cause is gone, clear them (etcdctl \
                 alarm disarm)"
            ),
        }
        self.ready = Some(staged);
        Ok(())
    }

    /// The place of that name, if it is one of ours: whose keys and rights these are is for the operator to say.
    async fn place(&self, name: &str) -> Result<Arc<Place>, String> {
        let salvaged = salvage::opened(&self.salvaged);
        if salvaged.to_string() == name {
            return Ok(salvaged);
        }
        let sources = self.settings.sources();
        let location = sources.into_iter().find(|location| location.to_string() == name);
        let location = location.ok_or_else(|| {
            format!("{name} is not in MUSTER_SNAPSHOTS or MUSTER_SEED on this node; set it as on the others")
        })?;
        let places = snapshot_places::open(&self.settings, &[location], || self.s3.clone()).await?;
        places.into_iter().next().ok_or_else(|| format!("{name} can't be opened"))
    }
}

pub(super) fn percent(done: u64, all: u64) -> u64 {
    done.min(all) * 100 / all.max(1)
}

fn in_words(stage: Stage) -> String {
    match stage {
        Stage::Fetching(done, all) => format!("restoring: fetched {} % of {all} bytes", percent(done, all)),
        Stage::Decrypting(done, all) => format!("restoring: decrypted {} % of {all} bytes", percent(done, all)),
        Stage::Restoring(done, all) => {
            format!("restoring: etcd's tool has written {} % of {all} bytes", percent(done, all))
        }
        Stage::Syncing => "restoring: waiting for the disk".to_owned(),
    }
}
