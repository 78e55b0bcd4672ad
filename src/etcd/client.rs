//! etcd's HTTP interfaces: the JSON gateway on the client port, and what the peer port tells without a quorum.
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
use crate::core::types::{ClusterId, Member, MemberId};
use crate::net::http::{self, Failure};
use crate::util::words;

/// How much is shown of an answer that is no JSON.
const LONGEST_WORDS: usize = 200;

/// Why etcd gave no answer.
#[derive(Debug)]
pub enum Error {
    Http(http::Error),
    /// etcd's own error.
    Api {
        url: String,
        code: i64,
        message: String,
    },
    /// Something answers that isn't etcd's interface.
    NotEtcd {
        url: String,
        cause: String,
    },
    /// etcd's authentication is on, and we have no user that it takes.
    Login {
        url: String,
        cause: String,
    },
}

impl Error {
    /// Whether the message holds that text.
    pub fn says(&self, text: &str) -> bool {
        matches!(self, Self::Api { message, .. } if message.contains(text))
    }

    /// Refused for want of a (valid) token: 16 is Unauthenticated; without any token it is "user name is empty", and after a
    /// change of users "revision of auth store is old", both with code 3 (etcd's api/v3rpc/rpctypes/error.go).
    fn wants_a_token(&self) -> bool {
        // Where the gateway's own certificate has a common name, that is the user until a token says otherwise.
        let no_user = ["user name is empty", "user name not found", "revision of auth store is old"];
        no_user.iter().any(|words| self.says(words)) || matches!(self, Self::Api { code: 16, .. })
    }

    /// It is there, and we are at odds: over a certificate, a user, or what is spoken.
    pub fn is_refusal(&self) -> bool {
        let is_odd = matches!(self.failure(), Some(Failure::Tls(_) | Failure::Protocol(_)));
        is_odd || matches!(self, Self::Login { .. } | Self::NotEtcd { .. })
    }

    /// The transport's failure, where it is one.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Http(error) => Some(&error.failure),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = words::without_secrets;
        match self {
            Self::Http(error) => write!(f, "{error}"),
            Self::Api { url, code, message } => write!(f, "{}: etcd says: {message} (code {code})", shown(url)),
            Self::NotEtcd { url, cause } => write!(f, "{}: not etcd's answer: {cause}", shown(url)),
            Self::Login { url, cause } => write!(f, "{}: etcd's authentication is on: {cause}", shown(url)),
        }
    }
}

impl std::error::Error for Error {}

/// Who answered, as every answer's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub struct Header {
    #[serde(deserialize_with = "id_as_text")]
    pub cluster_id: u64,
    #[serde(deserialize_with = "id_as_text")]
    pub member_id: u64,
}

/// A member list and who gave it.
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
    /// What it knows to be committed.
    pub raft_index: u64,
    pub raft_term: u64,
    pub db_size_bytes: u64,
}

/// `/version`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Version {
    pub etcdserver: String,
    pub etcdcluster: String,
}

impl Version {
    /// The cluster has never elected: it has no version yet.
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

/// An answer of which only the fact counts. Any server may answer `{}`; only etcd says who it is.
#[derive(Deserialize)]
struct AnyAnswer {
    #[serde(rename = "header")]
    _header: Header,
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

/// The gateway spells 64-bit numbers as text, the peer port as numbers; zero is left out.
fn u64_as_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => text.parse().map_err(serde::de::Error::custom),
        Value::Number(number) => number.as_u64().ok_or_else(|| serde::de::Error::custom("not an unsigned number")),
        _ => Err(serde::de::Error::custom("not a number")),
    }
}

/// An id is never zero: without one it isn't etcd that answers.
fn id_as_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64_as_text(deserializer)? {
        0 => Err(serde::de::Error::custom("an id is zero")),
        id => Ok(id),
    }
}

/// A client of any etcd; each call names the URL it goes to.
#[derive(Clone, Debug)]
pub struct Client {
    client_port: http::Client,
    peer_port: http::Client,
    login: Option<Arc<Login>>,
}

impl Client {
    /// A client over these transports: the two ports may be secured in different ways. `login`: for an etcd with
    /// authentication on.
    pub fn new(client_port: http::Client, peer_port: http::Client, login: Option<Login>) -> Self {
        Self { client_port, peer_port, login: login.map(Arc::new) }
    }

    /// This client, with another way to client ports.
    #[must_use]
    pub fn under(self, client_port: http::Client) -> Self {
        Self { client_port, ..self }
    }

