//! Large files, piece by piece on a thread of their own: memory stays flat whatever the size, the main thread never waits for a
//! disk, and what makes progress may take as long as it needs.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_lc_rs::digest;
use hyper::body::Bytes;
use md5::{Digest, Md5};
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::{Notify, mpsc, oneshot};

use super::file::{self, Look};

/// What is read or written at once.
pub const PIECE_BYTES: usize = 128 << 10;
/// How long a file system or a store may make no progress at all. A slow one sends a few hundred KiB in that time, even while
/// the kernel's buffers (up to 4 MiB on a socket) are emptied.
pub const STALL: Duration = Duration::from_secs(60);
/// So many buffers are used in turn: hyper keeps about 400 KiB of a body, and one piece waits.
const BUFFERS: usize = 6;
/// So much is written between two syncs: the last one is then short, and what waits to be written never delays others' syncs
/// on that disk for long.
const SYNC_BYTES: u64 = 32 << 20;

/// Is told how many bytes are done.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// A part of a file: the whole of it, or what one request has of it.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub path: &'a Path,
    pub from: u64,
    pub length: u64,
}

/// A part of a file, read as it is needed. It is exactly as long as it was said to be, or an error.
pub struct Pieces {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    watch: Watch,
}

/// What of [`Pieces`] can be seen by others.
#[derive(Clone)]
pub struct Watch(Arc<(AtomicU64, AtomicBool)>);

impl Watch {
    /// How many bytes were not taken yet.
    pub fn left(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }

    /// Whether a piece was asked for that the file system has not delivered.
    pub fn waits_for_file(&self) -> bool {
        self.0.1.load(Ordering::Relaxed)
    }
}

impl Pieces {
    /// Begins to read.
    ///
    /// # Errors
    /// No thread can be started. All else is an error of a piece.
    pub fn read(part: Part<'_>) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(1);
        let (path, from, length) = (part.path.to_owned(), part.from, part.length);
        file::on_thread(move || {
            if let Err(error) = read_pieces(&path, from, length, &sender) {
                let error = io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                let _nobody_waits = sender.blocking_send(Err(error));
            }
        })?;
        Ok(Self { receiver, watch: Watch(Arc::new((AtomicU64::new(length), AtomicBool::new(false)))) })
    }

    /// How many bytes are still to come.
    pub fn left(&self) -> u64 {
        self.watch.left()
    }

    /// To see from elsewhere how far it is.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// The next piece; `None` after the last.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let (left, waits) = &*self.watch.0;
        if left.load(Ordering::Relaxed) == 0 {
            return Poll::Ready(None);
        }
        waits.store(true, Ordering::Relaxed);
        let piece = ready!(self.receiver.poll_recv(cx));
        waits.store(false, Ordering::Relaxed);
        let piece = piece.unwrap_or_else(|| Err(io::Error::other("its reader panicked")));
        if let Ok(piece) = &piece {
            left.fetch_sub(piece.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(Some(piece))
    }
}

fn read_pieces(path: &Path, from: u64, length: u64, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut file = {
        let _look = Look::begin(path, STALL)?;
        open_at(path, from)?
    };
    let mut used: VecDeque<Bytes> = VecDeque::with_capacity(BUFFERS);
    let mut left = length;
    while left > 0 {
        let oldest = (used.len() == BUFFERS).then(|| used.pop_front()).flatten();
        // The buffer of a piece that nobody has any more.
        let buffer = oldest.and_then(|piece| piece.try_into_mut().ok());
        let Ok(mut buffer) = buffer.map_or_else(|| Bytes::from(vec![0; PIECE_BYTES]).try_into_mut(), Ok) else {
            return Err(io::Error::other("a new buffer is somebody else's"));
        };
        buffer.resize(usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES)), 0);
        {
            // Not held while a slow network is waited for.
            let _look = Look::begin(path, STALL)?;
            file.read_exact(&mut buffer).map_err(shorter)?;
        }
        left -= buffer.len() as u64;
        let piece = buffer.freeze();
        used.push_back(piece.clone());
        if sender.blocking_send(Ok(piece)).is_err() {
            return Ok(()); // nobody wants the rest
        }
    }
    Ok(())
}

