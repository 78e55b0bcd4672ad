//! Taking snapshots of etcd, proving them, and the places where they are stored.

pub mod catalog;
pub mod envelope;
pub mod place;
#[cfg(test)]
mod random_faults;
pub mod restore;
pub mod salvage;
pub mod spool;
pub mod store;
pub mod take;
pub mod verify;
