//! Proves a snapshot that was fetched back: by its digests, and by a restore on trial.
//!
//! The trial restores it with etcd's own tool into a directory of ours, runs an etcd of its own there, under a token and a cluster id of its own, and
//! compares etcd's hash of the keys with the manifest's. That etcd listens at two unix sockets in a directory that only our user may enter: it joins
//! nobody, and nobody reaches what it holds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};

use super::envelope::{self, DataKey, FRAME_BYTES, OperatorKey, TAG_BYTES};
use super::spool::{self, Check, Owned, Room, sha256};
use super::take::moment_of;
use crate::core::restart::Ended;
use crate::core::snapshot::manifest::{HashKv, Manifest};
use crate::etcd::client::{self, Client};
use crate::etcd::login::Login;
use crate::net::http;
use crate::process::reaper::Reaper;
use crate::process::spawn::{Helper, Priority};
use crate::util::file_stream::PIECE_BYTES;
use crate::util::words::{self, hex};
use crate::util::{clock, file};

/// How long a disk may give nothing, and a tool may write nothing.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often is looked whether something moved.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A first answer of the trial's etcd.
const ANSWER: Duration = Duration::from_secs(2);
/// How long the trial's etcd may take to come up, and for each GiB it has to read; then, to hash it.
const START: Duration = Duration::from_secs(120);
const START_PER_GIB: Duration = Duration::from_secs(60);
/// Beside the database: two files of raft's log, of 64 MB each, and what the database grows by at once.
pub(super) const BESIDE_BYTES: u64 = 256 << 20;
/// etcd's own memory, at the least; and of the database, what its index and its pages may need before the kernel can take them back.
const MEMORY_BYTES: u64 = 256 << 20;
const MEMORY_PART: u64 = 2;
/// How much of a failed program's last words is shown.
const LAST_WORDS: u64 = 300;
const NAME: &str = "trial";
const TOOLS: [&str; 2] = ["etcdutl", "etcdctl"];
/// The form of a unix socket's URL that every release accepts (3.3 wants a host and a port): the files are named so.
pub(super) const CLIENT_SOCKET: &str = "localhost:1";
const PEER_SOCKET: &str = "localhost:2";
/// The longest path of a unix socket (unix(7), sun_path).
const LONGEST_SOCKET: usize = 107;

/// Why a snapshot is not verified.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it has {found} bytes; its manifest says {expected}")]
    Size { found: u64, expected: u64 },
    #[error("its SHA-256 is {found}; its manifest says {expected}")]
    Digest { found: String, expected: String },
    /// It is as it was stored, and was not a database then.
    #[error(transparent)]
    NotASnapshot(spool::Error),
    #[error("it is at revision {}, compacted at {}, raft index {}; its manifest says {}, {} and {}", found.0, found.1, found.2, expected.0, expected.1, expected.2)]
    Moment { found: (u64, u64, u64), expected: (u64, u64, u64) },
    #[error("its keys have the hash {found} at revision {revision}; its manifest says {expected}")]
    Hash { found: u32, expected: u32, revision: u64 },
    // From here on: it could not be verified.
    #[error("it is encrypted with the key {0}, and no key is given")]
    NoKey(String),
    #[error(transparent)]
    Envelope(#[from] envelope::Error),
    #[error(transparent)]
    Spool(spool::Error),
    #[error("a restore on trial needs {needed} bytes of memory, and {available} are available")]
    Memory { needed: u64, available: u64 },
    #[error("a restore on trial has nothing to compare: its manifest has no hash of the keys")]
    NoHash,
    #[error(
        "no hash to compare: the restored etcd is compacted at {found}, and the manifest's hash is as of {expected}"
    )]
    Compaction { found: u64, expected: u64 },
    #[error("{} is not there: a restore on trial needs etcd's own tool; put etcdutl beside etcd (etcdctl, until 3.4)", .0.display())]
    NoTool(PathBuf),
    #[error("{program} {how}{}", said(words))]
    Program { program: String, how: String, words: String },
    #[error("the restored etcd: {0}")]
    Etcd(#[from] client::Error),
}

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!("; its last words: {words}") }
}

