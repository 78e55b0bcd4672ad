//! `MUSTER_HOSTS`: without EC2, a static list of instances. This file only reads it: the core decides what a list means for a
//! bootstrap, as it does for EC2's.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::core::types::{Instance, InstanceId, InstanceState, Roster};
use crate::util::clock;
use crate::util::file;
use crate::util::machine::has_interface;

/// The longest possible DNS name; etcd accepts any length.
const MAX_HOST: usize = 253;

/// A static list of instances.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Written {
    /// `static:host=address,…`, as it was given: no host in it is ever gone.
    Static { text: String, entries: Vec<Instance> },
    /// `file:/path.json`, read at every observation.
    File(PathBuf),
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static { text, .. } => write!(f, "MUSTER_HOSTS=static:{text}"),
            Self::File(path) => write!(f, "MUSTER_HOSTS=file:{}", path.display()),
        }
    }
}

impl Written {
    /// Parses the variable; `None`: EC2.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn parse(value: &str) -> Result<Option<Self>, String> {
        if value == "ec2" {
            return Ok(None);
        }
        if let Some(text) = value.strip_prefix("static:") {
            let entries = parse_static(text)?;
            return Ok(Some(Self::Static { text: text.to_owned(), entries }));
        }
        match value.strip_prefix("file:").map(Path::new) {
            Some(path) if path.is_absolute() => Ok(Some(Self::File(path.to_owned()))),
            Some(_) => Err("is not an absolute path; write file:/etc/etcd-muster/roster.json".to_owned()),
            None => Err("is not one of ec2, static:host=address,host2=address2, file:/path.json".to_owned()),
        }
    }

    /// The list as it is now.
    ///
    /// # Errors
    /// Variable, value, and why it is not a list: then nothing is known, whatever was known before.
    pub async fn roster(&self) -> Result<Roster, String> {
        let entries = match self {
            Self::Static { entries, .. } => Ok(entries.clone()),
            Self::File(path) => file::fetch(path).await.map_err(|e| e.to_string()).and_then(|text| parse(&text)),
        };
        let entries = entries.map_err(|cause| format!("{self}: {cause}"))?;
        Ok(Roster::written(entries, clock::epoch()))
    }

    /// The list as it is now, and this host's entry: the one with an address of ours.
    ///
    /// # Errors
    /// As above; and the list has no entry for this host, or more than one.
    pub async fn roster_of_ours(&self) -> Result<(Roster, Instance), String> {
        let roster = self.roster().await?;
        let own = own_entry(&roster, has_interface).map_err(|cause| format!("{self}: {cause}"))?.clone();
        Ok((roster, own))
    }
}

/// An entry of the file. A misspelt key must not count as an omitted one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    host: String,
    address: String,
    launched: Option<String>,
    state: Option<String>,
    zone: Option<String>,
}

/// Parses a host file: a JSON list of objects.
///
/// # Errors
/// Why it is not a usable list, on one line.
pub fn parse(text: &[u8]) -> Result<Vec<Instance>, String> {
    let unread = |e: serde_json::Error| format!("can't be read: {e}").replace(char::is_control, "?");
    let entries: Vec<Entry> = serde_json::from_slice(text).map_err(unread)?;
    let mut instances = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut instance = instance(&entry.host, &entry.address)?;
        let state = entry.state.as_deref().map_or(Some(InstanceState::Running), InstanceState::parse);
        instance.state = state
            .filter(|s| matches!(s, InstanceState::Running | InstanceState::Stopped | InstanceState::Terminated))
            .ok_or_else(|| format!("the state of {} is not one of running, stopped, terminated", entry.host))?;
        if let Some(launched) = &entry.launched {
            let at = clock::parse_rfc3339(launched);
            let at =
                at.ok_or_else(|| format!("`launched` of {} is not a time; write 2026-11-24T09:00:00Z", entry.host))?;
            instance.launched = Some(at);
        }
        instance.zone = entry.zone.unwrap_or_default();
        instances.push(instance);
    }
    unambiguous(&instances)?;
    Ok(instances)
}

