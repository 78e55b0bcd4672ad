//! Answers other supervisors.

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
use crate::core::release::Release;
use crate::core::seed::MaySeed;
use crate::core::types::{ClusterId, InitialList, InstanceId, Known, ListedMember, MemberId, Roster};
use crate::core::view::{DataDir, LogEnd, Peer, PeerState, Policy, Told, View};
use crate::net::http::Stream;
use crate::net::serve::{self, Answering, Listener, Room};
use crate::net::tls::Acceptor;
use crate::state::store::{self, Identity, Releases, Store};
use crate::util::file;
use crate::util::lock::lock;

/// A list of a hundred members is some 20 KB, a charter with a static list of a thousand hosts some 60 KB.
const MAX_CALL_BYTES: usize = 128 << 10;
/// A fleet of a hundred calls at once, each from its own address. One address may have half of the connections: with six
/// hundred idle connections a second, each then lasts a fifth of a second, enough for a caller that shares the address, for
/// example through a NAT, to complete its request.
const ROOM: Room = Room { in_all: 256, of_one_address: 128 };
/// How many callers outside the roster are remembered until the daemon reads them: they are only hints to observe.
const MAX_STRANGERS: usize = 256;
/// EC2's ids have 19 bytes; a host name in a static list is seldom longer than this.
const MAX_NAME_BYTES: usize = 64;

/// The state that the answers depend on, shared by the server and the daemon. All changes are synchronous, and durable before
/// they are answered.
#[derive(Clone, Debug)]
pub struct AcceptorState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    woken: Notify,
}

#[derive(Debug)]
struct State {
    store: Store,
    context: AcceptorContext,
    listed: ListedMember,
    /// The cluster and member of our data, where known.
    data: Option<(ClusterId, Option<MemberId>)>,
    /// Peers whose calls are not news.
    known_peers: BTreeSet<InstanceId>,
    callers: BTreeSet<InstanceId>,
    /// How many callers since the last observation were not among the first of the roster.
    strangers: usize,
    release: Option<Release>,
    /// An observation has shown which seeds a list may have.
    has_looked: bool,
    /// A call was refused as unfit since this was last read.
    has_refused: bool,
    /// What is being restored here, and how far it is.
    restoring: Option<String>,
}

