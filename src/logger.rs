//! One line per record on stderr: time, level, text.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};

use crate::clock;

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && record.target().starts_with(env!("CARGO_CRATE_NAME")) {
            let line = format!("{} {:<5} etcd-muster: {}\n", clock::stamp(), record.level(), record.args());
            // A log nobody can read must not stop etcd.
            let _lost = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Logs from now on, down to that level.
pub fn start(level: LevelFilter) {
    log::set_max_level(level);
    let _only_once = log::set_logger(&Stderr);
}
