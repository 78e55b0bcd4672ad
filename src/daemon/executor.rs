//! One step has one effect. Every call to etcd is short: etcd has no timeout of its own for member changes, and the next
//! observation, never a blind retry, shows the result of a call that timed out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::claim_store::{ClaimStore, Wrote};
use crate::aws::s3;
use crate::config::{Config, Etcd};
use crate::core::paxos::{
    Accepted, AcceptorContext, Answer, Call, Charter, Joined, LeftBehind, Tally, WalVolume, tally_accepts,
    tally_promises,
};
use crate::core::step::ClaimProposal;
use crate::core::step::Proposal;
use crate::core::types::{InitialList, InstanceId, MemberId, Roster};
use crate::core::view::Claim;
use crate::core::view::{EtcdSeen, PeerState, Policy, View};
use crate::discovery::addresses;
use crate::etcd::client;
use crate::etcd::data_dir::{self, Paths};
use crate::peer::client::call;
use crate::peer::clients::PeerClients;
use crate::peer::server::AcceptorState;
use crate::state::store::{self, Moving};
use crate::util::clock;

/// For a change of members: three milliseconds are usual; after a leader's death one took 40 s (measured).
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to offer the chosen list to the listed nodes; then etcd starts, whichever nodes have it.
const OFFER_TIMEOUT: Duration = Duration::from_secs(1);
/// R4: how long to wait for the member ranked before us. Pacing only.
const PACE_TIMEOUT: Duration = Duration::from_millis(500);
const PACE_POLL: Duration = Duration::from_millis(5);

