//! Operators' files, read within bounds of kind, size and time; and what follows from a file system's errors.
//!
//! A pipe has no end, a device may do anything, and a mount whose server is gone never answers: none of them may block a thread
//! that signals and probes wait for.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use tokio::sync::oneshot;

use crate::util::clock;
use crate::util::lock::lock;

/// Far above any certificate chain, list of hosts, password or ledger; far below what would hurt.
pub const MOST_BYTES: u64 = 1 << 20;
/// Less than the shortest limit for a reader of files (5 s, for a first observation or a peer's call), so that the error can
/// name the file.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Enough for parsing certificates; a thread's default is 2 MiB.
const STACK_BYTES: usize = 256 << 10;

/// A regular file of at most [`MOST_BYTES`], completely. Blocks as long as its file system does, so never use it on the main
/// thread; use [`fetch`] there.
///
/// # Errors
/// The kernel refuses; the file is of another kind, or larger.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("it is larger than {} MiB", MOST_BYTES >> 20)));
    }
    Ok(bytes)
}

/// Opens a regular file for reading, and nothing else. Blocks as [`read`] does.
///
/// # Errors
/// The kernel refuses; the file is of another kind.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    // Checked before it is opened: opening a pipe would wait for its writer, and a device may react to it.
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() {
        let what = match kind {
            _ if kind.is_dir() => "a directory",
            _ if kind.is_fifo() => "a pipe",
            _ if kind.is_socket() => "a socket",
            _ => "a device",
        };
        return Err(io::Error::other(format!("it is {what}, not a regular file")));
    }
    // What has replaced it since must not block either.
    OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

/// The same on another thread, for at most [`PATIENCE`], where no runtime is there yet.
///
/// # Errors
/// As [`read`]; and the file system does not answer.
pub fn read_patiently(path: &Path) -> io::Result<Vec<u8>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let owned = path.to_owned();
    // Who no longer waits does not hear of it.
    on_thread(move || _ = sender.send(read(&owned)))?;
    receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(mute(PATIENCE)))
}

/// The same on another thread, for at most [`PATIENCE`]. Cancel-safe.
///
/// # Errors
/// As [`read`]; and the file system does not answer.
pub async fn fetch(path: &Path) -> io::Result<Vec<u8>> {
    let owned = path.to_owned();
    aside(path, move || read(&owned)).await?
}

/// The same, as text.
///
/// # Errors
/// As [`fetch`]; and the bytes are not UTF-8.
pub async fn fetch_text(path: &Path) -> io::Result<String> {
    String::from_utf8(fetch(path).await?).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

/// Accesses that path on another thread, and waits for at most [`PATIENCE`]. Cancel-safe: what was begun completes, or hangs,
/// by itself.
///
/// The thread is not the runtime's: it may hang for ever, and the runtime would wait for its own threads at the end, and panics
/// if it can't start one.
///
/// # Errors
/// The file system does not answer, now or in an earlier access that still hangs; or no thread can be started.
pub async fn aside<T: Send + 'static>(path: &Path, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    aside_within(PATIENCE, path, work).await
}

/// The same, for at most that long.
///
/// # Errors
/// As [`aside`].
pub async fn aside_within<T: Send + 'static>(
    patience: Duration,
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    match tokio::time::timeout(patience, begin_within(patience, path, work)?).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(_)) => Err(io::Error::other("its reader panicked")),
        Err(_) => Err(mute(patience)),
    }
}

/// Begins to access that path, for a caller that waits longer than [`aside`] does.
///
/// # Errors
/// As [`aside`].
pub fn begin<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    begin_within(PATIENCE, path, work)
}

fn begin_within<T: Send + 'static>(
    patience: Duration,
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let look = Look::begin(path, patience)?;
    let (done, outcome) = oneshot::channel();
    #[cfg(test)]
    let reading = paused_time::hold();
    on_thread(move || {
        let found = work();
        drop(look);
        let _nobody_waits = done.send(found);
        #[cfg(test)]
        drop(reading);
    })?;
    Ok(outcome)
}

