//! What every folder may use: time and chance, files, log lines, words, counts, exit codes.

pub mod clock;
pub mod exit;
pub mod file;
pub mod logger;
pub mod machine;
pub mod meter;
pub mod words;
