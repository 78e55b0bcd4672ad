//! Whose data this is (section "Data ownership" of ARCHITECTURE.md). **A disk is not a member**: a WAL and a member list
//! that name a member do not prove that this host is that member. A volume's snapshot, a machine image and a restored machine
//! have them too.

use super::initial_list::same_urls;
use super::step::{Doubt, Hold};
use super::types::{ClusterId, Known, Member, MemberId};
use super::view::{Liveness, Policy, Twin, View};

/// Whether this host may run as the member whose data it has: because the ledger names this host as the owner, or because that
/// owner is provably gone. That the owner does not answer while the others have a quorum proves nothing: it may be cut off, and
/// two nodes that vote under one id can elect two leaders. (Found by the model.)
///
/// # Errors
/// The hold, if it may not.
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
            // Where the owner's cluster has a quorum, its member must also be seen not to answer.
            (Some(_), Known::Known(true)) if is_silent(view, cluster, member) => return Ok(()),
            (Some(_), Known::Known(_)) => Doubt::OwnerStands,
            (Some(_), Known::Unknown(cause)) => Doubt::OwnerUnknown(cause.clone()),
        },
    };
    Err(Hold::NotOurs { member: Some((cluster, member)), owner, why: doubt })
}

/// A quorum lists the member at our own address, where no other host can be. For data without a record any member list will do,
/// because there is nothing else to go by.
fn is_at_home(view: &View, cluster: ClusterId, member: MemberId) -> bool {
    let unrecorded = view.ledger.instance.is_none();
    let lists = view.etcds().filter(|etcd| etcd.cluster == cluster);
    let mut lists = lists.filter(|etcd| etcd.has_quorum() || unrecorded);
    let here = |m: &Member| m.id == member && same_urls(&m.peer_urls, &view.me.listed.peer_urls);
    lists.any(|etcd| etcd.members.iter().any(here))
}

fn is_silent(view: &View, cluster: ClusterId, member: MemberId) -> bool {
    !view.living_clusters().contains_key(&cluster) || matches!(view.liveness_of(member), Liveness::Silent(_))
}

/// Whether this host is that instance, shown without the metadata service: by the firmware's asset tag where it is an instance
/// id, otherwise because the instance's address is one of ours. Behind a container's bridge neither may show; then it is
/// unknown, which counts as no.
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
