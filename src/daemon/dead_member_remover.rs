//! `MUSTER_RECONCILE`: the leader's supervisor looks for dead members while etcd runs, so that a cluster doesn't stay degraded
//! until somebody joins. Off, the supervisor at rest asks neither EC2 nor its peers.
//!
//! Only silence that was watched counts ([`super::observer`]): while a member's is being watched, it looks every few seconds, whatever
//! the interval.

use std::convert::Infallible;
use std::time::Duration;

use super::executor::Executor;
use super::observer::{LocalState, Observer, WATCH_PAUSE};
use crate::core::removal;
use crate::core::types::{ClusterId, Known, ListedMember};
use crate::core::view::{Clean, DataDir, Liveness, Policy, View};
use crate::etcd::client::Client;
use crate::peer::server::AcceptorState;
use crate::util::clock;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks after the cluster's dead during one life of etcd.
#[derive(Debug)]
pub struct DeadMemberRemover<'a> {
    pub etcd: &'a Client,
    pub observer: &'a mut Observer,
    pub executor: &'a Executor,
    pub acceptor_state: &'a AcceptorState,
    pub own_client_url: String,
    pub listed: ListedMember,
}

impl DeadMemberRemover<'_> {
    /// Looks so often, for ever; `None`: never. Cancel-safe: one removal at a time, and each is looked up afterwards.
    pub async fn every(&mut self, interval: Option<Duration>) -> Infallible {
        let Some(interval) = interval else { return std::future::pending().await };
        let mut said = String::new();
        self.observer.watch_anew();
        let mut next = interval;
        loop {
            clock::pause(clock::jittered(next)).await;
            let Looked { line, watches } = self.look().await;
            next = if watches { interval.min(WATCH_PAUSE) } else { interval };
            let Some(line) = line else { continue };
            if said != line {
                log::info!("{line}");
                said = line;
            }
        }
    }

    /// One look.
    async fn look(&mut self) -> Looked {
        let status = self.etcd.status(&self.own_client_url, ANSWER_TIMEOUT).await.ok();
        // Only the leader's supervisor looks, and only what it has watched without a gap counts.
        let Some(status) = status.filter(|s| s.leader == Some(s.member)) else {
            self.observer.watch_anew();
            return Looked { line: None, watches: false };
        };
        let data = DataDir::Whole { ids: Known::Unknown("etcd has it open".to_owned()) };
        let (listed, ledger) = (self.listed.clone(), self.acceptor_state.ledger());
        let own = LocalState {
            listed,
            data,
            yielded: false,
            condemned: None,
            ledger,
            ending: Known::Known(None),
            since_own_removal: None,
            told: None,
        };
        let view = self.observer.look(&own, |_| {}).await;
        let watches = watches(self.observer.policy(), &view);
        let filter = &self.observer.policy().filter;
        let line = match &view.roster {
            Known::Unknown(cause) => Some(format!("reconcile: {cause}; nobody is removed")),
            Known::Known(roster) if roster.non_terminated().next().is_none() => Some(format!(
                "reconcile: no instance with {filter} is listed, not even this one; nobody is removed; check the region (DOCKER_AWSREG) \
                 and MUSTER_TAGS"
            )),
            Known::Known(_) => self.clean(&view, status.cluster).await,
        };
        Looked { line, watches }
    }

    /// Removes one that may go; what there is to say about it.
    async fn clean(&self, view: &View, ours: ClusterId) -> Option<String> {
        match removal::reconcile(self.observer.policy(), view, ours) {
            Ok((id, why)) => {
                let cluster = view.living_clusters().remove(&ours)?;
                match self.executor.remove(cluster, id).await {
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

/// What came of a look.
struct Looked {
    line: Option<String>,
    /// Somebody's silence is being watched.
    watches: bool,
}

/// Whether more silence would change what may be done.
fn watches(policy: &Policy, view: &View) -> bool {
    let ripens = |fate: &Liveness| match (policy.clean, fate) {
        (Clean::Off, _) | (_, Liveness::Answers | Liveness::Unknown) => false,
        (Clean::Gone, Liveness::Silent(silence)) => {
            silence.gone == Known::Known(true) && silence.silent_for < policy.clean_dwell
        }
        (Clean::Unhealthy, Liveness::Silent(_)) => true,
    };
    view.fates.values().any(ripens)
}
