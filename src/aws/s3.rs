//! S3, as far as one object goes: read it, and write it on a condition (S3 User Guide, "Conditional writes").
//!
//! One attempt a call: whoever looks looks again, and what became of a write that was not answered shows in the next look.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use hyper::{Method, Request, StatusCode};
use percent_encoding::utf8_percent_encode;

use super::RESERVED;
use super::refusal::ApiError;
use super::signing_client::{self, SigningClient};
use super::sigv4::Service;
use super::xml::read_page;

/// An answer takes some tens of milliseconds; a service that takes longer is as good as out of sight.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What we write is some kilobytes.
const MAX_OBJECT_BYTES: usize = 1 << 20;

/// Why an object could not be read or written. Of a write this says nothing about whether it took place.
#[derive(Debug)]
pub enum Error {
    Unanswered(signing_client::Error),
    /// S3's own word, and the action it was for.
    Api {
        action: &'static str,
        object: Box<Object>,
        status: StatusCode,
        error: ApiError,
        /// Where the bucket is, if S3 says so (`x-amz-bucket-region`).
        region: Option<String>,
        /// The endpoint was given: there is one store, and it has one region.
        is_given: bool,
    },
    Malformed {
        object: Box<Object>,
        cause: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered(error) => write!(f, "{error}"),
            Self::Api { action, object, status, error, region, is_given } => {
                write!(f, "s3:{action} of {object}: {} ({status}): {}", error.code, error.message)?;
                let Object { bucket, key } = object.as_ref();
                match (error.code.as_str(), region) {
                    // Without ListBucket S3 answers AccessDenied for an object that isn't there.
                    ("AccessDenied", _) => write!(
                        f,
                        "; the role's policy must allow s3:GetObject and s3:PutObject on arn:aws:s3:::{bucket}/{key} and \
                         s3:ListBucket on arn:aws:s3:::{bucket}"
                    ),
                    ("NoSuchBucket", _) => write!(f, "; create the bucket {bucket} in this region"),
                    ("PermanentRedirect" | "AuthorizationHeaderMalformed", Some(region)) if *is_given => {
                        write!(f, "; the store is in {region}: set AWS_REGION={region}")
                    }
                    ("PermanentRedirect" | "AuthorizationHeaderMalformed", Some(region)) => {
                        write!(f, "; the bucket {bucket} is in {region}: name one in this region")
                    }
                    _ => Ok(()),
                }
            }
            Self::Malformed { object, cause } => write!(f, "{object}: {cause}"),
        }
    }
}

impl std::error::Error for Error {}

/// `s3://bucket/key`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    pub bucket: String,
    pub key: String,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

/// An object as it was read.
#[derive(Debug)]
pub struct Stored {
    pub body: Bytes,
    /// The ETag, bare: what [`Condition::Unchanged`] holds a write to.
    pub version: String,
}

/// What became of a write on a condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    Written,
    /// 412, or 404 where a version was to be replaced: the condition doesn't hold, by the store's word.
    Refused,
    /// 409: another write on a condition was under way. Nothing follows from it.
    Raced,
}

/// What must be so for a write to take place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition<'a> {
    /// There is no such object.
    Absent,
    /// It is still this version.
    Unchanged(&'a str),
}

/// A client of one region's S3.
#[derive(Debug)]
pub struct S3 {
    caller: Arc<SigningClient>,
    endpoint: Endpoint,
}

impl S3 {
    /// A client of that endpoint.
    pub fn new(caller: Arc<SigningClient>, endpoint: Endpoint) -> Self {
        Self { caller, endpoint }
    }

    /// The endpoint, where one was given: whose store that is, and how it treats conditions, nobody knows. Without what is no
    /// part of a place: a user, a query.
    pub fn given(&self) -> Option<String> {
        let Endpoint::Given(url) = &self.endpoint else { return None };
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let rest = rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        Some(format!("{scheme}://{host}{path}"))
    }

    /// Reads an object; `None`: S3 says there is none.
    ///
    /// # Errors
    /// [`Error`]. A bucket that doesn't exist is one: nothing is known of the object.
    pub async fn get(&self, object: &Object) -> Result<Option<Stored>, Error> {
        self.counted(self.get_once(object).await)
    }

