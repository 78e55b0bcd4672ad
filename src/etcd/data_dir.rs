//! The contents of etcd's data and WAL directories, and how they are moved aside. Nothing here deletes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::backend::{self, Backend};
use super::{raft_snapshot, wal};
use crate::core::release::DataRelease;
use crate::core::types::{ClusterId, Known, Member, MemberId};
use crate::core::view::{DataDir, LogEnd};
use crate::util::durable::{self, Readers, sync_dir};
use crate::util::file;

/// Our own directory in the data directory.
pub const MUSTER_DIR: &str = "muster";
const QUARANTINE: &str = "quarantine-";
/// Beside the WAL's directory, and so on its volume.
const MARK: &str = "etcd-muster.mark";
/// How much of a log is read at once.
const READ_BYTES: usize = 256 << 10;
/// etcd's name for the directories of raft's log and of its backend.
const MEMBER_DIR: &str = "member";
/// Far above the v2 store of any cluster: a v2 client keeps a few MiB.
const MOST_SNAPSHOT_BYTES: u64 = 512 << 20;

/// Where etcd stores what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Paths {
    /// etcd's `--data-dir`.
    pub data: PathBuf,
    /// etcd's `--wal-dir`.
    pub wal: PathBuf,
    /// The volume it was placed on; `None`: the operator named the directory.
    pub wal_volume: Option<PathBuf>,
}

/// A file of a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RaftFile {
    /// `snap` or `wal`: below `member`, where WAL and data are one directory.
    pub below: &'static str,
    pub name: PathBuf,
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
}

/// A directory that could not be read or changed, and how.
#[derive(Debug, thiserror::Error)]
#[error("{}: {doing}: {cause}{}", path.display(), way_out(cause, path))]
pub struct Error {
    pub path: PathBuf,
    pub doing: &'static str,
    #[source]
    pub cause: io::Error,
}

fn way_out(cause: &io::Error, path: &Path) -> String {
    file::way_out(cause, path).map_or_else(String::new, |way_out| format!("; {way_out}"))
}

impl Error {
    /// Time or an operator can fix it without a restart.
    pub fn may_pass(&self) -> bool {
        file::may_pass(&self.cause)
    }
}

impl Paths {
    /// The directories for a data volume and a WAL volume, unless the operator set etcd's `--wal-dir`.
    ///
    /// When etcd creates a WAL it **removes everything in its WAL directory** and renames a new one into its place
    /// (`wal.Create`, `renameWAL`; measured on 3.5.1). So its directory is one level below the volume: a mount point can't be
    /// renamed over, and a quarantine beside the WAL must survive the next WAL. A volume that already has a WAL at its top
    /// stays as it is.
    pub fn on_volumes(data: &Path, wal_volume: &Path, named: Option<&Path>) -> Self {
        let top = holds_wal(wal_volume).unwrap_or(false);
        let wal = if top { wal_volume.to_owned() } else { wal_volume.join("wal") };
        let data = data.to_owned();
        match named {
            Some(wal) => Self { data, wal: wal.to_owned(), wal_volume: None },
            None => Self { data, wal, wal_volume: Some(wal_volume.to_owned()) },
        }
    }

