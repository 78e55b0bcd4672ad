//! What a snapshot's manifest holds. It is JSON, and says all that is needed to judge the data without reading it.

use serde::{Deserialize, Serialize};

use super::super::types::{ClusterId, MemberId};
use super::name::Name;

/// The format that this program writes. One that is newer is not understood: it is listed, never deleted, and never counted as verified.
pub const FORMAT: u32 = 1;

/// A snapshot's manifest. A field that it does not know makes it "not understood", as a newer format does: the field may say why it must stay.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The cluster of which it was taken.
    #[serde(with = "cluster_as_hex")]
    pub cluster: ClusterId,
    /// The cluster from whose snapshot this one was restored.
    #[serde(with = "parent_as_hex", default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ClusterId>,
    /// The member that gave it.
    #[serde(with = "member_as_hex")]
    pub member: MemberId,
    /// The instance on which it was taken, as its name has it.
    pub instance: String,
    /// The release of that etcd.
    pub etcd: String,
    /// The version of the backend's format; etcd 3.5 and earlier store none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_version: Option<String>,
    /// The revision that the data has, read from the file itself.
    pub revision: u64,
    /// Up to which revision the data is compacted.
    pub compact_revision: u64,
    /// The raft term of the last applied entry.
    pub term: u64,
    /// The raft index of the last applied entry.
    pub index: u64,
    /// Bytes of the data as stored.
    pub size: u64,
    /// SHA-256 of the data as stored, 64 hex digits.
    pub sha256: String,
    /// The data before its encryption; absent if it is not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<Plain>,
    /// etcd's own hash of the keys and their history, and at which revisions; absent: it could not be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_kv: Option<HashKv>,
    /// The cluster's members when it was taken.
    pub members: Vec<ManifestMember>,
    /// Authentication was enabled.
    pub auth: bool,
    /// The alarms that were active: they are in the data, and in whatever is restored from it.
    pub alarms: Vec<String>,
    /// When it was taken by the clock of the instance, RFC 3339 in UTC. No order follows from it.
    pub taken_at: String,
    /// The `Date` of the store that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_date: Option<String>,
    /// Why it was taken.
    pub reason: Reason,
    /// How it is encrypted; absent: it is not, or the store does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// The last proof that the stored data is what was taken; absent: there was none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
}

/// The data before its encryption.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plain {
    /// Bytes.
    pub size: u64,
    /// SHA-256, 64 hex digits.
    pub sha256: String,
}

/// etcd's hash of the keys and their history: equal for equal content, as long as the compacted revision is the same too (measured on 3.4.23 to 3.5.30).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashKv {
    pub hash: u32,
    pub revision: u64,
    pub compact_revision: u64,
}

/// A member of the cluster of which a snapshot was taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestMember {
    #[serde(with = "member_as_hex")]
    pub id: MemberId,
    pub name: String,
    pub peer_urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
    #[serde(default)]
    pub learner: bool,
}

/// Why a snapshot was taken. Retention only ever deletes scheduled ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// By `MUSTER_SNAPSHOT_EVERY`.
    Scheduled,
    /// By `snapshot save`.
    ByHand,
    /// Before another release of etcd was started.
    BeforeUpgrade,
    /// The last one of a cluster that ends.
    Final,
}

impl Reason {
    /// As in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::ByHand => "by-hand",
            Self::BeforeUpgrade => "before-upgrade",
            Self::Final => "final",
        }
    }
}

/// How the data is encrypted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encryption {
    /// `AES-256-GCM`, in frames.
    pub algorithm: String,
    /// Which key it was: never the key, nor anything from which it follows.
    pub key_id: String,
    /// Bytes of a frame before its encryption.
    pub frame: u64,
    /// This snapshot's own key, encrypted with the operator's: a nonce, the key and a tag, in base64.
    pub data_key: String,
}

