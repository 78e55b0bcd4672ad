//! `members`: etcd's member list, each member with its own status and with what EC2 says about its instance.

use std::collections::BTreeMap;
use std::time::Duration;

use argh::FromArgs;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::terminal;
use crate::config::Config;
use crate::core::types::{Instance, InstanceId, Known, Member, MemberId, Roster};
use crate::discovery::addresses;
use crate::discovery::aws_clients::Aws;
use crate::discovery::member_owner::owner;
use crate::discovery::{self, Discovery, Fleet};
use crate::etcd::client::{self, Client, Health, MemberList};
use crate::peer::clients::PeerClients;
use crate::state::store::{Identity, Store};
use crate::util::exit::{Code, Failure};
use crate::util::words;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// etcd's part of the table is shown even without AWS's, so neither call waits longer than this.
const IMDS_PATIENCE: Duration = Duration::from_secs(5);
const EC2_PATIENCE: Duration = Duration::from_secs(10);

/// Show the cluster's members, each with its instance, role, health, lag behind the leader, database size and alarms; then what
/// could not be observed.
#[derive(FromArgs)]
#[argh(subcommand, name = "members")]
pub(super) struct Members {
    /// print JSON
    #[argh(switch)]
    json: bool,
    /// query this client URL instead of this node's own
    #[argh(option, arg_name = "URL")]
    endpoint: Option<String>,
}

/// A member's own status. `trouble`: why it does not answer, or why it isn't healthy.
struct Answer {
    status: Option<client::Status>,
    trouble: Option<String>,
}

struct Row {
    member: Member,
    role: &'static str,
    instance: Option<InstanceId>,
    /// As EC2 lists it.
    listed: Option<Instance>,
    name_tag: Option<String>,
    version: Option<String>,
    /// `None`: unknown.
    healthy: Option<bool>,
    raft_index: Option<u64>,
    raft_behind: Option<u64>,
    db_size_bytes: Option<u64>,
    alarms: Vec<String>,
}

impl Members {
    pub(super) async fn run(&self, config: &Config) -> Result<i32, Failure> {
        let mut notes = Vec::new();
        let (own, has_region) = find_self(config, &mut notes).await;
        let clients = PeerClients::new(&config.etcd, own.as_ref());
        let settings = own.as_ref().map(|own| addresses::settings(&config.etcd, own));
        let here = "127.0.0.1";
        let own_client =
            settings.as_ref().map_or_else(|| addresses::client_url(&config.etcd, here), addresses::own_client_url);
        let own_peer =
            settings.as_ref().map_or_else(|| addresses::peer_url(&config.etcd, here), addresses::own_peer_url);
        let first = self.endpoint.clone().unwrap_or(own_client);
        let (fleet, list) =
            tokio::join!(ask_ec2(config, own.as_ref(), has_region), clients.etcd.member_list(&first, ANSWER_TIMEOUT));
        if let Known::Known(fleet) = &fleet {
            clients.learn(&fleet.roster);
        }
        let etcd = clients.etcd;
        let mut tried = Vec::new();
        let mut found = list.map(|list| (first.clone(), list)).map_err(|error| tried.push(error.to_string())).ok();
        let no_fleet = Fleet::default();
        let addresses = || fleet.known().unwrap_or(&no_fleet).roster.non_terminated().filter_map(|i| i.address);
        if found.is_none() {
            // The command works on any node: if no etcd answers here, ask at the instances that EC2 lists.
            let urls =
                addresses().map(|a| addresses::client_url(&config.etcd, &a.to_string())).filter(|url| *url != first);
            found = ask_all(&etcd, urls.collect(), Port::Client, &mut tried).await;
        }
        let mut failure = None;
        if found.is_none() {
            let why = ["no member returns the member list:".to_owned()].into_iter().chain(tried.clone());
            failure = Some(Failure::of_lines(Code::Unavailable, why));
            let urls = addresses().map(|a| addresses::peer_url(&config.etcd, &a.to_string())).chain([own_peer]);
            found = ask_all(&etcd, urls.collect(), Port::Peer, &mut tried).await;
            if let Some((url, _)) = &found {
                notes.push(format!(
                    "no quorum: this is the list that {} has, which may be out of date",
                    words::without_secrets(url)
                ));
            }
        }
        let Some((url, list)) = found else {
            let failure =
                failure.unwrap_or_else(|| Failure::new(Code::Unavailable, "no member returns the member list"));
            return Err(failure.and(notes.into_iter().chain(fleet_trouble(&fleet))));
        };
        let answers = ask_each(&etcd, &list.members).await;
        let alarms = match failure.is_none() {
            true => etcd.alarms(&url, ANSWER_TIMEOUT).await.map_err(|e| e.to_string()),
            false => Err("they can't be read without a quorum".to_owned()),
        };
        let written = config.instances.written().is_some();
        let rows = join(&list, &answers, alarms.as_deref().unwrap_or_default(), fleet.known(), written);
        notes.extend(fleet_trouble(&fleet));
        notes.extend(alarms.err().map(|cause| format!("alarms are unknown: {cause}")));
        notes.extend(unseen(&rows, &answers));
        let how = if written { "listed" } else { "tagged" };
        notes.extend(fleet.known().and_then(|fleet| strangers(&rows, &fleet.roster, how)));
        self.print(&list.cluster.to_string(), &rows, &notes);
        failure.map_or(Ok(0), Err)
    }

