//! etcd's write-ahead log, as far as it shows whose it is and how far it goes (etcd, `server/storage/wal`: a record is a 64-bit
//! length, whose upper byte is padding, and a protobuf, `walpb.Record`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::protobuf::{self, Value};
use crate::core::release::Minor;
use crate::core::release::OldRecords;
use crate::core::types::{ClusterId, MemberId};
use crate::core::view::LogEnd;

/// A longer record is not the head of a WAL.
const MAX_HEAD_RECORD_BYTES: u64 = 4096;
/// etcd refuses requests of more than a few MiB.
const MAX_RECORD_BYTES: u64 = 64 << 20;
/// walpb's types of records.
const METADATA_TYPE: u64 = 1;
const ENTRY_TYPE: u64 = 2;
const STATE_TYPE: u64 = 3;
const CRC_TYPE: u64 = 4;
const SNAPSHOT_TYPE: u64 = 5;

/// Reads the cluster and member id from the head of a WAL file. Every file starts with a CRC record and the metadata record
/// (etcd, `wal.Create`, `WAL.cut`); a record is a 64-bit length, whose upper byte is padding, and a protobuf (`walpb.Record`).
///
/// A wrong id would condemn good data as another cluster's, so the record's own CRC is checked, which continues the previous
/// record's.
///
/// # Errors
/// The file ends early, or is not a WAL.
pub fn read_metadata(mut file: impl Read) -> io::Result<(ClusterId, MemberId)> {
    let (mut before, mut record) = (0, Vec::new());
    for _ in 0..2 {
        let fields = read_record(&mut file, &mut record, MAX_HEAD_RECORD_BYTES)?;
        if fields.varint(1) == Some(METADATA_TYPE) {
            // etcdserverpb.Metadata: NodeID = 1, ClusterID = 2.
            let metadata = Fields(fields.bytes(3).unwrap_or_default());
            if fields.varint(2) != Some(u64::from(crc32c(before, metadata.0))) {
                return Err(io::Error::other("the WAL's metadata record has a wrong checksum"));
            }
            return match (metadata.varint(2), metadata.varint(1)) {
                (Some(cluster), Some(member)) => Ok((ClusterId(cluster), MemberId(member))),
                _ => Err(io::Error::other("the WAL's metadata record lacks an id")),
            };
        }
        before = fields.varint(2).unwrap_or_default() as u32;
    }
    Err(io::Error::other("the WAL's head has no metadata record"))
}

/// Where the log ends after a WAL file: at its last entry, or at the snapshot that replaces the entries before. `before`: the
/// index of the last entry before this file.
///
/// # Errors
/// The file can't be read, or does not show that. A last record cut short by a crash was never acknowledged.
pub fn log_end(mut file: impl Read, before: u64) -> io::Result<LogEnd> {
    let (mut end, mut record) = (LogEnd { term: 0, index: before }, Vec::new());
    loop {
        let fields = match read_record(&mut file, &mut record, MAX_RECORD_BYTES) {
            Ok(fields) => fields,
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(cause) => return Err(cause),
        };
        let data = Fields(fields.bytes(3).unwrap_or_default());
        let seen = match fields.varint(1) {
            // Files are allocated longer than what is written: the rest is zeros.
            None => break,
            // raftpb.Entry: Term = 2, Index = 3. An entry that replaces another may begin lower.
            Some(ENTRY_TYPE) => (data.varint(2), data.varint(3)),
            // walpb.Snapshot: Index = 1, Term = 2.
            Some(SNAPSHOT_TYPE) if data.varint(1) > Some(end.index) => (data.varint(2), data.varint(1)),
            _ => continue,
        };
        if let (Some(term), Some(index)) = seen {
            end = LogEnd { term, index };
        }
    }
    match end.index {
        0 => Err(io::Error::other("the WAL has no entry")),
        _ => Ok(end),
    }
}

