//! What the lines of a scenario say: each changes what is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use etcd_muster::config;
use etcd_muster::core::decide::{Running, YIELD_AFTER};
use etcd_muster::core::paxos::{Accepted, Call, Joined, Ledger, LeftBehind};
use etcd_muster::core::restart::{Ended, ProcessRun};
use etcd_muster::core::types::{ClusterId, InitialList, Instance, InstanceId, InstanceState, Known, MemberId, Roster};
use etcd_muster::core::view::Claim;
use etcd_muster::core::view::ClaimState;
use etcd_muster::core::view::{DataDir, DataSeen, Liveness, PeerState, Policy, Silence, View};

use crate::common::*;
use crate::words::*;

/// A member whose instance nobody can name.
pub const NOBODY: char = '-';

/// What a `then:` is about.
pub enum Question {
    Look,
    Attend(Running),
    Ended(ProcessRun, String),
    Call(Call),
}

/// All that the lines so far have said.
pub struct Story {
    pub settings: BTreeMap<String, String>,
    pub lists: BTreeMap<ClusterId, InitialList>,
    /// EC2's last answer; the view's is unknown while EC2 can't be asked.
    pub shown: Roster,
    pub view: View,
    /// Fresh peers that count the founding we count, whichever that is when we look.
    pub agreeing: BTreeSet<InstanceId>,
    /// Members that answer without being among the peers.
    pub answering: BTreeSet<MemberId>,
    pub question: Question,
}

impl Story {
    pub fn new() -> Self {
        Self {
            settings: BTreeMap::new(),
            lists: BTreeMap::new(),
            shown: Roster::new(Vec::new(), NOW),
            view: view(NOBODY, ""),
            agreeing: BTreeSet::new(),
            answering: BTreeSet::new(),
            question: Question::Look,
        }
    }

    /// A line that changes what is seen. The first after a `then:` begins another look.
    pub fn hear(&mut self, key: &str, value: &str, first: bool) -> Parsed<()> {
        if first {
            self.question = Question::Look;
        }
        match words(key).as_slice() {
            ["settings"] => words(value).into_iter().try_for_each(|pair| self.set(pair)),
            ["list", cluster] => {
                let members = letters(&words(value))?.into_iter().map(listed).collect();
                self.lists.insert(cluster_id(cluster)?, InitialList::empty(members, format!("token-{cluster}")));
                Ok(())
            }
            ["we", "are"] => self.be(value),
            ["we", "remember"] => split(value, ',').into_iter().try_for_each(|part| self.remember(part)),
            ["our", "tags"] => {
                let pair = |tag: &str| tag.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
                let tags: Option<Vec<_>> = words(value).into_iter().map(pair).collect();
                self.view.own_tags = Known::Known(tags.map_or_else(|| not_understood(value), Ok)?);
                Ok(())
            }
            ["our", "old", "id"] => {
                let age = value.strip_prefix("removed ").and_then(|rest| rest.strip_suffix(" ago"));
                self.view.since_own_removal = Some(duration(age.map_or_else(|| not_understood(value), Ok)?)?);
                Ok(())
            }
            ["our", "etcd"] => self.run(value),
            ["etcd"] => self.end(value),
            ["EC2"] => self.show(value, Roster::new, "EC2 can't be asked: "),
            ["roster"] => self.show(value, Roster::written, ""),
            ["claim"] => self.claim(value),
            ["later"] => duration(value).map(|time| self.pass(time)),
            ["member", name] if name.starts_with("i-") => self.lose(member_id(letter(name)?), letter(name)?, value),
            ["member", member, "of", name] => self.lose(MemberId(hex(member)?), letter(name)?, value),
            [name, "asks"] => self.ask(name, value),
            peers @ [first, ..] if first.starts_with("i-") => {
                letters(peers)?.into_iter().try_for_each(|peer| self.say(peer, value))
            }
            _ => Err(format!("\"{key}:\" is no line of a scenario")),
        }
    }

    // ---- ourselves