    fn print(&self, cluster: &str, rows: &[Row], notes: &[String]) {
        if self.json {
            let members: Vec<Value> = rows.iter().map(Row::json).collect();
            terminal::json(&json!({"cluster": cluster, "members": members, "notes": notes}));
            return;
        }
        terminal::line(format_args!("cluster {cluster}"));
        let rows: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
        terminal::table(&Row::HEAD, &rows);
        notes.iter().for_each(terminal::line);
    }
}

/// This instance's identity, and whether the region to query is known. Falls back to what the last start stored if the metadata service does not
/// answer.
async fn find_self(config: &Config, notes: &mut Vec<String>) -> (Option<Identity>, Result<(), String>) {
    let imds = discovery::metadata_service(&config.aws);
    let cause = match tokio::time::timeout(IMDS_PATIENCE, discovery::fetch_identity(config, &imds)).await {
        Ok(Ok(own)) => return (Some(own), Ok(())),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the instance metadata service does not answer within {} s", IMDS_PATIENCE.as_secs()),
    };
    let kept = Store::peek_identity(&config.etcd.data).ok().flatten();
    if config.aws.region.is_none() && kept.as_ref().is_none_or(|own| own.region.is_none()) {
        return (kept, Err(cause));
    }
    notes.push(cause);
    (kept, Ok(()))
}

async fn ask_ec2(config: &Config, own: Option<&Identity>, has_region: Result<(), String>) -> Known<Fleet> {
    let unknown = |cause: String| Known::Unknown(discovery::unlisted(&config.instances, cause));
    match has_region {
        Ok(()) => {}
        Err(cause) if config.instances.written().is_some() => return unknown(cause),
        Err(cause) => return unknown(format!("the region is unknown: {cause}")),
    }
    let aws = match Aws::new(&config.aws, discovery::metadata_service(&config.aws), own) {
        Ok(aws) => aws,
        Err(refusal) => return unknown(refusal.to_string()),
    };
    let cloud = Discovery::new(config.instances.clone(), &aws);
    match tokio::time::timeout(EC2_PATIENCE, cloud.fleet()).await {
        Ok(Ok(fleet)) => Known::Known(fleet),
        Ok(Err(error)) => unknown(error.to_string()),
        Err(_) => unknown(format!("no complete answer within {} s", EC2_PATIENCE.as_secs())),
    }
}

