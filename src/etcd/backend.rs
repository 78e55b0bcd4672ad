//! Reads etcd's backend while no etcd has it open: the parts of a bbolt file that show which releases the data has seen, and of which
//! moment a snapshot is.
//!
//! The format is bbolt's (`page.go`, `meta.go`, `bucket.go`): pages in a B+ tree, two alternating meta pages, every number in
//! the machine's byte order. Of etcd's buckets these are read (etcd, `server/storage/schema`): `cluster` (`clusterVersion`),
//! `meta` (`storageVersion`, `confState`: raft's own list, `consistent_index`, `term`, the compactions), `members` (a member's id,
//! and the member as JSON), `auth` (`authEnabled`), `alarm` (raised ones, as protobuf, for keys), and of `key` the last key, which
//! has the newest revision.

#[cfg(test)]
pub mod sample;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Deserialize;

use super::protobuf;
use crate::core::release::Minor;
use crate::core::types::{Member, MemberId};

const MAGIC: u32 = 0xed0c_daed;
const FORMAT: u32 = 2;
/// A page's header: id (8 bytes), flags (2), count (2), overflow (4).
const PAGE_HEADER: usize = 16;
/// magic, version, page size, flags (4 bytes each), root (8 + 8), freelist, pages, transaction, checksum (8 each).
const META_BYTES: usize = 64;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
/// An element of a branch: position, key's length (4 bytes each), page (8). Of a leaf: flags, position, key's and value's length.
const ELEMENT: usize = 16;
/// An element of a leaf that contains a bucket.
const IS_BUCKET: u32 = 0x01;
/// A bucket's header: its root page, or 0 if the page follows inline, and a sequence.
const BUCKET_HEADER: usize = 16;
/// bbolt's page size is the machine's: 4 KiB to 64 KiB.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 512..=65536;
/// Enough for one bucket with as many members as a cluster can have, and the tree above it. More means a cycle, or a file that
/// is not etcd's.
const MAX_PAGES: u32 = 4096;
/// The greatest depth of a tree: with a branch's fan-out of a hundred and more, three levels hold a million elements.
const MAX_DEPTH: u32 = 16;
/// A page that overflows holds one large element; those read here are small.
const MAX_OVERFLOW: u32 = 256;
/// bbolt's own limit (`MaxKeySize`).
const LONGEST_KEY: u32 = 32768;

/// A file, or what is read like one.
pub trait ReadAt {
    /// Fills the buffer with what is at that offset.
    ///
    /// # Errors
    /// It can't be read, or ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

/// Of which moment of a cluster's life a backend is, and what of it comes back with a restore.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Moment {
    /// The newest revision; 1: no key was ever written.
    pub revision: u64,
    /// The revision up to which its history is compacted, or is about to be: an etcd that opens it ends what was begun. 0: none.
    pub compact_revision: u64,
    /// The raft term of the last applied entry; `None`: from an etcd before 3.5, which did not store it.
    pub term: Option<u64>,
    /// The raft index of the last applied entry.
    pub index: u64,
    /// The version of the backend's own format, as 3.6 and later store it.
    pub storage_version: Option<String>,
    /// Authentication is enabled.
    pub auth: bool,
    /// The raised alarms, with the members that raised them.
    pub alarms: Vec<(MemberId, String)>,
    /// The members, those that have not started yet among them.
    pub members: Vec<Member>,
}

/// Reads of which moment a snapshot is. Of the keys only the last one is read, so that this takes as long for a large one as for a
/// small one.
///
/// # Errors
/// It can't be read, or is not a backend.
pub fn moment(file: &dyn ReadAt) -> io::Result<Moment> {
    let mut tree = Tree::open(file)?;
    let newest = tree.last_key(b"key")?.map(|key| main_revision(&key)).transpose()?;
    let meta = tree.bucket(b"meta")?;
    let value = |key: &[u8]| meta.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_slice());
    let number = |key: &[u8]| value(key).map(|value| be_u64_at(value, 0)).transpose();
    let begun = value(b"scheduledCompactRev").map(main_revision).transpose()?;
    let ended = value(b"finishedCompactRev").map(main_revision).transpose()?;
    let compact_revision = begun.max(ended).unwrap_or_default();
    let members = tree.bucket(b"members")?;
    let alarms = tree.bucket(b"alarm")?;
    let auth = tree.value(b"auth", b"authEnabled")?;
    Ok(Moment {
        // If the newest keys were deletions, a compaction leaves none of them (etcd's mvcc/kvstore.go, restore).
        revision: newest.unwrap_or(1).max(compact_revision),
        compact_revision,
        term: number(b"term")?,
        index: number(b"consistent_index")?.unwrap_or_default(),
        storage_version: value(b"storageVersion").map(|text| String::from_utf8_lossy(text).into_owned()),
        auth: auth.is_some_and(|value| value == [1]),
        alarms: alarms.iter().map(|(key, _)| alarm(key)).collect::<io::Result<_>>()?,
        members: members.iter().map(|(_, member)| stored_member(member)).collect::<io::Result<_>>()?,
    })
}

