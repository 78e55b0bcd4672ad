//! What a first member of a restored cluster begins with, prepared by a program that stands for etcd's tool, and moved into place.
//!
//! One test in a binary of its own: the reaper waits for every child of the process it lives in.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use etcd_muster::core::release::Release;
use etcd_muster::core::snapshot::manifest::{FORMAT, Manifest, Reason};
use etcd_muster::core::types::Seed;
use etcd_muster::core::types::{ClusterId, InitialList, InstanceId, ListedMember, MemberId};
use etcd_muster::core::view::DataDir;
use etcd_muster::etcd::data_dir::Paths;
use etcd_muster::process::reaper::Reaper;
use etcd_muster::process::signals;
use etcd_muster::snapshot::catalog;
use etcd_muster::snapshot::place::Place;
use etcd_muster::snapshot::place::directory::Directory;
use etcd_muster::snapshot::restore::{Error, Restore, Staged, stage};
use etcd_muster::snapshot::spool;

/// As etcd's: told where to restore to and what from. It leaves what it was told, and its data also where it fails.
const TOOL: &str = r#"#!/bin/sh
printf '%s\n' "$@" >"ARGUMENTS"
wal=data/member/wal
for word in "$@"; do case "$word" in --wal-dir=*) wal="${word#--wal-dir=}" ;; esac; done
mkdir -p data/member/snap "$wal"
cp "$3" data/member/snap/db
echo log >"$wal/0000000000000000-0000000000000000.wal"
exit EXIT
"#;
const BYTES: &[u8] = b"what an earlier cluster had";
const RELEASE: Release = Release { major: 3, minor: 6, patch: 16 };
const NONCE: u64 = 7;

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A place with one snapshot, a tool, and a node's directories.
struct Scene {
    dir: PathBuf,
    place: Arc<Place>,
    manifest: Manifest,
    seed: Seed,
    list: InitialList,
    paths: Paths,
    installed: Option<Release>,
    reaper: Reaper,
}

impl Scene {
    fn new(name: &str, wal_is_inside: bool, reaper: &Reaper) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("restore-{name}"));
        if dir.exists() {
            clear(&dir);
        }
        for folder in ["place", "bin", "data", "volume"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        let manifest = Manifest {
            format: FORMAT,
            cluster: ClusterId(0xc1),
            parent: None,
            member: MemberId(1),
            instance: "i-1".to_owned(),
            etcd: "3.6.1".to_owned(),
            storage_version: None,
            revision: 300,
            compact_revision: 17,
            term: 5,
            index: 4711,
            size: BYTES.len() as u64,
            sha256: sha256(BYTES),
            plain: None,
            hash_kv: None,
            members: Vec::new(),
            auth: false,
            alarms: Vec::new(),
            taken_at: "2026-11-30T06:00:00Z".to_owned(),
            store_date: None,
            reason: Reason::ByHand,
            encryption: None,
            verified: None,
        };
        let place = Place::Directory(Directory::new(dir.join("place")));
        let member = ListedMember {
            instance: InstanceId("i-a".to_owned()),
            name: "a".to_owned(),
            peer_urls: vec!["http://10.0.0.1:2380".to_owned()],
        };
        let seed = Seed::of(&place.to_string(), &manifest);
        let named = wal_is_inside.then(|| dir.join("data/member/wal"));
        let scene = Self {
            paths: Paths::on_volumes(&dir.join("data"), &dir.join("volume"), named.as_deref()),
            place: Arc::new(place),
            list: InitialList {
                seed: Some(Box::new(seed.clone())),
                ..InitialList::empty(vec![member], "t-1".to_owned())
            },
            seed,
            manifest,
            installed: Some(RELEASE),
            reaper: reaper.clone(),
            dir,
        };
        scene.store(BYTES, &scene.manifest);
        fs::write(scene.dir.join("bin/etcd"), "").unwrap();
        scene.tool(0);
        scene
    }

    fn store(&self, bytes: &[u8], manifest: &Manifest) {
        let (name, place) = (manifest.name(), self.dir.join("place"));
        fs::create_dir_all(place.join(name.data_key()).parent().unwrap()).unwrap();
        fs::write(place.join(name.data_key()), bytes).unwrap();
        fs::write(place.join(name.manifest_key()), catalog::written(manifest)).unwrap();
    }

    fn tool(&self, exit: u8) {
        let path = self.dir.join("bin/etcdutl");
        let told = self.dir.join("arguments").display().to_string();
        fs::write(&path, TOOL.replace("ARGUMENTS", &told).replace("EXIT", &exit.to_string())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    async fn stage(&self) -> Result<Staged, Error> {
        let restore = Restore {
            place: &self.place,
            seed: &self.seed,
            key: None,
            list: &self.list,
            entry: &self.list.members[0],
            paths: &self.paths,
            spool: &spool::dir_in(&self.paths.data),
            etcd: &self.dir.join("bin/etcd"),
            installed: self.installed,
            reaper: &self.reaper,
        };
        stage(&restore, &|_| {}).await
    }

    /// What the tool was told, word by word; `None`: it did not run.
    fn told(&self) -> Option<Vec<String>> {
        let text = fs::read_to_string(self.dir.join("arguments")).ok()?;
        Some(text.lines().map(str::to_owned).collect())
    }

    /// Why not; and that nothing is left of it.
    async fn refused(&self) -> Error {
        let error = self.stage().await.unwrap_err();
        assert_eq!(self.paths.inspect().unwrap(), DataDir::Fresh, "{error}");
        assert!(self.leftovers().is_empty(), "{error}: {:?}", self.leftovers());
        error
    }

    /// What is being prepared, on the data's volume and on the WAL's.
    fn leftovers(&self) -> Vec<PathBuf> {
        let beside = [spool::dir_in(&self.paths.data), self.paths.beside_wal().to_owned()];
        let entries =
            beside.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("trial-")).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        clear(&self.dir);
    }
}

