//! `discover`: what EC2 says.

use argh::FromArgs;
use serde_json::json;

use super::{find_cloud, table};
use crate::cloud::{self, Cloud};
use crate::cluster::types::Instance;
use crate::config::Config;
use crate::exit::Failure;

/// Show the tagged instances as EC2 lists them, oldest first.
#[derive(FromArgs)]
#[argh(subcommand, name = "discover")]
pub(super) struct Discover {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

impl Discover {
    pub(super) async fn run(&self, config: &Config) -> Result<i32, Failure> {
        // The region and the role come from the instance, unless both are given.
        let cloud = match config.region {
            Some(_) => Cloud::new(config, cloud::metadata_service(config), None),
            None => find_cloud(config).await?.1,
        };
        let roster = cloud.roster().await?;
        if self.json {
            print_json(roster.all());
        } else {
            let rows: Vec<Vec<String>> = roster.all().iter().map(row).collect();
            table::print(&["INSTANCE", "STATE", "ADDRESS", "ZONE", "AGE", "NAME"], &rows_with_age(rows, &roster));
            println!(
                "{} instances with {}, {} not terminated, {} API calls",
                roster.all().len(),
                config.policy.filter,
                roster.standing().count(),
                cloud.calls()
            );
        }
        Ok(0)
    }
}

fn row(instance: &Instance) -> Vec<String> {
    let address = instance.address.map_or_else(|| "-".to_owned(), |a| a.to_string());
    let name = instance.tags.get("Name").map_or("-", String::as_str);
    vec![instance.id.0.clone(), instance.state.name().to_owned(), address, instance.zone.clone(), name.to_owned()]
}

fn rows_with_age(mut rows: Vec<Vec<String>>, roster: &crate::cluster::types::Roster) -> Vec<Vec<String>> {
    for (row, instance) in rows.iter_mut().zip(roster.all()) {
        row.insert(4, format!("{} s", roster.age(instance).as_secs()));
    }
    rows
}

/// One object a line, so that ten thousand instances are never held twice.
fn print_json(instances: &[Instance]) {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut print = || -> std::io::Result<()> {
        for (i, instance) in instances.iter().enumerate() {
            let object = json!({
                "instance": instance.id,
                "state": instance.state.name(),
                "address": instance.address,
                "privateDns": instance.private_dns,
                "zone": instance.zone,
                "launched": instance.launched,
                "tags": instance.tags,
            });
            writeln!(out, "{}{object}", if i == 0 { "[" } else { "," })?;
        }
        writeln!(out, "{}", if instances.is_empty() { "[]" } else { "]" })?;
        out.flush()
    };
    // A closed pipe (`| head`) is the reader's choice.
    let _closed = print();
}
