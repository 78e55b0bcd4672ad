//! Which `ETCD_*` variables are etcd's, and which of them would break this program's guarantees.

/// How to treat a variable whose name starts with `ETCD_`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Passed through; it overrides the computed value.
    Passed,
    /// The configured part of the token; the bootstrap adds the random part.
    Token,
    /// It would break a guarantee; the text says which, and what to do.
    Forbidden(&'static str),
    /// Not etcd's: not passed to it.
    Foreign,
}

/// Classifies a variable.
pub fn kind(variable: &str) -> Kind {
    match variable {
        "ETCD_INITIAL_CLUSTER_TOKEN" => Kind::Token,
        "ETCD_INITIAL_CLUSTER" | "ETCD_INITIAL_CLUSTER_STATE" => {
            Kind::Forbidden("etcd-muster computes it; unset it, and tag the instances instead")
        }
        "ETCD_FORCE_NEW_CLUSTER" => Kind::Forbidden(
            "it would force a new cluster at every start; run etcd by hand with --force-new-cluster once",
        ),
        "ETCD_CONFIG_FILE" => Kind::Forbidden("with it etcd ignores all other settings; use ETCD_* variables"),
        _ if variable.starts_with("ETCD_DISCOVERY") || variable.starts_with("ETCD_PROXY") => {
            Kind::Forbidden("etcd-muster finds members by EC2 tags; unset it")
        }
        _ if variable.starts_with("ETCD_EXPERIMENTAL_") || KNOWN.contains(&variable) => Kind::Passed,
        _ => Kind::Foreign,
    }
}

/// The risk of a setting that is passed on; logged at the start.
pub fn danger(variable: &str, value: &str) -> Option<&'static str> {
    // (Go's strconv.ParseBool.)
    let is_true = ["1", "t", "T", "TRUE", "true", "True"].contains(&value);
    let is_false = ["0", "f", "F", "FALSE", "false", "False"].contains(&value);
    match variable {
        "ETCD_UNSAFE_NO_FSYNC" if is_true => Some("etcd acknowledges writes that a power cut can lose; unset it"),
        "ETCD_STRICT_RECONFIG_CHECK" if is_false => Some(
            "etcd then accepts membership changes that lose the quorum, and etcd-muster relies on its refusal; \
                unset it",
        ),
        // (Measured on 3.6.16 and 3.7.3: the others go on listing one, and one that starts with a lower limit ends.)
        "ETCD_MAX_LEARNERS" if value != "1" => Some(
            "etcd takes the limit of whoever is asked, and members that have another one then list other members, or end; give all \
             members the same",
        ),
        _ => None,
    }
}

