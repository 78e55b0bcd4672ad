//! Credentials, in the SDKs' order: environment, container endpoint, the instance's role.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_credential_types::Credentials;
use http_body_util::Full;
use hyper::header::AUTHORIZATION;
use hyper::{Request, StatusCode};
use serde::Deserialize;

use super::imds::{self, Imds};
use crate::net::http::{self, Client};
use crate::util::clock;
use crate::util::file;
use crate::util::lock::lock;
use crate::util::words;

/// Refreshed this long before they expire; AWS issues new ones at least five minutes before.
const REFRESH_AHEAD: Duration = Duration::from_secs(15 * 60);
const CONTAINER_TIMEOUT: Duration = Duration::from_secs(2);

/// Where credentials come from, according to the environment.
#[derive(Clone)]
pub enum Source {
    /// `AWS_ACCESS_KEY_ID` and related variables.
    Static(Credentials),
    /// A store's own: the id, and the file with the secret, which is read again after the store refused it.
    File { id: String, secret: PathBuf },
    /// `AWS_CONTAINER_CREDENTIALS_*`.
    Container { url: String, token: Option<String>, token_file: Option<PathBuf> },
    /// The instance's role, from IMDS.
    Role,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Static(_) => "environment",
            Self::File { .. } => "file",
            Self::Container { .. } => "container endpoint",
            Self::Role => "instance role",
        })
    }
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this instance has no IAM role; attach an instance profile whose policy allows ec2:DescribeInstances")]
    NoRole,
    #[error(transparent)]
    Imds(#[from] imds::Error),
    #[error("the container credentials endpoint {}: {cause}", words::without_secrets(url))]
    Container { url: String, cause: String },
    /// IMDS may answer 200 with an error inside.
    #[error(
        "the metadata service has no credentials for role {}: {code} {message}; check its instance profile and trust policy",
        words::without_secrets(role)
    )]
    Refused { role: String, code: String, message: String },
    #[error("credentials from {} can't be read: {cause}", words::without_secrets(from))]
    Malformed { from: String, cause: String },
}

/// The document that both IMDS and the container endpoint return.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    code: Option<String>,
    message: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    token: Option<String>,
    expiration: Option<String>,
}

/// Provides credentials, refreshed before they expire.
#[derive(Debug)]
pub struct Provider {
    source: Source,
    imds: Arc<Imds>,
    http: Client,
    held: Mutex<Option<Held>>,
}

/// Credentials with their expiry, in seconds since the epoch, if they have one.
pub struct Held {
    credentials: Credentials,
    expires: Option<i64>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Provider {
    /// A provider from that source; the instance's role comes from that metadata service.
    pub fn new(source: Source, imds: Arc<Imds>, http: Client) -> Self {
        Self { source, imds, http, held: Mutex::default() }
    }

    /// Credentials that are valid for a while. If a refresh fails, the present ones stay in use until they expire.
    ///
    /// # Errors
    /// There are no valid credentials, and the source gives none.
    pub async fn credentials(&self) -> Result<Credentials, Error> {
        let now = clock::epoch();
        let held = lock(&self.held).as_ref().map(|h| (h.credentials.clone(), h.expires));
        let ahead = i64::try_from(REFRESH_AHEAD.as_secs()).unwrap_or(0);
        if let Some((credentials, expires)) = &held
            && expires.is_none_or(|at| at - ahead > now)
        {
            return Ok(credentials.clone());
        }
        match self.fetch().await {
            Ok(fresh) => {
                let credentials = fresh.credentials.clone();
                *lock(&self.held) = Some(fresh);
                Ok(credentials)
            }
            Err(error) => match held {
                Some((credentials, Some(at))) if at > now => {
                    log::warn!(
                        "refreshing the credentials failed; the present ones are valid for {} s more: {error}",
                        at - now
                    );
                    Ok(credentials)
                }
                _ => Err(error),
            },
        }
    }

    /// Drops the present credentials, after AWS has reported them as expired.
    pub fn forget(&self) {
        *lock(&self.held) = None;
    }

    async fn fetch(&self) -> Result<Held, Error> {
        match &self.source {
            Source::Static(credentials) => Ok(Held { credentials: credentials.clone(), expires: None }),
            Source::File { id, secret: path } => {
                let malformed =
                    |e: std::io::Error| Error::Malformed { from: path.display().to_string(), cause: e.to_string() };
                let secret = file::fetch_text(path).await.map_err(malformed)?;
                let credentials = Credentials::new(id, secret.trim(), None, None, "file");
                Ok(Held { credentials, expires: None })
            }
            Source::Container { url, token, token_file } => {
                let token = match token_file {
                    Some(path) => Some(
                        file::fetch_text(path)
                            .await
                            .map_err(|e| Error::Malformed { from: path.display().to_string(), cause: e.to_string() })?,
                    ),
                    None => token.clone(),
                };
                let text = self.fetch_container(url, token.as_deref().map(str::trim)).await?;
                parse(&text, url)
            }
            Source::Role => {
                let role = self.imds.fetch_role_name().await?.ok_or(Error::NoRole)?;
                parse(&self.imds.fetch_role_credentials(&role).await?, &role)
            }
        }
    }

    async fn fetch_container(&self, url: &str, token: Option<&str>) -> Result<String, Error> {
        let failed = |cause: String| Error::Container { url: url.to_owned(), cause };
        let mut request = Request::get(url);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::default()).map_err(|e| failed(e.to_string()))?;
        let answer =
            self.http.fetch(request, CONTAINER_TIMEOUT).await.map_err(|e: http::Error| failed(e.to_string()))?;
        match answer.status() {
            StatusCode::OK => String::from_utf8(answer.into_body().to_vec()).map_err(|e| failed(e.to_string())),
            status => Err(failed(format!("answers {status}"))),
        }
    }
}

