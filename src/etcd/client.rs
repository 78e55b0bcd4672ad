//! etcd's HTTP interfaces: the JSON gateway on the client port, and what the peer port answers without a quorum.
//!
//! (etcd documentation, "gRPC gateway"; error codes are gRPC's. The HTTP status of an error differs by build, so only
//! `code` and `message` are read.)

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION};
use hyper::{Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::login::Login;
use crate::core::hashes::Hashed;
use crate::core::release::Release;
use crate::core::types::{ClusterId, Member, MemberId};
use crate::net::http::{self, Failure};
use crate::util::words;

/// How much is shown of an answer that is not JSON.
const LONGEST_WORDS: usize = 200;

/// Why etcd gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Http(#[from] http::Error),
    /// etcd's own error.
    #[error("{}: etcd answers: {message} (code {code})", words::without_secrets(url))]
    Api { url: String, code: i64, message: String },
    /// The answer does not come from etcd's interface.
    #[error("{}: the answer is not etcd's: {cause}", words::without_secrets(url))]
    NotEtcd { url: String, cause: String },
    /// etcd's authentication is enabled, and we have no user that it accepts.
    #[error("{}: etcd's authentication is enabled: {cause}", words::without_secrets(url))]
    Login { url: String, cause: String },
}

impl Error {
    /// Whether the message contains that text.
    pub fn says(&self, text: &str) -> bool {
        matches!(self, Self::Api { message, .. } if message.contains(text))
    }

    /// Refused because of a missing or invalid token: 16 is Unauthenticated; without any token it is "user name is empty", and
    /// after a change of users "revision of auth store is old", both with code 3 (etcd's api/v3rpc/rpctypes/error.go).
    pub(super) fn wants_a_token(&self) -> bool {
        // If the gateway's own certificate has a common name, that is the user until there is a token.
        let no_user = ["user name is empty", "user name not found", "revision of auth store is old"];
        no_user.iter().any(|words| self.says(words)) || matches!(self, Self::Api { code: 16, .. })
    }

    /// etcd is there, but can't be used: because of a certificate, a user, or the protocol.
    pub fn is_refusal(&self) -> bool {
        let is_odd = matches!(self.failure(), Some(Failure::Tls(_) | Failure::Protocol(_)));
        is_odd || matches!(self, Self::Login { .. } | Self::NotEtcd { .. })
    }

    /// Nobody answered: all else shows that something is there.
    pub fn is_silence(&self) -> bool {
        let is_mute = |failure: &Failure| {
            matches!(failure, Failure::Refused | Failure::Unreachable(_) | Failure::Timeout(_) | Failure::Stalled(_))
        };
        self.failure().is_some_and(is_mute)
    }

    /// The transport's failure, if it is one.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Http(error) => Some(&error.failure),
            _ => None,
        }
    }
}

/// The identity of the answering member, from the header of every answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub struct Header {
    #[serde(deserialize_with = "id_as_text")]
    pub cluster_id: u64,
    #[serde(deserialize_with = "id_as_text")]
    pub member_id: u64,
}

/// A member list, and the member that gave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberList {
    pub cluster: ClusterId,
    pub members: Vec<Member>,
}

/// One member's own state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub version: String,
    pub leader: Option<MemberId>,
    pub is_learner: bool,
    /// The last index that it knows to be committed.
    pub raft_index: u64,
    pub raft_term: u64,
    pub db_size_bytes: u64,
    /// Of the database's size: what isn't free in it.
    pub db_in_use_bytes: Option<u64>,
    /// The size at which it takes no more writes; told from 3.6 on.
    pub quota_bytes: Option<u64>,
    /// The release whose data it is: the last number is always 0. Told from 3.6 on, and not in the first seconds of a life.
    pub storage_version: Option<String>,
    /// The release to which the cluster is being taken back, while that is so (3.6 and later).
    pub downgrade_to: Option<String>,
}

/// A member's own report at `/health`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    Healthy,
    /// Unhealthy, with its reason.
    Unhealthy(String),
}

/// `/version`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Version {
    pub etcdserver: String,
    pub etcdcluster: String,
    /// From 3.6 on, at both ports; `unknown` in the first moments.
    #[serde(default)]
    pub storage: Option<String>,
}

