//! `restore`: shows what a restore of this fleet would do, and orders it. The supervisors carry it out: this command only writes the order beside the
//! snapshots, where every one of them finds it, and shows how far they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use argh::FromArgs;
use hyper::body::Bytes;
use serde_json::json;

use super::plan::{Looker, fleet};
use super::terminal::{self, bytes, line};
use super::{FOLLOW, bump, plan_id, unfinished, unfit};
use crate::config::{self, Config, SOURCE_FORMS, Source};
use crate::core::decide::decide;
use crate::core::release::Release;
use crate::core::seed::{Order, Which, choose};
use crate::core::snapshot::manifest::{Manifest, seconds};
use crate::core::step::{Hold, Step};
use crate::core::types::{ClusterId, InstanceId, Known, Seed};
use crate::core::view::{PeerState, Policy, View};
use crate::daemon::snapshot_places;
use crate::discovery;
use crate::discovery::aws_clients::Aws;
use crate::snapshot::catalog;
use crate::snapshot::place::{Place, Written};
use crate::snapshot::restore::suits;
use crate::state::store::Store;
use crate::util::clock;
use crate::util::exit::{Code, Failure};
use crate::util::log_once::LogOnce;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Found this fleet's cluster from a snapshot. Shows the plan; with --yes and the plan's id it is ordered, and the supervisors carry it out. Needs a fleet without
/// a cluster and without data. Exits with 0 if it can be done or is done, otherwise with 1.
#[derive(FromArgs)]
#[argh(subcommand, name = "restore")]
pub(super) struct Restore {
    /// PLACE, PLACE/CLUSTER or PLACE/CLUSTER/NAME; by default the only place in MUSTER_SNAPSHOTS, and the newest verified snapshot of its only lineage
    #[argh(positional)]
    source: Option<String>,
    /// do it, if the plan still has this id
    #[argh(option, arg_name = "PLAN-ID")]
    yes: Option<String>,
    /// leave revisions as they are: clients may then meet a revision again that they have seen with other content
    #[argh(switch)]
    no_bump: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// What would be done.
struct Plan {
    id: String,
    manifest: Manifest,
    order: Order,
    /// Why it can't be done now.
    obstacle: Option<String>,
}

impl Restore {
    pub(super) async fn run(&self, config: Config) -> Result<i32, Failure> {
        let source = self.source(&config)?;
        let place = self.place(&config, &source).await?;
        let unreadable = |why: String| unfit(format!("{source}: {why}"));
        let listing = place.list("").await.map_err(|error| unreadable(error.to_string()))?;
        let manifest =
            choose(&source.which, &catalog::candidates(&place, &listing, &source.which).await).map_err(unreadable)?;
        let clusters = catalog::names(&listing).map(|name| name.cluster).collect();
        let mut looker = Looker::new(&config).await?;
        let view = looker.look().await;
        let releases = releases(&view, &looker.own_state(&config).await);
        let plan = self.plan(&place, manifest, clusters, looker.policy(), &view, &releases)?;
        match self.json {
            true => print_json(&place, &plan, &view),
            false => print_text(&place, &plan, &view),
        }
        let Some(id) = &self.yes else {
            if plan.obstacle.is_none() && !self.json {
                let bump = if self.no_bump { " --no-bump" } else { "" };
                let name = plan.manifest.name();
                line(format_args!("to do it: etcd-muster restore {}/{name}{bump} --yes {}", source.location, plan.id));
            }
            return Ok(if plan.obstacle.is_none() { 0 } else { Code::Unhealthy as i32 });
        };
        if *id != plan.id {
            return Err(unfit(format!("--yes {id}: the plan is now {}; look at it again", plan.id)));
        }
        if plan.obstacle.is_some() {
            return Ok(Code::Unhealthy as i32);
        }
        order(&place, &plan).await?;
        match self.json {
            true => Ok(0),
            false => follow(&mut looker, &config).await,
        }
    }

