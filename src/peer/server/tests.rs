//! The port itself, asked as other supervisors ask it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::config;
use crate::core::paxos::{Ballot, Call, Charter};
use crate::core::types::{Instance, InstanceState};
use crate::net::http::{Client, Failure};
use crate::net::tls::Trust;
use crate::peer::client::{Answered, call, hello};
use crate::util::scratch::Scratch;

const TIMEOUT: Duration = Duration::from_secs(60);

fn id(name: &str) -> InstanceId {
    InstanceId(name.to_owned())
}

/// The acceptor of i-a, in a roster of it alone; what is on its disk, and a port of its own.
struct Scene {
    scratch: Scratch,
    acceptor_state: AcceptorState,
    charter: Charter,
    address: SocketAddr,
    serving: Serving,
}

impl Scene {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    async fn with(settings: &[(&str, &str)]) -> Self {
        let scratch = Scratch::make();
        let peer_urls = vec!["http://10.0.0.1:2380".to_owned()];
        let listed = ListedMember { instance: id("i-a"), name: "i-a".to_owned(), peer_urls };
        let acceptor_state = AcceptorState::new(Store::open(scratch.path()).unwrap(), listed, false);
        let instance = Instance {
            id: id("i-a"),
            state: InstanceState::Running,
            launched: Some(1),
            attached: None,
            changed: None,
            address: Some([10, 0, 0, 1].into()),
            private_dns: None,
            zone: "z".to_owned(),
        };
        let roster = Roster::new(vec![instance], 1);
        let given = [("ED_SSL", "/nonexistent")].into_iter().chain(settings.iter().copied());
        let env = given.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let policy = config::read(&env).unwrap().policy();
        acceptor_state.set_context(Some(&roster), &policy, &DataDir::Fresh);
        let (address, serving) = loop {
            let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            // Somebody else may have taken it in between.
            if let Ok(serving) = serve(&acceptor_state, &[address], None).await {
                break (address, serving);
            }
        };
        Self { charter: policy.charter(&roster), scratch, acceptor_state, address, serving }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn on_disk(&self) -> Ledger {
        Store::peek(self.scratch.path()).unwrap().unwrap()
    }

    async fn call(&self, question: &Call) -> Result<Answer, crate::net::http::Error> {
        call(&client(), &self.url(), &id("i-b"), question, TIMEOUT).await
    }

    fn prepare(&self, round: u64) -> Call {
        Call::Prepare { charter: self.charter.clone(), ballot: ballot(round) }
    }

    async fn hello(&self, from: Option<&str>) -> Hello {
        let from = from.map(id);
        match hello(&client(), &self.url(), from.as_ref(), TIMEOUT).await.unwrap() {
            Answered::Hello(hello) => *hello,
            Answered::Other => panic!("no supervisor"),
        }
    }

