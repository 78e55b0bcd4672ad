//! Systems Manager's Parameter Store, as far as one parameter needs it: GetParameter (AWS JSON 1.1).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::partition::Region;
use super::refusal::ApiError;
use super::signing_client::{self as client, ATTEMPTS, Call, SigningClient, Unread};
use super::sigv4::Service;
use crate::util::words;

const JSON: &str = "application/x-amz-json-1.1";
const TARGET_HEADER: &str = "x-amz-target";
const TARGET: &str = "AmazonSSM.GetParameter";
/// The header with the error code in AWS JSON; otherwise the code is in the body (Smithy, "AWS JSON 1.1 protocol", "Operation
/// error serialization").
const ERROR_HEADER: &str = "x-amzn-errortype";
const NOT_FOUND: &str = "ParameterNotFound";
const TIMEOUT: Duration = Duration::from_secs(5);
/// An advanced parameter is at most 8 KiB.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Why a parameter could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Call(client::Error),
    #[error(
        "ssm:GetParameter: {NOT_FOUND}: there is no parameter {name} in {region}; create it there, or set DOCKER_AWSREG to its \
         region"
    )]
    NotFound { name: String, region: String },
}

impl Error {
    /// AWS refuses us, or does not know us.
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::Call(error) if error.is_denial())
    }
}

fn way_out(name: &str, region: &Region, error: &ApiError) -> String {
    let hint = error.hint();
    match error.is_forbidden() {
        true => format!(
            "{hint}; the role's policy must allow it: {{\"Effect\":\"Allow\",\"Action\":\"ssm:GetParameter\",\
             \"Resource\":\"{}\"}}, and kms:Decrypt on the key, if it is a SecureString under a customer key",
            arn(name, region)
        ),
        false => hint.to_owned(),
    }
}

/// A parameter's name in a policy: without a leading slash, and without the version at the end.
fn arn(name: &str, region: &Region) -> String {
    match name.starts_with("arn:") {
        true => name.to_owned(),
        false => {
            let name = name.split(':').next().unwrap_or_default().trim_start_matches('/');
            format!("arn:{}:ssm:{}:*:parameter/{name}", region.partition, region.name)
        }
    }
}

/// A parameter's value: never shown, because it may be a key.
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
#[derive(Clone, Debug)]
pub struct Ssm {
    caller: Arc<SigningClient>,
    endpoint: String,
}

impl Ssm {
    pub fn new(caller: Arc<SigningClient>, endpoint: String) -> Self {
        Self { caller, endpoint }
    }

    /// A parameter's value, decrypted.
    ///
    /// # Errors
    /// The parameter does not exist, or Parameter Store does not answer, or refuses.
    pub async fn parameter(&self, name: &str) -> Result<Secret, Error> {
        let region = self.caller.region();
        let body = Bytes::from(json!({ "Name": name, "WithDecryption": true }).to_string());
        let request = Request::post(&self.endpoint).header(CONTENT_TYPE, JSON).header(TARGET_HEADER, TARGET);
        let call = Call {
            service: Service::Ssm,
            what: format!("ssm:GetParameter of {name} in {}", region.name),
            place: words::without_secrets(&self.endpoint).into_owned(),
            within: TIMEOUT,
            most_bytes: MAX_ANSWER_BYTES,
            attempts: ATTEMPTS,
        };
        let value = |answer: client::Answer<Bytes>| match answer.status {
            StatusCode::OK => read_value(&answer.body).map_err(Unread::Malformed),
            status => {
                let error = read_error(answer.header(ERROR_HEADER), &answer.body);
                Err(Unread::by(status, error, |error| way_out(name, region, error)))
            }
        };
        self.caller.call(call, request.body(body), value).await.map_err(|error| match error.code() {
            Some(NOT_FOUND) => Error::NotFound { name: name.to_owned(), region: region.name.clone() },
            _ => Error::Call(error),
        })
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

/// Parses GetParameter's answer.
///
/// # Errors
/// It is not such an answer; nothing of it is quoted.
pub fn read_value(body: &[u8]) -> Result<Secret, String> {
    // serde's message would quote what it found instead of what it expected, so only the position is shown.
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|e| format!("the answer is not GetParameter's JSON (line {}, column {})", e.line(), e.column()))?;
    Ok(Secret(answer.parameter.value))
}

/// Parses an error document; `None`: it is not one. The code is in a header or in the body, with a namespace before it or a URL
/// after it.
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
            assert!(error.contains("is not GetParameter's JSON") && !error.contains("hunter2"), "{error}");
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
        let arn = |name, region| arn(name, &Region::named(region));
        assert_eq!(arn("/etcd/ca-key", "eu-west-1"), "arn:aws:ssm:eu-west-1:*:parameter/etcd/ca-key");
        assert_eq!(arn("ca-key:3", "cn-north-1"), "arn:aws-cn:ssm:cn-north-1:*:parameter/ca-key");
        assert_eq!(arn("x", "us-gov-west-1"), "arn:aws-us-gov:ssm:us-gov-west-1:*:parameter/x");
        assert_eq!(arn("x", "us-isob-east-1"), "arn:aws-iso-b:ssm:us-isob-east-1:*:parameter/x");
        let shared = "arn:aws:ssm:eu-west-1:1:parameter/x";
        assert_eq!(arn(shared, "eu-west-1"), shared);
    }
}
