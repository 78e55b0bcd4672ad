//! Whatever comes in at the roll call, over an in-memory stream, with a real ledger on disk. The answer is 200, 400, 404 or 503 (or
//! hyper's own 414 and 431), never 403 or 410, which stop live etcds, and never silence. The ledger only ever holds what the
//! protocol allows: a promise is never taken back, nothing changes but by a call of our own charter (or one that tells of a chosen
//! list), a choice that stands isn't replaced, and what is answered from is on disk.
//!
//! The input is callers' requests, one a connection, with a line `%%` between them.
#![cfg_attr(fuzzing, no_main)]

use std::path::PathBuf;
use std::time::Duration;

use etcd_muster::core::paxos::{Accepted, AcceptorContext, Answer, Ballot, Call, Charter, Ledger};
use etcd_muster::core::types::{Instance, InstanceId, InstanceState, Known, ListedMember, Roster};
use etcd_muster::core::view::{Clean, DataDir, Policy};
use etcd_muster::peer::server::{AcceptorState, converse};
use etcd_muster::state::store::Store;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

// A crate of its own when it is fuzzed; when its seeds are replayed, beside the other targets.
#[cfg(fuzzing)]
#[path = "../../tests/common/mod.rs"]
mod common;
#[cfg(not(fuzzing))]
use crate::common;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| holds(data));

/// Callers of one world; a founding takes no more.
const MAX_CALLERS: usize = 8;
/// In memory an answer takes no time: the server needs some turns of the runtime,
const IDLE_TURNS: u32 = 200;
/// and a caller that waits so long waits for ever.
const SILENCE: Duration = Duration::from_secs(2);

pub fn holds(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let world = World::new();
    for request in split(data).into_iter().take(MAX_CALLERS) {
        let before = world.desk.ledger();
        let answer = runtime.block_on(call(&world.desk, request));
        judge(request, &answer);
        world.judge(request, &before, &world.desk.ledger());
        kept(request, &answer, &world.desk.ledger());
    }
}

/// Three instances, `i-a` being us and `i-c` terminated.
struct World {
    dir: PathBuf,
    desk: AcceptorState,
    standing: AcceptorContext,
}

impl World {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("etcd-muster-fuzz-{:016x}", etcd_muster::util::clock::random()));
        let listed = ListedMember {
            instance: InstanceId("i-a".to_owned()),
            name: "i-a".to_owned(),
            peer_urls: vec!["http://10.0.0.1:2380".to_owned()],
        };
        let desk = AcceptorState::new(Store::open(&dir).expect("a store"), listed.clone(), false);
        let roster = Roster::new(
            [
                ("i-a", 1, InstanceState::Running),
                ("i-b", 2, InstanceState::Running),
                ("i-c", 3, InstanceState::Terminated),
            ]
            .into_iter()
            .map(|(id, launched, state)| instance(id, launched, state))
            .collect(),
            60,
        );
        let policy = policy();
        desk.set_context(Some(&roster), &policy, &DataDir::Fresh);
        let mut view = common::view('a', "ab");
        (view.me.listed, view.roster) = (listed, Known::Known(roster));
        for peer in view.peers.values_mut() {
            let other = peer.listed.iter_mut().flat_map(|listed| &mut listed.peer_urls);
            other.for_each(|url| *url = "http://10.0.0.2:2380".to_owned());
        }
        desk.set_known_peers(&policy, &view);
        Self { dir, desk, standing: view.acceptor_context(&policy) }
    }

    fn judge(&self, request: &[u8], before: &Ledger, after: &Ledger) {
        assert_eq!(Store::peek(&self.dir).expect("a ledger").as_ref(), Some(after), "what is answered from is on disk");
        assert!(before.promised <= after.promised, "a promise was taken back");
        if let (Some(was), Some(is)) = (&before.accepted, &after.accepted) {
            assert!(was.ballot <= is.ballot, "an older list was accepted");
        }
        assert!(before.accepted.is_none() || after.accepted.is_some(), "an acceptance was taken back");
        if let Some(choice) = before.valid_choice(&self.standing) {
            assert_eq!(after.chosen.as_ref(), Some(choice), "a choice that stands was replaced");
        }
        if before == after {
            return;
        }
        let call = call_in(request).expect("only a call changes anything");
        let is_ours = |charter: &Charter| Some(charter) == self.standing.charter.as_ref();
        let mut expected = before.clone();
        match call {
            Call::Prepare { charter, ballot } => {
                assert!(is_ours(&charter));
                promise(&mut expected, ballot);
            }
            Call::Accept { charter, ballot, list } if after.accepted != before.accepted => {
                assert!(is_ours(&charter) && list.fault().is_none());
                promise(&mut expected, ballot.clone());
                if let Some(was) = before.accepted.as_ref().filter(|was| was.list != list) {
                    expected.renounce(&was.list);
                }
                expected.accepted = Some(Accepted { ballot, list });
            }
            // A void one may be told, too: it doesn't stand.
            Call::Chosen { list, .. } if after.chosen != before.chosen => {
                assert!(list.fault().is_none() && list.holds(&self.standing.me));
                expected.chosen = Some(list);
            }
            // It has us otherwise than we are.
            Call::Accept { list, .. } | Call::Chosen { list, .. } => expected.renounce(&list),
        }
        assert_eq!(*after, expected, "a call changes what it is for, and nothing else");
    }
}

