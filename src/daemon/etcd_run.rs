//! One run of etcd: recorded before it begins, monitored while it lasts, classified when it ends.

use std::time::Duration;

use super::claim_watch::ClaimWatch;
use super::dead_member_remover::DeadMemberRemover;
use super::departure::Departure;
use super::hash_comparison::HashComparison;
use super::member_monitor::{MemberMonitor, Progress, Stop};
use super::preparation::{Preparation, Wanted};
use super::stop::end_what_left;
use super::{Daemon, Kind, Launch, recovery};
use crate::core::label::Label;
use crate::core::restart::{
    Ended, LIFE_THAT_RESETS, LIVES_THAT_CONDEMN, ProcessRun, Verdict, is_full, refusal, verdict,
};
use crate::core::types::InstanceId;
use crate::discovery::addresses;
use crate::etcd::by_release;
use crate::etcd::command::{Start, environment};
use crate::etcd::data_dir::Paths;
use crate::process::spawn::Child;
use crate::util::clock;
use crate::util::exit::{Code, Failure, Trouble};

/// The first pause after a temporary failure; it doubles up to half a minute.
pub(super) const FIRST_HOLD: Duration = Duration::from_secs(1);
pub(super) const LONGEST_HOLD: Duration = Duration::from_secs(32);
/// R5: how long to answer peers between two runs of an etcd that never elected a leader.
const YIELD_TIME: Duration = Duration::from_secs(5);

/// The result of a launch.
pub(super) enum Outcome {
    /// etcd ended, with its last output.
    Ended(ProcessRun, String),
    /// It was stopped to yield, or has left its cluster.
    Stopped,
    /// It was restarted to write a raft snapshot.
    Prepared,
    /// It could not be started, for a temporary reason.
    NotYet(String),
}

