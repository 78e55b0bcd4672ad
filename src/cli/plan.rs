//! `plan`: what `run` would do now, and why. Changes nothing, and makes no other node observe early.

use std::time::Duration;

use argh::FromArgs;
use serde_json::json;

use super::terminal::line;
use super::{find_self, terminal};
use crate::config::Config;
use crate::core::decide::decide;
use crate::core::paxos::Ledger;
use crate::core::release::Installed;
use crate::core::types::{InstanceId, Known, MemberId, Roster};
use crate::core::view::Claim;
use crate::core::view::ClaimState;
use crate::core::view::{DataDir, Liveness, LogEnd, PeerState, Policy, View};
use crate::daemon::observer::{Announce, LocalState, Observer};
use crate::daemon::probe::Probe;
use crate::daemon::services::Services;
use crate::discovery::addresses;
use crate::etcd::data_dir::Paths;
use crate::peer::clients::PeerClients;
use crate::state::store::{self, Belonging, Identity, Store};
use crate::util::exit::{Code, Failure};

/// Show what this node observes, and the step that `run` would take now, with its reason. Changes nothing.
#[derive(FromArgs)]
#[argh(subcommand, name = "plan")]
pub(super) struct Plan {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

impl Plan {
    pub(super) async fn run(&self, config: Config) -> Result<i32, Failure> {
        let mut looker = Looker::new(&config).await?;
        let view = looker.look().await;
        let step = decide(looker.policy(), &view).to_string();
        match self.json {
            true => print_json(&view, &step),
            false => print_text(&view, &step),
        }
        Ok(0)
    }
}

/// Observes as `run` would, and changes nothing.
pub(super) struct Looker {
    observer: Observer,
    looking: LocalState,
    own: Identity,
    paths: Paths,
}

impl Looker {
    /// Reads what this host knows about itself.
    ///
    /// # Errors
    /// Its own files can't be read, or the metadata service does not answer.
    pub(super) async fn new(config: &Config) -> Result<Self, Failure> {
        let (own, imds) = find_self(config).await?;
        let Services { discovery, claim, notices, earlier_snapshots, .. } = Services::new(config, imds, &own)?;
        let paths = addresses::settings(&config.etcd, &own).paths;
        let data = paths.inspect().map_err(|e| Failure::new(Code::DataDirUnwritable, e))?;
        let unreadable = |e| Failure::new(Code::StateUnreadable, e);
        let ledger = Store::peek(&config.etcd.data).map_err(unreadable)?.unwrap_or_default();
        let kept = Store::peek_identity(&config.etcd.data).map_err(unreadable)?;
        let listed = addresses::own_listing(&config.etcd, &own);
        let ledger = match store::belonging(&ledger, kept.as_ref(), &own, data != DataDir::Fresh) {
            // As in `run`, which would move that ledger aside and start with a new one.
            Belonging::Stranger(_) => Ledger { instance: Some(listed.instance.clone()), ..Ledger::default() },
            Belonging::Of(owner) => Ledger { instance: owner, ..ledger },
        };
        let looking = LocalState {
            listed,
            data,
            yielded: false,
            condemned: None,
            ledger,
            ending: notices.recent().await,
            since_own_removal: None::<Duration>,
            told: Store::peek_told(&config.etcd.data),
            installed: Installed::NotAsked,
            data_release: Known::Unknown("not asked".to_owned()),
        };
        let clients = PeerClients::new(&config.etcd, Some(&own));
        Ok(Self {
            observer: Observer::new(config, clients, discovery, claim, earlier_snapshots, Announce::No),
            looking,
            own,
            paths,
        })
    }

    /// One observation.
    pub(super) async fn look(&mut self) -> View {
        self.observer.observe(&self.looking, |_| {}).await
    }

    /// Where the data is.
    pub(super) fn paths(&self) -> &Paths {
        &self.paths
    }

    pub(super) fn policy(&self) -> &Policy {
        self.observer.policy()
    }

    /// The member whose data is here, and how far its log goes.
    ///
    /// # Errors
    /// There is none, or that can't be read; as one line.
    pub(super) fn own_log(&self) -> Result<(MemberId, LogEnd), String> {
        match &self.looking.data {
            DataDir::Whole { ids: Known::Known((_, member)) } => {
                let end = self.paths.log_end().map_err(|error| format!("the log here can't be read: {error}"))?;
                Ok((*member, end))
            }
            data => Err(format!("there is no member's data here: {}", data_in_words(data))),
        }
    }

