//! Whatever listens on a member's ports, through the real client over loopback: no panic, and nothing is seen that wasn't said. A
//! peer is fresh only if it says that it has no data, an etcd has a quorum only if it gave its cluster's id and members in answer to
//! the question that takes one; and whatever was said, a decision follows from it.
//!
//! The first byte chooses what is asked; after it come the answers, with a line `%%` between them, one for each connection.
#![cfg_attr(fuzzing, no_main)]

// A crate of its own when it is fuzzed; when its seeds are replayed, beside the other targets.
#[cfg(fuzzing)]
#[path = "../../tests/common/mod.rs"]
mod common;
#[cfg(not(fuzzing))]
use crate::common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use etcd_muster::core::decide::decide;
use etcd_muster::core::view::{EtcdSeen, PeerState, Quorum};
use etcd_muster::daemon::probe::Probe;
use etcd_muster::etcd::client::Health;
use etcd_muster::peer::clients::PeerClients;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| holds(data));

/// Everything is on this machine, and an answer that ends early ends its connection.
const WITHIN: Duration = Duration::from_secs(5);

struct Scene {
    runtime: Runtime,
    listener: TcpListener,
    url: String,
    clients: PeerClients,
}

thread_local! {
    static SCENE: Scene = Scene::new();
}

impl Scene {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let plain = BTreeMap::from([("ED_SSL".to_owned(), "/nonexistent".to_owned())]);
        let config = etcd_muster::config::read(&plain).expect("the defaults");
        Self { runtime, listener, url, clients: PeerClients::new(&config.etcd, None) }
    }

    /// Runs that work while these are the answers; with the paths that were asked for.
    fn answering<T>(&self, answers: &[&[u8]], work: impl Future<Output = T>) -> (T, Vec<String>) {
        let asked = RefCell::default();
        let done = self.runtime.block_on(async {
            tokio::select! {
                done = work => done,
                () = serve(&self.listener, answers, &asked) => unreachable!("it serves for ever"),
            }
        });
        (done, asked.into_inner())
    }
}

async fn serve(listener: &TcpListener, answers: &[&[u8]], asked: &RefCell<Vec<String>>) {
    let mut open: Vec<TcpStream> = Vec::new();
    for n in 0.. {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = vec![0; 4096];
        let read = stream.read(&mut request).await.unwrap_or(0);
        let request = String::from_utf8_lossy(&request[..read]);
        asked.borrow_mut().push(request.split(' ').nth(1).unwrap_or_default().to_owned());
        // The client may have heard enough before the end.
        _ = stream.write_all(answers.get(n).copied().unwrap_or_default()).await;
        _ = stream.shutdown().await;
        // Dropped now, what it hasn't read would reset the connection.
        open.push(stream);
    }
}

pub fn holds(data: &[u8]) {
    let Some((what, rest)) = data.split_first() else { return };
    let answers = split(rest);
    SCENE.with(|scene| match what % 3 {
        0 => observe(scene, &answers),
        1 => ask(scene, answers[0]),
        _ => watch(scene, answers[0]),
    });
}

fn split(data: &[u8]) -> Vec<&[u8]> {
    const MARK: &[u8] = b"\n%%\n";
    let (mut parts, mut rest) = (Vec::new(), data);
    while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
        parts.push(&rest[..at]);
        rest = &rest[at + MARK.len()..];
    }
    parts.push(rest);
    parts
}