fn open_at(path: &Path, from: u64) -> io::Result<File> {
    let mut file = file::open_regular(path)?;
    file.seek(SeekFrom::Start(from))?;
    Ok(file)
}

fn shorter(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::other("it has become shorter"),
        _ => error,
    }
}

/// A work on a thread of its own, seen from there.
pub struct Report {
    look: Look,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    done: AtomicU64,
    moved: Notify,
}

impl Report {
    /// So many bytes are done.
    ///
    /// # Errors
    /// Nobody waits for the work any more: it must end.
    pub fn done(&self, bytes: u64) -> io::Result<()> {
        self.look.moved();
        self.shared.done.store(bytes, Ordering::Relaxed);
        self.shared.moved.notify_one();
        match Arc::strong_count(&self.shared) {
            1 => Err(io::Error::other("nobody waits for it any more")),
            _ => Ok(()),
        }
    }
}

/// Does a work of unknown length with the file system of that path, for as long as it reports progress at least every `stall`.
///
/// # Errors
/// The work's own; the file system does not answer, now or in an earlier access that still hangs; no thread can be started.
pub async fn at_length<T: Send + 'static>(
    path: &Path,
    stall: Duration,
    progress: Progress<'_>,
    work: impl FnOnce(&Report) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let shared = Arc::<Shared>::default();
    let report = Report { look: Look::begin(path, stall)?, shared: shared.clone() };
    let (done, mut outcome) = oneshot::channel();
    file::on_thread(move || {
        let found = work(&report);
        drop(report);
        let _nobody_waits = done.send(found);
    })?;
    loop {
        tokio::select! {
            biased;
            outcome = &mut outcome => {
                // Its last report may not have been passed on, nor any if it was quick.
                progress(shared.done.load(Ordering::Relaxed));
                return outcome.unwrap_or_else(|_| Err(io::Error::other("its thread panicked")));
            }
            () = shared.moved.notified() => progress(shared.done.load(Ordering::Relaxed)),
            () = super::clock::pause(stall) => return Err(file::mute(stall)),
        }
    }
}

/// The digests of a part of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Digests {
    pub sha256: [u8; 32],
    pub md5: [u8; 16],
}

/// Reads a part of a file for its digests.
///
/// # Errors
/// It can't be read, or is shorter.
pub async fn digests(part: Part<'_>) -> io::Result<Digests> {
    let (path, from, length) = (part.path.to_owned(), part.from, part.length);
    at_length(part.path, STALL, &|_| {}, move |report| {
        let (mut sha256, mut md5) = (digest::Context::new(&digest::SHA256), Md5::new());
        read_all(&path, from, length, report, |piece| {
            sha256.update(piece);
            md5.update(piece);
            Ok(())
        })?;
        Ok(Digests { sha256: finish(sha256), md5: md5.finalize().into() })
    })
    .await
}

/// The MD5 of bytes in memory.
pub fn md5_of(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

/// What a file that was written is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    pub size: u64,
    pub sha256: [u8; 32],
}

/// The digest of a whole file. For a thread that may block.
///
/// # Errors
/// It can't be read, or nobody waits any more.
pub fn sha256_of(path: &Path, report: &Report) -> io::Result<[u8; 32]> {
    let length = file::open_regular(path)?.metadata()?.len();
    let mut sha256 = digest::Context::new(&digest::SHA256);
    read_all(path, 0, length, report, |piece| {
        sha256.update(piece);
        Ok(())
    })?;
    Ok(finish(sha256))
}

/// Copies the first `length` bytes of a file to a new one, which is locked (flock(2)) meanwhile. Once this has returned its bytes are on the disk,
/// but not yet its name. For a thread that may block.
///
/// # Errors
/// The kernel refuses, the file is shorter, or nobody waits any more. A file that was begun stays.
pub fn copy(from: &Path, length: u64, to: &Path, mode: u32, report: &Report) -> io::Result<Written> {
    let mut written = create(to, mode)?;
    // Where the file system has no locks nobody finds it unlocked, either.
    let _lock = Flock::lock(written.try_clone()?, FlockArg::LockExclusiveNonblock);
    let (mut sha256, mut unsynced) = (digest::Context::new(&digest::SHA256), 0);
    read_all(from, 0, length, report, |piece| {
        written.write_all(piece)?;
        sha256.update(piece);
        unsynced += piece.len() as u64;
        if unsynced >= SYNC_BYTES {
            written.sync_data()?;
            unsynced = 0;
        }
        Ok(())
    })?;
    written.sync_all()?;
    Ok(Written { size: length, sha256: finish(sha256) })
}

