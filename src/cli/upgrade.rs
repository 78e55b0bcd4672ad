//! `upgrade`: whether this member may run another release of etcd next, and what stands in the way.

use std::time::Duration;

use argh::FromArgs;
use serde_json::json;
use tokio::task::JoinSet;

use super::{own_etcd, terminal};
use crate::config::Config;
use crate::core::release::{Minor, Release};
use crate::core::types::{Known, Member};
use crate::core::upgrade::{Blocker, MemberState, blockers};
use crate::discovery::addresses;
use crate::etcd::client::Client;
use crate::etcd::defects;
use crate::state::store::Store;
use crate::util::exit::{Code, Failure};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Check whether this member may run that release of etcd next. Exits with 0 if it may, otherwise with 1, and says why. Changes
/// nothing.
#[derive(FromArgs)]
#[argh(subcommand, name = "upgrade")]
pub(super) struct Upgrade {
    /// the release to install next, such as 3.6.16
    #[argh(option, arg_name = "VERSION")]
    check: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

impl Upgrade {
    pub(super) async fn run(&self, config: &Config) -> Result<i32, Failure> {
        let target = Release::parse(&self.check).ok_or_else(|| {
            let message = format!("--check {}: not a release of etcd; write three numbers, such as 3.6.16", self.check);
            Failure::new(Code::Usage, message)
        })?;
        let own = Store::peek_identity(&config.etcd.data).ok().flatten();
        let own = own.ok_or_else(|| {
            let message =
                format!("{}: no etcd-muster has run with this data; start one first", config.etcd.data.display());
            Failure::new(Code::Unavailable, message)
        })?;
        let paths = addresses::settings(&config.etcd, &own).paths;
        let data = paths.release().map_or_else(|cause| Known::Unknown(cause.to_string()), Known::Known);
        let (url, etcd) = own_etcd(&config.etcd);
        let list = etcd.member_list(&url, ANSWER_TIMEOUT).await;
        let list =
            list.map_err(|error| Failure::new(Code::Unhealthy, format!("no quorum gives a member list: {error}")))?;
        let status = etcd.status(&url, ANSWER_TIMEOUT).await.map_err(|error| {
            Failure::new(Code::Unhealthy, format!("it is unknown whether the cluster is being downgraded: {error}"))
        })?;
        let version = etcd.version(&url, ANSWER_TIMEOUT).await.ok();
        let version = version.and_then(|version| Minor::of_cluster(&version.etcdcluster));
        let members = ask_all(&etcd, &list.members).await;
        let mut found = blockers(target, &data, config.upgrade.max_learners, version, &members);
        found.extend(status.downgrade_to.map(|to| Blocker::Downgrading { to }));
        self.print(target, version, &members, &found);
        Ok(if found.is_empty() { 0 } else { Code::Unhealthy as i32 })
    }

    fn print(&self, target: Release, version: Option<Minor>, members: &[MemberState], found: &[Blocker]) {
        let warning = defects::warning(target);
        if self.json {
            let members = members.iter().map(|m| {
                json!({"member": m.id.to_string(), "name": m.name, "release": m.release.map(|r| r.to_string()), "healthy": m.is_healthy})
            });
            return terminal::json(&json!({
                "target": target.to_string(),
                "cluster": version.map(|version| version.to_string()),
                "members": members.collect::<Vec<_>>(),
                "go": found.is_empty(),
                "blockers": found.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "warning": warning,
            }));
        }
        let unknown = || "unknown".to_owned();
        terminal::line(format_args!("cluster  {}", version.map_or_else(unknown, |version| version.to_string())));
        for member in members {
            let release = member.release.map_or_else(unknown, |release| release.to_string());
            let health = if member.is_healthy { "healthy" } else { "not healthy" };
            terminal::line(format_args!("member   {} {} etcd {release}, {health}", member.id, member.name));
        }
        if let Some(warning) = warning {
            terminal::line(format_args!("warning  {warning}"));
        }
        for blocker in found {
            terminal::line(format_args!("not yet  {blocker}"));
        }
        if found.is_empty() {
            terminal::line(format_args!("go       etcd {target} may be installed here next; one member at a time"));
        }
    }
}

async fn ask_all(etcd: &Client, members: &[Member]) -> Vec<MemberState> {
    let mut asked = JoinSet::new();
    for member in members.iter().cloned() {
        let etcd = etcd.clone();
        asked.spawn(async move { ask(&etcd, member).await });
    }
    let mut states = asked.join_all().await;
    states.sort_by_key(|state| state.id);
    states
}

async fn ask(etcd: &Client, member: Member) -> MemberState {
    let version = match member.peer_urls.first() {
        Some(url) => etcd.peer_version(url, ANSWER_TIMEOUT).await.ok(),
        None => None,
    };
    let release = version.and_then(|version| Release::parse(&version.etcdserver));
    let is_healthy = match member.client_urls.first() {
        // A question that 3.3 and 3.4 don't write to their log, as `/health` is.
        Some(url) => etcd.read_through_quorum(url, ANSWER_TIMEOUT).await.is_ok(),
        None => false,
    };
    MemberState {
        id: member.id,
        has_started: !member.client_urls.is_empty(),
        name: member.name,
        is_learner: member.is_learner,
        is_healthy,
        release,
    }
}
