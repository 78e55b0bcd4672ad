//! `snapshot`: takes one now, lists, verifies and prunes those that are stored.

mod list;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use argh::FromArgs;
use serde_json::{Value, json};

use super::own_etcd;
use super::terminal::{self, Progress};
use crate::config::{self, Config, Location};
use crate::core::snapshot::manifest::{Manifest, Reason};
use crate::core::snapshot::name::{Kind, Name};
use crate::core::snapshot::retention::{Kept, Object, Plan, Question, plan};
use crate::daemon::snapshot_places;
use crate::discovery;
use crate::discovery::aws_clients::Aws;
use crate::snapshot::catalog;
use crate::snapshot::envelope::OperatorKey;
use crate::snapshot::place::Place;
use crate::snapshot::spool;
use crate::snapshot::store::{Ended, Proof, Stored, prune, store, verify};
use crate::snapshot::take::{Order, take};
use crate::state::store::{Identity, Store};
use crate::util::exit::{Code, Failure};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Take a snapshot of the etcd on this node now, or list, verify or prune those at the places that MUSTER_SNAPSHOTS names.
#[derive(FromArgs)]
#[argh(subcommand, name = "snapshot")]
pub(super) struct Snapshot {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Save(Save),
    List(list::List),
    Verify(Verify),
    Prune(Prune),
}

/// Take a snapshot of the etcd on this node, store it at every place and read it back. It is kept until you delete it. Exits with 0 if every
/// place has it, otherwise with 1.
#[derive(FromArgs)]
#[argh(subcommand, name = "save")]
struct Save {
    /// only this place: s3://bucket/prefix or file:/dir
    #[argh(option, arg_name = "PLACE")]
    at: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Read snapshots back as a whole, compare them with their manifests, and mark those. Exits with 0 if all are what they were, otherwise with 1.
#[derive(FromArgs)]
#[argh(subcommand, name = "verify")]
struct Verify {
    /// the snapshot's name, as list shows it; without it, the newest of each cluster at each place
    #[argh(positional)]
    name: Option<String>,
    /// all of them
    #[argh(switch)]
    all: bool,
    /// only this place: s3://bucket/prefix or file:/dir
    #[argh(option, arg_name = "PLACE")]
    at: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Show which snapshots of the cluster that runs here are superseded by MUSTER_SNAPSHOT_KEEP, and why the others stay. Deletes nothing without --yes.
#[derive(FromArgs)]
#[argh(subcommand, name = "prune")]
struct Prune {
    /// delete what is shown
    #[argh(switch)]
    yes: bool,
    /// only this place: s3://bucket/prefix or file:/dir
    #[argh(option, arg_name = "PLACE")]
    at: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

impl Snapshot {
    pub(super) async fn run(&self, config: &Config) -> Result<i32, Failure> {
        match &self.command {
            Command::Save(save) => save.run(config).await,
            Command::List(list) => list.run(config).await,
            Command::Verify(verify) => verify.run(config).await,
            Command::Prune(prune) => prune.run(config).await,
        }
    }
}

/// What all of these commands need.
struct Scene<'a> {
    config: &'a Config,
    own: Option<Identity>,
    places: Vec<Arc<Place>>,
    aws: Aws,
}

impl<'a> Scene<'a> {
    async fn open(config: &'a Config, at: Option<&str>) -> Result<Self, Failure> {
        let own = Store::peek_identity(&config.etcd.data).ok().flatten();
        let aws = Aws::new(&config.aws, discovery::metadata_service(&config.aws), own.as_ref())?;
        let locations: Vec<Location> = match at {
            None => config.snapshots.places.clone(),
            Some(at) => vec![config::location(at).ok_or_else(|| {
                Failure::new(Code::Usage, format!("--at {at}: is no place; write s3://bucket/prefix or file:/dir"))
            })?],
        };
        if locations.is_empty() {
            let line = "no place is named; set MUSTER_SNAPSHOTS, or give --at s3://bucket/prefix or --at file:/dir";
            return Err(Failure::new(Code::Config, line));
        }
        let places = snapshot_places::open(&config.snapshots, &locations, || aws.s3()).await;
        let places = places.map_err(|line| Failure::new(Code::Config, line))?;
        Ok(Self { config, own, places, aws })
    }

    /// The key, read once.
    async fn key(&self) -> Result<Option<OperatorKey>, Failure> {
        let key = snapshot_places::key(&self.config.snapshots, &self.aws.ssm()).await;
        key.map_err(|line| Failure::new(Code::Config, line))
    }

    /// This instance; of a host on which no supervisor has run, nothing is known.
    fn instance(&self) -> Option<&str> {
        self.own.as_ref().map(|own| own.instance.as_str())
    }

