//! The last decisions on disk, each with the evidence it rested on, so that they outlive the supervisor. A record for people: nothing depends on it.
//!
//! Nobody waits for that disk: lines wait in a bounded queue for a thread that lives only as long as there is something to write.
//! They are not synced, because a sync of ours on etcd's disk delays etcd's own.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::util::file;
use crate::util::lock::lock;
use crate::util::words;

/// Below the supervisor's own directory.
pub const JOURNAL: &str = "journal";
const CURRENT: &str = "decisions.jsonl";
/// What came before it, of the same size at most.
const EARLIER: &str = "decisions.1.jsonl";
/// Of each of the two: a thousand decisions of a fleet of five.
const MOST_BYTES: u64 = 256 << 10;
/// More than one event makes. If the disk hangs, further ones are dropped, and counted in the next one that is written.
const MOST_WAITING: usize = 256;
/// Of the instances and members of one decision, so many are recorded, each in so many characters.
const MOST_SEEN: usize = 64;
const LONGEST_SEEN: usize = 160;
/// How long the rest is written at the end.
const FLUSH_WITHIN: Duration = Duration::from_millis(200);

/// What each instance, and each member that matters, was seen as.
pub type Seen = BTreeMap<String, String>;

/// A decision.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub at: String,
    /// Who decided: a disk may have been another's before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    pub step: String,
    pub kind: String,
    pub reason: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seen: Seen,
    /// Decisions before this one that were not written, because the disk did not keep up.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What was seen, bounded and safe to show.
pub fn bounded(seen: impl Iterator<Item = (String, String)>) -> Seen {
    let fit = |text: &str| words::on_one_line(text).chars().take(LONGEST_SEEN).collect::<String>();
    seen.take(MOST_SEEN).map(|(who, what)| (fit(&who), fit(&what))).collect()
}

/// A handle; all its clones write the same files.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    queue: Mutex<Queue>,
    /// A line was written, or could not be.
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Entry>,
    is_writing: bool,
    dropped: u64,
    /// The disk's trouble was logged.
    has_complained: bool,
}

impl Journal {
    /// One in that directory, whose parent exists; it is created with the first line.
    pub fn new(dir: PathBuf) -> Self {
        Self(Arc::new(Inner { dir, queue: Mutex::default(), moved: Condvar::new() }))
    }

    /// Writes it soon. Never waits, and never fails.
    pub fn write(&self, entry: Entry) {
        let mut queue = lock(&self.0.queue);
        if queue.waiting.len() == MOST_WAITING {
            queue.dropped += 1;
            return;
        }
        let dropped = std::mem::take(&mut queue.dropped);
        queue.waiting.push_back(Entry { dropped, ..entry });
        if queue.is_writing {
            return;
        }
        queue.is_writing = true;
        let inner = self.0.clone();
        // Without a thread now, the next decision tries again.
        queue.is_writing = file::on_thread(move || inner.write_all()).is_ok();
    }

    /// Waits a moment until everything is written.
    pub fn flush(&self) {
        let is_busy = |queue: &mut Queue| queue.is_writing;
        let _either_way = self.0.moved.wait_timeout_while(lock(&self.0.queue), FLUSH_WITHIN, is_busy);
    }
}

impl Inner {
    /// Until nothing is left.
    fn write_all(&self) {
        loop {
            let mut queue = lock(&self.queue);
            let Some(entry) = queue.waiting.pop_front() else {
                queue.is_writing = false;
                drop(queue);
                self.moved.notify_all();
                return;
            };
            drop(queue);
            let outcome = append(&self.dir, &entry);
            let had_complained = std::mem::replace(&mut lock(&self.queue).has_complained, outcome.is_err());
            if let Err(error) = outcome
                && !had_complained
            {
                let path = self.dir.join(CURRENT);
                let way_out = file::way_out(&error, &path).unwrap_or_else(|| "look at that path".to_owned());
                log::warn!(
                    "{} can't be written: {error}; {way_out}; decisions are not kept until then",
                    path.display()
                );
            }
        }
    }
}

fn append(dir: &Path, entry: &Entry) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let path = dir.join(CURRENT);
    let json = serde_json::to_string(entry).map_err(io::Error::other)?;
    let line = words::escaped(&json).into_owned() + "\n";
    let length = fs::metadata(&path).map_or(0, |found| found.len());
    if length > 0 && length + line.len() as u64 > MOST_BYTES {
        fs::rename(&path, dir.join(EARLIER))?;
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
    // A full disk, or an end of the power, may have left half a line: it must not take this one with it.
    let line = if ends_within_a_line(&mut file)? { format!("\n{line}") } else { line };
    file.write_all(line.as_bytes())
}

