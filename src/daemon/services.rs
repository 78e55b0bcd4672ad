//! The composition root: the only place that builds the clients and services of a supervisor from its settings.

use std::sync::Arc;

use super::claim_store::ClaimStore;
use super::earlier_snapshots::EarlierSnapshots;
use super::lifecycle_hooks::LifecycleHooks;
use super::termination_notice::TerminationNotices;
use crate::aws::imds::Imds;
use crate::aws::partition::Refusal;
use crate::aws::s3::S3;
use crate::aws::ssm::Ssm;
use crate::config::Config;
use crate::discovery::Discovery;
use crate::discovery::aws_clients::Aws;
use crate::state::store::{Identity, leave_request};

/// The services outside this host.
#[derive(Debug)]
pub struct Services {
    pub discovery: Discovery,
    /// The object that `MUSTER_CLAIM` names; shared by its readers and writers.
    pub claim: Arc<ClaimStore>,
    /// What the metadata service reports about this instance's termination.
    pub notices: Arc<TerminationNotices>,
    /// The lifecycle hooks that `MUSTER_LIFECYCLE_HOOK` names.
    pub hooks: Arc<LifecycleHooks>,
    /// Parameter Store.
    pub ssm: Ssm,
    /// What snapshots need: the store, and Parameter Store for their key.
    pub snapshots: (S3, Ssm),
    /// The snapshots of earlier clusters.
    pub earlier_snapshots: EarlierSnapshots,
}

impl Services {
    /// The services as this instance reaches them.
    ///
    /// # Errors
    /// Its partition has no endpoints of the kind that was asked for.
    pub fn new(config: &Config, imds: Imds, own: &Identity) -> Result<Self, Refusal> {
        let aws = Aws::new(&config.aws, imds, Some(own))?;
        let notices = Arc::new(TerminationNotices::new(
            aws.imds.clone(),
            config.departure.leave,
            leave_request(&config.etcd.data),
        ));
        let names = config.departure.lifecycle_hooks.clone();
        Ok(Self {
            discovery: Discovery::new(config.instances.clone(), &aws),
            claim: Arc::new(ClaimStore::new(aws.s3(), config.bootstrap.claim.clone())),
            hooks: Arc::new(LifecycleHooks::new(aws.ec2.clone(), aws.autoscaling(), notices.clone(), names)),
            notices,
            ssm: aws.ssm(),
            snapshots: (aws.s3(), aws.ssm()),
            earlier_snapshots: EarlierSnapshots::new(config.snapshots.clone(), aws.s3()),
        })
    }
}
