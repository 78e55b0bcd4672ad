//! For tests: an etcd that answers what the test tells it to, and what else the daemon's tasks need.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::services::Services;
use crate::config::{self, Config};
use crate::core::types::{InstanceId, ListedMember, Member, MemberId};
use crate::discovery;
use crate::etcd::backend::sample;
use crate::etcd::client::Client;
use crate::etcd::data_dir::Paths;
use crate::net::http;
use crate::net::scripted::{Reply, Scripted};
use crate::net::tls::Trust;
use crate::peer::server::AcceptorState;
use crate::state::store::{Identity, Store};
use crate::util::clock;
use crate::util::scratch::Scratch;

/// Nothing ever listens there.
pub const REFUSING: &str = "http://127.0.0.1:1";
/// The cluster of every etcd here, unless a test sets another.
pub const CLUSTER: u64 = 0xc1;

/// One etcd: both of its ports at one address.
#[derive(Debug)]
pub struct FakeEtcd {
    pub server: Scripted,
    says: Arc<Mutex<Says>>,
}

/// What it answers.
#[derive(Clone, Debug)]
pub struct Says {
    pub release: &'static str,
    pub member: u64,
    /// 0: it sees none.
    pub leader: u64,
    pub is_learner: bool,
    /// Its cluster has a version.
    pub elected: bool,
    pub unhealthy: Option<&'static str>,
    pub members: Vec<Member>,
    /// To requests that begin so, this.
    pub instead: Vec<(&'static str, Reply)>,
}

impl FakeEtcd {
    /// A voter of that id, which sees a leader and is the only member.
    pub async fn start(member: u64) -> Self {
        Self::start_at("127.0.0.1:0", member).await
    }

    /// The same, at that address.
    pub async fn start_at(address: &str, member: u64) -> Self {
        let says = Says {
            release: "3.5.21",
            member,
            leader: member,
            is_learner: false,
            elected: true,
            unhealthy: None,
            members: Vec::new(),
            instead: Vec::new(),
        };
        let says = Arc::new(Mutex::new(says));
        let script = says.clone();
        let server = Scripted::start_at(address, move |line, _| script.lock().unwrap().reply(line)).await;
        says.lock().unwrap().members = vec![voter(member, &server.url)];
        Self { server, says }
    }

    /// The same etcd at another address as well, on its other port say.
    pub async fn also_at(&self, address: &str) -> Scripted {
        let script = self.says.clone();
        Scripted::start_at(address, move |line, _| script.lock().unwrap().reply(line)).await
    }

    /// Changes its answers from now on.
    pub fn now(&self, change: impl FnOnce(&mut Says)) {
        change(&mut self.says.lock().unwrap());
    }

