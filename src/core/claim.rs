//! The claim (`MUSTER_CLAIM`): one object outside the fleet, written only with conditional writes. It names the list of first
//! members and, later, the cluster that was bootstrapped. It replaces acceptance: the node that writes it has decided, and the
//! listed nodes follow it. So at most one cluster is bootstrapped, whatever EC2 shows.

use super::bootstrap::{self, start_by};
use super::evidence::{may_believe, signs_of_a_cluster};
use super::paxos::{Accepted, Ballot};
use super::step::{ClaimProposal, Hold, Step};
use super::types::{ClusterId, InitialList, Known, Seed};
use super::view::{Claim, ClaimState, Policy, View};

/// For a fresh node that sees no cluster with quorum.
pub(super) fn obey(policy: &Policy, view: &View) -> Step {
    let ledger = &view.ledger;
    let replaces = match &view.claim {
        ClaimState::NotAsked => return Step::Hold(Hold::ClaimUnknown { cause: "it was not read".to_owned() }),
        ClaimState::Unknown(cause) => return Step::Hold(Hold::ClaimUnknown { cause: cause.clone() }),
        _ if ledger.founded || ledger.joined.is_some() => return Step::Hold(Hold::DiskLost),
        ClaimState::Held { claim: Claim::Established { cluster }, version } => match succession(view, *cluster) {
            Some(Succession::Decided { ballot, list }) => {
                let (ballot, list, replaces) = (ballot.clone(), list.clone(), Some(version.clone()));
                return Step::Claim(ClaimProposal { ballot, list, replaces });
            }
            Some(Succession::Ordered) => Some(version.clone()),
            None => return Step::Hold(Hold::Established { cluster: *cluster, claim: name(policy) }),
        },
        ClaimState::Held { claim: Claim::Founding { list }, version } => {
            // It may be a typing error or another program's object: an operator must look at it.
            if let Some(fault) = list.fault() {
                return Step::Hold(Hold::ClaimUnknown { cause: format!("{}: {fault}", name(policy)) });
            }
            if !view.losses().voids(list) {
                return started_by(policy, view, list);
            }
            Some(version.clone())
        }
        ClaimState::Absent => None,
    };
    if let Some(hold) = signs_of_a_cluster(view) {
        return Step::Hold(hold);
    }
    let claim = |ballot, list| Step::Claim(ClaimProposal { ballot, list, replaces });
    match bootstrap::found(policy, view) {
        Step::Propose(proposal) => claim(proposal.ballot, proposal.list),
        Step::FoundAlone { accepted, .. } => claim(accepted.ballot, accepted.list),
        hold => hold,
    }
}

/// Why a cluster that the claim names is succeeded by another one.
enum Succession<'a> {
    /// It is recovered here, with this list.
    Decided { ballot: &'a Ballot, list: &'a InitialList },
    /// An operator ordered that one of its snapshots is restored.
    Ordered,
}

/// An operator's word alone, about that very cluster: the list that goes on with its data, or an order to restore one of its snapshots.
fn succession(view: &View, cluster: ClusterId) -> Option<Succession<'_>> {
    let accepted = view.ledger.accepted.as_ref();
    let recovered = accepted
        .filter(|accepted| view.ledger.chosen.as_ref() == Some(&accepted.list) && is_alone(view, &accepted.list));
    if let Some(Accepted { ballot, list }) =
        recovered.filter(|accepted| of_cluster(accepted.list.seed.as_deref()) == Some(cluster))
    {
        return Some(Succession::Decided { ballot, list });
    }
    let ordered = view.seed.wanted.as_ref().and_then(Known::known).filter(|_| view.seed.by_order);
    (of_cluster(ordered) == Some(cluster)).then_some(Succession::Ordered)
}

fn is_alone(view: &View, list: &InitialList) -> bool {
    list.members.len() == 1 && list.holds(&view.me.instance)
}

fn of_cluster(seed: Option<&Seed>) -> Option<ClusterId> {
    seed?.cluster()
}

fn started_by(policy: &Policy, view: &View, list: &InitialList) -> Step {
    match (list.entry(&view.me.instance), may_believe(policy, view)) {
        (Some(entry), true) => start_by(view, list, entry),
        (Some(_), false) => Step::Hold(Hold::DiskLost),
        (None, _) => Step::Hold(Hold::ClaimedByOthers { claim: name(policy), list: list.clone() }),
    }
}

/// What a voter of a cluster with a leader has to do about the claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Establish {
    /// Write that this cluster exists, replacing that version of the object, or none.
    Write { replaces: Option<String> },
    /// It is written, or it is not for us to write.
    Done,
    /// The claim is for another cluster. It is never overwritten: an operator must decide which of the two it is for.
    Conflict(String),
    /// It can't be read now.
    Later(String),
}

/// A cluster that was bootstrapped before the claim was configured gets one too. `id_of` gives the cluster id that follows from
/// a list.
pub fn establish(claimed: &ClaimState, cluster: ClusterId, id_of: impl Fn(&InitialList) -> ClusterId) -> Establish {
    match claimed {
        ClaimState::NotAsked => Establish::Done,
        ClaimState::Unknown(cause) => Establish::Later(cause.clone()),
        ClaimState::Absent => Establish::Write { replaces: None },
        ClaimState::Held { claim: Claim::Established { cluster: theirs }, .. } if *theirs == cluster => Establish::Done,
        ClaimState::Held { claim: Claim::Founding { list }, version } if id_of(list) == cluster => {
            Establish::Write { replaces: Some(version.clone()) }
        }
        ClaimState::Held { claim, .. } => Establish::Conflict(match claim {
            Claim::Established { cluster } => format!("cluster {cluster}"),
            Claim::Founding { list } => format!("the first members {}", list.initial_cluster()),
        }),
    }
}

fn name(policy: &Policy) -> String {
    policy.claim.clone().unwrap_or_default()
}
