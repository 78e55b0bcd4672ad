//! What follows when etcd ends: our exit code, and whether and when to start it again (section "Supervision").

use std::time::Duration;

/// How a child process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Exited(i32),
    Signaled(i32),
    /// It is gone, and the kernel does not report how.
    Unseen,
}

impl Ended {
    /// The shell's convention, as in catatonit and tini: the code, or 128 + the signal's number.
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128 + signal,
            // As for a kill: nothing can be assumed about what it did before.
            Self::Unseen => 128 + 9,
        }
    }
}

/// What an unrequested exit of etcd calls for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// etcd can't work with these settings: stop, and leave the data alone.
    Misconfigured,
    /// Observe and decide again after this pause.
    Again(Duration),
    /// etcd reported damaged data in so many runs in a row. The data is moved aside if a quorum can provide all of it again;
    /// otherwise it stays, and etcd is started with it again after this pause.
    Condemned { said: &'static str, pause: Duration },
}

/// Restart pauses: 1 s doubling to 60 s, reset once etcd has run for five minutes.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
pub const LIFE_THAT_RESETS: Duration = Duration::from_secs(300);
/// This many short runs in a row in which etcd reported damaged data mark the data as damaged.
pub const LIVES_THAT_CONDEMN: u32 = 5;

/// One run of etcd, as far as the verdict needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessRun {
    pub ended: Ended,
    pub lasted: Duration,
    /// The peer port answered `/version`.
    pub served: bool,
    /// Runs before this one that ended within [`LIFE_THAT_RESETS`].
    pub short_lives_before: u32,
    /// How many of the last of them ended with a report of damaged data.
    pub damaged_before: u32,
}

impl ProcessRun {
    /// Short runs in a row, this one included, that ended with a report of damaged data.
    pub fn damaged(&self, output: &str) -> u32 {
        let is_short = self.lasted < LIFE_THAT_RESETS;
        if is_short && damage(self.ended, output).is_some() { self.damaged_before + 1 } else { 0 }
    }
}

/// Classifies an end. Exit codes alone say little: a removed member exits 0, a bad setting in a variable 1, an unknown flag
/// 2 and so does a panic; etcd's output tells them apart (measured on 3.4.23, 3.5.1, 3.6.16, 3.7.3).
pub fn verdict(life: &ProcessRun, output: &str, jitter: f64) -> Verdict {
    let refuses = |what: &&str| output.contains(*what);
    if matches!(life.ended, Ended::Exited(1 | 2)) && !life.served && REFUSALS.iter().any(refuses) {
        return Verdict::Misconfigured;
    }
    // Full pauses in lockstep would make three nodes collide; a random factor from a half to one keeps the exponential shape.
    let jittered = |pause: Duration| pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
    match damage(life.ended, output) {
        Some(said) if life.damaged(output) >= LIVES_THAT_CONDEMN => {
            Verdict::Condemned { said, pause: jittered(LONGEST_PAUSE) }
        }
        _ => {
            let doublings = life.short_lives_before.min(6);
            Verdict::Again(jittered(FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE)))
        }
    }
}

/// The supervisor's own exit code after a requested stop: etcd's, except that an etcd ended by the SIGTERM it was sent, as etcd
/// does, counts as a clean stop.
pub const fn stop_code(ended: Ended) -> i32 {
    const SIGTERM: i32 = 15;
    match ended {
        Ended::Signaled(SIGTERM) => 0,
        other => other.exit_code(),
    }
}

/// What etcd says of settings it can't work with (3.4.23's first line is the old logger's; each was provoked on every release from 3.4.23
/// to 3.7.3 that ends so, see tests/e2e/test_releases.py).
const REFUSALS: &[&str] = &[
    "flag provided but not defined",
    "failed to verify flags",
    "error verifying flags",
    "etcdmain: invalid value ", // 3.3
    "error parsing CompactionRetention",
    "unexpected TLS cipher suite",
    "auth: invalid auth options",
    "cannot bind both ",
    "panic: unrecognized level",
    "panic: unknown level",
];

/// The line with the reason, or the first line.
pub fn refusal(output: &str) -> Option<&str> {
    let refuses = |line: &&str| REFUSALS.iter().any(|what| line.contains(what));
    output.lines().rev().find(refuses).or(output.lines().next())
}

