//! What must be had before the first look: etcd, our own files, our identity.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::services::Services;
use crate::aws::imds::Imds;
use crate::config::Config;
use crate::core::label::Label;
use crate::core::owner::is_this_machine;
use crate::core::view::DataDir;
use crate::discovery;
use crate::discovery::addresses;
use crate::etcd::command::Release;
use crate::etcd::data_dir::{self, MUSTER_DIR};
use crate::peer::server::AcceptorState;
use crate::process::reaper::Reaper;
use crate::process::spawn::Output;
use crate::state::store::{self, Identity, Store};
use crate::status::recorder::StatusRecorder;
use crate::status::server::{Place, SOCKET, serve};
use crate::util::backoff::Backoff;
use crate::util::clock;
use crate::util::exit::{Code, Failure, Trouble};
use crate::util::file;
use crate::util::machine;

/// The first pause before the metadata service is asked again; it doubles up to `BOOTSTRAP_WAIT`.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between two tries of what may pass.
const TRY_PAUSE: Duration = Duration::from_secs(1);
/// With data and a known identity, a mute metadata service is waited for no longer than this.
const IDENTITY_PATIENCE: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Debug)]
pub struct Startup {
    pub identity: Identity,
    pub program: PathBuf,
    /// `etcd --version`, under way: it takes longer than all else here, and only etcd's start needs it.
    pub version: Output,
    pub acceptor_state: AcceptorState,
    pub services: Services,
}

/// Finds everything, waiting for the metadata service as long as it takes.
///
/// # Errors
/// A missing etcd, a data directory or a state file that can't be used.
pub async fn look_around(config: &Config, reaper: &Reaper, journal: &StatusRecorder) -> Result<Startup, Failure> {
    let program = wait_out(journal, async || find_etcd(config)).await?;
    let mut store = wait_out(journal, async || open_store(config, journal).await).await?;
    serve(journal, Place::Socket(config.data.join(MUSTER_DIR).join(SOCKET)));
    if let Some(listen) = config.status_listen {
        serve(journal, Place::Address(listen));
    }
    let imds = discovery::metadata_service(config);
    journal.counts_in(imds.meters());
    let ask = || Output::of(&program, "--version", reaper).map_err(|cause| Trouble::of_program(&program, &cause));
    let version = wait_out(journal, async || ask()).await?;
    let identity = find_identity(config, &imds, &store, journal).await;
    let place = identity.region.as_ref().map_or_else(String::new, |region| format!(" in {region}"));
    log::info!("this is {} at {}{place}", identity.instance, identity.address);
    journal.this_is(&identity.instance, &identity.address.to_string(), identity.region.as_deref());
    let paths = addresses::settings(config, &identity).paths;
    let data = wait_out(journal, async || paths.inspect().map_err(Trouble::from)).await?;
    wait_out(journal, async || store.bind(&identity, data != DataDir::Fresh).map_err(Trouble::from)).await?;
    if let Err(error) = store.keep_identity(&identity) {
        log::warn!("{error}");
    }
    let acceptor_state = AcceptorState::new(store, addresses::own_listing(config, &identity), data != DataDir::Fresh);
    let services = Services::new(config, imds, identity.region.as_deref());
    Ok(Startup { identity, program, version, acceptor_state, services })
}

/// Tries until it succeeds, or fails over what only an operator mends. What passes is said once.
async fn wait_out<T>(
    journal: &StatusRecorder,
    mut attempt: impl AsyncFnMut() -> Result<T, Trouble>,
) -> Result<T, Failure> {
    loop {
        match attempt().await {
            Ok(had) => return Ok(had),
            Err(Trouble { failure, may_pass: true }) => hold(journal, &failure.message()),
            Err(Trouble { failure, .. }) => return Err(failure),
        }
        clock::pause(TRY_PAUSE).await;
    }
}

fn hold(journal: &StatusRecorder, why: &str) {
    if journal.now(Label::hold("files_unusable"), why) {
        log::warn!("hold: {why}");
    }
}

/// Our files. Their disk is waited for, however long it takes.
async fn open_store(config: &Config, journal: &StatusRecorder) -> Result<Store, Trouble> {
    let data = config.data.clone();
    let unusable = |cause| store::Error::Unwritable { path: config.data.clone(), cause };
    let mut opening = file::begin(&config.data, move || Store::open(&data)).map_err(unusable)?;
    loop {
        match tokio::time::timeout(file::PATIENCE, &mut opening).await {
            Ok(Ok(opened)) => return Ok(opened?),
            Ok(Err(_)) => return Err(unusable(io::Error::other("whoever opened it panicked")).into()),
            Err(_) => hold(journal, &unusable(file::mute()).to_string()),
        }
    }
}

impl From<store::Error> for Trouble {
    fn from(error: store::Error) -> Self {
        let code = match error {
            store::Error::Unreadable { .. } | store::Error::Damaged { .. } => Code::StateUnreadable,
            _ => Code::DataDirUnwritable,
        };
        Self { may_pass: error.may_pass(), failure: Failure::new(code, error) }
    }
}

impl From<data_dir::Error> for Trouble {
    fn from(error: data_dir::Error) -> Self {
        Self { may_pass: error.may_pass(), failure: Failure::new(Code::DataDirUnwritable, error) }
    }
}

/// `ED_HOME/bin/etcd`, else on PATH.
fn find_etcd(config: &Config) -> Result<PathBuf, Trouble> {
    let home = config.home.join("bin/etcd");
    let on_path = config.search_path.split(':').filter(|dir| !dir.is_empty()).map(|dir| Path::new(dir).join("etcd"));
    let mut seen_but_unfit = None;
    for program in std::iter::once(home.clone()).chain(on_path) {
        match std::fs::metadata(&program) {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => return Ok(program),
            Ok(_) => seen_but_unfit = seen_but_unfit.or(Some(program)),
            Err(cause) if file::may_pass(&cause) => return Err(Trouble::of_program(&program, &cause)),
            Err(_) => {}
        }
    }
    let message = match seen_but_unfit {
        Some(program) => format!("{} is not executable; chmod +x it", program.display()),
        None => format!("{} doesn't exist, nor an etcd on PATH; put one there or set ED_HOME", home.display()),
    };
    Err(Trouble { failure: Failure::new(Code::EtcdMissing, message), may_pass: false })
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
async fn find_identity(config: &Config, imds: &Imds, store: &Store, journal: &StatusRecorder) -> Identity {
    let kept = store.identity().unwrap_or_else(|error| {
        log::warn!("{error}");
        None
    });
    // Who we were by another kind of roster is nothing that this one could find us by.
    let kept = kept.filter(|kept| kept.region.is_none() == config.written.is_some());
    // A disk says who it was with, not where it is now.
    let (kept, elsewhere) = match kept {
        Some(kept) if is_this_machine(&machine::asset_tag(), &kept.instance, || machine::is_local(kept.address)) => {
            (Some(kept), None)
        }
        kept => (None, kept),
    };
    let mut backoff = Backoff::new(FIRST_PAUSE, config.bootstrap_wait);
    loop {
        let fetched = discovery::fetch_identity(config, imds);
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
        clock::pause(backoff.jittered()).await;
    }
}
