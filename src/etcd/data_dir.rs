//! What lies in etcd's data and WAL directories, and how it is moved aside. Nothing here deletes.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use crate::cluster::types::{ClusterId, Known, MemberId};
use crate::cluster::view::DataDir;
use crate::file::{self, sync_dir};

/// Our own corner of the data directory.
pub const MUSTER_DIR: &str = "muster";
const QUARANTINE: &str = "quarantine-";
/// Beside the WAL's directory, and so on its volume.
const MARK: &str = "etcd-muster.mark";
/// etcd names its directory for raft's log and its backend so.
const MEMBER_DIR: &str = "member";

/// Where etcd keeps what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Paths {
    /// etcd's `--data-dir`.
    pub data: PathBuf,
    /// etcd's `--wal-dir`.
    pub wal: PathBuf,
    /// The volume it was placed on; `None`: the operator named the directory himself.
    pub wal_volume: Option<PathBuf>,
}

/// A directory that couldn't be read or changed, and how.
#[derive(Debug)]
pub struct Error {
    pub path: PathBuf,
    pub doing: &'static str,
    pub cause: io::Error,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.path.display(), self.doing, self.cause)?;
        file::way_out(&self.cause, &self.path).map_or(Ok(()), |way_out| write!(f, "; {way_out}"))
    }
}

impl Error {
    /// Time, or an operator, mends it without a restart.
    pub fn may_pass(&self) -> bool {
        file::may_pass(&self.cause)
    }
}

impl std::error::Error for Error {}

impl Paths {
    /// The directories for a data volume and a WAL volume, unless the operator named etcd's `--wal-dir` himself.
    ///
    /// When etcd makes a WAL it **removes everything in its WAL directory** and renames a new one into its place
    /// (`wal.Create`, `renameWAL`; measured on 3.5.1). So its directory is one below the volume: a mount point can't be
    /// renamed over, and a quarantine beside the WAL must outlive the next WAL. A volume that already holds a WAL at its
    /// top stays as it is.
    pub fn on_volumes(data: &Path, wal_volume: &Path, named: Option<&Path>) -> Self {
        let top = holds_wal(wal_volume).unwrap_or(false);
        let wal = if top { wal_volume.to_owned() } else { wal_volume.join("wal") };
        let data = data.to_owned();
        match named {
            Some(wal) => Self { data, wal: wal.to_owned(), wal_volume: None },
            None => Self { data, wal, wal_volume: Some(wal_volume.to_owned()) },
        }
    }

    /// What is there.
    ///
    /// # Errors
    /// A directory that can't be read: unknown, never fresh.
    pub fn inspect(&self) -> Result<DataDir, Error> {
        let wal = holds_wal(&self.wal).map_err(|cause| failed(&self.wal, "can't be read", cause))?;
        let snap = self.data.join(MEMBER_DIR).join("snap");
        let backend = is_present(&snap.join("db")).map_err(|cause| failed(&snap, "can't be read", cause))?;
        let inner = self.data.join(MEMBER_DIR).join("wal");
        let inner_wal = holds_wal(&inner).map_err(|cause| failed(&inner, "can't be read", cause))?;
        Ok(match (wal, backend) {
            (true, true) => DataDir::Whole { ids: self.read_ids() },
            (false, false) if !inner_wal => DataDir::Fresh,
            (false, _) if inner_wal => DataDir::Partial {
                what: format!("a WAL lies in {}, but the WAL directory is {}", inner.display(), self.wal.display()),
            },
            (true, false) => DataDir::Partial {
                what: format!("{} holds a WAL, but {} holds no data", self.wal.display(), self.data.display()),
            },
            (false, _) => DataDir::Partial {
                what: format!("{} holds data, but {} holds no WAL", self.data.display(), self.wal.display()),
            },
        })
    }

    /// Whether there is a WAL; one that can't be looked for counts as there.
    pub fn holds_wal(&self) -> bool {
        let inner = self.data.join(MEMBER_DIR).join("wal");
        holds_wal(&self.wal).unwrap_or(true) || holds_wal(&inner).unwrap_or(true)
    }

    /// Marks the volume that the WAL is about to be made on, durably. A mark cut short by a crash proves nothing.
    ///
    /// # Errors
    /// A volume that can't be written: etcd couldn't either.
    pub fn mark(&self, nonce: u64) -> Result<(), Error> {
        if self.is_marked(nonce) {
            return Ok(());
        }
        let (dir, path) = self.mark_path();
        let write = || {
            file::make_dir(dir)?;
            let mut file = File::create(&path)?;
            file.write_all(nonce.to_string().as_bytes())?;
            file.sync_all()?;
            sync_dir(dir)
        };
        write().map_err(|cause| failed(&path, "can't be written", cause))
    }

    /// Whether the WAL's volume bears this ledger's mark: then it was not lost or exchanged since.
    pub fn is_marked(&self, nonce: u64) -> bool {
        fs::read(self.mark_path().1).is_ok_and(|text| text == nonce.to_string().as_bytes())
    }

    fn mark_path(&self) -> (&Path, PathBuf) {
        let dir = self.wal.parent().unwrap_or(Path::new("/"));
        (dir, dir.join(MARK))
    }

    /// The ids in the WAL's metadata record. Every file of a WAL has them; the newest is the likeliest to be torn.
    fn read_ids(&self) -> Known<(ClusterId, MemberId)> {
        let mut files = match wal_files(&self.wal) {
            Ok(files) => files,
            Err(cause) => return Known::Unknown(cause.to_string()),
        };
        files.sort();
        let mut trouble = "no WAL".to_owned();
        for path in files {
            match File::open(&path).and_then(read_metadata) {
                Ok(ids) => return Known::Known(ids),
                Err(cause) => trouble = format!("{}: {cause}", path.display()),
            }
        }
        Known::Unknown(trouble)
    }

