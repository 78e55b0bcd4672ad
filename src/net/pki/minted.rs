//! A minted leaf and its key on disk, so that a restart that can't reach the CA's key goes on with them.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::sign::SigningKey;

use super::certificate::Certificate;
use super::fault::{Fault, Flaw};
use super::files::{Ca, Pair, Want, read_key};
use super::issuer::{Leaf, new_key, normal};
use super::pem;

const CERTIFICATE: &str = "leaf.crt";
const KEY: &str = "leaf.key";

/// The directory of a minted leaf.
#[derive(Clone, Debug)]
pub struct Minted {
    dir: PathBuf,
}

/// Whether what lies there can be served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeafStatus {
    /// To be renewed at that moment, in seconds since the epoch.
    Good { renew_at: i64 },
    /// It can, but a new one should be made now: two thirds of its life are over, or its names are not those that are wanted.
    Due,
    /// It can't, or nothing is there.
    Unfit(Fault),
}

impl Minted {
    /// That directory; nothing is read or made yet.
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

    /// What lies there.
    ///
    /// # Errors
    /// As [`Pair::load`].
    pub fn pair(&self) -> Result<Pair, Fault> {
        Pair::load(&self.certificate(), &self.key_file())
    }

    /// Whether what lies there is of this CA and valid at `now` (seconds since the epoch), and for exactly these names.
    pub fn standing(&self, ca: &Ca, names: &[String], now: i64) -> LeafStatus {
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
        // One that lacks a name serves those that it has: whether that will do is for whoever advertises them to say.
        pair.check(&Want { now, ca: Some(ca), names: &[], as_client: true })?;
        Ok((pair.leaf().clone(), wanted == has))
    }

    /// The key to mint for: the one that lies there, so that a renewal replaces one file only and no mismatched pair is ever
    /// read; a new one, durably, if there is none that can be used.
    ///
    /// # Errors
    /// A key that can't be read or written.
    pub fn key(&self) -> Result<Arc<dyn SigningKey>, Fault> {
        let path = self.key_file();
        let there = pem::read_file(&path).and_then(|text| read_key(&path.display().to_string(), &text));
        match there {
            Err(Fault { flaw: Flaw::Unreadable(_), .. }) | Ok(_) => there,
            // Missing, or damaged: it is ours, and nothing depends on it.
            Err(_) => {
                let (pkcs8, key) = new_key()?;
                self.replace(KEY, &pem::write("PRIVATE KEY", pkcs8.secret_pkcs8_der()))?;
                Ok(key)
            }
        }
    }

    /// Puts a leaf there, for the key that lies there, durably and at once.
    ///
    /// # Errors
    /// A directory that can't be written; the certificate that was there stands.
    pub fn keep(&self, leaf: &Leaf) -> Result<(), Fault> {
        self.replace(CERTIFICATE, &leaf.pem)
    }

    /// The file is either the old or the new one, whenever the power goes, and nobody else's to read from the first byte on.
    fn replace(&self, name: &str, text: &str) -> Result<(), Fault> {
        let (path, draft) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        let write = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            fs::set_permissions(&self.dir, Permissions::from_mode(0o700))?;
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            // A draft that a crash left may have another mode.
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|cause| Fault::unwritable(&path, &cause))
    }
}

/// When a leaf of that CA is to be renewed: after two thirds of its life. One that ends with its CA can't be improved on by that
/// CA: at its end. In seconds since the epoch.
pub fn renew_at(leaf: &Certificate, ca: &Ca) -> i64 {
    if ca.bounds(leaf) {
        return leaf.not_after;
    }
    leaf.not_before + (leaf.not_after - leaf.not_before) / 3 * 2
}
