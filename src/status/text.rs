//! A snapshot for people: one screen.

use std::fmt::Write;

use super::snapshot::{Snapshot, Who};

/// As many decisions as fit on a screen, each cut to a line.
const DECISIONS: usize = 12;
const LONGEST_REASON: usize = 110;

/// etcd's own answer of this moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// leader, voter or learner.
    pub role: Option<&'static str>,
    /// Why it is not healthy.
    pub trouble: Option<String>,
}

/// Renders a snapshot, with etcd's own status of this moment.
pub fn render(now: &Snapshot, asked: Option<&Asked>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _infallible = writeln!(text, "{name:<11}{value}");
    };
    let who = now.identity.as_ref();
    let place = |w: &Who| w.region.as_ref().map_or_else(String::new, |region| format!(" in {region}"));
    let who = who.map_or("not known yet".to_owned(), |w| format!("{} at {}{}", w.instance, w.address, place(w)));
    line("instance", who);
    line("supervisor", format!("{}, up {}", now.version, span(now.started.seconds_ago)));
    line("ready", if now.ready { "yes" } else { "no" }.to_owned());
    line("now", format!("{}: {}", now.step.replace('_', " "), now.reason));
    line("since", format!("{}, {}", now.since.at, span(now.since.seconds_ago)));
    let etcd = &now.etcd;
    let process = etcd.pid.map_or("not running".to_owned(), |pid| format!("process {pid}"));
    line("etcd", format!("{process}, restarted {}", times(etcd.restarts)));
    let member = match (&etcd.member, &etcd.cluster) {
        (Some(member), Some(cluster)) => format!("{member} of cluster {cluster}"),
        _ => "none yet".to_owned(),
    };
    let role = asked.and_then(|a| a.role).or(etcd.role.as_deref()).map_or(String::new(), |role| format!(", {role}"));
    let health = asked.map_or(String::new(), |a| format!(", {}", a.trouble.as_deref().unwrap_or("healthy")));
    line("member", format!("{member}{role}{health}"));
    if let Some(m) = &now.members {
        let age = span(m.seconds_ago);
        let listed = m.voters + m.learners + m.unstarted;
        let wanted = now.wanted_members.filter(|wanted| *wanted != listed);
        let wanted = wanted.map_or(String::new(), |wanted| format!("; MUSTER_CLUSTER_SIZE is {wanted} here"));
        line(
            "cluster",
            format!("{} voters, {} learners, {} unstarted, {age} ago{wanted}", m.voters, m.learners, m.unstarted),
        );
    }
    let calls: Vec<String> = now
        .api
        .iter()
        .map(|a| match a.errors {
            0 => format!("{} {}", a.service, a.calls),
            errors => format!("{} {} ({errors} failed)", a.service, a.calls),
        })
        .collect();
    line("API calls", calls.join(", "));
    let skipped = now.decisions.len().saturating_sub(DECISIONS);
    let _infallible = writeln!(text, "\nlast decisions");
    for decision in now.decisions.iter().skip(skipped) {
        let what = format!("{}: {}", decision.step.replace('_', " "), decision.reason);
        let _infallible = writeln!(text, "  {}  {}", decision.at, cut(&what));
    }
    text
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

/// The two largest units of a duration.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST_REASON) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::snapshot::Decision;

    #[test]
    fn times_are_told_in_two_units() {
        let told: Vec<String> = [0, 59, 61, 3600, 90_000].map(span).into_iter().collect();
        assert_eq!(told, ["0 s", "59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]);
    }

    #[test]
    fn it_is_one_screen_that_says_what_and_why() {
        let decision = |n: usize| Decision {
            at: format!("T{n}"),
            step: "add_self".to_owned(),
            kind: String::new(),
            reason: "because ".repeat(50),
        };
        let mut now =
            Snapshot { step: "hold".to_owned(), reason: "2 of 3; launch more".to_owned(), ..Snapshot::default() };
        now.decisions = (0..50).map(decision).collect();
        let text = render(&now, None);
        assert!(text.contains("ready      no\n") && text.contains("now        hold: 2 of 3; launch more\n"), "{text}");
        assert!(text.contains("  T49  add self: because") && !text.contains("T37 "), "{text}");
        assert!(text.lines().count() <= 24, "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= 140), "{text}");
        now.identity =
            Some(Who { instance: "i-1".to_owned(), address: "10.0.0.1".to_owned(), region: Some("r".to_owned()) });
        now.etcd.member = Some("ab".to_owned());
        now.etcd.cluster = Some("cd".to_owned());
        let asked = Asked { role: Some("leader"), trouble: None };
        let text = render(&now, Some(&asked));
        assert!(text.starts_with("instance   i-1 at 10.0.0.1 in r\n"), "{text}");
        assert!(text.contains("member     ab of cluster cd, leader, healthy\n"), "{text}");
    }
}
