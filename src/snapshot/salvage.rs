//! Makes a snapshot of data whose cluster has lost its quorum for good. The data itself is only read: a copy of it is run once, alone, as a cluster of one
//! (`--force-new-cluster`), so that what the log holds behind the database is in the snapshot too. On the data itself that is never done: it keeps the cluster's
//! id, and members that were only out of sight would end when they see it (measured on 3.4.23, 3.5.1, 3.5.30).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use hyper::body::Bytes;

use super::catalog;
use super::place::directory::Directory;
use super::place::{self, Place};
use super::spool::{self, sha256};
use super::take::{Origin, manifest_of, moment_of};
use super::verify::{self, BESIDE_BYTES, CLIENT_SOCKET, Scratch, etcd_arguments, in_words};
use crate::core::snapshot::manifest::{Manifest, Reason};
use crate::core::types::{ClusterId, MemberId};
use crate::etcd::client::{Client, Health};
use crate::etcd::data_dir::Paths;
use crate::net::http;
use crate::process::reaper::Reaper;
use crate::process::spawn::Priority;
use crate::util::durable;
use crate::util::file_stream::{Report, STALL, at_length, copy};
use crate::util::words::hex;
use crate::util::{clock, file};

const LOOK_EVERY: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_secs(2);
/// How long the copy's etcd may take to come up, and for each GiB it has to read; then, to end.
const START: Duration = Duration::from_secs(120);
const START_PER_GIB: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(60);
const PIECE_BYTES: usize = 1 << 20;
const MODE: u32 = 0o600;

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Verify(#[from] verify::Error),
    #[error(transparent)]
    Place(#[from] place::Error),
    #[error("a copy of the data does not become healthy alone: {0}")]
    Unhealthy(String),
}

/// What is being done, in bytes of how many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Copying(u64, u64),
    Starting,
    Storing(u64, u64),
}

/// Whose data it is, and with what it is copied.
#[derive(Debug)]
pub struct Salvage<'a> {
    pub paths: &'a Paths,
    pub cluster: ClusterId,
    pub member: MemberId,
    pub instance: &'a str,
    /// The etcd program, and its release for the manifest.
    pub etcd: &'a Path,
    pub release: String,
    /// Where the copy is made ([`spool::dir_in`]).
    pub spool: &'a Path,
    /// The place where the snapshot is stored; created if it must be.
    pub into: &'a Path,
    pub reaper: &'a Reaper,
}

/// Makes the snapshot. No etcd may run with the data. Call on the main thread only.
///
/// # Errors
/// There is none. The data is as it was.
pub async fn salvage(order: &Salvage<'_>, progress: &(dyn Fn(Stage) + Sync)) -> Result<Manifest, Error> {
    let disk = |path: &Path, cause| Error::Verify(verify::Error::Spool(spool::Error::disk(path, cause)));
    let paths = order.paths.clone();
    let looked = file::aside(&order.paths.data, move || paths.raft_files());
    let files = looked.await.flatten().map_err(|cause| disk(&order.paths.data, cause))?;
    let size: u64 = files.iter().map(|found| found.size).sum();
    // Copied, and the database once more as a snapshot.
    spool::prepare(order.spool, size * 2).await.map_err(verify::Error::Spool)?;
    let scratch = Scratch::make(order.spool, size * 2 + BESIDE_BYTES, Priority::Ours).await?;
    let room = scratch.room.path().to_owned();
    let work = move |report: &Report| {
        for dir in ["data", "data/member", "data/member/snap", "data/member/wal"] {
            DirBuilder::new().mode(0o700).create(room.join(dir))?;
        }
        for found in &files {
            let to = room.join("data/member").join(found.below).join(&found.name);
            copy(&found.path, found.size, &to, MODE, report)?;
        }
        Paths::commit_log(&room.join("data/member/wal"))
    };
    let copied = at_length(order.spool, STALL, &|done| progress(Stage::Copying(done, size)), work).await;
    copied.map_err(|cause| disk(order.spool, cause))?;
    progress(Stage::Starting);
    run_alone(order, &scratch, size).await?;
    let database = scratch.room.path().join("data/member/snap/db");
    store(order, &database, progress).await
}