fn ends_within_a_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// The decisions that are kept there, the latest last; what is no line of ours is left out. Blocks as long as that disk does.
///
/// # Errors
/// A file is there and can't be read, with its path.
pub fn read(dir: &Path) -> Result<Vec<Entry>, (PathBuf, io::Error)> {
    let mut entries = Vec::new();
    for name in [EARLIER, CURRENT] {
        let path = dir.join(name);
        match file::read(&path) {
            Ok(bytes) => {
                let lines = bytes.split(|byte| *byte == b'\n');
                entries.extend(lines.filter_map(|line| serde_json::from_slice::<Entry>(line).ok()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err((path, error)),
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;
    use crate::util::clock;
    use crate::util::scratch::Scratch;

    fn entry(reason: &str) -> Entry {
        Entry { step: "hold".to_owned(), kind: "spare".to_owned(), reason: reason.to_owned(), ..Entry::default() }
    }

    /// Everything that was given to it is written, or was refused.
    fn settle(journal: &Journal) {
        let is_busy = |queue: &mut Queue| queue.is_writing;
        let bound = Duration::from_secs(30);
        let settled = journal.0.moved.wait_timeout_while(lock(&journal.0.queue), bound, is_busy).unwrap();
        assert!(!settled.1.timed_out());
    }

    fn reasons(dir: &Path) -> Vec<String> {
        read(dir).unwrap().into_iter().map(|entry| entry.reason).collect()
    }

    #[test]
    fn it_has_at_most_two_files_of_a_quarter_mebibyte_and_the_latest_lines() {
        let scratch = Scratch::make();
        let dir = scratch.path().join(JOURNAL);
        let journal = Journal::new(dir.clone());
        let seen = bounded((0..1000).map(|n| (format!("i-{n:04}"), "x".repeat(1000))));
        assert_eq!(seen.len(), MOST_SEEN);
        for n in 0..200 {
            journal.write(Entry { seen: seen.clone(), ..entry(&n.to_string()) });
            settle(&journal);
        }
        let mut sizes: Vec<_> = fs::read_dir(&dir).unwrap().map(|found| found.unwrap().metadata().unwrap()).collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|found| found.len() <= MOST_BYTES && found.permissions().mode() & 0o777 == 0o600));
        sizes.retain(|found| found.len() > MOST_BYTES / 2);
        assert!(!sizes.is_empty(), "it is used");
        let kept = reasons(&dir);
        let first: usize = kept[0].parse().unwrap();
        assert!(first > 0 && kept == (first..200).map(|n| n.to_string()).collect::<Vec<_>>(), "{kept:?}");
    }

    #[test]
    fn half_a_line_is_skipped_and_takes_no_other_with_it() {
        let scratch = Scratch::make();
        let journal = Journal::new(scratch.path().to_owned());
        journal.write(entry("before"));
        settle(&journal);
        let path = scratch.path().join(CURRENT);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], &whole[..whole.len() / 2]].concat()).unwrap();
        assert_eq!(reasons(scratch.path()), ["before"]);
        journal.write(entry("after"));
        settle(&journal);
        assert_eq!(reasons(scratch.path()), ["before", "after"]);
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let scratch = Scratch::make();
        let path = scratch.path().join(CURRENT);
        symlink("/dev/full", &path).unwrap();
        let journal = Journal::new(scratch.path().to_owned());
        journal.write(entry("lost"));
        settle(&journal);
        assert!(lock(&journal.0.queue).has_complained);
        fs::remove_file(&path).unwrap();
        journal.write(entry("kept"));
        settle(&journal);
        assert_eq!(reasons(scratch.path()), ["kept"]);
        assert!(!lock(&journal.0.queue).has_complained, "and would be said again");
        let nowhere = Journal::new(scratch.path().join("none").join("below"));
        nowhere.write(entry("lost"));
        settle(&nowhere);
        assert!(lock(&nowhere.0.queue).has_complained);
    }

    /// A pipe that is full and that nobody reads: a write hangs, as one to a dead mount does.
    #[test]
    fn a_hanging_disk_is_not_waited_for_and_what_it_cost_is_told_later() {
        let scratch = Scratch::make();
        let path = scratch.path().join(CURRENT);
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
        let mut pipe = OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(&path).unwrap();
        let journal = Journal::new(scratch.path().to_owned());
        let seen = bounded((0..MOST_SEEN).map(|n| (n.to_string(), "x".repeat(LONGEST_SEEN))));
        for n in 0..3 * MOST_WAITING {
            journal.write(Entry { seen: seen.clone(), ..entry(&n.to_string()) });
        }
        journal.flush();
        let dropped = lock(&journal.0.queue).dropped;
        assert!(lock(&journal.0.queue).is_writing && dropped >= MOST_WAITING as u64, "{dropped}");
        let deadline = clock::now() + Duration::from_secs(30);
        while lock(&journal.0.queue).is_writing {
            assert!(clock::now() < deadline);
            if pipe.read(&mut [0; 4096]).is_err() {
                std::thread::yield_now();
            }
        }
        fs::remove_file(&path).unwrap();
        journal.write(entry("after"));
        settle(&journal);
        let last = read(scratch.path()).unwrap().pop().unwrap();
        assert_eq!((last.reason.as_str(), last.dropped), ("after", dropped));
    }
}
