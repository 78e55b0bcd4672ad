//! The file in which a snapshot lies until it is stored: etcd is read at full speed, whatever a store's speed is, so that no transaction is held
//! open in it.
//!
//! One thread writes and hashes; the main thread only hands over what came. What this program made here it may delete.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::statvfs;
use tokio::sync::{mpsc, oneshot};

use super::envelope::{self, DataKey, FRAME_BYTES, TAG_BYTES};
use crate::etcd::data_dir::MUSTER_DIR;
use crate::util::{clock, durable, file};

/// Behind etcd's database: the SHA-256 of it (etcd's api/v3rpc/maintenance.go, Snapshot).
pub const TRAILER_BYTES: usize = SHA256_OUTPUT_LEN;
/// bbolt's pages, and so a database, are multiples of this on every machine. (A restore checks for 512 only: a file cut by 512 bytes passes it.)
pub const PAGE_BYTES: u64 = 4096;
/// How much of the volume stays free: etcd's own writes need it, and it stops with its disk. Whichever is larger.
const KEPT_BYTES: u64 = 256 << 20;
const KEPT_PERCENT: u64 = 10;
/// How much is handed over at once: as much as is read from etcd's connection at once. Three or four of them exist, so they are most of what taking a
/// snapshot costs in memory.
const PIECE_BYTES: usize = 128 << 10;
/// Pieces on their way to the thread, beside the one that is filled and the one that is written.
const QUEUED: usize = 1;
/// The kernel is told to write after this much: at the end there would be the whole file at once, and etcd's syncs behind it.
const SYNC_EVERY: u64 = 32 << 20;
/// How long the disk may take for one piece.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is being written, and what is whole.
pub(super) const DRAFT: &str = ".part";
pub(super) const WHOLE: &str = ".db";
/// The first part of all names here.
pub(super) const PREFIX: &str = "snapshot-";
/// The same for directories: of what was read back, and in which a restore is tried.
pub(super) const TRIAL_PREFIX: &str = "trial-";
/// Locked by the process of this node that stores a snapshot; it stays.
const TURN: &str = "storing";
const TURN_PAUSE: Duration = Duration::from_millis(50);
/// In such a directory: whose lock it is.
pub(super) const LOCK: &str = "lock";

/// A file as it is to be stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spooled {
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    pub sha256: [u8; SHA256_OUTPUT_LEN],
}

/// Why there is no whole file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{}: {needed} bytes are needed and {free} are free, of which {kept} must stay; make room there, or give etcd's data a larger volume",
        dir.display()
    )]
    Space { dir: PathBuf, needed: u64, free: u64, kept: u64 },
    #[error("{}: {cause}{}", path.display(), way_out(cause, path))]
    Disk {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the snapshot has {0} bytes, which is no whole number of pages and a digest: it was cut on its way")]
    Size(u64),
    #[error("the snapshot's digest is not that of its bytes: it was damaged on its way")]
    Digest,
    #[error(transparent)]
    Envelope(#[from] envelope::Error),
}

fn way_out(cause: &io::Error, path: &Path) -> String {
    file::way_out(cause, path).map_or_else(String::new, |way_out| format!("; {way_out}"))
}

impl Error {
    pub(super) fn disk(path: &Path, cause: io::Error) -> Self {
        Self::Disk { path: path.to_owned(), cause }
    }
}

/// The directory for spooled snapshots, in etcd's data directory: on its volume there is room for one more of it, or etcd is in trouble itself.
pub fn dir_in(data: &Path) -> PathBuf {
    data.join(MUSTER_DIR).join("spool")
}

/// A file of ours, which is removed with this value. While it exists no other process of ours removes it.
#[derive(Debug)]
pub struct Owned {
    path: PathBuf,
    lock: Flock<File>,
}

impl Owned {
    /// A new one, of mode 0600.
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Self::lock(path, file)
    }

    fn lock(path: PathBuf, file: File) -> io::Result<Self> {
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| io::Error::from(errno))?;
        // Who cleans up may have taken it for left over before it was locked.
        match lock.metadata()?.nlink() {
            0 => Err(io::Error::other("it was removed while it was created")),
            _ => Ok(Self { path, lock }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file.
    pub fn file(&self) -> &File {
        self.lock.deref()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.path);
    }
}

/// A node's turn to store; it ends with this value.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held, not read")] Flock<File>);

/// Waits until no other process of this node stores a snapshot. Names hold the node's own, so two at once may store under the same name, and the one's manifest would
/// speak of the other's data.
///
/// # Errors
/// Another one stores for longer than that; the disk fails.
pub async fn turn(dir: &Path, within: Duration) -> io::Result<Turn> {
    let path = dir.join(TURN);
    let began = clock::now();
    loop {
        let here = path.clone();
        let tried = file::aside(&path, move || {
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&here)?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => Ok(Some(Turn(lock))),
                Err((_, Errno::EWOULDBLOCK)) => Ok(None),
                Err((_, errno)) => Err(io::Error::from(errno)),
            }
        });
        if let Some(turn) = tried.await.flatten()? {
            return Ok(turn);
        }
        if clock::now() - began >= within {
            let cause = format!(
                "another process of this node has been storing a snapshot for {} s (it holds {}); end it",
                within.as_secs(),
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, cause));
        }
        clock::pause(TURN_PAUSE).await;
    }
}

