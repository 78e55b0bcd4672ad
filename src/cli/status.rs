//! `status`: what the supervisor on this node is doing, and why.

use std::time::Duration;

use argh::FromArgs;
use serde_json::json;

use super::{own_etcd, terminal};
use crate::config::Etcd;
use crate::etcd::client::Health;
use crate::etcd::data_dir::MUSTER_DIR;
use crate::net::http;
use crate::status::server::SOCKET;
use crate::status::snapshot::Snapshot;
use crate::status::text::{self, Asked};
use crate::util::exit::{Code, Failure};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Show what the supervisor on this node is doing and why, the state of its etcd, and the last decisions. Exits with 0 if the
/// node is ready, with 1 if it is not, and with 69 if no supervisor is running.
#[derive(FromArgs)]
#[argh(subcommand, name = "status")]
pub(super) struct Status {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

impl Status {
    pub(super) async fn run(&self, config: &Etcd) -> Result<i32, Failure> {
        let now = ask_supervisor(config).await.map_err(|cause| Failure::new(Code::Unavailable, cause))?;
        // The supervisor's own report may be ten seconds old.
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

/// Over the socket beside the data, which exists whatever the settings are.
pub(super) async fn ask_supervisor(config: &Etcd) -> Result<Snapshot, String> {
    let socket = config.data.join(MUSTER_DIR).join(SOCKET);
    let answer = http::fetch_at(&socket, "/status", ANSWER_TIMEOUT).await;
    let answer =
        answer.map_err(|e| format!("no supervisor answers at {e}; is `etcd-muster run` running with this ED_DATA?"))?;
    serde_json::from_slice(answer.body()).map_err(|e| format!("{}: the answer is not a status: {e}", socket.display()))
}

async fn ask_etcd(config: &Etcd) -> Asked {
    let (url, etcd) = own_etcd(config);
    let (status, health) = tokio::join!(etcd.status(&url, ANSWER_TIMEOUT), etcd.health(&url, ANSWER_TIMEOUT));
    let role = status.ok().map(|status| match status.leader {
        _ if status.is_learner => "learner",
        Some(leader) if leader == status.member => "leader",
        _ => "voter",
    });
    let trouble = match health {
        Ok(Health::Healthy) => None,
        Ok(Health::Unhealthy(reason)) => Some(reason),
        Err(error) => Some(error.to_string()),
    };
    Asked { role, trouble }
}