    fn source(&self, config: &Config) -> Result<Source, Failure> {
        let usage = |why: String| Failure::new(Code::Usage, why);
        let source = match (&self.source, &config.snapshots.seed, config.snapshots.places.as_slice()) {
            (Some(word), _, _) => config::source(word)
                .ok_or_else(|| usage(format!("{word}: is nothing to restore from; write {SOURCE_FORMS}")))?,
            (None, Some(seed), _) => seed.clone(),
            (None, None, [only]) => Source { location: only.clone(), which: Which::Newest },
            (None, None, []) => return Err(usage("no place is named; set MUSTER_SNAPSHOTS on all nodes".to_owned())),
            (None, None, [..]) => {
                return Err(usage("MUSTER_SNAPSHOTS names several places; name the one to restore from".to_owned()));
            }
        };
        match config.snapshots.sources().contains(&source.location) {
            true => Ok(source),
            false => Err(usage(format!(
                "{} is not in MUSTER_SNAPSHOTS on this node, so its supervisor would not restore from there; set it on all nodes",
                source.location
            ))),
        }
    }

    async fn place(&self, config: &Config, source: &Source) -> Result<Arc<Place>, Failure> {
        let own = Store::peek_identity(&config.etcd.data).ok().flatten();
        let aws = Aws::new(&config.aws, discovery::metadata_service(&config.aws), own.as_ref())?;
        let places =
            snapshot_places::open(&config.snapshots, std::slice::from_ref(&source.location), || aws.s3()).await;
        let places = places.map_err(|why| Failure::new(Code::Config, why))?;
        places.into_iter().next().ok_or_else(|| unfit(format!("{} can't be opened", source.location)))
    }

