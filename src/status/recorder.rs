//! What happened: recorded by the daemon, read by the pages.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::journal::{Entry, Journal, Seen};
use super::snapshot::{ApiCount, Certificate, Decision, Etcd, Listed, Members, Moment, PlaceStatus, Snapshot, Who};
use crate::core::label::Label;
use crate::core::types::{ClusterId, Member, MemberId};
use crate::util::clock;
use crate::util::lock::lock;
use crate::util::log_once::without_numbers;
use crate::util::logger;
use crate::util::meter::{Api, ApiCounters};
use crate::util::words;

/// How many decisions are stored.
const KEPT: usize = 50;
/// A reason that names a hundred instances is cut: fifty of them must not take a megabyte.
const LONGEST_REASON: usize = 1000;
/// A member list older than this does not describe the present; at rest one is read every minute.
const MEMBERS_COUNT_FOR: Duration = Duration::from_secs(150);

/// A handle; all its clones describe the same node.
#[derive(Clone, Debug)]
pub struct StatusRecorder(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    began: (Instant, SystemTime),
    /// Without a heartbeat for this long, the loop counts as dead.
    patience: Duration,
    heartbeat: Instant,
    meters: ApiCounters,
    who: Option<Who>,
    label: Label,
    reason: String,
    since: (Instant, SystemTime),
    stopping: bool,
    ready: bool,
    healthy_at: Option<Instant>,
    pid: Option<i32>,
    lives: u64,
    ids: Option<(ClusterId, MemberId)>,
    role: Option<&'static str>,
    members: Option<(Members, Instant)>,
    /// `MUSTER_CLUSTER_SIZE`.
    wanted: Option<usize>,
    claim: Option<&'static str>,
    listed: Vec<Listed>,
    certificates: Vec<Certificate>,
    snapshots: Vec<PlaceStatus>,
    counts: BTreeMap<&'static str, u64>,
    failures: u64,
    past: VecDeque<Past>,
    /// What the latest decision rested on.
    evidence: Option<(Label, Seen)>,
    /// `None`: not yet, or nowhere.
    journal: Option<Journal>,
}

#[derive(Debug)]
struct Past {
    at: SystemTime,
    label: Label,
    reason: String,
}

impl StatusRecorder {
    /// A recorder that begins now.
    pub fn new(patience: Duration) -> Self {
        let began = (clock::now(), clock::wall());
        Self(Arc::new(Mutex::new(State {
            began,
            patience,
            heartbeat: began.0,
            meters: ApiCounters::default(),
            who: None,
            label: Label { step: "start", kind: "" },
            reason: "determining which instance this is".to_owned(),
            since: began,
            stopping: false,
            ready: false,
            healthy_at: None,
            pid: None,
            lives: 0,
            ids: None,
            role: None,
            members: None,
            wanted: None,
            claim: None,
            listed: Vec::new(),
            certificates: Vec::new(),
            snapshots: Vec::new(),
            counts: Label::DECISIONS.iter().map(|step| (*step, 0)).collect(),
            failures: 0,
            past: VecDeque::new(),
            evidence: None,
            journal: None,
        })))
    }

    /// Where calls are counted.
    pub fn set_meters(&self, meters: &ApiCounters) {
        self.state().meters = meters.clone();
    }

    /// Which instance this is.
    pub fn set_identity(&self, instance: &str, address: &str, region: Option<&str>) {
        let fit = |word| words::on_one_line(word).into_owned();
        let (instance, address, region) = (fit(instance), fit(address), region.map(fit));
        self.state().who = Some(Who { instance, address, region });
    }

    /// `MUSTER_CLUSTER_SIZE`.
    pub fn set_wanted(&self, members: Option<usize>) {
        self.state().wanted = members;
    }

    /// How many members the cluster is to have; `None`: as many as there are instances.
    pub fn wanted(&self) -> Option<usize> {
        self.state().wanted
    }

    /// Whether the loop has sent a heartbeat within that time.
    pub fn is_live(&self) -> bool {
        self.state().is_live(clock::now())
    }

    /// The loop is alive.
    pub fn heartbeat(&self) {
        self.state().heartbeat = clock::now();
    }

    /// From now on decisions are kept there as well, beginning with those so far.
    pub fn keep_in(&self, journal: Journal) {
        let mut state = self.state();
        for past in &state.past {
            journal.write(state.entry(past, Seen::new()));
        }
        state.journal = Some(journal);
    }

    /// Waits a moment until what was decided is on its way to the disk.
    pub fn flush(&self) {
        let journal = self.state().journal.clone();
        if let Some(journal) = journal {
            journal.flush();
        }
    }

