//! The preparation beside scripted etcds and real files, in paused time.

use std::fs;

use super::*;
use crate::daemon::test_support::{FakeEtcd, REFUSING, etcd_client, paths, put_backend, voter};
use crate::etcd::wal::sample;
use crate::net::scripted::Reply;
use crate::util::file::paused_time::stand_still_while_reading;
use crate::util::overheard;
use crate::util::scratch::Scratch;

const MINUTE: Duration = Duration::from_secs(60);
/// Long enough for twenty turns.
const LONG: Duration = Duration::from_secs(600);
const STATUS: &str = "POST /v3/maintenance/status";
const UPDATE: &str = "POST /v3/cluster/member/update";
const VERSION: &str = "GET /version";
/// Entries of the log, its last index in each case.
const LAST: u8 = 20;

/// Three members of 3.5 with equal data, here that of one of them.
struct Scene {
    _scratch: Scratch,
    client: Client,
    paths: Paths,
    etcds: [FakeEtcd; 3],
}

impl Scene {
    /// A log with records that 3.6 can't apply, or without; a backend that has all as voters.
    async fn start(has_old_records: bool) -> Self {
        overheard::listen();
        stand_still_while_reading();
        let scratch = Scratch::make();
        let etcds = [FakeEtcd::start(1).await, FakeEtcd::start(2).await, FakeEtcd::start(3).await];
        let members: Vec<_> = etcds.iter().zip(1..).map(|(etcd, id)| voter(id, &etcd.server.url)).collect();
        for etcd in &etcds {
            etcd.now(|says| (says.release, says.leader, says.members) = ("3.5.33", 2, members.clone()));
        }
        let scene = Self { client: etcd_client(), paths: paths(&scratch), etcds, _scratch: scratch };
        put_backend(&scene.paths, &[(1, false), (2, false), (3, false)], &[]);
        scene.put_log(has_old_records, None);
        scene
    }

    /// The log, and the raft snapshot of that index in it.
    fn put_log(&self, has_old_records: bool, snapshot: Option<u8>) {
        let path = if has_old_records { "/health" } else { "/0/version" };
        let method = if has_old_records { "QGET" } else { "PUT" };
        let mut log = sample::HEAD.to_vec();
        (1..=LAST).for_each(|index| log.extend(sample::request(index, &sample::old(method, path))));
        if let Some(index) = snapshot {
            log.extend(sample::record(5, &[0x08, index, 0x10, 0x01]));
            self.put_snapshot(index);
        }
        fs::create_dir_all(&self.paths.wal).unwrap();
        fs::write(self.paths.wal.join("0000000000000000-0000000000000000.wal"), log).unwrap();
    }

    fn put_snapshot(&self, index: u8) {
        fs::write(self.paths.data.join(format!("member/snap/{:016x}-{index:016x}.snap", 1)), "").unwrap();
    }

    fn of(&self, member: usize) -> Preparation<'_> {
        let url = self.etcds[member - 1].server.url.clone();
        Preparation {
            etcd: &self.client,
            paths: &self.paths,
            release: Release::parse("3.5.33"),
            wanted: None,
            own_client_url: url.clone(),
            own_peer_url: url,
        }
    }

    fn updates(&self) -> Vec<String> {
        let asked = self.etcds.iter().flat_map(|etcd| etcd.server.asked());
        asked.filter(|line| line.starts_with(UPDATE)).collect()
    }
}

