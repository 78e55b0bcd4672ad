//! The names of settings in each release, and how to treat a setting that the installed release does not know.
//!
//! etcd itself only warns about a variable that it does not know ("unrecognized environment variable") and runs without it;
//! with the old and the new name at once 3.6 does not start. So the operator's settings are translated or refused by release,
//! and both are logged. (Sources: each variable given to 3.3.25, 3.4.23, 3.5.1, 3.5.16, 3.5.30, 3.5.35, 3.6.16 and 3.7.3; the
//! patch releases in between by etcd's CHANGELOG; successors by release-3.6's server/embed/config.go and
//! server/features/etcd_features.go.)

use std::collections::BTreeMap;

use crate::core::release::Release;

const GATES: &str = "ETCD_FEATURE_GATES";

/// The releases of etcd 3 that know a setting.
struct Known {
    /// Without `ETCD_`.
    name: &'static str,
    /// `(minor, patch)` in which it appeared, for each minor release that got it; later minor releases have it as well.
    since: &'static [(u32, u32)],
    /// The first minor release without it.
    until: u32,
}

/// No release has dropped it yet.
const NEVER: u32 = u32::MAX;

const fn known(name: &'static str, since: &'static [(u32, u32)], until: u32) -> Known {
    Known { name, since, until }
}

