//! What follows from the member list: our address in it, and how far the others' logs go.

use tokio::task::JoinSet;

use super::{ANSWER_TIMEOUT, CHANGE_TIMEOUT, EARLY_LISTS, MEMBERS_EVERY, MemberMonitor, Progress};
use crate::core::decide::has_moved;
use crate::core::size;
use crate::core::step::Step;
use crate::core::types::Member;
use crate::core::view::LogEnd;

impl MemberMonitor<'_> {
    pub(super) async fn observe_members(&self, progress: &mut Progress) -> bool {
        let Ok(list) = self.etcd.member_list(&self.own_client_url, ANSWER_TIMEOUT).await else { return false };
        self.recorder.record_members(&list.members);
        match size::difference(self.recorder.wanted(), &list.members) {
            Some(line) if progress.size_problem.is_news(&line) => log::info!("{line}"),
            Some(_) => {}
            None => progress.size_problem.forget(),
        }
        if !progress.address_is_published {
            self.publish_address(progress, &list.members).await;
        }
        // A member publishes its client URLs a moment after it votes; until they are known its log can't be observed.
        if list.members.iter().any(|m| m.client_urls.is_empty()) && progress.early_lists < EARLY_LISTS {
            progress.early_lists += 1;
            progress.questions = MEMBERS_EVERY - 1;
        }
        progress.members = list.members;
        true
    }

    /// If no quorum answered before the start (the moved member may have been the leader, or the missing one), etcd was started
    /// under its old address: it reaches the others, they do not reach it. Now there is a quorum that can be told.
    async fn publish_address(&self, progress: &mut Progress, members: &[Member]) {
        let own = members.iter().find(|m| Some(m.id) == progress.member);
        let Some(own) = own.filter(|own| has_moved(own, &self.advertised)) else {
            progress.address_is_published = own.is_some();
            return;
        };
        let step = Step::UpdateSelf { id: own.id };
        if let Some(at) = self.twin(own).await {
            let trouble = format!(
                "member {} is listed at {}, and {at} answers as the same member: one of the two runs with a copy of \
                 the other's disk; the listed address is not changed; stop the copy, and move its ED_DATA and \
                 ED_WAL away",
                own.id,
                own.peer_urls.join(",")
            );
            if progress.address_problem.is_news(&trouble) {
                log::error!("{trouble}");
            }
            return;
        }
        match self.etcd.member_update(&self.own_client_url, own.id, &self.advertised, CHANGE_TIMEOUT).await {
            Ok(()) => {
                log::info!("{step}; now it is listed at {}", self.advertised.join(","));
                progress.address_is_published = true;
            }
            Err(error) => {
                let trouble = format!(
                    "{step}: {error}; the others can't reach this member until that succeeds; \
                    retrying"
                );
                if progress.address_problem.is_news(&trouble) {
                    log::warn!("{trouble}");
                }
            }
        }
        // The list is soon read again.
        progress.questions = MEMBERS_EVERY - 1;
    }

    /// Where another etcd runs as this same member, if there is one.
    async fn twin(&self, own: &Member) -> Option<String> {
        for url in own.client_urls.iter().filter(|url| !self.advertised_to_clients.contains(url)) {
            if let Ok(status) = self.etcd.status(url, ANSWER_TIMEOUT).await
                && status.member == own.id
            {
                return Some(url.clone());
            }
        }
        None
    }

    /// How far the others' logs go, in case one of their disks is restored to an older state. What was reported as committed
    /// may not be on disk yet, so it counts from the next observation on.
    pub(super) async fn observe_logs(&self, progress: &mut Progress) {
        let Some(cluster) = progress.cluster else { return };
        self.acceptor_state.record_logs(cluster, &progress.logs);
        let mut questions = JoinSet::new();
        for member in progress.members.iter().filter(|m| Some(m.id) != progress.member) {
            let (etcd, id, urls) = (self.etcd.clone(), member.id, member.client_urls.clone());
            questions.spawn(async move {
                let status = etcd.status(urls.first()?, ANSWER_TIMEOUT).await.ok()?;
                let end = LogEnd { term: status.raft_term, index: status.raft_index };
                (status.member == id && status.cluster == cluster).then_some((id, end))
            });
        }
        while let Some(answered) = questions.join_next().await {
            progress.logs.extend(answered.ok().flatten());
        }
    }
}
