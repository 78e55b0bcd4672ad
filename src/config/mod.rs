//! The settings: the only reader of the environment. All problems are reported together.

pub mod hosts;

mod aws;
mod etcd;
mod instances;
mod reader;
mod security;
mod snapshots;
#[cfg(test)]
mod tests;
mod variables;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use log::LevelFilter;

use crate::aws::s3::Object;
use crate::core::initial_list;
use crate::core::types::MemberId;
use crate::core::view::{Clean, Policy};
use crate::etcd::settings::{self, Kind};
use crate::util::logger::Format;
pub use aws::{Aws, Endpoints, Store};
use etcd::given;
pub use etcd::{Etcd, MemberType, Port};
pub use instances::Instances;
use reader::Reader;
pub use reader::{Problem, parse_duration};
pub use security::{CaKey, Files, Minting, Origin, Security, shown};
pub use snapshots::{Location, SOURCE_FORMS, Snapshots, Source, Sse, location, source};
pub use variables::{Alias, VARIABLES, Variable, named_by};
use variables::{RETIRED, Resolved};

/// The least severe level that the log shows.
const LOG_LEVELS: [(&str, LevelFilter); 5] = [
    ("info", LevelFilter::Info),
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

const REMOVALS: [(&str, Clean); 3] = [("gone", Clean::Gone), ("unhealthy", Clean::Unhealthy), ("off", Clean::Off)];

const LOG_FORMATS: [(&str, Format); 2] = [("text", Format::Text), ("json", Format::Json)];

/// All of the operator's decisions, parsed; each consumer takes its part.
#[derive(Clone, Debug)]
pub struct Config {
    pub instances: Instances,
    pub aws: Aws,
    pub etcd: Etcd,
    pub bootstrap: Bootstrap,
    pub removal: Removal,
    pub departure: Departure,
    pub observation: Observation,
    pub stop: Stop,
    pub systemd: Systemd,
    /// `MUSTER_STATUS_LISTEN`.
    pub status_listen: Option<SocketAddr>,
    pub log: Log,
    /// `MUSTER_ADOPT`: the operator confirms that this host may run as that member, whose data it has.
    pub adopt: Option<MemberId>,
    pub upgrade: Upgrade,
    pub snapshots: Snapshots,
    /// Warnings to log once at the start: variables without effect, settings that endanger data.
    pub warnings: Vec<String>,
}

/// What a newer release of etcd may do here.
#[derive(Clone, Copy, Debug)]
pub struct Upgrade {
    /// `ETCD_MAX_LEARNERS`: etcd's own setting, which it judges itself; its default is 1.
    pub max_learners: usize,
    /// `MUSTER_JOIN_NEWER`: the operator confirms that the cluster's log has no record that a newer release can't apply.
    pub join_newer: bool,
}

/// How a cluster is bootstrapped.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// `MUSTER_CLUSTER_SIZE`; `None`: the number of instances.
    pub cluster_size: Option<usize>,
    /// `MUSTER_MIN_NODES`.
    pub min_nodes: usize,
    /// `ETCD_INITIAL_CLUSTER_TOKEN`: the prefix of our lists' tokens.
    pub token_prefix: String,
    /// `MUSTER_BOOTSTRAP_GRACE`: how long to wait for an absent instance.
    pub grace: Duration,
    /// `MUSTER_BOOTSTRAP_WINDOW`: the greatest age of a fleet that may bootstrap without absent instances.
    pub window: Duration,
    /// `MUSTER_BOOTSTRAP_WITHOUT_ABSENT`: the operator confirms that the absent instances have no cluster.
    pub without_absent: bool,
    /// `MUSTER_BOOTSTRAP_ALONE`: the operator confirms that the other of two instances has no cluster.
    pub alone: bool,
    /// `MUSTER_CLAIM`: the object itself.
    pub claim: Option<Object>,
    /// `MUSTER_JOIN`: client URLs of a cluster outside the roster, which is joined instead.
    pub join: Vec<String>,
}

/// Which members may be removed, and when.
#[derive(Clone, Copy, Debug)]
pub struct Removal {
    /// `MUSTER_REMOVE`.
    pub which: Clean,
    /// `MUSTER_REMOVE_AFTER`: how long a member must not have answered.
    pub after: Duration,
    /// `MUSTER_REMOVE_INTERVAL`: how often the leader's supervisor checks for dead members; `None`: never.
    pub interval: Option<Duration>,
}

