//! Takes snapshots while etcd runs here as the leader, proves them where they are stored, and deletes those that retention may
//! delete. A failure is one line and a later attempt: nothing else depends on it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::snapshot_places;
use crate::aws::s3::S3;
use crate::aws::ssm::Ssm;
use crate::config;
use crate::core::snapshot::manifest::{Level, Manifest, Reason, seconds};
use crate::core::snapshot::name::Name;
use crate::core::snapshot::retention::{Kept, Object, Question, plan};
use crate::core::snapshot::schedule::{History, is_unchanged, wait};
use crate::core::types::ClusterId;
use crate::etcd::client::{Client, Status};
use crate::etcd::login::Login;
use crate::peer::server::AcceptorState;
use crate::process::reaper::Reaper;
use crate::snapshot::catalog;
use crate::snapshot::envelope::OperatorKey;
use crate::snapshot::place::Place;
use crate::snapshot::store::{Ended, Proof, Stored, prune, store, verify};
use crate::snapshot::take::{self, Order, Taken, take};
use crate::snapshot::verify::Trial;
use crate::status::recorder::StatusRecorder;
use crate::status::snapshot::PlaceStatus;
use crate::util::clock;
use crate::util::log_once::LogOnce;

/// One request to our own etcd per interval shows whether it leads.
const REST: Duration = Duration::from_secs(10);
const SHORTEST_REST: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a follower restores the newest on trial, and when it tries again if that failed.
const TRIAL_EVERY: Duration = Duration::from_secs(24 * 3_600);
const TRIAL_AGAIN: Duration = Duration::from_secs(3_600);

/// What is needed to take snapshots and to store them.
#[derive(Debug)]
pub struct Tools {
    pub s3: S3,
    pub ssm: Ssm,
    pub recorder: StatusRecorder,
    pub acceptor_state: AcceptorState,
    /// This instance.
    pub instance: String,
    /// Where they lie until they are stored.
    pub spool: PathBuf,
    pub reaper: Reaper,
    /// The etcd program.
    pub program: PathBuf,
    /// For a restore on trial, if authentication is enabled: the user, and the file with the password.
    pub user: Option<(String, PathBuf)>,
}

/// Takes this node's snapshots, over all runs of its etcd.
#[derive(Debug)]
pub struct SnapshotKeeper {
    settings: config::Snapshots,
    tools: Tools,
    places: Vec<Watched>,
    /// When a snapshot was last restored on trial here, and how long nothing more is due.
    trial: Option<(Instant, Duration)>,
    last_warning: LogOnce,
}

/// A place, and what happened there since this supervisor started.
#[derive(Debug)]
struct Watched {
    place: Arc<Place>,
    /// As the status page shows it.
    shown: PlaceStatus,
    succeeded: Option<Instant>,
    attempted: Option<Instant>,
    failures: u32,
    /// How long ago its newest one was taken, when this was read, and that moment.
    newest: Option<(Duration, Instant)>,
    /// It was looked at since this node began to lead.
    is_known: bool,
    /// The newest snapshot of the cluster there, and up to where the log was committed when it was taken.
    latest: Option<(Manifest, u64)>,
    said: LogOnce,
    /// Why a restore on trial failed, as last logged.
    tried: LogOnce,
    /// What retention found there, as last logged.
    found: LogOnce,
}

impl Watched {
    fn new(place: Arc<Place>, every: Option<Duration>) -> Self {
        let interval_seconds = every.map(|every| every.as_secs());
        let shown = PlaceStatus { place: place.to_string(), interval_seconds, ..PlaceStatus::default() };
        Self {
            place,
            shown,
            succeeded: None,
            attempted: None,
            failures: 0,
            newest: None,
            is_known: false,
            latest: None,
            said: LogOnce::default(),
            tried: LogOnce::default(),
            found: LogOnce::default(),
        }
    }

    fn history(&self) -> History {
        let now = clock::now();
        let since = |moment: Option<Instant>| moment.map(|moment| now.saturating_duration_since(moment));
        History {
            since_success: since(self.succeeded),
            since_attempt: since(self.attempted),
            failures: self.failures,
            newest: self.newest.map(|(age, at)| age + now.saturating_duration_since(at)),
        }
    }

