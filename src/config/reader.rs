//! Reads the environment, one value at a time, and collects the problems.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::security::shown;
use super::variables::{Resolved, Variable};
use crate::core::types::MemberId;
use crate::util::words;

/// One problem: the variable, its value, and the remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem(pub(super) String);

impl fmt::Display for Problem {
    /// On one line, whatever the value is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words::on_one_line(&self.0))
    }
}

pub(super) struct Reader {
    /// The environment, under each variable's main name.
    pub(super) vars: Resolved,
    /// etcd's own variables, overridden by `ETCD_OPTS` as variables.
    pub(super) given: BTreeMap<String, String>,
    pub(super) problems: Vec<Problem>,
}

/// A hundred years: clocks and sums of durations overflow only far beyond.
const LONGEST_DURATION: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

const YES_OR_NO: [(&str, bool); 6] =
    [("no", false), ("yes", true), ("false", false), ("true", true), ("0", false), ("1", true)];

impl Reader {
    /// A set, non-empty variable.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.vars.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The same, or its default.
    pub(super) fn text_or_default(&self, variable: &'static Variable) -> &str {
        self.text(variable.name).unwrap_or(variable.default)
    }

    /// A problem is reported under the name that the operator used.
    pub(super) fn wrong(&mut self, name: &str, why: impl fmt::Display) {
        let value = self.vars.env.get(name).cloned().unwrap_or_default();
        self.wrong_value(self.vars.spelt(name).to_owned().as_str(), &value, why);
    }

    pub(super) fn wrong_value(&mut self, name: &str, value: &str, why: impl fmt::Display) {
        self.problems.push(Problem(match shown(name, value) {
            Some(value) => format!("{name}={value}: {why}"),
            None => format!("{name} (its value is not shown): {why}"),
        }));
    }

    /// A value, or its default. Both are parsed alike, so that an invalid default is a problem too: with any settings, and so
    /// in the unit tests.
    pub(super) fn parsed<T: Default>(
        &mut self,
        variable: &'static Variable,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        match parse(self.text_or_default(variable)) {
            Ok(value) => value,
            Err(why) => {
                self.wrong(variable.name, why);
                // This value is never used; but one problem must not cause another.
                parse(variable.default).unwrap_or_default()
            }
        }
    }

    pub(super) fn member(&mut self, variable: &'static Variable) -> Option<MemberId> {
        let parsed = u64::from_str_radix(self.text(variable.name)?, 16).ok().filter(|id| *id != 0);
        if parsed.is_none() {
            self.wrong(
                variable.name,
                "is not a member id; write it in hex, as etcd and the hold's line show it: 8e9e05c52164694d",
            );
        }
        parsed.map(MemberId)
    }

    pub(super) fn port(&mut self, variable: &'static Variable) -> u16 {
        self.parsed(variable, |value| match value.parse() {
            Ok(port) if port != 0 => Ok(port),
            _ => Err("is not a port; give a number from 1 to 65535".to_owned()),
        })
    }

    pub(super) fn duration(&mut self, variable: &'static Variable) -> Duration {
        self.parsed(variable, |value| {
            let fault = match parse_duration(value) {
                Some(duration) if duration <= LONGEST_DURATION => return Ok(duration),
                Some(_) => "is longer than a hundred years",
                None => "is not a duration",
            };
            Err(format!("{fault}; write 30, 30s, 5m, 12h, 90d or 500ms"))
        })
    }

    pub(super) fn yes(&mut self, variable: &'static Variable) -> bool {
        self.choice(variable, &YES_OR_NO)
    }

    pub(super) fn choice<T: Copy>(&mut self, variable: &'static Variable, choices: &[(&str, T)]) -> T {
        let of = |word: &str| choices.iter().find(|(known, _)| *known == word).map(|(_, choice)| *choice);
        match of(self.text_or_default(variable)) {
            Some(choice) => choice,
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                self.wrong(variable.name, format!("is not one of {}", words.join(", ")));
                of(variable.default).unwrap_or(choices[0].1)
            }
        }
    }

    /// A variable whose default is computed.
    pub(super) fn choice_or<T: Copy>(&mut self, variable: &'static Variable, choices: &[(&str, T)], computed: T) -> T {
        match self.text(variable.name) {
            None => computed,
            Some(_) => self.choice(variable, choices),
        }
    }

    pub(super) fn path(&self, variable: &'static Variable) -> PathBuf {
        PathBuf::from(self.text_or_default(variable))
    }

    pub(super) fn url(&mut self, name: &str) -> Option<String> {
        let value = self.text(name)?.to_owned();
        if !is_url(&value) {
            self.wrong(name, "is not a URL; write http://host:port or https://host:port");
            return None;
        }
        Some(value)
    }

    /// Several URLs with a port each, with commas.
    pub(super) fn urls(&mut self, variable: &'static Variable) -> Vec<String> {
        let words = self.text(variable.name).unwrap_or_default().split(',').map(str::trim);
        let urls: Vec<String> =
            words.filter(|word| !word.is_empty()).map(|word| word.trim_end_matches('/').to_owned()).collect();
        let has_port = |url: &String| url.parse::<hyper::Uri>().is_ok_and(|uri| uri.port().is_some());
        if let Some(bad) = urls.iter().find(|url| !is_url(url) || !has_port(url)) {
            self.wrong(
                variable.name,
                format!(
                    "has {bad}, which is not a URL; write http://host:port or https://host:port, several with commas"
                ),
            );
            return Vec::new();
        }
        urls
    }
}

fn is_url(text: &str) -> bool {
    let uri = text.parse::<hyper::Uri>().ok();
    uri.is_some_and(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some())
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
