//! A stop that nothing holds up: the main thread obeys no signal while it hangs in the kernel, over a file system that answers never.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::reaper::Reaper;
use super::signals::take_stops;
use crate::util::exit::{Code, Failure, conclude};

/// For the main thread to take up a stop, and to ask the child to end: leadership is handed over first, which is bounded by less.
const OBEY_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// Whether the main thread has done its part of a stop: what is left waits for nothing but the child.
#[derive(Clone, Debug, Default)]
pub struct Obeyed(Arc<AtomicBool>);

impl Obeyed {
    /// The child is asked to end, or there is none.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// From now on a thread of its own takes the signals that ask for a stop; they come through this pipe, and to the main thread. It carries
/// out a stop that the main thread doesn't take up within 10 s: the children are asked to end, are waited for so long, and are killed; then
/// the program ends.
///
/// # Errors
/// A thread that can't be had.
pub fn stand_by(signals: UnixStream, reaper: Reaper, stop_timeout: Duration) -> io::Result<Obeyed> {
    signals.set_nonblocking(false)?;
    let obeyed = Obeyed::default();
    let seen = obeyed.clone();
    let thread = std::thread::Builder::new().name("last-resort".to_owned()).stack_size(64 << 10);
    thread.spawn(move || {
        if let Err(error) = take_stops() {
            log::error!("signals can't be had: {error}");
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
        // Neither an end nor an error is met here: the write end lives in the handler. If one were, it would not spin.
        std::thread::park_timeout(POLL);
    }
}

/// Whether that came true within so many pauses. A pause is a read of the pipe that nothing answers; they are counted, not timed, for a
/// program that was frozen meanwhile had no chance to make it true.
fn came_true(mut signals: &UnixStream, within: Duration, is_so: impl Fn() -> bool) -> bool {
    let mut left = within.as_millis() / POLL.as_millis();
    while !is_so() {
        if left == 0 {
            return false;
        }
        // Another signal interrupts a pause; that is none.
        left -= u128::from(signals.read(&mut [0; 64]).is_err_and(|error| error.kind() != io::ErrorKind::Interrupted));
    }
    true
}

#[expect(clippy::disallowed_methods, reason = "main can't end the program: it hangs")]
fn end_all(signals: &UnixStream, reaper: &Reaper, stop_timeout: Duration) {
    log::error!(
        "the main thread has not taken up a stop for {} s: it hangs, most likely over a file system that doesn't answer (a dead \
         mount?); its child is told to end without it",
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
        "stopped by the last resort, for the main thread hangs",
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
