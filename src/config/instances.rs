//! Which instances count: by tags, or from a static host list.

use std::fmt;

use super::hosts::Written;
use super::reader::Reader;
use super::variables;

/// Which instances count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Instances {
    /// EC2's instances with all these tags.
    Tagged(Vec<(String, String)>),
    /// `MUSTER_HOSTS`: those of a static list.
    Written(Written),
}

impl Instances {
    /// The list; `None`: the instances come from EC2.
    pub fn written(&self) -> Option<&Written> {
        match self {
            Self::Tagged(_) => None,
            Self::Written(written) => Some(written),
        }
    }
}

impl fmt::Display for Instances {
    /// As text, for reasons that name them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tagged(tags) => {
                f.write_str(&tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","))
            }
            Self::Written(written) => write!(f, "{written}"),
        }
    }
}

impl Reader {
    /// Problems with tags are reported even if a list is used.
    pub(super) fn instances(&mut self) -> Instances {
        let tags = self.tags();
        self.roster().map_or(Instances::Tagged(tags), Instances::Written)
    }

    fn tags(&mut self) -> Vec<(String, String)> {
        let Some(text) = self.text(variables::TAGS.name).map(str::to_owned) else {
            let key = self.text_or_default(&variables::TAG).to_owned();
            // If it counted as unset, the default would apply: a tag other than the requested one.
            if self.vars.env.get(variables::TAG_VALUE.name).is_some_and(String::is_empty) {
                let default = variables::TAG_VALUE.default;
                self.wrong(
                    variables::TAG_VALUE.name,
                    format!("is empty; write MUSTER_TAGS='{key}=' for an empty value, or unset it for {default}"),
                );
            }
            return vec![(key, self.text_or_default(&variables::TAG_VALUE).to_owned())];
        };
        let mut tags = Vec::new();
        for pair in text.split(',') {
            match pair.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => {
                    tags.push((key.trim().to_owned(), value.trim().to_owned()))
                }
                Some(_) => {
                    self.wrong(variables::TAGS.name, format!("{pair:?} has no key; write key=value,key2=value2"))
                }
                None => self.wrong(variables::TAGS.name, format!("{pair:?} has no value; write key=value,key2=value2")),
            }
        }
        tags
    }

    /// Settings that need EC2's metadata service are refused together with a list: they would wait for ever.
    fn roster(&mut self) -> Option<Written> {
        let name = variables::HOSTS.name;
        let value = self.text_or_default(&variables::HOSTS).to_owned();
        let written = Written::parse(&value).unwrap_or_else(|why| {
            self.wrong(name, why);
            None
        })?;
        self.refuse_ends(&format!("needs EC2, but the instances come from {written}; unset one of the two"));
        Some(written)
    }

    /// Settings that wait for what the metadata service says of this instance's end.
    pub(super) fn refuse_ends(&mut self, why: &str) {
        for of_ec2 in [variables::LEAVE.name, variables::LIFECYCLE_HOOK.name] {
            if self.text(of_ec2).is_some_and(|value| value != "no") {
                self.wrong(of_ec2, why);
            }
        }
    }
}