/// A proof that the stored data is what was taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verified {
    pub level: Level,
    /// When, by the clock of the instance that verified it, RFC 3339 in UTC.
    pub at: String,
    /// The instance that verified it.
    pub by: String,
}

/// How much was proved; the later one includes the earlier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The stored bytes were read back, and have the manifest's digest and the data's own.
    Digest,
    /// An etcd was restored from it, and its keys have the manifest's hash.
    Restore,
}

impl Level {
    /// As in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Digest => "digest",
            Self::Restore => "restore",
        }
    }
}

impl Manifest {
    /// The name that belongs to it.
    pub fn name(&self) -> Name {
        Name::new(self.cluster, self.revision, self.index, &self.instance)
    }

    /// Why it must not be relied on; `None`: it is a whole manifest of the snapshot of that name. A manifest that was copied under another name, or
    /// was written by a newer release, is as good as none.
    pub fn fault(&self, name: &Name) -> Option<String> {
        if self.format != FORMAT {
            return Some(format!("its format is {}; this release knows {FORMAT}", self.format));
        }
        if self.name() != *name {
            return Some(format!("it is the manifest of {}", self.name()));
        }
        let digests = [Some(&self.sha256), self.plain.as_ref().map(|plain| &plain.sha256)];
        if let Some(digest) = digests.into_iter().flatten().find(|digest| !is_sha256(digest)) {
            return Some(format!("{digest:?} is no SHA-256"));
        }
        let times = [Some(&self.taken_at), self.verified.as_ref().map(|verified| &verified.at)];
        if let Some(time) = times.into_iter().flatten().find(|time| seconds(time).is_none()) {
            return Some(format!("{time:?} is no time in UTC"));
        }
        (self.size == 0).then(|| "its size is 0".to_owned())
    }
}

