//! A small world in words: instances `a`, `b`, `c`, … by rank, and what each says.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use muster_core::paxos::{Charter, Ledger};
use muster_core::release::{DataRelease, Installed};
use muster_core::release::{Minor, Release};
use muster_core::seed::{BUMP, SeedSeen, Snapshots};
use muster_core::types::Seed;
use muster_core::types::{
    ClusterId, InitialList, Instance, InstanceId, InstanceState, Known, ListedMember, Member, MemberId, Roster,
};
use muster_core::view::ClaimState;
use muster_core::view::{
    Clean, DataDir, DataSeen, EtcdSeen, FreshSeen, Liveness, LocalMember, Peer, PeerState, Policy, Quorum, Silence,
    Twin, View,
};

/// When EC2 answered, in every world.
pub const NOW: i64 = 1_800_000_000;
/// The etcd of every node, and the version of its clusters.
pub const RELEASE: Release = Release { major: 3, minor: 5, patch: 33 };
pub const VERSION: Minor = RELEASE.minor();
/// The cluster that lives, where one does.
pub const LIVING: ClusterId = ClusterId(0xc1);

/// Prints a figure, also where the test passes: the runner holds back only what `println!` writes.
pub fn report(figure: &str) {
    writeln!(std::io::stdout(), "{figure}").expect("a stdout");
}

/// The defaults, with that size.
pub fn policy(size: Option<usize>) -> Policy {
    Policy {
        cluster_size: size,
        min_nodes: 2,
        found_grace: Duration::from_secs(60),
        found_window: Duration::from_secs(900),
        found_absent: false,
        found_alone: false,
        clean: Clean::Gone,
        clean_dwell: Duration::from_secs(30),
        adopt: None,
        max_learners: 1,
        join_newer: false,
        token_prefix: "t".to_owned(),
        claim: None,
        join: Vec::new(),
        seed: None,
        snapshots: Vec::new(),
        filter: "etcd=1".to_owned(),
        written: false,
    }
}

pub fn id(name: char) -> InstanceId {
    InstanceId(format!("i-{name}"))
}

/// The member id of an instance's member, here.
pub fn member_id(name: char) -> MemberId {
    MemberId(u64::from(name))
}

pub fn listed(name: char) -> ListedMember {
    ListedMember { instance: id(name), name: format!("i-{name}"), peer_urls: vec![format!("http://{name}:2380")] }
}

/// The snapshot of an earlier cluster at that revision, as a seed.
pub fn seed(revision: u64) -> Seed {
    Seed {
        place: "file:/b".to_owned(),
        snapshot: format!("00000000000000c1/{revision:020}-{:020}-i-1", revision + 3),
        sha256: "ab".repeat(32),
        size: 8_224,
        bump: BUMP,
    }
}

/// An instance launched a minute ago, `a` before `b`.
pub fn instance(name: char, state: InstanceState) -> Instance {
    Instance {
        id: id(name),
        state,
        launched: Some(NOW - 60 + i64::from(u32::from(name) - u32::from('a'))),
        attached: None,
        changed: None,
        address: None,
        private_dns: None,
        zone: "z".to_owned(),
    }
}

pub fn roster(names: &str) -> Roster {
    Roster::new(names.chars().map(|n| instance(n, InstanceState::Running)).collect(), NOW)
}

/// A started voter.
pub fn voter(name: char) -> Member {
    let l = listed(name);
    Member {
        id: member_id(name),
        name: l.name,
        peer_urls: l.peer_urls,
        client_urls: vec![format!("http://{name}:2379")],
        is_learner: false,
    }
}

/// An etcd of the living cluster with these voters.
pub fn etcd(members: &str, has_quorum: bool) -> PeerState {
    PeerState::Etcd(EtcdSeen {
        cluster: LIVING,
        client_url: "http://x:2379".to_owned(),
        members: members.chars().map(voter).collect(),
        quorum: if has_quorum { Quorum::Proven } else { Quorum::Unproven },
        version: Some(VERSION),
        release: Some(RELEASE),
    })
}

