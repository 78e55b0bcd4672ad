//! What else runs, or may run, as the member whose data we have: every candidate is queried for its status, in parallel.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::task::JoinSet;

use super::probe::serves;
use crate::core::initial_list::same_urls;
use crate::core::types::{ClusterId, InstanceId, ListedMember, Member, MemberId};
use crate::core::view::{EtcdSeen, Peer, PeerState, Twin};
use crate::etcd::client;

/// How many are queried at once; the others wait for their turn. A list of first members has three to seven.
const ASKED_AT_ONCE: usize = 16;

/// An entry of that member in a list, at another address than our own.
#[derive(Debug, Default)]
struct Entry {
    name: String,
    /// The member's client URLs, and those of an instance with its name or address.
    client_urls: BTreeSet<String>,
}

/// What else runs as the member whose data we have: queried at the URLs that any list of its cluster gives for it, and at the
/// instance of its name. `own`: our own peer URLs. `timeout`: for each query.
pub async fn find(
    etcd: &client::Client,
    peers: &BTreeMap<InstanceId, Peer>,
    own: &[String],
    (cluster, member): (ClusterId, MemberId),
    timeout: Duration,
) -> Twin {
    let holds = |peer: &Peer| matches!(&peer.sighting, PeerState::HasData(data) if (data.cluster, data.member) == (Some(cluster), Some(member)));
    if let Some((instance, _)) = peers.iter().find(|(_, peer)| holds(peer)) {
        return Twin::Holds { instance: instance.clone() };
    }
    let entries = entries(peers, own, cluster, member);
    let urls: BTreeSet<String> = entries.values().flat_map(|entry| entry.client_urls.clone()).collect();
    let statuses = urls.into_iter().map(|url| {
        let etcd = etcd.clone();
        async move { (etcd.status(&url, timeout).await, url) }
    });
    let mut answered = BTreeSet::new();
    let runs_at = ask(statuses, |(status, url)| match status {
        Ok(status) if (status.cluster, status.member) == (cluster, member) => ControlFlow::Break(url),
        Ok(_) => {
            answered.insert(url);
            ControlFlow::Continue(())
        }
        Err(error) => {
            log::debug!("whether {url} is member {member} is unknown: {error}");
            ControlFlow::Continue(())
        }
    });
    if let Some(at) = runs_at.await {
        let named = entries.values().find(|entry| entry.client_urls.contains(&at));
        return Twin::Runs { name: named.map_or_else(String::new, |entry| entry.name.clone()), at };
    }
    // Its client port does not answer without a leader; its peer port does.
    let unheard = entries.into_iter().filter(|(_, entry)| entry.client_urls.is_disjoint(&answered));
    let served = unheard.map(|(peer_urls, _)| {
        let etcd = etcd.clone();
        async move { (serves(&etcd, &peer_urls, cluster, timeout).await, peer_urls) }
    });
    let in_doubt = ask(served, |(serves, peer_urls)| match serves {
        true => ControlFlow::Break(peer_urls),
        false => ControlFlow::Continue(()),
    });
    match in_doubt.await {
        Some(at) => Twin::Unknown { at: at.join(","), cause: "which member it is can't be determined".to_owned() },
        None => Twin::Nobody,
    }
}

/// By their peer URLs, because several lists have the same entry.
fn entries(
    peers: &BTreeMap<InstanceId, Peer>,
    own: &[String],
    cluster: ClusterId,
    member: MemberId,
) -> BTreeMap<Vec<String>, Entry> {
    let lists = peers.values().filter_map(|peer| etcd_seen(peer)).filter(|etcd| etcd.cluster == cluster);
    let listed = lists.flat_map(|etcd| etcd.members.iter().filter(|m| m.id == member));
    let mut entries = BTreeMap::<_, Entry>::new();
    for listed in listed.filter(|m| !same_urls(&m.peer_urls, own)) {
        let entry = entries.entry(listed.peer_urls.clone()).or_default();
        entry.name.clone_from(&listed.name);
        entry.client_urls.extend(listed.client_urls.iter().cloned());
        let there = peers.values().filter(|peer| peer.listed.as_ref().is_some_and(|l| is_it(l, listed)));
        entry.client_urls.extend(there.filter_map(etcd_seen).map(|etcd| etcd.client_url.clone()));
    }
    entries
}

fn is_it(instance: &ListedMember, member: &Member) -> bool {
    instance.name == member.name || instance.peer_urls.iter().any(|url| member.peer_urls.contains(url))
}

fn etcd_seen(peer: &Peer) -> Option<&EtcdSeen> {
    match &peer.sighting {
        PeerState::Etcd(etcd) => Some(etcd),
        _ => None,
    }
}

