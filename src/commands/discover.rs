//! `discover`: what EC2 says.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use argh::FromArgs;
use serde_json::json;

use super::{find_cloud, table};
use crate::aws::ec2::Described;
use crate::cloud::{self, Cloud};
use crate::cluster::types::{Instance, Roster};
use crate::config::Config;
use crate::exit::Failure;

/// Show the tagged instances: a table by rank, oldest first; --json as EC2 lists them.
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
        match self.json {
            true => print_json(&cloud).await?,
            false => print_table(&cloud, &config.policy.filter).await?,
        }
        Ok(0)
    }
}

/// Oldest first: the order in which a founding would rank them.
async fn print_table(cloud: &Cloud, filter: &str) -> Result<(), Failure> {
    let mut names = BTreeMap::new();
    let mut instances = Vec::new();
    let keep = |Described { instance, tags, .. }| {
        names.extend(tags.into_iter().find(|(key, _)| key == "Name").map(|(_, name)| (instance.id.clone(), name)));
        instances.push(instance);
    };
    let seen_at = cloud.each_instance(keep).await?;
    let roster = Roster::new(instances, seen_at);
    let row = |instance: &Instance| {
        let address = instance.address.map_or_else(|| "-".to_owned(), |a| a.to_string());
        let age = format!("{} s", roster.age(instance).as_secs());
        let name = names.get(&instance.id).cloned().unwrap_or_else(|| "-".to_owned());
        vec![instance.id.0.clone(), instance.state.name().to_owned(), address, instance.zone.clone(), age, name]
    };
    let rows: Vec<Vec<String>> = roster.all().iter().map(row).collect();
    table::print(&["INSTANCE", "STATE", "ADDRESS", "ZONE", "AGE", "NAME"], &rows);
    let (all, standing) = (roster.all().len(), roster.standing().count());
    println!("{all} instances with {filter}, {standing} not terminated, {} API calls", cloud.calls());
    Ok(())
}

/// As EC2 lists them, one object a line, none kept: ten thousand instances take no more memory than a page.
async fn print_json(cloud: &Cloud) -> Result<(), Failure> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut separator = '[';
    let write = |Described { instance, tags, .. }| {
        let object = json!({
            "instance": instance.id,
            "state": instance.state.name(),
            "address": instance.address,
            "privateDns": instance.private_dns,
            "zone": instance.zone,
            "launched": instance.launched,
            "tags": tags.into_iter().collect::<BTreeMap<_, _>>(),
        });
        // A closed pipe (`| head`) is the reader's choice.
        let _closed = writeln!(out, "{separator}{object}");
        separator = ',';
    };
    cloud.each_instance(write).await?;
    let _closed = writeln!(out, "{}", if separator == '[' { "[]" } else { "]" }).and_then(|()| out.flush());
    Ok(())
}