    fn failed(&mut self, reason: &str, line: &str) {
        self.attempted = Some(clock::now());
        self.failures = self.failures.saturating_add(1);
        *self.shown.failures_total.entry(reason.to_owned()).or_default() += 1;
        self.shown.trouble = Some(line.to_owned());
        if self.said.is_news_but_for_numbers(line) {
            log::warn!("snapshot: {line}");
        }
    }

    /// When the next snapshot is due does not depend on a trial.
    fn not_restored(&mut self, reason: &str, line: &str) {
        *self.shown.failures_total.entry(reason.to_owned()).or_default() += 1;
        self.shown.trouble = Some(line.to_owned());
        if self.tried.is_news_but_for_numbers(line) {
            log::warn!("snapshot: {line}");
        }
    }

    fn unlisted(&mut self, reason: &str, line: &str) {
        *self.shown.failures_total.entry(reason.to_owned()).or_default() += 1;
        if self.found.is_news_but_for_numbers(line) {
            log::warn!("snapshot: {line}");
        }
    }

    fn stored(&mut self, manifest: &Manifest, committed: u64) {
        self.show(manifest);
        self.shown.last_success = Some(clock::epoch());
        self.latest = Some((manifest.clone(), committed));
    }

    fn proved(&mut self, manifest: &Manifest) {
        let now = clock::now();
        (self.attempted, self.succeeded, self.failures) = (Some(now), Some(now), 0);
        self.said.forget();
        self.show(manifest);
        self.shown.trouble = None;
    }

    fn show(&mut self, manifest: &Manifest) {
        let shown = &mut self.shown;
        (shown.name, shown.revision, shown.size_bytes) =
            (manifest.name().to_string(), Some(manifest.revision), Some(manifest.size));
        let verified = manifest.verified.as_ref();
        if let Some(verified) = verified {
            shown.last_verified = seconds(&verified.at);
            shown.verified = Some(verified.level.name().to_owned());
        }
    }
}

/// Of whom a snapshot is taken.
struct Member<'a> {
    etcd: &'a Client,
    url: &'a str,
    status: Status,
}

impl SnapshotKeeper {
    /// A keeper for these settings; without a place it does nothing.
    pub fn new(settings: config::Snapshots, tools: Tools) -> Self {
        Self { settings, tools, places: Vec::new(), trial: None, last_warning: LogOnce::default() }
    }

    /// Runs beside an etcd that has this client URL. Cancel-safe: what was begun is left without a manifest, or is whole.
    pub async fn forever(&mut self, etcd: &Client, url: &str) -> Infallible {
        let Some(every) = self.settings.every.filter(|_| !self.settings.places.is_empty()) else {
            return std::future::pending().await;
        };
        let rest = REST.min(every).max(SHORTEST_REST);
        loop {
            clock::pause(rest).await;
            if let Err(line) = self.open().await {
                self.warn(&line);
                continue;
            }
            let Ok(status) = etcd.status(url, ANSWER_TIMEOUT).await else { continue };
            let leads = status.leader == Some(status.member) && !status.is_learner;
            let member = Member { etcd, url, status };
            if leads {
                self.look_at_places(&member).await;
                self.take_what_is_due(every, &member).await;
            } else {
                for watched in &mut self.places {
                    watched.is_known = false;
                }
            }
            if self.settings.verify == Level::Restore && self.trial.is_none_or(|(at, pause)| clock::now() - at >= pause)
            {
                self.restore_on_trial(every, &member).await;
            }
            self.tell();
        }
    }

    /// Opens the places, once that is possible.
    async fn open(&mut self) -> Result<(), String> {
        if self.places.is_empty() {
            let s3 = || self.tools.s3.clone();
            let places = snapshot_places::open(&self.settings, &self.settings.places, s3).await?;
            self.places = places.into_iter().map(|place| Watched::new(place, self.settings.every)).collect();
            self.tell();
        }
        Ok(())
    }

