//! `members`: etcd's own list, through a quorum, with each member's state.

use std::time::Duration;

use argh::FromArgs;
use serde_json::{Value, json};

use super::{find_cloud, table};
use crate::cluster::types::Member;
use crate::config::Config;
use crate::etcd::client::Client;
use crate::exit::{Code, Failure};
use crate::http;
use crate::identity;
use crate::tls::Trust;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Show the cluster's members: id, name, role, leader, raft index, size.
#[derive(FromArgs)]
#[argh(subcommand, name = "members")]
pub(super) struct Members {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

struct Row {
    member: Member,
    role: &'static str,
    version: String,
    raft_index: Option<u64>,
    db_size_bytes: Option<u64>,
}

impl Members {
    pub(super) async fn run(&self, config: &Config) -> Result<i32, Failure> {
        let (own, cloud) = find_cloud(config).await?;
        let etcd = Client::new(http::Client::new(Trust::public(None)));
        let mut urls = vec![identity::own_client_url(&identity::settings(config, &own))];
        // From any node: this one first, then the others EC2 shows.
        if let Ok(roster) = cloud.roster().await {
            let addresses = roster.standing().filter(|i| i.id.0 != own.instance).filter_map(|i| i.address);
            urls.extend(addresses.map(|a| identity::url(&a.to_string(), config.client_port)));
        }
        let mut tried = Vec::new();
        for url in &urls {
            match etcd.member_list(url, ANSWER_TIMEOUT).await {
                Ok(list) => {
                    let mut rows = Vec::new();
                    for member in list.members {
                        rows.push(Row::of(&etcd, member).await);
                    }
                    self.print(&list.cluster.to_string(), &rows);
                    return Ok(0);
                }
                Err(error) => tried.push(error.to_string()),
            }
        }
        Err(Failure::new(Code::Unavailable, format!("no member lists the cluster:\n{}", tried.join("\n"))))
    }

    fn print(&self, cluster: &str, rows: &[Row]) {
        if self.json {
            let members: Vec<Value> = rows.iter().map(Row::json).collect();
            println!("{:#}", json!({"cluster": cluster, "members": members}));
            return;
        }
        let cell = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |v| v.to_string());
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|r| {
                let m = &r.member;
                let urls = m.client_urls.join(",");
                let (index, size) = (cell(r.raft_index), cell(r.db_size_bytes));
                vec![m.id.to_string(), m.name.clone(), r.role.to_owned(), urls, r.version.clone(), index, size]
            })
            .collect();
        println!("cluster {cluster}");
        table::print(&["MEMBER", "NAME", "ROLE", "CLIENT URLS", "VERSION", "RAFT INDEX", "DB BYTES"], &rows);
    }
}

impl Row {
    async fn of(etcd: &Client, member: Member) -> Self {
        let mut status = None;
        for url in &member.client_urls {
            status = etcd.status(url, ANSWER_TIMEOUT).await.ok();
            if status.is_some() {
                break;
            }
        }
        let role = match &status {
            None if member.name.is_empty() => "unstarted",
            None => "silent",
            Some(_) if member.is_learner => "learner",
            Some(s) if s.leader == Some(member.id) => "leader",
            Some(_) => "voter",
        };
        Self {
            member,
            role,
            version: status.as_ref().map_or_else(|| "-".to_owned(), |s| s.version.clone()),
            raft_index: status.as_ref().map(|s| s.raft_index),
            db_size_bytes: status.as_ref().map(|s| s.db_size_bytes),
        }
    }

    fn json(&self) -> Value {
        json!({
            "id": self.member.id.to_string(),
            "name": self.member.name,
            "role": self.role,
            "peerURLs": self.member.peer_urls,
            "clientURLs": self.member.client_urls,
            "version": self.version,
            "raftIndex": self.raft_index,
            "dbSizeBytes": self.db_size_bytes,
        })
    }
}
