//! A lost quorum: reports which members are missing, and when the quorum is back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{ANSWER_TIMEOUT, MemberMonitor, Progress};
use crate::core::quorum_loss::{Heard, Lost};
use crate::core::types::{Member, MemberId};
use crate::etcd::client::{Client, Health};
use crate::net::http::Failure;
use crate::util::clock;

/// After this long without a leader the quorum is reported as lost: an election takes a second or two. With the pause at rest
/// and the queries in between, the report comes within half a minute of the loss.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(8);
/// While the quorum is lost, the others are queried this often.
const ROLL_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Loss {
    since: Instant,
    asked: Instant,
    missing: BTreeSet<MemberId>,
    pub(super) line: String,
}

impl MemberMonitor<'_> {
    /// Who doesn't tell us of a leader may have one: then only its health counts, which needs no user.
    pub(super) async fn says_it_has_no_leader(&self, progress: &Progress) -> bool {
        matches!(self.health(progress).await, Ok(Health::Unhealthy(reason)) if reason.contains("NO LEADER"))
    }

    /// The missing members and the remedy: reported when first seen, and again when the set changes.
    pub(super) async fn report_loss(&self, progress: &mut Progress, me: Option<MemberId>, since: Instant) {
        if progress.loss.as_ref().is_some_and(|loss| clock::now() - loss.asked < ROLL_EVERY) {
            return;
        }
        // Our own etcd's list, from its peer port: this needs neither the other members nor a user.
        let Ok(list) = self.etcd.peer_members(&self.own_peer_url, ANSWER_TIMEOUT).await else { return };
        let is_ours = |m: &&Member| m.peer_urls.iter().any(|url| self.advertised.contains(url));
        let me = me.or(progress.member).or_else(|| list.members.iter().find(is_ours).map(|m| m.id));
        let heard = self.ask_peer_ports(&list.members, me).await;
        let Some(lost) = Lost::seen(me, &list.members, heard) else { return };
        let (missing, line) = (lost.missing(), lost.to_string());
        let asked = clock::now();
        match &mut progress.loss {
            Some(loss) if loss.missing == missing => loss.asked = asked,
            _ => {
                log::warn!("{line}");
                self.set_not_ready("leaderless", &line);
                progress.loss = Some(Loss { since, asked, missing, line });
            }
        }
    }

    /// The answer of every other member's peer port.
    async fn ask_peer_ports(&self, members: &[Member], me: Option<MemberId>) -> BTreeMap<MemberId, Heard> {
        let mut questions = JoinSet::new();
        for member in members.iter().filter(|m| Some(m.id) != me) {
            let (etcd, id, urls) = (self.etcd.clone(), member.id, member.peer_urls.clone());
            questions.spawn(async move { (id, hear(&etcd, &urls).await) });
        }
        let mut heard = BTreeMap::new();
        while let Some(answered) = questions.join_next().await {
            heard.extend(answered.ok());
        }
        heard
    }
}

/// A leader is seen, or health that requires one.
pub(super) fn report_quorum_back(progress: &mut Progress) {
    if let Some(loss) = progress.loss.take() {
        log::info!("the quorum is back after {} s", (clock::now() - loss.since).as_secs());
    }
}

/// The best answer from any of a member's peer URLs.
async fn hear(etcd: &Client, urls: &[String]) -> Heard {
    let mut heard = Heard::Silent;
    for url in urls {
        heard = match etcd.peer_version(url, ANSWER_TIMEOUT).await {
            Ok(_) => return Heard::Etcd,
            Err(error) => match error.failure() {
                Some(Failure::Refused) => Heard::Refused,
                Some(Failure::Timeout(_) | Failure::Stalled(_) | Failure::Unreachable(_)) => Heard::Silent,
                Some(Failure::Tls(_) | Failure::Protocol(_) | Failure::Closed(_) | Failure::File(_)) => {
                    Heard::NotUnderstood
                }
                None => Heard::NoEtcd,
            },
        };
    }
    heard
}