    fn plan(
        &self,
        place: &Place,
        manifest: Manifest,
        clusters: BTreeSet<ClusterId>,
        policy: &Policy,
        view: &View,
        releases: &[(InstanceId, Release)],
    ) -> Result<Plan, Failure> {
        let Known::Known(roster) = &view.roster else {
            let Known::Unknown(cause) = &view.roster else { return Err(unfit(String::new())) };
            return Err(unfit(format!("which instances there are is unknown: {cause}")));
        };
        let first = policy.charter(roster).first;
        let bump = bump(self.no_bump);
        let seed = Seed { bump, ..Seed::of(&place.to_string(), &manifest) };
        let order = Order { format: Order::FORMAT, seed, first, clusters, at: clock::stamp() };
        let unsuited = releases.iter().find_map(|(id, release)| {
            let why = suits(*release, &manifest, bump).err()?;
            Some(format!("{id}: {why}"))
        });
        let obstacle = obstacle(policy, view, &order.seed).or(unsuited);
        // Another snapshot, other instances, or snapshots of another cluster beside it are another plan.
        let id = plan_id(&json!([order.seed, order.first, order.clusters]));
        Ok(Plan { id, obstacle, manifest, order })
    }
}

/// What would start on the snapshot, as each supervisor reports it. A chosen list can't be changed any more, so this is looked at before.
fn releases(view: &View, own: &PeerState) -> Vec<(InstanceId, Release)> {
    let others = view.peers.iter().map(|(id, peer)| (id, &peer.sighting));
    let of = |(id, state): (&InstanceId, &PeerState)| match state {
        PeerState::Fresh(fresh) => Some((id.clone(), fresh.release?)),
        _ => None,
    };
    others.chain([(&view.me.instance, own)]).filter_map(of).collect()
}

/// Why this fleet would not be founded from that seed now, as its supervisors decide it.
fn obstacle(policy: &Policy, view: &View, seed: &Seed) -> Option<String> {
    let mut ordered = view.clone();
    ordered.seed.wanted = Some(Known::Known(seed.clone()));
    ordered.seed.acceptable.insert(seed.clone());
    ordered.seed.by_order = true;
    match decide(policy, &ordered) {
        Step::Propose(_) | Step::FoundAlone { .. } | Step::Claim(_) => None,
        Step::Hold(Hold::AwaitProposer { .. }) => None,
        Step::Hold(hold) => Some(hold.to_string()),
        Step::Halt(halt) => Some(halt.to_string()),
        Step::Resume => Some("this node has etcd's data; its cluster may live, and is not restored over".to_owned()),
        Step::AddSelf | Step::StartExisting { .. } | Step::RemoveMember { .. } | Step::UpdateSelf { .. } => {
            Some("a cluster with a quorum answers; nothing is restored beside it".to_owned())
        }
        Step::StartNew(list) => Some(format!("first members are agreed on already: {}", list.initial_cluster())),
        step @ (Step::Renounce { .. } | Step::Quarantine(_)) => {
            Some(format!("this node's next step is another one: {step}"))
        }
    }
}

fn age(manifest: &Manifest) -> String {
    match seconds(&manifest.taken_at).map(|at| clock::epoch() - at) {
        Some(age @ 0..) => format!("{} min ago", age / 60),
        _ => "by a clock that is ahead of this one".to_owned(),
    }
}

fn proof(manifest: &Manifest) -> String {
    manifest.verified.as_ref().map_or_else(|| "not verified".to_owned(), |v| format!("verified ({})", v.level.name()))
}

fn print_text(place: &Place, plan: &Plan, view: &View) {
    let Plan { manifest, order, .. } = plan;
    line(format_args!("plan           {}", plan.id));
    line(format_args!("snapshot       {place}/{}", manifest.name()));
    line(format_args!(
        "taken          {} ({}) on {}, etcd {}, {}, {}",
        manifest.taken_at,
        age(manifest),
        manifest.instance,
        manifest.etcd,
        bytes(manifest.size),
        proof(manifest)
    ));
    line(format_args!("lost           what was written after revision {}", manifest.revision));
    match order.seed.bump {
        0 => line("revisions      go on from there: clients may meet one again that they have seen with other content"),
        bump => line(format_args!("revisions      go on {bump} higher; watches from before have to begin anew")),
    }
    let alarms = if manifest.alarms.is_empty() { "none".to_owned() } else { manifest.alarms.join(", ") };
    line(format_args!("it holds       alarms: {alarms}; authentication: {}", if manifest.auth { "on" } else { "off" }));
    let first: Vec<&str> = order.first.iter().map(|(id, _)| id.0.as_str()).collect();
    line(format_args!("first members  {}, under a new cluster id", first.join(", ")));
    fleet(view);
    if let Some(why) = &plan.obstacle {
        line(format_args!("not now        {why}"));
    }
}

fn print_json(place: &Place, plan: &Plan, view: &View) {
    let Plan { id, manifest, order, obstacle } = plan;
    let seen: serde_json::Map<String, serde_json::Value> =
        view.peers.iter().map(|(id, peer)| (id.0.clone(), json!(peer.sighting.to_string()))).collect();
    terminal::json(&json!({
        "plan": id,
        "place": place.to_string(),
        "manifest": manifest,
        "bump": order.seed.bump,
        "first_members": order.first.iter().map(|(id, _)| id).collect::<Vec<_>>(),
        "seen": seen,
        "obstacle": obstacle,
    }));
}

async fn order(place: &Place, plan: &Plan) -> Result<(), Failure> {
    let key = plan.order.key(&plan.id);
    let bytes = serde_json::to_vec_pretty(&plan.order).map_err(|error| unfit(error.to_string()))?;
    match place.put_order(&key, Bytes::from(bytes)).await {
        Ok(Written::New) => {
            line(format_args!("ordered        {place}/{key}; the supervisors restore by themselves from here on"));
            Ok(())
        }
        Ok(Written::Exists) => Err(unfit(format!("{place}/{key} was ordered by another call; nothing was changed"))),
        Err(error) => Err(unfit(format!("the order can't be written, so nothing was changed: {error}"))),
    }
}

/// Shows how far each host is, until this node's etcd serves its clients. What was ordered goes on whoever watches.
async fn follow(looker: &mut Looker, config: &Config) -> Result<i32, Failure> {
    let (mut said, deadline) = (BTreeMap::<InstanceId, LogOnce>::new(), clock::now() + FOLLOW);
    while clock::now() < deadline {
        let view = looker.look().await;
        let own = looker.own_state(config).await;
        let others = view.peers.iter().map(|(id, peer)| (id, &peer.sighting));
        for (id, state) in others.chain([(&view.me.instance, &own)]) {
            let text = state.to_string();
            if said.entry(id.clone()).or_default().is_news_but_for_numbers(&text) {
                line(format_args!("{id}  {text}"));
            }
        }
        if let PeerState::Etcd(etcd) = &own
            && etcd.has_quorum()
        {
            let members = etcd.members.len();
            line(format_args!(
                "restored       cluster {} runs, with {members} members (etcd-muster members)",
                etcd.cluster
            ));
            return Ok(0);
        }
        clock::pause(LOOK_EVERY).await;
    }
    Err(unfinished())
}