    /// What the directories contain.
    ///
    /// # Errors
    /// A directory can't be read: that is unknown, never fresh.
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
                    "a WAL is in {}, etcd's default place, but the WAL directory is {}; set ED_WAL={} to run with \
                     this data (from an etcd set up by hand, or a snapshot restored without --wal-dir)",
                    inner.display(),
                    self.wal.display(),
                    self.data.join(MEMBER_DIR).display()
                ),
            },
            (true, false) => DataDir::Partial {
                what: format!("{} has a WAL, but {} has no data", self.wal.display(), self.data.display()),
            },
            (false, _) => DataDir::Partial {
                what: format!("{} has data, but {} has no WAL", self.data.display(), self.wal.display()),
            },
        })
    }

    /// Whether there is a WAL; if that is unknown, it counts as there.
    pub fn holds_wal(&self) -> bool {
        let inner = self.data.join(MEMBER_DIR).join("wal");
        holds_wal(&self.wal).unwrap_or(true) || holds_wal(&inner).unwrap_or(true)
    }

    /// Marks, durably, the volume on which the WAL is about to be created. A mark cut short by a crash proves nothing.
    ///
    /// # Errors
    /// The volume can't be written; then etcd couldn't write it either.
    pub fn mark(&self, nonce: u64) -> Result<(), Error> {
        if self.is_marked(nonce) {
            return Ok(());
        }
        let (dir, path) = self.mark_path();
        let write = || {
            durable::make_dir(dir)?;
            durable::replace(&path, nonce.to_string().as_bytes(), Readers::ByUmask)
        };
        write().map_err(|cause| failed(&path, "can't be written", cause))
    }

    /// Whether the WAL's volume has this ledger's mark: then it was not lost or exchanged since.
    pub fn is_marked(&self, nonce: u64) -> bool {
        fs::read(self.mark_path().1).is_ok_and(|text| text == nonce.to_string().as_bytes())
    }

    fn mark_path(&self) -> (&Path, PathBuf) {
        let dir = self.wal.parent().unwrap_or(Path::new("/"));
        (dir, dir.join(MARK))
    }

    /// The ids in the WAL's metadata record. Every file of a WAL has them; the newest is the most likely to be damaged.
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

    /// The end of raft's log: the last entry of the newest WAL file; if that has none yet, what its name and its hard state
    /// show.
    ///
    /// # Errors
    /// A file can't be read, or does not show where the log ends.
    pub fn log_end(&self) -> io::Result<LogEnd> {
        let mut files = wal_files(&self.wal)?;
        files.sort();
        let newest = files.pop().ok_or_else(|| io::Error::other("no WAL"))?;
        let index_before = wal_index(&newest).and_then(|first| first.checked_sub(1)).unwrap_or_default();
        wal::log_end(BufReader::new(File::open(&newest)?), index_before)
    }

    /// What the data shows about releases. No etcd may have it open.
    ///
    /// # Errors
    /// A file that can't be read, or isn't etcd's.
    pub fn release(&self) -> io::Result<DataRelease> {
        let Backend { cluster_version, storage_version, learners, .. } = self.backend()?;
        let log = self.log_release()?;
        // The backend may lack the last commits, and never has more than the log.
        let cluster_version = log.cluster_version.or(cluster_version);
        let v2_keys = self.snapshot_has_v2_keys(log.snapshot)?;
        Ok(DataRelease { cluster_version, storage_version, learners, v2_keys, ..log })
    }

    /// Whether the raft snapshot of that index holds keys of the v2 API.
    fn snapshot_has_v2_keys(&self, index: u64) -> io::Result<bool> {
        let snap = self.data.join(MEMBER_DIR).join("snap");
        let Some((term, index)) = snapshots(&snap)?.into_iter().rfind(|(_, found)| *found == index) else {
            return Ok(false);
        };
        let mut bytes = Vec::new();
        let file = File::open(snap.join(format!("{term:016x}-{index:016x}.snap")))?;
        file.take(MOST_SNAPSHOT_BYTES).read_to_end(&mut bytes)?;
        Ok(raft_snapshot::has_v2_keys(&bytes))
    }

    /// The members that the backend lists as learners, also while etcd has it open: a page that is being written is read again.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    pub fn learners(&self) -> io::Result<BTreeSet<MemberId>> {
        Ok(self.backend()?.learners)
    }

    /// The members that are learners to raft, whatever a member list says; also while etcd has the backend open. `None`: 3.4 and
    /// earlier store them nowhere.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    pub fn raft_learners(&self) -> io::Result<Option<BTreeSet<MemberId>>> {
        Ok(self.backend()?.raft_learners)
    }

    /// The members as the backend lists them, also while etcd has it open.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    pub fn members(&self) -> io::Result<Vec<Member>> {
        let file = File::open(self.data.join(MEMBER_DIR).join("snap").join("db"))?;
        Ok(backend::moment(&file).or_else(|_| backend::moment(&file))?.members)
    }

    /// The members that can't vote, because to raft they are learners, as far as it is known; read on another thread.
    pub async fn never_vote(&self) -> BTreeSet<MemberId> {
        let paths = self.clone();
        let read = file::aside(&self.data, move || paths.raft_learners()).await;
        read.ok().and_then(Result::ok).flatten().unwrap_or_default()
    }

    /// bbolt writes a free page, then a meta page (copy on write), so a second reading finds what the first one missed.
    fn backend(&self) -> io::Result<Backend> {
        let file = self.data.join(MEMBER_DIR).join("snap").join("db");
        backend::read(&file).or_else(|_| backend::read(&file))
    }

    /// The part of it that the log shows, which can be read while etcd writes it.
    ///
    /// # Errors
    /// A file that can't be read, or isn't etcd's.
    pub fn log_release(&self) -> io::Result<DataRelease> {
        let (snapshot, tail) = self.log_tail(&self.data.join(MEMBER_DIR).join("snap"))?;
        let records = tail.old.range(snapshot + 1..).map(|(_, old)| *old).max().unwrap_or_default();
        let cluster_version = tail.versions.into_values().next_back();
        Ok(DataRelease { cluster_version, records, snapshot, end: tail.end, ..DataRelease::default() })
    }

    /// The index of the newest raft snapshot.
    pub fn newest_snapshot(&self) -> Option<u64> {
        let found = snapshots(&self.data.join(MEMBER_DIR).join("snap")).ok()?;
        found.into_iter().map(|(_, index)| index).max()
    }

    /// The index of the raft snapshot with which etcd would begin, and the log from the file on that contains that index.
    fn log_tail(&self, snap: &Path) -> io::Result<(u64, wal::Tail)> {
        let mut files = wal_files(&self.wal)?;
        files.sort();
        let mut snapshots = snapshots(snap)?;
        loop {
            let newest = snapshots.pop_last().unwrap_or_default();
            let first = files.iter().rposition(|file| wal_index(file).is_some_and(|first| first <= newest.1));
            let mut tail = wal::Tail::default();
            for file in &files[first.unwrap_or_default()..] {
                tail.read(BufReader::with_capacity(READ_BYTES, File::open(file)?))?;
            }
            if newest.1 == 0 || tail.snapshots.contains(&newest) {
                return Ok((newest.1, tail));
            }
        }
    }

    /// The files that are raft's state and the database, as they lie now: what a copy of a member needs.
    ///
    /// # Errors
    /// A directory can't be read.
    pub fn raft_files(&self) -> io::Result<Vec<RaftFile>> {
        let mut found = Vec::new();
        let mut add = |below: &'static str, path: PathBuf| {
            let size = fs::metadata(&path)?.len();
            let name = path.file_name().map(PathBuf::from).unwrap_or_default();
            found.push(RaftFile { below, name, path, size });
            io::Result::Ok(())
        };
        for entry in fs::read_dir(self.data.join(MEMBER_DIR).join("snap"))? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name == "db") || path.extension().is_some_and(|e| e == "snap") {
                add("snap", path)?;
            }
        }
        wal_files(&self.wal)?.into_iter().try_for_each(|path| add("wal", path))?;
        Ok(found)
    }

    /// Makes all entries of a log committed ([`wal::commit_to_the_end`]): of a copy.
    ///
    /// # Errors
    /// The log can't be read or written.
    pub fn commit_log(wal: &Path) -> io::Result<()> {
        let mut files = wal_files(wal)?;
        files.sort();
        let newest = files.pop().ok_or_else(|| io::Error::other("no WAL"))?;
        let before = wal_index(&newest).and_then(|first| first.checked_sub(1)).unwrap_or_default();
        wal::commit_to_the_end(&mut File::options().read(true).write(true).open(&newest)?, before)
    }

    /// Whether the WAL lies in etcd's default place, inside the data.
    pub fn wal_is_inside(&self) -> bool {
        self.wal == self.data.join(MEMBER_DIR).join("wal")
    }

    /// The volume's directory in which the WAL's directory is.
    pub fn beside_wal(&self) -> &Path {
        self.wal.parent().unwrap_or(Path::new("/"))
    }

    /// Moves a prepared data directory (what is in `data`: `member`), and a prepared WAL directory (`None`: it is in `data` too), to where etcd looks for them,
    /// where nothing is but the mark. The WAL comes last: without one nothing counts as started, and it is begun anew.
    ///
    /// # Errors
    /// The disk fails, in between perhaps.
    pub fn install(&self, data: &Path, wal: Option<&Path>) -> Result<(), Error> {
        let rename = |from: &Path, to: &Path| {
            let dir = to.parent().unwrap_or(Path::new("/"));
            durable::make_dir(dir).map_err(|cause| failed(dir, "can't be made", cause))?;
            fs::rename(from, to).map_err(|cause| failed(from, "can't be moved into place", cause))?;
            sync_dir(dir).map_err(|cause| failed(dir, "can't be synced", cause))
        };
        let (from, to) = (data.join(MEMBER_DIR), self.data.join(MEMBER_DIR));
        rename(&from.join("snap"), &to.join("snap"))?;
        rename(wal.unwrap_or(&from.join("wal")), &self.wal)
    }

    /// How much space is free where etcd writes.
    pub fn room(&self) -> String {
        let of = |what: &str, path: &Path| {
            // Before its first start etcd has created none of them.
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

    /// Moves all of etcd's entries into `quarantine-<stamp>/` beside them. Entries that an earlier, interrupted attempt with
    /// the same stamp moved stay there, so it can be repeated until it succeeds.
    ///
    /// # Errors
    /// The first entry that can't be moved.
    pub fn quarantine(&self, stamp: &str) -> Result<(), Error> {
        let name = format!("{QUARANTINE}{stamp}");
        match &self.wal_volume {
            // A WAL at the top of its volume: the next one will be created below, so the old files may stay beside it.
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
/// The entry can't be moved.
pub fn move_entry(from: &Path, into: &Path) -> Result<(), Error> {
    let Some(name) = from.file_name() else { return Ok(()) };
    if !is_present(from).map_err(|cause| failed(from, "can't be read", cause))? {
        return Ok(());
    }
    fs::create_dir_all(into).map_err(|cause| failed(into, "can't be created", cause))?;
    fs::rename(from, into.join(name)).map_err(|cause| failed(from, "can't be moved aside", cause))?;
    for dir in [into, into.parent().unwrap_or(into)] {
        sync_dir(dir).map_err(|cause| failed(dir, "can't be synced", cause))?;
    }
    Ok(())
}

fn is_present(path: &Path) -> io::Result<bool> {
    path.try_exists()
}

/// Raft's snapshots by term and index: `TERM-INDEX.snap`, both in hex (`snap.Snapshotter.save`).
fn snapshots(dir: &Path) -> io::Result<BTreeSet<(u64, u64)>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let stem =
            path.file_stem().and_then(|stem| stem.to_str()).filter(|_| path.extension().is_some_and(|e| e == "snap"));
        found.extend(
            stem.and_then(|stem| stem.split_once('-')).and_then(|(term, index)| Some((hex(term)?, hex(index)?))),
        );
    }
    Ok(found)
}

fn wal_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // etcd's own test for a WAL directory: any name that ends so (`wal.Exist`).
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
    use crate::util::scratch::Scratch;

    /// Whatever fails, or ends, in between: without a WAL nothing counts as started, and the mark shows that none was lost.
    #[test]
    fn of_what_is_installed_the_wal_comes_last_and_the_mark_stays() {
        let in_the_way = |dir: &Path| {
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join("in-the-way"), "").unwrap();
        };
        for is_inside in [false, true] {
            let dir = Scratch::make();
            let data = dir.path().join("data");
            let named = is_inside.then(|| data.join("member/wal"));
            let paths = Paths::on_volumes(&data, &dir.path().join("volume"), named.as_deref());
            assert_eq!(paths.wal_is_inside(), is_inside);
            let prepared = dir.path().join("prepared");
            let wal = if is_inside { prepared.join("member/wal") } else { dir.path().join("prepared-wal") };
            let prepare = || {
                for (file, text) in [(prepared.join("member/snap/db"), "db"), (wal.join("0-0.wal"), "wal")] {
                    fs::create_dir_all(file.parent().unwrap()).unwrap();
                    fs::write(file, text).unwrap();
                }
            };
            let install = || paths.install(&prepared, Some(wal.as_path()).filter(|_| !is_inside));
            paths.mark(1).unwrap();
            prepare();
            in_the_way(&data.join("member/snap"));
            install().unwrap_err();
            assert!(!paths.holds_wal() && paths.is_marked(1), "the data can't be moved");
            paths.quarantine("1").unwrap();
            paths.mark(1).unwrap();
            in_the_way(&paths.wal);
            install().unwrap_err();
            assert!(!paths.holds_wal() && paths.is_marked(1), "the WAL can't");
            assert!(matches!(paths.inspect().unwrap(), DataDir::Partial { .. }));
            paths.quarantine("2").unwrap();
            paths.mark(1).unwrap();
            prepare();
            install().unwrap();
            assert!(matches!(paths.inspect().unwrap(), DataDir::Whole { .. }) && paths.is_marked(1));
        }
    }

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
