//! `recover`: shows what founding the cluster anew from this member's data would mean, and orders it. The supervisor here carries it out.

use std::collections::BTreeMap;
use std::time::Duration;

use argh::FromArgs;
use serde_json::json;

use super::plan::Looker;
use super::terminal::{self, line};
use super::{FOLLOW, bump, own_etcd, own_peer_url, plan_id, unfinished, unfit};
use crate::config::Config;
use crate::core::recovery::{Other, Own, may_recover};
use crate::core::release::Release;
use crate::core::types::{ClusterId, InstanceId, Known, Member, MemberId};
use crate::core::view::{LogEnd, PeerState, View};
use crate::discovery::member_owner::owner;
use crate::etcd::client::Client;
use crate::snapshot::restore::raises;
use crate::state::store::RecoveryOrder;
use crate::util::clock;
use crate::util::exit::{Code, Failure};
use crate::util::log_once::LogOnce;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Found this cluster anew from this member's data, because a quorum of its members is lost for good. Shows the plan; with --yes and the plan's id the supervisor
/// here carries it out: it copies the data, starts a new cluster of one with the copy, and moves the original aside. Needs no snapshot. Exits with 0 if it can be
/// done or is done, otherwise with 1.
#[derive(FromArgs)]
#[argh(subcommand, name = "recover")]
pub(super) struct Recover {
    /// a member that is lost for good, although EC2 does not say so; once for each
    #[argh(option, arg_name = "MEMBER-ID")]
    lost: Vec<String>,
    /// how far the log of another survivor goes, as `recover` says there; once for each
    #[argh(option, arg_name = "MEMBER-ID=TERM.INDEX")]
    log_end: Vec<String>,
    /// do it, if the plan still has this id
    #[argh(option, arg_name = "PLAN-ID")]
    yes: Option<String>,
    /// leave revisions as they are: clients may then meet a revision again that they have seen with other content
    #[argh(switch)]
    no_bump: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// What would be done.
struct Plan {
    id: String,
    cluster: ClusterId,
    own: Own,
    others: Vec<(Other, String)>,
    obstacle: Option<String>,
}

impl Recover {
    pub(super) async fn run(&self, config: Config) -> Result<i32, Failure> {
        let mut looker = Looker::new(&config).await?;
        let plan = self.plan(&mut looker, &config).await?;
        match self.json {
            true => print_json(&plan),
            false => print_text(&plan),
        }
        let code = if plan.obstacle.is_none() { 0 } else { Code::Unhealthy as i32 };
        let Some(id) = &self.yes else {
            if plan.obstacle.is_none() && !self.json {
                let lost = self.lost.iter().map(|member| format!(" --lost {member}"));
                let mut more: String = lost.chain(self.log_end.iter().map(|log| format!(" --log-end {log}"))).collect();
                if self.no_bump {
                    more.push_str(" --no-bump");
                }
                line(format_args!("to do it: etcd-muster recover{more} --yes {}", plan.id));
            }
            return Ok(code);
        };
        if *id != plan.id {
            return Err(unfit(format!("--yes {id}: the plan is now {}; look at it again", plan.id)));
        }
        if plan.obstacle.is_some() {
            return Ok(code);
        }
        let (cluster, member, bump) = (plan.cluster, plan.own.member, bump(self.no_bump));
        let order = RecoveryOrder { cluster, member, bump, plan: plan.id, at: clock::stamp() };
        order.write(&config.etcd.data).map_err(|error| Failure::new(Code::DataDirUnwritable, error))?;
        match self.json {
            true => Ok(0),
            false => follow(&mut looker, &config, plan.cluster).await,
        }
    }

