//! A running member that may have to leave, because its instance is about to be terminated or because the operator says so: watches
//! for that, and removes the member from the cluster if the others keep their quorum.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::lifecycle_hooks::{LifecycleHooks, Transition};
use super::termination_notice::{POLL, TerminationNotices};
use crate::core::departure::{Leave, Seen, StayReason, heir, leave};
use crate::core::release::Release;
use crate::core::types::{InstanceId, Known, Member, MemberId};
use crate::core::view::Ending;
use crate::etcd::client::{Client, Health, MemberList, Status};
use crate::etcd::data_dir::Paths;
use crate::peer::server::AcceptorState;
use crate::util::clock;
use crate::util::log_once::LogOnce;
use crate::util::words;

/// The interval while leaving, and until we are a voter.
const SOON: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// For a change of members or of the leader.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for what may pass (a learner that catches up, a voter that restarts) before the Auto Scaling group may
/// continue.
const PATIENCE: Duration = Duration::from_secs(30);

/// Watches during one run of etcd, beside its monitor.
#[derive(Debug)]
pub struct Departure<'a> {
    pub etcd: &'a Client,
    pub paths: &'a Paths,
    pub acceptor_state: &'a AcceptorState,
    pub notices: &'a TerminationNotices,
    pub hooks: &'a Arc<LifecycleHooks>,
    pub instance: InstanceId,
    pub own_client_url: String,
    /// Client URLs of the cluster's other members: a learner itself answers few requests.
    pub others: Vec<String>,
}