/// Settings that some release does not know. Every release knows the others.
const KNOWN: &[Known] = &[
    known("BACKEND_BATCH_INTERVAL", &[(4, 0)], NEVER),
    known("BACKEND_BATCH_LIMIT", &[(4, 0)], NEVER),
    known("BACKEND_BBOLT_FREELIST_TYPE", &[(5, 0)], NEVER),
    known("BCRYPT_COST", &[(4, 0)], NEVER),
    known("BOOTSTRAP_DEFRAG_THRESHOLD_MEGABYTES", &[(6, 0)], NEVER),
    known("CLIENT_CERT_ALLOWED_HOSTNAME", &[(4, 0)], NEVER),
    known("CLIENT_CERT_FILE", &[(5, 0)], NEVER),
    known("CLIENT_KEY_FILE", &[(5, 0)], NEVER),
    known("COMPACTION_BATCH_LIMIT", &[(6, 0)], NEVER),
    known("COMPACTION_SLEEP_INTERVAL", &[(6, 0)], NEVER),
    known("COMPACT_HASH_CHECK_TIME", &[(6, 0)], NEVER),
    known("CORRUPT_CHECK_TIME", &[(6, 0)], NEVER),
    known("DEBUG", &[(0, 0)], 5),
    known("DISTRIBUTED_TRACING_ADDRESS", &[(6, 0)], NEVER),
    known("DISTRIBUTED_TRACING_INSTANCE_ID", &[(6, 0)], NEVER),
    known("DISTRIBUTED_TRACING_SAMPLING_RATE", &[(6, 0)], NEVER),
    known("DISTRIBUTED_TRACING_SERVICE_NAME", &[(6, 0)], NEVER),
    known("DOWNGRADE_CHECK_TIME", &[(6, 0)], NEVER),
    known("ENABLE_DISTRIBUTED_TRACING", &[(6, 0)], NEVER),
    known("ENABLE_LOG_ROTATION", &[(5, 0)], NEVER),
    known("ENABLE_V2", &[(0, 0)], 6),
    known("EXPERIMENTAL_BACKEND_BBOLT_FREELIST_TYPE", &[(4, 0)], 5),
    known("EXPERIMENTAL_BOOTSTRAP_DEFRAG_THRESHOLD_MEGABYTES", &[(5, 0)], 7),
    known("EXPERIMENTAL_COMPACTION_BATCH_LIMIT", &[(4, 0)], 7),
    known("EXPERIMENTAL_COMPACTION_SLEEP_INTERVAL", &[(5, 16)], 7),
    known("EXPERIMENTAL_COMPACT_HASH_CHECK_ENABLED", &[(5, 5)], 7),
    known("EXPERIMENTAL_COMPACT_HASH_CHECK_TIME", &[(5, 5)], 7),
    known("EXPERIMENTAL_CORRUPT_CHECK_TIME", &[(3, 0)], 7),
    known("EXPERIMENTAL_DISTRIBUTED_TRACING_ADDRESS", &[(5, 0)], 7),
    known("EXPERIMENTAL_DISTRIBUTED_TRACING_INSTANCE_ID", &[(5, 0)], 7),
    known("EXPERIMENTAL_DISTRIBUTED_TRACING_SAMPLING_RATE", &[(5, 11)], 7),
    known("EXPERIMENTAL_DISTRIBUTED_TRACING_SERVICE_NAME", &[(5, 0)], 7),
    known("EXPERIMENTAL_DOWNGRADE_CHECK_TIME", &[(5, 0)], 7),
    known("EXPERIMENTAL_ENABLE_DISTRIBUTED_TRACING", &[(5, 0)], 7),
    known("EXPERIMENTAL_ENABLE_LEASE_CHECKPOINT", &[(4, 0)], 7),
    known("EXPERIMENTAL_ENABLE_LEASE_CHECKPOINT_PERSIST", &[(4, 20), (5, 2)], 7),
    known("EXPERIMENTAL_ENABLE_V2V3", &[(3, 0)], 6),
    known("EXPERIMENTAL_INITIAL_CORRUPT_CHECK", &[(3, 0)], 7),
    known("EXPERIMENTAL_MAX_LEARNERS", &[], NEVER), // only release candidates of 3.6 had it
    known("EXPERIMENTAL_MEMORY_MLOCK", &[(5, 0)], 7),
    known("EXPERIMENTAL_PEER_SKIP_CLIENT_SAN_VERIFICATION", &[(3, 0)], 7),
    known("EXPERIMENTAL_SNAPSHOT_CATCHUP_ENTRIES", &[(5, 2)], 7), // seen in 3.5.16, missed in 3.5.1
    known("EXPERIMENTAL_STOP_GRPC_SERVICE_ON_DEFRAG", &[(5, 14)], 7),
    known("EXPERIMENTAL_TXN_MODE_WRITE_WITH_SHARED_BUFFER", &[(5, 0)], 7),
    known("EXPERIMENTAL_WARNING_APPLY_DURATION", &[(4, 0)], 7),
    known("EXPERIMENTAL_WARNING_UNARY_REQUEST_DURATION", &[(6, 0)], 7),
    known("EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", &[(4, 0)], 7),
    known("FEATURE_GATES", &[(6, 0)], NEVER),
    known("HOST_WHITELIST", &[(4, 0)], NEVER),
    known("LISTEN_CLIENT_HTTP_URLS", &[(4, 25), (5, 8)], NEVER),
    known("LOGGER", &[(4, 0)], NEVER),
    known("LOG_FORMAT", &[(6, 0)], NEVER),
    known("LOG_LEVEL", &[(4, 0)], NEVER),
    known("LOG_OUTPUTS", &[(4, 0)], NEVER),
    known("LOG_PACKAGE_LEVELS", &[(0, 0)], 5),
    known("LOG_ROTATION_CONFIG_JSON", &[(5, 0)], NEVER),
    known("MAX_CONCURRENT_STREAMS", &[(4, 20), (5, 5)], NEVER),
    known("MAX_LEARNERS", &[(6, 0)], NEVER),
    known("MEMORY_MLOCK", &[(6, 0)], NEVER),
    known("PEER_CERT_ALLOWED_HOSTNAME", &[(4, 0)], NEVER),
    known("PEER_CLIENT_CERT_FILE", &[(5, 0)], NEVER),
    known("PEER_CLIENT_KEY_FILE", &[(5, 0)], NEVER),
    known("PEER_SKIP_CLIENT_SAN_VERIFICATION", &[(6, 0)], NEVER),
    known("PRE_VOTE", &[(4, 0)], NEVER),
    known("RAFT_READ_TIMEOUT", &[(5, 0)], NEVER),
    known("RAFT_WRITE_TIMEOUT", &[(5, 0)], NEVER),
    known("SELF_SIGNED_CERT_VALIDITY", &[(5, 0)], NEVER),
    known("SNAPSHOT_CATCHUP_ENTRIES", &[(6, 0)], NEVER),
    known("SOCKET_REUSE_ADDRESS", &[(5, 0)], NEVER),
    known("SOCKET_REUSE_PORT", &[(5, 0)], NEVER),
    known("TLS_MAX_VERSION", &[(4, 25), (5, 8)], NEVER),
    known("TLS_MIN_VERSION", &[(4, 25), (5, 8)], NEVER),
    known("UNSAFE_NO_FSYNC", &[(4, 0)], NEVER),
    known("V2_DEPRECATION", &[(5, 0)], NEVER),
    known("WARNING_APPLY_DURATION", &[(6, 0)], NEVER),
    known("WARNING_UNARY_REQUEST_DURATION", &[(6, 0)], NEVER),
    known("WATCH_PROGRESS_NOTIFY_INTERVAL", &[(6, 0)], NEVER),
];

