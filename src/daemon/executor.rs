//! One step, one effect on the world. Every call to etcd is short: it has no timeout of its own for member changes, and what
//! became of a call that timed out shows in the next observation, never in a blind retry.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::claim_store::{ClaimStore, Wrote};
use crate::aws::s3;
use crate::config::Config;
use crate::core::paxos::{
    Accepted, AcceptorContext, Answer, Call, Charter, Joined, LeftBehind, Tally, tally_accepts, tally_promises,
};
use crate::core::step::ClaimProposal;
use crate::core::step::Proposal;
use crate::core::types::{InitialList, InstanceId, MemberId, Roster};
use crate::core::view::Claim;
use crate::core::view::{EtcdSeen, PeerState, View};
use crate::discovery::addresses;
use crate::etcd::client;
use crate::etcd::data_dir::{self, Paths};
use crate::peer::client::call;
use crate::peer::clients::PeerClients;
use crate::peer::server::AcceptorState;
use crate::state::store::{self, Moving};
use crate::util::clock;

/// For a change of members: three milliseconds are usual; after a leader's death one hung for 40 s (measured).
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// The chosen list is offered to the listed for so long, and then started whoever has it.
const OFFER_TIMEOUT: Duration = Duration::from_secs(1);
/// R4: how long the member ranked before us is waited for. Pacing only.
const PACE_TIMEOUT: Duration = Duration::from_millis(500);
const PACE_POLL: Duration = Duration::from_millis(5);

/// Why a step had no effect, or an unknown one.
#[derive(Debug)]
pub enum Error {
    Etcd(client::Error),
    Claim(s3::Error),
    Ledger(store::Error),
    DataDir(data_dir::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd(error) => write!(f, "{error}"),
            Self::Claim(error) => write!(f, "{error}"),
            Self::Ledger(error) => write!(f, "{error}"),
            Self::DataDir(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Ledger(error)
    }
}

/// Carries out steps.
#[derive(Debug)]
pub struct Executor {
    reach: PeerClients,
    claim: Arc<ClaimStore>,
    acceptor_state: AcceptorState,
    me: InstanceId,
    config: Config,
}

impl Executor {
    /// An executor that writes to that acceptor state.
    pub fn new(
        config: Config,
        reach: PeerClients,
        acceptor_state: AcceptorState,
        claim: Arc<ClaimStore>,
        me: InstanceId,
    ) -> Self {
        Self { reach, claim, acceptor_state, me, config }
    }

    /// Phase 1 of a founding round.
    ///
    /// # Errors
    /// Our own ledger's.
    pub async fn prepare(&self, proposal: &Proposal, view: &View, standing: &AcceptorContext) -> Result<Tally, Error> {
        let Proposal { ballot, charter, .. } = proposal;
        let call = Call::Prepare { charter: charter.clone(), ballot: ballot.clone() };
        let answers = self.ask(charter, view, &call).await?;
        Ok(tally_promises(charter, standing, &answers))
    }

