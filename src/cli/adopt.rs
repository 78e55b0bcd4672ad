//! `adopt --check`: the settings with which etcd-muster would run, in place, the member of an etcd that was set up by hand here; and
//! whether it may. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::FromArgs;
use serde_json::json;
use tokio::task::JoinSet;

mod local;

use super::adoption::{ByHand, Translated, translate};
use super::{find_self, terminal};
use crate::config::{self, Config, Security, VARIABLES, Variable};
use crate::core::initial_list::same_urls;
use crate::core::quorum::quorum;
use crate::core::release::Release;
use crate::core::types::{ClusterId, Instance, InstanceId, Member, MemberId, Roster};
use crate::daemon::certificates::check_files;
use crate::daemon::startup::find_etcd;
use crate::discovery::aws_clients::Aws;
use crate::discovery::member_owner::owner;
use crate::discovery::{Discovery, addresses};
use crate::etcd::by_hand;
use crate::etcd::client::{self, Client, MemberList, Status};
use crate::peer::clients::PeerClients;
use crate::state::store::Identity;
use crate::util::exit::{Code, Failure};
use crate::util::file;
use local::{Data, Source, look_at, the_one_etcd};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Variables of ours that the member itself decides.
const DECIDED: [&str; 7] =
    ["ED_DATA", "ED_WAL", "CLNT_PORT", "PEER_PORT", "ETCD_MEMBER_TYPE", "ETCD_OPTS", "MUSTER_ADOPT"];

/// Show the settings with which etcd-muster would run the member of an etcd that was set up by hand on this host, and whether it
/// may: exits with 0 if so, otherwise with 1, and says why not. Changes nothing. Run it with the MUSTER_ settings that the host is
/// to have; without --pid, --data-dir or a file it looks for the one etcd that runs here.
#[derive(FromArgs)]
#[argh(subcommand, name = "adopt")]
pub(super) struct Adopt {
    /// show it; nothing else can be done
    #[argh(switch)]
    check: bool,
    /// the process of the etcd to look at
    #[argh(option, arg_name = "PID")]
    pid: Option<u32>,
    /// a file of its variables, ETCD_…=… one a line
    #[argh(option, arg_name = "FILE")]
    env_file: Option<PathBuf>,
    /// its configuration file (flat lines only), or the manifest of its pod
    #[argh(option, arg_name = "FILE")]
    config_file: Option<PathBuf>,
    /// its data directory
    #[argh(option, arg_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// its WAL's directory, if that is not in the data directory
    #[argh(option, arg_name = "DIR")]
    wal_dir: Option<PathBuf>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// What the cluster says.
#[derive(Default)]
struct Answers {
    /// Of the etcd at this host.
    here: Option<Status>,
    /// Why it gave none.
    trouble: Option<String>,
    /// Through a quorum.
    list: Option<MemberList>,
    /// The other members that can read through the quorum.
    healthy: BTreeSet<MemberId>,
}

type Environment = BTreeMap<String, String>;

impl Adopt {
    pub(super) async fn run(&self, config: &Config, environment: &Environment) -> Result<i32, Failure> {
        if !self.check {
            return Err(Failure::new(Code::Usage, "adopt changes nothing and only checks: write adopt --check"));
        }
        let source = self.source()?;
        let data_dir = source.data_dir()?;
        let mut blockers = Vec::new();
        let data = look_at(&data_dir, source.given.get("ETCD_WAL_DIR").map(|dir| source.absolute(dir)), &mut blockers);
        let (own, imds) = find_self(config).await?;
        let aws = Aws::new(&config.aws, imds, Some(&own))?;
        let fleet = Discovery::new(config.instances.clone(), &aws).fleet().await?;
        let mut check = Check {
            config,
            source,
            data,
            own,
            roster: fleet.roster,
            own_names: BTreeSet::new(),
            notes: Vec::new(),
            blockers,
        };
        let translated = check.translate(environment).await;
        Ok(check.print(&translated, self.json))
    }

