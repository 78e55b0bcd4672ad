//! The ledger's file, and the identity stored beside it: written completely, synced, renamed into place.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::core::paxos::{Ledger, LeftBehind};
use crate::core::release::{Minor, Release};
use crate::core::types::{ClusterId, InstanceId, MemberId};
use crate::core::view::{LogEnd, Told};
use crate::etcd::data_dir::{MUSTER_DIR, move_entry};
use crate::util::clock;
use crate::util::durable::{self, Readers, sync_dir};
use crate::util::file;

const LEDGER: &str = "ledger.json";
const IDENTITY: &str = "identity.json";
const QUARANTINE: &str = "quarantine";
const LOGS: &str = "logs.json";
const RELEASES: &str = "releases.json";
const LEAVE: &str = "leave";
/// The format of the ledger's file. A program that does not know a format leaves the file unchanged.
const FORMAT: u32 = 1;
/// The format of one with a list that has a seed: a program that knows no seeds says that a newer one wrote it, not that it is damaged.
const SEEDED_FORMAT: u32 = 2;

/// What is wrong with our own files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} can't be written: {cause}; {} (ED_DATA)", path.display(), make_writable(cause, path))]
    Unwritable {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{} can't be read: {cause}; {}", path.display(), put_back(cause, path))]
    Unreadable {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// The file exists, but its contents are useless.
    #[error(
        "{} can't be read: {cause}; it holds promises made to other nodes: restore it, or move the whole data \
         directory away to start this node as new",
        path.display()
    )]
    Damaged {
        path: PathBuf,
        #[source]
        cause: serde_json::Error,
    },
    /// A newer program wrote it: its promises may be more than this program could keep.
    #[error(
        "{} was written by a newer etcd-muster ({what}); nothing is changed; run that version again, or move the \
         whole data directory away to start this node as new",
        path.display()
    )]
    Newer { path: PathBuf, what: String },
    /// Another supervisor uses it.
    #[error(
        "another etcd-muster uses {}; nothing is changed; stop it, or give this one its own ED_DATA",
        path.display()
    )]
    Busy { path: PathBuf },
}

fn make_writable(cause: &io::Error, path: &Path) -> String {
    let directory = || format!("make it a directory that uid {} may write", nix::unistd::geteuid());
    file::way_out(cause, path).unwrap_or_else(directory)
}

fn put_back(cause: &io::Error, path: &Path) -> String {
    let promises = || "it holds promises made to other nodes: restore the original".to_owned();
    file::way_out(cause, path).unwrap_or_else(promises)
}

impl Error {
    /// Time or an operator can fix it without a restart.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Newer { .. } => true,
            Self::Unwritable { cause, .. } | Self::Unreadable { cause, .. } => file::may_pass(cause),
            Self::Damaged { .. } => false,
        }
    }
}

/// Our identity, stored for a start at which the metadata service does not answer, or a static host list can't be read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    pub instance: String,
    /// `None`: from a static host list.
    pub region: Option<String>,
    pub address: IpAddr,
    pub hostname: Option<String>,
    /// `None`: the metadata service did not say, or an earlier release stored this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<Partition>,
}

/// The partition of AWS that an instance is in, as its metadata service says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Partition {
    /// As ARNs name it.
    pub id: String,
    /// The domain of its endpoints.
    pub domain: String,
}

/// The file that is the operator's request to leave (`etcd-muster leave`): it outlives the supervisor, as the ledger does, and is
/// no field of that, which would be a newer format.
pub fn leave_request(data: &Path) -> PathBuf {
    data.join(MUSTER_DIR).join(LEAVE)
}

/// Whose a ledger is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Belonging {
    /// That instance's; `None`: no record shows whose.
    Of(Option<InstanceId>),
    /// Another instance's, without data to which it could belong: from a machine image, or from a volume whose data was
    /// removed.
    Stranger(InstanceId),
}

