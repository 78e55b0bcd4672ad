//! `discover`: the instances that EC2 lists.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use argh::FromArgs;
use serde_json::json;

use super::{find_self, terminal};
use crate::aws::ec2::Described;
use crate::aws::partition::Refusal;
use crate::config::{Config, Instances};
use crate::core::types::Instance;
use crate::discovery::aws_clients::Aws;
use crate::discovery::{self, Discovery, Fleet};
use crate::state::store::Store;
use crate::util::exit::Failure;
use crate::util::words;

/// List the tagged instances: a table, oldest first; with --json in EC2's order.
#[derive(FromArgs)]
#[argh(subcommand, name = "discover")]
pub(super) struct Discover {
    /// print JSON
    #[argh(switch)]
    json: bool,
    /// print the endpoints of AWS's services as this node calls them, and call none
    #[argh(switch)]
    endpoints: bool,
}

impl Discover {
    pub(super) async fn run(&self, config: &Config) -> Result<i32, Failure> {
        // Region and role come from the instance unless both are set. A static host list needs neither.
        let aws = match config.aws.region.is_some() || config.instances.written().is_some() {
            true => {
                // What the last start was told, if there was one: of its partition, too.
                let kept = Store::peek_identity(&config.etcd.data).ok().flatten();
                Aws::new(&config.aws, discovery::metadata_service(&config.aws), kept.as_ref())?
            }
            false => {
                let (own, imds) = find_self(config).await?;
                Aws::new(&config.aws, imds, Some(&own))?
            }
        };
        if self.endpoints {
            self.print_endpoints(&aws);
            return Ok(0);
        }
        let cloud = Discovery::new(config.instances.clone(), &aws);
        match self.json {
            true => print_json(&cloud).await?,
            false => print_table(&cloud, &config.instances).await?,
        }
        Ok(0)
    }

    fn print_endpoints(&self, aws: &Aws) {
        let endpoints = aws.endpoints().map(|(service, endpoint)| (service.name(), endpoint));
        if self.json {
            let shown = endpoints.map(|(service, endpoint)| match endpoint {
                Ok(url) => (service, json!({ "url": url })),
                Err(refusal) => (service, json!({ "refused": refusal.to_string() })),
            });
            return terminal::json(&json!(BTreeMap::from(shown)));
        }
        let shown = |endpoint: Result<String, Refusal>| endpoint.unwrap_or_else(|refusal| format!("none: {refusal}"));
        let rows = endpoints.map(|(service, endpoint)| vec![service.to_owned(), shown(endpoint)]);
        terminal::table(&["SERVICE", "ENDPOINT"], &rows);
    }
}

/// In the order in which a bootstrap would rank them.
async fn print_table(cloud: &Discovery, instances: &Instances) -> Result<(), Failure> {
    let Fleet { roster, names } = cloud.fleet().await?;
    let row = |instance: &Instance| {
        let address = instance.address.map_or_else(|| "-".to_owned(), |a| a.to_string());
        let age = roster.age(instance).map_or_else(|| "-".to_owned(), |age| format!("{} s", age.as_secs()));
        let name = names.get(&instance.id).cloned().unwrap_or_else(|| "-".to_owned());
        let zone = if instance.zone.is_empty() { "-" } else { &instance.zone };
        vec![instance.id.0.clone(), instance.state.name().to_owned(), address, zone.to_owned(), age, name]
    };
    let rows: Vec<Vec<String>> = roster.all().iter().map(row).collect();
    terminal::table(&["INSTANCE", "STATE", "ADDRESS", "ZONE", "AGE", "NAME"], &rows);
    let (all, standing) = (roster.all().len(), roster.non_terminated().count());
    let calls = cloud.calls();
    terminal::line(format_args!("{all} instances with {instances}, {standing} not terminated, {calls} API calls"));
    Ok(())
}

/// In EC2's order, one object a line, none kept: ten thousand instances take no more memory than one page.
async fn print_json(cloud: &Discovery) -> Result<(), Failure> {
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
        let _closed = writeln!(out, "{separator}{}", words::escaped(&object.to_string()));
        separator = ',';
    };
    cloud.each_instance(write).await?;
    let _closed = writeln!(out, "{}", if separator == '[' { "[]" } else { "]" }).and_then(|()| out.flush());
    Ok(())
}
