//! What is made of a story: the view of this moment, and the program's answer to it in words.

use std::collections::BTreeSet;
use std::time::Duration;

use etcd_muster::core::decide::{Attend, attend, decide};
use etcd_muster::core::paxos::{Answer, answer};
use etcd_muster::core::restart::{ProcessRun, Verdict, verdict};
use etcd_muster::core::step::Step;
use etcd_muster::core::types::{ClusterId, InitialList, InstanceState, Known, ListedMember, Member};
use etcd_muster::core::view::{DataDir, Liveness, PeerState, View};

use crate::common::{fate, id};
use crate::story::{NOBODY, Question, Story};
use crate::words::Parsed;

impl Story {
    /// What the program makes of it, for a golden line of that key. `None`: the line is no golden one.
    pub fn outcome(&mut self, key: &str) -> Parsed<Option<String>> {
        let told = match (key, &self.question) {
            ("then", Question::Attend(running)) => attend_in_words(attend(running)),
            ("then", Question::Ended(life, output)) => verdict_in_words(life, output),
            ("then", Question::Call(call)) => {
                let standing = self.look()?.acceptor_context(&self.policy()?);
                let (answer, next) = answer(&self.view.ledger, &standing, call);
                self.view.ledger = next.unwrap_or_else(|| self.view.ledger.clone());
                self.answer_in_words(&answer)
            }
            ("then", Question::Look) => decide(&self.policy()?, &self.look()?).to_string(),
            ("peers are told", _) => {
                let standing = self.look()?.acceptor_context(&self.policy()?);
                let list = self.view.ledger.valid_choice(&standing);
                list.map_or("of no chosen list".to_owned(), |list| format!("{} was chosen", self.list_in_words(list)))
            }
            ("initial cluster", _) => match decide(&self.policy()?, &self.look()?) {
                Step::StartExisting { initial_cluster, .. } => initial_cluster,
                other => return Err(format!("no etcd joins here: {other}")),
            },
            _ => return Ok(None),
        };
        Ok(Some(told))
    }

    /// The view of this moment. A story with a gap, or one that contradicts itself, proves nothing: it fails.
    fn look(&self) -> Parsed<View> {
        let mut view = self.view.clone();
        if view.me.instance == id(NOBODY) {
            return Err("nobody looks: say `we are: i-a, fresh`".to_owned());
        }
        let others: BTreeSet<_> =
            self.shown.non_terminated().map(|i| &i.id).filter(|id| **id != view.me.instance).collect();
        if let Some(mute) = others.iter().find(|id| !view.peers.contains_key(id)) {
            return Err(format!("nothing says what {mute} answers"));
        }
        if let Some(stray) = view.peers.keys().find(|id| !others.contains(id)) {
            return Err(format!("{stray} answers, but is not among the others EC2 lists"));
        }
        let charter = self.policy()?.charter(&self.shown);
        for (_, peer) in view.peers.iter_mut().filter(|(id, _)| self.agreeing.contains(id)) {
            if let PeerState::Fresh(fresh) = &mut peer.sighting {
                fresh.charter = Some(charter.clone());
            }
        }
        let cluster_of = |list: &InitialList| self.lists.iter().find(|(_, l)| *l == list).map(|(cluster, _)| *cluster);
        view.accepted_cluster = view.ledger.accepted.as_ref().and_then(|a| cluster_of(&a.list));
        view.chosen_cluster = view.ledger.chosen.as_ref().and_then(cluster_of);
        view.liveness.clear();
        let living = view.living_clusters().into_values().next().cloned();
        // As the program: asked by a fresh node alone, and only while EC2 answers.
        if let Some(etcd) = living.filter(|_| view.data == DataDir::Fresh && view.roster.known().is_some()) {
            for member in &etcd.members {
                self.find_fate(etcd.cluster, member, &mut view)?;
            }
        }
        Ok(view)
    }

    fn find_fate(&self, cluster: ClusterId, member: &Member, view: &mut View) -> Parsed<()> {
        let is_it = |listed: &ListedMember| listed.name == member.name || listed.peer_urls == member.peer_urls;
        let mut seen = view.peers.values().filter(|p| p.listed.as_ref().is_some_and(is_it));
        let serves = |s: &PeerState| matches!(s, PeerState::Etcd(etcd) if etcd.cluster == cluster);
        if self.answering.contains(&member.id) || seen.any(|peer| serves(&peer.sighting)) {
            view.liveness.insert(member.id, Liveness::Answers);
            return Ok(());
        }
        let fate = match self.view.liveness.get(&member.id) {
            Some(fate) => fate.clone(),
            None if is_it(&view.me.listed) => fate(NOBODY, Known::Known(false), Duration::ZERO),
            None => return Err(format!("nothing says what became of member {} {}", member.id, member.name)),
        };
        let gone = |state| matches!(state, InstanceState::ShuttingDown | InstanceState::Terminated);
        let Liveness::Silent(silence) = &fate else { return Err(format!("{} is not said to be silent", member.id)) };
        let shown = silence.instance.as_ref().and_then(|id| self.shown.find(id));
        if let Some(shown) = shown.filter(|shown| silence.gone != Known::Known(gone(shown.state))) {
            return Err(format!("EC2 shows {} {}, and its member's line says otherwise", shown.id, shown.state.name()));
        }
        view.liveness.insert(member.id, fate);
        Ok(())
    }

    fn list_in_words(&self, list: &InitialList) -> String {
        let known = self.lists.iter().find(|(_, known)| *known == list);
        known.map_or_else(|| format!("a list of {}", list.initial_cluster()), |(cluster, _)| format!("list {cluster}"))
    }

    fn answer_in_words(&self, answer: &Answer) -> String {
        match answer {
            Answer::Promised { accepted: None } => "promise, nothing was accepted before".to_owned(),
            Answer::Promised { accepted: Some(accepted) } => {
                format!("promise, {} was accepted before", self.list_in_words(&accepted.list))
            }
            Answer::Accepted => "accept".to_owned(),
            Answer::Refused { promised } => format!("refuse: ballot {promised} was promised"),
            Answer::Chosen { list } => format!("answer: {} was chosen", self.list_in_words(list)),
            Answer::DifferentRoster { .. } => "refuse: another roster".to_owned(),
            Answer::HasData => "refuse: this node holds data".to_owned(),
            Answer::Unfit { why } => format!("refuse: {why}"),
        }
    }
}

fn attend_in_words(attend: Attend) -> String {
    match attend {
        Attend::Keep => "keep etcd running".to_owned(),
        Attend::Promote(member) => format!("promote member {member} to voter"),
        Attend::Yield => "yield: stop etcd, serve the chosen list for a while, start it again".to_owned(),
    }
}

/// The pause is random between half and whole.
fn verdict_in_words(life: &ProcessRun, output: &str) -> String {
    match (verdict(life, output, 0.0), verdict(life, output, 1.0)) {
        (Verdict::Again(least), Verdict::Again(most)) => format!("decide again in {least:?} to {most:?}"),
        (Verdict::Condemned { said, pause: least }, Verdict::Condemned { pause: most, .. }) => {
            format!("condemn the data ({said}): decide again when a quorum answers, or in {least:?} to {most:?}")
        }
        _ => "stop: etcd can't work with these settings; no data is touched".to_owned(),
    }
}