/// For tests in paused time, which advances whenever nothing but a timer is waited for: not while a file is being read.
#[cfg(test)]
pub mod paused_time {
    use std::cell::Cell;
    use std::sync::mpsc::{Sender, channel};

    thread_local! {
        static STANDS_STILL: Cell<bool> = const { Cell::new(false) };
    }

    /// From now on, for what this thread begins to read.
    pub fn stand_still_while_reading() {
        STANDS_STILL.set(true);
    }

    /// Until it is dropped. (tokio does not advance paused time while a blocking task runs.)
    pub(super) fn hold() -> Option<Sender<()>> {
        if !STANDS_STILL.get() || tokio::runtime::Handle::try_current().is_err() {
            return None;
        }
        let (reading, is_read) = channel();
        tokio::task::spawn_blocking(move || _ = is_read.recv());
        Some(reading)
    }
}

/// A thread that may hang for ever: nobody waits for its end.
pub(crate) fn on_thread(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("file".to_owned()).stack_size(STACK_BYTES);
    thread.spawn(work).map(drop)
}

/// The file system has not answered for so long.
pub fn mute(patience: Duration) -> io::Error {
    let line = format!("it did not answer within {} s (a dead mount?)", patience.as_secs_f64());
    io::Error::new(io::ErrorKind::TimedOut, line)
}

/// The accesses in progress, by path. While one hangs, no other is started there: each would be one more thread that hangs.
static LOOKS: Mutex<BTreeMap<PathBuf, Looks>> = Mutex::new(BTreeMap::new());

struct Looks {
    count: u32,
    /// Since the last sign of life there.
    since: Instant,
}

/// One access in progress; it ends when this is dropped.
pub(super) struct Look(PathBuf);

impl Look {
    /// # Errors
    /// An earlier access there has hung for longer than `patience`.
    pub(super) fn begin(path: &Path, patience: Duration) -> io::Result<Self> {
        let mut all = looks();
        let looks = all.entry(path.to_owned()).or_insert_with(|| Looks { count: 0, since: clock::now() });
        if clock::now() - looks.since > patience {
            return Err(mute(patience));
        }
        looks.count += 1;
        Ok(Self(path.to_owned()))
    }

    /// The file system has answered just now, in a work that goes on.
    pub(super) fn moved(&self) {
        if let Some(looks) = looks().get_mut(&self.0) {
            looks.since = clock::now();
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        let mut all = looks();
        if let Some(looks) = all.get_mut(&self.0) {
            looks.count -= 1;
            looks.since = clock::now();
            if looks.count == 0 {
                all.remove(&self.0);
            }
        }
    }
}

fn looks() -> MutexGuard<'static, BTreeMap<PathBuf, Looks>> {
    lock(&LOOKS)
}

// What follows from a file system's error.

/// Whether it can pass by itself, or once an operator has made room: not a reason to exit, because nothing would start us
/// again.
pub fn may_pass(error: &io::Error) -> bool {
    use Errno::{EAGAIN, EDQUOT, EINTR, EIO, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC, ESTALE, ETIMEDOUT, ETXTBSY};
    match errno(error) {
        Some(
            EAGAIN | EDQUOT | EINTR | EIO | EMFILE | ENFILE | ENOBUFS | ENOMEM | ENOSPC | ESTALE | ETIMEDOUT | ETXTBSY,
        ) => true,
        Some(_) => false,
        None => error.kind() == io::ErrorKind::TimedOut,
    }
}