/// A fresh supervisor that sees this founding.
pub fn fresh(name: char, charter: &Charter) -> PeerState {
    PeerState::Fresh(FreshSeen {
        charter: Some(charter.clone()),
        promised: None,
        chosen: None,
        renounced: BTreeSet::new(),
        listed: listed(name),
        release: Some(RELEASE),
        restoring: None,
    })
}

/// A peer that says so, silent (if it is) for that long.
pub fn peer(name: char, sighting: PeerState, silent: Duration) -> Peer {
    let refused_throughout = sighting == PeerState::Refused;
    let unanswered_for =
        if matches!(sighting, PeerState::Refused | PeerState::Silent(_)) { silent } else { Duration::ZERO };
    Peer {
        sighting,
        unanswered_for,
        refused_throughout,
        impaired: Known::Unknown("not asked".to_owned()),
        listed: Some(listed(name)),
    }
}

/// What `me` sees with a roster of these names, nobody answering yet.
pub fn view(me: char, names: &str) -> View {
    let roster = roster(names);
    let silent = || PeerState::Silent("timeout".to_owned());
    let others = names.chars().filter(|n| *n != me);
    View {
        me: LocalMember { instance: id(me), listed: listed(me) },
        data: DataDir::Fresh,
        yielded: false,
        condemned: None,
        ledger: Ledger { nonce: u64::from(me), instance: Some(id(me)), ..Ledger::default() },
        accepted_cluster: None,
        chosen_cluster: None,
        claim: ClaimState::NotAsked,
        snapshots: Snapshots::NotAsked,
        seed: SeedSeen::default(),
        ending: Known::Known(None),
        roster_unchanged_for: Duration::ZERO,
        own_tags: Known::Unknown("not asked".to_owned()),
        peers: others.map(|n| (id(n), peer(n, silent(), Duration::ZERO))).collect(),
        old_fleet: BTreeMap::new(),
        roster: Known::Known(roster),
        liveness: BTreeMap::new(),
        owner_gone: Known::Unknown("not asked".to_owned()),
        twin: Twin::Nobody,
        log: None,
        unresolved: BTreeMap::new(),
        since_own_removal: None,
        installed: Installed::Known(RELEASE),
        data_release: Known::Known(DataRelease::default()),
        downgrade: Known::Known(None),
    }
}

/// What a dead member's instance is known to be.
pub fn fate(name: char, gone: Known<bool>, silent_for: Duration) -> Liveness {
    Liveness::Silent(Silence { instance: Some(id(name)), gone, silent_for })
}

/// All that are listed answer, but for those whose fate is known already; our own place doesn't.
pub fn others_answer(view: &mut View) {
    let members: Vec<Member> = view.living_clusters().values().flat_map(|etcd| etcd.members.clone()).collect();
    for member in members {
        let is_ours = member.name == view.me.listed.name || member.peer_urls == view.me.listed.peer_urls;
        let silent = Silence {
            instance: None,
            gone: Known::Unknown("no instance can be named".to_owned()),
            silent_for: Duration::ZERO,
        };
        let fate = if is_ours { Liveness::Silent(silent) } else { Liveness::Answers };
        view.liveness.entry(member.id).or_insert(fate);
    }
}

/// A supervisor that holds data.
pub fn seen_data(cluster: Option<ClusterId>, chosen: Option<InitialList>) -> PeerState {
    PeerState::HasData(DataSeen { cluster, chosen, ..DataSeen::default() })
}

/// Sets what a peer says.
pub fn says(view: &mut View, name: char, sighting: PeerState, silent: Duration) {
    view.peers.insert(id(name), peer(name, sighting, silent));
}

/// All peers answer fresh, in the founding we see.
pub fn all_fresh(policy: &Policy, view: &mut View, names: &str) {
    let Known::Known(roster) = view.roster.clone() else { return };
    all_fresh_in(policy, view, &roster, names);
}

/// The same, in the founding that this roster calls for.
pub fn all_fresh_in(policy: &Policy, view: &mut View, roster: &Roster, names: &str) {
    let charter = policy.charter(roster);
    for name in names.chars() {
        says(view, name, fresh(name, &charter), Duration::ZERO);
    }
}
