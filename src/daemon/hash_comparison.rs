//! Compares the members' data, once, after each step of the cluster's version.
//!
//! A member whose data differs reports itself healthy, and every upgrade upstream warned of (etcd's issues of 3.5.0 to 3.5.2) was
//! noticed late. One member asks, the voter with the lowest id; nothing waits for the answer.

use std::time::Duration;

use tokio::task::JoinSet;

use super::Never;
use crate::core::hashes::{Comparison, Diverged, Hashed, compare};
use crate::core::release::{Minor, Release};
use crate::etcd::client::{self, Client};
use crate::peer::server::AcceptorState;
use crate::state::store::Releases;
use crate::util::backoff::Backoff;
use crate::util::clock;

/// Between two looks: nobody waits for them.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A hash reads every key: 0.18 s for 1.1 GB (3.5.30), more on a slow disk.
const HASH_TIMEOUT: Duration = Duration::from_secs(60);

/// Compares during one run of etcd.
#[derive(Debug)]
pub struct HashComparison<'a> {
    pub etcd: &'a Client,
    pub acceptor_state: &'a AcceptorState,
    pub release: Option<Release>,
    pub own_client_url: String,
    pub own_peer_url: String,
    /// There is no data here yet from before an upgrade.
    pub is_first_start: bool,
}

/// The result of one look.
enum Look {
    /// Nothing is left to do for this version.
    Done,
    /// They differ; a second look decides.
    Diverged(Diverged),
    /// Not all have answered, or they are not at this version yet.
    Again,
    /// A member has no such call (releases before 3.5.10 have none in their gateway).
    NotHere,
}

