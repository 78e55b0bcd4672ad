//! What is read from the environment, and what is said of what can't be.

use super::*;

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
    assert_eq!(config.tags, [("etcd".to_owned(), "1".to_owned())]);
    assert_eq!((config.client_port, config.peer_port), (2379, 2380));
    assert_eq!(config.bootstrap_wait, Duration::from_secs(20));
    assert_eq!(config.member_type, MemberType::Host);
    assert_eq!(config.data, PathBuf::from("/etcd/data"));
    assert_eq!(config.policy.min_nodes, 2);
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
        "ETCD_MEMBER_TYPE=dns: is none of host, ip",
        "ETCD_OPTS (its value is not shown): its word 2 is no --flag=value",
        "ETCD_INITIAL_CLUSTER=a=b: the founding computes it",
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
    assert_eq!(config.etcd["ETCD_SNAPSHOT_COUNT"], "7");
    assert_eq!(config.etcd["ETCD_ENABLE_PPROF"], "true");
    assert_eq!(config.etcd.len(), 2);
    assert_eq!(config.notices.len(), 1);
}

#[test]
fn a_claim_is_an_object_below_its_prefix() {
    let claim = |value| read(&env(&[("MUSTER_CLAIM", value)])).ok().map(|config| config.policy.claim.unwrap());
    assert_eq!(claim("s3://etcd-claims/prod/blue").as_deref(), Some("s3://etcd-claims/prod/blue/claim.json"));
    assert_eq!(claim("s3://etcd-claims/").as_deref(), Some("s3://etcd-claims/claim.json"));
    for wrong in ["etcd-claims/prod", "s3://", "s3://No_Bucket/x", "s3://etcd-claims//prod"] {
        assert_eq!(claim(wrong), None, "{wrong}");
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
    let read_one = |value| read(&env(&[("MUSTER_ROSTER", value)])).ok();
    assert_eq!(read_one("ec2").unwrap().written, None);
    let config = read_one("static:a=10.0.0.1,b=[fd00::2]").unwrap();
    assert_eq!(config.member_type, MemberType::Ip, "a name need not resolve");
    assert!(config.written.is_some() && config.policy.written);
    assert!(read_one("file:/etc/etcd-muster/roster.json").unwrap().written.is_some());
    for wrong in ["static:", "static:a=10.0.0.1,b=10.0.0.1", "file:roster.json", "aws", "/etc/roster.json"] {
        let said = problems(&[("MUSTER_ROSTER", wrong)]);
        assert!(said.len() == 1 && said[0].starts_with(&format!("MUSTER_ROSTER={wrong}: ")), "{said:?}");
    }
    let list = ("MUSTER_ROSTER", "static:a=10.0.0.1");
    assert_eq!(
        problems(&[list, ("MUSTER_LEAVE", "on-terminate"), ("MUSTER_LIFECYCLE_HOOK", "up")]),
        [
            "MUSTER_LEAVE=on-terminate: needs EC2, and the instances are MUSTER_ROSTER=static:a=10.0.0.1; unset one of the two",
            "MUSTER_LIFECYCLE_HOOK=up: needs EC2, and the instances are MUSTER_ROSTER=static:a=10.0.0.1; unset one of the two",
        ]
    );
    assert!(problems(&[list, ("MUSTER_LEAVE", "no")]).is_empty());
}

#[test]
fn the_metadata_service_is_met_over_ipv6_where_that_is_said() {
    let endpoint = |pairs: &[(&str, &str)]| read(&env(pairs)).unwrap().imds_endpoint;
    let mode = ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6");
    assert_eq!(endpoint(&[mode]), "http://[fd00:ec2::254]");
    assert_eq!(endpoint(&[]), "http://169.254.169.254");
    let given = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://[::1]:1338");
    assert_eq!(endpoint(&[mode, given]), "http://[::1]:1338");
    assert_eq!(
        problems(&[(mode.0, "v6")]),
        ["AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=v6: is none of IPv4, IPv6, ipv4, ipv6"]
    );
}

#[test]
fn lifecycle_hooks_are_names() {
    let hooks = |value| read(&env(&[("MUSTER_LIFECYCLE_HOOK", value)])).ok().map(|config| config.lifecycle_hooks);
    assert_eq!(hooks(""), Some(vec![]));
    assert_eq!(hooks("etcd-launch, etcd_stop"), Some(vec!["etcd-launch".to_owned(), "etcd_stop".to_owned()]));
    for wrong in ["a b", "a,", "arn:x", ","] {
        assert_eq!(hooks(wrong), None, "{wrong}");
    }
    assert!(!read(&env(&[])).unwrap().leave, "leaving is asked for");
    assert_eq!(problems(&[("MUSTER_LEAVE", "yes")]), ["MUSTER_LEAVE=yes: is none of no, on-terminate"]);
}

#[test]
fn a_proxy_is_read_in_both_cases_and_never_shown_with_its_password() {
    let proxy = |pairs: &[(&str, &str)]| format!("{:?}", read(&env(pairs)).unwrap().proxy);
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
    let url = |name, value| match read(&env(&[(name, value)])).ok()?.credentials {
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
    let tags = |pairs: &[(&str, &str)]| read(&env(pairs)).unwrap().tags;
    assert_eq!(tags(&[("MUSTER_TAGS", "etcd="), empty]), [("etcd".to_owned(), String::new())]);
}

#[test]
fn settings_of_etcds_that_endanger_data_are_said_at_the_start() {
    let notices = |pairs: &[(&str, &str)]| read(&env(pairs)).unwrap().notices;
    let both = notices(&[("ETCD_UNSAFE_NO_FSYNC", "true"), ("ETCD_OPTS", "--strict-reconfig-check=false")]);
    assert!(both.iter().any(|line| line.starts_with("ETCD_UNSAFE_NO_FSYNC=true: ")), "{both:?}");
    assert!(both.iter().any(|line| line.starts_with("ETCD_STRICT_RECONFIG_CHECK=false: ")), "{both:?}");
    assert!(notices(&[("ETCD_UNSAFE_NO_FSYNC", "false"), ("ETCD_STRICT_RECONFIG_CHECK", "true")]).is_empty());
}

#[test]
fn durations() {
    let of = |text| parse_duration(text).map(|d| d.as_millis());
    assert_eq!((of("30"), of("30s"), of("5m"), of("500ms")), (Some(30_000), Some(30_000), Some(300_000), Some(500)));
    assert_eq!((of("-1"), of("1w"), of(""), of("s")), (None, None, None, None));
}