/// Parses `host=address,…`.
///
/// # Errors
/// As [`parse`].
pub fn parse_static(text: &str) -> Result<Vec<Instance>, String> {
    let entry = |entry: &str| {
        let (host, address) = entry.trim().split_once('=').ok_or_else(|| format!("{entry:?} is not host=address"))?;
        let inner = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
        instance(host, inner.unwrap_or(address))
    };
    let instances = text.split(',').map(entry).collect::<Result<Vec<_>, _>>()?;
    unambiguous(&instances)?;
    Ok(instances)
}

fn instance(host: &str, address: &str) -> Result<Instance, String> {
    // It becomes a member's name, which etcd separates from its URL by `=` and from the next member by `,`; and a name in
    // certificates.
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if host.is_empty() || host.len() > MAX_HOST || !host.chars().all(fits) {
        return Err(format!("{host:?} is not a host name; use letters, digits, -, _ and ."));
    }
    let reachable = |a: &IpAddr| {
        let link_local = matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
        !a.is_unspecified() && !a.is_multicast() && !link_local
    };
    let parsed = address.parse().map(|a: IpAddr| a.to_canonical()).ok().filter(reachable);
    Ok(Instance {
        id: InstanceId(host.to_owned()),
        state: InstanceState::Running,
        launched: None,
        attached: None,
        changed: None,
        address: Some(parsed.ok_or_else(|| {
            format!(
                "{address:?} of {host} is not an address at which others can \
            reach it"
            )
        })?),
        private_dns: Some(host.to_owned()),
        zone: String::new(),
    })
}

