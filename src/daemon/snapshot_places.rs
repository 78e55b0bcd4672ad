//! The places for snapshots that the settings name, and the keys with which snapshots are encrypted.

use std::path::Path;
use std::sync::Arc;

use crate::aws::s3::S3;
use crate::aws::s3::bucket::{Bucket, CustomerKey, Encryption, Options};
use crate::aws::ssm::Ssm;
use crate::config::{CaKey, Location, Snapshots, Sse};
use crate::core::paxos::Ledger;
use crate::core::types::ClusterId;
use crate::etcd::ids;
use crate::snapshot::envelope::OperatorKey;
use crate::snapshot::place::Place;
use crate::snapshot::place::directory::Directory;
use crate::snapshot::place::s3::Prefix;
use crate::util::file;

/// These places; the file of a customer key is read now.
///
/// # Errors
/// That key can't be read, or is none; as one line.
pub async fn open(
    settings: &Snapshots,
    locations: &[Location],
    s3: impl Fn() -> S3,
) -> Result<Vec<Arc<Place>>, String> {
    let wants_s3 = locations.iter().any(|location| matches!(location, Location::Bucket { .. }));
    let encryption = match &settings.sse {
        Some(sse) if wants_s3 => encryption(sse).await?,
        _ => Encryption::Default,
    };
    let place = |location: &Location| match location {
        Location::Bucket { bucket, prefix } => {
            let options = Options { encryption: encryption.clone(), ..Options::default() };
            Place::S3(Box::new(Prefix::new(Bucket::new(s3(), bucket.clone(), options), prefix)))
        }
        Location::Directory(dir) => Place::Directory(Directory::new(dir.clone())),
    };
    Ok(locations.iter().map(|location| Arc::new(place(location))).collect())
}

async fn encryption(sse: &Sse) -> Result<Encryption, String> {
    match sse {
        Sse::Kms(key_id) => Ok(Encryption::Kms { key_id: key_id.clone() }),
        Sse::CustomerKey(path) => {
            let wrong = |cause: String| format!("MUSTER_SNAPSHOT_SSE={}: {cause}", path.display());
            let contents = file::fetch(path).await.map_err(|error| wrong(error.to_string()))?;
            let key = OperatorKey::parse(&contents).map_err(|error| wrong(error.to_string()))?;
            let key = CustomerKey::new(key.bytes()).map_err(|error| wrong(error.to_string()))?;
            Ok(Encryption::Customer(key))
        }
    }
}

/// The cluster from whose snapshot this one was restored, if this node was among its first members.
pub fn parent(ledger: &Ledger, cluster: ClusterId) -> Option<ClusterId> {
    let list = ledger.chosen.as_ref().filter(|list| ids::cluster_id(list) == cluster)?;
    list.seed.as_ref()?.cluster()
}

/// The operator's key, read anew; `None`: none is set.
///
/// # Errors
/// It can't be read, or is no key; as one line.
pub async fn key(settings: &Snapshots, ssm: &Ssm) -> Result<Option<OperatorKey>, String> {
    let Some(source) = &settings.key else { return Ok(None) };
    let (shown, contents) = match source {
        CaKey::File(path) => (path.display().to_string(), from_file(path).await),
        CaKey::Parameter(name) => {
            let parameter = ssm.parameter(name).await;
            let parameter = parameter.map(|secret| secret.expose().as_bytes().to_vec());
            (format!("ssm:{name}"), parameter.map_err(|error| error.to_string()))
        }
    };
    let wrong = |cause: String| format!("MUSTER_SNAPSHOT_KEY={shown}: {cause}");
    let contents = contents.map_err(wrong)?;
    OperatorKey::parse(&contents).map(Some).map_err(|error| wrong(error.to_string()))
}

async fn from_file(path: &Path) -> Result<Vec<u8>, String> {
    file::fetch(path).await.map_err(|error| error.to_string())
}