impl Error {
    /// Whether it proves that the snapshot is bad. Everything else only means that nothing is known about it.
    pub fn condemns(&self) -> bool {
        match self {
            Self::Size { .. }
            | Self::Digest { .. }
            | Self::NotASnapshot(_)
            | Self::Moment { .. }
            | Self::Hash { .. } => true,
            Self::Envelope(error) => matches!(error, envelope::Error::Frame(_) | envelope::Error::Length),
            _ => false,
        }
    }

    fn disk(path: &Path, cause: io::Error) -> Self {
        Self::Spool(spool::Error::disk(path, cause))
    }
}

/// Checks a file against its manifest: length, digest, encryption, etcd's own digest, and of which moment it is. `progress` is told how many bytes were read.
/// With `plain`, what is encrypted is written there as it was before.
///
/// # Errors
/// It is not what the manifest says ([`Error::condemns`]), or that can't be told.
pub async fn digest(
    path: &Path,
    manifest: &Manifest,
    operator: Option<&OperatorKey>,
    plain: Option<&Owned>,
    progress: &dyn Fn(u64),
) -> Result<(), Error> {
    let key = match (&manifest.encryption, operator) {
        (None, _) => None,
        (Some(encryption), None) => return Err(Error::NoKey(encryption.key_id.clone())),
        (Some(encryption), Some(operator)) => Some(DataKey::unwrapped(encryption, operator, &manifest.name())?),
    };
    let read = Arc::new(AtomicU64::new(0));
    let (here, count, manifest) = (path.to_owned(), read.clone(), manifest.clone());
    let out = plain.map(|owned| owned.file().try_clone()).transpose().map_err(|cause| Error::disk(path, cause))?;
    let work = file::begin(path, move || check(&here, &manifest, key.as_ref(), out, &count));
    let mut work = work.map_err(|cause| Error::disk(path, cause))?;
    let (mut last, mut since) = (0, clock::now());
    loop {
        if let Ok(outcome) = tokio::time::timeout(LOOK_EVERY, &mut work).await {
            progress(read.load(Ordering::Relaxed));
            return outcome.unwrap_or_else(|_| Err(Error::disk(path, io::Error::other("its reader panicked"))));
        }
        let now = read.load(Ordering::Relaxed);
        progress(now);
        if now != last {
            (last, since) = (now, clock::now());
        } else if clock::now() - since > PATIENCE {
            return Err(Error::disk(path, file::mute(PATIENCE)));
        }
    }
}

fn check(
    path: &Path,
    manifest: &Manifest,
    key: Option<&DataKey>,
    mut out: Option<File>,
    count: &AtomicU64,
) -> Result<(), Error> {
    let failed = |cause| Error::disk(path, cause);
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size != manifest.size {
        return Err(Error::Size { found: size, expected: manifest.size });
    }
    let piece = if key.is_some() { FRAME_BYTES + TAG_BYTES } else { PIECE_BYTES };
    let mut buffer = vec![0; piece];
    let (mut stored, mut database, mut read, mut number) = (Context::new(&SHA256), Check::new(), 0, 0);
    let mut first_fault = None;
    while read < size {
        let length = (size - read).min(piece as u64) as usize;
        file.read_exact(&mut buffer[..length]).map_err(failed)?;
        stored.update(&buffer[..length]);
        read += length as u64;
        count.store(read, Ordering::Relaxed);
        let bytes = match key {
            None => &buffer[..length],
            Some(key) => match key.open(number, read == size, &mut buffer[..length]) {
                Ok(bytes) => &*bytes,
                // The digest of what is stored is what tells that it was changed there.
                Err(fault) => {
                    first_fault.get_or_insert(fault);
                    &[]
                }
            },
        };
        number += 1;
        database.update(bytes);
        if let Some(out) = &mut out {
            out.write_all(bytes).map_err(failed)?;
        }
    }
    let found = hex(&sha256(stored));
    if found != manifest.sha256 {
        return Err(Error::Digest { found, expected: manifest.sha256.clone() });
    }
    if let Some(fault) = first_fault {
        return Err(fault.into());
    }
    let (length, digest) = database.finish().map_err(Error::NotASnapshot)?;
    if let (Some(plain), Some(_)) = (&manifest.plain, key) {
        if length != plain.size {
            return Err(Error::Size { found: length, expected: plain.size });
        }
        let found = hex(&digest);
        if found != plain.sha256 {
            return Err(Error::Digest { found, expected: plain.sha256.clone() });
        }
    }
    let unreadable = |cause| Error::NotASnapshot(spool::Error::disk(path, cause));
    let moment = moment_of(&file, size, key).map_err(unreadable)?;
    let found = (moment.revision, moment.compact_revision, moment.index);
    let expected = (manifest.revision, manifest.compact_revision, manifest.index);
    if found != expected {
        return Err(Error::Moment { found, expected });
    }
    Ok(())
}