/// Why a step had no effect, or an unknown one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Etcd(#[from] client::Error),
    #[error(transparent)]
    Claim(#[from] s3::Error),
    #[error(transparent)]
    Ledger(#[from] store::Error),
    #[error(transparent)]
    DataDir(#[from] data_dir::Error),
}

/// Carries out steps.
#[derive(Debug)]
pub struct Executor {
    clients: PeerClients,
    claim: Arc<ClaimStore>,
    acceptor_state: AcceptorState,
    me: InstanceId,
    etcd: Etcd,
    policy: Policy,
    probe_timeout: Duration,
}

impl Executor {
    pub fn new(
        config: &Config,
        clients: PeerClients,
        acceptor_state: AcceptorState,
        claim: Arc<ClaimStore>,
        me: InstanceId,
    ) -> Self {
        let (etcd, policy, probe_timeout) = (config.etcd.clone(), config.policy(), config.observation.probe_timeout);
        Self { clients, claim, acceptor_state, me, etcd, policy, probe_timeout }
    }

    /// Phase 1 of a bootstrap round.
    ///
    /// # Errors
    /// Our own ledger can't be read or written.
    pub async fn prepare(&self, proposal: &Proposal, view: &View, context: &AcceptorContext) -> Result<Tally, Error> {
        let Proposal { ballot, charter, .. } = proposal;
        let call = Call::Prepare { charter: charter.clone(), ballot: ballot.clone() };
        let answers = self.ask(charter, view, &call).await?;
        Ok(tally_promises(charter, context, &answers))
    }

    /// Phase 2, and if it succeeds, the record that the list is chosen.
    ///
    /// # Errors
    /// Our own ledger can't be read or written.
    pub async fn accept(&self, proposal: &Proposal, list: &InitialList, view: &View) -> Result<Tally, Error> {
        let Proposal { ballot, charter, .. } = proposal;
        let call = Call::Accept { charter: charter.clone(), ballot: ballot.clone(), list: list.clone() };
        let answers = self.ask(charter, view, &call).await?;
        let tally = tally_accepts(charter, list, &answers);
        if let Tally::Chosen(list) = &tally {
            self.acceptor_state.learn(list)?;
        }
        Ok(tally)
    }

    /// Asks ourselves and every acceptor that was seen fresh.
    async fn ask(
        &self,
        charter: &Charter,
        view: &View,
        question: &Call,
    ) -> Result<BTreeMap<InstanceId, Answer>, Error> {
        let mut answers = BTreeMap::new();
        let mut calls = JoinSet::new();
        let mut own = None;
        for (id, _) in &charter.first {
            if *id == self.me {
                // In parallel with the others: each answer waits for its own disk.
                let (acceptor_state, question) = (self.acceptor_state.clone(), question.clone());
                own = Some(tokio::task::spawn_blocking(move || acceptor_state.answer(&question)));
                continue;
            }
            let is_fresh = view.peers.get(id).is_some_and(|p| matches!(p.sighting, PeerState::Fresh(_)));
            if let Some(url) = self.peer_url(view.roster.known(), id).filter(|_| is_fresh) {
                let (http, me, id) = (self.clients.rollcall.clone(), self.me.clone(), id.clone());
                let (question, timeout) = (question.clone(), self.probe_timeout);
                calls.spawn(async move { (id, call(&http, &url, &me, &question, timeout).await) });
            }
        }
        while let Some(called) = calls.join_next().await {
            match called {
                Ok((id, Ok(answer))) => {
                    answers.insert(id, answer);
                }
                Ok((id, Err(error))) => log::debug!("{id}: {error}"),
                Err(error) => log::error!("a call failed: {error}"),
            }
        }
        if let Some(own) = own {
            match own.await {
                Ok(answer) => _ = answers.insert(self.me.clone(), answer?),
                Err(error) => log::error!("this node's own answer failed: {error}"),
            }
        }
        Ok(answers)
    }

    fn peer_url(&self, roster: Option<&Roster>, id: &InstanceId) -> Option<String> {
        let address = roster?.find(id)?.address?;
        Some(addresses::peer_url(&self.etcd, &address.to_string()))
    }

    /// Offers a chosen list to the listed nodes that can be reached (R4), waiting at most a second for each.
    pub async fn offer(&self, list: &InitialList, view: &View) {
        let charter = view.roster.known().map(|roster| self.policy.charter(roster));
        let mut calls = JoinSet::new();
        for member in list.members.iter().filter(|m| m.instance != self.me) {
            let is_fresh = view.peers.get(&member.instance).is_some_and(|p| matches!(p.sighting, PeerState::Fresh(_)));
            if let Some(url) = self.peer_url(view.roster.known(), &member.instance).filter(|_| is_fresh) {
                let (http, me) = (self.clients.rollcall.clone(), self.me.clone());
                let chosen = Call::Chosen { charter: charter.clone(), list: list.clone() };
                calls.spawn(async move { call(&http, &url, &me, &chosen, OFFER_TIMEOUT).await });
            }
        }
        while calls.join_next().await.is_some() {}
    }

    /// Waits until the member ranked before us serves its peer port: ports that are bound but not served block new etcds.
    pub async fn pace(&self, list: &InitialList, view: &View) {
        let before = list.members.iter().take_while(|m| m.instance != self.me).last();
        let url = before.and_then(|m| self.peer_url(view.roster.known(), &m.instance));
        let Some(url) = url else { return };
        let serves = async {
            while self.clients.etcd.peer_version(&url, PACE_TIMEOUT).await.is_err() {
                clock::pause(PACE_POLL).await;
            }
        };
        let _either_way = tokio::time::timeout(PACE_TIMEOUT, serves).await;
    }

    /// Bootstraps with ourselves as the only member.
    ///
    /// # Errors
    /// Our own ledger can't be read or written.
    pub fn found_alone(&self, accepted: &Accepted) -> Result<(), Error> {
        Ok(self.acceptor_state.amend(|ledger| ledger.found_alone(accepted))?)
    }

    /// Claims a list as the first members.
    ///
    /// # Errors
    /// Our own ledger can't be written, or S3 fails; the next observation shows whether the claim was written.
    pub async fn claim(&self, claiming: &ClaimProposal) -> Result<Wrote, Error> {
        let ClaimProposal { ballot, list, replaces } = claiming;
        self.acceptor_state.amend(|ledger| ledger.promised = Some(ballot.clone()))?;
        let claim = Claim::Founding { list: list.clone() };
        Ok(self.claim.write(&claim, replaces.as_deref()).await?)
    }

    /// Records that we never start under that list.
    ///
    /// # Errors
    /// Our own ledger can't be written.
    pub fn renounce(&self, list: &InitialList) -> Result<(), Error> {
        Ok(self.acceptor_state.amend(|ledger| ledger.renounce(list))?)
    }

    /// Records that the data here is ours from now on: its owner is gone, or the operator says so.
    ///
    /// # Errors
    /// Our own ledger can't be written.
    pub fn own_data(&self) -> Result<(), Error> {
        Ok(self.acceptor_state.amend(|ledger| ledger.own_data(&self.me))?)
    }

    /// Removes a member.
    ///
    /// # Errors
    /// etcd refuses or does not answer; the next observation shows the truth.
    pub async fn remove(&self, cluster: &EtcdSeen, id: MemberId) -> Result<(), Error> {
        Ok(self.clients.etcd.member_remove(&cluster.client_url, id, CHANGE_TIMEOUT).await?)
    }

    /// Adds ourselves as a learner, and records our member before etcd could ever run as it.
    ///
    /// # Errors
    /// etcd refuses or does not answer, or our ledger can't be written.
    pub async fn add_self(&self, cluster: &EtcdSeen, peer_urls: &[String]) -> Result<MemberId, Error> {
        let member = self.clients.etcd.member_add_learner(&cluster.client_url, peer_urls, CHANGE_TIMEOUT).await?;
        let joined = Joined { cluster: cluster.cluster, member, spawned: false };
        self.acceptor_state.amend(|ledger| ledger.joined = Some(joined))?;
        Ok(member)
    }

    /// Publishes our new peer URLs.
    ///
    /// # Errors
    /// etcd refuses or does not answer.
    pub async fn update_self(&self, cluster: &EtcdSeen, id: MemberId, peer_urls: &[String]) -> Result<(), Error> {
        Ok(self.clients.etcd.member_update(&cluster.client_url, id, peer_urls, CHANGE_TIMEOUT).await?)
    }

    /// Moves the data aside. [`Executor::finish_quarantine`] completes it after a crash.
    ///
    /// # Errors
    /// The disk fails.
    pub fn quarantine(&self, paths: &Paths, why: LeftBehind) -> Result<String, Error> {
        quarantine(&self.acceptor_state, paths, why)
    }

    /// Completes a quarantine that a crash interrupted.
    ///
    /// # Errors
    /// The disk fails.
    pub fn finish_quarantine(&self, paths: &Paths) -> Result<(), Error> {
        match self.acceptor_state.with_store(store::Store::unfinished_quarantine)? {
            Some(moving) => move_aside(&self.acceptor_state, paths, &moving),
            None => Ok(()),
        }
    }

    /// A first start that ended before a WAL was created (a bad setting, a port in use, a crash): what it left, at most a
    /// backend, is moved aside, and it counts as never started.
    ///
    /// # Errors
    /// The disk fails.
    pub fn discard_incomplete_start(&self, paths: &Paths) -> Result<(), Error> {
        let ledger = self.acceptor_state.ledger();
        let never_began = || {
            let (holds_wal, is_marked) = (paths.holds_wal(), paths.is_marked(ledger.nonce));
            ledger.never_began(WalVolume { holds_wal, is_marked })
        };
        // The directories are read only where it matters.
        let Some(unstarted) = ledger.starting.and_then(|_| never_began()) else { return Ok(()) };
        log::warn!("etcd's first start ended before it created a WAL, so it counts as never started");
        self.quarantine(paths, LeftBehind::NeverBegan(unstarted)).map(|_| ())
    }
}

/// Moves the data aside, and returns the name's end. [`Executor::finish_quarantine`] completes it after a crash.
///
/// # Errors
/// The disk fails.
pub fn quarantine(state: &AcceptorState, paths: &Paths, why: LeftBehind) -> Result<String, Error> {
    let stamp = clock::file_stamp();
    let moving = Moving { stamp: stamp.clone(), why };
    state.with_store(|store| store.begin_quarantine(&moving))?;
    move_aside(state, paths, &moving)?;
    Ok(stamp)
}

fn move_aside(state: &AcceptorState, paths: &Paths, moving: &Moving) -> Result<(), Error> {
    paths.quarantine(&moving.stamp)?;
    state.amend(|ledger| ledger.left_behind(moving.why))?;
    Ok(state.with_store(store::Store::end_quarantine)?)
}
