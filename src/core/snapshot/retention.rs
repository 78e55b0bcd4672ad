//! Which snapshots may be deleted. Nothing is, unless all of this is proved:
//!
//! - the listing is complete, and a snapshot was just stored, or was found to hold all that there is;
//! - its manifest was understood, is of this cluster and has its data;
//! - it was scheduled, and no cluster was restored from it;
//! - at least [`FLOOR`] verified ones of this cluster are newer. (So also of one that is not verified: it may become so at any moment.)
//! - no hour, day or week that is to be kept needs it.
//!
//! Newer means a greater name, so a revision and raft index: never a later time. Hours, days and weeks are counted, not measured: of the last 24
//! in which there is a snapshot, however long ago they are by whichever clock. So no clock can empty a place, nor can an outage.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::super::types::ClusterId;
use super::manifest::{Manifest, Reason, seconds};
use super::name::{Kind, Name};

/// So many verified snapshots of a cluster stay, whatever else is to be kept.
pub const FLOOR: usize = 3;

/// How many hours, days and weeks keep their newest snapshot (`MUSTER_SNAPSHOT_KEEP`). Only those in which there is one count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keep {
    pub hours: usize,
    pub days: usize,
    pub weeks: usize,
}

/// An object at the place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// Its key, below the place.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// What it holds, if its key is a manifest's; `Err`: why it is not understood, or could not be read.
    pub manifest: Option<Result<Manifest, String>>,
}

/// What the place is to be judged by.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// All that is there; `Err`: why that is not known.
    pub listing: Result<&'a [Object], String>,
    /// The cluster that lives.
    pub cluster: ClusterId,
    /// The snapshots from which clusters were restored.
    pub seeds: &'a BTreeSet<Name>,
    pub keep: Keep,
    /// The snapshot that was just stored, or is still all that there is; `Err`: why there is none. Greater names are none of its business: the
    /// cluster's revision may have gone back, or another leader's are newer.
    pub latest: Result<Name, String>,
    /// The instance of which it is certain that no upload runs; data without a manifest elsewhere may still get one.
    pub idle_writer: Option<&'a str>,
}

/// What may be deleted, and what stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Oldest first.
    pub delete: Vec<Deletion>,
    /// Every other object that is no data with a manifest, by key.
    pub kept: BTreeMap<String, Kept>,
}

/// A snapshot that may be deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deletion {
    pub name: Name,
    /// The keys to delete, in this order: the manifest, by which it exists, before the data.
    pub keys: Vec<String>,
    /// Bytes that this frees.
    pub size: u64,
    pub why: Superseded,
}

/// Why a snapshot may be deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Superseded {
    /// No hour, day or week needs it, and this verified one is newer.
    By(Name),
    /// It never became a snapshot: its upload ended before the manifest, and this newer one did not.
    Unfinished(Name),
}

/// Why an object stays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// Nothing may be deleted now.
    Held(String),
    /// Its key is not one of a snapshot.
    Foreign,
    /// It is of another cluster.
    OfCluster(ClusterId),
    /// Its manifest is not understood.
    NotUnderstood(String),
    /// Its data is missing or has another length.
    WithoutData,
    /// It has no manifest, and one may still follow.
    WithoutManifest,
    /// It was not taken by the schedule.
    Asked(Reason),
    /// A cluster was restored from it.
    Seed,
    /// It is greater than the latest one.
    Newer,
    /// Fewer than [`FLOOR`] verified ones are newer.
    Floor,
    /// It is the newest of an hour, a day or a week that is to be kept.
    Newest(&'static str),
}

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::By(name) => write!(f, "no hour, day or week to be kept needs it, and {name} is newer and verified"),
            Self::Unfinished(name) => write!(f, "its upload ended before its manifest, and {name} is newer"),
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(why) => f.write_str(why),
            Self::Foreign => f.write_str("it is no snapshot of ours"),
            Self::OfCluster(cluster) => write!(f, "it is of another cluster, {cluster}"),
            Self::NotUnderstood(why) => write!(f, "its manifest is not understood: {why}"),
            Self::WithoutData => f.write_str("its data is missing or has another length"),
            Self::WithoutManifest => f.write_str("it has no manifest, and one may still follow"),
            Self::Asked(reason) => write!(f, "it was not scheduled but {}", reason.name()),
            Self::Seed => f.write_str("a cluster was restored from it"),
            Self::Newer => f.write_str("it is newer than the one that was just taken"),
            Self::Floor => write!(f, "fewer than {FLOOR} newer ones are verified"),
            Self::Newest(span) => write!(f, "it is the newest of its {span}"),
        }
    }
}

