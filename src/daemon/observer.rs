//! Builds a [`View`] from observations. Changes nothing, except that it remembers since when a host has not answered.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::background_probes::{Heard, Questions};
use super::claim_store::ClaimStore;
use super::earlier_snapshots::EarlierSnapshots;
use super::probe::{Probe, is_alive, serves, supervised, through_client_port};
use super::twin;
use crate::config::{Config, Etcd, Instances};
use crate::core::evidence::signs_of_a_cluster;
use crate::core::initial_list::same_urls;
use crate::core::paxos::Ledger;
use crate::core::release::{DataRelease, Installed, Minor};
use crate::core::removal;
use crate::core::seed::{SeedSeen, Snapshots};
use crate::core::types::{
    ClusterId, Instance, InstanceId, InstanceState, Known, ListedMember, Member, MemberId, Roster,
};
use crate::core::view::ClaimState;
use crate::core::view::Ending;
use crate::core::view::{
    DataDir, EtcdSeen, Liveness, LocalMember, LogSeen, Peer, PeerState, Policy, Silence, Told, Twin, View,
};
use crate::discovery::addresses;
use crate::discovery::member_owner::owner;
use crate::discovery::{Discovery, unlisted};
use crate::etcd::ids;
use crate::peer::clients::PeerClients;
use crate::util::clock;

/// A roster this young also serves the next observation: observations come in bursts while peers change, and EC2's answer does
/// not change that fast.
const ROSTER_SERVES: Duration = Duration::from_secs(5);
/// No observation waits longer for EC2. With data, etcd must start whatever EC2 does; without, nothing can be done without EC2.
const ROSTER_PATIENCE: Duration = Duration::from_secs(30);
const ROSTER_PATIENCE_WITH_DATA: Duration = Duration::from_secs(5);

/// Time without an answer is measured between observations. Two that are further apart prove nothing: a host may have started,
/// served and stopped in between.
const WATCH_GAP: Duration = Duration::from_secs(30);
/// How much longer an observation may take on a busy machine.
const LATENESS: Duration = Duration::from_secs(5);
/// How many queries to one peer, and to one member, follow each other.
const QUESTIONS: u32 = 4;
/// While a host's failure to answer is being measured for a reason, observations are no further apart than this, beside their
/// own duration.
pub const WATCH_PAUSE: Duration = Duration::from_secs(10);

/// What an observation starts from.
#[derive(Debug)]
pub struct LocalState {
    pub listed: ListedMember,
    pub data: DataDir,
    pub yielded: bool,
    pub condemned: Option<String>,
    pub ledger: Ledger,
    pub ending: Known<Option<Ending>>,
    pub since_own_removal: Option<Duration>,
    /// How far our log went, as peers reported before.
    pub told: Option<Told>,
    pub installed: Installed,
    pub data_release: Known<DataRelease>,
}

/// Whether peers are told who looks, so that they look too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Announce {
    Yes,
    /// `plan`: whoever only asks changes nothing.
    No,
}

/// Observes, and remembers what only repeated observations can show.
#[derive(Debug)]
pub struct Observer {
    instances: Instances,
    etcd: Etcd,
    policy: Policy,
    probe_timeout: Duration,
    discovery: Discovery,
    claim: Arc<ClaimStore>,
    earlier_snapshots: EarlierSnapshots,
    clients: PeerClients,
    announce: Announce,
    roster: Option<(Roster, Instant)>,
    roster_since: Instant,
    silences: BTreeMap<InstanceId, PeerSilence>,
    member_silences: BTreeMap<MemberId, Instant>,
    /// Which instance had which address, by the rosters seen so far: EC2 shows no address of a terminated instance.
    holders: BTreeMap<IpAddr, InstanceId>,
    /// When peers and when members were last queried: while EC2 does not answer, only peers are.
    peers_asked: Option<Instant>,
    members_asked: Option<Instant>,
    /// Those of the roster, by their addresses.
    peers: Questions<(InstanceId, String), PeerState>,
    /// Those that are not in the roster, by their peer URLs.
    members: Questions<Asked, bool>,
    /// The last observation saw a cluster with a quorum: the decision is then how to join it, not whether to bootstrap, and
    /// unreachable hosts need not delay each step of that.
    joins: bool,
}

