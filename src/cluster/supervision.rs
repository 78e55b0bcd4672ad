//! What follows from etcd's end: our exit code, and whether and when to start it again (section "Supervision").

use std::time::Duration;

/// How a child ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Exited(i32),
    Signaled(i32),
}

impl Ended {
    /// The shell's convention, as catatonit and tini have it: the code, or 128 + the signal's number.
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128 + signal,
        }
    }
}

/// What an exit of etcd that nobody asked for calls for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// etcd can't work with these settings: stop, touch no data.
    Misconfigured,
    /// Observe and decide again, after this pause.
    Again(Duration),
}

/// Restart pauses: 1 s doubling to 60 s, reset after five minutes of life.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
pub const LIFE_THAT_RESETS: Duration = Duration::from_secs(300);

/// One life of etcd, as far as the verdict needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    pub ended: Ended,
    pub lasted: Duration,
    /// The peer port answered `/version`.
    pub served: bool,
    /// Lives before this one that ended within [`LIFE_THAT_RESETS`].
    pub short_lives_before: u32,
}

/// Classifies an end. Exit codes alone say little: a removed member exits 0, a bad setting in a variable 1, an unknown flag
/// 2 and so does a panic; etcd's output tells them apart (measured on 3.4.23, 3.5.1).
pub fn verdict(life: &Life, output: &str, jitter: f64) -> Verdict {
    let before_serving = !life.served && !output.contains("panic:") && !output.contains("goroutine ");
    match life.ended {
        Ended::Exited(1) if output.contains("failed to verify flags") => return Verdict::Misconfigured,
        Ended::Exited(2) if before_serving => return Verdict::Misconfigured,
        _ => {}
    }
    let doublings = life.short_lives_before.min(6);
    let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
    // Full pauses in lockstep would make three nodes collide; half to whole keeps the exponential shape.
    Verdict::Again(pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(ended: Ended) -> Life {
        Life { ended, lasted: Duration::from_millis(30), served: false, short_lives_before: 0 }
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
            (Ended::Exited(0), "the member has been permanently removed"),
            (Ended::Signaled(9), ""),
        ] {
            assert!(matches!(verdict(&life(ended), output, 0.0), Verdict::Again(_)), "{ended:?} {output}");
        }
        let served = Life { served: true, ..life(Ended::Exited(2)) };
        assert!(matches!(verdict(&served, "", 0.0), Verdict::Again(_)));
    }

    #[test]
    fn pauses_double_to_a_minute() {
        let pause = |before| match verdict(&Life { short_lives_before: before, ..life(Ended::Exited(1)) }, "", 1.0) {
            Verdict::Again(pause) => pause.as_secs(),
            Verdict::Misconfigured => 0,
        };
        assert_eq!((0..9).map(pause).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }
}