/// Makes all entries of the newest WAL file committed: appends a hard state that says so. For a copy of a member whose cluster is lost. etcd writes down what is
/// committed only with the next entries, so the log of a leader that acknowledged a write and was killed may not say that this write is committed, and
/// `--force-new-cluster` drops what is not (seen on 3.6.16). A write that was never acknowledged may come back by this, as it may by any restart.
///
/// `before`: the index of the last entry before this file.
///
/// # Errors
/// The file can't be read or written, or holds what no WAL does.
pub fn commit_to_the_end(file: &mut (impl Read + Write + Seek), before: u64) -> io::Result<()> {
    let (mut state, mut last) = ((0, 0), LogEnd { term: 0, index: before });
    let (mut crc, mut end, mut record) = (0, 0, Vec::new());
    loop {
        let fields = match read_record(file, &mut record, MAX_RECORD_BYTES) {
            Ok(fields) => fields,
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(cause) => return Err(cause),
        };
        let Some(kind) = fields.varint(1) else { break };
        let bytes = fields.bytes(3).unwrap_or_default();
        let own = fields.varint(2).unwrap_or_default() as u32;
        // The first record is the checksum of the file before it. One that is wrong was cut short by a crash, and is the last.
        if kind != CRC_TYPE && own != crc32c(crc, bytes) {
            break;
        }
        let data = Fields(bytes);
        match kind {
            ENTRY_TYPE => {
                last =
                    LogEnd { term: data.varint(2).unwrap_or(last.term), index: data.varint(3).unwrap_or(last.index) };
            }
            // raftpb.HardState: Term = 1, Vote = 2, Commit = 3.
            STATE_TYPE => state = (data.varint(1).unwrap_or_default(), data.varint(2).unwrap_or_default()),
            SNAPSHOT_TYPE if data.varint(1) > Some(last.index) => {
                last = LogEnd { term: data.varint(2).unwrap_or_default(), index: data.varint(1).unwrap_or_default() };
            }
            _ => {}
        }
        (crc, end) = (own, file.stream_position()?);
    }
    if last.index == 0 {
        return Err(io::Error::other("the WAL has no entry"));
    }
    let mut hard_state = Vec::new();
    for (field, value) in [(1, state.0.max(last.term)), (2, state.1), (3, last.index)] {
        protobuf::put_varint(field << 3, &mut hard_state);
        protobuf::put_varint(value, &mut hard_state);
    }
    let mut message = Vec::new();
    for (field, value) in [(1, STATE_TYPE), (2, u64::from(crc32c(crc, &hard_state)))] {
        protobuf::put_varint(field << 3, &mut message);
        protobuf::put_varint(value, &mut message);
    }
    message.extend([0x1a, hard_state.len() as u8]);
    message.extend(hard_state);
    let padding = (8 - message.len() % 8) % 8;
    let flag = if padding == 0 { 0 } else { 0x80 | padding as u64 };
    let mut frame = (message.len() as u64 | flag << 56).to_le_bytes().to_vec();
    frame.extend(message);
    frame.resize(frame.len() + padding, 0);
    // What a record cut short has behind it would be read as one.
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(end))?;
    file.write_all(&frame)?;
    let rest = length.saturating_sub(end + frame.len() as u64);
    io::copy(&mut io::repeat(0).take(rest), file)?;
    Ok(())
}

/// What a raft log holds behind its newest snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tail {
    /// The snapshots that the log knows, by term and index. Only with one of these does etcd begin (`wal.ValidSnapshotEntries`).
    pub snapshots: BTreeSet<(u64, u64)>,
    /// Records in the form of the v2 API, by index.
    pub old: BTreeMap<u64, OldRecords>,
    /// Versions of the cluster, by the index of what set them.
    pub versions: BTreeMap<u64, Minor>,
    pub end: u64,
}

