//! What is needed before the first observation: etcd, our own files, our identity.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::services::Services;
use crate::aws::imds::Imds;
use crate::config::{self, Config};
use crate::core::label::Label;
use crate::core::owner::is_this_machine;
use crate::core::view::DataDir;
use crate::discovery;
use crate::discovery::addresses;
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

/// The first pause before the metadata service is called again; it doubles up to `BOOTSTRAP_WAIT`.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between two attempts after a temporary failure.
const TRY_PAUSE: Duration = Duration::from_secs(1);
/// With data and a known identity, an unresponsive metadata service is waited for no longer than this.
const IDENTITY_PATIENCE: Duration = Duration::from_secs(5);

/// The results.
#[derive(Debug)]
pub struct Startup {
    pub identity: Identity,
    pub program: PathBuf,
    /// `etcd --version`, in progress: it takes longer than everything else here, and only etcd's start needs it.
    pub version: Output,
    pub acceptor_state: AcceptorState,
    pub services: Services,
}

/// Prepares everything, waiting for the metadata service as long as it takes.
///
/// # Errors
/// A missing etcd, or a data directory or state file that can't be used.
pub async fn start(config: &Config, reaper: &Reaper, recorder: &StatusRecorder) -> Result<Startup, Failure> {
    let program = wait_out(recorder, async || find_etcd(&config.etcd)).await?;
    let mut store = wait_out(recorder, async || open_store(&config.etcd.data, recorder).await).await?;
    // Beside an old fleet it is the new one's size, and that the cluster has more members is no news.
    recorder.set_wanted(config.bootstrap.cluster_size.filter(|_| config.bootstrap.join.is_empty()));
    serve(recorder, Place::Socket(config.etcd.data.join(MUSTER_DIR).join(SOCKET)));
    if let Some(listen) = config.status_listen {
        serve(recorder, Place::Address(listen));
    }
    let imds = discovery::metadata_service(&config.aws);
    recorder.set_meters(imds.meters());
    let ask = || Output::of(&program, "--version", reaper).map_err(|cause| Trouble::of_program(&program, &cause));
    let version = wait_out(recorder, async || ask()).await?;
    let identity = find_identity(config, &imds, &store, recorder).await;
    let place = identity.region.as_ref().map_or_else(String::new, |region| format!(" in {region}"));
    log::info!("this is {} at {}{place}", identity.instance, identity.address);
    recorder.set_identity(&identity.instance, &identity.address.to_string(), identity.region.as_deref());
    let paths = addresses::settings(&config.etcd, &identity).paths;
    let data = wait_out(recorder, async || paths.inspect().map_err(Trouble::from)).await?;
    wait_out(recorder, async || store.bind(&identity, data != DataDir::Fresh).map_err(Trouble::from)).await?;
    if let Err(error) = store.keep_identity(&identity) {
        log::warn!("{error}");
    }
    let acceptor_state =
        AcceptorState::new(store, addresses::own_listing(&config.etcd, &identity), data != DataDir::Fresh);
    let services = Services::new(config, imds, &identity)?;
    Ok(Startup { identity, program, version, acceptor_state, services })
}

/// Retries until it succeeds, or fails for a reason that only an operator can fix. A temporary failure is logged once.
async fn wait_out<T>(
    recorder: &StatusRecorder,
    mut attempt: impl AsyncFnMut() -> Result<T, Trouble>,
) -> Result<T, Failure> {
    loop {
        match attempt().await {
            Ok(had) => return Ok(had),
            Err(Trouble { failure, may_pass: true }) => hold(recorder, &failure.message()),
            Err(Trouble { failure, .. }) => return Err(failure),
        }
        clock::pause(TRY_PAUSE).await;
    }
}

fn hold(recorder: &StatusRecorder, why: &str) {
    if recorder.set_step(Label::hold("files_unusable"), why) {
        log::warn!("hold: {why}");
    }
}

/// Opens our own files. Waits for their disk, however long it takes.
async fn open_store(data: &Path, recorder: &StatusRecorder) -> Result<Store, Trouble> {
    let unusable = |cause| store::Error::Unwritable { path: data.to_owned(), cause };
    let opened = data.to_owned();
    let mut opening = file::begin(data, move || Store::open(&opened)).map_err(unusable)?;
    loop {
        match tokio::time::timeout(file::PATIENCE, &mut opening).await {
            Ok(Ok(opened)) => return Ok(opened?),
            Ok(Err(_)) => return Err(unusable(io::Error::other("the thread that opened it panicked")).into()),
            Err(_) => hold(recorder, &unusable(file::mute(file::PATIENCE)).to_string()),
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

/// `ED_HOME/bin/etcd`, otherwise from PATH.
///
/// # Errors
/// There is none that can be run.
pub fn find_etcd(config: &config::Etcd) -> Result<PathBuf, Trouble> {
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
        None => format!(
            "{} does not exist, and PATH has no etcd either; install etcd there, or set ED_HOME",
            home.display()
        ),
    };
    Err(Trouble { failure: Failure::new(Code::EtcdMissing, message), may_pass: false })
}

/// Our identity: from the metadata service or the static host list; failing that, from the last start.
async fn find_identity(config: &Config, imds: &Imds, store: &Store, recorder: &StatusRecorder) -> Identity {
    let kept = store.identity().unwrap_or_else(|error| {
        log::warn!("{error}");
        None
    });
    // An identity from another kind of roster is useless for this one.
    let kept = kept.filter(|kept| kept.region.is_none() == config.instances.written().is_some());
    // A disk shows which machine it belonged to, not where it is now.
    let (kept, elsewhere) = match kept {
        Some(kept) if is_this_machine(&machine::asset_tag(), &kept.instance, || machine::is_local(kept.address)) => {
            (Some(kept), None)
        }
        kept => (None, kept),
    };
    let mut backoff = Backoff::new(FIRST_PAUSE, config.observation.longest_pause);
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
            log::warn!("{cause}; continuing as {}, the identity of the last start", kept.instance);
            return kept;
        }
        let cause = match &elsewhere {
            Some(kept) => {
                format!("{cause}; the disk belonged to {}, and nothing shows that this is that instance", kept.instance)
            }
            None => cause,
        };
        if recorder.set_step(Label::hold("identity_unknown"), &cause) {
            log::warn!("hold: {cause}");
        }
        clock::pause(backoff.jittered()).await;
    }
}
