//! Takes a snapshot of one member: from etcd into the spool, with every check that can be made before it is stored.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::envelope::{self, DataKey, Opened, OperatorKey};
use super::spool::{self, Owned, Spool, Spooled, TRAILER_BYTES, Whole};
use crate::core::snapshot::manifest::{FORMAT, HashKv, Manifest, ManifestMember, Plain, Reason};
use crate::core::snapshot::name::Name;
use crate::core::types::{ClusterId, Member, MemberId};
use crate::etcd::backend::{self, Moment, ReadAt};
use crate::etcd::client::{self, Client, Status};
use crate::etcd::grpc::Snapshot;
use crate::util::words::hex;
use crate::util::{clock, file};

/// A first answer. A read through the quorum takes etcd 7 s to refuse (measured on 3.4.23 to 3.5.30).
const ANSWER: Duration = Duration::from_secs(10);
/// How long etcd may send nothing: its disk may be slow, but it sends what it reads.
const PIECE: Duration = Duration::from_secs(60);
/// Hashing takes etcd 0.2 s a GiB with few keys, and more with many; it does nothing else meanwhile that we would wait for.
const HASH: Duration = Duration::from_secs(120);

/// Whose snapshot is taken, and how.
#[derive(Debug)]
pub struct Order<'a> {
    pub client: &'a Client,
    /// The member's client URL: our own member.
    pub url: &'a str,
    /// This instance, for the snapshot's name. Where it has no name, the member's id has to do: two members must never have the same.
    pub instance: Option<&'a str>,
    /// Where it is spooled ([`spool::dir_in`]).
    pub spool: &'a Path,
    /// Encrypts it before it is written anywhere.
    pub key: Option<&'a OperatorKey>,
    /// Reads through the quorum first: then all that was acknowledged before this is in it. Of a member without a quorum a snapshot is taken only without
    /// that.
    pub through_quorum: bool,
}

/// Why there is no snapshot. Whatever was spooled is gone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Etcd(#[from] client::Error),
    #[error(transparent)]
    Spool(#[from] spool::Error),
    /// What etcd said about the length does not agree with what came.
    #[error("the snapshot is cut: etcd announced {announced} bytes, and {came} came")]
    Cut { announced: u64, came: u64 },
    /// Intact by its digest, and not what a database looks like.
    #[error("the snapshot can't be read as etcd's database: {0}")]
    NotABackend(#[source] io::Error),
}

impl Error {
    /// For metrics: a few words that never change.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Etcd(_) => "etcd",
            Self::Spool(spool::Error::Space { .. }) => "spool_space",
            Self::Spool(spool::Error::Disk { .. }) => "spool_disk",
            Self::Spool(spool::Error::Envelope(_)) => "encryption",
            Self::Spool(spool::Error::Size(_) | spool::Error::Digest) | Self::Cut { .. } | Self::NotABackend(_) => {
                "damaged"
            }
        }
    }
}

impl From<envelope::Error> for Error {
    fn from(error: envelope::Error) -> Self {
        Self::Spool(error.into())
    }
}

/// From where a snapshot is.
pub(super) struct Origin<'a> {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub instance: &'a str,
    /// The release of that etcd.
    pub etcd: &'a str,
    /// The raft term of the last applied entry.
    pub term: u64,
}

/// The manifest of a database of that moment, taken now, without what is known only once it is stored.
pub(super) fn manifest_of(moment: &Moment, of: &Origin<'_>, reason: Reason) -> Manifest {
    let member = |member: &Member| ManifestMember {
        id: member.id,
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
        learner: member.is_learner,
    };
    Manifest {
        format: FORMAT,
        cluster: of.cluster,
        parent: None,
        member: of.member,
        instance: of.instance.to_owned(),
        etcd: of.etcd.to_owned(),
        storage_version: moment.storage_version.clone(),
        revision: moment.revision,
        compact_revision: moment.compact_revision,
        term: of.term,
        index: moment.index,
        size: 0,
        sha256: String::new(),
        plain: None,
        hash_kv: None,
        members: moment.members.iter().map(member).collect(),
        auth: moment.auth,
        alarms: moment.alarms.iter().map(|(member, alarm)| format!("{alarm} {member}")).collect(),
        taken_at: clock::stamp(),
        store_date: None,
        reason,
        encryption: None,
        verified: None,
    }
}

/// A snapshot in the spool, checked. The file is removed with this value.
#[derive(Debug)]
pub struct Taken {
    pub name: Name,
    /// What is to be stored.
    pub spooled: Spooled,
    pub moment: Moment,
    status: Status,
    instance: String,
    plain: Option<Plain>,
    encryption: Option<crate::core::snapshot::manifest::Encryption>,
    /// Why etcd gave no hash, if it gave none.
    pub hash_kv: Result<HashKv, String>,
    taken_at: String,
    _owned: Owned,
}

