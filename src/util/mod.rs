//! What every folder may use: time and chance, files, log lines, words, counts, exit codes.

pub mod backoff;
pub mod clock;
pub mod exit;
pub mod file;
pub mod log_once;
pub mod logger;
pub mod machine;
pub mod meter;
pub mod words;
