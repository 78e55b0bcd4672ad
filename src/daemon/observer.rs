//! Reads the world into a [`View`]. Writes nothing, but for noting since when somebody has been silent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::background_probes::{Heard, Questions};
use super::claim_store::ClaimStore;
use super::probe::{Probe, is_alive};
use crate::config::Config;
use crate::core::evidence::signs_of_a_cluster;
use crate::core::initial_list::same_urls;
use crate::core::paxos::Ledger;
use crate::core::removal;
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
use crate::etcd::client;
use crate::etcd::ids;
use crate::net::http::Failure;
use crate::peer::client::{Answered, hello};
use crate::peer::clients::PeerClients;
use crate::util::clock;

/// A roster this young serves the next look too: looks come in bursts while peers move, EC2's answer doesn't change so fast.
const ROSTER_SERVES: Duration = Duration::from_secs(5);
/// No look waits longer for EC2. With data, etcd must come up whatever EC2 does; without, nothing can be done without it.
const ROSTER_PATIENCE: Duration = Duration::from_secs(30);
const ROSTER_PATIENCE_WITH_DATA: Duration = Duration::from_secs(5);

/// Silence is watched by looks. Two that lie further apart are no watch: somebody may have come, served and gone between them.
const WATCH_GAP: Duration = Duration::from_secs(30);
/// A busy machine's, in a look.
const LATENESS: Duration = Duration::from_secs(5);
/// What one peer is asked one after the other, and what a member.
const QUESTIONS: u32 = 4;
/// While somebody's silence is watched for a reason, looks lie no further apart than this, beside what they take themselves.
pub const WATCH_PAUSE: Duration = Duration::from_secs(10);

/// What a look starts from.
#[derive(Debug)]
pub struct LocalState {
    pub listed: ListedMember,
    pub data: DataDir,
    pub yielded: bool,
    pub condemned: Option<String>,
    pub ledger: Ledger,
    pub ending: Known<Option<Ending>>,
    pub since_own_removal: Option<Duration>,
    /// How far our log went, as we were told before.
    pub told: Option<Told>,
}

/// Looks, and remembers what only repeated looks can tell.
#[derive(Debug)]
pub struct Observer {
    config: Config,
    cloud: Discovery,
    claim: Arc<ClaimStore>,
    reach: PeerClients,
    /// Tell peers who looks, so that they look too.
    announce: bool,
    roster: Option<(Roster, Instant)>,
    roster_since: Instant,
    silences: BTreeMap<InstanceId, PeerSilence>,
    member_silences: BTreeMap<MemberId, Instant>,
    /// Who held which address, by the rosters seen so far: EC2 shows no address of a terminated instance.
    holders: BTreeMap<IpAddr, InstanceId>,
    /// When peers were last asked, and when members were: with EC2 out of sight only peers are.
    peers_asked: Option<Instant>,
    members_asked: Option<Instant>,
    /// Those of the roster, by their addresses.
    peers: Questions<(InstanceId, String), PeerState>,
    /// Those who aren't in the roster, by their peer URLs.
    members: Questions<Asked, bool>,
    /// A cluster with a quorum was seen at the last look: what is decided then is how to join it, not whether to found one, and
    /// who is silent needn't hold up each step of that.
    joins: bool,
}

/// A member to be asked where it is listed.
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

/// Whether looks are near enough for what was silent in both to have been silent in between: by the last one's end, this one's beginning
/// and its end. One that took far longer than its questions may was held up itself (frozen, say), and asked nobody meanwhile.
fn watches_on(last: Option<Instant>, began: Instant, ended: Instant, questions: Duration) -> bool {
    last.is_some_and(|last| began.saturating_duration_since(last) <= WATCH_GAP)
        && ended.saturating_duration_since(began) <= questions + LATENESS
}