    async fn verified(
        &self,
        place: &Place,
        name: &Name,
        key: Option<&OperatorKey>,
        size: u64,
    ) -> Result<Manifest, String> {
        let spool = spool::dir_in(&self.config.etcd.data);
        let proof = Proof { spool: &spool, key, by: self.instance().unwrap_or("unknown"), trial: None };
        let progress = Progress::begin("verifying", size);
        verify(place, name, proof, &|done| progress.at(done)).await.map_err(|error| error.to_string())
    }
}

fn exit(well: bool) -> i32 {
    if well { 0 } else { Code::Unhealthy as i32 }
}

impl Save {
    async fn run(&self, config: &Config) -> Result<i32, Failure> {
        let scene = Scene::open(config, self.at.as_deref()).await?;
        let key = scene.key().await?;
        let (url, client) = own_etcd(&config.etcd);
        let spool = spool::dir_in(&config.etcd.data);
        let order = Order {
            client: &client,
            url: &url,
            instance: scene.instance(),
            spool: &spool,
            key: key.as_ref(),
            through_quorum: true,
        };
        let progress = Progress::begin("taking", 0);
        let taken = take(&order, &|done, all| progress.of(done, all)).await;
        let taken = taken.map_err(|error| Failure::new(Code::Unhealthy, format!("no snapshot was taken: {error}")))?;
        drop(progress);
        let (mut rows, mut well) = (Vec::new(), true);
        for place in &scene.places {
            let outcome = self.bring(&scene, place, &taken, key.as_ref()).await;
            well &= outcome.is_ok();
            if self.json {
                rows.push(match outcome {
                    Ok(manifest) => {
                        json!({"place": place.to_string(), "name": manifest.name().to_string(), "manifest": manifest})
                    }
                    Err(line) => json!({"place": place.to_string(), "trouble": line}),
                });
                continue;
            }
            match outcome {
                Ok(manifest) => {
                    let (name, size, revision) = (manifest.name(), bytes(manifest.size), manifest.revision);
                    terminal::line(format_args!(
                        "stored   {place}/{name}: {size}, revision {revision}, {}",
                        proof(&manifest)
                    ));
                }
                Err(line) => terminal::line(format_args!("failed   {line}")),
            }
        }
        if self.json {
            terminal::json(&Value::Array(rows));
        }
        Ok(exit(well))
    }

    async fn bring(
        &self,
        scene: &Scene<'_>,
        place: &Place,
        taken: &crate::snapshot::take::Taken,
        key: Option<&OperatorKey>,
    ) -> Result<Manifest, String> {
        let progress = Progress::begin("storing", taken.spooled.size);
        let ledger = Store::peek(&scene.config.etcd.data).ok().flatten();
        let parent = ledger.and_then(|ledger| snapshot_places::parent(&ledger, taken.name.cluster));
        let manifest = taken.manifest(Reason::ByHand, parent);
        let stored =
            store(place, taken, manifest, &|done| progress.at(done)).await.map_err(|error| error.to_string())?;
        drop(progress);
        let (Stored::New(manifest) | Stored::Existed(manifest)) = stored;
        scene.verified(place, &taken.name, key, manifest.size).await
    }
}

/// The snapshots among the objects, newest first; `Err`: why it can't be relied on.
fn snapshots(objects: &[Object]) -> Vec<(Name, Result<&Manifest, &str>)> {
    let of = |object: &Object| Name::of_key(&object.key).filter(|(_, kind)| *kind == Kind::Manifest);
    let mut found: Vec<_> = objects
        .iter()
        .filter_map(|object| {
            let manifest = object.manifest.as_ref()?.as_ref().map_err(String::as_str);
            Some((of(object)?.0, manifest))
        })
        .collect();
    found.sort_by(|a, b| b.0.cmp(&a.0));
    found
}

impl Verify {
    async fn run(&self, config: &Config) -> Result<i32, Failure> {
        let scene = Scene::open(config, self.at.as_deref()).await?;
        let key = scene.key().await?;
        let wanted = match &self.name {
            None => None,
            Some(name) => Some(Name::parse(name).ok_or_else(|| {
                Failure::new(
                    Code::Usage,
                    format!("{name}: is no snapshot's name; `etcd-muster snapshot list` shows them"),
                )
            })?),
        };
        let (mut shown, mut well, mut verified) = (Vec::new(), true, 0);
        for place in &scene.places {
            let objects = catalog::read(place, "", None).await;
            let objects = objects.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))?;
            let mut seen = BTreeSet::new();
            for (name, manifest) in snapshots(&objects) {
                let is_newest = seen.insert(name.cluster);
                if !wanted.as_ref().map_or(self.all || is_newest, |wanted| *wanted == name) {
                    continue;
                }
                let outcome = match manifest {
                    Ok(manifest) => scene.verified(place, &name, key.as_ref(), manifest.size).await,
                    Err(why) => Err(format!("{place}/{name}: its manifest is not understood: {why}")),
                };
                // The schedule deletes meanwhile what is superseded.
                if outcome.is_err() && matches!(place.read(&name.manifest_key()).await, Ok(None)) {
                    continue;
                }
                well &= outcome.is_ok();
                verified += 1;
                let place = place.to_string();
                match (outcome, self.json) {
                    (Ok(manifest), true) => {
                        shown.push(json!({"place": place, "name": name.to_string(), "verified": manifest.verified}))
                    }
                    (Err(line), true) => shown.push(json!({"place": place, "name": name.to_string(), "trouble": line})),
                    (Ok(manifest), false) => {
                        terminal::line(format_args!("verified {place}/{name}: {}", proof(&manifest)))
                    }
                    (Err(line), false) => terminal::line(format_args!("failed   {line}")),
                }
            }
        }
        if self.json {
            terminal::json(&Value::Array(shown));
        }
        if verified == 0 {
            return Err(Failure::new(Code::Unhealthy, "there is no such snapshot"));
        }
        Ok(exit(well))
    }
}

