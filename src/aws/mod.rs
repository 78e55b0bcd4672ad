//! AWS: who we are (IMDS), with what right (credentials), what EC2 says, and one object in S3.

pub mod caller;
pub mod credentials;
pub mod ec2;
pub mod imds;
pub mod s3;
mod sigv4;
mod xml;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// What SigV4 doesn't call unreserved: percent-encoded, as the SDKs do it.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
