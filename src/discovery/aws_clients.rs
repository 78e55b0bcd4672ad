//! AWS's services with these settings: endpoints, credentials, proxy and certificate authorities.

use std::sync::Arc;

use crate::aws::autoscaling::AutoScaling;
use crate::aws::credentials::{Provider, Source};
use crate::aws::ec2::Ec2;
use crate::aws::endpoint;
use crate::aws::imds::Imds;
use crate::aws::s3::{Endpoint, S3};
use crate::aws::signing_client::SigningClient;
use crate::aws::ssm::Ssm;
use crate::config;
use crate::net::http::Client;
use crate::net::tls::Trust;

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
    ssm: String,
    autoscaling: String,
}

impl Aws {
    /// The services of this region, or of the default one.
    pub fn new(config: &config::Aws, imds: Imds, region: Option<&str>) -> Self {
        // A container's credentials come from a link-local address, or the node itself: no proxy can reach that.
        let direct = Client::new(Trust::public(config.ca_files.clone()));
        let http = direct.clone().through(config.proxy.clone());
        let region = config.region.as_deref().or(region).unwrap_or(DEFAULT_REGION);
        let (given, variants) = (&config.endpoints, config.variants);
        let api =
            |given: &Option<String>, service| given.clone().unwrap_or_else(|| endpoint(service, region, variants));
        let store_region = config.store.region.as_deref().unwrap_or(region);
        let endpoints = Endpoints {
            s3: given.s3.clone().map_or_else(|| Endpoint::public(store_region, variants), Endpoint::Given),
            ssm: api(&given.ssm, "ssm"),
            autoscaling: api(&given.autoscaling, "autoscaling"),
        };
        let imds = Arc::new(imds);
        let caller = |credentials: &Source, region: &str| {
            let provider = Provider::new(credentials.clone(), imds.clone(), direct.clone());
            Arc::new(SigningClient::new(http.clone(), region.to_owned(), provider, imds.meters().clone()))
        };
        let store = match (&config.store.credentials, store_region == region) {
            (None, true) => None,
            (own, _) => Some(caller(own.as_ref().unwrap_or(&config.credentials), store_region)),
        };
        let caller = caller(&config.credentials, region);
        let ec2 = Arc::new(Ec2::new(caller.clone(), api(&given.ec2, "ec2")));
        let store = store.unwrap_or_else(|| caller.clone());
        Self { imds, caller, ec2, store, endpoints }
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
