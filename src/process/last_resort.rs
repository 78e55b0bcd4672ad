//! A stop that works even if the main thread hangs in the kernel, on a file system that never answers, where it handles no
//! signal.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::reaper::Reaper;
use super::signals::take_stops;
use crate::util::exit::{Code, Failure, conclude};

/// How long the main thread may take to react to a stop and to ask the child to end: it hands over leadership first, which has
/// a shorter limit.
const OBEY_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// Whether the main thread has done its part of a stop: it then only waits for the child.
#[derive(Clone, Debug, Default)]
pub struct Obeyed(Arc<AtomicBool>);

impl Obeyed {
    /// The child was asked to end, or there is none.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// From now on a separate thread receives the signals that request a stop, through this pipe; the main thread receives them too. If
/// the main thread does not react within 10 s, this thread carries out the stop: it asks the children to end, waits for them that
/// long, kills them, and ends the program.
///
/// # Errors
/// The thread can't be started.
pub fn stand_by(signals: UnixStream, reaper: Reaper, stop_timeout: Duration) -> io::Result<Obeyed> {
    signals.set_nonblocking(false)?;
    let obeyed = Obeyed::default();
    let seen = obeyed.clone();
    let thread = std::thread::Builder::new().name("last-resort".to_owned()).stack_size(64 << 10);
    thread.spawn(move || {
        if let Err(error) = take_stops() {
            log::error!("signals can't be received: {error}");
        }
        wait_for_signal(&signals);
        if signals.set_read_timeout(Some(POLL)).is_err() || came_true(&signals, OBEY_WITHIN, || seen.is_set()) {
            return;
        }
        end_all(&signals, &reaper, stop_timeout);
    })?;
    Ok(obeyed)
}

impl Obeyed {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn wait_for_signal(mut signals: &UnixStream) {
    while !matches!(signals.read(&mut [0; 64]), Ok(1..)) {
        // Neither an end nor an error occurs here, because the write end lives in the handler. If one did, this would not spin.
        std::thread::park_timeout(POLL);
    }
}

/// Whether the condition became true within so many pauses. A pause is a read of the pipe that gets no answer. Pauses are
/// counted, not timed, because a program that was frozen had no chance to make it true.
fn came_true(mut signals: &UnixStream, within: Duration, is_so: impl Fn() -> bool) -> bool {
    let mut left = within.as_millis() / POLL.as_millis();
    while !is_so() {
        if left == 0 {
            return false;
        }
        // Another signal interrupts a pause; that does not count as one.
        left -= u128::from(signals.read(&mut [0; 64]).is_err_and(|error| error.kind() != io::ErrorKind::Interrupted));
    }
    true
}

#[expect(clippy::disallowed_methods, reason = "the main thread hangs, so it can't end the program")]
fn end_all(signals: &UnixStream, reaper: &Reaper, stop_timeout: Duration) {
    log::error!(
        "the main thread has not reacted to a stop for {} s and hangs, most likely on a file system that does not \
         answer (a dead mount?); stopping etcd without it",
        OBEY_WITHIN.as_secs()
    );
    let tell = |signal| reaper.running().into_iter().for_each(|pid| _ = kill(pid, signal));
    let all_have_ended = || {
        reaper.reap();
        reaper.running().is_empty()
    };
    tell(Signal::SIGTERM);
    if !came_true(signals, stop_timeout, all_have_ended) {
        tell(Signal::SIGKILL);
    }
    std::process::exit(conclude(Err(Failure::new(
        Code::System,
        "stopped by the watchdog thread because the main thread hangs",
    ))));
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn pauses_are_counted_and_further_signals_are_none() {
        let (signals, mut more) = UnixStream::pair().unwrap();
        signals.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        assert!(!came_true(&signals, POLL * 3, || false));
        let seen = AtomicBool::new(false);
        let second_look = || seen.swap(true, Ordering::Relaxed);
        more.write_all(b"X").unwrap();
        assert!(came_true(&signals, POLL, second_look), "the signal took no pause");
    }
}
