//! The only owner of state: observes, decides, acts, and starts over; handles signals and child exits in between.

pub mod background_probes;
pub mod certificates;
pub mod claim_store;
mod claim_watch;
mod dead_member_remover;
mod decision_loop;
pub mod departure;
pub mod earlier_snapshots;
mod etcd_release;
mod etcd_run;
pub mod executor;
mod hash_comparison;
pub mod lifecycle_hooks;
mod member_monitor;
pub mod observer;
mod preparation;
pub mod probe;
mod recovery;
mod restoration;
pub mod services;
pub mod snapshot_places;
mod snapshots;
pub mod startup;
mod stop;
pub mod termination_notice;
#[cfg(test)]
mod test_support;
mod twin;

use self::etcd_run::{FIRST_HOLD, LONGEST_HOLD, Outcome};

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::certificates::CertificateManager;
use self::claim_store::ClaimStore;
use self::executor::Executor;
use self::lifecycle_hooks::LifecycleHooks;
use self::observer::{Announce, Observer};
use self::restoration::Restoration;
use self::services::Services;
use self::snapshots::{SnapshotKeeper, Tools};
use self::startup::Startup;
use self::termination_notice::TerminationNotices;
use crate::config::Config;
use crate::core::label::Label;
use crate::core::release::{DataRelease, Installed};
use crate::core::step::Step;
use crate::core::types::{ClusterId, InitialList, InstanceId, Known, MemberId};
use crate::core::view::{DataDir, View};
use crate::discovery::addresses;
use crate::etcd::client::Client;
use crate::etcd::command::Settings;
use crate::etcd::data_dir::MUSTER_DIR;
use crate::net::tls::Acceptor;
use crate::peer::clients::{self, PeerClients};
use crate::peer::server::{AcceptorState, Serving, serve};
use crate::process::last_resort::{self, Obeyed};
use crate::process::notify::Notify;
use crate::process::reaper::Reaper;
use crate::process::signals::Blocked;
use crate::process::spawn::{Child, Output};
use crate::snapshot::restore::Staged;
use crate::snapshot::spool;
use crate::state::store::Identity;
use crate::status::journal::{self, JOURNAL, Journal, Seen};
use crate::status::recorder::StatusRecorder;
use crate::util::backoff::Backoff;
use crate::util::clock;
use crate::util::exit::{Code, Failure};
use crate::util::log_once::LogOnce;

/// The first pause between observations; it doubles up to `BOOTSTRAP_WAIT` while nothing changes.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How long the loop may go without a heartbeat, beyond the pauses that settings allow. Far more than any call takes, because
/// what ends a supervisor over this ends its etcd.
const LOOP_PATIENCE: Duration = Duration::from_secs(300);

/// Runs until a signal, or until a failure that a restart would not fix.
///
/// # Errors
/// Bad settings, unusable files of our own, a missing etcd.
pub async fn run(config: Config, signals: Blocked) -> Result<i32, Failure> {
    let of_system = |error: io::Error| Failure::new(Code::System, error);
    let (mut stop, exits, stop_too) = signals.handle().map_err(of_system)?;
    let reaper = Reaper::start(exits);
    let obeyed = last_resort::stand_by(stop_too, reaper.clone(), config.stop.timeout).map_err(of_system)?;
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let recorder = StatusRecorder::new(LOOP_PATIENCE + config.observation.longest_pause + config.stop.timeout);
    if let Some(period) = config.systemd.watchdog {
        // Beside the loop, because the loop's pauses may be longer than a period; on the loop's thread, so that a hanging
        // thread sends no heartbeat either.
        let (notify, recorder) = (Notify::to(config.systemd.notify_socket.clone()), recorder.clone());
        tokio::spawn(async move { notify.feed_watchdog(period, || recorder.is_live()).await });
    }
    let found = tokio::select! {
        biased;
        () = stop.signal() => {
            obeyed.set();
            return Ok(0);
        }
        found = startup::start(&config, &reaper, &recorder) => found?,
    };
    let acceptor = clients::acceptor(&config.etcd.peer.security).map_err(|cause| Failure::new(Code::System, cause))?;
    let mut daemon = Daemon::new(config, found, acceptor, reaper, recorder.clone(), obeyed);
    let ended = tokio::select! {
        biased;
        () = stop.signal() => None,
        outcome = daemon.supervise() => Some(outcome),
    };
    let outcome = match ended {
        Some(Err(failure)) => Err(failure),
        Some(Ok(never)) => match never {},
        None => Ok(daemon.stop().await),
    };
    recorder.flush();
    outcome
}

