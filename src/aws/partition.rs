//! AWS's partitions: which one a region is in, and the names of its endpoints.

use std::borrow::Cow;

use super::sigv4::Service;

/// Which of a service's public endpoints is meant (AWS SDKs and Tools Reference Guide, "Dual-stack and FIPS endpoints").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Variants {
    pub fips: bool,
    pub dualstack: bool,
}

/// The variable that asks for FIPS endpoints.
pub const USE_FIPS: &str = "AWS_USE_FIPS_ENDPOINT";
/// The variable that asks for dual-stack endpoints.
pub const USE_DUALSTACK: &str = "AWS_USE_DUALSTACK_ENDPOINT";

struct Partition {
    id: &'static str,
    /// How the names of its regions begin.
    regions: &'static str,
    domain: &'static str,
    /// The domain of dual-stack endpoints; S3's are in the other one.
    dualstack: &'static str,
}

const CHINA: &str = "aws-cn";
const GOVCLOUD: &str = "aws-us-gov";

const fn partition(
    id: &'static str,
    regions: &'static str,
    domain: &'static str,
    dualstack: &'static str,
) -> Partition {
    Partition { id, regions, domain, dualstack }
}

/// (botocore 1.44.8, `partitions.json`; tests/e2e/test_partitions.py compares every name with the installed one's rules.) The last
/// has every other region, as with the SDKs.
const PARTITIONS: [Partition; 8] = [
    partition(CHINA, "cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    partition(GOVCLOUD, "us-gov-", "amazonaws.com", "api.aws"),
    partition("aws-eusc", "eusc-", "amazonaws.eu", "api.amazonwebservices.eu"),
    partition("aws-iso", "us-iso-", "c2s.ic.gov", "api.aws.ic.gov"),
    partition("aws-iso-b", "us-isob-", "sc2s.sgov.gov", "api.aws.scloud"),
    partition("aws-iso-e", "eu-isoe-", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    partition("aws-iso-f", "us-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    partition("aws", "", "amazonaws.com", "api.aws"),
];

/// A region, and the partition it is in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region {
    pub name: String,
    /// As ARNs name it.
    pub partition: Cow<'static, str>,
    domain: Cow<'static, str>,
    /// `None`: unknown.
    dualstack: Option<&'static str>,
}

/// Why there is no such endpoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{variable}=true: {why}")]
pub struct Refusal {
    /// The variable that asks for it.
    pub variable: &'static str,
    pub why: String,
}

impl Region {
    /// A region of that name, by the table.
    pub fn named(name: &str) -> Self {
        let [.., rest] = &PARTITIONS;
        let known = PARTITIONS.iter().find(|known| name.starts_with(known.regions)).unwrap_or(rest);
        Self {
            name: name.to_owned(),
            partition: Cow::Borrowed(known.id),
            domain: Cow::Borrowed(known.domain),
            dualstack: Some(known.dualstack),
        }
    }

    /// A region in the partition that the metadata service names, with that domain.
    pub fn told(name: &str, partition: &str, domain: &str) -> Self {
        let known = PARTITIONS.iter().find(|known| known.id == partition);
        Self {
            name: name.to_owned(),
            partition: Cow::Owned(partition.to_owned()),
            domain: Cow::Owned(domain.to_owned()),
            dualstack: known.map(|known| known.dualstack),
        }
    }

    /// The host of a service's public endpoint (AWS General Reference, "Service endpoints").
    ///
    /// # Errors
    /// The partition has none of that kind.
    pub fn host(&self, service: Service, Variants { fips, dualstack }: Variants) -> Result<String, Refusal> {
        let refused = |variable, why: String| {
            let instead = service.endpoint_variable();
            Refusal { variable, why: format!("{why}; unset it, or name the endpoint in {instead}") }
        };
        let (name, region, partition) = (service.name(), &self.name, &self.partition);
        if service == Service::S3 {
            if fips && partition == CHINA {
                return Err(refused(
                    USE_FIPS,
                    format!("S3 has no FIPS endpoint in {region}, of partition {partition}"),
                ));
            }
            let (fips, dualstack) = (suffix(fips, "-fips"), suffix(dualstack, ".dualstack"));
            return Ok(format!("{name}{fips}{dualstack}.{region}.{}", self.domain));
        }
        let domain = match (dualstack, self.dualstack) {
            (false, _) => &*self.domain,
            (true, Some(domain)) => domain,
            (true, None) => {
                let why = format!(
                    "the domain of {name}'s dual-stack endpoint in {region}, of partition {partition}, is unknown"
                );
                return Err(refused(USE_DUALSTACK, why));
            }
        };
        // In GovCloud the usual name is the FIPS one.
        let fips = suffix(fips && (dualstack || partition != GOVCLOUD), "-fips");
        Ok(format!("{name}{fips}.{region}.{domain}"))
    }
}

fn suffix(is_meant: bool, suffix: &'static str) -> &'static str {
    if is_meant { suffix } else { "" }
}

/// Why that is not a region's name. (S3's and STS's global endpoints have names like one; EC2 has none.)
pub fn region_fault(name: &str) -> Option<&'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    match () {
        () if name.starts_with("aws-") && name.ends_with("-global") => {
            Some("is no region: EC2 has no global endpoint; write the region's name, as eu-west-1")
        }
        () if !(1..=63).contains(&name.len()) || !name.chars().all(fits) => {
            Some("is not the name of a region; write it as eu-west-1")
        }
        () => None,
    }
}

/// Whether that can be the domain of endpoints.
pub fn is_domain(text: &str) -> bool {
    let fits = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    text.len() <= 253 && text.split('.').all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Variants = Variants { fips: false, dualstack: false };
    const FIPS: Variants = Variants { fips: true, ..USUAL };
    const DUALSTACK: Variants = Variants { dualstack: true, ..USUAL };
    const BOTH: Variants = Variants { fips: true, dualstack: true };

    fn host(service: Service, region: &str, variants: Variants) -> String {
        Region::named(region).host(service, variants).unwrap_or_else(|refusal| refusal.to_string())
    }

    #[test]
    fn endpoints_follow_the_partition() {
        use Service::{AutoScaling, Ec2, S3, Ssm, Sts};
        for (service, region, variants, expected) in [
            (Ec2, "eu-west-1", USUAL, "ec2.eu-west-1.amazonaws.com"),
            (Ec2, "us-east-1", BOTH, "ec2-fips.us-east-1.api.aws"),
            (AutoScaling, "eu-west-1", FIPS, "autoscaling-fips.eu-west-1.amazonaws.com"),
            (Sts, "eu-west-1", USUAL, "sts.eu-west-1.amazonaws.com"),
            (S3, "eu-west-1", BOTH, "s3-fips.dualstack.eu-west-1.amazonaws.com"),
            (Ec2, "cn-north-1", USUAL, "ec2.cn-north-1.amazonaws.com.cn"),
            (AutoScaling, "cn-north-1", DUALSTACK, "autoscaling.cn-north-1.api.amazonwebservices.com.cn"),
            (S3, "cn-north-1", DUALSTACK, "s3.dualstack.cn-north-1.amazonaws.com.cn"),
            (AutoScaling, "us-gov-west-1", FIPS, "autoscaling.us-gov-west-1.amazonaws.com"),
            (AutoScaling, "us-gov-west-1", BOTH, "autoscaling-fips.us-gov-west-1.api.aws"),
            (S3, "us-gov-west-1", FIPS, "s3-fips.us-gov-west-1.amazonaws.com"),
            (Ssm, "eusc-de-east-1", FIPS, "ssm-fips.eusc-de-east-1.amazonaws.eu"),
            (Ec2, "us-iso-east-1", USUAL, "ec2.us-iso-east-1.c2s.ic.gov"),
            (Ec2, "us-isob-east-1", DUALSTACK, "ec2.us-isob-east-1.api.aws.scloud"),
            (S3, "eu-isoe-west-1", FIPS, "s3-fips.eu-isoe-west-1.cloud.adc-e.uk"),
            (Sts, "us-isof-south-1", BOTH, "sts-fips.us-isof-south-1.api.aws.hci.ic.gov"),
        ] {
            assert_eq!(host(service, region, variants), expected);
        }
    }

    #[test]
    fn what_a_partition_has_not_is_refused_and_no_name_made_up() {
        assert_eq!(
            host(Service::S3, "cn-north-1", BOTH),
            "AWS_USE_FIPS_ENDPOINT=true: S3 has no FIPS endpoint in cn-north-1, of partition aws-cn; unset it, or name the endpoint \
             in AWS_ENDPOINT_URL_S3"
        );
        let elsewhere = Region::told("xx-new-1", "aws-new", "aws.example");
        assert_eq!(elsewhere.host(Service::Ec2, FIPS).unwrap(), "ec2-fips.xx-new-1.aws.example");
        assert_eq!(elsewhere.host(Service::S3, DUALSTACK).unwrap(), "s3.dualstack.xx-new-1.aws.example");
        assert_eq!(
            elsewhere.host(Service::Ec2, DUALSTACK).unwrap_err().to_string(),
            "AWS_USE_DUALSTACK_ENDPOINT=true: the domain of ec2's dual-stack endpoint in xx-new-1, of partition aws-new, is unknown; \
             unset it, or name the endpoint in AWS_ENDPOINT_URL_EC2"
        );
    }

    #[test]
    fn the_metadata_service_decides_where_it_says_something() {
        let told = Region::told("eu-west-1", "aws-us-gov", "example.gov");
        assert_eq!(told.host(Service::Ec2, FIPS).unwrap(), "ec2.eu-west-1.example.gov");
        assert_eq!(
            told.host(Service::Ec2, BOTH).unwrap(),
            "ec2-fips.eu-west-1.api.aws",
            "the table has that partition"
        );
        assert!(is_domain("amazonaws.com.cn") && !is_domain("") && !is_domain("a..b") && !is_domain("h/@x"));
    }

    #[test]
    fn a_region_is_a_name_in_a_host() {
        for right in ["eu-west-1", "us-gov-west-1", "garage", "eusc-de-east-1"] {
            assert_eq!(region_fault(right), None, "{right}");
        }
        for wrong in ["aws-global", "aws-cn-global", "", "eu west 1", "eu-west-1/", "é", &"a".repeat(64)] {
            assert!(region_fault(wrong).is_some(), "{wrong}");
        }
    }
}
