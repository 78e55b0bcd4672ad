//! What lies in etcd's data and WAL directories, and how it is moved aside. Nothing here deletes.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::wal;
use crate::core::types::{ClusterId, Known, MemberId};
use crate::core::view::{DataDir, LogEnd};
use crate::util::file::{self, sync_dir};

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
                what: format!(
                    "a WAL lies in {}, where etcd puts it by default, but the WAL directory is {}; set ED_WAL={} to run with the data \
                     as it is (an etcd that was set up by hand, or a snapshot restored without --wal-dir)",
                    inner.display(),
                    self.wal.display(),
                    self.data.join(MEMBER_DIR).display()
                ),
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
            match File::open(&path).and_then(wal::read_metadata) {
                Ok(ids) => return Known::Known(ids),
                Err(cause) => trouble = format!("{}: {cause}", path.display()),
            }
        }
        Known::Unknown(trouble)
    }

    /// Where raft's log ends: the last entry of the newest WAL file; of one that has none yet, what its name and its hard state say.
    ///
    /// # Errors
    /// A file that can't be read, or holds nothing that says so.
    pub fn log_end(&self) -> io::Result<LogEnd> {
        let mut files = wal_files(&self.wal)?;
        files.sort();
        let newest = files.pop().ok_or_else(|| io::Error::other("no WAL"))?;
        let index_before = wal_index(&newest).and_then(|first| first.checked_sub(1)).unwrap_or_default();
        wal::log_end(BufReader::new(File::open(&newest)?), index_before)
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
///
/// # Errors
/// The entry that can't be moved.
pub fn move_entry(from: &Path, into: &Path) -> Result<(), Error> {
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

/// The index of a file's first entry: `SEQUENCE-INDEX.wal`, both in hex (`wal.walName`).
fn wal_index(file: &Path) -> Option<u64> {
    let (_, index) = file.file_stem()?.to_str()?.split_once('-')?;
    u64::from_str_radix(index, 16).ok()
}

fn holds_wal(dir: &Path) -> io::Result<bool> {
    Ok(!wal_files(dir)?.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_known_by_its_ledgers_mark_alone() {
        let volume = std::env::temp_dir().join(format!("etcd-muster-mark-{}", crate::util::clock::random()));
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
}