impl Tail {
    /// Goes on with one file of the log.
    ///
    /// # Errors
    /// As [`log_end`].
    pub fn read(&mut self, mut file: impl Read) -> io::Result<()> {
        let mut record = Vec::new();
        loop {
            let fields = match read_record(&mut file, &mut record, MAX_RECORD_BYTES) {
                Ok(fields) => fields,
                Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(cause) => return Err(cause),
            };
            let data = Fields(fields.bytes(3).unwrap_or_default());
            match fields.varint(1) {
                None => return Ok(()),
                // raftpb.Entry: Index = 3, Data = 4; Type = 1 is left out or 0 where it is no change of members.
                Some(ENTRY_TYPE) => {
                    let Some(index) = data.varint(3) else { continue };
                    // A new leader's entry takes the place of the old one's, and of all behind it.
                    self.old.split_off(&index);
                    self.versions.split_off(&index);
                    self.end = index;
                    let request = data.bytes(4).filter(|_| data.varint(1).unwrap_or_default() == 0);
                    if let Some(old @ (OldRecords::OfMembers | OldRecords::Foreign)) = request.map(old_record) {
                        self.old.insert(index, old);
                    }
                    self.versions.extend(request.and_then(cluster_version).map(|version| (index, version)));
                }
                Some(SNAPSHOT_TYPE) => {
                    if let Some(index) = data.varint(1) {
                        self.snapshots.insert((data.varint(2).unwrap_or_default(), index));
                        self.end = self.end.max(index);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Whether an entry's data is a request in the form of the v2 API, and of what.
///
/// It is one by itself (etcdserverpb.Request: ID = 1, Method = 2, Path = 3), as etcd 3.5 and earlier write it, or field 2 of an
/// etcdserverpb.InternalRaftRequest. 3.6 takes two of them (`v2ToV3Request`): a member's attributes and the cluster's version.
fn old_record(data: &[u8]) -> OldRecords {
    let entry = Fields(data);
    let Some(second) = entry.bytes(2) else { return OldRecords::None };
    let is_method = second.iter().all(u8::is_ascii_uppercase);
    let request = if is_method { entry } else { Fields(second) };
    let (method, path) = (request.bytes(2).unwrap_or_default(), request.bytes(3).unwrap_or_default());
    let is_of_a_member = path.starts_with(b"/0/members/") && path.ends_with(b"/attributes");
    match method == b"PUT" && (is_of_a_member || path == b"/0/version") {
        true => OldRecords::OfMembers,
        false => OldRecords::Foreign,
    }
}

/// The version that an entry gives the cluster: `PUT /0/version` with it as value (4), as the first one is set up to 3.5, or field 1300
/// of an InternalRaftRequest, a membershippb.ClusterVersionSetRequest (ver = 1).
fn cluster_version(data: &[u8]) -> Option<Minor> {
    const CLUSTER_VERSION_SET: u64 = 1300;
    let entry = Fields(data);
    let text = match (entry.bytes(CLUSTER_VERSION_SET), entry.bytes(2)) {
        (Some(set), _) => Fields(set).bytes(1),
        (None, Some(b"PUT")) if entry.bytes(3) == Some(b"/0/version") => entry.bytes(4),
        (None, Some(request)) if Fields(request).bytes(3) == Some(b"/0/version") => Fields(request).bytes(4),
        _ => None,
    };
    Minor::of_cluster(std::str::from_utf8(text?).ok()?)
}

fn read_record<'a>(file: &mut impl Read, record: &'a mut Vec<u8>, most: u64) -> io::Result<Fields<'a>> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let field = u64::from_le_bytes(length);
    let bytes = field & !(0xff << 56);
    let padding = if field >> 63 == 1 { field >> 56 & 0x7 } else { 0 };
    if bytes > most {
        return Err(io::Error::other(format!("a record of {bytes} bytes is not a WAL record")));
    }
    // At most what is left: a wrong length must not allocate memory.
    record.clear();
    file.take(bytes + padding).read_to_end(record)?;
    match record.get(..bytes as usize).filter(|_| record.len() as u64 == bytes + padding) {
        Some(message) => Ok(Fields(message)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// CRC-32C (RFC 3720, B.4), continued from the previous value; only a few bytes, so without a table.
fn crc32c(before: u32, bytes: &[u8]) -> u32 {
    const CASTAGNOLI: u32 = 0x82f6_3b78;
    !bytes.iter().fold(!before, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { CASTAGNOLI } else { 0 })
    })
}

/// A protobuf message, of which fields are asked for one by one.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn varint(self, number: u64) -> Option<u64> {
        match self.find(number)? {
            Value::Number(value) => Some(value),
            Value::Bytes(_) => None,
        }
    }

    pub(super) fn bytes(self, number: u64) -> Option<&'a [u8]> {
        match self.find(number)? {
            Value::Bytes(value) => Some(value),
            Value::Number(_) => None,
        }
    }

    /// The first field of that number, before anything that can't be read.
    fn find(self, number: u64) -> Option<Value<'a>> {
        let mut fields = protobuf::Fields(self.0).map_while(|field| field);
        fields.find_map(|(found, value)| (found == number).then_some(value))
    }
}

/// For tests: logs as etcd writes them.
#[cfg(test)]
pub mod sample {
    /// The head of a WAL written by etcd 3.5.1 for member 2e1259d415f2a040 of cluster 48276a8f75b6a87.
    pub const HEAD: &[u8] = &[
        0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x84, 0x08, 0x04, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x1d, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x83, 0x08, 0x01, 0x10, 0x8d, 0x9c, 0xf9, 0x16, 0x1a, 0x14, 0x08, 0xc0, 0xc0,
        0xca, 0xaf, 0xc1, 0xba, 0x96, 0x89, 0x2e, 0x10, 0x87, 0xd5, 0xed, 0xba, 0x8f, 0xd5, 0x9d, 0xc1, 0x04, 0x00,
        0x00, 0x00,
    ];

