//! Looking and deciding until etcd is to start: a step is taken, then the world is looked at again.

use std::collections::BTreeMap;
use std::mem::{Discriminant, discriminant};
use std::time::{Duration, Instant};

use super::claim_store::Wrote;
use super::executor;
use super::lifecycle_hooks::Transition;
use super::observer::{LocalState, WATCH_PAUSE};
use super::termination_notice::POLL;
use super::{Daemon, FIRST_PAUSE, Kind, Launch};
use crate::core::decide::{decide, scattered};
use crate::core::evidence::signs_of_a_cluster;
use crate::core::label::Label;
use crate::core::paxos::{Ledger, Tally};
use crate::core::step::ClaimProposal;
use crate::core::step::{AbsenceReason, Hold, Proposal, RemovalReason, Step};
use crate::core::types::{InitialList, InstanceId, Known, Member, MemberId};
use crate::core::view::ClaimState;
use crate::core::view::{DataDir, PeerState, Told, View};
use crate::discovery::addresses;
use crate::etcd::data_dir::{self, Paths};
use crate::state::store::Store;
use crate::util::clock;
use crate::util::exit::Failure;

/// While a proof of death ripens or another joins, so often.
const RIPENING_PAUSE: Duration = Duration::from_secs(1);
/// R1: a ballot older than this is dropped before the accept phase.
const BALLOT_LIFE: Duration = Duration::from_secs(5);
/// Between two looks that ask EC2 anew because somebody wants it: strangers may want that as often as they like.
const FORCED_ROSTER_PAUSE: Duration = Duration::from_secs(5);
/// So many looks in that time may callers bring forward; a founding's whole noise is less. Names can be made up, too.
const STIRRED_LOOKS: u32 = 20;

impl Daemon {
    /// Observes and decides until etcd is to start.
    pub(super) async fn deliberate(&mut self) -> Result<Launch, Failure> {
        let mut pause = FIRST_PAUSE;
        let mut shown = None;
        self.observer.watch_anew();
        loop {
            self.certificates.tend().await;
            let paths = self.settings().paths;
            let resumed = self.executor.finish_quarantine(&paths);
            let resumed = resumed.and_then(|()| self.executor.forget_what_never_began(&paths));
            if let Err(error) = resumed.and_then(|()| self.renew_a_strangers_ledger(&paths)) {
                self.say(Label::hold("own_files"), &format!("hold: {error}"));
                clock::pause(RIPENING_PAUSE).await;
                continue;
            }
            let view = match self.look().await {
                Ok(view) => view,
                Err(error) => {
                    self.say(Label::hold("own_files"), &format!("hold: {error}"));
                    clock::pause(RIPENING_PAUSE).await;
                    continue;
                }
            };
            // Else a founder that was asked during its look could take its own place for that of a lost disk.
            if self.acceptor_state.ledger().lists() != view.ledger.lists() {
                log::debug!("looks again: a list was agreed on meanwhile");
                continue;
            }
            let step = decide(self.observer.policy(), &view);
            self.report(&step, &view);
            self.settle_departure(&step, &view);
            if let Some(launch) = self.take(&step, &view).await? {
                return Ok(launch);
            }
            // What moves is looked at again soon; what doesn't, ever more seldom.
            let scene = scene(&view, &step);
            if shown.as_ref() != Some(&scene) {
                (shown, pause) = (Some(scene), FIRST_PAUSE);
            }
            match &step {
                Step::Hold(hold) => self.wait(hold, pause).await,
                Step::Halt(_) => self.stay_halted().await,
                // Beaten, or too few: jitter parts two proposers.
                Step::Propose(_) if self.acceptor_state.ledger().chosen.is_none() => {
                    clock::pause(clock::jittered(pause)).await
                }
                _ => {}
            }
            pause = (pause * 2).min(self.config.bootstrap_wait);
        }
    }

    /// What another instance promised, and its data with it, was moved aside: this one promises anew.
    fn renew_a_strangers_ledger(&self, paths: &Paths) -> Result<(), executor::Error> {
        let is_ours = self.acceptor_state.ledger().instance.is_none_or(|owner| owner.0 == self.identity.instance);
        if is_ours || paths.inspect().map_err(executor::Error::DataDir)? != DataDir::Fresh {
            return Ok(());
        }
        Ok(self.acceptor_state.bind(&self.identity, false)?)
    }

