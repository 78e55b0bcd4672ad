//! The monitor beside a scripted etcd, in paused time.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use super::*;
use crate::core::paxos::FirstStart;
use crate::core::types::Member;
use crate::core::view::Claim;
use crate::daemon::test_support::{
    CLUSTER, FakeEtcd, FakeStore, REFUSING, acceptor_state, config, etcd_client, paths, put_backend, services, voter,
};
use crate::net::scripted::Reply;
use crate::state::store::Releases;
use crate::util::file::paused_time::stand_still_while_reading;
use crate::util::overheard;
use crate::util::scratch::Scratch;

/// A claim's.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const PEER_PORT: &str = "GET /version";
const STATUS: &str = "POST /v3/maintenance/status";
const HEALTH: &str = "GET /health";
const LIST: &str = "POST /v3/cluster/member/list";
const PROMOTE: &str = "POST /v3/cluster/member/promote";
const UPDATE: &str = "POST /v3/cluster/member/update";

/// What a monitor is given.
struct Scene {
    _scratch: Scratch,
    client: Client,
    paths: Paths,
    acceptor_state: AcceptorState,
    claim: ClaimStore,
    notify: Notify,
    manager: UnixDatagram,
    recorder: StatusRecorder,
    output: Tail,
}

impl Scene {
    fn new() -> Self {
        let unclaimed = services(&config(REFUSING, &[])).claim;
        Self::with(Arc::into_inner(unclaimed).unwrap())
    }

    fn with(claim: ClaimStore) -> Self {
        overheard::listen();
        stand_still_while_reading();
        let scratch = Scratch::make();
        let path = scratch.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        Self {
            client: etcd_client(),
            paths: paths(&scratch),
            acceptor_state: acceptor_state(&scratch),
            claim,
            notify: Notify::to(path.to_str().map(str::to_owned)),
            manager,
            recorder: StatusRecorder::new(MINUTE),
            output: Tail::default(),
            _scratch: scratch,
        }
    }

    fn monitor(&self, url: &str) -> MemberMonitor<'_> {
        MemberMonitor {
            etcd: &self.client,
            paths: &self.paths,
            installed: None,
            acceptor_state: &self.acceptor_state,
            claim: &self.claim,
            notify: &self.notify,
            recorder: &self.recorder,
            output: &self.output,
            own_client_url: url.to_owned(),
            own_peer_url: url.to_owned(),
            advertised: vec![url.to_owned()],
            advertised_to_clients: vec![url.to_owned()],
            others: Vec::new(),
            spawned_at: clock::now(),
            is_first_start: false,
        }
    }

    /// How often systemd was told this.
    fn told(&self, state: &str) -> usize {
        let mut datagram = [0; 4096];
        let mut told = 0;
        while let Ok(length) = self.manager.recv(&mut datagram) {
            told += usize::from(&datagram[..length] == state.as_bytes());
        }
        told
    }
}

/// Attends for so long, or until etcd is to be stopped.
async fn attend(monitor: &MemberMonitor<'_>, progress: &mut Progress, span: Duration) -> Option<Stop> {
    tokio::time::timeout(span, monitor.until_stop(progress)).await.ok()
}

