//! `env`: the variables, what they are set to, and what they mean.

use std::collections::BTreeMap;

use argh::FromArgs;

use super::terminal;
use crate::config::{VARIABLES, shown};

/// List every variable: its value here, its default, its meaning.
#[derive(FromArgs)]
#[argh(subcommand, name = "env")]
pub(super) struct Env {}

impl Env {
    pub(super) fn run(&self, environment: &BTreeMap<String, String>) -> i32 {
        let rows: Vec<Vec<String>> = VARIABLES
            .iter()
            .map(|v| {
                let value = match environment.get(v.name) {
                    None => "(unset)".to_owned(),
                    Some(value) => shown(v.name, value).unwrap_or_else(|| "(set, not shown)".to_owned()),
                };
                let flag = v.flag().unwrap_or_default();
                vec![v.name.to_owned(), flag, value, v.default.to_owned(), v.meaning.to_owned()]
            })
            .collect();
        terminal::table(&["VARIABLE", "FLAG", "VALUE", "DEFAULT", "MEANING"], &rows);
        0
    }
}