impl Version {
    /// The cluster has never elected a leader: it has no version yet.
    pub fn is_undecided(&self) -> bool {
        self.etcdcluster == "not_decided"
    }
}

#[derive(Deserialize)]
struct WireMember {
    #[serde(rename = "ID", alias = "id", deserialize_with = "id_as_text")]
    id: u64,
    #[serde(default)]
    name: String,
    #[serde(rename = "peerURLs", default)]
    peer_urls: Vec<String>,
    #[serde(rename = "clientURLs", default)]
    client_urls: Vec<String>,
    #[serde(rename = "isLearner", default)]
    is_learner: bool,
}

impl From<WireMember> for Member {
    fn from(wire: WireMember) -> Self {
        Self {
            id: MemberId(wire.id),
            name: wire.name,
            peer_urls: wire.peer_urls,
            client_urls: wire.client_urls,
            is_learner: wire.is_learner,
        }
    }
}

#[derive(Deserialize)]
struct MembersAnswer {
    header: Header,
    members: Vec<WireMember>,
}

/// An answer of which only the fact counts. Any server may answer `{}`; only etcd identifies itself.
#[derive(Deserialize)]
struct AnyAnswer {
    #[serde(rename = "header")]
    _header: Header,
}

#[derive(Deserialize)]
struct RangeAnswer {
    header: WithRevision,
}

#[derive(Deserialize)]
struct WithRevision {
    #[serde(deserialize_with = "id_as_text")]
    revision: u64,
}

#[derive(Deserialize)]
struct HashAnswer {
    header: Header,
    #[serde(default, deserialize_with = "u64_as_text")]
    hash: u64,
    #[serde(rename = "compact_revision", default)]
    compacted: String,
}

#[derive(Deserialize)]
struct AddAnswer {
    member: WireMember,
}

#[derive(Deserialize)]
struct StatusAnswer {
    header: Header,
    #[serde(default)]
    version: String,
    #[serde(default, deserialize_with = "u64_as_text")]
    leader: u64,
    #[serde(rename = "isLearner", default)]
    is_learner: bool,
    #[serde(rename = "raftIndex", default, deserialize_with = "u64_as_text")]
    raft_index: u64,
    #[serde(rename = "raftTerm", default, deserialize_with = "u64_as_text")]
    raft_term: u64,
    #[serde(rename = "dbSize", default, deserialize_with = "u64_as_text")]
    db_size: u64,
    #[serde(rename = "dbSizeInUse", default, deserialize_with = "u64_as_text")]
    db_in_use: u64,
    #[serde(rename = "dbSizeQuota", default, deserialize_with = "u64_as_text")]
    quota: u64,
    #[serde(rename = "storageVersion", default)]
    storage_version: String,
    #[serde(rename = "downgradeInfo", default)]
    downgrade: Option<DowngradeInfo>,
}

#[derive(Deserialize)]
struct DowngradeInfo {
    #[serde(default)]
    enabled: bool,
    #[serde(rename = "targetVersion", default)]
    target: String,
}

impl From<StatusAnswer> for Status {
    fn from(answer: StatusAnswer) -> Self {
        let told = |bytes: u64| (bytes != 0).then_some(bytes);
        Self {
            cluster: ClusterId(answer.header.cluster_id),
            member: MemberId(answer.header.member_id),
            version: answer.version,
            leader: (answer.leader != 0).then_some(MemberId(answer.leader)),
            is_learner: answer.is_learner,
            raft_index: answer.raft_index,
            raft_term: answer.raft_term,
            db_size_bytes: answer.db_size,
            db_in_use_bytes: told(answer.db_in_use),
            quota_bytes: told(answer.quota),
            storage_version: Some(answer.storage_version).filter(|version| !version.is_empty()),
            downgrade_to: answer.downgrade.filter(|downgrade| downgrade.enabled).map(|downgrade| downgrade.target),
        }
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: String,
}

#[derive(Deserialize)]
struct AlarmAnswer {
    #[serde(default)]
    alarms: Vec<WireAlarm>,
}

#[derive(Deserialize)]
struct WireAlarm {
    #[serde(rename = "memberID", default, deserialize_with = "u64_as_text")]
    member: u64,
    #[serde(default)]
    alarm: String,
}

#[derive(Deserialize, Default)]
struct ErrorAnswer {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(default)]
    error: String,
}

