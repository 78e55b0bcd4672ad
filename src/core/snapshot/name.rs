//! How a snapshot is named: `<cluster id>/<revision>-<raft index>-<instance>`. The numbers have leading zeros, so that a listing in the
//! order of the bytes is in the order of the numbers.

use std::fmt;

use super::super::types::ClusterId;

/// The digits of a revision, and of a raft index: as many as the largest `u64` has.
const DIGITS: usize = 20;
/// The suffix of the data.
const DATA: &str = ".db";
/// The suffix of the manifest.
const MANIFEST: &str = ".json";

/// What an object of a snapshot holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// etcd's database, perhaps encrypted.
    Data,
    /// What is known about the data.
    Manifest,
}

/// A snapshot's name. Within a cluster the order is that of revision, raft index and instance, as numbers; never that of time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name {
    /// The cluster of which it was taken.
    pub cluster: ClusterId,
    /// The revision that its data has.
    pub revision: u64,
    /// The raft index up to which its data was applied.
    pub index: u64,
    /// The instance on which it was taken, as [`Name::new`] spells it.
    pub instance: String,
}

impl Name {
    /// A name. Of the instance, every character that is not an ASCII letter, a digit, `.`, `_` or `-` becomes `_`: a key has to be the
    /// same in a URL, in a store and as a file's name.
    pub fn new(cluster: ClusterId, revision: u64, index: u64, instance: &str) -> Self {
        let instance = instance.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        Self { cluster, revision, index, instance }
    }

    /// Parses what [`fmt::Display`] writes, and nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let (cluster, rest) = text.split_once('/')?;
        let (revision, rest) = rest.split_once('-')?;
        let (index, instance) = rest.split_once('-')?;
        let plain = !instance.is_empty() && instance.chars().all(is_plain);
        let cluster = ClusterId(parse_cluster(cluster)?);
        plain.then_some(())?;
        Some(Self { cluster, revision: number(revision)?, index: number(index)?, instance: instance.to_owned() })
    }

    /// The folder of a cluster's snapshots, with its slash.
    pub fn folder(cluster: ClusterId) -> String {
        format!("{:016x}/", cluster.0)
    }

    /// The key of its data, below the place.
    pub fn data_key(&self) -> String {
        format!("{self}{DATA}")
    }

    /// The key of its manifest, below the place.
    pub fn manifest_key(&self) -> String {
        format!("{self}{MANIFEST}")
    }

    /// Whose key this is; `None`: no snapshot's.
    pub fn of_key(key: &str) -> Option<(Self, Kind)> {
        let (name, kind) = match key.strip_suffix(DATA) {
            Some(name) => (name, Kind::Data),
            None => (key.strip_suffix(MANIFEST)?, Kind::Manifest),
        };
        Some((Self::parse(name)?, kind))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, revision, index, instance } = self;
        write!(f, "{:016x}/{revision:020}-{index:020}-{instance}", cluster.0)
    }
}

/// Parses a cluster's id as names and manifests have it: 16 lower-case hex digits.
pub fn parse_cluster(text: &str) -> Option<u64> {
    let is_hex = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u64::from_str_radix(text, 16).ok())?
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

fn number(text: &str) -> Option<u64> {
    let is_number = text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_nothing_else_is() {
        let name = Name::new(ClusterId(0xab), 7, 19, "i-0a/b");
        assert_eq!(name.to_string(), "00000000000000ab/00000000000000000007-00000000000000000019-i-0a_b");
        assert_eq!(Name::parse(&name.to_string()), Some(name.clone()));
        assert_eq!(Name::of_key(&name.data_key()), Some((name.clone(), Kind::Data)));
        assert_eq!(Name::of_key(&name.manifest_key()), Some((name.clone(), Kind::Manifest)));
        let good = name.manifest_key();
        let foreign = [
            good.replace(".json", ".json.bak"),
            good.replace("00ab/", "00AB/"),
            good.replace("0019", "019"),
            good.replace("0019", "+019"),
            good.replace("i-0a_b", ""),
            good.replace("i-0a_b", "i/0a"),
            format!("/{good}"),
            good.replace("00000000000000000007", "99999999999999999999"),
        ];
        for key in &foreign {
            assert_eq!(Name::of_key(key), None, "{key}");
        }
    }

    /// coreos/etcd-operator#2113: with an order of text, 9,999 came after 10,000, and the newest was deleted.
    #[test]
    fn the_order_is_that_of_numbers_and_the_same_in_a_listing() {
        let numbers =
            [(1, 9), (9_999, 5), (10_000, 4), (10_000, 10), (1 << 53, 0), ((1 << 53) + 1, 0), (u64::MAX, u64::MAX)];
        let names: Vec<Name> =
            numbers.iter().map(|(revision, index)| Name::new(ClusterId(1), *revision, *index, "i-1")).collect();
        assert!(names.is_sorted());
        assert!(names.iter().map(Name::to_string).is_sorted());
    }
}
