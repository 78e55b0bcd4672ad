//! Prometheus' text format, version 0.0.4 (Prometheus documentation, "Exposition formats").

use std::fmt::Write;

use super::snapshot::Snapshot;

/// Its content type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders a snapshot. Every label's values are few and known beforehand.
pub fn render(now: &Snapshot) -> String {
    let mut page = Page(String::with_capacity(4096));
    page.family("etcd_muster_build_info", "gauge", "Always 1; the release of this supervisor.");
    page.sample(&[("version", &now.version)], 1);
    page.family("process_start_time_seconds", "gauge", "When this supervisor started, in seconds since the epoch.");
    page.sample(&[], now.started.epoch);
    page.family("etcd_muster_ready", "gauge", "1 while etcd here is a healthy voter.");
    page.sample(&[], u8::from(now.ready));
    page.family("etcd_muster_etcd_up", "gauge", "1 while etcd's process runs here.");
    page.sample(&[], u8::from(now.etcd.pid.is_some()));
    page.family("etcd_muster_step", "gauge", "Always 1; what the supervisor does now, and the kind of its reason.");
    page.sample(&[("step", &now.step), ("reason", &now.kind)], 1);
    page.family("etcd_muster_step_start_time_seconds", "gauge", "Since when it does that, in seconds since the epoch.");
    page.sample(&[], now.since.epoch);
    page.family("etcd_muster_decisions_total", "counter", "Decisions taken, by their step.");
    for (step, count) in &now.decisions_total {
        page.sample(&[("step", step)], count);
    }
    page.family("etcd_muster_step_failures_total", "counter", "Steps that failed; each was followed by another look.");
    page.sample(&[], now.failures_total);
    page.family(
        "etcd_muster_log_lines_dropped_total",
        "counter",
        "Lines of the log, etcd's included, that were dropped since stderr was not read fast enough.",
    );
    page.sample(&[], now.log_lines_dropped);
    page.family("etcd_muster_etcd_restarts_total", "counter", "Starts of etcd after the first.");
    page.sample(&[], now.etcd.restarts);
    page.family(
        "etcd_muster_seconds_since_healthy",
        "gauge",
        "Since etcd here last called itself healthy (asked every 10 s), or since this supervisor's start.",
    );
    page.sample(&[], now.etcd.seconds_since_healthy);
    page.family("etcd_muster_api_calls_total", "counter", "Requests to AWS, retries included.");
    for api in &now.api {
        page.sample(&[("service", &api.service)], api.calls);
    }
    page.family("etcd_muster_api_errors_total", "counter", "Retries to call AWS that came to nothing.");
    for api in &now.api {
        page.sample(&[("service", &api.service)], api.errors);
    }
    let leaves = now.certificates.iter().map(|c| (&c.side, c.not_after));
    page.expiries(
        "etcd_muster_certificate_expiry_timestamp_seconds",
        "Until when a port's certificate is valid.",
        leaves,
    );
    let roots = now.certificates.iter().map(|c| (&c.side, c.ca_not_after));
    page.expiries("etcd_muster_ca_expiry_timestamp_seconds", "Until when the CA of a port is valid.", roots);
    if let Some(members) = &now.members {
        page.family("etcd_muster_members", "gauge", "Members the cluster lists, as seen within the last minutes.");
        let states = [("voter", members.voters), ("learner", members.learners), ("unstarted", members.unstarted)];
        for (state, count) in states {
            page.sample(&[("state", state)], count);
        }
    }
    page.0
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _infallible = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// In seconds since the epoch; what isn't known isn't shown.
    fn expiries<'a>(&mut self, name: &str, help: &str, sides: impl Iterator<Item = (&'a String, Option<i64>)>) {
        let known: Vec<_> = sides.filter_map(|(side, until)| Some((side, until?))).collect();
        if known.is_empty() {
            return;
        }
        self.family(name, "gauge", help);
        for (side, until) in known {
            self.sample(&[("side", side)], until);
        }
    }

    /// A sample of the family above it.
    fn sample(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let name = self.0.rfind("# TYPE ").and_then(|at| self.0[at..].split(' ').nth(2)).unwrap_or_default().to_owned();
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _infallible = writeln!(self.0, "{name}{labels} {value}");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::snapshot::{ApiCount, Certificate, Members};

    #[test]
    fn every_sample_stands_below_its_own_family() {
        let mut now = Snapshot { version: "1.2\"3\\".to_owned(), step: "hold".to_owned(), ..Snapshot::default() };
        now.kind = "spare".to_owned();
        now.decisions_total.insert("hold".to_owned(), 7);
        now.api = vec![ApiCount { service: "ec2".to_owned(), calls: 3, errors: 1 }];
        let page = render(&now);
        for line in [
            "etcd_muster_build_info{version=\"1.2\\\"3\\\\\"} 1",
            "etcd_muster_step{step=\"hold\",reason=\"spare\"} 1",
            "etcd_muster_decisions_total{step=\"hold\"} 7",
            "etcd_muster_api_calls_total{service=\"ec2\"} 3",
            "etcd_muster_api_errors_total{service=\"ec2\"} 1",
            "etcd_muster_ready 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}:\n{page}");
        }
        assert!(!page.contains("etcd_muster_members"), "what isn't known isn't shown");
        assert!(!page.contains("certificate_expiry"), "nor has a plain node a certificate");
        now.certificates =
            vec![Certificate { side: "client".to_owned(), not_after: Some(1_800_000_000), ca_not_after: None }];
        let certified = render(&now);
        assert!(certified.contains("etcd_muster_certificate_expiry_timestamp_seconds{side=\"client\"} 1800000000\n"));
        assert!(!certified.contains("ca_expiry"));
        now.members = Some(Members { voters: 3, ..Members::default() });
        assert!(render(&now).contains("etcd_muster_members{state=\"voter\"} 3\n"));
    }
}
