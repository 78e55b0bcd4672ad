//! The state that must never be lost, on disk.

pub mod store;