fn fleet_trouble(fleet: &Known<Fleet>) -> Option<String> {
    match fleet {
        Known::Known(_) => None,
        Known::Unknown(cause) => Some(cause.clone()),
    }
}

/// At which of etcd's ports members are asked.
#[derive(Clone, Copy)]
enum Port {
    Client,
    Peer,
}

/// The first list that any of the URLs gives: through a quorum at client ports, or a member's own at peer ports.
async fn ask_all(
    etcd: &Client,
    urls: Vec<String>,
    port: Port,
    tried: &mut Vec<String>,
) -> Option<(String, MemberList)> {
    let mut asked = JoinSet::new();
    for url in urls {
        let etcd = etcd.clone();
        asked.spawn(async move {
            let list = match port {
                Port::Peer => etcd.peer_members(&url, ANSWER_TIMEOUT).await,
                Port::Client => etcd.member_list(&url, ANSWER_TIMEOUT).await,
            };
            list.map(|list| (url, list))
        });
    }
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(found)) => return Some(found),
            Ok(Err(error)) => tried.push(error.to_string()),
            Err(error) => tried.push(error.to_string()),
        }
    }
    None
}

/// All members at once: raft indexes can only be compared if they are read at the same moment.
async fn ask_each(etcd: &Client, members: &[Member]) -> BTreeMap<MemberId, Answer> {
    let mut asked = JoinSet::new();
    for member in members {
        let (etcd, id, urls) = (etcd.clone(), member.id, member.client_urls.clone());
        asked.spawn(async move { (id, ask(&etcd, &urls).await) });
    }
    let mut answers = BTreeMap::new();
    while let Some(answer) = asked.join_next().await {
        answers.extend(answer.ok());
    }
    answers
}

async fn ask(etcd: &Client, urls: &[String]) -> Answer {
    let mut trouble = "it has published no client URL yet".to_owned();
    for url in urls {
        let (status, health) = tokio::join!(etcd.status(url, ANSWER_TIMEOUT), etcd.health(url, ANSWER_TIMEOUT));
        match status {
            Ok(status) => {
                let trouble = match health {
                    Ok(Health::Healthy) => None,
                    Ok(Health::Unhealthy(reason)) => Some(reason),
                    Err(error) => Some(error.to_string()),
                };
                return Answer { status: Some(status), trouble };
            }
            Err(error) => trouble = error.to_string(),
        }
    }
    Answer { status: None, trouble: Some(trouble) }
}

fn join(
    list: &MemberList,
    answers: &BTreeMap<MemberId, Answer>,
    alarms: &[(MemberId, String)],
    fleet: Option<&Fleet>,
    written: bool,
) -> Vec<Row> {
    let status = |id: MemberId| answers.get(&id).and_then(|answer| answer.status.as_ref());
    let leads = |id: MemberId| status(id).is_some_and(|s| s.leader == Some(id));
    // A former leader that is cut off may still report itself as leader: the one with the highest index leads.
    let leader = list.members.iter().filter(|m| leads(m.id)).max_by_key(|m| status(m.id).map(|s| s.raft_index));
    let leader_index = leader.and_then(|m| status(m.id)).map(|s| s.raft_index);
    let no_roster = Roster::default();
    let row = |member: &Member| {
        let status = status(member.id);
        let role = match status {
            None if member.name.is_empty() => "unstarted",
            None => "silent",
            Some(_) if member.is_learner => "learner",
            Some(_) if leader.is_some_and(|l| l.id == member.id) => "leader",
            Some(_) => "voter",
        };
        let instance = owner(member, fleet.map_or(&no_roster, |fleet| &fleet.roster), written);
        let raft_index = status.map(|s| s.raft_index);
        Row {
            role,
            listed: instance.as_ref().and_then(|id| fleet?.roster.find(id).cloned()),
            name_tag: instance.as_ref().and_then(|id| fleet?.names.get(id).cloned()),
            instance,
            version: status.map(|s| s.version.clone()),
            healthy: status.map(|_| answers.get(&member.id).is_some_and(|answer| answer.trouble.is_none())),
            raft_index,
            raft_behind: leader_index.zip(raft_index).map(|(leader, own)| leader.saturating_sub(own)),
            db_size_bytes: status.map(|s| s.db_size_bytes),
            alarms: alarms.iter().filter(|(id, _)| *id == member.id).map(|(_, alarm)| alarm.clone()).collect(),
            member: member.clone(),
        }
    };
    list.members.iter().map(row).collect()
}