/// A directory of ours, which is removed with this value. While it exists no other process of ours removes it.
#[derive(Debug)]
pub(super) struct Room {
    dir: PathBuf,
    _lock: Owned,
}

impl Room {
    /// A new one, of mode 0700; on a thread of its own, for the disk may hang.
    pub(super) async fn make(below: &Path) -> io::Result<Self> {
        let dir = below.join(new_name(TRIAL_PREFIX, ""));
        let made = file::aside(below, move || {
            let make = || {
                DirBuilder::new().mode(0o700).create(&dir)?;
                Owned::create(dir.join(LOCK))
            };
            // Who cleans up may have taken it for left over before it was locked.
            let lock = make().or_else(|_| make())?;
            Ok(Self { dir, _lock: lock })
        });
        made.await.flatten()
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Room {
    #[expect(clippy::disallowed_methods, reason = "made by this value")]
    fn drop(&mut self) {
        // What a program that is just being killed still writes is removed at the next start (`clean`).
        let _gone = fs::remove_dir_all(&self.dir);
    }
}

/// Removes what an end without warning left here: files and directories of our own names that no process holds.
///
/// # Errors
/// The directory can't be read, or something in it can't be removed. That there is none is not an error.
#[expect(clippy::disallowed_methods, reason = "made by this program, by its name, and held by none of its processes")]
pub fn clean(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let is_dir = entry.file_type()?.is_dir();
        if is_dir && is_ours(&name, TRIAL_PREFIX, "") {
            let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path.join(LOCK));
            if lock.and_then(|file| Owned::lock(path.join(LOCK), file)).is_ok() {
                fs::remove_dir_all(&path)?;
            }
        } else if !is_dir && [DRAFT, WHOLE].iter().any(|end| is_ours(&name, PREFIX, end)) {
            // Held by who still writes or sends it; removed as what was ours.
            match OpenOptions::new().write(true).open(&path).and_then(|file| Owned::lock(path.clone(), file)) {
                Ok(owned) => drop(owned),
                Err(error) if error.raw_os_error() == Some(Errno::EWOULDBLOCK as i32) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn is_ours(name: &str, prefix: &str, end: &str) -> bool {
    let middle = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(end));
    middle.is_some_and(|middle| middle.len() == 16 && middle.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A new name that [`clean`] knows.
pub(super) fn new_name(prefix: &str, end: &str) -> String {
    format!("{prefix}{:016x}{end}", clock::random())
}

/// Whether that many bytes can be written there, and enough stays free.
///
/// # Errors
/// Not; or it can't be told.
pub fn has_room(dir: &Path, needed: u64) -> Result<(), Error> {
    let volume = statvfs(dir).map_err(|errno| Error::disk(dir, errno.into()))?;
    let (size, all) = (volume.fragment_size(), volume.blocks());
    let (total, free) = (all.saturating_mul(size), volume.blocks_available().saturating_mul(size));
    let kept = kept_of(total);
    match free.checked_sub(kept).is_some_and(|room| room >= needed) {
        true => Ok(()),
        false => Err(Error::Space { dir: dir.to_owned(), needed, free, kept }),
    }
}

fn kept_of(total: u64) -> u64 {
    KEPT_BYTES.max(total / 100 * KEPT_PERCENT)
}

/// Makes the directory if it must, removes what an end without warning left there, and looks whether that much can be written.
///
/// # Errors
/// Not.
pub async fn prepare(dir: &Path, needed: u64) -> Result<(), Error> {
    let here = dir.to_owned();
    let prepared = file::aside(dir, move || {
        durable::make_dir(&here).and_then(|()| clean(&here)).map_err(|cause| Error::disk(&here, cause))?;
        has_room(&here, needed)
    });
    prepared.await.map_err(|cause| Error::disk(dir, cause))?
}

/// A whole snapshot in the spool.
#[derive(Debug)]
pub struct Whole {
    /// What is to be stored; removed with this value.
    pub owned: Owned,
    pub spooled: Spooled,
    /// If it is encrypted: size and SHA-256 of what etcd gave.
    pub plain: Option<(u64, [u8; SHA256_OUTPUT_LEN])>,
    /// With which it is encrypted.
    pub key: Option<DataKey>,
}

/// A file that is being written.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    pieces: mpsc::Sender<Vec<u8>>,
    used: mpsc::Receiver<Vec<u8>>,
    outcome: oneshot::Receiver<Result<Whole, Error>>,
    piece: Vec<u8>,
    is_whole: oneshot::Sender<()>,
}

impl Spool {
    /// Begins one in that directory, which is created if it must be, for a database of this size. With a key it is encrypted on its way: the
    /// database itself never lies there.
    ///
    /// # Errors
    /// There is no room; the directory can't be created or does not answer.
    pub async fn begin(dir: &Path, expected: u64, key: Option<DataKey>) -> Result<Self, Error> {
        let here = dir.to_owned();
        let made = file::aside(dir, move || {
            durable::make_dir(&here).map_err(|cause| Error::disk(&here, cause))?;
            let whole = expected + TRAILER_BYTES as u64;
            has_room(&here, envelope::sealed_length(whole))
        });
        made.await.map_err(|cause| Error::disk(dir, cause))??;
        let (pieces, to_write) = mpsc::channel(QUEUED);
        let (give_back, used) = mpsc::channel(QUEUED + 2);
        let (is_whole, wholeness) = oneshot::channel();
        let path = dir.join(new_name(PREFIX, DRAFT));
        let begun = path.clone();
        // Its own path, so that a disk that hangs is not asked again for the same file, and another one may be tried.
        let outcome = file::begin(&path, move || Writer::create(&begun, key)?.run(to_write, give_back, wholeness));
        let outcome = outcome.map_err(|cause| Error::disk(&path, cause))?;
        let piece = Vec::with_capacity(PIECE_BYTES + TAG_BYTES);
        Ok(Self { dir: dir.to_owned(), pieces, used, outcome, piece, is_whole })
    }

    /// Takes what came.
    ///
    /// # Errors
    /// The disk is full, or fails, or takes nothing for a minute.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let length = bytes.len().min(PIECE_BYTES - self.piece.len());
            let (now, later) = bytes.split_at(length);
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE_BYTES {
                self.hand_over().await?;
            }
        }
        Ok(())
    }

    async fn hand_over(&mut self) -> Result<(), Error> {
        let mut next = self.used.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE_BYTES + TAG_BYTES));
        next.clear();
        let piece = std::mem::replace(&mut self.piece, next);
        match tokio::time::timeout(PATIENCE, self.pieces.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            // It has ended, and why is its outcome.
            Ok(Err(_)) => Err(self.failure().await),
            Err(_) => Err(self.mute()),
        }
    }

