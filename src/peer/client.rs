//! Requests to another supervisor.

use std::fmt;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode};

use super::{CALL_PATH, Envelope, FROM_HEADER, HELLO_PATH, Hello};
use crate::core::paxos::{Answer, Call};
use crate::core::types::InstanceId;
use crate::net::http::{Client, Error, Failure};

/// What answered on a peer port.
#[derive(Debug)]
pub enum Answered {
    Hello(Box<Hello>),
    /// HTTP, but not a supervisor: probably an etcd.
    Other,
}

/// Asks a peer for its state. `from`: our id, if the peer is to notice us.
///
/// # Errors
/// The peer does not answer, or its answer can't be parsed.
pub async fn hello(
    http: &Client,
    peer_url: &str,
    from: Option<&InstanceId>,
    timeout: Duration,
) -> Result<Answered, Error> {
    let url = format!("{peer_url}{HELLO_PATH}");
    let mut request = Request::get(&url);
    if let Some(from) = from {
        request = request.header(FROM_HEADER, &from.0);
    }
    let answer = http.fetch(request.body(Full::default()).map_err(|e| bad(&url, &e))?, timeout).await?;
    match answer.status() {
        StatusCode::OK => serde_json::from_slice(answer.body()).map(Answered::Hello).map_err(|e| bad(&url, &e)),
        _ => Ok(Answered::Other),
    }
}

/// Makes a call of a bootstrap.
///
/// # Errors
/// The peer does not answer, or its answer can't be parsed.
pub async fn call(
    http: &Client,
    peer_url: &str,
    from: &InstanceId,
    call: &Call,
    timeout: Duration,
) -> Result<Answer, Error> {
    let url = format!("{peer_url}{CALL_PATH}");
    let envelope = Envelope { from: from.clone(), call: call.clone() };
    let body = serde_json::to_vec(&envelope).map_err(|e| bad(&url, &e))?;
    let request = Request::post(&url).body(Full::new(Bytes::from(body))).map_err(|e| bad(&url, &e))?;
    let answer = http.fetch(request, timeout).await?;
    match answer.status() {
        StatusCode::OK => serde_json::from_slice(answer.body()).map_err(|e| bad(&url, &e)),
        status => Err(bad(&url, &format!("answers {status}"))),
    }
}

fn bad(url: &str, cause: &dyn fmt::Display) -> Error {
    Error { url: url.to_owned(), failure: Failure::Protocol(cause.to_string()) }
}