/// Judges a place.
pub fn plan(question: &Question<'_>) -> Plan {
    let mut plan = Plan::default();
    let objects = match &question.listing {
        Ok(objects) => *objects,
        Err(_) => return plan,
    };
    let held = question.latest.as_ref().err().map(|why| format!("the last snapshot failed: {why}"));
    let sizes: BTreeMap<&str, u64> = objects.iter().map(|object| (object.key.as_str(), object.size)).collect();
    let mut ours = BTreeMap::new();
    for object in objects {
        let kept = match (Name::of_key(&object.key), &object.manifest) {
            (None, _) => Kept::Foreign,
            (Some((name, Kind::Data)), _) if sizes.contains_key(name.manifest_key().as_str()) => continue,
            (Some((name, _)), _) if name.cluster != question.cluster => Kept::OfCluster(name.cluster),
            (Some((name, Kind::Data)), _) => match (&held, unfinished(question, &name)) {
                (Some(why), _) => Kept::Held(why.clone()),
                (None, None) => Kept::WithoutManifest,
                (None, Some(why)) => {
                    plan.delete.push(Deletion { keys: vec![object.key.clone()], size: object.size, name, why });
                    continue;
                }
            },
            (Some((name, Kind::Manifest)), manifest) => {
                let manifest = manifest.as_ref().map(|read| read.as_ref().map_err(String::as_str));
                let manifest = manifest.unwrap_or(Err("it was not read"));
                match manifest.map(|manifest| (manifest, manifest.fault(&name))) {
                    Err(why) => Kept::NotUnderstood(why.to_owned()),
                    Ok((_, Some(why))) => Kept::NotUnderstood(why),
                    Ok((manifest, _)) if sizes.get(name.data_key().as_str()) != Some(&manifest.size) => {
                        Kept::WithoutData
                    }
                    Ok((manifest, None)) => {
                        ours.insert(name, manifest);
                        continue;
                    }
                }
            }
        };
        plan.kept.insert(object.key.clone(), kept);
    }
    judge(question, held.as_deref(), &ours, &mut plan);
    plan.delete.sort_by(|a, b| a.name.cmp(&b.name));
    plan
}

/// Why data without a manifest may be deleted: its writer is known to write nothing now, and has since stored a newer one.
fn unfinished(question: &Question<'_>, name: &Name) -> Option<Superseded> {
    let latest = question.latest.as_ref().ok().filter(|latest| latest.cluster == question.cluster)?;
    let is_idle = question.idle_writer == Some(name.instance.as_str());
    (is_idle && name < latest).then(|| Superseded::Unfinished(latest.clone()))
}

/// Judges whole snapshots of this cluster.
fn judge(question: &Question<'_>, held: Option<&str>, ours: &BTreeMap<Name, &Manifest>, plan: &mut Plan) {
    // The cluster's own, up to the latest one, newest first.
    let up_to_latest: Vec<(&Name, &Manifest)> = match &question.latest {
        Ok(latest) => ours.range(..=latest).map(|(name, manifest)| (name, *manifest)).rev().collect(),
        Err(_) => Vec::new(),
    };
    let verified: Vec<(&Name, &Manifest)> =
        up_to_latest.iter().copied().filter(|(_, manifest)| manifest.verified.is_some()).collect();
    let mut newest = BTreeMap::new();
    // Of an hour with one that is verified and a newer one that is not, both stay.
    for snapshots in [&up_to_latest, &verified] {
        newest_of_spans(question.keep, snapshots, &mut newest);
    }
    for (name, manifest) in ours {
        let many = verified.partition_point(|(verified, _)| *verified > name);
        let kept = if let Some(why) = held {
            Kept::Held(why.to_owned())
        } else if question.latest.as_ref().is_ok_and(|latest| name > latest) {
            Kept::Newer
        } else if manifest.reason != Reason::Scheduled {
            Kept::Asked(manifest.reason)
        } else if question.seeds.contains(name) {
            Kept::Seed
        } else if let Some(span) = newest.get(name) {
            Kept::Newest(span)
        } else if many >= FLOOR {
            let keys = vec![name.manifest_key(), name.data_key()];
            // The newest, which stays.
            let why = Superseded::By(verified[0].0.clone());
            plan.delete.push(Deletion { name: name.clone(), keys, size: manifest.size, why });
            continue;
        } else {
            Kept::Floor
        };
        plan.kept.insert(name.manifest_key(), kept);
    }
}

/// Which are the newest of the hours, days and weeks that are to be kept; they come newest first.
fn newest_of_spans<'a>(keep: Keep, snapshots: &[(&'a Name, &Manifest)], newest: &mut BTreeMap<&'a Name, &'static str>) {
    const HOUR: i64 = 3_600;
    for (span, length, many) in
        [("hour", HOUR, keep.hours), ("day", 24 * HOUR, keep.days), ("week", 7 * 24 * HOUR, keep.weeks)]
    {
        let mut seen = BTreeSet::new();
        for (name, manifest) in snapshots {
            // (A manifest without a time has a fault.)
            let at = seconds(&manifest.taken_at).map(|at| at.div_euclid(length));
            if seen.len() < many && seen.insert(at) {
                newest.entry(name).or_insert(span);
            }
        }
    }
}