/// Parses the source's document.
///
/// # Errors
/// The document is an error (`Refused`), or it can't be parsed (`Malformed`).
pub fn parse(text: &str, from: &str) -> Result<Held, Error> {
    let malformed = |cause: String| Error::Malformed { from: from.to_owned(), cause };
    // serde's message would quote what it found instead of what it expected, so only the position is shown.
    let document: Document = serde_json::from_str(text)
        .map_err(|e| malformed(format!("invalid JSON (line {}, column {})", e.line(), e.column())))?;
    if let Some(code) = document.code.filter(|code| code != "Success") {
        let message = document.message.unwrap_or_default();
        return Err(Error::Refused { role: from.to_owned(), code, message });
    }
    let (Some(key), Some(secret)) = (document.access_key_id, document.secret_access_key) else {
        return Err(malformed("AccessKeyId or SecretAccessKey is missing".to_owned()));
    };
    let expires = document.expiration.as_deref().and_then(clock::parse_rfc3339);
    Ok(Held { credentials: Credentials::new(key, secret, document.token, None, "etcd-muster"), expires })
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::net::scripted::{Reply, Scripted};
    use crate::net::tls::Trust;

    const TOKEN: &str = "PUT /latest/api/token";
    const ROLE: &str = "GET /latest/meta-data/iam/security-credentials/";
    const ITS: &str = "GET /latest/meta-data/iam/security-credentials/etcd-node";
    const CONTAINER: &str = "GET /v2/credentials";

    /// Credentials by that key that expire so many seconds from now.
    fn document(key: usize, expires_in: i64) -> Reply {
        let expiration = clock::rfc3339(clock::epoch() + expires_in);
        Reply::ok(&format!(
            r#"{{"Code":"Success","AccessKeyId":"key-{key}","SecretAccessKey":"s","Token":"t","Expiration":"{expiration}"}}"#
        ))
    }

    fn provider(url: &str, source: Source) -> Provider {
        let http = Client::new(Trust::public(None));
        Provider::new(source, Arc::new(Imds::new(http.clone(), url)), http)
    }

    /// The n-th time the role is asked for its credentials, that is what is said.
    async fn role(said: impl Fn(usize) -> Reply + Send + Sync + 'static) -> (Scripted, Provider) {
        let server = Scripted::start(move |line, before| match line {
            TOKEN => Reply::ok("token"),
            ROLE => Reply::ok("etcd-node"),
            ITS => said(before),
            _ => Reply::status(404),
        })
        .await;
        let provider = provider(&server.url, Source::Role);
        (server, provider)
    }

    async fn key(provider: &Provider) -> Result<String, Error> {
        provider.credentials().await.map(|credentials| credentials.access_key_id().to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn those_of_the_environment_are_never_asked_for() {
        let server = Scripted::start(|_, _| Reply::status(500)).await;
        let fixed = Credentials::new("fixed", "s", None, None, "test");
        let provider = provider(&server.url, Source::Static(fixed));
        assert_eq!(key(&provider).await.unwrap(), "fixed");
        provider.forget();
        assert_eq!(key(&provider).await.unwrap(), "fixed");
        assert!(server.asked().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_roles_are_held_until_a_quarter_of_an_hour_before_their_end() {
        let (server, provider) = role(|n| document(n, 16 * 60)).await;
        for _ in 0..3 {
            assert_eq!(key(&provider).await.unwrap(), "key-0");
        }
        assert_eq!(server.count(ITS), 1);
        provider.forget();
        assert_eq!(key(&provider).await.unwrap(), "key-1", "AWS called those at hand expired");
        let (server, provider) = role(|n| document(n, if n == 0 { 14 * 60 } else { 3600 })).await;
        assert_eq!(key(&provider).await.unwrap(), "key-0");
        for _ in 0..3 {
            assert_eq!(key(&provider).await.unwrap(), "key-1", "renewed while the old ones are still good");
        }
        assert_eq!(server.count(ITS), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn those_at_hand_serve_until_their_end_while_none_can_be_had_and_no_longer() {
        let (server, old) = role(|n| if n == 0 { document(n, 10 * 60) } else { Reply::status(500) }).await;
        for _ in 0..2 {
            assert_eq!(key(&old).await.unwrap(), "key-0");
        }
        assert_eq!(server.count(ITS), 1 + 4, "each time it is tried to renew them");
        let (_server, expired) = role(|n| if n == 0 { document(n, 0) } else { Reply::status(500) }).await;
        assert_eq!(key(&expired).await.unwrap(), "key-0", "what AWS gave out is AWS's to refuse");
        let error = key(&expired).await.unwrap_err();
        assert!(matches!(error, Error::Imds(imds::Error::Status { .. })), "{error}");
        let (_server, forgotten) = role(|n| if n == 0 { document(n, 3600) } else { Reply::status(500) }).await;
        key(&forgotten).await.unwrap();
        forgotten.forget();
        assert!(key(&forgotten).await.is_err(), "what AWS refused serves nobody");
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_without_a_role_and_one_that_cannot_be_assumed_are_told_apart() {
        let server =
            Scripted::start(|line, _| if line == TOKEN { Reply::ok("token") } else { Reply::status(404) }).await;
        let error = key(&provider(&server.url, Source::Role)).await.unwrap_err();
        assert!(matches!(error, Error::NoRole) && error.to_string().contains("attach an instance profile"), "{error}");
        let refusal = r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"m"}"#;
        let (_server, provider) = role(move |_| Reply::ok(refusal)).await;
        let error = key(&provider).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_metadata_service_that_is_not_there_is_the_cause_of_it() {
        let nowhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = key(&provider(&format!("http://{nowhere}"), Source::Role)).await.unwrap_err();
        let cause = error.source().unwrap().downcast_ref::<http::Error>().unwrap();
        assert_eq!(cause.failure, http::Failure::Refused, "{error}");
    }

    /// In real time: a file is read by a thread, which paused time doesn't wait for.
    #[tokio::test]
    async fn a_containers_are_asked_for_with_its_token_which_is_read_each_time() {
        let server = Scripted::start(|line, before| match line {
            CONTAINER => document(before, 60),
            _ => Reply::status(404),
        })
        .await;
        let file = std::env::temp_dir().join(format!("etcd-muster-token-{:016x}", clock::random()));
        let container = |token: Option<&str>, token_file: Option<&PathBuf>| {
            let url = format!("{}/v2/credentials", server.url);
            let source = Source::Container { url, token: token.map(str::to_owned), token_file: token_file.cloned() };
            provider(&server.url, source)
        };
        key(&container(None, None)).await.unwrap();
        key(&container(Some("bare"), None)).await.unwrap();
        let of_file = container(Some("bare"), Some(&file));
        for token in ["first\n", "second\n"] {
            std::fs::write(&file, token).unwrap();
            key(&of_file).await.unwrap();
        }
        assert_eq!(server.header(CONTAINER, "authorization"), ["", "bare", "first", "second"]);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(key(&of_file).await.unwrap(), "key-3", "those at hand are good for a minute");
        of_file.forget();
        let error = key(&of_file).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("credentials from {} can't be read: ", file.display())), "{error}");
        let source = Source::Container { url: format!("{}/v9", server.url), token: None, token_file: None };
        let error = key(&provider(&server.url, source)).await.unwrap_err().to_string();
        assert!(
            error.starts_with("the container credentials endpoint http://")
                && error.ends_with("/v9: answers 404 Not Found"),
            "{error}"
        );
    }

    #[test]
    fn a_failure_inside_a_200_is_a_failure() {
        let text = r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot assume the role"}"#;
        let error = parse(text, "etcd-node").map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("etcd-node") && error.contains("AssumeRoleUnauthorizedAccess"), "{error}");
    }

    #[test]
    fn nothing_secret_is_shown() {
        let text = r#"{"Code":"Success","AccessKeyId":"AKIA","SecretAccessKey":"hunter2","Token":"t0ken","Expiration":"2026-01-01T00:00:00Z"}"#;
        let shown = format!("{:?}", parse(text, "r"));
        assert!(!shown.contains("hunter2") && !shown.contains("t0ken"), "{shown}");
        for damaged in [r#""hunter2""#, r#"{"SecretAccessKey":{"hunter2":1}}"#, r#"["hunter2", 1, 2, 3, 4, 5, 6]"#] {
            let error = parse(damaged, "r").unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