/// The gateway writes 64-bit numbers as text, the peer port as numbers; zero is omitted.
fn u64_as_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => text.parse().map_err(serde::de::Error::custom),
        Value::Number(number) => number.as_u64().ok_or_else(|| serde::de::Error::custom("not an unsigned number")),
        _ => Err(serde::de::Error::custom("not a number")),
    }
}

/// An id is never zero: an answer without one is not etcd's.
fn id_as_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64_as_text(deserializer)? {
        0 => Err(serde::de::Error::custom("an id is zero")),
        id => Ok(id),
    }
}

/// A client for any etcd; each call names its URL.
#[derive(Clone, Debug)]
pub struct Client {
    client_port: http::Client,
    peer_port: http::Client,
    login: Option<Arc<Login>>,
}

/// Who has to agree to what is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    /// A quorum.
    Linearizable,
    /// Nobody: it is what this member has.
    Local,
}

impl Client {
    /// A client over these transports: the two ports may be secured in different ways. `login`: for an etcd with authentication
    /// enabled.
    pub fn new(client_port: http::Client, peer_port: http::Client, login: Option<Login>) -> Self {
        Self { client_port, peer_port, login: login.map(Arc::new) }
    }

    /// This client with another transport to client ports.
    #[must_use]
    pub fn under(self, client_port: http::Client) -> Self {
        Self { client_port, ..self }
    }

    /// The member list. Linearizable from 3.5 on: an answer proves a quorum. 3.4 ignores that option and answers from its own
    /// state, so there a linearizable read goes first: after it, the local list is at least as new as the read.
    ///
    /// # Errors
    /// etcd does not answer, or refuses; without a quorum a timeout or code 14.
    pub async fn member_list(&self, url: &str, within: Duration) -> Result<MemberList, Error> {
        self.list(url, Read::Linearizable, within).await
    }

    async fn list(&self, url: &str, read: Read, within: Duration) -> Result<MemberList, Error> {
        let query = json!({"linearizable": read == Read::Linearizable});
        let answer: MembersAnswer = self.post(url, "/v3/cluster/member/list", &query, within).await?;
        let members: Vec<_> = answer.members.into_iter().map(Member::from).collect();
        if members.is_empty() {
            return Err(not_etcd(url, &"the cluster has no members"));
        }
        Ok(MemberList { cluster: ClusterId(answer.header.cluster_id), members })
    }

    /// The member's own member list, without a quorum.
    ///
    /// # Errors
    /// etcd does not answer, or refuses; with authentication enabled it requires a user, which only a quorum can log in.
    pub async fn own_member_list(&self, url: &str, within: Duration) -> Result<MemberList, Error> {
        self.list(url, Read::Local, within).await
    }

    /// A read that only a quorum can answer; the key need not exist.
    ///
    /// # Errors
    /// etcd does not answer, or refuses; without a quorum a timeout or code 14.
    pub async fn read_through_quorum(&self, url: &str, within: Duration) -> Result<(), Error> {
        let query = json!({"key": "AA==", "count_only": true});
        self.post::<AnyAnswer>(url, "/v3/kv/range", &query, within).await.map(|_| ())
    }

    /// The newest revision, read through the quorum.
    ///
    /// # Errors
    /// As [`Client::read_through_quorum`].
    pub async fn revision(&self, url: &str, within: Duration) -> Result<u64, Error> {
        let query = json!({"key": "AA==", "count_only": true});
        let answer: RangeAnswer = self.post(url, "/v3/kv/range", &query, within).await?;
        Ok(answer.header.revision)
    }

    /// A member's hash of its keys at that revision.
    ///
    /// # Errors
    /// etcd does not answer, or refuses: a revision that is compacted, or that it has not applied yet. `NotEtcd`: its gateway has no
    /// such call (before 3.5.10).
    pub async fn hash_kv(&self, url: &str, revision: u64, within: Duration) -> Result<Hashed, Error> {
        let query = json!({"revision": revision.to_string()});
        let answer: HashAnswer = self.post(url, "/v3/maintenance/hashkv", &query, within).await?;
        let compacted = answer.compacted.parse().map_err(|e| not_etcd(url, &e))?;
        Ok(Hashed { member: MemberId(answer.header.member_id), hash: answer.hash, compacted })
    }