impl Observer {
    /// An observer of that cloud. `announce`: whether peers shall notice its looks.
    pub fn new(config: Config, reach: PeerClients, cloud: Discovery, claim: Arc<ClaimStore>, announce: bool) -> Self {
        Self {
            config,
            claim,
            cloud,
            reach,
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

    /// The policy it observes for.
    pub fn policy(&self) -> &Policy {
        &self.config.policy
    }

    /// Whether that instance is in the roster last seen.
    pub fn knows(&self, id: &InstanceId) -> bool {
        self.roster.as_ref().is_some_and(|(roster, _)| roster.find(id).is_some())
    }

    /// Nobody looked for a while: whoever was silent before may have answered since, so silence counts from now on.
    pub fn watch_anew(&mut self) {
        self.silences.clear();
        self.member_silences.clear();
        self.peers.forget();
        self.members.forget();
        self.roster_since = clock::now();
    }

    /// Forget the roster: somebody called who isn't in it.
    pub fn expire_roster(&mut self) {
        if let Some((_, seen)) = &mut self.roster {
            *seen = clock::now().checked_sub(ROSTER_SERVES).unwrap_or(*seen);
        }
    }

    /// One look at everything. `with_roster` sees the roster before any peer is asked, so that our own answers to them are
    /// already right.
    pub async fn look(&mut self, own: &LocalState, with_roster: impl FnOnce(&Known<Roster>)) -> View {
        let has_data = own.data != DataDir::Fresh;
        let me = own.listed.instance.clone();
        let patience = if has_data { ROSTER_PATIENCE_WITH_DATA } else { ROSTER_PATIENCE };
        let roster = self.look_at_roster(&me, patience).await;
        with_roster(&roster);
        // With EC2 out of sight, the peers of the last answer are still worth asking.
        let asked = roster.known().or(self.roster.as_ref().map(|(last, _)| last)).cloned().unwrap_or_default();
        let began = clock::now();
        let heard = self.look_at_peers(&asked, &me).await;
        if !watches_on(self.peers_asked, began, clock::now(), self.config.probe_timeout * QUESTIONS) {
            self.silences.clear();
        }
        self.peers_asked = Some(clock::now());
        let mut peers = BTreeMap::new();
        for (id, Heard { value: sighting, until, .. }) in heard.clone() {
            let silence = self.note_silence(&id, &sighting);
            let listed = asked.find(&id).and_then(|instance| addresses::listed(&self.config, instance));
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
            own_tags: Known::Unknown("not asked".to_owned()),
            roster_unchanged_for: clock::now() - self.roster_since,
            roster,
            peers,
            fates: BTreeMap::new(),
            owner_gone: Known::Unknown("not asked".to_owned()),
            twin: Twin::Nobody,
            log: None,
            unresolved: BTreeMap::new(),
            since_own_removal: own.since_own_removal,
        };
        self.ask_where_it_matters(&mut view, &heard, began).await;
        self.ask_whose_data(&mut view, own.told.as_ref()).await;
        self.joins = !view.living_clusters().is_empty();
        view
    }

    async fn look_at_roster(&mut self, me: &InstanceId, patience: Duration) -> Known<Roster> {
        // To read a file costs nothing.
        if let Some((roster, seen)) = &self.roster
            && self.config.written.is_none()
            && clock::now() - *seen < ROSTER_SERVES
        {
            return Known::Known(roster.clone());
        }
        let answer = tokio::time::timeout(patience, self.cloud.roster(me)).await;
        let roster = match answer {
            Ok(Ok(roster)) => roster,
            Ok(Err(error)) => return Known::Unknown(unlisted(&self.config, error)),
            Err(_) => {
                let cause = format!("no complete answer within {} s", patience.as_secs());
                return Known::Unknown(unlisted(&self.config, cause));
            }
        };
        let written = self.config.written.is_some();
        let shown = |roster: &Roster| {
            let all = roster.non_terminated().map(|i| (i.launched, i.id.clone(), i.address.filter(|_| written)));
            all.collect::<Vec<_>>()
        };
        if self.roster.as_ref().is_none_or(|(last, _)| shown(last) != shown(&roster)) {
            self.roster_since = clock::now();
        }
        self.reach.learn(&roster);
        let held = roster.non_terminated().filter_map(|i| Some((i.address?, i.id.clone())));
        self.holders.extend(held);
        self.roster = Some((roster.clone(), clock::now()));
        Known::Known(roster)
    }

    async fn look_at_peers(&mut self, roster: &Roster, me: &InstanceId) -> BTreeMap<InstanceId, Heard<PeerState>> {
        let mut heard = BTreeMap::new();
        let mut asked = Vec::new();
        for instance in roster.all().iter().filter(|i| i.id != *me && self.may_live(roster, i)) {
            match instance.address {
                Some(address) => asked.push((instance.id.clone(), address.to_string())),
                None => _ = heard.insert(instance.id.clone(), unheard("EC2 shows no private address")),
            }
        }
        let (reach, config, from) = (&self.reach, &self.config, self.announce.then(|| me.clone()));
        let sight = |(_, address): &(InstanceId, String)| {
            let probe = Probe {
                reach: reach.clone(),
                peer_url: addresses::peer_url(config, address),
                client_url: addresses::client_url(config, address),
                from: from.clone(),
                within: config.probe_timeout,
            };
            async move { probe.sight().await }
        };
        for ((id, _), answer) in self.peers.ask(&asked, self.joins, sight).await {
            // One that panicked said nothing: unknown, like silence.
            heard.insert(id, answer.unwrap_or_else(|| unheard("the probe failed")));
        }
        heard
    }

    /// EC2's `terminated` is for ever. An operator's may be a slip: whoever answers there lives, whatever is written.
    fn may_live(&self, roster: &Roster, instance: &Instance) -> bool {
        let handed_on = || roster.non_terminated().any(|i| i.address == instance.address);
        instance.state != InstanceState::Terminated || (self.config.written.is_some() && !handed_on())
    }

    fn note_silence(&mut self, id: &InstanceId, sighting: &PeerState) -> Option<PeerSilence> {
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

    /// Questions that cost a call each, asked only where the answer can change the decision.
    async fn ask_where_it_matters(
        &mut self,
        view: &mut View,
        heard: &BTreeMap<InstanceId, Heard<PeerState>>,
        began: Instant,
    ) {
        // Only a fresh node's founding depends on it.
        if view.data == DataDir::Fresh && view.living_clusters().is_empty() {
            view.claim = self.claim.read().await;
        }
        let Known::Known(roster) = view.roster.clone() else { return };
        if view.data == DataDir::Fresh && roster.find(&view.me.instance).is_none() {
            view.own_tags = match self.cloud.instance(&view.me.instance).await {
                Ok(Some(described)) => Known::Known(described.tags),
                Ok(None) => Known::Unknown("EC2 doesn't know this instance id in this region".to_owned()),
                Err(error) => Known::Unknown(error.to_string()),
            };
        }
        let living = view.living_clusters().values().next().map(|etcd| (*etcd).clone());
        match living {
            Some(etcd) => self.ask_fates(view, heard, &roster, &etcd, began).await,
            None => self.ask_impaired(view, &roster).await,
        }
        self.ask_names(view, &roster).await;
    }

    /// What bears on whether the data here is ours to run with; EC2 need not be in sight for it.
    async fn ask_whose_data(&self, view: &mut View, told: Option<&Told>) {
        let DataDir::Whole { ids } = &view.data else { return };
        if let Some(owner) = view.ledger.instance.clone().filter(|owner| *owner != view.me.instance) {
            view.owner_gone = match view.roster.known() {
                // One that is shutting down may still run its etcd.
                Some(roster) => self.ask_state(roster, &owner, |state| state == InstanceState::Terminated).await.0,
                None => Known::Unknown("EC2 is out of sight".to_owned()),
            };
        }
        if let Known::Known((cluster, member)) = *ids {
            view.twin = self.ask_twin(view, cluster, member).await;
            let told = told.filter(|told| (told.cluster, told.member) == (cluster, member));
            view.log = self.ask_log(view, cluster, member, told).await;
        }
    }

    /// Who else is the member that our data is of: at the URLs that any list of its cluster names for it, and where an instance of
    /// its name is.
    async fn ask_twin(&self, view: &View, cluster: ClusterId, member: MemberId) -> Twin {
        let holds = |peer: &Peer| matches!(&peer.sighting, PeerState::HasData(data) if (data.cluster, data.member) == (Some(cluster), Some(member)));
        if let Some((instance, _)) = view.peers.iter().find(|(_, peer)| holds(peer)) {
            return Twin::Holds { instance: instance.clone() };
        }
        let lists = view.etcds().map(|(_, etcd)| etcd).filter(|etcd| etcd.cluster == cluster);
        let entries = lists.flat_map(|etcd| etcd.members.iter().filter(|m| m.id == member));
        let own = &view.me.listed.peer_urls;
        let mut asked = BTreeSet::new();
        let mut doubt = Twin::Nobody;
        for entry in entries.filter(|m| !same_urls(&m.peer_urls, own)) {
            let mut urls = entry.client_urls.clone();
            let is_it = |listed: &ListedMember| {
                listed.name == entry.name || listed.peer_urls.iter().any(|url| entry.peer_urls.contains(url))
            };
            let peers = view.peers.values().filter(|peer| peer.listed.as_ref().is_some_and(is_it));
            urls.extend(peers.filter_map(|peer| match &peer.sighting {
                PeerState::Etcd(etcd) => Some(etcd.client_url.clone()),
                _ => None,
            }));
            let mut told = false;
            for url in urls.into_iter().filter(|url| asked.insert(url.clone())) {
                match self.reach.etcd.status(&url, self.config.probe_timeout).await {
                    Ok(status) if (status.cluster, status.member) == (cluster, member) => {
                        return Twin::Runs { at: url, name: entry.name.clone() };
                    }
                    Ok(_) => told = true,
                    Err(error) => log::debug!("whether {url} is member {member}: {error}"),
                }
            }
            // Its client port is mute without a leader; its peer port isn't.
            if !told && serves(&self.reach.etcd, &entry.peer_urls, cluster, self.config.probe_timeout).await {
                let cause = "which member it is can't be found out".to_owned();
                doubt = Twin::Unknown { at: entry.peer_urls.join(","), cause };
            }
        }
        doubt
    }

    /// Where our log ends, if another supervisor saw it go on, and says so now or said so before.
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
        let paths = addresses::paths(&self.config);
        let read = tokio::task::spawn_blocking(move || paths.log_end()).await;
        let here = match read {
            Ok(Ok(end)) => Known::Known(end),
            Ok(Err(cause)) => Known::Unknown(cause.to_string()),
            Err(cause) => Known::Unknown(cause.to_string()),
        };
        Some(LogSeen { here, before, by: by.clone() })
    }

    /// Whether the names resolve that a founding would list, asked by whom it would be up to: etcd looks them up for itself.
    async fn ask_names(&self, view: &mut View, roster: &Roster) {
        let is_near = || view.living_clusters().is_empty() && signs_of_a_cluster(view).is_none();
        if view.data != DataDir::Fresh || !is_near() {
            return;
        }
        let first = roster.non_terminated().take(self.config.policy.size(roster));
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
                let (within, asked) = (self.config.probe_timeout, (instance.id.clone(), url.clone()));
                let lookup = lookups.spawn(async move {
                    let found = tokio::time::timeout(within, tokio::net::lookup_host((host.as_str(), 0))).await;
                    match found {
                        Ok(Ok(mut addresses)) => addresses.next().is_none().then(|| "no address".to_owned()),
                        Ok(Err(error)) => Some(error.to_string()),
                        Err(_) => Some(format!("no answer within {} s", within.as_secs())),
                    }
                });
                names.insert(lookup.id(), asked);
            }
        }
        while let Some(ended) = lookups.join_next_with_id().await {
            // A lookup that panicked is an unknown, and an unknown name does not resolve.
            let (task, cause) = ended.unwrap_or_else(|panicked| (panicked.id(), Some(panicked.to_string())));
            if let (Some((id, url)), Some(cause)) = (names.remove(&task), cause) {
                view.unresolved.insert(id, format!("{url}: {cause}"));
            }
        }
    }

