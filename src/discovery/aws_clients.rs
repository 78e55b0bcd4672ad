//! AWS's services as these settings reach them: endpoints, credentials, proxy and certificate authorities.

use std::sync::Arc;

use crate::aws::autoscaling::AutoScaling;
use crate::aws::credentials::Provider;
use crate::aws::ec2::Ec2;
use crate::aws::endpoint;
use crate::aws::imds::Imds;
use crate::aws::s3::{Endpoint, S3};
use crate::aws::signing_client::SigningClient;
use crate::aws::ssm::Ssm;
use crate::config::Config;
use crate::net::http::Client;
use crate::net::tls::Trust;

/// The original's default region, where nothing names one.
const DEFAULT_REGION: &str = "eu-west-1";

/// The services, ready to be asked; one caller for all, so that credentials and AWS's clock are learnt once.
#[derive(Debug)]
pub struct Aws {
    pub imds: Arc<Imds>,
    pub caller: Arc<SigningClient>,
    pub ec2: Arc<Ec2>,
    endpoints: Endpoints,
}

#[derive(Debug)]
struct Endpoints {
    s3: Endpoint,
    ssm: String,
    autoscaling: String,
}

impl Aws {
    /// The services of this region, or of the default one.
    pub fn new(config: &Config, imds: Imds, region: Option<&str>) -> Self {
        // A container's credentials come from a link-local address, or the node itself: no proxy can reach that one.
        let direct = Client::new(Trust::public(config.ca_files.clone()));
        let http = direct.clone().through(config.proxy.clone());
        let region = config.region.as_deref().or(region).unwrap_or(DEFAULT_REGION);
        let api = |given: &Option<String>, service| {
            given.clone().unwrap_or_else(|| endpoint(service, region, config.use_fips, config.use_dualstack))
        };
        let public_s3 = || Endpoint::public(region, config.use_fips, config.use_dualstack);
        let endpoints = Endpoints {
            s3: config.s3_endpoint.clone().map_or_else(public_s3, Endpoint::Given),
            ssm: api(&config.ssm_endpoint, "ssm"),
            autoscaling: api(&config.autoscaling_endpoint, "autoscaling"),
        };
        let imds = Arc::new(imds);
        let provider = Provider::new(config.credentials.clone(), imds.clone(), direct);
        let caller = Arc::new(SigningClient::new(http, region.to_owned(), provider, imds.meters().clone()));
        let ec2 = Arc::new(Ec2::new(caller.clone(), api(&config.ec2_endpoint, "ec2")));
        Self { imds, caller, ec2, endpoints }
    }

    /// Objects in S3, or in the store in its place.
    pub fn s3(&self) -> S3 {
        S3::new(self.caller.clone(), self.endpoints.s3.clone())
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
