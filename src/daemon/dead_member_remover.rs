//! `MUSTER_REMOVE_INTERVAL`: the leader's supervisor removes dead members while etcd runs, so that a cluster does not stay degraded
//! until a new node joins. If it is off, a supervisor at rest calls neither EC2 nor its peers.
//!
//! Only time in which the member was watched counts ([`super::observer`]): while it is watched, the supervisor observes every
//! few seconds, whatever the interval.

use std::convert::Infallible;
use std::time::Duration;

use super::evidence;
use super::executor::Executor;
use super::observer::{LocalState, Observer, WATCH_PAUSE};
use crate::core::release::Installed;
use crate::core::removal;
use crate::core::step::Step;
use crate::core::types::{ClusterId, Known, ListedMember};
use crate::core::view::{Clean, DataDir, Liveness, Policy, View};
use crate::etcd::client::Client;
use crate::peer::server::AcceptorState;
use crate::status::recorder::StatusRecorder;
use crate::util::clock;
use crate::util::log_once::LogOnce;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Removes dead members during one run of etcd.
#[derive(Debug)]
pub struct DeadMemberRemover<'a> {
    pub etcd: &'a Client,
    pub observer: &'a mut Observer,
    pub executor: &'a Executor,
    pub acceptor_state: &'a AcceptorState,
    pub recorder: &'a StatusRecorder,
    pub own_client_url: String,
    pub listed: ListedMember,
}

impl DeadMemberRemover<'_> {
    /// Observes at the interval, for ever; `None`: never. Cancel-safe: one removal at a time, and each is verified afterwards.
    pub async fn every(&mut self, interval: Option<Duration>) -> Infallible {
        let Some(interval) = interval else { return std::future::pending().await };
        let mut said = LogOnce::default();
        self.observer.reset_timers();
        let mut next = interval;
        loop {
            clock::pause(clock::jittered(next)).await;
            let Findings { line, watches } = self.observe().await;
            next = if watches { interval.min(WATCH_PAUSE) } else { interval };
            if let Some(line) = line
                && said.is_news(&line)
            {
                log::info!("{line}");
            }
        }
    }

    /// One observation.
    async fn observe(&mut self) -> Findings {
        let status = self.etcd.status(&self.own_client_url, ANSWER_TIMEOUT).await.ok();
        // Only the leader's supervisor observes, and only what it has watched without a gap counts.
        let Some(status) = status.filter(|s| s.leader == Some(s.member)) else {
            self.observer.reset_timers();
            return Findings { line: None, watches: false };
        };
        let data = DataDir::Whole { ids: Known::Unknown("etcd has it open".to_owned()) };
        let (listed, ledger) = (self.listed.clone(), self.acceptor_state.ledger());
        let own = LocalState {
            listed,
            data,
            yielded: false,
            condemned: None,
            ledger,
            ending: Known::Known(None),
            since_own_removal: None,
            told: None,
            installed: Installed::NotAsked,
            data_release: Known::Unknown("not asked".to_owned()),
        };
        let view = self.observer.observe(&own, |_| {}).await;
        let watches = watches(self.observer.policy(), &view);
        let filter = &self.observer.policy().filter;
        let line = match &view.roster {
            Known::Unknown(cause) => Some(format!("reconcile: {cause}; no member is removed")),
            Known::Known(roster) if roster.non_terminated().next().is_none() => Some(format!(
                "reconcile: no instance with {filter} is listed, not even this one, so no member is removed; check \
                 the region (DOCKER_AWSREG) and MUSTER_TAGS"
            )),
            Known::Known(_) => self.clean(&view, status.cluster).await,
        };
        Findings { line, watches }
    }

    /// Removes a member that may be removed; returns what to report about it.
    async fn clean(&self, view: &View, ours: ClusterId) -> Option<String> {
        match removal::reconcile(self.observer.policy(), view, ours) {
            Ok((id, why)) => {
                let mut cluster = view.living_clusters().remove(&ours)?.clone();
                if !cluster.changes_members() {
                    // Only members of 3.3 beside us, which may be newer.
                    cluster.client_url.clone_from(&self.own_client_url);
                }
                match self.executor.remove(&cluster, id).await {
                    Ok(()) => {
                        let line = format!("{id}: {why}");
                        let step = Step::RemoveMember { id, why };
                        self.recorder.done_beside(step.label(), &line, evidence(view));
                        Some(format!("reconcile: removed member {line}"))
                    }
                    Err(error) => Some(format!("reconcile: removing member {id} failed: {error}")),
                }
            }
            Err(kept) if kept.is_empty() => None,
            Err(kept) => {
                let kept: Vec<String> = kept.iter().map(|(id, why)| format!("member {id} {why}")).collect();
                Some(format!("reconcile: {}", kept.join("; ")))
            }
        }
    }
}