    /// `decide` returned this step, for what was seen.
    pub fn decided(&self, label: Label, seen: Seen) {
        let mut state = self.state();
        *state.counts.entry(label.step).or_default() += 1;
        state.evidence = Some((label, seen));
    }

    /// This was done beside the current step, which goes on.
    pub fn done_beside(&self, label: Label, line: &str, seen: Seen) {
        let mut state = self.state();
        state.evidence = Some((label, seen));
        state.remember(label, reason(label, line));
    }

    /// What the node does from now on, and why; false: nothing changed. The line may begin with the step's own words.
    pub fn set_step(&self, label: Label, line: &str) -> bool {
        let reason = reason(label, line);
        let mut state = self.state();
        state.heartbeat = clock::now();
        let news = state.label != label || without_numbers(&state.reason) != without_numbers(&reason);
        if news {
            (state.label, state.since) = (label, (clock::now(), clock::wall()));
            state.remember(label, reason.clone());
        }
        state.reason = reason;
        news
    }

    /// A step failed; the next observation decides how to continue.
    pub fn failed(&self, label: Label, line: &str) {
        let mut state = self.state();
        state.failures += 1;
        let label = Label { kind: "failed", ..label };
        let reason = reason(label, line);
        if state
            .past
            .iter()
            .rev()
            .find(|p| p.label == label)
            .is_none_or(|p| without_numbers(&p.reason) != without_numbers(&reason))
        {
            state.remember(label, reason);
        }
    }

    /// etcd was started.
    pub fn started(&self, pid: i32) {
        let mut state = self.state();
        state.pid = Some(pid);
        state.lives += 1;
        drop(state);
        self.set_step(Label::run("starting"), &format!("etcd runs as process {pid} but does not serve yet"));
    }

    /// etcd has ended.
    pub fn ended(&self) {
        let mut state = self.state();
        (state.pid, state.role, state.ready) = (None, None, false);
    }

    /// The member whose data is here.
    pub fn set_data(&self, ids: Option<(ClusterId, MemberId)>) {
        self.state().ids = ids;
    }

    /// etcd has identified itself.
    pub fn set_member(&self, cluster: ClusterId, member: MemberId, is_learner: bool) {
        let mut state = self.state();
        state.ids = Some((cluster, member));
        state.role = Some(if is_learner { "learner" } else { "voter" });
    }

    /// Whether etcd is a healthy voter.
    pub fn set_ready(&self, ready: bool) {
        let mut state = self.state();
        state.ready = ready;
        if ready {
            state.healthy_at = Some(clock::now());
        }
    }

    /// A member list was read.
    pub fn record_members(&self, members: &[Member]) {
        let of = |kind: fn(&Member) -> bool| members.iter().filter(|m| kind(m)).count();
        let listed =
            |m: &Member| Listed { member: m.id.to_string(), name: m.name.clone(), client_urls: m.client_urls.clone() };
        let listed = members.iter().map(listed).collect();
        let members = Members {
            unstarted: of(|m| m.name.is_empty()),
            learners: of(|m| !m.name.is_empty() && m.is_learner),
            voters: of(|m| !m.name.is_empty() && !m.is_learner),
            seconds_ago: 0,
        };
        let mut state = self.state();
        state.members = Some((members, clock::now()));
        state.listed = listed;
    }

    /// The claim was read.
    pub fn set_claim(&self, claim: &'static str) {
        self.state().claim = Some(claim);
    }

    /// When the ports' certificates expire.
    pub fn certificates(&self, certificates: Vec<Certificate>) {
        self.state().certificates = certificates;
    }

    /// What is known of the places for snapshots; safe to show.
    pub fn set_snapshots(&self, places: Vec<PlaceStatus>) {
        let fit = |mut place: PlaceStatus| {
            place.trouble = place.trouble.map(|line| words::on_one_line(&line).into_owned());
            place
        };
        self.state().snapshots = places.into_iter().map(fit).collect();
    }

    /// A stop was requested.
    pub fn stopping(&self) {
        self.set_step(Label { step: "stop", kind: "" }, "a stop was requested");
        let mut state = self.state();
        (state.stopping, state.ready) = (true, false);
    }

