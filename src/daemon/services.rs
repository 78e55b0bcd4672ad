//! The composition root: the one place that builds what a supervisor asks and tells, out of its settings.

use std::sync::Arc;

use super::claim_store::ClaimObject;
use super::lifecycle_hooks::Hooks;
use super::termination_notice::Notices;
use crate::aws::imds::Imds;
use crate::aws::ssm::Ssm;
use crate::config::Config;
use crate::discovery::Cloud;
use crate::discovery::aws_clients::Aws;

/// What lies outside of this host, ready to be asked.
#[derive(Debug)]
pub struct Services {
    pub cloud: Cloud,
    /// The object that `MUSTER_CLAIM` names; shared by those who read it and those who write it.
    pub claim: Arc<ClaimObject>,
    /// What the metadata service says about this instance's end.
    pub notices: Arc<Notices>,
    /// The lifecycle hooks that `MUSTER_LIFECYCLE_HOOK` names.
    pub hooks: Arc<Hooks>,
    /// Parameter Store.
    pub ssm: Ssm,
}

impl Services {
    /// The services of this region, or of the default one.
    pub fn new(config: &Config, imds: Imds, region: Option<&str>) -> Self {
        let aws = Aws::new(config, imds, region);
        let notices = Arc::new(Notices::new(aws.imds.clone(), config.leave));
        let names = config.lifecycle_hooks.clone();
        Self {
            cloud: Cloud::new(config, &aws),
            claim: Arc::new(ClaimObject::new(aws.s3(), config.claim.clone())),
            hooks: Arc::new(Hooks::new(aws.ec2.clone(), aws.autoscaling(), notices.clone(), names)),
            notices,
            ssm: aws.ssm(),
        }
    }
}
