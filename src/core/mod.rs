//! The pure core: what is known and what follows from it, without any effect.
//!
//! It imports only `std` and serde's derives (the bootstrap messages and the ledger *are* the wire and disk format);
//! `tests/layers.rs` enforces that. Time enters as durations in the [`view::View`].

pub mod bootstrap;
pub mod claim;
pub mod decide;
pub mod departure;
pub mod evidence;
pub mod hashes;
pub mod holds;
pub mod initial_list;
pub mod label;
mod messages;
pub mod owner;
pub mod paxos;
pub mod quorum;
pub mod quorum_loss;
pub mod recovery;
pub mod release;
pub mod removal;
pub mod restart;
pub mod seed;
pub mod set_aside;
pub mod size;
pub mod snapshot;
pub mod step;
pub mod stopping;
pub mod types;
pub mod upgrade;
pub mod view;
