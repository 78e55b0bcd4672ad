//! Observes and decides until etcd is to start: takes one step, then observes again.

use std::collections::BTreeMap;
use std::mem::{Discriminant, discriminant};
use std::time::{Duration, Instant};

use super::claim_store::Wrote;
use super::etcd_release::find_release;
use super::executor;
use super::lifecycle_hooks::Transition;
use super::observer::{LocalState, WATCH_PAUSE};
use super::restoration::Site;
use super::termination_notice::POLL;
use super::{Daemon, FIRST_PAUSE, Kind, Launch};
use crate::core::decide::{decide, scattered};
use crate::core::evidence::signs_of_a_cluster;
use crate::core::label::Label;
use crate::core::paxos::{Ledger, Tally};
use crate::core::release::Installed;
use crate::core::step::ClaimProposal;
use crate::core::step::{AbsenceReason, Hold, Proposal, RemovalReason, Step};
use crate::core::types::{ClusterId, InitialList, InstanceId, Known, Member, MemberId, Seed};
use crate::core::view::ClaimState;
use crate::core::view::{DataDir, PeerState, Told, View};
use crate::discovery::addresses;
use crate::etcd::data_dir::{self, Paths};
use crate::state::store::Store;
use crate::util::backoff::Backoff;
use crate::util::clock;
use crate::util::exit::Failure;

/// The interval while a proof of death is pending or another node joins.
const RIPENING_PAUSE: Duration = Duration::from_secs(1);
/// The interval while an order to restore may come: each look is a list of the snapshots' place.
const ORDER_PAUSE: Duration = Duration::from_secs(2);
/// R1: a ballot older than this is dropped before the accept phase.
const BALLOT_LIFE: Duration = Duration::from_secs(5);
/// The least time between two observations that call EC2 again because a peer caused it: strangers can cause that at will.
const FORCED_ROSTER_PAUSE: Duration = Duration::from_secs(5);
/// How many observations in that time peers may cause; a whole bootstrap causes fewer. Names can be made up, too.
const MAX_WAKEUPS: u32 = 20;

impl Daemon {
    /// Observes and decides until etcd is to start.
    pub(super) async fn run_decision_loop(&mut self) -> Result<Launch, Failure> {
        let (mut pauses, mut shown) = (Backoff::new(FIRST_PAUSE, self.config.observation.longest_pause), None);
        self.observer.reset_timers();
        self.read_data_release(&self.settings().paths).await;
        loop {
            self.certificates.renew_if_due().await;
            self.ask_for_release()?;
            let paths = self.settings().paths;
            let resumed = self.executor.finish_quarantine(&paths);
            let resumed = resumed.and_then(|()| self.executor.discard_incomplete_start(&paths));
            if let Err(error) = resumed.and_then(|()| self.replace_foreign_ledger(&paths)) {
                self.say(Label::hold("own_files"), &format!("hold: {error}"));
                clock::pause(RIPENING_PAUSE).await;
                continue;
            }
            self.recover_if_ordered().await;
            let is_asked = self.version.is_some();
            let view = match self.look_and_learn_the_release().await {
                Ok(view) => {
                    // A setting that this release refuses must not show after a place in a cluster was taken.
                    if is_asked {
                        self.fit_settings()?;
                    }
                    view
                }
                Err(error) => {
                    self.say(Label::hold("own_files"), &format!("hold: {error}"));
                    clock::pause(RIPENING_PAUSE).await;
                    continue;
                }
            };
            // Otherwise a first member that is asked during its observation could take its own member for one with a lost disk.
            if self.acceptor_state.ledger().lists() != view.ledger.lists() {
                log::debug!("observing again: a list was agreed on meanwhile");
                continue;
            }
            let step = decide(self.observer.policy(), &view);
            self.report(&step, &view);
            self.record_departure(&step, &view);
            if let Some(launch) = self.execute(&step, &view).await? {
                return Ok(launch);
            }
            // While things change, observe again soon; while nothing changes, ever more rarely.
            let change_key = change_key(&view, &step);
            if shown.as_ref() != Some(&change_key) {
                shown = Some(change_key);
                pauses.reset();
            }
            let pause = pauses.pause();
            match &step {
                Step::Hold(hold) => {
                    self.wait(hold, pause).await;
                    if matches!(hold, Hold::Release(_)) {
                        // An operator may have run another etcd by hand.
                        self.read_data_release(&self.settings().paths).await;
                    }
                }
                Step::Halt(_) => self.stay_halted().await,
                // Another proposer was ahead, or too few answered: jitter separates two proposers.
                Step::Propose(_) if self.acceptor_state.ledger().chosen.is_none() => {
                    clock::pause(clock::jittered(pause)).await
                }
                _ => {}
            }
        }
    }