impl Prune {
    async fn run(&self, config: &Config) -> Result<i32, Failure> {
        let scene = Scene::open(config, self.at.as_deref()).await?;
        let (url, client) = own_etcd(&config.etcd);
        let status = client.status(&url, ANSWER_TIMEOUT).await;
        let status = status.map_err(|error| {
            let line = format!("which cluster lives is not known, so nothing is deleted: {error}");
            Failure::new(Code::Unhealthy, line)
        })?;
        let (mut shown, mut well) = (Vec::new(), true);
        for place in &scene.places {
            let objects = catalog::read(place, &Name::folder(status.cluster), Some(status.cluster)).await;
            let latest = objects.as_ref().map_or_else(
                |error| Err(error.to_string()),
                |objects| latest(objects, status.raft_index).ok_or_else(|| "there is no verified one".to_owned()),
            );
            let question = Question {
                listing: objects.as_deref().map_err(ToString::to_string),
                cluster: status.cluster,
                seeds: &BTreeSet::new(),
                keep: config.snapshots.keep,
                latest,
                idle_writer: None,
            };
            let plan = plan(&question);
            well &= objects.is_ok();
            let done = match (&objects, self.yes) {
                (Ok(_), true) => Some(prune(place, &plan).await),
                _ => None,
            };
            let ended = done.as_ref().and_then(|done| done.ended.as_ref());
            let trouble = match (&objects, ended) {
                (Err(error), _) => Some(error.to_string()),
                (_, Some(Ended::NotAllowed(words))) => Some(format!("{place} does not allow to delete: {words}")),
                (_, Some(Ended::Failed(error))) => Some(error.to_string()),
                (Ok(_), None) => None,
            };
            well &= !matches!(ended, Some(Ended::Failed(_)));
            let deleted = done.as_ref().map_or(0, |done| done.deleted.len());
            match self.json {
                true => shown.push(told(place, &plan, deleted, trouble.as_deref())),
                false => self.print(place, &plan, deleted, trouble.as_deref()),
            }
        }
        if self.json {
            terminal::json(&Value::Array(shown));
        }
        Ok(exit(well))
    }

    fn print(&self, place: &Place, plan: &Plan, deleted: usize, trouble: Option<&str>) {
        for (at, deletion) in plan.delete.iter().enumerate() {
            let verb = if at < deleted { "deleted" } else { "delete " };
            terminal::line(format_args!(
                "{verb}  {place}/{} ({}): {}",
                deletion.name,
                bytes(deletion.size),
                deletion.why
            ));
        }
        for (key, why) in plan.kept.iter().filter(|(_, why)| !matches!(why, Kept::OfCluster(_))) {
            terminal::line(format_args!("keep     {place}/{key}: {why}"));
        }
        if let Some(trouble) = trouble {
            terminal::line(format_args!("failed   {trouble}"));
        } else if !self.yes && !plan.delete.is_empty() {
            terminal::line(format_args!("nothing was deleted; --yes deletes {} at {place}", plan.delete.len()));
        }
    }
}

fn told(place: &Place, plan: &Plan, deleted: usize, trouble: Option<&str>) -> Value {
    let deletions = plan.delete.iter().enumerate().map(|(at, deletion)| {
        let (name, why) = (deletion.name.to_string(), deletion.why.to_string());
        json!({"name": name, "keys": deletion.keys, "bytes": deletion.size, "why": why, "deleted": at < deleted})
    });
    let kept = plan.kept.iter().map(|(key, why)| json!({"key": key, "why": why.to_string()}));
    json!({"place": place.to_string(), "delete": deletions.collect::<Vec<_>>(), "keep": kept.collect::<Vec<_>>(), "trouble": trouble})
}

/// The newest verified one that the cluster's log reaches: greater ones are of another history.
fn latest(objects: &[Object], committed: u64) -> Option<Name> {
    let understood = objects.iter().filter_map(|object| object.manifest.as_ref()?.as_ref().ok());
    understood.filter(|m| m.verified.is_some() && m.index <= committed).map(Manifest::name).max()
}

fn proof(manifest: &Manifest) -> String {
    let verified = manifest.verified.as_ref();
    verified.map_or_else(|| "no".to_owned(), |verified| format!("{} {}", verified.level.name(), verified.at))
}

/// A number of bytes for a person.
fn bytes(number: u64) -> String {
    terminal::bytes(number)
}