/// What happens to the member when EC2 terminates this instance, and which hooks wait for that.
#[derive(Clone, Debug)]
pub struct Departure {
    /// `MUSTER_LEAVE`.
    pub leave: Leave,
    /// `MUSTER_LIFECYCLE_HOOK`.
    pub lifecycle_hooks: Vec<String>,
}

/// When the member leaves its cluster by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    Never,
    /// EC2 is about to terminate this instance.
    OnTerminate,
}

/// How often everything is observed, and with which timeouts.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// `BOOTSTRAP_WAIT`: the longest pause between observations while nothing changes.
    pub longest_pause: Duration,
    /// `MUSTER_PROBE_TIMEOUT`.
    pub probe_timeout: Duration,
}

/// How long a stop may take.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// `MUSTER_DRAIN_TIMEOUT`: how long clients may delay the stop of an etcd where nothing can be lost; `timeout` limits this,
    /// too.
    pub drain_timeout: Duration,
    /// `MUSTER_STOP_TIMEOUT`.
    pub timeout: Duration,
}

/// What systemd expects, if it runs us.
#[derive(Clone, Debug)]
pub struct Systemd {
    pub notify_socket: Option<String>,
    /// How long it waits for a heartbeat before it ends us; `None`: it does not.
    pub watchdog: Option<Duration>,
}

/// What the log shows, and in which format.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    pub level: LevelFilter,
    pub format: Format,
}

impl Config {
    /// The settings that the core uses.
    pub fn policy(&self) -> Policy {
        let Bootstrap {
            cluster_size,
            min_nodes,
            ref token_prefix,
            grace,
            window,
            without_absent,
            alone,
            ref claim,
            ref join,
        } = self.bootstrap;
        Policy {
            cluster_size,
            min_nodes,
            found_grace: grace,
            found_window: window,
            found_absent: without_absent,
            found_alone: alone,
            clean: self.removal.which,
            clean_dwell: self.removal.after,
            adopt: self.adopt,
            max_learners: self.upgrade.max_learners,
            join_newer: self.upgrade.join_newer,
            token_prefix: token_prefix.clone(),
            claim: claim.as_ref().map(Object::to_string),
            join: join.clone(),
            seed: self.snapshots.seed.as_ref().map(ToString::to_string),
            snapshots: self.snapshots.places.iter().map(ToString::to_string).collect(),
            filter: self.instances.to_string(),
            written: self.instances.written().is_some(),
        }
    }
}

/// The process's environment, overridden by the command line's settings.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
pub fn environment(overrides: &[(String, String)]) -> BTreeMap<String, String> {
    let env = std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    overridden(env.collect(), overrides)
}

fn overridden(mut env: BTreeMap<String, String>, overrides: &[(String, String)]) -> BTreeMap<String, String> {
    // A flag overrides its variable, whichever of its names is set.
    for spelling in overrides.iter().filter_map(|(name, _)| variables::find(name)).flat_map(Variable::spellings) {
        env.remove(spelling);
    }
    env.extend(overrides.iter().cloned());
    env
}

/// The log's format, even if other settings are wrong: the same pipeline reads the line that reports them.
pub fn log_format(env: &BTreeMap<String, String>) -> Format {
    let asked = variables::LOG_FORMAT.value(env);
    LOG_FORMATS.iter().find(|(word, _)| Some(*word) == asked).map_or(Format::Text, |(_, format)| *format)
}

/// Parses an environment.
///
/// # Errors
/// All problems, not only the first.
pub fn read(env: &BTreeMap<String, String>) -> Result<Config, Vec<Problem>> {
    let mut vars = Resolved::new(env);
    let problems = std::mem::take(&mut vars.problems);
    let mut reader = Reader { given: given(&vars.env), vars, problems };
    let config = reader.config();
    match reader.problems.is_empty() {
        true => Ok(config),
        false => Err(reader.problems),
    }
}

