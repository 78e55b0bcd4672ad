//! The certificates of both ports: fit before etcd starts under them, made and renewed where that is ours to do, and watched
//! while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use crate::aws::ssm::Secret;
use crate::aws::ssm::Ssm;
use crate::config::{CaKey, Config, Files, Minting, Origin, Security};
use crate::discovery::addresses;
use crate::etcd::command::Settings;
use crate::net::pki::{self, Ca, Fault, Issuer, LeafStatus, Minted, Pair, Want};
use crate::state::store::Identity;
use crate::status::recorder::StatusRecorder;
use crate::status::snapshot::Certificate;
use crate::util::clock::{self, rfc3339};
use crate::util::file;
use crate::util::log_once::without_numbers;

/// Between two looks at what is on disk.
const ROUND: Duration = Duration::from_secs(60);
/// What lasts is said again after so long.
const REMINDER: Duration = Duration::from_secs(24 * 3600);
/// Whoever has to renew something by hand hears of it so long ahead.
const WARN_AHEAD_SECONDS: i64 = 30 * 24 * 3600;

/// Keeps the certificates of one node.
#[derive(Debug)]
pub struct CertificateManager {
    config: Config,
    identity: Identity,
    ssm: Ssm,
    journal: StatusRecorder,
    /// From Parameter Store; a file is read anew each time.
    ca_key: Option<Secret>,
    /// The CAs as etcd has read them, once, at its start: their digests.
    roots: BTreeMap<PathBuf, String>,
    /// What was said, without its figures, and when; what passes is forgotten.
    said: BTreeMap<String, Instant>,
    /// What would have been said this round.
    round: BTreeSet<String>,
    warned_of_automatic: bool,
    /// When the next round is due.
    due: Instant,
}

impl CertificateManager {
    /// A manager of this instance's certificates.
    pub fn new(config: Config, identity: Identity, ssm: Ssm, journal: StatusRecorder) -> Self {
        Self {
            config,
            identity,
            ssm,
            journal,
            ca_key: None,
            roots: BTreeMap::new(),
            said: BTreeMap::new(),
            round: BTreeSet::new(),
            warned_of_automatic: false,
            due: clock::now(),
        }
    }

