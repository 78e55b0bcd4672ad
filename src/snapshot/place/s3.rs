//! A prefix of a bucket, in AWS's S3 or another store. Stores differ in what they do with conditions, metadata and errors, so nothing
//! is believed that can be looked at.

use std::fmt;
use std::path::Path;

use hyper::body::Bytes;

use super::{Deleted, Error, Fetched, Listing, Put, Stored, Written};
use crate::aws::s3::bucket::{Bucket, Head, Patience, Source};
use crate::aws::s3::listing::Entry;
use crate::aws::s3::{self, Condition};
use crate::aws::signing_client::Arrived;
use crate::core::snapshot::name::Name;
use crate::util::backoff::Backoff;
use crate::util::clock;
use crate::util::file_stream::{Part, Progress, digests};
use crate::util::words::hex;

/// `s3://bucket/prefix`.
#[derive(Debug)]
pub struct Prefix {
    bucket: Bucket,
    /// Empty, or with a slash at its end.
    prefix: String,
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.strip_suffix('/') {
            Some(prefix) => write!(f, "s3://{}/{prefix}", self.bucket.name()),
            None => write!(f, "s3://{}", self.bucket.name()),
        }
    }
}

/// What of a write that failed may still help.
struct Attempts {
    made: u32,
    most: u32,
    is_renewed: bool,
    pauses: Backoff,
}

impl Attempts {
    fn new(patience: &Patience) -> Self {
        Self { made: 1, most: patience.attempts, is_renewed: false, pauses: patience.pauses() }
    }

    /// Waits until it is time for another attempt, if one may help.
    async fn another(&mut self, error: &s3::Error) -> bool {
        if error.is_stale() && !self.is_renewed {
            self.is_renewed = true;
            return true;
        }
        if !error.is_transient() || self.made == self.most {
            return false;
        }
        self.made += 1;
        log::debug!("{error}; retrying");
        clock::pause(self.pauses.jittered()).await;
        true
    }
}

/// What was found under a key.
enum Found {
    Nothing,
    Same(Head),
    Other,
    /// The store does not say.
    Unknown(s3::Error),
}

