//! Imports go downward only, and the core can't reach the world.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::fs;
use std::path::{Path, PathBuf};

/// Which module may never import which: (who, whom, why).
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    ("http.rs", &["aws", "etcd", "cluster", "config", "observe", "act", "daemon"], "transport knows no meaning"),
    ("tls.rs", &["aws", "etcd", "cluster", "config", "observe", "act", "daemon"], "transport knows no meaning"),
    (
        "pki",
        &["http", "aws", "etcd", "cluster", "config", "cloud", "identity", "rollcall", "observe", "act", "daemon"],
        "certificates are values and files, whoever uses them",
    ),
    ("reach.rs", &["aws", "observe", "act", "daemon", "cloud"], "how ports are reached, not what is said there"),
    ("keeper.rs", &["observe", "act", "daemon", "etcd::client"], "it keeps files, it talks to nobody but AWS"),
    (
        "listen.rs",
        &["aws", "etcd", "cluster", "config", "rollcall", "status", "observe", "act", "daemon"],
        "it takes callers, whatever they are answered",
    ),
    (
        "words.rs",
        &["aws", "etcd", "cluster", "config", "http", "observe", "act", "daemon", "commands"],
        "it knows characters, not what they say",
    ),
    ("proxy.rs", &["aws", "etcd", "cluster", "config", "observe", "act", "daemon"], "transport knows no meaning"),
    ("process", &["aws", "etcd", "config", "observe", "act", "daemon"], "PID 1's duties are the same for any child"),
    ("aws", &["etcd", "config", "observe", "act", "daemon", "rollcall"], "aws and etcd don't know each other"),
    ("etcd", &["aws", "config", "observe", "act", "daemon", "rollcall"], "aws and etcd don't know each other"),
    ("observe.rs", &["act", "daemon", "commands", "ledger"], "observe reads, it can't write"),
    ("act.rs", &["observe", "daemon", "commands", "aws::ec2", "aws::imds", "cloud"], "act writes, it can't look"),
    (
        "status",
        &["aws", "etcd", "cloud", "config", "rollcall", "observe", "act", "attend", "startup", "daemon", "commands"],
        "status tells what it was told, it finds out nothing itself",
    ),
    (
        "file.rs",
        &["aws", "etcd", "cluster", "config", "http", "tls", "pki", "ledger", "status", "observe", "act", "daemon"],
        "it reads files, whatever they hold",
    ),
    (
        "logger.rs",
        &["aws", "etcd", "cluster", "config", "process", "status", "observe", "act", "daemon"],
        "it writes lines, whoever says them",
    ),
    ("meter.rs", &["aws", "etcd", "cluster", "status", "daemon"], "it counts, whatever it is"),
    (
        "notice.rs",
        &["etcd", "config", "cloud", "observe", "act", "daemon"],
        "it only tells what the metadata service says",
    ),
    ("hook.rs", &["etcd", "config", "cloud", "observe", "act", "daemon", "leave"], "hooks follow what others decide"),
    ("leave.rs", &["aws", "config", "cloud", "observe", "act", "daemon"], "what proves an end is not its business"),
    ("rollcall", &["aws", "observe", "act", "daemon", "cloud", "commands"], "the roll call only answers and asks"),
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
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn imports_go_downward() {
    for (who, whom, why) in FORBIDDEN {
        let files = sources(&src().join(who));
        assert!(!files.is_empty(), "{who} is gone: mend this test");
        for file in files {
            let code = code(&file);
            for module in *whom {
                let import = format!("crate::{module}");
                let imported = code.match_indices(&import).any(|(at, _)| {
                    !code[at + import.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                });
                assert!(!imported, "{} imports {import}: {why}", file.display());
            }
        }
    }
}

#[test]
fn the_core_knows_values_only() {
    for file in sources(&src().join("cluster")) {
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

#[test]
fn only_the_clock_sleeps() {
    for file in sources(&src()).into_iter().filter(|f| !f.ends_with("clock.rs")) {
        assert!(!code(&file).contains("time::sleep"), "{} sleeps; clock::pause says why", file.display());
    }
}
