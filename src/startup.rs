//! What must be had before the first look: etcd, our own files, our identity.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::aws::imds::Imds;
use crate::clock;
use crate::cloud::{self, Cloud};
use crate::cluster::label::Label;
use crate::cluster::view::DataDir;
use crate::config::Config;
use crate::etcd::command::Release;
use crate::etcd::data_dir::MUSTER_DIR;
use crate::exit::{Code, Failure};
use crate::identity;
use crate::ledger::{self, Identity, Store};
use crate::machine;
use crate::process::reaper::Reaper;
use crate::process::spawn::Output;
use crate::rollcall::server::Desk;
use crate::status::journal::Journal;
use crate::status::server::{Place, SOCKET, serve};

/// The first pause before the metadata service is asked again; it doubles up to `BOOTSTRAP_WAIT`.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between two tries to have our files for ourselves.
const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// With data and a known identity, a mute metadata service is waited for no longer than this.
const IDENTITY_PATIENCE: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Debug)]
pub struct Startup {
    pub identity: Identity,
    pub program: PathBuf,
    /// `etcd --version`, under way: it takes longer than all else here, and only etcd's start needs it.
    pub version: Output,
    pub desk: Desk,
    pub cloud: Cloud,
}

/// Finds everything, waiting for the metadata service as long as it takes.
///
/// # Errors
/// A missing etcd, a data directory or a state file that can't be used.
pub async fn look_around(config: &Config, reaper: &Reaper, journal: &Journal) -> Result<Startup, Failure> {
    let program = find_etcd(config)?;
    let mut store = open_store(config, journal).await?;
    serve(journal, Place::Socket(config.data.join(MUSTER_DIR).join(SOCKET)));
    if let Some(listen) = config.status_listen {
        serve(journal, Place::Address(listen));
    }
    let imds = cloud::metadata_service(config);
    journal.counts_in(imds.meters());
    let missing = |cause| Failure::new(Code::EtcdMissing, format!("{} can't be run: {cause}", program.display()));
    let version = Output::of(&program, "--version", reaper).map_err(missing)?;
    let identity = find_identity(config, &imds, &store, journal).await;
    let place = identity.region.as_ref().map_or_else(String::new, |region| format!(" in {region}"));
    log::info!("this is {} at {}{place}", identity.instance, identity.address);
    journal.this_is(&identity.instance, &identity.address.to_string(), identity.region.as_deref());
    let data = identity::settings(config, &identity).paths.inspect();
    let data = data.map_err(|error| Failure::new(Code::DataDirUnwritable, error))?;
    bind(&mut store, &identity, data != DataDir::Fresh, journal).await?;
    if let Err(error) = store.keep_identity(&identity) {
        log::warn!("{error}");
    }
    let desk = Desk::new(store, identity::own_listing(config, &identity), data != DataDir::Fresh);
    let cloud = Cloud::new(config, imds, identity.region.as_deref());
    Ok(Startup { identity, program, version, desk, cloud })
}

/// Whose the ledger is; a full disk is waited for.
async fn bind(store: &mut Store, identity: &Identity, has_data: bool, journal: &Journal) -> Result<(), Failure> {
    while let Err(error) = store.bind(identity, has_data) {
        if !error.may_pass() {
            return Err(Failure::new(Code::DataDirUnwritable, error));
        }
        if journal.now(Label::hold("files_unusable"), &error.to_string()) {
            log::warn!("hold: {error}");
        }
        clock::pause(LOCK_PAUSE).await;
    }
    Ok(())
}

/// Our files; a full disk and another supervisor that works with them are waited for.
async fn open_store(config: &Config, journal: &Journal) -> Result<Store, Failure> {
    let mut said = String::new();
    loop {
        let error = match Store::open(&config.data) {
            Ok(store) => return Ok(store),
            Err(error) => error,
        };
        let line = format!("hold: {error}");
        let code = match error {
            _ if error.may_pass() => {
                if said != line {
                    log::warn!("{line}");
                    journal.now(Label::hold("files_unusable"), &error.to_string());
                    said = line;
                }
                clock::pause(LOCK_PAUSE).await;
                continue;
            }
            ledger::Error::Unreadable { .. } => Code::StateUnreadable,
            _ => Code::DataDirUnwritable,
        };
        return Err(Failure::new(code, error));
    }
}

/// `ED_HOME/bin/etcd`, else on PATH.
fn find_etcd(config: &Config) -> Result<PathBuf, Failure> {
    let home = config.home.join("bin/etcd");
    let on_path = config.search_path.split(':').filter(|dir| !dir.is_empty()).map(|dir| Path::new(dir).join("etcd"));
    let mut seen_but_unfit = None;
    for program in std::iter::once(home.clone()).chain(on_path) {
        match std::fs::metadata(&program) {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => return Ok(program),
            Ok(_) => seen_but_unfit = seen_but_unfit.or(Some(program)),
            Err(_) => {}
        }
    }
    let message = match seen_but_unfit {
        Some(program) => format!("{} is not executable; chmod +x it", program.display()),
        None => format!("{} doesn't exist, nor an etcd on PATH; put one there or set ED_HOME", home.display()),
    };
    Err(Failure::new(Code::EtcdMissing, message))
}

/// Which etcd this is, by its own word; a release that is known to be bad is said to be.
pub async fn find_release(version: Output) -> Option<Release> {
    let text = version.finish().await.ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("etcd Version: "))?;
    let release = Release::parse(line.trim())?;
    if let Some(defect) = release.known_defect() {
        log::warn!("etcd {}.{}.{} {defect}", release.major, release.minor, release.patch);
    }
    Some(release)
}

/// Who we are: by the metadata service, or the written roster; failing that, by what it said last time.
async fn find_identity(config: &Config, imds: &Imds, store: &Store, journal: &Journal) -> Identity {
    let kept = store.identity().unwrap_or_else(|error| {
        log::warn!("{error}");
        None
    });
    // Who we were by another kind of roster is nothing that this one could find us by.
    let kept = kept.filter(|kept| kept.region.is_none() == config.written.is_some());
    // A disk says who it was with, not where it is now.
    let (kept, elsewhere) = match kept {
        Some(kept) if machine::is(&kept.instance, kept.address) => (Some(kept), None),
        kept => (None, kept),
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let fetched = cloud::fetch_identity(config, imds);
        let outcome = match &kept {
            Some(_) => tokio::time::timeout(IDENTITY_PATIENCE, fetched).await.map_err(|e| e.to_string()),
            None => Ok(fetched.await),
        };
        let cause = match outcome {
            Ok(Ok(identity)) => return identity,
            Ok(Err(error)) => error.to_string(),
            Err(elapsed) => elapsed,
        };
        if let Some(kept) = kept {
            log::warn!("{cause}; going on as {} of the last start", kept.instance);
            return kept;
        }
        let cause = match &elsewhere {
            Some(kept) => {
                format!("{cause}; the disk was with {}, and nothing shows that this is that instance", kept.instance)
            }
            None => cause,
        };
        if journal.now(Label::hold("identity_unknown"), &cause) {
            log::warn!("hold: {cause}");
        }
        clock::pause(clock::jittered(pause)).await;
        pause = (pause * 2).min(config.bootstrap_wait);
    }
}