impl Departure<'_> {
    /// Runs until our member has left the cluster, which is then recorded. Cancel-safe.
    pub async fn until_left(&self) {
        tokio::select! {
            () = self.watch() => {}
            () = self.complete_launch_hook() => {}
        }
    }

    /// Completes the launch hook once we are a voter: promoted in sync, and healthy by a read through the quorum.
    async fn complete_launch_hook(&self) {
        if self.hooks.are_wanted() {
            while !self.votes().await {
                clock::pause(SOON).await;
            }
            self.hooks.complete(Transition::Launch, &self.instance);
        }
        std::future::pending().await
    }

    async fn votes(&self) -> bool {
        let Ok(status) = self.etcd.status(&self.own_client_url, ANSWER_TIMEOUT).await else { return false };
        let release = Release::parse(&status.version);
        let health = async { self.etcd.health_of(&self.own_client_url, release, ANSWER_TIMEOUT).await };
        status.leader.is_some() && !status.is_learner && matches!(health.await, Ok(Health::Healthy))
    }

    async fn watch(&self) {
        let (mut said, mut leaving) = (LogOnce::default(), None);
        loop {
            let pause = match self.notices.read().await {
                Known::Known(Some(ending)) => {
                    if leaving.as_ref() != Some(&ending) {
                        match ending.is_termination() {
                            true => log::info!("this instance is about to be terminated: {ending}"),
                            false => log::info!("this member is to leave: {ending}"),
                        }
                    }
                    leaving = Some(ending.clone());
                    match self.depart(&ending, &mut said).await {
                        Some(pause) => pause,
                        None => return,
                    }
                }
                Known::Known(None) => {
                    self.hooks.recall_termination();
                    if let Some(ending) = leaving.take() {
                        match ending.is_termination() {
                            true => log::info!("EC2 cancelled the termination of this instance"),
                            false => log::info!("the request to leave was taken back"),
                        }
                    }
                    said.forget();
                    POLL
                }
                // No answer proves nothing: neither that the instance ends, nor that the termination was cancelled.
                Known::Unknown(cause) => {
                    say(&mut said, &format!("whether this instance is about to be terminated is unknown: {cause}"));
                    POLL
                }
            };
            clock::pause(pause).await;
        }
    }

    /// One attempt; `None`: we have left. Otherwise the time until the next attempt.
    async fn depart(&self, ending: &Ending, said: &mut LogOnce) -> Option<Duration> {
        let stay = match self.observe().await {
            Err(cause) => StayReason::Unknown(format!("the cluster does not answer: {cause}")),
            Ok((seen, leader_url)) => match (leave(&seen), leader_url) {
                (Leave::Out, _) => return self.left(seen.me, ending),
                (Leave::Remove { .. }, Some(url)) => {
                    match self.etcd.member_remove(&url, seen.me, CHANGE_TIMEOUT).await {
                        Ok(()) => return self.left(seen.me, ending),
                        // The next round shows the result, or etcd's end.
                        Err(error) => StayReason::Unknown(format!("its removal is not confirmed: {error}")),
                    }
                }
                (Leave::Remove { .. }, None) => StayReason::NoLeader,
                (Leave::HandOver(heir), _) => match self.hand_over(heir).await {
                    Ok(()) => return Some(Duration::ZERO),
                    Err(cause) => StayReason::Unknown(cause),
                },
                (Leave::StayReason(why), _) => {
                    if let Some(heir) = heir(&seen)
                        && let Err(cause) = self.hand_over(heir).await
                    {
                        log::warn!("{cause}");
                    }
                    why
                }
            },
        };
        let overdue = self.notices.proven_since().is_some_and(|since| clock::now() - since >= PATIENCE);
        if (overdue || !stay.may_pass()) && ending.is_termination() {
            self.hooks.complete(Transition::Terminate, &self.instance);
        }
        say(
            said,
            &match ending.is_termination() {
                true => format!("this instance is about to be terminated, and its member stays until then: {stay}"),
                false => format!("this member is to leave ({ending}), and stays until it may: {stay}"),
            },
        );
        Some(if overdue { POLL } else { SOON })
    }

    fn left(&self, member: MemberId, ending: &Ending) -> Option<Duration> {
        log::info!("member {member} has left the cluster: {ending}");
        if let Err(error) = self.acceptor_state.amend(|ledger| ledger.left = true) {
            // The member list shows the same, as long as it can be read.
            log::error!("{error}");
        }
        None
    }

    async fn hand_over(&self, heir: MemberId) -> Result<(), String> {
        match self.etcd.move_leader(&self.own_client_url, heir, CHANGE_TIMEOUT).await {
            Ok(()) => {
                log::info!("leadership moved to member {heir}");
                Ok(())
            }
            Err(error) => Err(format!("moving leadership failed: {error}")),
        }
    }

    async fn observe(&self) -> Result<(Seen, Option<String>), String> {
        Looking { etcd: self.etcd, paths: self.paths, own_client_url: &self.own_client_url, others: &self.others }
            .observe()
            .await
    }
}

/// Looks at the cluster for a member that is to leave it.
#[derive(Clone, Copy, Debug)]
pub struct Looking<'a> {
    pub etcd: &'a Client,
    pub paths: &'a Paths,
    pub own_client_url: &'a str,
    /// Whom a learner asks.
    pub others: &'a [String],
}

