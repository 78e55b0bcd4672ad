//! The environment, a value at a time: each is taken once, and what is wrong with it is kept.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::security::shown;
use crate::core::types::MemberId;
use crate::util::words;

/// One thing that is wrong: the variable, its value, and the way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem(pub(super) String);

impl fmt::Display for Problem {
    /// On one line, whatever the value is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words::on_one_line(&self.0))
    }
}

pub(super) struct Reader<'a> {
    pub(super) env: &'a BTreeMap<String, String>,
    /// etcd's own variables, with `ETCD_OPTS` turned into variables over them.
    pub(super) given: BTreeMap<String, String>,
    pub(super) problems: Vec<Problem>,
}

/// A hundred years: clocks and sums of durations overflow far beyond.
const LONGEST_DURATION: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

impl Reader<'_> {
    /// A set, non-empty variable.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn wrong(&mut self, name: &str, why: impl fmt::Display) {
        self.wrong_value(name, &self.env.get(name).cloned().unwrap_or_default(), why);
    }

    pub(super) fn wrong_value(&mut self, name: &str, value: &str, why: impl fmt::Display) {
        self.problems.push(Problem(match shown(name, value) {
            Some(value) => format!("{name}={value}: {why}"),
            None => format!("{name} (its value is not shown): {why}"),
        }));
    }

    pub(super) fn number(&mut self, name: &str, range: std::ops::RangeInclusive<usize>) -> Option<usize> {
        let value = self.text(name)?;
        match value.parse() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                self.wrong(name, format!("is not a number from {} to {}", range.start(), range.end()));
                None
            }
        }
    }

    pub(super) fn member(&mut self, name: &str) -> Option<MemberId> {
        let parsed = u64::from_str_radix(self.text(name)?, 16).ok().filter(|id| *id != 0);
        if parsed.is_none() {
            self.wrong(
                name,
                "is not a member id; write it as etcd and the hold's own line do, in hex: 8e9e05c52164694d",
            );
        }
        parsed.map(MemberId)
    }

    pub(super) fn port(&mut self, name: &str, default: u16) -> u16 {
        match self.text(name).map(str::parse::<u16>) {
            None => default,
            Some(Ok(port)) if port != 0 => port,
            Some(_) => {
                self.wrong(name, "is not a port; give a number from 1 to 65535");
                default
            }
        }
    }

    pub(super) fn duration(&mut self, name: &str, default_seconds: u64) -> Duration {
        let default = Duration::from_secs(default_seconds);
        let Some(value) = self.text(name) else { return default };
        match parse_duration(value) {
            Some(duration) if duration <= LONGEST_DURATION => duration,
            Some(_) => {
                self.wrong(name, "is longer than a hundred years; write 30, 30s, 5m, 12h, 90d or 500ms");
                default
            }
            None => {
                self.wrong(name, "is not a duration; write 30, 30s, 5m, 12h, 90d or 500ms");
                default
            }
        }
    }

    pub(super) fn yes(&mut self, name: &str) -> bool {
        self.choice(name, &[("no", false), ("yes", true), ("false", false), ("true", true), ("0", false), ("1", true)])
    }

    /// The first choice is the default.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> T {
        let Some(value) = self.text(name) else { return choices[0].1 };
        match choices.iter().find(|(word, _)| *word == value) {
            Some((_, choice)) => *choice,
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                self.wrong(name, format!("is none of {}", words.join(", ")));
                choices[0].1
            }
        }
    }

    pub(super) fn path(&self, name: &str, default: &str) -> PathBuf {
        PathBuf::from(self.text(name).unwrap_or(default))
    }

    pub(super) fn url(&mut self, name: &str) -> Option<String> {
        let value = self.text(name)?.to_owned();
        let uri = value.parse::<hyper::Uri>().ok();
        match uri.filter(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some()) {
            Some(_) => Some(value),
            None => {
                self.wrong(name, "is no URL; write http://host:port or https://host:port");
                None
            }
        }
    }
}

/// `30` (seconds), `30s`, `5m`, `12h`, `90d`, `500ms`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "" | "s" => Some(Duration::from_secs(number)),
        "ms" => Some(Duration::from_millis(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        "d" => Some(Duration::from_secs(number.checked_mul(24 * 3600)?)),
        _ => None,
    }
}