/// A member to be queried where it is listed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Asked {
    member: MemberId,
    cluster: ClusterId,
    urls: Vec<String>,
    never_ran: bool,
}

#[derive(Clone, Copy, Debug)]
struct PeerSilence {
    since: Instant,
    refused_throughout: bool,
}

/// Whether observations are near enough that a host which answered in neither did not answer in between: judged by the last
/// one's end, and this one's beginning and end. An observation that took far longer than its queries may was itself suspended
/// (frozen, say), and queried nothing meanwhile.
fn watches_on(last: Option<Instant>, began: Instant, ended: Instant, questions: Duration) -> bool {
    last.is_some_and(|last| began.saturating_duration_since(last) <= WATCH_GAP)
        && ended.saturating_duration_since(began) <= questions + LATENESS
}

impl Observer {
    /// An observer of that cloud.
    pub fn new(
        config: &Config,
        clients: PeerClients,
        discovery: Discovery,
        claim: Arc<ClaimStore>,
        earlier_snapshots: EarlierSnapshots,
        announce: Announce,
    ) -> Self {
        Self {
            instances: config.instances.clone(),
            etcd: config.etcd.clone(),
            policy: config.policy(),
            probe_timeout: config.observation.probe_timeout,
            claim,
            earlier_snapshots,
            discovery,
            clients,
            announce,
            roster: None,
            roster_since: clock::now(),
            silences: BTreeMap::new(),
            member_silences: BTreeMap::new(),
            holders: BTreeMap::new(),
            peers_asked: None,
            members_asked: None,
            peers: Questions::new(|sighting| matches!(sighting, PeerState::Silent(_))),
            members: Questions::new(|serves| !serves),
            joins: false,
        }
    }

    /// The policy for which it observes.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether that instance is in the roster last seen.
    pub fn knows(&self, id: &InstanceId) -> bool {
        self.roster.as_ref().is_some_and(|(roster, _)| roster.find(id).is_some())
    }

    /// There was a gap between observations: hosts that did not answer before may have answered since, so time counts from now
    /// on.
    pub fn reset_timers(&mut self) {
        self.silences.clear();
        self.member_silences.clear();
        self.peers.forget();
        self.members.forget();
        self.roster_since = clock::now();
    }

    /// Forgets the roster, after a call from outside it.
    pub fn expire_roster(&mut self) {
        if let Some((_, seen)) = &mut self.roster {
            *seen = clock::now().checked_sub(ROSTER_SERVES).unwrap_or(*seen);
        }
    }

    /// Forgets what the places for snapshots held, after a call that spoke of something else.
    pub fn expire_snapshots(&mut self) {
        self.earlier_snapshots.expire();
    }