/// Experimental settings that have become feature gates. The others have only lost the first word of their name, if anything.
const GATED: &[(&str, &str)] = &[
    ("ETCD_EXPERIMENTAL_COMPACT_HASH_CHECK_ENABLED", "CompactHashCheck"),
    ("ETCD_EXPERIMENTAL_ENABLE_LEASE_CHECKPOINT", "LeaseCheckpoint"),
    ("ETCD_EXPERIMENTAL_ENABLE_LEASE_CHECKPOINT_PERSIST", "LeaseCheckpointPersist"),
    ("ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK", "InitialCorruptCheck"),
    ("ETCD_EXPERIMENTAL_STOP_GRPC_SERVICE_ON_DEFRAG", "StopGRPCServiceOnDefrag"),
    ("ETCD_EXPERIMENTAL_TXN_MODE_WRITE_WITH_SHARED_BUFFER", "TxnModeWriteWithSharedBuffer"),
];

/// Gates that came after 3.6, with their minor release: an unknown gate keeps etcd from starting, but a fleet must be able to
/// downgrade.
const LATER_GATES: &[(&str, u32)] = &[("FastLeaseKeepAlive", 7), ("PriorityRequest", 7)];

/// Settings that change etcd so much that it must not run without them.
const REFUSED: &[(&str, &str)] = &[
    (
        "ETCD_ENABLE_V2",
        "has no v2 API: who uses it would find nothing; unset it once nobody does, or stay with etcd 3.5",
    ),
    (
        "ETCD_EXPERIMENTAL_ENABLE_V2V3",
        "has no v2 API: who uses it would find nothing; unset it once nobody does, or stay with etcd 3.5",
    ),
];

/// The operator's settings for one release.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fitted {
    pub settings: BTreeMap<String, String>,
    /// A line for each setting that is not passed on unchanged.
    pub said: Vec<String>,
    /// A line for each setting with which this release must not be started.
    pub refused: Vec<String>,
}

/// Whether they have etcd serve the v2 API. Then each `/health` of 3.5, too, is an entry of the raft log that 3.6 can't apply (QGET; seen
/// on 3.5.33), and so is each v2 request.
pub fn serves_v2(given: &BTreeMap<String, String>) -> bool {
    REFUSED.iter().any(|(name, _)| given.get(*name).is_some_and(|value| !is_off(value)))
}

/// Translates settings for a release. For an unknown release they stay unchanged.
pub fn fit(given: &BTreeMap<String, String>, release: Option<Release>) -> Fitted {
    let Some(release) = release else {
        return Fitted { settings: given.clone(), ..Fitted::default() };
    };
    let mut fitting = Fitting { given, release, gates: gates(given), fitted: Fitted::default() };
    for (name, value) in given.iter().filter(|(name, _)| *name != GATES) {
        fitting.fit(name, value);
    }
    fitting.fit_gates();
    fitting.fitted
}

struct Fitting<'a> {
    given: &'a BTreeMap<String, String>,
    release: Release,
    /// `NAME=VALUE` each, the operator's own first.
    gates: Vec<String>,
    fitted: Fitted,
}

impl Fitting<'_> {
    fn fit(&mut self, name: &str, value: &str) {
        let release = self.release;
        let has_gates = release.is_at_least(3, 6);
        if has_gates && let Some((_, gate)) = GATED.iter().find(|(old, _)| *old == name) {
            return self.become_gate(name, gate, value);
        }
        let other = other_name(name);
        // If the release knows both, as 3.6 does, the new one.
        if is_known(name, release) && !(has_gates && is_experimental(name) && is_known(&other, release)) {
            return self.pass(name, value);
        }
        match REFUSED.iter().find(|(refused, _)| *refused == name) {
            Some((_, why)) if !is_off(value) => {
                self.fitted.refused.push(format!("{name}={value}: etcd {release} {why}"));
            }
            _ if has_entry(&other) && is_known(&other, release) => self.rename(name, &other, value),
            _ => self.say(format!("{name}: etcd {release} does not know this setting; it has no effect")),
        }
    }

    fn pass(&mut self, name: &str, value: &str) {
        self.fitted.settings.insert(name.to_owned(), value.to_owned());
    }

    fn say(&mut self, line: String) {
        self.fitted.said.push(line);
    }

    /// Passed on under the name that this release knows, unless that name is set as well.
    fn rename(&mut self, name: &str, known: &str, value: &str) {
        let release = self.release;
        if self.given.contains_key(known) {
            return self.say(format!("{name} has no effect: {known}, its name in etcd {release}, is set too"));
        }
        self.pass(known, value);
        self.say(format!("{name} is passed on as {known}, its name in etcd {release}"));
    }

    fn become_gate(&mut self, name: &str, gate: &str, value: &str) {
        let release = self.release;
        if self.gates.iter().any(|given| gate_name(given) == gate) {
            return self
                .say(format!("{name} has no effect: {gate} of {GATES}, its name in etcd {release}, is set too"));
        }
        self.gates.push(format!("{gate}={value}"));
        self.say(format!("{name} is passed on as {gate} of {GATES}, its name in etcd {release}"));
    }

    fn fit_gates(&mut self) {
        let (release, gates) = (self.release, std::mem::take(&mut self.gates));
        let mut kept = Vec::new();
        for gate in gates {
            let (name, value) = gate.split_once('=').unwrap_or((&gate, "true"));
            let comes_later =
                LATER_GATES.iter().any(|(later, minor)| *later == name && !release.is_at_least(3, *minor));
            let old = GATED.iter().find(|(_, gated)| *gated == name).map(|(old, _)| *old);
            match old {
                _ if release.is_at_least(3, 6) && !comes_later => kept.push(gate.clone()),
                Some(old) if is_known(old, release) => self.rename(&format!("{name} of {GATES}"), old, value),
                _ => self.say(format!("{name} of {GATES}: etcd {release} does not know this gate; it has no effect")),
            }
        }
        if !kept.is_empty() {
            self.pass(GATES, &kept.join(","));
        }
    }
}