    /// For ever: what is seen later must not undo a halt, for of two clusters one may only be out of sight for a moment. But
    /// the group of a halted instance must not wait for what never comes.
    async fn stay_halted(&self) {
        loop {
            self.journal.beat();
            if self.notices.are_wanted()
                && let Known::Known(Some(_)) = self.notices.read().await
            {
                self.hooks.complete(Transition::Terminate, &InstanceId(self.identity.instance.clone()));
            }
            clock::pause(POLL).await;
        }
    }

    /// What is known of an instance's end while no etcd runs on it.
    fn settle_departure(&self, step: &Step, view: &View) {
        if matches!(step, Step::Hold(Hold::Left { .. }))
            && !view.ledger.left
            && let Err(error) = self.acceptor_state.amend(|ledger| ledger.left = true)
        {
            log::error!("{error}");
        }
        match (&view.ending, step) {
            // There is nothing to leave, or no more.
            (Known::Known(Some(_)), Step::Hold(_) | Step::Halt(_)) => {
                self.hooks.complete(Transition::Terminate, &view.me.instance);
            }
            (Known::Known(None), _) => self.hooks.recall_termination(),
            _ => {}
        }
    }

    async fn look(&mut self) -> Result<View, data_dir::Error> {
        let ending = self.notices.recent().await;
        if ending == Known::Known(None) && self.acceptor_state.ledger().left {
            log::info!("EC2 cancelled the termination of this instance");
            if let Err(error) = self.acceptor_state.amend(|ledger| ledger.left = false) {
                log::error!("{error}");
            }
        }
        let data = self.settings().paths.inspect()?;
        let own = LocalState {
            listed: addresses::own_listing(&self.config, &self.identity),
            data: data.clone(),
            yielded: self.yielded,
            condemned: self.condemned.map(str::to_owned),
            ledger: self.acceptor_state.ledger(),
            ending,
            since_own_removal: self.own_removed_at.map(|at| clock::now() - at),
            told: self.acceptor_state.with_store(Store::told),
        };
        let (acceptor_state, policy) = (self.acceptor_state.clone(), self.config.policy.clone());
        // The view keeps the ledger it began with, for the cluster ids in it were computed from that one: a list accepted
        // meanwhile must not be taken for the one whose etcd was seen. `deliberate` looks again then.
        let mut view =
            self.observer.look(&own, |roster| acceptor_state.standing_is(roster.known(), &policy, &data)).await;
        // Whatever is read from a store that is no place for a claim is no claim, and no sign that there is none.
        if matches!(view.claim, ClaimState::Absent | ClaimState::Held { .. })
            && let Err(unfit) = self.claim.prove().await
        {
            view.claim = ClaimState::Unknown(unfit);
        }
        if view.claim.is_before_a_founding(&view.losses())
            && let Err(error) = self.acceptor_state.amend(|ledger| ledger.saw_unclaimed = true)
        {
            // Nothing is promised by it: without the record only a young node may start by the claim.
            log::warn!("{error}");
        }
        if let (Some(log), DataDir::Whole { ids: Known::Known((cluster, member)) }) = (&view.log, &view.data) {
            let (before, by) = (log.before, log.by.clone());
            self.acceptor_state.is_told(Told { cluster: *cluster, member: *member, before, by });
        }
        self.acceptor_state.saw(&view);
        Ok(view)
    }