    fn warn(&mut self, line: &str) {
        if self.last_warning.is_news_but_for_numbers(line) {
            log::warn!("snapshot: {line}");
        }
    }

    fn tell(&self) {
        self.tools.recorder.set_snapshots(self.places.iter().map(|watched| watched.shown.clone()).collect());
    }

    /// A new leader reads what others have stored: it need not take another one at once.
    async fn look_at_places(&mut self, member: &Member<'_>) {
        let cluster = member.status.cluster;
        for watched in self.places.iter_mut().filter(|watched| !watched.is_known) {
            watched.is_known = true;
            match catalog::read(&watched.place, "", Some(cluster)).await {
                // Where nothing can be listed, snapshots are stored all the same, and none is deleted.
                Err(error) => {
                    watched.unlisted(error.reason(), &format!("what {} has is not known: {error}", watched.place))
                }
                Ok(objects) => {
                    say_whose_they_are(&watched.place, &objects, cluster);
                    let Some(manifest) = newest(&objects, cluster) else { continue };
                    let at = seconds(&manifest.taken_at).unwrap_or_default();
                    // One from the future was taken by another clock: nothing follows from it.
                    let age = u64::try_from(clock::epoch() - at).ok().map(Duration::from_secs);
                    watched.newest = age.map(|age| (age, clock::now()));
                    watched.show(manifest);
                    watched.shown.last_success = watched.shown.last_success.or(Some(at));
                    // What its index says is what etcd had written; a committed entry may write nothing.
                    watched.latest = Some((manifest.clone(), manifest.index));
                }
            }
        }
    }

    /// One snapshot for all places where one is due.
    async fn take_what_is_due(&mut self, every: Duration, member: &Member<'_>) {
        let is_due = |watched: &Watched| watched.is_known && wait(every, &watched.history()).is_zero();
        if !self.places.iter().any(is_due) {
            return;
        }
        let key = match snapshot_places::key(&self.settings, &self.tools.ssm).await {
            Ok(key) => key,
            Err(line) => return self.fail_where(is_due, "key", &line),
        };
        let committed = member.status.raft_index;
        let has_all = |watched: &Watched| {
            let latest = watched.latest.as_ref().filter(|(manifest, _)| manifest.cluster == member.status.cluster);
            latest.is_some_and(|(_, then)| is_unchanged(*then, committed))
        };
        let mut taken = None;
        if self.places.iter().any(|watched| is_due(watched) && !has_all(watched)) {
            match self.take(member, key.as_ref()).await {
                Ok(snapshot) => taken = Some(snapshot),
                Err(error) => return self.fail_where(is_due, error.reason(), &error.to_string()),
            }
        }
        // Its first members know it; those who came later, from what was stored before.
        let cluster = member.status.cluster;
        let of_manifest = |watched: &Watched| watched.latest.as_ref().filter(|(m, _)| m.cluster == cluster)?.0.parent;
        let ours = snapshot_places::parent(&self.tools.acceptor_state.ledger(), cluster);
        let parent = ours.or_else(|| self.places.iter().find_map(of_manifest));
        let (tools, settings) = (&self.tools, &self.settings);
        for watched in self.places.iter_mut().filter(|watched| is_due(watched)) {
            let stored = match &taken {
                Some(taken) if !has_all(watched) => bring(watched, taken, parent).await,
                _ => unchanged(watched),
            };
            let name = match stored {
                Err((reason, line)) => {
                    watched.failed(reason, &line);
                    continue;
                }
                Ok(manifest) => {
                    watched.stored(&manifest, committed);
                    manifest.name()
                }
            };
            match prove(&watched.place, &name, tools, key.as_ref(), Level::Digest).await {
                Err((reason, line)) => watched.failed(reason, &line),
                Ok(manifest) => {
                    watched.proved(&manifest);
                    retain(watched, settings, &name).await;
                }
            }
        }
    }

    fn fail_where(&mut self, is_due: impl Fn(&Watched) -> bool, reason: &str, line: &str) {
        for watched in self.places.iter_mut().filter(|watched| is_due(watched)) {
            watched.failed(reason, line);
        }
    }

