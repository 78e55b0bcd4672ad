//! S3, as far as one object needs it: read it, and write it on a condition (S3 User Guide, "Conditional writes"). A bucket with
//! large objects is in `s3/`.
//!
//! One attempt a call: the caller observes again, and the next observation shows the result of a write without an answer.

pub mod bucket;
mod document;
pub mod listing;
mod multipart;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use hyper::{Request, StatusCode};
use percent_encoding::utf8_percent_encode;

use super::RESERVED;
use super::partition::{Refusal, Region, Variants};
use super::refusal::ApiError;
/// An error does not show whether a write took place.
pub use super::signing_client::Error;
use super::signing_client::{Answer, Call, SigningClient, Unread};
use super::sigv4::Service;
use super::xml::read_page;

/// An answer takes some tens of milliseconds; a service that takes longer counts as unreachable.
const TIMEOUT: Duration = Duration::from_secs(5);
/// We write some kilobytes.
const MAX_OBJECT_BYTES: usize = 1 << 20;

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
    /// The ETag without quotes: the condition of [`Condition::Unchanged`].
    pub version: String,
}

/// The result of a conditional write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    Written,
    /// 412, or 404 where a version was to be replaced: the store reports that the condition does not hold.
    Refused,
    /// 409: another conditional write was in progress. Nothing follows from it.
    Raced,
}

/// The condition for a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition<'a> {
    /// The object does not exist.
    Absent,
    /// It is still this version.
    Unchanged(&'a str),
}

/// A client of one region's S3.
#[derive(Clone, Debug)]
pub struct S3 {
    caller: Arc<SigningClient>,
    endpoint: Endpoint,
}

impl S3 {
    pub fn new(caller: Arc<SigningClient>, endpoint: Endpoint) -> Self {
        Self { caller, endpoint }
    }

    /// The endpoint, if one was configured: it is unknown which store that is, and how it treats conditions. Without the parts
    /// that are not an address: user and query.
    pub fn given(&self) -> Option<String> {
        let Endpoint::Given(url) = &self.endpoint else { return None };
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let rest = rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        Some(format!("{scheme}://{host}{path}"))
    }

    /// Reads an object; `None`: S3 reports that it does not exist.
    ///
    /// # Errors
    /// S3 does not answer, or refuses. A missing bucket is an error too: nothing is then known about the object.
    pub async fn get(&self, object: &Object) -> Result<Option<Stored>, Error> {
        let request = Request::get(self.endpoint.url(object)?).body(Bytes::new());
        self.call("GetObject", object, request, |answer| match (answer.status, answer.header(ETAG.as_str())) {
            (StatusCode::OK, Some(tag)) => Ok(Some(Stored { body: answer.body, version: bare(&tag).to_owned() })),
            (StatusCode::OK, None) => Err(Unread::Malformed("the store returns it without an ETag".to_owned())),
            _ => match self.refusal(answer, object) {
                Unread::Refused { error, .. } if error.code == "NoSuchKey" => Ok(None),
                other => Err(other),
            },
        })
        .await
    }

    /// Writes an object on a condition.
    ///
    /// # Errors
    /// S3 does not answer, or refuses: the write may have taken place, or may still do so.
    pub async fn put(&self, object: &Object, body: Bytes, condition: Condition<'_>) -> Result<Put, Error> {
        let request = Request::put(self.endpoint.url(object)?).header(CONTENT_TYPE, "application/json");
        let request = match condition {
            Condition::Absent => request.header(IF_NONE_MATCH, "*"),
            Condition::Unchanged(version) => request.header(IF_MATCH, version),
        };
        self.call("PutObject", object, request.body(body), |answer| match answer.status {
            StatusCode::OK => Ok(Put::Written),
            StatusCode::PRECONDITION_FAILED => Ok(Put::Refused),
            StatusCode::CONFLICT => Ok(Put::Raced),
            _ => match self.refusal(answer, object) {
                // It was deleted meanwhile ("Conditional writes"; radosgw 16 and 18 answer 412).
                Unread::Refused { error, .. } if error.code == "NoSuchKey" && condition != Condition::Absent => {
                    Ok(Put::Refused)
                }
                other => Err(other),
            },
        })
        .await
    }

    fn refusal(&self, answer: Answer<Bytes>, object: &Object) -> Unread {
        let (status, region) = (answer.status, answer.header("x-amz-bucket-region"));
        let (is_given, partition) = (matches!(self.endpoint, Endpoint::Given(_)), &self.caller.region().partition);
        match read_page(answer.body.as_ref()) {
            Ok(page) => {
                Unread::by(status, page.error, |error| way_out(object, partition, error, region.as_deref(), is_given))
            }
            Err(cause) => Unread::page(status, &cause),
        }
    }

    async fn call<T: Send>(
        &self,
        action: &str,
        object: &Object,
        request: hyper::http::Result<Request<Bytes>>,
        made_of: impl Fn(Answer<Bytes>) -> Result<T, Unread> + Sync,
    ) -> Result<T, Error> {
        let call = Call {
            service: Service::S3,
            what: format!("s3:{action} of {object}"),
            place: object.to_string(),
            within: TIMEOUT,
            most_bytes: MAX_OBJECT_BYTES,
            attempts: 1,
        };
        self.caller.call(call, request, made_of).await
    }
}