    /// Read as the program reads its environment, so that a misspelt setting is refused here too.
    fn set(&mut self, pair: &str) -> Parsed<()> {
        let (name, value) = pair.split_once('=').map_or_else(|| not_understood(pair), Ok)?;
        if !config::VARIABLES.iter().any(|known| known.name == name) {
            return Err(format!("{name} is no setting"));
        }
        self.settings.insert(name.to_owned(), value.to_owned());
        self.policy().map(drop)
    }

    pub fn policy(&self) -> Parsed<Policy> {
        let problems = |all: Vec<config::Problem>| all.iter().map(ToString::to_string).collect();
        config::read(&self.settings).map(|config| config.policy()).map_err(problems)
    }

    /// Another instance takes up the story: it remembers nothing and has heard nobody; EC2's answer stays.
    fn be(&mut self, value: &str) -> Parsed<()> {
        let parts = split(value, ',');
        let name = letter(parts.first().unwrap_or(&""))?;
        if self.view.me.instance != id(name) {
            let View { roster, roster_unchanged_for, claim, .. } = self.view.clone();
            self.view = View { roster, roster_unchanged_for, claim, ..view(name, "") };
            self.answering.clear();
        }
        self.view.me.listed = listed(name);
        self.view.yielded = false;
        self.view.condemned = None;
        let mut data = None;
        for part in parts.into_iter().skip(1) {
            let (text, cause) = aside(part);
            match words(text).as_slice() {
                ["fresh"] => data = Some(DataDir::Fresh),
                ["with", "data", "of", cluster] => data = Some(whole(cluster, member_id(name))?),
                ["with", "data", "of", cluster, "as", "member", id] => data = Some(whole(cluster, MemberId(hex(id)?))?),
                ["with", "unreadable", "data"] => data = Some(DataDir::Whole { ids: Known::Unknown(cause) }),
                ["with", "half", "of", "its", "data"] => data = Some(DataDir::Partial { what: cause }),
                ["its", "etcd", "just", "yielded"] => self.view.yielded = true,
                ["condemned"] => self.view.condemned = Some(cause),
                ["at", "a", "new", "address"] => self.view.me.listed.peer_urls = vec![ELSEWHERE.to_owned()],
                ["at", whose, "address"] => {
                    self.view.me.listed.peer_urls = listed(letter(whose.trim_end_matches("'s"))?).peer_urls;
                }
                ["named", other] => (*other).clone_into(&mut self.view.me.listed.name),
                _ => return not_understood(part),
            }
        }
        self.view.data = data.ok_or("say whether we are fresh or have data")?;
        Ok(())
    }

    /// What our ledger holds besides what it held.
    fn remember(&mut self, part: &str) -> Parsed<()> {
        let list = |cluster: &str| self.list(cluster);
        let mut ledger = self.view.ledger.clone();
        match words(part).as_slice() {
            ["nothing"] => ledger = Ledger { nonce: ledger.nonce, ..Ledger::default() },
            ["promising", "round", round, "of", proposer] => ledger.promised = Some(ballot(round, proposer)?),
            ["accepting", "list", cluster] => {
                let ballot = ledger.promised.clone().ok_or("an acceptance follows a promise: remember that first")?;
                ledger.accepted = Some(Accepted { ballot, list: list(cluster)? });
            }
            ["list", cluster, "was", "chosen"] => ledger.chosen = Some(list(cluster)?),
            ["starting", "list", cluster] => (ledger.chosen, ledger.founded) = (Some(list(cluster)?), true),
            ["the", "claim", "was", "free"] => ledger.saw_unclaimed = true,
            ["etcd", "never", "had", "a", "leader"] => ledger.never_elected = true,
            ["etcd", "had", "a", "leader"] => ledger.never_elected = false,
            ["moving", "the", "data", "aside"] => ledger.left_behind(LeftBehind::MayHaveVoted),
            ["moving", "void", "data", "aside"] => ledger.left_behind(LeftBehind::Void),
            [how @ ("adding" | "starting"), "member", member, "of", cluster] => {
                let (cluster, member) = (cluster_id(cluster)?, MemberId(hex(member)?));
                ledger.joined = Some(Joined { cluster, member, spawned: *how == "starting" });
            }
            _ => return not_understood(part),
        }
        self.view.ledger = ledger;
        Ok(())
    }