    /// The same, after that time.
    pub fn after(&self, pause: Duration, change: impl FnOnce(&mut Says) + Send + 'static) {
        let says = self.says.clone();
        tokio::spawn(async move {
            clock::pause(pause).await;
            change(&mut says.lock().unwrap());
        });
    }
}

impl Says {
    fn reply(&mut self, line: &str) -> Reply {
        if let Some((_, reply)) = self.instead.iter().find(|(beginning, _)| line.starts_with(beginning)) {
            return reply.clone();
        }
        if let Some(id) = number_in(line, "/v3/maintenance/transfer-leadership", "targetID") {
            self.leader = id;
        }
        if let Some(id) = number_in(line, "/v3/cluster/member/remove", "ID") {
            self.members.retain(|m| m.id != MemberId(id));
        }
        let (cluster, member_id) = (CLUSTER.to_string(), self.member.to_string());
        let header = json!({"cluster_id": cluster, "member_id": member_id, "revision": "40"});
        let as_json = |value: Value| Reply::ok(&value.to_string());
        let through_quorum = |value: Value| match self.leader {
            0 => Reply::Answer(503, json!({"code": 14, "message": "etcdserver: no leader"}).to_string()),
            _ => as_json(value),
        };
        match line.split(' ').nth(1).unwrap_or_default() {
            "/version" => {
                let cluster = if self.elected { "3.5.0" } else { "not_decided" };
                as_json(json!({"etcdserver": self.release, "etcdcluster": cluster}))
            }
            "/health" => match self.unhealthy {
                _ if self.leader == 0 => as_json(json!({"health": "false", "reason": "RAFT NO LEADER"})),
                Some(reason) => as_json(json!({"health": "false", "reason": reason})),
                None => as_json(json!({"health": "true"})),
            },
            "/members" => {
                let members = self.members.iter().map(|m| member(m, "id")).collect::<Vec<_>>();
                Reply::Headed(200, ("x-etcd-cluster-id", format!("{CLUSTER:x}")), json!(members).to_string())
            }
            "/v3/maintenance/status" => as_json(json!({
                "header": header, "version": self.release, "leader": self.leader.to_string(), "isLearner": self.is_learner,
                "raftIndex": "10", "raftTerm": "2",
            })),
            "/v3/cluster/member/list" => {
                let members = self.members.iter().map(|m| member(m, "ID")).collect::<Vec<_>>();
                through_quorum(json!({"header": header, "members": members}))
            }
            "/v3/maintenance/alarm" => {
                let alarm = self.unhealthy.and_then(|reason| reason.strip_prefix("ALARM "));
                let alarms = alarm.map(|alarm| json!({"memberID": self.member.to_string(), "alarm": alarm}));
                as_json(json!({"header": header, "alarms": Vec::from_iter(alarms)}))
            }
            call if call.starts_with("/v3/") => through_quorum(json!({"header": header})),
            _ => Reply::status(404),
        }
    }
}

/// A number of a call's body, if it is that call.
fn number_in(line: &str, path: &str, field: &str) -> Option<u64> {
    let body: Value = serde_json::from_str(line.strip_prefix("POST ")?.strip_prefix(path)?).ok()?;
    body[field].as_str()?.parse().ok()
}

fn member(member: &Member, id: &str) -> Value {
    json!({
        id: if id == "ID" { json!(member.id.0.to_string()) } else { json!(member.id.0) }, "name": member.name,
        "peerURLs": member.peer_urls, "clientURLs": member.client_urls, "isLearner": member.is_learner,
    })
}

/// A voter with both of its ports at that URL.
pub fn voter(id: u64, url: &str) -> Member {
    let urls = vec![url.to_owned()];
    Member { id: MemberId(id), name: format!("m{id}"), peer_urls: urls.clone(), client_urls: urls, is_learner: false }
}

/// A client of plain etcds.
pub fn etcd_client() -> Client {
    let http = http::Client::new(Trust::public(None));
    Client::new(http.clone(), http, None)
}

/// Directories in that one, which hold nothing yet.
pub fn paths(scratch: &Scratch) -> Paths {
    let data = scratch.path().join("etcd");
    Paths { wal: data.join("wal"), data, wal_volume: None }
}

/// A backend there: members by id, learners in their own records or not, and raft's learners.
pub fn put_backend(paths: &Paths, members: &[(u64, bool)], raft_learners: &[u64]) {
    let snap = paths.data.join("member").join("snap");
    fs::create_dir_all(&snap).unwrap();
    fs::write(snap.join("db"), sample::backend(members, raft_learners)).unwrap();
}

/// The record of an instance without data, in that directory.
pub fn acceptor_state(scratch: &Scratch) -> AcceptorState {
    let instance = InstanceId("i-a".to_owned());
    let listed = ListedMember { instance, name: "i-a".to_owned(), peer_urls: vec!["http://10.0.0.1:2380".to_owned()] };
    AcceptorState::new(Store::open(scratch.path()).unwrap(), listed, false)
}

/// Settings of an instance that sends all AWS calls to that server.
pub fn config(aws: &str, more: &[(&str, &str)]) -> Config {
    let basic = [
        ("ED_SSL", "/nonexistent"),
        ("AWS_ENDPOINT_URL", aws),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", aws),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "eu-west-1"),
        ("ETCD_MEMBER_TYPE", "ip"),
    ];
    let env: BTreeMap<_, _> = basic.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    config::read(&env).unwrap()
}

/// What these settings have it ask.
pub fn services(config: &Config) -> Services {
    let own = Identity {
        instance: "i-a".to_owned(),
        region: Some("eu-west-1".to_owned()),
        address: [127, 0, 0, 1].into(),
        hostname: None,
        partition: None,
    };
    Services::new(config, discovery::metadata_service(&config.aws), &own).unwrap()
}

/// The metadata service, EC2 with one instance, and its Auto Scaling group.
#[derive(Debug)]
pub struct FakeAws {
    pub server: Scripted,
    says: Arc<Mutex<AwsSays>>,
}

/// What they say.
#[derive(Clone, Debug)]
pub struct AwsSays {
    /// `None`: the metadata service does not answer.
    pub target_state: Option<&'static str>,
    /// Auto Scaling's answer to a completion.
    pub completed: Reply,
}

impl FakeAws {
    /// An instance in service whose group takes completions.
    pub async fn start() -> Self {
        const DONE: &str =
            "<CompleteLifecycleActionResponse><CompleteLifecycleActionResult/></CompleteLifecycleActionResponse>";
        let says = AwsSays { target_state: Some("InService"), completed: Reply::ok(DONE) };
        let says = Arc::new(Mutex::new(says));
        let script = says.clone();
        let server = Scripted::start(move |line, _| script.lock().unwrap().reply(line)).await;
        Self { server, says }
    }