fn is_known(name: &str, release: Release) -> bool {
    let Some(known) = KNOWN.iter().find(|known| Some(known.name) == name.strip_prefix("ETCD_")) else { return true };
    let newest = known.since.iter().map(|(minor, _)| *minor).max().unwrap_or(NEVER);
    let has_come = known.since.iter().any(|(minor, patch)| release.minor == *minor && release.patch >= *patch);
    let has_come = has_come || release.minor > newest || (release.major > 3 && newest != NEVER);
    let has_gone = known.until != NEVER && release.is_at_least(3, known.until);
    has_come && !has_gone
}

fn has_entry(name: &str) -> bool {
    KNOWN.iter().any(|known| Some(known.name) == name.strip_prefix("ETCD_"))
}

fn is_experimental(name: &str) -> bool {
    name.starts_with("ETCD_EXPERIMENTAL_")
}

/// The name without the word `EXPERIMENTAL`, or with it.
fn other_name(name: &str) -> String {
    match name.strip_prefix("ETCD_EXPERIMENTAL_") {
        Some(rest) => format!("ETCD_{rest}"),
        None => name.replacen("ETCD_", "ETCD_EXPERIMENTAL_", 1),
    }
}

fn gates(given: &BTreeMap<String, String>) -> Vec<String> {
    let gates = given.get(GATES).map(String::as_str).unwrap_or_default();
    gates.split(',').map(str::trim).filter(|gate| !gate.is_empty()).map(str::to_owned).collect()
}

fn gate_name(gate: &str) -> &str {
    gate.split_once('=').map_or(gate, |(name, _)| name)
}

