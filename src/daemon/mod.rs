//! The only owner of state: observe, decide, act, and again; signals and child exits in between.

pub mod background_probes;
pub mod certificates;
pub mod claim_store;
mod dead_member_remover;
mod decision_loop;
mod departure;
mod etcd_run;
mod executor;
pub mod lifecycle_hooks;
mod member_monitor;
pub mod observer;
pub mod probe;
pub mod services;
mod startup;
mod stop;
pub mod termination_notice;

use self::etcd_run::Outcome;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::certificates::CertificateManager;
use self::claim_store::ClaimStore;
use self::executor::Executor;
use self::lifecycle_hooks::LifecycleHooks;
use self::observer::Observer;
use self::services::Services;
use self::startup::Startup;
use self::termination_notice::TerminationNotices;
use crate::config::Config;
use crate::core::label::Label;
use crate::core::step::Step;
use crate::core::types::{ClusterId, InitialList, InstanceId, Known, MemberId};
use crate::core::view::{DataDir, View};
use crate::discovery::addresses;
use crate::etcd::client::Client;
use crate::etcd::command::{Release, Settings};
use crate::net::tls::Acceptor;
use crate::peer::clients::{self, PeerClients};
use crate::peer::server::{AcceptorState, Serving, serve};
use crate::process::last_resort::{self, Obeyed};
use crate::process::notify::Notify;
use crate::process::reaper::Reaper;
use crate::process::signals::Blocked;
use crate::process::spawn::{Child, Output};
use crate::state::store::Identity;
use crate::status::recorder::StatusRecorder;
use crate::util::backoff::Backoff;
use crate::util::clock;
use crate::util::exit::{Code, Failure};
use crate::util::log_once::LogOnce;

/// The first pause between looks; it doubles up to `BOOTSTRAP_WAIT` while nothing moves.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How long the loop may go without a sign of life, beyond the pauses that settings allow. Far more than any call takes: what
/// ends a supervisor over this ends its etcd.
const LOOP_PATIENCE: Duration = Duration::from_secs(300);

/// Runs until a signal or a failure that a restart would not mend.
///
/// # Errors
/// Settings, our own files, a missing etcd.
pub async fn run(config: Config, signals: Blocked) -> Result<i32, Failure> {
    let of_system = |error: io::Error| Failure::new(Code::System, error);
    let (mut stop, exits, stop_too) = signals.handle().map_err(of_system)?;
    let reaper = Reaper::start(exits);
    let obeyed = last_resort::stand_by(stop_too, reaper.clone(), config.stop_timeout).map_err(of_system)?;
    for notice in &config.notices {
        log::warn!("{notice}");
    }
    let journal = StatusRecorder::new(LOOP_PATIENCE + config.bootstrap_wait + config.stop_timeout);
    if let Some(period) = config.watchdog {
        // Beside the loop, for its pauses may be longer than a period; on its thread, so that one that hangs shows no life either.
        let (notify, journal) = (Notify::to(config.notify_socket.clone()), journal.clone());
        tokio::spawn(async move { notify.feed_watchdog(period, || journal.is_live()).await });
    }
    let found = tokio::select! {
        biased;
        () = stop.signal() => {
            obeyed.set();
            return Ok(0);
        }
        found = startup::look_around(&config, &reaper, &journal) => found?,
    };
    let acceptor = clients::acceptor(&config.peer).map_err(|cause| Failure::new(Code::System, cause))?;
    let mut daemon = Daemon::new(config, found, acceptor, reaper, journal, obeyed);
    let ended = tokio::select! {
        biased;
        () = stop.signal() => None,
        outcome = daemon.live() => Some(outcome),
    };
    match ended {
        Some(Err(failure)) => Err(failure),
        Some(Ok(never)) => match never {},
        None => Ok(daemon.stop().await),
    }
}

/// `live` ends by a failure only.
enum Never {}

struct Daemon {
    config: Config,
    identity: Identity,
    program: PathBuf,
    version: Option<Output>,
    release: Option<Release>,
    observer: Observer,
    /// `None`: the roll call is plain.
    acceptor: Option<Acceptor>,
    certificates: CertificateManager,
    acceptor_state: AcceptorState,
    claim: Arc<ClaimStore>,
    notices: Arc<TerminationNotices>,
    hooks: Arc<LifecycleHooks>,
    executor: Executor,
    etcd: Client,
    reaper: Reaper,
    notify: Notify,
    journal: StatusRecorder,
    obeyed: Obeyed,
    child: Option<Child>,
    short_lives: u32,
    /// Short lives on end that etcd ended over its data, and its words once they are so many that the data is condemned.
    damaged_lives: u32,
    condemned: Option<&'static str>,
    own_removed_at: Option<Instant>,
    /// The last life of etcd ended by a yield (R5): it said itself that its data never elected.
    yielded: bool,
    complained: LogOnce,
    /// How often on end etcd couldn't be started, over what passes.
    not_yet: u32,
    /// When EC2 was last asked anew because somebody wanted it.
    roster_forced: Option<Instant>,
    stirs: decision_loop::Stirs,
}