#[expect(clippy::disallowed_methods, reason = "made by this test")]
fn clear(dir: &Path) {
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_seed_is_fetched_compared_restored_and_moved_into_place() {
    let blocked = signals::block().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_stop, exits, _too) = blocked.handle().unwrap();
        let reaper = Reaper::start(exits);
        for wal_is_inside in [false, true] {
            is_ready_and_begins(&Scene::new("whole", wal_is_inside, &reaper)).await;
            the_wal_comes_last(&Scene::new("order", wal_is_inside, &reaper)).await;
        }
        revisions_are_raised_unless_the_order_says_otherwise(Scene::new("bump", false, &reaper)).await;
        other_bytes_are_not_restored(&Scene::new("digest", false, &reaper)).await;
        another_snapshot_of_that_name_is_not_restored(&Scene::new("replaced", false, &reaper)).await;
        what_a_failed_tool_left_is_not_started(&Scene::new("failed", false, &reaper)).await;
        a_release_that_would_not_start_on_it_restores_nothing(Scene::new("release", false, &reaper)).await;
    });
}

async fn is_ready_and_begins(scene: &Scene) {
    scene.paths.mark(NONCE).unwrap();
    let staged = scene.stage().await.unwrap();
    assert_eq!((staged.token.as_str(), &staged.manifest), ("t-1", &scene.manifest));
    assert_eq!(scene.paths.inspect().unwrap(), DataDir::Fresh, "until it is moved");
    let told = scene.told().unwrap();
    for word in [
        "--name=a",
        "--initial-cluster=a=http://10.0.0.1:2380",
        "--initial-advertise-peer-urls=http://10.0.0.1:2380",
        "--initial-cluster-token=t-1",
    ] {
        assert!(told.iter().any(|told| told == word), "{word} in {told:?}");
    }
    staged.install(&scene.paths).unwrap();
    drop(staged);
    assert!(matches!(scene.paths.inspect().unwrap(), DataDir::Whole { .. }));
    assert_eq!(fs::read(scene.paths.data.join("member/snap/db")).unwrap(), BYTES);
    assert!(scene.leftovers().is_empty());
    assert!(scene.paths.is_marked(NONCE), "else a start that never began could not be told from a lost WAL");
}

