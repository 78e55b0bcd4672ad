//! AWS: our identity (IMDS), credentials, EC2, one object in S3, a lifecycle hook, and a parameter.

pub mod autoscaling;
mod body_reader;
pub mod credentials;
pub mod ec2;
pub mod imds;
mod refusal;
pub mod s3;
pub mod signing_client;
pub mod sigv4;
pub mod ssm;
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

/// The partition of AWS that a region is in, as ARNs name it.
fn partition(region: &str) -> &'static str {
    match region {
        _ if region.starts_with("cn-") => "aws-cn",
        _ if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

/// Which of a service's public endpoints is meant (AWS SDKs and Tools Reference Guide, "Dual-stack and FIPS endpoints").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Variants {
    pub fips: bool,
    pub dualstack: bool,
}

/// The public endpoint of a service's API in a region (AWS General Reference, "Service endpoints"). In GovCloud the
/// usual name is the FIPS one.
pub fn endpoint(service: &str, region: &str, Variants { fips, dualstack }: Variants) -> String {
    let fips = if fips && (dualstack || !region.starts_with("us-gov-")) { "-fips" } else { "" };
    let domain = match (region.starts_with("cn-"), dualstack) {
        (false, false) => "amazonaws.com",
        (false, true) => "api.aws",
        (true, false) => "amazonaws.com.cn",
        (true, true) => "api.amazonwebservices.com.cn",
    };
    format!("https://{service}{fips}.{region}.{domain}/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_follow_the_partition() {
        let usual = Variants::default();
        let fips = Variants { fips: true, ..usual };
        assert_eq!(endpoint("ec2", "eu-west-1", usual), "https://ec2.eu-west-1.amazonaws.com/");
        assert_eq!(endpoint("ec2", "cn-north-1", usual), "https://ec2.cn-north-1.amazonaws.com.cn/");
        assert_eq!(
            endpoint("ec2", "us-east-1", Variants { dualstack: true, ..fips }),
            "https://ec2-fips.us-east-1.api.aws/"
        );
        let autoscaling = |region, fips, dualstack| endpoint("autoscaling", region, Variants { fips, dualstack });
        assert_eq!(autoscaling("eu-west-1", true, false), "https://autoscaling-fips.eu-west-1.amazonaws.com/");
        assert_eq!(autoscaling("us-gov-west-1", true, false), "https://autoscaling.us-gov-west-1.amazonaws.com/");
        assert_eq!(autoscaling("us-gov-west-1", true, true), "https://autoscaling-fips.us-gov-west-1.api.aws/");
        assert_eq!(endpoint("ssm", "eu-west-1", usual), "https://ssm.eu-west-1.amazonaws.com/");
        assert_eq!(endpoint("ssm", "us-gov-west-1", fips), "https://ssm.us-gov-west-1.amazonaws.com/");
        let china = "https://autoscaling.cn-north-1.api.amazonwebservices.com.cn/";
        assert_eq!(autoscaling("cn-north-1", false, true), china);
    }
}
