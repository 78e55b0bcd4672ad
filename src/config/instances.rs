//! Which instances count: by tags, or by a written roster.

use super::hosts::Written;
use super::reader::Reader;

impl Reader<'_> {
    pub(super) fn tags(&mut self) -> Vec<(String, String)> {
        let Some(text) = self.text("MUSTER_TAGS").map(str::to_owned) else {
            let key = self.text("DOCKER_EC2TAG").unwrap_or("etcd").to_owned();
            // Taken for unset, it would be the default: another tag than the one asked for.
            if self.env.get("DOCKER_EC2VAL").is_some_and(String::is_empty) {
                self.wrong(
                    "DOCKER_EC2VAL",
                    format!("is empty; write MUSTER_TAGS='{key}=' for an empty value, or unset it for 1"),
                );
            }
            return vec![(key, self.text("DOCKER_EC2VAL").unwrap_or("1").to_owned())];
        };
        let mut tags = Vec::new();
        for pair in text.split(',') {
            match pair.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => {
                    tags.push((key.trim().to_owned(), value.trim().to_owned()))
                }
                Some(_) => self.wrong("MUSTER_TAGS", format!("{pair:?} has no key; write key=value,key2=value2")),
                None => self.wrong("MUSTER_TAGS", format!("{pair:?} has no value; write key=value,key2=value2")),
            }
        }
        tags
    }

    /// What only EC2's metadata service can tell is refused beside a list: it would wait for ever.
    pub(super) fn roster(&mut self) -> Option<Written> {
        const NAME: &str = "MUSTER_ROSTER";
        let value = self.text(NAME)?.to_owned();
        let written = Written::parse(&value).unwrap_or_else(|why| {
            self.wrong(NAME, why);
            None
        })?;
        for name in ["MUSTER_LEAVE", "MUSTER_LIFECYCLE_HOOK"] {
            if self.text(name).is_some_and(|value| value != "no") {
                self.wrong(name, format!("needs EC2, and the instances are {NAME}={value}; unset one of the two"));
            }
        }
        Some(written)
    }
}
