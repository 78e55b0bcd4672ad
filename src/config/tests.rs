//! What is read from the environment, and what is said of what can't be.

use std::path::PathBuf;

use super::*;
use crate::aws::credentials::Source;
use crate::aws::partition::Variants;
use crate::core::snapshot::manifest::Level;
use crate::core::snapshot::retention::Keep;
use crate::util::scratch::Scratch;

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
    assert_eq!(config.instances, Instances::Tagged(vec![("etcd".to_owned(), "1".to_owned())]));
    assert_eq!((config.etcd.client.number, config.etcd.peer.number), (2379, 2380));
    assert_eq!(config.observation.longest_pause, Duration::from_secs(20));
    assert_eq!(config.etcd.member_type, MemberType::Host);
    assert_eq!(config.etcd.data, PathBuf::from("/etcd/data"));
    assert_eq!(config.bootstrap.min_nodes, 2);
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
        "ETCD_MEMBER_TYPE=dns: is not one of host, ip",
        "ETCD_OPTS (its value is not shown): word 2 is not of the form --flag=value",
        "ETCD_INITIAL_CLUSTER=a=b: etcd-muster computes it",
    ] {
        assert!(found.iter().any(|line| line.starts_with(part)), "{part}: {found:#?}");
    }
}

#[test]
fn a_problem_is_one_line_and_no_duration_overflows() {
    assert_eq!(problems(&[("CLNT_PORT", "1\r\n2")]), ["CLNT_PORT=1  2: is not a port; give a number from 1 to 65535"]);
    for endless in ["18446744073709551615", "36601d"] {
        assert!(problems(&[("BOOTSTRAP_WAIT", endless)])[0].contains("is longer than a hundred years"), "{endless}");
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
    assert_eq!(config.etcd.settings["ETCD_SNAPSHOT_COUNT"], "7");
    assert_eq!(config.etcd.settings["ETCD_ENABLE_PPROF"], "true");
    assert_eq!(config.etcd.settings.len(), 2);
    assert_eq!(config.warnings.len(), 2);
    assert_eq!(config.warnings[1], "ETCD_UNHEARD_OF: no etcd has such a setting; not passed on");
}

#[test]
fn a_claim_is_an_object_below_its_prefix() {
    let claim = |value| read(&env(&[("MUSTER_CLAIM", value)])).ok().map(|config| config.policy().claim.unwrap());
    assert_eq!(claim("s3://etcd-claims/prod/blue").as_deref(), Some("s3://etcd-claims/prod/blue/claim.json"));
    assert_eq!(claim("s3://etcd-claims/").as_deref(), Some("s3://etcd-claims/claim.json"));
    for wrong in ["etcd-claims/prod", "s3://", "s3://No_Bucket/x", "s3://etcd-claims//prod"] {
        assert_eq!(claim(wrong), None, "{wrong}");
    }
}

#[test]
fn a_cluster_to_join_is_named_by_urls_with_ports() {
    let joined = |value| read(&env(&[("MUSTER_JOIN", value)])).map(|config| config.policy().join);
    assert_eq!(
        joined(" http://10.0.0.1:2379/, https://old-2:2379").unwrap(),
        ["http://10.0.0.1:2379", "https://old-2:2379"]
    );
    assert!(joined("").unwrap().is_empty());
    for (wrong, named) in
        [("10.0.0.1:2379", "10.0.0.1:2379"), ("http://a:2379,http://b", "http://b"), ("ftp://a:1", "ftp://a:1")]
    {
        let found = problems(&[("MUSTER_JOIN", wrong)]);
        assert!(found[0].contains(&format!("has {named}, which is not a URL; write http://host:port")), "{found:?}");
    }
}

#[test]
fn snapshots_are_off_until_a_place_is_named_and_all_that_is_wrong_is_said_at_once() {
    let none = read(&env(&[])).unwrap().snapshots;
    assert!(none.places.is_empty() && none.key.is_none() && none.sse.is_none());
    assert_eq!((none.every, none.verify), (Some(Duration::from_secs(3600)), Level::Digest));
    assert_eq!(none.keep, Keep { hours: 24, days: 7, weeks: 4 });
    let places = "s3://backups/etcd/blue/, file:/mnt/share";
    let settings = [
        ("MUSTER_SNAPSHOTS", places),
        ("MUSTER_SNAPSHOT_EVERY", "0"),
        ("MUSTER_SNAPSHOT_KEEP", "3d"),
        ("MUSTER_SNAPSHOT_KEY", "ssm:/etcd/snapshots"),
        ("MUSTER_SNAPSHOT_SSE", "aws:kms:arn:aws:kms:eu-west-1:111122223333:key/1-2"),
    ];
    let read_back = read(&env(&settings)).unwrap().snapshots;
    let shown: Vec<String> = read_back.places.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["s3://backups/etcd/blue", "file:/mnt/share"]);
    assert_eq!((read_back.every, read_back.keep), (None, Keep { hours: 0, days: 3, weeks: 0 }));
    assert_eq!(read_back.key, Some(CaKey::Parameter("/etcd/snapshots".to_owned())));
    assert_eq!(read_back.sse, Some(Sse::Kms(Some("arn:aws:kms:eu-west-1:111122223333:key/1-2".to_owned()))));
    let customer = read(&env(&[("MUSTER_SNAPSHOT_SSE", "/etc/sse.key")])).unwrap().snapshots.sse;
    assert_eq!(customer, Some(Sse::CustomerKey(PathBuf::from("/etc/sse.key"))));
    let at = |url| problems(&[("MUSTER_SNAPSHOT_SSE", "/etc/sse.key"), ("MUSTER_S3_ENDPOINT", url)]);
    for far in ["http://minio:9000", "http://10.0.0.9:9000"] {
        assert!(at(far)[0].contains("would send the customer key unencrypted to http"), "{:?}", at(far));
    }
    for near in ["https://minio:9000", "http://127.0.0.1:9000", "http://[::1]:9000", "http://localhost:9000"] {
        assert!(at(near).is_empty(), "{near}");
    }
    let found = problems(&[
        ("MUSTER_SNAPSHOTS", "s3://backups,gs://backups,s3://backups/,file:relative"),
        ("MUSTER_SNAPSHOT_EVERY", "500ms"),
        ("MUSTER_SNAPSHOT_KEEP", "24h,7h"),
        ("MUSTER_SNAPSHOT_VERIFY", "hope"),
        ("MUSTER_SNAPSHOT_KEY", "hunter2hunter2"),
        ("MUSTER_SNAPSHOT_SSE", "hunter2hunter2"),
        ("MUSTER_S3_ENDPOINT", "minio:9000"),
        ("MUSTER_S3_SECRET_ACCESS_KEY", "hunter2"),
    ]);
    for part in [
        "\"gs://backups\" is no place for snapshots; write s3://bucket/prefix or file:/dir",
        "s3://backups is named twice",
        "\"file:relative\" is no place",
        "MUSTER_SNAPSHOT_EVERY=500ms: is too often",
        "MUSTER_SNAPSHOT_KEEP=24h,7h: is not what to keep; write 24h,7d,4w",
        "MUSTER_SNAPSHOT_VERIFY=hope: is not one of digest, restore",
        "MUSTER_SNAPSHOT_KEY (its value is not shown): is no path",
        "MUSTER_SNAPSHOT_SSE (its value is not shown): is not aws:kms",
        "MUSTER_S3_ENDPOINT=minio:9000: is not a URL",
        "MUSTER_S3_ACCESS_KEY_ID=: is missing: its secret is set",
    ] {
        assert!(found.iter().any(|line| line.contains(part)), "{part}: {found:#?}");
    }
    assert!(!found.iter().any(|line| line.contains("hunter2")), "{found:#?}");
    for wrong in ["", "24", "h", "24h,", "1001h", "24h 7d", "-1h", "é"] {
        let found = problems(&[("MUSTER_SNAPSHOT_KEEP", wrong)]);
        assert_eq!(found.len(), usize::from(!wrong.is_empty()), "{wrong}: {found:?}");
    }
}

