//! AWS's services with these settings: endpoints, credentials, proxy and certificate authorities.

use std::sync::Arc;

use crate::aws::autoscaling::AutoScaling;
use crate::aws::credentials::{Provider, Source};
use crate::aws::ec2::Ec2;
use crate::aws::imds::Imds;
use crate::aws::partition::{Refusal, Region};
use crate::aws::s3::{Endpoint, S3};
use crate::aws::signing_client::SigningClient;
use crate::aws::sigv4::Service;
use crate::aws::ssm::Ssm;
use crate::aws::sts::Sts;
use crate::config;
use crate::net::http::Client;
use crate::net::tls::Trust;
use crate::state::store::Identity;
use crate::util::exit::{Code, Failure};
use crate::util::words;

/// The original's default region, used if nothing names one.
const DEFAULT_REGION: &str = "eu-west-1";

/// The clients of all services; they share one caller, so that credentials and AWS's clock are learnt once.
#[derive(Debug)]
pub struct Aws {
    pub imds: Arc<Imds>,
    pub caller: Arc<SigningClient>,
    pub ec2: Arc<Ec2>,
    /// Calls S3, or the store that replaces it: with its own credentials, in its own region.
    store: Arc<SigningClient>,
    endpoints: Endpoints,
}

#[derive(Debug)]
struct Endpoints {
    s3: Endpoint,
    ec2: String,
    ssm: String,
    autoscaling: String,
    sts: String,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(Code::Config, refusal)
    }
}

/// A region as an instance sees it. Where the table has it in another partition than the instance, the table decides.
fn region(name: &str, own: Option<&Identity>) -> Region {
    let here = own.and_then(|own| Some((own.region.as_deref()?, own.partition.as_ref()?)));
    match (here, Region::named(name)) {
        (Some((home, told)), region) if Region::named(home).partition == region.partition => {
            Region::told(name, &told.id, &told.domain)
        }
        (_, region) => region,
    }
}

impl Aws {
    /// The services of the configured region, or of this instance's, or of the default one.
    ///
    /// # Errors
    /// The region's partition has no endpoints of the kind that was asked for.
    pub fn new(config: &config::Aws, imds: Imds, own: Option<&Identity>) -> Result<Self, Refusal> {
        // A container's credentials come from a link-local address, or the node itself: no proxy can reach that.
        let direct = Client::new(Trust::public(config.ca_files.clone()));
        let http = direct.clone().through(config.proxy.clone());
        let name = config.region.as_deref().or(own.and_then(|own| own.region.as_deref())).unwrap_or(DEFAULT_REGION);
        let store_region = region(config.store.region.as_deref().unwrap_or(name), own);
        let region = region(name, own);
        let (given, variants) = (&config.endpoints, config.variants);
        let api = |given: &Option<String>, service| match given {
            Some(url) => Ok(url.clone()),
            None => region.host(service, variants).map(|host| format!("https://{host}/")),
        };
        let endpoints = Endpoints {
            s3: given.s3.clone().map_or_else(|| Endpoint::public(&store_region, variants), Endpoint::Given),
            ec2: api(&given.ec2, Service::Ec2)?,
            ssm: api(&given.ssm, Service::Ssm)?,
            autoscaling: api(&given.autoscaling, Service::AutoScaling)?,
            sts: api(&given.sts, Service::Sts)?,
        };
        let imds = Arc::new(imds);
        let sts = Sts::new(http.clone(), endpoints.sts.clone(), region.clone(), imds.meters().clone());
        let caller = |credentials: &Source, region: &Region| {
            let provider = Provider::new(credentials.clone(), imds.clone(), direct.clone(), sts.clone());
            Arc::new(SigningClient::new(http.clone(), region.clone(), provider, imds.meters().clone()))
        };
        let store = match (&config.store.credentials, store_region == region) {
            (None, true) => None,
            (own, _) => Some(caller(own.as_ref().unwrap_or(&config.credentials), &store_region)),
        };
        let caller = caller(&config.credentials, &region);
        let ec2 = Arc::new(Ec2::new(caller.clone(), endpoints.ec2.clone()));
        let store = store.unwrap_or_else(|| caller.clone());
        Ok(Self { imds, caller, ec2, store, endpoints })
    }

    /// The services and their endpoints, as they are called; or why there is none.
    pub fn endpoints(&self) -> [(Service, Result<String, Refusal>); 5] {
        let Endpoints { s3, ec2, ssm, autoscaling, sts } = &self.endpoints;
        Service::ALL.map(|service| {
            let url = match service {
                Service::Ec2 => Ok(ec2.clone()),
                Service::S3 => s3.base(),
                Service::AutoScaling => Ok(autoscaling.clone()),
                Service::Ssm => Ok(ssm.clone()),
                Service::Sts => Ok(sts.clone()),
            };
            (service, url.map(|url| words::without_secrets(&url).into_owned()))
        })
    }

    /// Objects in S3, or in the store that replaces it.
    pub fn s3(&self) -> S3 {
        S3::new(self.store.clone(), self.endpoints.s3.clone())
    }

    /// Systems Manager's parameters.
    pub fn ssm(&self) -> Ssm {
        Ssm::new(self.caller.clone(), self.endpoints.ssm.clone())
    }

    /// Auto Scaling's lifecycle hooks.
    pub fn autoscaling(&self) -> AutoScaling {
        AutoScaling::new(self.caller.clone(), self.endpoints.autoscaling.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::partition::Variants;
    use crate::state::store::Partition;

    #[test]
    fn what_the_instance_was_told_counts_in_its_own_partition() {
        let told = |region: &str, partition: Option<(&str, &str)>| Identity {
            instance: "i-1".to_owned(),
            region: Some(region.to_owned()),
            address: [10, 0, 0, 1].into(),
            hostname: None,
            partition: partition.map(|(id, domain)| Partition { id: id.to_owned(), domain: domain.to_owned() }),
        };
        let host = |name, own: &Identity| region(name, Some(own)).host(Service::Ec2, Variants::default()).unwrap();
        let new = told("xx-new-1", Some(("aws-new", "aws.example")));
        assert_eq!(host("xx-new-1", &new), "ec2.xx-new-1.aws.example");
        assert_eq!(host("xx-new-2", &new), "ec2.xx-new-2.aws.example", "credentials are of one partition");
        assert_eq!(host("us-iso-east-1", &new), "ec2.us-iso-east-1.c2s.ic.gov");
        assert_eq!(region("xx-new-1", Some(&new)).partition, "aws-new");
        assert_eq!(host("us-iso-east-1", &told("us-iso-east-1", None)), "ec2.us-iso-east-1.c2s.ic.gov");
        assert_eq!(region("cn-north-1", None).partition, "aws-cn");
    }
}
