//! Answering other supervisors.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{CALL_PATH, Envelope, FROM_HEADER, HELLO_PATH, Hello};
use crate::core::paxos::{self, AcceptorContext, Answer, Ledger};
use crate::core::types::{ClusterId, InitialList, InstanceId, Known, ListedMember, MemberId, Roster};
use crate::core::view::{DataDir, LogEnd, Peer, PeerState, Policy, Told, View};
use crate::net::http::Stream;
use crate::net::serve::{self, Answering, Listener, Room};
use crate::net::tls::Acceptor;
use crate::state::store::{self, Identity, Store};
use crate::util::file;

/// A list of a hundred members is some 20 KB, a written roster of a thousand hosts in a charter some 60 KB.
const MAX_CALL_BYTES: usize = 128 << 10;
/// A fleet of a hundred asks at once, from an address each. One address has half: of six hundred connections a second that idle, each then
/// lasts a fifth of a second, in which whoever shares that address, by a NAT say, has asked its question.
const ROOM: Room = Room { in_all: 256, of_one_address: 128 };
/// Callers that aren't in the roster and are kept until the daemon asks for them: they are no more than a hint to look.
const MAX_STRANGERS: usize = 256;
/// EC2's ids have 19 bytes, a host's name in a written roster seldom more than this.
const MAX_NAME_BYTES: usize = 64;

/// What the answers rest on; shared by the server and the daemon. All changes are synchronous and durable before they are
/// answered.
#[derive(Clone, Debug)]
pub struct AcceptorState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    stirred: Notify,
}

#[derive(Debug)]
struct State {
    store: Store,
    standing: AcceptorContext,
    listed: ListedMember,
    /// What our data is of, where known.
    data: Option<(ClusterId, Option<MemberId>)>,
    /// Those whose calls are no news.
    seen: BTreeSet<InstanceId>,
    callers: BTreeSet<InstanceId>,
    /// How many of those who have called since the last look aren't among the first of the roster.
    strangers: usize,
}