impl Taken {
    /// The manifest for it.
    pub fn manifest(&self, reason: Reason, parent: Option<ClusterId>) -> Manifest {
        let Self { status, moment, spooled, .. } = self;
        let of = Origin {
            cluster: status.cluster,
            member: status.member,
            instance: &self.instance,
            etcd: &status.version,
            // 3.3 and 3.4 don't store it: then it is the member's, from just before.
            term: moment.term.unwrap_or(status.raft_term),
        };
        Manifest {
            parent,
            size: spooled.size,
            sha256: hex(&spooled.sha256),
            plain: self.plain.clone(),
            hash_kv: self.hash_kv.as_ref().ok().copied(),
            taken_at: self.taken_at.clone(),
            encryption: self.encryption.clone(),
            ..manifest_of(moment, &of, reason)
        }
    }

    /// Whose it is.
    pub fn member(&self) -> MemberId {
        self.status.member
    }
}

/// Takes a snapshot. `progress` is told how many bytes came, and of how many.
///
/// # Errors
/// There is none.
pub async fn take(order: &Order<'_>, progress: &dyn Fn(u64, u64)) -> Result<Taken, Error> {
    let Order { client, url, .. } = order;
    if order.through_quorum {
        client.read_through_quorum(url, ANSWER).await?;
    }
    let status = client.status(url, ANSWER).await?;
    let key = order.key.map(|_| DataKey::random()).transpose()?;
    // What its status says is a beginning; the snapshot's first message has the length.
    let spool = Spool::begin(order.spool, status.db_size_bytes, key).await?;
    let taken_at = clock::stamp();
    let whole = match client.snapshot(url, ANSWER).await {
        Ok(snapshot) => receive(snapshot, spool, order.spool, progress).await?,
        Err(error) => {
            spool.abandon().await;
            return Err(error.into());
        }
    };
    let (whole, moment) = read_moment(whole).await?;
    let hash_kv = hash_kv(order, &status, &moment).await;
    let instance = order.instance.map_or_else(|| format!("member-{}", status.member), str::to_owned);
    let name = Name::new(status.cluster, moment.revision, moment.index, &instance);
    let Whole { owned, spooled, plain, key } = whole;
    let encryption = match (&key, order.key) {
        (Some(key), Some(operator)) => Some(key.wrapped(operator, &name)?),
        _ => None,
    };
    let plain = plain.map(|(size, sha256)| Plain { size, sha256: hex(&sha256) });
    let instance = name.instance.clone();
    Ok(Taken { name, spooled, moment, status, instance, plain, encryption, hash_kv, taken_at, _owned: owned })
}

/// The whole stream into the spool: as long as etcd says, to its own end.
async fn receive(
    mut snapshot: Snapshot,
    mut spool: Spool,
    dir: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<Whole, Error> {
    match pass_on(&mut snapshot, &mut spool, dir, progress).await {
        Ok(()) => Ok(spool.finish().await?),
        Err(error) => {
            spool.abandon().await;
            Err(error)
        }
    }
}

async fn pass_on(
    snapshot: &mut Snapshot,
    spool: &mut Spool,
    dir: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<(), Error> {
    let (mut announced, mut came, mut remaining) = (None, 0, 0);
    while let Some(piece) = snapshot.next(PIECE).await? {
        came += piece.bytes.len() as u64;
        remaining = piece.remaining;
        let all = match announced {
            Some(all) => all,
            None => {
                let all = came.saturating_add(remaining).saturating_add(TRAILER_BYTES as u64);
                // It may have grown since its status.
                spool::has_room(dir, envelope::sealed_length(all))?;
                *announced.insert(all)
            }
        };
        if came > all {
            return Err(Error::Cut { announced: all, came });
        }
        spool.write(piece.bytes).await?;
        progress(came, all);
    }
    let announced = announced.unwrap_or_default();
    if remaining != 0 || came != announced {
        return Err(Error::Cut { announced, came });
    }
    Ok(())
}

/// Reads of which moment it is from the file itself: what etcd says of itself has gone on meanwhile.
async fn read_moment(whole: Whole) -> Result<(Whole, Moment), Error> {
    let path = whole.spooled.path.clone();
    let read = file::begin(&path, move || {
        let moment = moment_of(whole.owned.file(), whole.spooled.size, whole.key.as_ref());
        (whole, moment)
    });
    let disk = |cause| Error::Spool(spool::Error::disk(&path, cause));
    let (whole, moment) = read.map_err(disk)?.await.map_err(|_| disk(io::Error::other("its reader panicked")))?;
    Ok((whole, moment.map_err(Error::NotABackend)?))
}

/// The moment of a file that may be encrypted.
pub(super) fn moment_of(file: &File, size: u64, key: Option<&DataKey>) -> io::Result<Moment> {
    struct Borrowed<'a>(&'a File);
    impl ReadAt for Borrowed<'_> {
        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            self.0.read_exact_at(buffer, offset)
        }
    }
    match key {
        None => backend::moment(file),
        Some(key) => backend::moment(&Opened::new(Borrowed(file), size, key)?),
    }
}