impl Looking<'_> {
    /// The cluster as it is now, and the leader's client URL.
    ///
    /// # Errors
    /// No quorum answers.
    pub async fn observe(&self) -> Result<(Seen, Option<String>), String> {
        let status = self.etcd.status(self.own_client_url, ANSWER_TIMEOUT).await.map_err(|e| e.to_string())?;
        let list = self.list(&status).await?;
        let healthy = self.ask_health(&list.members, status.member).await;
        let leader = list.members.iter().find(|m| Some(m.id) == status.leader);
        let leader_url = leader.and_then(|m| m.client_urls.first().cloned());
        Ok((Seen { members: list.members, healthy, me: status.member, leader: status.leader }, leader_url))
    }

    /// The member list through the quorum; 3.4 answers from its own state, so a read through the quorum goes first.
    async fn list(&self, status: &Status) -> Result<MemberList, String> {
        let sources = if status.is_learner { self.others } else { &[self.own_client_url.to_owned()] };
        let mut trouble = "no other member is known".to_owned();
        for url in sources {
            let listed = async {
                self.etcd.read_through_quorum(url, ANSWER_TIMEOUT).await?;
                self.etcd.member_list(url, ANSWER_TIMEOUT).await
            };
            match listed.await {
                Ok(list) if list.cluster == status.cluster => return Ok(list),
                Ok(list) => trouble = format!("{} belongs to cluster {}", words::without_secrets(url), list.cluster),
                Err(error) => trouble = error.to_string(),
            }
        }
        Err(trouble)
    }

    async fn ask_health(&self, members: &[Member], me: MemberId) -> BTreeSet<MemberId> {
        // Who is a voter in the member list only can neither vote nor lead.
        let never_vote = self.paths.never_vote().await;
        let mut questions = JoinSet::new();
        for member in members.iter().filter(|m| m.id != me && !m.is_learner && !never_vote.contains(&m.id)) {
            let (etcd, id, urls) = (self.etcd.clone(), member.id, member.client_urls.clone());
            questions.spawn(async move { etcd.is_healthy(&urls, ANSWER_TIMEOUT).await.then_some(id) });
        }
        let mut healthy = BTreeSet::new();
        while let Some(answered) = questions.join_next().await {
            healthy.extend(answered.ok().flatten());
        }
        healthy
    }
}

