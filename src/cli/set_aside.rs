//! `set-aside`: moves the data here aside, so that this node joins the others' cluster as a new member. Renames; deletes nothing.

use argh::FromArgs;
use serde_json::json;

use super::plan::{Looker, data_in_words};
use super::terminal::{self, line};
use super::{plan_id, unfit};
use crate::config::Config;
use crate::core::paxos::LeftBehind;
use crate::core::set_aside::may_set_aside;
use crate::core::view::View;
use crate::daemon::executor;
use crate::discovery::addresses;
use crate::etcd::data_dir::Paths;
use crate::peer::server::AcceptorState;
use crate::state::store::Store;
use crate::util::exit::{Code, Failure};

/// Move the data here aside, so that this node joins the others' cluster as a new member. Only if exactly one cluster with a quorum answers, and it does not need
/// what lies here. Shows the plan; with --yes and the plan's id it is done: the data is renamed, nothing is deleted. The supervisor must not run. Exits with 0 if
/// it can be done or is done, otherwise with 1.
#[derive(FromArgs)]
#[argh(subcommand, name = "set-aside")]
pub(super) struct SetAside {
    /// do it, if the plan still has this id
    #[argh(option, arg_name = "PLAN-ID")]
    yes: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

impl SetAside {
    pub(super) async fn run(&self, config: Config) -> Result<i32, Failure> {
        let mut looker = Looker::new(&config).await?;
        let view = looker.look().await;
        let own_port = looker.own_state(&config).await;
        let (joins, obstacle) = match may_set_aside(&view, &own_port) {
            Ok(seen) => (Some(seen.cluster.to_string()), None),
            Err(refusal) => (None, Some(refusal.to_string())),
        };
        let here = data_in_words(&view.data);
        let id = plan_id(&json!([here, view.me.instance, joins]));
        if self.json {
            terminal::json(&json!({"plan": id, "data": here, "joins": joins, "obstacle": obstacle}));
        } else {
            print_text(&id, &here, joins.as_deref(), obstacle.as_deref(), looker.paths());
        }
        if obstacle.is_some() {
            return Ok(Code::Unhealthy as i32);
        }
        match &self.yes {
            None => {
                if !self.json {
                    line(format_args!("to do it: etcd-muster set-aside --yes {id}"));
                }
                Ok(0)
            }
            Some(yes) if *yes != id => Err(unfit(format!("--yes {yes}: the plan is now {id}; look at it again"))),
            Some(_) => move_aside(&config, &view, looker.paths(), self.json),
        }
    }
}

fn print_text(id: &str, here: &str, joins: Option<&str>, obstacle: Option<&str>, paths: &Paths) {
    line(format_args!("plan           {id}"));
    line(format_args!("data           {here}"));
    line(format_args!("at             {} and {}", paths.data.display(), paths.wal.display()));
    match (joins, obstacle) {
        (_, Some(obstacle)) => line(format_args!("not now        {obstacle}")),
        (Some(cluster), None) => {
            line(format_args!("then           it is renamed, and this node joins cluster {cluster} as a new member"))
        }
        (None, None) => {}
    }
}

/// As the supervisor moves aside what it can't use; an interrupted move is finished at the next start.
fn move_aside(config: &Config, view: &View, paths: &Paths, json: bool) -> Result<i32, Failure> {
    let store = Store::open(&config.etcd.data).map_err(|error| Failure::new(Code::StateUnreadable, error))?;
    // Another mark would replace that of the move that was interrupted, and why that was begun.
    let unfinished = store.unfinished_quarantine().map_err(|error| Failure::new(Code::StateUnreadable, error))?;
    if unfinished.is_some() {
        return Err(unfit(
            "an earlier move of this data was interrupted; start the supervisor once, which finishes it".to_owned(),
        ));
    }
    let state = AcceptorState::new(store, view.me.listed.clone(), true);
    let moved = executor::quarantine(&state, paths, LeftBehind::MayHaveVoted);
    let stamp = moved.map_err(|error| Failure::new(Code::DataDirUnwritable, error))?;
    if !json {
        line(format_args!(
            "moved to quarantine-{stamp} in {}; start the supervisor, and this node joins",
            addresses::paths(&config.etcd).data.display()
        ));
    }
    Ok(0)
}