impl Prefix {
    /// That prefix of a bucket, with or without a slash at its end.
    pub fn new(bucket: Bucket, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { bucket, prefix }
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// For an error.
    fn object(&self, key: &str) -> String {
        format!("s3://{}/{}{key}{}", self.bucket.name(), self.prefix, self.bucket.at())
    }

    pub(super) async fn put_data(&self, name: &Name, source: Source<'_>, progress: Progress<'_>) -> Result<Put, Error> {
        let key = name.data_key();
        let full = self.key(&key);
        let mut condition = match self.find(&full, source).await? {
            Found::Same(head) => return Ok(Put { store_date: head.date, was_there: true }),
            // Without the right to list nobody is told that there is none: then the store must compare.
            Found::Nothing | Found::Unknown(_) => Some(Condition::Absent),
            // Left by an attempt that was interrupted, unless a manifest vouches for it.
            Found::Other => match self.bucket.head(&self.key(&name.manifest_key())).await? {
                Some(_) => return Err(Error::Taken { object: self.object(&key) }),
                None => None,
            },
        };
        let mut attempts = Attempts::new(self.bucket.patience());
        loop {
            let error = match self.bucket.put_file(&full, source, condition, progress).await {
                Ok(s3::Put::Written) => break,
                Ok(s3::Put::Refused | s3::Put::Raced) => match self.find(&full, source).await? {
                    Found::Same(_) => break,
                    Found::Other => return Err(Error::Taken { object: self.object(&key) }),
                    Found::Unknown(error) => return Err(error.into()),
                    Found::Nothing if attempts.made < attempts.most => {
                        attempts.made += 1;
                        clock::pause(attempts.pauses.jittered()).await;
                        continue;
                    }
                    Found::Nothing => return Err(self.absent_fault(&key)),
                },
                Err(error) if self.bucket.heeds(&error) => continue,
                // It was looked at before; a store that knows no conditions overwrites nothing of others here.
                Err(error) if error.code() == Some("NotImplemented") && condition.is_some() => {
                    condition = None;
                    continue;
                }
                Err(error) => error,
            };
            // The answer may be what was lost.
            let may_be_there = error.is_transient() || error.code() == Some("NoSuchUpload");
            let again = attempts.another(&error).await;
            if may_be_there {
                match self.find(&full, source).await {
                    Ok(Found::Same(_)) => break,
                    // By us, half of it or unproven: nothing was there before.
                    Ok(Found::Other) => condition = None,
                    Ok(Found::Nothing | Found::Unknown(_)) | Err(_) => {}
                }
            }
            if !again {
                return Err(error.into());
            }
        }
        self.judge(&key, source).await
    }

    /// What is there after a write that was accepted.
    async fn judge(&self, key: &str, source: Source<'_>) -> Result<Put, Error> {
        let object = self.object(key);
        match self.bucket.head(&self.key(key)).await {
            Ok(Some(head)) if head.size != source.size => {
                Err(Error::Truncated { object, sent: source.size, found: head.size })
            }
            Ok(Some(head)) if head.sha256.as_ref().is_some_and(|sha256| *sha256 != hex(source.sha256)) => {
                Err(Error::Different { object })
            }
            Ok(Some(head)) => Ok(Put { store_date: head.date, was_there: false }),
            Ok(None) => Err(Error::Vanished { object }),
            Err(cause) if cause.is_forbidden() => Err(Error::Unseen { object, cause: Box::new(cause) }),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the file is there already.
    async fn find(&self, full: &str, source: Source<'_>) -> Result<Found, Error> {
        let head = match self.bucket.head(full).await {
            Ok(None) => return Ok(Found::Nothing),
            Ok(Some(head)) => head,
            Err(error) if error.is_forbidden() => return Ok(Found::Unknown(error)),
            Err(error) => return Err(error.into()),
        };
        let is_same = head.size == source.size
            && match &head.sha256 {
                Some(sha256) => *sha256 == hex(source.sha256),
                // The ETag of an object that was sent at once is its MD5 in all stores known, unless a key is involved.
                None => match digests(Part { path: source.path, from: 0, length: source.size }).await {
                    Ok(digests) => hex(&digests.md5).eq_ignore_ascii_case(&head.version),
                    Err(_) => false,
                },
            };
        Ok(if is_same { Found::Same(head) } else { Found::Other })
    }

    fn absent_fault(&self, key: &str) -> Error {
        Error::Fault { object: self.object(key), condition: "If-None-Match: *", although: "the object does not exist" }
    }

    pub(super) async fn put_manifest(&self, key: &str, bytes: Bytes) -> Result<Written, Error> {
        self.write_manifest(key, bytes, None).await
    }

    pub(super) async fn replace_manifest(&self, key: &str, bytes: Bytes, version: &str) -> Result<Written, Error> {
        self.write_manifest(key, bytes, Some(version)).await
    }

    /// `replaces`: only this version; `None`: only where none is. It is read before as well, because some stores ignore conditions.
    async fn write_manifest(&self, key: &str, bytes: Bytes, replaces: Option<&str>) -> Result<Written, Error> {
        let full = self.key(key);
        let mut attempts = Attempts::new(self.bucket.patience());
        let mut condition = Some(replaces.map_or(Condition::Absent, Condition::Unchanged));
        loop {
            let there = match self.bucket.get_bytes(&full).await {
                // Without the right to list its key, nobody is told that there is none: then the store must compare.
                Err(error) if error.is_forbidden() && replaces.is_none() && condition.is_some() => None,
                there => there?,
            };
            match &there {
                Some((body, _)) if *body == bytes => return Ok(Written::New),
                found if found.as_ref().map(|(_, head)| head.version.as_str()) != replaces => {
                    return Ok(Written::Exists);
                }
                _ => {}
            }
            let error = match self.bucket.put_bytes(&full, bytes.clone(), condition).await {
                Ok(s3::Put::Written) => {
                    return match self.bucket.get_bytes(&full).await? {
                        Some((body, _)) if body == bytes => Ok(Written::New),
                        Some(_) => Err(Error::Different { object: self.object(key) }),
                        None => Err(Error::Vanished { object: self.object(key) }),
                    };
                }
                // The next look shows whose it is.
                Ok(s3::Put::Refused | s3::Put::Raced) if attempts.made < attempts.most => {
                    attempts.made += 1;
                    clock::pause(attempts.pauses.jittered()).await;
                    continue;
                }
                Ok(s3::Put::Refused | s3::Put::Raced) => {
                    return Err(match replaces {
                        None => self.absent_fault(key),
                        Some(_) => Error::Fault {
                            object: self.object(key),
                            condition: "If-Match",
                            although: "the object's ETag is still that one",
                        },
                    });
                }
                Err(error) if self.bucket.heeds(&error) => continue,
                Err(error) if error.code() == Some("NotImplemented") && condition.is_some() => {
                    condition = None;
                    continue;
                }
                Err(error) => error,
            };
            if !attempts.another(&error).await {
                return Err(error.into());
            }
        }
    }

    pub(super) async fn list(&self, below: &str) -> Result<Listing, Error> {
        let entries = self.bucket.list(&self.key(below)).await?;
        let relative = |Entry { mut key, size }| {
            key.drain(..self.prefix.len());
            Entry { key, size }
        };
        Ok(Listing { entries: entries.into_iter().map(relative).collect() })
    }

    pub(super) async fn read(&self, key: &str) -> Result<Option<Stored>, Error> {
        let found = self.bucket.get_bytes(&self.key(key)).await?;
        Ok(found.map(|(body, head)| Stored { body, version: head.version }))
    }

    pub(super) async fn fetch(&self, key: &str, to: &Path, progress: Progress<'_>) -> Result<Fetched, Error> {
        let mut attempts = Attempts::new(self.bucket.patience());
        loop {
            match self.bucket.get_file(&self.key(key), to, progress).await {
                Ok(Arrived::Whole(fetched)) => return Ok(fetched),
                Ok(Arrived::Absent) => return Err(Error::Absent { object: self.object(key) }),
                Err(error) if attempts.another(&error).await => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) async fn delete(&self, key: &str) -> Result<Deleted, Error> {
        Ok(self.bucket.delete(&self.key(key)).await?)
    }
}
