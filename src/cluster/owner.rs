//! Whose the data here is (section "Whose the data is" of ARCHITECTURE.md). **A disk is not a member**: a WAL and a member list
//! that name a member are no proof that this host is it. A volume's snapshot, a machine image, a restored machine have them too.

use super::list::same_urls;
use super::step::{Doubt, Hold};
use super::types::{ClusterId, Known, Member, MemberId};
use super::view::{Policy, Sighting, Twin, View};

/// Whether this host may run as the member that its data is of: as its owner by the ledger, or because that owner is provably
/// gone.
///
/// # Errors
/// What to hold for.
pub fn may_run(policy: &Policy, view: &View, cluster: ClusterId, member: MemberId) -> Result<(), Hold> {
    let owner = view.ledger.instance.clone();
    let is_ours = owner.as_ref() == Some(&view.me.instance);
    if let Twin::Runs { at } = &view.twin {
        let owner = owner.filter(|_| !is_ours);
        return Err(Hold::RunsElsewhere { cluster, member, owner, at: at.clone() });
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
        None => match absence_of_the_owner(policy, view, cluster, member) {
            Ok(()) => return Ok(()),
            Err(doubt) => doubt,
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

/// The owner is gone by EC2's word, or its member was silent for the dwell time while the others are a quorum.
fn absence_of_the_owner(policy: &Policy, view: &View, cluster: ClusterId, member: MemberId) -> Result<(), Doubt> {
    let owner = view.ledger.instance.as_ref();
    // Whoever answers at all may run as that member again.
    let answers = owner.and_then(|id| view.peers.get(id)).is_some_and(|peer| {
        !matches!(peer.sighting, Sighting::Refused | Sighting::Silent(_)) || peer.unanswered_for < policy.clean_dwell
    });
    let ripe = view.fate(member).silent_for().map(|silent| silent >= policy.clean_dwell);
    let lives = view.living_clusters().contains_key(&cluster);
    let why = match (owner, &view.owner_gone) {
        (None, _) => Doubt::NoRecord,
        // Where its cluster lives, the member is seen to be silent.
        (Some(_), Known::Known(true)) if !lives || ripe.is_some() => return Ok(()),
        (Some(_), Known::Known(_)) => Doubt::OwnerStands,
        (Some(_), Known::Unknown(cause)) => Doubt::OwnerUnknown(cause.clone()),
    };
    match ripe.filter(|_| lives && !answers) {
        Some(true) => Ok(()),
        Some(false) => Err(Doubt::Dwell),
        None => Err(why),
    }
}
