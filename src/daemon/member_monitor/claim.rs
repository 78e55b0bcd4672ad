//! `MUSTER_CLAIM`: once there is a quorum, the claim records that the cluster exists.

use std::time::Duration;

use super::{MemberMonitor, Progress, REST};
use crate::core::claim::{Establish, establish};
use crate::core::types::ClusterId;
use crate::core::view::Claim;
use crate::daemon::claim_store::Wrote;
use crate::etcd::ids;
use crate::util::clock;

/// A failed update of the claim is retried after `REST`, doubling up to this.
const LONGEST_CLAIM_PAUSE: Duration = Duration::from_secs(5 * 60);

impl MemberMonitor<'_> {
    /// Once there is a quorum, the claim records it: fresh nodes then only join.
    pub(super) async fn establish_claim(&self, progress: &mut Progress) {
        let Some(cluster) = progress.cluster.filter(|_| progress.ready && !progress.claim_is_done) else { return };
        if progress.claim_due.is_some_and(|due| clock::now() < due) {
            return;
        }
        let found = self.claim.read().await;
        if let Some(word) = found.word(Some(cluster)) {
            self.recorder.set_claim(word);
        }
        let trouble = match establish(&found, cluster, ids::cluster_id) {
            Establish::Done => {
                progress.claim_is_done = true;
                return;
            }
            Establish::Write { replaces } => match self.write_established(cluster, replaces.as_deref()).await {
                Ok(true) => {
                    progress.claim_is_done = true;
                    return;
                }
                // Another member was first: the next observation shows it.
                Ok(false) => None,
                Err(cause) => Some(format!("the claim could not be written: {cause}")),
            },
            Establish::Conflict(theirs) => {
                progress.claim_is_done = true;
                Some(format!(
                    "the claim is for {theirs}, but cluster {cluster} runs here; etcd keeps running; give each \
                     cluster its own MUSTER_CLAIM, or delete the object if it is out of date"
                ))
            }
            Establish::Later(cause) => Some(format!("the claim can't be read: {cause}")),
        };
        progress.claim_pause = (progress.claim_pause * 2).clamp(REST, LONGEST_CLAIM_PAUSE);
        progress.claim_due = Some(clock::now() + progress.claim_pause);
        if let Some(trouble) = trouble
            && progress.last_warning.is_news(&trouble)
        {
            log::warn!("{trouble}");
        }
    }

    /// False: another member was first.
    async fn write_established(&self, cluster: ClusterId, replaces: Option<&str>) -> Result<bool, String> {
        self.claim.prove().await?;
        match self.claim.write(&Claim::Established { cluster }, replaces).await {
            Ok(Wrote::Done) => {
                self.recorder.set_claim("established");
                log::info!("the claim now records that cluster {cluster} was bootstrapped");
                Ok(true)
            }
            Ok(Wrote::Refused { fault: None, .. }) => Ok(false),
            Ok(Wrote::Refused { fault: Some(fault), .. }) => Err(fault),
            Err(error) => Err(error.to_string()),
        }
    }
}
