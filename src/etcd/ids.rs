//! The ids that etcd will give a new cluster: they follow from the peer URLs and the token alone.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::core::types::{ClusterId, InitialList, MemberId};

/// A bootstrap member's id: the first eight bytes of SHA-1 over its sorted peer URLs and the token (etcd,
/// `membership.NewMember`).
pub fn member_id(peer_urls: &[String], token: &str) -> MemberId {
    let mut urls = peer_urls.to_vec();
    urls.sort();
    MemberId(first_eight(format!("{}{token}", urls.concat()).as_bytes()))
}

/// The cluster's id: the same over the sorted member ids (etcd, `RaftCluster.genID`).
pub fn cluster_id(list: &InitialList) -> ClusterId {
    let mut ids: Vec<u64> = list.members.iter().map(|m| member_id(&m.peer_urls, &list.token).0).collect();
    ids.sort_unstable();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
    ClusterId(first_eight(&bytes))
}

fn first_eight(bytes: &[u8]) -> u64 {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes);
    hash.as_ref().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::{InstanceId, ListedMember};

    /// etcd's own documented example cluster ids come from a live etcd; the end-to-end tests compare with one. Here: the
    /// order of members never matters, the token always does.
    #[test]
    fn ids_depend_on_urls_and_token_only() {
        let member = |n: u8| ListedMember {
            instance: InstanceId(format!("i-{n}")),
            name: format!("n{n}"),
            peer_urls: vec![format!("http://10.0.0.{n}:2380")],
        };
        let list =
            |order: [u8; 3], token: &str| InitialList::empty(order.into_iter().map(member).collect(), token.to_owned());
        assert_eq!(cluster_id(&list([1, 2, 3], "t")), cluster_id(&list([3, 1, 2], "t")));
        assert_ne!(cluster_id(&list([1, 2, 3], "t")), cluster_id(&list([1, 2, 3], "u")));
    }
}
