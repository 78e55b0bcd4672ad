//! EC2 Auto Scaling's Query API, as far as a lifecycle hook goes: CompleteLifecycleAction, version 2011-01-01.
//!
//! One attempt a call: whoever completes a hook has all the time that the hook's own timeout leaves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};

use super::refusal::ApiError;
use super::signing_client::{self, SigningClient};
use super::sigv4::Service;
use super::xml::read_page;
use super::{FORM, form};
use crate::util::words;

const API_VERSION: &str = "2011-01-01";
const ACTION: &str = "CompleteLifecycleAction";
const INVALID: &str = "ValidationError";
/// (Seen in the field; the API Reference has no code of its own for it.)
const NOT_WAITING: &str = "No active Lifecycle Action";
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Why a hook could not be completed.
#[derive(Debug)]
pub enum Error {
    Unanswered(signing_client::Error),
    /// Auto Scaling's own word.
    Api {
        group: String,
        status: StatusCode,
        error: ApiError,
    },
    Malformed {
        endpoint: String,
        cause: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered(error) => write!(f, "{error}"),
            Self::Api { group, status, error } => {
                write!(f, "autoscaling:{ACTION}: {} ({status}): {}", error.code, error.message)?;
                match error.code.as_str() {
                    "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => write!(
                        f,
                        "; the role's policy must allow it: {{\"Effect\":\"Allow\",\"Action\":\"autoscaling:{ACTION}\",\
                         \"Resource\":\"arn:aws:autoscaling:*:*:autoScalingGroup:*:autoScalingGroupName/{group}\"}}"
                    ),
                    _ => Ok(()),
                }
            }
            Self::Malformed { endpoint, cause } => write!(f, "{}: {cause}", words::without_secrets(endpoint)),
        }
    }
}

impl std::error::Error for Error {}

/// What Auto Scaling says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Completed,
    /// The hook isn't waiting for this instance: not yet, or no more.
    NotWaiting,
    /// No such hook, no such group.
    Refused(String),
}

/// A client of one region's Auto Scaling.
#[derive(Debug)]
pub struct AutoScaling {
    caller: Arc<SigningClient>,
    endpoint: String,
}

impl AutoScaling {
    /// A client of that endpoint.
    pub fn new(caller: Arc<SigningClient>, endpoint: String) -> Self {
        Self { caller, endpoint }
    }

    /// Tells a hook to continue.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn complete(&self, group: &str, hook: &str, instance: &str) -> Result<Answer, Error> {
        let query = [
            ("AutoScalingGroupName", group),
            ("InstanceId", instance),
            ("LifecycleActionResult", "CONTINUE"),
            ("LifecycleHookName", hook),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let body = Bytes::from(form(ACTION, API_VERSION, &query));
        let request = Request::post(&self.endpoint).header(CONTENT_TYPE, FORM).body(Full::new(body.clone()));
        let request = request.map_err(|e| Error::Unanswered(signing_client::Error::Signing(e.to_string())))?;
        let answer =
            self.caller.call(Service::AutoScaling, request, &body, TIMEOUT).await.map_err(Error::Unanswered)?;
        let status = answer.status();
        if status == StatusCode::FORBIDDEN {
            // Whoever mends the role or its policy need not restart us.
            self.caller.forget_credentials();
        }
        let malformed = |cause: String| Error::Malformed { endpoint: self.endpoint.clone(), cause };
        let whole = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect();
        let body = match tokio::time::timeout(TIMEOUT, whole).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(cause)) => return Err(malformed(format!("the answer ({status}) broke off: {cause}"))),
            Err(_) => return Err(malformed(format!("the answer ({status}) stalled for {} s", TIMEOUT.as_secs()))),
        };
        // A proxy's page with status 200 completes nothing, so the document is read either way.
        match read_page(body.as_ref()).map(|page| page.error) {
            Ok(None) if status == StatusCode::OK => Ok(Answer::Completed),
            Ok(None) => Err(malformed(format!("answers {status} without an error document"))),
            Ok(Some(error)) if error.code == INVALID && error.message.contains(NOT_WAITING) => Ok(Answer::NotWaiting),
            Ok(Some(error)) if error.code == INVALID => {
                Ok(Answer::Refused(format!("hook {hook} of Auto Scaling group {group}: {}", error.message)))
            }
            Ok(Some(error)) => Err(Error::Api { group: group.to_owned(), status, error }),
            Err(cause) => Err(malformed(format!("answers {status}, {cause}"))),
        }
    }
}
