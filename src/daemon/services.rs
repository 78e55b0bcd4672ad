//! The composition root: the one place that builds what a supervisor asks and tells, out of its settings.

use std::sync::Arc;

use super::claim_store::ClaimStore;
use super::lifecycle_hooks::LifecycleHooks;
use super::termination_notice::TerminationNotices;
use crate::aws::imds::Imds;
use crate::aws::ssm::Ssm;
use crate::config::Config;
use crate::discovery::Discovery;
use crate::discovery::aws_clients::Aws;

/// What lies outside of this host, ready to be asked.
#[derive(Debug)]
pub struct Services {
    pub cloud: Discovery,
    /// The object that `MUSTER_CLAIM` names; shared by those who read it and those who write it.
    pub claim: Arc<ClaimStore>,
    /// What the metadata service says about this instance's end.
    pub notices: Arc<TerminationNotices>,
    /// The lifecycle hooks that `MUSTER_LIFECYCLE_HOOK` names.
    pub hooks: Arc<LifecycleHooks>,
    /// Parameter Store.
    pub ssm: Ssm,
}

impl Services {
    /// The services of this region, or of the default one.
    pub fn new(config: &Config, imds: Imds, region: Option<&str>) -> Self {
        let aws = Aws::new(config, imds, region);
        let notices = Arc::new(TerminationNotices::new(aws.imds.clone(), config.leave));
        let names = config.lifecycle_hooks.clone();
        Self {
            cloud: Discovery::new(config, &aws),
            claim: Arc::new(ClaimStore::new(aws.s3(), config.claim.clone())),
            hooks: Arc::new(LifecycleHooks::new(aws.ec2.clone(), aws.autoscaling(), notices.clone(), names)),
            notices,
            ssm: aws.ssm(),
        }
    }
}
