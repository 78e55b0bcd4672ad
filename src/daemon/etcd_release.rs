//! Which etcd is installed, and which releases its data shows: the core judges each start by them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::Daemon;
use crate::core::release::Release;
use crate::core::release::{DataRelease, Installed};
use crate::core::types::Known;
use crate::core::view::DataDir;
use crate::etcd::by_release::{self, Fitted};
use crate::etcd::data_dir::Paths;
use crate::etcd::defects;
use crate::process::spawn::Output;
use crate::util::exit::{Code, Failure, Trouble};
use crate::util::file;
use crate::util::log_once::LogOnce;

/// It takes some 50 ms; a disk that reads 30 MB more slowly than this runs no etcd.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of its output is shown if no release can be parsed from it.
const SHOWN_CHARS: usize = 80;

impl Daemon {
    /// Queries the installed etcd again if the file has changed since the last query: since etcd's last run, or while this node
    /// held.
    pub(super) fn ask_for_release(&mut self) -> Result<(), Failure> {
        let file = fs::metadata(&self.program).ok().map(|file| (file.dev(), file.ino(), file.size(), file.mtime()));
        let is_another = self.program_file != file;
        self.program_file = file;
        if self.version.is_none() && is_another {
            match Output::of(&self.program, "--version", &self.reaper) {
                Ok(version) => self.version = Some(version),
                Err(cause) => match Trouble::of_program(&self.program, &cause) {
                    // Its former release is used for the judgement; to be started it must be runnable again.
                    Trouble { may_pass: true, .. } => self.program_file = None,
                    Trouble { failure, .. } => return Err(failure),
                },
            }
        }
        Ok(())
    }

    /// What of the operator's settings this release takes otherwise than they were given: said once a release.
    ///
    /// # Errors
    /// A setting with which this release must not be started.
    pub(super) fn fit_settings(&self) -> Result<(), Failure> {
        let Fitted { said, refused, .. } = by_release::fit(&self.config.etcd.settings, self.release());
        for line in said {
            log::warn!("{line}");
        }
        match refused.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(Code::Config, refused.join("; "))),
        }
    }

    /// The installed etcd, if it is known.
    pub(super) fn release(&self) -> Option<Release> {
        match self.installed {
            Installed::Known(release) => Some(release),
            Installed::NotAsked | Installed::Unknown(_) => None,
        }
    }

    /// Reads what the data here shows about releases, on another thread: a log of a hundred thousand entries takes a while.
    pub(super) async fn read_data_release(&mut self, paths: &Paths) {
        self.data_release = match paths.inspect() {
            Ok(DataDir::Whole { .. }) => data_release(paths.clone()).await,
            _ => Known::Known(DataRelease::default()),
        };
        if let Known::Unknown(cause) = &self.data_release {
            log::warn!(
                "the etcd releases that ran on this data can't be read: {cause}; etcd itself must judge the data"
            );
        }
    }
}

async fn data_release(paths: Paths) -> Known<DataRelease> {
    let data = paths.data.clone();
    let reading = match file::begin(&data, move || paths.release()) {
        Ok(reading) => tokio::time::timeout(file::PATIENCE, reading).await,
        Err(cause) => return Known::Unknown(cause.to_string()),
    };
    match reading {
        Ok(Ok(Ok(release))) => Known::Known(release),
        Ok(Ok(Err(cause))) => Known::Unknown(cause.to_string()),
        Ok(Err(_)) => Known::Unknown("the thread that read it panicked".to_owned()),
        Err(_) => Known::Unknown(file::mute(file::PATIENCE).to_string()),
    }
}

/// Reads etcd's version; warns about a release with known defects.
pub async fn find_release(program: &Path, version: Output, said: &mut LogOnce) -> Installed {
    let text = match tokio::time::timeout(VERSION_TIMEOUT, version.finish()).await {
        Ok(Ok(text)) => text,
        Ok(Err(cause)) => return Installed::Unknown(format!("{} --version: {cause}", program.display())),
        Err(_) => {
            let seconds = VERSION_TIMEOUT.as_secs();
            return Installed::Unknown(format!("{} --version did not end within {seconds} s", program.display()));
        }
    };
    let Some(release) = read_release(&text) else {
        let shown: String = text.lines().next().unwrap_or_default().chars().take(SHOWN_CHARS).collect();
        return Installed::Unknown(format!("{} --version printed {shown:?}", program.display()));
    };
    if let Some(warning) = defects::warning(release)
        && said.is_news(&warning)
    {
        log::warn!("{warning}");
    }
    Installed::Known(release)
}

/// `etcd Version: 3.5.33`, the first line of `etcd --version`.
fn read_release(text: &str) -> Option<Release> {
    Release::parse(text.lines().find_map(|line| line.strip_prefix("etcd Version: "))?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_read_where_etcd_prints_it() {
        let of = |text| read_release(text).map(|release| release.to_string());
        assert_eq!(of("etcd Version: 3.6.16\nGit SHA: Not provided\n").as_deref(), Some("3.6.16"));
        assert_eq!(of("etcd Version: 3.6.0-rc.1\n").as_deref(), Some("3.6.0"));
        assert_eq!(of("usage: etcd"), None);
        assert_eq!(of("etcd Version: main"), None);
    }
}