/// etcd's flags as variables: what any release from 3.3 to 3.7 knows; which one knows what is in `by_release.rs`.
const KNOWN: &[&str] = &[
    "ETCD_ADVERTISE_CLIENT_URLS",
    "ETCD_AUTH_TOKEN",
    "ETCD_AUTH_TOKEN_TTL",
    "ETCD_AUTO_COMPACTION_MODE",
    "ETCD_AUTO_COMPACTION_RETENTION",
    "ETCD_AUTO_TLS",
    "ETCD_BACKEND_BATCH_INTERVAL",
    "ETCD_BACKEND_BATCH_LIMIT",
    "ETCD_BACKEND_BBOLT_FREELIST_TYPE",
    "ETCD_BCRYPT_COST",
    "ETCD_BOOTSTRAP_DEFRAG_THRESHOLD_MEGABYTES",
    "ETCD_CERT_FILE",
    "ETCD_CIPHER_SUITES",
    "ETCD_CLIENT_CERT_ALLOWED_HOSTNAME",
    "ETCD_CLIENT_CERT_AUTH",
    "ETCD_CLIENT_CERT_FILE",
    "ETCD_CLIENT_CRL_FILE",
    "ETCD_CLIENT_KEY_FILE",
    "ETCD_COMPACTION_BATCH_LIMIT",
    "ETCD_COMPACTION_SLEEP_INTERVAL",
    "ETCD_COMPACT_HASH_CHECK_TIME",
    "ETCD_CORRUPT_CHECK_TIME",
    "ETCD_CORS",
    "ETCD_DATA_DIR",
    "ETCD_DEBUG",
    "ETCD_DISTRIBUTED_TRACING_ADDRESS",
    "ETCD_DISTRIBUTED_TRACING_INSTANCE_ID",
    "ETCD_DISTRIBUTED_TRACING_SAMPLING_RATE",
    "ETCD_DISTRIBUTED_TRACING_SERVICE_NAME",
    "ETCD_DOWNGRADE_CHECK_TIME",
    "ETCD_ELECTION_TIMEOUT",
    "ETCD_ENABLE_DISTRIBUTED_TRACING",
    "ETCD_ENABLE_LOG_ROTATION",
    "ETCD_ENABLE_PPROF",
    "ETCD_ENABLE_V2",
    "ETCD_FEATURE_GATES",
    "ETCD_GRPC_KEEPALIVE_INTERVAL",
    "ETCD_GRPC_KEEPALIVE_MIN_TIME",
    "ETCD_GRPC_KEEPALIVE_TIMEOUT",
    "ETCD_HEARTBEAT_INTERVAL",
    "ETCD_HOST_WHITELIST",
    "ETCD_INITIAL_ADVERTISE_PEER_URLS",
    "ETCD_INITIAL_ELECTION_TICK_ADVANCE",
    "ETCD_KEY_FILE",
    "ETCD_LISTEN_CLIENT_HTTP_URLS",
    "ETCD_LISTEN_CLIENT_URLS",
    "ETCD_LISTEN_METRICS_URLS",
    "ETCD_LISTEN_PEER_URLS",
    "ETCD_LOGGER",
    "ETCD_LOG_FORMAT",
    "ETCD_LOG_LEVEL",
    "ETCD_LOG_OUTPUTS",
    "ETCD_LOG_PACKAGE_LEVELS",
    "ETCD_LOG_ROTATION_CONFIG_JSON",
    "ETCD_MAX_CONCURRENT_STREAMS",
    "ETCD_MAX_LEARNERS",
    "ETCD_MAX_REQUEST_BYTES",
    "ETCD_MAX_SNAPSHOTS",
    "ETCD_MAX_TXN_OPS",
    "ETCD_MAX_WALS",
    "ETCD_MEMORY_MLOCK",
    "ETCD_METRICS",
    "ETCD_NAME",
    "ETCD_PEER_AUTO_TLS",
    "ETCD_PEER_CERT_ALLOWED_CN",
    "ETCD_PEER_CERT_ALLOWED_HOSTNAME",
    "ETCD_PEER_CERT_FILE",
    "ETCD_PEER_CLIENT_CERT_AUTH",
    "ETCD_PEER_CLIENT_CERT_FILE",
    "ETCD_PEER_CLIENT_KEY_FILE",
    "ETCD_PEER_CRL_FILE",
    "ETCD_PEER_KEY_FILE",
    "ETCD_PEER_SKIP_CLIENT_SAN_VERIFICATION",
    "ETCD_PEER_TRUSTED_CA_FILE",
    "ETCD_PRE_VOTE",
    "ETCD_QUOTA_BACKEND_BYTES",
    "ETCD_RAFT_READ_TIMEOUT",
    "ETCD_RAFT_WRITE_TIMEOUT",
    "ETCD_SELF_SIGNED_CERT_VALIDITY",
    "ETCD_SNAPSHOT_CATCHUP_ENTRIES",
    "ETCD_SNAPSHOT_COUNT",
    "ETCD_SOCKET_REUSE_ADDRESS",
    "ETCD_SOCKET_REUSE_PORT",
    "ETCD_STRICT_RECONFIG_CHECK",
    "ETCD_TLS_MAX_VERSION",
    "ETCD_TLS_MIN_VERSION",
    "ETCD_TRUSTED_CA_FILE",
    "ETCD_UNSAFE_NO_FSYNC",
    "ETCD_V2_DEPRECATION",
    "ETCD_WAL_DIR",
    "ETCD_WARNING_APPLY_DURATION",
    "ETCD_WARNING_UNARY_REQUEST_DURATION",
    "ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL",
];