/// Whether that is a SHA-256 as manifests have it: 64 lower-case hex digits.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Seconds since the epoch of an RFC 3339 time in UTC (`2026-11-30T06:00:00Z`, with or without a fraction); `None`: it is none.
pub fn seconds(time: &str) -> Option<i64> {
    let (whole, rest) = (time.get(..19)?, time.get(19..)?.strip_suffix('Z')?);
    let fraction_is_fine = rest.is_empty()
        || rest
            .strip_prefix('.')
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    let shape_is_right = whole.bytes().enumerate().all(|(at, b)| match at {
        4 | 7 => b == b'-',
        10 => b == b'T',
        13 | 16 => b == b':',
        _ => b.is_ascii_digit(),
    });
    if !fraction_is_fine || !shape_is_right {
        return None;
    }
    let number = |from: usize, to: usize| whole.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days from the civil date, with years that begin in March (Hinnant, "chrono-compatible low-level date algorithms").
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some((era * 146_097 + day_of_era - 719_468) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Ids as etcdctl prints them, not as numbers that JSON's readers round.
mod cluster_as_hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::super::super::types::ClusterId;
    use super::super::name::parse_cluster;

    pub fn serialize<S: Serializer>(id: &ClusterId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{:016x}", id.0))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ClusterId, D::Error> {
        let text = String::deserialize(from)?;
        parse_cluster(&text).map(ClusterId).ok_or_else(|| D::Error::custom("an id has 16 hex digits"))
    }
}

mod parent_as_hex {
    use serde::{Deserializer, Serializer};

    use super::super::super::types::ClusterId;

    pub fn serialize<S: Serializer>(id: &Option<ClusterId>, to: S) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => super::cluster_as_hex::serialize(id, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ClusterId>, D::Error> {
        super::cluster_as_hex::deserialize(from).map(Some)
    }
}

mod member_as_hex {
    use serde::{Deserializer, Serializer};

    use super::super::super::types::{ClusterId, MemberId};

    pub fn serialize<S: Serializer>(id: &MemberId, to: S) -> Result<S::Ok, S::Error> {
        super::cluster_as_hex::serialize(&ClusterId(id.0), to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MemberId, D::Error> {
        super::cluster_as_hex::deserialize(from).map(|id| MemberId(id.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            cluster: ClusterId(0xcdf8_181e_3277_0ff2),
            parent: Some(ClusterId(1)),
            member: MemberId(0xffff_ffff_ffff_fffe),
            instance: "i-1".to_owned(),
            etcd: "3.6.16".to_owned(),
            storage_version: Some("3.6.0".to_owned()),
            revision: (1 << 53) + 1,
            compact_revision: 4,
            term: 3,
            index: u64::MAX,
            size: 4_128,
            sha256: "ab".repeat(32),
            plain: None,
            hash_kv: Some(HashKv { hash: 7, revision: 9, compact_revision: 4 }),
            members: vec![ManifestMember {
                id: MemberId(2),
                name: "a".to_owned(),
                peer_urls: vec!["http://10.0.0.1:2380".to_owned()],
                client_urls: Vec::new(),
                learner: false,
            }],
            auth: true,
            alarms: vec!["NOSPACE".to_owned()],
            taken_at: "2026-11-30T05:58:00Z".to_owned(),
            store_date: None,
            reason: Reason::BeforeUpgrade,
            encryption: None,
            verified: Some(Verified {
                level: Level::Restore,
                at: "2026-11-30T05:59:00.5Z".to_owned(),
                by: "i-2".to_owned(),
            }),
        }
    }

    #[test]
    fn it_is_read_back_to_the_last_digit() {
        let text = serde_json::to_string(&manifest()).unwrap();
        assert!(
            text.contains(r#""cluster":"cdf8181e32770ff2""#) && text.contains(r#""reason":"before-upgrade""#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest());
        assert_eq!(manifest().fault(&manifest().name()), None);
    }

    #[test]
    fn what_a_newer_release_may_have_written_is_not_understood() {
        let text = serde_json::to_string(&manifest()).unwrap();
        let unknown_field = text.replacen('{', r#"{"keep":true,"#, 1);
        let unknown_reason = text.replace("before-upgrade", "before-something");
        let unknown_proof = text.replace(r#""level":"#, r#""scope":1,"level":"#);
        for newer in [unknown_field, unknown_reason, unknown_proof] {
            assert!(serde_json::from_str::<Manifest>(&newer).is_err(), "{newer}");
        }
        let newer = Manifest { format: 2, ..manifest() };
        assert!(newer.fault(&newer.name()).unwrap().contains("format"));
    }

    #[test]
    fn a_manifest_under_another_name_or_with_nonsense_in_it_has_a_fault() {
        let name = manifest().name();
        let other = Name { index: 1, ..name.clone() };
        assert!(manifest().fault(&other).unwrap().contains("manifest of"));
        let faulty = [
            Manifest { sha256: "AB".repeat(32), ..manifest() },
            Manifest { plain: Some(Plain { size: 1, sha256: String::new() }), ..manifest() },
            Manifest { taken_at: "yesterday".to_owned(), ..manifest() },
            Manifest { size: 0, ..manifest() },
        ];
        for manifest in faulty {
            assert!(manifest.fault(&name).is_some(), "{manifest:?}");
        }
    }

    #[test]
    fn times_are_seconds_since_the_epoch() {
        let known = [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00.25Z", 951_825_600),
            ("2026-11-30T05:58:00Z", 1_796_018_280),
            ("1969-12-31T23:59:59Z", -1),
        ];
        for (text, at) in known {
            assert_eq!(seconds(text), Some(at), "{text}");
        }
        for none in [
            "",
            "2026-11-30",
            "2026-11-30T05:58:00",
            "2026-11-30T05:58:00+01:00",
            "2026-13-30T05:58:00Z",
            "2026-11-30T05:58:00.Z",
            "+026-11-30T05:58:00Z",
        ] {
            assert_eq!(seconds(none), None, "{none}");
        }
    }
}
