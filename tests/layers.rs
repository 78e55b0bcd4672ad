//! Imports go downward only, and the core can't reach the world.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::fs;
use std::path::{Path, PathBuf};

/// What each folder may import, lowest first. A new folder says here what it stands on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("util", &[]),
    ("core", &[]),
    ("net", &["util"]),
    // PID 1's duties are the same for any child; of the core it takes what an end can be.
    ("process", &["util", "core"]),
    // AWS and etcd don't know each other, nor who asks.
    ("aws", &["util", "core", "net"]),
    ("etcd", &["util", "core", "net"]),
    // It brings etcd's data to a place that it was given, and knows no setting and no supervisor.
    ("snapshot", &["util", "core", "net", "process", "aws", "etcd"]),
    ("state", &["util", "core", "etcd"]),
    ("config", &["util", "core", "net", "aws", "etcd"]),
    ("discovery", &["util", "core", "net", "aws", "etcd", "config", "state"]),
    ("peer", &["util", "core", "net", "etcd", "config", "discovery", "state"]),
    // It tells what it was told, and finds out nothing itself.
    ("status", &["util", "core", "net"]),
    (
        "daemon",
        &[
            "util",
            "core",
            "net",
            "process",
            "aws",
            "etcd",
            "state",
            "config",
            "snapshot",
            "discovery",
            "peer",
            "status",
        ],
    ),
    (
        "cli",
        &[
            "util",
            "core",
            "net",
            "process",
            "aws",
            "etcd",
            "state",
            "config",
            "snapshot",
            "discovery",
            "peer",
            "status",
            "daemon",
        ],
    ),
];

/// Within the daemon: (who, whom never, why).
const APART: &[(&str, &[&str], &str)] = &[
    ("observer.rs", &["executor", "crate::state"], "it reads, it can't write"),
    (
        "executor.rs",
        &["observer", "crate::discovery::Discovery", "crate::aws::ec2", "crate::aws::imds"],
        "it writes, it can't look",
    ),
    ("termination_notice.rs", &["observer", "executor", "crate::etcd"], "it tells what the metadata service says"),
    ("lifecycle_hooks.rs", &["observer", "executor", "departure", "crate::etcd"], "hooks follow what others decide"),
    ("departure.rs", &["observer", "executor", "crate::aws"], "what proves an end is not its business"),
    ("certificates.rs", &["observer", "executor", "crate::etcd::client"], "it keeps files, it talks to nobody but AWS"),
];

/// All the core may use of `std`: values, no world. `Duration` is a value, `Instant` is a clock.
const CORE_STD: &[&str] = &["std::collections", "std::fmt", "std::net::IpAddr", "std::time::Duration", "std::ops"];

fn sources(under: &Path) -> Vec<PathBuf> {
    if under.is_file() {
        return vec![under.to_owned()];
    }
    let entries = fs::read_dir(under).unwrap_or_else(|e| panic!("{}: {e}", under.display()));
    entries
        .flat_map(|entry| sources(&entry.unwrap().path()))
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .collect()
}

/// The code of a file without its unit tests and comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The names that follow `crate::`, or `super::`, in a text.
fn imported<'a>(code: &'a str, from: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(from).map(move |(at, _)| {
        let name = &code[at + from.len()..];
        &name[..name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len())]
    })
}

#[test]
fn folders_import_what_they_may() {
    let folders: Vec<_> =
        fs::read_dir(src()).unwrap().map(|entry| entry.unwrap().path()).filter(|p| p.is_dir()).collect();
    let named = |folder: &Path| ALLOWED.iter().any(|(name, _)| folder.ends_with(name));
    assert!(folders.len() == ALLOWED.len() && folders.iter().all(|folder| named(folder)), "{folders:?}");
    for (place, (folder, allowed)) in ALLOWED.iter().enumerate() {
        let below: Vec<_> = ALLOWED[..place].iter().map(|(name, _)| *name).collect();
        assert!(allowed.iter().all(|name| below.contains(name)), "{folder} imports what stands on it");
        for file in sources(&src().join(folder)) {
            let code = code(&file);
            for name in imported(&code, "crate::") {
                assert!(name == *folder || allowed.contains(&name), "{} imports crate::{name}", file.display());
            }
        }
    }
}

#[test]
fn in_the_daemon_reading_and_writing_stay_apart() {
    for (who, whom, why) in APART {
        let code = code(&src().join("daemon").join(who));
        for module in *whom {
            let found = match module.starts_with("crate::") {
                true => code.contains(module),
                false => imported(&code, "super::").any(|name| name == *module),
            };
            assert!(!found, "{who} imports {module}: {why}");
        }
    }
}

#[test]
fn the_core_knows_values_only() {
    for file in sources(&src().join("core")) {
        let code = code(&file);
        assert!(!code.contains("crate::"), "{} leaves the core", file.display());
        for (at, _) in code.match_indices("std::") {
            let path: String =
                code[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || "_:".contains(*c)).collect();
            assert!(CORE_STD.iter().any(|allowed| path.starts_with(allowed)), "{} uses {path}", file.display());
        }
        for line in code.lines().filter_map(|line| line.trim_start().strip_prefix("use ")) {
            let root = line.split("::").next().unwrap_or_default();
            assert!(["super", "std", "serde"].contains(&root), "{} imports {root}", file.display());
        }
    }
}

/// Files of the core import each other in one direction, too.
#[test]
fn the_core_has_no_circle() {
    let name = |file: &Path| file.file_stem().unwrap().to_str().unwrap().to_owned();
    let files = sources(&src().join("core"));
    let mut left: Vec<(String, Vec<String>)> = files
        .iter()
        .map(|file| (name(file), imported(&code(file), "super::").map(str::to_owned).collect()))
        .filter(|(name, _): &(String, Vec<String>)| name != "mod")
        .collect();
    while !left.is_empty() {
        let before = left.len();
        let names: Vec<String> = left.iter().map(|(name, _)| name.clone()).collect();
        left.retain(|(_, imports)| imports.iter().any(|import| names.contains(import)));
        assert!(left.len() < before, "a circle among {names:?}");
    }
}

#[test]
fn only_the_clock_sleeps() {
    for file in sources(&src()).into_iter().filter(|f| !f.ends_with("clock.rs")) {
        assert!(!code(&file).contains("time::sleep"), "{} sleeps; clock::pause says why", file.display());
    }
}
