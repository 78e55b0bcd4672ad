//! When a snapshot is due. Two clocks are at hand: one that never goes back, since this supervisor started, and the manifests', which are the
//! wall clocks of several hosts. The first decides wherever it can.

use std::time::Duration;

/// The pause after a failure; it doubles with each further one, up to the interval.
const FIRST_PAUSE: Duration = Duration::from_secs(60);

/// What is known about a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// How long ago a snapshot was last stored there, or found to hold all that there is; `None`: not since this supervisor started.
    pub since_success: Option<Duration>,
    /// How long ago that was last tried.
    pub since_attempt: Option<Duration>,
    /// How often it has failed since.
    pub failures: u32,
    /// How long ago the newest one there was taken, by two wall clocks; `None`: there is none, or it would be from the future.
    pub newest: Option<Duration>,
}

/// How long to wait until a snapshot is due there; zero: it is.
pub fn wait(every: Duration, history: &History) -> Duration {
    if let Some(since) = history.since_attempt.filter(|_| history.failures > 0) {
        return pause(every, history.failures).saturating_sub(since);
    }
    every.saturating_sub(history.since_success.or(history.newest).unwrap_or(every))
}

/// How long nothing is tried after so many failures in a row.
pub fn pause(every: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_PAUSE * (1 << doublings)).min(every.max(FIRST_PAUSE))
}

/// Whether a snapshot that was taken when the log was committed up to `then` has all that there is now. Users, leases and members change without a new
/// revision, but not without an entry. (Not "at least": an index that went back is another history.)
pub const fn is_unchanged(then: u64, committed: u64) -> bool {
    then == committed
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_newest_there_counts_until_this_supervisor_has_stored_one() {
        assert_eq!(wait(HOUR, &History::default()), Duration::ZERO);
        let newest = History { newest: Some(MINUTE * 20), ..History::default() };
        assert_eq!(wait(HOUR, &newest), MINUTE * 40);
        // Ten years ago by a clock that jumped.
        assert_eq!(wait(HOUR, &History { newest: Some(HOUR * 87_600), ..newest }), Duration::ZERO);
        let stored =
            History { since_success: Some(MINUTE), since_attempt: Some(MINUTE), newest: Some(HOUR * 2), failures: 0 };
        assert_eq!(wait(HOUR, &stored), MINUTE * 59);
    }

    #[test]
    fn pauses_after_failures_grow_and_end_at_the_interval() {
        let pauses: Vec<u64> = (1..9).map(|failures| pause(HOUR, failures).as_secs() / 60).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(HOUR, u32::MAX), HOUR);
        // Not more often than that, however often one is wanted.
        assert_eq!(pause(Duration::from_secs(5), 3), MINUTE);
        let failed = History { since_attempt: Some(MINUTE), failures: 2, newest: Some(HOUR * 9), ..History::default() };
        assert_eq!(wait(HOUR, &failed), MINUTE);
    }

    #[test]
    fn a_log_that_went_back_is_a_change() {
        assert!(is_unchanged(20, 20));
        assert!(!is_unchanged(20, 21) && !is_unchanged(20, 9));
    }
}