/// The result of an observation.
struct Findings {
    line: Option<String>,
    /// A member that does not answer is being watched.
    watches: bool,
}

/// Whether more time without an answer would change what may be done.
fn watches(policy: &Policy, view: &View) -> bool {
    let ripens = |liveness: &Liveness| match (policy.clean, liveness) {
        (Clean::Off, _) | (_, Liveness::Answers | Liveness::Unknown) => false,
        (Clean::Gone, Liveness::Silent(silence)) => {
            silence.gone == Known::Known(true) && silence.silent_for < policy.clean_dwell
        }
        (Clean::Unhealthy, Liveness::Silent(_)) => true,
    };
    view.liveness.values().any(ripens)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::core::types::{InstanceId, Member};
    use crate::daemon::observer::Announce;
    use crate::daemon::services::Services;
    use crate::daemon::test_support::{FakeEtcd, REFUSING, acceptor_state, config, instances, services, voter};
    use crate::net::scripted::{Reply, Scripted};
    use crate::peer::clients::PeerClients;
    use crate::util::overheard;
    use crate::util::scratch::Scratch;

    const MINUTE: Duration = Duration::from_secs(60);
    const REMOVE: &str = "POST /v3/cluster/member/remove";
    const ENDED: (&str, &str, &str) = ("i-b", "terminated", "");

    /// Members 1 (ours, the leader), 2 (of i-b, which does not answer) and 3 (of i-c, which is healthy).
    struct Scene {
        _scratch: Scratch,
        ec2: Scripted,
        says: Arc<Mutex<Reply>>,
        own: FakeEtcd,
        other: FakeEtcd,
        other_client: Scripted,
        observer: Observer,
        executor: Executor,
        acceptor_state: AcceptorState,
        recorder: StatusRecorder,
        client: Client,
    }

    impl Scene {
        async fn start(i_b: (&str, &str, &str)) -> Self {
            overheard::listen();
            let says = Arc::new(Mutex::new(Reply::Silence));
            let script = says.clone();
            let ec2 = Scripted::start(move |_, _| script.lock().unwrap().clone()).await;
            let own = FakeEtcd::start(1).await;
            let other = FakeEtcd::start_at("127.0.0.3:0", 3).await;
            let other_client = other.also_at("127.0.0.3:0").await;
            let dead = Member { name: "i-b".to_owned(), ..voter(2, REFUSING) };
            let (of_other, at_client) = (voter(3, &other.server.url), vec![other_client.url.clone()]);
            let well = Member { name: "i-c".to_owned(), client_urls: at_client, ..of_other };
            let members = vec![voter(1, &own.server.url), dead, well];
            for etcd in [&own, &other] {
                etcd.now(|says| (says.leader, says.members) = (1, members.clone()));
            }
            let port = |server: &Scripted| server.url.rsplit(':').next().unwrap().to_owned();
            let (peer_port, client_port) = (port(&other.server), port(&other_client));
            let settings = [
                ("PEER_PORT", peer_port.as_str()),
                ("CLNT_PORT", &client_port),
                ("MUSTER_CLUSTER_SIZE", "3"),
                ("MUSTER_REMOVE_AFTER", "30s"),
            ];
            let config = config(&ec2.url, &settings);
            let scratch = Scratch::make();
            let (acceptor_state, clients) = (acceptor_state(&scratch), PeerClients::new(&config.etcd, None));
            let Services { discovery, claim, earlier_snapshots, .. } = services(&config);
            let me = InstanceId("i-a".to_owned());
            let scene = Self {
                client: clients.etcd.clone(),
                executor: Executor::new(&config, clients.clone(), acceptor_state.clone(), claim.clone(), me),
                observer: Observer::new(&config, clients, discovery, claim, earlier_snapshots, Announce::No),
                acceptor_state,
                recorder: StatusRecorder::new(MINUTE),
                own,
                other,
                other_client,
                ec2,
                says,
                _scratch: scratch,
            };
            scene.ec2_shows(i_b);
            scene
        }

        fn ec2_shows(&self, i_b: (&str, &str, &str)) {
            let (me, i_c) = (("i-a", "running", "127.0.0.1"), ("i-c", "running", "127.0.0.3"));
            *self.says.lock().unwrap() = instances(&[me, i_b, i_c]);
        }

        /// Observes at that interval, for that long.
        async fn attend(&mut self, interval: Duration, span: Duration) {
            let peer_urls = vec![self.own.server.url.clone()];
            let listed = ListedMember { instance: InstanceId("i-a".to_owned()), name: "i-a".to_owned(), peer_urls };
            let mut remover = DeadMemberRemover {
                etcd: &self.client,
                observer: &mut self.observer,
                executor: &self.executor,
                acceptor_state: &self.acceptor_state,
                recorder: &self.recorder,
                own_client_url: self.own.server.url.clone(),
                listed,
            };
            let _never = tokio::time::timeout(span, remover.every(Some(interval))).await;
        }

        fn removals(&self) -> usize {
            [&self.own.server, &self.other.server, &self.other_client].iter().map(|etcd| etcd.count(REMOVE)).sum()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_dead_is_removed_once_and_no_sooner_than_its_silence_was_watched_for() {
        let mut scene = Scene::start(ENDED).await;
        scene.attend(MINUTE, MINUTE / 2 + Duration::from_secs(25)).await;
        assert_eq!(scene.removals(), 0, "{:?}", overheard::lines());
        let mut scene = Scene::start(ENDED).await;
        scene.attend(MINUTE, MINUTE * 4).await;
        assert_eq!(scene.removals(), 1, "{:?}", overheard::lines());
        let told = scene.recorder.snapshot().decisions.pop().unwrap();
        assert!((&*told.step, &*told.kind) == ("remove_member", "gone") && told.reason.starts_with("2: "), "{told:?}");
        assert_eq!(scene.other_client.count(&format!(r#"{REMOVE} {{"ID":"2"}}"#)), 1);
        assert_eq!(overheard::count("reconcile: removed member 2"), 1);
    }

    /// A leader of 3.4 beside a member of 3.3, whose gateway is asked for no change.
    #[tokio::test(start_paused = true)]
    async fn who_takes_no_change_is_not_asked_for_one() {
        let mut scene = Scene::start(ENDED).await;
        scene.own.now(|says| says.release = "3.4.23");
        scene.other.now(|says| says.release = "3.3.25");
        scene.attend(MINUTE, MINUTE * 4).await;
        // (The other's list does not follow, so it may be asked twice.)
        let at_our_own = scene.own.server.count(REMOVE);
        assert!(at_our_own >= 1 && scene.removals() == at_our_own, "{:?}", overheard::lines());
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_leaders_supervisor_looks() {
        let mut scene = Scene::start(ENDED).await;
        scene.own.now(|says| says.leader = 3);
        scene.attend(MINUTE, MINUTE * 10).await;
        assert_eq!((scene.removals(), scene.ec2.asked().len(), scene.other.server.asked().len()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn whose_instance_exists_or_is_unknown_is_kept() {
        let mut scene = Scene::start(("i-b", "running", "127.0.0.2")).await;
        scene.attend(MINUTE, MINUTE * 10).await;
        assert_eq!(scene.removals(), 0);
        assert_eq!(overheard::count("reconcile: member 2 "), 1, "said once: {:?}", overheard::lines());
        let mut scene = Scene::start(ENDED).await;
        let denied = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error></Errors></Response>";
        *scene.says.lock().unwrap() = Reply::Answer(403, denied.to_owned());
        scene.attend(MINUTE, MINUTE * 20).await;
        assert_eq!(scene.removals(), 0);
        assert_eq!(overheard::count("no member is removed"), 1, "{:?}", overheard::lines());
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_others_would_be_no_quorum_nobody_is_removed() {
        let mut scene = Scene::start(ENDED).await;
        // Member 3 answers only at its peer port: that does not prove a quorum.
        scene.other.now(|says| says.leader = 0);
        scene.attend(MINUTE, MINUTE * 10).await;
        assert_eq!(scene.removals(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_is_back_is_not_removed() {
        let mut scene = Scene::start(ENDED).await;
        scene.attend(MINUTE, MINUTE).await;
        let back = FakeEtcd::start(2).await;
        let members = [voter(1, &scene.own.server.url), voter(2, &back.server.url), voter(3, &scene.other.server.url)];
        for etcd in [&scene.own, &scene.other] {
            etcd.now(|says| says.members = members.to_vec());
        }
        scene.attend(MINUTE, MINUTE * 10).await;
        assert_eq!(scene.removals(), 0);
    }
}
