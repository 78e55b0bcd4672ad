//! One peer, asked on both ports: what a supervisor says there, or an etcd.

use std::time::Duration;

use crate::core::types::{ClusterId, InstanceId};
use crate::core::view::{EtcdSeen, PeerState, Quorum};
use crate::etcd::client;
use crate::etcd::command::Release;
use crate::net::http::Failure;
use crate::peer::client::{Answered, hello};
use crate::peer::clients::PeerClients;

/// The part of a probe's time after which its second port is asked beside the first.
const SECOND_PORT_AFTER: u32 = 6;

/// One peer, asked on both ports.
#[derive(Debug)]
pub struct Probe {
    pub reach: PeerClients,
    pub peer_url: String,
    pub client_url: String,
    /// Ourselves, if we want to be noticed.
    pub from: Option<InstanceId>,
    /// For each question.
    pub within: Duration,
}

impl Probe {
    /// What it says.
    pub async fn sight(&self) -> PeerState {
        let hello = hello(&self.reach.rollcall, &self.peer_url, self.from.as_ref(), self.within);
        tokio::pin!(hello);
        // Who says nothing for a while is asked at the other port meanwhile.
        let (answer, list) = match tokio::time::timeout(self.within / SECOND_PORT_AFTER, &mut hello).await {
            Ok(answer) => (answer, None),
            Err(_) => {
                let (answer, list) = tokio::join!(hello, self.list_at_client_port());
                (answer, Some(list))
            }
        };
        let seen = match answer {
            Ok(Answered::Hello(hello)) => return (*hello).into(),
            Ok(Answered::Other) => return self.sight_etcd().await,
            Err(error) => match error.failure {
                Failure::Refused => PeerState::Refused,
                Failure::Timeout(_) | Failure::Unreachable(_) => PeerState::Silent(error.to_string()),
                // Somebody is there.
                Failure::Tls(_) | Failure::Protocol(_) | Failure::Closed(_) => {
                    return PeerState::Mismatch(error.to_string());
                }
            },
        };
        // The peer port may be firewalled: a cluster is a cluster on whichever port it is seen.
        let list = match list {
            Some(list) => list,
            None => self.list_at_client_port().await,
        };
        match list {
            Ok(list) => self.etcd_seen(list, Quorum::Proven),
            Err(error) if matches!(error.failure(), Some(Failure::Refused)) => seen,
            Err(error) => match error.failure() {
                Some(Failure::Timeout(_) | Failure::Unreachable(_)) => {
                    PeerState::Silent(format!("client port: {error}"))
                }
                _ => PeerState::Mismatch(format!("client port: {error}")),
            },
        }
    }

    /// An etcd's peer port answers without a quorum, its client port only with one: so the peer port goes first.
    async fn sight_etcd(&self) -> PeerState {
        let version = match self.reach.etcd.peer_version(&self.peer_url, self.within).await {
            Ok(version) => version,
            Err(error) => return unread(&error),
        };
        if !version.is_undecided() {
            match self.list_through_quorum(&version).await {
                Ok(list) => return self.etcd_seen(list, Quorum::Proven),
                // Whether it has a quorum is more than can be said.
                Err(error) if error.is_refusal() => return PeerState::Mismatch(error.to_string()),
                Err(_) => {}
            }
        }
        match self.reach.etcd.peer_members(&self.peer_url, self.within).await {
            Ok(list) if version.is_undecided() => self.etcd_seen(list, Quorum::NeverElected),
            Ok(list) => self.etcd_seen(list, Quorum::Unproven),
            Err(error) => unread(&error),
        }
    }

    async fn list_at_client_port(&self) -> Result<client::MemberList, client::Error> {
        let version = self.reach.etcd.version(&self.client_url, self.within).await?;
        self.list_through_quorum(&version).await
    }

    async fn list_through_quorum(&self, version: &client::Version) -> Result<client::MemberList, client::Error> {
        // 3.4 answers a member list from what it has, so a read through the quorum goes first.
        if Release::parse(&version.etcdserver).is_none_or(|r| (r.major, r.minor) < (3, 5)) {
            self.reach.etcd.read_through_quorum(&self.client_url, self.within).await?;
        }
        self.reach.etcd.member_list(&self.client_url, self.within).await
    }

    fn etcd_seen(&self, list: client::MemberList, quorum: Quorum) -> PeerState {
        let client_url = self.client_url.clone();
        PeerState::Etcd(EtcdSeen { cluster: list.cluster, client_url, members: list.members, quorum })
    }
}

/// Whether a member of that cluster is seen to live. That we don't understand each other is no sign of his death.
pub(super) fn is_alive(sighting: &PeerState, cluster: ClusterId) -> bool {
    match sighting {
        PeerState::Etcd(etcd) => etcd.cluster == cluster,
        PeerState::Mismatch(_) => true,
        PeerState::Refused | PeerState::Silent(_) | PeerState::Fresh(_) | PeerState::HasData(_) => false,
    }
}

/// An answer that can't be read is no sign of absence.
fn unread(error: &client::Error) -> PeerState {
    match error.failure() {
        Some(Failure::Timeout(_) | Failure::Unreachable(_) | Failure::Refused) => PeerState::Silent(error.to_string()),
        _ => PeerState::Mismatch(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::view::DataSeen;

    /// With MUSTER_CLEAN=unhealthy five minutes of silence remove a member: an expired certificate must not.
    #[test]
    fn a_member_that_is_not_understood_is_not_dead() {
        let error =
            |failure| client::Error::Http(crate::net::http::Error { url: "https://10.0.0.1:2379".to_owned(), failure });
        let text = || "a certificate".to_owned();
        for failure in [Failure::Tls(text()), Failure::Protocol(text()), Failure::Closed(text())] {
            assert!(is_alive(&unread(&error(failure.clone())), ClusterId(1)), "{failure:?}");
        }
        let login = client::Error::Login { url: text(), cause: text() };
        assert!(is_alive(&unread(&login), ClusterId(1)));
        for failure in [Failure::Refused, Failure::Timeout(Duration::ZERO), Failure::Unreachable(text())] {
            assert!(!is_alive(&unread(&error(failure.clone())), ClusterId(1)), "{failure:?}");
        }
        let data = DataSeen { cluster: Some(ClusterId(1)), ..DataSeen::default() };
        assert!(!is_alive(&PeerState::HasData(data), ClusterId(1)));
    }
}
