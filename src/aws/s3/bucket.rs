//! A bucket with large objects: sent from files and received into files.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::Limited;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use hyper::http::request::Builder;
use hyper::{Method, Request, StatusCode};

use super::document::read_document;
use super::{Condition, Endpoint, Object, Put, S3, bare};
use crate::aws::refusal::ApiError;
use crate::aws::signing_client::{ATTEMPTS, Answer, Arrived, Call, Error, Read, SigningClient, Unread, Upload};
use crate::aws::sigv4::Service;
use crate::util::backoff::Backoff;
use crate::util::file_stream::{Part, Progress, STALL, digests, md5_of};
use crate::util::words::hex;

/// For the head of an answer: a store that is busy may take its time, and nobody waits for a snapshot.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A document of S3's, or a manifest.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Where the SHA-256 of an object is kept beside it: with AWS, radosgw and others; some drop it.
const SHA256: &str = "x-amz-meta-sha256";
const CONTENT_MD5: &str = "content-md5";

/// How objects are encrypted by the store (S3 User Guide, "Protecting data with server-side encryption").
#[derive(Clone, Default, Debug)]
pub enum Encryption {
    /// As the bucket has it by default.
    #[default]
    Default,
    /// SSE-S3.
    Aes256,
    /// SSE-KMS, with that key; without: AWS's own for S3.
    Kms { key_id: Option<String> },
    /// SSE-C.
    Customer(CustomerKey),
}

/// The key of SSE-C, which the store gets with every call and does not keep. Never shown.
#[derive(Clone)]
pub struct CustomerKey {
    key: HeaderValue,
    md5: HeaderValue,
}

impl CustomerKey {
    /// A key of 256 bits.
    ///
    /// # Errors
    /// Never, as base64 is a header's value.
    pub fn new(key: &[u8; 32]) -> Result<Self, Error> {
        let header = |bytes: &[u8]| HeaderValue::try_from(BASE64.encode(bytes)).map_err(hyper::http::Error::from);
        let (mut key, md5) = (header(key)?, header(&md5_of(key))?);
        key.set_sensitive(true);
        Ok(Self { key, md5 })
    }
}

impl fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomerKey")
    }
}

/// From which size on an object is sent in parts, and how large they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartSizes {
    pub from: u64,
    /// Larger if the file would have more than 10,000.
    pub part: u64,
}

impl Default for PartSizes {
    /// S3's own bound for one PUT is 5 GiB (S3 User Guide, "Amazon S3 multipart upload limits").
    fn default() -> Self {
        Self { from: 5 << 30, part: 256 << 20 }
    }
}

/// How a bucket is used.
#[derive(Clone, Default, Debug)]
pub struct Options {
    pub encryption: Encryption,
    /// Content-MD5 with every write. Also used from the first time that the store asks for it, as AWS does where Object Lock is on.
    pub content_md5: bool,
    pub part_sizes: PartSizes,
    pub patience: Patience,
}

/// How long is waited for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// There may be no progress for so long.
    pub stall: Duration,
    /// How often a body is sent that fails for a reason that may pass.
    pub attempts: u32,
    /// The pauses between double, from the first to the longest.
    pub first_pause: Duration,
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { stall: STALL, attempts: 5, first_pause: seconds(1), longest_pause: seconds(30) }
    }
}

impl Patience {
    /// The pauses between attempts.
    pub fn pauses(&self) -> Backoff {
        Backoff::new(self.first_pause, self.longest_pause)
    }
}

/// A file to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub path: &'a Path,
    pub size: u64,
    pub sha256: &'a [u8; 32],
}

impl<'a> Source<'a> {
    pub(super) fn part(&self, from: u64, length: u64) -> Part<'a> {
        Part { path: self.path, from, length }
    }
}

/// An object as HEAD shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    pub size: u64,
    /// The ETag without quotes.
    pub version: String,
    /// As it was stored with the object; `None`: the store does not keep it.
    pub sha256: Option<String>,
    /// The store's clock.
    pub date: Option<String>,
}

/// The result of a DELETE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deleted {
    /// It is not there any more, or never was.
    Done,
    /// No policy allows it, or the object is locked: in the store's words.
    NotAllowed(String),
}

/// The body of a refusal; that of an object is left where it is.
struct Reason(Bytes);

