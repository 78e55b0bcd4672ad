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
                let pair = |(key, value): &(String, String)| {
                    format!("{}={}", quoted(key, KEY_ENDS), quoted(value, VALUE_ENDS))
                };
                f.write_str(&tags.iter().map(pair).collect::<Vec<_>>().join(","))
            }
            Self::Written(written) => write!(f, "{written}"),
        }
    }
}

/// What ends a key, and a value, that is not quoted.
const KEY_ENDS: &[char] = &['=', ','];
const VALUE_ENDS: &[char] = &[','];

/// A key or a value as it is written in `MUSTER_TAGS`: quoted, if it could not be read otherwise.
fn quoted(text: &str, ends: &[char]) -> String {
    match text.contains(ends) || text.starts_with('"') || text.trim() != text {
        true => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        false => text.to_owned(),
    }
}

/// `key=value,key2="a value, in quotes"`: in quotes everything stands for itself, but for `\"` and `\\`.
fn parse_tags(text: &str) -> Result<Vec<(String, String)>, String> {
    let (mut tags, mut rest) = (Vec::<(String, String)>::new(), text);
    loop {
        let pair = rest.split(',').next().unwrap_or_default();
        let fault = |why: &str| format!("{pair:?} {why}; write key=value,key2=\"a value, in quotes\"");
        let (key, after) = tag_part(rest, KEY_ENDS).map_err(|why| fault(&why))?;
        let value = after.strip_prefix('=').ok_or_else(|| fault("has no value"))?;
        let (value, after) = tag_part(value, VALUE_ENDS).map_err(|why| fault(&why))?;
        if key.is_empty() {
            return Err(fault("has no key"));
        }
        match tags.iter().find(|(known, _)| *known == key) {
            None => tags.push((key, value)),
            Some((_, known)) if *known == value => {}
            Some(_) => return Err(fault("is a second value of that tag, and an instance has one")),
        }
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None => return Ok(tags),
        }
    }
}

/// A key or a value, and what follows it.
fn tag_part<'a>(text: &'a str, ends: &[char]) -> Result<(String, &'a str), String> {
    let text = text.trim_start();
    let Some(inside) = text.strip_prefix('"') else {
        let (bare, after) = text.split_at(text.find(ends).unwrap_or(text.len()));
        return Ok((bare.trim_end().to_owned(), after));
    };
    let (mut part, mut chars) = (String::new(), inside.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let after = inside[at + 1..].trim_start();
                return match after.is_empty() || after.starts_with(ends) {
                    true => Ok((part, after)),
                    false => Err("goes on after its quotes".to_owned()),
                };
            }
            '\\' => match chars.next() {
                Some((_, c @ ('"' | '\\'))) => part.push(c),
                _ => return Err("has a \\ before neither \" nor \\".to_owned()),
            },
            c => part.push(c),
        }
    }
    Err("has quotes that don't end".to_owned())
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
        parse_tags(&text).unwrap_or_else(|fault| {
            self.wrong(variables::TAGS.name, fault);
            Vec::new()
        })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tags(text: &str) -> Result<Vec<(String, String)>, String> {
        parse_tags(text)
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn quotes_hold_what_would_end_a_value() {
        for (text, expected) in [
            ("etcd=1", &[("etcd", "1")][..]),
            (" role = db , stage=a=b", &[("role", "db"), ("stage", "a=b")]),
            (r#"team="a, b",etcd=1"#, &[("team", "a, b"), ("etcd", "1")]),
            (r#""cost centre, eu"=" 12 " , x="""#, &[("cost centre, eu", " 12 "), ("x", "")]),
            (
                r#"a=b c,d="say \"hi\" \\",e=in "the" middle"#,
                &[("a", "b c"), ("d", r#"say "hi" \"#), ("e", r#"in "the" middle"#)],
            ),
            ("a=1,a=1", &[("a", "1")]),
            (r#"path=C:\x,empty="#, &[("path", r"C:\x"), ("empty", "")]),
        ] {
            assert_eq!(tags(text), Ok(pairs(expected)), "{text}");
        }
        for (text, fault) in [
            ("etcd", "\"etcd\" has no value; write key=value,key2=\"a value, in quotes\""),
            ("a=1,", "\"\" has no value"),
            ("=1", "\"=1\" has no key"),
            (r#"""=1"#, "has no key"),
            (r#""a=b""#, "has no value"),
            (r#"a="b"#, "has quotes that don't end"),
            (r#"a="b\"#, r#"has a \ before neither " nor \"#),
            (r#"a="C:\x""#, r#"has a \ before neither " nor \"#),
            (r#"a="b"c"#, "goes on after its quotes"),
            ("a=1,b=2, a=3", "\" a=3\" is a second value of that tag"),
        ] {
            let said = tags(text).unwrap_err();
            assert!(said.contains(fault), "{text}: {said}, not: {fault}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_written(all in proptest::collection::btree_map(".{1,9}", ".{0,9}", 1..4)) {
            let all: Vec<(String, String)> = all.into_iter().collect();
            prop_assert_eq!(tags(&Instances::Tagged(all.clone()).to_string()), Ok(all));
        }
    }
}
