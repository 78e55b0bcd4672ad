//! For tests: the log's lines of this thread, and so of the test that runs on it.

use std::cell::RefCell;

use log::{LevelFilter, Log, Metadata, Record};

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Ear;

impl Log for Ear {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.level() <= LevelFilter::Info {
            LINES.with_borrow_mut(|lines| lines.push(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Listens from now on.
pub fn listen() {
    let _by_another_test = log::set_logger(&Ear);
    log::set_max_level(LevelFilter::Info);
    LINES.take();
}

/// How many lines held that text since then.
pub fn count(text: &str) -> usize {
    LINES.with_borrow(|lines| lines.iter().filter(|line| line.contains(text)).count())
}

/// All of them.
pub fn lines() -> Vec<String> {
    LINES.with_borrow(Clone::clone)
}
