//! Carries out an operator's order to found the cluster anew from this member's data, because its quorum is lost for good. The command `recover` has looked at
//! the proofs; here is seen again that the data is the one that was meant, and that there is no leader.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::restoration::percent;
use super::{Daemon, executor};
use crate::core::bootstrap::token;
use crate::core::label::Label;
use crate::core::paxos::Accepted;
use crate::core::types::{InitialList, InstanceId, Known, Seed};
use crate::core::view::DataDir;
use crate::discovery::addresses;
use crate::etcd::client::Client;
use crate::snapshot::restore::raises;
use crate::snapshot::salvage::{Salvage, Stage, opened, place_in, salvage};
use crate::snapshot::spool;
use crate::state::store::RecoveryOrder;
use crate::util::clock;

/// How often is looked for an order while etcd runs.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client port says nothing before there counts as no leader: longer than an election takes.
const MUTE: Duration = Duration::from_secs(10);

/// Resolves when an order lies here and etcd has no leader. With one there is nothing to recover: then the order is put aside. Cancel-safe.
pub(super) async fn until_ordered(data: PathBuf, etcd: &Client, own_client_url: &str) {
    let mut mute_since = None;
    loop {
        clock::pause(LOOK_EVERY).await;
        if !RecoveryOrder::lies_in(&data) {
            mute_since = None;
            continue;
        }
        match etcd.status(own_client_url, ANSWER_TIMEOUT).await {
            Ok(status) if status.leader.is_some() => {
                log::error!("recovery: the cluster has a leader, so the order is put aside and nothing is changed");
                put_aside(&data, "refused");
            }
            Ok(_) => return,
            Err(error) if !error.is_silence() => {
                log::error!(
                    "recovery: whether the cluster has a leader is unknown, so the order is put aside and nothing is changed: {error}"
                );
                put_aside(&data, "refused");
            }
            // An etcd that was started without a quorum never serves its client port. One with a leader does within this time.
            Err(error) => {
                log::debug!("recovery: {error}");
                if clock::now() - *mute_since.get_or_insert_with(clock::now) >= MUTE {
                    return;
                }
            }
        }
    }
}

fn put_aside(data: &Path, how: &str) {
    if let Err(error) = RecoveryOrder::put_aside(data, how) {
        log::error!("recovery: {error}");
    }
}

impl Daemon {
    /// Carries out an order that lies here. Whatever fails, the data is as it was, and etcd starts with it again.
    pub(super) async fn recover_if_ordered(&mut self) {
        let data = self.config.etcd.data.clone();
        if !RecoveryOrder::lies_in(&data) || self.acceptor_state.ledger().recovery.is_some() {
            return;
        }
        let done = match RecoveryOrder::read(&data) {
            Ok(order) => self.recover(&order).await,
            Err(error) => Err(error.to_string()),
        };
        match done {
            Ok(list) => {
                log::info!("recovery: the copy is stored; a new cluster begins with it (token {})", list.token);
                put_aside(&data, "done");
            }
            Err(cause) => {
                let line = format!("recovery: {cause}; nothing is changed, and etcd goes on with its data");
                self.complain(Label::hold("recovering"), line);
                put_aside(&data, "failed");
            }
        }
    }

    async fn recover(&mut self, order: &RecoveryOrder) -> Result<InitialList, String> {
        let paths = self.settings().paths;
        match paths.inspect().map_err(|error| error.to_string())? {
            DataDir::Whole { ids: Known::Known(ids) } if ids == (order.cluster, order.member) => {}
            _ => {
                return Err(format!("the data here is not of member {} of cluster {}", order.member, order.cluster));
            }
        }
        let me = InstanceId(self.identity.instance.clone());
        if self.acceptor_state.ledger().instance.as_ref() != Some(&me) {
            return Err("no record shows that the data here is this instance's".to_owned());
        }
        // What is copied must be restored afterwards, with the data moved aside.
        self.release().map_or(Ok(()), |release| raises(release, order.bump)).map_err(|error| error.to_string())?;
        let (recorder, spool, into) =
            (self.recorder.clone(), spool::dir_in(&paths.data), place_in(&self.config.etcd.data));
        let show = |stage: Stage| {
            recorder.heartbeat();
            recorder.set_step(Label::hold("recovering"), &in_words(stage));
        };
        log::info!("recovery: copying the data of member {} of cluster {}", order.member, order.cluster);
        let work = Salvage {
            paths: &paths,
            cluster: order.cluster,
            member: order.member,
            instance: &self.identity.instance,
            etcd: &self.program,
            release: self.release().map_or_else(|| "unknown".to_owned(), |release| release.to_string()),
            spool: &spool,
            into: &into,
            reaper: &self.reaper,
        };
        let manifest = salvage(&work, &show).await.map_err(|error| error.to_string())?;
        let seed = Seed { bump: order.bump, ..Seed::of(&opened(&into).to_string(), &manifest) };
        let ballot = self.acceptor_state.ledger().own_ballot(&me);
        let listed = addresses::own_listing(&self.config.etcd, &self.identity);
        let list = InitialList {
            members: vec![listed],
            token: token(&self.config.bootstrap.token_prefix, &ballot),
            seed: Some(Box::new(seed)),
        };
        let accepted = Accepted { ballot: ballot.clone(), list: list.clone() };
        let recorded = self.acceptor_state.amend(|ledger| {
            ledger.promised = Some(ballot);
            ledger.recovery = Some(accepted);
        });
        recorded.map_err(|error| executor::Error::from(error).to_string())?;
        Ok(list)
    }
}

fn in_words(stage: Stage) -> String {
    match stage {
        Stage::Copying(done, all) => format!("recovering: copied {} % of {all} bytes", percent(done, all)),
        Stage::Starting => "recovering: an etcd of its own reads the copy".to_owned(),
        Stage::Storing(done, all) => format!("recovering: stored {} % of {all} bytes", percent(done, all)),
    }
}