    async fn take(&self, member: &Member<'_>, key: Option<&OperatorKey>) -> Result<Taken, take::Error> {
        let began = clock::now();
        let order = Order {
            client: member.etcd,
            url: member.url,
            instance: Some(&self.tools.instance),
            spool: &self.tools.spool,
            key,
            through_quorum: true,
        };
        let taken = take(&order, &|_, _| {}).await?;
        let (moment, ms) = (&taken.moment, (clock::now() - began).as_millis());
        log::info!("snapshot: taken at revision {}, {} bytes in {ms} ms", moment.revision, taken.spooled.size);
        if let Err(why) = &taken.hash_kv {
            log::warn!("snapshot: no hash of its keys, so a restore can't be compared: {why}");
        }
        Ok(taken)
    }

    /// On one follower, so that the leader has no more to do; on the only member itself.
    async fn restore_on_trial(&mut self, every: Duration, member: &Member<'_>) {
        let key = match snapshot_places::key(&self.settings, &self.tools.ssm).await {
            Ok(key) => key,
            Err(line) => return self.warn(&line),
        };
        let status = &member.status;
        // Where nothing is yet, there may be something after the next interval.
        let mut pause = every.min(TRIAL_AGAIN);
        self.trial = Some((clock::now(), pause));
        for watched in &mut self.places {
            let objects = match catalog::read(&watched.place, &Name::folder(status.cluster), Some(status.cluster)).await
            {
                Ok(objects) => objects,
                Err(error) => {
                    pause = TRIAL_AGAIN;
                    watched.not_restored(error.reason(), &error.to_string());
                    continue;
                }
            };
            let Some(manifest) = newest(&objects, status.cluster) else { continue };
            let voters = || manifest.members.iter().filter(|member| !member.learner).map(|member| member.id);
            let others = voters().filter(|id| Some(*id) != status.leader).min();
            if others.or(status.leader) != Some(status.member) {
                // It may be this one's turn under another leader. Each look reads all manifests.
                pause = TRIAL_AGAIN;
                break;
            }
            match prove(&watched.place, &manifest.name(), &self.tools, key.as_ref(), Level::Restore).await {
                Ok(manifest) => {
                    watched.tried.forget();
                    watched.show(&manifest);
                    pause = if pause == TRIAL_AGAIN { TRIAL_AGAIN } else { TRIAL_EVERY };
                }
                Err((reason, line)) => {
                    pause = TRIAL_AGAIN;
                    watched.not_restored(reason, &line);
                }
            }
        }
        self.trial = Some((clock::now(), pause));
    }
}

/// The newest of a cluster's snapshots that can be relied on.
fn newest(objects: &[Object], cluster: ClusterId) -> Option<&Manifest> {
    let understood = objects.iter().filter_map(|object| object.manifest.as_ref()?.as_ref().ok());
    understood.filter(|manifest| manifest.cluster == cluster).max_by_key(|manifest| manifest.name())
}

/// Two clusters in one place by mistake: each says so, and neither touches the other's.
fn say_whose_they_are(place: &Place, objects: &[Object], ours: ClusterId) {
    let mut others: Vec<ClusterId> =
        objects.iter().filter_map(|object| Some(Name::of_key(&object.key)?.0.cluster)).collect();
    let parents = objects.iter().filter_map(|object| object.manifest.as_ref()?.as_ref().ok()?.parent);
    let parents: BTreeSet<ClusterId> = parents.collect();
    others.retain(|cluster| *cluster != ours && !parents.contains(cluster));
    others.dedup();
    if let Some(other) = others.first() {
        log::warn!(
            "snapshot: {place} also has snapshots of {} other cluster(s), such as {other}; they are left as they are; give each cluster a prefix of its own",
            others.len()
        );
    }
}