/// Whose that ledger is, read by an instance with or without data. `kept`: the identity stored beside it, which identifies a
/// ledger from before it named its instance.
pub fn belonging(ledger: &Ledger, kept: Option<&Identity>, me: &Identity, has_data: bool) -> Belonging {
    let id = |instance: &str| InstanceId(instance.to_owned());
    let owner = ledger.instance.clone().or_else(|| kept.map(|kept| id(&kept.instance)));
    // In a static host list an address belongs to one host: another name now, or an instance id before, does not make it
    // another host.
    let by_address = |kept: &Identity| {
        let was_named_here = owner.as_ref().is_some_and(|owner| owner.0 == kept.instance);
        was_named_here && kept.address == me.address && (me.region.is_none() || kept.region.is_none())
    };
    match owner {
        Some(_) if kept.is_some_and(by_address) => Belonging::Of(Some(id(&me.instance))),
        Some(owner) if owner.0 != me.instance && !has_data => Belonging::Stranger(owner),
        None if !has_data => Belonging::Of(Some(id(&me.instance))),
        owner => Belonging::Of(owner),
    }
}

/// How far the logs of a cluster's members were seen to go.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Logs {
    cluster: Option<ClusterId>,
    logs: Vec<(MemberId, LogEnd)>,
    #[serde(default)]
    told: Option<Told>,
}

/// What is known of etcd's releases here. Nothing depends on it but a second look and a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Releases {
    /// The last one that was a healthy voter here.
    #[serde(default)]
    pub ran: Option<Release>,
    /// The cluster's version for which its members' data was compared.
    #[serde(default)]
    pub compared: Option<Minor>,
}

/// What an operator ordered of the supervisor here, by `recover`: to found the cluster anew from this member's data.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryOrder {
    pub cluster: ClusterId,
    pub member: MemberId,
    /// By how much revisions are raised.
    pub bump: u64,
    /// The plan's id, and when it was ordered: for people.
    pub plan: String,
    pub at: String,
}

impl RecoveryOrder {
    const FILE: &str = "recover.json";
    const OUTCOMES: [&str; 3] = ["done", "failed", "refused"];

    fn path(data: &Path) -> PathBuf {
        data.join(MUSTER_DIR).join(Self::FILE)
    }

    fn path_of(data: &Path, outcome: &str) -> PathBuf {
        data.join(MUSTER_DIR).join(format!("{}.{outcome}", Self::FILE))
    }

    /// Whether one lies there.
    pub fn lies_in(data: &Path) -> bool {
        Self::path(data).exists()
    }

    /// Writes it, durably; from then on the supervisor of that data directory obeys it.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, data: &Path) -> Result<(), Error> {
        let path = Self::path(data);
        let written = || {
            // What became of an earlier one is no longer of interest.
            for outcome in Self::OUTCOMES {
                match fs::remove_file(Self::path_of(data, outcome)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            durable::replace(&path, &serde_json::to_vec(self)?, Readers::Owner)
        };
        written().map_err(|cause| Error::Unwritable { path: path.clone(), cause })
    }

    /// Reads it.
    ///
    /// # Errors
    /// It can't be read, or is none.
    pub fn read(data: &Path) -> Result<Self, Error> {
        let path = Self::path(data);
        let missing = || Error::Unreadable { path: path.clone(), cause: io::Error::from(io::ErrorKind::NotFound) };
        read(&path)?.ok_or_else(missing)
    }

    /// Puts it aside, under what became of it: done, failed or refused.
    ///
    /// # Errors
    /// It can't be renamed.
    pub fn put_aside(data: &Path, outcome: &str) -> Result<(), Error> {
        let path = Self::path(data);
        let renamed = fs::rename(&path, Self::path_of(data, outcome)).and_then(|()| sync_dir(&data.join(MUSTER_DIR)));
        renamed.map_err(|cause| Error::Unwritable { path, cause })
    }

    /// What became of the last one; `None`: it lies there still, or there was none.
    pub fn outcome(data: &Path) -> Option<&'static str> {
        Self::OUTCOMES.into_iter().find(|outcome| Self::path_of(data, outcome).exists())
    }
}

