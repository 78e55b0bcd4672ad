//! EC2 and the metadata service as one instance sees them, or the roster that stands in their place.

pub mod addresses;
pub mod aws_clients;
pub mod member_owner;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::aws::credentials;
use crate::aws::ec2::{self, Described, Ec2};
use crate::aws::imds::{self, Imds};
use crate::aws::signing_client::{self, SigningClient};
use crate::config::hosts::Written;
use crate::config::{Config, MemberType, Security};
use crate::core::types::{InstanceId, Roster};
use crate::net::http::Client;
use crate::net::tls::Trust;
use crate::state::store::Identity;
use crate::util::exit::{Code, Failure};
use aws_clients::Aws;

/// Why the cloud gave no answer.
#[derive(Debug)]
pub enum Error {
    Imds(imds::Error),
    Ec2(ec2::Error),
    /// A written roster's.
    Roster(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Imds(error) => write!(f, "{error}"),
            Self::Ec2(error) => write!(f, "{error}"),
            Self::Roster(error) => f.write_str(error),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let denied = match &error {
            Error::Imds(_) | Error::Roster(_) => false,
            Error::Ec2(ec2::Error::Unanswered(signing_client::Error::Credentials(cause))) => {
                !matches!(cause, credentials::Error::Imds(_))
            }
            Error::Ec2(cause) => cause.is_denial(),
        };
        Self::new(if denied { Code::Denied } else { Code::Unavailable }, error)
    }
}

/// EC2's instances of the tags, or those of a written roster.
#[derive(Debug)]
pub struct Discovery {
    caller: Arc<SigningClient>,
    ec2: Arc<Ec2>,
    tags: Vec<(String, String)>,
    written: Option<Written>,
}

/// All instances, with what is only shown to people.
#[derive(Debug, Default)]
pub struct Fleet {
    pub roster: Roster,
    /// The instances' Name tags.
    pub names: BTreeMap<InstanceId, String>,
}

/// Our identity by the metadata service, or by the written roster. Asked for once: none of it changes while an instance runs.
///
/// # Errors
/// [`Error::Imds`], [`Error::Roster`].
pub async fn fetch_identity(config: &Config, imds: &Imds) -> Result<Identity, Error> {
    if let Some(written) = &config.written {
        let own = written.roster_of_ours().await.map_err(Error::Roster)?.1;
        let address = own.address.ok_or_else(|| Error::Roster(format!("{written}: {} has no address", own.id)))?;
        return Ok(Identity { instance: own.id.0, region: None, address, hostname: own.private_dns });
    }
    let document = imds.fetch_identity().await.map_err(Error::Imds)?;
    // A certificate is for the name as well.
    let hostname =
        match config.member_type == MemberType::Host || config.peer != Security::Plain || config.minting.is_some() {
            true => imds.fetch_local_hostname().await.map_err(Error::Imds)?,
            false => None,
        };
    let address = match document.private_ip {
        Some(address) => address,
        None => imds.fetch_ipv6().await.map_err(Error::Imds)?,
    };
    Ok(Identity { instance: document.instance_id, region: Some(document.region), address, hostname })
}

/// Why the instances are unknown. A written roster's errors name it themselves.
pub fn unlisted(config: &Config, cause: impl fmt::Display) -> String {
    match config.written {
        None => format!("EC2 can't be asked: {cause}"),
        Some(_) => cause.to_string(),
    }
}

/// A client of the metadata service. It never goes through a proxy and needs no TLS.
pub fn metadata_service(config: &Config) -> Imds {
    Imds::new(Client::new(Trust::public(None)), &config.imds_endpoint)
}

impl Discovery {
    /// The instances that these settings name, asked of that AWS.
    pub fn new(config: &Config, aws: &Aws) -> Self {
        let (caller, ec2) = (aws.caller.clone(), aws.ec2.clone());
        Self { caller, ec2, tags: config.tags.clone(), written: config.written.clone() }
    }

    /// Every instance of the filter, or of the written roster, as long as that has this instance in it.
    ///
    /// # Errors
    /// [`Error::Ec2`], [`Error::Roster`].
    pub async fn roster(&self, me: &InstanceId) -> Result<Roster, Error> {
        if let Some(written) = &self.written {
            let (roster, own) = written.roster_of_ours().await.map_err(Error::Roster)?;
            return match own.id == *me {
                true => Ok(roster),
                false => Err(Error::Roster(format!(
                    "{written}: this host is {} there, and runs as {me}; restart this node if it is to go by that name",
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
    /// [`Error::Ec2`], [`Error::Roster`].
    pub async fn fleet(&self) -> Result<Fleet, Error> {
        if let Some(written) = &self.written {
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

    /// Every instance of the filter with its tags, as EC2 lists them, none of them kept; EC2's clock at the end.
    ///
    /// # Errors
    /// [`Error::Ec2`], [`Error::Roster`].
    pub async fn each_instance(&self, mut each: impl FnMut(Described)) -> Result<i64, Error> {
        if let Some(written) = &self.written {
            let roster = written.roster().await.map_err(Error::Roster)?;
            roster.all().iter().for_each(|instance| each(Described { instance: instance.clone(), tags: Vec::new() }));
            return Ok(roster.seen_at);
        }
        self.ec2.describe_tagged(&self.tags, each).await.map_err(Error::Ec2)
    }

    /// One instance by id; `None`: EC2 knows no such id. A written roster that doesn't hold it says nothing of it.
    ///
    /// # Errors
    /// [`Error::Ec2`], [`Error::Roster`].
    pub async fn instance(&self, id: &InstanceId) -> Result<Option<Described>, Error> {
        if let Some(written) = &self.written {
            return Err(Error::Roster(format!("{written} says nothing of {id}")));
        }
        self.ec2.describe_instance(id).await.map_err(Error::Ec2)
    }

    /// Whether EC2 calls an instance impaired.
    ///
    /// # Errors
    /// [`Error::Ec2`], [`Error::Roster`]: only EC2 looks at it from outside.
    pub async fn is_impaired(&self, id: &InstanceId) -> Result<bool, Error> {
        if let Some(written) = &self.written {
            return Err(Error::Roster(format!("{written} says nothing of {id}'s health")));
        }
        self.ec2.is_impaired(id).await.map_err(Error::Ec2)
    }

    /// API calls made so far.
    pub fn calls(&self) -> u64 {
        self.caller.calls()
    }
}
