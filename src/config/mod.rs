//! The settings: the only reader of the environment. All that is wrong is reported together.

pub mod hosts;

mod aws;
mod etcd;
mod instances;
mod reader;
mod security;
#[cfg(test)]
mod tests;
mod variables;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use crate::aws::credentials::Source;
use crate::aws::s3::Object;
use crate::config::hosts::Written;
use crate::core::initial_list;
use crate::core::view::{Clean, Policy};
use crate::etcd::settings;
use crate::net::proxy::Proxy;
use crate::net::tls::CaFile;
use crate::util::logger::Format;
use etcd::given;
use reader::Reader;
pub use reader::{Problem, parse_duration};
pub use security::{CaKey, Files, Minting, Origin, Security, shown};
use variables::RETIRED;
pub use variables::VARIABLES;

/// What the log shows at least; the first is the default.
const LOG_LEVELS: [(&str, LevelFilter); 5] = [
    ("info", LevelFilter::Info),
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

const LOG_FORMATS: [(&str, Format); 2] = [("text", Format::Text), ("json", Format::Json)];

/// The metadata service's address on every instance, by `AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE`. The SDKs take it in any case.
const AWS_METADATA: [(&str, &str); 4] = [
    ("IPv4", "http://169.254.169.254"),
    ("IPv6", "http://[fd00:ec2::254]"),
    ("ipv4", "http://169.254.169.254"),
    ("ipv6", "http://[fd00:ec2::254]"),
];

/// How members are addressed in advertised URLs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberType {
    Host,
    Ip,
}

/// Everything the operator decided, parsed.
#[derive(Clone, Debug)]
pub struct Config {
    pub tags: Vec<(String, String)>,
    /// `MUSTER_ROSTER`: `None`, the instances are EC2's.
    pub written: Option<Written>,
    pub region: Option<String>,
    pub credentials: Source,
    pub imds_endpoint: String,
    pub ec2_endpoint: Option<String>,
    pub s3_endpoint: Option<String>,
    pub autoscaling_endpoint: Option<String>,
    pub ssm_endpoint: Option<String>,
    pub use_fips: bool,
    pub use_dualstack: bool,
    /// `AWS_CA_BUNDLE`, `SSL_CERT_FILE`: whom to trust as AWS, beside the public roots.
    pub ca_files: Vec<CaFile>,
    /// `HTTPS_PROXY`, `NO_PROXY`: the way to AWS.
    pub proxy: Option<Proxy>,
    pub client_port: u16,
    pub peer_port: u16,
    pub bootstrap_wait: Duration,
    pub member_type: MemberType,
    pub home: PathBuf,
    /// The `PATH` etcd is looked for in.
    pub search_path: String,
    pub data: PathBuf,
    pub wal: PathBuf,
    /// `ETCD_*` that etcd knows.
    pub etcd: BTreeMap<String, String>,
    /// The client port.
    pub client: Security,
    /// The peer port, and so the roll call.
    pub peer: Security,
    /// `Some`: a side's certificates are made here.
    pub minting: Option<Minting>,
    /// `MUSTER_PLAIN_LOOPBACK`: the client port speaks plain HTTP on loopback.
    pub plain_loopback: bool,
    /// `MUSTER_ETCD_USER` and its password's file, for an etcd with authentication on.
    pub etcd_user: Option<(String, PathBuf)>,
    pub policy: Policy,
    /// `MUSTER_CLAIM`: the object itself.
    pub claim: Option<Object>,
    /// `MUSTER_LEAVE`: leave the cluster when EC2 ends this instance.
    pub leave: bool,
    /// `MUSTER_LIFECYCLE_HOOK`.
    pub lifecycle_hooks: Vec<String>,
    pub probe_timeout: Duration,
    /// How long clients of a stopping etcd may hold it up where nothing can be lost; `stop_timeout` is a bound to this, too.
    pub drain_timeout: Duration,
    pub stop_timeout: Duration,
    /// `MUSTER_RECONCILE`: how often the leader's supervisor looks for dead members; `None`: never.
    pub reconcile: Option<Duration>,
    pub notify_socket: Option<String>,
    /// How long systemd goes without a sign of life before it ends us; `None`: as long as it takes.
    pub watchdog: Option<Duration>,
    pub status_listen: Option<SocketAddr>,
    pub log_level: LevelFilter,
    pub log_format: Format,
    /// What is said once at the start: variables that no longer do anything.
    pub notices: Vec<String>,
}

/// The process's environment with the command line's settings over it.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
pub fn environment(overrides: &[(String, String)]) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    env.extend(overrides.iter().cloned());
    env
}

/// The log's format, also where other settings are wrong: the line that says so is read by the same pipeline.
pub fn log_format(env: &BTreeMap<String, String>) -> Format {
    let asked = env.get("MUSTER_LOG_FORMAT").map(String::as_str);
    LOG_FORMATS.iter().find(|(word, _)| Some(*word) == asked).map_or(Format::Text, |(_, format)| *format)
}