    /// Promises made by another instance were moved aside, with its data: this one starts with a new ledger.
    fn replace_foreign_ledger(&self, paths: &Paths) -> Result<(), executor::Error> {
        let is_ours = self.acceptor_state.ledger().instance.is_none_or(|owner| owner.0 == self.identity.instance);
        if is_ours || paths.inspect().map_err(executor::Error::DataDir)? != DataDir::Fresh {
            return Ok(());
        }
        Ok(self.acceptor_state.bind(&self.identity, false)?)
    }

    /// Runs for ever: later observations must not undo a halt, because one of two clusters may only be unreachable for a
    /// moment. But a halted instance must not keep its Auto Scaling group waiting for what never comes.
    async fn stay_halted(&self) {
        loop {
            self.recorder.heartbeat();
            if self.notices.are_wanted()
                && let Known::Known(Some(ending)) = self.notices.read().await
                && ending.is_termination()
            {
                self.hooks.complete(Transition::Terminate, &InstanceId(self.identity.instance.clone()));
            }
            clock::pause(POLL).await;
        }
    }

    /// What is known about this instance's termination while no etcd runs on it.
    fn record_departure(&self, step: &Step, view: &View) {
        if matches!(step, Step::Hold(Hold::Left { .. }))
            && !view.ledger.left
            && let Err(error) = self.acceptor_state.amend(|ledger| ledger.left = true)
        {
            log::error!("{error}");
        }
        match (&view.ending, step) {
            // There is nothing to leave, or no longer.
            (Known::Known(Some(ending)), Step::Hold(_) | Step::Halt(_)) if ending.is_termination() => {
                self.hooks.complete(Transition::Terminate, &view.me.instance);
            }
            (Known::Known(None), _) => self.hooks.recall_termination(),
            _ => {}
        }
    }

    /// `etcd --version` takes about as long as an observation, so both run in parallel.
    async fn look_and_learn_the_release(&mut self) -> Result<View, data_dir::Error> {
        let Some(version) = self.version.take() else { return self.observe().await };
        let (program, mut defect) = (self.program.clone(), std::mem::take(&mut self.defect));
        let (view, installed) = tokio::join!(self.observe(), find_release(&program, version, &mut defect));
        (self.installed, self.defect) = (installed.clone(), defect);
        if matches!(installed, Installed::Unknown(_)) {
            // What it could not say now, over a slow disk say, it may say the next time.
            self.program_file = None;
        }
        self.acceptor_state.release_is(self.release());
        view.map(|view| View { installed, ..view })
    }

