//! Majorities.

/// How many of `voters` make a majority: `voters / 2 + 1` (Raft, section 5.2). The majority of zero voters is one, so it can
/// never be reached.
pub const fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_quorums_always_share_a_voter() {
        for voters in 1..=9 {
            assert!(2 * quorum(voters) > voters);
            assert!(quorum(voters) <= voters);
        }
        assert_eq!(quorum(0), 1);
    }
}