/// Runs the copy alone until it has applied all that it has, and ends it in order.
async fn run_alone(order: &Salvage<'_>, scratch: &Scratch, size: u64) -> Result<(), Error> {
    let mut arguments = etcd_arguments("salvage");
    // Nobody else votes, so nobody is waited for.
    arguments.extend(["--force-new-cluster", "--heartbeat-interval=10", "--election-timeout=100"].map(str::to_owned));
    let etcd = scratch.start(order.etcd, &arguments, order.reaper)?;
    let socket = http::Client::at(scratch.room.path().join(CLIENT_SOCKET));
    let client = Client::new(socket.clone(), socket, None);
    let patience = START + START_PER_GIB * u32::try_from(size >> 30).unwrap_or(u32::MAX);
    let deadline = clock::now() + patience;
    loop {
        if let Some(ended) = etcd.wait_within(LOOK_EVERY).await {
            return Err(scratch.failed(order.etcd, in_words(ended)).into());
        }
        // It answers with what it has read through its own quorum, so all before is applied.
        match client.health("http://localhost", ANSWER).await {
            Ok(Health::Healthy) => break,
            // (An alarm in the data: it is served all the same.)
            Ok(Health::Unhealthy(why)) if why.contains("ALARM") => break,
            Ok(Health::Unhealthy(why)) if clock::now() >= deadline => return Err(Error::Unhealthy(why)),
            Err(error) if clock::now() >= deadline => return Err(Error::Unhealthy(error.to_string())),
            Ok(Health::Unhealthy(_)) | Err(_) => {}
        }
    }
    // In order, so that its database has everything.
    match etcd.stop(END).await {
        true => Ok(()),
        false => Err(Error::Unhealthy(format!("it did not end within {} s", END.as_secs()))),
    }
}

/// Stores the database with its digest, as `snapshot save` would, and its manifest.
async fn store(order: &Salvage<'_>, database: &Path, progress: &(dyn Fn(Stage) + Sync)) -> Result<Manifest, Error> {
    let disk = |path: &Path, cause| Error::Verify(verify::Error::Spool(spool::Error::disk(path, cause)));
    let path = database.to_owned();
    let read = file::aside(database, move || {
        let file = File::open(&path)?;
        let size = file.metadata()?.len();
        Ok((moment_of(&file, size, None)?, size))
    });
    let (moment, size) = read.await.flatten().map_err(|cause: io::Error| disk(database, cause))?;
    let of = Origin {
        cluster: order.cluster,
        member: order.member,
        instance: order.instance,
        etcd: &order.release,
        term: moment.term.unwrap_or_default(),
    };
    let mut manifest = manifest_of(&moment, &of, Reason::Final);
    let (from, into, key) = (database.to_owned(), order.into.to_owned(), manifest.name().data_key());
    let work = move |report: &Report| {
        let target = into.join(&key);
        durable::make_dir(target.parent().unwrap_or(&into))?;
        with_digest(&from, &target, report)
    };
    let stored = at_length(order.into, STALL, &|done| progress(Stage::Storing(done, size)), work).await;
    let (size, sha256) = stored.map_err(|cause| disk(order.into, cause))?;
    (manifest.size, manifest.sha256) = (size, sha256);
    let bytes = Bytes::from(catalog::written(&manifest));
    opened(order.into).put_manifest(&manifest.name().manifest_key(), bytes).await?;
    Ok(manifest)
}

/// The file as etcd's Snapshot gives it: the database, then its SHA-256. Returns size and SHA-256 of the whole.
fn with_digest(from: &Path, to: &Path, report: &Report) -> io::Result<(u64, String)> {
    let draft: PathBuf = durable::draft_of(to);
    let mut source = File::open(from)?;
    // A draft of an attempt that was interrupted is ours.
    let mut target = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&draft)?;
    let (mut database, mut whole) = (Context::new(&SHA256), Context::new(&SHA256));
    let (mut buffer, mut size) = (vec![0; PIECE_BYTES], 0);
    loop {
        let length = source.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        let piece = &buffer[..length];
        database.update(piece);
        whole.update(piece);
        target.write_all(piece)?;
        size += length as u64;
        report.done(size)?;
    }
    let digest = sha256(database);
    whole.update(&digest);
    target.write_all(&digest)?;
    target.sync_all()?;
    fs::rename(&draft, to)?;
    durable::sync_dir(to.parent().unwrap_or(Path::new("/")))?;
    Ok((size + digest.len() as u64, hex(&sha256(whole))))
}

/// The place for such snapshots, in etcd's data directory.
pub fn place_in(data: &Path) -> PathBuf {
    data.join(crate::etcd::data_dir::MUSTER_DIR).join("recovered")
}

/// The place, opened.
pub fn opened(into: &Path) -> Arc<Place> {
    Arc::new(Place::Directory(Directory::new(into.to_owned())))
}