    async fn get_once(&self, object: &Object) -> Result<Option<Stored>, Error> {
        let answer = self.call(Method::GET, object, &Bytes::new(), None).await?;
        match answer {
            Answer { status: StatusCode::OK, version: Some(version), body, .. } => Ok(Some(Stored { body, version })),
            Answer { status: StatusCode::OK, .. } => Err(malformed(object, "it is served without an ETag")),
            other => match self.error(other, "GetObject", object) {
                Error::Api { error, .. } if error.code == "NoSuchKey" => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Writes an object on a condition.
    ///
    /// # Errors
    /// [`Error`]: the write may have taken place, or may do so yet.
    pub async fn put(&self, object: &Object, body: Bytes, condition: Condition<'_>) -> Result<Put, Error> {
        self.counted(self.put_once(object, body, condition).await)
    }

    async fn put_once(&self, object: &Object, body: Bytes, condition: Condition<'_>) -> Result<Put, Error> {
        let answer = self.call(Method::PUT, object, &body, Some(condition)).await?;
        match answer.status {
            StatusCode::OK => Ok(Put::Written),
            StatusCode::PRECONDITION_FAILED => Ok(Put::Refused),
            StatusCode::CONFLICT => Ok(Put::Raced),
            _ => match self.error(answer, "PutObject", object) {
                // It was deleted meanwhile ("Conditional writes"; radosgw 16 and 18 answer 412).
                Error::Api { error, .. } if error.code == "NoSuchKey" && condition != Condition::Absent => {
                    Ok(Put::Refused)
                }
                error => Err(error),
            },
        }
    }

    fn error(&self, answer: Answer, action: &'static str, object: &Object) -> Error {
        let Answer { status, region, body, .. } = answer;
        let is_given = matches!(self.endpoint, Endpoint::Given(_));
        match read_page(body.as_ref()).map(|page| page.error) {
            Ok(Some(error)) => Error::Api { action, object: Box::new(object.clone()), status, error, region, is_given },
            Ok(None) => malformed(object, &format!("answers {status} without an error document")),
            Err(cause) => malformed(object, &format!("answers {status}, {cause}")),
        }
    }

    fn counted<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        if outcome.is_err() {
            self.caller.failed(Service::S3);
        }
        outcome
    }

    async fn call(
        &self,
        method: Method,
        object: &Object,
        body: &Bytes,
        condition: Option<Condition<'_>>,
    ) -> Result<Answer, Error> {
        let mut request = Request::builder().method(method).uri(self.endpoint.url(object));
        request = match condition {
            None => request,
            Some(Condition::Absent) => request.header(IF_NONE_MATCH, "*").header(CONTENT_TYPE, "application/json"),
            Some(Condition::Unchanged(version)) => {
                request.header(IF_MATCH, version).header(CONTENT_TYPE, "application/json")
            }
        };
        let request = request.body(Full::new(body.clone()));
        let request = request.map_err(|e| Error::Unanswered(signing_client::Error::Signing(e.to_string())))?;
        let answer = self.caller.call(Service::S3, request, body, TIMEOUT).await.map_err(Error::Unanswered)?;
        let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let version = header(ETAG.as_str()).map(|tag| bare(&tag).to_owned());
        let (status, region) = (answer.status(), header("x-amz-bucket-region"));
        if status == StatusCode::FORBIDDEN {
            // Whoever mends the role or its policy need not restart us.
            self.caller.forget_credentials();
        }
        let whole = tokio::time::timeout(TIMEOUT, Limited::new(answer.into_body(), MAX_OBJECT_BYTES).collect()).await;
        match whole {
            Ok(Ok(body)) => Ok(Answer { status, version, region, body: body.to_bytes() }),
            Ok(Err(cause)) => Err(malformed(object, &format!("the answer ({status}) broke off: {cause}"))),
            Err(_) => Err(malformed(object, &format!("the answer ({status}) stalled for {} s", TIMEOUT.as_secs()))),
        }
    }
}

struct Answer {
    status: StatusCode,
    version: Option<String>,
    region: Option<String>,
    body: Bytes,
}

/// An ETag without its quotes. All stores that keep to `If-Match` take it so; radosgw 16 and 18 compare it with the quotes on, and
/// refuse what they gave out themselves (measured on 16.2.15 and 18.2.7).
fn bare(tag: &str) -> &str {
    tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag)
}

fn malformed(object: &Object, cause: &str) -> Error {
    Error::Malformed { object: Box::new(object.clone()), cause: cause.to_owned() }
}

/// How objects are addressed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// `https://bucket.s3.region.amazonaws.com/key`: the part after the bucket.
    Public(String),
    /// `endpoint/bucket/key`, for an endpoint that was given.
    Given(String),
}