fn read_all(
    path: &Path,
    from: u64,
    length: u64,
    report: &Report,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = open_at(path, from)?;
    let mut buffer = vec![0; PIECE_BYTES];
    let mut done = 0;
    while done < length {
        let size = usize::try_from(length - done).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        file.read_exact(&mut buffer[..size]).map_err(shorter)?;
        each(&buffer[..size])?;
        done += size as u64;
        report.done(done)?;
    }
    Ok(())
}

/// A new file; never one that is there, nor what a link points to.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

fn finish(context: digest::Context) -> [u8; 32] {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(context.finish().as_ref());
    sha256
}

/// A new file that is written as its bytes arrive. Its bytes are not synced: what needs that opens it again.
pub struct Sink {
    pieces: mpsc::Sender<Bytes>,
    /// `None`: its error was told.
    outcome: Option<oneshot::Receiver<io::Result<Written>>>,
}

impl Sink {
    /// Creates the file, only for its owner.
    ///
    /// # Errors
    /// No thread can be started. All else is an error of [`Sink::write`] or [`Sink::finish`].
    pub fn create(path: &Path) -> io::Result<Self> {
        let (pieces, arriving) = mpsc::channel(1);
        let (done, outcome) = oneshot::channel();
        let path = path.to_owned();
        file::on_thread(move || _ = done.send(write_pieces(&path, arriving)))?;
        Ok(Self { pieces, outcome: Some(outcome) })
    }

    /// Hands on the next bytes.
    ///
    /// # Errors
    /// What was handed on before can't be written; the file system does not answer.
    pub async fn write(&mut self, piece: Bytes) -> io::Result<()> {
        match tokio::time::timeout(STALL, self.pieces.send(piece)).await {
            Err(_) => Err(file::mute(STALL)),
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => self.ended().await.and(Err(io::Error::other("its writer ended"))),
        }
    }

    /// What was written.
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub async fn finish(mut self) -> io::Result<Written> {
        let (closed, _) = mpsc::channel(1);
        self.pieces = closed;
        self.ended().await
    }

    async fn ended(&mut self) -> io::Result<Written> {
        let Some(outcome) = self.outcome.take() else { return Err(io::Error::other("its writer has failed")) };
        match tokio::time::timeout(STALL, outcome).await {
            Err(_) => Err(file::mute(STALL)),
            Ok(outcome) => outcome.unwrap_or_else(|_| Err(io::Error::other("its writer panicked"))),
        }
    }
}

