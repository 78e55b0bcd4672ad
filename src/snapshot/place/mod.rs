//! Where snapshots are stored: below a prefix of a bucket, or in a directory. A place is judged by what it has afterwards, not by what it
//! answers.

pub mod directory;
pub mod s3;

use std::fmt;
use std::path::Path;

use hyper::body::Bytes;

use super::spool::Spooled;
use crate::aws;
pub use crate::aws::s3::bucket::Deleted;
use crate::aws::s3::bucket::Source;
pub use crate::aws::s3::listing::Entry;
use crate::core::seed::Order;
use crate::core::snapshot::name::{Kind, Name};
use crate::util::file_stream::Progress;
pub use crate::util::file_stream::Written as Fetched;

/// A place for snapshots. Keys are below it: `<cluster>/<revision>-<index>-<instance>.db` or `.json`. Shown as an operator names it.
#[derive(Debug)]
pub enum Place {
    S3(Box<s3::Prefix>),
    Directory(directory::Directory),
}

/// What was stored, as the place itself shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Put {
    /// The store's clock, if it has one.
    pub store_date: Option<String>,
    /// It was there before, with the same bytes.
    pub was_there: bool,
}

/// The result of writing a manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// It is there now, and was read back.
    New,
    /// Another one is there, or the one that was to be replaced is another by now. Nothing was written.
    Exists,
}

/// A small object as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    pub body: Bytes,
    /// Another one as soon as the object is another one.
    pub version: String,
}

/// All objects of a place, or of a folder in it, in the order of their keys' bytes; never a part of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    pub entries: Vec<Entry>,
}

/// Why a place did not do as it was told; one line each.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] aws::s3::Error),
    /// The file system's reason, and the way out.
    #[error("{place}: {cause}")]
    Directory { place: String, cause: String, kind: std::io::ErrorKind },
    #[error(
        "{object}: {sent} bytes were stored and {found} are there: the store does not keep what it accepts; use another one"
    )]
    Truncated { object: String, sent: u64, found: u64 },
    #[error("{object}: the store accepted it and does not have it; use another store")]
    Vanished { object: String },
    #[error("{object}: what was stored is not what is there: the store does not keep what it accepts; use another one")]
    Different { object: String },
    #[error("{object}: it is stored, but it can't be looked at, so it does not count: {cause}")]
    Unseen { object: String, cause: Box<aws::s3::Error> },
    #[error("{object}: another snapshot of that name is there, with other bytes; nothing was written")]
    Taken { object: String },
    #[error("{object}: the store refuses a write with {condition} although {although}")]
    Fault { object: String, condition: &'static str, although: &'static str },
    #[error("{object} does not exist")]
    Absent { object: String },
    #[error("{0:?} is not the name of a snapshot's object")]
    NotOurs(String),
}

impl Error {
    /// The reason as a metric has it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Store(error) if error.is_denial() => "denied",
            Self::Store(aws::s3::Error::Malformed { .. }) => "not_understood",
            Self::Store(aws::s3::Error::Api { .. }) => "refused",
            Self::Store(_) => "unreachable",
            Self::Unseen { .. } => "denied",
            Self::Directory { kind: std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded, .. } => "full",
            Self::Directory { kind: std::io::ErrorKind::TimedOut, .. } => "unreachable",
            Self::Directory {
                kind: std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem,
                ..
            } => "denied",
            Self::Directory { .. } => "refused",
            Self::Truncated { .. } | Self::Vanished { .. } | Self::Different { .. } | Self::Fault { .. } => {
                "store_fault"
            }
            Self::Taken { .. } => "taken",
            Self::Absent { .. } | Self::NotOurs(_) => "absent",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3(prefix) => prefix.fmt(f),
            Self::Directory(directory) => directory.fmt(f),
        }
    }
}

