//! For tests: backends as bbolt lays them out.

use super::{BRANCH, ELEMENT, FORMAT, IS_BUCKET, LEAF, MAGIC, META_BYTES, PAGE_HEADER};

pub const PAGE: usize = 4096;

/// One with members (their ids; a learner or not, in the member's own record), and with raft's learners.
pub fn backend(members: &[(u64, bool)], raft_learners: &[u64]) -> Vec<u8> {
    let conf_state = format!(r#"{{"voters":[1],"learners":{raft_learners:?},"auto_leave":false}}"#).into_bytes();
    let stored: Vec<_> = members.iter().map(|(id, learner)| (id.to_string(), member(*id, *learner))).collect();
    let stored: Vec<_> = stored.iter().map(|(key, value)| (0, key.as_bytes(), value.clone())).collect();
    let root =
        [(IS_BUCKET, &b"members"[..], inline(&stored)), (IS_BUCKET, b"meta", inline(&[(0, b"confState", conf_state)]))];
    [meta_page(0, 2, 7), meta_page(1, 3, 8), leaf(2, &[]), leaf(3, &root)].concat()
}

pub fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

pub fn page(id: u64, flags: u16, count: u16) -> Vec<u8> {
    let mut page = vec![0; PAGE];
    put(&mut page, 0, &id.to_ne_bytes());
    put(&mut page, 8, &flags.to_ne_bytes());
    put(&mut page, 10, &count.to_ne_bytes());
    page
}

/// A leaf as bbolt lays it out: the elements, then keys and values one after another.
pub fn leaf(id: u64, elements: &[(u32, &[u8], Vec<u8>)]) -> Vec<u8> {
    let mut page = page(id, LEAF, elements.len() as u16);
    let mut at = PAGE_HEADER + elements.len() * ELEMENT;
    for (number, (flags, key, value)) in elements.iter().enumerate() {
        let element = PAGE_HEADER + number * ELEMENT;
        let words = [*flags, (at - element) as u32, key.len() as u32, value.len() as u32];
        words.iter().enumerate().for_each(|(word, value)| put(&mut page, element + word * 4, &value.to_ne_bytes()));
        put(&mut page, at, key);
        put(&mut page, at + key.len(), value);
        at += key.len() + value.len();
    }
    page
}

pub fn meta_page(id: u64, root: u64, transaction: u64) -> Vec<u8> {
    let mut page = page(id, 4, 0);
    let words = [MAGIC, FORMAT, PAGE as u32, 0];
    words.iter().enumerate().for_each(|(word, value)| put(&mut page, PAGE_HEADER + word * 4, &value.to_ne_bytes()));
    put(&mut page, PAGE_HEADER + 16, &root.to_ne_bytes());
    put(&mut page, PAGE_HEADER + 48, &transaction.to_ne_bytes());
    let sum = page[PAGE_HEADER..PAGE_HEADER + META_BYTES - 8]
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    put(&mut page, PAGE_HEADER + META_BYTES - 8, &sum.to_ne_bytes());
    page
}

pub fn bucket_at(root: u64) -> Vec<u8> {
    [root.to_ne_bytes(), [0; 8]].concat()
}

/// A bucket whose page is inline: cut off behind its last value.
pub fn inline(elements: &[(u32, &[u8], Vec<u8>)]) -> Vec<u8> {
    let used: usize = elements.iter().map(|(_, key, value)| key.len() + value.len() + ELEMENT).sum();
    [bucket_at(0), leaf(0, elements)[..PAGE_HEADER + used].to_vec()].concat()
}

pub fn member(id: u64, learner: bool) -> Vec<u8> {
    let learner = if learner { r#","isLearner":true"# } else { "" };
    format!(r#"{{"id":{id},"peerURLs":["http://10.0.0.1:2380"]{learner},"name":"i-1"}}"#).into_bytes()
}

/// The pages of [`snapshot`] that tests exchange.
pub const KEY_ROOT: usize = 5;
pub const LAST_LEAF: usize = 7;
pub const META_LEAF: usize = 8;

/// A revision as etcd stores it.
pub fn revision(main: u64, sub: u64) -> Vec<u8> {
    [&main.to_be_bytes()[..], b"_", &sub.to_be_bytes()].concat()
}

/// The bucket `meta`, compacted as far as that.
pub fn meta_leaf(scheduled: u64, finished: u64) -> Vec<u8> {
    meta_leaf_at(4711, scheduled, finished)
}

fn meta_leaf_at(index: u64, scheduled: u64, finished: u64) -> Vec<u8> {
    leaf(
        META_LEAF as u64,
        &[
            (0, b"consistent_index", index.to_be_bytes().to_vec()),
            (0, b"finishedCompactRev", revision(finished, 0)),
            (0, b"scheduledCompactRev", revision(scheduled, 0)),
            (0, b"storageVersion", b"3.6.0".to_vec()),
            (0, b"term", 5_u64.to_be_bytes().to_vec()),
        ],
    )
}

/// A database at revision 300, raft index 4711, term 5, of which the last key is a deletion.
pub fn snapshot() -> Vec<Vec<u8>> {
    snapshot_at(300, 4711)
}

/// The same at that revision and raft index.
pub fn snapshot_at(last: u64, index: u64) -> Vec<Vec<u8>> {
    let deletion = [revision(last, 1), b"t".to_vec()].concat();
    let mut keys = page(KEY_ROOT as u64, BRANCH, 2);
    for (number, below) in [6_u64, LAST_LEAF as u64].iter().enumerate() {
        put(&mut keys, PAGE_HEADER + number * ELEMENT + 8, &below.to_ne_bytes());
    }
    let alarm: &[u8] = &[0x08, 0xfe, 0x95, 0x03, 0x10, 0x01];
    let members = [(0, &b"1"[..], member(1, false)), (0, &b"2"[..], member(2, true))];
    let buckets = [
        (IS_BUCKET, &b"alarm"[..], inline(&[(0, alarm, vec![])])),
        (IS_BUCKET, b"auth", inline(&[(0, b"authEnabled", vec![1])])),
        (IS_BUCKET, b"key", bucket_at(KEY_ROOT as u64)),
        (IS_BUCKET, b"members", inline(&members)),
        (IS_BUCKET, b"meta", bucket_at(META_LEAF as u64)),
    ];
    vec![
        meta_page(0, 2, 7),
        meta_page(1, 4, 8),
        leaf(2, &[]),
        page(3, 0x10, 0),
        leaf(4, &buckets),
        keys,
        leaf(6, &[(0, &revision(last - 1, 0), b"value".to_vec())]),
        leaf(LAST_LEAF as u64, &[(0, &revision(last, 0), b"value".to_vec()), (0, &deletion, b"value".to_vec())]),
        meta_leaf_at(index, 17, 17),
    ]
}
