//! The command line.

mod discover;
mod env;
mod health;
mod members;
mod plan;
mod table;

use argh::FromArgs;

use crate::cloud::{self, Cloud};
use crate::config::{self, Config};
use crate::exit::{Code, Failure};
use crate::ledger::Identity;
use crate::process::signals;
use crate::{daemon, logger};

/// EC2 instances that carry a tag become one etcd cluster, and stay one. Settings are environment variables: `etcd-muster
/// env` lists them.
#[derive(FromArgs)]
struct Arguments {
    /// a setting, over the environment's: NAME=VALUE (may be repeated)
    #[argh(option, short = 's', arg_name = "NAME=VALUE")]
    set: Vec<String>,
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
    Health(health::Health),
    Env(env::Env),
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
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let arguments = match Arguments::from_args(&["etcd-muster"], words.get(1..).unwrap_or_default()) {
        Ok(arguments) => arguments,
        Err(early) if early.status.is_ok() => {
            println!("{}", early.output);
            return Ok(0);
        }
        Err(early) => return Err(Failure::new(Code::Usage, early.output.trim_end())),
    };
    if arguments.version {
        println!("etcd-muster {}", env!("CARGO_PKG_VERSION"));
        return Ok(0);
    }
    let Some(command) = arguments.command else {
        return Err(Failure::new(Code::Usage, "no command: run, plan, discover, members, health or env (see --help)"));
    };
    let mut overrides = Vec::new();
    for setting in &arguments.set {
        let pair = setting.split_once('=').filter(|(name, _)| !name.is_empty());
        let pair = pair.ok_or_else(|| Failure::new(Code::Usage, format!("--set {setting}: write NAME=VALUE")))?;
        overrides.push((pair.0.to_owned(), pair.1.to_owned()));
    }
    let environment = config::environment(&overrides);
    if let Command::Env(env) = &command {
        return Ok(env.run(&environment));
    }
    let config = config::read(&environment).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Failure::new(Code::Config, lines.join("\n"))
    })?;
    logger::start(config.log_level);
    // Before the runtime: nothing may start a thread ahead of this.
    let signals = match command {
        Command::Run(_) => Some(signals::block().map_err(|e| Failure::new(Code::System, e))?),
        _ => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new(Code::System, e))?;
    runtime.block_on(async {
        match (command, signals) {
            (Command::Run(_), Some(signals)) => daemon::run(config, signals).await,
            (Command::Plan(plan), _) => plan.run(config).await,
            (Command::Discover(discover), _) => discover.run(&config).await,
            (Command::Members(members), _) => members.run(&config).await,
            (Command::Health(health), _) => health.run(&config).await,
            (Command::Env(_) | Command::Run(_), _) => Ok(0),
        }
    })
}

/// Who we are and the cloud we are in, for a command that needs both.
async fn find_cloud(config: &Config) -> Result<(Identity, Cloud), Failure> {
    let imds = cloud::metadata_service(config);
    let identity = cloud::fetch_identity(config, &imds).await?;
    let cloud = Cloud::new(config, imds, Some(&identity.region));
    Ok((identity, cloud))
}
