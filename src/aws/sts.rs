//! Security Token Service's Query API, version 2011-06-15: a role's session, for other credentials or for a web identity's token.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};

use super::credentials::Provider;
use super::partition::Region;
use super::profile::Role;
use super::refusal::ApiError;
use super::signing_client::{ATTEMPTS, Answer, Call, Error, SigningClient, Unread};
use super::sigv4::Service;
use super::xml::{Page, Session};
use super::{FORM, form};
use crate::net::http::Client;
use crate::util::meter::ApiCounters;
use crate::util::words;

const API_VERSION: &str = "2011-06-15";
/// How CloudTrail shows the session where nothing names it.
const SESSION_NAME: &str = "etcd-muster";
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// A client of one region's STS.
#[derive(Clone, Debug)]
pub struct Sts {
    http: Client,
    endpoint: String,
    region: Region,
    meters: ApiCounters,
}

impl Sts {
    pub fn new(http: Client, endpoint: String, region: Region, meters: ApiCounters) -> Self {
        Self { http, endpoint, region, meters }
    }

    /// For tests: at that URL.
    #[cfg(test)]
    pub fn at(http: &Client, url: &str) -> Self {
        Self::new(http.clone(), url.to_owned(), Region::named("eu-west-1"), ApiCounters::default())
    }

    /// A role's session, by credentials that may assume it.
    ///
    /// # Errors
    /// There are no such credentials, or STS does not answer, or refuses.
    pub(super) async fn assume_role(&self, base: Provider, role: &Role) -> Result<Session, Error> {
        let external_id = role.external_id.as_deref().map(|id| ("ExternalId", id));
        let client = SigningClient::new(self.http.clone(), self.region.clone(), base, self.meters.clone());
        let trust = "and the policy of who assumes it";
        self.call(&client, "AssumeRole", role, external_id, |error| way_out("AssumeRole", trust, role, error)).await
    }

    /// A role's session, by a web identity's token. Such a call is not signed.
    ///
    /// # Errors
    /// STS does not answer, or refuses.
    pub(super) async fn assume_role_with_web_identity(
        &self,
        token: &str,
        token_file: &str,
        role: &Role,
    ) -> Result<Session, Error> {
        let client = SigningClient::unsigned(self.http.clone(), self.region.clone(), self.meters.clone());
        let action = "AssumeRoleWithWebIdentity";
        let hint = |error: &ApiError| match error.code.as_str() {
            "ExpiredTokenException" => format!("; the token in {token_file} has expired, and nothing has renewed it"),
            "InvalidIdentityToken" | "IDPRejectedClaim" => {
                format!("; the token in {token_file} is none of an identity provider that the role trusts")
            }
            _ => way_out(action, "for the identity provider, the audience and the subject of the token", role, error),
        };
        self.call(&client, action, role, Some(("WebIdentityToken", token)), hint).await
    }

    async fn call(
        &self,
        client: &SigningClient,
        action: &str,
        role: &Role,
        more: Option<(&str, &str)>,
        way_out: impl Fn(&ApiError) -> String + Sync,
    ) -> Result<Session, Error> {
        let session = role.session.as_deref().unwrap_or(SESSION_NAME);
        let pairs = [("RoleArn", role.arn.as_str()), ("RoleSessionName", session)];
        let query: Vec<_> =
            pairs.into_iter().chain(more).map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let body = Bytes::from(form(action, API_VERSION, &query));
        let request = Request::post(&self.endpoint).header(CONTENT_TYPE, FORM).body(body);
        let call = Call {
            service: Service::Sts,
            what: format!("sts:{action} of {}", role.arn),
            place: words::without_secrets(&self.endpoint).into_owned(),
            within: TIMEOUT,
            most_bytes: MAX_ANSWER_BYTES,
            attempts: ATTEMPTS,
        };
        let session = |Answer { status, body: page, .. }: Answer<Page>| match page {
            Page { error: None, session: Some(session), .. } if status == StatusCode::OK => Ok(session),
            Page { error, .. } => Err(Unread::by(status, error, &way_out)),
        };
        client.call(call, request, session).await
    }
}

fn way_out(action: &str, trust: &str, role: &Role, error: &ApiError) -> String {
    let hint = error.hint();
    match error.is_forbidden() {
        true => format!("{hint}; the trust policy of {} must allow sts:{action}, {trust}", role.arn),
        false => hint.to_owned(),
    }
}
