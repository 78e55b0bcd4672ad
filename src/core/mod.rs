//! The pure core: what is known, what follows from it, and nothing that could touch the world.
//!
//! Only `std` and serde's derives are imported here (the founding messages and the ledger *are* the wire and disk format);
//! `tests/layers.rs` holds that. Time enters as durations inside the [`view::View`].

pub mod bootstrap;
pub mod claim;
pub mod decide;
pub mod departure;
pub mod evidence;
pub mod holds;
pub mod initial_list;
pub mod label;
mod messages;
pub mod owner;
pub mod paxos;
pub mod quorum;
pub mod quorum_loss;
pub mod removal;
pub mod restart;
pub mod step;
pub mod stopping;
pub mod types;
pub mod view;