    /// The operator's word, or else the one etcd that runs here.
    fn source(&self) -> Result<Source, Failure> {
        let wrong =
            |path: &Path, why: &dyn std::fmt::Display| Failure::new(Code::Usage, format!("{}: {why}", path.display()));
        let read = |path: &Path| {
            let bytes = file::read(path).map_err(|e| wrong(path, &e))?;
            String::from_utf8(bytes).map_err(|_| wrong(path, &"it is not text"))
        };
        let named = self.env_file.is_some() || self.config_file.is_some() || self.data_dir.is_some();
        let mut source = match self.pid {
            None if named => Source::default(),
            pid => Source::of_process(pid.map_or_else(the_one_etcd, Ok)?)?,
        };
        if let Some(path) = &self.env_file {
            source.given.extend(by_hand::of_env_file(&read(path)?).map_err(|e| wrong(path, &e))?);
        }
        // With such a file etcd takes its settings from nowhere else.
        let of_etcd = source.given.get("ETCD_CONFIG_FILE").map(|path| source.absolute(path));
        if let Some(path) = self.config_file.clone().or(of_etcd) {
            source.given = by_hand::of_config_file(&read(&path)?).map_err(|e| wrong(&path, &e))?;
        }
        for (name, dir) in [("ETCD_DATA_DIR", &self.data_dir), ("ETCD_WAL_DIR", &self.wal_dir)] {
            source.given.extend(dir.iter().map(|dir| (name.to_owned(), dir.display().to_string())));
        }
        Ok(source)
    }
}

/// One check: what was found so far.
struct Check<'a> {
    config: &'a Config,
    source: Source,
    data: Data,
    own: Identity,
    roster: Roster,
    /// Names in client URLs that lead to this host alone.
    own_names: BTreeSet<String>,
    notes: Vec<String>,
    blockers: Vec<String>,
}