#[tokio::test(start_paused = true)]
async fn readiness_is_said_once_and_again_after_it_was_lost() {
    let (scene, etcd, mut progress) = (Scene::new(), FakeEtcd::start(1).await, Progress::default());
    let monitor = scene.monitor(&etcd.server.url);
    assert_eq!(attend(&monitor, &mut progress, MINUTE).await, None);
    assert!(scene.recorder.snapshot().ready);
    assert_eq!(
        (scene.told("READY=1"), overheard::count("member 1 is healthy and votes")),
        (1, 1),
        "{:?}",
        overheard::lines()
    );
    etcd.now(|says| says.unhealthy = Some("ALARM NOSPACE"));
    assert_eq!(attend(&monitor, &mut progress, MINUTE).await, None);
    assert!(!scene.recorder.snapshot().ready);
    assert_eq!(
        overheard::count("member 1 is not healthy: alarm NOSPACE of member 1"),
        1,
        "once, however long it lasts"
    );
    etcd.now(|says| says.unhealthy = None);
    assert_eq!(attend(&monitor, &mut progress, MINUTE).await, None);
    assert!(scene.recorder.snapshot().ready);
    assert_eq!((scene.told("READY=1"), overheard::count("member 1 is healthy and votes")), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn who_was_ready_and_does_not_answer_is_ready_no_more_and_is_not_stopped() {
    let (scene, etcd, mut progress) = (Scene::new(), FakeEtcd::start(1).await, Progress::default());
    let monitor = scene.monitor(&etcd.server.url);
    attend(&monitor, &mut progress, SECOND * 5).await;
    assert!(scene.recorder.snapshot().ready);
    etcd.now(|says| says.instead = vec![("", Reply::Silence)]);
    assert_eq!(attend(&monitor, &mut progress, MINUTE * 2).await, None);
    let shown = scene.recorder.snapshot();
    assert!(!shown.ready && shown.live);
    assert_eq!(shown.kind, "silent");
    assert_eq!(overheard::count("etcd runs but does not answer"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_held_lock_is_said_by_etcds_own_words() {
    let (scene, mut progress) = (Scene::new(), Progress::default());
    let monitor = scene.monitor(REFUSING);
    attend(&monitor, &mut progress, SECOND).await;
    assert_eq!(overheard::count("another process has the data open"), 0);
    scene.output.push(b"cannot lock: flocked by another process\n");
    assert_eq!(attend(&monitor, &mut progress, MINUTE).await, None);
    assert_eq!(overheard::count("another process has the data open"), 1);
    assert_eq!(scene.recorder.snapshot().kind, "locked");
}

#[tokio::test(start_paused = true)]
async fn at_rest_one_question_in_ten_seconds_and_the_list_each_minute() {
    let (scene, etcd, mut progress) = (Scene::new(), FakeEtcd::start(1).await, Progress::default());
    let monitor = scene.monitor(&etcd.server.url);
    attend(&monitor, &mut progress, SECOND * 5).await;
    let asked = |beginning| etcd.server.count(beginning);
    let before = [LIST, HEALTH, STATUS, PEER_PORT].map(asked);
    attend(&monitor, &mut progress, REST * MEMBERS_EVERY * 10).await;
    let after = [LIST, HEALTH, STATUS, PEER_PORT].map(asked);
    let lists = after[0] - before[0];
    assert!((9..=10).contains(&lists), "{lists}");
    assert!((49..=51).contains(&(after[1] - before[1])), "{}", after[1] - before[1]);
    assert_eq!(after[2..], before[2..], "neither its status nor its peer port");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_published_no_address_yet_is_looked_up_again_at_once_and_not_for_ever() {
    let (scene, etcd, other) = (Scene::new(), FakeEtcd::start(1).await, FakeEtcd::start(2).await);
    let mut progress = Progress::default();
    let own = voter(1, &etcd.server.url);
    let silent = Member { client_urls: Vec::new(), ..voter(2, &other.server.url) };
    etcd.now(|says| says.members = vec![own.clone(), silent]);
    let monitor = scene.monitor(&etcd.server.url);
    attend(&monitor, &mut progress, SECOND * 5).await;
    etcd.now(|says| says.members = vec![own.clone(), voter(2, &other.server.url)]);
    attend(&monitor, &mut progress, REST * 2).await;
    assert!(other.server.count(STATUS) > 0, "its log is observed without waiting for the next list");
    let silent = Member { client_urls: Vec::new(), ..voter(2, &other.server.url) };
    etcd.now(|says| says.members = vec![own, silent]);
    attend(&monitor, &mut progress, REST * MEMBERS_EVERY).await;
    let lists = etcd.server.count(LIST);
    attend(&monitor, &mut progress, REST * MEMBERS_EVERY * 10).await;
    let more = etcd.server.count(LIST) - lists;
    assert!((9..=12).contains(&more), "{more}: who never publishes one costs no more than anybody");
}

/// Each `/health` of 3.3 and 3.4 is an entry of the raft log, and 3.6 doesn't come up over such a log.
#[tokio::test(start_paused = true)]
async fn an_old_etcd_is_never_asked_for_its_health_and_its_health_is_known_all_the_same() {
    for release in ["3.3.25", "3.4.23"] {
        let (scene, etcd, mut progress) = (Scene::new(), FakeEtcd::start(1).await, Progress::default());
        etcd.now(|says| says.release = release);
        let monitor = scene.monitor(&etcd.server.url);
        attend(&monitor, &mut progress, MINUTE * 5).await;
        assert!(scene.recorder.snapshot().ready);
        etcd.now(|says| says.unhealthy = Some("ALARM NOSPACE"));
        attend(&monitor, &mut progress, MINUTE).await;
        assert_eq!(overheard::count("member 1 is not healthy: alarm NOSPACE"), 1, "{:?}", overheard::lines());
        etcd.now(|says| (says.unhealthy, says.leader) = (None, 0));
        attend(&monitor, &mut progress, MINUTE).await;
        assert!(!scene.recorder.snapshot().ready);
        etcd.now(|says| says.leader = 1);
        attend(&monitor, &mut progress, MINUTE).await;
        assert!(scene.recorder.snapshot().ready);
        // Whoever else asks doesn't know the release.
        assert!(scene.client.is_healthy(std::slice::from_ref(&etcd.server.url), SECOND).await);
        assert_eq!(etcd.server.count(HEALTH), 0, "{release}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_learner_is_promoted_by_another_once_there_is_a_leader() {
    let (scene, etcd, other) = (Scene::new(), FakeEtcd::start(1).await, FakeEtcd::start(2).await);
    let mut progress = Progress::default();
    etcd.now(|says| (says.is_learner, says.leader) = (true, 0));
    let monitor = MemberMonitor { others: vec![other.server.url.clone()], ..scene.monitor(&etcd.server.url) };
    attend(&monitor, &mut progress, MINUTE).await;
    assert_eq!(other.server.count(PROMOTE), 0, "never without a leader");
    let early = json_error("etcdserver: can only promote a learner member which is in sync with leader");
    other.now(|says| says.instead = vec![(PROMOTE, early)]);
    etcd.now(|says| says.leader = 2);
    attend(&monitor, &mut progress, SECOND * 10).await;
    let tries = other.server.count(PROMOTE);
    assert!(tries > 1, "it is asked for until it is in sync");
    assert_eq!(scene.recorder.snapshot().kind, "learner");
    assert!(!scene.recorder.snapshot().ready);
    other.now(|says| says.instead.clear());
    etcd.after(SECOND * 3, |says| says.is_learner = false);
    attend(&monitor, &mut progress, MINUTE).await;
    assert!(scene.recorder.snapshot().ready);
    assert_eq!(etcd.server.count(PROMOTE), 0, "a learner can't promote itself");
    assert!(overheard::count("promoted to voter") >= 1);
}

fn json_error(message: &str) -> Reply {
    Reply::Answer(412, format!(r#"{{"code": 9, "message": "{message}"}}"#))
}

/// A cluster that isn't elected yet: `never_elected` by the ledger, or not.
async fn leaderless(never_elected: bool) -> (Scene, FakeEtcd) {
    let (scene, etcd) = (Scene::new(), FakeEtcd::start(1).await);
    scene.acceptor_state.amend(|ledger| ledger.never_elected = never_elected).unwrap();
    etcd.now(|says| (says.leader, says.elected) = (0, false));
    (scene, etcd)
}

#[tokio::test(start_paused = true)]
async fn only_who_never_elected_yields() {
    let (scene, etcd) = leaderless(true).await;
    let began = clock::now();
    let stop = attend(&scene.monitor(&etcd.server.url), &mut Progress::default(), MINUTE * 10).await;
    assert_eq!(stop, Some(Stop::Yield));
    let took = clock::now() - began;
    assert!((YIELD_AFTER..YIELD_AFTER * 2 + SECOND * 5).contains(&took), "{took:?}");
    let (scene, etcd) = leaderless(false).await;
    let stop = attend(&scene.monitor(&etcd.server.url), &mut Progress::default(), MINUTE * 10).await;
    assert_eq!(stop, None);
}

#[tokio::test(start_paused = true)]
async fn who_has_elected_never_yields_again() {
    let (scene, etcd) = leaderless(true).await;
    let mut progress = Progress::default();
    etcd.now(|says| (says.leader, says.elected) = (1, true));
    let monitor = scene.monitor(&etcd.server.url);
    attend(&monitor, &mut progress, SECOND * 5).await;
    assert!(!scene.acceptor_state.ledger().never_elected, "on record at the first leader");
    etcd.now(|says| says.leader = 0);
    assert_eq!(attend(&monitor, &mut progress, MINUTE * 2).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_first_start_that_serves_nothing_is_stuck_and_a_later_one_is_waited_for() {
    let (scene, etcd) = (Scene::new(), FakeEtcd::start(1).await);
    let began = clock::now();
    etcd.now(|says| says.instead = vec![("", Reply::Silence)]);
    let first = MemberMonitor { is_first_start: true, ..scene.monitor(&etcd.server.url) };
    assert_eq!(attend(&first, &mut Progress::default(), MINUTE * 10).await, Some(Stop::Stuck));
    let took = clock::now() - began;
    assert!((SERVE_WITHIN..SERVE_WITHIN * 2 + SECOND * 5).contains(&took), "{took:?}");
    let later = scene.monitor(&etcd.server.url);
    assert_eq!(attend(&later, &mut Progress::default(), MINUTE * 2).await, None);
}

#[tokio::test(start_paused = true)]
async fn that_etcd_served_and_as_whom_is_on_record() {
    let (scene, etcd) = (Scene::new(), FakeEtcd::start(7).await);
    scene.acceptor_state.amend(|ledger| ledger.starting = Some(FirstStart::Founding)).unwrap();
    attend(&scene.monitor(&etcd.server.url), &mut Progress::default(), SECOND * 5).await;
    let ledger = scene.acceptor_state.ledger();
    assert_eq!(ledger.starting, None, "from now on a missing WAL is a lost one");
    assert_eq!(ledger.ran_as, Some(RanAs { cluster: ClusterId(CLUSTER), member: MemberId(7) }));
}

/// Three voters: ours, one that listens nowhere, one that answers.
async fn three() -> (Scene, FakeEtcd, FakeEtcd) {
    let (scene, etcd, other) = (Scene::new(), FakeEtcd::start(1).await, FakeEtcd::start(2).await);
    let members = vec![voter(1, &etcd.server.url), voter(2, &other.server.url), voter(3, REFUSING)];
    etcd.now(|says| says.members = members);
    (scene, etcd, other)
}

#[tokio::test(start_paused = true)]
async fn a_lost_quorum_is_said_after_a_while_with_who_is_missing_and_when_it_is_back() {
    let (scene, etcd, other) = three().await;
    let (monitor, mut progress) = (scene.monitor(&etcd.server.url), Progress::default());
    attend(&monitor, &mut progress, SECOND * 5).await;
    // The last look that saw a leader may be long ago: that says nothing of how long there has been none.
    tokio::time::advance(LOST_AFTER).await;
    etcd.now(|says| says.leader = 0);
    other.now(|says| says.instead = vec![("", Reply::Silence)]);
    let (lost, back) = ("the quorum is lost: 1 of 3 voters answer", "the quorum is back");
    attend(&monitor, &mut progress, SECOND * 5).await;
    assert_eq!(overheard::count(lost), 0, "an election takes a second or two: {:?}", overheard::lines());
    attend(&monitor, &mut progress, REST + LOST_AFTER).await;
    assert_eq!(overheard::count(lost), 1);
    assert!(overheard::lines().iter().any(|line| line.contains("m3 (member 3, http://127.0.0.1:1) refuses")));
    attend(&monitor, &mut progress, MINUTE * 2).await;
    assert_eq!((overheard::count(lost), overheard::count(back)), (1, 0));
    assert!(scene.recorder.snapshot().reason.contains("the quorum is lost"));
    // Somebody else is missing: that is news.
    other.now(|says| says.instead.clear());
    attend(&monitor, &mut progress, MINUTE).await;
    assert_eq!(overheard::count("there is no leader, although 2 of 3 voters answer"), 1);
    etcd.now(|says| says.leader = 1);
    attend(&monitor, &mut progress, MINUTE).await;
    assert_eq!(overheard::count(back), 1);
    assert!(scene.recorder.snapshot().ready);
}

#[tokio::test(start_paused = true)]
async fn one_that_never_elected_has_no_quorum_to_lose() {
    let (scene, etcd) = leaderless(true).await;
    etcd.now(|says| says.members = vec![voter(1, "http://10.0.0.1:2380"), voter(3, REFUSING)]);
    attend(&scene.monitor(&etcd.server.url), &mut Progress::default(), YIELD_AFTER - SECOND).await;
    assert_eq!(overheard::count("quorum is lost"), 0);
}

/// With authentication on and no user for us a status says nothing of a leader.
#[tokio::test(start_paused = true)]
async fn who_may_not_ask_for_a_status_has_lost_no_quorum() {
    let (scene, etcd, _other) = three().await;
    let denied = Reply::Answer(403, r#"{"code": 7, "message": "etcdserver: permission denied"}"#.to_owned());
    etcd.now(|says| says.instead = vec![(STATUS, denied)]);
    let (monitor, mut progress) = (scene.monitor(&etcd.server.url), Progress::default());
    attend(&monitor, &mut progress, MINUTE * 2).await;
    assert_eq!(overheard::count("quorum is lost"), 0);
    assert_eq!(overheard::count("etcd runs but can't be queried"), 1);
    etcd.now(|says| says.leader = 0);
    attend(&monitor, &mut progress, MINUTE).await;
    assert_eq!(overheard::count("although 2 of 3 voters answer"), 1, "by /health, which needs no user");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_changed_is_published_once() {
    let (scene, etcd) = (Scene::new(), FakeEtcd::start(1).await);
    let old = Member { peer_urls: vec!["http://10.9.9.9:2380".to_owned()], ..voter(1, &etcd.server.url) };
    etcd.now(|says| says.members = vec![old]);
    let (monitor, mut progress) = (scene.monitor(&etcd.server.url), Progress::default());
    let refused = Reply::Answer(503, r#"{"code": 14, "message": "etcdserver: too many requests"}"#.to_owned());
    etcd.now(|says| says.instead = vec![(UPDATE, refused)]);
    attend(&monitor, &mut progress, MINUTE).await;
    let tries = etcd.server.count(UPDATE);
    assert!(tries > 1, "tried until it is taken: {tries}");
    etcd.now(|says| says.instead.clear());
    attend(&monitor, &mut progress, MINUTE * 10).await;
    assert_eq!(etcd.server.count(UPDATE), tries + 1, "and then no more");
    let wanted = format!(r#"{UPDATE} {{"ID":"1","peerURLs":["{}"]}}"#, etcd.server.url);
    assert!(etcd.server.asked().contains(&wanted), "{wanted}");
}

#[tokio::test(start_paused = true)]
async fn beside_a_twin_no_address_is_published() {
    let (scene, etcd, twin) = (Scene::new(), FakeEtcd::start(1).await, FakeEtcd::start(1).await);
    let listed = voter(1, &twin.server.url);
    etcd.now(|says| says.members = vec![listed]);
    let (monitor, mut progress) = (scene.monitor(&etcd.server.url), Progress::default());
    attend(&monitor, &mut progress, MINUTE * 10).await;
    assert_eq!(etcd.server.count(UPDATE), 0);
    assert_eq!(overheard::count("answers as the same member"), 1);
    // It is gone: the way is free.
    twin.now(|says| says.instead = vec![("", Reply::Silence)]);
    attend(&monitor, &mut progress, MINUTE * 5).await;
    assert_eq!(etcd.server.count(UPDATE), 1);
}

/// What is said to be committed may not be synced yet.
#[tokio::test(start_paused = true)]
async fn how_far_the_others_logs_go_counts_from_the_look_after() {
    let (scene, etcd, other) = three().await;
    let (monitor, mut progress) = (scene.monitor(&etcd.server.url), Progress::default());
    let kept = || scene.acceptor_state.with_store(|store| store.logs_of(ClusterId(CLUSTER)));
    while other.server.count(STATUS) == 0 {
        attend(&monitor, &mut progress, SECOND).await;
        assert!(kept().is_empty(), "asked for the first time");
    }
    attend(&monitor, &mut progress, REST * 2).await;
    assert_eq!(kept(), [(MemberId(2), LogEnd { term: 2, index: 10 })]);
}

const CLAIM: &str = "/bucket/claim.json";
const READ_CLAIM: &str = "GET /bucket/claim.json";

/// A monitor with a claim in a store of objects, and that store.
async fn claiming() -> (FakeStore, Scene, FakeEtcd) {
    let store = FakeStore::start().await;
    let services = services(&config(&store.server.url, &[("MUSTER_CLAIM", "s3://bucket")]));
    (store, Scene::with(Arc::into_inner(services.claim).unwrap()), FakeEtcd::start(1).await)
}

fn established(cluster: u64) -> String {
    serde_json::to_string(&Claim::Established { cluster: ClusterId(cluster) }).unwrap()
}

#[tokio::test(start_paused = true)]
async fn from_the_first_quorum_on_the_claim_says_so_and_is_asked_for_no_more() {
    let (store, scene, etcd) = claiming().await;
    etcd.now(|says| says.leader = 0);
    let (monitor, mut progress) = (scene.monitor(&etcd.server.url), Progress::default());
    attend(&monitor, &mut progress, MINUTE).await;
    assert!(store.server.asked().is_empty(), "not before");
    etcd.now(|says| says.leader = 1);
    attend(&monitor, &mut progress, MINUTE).await;
    assert_eq!(store.text(CLAIM).unwrap(), established(CLUSTER));
    assert_eq!(overheard::count("was bootstrapped"), 1);
    let asked = store.server.asked().len();
    attend(&monitor, &mut progress, MINUTE * 10).await;
    assert_eq!(store.server.asked().len(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_read_is_tried_again_with_pauses_that_grow() {
    let (store, scene, etcd) = claiming().await;
    store.now(|holds| holds.instead = vec![("GET", Reply::status(500))]);
    let (monitor, mut progress) = (scene.monitor(&etcd.server.url), Progress::default());
    attend(&monitor, &mut progress, MINUTE * 60).await;
    // After 10, 20, 40, 80 and 160 s, and then every five minutes; each a rest later at the most.
    let tries = store.server.count(READ_CLAIM);
    assert!((15..=18).contains(&tries), "{tries}");
    assert_eq!(overheard::count("the claim can't be read"), 1);
    assert!(scene.recorder.snapshot().ready, "etcd runs on");
    store.now(|holds| holds.instead.clear());
    attend(&monitor, &mut progress, LONGEST_PAUSE * 2).await;
    assert!(store.text(CLAIM).is_some());
}

#[tokio::test(start_paused = true)]
async fn anothers_claim_is_said_and_never_written_over() {
    let (store, scene, etcd) = claiming().await;
    store.now(|holds| _ = holds.objects.insert(CLAIM.to_owned(), (1, established(9))));
    let (monitor, mut progress) = (scene.monitor(&etcd.server.url), Progress::default());
    attend(&monitor, &mut progress, MINUTE * 60).await;
    assert_eq!(store.text(CLAIM), Some(established(9)));
    assert_eq!((overheard::count("the claim is for cluster 9"), store.server.count("PUT")), (1, 0));
    assert!(scene.recorder.snapshot().ready);
}

fn release(text: &str) -> Option<Release> {
    Release::parse(text)
}

/// What 3.7.3 may do over the log of 3.5.33: it answers, and ends when it applies it.
#[tokio::test(start_paused = true)]
async fn after_an_upgrade_one_answer_is_not_enough() {
    let (scene, etcd, mut progress) = (Scene::new(), FakeEtcd::start(1).await, Progress::default());
    let monitor = MemberMonitor { installed: release("3.6.16"), ..scene.monitor(&etcd.server.url) };
    scene.acceptor_state.record_releases(Releases { ran: release("3.5.33"), compared: None });
    etcd.after(SECOND / 4, |says| says.unhealthy = Some("gone"));
    attend(&monitor, &mut progress, SECOND / 4 * 3).await;
    assert_eq!((scene.told("READY=1"), scene.recorder.snapshot().ready), (0, false));
    etcd.now(|says| says.unhealthy = None);
    attend(&monitor, &mut progress, SECOND * 10).await;
    assert_eq!((scene.told("READY=1"), scene.recorder.snapshot().ready), (1, true));
    assert_eq!(scene.acceptor_state.releases().ran, release("3.6.16"), "from now on it is the one that ran");
    // The next run of the same release is ready at its first look.
    let looks = etcd.server.count(HEALTH);
    etcd.after(SECOND / 4, |says| says.unhealthy = Some("gone"));
    attend(&monitor, &mut Progress::default(), SECOND / 8).await;
    assert_eq!((scene.told("READY=1"), etcd.server.count(HEALTH)), (1, looks + 1));
}

#[tokio::test(start_paused = true)]
async fn data_that_no_record_names_a_release_for_is_looked_at_twice_and_a_first_start_is_not() {
    let (scene, etcd) = (Scene::new(), FakeEtcd::start(1).await);
    let resumed = MemberMonitor { installed: release("3.6.16"), ..scene.monitor(&etcd.server.url) };
    attend(&resumed, &mut Progress::default(), SECOND / 4).await;
    assert_eq!(scene.told("READY=1"), 0);
    let first = MemberMonitor { is_first_start: true, ..resumed };
    attend(&first, &mut Progress::default(), SECOND / 4).await;
    assert_eq!(scene.told("READY=1"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_vote_on_paper_is_said_once_and_never_ready() {
    let (scene, etcd, mut progress) = (Scene::new(), FakeEtcd::start(1).await, Progress::default());
    let monitor = scene.monitor(&etcd.server.url);
    put_backend(&scene.paths, &[(1, false)], &[1]);
    attend(&monitor, &mut progress, SECOND).await;
    assert_eq!(overheard::count("a learner to raft"), 0, "a promotion may not be in the backend yet");
    attend(&monitor, &mut progress, MINUTE * 5).await;
    let shown = scene.recorder.snapshot();
    assert_eq!((scene.told("READY=1"), shown.ready, shown.kind.as_str()), (0, false, "on_paper"));
    assert_eq!(shown.etcd.role.as_deref(), Some("learner"));
    assert_eq!(overheard::count("member 1 is listed as a voter, but it is a learner to raft"), 1);
    // It was only late.
    put_backend(&scene.paths, &[(1, false)], &[2]);
    attend(&monitor, &mut progress, MINUTE).await;
    assert_eq!((scene.told("READY=1"), scene.recorder.snapshot().ready), (1, true));
}

/// At rest, too: whoever updates a member makes it so at any time.
#[tokio::test(start_paused = true)]
async fn a_vote_that_becomes_one_on_paper_is_ready_no_more() {
    let (scene, etcd, mut progress) = (Scene::new(), FakeEtcd::start(1).await, Progress::default());
    let monitor = scene.monitor(&etcd.server.url);
    put_backend(&scene.paths, &[(1, false)], &[]);
    attend(&monitor, &mut progress, MINUTE).await;
    assert!(scene.recorder.snapshot().ready);
    put_backend(&scene.paths, &[(1, false)], &[1]);
    attend(&monitor, &mut progress, MINUTE * 3).await;
    assert!(!scene.recorder.snapshot().ready);
    assert_eq!(overheard::count("a learner to raft"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_learner_that_is_promoted_is_ready_though_the_backend_is_late() {
    let (scene, etcd, mut progress) = (Scene::new(), FakeEtcd::start(1).await, Progress::default());
    let monitor = scene.monitor(&etcd.server.url);
    put_backend(&scene.paths, &[(1, true)], &[1]);
    etcd.now(|says| says.is_learner = true);
    etcd.after(SECOND * 5, |says| says.is_learner = false);
    attend(&monitor, &mut progress, SECOND * 6 + SECOND / 2).await;
    assert!(scene.recorder.snapshot().ready, "{:?}", overheard::lines());
}

/// On a busy etcd 3.5.1 a promotion took 5 s to answer; it had happened meanwhile.
#[tokio::test(start_paused = true)]
async fn a_promotion_without_an_answer_is_no_vote_on_paper() {
    let (scene, etcd, other) = (Scene::new(), FakeEtcd::start(1).await, FakeEtcd::start(2).await);
    let mut progress = Progress::default();
    let monitor = MemberMonitor { others: vec![other.server.url.clone()], ..scene.monitor(&etcd.server.url) };
    put_backend(&scene.paths, &[(1, true)], &[1]);
    other.now(|says| says.instead = vec![(PROMOTE, Reply::Silence)]);
    etcd.now(|says| (says.is_learner, says.leader) = (true, 2));
    etcd.after(SECOND * 4, |says| says.is_learner = false);
    attend(&monitor, &mut progress, SECOND * 11).await;
    assert!(other.server.count(PROMOTE) >= 1);
    assert!(scene.recorder.snapshot().ready, "{:?}", overheard::lines());
}
