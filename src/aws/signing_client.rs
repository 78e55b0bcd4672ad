//! Signed requests to one region's services, by AWS's own clock.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper::header::DATE;

use super::credentials::{self, Provider};
use super::refusal::RetryClass;
use super::sigv4::{Scope, Service, sign_request};
use crate::net::http::{self, Client, Outgoing};
use crate::util::clock;
use crate::util::meter::{Api, ApiCounters};

/// The SDKs' standard mode: three attempts, random times the lesser of 2^i and 20 s.
const ATTEMPTS: u32 = 3;
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Why a call got no answer at all.
#[derive(Debug)]
pub enum Error {
    Credentials(credentials::Error),
    Signing(String),
    Http(http::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credentials(error) => write!(f, "{error}"),
            Self::Signing(cause) => write!(f, "the request can't be signed: {cause}"),
            Self::Http(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Makes calls with one set of credentials.
#[derive(Debug)]
pub struct SigningClient {
    http: Client,
    region: String,
    provider: Provider,
    /// AWS's clock less ours, in seconds, learnt from its Date header.
    clock_offset: AtomicI64,
    meters: ApiCounters,
}

impl SigningClient {
    /// A caller in that region; its calls are counted there.
    pub fn new(http: Client, region: String, provider: Provider, meters: ApiCounters) -> Self {
        Self { http, region, provider, clock_offset: AtomicI64::new(0), meters }
    }

    /// Calls made so far, retries included.
    pub fn calls(&self) -> u64 {
        Api::ALL.into_iter().filter(|api| *api != Api::Imds).map(|api| self.meters.calls(api)).sum()
    }

    /// The region that is called.
    pub(super) fn region(&self) -> &str {
        &self.region
    }

    /// The attempts of one call.
    pub(super) fn attempts(&self, service: Service) -> Retries<'_> {
        Retries { caller: self, service, made: 0, renewed: false }
    }

    /// Counts an attempt that came to nothing.
    pub(super) fn failed(&self, service: Service) {
        self.meters.failed(service.api());
    }

    /// AWS's clock, in seconds since the epoch.
    pub(super) fn now(&self) -> i64 {
        clock::epoch() + self.clock_offset.load(Ordering::Relaxed)
    }

    /// Has the next call ask for credentials anew: AWS has refused those we hold.
    pub(super) fn forget_credentials(&self) {
        self.provider.forget();
    }

    /// Signs and sends; returns as soon as the head of the answer is there.
    pub(super) async fn call(
        &self,
        service: Service,
        mut request: Outgoing,
        body: &Bytes,
        within: Duration,
    ) -> Result<Response<Incoming>, Error> {
        let credentials = self.provider.credentials().await.map_err(Error::Credentials)?;
        let scope = Scope { region: &self.region, service, clock_offset: self.clock_offset.load(Ordering::Relaxed) };
        sign_request(&mut request, body, &credentials, &scope).map_err(Error::Signing)?;
        self.meters.called(service.api());
        let answer = self.http.open(request, within).await.map_err(Error::Http)?;
        let date = answer.headers().get(DATE).and_then(|v| v.to_str().ok()).and_then(clock::parse_http_date);
        if let Some(date) = date {
            self.clock_offset.store(date - clock::epoch(), Ordering::Relaxed);
        }
        Ok(answer)
    }
}

/// How often one call was tried.
pub(super) struct Retries<'a> {
    caller: &'a SigningClient,
    service: Service,
    made: u32,
    renewed: bool,
}

impl Retries<'_> {
    /// Returns when it is time for another attempt.
    ///
    /// # Errors
    /// The error of the last one, if it was the last.
    pub(super) async fn after<E: fmt::Display>(&mut self, error: E, outlook: RetryClass) -> Result<(), E> {
        self.made += 1;
        if outlook != RetryClass::Answered {
            self.caller.failed(self.service);
        }
        if matches!(outlook, RetryClass::Denied | RetryClass::Stale) {
            // Whoever mends the role or its policy need not restart us: the next call asks for credentials anew.
            self.caller.forget_credentials();
        }
        if outlook == RetryClass::Stale && !self.renewed {
            self.renewed = true;
            return Ok(());
        }
        if outlook != RetryClass::Transient || self.made >= ATTEMPTS {
            return Err(error);
        }
        let most = Duration::from_secs(1 << self.made.min(4)).min(LONGEST_PAUSE);
        log::debug!("{error}; trying again");
        clock::pause(most.mul_f64(clock::chance())).await;
        Ok(())
    }
}
