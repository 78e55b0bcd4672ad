//! Certificates and keys: what is wrong with those in files, and how they are issued.
//!
//! webpki verifies chains, names and usages: the same code that verifies a peer. Where etcd's own verifier, Go's crypto/x509,
//! is stricter, its rule is checked here, so that what passes here works there, too.

pub mod certificate;
mod der;
pub mod fault;
pub mod files;
pub mod issuer;
pub mod minted;
pub(crate) mod pem;

pub use certificate::Certificate;
pub use fault::{Fault, Flaw};
pub use files::{Ca, Pair, Want, leaf_in};
pub use issuer::{Issuer, Leaf, ephemeral};
pub use minted::{LeafStatus, Minted, renew_at};

#[cfg(test)]
mod tests;
