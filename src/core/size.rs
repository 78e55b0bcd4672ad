//! How many members a cluster has, beside how many it is to have. The setting is each node's own: where nodes have different ones, at
//! least one of them has another one than the cluster has members, and says so.

use super::types::Member;

/// One line for a node whose `MUSTER_CLUSTER_SIZE` is not the number of members, with both ways out.
pub fn difference(wanted: Option<usize>, members: &[Member]) -> Option<String> {
    let (wanted, has) = (wanted?, members.len());
    let ways_out = match has.abs_diff(wanted) {
        0 => return None,
        more if has < wanted => format!("{} may join", instances(more)),
        fewer => format!("to shrink it, run etcd-muster leave on {}", nodes(fewer)),
    };
    Some(format!(
        "the cluster has {has} {}, and MUSTER_CLUSTER_SIZE is {wanted} here: {ways_out}; to keep it as it is, set \
         MUSTER_CLUSTER_SIZE={has} on every node",
        if has == 1 { "member" } else { "members" }
    ))
}

fn instances(number: usize) -> String {
    if number == 1 { "one more instance".to_owned() } else { format!("{number} more instances") }
}

fn nodes(number: usize) -> String {
    if number == 1 { "one node".to_owned() } else { format!("{number} nodes") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::MemberId;

    #[test]
    fn a_node_says_so_if_the_cluster_has_not_the_size_that_it_was_told() {
        let member = |id| Member {
            id: MemberId(id),
            name: id.to_string(),
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
            is_learner: false,
        };
        let members: Vec<Member> = (1..=5).map(member).collect();
        assert_eq!(difference(Some(5), &members), None);
        assert_eq!(difference(None, &members), None, "as many as there are instances");
        let line = difference(Some(3), &members).unwrap();
        assert!(
            line.starts_with("the cluster has 5 members, and MUSTER_CLUSTER_SIZE is 3 here: to shrink it"),
            "{line}"
        );
        assert!(line.contains("leave on 2 nodes;") && line.ends_with("MUSTER_CLUSTER_SIZE=5 on every node"), "{line}");
        let line = difference(Some(2), &members[..1]).unwrap();
        assert!(line.contains("has 1 member, and") && line.contains("one more instance may join"), "{line}");
    }
}