/// What an operator can do about it; `None`: only the error's own text helps.
pub fn way_out(error: &io::Error, path: &Path) -> Option<String> {
    Some(match errno(error) {
        Some(Errno::ENOSPC | Errno::EDQUOT) => "free some space on that volume".to_owned(),
        Some(Errno::EMFILE) => "raise the limit of open files (LimitNOFILE=, --ulimit nofile)".to_owned(),
        Some(Errno::ENFILE) => "raise this host's limit of open files (sysctl fs.file-max)".to_owned(),
        Some(Errno::ENOMEM | Errno::ENOBUFS) => "free some memory on this host".to_owned(),
        Some(Errno::EAGAIN) => "raise the limit of processes (TasksMax=, --pids-limit), or free some memory".to_owned(),
        Some(Errno::ETXTBSY) => "another process is writing it; retrying until it is done".to_owned(),
        Some(Errno::EIO) => "check that disk (dmesg)".to_owned(),
        Some(Errno::ESTALE | Errno::ETIMEDOUT) => "look at that mount".to_owned(),
        Some(Errno::EROFS) => "mount that volume writable".to_owned(),
        Some(Errno::EACCES | Errno::EPERM) => {
            let uid = nix::unistd::geteuid();
            // A file that does not exist can't be given to a user.
            let there = path.ancestors().find(|above| above.exists()).unwrap_or(path).display();
            format!("make it readable and writable for uid {uid} (chown -R {uid} {there})")
        }
        None if error.kind() == io::ErrorKind::TimedOut => "look at that mount".to_owned(),
        _ => return None,
    })
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("etcd-muster-file-{name}-{}", clock::random()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn only_a_regular_file_of_a_sane_size_is_read() {
        let dir = scratch("kinds");
        let place = |name: &str| dir.join(name);
        nix::unistd::mkfifo(&place("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(place("socket")).unwrap();
        fs::write(place("large"), vec![b' '; MOST_BYTES as usize + 1]).unwrap();
        fs::write(place("largest"), vec![b' '; MOST_BYTES as usize]).unwrap();
        for (path, words) in [
            (place("pipe"), "it is a pipe, not a regular file"),
            (place("socket"), "it is a socket, not a regular file"),
            (dir.clone(), "it is a directory, not a regular file"),
            ("/dev/zero".into(), "it is a device, not a regular file"),
            (place("large"), "it is larger than 1 MiB"),
            (place("none"), "No such file"),
        ] {
            let said = run(fetch(&path)).unwrap_err().to_string();
            assert!(said.starts_with(words), "{}: {said}", path.display());
        }
        assert_eq!(run(fetch(&place("largest"))).unwrap().len() as u64, MOST_BYTES);
    }

    #[test]
    fn who_hangs_is_waited_for_once_and_nobody_is_sent_after_him() {
        let path = scratch("hangs").join("dead");
        let (mend, broken) = std::sync::mpsc::channel::<()>();
        let patience = Duration::from_millis(10);
        let said = run(aside_within(patience, &path, move || broken.recv().is_err())).unwrap_err();
        assert!(said.to_string().contains("within 0.01 s (a dead mount?)") && may_pass(&said), "{said}");
        let (begun, is_begun) = std::sync::mpsc::channel();
        let again = run(aside_within(patience, &path, move || begun.send(())));
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(is_begun.recv().is_err(), "not even begun");
        drop(mend);
        let deadline = clock::now() + Duration::from_secs(60);
        while looks().contains_key(&path) {
            assert!(clock::now() < deadline);
            std::thread::yield_now();
        }
        assert_eq!(run(aside(&path, || 2)).unwrap(), 2, "it lives again");
    }

    #[test]
    fn what_passes_and_what_an_operator_must_mend() {
        let path = Path::new("/nonexistent/data");
        for passes in [28, 122, 24, 23, 11, 12, 26, 5] {
            let error = io::Error::from_raw_os_error(passes);
            assert!(may_pass(&error) && way_out(&error, path).is_some(), "{error}");
        }
        for stays in [libc_errno(Errno::EACCES), libc_errno(Errno::EPERM), libc_errno(Errno::EROFS)] {
            assert!(!may_pass(&stays) && way_out(&stays, path).is_some(), "{stays}");
        }
        let denied = way_out(&libc_errno(Errno::EACCES), path).unwrap();
        assert!(denied.contains("(chown -R ") && denied.ends_with(" /)"), "the nearest that is there: {denied}");
        for other in [Errno::ENOENT, Errno::ENOTDIR, Errno::ENOEXEC] {
            assert!(!may_pass(&libc_errno(other)) && way_out(&libc_errno(other), path).is_none());
        }
    }

    fn libc_errno(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno as i32)
    }
}