/// Whether etcd ended because of a full disk.
pub fn is_full(output: &str) -> bool {
    last_words(output).contains("no space left on device")
}

/// etcd's own words on data it can't use, as 3.4.23, 3.5.1, 3.6.16 and 3.7.3 ended with them over real damage: a bit flipped, a file cut short
/// or emptied. "failed to open database" alone is none of them: it is also said of a full disk and of a file that may not be
/// read.
const DAMAGE: &[&str] = &[
    // The WAL: a flipped bit, a wrong length, a record that is invalid, a head without ids.
    "walpb: crc mismatch",
    "wal: crc mismatch",
    "wal: max entry size limit exceeded",
    "wal: file not found",
    "wal: slice bounds out of range",
    "wal: conflicting metadata found",
    "wal: snapshot not found",
    // (A blank may follow, or a blank that doesn't break: Go's protobuf takes one or the other by the build.)
    "\"error\":\"proto:",
    "unexpected block type ",
    "cannot use none as id",
    // It has lost acknowledged entries: the leader has seen them here.
    "is out of range [lastIndex(",
    // The snapshot, or its backend.
    "failed to find database snapshot file",
    "snap: crc mismatch",
    "snap: empty snapshot",
    // The backend: its head, its checksum, its pages.
    "\"error\":\"invalid database\"",
    "\"error\":\"checksum error\"",
    "\"error\":\"file size too small\"",
    "freepages: failed to get all reachable pages",
    "assertion failed: Page expected to be: ",
];

/// Causes that say nothing about the data, whatever else is printed beside them.
const NO_DAMAGE: &[&str] = &[
    "no space left on device",
    "disk quota exceeded",
    "read-only file system",
    "permission denied",
    "operation not permitted",
    "too many open files",
    "cannot allocate memory",
    "address already in use",
    "already locked",
    "flocked by another process",
];

/// The words with which etcd ended because of its own data.
fn damage(ended: Ended, output: &str) -> Option<&'static str> {
    // A fatal line exits with 1, a panic and a fault with 2; a killed etcd has printed nothing of the kind.
    let last = match ended {
        Ended::Exited(1 | 2) => last_words(output),
        _ => return None,
    };
    if NO_DAMAGE.iter().any(|words| last.contains(words)) {
        return None;
    }
    // A page of the backend that is no longer there: the runtime names the fault, and the trace shows whose memory it was.
    let fault = "unexpected fault address";
    if last.contains(fault) && last.contains("go.etcd.io/bbolt.") {
        return Some(fault);
    }
    // 3.7 over a WAL without a head: the snapshot that it begins with is none.
    let headless = "nil pointer dereference";
    if last.contains(headless) && last.contains("[running]:\ngo.etcd.io/etcd/server/v3/etcdserver.bootstrap(") {
        return Some(headless);
    }
    DAMAGE.iter().copied().find(|words| last.contains(words)).map(|words| words.trim_start_matches("\"error\":"))
}

/// Starts at the line with which etcd gave up, where it can be told (3.4's old logger marks none). etcd survived whatever it
/// complained about before that.
fn last_words(output: &str) -> &str {
    let is_end = |line: &str| {
        let starts = ["panic:", "unexpected fault address", "fatal error:"].iter().any(|start| line.starts_with(start));
        starts || line.contains("\"level\":\"fatal\"") || line.contains("\"level\":\"panic\"")
    };
    let mut at = 0;
    for line in output.split_inclusive('\n') {
        if is_end(line) {
            return &output[at..];
        }
        at += line.len();
    }
    output
}

