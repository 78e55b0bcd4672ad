//! etcd's settings, and the user as which its supervisor logs in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::instances::Instances;
use super::reader::{Problem, Reader};
use super::security::{Minting, Security, is_secret};
use super::variables::{self, RETIRED};
use crate::core::initial_list;
use crate::etcd::settings::{self, Kind};

/// How members are addressed in advertised URLs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberType {
    Host,
    Ip,
}

const MEMBER_TYPES: [(&str, MemberType); 2] = [("host", MemberType::Host), ("ip", MemberType::Ip)];

/// This node's etcd: its program, its addresses and its settings.
#[derive(Clone, Debug)]
pub struct Etcd {
    pub home: PathBuf,
    /// The `PATH` to search for it.
    pub search_path: String,
    /// Its data directory; ours is inside.
    pub data: PathBuf,
    pub wal: PathBuf,
    /// The `ETCD_*` variables that etcd knows.
    pub settings: BTreeMap<String, String>,
    pub member_type: MemberType,
    pub client: Port,
    /// The supervisors use it too.
    pub peer: Port,
    /// `Some`: a side's certificates are issued here.
    pub minting: Option<Minting>,
    /// `MUSTER_LOOPBACK_HTTP`: the client port speaks plain HTTP on loopback.
    pub loopback_http: bool,
    /// `MUSTER_ETCD_USER` and its password's file, for an etcd with authentication enabled.
    pub user: Option<(String, PathBuf)>,
}

/// One of etcd's two ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    pub number: u16,
    pub security: Security,
}

impl Reader {
    pub(super) fn etcd(&mut self, instances: &Instances) -> Etcd {
        let (client_port, peer_port) = (self.port(&variables::CLIENT_PORT), self.port(&variables::PEER_PORT));
        if client_port == peer_port {
            self.wrong(variables::PEER_PORT.name, "is CLNT_PORT too; give them different ports");
        }
        let settings = self.etcd_settings();
        let data = self.text("ETCD_DATA_DIR").map_or_else(|| self.path(&variables::DATA), PathBuf::from);
        let (client, peer, minting) = self.security(&data);
        // Only addresses are compared; a host's name need not resolve.
        let usual = match instances {
            Instances::Tagged(_) => MemberType::Host,
            Instances::Written(_) => MemberType::Ip,
        };
        Etcd {
            home: self.path(&variables::HOME),
            search_path: self.text("PATH").unwrap_or_default().to_owned(),
            data,
            wal: self.path(&variables::WAL),
            settings,
            member_type: self.choice_or(&variables::MEMBER_TYPE, &MEMBER_TYPES, usual),
            client: Port { number: client_port, security: client },
            peer: Port { number: peer_port, security: peer },
            minting,
            loopback_http: self.yes(&variables::LOOPBACK_HTTP),
            user: self.etcd_user(),
        }
    }

    fn etcd_user(&mut self) -> Option<(String, PathBuf)> {
        let (user, file) = (variables::ETCD_USER.name, variables::ETCD_PASSWORD_FILE.name);
        if self.text(file).is_some_and(|value| is_secret(file, value)) {
            self.problems.push(Problem(format!(
                "{file}: is not an absolute path (not shown); it must be the path of the file with the password, \
                 not the password"
            )));
            return None;
        }
        match (self.text(user).map(str::to_owned), self.text(file).map(PathBuf::from)) {
            (Some(user), Some(file)) => Some((user, file)),
            (None, None) => None,
            (Some(_), None) => {
                self.wrong(file, format!("is missing: {user} is set; name the file with the password"));
                None
            }
            (None, Some(_)) => {
                self.wrong(user, format!("is missing: {file} is set; name the user, for example root"));
                None
            }
        }
    }

    /// etcd's own settings: `ETCD_OPTS` overrides variables.
    fn etcd_settings(&mut self) -> BTreeMap<String, String> {
        for (place, word) in
            self.text(variables::ETCD_OPTS.name).unwrap_or_default().to_owned().split_whitespace().enumerate()
        {
            if option_as_variable(word).is_none() {
                self.wrong(
                    variables::ETCD_OPTS.name,
                    format!("word {} is not of the form --flag=value; write every flag like that", place + 1),
                );
            }
        }
        let mut passed = BTreeMap::new();
        for (name, value) in self.given.clone() {
            match settings::kind(&name) {
                Kind::Passed => match unfit(&name, &value) {
                    // A value that a list would contain is refused before a list is agreed on; etcd would refuse it only then.
                    Some(why) => self.wrong_value(&name, &value, why),
                    None => _ = passed.insert(name, value),
                },
                Kind::Forbidden(why) => self.wrong_value(&name, &value, why),
                Kind::Token | Kind::Foreign => {}
            }
        }
        passed
    }
}

/// etcd's own variables, overridden by the flags of `ETCD_OPTS` as variables.
pub(super) fn given(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let ours = |name: &str| variables::find(name).is_some() || RETIRED.contains(&name);
    let variables = env.iter().filter(|(name, _)| name.starts_with("ETCD_") && !ours(name));
    let variables = variables.map(|(name, value)| (name.clone(), value.clone()));
    let flags = variables::ETCD_OPTS.value(env).unwrap_or_default().split_whitespace();
    variables.chain(flags.filter_map(option_as_variable)).collect()
}

/// `--snapshot-count=5` as `ETCD_SNAPSHOT_COUNT`, `5`; a flag without a value is true.
fn option_as_variable(word: &str) -> Option<(String, String)> {
    let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    let (name, value) = flag.split_once('=').unwrap_or((flag, "true"));
    let well_formed = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    well_formed.then(|| (format!("ETCD_{}", name.to_ascii_uppercase().replace('-', "_")), value.to_owned()))
}

/// Why etcd could not be started with that value, if that would show only after a list with it was agreed on.
fn unfit(name: &str, value: &str) -> Option<String> {
    let quoted = |quote| value.len() > 1 && value.starts_with(quote) && value.ends_with(quote);
    if quoted('"') || quoted('\'') {
        return Some("is in quotes, which docker's --env-file keeps; remove them".to_owned());
    }
    let url = |url: &str| initial_list::url_fault(url.trim()).map(|why| format!("{:?} {why}", url.trim()));
    match name {
        "ETCD_NAME" => initial_list::name_fault(value).map(str::to_owned),
        "ETCD_INITIAL_ADVERTISE_PEER_URLS" => value.split(',').filter(|url| !url.trim().is_empty()).find_map(url),
        _ => None,
    }
}
