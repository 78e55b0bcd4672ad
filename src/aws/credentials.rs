//! Credentials, in the SDKs' order: environment, web identity, shared files, container endpoint, the instance's role.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_credential_types::Credentials;
use http_body_util::Full;
use hyper::header::AUTHORIZATION;
use hyper::{Request, StatusCode};
use serde::Deserialize;

use super::imds::{self, Imds};
use super::profile::{self, Kind, Profiles, Role, Told};
use super::signing_client;
use super::sts::Sts;
use super::xml::Session;
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
    /// `AWS_WEB_IDENTITY_TOKEN_FILE`, which is read anew for each session, and `AWS_ROLE_ARN`.
    WebIdentity { role: Role, token_file: PathBuf },
    /// A profile of the shared files, or the next source if they say nothing of credentials.
    Shared { files: SharedFiles, otherwise: Box<Source> },
    /// `AWS_CONTAINER_CREDENTIALS_*`.
    Container { url: String, token: Option<String>, token_file: Option<PathBuf> },
    /// The instance's role, from IMDS.
    Role,
}

/// Where the shared files are, and which profile is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedFiles {
    /// `AWS_PROFILE`; `None`: the default one, if there is one.
    pub profile: Option<String>,
    pub credentials: PathBuf,
    pub config: PathBuf,
    /// A variable names the profile or a file. Files that nobody asked for, and that can't be read, are passed over: they must not
    /// take its role from an instance.
    pub is_asked_for: bool,
}

impl SharedFiles {
    /// The profile that is meant.
    pub fn profile(&self) -> &str {
        self.profile.as_deref().unwrap_or(profile::DEFAULT)
    }