/// How the deliberation ended.
struct Launch {
    kind: Kind,
    /// Client URLs of the living cluster's members.
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
        journal: StatusRecorder,
        obeyed: Obeyed,
    ) -> Self {
        let Startup { identity, program, version, acceptor_state, services } = found;
        let me = InstanceId(identity.instance.clone());
        let reach = PeerClients::new(&config, Some(&identity));
        let Services { cloud, claim, notices, hooks, ssm } = services;
        claim.is_tried_as(me.clone());
        Self {
            acceptor,
            certificates: CertificateManager::new(config.clone(), identity.clone(), ssm, journal.clone()),
            executor: Executor::new(config.clone(), reach.clone(), acceptor_state.clone(), claim.clone(), me),
            observer: Observer::new(config.clone(), reach.clone(), cloud, claim.clone(), true),
            claim,
            notices,
            hooks,
            etcd: reach.etcd,
            notify: Notify::to(config.notify_socket.clone()),
            journal,
            obeyed,
            config,
            identity,
            program,
            version: Some(version),
            release: None,
            acceptor_state,
            reaper,
            child: None,
            short_lives: 0,
            damaged_lives: 0,
            condemned: None,
            own_removed_at: None,
            yielded: false,
            complained: LogOnce::default(),
            not_yet: 0,
            roster_forced: None,
            stirs: decision_loop::Stirs::default(),
        }
    }

    /// One life of etcd after another.
    async fn live(&mut self) -> Result<Never, Failure> {
        loop {
            let serving = self.serve().await?;
            self.secure().await;
            let launch = self.deliberate().await?;
            serving.close().await;
            let outcome = self.run_etcd(&launch).await?;
            if let Outcome::NotYet(why) = outcome {
                self.hold_on(&why).await?;
                continue;
            }
            let left = self.acceptor_state.ledger().left;
            self.yielded = matches!(outcome, Outcome::Stopped) && !left;
            match outcome {
                Outcome::Stopped if !left => self.yield_to_the_late().await?,
                Outcome::Ended(life, output) => self.after(&life, &output).await?,
                Outcome::Stopped | Outcome::NotYet(_) => {}
            }
        }
    }

    fn settings(&self) -> Settings {
        addresses::settings(&self.config, &self.identity)
    }

    /// Listens for the roll call; a port in use is waited for, whoever holds it.
    async fn serve(&mut self) -> Result<Serving, Failure> {
        // etcd may have run since the last look. What can't be read counts as data.
        let data = self.settings().paths.inspect();
        self.acceptor_state.has_data_is(data.map_or(true, |data| data != DataDir::Fresh));
        let addresses = addresses::roll_call_addresses(&self.settings());
        let addresses = addresses.map_err(|error| Failure::new(Code::Config, error))?;
        let mut backoff = Backoff::new(FIRST_PAUSE, self.config.bootstrap_wait);
        loop {
            match serve(&self.acceptor_state, &addresses, self.acceptor.as_ref()).await {
                Ok(serving) => return Ok(serving),
                Err(error) => self.say(
                    Label::hold("peer_port_in_use"),
                    &format!(
                        "hold: the roll call can't listen on {error}; stop what holds PEER_PORT (another etcd or supervisor?)"
                    ),
                ),
            }
            clock::pause(backoff.pause()).await;
        }
    }

    /// Waits until what etcd is to be started with is fit. The roll call is served meanwhile: a node in need of a certificate must
    /// not look like one on which nothing runs.
    async fn secure(&mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, self.config.bootstrap_wait);
        while let Err(cause) = self.certificates.prepare().await {
            self.say(Label::hold("certificates"), &format!("hold: {cause}"));
            clock::pause(backoff.pause()).await;
        }
    }

    /// Logs a decision when it changes, with the view in a line.
    fn report(&mut self, step: &Step, view: &View) {
        let seen = view.peers.iter().map(|(id, peer)| format!("{id} {}", peer.sighting)).collect::<Vec<_>>().join("; ");
        log::debug!("view: {seen}");
        self.journal.decided(step.label());
        self.journal.data_is_of(match &view.data {
            DataDir::Whole { ids: Known::Known(ids) } => Some(*ids),
            _ => None,
        });
        if let Some(etcd) = view.living_clusters().values().next() {
            self.journal.saw_members(&etcd.members);
        }
        self.say(step.label(), &step.to_string());
    }

    /// One line, unless it is what was said last.
    fn say(&self, label: Label, line: &str) {
        if self.journal.now(label, line) {
            log::info!("{line}");
            self.notify.tell(&format!("STATUS={line}"));
        }
    }

    /// The same for a step that failed: the step itself is said in between.
    fn complain(&mut self, label: Label, line: String) {
        self.journal.failed(label, &line);
        if self.complained.is_news_but_for_numbers(&line) {
            log::warn!("{line}");
        }
    }
}
