//! What a list with a seed is to a program that knows no seeds: it must not be a list, or an empty cluster would be founded under it.

use serde::de::DeserializeOwned;
use serde_json::{from_str, to_string};

use super::*;
use crate::core::paxos::{Accepted, Answer, Ledger};
use crate::core::seed::BUMP;
use crate::core::types::Seed;
use crate::core::view::Claim;

/// The messages and files as the release before seeds has them; what has no list in it is ours.
mod older {
    use super::*;

    #[derive(Debug, Deserialize)]
    pub struct InitialList {
        #[expect(dead_code, reason = "read as they were")]
        pub members: Vec<ListedMember>,
        pub token: String,
    }

    #[derive(Debug, Deserialize)]
    pub struct Accepted {
        #[expect(dead_code, reason = "read as it was")]
        pub ballot: Ballot,
        pub list: InitialList,
    }

    #[derive(Debug, Deserialize)]
    pub struct Hello {
        pub chosen: Option<InitialList>,
    }

    #[derive(Debug, Deserialize)]
    pub struct Envelope {
        pub call: Call,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "read as they were")]
    pub enum Call {
        Prepare { charter: Charter, ballot: Ballot },
        Accept { charter: Charter, ballot: Ballot, list: InitialList },
        Chosen { charter: Option<Charter>, list: InitialList },
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "read as they were")]
    pub enum Answer {
        Promised { accepted: Option<Accepted> },
        Accepted,
        Refused { promised: Ballot },
        Chosen { list: InitialList },
        DifferentRoster { theirs: Option<Charter> },
        HasData,
        Unfit { why: String },
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "state", rename_all = "lowercase")]
    #[expect(dead_code, reason = "read as they were")]
    pub enum Claim {
        Founding { list: InitialList },
        Established { cluster: ClusterId },
    }

    #[derive(Debug, Deserialize)]
    pub struct Ledger {
        pub accepted: Option<Accepted>,
        pub chosen: Option<InitialList>,
    }
}

fn id(name: &str) -> InstanceId {
    InstanceId(name.to_owned())
}

fn listed() -> ListedMember {
    ListedMember { instance: id("i-a"), name: "i-a".to_owned(), peer_urls: vec!["http://10.0.0.1:2380".to_owned()] }
}

fn list(is_seeded: bool) -> InitialList {
    let seed = Seed {
        place: "s3://bucket/etcd".to_owned(),
        snapshot: "00000000000000c1/00000000000000000009-00000000000000000012-i-1".to_owned(),
        sha256: "ab".repeat(32),
        size: 8_224,
        bump: BUMP,
    };
    let empty = InitialList::empty(vec![listed()], "etcd-muster-1".to_owned());
    InitialList { seed: is_seeded.then(|| Box::new(seed)), ..empty }
}

/// Written and read here, and read there: which token it finds.
fn both<New, Old>(value: &New, token: impl Fn(&Old) -> Option<&str>) -> Result<Option<String>, String>
where
    New: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    Old: DeserializeOwned,
{
    let text = to_string(value).unwrap();
    assert_eq!(from_str::<New>(&text).unwrap(), *value, "here it is what was written: {text}");
    let old = from_str::<Old>(&text).map_err(|error| error.to_string())?;
    Ok(token(&old).map(str::to_owned))
}

#[test]
fn a_list_with_a_seed_is_none_to_a_program_that_knows_no_seeds() {
    let charter = Charter {
        size: 1,
        token_prefix: "t".to_owned(),
        first: vec![(id("i-a"), Some(1))],
        claim: None,
        written: None,
    };
    let ballot = Ballot { round: 1, proposer: id("i-a"), nonce: 7 };
    for is_seeded in [false, true] {
        let list = list(is_seeded);
        let accepted = Accepted { ballot: ballot.clone(), list: list.clone() };
        let hello = Hello {
            listed: listed(),
            has_data: false,
            cluster: None,
            charter: Some(charter.clone()),
            promised: Some(ballot.clone()),
            chosen: Some(list.clone()),
            renounced: BTreeSet::new(),
            member: None,
            logs: Vec::new(),
            release: None,
            restoring: None,
        };
        let accept = Call::Accept { charter: charter.clone(), ballot: ballot.clone(), list: list.clone() };
        let chosen = Call::Chosen { charter: Some(charter.clone()), list: list.clone() };
        let promised = Answer::Promised { accepted: Some(accepted.clone()) };
        let ledger = |accepted, chosen| Ledger { nonce: 7, accepted, chosen, ..Ledger::default() };
        let of_call = |call: &older::Call| match call {
            older::Call::Accept { list, .. } | older::Call::Chosen { list, .. } => Some(list.token.clone()),
            older::Call::Prepare { .. } => None,
        };
        let called = |call: Call| {
            let text = to_string(&Envelope { from: id("i-a"), call: call.clone() }).unwrap();
            assert_eq!(from_str::<Envelope>(&text).unwrap().call, call);
            let old = from_str::<older::Envelope>(&text).map_err(|error| error.to_string())?;
            Ok(of_call(&old.call))
        };
        let of_answer = |answer: &older::Answer| match answer {
            older::Answer::Chosen { list }
            | older::Answer::Promised { accepted: Some(older::Accepted { list, .. }) } => Some(list.token.clone()),
            _ => None,
        };
        let answered = |answer: Answer| {
            let text = to_string(&answer).unwrap();
            assert_eq!(from_str::<Answer>(&text).unwrap(), answer);
            let old = from_str::<older::Answer>(&text).map_err(|error| error.to_string())?;
            Ok(of_answer(&old))
        };
        let found: Vec<Result<Option<String>, String>> = vec![
            both(&list, |old: &older::InitialList| Some(&old.token)),
            both(&hello, |old: &older::Hello| old.chosen.as_ref().map(|list| list.token.as_str())),
            both(&Claim::Founding { list: list.clone() }, |old: &older::Claim| match old {
                older::Claim::Founding { list } => Some(&list.token),
                older::Claim::Established { .. } => None,
            }),
            both(&ledger(Some(accepted), None), |old: &older::Ledger| {
                old.accepted.as_ref().map(|accepted| accepted.list.token.as_str())
            }),
            both(&ledger(None, Some(list.clone())), |old: &older::Ledger| {
                old.chosen.as_ref().map(|list| list.token.as_str())
            }),
            called(accept),
            called(chosen),
            answered(promised),
            answered(Answer::Chosen { list: list.clone() }),
        ];
        for (nth, found) in found.into_iter().enumerate() {
            match is_seeded {
                true => assert!(found.as_ref().is_err_and(|why| why.contains("members")), "{nth}: {found:?}"),
                false => assert_eq!(found, Ok(Some(list.token.clone())), "{nth}"),
            }
        }
    }
}
