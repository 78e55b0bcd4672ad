//! Prepares the data with which a first member of a restored cluster starts, beside where etcd looks for it: fetched, compared, restored by etcd's
//! own tool, synced. Nothing of a failed attempt is ever started: only a whole one is moved into place, and what was begun is removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalog;
use super::envelope::OperatorKey;
use super::place::{self, Place};
use super::spool::{self, Owned, Room};
use super::verify::{self, Scratch, restored, tool_beside};
use crate::core::release::Release;
use crate::core::snapshot::manifest::Manifest;
use crate::core::step::Obstacle;
use crate::core::types::{InitialList, ListedMember, Seed};
use crate::core::upgrade::fits_snapshot;
use crate::etcd::data_dir::{self, Paths};
use crate::process::reaper::Reaper;
use crate::process::spawn::Priority;
use crate::util::words::hex;
use crate::util::{durable, file};

/// Two files of raft's log, of 64 MB each.
const WAL_BYTES: u64 = 128 << 20;
/// The first release whose tool raises revisions (`--bump-revision`: etcd's CHANGELOG-3.5.md, v3.5.10).
const RAISES: Release = Release { major: 3, minor: 5, patch: 10 };

/// Why the data is not ready.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Place(#[from] place::Error),
    #[error("the manifest of {0} can't be read: {1}")]
    Manifest(String, String),
    #[error("{0} is another snapshot than the one that was agreed on; nothing of it is used; put the original back")]
    Replaced(String),
    #[error(
        "{object} has the SHA-256 {found}, and {expected} was agreed on; nothing of it is used; put the original back"
    )]
    Digest { object: String, found: String, expected: String },
    #[error("{0}")]
    Release(Obstacle),
    #[error(
        "the tool of etcd {0} can't raise revisions, so clients could meet a revision again that they have seen with other content; install etcd 3.5.10 or \
         later; an order that is not given yet can do without (--no-bump)"
    )]
    NoBump(Release),
    #[error(transparent)]
    Verify(#[from] verify::Error),
    #[error(transparent)]
    DataDir(#[from] data_dir::Error),
}

/// What is being done, in bytes of how many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Fetching(u64, u64),
    /// Only of one that is encrypted here.
    Decrypting(u64, u64),
    Restoring(u64, u64),
    Syncing,
}

/// What is to be prepared, and with what.
#[derive(Debug)]
pub struct Restore<'a> {
    pub place: &'a Arc<Place>,
    pub seed: &'a Seed,
    pub key: Option<&'a OperatorKey>,
    pub list: &'a InitialList,
    /// How the list names this node.
    pub entry: &'a ListedMember,
    pub paths: &'a Paths,
    /// Where it is prepared ([`spool::dir_in`]): on the data's volume.
    pub spool: &'a Path,
    /// The etcd program; its tool lies beside it.
    pub etcd: &'a Path,
    pub installed: Option<Release>,
    pub reaper: &'a Reaper,
}

/// Data that is ready. What is not moved into place is removed with this value.
#[derive(Debug)]
pub struct Staged {
    /// For which list.
    pub token: String,
    /// What the manifest says about it.
    pub manifest: Manifest,
    scratch: Scratch,
    wal: Option<Room>,
}

impl Staged {
    /// Moves it to where etcd looks for it.
    ///
    /// # Errors
    /// The disk fails.
    pub fn install(&self, paths: &Paths) -> Result<(), data_dir::Error> {
        let wal = self.wal.as_ref().map(wal_in);
        paths.install(&self.scratch.room.path().join("data"), wal.as_deref())
    }
}

fn wal_in(room: &Room) -> PathBuf {
    room.path().join("wal")
}