impl Check<'_> {
    /// The settings, and what the cluster says when it is asked with them.
    async fn translate(&mut self, environment: &Environment) -> Vec<(String, String)> {
        let Some((cluster, id)) = self.data.ids else { return Vec::new() };
        let Some(stored) = self.data.members.iter().find(|member| member.id == id).cloned() else {
            self.blockers.push(format!(
                "member {id}, whose data this is, is not in that data's own list: it was removed from cluster {cluster}, or its etcd has \
                 only just begun"
            ));
            return Vec::new();
        };
        let advertised = self.source.given.get("ETCD_ADVERTISE_CLIENT_URLS").into_iter().chain(&stored.client_urls);
        let names: Vec<String> = advertised.flat_map(|urls| addresses::hosts(urls)).collect();
        for name in names {
            if leads_to(&name, self.own.address).await {
                self.own_names.insert(name);
            }
        }
        let mut members = self.data.members.clone();
        let mut translated = self.settings(environment, &stored, &members);
        let mut derived = derive(environment, &translated.settings);
        if let Ok(config) = &derived {
            let answers = self.ask(config, &members).await;
            if let Some(list) = answers.list.as_ref().filter(|list| list.cluster == cluster) {
                members = list.members.clone();
            }
            let listed = members.iter().find(|member| member.id == id).cloned();
            self.judge_answers(&answers, &members, id, cluster);
            if let Some(listed) = listed {
                translated = self.settings(environment, &listed, &members);
                self.adopt_alone(&answers, &members, id, &mut translated);
                derived = derive(environment, &translated.settings);
                self.judge_members(&listed, &members);
                if let Ok(config) = &derived
                    && translated.blockers.is_empty()
                {
                    self.judge_settings(config, &listed).await;
                }
            }
        }
        self.blockers.extend(derived.err().unwrap_or_default());
        self.notes.extend(translated.notes);
        self.blockers.extend(translated.blockers);
        translated.settings
    }

    fn settings(&self, environment: &Environment, member: &Member, members: &[Member]) -> Translated {
        let mut to = translate(&ByHand {
            given: &self.source.given,
            data: &self.data.paths.data,
            wal: self.data.wal.clone(),
            member,
            others: members.iter().filter(|other| other.id != member.id).collect(),
            own: &self.own,
            own_names: &self.own_names,
        });
        let mut kept = |variable: &Variable, value: &str| match config::shown(variable.name, value) {
            Some(shown) if shown == value => to.set(variable.name, value),
            _ => to.notes.push(format!("{} is set, and goes on being needed; its value is not shown", variable.name)),
        };
        let ours = VARIABLES.iter().filter(|variable| !DECIDED.contains(&variable.name));
        for (variable, value) in ours.filter_map(|variable| Some((variable, variable.value(environment)?))) {
            kept(variable, value);
        }
        if self.config.bootstrap.cluster_size.is_none() {
            to.set("MUSTER_CLUSTER_SIZE", members.iter().filter(|member| !member.is_learner).count());
        }
        // The installed etcd is ED_HOME/bin/etcd, or in PATH.
        let program = self.source.process.as_ref().map(|process| &process.program);
        let home =
            program.filter(|program| program.ends_with("bin/etcd")).and_then(|program| program.ancestors().nth(2));
        if let Some(home) = home.filter(|_| !environment.contains_key("ED_HOME")) {
            to.set("ED_HOME", home.display());
        }
        to
    }

    async fn ask(&self, config: &Config, members: &[Member]) -> Answers {
        let clients = PeerClients::new(&config.etcd, Some(&self.own));
        clients.learn(&self.roster);
        let etcd = clients.etcd;
        let url = addresses::own_client_url(&addresses::settings(&config.etcd, &self.own));
        let mut answers = Answers::default();
        match etcd.status(&url, ANSWER_TIMEOUT).await {
            Ok(status) => answers.here = Some(status),
            // Until 3.4 a configuration file turns the gateway off (seen on 3.4.23).
            Err(error @ client::Error::NotEtcd { .. }) => {
                let way_out = "its JSON gateway may be off, as with a configuration file until 3.4; add enable-grpc-gateway: true to it";
                answers.trouble = Some(format!("{error}; {way_out}, and start it again"));
            }
            Err(error) => answers.trouble = Some(error.to_string()),
        }
        let own = self.data.ids.map(|(_, id)| id);
        let others = || members.iter().filter(|member| Some(member.id) != own);
        for url in [&url].into_iter().chain(others().flat_map(|member| &member.client_urls)) {
            if answers.list.is_none() {
                answers.list = etcd.member_list(url, ANSWER_TIMEOUT).await.ok();
            }
        }
        let written = self.config.instances.written().is_some();
        let at = |member: &Member| {
            let holder = owner(member, &self.roster, written).and_then(|holder| self.roster.find(&holder)?.address);
            let shared = |url: &String| members.iter().filter(|other| other.client_urls.contains(url)).count() > 1;
            let urls = holder.map(|address| addresses::client_url(&config.etcd, &address.to_string())).into_iter();
            urls.chain(member.client_urls.iter().filter(|url| !shared(url)).cloned()).collect()
        };
        answers.healthy = healthy(&etcd, others().map(|member| (member.id, at(member))).collect()).await;
        answers
    }

    /// Whether the etcd that answers has this data, and whether the others can do without it for a moment.
    fn judge_answers(&mut self, answers: &Answers, members: &[Member], id: MemberId, cluster: ClusterId) {
        let process = self.source.process.as_ref().map(|process| process.pid);
        match (&answers.here, process) {
            (Some(here), _) if (here.cluster, here.member) != (cluster, id) => self.blockers.push(format!(
                "the data is member {id}'s of cluster {cluster}, but member {} of cluster {} answers at this host; give the data \
                 directory of the etcd that runs, or its process: --pid",
                here.member, here.cluster
            )),
            (Some(here), _) => {
                self.notes.push(format!("etcd {} runs as it, and answers", here.version));
                if here.leader == Some(id) && members.len() > 1 {
                    self.notes.push("it leads: hand over first (etcdctl move-leader), so that its stop costs no election".to_owned());
                }
            }
            (None, Some(pid)) => self.blockers.push(format!(
                "process {pid} is its etcd, and does not answer: {}",
                answers.trouble.as_deref().unwrap_or("unknown")
            )),
            (None, None) => {
                let cause = answers.trouble.as_deref().unwrap_or("unknown");
                self.notes.push(format!("no etcd answers at this host, so it counts as stopped: {cause}"));
            }
        }
        if let Some(list) = &answers.list {
            if list.cluster != cluster {
                self.blockers.push(format!(
                    "the data is of cluster {cluster}, but cluster {} answers at its members' addresses",
                    list.cluster
                ));
            } else if !list.members.iter().any(|member| member.id == id) {
                self.blockers.push(format!(
                    "the cluster has removed member {id}: start etcd-muster on this host without data, and it joins as a new member"
                ));
            }
        }
        let voters = members.iter().filter(|member| !member.is_learner).count();
        let healthy = members.iter().filter(|m| !m.is_learner && answers.healthy.contains(&m.id)).count();
        if voters > 1 && healthy < quorum(voters) {
            self.blockers.push(format!(
                "{healthy} other voters are healthy, and without this one the cluster needs {}; start them first",
                quorum(voters)
            ));
        }
        let release = answers.here.as_ref().and_then(|here| Release::parse(&here.version));
        if let Some(release) = release.filter(|release| !release.is_at_least(3, 4)) {
            let wanted = self.config.bootstrap.cluster_size.unwrap_or(voters);
            let lacks = format!("etcd {release} has no learners, so no member can join or be replaced");
            match wanted > voters {
                true => self.blockers.push(format!("{lacks}, but {wanted} are wanted; upgrade to 3.4 first")),
                false => self.notes.push(format!("{lacks} until it is upgraded to 3.4")),
            }
        }
    }

    /// Data without a record is run where a member list shows that it is at home. A single member has nobody who could show that.
    fn adopt_alone(&mut self, answers: &Answers, members: &[Member], id: MemberId, to: &mut Translated) {
        if members.len() > 1 {
            return;
        }
        if answers.here.as_ref().is_some_and(|here| here.member == id) {
            self.notes.push(format!("MUSTER_ADOPT={id} is for the first start only; take it out afterwards"));
            return to.set("MUSTER_ADOPT", id);
        }
        self.blockers.push(format!(
            "it is the only member, and no etcd runs as it now, so that nothing shows that its newest data is here; start its etcd \
             and check again, or add MUSTER_ADOPT={id} yourself"
        ));
    }

    /// Whether the roster has every member's host: supervisors look nowhere else.
    fn judge_members(&mut self, own: &Member, members: &[Member]) {
        if own.is_learner {
            self.blockers.push("it is a learner; wait until it votes, or promote it".to_owned());
        }
        let written = self.config.instances.written().is_some();
        for member in members {
            let holder = owner(member, &self.roster, written);
            let roster = self.config.instances.to_string();
            let (id, urls) = (member.id, member.peer_urls.join(","));
            let named = self.roster.find(&InstanceId(member.name.clone()));
            match holder {
                // Of the own one it was said already.
                None if member.id == own.id => {}
                None => self.blockers.push(format!(
                    "member {id} {} at {urls} is no instance of {roster}; list its host there, or tag it",
                    member.name
                )),
                Some(holder) if (holder.0 == self.own.instance) != (member.id == own.id) => self.blockers.push(format!(
                    "member {id} at {urls} would be taken for {holder}'s, whose name it has{}; give hosts and members one name",
                    named.and_then(at).unwrap_or_default()
                )),
                Some(_) => {}
            }
        }
    }

    /// Whether these settings make of this host what the cluster lists, and whether etcd can be started with them.
    async fn judge_settings(&mut self, config: &Config, listed: &Member) {
        let ours = addresses::own_listing(&config.etcd, &self.own);
        if !same_urls(&ours.peer_urls, &listed.peer_urls) {
            self.blockers.push(format!(
                "the member is listed at {}, and would run at {} with these settings; name its certificates (ETCD_PEER_CERT_FILE=… \
                 in --env-file), or what else is missing",
                listed.peer_urls.join(","),
                ours.peer_urls.join(",")
            ));
        }
        let settings = addresses::settings(&config.etcd, &self.own);
        let advertised = |name: &str, computed: &String| settings.operator.get(name).unwrap_or(computed).clone();
        let client = advertised("ETCD_ADVERTISE_CLIENT_URLS", &settings.advertise_client_urls);
        if !client.starts_with(config.etcd.client.security.scheme()) {
            self.blockers.push(format!(
                "clients are told {client}, but the client port is {} with these settings; name its certificate (ETCD_CERT_FILE=… \
                 in --env-file)",
                config.etcd.client.security.scheme()
            ));
        }
        self.blockers.extend(find_etcd(&config.etcd).err().map(|trouble| trouble.failure.message()));
        self.blockers.extend(addresses::roll_call_addresses(&settings).err());
        let peer = advertised("ETCD_INITIAL_ADVERTISE_PEER_URLS", &settings.advertise_peer_urls);
        for (security, urls) in [(&config.etcd.client.security, client), (&config.etcd.peer.security, peer)] {
            if let Security::Files(files) = security
                && let Err(fault) = check_files(files, &addresses::hosts(&urls)).await
            {
                self.blockers.push(format!("{fault}; etcd-muster would hold until then"));
            }
        }
    }

    fn print(&self, settings: &[(String, String)], as_json: bool) -> i32 {
        let go = self.blockers.is_empty();
        let ids = self.data.ids;
        if as_json {
            terminal::json(&json!({
                "cluster": ids.map(|(cluster, _)| cluster.to_string()),
                "member": ids.map(|(_, member)| member.to_string()),
                "settings": settings.iter().map(|(name, value)| (name, json!(value))).collect::<BTreeMap<_, _>>(),
                "notes": self.notes,
                "go": go,
                "blockers": self.blockers,
            }));
        } else {
            if let Some((cluster, member)) = ids {
                terminal::line(format_args!("# member {member} of cluster {cluster}, run by etcd-muster in place"));
            }
            self.notes.iter().for_each(|note| terminal::line(format_args!("# note     {note}")));
            settings.iter().for_each(|(name, value)| terminal::line(format_args!("{name}={value}")));
            self.blockers.iter().for_each(|blocker| terminal::line(format_args!("# not yet  {blocker}")));
            if go {
                terminal::line(
                    "# go       stop its etcd, keep it from starting again, and run etcd-muster with these settings",
                );
            }
        }
        if go { 0 } else { Code::Unhealthy as i32 }
    }
}

