//! Brings a snapshot to a place, proves that it is there, and deletes what retention may.

use std::path::Path;
use std::time::Duration;

use hyper::body::Bytes;

use super::catalog::{parse, written};
use super::envelope::OperatorKey;
use super::place::{self, Deleted, Place, Written};
use super::spool;
use super::take::Taken;
use super::verify::{self, Stage, Trial};
use crate::core::snapshot::manifest::{Level, Manifest, Reason, Verified};
use crate::core::snapshot::name::Name;
use crate::core::snapshot::retention::{Deletion, Plan};
use crate::util::clock;
use crate::util::file_stream::Progress;

/// How often a manifest is marked again, if somebody else replaced it meanwhile.
const ATTEMPTS: u32 = 3;
/// How long another process of this node may take to store: many GiB to a slow store. One that is suspended must not end the schedule in silence.
const TURN: Duration = Duration::from_secs(30 * 60);

/// What a place has after a snapshot was brought there.
#[derive(Debug)]
pub enum Stored {
    New(Manifest),
    /// One of that name was there already: of the same moment of the same member, so it has all that this one has.
    Existed(Manifest),
}

/// Why a snapshot at a place is not verified.
#[derive(Debug, thiserror::Error)]
pub enum Unproved {
    #[error(transparent)]
    Place(#[from] place::Error),
    #[error("{0}: its manifest is not understood: {1}")]
    Manifest(String, String),
    /// It is bad, and its manifest says so from now on if that could be written.
    #[error("{object}: DAMAGED: {cause}; it is not counted as verified")]
    Bad {
        object: String,
        #[source]
        cause: verify::Error,
    },
    /// Nothing is known about it.
    #[error("{object}: not verified: {cause}")]
    Unknown {
        object: String,
        #[source]
        cause: verify::Error,
    },
    #[error("{0}: its manifest is replaced again and again; is another supervisor verifying it?")]
    Contended(String),
}

impl Unproved {
    /// For metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Place(error) => error.reason(),
            Self::Manifest(..) => "not_understood",
            Self::Bad { .. } => "damaged",
            Self::Unknown { .. } => "unverified",
            Self::Contended(_) => "contended",
        }
    }
}

/// Stores the data, looks at it, and then stores the manifest.
///
/// # Errors
/// It is no snapshot there.
pub async fn store(
    place: &Place,
    taken: &Taken,
    mut manifest: Manifest,
    progress: Progress<'_>,
) -> Result<Stored, place::Error> {
    let name = &taken.name;
    let _turn = turn(&taken.spooled.path).await?;
    let put = match place.put_data(&name.data_key(), &taken.spooled, progress).await {
        Ok(put) => put,
        // Two snapshots of an idle member are never the same bytes.
        Err(error @ place::Error::Taken { .. }) => {
            return match existing(place, name).await? {
                Some(Stored::Existed(there)) => keep_for(place, there, manifest.reason).await.map(Stored::Existed),
                _ => Err(error),
            };
        }
        Err(error) => return Err(error),
    };
    manifest.store_date = put.store_date;
    let key = name.manifest_key();
    match place.put_manifest(&key, Bytes::from(written(&manifest))).await? {
        Written::New => Ok(Stored::New(manifest)),
        Written::Exists => match existing(place, name).await? {
            // Of the same bytes: from an attempt of ours whose answer was lost, or, for etcd until 3.4 sends an idle database alike each time, from the schedule.
            Some(Stored::Existed(there)) if there.sha256 == manifest.sha256 => {
                keep_for(place, there, manifest.reason).await.map(Stored::New)
            }
            _ => Err(place::Error::Taken { object: format!("{place}/{key}") }),
        },
    }
}

async fn turn(spooled: &Path) -> Result<spool::Turn, place::Error> {
    let dir = spooled.parent().unwrap_or(Path::new("."));
    let error = |cause: std::io::Error| place::Error::Directory {
        place: dir.display().to_string(),
        kind: cause.kind(),
        cause: cause.to_string(),
    };
    spool::turn(dir, TURN).await.map_err(error)
}

/// A scheduled one of that name is from now on what was asked for, so that retention never deletes it.
async fn keep_for(place: &Place, there: Manifest, reason: Reason) -> Result<Manifest, place::Error> {
    let (name, key) = (there.name(), there.name().manifest_key());
    if reason == Reason::Scheduled || there.reason != Reason::Scheduled {
        return Ok(there);
    }
    for _ in 0..ATTEMPTS {
        let Some(stored) = place.read(&key).await? else { break };
        let Ok(mut now) = parse(&stored.body, &name) else { break };
        now.reason = reason;
        if place.replace_manifest(&key, Bytes::from(written(&now)), &stored.version).await? == Written::New {
            return Ok(now);
        }
    }
    Err(place::Error::Taken { object: format!("{place}/{key}") })
}

