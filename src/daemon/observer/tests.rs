//! What several observations tell together, with EC2 and peers by script.

use super::*;
use crate::daemon::services::Services;
use crate::daemon::test_support::{FakeEtcd, acceptor_state, config, instances, services};
use crate::net::scripted::{Reply, Scripted};
use crate::util::scratch::Scratch;

const SECOND: Duration = Duration::from_secs(1);
const EC2: &str = "POST / Action=DescribeInstances";

/// What EC2 says at each moment is for the test to say.
type Said = Arc<std::sync::Mutex<Reply>>;

struct Scene {
    _scratch: Scratch,
    ec2: Scripted,
    says: Said,
    observer: Observer,
    own: LocalState,
}

impl Scene {
    /// We are i-a; i-b is at 127.0.0.2, where nothing listens but at that peer port.
    async fn start(peer_port: u16, data: DataDir) -> Self {
        Self::start_at(peer_port, 1, data).await
    }

    async fn start_at(peer_port: u16, client_port: u16, data: DataDir) -> Self {
        let both = [("i-a", "running", "127.0.0.1"), ("i-b", "running", "127.0.0.2")];
        let says: Said = Arc::new(std::sync::Mutex::new(instances(&both)));
        let script = says.clone();
        let ec2 = Scripted::start(move |_, _| script.lock().unwrap().clone()).await;
        let (peer_port, client_port, scratch) = (peer_port.to_string(), client_port.to_string(), Scratch::make());
        let config = config(&ec2.url, &[("PEER_PORT", &peer_port), ("CLNT_PORT", &client_port)]);
        let Services { discovery, claim, earlier_snapshots, .. } = services(&config);
        let ledger = acceptor_state(&scratch).ledger();
        let peer_urls = vec![format!("http://127.0.0.1:{peer_port}")];
        let listed = ListedMember { instance: InstanceId("i-a".to_owned()), name: "i-a".to_owned(), peer_urls };
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
        let clients = PeerClients::new(&config.etcd, None);
        Self {
            _scratch: scratch,
            ec2,
            says,
            observer: Observer::new(&config, clients, discovery, claim, earlier_snapshots, Announce::No),
            own,
        }
    }

    async fn observe(&mut self) -> View {
        self.observer.observe(&self.own, |_| {}).await
    }

    async fn i_b(&mut self) -> Peer {
        self.observe().await.peers.remove(&InstanceId("i-b".to_owned())).unwrap()
    }

    fn ec2_says(&self, reply: Reply) {
        *self.says.lock().unwrap() = reply;
    }
}

fn unread_data() -> DataDir {
    DataDir::Whole { ids: Known::Unknown("not read".to_owned()) }
}

/// Unknown is never absent.
#[tokio::test(start_paused = true)]
async fn from_a_mute_ec2_no_roster_follows_and_the_last_ones_peers_are_still_asked() {
    for (data, patience) in [(DataDir::Fresh, ROSTER_PATIENCE), (unread_data(), ROSTER_PATIENCE_WITH_DATA)] {
        let mut scene = Scene::start(2, data).await;
        assert!(scene.observe().await.roster.known().is_some_and(|roster| roster.all().len() == 2));
        scene.ec2_says(Reply::Silence);
        tokio::time::advance(ROSTER_SERVES).await;
        let began = clock::now();
        let view = scene.observe().await;
        assert!(matches!(&view.roster, Known::Unknown(cause) if cause.contains("EC2")), "{:?}", view.roster);
        assert_eq!(clock::now() - began, patience, "no look waits longer");
        assert_eq!(view.peers[&InstanceId("i-b".to_owned())].sighting, PeerState::Refused);
    }
}

#[tokio::test(start_paused = true)]
async fn a_roster_serves_for_five_seconds_unless_it_is_expired() {
    let mut scene = Scene::start(2, DataDir::Fresh).await;
    for _ in 0..3 {
        scene.observe().await;
    }
    assert_eq!(scene.ec2.count(EC2), 1);
    tokio::time::advance(ROSTER_SERVES).await;
    scene.observe().await;
    assert_eq!(scene.ec2.count(EC2), 2);
    scene.observer.expire_roster();
    scene.observe().await;
    assert_eq!(scene.ec2.count(EC2), 3);
}

/// Grace counts from when the roster last changed.
#[tokio::test(start_paused = true)]
async fn a_roster_that_changes_is_unchanged_from_then_on() {
    let mut scene = Scene::start(2, DataDir::Fresh).await;
    scene.observe().await;
    tokio::time::advance(SECOND * 20).await;
    assert!(scene.observe().await.roster_unchanged_for >= SECOND * 20);
    let three = [("i-a", "running", "127.0.0.1"), ("i-b", "running", "127.0.0.2"), ("i-c", "running", "127.0.0.3")];
    scene.ec2_says(instances(&three));
    tokio::time::advance(ROSTER_SERVES).await;
    assert!(scene.observe().await.roster_unchanged_for < SECOND);
}

