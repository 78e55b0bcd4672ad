//! EC2 Auto Scaling's Query API, as far as a lifecycle hook needs it: CompleteLifecycleAction, version 2011-01-01.
//!
//! One attempt a call: the caller can retry until the hook's own timeout.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};

use super::refusal::ApiError;
use super::signing_client::{self as client, Call, Error, SigningClient, Unread};
use super::sigv4::Service;
use super::xml::Page;
use super::{FORM, form};
use crate::util::words;

const API_VERSION: &str = "2011-01-01";
const ACTION: &str = "CompleteLifecycleAction";
const INVALID: &str = "ValidationError";
/// (Seen in practice; the API Reference has no error code for it.)
const NOT_WAITING: &str = "No active Lifecycle Action";
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Auto Scaling's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Completed,
    /// The hook is not waiting for this instance: not yet, or no longer.
    NotWaiting,
    /// The hook or the group does not exist.
    Refused(String),
}

/// A client of one region's Auto Scaling.
#[derive(Debug)]
pub struct AutoScaling {
    caller: Arc<SigningClient>,
    endpoint: String,
}

impl AutoScaling {
    pub fn new(caller: Arc<SigningClient>, endpoint: String) -> Self {
        Self { caller, endpoint }
    }

    /// Completes a hook, so that its group continues.
    ///
    /// # Errors
    /// Auto Scaling does not answer, or refuses the call.
    pub async fn complete(&self, group: &str, hook: &str, instance: &str) -> Result<Answer, Error> {
        let query = [
            ("AutoScalingGroupName", group),
            ("InstanceId", instance),
            ("LifecycleActionResult", "CONTINUE"),
            ("LifecycleHookName", hook),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let body = Bytes::from(form(ACTION, API_VERSION, &query));
        let request = Request::post(&self.endpoint).header(CONTENT_TYPE, FORM).body(body);
        let call = Call {
            service: Service::AutoScaling,
            what: format!("autoscaling:{ACTION}"),
            place: words::without_secrets(&self.endpoint).into_owned(),
            within: TIMEOUT,
            most_bytes: MAX_ANSWER_BYTES,
            attempts: 1,
        };
        let answer = |client::Answer { status, body: page, .. }: client::Answer<Page>| match page.error {
            // A proxy's page with status 200 completes nothing, so the document is read in either case.
            None if status == StatusCode::OK => Ok(Answer::Completed),
            Some(error) if error.code == INVALID && error.message.contains(NOT_WAITING) => Ok(Answer::NotWaiting),
            Some(error) if error.code == INVALID => {
                Ok(Answer::Refused(format!("hook {hook} of Auto Scaling group {group}: {}", error.message)))
            }
            error => Err(Unread::by(status, error, |error| way_out(&self.caller.region().partition, group, error))),
        };
        self.caller.call(call, request, answer).await
    }
}

fn way_out(partition: &str, group: &str, error: &ApiError) -> String {
    match error.is_forbidden() {
        true => format!(
            "; the role's policy must allow it: {{\"Effect\":\"Allow\",\"Action\":\"autoscaling:{ACTION}\",\
             \"Resource\":\"arn:{partition}:autoscaling:*:*:autoScalingGroup:*:autoScalingGroupName/{group}\"}}"
        ),
        false => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_is_named_in_its_partition() {
        let error = ApiError { code: "AccessDenied".to_owned(), message: String::new() };
        let told = way_out("aws-us-gov", "etcd", &error);
        let arn = "arn:aws-us-gov:autoscaling:*:*:autoScalingGroup:*:autoScalingGroupName/etcd";
        assert!(told.ends_with(&format!("\"Resource\":\"{arn}\"}}")), "{told}");
    }
}