    /// The member list. Linearizable from 3.5 on: an answer proves a quorum. 3.4 ignores the wish and answers from what it
    /// has, so there a linearizable read goes first: after it, the local list is at least as new as the read.
    ///
    /// # Errors
    /// [`Error`]; without a quorum a timeout or code 14.
    pub async fn member_list(&self, url: &str, within: Duration) -> Result<MemberList, Error> {
        self.list(url, true, within).await
    }

    async fn list(&self, url: &str, linearizable: bool, within: Duration) -> Result<MemberList, Error> {
        let query = json!({"linearizable": linearizable});
        let answer: MembersAnswer = self.post(url, "/v3/cluster/member/list", &query, within).await?;
        let members: Vec<_> = answer.members.into_iter().map(Member::from).collect();
        if members.is_empty() {
            return Err(not_etcd(url, &"a cluster without members"));
        }
        Ok(MemberList { cluster: ClusterId(answer.header.cluster_id), members })
    }

    /// The member list as this member itself has it, without a quorum.
    ///
    /// # Errors
    /// [`Error`]; with authentication on a user is needed, whom only a quorum can log in.
    pub async fn own_member_list(&self, url: &str, within: Duration) -> Result<MemberList, Error> {
        self.list(url, false, within).await
    }

    /// A read that only a quorum can answer; the key need not exist.
    ///
    /// # Errors
    /// [`Error`]; without a quorum a timeout or code 14.
    pub async fn read_through_quorum(&self, url: &str, within: Duration) -> Result<(), Error> {
        let query = json!({"key": "AA==", "count_only": true});
        self.post::<AnyAnswer>(url, "/v3/kv/range", &query, within).await.map(|_| ())
    }

    /// Adds a learner; its id.
    ///
    /// # Errors
    /// [`Error`]. After a timeout: list again before another try, for it may have been applied.
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
    /// [`Error`]; "in sync with leader" while it lags.
    pub async fn member_promote(&self, url: &str, id: MemberId, within: Duration) -> Result<(), Error> {
        self.post::<Value>(url, "/v3/cluster/member/promote", &json!({"ID": id.0.to_string()}), within)
            .await
            .map(|_| ())
    }

    /// Gives a member new peer URLs.
    ///
    /// # Errors
    /// [`Error`].
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

