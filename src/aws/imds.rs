//! The instance metadata service, version 2 only (EC2 User Guide, "Use the Instance Metadata Service").

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;

use crate::core::initial_list::first_host_name;
use crate::net::http::{self, Client, Failure, Outgoing};
use crate::util::backoff::Backoff;
use crate::util::clock;
use crate::util::lock::lock;
use crate::util::meter::{Api, ApiCounters};
use crate::util::words;

const TOKEN_TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
/// EC2's maximum, so that a supervisor at rest need not ask for another.
const TOKEN_TTL_SECONDS: u64 = 21_600;
/// As in the SDKs: 1 s and 4 attempts.
const ATTEMPT: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// Why the metadata service gave no value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is there: not an instance, or a firewall.
    #[error(
        "the instance metadata service does not answer: {0}; run on an EC2 instance, or set \
         AWS_EC2_METADATA_SERVICE_ENDPOINT; for a command elsewhere set AWS_REGION, and AWS_PROFILE or keys"
    )]
    Unreachable(#[source] http::Error),
    /// The PUT timed out: the answer with the token does not get past the instance's hop limit.
    #[error(
        "PUT {}/latest/api/token times out: a bridged container needs an instance with HttpPutResponseHopLimit 2 \
         (aws ec2 modify-instance-metadata-options), or --network host",
        words::without_secrets(endpoint)
    )]
    HopLimit { endpoint: String },
    /// 403: disabled for this instance.
    #[error(
        "{} answers 403: the metadata service is disabled for this instance; enable it with aws ec2 \
         modify-instance-metadata-options --http-endpoint enabled",
        words::without_secrets(endpoint)
    )]
    Disabled { endpoint: String },
    /// `AWS_EC2_METADATA_DISABLED`.
    #[error(
        "AWS_EC2_METADATA_DISABLED=true: the instance metadata service is not asked; set AWS_REGION, and AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN; or unset it on an instance"
    )]
    TurnedOff,
    /// An answer with another status.
    #[error("metadata {path} answers {status}")]
    Status { path: String, status: StatusCode },
    /// An answer that can't be read.
    #[error("metadata {path} can't be read: {cause}")]
    Malformed { path: String, cause: String },
}

/// The contents of the instance identity document.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityDocument {
    pub instance_id: String,
    pub region: String,
    /// `None`: it has only IPv6 addresses.
    pub private_ip: Option<std::net::IpAddr>,
}

/// A client of one metadata service, with its session token.
#[derive(Debug)]
pub struct Imds {
    http: Client,
    /// `None`: it is never asked.
    endpoint: Option<String>,
    token: Mutex<Option<Token>>,
    meters: ApiCounters,
}