/// etcd's hash of what the snapshot has. It is compared after a restore, so it must be of the same revision and of a member that was compacted at the same
/// one: a compaction between the snapshot and this question makes it useless, and then there is none.
async fn hash_kv(order: &Order<'_>, status: &Status, moment: &Moment) -> Result<HashKv, String> {
    let asked = order.client.grpc_hash_kv(order.url, Some(moment.revision), HASH).await;
    let found = asked.map_err(|error| error.to_string())?;
    if (found.cluster, found.member) != (status.cluster, status.member) {
        return Err(format!("member {} of cluster {} answered", found.member, found.cluster));
    }
    if found.compact_revision != moment.compact_revision {
        let (now, then) = (found.compact_revision, moment.compact_revision);
        return Err(format!("it was compacted at revision {now} meanwhile; the snapshot is at {then}"));
    }
    Ok(HashKv { hash: found.hash, revision: moment.revision, compact_revision: moment.compact_revision })
}

#[cfg(test)]
pub(super) mod tests {
    use aws_lc_rs::digest::{SHA256, digest};

    use super::*;
    use crate::etcd::backend::sample;
    use crate::etcd::grpc::scripted::{self, Answer, Scripted};
    use crate::net::http;
    use crate::net::tls::{self, Trust};
    use crate::util::scratch::Scratch;

    const PIECE_BYTES: usize = 32 << 10;

    /// What follows each, and its bytes.
    pub type Messages = Vec<(u64, Vec<u8>)>;

    pub fn database() -> Vec<u8> {
        // Some pages more, so that it has several pieces, and frames that don't end with them.
        let more = (9..25).map(|id| sample::page(id, 0x10, 0));
        sample::snapshot().into_iter().chain(more).collect::<Vec<_>>().concat()
    }

