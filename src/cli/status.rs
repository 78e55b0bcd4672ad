//! `status`: what the supervisor on this node does, and why.

use std::time::Duration;

use argh::FromArgs;
use serde_json::json;

use super::{own_etcd, terminal};
use crate::config::Config;
use crate::etcd::data_dir::MUSTER_DIR;
use crate::net::http;
use crate::status::server::SOCKET;
use crate::status::snapshot::Snapshot;
use crate::status::text::{self, Asked};
use crate::util::exit::{Code, Failure};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Show what the supervisor on this node does and why, its etcd, the last decisions. Exit code 0: ready; 1: not; 69: none
/// runs.
#[derive(FromArgs)]
#[argh(subcommand, name = "status")]
pub(super) struct Status {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

impl Status {
    pub(super) async fn run(&self, config: &Config) -> Result<i32, Failure> {
        let now = ask_supervisor(config).await.map_err(|cause| Failure::new(Code::Unavailable, cause))?;
        // The supervisor's own word may be ten seconds old.
        let asked = match now.etcd.pid {
            Some(_) => Some(ask_etcd(config).await),
            None => None,
        };
        let ready = now.ready && asked.as_ref().is_some_and(|asked| asked.trouble.is_none());
        if self.json {
            let mut shown = serde_json::to_value(&now).map_err(|e| Failure::new(Code::System, e))?;
            shown["asked"] = asked
                .as_ref()
                .map_or(json!(null), |a| json!({"role": a.role, "healthy": a.trouble.is_none(), "trouble": a.trouble}));
            terminal::json(&shown);
        } else {
            terminal::lines(&text::render(&now, asked.as_ref()));
        }
        Ok(if ready { 0 } else { Code::Unhealthy as i32 })
    }
}

/// Over the socket beside the data: it is there whatever is set.
pub(super) async fn ask_supervisor(config: &Config) -> Result<Snapshot, String> {
    let socket = config.data.join(MUSTER_DIR).join(SOCKET);
    let answer = http::fetch_at(&socket, "/status", ANSWER_TIMEOUT).await;
    let answer =
        answer.map_err(|e| format!("no supervisor answers at {e}; is `etcd-muster run` up with this ED_DATA?"))?;
    serde_json::from_slice(answer.body()).map_err(|e| format!("{}: not a status: {e}", socket.display()))
}

async fn ask_etcd(config: &Config) -> Asked {
    let (url, etcd) = own_etcd(config);
    let (status, health) = tokio::join!(etcd.status(&url, ANSWER_TIMEOUT), etcd.health(&url, ANSWER_TIMEOUT));
    let role = status.ok().map(|status| match status.leader {
        _ if status.is_learner => "learner",
        Some(leader) if leader == status.member => "leader",
        _ => "voter",
    });
    let trouble = match health {
        Ok(Ok(())) => None,
        Ok(Err(reason)) => Some(reason),
        Err(error) => Some(error.to_string()),
    };
    Asked { role, trouble }
}
