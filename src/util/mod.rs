//! What every folder may use: time and randomness, files, durable writes, log lines, safe text, counts, exit codes.

pub mod backoff;
pub mod clock;
pub mod durable;
pub mod exit;
pub mod file;
pub mod file_stream;
pub mod lock;
pub mod log_once;
pub mod logger;
pub mod machine;
pub mod meter;
#[cfg(test)]
pub mod overheard;
#[cfg(test)]
pub mod scratch;
pub mod words;