impl Read for Reason {
    async fn read(status: StatusCode, body: Limited<Incoming>) -> Result<Self, Unread> {
        match status {
            StatusCode::OK => Ok(Self(Bytes::new())),
            _ => Bytes::read(status, body).await.map(Self),
        }
    }
}

/// One bucket, and how it is used.
#[derive(Debug)]
pub struct Bucket {
    s3: S3,
    name: String,
    options: Options,
    wants_md5: AtomicBool,
}

impl Bucket {
    pub fn new(s3: S3, name: String, options: Options) -> Self {
        let wants_md5 = AtomicBool::new(options.content_md5);
        Self { s3, name, options, wants_md5 }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// ` at http://…`, if it is not AWS's.
    pub fn at(&self) -> String {
        self.s3.given().map_or(String::new(), |url| format!(" at {url}"))
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn caller(&self) -> &SigningClient {
        &self.s3.caller
    }

    pub(super) fn object(&self, key: &str) -> Object {
        Object { bucket: self.name.clone(), key: key.to_owned() }
    }

    pub(super) fn url(&self, key: &str) -> Result<String, Error> {
        self.s3.endpoint.url(&self.object(key))
    }

    /// How long is waited for what.
    pub fn patience(&self) -> &Patience {
        &self.options.patience
    }

    pub(super) fn call(&self, action: &str, object: &Object, attempts: u32) -> Call {
        Call {
            service: Service::S3,
            what: format!("s3:{action} of {object}{}", self.at()),
            place: format!("{object}{}", self.at()),
            within: TIMEOUT,
            most_bytes: MAX_ANSWER_BYTES,
            attempts,
        }
    }

    /// What is there now; `None`: the store says that nothing is.
    ///
    /// # Errors
    /// The store does not answer, or refuses. Without the right to list, S3 refuses to say that an object does not exist.
    pub async fn head(&self, key: &str) -> Result<Option<Head>, Error> {
        let object = self.object(key);
        let url = self.url(key)?;
        let request = |method| self.keyed(Request::builder().method(method).uri(url.as_str())).body(Bytes::new());
        let call = self.call("HeadObject", &object, ATTEMPTS);
        let head = self.caller().call(call, request(Method::HEAD), |answer: Answer<Bytes>| match answer.status {
            StatusCode::OK => read_head(&answer).map(Some).map_err(Unread::Malformed),
            // It has no body, and so no reason; the same as GET has one.
            status if !status.is_server_error() => Ok(None),
            status => Err(Unread::by(status, None, |_| String::new())),
        });
        if let Some(head) = head.await? {
            return Ok(Some(head));
        }
        let call = self.call("GetObject", &object, ATTEMPTS);
        let made_of = |answer: Answer<Reason>| match answer.status {
            StatusCode::OK => read_head(&answer).map(Some).map_err(Unread::Malformed),
            _ => absent_or(self.refused("s3:GetObject", &answer.map(|reason| reason.0))),
        };
        self.caller().call(call, request(Method::GET), made_of).await
    }

    /// Sends a file as one object, once, in one request or in parts, by its size.
    ///
    /// # Errors
    /// The store does not answer, or refuses: it may have been stored, or may still be.
    pub async fn put_file(
        &self,
        key: &str,
        source: Source<'_>,
        condition: Option<Condition<'_>>,
        progress: Progress<'_>,
    ) -> Result<Put, Error> {
        if source.size >= self.options.part_sizes.from {
            return self.put_parts(key, source, condition, progress).await;
        }
        let part = source.part(0, source.size);
        let request = conditional(Request::put(self.url(key)?).header(SHA256, hex(source.sha256)), condition);
        let request = self.checked(self.encrypted(request), part).await?.body(());
        let call = self.call("PutObject", &self.object(key), 1);
        let upload = Upload { part, sha256: source.sha256, stall: self.patience().stall, progress };
        self.caller().upload(&call, request, upload, |answer| self.written("s3:PutObject", &answer)).await
    }

    /// Writes a small object, once.
    ///
    /// # Errors
    /// As [`Bucket::put_file`].
    pub async fn put_bytes(&self, key: &str, body: Bytes, condition: Option<Condition<'_>>) -> Result<Put, Error> {
        let mut request = Request::put(self.url(key)?).header(CONTENT_TYPE, "application/json");
        if self.wants_md5.load(Ordering::Relaxed) {
            request = request.header(CONTENT_MD5, BASE64.encode(md5_of(&body)));
        }
        let request = conditional(self.encrypted(request), condition).body(body);
        let call = self.call("PutObject", &self.object(key), 1);
        self.caller().call(call, request, |answer| self.written("s3:PutObject", &answer)).await
    }

    /// Reads a small object; `None`: the store says that there is none.
    ///
    /// # Errors
    /// The store does not answer, or refuses; the object is larger than 1 MiB.
    pub async fn get_bytes(&self, key: &str) -> Result<Option<(Bytes, Head)>, Error> {
        let request = self.keyed(Request::get(self.url(key)?)).body(Bytes::new());
        let call = self.call("GetObject", &self.object(key), ATTEMPTS);
        let made_of = |answer: Answer<Bytes>| match answer.status {
            StatusCode::OK => {
                let head = Head { size: answer.body.len() as u64, ..read_head(&answer).map_err(Unread::Malformed)? };
                Ok(Some((answer.body, head)))
            }
            _ => absent_or(self.refused("s3:GetObject", &answer)),
        };
        self.caller().call(call, request, made_of).await
    }

    /// Receives an object into a new file, once.
    ///
    /// # Errors
    /// The store does not answer, refuses, or breaks off; the file exists, or can't be written.
    pub async fn get_file(&self, key: &str, to: &Path, progress: Progress<'_>) -> Result<Arrived, Error> {
        let request = self.keyed(Request::get(self.url(key)?)).body(Bytes::new())?;
        let call = self.call("GetObject", &self.object(key), 1);
        let refused = |answer: Answer<Bytes>| match absent_or::<()>(self.refused("s3:GetObject", &answer)) {
            Ok(_) => Ok(Arrived::Absent),
            Err(unread) => Err(unread),
        };
        self.caller().download(&call, request, to, (self.patience().stall, progress), refused).await
    }

    /// Removes an object; of a versioned bucket its newest version gets a marker, and no version is removed.
    ///
    /// # Errors
    /// The store does not answer, or refuses for another reason than a policy or a lock.
    pub async fn delete(&self, key: &str) -> Result<Deleted, Error> {
        let request = Request::delete(self.url(key)?).body(Bytes::new());
        let call = self.call("DeleteObject", &self.object(key), ATTEMPTS);
        let outcome = self.caller().call(call, request, |answer: Answer<Bytes>| match answer.status {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            _ => absent_or::<()>(self.refused("s3:DeleteObject", &answer)).map(drop),
        });
        match outcome.await {
            Ok(()) => Ok(Deleted::Done),
            Err(error) if error.is_forbidden() || error.code() == Some("MethodNotAllowed") => {
                Ok(Deleted::NotAllowed(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// From now on Content-MD5 is sent, if this refusal asks for it ("Content-MD5 OR x-amz-checksum- HTTP header is required for Put
    /// Object requests with Object Lock parameters"); whether that is new.
    pub fn heeds(&self, error: &Error) -> bool {
        let Error::Api { error, .. } = error else { return false };
        let asks = error.code == "MissingContentMD5" || error.message.to_ascii_lowercase().contains(CONTENT_MD5);
        asks && error.code != "BadDigest" && !self.wants_md5.swap(true, Ordering::Relaxed)
    }

    /// The result of a write, from its answer.
    pub(super) fn written(&self, action: &str, answer: &Answer<Bytes>) -> Result<Put, Unread> {
        match answer.status {
            StatusCode::OK => Ok(Put::Written),
            StatusCode::PRECONDITION_FAILED => Ok(Put::Refused),
            StatusCode::CONFLICT => Ok(Put::Raced),
            _ => Err(self.refused(action, answer)),
        }
    }

    /// What a refusal with a document says.
    pub(super) fn refused(&self, action: &str, answer: &Answer<Bytes>) -> Unread {
        let region = answer.header("x-amz-bucket-region");
        match read_document(&mut answer.body.as_ref(), "Error", &mut |_, _| {}) {
            Ok(error) => self.refusal(action, answer.status, error, region.as_deref()),
            Err(cause) => Unread::page(answer.status, &cause),
        }
    }

    pub(super) fn refusal(
        &self,
        action: &str,
        status: StatusCode,
        error: Option<ApiError>,
        region: Option<&str>,
    ) -> Unread {
        Unread::by(status, error, |error| self.way_out(action, error, region))
    }

    fn way_out(&self, action: &str, error: &ApiError, region: Option<&str>) -> String {
        let (name, hint) = (&self.name, error.hint());
        let arn = format!("arn:{}:s3:::{name}", self.caller().region().partition);
        let is_given = matches!(self.s3.endpoint, Endpoint::Given(_));
        match (error.code.as_str(), region) {
            _ if !hint.is_empty() => hint.to_owned(),
            ("AccessDenied", _) if error.message.to_ascii_lowercase().contains("kms") => {
                "; the role's policy and the key's must allow kms:GenerateDataKey and kms:Decrypt on the bucket's key"
                    .to_owned()
            }
            ("AccessDenied", _) if action == "s3:ListBucket" => {
                format!("; the role's policy must allow {action} on {arn}")
            }
            // Without ListBucket S3 answers AccessDenied for an object that does not exist.
            ("AccessDenied", _) if action == "s3:GetObject" => {
                format!("; the role's policy must allow {action} on {arn}/* and s3:ListBucket on {arn}")
            }
            ("AccessDenied", _) => format!("; the role's policy must allow {action} on {arn}/*"),
            ("InvalidAccessKeyId" | "NotSignedUp", _) => {
                "; check the access key, or use the instance's role".to_owned()
            }
            ("NoSuchBucket", _) => format!("; create the bucket {name} in this region"),
            ("SlowDown" | "ServiceUnavailable" | "RequestLimitExceeded", _) => "; retrying later".to_owned(),
            (
                "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException",
                Some(region),
            ) if is_given => {
                format!("; the store is in {region}: set AWS_REGION={region}")
            }
            (
                "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException",
                Some(region),
            ) => {
                format!("; the bucket {name} is in {region}: name one in this region")
            }
            ("PermanentRedirect" | "AuthorizationHeaderMalformed", None) => {
                format!("; the bucket {name} is in another region than {}", self.caller().region().name)
            }
            _ => String::new(),
        }
    }

    // Headers.

    /// For whatever creates an object.
    pub(super) fn encrypted(&self, request: Builder) -> Builder {
        const WITH: &str = "x-amz-server-side-encryption";
        match &self.options.encryption {
            Encryption::Default => request,
            Encryption::Aes256 => request.header(WITH, "AES256"),
            Encryption::Kms { key_id: None } => request.header(WITH, "aws:kms"),
            Encryption::Kms { key_id: Some(id) } => {
                request.header(WITH, "aws:kms").header("x-amz-server-side-encryption-aws-kms-key-id", id)
            }
            Encryption::Customer(_) => self.keyed(request),
        }
    }

    /// For whatever reads an object, or adds a part to one.
    pub(super) fn keyed(&self, request: Builder) -> Builder {
        match &self.options.encryption {
            Encryption::Customer(CustomerKey { key, md5 }) => request
                .header("x-amz-server-side-encryption-customer-algorithm", "AES256")
                .header("x-amz-server-side-encryption-customer-key", key)
                .header("x-amz-server-side-encryption-customer-key-md5", md5),
            _ => request,
        }
    }

    /// With the MD5 of what is sent, if that is wanted: the file is read once more for it.
    pub(super) async fn checked(&self, request: Builder, part: Part<'_>) -> Result<Builder, Error> {
        if !self.wants_md5.load(Ordering::Relaxed) {
            return Ok(request);
        }
        let digests = digests(part).await.map_err(|cause| Error::File(format!("{}: {cause}", part.path.display())))?;
        Ok(request.header(CONTENT_MD5, BASE64.encode(digests.md5)))
    }
}

pub(super) fn conditional(request: Builder, condition: Option<Condition<'_>>) -> Builder {
    match condition {
        None => request,
        Some(Condition::Absent) => request.header(IF_NONE_MATCH, "*"),
        Some(Condition::Unchanged(version)) => request.header(IF_MATCH, version),
    }
}

fn absent_or<T>(unread: Unread) -> Result<Option<T>, Unread> {
    match unread {
        Unread::Refused { error, .. } if error.code == "NoSuchKey" => Ok(None),
        other => Err(other),
    }
}

fn read_head<B>(answer: &Answer<B>) -> Result<Head, String> {
    let size = answer.header(CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok());
    Ok(Head {
        size: size.ok_or("the store returns it without a length")?,
        version: answer.header(ETAG.as_str()).map(|tag| bare(&tag).to_owned()).unwrap_or_default(),
        sha256: answer.header(SHA256),
        date: answer.header(DATE.as_str()),
    })
}
