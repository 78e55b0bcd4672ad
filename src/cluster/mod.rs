//! The pure core: what is known, what follows from it, and nothing that could touch the world.
//!
//! Only `std` and serde's derives are imported here (the founding messages and the ledger *are* the wire and disk format);
//! `tests/layers.rs` holds that. Time enters as durations inside the [`view::View`].

pub mod claim;
pub mod cleaning;
pub mod decide;
pub mod founding;
pub mod label;
pub mod leaving;
pub mod list;
pub mod lost;
pub mod owner;
pub mod paxos;
pub mod quorum;
pub mod step;
pub mod stopping;
pub mod supervision;
pub mod types;
pub mod view;