    /// Adds a learner; returns its id.
    ///
    /// # Errors
    /// etcd does not answer, or refuses. After a timeout, list the members before another attempt, because the change may have
    /// been applied.
    pub async fn member_add_learner(
        &self,
        url: &str,
        peer_urls: &[String],
        within: Duration,
    ) -> Result<MemberId, Error> {
        let query = json!({"peerURLs": peer_urls, "isLearner": true});
        let answer: AddAnswer = self.post(url, "/v3/cluster/member/add", &query, within).await?;
        Ok(MemberId(answer.member.id))
    }

    /// Removes a member.
    ///
    /// # Errors
    /// As [`Client::member_add_learner`]; etcd has no timeout of its own for this.
    pub async fn member_remove(&self, url: &str, id: MemberId, within: Duration) -> Result<(), Error> {
        self.post::<Value>(url, "/v3/cluster/member/remove", &json!({"ID": id.0.to_string()}), within).await.map(|_| ())
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// etcd does not answer, or refuses: "in sync with leader" while the learner lags.
    pub async fn member_promote(&self, url: &str, id: MemberId, within: Duration) -> Result<(), Error> {
        self.post::<Value>(url, "/v3/cluster/member/promote", &json!({"ID": id.0.to_string()}), within)
            .await
            .map(|_| ())
    }

    /// Gives a member new peer URLs.
    ///
    /// # Errors
    /// etcd does not answer, or refuses.
    pub async fn member_update(
        &self,
        url: &str,
        id: MemberId,
        peer_urls: &[String],
        within: Duration,
    ) -> Result<(), Error> {
        let query = json!({"ID": id.0.to_string(), "peerURLs": peer_urls});
        self.post::<Value>(url, "/v3/cluster/member/update", &query, within).await.map(|_| ())
    }

    /// A member's own state; learners answer too, and no quorum is needed.
    ///
    /// # Errors
    /// etcd does not answer, or refuses.
    pub async fn status(&self, url: &str, within: Duration) -> Result<Status, Error> {
        self.post::<StatusAnswer>(url, "/v3/maintenance/status", &json!({}), within).await.map(Status::from)
    }

    /// The raised alarms, with the members that raised them.
    ///
    /// # Errors
    /// etcd does not answer, or refuses.
    pub async fn alarms(&self, url: &str, within: Duration) -> Result<Vec<(MemberId, String)>, Error> {
        let query = json!({"action": "GET"});
        let answer: AlarmAnswer = self.post(url, "/v3/maintenance/alarm", &query, within).await?;
        Ok(answer.alarms.into_iter().map(|raised| (MemberId(raised.member), raised.alarm)).collect())
    }

    /// Hands leadership to another member.
    ///
    /// # Errors
    /// etcd does not answer, or refuses.
    pub async fn move_leader(&self, url: &str, to: MemberId, within: Duration) -> Result<(), Error> {
        let query = json!({"targetID": to.0.to_string()});
        self.post::<Value>(url, "/v3/maintenance/transfer-leadership", &query, within).await.map(|_| ())
    }

    /// Whether a member is healthy, or why it isn't. Which release it is is asked first: to ask an old one for its `/health` writes
    /// into its raft log ([`Release::health_only_reads`]).
    ///
    /// # Errors
    /// Nothing that looks like etcd answers.
    pub async fn health(&self, url: &str, within: Duration) -> Result<Health, Error> {
        let asked = async {
            match self.version(url, within).await {
                Ok(version) => self.health_of(url, Release::parse(&version.etcdserver), within).await,
                // etcd's listener for metrics has `/health`, and no `/version`: who names it knows what he asks.
                Err(Error::NotEtcd { .. }) => self.told_health(url, within).await,
                Err(error) => Err(error),
            }
        };
        whole(asked, url, within).await
    }

    /// The same of a member whose release is known; `None`: it can't be told.
    ///
    /// # Errors
    /// As [`Client::health`].
    pub async fn health_of(&self, url: &str, release: Option<Release>, within: Duration) -> Result<Health, Error> {
        match release {
            Some(release) if release.health_only_reads() => self.told_health(url, within).await,
            _ => whole(self.read_health(url, within), url, within).await,
        }
    }

    /// `/health`: true, or etcd's reason.
    async fn told_health(&self, url: &str, within: Duration) -> Result<Health, Error> {
        #[derive(Deserialize)]
        struct Said {
            health: String,
            #[serde(default)]
            reason: String,
        }
        let (url, answer) = get(&self.client_port, url, "/health", within).await?;
        let said: Said = parse(&url, answer.body())?;
        Ok(match said.health.as_str() {
            "true" => Health::Healthy,
            _ if said.reason.is_empty() => Health::Unhealthy("etcd reports itself as unhealthy".to_owned()),
            _ => Health::Unhealthy(said.reason),
        })
    }

    /// What `/health` looks at, by calls that only read, in its own words: a leader, a read through the quorum, no alarm.
    async fn read_health(&self, url: &str, within: Duration) -> Result<Health, Error> {
        match self.status(url, within).await {
            Ok(status) if status.leader.is_none() => return Ok(Health::Unhealthy("RAFT NO LEADER".to_owned())),
            // It refuses every read, and its `/health` doesn't mind.
            Ok(status) if status.is_learner => return Ok(Health::Healthy),
            // `/health` needs no user.
            Ok(_) | Err(Error::Login { .. } | Error::Api { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.read_through_quorum(url, within).await {
            // The quorum is waited for before it is asked who reads (3.4's etcdserver/v3_server.go, Range): it was there.
            Ok(()) | Err(Error::Login { .. }) => {}
            Err(Error::Api { message, .. }) => return Ok(Health::Unhealthy(format!("RANGE ERROR:{message}"))),
            Err(error) => return Err(error),
        }
        let alarms = self.alarms(url, within).await.unwrap_or_default();
        let first = alarms.first();
        Ok(first.map_or(Health::Healthy, |(_, alarm)| Health::Unhealthy(format!("ALARM {alarm}"))))
    }

    /// Whether a member reports itself healthy at one of its client URLs, each queried with this timeout.
    pub async fn is_healthy(&self, client_urls: &[String], within: Duration) -> bool {
        for url in client_urls {
            if matches!(self.health(url, within).await, Ok(Health::Healthy)) {
                return true;
            }
        }
        false
    }

    /// `/version`, on the client port.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn version(&self, url: &str, within: Duration) -> Result<Version, Error> {
        version(&self.client_port, url, within).await
    }

    /// `/version`, on the peer port: answered without a quorum.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn peer_version(&self, url: &str, within: Duration) -> Result<Version, Error> {
        version(&self.peer_port, url, within).await
    }

    /// The peer port's member list: local, without a quorum.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn peer_members(&self, url: &str, within: Duration) -> Result<MemberList, Error> {
        let (url, answer) = get(&self.peer_port, url, "/members", within).await?;
        let id = answer.headers().get("x-etcd-cluster-id").and_then(|v| v.to_str().ok());
        let Some(cluster) = id.and_then(|text| u64::from_str_radix(text, 16).ok()) else {
            return Err(Error::NotEtcd {
                url,
                cause: format!("answers {} without X-Etcd-Cluster-Id", answer.status()),
            });
        };
        let members: Vec<WireMember> = parse(&url, answer.body())?;
        Ok(MemberList { cluster: ClusterId(cluster), members: members.into_iter().map(Member::from).collect() })
    }

    /// A call of the gateway, with the configured user if etcd requires one. A call that was refused because of a missing token
    /// was not carried out, so it may be repeated.
    async fn post<T: DeserializeOwned>(
        &self,
        base: &str,
        path: &str,
        query: &Value,
        within: Duration,
    ) -> Result<T, Error> {
        match self.send(base, path, query, self.token().as_deref(), within).await {
            Err(error) if error.wants_a_token() => {
                let token = self.new_token(base, &error, within).await?;
                self.send(base, path, query, Some(&token), within).await
            }
            other => other,
        }
    }

    /// The last token of the configured user.
    pub(super) fn token(&self) -> Option<String> {
        self.login.as_ref().and_then(|login| login.token())
    }

    /// A new token, after a call was refused for the lack of one.
    pub(super) async fn new_token(&self, base: &str, refused: &Error, within: Duration) -> Result<String, Error> {
        let cannot = |cause: String| Error::Login { url: base.to_owned(), cause };
        let Some(login) = &self.login else {
            return Err(cannot(format!("{refused}; set MUSTER_ETCD_USER and MUSTER_ETCD_PASSWORD_FILE")));
        };
        let credentials = login.credentials().await.map_err(cannot)?;
        match self.send::<TokenAnswer>(base, "/v3/auth/authenticate", &credentials, None, within).await {
            Ok(answer) => Ok(login.keep(answer.token)),
            Err(Error::Api { message, .. }) => Err(cannot(login.refused(&credentials, &message))),
            Err(error) => Err(error),
        }
    }

    /// How client ports are reached.
    pub(super) fn client_port(&self) -> &http::Client {
        &self.client_port
    }

    async fn send<T: DeserializeOwned>(
        &self,
        base: &str,
        path: &str,
        query: &Value,
        token: Option<&str>,
        within: Duration,
    ) -> Result<T, Error> {
        let (mut url, mut answer) = self.exchange(base, path, query, token, within).await?;
        let mut refusal = serde_json::from_slice::<ErrorAnswer>(answer.body());
        if answer.status() == StatusCode::NOT_FOUND
            && refusal.is_err()
            && let Some(path) = path_until_3_3(path)
        {
            (url, answer) = self.exchange(base, &path, query, token, within).await?;
            refusal = serde_json::from_slice(answer.body());
        }
        if answer.status() == StatusCode::OK {
            return parse(&url, answer.body());
        }
        let Ok(error) = refusal else {
            // A proxy before the gateway answers in plain text.
            let words = String::from_utf8_lossy(answer.body()).chars().take(LONGEST_WORDS).collect::<String>();
            let cause = format!("answers {}: {}", answer.status(), words.trim());
            return Err(Error::NotEtcd { url, cause });
        };
        // Some builds fill in only `error`.
        let message = if error.message.is_empty() { error.error } else { error.message };
        Err(Error::Api { url, code: error.code, message })
    }

    async fn exchange(
        &self,
        base: &str,
        path: &str,
        query: &Value,
        token: Option<&str>,
        within: Duration,
    ) -> Result<(String, Response<Bytes>), Error> {
        let url = format!("{}{path}", base.trim_end_matches('/'));
        // Without an "accept" header, which every other client sends, etcd does not notice that the gateway asks, and takes the
        // name in its own certificate for the user (etcd's auth/store.go, AuthInfoFromTLS: it looks for "grpcgateway-accept").
        let mut request = Request::post(&url).header("content-type", "application/json").header(ACCEPT, "*/*");
        if let Some(token) = token {
            // Without a prefix: the gateway does not know "Bearer".
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::new(Bytes::from(query.to_string()))).map_err(|e| not_etcd(&url, &e))?;
        let answer = self.client_port.fetch(request, within).await?;
        Ok((url, answer))
    }
}

/// Where 3.3's gateway has that call; 3.4 and later have it at both places. Not what changes who is a member: 3.3 has no learners, and
/// leaves out what it doesn't know of a question, so that a learner would be added as a voter (measured on 3.3.25).
fn path_until_3_3(path: &str) -> Option<String> {
    let call = path.strip_prefix("/v3/")?;
    let changes_members = call.starts_with("cluster/member/") && call != "cluster/member/list";
    (!changes_members).then(|| format!("/v3beta/{call}"))
}

async fn version(http: &http::Client, url: &str, within: Duration) -> Result<Version, Error> {
    let (url, answer) = get(http, url, "/version", within).await?;
    if answer.status() == StatusCode::OK {
        return parse(&url, answer.body());
    }
    // What Go's server answers to plain HTTP at a TLS port.
    let cause = match answer.body().starts_with(b"Client sent an HTTP request to an HTTPS server") {
        true => "it speaks TLS, but the request was plain HTTP".to_owned(),
        false => format!("answers {}", answer.status()),
    };
    Err(Error::NotEtcd { url, cause })
}

/// Several exchanges within the time of one.
async fn whole<T>(asked: impl Future<Output = Result<T, Error>>, url: &str, within: Duration) -> Result<T, Error> {
    let late = |_| Error::Http(http::Error { url: url.to_owned(), failure: Failure::Timeout(within) });
    tokio::time::timeout(within, asked).await.map_err(late)?
}

async fn get(
    http: &http::Client,
    base: &str,
    path: &str,
    within: Duration,
) -> Result<(String, Response<Bytes>), Error> {
    let url = format!("{}{path}", base.trim_end_matches('/'));
    let request = Request::get(&url).body(Full::default()).map_err(|e| not_etcd(&url, &e))?;
    let answer = http.fetch(request, within).await?;
    Ok((url, answer))
}

fn parse<T: DeserializeOwned>(url: &str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|e| not_etcd(url, &e))
}

