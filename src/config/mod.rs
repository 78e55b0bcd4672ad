//! The settings: the only reader of the environment. All that is wrong is reported together.

pub mod hosts;

mod security;
mod variables;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use aws_credential_types::Credentials;

use log::LevelFilter;

use crate::aws::credentials::Source;
use crate::aws::s3::Object;
use crate::config::hosts::Written;
use crate::core::initial_list;
use crate::core::types::MemberId;
use crate::core::view::{Clean, Policy};
use crate::etcd::settings::{self, Kind};
use crate::net::proxy::Proxy;
use crate::net::tls::CaFile;
use crate::util::logger::Format;
use crate::util::words;
use security::is_secret;
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

/// One thing that is wrong: the variable, its value, and the way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem(String);

impl fmt::Display for Problem {
    /// On one line, whatever the value is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words::on_one_line(&self.0))
    }
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

struct Reader<'a> {
    env: &'a BTreeMap<String, String>,
    /// etcd's own variables, with `ETCD_OPTS` turned into variables over them.
    given: BTreeMap<String, String>,
    problems: Vec<Problem>,
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

    fn etcd_user(&mut self) -> Option<(String, PathBuf)> {
        let (user, file) = ("MUSTER_ETCD_USER", "MUSTER_ETCD_PASSWORD_FILE");
        if self.text(file).is_some_and(|value| is_secret(file, value)) {
            self.problems.push(Problem(format!(
                "{file}: is not an absolute path (not shown); it names the file that holds the password, it isn't the password"
            )));
            return None;
        }
        match (self.text(user).map(str::to_owned), self.text(file).map(PathBuf::from)) {
            (Some(user), Some(file)) => Some((user, file)),
            (None, None) => None,
            (Some(_), None) => {
                self.wrong(file, format!("is missing beside {user}; name the file that holds the password"));
                None
            }
            (None, Some(_)) => {
                self.wrong(user, format!("is missing beside {file}; name the user, as root"));
                None
            }
        }
    }

    /// (sd_watchdog_enabled(3).) What is meant for another process is none of ours.
    fn watchdog(&self) -> Option<Duration> {
        let own = std::process::id().to_string();
        let is_ours = self.text("WATCHDOG_PID").is_none_or(|pid| pid == own);
        let micros = self.text("WATCHDOG_USEC")?.parse().ok().filter(|micros| is_ours && *micros > 0)?;
        Some(Duration::from_micros(micros))
    }

    /// A set, non-empty variable.
    fn text(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn wrong(&mut self, name: &str, why: impl fmt::Display) {
        self.wrong_value(name, &self.env.get(name).cloned().unwrap_or_default(), why);
    }

    fn wrong_value(&mut self, name: &str, value: &str, why: impl fmt::Display) {
        self.problems.push(Problem(match shown(name, value) {
            Some(value) => format!("{name}={value}: {why}"),
            None => format!("{name} (its value is not shown): {why}"),
        }));
    }

    fn tags(&mut self) -> Vec<(String, String)> {
        let Some(text) = self.text("MUSTER_TAGS").map(str::to_owned) else {
            let key = self.text("DOCKER_EC2TAG").unwrap_or("etcd").to_owned();
            // Taken for unset, it would be the default: another tag than the one asked for.
            if self.env.get("DOCKER_EC2VAL").is_some_and(String::is_empty) {
                self.wrong(
                    "DOCKER_EC2VAL",
                    format!("is empty; write MUSTER_TAGS='{key}=' for an empty value, or unset it for 1"),
                );
            }
            return vec![(key, self.text("DOCKER_EC2VAL").unwrap_or("1").to_owned())];
        };
        let mut tags = Vec::new();
        for pair in text.split(',') {
            match pair.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => {
                    tags.push((key.trim().to_owned(), value.trim().to_owned()))
                }
                Some(_) => self.wrong("MUSTER_TAGS", format!("{pair:?} has no key; write key=value,key2=value2")),
                None => self.wrong("MUSTER_TAGS", format!("{pair:?} has no value; write key=value,key2=value2")),
            }
        }
        tags
    }

    /// What only EC2's metadata service can tell is refused beside a list: it would wait for ever.
    fn roster(&mut self) -> Option<Written> {
        const NAME: &str = "MUSTER_ROSTER";
        let value = self.text(NAME)?.to_owned();
        let written = Written::parse(&value).unwrap_or_else(|why| {
            self.wrong(NAME, why);
            None
        })?;
        for name in ["MUSTER_LEAVE", "MUSTER_LIFECYCLE_HOOK"] {
            if self.text(name).is_some_and(|value| value != "no") {
                self.wrong(name, format!("needs EC2, and the instances are {NAME}={value}; unset one of the two"));
            }
        }
        Some(written)
    }

    fn number(&mut self, name: &str, range: std::ops::RangeInclusive<usize>) -> Option<usize> {
        let value = self.text(name)?;
        match value.parse() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                self.wrong(name, format!("is not a number from {} to {}", range.start(), range.end()));
                None
            }
        }
    }

    fn member(&mut self, name: &str) -> Option<MemberId> {
        let parsed = u64::from_str_radix(self.text(name)?, 16).ok().filter(|id| *id != 0);
        if parsed.is_none() {
            self.wrong(
                name,
                "is not a member id; write it as etcd and the hold's own line do, in hex: 8e9e05c52164694d",
            );
        }
        parsed.map(MemberId)
    }

    fn port(&mut self, name: &str, default: u16) -> u16 {
        match self.text(name).map(str::parse::<u16>) {
            None => default,
            Some(Ok(port)) if port != 0 => port,
            Some(_) => {
                self.wrong(name, "is not a port; give a number from 1 to 65535");
                default
            }
        }
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

    /// `s3://bucket/prefix`: the object below it that is claimed.
    fn claim(&mut self) -> Option<Object> {
        let value = self.text("MUSTER_CLAIM")?.to_owned();
        let place = value.strip_prefix("s3://").map(|rest| rest.trim_end_matches('/'));
        let place = place.map(|place| place.split_once('/').unwrap_or((place, "")));
        // (S3 User Guide, "General purpose bucket naming rules".)
        let is_bucket = |name: &str| {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
            (3..=63).contains(&name.len()) && name.chars().all(fits)
        };
        match place {
            Some((bucket, prefix)) if is_bucket(bucket) && !prefix.starts_with('/') && !prefix.contains("//") => {
                let key = [prefix, CLAIM].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
                Some(Object { bucket: bucket.to_owned(), key })
            }
            _ => {
                self.wrong("MUSTER_CLAIM", "is not a location in S3; write s3://bucket/prefix");
                None
            }
        }
    }

    /// Names of lifecycle hooks, as Auto Scaling allows them (API Reference, "PutLifecycleHook").
    fn lifecycle_hooks(&mut self) -> Vec<String> {
        let value = self.text("MUSTER_LIFECYCLE_HOOK").unwrap_or_default().to_owned();
        let names: Vec<String> = value.split(',').map(|name| name.trim().to_owned()).collect();
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_/".contains(c);
        match value.is_empty() {
            true => Vec::new(),
            false if names.iter().all(|name| (1..=255).contains(&name.len()) && name.chars().all(fits)) => names,
            false => {
                self.wrong("MUSTER_LIFECYCLE_HOOK", "is not the name of a lifecycle hook; write NAME, or NAME,NAME2");
                Vec::new()
            }
        }
    }

    fn duration(&mut self, name: &str, default_seconds: u64) -> Duration {
        let default = Duration::from_secs(default_seconds);
        let Some(value) = self.text(name) else { return default };
        match parse_duration(value) {
            Some(duration) if duration <= LONGEST_DURATION => duration,
            Some(_) => {
                self.wrong(name, "is longer than a hundred years; write 30, 30s, 5m, 12h, 90d or 500ms");
                default
            }
            None => {
                self.wrong(name, "is not a duration; write 30, 30s, 5m, 12h, 90d or 500ms");
                default
            }
        }
    }

    fn yes(&mut self, name: &str) -> bool {
        self.choice(name, &[("no", false), ("yes", true), ("false", false), ("true", true), ("0", false), ("1", true)])
    }

    /// The first choice is the default.
    fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> T {
        let Some(value) = self.text(name) else { return choices[0].1 };
        match choices.iter().find(|(word, _)| *word == value) {
            Some((_, choice)) => *choice,
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                self.wrong(name, format!("is none of {}", words.join(", ")));
                choices[0].1
            }
        }
    }

    fn path(&self, name: &str, default: &str) -> PathBuf {
        PathBuf::from(self.text(name).unwrap_or(default))
    }

    fn url(&mut self, name: &str) -> Option<String> {
        let value = self.text(name)?.to_owned();
        let uri = value.parse::<hyper::Uri>().ok();
        match uri.filter(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some()) {
            Some(_) => Some(value),
            None => {
                self.wrong(name, "is no URL; write http://host:port or https://host:port");
                None
            }
        }
    }

    /// Whether they can be read shows when they are needed ([`crate::net::tls::Trust::public`]).
    fn ca_files(&self) -> Vec<CaFile> {
        let named = |variable| self.text(variable).map(|path| CaFile { variable, path: PathBuf::from(path) });
        ["AWS_CA_BUNDLE", "SSL_CERT_FILE"].into_iter().filter_map(named).collect()
    }

    /// Lower case wins, as with curl and the AWS CLI.
    fn proxy(&mut self) -> Option<Proxy> {
        let (variable, url) = ["https_proxy", "HTTPS_PROXY"].iter().find_map(|name| Some((name, self.text(name)?)))?;
        let except = ["no_proxy", "NO_PROXY"].iter().find_map(|name| self.text(name)).unwrap_or_default();
        match Proxy::new(url, except) {
            Ok(proxy) => Some(proxy),
            Err(cause) => {
                // Without the value: it may hold a password.
                let write = "write http://host:port or http://user:password@host:port";
                self.problems.push(Problem(format!("{variable}=…: {cause}; {write}")));
                None
            }
        }
    }

    fn credentials(&mut self) -> Source {
        if let Some(key) = self.text("AWS_ACCESS_KEY_ID") {
            let Some(secret) = self.text("AWS_SECRET_ACCESS_KEY") else {
                self.wrong("AWS_SECRET_ACCESS_KEY", "is missing beside AWS_ACCESS_KEY_ID");
                return Source::Role;
            };
            let token = self.text("AWS_SESSION_TOKEN").map(str::to_owned);
            return Source::Static(Credentials::new(key, secret, token, None, "environment"));
        }
        let url = self.container_credentials();
        match url {
            Some(url) => Source::Container {
                url,
                token: self.text("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(str::to_owned),
                token_file: self.text("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from),
            },
            None => Source::Role,
        }
    }

    /// Container credentials (ECS, EKS): a path on the link-local host, or a whole URL. The token goes there: over plain http only to
    /// this host or to the two that AWS has for it (AWS SDKs and Tools Reference Guide, "Container credential provider").
    fn container_credentials(&mut self) -> Option<String> {
        const PATH: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
        const URL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
        if let Some(path) = self.text(PATH) {
            let url = format!("http://{ECS_AGENT}{path}");
            if path.starts_with('/') && url.parse::<hyper::Uri>().is_ok_and(|uri| uri.host() == Some(ECS_AGENT)) {
                return Some(url);
            }
            self.wrong(PATH, "is not a path; write /path, or the whole URL in AWS_CONTAINER_CREDENTIALS_FULL_URI");
            return None;
        }
        let url = self.url(URL)?;
        let uri = url.parse::<hyper::Uri>().ok();
        let may = uri.is_some_and(|uri| {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
            let is_near = |address: IpAddr| address.is_loopback() || AGENTS.iter().any(|a| a.parse() == Ok(address));
            uri.scheme_str() == Some("https") || host == "localhost" || host.parse().is_ok_and(is_near)
        });
        if !may {
            let hosts = AGENTS.join(", ");
            self.wrong(
                URL,
                format!(
                    "is http to another host, which would see the token; write https://, or name {hosts} or loopback"
                ),
            );
        }
        may.then_some(url)
    }

    /// etcd's own settings: `ETCD_OPTS` wins over variables.
    fn etcd_settings(&mut self) -> BTreeMap<String, String> {
        for (place, word) in self.text("ETCD_OPTS").unwrap_or_default().to_owned().split_whitespace().enumerate() {
            if option_as_variable(word).is_none() {
                self.wrong("ETCD_OPTS", format!("its word {} is no --flag=value; write every flag so", place + 1));
            }
        }
        let mut passed = BTreeMap::new();
        for (name, value) in self.given.clone() {
            match settings::kind(&name) {
                Kind::Passed => match unfit(&name, &value) {
                    // What a list would hold is refused before one is agreed on; etcd would refuse it only then.
                    Some(why) => self.wrong_value(&name, &value, why),
                    None => _ = passed.insert(name, value),
                },
                Kind::Forbidden(why) => self.wrong_value(&name, &value, why),
                Kind::Token | Kind::Foreign => {}
            }
        }
        passed
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

/// Why etcd could not be started with that value, where it would show only once a list with it was agreed on.
fn unfit(name: &str, value: &str) -> Option<String> {
    let quoted = |quote| value.len() > 1 && value.starts_with(quote) && value.ends_with(quote);
    if quoted('"') || quoted('\'') {
        return Some("has quotes around it, which docker's --env-file keeps; take them out".to_owned());
    }
    let url = |url: &str| initial_list::url_fault(url.trim()).map(|why| format!("{:?} {why}", url.trim()));
    match name {
        "ETCD_NAME" => initial_list::name_fault(value).map(str::to_owned),
        "ETCD_INITIAL_ADVERTISE_PEER_URLS" => value.split(',').filter(|url| !url.trim().is_empty()).find_map(url),
        _ => None,
    }
}
/// Where ECS hands out a task's credentials,
const ECS_AGENT: &str = "169.254.170.2";
/// and, beside it, EKS.
const AGENTS: [&str; 3] = [ECS_AGENT, "169.254.170.23", "fd00:ec2::23"];

/// A hundred years: clocks and sums of durations overflow far beyond.
const LONGEST_DURATION: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// The claim's own name below its prefix.
const CLAIM: &str = "claim.json";

/// Beyond this an etcd cluster only gets slower (etcd FAQ: seven at most, in general).
const MAX_CLUSTER_SIZE: usize = 99;

/// etcd's own variables, and the flags of `ETCD_OPTS` as variables over them.
fn given(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let ours = |name: &str| VARIABLES.iter().any(|v| v.name == name) || RETIRED.contains(&name);
    let variables = env.iter().filter(|(name, _)| name.starts_with("ETCD_") && !ours(name));
    let variables = variables.map(|(name, value)| (name.clone(), value.clone()));
    let flags = env.get("ETCD_OPTS").map(String::as_str).unwrap_or_default().split_whitespace();
    variables.chain(flags.filter_map(option_as_variable)).collect()
}

/// `30` (seconds), `30s`, `5m`, `12h`, `90d`, `500ms`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "" | "s" => Some(Duration::from_secs(number)),
        "ms" => Some(Duration::from_millis(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        "d" => Some(Duration::from_secs(number.checked_mul(24 * 3600)?)),
        _ => None,
    }
}

/// `--snapshot-count=5` as `ETCD_SNAPSHOT_COUNT`, `5`; a flag without a value is true.
fn option_as_variable(word: &str) -> Option<(String, String)> {
    let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    let (name, value) = flag.split_once('=').unwrap_or((flag, "true"));
    let well_formed = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    well_formed.then(|| (format!("ETCD_{}", name.to_ascii_uppercase().replace('-', "_")), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        // No certificates may be found in a default ED_SSL of the machine the test runs on.
        let ssl = [("ED_SSL", "/nonexistent")];
        ssl.iter().chain(pairs).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn problems(pairs: &[(&str, &str)]) -> Vec<String> {
        read(&env(pairs)).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_are_the_originals() {
        let config = read(&env(&[])).unwrap();
        assert_eq!(config.tags, [("etcd".to_owned(), "1".to_owned())]);
        assert_eq!((config.client_port, config.peer_port), (2379, 2380));
        assert_eq!(config.bootstrap_wait, Duration::from_secs(20));
        assert_eq!(config.member_type, MemberType::Host);
        assert_eq!(config.data, PathBuf::from("/etcd/data"));
        assert_eq!(config.policy.min_nodes, 2);
    }

    #[test]
    fn all_problems_are_reported_with_variable_value_and_way_out() {
        let found = problems(&[
            ("CLNT_PORT", "70000"),
            ("MUSTER_TAGS", "=1"),
            ("MUSTER_CLUSTER_SIZ", "3"),
            ("BOOTSTRAP_WAIT", "soon"),
            ("ETCD_MEMBER_TYPE", "dns"),
            ("ETCD_OPTS", "--snapshot-count 5"),
            ("ETCD_INITIAL_CLUSTER", "a=b"),
        ]);
        for part in [
            "CLNT_PORT=70000: is not a port",
            "MUSTER_TAGS==1: \"=1\" has no key",
            "MUSTER_CLUSTER_SIZ: no such variable; did you mean MUSTER_CLUSTER_SIZE?",
            "BOOTSTRAP_WAIT=soon: is not a duration",
            "ETCD_MEMBER_TYPE=dns: is none of host, ip",
            "ETCD_OPTS (its value is not shown): its word 2 is no --flag=value",
            "ETCD_INITIAL_CLUSTER=a=b: the founding computes it",
        ] {
            assert!(found.iter().any(|line| line.starts_with(part)), "{part}: {found:#?}");
        }
    }

    #[test]
    fn a_problem_is_one_line_and_no_duration_overflows() {
        assert_eq!(
            problems(&[("CLNT_PORT", "1\r\n2")]),
            ["CLNT_PORT=1  2: is not a port; give a number from 1 to 65535"]
        );
        for endless in ["18446744073709551615", "36601d"] {
            assert!(
                problems(&[("BOOTSTRAP_WAIT", endless)])[0].contains("is longer than a hundred years"),
                "{endless}"
            );
        }
        assert!(problems(&[("BOOTSTRAP_WAIT", "36500d")]).is_empty());
    }

    #[test]
    fn etcd_options_win_over_variables_and_foreign_ones_are_dropped() {
        let pairs = [
            ("ETCD_SNAPSHOT_COUNT", "5"),
            ("ETCD_OPTS", "--snapshot-count=7 --enable-pprof"),
            ("ETCD_MEMBER_ADD_OK", "201"),
            ("ETCD_UNHEARD_OF", "1"),
        ];
        let config = read(&env(&pairs)).unwrap();
        assert_eq!(config.etcd["ETCD_SNAPSHOT_COUNT"], "7");
        assert_eq!(config.etcd["ETCD_ENABLE_PPROF"], "true");
        assert_eq!(config.etcd.len(), 2);
        assert_eq!(config.notices.len(), 1);
    }

    #[test]
    fn a_claim_is_an_object_below_its_prefix() {
        let claim = |value| read(&env(&[("MUSTER_CLAIM", value)])).ok().map(|config| config.policy.claim.unwrap());
        assert_eq!(claim("s3://etcd-claims/prod/blue").as_deref(), Some("s3://etcd-claims/prod/blue/claim.json"));
        assert_eq!(claim("s3://etcd-claims/").as_deref(), Some("s3://etcd-claims/claim.json"));
        for wrong in ["etcd-claims/prod", "s3://", "s3://No_Bucket/x", "s3://etcd-claims//prod"] {
            assert_eq!(claim(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_status_page_never_takes_a_port_that_etcd_wants() {
        let listen = |value: &str| read(&env(&[("MUSTER_STATUS_LISTEN", value)])).ok().map(|c| c.status_listen);
        assert_eq!(listen(""), Some(None));
        assert_eq!(listen("[::]:2382"), Some("[::]:2382".parse().ok()));
        for wrong in ["2382", ":2382", "localhost:2382", "127.0.0.1:0", "127.0.0.1", "127.0.0.1:2380", "0.0.0.0:2379"] {
            assert_eq!(listen(wrong), None, "{wrong}");
        }
        let beside = [("MUSTER_STATUS_LISTEN", "0.0.0.0:2381"), ("ETCD_LISTEN_METRICS_URLS", "http://127.0.0.1:2381")];
        assert_eq!(
            problems(&beside),
            ["MUSTER_STATUS_LISTEN=0.0.0.0:2381: is a port that etcd listens on; give it another"]
        );
    }

    #[test]
    fn a_written_roster_has_no_features_of_ec2() {
        let read_one = |value| read(&env(&[("MUSTER_ROSTER", value)])).ok();
        assert_eq!(read_one("ec2").unwrap().written, None);
        let config = read_one("static:a=10.0.0.1,b=[fd00::2]").unwrap();
        assert_eq!(config.member_type, MemberType::Ip, "a name need not resolve");
        assert!(config.written.is_some() && config.policy.written);
        assert!(read_one("file:/etc/etcd-muster/roster.json").unwrap().written.is_some());
        for wrong in ["static:", "static:a=10.0.0.1,b=10.0.0.1", "file:roster.json", "aws", "/etc/roster.json"] {
            let said = problems(&[("MUSTER_ROSTER", wrong)]);
            assert!(said.len() == 1 && said[0].starts_with(&format!("MUSTER_ROSTER={wrong}: ")), "{said:?}");
        }
        let list = ("MUSTER_ROSTER", "static:a=10.0.0.1");
        assert_eq!(
            problems(&[list, ("MUSTER_LEAVE", "on-terminate"), ("MUSTER_LIFECYCLE_HOOK", "up")]),
            [
                "MUSTER_LEAVE=on-terminate: needs EC2, and the instances are MUSTER_ROSTER=static:a=10.0.0.1; unset one of the two",
                "MUSTER_LIFECYCLE_HOOK=up: needs EC2, and the instances are MUSTER_ROSTER=static:a=10.0.0.1; unset one of the two",
            ]
        );
        assert!(problems(&[list, ("MUSTER_LEAVE", "no")]).is_empty());
    }

    #[test]
    fn the_metadata_service_is_met_over_ipv6_where_that_is_said() {
        let endpoint = |pairs: &[(&str, &str)]| read(&env(pairs)).unwrap().imds_endpoint;
        let mode = ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6");
        assert_eq!(endpoint(&[mode]), "http://[fd00:ec2::254]");
        assert_eq!(endpoint(&[]), "http://169.254.169.254");
        let given = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://[::1]:1338");
        assert_eq!(endpoint(&[mode, given]), "http://[::1]:1338");
        assert_eq!(
            problems(&[(mode.0, "v6")]),
            ["AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=v6: is none of IPv4, IPv6, ipv4, ipv6"]
        );
    }

    #[test]
    fn lifecycle_hooks_are_names() {
        let hooks = |value| read(&env(&[("MUSTER_LIFECYCLE_HOOK", value)])).ok().map(|config| config.lifecycle_hooks);
        assert_eq!(hooks(""), Some(vec![]));
        assert_eq!(hooks("etcd-launch, etcd_stop"), Some(vec!["etcd-launch".to_owned(), "etcd_stop".to_owned()]));
        for wrong in ["a b", "a,", "arn:x", ","] {
            assert_eq!(hooks(wrong), None, "{wrong}");
        }
        assert!(!read(&env(&[])).unwrap().leave, "leaving is asked for");
        assert_eq!(problems(&[("MUSTER_LEAVE", "yes")]), ["MUSTER_LEAVE=yes: is none of no, on-terminate"]);
    }

    #[test]
    fn a_proxy_is_read_in_both_cases_and_never_shown_with_its_password() {
        let proxy = |pairs: &[(&str, &str)]| format!("{:?}", read(&env(pairs)).unwrap().proxy);
        assert_eq!(proxy(&[("HTTPS_PROXY", ""), ("HTTP_PROXY", "http://p:1")]), "None");
        let both = [("HTTPS_PROXY", "http://upper:1"), ("https_proxy", "http://u:hunter2@lower:2")];
        let shown = proxy(&both);
        assert!(shown.contains("lower") && !shown.contains("upper") && !shown.contains("hunter2"), "{shown}");
        let empty = [("HTTPS_PROXY", "http://upper:1"), ("https_proxy", "")];
        assert!(proxy(&empty).contains("upper"), "empty is unset");
        let wrong = problems(&[("https_proxy", "https://u:hunter2@p:3129")]);
        assert_eq!(
            wrong,
            ["https_proxy=…: only a proxy that is spoken to over plain http is supported; write http://host:port or \
              http://user:password@host:port"]
        );
    }

    #[test]
    fn no_value_that_may_be_a_secret_is_shown() {
        for (name, value) in [
            ("MUSTER_ETCD_PASSWORD", "hunter2"),
            ("MUSTER_CA_KEYS", "-----BEGIN hunter2"),
            ("MUSTER_CA_KEY", "-----BEGIN hunter2"),
            ("MUSTER_LOG", "-----BEGIN hunter2"),
            ("AWS_ENDPOINT_URL_EC2", "ftp://u:hunter2@h"),
            ("AWS_ENDPOINT_URL", "u:hunter2@h"),
            ("AWS_ENDPOINT_URL_S3", "http://h h?token=hunter2"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://192.0.2.1/x?token=hunter2"),
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "@h/?token=hunter2"),
            ("ETCD_OPTS", "--user root:hunter2"),
            ("ETCD_OPTS", "--discovery=https://d/hunter2"),
            ("ETCD_DISCOVERY", "https://d/hunter2"),
            ("ETCD_DISCOVERY_PROXY", "http://u:hunter2@h"),
            ("https_proxy", "hunter2"),
        ] {
            let said = problems(&[(name, value)]);
            assert!(!said.is_empty() && said.iter().all(|line| !line.contains("hunter2")), "{name}: {said:?}");
            assert!(said[0].contains(name) || name == "ETCD_OPTS", "{name}: {said:?}");
        }
        assert_eq!(
            problems(&[("MUSTER_ETCD_PASSWORD", "hunter2")]),
            ["MUSTER_ETCD_PASSWORD: no such variable; did you mean MUSTER_ETCD_PASSWORD_FILE?"]
        );
        assert_eq!(problems(&[("MUSTER_COLOUR", "red")]), ["MUSTER_COLOUR: no such variable"]);
    }

    #[test]
    fn the_containers_token_goes_nowhere_else() {
        let url = |name, value| match read(&env(&[(name, value)])).ok()?.credentials {
            Source::Container { url, .. } => Some(url),
            _ => None,
        };
        let whole = |value| url("AWS_CONTAINER_CREDENTIALS_FULL_URI", value);
        for right in [
            "http://127.0.0.1:81/x",
            "http://[::1]/",
            "http://localhost/a?b=c",
            "http://169.254.170.2/v2",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1/credentials",
            "https://anywhere.example/",
        ] {
            assert_eq!(whole(right).as_deref(), Some(right));
        }
        for wrong in
            ["http://192.0.2.1/", "http://localhost.example/", "http://[fd00:ec2::24]/", "http://127.0.0.1@192.0.2.1/"]
        {
            assert_eq!(whole(wrong), None, "{wrong}");
        }
        let path = |value| url("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", value);
        assert_eq!(path("/v2/c?id=1").as_deref(), Some("http://169.254.170.2/v2/c?id=1"));
        for wrong in ["@192.0.2.1/", ".example/", ":81/", "v2/c", "/a b"] {
            assert_eq!(path(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_empty_tag_value_is_said_to_be_asked_for_otherwise() {
        let empty = ("DOCKER_EC2VAL", "");
        assert_eq!(
            problems(&[empty, ("DOCKER_EC2TAG", "db")]),
            ["DOCKER_EC2VAL=: is empty; write MUSTER_TAGS='db=' for an empty value, or unset it for 1"]
        );
        let tags = |pairs: &[(&str, &str)]| read(&env(pairs)).unwrap().tags;
        assert_eq!(tags(&[("MUSTER_TAGS", "etcd="), empty]), [("etcd".to_owned(), String::new())]);
    }

    #[test]
    fn settings_of_etcds_that_endanger_data_are_said_at_the_start() {
        let notices = |pairs: &[(&str, &str)]| read(&env(pairs)).unwrap().notices;
        let both = notices(&[("ETCD_UNSAFE_NO_FSYNC", "true"), ("ETCD_OPTS", "--strict-reconfig-check=false")]);
        assert!(both.iter().any(|line| line.starts_with("ETCD_UNSAFE_NO_FSYNC=true: ")), "{both:?}");
        assert!(both.iter().any(|line| line.starts_with("ETCD_STRICT_RECONFIG_CHECK=false: ")), "{both:?}");
        assert!(notices(&[("ETCD_UNSAFE_NO_FSYNC", "false"), ("ETCD_STRICT_RECONFIG_CHECK", "true")]).is_empty());
    }

    #[test]
    fn durations() {
        let of = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(
            (of("30"), of("30s"), of("5m"), of("500ms")),
            (Some(30_000), Some(30_000), Some(300_000), Some(500))
        );
        assert_eq!((of("-1"), of("1w"), of(""), of("s")), (None, None, None, None));
    }
}
