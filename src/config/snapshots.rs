//! Where snapshots are stored, how often, which are kept, and how they are proved and encrypted.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::aws::keeps_secrets;
use super::reader::Reader;
use super::security::{CaKey, is_secret};
use super::variables;
use crate::core::seed::Which;
use crate::core::snapshot::manifest::Level;
use crate::core::snapshot::name::{Name, parse_cluster};
use crate::core::snapshot::retention::Keep;
use crate::core::types::ClusterId;

/// More often than this is no snapshot but a load on etcd and its store.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// So many hours, days or weeks may be kept: a manifest of each is read at each round.
const MOST_KEPT: usize = 1_000;

/// The operator's decisions about snapshots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshots {
    /// `MUSTER_SNAPSHOTS`; empty: none are taken.
    pub places: Vec<Location>,
    /// `MUSTER_SNAPSHOT_EVERY`; `None`: only by hand.
    pub every: Option<Duration>,
    /// `MUSTER_SNAPSHOT_KEEP`.
    pub keep: Keep,
    /// `MUSTER_SNAPSHOT_VERIFY`.
    pub verify: Level,
    /// `MUSTER_SNAPSHOT_KEY`: the key with which they are encrypted here.
    pub key: Option<CaKey>,
    /// `MUSTER_SNAPSHOT_SSE`: how the store is asked to encrypt them.
    pub sse: Option<Sse>,
    /// `MUSTER_SEED`: what a cluster that is founded begins with.
    pub seed: Option<Source>,
}

impl Snapshots {
    /// Where snapshots of an earlier cluster may be: the places, and the one to restore from.
    pub fn sources(&self) -> Vec<Location> {
        let seed = self.seed.iter().map(|source| &source.location).filter(|location| !self.places.contains(location));
        self.places.iter().chain(seed).cloned().collect()
    }
}

/// What is to be restored: a place, and which snapshot there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    pub location: Location,
    pub which: Which,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.which {
            Which::Newest => write!(f, "{}", self.location),
            Which::Of(cluster) => write!(f, "{}/{:016x}", self.location, cluster.0),
            Which::Named(name) => write!(f, "{}/{name}", self.location),
        }
    }
}

/// A place as the operator wrote it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Location {
    /// `s3://bucket/prefix`; the prefix has no slash at its ends, and may be empty.
    Bucket { bucket: String, prefix: String },
    /// `file:/dir`.
    Directory(PathBuf),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Directory(dir) => write!(f, "file:{}", dir.display()),
        }
    }
}

/// How a store encrypts what it is given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sse {
    /// SSE-KMS, with that key of KMS or the account's own for S3.
    Kms(Option<String>),
    /// SSE-C: the file has the key, 32 bytes as base64.
    CustomerKey(PathBuf),
}

impl Reader {
    /// `store`: the endpoint for S3, if it is not AWS's own.
    pub(super) fn snapshots(&mut self, store: Option<&str>) -> Snapshots {
        let places = self.places();
        let every = self.duration(&variables::SNAPSHOT_EVERY);
        if !every.is_zero() && every < SHORTEST_INTERVAL {
            self.wrong(variables::SNAPSHOT_EVERY.name, "is too often; write 1h, or 0 for none but by hand");
        }
        Snapshots {
            places,
            every: Some(every).filter(|every| !every.is_zero()),
            keep: self.parsed(&variables::SNAPSHOT_KEEP, keep),
            verify: self.choice(&variables::SNAPSHOT_VERIFY, &[("digest", Level::Digest), ("restore", Level::Restore)]),
            key: self.snapshot_key(),
            sse: self.sse(store),
            seed: self.seed(),
        }
    }

    fn seed(&mut self) -> Option<Source> {
        const NAME: &str = variables::SEED.name;
        let value = self.text(NAME)?.to_owned();
        let parsed = source(&value);
        if parsed.is_none() {
            self.wrong(NAME, format!("is nothing to restore from; write {SOURCE_FORMS}"));
        }
        parsed
    }