fn not_etcd(url: &str, cause: &dyn fmt::Display) -> Error {
    Error::NotEtcd { url: url.to_owned(), cause: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_member_are_read() {
        let gateway = r#"{"ID":"10276657743932975437","name":"a","peerURLs":["http://x:2380"],"isLearner":true}"#;
        let peer_port = r#"{"id":10276657743932975437,"peerURLs":["http://x:2380"],"name":"a","clientURLs":[]}"#;
        let read = |text| Member::from(serde_json::from_str::<WireMember>(text).unwrap());
        assert_eq!(read(gateway).id, MemberId(0x8e9e_05c5_2164_694d));
        assert!(read(gateway).is_learner);
        assert_eq!(read(peer_port).id, read(gateway).id);
    }

    #[test]
    fn an_answer_without_ids_is_not_etcds() {
        let list = |text| serde_json::from_str::<MembersAnswer>(text).is_ok();
        assert!(list(r#"{"header":{"cluster_id":"193","member_id":"97"},"members":[{"ID":"97"}]}"#));
        for text in [
            "{}",
            r#"{"status":"ok"}"#,
            r#"{"header":{},"members":[]}"#,
            r#"{"header":{"cluster_id":"0","member_id":"97"},"members":[{"ID":"97"}]}"#,
            r#"{"header":{"cluster_id":"193","member_id":"97"},"members":[{}]}"#,
        ] {
            assert!(!list(text), "{text}");
        }
        assert!(serde_json::from_str::<AnyAnswer>("{}").is_err());
        assert!(serde_json::from_str::<StatusAnswer>("{}").is_err());
    }

    /// As 3.5.1, 3.6.16 and 3.7.3 answered.
    #[test]
    fn a_status_tells_what_its_release_knows() {
        let read = |fields: &str| {
            let text = format!(r#"{{"header":{{"cluster_id":"193","member_id":"97"}},"leader":"97",{fields}}}"#);
            Status::from(serde_json::from_str::<StatusAnswer>(&text).unwrap())
        };
        let old = read(r#""version":"3.5.1","dbSize":"20480","dbSizeInUse":"16384","raftTerm":"2""#);
        assert_eq!((old.db_size_bytes, old.db_in_use_bytes, old.quota_bytes), (20480, Some(16384), None));
        assert_eq!((old.storage_version, old.downgrade_to), (None, None));
        let new = r#""version":"3.6.16", "storageVersion":"3.6.0", "dbSizeQuota":"2147483648", "downgradeInfo":{}"#;
        let new = read(new);
        assert_eq!((new.storage_version.as_deref(), new.quota_bytes), (Some("3.6.0"), Some(2_147_483_648)));
        assert_eq!(new.downgrade_to, None);
        let back = read(r#""version":"3.7.3", "downgradeInfo":{"enabled":true, "targetVersion":"3.6.0"}"#);
        assert_eq!(back.downgrade_to.as_deref(), Some("3.6.0"));
    }

    /// With and without the key `error`, with and without blanks: `code` and `message` are what counts.
    #[test]
    fn errors_of_every_release_are_read() {
        for text in [
            r#"{"error":"etcdserver: user name is empty","message":"etcdserver: user name is empty","code":3}"#,
            r#"{"code":3,"message":"etcdserver: user name is empty"}"#,
            r#"{"code":3, "message":"etcdserver: user name is empty"}"#,
            r#"{"error":"etcdserver: user name is empty","code":3}"#,
        ] {
            let told: ErrorAnswer = serde_json::from_str(text).unwrap();
            let message = if told.message.is_empty() { told.error } else { told.message };
            assert!(Error::Api { url: String::new(), code: told.code, message }.wants_a_token(), "{text}");
        }
    }

    #[test]
    fn nothing_changes_members_by_the_old_gateway() {
        assert_eq!(path_until_3_3("/v3/cluster/member/list").as_deref(), Some("/v3beta/cluster/member/list"));
        assert_eq!(path_until_3_3("/v3/maintenance/status").as_deref(), Some("/v3beta/maintenance/status"));
        for call in ["add", "remove", "promote", "update"] {
            assert_eq!(path_until_3_3(&format!("/v3/cluster/member/{call}")), None);
        }
    }
}
