//! One line per record on stderr: time, level, text; or the same as JSON in the shape of etcd's own lines (zap's).
//!
//! Once [`detach`]ed, lines (etcd's as well) wait in a queue for the only thread that writes: a log driver that blocks, or a
//! stopped terminal, blocks nothing else. Lines that do not fit are dropped, counted, and reported as soon as there is room
//! again.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use crate::util::clock;
use crate::util::lock::lock;
use crate::util::words;

/// The format of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Text,
    Json,
}

static AS_JSON: AtomicBool = AtomicBool::new(false);
/// `None`: each caller writes its own lines, and waits for that.
static QUEUE: OnceLock<Queue> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// The limit of the queue. At debug level an idle etcd takes a minute and a half to write that much (64 KiB in 6 s, 3.5.30).
const MOST_BYTES: usize = 1 << 20;
/// The same for short lines, each of which costs more than its bytes.
const MOST_LINES: usize = 8192;
/// How long the rest of the queue is written at the end: an unread log must not delay a stop.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

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
        let line = match AS_JSON.load(Ordering::Relaxed) {
            true => {
                let mut fields = Fields::default();
                // Gathering them can't fail.
                let _always_whole = record.key_values().visit(&mut fields);
                as_json(&clock::stamp(), record.level(), record.file().zip(record.line()), &message, &fields.0)
            }
            false => as_text(&clock::stamp(), record.level(), &message),
        };
        write(line.as_bytes(), Room::Needed);
    }

    fn flush(&self) {}
}

/// Logs from now on, down to that level.
pub fn start(level: LevelFilter, format: Format) {
    write_as(format);
    log::set_max_level(level);
    let _only_once = log::set_logger(&Stderr);
}

/// Sets the format from now on. In JSON a panic becomes a line of the log, too.
pub fn write_as(format: Format) {
    AS_JSON.store(format == Format::Json, Ordering::Relaxed);
    if format == Format::Json {
        take_panics();
    }
}

/// From now on a separate thread writes, and nothing else waits for stderr. Call after blocking the signals that this thread
/// must not receive.
///
/// # Errors
/// The thread can't be started.
pub fn detach() -> io::Result<()> {
    // The default hook would write directly.
    take_panics();
    let queue = QUEUE.get_or_init(Queue::default);
    std::thread::Builder::new().name("log".to_owned()).stack_size(64 << 10).spawn(|| queue.write_all()).map(|_| ())
}

/// Lines dropped so far because the log was not read.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// A line of etcd's, unchanged.
pub fn pass_on(line: &[u8]) {
    write(line, Room::Needed);
}

/// Why the program ends, at any level: a plain line, or a line of the log if that is JSON.
pub fn last_words(message: &str) {
    let line = match AS_JSON.load(Ordering::Relaxed) {
        true => as_json(&clock::stamp(), Level::Error, None, message, &BTreeMap::new()),
        false => message.lines().map(|line| format!("etcd-muster: {}\n", words::on_one_line(line))).collect(),
    };
    write(line.as_bytes(), Room::NotNeeded);
}

/// Waits a moment until the queue is written.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        let waits = |backlog: &mut Backlog| backlog.is_writing || !backlog.lines.is_empty();
        let _either_way = queue.moved.wait_timeout_while(queue.backlog(), FLUSH_WITHIN, waits);
    }
}

fn take_panics() {
    std::panic::set_hook(Box::new(|panic| last_words(&panic.to_string())));
}

/// Whether a line is dropped where the queue is full.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Needed,
    NotNeeded,
}

