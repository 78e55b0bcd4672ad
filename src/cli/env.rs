//! `env`: every variable with its value and meaning.

use std::collections::BTreeMap;

use argh::FromArgs;

use super::terminal;
use crate::config::{VARIABLES, shown};

/// List every variable with its current value, its default and its meaning.
#[derive(FromArgs)]
#[argh(subcommand, name = "env")]
pub(super) struct Env {}

impl Env {
    pub(super) fn run(&self, environment: &BTreeMap<String, String>) -> i32 {
        let rows: Vec<Vec<String>> = VARIABLES
            .iter()
            .map(|v| {
                let value = match v.value(environment) {
                    None => "(unset)".to_owned(),
                    Some(value) => shown(v.name, value).unwrap_or_else(|| "(set, not shown)".to_owned()),
                };
                let flag = v.flag().unwrap_or_default();
                vec![v.name.to_owned(), flag, value, v.default.to_owned(), v.explained()]
            })
            .collect();
        terminal::table(&["VARIABLE", "FLAG", "VALUE", "DEFAULT", "MEANING"], &rows);
        0
    }
}