/// What the members' answers did not show.
fn unseen(rows: &[Row], answers: &BTreeMap<MemberId, Answer>) -> Vec<String> {
    let mut notes = Vec::new();
    for row in rows {
        let trouble = answers.get(&row.member.id).and_then(|answer| answer.trouble.as_deref());
        match trouble {
            Some(why) if row.healthy == Some(false) => notes.push(format!("{} is not healthy: {why}", row.who())),
            Some(why) => notes.push(format!("{} does not answer: {why}", row.who())),
            None => {}
        }
    }
    if !rows.iter().any(|row| row.role == "leader") {
        notes.push("no leader answers: how far the members are behind is unknown".to_owned());
    }
    notes
}

/// Tagged instances that aren't members: spares, new instances, and nodes that hold.
fn strangers(rows: &[Row], roster: &Roster, how: &str) -> Option<String> {
    let is_member = |i: &&Instance| rows.iter().any(|row| row.instance.as_ref() == Some(&i.id));
    let others: Vec<String> =
        roster.non_terminated().filter(|i| !is_member(i)).map(|i| format!("{} ({})", i.id, i.state.name())).collect();
    (!others.is_empty()).then(|| format!("{how} but not a member: {}", others.join(", ")))
}

impl Row {
    const HEAD: [&'static str; 11] =
        ["INSTANCE", "STATE", "ZONE", "NAME", "MEMBER", "ROLE", "HEALTH", "VERSION", "BEHIND", "DB SIZE", "ALARMS"];

    fn who(&self) -> String {
        self.instance.as_ref().map_or_else(|| format!("member {}", self.member.id), ToString::to_string)
    }

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.filter(|t| !t.is_empty()).unwrap_or_else(|| "-".to_owned());
        let healthy = self.healthy.map(|healthy| if healthy { "healthy" } else { "unhealthy" }.to_owned());
        vec![
            or_dash(self.instance.as_ref().map(ToString::to_string)),
            or_dash(self.listed.as_ref().map(|i| i.state.name().to_owned())),
            or_dash(self.listed.as_ref().map(|i| i.zone.clone())),
            or_dash(Some(self.member.name.clone())),
            self.member.id.to_string(),
            self.role.to_owned(),
            or_dash(healthy),
            or_dash(self.version.clone()),
            or_dash(self.raft_behind.map(|behind| behind.to_string())),
            or_dash(self.db_size_bytes.map(size)),
            or_dash(Some(self.alarms.join(","))),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "id": self.member.id.to_string(),
            "name": self.member.name,
            "role": self.role,
            "instance": self.instance,
            "state": self.listed.as_ref().map(|i| i.state.name()),
            "zone": self.listed.as_ref().map(|i| i.zone.as_str()),
            "nameTag": self.name_tag,
            "healthy": self.healthy,
            "peerURLs": self.member.peer_urls,
            "clientURLs": self.member.client_urls,
            "version": self.version,
            "raftIndex": self.raft_index,
            "raftBehind": self.raft_behind,
            "dbSizeBytes": self.db_size_bytes,
            "alarms": self.alarms,
        })
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::{ClusterId, InstanceState};

    fn member(id: u64, name: &str) -> Member {
        let urls = |port| vec![format!("http://10.0.0.{id}:{port}")];
        Member {
            id: MemberId(id),
            name: name.to_owned(),
            peer_urls: urls(2380),
            client_urls: if name.is_empty() { Vec::new() } else { urls(2379) },
            is_learner: false,
        }
    }