/// Makes all these queries, in order, and takes the answers as they come; the first that breaks is the outcome, and no other is
/// waited for. A query that panics has no answer.
async fn ask<T: Send + 'static, B>(
    questions: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
    mut hear: impl FnMut(T) -> ControlFlow<B>,
) -> Option<B> {
    let (mut waiting, mut open) = (questions, JoinSet::new());
    loop {
        while open.len() < ASKED_AT_ONCE
            && let Some(question) = waiting.next()
        {
            open.spawn(question);
        }
        match open.join_next().await? {
            Ok(answer) => {
                if let ControlFlow::Break(outcome) = hear(answer) {
                    return Some(outcome);
                }
            }
            Err(error) => log::error!("a question failed: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::Known;
    use crate::core::view::{DataSeen, Quorum};
    use crate::daemon::test_support::{CLUSTER, FakeEtcd, REFUSING, etcd_client, voter};
    use crate::net::scripted::Reply;
    use crate::util::clock;

    const TIMEOUT: Duration = Duration::from_secs(3);
    const STATUS: &str = "POST /v3/maintenance/status";

    fn peer(sighting: PeerState) -> Peer {
        let impaired = Known::Known(false);
        Peer { sighting, unanswered_for: Duration::ZERO, refused_throughout: false, impaired, listed: None }
    }

    /// Peers, each an etcd of our cluster with that list.
    fn peers(lists: &[&[Member]]) -> BTreeMap<InstanceId, Peer> {
        let seen = |members: &[Member]| EtcdSeen {
            cluster: ClusterId(CLUSTER),
            client_url: REFUSING.to_owned(),
            members: members.to_vec(),
            quorum: Quorum::Proven,
            version: None,
            release: None,
        };
        let named = |(n, list): (usize, &&[Member])| (InstanceId(format!("i-{n}")), peer(PeerState::Etcd(seen(list))));
        lists.iter().enumerate().map(named).collect()
    }

    /// Of member 1, at 10.0.0.1.
    async fn twin(peers: &BTreeMap<InstanceId, Peer>) -> Twin {
        let own = ["http://10.0.0.1:2380".to_owned()];
        find(&etcd_client(), peers, &own, (ClusterId(CLUSTER), MemberId(1)), TIMEOUT).await
    }

    /// That member, listed there.
    fn listed(etcd: &FakeEtcd) -> Member {
        voter(1, &etcd.server.url)
    }

    async fn silent(member: u64) -> FakeEtcd {
        let etcd = FakeEtcd::start(member).await;
        etcd.now(|says| says.instead = vec![("", Reply::Silence)]);
        etcd
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_that_he_is_it_is_heard_beside_those_who_are_silent() {
        // The last by its address, because in that order they are asked.
        let mut etcds = [silent(1).await, silent(1).await, silent(1).await, silent(1).await];
        etcds.sort_by(|one, other| one.server.url.cmp(&other.server.url));
        let him = &etcds[3];
        him.now(|says| says.instead.clear());
        let lists: Vec<_> = etcds.iter().map(|etcd| vec![listed(etcd)]).collect();
        let lists: Vec<_> = lists.iter().map(Vec::as_slice).collect();
        let began = clock::now();
        assert_eq!(twin(&peers(&lists)).await, Twin::Runs { at: him.server.url.clone(), name: "m1".to_owned() });
        assert!(clock::now() - began < TIMEOUT, "nobody was waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_asked_however_many_and_no_more_than_some_at_once() {
        let mut members = Vec::new();
        for _ in 0..ASKED_AT_ONCE * 2 {
            members.push(silent(1).await);
        }
        let lists: Vec<_> = members.iter().map(|etcd| vec![listed(etcd)]).collect();
        let lists: Vec<_> = lists.iter().map(Vec::as_slice).collect();
        let began = clock::now();
        assert_eq!(twin(&peers(&lists)).await, Twin::Nobody);
        assert!(members.iter().all(|etcd| etcd.server.count(STATUS) == 1));
        // Two rounds of status queries, and two of the peer ports.
        assert_eq!(clock::now() - began, TIMEOUT * 4);
    }

    #[tokio::test(start_paused = true)]
    async fn another_member_at_its_old_address_is_no_twin_whoever_lists_it() {
        let other = FakeEtcd::start(2).await;
        let list = [listed(&other)];
        assert_eq!(twin(&peers(&[&list, &list, &list])).await, Twin::Nobody);
        assert_eq!(other.server.count(STATUS), 1, "asked once");
    }

    #[tokio::test(start_paused = true)]
    async fn an_etcd_of_the_cluster_that_tells_nobody_who_it_is_leaves_a_doubt() {
        let etcd = FakeEtcd::start(1).await;
        etcd.now(|says| says.instead = vec![(STATUS, Reply::Silence)]);
        let doubt = twin(&peers(&[&[listed(&etcd)]])).await;
        assert!(matches!(&doubt, Twin::Unknown { at, .. } if *at == etcd.server.url), "{doubt:?}");
        etcd.now(|says| says.instead = vec![("", Reply::status(404))]);
        assert_eq!(twin(&peers(&[&[listed(&etcd)]])).await, Twin::Nobody, "a supervisor answers there");
    }

    #[tokio::test(start_paused = true)]
    async fn at_our_own_address_nobody_is_asked_and_data_elsewhere_is_said() {
        let own = Member { peer_urls: vec!["http://10.0.0.1:2380".to_owned()], ..voter(1, REFUSING) };
        let mut seen = peers(&[&[own]]);
        assert_eq!(twin(&seen).await, Twin::Nobody);
        let data = DataSeen { cluster: Some(ClusterId(CLUSTER)), member: Some(MemberId(1)), ..DataSeen::default() };
        seen.insert(InstanceId("i-9".to_owned()), peer(PeerState::HasData(data)));
        assert_eq!(twin(&seen).await, Twin::Holds { instance: InstanceId("i-9".to_owned()) });
    }
}