/// Prepares it. Call on the main thread only.
///
/// # Errors
/// It is not ready, and nothing of it is left.
pub async fn stage(order: &Restore<'_>, progress: &(dyn Fn(Stage) + Sync)) -> Result<Staged, Error> {
    let Restore { place, seed, spool, paths, .. } = *order;
    let object = format!("{place}/{}", seed.snapshot);
    let manifest = manifest_of(place, seed, &object).await?;
    if let Some(installed) = order.installed {
        suits(installed, &manifest, seed.bump)?;
    }
    let tool = tool_beside(order.etcd)?;
    let disk = |path: &Path, cause| verify::Error::Spool(spool::Error::disk(path, cause));
    let plain_size = manifest.plain.as_ref().map_or(manifest.size, |plain| plain.size);
    let copies = if manifest.encryption.is_some() { 2 } else { 1 };
    let log = if paths.wal_is_inside() { WAL_BYTES } else { 0 };
    let needed = plain_size * copies + manifest.size + log;
    spool::prepare(spool, needed).await.map_err(verify::Error::Spool)?;
    let scratch = Scratch::make(spool, needed, Priority::Ours).await?;
    let wal = match paths.wal_is_inside() {
        true => None,
        false => {
            let beside = paths.beside_wal();
            spool::prepare(beside, WAL_BYTES).await.map_err(verify::Error::Spool)?;
            Some(Room::make(beside).await.map_err(|cause| disk(beside, cause))?)
        }
    };
    let stored = scratch.room.path().join("fetched");
    let name = manifest.name();
    let fetched =
        place.fetch(&name.data_key(), &stored, &|done| progress(Stage::Fetching(done, manifest.size))).await?;
    let found = hex(&fetched.sha256);
    if (fetched.size, &found) != (seed.size, &seed.sha256) {
        return Err(Error::Digest { object, found, expected: seed.sha256.clone() });
    }
    let plain = match &manifest.encryption {
        None => None,
        Some(_) => {
            let path = scratch.room.path().join("plain");
            let plain = Owned::create(path.clone()).map_err(|cause| disk(&path, cause))?;
            let read = |done| progress(Stage::Decrypting(done, manifest.size));
            verify::digest(&stored, &manifest, order.key, Some(&plain), &read).await?;
            Some(plain)
        }
    };
    let from = plain.as_ref().map_or(stored.as_path(), Owned::path);
    let arguments = arguments(order, wal.as_ref());
    let restoring = |stage| {
        if let verify::Stage::Restoring(done) = stage {
            progress(Stage::Restoring(done, plain_size));
        }
    };
    restored(from, &tool, &arguments, &scratch, order.reaper, &restoring).await?;
    drop(plain);
    progress(Stage::Syncing);
    let trees = [Some(scratch.room.path().join("data")), wal.as_ref().map(wal_in)];
    let done = file::aside(scratch.room.path(), move || {
        // Only a copy of what the place has.
        fs::remove_file(&stored)?;
        trees.into_iter().flatten().try_for_each(|tree| sync_tree(&tree))
    });
    done.await.flatten().map_err(|cause| disk(scratch.room.path(), cause))?;
    Ok(Staged { token: order.list.token.clone(), manifest, scratch, wal })
}

async fn manifest_of(place: &Arc<Place>, seed: &Seed, object: &str) -> Result<Manifest, Error> {
    let unreadable = |cause: String| Error::Manifest(object.to_owned(), cause);
    let name = seed.name().ok_or_else(|| unreadable("that is no snapshot's name".to_owned()))?;
    let manifest = catalog::manifest(place, &name).await.map_err(unreadable)?;
    match (&manifest.sha256, manifest.size) == (&seed.sha256, seed.size) {
        true => Ok(manifest),
        false => Err(Error::Replaced(object.to_owned())),
    }
}

/// Whether an etcd of that release may start on what its tool restores, and that tool can raise revisions where it is wanted.
///
/// # Errors
/// Not. Once a list with that seed is chosen, only another etcd helps.
pub fn suits(installed: Release, manifest: &Manifest, bump: u64) -> Result<(), Error> {
    fits_snapshot(installed, &manifest.etcd).map_err(Error::Release)?;
    raises(installed, bump)
}

/// Whether the tool of that release can raise revisions, if they are to be.
///
/// # Errors
/// Not.
pub fn raises(installed: Release, bump: u64) -> Result<(), Error> {
    match bump > 0 && installed < RAISES {
        true => Err(Error::NoBump(installed)),
        false => Ok(()),
    }
}

fn arguments(order: &Restore<'_>, wal: Option<&Room>) -> Vec<String> {
    let Restore { list, entry, seed, .. } = order;
    let mut arguments = vec![
        format!("--name={}", entry.name),
        format!("--initial-cluster={}", list.initial_cluster()),
        format!("--initial-advertise-peer-urls={}", entry.peer_urls.join(",")),
        format!("--initial-cluster-token={}", list.token),
        // All of it has just been compared; the tool would read it once more for the digest at its end.
        "--skip-hash-check=true".to_owned(),
    ];
    arguments.extend(wal.map(|room| format!("--wal-dir={}", wal_in(room).display())));
    if seed.bump > 0 {
        arguments.extend([format!("--bump-revision={}", seed.bump), "--mark-compacted".to_owned()]);
    }
    arguments
}

/// Makes a whole directory durable: etcd's tool leaves that to the kernel, and what counts as restored must survive a power failure.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => sync_tree(&entry.path())?,
            false => File::open(entry.path())?.sync_all()?,
        }
    }
    durable::sync_dir(dir)
}
