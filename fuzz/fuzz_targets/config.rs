//! An environment, as `/proc/PID/environ` has it (NAME=value, each ended by a zero byte): no panic, every problem is one line, no
//! secret is in any of them nor in the settings' Debug, and of what passes nothing is out of all bounds.
#![cfg_attr(fuzzing, no_main)]

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_muster::config::{self, Config};
use etcd_muster::peer::clients::PeerClients;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| holds(data));

/// In the seeds every secret holds this.
const SECRET: &str = "hunter2";
/// Whose values are secret, or are of no name that is known.
const SECRETS: [&str; 6] = [
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "MUSTER_ETCD_PASSWORD",
    "ETCD_DISCOVERY",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
];
/// No clock overflows over sums of these.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86400);

pub fn holds(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let pairs = text.split('\0').filter_map(|entry| entry.split_once('='));
    let mut env: BTreeMap<String, String> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    // No certificates may be found on the machine this runs on.
    env.insert("ED_SSL".to_owned(), "/nonexistent".to_owned());
    let told_elsewhere = env
        .iter()
        .any(|(name, value)| name.contains(SECRET) || (!SECRETS.contains(&name.as_str()) && value.contains(SECRET)));
    let shown = match config::read(&env) {
        Ok(config) => {
            bounded(&config);
            assert!(
                !env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").is_some_and(|path| path.starts_with('@')),
                "its token goes to another host"
            );
            format!("{config:?} {}", config.warnings.join(" "))
        }
        Err(problems) => {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            assert!(!lines.is_empty());
            let steers = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}');
            assert!(lines.iter().all(|line| !line.contains(steers)), "{lines:?}");
            lines.concat()
        }
    };
    assert!(told_elsewhere || !shown.contains(SECRET), "{shown}");
}

fn bounded(config: &Config) {
    let policy = &config.policy();
    let spans = [
        config.observation.longest_pause,
        config.observation.probe_timeout,
        config.stop.drain_timeout,
        config.stop.timeout,
        config.removal.interval.unwrap_or_default(),
        config.etcd.minting.as_ref().map(|minting| minting.life).unwrap_or_default(),
        policy.found_grace,
        policy.found_window,
        policy.clean_dwell,
    ];
    assert!(spans.iter().all(|span| *span <= LONGEST), "{spans:?}");
    assert!(config.etcd.client.number != config.etcd.peer.number);
    assert!(policy.cluster_size.is_none_or(|size| (1..=99).contains(&size)));
    _ = PeerClients::new(&config.etcd, None);
}