struct Token {
    value: String,
    until: Instant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Imds {
    /// A client of the service at that base URL (`AWS_EC2_METADATA_SERVICE_ENDPOINT`).
    pub fn new(http: Client, endpoint: &str) -> Self {
        Self::at(http, Some(endpoint.trim_end_matches('/').to_owned()))
    }

    /// A client that never asks (`AWS_EC2_METADATA_DISABLED`).
    pub fn turned_off(http: Client) -> Self {
        Self::at(http, None)
    }

    fn at(http: Client, endpoint: Option<String>) -> Self {
        Self { http, endpoint, token: Mutex::default(), meters: ApiCounters::default() }
    }

    /// Counts its calls; calls that are made with its credentials are counted there too.
    pub fn meters(&self) -> &ApiCounters {
        &self.meters
    }

    /// Our identity.
    ///
    /// # Errors
    /// The service does not answer, or its document can't be parsed.
    pub async fn fetch_identity(&self) -> Result<IdentityDocument, Error> {
        let path = "dynamic/instance-identity/document";
        let text = self.fetch(path).await?.ok_or_else(|| not_found(path))?;
        serde_json::from_str(&text).map_err(|e| Error::Malformed { path: path.to_owned(), cause: e.to_string() })
    }

    /// The first IPv6 address of the first network interface.
    ///
    /// # Errors
    /// The service does not answer, or the interface has no IPv6 address.
    pub async fn fetch_ipv6(&self) -> Result<std::net::IpAddr, Error> {
        let path = "meta-data/ipv6";
        let text = self.fetch(path).await?.ok_or_else(|| not_found(path))?;
        text.trim().parse().map_err(|e: std::net::AddrParseError| malformed(path, &e))
    }

    /// The private DNS name; `None`: the service has none.
    ///
    /// # Errors
    /// The service does not answer.
    pub async fn fetch_local_hostname(&self) -> Result<Option<String>, Error> {
        Ok(self.fetch("meta-data/local-hostname").await?.as_deref().and_then(first_host_name))
    }

    /// The domain of AWS's endpoints here; `None`: the service has none.
    ///
    /// # Errors
    /// The service does not answer.
    pub async fn fetch_domain(&self) -> Result<Option<String>, Error> {
        self.fetch("meta-data/services/domain").await
    }

    /// The partition; `None`: the service has none.
    ///
    /// # Errors
    /// The service does not answer.
    pub async fn fetch_partition(&self) -> Result<Option<String>, Error> {
        self.fetch("meta-data/services/partition").await
    }

    /// The state to which its Auto Scaling group moves this instance; `None`: it is in no group, or was never moved.
    ///
    /// # Errors
    /// The service does not answer.
    pub async fn fetch_target_lifecycle_state(&self) -> Result<Option<String>, Error> {
        self.fetch("meta-data/autoscaling/target-lifecycle-state").await
    }

    /// The Spot interruption notice, unchanged; `None`: there is none.
    ///
    /// # Errors
    /// The service does not answer.
    pub async fn fetch_spot_action(&self) -> Result<Option<String>, Error> {
        self.fetch("meta-data/spot/instance-action").await
    }

    /// The name of the instance's role; `None`: it has none.
    ///
    /// # Errors
    /// The service does not answer.
    pub async fn fetch_role_name(&self) -> Result<Option<String>, Error> {
        let names = self.fetch("meta-data/iam/security-credentials/").await?;
        Ok(names.and_then(|text| text.lines().next().map(str::to_owned)).filter(|name| !name.is_empty()))
    }

    /// The credentials document of a role, unchanged.
    ///
    /// # Errors
    /// The service does not answer, or has no such role.
    pub async fn fetch_role_credentials(&self, role: &str) -> Result<String, Error> {
        let path = format!("meta-data/iam/security-credentials/{role}");
        self.fetch(&path).await?.ok_or_else(|| not_found(&path))
    }

    /// `Ok(None)` for 404: the item does not exist.
    async fn fetch(&self, path: &str) -> Result<Option<String>, Error> {
        let endpoint = self.endpoint.as_deref().ok_or(Error::TurnedOff)?;
        let (mut last, mut pauses) = (None, Backoff::new(FIRST_PAUSE, LONGEST_PAUSE));
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                clock::pause(pauses.jittered()).await;
            }
            let token = self.session_token(endpoint).await?;
            let url = format!("{endpoint}/latest/{path}");
            let request = Request::get(url).header(TOKEN_HEADER, token).body(Full::default());
            let request = request.map_err(|e| malformed(path, &e))?;
            match self.ask(request).await {
                Ok(answer) => match answer.status() {
                    StatusCode::OK => {
                        let text = String::from_utf8(answer.into_body().to_vec());
                        return text.map(Some).map_err(|e| malformed(path, &e));
                    }
                    StatusCode::NOT_FOUND => return Ok(None),
                    StatusCode::FORBIDDEN => return Err(Error::Disabled { endpoint: endpoint.to_owned() }),
                    status => {
                        // 401: the token expired or the service restarted; 5xx: retry.
                        *lock(&self.token) = None;
                        last = Some(Error::Status { path: path.to_owned(), status });
                    }
                },
                Err(error) => last = Some(Error::Unreachable(error)),
            }
        }
        Err(last.unwrap_or_else(|| not_found(path)))
    }

    async fn session_token(&self, endpoint: &str) -> Result<String, Error> {
        if let Some(token) = &*lock(&self.token)
            && token.until > clock::now()
        {
            return Ok(token.value.clone());
        }
        let (value, asked) = self.fetch_token(endpoint).await?;
        // A tenth stays unused, for the time that the answer took and for clock drift.
        let until = asked + Duration::from_secs(TOKEN_TTL_SECONDS / 10 * 9);
        *lock(&self.token) = Some(Token { value: value.clone(), until });
        Ok(value)
    }

    async fn fetch_token(&self, endpoint: &str) -> Result<(String, Instant), Error> {
        let path = "api/token";
        let (mut last, mut pauses) = (None, Backoff::new(FIRST_PAUSE, LONGEST_PAUSE));
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                clock::pause(pauses.jittered()).await;
            }
            let asked = clock::now();
            let request = Request::builder().method(Method::PUT).uri(format!("{endpoint}/latest/{path}"));
            let request = request.header(TOKEN_TTL_HEADER, TOKEN_TTL_SECONDS).body(Full::<Bytes>::default());
            match self.ask(request.map_err(|e| malformed(path, &e))?).await {
                Ok(answer) if answer.status() == StatusCode::OK => {
                    let text = String::from_utf8(answer.into_body().to_vec()).map_err(|e| malformed(path, &e))?;
                    return Ok((text, asked));
                }
                Ok(answer) if answer.status() == StatusCode::FORBIDDEN => {
                    return Err(Error::Disabled { endpoint: endpoint.to_owned() });
                }
                Ok(answer) => last = Some(Error::Status { path: path.to_owned(), status: answer.status() }),
                Err(error) => last = Some(no_token(error, endpoint)),
            }
        }
        Err(last.unwrap_or_else(|| not_found(path)))
    }

    async fn ask(&self, request: Outgoing) -> Result<Response<Bytes>, http::Error> {
        self.meters.called(Api::Imds);
        let answer = self.http.fetch(request, ATTEMPT).await;
        // 404 is an answer: the item does not exist.
        if !answer.as_ref().is_ok_and(|a| [StatusCode::OK, StatusCode::NOT_FOUND].contains(&a.status())) {
            self.meters.failed(Api::Imds);
        }
        answer
    }
}