    fn list(&self, cluster: &str) -> Parsed<InitialList> {
        self.lists.get(&cluster_id(cluster)?).cloned().ok_or_else(|| format!("list {cluster} is not defined yet"))
    }

    /// Our running etcd.
    fn run(&mut self, value: &str) -> Parsed<()> {
        let DataDir::Whole { ids: Known::Known((_, member)) } = self.view.data else {
            return Err("our etcd runs with data: say `we are: i-a, with data of c1`".to_owned());
        };
        let (never_elected, yield_after) = (self.view.ledger.never_elected, YIELD_AFTER);
        let (is_learner, has_leader, without_leader_for) = (false, false, Duration::ZERO);
        let mut running = Running { member, is_learner, has_leader, never_elected, without_leader_for, yield_after };
        for part in split(value, ',') {
            match words(part).as_slice() {
                ["a", "voter"] => running.is_learner = false,
                ["a", "learner"] => running.is_learner = true,
                ["has", "a", "leader"] => running.has_leader = true,
                ["no", "leader", "for", lasted] => running.without_leader_for = duration(lasted)?,
                _ => return not_understood(part),
            }
        }
        self.question = Question::Attend(running);
        Ok(())
    }

    /// Our etcd's end.
    fn end(&mut self, value: &str) -> Parsed<()> {
        let (ended, lasted) = (Ended::Exited(0), Duration::ZERO);
        let mut life = ProcessRun { ended, lasted, served: false, short_lives_before: 0, damaged_before: 0 };
        let mut output = String::new();
        for part in split(value, ',') {
            match words(part).as_slice() {
                ["exits", "with", code] => life.ended = Ended::Exited(number(code)?),
                ["is", "killed", "by", "signal", signal] => life.ended = Ended::Signaled(number(signal)?),
                ["says", quoted] => quoted.trim_matches('"').clone_into(&mut output),
                ["after", "serving"] => life.served = true,
                ["after", lives, "short", "lives"] => life.short_lives_before = number(lives)?,
                ["after", lives, "short", "lives", "like", "it"] => {
                    life.short_lives_before = number(lives)?;
                    life.damaged_before = life.short_lives_before;
                }
                _ => return not_understood(part),
            }
        }
        self.question = Question::Ended(life, output);
        Ok(())
    }

    /// A call of the founding that another instance makes to us.
    fn ask(&mut self, who: &str, value: &str) -> Parsed<()> {
        let charter = |roster: &Roster| Ok::<_, String>(self.policy()?.charter(roster));
        let call = match words(value).as_slice() {
            ["promise", "round", round] => {
                Call::Prepare { charter: charter(&self.shown)?, ballot: ballot(round, who)? }
            }
            ["promise", "round", round, "seeing", names @ ..] => {
                Call::Prepare { charter: charter(&self.as_seen(names)?)?, ballot: ballot(round, who)? }
            }
            ["accept", "list", cluster, "in", "round", round] => {
                let (charter, ballot) = (charter(&self.shown)?, ballot(round, who)?);
                Call::Accept { charter, ballot, list: self.list(cluster)? }
            }
            ["learn", "list", cluster] => {
                Call::Chosen { charter: Some(charter(&self.shown)?), list: self.list(cluster)? }
            }
            _ => return not_understood(value),
        };
        self.question = Question::Call(call);
        Ok(())
    }

    // ---- the others