/// What a trial needs.
#[derive(Debug)]
pub struct Trial<'a> {
    /// The etcd program; its tool lies beside it.
    pub etcd: &'a Path,
    /// Where the trial's directory is made ([`spool::dir_in`], or any other).
    pub scratch: &'a Path,
    pub reaper: &'a Reaper,
    /// For a snapshot with authentication enabled: a user of its own, not the one whose tokens are used for the living cluster.
    pub login: Option<Login>,
}

/// What is being done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// etcd's tool restores: bytes of the database that are there.
    Restoring(u64),
    /// The trial's etcd starts.
    Starting,
    /// It hashes its keys.
    Hashing,
}

/// Restores a snapshot on trial, from a file that is not encrypted and was checked ([`digest`]), and compares its keys' hash. Call on the main thread only.
///
/// # Errors
/// Its keys are others ([`Error::condemns`]), or it could not be tried.
pub async fn restore(
    path: &Path,
    manifest: &Manifest,
    trial: Trial<'_>,
    progress: &dyn Fn(Stage),
) -> Result<HashKv, Error> {
    let expected = manifest.hash_kv.ok_or(Error::NoHash)?;
    let size = manifest.plain.as_ref().map_or(manifest.size, |plain| plain.size);
    has_memory(size)?;
    let tool = tool_beside(trial.etcd)?;
    // Before the children, so that it is dropped behind them.
    let scratch = Scratch::make(trial.scratch, size + BESIDE_BYTES, Priority::Lowest).await?;
    restored(path, &tool, &trial_arguments(&scratch.token), &scratch, trial.reaper, progress).await?;
    let (program, arguments) = (trial.etcd, etcd_arguments(&scratch.token));
    let etcd = scratch.start(program, &arguments, trial.reaper)?;
    let found = hash(&etcd, &scratch, trial.login, program, &expected, size, progress).await;
    etcd.end().await;
    compare(found?, expected)
}

fn compare(found: HashKv, expected: HashKv) -> Result<HashKv, Error> {
    if found.compact_revision != expected.compact_revision {
        return Err(Error::Compaction { found: found.compact_revision, expected: expected.compact_revision });
    }
    if found.hash != expected.hash {
        return Err(Error::Hash { found: found.hash, expected: expected.hash, revision: expected.revision });
    }
    Ok(found)
}

fn trial_arguments(token: &str) -> Vec<String> {
    vec![
        format!("--name={NAME}"),
        format!("--initial-cluster={NAME}=unix://{PEER_SOCKET}"),
        format!("--initial-advertise-peer-urls=unix://{PEER_SOCKET}"),
        format!("--initial-cluster-token={token}"),
    ]
}

/// Runs etcd's tool to its end; what it restores is in `data` of that directory. It is judged by its exit code alone: what it says differs by release, and a
/// damaged file may crash it.
pub(super) async fn restored(
    path: &Path,
    tool: &Path,
    further: &[String],
    scratch: &Scratch,
    reaper: &Reaper,
    progress: &dyn Fn(Stage),
) -> Result<(), Error> {
    let from = fs::canonicalize(path).map_err(|cause| Error::disk(path, cause))?;
    let common =
        ["snapshot".to_owned(), "restore".to_owned(), from.display().to_string(), "--data-dir=data".to_owned()];
    let arguments = [&common, further].concat();
    let child = scratch.start(tool, &arguments, reaper)?;
    let database = scratch.room.path().join("data/member/snap/db");
    let (mut last, mut since) = (0, clock::now());
    let ended = loop {
        if let Some(ended) = child.wait_within(LOOK_EVERY).await {
            break ended;
        }
        let path = database.clone();
        let length = file::aside(&database, move || fs::metadata(path).map_or(0, |found| found.len())).await;
        let length = length.unwrap_or(last);
        progress(Stage::Restoring(length));
        if length != last {
            (last, since) = (length, clock::now());
        } else if clock::now() - since > PATIENCE {
            child.end().await;
            return Err(scratch.failed(tool, format!("wrote nothing for {} s and was ended", PATIENCE.as_secs())));
        }
    };
    match ended {
        Ended::Exited(0) => Ok(()),
        ended => Err(scratch.failed(tool, in_words(ended))),
    }
}