/// Parses an environment.
///
/// # Errors
/// All problems, not only the first.
pub fn read(env: &BTreeMap<String, String>) -> Result<Config, Vec<Problem>> {
    let mut reader = Reader { env, given: given(env), problems: Vec::new() };
    let config = reader.config();
    match reader.problems.is_empty() {
        true => Ok(config),
        false => Err(reader.problems),
    }
}

impl Reader<'_> {
    fn config(&mut self) -> Config {
        self.refuse_misspelt();
        let tags = self.tags();
        let token_prefix = self.text("ETCD_INITIAL_CLUSTER_TOKEN").unwrap_or("etcd-muster").to_owned();
        if let Some(why) = initial_list::token_fault(&token_prefix) {
            self.wrong("ETCD_INITIAL_CLUSTER_TOKEN", why);
        }
        let written = self.roster();
        let filter = match &written {
            None => tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","),
            Some(written) => written.to_string(),
        };
        let size = self.number("MUSTER_CLUSTER_SIZE", 1..=MAX_CLUSTER_SIZE);
        let claim = self.claim();
        let policy = Policy {
            cluster_size: size,
            min_nodes: self.number("MUSTER_MIN_NODES", 1..=MAX_CLUSTER_SIZE).unwrap_or(2),
            found_grace: self.duration("MUSTER_FOUND_GRACE", 60),
            found_window: self.duration("MUSTER_FOUND_WINDOW", 15 * 60),
            found_absent: self.yes("MUSTER_FOUND_ABSENT"),
            found_alone: self.yes("MUSTER_FOUND_ALONE"),
            clean: self
                .choice("MUSTER_CLEAN", &[("gone", Clean::Gone), ("unhealthy", Clean::Unhealthy), ("off", Clean::Off)]),
            clean_dwell: self.duration("MUSTER_CLEAN_DWELL", 30),
            adopt: self.member("MUSTER_ADOPT"),
            token_prefix,
            claim: claim.as_ref().map(Object::to_string),
            filter,
            written: written.is_some(),
        };
        if let Some(size) = size
            && size > 1
            && policy.min_nodes > size
        {
            self.wrong("MUSTER_MIN_NODES", "is more than MUSTER_CLUSTER_SIZE");
        }
        let (client_port, peer_port) = (self.port("CLNT_PORT", 2379), self.port("PEER_PORT", 2380));
        if client_port == peer_port {
            self.wrong("PEER_PORT", "is CLNT_PORT too; give them different ports");
        }
        let etcd = self.etcd_settings();
        let status_listen = self.status_listen([client_port, peer_port], &etcd);
        let data = self.text("ETCD_DATA_DIR").map_or_else(|| self.path("ED_DATA", "/etcd/data"), PathBuf::from);
        let (client, peer, minting) = self.security(&data);
        let notices = self.notices(minting.is_some(), &client);
        // What is written down are addresses; a host's name need not resolve.
        let types = match written {
            None => [("host", MemberType::Host), ("ip", MemberType::Ip)],
            Some(_) => [("ip", MemberType::Ip), ("host", MemberType::Host)],
        };
        let metadata = self.choice("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", &AWS_METADATA);
        Config {
            tags,
            written,
            region: ["DOCKER_AWSREG", "AWS_REGION", "AWS_DEFAULT_REGION"]
                .iter()
                .find_map(|k| self.text(k))
                .map(str::to_owned),
            credentials: self.credentials(),
            imds_endpoint: self.url("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| metadata.to_owned()),
            ec2_endpoint: self.url("AWS_ENDPOINT_URL_EC2").or_else(|| self.url("AWS_ENDPOINT_URL")),
            s3_endpoint: self.url("AWS_ENDPOINT_URL_S3").or_else(|| self.url("AWS_ENDPOINT_URL")),
            autoscaling_endpoint: self.url("AWS_ENDPOINT_URL_AUTO_SCALING").or_else(|| self.url("AWS_ENDPOINT_URL")),
            ssm_endpoint: self.url("AWS_ENDPOINT_URL_SSM").or_else(|| self.url("AWS_ENDPOINT_URL")),
            use_fips: self.yes("AWS_USE_FIPS_ENDPOINT"),
            use_dualstack: self.yes("AWS_USE_DUALSTACK_ENDPOINT"),
            ca_files: self.ca_files(),
            proxy: self.proxy(),
            client_port,
            peer_port,
            bootstrap_wait: self.duration("BOOTSTRAP_WAIT", 20),
            member_type: self.choice("ETCD_MEMBER_TYPE", &types),
            home: self.path("ED_HOME", "/etcd"),
            search_path: self.text("PATH").unwrap_or_default().to_owned(),
            data,
            wal: self.path("ED_WAL", "/etcd/wal"),
            etcd,
            client,
            peer,
            plain_loopback: self.yes("MUSTER_PLAIN_LOOPBACK"),
            etcd_user: self.etcd_user(),
            policy,
            claim,
            leave: self.choice("MUSTER_LEAVE", &[("no", false), ("on-terminate", true)]),
            lifecycle_hooks: self.lifecycle_hooks(),
            probe_timeout: self.duration("MUSTER_PROBE_TIMEOUT", 3),
            drain_timeout: self.duration("MUSTER_DRAIN_TIMEOUT", 3),
            stop_timeout: self.duration("MUSTER_STOP_TIMEOUT", 25),
            reconcile: Some(self.duration("MUSTER_RECONCILE", 0)).filter(|interval| !interval.is_zero()),
            notify_socket: self.text("NOTIFY_SOCKET").map(str::to_owned),
            watchdog: self.watchdog(),
            status_listen,
            log_level: self.choice("MUSTER_LOG", &LOG_LEVELS),
            log_format: self.choice("MUSTER_LOG_FORMAT", &LOG_FORMATS),
            notices,
            minting,
        }
    }

    fn notices(&self, mints: bool, client: &Security) -> Vec<String> {
        let retired = RETIRED.iter().filter(|name| self.text(name).is_some());
        let retired = retired.map(|name| format!("{name} is no longer needed and does nothing; remove it"));
        let unused = self.text("MUSTER_CA_CERT").filter(|_| !mints).map(|_| {
            "MUSTER_CA_CERT is set, but no certificate is made: set CLNT_SCHEMA=https or PEER_SCHEMA=https, on a side that has \
             no other"
                .to_owned()
        });
        let overheard = match client {
            Security::Files(_) => None,
            Security::Plain => Some("unencrypted"),
            Security::Automatic => Some("to whoever poses as a member, for automatic certificates can't be verified"),
        };
        let overheard = overheard.filter(|_| self.text("MUSTER_ETCD_USER").is_some());
        let overheard =
            overheard.map(|how| format!("MUSTER_ETCD_USER: its password goes over the network {how}; see docs/tls.md"));
        let danger =
            |(name, value): (&String, &String)| Some(format!("{name}={value}: {}", settings::danger(name, value)?));
        let dangerous = self.given.iter().filter_map(danger);
        retired.chain(unused).chain(overheard).chain(dangerous).collect()
    }

    /// (sd_watchdog_enabled(3).) What is meant for another process is none of ours.
    fn watchdog(&self) -> Option<Duration> {
        let own = std::process::id().to_string();
        let is_ours = self.text("WATCHDOG_PID").is_none_or(|pid| pid == own);
        let micros = self.text("WATCHDOG_USEC")?.parse().ok().filter(|micros| is_ours && *micros > 0)?;
        Some(Duration::from_micros(micros))
    }

    /// A port that etcd wants is refused: held by us, it would keep etcd from starting.
    fn status_listen(&mut self, ports: [u16; 2], etcd: &BTreeMap<String, String>) -> Option<SocketAddr> {
        const NAME: &str = "MUSTER_STATUS_LISTEN";
        let listen = self.text(NAME)?.parse::<SocketAddr>().ok().filter(|listen| listen.port() != 0);
        let Some(listen) = listen else {
            self.wrong(NAME, "is not an address:port; write 127.0.0.1:2382, 0.0.0.0:2382 or [::]:2382");
            return None;
        };
        let urls =
            etcd.iter().filter(|(name, _)| name.starts_with("ETCD_LISTEN_")).flat_map(|(_, urls)| urls.split(','));
        let given = urls.filter_map(|url| url.trim().parse::<hyper::Uri>().ok()?.port_u16());
        if ports.into_iter().chain(given).any(|port| port == listen.port()) {
            self.wrong(NAME, "is a port that etcd listens on; give it another");
        }
        Some(listen)
    }

    /// A misspelt safety setting must not be taken for an unset one.
    fn refuse_misspelt(&mut self) {
        let unknown: Vec<String> = self
            .env
            .keys()
            .filter(|name| name.starts_with("MUSTER_") && !VARIABLES.iter().any(|v| v.name == name.as_str()))
            .cloned()
            .collect();
        for name in unknown {
            let known = || VARIABLES.iter().map(|v| v.name);
            let close = known().map(|known| (strsim::levenshtein(known, &name), known)).min();
            let close = close.and_then(|(distance, known)| (distance <= 3).then_some(known));
            // Half a name, as MUSTER_ETCD_PASSWORD is of the file's.
            let begun = || known().find(|known| known.starts_with(&format!("{name}_")));
            let hint = close.or_else(begun).map(|known| format!("; did you mean {known}?"));
            // Without the value: under a name that nobody knows it may be a password.
            self.problems.push(Problem(format!("{name}: no such variable{}", hint.unwrap_or_default())));
        }
    }
}

/// Beyond this an etcd cluster only gets slower (etcd FAQ: seven at most, in general).
const MAX_CLUSTER_SIZE: usize = 99;
