//! `health`: one line and an exit code, for a container's HEALTHCHECK.

use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::status::ask_supervisor;
use super::{own_etcd, own_peer_url, terminal};
use crate::config::Etcd;
use crate::core::types::Member;
use crate::etcd::alarm;
use crate::etcd::client::{self, Client};
use crate::net::http;
use crate::net::tls::{Believed, KeyFiles, Names, Trust};
use crate::status::snapshot::Listed;
use crate::util::exit::{Code, Failure};
use crate::util::words;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Ask etcd on this node whether it is healthy. Exits with 0 if every queried member is healthy, otherwise with 1. Uses the same
/// settings as `run`; the flags mean what they mean to etcdctl and curl.
#[derive(FromArgs)]
#[argh(subcommand, name = "health")]
pub(super) struct Health {
    /// print JSON
    #[argh(switch)]
    json: bool,
    /// query this client URL instead of this node's own; may be repeated
    #[argh(option, arg_name = "URL")]
    endpoint: Vec<String>,
    /// query every member of the cluster
    #[argh(switch)]
    cluster: bool,
    /// trust servers whose certificate is signed by this CA
    #[argh(option, arg_name = "FILE")]
    cacert: Option<PathBuf>,
    /// client certificate to present
    #[argh(option, arg_name = "FILE")]
    cert: Option<PathBuf>,
    /// private key of --cert
    #[argh(option, arg_name = "FILE")]
    key: Option<PathBuf>,
    /// accept any server certificate
    #[argh(switch)]
    insecure: bool,
}

/// One member, and why it isn't healthy.
struct Answer {
    url: String,
    reason: Option<String>,
}

impl Answer {
    fn json(&self) -> Value {
        json!({"endpoint": words::without_secrets(&self.url), "healthy": self.reason.is_none(), "reason": self.reason})
    }

    fn line(&self) -> String {
        format!("{}: {}", words::without_secrets(&self.url), self.reason.as_deref().unwrap_or("healthy"))
    }
}

impl Health {
    pub(super) async fn run(&self, config: &Etcd) -> Result<i32, Failure> {
        let (own_url, own_etcd) = own_etcd(config);
        let etcd = match self.trust()? {
            Some(trust) => own_etcd.under(http::Client::new(trust)),
            None => own_etcd,
        };
        let urls = match self.endpoint.is_empty() {
            true => vec![own_url],
            false => self.endpoint.clone(),
        };
        let mut answers = Vec::new();
        let mut in_doubt = false;
        let urls = match self.cluster {
            true => {
                let own = self.endpoint.is_empty().then_some(config);
                let listed = every_member(&etcd, &urls, own).await?;
                if let Some(doubt) = &listed.doubt {
                    log::warn!("{doubt}");
                    in_doubt = true;
                    answers.extend(listed.members.iter().filter(|m| m.client_urls.is_empty()).map(never_started));
                }
                // A member without a client URL has never run, so it can't be queried.
                listed.members.into_iter().filter_map(|m| m.client_urls.into_iter().next()).collect()
            }
            false => urls,
        };
        answers.splice(0..0, ask_all(&etcd, urls).await);
        match (self.json, answers.as_slice()) {
            (true, [one]) if !self.cluster => terminal::json_line(&one.json()),
            (true, all) => terminal::json_line(&Value::from_iter(all.iter().map(Answer::json))),
            (false, all) => all.iter().for_each(|answer| terminal::line(answer.line())),
        }
        let healthy = !in_doubt && answers.iter().all(|answer| answer.reason.is_none());
        Ok(if healthy { 0 } else { Code::Unhealthy as i32 })
    }

    /// The TLS settings that the flags give; `None` without flags.
    fn trust(&self) -> Result<Option<Trust>, Failure> {
        let shown = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some(KeyFiles { cert: cert.clone(), key: key.clone() }),
            // As curl: the key may be in the same file.
            (Some(cert), None) => Some(KeyFiles { cert: cert.clone(), key: cert.clone() }),
            (None, Some(key)) => {
                let message = format!("--key {} needs its certificate too: --cert FILE", key.display());
                return Err(Failure::new(Code::Usage, message));
            }
            (None, None) => None,
        };
        let believed = match (&self.cacert, self.insecure) {
            (_, true) => Believed::Anybody,
            (Some(ca), false) => Believed::SignedBy(ca.clone()),
            (None, false) if shown.is_none() => return Ok(None),
            (None, false) => Believed::Public { beside: Vec::new() },
        };
        Ok(Some(Trust::new(believed, shown, Names::default())))
    }
}

/// The members, and why the list may be out of date.
struct Found {
    members: Vec<Listed>,
    doubt: Option<String>,
}

/// Reads the list through a quorum. Without one, takes a member's own list, or the one that this node's supervisor (`own`) saw last.
async fn every_member(etcd: &Client, urls: &[String], own: Option<&Etcd>) -> Result<Found, Failure> {
    let mut tried = Vec::new();
    for url in urls {
        match etcd.member_list(url, ANSWER_TIMEOUT).await {
            Ok(list) => return Ok(Found { members: list.members.iter().map(listed).collect(), doubt: None }),
            Err(error) => tried.push(error.to_string()),
        }
    }
    let why = tried.join("; ");
    let doubt = |whose: String| {
        Some(format!("no quorum gives a member list ({why}); using the list {whose}, which may be out of date"))
    };
    if let Some(url) = own.map(own_peer_url)
        && let Ok(list) = etcd.peer_members(&url, ANSWER_TIMEOUT).await
    {
        return Ok(Found { members: list.members.iter().map(listed).collect(), doubt: doubt(format!("of {url}")) });
    }
    for url in urls {
        if let Ok(list) = etcd.own_member_list(url, ANSWER_TIMEOUT).await {
            return Ok(Found { members: list.members.iter().map(listed).collect(), doubt: doubt(format!("of {url}")) });
        }
    }
    if let Some(config) = own
        && let Ok(now) = ask_supervisor(config).await
        && !now.last_listed.is_empty()
    {
        let doubt = doubt("that this node's supervisor saw last".to_owned());
        return Ok(Found { members: now.last_listed, doubt });
    }
    Err(Failure::new(Code::Unhealthy, format!("no member returns the member list: {why}")))
}

fn listed(member: &Member) -> Listed {
    let (name, client_urls) = (member.name.clone(), member.client_urls.clone());
    Listed { member: member.id.to_string(), name, client_urls }
}

fn never_started(member: &Listed) -> Answer {
    Answer { url: format!("member {}", member.member), reason: Some("it never started".to_owned()) }
}

async fn ask_all(etcd: &Client, urls: Vec<String>) -> Vec<Answer> {
    let mut asked = JoinSet::new();
    for (place, url) in urls.into_iter().enumerate() {
        let etcd = etcd.clone();
        asked.spawn(async move { (place, Answer { reason: ask(&etcd, &url).await, url }) });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Why the member isn't healthy; `None` if it is.
async fn ask(etcd: &Client, url: &str) -> Option<String> {
    match etcd.health(url, ANSWER_TIMEOUT).await {
        Ok(client::Health::Healthy) => None,
        Ok(client::Health::Unhealthy(reason)) => {
            // etcd 3.4 gives no reason, and no release says which member raised the alarm.
            let alarms = etcd.alarms(url, ANSWER_TIMEOUT).await.unwrap_or_default();
            let named: Vec<_> = alarms.iter().map(|(member, alarm)| alarm::way_out(*member, alarm)).collect();
            Some(if named.is_empty() { reason } else { named.join("; ") })
        }
        Err(error) => Some(error.to_string()),
    }
}