pub(super) fn in_words(ended: Ended) -> String {
    match ended {
        Ended::Exited(code) => format!("exited with {code}"),
        Ended::Signaled(signal) => format!("was ended by signal {signal}"),
        Ended::Unseen => "is gone, and nobody knows how".to_owned(),
    }
}

pub(super) fn etcd_arguments(token: &str) -> Vec<String> {
    let (client, peer) = (format!("unix://{CLIENT_SOCKET}"), format!("unix://{PEER_SOCKET}"));
    vec![
        "--data-dir=data".to_owned(),
        format!("--name={NAME}"),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster={NAME}={peer}"),
        format!("--initial-cluster-token={token}"),
    ]
}

/// The hash of the restored keys, once that etcd answers.
async fn hash(
    etcd: &Helper,
    scratch: &Scratch,
    login: Option<Login>,
    program: &Path,
    expected: &HashKv,
    size: u64,
    progress: &dyn Fn(Stage),
) -> Result<HashKv, Error> {
    let socket = http::Client::at(scratch.room.path().join(CLIENT_SOCKET));
    let client = Client::new(socket.clone(), socket, login);
    let url = "http://localhost";
    progress(Stage::Starting);
    let patience = START + START_PER_GIB * u32::try_from(size >> 30).unwrap_or(u32::MAX);
    let deadline = clock::now() + patience;
    loop {
        if let Some(ended) = etcd.wait_within(LOOK_EVERY).await {
            return Err(scratch.failed(program, in_words(ended)));
        }
        match client.status(url, ANSWER).await {
            Ok(_) | Err(client::Error::Api { .. } | client::Error::Login { .. }) => break,
            Err(_) if clock::now() < deadline => {}
            Err(_) => return Err(scratch.failed(program, format!("does not answer after {} s", patience.as_secs()))),
        }
    }
    progress(Stage::Hashing);
    let found = client.grpc_hash_kv(url, Some(expected.revision), patience).await?;
    Ok(HashKv { hash: found.hash, revision: found.revision, compact_revision: found.compact_revision })
}

/// From 3.5 on etcdutl; before, etcdctl. `etcd` may be a link into the directory where both are.
pub(super) fn tool_beside(etcd: &Path) -> Result<PathBuf, Error> {
    let target = fs::canonicalize(etcd).unwrap_or_else(|_| etcd.to_owned());
    let beside = [etcd, &target].into_iter().flat_map(|etcd| TOOLS.map(|name| etcd.with_file_name(name)));
    let found = beside.into_iter().find(|path| path.exists());
    found.ok_or_else(|| Error::NoTool(etcd.with_file_name(TOOLS[0])))
}

fn has_memory(size: u64) -> Result<(), Error> {
    let needed = MEMORY_BYTES + size / MEMORY_PART;
    match available_memory() {
        Some(available) if available < needed => Err(Error::Memory { needed, available }),
        // A kernel that doesn't tell is no reason.
        _ => Ok(()),
    }
}

/// proc(5), MemAvailable.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The directory in which etcd's tool works.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) room: Room,
    /// Of a trial's cluster.
    token: String,
    priority: Priority,
}

