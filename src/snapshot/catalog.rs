//! What a place has: all of its objects, and what the manifests among them say.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::place::{Entry, Error, Listing, Place};
use crate::core::seed::Which;
use crate::core::snapshot::manifest::Manifest;
use crate::core::snapshot::name::{Kind, Name};
use crate::core::snapshot::retention::Object;
use crate::core::types::ClusterId;

/// Manifests that are read at once.
const AT_ONCE: usize = 16;

/// Parses a manifest.
///
/// # Errors
/// It is not understood, and why: it is to be kept, and relied on for nothing.
pub fn parse(bytes: &[u8], name: &Name) -> Result<Manifest, String> {
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    manifest.fault(name).map_or(Ok(manifest), Err)
}

/// A manifest as it is stored.
pub fn written(manifest: &Manifest) -> Vec<u8> {
    // A struct of numbers and text can't fail to be written.
    let mut bytes = serde_json::to_vec_pretty(manifest).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// All objects below `below` (empty: of the place), with the manifests of that cluster; `None`: of all clusters. One that can't be read is as good as one that
/// is not understood.
///
/// # Errors
/// The list is not whole.
pub async fn read(place: &Arc<Place>, below: &str, cluster: Option<ClusterId>) -> Result<Vec<Object>, Error> {
    let listing = place.list(below).await?;
    let mut objects: Vec<Object> =
        listing.entries.into_iter().map(|entry| Object { key: entry.key, size: entry.size, manifest: None }).collect();
    let wanted = |object: &Object| {
        let name = Name::of_key(&object.key).filter(|(_, kind)| *kind == Kind::Manifest)?.0;
        cluster.is_none_or(|cluster| cluster == name.cluster).then_some(name)
    };
    let wanted: Vec<_> = objects.iter().enumerate().filter_map(|(at, object)| Some((at, wanted(object)?))).collect();
    let found = manifests(place, wanted.into_iter()).await;
    for (at, manifest) in found {
        objects[at].manifest = Some(manifest);
    }
    Ok(objects)
}

/// The newest manifests of each cluster that are listed, at most so many, or why one can't be read or is not understood.
pub async fn newest(place: &Arc<Place>, listing: &Listing, of_each: usize) -> BTreeMap<Name, Result<Manifest, String>> {
    let mut of_cluster = BTreeMap::<ClusterId, usize>::new();
    let is_wanted = |name: &Name| {
        let count = of_cluster.entry(name.cluster).or_default();
        *count += 1;
        *count <= of_each
    };
    let wanted: Vec<Name> = names(listing).rev().filter(is_wanted).collect();
    manifests(place, wanted.into_iter().map(|name| (name.clone(), name))).await.into_iter().collect()
}

/// So many manifests of a cluster are read to find a verified one.
const NEWEST: usize = 32;

/// Those that may be meant: the newest of each cluster that are listed, or the one that is named; or why one can't be read or is not understood.
pub async fn candidates(
    place: &Arc<Place>,
    listing: &Listing,
    which: &Which,
) -> BTreeMap<Name, Result<Manifest, String>> {
    match which {
        Which::Named(name) => [(name.clone(), manifest(place, name).await)].into(),
        Which::Newest | Which::Of(_) => newest(place, listing, NEWEST).await,
    }
}

/// The names of the snapshots that are listed, in their order: those of which there is a manifest.
pub fn names(listing: &Listing) -> impl DoubleEndedIterator<Item = Name> {
    let of = |entry: &Entry| Name::of_key(&entry.key).filter(|(_, kind)| *kind == Kind::Manifest).map(|(name, _)| name);
    listing.entries.iter().filter_map(of)
}

/// What these manifests say, each under its key. One that can't be read is as good as one that is not understood.
pub async fn manifests<K: Send + 'static>(
    place: &Arc<Place>,
    mut wanted: impl Iterator<Item = (K, Name)>,
) -> Vec<(K, Result<Manifest, String>)> {
    let (mut reading, mut found) = (JoinSet::new(), Vec::new());
    loop {
        while reading.len() < AT_ONCE
            && let Some((key, name)) = wanted.next()
        {
            let place = place.clone();
            reading.spawn(async move { (key, manifest(&place, &name).await) });
        }
        match reading.join_next().await {
            Some(Ok(read)) => found.push(read),
            Some(Err(_)) => {}
            None => return found,
        }
    }
}

/// What the manifest of that snapshot says.
///
/// # Errors
/// It can't be read, or is not understood; as one line.
pub async fn manifest(place: &Place, name: &Name) -> Result<Manifest, String> {
    match place.read(&name.manifest_key()).await {
        Ok(Some(stored)) => parse(&stored.body, name),
        Ok(None) => Err("it is listed, and it does not exist".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
