//! One call of an AWS service: signed with AWS's own clock, its answer read within bounds, retried where that may help, and
//! counted. The service itself defines the request and interprets the answer.

use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_credential_types::Credentials;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{DATE, HeaderMap};
use hyper::{Request, Response, StatusCode};

use super::body_reader::read_arriving;
use super::credentials::{self, Provider};
use super::partition::{Refusal, Region};
use super::refusal::{ApiError, RetryClass};
use super::sigv4::{Scope, Service, SigningFailure, sign_request};
use super::xml::{Malformed, Page, read_page};
use crate::net::http::{self, Client};
use crate::util::backoff::Backoff;
use crate::util::clock;
use crate::util::meter::{Api, ApiCounters};

/// The SDKs' standard mode: three attempts, random times the lesser of 2^i and 20 s.
pub(super) const ATTEMPTS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Credentials(#[from] credentials::Error),
    #[error("the request can't be signed: {0}")]
    Signing(#[source] SigningFailure),
    #[error(transparent)]
    Http(#[from] http::Error),
    /// AWS's own error.
    #[error("{what}: {} ({status}): {}{way_out}", error.code, error.message)]
    Api { what: String, status: StatusCode, error: ApiError, way_out: String },
    #[error("{place}: {cause}")]
    Malformed { place: String, cause: String },
    /// There is no endpoint to call.
    #[error(transparent)]
    Endpoint(#[from] Refusal),
    /// A file of ours that an answer is to be written to.
    #[error("{0}")]
    File(String),
}

impl From<hyper::http::Error> for Error {
    fn from(error: hyper::http::Error) -> Self {
        Self::Signing(error.into())
    }
}

impl Error {
    /// AWS's error code, if it gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Api { error, .. } => Some(&error.code),
            _ => None,
        }
    }

    /// AWS refuses us, or does not know us.
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::Api { error, .. } if error.is_denial())
    }

    /// No policy allows it.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Api { error, .. } if error.is_forbidden())
    }

    /// It may pass by itself: the network, throttling, or a failure on the other side.
    pub fn is_transient(&self) -> bool {
        self.class() == RetryClass::Transient
    }

    /// Worth one more attempt: it is signed with AWS's clock, learnt from the refusal, and with new credentials.
    pub fn is_stale(&self) -> bool {
        self.class() == RetryClass::Stale
    }

    fn class(&self) -> RetryClass {
        match self {
            Self::Http(http::Error { failure: http::Failure::File(_), .. }) => RetryClass::Final,
            Self::Http(_) | Self::Malformed { .. } => RetryClass::Transient,
            Self::Credentials(_) | Self::Signing(_) | Self::Endpoint(_) | Self::File(_) => RetryClass::Final,
            Self::Api { status, error, .. } => error.outlook(*status),
        }
    }
}

/// The request, its timeout and its attempts.
pub(super) struct Call {
    pub service: Service,
    /// The name for a refusal: `ec2:DescribeInstances`.
    pub what: String,
    /// The source of an answer that can't be read, safe to show.
    pub place: String,
    /// For the answer's head, and again for its body.
    pub within: Duration,
    pub most_bytes: usize,
    /// If it is one, no request is ever sent twice.
    pub attempts: u32,
}

impl Call {
    fn failed(&self, status: StatusCode, unread: Unread) -> Error {
        match unread {
            Unread::Refused { error, way_out } => Error::Api { what: self.what.clone(), status, error, way_out },
            Unread::Malformed(cause) => Error::Malformed { place: self.place.clone(), cause },
        }
    }
}

/// An answer with its body.
pub(super) struct Answer<B> {
    pub status: StatusCode,
    pub body: B,
    headers: HeaderMap,
}

impl<B> Answer<B> {
    pub fn map<C>(self, made_of: impl FnOnce(B) -> C) -> Answer<C> {
        Answer { status: self.status, body: made_of(self.body), headers: self.headers }
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
    }
}

