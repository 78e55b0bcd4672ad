//! EC2's Query API: DescribeInstances and DescribeInstanceStatus, version 2016-11-15.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};

use super::body_reader::read_arriving;
use super::refusal::{ApiError, RetryClass};
use super::signing_client::{self, SigningClient};
use super::sigv4::Service;
pub use super::xml::Described;
use super::xml::{Page, read_page};
use super::{FORM, form};
use crate::core::types::InstanceId;
use crate::util::words;

const API_VERSION: &str = "2016-11-15";
/// The API's greatest: one call per look for up to a thousand instances.
const MAX_RESULTS: &str = "1000";
/// A page of a thousand instances is some 5 MB.
const PAGE_TIMEOUT: Duration = Duration::from_secs(20);
/// One element without an end would be kept whole, for as long as it comes.
const MAX_PAGE_BYTES: usize = 32 << 20;
/// An answer, not a failure: EC2 knows no instance of that id.
const NOT_FOUND: &str = "InvalidInstanceID.NotFound";
/// No account holds so many pages of a thousand; an endless list of tokens must end somewhere.
const MAX_PAGES: usize = 1000;

/// Why EC2 gave no complete answer.
#[derive(Debug)]
pub enum Error {
    Unanswered(signing_client::Error),
    /// EC2's own word, and the action it was for.
    Api {
        action: &'static str,
        status: StatusCode,
        error: ApiError,
    },
    Malformed {
        endpoint: String,
        cause: String,
    },
    /// A page names a token that was followed before.
    RepeatedToken(String),
    /// Asked about this instance, EC2 neither shows it nor says that there is none.
    Silence(InstanceId),
}

impl Error {
    /// EC2's error code, where it gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Api { error, .. } => Some(&error.code),
            _ => None,
        }
    }

    /// AWS knows us and says no, or doesn't know us.
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::Api { error, .. } if error.is_denial())
    }

    fn outlook(&self) -> RetryClass {
        match self {
            Self::Unanswered(signing_client::Error::Http(_)) | Self::Malformed { .. } => RetryClass::Transient,
            Self::Api { error, .. } if error.code == NOT_FOUND => RetryClass::Answered,
            Self::Api { status, error, .. } => error.outlook(*status),
            Self::Unanswered(_) | Self::RepeatedToken(_) | Self::Silence(_) => RetryClass::Final,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered(error) => write!(f, "{error}"),
            Self::Api { action, status, error } => {
                write!(f, "ec2:{action}: {} ({status}): {}{}", error.code, error.message, error.hint())?;
                match error.is_forbidden() {
                    true => write!(
                        f,
                        "; the role's policy must allow it: {{\"Effect\":\"Allow\",\"Action\":\"ec2:{action}\",\
                         \"Resource\":\"*\"}}"
                    ),
                    false => Ok(()),
                }
            }
            Self::Malformed { endpoint, cause } => write!(f, "{}: {cause}", words::without_secrets(endpoint)),
            Self::Silence(id) => write!(f, "EC2 says nothing about {id}, not even {NOT_FOUND}"),
            Self::RepeatedToken(token) => write!(f, "EC2 repeats the page token {token:?}; the listing has no end"),
        }
    }
}

impl std::error::Error for Error {}

/// A client of one region's EC2.
#[derive(Debug)]
pub struct Ec2 {
    caller: Arc<SigningClient>,
    endpoint: String,
}

impl Ec2 {
    /// A client of that endpoint.
    pub fn new(caller: Arc<SigningClient>, endpoint: String) -> Self {
        Self { caller, endpoint }
    }

    /// All instances, in any state, that carry all these tags, page by page; EC2's clock at the end.
    ///
    /// # Errors
    /// [`Error`]; a listing that stopped half-way is an error, never a short one.
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

    /// One instance by its id; `None`: EC2 says InvalidInstanceID.NotFound.
    ///
    /// # Errors
    /// [`Error`]; an answer that shows nothing under that id is one, for EC2 has a code for what is gone.
    pub async fn describe_instance(&self, id: &InstanceId) -> Result<Option<Described>, Error> {
        let query = [("InstanceId.1".to_owned(), id.0.clone())];
        match self.call("DescribeInstances", &query).await {
            Ok(page) => {
                let found = page.instances.into_iter().find(|d| d.instance.id == *id);
                found.map(Some).ok_or_else(|| Error::Silence(id.clone()))
            }
            Err(error) if error.code() == Some(NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether EC2's own checks call the instance impaired.
    ///
    /// # Errors
    /// [`Error`]; without the right to ask it is an `UnauthorizedOperation`.
    pub async fn is_impaired(&self, id: &InstanceId) -> Result<bool, Error> {
        let query = [("InstanceId.1".to_owned(), id.0.clone())];
        Ok(self.call("DescribeInstanceStatus", &query).await?.impaired.contains(id))
    }

    async fn call(&self, action: &'static str, query: &[(String, String)]) -> Result<Page, Error> {
        let mut attempts = self.caller.attempts(Service::Ec2);
        loop {
            match self.attempt(action, query).await {
                Ok(page) => return Ok(page),
                Err(error) => {
                    let outlook = error.outlook();
                    attempts.after(error, outlook).await?;
                }
            }
        }
    }

    async fn attempt(&self, action: &'static str, query: &[(String, String)]) -> Result<Page, Error> {
        let body = Bytes::from(form(action, API_VERSION, query));
        let request = Request::post(&self.endpoint)
            .header(CONTENT_TYPE, FORM)
            .body(Full::new(body.clone()))
            .map_err(|e| Error::Unanswered(signing_client::Error::Signing(e.to_string())))?;
        let answer = self.caller.call(Service::Ec2, request, &body, PAGE_TIMEOUT).await.map_err(Error::Unanswered)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_PAGE_BYTES).map_err(std::io::Error::other);
        let page = tokio::time::timeout(PAGE_TIMEOUT, read_arriving(body, read_page)).await;
        let malformed = |cause: String| Error::Malformed { endpoint: self.endpoint.clone(), cause };
        match page {
            Err(_) => Err(malformed(format!("the answer stalled for {} s", PAGE_TIMEOUT.as_secs()))),
            Ok(Err(cause)) => Err(malformed(format!("answers {status}, {cause}"))),
            Ok(Ok(Page { error: Some(error), .. })) => Err(Error::Api { action, status, error }),
            Ok(Ok(page)) if status == StatusCode::OK => Ok(page),
            Ok(Ok(_)) => Err(malformed(format!("answers {status} without an error document"))),
        }
    }
}

/// A filter's value is a pattern to EC2: `*`, `?` and `\` stand for themselves only when escaped.
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