/// A revision as etcd stores it: main (8 bytes), `_`, sub (8 bytes); a deletion has a `t` behind it.
fn main_revision(key: &[u8]) -> io::Result<u64> {
    match key {
        [_, _, _, _, _, _, _, _, b'_', _, ..] if matches!(key.len(), 17 | 18) => be_u64_at(key, 0),
        _ => Err(broken()),
    }
}

/// An AlarmMember: memberID 1, alarm 2 (etcd's api/etcdserverpb/rpc.proto).
fn alarm(key: &[u8]) -> io::Result<(MemberId, String)> {
    let (mut member, mut kind) = (0, 0);
    for field in protobuf::Fields(key) {
        match field.ok_or_else(broken)? {
            (1, protobuf::Value::Number(id)) => member = id,
            (2, protobuf::Value::Number(number)) => kind = number,
            _ => {}
        }
    }
    let name = match kind {
        1 => "NOSPACE".to_owned(),
        2 => "CORRUPT".to_owned(),
        other => format!("alarm {other}"),
    };
    Ok((MemberId(member), name))
}

fn stored_member(json: &[u8]) -> io::Result<Member> {
    #[derive(Deserialize)]
    struct Stored {
        id: u64,
        #[serde(default)]
        name: String,
        #[serde(rename = "peerURLs", default)]
        peer_urls: Vec<String>,
        #[serde(rename = "clientURLs", default)]
        client_urls: Vec<String>,
        #[serde(rename = "isLearner", default)]
        is_learner: bool,
    }
    let Stored { id, name, peer_urls, client_urls, is_learner } = serde_json::from_slice(json).map_err(|_| broken())?;
    Ok(Member { id: MemberId(id), name, peer_urls, client_urls, is_learner })
}

/// What the backend shows about releases.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Backend {
    /// The cluster's version; `None`: it never had one.
    pub cluster_version: Option<Minor>,
    /// The version of the backend's own format, which 3.6 was the first to store.
    pub storage_version: Option<Minor>,
    /// The members that are learners in this file. A member list may be newer (etcd#19557).
    pub learners: BTreeSet<MemberId>,
    /// The members that are learners to raft, whatever a member list says; `None`: not stored here. 3.5 was the first to store
    /// them, at a change of members.
    pub raft_learners: Option<BTreeSet<MemberId>>,
}

/// Reads `member/snap/db`.
///
/// # Errors
/// The file can't be read, or is not a backend.
pub fn read(path: &Path) -> io::Result<Backend> {
    let file = File::open(path)?;
    let mut tree = Tree::open(&file)?;
    let text = |value: Option<Vec<u8>>| value.and_then(|value| Minor::of_cluster(std::str::from_utf8(&value).ok()?));
    let cluster_version = text(tree.value(b"cluster", b"clusterVersion")?);
    let storage_version = text(tree.value(b"meta", b"storageVersion")?);
    let raft_learners = tree.value(b"meta", b"confState")?.and_then(|json| raft_learners(&json));
    let members = tree.bucket(b"members")?;
    let learners = members.iter().filter_map(|(_, m)| learner(m)).collect();
    Ok(Backend { cluster_version, storage_version, learners, raft_learners })
}