#[tokio::test(start_paused = true)]
async fn silence_lasts_while_it_is_watched_and_refusals_are_told_from_it() {
    let peer = FakeEtcd::start_at("127.0.0.2:0", 2).await;
    let port = peer.server.url.rsplit(':').next().unwrap().parse().unwrap();
    let mut refused = Scene::start(2, DataDir::Fresh).await;
    let mut mute = Scene::start(port, DataDir::Fresh).await;
    peer.now(|says| says.instead = vec![("", Reply::Silence)]);
    for (scene, refuses) in [(&mut mute, false), (&mut refused, true)] {
        for _ in 0..3 {
            scene.observe().await;
            tokio::time::advance(WATCH_PAUSE).await;
        }
        let peer = scene.i_b().await;
        assert!(peer.unanswered_for >= WATCH_PAUSE * 3, "{peer:?}");
        assert_eq!(peer.refused_throughout, refuses, "{peer:?}");
    }
    // Who wasn't watched may have answered meanwhile.
    tokio::time::advance(WATCH_GAP + SECOND).await;
    assert!(refused.i_b().await.unanswered_for < SECOND);
    tokio::time::advance(WATCH_PAUSE).await;
    assert!(refused.i_b().await.unanswered_for >= WATCH_PAUSE);
    refused.observer.reset_timers();
    assert!(refused.i_b().await.unanswered_for < SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_etcd_seen_without_a_quorum_is_no_living_cluster() {
    let peer = FakeEtcd::start_at("127.0.0.2:0", 2).await;
    let port = peer.server.url.rsplit(':').next().unwrap().parse().unwrap();
    let mut scene = Scene::start(port, DataDir::Fresh).await;
    peer.now(|says| says.leader = 0);
    let view = scene.observe().await;
    assert!(view.living_clusters().is_empty() && view.etcds().count() == 1, "{:?}", view.peers);
}

/// A fresh node must know it before it adds itself; what is not answered is unknown.
#[tokio::test(start_paused = true)]
async fn a_fresh_node_asks_whether_the_cluster_is_being_downgraded() {
    const STATUS: &str = "POST /v3/maintenance/status";
    let etcds = [FakeEtcd::start_at("127.0.0.2:0", 2).await, FakeEtcd::start_at("127.0.0.2:0", 2).await];
    let [peer_port, client_port] =
        etcds.each_ref().map(|etcd| etcd.server.url.rsplit(':').next().unwrap().parse().unwrap());
    let [peer, client] = &etcds;
    peer.now(|says| says.release = "3.7.3");
    client.now(|says| says.release = "3.7.3");
    let mut scene = Scene::start_at(peer_port, client_port, DataDir::Fresh).await;
    assert_eq!(scene.observe().await.downgrade, Known::Known(None));
    assert_eq!(client.server.count(STATUS), 1);
    let enabled = Reply::ok(
        r#"{"header":{"cluster_id":"7","member_id":"2"}, "version":"3.7.3", "downgradeInfo":{"enabled":true, "targetVersion":"3.6.0"}}"#,
    );
    client.now(|says| says.instead = vec![(STATUS, enabled)]);
    assert_eq!(scene.observe().await.downgrade, Known::Known(Some(Minor(3, 6))));
    client.now(|says| says.instead = vec![(STATUS, Reply::status(500))]);
    assert!(matches!(scene.observe().await.downgrade, Known::Unknown(_)));
    // 3.5 doesn't report it, and a member's start doesn't depend on it.
    let asked = client.server.count(STATUS);
    peer.now(|says| says.release = "3.5.33");
    assert_eq!(scene.observe().await.downgrade, Known::Known(None));
    peer.now(|says| says.release = "3.7.3");
    scene.own.data = unread_data();
    assert_eq!(scene.observe().await.downgrade, Known::Known(None));
    assert_eq!(client.server.count(STATUS), asked);
}

/// A member that was restarted at two looks five minutes apart was never silent for five minutes.
#[test]
fn what_nobody_looked_at_was_not_silent() {
    let start = clock::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let questions = Duration::from_secs(12);
    let watches_on = |last: Option<u64>, began, ended| super::watches_on(last.map(at), at(began), at(ended), questions);
    assert!(!watches_on(None, 0, 1), "the first look");
    assert!(watches_on(Some(10), 11, 12) && watches_on(Some(10), 40, 46));
    assert!(!watches_on(Some(10), 41, 42), "nobody looked for 31 s");
    assert!(watches_on(Some(10), 20, 32), "it may wait for 12 s, by its own timeouts");
    assert!(!watches_on(Some(10), 11, 41), "it was frozen while it looked");
}