impl AcceptorState {
    /// The acceptor over that store; it knows no roster yet, only whether there is data.
    pub fn new(store: Store, listed: ListedMember, has_data: bool) -> Self {
        let me = listed.instance.clone();
        let listings = BTreeMap::from([(me.clone(), BTreeSet::from([listed.clone()]))]);
        let standing = AcceptorContext { me, has_data, listings, ..AcceptorContext::default() };
        let state = State {
            store,
            standing,
            listed,
            data: None,
            seen: BTreeSet::new(),
            callers: BTreeSet::new(),
            strangers: 0,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), stirred: Notify::new() }))
    }

    /// What an answer rests on from now on. With EC2 out of sight the last roster's word stands.
    pub fn standing_is(&self, roster: Option<&Roster>, policy: &Policy, data: &DataDir) {
        let mut state = self.state();
        if let Some(roster) = roster {
            state.standing.charter = Some(policy.charter(roster));
            state.standing.terminated = roster.terminated().map(|i| i.id.clone()).collect();
        }
        state.standing.has_data = *data != DataDir::Fresh;
        state.data = match data {
            DataDir::Whole { ids: Known::Known((cluster, member)) } => Some((*cluster, Some(*member))),
            _ => None,
        };
    }

    /// Data or none, before the first look has said more: a WAL that etcd has made since the last look forbids promises.
    pub fn has_data_is(&self, has_data: bool) {
        self.state().standing.has_data = has_data;
    }

    /// What the last look saw: how each instance may be listed, and what it will never start by. A call from whoever didn't answer
    /// it is news.
    pub fn saw(&self, view: &View) {
        let answered = |p: &Peer| !matches!(p.sighting, PeerState::Refused | PeerState::Silent(_));
        let mut state = self.state();
        state.seen = view.peers.iter().filter(|(_, p)| answered(p)).map(|(id, _)| id.clone()).collect();
        state.strangers = 0;
        (state.standing.listings, state.standing.renounced) = (view.listings(), view.renounced());
    }

    /// Who has called since this was last asked.
    pub fn take_callers(&self) -> BTreeSet<InstanceId> {
        std::mem::take(&mut self.state().callers)
    }

    /// The ledger as it is on disk.
    pub fn ledger(&self) -> Ledger {
        self.state().store.ledger().clone()
    }

    /// Changes the ledger, durably.
    ///
    /// # Errors
    /// The disk's; the old ledger stands.
    pub fn amend(&self, change: impl FnOnce(&mut Ledger)) -> Result<(), store::Error> {
        let mut state = self.state();
        let mut next = state.store.ledger().clone();
        change(&mut next);
        if next == *state.store.ledger() {
            return Ok(());
        }
        state.store.save(next)
    }

    /// Settles whose the ledger is, now that there is data or none.
    ///
    /// # Errors
    /// The disk's.
    pub fn bind(&self, me: &Identity, has_data: bool) -> Result<(), store::Error> {
        self.state().store.bind(me, has_data)
    }

    /// Runs something that needs the store.
    pub fn with_store<T>(&self, work: impl FnOnce(&Store) -> T) -> T {
        work(&self.state().store)
    }

    /// Answers a call as the acceptor, ours or another's.
    ///
    /// # Errors
    /// The disk's: then nothing was promised, and nothing may be answered.
    pub fn answer(&self, call: &paxos::Call) -> Result<Answer, store::Error> {
        let mut state = self.state();
        let (answer, next) = paxos::answer(state.store.ledger(), &state.standing, call);
        if let Some(next) = next {
            state.store.save(next)?;
        }
        Ok(answer)
    }

    /// Records a chosen list that was learnt by looking.
    ///
    /// # Errors
    /// The disk's.
    pub fn learn(&self, list: &InitialList) -> Result<(), store::Error> {
        let mut state = self.state();
        match paxos::learn(state.store.ledger(), &state.standing, list).1 {
            Some(next) => state.store.save(next),
            None => Ok(()),
        }
    }

    /// How far another member's log was seen to go.
    pub fn saw_logs(&self, cluster: ClusterId, logs: &BTreeMap<MemberId, LogEnd>) {
        let mut state = self.state();
        let write = state.store.note_logs(cluster, logs);
        aside(&state.store, write);
    }

    /// How far our own log went, by another's word.
    pub fn is_told(&self, told: Told) {
        let mut state = self.state();
        let write = state.store.note_told(told);
        aside(&state.store, write);
    }

    /// Resolves when somebody moved: a peer not seen before called, or a call changed something. Cancel-safe.
    pub async fn stirred(&self) {
        self.0.stirred.notified().await;
    }

    fn hello(&self) -> Hello {
        let state = self.state();
        let ledger = state.store.ledger();
        Hello {
            listed: state.listed.clone(),
            has_data: state.standing.has_data,
            cluster: state.data.map(|(cluster, _)| cluster),
            member: state.data.and_then(|(_, member)| member),
            logs: state.data.map_or_else(Vec::new, |(cluster, _)| state.store.logs_of(cluster)),
            renounced: ledger.renounced.clone(),
            charter: state.standing.charter.clone(),
            promised: ledger.promised.clone(),
            chosen: ledger.valid_choice(&state.standing).cloned(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Beside the main thread, and without waiting for it.
fn aside(store: &Store, write: Option<impl FnOnce() + Send + 'static>) {
    if let Some(write) = write
        && let Err(error) = file::begin(store.dir(), write)
    {
        log::debug!("{error}");
    }
}

/// A listening roll call; dropped, it frees the port at once, with every connection.
#[derive(Debug)]
pub struct Serving(JoinSet<()>);

impl Serving {
    /// Waits until the sockets are closed, so that etcd can bind.
    pub async fn close(mut self) {
        self.0.shutdown().await;
    }
}

/// Listens on these addresses.
///
/// # Errors
/// The address that can't be bound, by name.
pub async fn serve(
    acceptor_state: &AcceptorState,
    addresses: &[SocketAddr],
    tls: Option<&Acceptor>,
) -> io::Result<Serving> {
    let mut tasks = JoinSet::new();
    for address in addresses {
        // tokio sets SO_REUSEADDR; without it etcd couldn't bind while our closed connections linger.
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|e| io::Error::new(e.kind(), format!("{address}: {e}")))?;
        let (tls, answering) = (tls.cloned(), answering(acceptor_state.clone()));
        tasks.spawn(async move { match serve::answer(Listener::Address(listener), ROOM, tls, answering).await {} });
    }
    Ok(Serving(tasks))
}

/// Answers one caller.
pub async fn converse<S: Stream + 'static>(stream: S, acceptor_state: AcceptorState, tls: Option<Acceptor>) {
    serve::converse(Box::new(stream), tls, answering(acceptor_state)).await;
}

fn answering(acceptor_state: AcceptorState) -> Answering {
    Arc::new(move |request| Box::pin(respond(acceptor_state.clone(), request)))
}

async fn respond(acceptor_state: AcceptorState, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, HELLO_PATH) => {
            let from = request.headers().get(FROM_HEADER).and_then(|v| v.to_str().ok());
            notice(&acceptor_state, from);
            as_json(&acceptor_state.hello())
        }
        (&Method::POST, CALL_PATH) => take_call(&acceptor_state, request).await,
        _ => (StatusCode::NOT_FOUND, Vec::new()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

/// Nobody empties what is kept here while no look is taken: of strangers only so many are kept, and of a name only what may be one.
fn notice(acceptor_state: &AcceptorState, from: Option<&str>) {
    let Some(from) = from.filter(|from| is_name(from)) else { return };
    let from = InstanceId(from.to_owned());
    let mut state = acceptor_state.state();
    let is_first = |charter: &paxos::Charter| charter.first.iter().any(|(id, _)| *id == from);
    let is_known = state.standing.charter.as_ref().is_some_and(is_first);
    if !is_known && state.strangers >= MAX_STRANGERS {
        return;
    }
    if state.seen.insert(from.clone()) {
        state.strangers += usize::from(!is_known);
        state.callers.insert(from);
        acceptor_state.0.stirred.notify_one();
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

async fn take_call(acceptor_state: &AcceptorState, request: Request<Incoming>) -> (StatusCode, Vec<u8>) {
    let Ok(body) = Limited::new(request.into_body(), MAX_CALL_BYTES).collect().await else {
        return (StatusCode::BAD_REQUEST, Vec::new());
    };
    let Ok(envelope) = serde_json::from_slice::<Envelope>(&body.to_bytes()) else {
        return (StatusCode::BAD_REQUEST, Vec::new());
    };
    match acceptor_state.answer(&envelope.call) {
        Ok(answer) => {
            log::debug!("{} asks: {:?}; answered {answer:?}", envelope.from, envelope.call);
            match (&envelope.call, &answer) {
                (paxos::Call::Chosen { list, .. }, Answer::Chosen { list: taken }) if list == taken => {
                    log::info!("{} says that a list was chosen (token {})", envelope.from, list.token);
                    acceptor_state.0.stirred.notify_one();
                }
                // A look may show how the instances are listed now.
                (_, Answer::Unfit { why }) => {
                    log::warn!("a call of {} is refused: {why}", envelope.from);
                    acceptor_state.0.stirred.notify_one();
                }
                _ => {}
            }
            as_json(&answer)
        }
        // No answer that wasn't durable: to the caller this is as if the node were down.
        Err(error) => {
            log::error!("{error}");
            (StatusCode::SERVICE_UNAVAILABLE, Vec::new())
        }
    }
}

fn as_json(value: &impl serde::Serialize) -> (StatusCode, Vec<u8>) {
    match serde_json::to_vec(value) {
        Ok(body) => (StatusCode::OK, body),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
    }
}
