//! The names of the variables: one row each, and no part of it is written elsewhere.

use std::collections::BTreeMap;

use super::reader::Problem;
use super::security::shown;
use crate::aws::partition::{USE_DUALSTACK, USE_FIPS};

/// One of our variables (the original's names included): `etcd-muster env` and the table in docs/variables.md show it.
#[derive(Debug)]
pub struct Variable {
    pub name: &'static str,
    pub alias: Option<Alias>,
    /// The value of an unset variable; as text, if it is computed.
    pub default: &'static str,
    pub meaning: &'static str,
}

/// Another name under which a variable is read.
#[derive(Clone, Copy, Debug)]
pub enum Alias {
    /// From an earlier release of ours: the log mentions the new name at the start.
    Former(&'static str),
    /// From the script from which this program began: it stays.
    Original(&'static str),
}

impl Alias {
    /// The name itself.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Former(name) | Self::Original(name) => name,
        }
    }
}

impl Variable {
    /// Its name, and the other one if it has two.
    pub fn spellings(&self) -> impl Iterator<Item = &'static str> {
        [self.name].into_iter().chain(self.alias.map(Alias::name))
    }

    /// The flag that stands for it: `--cluster-size` for `MUSTER_CLUSTER_SIZE`.
    pub fn flag(&self) -> Option<String> {
        flag(self.name)
    }

    /// Its value there, under either name.
    pub fn value<'a>(&self, env: &'a BTreeMap<String, String>) -> Option<&'a str> {
        self.spellings().find_map(|name| env.get(name)).map(String::as_str)
    }

    /// Its meaning, and its other name.
    pub fn explained(&self) -> String {
        match self.alias {
            None => self.meaning.to_owned(),
            Some(Alias::Former(name)) => format!("{} (formerly {name})", self.meaning),
            Some(Alias::Original(name)) => format!("{} (also {name})", self.meaning),
        }
    }
}

/// The variable with that name.
pub fn find(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().copied().find(|variable| variable.spellings().any(|spelling| spelling == name))
}

/// The name for a flag: `MUSTER_CLUSTER_SIZE` for `--cluster-size`.
pub fn named_by(word: &str) -> Option<&'static str> {
    VARIABLES.iter().flat_map(|variable| variable.spellings()).find(|name| flag(name).as_deref() == Some(word))
}

fn flag(name: &str) -> Option<String> {
    Some(format!("--{}", name.strip_prefix("MUSTER_")?.to_ascii_lowercase().replace('_', "-")))
}

/// An environment in which every variable has its main name, and the variables that had the other one.
pub(super) struct Resolved {
    pub(super) env: BTreeMap<String, String>,
    pub(super) by_alias: Vec<(&'static Variable, Alias)>,
    pub(super) problems: Vec<Problem>,
}

impl Resolved {
    /// Two names with two values are a problem: neither wins. With one value they are fine, as during an update of a fleet.
    pub(super) fn new(env: &BTreeMap<String, String>) -> Self {
        let (mut env, mut by_alias, mut problems) = (env.clone(), Vec::new(), Vec::new());
        for &variable in VARIABLES {
            let Some(alias) = variable.alias else { continue };
            let Some(value) = env.remove(alias.name()).filter(|value| !value.is_empty()) else { continue };
            match env.get(variable.name).filter(|own| !own.is_empty()) {
                Some(own) if *own == value => {}
                Some(own) => {
                    let pair = |name, value| format!("{name}={}", shown(name, value).as_deref().unwrap_or("…"));
                    let (own, other) = (pair(variable.name, own), pair(alias.name(), &value));
                    problems.push(Problem(format!("{own}: but {other} is the same setting; unset one of them")));
                }
                None => {
                    env.insert(variable.name.to_owned(), value);
                    by_alias.push((variable, alias));
                }
            }
        }
        Self { env, by_alias, problems }
    }

    /// A variable's name as it was given.
    pub(super) fn spelt<'a>(&self, name: &'a str) -> &'a str {
        let by_alias = self.by_alias.iter().find(|(variable, _)| variable.name == name);
        by_alias.map_or(name, |(_, alias)| alias.name())
    }
}