type Failed = (&'static str, String);

/// Stores a snapshot at a place.
async fn bring(watched: &Watched, taken: &Taken, parent: Option<ClusterId>) -> Result<Manifest, Failed> {
    let (place, began) = (&watched.place, clock::now());
    let stored = store(place, taken, taken.manifest(Reason::Scheduled, parent), &|_| {}).await;
    match stored.map_err(|error| (error.reason(), error.to_string()))? {
        Stored::New(manifest) => {
            let ms = (clock::now() - began).as_millis();
            log::info!("snapshot: stored {place}/{} in {ms} ms", manifest.name());
            Ok(manifest)
        }
        Stored::Existed(manifest) => {
            log::info!("snapshot: {place}/{} has all that there is", manifest.name());
            Ok(manifest)
        }
    }
}

/// There is nothing new: the newest there is proved again instead, and its age counts anew.
fn unchanged(watched: &Watched) -> Result<Manifest, Failed> {
    let latest = watched.latest.as_ref().map(|(manifest, _)| manifest.clone());
    let latest = latest.ok_or_else(|| ("absent", format!("{}: no snapshot is known there", watched.place)))?;
    log::info!("snapshot: nothing has changed since {}/{}", watched.place, latest.name());
    Ok(latest)
}

async fn prove(
    place: &Place,
    name: &Name,
    tools: &Tools,
    key: Option<&OperatorKey>,
    level: Level,
) -> Result<Manifest, Failed> {
    let began = clock::now();
    let login = tools.user.clone().map(|(user, file)| Login::new(user, file));
    let trial = Trial { etcd: &tools.program, scratch: &tools.spool, reaper: &tools.reaper, login };
    let trial = Some(trial).filter(|_| level == Level::Restore);
    let proof = Proof { spool: &tools.spool, key, by: &tools.instance, trial };
    let manifest = verify(place, name, proof, &|_| {}).await.map_err(|error| (error.reason(), error.to_string()))?;
    let how = match level {
        Level::Digest => "read back whole",
        Level::Restore => "restored on trial, its keys compared",
    };
    log::info!("snapshot: verified {place}/{name} ({how}) in {} ms", (clock::now() - began).as_millis());
    Ok(manifest)
}

/// Deletes what may be deleted at a place, as seen from the snapshot that was just proved there.
async fn retain(watched: &mut Watched, settings: &config::Snapshots, latest: &Name) {
    let place = &watched.place;
    let objects = match catalog::read(place, &Name::folder(latest.cluster), Some(latest.cluster)).await {
        Ok(objects) => objects,
        Err(error) => {
            let line = format!("nothing is deleted at {place}: {error}");
            return watched.unlisted(error.reason(), &line);
        }
    };
    let question = Question {
        listing: Ok(&objects),
        cluster: latest.cluster,
        seeds: &BTreeSet::new(),
        keep: settings.keep,
        latest: Ok(latest.clone()),
        // A `snapshot save` on this instance may be between data and manifest.
        idle_writer: None,
    };
    let plan = plan(&question);
    let odd = plan.kept.iter().filter(|(_, kept)| matches!(kept, Kept::NotUnderstood(_) | Kept::WithoutData));
    let odd: Vec<String> = odd.map(|(key, why)| format!("{key}: {why}")).collect();
    let pruned = prune(place, &plan).await;
    if !pruned.deleted.is_empty() {
        let bytes: u64 = pruned.deleted.iter().map(|deletion| deletion.size).sum();
        log::info!("snapshot: deleted {} superseded at {place}, {bytes} bytes", pruned.deleted.len());
    }
    let line = match pruned.ended {
        None => odd.first().map(|first| format!("{place}: {} kept that can't be used, such as {first}", odd.len())),
        Some(Ended::NotAllowed(words)) => {
            Some(format!("{place} does not allow to delete, so all are kept there: {words}"))
        }
        Some(Ended::Failed(error)) => {
            *watched.shown.failures_total.entry(error.reason().to_owned()).or_default() += 1;
            Some(format!("deleting at {place} ended early: {error}"))
        }
    };
    match line {
        Some(line) if watched.found.is_news_but_for_numbers(&line) => log::warn!("snapshot: {line}"),
        Some(_) => {}
        None => watched.found.forget(),
    }
}
