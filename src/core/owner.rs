//! Whose the data here is (section "Whose the data is" of ARCHITECTURE.md). **A disk is not a member**: a WAL and a member list
//! that name a member are no proof that this host is it. A volume's snapshot, a machine image, a restored machine have them too.

use super::initial_list::same_urls;
use super::step::{Doubt, Hold};
use super::types::{ClusterId, Known, Member, MemberId};
use super::view::{Liveness, Policy, Twin, View};

/// Whether this host may run as the member that its data is of: as its owner by the ledger, or because that owner is provably
/// gone. That he is silent, and the others a quorum without him, proves nothing: he may be cut off, and two that vote under one
/// id can elect two leaders. (Found by the model.)
///
/// # Errors
/// What to hold for.
pub fn may_run(policy: &Policy, view: &View, cluster: ClusterId, member: MemberId) -> Result<(), Hold> {
    let owner = view.ledger.instance.clone();
    let is_ours = owner.as_ref() == Some(&view.me.instance);
    if let Twin::Runs { at, name } = &view.twin {
        return Err(Hold::RunsElsewhere { cluster, member, name: name.clone(), at: at.clone() });
    }
    if is_ours {
        return Ok(());
    }
    let doubt = match &view.twin {
        Twin::Holds { instance } => Some(Doubt::HeldBy(instance.clone())),
        Twin::Unknown { at, cause } => Some(Doubt::Answered { at: at.clone(), cause: cause.clone() }),
        Twin::Runs { .. } | Twin::Nobody => None,
    };
    let doubt = match doubt {
        Some(doubt) => doubt,
        None if policy.adopt == Some(member) || is_at_home(view, cluster, member) => return Ok(()),
        None => match (&owner, &view.owner_gone) {
            (None, _) => Doubt::NoRecord,
            // Where its cluster lives, its member must be seen to be silent, too.
            (Some(_), Known::Known(true)) if is_silent(view, cluster, member) => return Ok(()),
            (Some(_), Known::Known(_)) => Doubt::OwnerStands,
            (Some(_), Known::Unknown(cause)) => Doubt::OwnerUnknown(cause.clone()),
        },
    };
    Err(Hold::NotOurs { member: Some((cluster, member)), owner, why: doubt })
}

/// A quorum lists the member at our own address: nobody else can be there. Of data without a record any list will do, for it is
/// all that there is to go by.
fn is_at_home(view: &View, cluster: ClusterId, member: MemberId) -> bool {
    let unrecorded = view.ledger.instance.is_none();
    let lists = view.etcds().map(|(_, etcd)| etcd).filter(|etcd| etcd.cluster == cluster);
    let mut lists = lists.filter(|etcd| etcd.has_quorum() || unrecorded);
    let here = |m: &Member| m.id == member && same_urls(&m.peer_urls, &view.me.listed.peer_urls);
    lists.any(|etcd| etcd.members.iter().any(here))
}

fn is_silent(view: &View, cluster: ClusterId, member: MemberId) -> bool {
    !view.living_clusters().contains_key(&cluster) || matches!(view.fate(member), Liveness::Silent(_))
}

/// Whether a host is that instance, told without the metadata service: by the firmware's asset tag where that is an instance id,
/// else because the instance's address is its own. Behind a container's bridge neither may show: then it is unknown, which is no.
pub fn is_this_machine(tag: &str, instance: &str, is_local: impl Fn() -> bool) -> bool {
    match tag.starts_with("i-") {
        true => tag == instance,
        false => is_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmwares_word_goes_before_the_address() {
        assert!(is_this_machine("i-0a", "i-0a", || false));
        assert!(
            !is_this_machine("i-0b", "i-0a", || true),
            "a machine made from its image, at an address that was handed on"
        );
        assert!(is_this_machine("", "i-0a", || true) && is_this_machine("Not Specified", "i-0a", || true));
        assert!(!is_this_machine("", "i-0a", || false));
    }
}