#[test]
fn a_store_may_have_its_own_region_and_credentials() {
    let store = |pairs: &[(&str, &str)]| read(&env(pairs)).unwrap().aws.store;
    assert!(store(&[]).credentials.is_none());
    let id = ("MUSTER_S3_ACCESS_KEY_ID", "minio");
    let own = store(&[id, ("MUSTER_S3_SECRET_ACCESS_KEY", "s"), ("MUSTER_S3_REGION", "us-east-1")]);
    assert!(matches!(own.credentials, Some(Source::Static(_))) && own.region.as_deref() == Some("us-east-1"));
    let file = ("MUSTER_S3_SECRET_ACCESS_KEY_FILE", "/run/secret");
    assert!(matches!(store(&[id, file]).credentials, Some(Source::File { .. })));
    let endpoints = |pairs: &[(&str, &str)]| read(&env(pairs)).unwrap().aws.endpoints;
    let both = [("AWS_ENDPOINT_URL", "http://aws:1"), ("MUSTER_S3_ENDPOINT", "http://minio:9000")];
    assert_eq!(endpoints(&both).s3.as_deref(), Some("http://minio:9000"));
    assert_eq!(endpoints(&both).ec2.as_deref(), Some("http://aws:1"));
    for wrong in
        [vec![id], vec![file], vec![id, file, ("MUSTER_S3_SECRET_ACCESS_KEY", "s")], vec![id, (file.0, "secret")]]
    {
        assert_eq!(problems(&wrong).len(), 1, "{wrong:?}");
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
    let read_one = |value| read(&env(&[("MUSTER_HOSTS", value)])).ok();
    assert_eq!(read_one("ec2").unwrap().instances.written(), None);
    let config = read_one("static:a=10.0.0.1,b=[fd00::2]").unwrap();
    assert_eq!(config.etcd.member_type, MemberType::Ip, "a name need not resolve");
    assert!(config.instances.written().is_some() && config.policy().written);
    assert!(read_one("file:/etc/etcd-muster/roster.json").unwrap().instances.written().is_some());
    for wrong in ["static:", "static:a=10.0.0.1,b=10.0.0.1", "file:roster.json", "aws", "/etc/roster.json"] {
        let said = problems(&[("MUSTER_HOSTS", wrong)]);
        assert!(said.len() == 1 && said[0].starts_with(&format!("MUSTER_HOSTS={wrong}: ")), "{said:?}");
    }
    let list = ("MUSTER_HOSTS", "static:a=10.0.0.1");
    assert_eq!(
        problems(&[list, ("MUSTER_LEAVE", "on-terminate"), ("MUSTER_LIFECYCLE_HOOK", "up")]),
        [
            "MUSTER_LEAVE=on-terminate: needs EC2, but the instances come from MUSTER_HOSTS=static:a=10.0.0.1; unset one of the two",
            "MUSTER_LIFECYCLE_HOOK=up: needs EC2, but the instances come from MUSTER_HOSTS=static:a=10.0.0.1; unset one of the two",
        ]
    );
    assert!(problems(&[list, ("MUSTER_LEAVE", "no")]).is_empty());
}

#[test]
fn the_metadata_service_is_met_over_ipv6_where_that_is_said() {
    let endpoint = |pairs: &[(&str, &str)]| read(&env(pairs)).unwrap().aws.imds_endpoint.unwrap_or_default();
    let mode = ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6");
    assert_eq!(endpoint(&[mode]), "http://[fd00:ec2::254]");
    assert_eq!(endpoint(&[]), "http://169.254.169.254");
    let given = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://[::1]:1338");
    assert_eq!(endpoint(&[mode, given]), "http://[::1]:1338");
    assert_eq!(
        problems(&[(mode.0, "v6")]),
        ["AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=v6: is not one of IPv4, IPv6, ipv4, ipv6"]
    );
}

#[test]
fn lifecycle_hooks_are_names() {
    let hooks =
        |value| read(&env(&[("MUSTER_LIFECYCLE_HOOK", value)])).ok().map(|config| config.departure.lifecycle_hooks);
    assert_eq!(hooks(""), Some(vec![]));
    assert_eq!(hooks("etcd-launch, etcd_stop"), Some(vec!["etcd-launch".to_owned(), "etcd_stop".to_owned()]));
    for wrong in ["a b", "a,", "arn:x", ","] {
        assert_eq!(hooks(wrong), None, "{wrong}");
    }
    assert!(read(&env(&[])).unwrap().departure.leave == Leave::Never, "leaving is asked for");
    assert_eq!(problems(&[("MUSTER_LEAVE", "yes")]), ["MUSTER_LEAVE=yes: is not one of no, on-terminate"]);
}

#[test]
fn a_proxy_is_read_in_both_cases_and_never_shown_with_its_password() {
    let proxy = |pairs: &[(&str, &str)]| format!("{:?}", read(&env(pairs)).unwrap().aws.proxy);
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
    let url = |name, value| match read(&env(&[(name, value)])).ok()?.aws.credentials {
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
    let tags = |pairs: &[(&str, &str)]| read(&env(pairs)).unwrap().instances;
    assert_eq!(tags(&[("MUSTER_TAGS", "etcd="), empty]), Instances::Tagged(vec![("etcd".to_owned(), String::new())]));
}

#[test]
fn settings_of_etcds_that_endanger_data_are_said_at_the_start() {
    let notices = |pairs: &[(&str, &str)]| read(&env(pairs)).unwrap().warnings;
    let both = notices(&[("ETCD_UNSAFE_NO_FSYNC", "true"), ("ETCD_OPTS", "--strict-reconfig-check=false")]);
    assert!(both.iter().any(|line| line.starts_with("ETCD_UNSAFE_NO_FSYNC=true: ")), "{both:?}");
    assert!(both.iter().any(|line| line.starts_with("ETCD_STRICT_RECONFIG_CHECK=false: ")), "{both:?}");
    assert!(notices(&[("ETCD_MAX_LEARNERS", "2")])[0].contains("give all members the same"));
    let harmless =
        [("ETCD_UNSAFE_NO_FSYNC", "false"), ("ETCD_STRICT_RECONFIG_CHECK", "true"), ("ETCD_MAX_LEARNERS", "1")];
    assert!(notices(&harmless).is_empty());
}

#[test]
fn durations() {
    let of = |text| parse_duration(text).map(|d| d.as_millis());
    assert_eq!((of("30"), of("30s"), of("5m"), of("500ms")), (Some(30_000), Some(30_000), Some(300_000), Some(500)));
    assert_eq!((of("-1"), of("1w"), of(""), of("s")), (None, None, None, None));
}

/// Every other name with the name of today, and a value that is no default.
const OTHER_NAMES: [(&str, &str, &str); 12] = [
    ("MUSTER_ROSTER", "MUSTER_HOSTS", "static:a=10.0.0.1"),
    ("MUSTER_FOUND_GRACE", "MUSTER_BOOTSTRAP_GRACE", "7"),
    ("MUSTER_FOUND_WINDOW", "MUSTER_BOOTSTRAP_WINDOW", "7"),
    ("MUSTER_FOUND_ABSENT", "MUSTER_BOOTSTRAP_WITHOUT_ABSENT", "yes"),
    ("MUSTER_FOUND_ALONE", "MUSTER_BOOTSTRAP_ALONE", "yes"),
    ("MUSTER_CLEAN", "MUSTER_REMOVE", "off"),
    ("MUSTER_CLEAN_DWELL", "MUSTER_REMOVE_AFTER", "7"),
    ("MUSTER_RECONCILE", "MUSTER_REMOVE_INTERVAL", "7"),
    ("MUSTER_LEAF_LIFE", "MUSTER_CERT_VALIDITY", "7d"),
    ("MUSTER_PLAIN_LOOPBACK", "MUSTER_LOOPBACK_HTTP", "yes"),
    ("CLNT_SCHEMA", "MUSTER_CLIENT_SCHEME", "https"),
    ("PEER_SCHEMA", "MUSTER_PEER_SCHEME", "https"),
];

/// What was read, and what is said at the start.
fn read_with(pairs: &[(&str, &str)]) -> (String, Vec<String>) {
    // A certificate's validity shows where one is made.
    let is_scheme = |(name, _): &(&str, &str)| ["CLNT_SCHEMA", "MUSTER_CLIENT_SCHEME"].contains(name);
    let minted = [("MUSTER_CA_CERT", "/ca.crt"), ("MUSTER_CA_KEY", "/ca.key"), ("CLNT_SCHEMA", "https")];
    let minted = &minted[..if pairs.iter().any(is_scheme) { 2 } else { 3 }];
    let mut config = read(&env(&[minted, pairs].concat())).unwrap();
    let mut said = std::mem::take(&mut config.warnings);
    said.retain(|line| !line.starts_with("MUSTER_CA_CERT is set"));
    (format!("{config:?}"), said)
}

#[test]
fn a_former_name_works_as_before_and_is_said_to_be_one() {
    for (former, name, value) in OTHER_NAMES {
        let ((by_former, said), (by_name, silent)) = (read_with(&[(former, value)]), read_with(&[(name, value)]));
        assert_eq!(by_former, by_name, "{former}");
        let unset = if value == "https" { read_with(&[(name, "http")]) } else { read_with(&[]) };
        assert_ne!(by_name, unset.0, "{name} does nothing");
        let is_ours = former.starts_with("MUSTER_");
        let now = is_ours.then(|| format!("{former} is now {name}; the old name still works"));
        assert_eq!((said, silent), (now.into_iter().collect(), vec![]), "the original's names stay, without complaint");
    }
    let aliases = VARIABLES.iter().filter(|variable| variable.alias.is_some()).count();
    assert_eq!(aliases, OTHER_NAMES.len(), "each is tested here");
}

#[test]
fn two_names_of_one_setting_with_two_values_are_a_problem() {
    for (former, name, value) in OTHER_NAMES {
        let other = if value == "https" { "http" } else { "8" };
        assert_eq!(
            problems(&[(former, value), (name, other)]).first().map(String::as_str),
            Some(format!("{name}={other}: but {former}={value} is the same setting; unset one of them").as_str()),
        );
        let (both, said) = read_with(&[(former, value), (name, value)]);
        assert_eq!((both, said), (read_with(&[(name, value)]).0, vec![]), "a fleet that is being updated");
        // Empty is unset.
        assert_eq!(read_with(&[(former, ""), (name, value)]), read_with(&[(name, value)]));
        assert_eq!(read_with(&[(former, value), (name, "")]).0, read_with(&[(name, value)]).0);
    }
}

#[test]
fn what_is_wrong_is_said_of_the_name_that_was_given() {
    let given = |name| problems(&[(name, "soon")]);
    assert!(given("MUSTER_FOUND_GRACE")[0].starts_with("MUSTER_FOUND_GRACE=soon: is not a duration"));
    assert!(given("MUSTER_BOOTSTRAP_GRACE")[0].starts_with("MUSTER_BOOTSTRAP_GRACE=soon: is not a duration"));
    assert!(given("CLNT_SCHEMA")[0].starts_with("CLNT_SCHEMA=soon: is not one of http, https"));
    // A slip of the pen in either is answered with the name of today.
    for slip in ["MUSTER_FOUND_GRAC", "MUSTER_BOOTSTRAP_GRAC"] {
        assert_eq!(given(slip), [format!("{slip}: no such variable; did you mean MUSTER_BOOTSTRAP_GRACE?")]);
    }
}

#[test]
fn a_flag_wins_over_its_variable_by_either_name() {
    for (former, name, value) in OTHER_NAMES {
        for (variable, flag) in [(former, name), (name, former), (name, name)] {
            let env = overridden(env(&[(variable, "other")]), &[(flag.to_owned(), value.to_owned())]);
            let values: Vec<_> = [former, name].iter().filter_map(|name| env.get(*name)).collect();
            assert_eq!(values, [value], "{variable} below {flag}");
        }
    }
}

#[test]
fn a_row_can_be_read() {
    let names: Vec<_> = VARIABLES.iter().flat_map(|variable| variable.spellings()).collect();
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len(), "a name means one variable");
    assert!(VARIABLES.iter().all(|variable| !variable.meaning.is_empty()));
    // A default that can't be read would be a problem of an empty environment.
    assert_eq!(problems(&[]), Vec::<String>::new());
    let removal = read(&env(&[])).unwrap().removal;
    assert_eq!((removal.which, removal.after, removal.interval), (Clean::Gone, Duration::from_secs(30), None));
    let bootstrap = read(&env(&[])).unwrap().bootstrap;
    assert_eq!((bootstrap.grace, bootstrap.window), (Duration::from_secs(60), Duration::from_secs(900)));
}

#[test]
fn a_region_is_one_and_its_store_has_the_endpoint_that_is_asked_for() {
    let region = |pairs: &[(&str, &str)]| read(&env(pairs)).unwrap().aws.region;
    let [ours, sdks, older] =
        [("DOCKER_AWSREG", "eu-west-3"), ("AWS_REGION", "eu-west-2"), ("AWS_DEFAULT_REGION", "eu-west-1")];
    assert_eq!(region(&[ours, sdks, older]).as_deref(), Some("eu-west-3"));
    assert_eq!(region(&[sdks, older]).as_deref(), Some("eu-west-2"));
    assert_eq!(region(&[older, ("AWS_REGION", "")]).as_deref(), Some("eu-west-1"));
    assert_eq!(
        problems(&[("AWS_REGION", "aws-global")]),
        ["AWS_REGION=aws-global: is no region: EC2 has no global endpoint; write the region's name, as eu-west-1"]
    );
    assert_eq!(
        problems(&[("DOCKER_AWSREG", "eu-west-1.evil.example/")]),
        ["DOCKER_AWSREG=eu-west-1.evil.example/: is not the name of a region; write it as eu-west-1"]
    );
    let china = [("AWS_REGION", "cn-north-1"), ("AWS_USE_FIPS_ENDPOINT", "1")];
    assert!(problems(&china).is_empty(), "EC2 is called by a name that exists, and no store is used");
    for uses in [
        ("MUSTER_CLAIM", "s3://claims/prod"),
        ("MUSTER_SNAPSHOTS", "s3://backups/etcd"),
        ("MUSTER_SEED", "s3://backups/etcd"),
    ] {
        let found = problems(&[china[0], china[1], uses]);
        assert_eq!(
            found,
            [
                "AWS_USE_FIPS_ENDPOINT=1: S3 has no FIPS endpoint in cn-north-1, of partition aws-cn; unset it, or name the endpoint in \
              AWS_ENDPOINT_URL_S3"
            ]
        );
        assert!(problems(&[china[0], china[1], uses, ("MUSTER_S3_ENDPOINT", "https://minio:9000")]).is_empty());
        assert!(problems(&[china[0], china[1], uses, ("MUSTER_S3_REGION", "us-east-1")]).is_empty());
    }
}

const WEB_IDENTITY: [(&str, &str); 2] =
    [("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"), ("AWS_ROLE_ARN", "arn:aws-cn:iam::123456789012:role/etcd")];

#[test]
fn credentials_come_in_the_sdks_order() {
    let source = |pairs: &[&[(&str, &str)]]| read(&env(&pairs.concat())).unwrap().aws.credentials;
    let keys: &[_] = &[("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let web: &[_] = &WEB_IDENTITY;
    let (home, container): (&[_], &[_]) =
        (&[("HOME", "/home/ops")], &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/c")]);
    assert!(matches!(source(&[keys, web, home, container]), Source::Static(_)));
    let Source::WebIdentity { role, token_file } = source(&[web, home, container]) else { panic!() };
    assert_eq!((role.arn.as_str(), role.session), (WEB_IDENTITY[1].1, None));
    assert_eq!(token_file, PathBuf::from("/var/run/token"));
    let Source::Shared { files, otherwise } = source(&[home, container]) else { panic!() };
    assert!(matches!(*otherwise, Source::Container { .. }), "files that say nothing end nothing");
    assert!(!files.is_asked_for);
    assert_eq!((files.profile(), files.config.clone()), ("default", PathBuf::from("/home/ops/.aws/config")));
    assert!(matches!(source(&[container]), Source::Container { .. }));
    assert!(matches!(source(&[]), Source::Role), "without HOME there is no place for files");
    assert!(matches!(source(&[&web[1..]]), Source::Role), "a role alone is not used");
    let named: &[_] =
        &[("AWS_PROFILE", "ops"), ("AWS_SHARED_CREDENTIALS_FILE", "~/c"), ("AWS_CONFIG_FILE", "/etc/aws")];
    let Source::Shared { files, .. } = source(&[home, named]) else { panic!() };
    assert!(files.is_asked_for);
    assert_eq!((files.profile(), files.credentials.clone()), ("ops", PathBuf::from("/home/ops/c")));
    assert_eq!(files.config, PathBuf::from("/etc/aws"));
    assert_eq!(
        problems(&WEB_IDENTITY[..1]),
        ["AWS_ROLE_ARN=: is missing: AWS_WEB_IDENTITY_TOKEN_FILE is set; give the role that is to be assumed"]
    );
    let wrong = [WEB_IDENTITY[0], ("AWS_ROLE_ARN", "etcd"), ("AWS_ROLE_SESSION_NAME", "a b")];
    assert_eq!(
        problems(&wrong),
        [
            "AWS_ROLE_ARN=etcd: is not the ARN of a role; write arn:aws:iam::ACCOUNT:role/NAME",
            "AWS_ROLE_SESSION_NAME=a b: is not the name of a session; write 2 to 64 letters, digits and _+=,.@-",
        ]
    );
}

#[test]
fn a_profile_says_the_region_and_which_endpoints_unless_a_variable_does() {
    let scratch = Scratch::make();
    let path = scratch.path().join("config");
    let config = "[default]\nregion = eu-west-2\n[profile gov]\nregion = us-gov-west-1\nuse_fips_endpoint = True\n\
                  use_dualstack_endpoint = true\n[profile odd]\nregion = aws-global\n";
    std::fs::write(&path, config).unwrap();
    let file = ("AWS_CONFIG_FILE", path.to_str().unwrap());
    let aws = |pairs: &[(&str, &str)]| read(&env(&[&[file], pairs].concat())).unwrap().aws;
    assert_eq!(aws(&[]).region.as_deref(), Some("eu-west-2"));
    assert_eq!(aws(&[("AWS_REGION", "eu-west-3")]).region.as_deref(), Some("eu-west-3"));
    let gov = ("AWS_PROFILE", "gov");
    assert_eq!(aws(&[gov]).region.as_deref(), Some("us-gov-west-1"));
    assert_eq!(aws(&[gov]).variants, Variants { fips: true, dualstack: true });
    let off = [gov, ("AWS_USE_FIPS_ENDPOINT", "false"), ("AWS_USE_DUALSTACK_ENDPOINT", "no")];
    assert_eq!(aws(&off).variants, Variants::default());
    assert_eq!(
        problems(&[file, ("AWS_PROFILE", "odd")]),
        [format!(
            "region=aws-global of profile odd in {}: is no region: EC2 has no global endpoint; write the region's name, as eu-west-1",
            path.display()
        )]
    );
    // A fault of the file shows where AWS is called, and ends no start.
    std::fs::write(&path, "[default]\nhunter2\n").unwrap();
    assert_eq!(aws(&[]).region, None);
}

#[test]
fn a_metadata_service_that_is_turned_off_can_tell_of_no_end() {
    let off = ("AWS_EC2_METADATA_DISABLED", "TRUE");
    assert_eq!(read(&env(&[off])).unwrap().aws.imds_endpoint, None);
    assert!(read(&env(&[(off.0, "1")])).unwrap().aws.imds_endpoint.is_some(), "as the SDKs read it");
    let needs = "needs the metadata service, which AWS_EC2_METADATA_DISABLED=true turns off; unset one of the two";
    assert_eq!(
        problems(&[off, ("MUSTER_LEAVE", "on-terminate"), ("MUSTER_LIFECYCLE_HOOK", "up")]),
        [format!("MUSTER_LEAVE=on-terminate: {needs}"), format!("MUSTER_LIFECYCLE_HOOK=up: {needs}")]
    );
}