async fn existing(place: &Place, name: &Name) -> Result<Option<Stored>, place::Error> {
    let stored = place.read(&name.manifest_key()).await?;
    Ok(stored.and_then(|stored| parse(&stored.body, name).ok()).map(Stored::Existed))
}

/// How a snapshot is proved.
#[derive(Debug)]
pub struct Proof<'a> {
    /// Where it is fetched to ([`spool::dir_in`]).
    pub spool: &'a Path,
    pub key: Option<&'a OperatorKey>,
    /// This instance.
    pub by: &'a str,
    /// With what it is restored on trial; `None`: its digests are enough.
    pub trial: Option<Trial<'a>>,
}

/// Reads a snapshot back as a whole, compares it with its manifest, and marks the manifest: as verified, or as not. Returns the manifest as it is now.
///
/// # Errors
/// It is not verified.
pub async fn verify(
    place: &Place,
    name: &Name,
    proof: Proof<'_>,
    progress: Progress<'_>,
) -> Result<Manifest, Unproved> {
    let object = format!("{place}/{name}");
    let manifest = read(place, name, &object).await?.0;
    let level = if proof.trial.is_some() { Level::Restore } else { Level::Digest };
    let proved = prove(place, name, &manifest, proof, progress).await?;
    match proved.outcome {
        Ok(()) => {
            let verified = Verified { level, at: clock::stamp(), by: proved.by };
            mark(place, name, &object, &manifest.sha256, Some(verified)).await
        }
        Err(cause) if cause.condemns() => {
            if let Err(error) = mark(place, name, &object, &manifest.sha256, None).await {
                log::warn!("snapshot: marking it as damaged failed: {error}");
            }
            Err(Unproved::Bad { object, cause })
        }
        Err(cause) => Err(Unproved::Unknown { object, cause }),
    }
}

/// The result of a proof, and by whom.
struct Proved {
    outcome: Result<(), verify::Error>,
    by: String,
}

async fn prove(
    place: &Place,
    name: &Name,
    manifest: &Manifest,
    proof: Proof<'_>,
    progress: Progress<'_>,
) -> Result<Proved, Unproved> {
    let by = proof.by.to_owned();
    let unknown = |cause| Unproved::Unknown { object: format!("{place}/{name}"), cause };
    spool::prepare(proof.spool, manifest.size).await.map_err(|cause| unknown(verify::Error::Spool(cause)))?;
    let disk = |cause| unknown(verify::Error::Spool(spool::Error::disk(proof.spool, cause)));
    let room = spool::Room::make(proof.spool).await.map_err(disk)?;
    let copy = room.path().join("data");
    place.fetch(&name.data_key(), &copy, progress).await?;
    let plain = match (&proof.trial, &manifest.encryption) {
        (Some(_), Some(_)) => {
            Some(spool::Owned::create(proof.spool.join(spool::new_name(spool::PREFIX, spool::WHOLE))))
        }
        _ => None,
    };
    let plain = plain.transpose().map_err(disk)?;
    let mut outcome = verify::digest(&copy, manifest, proof.key, plain.as_ref(), &|_| {}).await;
    if let (Ok(()), Some(trial)) = (&outcome, proof.trial) {
        let path = plain.as_ref().map_or(copy.as_path(), spool::Owned::path);
        outcome = verify::restore(path, manifest, trial, &|_: Stage| {}).await.map(|_| ());
    }
    Ok(Proved { outcome, by })
}

async fn read(place: &Place, name: &Name, object: &str) -> Result<(Manifest, String), Unproved> {
    let stored = place.read(&name.manifest_key()).await?;
    let stored = stored.ok_or_else(|| place::Error::Absent { object: format!("{object}.json") })?;
    let manifest = parse(&stored.body, name).map_err(|why| Unproved::Manifest(object.to_owned(), why))?;
    Ok((manifest, stored.version))
}

/// Writes what was found into the manifest that is there now, if it still is of the same data.
async fn mark(
    place: &Place,
    name: &Name,
    object: &str,
    sha256: &str,
    verified: Option<Verified>,
) -> Result<Manifest, Unproved> {
    for _ in 0..ATTEMPTS {
        let (mut manifest, version) = read(place, name, object).await?;
        if manifest.sha256 != sha256 {
            break;
        }
        // A digest of what was restored once, and has not changed, still proves what the restore did.
        let level = manifest.verified.as_ref().map(|before| before.level);
        manifest.verified =
            verified.clone().map(|now| Verified { level: level.map_or(now.level, |l| l.max(now.level)), ..now });
        let bytes = Bytes::from(written(&manifest));
        if place.replace_manifest(&name.manifest_key(), bytes, &version).await? == Written::New {
            return Ok(manifest);
        }
    }
    Err(Unproved::Contended(object.to_owned()))
}