    fn says(id: u64, leader: u64, raft_index: u64, trouble: Option<&str>) -> (MemberId, Answer) {
        let status = client::Status {
            cluster: ClusterId(1),
            member: MemberId(id),
            version: "3.5.1".to_owned(),
            leader: Some(MemberId(leader)),
            is_learner: false,
            raft_index,
            raft_term: 1,
            db_size_bytes: 20_480,
            db_in_use_bytes: None,
            quota_bytes: None,
            storage_version: None,
            downgrade_to: None,
        };
        (MemberId(id), Answer { status: Some(status), trouble: trouble.map(str::to_owned) })
    }

    fn fleet() -> Fleet {
        let instance = |n: u8, state| Instance {
            id: InstanceId(format!("i-{n}")),
            state,
            launched: Some(i64::from(n)),
            attached: None,
            changed: None,
            address: Some(std::net::IpAddr::from([10, 0, 0, n])),
            private_dns: None,
            zone: "z".to_owned(),
        };
        let instances = vec![
            instance(1, InstanceState::Running),
            instance(2, InstanceState::Running),
            instance(3, InstanceState::ShuttingDown),
            instance(9, InstanceState::Pending),
        ];
        Fleet { roster: Roster::new(instances, 0), names: [(InstanceId("i-2".to_owned()), "blue".to_owned())].into() }
    }

    fn list() -> MemberList {
        MemberList {
            cluster: ClusterId(1),
            members: vec![member(1, "i-1"), member(2, "db"), member(3, "i-3"), member(4, "")],
        }
    }

    #[test]
    fn a_member_is_joined_with_its_instance_and_measured_by_the_leader() {
        // 2 leads; 1 was cut off and still calls itself leader; 3 is silent; 4 has not started.
        let mut answers: BTreeMap<_, _> = [says(1, 1, 70, Some("no leader")), says(2, 2, 100, None)].into();
        answers.insert(MemberId(3), Answer { status: None, trouble: Some("refused".to_owned()) });
        let alarms = [(MemberId(2), "NOSPACE".to_owned())];
        let rows = join(&list(), &answers, &alarms, Some(&fleet()), false);
        let shown: Vec<String> = rows.iter().map(|row| row.cells().join("|")).collect();
        assert_eq!(
            shown,
            [
                "i-1|running|z|i-1|1|voter|unhealthy|3.5.1|30|20.0 KiB|-",
                "i-2|running|z|db|2|leader|healthy|3.5.1|0|20.0 KiB|NOSPACE",
                "i-3|shutting-down|z|i-3|3|silent|-|-|-|-|-",
                "-|-|-|-|4|unstarted|-|-|-|-|-",
            ]
        );
        assert_eq!(rows[1].json()["nameTag"], "blue");
        assert_eq!(unseen(&rows, &answers), ["i-1 is not healthy: no leader", "i-3 does not answer: refused"]);
        assert_eq!(
            strangers(&rows, &fleet().roster, "tagged").as_deref(),
            Some("tagged but not a member: i-9 (pending)")
        );
    }

    #[test]
    fn without_ec2_and_leader_the_rest_is_still_shown() {
        let answers = [says(1, 3, 70, None)].into();
        let rows = join(&list(), &answers, &[], None, false);
        assert_eq!(rows[0].cells()[..7], ["i-1", "-", "-", "i-1", "1", "voter", "healthy"]);
        assert_eq!((rows[0].raft_behind, &rows[1].instance), (None, &None));
        assert!(unseen(&rows, &answers).iter().any(|note| note.starts_with("no leader answers")));
    }

    #[test]
    fn sizes() {
        let of = [0, 20_480, 1_048_576, 2_254_857_830].map(size);
        assert_eq!(of, ["0.0 KiB", "20.0 KiB", "1.0 MiB", "2.1 GiB"]);
    }
}