    /// Makes ready all that etcd is about to be started with.
    ///
    /// # Errors
    /// One line that names the file and what is wrong with it.
    pub async fn prepare(&mut self) -> Result<(), String> {
        self.roots.clear();
        let renewal = self.have_leaf(true).await?;
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
                "{} port: automatic certificates of others can't be verified: what is sent is encrypted, but anyone who reaches the \
                 port may pose as a member",
                automatic.join(" and ")
            );
        }
        self.watch(renewal).await;
        Ok(())
    }

    /// One round, if it is time: what is due is renewed, what has changed or will expire is said.
    pub async fn tend(&mut self) {
        if clock::now() < self.due {
            return;
        }
        let renewal = self.have_leaf(false).await.unwrap_or_else(|cause| {
            self.say_once(cause);
            None
        });
        self.watch(renewal).await;
    }

    /// Round after round. Cancel-safe.
    pub async fn forever(&mut self) -> Infallible {
        loop {
            self.tend().await;
            clock::pause(self.due.saturating_duration_since(clock::now())).await;
        }
    }

    fn sides(&self) -> [(&'static str, Security); 2] {
        [("client", self.config.client.clone()), ("peer", self.config.peer.clone())]
    }

    /// The hosts by which others reach a port: what its certificate must be for.
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

    /// Of the URLs that the operator gave, or else of the computed ones.
    fn hosts(&self, variable: &str, computed: impl FnOnce(Settings) -> String) -> Vec<String> {
        let given = self.config.etcd.get(variable).cloned();
        addresses::hosts(&given.unwrap_or_else(|| computed(addresses::settings(&self.config, &self.identity))))
    }

    /// Whether etcd can serve under these files, and others would believe it.
    async fn check(&mut self, side: &str, files: Files) -> Result<(), Fault> {
        let key = files.pair.key.clone();
        let pair = look_at(&files.pair.cert, move |cert| Pair::load(cert, &key)).await?;
        let ca = match &files.ca {
            Some(path) => Some(look_at(path, Ca::load).await?),
            None => None,
        };
        let names = self.advertised(side);
        let as_client = files.demands.is_some();
        pair.check(&Want { now: clock::epoch(), ca: ca.as_ref(), names: &names, as_client })?;
        if side == "peer" {
            self.check_meeting_place(&pair);
        }
        self.roots.extend(files.ca.zip(ca.map(|ca| ca.digest().to_owned())));
        Ok(())
    }

    /// Supervisors meet each other where EC2 shows them, whatever etcd advertises.
    fn check_meeting_place(&mut self, pair: &Pair) {
        let places = [Some(self.identity.address.to_string()), self.identity.hostname.clone()];
        let places: Vec<String> = places.into_iter().flatten().collect();
        let serves = |place: &String| {
            let names = std::slice::from_ref(place);
            pair.check(&Want { now: clock::epoch(), ca: None, names, as_client: false }).is_ok()
        };
        if !places.iter().any(serves) {
            self.say_once(format!(
                "the peer port's certificate is for none of {}: other supervisors can't found with this node; issue it for one of \
                 them as well",
                places.join(", ")
            ));
        }
    }

    // Minted.

    /// Sees to it that there is a leaf that is fit; when it is to be renewed, in seconds since the epoch. One that is merely due
    /// serves on when no other can be made, and never holds up a start.
    async fn have_leaf(&mut self, at_start: bool) -> Result<Option<i64>, String> {
        let Some(minting) = self.config.minting.clone() else { return Ok(None) };
        let minted = Minted::at(minting.dir.clone());
        let names = self.names(&minting);
        let ca = look_at(&minting.ca_cert, Ca::load).await.map_err(|fault| fault.to_string())?;
        // The etcds that run have read the CA that was there before: they wouldn't believe a leaf of the new one.
        if self.roots.get(&minting.ca_cert).is_some_and(|read| read != ca.digest()) {
            return Ok(None);
        }
        let (looked_for, of) = (minted.clone(), (ca.clone(), names.clone()));
        let standing = look_at(&minting.dir, move |_| Ok(looked_for.standing(&of.0, &of.1, clock::epoch()))).await;
        let standing = standing.unwrap_or_else(LeafStatus::Unfit);
        if at_start && standing == LeafStatus::Due {
            return Ok(Some(clock::epoch()));
        }
        if let LeafStatus::Good { renew_at } = standing {
            // Said while there is time to mend it; Parameter Store isn't asked before it has to be.
            if let CaKey::File(path) = &minting.ca_key
                && let Err(cause) = is_there(path).await
            {
                let until = rfc3339(renew_at);
                self.say_once(format!("MUSTER_CA_KEY={}: {cause}; it is needed from {until} on", path.display()));
            }
            return Ok(Some(renew_at));
        }
        match self.mint(&minting, &minted, &names).await {
            Ok(made) => {
                let (serial, until) = (&made.serial, rfc3339(made.not_after));
                log::info!("certificate {serial} made for {}, valid until {until}", names.join(","));
                Ok(Some(pki::renew_at(&made, &ca)))
            }
            Err(cause) if standing == LeafStatus::Due => {
                self.say_once(format!("the certificate can't be renewed, and is used until it expires: {cause}"));
                Ok(None)
            }
            Err(cause) => Err(cause),
        }
    }

    async fn mint(&mut self, minting: &Minting, minted: &Minted, names: &[String]) -> Result<pki::Certificate, String> {
        let (ca_key, place) = self.find_ca_key(&minting.ca_key).await?;
        let life = i64::try_from(minting.life.as_secs()).unwrap_or(i64::MAX);
        let (minted, names, instance) = (minted.clone(), names.to_vec(), self.identity.instance.clone());
        let (ca_cert, key) = (minting.ca_cert.clone(), ca_key.clone());
        let leaf = look_at(&minting.dir, move |_| {
            let issuer = Issuer::load(&ca_cert, key.expose(), &place, clock::epoch())?;
            let leaf = issuer.mint(minted.key()?, &names, &instance, clock::epoch(), life)?;
            minted.keep(&leaf)?;
            Ok(leaf)
        });
        let leaf = leaf.await.map_err(|fault| fault.to_string())?;
        // Only a good one is held: one that was mended is read anew.
        self.ca_key = matches!(minting.ca_key, CaKey::Parameter(_)).then_some(ca_key);
        Ok(leaf.certificate)
    }

    /// The CA's key, and where it comes from, in words.
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
        self.config.data.join("fixtures").join(side)
    }

    /// etcd makes its automatic certificate for a year and for the address of that day, and never again while the files are
    /// there: before a start they are moved aside when they won't do.
    async fn renew_fixture(&mut self, side: &str) -> Result<(), String> {
        let dir = self.fixture(side);
        let cert = dir.join("cert.pem");
        if is_there(&cert).await.is_err() {
            return Ok(());
        }
        let why = match look_at(&cert, pki::leaf_in).await {
            Err(fault) => fault.to_string(),
            Ok(leaf) if leaf.not_after < clock::epoch() => format!("it expired on {}", rfc3339(leaf.not_after)),
            Ok(leaf) if leaf.not_after - clock::epoch() < WARN_AHEAD_SECONDS => {
                format!("it expires on {}", rfc3339(leaf.not_after))
            }
            Ok(leaf) => {
                match self.listened(side).iter().map(String::as_str).map(plain).find(|host| !leaf.names.contains(host))
                {
                    Some(host) => format!("it isn't for {host}"),
                    None => return Ok(()),
                }
            }
        };
        let stamp: String = clock::stamp().chars().filter(char::is_ascii_alphanumeric).collect();
        let aside = dir.with_file_name(format!("{side}-{stamp}"));
        fs::rename(&dir, &aside).map_err(|e| format!("{} can't be moved aside: {e}", dir.display()))?;
        log::info!("the automatic {side} certificate now lies in {}, and etcd makes a new one: {why}", aside.display());
        Ok(())
    }

    // Watching.

    /// Says what has changed and what will expire, and notes when to look again.
    async fn watch(&mut self, renewal: Option<i64>) {
        let mut seen = Vec::new();
        for (side, security) in self.sides() {
            let (cert, ca, is_minted) = match security {
                Security::Plain => continue,
                Security::Automatic => (self.fixture(side).join("cert.pem"), None, false),
                Security::Files(files) => (files.pair.cert, files.ca, files.origin == Origin::Minted),
            };
            let not_after = look_at(&cert, pki::leaf_in).await.ok().map(|leaf| leaf.not_after);
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
        // Never at once: a leaf of a few seconds must not keep us busy.
        let pause = until_renewal.map_or(ROUND, |until| until.clamp(Duration::from_secs(1), ROUND));
        self.due = clock::now() + pause;
        self.journal.certificates(seen);
        let round = std::mem::take(&mut self.round);
        self.said.retain(|gist, _| round.contains(gist));
    }

    /// etcd reads a CA once, at its start. Until when it is valid.
    async fn watch_root(&mut self, path: &Path) -> Option<i64> {
        let ca = match look_at(path, Ca::load).await {
            Ok(ca) => ca,
            Err(fault) => {
                self.say_once(fault.to_string());
                return None;
            }
        };
        if self.roots.get(path).is_some_and(|digest| digest != ca.digest()) {
            self.say_once(format!(
                "{} has changed, and etcd reads it only at its start: restart the members one by one (a rolling restart)",
                path.display()
            ));
        }
        self.warn_of(path, ca.not_after());
        Some(ca.not_after())
    }

    fn warn_of(&mut self, path: &Path, not_after: i64) {
        if not_after - clock::epoch() < WARN_AHEAD_SECONDS {
            let until = rfc3339(not_after);
            self.say_once(format!("{}: expires on {until}; replace it before", path.display()));
        }
    }

    /// Once a day, as long as it lasts.
    fn say_once(&mut self, line: String) {
        let gist = without_numbers(&line);
        self.round.insert(gist.clone());
        if self.said.get(&gist).is_none_or(|at| clock::now() - *at >= REMINDER) {
            log::warn!("{line}");
            self.said.insert(gist, clock::now());
        }
    }
}

/// Looks into a file beside the main thread: it may lie on a mount that is gone.
async fn look_at<T: Send + 'static>(
    path: &Path,
    look: impl FnOnce(&Path) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let owned = path.to_owned();
    file::aside(path, move || look(&owned)).await.unwrap_or_else(|error| Err(Fault::unreadable(path, &error)))
}

async fn is_there(path: &Path) -> io::Result<()> {
    let owned = path.to_owned();
    file::aside(path, move || fs::metadata(owned).map(|_| ())).await?
}

/// An address in its shortest form, as certificates have it.
fn plain(host: &str) -> String {
    host.parse::<IpAddr>().map_or_else(|_| host.to_owned(), |address| address.to_string())
}