    /// etcd's messages for a database: its pieces, then its digest.
    pub fn messages(database: &[u8]) -> Messages {
        let mut left = database.len() as u64;
        let mut pieces: Vec<_> = database
            .chunks(PIECE_BYTES)
            .map(|piece| {
                left -= piece.len() as u64;
                (left, piece.to_vec())
            })
            .collect();
        pieces.push((0, digest(&SHA256, database).as_ref().to_vec()));
        pieces
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    pub async fn taken(member: &Scripted, spool: &Path, key: Option<&OperatorKey>) -> Result<Taken, Error> {
        let http = http::Client::new(Trust::new(tls::Believed::Anybody, None, tls::Names::default()));
        let client = Client::new(http.clone(), http, None);
        let order =
            Order { client: &client, url: &member.url, instance: Some("i/1"), spool, key, through_quorum: true };
        take(&order, &|_, _| {}).await
    }

    fn is_empty(dir: &Path) -> bool {
        std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
    }

    #[test]
    fn a_whole_snapshot_has_a_name_and_a_manifest() {
        let scratch = Scratch::make();
        run(async {
            let database = database();
            let member = Scripted::start(Answer::snapshot(&messages(&database)), scripted::hash(99, 300, 17)).await;
            let taken = taken(&member, scratch.path(), None).await.unwrap();
            assert_eq!(taken.name.to_string(), "00000000000000c1/00000000000000000300-00000000000000004711-i_1");
            let manifest = taken.manifest(Reason::Scheduled, Some(ClusterId(7)));
            assert_eq!(manifest.fault(&taken.name), None);
            assert_eq!((manifest.revision, manifest.term, manifest.index, manifest.auth), (300, 5, 4711, true));
            assert_eq!(manifest.alarms, ["NOSPACE cafe"]);
            assert_eq!(manifest.hash_kv, Some(HashKv { hash: 99, revision: 300, compact_revision: 17 }));
            assert_eq!(manifest.size, database.len() as u64 + 32);
            let stored = std::fs::read(&taken.spooled.path).unwrap();
            assert!(stored.starts_with(&database) && stored.len() == database.len() + 32);
            drop(taken);
            assert!(is_empty(scratch.path()));
            let operator = OperatorKey::parse(&[3; 32]).unwrap();
            let sealed = self::taken(&member, scratch.path(), Some(&operator)).await.unwrap();
            let sealed_manifest = sealed.manifest(Reason::Scheduled, None);
            assert_eq!(sealed_manifest.revision, 300, "read through the encryption");
            let plain = Plain { size: manifest.size, sha256: manifest.sha256 };
            assert_eq!(sealed_manifest.plain, Some(plain));
            assert_ne!(std::fs::read(&sealed.spooled.path).unwrap()[..4096], database[..4096]);
        });
    }

    /// etcd, or its host, may end at any byte of its answer.
    #[test]
    fn a_stream_that_ends_early_is_no_snapshot() {
        let scratch = Scratch::make();
        run(async {
            let whole = Answer::snapshot(&messages(&database()));
            let mut cuts: Vec<usize> =
                whole.frames.iter().flat_map(|&at| [at.saturating_sub(1), at, at + 1, at + 9, at + 5000]).collect();
            cuts.retain(|&cut| cut < whole.bytes.len());
            cuts.sort_unstable();
            cuts.dedup();
            assert!(cuts.len() > 30, "{cuts:?}");
            for cut in cuts {
                let member = Scripted::start(whole.clone().cut(cut), scripted::hash(99, 300, 17)).await;
                let error = taken(&member, scratch.path(), None).await.unwrap_err();
                assert!(matches!(error, Error::Etcd(_)), "cut at {cut}: {error}");
                assert!(is_empty(scratch.path()), "cut at {cut}");
            }
        });
    }

    #[test]
    fn what_does_not_agree_with_itself_is_no_snapshot() {
        let scratch = Scratch::make();
        run(async {
            let whole = messages(&database());
            let refused = async |change: &dyn Fn(&mut Messages)| {
                let mut messages = whole.clone();
                change(&mut messages);
                let member = Scripted::start(Answer::snapshot(&messages), scripted::hash(99, 300, 17)).await;
                let error = taken(&member, scratch.path(), None).await.unwrap_err();
                assert!(is_empty(scratch.path()));
                error
            };
            // A page is missing, and the digest is that of the rest.
            let shorter = async |from: usize| {
                refused(&|messages| {
                    let database = database();
                    let rest = [&database[..from], &database[from + 4096..]].concat();
                    let announced = messages.remove(0).0 + PIECE_BYTES as u64;
                    *messages = self::messages(&rest);
                    let mut left = announced;
                    for message in messages.iter_mut() {
                        left = left.saturating_sub(message.1.len() as u64);
                        message.0 = left;
                    }
                    messages.last_mut().unwrap().0 = 0;
                })
                .await
            };
            assert!(matches!(shorter(8192).await, Error::Cut { .. }));
            let error = refused(&|messages| messages.last_mut().unwrap().0 = 4096).await;
            assert!(matches!(error, Error::Cut { .. }), "{error}");
            let error = refused(&|messages| messages[1].1[77] ^= 1).await;
            assert!(matches!(error, Error::Spool(spool::Error::Digest)), "{error}");
            let error = refused(&|messages| messages.insert(1, messages[1].clone())).await;
            assert!(matches!(error, Error::Cut { .. }), "{error}");
            let error = refused(&|messages| {
                let text = vec![b'x'; 4096 * 4];
                *messages = self::messages(&text);
            })
            .await;
            assert!(matches!(error, Error::NotABackend(_)), "{error}");
            let error = refused(&|messages| messages.clear()).await;
            assert!(matches!(error, Error::Spool(spool::Error::Size(0))), "{error}");
        });
    }

    #[test]
    fn etcds_own_error_at_the_end_counts_and_so_does_an_end_without_any() {
        let scratch = Scratch::make();
        run(async {
            for (status, words) in [(Some(14), "code 14"), (None, "no grpc-status")] {
                let answer = Answer::snapshot_ended(&messages(&database()), status);
                let member = Scripted::start(answer, scripted::hash(99, 300, 17)).await;
                let error = taken(&member, scratch.path(), None).await.unwrap_err();
                assert!(error.to_string().contains(words), "{error}");
                assert!(is_empty(scratch.path()));
            }
        });
    }

    #[test]
    fn a_hash_of_another_moment_or_member_is_none() {
        let scratch = Scratch::make();
        run(async {
            let answer = Answer::snapshot(&messages(&database()));
            for (hash, words) in [
                (scripted::hash(99, 300, 18), "compacted at revision 18"),
                (scripted::hash_of(0xbad, 99, 300, 17), "member bad"),
                (Answer::refusal(11, "etcdserver: mvcc: required revision has been compacted"), "has been compacted"),
            ] {
                let member = Scripted::start(answer.clone(), hash).await;
                let taken = taken(&member, scratch.path(), None).await.unwrap();
                let none = taken.hash_kv.clone().unwrap_err();
                assert!(none.contains(words), "{none}");
                assert_eq!(taken.manifest(Reason::ByHand, None).hash_kv, None);
            }
        });
    }
}