    /// N = 2: the other is silent for the whole grace time; is it broken by EC2's word?
    async fn ask_impaired(&self, view: &mut View, roster: &Roster) {
        let grace = self.config.policy.found_grace;
        if view.data != DataDir::Fresh || self.config.policy.size(roster) != 2 {
            return;
        }
        for (id, peer) in &mut view.peers {
            if matches!(peer.sighting, PeerState::Silent(_)) && peer.unanswered_for >= grace {
                peer.impaired = match self.cloud.is_impaired(id).await {
                    Ok(impaired) => Known::Known(impaired),
                    Err(error) => Known::Unknown(error.to_string()),
                };
            }
        }
    }

    /// What became of the members nobody was seen to be.
    async fn ask_fates(
        &mut self,
        view: &mut View,
        heard: &BTreeMap<InstanceId, Heard<PeerState>>,
        roster: &Roster,
        etcd: &EtcdSeen,
        began: Instant,
    ) {
        let (fates, unanswered) = self.who_answers(view, heard, &etcd.members, etcd.cluster).await;
        view.fates = fates;
        if !watches_on(self.members_asked, began, clock::now(), self.config.probe_timeout * 2 * QUESTIONS) {
            self.member_silences.clear();
        }
        self.members_asked = Some(clock::now());
        for member in &etcd.members {
            let Some((began, until)) = unanswered.get(&member.id) else { continue };
            // From the first question that he didn't answer to the end of the last: what is still open proves nothing yet.
            let since = *self.member_silences.entry(member.id).or_insert(*began);
            let instance = owner(member, roster, self.config.written.is_some());
            let instance = instance.or_else(|| self.last_holder(member));
            let (gone, ended_for) = match &instance {
                None => (Known::Unknown("no instance can be named".to_owned()), None),
                Some(id) => self.ask_gone(roster, id).await,
            };
            let silent_for = until.saturating_duration_since(since).max(ended_for.unwrap_or_default());
            view.fates.insert(member.id, Liveness::Silent(Silence { instance, gone, silent_for }));
        }
        self.member_silences.retain(|id, _| unanswered.contains_key(id));
    }