    /// One observation of everything. `with_roster` gets the roster before any peer is queried, so that our own answers to
    /// peers are already right.
    pub async fn observe(&mut self, own: &LocalState, with_roster: impl FnOnce(&Known<Roster>)) -> View {
        let has_data = own.data != DataDir::Fresh;
        let me = own.listed.instance.clone();
        let patience = if has_data { ROSTER_PATIENCE_WITH_DATA } else { ROSTER_PATIENCE };
        let roster = self.observe_roster(&me, patience).await;
        with_roster(&roster);
        // While EC2 does not answer, the peers of its last answer are still worth querying.
        let asked = roster.known().or(self.roster.as_ref().map(|(last, _)| last)).cloned().unwrap_or_default();
        let began = clock::now();
        let heard = self.observe_peers(&asked, &me).await;
        if !watches_on(self.peers_asked, began, clock::now(), self.probe_timeout * QUESTIONS) {
            self.silences.clear();
        }
        self.peers_asked = Some(clock::now());
        let mut peers = BTreeMap::new();
        for (id, Heard { value: sighting, until, .. }) in heard.clone() {
            let silence = self.record_silence(&id, &sighting);
            let listed = asked.find(&id).and_then(|instance| addresses::listed(&self.etcd, instance));
            peers.insert(
                id,
                Peer {
                    sighting,
                    unanswered_for: silence.map_or(Duration::ZERO, |s| until.saturating_duration_since(s.since)),
                    refused_throughout: silence.is_some_and(|s| s.refused_throughout),
                    impaired: Known::Unknown("not asked".to_owned()),
                    listed,
                },
            );
        }
        let mut view = View {
            me: LocalMember { instance: me.clone(), listed: own.listed.clone() },
            data: own.data.clone(),
            yielded: own.yielded,
            condemned: own.condemned.clone(),
            ledger: own.ledger.clone(),
            accepted_cluster: own.ledger.accepted.as_ref().map(|a| ids::cluster_id(&a.list)),
            chosen_cluster: own.ledger.chosen.as_ref().map(ids::cluster_id),
            ending: own.ending.clone(),
            claim: ClaimState::NotAsked,
            snapshots: Snapshots::NotAsked,
            seed: SeedSeen::default(),
            own_tags: Known::Unknown("not asked".to_owned()),
            roster_unchanged_for: clock::now() - self.roster_since,
            roster,
            peers,
            old_fleet: if has_data { BTreeMap::new() } else { self.observe_old_fleet().await },
            liveness: BTreeMap::new(),
            owner_gone: Known::Unknown("not asked".to_owned()),
            twin: Twin::Nobody,
            log: None,
            unresolved: BTreeMap::new(),
            since_own_removal: own.since_own_removal,
            installed: own.installed.clone(),
            data_release: own.data_release.clone(),
            downgrade: Known::Known(None),
        };
        self.ask_where_it_matters(&mut view, &heard, began).await;
        self.ask_whose_data(&mut view, own.told.as_ref()).await;
        self.joins = !view.living_clusters().is_empty();
        view
    }

    async fn observe_roster(&mut self, me: &InstanceId, patience: Duration) -> Known<Roster> {
        // Reading a file costs no call.
        if let Some((roster, seen)) = &self.roster
            && !self.policy.written
            && clock::now() - *seen < ROSTER_SERVES
        {
            return Known::Known(roster.clone());
        }
        let answer = tokio::time::timeout(patience, self.discovery.roster(me)).await;
        let roster = match answer {
            Ok(Ok(roster)) => roster,
            Ok(Err(error)) => return Known::Unknown(unlisted(&self.instances, error)),
            Err(_) => {
                let cause = format!("no complete answer within {} s", patience.as_secs());
                return Known::Unknown(unlisted(&self.instances, cause));
            }
        };
        let written = self.policy.written;
        let shown = |roster: &Roster| {
            let all = roster.non_terminated().map(|i| (i.launched, i.id.clone(), i.address.filter(|_| written)));
            all.collect::<Vec<_>>()
        };
        if self.roster.as_ref().is_none_or(|(last, _)| shown(last) != shown(&roster)) {
            self.roster_since = clock::now();
        }
        self.clients.learn(&roster);
        let held = roster.non_terminated().filter_map(|i| Some((i.address?, i.id.clone())));
        self.holders.extend(held);
        self.roster = Some((roster.clone(), clock::now()));
        Known::Known(roster)
    }