impl Scratch {
    /// One there, if so many bytes have room.
    pub(super) async fn make(below: &Path, needed: u64, priority: Priority) -> Result<Self, Error> {
        spool::has_room(below, needed).map_err(Error::Spool)?;
        let room = Room::make(below).await.map_err(|cause| Error::disk(below, cause))?;
        let socket = room.path().join(CLIENT_SOCKET);
        if socket.as_os_str().len() > LONGEST_SOCKET {
            let cause = format!("its path is too long for a unix socket ({LONGEST_SOCKET})");
            return Err(Error::disk(room.path(), io::Error::other(cause)));
        }
        let token = format!("trial-{:016x}{:016x}", clock::random(), clock::random());
        Ok(Self { room, token, priority })
    }

    pub(super) fn start(&self, program: &Path, arguments: &[String], reaper: &Reaper) -> Result<Helper, Error> {
        let failed = |cause| Error::disk(program, cause);
        let program = fs::canonicalize(program).map_err(failed)?;
        let output = File::create(self.output_of(&program)).map_err(failed)?;
        // etcdctl before 3.4 speaks the second API unless it is told.
        let env = [("ETCDCTL_API", "3"), ("GOMAXPROCS", "1")];
        let tool = !program.ends_with("etcd");
        let env: BTreeMap<String, String> = env
            .iter()
            .filter(|(name, _)| tool || *name != "ETCDCTL_API")
            .filter(|(name, _)| self.priority == Priority::Lowest || *name != "GOMAXPROCS")
            .map(|(n, v)| ((*n).into(), (*v).into()))
            .collect();
        Helper::spawn(&program, arguments, &env, self.room.path(), &output, reaper, self.priority).map_err(failed)
    }

    fn output_of(&self, program: &Path) -> PathBuf {
        self.room.path().join("output").with_extension(program.file_name().unwrap_or_default())
    }

