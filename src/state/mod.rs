//! What must never be forgotten, on disk.

pub mod store;