    async fn observe_peers(&mut self, roster: &Roster, me: &InstanceId) -> BTreeMap<InstanceId, Heard<PeerState>> {
        let mut heard = BTreeMap::new();
        let mut asked = Vec::new();
        for instance in roster.all().iter().filter(|i| i.id != *me && self.may_live(roster, i)) {
            match instance.address {
                Some(address) => asked.push((instance.id.clone(), address.to_string())),
                None => _ = heard.insert(instance.id.clone(), unheard("EC2 reports no private address")),
            }
        }
        let (clients, etcd, from) = (&self.clients, &self.etcd, (self.announce == Announce::Yes).then(|| me.clone()));
        let timeout = self.probe_timeout;
        let observe = |(_, address): &(InstanceId, String)| {
            let probe = Probe {
                clients: clients.clone(),
                peer_url: addresses::peer_url(etcd, address),
                client_url: addresses::client_url(etcd, address),
                from: from.clone(),
                timeout,
            };
            async move { probe.observe().await }
        };
        for ((id, _), answer) in self.peers.ask(&asked, self.joins, observe).await {
            // A probe that panicked proves nothing: unknown, like no answer.
            heard.insert(id, answer.unwrap_or_else(|| unheard("the probe failed")));
        }
        heard
    }

    /// The cluster outside the roster that is to be joined; all its URLs at once.
    async fn observe_old_fleet(&self) -> BTreeMap<String, Known<EtcdSeen>> {
        let mut questions = JoinSet::new();
        for url in &self.policy.join {
            let (clients, client_url, timeout) = (self.clients.clone(), url.clone(), self.probe_timeout);
            questions
                .spawn(async move { (client_url.clone(), through_client_port(&clients, client_url, timeout).await) });
        }
        let mut seen = BTreeMap::new();
        while let Some(answered) = questions.join_next().await {
            // A probe that panicked proves nothing.
            seen.extend(answered.ok());
        }
        seen
    }

    /// EC2's `terminated` is final. An operator's may be an error: a host that answers exists, whatever the file says.
    fn may_live(&self, roster: &Roster, instance: &Instance) -> bool {
        let handed_on = || roster.non_terminated().any(|i| i.address == instance.address);
        instance.state != InstanceState::Terminated || (self.policy.written && !handed_on())
    }

    fn record_silence(&mut self, id: &InstanceId, sighting: &PeerState) -> Option<PeerSilence> {
        let refused = matches!(sighting, PeerState::Refused);
        if !refused && !matches!(sighting, PeerState::Silent(_)) {
            self.silences.remove(id);
            return None;
        }
        let fresh = PeerSilence { since: clock::now(), refused_throughout: true };
        let silence = self.silences.entry(id.clone()).or_insert(fresh);
        silence.refused_throughout &= refused;
        Some(*silence)
    }

    /// Queries that cost a call each, made only where the answer can change the decision.
    async fn ask_where_it_matters(
        &mut self,
        view: &mut View,
        heard: &BTreeMap<InstanceId, Heard<PeerState>>,
        began: Instant,
    ) {
        // Only a fresh node's bootstrap depends on it.
        if view.data == DataDir::Fresh && view.living_clusters().is_empty() {
            view.claim = self.claim.read().await;
        }
        let Known::Known(roster) = view.roster.clone() else { return };
        if view.data == DataDir::Fresh && view.living_clusters().is_empty() && signs_of_a_cluster(view).is_none() {
            let first = self.policy.charter(&roster).first;
            (view.snapshots, view.seed) = self.earlier_snapshots.look(&first).await;
        }
        if view.data == DataDir::Fresh && roster.find(&view.me.instance).is_none() {
            view.own_tags = match self.discovery.instance(&view.me.instance).await {
                Ok(Some(described)) => Known::Known(described.tags),
                Ok(None) => Known::Unknown("EC2 does not know this instance id in this region".to_owned()),
                Err(error) => Known::Unknown(error.to_string()),
            };
        }
        let living = view.living_clusters().values().next().map(|etcd| (*etcd).clone());
        match living {
            Some(etcd) => {
                if view.data == DataDir::Fresh {
                    view.downgrade = self.ask_downgrade(view, etcd.cluster).await;
                }
                self.ask_liveness(view, heard, &roster, &etcd, began).await;
            }
            None => self.ask_impaired(view, &roster).await,
        }
        self.ask_names(view, &roster).await;
    }

