//! The command line.

mod discover;
mod env;
mod etcdctl_env;
mod health;
mod members;
mod plan;
mod status;
mod terminal;

use std::pin::Pin;

use argh::FromArgs;

use crate::aws::imds::Imds;
use crate::config::{self, Config, VARIABLES};
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

/// EC2 instances that carry a tag become one etcd cluster, and stay one. Settings are environment variables; each
/// MUSTER_… has a flag too (MUSTER_CLUSTER_SIZE: --cluster-size 3). `etcd-muster env` lists them.
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
    Health(health::Health),
    Env(env::Env),
    EtcdctlEnv(etcdctl_env::EtcdctlEnv),
}

/// Supervise etcd on this instance: found or join the cluster of the tagged instances.
#[derive(FromArgs)]
#[argh(subcommand, name = "run")]
struct Run {}

/// Reads the command line, and does what it says.
///
/// # Errors
/// What the command can't do, with its exit code.
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
            "no command: run, plan, discover, members, status, health, env or etcdctl-env (see --help)",
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
    // The other commands speak to whoever typed them.
    let is_run = matches!(command, Command::Run(_));
    logger::start(config.log_level, if is_run { config.log_format } else { Format::Text });
    // Before the runtime: nothing may start a thread ahead of this.
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
    let outcome = runtime.block_on(work(command, config, signals));
    // Dropped, it would wait for whoever still looks up a name.
    runtime.shutdown_background();
    outcome
}

/// On the heap, and out of `main`'s frame: a supervisor lives on this stack for months, and would hold there what the largest
/// of the commands might need.
#[inline(never)]
fn work(
    command: Command,
    config: Config,
    signals: Option<signals::Blocked>,
) -> Pin<Box<dyn Future<Output = Result<i32, Failure>>>> {
    match (command, signals) {
        (Command::Run(_), Some(signals)) => Box::pin(daemon::run(config, signals)),
        (Command::Plan(plan), _) => Box::pin(async move { plan.run(config).await }),
        (Command::Discover(discover), _) => Box::pin(async move { discover.run(&config).await }),
        (Command::Members(members), _) => Box::pin(async move { members.run(&config).await }),
        (Command::Status(status), _) => Box::pin(async move { status.run(&config).await }),
        (Command::Health(health), _) => Box::pin(async move { health.run(&config).await }),
        (Command::EtcdctlEnv(exports), _) => Box::pin(async move { Ok(exports.run(&config)) }),
        (Command::Env(_) | Command::Run(_), _) => Box::pin(async { Ok(0) }),
    }
}

/// argh quotes the word that it doesn't know: `--etcd-password=…` must not be shown whole.
fn without_value(line: &str) -> String {
    match line.split_once(": --").and_then(|(_, flag)| flag.split_once('=')) {
        Some((_, value)) => format!("{}…", line.strip_suffix(value).unwrap_or_default()),
        None => line.to_owned(),
    }
}

type Settings = Vec<(String, String)>;

/// Parts the flags that stand for `MUSTER_` variables from the other words.
fn take_settings(words: &[String]) -> Result<(Vec<&str>, Settings), Failure> {
    let (mut rest, mut settings) = (Vec::new(), Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (flag, value) = word.split_once('=').map_or((word.as_str(), None), |(flag, value)| (flag, Some(value)));
        let Some(variable) = VARIABLES.iter().find(|v| v.flag().as_deref() == Some(flag)) else {
            rest.push(word.as_str());
            continue;
        };
        let value = value.or_else(|| words.next().map(String::as_str));
        let value = value.ok_or_else(|| Failure::new(Code::Usage, format!("{flag} wants a value: {flag} VALUE")))?;
        settings.push((variable.name.to_owned(), value.to_owned()));
    }
    Ok((rest, settings))
}

/// Who we are, and the metadata service that said so.
async fn find_self(config: &Config) -> Result<(Identity, Imds), Failure> {
    let imds = discovery::metadata_service(config);
    let identity = discovery::fetch_identity(config, &imds).await?;
    Ok((identity, imds))
}

/// Where this node's etcd serves clients, and a client of it: by what `run` left beside the data, so that no call to AWS is
/// needed.
fn own_etcd(config: &Config) -> (String, Client) {
    let own = Store::peek_identity(&config.data).ok().flatten();
    let settings = own.as_ref().map(|own| addresses::settings(config, own));
    let url = settings.as_ref().map_or_else(|| addresses::client_url(config, "127.0.0.1"), addresses::own_client_url);
    (url, PeerClients::new(config, own.as_ref()).etcd)
}

/// Where this node's etcd serves its peers.
fn own_peer_url(config: &Config) -> String {
    let own = Store::peek_identity(&config.data).ok().flatten();
    let settings = own.as_ref().map(|own| addresses::settings(config, own));
    settings.as_ref().map_or_else(|| addresses::peer_url(config, "127.0.0.1"), addresses::own_peer_url)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let words = ["--cluster-size", "3", "run", "--clean=off", "--json"].map(str::to_owned);
        let (rest, settings) = take_settings(&words).unwrap();
        assert_eq!(rest, ["run", "--json"]);
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(settings, [setting("MUSTER_CLUSTER_SIZE", "3"), setting("MUSTER_CLEAN", "off")]);
        assert!(take_settings(&["--cluster-size".to_owned()]).is_err());
        for variable in VARIABLES.iter().filter(|v| v.name.starts_with("MUSTER_")) {
            assert!(variable.flag().is_some(), "{}", variable.name);
        }
    }
}
