//! Files that somebody else put there, read within bounds of kind, size and time; and what follows from a file system's no.
//!
//! A pipe has no end, a device may do anything, and a mount whose server is gone answers never: none of them may hold up a thread
//! that signals and probes wait for.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use tokio::sync::oneshot;

use crate::util::clock;

/// Far above any certificate chain, list of hosts, password or ledger; far below what would hurt.
pub const MOST_BYTES: u64 = 1 << 20;
/// Less than whoever reads a file is waited for himself (5 s for a first look, or a caller of the roll call): it is the file that is
/// to be named then.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// For the parsing of certificates; a thread's default would be 2 MiB.
const STACK_BYTES: usize = 256 << 10;

/// A regular file of at most [`MOST_BYTES`], whole. Blocks as long as its file system does, so never on the main thread: there it is
/// [`fetch`].
///
/// # Errors
/// The kernel's; a file of another kind, or a larger one.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Looked at before it is opened: to open a pipe would wait for its writer, and a device may act on it.
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
    // What has taken its place since then must not block either.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("it is larger than {} MiB", MOST_BYTES >> 20)));
    }
    Ok(bytes)
}

/// The same beside the main thread, waited for no longer than [`PATIENCE`]. Cancel-safe.
///
/// # Errors
/// As [`read`]; and a file system that doesn't answer.
pub async fn fetch(path: &Path) -> io::Result<Vec<u8>> {
    let owned = path.to_owned();
    aside(path, move || read(&owned)).await?
}

/// The same as text.
///
/// # Errors
/// As [`fetch`]; and bytes that are no UTF-8.
pub async fn fetch_text(path: &Path) -> io::Result<String> {
    String::from_utf8(fetch(path).await?).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

/// Does what looks at that path beside the main thread, and waits for it no longer than [`PATIENCE`]. Cancel-safe: what was begun is
/// done, or hangs, without anybody.
///
/// A thread of its own, not the runtime's: it may hang for ever, and the runtime would wait for its own at the end, and panics where
/// there can be no more.
///
/// # Errors
/// A file system that doesn't answer, now or to one who asked before; a thread that can't be had.
pub async fn aside<T: Send + 'static>(path: &Path, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    aside_within(PATIENCE, path, work).await
}

async fn aside_within<T: Send + 'static>(
    patience: Duration,
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    match tokio::time::timeout(patience, begin_within(patience, path, work)?).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(_)) => Err(io::Error::other("its reader panicked")),
        Err(_) => Err(mute()),
    }
}

/// Begins what looks at that path, for whoever waits for it longer than [`aside`] does.
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
    let thread = std::thread::Builder::new().name("file".to_owned()).stack_size(STACK_BYTES);
    thread.spawn(move || {
        let found = work();
        drop(look);
        let _nobody_waits = done.send(found);
    })?;
    Ok(outcome)
}

/// Nothing was heard of a file system for [`PATIENCE`].
pub fn mute() -> io::Error {
    let line = format!("it did not answer within {} s (a dead mount?)", PATIENCE.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, line)
}

/// Who looks at which path now. While one hangs there, no other is sent after it: each would be one more thread that hangs.
static LOOKS: Mutex<BTreeMap<PathBuf, Looks>> = Mutex::new(BTreeMap::new());

struct Looks {
    count: u32,
    /// Since the last sign of life there.
    since: Instant,
}

struct Look(PathBuf);

impl Look {
    fn begin(path: &Path, patience: Duration) -> io::Result<Self> {
        let mut all = looks();
        let looks = all.entry(path.to_owned()).or_insert_with(|| Looks { count: 0, since: clock::now() });
        if clock::now() - looks.since > patience {
            return Err(mute());
        }
        looks.count += 1;
        Ok(Self(path.to_owned()))
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
    LOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

// What follows from a no.

/// Whether it passes by itself, or once somebody has made room: no reason to end over, for nobody would start us again.
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

/// What an operator can do about it; `None`: the error's own words must do.
pub fn way_out(error: &io::Error, path: &Path) -> Option<String> {
    Some(match errno(error) {
        Some(Errno::ENOSPC | Errno::EDQUOT) => "free some space on that volume".to_owned(),
        Some(Errno::EMFILE) => "raise the limit of open files (LimitNOFILE=, --ulimit nofile)".to_owned(),
        Some(Errno::ENFILE) => "raise this host's limit of open files (sysctl fs.file-max)".to_owned(),
        Some(Errno::ENOMEM | Errno::ENOBUFS) => "free some memory on this host".to_owned(),
        Some(Errno::EAGAIN) => "raise the limit of processes (TasksMax=, --pids-limit), or free some memory".to_owned(),
        Some(Errno::ETXTBSY) => "somebody is writing it; it is tried again until that is done".to_owned(),
        Some(Errno::EIO) => "look at that disk (dmesg)".to_owned(),
        Some(Errno::ESTALE | Errno::ETIMEDOUT) => "look at that mount".to_owned(),
        Some(Errno::EROFS) => "mount that volume writable".to_owned(),
        Some(Errno::EACCES | Errno::EPERM) => {
            let uid = nix::unistd::geteuid();
            // What isn't there yet can't be given to anybody.
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

// Durability.

/// Makes a directory's entries durable.
///
/// # Errors
/// The kernel's.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a directory and those above it, durably: a name is its parent's to keep (fsync(2)). One that is there already may be of a
/// start that a power cut ended before its parent was synced, so its own parent is synced in any case.
///
/// # Errors
/// The kernel's. A parent that we may not read is left to whoever owns it.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    let parents: Vec<&Path> = keepers(dir, Path::exists).collect();
    fs::create_dir_all(dir)?;
    for parent in parents {
        match sync_dir(parent) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// The directories that keep the names of this one and of those above it that are still to be made.
fn keepers(dir: &Path, exists: impl Fn(&Path) -> bool) -> impl Iterator<Item = &Path> {
    let missing = dir.ancestors().take_while(|above| !exists(above)).count().max(1);
    dir.ancestors().skip(1).take(missing).map(|above| if above.as_os_str().is_empty() { Path::new(".") } else { above })
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
        assert!(said.to_string().contains("within 3 s (a dead mount?)") && may_pass(&said), "{said}");
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

    #[test]
    fn the_parents_of_new_directories_are_synced() {
        let there = |above: &Path| above == Path::new("/a") || above == Path::new("/");
        let of = |dir: &'static str| keepers(Path::new(dir), there).map(Path::to_owned).collect::<Vec<_>>();
        assert_eq!(of("/a/b/c"), [Path::new("/a/b"), Path::new("/a")]);
        assert_eq!(of("/a"), [Path::new("/")], "it may be there and not yet kept");
        assert_eq!(of("/"), Vec::<PathBuf>::new());
        let relative = keepers(Path::new("b"), |above| above.as_os_str().is_empty());
        assert_eq!(relative.collect::<Vec<_>>(), [Path::new(".")]);
        let new = scratch("made").join("x/y");
        make_dir(&new).unwrap();
        make_dir(&new).unwrap();
        assert!(new.is_dir());
    }
}
