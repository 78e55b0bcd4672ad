//! EC2's Query API: DescribeInstances and DescribeInstanceStatus, version 2016-11-15.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};

use super::refusal::{ApiError, NO_INSTANCE};
use super::signing_client::{self, ATTEMPTS, Answer, Call, SigningClient, Unread};
use super::sigv4::Service;
pub use super::xml::Described;
use super::xml::Page;
use super::{FORM, form};
use crate::core::types::InstanceId;
use crate::util::words;

const API_VERSION: &str = "2016-11-15";
/// The API's maximum: one call per observation for up to a thousand instances.
const MAX_RESULTS: &str = "1000";
/// A page of a thousand instances is some 5 MB.
const PAGE_TIMEOUT: Duration = Duration::from_secs(20);
/// An element without an end would be buffered for as long as it arrives.
const MAX_PAGE_BYTES: usize = 32 << 20;
/// No account has so many pages of a thousand; an endless list of tokens must end somewhere.
const MAX_PAGES: usize = 1000;

/// Why EC2 gave no complete answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Call(#[from] signing_client::Error),
    /// A page names a token that was already followed.
    #[error("EC2 repeats the page token {0:?}, so the listing would never end")]
    RepeatedToken(String),
    /// Queried for this instance, EC2 neither shows it nor reports that it does not exist.
    #[error("EC2's answer does not mention {0}, not even with {NO_INSTANCE}")]
    Silence(InstanceId),
}

impl Error {
    /// AWS refuses us, or does not know us.
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::Call(error) if error.is_denial())
    }
}

/// A client of one region's EC2.
#[derive(Debug)]
pub struct Ec2 {
    caller: Arc<SigningClient>,
    endpoint: String,
}

impl Ec2 {
    pub fn new(caller: Arc<SigningClient>, endpoint: String) -> Self {
        Self { caller, endpoint }
    }

    /// All instances, in any state, that carry all these tags, page by page; EC2's clock at the end.
    ///
    /// # Errors
    /// EC2 gave no complete answer: a listing that stops half-way is an error, never a short list.
    pub async fn describe_tagged(
        &self,
        tags: &[(String, String)],
        mut each: impl FnMut(Described),
    ) -> Result<i64, Error> {
        let mut filters = Vec::new();
        for (i, (key, value)) in tags.iter().enumerate() {
            let n = i + 1;
            filters.push((format!("Filter.{n}.Name"), format!("tag:{key}")));
            filters.push((format!("Filter.{n}.Value.1"), literal(value)));
        }
        let mut tokens = BTreeSet::new();
        let mut token = None::<String>;
        for _ in 0..MAX_PAGES {
            let mut query = filters.clone();
            query.push(("MaxResults".to_owned(), MAX_RESULTS.to_owned()));
            query.extend(token.map(|token| ("NextToken".to_owned(), token)));
            let page = self.call("DescribeInstances", &query).await?;
            page.instances.into_iter().for_each(&mut each);
            match page.next_token {
                None => return Ok(self.caller.now()),
                Some(next) if !tokens.insert(next.clone()) => return Err(Error::RepeatedToken(next)),
                next => token = next,
            }
        }
        Err(Error::RepeatedToken(token.unwrap_or_default()))
    }

    /// One instance by its id; `None`: EC2 answers InvalidInstanceID.NotFound.
    ///
    /// # Errors
    /// EC2 does not answer, or its answer does not show that id: for what is gone EC2 has an error code.
    pub async fn describe_instance(&self, id: &InstanceId) -> Result<Option<Described>, Error> {
        let query = [("InstanceId.1".to_owned(), id.0.clone())];
        match self.call("DescribeInstances", &query).await {
            Ok(page) => {
                let found = page.instances.into_iter().find(|d| d.instance.id == *id);
                found.map(Some).ok_or_else(|| Error::Silence(id.clone()))
            }
            Err(error) if error.code() == Some(NO_INSTANCE) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether EC2's own checks report the instance as impaired.
    ///
    /// # Errors
    /// EC2 does not answer, or refuses: without the right it is an `UnauthorizedOperation`.
    pub async fn is_impaired(&self, id: &InstanceId) -> Result<bool, Error> {
        let query = [("InstanceId.1".to_owned(), id.0.clone())];
        Ok(self.call("DescribeInstanceStatus", &query).await?.impaired.contains(id))
    }

    async fn call(&self, action: &'static str, query: &[(String, String)]) -> Result<Page, signing_client::Error> {
        let body = Bytes::from(form(action, API_VERSION, query));
        let request = Request::post(&self.endpoint).header(CONTENT_TYPE, FORM).body(body);
        let call = Call {
            service: Service::Ec2,
            what: format!("ec2:{action}"),
            place: words::without_secrets(&self.endpoint).into_owned(),
            within: PAGE_TIMEOUT,
            most_bytes: MAX_PAGE_BYTES,
            attempts: ATTEMPTS,
        };
        let page = |Answer { status, body, .. }: Answer<Page>| match body {
            Page { error: None, .. } if status == StatusCode::OK => Ok(body),
            Page { error, .. } => Err(Unread::by(status, error, |error| way_out(action, error))),
        };
        self.caller.call(call, request, page).await
    }
}

fn way_out(action: &str, error: &ApiError) -> String {
    let hint = error.hint();
    match error.is_forbidden() {
        true => format!(
            "{hint}; the role's policy must allow it: {{\"Effect\":\"Allow\",\"Action\":\"ec2:{action}\",\"Resource\":\"*\"}}"
        ),
        false => hint.to_owned(),
    }
}

/// EC2 treats a filter's value as a pattern: `*`, `?` and `\` are literal only when escaped.
fn literal(value: &str) -> String {
    value.chars().flat_map(|c| ['*', '?', '\\'].contains(&c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_value_is_taken_literally() {
        assert_eq!(literal(r"a*b?c\d"), r"a\*b\?c\\d");
    }
}