    /// Its profiles, from the two files' contents; a file that does not exist has none.
    ///
    /// # Errors
    /// A file can't be read: which one, and why.
    pub fn profiles(&self, config: io::Result<Vec<u8>>, credentials: io::Result<Vec<u8>>) -> Result<Profiles, Error> {
        let mut profiles = Profiles::default();
        for (kind, path, bytes) in
            [(Kind::Config, &self.config, config), (Kind::Credentials, &self.credentials, credentials)]
        {
            let malformed = |cause: String| Error::Malformed { from: path.display().to_string(), cause };
            let bytes = match bytes {
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
                bytes => bytes.map_err(|cause| malformed(cause.to_string()))?,
            };
            let text = String::from_utf8(bytes).map_err(|_| malformed("it is not UTF-8".to_owned()))?;
            profiles
                .add(kind, &text)
                .map_err(|line| malformed(format!("line {line} is neither [SECTION] nor KEY = VALUE")))?;
        }
        Ok(profiles)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Static(_) => "environment",
            Self::File { .. } => "file",
            Self::WebIdentity { .. } => "web identity",
            Self::Shared { .. } => "shared files",
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
    #[error(transparent)]
    Sts(Box<signing_client::Error>),
    /// What the shared files say can't be followed.
    #[error("{file}: {cause}")]
    Profile { file: String, cause: String },
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

impl Error {
    /// AWS refuses us, or there is nothing with which it could know us; otherwise another attempt may help.
    pub fn is_denial(&self) -> bool {
        match self {
            Self::Imds(_) => false,
            Self::Sts(error) => error.is_denial(),
            _ => true,
        }
    }
}

impl From<signing_client::Error> for Error {
    fn from(error: signing_client::Error) -> Self {
        match error {
            // Of those with which a role was to be assumed.
            signing_client::Error::Credentials(error) => error,
            error => Self::Sts(Box::new(error)),
        }
    }
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
    sts: Sts,
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
    /// A provider from that source; the instance's role comes from that metadata service, and others' sessions from that STS.
    pub fn new(source: Source, imds: Arc<Imds>, http: Client, sts: Sts) -> Self {
        Self { source, imds, http, sts, held: Mutex::default() }
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
        match self.fetch(&self.source).await {
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

    async fn fetch(&self, source: &Source) -> Result<Held, Error> {
        match source {
            Source::Static(credentials) => Ok(Held { credentials: credentials.clone(), expires: None }),
            Source::File { id, secret: path } => {
                let secret = fetch_text(path).await?;
                let credentials = Credentials::new(id, secret.trim(), None, None, "file");
                Ok(Held { credentials, expires: None })
            }
            Source::Container { url, token, token_file } => {
                let token = match token_file {
                    Some(path) => Some(fetch_text(path).await?),
                    None => token.clone(),
                };
                let text = self.fetch_container(url, token.as_deref().map(str::trim)).await?;
                parse(&text, url)
            }
            // Boxed: a call of STS is signed with what this returns.
            Source::WebIdentity { role, token_file } => Box::pin(self.fetch_web_identity(role, token_file)).await,
            Source::Shared { files, otherwise } => match self.fetch_profile(files).await? {
                Some(held) => Ok(held),
                None => Box::pin(self.fetch(otherwise)).await,
            },
            Source::Role => {
                let role = self.imds.fetch_role_name().await?.ok_or(Error::NoRole)?;
                parse(&self.imds.fetch_role_credentials(&role).await?, &role)
            }
        }
    }

    async fn fetch_web_identity(&self, role: &Role, token_file: &Path) -> Result<Held, Error> {
        let token = fetch_text(token_file).await?;
        let shown = token_file.display().to_string();
        let session = self.sts.assume_role_with_web_identity(token.trim(), &shown, role).await?;
        Held::of_session(session)
    }

    /// What the shared files say; `None`: nothing of credentials.
    async fn fetch_profile(&self, files: &SharedFiles) -> Result<Option<Held>, Error> {
        let (config, credentials) = (file::fetch(&files.config).await, file::fetch(&files.credentials).await);
        let profiles = match files.profiles(config, credentials) {
            Err(error) if !files.is_asked_for => {
                log::warn!("{error}; the shared files are passed over");
                return Ok(None);
            }
            profiles => profiles?,
        };
        let wrong = |cause| Error::Profile { file: files.config.display().to_string(), cause };
        match profiles.credentials(files.profile()).map_err(wrong)? {
            Some(told) => self.follow(&told).await,
            None if files.profile.is_none() => Ok(None),
            None => {
                let (named, known) = (files.profile(), profiles.names().join(", "));
                let known = if known.is_empty() { "no profile".to_owned() } else { known };
                let cause = format!(
                    "AWS_PROFILE={named}: it has no such profile, and neither has {}; they have {known}",
                    files.credentials.display()
                );
                Err(wrong(cause))
            }
        }
    }

    /// (Boxed: a role's source may be a role.)
    fn follow<'a>(&'a self, told: &'a Told) -> Pin<Box<dyn Future<Output = Result<Option<Held>, Error>> + Send + 'a>> {
        Box::pin(async move {
            match told {
                Told::Keys(credentials) => Ok(Some(Held { credentials: credentials.clone(), expires: None })),
                Told::WebIdentity { role, token_file } => {
                    self.fetch_web_identity(role, Path::new(token_file)).await.map(Some)
                }
                Told::Role { role, base } => {
                    let base = self.follow(base).await?.map(|held| held.credentials);
                    let source = base.map_or(Source::Role, Source::Static);
                    let base = Self::new(source, self.imds.clone(), self.http.clone(), self.sts.clone());
                    let session = self.sts.assume_role(base, role).await?;
                    Held::of_session(session).map(Some)
                }
                Told::Instance => self.fetch(&Source::Role).await.map(Some),
                Told::Nothing => Ok(None),
            }
        })
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

async fn fetch_text(path: &Path) -> Result<String, Error> {
    let malformed = |e: io::Error| Error::Malformed { from: path.display().to_string(), cause: e.to_string() };
    file::fetch_text(path).await.map_err(malformed)
}

impl Held {
    fn of_session(session: Session) -> Result<Self, Error> {
        let expires = clock::parse_rfc3339(&session.expiration);
        if session.key.is_empty() || session.secret.is_empty() || session.token.is_empty() || expires.is_none() {
            let cause = "AccessKeyId, SecretAccessKey, SessionToken or Expiration is missing".to_owned();
            return Err(Error::Malformed { from: "STS".to_owned(), cause });
        }
        let credentials = Credentials::new(session.key, session.secret, Some(session.token), None, "etcd-muster");
        Ok(Self { credentials, expires })
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
    use crate::util::file::paused_time::stand_still_while_reading;
    use crate::util::scratch::Scratch;

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
        Provider::new(source, Arc::new(Imds::new(http.clone(), url)), http.clone(), Sts::at(&http, url))
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

    /// A session with that key that expires so many seconds from now.
    fn session(action: &str, key: &str, expires_in: i64) -> Reply {
        let expiration = clock::rfc3339(clock::epoch() + expires_in);
        Reply::ok(&format!(
            "<{action}Response><{action}Result><Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>hunter2</SecretAccessKey>\
             <SessionToken>t</SessionToken><Expiration>{expiration}</Expiration></Credentials></{action}Result></{action}Response>"
        ))
    }

    fn refusal(status: u16, code: &str) -> Reply {
        let error = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
        Reply::Answer(status, format!("<ErrorResponse>{error}</ErrorResponse>"))
    }

    fn role_of(arn: &str) -> Role {
        Role { arn: arn.to_owned(), session: None, external_id: None }
    }

    const WEB: &str = "POST / Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr\
                       &RoleSessionName=etcd-muster&WebIdentityToken=";

    #[tokio::test(start_paused = true)]
    async fn a_web_identitys_token_is_read_anew_for_each_session_and_nothing_is_signed() {
        stand_still_while_reading();
        let server = Scripted::start(|line, before| match line {
            _ if !line.starts_with(WEB) => Reply::status(404),
            _ if line.ends_with("=late") => refusal(400, "ExpiredTokenException"),
            _ if line.ends_with("=strange") => refusal(400, "InvalidIdentityToken"),
            _ if line.ends_with("=forbidden") => refusal(403, "AccessDenied"),
            _ if line.ends_with("=unsaid") => Reply::ok("<AssumeRoleWithWebIdentityResponse/>"),
            _ if line.ends_with("=down") => Reply::status(503),
            // An hour is what a session lasts; it is renewed a quarter of an hour before its end.
            _ => session(
                "AssumeRoleWithWebIdentity",
                &format!("key-{before}"),
                if line.ends_with("=brief") { 14 * 60 } else { 3600 },
            ),
        })
        .await;
        let scratch = Scratch::make();
        let token_file = scratch.path().join("token");
        let token = |text: &str| std::fs::write(&token_file, text).unwrap();
        let role = role_of("arn:aws:iam::1:role/r");
        let provider = provider(&server.url, Source::WebIdentity { role, token_file: token_file.clone() });
        token("brief\n");
        assert_eq!(key(&provider).await.unwrap(), "key-0");
        token("first");
        assert_eq!(key(&provider).await.unwrap(), "key-0", "renewed with the file's new token");
        for _ in 0..3 {
            assert_eq!(key(&provider).await.unwrap(), "key-0");
        }
        assert_eq!(server.asked(), ["brief", "first"].map(|token| format!("{WEB}{token}")));
        assert_eq!(server.header("POST", "authorization"), ["", ""]);
        let said = async |text: &str| {
            token(text);
            provider.forget();
            let error = key(&provider).await.unwrap_err();
            (error.is_denial(), error.to_string())
        };
        let (shown, arn) = (token_file.display(), "arn:aws:iam::1:role/r");
        let late = format!(
            "sts:AssumeRoleWithWebIdentity of {arn}: ExpiredTokenException (400 Bad Request): m; the token in {shown} has expired, \
             and nothing has renewed it"
        );
        assert_eq!(said("late").await, (true, late));
        let (is_denial, line) = said("strange").await;
        assert!(is_denial && line.ends_with("is none of an identity provider that the role trusts"), "{line}");
        let (is_denial, line) = said("forbidden").await;
        let trust =
            format!("; the trust policy of {arn} must allow sts:AssumeRoleWithWebIdentity, for the identity provider");
        assert!(is_denial && line.contains(&trust), "{line}");
        assert!(!said("unsaid").await.0 && !said("down").await.0, "another attempt may help");
        assert_eq!(server.count(&format!("{WEB}down")), 3);
        std::fs::remove_file(&token_file).unwrap();
        provider.forget();
        let line = key(&provider).await.unwrap_err().to_string();
        assert!(line.starts_with(&format!("credentials from {shown} can't be read: ")), "{line}");
    }

    fn shared(scratch: &Scratch, profile: Option<&str>, otherwise: Source) -> Source {
        let [credentials, config] = ["credentials", "config"].map(|name| scratch.path().join(name));
        let files =
            SharedFiles { profile: profile.map(str::to_owned), credentials, config, is_asked_for: profile.is_some() };
        Source::Shared { files, otherwise: Box::new(otherwise) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_profiles_keys_are_read_anew_and_without_any_the_next_source_counts() {
        stand_still_while_reading();
        let scratch = Scratch::make();
        let (server, _) = role(|n| document(n, 3600)).await;
        let of = |profile: Option<&str>| provider(&server.url, shared(&scratch, profile, Source::Role));
        assert_eq!(key(&of(None)).await.unwrap(), "key-0", "there are no files");
        let line = key(&of(Some("ops"))).await.unwrap_err().to_string();
        let [credentials, config] = ["credentials", "config"].map(|name| scratch.path().join(name));
        let missing = |known: &str| {
            let (config, credentials) = (config.display(), credentials.display());
            format!(
                "{config}: AWS_PROFILE=ops: it has no such profile, and neither has {credentials}; they have {known}"
            )
        };
        assert_eq!(line, missing("no profile"));
        std::fs::write(&config, "[profile bare]\nregion = eu-west-1\n").unwrap();
        assert_eq!(key(&of(Some("ops"))).await.unwrap_err().to_string(), missing("bare"));
        assert_eq!(key(&of(Some("bare"))).await.unwrap(), "key-1", "it says nothing of credentials");
        let ops = of(Some("ops"));
        for name in ["one", "two"] {
            let keys = format!("[ops]\naws_access_key_id = {name}\naws_secret_access_key = hunter2\n");
            std::fs::write(&credentials, keys).unwrap();
            ops.forget();
            assert_eq!(key(&ops).await.unwrap(), name);
        }
        std::fs::write(&credentials, "[default]\naws_access_key_id = d\naws_secret_access_key = s\n").unwrap();
        assert_eq!(key(&of(None)).await.unwrap(), "d");
        std::fs::write(&credentials, "[ops]\nhunter2\n").unwrap();
        ops.forget();
        assert_eq!(
            key(&ops).await.unwrap_err().to_string(),
            format!(
                "credentials from {} can't be read: line 2 is neither [SECTION] nor KEY = VALUE",
                credentials.display()
            )
        );
        assert_eq!(key(&of(None)).await.unwrap(), "key-2", "nobody asked for that file");
        std::fs::remove_file(&credentials).unwrap();
        std::fs::create_dir(&credentials).unwrap();
        assert_eq!(key(&of(None)).await.unwrap(), "key-3");
        let line = key(&ops).await.unwrap_err().to_string();
        assert!(line.ends_with("can't be read: it is a directory, not a regular file"), "{line}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_profiles_role_is_assumed_with_its_sources_keys() {
        stand_still_while_reading();
        let scratch = Scratch::make();
        let server = Scripted::start(|line, before| match line {
            TOKEN => Reply::ok("token"),
            ROLE => Reply::ok("etcd-node"),
            ITS => document(before, 3600),
            _ if line.contains("outer") => session("AssumeRole", "outer", 3600),
            _ if line.contains("inner") => session("AssumeRole", "inner", 3600),
            _ => refusal(403, "AccessDenied"),
        })
        .await;
        let config = "[profile a]\nrole_arn = arn:outer\nsource_profile = b\nrole_session_name = me\n\
                      [profile b]\nrole_arn = arn:inner\nsource_profile = keys\nexternal_id = x y\n\
                      [profile keys]\naws_access_key_id = own\naws_secret_access_key = hunter2\n\
                      [profile ec2]\nrole_arn = arn:outer\ncredential_source = Ec2InstanceMetadata\n\
                      [profile no]\nrole_arn = arn:no\nsource_profile = keys\n";
        std::fs::write(scratch.path().join("config"), config).unwrap();
        let of = |profile| provider(&server.url, shared(&scratch, Some(profile), Source::Role));
        assert_eq!(key(&of("a")).await.unwrap(), "outer");
        let asked = "POST / Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3A";
        let (inner, outer) = ("inner&RoleSessionName=etcd-muster&ExternalId=x%20y", "outer&RoleSessionName=me");
        assert_eq!(server.asked(), [format!("{asked}{inner}"), format!("{asked}{outer}")]);
        let signed: Vec<String> = server.header(asked, "authorization");
        let scope = |header: &String| header.split("Credential=").nth(1).unwrap().split('/').next().unwrap().to_owned();
        assert_eq!(signed.iter().map(scope).collect::<Vec<_>>(), ["own", "inner"]);
        assert!(signed.iter().all(|header| header.contains("/eu-west-1/sts/aws4_request")), "{signed:?}");
        assert_eq!(key(&of("ec2")).await.unwrap(), "outer");
        assert_eq!(scope(&server.header(asked, "authorization")[2]), "key-0");
        let line = key(&of("no")).await.unwrap_err().to_string();
        let trust = "; the trust policy of arn:no must allow sts:AssumeRole, and the policy of who assumes it";
        assert!(line.ends_with(trust), "{line}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_metadata_service_that_is_turned_off_is_never_asked() {
        let server = Scripted::start(|_, _| Reply::ok("etcd-node")).await;
        let http = Client::new(Trust::public(None));
        let off = Provider::new(
            Source::Role,
            Arc::new(Imds::turned_off(http.clone())),
            http.clone(),
            Sts::at(&http, &server.url),
        );
        let line = key(&off).await.unwrap_err().to_string();
        assert!(
            line.starts_with("AWS_EC2_METADATA_DISABLED=true: ")
                && line.contains("; set AWS_REGION, and AWS_ACCESS_KEY_ID"),
            "{line}"
        );
        assert!(server.asked().is_empty());
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