    async fn observe(&mut self) -> Result<View, data_dir::Error> {
        let ending = self.notices.recent().await;
        if ending == Known::Known(None) && self.acceptor_state.ledger().left {
            log::info!("EC2 cancelled the termination of this instance, or the request to leave was taken back");
            if let Err(error) = self.acceptor_state.amend(|ledger| ledger.left = false) {
                log::error!("{error}");
            }
        }
        let data = self.settings().paths.inspect()?;
        let own = LocalState {
            listed: addresses::own_listing(&self.config.etcd, &self.identity),
            data: data.clone(),
            yielded: self.yielded,
            condemned: self.condemned.map(str::to_owned),
            ledger: self.acceptor_state.ledger(),
            ending,
            since_own_removal: self.own_removed_at.map(|at| clock::now() - at),
            told: self.acceptor_state.with_store(Store::told),
            installed: self.installed.clone(),
            data_release: self.data_release.clone(),
        };
        let (acceptor_state, policy) = (self.acceptor_state.clone(), self.observer.policy().clone());
        // The view keeps the ledger it began with, because its cluster ids were computed from that one: a list accepted
        // meanwhile must not be taken for the one whose etcd was seen. `run_decision_loop` then observes again.
        let mut view =
            self.observer.observe(&own, |roster| acceptor_state.set_context(roster.known(), &policy, &data)).await;
        // What a store that is unusable for claims returns is neither a claim nor proof that there is none.
        if matches!(view.claim, ClaimState::Absent | ClaimState::Held { .. })
            && let Err(unfit) = self.claim.prove().await
        {
            view.claim = ClaimState::Unknown(unfit);
        }
        if let Some(word) = view.claim.word(view.ledger.ran_as.map(|ran_as| ran_as.cluster)) {
            self.recorder.set_claim(word);
        }
        if view.claim.is_before_a_founding(&view.losses())
            && let Err(error) = self.acceptor_state.amend(|ledger| ledger.saw_unclaimed = true)
        {
            // This promises nothing: without the record only a young node may start under the claim.
            log::warn!("{error}");
        }
        if let (Some(log), DataDir::Whole { ids: Known::Known((cluster, member)) }) = (&view.log, &view.data) {
            let (before, by) = (log.before, log.by.clone());
            self.acceptor_state.record_told(Told { cluster: *cluster, member: *member, before, by });
        }
        self.acceptor_state.set_known_peers(self.observer.policy(), &view);
        Ok(view)
    }