/// What was chosen before doesn't stand, or no promise were given.
fn promise(ledger: &mut Ledger, ballot: Ballot) {
    if let Some(void) = ledger.chosen.take() {
        ledger.renounce(&void);
    }
    ledger.promised = Some(ballot);
}

impl Drop for World {
    #[expect(clippy::disallowed_methods, reason = "made by this test")]
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn instance(id: &str, launched: i64, state: InstanceState) -> Instance {
    let id = InstanceId(id.to_owned());
    Instance {
        id,
        state,
        launched: Some(launched),
        attached: None,
        changed: None,
        address: None,
        private_dns: None,
        zone: String::new(),
    }
}

fn policy() -> Policy {
    Policy {
        cluster_size: Some(2),
        min_nodes: 2,
        found_grace: Duration::from_secs(60),
        found_window: Duration::from_secs(900),
        found_absent: false,
        found_alone: false,
        clean: Clean::Gone,
        clean_dwell: Duration::from_secs(30),
        adopt: None,
        max_learners: 1,
        join_newer: false,
        token_prefix: "t".to_owned(),
        claim: None,
        join: Vec::new(),
        seed: None,
        snapshots: Vec::new(),
        written: false,
        filter: "etcd=1".to_owned(),
    }
}

/// The call in a request's body, read apart from the server.
fn call_in(request: &[u8]) -> Option<Call> {
    let brace = request.iter().position(|byte| *byte == b'{')?;
    let mut documents = serde_json::Deserializer::from_slice(&request[brace..]).into_iter::<serde_json::Value>();
    serde_json::from_value(documents.next()?.ok()?.get("call")?.clone()).ok()
}

/// What a caller is answered who waits for it.
async fn call(desk: &AcceptorState, request: &[u8]) -> Vec<u8> {
    let (mut caller, server) = tokio::io::duplex(1 << 20);
    let serving = tokio::spawn(converse(server, desk.clone(), None));
    caller.write_all(request).await.expect("a buffer that holds it");
    let mut answer = Vec::new();
    loop {
        // A caller that hangs up early isn't answered: so it does that only when nobody has anything left to do.
        let idle = async {
            for _ in 0..IDLE_TURNS {
                tokio::task::yield_now().await;
            }
        };
        let read = tokio::select! {
            biased;
            read = caller.read_buf(&mut answer) => Some(read.expect("an answer")),
            () = idle => None,
        };
        match read {
            Some(0) => break,
            Some(_) => {}
            None => {
                assert!(!answer.is_empty() || !is_whole(request), "silence");
                caller.shutdown().await.expect("an end");
                let heard = tokio::time::timeout(SILENCE, caller.read_to_end(&mut answer)).await;
                heard.expect("a connection that is kept for nothing").expect("an answer");
                break;
            }
        }
    }
    drop(caller);
    serving.await.expect("no panic");
    answer
}

/// Nothing more than this is needed to answer it: its head has an end, and it announces no body.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let starts = request.first().is_some_and(|first| !first.is_ascii_whitespace());
    // HTTP/2's preface is met by closing the connection.
    starts
        && text.contains("\r\n\r\n")
        && !text.contains("-length")
        && !text.contains("-encoding")
        && !text.starts_with("pri ")
}

/// What was answered is on record.
fn kept(request: &[u8], answer: &[u8], ledger: &Ledger) {
    let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return };
    match (serde_json::from_slice(&answer[head + 4..]), call_in(request)) {
        (Ok(Answer::Promised { .. }), Some(Call::Prepare { ballot, .. })) => {
            assert_eq!(ledger.promised, Some(ballot), "a promise was given and not kept");
        }
        (Ok(Answer::Accepted), Some(Call::Accept { ballot, list, .. })) => {
            assert_eq!(ledger.accepted, Some(Accepted { ballot, list }), "an acceptance was given and not kept");
        }
        (Ok(Answer::Promised { .. } | Answer::Accepted), call) => panic!("{call:?} was answered so"),
        (Ok(Answer::Chosen { list }), _) => assert_eq!(ledger.chosen, Some(list), "a choice was told and not kept"),
        _ => {}
    }
}

fn judge(request: &[u8], answer: &[u8]) {
    // A caller that waits for a go-ahead has that before its answer.
    let answer = answer.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(answer);
    if answer.is_empty() {
        return;
    }
    let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5)).map(String::from_utf8_lossy);
    let status = status.unwrap_or_default();
    let may = ["200", "400", "404", "503", "414", "431"];
    assert!(may.contains(&status.as_ref()), "{} to {}", status, String::from_utf8_lossy(request));
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