impl Place {
    /// Stores a file and looks at what is there afterwards. The callback hears how many bytes were sent; if it has to be sent again, it begins anew.
    /// What is there already is kept if it has the same bytes, and replaced if no manifest speaks of it.
    ///
    /// # Errors
    /// It is not there as it was sent, or that is unknown. Part of it may be stored: without a manifest it is no snapshot.
    pub async fn put_data(&self, key: &str, file: &Spooled, progress: Progress<'_>) -> Result<Put, Error> {
        let (name, _) = ours(key, Kind::Data)?;
        let source = Source { path: &file.path, size: file.size, sha256: &file.sha256 };
        match self {
            Self::S3(prefix) => prefix.put_data(&name, source, progress).await,
            Self::Directory(directory) => directory.put_data(&name, source, progress).await,
        }
    }

    /// Writes a manifest if there is none of that name, and reads it back.
    ///
    /// # Errors
    /// It is not there, or that is unknown.
    pub async fn put_manifest(&self, key: &str, bytes: Bytes) -> Result<Written, Error> {
        ours(key, Kind::Manifest)?;
        match self {
            Self::S3(prefix) => prefix.put_manifest(key, bytes).await,
            Self::Directory(directory) => directory.put_manifest(key, bytes).await,
        }
    }

    /// Writes an order if there is none under that key, and reads it back.
    ///
    /// # Errors
    /// It is not there, or that is unknown.
    pub async fn put_order(&self, key: &str, bytes: Bytes) -> Result<Written, Error> {
        if !Order::is_key(key) {
            return Err(Error::NotOurs(key.to_owned()));
        }
        match self {
            Self::S3(prefix) => prefix.put_manifest(key, bytes).await,
            Self::Directory(directory) => directory.put_manifest(key, bytes).await,
        }
    }

    /// Replaces a manifest that still has this version, and reads the new one back.
    ///
    /// # Errors
    /// Which of the two is there is unknown.
    pub async fn replace_manifest(&self, key: &str, bytes: Bytes, version: &str) -> Result<Written, Error> {
        ours(key, Kind::Manifest)?;
        match self {
            Self::S3(prefix) => prefix.replace_manifest(key, bytes, version).await,
            Self::Directory(directory) => directory.replace_manifest(key, bytes, version).await,
        }
    }

    /// All objects whose keys begin so (empty: all of the place).
    ///
    /// # Errors
    /// The list is not whole, or that is unknown.
    pub async fn list(&self, below: &str) -> Result<Listing, Error> {
        match self {
            Self::S3(prefix) => prefix.list(below).await,
            Self::Directory(directory) => directory.list(below).await,
        }
    }

    /// Reads a small object, at most 1 MiB; `None`: the place says that there is none.
    ///
    /// # Errors
    /// It can't be read, or is larger.
    pub async fn read(&self, key: &str) -> Result<Option<Stored>, Error> {
        match self {
            Self::S3(prefix) => prefix.read(key).await,
            Self::Directory(directory) => directory.read(key).await,
        }
    }

    /// Copies an object into a new file, mode 0600. It is for the caller to compare size and digest with the manifest's. If the call is
    /// dropped, what was begun stays there.
    ///
    /// # Errors
    /// It can't be had as a whole. Nothing is left of it.
    pub async fn fetch(&self, key: &str, to: &Path, progress: Progress<'_>) -> Result<Fetched, Error> {
        match self {
            Self::S3(prefix) => prefix.fetch(key, to, progress).await,
            Self::Directory(directory) => directory.fetch(key, to, progress).await,
        }
    }

    /// Removes an object of a snapshot.
    ///
    /// # Errors
    /// It is not one by its name; whether it is there still is unknown.
    pub async fn delete(&self, key: &str) -> Result<Deleted, Error> {
        Name::of_key(key).ok_or_else(|| Error::NotOurs(key.to_owned()))?;
        match self {
            Self::S3(prefix) => prefix.delete(key).await,
            Self::Directory(directory) => directory.delete(key).await,
        }
    }
}

/// What is written must have a name that is ours: it would be listed and never deleted otherwise.
fn ours(key: &str, kind: Kind) -> Result<(Name, Kind), Error> {
    Name::of_key(key).filter(|(_, found)| *found == kind).ok_or_else(|| Error::NotOurs(key.to_owned()))
}

#[cfg(test)]
mod tests;