/// etcd waits, without a limit and without serving a port, for a lock that another process holds (bbolt's, on the backend).
pub fn waits_for_a_lock(output: &str) -> bool {
    output.contains("flocked by another process")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(ended: Ended) -> ProcessRun {
        ProcessRun { ended, lasted: Duration::from_millis(30), served: false, short_lives_before: 0, damaged_before: 0 }
    }

    #[test]
    fn exit_codes_follow_the_shell() {
        for code in 0..=255 {
            assert_eq!(Ended::Exited(code).exit_code(), code);
        }
        for signal in 1..=64 {
            assert_eq!(Ended::Signaled(signal).exit_code(), 128 + signal);
        }
    }

    #[test]
    fn only_bad_settings_stop_the_supervisor() {
        let bad = "\"failed to verify flags\",\"error\":\"expected IP in URL\"";
        assert_eq!(verdict(&life(Ended::Exited(1)), bad, 0.0), Verdict::Misconfigured);
        assert_eq!(verdict(&life(Ended::Exited(2)), "flag provided but not defined", 0.0), Verdict::Misconfigured);
        for (ended, output) in [
            (Ended::Exited(1), "no space left on device"),
            (Ended::Exited(2), "panic: tocommit(5) is out of range"),
            (Ended::Exited(2), "fatal error: out of memory"),
            (Ended::Exited(0), "the member has been permanently removed"),
            (Ended::Signaled(9), ""),
        ] {
            assert!(matches!(verdict(&life(ended), output, 0.0), Verdict::Again(_)), "{ended:?} {output}");
        }
        let served = ProcessRun { served: true, ..life(Ended::Exited(2)) };
        assert!(matches!(verdict(&served, "", 0.0), Verdict::Again(_)));
    }

    #[test]
    fn pauses_double_to_a_minute() {
        let pause =
            |before| match verdict(&ProcessRun { short_lives_before: before, ..life(Ended::Exited(1)) }, "", 1.0) {
                Verdict::Again(pause) => pause.as_secs(),
                _ => 0,
            };
        assert_eq!((0..9).map(pause).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_stop_passes_every_code_on_but_for_the_signal_that_was_sent() {
        for code in 0..=255 {
            assert_eq!(stop_code(Ended::Exited(code)), code);
        }
        for signal in 1..=64 {
            let expected = if signal == 15 { 0 } else { 128 + signal };
            assert_eq!(stop_code(Ended::Signaled(signal)), expected);
        }
    }

    /// Nothing but a refusal in etcd's own words ends the supervisor: neither a code nor a signal by itself.
    #[test]
    fn no_code_and_no_signal_alone_ends_the_supervisor() {
        for output in ["", "panic: runtime error\n\ngoroutine 1 [running]:", "address already in use"] {
            for ended in (0..=255).map(Ended::Exited).chain((1..=64).map(Ended::Signaled)) {
                for served in [false, true] {
                    let stops = verdict(&ProcessRun { served, ..life(ended) }, output, 0.0) == Verdict::Misconfigured;
                    assert!(!stops, "{ended:?} {served} {output}");
                }
            }
        }
    }

    /// As etcd 3.4.23 and 3.5.1 ended when each was provoked.
    const REFUSED: &[(i32, &str)] = &[
        (
            1,
            r#"{"level":"warn","msg":"failed to verify flags","error":"invalid value \"often\" for ETCD_HEARTBEAT_INTERVAL: parse error"}"#,
        ),
        (
            1,
            "2026-11-30 00:29:18.251204 C | etcdmain: invalid value \"often\" for ETCD_HEARTBEAT_INTERVAL: parse error",
        ),
        (
            1,
            "2026-11-22 21:49:13.204807 E | etcdmain: error verifying flags, invalid value \"often\" for ETCD_HEARTBEAT_INTERVAL",
        ),
        (
            1,
            r#"{"level":"fatal","msg":"discovery failed","error":"error parsing CompactionRetention: time: invalid duration \"weird\""}"#,
        ),
        (1, r#"{"level":"fatal","msg":"discovery failed","error":"unexpected TLS cipher suite \"bad\""}"#),
        (1, r#"{"level":"warn","msg":"failed to create token provider","error":"auth: invalid auth options"}"#),
        // 3.6.16 and 3.7.3: an unknown gate, and one port for what must be apart.
        (
            1,
            r#"{"level":"warn","msg":"failed to verify flags","error":"invalid value \"NoSuchGate=true\" for ETCD_FEATURE_GATES: unrecognized feature gate: NoSuchGate"}"#,
        ),
        (
            1,
            r#"{"level":"fatal","msg":"discovery failed","error":"cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://10.0.0.1:2379"}"#,
        ),
        (2, "panic: unrecognized level: \"bogus\"\n\ngoroutine 1 [running]:"),
        (2, "panic: unknown level \"bogus\"\n\ngoroutine 1 [running]:"),
    ];

    /// As they ended over data that was damaged on purpose; the last of them 3.6.16 and 3.7.3.
    const DAMAGED: &[(i32, &str)] = &[
        (1, r#"{"level":"fatal","msg":"discovery failed","error":"walpb: crc mismatch"}"#),
        (1, r#"{"level":"fatal","msg":"discovery failed","error":"wal: max entry size limit exceeded"}"#),
        (1, r#"{"level":"fatal","msg":"discovery failed","error":"proto: illegal wireType 7"}"#),
        (2, "panic: cannot use none as id\n\ngoroutine 1 [running]:"),
        (
            2,
            r#"{"level":"panic","msg":"tocommit(358) is out of range [lastIndex(179)]. Was the raft log corrupted, truncated, or lost?"}"#,
        ),
        (
            2,
            r#"{"level":"panic","msg":"failed to recover v3 backend from snapshot","error":"failed to find database snapshot file (snap: snapshot file doesn't exist)"}"#,
        ),
        (
            2,
            r#"{"level":"panic","msg":"failed to open database","path":"/d/member/snap/db","error":"invalid database"}"#,
        ),
        (2, r#"{"level":"panic","msg":"failed to open database","path":"/d/member/snap/db","error":"checksum error"}"#),
        (
            2,
            r#"{"level":"panic","msg":"failed to open database","path":"/d/member/snap/db","error":"file size too small"}"#,
        ),
        (2, "panic: freepages: failed to get all reachable pages (page 0: invalid type: unknown<00>)"),
        (
            2,
            "unexpected fault address 0x7f28d641d000\nfatal error: fault\ngoroutine 126 [running]:\ngo.etcd.io/bbolt.(*Tx).forEachPage(0x0)",
        ),
        (
            1,
            r#"{"level":"fatal","msg":"discovery failed","error":"walpb: crc mismatch: expected: 3a5f8511 computed: c8340612: in file '0000000000000000-0000000000000000.wal' at position: 8520"}"#,
        ),
        (
            1,
            "{\"level\":\"fatal\",\"msg\":\"discovery failed\",\"error\":\"proto:\u{a0}cannot parse invalid wire-format data\"}",
        ),
        (1, r#"{"level":"fatal","msg":"failed to read WAL, cannot be repaired","error":"unexpected block type 9"}"#),
        (2, "panic: assertion failed: Page expected to be: 6, but self identifies as 0\n\ngoroutine 1 [running]:"),
        (
            2,
            "panic: runtime error: invalid memory address or nil pointer dereference\n[signal SIGSEGV: segmentation violation]\n\n\
             goroutine 1 [running]:\ngo.etcd.io/etcd/server/v3/etcdserver.bootstrap({{0x1084afc8801a, 0x1}})",
        ),
    ];

    /// What else ended them, or was said before another end: none of it is the data's fault.
    const OTHER: &[(i32, &str)] = &[
        (
            1,
            r#"{"level":"fatal","msg":"discovery failed","error":"listen tcp 10.0.0.1:2380: bind: address already in use"}"#,
        ),
        (
            1,
            r#"{"level":"fatal","msg":"failed to commit tx","error":"write /d/member/snap/db: no space left on device"}"#,
        ),
        (
            2,
            r#"{"level":"panic","msg":"failed to open database","error":"write /d/member/snap/db: no space left on device"}"#,
        ),
        (2, r#"{"level":"panic","msg":"failed to open database","error":"open /d/member/snap/db: permission denied"}"#),
        (2, r#"{"level":"panic","msg":"failed to create WAL","error":"openfdat /w/wal: permission denied"}"#),
        (
            1,
            r#"{"level":"fatal","msg":"failed to create snapshot directory","error":"mkdir /d/member/snap: permission denied"}"#,
        ),
        (1, r#"{"level":"fatal","msg":"discovery failed","error":"fileutil: file already locked"}"#),
        (0, "the member has been permanently removed from the cluster"),
        (2, "unexpected fault address 0x7f28d641d000\nfatal error: fault\ngoroutine 126 [running]:\nmain.main()"),
        (
            1,
            "{\"level\":\"warn\",\"msg\":\"failed to read a snap file\",\"error\":\"snap: crc mismatch\"}\n\
             {\"level\":\"fatal\",\"msg\":\"discovery failed\",\"error\":\"open /ssl/peer.crt: no such file or directory\"}",
        ),
        (1, r#"{"level":"fatal","msg":"discovery failed","error":"member count is unequal"}"#),
        (1, r#"{"level":"warn","error":"walpb: crc mismatch: no space left on device"}"#),
        (
            2,
            "panic: runtime error: invalid memory address or nil pointer dereference\n\ngoroutine 7 [running]:\n\
             go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc.x()\ngo.etcd.io/etcd/server/v3/etcdserver.bootstrap()",
        ),
        // Refusals of 3.6 and 3.7 that have their own ways out, none of them in this data.
        (
            1,
            r#"{"level":"fatal","msg":"discovery failed","error":"detected disallowed custom content in v2store for stage --v2-deprecation=write-only"}"#,
        ),
        (1, r#"{"level":"fatal","msg":"discovery failed","error":"membership: too many learner members in cluster"}"#),
        (1, r#"{"level":"fatal","msg":"discovery failed","error":"version \"3.7.0\" is not supported"}"#),
        (1, r#"{"level":"fatal","msg":"discovery failed","error":"incompatible with current running cluster"}"#),
        (1, r#"{"level":"fatal","msg":"listener failed","error":"server is stopping"}"#),
        (0, r#"{"level":"error","msg":"setting up serving from embedded etcd failed.","error":"mux: server closed"}"#),
    ];

    fn bad(ended: Ended, damaged_before: u32) -> ProcessRun {
        ProcessRun { short_lives_before: damaged_before, damaged_before, ..life(ended) }
    }

    #[test]
    fn what_etcd_refuses_is_told_by_its_words_but_never_once_it_has_served() {
        for (code, output) in REFUSED {
            assert_eq!(verdict(&life(Ended::Exited(*code)), output, 0.0), Verdict::Misconfigured, "{output}");
            let served = ProcessRun { served: true, ..life(Ended::Exited(*code)) };
            assert!(matches!(verdict(&served, output, 0.0), Verdict::Again(_)), "{output}");
            assert!(refusal(output).is_some_and(|line| REFUSALS.iter().any(|what| line.contains(what))), "{output}");
        }
        assert_eq!(refusal("a\nfailed to verify flags: b\nc"), Some("failed to verify flags: b"));
    }

    #[test]
    fn five_lives_on_end_that_name_the_data_condemn_it() {
        for (code, output) in DAMAGED {
            for before in 0..8 {
                let life = bad(Ended::Exited(*code), before);
                let condemned = matches!(verdict(&life, output, 0.0), Verdict::Condemned { .. });
                assert_eq!(condemned, before >= 4, "{before} before: {output}");
                assert_eq!(life.damaged(output), before + 1);
            }
        }
    }

    #[test]
    fn a_condemned_data_dir_is_tried_again_once_a_minute() {
        let (code, output) = DAMAGED[0];
        let pause = |jitter| match verdict(&bad(Ended::Exited(code), 4), output, jitter) {
            Verdict::Condemned { pause, said } => (pause, said),
            other => panic!("{other:?}"),
        };
        assert_eq!(pause(1.0), (LONGEST_PAUSE, "walpb: crc mismatch"));
        assert_eq!(pause(0.0).0, LONGEST_PAUSE / 2);
    }

    #[test]
    fn nothing_else_condemns_data_however_often_it_comes() {
        for (code, output) in OTHER.iter().chain(REFUSED) {
            let life = bad(Ended::Exited(*code), 100);
            assert_eq!(life.damaged(output), 0, "{output}");
            assert!(!matches!(verdict(&life, output, 0.0), Verdict::Condemned { .. }), "{output}");
        }
        for (_, output) in DAMAGED {
            for ended in [Ended::Signaled(9), Ended::Signaled(6), Ended::Exited(0), Ended::Exited(137)] {
                assert_eq!(bad(ended, 100).damaged(output), 0, "{ended:?} is not how etcd ends over its data");
            }
            let long = ProcessRun { lasted: LIFE_THAT_RESETS, ..bad(Ended::Exited(2), 100) };
            assert_eq!(long.damaged(output), 0, "it ran for minutes with it");
        }
    }
}
