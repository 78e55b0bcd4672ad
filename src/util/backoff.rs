//! Pauses between tries.

use std::time::Duration;

use super::clock;

/// Pauses that double, from the first to the longest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from this one to that one; a longest below the first is the only one from the second try on.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// How long to wait this time; the next time it is twice as long.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        pause
    }

    /// The same, half to whole of it by chance: for those who would else try at one moment.
    pub fn jittered(&mut self) -> Duration {
        clock::jittered(self.pause())
    }

    /// Whether no pause was made since the beginning.
    pub fn is_fresh(&self) -> bool {
        self.next == self.first
    }

    /// Begins anew.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(1), seconds(5));
        assert!(backoff.is_fresh());
        let pauses: Vec<_> = (0..5).map(|_| backoff.pause().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
        assert!(!backoff.is_fresh());
        backoff.reset();
        assert_eq!(backoff.pause(), seconds(1));
    }
}