/// A quarantine in progress.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moving {
    /// Names the directory to which the data is moved.
    pub stamp: String,
    /// What the ledger must record about it.
    #[serde(default)]
    pub why: LeftBehind,
}

/// Our files in `ED_DATA/muster`.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    ledger: Ledger,
    logs: Logs,
    releases: Releases,
    /// Two that write one ledger would break each other's promises. `None`: this file system has no locks.
    _lock: Option<Flock<File>>,
}

impl Store {
    /// Opens the files in that data directory; creates them on the first start.
    ///
    /// # Errors
    /// A file can't be read or written, is from a newer version, or another supervisor uses it.
    pub fn open(data: &Path) -> Result<Self, Error> {
        let dir = data.join(MUSTER_DIR);
        let unwritable = |cause| Error::Unwritable { path: dir.clone(), cause };
        let is_new = !data.exists();
        durable::make_dir(&dir).map_err(unwritable)?;
        if is_new {
            use std::os::unix::fs::PermissionsExt;
            // etcd warns about wider permissions.
            fs::set_permissions(data, fs::Permissions::from_mode(0o700)).map_err(unwritable)?;
        }
        // The directory itself is locked, because on a full volume no further file can be created.
        let lock = Flock::lock(File::open(&dir).map_err(unwritable)?, FlockArg::LockExclusiveNonblock);
        let lock = alone(lock.map_err(|(_, errno)| errno), data)?;
        // The identity is not needed to run: an unreadable one counts as missing.
        let logs = read(&dir.join(LOGS)).ok().flatten().unwrap_or_default();
        let releases = read(&dir.join(RELEASES)).ok().flatten().unwrap_or_default();
        let mut store = Self { dir: dir.clone(), ledger: Ledger::default(), logs, releases, _lock: lock };
        match read_ledger(&dir.join(LEDGER))? {
            Some(ledger) => {
                store.ledger = ledger;
                // A rewrite shows now, not in the middle of a bootstrap, that the directory can't be written.
                match store.save(store.ledger.clone()) {
                    // The promises are there. A member with data can run without making another one.
                    Err(error) if error.may_pass() => log::warn!("{error}"),
                    other => other?,
                }
            }
            None => store.save(new_ledger(None))?,
        }
        Ok(store)
    }

    /// Determines whose this ledger is, before it is used for a promise. A stranger's without data is moved aside, and a new
    /// one created: two from one image would use the same ballots.
    ///
    /// # Errors
    /// A file can't be moved or written.
    pub fn bind(&mut self, me: &Identity, has_data: bool) -> Result<(), Error> {
        let kept = self.identity()?;
        match belonging(&self.ledger, kept.as_ref(), me, has_data) {
            Belonging::Of(owner) if owner == self.ledger.instance => Ok(()),
            Belonging::Of(owner) => self.save(Ledger { instance: owner, ..self.ledger.clone() }),
            Belonging::Stranger(owner) => {
                let aside = self.dir.join(format!("{QUARANTINE}-{}", clock::file_stamp()));
                let moved = move_entry(&self.dir.join(LEDGER), &aside);
                moved.map_err(|error| Error::Unwritable { path: error.path, cause: error.cause })?;
                log::warn!(
                    "the ledger here belonged to {owner} and has no data; moved it to {}, and {} starts with a new one",
                    aside.display(),
                    me.instance
                );
                self.logs = Logs::default();
                self.save(new_ledger(Some(InstanceId(me.instance.clone()))))
            }
        }
    }

    /// How far the members of that cluster were seen to go.
    pub fn logs_of(&self, cluster: ClusterId) -> Vec<(MemberId, LogEnd)> {
        if self.logs.cluster == Some(cluster) { self.logs.logs.clone() } else { Vec::new() }
    }

