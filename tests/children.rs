//! Every end that a child can come to, with real processes: this is what exit codes and verdicts rest on.
//!
//! One test in a binary of its own: the reaper waits for every child of the process it lives in.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use etcd_muster::core::restart::Ended;
use etcd_muster::process::reaper::Reaper;
use etcd_muster::process::signals;
use etcd_muster::process::spawn::Child;

/// Those whose default is not to end a process (signal(7)): they are ignored, or stop or continue it. One that whoever ran this test
/// had ignored (nohup: SIGHUP) stays ignored in every child, and is left out too.
const NOT_ENDING: [i32; 8] = [17, 18, 19, 20, 21, 22, 23, 28];
/// The real-time signals included, to the last (SIGRTMAX).
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

#[test]
fn every_exit_code_and_every_signal_is_seen_as_it_was() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ends-as-told");
    fs::write(&program, "#!/bin/sh\nulimit -c 0\n$END\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let codes = (0..=255).map(|code| (format!("exit {code}"), Ended::Exited(code)));
    let killed = |signal: &i32| (format!("eval kill -{signal} $$"), Ended::Signaled(*signal));
    let ignored = ignored();
    let ending: Vec<i32> =
        SIGNALS.filter(|signal| !NOT_ENDING.contains(signal) && ignored & (1 << (signal - 1)) == 0).collect();
    assert!(ending.len() > 50, "all 33 real-time ones among them: {ending:?}");
    let blocked = signals::block().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_stop, exits, _too) = blocked.handle().unwrap();
        let reaper = Reaper::start(exits);
        let mut children = Vec::new();
        for (end, expected) in codes.chain(ending.iter().map(killed)) {
            let env = BTreeMap::from([("END".to_owned(), end.clone())]);
            children.push((Child::spawn(&program, &env, &reaper).unwrap(), end, expected));
        }
        for (child, end, expected) in &children {
            assert_eq!(child.wait().await, *expected, "{end}");
        }
        // Somebody else takes the status: nobody waits for ever for an end that has been.
        let env = BTreeMap::from([("END".to_owned(), "exit 3".to_owned())]);
        let robbed = Child::spawn(&program, &env, &reaper).unwrap();
        nix::sys::wait::waitpid(robbed.pid(), None).unwrap();
        assert_eq!(robbed.wait().await, Ended::Unseen);
    });
}

/// The signals this process ignores, a bit each (proc(5), "SigIgn").
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap()
}