    /// Carries out a step. `Some`: etcd is to be started.
    async fn take(&mut self, step: &Step, view: &View) -> Result<Option<Launch>, Failure> {
        if let (Step::Resume, Some(urls)) = (step, scattered(view)) {
            log::warn!(
                "none of the addresses in the member list is an instance's now: {}; the members look for each other there, and elect \
                 nobody; give the instances those addresses again, or see docs/operations.md, Addresses that all changed",
                urls.join(", ")
            );
        }
        let outcome = match step {
            Step::Hold(_) | Step::Halt(_) => Ok(()),
            Step::Propose(proposal) => self.found(proposal, view).await,
            Step::FoundAlone { accepted, .. } => self.executor.found_alone(accepted),
            Step::Claim(claiming) => self.claim(claiming).await,
            Step::Renounce { list, .. } => self.executor.renounce(list),
            Step::StartNew(list) => return Ok(self.start_new(list, view).await),
            Step::StartExisting { cluster, member, initial_cluster } => {
                let (cluster, member, initial_cluster) = (*cluster, *member, initial_cluster.clone());
                let kind = Kind::Existing { cluster, member, initial_cluster };
                return Ok(Some(Launch { kind, others: client_urls(view) }));
            }
            Step::Resume => match self.executor.own_data() {
                Ok(()) => return Ok(Some(Launch { kind: Kind::Resume, others: client_urls(view) })),
                Err(error) => Err(error),
            },
            Step::RemoveMember { id, why } => self.remove(*id, why, view).await,
            Step::AddSelf => self.add_self(view).await,
            Step::UpdateSelf { id } => match (self.executor.own_data(), view.living_clusters().values().next()) {
                (Ok(()), Some(etcd)) => self.executor.update_self(etcd, *id, &view.me.listed.peer_urls).await,
                (owned, _) => owned,
            },
            Step::Quarantine(why) => {
                let why = why.left_behind();
                self.executor.quarantine(&self.settings().paths, why).map(|stamp| {
                    log::warn!("the data now lies in quarantine-{stamp}; delete it when it is no longer needed");
                    // What comes next has a past of its own.
                    (self.condemned, self.damaged_lives, self.short_lives) = (None, 0, 0);
                })
            }
        };
        if let Err(error) = outcome {
            self.complain(step.label(), format!("{step}: {error}; observing again"));
            // Another try at once would meet the same world.
            clock::pause(clock::jittered(RIPENING_PAUSE)).await;
        }
        Ok(None)
    }

    async fn claim(&mut self, claiming: &ClaimProposal) -> Result<(), executor::Error> {
        match self.executor.claim(claiming).await? {
            Wrote::Done => log::info!("claimed: {} (token {})", claiming.list.initial_cluster(), claiming.list.token),
            Wrote::Refused { fault, pause } => {
                match fault {
                    Some(fault) => self.complain(Step::Claim(claiming.clone()).label(), fault),
                    None => log::info!("another node's claim was written first"),
                }
                self.pause_or_stir(clock::jittered(pause)).await;
            }
        }
        Ok(())
    }

    async fn start_new(&mut self, list: &InitialList, view: &View) -> Option<Launch> {
        if let Err(error) = self.acceptor_state.learn(list) {
            self.say(Label::hold("own_files"), &format!("hold: {error}"));
            clock::pause(RIPENING_PAUSE).await;
            return None;
        }
        self.executor.offer(list, view).await;
        self.executor.pace(list, view).await;
        Some(Launch { kind: Kind::New(list.clone()), others: Vec::new() })
    }

    async fn remove(&mut self, id: MemberId, why: &RemovalReason, view: &View) -> Result<(), executor::Error> {
        let Some(etcd) = view.living_clusters().into_values().next() else { return Ok(()) };
        let me = &view.me.listed;
        let at_our_urls = |m: &Member| m.peer_urls.iter().any(|url| me.peer_urls.contains(url));
        let own = *why == RemovalReason::OwnOldId;
        let settles = own || etcd.members.iter().any(|m| m.id == id && at_our_urls(m));
        if own {
            self.acceptor_state.amend(Ledger::give_up_old_id)?;
        }
        self.executor.remove(etcd, id).await?;
        log::info!("member {id} is removed");
        if settles {
            self.own_removed_at = Some(clock::now());
        }
        Ok(())
    }

    async fn add_self(&mut self, view: &View) -> Result<(), executor::Error> {
        let Some(etcd) = view.living_clusters().into_values().next() else { return Ok(()) };
        let member = self.executor.add_self(etcd, &view.me.listed.peer_urls).await?;
        log::info!("added as learner {member} to cluster {}", etcd.cluster);
        Ok(())
    }

    /// One founding round (R1, R2).
    async fn found(&mut self, proposal: &Proposal, view: &View) -> Result<(), executor::Error> {
        let begun = clock::now();
        let standing = view.standing(self.observer.policy());
        let list = match self.executor.prepare(proposal, view, &standing).await? {
            Tally::Free => proposal.list.clone(),
            Tally::Adopt(list) => list,
            Tally::Chosen(list) => return Ok(self.acceptor_state.learn(&list)?),
            other => {
                log::info!("the founding round did not get its promises: {other:?}");
                return Ok(());
            }
        };
        // R1: look again before the accept phase.
        let Ok(again) = self.look().await else { return Ok(()) };
        let still = matches!(decide(self.observer.policy(), &again), Step::Propose(p) if p.charter == proposal.charter);
        if !still || signs_of_a_cluster(&again).is_some() || clock::now() - begun > BALLOT_LIFE {
            log::info!("the founding round is dropped: the view changed, or it took too long");
            return Ok(());
        }
        match self.executor.accept(proposal, &list, &again).await? {
            Tally::Chosen(list) => {
                log::info!("chosen: {} (token {})", list.initial_cluster(), list.token);
                Ok(self.acceptor_state.learn(&list)?)
            }
            other => {
                log::info!("the founding round was not accepted: {other:?}");
                Ok(())
            }
        }
    }

