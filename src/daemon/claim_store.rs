//! The claim, where it lies: one object in S3.
//!
//! AWS documents conditional writes; a store that was given in its place may do with them what it likes, in silence. So it is tried
//! first, on an object of our own beside the claim.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use serde_json::json;

use crate::aws::s3::{Condition, Error, Object, Put, S3};
use crate::core::types::InstanceId;
use crate::core::view::Claim;
use crate::core::view::ClaimState;
use crate::util::clock;

/// Before a store that failed its trial is tried again; it may be mended.
const FIRST_RETRIAL: Duration = Duration::from_secs(1);
/// Before a write that was refused is tried again.
const FIRST_SETBACK: Duration = Duration::from_millis(100);
/// Both double up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// No object's ETag: an MD5 that nobody knows the text of.
const NO_VERSION: &str = "00000000000000000000000000000000";

/// The object that `MUSTER_CLAIM` names, if it names one.
#[derive(Debug)]
pub struct ClaimStore {
    s3: S3,
    object: Option<Object>,
    /// Whose object a trial is made on. Unset: nothing is ever written.
    tried_as: OnceLock<InstanceId>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    trial: Trial,
    setback: Setback,
}

/// What is known of the store.
#[derive(Debug, Default)]
enum Trial {
    #[default]
    Untried,
    Passed,
    Failed {
        cause: String,
        pause: Duration,
        again_at: Instant,
    },
}

/// Refusals on end of a write over the same version.
#[derive(Debug, Default)]
struct Setback {
    replaces: Option<String>,
    pause: Duration,
}

impl Setback {
    /// How long to wait after another one.
    fn another(&mut self, replaces: Option<&str>) -> Duration {
        if self.replaces.as_deref() != replaces {
            *self = Self { replaces: replaces.map(str::to_owned), pause: Duration::ZERO };
        }
        self.pause = longer(self.pause, FIRST_SETBACK);
        self.pause
    }
}

/// What became of a claim that was to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wrote {
    Done,
    /// It was refused. `fault`: and there is no other claim, so that it is the store that is to blame. To be tried again after that pause.
    Refused {
        fault: Option<String>,
        pause: Duration,
    },
}

impl ClaimStore {
    /// That object, in that S3.
    pub fn new(s3: S3, object: Option<Object>) -> Self {
        Self { s3, object, tried_as: OnceLock::new(), state: Mutex::default() }
    }

    /// From now on the store is tried, as this instance, before anything depends on it.
    pub fn is_tried_as(&self, instance: InstanceId) {
        let _once = self.tried_as.set(instance);
    }

    /// The claim as it is now (S3 reads are consistent: what was written before is seen).
    pub async fn read(&self) -> ClaimState {
        let Some(object) = &self.object else { return ClaimState::NotAsked };
        match self.s3.get(object).await {
            Ok(None) => ClaimState::Absent,
            Ok(Some(stored)) => match serde_json::from_slice(&stored.body) {
                Ok(claim) => ClaimState::Held { claim, version: stored.version },
                Err(cause) => ClaimState::Unknown(format!("{object} holds something else: {cause}")),
            },
            Err(error) => ClaimState::Unknown(error.to_string()),
        }
    }

    /// Writes the claim, if there is none, or if it is still that version.
    ///
    /// # Errors
    /// [`Error`]: what became of it shows when it is read.
    pub async fn write(&self, claim: &Claim, replaces: Option<&str>) -> Result<Wrote, Error> {
        let Some(object) = &self.object else {
            return Ok(Wrote::Refused { fault: None, pause: LONGEST_PAUSE });
        };
        let malformed =
            |e: serde_json::Error| Error::Malformed { object: Box::new(object.clone()), cause: e.to_string() };
        let body = serde_json::to_vec(claim).map_err(malformed)?;
        let condition = replaces.map_or(Condition::Absent, Condition::Unchanged);
        let fault = match self.s3.put(object, Bytes::from(body), condition).await? {
            Put::Written => {
                self.state().setback = Setback::default();
                return Ok(Wrote::Done);
            }
            Put::Raced => None,
            Put::Refused => {
                let found = self.s3.get(object).await?;
                let unchanged = found.as_ref().map(|stored| stored.version.as_str()) == replaces;
                unchanged.then(|| match replaces {
                    Some(version) => format!(
                        "{object}: the store refuses a write with If-Match, and the object's ETag is still {version}"
                    ),
                    None => format!(
                        "{object}: the store refuses a write with If-None-Match: *, and there is no such object"
                    ),
                })
            }
        };
        let pause = self.state().setback.another(replaces);
        Ok(Wrote::Refused { fault, pause })
    }

