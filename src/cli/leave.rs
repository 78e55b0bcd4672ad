//! `leave`: this node's member leaves the cluster, if the others keep their quorum, and stays out. The request is a file beside the
//! supervisor's ledger, so that it outlives both; the supervisor carries it out.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use argh::FromArgs;

use super::status::ask_supervisor;
use super::{own_etcd, terminal};
use crate::config::{Config, Etcd};
use crate::core::departure::{Leave as Way, Seen, leave};
use crate::daemon::departure::Looking;
use crate::discovery::addresses;
use crate::state::store::leave_request;
use crate::status::snapshot::Snapshot;
use crate::util::clock;
use crate::util::durable::{self, Readers};
use crate::util::exit::{Code, Failure};

/// The supervisor looks every 5 s; etcd may take as long for a change of members and of its leader.
const CARRIED_OUT_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(500);

/// Take this node's member out of the cluster, for good, if the others keep their quorum; otherwise exit with 1, and say why. The node
/// stays out, over restarts, until --cancel; then it joins again as a new member, if the cluster has room. Set MUSTER_CLUSTER_SIZE
/// on every node first, so that no spare takes its place.
#[derive(FromArgs)]
#[argh(subcommand, name = "leave")]
pub(super) struct Leave {
    /// let this node be a member again
    #[argh(switch)]
    cancel: bool,
}

impl Leave {
    pub(super) async fn run(&self, config: &Config) -> Result<i32, Failure> {
        let etcd = &config.etcd;
        let now = ask_supervisor(etcd).await.map_err(|cause| Failure::new(Code::Unavailable, cause))?;
        let path = leave_request(&etcd.data);
        if self.cancel {
            return cancel(&path);
        }
        if has_left(&now) {
            terminal::line("this node is no member already; etcd-muster leave --cancel lets it join again");
            return Ok(0);
        }
        let runs = now.etcd.pid.is_some();
        if runs {
            may_leave(etcd).await?;
        }
        let written = durable::replace(&path, b"", Readers::ByUmask);
        written.map_err(|cause| Failure::new(Code::DataDirUnwritable, format!("{}: {cause}", path.display())))?;
        if !runs {
            terminal::line(
                "no etcd runs here now: this node will not join, and if it is a member, it leaves once its etcd runs",
            );
            return Ok(0);
        }
        let began = clock::now();
        loop {
            clock::pause(POLL).await;
            let latest = ask_supervisor(etcd).await;
            if let Some(left) = latest.as_ref().ok().filter(|latest| has_left(latest)) {
                terminal::line(&left.reason);
                return Ok(0);
            }
            if clock::now() - began > CARRIED_OUT_WITHIN {
                let why = latest.map_or_else(|cause| cause, |latest| latest.reason);
                let message = format!(
                    "it has not left within {} s ({why}); the request stands, and it leaves as soon as it may; to take it \
                     back: etcd-muster leave --cancel",
                    CARRIED_OUT_WITHIN.as_secs()
                );
                return Err(Failure::new(Code::Unavailable, message));
            }
        }
    }
}

/// Its supervisor holds for that: it has left, or would not join.
fn has_left(now: &Snapshot) -> bool {
    now.step == "hold" && ["left", "ending"].contains(&now.kind.as_str())
}

fn cancel(path: &Path) -> Result<i32, Failure> {
    match fs::remove_file(path) {
        Ok(()) => {
            terminal::line("the request is taken back: this node joins again within seconds, if the cluster has room")
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => terminal::line("nothing asks this node to leave"),
        Err(cause) => {
            return Err(Failure::new(Code::DataDirUnwritable, format!("{}: {cause}", path.display())));
        }
    }
    Ok(0)
}

/// By the rule that the supervisor itself goes by: refused before anything is asked for.
async fn may_leave(config: &Etcd) -> Result<(), Failure> {
    let (url, etcd) = own_etcd(config);
    let paths = addresses::paths(config);
    let looking = Looking { etcd: &etcd, paths: &paths, own_client_url: &url, others: &[] };
    let refused = |why: String| Failure::new(Code::Unhealthy, format!("this member must not leave now: {why}"));
    let (seen, _) = looking.observe().await.map_err(refused)?;
    match leave(&seen) {
        Way::StayReason(why) => Err(refused(why.to_string())),
        Way::HandOver(_) | Way::Remove { .. } | Way::Out => {
            let Seen { members, me, .. } = seen;
            let left = members.iter().filter(|member| member.id != me).count();
            terminal::line(format_args!("member {me} leaves; {left} stay"));
            Ok(())
        }
    }
}