    async fn failure(&mut self) -> Error {
        match tokio::time::timeout(PATIENCE, &mut self.outcome).await {
            Ok(Ok(Err(error))) => error,
            Err(_) => self.mute(),
            Ok(Ok(Ok(_)) | Err(_)) => Error::disk(&self.dir, io::Error::other("its writer ended")),
        }
    }

    fn mute(&self) -> Error {
        let cause = format!("it took nothing for {} s (a dead mount?)", PATIENCE.as_secs());
        Error::disk(&self.dir, io::Error::new(io::ErrorKind::TimedOut, cause))
    }

    /// It can't be finished: on return nothing of it stays, unless the disk hangs.
    pub async fn abandon(self) {
        drop(self.pieces);
        drop(self.is_whole);
        let _gone = tokio::time::timeout(PATIENCE, self.outcome).await;
    }

    /// That was all of it. On return it is on disk, under its name.
    ///
    /// # Errors
    /// As [`write`](Self::write); and it is not whole: then nothing stays of it.
    pub async fn finish(mut self) -> Result<Whole, Error> {
        if !self.piece.is_empty() {
            self.hand_over().await?;
        }
        let _it_may_have_ended = self.is_whole.send(());
        drop(self.pieces);
        match tokio::time::timeout(PATIENCE, self.outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::disk(&self.dir, io::Error::other("its writer panicked"))),
            Err(_) => {
                let cause = format!("it was not synced within {} s", PATIENCE.as_secs());
                Err(Error::disk(&self.dir, io::Error::new(io::ErrorKind::TimedOut, cause)))
            }
        }
    }
}