    /// Everything, as it is now.
    pub fn snapshot(&self) -> Snapshot {
        self.state().snapshot(clock::now())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl State {
    fn remember(&mut self, label: Label, reason: String) {
        if self.past.len() == KEPT {
            self.past.pop_front();
        }
        let past = Past { at: clock::wall(), label, reason };
        if let Some(journal) = &self.journal {
            // A step that failed rests on what it was chosen for.
            let is_of = |of: Label| of.step == label.step && (of.kind == label.kind || label.kind == "failed");
            let seen = self.evidence.as_ref().filter(|(of, _)| is_of(*of)).map(|(_, seen)| seen.clone());
            journal.write(self.entry(&past, seen.unwrap_or_default()));
        }
        self.past.push_back(past);
    }

    fn entry(&self, past: &Past, seen: Seen) -> Entry {
        let Decision { at, step, kind, reason } = past.shown();
        let instance = self.who.as_ref().map(|who| who.instance.clone());
        Entry { at, instance, step, kind, reason, seen, dropped: 0 }
    }

    fn snapshot(&self, now: Instant) -> Snapshot {
        let members = self.members.as_ref().map(|(members, at)| (members, now - *at));
        let members = members.filter(|(_, age)| *age < MEMBERS_COUNT_FOR);
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: self.who.clone(),
            started: moment(self.began, now),
            live: self.is_live(now),
            ready: self.ready && !self.stopping,
            step: self.label.step.to_owned(),
            kind: self.label.kind.to_owned(),
            reason: self.reason.clone(),
            since: moment(self.since, now),
            etcd: Etcd {
                pid: self.pid,
                cluster: self.ids.map(|(cluster, _)| cluster.to_string()),
                member: self.ids.map(|(_, member)| member.to_string()),
                role: self.role.map(str::to_owned),
                restarts: self.lives.saturating_sub(1),
                seconds_since_healthy: (now - self.healthy_at.unwrap_or(self.began.0)).as_secs(),
            },
            members: members.map(|(members, age)| Members { seconds_ago: age.as_secs(), ..members.clone() }),
            wanted_members: self.wanted,
            claim: self.claim.map(str::to_owned),
            last_listed: self.listed.clone(),
            certificates: self.certificates.clone(),
            snapshots: self.snapshots.clone(),
            api: Api::ALL.iter().map(|api| self.api_count(*api)).collect(),
            decisions_total: self.counts.iter().map(|(step, count)| ((*step).to_owned(), *count)).collect(),
            failures_total: self.failures,
            log_lines_dropped: logger::dropped(),
            decisions: self.past.iter().map(Past::shown).collect(),
        }
    }

    fn is_live(&self, now: Instant) -> bool {
        // A stop may take any time: killing a supervisor for that would kill its etcd.
        self.stopping || now - self.heartbeat < self.patience
    }

    fn api_count(&self, api: Api) -> ApiCount {
        ApiCount { service: api.name().to_owned(), calls: self.meters.calls(api), errors: self.meters.errors(api) }
    }
}

impl Past {
    fn shown(&self) -> Decision {
        let Label { step, kind } = self.label;
        let at = clock::stamp_of(self.at);
        Decision { at, step: step.to_owned(), kind: kind.to_owned(), reason: self.reason.clone() }
    }
}

fn moment((instant, wall): (Instant, SystemTime), now: Instant) -> Moment {
    let epoch = wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
    Moment { at: clock::stamp_of(wall), epoch, seconds_ago: (now - instant).as_secs() }
}

/// The line without the step's own words, which the label has; safe to show.
fn reason(label: Label, line: &str) -> String {
    let words = label.step.replace('_', " ");
    let rest = line.strip_prefix(&words).map_or(line, |rest| rest.trim_start_matches([':', ' ']));
    match rest.char_indices().nth(LONGEST_REASON) {
        Some((cut, _)) => format!("{}…", words::on_one_line(&rest[..cut])),
        None => words::on_one_line(rest).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::journal;
    use crate::util::scratch::Scratch;

    const HOLD: Label = Label::hold("too_few_instances");

    fn recorder() -> StatusRecorder {
        StatusRecorder::new(Duration::from_secs(10))
    }

    #[test]
    fn a_reason_that_merely_counts_on_is_no_news_but_is_shown() {
        let recorder = recorder();
        assert!(recorder.set_step(HOLD, "hold: waited 1 of 60 s"));
        let since = recorder.snapshot().since;
        assert!(!recorder.set_step(HOLD, "hold: waited 2 of 60 s"));
        let shown = recorder.snapshot();
        assert_eq!((shown.step.as_str(), shown.reason.as_str()), ("hold", "waited 2 of 60 s"));
        assert_eq!((shown.since.at, shown.decisions.len()), (since.at, 1));
        assert!(recorder.set_step(HOLD, "hold: i-2 did not answer"));
        assert!(recorder.set_step(Label { step: "remove_member", kind: "gone" }, "remove member ab: EC2 says"));
        assert_eq!(recorder.snapshot().reason, "ab: EC2 says");
    }

    #[test]
    fn a_decision_is_written_when_it_changes_with_what_it_rested_on_and_no_other_line_has_that() {
        let (scratch, recorder) = (Scratch::make(), recorder());
        let seen = |what: &str| Seen::from([("i-2".to_owned(), what.to_owned())]);
        recorder.set_step(Label::hold("identity_unknown"), "hold: no metadata service");
        recorder.set_identity("i-1", "10.0.0.1", None);
        recorder.keep_in(Journal::new(scratch.path().to_owned()));
        for waited in 1..4 {
            recorder.decided(HOLD, seen("silent"));
            recorder.set_step(HOLD, &format!("hold: waited {waited} of 60 s"));
        }
        let add = Label { step: "add_self", kind: "" };
        recorder.decided(add, seen("etcd of cluster ab"));
        recorder.set_step(add, "add self: a cluster answers");
        recorder.failed(add, "add self: no answer");
        recorder.set_step(Label::run("healthy"), "member ab is healthy and votes");
        recorder.done_beside(Label { step: "remove_member", kind: "gone" }, "remove member cd: EC2 says", seen("gone"));
        assert_eq!(recorder.snapshot().kind, "healthy", "that goes on");
        let wanted = [
            ("hold", "identity_unknown", "no metadata service", None),
            ("hold", "too_few_instances", "waited 1 of 60 s", Some("silent")),
            ("add_self", "", "a cluster answers", Some("etcd of cluster ab")),
            ("add_self", "failed", "no answer", Some("etcd of cluster ab")),
            ("run", "healthy", "member ab is healthy and votes", None),
            ("remove_member", "gone", "cd: EC2 says", Some("gone")),
        ];
        let deadline = clock::now() + Duration::from_secs(30);
        let kept = loop {
            let kept = journal::read(scratch.path()).unwrap();
            assert!(clock::now() < deadline, "{kept:?}");
            if kept.len() >= wanted.len() {
                break kept;
            }
            recorder.flush();
        };
        assert!(kept.iter().all(|entry| entry.instance.as_deref() == Some("i-1")), "{kept:?}");
        let kept: Vec<_> = kept
            .iter()
            .map(|e| (e.step.as_str(), e.kind.as_str(), e.reason.as_str(), e.seen.get("i-2").map(String::as_str)))
            .collect();
        assert_eq!(kept, wanted);
    }

    #[test]
    fn fifty_decisions_are_kept_and_none_of_them_is_endless() {
        let recorder = recorder();
        for n in 0..200_u32 {
            let name = char::from_u32(0x4e00 + n).unwrap();
            recorder.set_step(HOLD, &name.to_string().repeat(5000));
        }
        let shown = recorder.snapshot().decisions;
        assert_eq!(shown.len(), KEPT);
        assert!(shown.iter().all(|d| d.reason.chars().count() == LONGEST_REASON + 1));
        assert!(shown[KEPT - 1].reason.starts_with(char::from_u32(0x4e00 + 199).unwrap()));
    }

    #[test]
    fn a_step_that_fails_again_and_again_is_one_line_and_many_counts() {
        let recorder = recorder();
        let add = Label { step: "add_self", kind: "" };
        for _ in 0..3 {
            recorder.set_step(add, "add self: a cluster answers");
            recorder.failed(add, "add self: no answer within 5000 ms; observing again");
            recorder.set_step(HOLD, "hold: why");
        }
        let shown = recorder.snapshot();
        assert_eq!(shown.failures_total, 3);
        assert_eq!(shown.decisions.iter().filter(|d| d.kind == "failed").count(), 1);
    }

    #[test]
    fn ready_ends_with_etcd_and_with_a_stop() {
        let recorder = recorder();
        recorder.started(7);
        recorder.set_member(ClusterId(1), MemberId(2), false);
        recorder.set_ready(true);
        assert!(recorder.snapshot().ready);
        recorder.ended();
        let shown = recorder.snapshot();
        assert!(!shown.ready && shown.etcd.pid.is_none() && shown.etcd.role.is_none() && shown.etcd.restarts == 0);
        recorder.started(8);
        recorder.set_ready(true);
        assert_eq!(recorder.snapshot().etcd.restarts, 1);
        recorder.stopping();
        let shown = recorder.snapshot();
        assert!(!shown.ready && shown.live && shown.step == "stop");
    }

    #[test]
    fn without_a_beat_the_loop_is_dead_and_an_old_member_list_is_none() {
        let recorder = recorder();
        recorder.record_members(&[]);
        let later = |seconds| recorder.state().snapshot(clock::now() + Duration::from_secs(seconds));
        assert!(later(9).live && later(9).members.is_some());
        assert!(!later(11).live);
        assert!(later(151).members.is_none());
    }
}