/// `{"voters":[1,2],"learners":[3],"auto_leave":false}`; a learner that replaces a voter is in `learners_next` until then.
fn raft_learners(json: &[u8]) -> Option<BTreeSet<MemberId>> {
    #[derive(Deserialize)]
    struct ConfState {
        voters: Vec<u64>,
        #[serde(default)]
        learners: Vec<u64>,
    }
    let stored: ConfState = serde_json::from_slice(json).ok()?;
    // Raft never has no voter: such a list is not its own.
    (!stored.voters.is_empty()).then(|| stored.learners.into_iter().map(MemberId).collect())
}

/// The member, if it is a learner: `{"id":1,"peerURLs":["…"],"isLearner":true}`.
fn learner(json: &[u8]) -> Option<MemberId> {
    #[derive(Deserialize)]
    struct Stored {
        id: u64,
        #[serde(rename = "isLearner", default)]
        is_learner: bool,
    }
    let stored: Stored = serde_json::from_slice(json).ok()?;
    stored.is_learner.then_some(MemberId(stored.id))
}

struct Tree<'a> {
    file: &'a dyn ReadAt,
    page_size: usize,
    root: u64,
    /// Pages that may still be read.
    budget: u32,
}

impl<'a> Tree<'a> {
    fn open(file: &'a dyn ReadAt) -> io::Result<Self> {
        let mut head = [0; PAGE_HEADER + META_BYTES];
        file.read_exact_at(&mut head, 0)?;
        // A crash may have damaged the first meta page; then the second's position is tried for every page size.
        let first = meta(&head[PAGE_HEADER..]);
        let sizes: Vec<u32> = match &first {
            Some(meta) => vec![meta.page_size],
            None => (9..=16).map(|power| 1 << power).collect(),
        };
        let second = sizes.iter().find_map(|&size| {
            file.read_exact_at(&mut head, u64::from(size)).ok()?;
            meta(&head[PAGE_HEADER..]).filter(|meta| meta.page_size == size)
        });
        let newest = first.into_iter().chain(second).max_by_key(|meta| meta.transaction);
        let newest = newest.ok_or_else(|| io::Error::other("it has no meta page that is whole"))?;
        Ok(Self { file, page_size: newest.page_size as usize, root: newest.root, budget: MAX_PAGES })
    }

    fn value(&mut self, bucket: &[u8], key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.bucket(bucket)?.into_iter().find(|(found, _)| found == key).map(|(_, value)| value))
    }

    /// The contents of a top-level bucket; nothing if it does not exist.
    fn bucket(&mut self, name: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let page = match self.root_of(name)? {
            None => return Ok(Vec::new()),
            Some(Root::Inline(page)) => page,
            Some(Root::At(id)) => self.page(id)?,
        };
        let mut elements = Vec::new();
        self.collect(&page, MAX_DEPTH, &mut elements)?;
        Ok(elements.into_iter().filter(|element| !element.is_bucket).map(|e| (e.key, e.value)).collect())
    }

    fn root_of(&mut self, name: &[u8]) -> io::Result<Option<Root>> {
        self.budget = MAX_PAGES;
        let mut buckets = Vec::new();
        let root = self.page(self.root)?;
        self.collect(&root, MAX_DEPTH, &mut buckets)?;
        let Some(found) = buckets.into_iter().find(|element| element.is_bucket && element.key == name) else {
            return Ok(None);
        };
        let (header, inline) = found.value.split_at_checked(BUCKET_HEADER).ok_or_else(broken)?;
        Ok(Some(match u64_at(header, 0)? {
            0 => Root::Inline(inline.to_vec()),
            id => Root::At(id),
        }))
    }

    /// The last key of a top-level bucket, by the right edge of its tree. Values are not read: the last one may be of any size.
    fn last_key(&mut self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut id = match self.root_of(name)? {
            None => return Ok(None),
            Some(Root::Inline(page)) => {
                let count = usize::from(u16_at(&page, 10)?);
                let last = count.checked_sub(1).map(|last| Element::read(&page, PAGE_HEADER + last * ELEMENT));
                return Ok(last.transpose()?.map(|element| element.key));
            }
            Some(Root::At(id)) => id,
        };
        for _ in 0..MAX_DEPTH {
            let at = id.checked_mul(self.page_size as u64).ok_or_else(broken)?;
            let mut header = [0; PAGE_HEADER];
            self.file.read_exact_at(&mut header, at)?;
            let (flags, count) = (u16_at(&header, 8)?, u64::from(u16_at(&header, 10)?));
            if u64_at(&header, 0)? != id {
                return Err(broken());
            }
            let Some(last) = count.checked_sub(1) else { return Ok(None) };
            let at = at + (PAGE_HEADER as u64) + last * ELEMENT as u64;
            let mut element = [0; ELEMENT];
            self.file.read_exact_at(&mut element, at)?;
            match flags {
                BRANCH => id = u64_at(&element, 8)?,
                LEAF => {
                    let (position, length) = (u32_at(&element, 4)?, u32_at(&element, 8)?);
                    if length > LONGEST_KEY {
                        return Err(broken());
                    }
                    let mut key = vec![0; length as usize];
                    self.file.read_exact_at(&mut key, at + u64::from(position))?;
                    return Ok(Some(key));
                }
                _ => return Err(broken()),
            }
        }
        Err(broken())
    }

    /// The elements of all leaves below a page.
    fn collect(&mut self, page: &[u8], depth: u32, elements: &mut Vec<Element>) -> io::Result<()> {
        let (flags, count) = (u16_at(page, 8)?, usize::from(u16_at(page, 10)?));
        for at in (0..count).map(|element| PAGE_HEADER + element * ELEMENT) {
            match flags {
                LEAF => elements.push(Element::read(page, at)?),
                BRANCH => {
                    let depth = depth.checked_sub(1).ok_or_else(broken)?;
                    let below = self.page(u64_at(page, at + 8)?)?;
                    self.collect(&below, depth, elements)?;
                }
                _ => return Err(broken()),
            }
        }
        Ok(())
    }

    fn page(&mut self, id: u64) -> io::Result<Vec<u8>> {
        self.budget = self.budget.checked_sub(1).ok_or_else(broken)?;
        let at = id.checked_mul(self.page_size as u64).ok_or_else(broken)?;
        let mut page = vec![0; self.page_size];
        self.file.read_exact_at(&mut page, at)?;
        let overflow = u32_at(&page, 12)?;
        if u64_at(&page, 0)? != id || overflow > MAX_OVERFLOW {
            return Err(broken());
        }
        page.resize(self.page_size * (overflow as usize + 1), 0);
        self.file.read_exact_at(&mut page[self.page_size..], at + self.page_size as u64)?;
        Ok(page)
    }
}