    /// Carries out a step. `Some`: etcd is to be started.
    async fn execute(&mut self, step: &Step, view: &View) -> Result<Option<Launch>, Failure> {
        if let (Step::Resume, Some(urls)) = (step, scattered(view)) {
            log::warn!(
                "no instance has an address of the member list any more: {}; the members look for each other there \
                 and can't elect a leader; give the instances those addresses again, or see docs/operations.md, \
                 Addresses that all changed",
                urls.join(", ")
            );
        }
        let outcome = match step {
            Step::Hold(_) | Step::Halt(_) => Ok(()),
            Step::Propose(proposal) => self.bootstrap_round(proposal, view).await,
            Step::FoundAlone { accepted, .. } => self.executor.found_alone(accepted),
            Step::Claim(claiming) => self.claim(claiming).await,
            Step::Renounce { list, .. } => self.executor.renounce(list),
            Step::StartNew(list) => return Ok(self.start_new(list, view).await),
            // The others of a restored cluster were faster: what is ready here is as good a beginning as theirs, and need not be sent once more.
            Step::StartExisting { cluster, .. } if let Some(launch) = self.late_founder(*cluster, view) => {
                return Ok(Some(launch));
            }
            Step::StartExisting { cluster, member, initial_cluster } => {
                let (cluster, member, initial_cluster) = (*cluster, *member, initial_cluster.clone());
                let kind = Kind::Existing { cluster, member, initial_cluster };
                return Ok(Some(Launch { kind, staged: None, others: client_urls(view) }));
            }
            Step::Resume => match self.executor.own_data() {
                Ok(()) => return Ok(Some(Launch { kind: Kind::Resume, staged: None, others: client_urls(view) })),
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
                    log::warn!("moved the data to quarantine-{stamp}; delete it when it is no longer needed");
                    // What comes next has its own history.
                    (self.condemned, self.damaged_runs, self.short_runs) = (None, 0, 0);
                })
            }
        };
        if let Err(error) = outcome {
            self.complain(step.label(), format!("{step}: {error}; observing again"));
            // Trying again at once would meet the same situation.
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
                    None => log::info!("another node wrote its claim first"),
                }
                self.sleep_until_woken(clock::jittered(pause)).await;
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
        let ready = self.restoration.take(&list.token);
        if ready.is_none() {
            self.executor.offer(list, view).await;
        }
        let staged = match (&list.seed, ready) {
            (Some(seed), None) => {
                self.prepare_data(list, seed).await;
                return None;
            }
            (_, ready) => ready,
        };
        self.executor.pace(list, view).await;
        Some(Launch { kind: Kind::New(list.clone()), staged, others: Vec::new() })
    }

    /// A start under the chosen list, if that cluster is the list's and the data for it is ready.
    fn late_founder(&mut self, cluster: ClusterId, view: &View) -> Option<Launch> {
        let list =
            view.ledger.chosen.as_ref().filter(|_| view.chosen_cluster == Some(cluster) && !view.ledger.founded)?;
        let staged = self.restoration.take(&list.token)?;
        Some(Launch { kind: Kind::New(list.clone()), staged: Some(staged), others: client_urls(view) })
    }

    /// Makes the data ready with which this node starts under a list that has a seed. Everything is observed and decided again afterwards, because that may
    /// have taken long.
    async fn prepare_data(&mut self, list: &InitialList, seed: &Seed) {
        let Some(entry) = list.entry(&InstanceId(self.identity.instance.clone())) else { return };
        let paths = self.settings().paths;
        let (acceptor_state, recorder) = (self.acceptor_state.clone(), self.recorder.clone());
        let show = |line: &str| {
            recorder.heartbeat();
            recorder.set_step(Label::hold("restoring"), line);
            acceptor_state.restoring(Some(line.to_owned()));
        };
        let site = Site {
            list,
            seed,
            entry,
            paths: &paths,
            etcd: &self.program,
            installed: self.release(),
            reaper: &self.reaper,
        };
        let prepared = self.restoration.prepare(&site, &show).await;
        self.acceptor_state.restoring(None);
        if let Err((cause, pause)) = prepared {
            let line = format!("hold: restoring {}/{}: {cause}", seed.place, seed.snapshot);
            self.recorder.set_step(Label::hold("restoring"), &line);
            self.notify.tell(&format!("STATUS={line}"));
            self.complain(Label::hold("restoring"), line);
            self.sleep_until_woken(clock::jittered(pause)).await;
        }
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
        log::info!(member:% = id; "removed member {id}");
        if settles {
            self.own_removed_at = Some(clock::now());
        }
        Ok(())
    }

    async fn add_self(&mut self, view: &View) -> Result<(), executor::Error> {
        let Some(etcd) = view.living_clusters().into_values().next() else { return Ok(()) };
        let member = self.executor.add_self(etcd, &view.me.listed.peer_urls).await?;
        log::info!(member:% = member, cluster:% = etcd.cluster; "added as learner {member} to cluster {}", etcd.cluster);
        Ok(())
    }

    /// One bootstrap round (R1, R2).
    async fn bootstrap_round(&mut self, proposal: &Proposal, view: &View) -> Result<(), executor::Error> {
        let begun = clock::now();
        let context = view.acceptor_context(self.observer.policy());
        let list = match self.executor.prepare(proposal, view, &context).await? {
            Tally::Free => proposal.list.clone(),
            Tally::Adopt(list) => list,
            Tally::Chosen(list) => return Ok(self.acceptor_state.learn(&list)?),
            other => {
                log::info!("the bootstrap round did not get enough promises: {other:?}; retrying");
                return Ok(());
            }
        };
        // R1: observe again before the accept phase.
        let Ok(again) = self.observe().await else { return Ok(()) };
        let still = matches!(decide(self.observer.policy(), &again), Step::Propose(p) if p.charter == proposal.charter);
        if !still || signs_of_a_cluster(&again).is_some() || clock::now() - begun > BALLOT_LIFE {
            log::info!("dropped the bootstrap round: the view changed, or the round took too long; retrying");
            return Ok(());
        }
        match self.executor.accept(proposal, &list, &again).await? {
            Tally::Chosen(list) => {
                log::info!("chosen: {} (token {})", list.initial_cluster(), list.token);
                Ok(self.acceptor_state.learn(&list)?)
            }
            other => {
                log::info!("the bootstrap round was not accepted: {other:?}; retrying");
                Ok(())
            }
        }
    }

    /// Waits until something happens, or for the pause, or until a wait in the hold's reason is over.
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
            // An operator who orders a restore waits for it.
            Hold::SnapshotsSeen { .. } => ORDER_PAUSE,
            Hold::DifferentRoster { .. } => {
                self.force_roster();
                self.config.observation.longest_pause
            }
            _ => self.config.observation.longest_pause,
        };
        self.sleep_until_woken(pause.min(most.max(FIRST_PAUSE))).await;
    }

    /// Waits that long, but not longer than until a quorum can replace the damaged data.
    pub(super) async fn wait_for_a_replacement(&mut self, pause: Duration) {
        let until = clock::now() + pause;
        loop {
            self.recorder.heartbeat();
            let view = self.observe().await;
            if view.is_ok_and(|view| matches!(decide(self.observer.policy(), &view), Step::Quarantine(_))) {
                return;
            }
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return;
            }
            self.sleep_until_woken(left.min(self.config.observation.longest_pause)).await;
        }
    }

    /// Waits that long, but not longer than until a peer acts: an instance of the roster calls that was not seen before, or a
    /// list is reported. Callers outside the roster cause a new call to EC2, as often as that is allowed.
    async fn sleep_until_woken(&mut self, pause: Duration) {
        let mut until = clock::now() + pause;
        let (mut wants_roster, before) = (false, self.acceptor_state.ledger());
        while tokio::time::timeout(until.saturating_duration_since(clock::now()), self.acceptor_state.woken())
            .await
            .is_ok()
        {
            let callers = self.acceptor_state.drain_new_callers();
            let is_refused = self.acceptor_state.drain_refusal();
            if is_refused {
                self.observer.expire_snapshots();
            }
            // (There was no call and no report: a wake-up from a caller that was already handled.)
            let is_news = is_refused || self.acceptor_state.ledger().lists() != before.lists();
            if is_news || callers.iter().any(|id| self.observer.knows(id)) {
                if self.wakeups.allow(clock::now()) {
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

    /// Makes the next observation call EC2 again, whatever the cause and however often.
    fn force_roster(&mut self) {
        let now = clock::now();
        if self.roster_forced.is_none_or(|at| now - at >= FORCED_ROSTER_PAUSE) {
            self.roster_forced = Some(now);
            self.observer.expire_roster();
        }
    }
}

/// How many observations callers have caused recently.
#[derive(Debug, Default)]
pub(super) struct Wakeups {
    since: Option<Instant>,
    count: u32,
}

impl Wakeups {
    /// Whether one more may be caused.
    fn allow(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now - since >= FORCED_ROSTER_PAUSE) {
            *self = Self { since: Some(now), count: 0 };
        }
        self.count += 1;
        self.count <= MAX_WAKEUPS
    }
}

/// The parts of a view whose change is a reason to observe sooner: everything except durations.
fn change_key(view: &View, step: &Step) -> (BTreeMap<InstanceId, Discriminant<PeerState>>, Discriminant<Step>) {
    let sightings = view.peers.iter().map(|(id, peer)| (id.clone(), discriminant(&peer.sighting)));
    (sightings.collect(), discriminant(step))
}

fn client_urls(view: &View) -> Vec<String> {
    view.etcds().filter(|etcd| etcd.has_quorum()).map(|etcd| etcd.client_url.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names can be made up: a caller that calls as often as it likes must not cause as many observations.
    #[test]
    fn callers_bring_twenty_looks_forward_in_five_seconds_and_no_more() {
        let (mut wakeups, start) = (Wakeups::default(), clock::now());
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let allowed = (0..100).filter(|n| wakeups.allow(after(n * 40))).count();
        assert_eq!(allowed, MAX_WAKEUPS as usize);
        assert!(!wakeups.allow(after(4_999)) && wakeups.allow(after(5_000)), "and then again");
    }
}
