//! An issued leaf and its key on disk, so that a restart works with them even if the CA's key can't be reached.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::sign::SigningKey;

use super::certificate::Certificate;
use super::fault::{Fault, Flaw};
use super::files::{Ca, Pair, Want, read_key};
use super::issuer::{Leaf, new_key, normal};
use super::pem;
use crate::util::durable::{self, Readers};

const CERTIFICATE: &str = "leaf.crt";
const KEY: &str = "leaf.key";

/// The directory of an issued leaf.
#[derive(Clone, Debug)]
pub struct Minted {
    dir: PathBuf,
}

/// Whether the stored leaf can be served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeafStatus {
    /// To be renewed at that time, in seconds since the epoch.
    Good { renew_at: i64 },
    /// It can, but a new one should be issued now: two thirds of its validity are over, or its names differ from the required
    /// ones.
    Due,
    /// It can't, or there is none.
    Unfit(Fault),
}

impl Minted {
    /// That directory; nothing is read or created yet.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// etcd's `--cert-file`.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join(CERTIFICATE)
    }

    /// etcd's `--key-file`.
    pub fn key_file(&self) -> PathBuf {
        self.dir.join(KEY)
    }

    /// Reads the stored leaf.
    ///
    /// # Errors
    /// As [`Pair::load`].
    pub fn pair(&self) -> Result<Pair, Fault> {
        Pair::load(&self.certificate(), &self.key_file())
    }

    /// Whether the stored leaf is from this CA and valid at `now` (seconds since the epoch), and for exactly these names.
    pub fn status(&self, ca: &Ca, names: &[String], now: i64) -> LeafStatus {
        match self.judge(ca, names, now) {
            Ok((leaf, same_names)) => match renew_at(&leaf, ca) {
                renew_at if now < renew_at && same_names => LeafStatus::Good { renew_at },
                _ => LeafStatus::Due,
            },
            Err(fault) => LeafStatus::Unfit(fault),
        }
    }

    fn judge(&self, ca: &Ca, names: &[String], now: i64) -> Result<(Certificate, bool), Fault> {
        let place = || self.certificate().display().to_string();
        let pair = self.pair()?;
        let wanted = normal(names).map_err(|flaw| Fault { place: place(), flaw })?;
        let has = pair.leaf().names.iter().cloned().collect();
        // A leaf that lacks a name still serves the others: the advertised URLs decide whether that is enough.
        pair.check(&Want { now, ca: Some(ca), names: &[], as_client: true })?;
        Ok((pair.leaf().clone(), wanted == has))
    }

    /// The key for the next leaf: the stored one, so that a renewal replaces only one file and no mismatched pair is ever read;
    /// or a new one, durably, if there is no usable one.
    ///
    /// # Errors
    /// The key can't be read or written.
    pub fn key(&self) -> Result<Arc<dyn SigningKey>, Fault> {
        let path = self.key_file();
        let there = pem::read_file(&path).and_then(|text| read_key(&path.display().to_string(), &text));
        match there {
            Err(Fault { flaw: Flaw::Unreadable(_), .. }) | Ok(_) => there,
            // Missing or damaged: the file is ours, and nothing depends on it.
            Err(_) => {
                let (pkcs8, key) = new_key()?;
                self.replace(KEY, &pem::write("PRIVATE KEY", pkcs8.secret_pkcs8_der()))?;
                Ok(key)
            }
        }
    }

    /// Stores a leaf for the stored key, durably and atomically.
    ///
    /// # Errors
    /// The directory can't be written; the old certificate stays.
    pub fn keep(&self, leaf: &Leaf) -> Result<(), Fault> {
        self.replace(CERTIFICATE, &leaf.pem)
    }

    fn replace(&self, name: &str, text: &str) -> Result<(), Fault> {
        let path = self.dir.join(name);
        let write = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            fs::set_permissions(&self.dir, Permissions::from_mode(0o700))?;
            durable::replace(&path, text.as_bytes(), Readers::Owner)
        };
        write().map_err(|cause| Fault::unwritable(&path, &cause))
    }
}

/// When a leaf of that CA is to be renewed, in seconds since the epoch: after two thirds of its validity; or, if it ends with
/// its CA, at its end, because that CA can't issue a longer one.
pub fn renew_at(leaf: &Certificate, ca: &Ca) -> i64 {
    if ca.bounds(leaf) {
        return leaf.not_after;
    }
    leaf.not_before + (leaf.not_after - leaf.not_before) / 3 * 2
}
