//! Whether members hold the same data, by the hash of their keys at one revision.

use std::fmt;

use super::types::MemberId;

/// A member's hash of all its keys at a revision, with their history since the last compaction: so it is comparable only between
/// members that are compacted up to the same revision (measured on 3.5.16 to 3.7.3; equal across these releases).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hashed {
    pub member: MemberId,
    pub hash: u64,
    /// The revision up to which it is compacted; -1: never.
    pub compacted: i64,
}

/// What the hashes of all members show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Comparison {
    Same,
    Differ,
    /// Some are compacted further than others: it is unknown.
    NotComparable,
}

/// Compares the hashes of all members at one revision.
pub fn compare(hashes: &[Hashed]) -> Comparison {
    let Some(first) = hashes.first() else { return Comparison::NotComparable };
    if hashes.iter().any(|other| other.compacted != first.compacted) {
        return Comparison::NotComparable;
    }
    match hashes.iter().all(|other| other.hash == first.hash) {
        true => Comparison::Same,
        false => Comparison::Differ,
    }
}

/// Members whose data differs, as an operator is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diverged {
    pub revision: u64,
    pub hashes: Vec<Hashed>,
}

impl fmt::Display for Diverged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each: Vec<_> = self.hashes.iter().map(|h| format!("member {} has hash {}", h.member, h.hash)).collect();
        write!(
            f,
            "the members do not hold the same data: at revision {} {}; nothing is changed; save a snapshot of each, find the \
             one that differs from the majority (etcdctl endpoint hashkv --cluster --rev {}), remove that member, and let \
             it join again without its data",
            self.revision,
            each.join(", "),
            self.revision
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(member: u64, hash: u64, compacted: i64) -> Hashed {
        Hashed { member: MemberId(member), hash, compacted }
    }

    #[test]
    fn hashes_are_compared_only_after_the_same_compaction() {
        use Comparison::{Differ, NotComparable, Same};
        for (hashes, is) in [
            (vec![hashed(1, 7, -1), hashed(2, 7, -1)], Same),
            (vec![hashed(1, 7, 25), hashed(2, 7, 25), hashed(3, 8, 25)], Differ),
            (vec![hashed(1, 7, -1), hashed(2, 8, 25)], NotComparable),
            (vec![hashed(1, 7, -1), hashed(2, 7, 25)], NotComparable),
            (vec![], NotComparable),
        ] {
            assert_eq!(compare(&hashes), is, "{hashes:?}");
        }
        let said = Diverged { revision: 40, hashes: vec![hashed(1, 7, -1), hashed(2, 8, -1)] }.to_string();
        assert!(said.contains("at revision 40 member 1 has hash 7, member 2 has hash 8;"), "{said}");
    }
}