/// A name stands for one member for ever, an address for one host that is not terminated.
fn unambiguous(instances: &[Instance]) -> Result<(), String> {
    if instances.is_empty() {
        return Err("is empty".to_owned());
    }
    let (mut hosts, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for instance in instances {
        if !hosts.insert(instance.id.0.to_ascii_lowercase()) {
            return Err(format!("{} is listed twice; give each host its own name", instance.id));
        }
        let stands = instance.state != InstanceState::Terminated;
        if let Some(address) = instance.address.filter(|address| stands && !addresses.insert(*address)) {
            return Err(format!("{address} is listed twice; give each host its own address"));
        }
    }
    Ok(())
}

/// The only entry with an address of ours.
fn own_entry(roster: &Roster, is_local: impl Fn(IpAddr) -> bool) -> Result<&Instance, String> {
    let is_ours = |i: &&Instance| i.address.is_some_and(&is_local);
    let mut found = roster.non_terminated().filter(is_ours);
    match (found.next(), found.next()) {
        (Some(own), None) => Ok(own),
        (Some(one), Some(other)) => Err(format!("{} and {} are both this host", one.id, other.id)),
        (None, _) => Err(match roster.terminated().find(is_ours) {
            Some(own) => format!("this host is {}, which is terminated there", own.id),
            None => "no listed address is this host's; add this host (a container needs --network host)".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(text: &str) -> Result<Vec<Instance>, String> {
        parse(text.as_bytes())
    }

    #[test]
    fn a_list_is_read_in_its_order_and_says_no_more_than_is_written() {
        let read = list(
            r#"[{"host": "db-2", "address": "10.0.0.2"},
                {"host": "db-1", "address": "fd00::1", "launched": "2015-12-22T10:44:05Z", "zone": "rack-1"},
                {"host": "db-0", "address": "10.0.0.2", "state": "terminated"}]"#,
        )
        .unwrap();
        let roster = Roster::written(read, 1_450_781_105);
        let seen: Vec<_> =
            roster.all().iter().map(|i| (i.id.0.as_str(), i.state, roster.age(i).map(|a| a.as_secs()))).collect();
        use InstanceState::{Running, Terminated};
        assert_eq!(seen, [("db-2", Running, None), ("db-1", Running, Some(60)), ("db-0", Terminated, None)]);
        assert_eq!(roster.all()[1].zone, "rack-1");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_read_in_none() {
        for (text, why) in [
            ("", "can't be read"),
            ("[]", "is empty"),
            (r#"[{"host": "a", "address": "10.0.0.1"}"#, "can't be read"),
            (r#"[{"host": "a", "address": "10.0.0.1"}]]"#, "can't be read"),
            (r#"[{"host": "a", "address": "10.0.0.1", "staet": "terminated"}]"#, "unknown field `staet`"),
            (r#"[{"host": "a", "address": "10.0.0.1", "state": "running", "state": "terminated"}]"#, "duplicate field"),
            (r#"[{"host": "a", "address": "10.0.0.1", "state": "dead"}]"#, "the state of a is not one of"),
            (r#"[{"host": "a", "address": "10.0.0.1", "launched": "today"}]"#, "`launched` of a is not a time"),
            (r#"[{"host": "a", "address": "10.0.0.1"}, {"host": "A", "address": "10.0.0.2"}]"#, "A is listed twice"),
            (
                r#"[{"host": "a", "address": "10.0.0.1"}, {"host": "b", "address": "::ffff:10.0.0.1"}]"#,
                "10.0.0.1 is listed twice",
            ),
            (r#"[{"host": "a=b", "address": "10.0.0.1"}]"#, "is not a host name"),
            (r#"[{"host": "a", "address": "db-1"}]"#, "is not an address"),
            (r#"[{"host": "a", "address": "fe80::1"}]"#, "is not an address"),
        ] {
            let said = list(text).expect_err(text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn a_static_list_has_brackets_around_ipv6_or_none() {
        let read = parse_static("db-1=[fd00::1],db-2=fd00::2,db-3=10.0.0.3").unwrap();
        let addresses: Vec<_> = read.iter().filter_map(|i| i.address).map(|a| a.to_string()).collect();
        assert_eq!(addresses, ["fd00::1", "fd00::2", "10.0.0.3"]);
        assert!(read.iter().all(|i| i.launched.is_none() && i.state == InstanceState::Running));
        for wrong in ["", "db-1", "db-1=", "=10.0.0.1", "a=10.0.0.1,a=10.0.0.2", "a=10.0.0.1,", "a=[10.0.0.1"] {
            assert!(parse_static(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn this_host_is_the_one_entry_with_an_address_of_ours() {
        let file = r#"[{"host": "old", "address": "10.0.0.1", "state": "terminated"}, {"host": "a", "address": "10.0.0.1"},
                       {"host": "b", "address": "fd00::2"}, {"host": "c", "address": "10.0.0.3", "state": "terminated"}]"#;
        let roster = Roster::written(list(file).unwrap(), 0);
        let own = |addresses: &[&str]| {
            let is_local = |address: IpAddr| addresses.contains(&address.to_string().as_str());
            own_entry(&roster, is_local).map(|i| i.id.0.clone())
        };
        assert_eq!(own(&["127.0.0.1", "10.0.0.1"]).as_deref(), Ok("a"));
        assert_eq!(own(&["fd00::2"]).as_deref(), Ok("b"));
        assert!(own(&["10.0.0.1", "fd00::2"]).unwrap_err().contains("a and b are both this host"));
        assert!(own(&["10.0.0.3"]).unwrap_err().contains("this host is c, which is terminated there"));
        assert!(own(&["127.0.0.1", "10.9.9.9"]).unwrap_err().contains("no listed address is this host's"));
    }

    proptest! {
        /// Whatever part of a file was written when it is read: all of it, or nothing.
        #[test]
        fn every_truncation_is_no_list(hosts in prop::collection::btree_map("[a-z][a-z0-9.-]{0,9}", any::<u32>(), 1..5), cut in 0.0..1.0f64) {
            let states = ["running", "stopped", "terminated"];
            let entries: Vec<_> = hosts.iter().enumerate().map(|(n, (host, at))| serde_json::json!({
                "host": host, "address": format!("fd00::{n}"), "launched": clock::rfc3339(i64::from(*at)), "state": states[n % 3],
            })).collect();
            let text = serde_json::to_string(&entries).unwrap();
            let read = list(&text).unwrap();
            prop_assert_eq!(read.iter().map(|i| i.id.0.clone()).collect::<Vec<_>>(), hosts.keys().cloned().collect::<Vec<_>>());
            prop_assert_eq!(read.iter().filter_map(|i| i.launched).collect::<Vec<_>>(), hosts.values().map(|at| i64::from(*at)).collect::<Vec<_>>());
            let end = (text.len() as f64 * cut) as usize;
            prop_assert!(list(&text[..end]).is_err(), "{}", &text[..end]);
        }
    }
}
