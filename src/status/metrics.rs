//! Prometheus' text format, version 0.0.4 (Prometheus documentation, "Exposition formats").

use std::fmt::Write;

use super::snapshot::{PlaceStatus, Snapshot};

/// Its content type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders a snapshot. Every label has few values, all known beforehand.
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
    page.family("etcd_muster_step", "gauge", "Always 1; the supervisor's current step and the kind of its reason.");
    page.sample(&[("step", &now.step), ("reason", &now.kind)], 1);
    page.family(
        "etcd_muster_step_start_time_seconds",
        "gauge",
        "When the current step began, in seconds since the \
        epoch.",
    );
    page.sample(&[], now.since.epoch);
    page.family("etcd_muster_decisions_total", "counter", "Decisions taken, by their step.");
    for (step, count) in &now.decisions_total {
        page.sample(&[("step", step)], count);
    }
    page.family(
        "etcd_muster_step_failures_total",
        "counter",
        "Steps that failed; the supervisor observed again \
        after each.",
    );
    page.sample(&[], now.failures_total);
    page.family(
        "etcd_muster_log_lines_dropped_total",
        "counter",
        "Log lines, etcd's included, dropped because stderr was not read fast enough.",
    );
    page.sample(&[], now.log_lines_dropped);
    page.family("etcd_muster_etcd_restarts_total", "counter", "Starts of etcd after the first.");
    page.sample(&[], now.etcd.restarts);
    page.family(
        "etcd_muster_seconds_since_healthy",
        "gauge",
        "Seconds since etcd here last reported itself healthy (checked every 10 s), or since this supervisor's start.",
    );
    page.sample(&[], now.etcd.seconds_since_healthy);
    page.family("etcd_muster_api_calls_total", "counter", "Requests to AWS, retries included.");
    for api in &now.api {
        page.sample(&[("service", &api.service)], api.calls);
    }
    page.family("etcd_muster_api_errors_total", "counter", "Requests to AWS that failed, retries included.");
    for api in &now.api {
        page.sample(&[("service", &api.service)], api.errors);
    }
    let leaves = now.certificates.iter().map(|c| (&c.side, c.not_after));
    page.expiries(
        "etcd_muster_certificate_expiry_timestamp_seconds",
        "When a port's certificate expires, in seconds since the epoch.",
        leaves,
    );
    let roots = now.certificates.iter().map(|c| (&c.side, c.ca_not_after));
    page.expiries(
        "etcd_muster_ca_expiry_timestamp_seconds",
        "When a port's CA certificate expires, in seconds \
        since the epoch.",
        roots,
    );
    page.snapshots(&now.snapshots);
    if let (Some(cluster), Some(member)) = (&now.etcd.cluster, &now.etcd.member) {
        page.family("etcd_muster_member_info", "gauge", "Always 1; the member whose data is here, and its cluster.");
        let role = now.etcd.role.as_deref().unwrap_or("none");
        page.sample(&[("cluster", cluster), ("member", member), ("role", role)], 1);
    }
    if let Some(claim) = &now.claim {
        page.family("etcd_muster_claim", "gauge", "Always 1; what MUSTER_CLAIM held when it was last read.");
        page.sample(&[("state", claim)], 1);
    }
    if let Some(wanted) = now.wanted_members {
        page.family("etcd_muster_wanted_members", "gauge", "MUSTER_CLUSTER_SIZE.");
        page.sample(&[], wanted);
    }
    if let Some(members) = &now.members {
        page.family(
            "etcd_muster_members",
            "gauge",
            "Members that the cluster lists, as observed within the last \
            minutes.",
        );
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

    /// In seconds since the epoch; an unknown expiry is omitted.
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

    /// Nothing where no place is named, and nothing of what isn't known.
    fn snapshots(&mut self, places: &[PlaceStatus]) {
        type Value = fn(&PlaceStatus) -> Option<i64>;
        let number = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok());
        let sized: Value = |place| place.size_bytes.and_then(|size| i64::try_from(size).ok());
        let families: [(&str, &str, Value); 4] = [
            ("etcd_muster_snapshot_interval_seconds", "MUSTER_SNAPSHOT_EVERY, for each place.", |place| {
                place.interval_seconds.and_then(|seconds| i64::try_from(seconds).ok())
            }),
            (
                "etcd_muster_snapshot_last_success_timestamp_seconds",
                "When a snapshot was last stored there, or the newest had all that there is, in seconds since the epoch.",
                |place| place.last_success,
            ),
            (
                "etcd_muster_snapshot_last_verified_timestamp_seconds",
                "When the newest snapshot there was last proved, in seconds since the epoch.",
                |place| place.last_verified,
            ),
            ("etcd_muster_snapshot_size_bytes", "Bytes of the newest snapshot there.", sized),
        ];
        for (name, help, value) in families {
            self.places(name, help, places.iter().map(|place| (place, value(place))));
        }
        let revisions = places.iter().map(|place| (place, number(place.revision)));
        self.places("etcd_muster_snapshot_revision", "The revision of the newest snapshot there.", revisions);
        if places.iter().any(|place| !place.failures_total.is_empty()) {
            self.family("etcd_muster_snapshot_failures_total", "counter", "Attempts that failed there, by reason.");
            for place in places {
                for (reason, count) in &place.failures_total {
                    self.sample(&[("place", &place.place), ("reason", reason)], count);
                }
            }
        }
    }

    fn places<'a>(&mut self, name: &str, help: &str, places: impl Iterator<Item = (&'a PlaceStatus, Option<i64>)>) {
        let known: Vec<_> = places.filter_map(|(place, value)| Some((&place.place, value?))).collect();
        if known.is_empty() {
            return;
        }
        self.family(name, "gauge", help);
        for (place, value) in known {
            self.sample(&[("place", place)], value);
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
        for unknown in ["etcd_muster_members", "wanted_members", "member_info", "etcd_muster_claim"] {
            assert!(!page.contains(unknown), "what isn't known isn't shown: {unknown}");
        }
        assert!(!page.contains("certificate_expiry"), "nor has a plain node a certificate");
        now.certificates =
            vec![Certificate { side: "client".to_owned(), not_after: Some(1_800_000_000), ca_not_after: None }];
        let certified = render(&now);
        assert!(certified.contains("etcd_muster_certificate_expiry_timestamp_seconds{side=\"client\"} 1800000000\n"));
        assert!(!certified.contains("ca_expiry"));
        assert!(!certified.contains("etcd_muster_snapshot"), "nor has it a place for snapshots");
        let place = PlaceStatus { place: "s3://b/p".to_owned(), last_success: Some(7), ..PlaceStatus::default() };
        let place = PlaceStatus { interval_seconds: Some(3600), ..place };
        now.snapshots = vec![PlaceStatus { failures_total: [("denied".to_owned(), 2)].into(), ..place }];
        let stored = render(&now);
        assert!(stored.contains("etcd_muster_snapshot_last_success_timestamp_seconds{place=\"s3://b/p\"} 7\n"));
        assert!(stored.contains("etcd_muster_snapshot_failures_total{place=\"s3://b/p\",reason=\"denied\"} 2\n"));
        assert!(stored.contains("etcd_muster_snapshot_interval_seconds{place=\"s3://b/p\"} 3600\n"));
        assert!(!stored.contains("last_verified"), "what isn't known isn't shown");
        (now.claim, now.wanted_members) = (Some("absent".to_owned()), Some(3));
        (now.etcd.cluster, now.etcd.member) = (Some("c1".to_owned()), Some("ab".to_owned()));
        let member = render(&now);
        assert!(member.contains("etcd_muster_claim{state=\"absent\"} 1\n"), "{member}");
        assert!(member.contains("etcd_muster_wanted_members 3\n"), "{member}");
        assert!(member.contains("_info{cluster=\"c1\",member=\"ab\",role=\"none\"} 1\n"), "{member}");
        now.members = Some(Members { voters: 3, ..Members::default() });
        assert!(render(&now).contains("etcd_muster_members{state=\"voter\"} 3\n"));
    }
}
