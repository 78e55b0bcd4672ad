//! EC2 and the metadata service as one instance sees them, or the static host list that replaces them.

pub mod addresses;
pub mod aws_clients;
pub mod member_owner;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::aws::ec2::{self, Described, Ec2};
use crate::aws::imds::{self, Imds};
use crate::aws::partition::is_domain;
use crate::aws::signing_client::{self, SigningClient};
use crate::config::{self, Config, Instances, MemberType, Security};
use crate::core::types::{Instance, InstanceId, Roster};
use crate::net::http::Client;
use crate::net::tls::Trust;
use crate::state::store::{Identity, Partition};
use crate::util::exit::{Code, Failure};
use aws_clients::Aws;

/// Why there is no list or identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Imds(#[from] imds::Error),
    #[error(transparent)]
    Ec2(#[from] ec2::Error),
    /// From a static host list.
    #[error("{0}")]
    Roster(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let denied = match &error {
            Error::Imds(_) | Error::Roster(_) => false,
            Error::Ec2(ec2::Error::Call(signing_client::Error::Credentials(cause))) => cause.is_denial(),
            Error::Ec2(cause) => cause.is_denial(),
        };
        Self::new(if denied { Code::Denied } else { Code::Unavailable }, error)
    }
}

/// EC2's instances with the tags, or those of a static host list.
#[derive(Debug)]
pub struct Discovery {
    caller: Arc<SigningClient>,
    ec2: Arc<Ec2>,
    instances: Instances,
}

/// All instances, with data that is only shown to people.
#[derive(Debug, Default)]
pub struct Fleet {
    pub roster: Roster,
    /// The instances' Name tags.
    pub names: BTreeMap<InstanceId, String>,
}

/// Our identity, from the metadata service or the static host list. Read once: it does not change while an instance runs.
///
/// # Errors
/// The metadata service does not answer, or the host list can't be read or does not have this host.
pub async fn fetch_identity(config: &Config, imds: &Imds) -> Result<Identity, Error> {
    if let Instances::Written(written) = &config.instances {
        let own = written.roster_of_ours().await.map_err(Error::Roster)?.1;
        let address = own.address.ok_or_else(|| Error::Roster(format!("{written}: {} has no address", own.id)))?;
        return Ok(Identity { instance: own.id.0, region: None, address, hostname: own.private_dns, partition: None });
    }
    let document = imds.fetch_identity().await?;
    // A certificate is issued for the name as well.
    let etcd = &config.etcd;
    let is_named =
        etcd.member_type == MemberType::Host || etcd.peer.security != Security::Plain || etcd.minting.is_some();
    let hostname = async {
        match is_named {
            true => imds.fetch_local_hostname().await,
            false => Ok(None),
        }
    };
    let (hostname, partition) = tokio::join!(hostname, fetch_partition(imds));
    let hostname = hostname?;
    let address = match document.private_ip {
        Some(address) => address,
        None => imds.fetch_ipv6().await?,
    };
    Ok(Identity { instance: document.instance_id, region: Some(document.region), address, hostname, partition })
}

/// The partition, as the metadata service says. Some stand-ins for it have no such item, and some refuse what they don't know: then
/// the table in [`crate::aws::partition`] decides, by the region's name.
async fn fetch_partition(imds: &Imds) -> Option<Partition> {
    let told = tokio::try_join!(imds.fetch_partition(), imds.fetch_domain());
    let (id, domain) =
        told.inspect_err(|error| log::debug!("the partition is taken from the region's name: {error}")).ok()?;
    let (id, domain) = (id?.trim().to_owned(), domain?.trim().to_owned());
    if !is_domain(&domain) || !is_domain(&id) {
        log::warn!("the metadata service's partition {id:?} with the domain {domain:?} is ignored: one is not a name");
        return None;
    }
    Some(Partition { id, domain })
}

/// Why the instances are unknown. Errors about a static host list already name it.
pub fn unlisted(instances: &Instances, cause: impl fmt::Display) -> String {
    match instances {
        Instances::Tagged(_) => format!("EC2 can't be queried: {cause}"),
        Instances::Written(_) => cause.to_string(),
    }
}

