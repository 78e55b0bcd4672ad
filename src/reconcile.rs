//! `MUSTER_RECONCILE`: the leader's supervisor looks for dead members while etcd runs, so that a cluster doesn't stay degraded
//! until somebody joins. Off, the supervisor at rest asks neither EC2 nor its peers.

use std::convert::Infallible;
use std::time::Duration;

use crate::act::Actor;
use crate::clock;
use crate::cluster::cleaning;
use crate::cluster::types::{Known, ListedMember};
use crate::cluster::view::DataDir;
use crate::etcd::client::Client;
use crate::observe::{Observer, Own};
use crate::rollcall::server::Desk;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks after the cluster's dead during one life of etcd.
#[derive(Debug)]
pub struct Reconciler<'a> {
    pub etcd: &'a Client,
    pub observer: &'a mut Observer,
    pub actor: &'a Actor,
    pub desk: &'a Desk,
    pub own_client_url: String,
    pub listed: ListedMember,
}

impl Reconciler<'_> {
    /// Looks so often, for ever; `None`: never. Cancel-safe: one removal at a time, and each is looked up afterwards.
    pub async fn every(&mut self, interval: Option<Duration>) -> Infallible {
        let Some(interval) = interval else { return std::future::pending().await };
        let mut said = String::new();
        self.observer.watch_anew();
        loop {
            clock::pause(clock::jittered(interval)).await;
            let Some(line) = self.look().await else { continue };
            if said != line {
                log::info!("{line}");
                said = line;
            }
        }
    }

    /// One look; what there is to say about it.
    async fn look(&mut self) -> Option<String> {
        let status = self.etcd.status(&self.own_client_url, ANSWER_TIMEOUT).await.ok();
        // Only the leader's supervisor looks, and only what it has watched without a gap counts.
        let Some(status) = status.filter(|s| s.leader == Some(s.member)) else {
            self.observer.watch_anew();
            return None;
        };
        let data = DataDir::Whole { ids: Known::Unknown("etcd has it open".to_owned()) };
        let (listed, ledger) = (self.listed.clone(), self.desk.ledger());
        let own = Own {
            listed,
            data,
            yielded: false,
            condemned: None,
            ledger,
            ending: Known::Known(None),
            since_own_removal: None,
        };
        let view = self.observer.look(&own, |_| {}).await;
        if let Known::Unknown(cause) = &view.roster {
            return Some(format!("reconcile: {cause}; nobody is removed"));
        }
        match cleaning::reconcile(self.observer.policy(), &view, status.cluster) {
            Ok((id, why)) => {
                let cluster = view.living_clusters().remove(&status.cluster)?;
                match self.actor.remove(cluster, id).await {
                    Ok(()) => Some(format!("reconcile: member {id} is removed: {why}")),
                    Err(error) => Some(format!("reconcile: member {id} could not be removed: {error}")),
                }
            }
            Err(kept) if kept.is_empty() => None,
            Err(kept) => {
                let kept: Vec<String> = kept.iter().map(|(id, why)| format!("member {id} {why}")).collect();
                Some(format!("reconcile: {}", kept.join("; ")))
            }
        }
    }
}
