//! `snapshot list`: what is at the places, newest first. A place may hold thousands: only the newest manifests are read unless all are asked
//! for, and nothing but the keys is in memory as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use argh::FromArgs;
use serde_json::{Value, json};

use super::{Scene, bytes, exit, proof};
use crate::cli::terminal;
use crate::config::Config;
use crate::core::seed::Order;
use crate::core::snapshot::manifest::Manifest;
use crate::core::snapshot::name::{Kind, Name};
use crate::core::types::ClusterId;
use crate::snapshot::catalog;
use crate::snapshot::place::{Error, Listing, Place};
use crate::util::exit::Failure;

/// So many manifests of a cluster are read: each is a call. It is more than MUSTER_SNAPSHOT_KEEP keeps by default.
const READ: usize = 100;

/// List the snapshots at every place, newest first; of those behind a cluster's newest 100 only what their names say. Exits with 0 if every place could be
/// listed, otherwise with 1.
#[derive(FromArgs)]
#[argh(subcommand, name = "list")]
pub(super) struct List {
    /// read the manifests of all
    #[argh(switch)]
    all: bool,
    /// only this place: s3://bucket/prefix or file:/dir
    #[argh(option, arg_name = "PLACE")]
    at: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// A snapshot as it is listed.
#[derive(Default)]
struct Found {
    /// Bytes of its data, if that is there.
    size: Option<u64>,
    has_manifest: bool,
    /// As it was read.
    manifest: Option<Box<Result<Manifest, String>>>,
}

/// What a place has.
struct Content {
    snapshots: BTreeMap<Name, Found>,
    /// What is no snapshot, with its size.
    loose: Vec<(String, u64)>,
}

impl List {
    pub(super) async fn run(&self, config: &Config) -> Result<i32, Failure> {
        let scene = Scene::open(config, self.at.as_deref()).await?;
        let (mut shown, mut well) = (Vec::new(), true);
        for place in &scene.places {
            let content = self.content(place).await;
            well &= content.is_ok();
            match (content, self.json) {
                (Err(error), false) => terminal::line(format_args!("{place}: {error}")),
                (Err(error), true) => shown.push(json!({"place": place.to_string(), "trouble": error.to_string()})),
                (Ok(content), false) => content.print(place),
                (Ok(content), true) => {
                    shown.push(json!({"place": place.to_string(), "snapshots": content.into_json()}))
                }
            }
        }
        if self.json {
            terminal::json(&Value::Array(shown));
        }
        Ok(exit(well))
    }

    async fn content(&self, place: &Arc<Place>) -> Result<Content, Error> {
        let mut content = Content::of(place.list("").await?);
        let mut of_cluster = BTreeMap::<ClusterId, usize>::new();
        let mut is_wanted = |name: &&Name| {
            let count = of_cluster.entry(name.cluster).or_default();
            *count += 1;
            self.all || *count <= READ
        };
        let wanted: Vec<Name> = content.snapshots.keys().rev().filter(&mut is_wanted).cloned().collect();
        for (name, manifest) in catalog::manifests(place, wanted.into_iter().map(|name| (name.clone(), name))).await {
            if let Some(found) = content.snapshots.get_mut(&name) {
                found.manifest = Some(Box::new(manifest));
            }
        }
        Ok(content)
    }
}

impl Content {
    fn of(listing: Listing) -> Self {
        let (mut snapshots, mut loose) = (BTreeMap::<Name, Found>::new(), Vec::new());
        for entry in listing.entries {
            match Name::of_key(&entry.key) {
                None if Order::is_key(&entry.key) => {}
                None => loose.push((entry.key, entry.size)),
                Some((name, Kind::Data)) => snapshots.entry(name).or_default().size = Some(entry.size),
                Some((name, Kind::Manifest)) => snapshots.entry(name).or_default().has_manifest = true,
            }
        }
        // A snapshot exists only if its manifest does.
        snapshots.retain(|name, found| {
            if !found.has_manifest {
                loose.push((name.data_key(), found.size.unwrap_or_default()));
            }
            found.has_manifest
        });
        Self { snapshots, loose }
    }

    fn print(&self, place: &Place) {
        terminal::line(format_args!("{place}: {} snapshot(s)", self.snapshots.len()));
        if !self.snapshots.is_empty() {
            let rows = || self.snapshots.iter().rev().map(|(name, found)| found.row(name));
            terminal::table_of(&["NAME", "REVISION", "SIZE", "TAKEN", "REASON", "VERIFIED"], rows);
        }
        let unread = self.snapshots.values().filter(|found| found.manifest.is_none()).count();
        if unread > 0 {
            terminal::line(format_args!(
                "of the older {unread} only the names were read; `snapshot list --all` reads their manifests"
            ));
        }
        for (key, size) in &self.loose {
            terminal::line(format_args!("no snapshot: {key} ({})", bytes(*size)));
        }
    }

    fn into_json(self) -> Vec<Value> {
        let of = |(name, found): (Name, Found)| {
            let name = name.to_string();
            match found.manifest.map(|manifest| *manifest) {
                Some(Ok(manifest)) => json!({"name": name, "manifest": manifest}),
                Some(Err(why)) => json!({"name": name, "trouble": why}),
                None => json!({"name": name, "size": found.size}),
            }
        };
        self.snapshots.into_iter().rev().map(of).collect()
    }
}

impl Found {
    fn row(&self, name: &Name) -> Vec<String> {
        let (of_name, dash) = ([name.to_string(), name.revision.to_string()], || "-".to_owned());
        let rest = match self.manifest.as_deref() {
            Some(Ok(manifest)) => {
                [bytes(manifest.size), manifest.taken_at.clone(), manifest.reason.name().to_owned(), proof(manifest)]
            }
            Some(Err(why)) => [dash(), dash(), dash(), format!("not understood: {why}")],
            None => [self.size.map_or_else(dash, bytes), dash(), dash(), dash()],
        };
        of_name.into_iter().chain(rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::place::directory::Directory;
    use crate::util::scratch::Scratch;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    /// Each cluster has its newest read, whatever others have; what has no manifest is no snapshot.
    #[test]
    fn of_each_cluster_the_newest_manifests_are_read() {
        let scratch = Scratch::make();
        let name = |cluster, revision| Name::new(ClusterId(cluster), revision, 1, "i-1");
        let write = |key: String| {
            let path = scratch.path().join(&key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        };
        let many = READ as u64 + 5;
        for revision in 0..many {
            write(name(2, revision).data_key());
            write(name(2, revision).manifest_key());
        }
        write(name(1, 7).manifest_key());
        write(name(1, 8).data_key());
        let place = Arc::new(Place::Directory(Directory::new(scratch.path().to_path_buf())));
        let content = |all| run(List { all, at: None, json: false }.content(&place)).unwrap();
        let newest = content(false);
        let read: Vec<bool> = newest.snapshots.values().map(|found| found.manifest.is_some()).collect();
        let expected: Vec<bool> = [true].into_iter().chain((0..many).map(|revision| revision >= 5)).collect();
        assert_eq!(read, expected);
        assert_eq!(newest.loose, [(name(1, 8).data_key(), 2)]);
        assert!(content(true).snapshots.values().all(|found| found.manifest.is_some()));
        let json = newest.into_json();
        assert_eq!(json.len() as u64, many + 1);
        assert_eq!(json[READ], json!({"name": name(2, 4).to_string(), "size": 2}));
    }
}
