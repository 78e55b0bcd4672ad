//! Reads the claim again while etcd runs, so that one that is lost is noticed before a fresh node needs it.

use std::convert::Infallible;
use std::time::Duration;

use super::claim_store::ClaimStore;
use crate::peer::server::AcceptorState;
use crate::status::recorder::StatusRecorder;
use crate::util::clock;

/// Between two looks: one request for each member.
const ROUND: Duration = Duration::from_secs(10 * 60);

/// It tells what it sees, and writes nothing: an object that an operator deleted is not for a look to bring back.
#[derive(Debug)]
pub struct ClaimWatch<'a> {
    pub claim: &'a ClaimStore,
    pub acceptor_state: &'a AcceptorState,
    pub recorder: &'a StatusRecorder,
}

impl ClaimWatch<'_> {
    /// Looks again and again. Cancel-safe. At first the member's monitor reads it, and does what is to be done.
    pub async fn forever(&self) -> Infallible {
        loop {
            clock::pause(clock::jittered(ROUND)).await;
            let ours = self.acceptor_state.ledger().ran_as.map(|ran_as| ran_as.cluster);
            if let Some(word) = self.claim.read().await.word(ours) {
                self.recorder.set_claim(word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::paxos::RanAs;
    use crate::core::types::{ClusterId, MemberId};
    use crate::daemon::test_support::{CLUSTER, FakeStore, acceptor_state, config, services};
    use crate::net::scripted::Reply;
    use crate::util::file::paused_time::stand_still_while_reading;
    use crate::util::scratch::Scratch;

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_is_lost_unreadable_or_anothers_is_seen_while_etcd_runs_and_left_as_it_is() {
        stand_still_while_reading();
        let (store, scratch, recorder) = (FakeStore::start().await, Scratch::make(), StatusRecorder::new(ROUND));
        let settings = config(&store.server.url, &[("MUSTER_CLAIM", "s3://bucket")]);
        let claim = Arc::into_inner(services(&settings).claim).unwrap();
        let acceptor_state = acceptor_state(&scratch);
        let ran_as = Some(RanAs { cluster: ClusterId(CLUSTER), member: MemberId(1) });
        acceptor_state.amend(|ledger| ledger.ran_as = ran_as).unwrap();
        let watch = ClaimWatch { claim: &claim, acceptor_state: &acceptor_state, recorder: &recorder };
        let word = async || {
            assert!(tokio::time::timeout(ROUND * 2, watch.forever()).await.is_err());
            recorder.snapshot().claim.unwrap()
        };
        assert_eq!(word().await, "absent");
        let held = |cluster: u64| format!("{{\"state\":\"established\",\"cluster\":{cluster}}}");
        let put =
            |cluster| store.now(|holds| _ = holds.objects.insert("/bucket/claim.json".to_owned(), (1, held(cluster))));
        put(CLUSTER);
        assert_eq!(word().await, "established");
        put(9);
        assert_eq!(word().await, "other");
        store.now(|holds| holds.instead = vec![("GET", Reply::status(500))]);
        assert_eq!(word().await, "unknown");
        assert_eq!(store.server.count("PUT"), 0, "it only looks");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_claim_nothing_is_asked() {
        stand_still_while_reading();
        let (store, scratch, recorder) = (FakeStore::start().await, Scratch::make(), StatusRecorder::new(ROUND));
        let claim = Arc::into_inner(services(&config(&store.server.url, &[])).claim).unwrap();
        let acceptor_state = acceptor_state(&scratch);
        let watch = ClaimWatch { claim: &claim, acceptor_state: &acceptor_state, recorder: &recorder };
        assert!(tokio::time::timeout(ROUND * 3, watch.forever()).await.is_err());
        assert!(store.server.asked().is_empty() && recorder.snapshot().claim.is_none());
    }
}
