//! Systems Manager's Parameter Store, as far as one parameter goes: GetParameter (AWS JSON 1.1).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::partition;
use super::refusal::{ApiError, RetryClass};
use super::signing_client::{self, SigningClient};
use super::sigv4::Service;
use crate::util::words;

const JSON: &str = "application/x-amz-json-1.1";
const TARGET_HEADER: &str = "x-amz-target";
const TARGET: &str = "AmazonSSM.GetParameter";
/// Where AWS JSON puts the error's code, else it is in the body (Smithy, "AWS JSON 1.1 protocol", "Operation error
/// serialization").
const ERROR_HEADER: &str = "x-amzn-errortype";
const NOT_FOUND: &str = "ParameterNotFound";
const TIMEOUT: Duration = Duration::from_secs(5);
/// An advanced parameter is at most 8 KiB.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Why a parameter could not be read.
#[derive(Debug)]
pub enum Error {
    Unanswered(signing_client::Error),
    /// Systems Manager's own word.
    Api {
        name: String,
        region: String,
        status: StatusCode,
        error: ApiError,
    },
    Malformed {
        endpoint: String,
        cause: String,
    },
}

impl Error {
    /// AWS knows us and says no, or doesn't know us.
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::Api { error, .. } if error.is_denial())
    }

    fn outlook(&self) -> RetryClass {
        match self {
            Self::Unanswered(signing_client::Error::Http(_)) | Self::Malformed { .. } => RetryClass::Transient,
            Self::Unanswered(_) => RetryClass::Final,
            Self::Api { status, error, .. } => error.outlook(*status),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered(error) => write!(f, "{error}"),
            Self::Api { name, region, error, .. } if error.code == NOT_FOUND => write!(
                f,
                "ssm:GetParameter: {NOT_FOUND}: there is no parameter {name} in {region}; create it there, or set \
                 DOCKER_AWSREG to its region"
            ),
            Self::Api { name, region, status, error } => {
                write!(
                    f,
                    "ssm:GetParameter of {name} in {region}: {} ({status}): {}{}",
                    error.code,
                    error.message,
                    error.hint()
                )?;
                match error.is_forbidden() {
                    true => write!(
                        f,
                        "; the role's policy must allow it: {{\"Effect\":\"Allow\",\"Action\":\"ssm:GetParameter\",\
                         \"Resource\":\"{}\"}}, and kms:Decrypt on the key, if it is a SecureString under a customer key",
                        arn(name, region)
                    ),
                    false => Ok(()),
                }
            }
            Self::Malformed { endpoint, cause } => write!(f, "{}: {cause}", words::without_secrets(endpoint)),
        }
    }
}

impl std::error::Error for Error {}

/// What a policy calls a parameter: without the slash its name may begin with, and without the version it may end with.
fn arn(name: &str, region: &str) -> String {
    match name.starts_with("arn:") {
        true => name.to_owned(),
        false => {
            let name = name.split(':').next().unwrap_or_default().trim_start_matches('/');
            format!("arn:{}:ssm:{region}:*:parameter/{name}", partition(region))
        }
    }
}

/// A parameter's value: never shown, for it may be a key.
#[derive(Clone)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl Secret {
    /// The value itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A client of one region's Parameter Store.
#[derive(Debug)]
pub struct Ssm {
    caller: Arc<SigningClient>,
    endpoint: String,
}

impl Ssm {
    /// A client of that endpoint.
    pub fn new(caller: Arc<SigningClient>, endpoint: String) -> Self {
        Self { caller, endpoint }
    }

    /// A parameter's value, decrypted.
    ///
    /// # Errors
    /// [`Error`]; a parameter that isn't there is one.
    pub async fn parameter(&self, name: &str) -> Result<Secret, Error> {
        let mut attempts = self.caller.attempts(Service::Ssm);
        loop {
            match self.attempt(name).await {
                Ok(value) => return Ok(value),
                Err(error) => {
                    let outlook = error.outlook();
                    attempts.after(error, outlook).await?;
                }
            }
        }
    }