    /// Whose an unnamed member's address was when it was last seen in a roster. A written list says nothing of who is off it.
    fn last_holder(&self, member: &Member) -> Option<InstanceId> {
        if self.config.written.is_some() || !member.name.is_empty() {
            return None;
        }
        let hosts = addresses::hosts(&member.peer_urls.join(","));
        hosts.iter().find_map(|host| self.holders.get(&host.parse().ok()?).cloned())
    }

    /// Who answers, or may; and over which time the others were silent. All are asked at once, for several dead ones must not hold
    /// up a look one after another.
    async fn who_answers(
        &mut self,
        view: &View,
        heard: &BTreeMap<InstanceId, Heard<PeerState>>,
        members: &[Member],
        cluster: ClusterId,
    ) -> (BTreeMap<MemberId, Liveness>, BTreeMap<MemberId, (Instant, Instant)>) {
        let (mut fates, mut silent) = (BTreeMap::new(), BTreeMap::new());
        let mut asked = Vec::new();
        for member in members {
            let is_peer = |peer: &Peer| {
                peer.listed
                    .as_ref()
                    .is_some_and(|l| l.name == member.name || l.peer_urls.iter().any(|u| member.peer_urls.contains(u)))
            };
            match view.peers.iter().find(|(_, peer)| is_peer(peer)) {
                Some((_, peer)) if is_alive(&peer.sighting, cluster) => _ = fates.insert(member.id, Liveness::Answers),
                Some((id, _)) => {
                    silent.extend(heard.get(id).map(|heard| (member.id, (heard.began, heard.until))));
                }
                // Not in the roster: its address may still serve.
                None => asked.push(Asked {
                    member: member.id,
                    cluster,
                    urls: member.peer_urls.clone(),
                    never_ran: removal::never_ran(member),
                }),
            }
        }
        let (reach, within) = (&self.reach, self.config.probe_timeout);
        let own = &view.me.listed.peer_urls;
        let lives = |asked: &Asked| {
            let (reach, asked) = (reach.clone(), asked.clone());
            // Of one that never ran a supervisor may stand there, about to start it.
            let about_to_start = asked.never_ran && !same_urls(&asked.urls, own);
            async move {
                let runs = serves(&reach.etcd, &asked.urls, asked.cluster, within).await;
                runs || (about_to_start && supervised(&reach, &asked.urls, within).await)
            }
        };
        for (Asked { member, .. }, answer) in self.members.ask(&asked, self.joins, lives).await {
            match answer {
                Some(heard) if heard.value => _ = fates.insert(member, Liveness::Answers),
                Some(heard) => _ = silent.insert(member, (heard.began, heard.until)),
                // A probe that panics says nothing.
                None => _ = fates.insert(member, Liveness::Unknown),
            }
        }
        (fates, silent)
    }