    /// Whether an instance is terminated.
    pub(super) async fn is_terminated(&self, roster: &Roster, id: &InstanceId) -> Known<bool> {
        self.observer.is_terminated(roster, id).await
    }

    /// This node as a peer would see it.
    pub(super) async fn own_state(&self, config: &Config) -> PeerState {
        let settings = addresses::settings(&config.etcd, &self.own);
        let probe = Probe {
            clients: PeerClients::new(&config.etcd, Some(&self.own)),
            peer_url: addresses::own_peer_url(&settings),
            client_url: addresses::own_client_url(&settings),
            from: None,
            timeout: config.observation.probe_timeout,
        };
        probe.observe().await
    }
}

pub(super) fn data_in_words(data: &DataDir) -> String {
    match data {
        DataDir::Fresh => "none".to_owned(),
        DataDir::Whole { ids: Known::Known((cluster, member)) } => format!("member {member} of cluster {cluster}"),
        DataDir::Whole { ids: Known::Unknown(cause) } => format!("present, ids unknown: {cause}"),
        DataDir::Partial { what } => what.clone(),
    }
}

fn claim_in_words(claim: &ClaimState) -> String {
    match claim {
        ClaimState::NotAsked => "not used".to_owned(),
        ClaimState::Unknown(cause) => format!("unknown: {cause}"),
        ClaimState::Absent => "none yet".to_owned(),
        ClaimState::Held { claim: Claim::Founding { list }, .. } => format!("first members {}", list.initial_cluster()),
        ClaimState::Held { claim: Claim::Established { cluster }, .. } => format!("cluster {cluster} was bootstrapped"),
    }
}

fn print_text(view: &View, step: &str) {
    line(format_args!("this instance  {} listed as {}", view.me.instance, view.me.listed.peer_urls.join(",")));
    line(format_args!("data           {}", data_in_words(&view.data)));
    fleet(view);
    match &view.claim {
        ClaimState::NotAsked => {}
        claim => line(format_args!("claim          {}", claim_in_words(claim))),
    }
    let silent = view.liveness.iter().filter_map(|(member, fate)| match fate {
        Liveness::Silent(silence) => Some((member, silence)),
        Liveness::Answers | Liveness::Unknown => None,
    });
    for (member, fate) in silent {
        let gone = match &fate.gone {
            Known::Known(true) => "its instance is gone".to_owned(),
            Known::Known(false) => "its instance exists".to_owned(),
            Known::Unknown(cause) => format!("the state of its instance is unknown: {cause}"),
        };
        line(format_args!("member {member} does not answer; {gone}"));
    }
    line(format_args!("run would now  {step}"));
}

/// The instances, and what each of them says.
pub(super) fn fleet(view: &View) {
    match &view.roster {
        Known::Unknown(cause) => line(format_args!("roster         unknown: {cause}")),
        Known::Known(roster) => {
            line(format_args!(
                "roster         {} instances, {} not terminated",
                roster.all().len(),
                roster.non_terminated().count()
            ));
            let rows: Vec<Vec<String>> = roster
                .all()
                .iter()
                .map(|instance| {
                    let seen = match view.peers.get(&instance.id) {
                        _ if instance.id == view.me.instance => "this instance".to_owned(),
                        Some(peer) => peer.sighting.to_string(),
                        None => "not asked".to_owned(),
                    };
                    let address = instance.address.map_or_else(|| "-".to_owned(), |a| a.to_string());
                    vec![instance.id.0.clone(), instance.state.name().to_owned(), address, seen]
                })
                .collect();
            terminal::table(&["INSTANCE", "STATE", "ADDRESS", "SEEN"], &rows);
        }
    }
}

fn print_json(view: &View, step: &str) {
    let peers: serde_json::Map<String, serde_json::Value> =
        view.peers.iter().map(|(id, peer)| (id.0.clone(), json!(peer.sighting.to_string()))).collect();
    let roster = match &view.roster {
        Known::Known(roster) => {
            json!(roster.all().iter().map(|i| json!({"instance": i.id, "state": i.state.name()})).collect::<Vec<_>>())
        }
        Known::Unknown(cause) => json!({"unknown": cause}),
    };
    let plan = json!({
        "instance": view.me.instance,
        "data": data_in_words(&view.data),
        "roster": roster,
        "seen": peers,
        "claim": claim_in_words(&view.claim),
        "step": step,
    });
    terminal::json(&plan);
}
