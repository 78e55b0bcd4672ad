//! etcd's write-ahead log, as far as it tells whose it is and how far it goes (etcd, `server/storage/wal`: a record is a 64-bit
//! length, whose upper byte is padding, and a protobuf, `walpb.Record`).

use std::io::{self, Read};

use crate::core::types::{ClusterId, MemberId};
use crate::core::view::LogEnd;

/// A record longer than this is no head of a WAL.
const MAX_HEAD_RECORD_BYTES: u64 = 4096;
/// etcd refuses requests of more than a few MiB.
const MAX_RECORD_BYTES: u64 = 64 << 20;
/// walpb: the types of records.
const METADATA_TYPE: u64 = 1;
const ENTRY_TYPE: u64 = 2;
const SNAPSHOT_TYPE: u64 = 5;

/// Reads the cluster and member id from the head of a WAL file. Every file starts with a CRC record and the metadata record
/// (etcd, `wal.Create`, `WAL.cut`); a record is a 64-bit length, whose upper byte is padding, and a protobuf (`walpb.Record`).
///
/// A wrong id would condemn good data as another cluster's, so the record's own CRC is checked; it goes on from the one before.
///
/// # Errors
/// A file that breaks off, or is no WAL.
pub fn read_metadata(mut file: impl Read) -> io::Result<(ClusterId, MemberId)> {
    let (mut before, mut record) = (0, Vec::new());
    for _ in 0..2 {
        let fields = read_record(&mut file, &mut record, MAX_HEAD_RECORD_BYTES)?;
        if fields.varint(1) == Some(METADATA_TYPE) {
            // etcdserverpb.Metadata: NodeID = 1, ClusterID = 2.
            let metadata = Fields(fields.bytes(3).unwrap_or_default());
            if fields.varint(2) != Some(u64::from(crc32c(before, metadata.0))) {
                return Err(io::Error::other("the WAL's metadata record has another checksum"));
            }
            return match (metadata.varint(2), metadata.varint(1)) {
                (Some(cluster), Some(member)) => Ok((ClusterId(cluster), MemberId(member))),
                _ => Err(io::Error::other("the WAL's metadata record lacks an id")),
            };
        }
        before = fields.varint(2).unwrap_or_default() as u32;
    }
    Err(io::Error::other("the WAL's head holds no metadata record"))
}

/// Where a WAL file's last entry, or the snapshot that stands for what came before, leaves the log. `before`: the index of the last
/// entry before this file.
///
/// # Errors
/// A file that can't be read, or that tells nothing. A last record that was cut short by a crash was never acknowledged.
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
            // Files are made longer than what is written: the rest is zeros.
            None => break,
            // raftpb.Entry: Term = 2, Index = 3. One that takes another's place may begin lower.
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
        0 => Err(io::Error::other("the WAL holds no entry")),
        _ => Ok(end),
    }
}

fn read_record<'a>(file: &mut impl Read, record: &'a mut Vec<u8>, most: u64) -> io::Result<Fields<'a>> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let field = u64::from_le_bytes(length);
    let bytes = field & !(0xff << 56);
    let padding = if field >> 63 == 1 { field >> 56 & 0x7 } else { 0 };
    if bytes > most {
        return Err(io::Error::other(format!("a record of {bytes} bytes is none of a WAL's")));
    }
    // No more than there is: a length that lies must not be given memory.
    record.clear();
    file.take(bytes + padding).read_to_end(record)?;
    match record.get(..bytes as usize).filter(|_| record.len() as u64 == bytes + padding) {
        Some(message) => Ok(Fields(message)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// CRC-32C (RFC 3720, B.4), going on from that of what came before; a few bytes, so without a table.
fn crc32c(before: u32, bytes: &[u8]) -> u32 {
    const CASTAGNOLI: u32 = 0x82f6_3b78;
    !bytes.iter().fold(!before, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { CASTAGNOLI } else { 0 })
    })
}

/// The fields of a protobuf message, as far as a WAL's head uses them: varints and bytes.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

enum Field<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    fn varint(self, number: u64) -> Option<u64> {
        self.find(number).and_then(|field| match field {
            Field::Varint(value) => Some(value),
            Field::Bytes(_) => None,
        })
    }

    fn bytes(self, number: u64) -> Option<&'a [u8]> {
        self.find(number).and_then(|field| match field {
            Field::Bytes(value) => Some(value),
            Field::Varint(_) => None,
        })
    }

    fn find(self, number: u64) -> Option<Field<'a>> {
        let mut rest = self.0;
        while !rest.is_empty() {
            let key = varint(&mut rest)?;
            let field = match key & 0x7 {
                0 => Field::Varint(varint(&mut rest)?),
                2 => {
                    let length = usize::try_from(varint(&mut rest)?).ok()?;
                    let (value, after) = rest.split_at_checked(length)?;
                    rest = after;
                    Field::Bytes(value)
                }
                _ => return None,
            };
            if key >> 3 == number {
                return Some(field);
            }
        }
        None
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of a WAL written by etcd 3.5.1 for member 2e1259d415f2a040 of cluster 48276a8f75b6a87.
    const HEAD: &[u8] = &[
        0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x84, 0x08, 0x04, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x1d, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x83, 0x08, 0x01, 0x10, 0x8d, 0x9c, 0xf9, 0x16, 0x1a, 0x14, 0x08, 0xc0, 0xc0,
        0xca, 0xaf, 0xc1, 0xba, 0x96, 0x89, 0x2e, 0x10, 0x87, 0xd5, 0xed, 0xba, 0x8f, 0xd5, 0x9d, 0xc1, 0x04, 0x00,
        0x00, 0x00,
    ];

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

    /// A record as etcd writes it: the length, the message, zeros up to eight bytes.
    fn record(kind: u8, data: &[u8]) -> Vec<u8> {
        let mut message = vec![0x08, kind, 0x10, 0x00, 0x1a, data.len() as u8];
        message.extend(data);
        let padding = (8 - message.len() % 8) % 8;
        let flag = if padding == 0 { 0 } else { 0x80 | padding as u64 };
        let mut bytes = (message.len() as u64 | flag << 56).to_le_bytes().to_vec();
        bytes.extend(message);
        bytes.resize(bytes.len() + padding, 0);
        bytes
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
}
