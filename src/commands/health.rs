//! `health`: one line and an exit code, for a container's HEALTHCHECK.

use std::time::Duration;

use argh::FromArgs;
use serde_json::json;

use super::own_url;
use crate::attend;
use crate::config::Config;
use crate::etcd::client::Client;
use crate::exit::{Code, Failure};
use crate::http;
use crate::tls::Trust;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Ask etcd on this node whether it is healthy. Exit code 0 or 1.
#[derive(FromArgs)]
#[argh(subcommand, name = "health")]
pub(super) struct Health {
    /// print JSON
    #[argh(switch)]
    json: bool,
    /// ask at this client URL instead of this node's own
    #[argh(option, arg_name = "URL")]
    endpoint: Option<String>,
}

impl Health {
    pub(super) async fn run(&self, config: &Config) -> Result<i32, Failure> {
        let url = self.endpoint.clone().unwrap_or_else(|| own_url(config));
        let etcd = Client::new(http::Client::new(Trust::public(None)));
        let reason = match etcd.health(&url, ANSWER_TIMEOUT).await {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => {
                // 3.4 gives no reason, and no release says whose alarm it is.
                let alarms = etcd.alarms(&url, ANSWER_TIMEOUT).await.unwrap_or_default();
                let named: Vec<_> = alarms.iter().map(|(member, alarm)| attend::way_out(*member, alarm)).collect();
                Some(if named.is_empty() { reason } else { named.join("; ") })
            }
            Err(error) => Some(error.to_string()),
        };
        if self.json {
            println!("{}", json!({"endpoint": url, "healthy": reason.is_none(), "reason": reason}));
        } else {
            println!("{url}: {}", reason.as_deref().unwrap_or("healthy"));
        }
        Ok(if reason.is_none() { 0 } else { Code::Unhealthy as i32 })
    }
}
