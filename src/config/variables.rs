//! The names that are read.

/// A variable of ours (the original's names included): what `etcd-muster env` prints and the table in docs/variables.md holds.
#[derive(Debug)]
pub struct Variable {
    pub name: &'static str,
    /// In words, where it is computed.
    pub default: &'static str,
    pub meaning: &'static str,
}

impl Variable {
    /// The flag that stands for it: `--cluster-size` for `MUSTER_CLUSTER_SIZE`.
    pub fn flag(&self) -> Option<String> {
        let name = self.name.strip_prefix("MUSTER_")?;
        Some(format!("--{}", name.to_ascii_lowercase().replace('_', "-")))
    }
}

const fn variable(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default, meaning }
}

/// Every variable that is read, besides etcd's own `ETCD_*` and AWS's.
pub const VARIABLES: &[Variable] = &[
    variable(
        "MUSTER_ROSTER",
        "ec2",
        "where the instances are listed: ec2, static:host=address,host2=address2, or file:/path.json",
    ),
    variable("DOCKER_EC2TAG", "etcd", "the tag an instance must carry"),
    variable("DOCKER_EC2VAL", "1", "that tag's value"),
    variable("MUSTER_TAGS", "DOCKER_EC2TAG=DOCKER_EC2VAL", "tags that must all match: key=value,key2=value2"),
    variable("DOCKER_AWSREG", "AWS_REGION, AWS_DEFAULT_REGION, IMDS, eu-west-1", "the region"),
    variable("CLNT_PORT", "2379", "etcd's client port"),
    variable("CLNT_SCHEMA", "http, or https where there is a certificate", "the client port's scheme"),
    variable("PEER_PORT", "2380", "etcd's peer port, also the roll call's"),
    variable("PEER_SCHEMA", "http, or https where there is a certificate", "the peer port's scheme"),
    variable("BOOTSTRAP_WAIT", "20", "longest pause between looks while nothing moves"),
    variable(
        "ETCD_MEMBER_TYPE",
        "host, or ip where MUSTER_ROSTER lists addresses",
        "advertise by private DNS name (host) or address (ip)",
    ),
    variable("ED_HOME", "/etcd", "etcd is ED_HOME/bin/etcd, else found on PATH"),
    variable("ED_DATA", "/etcd/data", "etcd's data directory, and ours in ED_DATA/muster"),
    variable("ED_WAL", "/etcd/wal", "the volume of etcd's WAL"),
    variable("ED_SSL", "/etcd/ssl", "where certificates, keys and CAs are looked for"),
    variable(
        "CLIENT_CERT_FILE",
        "client.crt",
        "the client port's certificate, in ED_SSL: where it is, the port is https",
    ),
    variable("CLIENT_KEY_FILE", "client.key", "its key"),
    variable("CLIENT_TRUSTED_CA_FILE", "client_ca.crt", "the CA by which clients and servers verify each other"),
    variable("PEER_CERT_FILE", "peer.crt", "the peer port's certificate, in ED_SSL: where it is, the port is https"),
    variable("PEER_KEY_FILE", "peer.key", "its key"),
    variable("PEER_TRUSTED_CA_FILE", "peer_ca.crt", "the CA by which members verify each other"),
    variable("MUSTER_CA_CERT", "", "the CA that signs a certificate made here, where a scheme is https without one"),
    variable("MUSTER_CA_KEY", "", "that CA's key: a file, or ssm:/name for a parameter in Systems Manager"),
    variable("MUSTER_LEAF_LIFE", "90d", "how long such a certificate is valid; it is renewed after two thirds"),
    variable("MUSTER_EXTRA_SANS", "", "names and addresses in it beside the node's own: etcd.example.com,10.0.0.9"),
    variable(
        "MUSTER_PLAIN_LOOPBACK",
        "no",
        "yes: the client port speaks plain HTTP on loopback (not in a bridged container, where one socket serves all addresses)",
    ),
    variable("MUSTER_ETCD_USER", "", "the user for an etcd with authentication on"),
    variable("MUSTER_ETCD_PASSWORD_FILE", "", "the file that holds that user's password"),
    variable("ETCD_OPTS", "", "flags for etcd: --flag=value words, each becomes its ETCD_ variable and wins over it"),
    variable(
        "MUSTER_CLUSTER_SIZE",
        "the number of tagged (or listed) instances",
        "how many members the cluster is to have",
    ),
    variable("MUSTER_MIN_NODES", "2", "how many instances founding waits for at least"),
    variable("MUSTER_FOUND_GRACE", "60", "how long an absent instance is waited for before founding without it"),
    variable("MUSTER_FOUND_WINDOW", "15m", "greatest age of an instance in a fleet that may found without the absent"),
    variable("MUSTER_FOUND_ABSENT", "no", "yes: you vouch that the absent hold no cluster"),
    variable("MUSTER_FOUND_ALONE", "no", "yes: you vouch that the other of two holds no cluster"),
    variable("MUSTER_CLAIM", "", "s3://bucket/prefix: founding is settled by one object there, written only if absent"),
    variable(
        "MUSTER_CLEAN",
        "gone",
        "which members may be removed: gone (by EC2's or the list's word), unhealthy (also those silent for 5 minutes), off",
    ),
    variable("MUSTER_CLEAN_DWELL", "30", "how long a member must have been silent before it may be removed"),
    variable(
        "MUSTER_ADOPT",
        "",
        "a member's id: you vouch that its data here is the newest, and that nobody runs with another copy of it",
    ),
    variable(
        "MUSTER_RECONCILE",
        "0 (off)",
        "how often the leader's supervisor looks for dead members; without it joiners do",
    ),
    variable("MUSTER_LEAVE", "no", "on-terminate: leave the cluster when EC2 is about to terminate this instance"),
    variable("MUSTER_LIFECYCLE_HOOK", "", "names of the Auto Scaling group's hooks to complete: NAME or NAME,NAME2"),
    variable("MUSTER_PROBE_TIMEOUT", "3", "how long a peer may take to answer a probe"),
    variable(
        "MUSTER_DRAIN_TIMEOUT",
        "3",
        "how long clients may hold up a stop where the other members have everything; then etcd is killed",
    ),
    variable("MUSTER_STOP_TIMEOUT", "25", "how long etcd may take to stop before it is killed"),
    variable("MUSTER_STATUS_LISTEN", "", "address:port that serves /metrics, /status, /livez and /readyz over TCP"),
    variable("MUSTER_LOG", "info", "error, warn, info, debug or trace"),
    variable("MUSTER_LOG_FORMAT", "text", "the log of run: text, or json in the shape of etcd's own lines"),
];

/// Variables of the original that have nothing left to do.
pub(super) const RETIRED: [&str; 4] = ["DOCKER_SOCKET", "DOCKER_AWSCLI", "ETCD_MEMBER_ADD_OK", "ETCD_MEMBER_DEL_OK"];