/// What a decision rests on, for people: what each other instance was seen as, and each member whose answer matters.
fn evidence(view: &View) -> Seen {
    let peers = view.peers.iter().map(|(id, peer)| {
        let silence = match peer.unanswered_for.as_secs() {
            0 => String::new(),
            seconds => format!(", for {seconds} s"),
        };
        (id.to_string(), format!("{}{silence}", peer.sighting))
    });
    let members = view.liveness.iter().map(|(id, liveness)| (format!("member {id}"), liveness.to_string()));
    journal::bounded(peers.chain(members))
}

/// `live` ends only by a failure.
#[derive(Debug)]
enum Never {}

struct Daemon {
    config: Config,
    identity: Identity,
    program: PathBuf,
    /// `etcd --version`, in progress.
    version: Option<Output>,
    /// Device, inode, size and change time of the queried file.
    program_file: Option<(u64, u64, u64, i64)>,
    installed: Installed,
    /// The release's defect, as last logged.
    defect: LogOnce,
    data_release: Known<DataRelease>,
    observer: Observer,
    /// `None`: the peer protocol is plain HTTP.
    acceptor: Option<Acceptor>,
    certificates: CertificateManager,
    snapshots: SnapshotKeeper,
    restoration: Restoration,
    acceptor_state: AcceptorState,
    claim: Arc<ClaimStore>,
    notices: Arc<TerminationNotices>,
    hooks: Arc<LifecycleHooks>,
    executor: Executor,
    etcd: Client,
    reaper: Reaper,
    notify: Notify,
    recorder: StatusRecorder,
    obeyed: Obeyed,
    child: Option<Child>,
    short_runs: u32,
    /// Consecutive short runs of etcd that ended with a report of damaged data, and etcd's words once there are so many that
    /// the data counts as damaged.
    damaged_runs: u32,
    condemned: Option<&'static str>,
    own_removed_at: Option<Instant>,
    /// The last run of etcd ended by a yield (R5): etcd itself reported that its data never elected a leader.
    yielded: bool,
    last_warning: LogOnce,
    /// The pauses before etcd is started again after a temporary failure.
    holds: Backoff,
    /// When EC2 was last called again because a peer caused it.
    roster_forced: Option<Instant>,
    wakeups: decision_loop::Wakeups,
}

/// How the decision loop ended.
struct Launch {
    kind: Kind,
    /// Data to be moved into place first.
    staged: Option<Staged>,
    /// Client URLs of the running cluster's members.
    others: Vec<String>,
}

enum Kind {
    New(InitialList),
    Existing { cluster: ClusterId, member: MemberId, initial_cluster: String },
    Resume,
}

impl Daemon {
    fn new(
        config: Config,
        found: Startup,
        acceptor: Option<Acceptor>,
        reaper: Reaper,
        recorder: StatusRecorder,
        obeyed: Obeyed,
    ) -> Self {
        let Startup { identity, program, version, acceptor_state, services } = found;
        let me = InstanceId(identity.instance.clone());
        let clients = PeerClients::new(&config.etcd, Some(&identity));
        let Services { discovery, claim, notices, hooks, ssm, earlier_snapshots, snapshots: (s3, parameters) } =
            services;
        claim.try_as(me.clone());
        recorder.keep_in(Journal::new(config.etcd.data.join(MUSTER_DIR).join(JOURNAL)));
        let restoration = Restoration::new(&config, s3.clone(), parameters.clone());
        let tools = Tools {
            s3,
            ssm: parameters,
            recorder: recorder.clone(),
            acceptor_state: acceptor_state.clone(),
            instance: identity.instance.clone(),
            spool: spool::dir_in(&config.etcd.data),
            reaper: reaper.clone(),
            program: program.clone(),
            user: config.etcd.user.clone(),
        };
        let holds = Backoff::new(FIRST_HOLD, config.observation.longest_pause.clamp(FIRST_HOLD, LONGEST_HOLD));
        Self {
            acceptor,
            certificates: CertificateManager::new(config.etcd.clone(), identity.clone(), ssm, recorder.clone()),
            executor: Executor::new(&config, clients.clone(), acceptor_state.clone(), claim.clone(), me),
            observer: Observer::new(
                &config,
                clients.clone(),
                discovery,
                claim.clone(),
                earlier_snapshots,
                Announce::Yes,
            ),
            restoration,
            snapshots: SnapshotKeeper::new(config.snapshots.clone(), tools),
            claim,
            notices,
            hooks,
            etcd: clients.etcd,
            notify: Notify::to(config.systemd.notify_socket.clone()),
            recorder,
            obeyed,
            config,
            identity,
            program,
            version: Some(version),
            program_file: None,
            installed: Installed::NotAsked,
            defect: LogOnce::default(),
            data_release: Known::Known(DataRelease::default()),
            acceptor_state,
            reaper,
            child: None,
            short_runs: 0,
            damaged_runs: 0,
            condemned: None,
            own_removed_at: None,
            yielded: false,
            last_warning: LogOnce::default(),
            holds,
            roster_forced: None,
            wakeups: decision_loop::Wakeups::default(),
        }
    }

