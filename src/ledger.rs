//! The ledger's file, and the identity kept beside it: written whole, synced, renamed into place.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::cluster::paxos::{FirstStart, Ledger};
use crate::etcd::data_dir::{MUSTER_DIR, sync_dir};

const LEDGER: &str = "ledger.json";
const IDENTITY: &str = "identity.json";
const QUARANTINE: &str = "quarantine";

/// What went wrong with our own files.
#[derive(Debug)]
pub enum Error {
    Unwritable {
        path: PathBuf,
        cause: io::Error,
    },
    Unreadable {
        path: PathBuf,
        cause: String,
    },
    /// Another supervisor works with it.
    Busy {
        path: PathBuf,
    },
}

impl Error {
    /// Time, or an operator, mends it without a restart.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Busy { .. }) || self.is_full()
    }

    fn is_full(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Unwritable { cause, .. } if full.contains(&cause.kind()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { path } => write!(
                f,
                "another etcd-muster works with {}; nothing is touched; stop it, or give this one an ED_DATA of its own",
                path.display()
            ),
            Self::Unwritable { path, cause } if self.is_full() => {
                write!(f, "{} can't be written: {cause}; free some space on that volume", path.display())
            }
            Self::Unwritable { path, cause } => write!(
                f,
                "{} can't be written: {cause}; make it a directory that uid {} may write (ED_DATA)",
                path.display(),
                nix::unistd::geteuid()
            ),
            Self::Unreadable { path, cause } => write!(
                f,
                "{} can't be read: {cause}; it holds promises made to other nodes: restore it, or move the whole data \
                 directory away to start this node as new",
                path.display()
            ),
        }
    }
}

impl std::error::Error for Error {}

/// Who we are, kept for a start at which the metadata service is out of sight, or a written roster can't be read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    pub instance: String,
    /// `None`: by a written roster.
    pub region: Option<String>,
    pub address: IpAddr,
    pub hostname: Option<String>,
}

/// A quarantine under way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moving {
    /// Names the directory the data is moved to.
    pub stamp: String,
    /// No vote that counts was ever cast with it: the ledger forgets that start.
    #[serde(default)]
    pub unstarted: Option<FirstStart>,
}

/// Our files in `ED_DATA/muster`.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    ledger: Ledger,
    /// Two that write one ledger would break each other's promises. `None`: this file system knows no locks.
    _lock: Option<Flock<File>>,
}

impl Store {
    /// Opens, and makes on the first start, the files in that data directory.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(data: &Path) -> Result<Self, Error> {
        let dir = data.join(MUSTER_DIR);
        let unwritable = |cause| Error::Unwritable { path: dir.clone(), cause };
        let is_new = !data.exists();
        fs::create_dir_all(&dir).map_err(unwritable)?;
        if is_new {
            use std::os::unix::fs::PermissionsExt;
            // etcd warns of anything wider.
            fs::set_permissions(data, fs::Permissions::from_mode(0o700)).map_err(unwritable)?;
        }
        // The directory itself is locked: on a full volume no file more can be made.
        let lock = match Flock::lock(File::open(&dir).map_err(unwritable)?, FlockArg::LockExclusiveNonblock) {
            Err((_, Errno::EWOULDBLOCK)) => return Err(Error::Busy { path: data.to_owned() }),
            other => other.ok(),
        };
        let mut store = Self { dir: dir.clone(), ledger: Ledger::default(), _lock: lock };
        match read(&dir.join(LEDGER))? {
            Some(ledger) => {
                store.ledger = ledger;
                // A rewrite shows now, not in the middle of a founding, that the directory can't be written.
                match store.save(store.ledger.clone()) {
                    // What was promised is there. A member with data runs on without another promise.
                    Err(error) if error.is_full() => log::warn!("{error}"),
                    other => other?,
                }
            }
            None => store.save(Ledger { nonce: clock::random(), ..Ledger::default() })?,
        }
        Ok(store)
    }

    /// Reads the ledger of a data directory without making anything; `None`: there is none.
    ///
    /// # Errors
    /// [`Error`].
    pub fn peek(data: &Path) -> Result<Option<Ledger>, Error> {
        read(&data.join(MUSTER_DIR).join(LEDGER))
    }

    /// Reads the identity `run` left in a data directory; `None`: there is none.
    ///
    /// # Errors
    /// [`Error`].
    pub fn peek_identity(data: &Path) -> Result<Option<Identity>, Error> {
        read(&data.join(MUSTER_DIR).join(IDENTITY))
    }

    /// The ledger as it is on disk.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Replaces the ledger, durably; on an error the old one stands.
    ///
    /// # Errors
    /// [`Error`].
    pub fn save(&mut self, ledger: Ledger) -> Result<(), Error> {
        self.write(LEDGER, &ledger)?;
        self.ledger = ledger;
        Ok(())
    }

    /// The identity of the last start.
    ///
    /// # Errors
    /// [`Error`].
    pub fn identity(&self) -> Result<Option<Identity>, Error> {
        read(&self.dir.join(IDENTITY))
    }

    /// Keeps the identity.
    ///
    /// # Errors
    /// [`Error`].
    pub fn keep_identity(&self, identity: &Identity) -> Result<(), Error> {
        self.write(IDENTITY, identity)
    }

    /// The quarantine that was begun and not finished.
    ///
    /// # Errors
    /// [`Error`].
    pub fn unfinished_quarantine(&self) -> Result<Option<Moving>, Error> {
        read(&self.dir.join(QUARANTINE))
    }

    /// Marks a quarantine as begun, so that a crash in the middle is resumed.
    ///
    /// # Errors
    /// [`Error`].
    pub fn begin_quarantine(&self, moving: &Moving) -> Result<(), Error> {
        self.write(QUARANTINE, moving)
    }

    /// Marks it as finished.
    ///
    /// # Errors
    /// [`Error`].
    pub fn end_quarantine(&self) -> Result<(), Error> {
        let path = self.dir.join(QUARANTINE);
        let removed = fs::remove_file(&path).and_then(|()| sync_dir(&self.dir));
        removed.map_err(|cause| Error::Unwritable { path, cause })
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let path = self.dir.join(name);
        write_durably(&self.dir, name, value).map_err(|cause| Error::Unwritable { path, cause })
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let unreadable = |cause: String| Error::Unreadable { path: path.to_owned(), cause };
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| unreadable(e.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

/// The file is either the old or the new one, whenever the power goes.
fn write_durably(dir: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let draft = dir.join(format!("{name}.new"));
    let mut file = File::create(&draft)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()?;
    fs::rename(&draft, dir.join(name))?;
    sync_dir(dir)
}