impl HashComparison<'_> {
    /// Never ends. Cancel-safe.
    pub(super) async fn forever(&self) -> Never {
        let due = self.release.map(Release::minor).filter(|minor| {
            let compared = self.acceptor_state.releases().compared;
            !self.is_first_start && compared != Some(*minor)
        });
        if let Some(minor) = due
            && self.is_compared(minor).await
        {
            let releases = self.acceptor_state.releases();
            self.acceptor_state.record_releases(Releases { compared: Some(minor), ..releases });
        }
        std::future::pending().await
    }

    async fn is_compared(&self, minor: Minor) -> bool {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut has_diverged = false;
        loop {
            clock::pause(backoff.pause()).await;
            match self.look(minor).await {
                Look::Done => return true,
                Look::NotHere => return false,
                Look::Diverged(diverged) if has_diverged => {
                    log::error!("{diverged}");
                    return true;
                }
                Look::Diverged(_) => has_diverged = true,
                Look::Again => {}
            }
        }
    }

    async fn look(&self, minor: Minor) -> Look {
        match self.ask(minor).await {
            Ok(look) => look,
            Err(client::Error::NotEtcd { url, cause }) => {
                log::debug!("the members' data is not compared: {url}: {cause}");
                Look::NotHere
            }
            // An answer that is late, a member that lags ("required revision is a future revision"), a compaction in between.
            Err(error) => {
                log::debug!("the members' data is not compared yet: {error}");
                Look::Again
            }
        }
    }

    async fn ask(&self, minor: Minor) -> Result<Look, client::Error> {
        let version = self.etcd.peer_version(&self.own_peer_url, ANSWER_TIMEOUT).await?;
        // The cluster's version is that of its oldest member.
        if Minor::of_cluster(&version.etcdcluster) != Some(minor) {
            return Ok(Look::Again);
        }
        let own = self.etcd.status(&self.own_client_url, ANSWER_TIMEOUT).await?.member;
        let mut voters = self.etcd.member_list(&self.own_client_url, ANSWER_TIMEOUT).await?.members;
        voters.retain(|member| !member.is_learner);
        if voters.iter().map(|member| member.id).min() != Some(own) {
            return Ok(Look::Done);
        }
        let revision = self.etcd.revision(&self.own_client_url, ANSWER_TIMEOUT).await?;
        let mut asked = JoinSet::new();
        for voter in &voters {
            let Some(url) = voter.client_urls.first().cloned() else { return Ok(Look::Again) };
            let etcd = self.etcd.clone();
            asked.spawn(async move { etcd.hash_kv(&url, revision, HASH_TIMEOUT).await });
        }
        let mut hashes = asked.join_all().await.into_iter().collect::<Result<Vec<Hashed>, _>>()?;
        hashes.sort_by_key(|hashed| hashed.member);
        Ok(match compare(&hashes) {
            Comparison::Same => {
                log::info!(
                    "after the step to etcd {minor} all {} voters hold the same data at revision {revision}",
                    hashes.len()
                );
                Look::Done
            }
            Comparison::Differ => Look::Diverged(Diverged { revision, hashes }),
            Comparison::NotComparable => Look::Again,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::test_support::{CLUSTER, FakeEtcd, acceptor_state, etcd_client, voter};
    use crate::net::scripted::Reply;
    use crate::util::overheard;
    use crate::util::scratch::Scratch;

    const HASH: &str = "POST /v3/maintenance/hashkv";
    const HOUR: Duration = Duration::from_secs(3600);

    /// Three members of 3.5, of which the first is ours.
    struct Scene {
        _scratch: Scratch,
        acceptor_state: AcceptorState,
        client: Client,
        etcds: [FakeEtcd; 3],
    }

    impl Scene {
        async fn start(hashes: [(u64, i64); 3]) -> Self {
            overheard::listen();
            let scratch = Scratch::make();
            let etcds = [FakeEtcd::start(1).await, FakeEtcd::start(2).await, FakeEtcd::start(3).await];
            let members: Vec<_> = etcds.iter().zip(1..).map(|(etcd, id)| voter(id, &etcd.server.url)).collect();
            for (etcd, (member, (hash, compacted))) in etcds.iter().zip((1..).zip(hashes)) {
                let answer = hash_answer(member, hash, compacted);
                etcd.now(|says| {
                    (says.leader, says.members) = (1, members.clone());
                    says.instead = vec![(HASH, answer)];
                });
            }
            Self { acceptor_state: acceptor_state(&scratch), client: etcd_client(), etcds, _scratch: scratch }
        }

        async fn attend(&self, of: usize, is_first_start: bool) {
            let comparison = HashComparison {
                etcd: &self.client,
                acceptor_state: &self.acceptor_state,
                release: Release::parse("3.5.21"),
                own_client_url: self.etcds[of].server.url.clone(),
                own_peer_url: self.etcds[of].server.url.clone(),
                is_first_start,
            };
            assert!(tokio::time::timeout(HOUR, comparison.forever()).await.is_err());
        }

        fn asked(&self) -> usize {
            self.etcds.iter().map(|etcd| etcd.server.count(HASH)).sum()
        }

        fn has_compared(&self) -> bool {
            self.acceptor_state.releases().compared == Some(Minor(3, 5))
        }
    }

    fn hash_answer(member: u64, hash: u64, compacted: i64) -> Reply {
        Reply::ok(&format!(
            r#"{{"header":{{"cluster_id":"{CLUSTER}", "member_id":"{member}", "revision":"41"}}, "hash":{hash}, "compact_revision":"{compacted}"}}"#
        ))
    }

    #[tokio::test(start_paused = true)]
    async fn members_with_the_same_data_are_compared_once() {
        let scene = Scene::start([(7, -1), (7, -1), (7, -1)]).await;
        scene.attend(0, false).await;
        assert_eq!((scene.asked(), scene.has_compared()), (3, true));
        assert_eq!(overheard::count("all 3 voters hold the same data at revision 40"), 1, "{:?}", overheard::lines());
        let one = scene.etcds[2].server.count(&format!(r#"{HASH} {{"revision":"40"}}"#));
        assert_eq!(one, 1, "at the revision of a read, not at its own newest");
        scene.attend(0, false).await;
        assert_eq!(scene.asked(), 3, "not once more in the next run of etcd");
    }

    #[tokio::test(start_paused = true)]
    async fn members_that_differ_are_named_once_and_after_a_second_look() {
        let scene = Scene::start([(7, -1), (8, -1), (7, -1)]).await;
        scene.attend(0, false).await;
        assert_eq!(overheard::count("the members do not hold the same data"), 1);
        assert_eq!(overheard::count("member 1 has hash 7, member 2 has hash 8, member 3 has hash 7"), 1);
        assert_eq!((scene.asked(), scene.has_compared()), (6, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_difference_that_is_gone_at_the_second_look_is_none() {
        let scene = Scene::start([(7, -1), (8, -1), (7, -1)]).await;
        scene.etcds[1].after(FIRST_PAUSE + ANSWER_TIMEOUT, |says| says.instead = vec![(HASH, hash_answer(2, 7, -1))]);
        scene.attend(0, false).await;
        assert_eq!(overheard::count("do not hold the same data"), 0, "{:?}", overheard::lines());
        assert!(scene.has_compared());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_follows_from_hashes_after_different_compactions() {
        let scene = Scene::start([(7, 20), (8, 30), (7, 20)]).await;
        scene.attend(0, false).await;
        assert_eq!(overheard::count("the same data"), 0, "{:?}", overheard::lines());
        assert!(scene.asked() > 6 && !scene.has_compared(), "asked again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_does_not_answer_is_asked_again_and_decides_nothing() {
        let scene = Scene::start([(7, -1), (7, -1), (7, -1)]).await;
        scene.etcds[2].now(|says| says.instead = vec![("", Reply::Silence)]);
        scene.attend(0, false).await;
        assert_eq!((overheard::count("the same data"), scene.has_compared()), (0, false));
    }

    #[tokio::test(start_paused = true)]
    async fn only_one_member_asks_and_only_once_all_have_the_release() {
        let scene = Scene::start([(7, -1), (7, -1), (7, -1)]).await;
        scene.attend(1, false).await;
        assert_eq!(scene.asked(), 0, "the voter with the lowest id does it");
        let scene = Scene::start([(7, -1), (7, -1), (7, -1)]).await;
        scene.etcds[0].now(|says| says.elected = false);
        scene.attend(0, false).await;
        assert_eq!(scene.asked(), 0, "the cluster's version is another");
        let scene = Scene::start([(7, -1), (7, -1), (7, -1)]).await;
        scene.attend(0, true).await;
        assert_eq!(scene.asked(), 0, "there is no data from before");
    }

    /// 3.4 and early 3.5 answer so.
    #[tokio::test(start_paused = true)]
    async fn a_release_without_that_call_is_left_alone() {
        let scene = Scene::start([(7, -1), (7, -1), (7, -1)]).await;
        scene.etcds[1].now(|says| says.instead = vec![(HASH, Reply::Answer(404, "404 page not found".to_owned()))]);
        scene.attend(0, false).await;
        assert_eq!((overheard::count("data"), scene.has_compared()), (0, false), "{:?}", overheard::lines());
        assert_eq!(scene.etcds[0].server.count(HASH), 1);
    }
}
