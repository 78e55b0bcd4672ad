//! Access to the claim: one object in S3.
//!
//! AWS documents conditional writes; another store may silently ignore the conditions. So such a store is tested first, on an
//! object of our own beside the claim.

use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use serde_json::json;

use crate::aws::s3::{Condition, Error, Object, Put, S3};
use crate::core::types::InstanceId;
use crate::core::view::Claim;
use crate::core::view::ClaimState;
use crate::util::backoff::Backoff;
use crate::util::clock;
use crate::util::lock::lock;

/// The pause before a store that failed its test is tested again; it may have been fixed.
const FIRST_RETRIAL: Duration = Duration::from_secs(1);
/// The pause before a refused write is repeated.
const FIRST_SETBACK: Duration = Duration::from_millis(100);
/// Both double up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// An ETag that no object has: an MD5 whose text is unknown.
const NO_VERSION: &str = "00000000000000000000000000000000";

/// The object that `MUSTER_CLAIM` names, if it is set.
#[derive(Debug)]
pub struct ClaimStore {
    s3: S3,
    object: Option<Object>,
    /// The instance for which a test is made. Unset: nothing is ever written.
    trial_instance: OnceLock<InstanceId>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    trial: Trial,
    setback: Setback,
}

/// What is known about the store.
#[derive(Debug, Default)]
enum Trial {
    #[default]
    Untried,
    Passed,
    Failed {
        cause: String,
        pauses: Backoff,
        again_at: Instant,
    },
}

/// Consecutive refusals of a write over the same version.
#[derive(Debug)]
struct Setback {
    replaces: Option<String>,
    pauses: Backoff,
}

impl Default for Setback {
    fn default() -> Self {
        Self { replaces: None, pauses: Backoff::new(FIRST_SETBACK, LONGEST_PAUSE) }
    }
}

impl Setback {
    /// How long to wait after another refusal.
    fn another(&mut self, replaces: Option<&str>) -> Duration {
        if self.replaces.as_deref() != replaces {
            *self = Self { replaces: replaces.map(str::to_owned), ..Self::default() };
        }
        self.pauses.pause()
    }
}

/// The result of a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wrote {
    Done,
    /// The write was refused. `fault`: although no other claim exists, so the store is at fault. To be repeated after that
    /// pause.
    Refused {
        fault: Option<String>,
        pause: Duration,
    },
}

impl ClaimStore {
    pub fn new(s3: S3, object: Option<Object>) -> Self {
        Self { s3, object, trial_instance: OnceLock::new(), state: Mutex::default() }
    }

    /// From now on the store is tested, as this instance, before anything depends on it.
    pub fn try_as(&self, instance: InstanceId) {
        let _once = self.trial_instance.set(instance);
    }

    /// The claim as it is now (S3 reads are consistent: an earlier write is always seen).
    pub async fn read(&self) -> ClaimState {
        let Some(object) = &self.object else { return ClaimState::NotAsked };
        match self.s3.get(object).await {
            Ok(None) => ClaimState::Absent,
            Ok(Some(stored)) => match serde_json::from_slice(&stored.body) {
                Ok(claim) => ClaimState::Held { claim, version: stored.version },
                Err(cause) => ClaimState::Unknown(format!("{object} is not a claim: {cause}")),
            },
            Err(error) => ClaimState::Unknown(error.to_string()),
        }
    }