    /// Whether that cluster is being downgraded. Any member that has just read its list through the quorum has applied what
    /// enabled it; only 3.6 and later report it.
    async fn ask_downgrade(&self, view: &View, cluster: ClusterId) -> Known<Option<Minor>> {
        let reports = |etcd: &&EtcdSeen| {
            etcd.cluster == cluster && etcd.has_quorum() && etcd.release.is_none_or(|release| release.is_at_least(3, 6))
        };
        let mut answer = Known::Known(None);
        for etcd in view.etcds().filter(reports) {
            match self.clients.etcd.status(&etcd.client_url, self.probe_timeout).await {
                Ok(status) => match status.downgrade_to {
                    None => return Known::Known(None),
                    Some(to) => {
                        return Minor::parse(&to).map_or_else(|| Known::Unknown(to), |to| Known::Known(Some(to)));
                    }
                },
                Err(error) => answer = Known::Unknown(error.to_string()),
            }
        }
        answer
    }

    /// What decides whether the data here is ours to run with; EC2 need not answer for it.
    async fn ask_whose_data(&self, view: &mut View, told: Option<&Told>) {
        let DataDir::Whole { ids } = &view.data else { return };
        if let Some(owner) = view.ledger.instance.clone().filter(|owner| *owner != view.me.instance) {
            view.owner_gone = match view.roster.known() {
                // One that is shutting down may still run its etcd.
                Some(roster) => self.ask_state(roster, &owner, |state| state == InstanceState::Terminated).await.0,
                None => Known::Unknown("EC2 does not answer".to_owned()),
            };
        }
        if let Known::Known((cluster, member)) = *ids {
            let own = &view.me.listed.peer_urls;
            let timeout = self.probe_timeout;
            view.twin = twin::find(&self.clients.etcd, &view.peers, own, (cluster, member), timeout).await;
            let told = told.filter(|told| (told.cluster, told.member) == (cluster, member));
            view.log = self.ask_log(view, cluster, member, told).await;
        }
    }

    /// The end of our log, if another supervisor saw it go further and reports so now or did before.
    async fn ask_log(
        &self,
        view: &View,
        cluster: ClusterId,
        member: MemberId,
        before: Option<&Told>,
    ) -> Option<LogSeen> {
        let told = view.peers.iter().filter_map(|(id, peer)| match &peer.sighting {
            PeerState::HasData(data) if data.cluster == Some(cluster) => Some((*data.logs.get(&member)?, id)),
            _ => None,
        });
        let (before, by) = told.chain(before.map(|told| (told.before, &told.by))).max()?;
        let paths = addresses::paths(&self.etcd);
        let read = tokio::task::spawn_blocking(move || paths.log_end()).await;
        let here = match read {
            Ok(Ok(end)) => Known::Known(end),
            Ok(Err(cause)) => Known::Unknown(cause.to_string()),
            Err(cause) => Known::Unknown(cause.to_string()),
        };
        Some(LogSeen { here, before, by: by.clone() })
    }

    /// Whether the names resolve that a bootstrap would list, checked by the node that would propose: etcd resolves them
    /// itself.
    async fn ask_names(&self, view: &mut View, roster: &Roster) {
        let is_near = || view.living_clusters().is_empty() && signs_of_a_cluster(view).is_none();
        if view.data != DataDir::Fresh || !is_near() {
            return;
        }
        let first = roster.non_terminated().take(self.policy.size(roster));
        let mut lookups = JoinSet::new();
        let mut names = HashMap::new();
        for instance in first {
            let listed = match view.peers.get(&instance.id) {
                _ if instance.id == view.me.instance => Some(&view.me.listed),
                Some(Peer { sighting: PeerState::Fresh(fresh), .. }) => Some(&fresh.listed),
                _ => None,
            };
            for (host, url) in
                listed.into_iter().flat_map(|l| &l.peer_urls).filter_map(|url| Some((named_host(url)?, url)))
            {
                let (timeout, asked) = (self.probe_timeout, (instance.id.clone(), url.clone()));
                let lookup = lookups.spawn(async move {
                    let found = tokio::time::timeout(timeout, tokio::net::lookup_host((host.as_str(), 0))).await;
                    match found {
                        Ok(Ok(mut addresses)) => addresses.next().is_none().then(|| "no address".to_owned()),
                        Ok(Err(error)) => Some(error.to_string()),
                        Err(_) => Some(format!("no answer within {} s", timeout.as_secs())),
                    }
                });
                names.insert(lookup.id(), asked);
            }
        }
        while let Some(ended) = lookups.join_next_with_id().await {
            // A lookup that panicked is unknown, and an unknown name does not resolve.
            let (task, cause) = ended.unwrap_or_else(|panicked| (panicked.id(), Some(panicked.to_string())));
            if let (Some((id, url)), Some(cause)) = (names.remove(&task), cause) {
                view.unresolved.insert(id, format!("{url}: {cause}"));
            }
        }
    }

