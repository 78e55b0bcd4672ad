//! The commands' output: no other file prints. Text from outside can't move a terminal's cursor or start a line.
#![expect(clippy::print_stdout, reason = "the one place that prints")]

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::util::clock;
use crate::util::words;

/// One line, whatever the text contains.
pub(super) fn line(text: impl fmt::Display) {
    println!("{}", words::on_one_line(&text.to_string()));
}

/// Several lines; text from outside in them must be made safe by the caller.
pub(super) fn lines(text: &str) {
    text.lines().for_each(line);
}

/// A value, pretty-printed.
pub(super) fn json(value: &Value) {
    println!("{}", words::escaped(&format!("{value:#}")));
}

/// A value on one line.
pub(super) fn json_line(value: &Value) {
    println!("{}", words::escaped(&value.to_string()));
}

/// A command for a shell, unchanged.
pub(super) fn for_a_shell(command: &str) {
    println!("{command}");
}

/// Rows under a head, each column as wide as its widest word.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) {
    table_of(head, || rows.iter().cloned());
}

/// The same of rows that are made twice, for their widths and to be printed: a long table is never in memory as a whole.
pub(super) fn table_of<R: Iterator<Item = Vec<String>>>(head: &[&str], rows: impl Fn() -> R) {
    let mut widths: Vec<usize> = head.iter().map(|title| title.len()).collect();
    let fit = |cell: String| words::on_one_line(&cell).into_owned();
    for row in rows() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(fit(cell).chars().count());
        }
    }
    let padded = |cells: &mut dyn Iterator<Item = String>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", padded.join("  ").trim_end());
    };
    padded(&mut head.iter().map(|&title| title.to_owned()));
    for row in rows() {
        padded(&mut row.into_iter().map(fit));
    }
}

/// How often progress is shown.
const SHOW_EVERY: u64 = 200;

/// What is being done, on one line of a terminal's stderr: bytes, rate and time left. Where stderr is no terminal, nothing.
pub(super) struct Progress {
    what: &'static str,
    all: AtomicU64,
    began: Instant,
    /// Milliseconds after the beginning at which it was shown last; `None`: to nobody.
    shown: Option<AtomicU64>,
}

impl Progress {
    /// Of that many bytes; 0: how many is not known yet.
    pub(super) fn begin(what: &'static str, all: u64) -> Self {
        let shown = io::stderr().is_terminal().then(AtomicU64::default);
        Self { what, all: AtomicU64::new(all), began: clock::now(), shown }
    }

    /// So many are done, of so many.
    pub(super) fn of(&self, done: u64, all: u64) {
        self.all.store(all, Ordering::Relaxed);
        self.at(done);
    }

    /// So many are done.
    pub(super) fn at(&self, done: u64) {
        let Some(shown) = &self.shown else { return };
        let elapsed = clock::now() - self.began;
        let now = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(shown.load(Ordering::Relaxed)) >= SHOW_EVERY {
            shown.store(now, Ordering::Relaxed);
            let line = progress_line(self.what, done, self.all.load(Ordering::Relaxed), elapsed);
            let _nobody_may_read_it = write!(io::stderr(), "\r{line}\u{1b}[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.as_ref().is_some_and(|shown| shown.load(Ordering::Relaxed) > 0) {
            let _nobody_may_read_it = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}

fn progress_line(what: &str, done: u64, all: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let left = match all.checked_sub(done) {
        Some(left) if rate >= 1.0 => format!(", {:.0} s left", left as f64 / rate),
        _ => String::new(),
    };
    format!("{what} {} of {}, {}/s{left}", bytes(done), bytes(all), bytes(rate as u64))
}

/// A number of bytes for a person: four digits at most.
pub(super) fn bytes(number: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (number as f64, "B");
    for next in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" || value >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_has_bytes_rate_and_time_left() {
        let line = progress_line("storing", 10 << 20, 100 << 20, Duration::from_secs(2));
        assert_eq!(line, "storing 10.0 MiB of 100 MiB, 5.0 MiB/s, 18 s left");
        assert_eq!(progress_line("storing", 0, 5, Duration::ZERO), "storing 0 B of 5 B, 0 B/s");
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
    }
}