    /// Writes the claim if there is none, or if it still has that version.
    ///
    /// # Errors
    /// [`Error`]: whether the write took effect shows when the claim is read.
    pub async fn write(&self, claim: &Claim, replaces: Option<&str>) -> Result<Wrote, Error> {
        let Some(object) = &self.object else {
            return Ok(Wrote::Refused { fault: None, pause: LONGEST_PAUSE });
        };
        let malformed = |e: serde_json::Error| Error::Malformed { place: object.to_string(), cause: e.to_string() };
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
                        "{object}: the store refuses a write with If-Match although the object's ETag is still {version}"
                    ),
                    None => format!(
                        "{object}: the store refuses a write with If-None-Match: * although the object does not exist"
                    ),
                })
            }
        };
        let pause = self.state().setback.another(replaces);
        Ok(Wrote::Refused { fault, pause })
    }

    /// Makes sure that the store respects conditions and keeps what it accepts. Tested until it does; after a failure, not
    /// before a pause that grows. AWS's own S3 is documented, so it is not tested.
    ///
    /// # Errors
    /// Why the store can't be used for claims, or why that is unknown.
    pub async fn prove(&self) -> Result<(), String> {
        let (Some(object), Some(instance), Some(endpoint)) = (&self.object, self.trial_instance.get(), self.s3.given())
        else {
            return Ok(());
        };
        let mut pauses = match &self.state().trial {
            Trial::Passed => return Ok(()),
            Trial::Failed { cause, again_at, .. } if clock::now() < *again_at => return Err(cause.clone()),
            Trial::Failed { pauses, .. } => *pauses,
            Trial::Untried => Backoff::new(FIRST_RETRIAL, LONGEST_PAUSE),
        };
        let beside = beside(object, instance);
        let cause = match self.try_out(&beside).await {
            Ok(None) => {
                self.state().trial = Trial::Passed;
                return Ok(());
            }
            Ok(Some(fault)) => format!(
                "the store at {endpoint} can't be used for claims: {fault} (tested with {beside}); use one that \
                 supports If-None-Match and If-Match, or unset MUSTER_CLAIM on all nodes"
            ),
            Err(error) => format!("the store at {endpoint} can't be tested: {error}"),
        };
        let again_at = clock::now() + pauses.pause();
        self.state().trial = Trial::Failed { cause: cause.clone(), pauses, again_at };
        Err(cause)
    }

    /// The test; returns what the store did wrong. The object stays, so that it already exists at the second start.
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
            None if is_new => return fault("an object that it accepted can't be read afterwards"),
            None => return fault("it refuses a write with If-None-Match: * although the object does not exist"),
            Some(found) if is_new && found.body != first => return fault("it serves something else than was written"),
            Some(found) => found,
        };
        if is_new && put(&anything(), Condition::Absent).await? == Put::Written {
            return fault("it accepts a write with If-None-Match: * although the object exists");
        }
        if put(&anything(), Condition::Unchanged(NO_VERSION)).await? == Put::Written {
            return fault("it accepts a write with If-Match although the ETag is not the object's");
        }
        let last = anything();
        if put(&last, Condition::Unchanged(&found.version)).await? != Put::Written {
            return match get().await? {
                Some(again) if again.version == found.version => {
                    fault("it refuses a write with If-Match although the ETag is the object's")
                }
                _ => Err(Error::Malformed {
                    place: object.to_string(),
                    cause: "something else writes to the same object; give each instance and each cluster its own name"
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
        lock(&self.state)
    }
}

/// An object of this instance's own, so that no two instances use the same: `claim-trial-INSTANCE.json` beside `claim.json`.
fn beside(claim: &Object, instance: &InstanceId) -> Object {
    let key = claim.key.strip_suffix(".json").unwrap_or(&claim.key);
    Object { bucket: claim.bucket.clone(), key: format!("{key}-trial-{instance}.json") }
}

/// A unique body, so that its ETag is unique too.
fn anything() -> Bytes {
    let about = "etcd-muster uses this object to test the store's conditional writes";
    Bytes::from(json!({ "about": about, "random": format!("{:016x}", clock::random()) }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::ClusterId;
    use crate::daemon::test_support::{FakeStore, config, services};
    use crate::net::scripted::Reply;

    const CLAIM: &str = "/bucket/claim.json";
    const TRIAL: &str = "/bucket/claim-trial-i-a.json";

    async fn claimed() -> (FakeStore, std::sync::Arc<ClaimStore>) {
        let store = FakeStore::start().await;
        let claim = services(&config(&store.server.url, &[("MUSTER_CLAIM", "s3://bucket")])).claim;
        (store, claim)
    }

    fn established(cluster: u64) -> Claim {
        Claim::Established { cluster: ClusterId(cluster) }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_is_read_and_only_over_the_version_it_replaces() {
        let (store, claim) = claimed().await;
        assert_eq!(claim.read().await, ClaimState::Absent);
        assert_eq!(claim.write(&established(1), None).await.unwrap(), Wrote::Done);
        let ClaimState::Held { claim: held, version } = claim.read().await else { panic!("it is there") };
        assert_eq!((held, version.as_str()), (established(1), "v1"));
        // Another writer was faster: not the store's fault.
        for replaces in [None, Some("v0")] {
            let wrote = claim.write(&established(2), replaces).await.unwrap();
            assert!(matches!(wrote, Wrote::Refused { fault: None, .. }), "{wrote:?}");
        }
        assert_eq!(claim.write(&established(2), Some("v1")).await.unwrap(), Wrote::Done);
        assert_eq!(store.text(CLAIM).unwrap(), serde_json::to_string(&established(2)).unwrap());
    }

    /// Unknown is never absent.
    #[tokio::test(start_paused = true)]
    async fn a_claim_that_cannot_be_read_is_not_absent() {
        let (store, claim) = claimed().await;
        let denied = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>".to_owned();
        let no_bucket = "<Error><Code>NoSuchBucket</Code><Message>none</Message></Error>".to_owned();
        for reply in [
            Reply::Answer(403, denied),
            Reply::Answer(404, no_bucket),
            Reply::status(404),
            Reply::status(500),
            Reply::Headed(200, ("etag", "v".to_owned()), "{}".to_owned()),
            Reply::ok(r#"{"state": "established", "cluster": 1}"#),
            Reply::Silence,
        ] {
            store.now(|holds| holds.instead = vec![("GET", reply.clone())]);
            let read = claim.read().await;
            assert!(matches!(read, ClaimState::Unknown(_)), "{reply:?}: {read:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_is_refused_over_an_unchanged_object_is_the_stores_fault_and_waited_for_longer() {
        let (store, claim) = claimed().await;
        store.now(|holds| holds.instead = vec![("PUT", Reply::status(412))]);
        let refused = async |replaces| match claim.write(&established(1), replaces).await.unwrap() {
            Wrote::Refused { fault: Some(fault), pause } => (fault, pause),
            other => panic!("{other:?}"),
        };
        let (fault, first) = refused(None).await;
        assert!(fault.contains("refuses a write with If-None-Match: * although the object does not exist"), "{fault}");
        assert_eq!((first, refused(None).await.1), (FIRST_SETBACK, FIRST_SETBACK * 2));
        store.now(|holds| _ = holds.objects.insert(CLAIM.to_owned(), (4, String::new())));
        let (fault, pause) = refused(Some("v4")).await;
        assert!(fault.contains("the object's ETag is still v4"), "{fault}");
        assert_eq!(pause, FIRST_SETBACK, "of another version");
        store.now(|holds| holds.instead = vec![("PUT", Reply::status(409))]);
        let raced = claim.write(&established(1), Some("v4")).await.unwrap();
        assert_eq!(raced, Wrote::Refused { fault: None, pause: FIRST_SETBACK * 2 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_keep_to_conditions_is_refused_and_tried_again_ever_more_seldom() {
        let (store, claim) = claimed().await;
        claim.try_as(InstanceId("i-a".to_owned()));
        store.now(|holds| holds.ignores_conditions = true);
        let unfit = claim.prove().await.unwrap_err();
        assert!(unfit.contains("it accepts a write with If-None-Match: * although the object exists"), "{unfit}");
        assert!(unfit.contains(&format!("tested with s3:/{TRIAL}")), "{unfit}");
        let asked = || store.server.asked().len();
        let (tried, mut trials) = (asked(), 0);
        let began = clock::now();
        while clock::now() - began < LONGEST_PAUSE * 4 {
            let before = asked();
            assert!(claim.prove().await.is_err());
            trials += usize::from(asked() > before);
            clock::pause(FIRST_RETRIAL / 2).await;
        }
        // After 1, 2, 4, … 32 s, and then once a minute.
        assert!(tried > 0 && (8..=10).contains(&trials), "{trials}");
        store.now(|holds| holds.ignores_conditions = false);
        clock::pause(LONGEST_PAUSE).await;
        assert_eq!(claim.prove().await, Ok(()));
        let settled = asked();
        clock::pause(LONGEST_PAUSE).await;
        assert_eq!((claim.prove().await, asked()), (Ok(()), settled), "a store that passed is not tried again");
        assert!(store.text(CLAIM).is_none(), "the claim itself was never touched");
    }

    #[tokio::test(start_paused = true)]
    async fn each_way_to_fail_the_trial_has_its_word() {
        for (instead, fault) in [
            (("PUT", Reply::ok("")), "an object that it accepted can't be read afterwards"),
            (
                ("PUT", Reply::status(412)),
                "it refuses a write with If-None-Match: * although the object does not exist",
            ),
            (("GET", Reply::Headed(200, ("etag", "v1".to_owned()), "x".to_owned())), "it serves something else"),
            (
                ("PUT /bucket/claim-trial-i-a.json if-match=v1", Reply::status(412)),
                "If-Match although the ETag is the object's",
            ),
            (
                ("PUT /bucket/claim-trial-i-a.json if-match=0", Reply::ok("")),
                "If-Match although the ETag is not the object's",
            ),
            (("GET", Reply::status(500)), "can't be tested"),
        ] {
            let (store, claim) = claimed().await;
            claim.try_as(InstanceId("i-a".to_owned()));
            store.now(|holds| holds.instead = vec![instead.clone()]);
            let unfit = claim.prove().await.unwrap_err();
            assert!(unfit.contains(fault), "{instead:?}: {unfit}");
        }
    }

    /// As in `plan`, which writes nothing.
    #[tokio::test(start_paused = true)]
    async fn without_an_instance_to_try_it_as_no_store_is_tried() {
        let (store, claim) = claimed().await;
        assert_eq!(claim.prove().await, Ok(()));
        assert!(store.server.asked().is_empty());
    }

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