impl Daemon {
    /// Spawns etcd and stays with it.
    pub(super) async fn run_etcd(&mut self, launch: &Launch) -> Result<Outcome, Failure> {
        let settings = self.settings();
        let start = match &launch.kind {
            Kind::New(list) => Start::New { initial_cluster: &list.initial_cluster(), token: &list.token },
            Kind::Existing { initial_cluster, .. } => Start::Existing { initial_cluster },
            Kind::Resume => Start::Resume,
        };
        let release = self.release();
        // While clients use the v2 API, the log would have such records again at once, and etcd be restarted again and again.
        let prepared = release.filter(|_| !by_release::serves_v2(&self.config.etcd.settings));
        let wanted = Wanted::of(prepared, &self.data_release).filter(|_| matches!(launch.kind, Kind::Resume));
        if let Some(Wanted { count, .. }) = wanted {
            log::info!(
                "the raft log holds records that the next release of etcd can't apply; this run writes a raft snapshot at its start \
                 (ETCD_SNAPSHOT_COUNT={count})"
            );
        }
        let env = environment(&settings, &start, release, wanted.map(|wanted| wanted.count));
        let recorded = self.record_launch(launch, &settings.paths);
        let spawned_at = clock::now();
        let spawn = || Child::spawn(&self.program, &env, &self.reaper);
        let spawned = recorded.and_then(|()| spawn().map_err(|cause| Trouble::of_program(&self.program, &cause)));
        let child = match spawned {
            Ok(child) => child,
            Err(Trouble { failure, may_pass: true }) => return Ok(Outcome::NotYet(failure.message())),
            Err(Trouble { failure, .. }) => return Err(failure),
        };
        self.holds.reset();
        log::info!(pid:% = child.pid(); "etcd runs as process {}", child.pid());
        self.recorder.started(child.pid().as_raw());
        let child = &*self.child.insert(child);
        let listed = addresses::own_listing(&self.config.etcd, &self.identity);
        let monitor = MemberMonitor {
            etcd: &self.etcd,
            acceptor_state: &self.acceptor_state,
            claim: &self.claim,
            notify: &self.notify,
            recorder: &self.recorder,
            output: child.output(),
            own_client_url: addresses::own_client_url(&settings),
            own_peer_url: addresses::own_peer_url(&settings),
            paths: &settings.paths,
            installed: release,
            advertised: listed.peer_urls.clone(),
            advertised_to_clients: addresses::split(&settings.advertise_client_urls),
            others: launch.others.clone(),
            spawned_at,
            // One that has to read what was restored may take long.
            is_first_start: !matches!(launch.kind, Kind::Resume) && launch.staged.is_none(),
        };
        let departure = Departure {
            etcd: &self.etcd,
            paths: &settings.paths,
            acceptor_state: &self.acceptor_state,
            notices: &self.notices,
            hooks: &self.hooks,
            instance: InstanceId(self.identity.instance.clone()),
            own_client_url: addresses::own_client_url(&settings),
            others: launch.others.clone(),
        };
        let own_client_url = addresses::own_client_url(&settings);
        let mut progress = Progress::default();
        let mut remover = DeadMemberRemover {
            etcd: &self.etcd,
            observer: &mut self.observer,
            executor: &self.executor,
            acceptor_state: &self.acceptor_state,
            recorder: &self.recorder,
            own_client_url: addresses::own_client_url(&settings),
            listed,
        };
        let preparation = Preparation {
            etcd: &self.etcd,
            paths: &settings.paths,
            release: prepared,
            wanted,
            own_client_url: addresses::own_client_url(&settings),
            own_peer_url: addresses::own_peer_url(&settings),
        };
        let comparison = HashComparison {
            etcd: &self.etcd,
            acceptor_state: &self.acceptor_state,
            release,
            own_client_url: addresses::own_client_url(&settings),
            own_peer_url: addresses::own_peer_url(&settings),
            is_first_start: !matches!(launch.kind, Kind::Resume),
        };
        let claim_watch =
            ClaimWatch { claim: &self.claim, acceptor_state: &self.acceptor_state, recorder: &self.recorder };
        let ended = tokio::select! {
            ended = child.wait() => Ok(ended),
            stop = monitor.until_stop(&mut progress) => Err(stop),
            never = remover.every(self.config.removal.interval) => match never {},
            never = self.certificates.forever() => match never {},
            never = comparison.forever() => match never {},
            never = claim_watch.forever() => match never {},
            never = self.snapshots.forever(&self.etcd, &own_client_url) => match never {},
            () = departure.until_left() => Err(Stop::Left),
            () = preparation.until_a_restart_is_due() => Err(Stop::Prepared),
            () = recovery::until_ordered(settings.paths.data.clone(), &self.etcd, &own_client_url) => Err(Stop::Ordered),
        };
        let ended = match ended {
            Ok(ended) => ended,
            Err(Stop::Stuck) => child.stop(self.config.stop.timeout).await,
            Err(stop) => {
                match stop {
                    Stop::Left => end_what_left(child).await,
                    _ => _ = child.stop(self.config.stop.timeout).await,
                }
                self.child = None;
                self.recorder.ended();
                let again = matches!(stop, Stop::Prepared | Stop::Ordered);
                return Ok(if again { Outcome::Prepared } else { Outcome::Stopped });
            }
        };
        let output = match &mut self.child {
            Some(child) => child.last_words().await,
            None => String::new(),
        };
        self.child = None;
        self.recorder.ended();
        if let Err(error) = self.executor.discard_incomplete_start(&settings.paths) {
            log::error!("{error}");
        }
        let lasted = clock::now() - spawned_at;
        let (short_lives_before, damaged_before) = (self.short_runs, self.damaged_runs);
        let run = ProcessRun { ended, lasted, served: progress.served, short_lives_before, damaged_before };
        self.short_runs = if lasted < LIFE_THAT_RESETS { self.short_runs + 1 } else { 0 };
        self.damaged_runs = run.damaged(&output);
        Ok(Outcome::Ended(run, output))
    }