/// What of a database is checked while it passes by.
pub(super) struct Check {
    /// Without the last bytes: they may be the trailer.
    digest: Context,
    tail: Vec<u8>,
    length: u64,
}

impl Check {
    pub(super) fn new() -> Self {
        Self { digest: Context::new(&SHA256), tail: Vec::with_capacity(2 * TRAILER_BYTES), length: 0 }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        // The last bytes so far are held back: they are the trailer, if nothing follows.
        let (hashed, held) = bytes.split_at(bytes.len().saturating_sub(TRAILER_BYTES));
        if !hashed.is_empty() {
            self.digest.update(&self.tail);
            self.tail.clear();
        }
        self.digest.update(hashed);
        self.tail.extend_from_slice(held);
        let surplus = self.tail.len().saturating_sub(TRAILER_BYTES);
        self.digest.update(&self.tail[..surplus]);
        self.tail.drain(..surplus);
    }

    /// Its length and the SHA-256 of all of it.
    ///
    /// # Errors
    /// It is not a whole database with its own digest behind it.
    pub(super) fn finish(mut self) -> Result<(u64, [u8; SHA256_OUTPUT_LEN]), Error> {
        if self.length % PAGE_BYTES != TRAILER_BYTES as u64 {
            return Err(Error::Size(self.length));
        }
        if self.digest.clone().finish().as_ref() != self.tail {
            return Err(Error::Digest);
        }
        self.digest.update(&self.tail);
        Ok((self.length, sha256(self.digest)))
    }
}

/// What the thread does.
struct Writer {
    owned: Owned,
    /// What etcd gave.
    check: Check,
    sealing: Option<Sealing>,
    written: u64,
    synced: u64,
}

struct Sealing {
    key: DataKey,
    /// Of what is written.
    digest: Context,
    frame: Vec<u8>,
    number: u64,
}

impl Writer {
    fn create(path: &Path, key: Option<DataKey>) -> Result<Self, Error> {
        let owned = Owned::create(path.to_owned()).map_err(|cause| Error::disk(path, cause))?;
        let sealing = key.map(|key| Sealing {
            key,
            digest: Context::new(&SHA256),
            frame: Vec::with_capacity(FRAME_BYTES + TAG_BYTES),
            number: 0,
        });
        Ok(Self { owned, check: Check::new(), sealing, written: 0, synced: 0 })
    }

    fn run(
        mut self,
        mut pieces: mpsc::Receiver<Vec<u8>>,
        used: mpsc::Sender<Vec<u8>>,
        mut is_whole: oneshot::Receiver<()>,
    ) -> Result<Whole, Error> {
        while let Some(piece) = pieces.blocking_recv() {
            self.take(&piece)?;
            let _nobody_waits = used.try_send(piece);
        }
        // Whoever filled it is gone before it was whole.
        is_whole.try_recv().map_err(|_| Error::Size(self.check.length))?;
        self.finish()
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.check.update(piece);
        match self.sealing.take() {
            None => self.write(piece),
            Some(mut sealing) => {
                let mut rest = piece;
                while !rest.is_empty() {
                    // A full frame waits for what follows: it may be the last.
                    if sealing.frame.len() == FRAME_BYTES {
                        self.seal(&mut sealing, false)?;
                    }
                    let (now, later) = rest.split_at(rest.len().min(FRAME_BYTES - sealing.frame.len()));
                    sealing.frame.extend_from_slice(now);
                    rest = later;
                }
                self.sealing = Some(sealing);
                Ok(())
            }
        }
    }

