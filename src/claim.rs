//! The claim, where it lies: one object in S3.

use std::sync::Arc;

use hyper::body::Bytes;

use crate::aws::imds::Imds;
use crate::aws::s3::{Condition, Error, Object, S3};
use crate::cluster::claim::{Claim, Claimed};

/// The object that `MUSTER_CLAIM` names, if it names one.
#[derive(Debug)]
pub struct ClaimObject {
    imds: Arc<Imds>,
    s3: S3,
    object: Option<Object>,
}

impl ClaimObject {
    /// That object, in that S3.
    pub fn new(imds: Arc<Imds>, s3: S3, object: Option<Object>) -> Self {
        Self { imds, s3, object }
    }

    /// The claim as it is now (S3 reads are consistent: what was written before is seen).
    pub async fn read(&self) -> Claimed {
        let Some(object) = &self.object else { return Claimed::NotAsked };
        match self.s3.get(&self.imds, object).await {
            Ok(None) => Claimed::Absent,
            Ok(Some(stored)) => match serde_json::from_slice(&stored.body) {
                Ok(claim) => Claimed::Held { claim, version: stored.version },
                Err(cause) => Claimed::Unknown(format!("{object} holds something else: {cause}")),
            },
            Err(error) => Claimed::Unknown(error.to_string()),
        }
    }

    /// Writes the claim, if there is none, or if it is still that version; false: somebody else did.
    ///
    /// # Errors
    /// [`Error`]: what became of it shows when it is read.
    pub async fn write(&self, claim: &Claim, replaces: Option<&str>) -> Result<bool, Error> {
        let Some(object) = &self.object else { return Ok(false) };
        let malformed =
            |e: serde_json::Error| Error::Malformed { object: Box::new(object.clone()), cause: e.to_string() };
        let body = serde_json::to_vec(claim).map_err(malformed)?;
        let condition = replaces.map_or(Condition::Absent, Condition::Unchanged);
        self.s3.put(&self.imds, object, Bytes::from(body), condition).await
    }
}