/// The answer to the PUT has the hop limit as its TTL, so a container too many hops away gets no answer rather than a refusal.
fn no_token(error: http::Error, endpoint: &str) -> Error {
    match error.failure {
        Failure::Timeout(_) => Error::HopLimit { endpoint: endpoint.to_owned() },
        _ => Error::Unreachable(error),
    }
}

fn not_found(path: &str) -> Error {
    Error::Status { path: path.to_owned(), status: StatusCode::NOT_FOUND }
}

fn malformed(path: &str, cause: &dyn fmt::Display) -> Error {
    Error::Malformed { path: path.to_owned(), cause: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::scripted::{Reply, Scripted};
    use crate::net::tls::Trust;

    const PUT: &str = "PUT /latest/api/token";
    const ITEM: &str = "GET /latest/meta-data/local-hostname";

    async fn service(script: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> (Scripted, Imds) {
        let server = Scripted::start(script).await;
        let imds = Imds::new(Client::new(Trust::public(None)), &server.url);
        (server, imds)
    }

    fn named(line: &str, _: usize) -> Reply {
        Reply::ok(if line == PUT { "token" } else { "ip-10-0-0-1.ec2.internal" })
    }

    #[tokio::test(start_paused = true)]
    async fn one_token_serves_for_most_of_its_life() {
        let (server, imds) = service(named).await;
        for _ in 0..3 {
            assert_eq!(imds.fetch_local_hostname().await.unwrap().as_deref(), Some("ip-10-0-0-1.ec2.internal"));
        }
        assert_eq!((server.count(PUT), server.count(ITEM)), (1, 3));
        tokio::time::advance(Duration::from_secs(TOKEN_TTL_SECONDS * 8 / 10)).await;
        imds.fetch_local_hostname().await.unwrap();
        assert_eq!(server.count(PUT), 1);
        tokio::time::advance(Duration::from_secs(TOKEN_TTL_SECONDS / 10)).await;
        imds.fetch_local_hostname().await.unwrap();
        assert_eq!(server.count(PUT), 2, "a tenth of it is left unused");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_asked_for_anew_and_a_missing_item_is_none() {
        let (server, imds) = service(|line, before| match line {
            ITEM if before == 0 => Reply::status(401),
            "GET /latest/meta-data/spot/instance-action" => Reply::status(404),
            other => named(other, before),
        })
        .await;
        assert!(imds.fetch_local_hostname().await.unwrap().is_some());
        assert_eq!((server.count(PUT), server.count(ITEM)), (2, 2));
        assert_eq!(imds.fetch_spot_action().await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_four_times_and_what_is_off_once() {
        let (server, imds) =
            service(|line, before| if line == ITEM { Reply::status(500) } else { named(line, before) }).await;
        let began = clock::now();
        let error = imds.fetch_local_hostname().await.unwrap_err();
        assert!(matches!(&error, Error::Status { status, .. } if status.as_u16() == 500), "{error}");
        assert_eq!(server.count(ITEM), 4);
        assert!(clock::now() - began >= Duration::from_millis(350), "half of 100, 200 and 400 ms at the least");
        let (server, imds) = service(|_, _| Reply::status(403)).await;
        assert!(matches!(imds.fetch_local_hostname().await.unwrap_err(), Error::Disabled { .. }));
        assert_eq!(server.asked(), [PUT]);
    }

    /// A container too many hops away sees its PUT answered by nothing.
    #[tokio::test(start_paused = true)]
    async fn a_mute_put_is_the_hop_limit_and_a_mute_get_is_not() {
        let (server, imds) = service(|_, _| Reply::Silence).await;
        let began = clock::now();
        let error = imds.fetch_local_hostname().await.unwrap_err();
        assert!(matches!(error, Error::HopLimit { .. }), "{error}");
        assert_eq!(server.count(PUT), 4);
        assert!(clock::now() - began >= ATTEMPT * ATTEMPTS);
        let (_, imds) = service(|line, before| if line == PUT { named(line, before) } else { Reply::Silence }).await;
        assert!(matches!(imds.fetch_local_hostname().await.unwrap_err(), Error::Unreachable(_)));
    }
}