    fn seal(&mut self, sealing: &mut Sealing, is_last: bool) -> Result<(), Error> {
        sealing.key.seal(sealing.number, is_last, &mut sealing.frame)?;
        sealing.number += 1;
        sealing.digest.update(&sealing.frame);
        self.write(&sealing.frame)?;
        sealing.frame.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let failed = |cause| Error::disk(self.owned.path(), cause);
        self.owned.file().write_all(bytes).map_err(failed)?;
        self.written += bytes.len() as u64;
        if self.written - self.synced >= SYNC_EVERY {
            self.owned.file().sync_data().map_err(failed)?;
            self.synced = self.written;
            // Others write there, too.
            has_room(self.owned.path(), SYNC_EVERY)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Whole, Error> {
        let check = std::mem::replace(&mut self.check, Check::new());
        let (received, digest) = check.finish()?;
        let sealed = match self.sealing.take() {
            Some(mut sealing) => {
                self.seal(&mut sealing, true)?;
                Some((sealing.digest, sealing.key))
            }
            None => None,
        };
        let Self { mut owned, written, .. } = self;
        let failed = |cause| Error::disk(owned.path(), cause);
        owned.file().sync_all().map_err(failed)?;
        let whole = owned.path().with_extension(&WHOLE[1..]);
        fs::rename(owned.path(), &whole).map_err(failed)?;
        durable::sync_dir(whole.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        owned.path.clone_from(&whole);
        let (sha256, plain, key) = match sealed {
            Some((context, key)) => (sha256(context), Some((received, digest)), Some(key)),
            None => (digest, None, None),
        };
        Ok(Whole { owned, spooled: Spooled { path: whole, size: written, sha256 }, plain, key })
    }
}

pub(super) fn sha256(context: Context) -> [u8; SHA256_OUTPUT_LEN] {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::snapshot::envelope::plain_length;
    use crate::util::scratch::Scratch;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// A database of that many pages, and its digest.
    fn database(pages: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..pages * PAGE_BYTES as usize).map(|at| (at % 253) as u8).collect();
        with_digest(&bytes)
    }

    fn with_digest(bytes: &[u8]) -> Vec<u8> {
        [bytes, aws_lc_rs::digest::digest(&SHA256, bytes).as_ref()].concat()
    }

    async fn spooled(dir: &Path, bytes: &[u8], step: usize, key: Option<DataKey>) -> Result<Whole, Error> {
        let mut spool = Spool::begin(dir, bytes.len() as u64, key).await?;
        for piece in bytes.chunks(step) {
            spool.write(piece).await?;
        }
        spool.finish().await
    }

    #[test]
    fn what_came_lies_there_whole_for_its_owner_alone_and_no_longer_than_it_is_needed() {
        let scratch = Scratch::make();
        let dir = scratch.path().join("muster/spool");
        let bytes = database(3 * PIECE_BYTES / PAGE_BYTES as usize + 1);
        for step in [7919, PIECE_BYTES, PIECE_BYTES + 1, bytes.len()] {
            let whole = run(spooled(&dir, &bytes, step, None)).unwrap();
            assert!(fs::read(&whole.spooled.path).unwrap() == bytes, "by {step}");
            assert_eq!(whole.spooled.size, bytes.len() as u64);
            assert_eq!(whole.spooled.sha256, aws_lc_rs::digest::digest(&SHA256, &bytes).as_ref());
            let mode = fs::metadata(&whole.spooled.path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(is_ours(&names(&dir)[0], PREFIX, WHOLE));
            drop(whole);
            assert!(names(&dir).is_empty());
        }
    }

    #[test]
    fn an_encrypted_one_is_never_there_as_it_was() {
        let scratch = Scratch::make();
        let pages = [1, FRAME_BYTES / PAGE_BYTES as usize, 2 * FRAME_BYTES / PAGE_BYTES as usize + 3];
        for bytes in pages.map(database) {
            let whole = run(spooled(scratch.path(), &bytes, 30_000, Some(DataKey::random().unwrap()))).unwrap();
            let stored = fs::read(&whole.spooled.path).unwrap();
            assert_eq!(plain_length(stored.len() as u64), Some(bytes.len() as u64));
            assert_eq!(whole.spooled.sha256, aws_lc_rs::digest::digest(&SHA256, &stored).as_ref());
            let (size, sha256) = whole.plain.unwrap();
            assert_eq!(size, bytes.len() as u64);
            assert_eq!(sha256, aws_lc_rs::digest::digest(&SHA256, &bytes).as_ref());
            let page = &bytes[..PAGE_BYTES as usize];
            assert!(!stored.windows(page.len()).step_by(1).take(1 << 16).any(|window| window == page));
        }
    }

    #[test]
    fn what_is_cut_or_damaged_does_not_stay() {
        let scratch = Scratch::make();
        let whole = database(300);
        let mut flipped = whole.clone();
        flipped[5000] ^= 1;
        let mut trailer = whole.clone();
        *trailer.last_mut().unwrap() ^= 1;
        // A restore of etcd's own takes one that is cut by 512 bytes without its digest being checked.
        let cuts = [1, 32, 512, PAGE_BYTES as usize, PAGE_BYTES as usize + 32, whole.len()];
        let cut = cuts.map(|cut| whole[..whole.len() - cut].to_vec());
        let longer = [&whole[..], &[0; PAGE_BYTES as usize]].concat();
        // Of a whole number of disk blocks, and with a digest that is right.
        let blocks = with_digest(&whole[..4096 * 8 + 512]);
        assert!(matches!(run(spooled(scratch.path(), &blocks, 30_000, None)), Err(Error::Size(_))));
        for bytes in cut.into_iter().chain([flipped, trailer, longer]) {
            let length = bytes.len();
            let refused = run(spooled(scratch.path(), &bytes, 30_000, None));
            assert!(matches!(refused, Err(Error::Size(_) | Error::Digest)), "{length}: {refused:?}");
            assert!(names(scratch.path()).is_empty());
        }
        let abandoned = async {
            let mut spool = Spool::begin(scratch.path(), 0, None).await.unwrap();
            spool.write(&whole).await.unwrap();
            spool.abandon().await;
        };
        run(abandoned);
        assert!(names(scratch.path()).is_empty());
    }

    #[tokio::test]
    async fn two_of_a_node_store_one_after_the_other() {
        let scratch = Scratch::make();
        let first = turn(scratch.path(), Duration::ZERO).await.unwrap();
        let error = turn(scratch.path(), Duration::ZERO).await.unwrap_err();
        assert!(error.to_string().contains("another process of this node"), "{error}");
        clean(scratch.path()).unwrap();
        let patient = turn(scratch.path(), Duration::from_secs(60));
        tokio::pin!(patient);
        assert!(tokio::time::timeout(Duration::from_millis(200), &mut patient).await.is_err());
        drop(first);
        patient.await.unwrap();
    }

    #[test]
    fn a_part_of_the_disk_stays_free() {
        assert_eq!(kept_of(1 << 30), 256 << 20);
        assert_eq!(kept_of(100 << 30), (100 << 30) / 100 * 10);
        let scratch = Scratch::make();
        has_room(scratch.path(), 0).unwrap();
        let volume = statvfs(scratch.path()).unwrap();
        // All that is free fits on the disk, and is more than may be used.
        let free = volume.blocks_available().saturating_mul(volume.fragment_size());
        assert!(matches!(has_room(scratch.path(), free), Err(Error::Space { .. })));
        let refused = run(Spool::begin(scratch.path(), free, None));
        assert!(matches!(refused, Err(Error::Space { .. })), "{refused:?}");
        assert!(names(scratch.path()).is_empty());
    }

    #[test]
    fn leftovers_go_and_what_is_held_or_foreign_stays() {
        let scratch = Scratch::make();
        let dir = scratch.path();
        clean(&dir.join("none")).unwrap();
        let held = Owned::create(dir.join("snapshot-0123456789abcdef.db")).unwrap();
        let trial = dir.join("trial-0123456789abcdef");
        fs::create_dir(&trial).unwrap();
        let held_trial = Owned::create(trial.join(LOCK)).unwrap();
        let foreign = ["snapshot-1.db", "snapshot-0123456789abcdeg.db", "snapshot-0123456789abcdef.json", "notes"];
        foreign.iter().for_each(|name| _ = scratch.write(name, ""));
        for left in ["snapshot-00000000000000aa.part", "snapshot-00000000000000aa.db"] {
            scratch.write(left, "left");
        }
        let left = dir.join("trial-00000000000000aa");
        fs::create_dir_all(left.join("data/member")).unwrap();
        clean(dir).unwrap();
        let mut found = names(dir);
        found.sort();
        let mut expected: Vec<_> = foreign.iter().map(|name| (*name).to_owned()).collect();
        expected.extend(["snapshot-0123456789abcdef.db".to_owned(), "trial-0123456789abcdef".to_owned()]);
        expected.sort();
        assert_eq!(found, expected);
        drop((held, held_trial));
        clean(dir).unwrap();
        assert_eq!(names(dir).len(), foreign.len());
    }
}