    /// Gone by EC2's own word, by id: shutting-down, terminated, or no such instance; and for how long it has been terminated, so
    /// that a replacement need not watch a machine be silent that was off before it booted. `terminated` in a listing is as good
    /// as an answer to the question: it never changes again.
    async fn ask_gone(&self, roster: &Roster, id: &InstanceId) -> (Known<bool>, Option<Duration>) {
        let gone = |state| matches!(state, InstanceState::ShuttingDown | InstanceState::Terminated);
        self.ask_state(roster, id, gone).await
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
            _ => match self.cloud.instance(id).await {
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

/// The host of a URL, where it is a name.
fn named_host(url: &str) -> Option<String> {
    addresses::hosts(url).pop().filter(|host| host.parse::<IpAddr>().is_err())
}

/// Whether a supervisor answers at one of these peer URLs.
async fn supervised(reach: &PeerClients, urls: &[String], within: Duration) -> bool {
    for url in urls {
        if matches!(hello(&reach.rollcall, url, None, within).await, Ok(Answered::Hello(_))) {
            return true;
        }
    }
    false
}

/// Whether an etcd of that cluster serves one of these peer URLs, or something that can't be understood.
async fn serves(etcd: &client::Client, urls: &[String], cluster: ClusterId, within: Duration) -> bool {
    for url in urls {
        match etcd.peer_members(url, within).await {
            Ok(list) if list.cluster == cluster => return true,
            // No etcd may answer at that address now, as our own roll call does where we have taken it over.
            Err(client::Error::Http(error))
                if matches!(error.failure, Failure::Tls(_) | Failure::Protocol(_) | Failure::Closed(_)) =>
            {
                return true;
            }
            _ => {}
        }
    }
    false
}

/// Nobody could be asked, or nothing came of it.
fn unheard(why: &str) -> Heard<PeerState> {
    let now = clock::now();
    Heard { value: PeerState::Silent(why.to_owned()), began: now, until: now }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member that was restarted at two looks five minutes apart was never silent for five minutes.
    #[test]
    fn what_nobody_looked_at_was_not_silent() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let questions = Duration::from_secs(12);
        let watches_on =
            |last: Option<u64>, began, ended| super::watches_on(last.map(at), at(began), at(ended), questions);
        assert!(!watches_on(None, 0, 1), "the first look");
        assert!(watches_on(Some(10), 11, 12) && watches_on(Some(10), 40, 46));
        assert!(!watches_on(Some(10), 41, 42), "nobody looked for 31 s");
        assert!(watches_on(Some(10), 20, 32), "it may wait for 12 s, by its own timeouts");
        assert!(!watches_on(Some(10), 11, 41), "it was frozen while it looked");
    }
}