    /// A record as etcd writes it: the length, the message, zeros up to eight bytes.
    pub fn record(kind: u8, data: &[u8]) -> Vec<u8> {
        let mut message = vec![0x08, kind, 0x10, 0x00, 0x1a, data.len() as u8];
        message.extend(data);
        let padding = (8 - message.len() % 8) % 8;
        let flag = if padding == 0 { 0 } else { 0x80 | padding as u64 };
        let mut bytes = (message.len() as u64 | flag << 56).to_le_bytes().to_vec();
        bytes.extend(message);
        bytes.resize(bytes.len() + padding, 0);
        bytes
    }

    /// An entry with that request, of no more than 120 bytes.
    pub fn request(index: u8, data: &[u8]) -> Vec<u8> {
        let mut entry = vec![0x08, 0x00, 0x10, 0x01, 0x18, index, 0x22, data.len() as u8];
        entry.extend(data);
        record(2, &entry)
    }

    /// etcdserverpb.Request, and the same inside an InternalRaftRequest.
    pub fn old(method: &str, path: &str) -> Vec<u8> {
        let mut request = vec![0x08, 0x07, 0x12, method.len() as u8];
        request.extend(method.as_bytes());
        request.extend([0x1a, path.len() as u8]);
        request.extend(path.as_bytes());
        request
    }
}

#[cfg(test)]
mod tests {
    use super::sample::{HEAD, old, record, request};
    use super::*;

    #[test]
    fn ids_are_read_from_a_wal() {
        let ids = (ClusterId(0x0482_76a8_f75b_6a87), MemberId(0x2e12_59d4_15f2_a040));
        assert_eq!(read_metadata(HEAD).unwrap(), ids);
    }