/// (Go's strconv.ParseBool; an empty variable is one that is not set.)
fn is_off(value: &str) -> bool {
    ["", "0", "f", "F", "FALSE", "false", "False"].contains(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASES: &[&str] = &["3.3.25", "3.4.23", "3.5.1", "3.5.16", "3.5.30", "3.5.35", "3.6.16", "3.7.3"];

    fn fitted(release: &str, given: &[(&str, &str)]) -> Fitted {
        let given = given.iter().map(|(name, value)| (format!("ETCD_{name}"), (*value).to_owned())).collect();
        fit(&given, Release::parse(release))
    }

    fn passed(release: &str, given: &[(&str, &str)]) -> String {
        let fitted = fitted(release, given);
        assert!(fitted.refused.is_empty(), "{fitted:?}");
        fitted.settings.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_experimental_setting_goes_by_its_name_in_each_release() {
        let interval = "EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL";
        for given in [interval, "WATCH_PROGRESS_NOTIFY_INTERVAL"] {
            for release in RELEASES {
                let expected = match *release {
                    "3.3.25" => String::new(),
                    "3.6.16" | "3.7.3" => "ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL=1m".to_owned(),
                    _ => format!("ETCD_{interval}=1m"),
                };
                assert_eq!(passed(release, &[(given, "1m")]), expected, "{release} {given}");
            }
        }
    }

    /// 3.6 doesn't start with both, and a fleet in the middle of an upgrade may well have both.
    #[test]
    fn no_release_is_ever_given_both_names() {
        for release in RELEASES {
            for (known, both) in KNOWN.iter().filter_map(|k| Some((k, k.name.strip_prefix("EXPERIMENTAL_")?))) {
                let fitted = fitted(release, &[(known.name, "1"), (both, "2")]);
                let has = |name: &str| fitted.settings.contains_key(&format!("ETCD_{name}"));
                assert!(!(has(known.name) && has(both) && has_entry(&format!("ETCD_{both}"))), "{release} {both}");
            }
            for (old, gate) in GATED {
                let given = [(&old["ETCD_".len()..], "true"), ("FEATURE_GATES", &format!("{gate}=false"))];
                let fitted = fitted(release, &given);
                assert!(fitted.settings.len() <= 1, "{release} {old}: {:?}", fitted.settings);
            }
        }
    }

    /// What a release doesn't know it would only warn of, and do without.
    #[test]
    fn nothing_is_dropped_in_silence_and_nothing_unknown_passed_on() {
        for release in RELEASES {
            let number = Release::parse(release).unwrap();
            for known in KNOWN {
                let value = if known.name == "FEATURE_GATES" { "StopGRPCServiceOnDefrag=true" } else { "true" };
                let fitted = fitted(release, &[(known.name, value)]);
                let as_given =
                    fitted.settings.get(&format!("ETCD_{}", known.name)).is_some_and(|passed| passed == value);
                let told = fitted.said.len() + fitted.refused.len();
                assert_eq!(told, usize::from(!as_given), "{release} {}: {fitted:?}", known.name);
                assert!(fitted.settings.keys().all(|name| is_known(name, number)), "{release} {}", known.name);
            }
        }
    }

    #[test]
    fn experimental_switches_are_gates_from_3_6_on_and_gates_switches_before() {
        let old = [("EXPERIMENTAL_STOP_GRPC_SERVICE_ON_DEFRAG", "true"), ("FEATURE_GATES", "CompactHashCheck=true")];
        for release in ["3.6.16", "3.7.3"] {
            let gates = "ETCD_FEATURE_GATES=CompactHashCheck=true,StopGRPCServiceOnDefrag=true";
            assert_eq!(passed(release, &old), gates);
        }
        assert_eq!(
            passed("3.5.30", &old),
            "ETCD_EXPERIMENTAL_COMPACT_HASH_CHECK_ENABLED=true ETCD_EXPERIMENTAL_STOP_GRPC_SERVICE_ON_DEFRAG=true"
        );
        assert_eq!(passed("3.5.1", &old), "");
        assert_eq!(fitted("3.5.1", &old).said.len(), 2);
    }

    #[test]
    fn a_later_gate_does_not_bar_the_way_back() {
        let gates = [("FEATURE_GATES", "PriorityRequest=true,LeaseCheckpoint=true")];
        assert_eq!(passed("3.6.16", &gates), "ETCD_FEATURE_GATES=LeaseCheckpoint=true");
        assert_eq!(passed("3.7.3", &gates), "ETCD_FEATURE_GATES=PriorityRequest=true,LeaseCheckpoint=true");
        // One that nobody knows is for etcd to refuse.
        assert_eq!(passed("3.6.16", &[("FEATURE_GATES", "NoSuchGate=true")]), "ETCD_FEATURE_GATES=NoSuchGate=true");
    }

    #[test]
    fn the_v2_api_is_refused_where_it_is_gone() {
        for name in ["ENABLE_V2", "EXPERIMENTAL_ENABLE_V2V3"] {
            for release in ["3.6.16", "3.7.3"] {
                assert_eq!(fitted(release, &[(name, "true")]).refused.len(), 1, "{release} {name}");
                let off = fitted(release, &[(name, "false")]);
                assert!(off.refused.is_empty() && off.settings.is_empty() && off.said.len() == 1, "{off:?}");
            }
            assert!(passed("3.5.30", &[(name, "true")]).ends_with("=true"));
            let given = |value: &str| BTreeMap::from([(format!("ETCD_{name}"), value.to_owned())]);
            assert!(serves_v2(&given("true")) && !serves_v2(&given("false")) && !serves_v2(&BTreeMap::new()));
        }
    }

    #[test]
    fn what_every_release_knows_and_what_cant_be_told_stays_as_it_is() {
        for release in RELEASES {
            assert_eq!(passed(release, &[("SNAPSHOT_COUNT", "5")]), "ETCD_SNAPSHOT_COUNT=5");
        }
        assert_eq!(passed("git", &[("EXPERIMENTAL_MEMORY_MLOCK", "true")]), "ETCD_EXPERIMENTAL_MEMORY_MLOCK=true");
    }
}
