//! How often each of AWS's services was called, and how often in vain: counted where it is called, read where it is shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A service that is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Api {
    Imds,
    Ec2,
    S3,
    AutoScaling,
    Ssm,
}

impl Api {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Imds, Self::Ec2, Self::S3, Self::AutoScaling, Self::Ssm];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Imds => "imds",
            Self::Ec2 => "ec2",
            Self::S3 => "s3",
            Self::AutoScaling => "autoscaling",
            Self::Ssm => "ssm",
        }
    }
}

/// The counts, shared by all who count and all who read.
#[derive(Clone, Debug, Default)]
pub struct ApiCounters(Arc<[Meter; 5]>);

#[derive(Debug, Default)]
struct Meter {
    calls: AtomicU64,
    errors: AtomicU64,
}

impl ApiCounters {
    /// A request goes out; a retry is one more.
    pub fn called(&self, api: Api) {
        self.of(api).calls.fetch_add(1, Ordering::Relaxed);
    }

    /// An attempt came to nothing, be it for want of credentials.
    pub fn failed(&self, api: Api) {
        self.of(api).errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls so far.
    pub fn calls(&self, api: Api) -> u64 {
        self.of(api).calls.load(Ordering::Relaxed)
    }

    /// Retries so far that came to nothing.
    pub fn errors(&self, api: Api) -> u64 {
        self.of(api).errors.load(Ordering::Relaxed)
    }

    fn of(&self, api: Api) -> &Meter {
        &self.0[api as usize]
    }
}