    pub(super) fn failed(&self, program: &Path, how: String) -> Error {
        let last_words = || {
            let mut file = File::open(self.output_of(program)).ok()?;
            let length = file.metadata().ok()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS))).ok()?;
            let mut bytes = Vec::new();
            file.take(LAST_WORDS).read_to_end(&mut bytes).ok()?;
            Some(words::on_one_line(String::from_utf8_lossy(&bytes).trim()).into_owned())
        };
        Error::Program { program: program.display().to_string(), how, words: last_words().unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::snapshot::manifest::{Encryption, FORMAT, Plain, Reason};
    use crate::core::types::{ClusterId, MemberId};
    use crate::etcd::backend::sample;
    use crate::util::scratch::Scratch as TestDir;

    fn sha(bytes: &[u8]) -> String {
        hex(aws_lc_rs::digest::digest(&SHA256, bytes).as_ref())
    }

    fn database() -> Vec<u8> {
        let bytes = sample::snapshot().concat();
        let digest = aws_lc_rs::digest::digest(&SHA256, &bytes);
        [&bytes, digest.as_ref()].concat()
    }

    fn manifest(stored: &[u8]) -> Manifest {
        Manifest {
            format: FORMAT,
            cluster: ClusterId(0xc1),
            parent: None,
            member: MemberId(1),
            instance: "i-1".to_owned(),
            etcd: "3.6.1".to_owned(),
            storage_version: None,
            revision: 300,
            compact_revision: 17,
            term: 5,
            index: 4711,
            size: stored.len() as u64,
            sha256: sha(stored),
            plain: None,
            hash_kv: Some(HASH),
            members: Vec::new(),
            auth: true,
            alarms: Vec::new(),
            taken_at: "2026-11-30T06:00:00Z".to_owned(),
            store_date: None,
            reason: Reason::ByHand,
            encryption: None,
            verified: None,
        }
    }

    const HASH: HashKv = HashKv { hash: 99, revision: 300, compact_revision: 17 };

    fn checked(stored: &[u8], manifest: &Manifest, operator: Option<&OperatorKey>) -> Result<(), Error> {
        let dir = TestDir::make();
        let path = dir.path().join("fetched");
        fs::write(&path, stored).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(digest(&path, manifest, operator, None, &|_| {}))
    }

    #[test]
    fn what_was_stored_is_what_its_manifest_says() {
        let stored = database();
        let manifest = manifest(&stored);
        checked(&stored, &manifest, None).unwrap();
        let condemned = |stored: &[u8], manifest: &Manifest| {
            let error = checked(stored, manifest, None).unwrap_err();
            assert!(error.condemns(), "{error}");
            error
        };
        assert!(matches!(condemned(&stored[..stored.len() - 512], &manifest), Error::Size { .. }));
        for at in [0, 9000, stored.len() - 1] {
            let mut flipped = stored.clone();
            flipped[at] ^= 1;
            assert!(matches!(condemned(&flipped, &manifest), Error::Digest { .. }));
        }
        // Stored as it was taken, and taken wrong.
        let mut flipped = stored.clone();
        flipped[9000] ^= 1;
        assert!(matches!(condemned(&flipped, &self::manifest(&flipped)), Error::NotASnapshot(spool::Error::Digest)));
        for other in [
            Manifest { revision: 301, ..manifest.clone() },
            Manifest { compact_revision: 18, ..manifest.clone() },
            Manifest { index: 4712, ..manifest.clone() },
        ] {
            assert!(matches!(condemned(&stored, &other), Error::Moment { .. }));
        }
    }

    #[test]
    fn an_encrypted_one_needs_its_key_and_is_checked_behind_it_too() {
        let (plain, operator) = (database(), OperatorKey::parse(&[4; 32]).unwrap());
        let key = DataKey::random().unwrap();
        let mut stored = plain.clone();
        key.seal(0, true, &mut stored).unwrap();
        let named = manifest(&stored);
        let encryption: Encryption = key.wrapped(&operator, &named.name()).unwrap();
        let plain_of = |bytes: &[u8]| Some(Plain { size: bytes.len() as u64, sha256: sha(bytes) });
        let manifest = Manifest { encryption: Some(encryption), plain: plain_of(&plain), ..named };
        checked(&stored, &manifest, Some(&operator)).unwrap();
        let error = checked(&stored, &manifest, None).unwrap_err();
        assert!(matches!(&error, Error::NoKey(_)) && !error.condemns());
        let error = checked(&stored, &manifest, Some(&OperatorKey::parse(&[5; 32]).unwrap())).unwrap_err();
        assert!(matches!(&error, Error::Envelope(_)) && !error.condemns(), "{error}");
        let other = Manifest { plain: plain_of(&plain[1..]), ..manifest.clone() };
        assert!(checked(&stored, &other, Some(&operator)).unwrap_err().condemns());
        // Changed, and its digest in the manifest with it: the encryption tells.
        let mut flipped = stored.clone();
        flipped[77] ^= 1;
        let other = Manifest { sha256: sha(&flipped), ..manifest };
        let error = checked(&flipped, &other, Some(&operator)).unwrap_err();
        assert!(matches!(error, Error::Envelope(envelope::Error::Frame(0))) && error.condemns(), "{error}");
    }

    #[test]
    fn etcds_tool_is_found_beside_etcd_and_beside_what_it_links_to() {
        let dir = TestDir::make();
        let etcd = dir.path().join("etcd");
        assert!(matches!(tool_beside(&etcd), Err(Error::NoTool(path)) if path == dir.path().join("etcdutl")));
        let installed = TestDir::make();
        std::os::unix::fs::symlink(installed.write("etcd", ""), &etcd).unwrap();
        let older = installed.write("etcdctl", "");
        assert_eq!(tool_beside(&etcd).unwrap(), fs::canonicalize(older).unwrap());
        let newer = installed.write("etcdutl", "");
        assert_eq!(tool_beside(&etcd).unwrap(), fs::canonicalize(newer).unwrap());
        let nearer = dir.write("etcdutl", "");
        assert_eq!(tool_beside(&etcd).unwrap(), nearer);
    }

    #[test]
    fn restored_keys_are_compared_at_the_same_compaction_only() {
        assert_eq!(compare(HASH, HASH).unwrap(), HASH);
        let error = compare(HashKv { hash: 98, ..HASH }, HASH).unwrap_err();
        assert!(matches!(error, Error::Hash { .. }) && error.condemns());
        let error = compare(HashKv { hash: 98, compact_revision: 18, ..HASH }, HASH).unwrap_err();
        assert!(matches!(error, Error::Compaction { .. }) && !error.condemns(), "nothing follows from it");
        let error = compare(HashKv { compact_revision: 18, ..HASH }, HASH).unwrap_err();
        assert!(!error.condemns());
    }
}