impl Endpoint {
    /// S3's public endpoint for a region (AWS General Reference, "Amazon S3 endpoints and quotas").
    pub fn public(region: &str, fips: bool, dualstack: bool) -> Self {
        let service = if fips { "s3-fips" } else { "s3" };
        let dualstack = if dualstack { ".dualstack" } else { "" };
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        Self::Public(format!("{service}{dualstack}.{region}.{domain}"))
    }

    fn url(&self, Object { bucket, key }: &Object) -> String {
        let key: Vec<String> = key.split('/').map(|part| utf8_percent_encode(part, RESERVED).to_string()).collect();
        let key = key.join("/");
        match self {
            // The certificate's wildcard covers one label: a bucket with dots goes into the path.
            Self::Public(host) if bucket.contains('.') => format!("https://{host}/{bucket}/{key}"),
            Self::Public(host) => format!("https://{bucket}.{host}/{key}"),
            Self::Given(endpoint) => format!("{}/{bucket}/{key}", endpoint.trim_end_matches('/')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_addressed_as_s3_wants_it() {
        let object = |bucket: &str| Object { bucket: bucket.to_owned(), key: "prod/a b/claim.json".to_owned() };
        let public = Endpoint::public("eu-west-1", false, false);
        assert_eq!(public.url(&object("b")), "https://b.s3.eu-west-1.amazonaws.com/prod/a%20b/claim.json");
        assert_eq!(public.url(&object("b.c")), "https://s3.eu-west-1.amazonaws.com/b.c/prod/a%20b/claim.json");
        let china = Endpoint::public("cn-north-1", true, true);
        assert!(china.url(&object("b")).starts_with("https://b.s3-fips.dualstack.cn-north-1.amazonaws.com.cn/"));
        let given = Endpoint::Given("http://127.0.0.1:5000/".to_owned());
        assert_eq!(given.url(&object("b")), "http://127.0.0.1:5000/b/prod/a%20b/claim.json");
    }

    #[test]
    fn a_version_is_the_etag_without_its_quotes() {
        assert_eq!(bare("\"9a0364b9e99bb480dd25e1f0284c8555\""), "9a0364b9e99bb480dd25e1f0284c8555");
        assert_eq!(bare("9a0364b9e99bb480dd25e1f0284c8555"), "9a0364b9e99bb480dd25e1f0284c8555");
        assert_eq!(bare("W/\"1\""), "W/\"1\"");
        assert_eq!(bare("\""), "\"");
    }

    #[test]
    fn a_redirect_to_another_region_says_what_helps_there() {
        let redirect = |is_given| Error::Api {
            action: "GetObject",
            object: Box::new(Object { bucket: "b".to_owned(), key: "prod/claim.json".to_owned() }),
            status: StatusCode::MOVED_PERMANENTLY,
            error: ApiError { code: "PermanentRedirect".to_owned(), message: "Elsewhere.".to_owned() },
            region: Some("us-east-1".to_owned()),
            is_given,
        };
        let told = |is_given| redirect(is_given).to_string();
        assert!(told(true).ends_with("; the store is in us-east-1: set AWS_REGION=us-east-1"), "{}", told(true));
        assert!(told(false).ends_with("; the bucket b is in us-east-1: name one in this region"), "{}", told(false));
    }
}