/// One row for each variable: the constant, its name (and another one), its default, its meaning.
macro_rules! variables {
    ($($row:ident: $name:literal $(($kind:ident $alias:literal))? = $default:literal, $meaning:literal;)*) => {
        $(pub(super) static $row: Variable = Variable {
            name: $name,
            alias: variables!(@alias $($kind $alias)?),
            default: $default,
            meaning: $meaning,
        };)*

        /// Every variable that is read, besides etcd's own `ETCD_*` and AWS's.
        pub static VARIABLES: &[&Variable] = &[$(&$row),*];
    };
    (@alias) => { None };
    (@alias formerly $alias:literal) => { Some(Alias::Former($alias)) };
    (@alias original $alias:literal) => { Some(Alias::Original($alias)) };
}

variables! {
    HOSTS: "MUSTER_HOSTS" (formerly "MUSTER_ROSTER") = "ec2",
        "where the instances are listed: ec2, static:host=address,host2=address2, or file:/path.json";
    TAG: "DOCKER_EC2TAG" = "etcd", "the tag that an instance must carry";
    TAG_VALUE: "DOCKER_EC2VAL" = "1", "the value of that tag";
    TAGS: "MUSTER_TAGS" = "DOCKER_EC2TAG=DOCKER_EC2VAL", "tags that must all match: key=value,key2=\"a value, in quotes\"";
    REGION: "DOCKER_AWSREG" = "AWS_REGION, AWS_DEFAULT_REGION, IMDS, eu-west-1", "the region";
    CLIENT_PORT: "CLNT_PORT" = "2379", "etcd's client port";
    CLIENT_SCHEME: "MUSTER_CLIENT_SCHEME" (original "CLNT_SCHEMA") = "http, or https if there is a certificate",
        "the client port's scheme";
    PEER_PORT: "PEER_PORT" = "2380", "etcd's peer port; the supervisors use it while etcd does not run";
    PEER_SCHEME: "MUSTER_PEER_SCHEME" (original "PEER_SCHEMA") = "http, or https if there is a certificate",
        "the peer port's scheme";
    LONGEST_PAUSE: "BOOTSTRAP_WAIT" = "20", "longest pause between observations while nothing changes";
    MEMBER_TYPE: "ETCD_MEMBER_TYPE" = "host, or ip where MUSTER_HOSTS lists addresses",
        "advertise by private DNS name (host) or address (ip)";
    HOME: "ED_HOME" = "/etcd", "etcd is ED_HOME/bin/etcd, otherwise etcd from PATH";
    DATA: "ED_DATA" = "/etcd/data", "etcd's data directory; the supervisor's own state is in ED_DATA/muster";
    WAL: "ED_WAL" = "/etcd/wal", "the volume of etcd's WAL";
    SSL: "ED_SSL" = "/etcd/ssl", "the directory of certificates, keys and CAs";
    CLIENT_CERT_FILE: "CLIENT_CERT_FILE" = "client.crt",
        "the client port's certificate, in ED_SSL: if it exists, the port is https";
    CLIENT_KEY_FILE: "CLIENT_KEY_FILE" = "client.key", "its key";
    CLIENT_CA_FILE: "CLIENT_TRUSTED_CA_FILE" = "client_ca.crt", "the CA with which clients and servers verify each other";
    PEER_CERT_FILE: "PEER_CERT_FILE" = "peer.crt",
        "the peer port's certificate, in ED_SSL: if it exists, the port is https";
    PEER_KEY_FILE: "PEER_KEY_FILE" = "peer.key", "its key";
    PEER_CA_FILE: "PEER_TRUSTED_CA_FILE" = "peer_ca.crt", "the CA with which members verify each other";
    CA_CERT: "MUSTER_CA_CERT" = "", "the CA that signs a certificate issued here, if a scheme is https and no \
        certificate exists";
    CA_KEY: "MUSTER_CA_KEY" = "", "that CA's key: a file, or ssm:/name for a parameter in Systems Manager";
    // Three months: long enough for any outage of the CA's key, short enough that renewal is exercised.
    CERT_VALIDITY: "MUSTER_CERT_VALIDITY" (formerly "MUSTER_LEAF_LIFE") = "90d",
        "how long such a certificate is valid; it is renewed after two thirds";
    EXTRA_SANS: "MUSTER_EXTRA_SANS" = "", "names and addresses in that certificate besides the node's own: \
        etcd.example.com,10.0.0.9";
    LOOPBACK_HTTP: "MUSTER_LOOPBACK_HTTP" (formerly "MUSTER_PLAIN_LOOPBACK") = "no",
        "yes: the client port speaks plain HTTP on loopback (not in a bridged container, where one socket serves all addresses)";
    ETCD_USER: "MUSTER_ETCD_USER" = "", "the user for an etcd with authentication enabled";
    ETCD_PASSWORD_FILE: "MUSTER_ETCD_PASSWORD_FILE" = "", "the file with that user's password";
    ETCD_OPTS: "ETCD_OPTS" = "",
        "flags for etcd: --flag=value words; each becomes its ETCD_ variable and overrides it";
    CLUSTER_SIZE: "MUSTER_CLUSTER_SIZE" = "the number of tagged (or listed) instances",
        "how many members the cluster should have";
    MIN_NODES: "MUSTER_MIN_NODES" = "2", "the least number of instances for a bootstrap";
    BOOTSTRAP_GRACE: "MUSTER_BOOTSTRAP_GRACE" (formerly "MUSTER_FOUND_GRACE") = "60",
        "how long to wait for an absent instance before a bootstrap without it";
    BOOTSTRAP_WINDOW: "MUSTER_BOOTSTRAP_WINDOW" (formerly "MUSTER_FOUND_WINDOW") = "15m",
        "greatest age of an instance in a fleet that may bootstrap without absent instances";
    BOOTSTRAP_WITHOUT_ABSENT: "MUSTER_BOOTSTRAP_WITHOUT_ABSENT" (formerly "MUSTER_FOUND_ABSENT") = "no",
        "yes: you confirm that the absent instances have no cluster";
    BOOTSTRAP_ALONE: "MUSTER_BOOTSTRAP_ALONE" (formerly "MUSTER_FOUND_ALONE") = "no",
        "yes: you confirm that the other of two instances has no cluster";
    CLAIM: "MUSTER_CLAIM" = "",
        "s3://bucket/prefix: one object there decides the first members; it is written only if it does not exist";
    REMOVE: "MUSTER_REMOVE" (formerly "MUSTER_CLEAN") = "gone",
        "which members may be removed: gone (EC2 or the list says that the instance is gone), unhealthy (also those \
         that have not answered for 5 minutes), off";
    REMOVE_AFTER: "MUSTER_REMOVE_AFTER" (formerly "MUSTER_CLEAN_DWELL") = "30",
        "how long a member must not have answered before it may be removed";
    ADOPT: "MUSTER_ADOPT" = "",
        "a member's id: you confirm that its data here is the newest, and that no other copy of it runs";
    JOIN: "MUSTER_JOIN" = "",
        "client URLs of a cluster outside the roster, with commas: a node without data joins it, beside its members, and never \
         founds one";
    JOIN_NEWER: "MUSTER_JOIN_NEWER" = "no",
        "yes: you vouch that no member's log holds what a newer etcd can't apply, so that a node with one may join";
    REMOVE_INTERVAL: "MUSTER_REMOVE_INTERVAL" (formerly "MUSTER_RECONCILE") = "0",
        "how often the leader's supervisor checks for dead members; 0: never, only joining nodes do";
    LEAVE: "MUSTER_LEAVE" = "no", "on-terminate: leave the cluster when EC2 is about to terminate this instance";
    LIFECYCLE_HOOK: "MUSTER_LIFECYCLE_HOOK" = "",
        "names of the Auto Scaling group's hooks to complete: NAME or NAME,NAME2";
    SNAPSHOTS: "MUSTER_SNAPSHOTS" = "",
        "where snapshots of etcd are stored: s3://bucket/prefix, file:/dir, or several with commas; nowhere: none are taken";
    SNAPSHOT_EVERY: "MUSTER_SNAPSHOT_EVERY" = "1h",
        "how often the leader's supervisor takes one; 0: only snapshot save does";
    SNAPSHOT_KEEP: "MUSTER_SNAPSHOT_KEEP" = "24h,7d,4w",
        "of how many hours, days and weeks the newest one is kept; of the others, scheduled ones are deleted";
    SNAPSHOT_VERIFY: "MUSTER_SNAPSHOT_VERIFY" = "digest",
        "how stored ones are proved: digest (read back whole), restore (an etcd is also restored from it and its keys compared)";
    SNAPSHOT_KEY: "MUSTER_SNAPSHOT_KEY" = "",
        "the key with which they are encrypted before they are stored: a file, or ssm:/name for a parameter in Systems Manager";
    SNAPSHOT_SSE: "MUSTER_SNAPSHOT_SSE" = "",
        "how S3 encrypts them: aws:kms, aws:kms:KEY, or the file of a customer key (32 bytes as base64)";
    SEED: "MUSTER_SEED" = "",
        "what a cluster that is founded begins with: a place with snapshots (its newest verified one), PLACE/CLUSTER, or PLACE/CLUSTER/NAME; \
         the same on all nodes";
    S3_ENDPOINT: "MUSTER_S3_ENDPOINT" = "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS's own",
        "the store for snapshots and the claim, if it is not AWS's: http://host:port";
    S3_REGION: "MUSTER_S3_REGION" = "the region", "that store's region";
    S3_ACCESS_KEY_ID: "MUSTER_S3_ACCESS_KEY_ID" = "AWS's credentials", "that store's credentials";
    S3_SECRET_ACCESS_KEY: "MUSTER_S3_SECRET_ACCESS_KEY" = "", "their secret";
    S3_SECRET_ACCESS_KEY_FILE: "MUSTER_S3_SECRET_ACCESS_KEY_FILE" = "", "the file with their secret";
    PROBE_TIMEOUT: "MUSTER_PROBE_TIMEOUT" = "3", "how long a peer may take to answer a probe";
    DRAIN_TIMEOUT: "MUSTER_DRAIN_TIMEOUT" = "3",
        "how long clients may delay a stop if the other members have everything; then etcd is killed";
    STOP_TIMEOUT: "MUSTER_STOP_TIMEOUT" = "25", "how long etcd may take to stop before it is killed";
    STATUS_LISTEN: "MUSTER_STATUS_LISTEN" = "", "address:port that serves /metrics, /status, /livez and /readyz over TCP";
    LOG: "MUSTER_LOG" = "info", "error, warn, info, debug or trace";
    LOG_FORMAT: "MUSTER_LOG_FORMAT" = "text", "the log of run: text, or json in the shape of etcd's own lines";
}

/// Variables of the original that no longer have an effect.
pub(super) const RETIRED: [&str; 4] = ["DOCKER_SOCKET", "DOCKER_AWSCLI", "ETCD_MEMBER_ADD_OK", "ETCD_MEMBER_DEL_OK"];

// AWS's own are parsed as its SDKs do (AWS SDKs and Tools Reference Guide), and not listed among ours.

const fn foreign(name: &'static str, default: &'static str) -> Variable {
    Variable { name, alias: None, default, meaning: "" }
}

pub(super) static AWS_METADATA_MODE: Variable = foreign("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv4");
pub(super) static AWS_METADATA_DISABLED: Variable = foreign("AWS_EC2_METADATA_DISABLED", "false");
pub(super) static AWS_USE_FIPS: Variable = foreign(USE_FIPS, "no");
pub(super) static AWS_USE_DUALSTACK: Variable = foreign(USE_DUALSTACK, "no");
/// etcd's variable; our tokens append a random part to it.
pub(super) static TOKEN_PREFIX: Variable = foreign("ETCD_INITIAL_CLUSTER_TOKEN", "etcd-muster");