fn write_pieces(path: &Path, mut arriving: mpsc::Receiver<Bytes>) -> io::Result<Written> {
    let mut file = {
        let _look = Look::begin(path, STALL)?;
        create(path, 0o600)?
    };
    let (mut sha256, mut size) = (digest::Context::new(&digest::SHA256), 0);
    while let Some(piece) = arriving.blocking_recv() {
        let _look = Look::begin(path, STALL)?;
        file.write_all(&piece)?;
        sha256.update(&piece);
        size += piece.len() as u64;
    }
    Ok(Written { size, sha256: finish(sha256) })
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::util::scratch::Scratch;

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), work).await }).expect("an end")
    }

    async fn read(path: &Path, from: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut pieces = Pieces::read(Part { path, from, length })?;
        let mut all = Vec::new();
        while let Some(piece) = poll_fn(|cx| pieces.poll_next(cx)).await {
            let piece = piece?;
            assert!(piece.len() <= PIECE_BYTES);
            all.extend_from_slice(&piece);
        }
        assert_eq!(pieces.left(), 0);
        Ok(all)
    }

    #[test]
    fn a_part_is_read_as_it_stands_whatever_its_pieces() {
        let scratch = Scratch::make();
        let text: String = (0..300_000).map(|number| format!("{number:x}.")).collect();
        let path = scratch.write("file", &text);
        let (text, length) = (text.as_bytes(), text.len());
        for (from, to) in [(0, length), (0, 0), (7, 8), (PIECE_BYTES - 1, 9 * PIECE_BYTES + 3), (length - 1, length)] {
            assert!(run(read(&path, from as u64, (to - from) as u64)).unwrap() == text[from..to], "{from} to {to}");
        }
        let said = run(read(&path, 1, length as u64)).unwrap_err().to_string();
        assert!(said.ends_with("file: it has become shorter"), "{said}");
        let part = Part { path: &path, from: 3, length: 1_000_000 };
        let digests = run(digests(part)).unwrap();
        assert_eq!(digests.md5, md5_of(&text[3..1_000_003]));
        assert_eq!(digests.sha256[..], *aws_lc_rs::digest::digest(&digest::SHA256, &text[3..1_000_003]).as_ref());
    }

    #[test]
    fn pieces_that_are_kept_are_not_written_over() {
        let scratch = Scratch::make();
        let text: String = (0..BUFFERS * 3 * PIECE_BYTES).map(|at| (b'a' + (at / PIECE_BYTES) as u8) as char).collect();
        let path = scratch.write("file", &text);
        let kept = run(async {
            let mut pieces = Pieces::read(Part { path: &path, from: 0, length: text.len() as u64 }).unwrap();
            let mut kept = Vec::new();
            while let Some(piece) = poll_fn(|cx| pieces.poll_next(cx)).await {
                kept.push(piece.unwrap());
            }
            kept
        });
        assert!(kept.concat() == text.as_bytes());
    }

    #[test]
    fn a_work_that_moves_is_waited_for_and_one_that_hangs_is_not() {
        let scratch = Scratch::make();
        let path = scratch.write("file", "x");
        let stall = Duration::from_millis(200);
        let moves = move |report: &Report| {
            let began = super::super::clock::now();
            let mut done = 0;
            while super::super::clock::now() - began < stall * 3 {
                std::thread::yield_now();
                done += 1;
                report.done(done)?;
            }
            Ok("moved")
        };
        assert_eq!(run(at_length(&path, stall, &|_| {}, moves)).unwrap(), "moved");
        let (mend, broken) = std::sync::mpsc::channel::<()>();
        let hangs = move |_: &Report| Ok(broken.recv().is_err());
        let said = run(at_length(&path, stall, &|_| {}, hangs)).unwrap_err();
        assert_eq!(said.kind(), io::ErrorKind::TimedOut);
        let (begun, is_begun) = std::sync::mpsc::channel();
        let again = run(at_length(&path, stall, &|_| {}, move |_| Ok(begun.send(()))));
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(is_begun.recv().is_err(), "not even begun");
        drop(mend);
    }

    #[test]
    fn a_work_that_nobody_waits_for_ends() {
        let scratch = Scratch::make();
        let path = scratch.write("file", "x");
        let (ended, end) = std::sync::mpsc::channel();
        let endless = move |report: &Report| -> io::Result<()> {
            loop {
                if let Err(error) = report.done(1) {
                    ended.send(error.to_string()).unwrap();
                    return Err(error);
                }
            }
        };
        run(async {
            let work = at_length(&path, Duration::from_secs(60), &|_| {}, endless);
            assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
        });
        assert_eq!(end.recv_timeout(Duration::from_secs(60)).unwrap(), "nobody waits for it any more");
    }

    #[test]
    fn what_arrives_is_written_to_a_new_file_only() {
        let scratch = Scratch::make();
        let path = scratch.path().join("file");
        let write = async |path: &Path, text: &'static str| {
            let mut sink = Sink::create(path)?;
            for piece in text.as_bytes().chunks(2) {
                sink.write(Bytes::from_static(piece)).await?;
            }
            sink.finish().await
        };
        let written = run(write(&path, "what arrives")).unwrap();
        assert_eq!(written.size, 12);
        assert_eq!(written.sha256[..], *aws_lc_rs::digest::digest(&digest::SHA256, b"what arrives").as_ref());
        assert_eq!(run(write(&path, "and again what arrives")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        std::os::unix::fs::symlink(scratch.path().join("elsewhere"), scratch.path().join("link")).unwrap();
        assert!(run(write(&scratch.path().join("link"), "x")).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"what arrives");
    }
}
