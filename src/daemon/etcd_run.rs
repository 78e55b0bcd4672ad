//! One life of etcd: recorded before it begins, attended while it lasts, judged when it ends.

use std::time::Duration;

use super::dead_member_remover::DeadMemberRemover;
use super::departure::Departure;
use super::member_monitor::{MemberMonitor, Progress, Stop};
use super::startup;
use super::stop::end_what_left;
use super::{Daemon, Kind, Launch};
use crate::core::label::Label;
use crate::core::restart::{
    Ended, LIFE_THAT_RESETS, LIVES_THAT_CONDEMN, ProcessRun, Verdict, is_full, refusal, verdict,
};
use crate::core::types::InstanceId;
use crate::discovery::addresses;
use crate::etcd::command::{Start, environment};
use crate::etcd::data_dir::Paths;
use crate::process::spawn::Child;
use crate::util::clock;
use crate::util::exit::{Code, Failure, Trouble};

/// The first pause over what passes; it doubles up to half a minute.
const FIRST_HOLD: Duration = Duration::from_secs(1);
/// R5: how long the roll call is served between two lives of an etcd that never elected.
const YIELD_TIME: Duration = Duration::from_secs(5);

/// What a launch came to.
pub(super) enum Outcome {
    /// etcd ended; its last output beside it.
    Ended(ProcessRun, String),
    /// It was told to yield, or has left its cluster.
    Stopped,
    /// It couldn't be started, over what passes.
    NotYet(String),
}

impl Daemon {
    /// Spawns etcd and stays with it.
    pub(super) async fn run_etcd(&mut self, launch: &Launch) -> Result<Outcome, Failure> {
        if let Some(version) = self.version.take() {
            self.release = startup::find_release(version).await;
        }
        let settings = self.settings();
        let start = match &launch.kind {
            Kind::New(list) => Start::New { initial_cluster: &list.initial_cluster(), token: &list.token },
            Kind::Existing { initial_cluster, .. } => Start::Existing { initial_cluster },
            Kind::Resume => Start::Resume,
        };
        let env = environment(&settings, &start, self.release);
        let recorded = self.record_launch(&launch.kind, &settings.paths);
        let spawned_at = clock::now();
        let spawn = || Child::spawn(&self.program, &env, &self.reaper);
        let spawned = recorded.and_then(|()| spawn().map_err(|cause| Trouble::of_program(&self.program, &cause)));
        let child = match spawned {
            Ok(child) => child,
            Err(Trouble { failure, may_pass: true }) => return Ok(Outcome::NotYet(failure.message())),
            Err(Trouble { failure, .. }) => return Err(failure),
        };
        self.not_yet = 0;
        log::info!("etcd runs as process {}", child.pid());
        self.journal.started(child.pid().as_raw());
        let child = &*self.child.insert(child);
        let listed = addresses::own_listing(&self.config, &self.identity);
        let attendant = MemberMonitor {
            etcd: &self.etcd,
            acceptor_state: &self.acceptor_state,
            claim: &self.claim,
            notify: &self.notify,
            journal: &self.journal,
            child,
            own_client_url: addresses::own_client_url(&settings),
            own_peer_url: addresses::own_peer_url(&settings),
            advertised: listed.peer_urls.clone(),
            advertised_to_clients: addresses::split(&settings.advertise_client_urls),
            others: launch.others.clone(),
            spawned_at,
            is_first_life: !matches!(launch.kind, Kind::Resume),
        };
        let leaver = Departure {
            etcd: &self.etcd,
            acceptor_state: &self.acceptor_state,
            notices: &self.notices,
            hooks: &self.hooks,
            instance: InstanceId(self.identity.instance.clone()),
            own_client_url: addresses::own_client_url(&settings),
            others: launch.others.clone(),
        };
        let mut progress = Progress::default();
        let mut reconciler = DeadMemberRemover {
            etcd: &self.etcd,
            observer: &mut self.observer,
            executor: &self.executor,
            acceptor_state: &self.acceptor_state,
            own_client_url: addresses::own_client_url(&settings),
            listed,
        };
        let ended = tokio::select! {
            ended = child.wait() => Ok(ended),
            stop = attendant.until_stop(&mut progress) => Err(stop),
            never = reconciler.every(self.config.reconcile) => match never {},
            never = self.certificates.forever() => match never {},
            () = leaver.until_left() => Err(Stop::Left),
        };
        let ended = match ended {
            Ok(ended) => ended,
            Err(Stop::Stuck) => child.stop(self.config.stop_timeout).await,
            Err(stop) => {
                match stop {
                    Stop::Left => end_what_left(child).await,
                    _ => _ = child.stop(self.config.stop_timeout).await,
                }
                self.child = None;
                self.journal.ended();
                return Ok(Outcome::Stopped);
            }
        };
        let output = match &mut self.child {
            Some(child) => child.last_words().await,
            None => String::new(),
        };
        self.child = None;
        self.journal.ended();
        if let Err(error) = self.executor.forget_what_never_began(&settings.paths) {
            log::error!("{error}");
        }
        let lasted = clock::now() - spawned_at;
        let (short_lives_before, damaged_before) = (self.short_lives, self.damaged_lives);
        let life = ProcessRun { ended, lasted, served: progress.served, short_lives_before, damaged_before };
        self.short_lives = if lasted < LIFE_THAT_RESETS { self.short_lives + 1 } else { 0 };
        self.damaged_lives = life.damaged(&output);
        Ok(Outcome::Ended(life, output))
    }