/// `region`: where the bucket is, if S3 reports it. `is_given`: the endpoint was configured; there is one store, with one
/// region.
fn way_out(
    Object { bucket, key }: &Object,
    partition: &str,
    error: &ApiError,
    region: Option<&str>,
    is_given: bool,
) -> String {
    match (error.code.as_str(), region) {
        // Without ListBucket S3 answers AccessDenied for an object that does not exist.
        ("AccessDenied", _) => format!(
            "; the role's policy must allow s3:GetObject and s3:PutObject on arn:{partition}:s3:::{bucket}/{key} and \
             s3:ListBucket on arn:{partition}:s3:::{bucket}"
        ),
        ("NoSuchBucket", _) => format!("; create the bucket {bucket} in this region"),
        ("PermanentRedirect" | "AuthorizationHeaderMalformed", Some(region)) if is_given => {
            format!("; the store is in {region}: set AWS_REGION={region}")
        }
        ("PermanentRedirect" | "AuthorizationHeaderMalformed", Some(region)) => {
            format!("; the bucket {bucket} is in {region}: name one in this region")
        }
        _ => String::new(),
    }
}

/// An ETag without its quotes. All stores that support `If-Match` accept it so; radosgw 16 and 18 compare it with the quotes
/// included, and refuse the ETag that they returned (measured on 16.2.15 and 18.2.7).
fn bare(tag: &str) -> &str {
    tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag)
}

/// How objects are addressed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// `https://bucket.s3.region.amazonaws.com/key`: the part after the bucket.
    Public(String),
    /// `endpoint/bucket/key`, for a configured endpoint.
    Given(String),
    /// There is none of the kind that was asked for.
    Refused(Refusal),
}

impl Endpoint {
    /// S3's public endpoint for a region (AWS General Reference, "Amazon S3 endpoints and quotas").
    pub fn public(region: &Region, variants: Variants) -> Self {
        region.host(Service::S3, variants).map_or_else(Self::Refused, Self::Public)
    }

    /// Its URL without a bucket.
    ///
    /// # Errors
    /// There is none of the kind that was asked for.
    pub fn base(&self) -> Result<String, Refusal> {
        match self {
            Self::Public(host) => Ok(format!("https://{host}/")),
            Self::Given(url) => Ok(url.clone()),
            Self::Refused(refusal) => Err(refusal.clone()),
        }
    }

    fn url(&self, Object { bucket, key }: &Object) -> Result<String, Error> {
        let key: Vec<String> = key.split('/').map(|part| utf8_percent_encode(part, RESERVED).to_string()).collect();
        let key = key.join("/");
        match self {
            // The certificate's wildcard covers one label, so a bucket with dots goes into the path.
            Self::Public(host) if bucket.contains('.') => Ok(format!("https://{host}/{bucket}/{key}")),
            Self::Public(host) => Ok(format!("https://{bucket}.{host}/{key}")),
            Self::Given(endpoint) => Ok(format!("{}/{bucket}/{key}", endpoint.trim_end_matches('/'))),
            Self::Refused(refusal) => Err(refusal.clone().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_addressed_as_s3_wants_it() {
        let object = |bucket: &str| Object { bucket: bucket.to_owned(), key: "prod/a b/claim.json".to_owned() };
        let url = |endpoint: &Endpoint, bucket: &str| endpoint.url(&object(bucket)).unwrap();
        let public = Endpoint::public(&Region::named("eu-west-1"), Variants::default());
        assert_eq!(url(&public, "b"), "https://b.s3.eu-west-1.amazonaws.com/prod/a%20b/claim.json");
        assert_eq!(url(&public, "b.c"), "https://s3.eu-west-1.amazonaws.com/b.c/prod/a%20b/claim.json");
        let fips = Variants { fips: true, dualstack: true };
        let gov = Endpoint::public(&Region::named("us-gov-west-1"), fips);
        assert!(url(&gov, "b").starts_with("https://b.s3-fips.dualstack.us-gov-west-1.amazonaws.com/"));
        let china = Endpoint::public(&Region::named("cn-north-1"), fips).url(&object("b")).unwrap_err().to_string();
        assert!(china.starts_with("AWS_USE_FIPS_ENDPOINT=true: S3 has no FIPS endpoint in cn-north-1"), "{china}");
        let given = Endpoint::Given("http://127.0.0.1:5000/".to_owned());
        assert_eq!(url(&given, "b"), "http://127.0.0.1:5000/b/prod/a%20b/claim.json");
    }

    #[test]
    fn a_version_is_the_etag_without_its_quotes() {
        assert_eq!(bare("\"9a0364b9e99bb480dd25e1f0284c8555\""), "9a0364b9e99bb480dd25e1f0284c8555");
        assert_eq!(bare("9a0364b9e99bb480dd25e1f0284c8555"), "9a0364b9e99bb480dd25e1f0284c8555");
        assert_eq!(bare("W/\"1\""), "W/\"1\"");
        assert_eq!(bare("\""), "\"");
    }

    #[test]
    fn a_refusal_says_what_helps_there() {
        let object = Object { bucket: "b".to_owned(), key: "prod/claim.json".to_owned() };
        let error = ApiError { code: "PermanentRedirect".to_owned(), message: "Elsewhere.".to_owned() };
        let told = |is_given| way_out(&object, "aws", &error, Some("us-east-1"), is_given);
        assert!(told(true).ends_with("; the store is in us-east-1: set AWS_REGION=us-east-1"), "{}", told(true));
        let denied = ApiError { code: "AccessDenied".to_owned(), message: String::new() };
        let china = way_out(&object, "aws-cn", &denied, None, false);
        assert!(
            china.ends_with("on arn:aws-cn:s3:::b/prod/claim.json and s3:ListBucket on arn:aws-cn:s3:::b"),
            "{china}"
        );
        assert!(told(false).ends_with("; the bucket b is in us-east-1: name one in this region"), "{}", told(false));
    }
}