    /// Stores what was seen, never less than before. `Some`: the write to do on another thread, so that the file has it too.
    /// Nothing depends on that: a failing disk is only reported.
    pub fn note_logs(
        &mut self,
        cluster: ClusterId,
        seen: &BTreeMap<MemberId, LogEnd>,
    ) -> Option<impl FnOnce() + Send + use<>> {
        let mut logs: BTreeMap<_, _> = self.logs_of(cluster).into_iter().collect();
        for (member, end) in seen {
            let known = logs.entry(*member).or_insert(*end);
            *known = (*known).max(*end);
        }
        // We run in that cluster: our log has what was reported again, or the operator gave it up.
        self.keep_logs(Logs { cluster: Some(cluster), logs: logs.into_iter().collect(), told: None })
    }

    /// What peers reported about our own log at the last observation, or at any before it.
    pub fn told(&self) -> Option<Told> {
        self.logs.told.clone()
    }

    /// Stores what peers reported. `Some`: as in [`note_logs`](Self::note_logs).
    pub fn note_told(&mut self, told: Told) -> Option<impl FnOnce() + Send + use<>> {
        self.keep_logs(Logs { told: Some(told), ..self.logs.clone() })
    }

    fn keep_logs(&mut self, next: Logs) -> Option<impl FnOnce() + Send + use<>> {
        if next == self.logs {
            return None;
        }
        self.logs = next.clone();
        Some(kept_at(self.dir.join(LOGS), next))
    }

    /// Which etcd ran here before.
    pub fn releases(&self) -> Releases {
        self.releases
    }

    /// Stores that. `Some`: as in [`note_logs`](Self::note_logs).
    pub fn note_releases(&mut self, next: Releases) -> Option<impl FnOnce() + Send + use<>> {
        if next == self.releases {
            return None;
        }
        self.releases = next;
        Some(kept_at(self.dir.join(RELEASES), next))
    }

    /// The directory of our files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads the ledger of a data directory without creating anything; `None`: there is none.
    ///
    /// # Errors
    /// The file can't be read, or is from a newer version.
    pub fn peek(data: &Path) -> Result<Option<Ledger>, Error> {
        read_ledger(&data.join(MUSTER_DIR).join(LEDGER))
    }

    /// What peers reported to `run` about our own log; `None`: nothing, or it can't be read.
    pub fn peek_told(data: &Path) -> Option<Told> {
        let logs: Option<Logs> = read(&data.join(MUSTER_DIR).join(LOGS)).ok()?;
        logs?.told
    }

    /// Reads the identity that `run` stored in a data directory; `None`: there is none.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn peek_identity(data: &Path) -> Result<Option<Identity>, Error> {
        read(&data.join(MUSTER_DIR).join(IDENTITY))
    }

    /// The ledger as it is on disk.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Replaces the ledger, durably.
    ///
    /// # Errors
    /// The file can't be written; the old ledger stays valid.
    pub fn save(&mut self, ledger: Ledger) -> Result<(), Error> {
        let ledger = Ledger { format: format_of(&ledger), ..ledger };
        self.write(LEDGER, &ledger)?;
        self.ledger = ledger;
        Ok(())
    }

    /// The identity of the last start.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn identity(&self) -> Result<Option<Identity>, Error> {
        read(&self.dir.join(IDENTITY))
    }

    /// Stores the identity.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn keep_identity(&self, identity: &Identity) -> Result<(), Error> {
        self.write(IDENTITY, identity)
    }

    /// The quarantine that was begun and not finished.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn unfinished_quarantine(&self) -> Result<Option<Moving>, Error> {
        read(&self.dir.join(QUARANTINE))
    }

    /// Marks a quarantine as begun, so that it is completed after a crash.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn begin_quarantine(&self, moving: &Moving) -> Result<(), Error> {
        self.write(QUARANTINE, moving)
    }

    /// Marks it as finished.
    ///
    /// # Errors
    /// The file can't be removed.
    pub fn end_quarantine(&self) -> Result<(), Error> {
        let path = self.dir.join(QUARANTINE);
        let removed = fs::remove_file(&path).and_then(|()| sync_dir(&self.dir));
        removed.map_err(|cause| Error::Unwritable { path, cause })
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let path = self.dir.join(name);
        write_durably(&path, value).map_err(|cause| Error::Unwritable { path, cause })
    }
}