/// Logs one line, unless it was the last one logged.
fn say(said: &mut LogOnce, line: &str) {
    if said.is_news(line) {
        log::warn!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::services::Services;
    use crate::daemon::test_support::{
        FakeAws, FakeEtcd, REFUSING, acceptor_state, config, etcd_client, paths, put_backend, services, voter,
    };
    use crate::net::scripted::Reply;
    use crate::state::store::leave_request;
    use crate::util::file::paused_time::stand_still_while_reading;
    use crate::util::overheard;
    use crate::util::scratch::Scratch;

    const MINUTE: Duration = Duration::from_secs(60);
    const REMOVE: &str = "POST /v3/cluster/member/remove";
    const HAND_OVER: &str = "POST /v3/maintenance/transfer-leadership";

    /// A cluster of our member and two others, on an instance that EC2 terminates.
    struct Scene {
        _scratch: Scratch,
        paths: Paths,
        aws: FakeAws,
        services: Services,
        acceptor_state: AcceptorState,
        client: Client,
        own: FakeEtcd,
        others: [FakeEtcd; 2],
    }

    impl Scene {
        async fn start(leader: u64) -> Self {
            let scene = Self::on(leader, Scratch::make(), &[("MUSTER_LEAVE", "on-terminate")]).await;
            scene.aws.now(|says| says.target_state = Some("Terminated"));
            scene
        }

        /// The same, on an instance that goes on running, whose operator wants the member to leave.
        async fn asked(leader: u64) -> Self {
            let scratch = Scratch::make();
            let request = leave_request(scratch.path());
            std::fs::create_dir_all(request.parent().unwrap()).unwrap();
            std::fs::write(request, "").unwrap();
            Self::on(leader, scratch, &[]).await
        }

        async fn on(leader: u64, scratch: Scratch, settings: &[(&str, &str)]) -> Self {
            overheard::listen();
            stand_still_while_reading();
            let aws = FakeAws::start().await;
            // Of its own: one path is read by one clock.
            let data = scratch.path().display().to_string();
            let settings = [&[("MUSTER_LIFECYCLE_HOOK", "hook"), ("ED_DATA", data.as_str())], settings].concat();
            let [own, b, c] = [FakeEtcd::start(1).await, FakeEtcd::start(2).await, FakeEtcd::start(3).await];
            let members = [(1, &own), (2, &b), (3, &c)].map(|(id, etcd)| voter(id, &etcd.server.url));
            for etcd in [&own, &b, &c] {
                etcd.now(|says| (says.leader, says.members) = (leader, members.to_vec()));
            }
            Self {
                paths: paths(&scratch),
                services: services(&config(&aws.server.url, &settings)),
                acceptor_state: acceptor_state(&scratch),
                client: etcd_client(),
                own,
                others: [b, c],
                aws,
                _scratch: scratch,
            }
        }

        /// Runs for that long; returns whether we have left.
        async fn attend(&self, span: Duration) -> bool {
            let departure = Departure {
                etcd: &self.client,
                paths: &self.paths,
                acceptor_state: &self.acceptor_state,
                notices: &self.services.notices,
                hooks: &self.services.hooks,
                instance: InstanceId("i-a".to_owned()),
                own_client_url: self.own.server.url.clone(),
                others: self.others.iter().map(|etcd| etcd.server.url.clone()).collect(),
            };
            let left = tokio::time::timeout(span, departure.until_left()).await.is_ok();
            assert_eq!(self.acceptor_state.ledger().left, left, "on record, or not true");
            left
        }

        fn removals(&self) -> usize {
            [&self.own, &self.others[0], &self.others[1]].iter().map(|etcd| etcd.server.count(REMOVE)).sum()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_hands_over_and_is_then_removed_by_the_new_one() {
        let scene = Scene::start(1).await;
        assert!(scene.attend(MINUTE).await);
        assert_eq!(scene.own.server.count(&format!(r#"{HAND_OVER} {{"targetID":"2"}}"#)), 1);
        assert_eq!(scene.others[0].server.count(&format!(r#"{REMOVE} {{"ID":"1"}}"#)), 1, "by the leader alone");
        assert_eq!(scene.removals(), 1);
        assert_eq!(overheard::count("member 1 has left the cluster"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_that_is_not_confirmed_is_looked_up_and_not_counted() {
        let scene = Scene::start(2).await;
        scene.others[0].now(|says| says.instead = vec![(REMOVE, Reply::Silence)]);
        assert!(!scene.attend(MINUTE / 4).await);
        assert!(overheard::count("its removal is not confirmed") >= 1);
        // It took place nevertheless, as the list shows.
        scene.own.now(|says| _ = says.members.remove(0));
        let before = scene.removals();
        assert!(scene.attend(MINUTE).await);
        assert_eq!(scene.removals(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_needed_for_the_quorum_stays_and_holds_its_instance_up_for_a_while_only() {
        let scene = Scene::start(2).await;
        scene.others[1].now(|says| says.unhealthy = Some("ALARM CORRUPT"));
        assert!(!scene.attend(PATIENCE - SOON * 2).await);
        assert_eq!(scene.aws.completions(), 0, "it may pass");
        assert!(!scene.attend(MINUTE * 2).await);
        assert_eq!((scene.removals(), scene.aws.completions()), (0, 1));
        assert_eq!(overheard::count("1 other voters are healthy, removing it needs 2"), 2, "once a life of etcd");
        scene.others[1].now(|says| says.unhealthy = None);
        assert!(scene.attend(MINUTE).await, "it has passed");
    }

    /// Its Auto Scaling group waits for nothing: the instance goes on.
    #[tokio::test(start_paused = true)]
    async fn the_operators_word_is_obeyed_by_the_same_rules_and_completes_no_hook() {
        let scene = Scene::asked(2).await;
        scene.others[1].now(|says| says.unhealthy = Some("ALARM CORRUPT"));
        assert!(!scene.attend(MINUTE * 2).await);
        assert_eq!(
            overheard::count("this member is to leave (etcd-muster leave was run here), and stays until it may"),
            1
        );
        scene.others[1].now(|says| says.unhealthy = None);
        assert!(scene.attend(MINUTE).await);
        assert_eq!(scene.removals(), 1);
        let scene = Scene::asked(1).await;
        scene.own.now(|says| says.members = vec![voter(1, REFUSING)]);
        assert!(!scene.attend(MINUTE * 2).await, "the last member");
        assert_eq!(scene.aws.completions(), 1, "its launch is completed, and no termination");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_must_stay_hands_over_all_the_same() {
        let scene = Scene::start(1).await;
        scene.others[1].now(|says| says.unhealthy = Some("ALARM CORRUPT"));
        assert!(!scene.attend(MINUTE).await);
        assert_eq!((scene.own.server.count(HAND_OVER), scene.removals()), (1, 0));
    }

    /// As etcd up to 3.5.30 makes it: its member list has three voters, and raft two and a learner. Of two others that are healthy
    /// the first would be the heir, but its hand-over only times out.
    #[tokio::test(start_paused = true)]
    async fn who_votes_on_paper_only_is_no_heir_and_counts_for_nothing() {
        let scene = Scene::start(1).await;
        put_backend(&scene.paths, &[], &[2]);
        assert!(!scene.attend(MINUTE).await, "the other voter alone is no quorum of two");
        assert_eq!(scene.own.server.count(&format!(r#"{HAND_OVER} {{"targetID":"3"}}"#)), 1);
        assert_eq!((scene.own.server.count(HAND_OVER), scene.removals()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_ask_its_cluster_stays() {
        let scene = Scene::start(2).await;
        scene.own.now(|says| says.instead = vec![("POST", Reply::Silence)]);
        assert!(!scene.attend(MINUTE * 2).await);
        assert_eq!((scene.removals(), scene.aws.completions()), (0, 1));
        assert!(overheard::count("the cluster does not answer") >= 1);
    }

    /// 3.4 lists its members without a quorum.
    #[tokio::test(start_paused = true)]
    async fn a_list_that_no_quorum_vouches_for_is_none() {
        let scene = Scene::start(2).await;
        scene.own.now(|says| says.instead = vec![("POST /v3/kv/range", Reply::Silence)]);
        assert!(!scene.attend(MINUTE).await);
        assert_eq!(scene.removals(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_member_stays_and_holds_nobody_up() {
        let scene = Scene::start(1).await;
        scene.own.now(|says| says.members = vec![voter(1, REFUSING)]);
        assert!(!scene.attend(SOON * 5).await);
        assert_eq!((scene.removals(), scene.aws.completions()), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_is_called_off_recalls_the_hook() {
        let scene = Scene::start(2).await;
        scene.others[1].now(|says| says.unhealthy = Some("ALARM CORRUPT"));
        scene.aws.now(|says| says.completed = Reply::status(500));
        let called_off = async {
            clock::pause(MINUTE * 2).await;
            assert!(scene.aws.completions() > 0);
            scene.aws.now(|says| says.target_state = Some("InService"));
            clock::pause(POLL * 3).await;
            let before = scene.aws.completions();
            clock::pause(MINUTE * 5).await;
            assert_eq!(scene.aws.completions(), before, "what was under way is not completed");
        };
        let (left, ()) = tokio::join!(scene.attend(MINUTE * 8), called_off);
        assert!(!left && scene.removals() == 0);
        assert_eq!(overheard::count("EC2 cancelled the termination"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn from_a_mute_metadata_service_nothing_follows() {
        let scene = Scene::start(2).await;
        scene.aws.now(|says| says.target_state = None);
        assert!(!scene.attend(MINUTE * 2).await);
        assert_eq!((scene.removals(), scene.aws.completions()), (0, 0));
        assert!(overheard::count("whether this instance is about to be terminated is unknown") >= 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_launch_hook_is_completed_by_who_votes_and_no_sooner() {
        let scene = Scene::start(2).await;
        scene.aws.now(|says| says.target_state = Some("InService"));
        scene.own.now(|says| says.is_learner = true);
        assert!(!scene.attend(MINUTE).await);
        assert_eq!(scene.aws.completions(), 0);
        scene.own.after(MINUTE / 2, |says| says.is_learner = false);
        assert!(!scene.attend(MINUTE).await);
        assert_eq!(scene.aws.completions(), 1);
    }
}