    /// One run of etcd after another.
    async fn supervise(&mut self) -> Result<Never, Failure> {
        loop {
            let serving = self.serve().await?;
            self.secure().await;
            let launch = self.run_decision_loop().await?;
            serving.close().await;
            let outcome = self.run_etcd(&launch).await?;
            if let Outcome::NotYet(why) = outcome {
                self.retry_later(&why).await?;
                continue;
            }
            let left = self.acceptor_state.ledger().left;
            self.yielded = matches!(outcome, Outcome::Stopped) && !left;
            match outcome {
                Outcome::Stopped if !left => self.serve_choice().await?,
                Outcome::Ended(run, output) => self.handle_exit(&run, &output).await?,
                Outcome::Stopped | Outcome::Prepared | Outcome::NotYet(_) => {}
            }
        }
    }

    fn settings(&self) -> Settings {
        addresses::settings(&self.config.etcd, &self.identity)
    }

    /// Listens for peers; waits for a port in use, whatever uses it.
    async fn serve(&mut self) -> Result<Serving, Failure> {
        // etcd may have run since the last observation. Data that can't be read counts as data.
        let data = self.settings().paths.inspect();
        self.acceptor_state.set_has_data(data.map_or(true, |data| data != DataDir::Fresh));
        let addresses = addresses::roll_call_addresses(&self.settings());
        let addresses = addresses.map_err(|error| Failure::new(Code::Config, error))?;
        let mut backoff = Backoff::new(FIRST_PAUSE, self.config.observation.longest_pause);
        loop {
            match serve(&self.acceptor_state, &addresses, self.acceptor.as_ref()).await {
                Ok(serving) => return Ok(serving),
                Err(error) => self.say(
                    Label::hold("peer_port_in_use"),
                    &format!(
                        "hold: the supervisor can't listen on the peer port {error}; stop the program that uses \
                         PEER_PORT (another etcd or supervisor?)"
                    ),
                ),
            }
            clock::pause(backoff.pause()).await;
        }
    }

    /// Waits until everything that etcd needs to start is usable. Answers peers meanwhile: a node that lacks a certificate must
    /// not look like one on which nothing runs.
    async fn secure(&mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, self.config.observation.longest_pause);
        while let Err(cause) = self.certificates.prepare().await {
            self.say(Label::hold("certificates"), &format!("hold: {cause}"));
            clock::pause(backoff.pause()).await;
        }
    }

    /// Logs a decision when it changes, with the view in one line.
    fn report(&mut self, step: &Step, view: &View) {
        let seen = view.peers.iter().map(|(id, peer)| format!("{id} {}", peer.sighting)).collect::<Vec<_>>().join("; ");
        log::debug!("view: {seen}");
        self.recorder.decided(step.label(), evidence(view));
        self.recorder.set_data(match &view.data {
            DataDir::Whole { ids: Known::Known(ids) } => Some(*ids),
            _ => None,
        });
        if let Some(etcd) = view.living_clusters().values().next() {
            self.recorder.record_members(&etcd.members);
        }
        // Said once; what shows now is why it can't be done.
        if matches!(step, Step::StartNew(list) if self.restoration.has_failed(&list.token)) {
            return;
        }
        self.say(step.label(), &step.to_string());
    }

    /// Logs one line, unless it was the last one logged.
    fn say(&self, label: Label, line: &str) {
        if self.recorder.set_step(label, line) {
            log::info!(step = label.step, reason = label.kind; "{line}");
            self.notify.tell(&format!("STATUS={line}"));
        }
    }

    /// The same for a step that failed: the step itself is logged in between.
    fn complain(&mut self, label: Label, line: String) {
        self.recorder.failed(label, &line);
        if self.last_warning.is_news_but_for_numbers(&line) {
            log::warn!(step = label.step, reason = label.kind; "{line}");
        }
    }
}