    /// Changes their answers from now on.
    pub fn now(&self, change: impl FnOnce(&mut AwsSays)) {
        change(&mut self.says.lock().unwrap());
    }

    /// How often a lifecycle action was to be completed.
    pub fn completions(&self) -> usize {
        self.server.asked().iter().filter(|line| line.contains("Action=CompleteLifecycleAction")).count()
    }
}

impl AwsSays {
    fn reply(&self, line: &str) -> Reply {
        const WITH_GROUP: &str = "<DescribeInstancesResponse><reservationSet><item><instancesSet><item><instanceId>i-a</instanceId>\
            <instanceState><name>running</name></instanceState><launchTime>2026-01-01T00:00:00.000Z</launchTime><tagSet><item>\
            <key>aws:autoscaling:groupName</key><value>g</value></item></tagSet></item></instancesSet></item></reservationSet>\
            </DescribeInstancesResponse>";
        match (line, self.target_state) {
            ("PUT /latest/api/token", Some(_)) => Reply::ok("token"),
            ("GET /latest/meta-data/autoscaling/target-lifecycle-state", Some(state)) => Reply::ok(state),
            (metadata, None) if metadata.contains("/latest/") => Reply::Silence,
            (call, _) if call.contains("Action=DescribeInstances") => Reply::ok(WITH_GROUP),
            (call, _) if call.contains("Action=CompleteLifecycleAction") => self.completed.clone(),
            _ => Reply::status(404),
        }
    }
}

/// EC2's answer: instances by id, state and address.
pub fn instances(shown: &[(&str, &str, &str)]) -> Reply {
    let instance = |(id, state, address): &(&str, &str, &str)| {
        let address = match *address {
            "" => String::new(),
            address => format!("<privateIpAddress>{address}</privateIpAddress>"),
        };
        format!(
            "<item><instanceId>{id}</instanceId><instanceState><name>{state}</name></instanceState>\
             <launchTime>2026-01-01T00:00:00.000Z</launchTime>{address}</item>"
        )
    };
    let instances: String = shown.iter().map(instance).collect();
    Reply::ok(&format!(
        "<DescribeInstancesResponse><reservationSet><item><instancesSet>{instances}</instancesSet></item></reservationSet>\
         </DescribeInstancesResponse>"
    ))
}

/// A store of objects that keeps to conditions, unless it is told not to.
#[derive(Debug)]
pub struct FakeStore {
    pub server: Scripted,
    holds: Arc<Mutex<Holds>>,
}

/// What it holds, and how it behaves.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    /// By path; an object's version is how often anything was written here until then.
    pub objects: BTreeMap<String, (u32, String)>,
    pub writes: u32,
    pub ignores_conditions: bool,
    /// To requests that begin so, this.
    pub instead: Vec<(&'static str, Reply)>,
}

impl FakeStore {
    /// An empty one.
    pub async fn start() -> Self {
        let holds = Arc::<Mutex<Holds>>::default();
        let script = holds.clone();
        let server = Scripted::start(move |line, _| script.lock().unwrap().reply(line)).await;
        Self { server, holds }
    }

    /// Has it behave otherwise from now on.
    pub fn now(&self, change: impl FnOnce(&mut Holds)) {
        change(&mut self.holds.lock().unwrap());
    }

    /// An object's text.
    pub fn text(&self, path: &str) -> Option<String> {
        self.holds.lock().unwrap().objects.get(path).map(|(_, text)| text.clone())
    }
}

impl Holds {
    fn reply(&mut self, line: &str) -> Reply {
        if let Some((_, reply)) = self.instead.iter().find(|(beginning, _)| line.starts_with(beginning)) {
            return reply.clone();
        }
        let mut words = line.splitn(4, ' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().to_owned());
        let (condition, body) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let etag = |version: &u32| ("etag", format!("\"v{version}\""));
        let found = self.objects.get(&path);
        if method == "GET" {
            return match found {
                Some((version, body)) => Reply::Headed(200, etag(version), body.clone()),
                None => Reply::Answer(404, "<Error><Code>NoSuchKey</Code><Message>none</Message></Error>".to_owned()),
            };
        }
        let holds = match condition.split_once('=') {
            Some(("if-none-match", _)) => found.is_none(),
            Some((_, version)) => found.is_some_and(|(is, _)| format!("v{is}") == version),
            None => true,
        };
        if !holds && !self.ignores_conditions {
            return Reply::status(412);
        }
        self.writes += 1;
        self.objects.insert(path, (self.writes, body.to_owned()));
        Reply::ok("")
    }
}