    #[test]
    fn no_head_is_misread() {
        for end in 0..HEAD.len() {
            assert!(read_metadata(&HEAD[..end]).is_err(), "cut at {end}");
        }
        let ids = read_metadata(HEAD).unwrap();
        for bit in 0..HEAD.len() * 8 {
            let mut bad = HEAD.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                read_metadata(bad.as_slice()).is_ok_and(|read| read == ids) || read_metadata(bad.as_slice()).is_err()
            );
        }
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283, "the check value of CRC-32C");
    }

    /// With checksums, as etcd writes it.
    fn written(parts: &[(u64, &[u8])]) -> Vec<u8> {
        let (mut file, mut crc) = (HEAD.to_vec(), crc_of_head());
        for (kind, data) in parts {
            crc = crc32c(crc, data);
            let mut message = vec![0x08, *kind as u8, 0x10];
            protobuf::put_varint(u64::from(crc), &mut message);
            message.extend([0x1a, data.len() as u8]);
            message.extend(*data);
            let padding = (8 - message.len() % 8) % 8;
            let flag = if padding == 0 { 0 } else { 0x80 | padding as u64 };
            file.extend((message.len() as u64 | flag << 56).to_le_bytes());
            file.extend(&message);
            file.resize(file.len() + padding, 0);
        }
        file
    }

    fn crc_of_head() -> u32 {
        let (mut head, mut record) = (HEAD, Vec::new());
        read_record(&mut head, &mut record, 100).unwrap();
        read_record(&mut head, &mut record, 100).unwrap().varint(2).unwrap() as u32
    }

    #[test]
    fn all_that_the_log_holds_becomes_committed() {
        let (first, second): (&[u8], &[u8]) = (&[0x10, 2, 0x18, 8], &[0x10, 3, 0x18, 9]);
        let parts = [(2, first), (3, &[0x08, 3, 0x10, 7, 0x18, 8]), (2, second)];
        let expected = written(&[parts[0], parts[1], parts[2], (3, &[0x08, 3, 0x10, 7, 0x18, 9])]);
        // Zeros up to the file's size; a record that a crash cut short; one whose bytes never came.
        let torn = written(&[(2, first), (3, &[0x08, 3, 0x10, 7, 0x18, 8]), (2, second), (2, &[0x10, 3, 0x18, 10])]);
        let mut unwritten = torn.clone();
        let at = unwritten.len() - 8;
        unwritten[at..].fill(0);
        for rest in [
            vec![0; 256],
            torn[written(&parts).len()..written(&parts).len() + 12].to_vec(),
            unwritten[written(&parts).len()..].to_vec(),
        ] {
            let mut file = io::Cursor::new([written(&parts), rest, vec![0; 64]].concat());
            let length = file.get_ref().len();
            commit_to_the_end(&mut file, 7).unwrap();
            let bytes = file.into_inner();
            assert_eq!(bytes[..expected.len()], expected, "a hard state behind the last entry");
            assert!(bytes[expected.len()..].iter().all(|byte| *byte == 0) && bytes.len() == length.max(expected.len()));
        }
        assert!(commit_to_the_end(&mut io::Cursor::new(HEAD.to_vec()), 0).is_err(), "nothing is in it");
    }

    fn entry(term: u8, index: u8) -> Vec<u8> {
        record(2, &[0x08, 0x00, 0x10, term, 0x18, index])
    }

    #[test]
    fn the_log_ends_at_its_last_entry_or_snapshot() {
        let end = |parts: &[Vec<u8>], before| {
            let mut file = HEAD.to_vec();
            parts.iter().for_each(|part| file.extend(part));
            log_end(file.as_slice(), before).ok().map(|end| (end.term, end.index))
        };
        let (state, zeros) = (record(3, &[0x08, 0x09, 0x18, 0x09]), vec![0; 64]);
        assert_eq!(end(&[entry(1, 1), entry(2, 2), state.clone(), zeros.clone()], 0), Some((2, 2)));
        assert_eq!(end(&[entry(1, 5), entry(3, 4)], 3), Some((3, 4)), "a new leader's entry takes the old one's place");
        assert_eq!(end(&[record(5, &[0x08, 0x32, 0x10, 0x04])], 3), Some((4, 50)), "what a leader sent whole");
        assert_eq!(end(&[record(5, &[0x08, 0x02, 0x10, 0x04]), entry(4, 6)], 5), Some((4, 6)), "an older snapshot");
        assert_eq!(end(&[state], 7), Some((0, 7)), "a file that was just begun");
        assert_eq!(end(&[entry(1, 1), entry(1, 2)[..9].to_vec()], 0), Some((1, 1)), "cut short by a crash");
        assert_eq!(end(&[zeros], 0), None);
    }

    fn wrapped(request: &[u8]) -> Vec<u8> {
        let mut outer = vec![0x12, request.len() as u8];
        outer.extend(request);
        outer
    }

    #[test]
    fn old_records_are_told_by_what_they_ask() {
        use OldRecords::{Foreign, None, OfMembers};
        for (method, path, is) in [
            ("PUT", "/0/members/8e9e05c52164694d/attributes", OfMembers),
            ("PUT", "/0/version", OfMembers),
            ("PUT", "/1/mine", Foreign),
            ("DELETE", "/0/version", Foreign),
            ("PUT", "/0/members/8e9e05c52164694d", Foreign),
            ("QGET", "/health", Foreign),
            ("SYNC", "", Foreign),
        ] {
            let request = old(method, path);
            assert_eq!((old_record(&request), old_record(&wrapped(&request))), (is, is), "{method} {path}");
        }
        // A put of the v3 API (InternalRaftRequest: ID = 1, put = 4), and one with a header.
        for v3 in [&[0x08, 0x07, 0x22, 0x03, 0x0a, 0x01, 0x61][..], &[0xa2, 0x06, 0x02, 0x08, 0x07, 0x22, 0x00]] {
            assert_eq!(old_record(v3), None);
        }
    }

    #[test]
    fn a_log_tells_its_old_records_its_snapshots_and_its_end() {
        let read = |parts: &[Vec<u8>]| {
            let mut file = HEAD.to_vec();
            parts.iter().for_each(|part| file.extend(part));
            let mut tail = Tail::default();
            tail.read(file.as_slice()).map(|()| tail).unwrap()
        };
        let (members, key) = (old("PUT", "/0/version"), old("PUT", "/1/mine"));
        let tail = read(&[
            request(1, &members),
            request(2, &key),
            record(5, &[0x08, 0x02, 0x10, 0x01]),
            entry(1, 3),
            vec![0; 64],
        ]);
        assert_eq!(tail.old, BTreeMap::from([(1, OldRecords::OfMembers), (2, OldRecords::Foreign)]));
        assert_eq!((tail.snapshots, tail.end), (BTreeSet::from([(1, 2)]), 3));
        let tail = read(&[request(1, &members), request(2, &key), entry(2, 2)]);
        assert_eq!(
            tail.old,
            BTreeMap::from([(1, OldRecords::OfMembers)]),
            "a new leader's entry takes the old one's place"
        );
        // The cluster's version, as 3.5.33 and 3.6.16 set it.
        let with_value = [old("PUT", "/0/version"), b"\x22\x053.5.0".to_vec()].concat();
        let v3 = b"\x08\x07\xa2\x51\x07\x0a\x053.6.0".to_vec();
        let tail = read(&[request(4, &with_value), request(5, &v3)]);
        assert_eq!(tail.versions, BTreeMap::from([(4, Minor(3, 5)), (5, Minor(3, 6))]));
        // A change of members is none, whatever its bytes.
        let mut change = vec![0x08, 0x01, 0x10, 0x01, 0x18, 0x01, 0x22, key.len() as u8];
        change.extend(&key);
        assert_eq!(read(&[record(2, &change)]).old, BTreeMap::new());
        let tail = read(&[request(1, &key), request(2, &key)[..30].to_vec()]);
        assert_eq!((tail.old.len(), tail.end), (1, 1), "cut short by a crash");
    }
}