    /// Whether the store keeps to conditions, and keeps what it takes: tried until it does, after it failed no sooner than after a
    /// pause that grows. What AWS's own S3 does is documented, and not tried.
    ///
    /// # Errors
    /// Why it can't hold a claim, or why that isn't known.
    pub async fn prove(&self) -> Result<(), String> {
        let (Some(object), Some(instance), Some(endpoint)) = (&self.object, self.tried_as.get(), self.s3.given())
        else {
            return Ok(());
        };
        let last_pause = match &self.state().trial {
            Trial::Passed => return Ok(()),
            Trial::Failed { cause, again_at, .. } if clock::now() < *again_at => return Err(cause.clone()),
            Trial::Failed { pause, .. } => *pause,
            Trial::Untried => Duration::ZERO,
        };
        let beside = beside(object, instance);
        let cause = match self.try_out(&beside).await {
            Ok(None) => {
                self.state().trial = Trial::Passed;
                return Ok(());
            }
            Ok(Some(fault)) => format!(
                "the store at {endpoint} can't hold a claim: {fault} (tried on {beside}); use one that keeps to If-None-Match and \
                 If-Match, or unset MUSTER_CLAIM on all nodes"
            ),
            Err(error) => format!("the store at {endpoint} can't be tried: {error}"),
        };
        let pause = longer(last_pause, FIRST_RETRIAL);
        self.state().trial = Trial::Failed { cause: cause.clone(), pause, again_at: clock::now() + pause };
        Err(cause)
    }

    /// The trial; what the store did wrong. The object stays, so that from the second start on it is there from before.
    async fn try_out(&self, object: &Object) -> Result<Option<String>, Error> {
        let put = |body: &Bytes, condition| {
            let body = body.clone();
            async move { self.s3.put(object, body, condition).await }
        };
        let get = || self.s3.get(object);
        let fault = |fault: &str| Ok(Some(fault.to_owned()));
        let first = anything();
        let is_new = put(&first, Condition::Absent).await? == Put::Written;
        let found = match get().await? {
            None if is_new => return fault("what it takes can't be read afterwards"),
            None => return fault("it refuses a write with If-None-Match: * where there is no object"),
            Some(found) if is_new && found.body != first => return fault("it serves something else than was written"),
            Some(found) => found,
        };
        if is_new && put(&anything(), Condition::Absent).await? == Put::Written {
            return fault("it takes a write with If-None-Match: * where there is an object");
        }
        if put(&anything(), Condition::Unchanged(NO_VERSION)).await? == Put::Written {
            return fault("it takes a write with If-Match of another ETag than the object's");
        }
        let last = anything();
        if put(&last, Condition::Unchanged(&found.version)).await? != Put::Written {
            return match get().await? {
                Some(again) if again.version == found.version => {
                    fault("it refuses a write with If-Match of the object's own ETag")
                }
                _ => Err(Error::Malformed {
                    object: Box::new(object.clone()),
                    cause: "somebody else writes there; give each instance, and each cluster, names of its own"
                        .to_owned(),
                }),
            };
        }
        match get().await? {
            Some(found) if found.body == last => Ok(None),
            _ => fault("it serves something else than was written"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object of this instance's own, so that no two ever meet there: `claim-trial-INSTANCE.json` beside `claim.json`.
fn beside(claim: &Object, instance: &InstanceId) -> Object {
    let key = claim.key.strip_suffix(".json").unwrap_or(&claim.key);
    Object { bucket: claim.bucket.clone(), key: format!("{key}-trial-{instance}.json") }
}

/// A body like no other, so that its ETag is, too.
fn anything() -> Bytes {
    let about = "etcd-muster tries here whether this store keeps to conditional writes";
    Bytes::from(json!({ "about": about, "random": format!("{:016x}", clock::random()) }).to_string())
}

fn longer(pause: Duration, first: Duration) -> Duration {
    (pause * 2).clamp(first, LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trial_is_made_beside_the_claim_and_by_each_for_itself() {
        let claim = |key: &str| Object { bucket: "b".to_owned(), key: key.to_owned() };
        let of = |key: &str, id: &str| beside(&claim(key), &InstanceId(id.to_owned())).to_string();
        assert_eq!(of("prod/claim.json", "i-0a1"), "s3://b/prod/claim-trial-i-0a1.json");
        assert_eq!(of("claim.json", "db-1"), "s3://b/claim-trial-db-1.json");
        assert_ne!(anything(), anything());
    }

    #[test]
    fn refusals_over_one_version_are_waited_for_ever_longer() {
        let mut setback = Setback::default();
        let pauses: Vec<_> = (0..12).map(|_| setback.another(Some("v1"))).collect();
        assert_eq!(pauses[..3], [FIRST_SETBACK, FIRST_SETBACK * 2, FIRST_SETBACK * 4]);
        assert!(pauses.windows(2).all(|two| two[0] < two[1] || two[1] == LONGEST_PAUSE), "{pauses:?}");
        assert_eq!(pauses[11], LONGEST_PAUSE);
        assert_eq!(setback.another(Some("v2")), FIRST_SETBACK, "somebody wrote: it is another claim");
        assert_eq!(setback.another(None), FIRST_SETBACK);
    }
}
