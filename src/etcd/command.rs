//! What etcd is told: by environment alone, for a setting given as flag and variable is fatal to it.

use std::collections::BTreeMap;
use std::path::Path;

use super::data_dir::Paths;

/// How etcd starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start<'a> {
    /// A new cluster under a chosen list.
    New { initial_cluster: &'a str, token: &'a str },
    /// An unstarted member of a living cluster.
    Existing { initial_cluster: &'a str },
    /// With its data; etcd ignores every `--initial-*`.
    Resume,
}

/// What is the same for every start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub name: String,
    pub paths: Paths,
    pub listen_peer_urls: String,
    pub listen_client_urls: String,
    pub advertise_peer_urls: String,
    pub advertise_client_urls: String,
    /// Certificates, keys and CAs, by etcd's variables.
    pub security: Vec<(String, String)>,
    /// `ETCD_*` as the operator gave them (`ETCD_OPTS` included); they win.
    pub operator: BTreeMap<String, String>,
}

/// etcd's versions, as far as a setting depends on them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Release {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl Release {
    /// Reads `3.5.1`; what follows a third number is left aside.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(['.', '-', '+']).map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self { major: next()?, minor: next()?, patch: next()? })
    }

    /// Whether it has after a kill all that it acknowledged: 3.5.0 to 3.5.2 may not (etcd#13766).
    pub fn survives_a_kill(self) -> bool {
        !matches!((self.major, self.minor, self.patch), (3, 5, 0..=2))
    }

    /// What is known to lose data in this release, if anything (etcd's CHANGELOG and postmortems).
    pub fn known_defect(self) -> Option<&'static str> {
        match (self.major, self.minor, self.patch) {
            (3, 5, 0..=2) => Some("loses committed transactions when killed under load; run 3.5.32 or later"),
            (3, 5, 3..=30) => Some("has known data or membership defects; run 3.5.32 or later"),
            (3, 6, 0..=11) => Some("has known data or membership defects; run 3.6.12 or later"),
            (3, ..=4, _) => Some("is past its end of life; run 3.5.32 or later"),
            _ => None,
        }
    }
}

/// The whole environment of etcd: ours below, the operator's on top, and nothing else but what a process needs.
pub fn environment(settings: &Settings, start: &Start<'_>, release: Option<Release>) -> BTreeMap<String, String> {
    let path = |path: &Path| path.display().to_string();
    let mut env = BTreeMap::new();
    let mut set = |key: &str, value: String| env.insert(format!("ETCD_{key}"), value);
    set("NAME", settings.name.clone());
    set("DATA_DIR", path(&settings.paths.data));
    set("WAL_DIR", path(&settings.paths.wal));
    set("LISTEN_PEER_URLS", settings.listen_peer_urls.clone());
    set("LISTEN_CLIENT_URLS", settings.listen_client_urls.clone());
    set("INITIAL_ADVERTISE_PEER_URLS", settings.advertise_peer_urls.clone());
    set("ADVERTISE_CLIENT_URLS", settings.advertise_client_urls.clone());
    env.extend(settings.security.iter().cloned());
    let mut set = |key: &str, value: String| env.insert(format!("ETCD_{key}"), value);
    // On 3.4 the old logger goes to journald when its parent is PID 1.
    set("LOGGER", "zap".to_owned());
    set("LOG_OUTPUTS", "stderr".to_owned());
    // Off by default in 3.4; a node that comes back from a partition must not depose the leader.
    set("PRE_VOTE", "true".to_owned());
    // Without it a truncated WAL starts healthy with acknowledged writes gone (measured).
    match release {
        Some(release) if (release.major, release.minor) >= (3, 6) => {
            let gates = settings.operator.get("ETCD_FEATURE_GATES").map_or(String::new(), |gates| format!("{gates},"));
            set("FEATURE_GATES", format!("{gates}InitialCorruptCheck=true"));
        }
        _ => {
            set("EXPERIMENTAL_INITIAL_CORRUPT_CHECK", "true".to_owned());
        }
    }
    match start {
        Start::New { initial_cluster, token } => {
            set("INITIAL_CLUSTER", (*initial_cluster).to_owned());
            set("INITIAL_CLUSTER_TOKEN", (*token).to_owned());
            set("INITIAL_CLUSTER_STATE", "new".to_owned());
        }
        Start::Existing { initial_cluster } => {
            set("INITIAL_CLUSTER", (*initial_cluster).to_owned());
            set("INITIAL_CLUSTER_STATE", "existing".to_owned());
        }
        Start::Resume => {}
    }
    for (key, value) in &settings.operator {
        let gates_with_ours =
            key == "ETCD_FEATURE_GATES" && env.contains_key(key) && !value.contains("InitialCorruptCheck");
        if !gates_with_ours {
            env.insert(key.clone(), value.clone());
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(operator: &[(&str, &str)]) -> Settings {
        Settings {
            name: "i-1".into(),
            paths: Paths { data: "/d".into(), wal: "/w".into(), wal_volume: None },
            listen_peer_urls: "http://10.0.0.1:2380".into(),
            listen_client_urls: "http://10.0.0.1:2379".into(),
            advertise_peer_urls: "http://10.0.0.1:2380".into(),
            advertise_client_urls: "http://10.0.0.1:2379".into(),
            security: vec![("ETCD_CERT_FILE".into(), "/ssl/client.crt".into())],
            operator: operator.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn the_operator_wins() {
        let env = environment(&settings(&[("ETCD_NAME", "mine"), ("ETCD_PRE_VOTE", "false")]), &Start::Resume, None);
        assert_eq!((env["ETCD_NAME"].as_str(), env["ETCD_PRE_VOTE"].as_str()), ("mine", "false"));
        assert_eq!(env["ETCD_CERT_FILE"], "/ssl/client.crt");
        assert!(!env.contains_key("ETCD_INITIAL_CLUSTER_STATE"));
    }

    #[test]
    fn the_corruption_check_is_on_in_every_release() {
        let gates = [("ETCD_FEATURE_GATES", "StopGRPCServiceOnDefrag=true")];
        let env = environment(&settings(&gates), &Start::Resume, Release::parse("3.6.12"));
        assert_eq!(env["ETCD_FEATURE_GATES"], "StopGRPCServiceOnDefrag=true,InitialCorruptCheck=true");
        let env = environment(&settings(&[]), &Start::Resume, Release::parse("3.5.1"));
        assert_eq!(env["ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK"], "true");
    }

    #[test]
    fn releases_are_read() {
        assert_eq!(Release::parse("3.5.1"), Some(Release { major: 3, minor: 5, patch: 1 }));
        assert_eq!(Release::parse("3.6.0-rc.1").map(|r| r.patch), Some(0));
        assert_eq!(Release::parse("git"), None);
        assert!(Release::parse("3.5.1").unwrap().known_defect().is_some());
        assert!(Release::parse("3.5.32").unwrap().known_defect().is_none());
    }
}