    /// N = 2: if the other has not answered for the whole grace time, does EC2 report it as impaired?
    async fn ask_impaired(&self, view: &mut View, roster: &Roster) {
        let grace = self.policy.found_grace;
        if view.data != DataDir::Fresh || self.policy.size(roster) != 2 {
            return;
        }
        for (id, peer) in &mut view.peers {
            if matches!(peer.sighting, PeerState::Silent(_)) && peer.unanswered_for >= grace {
                peer.impaired = match self.discovery.is_impaired(id).await {
                    Ok(impaired) => Known::Known(impaired),
                    Err(error) => Known::Unknown(error.to_string()),
                };
            }
        }
    }

    /// The state of the members that no answer came from.
    async fn ask_liveness(
        &mut self,
        view: &mut View,
        heard: &BTreeMap<InstanceId, Heard<PeerState>>,
        roster: &Roster,
        etcd: &EtcdSeen,
        began: Instant,
    ) {
        let (liveness, unanswered) = self.ask_members(view, heard, &etcd.members, etcd.cluster).await;
        view.liveness = liveness;
        if !watches_on(self.members_asked, began, clock::now(), self.probe_timeout * 2 * QUESTIONS) {
            self.member_silences.clear();
        }
        self.members_asked = Some(clock::now());
        for member in &etcd.members {
            let Some((began, until)) = unanswered.get(&member.id) else { continue };
            // From the first unanswered query to the end of the last one: a query that is still open proves nothing yet.
            let since = *self.member_silences.entry(member.id).or_insert(*began);
            let instance = owner(member, roster, self.policy.written);
            let instance = instance.or_else(|| self.last_holder(member));
            let (gone, ended_for) = match &instance {
                None => (Known::Unknown("its instance is unknown".to_owned()), None),
                Some(id) => self.ask_gone(roster, id).await,
            };
            let silent_for = until.saturating_duration_since(since).max(ended_for.unwrap_or_default());
            view.liveness.insert(member.id, Liveness::Silent(Silence { instance, gone, silent_for }));
        }
        self.member_silences.retain(|id, _| unanswered.contains_key(id));
    }

    /// The last known owner of an unnamed member's address, from earlier rosters. A static host list says nothing about hosts
    /// that are not in it.
    fn last_holder(&self, member: &Member) -> Option<InstanceId> {
        if self.policy.written || !member.name.is_empty() {
            return None;
        }
        let hosts = addresses::hosts(&member.peer_urls.join(","));
        hosts.iter().find_map(|host| self.holders.get(&host.parse().ok()?).cloned())
    }