    /// Phase 2, and where it succeeds the record that the list is chosen.
    ///
    /// # Errors
    /// Our own ledger's.
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
                // Beside the others', not before: each answer waits for its own disk.
                let (acceptor_state, question) = (self.acceptor_state.clone(), question.clone());
                own = Some(tokio::task::spawn_blocking(move || acceptor_state.answer(&question)));
                continue;
            }
            let is_fresh = view.peers.get(id).is_some_and(|p| matches!(p.sighting, PeerState::Fresh(_)));
            if let Some(url) = self.peer_url(view.roster.known(), id).filter(|_| is_fresh) {
                let (http, me, id) = (self.reach.rollcall.clone(), self.me.clone(), id.clone());
                let (question, within) = (question.clone(), self.config.probe_timeout);
                calls.spawn(async move { (id, call(&http, &url, &me, &question, within).await) });
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
                Err(error) => log::error!("our own answer failed: {error}"),
            }
        }
        Ok(answers)
    }

    fn peer_url(&self, roster: Option<&Roster>, id: &InstanceId) -> Option<String> {
        let address = roster?.find(id)?.address?;
        Some(addresses::peer_url(&self.config, &address.to_string()))
    }

    /// Offers a chosen list to the listed that can be reached (R4), waiting for nobody longer than a second.
    pub async fn offer(&self, list: &InitialList, view: &View) {
        let charter = view.roster.known().map(|roster| self.config.policy.charter(roster));
        let mut calls = JoinSet::new();
        for member in list.members.iter().filter(|m| m.instance != self.me) {
            let is_fresh = view.peers.get(&member.instance).is_some_and(|p| matches!(p.sighting, PeerState::Fresh(_)));
            if let Some(url) = self.peer_url(view.roster.known(), &member.instance).filter(|_| is_fresh) {
                let (http, me) = (self.reach.rollcall.clone(), self.me.clone());
                let chosen = Call::Chosen { charter: charter.clone(), list: list.clone() };
                calls.spawn(async move { call(&http, &url, &me, &chosen, OFFER_TIMEOUT).await });
            }
        }
        while calls.join_next().await.is_some() {}
    }

    /// Waits until the member ranked before us serves its peer port: bound but unserved ports hold new etcds up.
    pub async fn pace(&self, list: &InitialList, view: &View) {
        let before = list.members.iter().take_while(|m| m.instance != self.me).last();
        let url = before.and_then(|m| self.peer_url(view.roster.known(), &m.instance));
        let Some(url) = url else { return };
        let serves = async {
            while self.reach.etcd.peer_version(&url, PACE_TIMEOUT).await.is_err() {
                clock::pause(PACE_POLL).await;
            }
        };
        let _either_way = tokio::time::timeout(PACE_TIMEOUT, serves).await;
    }

    /// Founds with ourselves as the only member.
    ///
    /// # Errors
    /// Our own ledger's.
    pub fn found_alone(&self, accepted: &Accepted) -> Result<(), Error> {
        Ok(self.acceptor_state.amend(|ledger| ledger.found_alone(accepted))?)
    }

    /// Claims a list as the first.
    ///
    /// # Errors
    /// Our own ledger's, or S3's; what became of the claim shows in the next observation.
    pub async fn claim(&self, claiming: &ClaimProposal) -> Result<Wrote, Error> {
        let ClaimProposal { ballot, list, replaces } = claiming;
        self.acceptor_state.amend(|ledger| ledger.promised = Some(ballot.clone()))?;
        let claim = Claim::Founding { list: list.clone() };
        self.claim.write(&claim, replaces.as_deref()).await.map_err(Error::Claim)
    }

    /// Puts on record that we never start by that list.
    ///
    /// # Errors
    /// Our own ledger's.
    pub fn renounce(&self, list: &InitialList) -> Result<(), Error> {
        Ok(self.acceptor_state.amend(|ledger| ledger.renounce(list))?)
    }

    /// Puts on record that the data here is ours from now on: its owner is gone, or the operator says so.
    ///
    /// # Errors
    /// Our own ledger's.
    pub fn own_data(&self) -> Result<(), Error> {
        Ok(self.acceptor_state.amend(|ledger| ledger.instance = Some(self.me.clone()))?)
    }

    /// Removes a member.
    ///
    /// # Errors
    /// etcd's; what is true shows in the next observation.
    pub async fn remove(&self, cluster: &EtcdSeen, id: MemberId) -> Result<(), Error> {
        self.reach.etcd.member_remove(&cluster.client_url, id, CHANGE_TIMEOUT).await.map_err(Error::Etcd)
    }

    /// Adds ourselves as a learner, and records our place before etcd could ever run there.
    ///
    /// # Errors
    /// etcd's, or our ledger's.
    pub async fn add_self(&self, cluster: &EtcdSeen, peer_urls: &[String]) -> Result<MemberId, Error> {
        let added = self.reach.etcd.member_add_learner(&cluster.client_url, peer_urls, CHANGE_TIMEOUT).await;
        let member = added.map_err(Error::Etcd)?;
        let joined = Joined { cluster: cluster.cluster, member, spawned: false };
        self.acceptor_state.amend(|ledger| ledger.joined = Some(joined))?;
        Ok(member)
    }

    /// Publishes our new peer URLs.
    ///
    /// # Errors
    /// etcd's.
    pub async fn update_self(&self, cluster: &EtcdSeen, id: MemberId, peer_urls: &[String]) -> Result<(), Error> {
        self.reach.etcd.member_update(&cluster.client_url, id, peer_urls, CHANGE_TIMEOUT).await.map_err(Error::Etcd)
    }

    /// Moves the data aside. A crash in the middle is taken up again by [`Executor::finish_quarantine`].
    ///
    /// # Errors
    /// The disk's.
    pub fn quarantine(&self, paths: &Paths, why: LeftBehind) -> Result<String, Error> {
        let stamp = clock::file_stamp();
        let moving = Moving { stamp: stamp.clone(), why };
        self.acceptor_state.with_store(|store| store.begin_quarantine(&moving))?;
        self.move_aside(paths, &moving)?;
        Ok(stamp)
    }

    /// Takes up a quarantine that was begun before a crash.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish_quarantine(&self, paths: &Paths) -> Result<(), Error> {
        match self.acceptor_state.with_store(store::Store::unfinished_quarantine)? {
            Some(moving) => self.move_aside(paths, &moving),
            None => Ok(()),
        }
    }

    /// A first start that never came to a WAL (a bad setting, a port in use, a crash): what it left, a backend at most, is
    /// moved aside, and it counts as never begun.
    ///
    /// # Errors
    /// The disk's.
    pub fn forget_what_never_began(&self, paths: &Paths) -> Result<(), Error> {
        let ledger = self.acceptor_state.ledger();
        let never_began = || ledger.never_began(paths.holds_wal(), paths.is_marked(ledger.nonce));
        // The directories are looked at only where it matters.
        let Some(unstarted) = ledger.starting.and_then(|_| never_began()) else { return Ok(()) };
        log::warn!("etcd's first start ended before it made a WAL: it counts as never begun");
        self.quarantine(paths, LeftBehind::NeverBegan(unstarted)).map(|_| ())
    }

    fn move_aside(&self, paths: &Paths, moving: &Moving) -> Result<(), Error> {
        paths.quarantine(&moving.stamp).map_err(Error::DataDir)?;
        self.acceptor_state.amend(|ledger| ledger.left_behind(moving.why))?;
        Ok(self.acceptor_state.with_store(store::Store::end_quarantine)?)
    }
}
