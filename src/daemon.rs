//! The only owner of state: observe, decide, act, and again; signals and child exits in between.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::act::{self, Actor};
use crate::attend::{Attendant, Progress};
use crate::clock;
use crate::cluster::decide::{decide, signs_of_a_cluster};
use crate::cluster::paxos::{Joined, Tally};
use crate::cluster::step::{Absence, Hold, Proposal, Quarantine, Step};
use crate::cluster::supervision::{Ended, LIFE_THAT_RESETS, Life, Verdict, verdict};
use crate::cluster::types::{ClusterId, InitialList, InstanceId, Known, MemberId};
use crate::cluster::view::{DataDir, Sighting, View};
use crate::config::Config;
use crate::etcd::client::Client;
use crate::etcd::command::{Release, Settings, Start, environment};
use crate::etcd::data_dir;
use crate::exit::{Code, Failure};
use crate::http;
use crate::identity;
use crate::ledger::Identity;
use crate::observe::{Observer, Own};
use crate::process::notify::Notify;
use crate::process::reaper::Reaper;
use crate::process::signals::Blocked;
use crate::process::spawn::{Child, Output};
use crate::rollcall::server::{Desk, Serving, serve};
use crate::startup::{self, Startup};
use crate::tls::Trust;

/// The first pause between looks; it doubles up to `BOOTSTRAP_WAIT` while nothing moves.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// While a proof of death ripens or another joins, so often.
const RIPENING_PAUSE: Duration = Duration::from_secs(1);
/// R1: a ballot older than this is dropped before the accept phase.
const BALLOT_LIFE: Duration = Duration::from_secs(5);
/// R5: how long the roll call is served between two lives of an etcd that never elected.
const YIELD_TIME: Duration = Duration::from_secs(5);
/// Moving leadership must not hold up a stop.
const MOVE_LEADER_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs until a signal or a failure that a restart would not mend.
///
/// # Errors
/// Settings, our own files, a missing etcd.
pub async fn run(config: Config, signals: Blocked) -> Result<i32, Failure> {
    let (mut stop, exits) = signals.handle().map_err(|e| Failure::new(Code::System, e))?;
    let reaper = Reaper::start(exits);
    for notice in &config.notices {
        log::warn!("{notice}");
    }
    let found = tokio::select! {
        biased;
        () = stop.signal() => return Ok(0),
        found = startup::look_around(&config, &reaper) => found?,
    };
    let mut daemon = Daemon::new(config, found, reaper);
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
    desk: Desk,
    actor: Actor,
    etcd: Client,
    reaper: Reaper,
    notify: Notify,
    child: Option<Child>,
    short_lives: u32,
    own_removed_at: Option<Instant>,
    /// The last life of etcd ended by a yield (R5): it said itself that its data never elected.
    yielded: bool,
    said: String,
    complained: String,
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
    fn new(config: Config, found: Startup, reaper: Reaper) -> Self {
        let Startup { identity, program, version, desk, cloud } = found;
        let me = InstanceId(identity.instance.clone());
        Self {
            actor: Actor::new(desk.clone(), me, config.peer_port, config.probe_timeout),
            observer: Observer::new(config.clone(), cloud, true),
            etcd: Client::new(http::Client::new(Trust::public(None))),
            notify: Notify::to(config.notify_socket.clone()),
            config,
            identity,
            program,
            version: Some(version),
            release: None,
            desk,
            reaper,
            child: None,
            short_lives: 0,
            own_removed_at: None,
            yielded: false,
            said: String::new(),
            complained: String::new(),
        }
    }

    /// One life of etcd after another.
    async fn live(&mut self) -> Result<Never, Failure> {
        loop {
            let serving = self.serve().await?;
            let launch = self.deliberate().await?;
            serving.close().await;
            let (life, output) = self.run_etcd(&launch).await?;
            self.yielded = life.is_none();
            match life {
                None => self.yield_to_the_late().await?,
                Some(life) => self.after(&life, &output).await?,
            }
        }
    }

    fn settings(&self) -> Settings {
        identity::settings(&self.config, &self.identity)
    }

    /// Listens for the roll call; a port in use is waited for, whoever holds it.
    async fn serve(&mut self) -> Result<Serving, Failure> {
        let addresses = identity::roll_call_addresses(&self.settings());
        let addresses = addresses.map_err(|error| Failure::new(Code::Config, error))?;
        let mut pause = FIRST_PAUSE;
        loop {
            match serve(&self.desk, &addresses).await {
                Ok(serving) => return Ok(serving),
                Err(error) => self.say(format!(
                    "hold: the roll call can't listen on {error}; stop what holds PEER_PORT (another etcd or supervisor?)"
                )),
            }
            clock::pause(pause).await;
            pause = (pause * 2).min(self.config.bootstrap_wait);
        }
    }

    /// Observes and decides until etcd is to start.
    async fn deliberate(&mut self) -> Result<Launch, Failure> {
        let mut pause = FIRST_PAUSE;
        let mut shown = None;
        loop {
            let paths = self.settings().paths;
            if let Err(error) = self.actor.finish_quarantine(&paths) {
                self.say(format!("hold: {error}"));
                clock::pause(RIPENING_PAUSE).await;
                continue;
            }
            let view = match self.look().await {
                Ok(view) => view,
                Err(error) => {
                    self.say(format!("hold: {error}"));
                    clock::pause(RIPENING_PAUSE).await;
                    continue;
                }
            };
            let step = decide(self.observer.policy(), &view);
            self.report(&step, &view);
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
                Step::Halt(_) => self.pause_or_stir(self.config.bootstrap_wait).await,
                // Beaten, or too few: jitter parts two proposers.
                Step::Propose(_) if self.desk.ledger().chosen.is_none() => clock::pause(clock::jittered(pause)).await,
                _ => {}
            }
            pause = (pause * 2).min(self.config.bootstrap_wait);
        }
    }

    async fn look(&mut self) -> Result<View, data_dir::Error> {
        let data = self.settings().paths.inspect()?;
        let cluster = match &data {
            DataDir::Whole { ids: Known::Known((cluster, _)) } => Some(*cluster),
            _ => None,
        };
        let own = Own {
            listed: identity::own_listing(&self.config, &self.identity),
            data: data.clone(),
            yielded: self.yielded,
            ledger: self.desk.ledger(),
            since_own_removal: self.own_removed_at.map(|at| clock::now() - at),
        };
        let (desk, policy) = (self.desk.clone(), self.config.policy.clone());
        let has_data = data != DataDir::Fresh;
        let mut view =
            self.observer.look(&own, |roster| desk.standing_is(roster.known(), &policy, has_data, cluster)).await;
        let answered = |sighting: &Sighting| !matches!(sighting, Sighting::Refused | Sighting::Silent(_));
        self.desk.saw(view.peers.iter().filter(|(_, p)| answered(&p.sighting)).map(|(id, _)| id.clone()).collect());
        // The ledger may have moved while we looked.
        view.ledger = self.desk.ledger();
        Ok(view)
    }

    /// Carries out a step. `Some`: etcd is to be started.
    async fn take(&mut self, step: &Step, view: &View) -> Result<Option<Launch>, Failure> {
        let outcome = match step {
            Step::Hold(_) | Step::Halt(_) => Ok(()),
            Step::Propose(proposal) => self.found(proposal, view).await,
            Step::FoundAlone { accepted, .. } => self.actor.found_alone(accepted),
            Step::StartNew(list) => return Ok(self.start_new(list, view).await),
            Step::StartExisting { cluster, member, initial_cluster } => {
                let (cluster, member, initial_cluster) = (*cluster, *member, initial_cluster.clone());
                let kind = Kind::Existing { cluster, member, initial_cluster };
                return Ok(Some(Launch { kind, others: client_urls(view) }));
            }
            Step::Resume => return Ok(Some(Launch { kind: Kind::Resume, others: client_urls(view) })),
            Step::RemoveMember { id, .. } => self.remove(*id, view).await,
            Step::AddSelf => self.add_self(view).await,
            Step::UpdateSelf { id } => match view.living_clusters().values().next() {
                Some(etcd) => self.actor.update_self(etcd, *id, &view.me.listed.peer_urls).await,
                None => Ok(()),
            },
            Step::Quarantine(why) => self.quarantine(matches!(why, Quarantine::Void { .. })).map(|stamp| {
                log::warn!("the data now lies in quarantine-{stamp}; delete it when it is no longer needed");
            }),
        };
        if let Err(error) = outcome {
            self.complain(format!("{step}: {error}; observing again"));
            // Another try at once would meet the same world.
            clock::pause(clock::jittered(RIPENING_PAUSE)).await;
        }
        Ok(None)
    }

    async fn start_new(&mut self, list: &InitialList, view: &View) -> Option<Launch> {
        if let Err(error) = self.desk.learn(list) {
            self.say(format!("hold: {error}"));
            clock::pause(RIPENING_PAUSE).await;
            return None;
        }
        self.actor.offer(list, view).await;
        self.actor.pace(list, view).await;
        Some(Launch { kind: Kind::New(list.clone()), others: Vec::new() })
    }

    async fn remove(&mut self, id: MemberId, view: &View) -> Result<(), act::Error> {
        let Some(etcd) = view.living_clusters().into_values().next() else { return Ok(()) };
        let own = etcd.members.iter().any(|m| m.id == id && m.name == view.me.listed.name);
        self.actor.remove(etcd, id).await?;
        log::info!("member {id} is removed");
        if own {
            self.own_removed_at = Some(clock::now());
        }
        Ok(())
    }

    async fn add_self(&mut self, view: &View) -> Result<(), act::Error> {
        let Some(etcd) = view.living_clusters().into_values().next() else { return Ok(()) };
        let member = self.actor.add_self(etcd, &view.me.listed.peer_urls).await?;
        log::info!("added as learner {member} to cluster {}", etcd.cluster);
        Ok(())
    }

    /// One founding round (R1, R2).
    async fn found(&mut self, proposal: &Proposal, view: &View) -> Result<(), act::Error> {
        let begun = clock::now();
        let standing = view.standing(self.observer.policy());
        let list = match self.actor.prepare(proposal, view, &standing).await? {
            Tally::Free => proposal.list.clone(),
            Tally::Adopt(list) => list,
            Tally::Chosen(list) => return Ok(self.desk.learn(&list)?),
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
        match self.actor.accept(proposal, &list, &again).await? {
            Tally::Chosen(list) => {
                log::info!("chosen: {} (token {})", list.initial_cluster(), list.token);
                Ok(self.desk.learn(&list)?)
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
            Hold::Absent { why: Absence::Grace { waited, grace }, .. } => grace.saturating_sub(*waited),
            Hold::Settling | Hold::Spare { .. } | Hold::AddressTaken { .. } | Hold::AnotherJoins { .. } => {
                RIPENING_PAUSE
            }
            Hold::DifferentRoster { .. } => {
                self.observer.expire_roster();
                self.config.bootstrap_wait
            }
            _ => self.config.bootstrap_wait,
        };
        self.pause_or_stir(pause.min(most.max(FIRST_PAUSE))).await;
    }

    async fn pause_or_stir(&mut self, pause: Duration) {
        let _either_way = tokio::time::timeout(pause, self.desk.stirred()).await;
        if self.desk.take_callers().iter().any(|id| !self.observer.knows(id)) {
            self.observer.expire_roster();
        }
    }

    /// Spawns etcd and stays with it. `None` for its life: it was told to yield.
    async fn run_etcd(&mut self, launch: &Launch) -> Result<(Option<Life>, String), Failure> {
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
        self.record_launch(&launch.kind)?;
        let spawned_at = clock::now();
        let child = match Child::spawn(&self.program, &env, &self.reaper) {
            Ok(child) => child,
            Err(cause) => {
                return Err(Failure::new(
                    Code::EtcdMissing,
                    format!("{} can't be run: {cause}", self.program.display()),
                ));
            }
        };
        log::info!("etcd runs as process {}", child.pid());
        let child = self.child.insert(child);
        let attendant = Attendant {
            etcd: &self.etcd,
            desk: &self.desk,
            notify: &self.notify,
            own_client_url: identity::own_client_url(&settings),
            own_peer_url: identity::own_peer_url(&settings),
            others: launch.others.clone(),
            spawned_at,
        };
        let mut progress = Progress::default();
        let ended = tokio::select! {
            ended = child.wait() => Some(ended),
            () = attendant.until_yield(&mut progress) => None,
        };
        let Some(ended) = ended else {
            child.stop(self.config.stop_timeout).await;
            self.child = None;
            return Ok((None, String::new()));
        };
        let output = child.last_words().await;
        self.child = None;
        if !progress.served && !matches!(launch.kind, Kind::Resume) {
            self.forget_a_life_that_never_was();
        }
        let lasted = clock::now() - spawned_at;
        let short_lives_before = self.short_lives;
        self.short_lives = if lasted < LIFE_THAT_RESETS { self.short_lives + 1 } else { 0 };
        Ok((Some(Life { ended, lasted, served: progress.served, short_lives_before }), output))
    }

    fn quarantine(&self, never_ran: bool) -> Result<String, act::Error> {
        self.actor.quarantine(&self.settings().paths, never_ran)
    }

    /// A first life that ended before it made a WAL has cast no vote (a bad setting, a port in use): what it left, a backend
    /// at most, is moved aside, and it counts as never begun.
    fn forget_a_life_that_never_was(&self) {
        if !self.settings().paths.holds_wal()
            && let Err(error) = self.quarantine(true)
        {
            log::error!("{error}");
        }
    }

    /// What must be durable before etcd first runs under an id.
    fn record_launch(&self, kind: &Kind) -> Result<(), Failure> {
        let recorded = self.desk.amend(|ledger| match kind {
            Kind::New(list) => {
                ledger.chosen = Some(list.clone());
                ledger.founded = true;
                ledger.never_elected = true;
            }
            Kind::Existing { cluster, member, .. } => {
                ledger.joined = Some(Joined { cluster: *cluster, member: *member, spawned: true });
                ledger.never_elected = false;
            }
            Kind::Resume => {}
        });
        recorded.map_err(|error| Failure::new(Code::DataDirUnwritable, error))
    }

    /// etcd ended by itself: say so, wait as long as the verdict says with the port ours again, then decide anew.
    async fn after(&mut self, life: &Life, output: &str) -> Result<(), Failure> {
        let how = match life.ended {
            Ended::Exited(code) => format!("exited with {code}"),
            Ended::Signaled(signal) => format!("was ended by signal {signal}"),
        };
        match verdict(life, output, clock::chance()) {
            Verdict::Misconfigured => {
                let line =
                    output.lines().rev().find(|l| l.contains("failed to verify flags")).or(output.lines().next());
                Err(Failure::new(
                    Code::Config,
                    format!("etcd refuses its settings: {}", line.unwrap_or_default().trim()),
                ))
            }
            Verdict::Again(pause) => {
                log::warn!(
                    "etcd {how} after {} ms; deciding again in {} ms",
                    life.lasted.as_millis(),
                    pause.as_millis()
                );
                self.said.clear();
                let serving = self.serve().await?;
                clock::pause(pause).await;
                serving.close().await;
                Ok(())
            }
        }
    }

    /// R5: the chosen list is served for a while, so that a listed node that comes late learns its token.
    async fn yield_to_the_late(&mut self) -> Result<(), Failure> {
        self.said.clear();
        let serving = self.serve().await?;
        clock::pause(YIELD_TIME).await;
        serving.close().await;
        Ok(())
    }

    /// A stop that was asked for: leadership first, then etcd.
    async fn stop(&mut self) -> i32 {
        self.notify.tell("STOPPING=1");
        let Some(child) = &self.child else {
            log::info!("stopped");
            return 0;
        };
        if !child.has_ended() {
            let url = identity::own_client_url(&identity::settings(&self.config, &self.identity));
            let _best_effort = tokio::time::timeout(MOVE_LEADER_TIMEOUT, move_leadership(&self.etcd, &url)).await;
        }
        match child.stop(self.config.stop_timeout).await {
            Ended::Exited(0) | Ended::Signaled(15) => {
                log::info!("etcd stopped");
                0
            }
            ended => {
                log::warn!("etcd's stop ended as {ended:?}");
                ended.exit_code()
            }
        }
    }

    /// Logs a decision when it changes, with the view in a line.
    fn report(&mut self, step: &Step, view: &View) {
        let seen = view.peers.iter().map(|(id, peer)| format!("{id} {}", peer.sighting)).collect::<Vec<_>>().join("; ");
        log::debug!("view: {seen}");
        self.say(step.to_string());
    }

    /// One line, unless it was the last one said.
    fn say(&mut self, line: String) {
        if self.said != gist(&line) {
            log::info!("{line}");
            self.notify.tell(&format!("STATUS={line}"));
            self.said = gist(&line);
        }
    }

    /// The same for a step that failed: the step itself is said in between.
    fn complain(&mut self, line: String) {
        if self.complained != gist(&line) {
            log::warn!("{line}");
            self.complained = gist(&line);
        }
    }
}

/// A line without the numbers that merely count on.
fn gist(line: &str) -> String {
    line.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// What a change in looks worth looking sooner: everything but how long things have lasted.
fn scene(
    view: &View,
    step: &Step,
) -> (BTreeMap<InstanceId, std::mem::Discriminant<Sighting>>, std::mem::Discriminant<Step>) {
    let sightings = view.peers.iter().map(|(id, peer)| (id.clone(), std::mem::discriminant(&peer.sighting)));
    (sightings.collect(), std::mem::discriminant(step))
}

fn client_urls(view: &View) -> Vec<String> {
    view.etcds().filter(|(_, etcd)| etcd.has_quorum).map(|(_, etcd)| etcd.client_url.clone()).collect()
}

async fn move_leadership(etcd: &Client, url: &str) {
    let Ok(status) = etcd.status(url, MOVE_LEADER_TIMEOUT).await else { return };
    if status.leader != Some(status.member) {
        return;
    }
    let Ok(list) = etcd.member_list(url, MOVE_LEADER_TIMEOUT).await else { return };
    let heir = list.members.iter().find(|m| m.id != status.member && !m.is_learner && !m.client_urls.is_empty());
    let Some(heir) = heir else { return };
    match etcd.move_leader(url, heir.id, MOVE_LEADER_TIMEOUT).await {
        Ok(()) => log::info!("leadership moved to member {}", heir.id),
        Err(error) => log::warn!("leadership could not be moved: {error}"),
    }
}
