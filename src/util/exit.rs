//! The exit codes, and the one place that turns an error into a line and a code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done, or a requested stop that went well |
//! | 1 | `health`: not healthy; `status`: not ready |
//! | 64 | the command line is wrong |
//! | 65 | our own state file is damaged, or may not be read |
//! | 69 | EC2, the metadata service, etcd or the supervisor did not answer a command that needs it |
//! | 71 | the system refused something that is required |
//! | 72 | etcd is missing or can't be run |
//! | 73 | the data directory may not be read or written |
//! | 77 | AWS refused the request: credentials or policy |
//! | 78 | a setting is wrong, ours or etcd's |
//! | 137 | etcd had to be killed at a stop |
//! | other | etcd's own code, or 128 + the signal that ended it |
//!
//! 64 to 78 are from sysexits(3); units list in `RestartPreventExitStatus` those that only an operator can fix. What can pass
//! (a full disk, a limit, a disk's temporary error) ends nothing: it is a [`Trouble`] that is waited out.

use std::path::Path;
use std::{fmt, io};

use crate::util::file;
use crate::util::logger;
use crate::util::words;

/// Our own exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Code {
    Unhealthy = 1,
    Usage = 64,
    StateUnreadable = 65,
    Unavailable = 69,
    System = 71,
    EtcdMissing = 72,
    DataDirUnwritable = 73,
    Denied = 77,
    Config = 78,
}

/// Why the program ends: an exit code and a message, mostly of one line.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    lines: Vec<String>,
}

impl Failure {
    /// A failure with that code; the error's text is its line.
    pub fn new(code: Code, error: impl fmt::Display) -> Self {
        Self::of_lines(code, [error.to_string()])
    }

    /// A failure with several lines. Text from outside within a line stays in that line.
    pub fn of_lines(code: Code, lines: impl IntoIterator<Item = String>) -> Self {
        Self { code, lines: lines.into_iter().map(|line| words::on_one_line(&line).into_owned()).collect() }
    }

    pub fn message(&self) -> String {
        self.lines.join("\n")
    }

    /// The same, with these lines appended.
    #[must_use]
    pub fn and(self, more: impl IntoIterator<Item = String>) -> Self {
        let code = self.code;
        Self::of_lines(code, self.lines.into_iter().chain(more))
    }
}

/// A failure, unless it can be waited out.
#[derive(Debug)]
pub struct Trouble {
    pub failure: Failure,
    /// It passes by itself, or once an operator has made room: after an exit nothing would start us again.
    pub may_pass: bool,
}

impl Trouble {
    /// That program can't be run.
    pub fn of_program(program: &Path, cause: &io::Error) -> Self {
        let may_pass = file::may_pass(cause);
        let way_out = Some(cause).filter(|_| may_pass).and_then(|cause| file::way_out(cause, program));
        let way_out = way_out.map_or_else(String::new, |way_out| format!("; {way_out}"));
        let line = format!("{} can't be run: {cause}{way_out}", program.display());
        Self { failure: Failure::new(Code::EtcdMissing, line), may_pass }
    }
}

/// Prints the message, and returns the exit code.
pub fn conclude(outcome: Result<i32, Failure>) -> i32 {
    let code = match outcome {
        Ok(code) => code,
        Err(failure) => {
            logger::last_words(&failure.message());
            failure.code as i32
        }
    };
    logger::flush();
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_words_stay_in_their_line() {
        let failure = Failure::new(Code::Unavailable, "EC2: x\netcd-muster: all is well\u{9b}31m");
        assert_eq!(failure.lines, ["EC2: x etcd-muster: all is well?31m"]);
        assert_eq!(failure.and(["a\u{2028}b".to_owned()]).lines.len(), 2);
    }
}