impl AcceptorState {
    /// The acceptor over that store; it has no roster yet, only the fact whether there is data.
    pub fn new(store: Store, listed: ListedMember, has_data: bool) -> Self {
        let me = listed.instance.clone();
        let listings = BTreeMap::from([(me.clone(), BTreeSet::from([listed.clone()]))]);
        let context = AcceptorContext { me, has_data, listings, ..AcceptorContext::default() };
        let state = State {
            store,
            context,
            listed,
            data: None,
            known_peers: BTreeSet::new(),
            callers: BTreeSet::new(),
            strangers: 0,
            release: None,
            has_looked: false,
            has_refused: false,
            restoring: None,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), woken: Notify::new() }))
    }

    /// What answers depend on from now on. While EC2 does not answer, the last roster stays in use.
    pub fn set_context(&self, roster: Option<&Roster>, policy: &Policy, data: &DataDir) {
        let mut state = self.state();
        if let Some(roster) = roster {
            state.context.charter = policy.charter_to_vote(roster);
            state.context.terminated = roster.terminated().map(|i| i.id.clone()).collect();
        }
        // Until an observation has shown more, nothing is agreed on that could be an empty cluster beside snapshots.
        let asks = policy.seed.is_some() || !policy.snapshots.is_empty();
        if asks && state.context.may_seed == MaySeed::Nothing && !state.has_looked {
            state.context.may_seed = MaySeed::OneOf(BTreeSet::new());
        }
        state.context.has_data = *data != DataDir::Fresh;
        state.data = match data {
            DataDir::Whole { ids: Known::Known((cluster, member)) } => Some((*cluster, Some(*member))),
            _ => None,
        };
    }

    /// Whether there is data, before the first observation shows more: a WAL that etcd has created since forbids promises.
    pub fn set_has_data(&self, has_data: bool) {
        self.state().context.has_data = has_data;
    }

    /// What the last observation showed: how each instance may be listed, and the lists that it never starts under. A call from
    /// a peer that did not answer it is news.
    pub fn set_known_peers(&self, policy: &Policy, view: &View) {
        let answered = |p: &Peer| !matches!(p.sighting, PeerState::Refused | PeerState::Silent(_));
        let mut state = self.state();
        state.known_peers = view.peers.iter().filter(|(_, p)| answered(p)).map(|(id, _)| id.clone()).collect();
        state.strangers = 0;
        (state.context.listings, state.context.renounced) = (view.listings(), view.renounced());
        (state.context.may_seed, state.has_looked) = (view.may_seed(policy), true);
    }

    /// The etcd that would be started here.
    pub fn release_is(&self, release: Option<Release>) {
        self.state().release = release;
    }

    /// What is being restored here, and how far it is: for whoever looks on.
    pub fn restoring(&self, progress: Option<String>) {
        self.state().restoring = progress;
    }

    /// Whether a list was refused as unfit since this was last read: another observation may show that it fits.
    pub fn drain_refusal(&self) -> bool {
        std::mem::take(&mut self.state().has_refused)
    }

    /// The callers since this was last read.
    pub fn drain_new_callers(&self) -> BTreeSet<InstanceId> {
        std::mem::take(&mut self.state().callers)
    }

    /// The ledger as it is on disk.
    pub fn ledger(&self) -> Ledger {
        self.state().store.ledger().clone()
    }

    /// Changes the ledger, durably.
    ///
    /// # Errors
    /// The disk fails; the old ledger stays valid.
    pub fn amend(&self, change: impl FnOnce(&mut Ledger)) -> Result<(), store::Error> {
        let mut state = self.state();
        let mut next = state.store.ledger().clone();
        change(&mut next);
        if next == *state.store.ledger() {
            return Ok(());
        }
        state.store.save(next)
    }

    /// Determines whose the ledger is, now that it is known whether there is data.
    ///
    /// # Errors
    /// The disk fails.
    pub fn bind(&self, me: &Identity, has_data: bool) -> Result<(), store::Error> {
        self.state().store.bind(me, has_data)
    }

    /// Runs something that needs the store.
    pub fn with_store<T>(&self, work: impl FnOnce(&Store) -> T) -> T {
        work(&self.state().store)
    }

    /// Answers a call as the acceptor, our own call or another node's.
    ///
    /// # Errors
    /// The disk fails: then nothing was promised, and no answer may be sent.
    pub fn answer(&self, call: &paxos::Call) -> Result<Answer, store::Error> {
        let mut state = self.state();
        let (answer, next) = paxos::answer(state.store.ledger(), &state.context, call);
        if let Some(next) = next {
            state.store.save(next)?;
        }
        Ok(answer)
    }

    /// Records a chosen list that was learnt by observation.
    ///
    /// # Errors
    /// The disk fails.
    pub fn learn(&self, list: &InitialList) -> Result<(), store::Error> {
        let mut state = self.state();
        match paxos::learn(state.store.ledger(), &state.context, list).1 {
            Some(next) => state.store.save(next),
            None => Ok(()),
        }
    }

    /// How far another member's log was seen to go.
    pub fn record_logs(&self, cluster: ClusterId, logs: &BTreeMap<MemberId, LogEnd>) {
        let mut state = self.state();
        let write = state.store.note_logs(cluster, logs);
        aside(&state.store, write);
    }

    /// Which etcd ran here before.
    pub fn releases(&self) -> Releases {
        self.state().store.releases()
    }

    /// Which etcd runs here.
    pub fn record_releases(&self, releases: Releases) {
        let mut state = self.state();
        let write = state.store.note_releases(releases);
        aside(&state.store, write);
    }

    /// How far our own log went, as another supervisor reports.
    pub fn record_told(&self, told: Told) {
        let mut state = self.state();
        let write = state.store.note_told(told);
        aside(&state.store, write);
    }

    /// Resolves when a peer acted: one that was not seen before called, or a call changed something. Cancel-safe.
    pub async fn woken(&self) {
        self.0.woken.notified().await;
    }

    fn hello(&self) -> Hello {
        let state = self.state();
        let ledger = state.store.ledger();
        Hello {
            listed: state.listed.clone(),
            has_data: state.context.has_data,
            cluster: state.data.map(|(cluster, _)| cluster),
            member: state.data.and_then(|(_, member)| member),
            logs: state.data.map_or_else(Vec::new, |(cluster, _)| state.store.logs_of(cluster)),
            renounced: ledger.renounced.clone(),
            charter: state.context.charter.clone(),
            promised: ledger.promised.clone(),
            chosen: ledger.valid_choice(&state.context).cloned(),
            release: state.release,
            restoring: state.restoring.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

/// On another thread, without waiting for it.
fn aside(store: &Store, write: Option<impl FnOnce() + Send + 'static>) {
    if let Some(write) = write
        && let Err(error) = file::begin(store.dir(), write)
    {
        log::debug!("{error}");
    }
}

/// A listening peer protocol; dropping it frees the port at once, with every connection.
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
/// An address can't be bound; the message names it.
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

/// Answers one request.
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
            note_caller(&acceptor_state, from);
            as_json(&acceptor_state.hello())
        }
        (&Method::POST, CALL_PATH) => take_call(&acceptor_state, request).await,
        _ => (StatusCode::NOT_FOUND, Vec::new()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

/// Bounded, because nothing empties it between observations: only so many strangers are remembered, and only what may be a
/// name.
fn note_caller(acceptor_state: &AcceptorState, from: Option<&str>) {
    let Some(from) = from.filter(|from| is_name(from)) else { return };
    let from = InstanceId(from.to_owned());
    let mut state = acceptor_state.state();
    let is_first = |charter: &paxos::Charter| charter.first.iter().any(|(id, _)| *id == from);
    let is_known = state.context.charter.as_ref().is_some_and(is_first);
    if !is_known && state.strangers >= MAX_STRANGERS {
        return;
    }
    if state.known_peers.insert(from.clone()) {
        state.strangers += usize::from(!is_known);
        state.callers.insert(from);
        acceptor_state.0.woken.notify_one();
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

fn speaks_of_a_seed(call: &paxos::Call) -> bool {
    match call {
        paxos::Call::Accept { list, .. } | paxos::Call::Chosen { list, .. } => list.seed.is_some(),
        paxos::Call::Prepare { .. } => false,
    }
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
                    log::info!("{} reports that a list was chosen (token {})", envelope.from, list.token);
                    acceptor_state.0.woken.notify_one();
                }
                // An observation may show how the instances are listed now, or what was ordered meanwhile.
                (_, Answer::Unfit { why }) => {
                    log::warn!("refused a call from {}: {why}", envelope.from);
                    acceptor_state.state().has_refused |= speaks_of_a_seed(&envelope.call);
                    acceptor_state.0.woken.notify_one();
                }
                _ => {}
            }
            as_json(&answer)
        }
        // No answer that was not durable: to the caller this looks as if the node were down.
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

#[cfg(test)]
mod tests;
