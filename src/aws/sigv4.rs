//! Signature Version 4 for one request, computed by aws-sigv4.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4::SigningParams;
use hyper::Request;

use crate::net::http::Outgoing;
use crate::util::clock;
use crate::util::meter::Api;
use crate::util::words::hex;

/// The service a signature is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    Ec2,
    S3,
    AutoScaling,
    Ssm,
    Sts,
}

impl Service {
    /// All of them, as their endpoints are listed.
    pub const ALL: [Self; 5] = [Self::Ec2, Self::S3, Self::AutoScaling, Self::Ssm, Self::Sts];

    /// Its name in signatures and hosts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::S3 => "s3",
            Self::AutoScaling => "autoscaling",
            Self::Ssm => "ssm",
            Self::Sts => "sts",
        }
    }

    /// The variable that names its endpoint (AWS SDKs and Tools Reference Guide, "Service-specific endpoints").
    pub const fn endpoint_variable(self) -> &'static str {
        match self {
            Self::Ec2 => "AWS_ENDPOINT_URL_EC2",
            Self::S3 => "AWS_ENDPOINT_URL_S3",
            Self::AutoScaling => "AWS_ENDPOINT_URL_AUTO_SCALING",
            Self::Ssm => "AWS_ENDPOINT_URL_SSM",
            Self::Sts => "AWS_ENDPOINT_URL_STS",
        }
    }

    /// The name under which its calls are counted.
    pub(super) const fn api(self) -> Api {
        match self {
            Self::Ec2 => Api::Ec2,
            Self::S3 => Api::S3,
            Self::AutoScaling => Api::AutoScaling,
            Self::Ssm => Api::Ssm,
            Self::Sts => Api::Sts,
        }
    }

    /// S3 takes the path as it is sent, encoded once, and requires the body's hash in a header (S3 API Reference,
    /// "Authenticating Requests: Using the Authorization Header").
    fn settings(self) -> SigningSettings {
        let mut settings = SigningSettings::default();
        if self == Self::S3 {
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        }
        settings
    }
}

/// aws-sigv4's reason.
pub type SigningFailure = Box<dyn std::error::Error + Send + Sync>;

/// What a signature is for.
pub struct Scope<'a> {
    pub region: &'a str,
    pub service: Service,
    /// What to add to our clock to get AWS's, in seconds.
    pub clock_offset: i64,
}

/// Adds the signature's headers. The URI must be absolute: its authority is the `host` that is signed.
///
/// # Errors
/// aws-sigv4 can't sign the request.
pub fn sign_request(
    request: &mut Outgoing,
    body: &[u8],
    credentials: &Credentials,
    scope: &Scope<'_>,
) -> Result<(), SigningFailure> {
    sign_hashed(request, SignableBody::Bytes(body), credentials, scope)
}

/// The same for a body that is still to be read, of this SHA-256.
///
/// # Errors
/// As [`sign_request`].
pub(super) fn sign_file(
    request: &mut Request<()>,
    sha256: &[u8; 32],
    credentials: &Credentials,
    scope: &Scope<'_>,
) -> Result<(), SigningFailure> {
    sign_hashed(request, SignableBody::Precomputed(hex(sha256)), credentials, scope)
}

fn sign_hashed<B>(
    request: &mut Request<B>,
    body: SignableBody<'_>,
    credentials: &Credentials,
    scope: &Scope<'_>,
) -> Result<(), SigningFailure> {
    let identity = credentials.clone().into();
    let now = u64::try_from(clock::epoch() + scope.clock_offset).unwrap_or(0);
    let params = SigningParams::builder()
        .identity(&identity)
        .region(scope.region)
        .name(scope.service.name())
        .time(UNIX_EPOCH + Duration::from_secs(now))
        .settings(scope.service.settings())
        .build()?
        .into();
    let uri = request.uri().to_string();
    let headers = request.headers().iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let signable = SignableRequest::new(request.method().as_str(), uri, headers, body);
    let (instructions, _) = signable.and_then(|s| sign(s, &params))?.into_parts();
    instructions.apply_to_request_http1x(request);
    Ok(())
}