/// What of a plan was done.
#[derive(Debug, Default)]
pub struct Pruned {
    pub deleted: Vec<Deletion>,
    /// Why no more was: no right to delete, or the place failed.
    pub ended: Option<Ended>,
}

/// Why a deletion ended early.
#[derive(Debug)]
pub enum Ended {
    /// The place does not allow it: no failure, if it is meant so.
    NotAllowed(String),
    Failed(place::Error),
}

/// Does what the plan says, oldest first, each manifest before its data.
pub async fn prune(place: &Place, plan: &Plan) -> Pruned {
    let mut pruned = Pruned::default();
    for deletion in &plan.delete {
        for key in &deletion.keys {
            let ended = match place.delete(key).await {
                Ok(Deleted::Done) => continue,
                Ok(Deleted::NotAllowed(words)) => Ended::NotAllowed(words),
                Err(error) => Ended::Failed(error),
            };
            pruned.ended = Some(ended);
            return pruned;
        }
        pruned.deleted.push(deletion.clone());
    }
    pruned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::backend::sample;
    use crate::etcd::grpc::scripted::{self, Answer, Scripted};
    use crate::snapshot::place::directory::Directory;
    use crate::snapshot::take::tests::{database, messages, taken};
    use crate::util::scratch::Scratch;

    /// One by hand stays for good, also where the schedule has just stored the same: with other bytes, as etcd from 3.5 on sends them, or with the same.
    #[tokio::test]
    async fn one_by_hand_of_a_moment_that_is_stored_already_is_by_hand_from_then_on() {
        for is_same in [true, false] {
            let scratch = Scratch::make();
            let (spool, share) = (scratch.path().join("spool"), scratch.path().join("share"));
            std::fs::create_dir(&share).unwrap();
            let place = Place::Directory(Directory::new(share));
            let member = Scripted::start(Answer::snapshot(&messages(&database())), scripted::hash(99, 300, 17)).await;
            let first = taken(&member, &spool, None).await.unwrap();
            let other = [database(), sample::page(25, 0x10, 0)].concat();
            let other = Scripted::start(Answer::snapshot(&messages(&other)), scripted::hash(99, 300, 17)).await;
            let second = if is_same { None } else { Some(taken(&other, &spool, None).await.unwrap()) };
            store(&place, &first, first.manifest(Reason::Scheduled, None), &|_| {}).await.unwrap();
            let by_hand = second.as_ref().unwrap_or(&first);
            let stored = store(&place, by_hand, by_hand.manifest(Reason::ByHand, None), &|_| {}).await.unwrap();
            let (Stored::New(manifest) | Stored::Existed(manifest)) = stored;
            let there = place.read(&first.name.manifest_key()).await.unwrap().unwrap();
            let there = parse(&there.body, &first.name).unwrap();
            assert_eq!((there.reason, manifest.reason), (Reason::ByHand, Reason::ByHand), "{is_same}");
            assert_eq!(there.sha256, first.manifest(Reason::ByHand, None).sha256, "the one that was there");
            let again = store(&place, &first, first.manifest(Reason::Scheduled, None), &|_| {}).await.unwrap();
            let (Stored::New(again) | Stored::Existed(again)) = again;
            assert_eq!(again.reason, Reason::ByHand, "the schedule does not take it back");
        }
    }

    /// `snapshot save` beside the supervisor: each cleans up before it begins, while the other reads back.
    #[tokio::test]
    async fn what_is_read_back_is_not_taken_for_left_over() {
        let scratch = Scratch::make();
        let (dir, share) = (scratch.path().join("spool"), scratch.path().join("share"));
        std::fs::create_dir(&share).unwrap();
        let place = Place::Directory(Directory::new(share));
        let member = Scripted::start(Answer::snapshot(&messages(&database())), scripted::hash(99, 300, 17)).await;
        let taken = taken(&member, &dir, None).await.unwrap();
        store(&place, &taken, taken.manifest(Reason::Scheduled, None), &|_| {}).await.unwrap();
        let cleaned = std::sync::atomic::AtomicBool::new(false);
        let clean = |_| {
            spool::clean(&dir).unwrap();
            cleaned.store(true, std::sync::atomic::Ordering::Relaxed);
        };
        let proof = Proof { spool: &dir, key: None, by: "i-1", trial: None };
        let manifest = verify(&place, &taken.name, proof, &clean).await.unwrap();
        assert!(manifest.verified.is_some() && cleaned.into_inner());
        drop(taken);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "but for whose turn it is to store");
    }
}
