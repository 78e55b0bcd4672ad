//! A roster file, and `static:`'s list: no panic, a problem is one line, and of what passes every entry is its own host at its own
//! address, under a name that etcd can bear; nobody is terminated, nor launched, who isn't by the text's own word.
#![cfg_attr(fuzzing, no_main)]

use std::collections::BTreeSet;

use etcd_muster::config::hosts;
use etcd_muster::core::types::{Instance, InstanceState};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| holds(data));

pub fn holds(data: &[u8]) {
    match hosts::parse(data) {
        Err(cause) => assert!(!cause.contains(char::is_control), "{cause:?}"),
        Ok(instances) => {
            unambiguous(&instances);
            let text: serde_json::Value = serde_json::from_slice(data).expect("JSON");
            let entries = text.as_array().expect("a list");
            assert_eq!(entries.len(), instances.len());
            for (entry, instance) in entries.iter().zip(&instances) {
                assert_eq!(entry["host"].as_str(), Some(instance.id.0.as_str()), "rank is the order");
                assert_eq!(entry["state"] == "terminated", instance.state == InstanceState::Terminated);
                assert_eq!(entry["launched"].is_string(), instance.launched.is_some());
            }
        }
    }
    match hosts::parse_static(&String::from_utf8_lossy(data)) {
        Err(cause) => assert!(!cause.contains(char::is_control), "{cause:?}"),
        Ok(instances) => {
            unambiguous(&instances);
            assert!(instances.iter().all(|i| i.state == InstanceState::Running && i.launched.is_none()));
        }
    }
}

fn unambiguous(instances: &[Instance]) {
    assert!(!instances.is_empty());
    let hosts: BTreeSet<_> = instances.iter().map(|i| &i.id).collect();
    assert_eq!(hosts.len(), instances.len(), "one name, two hosts");
    assert!(hosts.iter().all(|host| !host.0.is_empty() && !host.0.contains([',', '='])));
    let standing = || instances.iter().filter(|i| i.state != InstanceState::Terminated);
    let addresses: BTreeSet<_> = standing().map(|i| i.address.expect("an address")).collect();
    assert_eq!(addresses.len(), standing().count(), "one address, two hosts");
}