    /// How much is free where etcd writes.
    pub fn room(&self) -> String {
        let of = |what: &str, path: &Path| {
            // Before its first start etcd has made none of them.
            let there = path.ancestors().find(|dir| dir.is_dir()).unwrap_or(path);
            match statvfs(there) {
                Ok(volume) => {
                    let mib = |blocks: u64| (blocks * volume.fragment_size()) >> 20;
                    let (free, all) = (mib(volume.blocks_available()), mib(volume.blocks()));
                    format!("{what} ({}) has {free} of {all} MiB free", path.display())
                }
                Err(cause) => format!("{what} ({}): {cause}", path.display()),
            }
        };
        format!("{}, {}", of("the data", &self.data), of("the WAL", &self.wal))
    }

    /// Moves all of etcd's entries into `quarantine-<stamp>/` beside them. Entries that were moved by an earlier, broken
    /// attempt with the same stamp stay where they are: it can be repeated until it succeeds.
    ///
    /// # Errors
    /// The first entry that can't be moved.
    pub fn quarantine(&self, stamp: &str) -> Result<(), Error> {
        let name = format!("{QUARANTINE}{stamp}");
        match &self.wal_volume {
            // A WAL at the top of its volume: the next one will be made below, so the old files may stay beside it.
            Some(volume) if *volume == self.wal => {
                move_entries(volume, &name, |file| file.ends_with(".wal") || file.ends_with(".tmp"))?;
            }
            _ => {
                let beside = self.wal.parent().unwrap_or(Path::new("/"));
                move_entry(&self.wal, &beside.join(&name))?;
            }
        }
        move_entries(&self.data, &name, |file| file == MEMBER_DIR)
    }
}

fn failed(path: &Path, doing: &'static str, cause: io::Error) -> Error {
    Error { path: path.to_owned(), doing, cause }
}

fn move_entries(dir: &Path, into: &str, which: impl Fn(&str) -> bool) -> Result<(), Error> {
    let entries = match fs::read_dir(dir) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|cause| failed(dir, "can't be read", cause))?,
    };
    for entry in entries {
        let entry = entry.map_err(|cause| failed(dir, "can't be read", cause))?;
        if entry.file_name().to_str().is_some_and(&which) {
            move_entry(&entry.path(), &dir.join(into))?;
        }
    }
    Ok(())
}

/// Renames within one volume, and makes the renaming durable.
fn move_entry(from: &Path, into: &Path) -> Result<(), Error> {
    let Some(name) = from.file_name() else { return Ok(()) };
    if !is_present(from).map_err(|cause| failed(from, "can't be read", cause))? {
        return Ok(());
    }
    fs::create_dir_all(into).map_err(|cause| failed(into, "can't be made", cause))?;
    fs::rename(from, into.join(name)).map_err(|cause| failed(from, "can't be moved aside", cause))?;
    for dir in [into, into.parent().unwrap_or(into)] {
        sync_dir(dir).map_err(|cause| failed(dir, "can't be synced", cause))?;
    }
    Ok(())
}

fn is_present(path: &Path) -> io::Result<bool> {
    path.try_exists()
}

fn wal_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // etcd's own test of a WAL directory: any name that ends so (`wal.Exist`).
        if path.extension().is_some_and(|e| e == "wal") {
            files.push(path);
        }
    }
    Ok(files)
}

fn holds_wal(dir: &Path) -> io::Result<bool> {
    Ok(!wal_files(dir)?.is_empty())
}

/// A record longer than this is no head of a WAL.
const MAX_HEAD_RECORD_BYTES: u64 = 4096;
/// walpb: the type of the record that holds the metadata.
const METADATA_TYPE: u64 = 1;

/// Reads the cluster and member id from the head of a WAL file. Every file starts with a CRC record and the metadata record
/// (etcd, `wal.Create`, `WAL.cut`); a record is a 64-bit length, whose upper byte is padding, and a protobuf (`walpb.Record`).
///
/// A wrong id would condemn good data as another cluster's, so the record's own CRC is checked; it goes on from the one before.
fn read_metadata(mut file: impl Read) -> io::Result<(ClusterId, MemberId)> {
    let mut before = 0;
    for _ in 0..2 {
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let field = u64::from_le_bytes(length);
        let bytes = field & !(0xff << 56);
        let padding = if field >> 63 == 1 { field >> 56 & 0x7 } else { 0 };
        if bytes > MAX_HEAD_RECORD_BYTES {
            return Err(io::Error::other(format!("a record of {bytes} bytes is no WAL's head")));
        }
        let mut record = vec![0; bytes as usize + padding as usize];
        file.read_exact(&mut record)?;
        let fields = Fields(&record[..bytes as usize]);
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
    fn a_volume_is_known_by_its_ledgers_mark_alone() {
        let volume = std::env::temp_dir().join(format!("etcd-muster-mark-{}", crate::clock::random()));
        let paths = Paths::on_volumes(Path::new("/nowhere"), &volume, None);
        assert!(!paths.is_marked(1));
        paths.mark(1).unwrap();
        assert!(paths.is_marked(1) && !paths.is_marked(2), "another disk's ledger");
        fs::write(volume.join(MARK), "").unwrap();
        assert!(!paths.is_marked(1), "cut short by a crash");
        paths.mark(1).unwrap();
        assert!(paths.is_marked(1));
        let other = Paths { wal: volume.join("other/wal"), ..paths };
        assert!(!other.is_marked(1), "another volume");
        fs::remove_file(volume.join(MARK)).unwrap();
        fs::remove_dir(volume).unwrap();
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
}
