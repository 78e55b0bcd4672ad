//! Snapshots: how they are named, what their manifests hold, when one is due, and which may be deleted.
//!
//! A snapshot consists of two objects: its data, and a manifest that is written after the data was checked at its place. **A snapshot
//! exists only if its manifest does.**

pub mod manifest;
pub mod name;
pub mod retention;
pub mod schedule;
