//! The duties of PID 1: signals, children, orphans.

pub mod last_resort;
pub mod notify;
pub mod reaper;
pub mod signals;
pub mod spawn;
