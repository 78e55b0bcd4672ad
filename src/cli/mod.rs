//! The command line.

mod adopt;
mod adoption;
mod decisions;
mod discover;
mod env;
mod etcdctl_env;
mod health;
mod leave;
mod members;
mod plan;
mod recover;
mod restore;
mod set_aside;
mod snapshot;
mod status;
mod terminal;
mod upgrade;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use argh::FromArgs;
use aws_lc_rs::digest::{SHA256, digest};

use crate::aws::imds::Imds;
use crate::config::{self, Config, Etcd};
use crate::core::seed::BUMP;
use crate::daemon;
use crate::discovery;
use crate::discovery::addresses;
use crate::etcd::client::Client;
use crate::peer::clients::PeerClients;
use crate::process::signals;
use crate::state::store::{Identity, Store};
use crate::util::exit::{Code, Failure};
use crate::util::logger;
use crate::util::logger::Format;
use crate::util::words::hex;

/// Forms one etcd cluster from the EC2 instances that carry a tag, and maintains its membership. Settings are environment
/// variables; every MUSTER_… variable also has a flag (MUSTER_CLUSTER_SIZE: --cluster-size 3). `etcd-muster env` lists them.
#[derive(FromArgs)]
struct Arguments {
    /// print the version
    #[argh(switch)]
    version: bool,
    #[argh(subcommand)]
    command: Option<Command>,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Run(Run),
    Plan(plan::Plan),
    Discover(discover::Discover),
    Members(members::Members),
    Status(status::Status),
    Decisions(decisions::Decisions),
    Health(health::Health),
    Upgrade(upgrade::Upgrade),
    Adopt(adopt::Adopt),
    Leave(leave::Leave),
    Snapshot(snapshot::Snapshot),
    Restore(restore::Restore),
    Recover(recover::Recover),
    SetAside(set_aside::SetAside),
    Env(env::Env),
    EtcdctlEnv(etcdctl_env::EtcdctlEnv),
}

/// Supervise etcd on this instance: bootstrap or join the cluster of the tagged instances.
#[derive(FromArgs)]
#[argh(subcommand, name = "run")]
struct Run {}

/// Parses the command line and runs the command.
///
/// # Errors
/// Wrong usage, a wrong setting, or the command's own failure, each with its exit code.
pub fn main() -> Result<i32, Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (words, flags) = take_settings(&words)?;
    let arguments = match Arguments::from_args(&["etcd-muster"], &words) {
        Ok(arguments) => arguments,
        Err(early) if early.status.is_ok() => {
            terminal::lines(&early.output);
            return Ok(0);
        }
        Err(early) => return Err(Failure::of_lines(Code::Usage, early.output.trim_end().lines().map(without_value))),
    };
    if arguments.version {
        terminal::line(format_args!("etcd-muster {}", env!("CARGO_PKG_VERSION")));
        return Ok(0);
    }
    let Some(command) = arguments.command else {
        return Err(Failure::new(
            Code::Usage,
            "no command: run, plan, discover, members, status, decisions, health, upgrade, adopt, leave, snapshot, restore, recover, set-aside, env or etcdctl-env (see --help)",
        ));
    };
    if !matches!(command, Command::Run(_)) {
        signals::end_by_closed_pipe().map_err(|e| Failure::new(Code::System, e))?;
    }
    let environment = config::environment(&flags);
    if let Command::Env(env) = &command {
        return Ok(env.run(&environment));
    }
    if let Command::Run(_) = &command {
        logger::write_as(config::log_format(&environment));
    }
    let config = config::read(&environment)
        .map_err(|problems| Failure::of_lines(Code::Config, problems.iter().map(ToString::to_string)))?;
    // The other commands' output is for a person at a terminal.
    let is_run = matches!(command, Command::Run(_));
    logger::start(config.log.level, if is_run { config.log.format } else { Format::Text });
    // Before the runtime: signals must be blocked before any thread starts.
    let signals = match command {
        Command::Run(_) => {
            let blocked = signals::block().map_err(|e| Failure::new(Code::System, e))?;
            logger::detach().map_err(|e| Failure::new(Code::System, e))?;
            Some(blocked)
        }
        _ => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new(Code::System, e))?;
    let outcome = runtime.block_on(work(command, config, environment, signals));
    // Dropping it would wait for name lookups that are still running.
    runtime.shutdown_background();
    outcome
}

/// Boxed, and out of `main`'s frame: the supervisor uses this stack for months, and would otherwise hold there the space that the
/// largest command needs.
#[inline(never)]
fn work(
    command: Command,
    config: Config,
    environment: BTreeMap<String, String>,
    signals: Option<signals::Blocked>,
) -> Pin<Box<dyn Future<Output = Result<i32, Failure>>>> {
    match (command, signals) {
        (Command::Run(_), Some(signals)) => Box::pin(daemon::run(config, signals)),
        (Command::Plan(plan), _) => Box::pin(async move { plan.run(config).await }),
        (Command::Discover(discover), _) => Box::pin(async move { discover.run(&config).await }),
        (Command::Members(members), _) => Box::pin(async move { members.run(&config).await }),
        (Command::Status(status), _) => Box::pin(async move { status.run(&config.etcd).await }),
        (Command::Decisions(decisions), _) => Box::pin(async move { decisions.run(&config.etcd).await }),
        (Command::Health(health), _) => Box::pin(async move { health.run(&config.etcd).await }),
        (Command::Upgrade(upgrade), _) => Box::pin(async move { upgrade.run(&config).await }),
        (Command::Adopt(adopt), _) => Box::pin(async move { adopt.run(&config, &environment).await }),
        (Command::Leave(leave), _) => Box::pin(async move { leave.run(&config).await }),
        (Command::Snapshot(snapshot), _) => Box::pin(async move { snapshot.run(&config).await }),
        (Command::Restore(restore), _) => Box::pin(async move { restore.run(config).await }),
        (Command::Recover(recover), _) => Box::pin(async move { recover.run(config).await }),
        (Command::SetAside(aside), _) => Box::pin(async move { aside.run(config).await }),
        (Command::EtcdctlEnv(exports), _) => Box::pin(async move { Ok(exports.run(&config.etcd)) }),
        (Command::Env(_) | Command::Run(_), _) => Box::pin(async { Ok(0) }),
    }
}