    /// By EC2, or as an operator wrote it: then no age is known but what is said.
    fn show(&mut self, value: &str, by: fn(Vec<Instance>, i64) -> Roster, unknown: &str) -> Parsed<()> {
        let written = self.policy()?.written;
        if written != unknown.is_empty() {
            return Err("`EC2:` lists instances, or with MUSTER_HOSTS set `roster:`".to_owned());
        }
        if let ("can't be asked", cause) = aside(value) {
            // In the observer's words.
            self.view.roster = Known::Unknown(format!("{unknown}{cause}"));
            return Ok(());
        }
        let mut instances = Vec::new();
        for part in split(value, ',') {
            let said = words(part);
            let (names, how) = said.split_at(said.iter().take_while(|w| w.starts_with("i-")).count());
            let (state, age) = match how {
                [state] => (state, None),
                [state, "launched", age, "ago"] => (state, Some(duration(age)?)),
                _ => return not_understood(part),
            };
            let state = InstanceState::parse(state).map_or_else(|| not_understood(part), Ok)?;
            for name in letters(names)? {
                let mut one = instance(name, state);
                one.launched = match (age, self.shown.find(&one.id)) {
                    (Some(age), _) => Some(self.shown.seen_at - age.as_secs().cast_signed()),
                    (None, Some(known)) => known.launched,
                    (None, None) if written => None,
                    (None, None) => one.launched.map(|at| at + self.shown.seen_at - NOW),
                };
                instances.push(one);
            }
        }
        let roster = by(instances, self.shown.seen_at);
        let standing =
            |roster: &Roster| roster.non_terminated().map(|i| (i.launched, i.id.clone())).collect::<Vec<_>>();
        if standing(&roster) != standing(&self.shown) {
            self.view.roster_unchanged_for = Duration::ZERO;
        }
        self.view.peers.retain(|id, _| roster.non_terminated().any(|i| i.id == *id));
        self.view.roster = Known::Known(roster.clone());
        self.shown = roster;
        Ok(())
    }

    fn claim(&mut self, value: &str) -> Parsed<()> {
        let held = |claim| ClaimState::Held { claim, version: "1".to_owned() };
        let (text, cause) = aside(value);
        self.view.claim = match words(text).as_slice() {
            ["free"] => ClaimState::Absent,
            ["can't", "be", "read"] => ClaimState::Unknown(cause),
            ["for", "list", cluster] => held(Claim::Founding { list: self.list(cluster)? }),
            [cluster, "is", "established"] => held(Claim::Established { cluster: cluster_id(cluster)? }),
            _ => return not_understood(value),
        };
        Ok(())
    }

    /// As another instance sees EC2, with the launch times we know.
    fn as_seen(&self, names: &[&str]) -> Parsed<Roster> {
        let known =
            |name| self.shown.find(&id(name)).cloned().unwrap_or_else(|| instance(name, InstanceState::Running));
        let seen = letters(names)?.into_iter().map(known).collect();
        let by = if self.policy()?.written { Roster::written } else { Roster::new };
        Ok(by(seen, self.shown.seen_at))
    }

    /// All that lasts has lasted longer.
    fn pass(&mut self, time: Duration) {
        self.shown.seen_at += time.as_secs().cast_signed();
        if let Known::Known(roster) = &mut self.view.roster {
            roster.seen_at = self.shown.seen_at;
        }
        self.view.roster_unchanged_for += time;
        self.view.since_own_removal = self.view.since_own_removal.map(|since| since + time);
        self.view.liveness.values_mut().for_each(|fate| {
            if let Liveness::Silent(silence) = fate {
                silence.silent_for += time;
            }
        });
        let silent = self.view.peers.values_mut().filter(|peer| !answers(&peer.sighting));
        silent.for_each(|peer| peer.unanswered_for += time);
    }