    /// What must be durable before etcd first runs under an id: the WAL volume's mark, then the ledger, then what was restored.
    fn record_launch(&self, launch: &Launch, paths: &Paths) -> Result<(), Trouble> {
        let kind = &launch.kind;
        if launch.staged.is_some() {
            // Room for what was restored, while nothing is recorded: this may move the mark, too.
            paths.quarantine(&clock::file_stamp())?;
        }
        if !matches!(kind, Kind::Resume) {
            paths.mark(self.acceptor_state.ledger().nonce)?;
        }
        let recorded = self.acceptor_state.amend(|ledger| match kind {
            Kind::New(list) => ledger.start_founding(list),
            Kind::Existing { cluster, member, .. } => ledger.start_joining(*cluster, *member),
            Kind::Resume => {}
        });
        recorded?;
        Ok(launch.staged.as_ref().map_or(Ok(()), |staged| staged.install(paths))?)
    }

    /// Waits out a temporary failure while serving the port, and decides again afterwards, because the cluster may change
    /// meanwhile.
    pub(super) async fn retry_later(&mut self, why: &str) -> Result<(), Failure> {
        let line = format!("hold: {why}");
        self.recorder.set_step(Label::hold("files_unusable"), &line);
        self.notify.tell(&format!("STATUS={line}"));
        // The failed step is reported in between.
        if self.last_warning.is_news_but_for_numbers(&line) {
            log::warn!("{line}");
        }
        let serving = self.serve().await?;
        clock::pause(self.holds.pause()).await;
        serving.close().await;
        Ok(())
    }

    /// etcd ended by itself: reports it, waits as long as the verdict demands while serving the port, then decides again.
    pub(super) async fn handle_exit(&mut self, run: &ProcessRun, output: &str) -> Result<(), Failure> {
        let how = match run.ended {
            Ended::Exited(code) => format!("exited with {code}"),
            Ended::Signaled(signal) => format!("was ended by signal {signal}"),
            Ended::Unseen => "ended in an unknown way".to_owned(),
        };
        let how = format!("etcd {how} after {} ms", run.lasted.as_millis());
        let verdict = verdict(run, output, clock::chance());
        self.condemned = None;
        match verdict {
            Verdict::Misconfigured => Err(Failure::new(
                Code::Config,
                format!("etcd refuses its settings: {}", refusal(output).unwrap_or_default().trim()),
            )),
            Verdict::Again(pause) => {
                let why = match self.damaged_runs {
                    0 if is_full(output) => {
                        format!("; no space left on device: {}; free some", self.settings().paths.room())
                    }
                    0 => String::new(),
                    lives => {
                        format!(
                            "; etcd reported damaged data ({lives} of {LIVES_THAT_CONDEMN} times in a row after \
                             which the data counts as damaged)"
                        )
                    }
                };
                let line = format!("{how}; deciding again in {} ms{why}", pause.as_millis());
                log::warn!("{line}");
                self.recorder.set_step(Label { step: "wait", kind: "etcd_ended" }, &line);
                self.notify.tell(&format!("STATUS={line}"));
                let serving = self.serve().await?;
                clock::pause(pause).await;
                serving.close().await;
                Ok(())
            }
            Verdict::Condemned { said, pause } => {
                log::warn!("{how}; deciding again in {} ms, or when a quorum answers", pause.as_millis());
                self.condemned = Some(said);
                let Paths { data, wal, .. } = self.settings().paths;
                let line = format!(
                    "hold: etcd reported damaged data {} times in a row: {said}; the data stays in place, and etcd \
                     is started with it every minute; this node rejoins by itself once a quorum of the other \
                     members answers; if they are lost, restore {} and {} from a copy, or restore a snapshot",
                    self.damaged_runs,
                    data.display(),
                    wal.display()
                );
                self.say(Label::hold("damaged_data"), &line);
                let serving = self.serve().await?;
                self.wait_for_a_replacement(pause).await;
                serving.close().await;
                Ok(())
            }
        }
    }

    /// R5: serves the chosen list for a while, so that a listed node that starts late learns its token.
    pub(super) async fn serve_choice(&mut self) -> Result<(), Failure> {
        let why = "etcd found no leader; serving the agreed list to nodes that started late";
        self.recorder.set_step(Label { step: "wait", kind: "yield" }, why);
        let serving = self.serve().await?;
        clock::pause(YIELD_TIME).await;
        serving.close().await;
        Ok(())
    }
}