/// Where a body is read into.
pub(super) trait Read: Sized {
    /// Reads all of it into memory.
    fn read(status: StatusCode, body: Limited<Incoming>) -> impl Future<Output = Result<Self, Unread>> + Send;
}

impl Read for Bytes {
    async fn read(status: StatusCode, body: Limited<Incoming>) -> Result<Self, Unread> {
        let broke_off = |cause| Unread::Malformed(format!("the answer ({status}) ended early: {cause}"));
        Ok(body.collect().await.map_err(broke_off)?.to_bytes())
    }
}

/// Read as it arrives: it is never in memory as a whole.
impl Read for Page {
    async fn read(status: StatusCode, body: Limited<Incoming>) -> Result<Self, Unread> {
        let page = read_arriving(body.map_err(io::Error::other), read_page).await;
        page.map_err(|cause| Unread::page(status, &cause))
    }
}

/// Why an answer is not the expected one.
#[derive(Debug)]
pub(super) enum Unread {
    /// AWS's own error, and what to append to it.
    Refused {
        error: ApiError,
        way_out: String,
    },
    Malformed(String),
}

impl Unread {
    /// Why a page can't be parsed.
    pub fn page(status: StatusCode, cause: &Malformed) -> Self {
        Self::Malformed(format!("answers {status}, {cause}"))
    }

    /// From the error in the answer; an answer without one is not AWS's.
    pub fn by(status: StatusCode, error: Option<ApiError>, way_out: impl FnOnce(&ApiError) -> String) -> Self {
        match error {
            Some(error) => Self::Refused { way_out: way_out(&error), error },
            None => Self::Malformed(format!("answers {status} without an error document")),
        }
    }
}

/// What reads an answer, and keeps what it makes of it.
type Reader<'a, B> = &'a (dyn Fn(Answer<B>) -> Result<(), Unread> + Sync);

/// What was made of an answer.
struct Made<T>(Mutex<Option<T>>);

impl<T> Default for Made<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Made<T> {
    fn keep(&self, made: Result<T, Unread>) -> Result<(), Unread> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(made?);
        Ok(())
    }

    /// After a call that succeeded there is one.
    fn taken(self) -> Result<T, Error> {
        let made = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        made.ok_or_else(|| Error::Malformed { place: "an answer".to_owned(), cause: "was not read".to_owned() })
    }
}

/// Makes calls with one set of credentials.
#[derive(Debug)]
pub struct SigningClient {
    http: Client,
    region: Region,
    /// `None`: calls are not signed.
    provider: Option<Provider>,
    /// AWS's clock minus ours, in seconds, learnt from its Date header.
    clock_offset: AtomicI64,
    meters: ApiCounters,
}

impl SigningClient {
    /// A caller in that region; counts its calls there.
    pub fn new(http: Client, region: Region, provider: Provider, meters: ApiCounters) -> Self {
        Self { http, region, provider: Some(provider), clock_offset: AtomicI64::new(0), meters }
    }

    /// A caller whose calls are not signed.
    pub(super) fn unsigned(http: Client, region: Region, meters: ApiCounters) -> Self {
        Self { http, region, provider: None, clock_offset: AtomicI64::new(0), meters }
    }

    /// Calls made so far, retries included.
    pub fn calls(&self) -> u64 {
        Api::ALL.into_iter().filter(|api| *api != Api::Imds).map(|api| self.meters.calls(api)).sum()
    }

    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    /// AWS's clock, in seconds since the epoch.
    pub(super) fn now(&self) -> i64 {
        clock::epoch() + self.clock_offset.load(Ordering::Relaxed)
    }

    /// Makes the call, and returns what `made_of` makes of the answer.
    ///
    /// # Errors
    /// All attempts failed: the last attempt's error.
    pub(super) async fn call<B: Read, T: Send>(
        &self,
        call: Call,
        request: hyper::http::Result<Request<Bytes>>,
        made_of: impl Fn(Answer<B>) -> Result<T, Unread> + Sync,
    ) -> Result<T, Error> {
        let made = Made::default();
        self.attempts(&call, request?, &|answer| made.keep(made_of(answer))).await?;
        made.taken()
    }

