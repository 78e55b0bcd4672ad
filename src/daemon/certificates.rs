//! The certificates of both ports: valid before etcd starts with them, issued and renewed where that is our task, and watched
//! while etcd runs.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use crate::aws::ssm::Secret;
use crate::aws::ssm::Ssm;
use crate::config::{CaKey, Etcd, Files, Minting, Origin, Security};
use crate::discovery::addresses;
use crate::etcd::command::Settings;
use crate::net::pki::{self, Ca, Fault, Issuer, LeafStatus, Minted, Pair, Want};
use crate::state::store::Identity;
use crate::status::recorder::StatusRecorder;
use crate::status::snapshot::Certificate;
use crate::util::clock::{self, rfc3339};
use crate::util::file;
use crate::util::log_once::without_numbers;

/// Between two checks of the files.
const ROUND: Duration = Duration::from_secs(60);
/// A lasting problem is reported again after this long.
const REMINDER: Duration = Duration::from_secs(24 * 3600);
/// A certificate that an operator must renew is reported this long before it expires.
const WARN_AHEAD_SECONDS: i64 = 30 * 24 * 3600;

/// When a leaf is seen to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Before etcd starts.
    Start,
    /// While it runs.
    Round,
}

/// Manages the certificates of one node.
#[derive(Debug)]
pub struct CertificateManager {
    etcd: Etcd,
    identity: Identity,
    ssm: Ssm,
    recorder: StatusRecorder,
    /// From Parameter Store; a file is read again each time.
    ca_key: Option<Secret>,
    /// Digests of the CA files as etcd read them at its start; it reads them only once.
    roots: BTreeMap<PathBuf, String>,
    /// What was logged, without its figures, and when; entries are dropped once the problem has passed.
    said: BTreeMap<String, Instant>,
    /// What this round found to report.
    round: BTreeSet<String>,
    warned_of_automatic: bool,
    /// When the next round is due.
    due: Instant,
}

impl CertificateManager {
    pub fn new(etcd: Etcd, identity: Identity, ssm: Ssm, recorder: StatusRecorder) -> Self {
        Self {
            etcd,
            identity,
            ssm,
            recorder,
            ca_key: None,
            roots: BTreeMap::new(),
            said: BTreeMap::new(),
            round: BTreeSet::new(),
            warned_of_automatic: false,
            due: clock::now(),
        }
    }

    /// Prepares everything that etcd is about to be started with.
    ///
    /// # Errors
    /// One line that names the file and what is wrong with it.
    pub async fn prepare(&mut self) -> Result<(), String> {
        self.roots.clear();
        let renewal = self.have_leaf(Moment::Start).await?;
        for (side, security) in self.sides() {
            match security {
                Security::Plain => {}
                Security::Files(files) => {
                    if let Some(demands) = &files.demands {
                        demands.check().await.map_err(|error| error.to_string())?;
                    }
                    self.check(side, files).await.map_err(|fault| fault.to_string())?;
                }
                Security::Automatic => self.renew_fixture(side).await?,
            }
        }
        let automatic = self.sides().into_iter().filter(|(_, security)| *security == Security::Automatic);
        let automatic: Vec<_> = automatic.map(|(side, _)| side).collect();
        if !automatic.is_empty() && !self.warned_of_automatic {
            self.warned_of_automatic = true;
            log::warn!(
                "{} port: the other members' automatic certificates can't be verified: traffic is encrypted, but \
                 anyone who reaches the port can pose as a member",
                automatic.join(" and ")
            );
        }
        self.watch(renewal).await;
        Ok(())
    }

    /// One round, if it is due: renews what must be renewed, reports what has changed or will expire.
    pub async fn renew_if_due(&mut self) {
        if clock::now() < self.due {
            return;
        }
        let renewal = self.have_leaf(Moment::Round).await.unwrap_or_else(|cause| {
            self.say_once(cause);
            None
        });
        self.watch(renewal).await;
    }

    /// Runs round after round. Cancel-safe.
    pub async fn forever(&mut self) -> Infallible {
        loop {
            self.renew_if_due().await;
            clock::pause(self.due.saturating_duration_since(clock::now())).await;
        }
    }