/// argh quotes the argument that it doesn't know, so the value of `--etcd-password=…` must be cut off.
fn without_value(line: &str) -> String {
    match line.split_once(": --").and_then(|(_, flag)| flag.split_once('=')) {
        Some((_, value)) => format!("{}…", line.strip_suffix(value).unwrap_or_default()),
        None => line.to_owned(),
    }
}

type Settings = Vec<(String, String)>;

/// Separates the flags that stand for `MUSTER_` variables from the other arguments.
fn take_settings(words: &[String]) -> Result<(Vec<&str>, Settings), Failure> {
    let (mut rest, mut settings) = (Vec::new(), Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (flag, value) = word.split_once('=').map_or((word.as_str(), None), |(flag, value)| (flag, Some(value)));
        let Some(variable) = config::named_by(flag) else {
            rest.push(word.as_str());
            continue;
        };
        let value = value.or_else(|| words.next().map(String::as_str));
        let value = value.ok_or_else(|| Failure::new(Code::Usage, format!("{flag} needs a value: {flag} VALUE")))?;
        settings.push((variable.to_owned(), value.to_owned()));
    }
    Ok((rest, settings))
}

/// This instance's identity, and the metadata service that gave it.
async fn find_self(config: &Config) -> Result<(Identity, Imds), Failure> {
    let imds = discovery::metadata_service(&config.aws);
    let identity = discovery::fetch_identity(config, &imds).await?;
    Ok((identity, imds))
}

/// How long a command watches what it ordered. It goes on whoever watches.
const FOLLOW: Duration = Duration::from_secs(3600);
/// Hex digits of a plan's id.
const PLAN_DIGITS: usize = 12;

/// The id of a plan that is about this.
fn plan_id(about: &serde_json::Value) -> String {
    let mut id = hex(digest(&SHA256, about.to_string().as_bytes()).as_ref());
    id.truncate(PLAN_DIGITS);
    id
}

/// By how much revisions are raised.
const fn bump(is_unwanted: bool) -> u64 {
    if is_unwanted { 0 } else { BUMP }
}

fn unfit(why: String) -> Failure {
    Failure::new(Code::Unhealthy, why)
}

fn unfinished() -> Failure {
    unfit(format!(
        "it is not over after {} min; it goes on by itself: see etcd-muster status, and plan",
        FOLLOW.as_secs() / 60
    ))
}

/// The client URL of this node's etcd, and a client for it. Reads the identity that `run` stored beside the data, so that no AWS
/// call is needed.
fn own_etcd(config: &Etcd) -> (String, Client) {
    let own = Store::peek_identity(&config.data).ok().flatten();
    let settings = own.as_ref().map(|own| addresses::settings(config, own));
    let url = settings.as_ref().map_or_else(|| addresses::client_url(config, "127.0.0.1"), addresses::own_client_url);
    (url, PeerClients::new(config, own.as_ref()).etcd)
}

/// The peer URL of this node's etcd.
fn own_peer_url(config: &Etcd) -> String {
    let own = Store::peek_identity(&config.data).ok().flatten();
    let settings = own.as_ref().map(|own| addresses::settings(config, own));
    settings.as_ref().map_or_else(|| addresses::peer_url(config, "127.0.0.1"), addresses::own_peer_url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VARIABLES;

    #[test]
    fn an_unknown_flag_is_named_without_its_value() {
        for words in [["--etcd-password=hunter2"].as_slice(), &["run", "--etcd-password=hunter2"]] {
            let early = Arguments::from_args(&["etcd-muster"], words).err().unwrap();
            let shown: Vec<String> = early.output.lines().map(without_value).collect();
            assert!(shown[0].ends_with("--etcd-password=…"), "{shown:?}");
            assert!(!shown.concat().contains("hunter2"), "{shown:?}");
        }
    }

    #[test]
    fn every_muster_variable_has_a_flag() {
        let words = ["--cluster-size", "3", "run", "--remove=off", "--json"].map(str::to_owned);
        let (rest, settings) = take_settings(&words).unwrap();
        assert_eq!(rest, ["run", "--json"]);
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(settings, [setting("MUSTER_CLUSTER_SIZE", "3"), setting("MUSTER_REMOVE", "off")]);
        // By its former name, too.
        let (_, settings) = take_settings(&["--clean".to_owned(), "off".to_owned()]).unwrap();
        assert_eq!(settings, [setting("MUSTER_CLEAN", "off")]);
        assert!(take_settings(&["--cluster-size".to_owned()]).is_err());
        for variable in VARIABLES.iter().filter(|v| v.name.starts_with("MUSTER_")) {
            assert!(variable.flag().is_some(), "{}", variable.name);
        }
    }
}