    async fn attempt(&self, name: &str) -> Result<Secret, Error> {
        let body = Bytes::from(json!({ "Name": name, "WithDecryption": true }).to_string());
        let request = Request::post(&self.endpoint).header(CONTENT_TYPE, JSON).header(TARGET_HEADER, TARGET);
        let request = request.body(Full::new(body.clone()));
        let request = request.map_err(|e| Error::Unanswered(signing_client::Error::Signing(e.to_string())))?;
        let answer = self.caller.call(Service::Ssm, request, &body, TIMEOUT).await.map_err(Error::Unanswered)?;
        let status = answer.status();
        let code = answer.headers().get(ERROR_HEADER).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let malformed = |cause: String| Error::Malformed { endpoint: self.endpoint.clone(), cause };
        let whole = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect();
        let body = match tokio::time::timeout(TIMEOUT, whole).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(cause)) => return Err(malformed(format!("the answer ({status}) broke off: {cause}"))),
            Err(_) => return Err(malformed(format!("the answer ({status}) stalled for {} s", TIMEOUT.as_secs()))),
        };
        if status == StatusCode::OK {
            return read_value(&body).map_err(malformed);
        }
        match read_error(code, &body) {
            Some(error) => {
                Err(Error::Api { name: name.to_owned(), region: self.caller.region().to_owned(), status, error })
            }
            None => Err(malformed(format!("answers {status} without an error document"))),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    parameter: Parameter,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Parameter {
    value: String,
}

/// Reads GetParameter's answer.
///
/// # Errors
/// Where it isn't one; nothing of it is quoted.
pub fn read_value(body: &[u8]) -> Result<Secret, String> {
    // serde's own words would quote what it found instead of what it wanted: the place must do.
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|e| format!("the answer isn't GetParameter's JSON (line {}, column {})", e.line(), e.column()))?;
    Ok(Secret(answer.parameter.value))
}

/// Reads an error document; `None`: it is none. The code is in a header or in the body, with a namespace before it or a URL behind it.
pub fn read_error(header: Option<String>, body: &[u8]) -> Option<ApiError> {
    let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| document.get(key).and_then(|v| v.as_str()).map(str::to_owned);
    let code = header.or_else(|| text("__type")).or_else(|| text("code"))?;
    let code = code.split(':').next()?.rsplit('#').next()?.to_owned();
    Some(ApiError { code, message: text("message").or_else(|| text("Message")).unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_value_is_shown() {
        let value = read_value(br#"{"Parameter":{"Name":"/x","Type":"SecureString","Value":"hunter2"}}"#).unwrap();
        assert_eq!((value.expose(), format!("{value:?}").as_str()), ("hunter2", "Secret(…)"));
        for damaged in [
            r#"{"Parameter":"hunter2"}"#,
            r#"{"Parameter":{"Value":["hunter2"]}}"#,
            r#"{"Value":"hunter2"}"#,
            "hunter2",
        ] {
            let error = read_value(damaged.as_bytes()).unwrap_err();
            assert!(error.contains("isn't GetParameter's JSON") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn errors_are_read_wherever_the_code_stands() {
        let expected = ApiError { code: NOT_FOUND.to_owned(), message: "m".to_owned() };
        let in_body = br#"{"__type":"com.amazonaws.ssm#ParameterNotFound","message":"m"}"#;
        assert_eq!(read_error(None, in_body).as_ref(), Some(&expected));
        let header = Some("ParameterNotFound:http://internal.amazon.com/coral/".to_owned());
        assert_eq!(read_error(header, br#"{"Message":"m"}"#).as_ref(), Some(&expected));
        assert_eq!(read_error(None, b"<html>502</html>"), None);
    }

    #[test]
    fn a_policy_names_a_parameter_so() {
        assert_eq!(arn("/etcd/ca-key", "eu-west-1"), "arn:aws:ssm:eu-west-1:*:parameter/etcd/ca-key");
        assert_eq!(arn("ca-key:3", "cn-north-1"), "arn:aws-cn:ssm:cn-north-1:*:parameter/ca-key");
        let shared = "arn:aws:ssm:eu-west-1:1:parameter/x";
        assert_eq!(arn(shared, "eu-west-1"), shared);
    }
}