/// Whether a name's addresses are this one alone.
async fn leads_to(name: &str, address: IpAddr) -> bool {
    let found = tokio::time::timeout(ANSWER_TIMEOUT, tokio::net::lookup_host((name, 0))).await;
    let Ok(Ok(found)) = found else { return false };
    let found: BTreeSet<IpAddr> = found.map(|found| found.ip()).collect();
    found == BTreeSet::from([address])
}

fn at(instance: &Instance) -> Option<String> {
    instance.address.map(|address| format!(" ({address})"))
}

/// What a supervisor with these settings, and nothing of the member's own environment, would read.
///
/// # Errors
/// A line a problem.
fn derive(environment: &Environment, settings: &[(String, String)]) -> Result<Config, Vec<String>> {
    let keeps = |name: &String| !name.starts_with("ETCD_") && !DECIDED.contains(&name.as_str());
    let mut env: Environment = environment.clone().into_iter().filter(|(name, _)| keeps(name)).collect();
    env.extend(settings.iter().cloned());
    config::read(&env).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

/// The members that can read through the quorum at one of these URLs: a question that no release writes to its log.
async fn healthy(etcd: &Client, members: Vec<(MemberId, Vec<String>)>) -> BTreeSet<MemberId> {
    let mut asked = JoinSet::new();
    for (id, urls) in members {
        let etcd = etcd.clone();
        asked.spawn(async move {
            for url in urls {
                if etcd.read_through_quorum(&url, ANSWER_TIMEOUT).await.is_ok() {
                    return Some(id);
                }
            }
            None
        });
    }
    asked.join_all().await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(0xc);

    fn member(id: u64) -> Member {
        Member {
            id: MemberId(id),
            name: format!("n{id}"),
            peer_urls: vec![format!("http://10.0.0.{id}:2380")],
            client_urls: vec![format!("http://10.0.0.{id}:2379")],
            is_learner: false,
        }
    }

    fn status(member: u64, version: &str) -> Status {
        Status {
            cluster: CLUSTER,
            member: MemberId(member),
            version: version.to_owned(),
            leader: None,
            is_learner: false,
            raft_index: 1,
            raft_term: 1,
            db_size_bytes: 0,
            db_in_use_bytes: None,
            quota_bytes: None,
            storage_version: None,
            downgrade_to: None,
        }
    }

    /// Of member 1, whose etcd answers, in a cluster whose other members are healthy.
    fn well(members: u64) -> Answers {
        Answers {
            here: Some(status(1, "3.6.16")),
            trouble: None,
            list: Some(MemberList { cluster: CLUSTER, members: (1..=members).map(member).collect() }),
            healthy: (2..=members).map(MemberId).collect(),
        }
    }

    fn check(settings: &[(&str, &str)]) -> Check<'static> {
        let hosts = "static:h1=10.0.0.1,h2=10.0.0.2,h3=10.0.0.3";
        let set = [&[("MUSTER_HOSTS", hosts)], settings].concat();
        let env = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let config: &'static Config = Box::leak(Box::new(config::read(&env).unwrap()));
        let listed = config::hosts::parse(
            br#"[{"host": "h1", "address": "10.0.0.1"}, {"host": "h2", "address": "10.0.0.2"}, {"host": "h3", "address": "10.0.0.3"}]"#,
        );
        let (paths, wal) = local::places(Path::new("/d"), None);
        Check {
            config,
            source: Source::default(),
            data: Data { paths, wal, ids: Some((CLUSTER, MemberId(1))), members: Vec::new() },
            own: Identity {
                instance: "h1".to_owned(),
                region: None,
                address: [10, 0, 0, 1].into(),
                hostname: None,
                partition: None,
            },
            roster: Roster::written(listed.unwrap(), 0),
            own_names: BTreeSet::new(),
            notes: Vec::new(),
            blockers: Vec::new(),
        }
    }

    fn judged(settings: &[(&str, &str)], answers: &Answers, members: u64) -> Vec<String> {
        let mut check = check(settings);
        let members: Vec<Member> = (1..=members).map(member).collect();
        check.judge_answers(answers, &members, MemberId(1), CLUSTER);
        check.blockers
    }

    fn has_one(blockers: &[String], part: &str) -> bool {
        blockers.len() == 1 && blockers[0].contains(part)
    }

    #[test]
    fn data_and_the_etcd_that_answers_must_be_one_member() {
        assert!(judged(&[], &well(3), 3).is_empty());
        let other = Answers { here: Some(status(2, "3.6.16")), ..well(3) };
        assert!(has_one(&judged(&[], &other, 3), "but member 2 of cluster c answers at this host"));
        let gone =
            Answers { list: Some(MemberList { cluster: CLUSTER, members: vec![member(2), member(3)] }), ..well(3) };
        assert!(has_one(&judged(&[], &gone, 3), "the cluster has removed member 1"));
        let elsewhere =
            Answers { list: Some(MemberList { cluster: ClusterId(0xd), members: vec![member(1)] }), ..well(3) };
        assert!(has_one(&judged(&[], &elsewhere, 3), "but cluster d answers"));
    }

    #[test]
    fn a_member_that_the_quorum_needs_is_not_stopped() {
        let healthy = |ids: &[u64], members| {
            let answers = Answers { healthy: ids.iter().copied().map(MemberId).collect(), ..well(members) };
            judged(&[], &answers, members)
        };
        assert!(has_one(&healthy(&[2], 3), "1 other voters are healthy, and without this one the cluster needs 2"));
        assert!(healthy(&[2, 3, 4], 5).is_empty());
        assert!(has_one(&healthy(&[], 2), "0 other voters are healthy"));
        assert!(healthy(&[], 1).is_empty(), "of a single member nobody else has the data");
    }

    #[test]
    fn without_learners_no_cluster_grows() {
        let old = Answers { here: Some(status(1, "3.3.25")), ..well(1) };
        assert!(has_one(&judged(&[("MUSTER_CLUSTER_SIZE", "3")], &old, 1), "upgrade to 3.4 first"));
        assert!(judged(&[("MUSTER_CLUSTER_SIZE", "1"), ("MUSTER_MIN_NODES", "1")], &old, 1).is_empty());
    }

    #[test]
    fn every_members_host_is_in_the_roster_under_no_other_members_name() {
        let judged = |members: &[Member]| {
            let mut check = check(&[]);
            check.judge_members(&member(1), members);
            check.blockers
        };
        assert!(judged(&[member(1), member(2), member(3)]).is_empty());
        assert!(has_one(&judged(&[member(1), member(4)]), "member 4 n4 at http://10.0.0.4:2380 is no instance of"));
        let named = Member { name: "h1".to_owned(), ..member(2) };
        assert!(has_one(&judged(&[member(1), named]), "would be taken for h1's"));
        let mut check = check(&[]);
        check.judge_members(&Member { is_learner: true, ..member(1) }, &[member(1)]);
        assert!(has_one(&check.blockers, "it is a learner"));
    }

    #[test]
    fn a_single_member_is_confirmed_only_while_its_etcd_shows_that_its_data_is_here() {
        let told = |answers: &Answers, members: u64| {
            let (mut check, mut to) = (check(&[]), Translated::default());
            let members: Vec<Member> = (1..=members).map(member).collect();
            check.adopt_alone(answers, &members, MemberId(1), &mut to);
            (
                to.settings.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<String>(),
                check.blockers.len(),
            )
        };
        assert_eq!(told(&well(1), 1), ("MUSTER_ADOPT=1".to_owned(), 0));
        assert_eq!(told(&Answers { here: None, ..well(1) }, 1), (String::new(), 1));
        assert_eq!(told(&Answers { here: Some(status(2, "3.6.16")), ..well(1) }, 1), (String::new(), 1));
        assert_eq!(told(&well(3), 3), (String::new(), 0), "the others' list shows it");
    }
}
