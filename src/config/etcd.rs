//! What etcd is given, and the user that its supervisor is to it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::reader::{Problem, Reader};
use super::security::is_secret;
use super::variables::{RETIRED, VARIABLES};
use crate::core::initial_list;
use crate::etcd::settings::{self, Kind};

impl Reader<'_> {
    pub(super) fn etcd_user(&mut self) -> Option<(String, PathBuf)> {
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

    /// etcd's own settings: `ETCD_OPTS` wins over variables.
    pub(super) fn etcd_settings(&mut self) -> BTreeMap<String, String> {
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
}

/// etcd's own variables, and the flags of `ETCD_OPTS` as variables over them.
pub(super) fn given(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let ours = |name: &str| VARIABLES.iter().any(|v| v.name == name) || RETIRED.contains(&name);
    let variables = env.iter().filter(|(name, _)| name.starts_with("ETCD_") && !ours(name));
    let variables = variables.map(|(name, value)| (name.clone(), value.clone()));
    let flags = env.get("ETCD_OPTS").map(String::as_str).unwrap_or_default().split_whitespace();
    variables.chain(flags.filter_map(option_as_variable)).collect()
}

/// `--snapshot-count=5` as `ETCD_SNAPSHOT_COUNT`, `5`; a flag without a value is true.
fn option_as_variable(word: &str) -> Option<(String, String)> {
    let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    let (name, value) = flag.split_once('=').unwrap_or((flag, "true"));
    let well_formed = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    well_formed.then(|| (format!("ETCD_{}", name.to_ascii_uppercase().replace('-', "_")), value.to_owned()))
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
