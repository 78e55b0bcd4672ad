//! How often each of AWS's services was called, and how often a call failed: counted by the callers, read by the status pages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Api {
    Imds,
    Ec2,
    S3,
    AutoScaling,
    Ssm,
    Sts,
}

impl Api {
    /// All services.
    pub const ALL: [Self; 6] = [Self::Imds, Self::Ec2, Self::S3, Self::AutoScaling, Self::Ssm, Self::Sts];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Imds => "imds",
            Self::Ec2 => "ec2",
            Self::S3 => "s3",
            Self::AutoScaling => "autoscaling",
            Self::Ssm => "ssm",
            Self::Sts => "sts",
        }
    }
}

/// The counts, shared by all callers and readers.
#[derive(Clone, Debug, Default)]
pub struct ApiCounters(Arc<[Meter; 6]>);

#[derive(Debug, Default)]
struct Meter {
    calls: AtomicU64,
    errors: AtomicU64,
}

impl ApiCounters {
    /// A request is sent; each retry counts.
    pub fn called(&self, api: Api) {
        self.of(api).calls.fetch_add(1, Ordering::Relaxed);
    }

    /// An attempt failed, also if only credentials were missing.
    pub fn failed(&self, api: Api) {
        self.of(api).errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls so far.
    pub fn calls(&self, api: Api) -> u64 {
        self.of(api).calls.load(Ordering::Relaxed)
    }

    /// Failed attempts so far.
    pub fn errors(&self, api: Api) -> u64 {
        self.of(api).errors.load(Ordering::Relaxed)
    }

    fn of(&self, api: Api) -> &Meter {
        &self.0[api as usize]
    }
}