fn write(line: &[u8], room: Room) {
    let Some(queue) = QUEUE.get() else { return write_whole(line) };
    if queue.backlog().take(line, room) {
        queue.moved.notify_all();
    } else {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// However little is accepted at a time: a process that shares stderr may have made it non-blocking.
fn write_whole(mut bytes: &[u8]) {
    let stderr = io::stderr();
    while !bytes.is_empty() {
        match stderr.lock().write(bytes) {
            Ok(written @ 1..) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let _either_way = poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            // A log that can't be written must not stop etcd.
            Ok(0) | Err(_) => return,
        }
    }
}

/// Lines on their way to stderr.
#[derive(Default)]
struct Queue {
    backlog: Mutex<Backlog>,
    /// A line was added or removed.
    moved: Condvar,
}

impl Queue {
    /// Writes one line after the other, for ever.
    fn write_all(&self) {
        let mut backlog = self.backlog();
        loop {
            backlog.is_writing = false;
            self.moved.notify_all();
            backlog = self
                .moved
                .wait_while(backlog, |backlog| backlog.lines.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            let Some(line) = backlog.next() else { continue };
            backlog.is_writing = true;
            drop(backlog);
            write_whole(&line);
            backlog = self.backlog();
            if let Some(dropped) = backlog.relieved() {
                backlog.take(missing(dropped).as_bytes(), Room::NotNeeded);
            }
        }
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        lock(&self.backlog)
    }
}

#[derive(Default)]
struct Backlog {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// Set since lines were dropped. Until half of the queue has been written no other line is accepted: each would cause its
    /// own gap.
    dropped: u64,
    is_writing: bool,
}

impl Backlog {
    /// False: it was dropped.
    fn take(&mut self, line: &[u8], room: Room) -> bool {
        let is_full = self.bytes + line.len() > MOST_BYTES || self.lines.len() == MOST_LINES;
        if (is_full || self.dropped > 0) && room == Room::Needed {
            self.dropped += 1;
            return false;
        }
        self.bytes += line.len();
        self.lines.push_back(line.into());
        true
    }

    fn next(&mut self) -> Option<Box<[u8]>> {
        let line = self.lines.pop_front()?;
        self.bytes -= line.len();
        if self.lines.is_empty() {
            // Frees the memory that a flood needed.
            self.lines.shrink_to(64);
        }
        Some(line)
    }

    /// How many lines are missing here, once there is room again.
    fn relieved(&mut self) -> Option<u64> {
        let has_room = self.bytes <= MOST_BYTES / 2 && self.lines.len() <= MOST_LINES / 2;
        (self.dropped > 0 && has_room).then(|| std::mem::take(&mut self.dropped))
    }
}

fn missing(dropped: u64) -> String {
    let message = format!("{dropped} lines are missing here, etcd's included: stderr was not read fast enough");
    match AS_JSON.load(Ordering::Relaxed) {
        true => as_json(&clock::stamp(), Level::Warn, None, &message, &BTreeMap::new()),
        false => as_text(&clock::stamp(), Level::Warn, &message),
    }
}

/// One line, whatever text from a peer is in it.
fn as_text(ts: &str, level: Level, msg: &str) -> String {
    format!("{ts} {level:<5} etcd-muster: {}\n", words::on_one_line(msg))
}

/// What a line says in fields of its own, beside its text: `step`, `reason`, `member`, `cluster`, `pid`.
#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.insert(key.to_string(), value.to_string());
        Ok(())
    }
}

/// In zap's order and with its names (zap, `NewProductionEncoderConfig` as etcd sets it); fields follow the message, as zap's do.
fn as_json(ts: &str, level: Level, place: Option<(&str, u32)>, msg: &str, fields: &BTreeMap<String, String>) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        level: &'a str,
        ts: &'a str,
        logger: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        caller: Option<String>,
        msg: &'a str,
        #[serde(flatten)]
        fields: &'a BTreeMap<String, String>,
    }
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        // zap has no finer level.
        Level::Debug | Level::Trace => "debug",
    };
    let caller = place.map(|(file, line)| format!("{}:{line}", file.strip_prefix("src/").unwrap_or(file)));
    let line = serde_json::to_string(&Line { level, ts, logger: "etcd-muster", caller, msg, fields });
    line.map_or_else(|_| String::new(), |line| words::escaped(&line).into_owned() + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_beside_the_message() {
        let pairs = [("member", "8e9e05c52164694d"), ("step", "hold")];
        let mut fields = Fields::default();
        log::kv::Source::visit(&pairs, &mut fields).unwrap();
        let line = as_json("T", Level::Info, None, "m", &fields.0);
        assert!(line.trim_end().ends_with(r#""msg":"m","member":"8e9e05c52164694d","step":"hold"}"#), "{line}");
    }

    #[test]
    fn what_a_peer_says_makes_no_line_of_ours() {
        let line = as_text("T", Level::Warn, "etcd says: a\nT ERROR etcd-muster: b\u{1b}[2J");
        assert_eq!(line, "T WARN  etcd-muster: etcd says: a T ERROR etcd-muster: b?[2J\n");
    }

    #[test]
    fn what_does_not_fit_is_dropped_until_half_of_it_is_read_and_then_told_once() {
        for (line, fit) in [(vec![b'x'; 1024], 1024), (b"\n".to_vec(), MOST_LINES)] {
            let mut backlog = Backlog::default();
            assert_eq!((0..2 * fit).filter(|_| backlog.take(&line, Room::Needed)).count(), fit);
            assert!(backlog.take(b"why it ends", Room::NotNeeded), "last words are never dropped");
            for _ in 0..fit / 2 {
                assert_eq!(backlog.relieved(), None);
                backlog.next();
                assert!(backlog.dropped > 0);
            }
            backlog.next();
            assert_eq!(backlog.relieved(), Some(fit as u64));
            assert!(backlog.relieved().is_none() && backlog.take(&line, Room::Needed));
            while backlog.next().is_some() {}
            assert!(backlog.bytes == 0 && backlog.lines.capacity() <= 64, "a flood leaves nothing behind");
        }
    }

    #[test]
    fn a_json_line_has_the_shape_of_etcds() {
        let line = as_json(
            "2026-11-22T21:10:05.667Z",
            Level::Warn,
            Some(("src/daemon/mod.rs", 7)),
            "a \"b\"\nc",
            &BTreeMap::new(),
        );
        assert_eq!(
            line,
            "{\"level\":\"warn\",\"ts\":\"2026-11-22T21:10:05.667Z\",\"logger\":\"etcd-muster\",\
             \"caller\":\"daemon/mod.rs:7\",\"msg\":\"a \\\"b\\\"\\nc\"}\n"
        );
        assert!(as_json("", Level::Trace, None, "", &BTreeMap::new()).starts_with("{\"level\":\"debug\""));
        assert!(
            as_json("", Level::Warn, None, "\u{9b}31m\u{202e}", &BTreeMap::new()).contains(r"\u009b31m\u202e"),
            "to JSON only C0 is control"
        );
    }
}