    /// Waits until something stirs, or for the pause, or until a wait in the hold's reason is over.
    async fn wait(&mut self, hold: &Hold, pause: Duration) {
        let most = match hold {
            Hold::Absent { why: AbsenceReason::Grace { waited, grace }, .. } => {
                grace.saturating_sub(*waited).min(WATCH_PAUSE)
            }
            Hold::Absent { why: AbsenceReason::OneOfTwo, .. } => WATCH_PAUSE,
            Hold::Settling
            | Hold::Spare { .. }
            | Hold::AddressTaken { .. }
            | Hold::NameTaken { .. }
            | Hold::AnotherJoins { .. }
            | Hold::NotOurs { .. } => RIPENING_PAUSE,
            Hold::DifferentRoster { .. } => {
                self.force_roster();
                self.config.bootstrap_wait
            }
            _ => self.config.bootstrap_wait,
        };
        self.pause_or_stir(pause.min(most.max(FIRST_PAUSE))).await;
    }

    /// Waits so long, but no longer than until a quorum can give again what is damaged here.
    pub(super) async fn wait_for_a_replacement(&mut self, pause: Duration) {
        let until = clock::now() + pause;
        loop {
            self.journal.beat();
            let view = self.look().await;
            if view.is_ok_and(|view| matches!(decide(self.observer.policy(), &view), Step::Quarantine(_))) {
                return;
            }
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return;
            }
            self.pause_or_stir(left.min(self.config.bootstrap_wait)).await;
        }
    }

    /// Waits so long, but no longer than until somebody moves: an instance of the roster calls that was not seen, or a list is told.
    /// Callers that the roster doesn't hold are a reason to ask EC2 anew, when that may be again.
    async fn pause_or_stir(&mut self, pause: Duration) {
        let mut until = clock::now() + pause;
        let (mut wants_roster, before) = (false, self.acceptor_state.ledger());
        while tokio::time::timeout(until.saturating_duration_since(clock::now()), self.acceptor_state.stirred())
            .await
            .is_ok()
        {
            let callers = self.acceptor_state.take_callers();
            // (Nobody called and nothing was told: the stir of one who was heard before.)
            let is_told = self.acceptor_state.ledger().lists() != before.lists();
            if is_told || callers.iter().any(|id| self.observer.knows(id)) {
                if self.stirs.allow(clock::now()) {
                    break;
                }
            } else if !callers.is_empty() {
                wants_roster = true;
                until = until.min(self.roster_forced.map_or_else(clock::now, |at| at + FORCED_ROSTER_PAUSE));
            }
        }
        if wants_roster {
            self.force_roster();
        }
    }

    /// Has the next look ask EC2 anew, whoever wants it, and how often ever.
    fn force_roster(&mut self) {
        let now = clock::now();
        if self.roster_forced.is_none_or(|at| now - at >= FORCED_ROSTER_PAUSE) {
            self.roster_forced = Some(now);
            self.observer.expire_roster();
        }
    }
}

/// How many looks callers have brought forward of late.
#[derive(Debug, Default)]
pub(super) struct Stirs {
    since: Option<Instant>,
    count: u32,
}

impl Stirs {
    /// Whether one more may be.
    fn allow(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now - since >= FORCED_ROSTER_PAUSE) {
            *self = Self { since: Some(now), count: 0 };
        }
        self.count += 1;
        self.count <= STIRRED_LOOKS
    }
}

/// What a change in looks worth looking sooner: everything but how long things have lasted.
fn scene(view: &View, step: &Step) -> (BTreeMap<InstanceId, Discriminant<PeerState>>, Discriminant<Step>) {
    let sightings = view.peers.iter().map(|(id, peer)| (id.clone(), discriminant(&peer.sighting)));
    (sightings.collect(), discriminant(step))
}

fn client_urls(view: &View) -> Vec<String> {
    view.etcds().filter(|(_, etcd)| etcd.has_quorum()).map(|(_, etcd)| etcd.client_url.clone()).collect()
}
