//! Signals: blocked from the first instruction until the handlers are set, so that none is lost and none kills PID 1 before it
//! is ready.

use std::io;
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use tokio::io::AsyncReadExt;

const HANDLED: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD];

/// Makes a closed pipe end the program, quietly, as for every other tool (`etcd-muster discover | head`).
///
/// # Errors
/// The kernel refuses.
#[expect(unsafe_code, reason = "the default disposition runs no code of ours")]
pub fn end_by_closed_pipe() -> io::Result<()> {
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}

/// The blocked signals; not yet handled.
#[derive(Debug)]
pub struct Blocked(());

/// Blocks the signals that will be handled. Call before any thread starts: threads inherit the mask and keep it.
///
/// # Errors
/// The kernel refuses.
pub fn block() -> io::Result<Blocked> {
    SigSet::from_iter(HANDLED).thread_block()?;
    Ok(Blocked(()))
}

/// Where a separate thread reads the same signals as [`Stop`].
pub type StopToo = UnixStream;

impl Blocked {
    /// Restores the signals' default actions; for commands that supervise nothing.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn release(self) -> io::Result<()> {
        Ok(SigSet::from_iter(HANDLED).thread_unblock()?)
    }

    /// Sets the handlers, then lets this thread receive the ends of children. Call inside the runtime, on the main thread. Only
    /// a thread that calls [`take_stops`] receives a stop: the kernel gives a signal to the main thread first, even to one that
    /// hangs (signal(7), `complete_signal` in Linux's kernel/signal.c).
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn handle(self) -> io::Result<(Stop, ChildExits, StopToo)> {
        let (stop, term) = watch(SIGTERM)?;
        pipe::register(SIGINT, term)?;
        let (children, _) = watch(SIGCHLD)?;
        let (too, write) = UnixStream::pair()?;
        pipe::register(SIGTERM, write.try_clone()?)?;
        pipe::register(SIGINT, write)?;
        SigSet::from_iter([Signal::SIGCHLD]).thread_unblock()?;
        Ok((Stop(stop), ChildExits(children), too))
    }
}

/// Lets this thread receive the signals that request a stop.
///
/// # Errors
/// The kernel refuses.
pub(super) fn take_stops() -> io::Result<()> {
    Ok(SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]).thread_unblock()?)
}

fn watch(signal: i32) -> io::Result<(tokio::net::UnixStream, UnixStream)> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    let another = write.try_clone()?;
    pipe::register(signal, write)?;
    Ok((tokio::net::UnixStream::from_std(read)?, another))
}

/// Wakes at SIGTERM or SIGINT.
#[derive(Debug)]
pub struct Stop(tokio::net::UnixStream);

impl Stop {
    /// Resolves at the next signal. Cancel-safe.
    pub async fn signal(&mut self) {
        next(&mut self.0).await;
    }
}

/// Wakes at SIGCHLD.
#[derive(Debug)]
pub struct ChildExits(tokio::net::UnixStream);

impl ChildExits {
    /// Resolves when a child may have ended. Cancel-safe.
    pub(super) async fn next(&mut self) {
        next(&mut self.0).await;
    }
}

async fn next(stream: &mut tokio::net::UnixStream) {
    let mut wakes = [0; 64];
    // The write end lives in the handler for ever: neither an end nor an error occurs here.
    if !matches!(stream.read(&mut wakes).await, Ok(1..)) {
        std::future::pending::<()>().await;
    }
}