fn new_ledger(instance: Option<InstanceId>) -> Ledger {
    Ledger { format: FORMAT, nonce: clock::random(), instance, ..Ledger::default() }
}

fn format_of(ledger: &Ledger) -> u32 {
    let has_seed = ledger.lists().into_iter().flatten().any(|list| list.seed.is_some());
    if has_seed || ledger.recovery.is_some() { SEEDED_FORMAT } else { FORMAT }
}

/// A ledger of a later format, or with an unknown field, was written by a newer program.
fn read_ledger(path: &Path) -> Result<Option<Ledger>, Error> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        format: u32,
    }
    let newer = |what: String| Error::Newer { path: path.to_owned(), what };
    match read::<Head>(path)? {
        None => return Ok(None),
        Some(Head { format }) if format > SEEDED_FORMAT => {
            return Err(newer(format!("its format is {format}, this version reads {SEEDED_FORMAT}")));
        }
        Some(_) => {}
    }
    match read(path) {
        Err(Error::Damaged { cause, .. }) if cause.to_string().starts_with("unknown field") => {
            Err(newer(cause.to_string()))
        }
        read => read,
    }
}

/// `None`: the lock can't be guaranteed.
fn alone<T>(lock: Result<T, Errno>, data: &Path) -> Result<Option<T>, Error> {
    match lock {
        Ok(lock) => Ok(Some(lock)),
        Err(Errno::EWOULDBLOCK) => Err(Error::Busy { path: data.to_owned() }),
        Err(errno) => {
            log::warn!(
                "{} can't be locked ({errno}), as on some network file systems: make sure that no other etcd-muster \
                 uses it, because two would break each other's promises",
                data.display()
            );
            Ok(None)
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let damaged = |cause| Error::Damaged { path: path.to_owned(), cause };
    match file::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(damaged),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::Unreadable { path: path.to_owned(), cause }),
    }
}

/// The write of what nothing depends on: a failing disk is only reported.
fn kept_at(path: PathBuf, value: impl Serialize) -> impl FnOnce() {
    move || {
        if let Err(cause) = write_durably(&path, &value) {
            log::debug!("{}: {cause}", path.display());
        }
    }
}

