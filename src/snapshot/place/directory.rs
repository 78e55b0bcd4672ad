//! A directory, as a rule on a mounted share. It may hang, be full, be mounted read-only, or not be mounted at all: everything here is done on
//! a thread that nobody waits for longer than it makes progress.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use hyper::body::Bytes;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::statvfs::statvfs;

use super::{Deleted, Error, Fetched, Listing, Put, Stored, Written};
use crate::aws::s3::bucket::Source;
use crate::aws::s3::listing::Entry;
use crate::core::seed::Order;
use crate::core::snapshot::name::Name;
use crate::util::clock;
use crate::util::durable::{self, DRAFT, Readers};
use crate::util::file;
use crate::util::file_stream::{Progress, Report, STALL, at_length, copy, sha256_of};
use crate::util::words::hex;

/// For what takes milliseconds on a share that lives.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most that is read into memory.
const MAX_BYTES: u64 = file::MOST_BYTES;
const MODE: u32 = 0o600;

/// `file:/dir`.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file:{}", self.root.display())
    }
}

impl Directory {
    /// That directory. It must exist: one that was made where a share is to be mounted would fill the machine's own disk.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) async fn put_data(&self, name: &Name, source: Source<'_>, progress: Progress<'_>) -> Result<Put, Error> {
        let object = self.object(&name.data_key());
        let (disk, name) = (Disk(self.root.clone()), name.clone());
        let (from, size, sha256) = (source.path.to_owned(), source.size, *source.sha256);
        let work = move |report: &Report| {
            let folder = disk.make_folder(&disk.path(&name.data_key()))?;
            let target = disk.path(&name.data_key());
            disk.sweep(&folder, &name);
            if let Some(there) = disk.size_of(&target)? {
                if there == size && sha256_of(&target, report)? == sha256 {
                    return Ok(Some(true));
                }
                if disk.size_of(&disk.path(&name.manifest_key()))?.is_some() {
                    return Ok(None);
                }
            }
            disk.check_room(size)?;
            let draft = durable::draft_of(&target);
            let stored = copy(&from, size, &draft, MODE, report).and_then(|copied| {
                if copied.sha256 != sha256 {
                    return Err(io::Error::other(format!("{} has changed since it was taken", from.display())));
                }
                durable::adopt(&draft, &target)
            });
            if let Err(error) = stored {
                if error.kind() == io::ErrorKind::AlreadyExists {
                    let line = format!("{} is there: another process stores the same snapshot", draft.display());
                    return Err(io::Error::new(error.kind(), line));
                }
                let _stays = fs::remove_file(&draft); // ours, created by this very call
                return Err(error);
            }
            match disk.size_of(&target)? {
                Some(found) if found == size => Ok(Some(false)),
                found => Err(io::Error::other(format!(
                    "{size} bytes of {} were stored and {} are there: that file system does not keep what it accepts",
                    target.display(),
                    found.unwrap_or(0)
                ))),
            }
        };
        match at_length(&self.root, STALL, progress, work).await.map_err(|cause| self.error(cause))? {
            Some(was_there) => Ok(Put { store_date: None, was_there }),
            None => Err(Error::Taken { object }),
        }
    }

    pub(super) async fn put_manifest(&self, key: &str, bytes: Bytes) -> Result<Written, Error> {
        let (disk, key) = (Disk(self.root.clone()), key.to_owned());
        self.quickly(move || {
            let path = disk.checked_path(&key)?;
            let _lock = lock(&disk.make_folder(&path)?);
            match disk.read(&path)? {
                Some(there) if there == bytes => return Ok(Written::New),
                Some(_) => return Ok(Written::Exists),
                None => {}
            }
            through_draft(&path, |draft| durable::create_through(draft, &path, &bytes, Readers::Owner))?;
            // Whoever was first.
            Ok(if disk.read(&path)?.is_some_and(|there| there == bytes) { Written::New } else { Written::Exists })
        })
        .await
    }

    pub(super) async fn replace_manifest(&self, key: &str, bytes: Bytes, version: &str) -> Result<Written, Error> {
        let (disk, key, version) = (Disk(self.root.clone()), key.to_owned(), version.to_owned());
        self.quickly(move || {
            disk.check_root()?;
            let path = disk.path(&key);
            let _lock = path.parent().map(lock);
            match disk.read(&path)? {
                Some(there) if there == bytes => return Ok(Written::New),
                Some(there) if version_of(&there) == version => {}
                _ => return Ok(Written::Exists),
            }
            through_draft(&path, |draft| durable::replace_through(draft, &path, &bytes, Readers::Owner))?;
            Ok(Written::New)
        })
        .await
    }

    pub(super) async fn list(&self, below: &str) -> Result<Listing, Error> {
        let (disk, below) = (Disk(self.root.clone()), below.to_owned());
        let work = move |report: &Report| {
            disk.check_root()?;
            let mut entries = Vec::new();
            for folder in fs::read_dir(&disk.0)? {
                let folder = folder?;
                let Ok(name) = folder.file_name().into_string() else { continue };
                // Links to elsewhere are not followed.
                let is_clusters = name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit());
                let is_ours = is_clusters || format!("{name}/") == Order::FOLDER;
                let is_wanted = below.starts_with(&format!("{name}/")) || format!("{name}/").starts_with(&below);
                if !is_ours || !is_wanted || !folder.file_type()?.is_dir() {
                    continue;
                }
                for file in fs::read_dir(folder.path())? {
                    let file = file?;
                    let Ok(file_name) = file.file_name().into_string() else { continue };
                    let key = format!("{name}/{file_name}");
                    // Removed meanwhile: it is not there, that is known.
                    let found = disk.size_of(&file.path())?;
                    if let Some(size) = found.filter(|_| key.starts_with(&below) && !file_name.ends_with(DRAFT)) {
                        entries.push(Entry { key, size });
                    }
                    report.done(entries.len() as u64)?;
                }
            }
            entries.sort_unstable_by(|a: &Entry, b| a.key.as_bytes().cmp(b.key.as_bytes()));
            Ok(Listing { entries })
        };
        at_length(&self.root, STALL, &|_| {}, work).await.map_err(|cause| self.error(cause))
    }

    pub(super) async fn read(&self, key: &str) -> Result<Option<Stored>, Error> {
        let (disk, key) = (Disk(self.root.clone()), key.to_owned());
        self.quickly(move || {
            disk.check_root()?;
            Ok(disk.read(&disk.checked_path(&key)?)?.map(|body| Stored { version: version_of(&body), body }))
        })
        .await
    }

    pub(super) async fn fetch(&self, key: &str, to: &Path, progress: Progress<'_>) -> Result<Fetched, Error> {
        let object = self.object(key);
        let (disk, key, target) = (Disk(self.root.clone()), key.to_owned(), to.to_owned());
        let work = move |report: &Report| {
            disk.check_root()?;
            let from = disk.checked_path(&key)?;
            let Some(size) = disk.size_of(&from)? else { return Ok(None) };
            let fetched = copy(&from, size, &target, MODE, report);
            if fetched.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::AlreadyExists) {
                let _stays = fs::remove_file(&target);
            }
            fetched.map(Some)
        };
        let fetched = at_length(&self.root, STALL, progress, work).await.map_err(|cause| self.error(cause))?;
        fetched.ok_or(Error::Absent { object })
    }

    pub(super) async fn delete(&self, key: &str) -> Result<Deleted, Error> {
        let (disk, key) = (Disk(self.root.clone()), key.to_owned());
        let place = self.to_string();
        self.quickly(move || {
            disk.check_root()?;
            let path = disk.checked_path(&key)?;
            let Some(folder) = path.parent() else { return Ok(Deleted::Done) };
            if disk.size_of(&path)?.is_none() {
                return Ok(Deleted::Done);
            }
            match fs::remove_file(&path) {
                Ok(()) => durable::sync_dir(folder).map(|()| Deleted::Done),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Deleted::Done),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
                {
                    Ok(Deleted::NotAllowed(format!("{place}: {}", described(&error, &path))))
                }
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn quickly<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let outcome = file::aside_within(PATIENCE, &self.root, work).await.flatten();
        outcome.map_err(|cause| self.error(cause))
    }

    fn object(&self, key: &str) -> String {
        format!("{self}/{key}")
    }

    fn error(&self, cause: io::Error) -> Error {
        Error::Directory { place: self.to_string(), kind: cause.kind(), cause: described(&cause, &self.root) }
    }
}

fn described(cause: &io::Error, path: &Path) -> String {
    match file::way_out(cause, path) {
        Some(way_out) => format!("{cause}; {way_out}"),
        None => cause.to_string(),
    }
}

/// The calls to the file system, for a thread that may block.
#[derive(Clone)]
struct Disk(PathBuf);

impl Disk {
    /// A key of ours has one slash and no name that leads elsewhere.
    fn path(&self, key: &str) -> PathBuf {
        self.0.join(key)
    }

    fn checked_path(&self, key: &str) -> io::Result<PathBuf> {
        match Name::of_key(key).is_some() || Order::is_key(key) {
            true => Ok(self.path(key)),
            false => Err(io::Error::other(format!("{key:?} is not the name of a snapshot's object"))),
        }
    }

    fn check_root(&self) -> io::Result<()> {
        match fs::metadata(&self.0) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(io::Error::other("it is not a directory")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(io::Error::new(error.kind(), "it does not exist; create it, or mount the share there"))
            }
            Err(error) => Err(error),
        }
    }

    /// The folder of that file, made if need be.
    fn make_folder(&self, path: &Path) -> io::Result<PathBuf> {
        self.check_root()?;
        let folder = path.parent().unwrap_or(&self.0).to_owned();
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !fs::symlink_metadata(&folder)?.is_dir() {
            return Err(io::Error::other(format!(
                "{} is not a directory, or a link to one; move it aside",
                folder.display()
            )));
        }
        durable::sync_dir(&self.0)?;
        Ok(folder)
    }

    /// The size of a regular file; `None`: there is none, neither is what a link points to.
    fn size_of(&self, path: &Path) -> io::Result<Option<u64>> {
        let folder = path.parent().unwrap_or(&self.0);
        let found = fs::symlink_metadata(folder).and_then(|folder| match folder.is_dir() {
            true => fs::symlink_metadata(path),
            false => Err(io::Error::from(io::ErrorKind::NotFound)),
        });
        match found {
            Ok(found) => Ok(found.is_file().then_some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A small file; `None`: there is none.
    fn read(&self, path: &Path) -> io::Result<Option<Bytes>> {
        match self.size_of(path)? {
            None => Ok(None),
            Some(size) if size > MAX_BYTES => {
                Err(io::Error::other(format!("{} is larger than {} MiB", path.display(), MAX_BYTES >> 20)))
            }
            Some(_) => {
                let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
                let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    file => file?,
                };
                let mut bytes = Vec::new();
                file.take(MAX_BYTES).read_to_end(&mut bytes)?;
                Ok(Some(bytes.into()))
            }
        }
    }

    /// A copy that does not fit need not be begun.
    fn check_room(&self, size: u64) -> io::Result<()> {
        let found = statvfs(&self.0)?;
        let free = found.blocks_available().saturating_mul(found.fragment_size());
        match free < size {
            true => Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("{size} bytes are to be stored and {free} are free; free some space on that volume"),
            )),
            false => Ok(()),
        }
    }

    /// Removes drafts that this instance left when it was interrupted. While one is being written, it is locked (data) or its folder is (a manifest).
    fn sweep(&self, folder: &Path, name: &Name) {
        let _lock = lock(folder);
        let Ok(found) = fs::read_dir(folder) else { return };
        for file in found.flatten() {
            let draft = file.path();
            let key = file
                .file_name()
                .into_string()
                .ok()
                .and_then(|file| Some(format!("{}{}", Name::folder(name.cluster), drafted(&file)?)));
            let owner = key.and_then(|key| Name::of_key(&key)).map(|(found, _)| found.instance);
            if owner.as_ref() != Some(&name.instance) {
                continue;
            }
            let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
            let Ok(opened) = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&draft) else { continue };
            if Flock::lock(opened, FlockArg::LockExclusiveNonblock).is_ok() {
                let _stays = fs::remove_file(&draft);
            }
        }
    }
}

/// Excludes the other processes of this host that change manifests in that folder: between a look at one and its replacement, another would be overwritten unseen. Where
/// a file system has no locks the time between the two is short.
fn lock(folder: &Path) -> Option<Flock<File>> {
    Flock::lock(File::open(folder).ok()?, FlockArg::LockExclusive).ok()
}

/// Writes a manifest through a draft of its own: other hosts may be writing the same one.
fn through_draft<T>(path: &Path, write: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{:016x}{DRAFT}", clock::random()));
    let draft = PathBuf::from(draft);
    write(&draft).inspect_err(|_| {
        let _stays = fs::remove_file(&draft); // ours, created by this very call
    })
}

/// The name of the file that such a draft is of.
fn drafted(file: &str) -> Option<&str> {
    let file = file.strip_suffix(DRAFT)?;
    let is_own = |end: &str| end.len() == 16 && end.bytes().all(|b| b.is_ascii_hexdigit());
    Some(file.rsplit_once('.').filter(|(_, end)| is_own(end)).map_or(file, |(file, _)| file))
}

/// A file has no ETag; its digest changes with it.
fn version_of(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}
