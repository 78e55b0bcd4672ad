//! Which instance a member belongs to.

use crate::core::types::{Instance, InstanceId, InstanceState, Member, Roster};

/// The instance that a member belongs to: members are named by instance id; otherwise the instance at its address. With a
/// static host list, a name counts only while it is listed, and a named member is never matched with another host that is
/// terminated.
pub fn owner(member: &Member, roster: &Roster, written: bool) -> Option<InstanceId> {
    let named = InstanceId(member.name.clone());
    if roster.find(&named).is_some() || (!written && member.name.starts_with("i-")) {
        return Some(named);
    }
    let may_own = |i: &&Instance| !written || member.name.is_empty() || i.state != InstanceState::Terminated;
    let at = |url: &String| {
        let uri = url.parse::<hyper::Uri>().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let is_host = |i: &&Instance| {
            i.address.is_some_and(|a| a.to_string() == host) || i.private_dns.as_deref() == Some(host.as_str())
        };
        // The newest holder of an address counts; if ages are unknown, the one that is not terminated.
        let mut holders = roster.all().iter().rev().filter(is_host).filter(may_own);
        let newest =
            holders.clone().find(|i| written && i.state != InstanceState::Terminated).or_else(|| holders.next());
        newest.map(|i| i.id.clone())
    };
    member.peer_urls.iter().find_map(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::MemberId;

    /// Only a host that is terminated by name is gone: not one that was removed from the list, whatever had its address before.
    #[test]
    fn in_a_written_roster_a_member_is_its_name_s_and_no_other_s() {
        let list = r#"[{"host": "old", "address": "10.0.0.1", "state": "terminated"}, {"host": "new", "address": "10.0.0.1"},
                       {"host": "dead", "address": "10.0.0.2", "state": "terminated"}]"#;
        let roster = Roster::written(crate::config::hosts::parse(list.as_bytes()).unwrap(), 0);
        let owner = |name: &str, address: &str| {
            let member = Member {
                id: MemberId(1),
                name: name.to_owned(),
                peer_urls: vec![format!("http://{address}:2380")],
                client_urls: Vec::new(),
                is_learner: false,
            };
            super::owner(&member, &roster, true).map(|id| id.0)
        };
        assert_eq!(owner("old", "10.0.0.1").as_deref(), Some("old"));
        assert_eq!(owner("dead", "10.9.9.9").as_deref(), Some("dead"));
        assert_eq!(owner("unlisted", "10.0.0.2"), None, "its address was another's who is dead");
        assert_eq!(owner("i-unlisted", "10.9.9.9"), None, "no instance id says anything here");
        assert_eq!(owner("own-name", "10.0.0.1").as_deref(), Some("new"));
        assert_eq!(owner("", "10.0.0.1").as_deref(), Some("new"), "it never started");
        assert_eq!(owner("", "10.0.0.2").as_deref(), Some("dead"));
    }
}
