//! Readiness, reported when it changes, and why etcd is not healthy.

use std::time::Duration;

use super::{ANSWER_TIMEOUT, MEMBERS_EVERY, MemberMonitor, Progress};
use crate::core::label::Label;
use crate::core::restart::waits_for_a_lock;
use crate::core::types::MemberId;
use crate::etcd::alarm;
use crate::etcd::client::{self, Health};
use crate::state::store::Releases;
use crate::util::clock;

/// etcd applies its log after it has begun to serve: over records that a release can't apply it ends within 0.15 s, and may have
/// answered before (3.7.3 over the log of 3.5.33). So after an upgrade it is ready only at the second look.
const SECOND_LOOK: Duration = Duration::from_millis(500);

impl MemberMonitor<'_> {
    pub(super) fn set_ready(&self, member: MemberId) {
        self.recorder.set_ready(true);
        self.tell("healthy", &format!("member {member} is healthy and votes"));
    }

    /// Not ready, with the reason.
    pub(super) fn set_not_ready(&self, kind: &'static str, why: &str) {
        self.recorder.set_ready(false);
        self.tell(kind, why);
    }

    fn tell(&self, kind: &'static str, line: &str) {
        if self.recorder.set_step(Label::run(kind), line) {
            self.notify.tell(&format!("STATUS={line}"));
        }
    }

    /// Ready: a voter with a leader that reports itself healthy. Logged once in each run of etcd, and when it is lost. An alarm
    /// is no reason for a restart: etcd answers, and needs its operator.
    pub(super) async fn check_readiness(&self, progress: &mut Progress, member: MemberId) {
        let mut health_problem = self.health_problem(progress).await;
        if health_problem.is_none() && !progress.ready && self.is_another_release() {
            clock::pause(SECOND_LOOK).await;
            health_problem = self.health_problem(progress).await;
        }
        match health_problem {
            None => {
                self.set_ready(member);
                if !progress.ready {
                    self.record_release();
                    let took = (clock::now() - self.spawned_at).as_millis();
                    log::info!(member:% = member; "member {member} is healthy and votes, {took} ms after etcd's start");
                    self.notify.tell("READY=1");
                    if !self.observe_members(progress).await {
                        progress.questions = MEMBERS_EVERY - 1;
                    }
                }
                progress.ready = true;
                progress.health_problem.forget();
            }
            Some(why) => {
                self.set_health_problem(progress, "unhealthy", format!("member {member} is not healthy: {why}"))
            }
        }
    }

    async fn health_problem(&self, progress: &Progress) -> Option<String> {
        match self.health(progress).await {
            Ok(Health::Healthy) => None,
            Ok(Health::Unhealthy(reason)) => Some(self.alarms().await.unwrap_or(reason)),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Another one has last been healthy here, or it is unknown which.
    fn is_another_release(&self) -> bool {
        !self.is_first_start && self.installed != self.acceptor_state.releases().ran
    }

    fn record_release(&self) {
        let releases = self.acceptor_state.releases();
        self.acceptor_state.record_releases(Releases { ran: self.installed, ..releases });
    }

    /// A problem is logged once, and again when it changes.
    pub(super) fn set_health_problem(&self, progress: &mut Progress, kind: &'static str, health_problem: String) {
        progress.ready = false;
        self.set_not_ready(kind, &health_problem);
        if progress.health_problem.is_news(&health_problem) {
            log::warn!("{health_problem}");
        }
    }

    /// etcd answers, but not to us: because of a certificate or a user, which lasts. A node that was ready stays ready while
    /// etcd reports itself healthy: enabled authentication without a user for us is no reason to send clients away.
    pub(super) async fn report_refusal(&self, progress: &mut Progress, error: &client::Error) {
        let line = format!("etcd runs but can't be queried: {error}");
        if !(progress.ready && self.is_healthy(progress).await) {
            return self.set_health_problem(progress, "refused", line);
        }
        if progress.health_problem.is_news(&line) {
            log::warn!("{line}");
        }
    }

    /// etcd runs and does not answer: it was healthy before and hangs, or it waits for a lock.
    pub(super) fn note_unresponsive(&self, progress: &mut Progress) {
        if progress.ready || (!progress.served && waits_for_a_lock(&self.output.text())) {
            let (kind, why) = match progress.served {
                true => ("silent", "etcd runs but does not answer; nothing is changed until it does"),
                false => (
                    "locked",
                    "hold: another process has the data open (etcd reports: flocked by another process); nothing is \
                     changed; stop that other etcd, and this one continues",
                ),
            };
            self.set_health_problem(progress, kind, why.to_owned());
        }
    }

    /// The alarms raised anywhere in the cluster, each with its remedy.
    async fn alarms(&self) -> Option<String> {
        let alarms = self.etcd.alarms(&self.own_client_url, ANSWER_TIMEOUT).await.ok()?;
        let named: Vec<_> = alarms.iter().map(|(member, alarm)| alarm::way_out(*member, alarm)).collect();
        (!named.is_empty()).then(|| named.join("; "))
    }
}