impl Reader {
    fn config(&mut self) -> Config {
        self.refuse_misspelt();
        let instances = self.instances();
        let etcd = self.etcd(&instances);
        let log = self.log();
        let aws = self.aws();
        let snapshots = self.snapshots(aws.endpoints.s3.as_deref());
        let bootstrap = self.bootstrap();
        if aws.imds_endpoint.is_none() && instances.written().is_none() {
            let disabled = variables::AWS_METADATA_DISABLED.name;
            self.refuse_ends(&format!(
                "needs the metadata service, which {disabled}=true turns off; unset one of the two"
            ));
        }
        let is_bucket = |location: &Location| matches!(location, Location::Bucket { .. });
        if bootstrap.claim.is_some() || snapshots.sources().iter().any(is_bucket) {
            self.refuse_store(&aws);
        }
        Config {
            aws,
            bootstrap,
            removal: Removal {
                which: self.choice(&variables::REMOVE, &REMOVALS),
                after: self.duration(&variables::REMOVE_AFTER),
                interval: Some(self.duration(&variables::REMOVE_INTERVAL)).filter(|interval| !interval.is_zero()),
            },
            departure: Departure {
                leave: self.choice(&variables::LEAVE, &[("no", Leave::Never), ("on-terminate", Leave::OnTerminate)]),
                lifecycle_hooks: self.lifecycle_hooks(),
            },
            observation: Observation {
                longest_pause: self.duration(&variables::LONGEST_PAUSE),
                probe_timeout: self.duration(&variables::PROBE_TIMEOUT),
            },
            stop: Stop {
                drain_timeout: self.duration(&variables::DRAIN_TIMEOUT),
                timeout: self.duration(&variables::STOP_TIMEOUT),
            },
            systemd: Systemd {
                notify_socket: self.text("NOTIFY_SOCKET").map(str::to_owned),
                watchdog: self.watchdog(),
            },
            status_listen: self.status_listen(&etcd),
            log,
            adopt: self.member(&variables::ADOPT),
            upgrade: Upgrade {
                max_learners: self.given.get("ETCD_MAX_LEARNERS").and_then(|most| most.parse().ok()).unwrap_or(1),
                join_newer: self.yes(&variables::JOIN_NEWER),
            },
            snapshots,
            warnings: self.warnings(&etcd),
            instances,
            etcd,
        }
    }

    fn bootstrap(&mut self) -> Bootstrap {
        let token_prefix = self.text_or_default(&variables::TOKEN_PREFIX).to_owned();
        if let Some(why) = initial_list::token_fault(&token_prefix) {
            self.wrong(variables::TOKEN_PREFIX.name, why);
        }
        let cluster_size =
            self.text(variables::CLUSTER_SIZE.name).is_some().then(|| self.members(&variables::CLUSTER_SIZE));
        let min_nodes = self.members(&variables::MIN_NODES);
        if cluster_size.is_some_and(|size| size > 1 && min_nodes > size) {
            self.wrong(variables::MIN_NODES.name, "is more than MUSTER_CLUSTER_SIZE");
        }
        Bootstrap {
            cluster_size,
            min_nodes,
            token_prefix,
            grace: self.duration(&variables::BOOTSTRAP_GRACE),
            window: self.duration(&variables::BOOTSTRAP_WINDOW),
            without_absent: self.yes(&variables::BOOTSTRAP_WITHOUT_ABSENT),
            alone: self.yes(&variables::BOOTSTRAP_ALONE),
            claim: self.claim(),
            join: self.urls(&variables::JOIN),
        }
    }

    /// The number of members.
    fn members(&mut self, variable: &'static Variable) -> usize {
        self.parsed(variable, |value| match value.parse() {
            Ok(number) if (1..=MAX_CLUSTER_SIZE).contains(&number) => Ok(number),
            _ => Err(format!("is not a number from 1 to {MAX_CLUSTER_SIZE}")),
        })
    }

    fn log(&mut self) -> Log {
        let level = self.choice(&variables::LOG, &LOG_LEVELS);
        Log { level, format: self.choice(&variables::LOG_FORMAT, &LOG_FORMATS) }
    }