/// Where a bucket's tree begins.
enum Root {
    /// A page that lies in the bucket's own value.
    Inline(Vec<u8>),
    At(u64),
}

struct Element {
    is_bucket: bool,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Element {
    /// Its position is relative to the element itself.
    fn read(page: &[u8], at: usize) -> io::Result<Self> {
        let word = |offset| u32_at(page, at + offset).map(|word| word as usize);
        let (flags, position, key, value) = (u32_at(page, at)?, word(4)?, word(8)?, word(12)?);
        let bytes = |from: usize, length: usize| page.get(from..from.checked_add(length)?).map(<[u8]>::to_vec);
        let (key, value) = (bytes(at + position, key), bytes(at + position + key, value));
        match (key, value) {
            (Some(key), Some(value)) => Ok(Self { is_bucket: flags & IS_BUCKET != 0, key, value }),
            _ => Err(broken()),
        }
    }
}

struct Meta {
    page_size: u32,
    root: u64,
    transaction: u64,
}

/// A meta page that is intact by its own checksum (FNV-1a, 64 bits).
fn meta(bytes: &[u8]) -> Option<Meta> {
    let checked = bytes.get(..META_BYTES - 8)?;
    let sum = checked
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let word = |at| u32_at(bytes, at).ok();
    let page_size = word(8).filter(|size| PAGE_SIZES.contains(size))?;
    let is_whole = word(0)? == MAGIC && word(4)? == FORMAT && u64_at(bytes, META_BYTES - 8).ok()? == sum;
    is_whole.then_some(Meta { page_size, root: u64_at(bytes, 16).ok()?, transaction: u64_at(bytes, 48).ok()? })
}

fn broken() -> io::Error {
    io::Error::other("its pages aren't those of a backend")
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(broken)
}

fn u16_at(bytes: &[u8], at: usize) -> io::Result<u16> {
    bytes_at(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    bytes_at(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> io::Result<u64> {
    bytes_at(bytes, at).map(u64::from_ne_bytes)
}

/// What etcd writes is big endian on any machine, so that keys are in order.
fn be_u64_at(bytes: &[u8], at: usize) -> io::Result<u64> {
    bytes_at(bytes, at).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::sample::{PAGE, bucket_at, inline, leaf, member, meta_page, page, put};
    use super::*;
    use std::io::Write;

    /// Two metas, of which the second is newer; the newer root is a branch over two leaves.
    fn backend() -> Vec<Vec<u8>> {
        let cluster = inline(&[(0, b"clusterVersion", b"3.6.0".to_vec())]);
        // As 3.5.30 had stored it for a learner that its member list took for a voter.
        let conf_state = br#"{"voters":[1,2],"learners":[3],"auto_leave":false}"#.to_vec();
        let meta = inline(&[
            (0, b"confState", conf_state),
            (0, b"consistent_index", vec![0; 8]),
            (0, b"storageVersion", b"3.6.0".to_vec()),
        ]);
        let mut root = page(3, BRANCH, 2);
        for (number, below) in [4_u64, 5].iter().enumerate() {
            put(&mut root, PAGE_HEADER + number * ELEMENT + 8, &below.to_ne_bytes());
        }
        vec![
            meta_page(0, 2, 7),
            meta_page(1, 3, 8),
            leaf(2, &[]),
            root,
            leaf(4, &[(IS_BUCKET, b"cluster", cluster), (IS_BUCKET, b"members", bucket_at(6))]),
            leaf(5, &[(IS_BUCKET, b"meta", meta)]),
            leaf(6, &[(0, b"1", member(1, false)), (0, b"2", member(2, true)), (0, b"3", member(3, true))]),
        ]
    }

    fn read_back(pages: &[Vec<u8>]) -> io::Result<Backend> {
        let path = std::env::temp_dir().join(format!("etcd-muster-backend-{}", crate::util::clock::random()));
        File::create(&path)?.write_all(&pages.concat())?;
        let found = read(&path);
        std::fs::remove_file(path)?;
        found
    }

    #[test]
    fn versions_and_learners_are_read_from_the_newer_of_two_metas() {
        let found = read_back(&backend()).unwrap();
        let v3_6 = Some(Minor(3, 6));
        assert_eq!((found.cluster_version, found.storage_version), (v3_6, v3_6));
        assert_eq!(found.learners, BTreeSet::from([MemberId(2), MemberId(3)]));
        assert_eq!(found.raft_learners, Some(BTreeSet::from([MemberId(3)])));
    }

    #[test]
    fn a_torn_meta_leaves_the_other() {
        let mut pages = backend();
        pages[1][PAGE_HEADER + 48] ^= 1;
        assert_eq!(read_back(&pages).unwrap(), Backend::default(), "the older root holds nothing");
        let mut pages = backend();
        pages[0][PAGE_HEADER] ^= 1;
        assert_eq!(read_back(&pages).unwrap().learners.len(), 2, "the second is found without the first");
        pages[1][PAGE_HEADER + 8] ^= 1;
        assert!(read_back(&pages).is_err());
    }

    #[test]
    fn what_is_no_backend_is_an_error_and_never_a_loop() {
        let mut circle = backend();
        put(&mut circle[3], PAGE_HEADER + 8, &3_u64.to_ne_bytes());
        assert!(read_back(&circle).is_err(), "a branch that leads to itself");
        let mut elsewhere = backend();
        put(&mut elsewhere[3], PAGE_HEADER + 8, &99_u64.to_ne_bytes());
        assert!(read_back(&elsewhere).is_err(), "a page that isn't there");
        let mut long = backend();
        put(&mut long[4], PAGE_HEADER + 8, &u32::MAX.to_ne_bytes());
        assert!(read_back(&long).is_err(), "a key longer than its page");
        for cut in 0..7 {
            assert!(read_back(&backend()[..cut]).is_err(), "cut at page {cut}");
        }
        // No single flipped bit is anything but an answer or an error.
        for bit in (0..PAGE * 8 / 4).step_by(7) {
            let mut pages = backend();
            pages[3 + bit % 4][bit / 8] ^= 1 << (bit % 8);
            let _either = read_back(&pages);
        }
    }

    #[test]
    fn raft_s_own_list_is_read_or_unknown() {
        let of =
            |text: &str| raft_learners(text.as_bytes()).map(|ids| ids.into_iter().map(|id| id.0).collect::<Vec<_>>());
        assert_eq!(of(r#"{"voters":[1,2],"auto_leave":false}"#), Some(vec![]));
        assert_eq!(of(r#"{"voters":[1],"learners":[5317601499167889124]}"#), Some(vec![5_317_601_499_167_889_124]));
        for odd in ["", "{}", "null", r#"{"voters":[]}"#, r#"{"voters":null}"#, r#"{"learners":[1]}"#] {
            assert_eq!(of(odd), None, "{odd}");
        }
        let pages = sample::backend(&[(1, false), (2, true)], &[7]);
        let found = read_back(&[pages]).unwrap();
        assert_eq!((found.learners, found.raft_learners), ([MemberId(2)].into(), Some([MemberId(7)].into())));
    }

    struct Memory(Vec<u8>);

    impl ReadAt for Memory {
        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            let found = self.0.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()));
            buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    fn moment_of(pages: &[Vec<u8>]) -> io::Result<Moment> {
        moment(&Memory(pages.concat()))
    }

    #[test]
    fn a_snapshots_moment_is_read_along_the_right_edge() {
        let found = moment_of(&sample::snapshot()).unwrap();
        assert_eq!((found.revision, found.compact_revision, found.term, found.index), (300, 17, Some(5), 4711));
        assert_eq!((found.storage_version.as_deref(), found.auth), (Some("3.6.0"), true));
        assert_eq!(found.alarms, [(MemberId(0xcafe), "NOSPACE".to_owned())]);
        let names: Vec<_> = found.members.iter().map(|member| (member.id, member.is_learner)).collect();
        assert_eq!(names, [(MemberId(1), false), (MemberId(2), true)]);
    }

    #[test]
    fn the_last_key_is_read_however_large_its_value_is() {
        let mut pages = sample::snapshot();
        // Of the last leaf's last element: a value of 3 GB, which is nowhere.
        let last = PAGE_HEADER + ELEMENT;
        put(&mut pages[sample::LAST_LEAF], last + 12, &3_000_000_000_u32.to_ne_bytes());
        assert_eq!(moment_of(&pages).unwrap().revision, 300);
    }

    #[test]
    fn a_compaction_may_leave_no_key_of_the_newest_revision() {
        let compacted = |revision| {
            let mut pages = sample::snapshot();
            pages[sample::META_LEAF] = sample::meta_leaf(revision, revision);
            moment_of(&pages).unwrap()
        };
        assert_eq!((compacted(301).revision, compacted(301).compact_revision), (301, 301));
        assert_eq!(compacted(299).revision, 300);
        // Begun, and not ended: an etcd that opens it ends it.
        let mut begun = sample::snapshot();
        begun[sample::META_LEAF] = sample::meta_leaf(40, 17);
        assert_eq!(moment_of(&begun).unwrap().compact_revision, 40);
    }

    #[test]
    fn a_new_cluster_is_at_revision_1_and_another_file_at_none() {
        let mut pages = sample::snapshot();
        for empty in [leaf(sample::KEY_ROOT as u64, &[]), page(sample::KEY_ROOT as u64, BRANCH, 0)] {
            pages[sample::KEY_ROOT] = empty;
            assert_eq!(moment_of(&pages).unwrap().revision, 17, "as it is compacted");
        }
        let mut odd = sample::snapshot();
        odd[sample::LAST_LEAF] = leaf(sample::LAST_LEAF as u64, &[(0, b"not a revision", vec![])]);
        assert!(moment_of(&odd).is_err());
        let mut circle = sample::snapshot();
        put(&mut circle[sample::KEY_ROOT], PAGE_HEADER + ELEMENT + 8, &(sample::KEY_ROOT as u64).to_ne_bytes());
        assert!(moment_of(&circle).is_err(), "a branch that leads to itself");
        for cut in 0..sample::snapshot().len() {
            assert!(moment_of(&sample::snapshot()[..cut]).is_err(), "cut at page {cut}");
        }
        for bit in (0..PAGE * 8).step_by(131) {
            for page in 2..odd.len() {
                let mut pages = sample::snapshot();
                pages[page][bit / 8] ^= 1 << (bit % 8);
                let _either = moment_of(&pages);
            }
        }
    }
}