    fn say(&mut self, name: char, value: &str) -> Parsed<()> {
        let parts = split(value, ',');
        let (text, cause) = aside(parts.first().unwrap_or(&""));
        let said = words(text);
        let sighting = match said.as_slice() {
            ["fresh"] => fresh(name, &self.policy()?.charter(&self.shown)),
            ["etcd", "of", cluster, how @ ("with" | "without"), "quorum"] => {
                of_cluster(etcd("", *how == "with"), cluster)?
            }
            ["holds", "data"] => seen_data(None, None),
            ["holds", "data", "of", cluster] => seen_data(Some(cluster_id(cluster)?), None),
            ["refused"] | ["refused", _] => PeerState::Refused,
            ["silent"] | ["silent", _] => PeerState::Silent(cause),
            ["mismatch"] => PeerState::Mismatch(cause),
            _ => return not_understood(value),
        };
        let lasted = said.get(1).filter(|_| !answers(&sighting)).map(|lasted| duration(lasted)).transpose()?;
        // A silence goes on from the look before, whatever its kind, as the program counts it.
        let before = self.view.peers.get(&id(name)).filter(|p| lasted.is_none() && !answers(&p.sighting));
        let silent = lasted.or(before.map(|p| p.unanswered_for)).unwrap_or_default();
        let refused_before = before.is_none_or(|p| p.refused_throughout);
        let mut peer = peer(name, sighting, silent);
        peer.refused_throughout &= refused_before;
        self.agreeing.insert(id(name));
        for part in &parts[1..] {
            match (&mut peer.sighting, words(part).as_slice()) {
                (PeerState::Fresh(fresh), ["promised", "round", round, "of", proposer]) => {
                    fresh.promised = Some(ballot(round, proposer)?);
                }
                (PeerState::Fresh(fresh), ["named", name]) => (*name).clone_into(&mut fresh.listed.name),
                (PeerState::Fresh(fresh), ["sees", seen @ ..]) => {
                    let no_roster = seen == ["no", "roster", "yet"];
                    let roster = if no_roster { None } else { Some(self.as_seen(seen)?) };
                    fresh.charter =
                        roster.map(|roster| Ok::<_, String>(self.policy()?.charter(&roster))).transpose()?;
                    self.agreeing.remove(&id(name));
                }
                (PeerState::Fresh(fresh), ["knows", "list", cluster, "was", "chosen"]) => {
                    fresh.chosen = Some(self.list(cluster)?);
                }
                (PeerState::HasData(DataSeen { chosen, .. }), ["knows", "list", cluster, "was", "chosen"]) => {
                    *chosen = Some(self.list(cluster)?);
                }
                (PeerState::Etcd(etcd), ["members", members @ ..]) => {
                    etcd.members = members.iter().map(|word| member(word)).collect::<Parsed<_>>()?;
                }
                (PeerState::Silent(_), ["impaired", "by", "EC2's", "word"]) => peer.impaired = Known::Known(true),
                (PeerState::Silent(_), ["not", "impaired", "by", "EC2's", "word"]) => {
                    peer.impaired = Known::Known(false)
                }
                _ => return not_understood(part),
            }
        }
        if matches!(&peer.sighting, PeerState::Etcd(etcd) if etcd.members.is_empty()) {
            return Err("say which members that etcd lists".to_owned());
        }
        self.view.peers.insert(id(name), peer);
        Ok(())
    }

    /// What became of a member that no peer was seen to be.
    fn lose(&mut self, member: MemberId, name: char, value: &str) -> Parsed<()> {
        self.answering.remove(&member);
        let gone = Known::Unknown("not asked".to_owned());
        let mut silence = Silence { instance: Some(id(name)), gone, silent_for: Duration::ZERO };
        for part in split(value, ',') {
            let (text, cause) = aside(part);
            match words(text).as_slice() {
                ["answers"] => {
                    self.answering.insert(member);
                }
                ["silent", lasted] => silence.silent_for = duration(lasted)?,
                ["gone", "by", "EC2's", "word"] => silence.gone = Known::Known(true),
                ["in", "being", "by", "EC2's", "word"] => silence.gone = Known::Known(false),
                ["EC2", "can't", "say"] => silence.gone = Known::Unknown(cause),
                ["no", "instance", "can", "be", "named"] => silence.instance = None,
                _ => return not_understood(part),
            }
        }
        self.view.liveness.insert(member, Liveness::Silent(silence));
        Ok(())
    }
}

fn answers(sighting: &PeerState) -> bool {
    !matches!(sighting, PeerState::Refused | PeerState::Silent(_))
}

fn of_cluster(mut sighting: PeerState, cluster: &str) -> Parsed<PeerState> {
    if let PeerState::Etcd(etcd) = &mut sighting {
        etcd.cluster = cluster_id(cluster)?;
    }
    Ok(sighting)
}