    /// (Not generic in what is made of an answer: each kind of call would be another copy of all this.)
    async fn attempts<B: Read>(
        &self,
        call: &Call,
        request: Request<Bytes>,
        reader: Reader<'_, B>,
    ) -> Result<(), Error> {
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let (mut made, mut renewed) = (1, false);
        loop {
            let error = match self.attempt(call, request.clone(), reader).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match self.take_note(call, &error) {
                RetryClass::Stale if !renewed && call.attempts > 1 => renewed = true,
                RetryClass::Transient if made < call.attempts => {
                    log::debug!("{error}; retrying");
                    clock::pause(pauses.by_chance()).await;
                }
                _ => return Err(error),
            }
            made += 1;
        }
    }

    /// Counts a failure, and forgets credentials that were refused.
    fn take_note(&self, call: &Call, error: &Error) -> RetryClass {
        let class = error.class();
        if class != RetryClass::Answered {
            self.meters.failed(call.service.api());
        }
        if matches!(class, RetryClass::Denied | RetryClass::Stale) {
            // An operator who fixes the role or its policy need not restart us: the next call requests new credentials.
            self.forget();
        }
        class
    }

    async fn attempt<B: Read>(&self, call: &Call, request: Request<Bytes>, reader: Reader<'_, B>) -> Result<(), Error> {
        let answer = self.send(call.service, request, call.within).await?;
        Self::read(call, answer, reader).await
    }

    /// Reads the body within the call's bounds.
    async fn read<B: Read>(call: &Call, answer: Response<Incoming>, reader: Reader<'_, B>) -> Result<(), Error> {
        let (head, body) = answer.into_parts();
        let (status, headers) = (head.status, head.headers);
        let read = B::read(status, Limited::new(body, call.most_bytes));
        let stalled = |_| Unread::Malformed(format!("the answer ({status}) stalled for {} s", call.within.as_secs()));
        let body = tokio::time::timeout(call.within, read).await.map_err(stalled).flatten();
        body.and_then(|body| reader(Answer { status, body, headers })).map_err(|unread| call.failed(status, unread))
    }

    /// Signs and sends; returns as soon as the head of the answer has arrived.
    async fn send(
        &self,
        service: Service,
        request: Request<Bytes>,
        within: Duration,
    ) -> Result<Response<Incoming>, Error> {
        let credentials = self.credentials().await?;
        let body = request.body().clone();
        let mut request = request.map(Full::new);
        if let Some(credentials) = credentials {
            sign_request(&mut request, &body, &credentials, &self.scope(service)).map_err(Error::Signing)?;
        }
        self.meters.called(service.api());
        let answer = self.http.open(request, within).await?;
        self.learn_from(&answer);
        Ok(answer)
    }

    fn scope(&self, service: Service) -> Scope<'_> {
        Scope { region: &self.region.name, service, clock_offset: self.clock_offset.load(Ordering::Relaxed) }
    }

    fn learn_from(&self, answer: &Response<Incoming>) {
        let date = answer.headers().get(DATE).and_then(|v| v.to_str().ok()).and_then(clock::parse_http_date);
        if let Some(date) = date {
            self.clock_offset.store(date - clock::epoch(), Ordering::Relaxed);
        }
        if answer.status() == StatusCode::FORBIDDEN {
            // The wording differs, as for a denial.
            self.forget();
        }
    }

    fn forget(&self) {
        self.provider.iter().for_each(Provider::forget);
    }

    async fn credentials(&self) -> Result<Option<Credentials>, credentials::Error> {
        match &self.provider {
            Some(provider) => provider.credentials().await.map(Some),
            None => Ok(None),
        }
    }
}

mod transfer;

pub use transfer::Arrived;
pub(super) use transfer::Upload;

#[cfg(test)]
mod tests;