    /// Which members answer, or may, and for how long the others did not. All are queried at once, so that several dead ones do
    /// not delay an observation one after another.
    async fn ask_members(
        &mut self,
        view: &View,
        heard: &BTreeMap<InstanceId, Heard<PeerState>>,
        members: &[Member],
        cluster: ClusterId,
    ) -> (BTreeMap<MemberId, Liveness>, BTreeMap<MemberId, (Instant, Instant)>) {
        let (mut liveness, mut silent) = (BTreeMap::new(), BTreeMap::new());
        let mut asked = Vec::new();
        for member in members {
            let is_peer = |peer: &Peer| {
                peer.listed
                    .as_ref()
                    .is_some_and(|l| l.name == member.name || l.peer_urls.iter().any(|u| member.peer_urls.contains(u)))
            };
            match view.peers.iter().find(|(_, peer)| is_peer(peer)) {
                Some((_, peer)) if is_alive(&peer.sighting, cluster) => {
                    _ = liveness.insert(member.id, Liveness::Answers)
                }
                Some((id, _)) => {
                    silent.extend(heard.get(id).map(|heard| (member.id, (heard.began, heard.until))));
                }
                // Not in the roster: something may still serve at its address.
                None => asked.push(Asked {
                    member: member.id,
                    cluster,
                    urls: member.peer_urls.clone(),
                    never_ran: removal::never_ran(member),
                }),
            }
        }
        let (clients, timeout) = (&self.clients, self.probe_timeout);
        let own = &view.me.listed.peer_urls;
        let lives = |asked: &Asked| {
            let (clients, asked) = (clients.clone(), asked.clone());
            // For a member that never ran, a supervisor may be there, about to start it.
            let about_to_start = asked.never_ran && !same_urls(&asked.urls, own);
            async move {
                let runs = serves(&clients.etcd, &asked.urls, asked.cluster, timeout).await;
                runs || (about_to_start && supervised(&clients, &asked.urls, timeout).await)
            }
        };
        for (Asked { member, .. }, answer) in self.members.ask(&asked, self.joins, lives).await {
            match answer {
                Some(heard) if heard.value => _ = liveness.insert(member, Liveness::Answers),
                Some(heard) => _ = silent.insert(member, (heard.began, heard.until)),
                // A probe that panics proves nothing.
                None => _ = liveness.insert(member, Liveness::Unknown),
            }
        }
        (liveness, silent)
    }

    /// Whether the instance is gone, as EC2 reports by id: shutting-down, terminated, or no such instance; and for how long it
    /// has been terminated, so that a replacement need not wait for a machine that was off before the replacement booted.
    /// `terminated` in a listing is as good as an answer to the query, because it is final.
    async fn ask_gone(&self, roster: &Roster, id: &InstanceId) -> (Known<bool>, Option<Duration>) {
        let gone = |state| matches!(state, InstanceState::ShuttingDown | InstanceState::Terminated);
        self.ask_state(roster, id, gone).await
    }

    /// Whether an instance is terminated: by the roster, or asked by its id.
    pub async fn is_terminated(&self, roster: &Roster, id: &InstanceId) -> Known<bool> {
        self.ask_state(roster, id, |state| state == InstanceState::Terminated).await.0
    }

    async fn ask_state(
        &self,
        roster: &Roster,
        id: &InstanceId,
        gone: impl Fn(InstanceState) -> bool,
    ) -> (Known<bool>, Option<Duration>) {
        let answered;
        let instance = match roster.find(id) {
            Some(listed) if !gone(listed.state) => return (Known::Known(false), None),
            Some(listed) if listed.state == InstanceState::Terminated => listed,
            _ => match self.discovery.instance(id).await {
                Ok(None) => return (Known::Known(true), None),
                Ok(Some(described)) => {
                    answered = described.instance;
                    &answered
                }
                Err(error) => return (Known::Unknown(error.to_string()), None),
            },
        };
        let ended = instance.changed.filter(|_| instance.state == InstanceState::Terminated);
        let ended_for = ended.and_then(|at| u64::try_from(roster.seen_at - at).ok()).map(Duration::from_secs);
        (Known::Known(gone(instance.state)), ended_for)
    }
}

/// The host of a URL, if it is a name.
fn named_host(url: &str) -> Option<String> {
    addresses::hosts(url).pop().filter(|host| host.parse::<IpAddr>().is_err())
}

/// It could not be queried, or there was no result.
fn unheard(why: &str) -> Heard<PeerState> {
    let now = clock::now();
    Heard { value: PeerState::Silent(why.to_owned()), began: now, until: now }
}

#[cfg(test)]
mod tests;