fn observe(scene: &Scene, answers: &[&[u8]]) {
    let url = || scene.url.clone();
    let probe =
        Probe { clients: scene.clients.clone(), peer_url: url(), client_url: url(), from: None, timeout: WITHIN };
    let (sighting, asked) = scene.answering(answers, probe.observe());
    let last = asked.len() - 1;
    let said = || said(scene, answers[last]);
    match &sighting {
        PeerState::Fresh(_) => assert_eq!((last, &said()["has_data"]), (0, &Value::Bool(false))),
        PeerState::HasData(_) => assert_eq!((last, &said()["has_data"]), (0, &Value::Bool(true))),
        PeerState::Etcd(EtcdSeen { cluster, members, quorum: Quorum::Proven, .. }) => {
            assert_eq!(asked[last], "/v3/cluster/member/list");
            let said = said();
            assert_eq!(number(&said["header"]["cluster_id"]), Some(cluster.0), "its cluster");
            assert!(cluster.0 != 0 && !members.is_empty(), "a cluster without an id or without members");
            assert_eq!(said["members"].as_array().map(Vec::len), Some(members.len()));
        }
        PeerState::Etcd(EtcdSeen { members, .. }) => {
            assert_eq!(asked[last], "/members");
            assert_eq!(said().as_array().map(Vec::len), Some(members.len()));
        }
        PeerState::Refused => panic!("somebody listens"),
        PeerState::Silent(_) | PeerState::Mismatch(_) => {}
    }
    consequences(sighting);
}

/// To a fresh node, to one with the claim asked for, and whatever we have promised before.
fn consequences(sighting: PeerState) {
    let policy = common::policy(Some(2));
    let mut view = common::view('a', "ab");
    if let (PeerState::Fresh(fresh), Some(roster)) = (&sighting, view.roster.known()) {
        // Had they our charter, we would go by their ballots and lists.
        let charter = Some(policy.charter(roster));
        let fresh = etcd_muster::core::view::FreshSeen { charter, ..fresh.clone() };
        common::says(&mut view, 'b', PeerState::Fresh(fresh), Duration::ZERO);
        _ = decide(&policy, &view).to_string();
    }
    common::says(&mut view, 'b', sighting, Duration::ZERO);
    _ = decide(&policy, &view).to_string();
}

/// What that answer says, read without our types.
fn said(scene: &Scene, answer: &[u8]) -> Value {
    let request = hyper_request(&scene.url);
    let (answer, _) = scene.answering(&[answer], scene.clients.rollcall.fetch(request, WITHIN));
    // In what our types leave out there may be anything, also what is no text.
    serde_json::from_str(&String::from_utf8_lossy(answer.expect("it was read before").body())).unwrap_or_default()
}

fn hyper_request(url: &str) -> etcd_muster::net::http::Outgoing {
    hyper::Request::get(url).body(Default::default()).expect("a request")
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// What an attendant asks of its own etcd.
fn ask(scene: &Scene, answer: &[u8]) {
    let etcd = &scene.clients.etcd;
    if let Ok(status) = scene.answering(&[answer], etcd.status(&scene.url, WITHIN)).0 {
        let said = said(scene, answer);
        assert_eq!(number(&said["header"]["member_id"]), Some(status.member.0), "its member");
        assert!(status.member.0 != 0 && status.cluster.0 != 0, "nobody's status");
        assert_eq!(status.leader.map(|id| id.0), number(&said["leader"]).filter(|id| *id != 0));
    }
    if let Ok(Health::Healthy) = scene.answering(&[answer], etcd.health(&scene.url, WITHIN)).0 {
        assert_eq!(said(scene, answer)["health"], "true");
    }
}

/// What commands ask, and what changes members.
fn watch(scene: &Scene, answer: &[u8]) {
    let etcd = &scene.clients.etcd;
    let alarms = scene.answering(&[answer], etcd.alarms(&scene.url, WITHIN)).0;
    if alarms.is_ok_and(|alarms| !alarms.is_empty()) {
        assert!(said(scene, answer)["alarms"].is_array());
    }
    let urls = ["http://10.0.0.9:2380".to_owned()];
    if let Ok(id) = scene.answering(&[answer], etcd.member_add_learner(&scene.url, &urls, WITHIN)).0 {
        let member = &said(scene, answer)["member"];
        assert_eq!(number(&member["ID"]).or_else(|| number(&member["id"])), Some(id.0), "whom we added");
    }
}