/// Whether a restart was due within that time.
async fn is_due(preparation: &Preparation<'_>, within: Duration) -> bool {
    tokio::time::timeout(within, preparation.until_a_restart_is_due()).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_was_wanted_is_waited_for_and_etcd_restarted_after_it() {
    let scene = Scene::start(false).await;
    let wanted = Some(Wanted { count: 19, end: u64::from(LAST) });
    let preparation = Preparation { wanted, ..scene.of(1) };
    assert!(!is_due(&preparation, MINUTE).await, "there is none yet");
    scene.put_snapshot(LAST - 1);
    assert!(!is_due(&preparation, MINUTE).await, "it is not behind all records");
    scene.put_snapshot(LAST);
    scene.put_log(false, Some(LAST - 1));
    assert!(!is_due(&preparation, MINUTE).await, "without the log's record of it etcd never uses the file");
    scene.put_log(false, Some(LAST));
    assert!(is_due(&preparation, SNAPSHOT_POLL).await);
    assert_eq!(overheard::count("etcd has written the raft snapshot"), 1);
    // The run after that wants none.
    assert!(!is_due(&scene.of(1), LONG).await);
    assert_eq!(overheard::lines().len(), 1, "{:?}", overheard::lines());
}

/// With so many entries between two snapshots the setting costs nothing, so the run may go on with it.
#[tokio::test(start_paused = true)]
async fn a_setting_that_costs_nothing_is_no_reason_for_a_restart() {
    let scene = Scene::start(false).await;
    let wanted = Some(Wanted { count: CHEAP_SNAPSHOT_COUNT, end: u64::from(LAST) });
    scene.put_snapshot(LAST);
    assert!(!is_due(&Preparation { wanted, ..scene.of(1) }, LONG).await);
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_missing_nothing_is_done_and_nobody_is_asked_again() {
    let scene = Scene::start(false).await;
    let preparation = scene.of(1);
    // (One run of it: cancelled and begun anew it would ask again.)
    let asked = async {
        clock::pause(MINUTE).await;
        let asked = scene.etcds[0].server.asked().len();
        clock::pause(LONG).await;
        (asked, scene.etcds[0].server.asked().len())
    };
    tokio::select! {
        () = preparation.until_a_restart_is_due() => panic!("a restart for nothing"),
        (before, after) = asked => assert_eq!(before, after),
    }
    assert!(scene.updates().is_empty() && overheard::lines().is_empty(), "{:?}", overheard::lines());
}

/// Until the last member has the release others write such records on.
#[tokio::test(start_paused = true)]
async fn nobody_restarts_before_all_have_the_release() {
    let scene = Scene::start(true).await;
    let older = Reply::ok(r#"{"etcdserver":"3.5.33","etcdcluster":"3.4.0"}"#);
    scene.etcds[0].now(|says| says.instead = vec![(VERSION, older)]);
    assert!(!is_due(&scene.of(1), LONG).await);
    scene.etcds[0].now(|says| says.instead.clear());
    assert!(is_due(&scene.of(1), MINUTE).await);
    assert_eq!(overheard::count("restarting etcd for a raft snapshot while the others are healthy"), 1);
}

#[tokio::test(start_paused = true)]
async fn turns_come_by_rank() {
    let scene = Scene::start(true).await;
    for rank in 1..=3_u32 {
        let began = clock::now();
        assert!(is_due(&scene.of(rank as usize), MINUTE).await);
        let took = clock::now() - began;
        assert!(took >= TURN * rank && took < TURN * (rank + 1), "the turn of member {rank} came after {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_unknown_is_not_ours() {
    let scene = Scene::start(true).await;
    scene.etcds[0].now(|says| says.instead = vec![(STATUS, Reply::status(500))]);
    assert!(!is_due(&scene.of(1), LONG).await);
    scene.etcds[0].now(|says| says.instead.clear());
    assert!(is_due(&scene.of(1), MINUTE).await);
}

#[tokio::test(start_paused = true)]
async fn beside_a_member_that_is_not_healthy_nobody_restarts() {
    let scene = Scene::start(true).await;
    scene.etcds[2].now(|says| says.unhealthy = Some("ALARM NOSPACE"));
    assert!(!is_due(&scene.of(1), LONG).await, "one that says so itself");
    scene.etcds[2].now(|says| says.instead = vec![("", Reply::Silence)]);
    assert!(!is_due(&scene.of(1), LONG).await, "one that does not answer");
    scene.etcds[2].now(|says| (says.unhealthy, says.instead) = (None, Vec::new()));
    let whole = [1, 2, 3].map(|id: u64| voter(id, &scene.etcds[id as usize - 1].server.url)).to_vec();
    let mut refusing = whole.clone();
    refusing[2].client_urls = vec![REFUSING.to_owned()];
    scene.etcds[0].now(|says| says.members = refusing);
    assert!(!is_due(&scene.of(1), LONG).await, "one that is down");
    let mut unstarted = whole.clone();
    unstarted[2].client_urls.clear();
    scene.etcds[0].now(|says| says.members = unstarted);
    assert!(!is_due(&scene.of(1), LONG).await, "one that never started");
    scene.etcds[0].now(|says| says.members = whole);
    assert!(is_due(&scene.of(1), MINUTE).await);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_read_is_neither_clean_nor_a_reason_for_a_restart() {
    let scene = Scene::start(true).await;
    let log = scene.paths.wal.join("0000000000000000-0000000000000000.wal");
    let aside = scene.paths.data.join("aside");
    fs::rename(&log, &aside).unwrap();
    fs::create_dir(&log).unwrap();
    let readable_again = async {
        clock::pause(LONG).await;
        fs::remove_dir(&log).unwrap();
        fs::rename(&aside, &log).unwrap();
    };
    let preparation = scene.of(1);
    let mut due = std::pin::pin!(is_due(&preparation, LONG * 2));
    tokio::select! {
        _ = &mut due => panic!("a restart for a log that nobody has read"),
        () = readable_again => {}
    }
    assert!(due.await, "it is read again");
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_the_backend_forgot_is_stored_again_under_its_own_urls() {
    let scene = Scene::start(false).await;
    put_backend(&scene.paths, &[(1, false), (2, true), (3, false)], &[]);
    assert!(!is_due(&scene.of(1), LONG).await);
    let url = &scene.etcds[1].server.url;
    assert_eq!(scene.updates(), [format!(r#"{UPDATE} {{"ID":"2","peerURLs":["{url}"]}}"#)]);
    assert_eq!(overheard::count("member 2 is a voter, but the data here still lists it as a learner"), 1);
}

/// Up to 3.5.30 an update of a learner makes it a voter on paper, and of a voter mends nothing.
#[tokio::test(start_paused = true)]
async fn no_voter_is_stored_again_before_all_have_a_release_that_can() {
    for old in ["3.5.30", "3.5.1", "main"] {
        let scene = Scene::start(false).await;
        put_backend(&scene.paths, &[(1, false), (2, true), (3, true)], &[]);
        scene.etcds[2].now(|says| says.release = old);
        assert!(!is_due(&scene.of(1), LONG).await);
        assert_eq!(scene.updates(), [""; 0], "{old}");
    }
    let scene = Scene::start(false).await;
    put_backend(&scene.paths, &[(1, false), (2, true), (3, true)], &[]);
    scene.etcds[2].now(|says| says.instead = vec![(VERSION, Reply::Silence)]);
    scene.etcds[2].after(LONG, |says| says.instead.clear());
    assert!(!is_due(&scene.of(1), LONG - MINUTE).await);
    assert_eq!(scene.updates(), [""; 0], "nor while one does not tell");
    assert!(!is_due(&scene.of(1), LONG).await);
    assert_eq!(scene.updates().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_learner_is_never_stored_as_a_voter() {
    let scene = Scene::start(false).await;
    put_backend(&scene.paths, &[(1, false), (2, true), (3, true)], &[3]);
    scene.etcds[0].now(|says| says.members[2].is_learner = true);
    assert!(!is_due(&scene.of(1), LONG).await);
    let updates = scene.updates();
    assert!(updates.len() == 1 && updates[0].contains(r#""ID":"2""#), "{updates:?}");
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_cannot_be_stored_is_said_once_and_tried_again() {
    let scene = Scene::start(false).await;
    put_backend(&scene.paths, &[(1, false), (2, true), (3, false)], &[]);
    let refusal = Reply::Answer(503, r#"{"code":14,"message":"etcdserver: unhealthy cluster"}"#.to_owned());
    scene.etcds[0].now(|says| says.instead = vec![(UPDATE, refusal)]);
    scene.etcds[0].after(LONG, |says| says.instead.clear());
    assert!(!is_due(&scene.of(1), LONG - MINUTE).await);
    let tries = scene.updates().len();
    assert!(tries > 10, "{tries}");
    assert_eq!(overheard::count("member 2 can't be stored as a voter"), 1, "{:?}", overheard::lines());
    assert!(!is_due(&scene.of(1), LONG).await);
    assert_eq!(overheard::count("storing it again"), 1);
    assert!(scene.updates().len() < tries + 10, "not once more after that");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_cannot_be_read_is_read_again() {
    let scene = Scene::start(false).await;
    let file = scene.paths.data.join("member/snap/db");
    fs::write(&file, "torn").unwrap();
    let preparation = scene.of(1);
    let mended = async {
        clock::pause(MINUTE * 5).await;
        assert_eq!(scene.updates(), [""; 0]);
        put_backend(&scene.paths, &[(1, false), (2, true), (3, false)], &[]);
        clock::pause(MINUTE * 5).await;
    };
    tokio::select! {
        () = preparation.until_a_restart_is_due() => panic!("a restart for nothing"),
        () = mended => {}
    }
    assert_eq!(scene.updates().len(), 1);
}
