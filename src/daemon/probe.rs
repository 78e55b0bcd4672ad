//! Queries one peer on both ports: its supervisor, or its etcd.

use std::time::Duration;

use crate::core::release::{Minor, Release};
use crate::core::types::{ClusterId, InstanceId, Known};
use crate::core::view::{EtcdSeen, PeerState, Quorum};
use crate::etcd::client;
use crate::net::http::Failure;
use crate::peer::client::{Answered, hello};
use crate::peer::clients::PeerClients;

/// The part of a probe's time after which its second port is queried in parallel.
const SECOND_PORT_AFTER: u32 = 6;

/// One peer, queried on both ports.
#[derive(Debug)]
pub struct Probe {
    pub clients: PeerClients,
    pub peer_url: String,
    pub client_url: String,
    /// Our own id, if peers are to notice us.
    pub from: Option<InstanceId>,
    /// For each query.
    pub timeout: Duration,
}

impl Probe {
    /// The peer's state.
    pub async fn observe(&self) -> PeerState {
        let hello = hello(&self.clients.rollcall, &self.peer_url, self.from.as_ref(), self.timeout);
        tokio::pin!(hello);
        // If one port does not answer for a while, the other is queried meanwhile.
        let (answer, list) = match tokio::time::timeout(self.timeout / SECOND_PORT_AFTER, &mut hello).await {
            Ok(answer) => (answer, None),
            Err(_) => {
                let (answer, list) = tokio::join!(hello, self.list_at_client_port());
                (answer, Some(list))
            }
        };
        let seen = match answer {
            Ok(Answered::Hello(hello)) => return (*hello).into(),
            Ok(Answered::Other) => return self.observe_etcd().await,
            Err(error) => match error.failure {
                Failure::Refused => PeerState::Refused,
                Failure::Timeout(_) | Failure::Stalled(_) | Failure::Unreachable(_) => {
                    PeerState::Silent(error.to_string())
                }
                // Something listens there.
                Failure::Tls(_) | Failure::Protocol(_) | Failure::Closed(_) | Failure::File(_) => {
                    return PeerState::Mismatch(error.to_string());
                }
            },
        };
        // The peer port may be firewalled: a cluster counts on whichever port it is seen.
        let list = match list {
            Some(list) => list,
            None => self.list_at_client_port().await,
        };
        match list {
            Ok((version, list)) => self.etcd_seen(&version, list, Quorum::Proven),
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
    async fn observe_etcd(&self) -> PeerState {
        let version = match self.clients.etcd.peer_version(&self.peer_url, self.timeout).await {
            Ok(version) => version,
            Err(error) => return unread(&error),
        };
        if !version.is_undecided() {
            match self.list_through_quorum(&version).await {
                Ok(list) => return self.etcd_seen(&version, list, Quorum::Proven),
                // Whether it has a quorum can't be determined.
                Err(error) if error.is_refusal() => return PeerState::Mismatch(error.to_string()),
                Err(_) => {}
            }
        }
        match self.clients.etcd.peer_members(&self.peer_url, self.timeout).await {
            Ok(list) if version.is_undecided() => self.etcd_seen(&version, list, Quorum::NeverElected),
            Ok(list) => self.etcd_seen(&version, list, Quorum::Unproven),
            Err(error) => unread(&error),
        }
    }

    async fn list_at_client_port(&self) -> Result<(client::Version, client::MemberList), client::Error> {
        let version = self.clients.etcd.version(&self.client_url, self.timeout).await?;
        let list = self.list_through_quorum(&version).await?;
        Ok((version, list))
    }

    async fn list_through_quorum(&self, version: &client::Version) -> Result<client::MemberList, client::Error> {
        // 3.4 answers a member list from its own state, so a read through the quorum goes first.
        if Release::parse(&version.etcdserver).is_none_or(|release| !release.is_at_least(3, 5)) {
            self.clients.etcd.read_through_quorum(&self.client_url, self.timeout).await?;
        }
        self.clients.etcd.member_list(&self.client_url, self.timeout).await
    }

    fn etcd_seen(&self, version: &client::Version, list: client::MemberList, quorum: Quorum) -> PeerState {
        PeerState::Etcd(self.seen(version, list, quorum))
    }

    fn seen(&self, version: &client::Version, list: client::MemberList, quorum: Quorum) -> EtcdSeen {
        let (release, version) = (Release::parse(&version.etcdserver), Minor::of_cluster(&version.etcdcluster));
        let client_url = self.client_url.clone();
        EtcdSeen { cluster: list.cluster, client_url, members: list.members, quorum, version, release }
    }
}

/// What is seen of a cluster through one client port alone.
pub(super) async fn through_client_port(
    clients: &PeerClients,
    client_url: String,
    timeout: Duration,
) -> Known<EtcdSeen> {
    let probe = Probe { clients: clients.clone(), peer_url: String::new(), client_url, from: None, timeout };
    match probe.list_at_client_port().await {
        Ok((version, list)) => Known::Known(probe.seen(&version, list, Quorum::Proven)),
        Err(error) => Known::Unknown(error.to_string()),
    }
}

/// Whether a member of that cluster is seen to run. An answer that can't be used does not show that it is dead.
pub(super) fn is_alive(sighting: &PeerState, cluster: ClusterId) -> bool {
    match sighting {
        PeerState::Etcd(etcd) => etcd.cluster == cluster,
        PeerState::Mismatch(_) => true,
        PeerState::Refused | PeerState::Silent(_) | PeerState::Fresh(_) | PeerState::HasData(_) => false,
    }
}

/// Whether a supervisor answers at one of these peer URLs.
pub(super) async fn supervised(clients: &PeerClients, urls: &[String], timeout: Duration) -> bool {
    for url in urls {
        if matches!(hello(&clients.rollcall, url, None, timeout).await, Ok(Answered::Hello(_))) {
            return true;
        }
    }
    false
}

/// Whether an etcd of that cluster serves one of these peer URLs, or gives an answer that can't be used.
pub(super) async fn serves(etcd: &client::Client, urls: &[String], cluster: ClusterId, timeout: Duration) -> bool {
    for url in urls {
        match etcd.peer_members(url, timeout).await {
            Ok(list) if list.cluster == cluster => return true,
            // Something other than etcd may answer at that address now, as our own peer protocol does where we have taken it
            // over.
            Err(client::Error::Http(error))
                if matches!(
                    error.failure,
                    Failure::Tls(_) | Failure::Protocol(_) | Failure::Closed(_) | Failure::File(_)
                ) =>
            {
                return true;
            }
            _ => {}
        }
    }
    false
}

/// An answer that can't be read does not show absence.
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
    use crate::daemon::test_support::{FakeEtcd, REFUSING, config};
    use crate::net::scripted::Reply;
    use crate::util::clock;

    const TIMEOUT: Duration = Duration::from_secs(3);
    const MUTE: (&str, Reply) = ("", Reply::Silence);

    async fn observe(peer_url: &str, client_url: &str) -> PeerState {
        let (peer_url, client_url) = (peer_url.to_owned(), client_url.to_owned());
        let clients = PeerClients::new(&config(REFUSING, &[]).etcd, None);
        Probe { clients, peer_url, client_url, from: None, timeout: TIMEOUT }.observe().await
    }

    fn quorum(sighting: &PeerState) -> Option<Quorum> {
        match sighting {
            PeerState::Etcd(etcd) => Some(etcd.quorum),
            _ => None,
        }
    }

    /// A host that refuses is up; an unreachable one is unknown.
    #[tokio::test(start_paused = true)]
    async fn who_refuses_and_who_is_silent_are_told_apart() {
        let mute = FakeEtcd::start(1).await;
        mute.now(|says| says.instead = vec![MUTE]);
        let mute = &mute.server.url;
        assert_eq!(observe(REFUSING, REFUSING).await, PeerState::Refused);
        for (peer_url, client_url) in [(mute.as_str(), REFUSING), (REFUSING, mute), (mute, mute)] {
            let sighting = observe(peer_url, client_url).await;
            assert!(matches!(sighting, PeerState::Silent(_)), "{sighting:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_port_is_asked_while_the_first_is_silent() {
        let etcd = FakeEtcd::start(1).await;
        let mute = FakeEtcd::start(1).await;
        mute.now(|says| says.instead = vec![MUTE]);
        let began = clock::now();
        assert_eq!(quorum(&observe(&mute.server.url, &etcd.server.url).await), Some(Quorum::Proven));
        assert_eq!(clock::now() - began, TIMEOUT, "a peer port behind a firewall costs no more than its own time");
        let began = clock::now();
        observe(&mute.server.url, &mute.server.url).await;
        assert_eq!(clock::now() - began, TIMEOUT + TIMEOUT / SECOND_PORT_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quorum_is_proven_by_the_client_port_alone() {
        let etcd = FakeEtcd::start(1).await;
        let seen = async || quorum(&observe(&etcd.server.url, &etcd.server.url).await);
        assert_eq!(seen().await, Some(Quorum::Proven));
        etcd.now(|says| says.leader = 0);
        assert_eq!(seen().await, Some(Quorum::Unproven));
        etcd.now(|says| says.elected = false);
        assert_eq!(seen().await, Some(Quorum::NeverElected));
    }

    /// 3.4 lists its members without one.
    #[tokio::test(start_paused = true)]
    async fn of_an_old_release_a_read_goes_before_the_list() {
        const LIST: &str = "POST /v3/cluster/member/list";
        const READ: &str = "POST /v3/kv/range";
        let etcd = FakeEtcd::start(1).await;
        let old = Reply::ok(r#"{"etcdserver": "3.4.23", "etcdcluster": "3.4.0"}"#);
        etcd.now(|says| says.instead = vec![("GET /version", old), (READ, Reply::Silence)]);
        assert_eq!(quorum(&observe(&etcd.server.url, &etcd.server.url).await), Some(Quorum::Unproven));
        assert_eq!((etcd.server.count(READ), etcd.server.count(LIST)), (1, 0));
        etcd.now(|says| _ = says.instead.pop());
        assert_eq!(quorum(&observe(&etcd.server.url, &etcd.server.url).await), Some(Quorum::Proven));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_understood_is_there() {
        let other = FakeEtcd::start(1).await;
        other.now(|says| says.instead = vec![("", Reply::ok("<html>"))]);
        for (peer_url, client_url) in [(other.server.url.as_str(), REFUSING), (REFUSING, other.server.url.as_str())] {
            let sighting = observe(peer_url, client_url).await;
            assert!(matches!(sighting, PeerState::Mismatch(_)), "{sighting:?}");
        }
    }

    /// With MUSTER_REMOVE=unhealthy a member that has not answered for five minutes is removed; an expired certificate must not
    /// cause that.
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
