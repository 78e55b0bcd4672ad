//! What is on this host: how the etcd is started, and what its directories show.

use std::fs;
use std::path::{Path, PathBuf};

use crate::core::types::{ClusterId, Known, Member, MemberId};
use crate::core::view::DataDir;
use crate::etcd::by_hand::{self, Given};
use crate::etcd::data_dir::{MUSTER_DIR, Paths};
use crate::util::exit::{Code, Failure};

/// How the etcd is started.
#[derive(Default)]
pub(super) struct Source {
    pub(super) given: Given,
    /// The process, if one was read: its directory for relative paths.
    pub(super) process: Option<Process>,
}

pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) dir: PathBuf,
    pub(super) program: PathBuf,
}

/// What the directories show.
pub(super) struct Data {
    pub(super) paths: Paths,
    pub(super) wal: (&'static str, String),
    pub(super) ids: Option<(ClusterId, MemberId)>,
    pub(super) members: Vec<Member>,
}

impl Source {
    pub(super) fn of_process(pid: u32) -> Result<Self, Failure> {
        let failure = |cause: &dyn std::fmt::Display| {
            Failure::new(
                Code::Usage,
                format!("process {pid} can't be read: {cause}; run this as root, or give --env-file"),
            )
        };
        let at = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let link = |name: &str| fs::read_link(at(name)).map_err(|e| failure(&e));
        let words = |name: &str| -> Result<Vec<String>, Failure> {
            let bytes = fs::read(at(name)).map_err(|e| failure(&e))?;
            let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
            Ok(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
        };
        if link("ns/mnt")? != fs::read_link("/proc/self/ns/mnt").map_err(|e| failure(&e))? {
            let message = format!(
                "process {pid} is in a container, and its paths are not this host's; give its settings as this host has \
                 them: --env-file or --config-file (a pod's manifest will do), and --data-dir"
            );
            return Err(Failure::new(Code::Usage, message));
        }
        let variables = words("environ")?;
        let variables = variables.iter().filter_map(|word| word.split_once('='));
        let variables = variables.filter(|(name, _)| name.starts_with("ETCD_"));
        let mut given: Given = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let flags = words("cmdline")?;
        given.extend(by_hand::of_flags(flags.iter().skip(1).map(String::as_str)).map_err(|e| failure(&e))?);
        Ok(Self { given, process: Some(Process { pid, dir: link("cwd")?, program: link("exe")? }) })
    }

    /// A path as etcd takes it: relative to the directory in which it was started.
    pub(super) fn absolute(&self, path: &str) -> PathBuf {
        self.process.as_ref().map_or_else(|| PathBuf::from(path), |process| process.dir.join(path))
    }

    pub(super) fn data_dir(&self) -> Result<PathBuf, Failure> {
        // (etcd's default, embed.Config.Validate.)
        let default = || format!("{}.etcd", self.given.get("ETCD_NAME").map_or("default", String::as_str));
        let dir = self.absolute(&self.given.get("ETCD_DATA_DIR").cloned().unwrap_or_else(default));
        if dir.is_absolute() {
            return Ok(dir);
        }
        let message =
            format!("ETCD_DATA_DIR={}: where etcd was started is not known; give --data-dir /PATH", dir.display());
        Err(Failure::new(Code::Usage, message))
    }
}

/// The process, if exactly one etcd runs here.
pub(super) fn the_one_etcd() -> Result<u32, Failure> {
    let entries = fs::read_dir("/proc").map_err(|e| Failure::new(Code::System, format!("/proc: {e}")))?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let runs_etcd = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "etcd");
    one_of(&pids.filter(runs_etcd).collect::<Vec<_>>()).map_err(|why| Failure::new(Code::Usage, why))
}

fn one_of(pids: &[u32]) -> Result<u32, String> {
    match pids {
        [pid] => Ok(*pid),
        [] => Err("no etcd runs here; of a stopped one give --env-file or --config-file, or --data-dir".to_owned()),
        several => {
            let several: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(format!("several etcds run here: processes {}; name the one to adopt: --pid PID", several.join(", ")))
        }
    }
}

pub(super) fn look_at(data_dir: &Path, wal_dir: Option<PathBuf>, blockers: &mut Vec<String>) -> Data {
    let (paths, wal) = places(data_dir, wal_dir);
    let ids = match paths.inspect() {
        Ok(DataDir::Whole { ids: Known::Known(ids) }) => Some(ids),
        Ok(DataDir::Whole { ids: Known::Unknown(cause) }) => {
            blockers.push(format!(
                "whose data this is can't be read from its WAL: {cause}; restore it from a snapshot of the cluster, or let the \
                 member be replaced"
            ));
            None
        }
        Ok(DataDir::Fresh) => {
            blockers.push(format!("{} has no data of an etcd; give --data-dir", data_dir.display()));
            None
        }
        Ok(DataDir::Partial { what }) => {
            blockers.push(format!("{what}; give --wal-dir"));
            None
        }
        Err(cause) => {
            blockers.push(format!("{cause}; run this as root"));
            None
        }
    };
    if paths.data.join(MUSTER_DIR).exists() {
        blockers.push(format!(
            "{} exists: an etcd-muster has run with this data already; see etcd-muster plan",
            paths.data.join(MUSTER_DIR).display()
        ));
    }
    let members = match ids.map(|_| paths.members()) {
        Some(Ok(members)) => members,
        Some(Err(cause)) => {
            blockers.push(format!("{} can't be read: {cause}", paths.data.join("member/snap/db").display()));
            Vec::new()
        }
        None => Vec::new(),
    };
    Data { paths, wal, ids, members }
}

/// The directories, and the variable with which etcd-muster takes the WAL where it is.
pub(super) fn places(data: &Path, wal_dir: Option<PathBuf>) -> (Paths, (&'static str, String)) {
    let wal = wal_dir.unwrap_or_else(|| data.join("member/wal"));
    // A volume's WAL is one level below it; a WAL at the top of its volume stays there as long as it is.
    let beside = wal.parent().filter(|parent| wal.ends_with("wal") && *parent != Path::new("/"));
    let volumes = beside.into_iter().chain([wal.as_path()]);
    let mut on = volumes.map(|volume| (Paths::on_volumes(data, volume, None), volume.display().to_string()));
    match on.find(|(paths, _)| paths.wal == wal) {
        Some((paths, volume)) => (paths, ("ED_WAL", volume)),
        None => (Paths::on_volumes(data, &wal, Some(&wal)), ("ETCD_WAL_DIR", wal.display().to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::scratch::Scratch;

    #[test]
    fn one_etcd_is_found_and_several_are_never_guessed_among() {
        assert_eq!(one_of(&[7]), Ok(7));
        assert!(one_of(&[]).unwrap_err().contains("no etcd runs here"));
        assert!(one_of(&[7, 8]).unwrap_err().contains("processes 7, 8; name the one to adopt: --pid"));
    }

    #[test]
    fn a_wal_is_taken_where_it_is() {
        let scratch = Scratch::make();
        let of = |wal: Option<&str>| {
            let wal = wal.map(|wal| scratch.path().join(wal));
            if let Some(wal) = &wal {
                fs::create_dir_all(wal).unwrap();
                fs::write(wal.join("0000000000000000-0000000000000000.wal"), "").unwrap();
            }
            let (paths, (name, value)) = places(Path::new("/d"), wal);
            let below = |path: &str| path.replace(&scratch.path().display().to_string(), "S");
            (below(&paths.wal.display().to_string()), format!("{name}={}", below(&value)))
        };
        let pair = |wal: &str, setting: &str| (wal.to_owned(), setting.to_owned());
        assert_eq!(of(None), pair("/d/member/wal", "ED_WAL=/d/member"));
        assert_eq!(of(Some("volume/wal")), pair("S/volume/wal", "ED_WAL=S/volume"));
        assert_eq!(of(Some("volume/log")), pair("S/volume/log", "ED_WAL=S/volume/log"));
        // Another one at the top of the volume would be taken instead.
        fs::write(scratch.path().join("volume/0.wal"), "").unwrap();
        assert_eq!(of(Some("volume/wal")), pair("S/volume/wal", "ED_WAL=S/volume/wal"));
    }
}