    /// What must be durable before etcd first runs under an id: the WAL volume's mark, then the ledger.
    fn record_launch(&self, kind: &Kind, paths: &Paths) -> Result<(), Trouble> {
        if !matches!(kind, Kind::Resume) {
            paths.mark(self.acceptor_state.ledger().nonce)?;
        }
        let recorded = self.acceptor_state.amend(|ledger| match kind {
            Kind::New(list) => ledger.start_founding(list),
            Kind::Existing { cluster, member, .. } => ledger.start_joining(*cluster, *member),
            Kind::Resume => {}
        });
        Ok(recorded?)
    }

    /// What passes is waited for with the port ours, and then decided anew: the world goes on meanwhile.
    pub(super) async fn hold_on(&mut self, why: &str) -> Result<(), Failure> {
        let line = format!("hold: {why}");
        self.journal.now(Label::hold("files_unusable"), &line);
        self.notify.tell(&format!("STATUS={line}"));
        // The step that comes to nothing is said in between.
        if self.complained.is_news_but_for_numbers(&line) {
            log::warn!("{line}");
        }
        let pause = FIRST_HOLD.saturating_mul(1 << self.not_yet.min(5)).min(self.config.bootstrap_wait);
        self.not_yet += 1;
        let serving = self.serve().await?;
        clock::pause(pause.max(FIRST_HOLD)).await;
        serving.close().await;
        Ok(())
    }

    /// etcd ended by itself: say so, wait as long as the verdict says with the port ours again, then decide anew.
    pub(super) async fn after(&mut self, life: &ProcessRun, output: &str) -> Result<(), Failure> {
        let how = match life.ended {
            Ended::Exited(code) => format!("exited with {code}"),
            Ended::Signaled(signal) => format!("was ended by signal {signal}"),
            Ended::Unseen => "ended unseen".to_owned(),
        };
        let how = format!("etcd {how} after {} ms", life.lasted.as_millis());
        let verdict = verdict(life, output, clock::chance());
        self.condemned = None;
        match verdict {
            Verdict::Misconfigured => Err(Failure::new(
                Code::Config,
                format!("etcd refuses its settings: {}", refusal(output).unwrap_or_default().trim()),
            )),
            Verdict::Again(pause) => {
                let why = match self.damaged_lives {
                    0 if is_full(output) => {
                        format!("; no space left on device: {}; free some", self.settings().paths.room())
                    }
                    0 => String::new(),
                    lives => {
                        format!("; it ended over its data ({lives} of {LIVES_THAT_CONDEMN} such lives condemn it)")
                    }
                };
                let line = format!("{how}; deciding again in {} ms{why}", pause.as_millis());
                log::warn!("{line}");
                self.journal.now(Label { step: "wait", kind: "etcd_ended" }, &line);
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
                    "hold: the data is damaged, by etcd's word in {} lives on end: {said}; it stays where it is, and etcd is \
                     started with it every minute; as soon as a quorum of its cluster without this member answers, this node \
                     joins anew by itself; if there is none, restore {} and {} from a copy, or a snapshot",
                    self.damaged_lives,
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

    /// R5: the chosen list is served for a while, so that a listed node that comes late learns its token.
    pub(super) async fn yield_to_the_late(&mut self) -> Result<(), Failure> {
        let why = "etcd had no leader; the chosen list is served to those who come late";
        self.journal.now(Label { step: "wait", kind: "yield" }, why);
        let serving = self.serve().await?;
        clock::pause(YIELD_TIME).await;
        serving.close().await;
        Ok(())
    }
}