    fn warnings(&self, etcd: &Etcd) -> Vec<String> {
        let renamed = self.vars.by_alias.iter().filter_map(|(variable, alias)| match alias {
            Alias::Former(former) => Some(format!("{former} is now {}; the old name still works", variable.name)),
            Alias::Original(_) => None,
        });
        let retired = RETIRED.iter().filter(|name| self.text(name).is_some());
        let retired = retired.map(|name| format!("{name} is no longer needed and does nothing; remove it"));
        let unused = self.text(variables::CA_CERT.name).filter(|_| etcd.minting.is_none()).map(|_| {
            "MUSTER_CA_CERT is set, but no certificate is made: set MUSTER_CLIENT_SCHEME=https or MUSTER_PEER_SCHEME=https, on a side that has \
             no other"
                .to_owned()
        });
        let overheard = match etcd.client.security {
            Security::Files(_) => None,
            Security::Plain => Some("unencrypted"),
            Security::Automatic => Some("to whoever poses as a member, for automatic certificates can't be verified"),
        };
        let overheard = overheard.filter(|_| self.text(variables::ETCD_USER.name).is_some());
        let overheard =
            overheard.map(|how| format!("MUSTER_ETCD_USER: its password goes over the network {how}; see docs/tls.md"));
        let danger =
            |(name, value): (&String, &String)| Some(format!("{name}={value}: {}", settings::danger(name, value)?));
        let dangerous = self.given.iter().filter_map(danger);
        // Without the value: an unknown variable may contain a password.
        let foreign = self.given.keys().filter(|name| settings::kind(name) == Kind::Foreign);
        let foreign = foreign.map(String::as_str).collect::<Vec<_>>().join(", ");
        let foreign = (!foreign.is_empty()).then(|| format!("{foreign}: no etcd has such a setting; not passed on"));
        renamed.chain(retired).chain(unused).chain(overheard).chain(dangerous).chain(foreign).collect()
    }

    /// (sd_watchdog_enabled(3).) Ignores what is meant for another process.
    fn watchdog(&self) -> Option<Duration> {
        let own = std::process::id().to_string();
        let is_ours = self.text("WATCHDOG_PID").is_none_or(|pid| pid == own);
        let micros = self.text("WATCHDOG_USEC")?.parse().ok().filter(|micros| is_ours && *micros > 0)?;
        Some(Duration::from_micros(micros))
    }

    /// Refuses a port that etcd uses: if we had it, etcd could not start.
    fn status_listen(&mut self, etcd: &Etcd) -> Option<SocketAddr> {
        const NAME: &str = variables::STATUS_LISTEN.name;
        let listen = self.text(NAME)?.parse::<SocketAddr>().ok().filter(|listen| listen.port() != 0);
        let Some(listen) = listen else {
            self.wrong(NAME, "is not an address:port; write 127.0.0.1:2382, 0.0.0.0:2382 or [::]:2382");
            return None;
        };
        let listens = etcd.settings.iter().filter(|(name, _)| name.starts_with("ETCD_LISTEN_"));
        let urls = listens.flat_map(|(_, urls)| urls.split(','));
        let given = urls.filter_map(|url| url.trim().parse::<hyper::Uri>().ok()?.port_u16());
        let own = [etcd.client.number, etcd.peer.number];
        if own.into_iter().chain(given).any(|port| port == listen.port()) {
            self.wrong(NAME, "is a port that etcd listens on; give it another");
        }
        Some(listen)
    }

    /// A misspelt safety setting must not count as unset.
    fn refuse_misspelt(&mut self) {
        let unknown: Vec<String> = self
            .vars
            .env
            .keys()
            .filter(|name| name.starts_with("MUSTER_") && variables::find(name).is_none())
            .cloned()
            .collect();
        for name in unknown {
            let known = || VARIABLES.iter().flat_map(|v| v.spellings().map(|spelling| (spelling, v.name)));
            let close = known().map(|(known, today)| (strsim::levenshtein(known, &name), today)).min();
            let close = close.and_then(|(distance, today)| (distance <= 3).then_some(today));
            // A part of a name, as MUSTER_ETCD_PASSWORD is of the file's.
            let begun = || known().find(|(known, _)| known.starts_with(&format!("{name}_"))).map(|(_, today)| today);
            let hint = close.or_else(begun).map(|today| format!("; did you mean {today}?"));
            // Without the value: an unknown variable may contain a password.
            self.problems.push(Problem(format!("{name}: no such variable{}", hint.unwrap_or_default())));
        }
    }
}

/// A larger etcd cluster only gets slower (etcd FAQ: seven at most, in general).
const MAX_CLUSTER_SIZE: usize = 99;