    /// The status line of the answer to these bytes.
    async fn status(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // It may close on a body that it doesn't want.
        let _closed = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
    }
}

fn client() -> Client {
    Client::new(Trust::public(None))
}

fn ballot(round: u64) -> Ballot {
    Ballot { round, proposer: id("i-b"), nonce: 7 }
}

#[tokio::test]
async fn a_promise_and_an_acceptance_are_on_disk_when_they_are_answered() {
    let scene = Scene::start().await;
    assert_eq!(scene.call(&scene.prepare(1)).await.unwrap(), Answer::Promised { accepted: None });
    assert_eq!(scene.on_disk().promised, Some(ballot(1)));
    let first = ListedMember {
        instance: id("i-a"),
        name: "i-a".to_owned(),
        peer_urls: vec!["http://10.0.0.1:2380".to_owned()],
    };
    let list = InitialList::empty(vec![first], "etcd-muster-1".to_owned());
    let accept = Call::Accept { charter: scene.charter.clone(), ballot: ballot(1), list: list.clone() };
    assert_eq!(scene.call(&accept).await.unwrap(), Answer::Accepted);
    assert_eq!(scene.on_disk().accepted.unwrap().list, list);
    let chosen = Call::Chosen { charter: Some(scene.charter.clone()), list: list.clone() };
    assert_eq!(scene.call(&chosen).await.unwrap(), Answer::Chosen { list: list.clone() });
    assert_eq!(scene.on_disk().chosen, Some(list.clone()));
    assert_eq!(scene.hello(None).await.chosen, Some(list));
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_answered_and_not_promised() {
    let scene = Scene::start().await;
    let (dir, away) = (scene.scratch.path().join("muster"), scene.scratch.path().join("away"));
    let rename = |from: &Path, to: &Path| fs::rename(from, to).unwrap();
    rename(&dir, &away);
    let error = scene.call(&scene.prepare(1)).await.unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
    assert_eq!((scene.acceptor_state.ledger().promised, scene.hello(None).await.promised), (None, None));
    rename(&away, &dir);
    assert_eq!(scene.call(&scene.prepare(1)).await.unwrap(), Answer::Promised { accepted: None });
}

#[tokio::test]
async fn a_strangers_charter_changes_nothing() {
    let scene = Scene::start().await;
    let before = scene.on_disk();
    let strangers = [
        Charter { first: vec![(id("i-a"), Some(2))], ..scene.charter.clone() },
        Charter { token_prefix: "another".to_owned(), ..scene.charter.clone() },
        Charter { claim: Some("s3://bucket/claim.json".to_owned()), ..scene.charter.clone() },
    ];
    for charter in strangers {
        let question = Call::Prepare { charter, ballot: ballot(1) };
        let theirs = Some(scene.charter.clone());
        assert_eq!(scene.call(&question).await.unwrap(), Answer::DifferentRoster { theirs });
    }
    assert_eq!((scene.on_disk(), scene.acceptor_state.ledger()), (before.clone(), before));
}

#[tokio::test]
async fn who_is_to_join_another_cluster_promises_and_accepts_nothing() {
    let scene = Scene::with(&[("MUSTER_JOIN", "http://old:2379")]).await;
    let before = scene.on_disk();
    let list = InitialList::empty(vec![scene.hello(None).await.listed], "etcd-muster-1".to_owned());
    let (charter, nobody) = (scene.charter.clone(), Answer::DifferentRoster { theirs: None });
    let accept = Call::Accept { charter: charter.clone(), ballot: ballot(1), list: list.clone() };
    let chosen = Call::Chosen { charter: Some(charter), list };
    for question in [scene.prepare(1), accept, chosen] {
        assert_eq!(scene.call(&question).await.unwrap(), nobody);
    }
    assert_eq!((scene.hello(None).await.charter, scene.on_disk()), (None, before));
}

#[tokio::test]
async fn beside_data_nothing_is_promised_and_hello_says_so() {
    let scene = Scene::start().await;
    scene.acceptor_state.set_has_data(true);
    assert_eq!(scene.call(&scene.prepare(1)).await.unwrap(), Answer::HasData);
    assert!(scene.hello(None).await.has_data);
    assert_eq!(scene.on_disk().promised, None);
}

#[tokio::test]
async fn a_call_beyond_bounds_or_sense_is_refused_and_the_next_one_answered() {
    let scene = Scene::start().await;
    let post = |body: &str| {
        format!("POST /muster/v1/call HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    let envelope = Envelope { from: id("i-b"), call: scene.prepare(1) };
    let fits = serde_json::to_string(&envelope).unwrap();
    let padded = |to: usize| post(&format!("{fits}{}", " ".repeat(to - fits.len())));
    assert_eq!(scene.status(padded(MAX_CALL_BYTES + 1).as_bytes()).await, "HTTP/1.1 400 Bad Request");
    for senseless in ["", "{}", "[1", r#"{"from": "i-b", "call": {"Vow": {}}}"#] {
        assert_eq!(scene.status(post(senseless).as_bytes()).await, "HTTP/1.1 400 Bad Request", "{senseless}");
    }
    assert_eq!(scene.on_disk().promised, None);
    assert_eq!(scene.status(padded(MAX_CALL_BYTES).as_bytes()).await, "HTTP/1.1 200 OK");
    assert_eq!(scene.on_disk().promised, Some(ballot(1)));
}

/// 403 and 410 would stop live etcds, and silence would hold up others.
#[tokio::test]
async fn whatever_is_not_ours_is_answered_with_404() {
    let scene = Scene::start().await;
    for line in ["GET /version", "GET /members", "GET /raft/stream/message/1", "POST /raft", "PUT /muster/v1/hello"] {
        let request = format!("{line} HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(scene.status(request.as_bytes()).await, "HTTP/1.1 404 Not Found", "{line}");
    }
}

#[tokio::test]
async fn who_calls_is_noticed_once_and_strangers_are_counted() {
    let scene = Scene::start().await;
    let state = &scene.acceptor_state;
    scene.hello(None).await;
    assert!(state.drain_new_callers().is_empty(), "as `plan` asks");
    for from in ["i-b", "i-b", "i-c"] {
        scene.hello(Some(from)).await;
    }
    tokio::time::timeout(TIMEOUT, state.woken()).await.unwrap();
    assert_eq!(state.drain_new_callers(), BTreeSet::from([id("i-b"), id("i-c")]));
    scene.hello(Some("i-b")).await;
    assert!(state.drain_new_callers().is_empty(), "no news until a look has missed him");
    for made_up in ["", "a b", "i-ä", &"x".repeat(MAX_NAME_BYTES + 1)] {
        note_caller(state, Some(made_up));
    }
    assert!(state.drain_new_callers().is_empty());
    for n in 0..MAX_STRANGERS * 2 {
        note_caller(state, Some(&format!("made-up-{n}")));
    }
    assert_eq!(state.drain_new_callers().len(), MAX_STRANGERS - 2, "two have called before");
    note_caller(state, Some("i-a"));
    assert_eq!(state.drain_new_callers(), BTreeSet::from([id("i-a")]), "one of the roster gets through");
}

/// etcd binds it next.
#[tokio::test]
async fn a_port_that_is_closed_can_be_bound_at_once_whoever_is_connected() {
    let scene = Scene::start().await;
    let mut idle = TcpStream::connect(scene.address).await.unwrap();
    let mut midway = TcpStream::connect(scene.address).await.unwrap();
    midway.write_all(b"POST /muster/v1/call HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    scene.hello(None).await;
    let Scene { serving, address, acceptor_state, scratch: _scratch, .. } = scene;
    serving.close().await;
    let refused = hello(&client(), &format!("http://{address}"), None, TIMEOUT).await.unwrap_err();
    assert_eq!(refused.failure, Failure::Refused);
    let taken_back = serve(&acceptor_state, &[address], None).await.unwrap();
    let mut rest = Vec::new();
    for stream in [&mut idle, &mut midway] {
        // Closed, with a reset or without.
        let ended = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok() && rest.is_empty());
    }
    drop(taken_back);
}

/// The place is read in the first observation; who calls before that is not told that there is nothing.
#[tokio::test]
async fn before_the_first_look_at_the_snapshots_no_list_is_accepted() {
    for settings in [("MUSTER_SNAPSHOTS", "file:/b"), ("MUSTER_SEED", "file:/b")] {
        let scene = Scene::start().await;
        let policy = config::read(&BTreeMap::from([settings].map(|(name, value)| (name.to_owned(), value.to_owned()))));
        scene.acceptor_state.set_context(None, &policy.unwrap().policy(), &DataDir::Fresh);
        let first = ListedMember {
            instance: id("i-a"),
            name: "i-a".to_owned(),
            peer_urls: vec!["http://10.0.0.1:2380".to_owned()],
        };
        let list = InitialList::empty(vec![first], "etcd-muster-1".to_owned());
        let accept = Call::Accept { charter: scene.charter.clone(), ballot: ballot(1), list };
        let said = scene.call(&accept).await.unwrap();
        assert!(matches!(&said, Answer::Unfit { why } if why.contains("empty cluster")), "{said:?}");
        assert_eq!(scene.on_disk().accepted, None);
    }
}
