//! Signature Version 4, by aws-sigv4, applied to one request.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;

use crate::clock;
use crate::http::Outgoing;

/// What a signature is for.
pub(super) struct Scope<'a> {
    pub region: &'a str,
    pub service: &'a str,
    /// What to add to our clock to get AWS's, in seconds.
    pub clock_offset: i64,
}

/// Adds the signature's headers. The URI must be absolute: its authority is the `host` that is signed.
///
/// # Errors
/// What aws-sigv4 refuses, in its words.
pub(super) fn sign_request(
    request: &mut Outgoing,
    body: &[u8],
    credentials: &Credentials,
    scope: &Scope<'_>,
) -> Result<(), String> {
    let identity = credentials.clone().into();
    let now = u64::try_from(clock::epoch() + scope.clock_offset).unwrap_or(0);
    let params = SigningParams::builder()
        .identity(&identity)
        .region(scope.region)
        .name(scope.service)
        .time(UNIX_EPOCH + Duration::from_secs(now))
        .settings(SigningSettings::default())
        .build()
        .map_err(|e| e.to_string())?
        .into();
    let uri = request.uri().to_string();
    let headers = request.headers().iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let signable = SignableRequest::new(request.method().as_str(), uri, headers, SignableBody::Bytes(body));
    let (instructions, _) = signable.and_then(|s| sign(s, &params)).map_err(|e| e.to_string())?.into_parts();
    instructions.apply_to_request_http1x(request);
    Ok(())
}
