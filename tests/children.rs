//! Every end that a child can come to, with real processes: this is what exit codes and verdicts rest on.
//!
//! One test in a binary of its own: the reaper waits for every child of the process it lives in.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use etcd_muster::cluster::supervision::Ended;
use etcd_muster::process::reaper::Reaper;
use etcd_muster::process::signals;
use etcd_muster::process::spawn::Child;

/// Those whose default is to end a process (signal(7)); not the ones that stop or continue it, or are ignored. One that whoever
/// ran this test had ignored (nohup: SIGHUP) stays ignored in every child, and is left out.
const ENDING: [i32; 23] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30, 31];

#[test]
fn every_exit_code_and_every_signal_is_seen_as_it_was() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ends-as-told");
    fs::write(&program, "#!/bin/sh\nulimit -c 0\n$END\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let codes = (0..=255).map(|code| (format!("exit {code}"), Ended::Exited(code)));
    let killed = |signal: &i32| (format!("eval kill -{signal} $$"), Ended::Signaled(*signal));
    let ignored = ignored();
    let ending = ENDING.iter().filter(|signal| ignored & (1 << (*signal - 1)) == 0);
    let blocked = signals::block().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_stop, exits) = blocked.handle().unwrap();
        let reaper = Reaper::start(exits);
        let mut children = Vec::new();
        for (end, expected) in codes.chain(ending.map(killed)) {
            let env = BTreeMap::from([("END".to_owned(), end.clone())]);
            children.push((Child::spawn(&program, &env, &reaper).unwrap(), end, expected));
        }
        for (child, end, expected) in &children {
            assert_eq!(child.wait().await, *expected, "{end}");
        }
    });
}

/// The signals this process ignores, a bit each (proc(5), "SigIgn").
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap()
}