    /// A member's own state; answered without a quorum and by learners too.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn status(&self, url: &str, within: Duration) -> Result<Status, Error> {
        let answer: StatusAnswer = self.post(url, "/v3/maintenance/status", &json!({}), within).await?;
        Ok(Status {
            cluster: ClusterId(answer.header.cluster_id),
            member: MemberId(answer.header.member_id),
            version: answer.version,
            leader: (answer.leader != 0).then_some(MemberId(answer.leader)),
            is_learner: answer.is_learner,
            raft_index: answer.raft_index,
            raft_term: answer.raft_term,
            db_size_bytes: answer.db_size,
        })
    }

    /// The alarms that are raised, and the members that raised them.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn alarms(&self, url: &str, within: Duration) -> Result<Vec<(MemberId, String)>, Error> {
        let query = json!({"action": "GET"});
        let answer: AlarmAnswer = self.post(url, "/v3/maintenance/alarm", &query, within).await?;
        Ok(answer.alarms.into_iter().map(|raised| (MemberId(raised.member), raised.alarm)).collect())
    }

    /// Hands leadership to another member.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn move_leader(&self, url: &str, to: MemberId, within: Duration) -> Result<(), Error> {
        let query = json!({"targetID": to.0.to_string()});
        self.post::<Value>(url, "/v3/maintenance/transfer-leadership", &query, within).await.map(|_| ())
    }

    /// `/health`: true, or etcd's reason.
    ///
    /// # Errors
    /// [`Error`] where nothing that looks like etcd answers.
    pub async fn health(&self, url: &str, within: Duration) -> Result<Result<(), String>, Error> {
        #[derive(Deserialize)]
        struct Health {
            health: String,
            #[serde(default)]
            reason: String,
        }
        let (url, answer) = get(&self.client_port, url, "/health", within).await?;
        let health: Health = parse(&url, answer.body())?;
        Ok(match health.health.as_str() {
            "true" => Ok(()),
            _ if health.reason.is_empty() => Err("etcd calls itself unhealthy".to_owned()),
            _ => Err(health.reason),
        })
    }

    /// Whether a member answers at one of its client URLs that it is healthy, each asked for so long.
    pub async fn is_healthy(&self, client_urls: &[String], within: Duration) -> bool {
        for url in client_urls {
            if matches!(self.health(url, within).await, Ok(Ok(()))) {
                return true;
            }
        }
        false
    }

    /// `/version`, on the client port.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn version(&self, url: &str, within: Duration) -> Result<Version, Error> {
        version(&self.client_port, url, within).await
    }

    /// `/version`, on the peer port: answered without a quorum.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn peer_version(&self, url: &str, within: Duration) -> Result<Version, Error> {
        version(&self.peer_port, url, within).await
    }

    /// The peer port's member list: local, without a quorum.
    ///
    /// # Errors
    /// [`Error`].
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

    /// A call of the gateway, by the user that was given if etcd asks for one. A call that was refused for want of a token was
    /// not carried out, so that it may be sent again.
    async fn post<T: DeserializeOwned>(
        &self,
        base: &str,
        path: &str,
        query: &Value,
        within: Duration,
    ) -> Result<T, Error> {
        let token = self.login.as_ref().and_then(|login| login.token());
        let refused = match self.send(base, path, query, token.as_deref(), within).await {
            Err(error) if error.wants_a_token() => error,
            other => return other,
        };
        let cannot = |cause: String| Error::Login { url: base.to_owned(), cause };
        let Some(login) = &self.login else {
            return Err(cannot(format!("{refused}; set MUSTER_ETCD_USER and MUSTER_ETCD_PASSWORD_FILE")));
        };
        let credentials = login.credentials().await.map_err(cannot)?;
        let answer = self.send::<TokenAnswer>(base, "/v3/auth/authenticate", &credentials, None, within).await;
        let token = match answer {
            Ok(answer) => login.keep(answer.token),
            Err(Error::Api { message, .. }) => return Err(cannot(login.refused(&credentials, &message))),
            Err(error) => return Err(error),
        };
        self.send(base, path, query, Some(&token), within).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        base: &str,
        path: &str,
        query: &Value,
        token: Option<&str>,
        within: Duration,
    ) -> Result<T, Error> {
        let url = format!("{}{path}", base.trim_end_matches('/'));
        // Without an "accept", which every other client sends, etcd doesn't see that the gateway asks, and takes the name in its
        // own certificate for the user (etcd's auth/store.go, AuthInfoFromTLS: it looks for "grpcgateway-accept").
        let mut request = Request::post(&url).header("content-type", "application/json").header(ACCEPT, "*/*");
        if let Some(token) = token {
            // As it is: the gateway knows no "Bearer".
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::new(Bytes::from(query.to_string()))).map_err(|e| not_etcd(&url, &e))?;
        let answer = self.client_port.fetch(request, within).await.map_err(Error::Http)?;
        if answer.status() == StatusCode::OK {
            return parse(&url, answer.body());
        }
        let Ok(error) = serde_json::from_slice::<ErrorAnswer>(answer.body()) else {
            // What stands before the gateway speaks in plain text.
            let words = String::from_utf8_lossy(answer.body()).chars().take(LONGEST_WORDS).collect::<String>();
            let cause = format!("answers {}: {}", answer.status(), words.trim());
            return Err(Error::NotEtcd { url, cause });
        };
        // Some builds fill only `error`.
        let message = if error.message.is_empty() { error.error } else { error.message };
        Err(Error::Api { url, code: error.code, message })
    }
}

async fn version(http: &http::Client, url: &str, within: Duration) -> Result<Version, Error> {
    let (url, answer) = get(http, url, "/version", within).await?;
    if answer.status() == StatusCode::OK {
        return parse(&url, answer.body());
    }
    // What Go's server tells who speaks plain to it.
    let cause = match answer.body().starts_with(b"Client sent an HTTP request to an HTTPS server") {
        true => "it speaks TLS, and was asked in plain HTTP".to_owned(),
        false => format!("answers {}", answer.status()),
    };
    Err(Error::NotEtcd { url, cause })
}

async fn get(
    http: &http::Client,
    base: &str,
    path: &str,
    within: Duration,
) -> Result<(String, Response<Bytes>), Error> {
    let url = format!("{}{path}", base.trim_end_matches('/'));
    let request = Request::get(&url).body(Full::default()).map_err(|e| not_etcd(&url, &e))?;
    let answer = http.fetch(request, within).await.map_err(Error::Http)?;
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
}
