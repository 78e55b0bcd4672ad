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
use crate::util::words;

/// Refreshed so long before they expire; AWS hands out new ones at least five minutes ahead.
const REFRESH_AHEAD: Duration = Duration::from_secs(15 * 60);
const CONTAINER_TIMEOUT: Duration = Duration::from_secs(2);

/// Where credentials come from, as the environment names it.
#[derive(Clone)]
pub enum Source {
    /// `AWS_ACCESS_KEY_ID` and its kin.
    Static(Credentials),
    /// `AWS_CONTAINER_CREDENTIALS_*`.
    Container { url: String, token: Option<String>, token_file: Option<PathBuf> },
    /// The instance's role, by IMDS.
    Role,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Static(_) => "environment",
            Self::Container { .. } => "container endpoint",
            Self::Role => "instance role",
        })
    }
}

/// Why there are no credentials.
#[derive(Debug)]
pub enum Error {
    NoRole,
    Imds(imds::Error),
    Container {
        url: String,
        cause: String,
    },
    /// IMDS may answer 200 with a failure inside.
    Refused {
        role: String,
        code: String,
        message: String,
    },
    Malformed {
        from: String,
        cause: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRole => f.write_str(
                "this instance has no IAM role; attach an instance profile whose policy allows ec2:DescribeInstances",
            ),
            Self::Imds(cause) => write!(f, "{cause}"),
            Self::Container { url, cause } => {
                write!(f, "the container credentials endpoint {}: {cause}", words::without_secrets(url))
            }
            Self::Refused { role, code, message } => {
                let role = words::without_secrets(role);
                write!(
                    f,
                    "the metadata service has no credentials for role {role}: {code} {message}; check its instance profile and trust policy"
                )
            }
            Self::Malformed { from, cause } => {
                write!(f, "credentials from {} can't be read: {cause}", words::without_secrets(from))
            }
        }
    }
}

impl std::error::Error for Error {}

/// The document both IMDS and the container endpoint answer with.
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

/// Hands out credentials, refreshed before they expire.
#[derive(Debug)]
pub struct Provider {
    source: Source,
    imds: Arc<Imds>,
    http: Client,
    held: Mutex<Option<Held>>,
}

/// Credentials and their end, in seconds since the epoch, where they have one.
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
    /// A provider from that source; the instance's role is asked of that metadata service.
    pub fn new(source: Source, imds: Arc<Imds>, http: Client) -> Self {
        Self { source, imds, http, held: Mutex::default() }
    }

    /// Credentials that are good for a while. Should a refresh fail, those that have not expired yet serve on.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn credentials(&self) -> Result<Credentials, Error> {
        let now = clock::epoch();
        let held =
            self.held.lock().unwrap_or_else(|e| e.into_inner()).as_ref().map(|h| (h.credentials.clone(), h.expires));
        let ahead = i64::try_from(REFRESH_AHEAD.as_secs()).unwrap_or(0);
        if let Some((credentials, expires)) = &held
            && expires.is_none_or(|at| at - ahead > now)
        {
            return Ok(credentials.clone());
        }
        match self.fetch().await {
            Ok(fresh) => {
                let credentials = fresh.credentials.clone();
                *self.held.lock().unwrap_or_else(|e| e.into_inner()) = Some(fresh);
                Ok(credentials)
            }
            Err(error) => match held {
                Some((credentials, Some(at))) if at > now => {
                    log::warn!(
                        "credentials could not be refreshed, those at hand serve for {} s more: {error}",
                        at - now
                    );
                    Ok(credentials)
                }
                _ => Err(error),
            },
        }
    }

    /// Forgets what is held, after AWS has called it expired.
    pub fn forget(&self) {
        *self.held.lock().unwrap_or_else(|e| e.into_inner()) = None;
    }

    async fn fetch(&self) -> Result<Held, Error> {
        match &self.source {
            Source::Static(credentials) => Ok(Held { credentials: credentials.clone(), expires: None }),
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
                let role = self.imds.fetch_role_name().await.map_err(Error::Imds)?.ok_or(Error::NoRole)?;
                parse(&self.imds.fetch_role_credentials(&role).await.map_err(Error::Imds)?, &role)
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

/// Reads the document that was had from there.
///
/// # Errors
/// [`Error::Refused`], [`Error::Malformed`].
pub fn parse(text: &str, from: &str) -> Result<Held, Error> {
    let malformed = |cause: String| Error::Malformed { from: from.to_owned(), cause };
    // serde's own words would quote what it found instead of what it wanted: the place must do.
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
    use super::*;

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