    async fn plan(&self, looker: &mut Looker, config: &Config) -> Result<Plan, Failure> {
        let (own_url, etcd) = own_etcd(&config.etcd);
        let unanswered = |error: crate::etcd::client::Error| {
            unfit(format!(
                "this node's etcd must run for it, because it knows the members: {error}; start the supervisor (etcd-muster run)"
            ))
        };
        // The peer port answers without a leader. The client port of one that was restarted since does not.
        let list = etcd.peer_members(&own_peer_url(&config.etcd), ANSWER_TIMEOUT).await.map_err(unanswered)?;
        let leader = match etcd.status(&own_url, ANSWER_TIMEOUT).await {
            Ok(status) => Known::Known(status.leader),
            Err(error) if error.is_silence() => Known::Known(None),
            Err(error) => Known::Unknown(error.to_string()),
        };
        let (member, log) = looker.own_log().map_err(unfit)?;
        let is_learner = list.members.iter().any(|listed| listed.id == member && listed.is_learner);
        let own = Own { member, is_learner, leader, log };
        let lost = self.lost.iter().map(|text| named(text, &list.members)).collect::<Result<Vec<_>, _>>()?;
        let logs =
            self.log_end.iter().map(|text| log_of(text, &list.members)).collect::<Result<BTreeMap<_, _>, _>>()?;
        let view = looker.look().await;
        let mut others = Vec::new();
        for member in list.members.iter().filter(|member| member.id != own.member) {
            let (mut other, shown) = seen(looker, &etcd, &view, member, lost.contains(&member.id)).await;
            other.log = logs.get(&member.id).copied();
            others.push((other, shown));
        }
        let known: Vec<Other> = others.iter().map(|(other, _)| other.clone()).collect();
        let obstacle = may_recover(&own, &known).err().map(|refusal| refusal.to_string());
        let version = etcd.peer_version(&own_peer_url(&config.etcd), ANSWER_TIMEOUT).await.map_err(unanswered)?;
        let raises = Release::parse(&version.etcdserver).map_or(Ok(()), |release| raises(release, bump(self.no_bump)));
        let obstacle = obstacle.or_else(|| raises.err().map(|error| error.to_string()));
        let gone: Vec<(MemberId, bool)> = known.iter().map(|other| (other.member.id, other.is_lost())).collect();
        let id = plan_id(&json!([list.cluster, own.member, gone, self.log_end, self.no_bump]));
        Ok(Plan { id, cluster: list.cluster, own, others, obstacle })
    }
}

fn named(text: &str, members: &[Member]) -> Result<MemberId, Failure> {
    let id =
        u64::from_str_radix(text, 16).ok().map(MemberId).filter(|id| members.iter().any(|member| member.id == *id));
    id.ok_or_else(|| {
        Failure::new(Code::Usage, format!("--lost {text}: is no member's id; `etcd-muster recover` shows them"))
    })
}

fn log_of(text: &str, members: &[Member]) -> Result<(MemberId, LogEnd), Failure> {
    let parsed = text.split_once('=').and_then(|(member, log)| {
        let (term, index) = log.split_once('.')?;
        Some((member, LogEnd { term: term.parse().ok()?, index: index.parse().ok()? }))
    });
    let usage = || {
        Failure::new(Code::Usage, format!("--log-end {text}: is no log's end; write --log-end MEMBER-ID=TERM.INDEX"))
    };
    let (member, log) = parsed.ok_or_else(usage)?;
    Ok((named(member, members)?, log))
}

/// What is known of another member, and what shows it.
async fn seen(looker: &Looker, etcd: &Client, view: &View, member: &Member, named_lost: bool) -> (Other, String) {
    let (mut gone, mut instance) = (Known::Unknown("no instance has its name or address".to_owned()), None);
    match &view.roster {
        Known::Unknown(cause) => gone = Known::Unknown(cause.clone()),
        Known::Known(roster) => {
            if let Some(id) = owner(member, roster, looker.policy().written) {
                gone = looker.is_terminated(roster, &id).await;
                instance = Some(id);
            }
        }
    }
    let state = instance.as_ref().and_then(|id| view.peers.get(id)).map(|peer| &peer.sighting);
    let answers = match state {
        Some(PeerState::Etcd(_) | PeerState::HasData(_) | PeerState::Mismatch(_)) => true,
        Some(PeerState::Fresh(_) | PeerState::Refused | PeerState::Silent(_)) => false,
        // Not among the instances: it is asked where it is listed.
        None => something_answers(etcd, member, gone == Known::Known(true)).await,
    };
    let word = match &gone {
        Known::Known(true) => "terminated".to_owned(),
        Known::Known(false) => "exists".to_owned(),
        Known::Unknown(cause) => format!("unknown: {cause}"),
    };
    let shown = instance.map_or(word.clone(), |id: InstanceId| format!("{id} {word}"));
    (Other { member: member.clone(), gone, named_lost, answers, log: None }, shown)
}

/// Whether an etcd serves where that member is listed, or something that may be its host. If its instance is gone, another one may have the address.
async fn something_answers(etcd: &Client, member: &Member, is_gone: bool) -> bool {
    for url in &member.peer_urls {
        match etcd.peer_version(url, ANSWER_TIMEOUT).await {
            Ok(_) => return true,
            Err(error) if !is_gone && !error.is_silence() => return true,
            Err(_) => {}
        }
    }
    false
}

fn end_of(log: Option<LogEnd>) -> String {
    log.map_or_else(|| "-".to_owned(), |log| log.to_string())
}

fn print_text(plan: &Plan) {
    line(format_args!("plan           {}", plan.id));
    line(format_args!("recovers       cluster {} from member {}, this one", plan.cluster, plan.own.member));
    let row = |(other, shown): &(Other, String)| {
        let kind = if other.member.is_learner { "learner" } else { "voter" };
        let state = match (other.answers, other.is_lost()) {
            (true, _) => "answers",
            (false, true) => "lost for good",
            (false, false) => "does not answer",
        };
        [
            other.member.id.to_string(),
            other.member.name.clone(),
            kind.to_owned(),
            state.to_owned(),
            end_of(other.log),
            shown.clone(),
        ]
        .to_vec()
    };
    let kind = if plan.own.is_learner { "learner" } else { "voter" };
    let own = vec![
        plan.own.member.to_string(),
        "-".to_owned(),
        kind.to_owned(),
        "this node".to_owned(),
        end_of(Some(plan.own.log)),
        "-".to_owned(),
    ];
    let rows: Vec<Vec<String>> = [own].into_iter().chain(plan.others.iter().map(row)).collect();
    terminal::table(&["MEMBER", "NAME", "KIND", "STATE", "LOG", "INSTANCE"], &rows);
    line(
        "done here      the data is copied, a new cluster of one begins with the copy under a new cluster id, the original is moved aside",
    );
    line("lost           what only the lost members had; tokens and leases begin anew");
    line(
        "then           instances without data join by themselves; another survivor halts until its data is moved away",
    );
    if let Some(why) = &plan.obstacle {
        line(format_args!("not now        {why}"));
    }
}

fn print_json(plan: &Plan) {
    let others: Vec<_> = plan
        .others
        .iter()
        .map(|(other, shown)| {
            json!({"member": other.member.id.to_string(), "name": other.member.name, "learner": other.member.is_learner, "answers": other.answers,
                   "lost": other.is_lost(), "log": other.log, "instance": shown})
        })
        .collect();
    terminal::json(&json!({
        "plan": plan.id,
        "cluster": plan.cluster.to_string(),
        "member": plan.own.member.to_string(),
        "log": plan.own.log,
        "others": others,
        "obstacle": plan.obstacle,
    }));
}

/// Shows how far it is, until the new cluster serves here. What was ordered goes on whoever watches.
async fn follow(looker: &mut Looker, config: &Config, before: ClusterId) -> Result<i32, Failure> {
    line("ordered        the supervisor here goes on by itself (etcd-muster status)");
    let (mut said, deadline) = (LogOnce::default(), clock::now() + FOLLOW);
    while clock::now() < deadline {
        let own = looker.own_state(config).await;
        let text = own.to_string();
        if said.is_news_but_for_numbers(&text) {
            line(format_args!("this node      {text}"));
        }
        match &own {
            PeerState::Etcd(etcd) if etcd.has_quorum() && etcd.cluster != before => {
                line(format_args!("recovered      cluster {} runs; instances without data join it now", etcd.cluster));
                return Ok(0);
            }
            _ => {}
        }
        if let Some(how) = RecoveryOrder::outcome(&config.etcd.data)
            && how != "done"
        {
            return Err(unfit(format!(
                "the order was {how}: the supervisor's log has the reason; the data is as it was"
            )));
        }
        clock::pause(LOOK_EVERY).await;
    }
    Err(unfinished())
}
