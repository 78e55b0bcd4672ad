//! AWS: our identity (IMDS), credentials (and STS), EC2, one object in S3, a lifecycle hook, and a parameter.

pub mod autoscaling;
mod body_reader;
pub mod credentials;
pub mod ec2;
pub mod imds;
pub mod partition;
pub mod profile;
mod refusal;
pub mod s3;
pub mod signing_client;
pub mod sigv4;
pub mod ssm;
pub mod sts;
pub mod xml;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The bytes that SigV4 does not call unreserved: percent-encoded, as in the SDKs.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The content type of the Query API's calls.
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// A Query API call's body.
fn form(action: &str, version: &str, query: &[(String, String)]) -> String {
    let head = [("Action", action), ("Version", version)];
    let pairs = head.into_iter().chain(query.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    let encode = |text| utf8_percent_encode(text, RESERVED);
    pairs.map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect::<Vec<_>>().join("&")
}
