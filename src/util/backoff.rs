//! Pauses between attempts.

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
    /// Pauses from the first to the longest; a longest that is below the first applies from the second attempt on.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next pause; the one after is twice as long.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        pause
    }

    /// The same, multiplied by a random factor from a half to one: for callers that would otherwise retry at the same moment.
    pub fn jittered(&mut self) -> Duration {
        clock::jittered(self.pause())
    }

    /// The same, multiplied by a random factor from zero to one: for calls of which many may have failed at the same moment
    /// (AWS Architecture Blog, "Exponential Backoff And Jitter").
    pub fn by_chance(&mut self) -> Duration {
        self.pause().mul_f64(clock::chance())
    }

    /// Whether no pause was made since the beginning.
    pub fn is_fresh(&self) -> bool {
        self.next == self.first
    }

    /// Starts again.
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