/// A client of the metadata service. It never goes through a proxy and needs no TLS.
pub fn metadata_service(config: &config::Aws) -> Imds {
    let http = Client::new(Trust::public(None));
    match &config.imds_endpoint {
        Some(endpoint) => Imds::new(http, endpoint),
        None => Imds::turned_off(http),
    }
}

impl Discovery {
    /// The instances that these settings name, from that AWS.
    pub fn new(instances: Instances, aws: &Aws) -> Self {
        Self { caller: aws.caller.clone(), ec2: aws.ec2.clone(), instances }
    }

    /// Every instance of the filter, or of the static host list if that has this instance.
    ///
    /// # Errors
    /// EC2 gave no complete answer, or the host list can't be read or does not have this host.
    pub async fn roster(&self, me: &InstanceId) -> Result<Roster, Error> {
        if let Instances::Written(written) = &self.instances {
            let (roster, own) = written.roster_of_ours().await.map_err(Error::Roster)?;
            return match own.id == *me {
                true => Ok(roster),
                false => Err(Error::Roster(format!(
                    "{written}: this host is {} there but runs as {me}; restart this node if it should use that name",
                    own.id
                ))),
            };
        }
        let mut instances = Vec::new();
        let seen_at = self.each_instance(|described| instances.push(described.instance)).await?;
        Ok(Roster::new(instances, seen_at))
    }

    /// The same, whether or not this instance is among them, with their names.
    ///
    /// # Errors
    /// EC2 gave no complete answer, or the host list can't be read.
    pub async fn fleet(&self) -> Result<Fleet, Error> {
        if let Instances::Written(written) = &self.instances {
            return Ok(Fleet { roster: written.roster().await.map_err(Error::Roster)?, names: BTreeMap::new() });
        }
        let (mut instances, mut names) = (Vec::new(), BTreeMap::new());
        let keep = |Described { instance, tags, .. }| {
            let name = tags.into_iter().find(|(key, _)| key == "Name");
            names.extend(name.map(|(_, name)| (instance.id.clone(), name)));
            instances.push(instance);
        };
        let seen_at = self.each_instance(keep).await?;
        Ok(Fleet { roster: Roster::new(instances, seen_at), names })
    }

    /// Every instance of the filter with its tags, in EC2's order, without keeping any; EC2's clock at the end.
    ///
    /// # Errors
    /// EC2 gave no complete answer, or the host list can't be read.
    pub async fn each_instance(&self, mut each: impl FnMut(Described)) -> Result<i64, Error> {
        match &self.instances {
            Instances::Tagged(tags) => self.ec2.describe_tagged(tags, each).await.map_err(Error::from),
            Instances::Written(written) => {
                let roster = written.roster().await.map_err(Error::Roster)?;
                let untagged = |instance: &Instance| Described { instance: instance.clone(), tags: Vec::new() };
                roster.all().iter().for_each(|instance| each(untagged(instance)));
                Ok(roster.seen_at)
            }
        }
    }

    /// One instance by id; `None`: EC2 has no such id. From a static host list that does not have it, nothing follows.
    ///
    /// # Errors
    /// EC2 does not answer, or the host list can't be read or does not have that host.
    pub async fn instance(&self, id: &InstanceId) -> Result<Option<Described>, Error> {
        if let Instances::Written(written) = &self.instances {
            return Err(Error::Roster(format!("{written} does not list {id}")));
        }
        Ok(self.ec2.describe_instance(id).await?)
    }

    /// Whether EC2 reports an instance as impaired.
    ///
    /// # Errors
    /// EC2 does not answer; with a static host list always, because only EC2 checks instances from outside.
    pub async fn is_impaired(&self, id: &InstanceId) -> Result<bool, Error> {
        if let Instances::Written(written) = &self.instances {
            return Err(Error::Roster(format!("{written} has no health of {id}")));
        }
        Ok(self.ec2.is_impaired(id).await?)
    }

    /// API calls made so far.
    pub fn calls(&self) -> u64 {
        self.caller.calls()
    }
}