    fn places(&mut self) -> Vec<Location> {
        const NAME: &str = variables::SNAPSHOTS.name;
        let value = self.text(NAME).unwrap_or_default().to_owned();
        let mut places = Vec::new();
        for word in value.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match location(word) {
                Some(place) if places.contains(&place) => self.wrong(NAME, format!("{place} is named twice")),
                Some(place) => places.push(place),
                None => self.wrong(
                    NAME,
                    format!(
                        "{word:?} is no place for snapshots; write s3://bucket/prefix or file:/dir, several with commas"
                    ),
                ),
            }
        }
        places
    }

    fn snapshot_key(&mut self) -> Option<CaKey> {
        const NAME: &str = variables::SNAPSHOT_KEY.name;
        let value = self.text(NAME)?.to_owned();
        if is_secret(NAME, &value) {
            self.wrong(NAME, "is no path; write the key into a file and give the path, or give ssm:/name");
            return None;
        }
        match value.strip_prefix("ssm:") {
            None => Some(CaKey::File(PathBuf::from(value))),
            Some(name) if CaKey::is_parameter(name) => Some(CaKey::Parameter(name.to_owned())),
            Some(_) => {
                self.wrong(NAME, "has no parameter name; write ssm:/name");
                None
            }
        }
    }

    fn sse(&mut self, store: Option<&str>) -> Option<Sse> {
        const NAME: &str = variables::SNAPSHOT_SSE.name;
        let value = self.text(NAME)?.to_owned();
        let is_key =
            |key: &str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_:/".contains(c));
        match value.strip_prefix("aws:kms") {
            Some("") => Some(Sse::Kms(None)),
            Some(key) if key.strip_prefix(':').is_some_and(is_key) => Some(Sse::Kms(Some(key[1..].to_owned()))),
            // S3 itself refuses it then, when the key has been sent.
            None if value.starts_with('/') && store.is_some_and(|url| !keeps_secrets(url, |_| false)) => {
                let store = store.unwrap_or_default();
                self.wrong(
                    NAME,
                    format!("would send the customer key unencrypted to {store}; give MUSTER_S3_ENDPOINT with https://, or encrypt with MUSTER_SNAPSHOT_KEY"),
                );
                None
            }
            None if value.starts_with('/') => Some(Sse::CustomerKey(PathBuf::from(value))),
            _ => {
                self.wrong(
                    NAME,
                    "is not aws:kms, aws:kms:KEY (a key's id or ARN), nor the path of a file with a customer key",
                );
                None
            }
        }
    }
}

/// Parses `s3://bucket/prefix` or `file:/dir`.
pub fn location(word: &str) -> Option<Location> {
    if let Some(dir) = word.strip_prefix("file:") {
        return dir.starts_with('/').then(|| Location::Directory(PathBuf::from(dir)));
    }
    let place = word.strip_prefix("s3://")?.trim_end_matches('/');
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    // (S3 User Guide, "General purpose bucket naming rules".)
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
    let is_bucket = (3..=63).contains(&bucket.len()) && bucket.chars().all(fits);
    let is_prefix = !prefix.starts_with('/') && !prefix.contains("//");
    (is_bucket && is_prefix).then(|| Location::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

/// How a source is written.
pub const SOURCE_FORMS: &str = "s3://bucket/prefix or file:/dir, perhaps with /CLUSTER or /CLUSTER/REVISION-INDEX-INSTANCE, as snapshot list shows it";

/// Parses a place, perhaps with a cluster's id or a snapshot's name behind it; `None`: it is none.
pub fn source(word: &str) -> Option<Source> {
    let (rest, last) = word.trim_end_matches('/').rsplit_once('/')?;
    if let Some((place, cluster)) = rest.rsplit_once('/')
        && let Some(name) = Name::parse(&format!("{cluster}/{last}"))
    {
        return Some(Source { location: location(place)?, which: Which::Named(name) });
    }
    match parse_cluster(last) {
        Some(cluster) => Some(Source { location: location(rest)?, which: Which::Of(ClusterId(cluster)) }),
        None => Some(Source { location: location(word)?, which: Which::Newest }),
    }
}

/// `24h,7d,4w`: each unit at most once, at least one of them.
fn keep(value: &str) -> Result<Keep, String> {
    let mut keep = Keep::default();
    let fault =
        || format!("is not what to keep; write 24h,7d,4w: of how many hours, days and weeks, each at most {MOST_KEPT}");
    let mut seen = String::new();
    for word in value.split(',').map(str::trim) {
        let (Some(number), Some(unit)) = (word.get(..word.len().saturating_sub(1)), word.chars().last()) else {
            return Err(fault());
        };
        let number = number.parse().ok().filter(|number| *number <= MOST_KEPT).ok_or_else(fault)?;
        match unit {
            _ if seen.contains(unit) => return Err(fault()),
            'h' => keep.hours = number,
            'd' => keep.days = number,
            'w' => keep.weeks = number,
            _ => return Err(fault()),
        }
        seen.push(unit);
    }
    Ok(keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_place_a_cluster_in_it_or_one_snapshot() {
        let (cluster, name) = ("cdf8181e32770ff2", "00000000000000000042-00000000000000000077-i-0abc");
        for place in ["s3://bucket", "s3://bucket/etcd/prod", "file:/mnt/backups"] {
            let of = |text: String| {
                let source = source(&text).unwrap();
                assert_eq!((source.location.to_string(), source.to_string()), (place.to_owned(), text));
                source.which
            };
            assert_eq!(of(place.to_owned()), Which::Newest);
            assert_eq!(of(format!("{place}/{cluster}")), Which::Of(ClusterId(0xcdf8_181e_3277_0ff2)));
            assert!(matches!(of(format!("{place}/{cluster}/{name}")), Which::Named(found) if found.revision == 42));
        }
        assert_eq!(source("s3://bucket/etcd/").unwrap().to_string(), "s3://bucket/etcd");
        for odd in ["", "latest", "s3:/bucket", "backups/prod", "file:backups"] {
            assert_eq!(source(odd), None, "{odd}");
        }
    }
}
