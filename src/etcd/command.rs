//! etcd's settings: only as environment variables, because a setting given both as flag and as variable is fatal to it.

use std::collections::BTreeMap;
use std::path::Path;

use super::by_release;
use super::data_dir::Paths;
use crate::core::release::Release;

/// How etcd starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start<'a> {
    /// A new cluster under a chosen list.
    New { initial_cluster: &'a str, token: &'a str },
    /// An unstarted member of a running cluster.
    Existing { initial_cluster: &'a str },
    /// With its data; etcd then ignores every `--initial-*`.
    Resume,
}

/// The settings that are the same for every start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub name: String,
    pub paths: Paths,
    pub listen_peer_urls: String,
    pub listen_client_urls: String,
    pub advertise_peer_urls: String,
    pub advertise_client_urls: String,
    /// Certificates, keys and CAs, under etcd's variables.
    pub security: Vec<(String, String)>,
    /// The operator's `ETCD_*` variables (`ETCD_OPTS` included); they win.
    pub operator: BTreeMap<String, String>,
}

/// etcd's whole environment: ours first, the operator's over it, and otherwise only what a process needs.
///
/// `snapshot_count`: for this run only, overriding the operator's ([`snapshot_count`](crate::core::upgrade::snapshot_count)).
pub fn environment(
    settings: &Settings,
    start: &Start<'_>,
    release: Option<Release>,
    snapshot_count: Option<u64>,
) -> BTreeMap<String, String> {
    let path = |path: &Path| path.display().to_string();
    let operator = by_release::fit(&settings.operator, release).settings;
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
    // On 3.4 the old logger writes to journald if its parent is PID 1.
    set("LOGGER", "zap".to_owned());
    set("LOG_OUTPUTS", "stderr".to_owned());
    // Off by default in 3.4; a node that returns from a partition must not depose the leader.
    set("PRE_VOTE", "true".to_owned());
    // Without it a truncated WAL starts, and reports healthy, with acknowledged writes gone (measured).
    match release {
        Some(release) if release.is_at_least(3, 6) => {
            let gates = operator.get("ETCD_FEATURE_GATES").map_or(String::new(), |gates| format!("{gates},"));
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
    for (key, value) in &operator {
        let gates_with_ours =
            key == "ETCD_FEATURE_GATES" && env.contains_key(key) && !value.contains("InitialCorruptCheck");
        if !gates_with_ours {
            env.insert(key.clone(), value.clone());
        }
    }
    if let Some(count) = snapshot_count {
        env.insert("ETCD_SNAPSHOT_COUNT".to_owned(), count.to_string());
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
        let env =
            environment(&settings(&[("ETCD_NAME", "mine"), ("ETCD_PRE_VOTE", "false")]), &Start::Resume, None, None);
        assert_eq!((env["ETCD_NAME"].as_str(), env["ETCD_PRE_VOTE"].as_str()), ("mine", "false"));
        assert_eq!(env["ETCD_CERT_FILE"], "/ssl/client.crt");
        assert!(!env.contains_key("ETCD_INITIAL_CLUSTER_STATE"));
    }

    #[test]
    fn the_corruption_check_is_on_in_every_release() {
        let gates = [("ETCD_FEATURE_GATES", "StopGRPCServiceOnDefrag=true")];
        let env = environment(&settings(&gates), &Start::Resume, Release::parse("3.6.12"), None);
        assert_eq!(env["ETCD_FEATURE_GATES"], "StopGRPCServiceOnDefrag=true,InitialCorruptCheck=true");
        let env = environment(&settings(&[]), &Start::Resume, Release::parse("3.5.1"), None);
        assert_eq!(env["ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK"], "true");
    }

    /// 3.6 refuses the check by both its names at once, whichever of them the operator took.
    #[test]
    fn the_operators_word_on_the_corruption_check_is_the_only_one() {
        for release in ["3.6.16", "3.7.3"] {
            for off in [
                ("ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK", "false"),
                ("ETCD_FEATURE_GATES", "InitialCorruptCheck=false"),
            ] {
                let env = environment(&settings(&[off]), &Start::Resume, Release::parse(release), None);
                assert_eq!(env["ETCD_FEATURE_GATES"], "InitialCorruptCheck=false", "{release}");
                assert!(!env.contains_key("ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK"));
            }
        }
    }
}