    fn sides(&self) -> [(&'static str, Security); 2] {
        [("client", self.etcd.client.security.clone()), ("peer", self.etcd.peer.security.clone())]
    }

    /// The hosts by which others reach a port: its certificate must be valid for them.
    fn advertised(&self, side: &str) -> Vec<String> {
        match side {
            "client" => self.hosts("ETCD_ADVERTISE_CLIENT_URLS", |settings| settings.advertise_client_urls),
            _ => self.hosts("ETCD_INITIAL_ADVERTISE_PEER_URLS", |settings| settings.advertise_peer_urls),
        }
    }

    fn listened(&self, side: &str) -> Vec<String> {
        match side {
            "client" => self.hosts("ETCD_LISTEN_CLIENT_URLS", |settings| settings.listen_client_urls),
            _ => self.hosts("ETCD_LISTEN_PEER_URLS", |settings| settings.listen_peer_urls),
        }
    }

    /// From the URLs that the operator set, otherwise from the computed ones.
    fn hosts(&self, variable: &str, computed: impl FnOnce(Settings) -> String) -> Vec<String> {
        let given = self.etcd.settings.get(variable).cloned();
        addresses::hosts(&given.unwrap_or_else(|| computed(addresses::settings(&self.etcd, &self.identity))))
    }

    /// Whether etcd can serve with these files, and whether others would accept them.
    async fn check(&mut self, side: &str, files: Files) -> Result<(), Fault> {
        let (pair, ca) = check_files(&files, &self.advertised(side)).await?;
        if side == "peer" {
            self.check_meeting_place(&pair);
        }
        self.roots.extend(files.ca.zip(ca.map(|ca| ca.digest().to_owned())));
        Ok(())
    }

    /// Supervisors reach each other at the addresses that EC2 shows, whatever etcd advertises.
    fn check_meeting_place(&mut self, pair: &Pair) {
        let places = [Some(self.identity.address.to_string()), self.identity.hostname.clone()];
        let places: Vec<String> = places.into_iter().flatten().collect();
        let serves = |place: &String| {
            let names = std::slice::from_ref(place);
            pair.check(&Want { now: clock::epoch(), ca: None, names, as_client: false }).is_ok()
        };
        if !places.iter().any(serves) {
            self.say_once(format!(
                "the peer port's certificate is not valid for any of {}: other supervisors can't bootstrap with \
                 this node; issue it for one of them as well",
                places.join(", ")
            ));
        }
    }

    // Minted.

    /// Makes sure that there is a valid leaf; returns when it is to be renewed, in seconds since the epoch. A leaf that is
    /// merely due stays in use if no other can be issued, and never delays a start.
    async fn have_leaf(&mut self, moment: Moment) -> Result<Option<i64>, String> {
        let Some(minting) = self.etcd.minting.clone() else { return Ok(None) };
        let minted = Minted::at(minting.dir.clone());
        let names = self.names(&minting);
        let ca = inspect(&minting.ca_cert, Ca::load).await.map_err(|fault| fault.to_string())?;
        // The running etcds have read the old CA: they would not accept a leaf of the new one.
        if self.roots.get(&minting.ca_cert).is_some_and(|read| read != ca.digest()) {
            return Ok(None);
        }
        let (looked_for, of, now) = (minted.clone(), (ca.clone(), names.clone()), clock::epoch());
        let status = inspect(&minting.dir, move |_| Ok(looked_for.status(&of.0, &of.1, now))).await;
        let status = status.unwrap_or_else(LeafStatus::Unfit);
        if moment == Moment::Start && status == LeafStatus::Due {
            return Ok(Some(clock::epoch()));
        }
        if let LeafStatus::Good { renew_at } = status {
            // Reported while there is time to fix it; Parameter Store is not called before the key is needed.
            if let CaKey::File(path) = &minting.ca_key
                && let Err(cause) = is_there(path).await
            {
                let until = rfc3339(renew_at);
                self.say_once(format!(
                    "MUSTER_CA_KEY={}: {cause}; it is needed for the renewal at {until}",
                    path.display()
                ));
            }
            return Ok(Some(renew_at));
        }
        match self.mint(&minting, &minted, &names).await {
            Ok(made) => {
                let (serial, until) = (&made.serial, rfc3339(made.not_after));
                log::info!("issued certificate {serial} for {}, valid until {until}", names.join(","));
                Ok(Some(pki::renew_at(&made, &ca)))
            }
            Err(cause) if status == LeafStatus::Due => {
                self.say_once(format!("the certificate can't be renewed and stays in use until it expires: {cause}"));
                Ok(None)
            }
            Err(cause) => Err(cause),
        }
    }

    async fn mint(&mut self, minting: &Minting, minted: &Minted, names: &[String]) -> Result<pki::Certificate, String> {
        let (ca_key, place) = self.find_ca_key(&minting.ca_key).await?;
        let life = i64::try_from(minting.life.as_secs()).unwrap_or(i64::MAX);
        let (minted, names, instance) = (minted.clone(), names.to_vec(), self.identity.instance.clone());
        let (ca_cert, key, now) = (minting.ca_cert.clone(), ca_key.clone(), clock::epoch());
        let leaf = inspect(&minting.dir, move |_| {
            let issuer = Issuer::load(&ca_cert, key.expose(), &place, now)?;
            let leaf = issuer.mint(minted.key()?, &names, &instance, now, life)?;
            minted.keep(&leaf)?;
            Ok(leaf)
        });
        let leaf = leaf.await.map_err(|fault| fault.to_string())?;
        // Only a working one is cached: one that was fixed is read again.
        self.ca_key = matches!(minting.ca_key, CaKey::Parameter(_)).then_some(ca_key);
        Ok(leaf.certificate)
    }

    /// The CA's key, and where it comes from, as text.
    async fn find_ca_key(&mut self, ca_key: &CaKey) -> Result<(Secret, String), String> {
        let (place, key) = match ca_key {
            CaKey::File(path) => {
                let key = file::fetch_text(path).await;
                (path.display().to_string(), key.map(Secret::from).map_err(|e| e.to_string()))
            }
            CaKey::Parameter(name) => {
                let key = match self.ca_key.take() {
                    Some(held) => Ok(held),
                    None => self.ssm.parameter(name).await.map_err(|e| e.to_string()),
                };
                (format!("ssm:{name}"), key)
            }
        };
        key.map(|key| (key, place.clone())).map_err(|cause| format!("MUSTER_CA_KEY={place}: {cause}"))
    }

    /// Every name and address by which this node may be reached.
    fn names(&self, minting: &Minting) -> Vec<String> {
        let own = [Some(self.identity.address.to_string()), self.identity.hostname.clone()];
        let loopback = ["localhost", "127.0.0.1", "::1"].map(|name| Some(name.to_owned()));
        let advertised = ["client", "peer"].into_iter().flat_map(|side| self.advertised(side));
        let all = own.into_iter().chain(loopback).flatten().chain(advertised).chain(minting.extra_sans.iter().cloned());
        let mut seen = BTreeSet::new();
        all.filter(|name| seen.insert(name.clone())).collect()
    }

    // Automatic.

    fn fixture(&self, side: &str) -> PathBuf {
        self.etcd.data.join("fixtures").join(side)
    }

    /// etcd creates its automatic certificate for a year and for the address it has then, and never again while the files
    /// exist: before a start they are moved aside if they no longer fit.
    async fn renew_fixture(&mut self, side: &str) -> Result<(), String> {
        let dir = self.fixture(side);
        let cert = dir.join("cert.pem");
        if is_there(&cert).await.is_err() {
            return Ok(());
        }
        let why = match inspect(&cert, pki::leaf_in).await {
            Err(fault) => fault.to_string(),
            Ok(leaf) if leaf.not_after < clock::epoch() => format!("it expired on {}", rfc3339(leaf.not_after)),
            Ok(leaf) if leaf.not_after - clock::epoch() < WARN_AHEAD_SECONDS => {
                format!("it expires on {}", rfc3339(leaf.not_after))
            }
            Ok(leaf) => {
                match self.listened(side).iter().map(String::as_str).map(plain).find(|host| !leaf.names.contains(host))
                {
                    Some(host) => format!("it is not valid for {host}"),
                    None => return Ok(()),
                }
            }
        };
        let stamp: String = clock::stamp().chars().filter(char::is_ascii_alphanumeric).collect();
        let aside = dir.with_file_name(format!("{side}-{stamp}"));
        fs::rename(&dir, &aside).map_err(|e| format!("{} can't be moved aside: {e}", dir.display()))?;
        log::info!(
            "moved the automatic {side} certificate to {}, so that etcd makes a new one: {why}",
            aside.display()
        );
        Ok(())
    }

    // Watching.

    /// Reports what has changed and what will expire, and schedules the next check.
    async fn watch(&mut self, renewal: Option<i64>) {
        let mut seen = Vec::new();
        for (side, security) in self.sides() {
            let (cert, ca, is_minted) = match security {
                Security::Plain => continue,
                Security::Automatic => (self.fixture(side).join("cert.pem"), None, false),
                Security::Files(files) => (files.pair.cert, files.ca, files.origin == Origin::Minted),
            };
            let not_after = inspect(&cert, pki::leaf_in).await.ok().map(|leaf| leaf.not_after);
            if let Some(not_after) = not_after.filter(|_| !is_minted) {
                self.warn_of(&cert, not_after);
            }
            let ca_not_after = match ca {
                Some(path) => self.watch_root(&path).await,
                None => None,
            };
            seen.push(Certificate { side: side.to_owned(), not_after, ca_not_after });
        }
        let until_renewal = renewal.map(|at| Duration::from_secs(u64::try_from(at - clock::epoch()).unwrap_or(0)));
        // Never at once: a leaf that is valid for a few seconds must not keep the process busy.
        let pause = until_renewal.map_or(ROUND, |until| until.clamp(Duration::from_secs(1), ROUND));
        self.due = clock::now() + pause;
        self.recorder.certificates(seen);
        let round = std::mem::take(&mut self.round);
        self.said.retain(|without_digits, _| round.contains(without_digits));
    }

    /// etcd reads a CA once, at its start. Returns until when it is valid.
    async fn watch_root(&mut self, path: &Path) -> Option<i64> {
        let ca = match inspect(path, Ca::load).await {
            Ok(ca) => ca,
            Err(fault) => {
                self.say_once(fault.to_string());
                return None;
            }
        };
        if self.roots.get(path).is_some_and(|digest| digest != ca.digest()) {
            self.say_once(format!(
                "{} has changed, but etcd reads it only at start: restart the members one by one (a rolling restart)",
                path.display()
            ));
        }
        self.warn_of(path, ca.not_after());
        Some(ca.not_after())
    }

    fn warn_of(&mut self, path: &Path, not_after: i64) {
        if not_after - clock::epoch() < WARN_AHEAD_SECONDS {
            let until = rfc3339(not_after);
            self.say_once(format!("{}: expires on {until}; replace it before then", path.display()));
        }
    }

    /// Once a day, as long as it lasts.
    fn say_once(&mut self, line: String) {
        let without_digits = without_numbers(&line);
        self.round.insert(without_digits.clone());
        if self.said.get(&without_digits).is_none_or(|at| clock::now() - *at >= REMINDER) {
            log::warn!("{line}");
            self.said.insert(without_digits, clock::now());
        }
    }
}

/// Whether an etcd that is advertised under these names can serve with these files.
///
/// # Errors
/// What is wrong with them.
pub async fn check_files(files: &Files, names: &[String]) -> Result<(Pair, Option<Ca>), Fault> {
    let key = files.pair.key.clone();
    let pair = inspect(&files.pair.cert, move |cert| Pair::load(cert, &key)).await?;
    let ca = match &files.ca {
        Some(path) => Some(inspect(path, Ca::load).await?),
        None => None,
    };
    pair.check(&Want { now: clock::epoch(), ca: ca.as_ref(), names, as_client: files.demands.is_some() })?;
    Ok((pair, ca))
}

/// Reads a file on another thread: it may be on a dead mount.
async fn inspect<T: Send + 'static>(
    path: &Path,
    read: impl FnOnce(&Path) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let owned = path.to_owned();
    file::aside(path, move || read(&owned)).await.unwrap_or_else(|error| Err(Fault::unreadable(path, &error)))
}

async fn is_there(path: &Path) -> io::Result<()> {
    let owned = path.to_owned();
    file::aside(path, move || fs::metadata(owned).map(|_| ())).await?
}

/// An address in its shortest form, as certificates have it.
fn plain(host: &str) -> String {
    host.parse::<IpAddr>().map_or_else(|_| host.to_owned(), |address| address.to_string())
}

#[cfg(test)]
mod tests;