/// Whatever fails, or ends, in between: without a WAL nothing counts as started.
async fn the_wal_comes_last(scene: &Scene) {
    scene.paths.mark(NONCE).unwrap();
    let in_the_way = |dir: &Path| {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("in-the-way"), "").unwrap();
    };
    let staged = scene.stage().await.unwrap();
    let snap = scene.paths.data.join("member/snap");
    in_the_way(&snap);
    staged.install(&scene.paths).unwrap_err();
    assert!(!scene.paths.holds_wal() && scene.paths.is_marked(NONCE), "the data can't be moved");
    drop(staged);
    clear(&snap);
    let staged = scene.stage().await.unwrap();
    in_the_way(&scene.paths.wal);
    staged.install(&scene.paths).unwrap_err();
    assert!(matches!(scene.paths.inspect().unwrap(), DataDir::Partial { .. }), "the WAL can't");
    assert!(!scene.paths.holds_wal() && scene.paths.is_marked(NONCE));
}

async fn revisions_are_raised_unless_the_order_says_otherwise(mut scene: Scene) {
    let raises = |scene: &Scene| {
        let told = scene.told().unwrap();
        ["--bump-revision=1000000000", "--mark-compacted"].map(|word| told.iter().any(|told| told == word))
    };
    drop(scene.stage().await.unwrap());
    assert_eq!(raises(&scene), [true, true]);
    scene.seed.bump = 0;
    drop(scene.stage().await.unwrap());
    assert_eq!(raises(&scene), [false, false]);
    // Tools that can't, and the last of them.
    scene.manifest.etcd = "3.5.1".to_owned();
    scene.store(BYTES, &scene.manifest);
    scene.installed = Some(Release { major: 3, minor: 5, patch: 9 });
    drop(scene.stage().await.unwrap());
    scene.seed.bump = 1;
    let error = scene.refused().await;
    assert!(matches!(error, Error::NoBump(_)), "{error}");
    scene.installed = Some(Release { major: 3, minor: 5, patch: 10 });
    drop(scene.stage().await.unwrap());
}

/// The length is the same, and the manifest too.
async fn other_bytes_are_not_restored(scene: &Scene) {
    let other = [&BYTES[1..], &BYTES[..1]].concat();
    scene.store(&other, &scene.manifest);
    let error = scene.refused().await;
    assert!(matches!(&error, Error::Digest { found, .. } if *found == sha256(&other)), "{error}");
    assert_eq!(scene.told(), None, "the tool is not asked");
}

/// With a manifest that fits it.
async fn another_snapshot_of_that_name_is_not_restored(scene: &Scene) {
    let other = b"what another cluster had";
    let manifest = Manifest { size: other.len() as u64, sha256: sha256(other), ..scene.manifest.clone() };
    scene.store(other, &manifest);
    let error = scene.refused().await;
    assert!(matches!(error, Error::Replaced(_)), "{error}");
    assert_eq!(scene.told(), None);
}

async fn what_a_failed_tool_left_is_not_started(scene: &Scene) {
    scene.tool(1);
    let error = scene.refused().await;
    assert!(scene.told().is_some() && error.to_string().contains("exited with 1"), "{error}");
    scene.tool(0);
    scene.stage().await.unwrap().install(&scene.paths).unwrap();
}

async fn a_release_that_would_not_start_on_it_restores_nothing(mut scene: Scene) {
    for (minor, patch) in [(5, 33), (8, 0)] {
        scene.installed = Some(Release { major: 3, minor, patch });
        let error = scene.refused().await;
        assert!(matches!(error, Error::Release(_)), "{error}");
    }
    assert_eq!(scene.told(), None);
    scene.installed = Some(Release { major: 3, minor: 7, patch: 3 });
    drop(scene.stage().await.unwrap());
}
