//! One line per record on stderr: time, level, text; or the same as JSON in the shape of etcd's own lines (zap's).

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::Serialize;

use crate::clock;
use crate::words;

/// How a line is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Text,
    Json,
}

static AS_JSON: AtomicBool = AtomicBool::new(false);

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) || !record.target().starts_with(env!("CARGO_CRATE_NAME")) {
            return;
        }
        let message = record.args().to_string();
        write(&match AS_JSON.load(Ordering::Relaxed) {
            true => as_json(&clock::stamp(), record.level(), record.file().zip(record.line()), &message),
            false => as_text(&clock::stamp(), record.level(), &message),
        });
    }

    fn flush(&self) {}
}

/// Logs from now on, down to that level.
pub fn start(level: LevelFilter, format: Format) {
    write_as(format);
    log::set_max_level(level);
    let _only_once = log::set_logger(&Stderr);
}

/// What is written from now on has this format. In JSON a panic is a line of the log too.
pub fn write_as(format: Format) {
    AS_JSON.store(format == Format::Json, Ordering::Relaxed);
    if format == Format::Json {
        std::panic::set_hook(Box::new(|panic| last_words(&panic.to_string())));
    }
}

/// Why the program ends, whatever the level: a bare line, or one of the log where that is JSON.
pub fn last_words(message: &str) {
    write(&match AS_JSON.load(Ordering::Relaxed) {
        true => as_json(&clock::stamp(), Level::Error, None, message),
        false => message.lines().map(|line| format!("etcd-muster: {}\n", words::on_one_line(line))).collect(),
    });
}

fn write(text: &str) {
    // A log nobody can read must not stop etcd.
    let _lost = std::io::stderr().write_all(text.as_bytes());
}

/// One line, whatever a peer's words in it are.
fn as_text(ts: &str, level: Level, msg: &str) -> String {
    format!("{ts} {level:<5} etcd-muster: {}\n", words::on_one_line(msg))
}

/// In zap's order and with its names (zap, `NewProductionEncoderConfig` as etcd sets it).
fn as_json(ts: &str, level: Level, place: Option<(&str, u32)>, msg: &str) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        level: &'a str,
        ts: &'a str,
        logger: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        caller: Option<String>,
        msg: &'a str,
    }
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        // zap knows nothing finer.
        Level::Debug | Level::Trace => "debug",
    };
    let caller = place.map(|(file, line)| format!("{}:{line}", file.strip_prefix("src/").unwrap_or(file)));
    let line = serde_json::to_string(&Line { level, ts, logger: "etcd-muster", caller, msg });
    line.map_or_else(|_| String::new(), |line| words::escaped(&line).into_owned() + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_says_makes_no_line_of_ours() {
        let line = as_text("T", Level::Warn, "etcd says: a\nT ERROR etcd-muster: b\u{1b}[2J");
        assert_eq!(line, "T WARN  etcd-muster: etcd says: a T ERROR etcd-muster: b?[2J\n");
    }

    #[test]
    fn a_json_line_has_the_shape_of_etcds() {
        let line = as_json("2026-11-22T21:10:05.667Z", Level::Warn, Some(("src/daemon/mod.rs", 7)), "a \"b\"\nc");
        assert_eq!(
            line,
            "{\"level\":\"warn\",\"ts\":\"2026-11-22T21:10:05.667Z\",\"logger\":\"etcd-muster\",\
             \"caller\":\"daemon/mod.rs:7\",\"msg\":\"a \\\"b\\\"\\nc\"}\n"
        );
        assert!(as_json("", Level::Trace, None, "").starts_with("{\"level\":\"debug\""));
        assert!(
            as_json("", Level::Warn, None, "\u{9b}31m\u{202e}").contains(r"\u009b31m\u202e"),
            "to JSON only C0 is control"
        );
    }
}