fn write_durably(path: &Path, value: &impl Serialize) -> io::Result<()> {
    durable::replace(path, &serde_json::to_vec(value)?, Readers::ByUmask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_locks_is_used_and_a_lock_of_another_is_not() {
        let data = Path::new("/data");
        assert_eq!(alone(Ok(1), data).unwrap(), Some(1));
        for without in [Errno::EOPNOTSUPP, Errno::ENOLCK, Errno::EBADF, Errno::ENOSYS] {
            assert_eq!(alone::<u8>(Err(without), data).unwrap(), None, "{without}");
        }
        assert!(matches!(alone::<u8>(Err(Errno::EWOULDBLOCK), data), Err(Error::Busy { .. })));
    }

    #[test]
    fn each_cause_has_its_own_way_out() {
        let path = PathBuf::from("/nonexistent/muster/ledger.json");
        let unreadable = |errno: Errno| Error::Unreadable { path: path.clone(), cause: errno.into() };
        for passes in [Errno::EMFILE, Errno::ENFILE, Errno::EIO, Errno::ENOMEM] {
            assert!(unreadable(passes).may_pass());
            assert!(!unreadable(passes).to_string().contains("move"), "{}", unreadable(passes));
        }
        let denied = unreadable(Errno::EACCES);
        assert!(!denied.may_pass() && denied.to_string().contains("chown -R") && !denied.to_string().contains("move"));
        let damaged = Error::Damaged { path, cause: serde_json::from_str::<Ledger>("").unwrap_err() };
        assert!(!damaged.may_pass() && damaged.to_string().contains("move the whole data directory away"));
    }

    fn identity(instance: &str, region: Option<&str>, host: u8) -> Identity {
        let (instance, region) = (instance.to_owned(), region.map(str::to_owned));
        Identity { instance, region, address: [10, 0, 0, host].into(), hostname: None, partition: None }
    }

    #[test]
    fn a_ledger_is_its_instances_and_no_other_s() {
        let me = identity("i-me", Some("eu-west-1"), 1);
        let of =
            |owner: Option<&str>| Ledger { instance: owner.map(|id| InstanceId(id.to_owned())), ..Ledger::default() };
        let is = |owner: Option<&str>| Belonging::Of(owner.map(|id| InstanceId(id.to_owned())));
        let stranger = |id: &str| Belonging::Stranger(InstanceId(id.to_owned()));
        assert_eq!(belonging(&of(Some("i-me")), None, &me, true), is(Some("i-me")));
        assert_eq!(belonging(&of(Some("i-a")), None, &me, true), is(Some("i-a")), "with data, for the core to judge");
        assert_eq!(belonging(&of(Some("i-a")), None, &me, false), stranger("i-a"), "a machine image");
        assert_eq!(belonging(&of(None), None, &me, false), is(Some("i-me")), "a new one");
        assert_eq!(belonging(&of(None), None, &me, true), is(None), "data that nobody recorded");
        // A ledger from before it named its instance relies on the identity beside it.
        let kept = identity("i-a", Some("eu-west-1"), 1);
        assert_eq!(belonging(&of(None), Some(&kept), &me, true), is(Some("i-a")));
        assert_eq!(belonging(&of(None), Some(&kept), &me, false), stranger("i-a"));
    }

    /// In a static host list an address belongs to one host, whatever its name; EC2 reuses addresses.
    #[test]
    fn a_host_that_got_another_name_is_the_same_host() {
        let ledger = Ledger { instance: Some(InstanceId("db-1".to_owned())), ..Ledger::default() };
        let (was, is) = (identity("db-1", None, 1), identity("node-1", None, 1));
        assert_eq!(belonging(&ledger, Some(&was), &is, true), Belonging::Of(Some(InstanceId("node-1".to_owned()))));
        let elsewhere = identity("node-1", None, 2);
        assert_eq!(belonging(&ledger, Some(&was), &elsewhere, true), Belonging::Of(ledger.instance.clone()));
        let by_ec2 = |id: &str| identity(id, Some("eu-west-1"), 1);
        let ledger = Ledger { instance: Some(InstanceId("i-a".to_owned())), ..Ledger::default() };
        assert_eq!(
            belonging(&ledger, Some(&by_ec2("i-a")), &by_ec2("i-b"), true),
            Belonging::Of(ledger.instance.clone())
        );
    }

    #[expect(clippy::disallowed_methods, reason = "made by this test")]
    fn in_a_directory(test: impl FnOnce(&Path)) {
        let dir = std::env::temp_dir().join(format!("etcd-muster-ledger-{:016x}", clock::random()));
        test(&dir);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_a_newer_program_wrote_is_left_as_it_is() {
        in_a_directory(|data| {
            drop(Store::open(data).unwrap());
            let file = data.join(MUSTER_DIR).join(LEDGER);
            for newer in [r#"{"format": 3, "nonce": 1}"#, r#"{"format": 1, "nonce": 1, "vow": true}"#] {
                fs::write(&file, newer).unwrap();
                let error = Store::open(data).unwrap_err();
                assert!(matches!(error, Error::Newer { .. }) && error.may_pass(), "{error}");
                assert!(error.to_string().contains("newer etcd-muster"), "{error}");
                assert_eq!(fs::read_to_string(&file).unwrap(), newer);
            }
            // One from before the format had versions is accepted.
            fs::write(&file, r#"{"nonce": 7, "promised": null, "accepted": null, "chosen": null, "founded": true}"#)
                .unwrap();
            let ledger = Store::open(data).unwrap().ledger().clone();
            assert!((ledger.format, ledger.nonce, ledger.founded) == (FORMAT, 7, true));
        });
    }

    /// Another number than the last one that a program without seeds reads: that one says so, and holds.
    #[test]
    fn a_ledger_has_another_format_as_long_as_it_has_a_list_with_a_seed() {
        use crate::core::paxos::{Accepted, Ballot};
        use crate::core::types::InitialList;
        use crate::core::types::Seed;
        let seed = Seed {
            place: "file:/b".to_owned(),
            snapshot: "00000000000000c1/00000000000000000009-00000000000000000012-i-1".to_owned(),
            sha256: "ab".repeat(32),
            size: 8_224,
            bump: 0,
        };
        let unseeded = InitialList::empty(Vec::new(), "t".to_owned());
        let seeded = InitialList { seed: Some(Box::new(seed)), ..unseeded.clone() };
        let ballot = Ballot { round: 1, proposer: InstanceId("i-a".to_owned()), nonce: 1 };
        let accepts = |list: &InitialList| Some(Accepted { ballot: ballot.clone(), list: list.clone() });
        in_a_directory(|data| {
            let mut store = Store::open(data).unwrap();
            let new = store.ledger().clone();
            let mut written = |accepted, chosen| {
                store.save(Ledger { accepted, chosen, ..store.ledger().clone() }).unwrap();
                let text = fs::read_to_string(data.join(MUSTER_DIR).join(LEDGER)).unwrap();
                let on_disk: Ledger = serde_json::from_str(&text).unwrap();
                assert_eq!(on_disk, *store.ledger());
                on_disk.format
            };
            assert_eq!(written(accepts(&unseeded), Some(unseeded.clone())), 1);
            assert_eq!(written(accepts(&seeded), None), 2);
            assert_eq!(written(None, Some(seeded.clone())), 2);
            assert_eq!(written(accepts(&unseeded), None), 1, "as soon as it has none any more");
            assert_eq!(written(accepts(&seeded), Some(seeded.clone())), 2);
            drop(store);
            let store = Store::open(data).unwrap();
            assert_eq!(
                (store.ledger().format, store.ledger().nonce),
                (2, new.nonce),
                "read, and written again at once"
            );
            assert_eq!(store.ledger().chosen.as_ref(), Some(&seeded));
        });
    }

    /// A device can't be synced: the draft is one here, and saving without a sync would put it in the ledger's place.
    #[test]
    fn a_ledger_that_cannot_be_synced_is_not_saved_and_the_old_one_stands() {
        in_a_directory(|data| {
            let mut store = Store::open(data).unwrap();
            let before = store.ledger().clone();
            let draft = data.join(MUSTER_DIR).join("ledger.json.new");
            std::os::unix::fs::symlink("/dev/null", &draft).unwrap();
            let promised = Ledger { founded: true, ..before.clone() };
            let error = store.save(promised.clone()).unwrap_err();
            assert!(
                matches!(&error, Error::Unwritable { cause, .. } if cause.raw_os_error() == Some(Errno::EINVAL as i32)),
                "{error}"
            );
            assert_eq!(
                std::error::Error::source(&error).map(ToString::to_string),
                Some(io::Error::from(Errno::EINVAL).to_string())
            );
            assert_eq!((store.ledger(), Store::peek(data).unwrap().as_ref()), (&before, Some(&before)));
            fs::remove_file(draft).unwrap();
            store.save(promised.clone()).unwrap();
            assert_eq!(Store::peek(data).unwrap(), Some(promised));
        });
    }

    #[test]
    fn half_a_draft_that_a_crash_left_is_no_ledger() {
        in_a_directory(|data| {
            let was = Store::open(data).unwrap().ledger().clone();
            for file in [LEDGER, IDENTITY, QUARANTINE, LOGS] {
                fs::write(data.join(MUSTER_DIR).join(format!("{file}.new")), r#"{"nonce": 1, "#).unwrap();
            }
            let store = Store::open(data).unwrap();
            assert_eq!(*store.ledger(), was);
            assert_eq!((store.identity().unwrap(), store.unfinished_quarantine().unwrap()), (None, None));
        });
    }

    /// Two machines from one image would use the same ballots, and so bootstrap clusters of the same id.
    #[test]
    fn another_instances_ledger_without_data_is_moved_aside_and_a_new_one_begun() {
        in_a_directory(|data| {
            let mut store = Store::open(data).unwrap();
            store.bind(&identity("i-a", Some("eu-west-1"), 1), false).unwrap();
            let was = store.ledger().clone();
            assert_eq!(was.instance.as_ref().map(|id| id.0.as_str()), Some("i-a"));
            store.bind(&identity("i-b", Some("eu-west-1"), 2), true).unwrap();
            assert_eq!(*store.ledger(), was, "beside data it is the record of whose it is");
            store.bind(&identity("i-b", Some("eu-west-1"), 2), false).unwrap();
            let now = store.ledger();
            assert!(now.nonce != was.nonce && now.instance.as_ref().is_some_and(|id| id.0 == "i-b"));
            let moved = fs::read_dir(data.join(MUSTER_DIR)).unwrap().map(|entry| entry.unwrap().path());
            let moved = moved.filter(|path| path.is_dir()).map(|dir| dir.join(LEDGER)).collect::<Vec<_>>();
            assert!(moved.len() == 1 && fs::read_to_string(&moved[0]).unwrap().contains("i-a"), "moved, not deleted");
        });
    }

    #[test]
    fn how_far_logs_went_is_kept_and_never_less_than_before() {
        in_a_directory(|data| {
            let (cluster, end) = (ClusterId(1), |index| LogEnd { term: 2, index });
            let mut store = Store::open(data).unwrap();
            for seen in [vec![(MemberId(7), end(9))], vec![(MemberId(7), end(5)), (MemberId(8), end(3))]] {
                store.note_logs(cluster, &seen.into_iter().collect()).unwrap()();
            }
            assert!(store.note_logs(cluster, &[(MemberId(8), end(3))].into()).is_none(), "nothing new");
            drop(store);
            let store = Store::open(data).unwrap();
            assert_eq!(store.logs_of(cluster), [(MemberId(7), end(9)), (MemberId(8), end(3))]);
            assert!(store.logs_of(ClusterId(2)).is_empty(), "another cluster's");
        });
    }

    #[test]
    fn what_was_told_of_our_own_log_outlives_a_restart_until_we_run() {
        in_a_directory(|data| {
            let (cluster, by) = (ClusterId(1), InstanceId("i-b".to_owned()));
            let told = Told { cluster, member: MemberId(7), before: LogEnd { term: 2, index: 9 }, by };
            let mut store = Store::open(data).unwrap();
            store.note_told(told.clone()).unwrap()();
            assert!(store.note_told(told.clone()).is_none(), "nothing new");
            drop(store);
            assert_eq!(Store::peek_told(data).as_ref(), Some(&told));
            let mut store = Store::open(data).unwrap();
            assert_eq!(store.told().as_ref(), Some(&told));
            store.note_logs(cluster, &BTreeMap::new()).unwrap()();
            assert_eq!(Store::peek_told(data), None);
        });
    }
}
